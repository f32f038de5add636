//! Signals that end a pull: the first in order, but within a moment; the second at once.

use std::thread::JoinHandle;
use std::time::Instant;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{oneshot, watch};

use super::error::{Cause, Error};
use crate::limits::SIGNAL_PATIENCE;
use crate::report::Reporter;

/// Listens for SIGINT and SIGTERM until this is dropped, on a thread of its own: the one of the pull
/// may be waiting for a lock, or for a disk that is slow.
///
/// A pull that has not ended [`SIGNAL_PATIENCE`] after the first signal is ended as it stands. What is
/// on disk is then as after a kill.
pub(super) struct Signals {
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Signals {
    /// Listens; what is returned beside has the number of the first signal.
    pub(super) fn listen(
        reporter: &Reporter,
    ) -> Result<(Signals, watch::Receiver<Option<i32>>), Error> {
        let failed = |source| Error::system("cannot listen for signals", source);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(failed)?;
        let (interrupt, terminate) = {
            let _inside = runtime.enter();
            let listen = |kind| signal(kind).map_err(failed);
            (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?)
        };
        let (stop, stopped) = watch::channel(None);
        let (end, ended) = oneshot::channel();
        let reporter = reporter.clone();
        let thread = std::thread::Builder::new().name("signals".into());
        let thread = thread.spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    biased;
                    // Ended, or dropped.
                    _ = ended => {}
                    () = obey(interrupt, terminate, stop, &reporter) => {}
                }
            });
        });
        let thread = Some(thread.map_err(failed)?);
        Ok((Signals { end: Some(end), thread }, stopped))
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

/// Tells of the first signal; ends the process on the second, or when the pull does not end.
async fn obey(
    mut interrupt: Signal,
    mut terminate: Signal,
    stop: watch::Sender<Option<i32>>,
    reporter: &Reporter,
) {
    let mut first: Option<(i32, Instant)> = None;
    loop {
        let patience = async {
            match first {
                Some((number, at)) => {
                    tokio::time::sleep_until((at + SIGNAL_PATIENCE).into()).await;
                    number
                }
                None => std::future::pending().await,
            }
        };
        let kind = tokio::select! {
            biased;
            _ = interrupt.recv() => SignalKind::interrupt(),
            _ = terminate.recv() => SignalKind::terminate(),
            number = patience => {
                let error = Error::new(Cause::Interrupted(number));
                reporter.error(error.class(), &error.to_string());
                std::process::exit(error.exit_code().into());
            }
        };
        let number = kind.as_raw_value();
        if first.is_some() {
            std::process::exit(128 + number);
        }
        first = Some((number, Instant::now()));
        // Nobody listens only if the pull has ended.
        let _ = stop.send(Some(number));
    }
}
