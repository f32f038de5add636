//! Which connections are too slow to be kept, and which need help at the end: state only, with time
//! as an argument.
//!
//! ```text
//!   minimum    below the user's rate for as long as a receive may take     a failure, as silence is
//!   outpaced   a fraction of what others get at the same time              replaced, a few times
//!   split      connections are idle, and one has much to do               half of it goes to another
//! ```
//!
//! What holds all connections back is no fault of any of them: rates are compared with those of
//! others at the same time, and the time that `--limit-rate` takes does not count.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::lane::{Lane, Standing};
use crate::limits::{
    MIN_SPEED_TIME_MIN, OUTPACED_RATE_MIN, OUTPACED_SHARE, OUTPACED_TIME, REPLACEMENTS_MAX,
    SIBLING_SIZE_MIN, SIBLING_TIME_MAX, SIBLINGS_MIN, SIBLINGS_SEEN_MAX, SPLIT_AGE_MIN,
    SPLIT_SIZE_MIN,
};
use crate::report::format;

/// Why a connection is to be replaced. Rates are in bytes per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slow {
    /// Below the minimum that the user set.
    Minimum { rate: u64, least: u64, time: Duration },
    /// Far below what other connections get.
    Outpaced { rate: u64, others: u64 },
}

impl fmt::Display for Slow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Slow::Minimum { rate, least, time } => write!(
                f,
                "{} for {} while receiving the body, less than the minimum of {} (--min-speed)",
                format::rate(rate),
                format::duration(time),
                format::rate(least)
            ),
            Slow::Outpaced { rate, others } => write!(
                f,
                "{} while receiving the body, where other connections get {}",
                format::rate(rate),
                format::rate(others)
            ),
        }
    }
}

/// The least that a connection must bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Minimum {
    /// Bytes per second.
    rate: u64,
    /// Over so long.
    time: Duration,
}

impl Minimum {
    /// `rate` bytes per second over a receive's deadline: the same patience for silence and for
    /// little more than that.
    pub(super) fn new(rate: u64, recv_timeout: Duration) -> Minimum {
        Minimum { rate, time: recv_timeout.max(MIN_SPEED_TIME_MIN) }
    }
}

/// All connections that are receiving, and how fast those were that did of late.
#[derive(Debug, Default)]
pub(super) struct Watch {
    minimum: Option<Minimum>,
    watched: Vec<Watched>,
    /// When pieces were whole, and at what rate; latest last.
    finished: VecDeque<(Instant, u64)>,
}

/// A connection that is receiving.
#[derive(Debug)]
struct Watched {
    /// The piece's number.
    piece: u64,
    blob: usize,
    /// How often its bytes were asked for again because others were faster.
    replaced: u32,
    lane: Arc<Lane>,
    /// Over [`OUTPACED_TIME`].
    recent: History,
    /// Over the minimum's time.
    long: History,
    /// When it was last seen to have received something, or to be held back.
    moved_at: Instant,
    /// Its task was told to give up.
    told: bool,
}

impl Watch {
    pub(super) fn new(minimum: Option<Minimum>) -> Watch {
        Watch { minimum, ..Watch::default() }
    }

    /// A piece's answer has begun.
    pub(super) fn begin(
        &mut self,
        piece: u64,
        blob: usize,
        replaced: u32,
        lane: &Arc<Lane>,
        now: Instant,
    ) {
        let long = self.minimum.map_or(OUTPACED_TIME, |minimum| minimum.time);
        let sample = Sample::of(lane, now);
        self.watched.push(Watched {
            piece,
            blob,
            replaced,
            lane: Arc::clone(lane),
            recent: History::new(OUTPACED_TIME, sample),
            long: History::new(long, sample),
            moved_at: now,
            told: false,
        });
    }

    /// A piece has ended, one way or another.
    pub(super) fn end(&mut self, piece: u64) {
        self.watched.retain(|watched| watched.piece != piece);
    }

    /// A piece of `size` bytes was received whole.
    pub(super) fn finished(&mut self, size: u64, took: Duration, now: Instant) {
        if size < SIBLING_SIZE_MIN {
            return;
        }
        self.finished.push_back((now, format::per_second(size, took)));
        if self.finished.len() > SIBLINGS_SEEN_MAX {
            self.finished.pop_front();
        }
    }

    /// Looks at all connections; to be called at regular intervals.
    pub(super) fn observe(&mut self, now: Instant) {
        for watched in &mut self.watched {
            let sample = Sample::of(&watched.lane, now);
            if (sample.bytes, sample.held) != (watched.long.latest.bytes, watched.long.latest.held)
            {
                watched.moved_at = now;
            }
            watched.recent.observe(sample);
            watched.long.observe(sample);
        }
    }

    /// Tells those that are too slow to give up. `tail`: connections are idle, and nothing is
    /// missing. `replaceable`: whether a blob can be gone on with anywhere.
    pub(super) fn tell_the_slow(
        &mut self,
        tail: bool,
        replaceable: impl Fn(usize) -> bool,
        now: Instant,
    ) {
        for index in 0..self.watched.len() {
            let slow =
                self.too_slow(index, now).or_else(|| self.outpaced(index, tail, &replaceable, now));
            if let (Some(slow), Some(watched)) = (slow, self.watched.get_mut(index)) {
                watched.told = true;
                watched.lane.replace(slow);
            }
        }
    }

    fn too_slow(&self, index: usize, now: Instant) -> Option<Slow> {
        let Minimum { rate: least, time } = self.minimum?;
        let watched = self.watched.get(index)?;
        let rate = watched.long.rate()?;
        // Silence is first a matter of the receive's own deadline, which is no longer than this: two that
        // come at the same time must not race for what the failure is called. What is no silence to it,
        // such as a chunk's extension that never ends, is slow all the same.
        let silent = now.saturating_duration_since(watched.moved_at);
        (rate < least && (watched.long.moved() || silent > time + time / 4))
            .then_some(Slow::Minimum { rate, least, time })
    }

    fn outpaced(
        &self,
        index: usize,
        tail: bool,
        replaceable: impl Fn(usize) -> bool,
        now: Instant,
    ) -> Option<Slow> {
        let watched = self.watched.get(index)?;
        if watched.told || watched.replaced >= REPLACEMENTS_MAX || !replaceable(watched.blob) {
            return None;
        }
        let rate = watched.recent.rate()?;
        // While others are busy, only what they do meanwhile counts: the line itself may have become
        // slow. Once they are idle it is free.
        let lately = if tail { SIBLING_TIME_MAX } else { OUTPACED_TIME };
        let finished = self
            .finished
            .iter()
            .filter(|(at, _)| now.saturating_duration_since(*at) < lately)
            .map(|(_, rate)| *rate);
        let others = self.watched.iter().filter(|other| other.piece != watched.piece);
        let mut others: Vec<u64> =
            others.filter_map(|other| other.recent.rate()).chain(finished).collect();
        if others.len() < SIBLINGS_MIN {
            return None;
        }
        others.sort_unstable();
        let others = *others.get(others.len() / 2)?;
        let slow = others >= OUTPACED_RATE_MIN && rate < others / OUTPACED_SHARE;
        slow.then_some(Slow::Outpaced { rate, others })
    }

    /// Takes the back half from the connection that would be busy longest, if that is at least `least`:
    /// which blob, and which bytes of it.
    pub(super) fn split(
        &self,
        least: Duration,
        replaceable: impl Fn(usize) -> bool,
    ) -> Option<(usize, std::ops::Range<u64>)> {
        let candidates = self.watched.iter().filter(|watched| replaceable(watched.blob));
        let left = candidates.filter_map(|watched| {
            let Standing { at, end, .. } = watched.lane.standing();
            let rate = watched.recent.average(SPLIT_AGE_MIN)?;
            let seconds = end.saturating_sub(at) / rate.max(1);
            (seconds >= least.as_secs()).then_some((seconds, watched))
        });
        let (_, slowest) = left.max_by_key(|(seconds, _)| *seconds)?;
        Some((slowest.blob, slowest.lane.cut(SPLIT_SIZE_MIN)?))
    }

    /// Bytes that connections are still to receive.
    pub(super) fn left(&self) -> u64 {
        let standings = self.watched.iter().map(|watched| watched.lane.standing());
        standings.map(|Standing { at, end }| end.saturating_sub(at)).sum()
    }

    /// Bytes of a blob that connections have received since they were asked for them.
    pub(super) fn received(&self, blob: usize) -> u64 {
        let of_blob = self.watched.iter().filter(|watched| watched.blob == blob);
        of_blob.map(|watched| watched.lane.standing().at - watched.long.start).sum()
    }
}

/// How far a connection was at some moments of the past, up to a window ago.
#[derive(Debug)]
struct History {
    window: Duration,
    /// The first byte that was to come.
    start: u64,
    /// Oldest first; the first is at least a window old once the connection is.
    samples: VecDeque<Sample>,
    latest: Sample,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Instant,
    bytes: u64,
    held: Duration,
}

impl History {
    fn new(window: Duration, latest: Sample) -> History {
        History { window, start: latest.bytes, samples: VecDeque::from([latest]), latest }
    }

    fn observe(&mut self, latest: Sample) {
        /// Samples kept of a window: its ends are as exact as that.
        const SAMPLES: u32 = 16;
        self.latest = latest;
        let age = |sample: &Sample| latest.at.saturating_duration_since(sample.at);
        if self.samples.back().is_none_or(|last| age(last) >= self.window / SAMPLES) {
            self.samples.push_back(self.latest);
        }
        while self.samples.get(1).is_some_and(|next| age(next) >= self.window) {
            self.samples.pop_front();
        }
    }

    /// Whether anything came within the window.
    fn moved(&self) -> bool {
        self.samples.front().is_some_and(|first| self.latest.bytes > first.bytes)
    }

    /// Bytes per second over the window; `None` while it is younger, or was held back for most of it.
    fn rate(&self) -> Option<u64> {
        self.average(self.window)
    }

    /// The same of a connection that is at least so old.
    fn average(&self, least: Duration) -> Option<u64> {
        let first = self.samples.front()?;
        let elapsed = self.latest.at.saturating_duration_since(first.at);
        let active = elapsed.saturating_sub(self.latest.held.saturating_sub(first.held));
        if elapsed < least || active < elapsed / 2 {
            return None;
        }
        Some(format::per_second(self.latest.bytes - first.bytes, active))
    }
}

impl Sample {
    fn of(lane: &Lane, now: Instant) -> Sample {
        Sample { at: now, bytes: lane.standing().at, held: lane.held(now) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::SPLIT_TIME_MIN;

    const MIB: u64 = 1 << 20;
    const TICK: Duration = Duration::from_millis(100);

    /// Connections that bring so many bytes per tick, and what they are told.
    struct Scene {
        watch: Watch,
        lanes: Vec<Arc<Lane>>,
        now: Instant,
    }

    impl Scene {
        fn new(minimum: Option<Minimum>, count: u64) -> Scene {
            let mut scene =
                Scene { watch: Watch::new(minimum), lanes: Vec::new(), now: Instant::now() };
            (0..count).for_each(|_| scene.begin(0));
            scene
        }

        fn begin(&mut self, replaced: u32) {
            let lane = Arc::new(Lane::new(0..1000 * MIB));
            let piece = self.lanes.len() as u64;
            self.watch.begin(piece, 0, replaced, &lane, self.now);
            self.lanes.push(lane);
        }

        /// So many ticks; how many bytes a connection gets in one is a function of its place.
        fn run(&mut self, ticks: u32, bytes: impl Fn(usize) -> u64) {
            for _ in 0..ticks {
                self.now += TICK;
                for (index, lane) in self.lanes.iter().enumerate() {
                    lane.take(usize::try_from(bytes(index)).unwrap());
                }
                self.watch.observe(self.now);
                self.watch.tell_the_slow(false, |_| true, self.now);
            }
        }

        /// The places of those that were told.
        fn told(&self) -> Vec<u64> {
            let told = self.watch.watched.iter().filter(|watched| watched.told);
            told.map(|watched| watched.piece).collect()
        }
    }

    /// The ticks of [`OUTPACED_TIME`].
    const LONG: u32 = 20;

    #[test]
    fn one_among_fast_ones_is_replaced() {
        let mut scene = Scene::new(None, 8);
        let bytes = |index| if index == 3 { 1 } else { MIB };
        scene.run(LONG - 1, bytes);
        assert_eq!(scene.told(), [0; 0], "it may be slow to begin");
        scene.run(1, bytes);
        assert_eq!(scene.told(), [3]);
    }

    #[test]
    fn one_that_falls_silent_is_replaced() {
        let mut scene = Scene::new(None, 8);
        scene.run(50, |_| MIB);
        scene.run(LONG, |index| if index == 3 { 0 } else { MIB });
        assert_eq!(scene.told(), [3]);
    }

    #[test]
    fn an_eighth_is_enough() {
        let mut scene = Scene::new(None, 8);
        scene.run(5 * LONG, |index| if index == 3 { MIB / 8 } else { MIB });
        assert_eq!(scene.told(), [0; 0]);
    }

    #[test]
    fn what_is_slow_for_all_is_nobodys_fault() {
        let mut scene = Scene::new(None, 8);
        scene.run(50, |_| MIB);
        scene.run(50, |_| 100);
        scene.run(50, |_| 0);
        assert_eq!(scene.told(), [0; 0]);
        // Too little to compare: packets come when they come.
        let mut scene = Scene::new(None, 8);
        scene.run(50, |index| if index == 3 { 0 } else { 1 << 10 });
        assert_eq!(scene.told(), [0; 0]);
    }

    #[test]
    fn one_is_judged_by_its_companion_and_alone_by_nobody() {
        let mut scene = Scene::new(None, 1);
        scene.run(50, |_| MIB);
        scene.run(2 * LONG, |_| MIB / 50);
        assert_eq!(scene.told(), [0; 0], "the line may be slow");
        scene.begin(0);
        scene.run(LONG, |index| if index == 0 { MIB / 50 } else { MIB });
        assert_eq!(scene.told(), [0]);
    }

    #[test]
    fn what_was_held_back_is_not_slow() {
        let mut scene = Scene::new(Some(Minimum::new(MIB, OUTPACED_TIME)), 8);
        for _ in 0..50 {
            let now = scene.now;
            scene.lanes[3].hold(now, now + TICK);
            scene.run(1, |index| if index == 3 { 0 } else { MIB });
        }
        assert_eq!(scene.told(), [0; 0]);
    }

    #[test]
    fn a_pause_longer_than_the_window_is_not_slow() {
        let mut scene = Scene::new(Some(Minimum::new(MIB, OUTPACED_TIME)), 1);
        scene.lanes[0].hold(scene.now, scene.now + TICK * 3 * LONG);
        scene.run(3 * LONG, |_| 0);
        assert_eq!(scene.told(), [0; 0]);
        scene.run(LONG, |_| 1);
        assert_eq!(scene.told(), [0], "but what follows may be");
    }

    #[test]
    fn silence_is_left_to_the_deadline_and_less_than_a_byte_a_second_is_not() {
        let mut scene = Scene::new(Some(Minimum::new(MIB, OUTPACED_TIME)), 1);
        scene.run(LONG * 5 / 4, |_| 0);
        assert_eq!(scene.told(), [0; 0]);
        scene.run(1, |_| 0);
        assert_eq!(scene.told(), [0], "no deadline has ended it");
        let mut scene = Scene::new(Some(Minimum::new(MIB, 10 * OUTPACED_TIME)), 1);
        scene.lanes[0].take(1);
        scene.run(10 * LONG, |_| 0);
        assert_eq!(scene.told(), [0]);
    }

    #[test]
    fn nothing_is_replaced_for_ever() {
        for (replaced, expected) in [(REPLACEMENTS_MAX - 1, vec![8]), (REPLACEMENTS_MAX, vec![])] {
            let mut scene = Scene::new(None, 8);
            scene.begin(replaced);
            scene.run(50, |index| if index == 8 { 0 } else { MIB });
            assert_eq!(scene.told(), expected);
        }
    }

    #[test]
    fn what_cannot_be_gone_on_with_is_kept() {
        let mut scene = Scene::new(None, 8);
        for _ in 0..50 {
            scene.now += TICK;
            scene.lanes.iter().skip(1).for_each(|lane| {
                lane.take(MIB as usize);
            });
            scene.watch.observe(scene.now);
            scene.watch.tell_the_slow(false, |_| false, scene.now);
        }
        assert_eq!(scene.told(), [0; 0]);
    }

    #[test]
    fn the_last_one_is_compared_with_those_before_it() {
        let mut scene = Scene::new(None, 1);
        (0..3).for_each(|_| scene.watch.finished(MIB, TICK, scene.now));
        scene.run(5 * LONG, |_| 0);
        assert_eq!(scene.told(), [0; 0], "the line may have become slow");
        scene.watch.tell_the_slow(true, |_| true, scene.now);
        assert_eq!(scene.told(), [0]);
    }

    #[test]
    fn below_the_minimum_is_too_slow_though_alone() {
        let time = Duration::from_secs(4);
        let mut scene = Scene::new(Some(Minimum::new(1000, time)), 1);
        scene.run(39, |_| 99);
        assert_eq!(scene.told(), [0; 0]);
        scene.run(1, |_| 99);
        assert_eq!(scene.told(), [0]);
        let mut scene = Scene::new(Some(Minimum::new(1000, time)), 1);
        scene.run(100, |_| 100);
        assert_eq!(scene.told(), [0; 0]);
        // Long after a good beginning.
        scene.run(41, |_| 99);
        assert_eq!(scene.told(), [0]);
    }

    #[test]
    fn the_longest_rest_is_split() {
        let mut scene = Scene::new(None, 3);
        scene.run(10, |index| [30, 10, 20][index] * MIB);
        // 700, 900 and 800 MiB are left.
        let (blob, range) = scene.watch.split(SPLIT_TIME_MIN, |_| true).unwrap();
        assert_eq!((blob, range), (0, 550 * MIB..1000 * MIB));
        assert_eq!(scene.lanes[1].standing().end, 550 * MIB);
        assert_eq!(scene.watch.split(SPLIT_TIME_MIN, |_| false), None);
    }

    #[test]
    fn what_ends_soon_is_not_split() {
        let mut scene = Scene::new(None, 1);
        scene.run(2, |_| MIB);
        assert_eq!(scene.watch.split(SPLIT_TIME_MIN, |_| true), None, "its rate is not known yet");
        scene.run(6, |_| 120 * MIB);
        assert_eq!(scene.watch.split(SPLIT_TIME_MIN, |_| true), None);
    }

    #[test]
    fn bytes_under_way_are_counted() {
        let mut scene = Scene::new(None, 3);
        scene.run(2, |_| MIB);
        assert_eq!((scene.watch.received(0), scene.watch.received(1)), (6 * MIB, 0));
    }
}
