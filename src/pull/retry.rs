//! Whether, and when, a blob is asked for again.

use std::time::Duration;

use crate::error::{Class, Retry};
use crate::limits::{RETRY_AFTER_MAX, RETRY_PAUSE_FIRST, RETRY_PAUSE_MAX, RETRY_PROGRESS_MIN};

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
    /// Bytes received by the attempt that failed.
    pub(super) received: u64,
}

/// The attempts at one object.
#[derive(Debug, Clone)]
pub(super) struct Attempts {
    /// Attempts after the first that are allowed in a row without progress.
    retries: u32,
    /// Attempts that failed since the last progress.
    failed: u32,
    /// A failure of framing or size was met already.
    distrusted: bool,
    /// The bytes had a wrong digest already.
    rejected: bool,
}

impl Attempts {
    pub(super) fn new(retries: u32) -> Attempts {
        Attempts { retries, failed: 0, distrusted: false, rejected: false }
    }

    /// The number of the attempt under way, from 1.
    pub(super) fn current(&self) -> u32 {
        self.failed + 1
    }

    /// The number of the last attempt allowed.
    pub(super) fn allowed(&self) -> u32 {
        self.retries + 1
    }

    /// What follows from a failure. `jitter` is between 0 and 1.
    ///
    /// The pause before the n-th retry is between a half and the whole of
    /// [`RETRY_PAUSE_FIRST`] · 2ⁿ⁻¹, at most [`RETRY_PAUSE_MAX`]; a server that says `Retry-After`
    /// is given that, up to [`RETRY_AFTER_MAX`]. An attempt that received
    /// [`RETRY_PROGRESS_MIN`] bytes starts the count anew: a link that breaks every minute is slow,
    /// not broken.
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
            Retry::Again if failure.received >= RETRY_PROGRESS_MIN => self.failed = 0,
            Retry::Again => {}
        }
        if self.failed >= self.retries {
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

    /// A request beside those that failed was answered by so many bytes.
    pub(super) fn progressed(&mut self, received: u64) {
        if received >= RETRY_PROGRESS_MIN {
            self.failed = 0;
        }
    }

    fn pause(&self, failure: Failure, jitter: f64) -> Verdict {
        let doublings = self.failed.saturating_sub(1).min(16);
        let doubled = RETRY_PAUSE_FIRST.saturating_mul(1 << doublings);
        let pause = doubled.min(RETRY_PAUSE_MAX).mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0);
        match failure.retry_after {
            Some(asked) if asked > RETRY_AFTER_MAX => Verdict::GiveUp,
            asked => Verdict::Again { pause: asked.unwrap_or_default().max(pause) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(class: Class) -> Failure {
        Failure { class, retry_after: None, received: 0 }
    }

    fn again(milliseconds: u64) -> Verdict {
        Verdict::Again { pause: Duration::from_millis(milliseconds) }
    }

    #[test]
    fn pauses_grow_until_the_attempts_are_used_up() {
        let mut attempts = Attempts::new(4);
        for pause in [500, 1_000, 2_000, 4_000] {
            assert_eq!(attempts.after(failure(Class::RecvTimeout), 1.0), again(pause));
        }
        assert_eq!((attempts.current(), attempts.allowed()), (5, 5));
        assert_eq!(attempts.after(failure(Class::RecvTimeout), 1.0), Verdict::GiveUp);
    }

    #[test]
    fn jitter_takes_at_most_half_of_a_pause() {
        assert_eq!(Attempts::new(1).after(failure(Class::Connect), 0.0), again(250));
    }

    #[test]
    fn without_retries_the_first_failure_is_final() {
        assert_eq!(Attempts::new(0).after(failure(Class::Truncated), 1.0), Verdict::GiveUp);
    }

    #[test]
    fn progress_starts_the_count_anew() {
        let mut attempts = Attempts::new(1);
        let progressed = Failure { received: RETRY_PROGRESS_MIN, ..failure(Class::Truncated) };
        for _ in 0..100 {
            assert_eq!(attempts.after(progressed, 1.0), again(500));
        }
        assert_eq!(attempts.after(failure(Class::Truncated), 1.0), Verdict::GiveUp);
    }

    #[test]
    fn wrong_content_is_asked_for_once_more() {
        for class in [Class::Digest, Class::Size, Class::Framing, Class::Range] {
            let mut attempts = Attempts::new(4);
            assert_eq!(attempts.after(failure(class), 1.0), again(500));
            assert_eq!(attempts.after(failure(class), 1.0), Verdict::GiveUp);
        }
    }

    #[test]
    fn what_an_answer_of_a_wrong_size_left_may_be_found_out_by_the_digest() {
        let mut attempts = Attempts::new(4);
        assert_eq!(attempts.after(failure(Class::Size), 1.0), again(500));
        assert_eq!(attempts.after(failure(Class::Digest), 1.0), again(1_000));
        assert_eq!(attempts.after(failure(Class::Digest), 1.0), Verdict::GiveUp);
        assert_eq!(attempts.after(failure(Class::Framing), 1.0), Verdict::GiveUp);
    }

    #[test]
    fn what_would_be_answered_the_same_is_not_asked_again() {
        for class in [Class::NotFound, Class::Auth, Class::TlsTrust, Class::DiskFull] {
            assert_eq!(Attempts::new(4).after(failure(class), 1.0), Verdict::GiveUp);
        }
    }

    #[test]
    fn a_server_is_given_the_time_it_asks_for_within_reason() {
        let asked = |seconds| Failure {
            retry_after: Some(Duration::from_secs(seconds)),
            ..failure(Class::RateLimited)
        };
        assert_eq!(Attempts::new(4).after(asked(7), 1.0), again(7_000));
        assert_eq!(Attempts::new(4).after(asked(0), 1.0), again(500));
        assert_eq!(Attempts::new(4).after(asked(61), 1.0), Verdict::GiveUp);
    }
}
