//! Plain lines: what docker prints when nobody watches, and the pull as a whole now and then.

use std::io;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::queue::Worth;
use super::snapshot::{Row, Snapshot, State};
use super::{Output, Sink, format, lock};
use crate::limits;

/// One line per event.
pub(super) struct Lines {
    output: Output,
    /// When the last line was printed that tells of no event.
    told: Mutex<Instant>,
}

impl Lines {
    pub(super) fn new(output: Output) -> Lines {
        Lines { output, told: Mutex::new(Instant::now()) }
    }

    /// Whether it is time for a line that tells of no event.
    fn is_due(&self) -> bool {
        let now = Instant::now();
        let mut told = lock(&self.told);
        let is_due = now.saturating_duration_since(*told) >= limits::PROGRESS_LINE_INTERVAL;
        if is_due {
            *told = now;
        }
        is_due
    }
}

impl Sink for Lines {
    fn line(&self, text: &str, worth: Worth) {
        self.output.line(text, worth);
    }

    fn flush(&self, end: Option<Instant>) {
        self.output.stderr.flush(end);
    }

    fn result(&self, text: &str) -> io::Result<()> {
        self.output.result(text)
    }

    fn waiting(&self, text: Option<&str>) {
        if let Some(text) = text
            && self.is_due()
        {
            self.output.line(text, Worth::Little);
        }
    }

    fn interval(&self) -> Duration {
        limits::LINES_LOOK_INTERVAL
    }

    fn began(&self, _: &Snapshot<'_>) {
        *lock(&self.told) = Instant::now();
    }

    fn changed(&self, row: &Row<'_>) {
        let state = row.state.text(row.now);
        let line = match row.state {
            // A log shows where a download goes on; a screen has a bar for that.
            State::Downloading | State::Resuming if row.done > 0 => {
                let bytes = format::progress_bytes(row.done, row.size);
                format!("{}: {state}, {bytes} are here", row.name)
            }
            State::Downloading => format!("{}: {state} {}", row.name, format::bytes(row.size)),
            _ => format!("{}: {state}", row.name),
        };
        self.output.line(&line, Worth::Little);
    }

    fn progress(&self, pull: &Snapshot<'_>) {
        if self.is_due() {
            self.output.line(&format!("pulling: {}", pull.totals()), Worth::Little);
        }
    }

    fn ended(&self, pull: &Snapshot<'_>) {
        if !pull.rows.is_empty() {
            self.output.line(&pull.closing(), Worth::Little);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::report::{Captured, Reporter, Verbosity};

    const MIB: u64 = 1 << 20;

    #[test]
    fn every_change_is_a_line() {
        let (reporter, captured) = Reporter::captured(Verbosity::Normal);
        let pull = reporter
            .pull([("9824c27679d3".to_owned(), 40 * MIB), ("44cf07d57ee4".to_owned(), 3 * MIB)]);
        let [first, second] = pull.blobs() else { panic!("two layers") };
        second.exists();
        first.waiting();
        first.downloading();
        first.downloading();
        first.add(12 * MIB + MIB / 5);
        first.retrying(2, 5, Duration::from_millis(1_500), "no bytes for 60 s");
        first.downloading();
        first.add(28 * MIB);
        first.verifying();
        assert_eq!(
            captured.stderr(),
            "44cf07d57ee4: Already exists\n\
             9824c27679d3: Downloading 40.0 MiB\n\
             9824c27679d3: Retrying in 1.5 s (attempt 2 of 5): no bytes for 60 s\n\
             9824c27679d3: Downloading, 12.1 of 40.0 MiB are here\n\
             9824c27679d3: Verifying\n"
        );
        first.complete();
        drop(pull);
        let end = captured.stderr();
        assert!(end.contains("\n9824c27679d3: Pull complete\npulled: 40."), "{end}");
        assert!(end.ends_with("), 2 of 2 layers complete\n"), "{end}");
        assert_eq!(captured.stdout(), "");
    }

    #[test]
    fn progress_is_one_line_without_control_characters() {
        let captured = Captured::default();
        let output = Output::new(Box::new(captured.stdout), captured.stderr.clone());
        let state = State::Downloading;
        let row = Row::new("a", 400 * MIB, 212 * MIB, state, Instant::now());
        let lines = Lines::new(output);
        let pull = Snapshot {
            rows: vec![row],
            elapsed: Duration::from_secs(5),
            received: 212 * MIB,
            rate: Some(180 * MIB),
            silence: None,
        };
        // Looked at often, and told seldom.
        lines.progress(&pull);
        assert_eq!(captured.stderr.text(), "");
        *lock(&lines.told) -= limits::PROGRESS_LINE_INTERVAL;
        lines.progress(&pull);
        lines.progress(&pull);
        assert_eq!(
            captured.stderr.text(),
            "pulling: 212.0 of 400.0 MiB (53%), 180.0 MiB/s, 2 s left, 0 of 1 layers complete\n"
        );
    }

    #[test]
    fn a_pull_of_nothing_is_silent() {
        let (reporter, captured) = Reporter::captured(Verbosity::Verbose);
        drop(reporter.pull(Vec::<(String, u64)>::new()));
        assert_eq!(captured.stderr(), "");
    }
}
