//! File descriptors: how many a pull may have, and what they are given to.
//!
//! A process has a soft limit, which it may raise, and a hard one (getrlimit(2), RLIMIT_NOFILE). On a
//! machine of many cores, an engine for each of them could use up a small limit before there is a
//! connection, so engines get a part of what there is, and connections the rest.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::error::{Cause, Error};
use super::executor::Executor;
use crate::limits::{
    CONNECTION_DESCRIPTORS, CONNECTIONS_MAX, DESCRIPTORS_LATER, DESCRIPTORS_RESERVED,
    ENGINE_DESCRIPTORS, ENGINES_SHARE, WORKERS_MAX,
};
use crate::transport::EngineKind;

/// What a pull may have of what costs descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Allowed {
    /// Threads with an engine each, at least 1.
    pub(super) workers: usize,
    /// Connections of all of them together, at least as many.
    pub(super) connections: usize,
}

/// Raises the soft limit as far as a pull could make use of it, and makes sure that there are enough
/// for an engine and a connection. To be called before anything is opened for the pull.
///
/// # Errors
/// [`Cause::FewDescriptors`], with what is missing.
pub(super) fn prepare(engine: EngineKind) -> Result<(), Error> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let open = open_now();
    let useful = open
        + DESCRIPTORS_RESERVED
        + WORKERS_MAX as u64 * ENGINE_DESCRIPTORS
        + CONNECTIONS_MAX as u64 * CONNECTION_DESCRIPTORS;
    let limit = match current {
        Some(current) if current < useful => {
            let raised = maximum.map_or(useful, |maximum| maximum.min(useful)).max(current);
            let limit = Rlimit { current: Some(raised), maximum };
            // A sandbox may forbid it; then it stays as it is.
            if setrlimit(Resource::Nofile, limit).is_ok() { raised } else { current }
        }
        _ => return Ok(()),
    };
    let needed = open + DESCRIPTORS_RESERVED + of_engine(engine) + CONNECTION_DESCRIPTORS;
    match limit < needed {
        true => Err(Error::new(Cause::FewDescriptors { limit, needed })),
        false => Ok(()),
    }
}

/// What the descriptors that are left allow on so many cores. All that a pull keeps open besides
/// workers and connections is open by now, but for [`DESCRIPTORS_LATER`].
pub(super) fn allowed(executor: &Executor, cores: usize) -> Allowed {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let left = limit.saturating_sub(open_now() + DESCRIPTORS_LATER);
    let engine = match executor {
        Executor::Threads(engine) => of_engine(*engine),
        // Its workers share the engine that is there.
        Executor::Local => 0,
    };
    share(left, engine, cores)
}

/// What `left` descriptors allow, where each engine takes `engine` of them.
fn share(left: u64, engine: u64, cores: usize) -> Allowed {
    let count = |descriptors: u64| usize::try_from(descriptors).unwrap_or(usize::MAX);
    // Engines first: a worker without a connection is of no use.
    let pairs = left / (engine + CONNECTION_DESCRIPTORS);
    let most = (left / ENGINES_SHARE).checked_div(engine).map_or(pairs, |most| most.min(pairs));
    let workers = count(most).min(cores).max(1);
    let rest = left.saturating_sub(workers as u64 * engine);
    Allowed { workers, connections: count(rest / CONNECTION_DESCRIPTORS).max(workers) }
}

/// What one engine of this kind takes: two descriptors of the runtime's epoll instance, its event,
/// and its end of the pipe by which signals come; io_uring's ring besides.
fn of_engine(engine: EngineKind) -> u64 {
    match engine {
        EngineKind::Uring => ENGINE_DESCRIPTORS,
        EngineKind::Epoll | EngineKind::Sim => ENGINE_DESCRIPTORS - 1,
    }
}

/// How many descriptors this process has, those of its parent that it was left included.
fn open_now() -> u64 {
    /// The standard streams, and what waits for signals: where /proc is not mounted.
    const UNKNOWN: u64 = 9;
    // One of them is that of the listing itself.
    std::fs::read_dir("/proc/self/fd").map_or(UNKNOWN, |list| (list.count() as u64).max(1) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_enough_for_all_that_is_allowed() {
        for engine in [0, ENGINE_DESCRIPTORS - 1, ENGINE_DESCRIPTORS] {
            for cores in [1, 2, 4, 8, 16] {
                for left in engine + CONNECTION_DESCRIPTORS..2_500 {
                    let Allowed { workers, connections } = share(left, engine, cores);
                    assert!((1..=cores).contains(&workers) && connections >= workers);
                    let used =
                        workers as u64 * engine + connections as u64 * CONNECTION_DESCRIPTORS;
                    assert!(used <= left, "{workers} and {connections} in {left}, on {cores}");
                }
            }
        }
        let few = Allowed { workers: 1, connections: 1 };
        assert_eq!(share(0, ENGINE_DESCRIPTORS, 16), few, "it was made sure that this cannot be");
    }

    #[test]
    fn engines_leave_most_descriptors_to_connections() {
        let on_16_cores = |left| {
            let Allowed { workers, connections } = share(left, 5, 16);
            (workers, connections)
        };
        assert_eq!(on_16_cores(13), (1, 1));
        assert_eq!(on_16_cores(45), (2, 4));
        assert_eq!(on_16_cores(109), (5, 10));
        assert_eq!(on_16_cores(237), (11, 22));
        assert_eq!(on_16_cores(1_005), (16, 115));
    }

    #[test]
    fn what_is_open_is_counted() {
        let before = open_now();
        let file = std::fs::File::open("/dev/null").unwrap();
        // Other tests of this process open and close files meanwhile.
        assert!(open_now() > 3 && before > 3);
        drop(file);
    }
}
