//! All that can be told about this kernel, for `ringpull probe`.

use rustix::process::{Resource, getrlimit};
use rustix::system::uname;

use super::{Choice, EngineWish, ProbeError, choose_without, denied, rings};
use crate::transport::EngineKind;
use crate::transport::engine::uring;

pub use uring::features::{Answer, Feature};

/// What this kernel can do, and what a pull makes of it.
pub struct Survey {
    /// The kernel's name and release, such as "Linux 6.18.15".
    pub kernel: String,
    /// The engine that a pull takes, and why.
    pub choice: Choice,
    /// How that engine runs: the parts of its way that differ between kernels.
    pub path: String,
    /// Every feature, and whether it works.
    pub features: Vec<(&'static Feature, Answer)>,
    /// What bounds rings and connections.
    pub limits: Vec<Limit>,
}

/// A bound that the system sets on us.
pub struct Limit {
    /// Its name in JSON. Never changes.
    pub key: &'static str,
    /// Its name for a person.
    pub what: &'static str,
    /// Its value, or "unlimited"; `None` where this kernel has no such bound.
    pub value: Option<String>,
}

/// Tries everything. Takes some milliseconds.
///
/// # Errors
/// See [`ProbeError`].
pub fn survey() -> Result<Survey, ProbeError> {
    let denied = denied()?;
    let choice = choose_without(EngineWish::Auto, &denied)?;
    let system = uname();
    let kernel =
        format!("{} {}", system.sysname().to_string_lossy(), system.release().to_string_lossy());
    Ok(Survey {
        kernel,
        path: path(choice.engine)?,
        choice,
        features: uring::features::try_all(&denied),
        limits: limits(),
    })
}

/// Starts the engine as a thread of a pull does, and looks at what it got.
fn path(engine: EngineKind) -> Result<String, ProbeError> {
    if engine == EngineKind::Epoll {
        return Ok("epoll, a timer for each wait".into());
    }
    let (_, sockets) = rings();
    let uring::Shape { sockets: given, cooperative } = uring::Engine::start(sockets)?.shape();
    let mut path = String::from("uring, a linked timeout for each wait");
    path.push_str(if cooperative { ", COOP_TASKRUN" } else { ", no COOP_TASKRUN" });
    if given < sockets {
        path.push_str(", a small ring");
    }
    Ok(path)
}

fn limits() -> Vec<Limit> {
    let limit = |resource| {
        let limit = getrlimit(resource).current;
        Some(limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string()))
    };
    vec![
        Limit {
            key: "rlimit_memlock",
            what: "bytes of locked memory, which rings may count as (RLIMIT_MEMLOCK)",
            value: limit(Resource::Memlock),
        },
        Limit {
            key: "rlimit_nofile",
            what: "open files and connections (RLIMIT_NOFILE)",
            value: limit(Resource::Nofile),
        },
        Limit {
            key: "io_uring_disabled",
            what: "the administrator's switch (kernel.io_uring_disabled): 0 is on, 2 is off, 1 is for \
                   some",
            value: uring::switch(),
        },
    ]
}
