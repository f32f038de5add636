//! How addresses behaved, so that one that is dead costs a process one deadline, and not one with
//! each connection. State only, with time as an argument.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Instant;

use super::session::lock;
use crate::limits::{ADDRESSES_KEPT_MAX, UNREACHABLE_HOLD};

/// What all clients of a pull know of addresses. Never held across a wait.
#[derive(Default)]
pub(super) struct Addresses {
    known: Mutex<HashMap<SocketAddr, Known>>,
}

/// What was seen of an address. One that is not known is as good as any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Known {
    /// It accepts connections, and does not answer them, or slowly; or another address of its name
    /// accepted first, although it was asked later.
    Distrusted(Instant),
    /// It refused the last connection, or did not answer.
    Dead {
        /// When.
        at: Instant,
        /// Whether the whole deadline was waited for it.
        silent: bool,
    },
}

impl Addresses {
    /// Puts those first that nothing bad is known of, then the slow, then the dead; of each kind, the one
    /// of which that was seen longest ago. Otherwise the order stays: it is the resolver's (RFC 6724).
    pub(super) fn sort(&self, addresses: &mut [SocketAddr]) {
        let known = lock(&self.known);
        addresses.sort_by_key(|address| known.get(address).copied());
    }

    /// Whether none of `addresses` answered just now: see [`UNREACHABLE_HOLD`].
    pub(super) fn are_unreachable(&self, addresses: &[SocketAddr], now: Instant) -> bool {
        let known = lock(&self.known);
        let silent = |address| match known.get(address) {
            Some(Known::Dead { at, silent: true }) => {
                now.saturating_duration_since(*at) < UNREACHABLE_HOLD
            }
            _ => false,
        };
        !addresses.is_empty() && addresses.iter().all(silent)
    }

    /// It accepted a connection. Whether it is slow is not known by that.
    pub(super) fn accepted(&self, address: SocketAddr) {
        let mut known = lock(&self.known);
        if matches!(known.get(&address), Some(Known::Dead { .. })) {
            known.remove(&address);
        }
    }

    /// It did not accept a connection; `silent` if the whole deadline was waited for that.
    pub(super) fn failed(&self, address: SocketAddr, silent: bool, now: Instant) {
        self.learn(address, Known::Dead { at: now, silent });
    }

    /// A connection to it fell silent, or is slow.
    pub(super) fn distrust(&self, address: SocketAddr, now: Instant) {
        self.learn(address, Known::Distrusted(now));
    }

    fn learn(&self, address: SocketAddr, what: Known) {
        let mut known = lock(&self.known);
        if known.len() < ADDRESSES_KEPT_MAX || known.contains_key(&address) {
            known.insert(address, what);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 443))
    }

    #[track_caller]
    fn check(addresses: &Addresses, expected: [u8; 4]) {
        let mut sorted = [1, 2, 3, 4].map(address);
        addresses.sort(&mut sorted);
        assert_eq!(sorted, expected.map(address));
    }

    #[test]
    fn live_addresses_come_first() {
        let (addresses, now) = (Addresses::default(), Instant::now());
        let second = |count| now + Duration::from_secs(count);
        check(&addresses, [1, 2, 3, 4]);
        addresses.failed(address(1), true, second(2));
        check(&addresses, [2, 3, 4, 1]);
        addresses.distrust(address(2), second(2));
        check(&addresses, [3, 4, 2, 1]);
        // Of the dead, the one that had the longest time to come back.
        addresses.failed(address(3), false, second(1));
        check(&addresses, [4, 2, 3, 1]);
        addresses.failed(address(4), true, second(3));
        check(&addresses, [2, 3, 1, 4]);
        addresses.accepted(address(1));
        check(&addresses, [1, 2, 3, 4]);
        addresses.accepted(address(2));
        check(&addresses, [1, 2, 3, 4]);
        addresses.accepted(address(3));
        check(&addresses, [1, 3, 2, 4]);
    }

    #[test]
    fn a_host_without_an_answer_is_left_alone_for_a_moment() {
        let (addresses, now) = (Addresses::default(), Instant::now());
        let host = [address(1), address(2)];
        addresses.failed(address(1), true, now);
        assert!(!addresses.are_unreachable(&host, now), "one is left");
        addresses.failed(address(2), true, now);
        let end = now + UNREACHABLE_HOLD;
        assert!(addresses.are_unreachable(&host, end - Duration::from_nanos(1)));
        assert!(!addresses.are_unreachable(&host, end), "a retry tries");
        addresses.accepted(address(1));
        assert!(!addresses.are_unreachable(&host, now));
        // To be refused costs nothing, and may be over at once.
        addresses.failed(address(1), false, now);
        assert!(!addresses.are_unreachable(&host, now));
        assert!(!addresses.are_unreachable(&[], now));
    }

    #[test]
    fn their_number_is_bounded() {
        let (addresses, now) = (Addresses::default(), Instant::now());
        for port in 1..=2 * ADDRESSES_KEPT_MAX as u16 {
            addresses.failed(SocketAddr::from(([192, 0, 2, 1], port)), true, now);
        }
        assert_eq!(lock(&addresses.known).len(), ADDRESSES_KEPT_MAX);
    }
}
