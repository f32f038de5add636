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

    /// Time that all cores of the machine together had nothing to do since it was started, where that
    /// can be known: the second number of proc_uptime(5). `/proc/stat` has the same, but for it the kernel
    /// adds up the interrupts of each core, and on machines of hundreds of cores that takes milliseconds.
    pub(super) fn idle_time(&self) -> Option<Duration> {
        let Executor::Threads(_) = self else { return None };
        idle_in(&std::fs::read_to_string("/proc/uptime").ok()?)
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

/// The idle time in what `/proc/uptime` says: seconds with a fraction.
fn idle_in(uptime: &str) -> Option<Duration> {
    let (_, idle) = uptime.trim_end().split_once(' ')?;
    let seconds: f64 = idle.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_is_the_second_number_of_uptime() {
        assert_eq!(idle_in("869.04 477.89\n"), Some(Duration::from_millis(477_890)));
        for text in ["", "869.04", "869.04 x", "869.04 -1", "869.04 inf"] {
            assert_eq!(idle_in(text), None, "{text:?}");
        }
        assert!(Executor::Threads(crate::transport::EngineKind::Epoll).idle_time().is_some());
    }
}
