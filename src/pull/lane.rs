//! What one connection is fetching, seen from both sides: by the task that receives, and by who
//! watches over all of them.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::replace::Slow;

/// The bytes that a connection was asked for, how far it is, and how far it is still to go.
///
/// No two connections ever have the same bytes: those that a receive brought are taken, and those at
/// the end cut off, under one lock.
#[derive(Debug)]
pub(super) struct Lane {
    state: Mutex<State>,
    told: Notify,
}

#[derive(Debug)]
struct State {
    /// The next byte to come.
    at: u64,
    /// Where this connection is to stop.
    end: u64,
    /// How long it was not let receive, in pauses before the last.
    held: Duration,
    /// The last pause: from when until when.
    pause: Option<(Instant, Instant)>,
    /// It has less to do than it was asked for.
    cut: bool,
    /// It receives no more.
    closed: bool,
    /// Why it is to be replaced.
    slow: Option<Slow>,
}

/// Where a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    /// The next byte to come.
    pub(super) at: u64,
    /// Where it is to stop.
    pub(super) end: u64,
}

/// What becomes of bytes that were received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Taken {
    /// So many of them are to be written; those behind are another connection's by now.
    pub(super) used: usize,
    /// Nothing that follows is of use here.
    pub(super) enough: bool,
}

impl State {
    fn held_until(&self, now: Instant) -> Duration {
        let last = self.pause.map(|(from, until)| until.min(now).saturating_duration_since(from));
        self.held + last.unwrap_or_default()
    }
}

impl Lane {
    /// A connection that is about to receive these bytes of a blob.
    pub(super) fn new(sent: Range<u64>) -> Lane {
        let Range { start: at, end } = sent;
        let held = Duration::ZERO;
        let state = State { at, end, held, pause: None, cut: false, closed: false, slow: None };
        Lane { state: Mutex::new(state), told: Notify::new() }
    }

    /// The next `count` bytes were received.
    pub(super) fn take(&self, count: usize) -> Taken {
        let mut state = self.lock();
        let used = usize::try_from(state.end.saturating_sub(state.at)).unwrap_or(count).min(count);
        state.at += count as u64;
        Taken { used, enough: state.cut && state.at >= state.end }
    }

    /// It is not let receive from `now` until then, for no fault of its own.
    pub(super) fn hold(&self, now: Instant, until: Instant) {
        let mut state = self.lock();
        state.held = state.held_until(now);
        state.pause = Some((now, until));
    }

    /// How long it was not let receive until `now`. Of a pause, only what has passed of it: one may be
    /// longer than what a rate is looked at for.
    pub(super) fn held(&self, now: Instant) -> Duration {
        self.lock().held_until(now)
    }

    pub(super) fn standing(&self) -> Standing {
        let State { at, end, .. } = *self.lock();
        Standing { at, end }
    }

    /// Takes away the back half of what is to come, if that is at least `least` bytes.
    pub(super) fn cut(&self, least: u64) -> Option<Range<u64>> {
        let mut state = self.lock();
        let rest = state.end.saturating_sub(state.at);
        if state.closed || rest < least.max(2) {
            return None;
        }
        let back = state.end - rest / 2..state.end;
        state.end = back.start;
        state.cut = true;
        Some(back)
    }

    /// It receives no more; where it was to stop.
    pub(super) fn close(&self) -> u64 {
        let mut state = self.lock();
        state.closed = true;
        state.end
    }

    /// Tells the task that receives to give up. What it is told first counts.
    pub(super) fn replace(&self, slow: Slow) {
        self.lock().slow.get_or_insert(slow);
        self.told.notify_one();
    }

    /// Why the connection is to be replaced, as soon as it is.
    pub(super) async fn replaced(&self) -> Slow {
        loop {
            if let Some(slow) = self.lock().slow {
                return slow;
            }
            self.told.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_belong_to_one_connection() {
        let lane = Lane::new(100..200);
        assert_eq!(lane.take(20), Taken { used: 20, enough: false });
        assert_eq!(lane.cut(0), Some(160..200));
        assert_eq!(lane.take(39), Taken { used: 39, enough: false });
        assert_eq!(lane.take(10), Taken { used: 1, enough: true });
        assert_eq!(lane.cut(0), None, "nothing is left");
        assert_eq!(lane.close(), 160);
    }

    #[test]
    fn the_end_of_what_was_asked_for_is_not_enough() {
        // The body has to be received to its end for the connection to be kept.
        let lane = Lane::new(0..10);
        assert_eq!(lane.take(10), Taken { used: 10, enough: false });
    }

    #[test]
    fn little_is_not_cut_nor_what_has_ended() {
        let lane = Lane::new(0..100);
        assert_eq!(lane.cut(101), None);
        lane.close();
        assert_eq!(lane.cut(0), None);
        assert_eq!(Lane::new(0..1).cut(0), None);
    }
}
