//! A pull at one moment, and the words for it that all styles share.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::format;

/// What is happening to a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// Its turn has not come.
    Waiting,
    /// Bytes are on their way.
    Downloading,
    /// The same, of a blob of which an earlier process has left some.
    Resuming,
    /// Another process is fetching it.
    Held {
        /// Its id, if it is known.
        process: Option<u32>,
    },
    /// A pause before another attempt.
    Retrying {
        /// Number of the attempt to come.
        attempt: u32,
        /// The number of attempts allowed.
        attempts: u32,
        /// When it starts.
        at: Instant,
        /// What the last attempt failed with, escaped.
        why: Arc<str>,
    },
    /// All bytes are here and are being checked.
    Verifying,
    /// It was here before; nothing of it counts as work.
    Exists,
    /// It is here.
    Complete,
    /// It was given up.
    Failed,
}

impl State {
    /// Whether nothing can follow.
    pub(super) fn is_final(&self) -> bool {
        matches!(self, State::Exists | State::Complete | State::Failed)
    }

    /// Whether this process is at work on it.
    pub(super) fn is_busy(&self) -> bool {
        matches!(self, State::Downloading | State::Resuming | State::Verifying)
    }

    /// Whether the layer is whole.
    pub(super) fn is_here(&self) -> bool {
        matches!(self, State::Exists | State::Complete)
    }

    /// Docker's words, as of the instant `now`.
    pub(super) fn text(&self, now: Instant) -> String {
        match self {
            State::Waiting => "Waiting".to_owned(),
            State::Downloading => "Downloading".to_owned(),
            State::Resuming => "Resuming".to_owned(),
            State::Held { process: Some(process) } => {
                format!("Waiting for process {process}, which is fetching it")
            }
            State::Held { process: None } => {
                "Waiting for another process, which is fetching it".to_owned()
            }
            State::Retrying { attempt, attempts, at, why } => {
                let when = match at.saturating_duration_since(now) {
                    Duration::ZERO => String::new(),
                    left => format!(" in {}", format::countdown(left)),
                };
                format!("Retrying{when} (attempt {attempt} of {attempts}): {why}")
            }
            State::Verifying => "Verifying".to_owned(),
            State::Exists => "Already exists".to_owned(),
            State::Complete => "Pull complete".to_owned(),
            State::Failed => "Failed".to_owned(),
        }
    }
}

/// One layer at one moment.
#[derive(Debug, Clone)]
pub(super) struct Row<'a> {
    /// The short digest, escaped.
    pub(super) name: &'a str,
    /// Size in bytes.
    pub(super) size: u64,
    /// Bytes that are here.
    pub(super) done: u64,
    /// What is happening to it.
    pub(super) state: State,
    /// The moment.
    pub(super) now: Instant,
    /// Whether it is one of the image's layers, rather than its configuration.
    pub(super) is_layer: bool,
    /// What is waited for while no bytes come, and for how long so far.
    pub(super) waited: Option<(Duration, String)>,
}

#[cfg(test)]
impl Row<'_> {
    /// A layer for which nothing is waited.
    pub(super) fn new(name: &str, size: u64, done: u64, state: State, now: Instant) -> Row<'_> {
        Row { name, size, done, state, now, is_layer: true, waited: None }
    }
}

/// All layers at one moment.
#[derive(Debug, Clone)]
pub(super) struct Snapshot<'a> {
    /// In the order of the manifest.
    pub(super) rows: Vec<Row<'a>>,
    /// Since the pull began.
    pub(super) elapsed: Duration,
    /// Bytes received since then, those received twice included.
    pub(super) received: u64,
    /// Bytes per second of late; `None` while too little was seen.
    pub(super) rate: Option<u64>,
    /// How long the registry still asks not to be asked for more.
    pub(super) silence: Option<Duration>,
}

impl Snapshot<'_> {
    /// The pull in one line: `212.4 of 400.0 MiB (53%), 180.2 MiB/s, 1 s left, 3 of 8 layers
    /// complete`. Layers that were here before count as complete, but their bytes do not.
    pub(super) fn totals(&self) -> String {
        let (done, total) = (self.done(), self.total());
        let mut parts = Vec::new();
        if total > 0 {
            let percent = format::percent(done, total);
            parts.push(format!("{} ({percent}%)", format::progress_bytes(done, total)));
        }
        match self.rate.filter(|_| done < total) {
            Some(0) if self.waited_for().is_some() => parts.extend(self.waited_for()),
            Some(rate) => {
                parts.push(format::rate(rate));
                parts.extend(format::time_left(total - done, rate));
            }
            None => {}
        }
        if let Some(left) = self.silence.filter(|_| done < total) {
            parts.push(format!("registry asks for silence: {} left", format::countdown(left)));
        }
        parts.push(self.layers());
        parts.join(", ")
    }

    /// How the pull ended, in one line.
    pub(super) fn closing(&self) -> String {
        let layers = self.layers();
        if !self.rows.iter().all(|row| row.state.is_here()) {
            let bytes = format::progress_bytes(self.done(), self.total());
            return format!("stopped: {bytes}, {layers}");
        }
        if self.received == 0 {
            return format!("pulled: nothing was missing, {layers}");
        }
        let rate = format::rate(format::per_second(self.received, self.elapsed));
        let (bytes, time) = (format::bytes(self.received), format::duration(self.elapsed));
        format!("pulled: {bytes} in {time} ({rate}), {layers}")
    }

    /// What all the pull waits for, if there is something to say about it beside "0 B/s".
    fn waited_for(&self) -> Option<String> {
        if self.silence.is_some() {
            return None;
        }
        let waits = self.rows.iter().filter(|row| !row.state.is_final());
        let longest = waits.clone().filter_map(|row| row.waited.as_ref()).max();
        if let Some((_, text)) = longest {
            return Some(text.clone());
        }
        let held = |row: &Row<'_>| match row.state {
            State::Held { process } => Some(process),
            _ => None,
        };
        match waits.clone().find_map(held)? {
            _ if waits.clone().any(|row| row.state.is_busy()) => None,
            Some(process) => Some(format!("waiting for process {process}")),
            None => Some("waiting for another process".to_owned()),
        }
    }

    /// Bytes that were or are missing.
    fn total(&self) -> u64 {
        self.missing().fold(0, |sum, row| sum.saturating_add(row.size))
    }

    /// Bytes of [`Snapshot::total`] that are here by now.
    fn done(&self) -> u64 {
        self.missing().fold(0, |sum, row| sum.saturating_add(row.done.min(row.size)))
    }

    fn missing(&self) -> impl Iterator<Item = &Row<'_>> {
        self.rows.iter().filter(|row| row.state != State::Exists)
    }

    fn layers(&self) -> String {
        let layers = self.rows.iter().filter(|row| row.is_layer);
        let here = layers.clone().filter(|row| row.state.is_here()).count();
        format!("{here} of {} layers complete", layers.count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Rows of `(size, done, state)`, four seconds into the pull.
    fn snapshot(rows: &[(u64, u64, State)], received: u64, rate: Option<u64>) -> Snapshot<'static> {
        let now = Instant::now();
        let rows = rows.iter().cloned();
        Snapshot {
            rows: rows
                .map(|(size, done, state)| Row::new("9824c27679d3", size, done, state, now))
                .collect(),
            elapsed: Duration::from_secs(4),
            received,
            rate,
            silence: None,
        }
    }

    #[test]
    fn a_silence_counts_down() {
        let mut pull = snapshot(&[(2 * MIB, MIB, State::Waiting)], 0, Some(0));
        pull.silence = Some(Duration::from_millis(11_200));
        assert_eq!(
            pull.totals(),
            "1.0 of 2.0 MiB (50%), 0 B/s, registry asks for silence: 12 s left, \
             0 of 1 layers complete"
        );
    }

    #[test]
    fn totals_say_what_is_waited_for_instead_of_0_bytes_per_second() {
        use State::{Complete, Downloading, Held, Waiting};
        let held = Held { process: Some(7) };
        let waited =
            |seconds| (Duration::from_secs(seconds), format!("waiting ({seconds} s) for x"));
        let check = |states: &[State], rate, waits: &[Option<u64>], expected: &str| {
            let rows: Vec<_> = states.iter().map(|state| (2 * MIB, MIB, state.clone())).collect();
            let mut pull = snapshot(&rows, 0, Some(rate));
            for (row, wait) in pull.rows.iter_mut().zip(waits) {
                row.waited = wait.map(waited);
            }
            let totals = pull.totals();
            assert!(totals.contains(&format!("%), {expected}, ")), "{expected} in {totals}");
        };
        let both = [Downloading, Downloading];
        check(&both, 0, &[Some(3), Some(5)], "waiting (5 s) for x");
        check(&both, MIB, &[Some(3), None], "1.0 MiB/s, 2 s left");
        check(&both, 0, &[None, None], "0 B/s");
        check(&[held.clone(), Waiting], 0, &[], "waiting for process 7");
        check(&[Held { process: None }, Complete], 0, &[], "waiting for another process");
        check(&[held, Downloading], 0, &[], "0 B/s");
    }

    #[test]
    fn the_configuration_is_no_layer() {
        let mut pull = snapshot(&[(MIB, MIB, State::Complete), (MIB, 0, State::Waiting)], 0, None);
        pull.rows[0].is_layer = false;
        assert_eq!(pull.totals(), "1.0 of 2.0 MiB (50%), 0 of 1 layers complete");
    }

    #[test]
    fn totals_say_what_is_known() {
        use State::{Complete, Downloading, Exists, Failed, Waiting};
        for (rows, rate, expected) in [
            (
                vec![(100 * MIB, 100 * MIB, Complete), (100 * MIB, 50 * MIB, Downloading)],
                Some(25 * MIB),
                "150.0 of 200.0 MiB (75%), 25.0 MiB/s, 2 s left, 1 of 2 layers complete",
            ),
            // No rate yet; a stall.
            (vec![(MIB, 0, Waiting)], None, "0.0 of 1.0 MiB (0%), 0 of 1 layers complete"),
            (vec![(MIB, 0, Failed)], Some(0), "0.0 of 1.0 MiB (0%), 0 B/s, 0 of 1 layers complete"),
            // What was there before is no work.
            (
                vec![(500 * MIB, 0, Exists), (MIB, MIB, Downloading)],
                Some(MIB),
                "1.0 of 1.0 MiB (100%), 1 of 2 layers complete",
            ),
            (vec![(MIB, MIB, Exists)], Some(MIB), "1 of 1 layers complete"),
            // Sizes are a peer's.
            (
                vec![(u64::MAX, u64::MAX, Downloading), (u64::MAX, 2, Waiting)],
                Some(1),
                "16.0 of 16.0 EiB (100%), 0 of 2 layers complete",
            ),
            // More than the size is a fault that is found elsewhere; the total stays true.
            (
                vec![(MIB, 9 * MIB, Downloading), (MIB, 0, Waiting)],
                None,
                "1.0 of 2.0 MiB (50%), 0 of 2 layers complete",
            ),
        ] {
            assert_eq!(snapshot(&rows, 0, rate).totals(), expected);
        }
    }

    #[test]
    fn the_closing_line_says_how_it_ended() {
        use State::{Complete, Downloading, Exists};
        for (rows, received, expected) in [
            (
                vec![(100 * MIB, 100 * MIB, Complete), (MIB, 0, Exists)],
                100 * MIB,
                "pulled: 100.0 MiB in 4 s (25.0 MiB/s), 2 of 2 layers complete",
            ),
            (vec![(MIB, 0, Exists)], 0, "pulled: nothing was missing, 1 of 1 layers complete"),
            (
                vec![(MIB, MIB, Complete), (3 * MIB, MIB, Downloading)],
                2 * MIB,
                "stopped: 2.0 of 4.0 MiB, 1 of 2 layers complete",
            ),
        ] {
            assert_eq!(snapshot(&rows, received, None).closing(), expected);
        }
    }

    #[test]
    fn a_retry_counts_down() {
        let now = Instant::now();
        let at = now + Duration::from_millis(1_500);
        let state = State::Retrying { attempt: 2, attempts: 5, at, why: "reset by peer".into() };
        for (passed, expected) in
            [(0, " in 1.5 s"), (500, " in 1 s"), (1_241, " in 259 ms"), (1_500, ""), (9_000, "")]
        {
            assert_eq!(
                state.text(now + Duration::from_millis(passed)),
                format!("Retrying{expected} (attempt 2 of 5): reset by peer"),
                "after {passed} ms"
            );
        }
    }
}
