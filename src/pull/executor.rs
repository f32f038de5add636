//! Where the work of a pull runs, beside the task that started it.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::task::{JoinError, JoinHandle, spawn_blocking};

use crate::transport::EngineKind;

/// Workers that a pull has on one thread: as few as can get in each other's way.
const LOCAL_WORKERS: usize = 2;

/// Where the work of a pull runs.
#[derive(Debug, Clone, Copy)]
pub(super) enum Executor {
    /// Each worker on a thread of its own, with an engine of this kind; what blocks, on others.
    Threads(EngineKind),
    /// Everything on the thread that is running, over the engine that it has. What blocks holds up the rest, but
    /// nothing depends on how threads are scheduled.
    Local,
}

impl Executor {
    /// How many workers can run at the same time.
    pub(super) fn cores(&self) -> usize {
        match self {
            Executor::Threads(_) => {
                std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
            }
            Executor::Local => LOCAL_WORKERS,
        }
    }

    /// User and system time of all threads of this process; nothing where it would not be the time
    /// of one pull.
    pub(super) fn cpu_time(&self) -> Duration {
        match self {
            Executor::Threads(_) => {
                let time = clock_gettime(ClockId::ProcessCPUTime);
                let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
                Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
            }
            Executor::Local => Duration::ZERO,
        }
    }

    /// Time that all cores of the machine had nothing to do since it was started (proc_stat(5)), where
    /// that can be known.
    pub(super) fn idle_time(&self) -> Option<Duration> {
        let Executor::Threads(_) = self else { return None };
        let stat = std::fs::read_to_string("/proc/stat").ok()?;
        let idle = stat.lines().next()?.strip_prefix("cpu ")?.split_ascii_whitespace().nth(3)?;
        let ticks: u64 = idle.parse().ok()?;
        let micros_per_tick = 1_000_000 / rustix::param::clock_ticks_per_second().max(1);
        Some(Duration::from_micros(ticks.saturating_mul(micros_per_tick)))
    }

    /// Runs `work`, which waits for the disk.
    pub(super) async fn block<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        match self {
            Executor::Threads(_) => spawn_blocking(work).await,
            Executor::Local => Ok(work()),
        }
    }

    /// Runs `work`, which waits for what others do; `None` where there is no thread for that.
    pub(super) fn beside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<JoinHandle<T>> {
        match self {
            Executor::Threads(_) => Some(spawn_blocking(work)),
            Executor::Local => None,
        }
    }
}
