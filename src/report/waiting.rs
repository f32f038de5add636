//! What is waited for just now, so that no wait is a silent one: a name, a connection, an answer.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::ticker::Ticker;
use super::{Sink, escape, format, lock};
use crate::limits::WAIT_SHOWN_AFTER;

/// What is waited for. Hosts are as the origin names them, with the port where that matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaitedFor {
    /// The addresses of a host.
    Addresses(String),
    /// A host to accept a connection.
    Connection(String),
    /// The end of a TLS handshake with a host.
    Handshake(String),
    /// The head of a host's answer.
    Answer(String),
    /// Bytes of a body.
    Bytes(String),
    /// The end of a pause before another attempt.
    Pause(Instant),
    /// The moment from which a registry may be asked again.
    Silence {
        /// The registry.
        registry: String,
        /// The moment.
        until: Instant,
    },
}

/// Where it is written down what is waited for. Clones write to the same place; the last one counts.
#[derive(Debug, Clone, Default)]
pub struct Waiting {
    now: Arc<Mutex<Option<Begun>>>,
    /// What it is for, if that is not the object itself.
    purpose: Option<&'static str>,
}

#[derive(Debug)]
struct Begun {
    what: WaitedFor,
    purpose: Option<&'static str>,
    since: Instant,
    /// How many bytes were here when it was looked at last: more of them end the wait.
    bytes: Option<u64>,
}

impl Waiting {
    /// The same, for something that is needed first: `a token`.
    pub fn on_behalf_of(&self, purpose: &'static str) -> Waiting {
        Waiting { purpose: Some(purpose), ..self.clone() }
    }

    /// From now on this is waited for.
    pub fn begin(&self, what: WaitedFor) {
        let begun = Begun { what, purpose: self.purpose, since: Instant::now(), bytes: None };
        *lock(&self.now) = Some(begun);
    }

    /// What is waited for, in words, if that takes longer than [`WAIT_SHOWN_AFTER`], and how long it
    /// has taken. `bytes` are here by now.
    pub(super) fn observe(&self, bytes: u64, now: Instant) -> Option<(Duration, String)> {
        let mut state = lock(&self.now);
        let begun = state.as_mut()?;
        match begun.bytes.replace(bytes) {
            Some(before) if before != bytes => begun.since = now,
            // Whether bytes come is known by the next look.
            None if matches!(begun.what, WaitedFor::Bytes(_)) => return None,
            _ => {}
        }
        let elapsed = now.saturating_duration_since(begun.since);
        (elapsed >= WAIT_SHOWN_AFTER).then(|| (elapsed, begun.text(elapsed, now)))
    }
}

impl Begun {
    fn text(&self, elapsed: Duration, now: Instant) -> String {
        let left = |until: Instant| format::countdown(until.saturating_duration_since(now));
        let text = match &self.what {
            WaitedFor::Pause(until) => return format!("trying again in {}", left(*until)),
            WaitedFor::Silence { registry, until } => {
                let text = format!("{registry} asks for silence: {} left", left(*until));
                return escape(&text).into_owned();
            }
            WaitedFor::Addresses(host) => format!("the address of {host}"),
            WaitedFor::Connection(host) => format!("{host} to accept a connection"),
            WaitedFor::Handshake(host) => format!("the TLS handshake with {host}"),
            WaitedFor::Answer(host) => format!("{host} to answer"),
            WaitedFor::Bytes(host) => format!("bytes from {host}"),
        };
        let purpose = self.purpose.map_or(String::new(), |purpose| format!("{purpose}: "));
        // Whole seconds: it is drawn often.
        let elapsed = format::duration(Duration::from_secs(elapsed.as_secs()));
        format!("waiting ({elapsed}) for {purpose}{}", escape(&text))
    }
}

/// Shows what is waited for until it is dropped, while there is no [`super::PullProgress`] yet.
pub struct WaitingShown {
    waiting: Waiting,
    sink: Option<Arc<dyn Sink>>,
    ticker: Option<Ticker>,
}

impl WaitingShown {
    /// Shows it on `sink`, if there is one, behind `label`.
    pub(super) fn start(sink: Option<Arc<dyn Sink>>, label: &str) -> WaitingShown {
        let waiting = Waiting::default();
        let ticker = sink.as_ref().map(|sink| {
            let (sink, waiting) = (Arc::clone(sink), waiting.clone());
            let label = escape(label).into_owned();
            Ticker::start(sink.interval(), move || {
                let text = waiting.observe(0, Instant::now());
                let text = text.map(|(_, text)| format!("{label}: {text}"));
                sink.waiting(text.as_deref());
            })
        });
        WaitingShown { waiting, sink, ticker }
    }

    /// Where it is written down.
    pub fn handle(&self) -> Waiting {
        self.waiting.clone()
    }
}

impl Drop for WaitingShown {
    fn drop(&mut self) {
        // The thread first: nothing may be drawn after the end.
        self.ticker = None;
        if let Some(sink) = &self.sink {
            sink.waiting(None);
        }
    }
}

impl fmt::Debug for WaitingShown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitingShown").field("waiting", &self.waiting).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_told_once_it_is_long_and_ends_with_the_next_byte() {
        let waiting = Waiting::default();
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        assert_eq!(waiting.observe(0, at(60)), None);
        waiting.begin(WaitedFor::Answer("registry.test".into()));
        assert_eq!(waiting.observe(7, start), None);
        let text = |seconds: u64, bytes: u64| {
            waiting.observe(bytes, at(seconds) + Duration::from_millis(900)).map(|(_, text)| text)
        };
        assert_eq!(text(5, 7).unwrap(), "waiting (5 s) for registry.test to answer");
        assert_eq!(text(6, 8), None);
        assert_eq!(text(12, 8).unwrap(), "waiting (6 s) for registry.test to answer");
        waiting
            .on_behalf_of("a token")
            .begin(WaitedFor::Connection("auth.test:443\u{1b}[2J".into()));
        assert_eq!(
            text(9, 8).unwrap(),
            r"waiting (9 s) for a token: auth.test:443\u{1b}[2J to accept a connection"
        );
        waiting.begin(WaitedFor::Silence { registry: "r.test".into(), until: at(20) });
        assert_eq!(text(9, 8).unwrap(), "r.test asks for silence: 11 s left");
        waiting.begin(WaitedFor::Pause(at(20)));
        assert_eq!(text(9, 8).unwrap(), "trying again in 11 s");
    }
}
