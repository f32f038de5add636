//! What the user sees. Everything that ringpull prints while it runs is printed here: the result on
//! stdout; progress, notes, warnings and errors on stderr.
//!
//! The pipeline reports facts, this module decides how they look:
//!
//! ```text
//!   workers ── BlobProgress::add: one relaxed atomic addition, no lock, no drawing
//!      │
//!   progress (states, counters) ── ticker, its own thread ──┐
//!      │ state changes                                      │ snapshots
//!      └────────────────────→ Sink ←────────────────────────┘
//!                              ├ terminal   rows redrawn in place (board)
//!                              └ lines      one line per event, for logs
//! ```
//!
//! A JSON stream would be a third `Sink` and a third [`Style`].
//!
//! - One call, one line: text is escaped on its way out ([`escape`]), line breaks included, so no
//!   peer can write a line of ours or reach the terminal with an escape code.
//! - A reader that went away is a quiet end of progress, never a panic and never a failed pull.
//!   Only [`Reporter::result`] says so, because a result nobody read is one nobody has.
//! - Nothing here waits for whoever reads stderr: a thread of its own writes there (`queue`), so a
//!   stopped terminal or a full pipe keeps neither a pull nor the end of one. Only
//!   [`Reporter::result`] and [`Reporter::flush`] wait.

mod board;
mod escape;
pub mod format;
mod lines;
mod progress;
mod queue;
mod snapshot;
mod summary;
mod terminal;
mod ticker;
mod waiting;

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use escape::{escape, escape_json};
pub use progress::{BlobProgress, PullProgress, Shown};
pub use summary::{Summary, peak_memory};
pub use waiting::{WaitedFor, Waiting, WaitingShown};

use crate::error::Class;
use lines::Lines;
use queue::{Queue, Worth};
use snapshot::{Row, Snapshot};
use terminal::Terminal;

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Only warnings, errors and results.
    Quiet,
    /// Progress too.
    Normal,
    /// Notes too: which engine, which address, why again.
    Verbose,
}

/// How progress looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Rows redrawn in place.
    Terminal,
    /// Plain lines, for logs: no carriage return, no escape code.
    Lines,
}

impl Style {
    /// The style that fits stderr: [`Style::Terminal`] if it is one that can move its cursor.
    pub fn detect() -> Style {
        let can_move =
            std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb");
        if can_move && io::stderr().is_terminal() { Style::Terminal } else { Style::Lines }
    }
}

/// Where facts go to be shown. Cloning is cheap, and all clones write to the same place.
#[derive(Clone)]
pub struct Reporter {
    verbosity: Verbosity,
    sink: Arc<dyn Sink>,
}

impl Reporter {
    /// A reporter that writes to this process's stdout and stderr.
    pub fn new(verbosity: Verbosity, style: Style) -> Reporter {
        let output = Output { stdout: Mutex::new(Box::new(io::stdout())), stderr: STDERR.clone() };
        let sink: Arc<dyn Sink> = match style {
            Style::Terminal => Arc::new(Terminal::on_stderr(output)),
            Style::Lines => Arc::new(Lines::new(output)),
        };
        Reporter { verbosity, sink }
    }

    /// A reporter for tests: [`Style::Lines`] into memory.
    pub fn captured(verbosity: Verbosity) -> (Reporter, Captured) {
        let captured = Captured::default();
        let (stdout, stderr) = (captured.stdout.clone(), captured.stderr.clone());
        let output = Output::new(Box::new(stdout), stderr);
        (Reporter { verbosity, sink: Arc::new(Lines::new(output)) }, captured)
    }

    /// How much is said: for callers who print different results, or save themselves the work.
    pub fn verbosity(&self) -> Verbosity {
        self.verbosity
    }

    /// Waits until all lines of stderr have been written, but no longer than until `end`; if there is
    /// none, for as long as stderr takes nothing.
    pub fn flush(&self, end: Option<Instant>) {
        self.sink.flush(end);
    }

    /// Something only the curious want to know (`-v`): the engine, an address, a retry.
    pub fn note(&self, text: &str) {
        self.line(Verbosity::Verbose, text);
    }

    /// What is being done, unless quiet: `latest: Pulling from library/alpine`.
    pub fn status(&self, text: &str) {
        self.line(Verbosity::Normal, text);
    }

    /// Something that is not as it should be, though it goes on: always shown.
    pub fn warn(&self, text: &str) {
        self.sink.line(&escape(&format!("ringpull: warning: {text}")), Worth::Much);
    }

    /// Why the process fails: always shown, and the last line of stderr. The name of the class
    /// is for scripts.
    pub fn error(&self, class: Class, text: &str) {
        let line = format!("ringpull: error[{}]: {text}", class.name());
        self.sink.line(&escape(&line), Worth::Much);
    }

    /// What a pull cost (`-v`).
    pub fn summary(&self, summary: &Summary) {
        self.note(&summary.to_string());
    }

    /// A line of the result, on stdout, flushed. Shown whatever the verbosity: with `-q` the
    /// caller prints fewer of them.
    ///
    /// # Errors
    /// What the write failed with; [`io::ErrorKind::BrokenPipe`] when nobody reads any more.
    pub fn result(&self, text: &str) -> io::Result<()> {
        self.sink.result(&escape(text))
    }

    /// Starts to show a pull of `blobs`. It is shown until what is returned is dropped. One pull at a
    /// time is shown well.
    pub fn pull(&self, blobs: impl IntoIterator<Item = impl Into<Shown>>) -> PullProgress {
        let sink = (self.verbosity >= Verbosity::Normal).then(|| Arc::clone(&self.sink));
        PullProgress::start(sink, blobs.into_iter().map(Into::into))
    }

    /// Starts to show what is waited for before there are layers to show, each time behind `label`. It
    /// is shown until what is returned is dropped.
    pub fn waiting(&self, label: &str) -> WaitingShown {
        let sink = (self.verbosity >= Verbosity::Normal).then(|| Arc::clone(&self.sink));
        WaitingShown::start(sink, label)
    }

    fn line(&self, least: Verbosity, text: &str) {
        if self.verbosity >= least {
            self.sink.line(&escape(text), Worth::Little);
        }
    }
}

impl fmt::Debug for Reporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reporter").field("verbosity", &self.verbosity).finish_non_exhaustive()
    }
}

/// One way to show facts. All text is escaped already.
///
/// Called from many threads. A sink must not call back into the progress it is shown.
trait Sink: Send + Sync {
    /// A line on stderr. Waits for no reader.
    fn line(&self, text: &str, worth: Worth);
    /// Waits until all of stderr is written, or until `end`.
    fn flush(&self, end: Option<Instant>);
    /// A line on stdout.
    fn result(&self, text: &str) -> io::Result<()>;
    /// What is waited for now, while no pull is shown; `None` if that is nothing worth showing.
    fn waiting(&self, text: Option<&str>);
    /// How often [`Sink::progress`] and [`Sink::waiting`] are wanted.
    fn interval(&self) -> Duration;
    /// A pull begins.
    fn began(&self, pull: &Snapshot<'_>);
    /// A layer came into the state that its row has.
    fn changed(&self, row: &Row<'_>);
    /// The pull as it stands now.
    fn progress(&self, pull: &Snapshot<'_>);
    /// The pull as it stood in the end; whether all is there is to be read from the rows.
    fn ended(&self, pull: &Snapshot<'_>);
}

/// The two streams, a whole line at a time.
struct Output {
    stdout: Mutex<Box<dyn Write + Send>>,
    stderr: Queue,
}

/// This process's stderr. There is one, so that lines of several reporters keep their order.
static STDERR: LazyLock<Queue> = LazyLock::new(|| Queue::threaded(Box::new(io::stderr())));

impl Output {
    /// Both written to at once: for tests.
    fn new(stdout: Box<dyn Write + Send>, stderr: impl Write + Send + 'static) -> Output {
        Output { stdout: Mutex::new(stdout), stderr: Queue::at_once(Box::new(stderr)) }
    }

    /// Has a line written to stderr.
    fn line(&self, text: &str, worth: Worth) {
        self.stderr.put(format!("{text}\n"), worth);
    }

    /// Writes a line to stdout, after all that was said on stderr before: both may be one terminal.
    fn result(&self, text: &str) -> io::Result<()> {
        self.stderr.flush(None);
        let mut stdout = lock(&self.stdout);
        stdout.write_all(format!("{text}\n").as_bytes())?;
        stdout.flush()
    }
}

/// What a [`Reporter::captured`] has written so far.
#[derive(Debug, Clone, Default)]
pub struct Captured {
    stdout: Buffer,
    stderr: Buffer,
}

impl Captured {
    /// All of stdout.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// All of stderr.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }
}

/// A shared stream in memory.
#[derive(Debug, Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Buffer {
    fn text(&self) -> String {
        String::from_utf8_lossy(&lock(&self.0)).into_owned()
    }
}

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        lock(&self.0).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Locks `mutex`, also after a panic elsewhere: what is shown may then be stale, no more.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says everything there is to say.
    fn say_all(reporter: &Reporter) {
        reporter.note("engine: uring");
        reporter.status("latest: Pulling from library/alpine");
        reporter.warn("certificates are not verified");
        reporter.error(Class::RecvTimeout, "no bytes for 60 s");
        reporter.summary(&Summary::default());
        reporter.result("sha256:…").unwrap();
        reporter.pull([("9824c27679d3".to_owned(), 1)]).blobs()[0].exists();
    }

    #[test]
    fn verbosity_decides_what_is_said_and_never_the_result() {
        const QUIET: &str = "ringpull: warning: certificates are not verified\n\
            ringpull: error[recv-timeout]: no bytes for 60 s\n";
        const PULL: &str = "9824c27679d3: Already exists\n\
            pulled: nothing was missing, 1 of 1 layers complete\n";
        let status = "latest: Pulling from library/alpine\n";
        let summary = format!("{}\n", Summary::default());
        for (verbosity, expected) in [
            (Verbosity::Quiet, QUIET.to_owned()),
            (Verbosity::Normal, format!("{status}{QUIET}{PULL}")),
            (Verbosity::Verbose, format!("engine: uring\n{status}{QUIET}{summary}{PULL}")),
        ] {
            let (reporter, captured) = Reporter::captured(verbosity);
            say_all(&reporter);
            assert_eq!(captured.stderr(), expected, "{verbosity:?}");
            assert_eq!(captured.stdout(), "sha256:…\n", "{verbosity:?}");
        }
    }

    #[test]
    fn a_peer_cannot_write_a_line_of_ours() {
        let (reporter, captured) = Reporter::captured(Verbosity::Verbose);
        let hostile = "x\nStatus: Downloaded\r\u{1b}[2J\u{202e}";
        reporter.note(hostile);
        reporter.status(hostile);
        reporter.warn(hostile);
        reporter.error(Class::Token, hostile);
        reporter.result(hostile).unwrap();
        let pull = reporter.pull([(hostile.to_owned(), 1)]);
        pull.blobs()[0].retrying(2, 5, Duration::ZERO, hostile);
        drop(pull);
        let text = captured.stderr() + &captured.stdout();
        assert_eq!(text.lines().count(), 7, "{text}");
        assert!(!text.contains(['\r', '\u{1b}', '\u{202e}']), "{text:?}");
    }

    /// A stream whose reader went away.
    struct Broken;

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }

    #[test]
    fn a_broken_pipe_ends_progress_quietly_and_fails_the_result() {
        let output = Output::new(Box::new(Broken), Broken);
        let reporter =
            Reporter { verbosity: Verbosity::Verbose, sink: Arc::new(Lines::new(output)) };
        reporter.warn("unheard");
        reporter.pull([("9824c27679d3".to_owned(), 1)]).blobs()[0].complete();
        let error = reporter.result("unheard").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn lines_of_many_threads_stay_whole() {
        let (reporter, captured) = Reporter::captured(Verbosity::Verbose);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..100).for_each(|_| reporter.note("a whole line")));
            }
        });
        assert_eq!(captured.stderr(), "a whole line\n".repeat(400));
    }
}
