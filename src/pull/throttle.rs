//! A cap on the bytes per second of all connections together (`--limit-rate`).

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::limits::THROTTLE_BURST;

/// Spreads bytes over time. What was received is paid for by waiting before the next receive; TCP's
/// own window then slows the sender down.
pub(super) struct Throttle {
    bytes_per_second: u64,
    /// When all that was received is paid for.
    paid: Mutex<Instant>,
}

impl Throttle {
    pub(super) fn new(bytes_per_second: u64, now: Instant) -> Throttle {
        Throttle { bytes_per_second: bytes_per_second.max(1), paid: Mutex::new(now) }
    }

    /// Counts `bytes` received; until when to wait before receiving more, if at all.
    pub(super) fn took(&self, bytes: usize, now: Instant) -> Option<Instant> {
        let nanoseconds = bytes as u128 * 1_000_000_000 / u128::from(self.bytes_per_second);
        let cost = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        // Time that was not used is not saved up, but for a moment's worth.
        let earliest = now.checked_sub(THROTTLE_BURST).unwrap_or(now);
        *paid = (*paid).max(earliest).checked_add(cost)?;
        (*paid > now).then_some(*paid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_holds_over_time_whoever_receives() {
        let start = Instant::now();
        let throttle = Throttle::new(1_000_000, start);
        let mut now = start;
        for _ in 0..100 {
            if let Some(until) = throttle.took(50_000, now) {
                now = until;
            }
        }
        let took = now - start;
        // 5 MB at 1 MB/s, less the burst that is free at the start.
        assert!(took <= Duration::from_secs(5) && took + THROTTLE_BURST >= Duration::from_secs(5));
    }

    #[test]
    fn a_pause_is_not_made_up_for() {
        let start = Instant::now();
        let throttle = Throttle::new(1_000, start);
        let later = start + Duration::from_secs(100);
        assert!(throttle.took(1_000, later).unwrap() > later + Duration::from_millis(800));
    }
}
