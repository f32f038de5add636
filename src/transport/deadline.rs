//! Deadlines that know what they are waiting for.

use std::fmt;
use std::time::{Duration, Instant};

use super::clock;

/// What a wait is for. The text completes "… while" in an error message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// A name is being resolved.
    Resolve,
    /// A connection is being made.
    Connect,
    /// The TLS handshake is under way.
    Handshake,
    /// A request is being sent.
    Send,
    /// The next bytes of the response head are awaited.
    Reply,
    /// The response head is not whole yet.
    Head,
    /// The body is being received.
    Body,
    /// The body of a document is not whole yet.
    Document,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Resolve => "resolving the name",
            Phase::Connect => "connecting",
            Phase::Handshake => "in the TLS handshake",
            Phase::Send => "sending the request",
            Phase::Reply => "waiting for the response",
            Phase::Head => "receiving the response head",
            Phase::Body => "receiving the body",
            Phase::Document => "receiving the whole document",
        })
    }
}

/// The instant at which a wait ends, whatever the peer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    /// When the wait ends (monotonic clock).
    pub at: Instant,
    /// What the wait is for.
    pub phase: Phase,
    /// The bound that the user set, for the message: "no bytes for 60 s".
    pub limit: Duration,
}

impl Deadline {
    /// A deadline `limit` from now.
    pub fn after(limit: Duration, phase: Phase) -> Deadline {
        Deadline::from(clock::now(), limit, phase)
    }

    /// A deadline `limit` after `now`.
    pub fn from(now: Instant, limit: Duration, phase: Phase) -> Deadline {
        // A limit too large for the clock is as good as a century.
        let at = now.checked_add(limit).unwrap_or(now + Duration::from_secs(100 * 365 * 86_400));
        Deadline { at, phase, limit }
    }

    /// The one that comes first.
    pub fn sooner(self, other: Deadline) -> Deadline {
        if other.at < self.at { other } else { self }
    }

    /// The time left, and `None` once there is none: the caller fails instead of waiting a
    /// rounded-up moment.
    pub fn remaining(self, now: Instant) -> Option<Duration> {
        self.at.checked_duration_since(now).filter(|left| !left.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passed_deadline_has_nothing_left() {
        let now = Instant::now();
        let deadline = Deadline { at: now, phase: Phase::Body, limit: Duration::from_secs(1) };
        assert_eq!(deadline.remaining(now), None);
        assert_eq!(deadline.remaining(now + Duration::from_secs(1)), None);
        let before = now.checked_sub(Duration::from_millis(1)).unwrap();
        assert_eq!(deadline.remaining(before), Some(Duration::from_millis(1)));
    }

    #[test]
    fn the_sooner_of_two_keeps_its_phase() {
        let soon = Deadline::after(Duration::from_secs(1), Phase::Body);
        let late = Deadline::after(Duration::MAX, Phase::Head);
        assert_eq!(late.sooner(soon), soon);
        assert_eq!(soon.sooner(late), soon);
    }
}
