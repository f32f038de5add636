//! The clock that all waits go by.
//!
//! Deadlines, pauses between attempts, the cap on the rate and the measurements of the tuner read this
//! one and the timers of the runtime follow it. Where a runtime's clock is paused, that is in a
//! simulation, time is what the runtime says, and everything above follows.

use std::time::Instant;

/// The instant it is now: on the monotonic clock, or on the paused clock of the runtime that this
/// thread is in.
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
