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
    TUNER_BACK_OFF_MIN, TUNER_CPU_SHARE_MAX, TUNER_GAIN_MIN, TUNER_REST, TUNER_TICKS_MAX,
};

/// What was measured since the last tick.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    /// Bytes received per second.
    pub(super) rate: u64,
    /// How much of all cores this process used, in per cent.
    pub(super) cpu: u64,
    /// Whether all connections wanted were busy.
    pub(super) saturated: bool,
    /// Whether all that are busy have begun to bring bytes.
    pub(super) flowing: bool,
}

/// Chooses the number of connections.
#[derive(Debug)]
pub(super) struct Tuner {
    target: usize,
    most: usize,
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
        Tuner { target, most, state: State::Steady, rest: TUNER_REST, backed_off: None }
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
        if !measured.saturated || measured.cpu > TUNER_CPU_SHARE_MAX || self.target >= self.most {
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
        Measured { rate, cpu: 10, saturated: true, flowing: true }
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
            tuner.tick(Measured { cpu: 80, ..measured(1 << 30) }, now);
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
}
