//! Rows redrawn in place. `board` says what stands there; indicatif moves the cursor.
//!
//! The whole board is the message of one bar, so it is drawn in one piece, and at most once per
//! tick. Lines are written while the board is off the screen, so neither tears the other. All of it
//! goes through the queue of stderr; while that has not been written yet, nothing is redrawn.

use std::fmt;
use std::io;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};

use super::board::{self, Size};
use super::queue::{Queue, Worth};
use super::snapshot::{Row, Snapshot};
use super::{Output, Sink, lock};
use crate::limits;

/// A terminal on stderr; stdout may be the same one.
pub(super) struct Terminal {
    output: Output,
    screen: Screen,
    /// The board; `None` when no pull is shown.
    bar: Mutex<Option<ProgressBar>>,
}

/// What is drawn on, and how large it is now: users change it while they wait.
pub(super) struct Screen {
    target: Box<dyn Fn() -> ProgressDrawTarget + Send + Sync>,
    size: Box<dyn Fn() -> Size + Send + Sync>,
}

impl Terminal {
    /// The terminal that this process's stderr is.
    pub(super) fn on_stderr(output: Output) -> Terminal {
        let stderr = output.stderr.clone();
        let target = move || {
            let drawn = Drawn { stderr: stderr.clone(), frame: Mutex::default() };
            ProgressDrawTarget::term_like_with_hz(Box::new(drawn), redraws_per_second())
        };
        Terminal::new(output, Screen { target: Box::new(target), size: Box::new(stderr_size) })
    }

    fn new(output: Output, screen: Screen) -> Terminal {
        Terminal { output, screen, bar: Mutex::new(None) }
    }

    /// Does `write` while the board is off the screen.
    fn aside<T>(&self, write: impl FnOnce() -> T) -> T {
        match &*lock(&self.bar) {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    fn new_bar(&self) -> ProgressBar {
        let bar = ProgressBar::with_draw_target(None, (self.screen.target)());
        // The template is a constant that a test draws; without it the board would only be plainer.
        if let Ok(style) = ProgressStyle::with_template("{msg}") {
            bar.set_style(style);
        }
        bar
    }
}

impl Sink for Terminal {
    fn line(&self, text: &str, worth: Worth) {
        // Before the board is taken off the screen, which would be drawn again for nothing.
        if worth == Worth::Much || self.output.stderr.has_room() {
            self.aside(|| self.output.line(text, Worth::Much));
        }
    }

    fn flush(&self, end: Option<Instant>) {
        self.output.stderr.flush(end);
    }

    fn result(&self, text: &str) -> io::Result<()> {
        self.aside(|| self.output.result(text))
    }

    fn waiting(&self, text: Option<&str>) {
        let mut bar = lock(&self.bar);
        let Some(text) = text else {
            if let Some(bar) = bar.take() {
                bar.finish_and_clear();
            }
            return;
        };
        if self.output.stderr.is_empty() {
            let bar = bar.get_or_insert_with(|| self.new_bar());
            bar.set_message(board::one(text, (self.screen.size)()));
        }
    }

    fn interval(&self) -> Duration {
        limits::REDRAW_INTERVAL
    }

    fn began(&self, pull: &Snapshot<'_>) {
        *lock(&self.bar) = (!pull.rows.is_empty()).then(|| self.new_bar());
        self.progress(pull);
    }

    /// The next redraw shows it.
    fn changed(&self, _: &Row<'_>) {}

    fn progress(&self, pull: &Snapshot<'_>) {
        // Whoever does not see the last redraw needs no other.
        if let Some(bar) = &*lock(&self.bar)
            && self.output.stderr.is_empty()
        {
            bar.set_message(board::running(pull, (self.screen.size)()).join("\n"));
        }
    }

    /// What stays is plain text: it survives a change of the terminal's width.
    fn ended(&self, pull: &Snapshot<'_>) {
        let mut bar = lock(&self.bar);
        if let Some(bar) = bar.take() {
            bar.finish_and_clear();
            for line in board::ended(pull, (self.screen.size)()) {
                self.output.line(&line, Worth::Much);
            }
        }
    }
}

/// What indicatif draws on: a frame is collected, and put into the queue of stderr as a whole.
struct Drawn {
    stderr: Queue,
    frame: Mutex<String>,
}

impl Drawn {
    fn add(&self, text: &str) -> io::Result<()> {
        lock(&self.frame).push_str(text);
        Ok(())
    }

    /// A cursor movement (ECMA-48 section 8.3, CUU to CUB): `n` steps; none has no code.
    fn step(&self, n: usize, code: char) -> io::Result<()> {
        if n == 0 { Ok(()) } else { self.add(&format!("\u{1b}[{n}{code}")) }
    }
}

impl fmt::Debug for Drawn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drawn").finish_non_exhaustive()
    }
}

impl TermLike for Drawn {
    fn width(&self) -> u16 {
        u16::try_from(stderr_size().width).unwrap_or(u16::MAX)
    }

    fn height(&self) -> u16 {
        u16::try_from(stderr_size().height).unwrap_or(u16::MAX)
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.step(n, 'A')
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.step(n, 'B')
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.step(n, 'C')
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.step(n, 'D')
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.add(text)?;
        self.add("\n")
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.add(text)
    }

    fn clear_line(&self) -> io::Result<()> {
        self.add("\r\u{1b}[2K")
    }

    fn flush(&self) -> io::Result<()> {
        let frame = std::mem::take(&mut *lock(&self.frame));
        if !frame.is_empty() {
            self.stderr.put(frame, Worth::Much);
        }
        Ok(())
    }
}

/// indicatif's own bound, the same as the ticker's.
fn redraws_per_second() -> u8 {
    let interval = limits::REDRAW_INTERVAL.as_millis().max(1);
    u8::try_from(1000 / interval).unwrap_or(u8::MAX).max(1)
}

fn stderr_size() -> Size {
    let (width, height) = limits::TERMINAL_SIZE_DEFAULT;
    match rustix::termios::tcgetwinsize(io::stderr()) {
        // A serial line may be a terminal of 0 columns.
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
            Size { width: size.ws_col.into(), height: size.ws_row.into() }
        }
        _ => Size { width, height },
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;
    use std::thread;
    use std::time::Instant;

    use indicatif::{InMemoryTerm, TermLike};

    use super::*;
    use crate::report::{BlobProgress, Reporter, Verbosity};

    const MIB: u64 = 1 << 20;

    /// Both streams of a process on a terminal in memory.
    #[derive(Clone)]
    struct Stream(InMemoryTerm);

    impl Write for Stream {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let text = String::from_utf8_lossy(bytes);
            // What the terminal driver does with a line break.
            self.0.write_str(&text.replace('\n', "\r\n"))?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn reporter(width: u16, height: u16) -> (Reporter, InMemoryTerm) {
        let screen = InMemoryTerm::new(height, width);
        let stream = Stream(screen.clone());
        let output = Output::new(Box::new(stream.clone()), stream);
        let drawn = screen.clone();
        let target = move || ProgressDrawTarget::term_like(Box::new(drawn.clone()));
        let size = move || Size { width: width.into(), height: height.into() };
        let terminal =
            Terminal::new(output, Screen { target: Box::new(target), size: Box::new(size) });
        (Reporter { verbosity: Verbosity::Verbose, sink: Arc::new(terminal) }, screen)
    }

    /// Waits for the ticker to show `expected`, except for the rate.
    #[track_caller]
    fn check(screen: &InMemoryTerm, expected: &str) {
        let end = Instant::now() + Duration::from_secs(10);
        while screen.contents() != expected && Instant::now() < end {
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(screen.contents(), expected);
    }

    #[test]
    fn lines_stand_above_the_board_and_the_result_below() {
        let (reporter, screen) = reporter(80, 24);
        reporter.status("latest: Pulling from library/alpine");
        let pull = reporter.pull([("9824c27679d3".to_owned(), 0), ("44cf07d57ee4".to_owned(), 0)]);
        let [first, second] = pull.blobs() else { panic!("two layers") };
        first.exists();
        reporter.note("connection 1 to 10.0.0.1:443");
        second.verifying();
        reporter
            .warn("a line\nthat is longer than the terminal is wide, so that it takes two rows");
        let lines = "latest: Pulling from library/alpine\n\
            connection 1 to 10.0.0.1:443\n\
            ringpull: warning: a line\\nthat is longer than the terminal is wide, so that it\n\
            takes two rows\n\
            9824c27679d3: Already exists\n\
            44cf07d57ee4: ";
        check(&screen, &format!("{lines}Verifying\ntotal: 1 of 2 layers complete"));
        second.complete();
        check(&screen, &format!("{lines}Pull complete\ntotal: 2 of 2 layers complete"));
        drop(pull);
        reporter.result("Digest: sha256:…").unwrap();
        let end = "pulled: nothing was missing, 2 of 2 layers complete\nDigest: sha256:…";
        assert_eq!(screen.contents(), format!("{lines}Pull complete\n{end}"));
    }

    #[test]
    fn bytes_move_the_bar() {
        let (reporter, screen) = reporter(80, 24);
        let pull = reporter.pull([("9824c27679d3".to_owned(), 40 * MIB)]);
        pull.blobs()[0].downloading();
        // Set, not received: so that the rate is known.
        pull.blobs()[0].set(10 * MIB);
        check(
            &screen,
            "9824c27679d3: Downloading [======>                        ] 10.0 of 40.0 MiB\n\
             total: 10.0 of 40.0 MiB (25%), 0 B/s, 0 of 1 layers complete",
        );
    }

    #[test]
    fn seventy_layers_fit_a_small_terminal_and_leave_nothing_behind() {
        let (reporter, screen) = reporter(60, 8);
        reporter.status("latest: Pulling from library/many");
        let pull = reporter.pull((0..70).map(|layer| (format!("layer-{layer}"), 0)));
        let (done, rest) = pull.blobs().split_at(30);
        done.iter().for_each(BlobProgress::complete);
        rest[..6].iter().for_each(BlobProgress::verifying);
        check(
            &screen,
            "latest: Pulling from library/many\n\
             layer-30: Verifying\nlayer-31: Verifying\nlayer-32: Verifying\nlayer-33: Verifying\n\
             2 more verifying, 34 more waiting, 30 complete\n\
             total: 30 of 70 layers complete",
        );
        rest.iter().for_each(BlobProgress::complete);
        drop(pull);
        assert_eq!(
            screen.contents(),
            "latest: Pulling from library/many\n\
             70 complete\n\
             pulled: nothing was missing, 70 of 70 layers complete"
        );
    }

    #[test]
    fn a_second_pull_is_shown_below_the_first() {
        let (reporter, screen) = reporter(60, 24);
        for name in ["one", "two"] {
            reporter.pull([(name.to_owned(), 0)]).blobs()[0].exists();
        }
        assert_eq!(
            screen.contents(),
            "one: Already exists\npulled: nothing was missing, 1 of 1 layers complete\n\
             two: Already exists\npulled: nothing was missing, 1 of 1 layers complete"
        );
    }
}
