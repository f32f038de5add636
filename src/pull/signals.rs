//! What ends a pull from outside: signals, the first in order but within a moment, the second at once;
//! and the time that the user gives the whole command.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{oneshot, watch};

use super::error::{Cause, Error};
use crate::limits::{LAST_WORDS_PATIENCE, SIGNAL_PATIENCE};
use crate::report::Reporter;

/// Why a pull is to end before it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// A signal, by its number.
    Signal(i32),
    /// The whole command has taken as long as it may (`--timeout`).
    TimeLimit(Duration),
}

/// Listens for SIGINT and SIGTERM until this is dropped, and looks at the clock, on a thread of its
/// own: the one of the pull may be waiting for a lock, a slow disk, or whoever reads its output.
///
/// A command that has not ended [`SIGNAL_PATIENCE`] after it was told to is ended as it stands. What is
/// on disk is then as after a kill. From the first signal listened for, the process ignores them
/// otherwise, so this must live until the last line is printed.
pub struct Signals {
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    /// Whether the command says itself how it ended.
    concluded: Arc<AtomicBool>,
}

impl Signals {
    /// Listens; what is returned beside says when the pull is to end, and why. `limit` is how long the
    /// command may take from now on.
    ///
    /// # Errors
    /// If the system has no thread left, or no descriptors.
    pub fn listen(
        reporter: &Reporter,
        limit: Option<Duration>,
    ) -> Result<(Signals, watch::Receiver<Option<Stop>>), Error> {
        let failed = |source| Error::system("cannot listen for signals", source);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(failed)?;
        let (interrupt, terminate) = {
            let _inside = runtime.enter();
            let listen = |kind| signal(kind).map_err(failed);
            // A write past the limit on the size of files (`ulimit -f`) then fails with EFBIG, where
            // this signal would kill. It stays handled when this runtime is gone.
            let size_exceeded = SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw());
            drop(listen(size_exceeded)?);
            (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?)
        };
        let (stop, stopped) = watch::channel(None);
        let (end, ended) = oneshot::channel();
        let concluded = Arc::new(AtomicBool::new(false));
        let watcher = Watcher {
            stop,
            limit: limit.and_then(|limit| Some((limit, Instant::now().checked_add(limit)?))),
            reporter: reporter.clone(),
            concluded: Arc::clone(&concluded),
        };
        let thread = std::thread::Builder::new().name("signals".into());
        let thread = thread.spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    biased;
                    // Ended, or dropped.
                    _ = ended => {}
                    () = watcher.obey(interrupt, terminate) => {}
                }
            });
        });
        let thread = Some(thread.map_err(failed)?);
        Ok((Signals { end: Some(end), thread, concluded }, stopped))
    }

    /// The command has ended, and is about to say how: this thread only sees to it that the process
    /// ends, too.
    pub fn conclude(&self) {
        self.concluded.store(true, Ordering::Relaxed);
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        drop(self.end.take());
        // Either it ends now, or it is about to end the process: nobody else then says why.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What the thread knows.
struct Watcher {
    stop: watch::Sender<Option<Stop>>,
    /// How long the command may take, and when that is over.
    limit: Option<(Duration, Instant)>,
    reporter: Reporter,
    concluded: Arc<AtomicBool>,
}

impl Watcher {
    /// Tells of the first reason to stop. Ends the process on a signal after that, or when the pull does
    /// not end.
    async fn obey(&self, mut interrupt: Signal, mut terminate: Signal) {
        let mut first: Option<(Stop, Instant)> = None;
        loop {
            let patience_ends = first.map(|(_, at)| at + SIGNAL_PATIENCE);
            let limit = self.limit.filter(|_| first.is_none());
            let kind = tokio::select! {
                biased;
                _ = interrupt.recv() => SignalKind::interrupt(),
                _ = terminate.recv() => SignalKind::terminate(),
                () = moment(patience_ends) => self.end_the_process(first),
                () = moment(limit.map(|(_, end)| end)) => {
                    first = limit.map(|(limit, end)| (Stop::TimeLimit(limit), end));
                    // Nobody listens only if the pull has ended.
                    let _ = self.stop.send(first.map(|(stop, _)| stop));
                    continue;
                }
            };
            let number = kind.as_raw_value();
            if first.is_some() {
                std::process::exit(128 + number);
            }
            let stop = Stop::Signal(number);
            first = Some((stop, Instant::now()));
            let _ = self.stop.send(Some(stop));
        }
    }

    /// Ends the process as it stands. Neither a lock nor a reader of stderr is waited for.
    fn end_the_process(&self, why: Option<(Stop, Instant)>) -> ! {
        let why = why.map_or(Stop::Signal(15), |(stop, _)| stop);
        let error = Error::new(Cause::Stopped(why)).keeping();
        if !self.concluded.load(Ordering::Relaxed) {
            self.reporter.error(error.class(), &error.to_string());
        }
        self.reporter.flush(Some(Instant::now() + LAST_WORDS_PATIENCE));
        std::process::exit(error.exit_code().into());
    }
}

/// Ends at `at`; never without one.
async fn moment(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
