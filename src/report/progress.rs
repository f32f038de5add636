//! The facts of a pull: counters and states that workers write, and the thread that has them shown.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::snapshot::{Row, Snapshot, State};
use super::ticker::Ticker;
use super::waiting::Waiting;
use super::{Sink, escape, format, lock};
use crate::limits;

/// A blob as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Its name: the short digest.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// Whether it is a layer: those are counted.
    pub is_layer: bool,
}

impl From<(String, u64)> for Shown {
    /// A layer of this name and size.
    fn from((name, size): (String, u64)) -> Shown {
        Shown { name, size, is_layer: true }
    }
}

/// A pull while it is shown. Dropping it, also on the way out of a failure, ends the showing: the
/// screen is left in order, and [`BlobProgress`] handles that live on say nothing more.
pub struct PullProgress {
    blobs: Vec<BlobProgress>,
    pull: Arc<Pull>,
    ticker: Option<Ticker>,
}

impl PullProgress {
    /// Shows a pull on `sink`, if there is one.
    pub(super) fn start(
        sink: Option<Arc<dyn Sink>>,
        blobs: impl IntoIterator<Item = Shown>,
    ) -> PullProgress {
        let layers = blobs.into_iter().map(|shown| Arc::new(Blob::new(shown)));
        let pull = Arc::new(Pull {
            blobs: layers.collect(),
            started: Instant::now(),
            ended: AtomicBool::new(false),
            silent_until: Mutex::default(),
            sink,
        });
        let blobs = pull.blobs.iter();
        let blobs = blobs
            .map(|blob| BlobProgress { blob: Arc::clone(blob), pull: Arc::clone(&pull) })
            .collect();
        let ticker = pull.sink.as_ref().map(|sink| {
            sink.began(&pull.snapshot(Instant::now(), None));
            pull.show_regularly(sink)
        });
        PullProgress { blobs, pull, ticker }
    }

    /// One handle per layer, in the order they were given.
    pub fn blobs(&self) -> &[BlobProgress] {
        &self.blobs
    }
}

impl Drop for PullProgress {
    fn drop(&mut self) {
        // The thread first: nothing may be drawn after the end.
        self.ticker = None;
        self.pull.ended.store(true, Ordering::Release);
        if let Some(sink) = &self.pull.sink {
            sink.ended(&self.pull.snapshot(Instant::now(), None));
        }
    }
}

impl fmt::Debug for PullProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PullProgress").field("blobs", &self.blobs).finish_non_exhaustive()
    }
}

/// The progress of one blob. Cloned freely; used from any thread.
///
/// Only a change of state is shown, so several workers may say the same. `exists`, `complete` and
/// `failed` are final: what is said after them changes nothing.
#[derive(Clone)]
pub struct BlobProgress {
    blob: Arc<Blob>,
    pull: Arc<Pull>,
}

impl BlobProgress {
    /// `bytes` more have been received. This is the hot path: one relaxed atomic addition.
    pub fn add(&self, bytes: u64) {
        self.blob.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// From now on `bytes` are here, though none were received just now: those of an earlier run,
    /// or fewer than before, because some could not be used.
    pub fn set(&self, bytes: u64) {
        self.blob.set(&mut lock(&self.blob.slow), bytes);
    }

    /// Where it is written down what is waited for on its behalf.
    pub fn waiting_for(&self) -> Waiting {
        self.blob.waiting.clone()
    }

    /// Its turn has not come, or not yet again. Every blob starts so.
    pub fn waiting(&self) {
        self.change(State::Waiting);
    }

    /// Bytes are on their way.
    pub fn downloading(&self) {
        self.change(State::Downloading);
    }

    /// `bytes` are here from an earlier process, and the rest is going to come.
    pub fn resuming(&self, bytes: u64) {
        self.set(bytes);
        self.change(State::Resuming);
    }

    /// Another process is fetching it, this one waits; its process id, if it is known.
    pub fn held(&self, process: Option<u32>) {
        self.change(State::Held { process });
    }

    /// No bytes are on their way; after `pause`, the attempt numbered `attempt` of `attempts`
    /// starts. `why` says what the last one failed with. For a blob of several ranges, this is
    /// said when none of them gets on.
    pub fn retrying(&self, attempt: u32, attempts: u32, pause: Duration, why: &str) {
        let now = Instant::now();
        let at = now.checked_add(pause).unwrap_or(now);
        self.change(State::Retrying { attempt, attempts, at, why: escape(why).into() });
    }

    /// The registry asked not to be asked for anything before `until`.
    pub fn silent(&self, until: Instant) {
        let mut silent = lock(&self.pull.silent_until);
        *silent = silent.max(Some(until));
    }

    /// All bytes are here and are being checked.
    pub fn verifying(&self) {
        self.change(State::Verifying);
    }

    /// It was here before: its bytes are not part of the work.
    pub fn exists(&self) {
        self.change(State::Exists);
    }

    /// It is here, verified.
    pub fn complete(&self) {
        self.change(State::Complete);
    }

    /// It was given up.
    pub fn failed(&self) {
        self.change(State::Failed);
    }

    fn change(&self, next: State) {
        let mut slow = lock(&self.blob.slow);
        if slow.state.is_final() || slow.state == next {
            return;
        }
        // That its bytes are on their way is no news.
        if slow.state == State::Resuming && next == State::Downloading {
            return;
        }
        if next == State::Complete {
            self.blob.set(&mut slow, self.blob.size);
        }
        slow.state = next;
        // Still under the lock, so that the changes of one blob are shown in their order.
        if let Some(sink) = self.pull.sink.as_ref().filter(|_| !self.pull.has_ended()) {
            sink.changed(&self.blob.row(&slow, Instant::now()));
        }
    }
}

impl fmt::Debug for BlobProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobProgress")
            .field("name", &self.blob.name)
            .field("done", &self.blob.done)
            .field("size", &self.blob.size)
            .finish_non_exhaustive()
    }
}

/// What all handles of a pull share.
struct Pull {
    blobs: Vec<Arc<Blob>>,
    started: Instant,
    ended: AtomicBool,
    /// When the registry may be asked for more.
    silent_until: Mutex<Option<Instant>>,
    /// `None`: nobody looks.
    sink: Option<Arc<dyn Sink>>,
}

impl Pull {
    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// The thread that has snapshots shown.
    fn show_regularly(self: &Arc<Pull>, sink: &Arc<dyn Sink>) -> Ticker {
        let (pull, sink) = (Arc::clone(self), Arc::clone(sink));
        let mut pace = Pace::new(pull.started);
        Ticker::start(sink.interval(), move || {
            let now = Instant::now();
            let mut snapshot = pull.snapshot(now, None);
            snapshot.rate = pace.observe(now, snapshot.received);
            sink.progress(&snapshot);
        })
    }

    fn snapshot(&self, now: Instant, rate: Option<u64>) -> Snapshot<'_> {
        let mut received: i128 = 0;
        let rows = self.blobs.iter().map(|blob| {
            let slow = lock(&blob.slow);
            let row = blob.row(&slow, now);
            received += i128::from(row.done) - slow.carried;
            row
        });
        Snapshot {
            rows: rows.collect(),
            elapsed: now.saturating_duration_since(self.started),
            received: u64::try_from(received.max(0)).unwrap_or(u64::MAX),
            rate,
            silence: lock(&self.silent_until)
                .map(|until| until.saturating_duration_since(now))
                .filter(|left| !left.is_zero()),
        }
    }
}

/// One blob. Each is its own allocation, so that workers on different blobs rarely share a cache
/// line.
struct Blob {
    /// Escaped.
    name: String,
    size: u64,
    is_layer: bool,
    /// What is waited for.
    waiting: Waiting,
    /// Bytes that are here.
    done: AtomicU64,
    slow: Mutex<Slow>,
}

/// What seldom changes.
struct Slow {
    state: State,
    /// How much of `done` was not received but set; negative where received bytes were dropped.
    carried: i128,
}

impl Blob {
    fn new(Shown { name, size, is_layer }: Shown) -> Blob {
        Blob {
            name: escape(&name).into_owned(),
            size,
            is_layer,
            waiting: Waiting::default(),
            done: AtomicU64::new(0),
            slow: Mutex::new(Slow { state: State::Waiting, carried: 0 }),
        }
    }

    fn set(&self, slow: &mut Slow, bytes: u64) {
        let before = self.done.swap(bytes, Ordering::Relaxed);
        slow.carried += i128::from(bytes) - i128::from(before);
    }

    fn row(&self, slow: &Slow, now: Instant) -> Row<'_> {
        let done = self.done.load(Ordering::Relaxed);
        let receives = matches!(slow.state, State::Downloading | State::Resuming);
        Row {
            name: &self.name,
            size: self.size,
            done,
            state: slow.state.clone(),
            now,
            is_layer: self.is_layer,
            waited: self.waiting.observe(done, now).filter(|_| receives),
        }
    }
}

/// The rate over the last [`limits::RATE_WINDOW`].
struct Pace {
    /// Oldest first; the first is at least a window old once the pull is.
    samples: VecDeque<(Instant, u64)>,
}

impl Pace {
    fn new(started: Instant) -> Pace {
        Pace { samples: VecDeque::from([(started, 0)]) }
    }

    /// Takes a sample, and says how many bytes per second came of late.
    fn observe(&mut self, now: Instant, received: u64) -> Option<u64> {
        self.samples.push_back((now, received));
        let age = |at: Instant| now.saturating_duration_since(at);
        while self.samples.get(1).is_some_and(|&(at, _)| age(at) >= limits::RATE_WINDOW) {
            self.samples.pop_front();
        }
        let &(at, before) = self.samples.front()?;
        let elapsed = Some(age(at)).filter(|elapsed| !elapsed.is_zero())?;
        Some(format::per_second(received.saturating_sub(before), elapsed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Reporter, Verbosity};

    #[test]
    fn what_was_set_is_here_but_was_not_received() {
        let (reporter, _) = Reporter::captured(Verbosity::Quiet);
        let progress = reporter.pull([("a".to_owned(), 100), ("b".to_owned(), 50)]);
        let [a, b] = progress.blobs() else { panic!("two layers") };
        let check = |done: [u64; 2], received: u64| {
            let snapshot = progress.pull.snapshot(Instant::now(), None);
            let rows: Vec<u64> = snapshot.rows.iter().map(|row| row.done).collect();
            assert_eq!((rows, snapshot.received), (done.to_vec(), received));
        };
        check([0, 0], 0);
        a.set(40);
        check([40, 0], 0);
        a.add(10);
        b.add(5);
        check([50, 5], 15);
        // All over again: what was received stays received.
        a.set(0);
        check([0, 5], 15);
        a.add(100);
        a.complete();
        check([100, 5], 115);
        // A caller that forgot to count is set right.
        b.complete();
        check([100, 50], 115);
    }

    #[test]
    fn bytes_of_many_threads_are_all_counted() {
        let (reporter, _) = Reporter::captured(Verbosity::Quiet);
        let progress = reporter.pull([("a".to_owned(), 4_000)]);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let blob = progress.blobs()[0].clone();
                scope.spawn(move || (0..1_000).for_each(|_| blob.add(1)));
            }
        });
        assert_eq!(progress.pull.snapshot(Instant::now(), None).received, 4_000);
    }

    #[test]
    fn final_states_stay_and_nothing_is_said_after_the_end() {
        let (reporter, captured) = Reporter::captured(Verbosity::Normal);
        let names = ["a", "b", "c", "d"].map(|name| (name.to_owned(), 1));
        let progress = reporter.pull(names);
        let blobs = progress.blobs().to_vec();
        let [a, b, c, d] = &blobs[..] else { panic!("four layers") };
        a.complete();
        b.exists();
        c.failed();
        for blob in [a, b, c] {
            blob.downloading();
            blob.complete();
            blob.failed();
        }
        drop(progress);
        d.downloading();
        assert_eq!(
            captured.stderr(),
            "a: Pull complete\nb: Already exists\nc: Failed\n\
             stopped: 1 of 3 B, 2 of 4 layers complete\n"
        );
    }

    #[test]
    fn the_rate_is_that_of_the_window() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        assert_eq!(pace.observe(start, 0), None);
        // Milliseconds, bytes received so far, bytes per second.
        for (at, received, expected) in [
            (100, 100, 1_000),
            (1_000, 1_000, 1_000),
            (3_000, 9_000, 3_000),
            // The first second has left the window.
            (4_000, 9_000, 2_666),
            (6_000, 9_000, 0),
            (6_100, 9_000, 0),
            // Samples rarer than the window: since the last one.
            (16_100, 29_000, 2_000),
        ] {
            let now = start + Duration::from_millis(at);
            assert_eq!(pace.observe(now, received), Some(expected), "at {at} ms");
        }
        assert!(pace.samples.len() <= 2, "old samples are dropped");
    }
}
