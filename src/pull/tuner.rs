//! How many connections are worth having: more while that brings more, fewer when a server objects.
//!
//! ```text
//!            all wanted are busy, cores idle
//!   Steady ───────────────────────────────────→ Trying: twice as many
//!     ↑                                            │ brought more: again, at once
//!     └── after a while ── Resting ←───────────────┘ did not: back to what there was
//! ```
//!
//! State only: the clock and the measurements are arguments.

use std::time::{Duration, Instant};

use crate::limits::{
    TUNER_BACK_OFF_MIN, TUNER_CPU_SHARE_FAIR, TUNER_CPU_SHARE_MAX, TUNER_GAIN_MIN, TUNER_REST,
    TUNER_SPREAD_CPU_MAX, TUNER_TICKS_MAX,
};

/// What was measured since the last tick.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    /// Bytes received per second.
    pub(super) rate: u64,
    /// What all cores did.
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
    /// neighbour must not keep it small.
    fn saturation(self) -> u64 {
        match self.wanted {
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

/// Chooses the number of connections.
#[derive(Debug)]
pub(super) struct Tuner {
    target: usize,
    most: usize,
    is_free: bool,
    state: State,
    /// How long the next rest is.
    rest: Duration,
    /// When a server objected last.
    backed_off: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Steady,
    /// More connections were added, and so many ticks have passed since.
    Trying {
        before: usize,
        rate: u64,
        ticks: u32,
    },
    /// All of them bring bytes: what comes until the next tick counts.
    Measuring {
        before: usize,
        rate: u64,
    },
    Resting {
        until: Instant,
    },
}

impl Tuner {
    /// Starts with `first` connections and never has more than `most`.
    pub(super) fn new(first: usize, most: usize) -> Tuner {
        let most = most.max(1);
        let target = first.clamp(1, most);
        let is_free = target < most;
        Tuner { target, most, is_free, state: State::Steady, rest: TUNER_REST, backed_off: None }
    }

    /// Whether there is anything to choose.
    pub(super) fn is_free(&self) -> bool {
        self.is_free
    }

    /// The number of connections wanted now.
    pub(super) fn target(&self) -> usize {
        self.target
    }

    /// Takes a measurement; to be called at regular intervals.
    pub(super) fn tick(&mut self, measured: Measured, now: Instant) {
        match self.state {
            State::Steady => self.try_more(measured),
            State::Trying { before, rate, ticks } => {
                self.state = match measured.flowing || ticks >= TUNER_TICKS_MAX {
                    true => State::Measuring { before, rate },
                    false => State::Trying { before, rate, ticks: ticks + 1 },
                };
            }
            State::Measuring { before, rate } => {
                let enough = rate.saturating_add(rate / 100 * TUNER_GAIN_MIN);
                if measured.rate > enough {
                    self.state = State::Steady;
                    self.rest = TUNER_REST;
                    self.try_more(measured);
                } else if measured.saturated {
                    self.target = before;
                    self.rest_until(now);
                } else {
                    // There was not enough to do for all of them: that says nothing.
                    self.state = State::Steady;
                }
            }
            State::Resting { until } if now >= until => self.state = State::Steady,
            State::Resting { .. } => {}
        }
    }

    /// A server objected, or connections break: half as many, and no more for a while. What comes
    /// at once from several connections is one objection.
    pub(super) fn back_off(&mut self, now: Instant) {
        let since = self.backed_off.map(|at| now.saturating_duration_since(at));
        if since.is_some_and(|since| since < TUNER_BACK_OFF_MIN) {
            return;
        }
        self.backed_off = Some(now);
        self.target = (self.target / 2).max(1);
        self.rest_until(now);
    }

    fn try_more(&mut self, measured: Measured) {
        // Where our own cores are the limit, more connections only add work.
        if !measured.saturated
            || measured.cpu.saturation() > TUNER_CPU_SHARE_MAX
            || self.target >= self.most
        {
            return;
        }
        let before = self.target;
        self.target = (before * 2).min(self.most);
        self.state = State::Trying { before, rate: measured.rate, ticks: 0 };
    }

    /// Each rest is twice as long as the one before, up to eight times the first.
    fn rest_until(&mut self, now: Instant) {
        let until = now.checked_add(self.rest).unwrap_or(now);
        self.rest = (self.rest * 2).min(TUNER_REST * 8);
        self.state = State::Resting { until };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::TUNER_INTERVAL;

    fn measured(rate: u64) -> Measured {
        Measured {
            rate,
            cpu: Cpu { used: 10, wanted: 10, idle: 90 },
            saturated: true,
            flowing: true,
        }
    }

    /// A line on which a connection gets `each`, and all together `all`, bytes per second: the
    /// target after so many ticks, and the highest on the way.
    fn run(each: u64, all: u64, ticks: usize) -> (usize, usize) {
        let mut now = Instant::now();
        let mut tuner = Tuner::new(4, 128);
        let mut highest = 0;
        for _ in 0..ticks {
            let rate = (each * tuner.target() as u64).min(all);
            tuner.tick(measured(rate), now);
            highest = highest.max(tuner.target());
            now += TUNER_INTERVAL;
        }
        (tuner.target(), highest)
    }

    #[test]
    fn a_cap_on_each_connection_is_met_with_more_of_them() {
        assert_eq!(run(40 << 20, u64::MAX, 11).0, 128);
    }

    #[test]
    fn it_stops_where_more_brings_nothing() {
        assert_eq!(run(100 << 20, 1000 << 20, 9), (16, 32));
    }

    #[test]
    fn one_connection_that_fills_the_line_stays_nearly_alone() {
        assert_eq!(run(1000 << 20, 1000 << 20, 5), (4, 8));
    }

    #[test]
    fn busy_cores_want_no_more() {
        let mut tuner = Tuner::new(4, 128);
        let now = Instant::now();
        for _ in 0..50 {
            tuner.tick(
                Measured { cpu: Cpu { used: 80, wanted: 90, idle: 20 }, ..measured(1 << 30) },
                now,
            );
        }
        assert_eq!(tuner.target(), 4);
    }

    #[test]
    fn connections_that_have_not_begun_are_waited_for() {
        let mut tuner = Tuner::new(4, 128);
        let now = Instant::now();
        for _ in 0..=TUNER_TICKS_MAX {
            tuner.tick(Measured { flowing: false, ..measured(100 << 20) }, now);
            assert_eq!(tuner.target(), 8);
        }
        tuner.tick(measured(100 << 20), now);
        tuner.tick(measured(200 << 20), now);
        assert_eq!(tuner.target(), 16);
    }

    #[test]
    fn a_server_that_objects_is_given_rest() {
        let mut now = Instant::now();
        let mut tuner = Tuner::new(16, 128);
        tuner.back_off(now);
        assert_eq!(tuner.target(), 8);
        tuner.tick(measured(1 << 30), now);
        assert_eq!(tuner.target(), 8);
        now += TUNER_REST;
        for _ in 0..2 {
            tuner.tick(measured(1 << 30), now);
        }
        assert!(tuner.target() > 8);
        for _ in 0..20 {
            tuner.back_off(now);
            now += TUNER_BACK_OFF_MIN;
        }
        assert_eq!(tuner.target(), 1);
    }

    #[test]
    fn connections_that_break_at_once_are_one_objection() {
        let now = Instant::now();
        let mut tuner = Tuner::new(16, 128);
        for _ in 0..16 {
            tuner.back_off(now);
        }
        assert_eq!(tuner.target(), 8);
        let mut later = now + TUNER_REST;
        for _ in 0..2 {
            tuner.tick(measured(1 << 30), later);
            later += TUNER_INTERVAL;
        }
        assert!(tuner.target() > 8, "its rest was not prolonged");
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
    }

    #[test]
    fn nothing_is_added_where_no_core_is_idle() {
        let mut tuner = Tuner::new(2, 64);
        let busy = Measured { cpu: Cpu { used: 40, wanted: 60, idle: 5 }, ..measured(1 << 30) };
        tuner.tick(busy, Instant::now());
        assert_eq!(tuner.target(), 2);
        let idle = Measured { cpu: Cpu { used: 40, wanted: 40, idle: 60 }, ..measured(1 << 30) };
        tuner.tick(idle, Instant::now());
        assert_eq!(tuner.target(), 4);
    }
}
