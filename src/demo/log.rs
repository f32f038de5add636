//! What the registry was asked, for tests to look at and for `ringpull demo` to show.

use std::fmt;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::lock;
use super::script::{Action, Kind};

/// Which listener of a registry was asked. Each is an origin of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Door {
    /// The registry.
    Registry,
    /// The storage that blobs are redirected to.
    Storage,
    /// The token service, if it has a port of its own.
    Token,
}

/// One request and what became of it. It enters the log once its head was read, before the answer.
#[derive(Clone, PartialEq)]
pub struct RequestLine {
    /// When its head had been read, since the registry was started.
    pub at: Duration,
    /// When its answer ended, since the registry was started; `None` while it is being answered.
    pub ended: Option<Duration>,
    /// The connection, numbered from 0 in the order of acceptance over all listeners.
    pub connection: u64,
    /// The listener.
    pub door: Door,
    /// What it was for.
    pub kind: Kind,
    /// Its method.
    pub method: String,
    /// Its target, as it was sent.
    pub target: String,
    /// First and last byte of the range, if a blob exists, the range can be satisfied and is
    /// well formed; open ends resolved.
    pub range: Option<(u64, u64)>,
    /// Its header fields, as they were sent. `Debug` hides the values of those that are secret.
    pub headers: Vec<(String, String)>,
    /// Status of the answer; `None` for raw bytes.
    pub status: Option<u16>,
    /// Bytes sent after the head of the answer, framing of chunks included; for raw bytes, all. Of
    /// an answer under way, those of the steps completed.
    pub body_sent: u64,
    /// The fault that was applied.
    pub fault: Action,
}

impl RequestLine {
    /// The first field of this name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let field = self.headers.iter().find(|(given, _)| given.eq_ignore_ascii_case(name));
        field.map(|(_, value)| value.as_str())
    }

    /// Whether the request carried credentials of any kind.
    pub fn authorized(&self) -> bool {
        self.headers.iter().any(|(name, _)| is_secret(name))
    }
}

/// Whether values of this field are not to be shown.
fn is_secret(name: &str) -> bool {
    ["authorization", "proxy-authorization", "cookie"]
        .iter()
        .any(|secret| name.eq_ignore_ascii_case(secret))
}

impl fmt::Debug for RequestLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |(name, value): &(String, String)| {
            let value = if is_secret(name) { "(hidden)" } else { value };
            format!("{name}: {value}")
        };
        f.debug_struct("RequestLine")
            .field("at", &self.at)
            .field("ended", &self.ended)
            .field("connection", &self.connection)
            .field("door", &self.door)
            .field("kind", &self.kind)
            .field("method", &self.method)
            .field("target", &self.target)
            .field("range", &self.range)
            .field("headers", &self.headers.iter().map(shown).collect::<Vec<_>>())
            .field("status", &self.status)
            .field("body_sent", &self.body_sent)
            .field("fault", &self.fault)
            .finish()
    }
}

/// `0.123 s  #4  GET /v2/demo/blobs/sha256:0f…  bytes 100-199  206, 100 bytes`
impl fmt::Display for RequestLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Room for a digest after a name of usual length; the rest of a target is of no interest.
        const TARGET_SHOWN_MAX: usize = 120;
        let seconds = self.at.as_secs_f64();
        let method: String = self.method.escape_debug().take(16).collect();
        let target: String = self.target.escape_debug().take(TARGET_SHOWN_MAX).collect();
        write!(f, "{seconds:.3} s  #{}  {method} {target}", self.connection)?;
        if let Some((first, last)) = self.range {
            write!(f, "  bytes {first}-{last}")?;
        }
        match self.status {
            Some(status) => write!(f, "  {status}, {} bytes", self.body_sent)?,
            None => write!(f, "  {} raw bytes", self.body_sent)?,
        }
        if self.ended.is_none() {
            f.write_str(" so far")?;
        }
        Ok(())
    }
}

/// The lines so far.
pub(super) struct Log {
    started: Instant,
    lines: Mutex<Vec<RequestLine>>,
    changed: Condvar,
}

impl Log {
    pub(super) fn new() -> Log {
        Log { started: Instant::now(), lines: Mutex::default(), changed: Condvar::new() }
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    pub(super) fn lines(&self) -> Vec<RequestLine> {
        lock(&self.lines).clone()
    }

    /// Enters a line. What it returns names the line to [`Log::update`].
    pub(super) fn enter(&self, line: RequestLine) -> usize {
        let mut lines = lock(&self.lines);
        lines.push(line);
        self.changed.notify_all();
        lines.len() - 1
    }

    pub(super) fn update(&self, line: usize, update: impl FnOnce(&mut RequestLine)) {
        if let Some(line) = lock(&self.lines).get_mut(line) {
            update(line);
            self.changed.notify_all();
        }
    }

    /// Waits until the lines are as wanted; false when `timeout` passed first.
    pub(super) fn wait_until(
        &self,
        timeout: Duration,
        wanted: impl Fn(&[RequestLine]) -> bool,
    ) -> bool {
        let waiting = |lines: &mut Vec<RequestLine>| !wanted(lines);
        let result = self.changed.wait_timeout_while(lock(&self.lines), timeout, waiting);
        !result.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> RequestLine {
        RequestLine {
            at: Duration::from_millis(123),
            ended: None,
            connection: 4,
            door: Door::Registry,
            kind: Kind::Blob,
            method: "GET".into(),
            target: "/v2/demo/\u{1b}[31m".into(),
            range: Some((100, 199)),
            headers: vec![("authorization".into(), "Bearer canary".into())],
            status: Some(206),
            body_sent: 100,
            fault: Action::None,
        }
    }

    #[test]
    fn a_line_shows_neither_secrets_nor_escape_codes() {
        let debug = format!("{:?}", line());
        assert!(debug.contains("authorization: (hidden)") && !debug.contains("canary"), "{debug}");
        let text = line().to_string();
        assert_eq!(
            text,
            "0.123 s  #4  GET /v2/demo/\\u{1b}[31m  bytes 100-199  206, 100 bytes so far"
        );
        assert!(line().authorized());
        assert_eq!(line().header("Authorization"), Some("Bearer canary"));
    }
}
