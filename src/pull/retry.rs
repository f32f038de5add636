//! Whether, and when, a blob is asked for again.

use std::time::Duration;

use crate::config::NetworkConfig;
use crate::error::{Class, Retry};
use crate::limits::{MIN_SPEED_TIME_MIN, RETRY_PAUSE_FIRST, RETRY_PAUSE_MAX};

/// How patient a pull is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Policy {
    /// Attempts after the first that are allowed in a row without progress.
    pub(super) retries: u32,
    /// Longest time that a registry may ask us to wait.
    pub(super) max_wait: Duration,
    /// Bytes that an attempt must have brought to be progress although its connection was too slow, or
    /// fell silent: what the slowest connection that is kept brings within a deadline.
    pub(super) slow_progress_min: u64,
}

impl Policy {
    pub(super) fn new(network: &NetworkConfig) -> Policy {
        // Rounded up: with any minimum, a byte in a deadline is no progress.
        let deadline = network.timeouts.recv.max(MIN_SPEED_TIME_MIN);
        let seconds = deadline.as_secs() + u64::from(deadline.subsec_nanos() > 0);
        Policy {
            retries: network.retries,
            max_wait: network.max_wait,
            slow_progress_min: network.min_speed.unwrap_or(0).saturating_mul(seconds),
        }
    }

    /// Whether a registry asks for more time than the user gives it.
    pub(super) fn is_too_long(self, retry_after: Option<Duration>) -> bool {
        retry_after.is_some_and(|asked| asked > self.max_wait)
    }
}

/// What to do after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Try again after a pause.
    Again {
        /// How long to wait first.
        pause: Duration,
    },
    /// The failure is final.
    GiveUp,
}

/// What the policy has to know of a failure.
#[derive(Debug, Clone, Copy)]
pub(super) struct Failure {
    pub(super) class: Class,
    /// What the server asked us to wait (`Retry-After`).
    pub(super) retry_after: Option<Duration>,
    /// New bytes that the attempt brought before it failed.
    pub(super) received: u64,
    /// New bytes of the same object that others brought since the last failure.
    pub(super) beside: u64,
}

/// The attempts at one object.
#[derive(Debug, Clone)]
pub(super) struct Attempts {
    policy: Policy,
    /// Attempts that failed since the last progress.
    failed: u32,
    /// A failure of framing or size was met already.
    distrusted: bool,
    /// The bytes had a wrong digest already.
    rejected: bool,
}

impl Attempts {
    pub(super) fn new(policy: Policy) -> Attempts {
        Attempts { policy, failed: 0, distrusted: false, rejected: false }
    }

    /// The number of the attempt under way, from 1.
    pub(super) fn current(&self) -> u32 {
        self.failed + 1
    }

    /// The number of the last attempt allowed.
    pub(super) fn allowed(&self) -> u32 {
        self.policy.retries + 1
    }

    /// What follows from a failure. `jitter` is between 0 and 1.
    ///
    /// The pause before the n-th retry is between a half and the whole of
    /// [`RETRY_PAUSE_FIRST`] · 2ⁿ⁻¹, at most [`RETRY_PAUSE_MAX`]; a server that says `Retry-After`
    /// is given that, up to the policy's longest wait. A connection that was too slow is no reason to wait.
    /// An attempt that brought any new byte is progress: it starts the count anew, and the next one
    /// follows at once. A link that breaks every minute is slow, not broken.
    pub(super) fn after(&mut self, failure: Failure, jitter: f64) -> Verdict {
        match failure.class.retry() {
            Retry::Never => return Verdict::GiveUp,
            Retry::Once => {
                // What an answer brought before it was found out is kept, as most of it is good, and
                // only the digest tells when it was not: that is one failure, met twice.
                let met = match failure.class {
                    Class::Digest => &mut self.rejected,
                    _ => &mut self.distrusted,
                };
                if std::mem::replace(met, true) {
                    return Verdict::GiveUp;
                }
            }
            Retry::Again if self.is_progress(failure) => self.failed = 0,
            Retry::Again => {}
        }
        if self.failed >= self.policy.retries {
            return Verdict::GiveUp;
        }
        self.failed += 1;
        self.pause(failure, jitter)
    }

    /// What follows from a failure beside one that was counted already: that of a request which was
    /// under way then, and most likely failed for the same reason.
    pub(super) fn beside(&self, failure: Failure, jitter: f64) -> Verdict {
        match failure.class.retry() {
            Retry::Never => Verdict::GiveUp,
            Retry::Once | Retry::Again => self.pause(failure, jitter),
        }
    }

    /// A request beside those that failed was answered by so many new bytes.
    pub(super) fn progressed(&mut self, received: u64) {
        if received > 0 {
            self.failed = 0;
        }
    }

    /// Whether the object got on since the last failure. A connection that was too slow brought bytes,
    /// too, so some are no progress there.
    fn is_progress(&self, failure: Failure) -> bool {
        let least = match is_slowness(failure.class) {
            true => self.policy.slow_progress_min.max(1),
            false => 1,
        };
        failure.received.saturating_add(failure.beside) >= least
    }

    fn pause(&self, failure: Failure, jitter: f64) -> Verdict {
        // A pause is for attempts that brought nothing.
        let brought = failure.received > 0 && failure.class.retry() == Retry::Again;
        if is_slowness(failure.class) || (brought && failure.retry_after.is_none()) {
            return Verdict::Again { pause: Duration::ZERO };
        }
        let doublings = self.failed.saturating_sub(1).min(16);
        let doubled = RETRY_PAUSE_FIRST.saturating_mul(1 << doublings);
        let pause = doubled.min(RETRY_PAUSE_MAX).mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0);
        if self.policy.is_too_long(failure.retry_after) {
            return Verdict::GiveUp;
        }
        Verdict::Again { pause: failure.retry_after.unwrap_or_default().max(pause) }
    }
}

/// Whether a failure is that of one connection, which was waited for long enough already: another one
/// is made at once, and meanwhile nothing else is held back.
pub(super) fn is_slowness(class: Class) -> bool {
    matches!(class, Class::RecvTimeout | Class::HeadTimeout | Class::SendTimeout | Class::TooSlow)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy =
        Policy { retries: 4, max_wait: Duration::from_secs(60), slow_progress_min: 1000 };

    fn attempts(retries: u32) -> Attempts {
        Attempts::new(Policy { retries, ..POLICY })
    }

    fn failure(class: Class) -> Failure {
        Failure { class, retry_after: None, received: 0, beside: 0 }
    }

    fn again(milliseconds: u64) -> Verdict {
        Verdict::Again { pause: Duration::from_millis(milliseconds) }
    }

    #[test]
    fn pauses_grow_until_the_attempts_are_used_up() {
        let mut attempts = attempts(4);
        for pause in [500, 1_000, 2_000, 4_000] {
            assert_eq!(attempts.after(failure(Class::Truncated), 1.0), again(pause));
        }
        assert_eq!((attempts.current(), attempts.allowed()), (5, 5));
        assert_eq!(attempts.after(failure(Class::Truncated), 1.0), Verdict::GiveUp);
    }

    #[test]
    fn a_slow_connection_is_replaced_at_once_but_counts() {
        for class in [Class::RecvTimeout, Class::HeadTimeout, Class::SendTimeout, Class::TooSlow] {
            let mut attempts = attempts(2);
            assert_eq!(attempts.after(failure(class), 1.0), again(0));
            assert_eq!(attempts.after(failure(class), 1.0), again(0));
            assert_eq!(attempts.after(failure(class), 1.0), Verdict::GiveUp);
        }
    }

    #[test]
    fn jitter_takes_at_most_half_of_a_pause() {
        assert_eq!(attempts(1).after(failure(Class::Connect), 0.0), again(250));
    }

    #[test]
    fn without_retries_the_first_failure_is_final() {
        assert_eq!(attempts(0).after(failure(Class::Truncated), 1.0), Verdict::GiveUp);
    }

    #[test]
    fn any_new_byte_starts_the_count_anew_and_is_followed_at_once() {
        let mut attempts = attempts(1);
        let progressed = Failure { received: 1, ..failure(Class::Truncated) };
        for _ in 0..100 {
            assert_eq!(attempts.after(progressed, 1.0), again(0));
            assert_eq!(attempts.beside(progressed, 1.0), again(0));
        }
        assert_eq!(attempts.after(failure(Class::Truncated), 1.0), Verdict::GiveUp);
    }

    #[test]
    fn what_others_brought_starts_the_count_anew_but_is_no_reason_to_hurry() {
        let mut attempts = attempts(1);
        let refused = Failure { beside: 1, ..failure(Class::Http5xx) };
        for _ in 0..100 {
            assert_eq!(attempts.after(refused, 1.0), again(500));
        }
        assert_eq!(attempts.after(failure(Class::Http5xx), 1.0), Verdict::GiveUp);
    }

    #[test]
    fn a_connection_that_is_too_slow_has_not_got_on_by_a_few_bytes() {
        for class in [Class::RecvTimeout, Class::TooSlow] {
            let slow = |received| Failure { received, ..failure(class) };
            let mut attempts = attempts(1);
            assert_eq!(attempts.after(slow(999), 1.0), again(0));
            assert_eq!(attempts.after(slow(1000), 1.0), again(0));
            assert_eq!(attempts.after(slow(1000), 1.0), again(0));
            assert_eq!(attempts.after(slow(999), 1.0), Verdict::GiveUp, "{class:?}");
        }
    }

    #[test]
    fn wrong_bytes_are_no_progress() {
        let wrong = Failure { received: 1 << 30, ..failure(Class::Framing) };
        let mut attempts = attempts(4);
        assert_eq!(attempts.after(wrong, 1.0), again(500));
        assert_eq!(attempts.after(wrong, 1.0), Verdict::GiveUp);
    }

    #[test]
    fn wrong_content_is_asked_for_once_more() {
        for class in [Class::Digest, Class::Size, Class::Framing, Class::Range] {
            let mut attempts = attempts(4);
            assert_eq!(attempts.after(failure(class), 1.0), again(500));
            assert_eq!(attempts.after(failure(class), 1.0), Verdict::GiveUp);
        }
    }

    #[test]
    fn what_an_answer_of_a_wrong_size_left_may_be_found_out_by_the_digest() {
        let mut attempts = attempts(4);
        assert_eq!(attempts.after(failure(Class::Size), 1.0), again(500));
        assert_eq!(attempts.after(failure(Class::Digest), 1.0), again(1_000));
        assert_eq!(attempts.after(failure(Class::Digest), 1.0), Verdict::GiveUp);
        assert_eq!(attempts.after(failure(Class::Framing), 1.0), Verdict::GiveUp);
    }

    #[test]
    fn what_would_be_answered_the_same_is_not_asked_again() {
        for class in [Class::NotFound, Class::Auth, Class::TlsTrust, Class::DiskFull] {
            assert_eq!(attempts(4).after(failure(class), 1.0), Verdict::GiveUp);
        }
    }

    #[test]
    fn a_server_is_given_the_time_it_asks_for_within_reason() {
        let asked = |seconds| Failure {
            retry_after: Some(Duration::from_secs(seconds)),
            ..failure(Class::RateLimited)
        };
        assert_eq!(attempts(4).after(asked(7), 1.0), again(7_000));
        assert_eq!(attempts(4).after(asked(0), 1.0), again(500));
        assert_eq!(attempts(4).after(asked(60), 1.0), again(60_000));
        assert_eq!(attempts(4).after(asked(61), 1.0), Verdict::GiveUp);
        assert_eq!(attempts(4).beside(asked(61), 1.0), Verdict::GiveUp);
    }
}
