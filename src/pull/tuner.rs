//! How many connections are worth having: more while that brings more, fewer when a server objects.
//!
//! ```text
//!            all wanted are busy, cores idle, the rest is worth it
//!   Steady ───────────────────────────────────→ Trying: twice as many, and again as soon as all bring bytes
//!     ↑                                            │ brought in proportion: kept
//!     │                                            │ brought some: as many as that takes
//!     └── after a while ── Resting ←───────────────┘ brought nothing: back to those before
//! ```
//!
//! Servers that limit a connection send in bursts, often one a second. So rates are bytes over a window
//! that covers [`TUNER_RHYTHM`], unless the bytes come evenly. A burst at the very beginning was paid for
//! by nothing: until a whole window has passed, it is spread over one.
//!
//! State only: the clock and the measurements are arguments.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::limits::{
    CONNECTIONS_AUTO, TUNER_BACK_OFF_MIN, TUNER_BURST_RATE, TUNER_CPU_SHARE_FAIR,
    TUNER_CPU_SHARE_LITTLE, TUNER_CPU_SHARE_MAX, TUNER_EVEN_TICKS_MIN, TUNER_GAIN_BEYOND,
    TUNER_GAIN_MIN, TUNER_GAIN_QUICK, TUNER_INTERVAL, TUNER_REST, TUNER_RHYTHM,
    TUNER_SPREAD_CPU_MAX, TUNER_TICKS_MAX, TUNER_WORTH,
};
use crate::report::format;

/// What was measured at a tick.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    /// Bytes received since the pull began to fetch blobs.
    pub(super) bytes: u64,
    /// Bytes that are still to come.
    pub(super) left: u64,
    /// What all cores did since the last tick.
    pub(super) cpu: Cpu,
    /// Whether all connections wanted were busy.
    pub(super) saturated: bool,
    /// Whether all that are busy have begun to bring bytes.
    pub(super) flowing: bool,
}

/// Shares of the time of all cores of the machine, in per cent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cpu {
    /// Of this process.
    pub(super) used: u64,
    /// Of this process, with what it was ready to use and did not get.
    pub(super) wanted: u64,
    /// In which they had nothing to do.
    pub(super) idle: u64,
}

impl Cpu {
    /// How much of what this process could have it has, in per cent. What others use is theirs, if
    /// this process wants much itself; one that wants little waits for the network, and a busy
    /// neighbour must not keep it small. Nor is one short of cores that uses next to nothing: on a
    /// crowded machine each wait for one is long, and looks like work.
    fn saturation(self) -> u64 {
        match self.wanted {
            _ if self.used < TUNER_CPU_SHARE_LITTLE => self.used,
            TUNER_CPU_SHARE_FAIR.. => self.used * 100 / (self.used + self.idle).max(1),
            wanted => wanted,
        }
    }

    /// Whether a thread more would find a core.
    pub(super) fn has_idle_core(self, cores: usize) -> bool {
        self.idle * cores as u64 >= 100 / 2
    }

    /// Whether several connections should share a blob, where they do so `already`. On cores
    /// that are never idle that only adds work: what is received out of order is read back to be
    /// hashed.
    pub(super) fn spreads(self, already: bool) -> bool {
        let bound = if already { TUNER_SPREAD_CPU_MAX } else { TUNER_CPU_SHARE_MAX };
        self.saturation() <= bound
    }
}

/// Bytes over time: the last [`TUNER_RHYTHM`], or less from its start.
#[derive(Debug, Clone)]
struct Window {
    /// When so many bytes had been received; oldest first, never empty once it was started.
    samples: VecDeque<(Instant, u64)>,
}

impl Window {
    fn starting(now: Instant, bytes: u64) -> Window {
        Window { samples: VecDeque::from([(now, bytes)]) }
    }

    fn add(&mut self, now: Instant, bytes: u64) {
        self.samples.push_back((now, bytes));
        let is_old = |(at, _): &(Instant, u64)| now.saturating_duration_since(*at) >= TUNER_RHYTHM;
        while self.samples.get(1).is_some_and(is_old) {
            self.samples.pop_front();
        }
    }

    fn elapsed(&self) -> Duration {
        match (self.samples.front(), self.samples.back()) {
            (Some((first, _)), Some((last, _))) => last.saturating_duration_since(*first),
            _ => Duration::ZERO,
        }
    }

    fn bytes(&self) -> u64 {
        match (self.samples.front(), self.samples.back()) {
            (Some((_, first)), Some((_, last))) => last.saturating_sub(*first),
            _ => 0,
        }
    }

    /// Whether it covers a server's rhythm.
    fn is_whole(&self) -> bool {
        self.elapsed() >= TUNER_RHYTHM
    }

    /// Whether bytes came in nearly all of its ticks, so that a part of it tells as much as the whole.
    fn is_even(&self) -> bool {
        let ticks = self.samples.len().saturating_sub(1);
        let mean = self.bytes() / ticks.max(1) as u64;
        let pairs = self.samples.iter().zip(self.samples.iter().skip(1));
        let active = pairs.filter(|((_, before), (_, after))| after - before > mean / 4).count();
        ticks >= TUNER_EVEN_TICKS_MIN && active * 4 >= ticks * 3
    }

    /// Whether its rate can be relied on, or is as good as it gets before a second has passed.
    fn is_telling(&self) -> bool {
        self.samples.len() > TUNER_EVEN_TICKS_MIN
    }

    /// Bytes per second, as they came.
    fn rate(&self) -> u64 {
        format::per_second(self.bytes(), self.elapsed().max(Duration::from_millis(1)))
    }

    /// Whether bytes may be coming in bursts. What a few connections brought in a part of a second says
    /// little where that is less than a burst.
    fn is_bursty(&self, connections: usize) -> bool {
        let is_little = self.rate() / connections.max(1) as u64 <= TUNER_BURST_RATE;
        !self.is_even() || (is_little && !self.is_whole())
    }

    /// Bytes per second, where a first burst counts as what it may be: a whole second's worth.
    fn prudent_rate(&self, connections: usize) -> u64 {
        match self.is_whole() || !self.is_bursty(connections) {
            true => self.rate(),
            false => format::per_second(self.bytes(), self.elapsed() + Duration::from_secs(1)),
        }
    }
}

/// Chooses the number of connections.
#[derive(Debug)]
pub(super) struct Tuner {
    target: usize,
    most: usize,
    is_free: bool,
    state: State,
    /// Bytes per second at which nothing more is wanted: the user's limit.
    enough: Option<u64>,
    /// What all connections brought when that was last looked at, in bytes per second.
    rate: u64,
    /// What a connection brought lately, in bytes per second.
    rate_each: Option<u64>,
    /// How long the next rest is.
    rest: Duration,
    /// When a server objected last.
    backed_off: Option<Instant>,
}

/// A number of connections, and what they brought in bytes per second.
#[derive(Debug, Clone, Copy)]
struct Known {
    connections: usize,
    rate: u64,
    /// The same, if the bytes came evenly after all.
    even_rate: u64,
    /// Bytes came in bursts: what more connections bring is judged by a whole window only.
    bursty: bool,
}

#[derive(Debug, Clone)]
enum State {
    /// No byte has come.
    Waiting,
    Steady {
        window: Window,
    },
    /// More connections were added, and so many ticks have passed since.
    Trying {
        before: Known,
        ticks: u32,
    },
    /// All of them bring bytes: what comes from now on counts.
    Measuring {
        before: Known,
        window: Window,
    },
    Resting {
        until: Instant,
        /// What came when the rest began.
        rate: u64,
        window: Window,
    },
}

impl Tuner {
    /// Starts with `first` connections and never has more than `most`.
    pub(super) fn new(first: usize, most: usize) -> Tuner {
        let most = most.max(1);
        let target = first.clamp(1, most);
        Tuner {
            target,
            most,
            is_free: target < most,
            state: State::Waiting,
            enough: None,
            rate: 0,
            rate_each: None,
            rest: TUNER_REST,
            backed_off: None,
        }
    }

    /// Nothing is tried to get more than this, in bytes per second.
    pub(super) fn set_limit(&mut self, limit_rate: Option<u64>) {
        // What a limit lets through is never measured exactly.
        self.enough = limit_rate.map(|rate| rate - rate / 5);
    }

    /// Whether there is anything to choose.
    pub(super) fn is_free(&self) -> bool {
        self.is_free
    }

    /// The number of connections wanted now.
    pub(super) fn target(&self) -> usize {
        self.target
    }

    /// What all bring now, in bytes per second.
    pub(super) fn rate(&self) -> u64 {
        self.rate
    }

    /// What each connection brings, in bytes per second, once that is known.
    pub(super) fn rate_each(&self) -> Option<u64> {
        self.rate_each
    }

    /// Takes a measurement; to be called every [`TUNER_INTERVAL`].
    pub(super) fn tick(&mut self, measured: Measured, now: Instant) {
        let bytes = measured.bytes;
        match std::mem::replace(&mut self.state, State::Waiting) {
            State::Waiting if bytes == 0 => {}
            State::Waiting => {
                // The first bytes came before the last tick, which is the first that is measured.
                let start = now.checked_sub(2 * TUNER_INTERVAL).unwrap_or(now);
                let mut window = Window::starting(start, 0);
                window.add(now, bytes);
                self.state = State::Steady { window };
            }
            State::Steady { mut window } => {
                window.add(now, bytes);
                self.learn(&window);
                self.state = match self.try_more(&window, measured) {
                    Some(before) => State::Trying { before, ticks: 0 },
                    None => State::Steady { window },
                };
            }
            State::Trying { before, ticks } => {
                self.state = match measured.flowing || ticks >= TUNER_TICKS_MAX {
                    // Where bytes come in bursts, a judgement takes a second. What is slow enough to
                    // need many connections is not hurt by some that it does not need, for so long.
                    true if before.bursty && measured.flowing && self.add(measured, &before) => {
                        State::Trying { before, ticks: 0 }
                    }
                    true => State::Measuring { before, window: Window::starting(now, bytes) },
                    false => State::Trying { before, ticks: ticks + 1 },
                };
            }
            State::Measuring { before, mut window } => {
                window.add(now, bytes);
                self.rate = window.rate();
                self.state = self.judge(before, window, measured, now);
            }
            State::Resting { until, rate, mut window } => {
                window.add(now, bytes);
                self.learn(&window);
                let fell = window.is_whole() && window.rate() < rate / 4;
                self.state = match now >= until || fell {
                    true => State::Steady { window },
                    false => State::Resting { until, rate, window },
                };
            }
        }
    }

    /// A server objected: half as many, and no more for a while. What comes at once from several
    /// connections is one objection.
    pub(super) fn back_off(&mut self, now: Instant) {
        let since = self.backed_off.map(|at| now.saturating_duration_since(at));
        if since.is_some_and(|since| since < TUNER_BACK_OFF_MIN) {
            return;
        }
        self.backed_off = Some(now);
        self.target = (self.target / 2).max(1);
        let window = match std::mem::replace(&mut self.state, State::Waiting) {
            State::Steady { window }
            | State::Measuring { window, .. }
            | State::Resting { window, .. } => window,
            // It has no sample yet; the next tick brings one.
            State::Waiting | State::Trying { .. } => Window { samples: VecDeque::new() },
        };
        self.rest_until(window, 0, now);
    }

    /// Notes what each connection brings.
    fn learn(&mut self, window: &Window) {
        self.rate = window.rate();
        if window.is_telling() {
            let rate = window.prudent_rate(self.target);
            self.rate_each = Some(rate / self.target.max(1) as u64);
        }
    }

    /// Asks for more connections, if those that there are may be too few; what these brought.
    fn try_more(&mut self, window: &Window, measured: Measured) -> Option<Known> {
        let beyond = self.target >= CONNECTIONS_AUTO;
        let bursty = window.is_bursty(self.target);
        // At first, a third of a second is enough to see that more may bring more, not how much.
        if !window.is_telling() || (beyond && !window.is_whole()) {
            return None;
        }
        // A burst that has just begun looks faster than it is: then the rest looks shorter, too.
        if measured.left < window.rate().saturating_mul(TUNER_WORTH.as_secs()) {
            return None;
        }
        let rate = window.prudent_rate(self.target);
        let before = Known {
            connections: self.target,
            rate,
            even_rate: window.rate(),
            bursty: bursty && !beyond,
        };
        (self.enough.is_none_or(|enough| window.rate() < enough) && self.add(measured, &before))
            .then_some(before)
    }

    /// Doubles what is wanted, within bounds; whether it did.
    fn add(&mut self, measured: Measured, before: &Known) -> bool {
        // Beyond what any server expects, only from a number that was measured.
        let bound = match before.connections >= CONNECTIONS_AUTO {
            true => self.most,
            false => self.most.min(CONNECTIONS_AUTO),
        };
        // Where our own cores are the limit, more connections only add work.
        if !measured.saturated
            || measured.cpu.saturation() > TUNER_CPU_SHARE_MAX
            || self.target >= bound
        {
            return false;
        }
        self.target = (self.target * 2).min(bound);
        true
    }

    /// What becomes of connections that were added.
    fn judge(&mut self, before: Known, window: Window, measured: Measured, now: Instant) -> State {
        let grown = (self.target as u64 * 100 / before.connections as u64).saturating_sub(100);
        let beyond = before.connections >= CONNECTIONS_AUTO;
        // A whole window tells what a part of one could not: whether there were bursts.
        let is_even = window.is_whole() && window.is_even();
        let rate_before = if is_even { before.even_rate } else { before.rate };
        let gain = |rate: u64| (rate.saturating_mul(100) / rate_before.max(1)).saturating_sub(100);
        // Soon, if they bring what they should.
        let quick = gain(window.rate()) >= grown * TUNER_GAIN_QUICK / 100;
        if quick && !before.bursty && !beyond {
            self.rest = TUNER_REST;
            return match self.add(measured, &before) {
                true => State::Trying { before, ticks: 0 },
                false => State::Steady { window },
            };
        }
        if !window.is_whole() {
            return State::Measuring { before, window };
        }
        self.learn(&window);
        let gain = gain(window.rate());
        if !measured.saturated {
            // There was not enough to do for all of them: that says nothing.
            return State::Steady { window };
        }
        let enough = if beyond { TUNER_GAIN_BEYOND } else { TUNER_GAIN_MIN };
        if gain < enough {
            self.target = before.connections;
            self.rest_until(window, rate_before, now);
            return std::mem::replace(&mut self.state, State::Waiting);
        }
        // As many as would bring that, and half of that more: shares differ.
        let worth = (before.connections as u64).saturating_mul(100 + gain) * 3 / 200;
        let worth = usize::try_from(worth).unwrap_or(usize::MAX);
        self.target = self.target.min(worth.max(before.connections));
        let rate = window.rate();
        if gain >= grown * TUNER_GAIN_QUICK / 100 {
            self.rest = TUNER_REST;
            return State::Steady { window };
        }
        self.rest_until(window, rate, now);
        std::mem::replace(&mut self.state, State::Waiting)
    }

    /// Each rest is twice as long as the one before, up to eight times the first.
    fn rest_until(&mut self, window: Window, rate: u64, now: Instant) {
        let until = now.checked_add(self.rest).unwrap_or(now);
        self.rest = (self.rest * 2).min(TUNER_REST * 8);
        self.state = State::Resting { until, rate, window };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    const IDLE: Cpu = Cpu { used: 10, wanted: 10, idle: 90 };

    /// How a simulated server lets a connection have its bytes.
    #[derive(Clone, Copy, PartialEq)]
    enum Flow {
        Even,
        /// A second's worth at once, then nothing for a second: nginx's `limit_rate`.
        Bursts,
    }

    /// A line on which a connection gets `each`, and all together get `all`, bytes per second.
    struct Scene {
        tuner: Tuner,
        now: Instant,
        each: u64,
        all: u64,
        flow: Flow,
        cpu: Cpu,
        /// What is still to come.
        left: u64,
        bytes: u64,
        /// What the server has sent and the line has not brought yet.
        queued: u64,
        /// For how many ticks each connection has been there; it is silent in the first.
        ages: Vec<u32>,
        highest: usize,
    }

    impl Scene {
        fn new(first: usize, most: usize, each: u64, all: u64, flow: Flow) -> Scene {
            Scene {
                tuner: Tuner::new(first, most),
                now: Instant::now(),
                each,
                all,
                flow,
                cpu: IDLE,
                left: u64::MAX / 1000,
                bytes: 0,
                queued: 0,
                ages: Vec::new(),
                highest: 0,
            }
        }

        /// So many ticks; the number of connections wanted then.
        fn run(&mut self, ticks: usize) -> usize {
            let per_second = 1000 / TUNER_INTERVAL.as_millis() as u32 + 1;
            let tick = |rate: u64| rate * TUNER_INTERVAL.as_millis() as u64 / 1000;
            for _ in 0..ticks {
                self.ages.resize(self.tuner.target(), 0);
                let (each, flow) = (self.each, self.flow);
                let of_one = |age: &u32| match (age, flow) {
                    (0, _) => 0,
                    (_, Flow::Even) => tick(each),
                    (age, Flow::Bursts) if (age - 1).is_multiple_of(per_second) => each,
                    (_, Flow::Bursts) => 0,
                };
                self.queued += self.ages.iter().map(of_one).sum::<u64>();
                let came = self.queued.min(tick(self.all));
                self.queued -= came;
                self.bytes += came;
                self.left = self.left.saturating_sub(came);
                let flowing = !self.ages.contains(&0);
                self.ages.iter_mut().for_each(|age| *age += 1);
                let (bytes, left, cpu) = (self.bytes, self.left, self.cpu);
                let measured = Measured { bytes, left, cpu, saturated: true, flowing };
                // The tick in which the first bytes come is measured by nobody.
                if bytes > came {
                    self.tuner.tick(measured, self.now);
                }
                self.highest = self.highest.max(self.tuner.target());
                self.now += TUNER_INTERVAL;
            }
            self.tuner.target()
        }

        /// After so many seconds.
        fn run_for(&mut self, seconds: usize) -> usize {
            self.run(seconds * 1000 / TUNER_INTERVAL.as_millis() as usize)
        }
    }

    /// No line is as fast.
    const OPEN: u64 = 1 << 50;

    #[test]
    fn a_cap_on_each_connection_is_met_with_sixteen_within_two_seconds() {
        for each in [60 << 10, 250 << 10, MIB, 5 * MIB, 40 * MIB] {
            for flow in [Flow::Even, Flow::Bursts] {
                for first in [1, 2, 6] {
                    let mut scene = Scene::new(first, 16, each, OPEN, flow);
                    assert_eq!(scene.run_for(2), 16, "{first} connections of {each}");
                }
            }
        }
    }

    #[test]
    fn beyond_sixteen_connections_are_doubled_only_where_that_was_measured() {
        for flow in [Flow::Even, Flow::Bursts] {
            let mut scene = Scene::new(1, 32, MIB, OPEN, flow);
            scene.run_for(8);
            assert_eq!((scene.tuner.target(), scene.highest), (32, 32));
            // A quarter more is no reason to have twice as many.
            let mut scene = Scene::new(1, 32, MIB, 20 * MIB, flow);
            assert_eq!(scene.run_for(2), 16);
            let more = (0..400).filter(|_| scene.run(1) > 16).count();
            assert!(scene.highest == 32 && more < 100, "{more} ticks of 400");
        }
    }

    #[test]
    fn it_stops_where_more_brings_nothing() {
        let mut scene = Scene::new(4, 128, 100 * MIB, 1000 * MIB, Flow::Even);
        let target = scene.run_for(2);
        assert!((10..=16).contains(&target) && scene.highest == 16, "{target}");
    }

    #[test]
    fn a_line_that_a_few_fill_is_not_left_to_sixteen() {
        for flow in [Flow::Even, Flow::Bursts] {
            let mut scene = Scene::new(1, 32, MIB, 4 * MIB, flow);
            // But for what is tried again now and then.
            let fit = (0..800).filter(|_| (4..=8).contains(&scene.run(1))).count();
            assert!(fit > 600, "{fit} ticks of 800");
        }
    }

    #[test]
    fn one_connection_that_fills_the_line_stays_nearly_alone() {
        for rate in [10 * MIB, 1000 * MIB] {
            let mut scene = Scene::new(1, 128, rate, rate, Flow::Even);
            assert_eq!((scene.run_for(2), scene.highest), (1, 2), "{rate}");
            // It is tried again now and then, and each time for longer not.
            let tried = (0..30).filter(|_| scene.run_for(1) > 1).count();
            assert!((1..=8).contains(&tried), "{tried}");
        }
        // What may be the beginning of a burst gets a few.
        let mut scene = Scene::new(1, 128, MIB / 4, MIB / 4, Flow::Even);
        let few = (0..800).filter(|_| scene.run(1) <= 8).count();
        assert!(few > 600, "{few} ticks of 800");
    }

    #[test]
    fn bursts_that_seem_even_for_a_moment_are_bursts() {
        // The first bursts of two connections, and of their next pieces, happen to come in a row.
        let mut scene = Scene::new(2, 16, 60 << 10, OPEN, Flow::Bursts);
        scene.bytes = 60 << 10;
        for _ in 0..4 {
            scene.now += TUNER_INTERVAL;
            scene.bytes += 30 << 10;
            let (bytes, left, cpu) = (scene.bytes, scene.left, IDLE);
            let measured = Measured { bytes, left, cpu, saturated: true, flowing: true };
            scene.tuner.tick(measured, scene.now);
        }
        scene.now += TUNER_INTERVAL;
        assert_eq!(scene.run_for(2), 16);
    }

    #[test]
    fn bursts_are_no_reason_to_change_a_number_that_is_right() {
        let mut scene = Scene::new(16, 16, MIB, OPEN, Flow::Bursts);
        for _ in 0..30 {
            assert_eq!(scene.run_for(1), 16);
        }
        let mut scene = Scene::new(1, 16, MIB, OPEN, Flow::Bursts);
        scene.run_for(2);
        for _ in 0..30 {
            assert_eq!(scene.run_for(1), 16);
        }
    }

    #[test]
    fn a_rest_that_comes_soon_is_not_worth_another_connection() {
        for rate in [100 << 10, MIB, 1000 * MIB] {
            let mut scene = Scene::new(1, 16, rate, OPEN, Flow::Even);
            scene.left = rate * 5 / 4;
            assert_eq!(scene.run(16), 1, "{rate}");
            scene.left = rate * 2;
            assert!(scene.run(1) > 1, "{rate}");
        }
    }

    #[test]
    fn a_connection_that_becomes_slow_gets_a_companion_though_it_rests() {
        let mut scene = Scene::new(1, 16, 10 * MIB, 10 * MIB, Flow::Even);
        scene.run_for(20);
        scene.run(14);
        (scene.all, scene.each) = (20 << 10, 20 << 10);
        let mut highest = 0;
        for _ in 0..40 {
            highest = highest.max(scene.run(1));
        }
        assert!(highest > 1);
    }

    #[test]
    fn a_limit_of_the_users_own_is_not_fought() {
        let mut scene = Scene::new(1, 128, OPEN, 2 * MIB, Flow::Even);
        scene.tuner.set_limit(Some(2 * MIB));
        scene.run_for(30);
        assert_eq!(scene.highest, 1);
    }

    #[test]
    fn busy_cores_want_no_more() {
        let mut scene = Scene::new(4, 128, 100 * MIB, OPEN, Flow::Even);
        scene.cpu = Cpu { used: 80, wanted: 90, idle: 20 };
        assert_eq!(scene.run_for(4), 4);
        scene.cpu = Cpu { used: 40, wanted: 60, idle: 5 };
        assert_eq!(scene.run_for(4), 4, "no core is idle");
        scene.cpu = Cpu { used: 40, wanted: 40, idle: 60 };
        assert!(scene.run_for(1) > 4);
    }

    #[test]
    fn connections_that_have_not_begun_are_waited_for() {
        let mut scene = Scene::new(4, 128, 10 * MIB, OPEN, Flow::Even);
        while scene.run(1) == 4 {}
        let tick = |scene: &mut Scene, flowing| {
            scene.now += TUNER_INTERVAL;
            scene.bytes += 3 * MIB;
            let (bytes, left, cpu) = (scene.bytes, scene.left, IDLE);
            scene.tuner.tick(Measured { bytes, left, cpu, saturated: true, flowing }, scene.now);
            scene.tuner.target()
        };
        for _ in 0..TUNER_TICKS_MAX {
            assert_eq!(tick(&mut scene, false), 8);
        }
        assert_eq!(tick(&mut scene, true), 8);
        scene.bytes += 9 * MIB;
        assert_eq!(tick(&mut scene, true), 16);
    }

    #[test]
    fn a_server_that_objects_is_given_rest() {
        let mut scene = Scene::new(16, 128, MIB, OPEN, Flow::Even);
        scene.run(3);
        scene.tuner.back_off(scene.now);
        assert_eq!(scene.run(10), 8);
        assert!(scene.run_for(2) > 8);
        for _ in 0..20 {
            scene.tuner.back_off(scene.now);
            scene.now += TUNER_BACK_OFF_MIN;
        }
        assert_eq!(scene.tuner.target(), 1);
    }

    #[test]
    fn connections_that_break_at_once_are_one_objection() {
        let mut scene = Scene::new(16, 128, MIB, OPEN, Flow::Even);
        scene.run(3);
        for _ in 0..16 {
            scene.tuner.back_off(scene.now);
        }
        assert_eq!(scene.tuner.target(), 8);
        assert!(scene.run_for(2) > 8, "its rest was not prolonged");
    }

    #[test]
    fn a_blob_is_shared_where_cores_are_idle() {
        let spreads = |used, wanted, idle, already| Cpu { used, wanted, idle }.spreads(already);
        assert!(spreads(10, 10, 90, false), "waiting for the network");
        assert!(!spreads(50, 60, 20, false), "server and client on the same cores");
        assert!(spreads(50, 60, 20, true), "sharing uses more: it does not end at once");
        assert!(!spreads(60, 90, 2, true), "nothing is idle");
        assert!(spreads(5, 8, 0, false), "the network is slow, and others use all cores");
        assert!(!spreads(20, 95, 0, false), "others use all cores, and we wait for ours");
        assert!(spreads(2, 60, 0, false), "others use all cores, and we need next to nothing");
    }
}
