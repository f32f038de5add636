//! Which engine this machine gets, and why.
//!
//! [`choose`] is cheap, and run by every pull. [`survey`](survey::survey) is all that can be told,
//! and run by `ringpull probe`; its verdict is that of [`choose`].

pub mod survey;

use std::fmt;
use std::io;

use super::EngineKind;
use super::engine::uring::{Ability, Operation, self_test_for};
use crate::limits::JOBS;

/// What the user asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EngineWish {
    /// io_uring where it works, epoll elsewhere.
    #[default]
    Auto,
    /// This one and no other.
    Only(EngineKind),
}

/// The engine taken, and the reason in a line for the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The engine.
    pub engine: EngineKind,
    /// Why this one.
    pub why: String,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.engine, self.why)
    }
}

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// io_uring was asked for by name, and does not work here.
    #[error("the uring engine cannot be used here: {0}; leave out --engine, or use --engine epoll")]
    Unavailable(String),
    /// The probe itself failed.
    #[error("cannot find out whether io_uring works: {0}")]
    Failed(#[from] io::Error),
    /// `RINGPULL_DENY` names something else than an operation.
    #[error(
        "{DENY}: `{}` is no operation; there are recv, send, connect and link_timeout",
        .0.escape_debug()
    )]
    NoOperation(String),
}

/// Chooses the engine. An engine asked for by name is never replaced by the other.
///
/// # Errors
/// See [`ProbeError`].
pub fn choose(wish: EngineWish) -> Result<Choice, ProbeError> {
    choose_without(wish, &denied()?)
}

fn choose_without(wish: EngineWish, denied: &[Operation]) -> Result<Choice, ProbeError> {
    let ability = match wish {
        EngineWish::Only(engine @ (EngineKind::Epoll | EngineKind::Sim)) => {
            return Ok(Choice { engine, why: "asked for".into() });
        }
        EngineWish::Auto | EngineWish::Only(EngineKind::Uring) => {
            let (threads, connections) = rings();
            self_test_for(threads, connections, denied)?
        }
    };
    match (ability, wish) {
        (Ability::Works, EngineWish::Auto) => {
            let why = "a receive with a linked timeout works on this kernel".into();
            Ok(Choice { engine: EngineKind::Uring, why })
        }
        (Ability::Works, EngineWish::Only(engine)) => {
            Ok(Choice { engine, why: "asked for".into() })
        }
        (Ability::Missing(why), EngineWish::Auto) => Ok(Choice { engine: EngineKind::Epoll, why }),
        (Ability::Missing(why), EngineWish::Only(_)) => Err(ProbeError::Unavailable(why)),
    }
}

/// How many rings a pull has at once, and for how many connections each: one for every thread that
/// fetches, and one that asks for the manifest.
fn rings() -> (usize, usize) {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let workers = cores.min(JOBS);
    (workers + 1, JOBS.div_ceil(workers))
}

/// Operations that the self-test's ring refuses, so that tests can have a kernel which lacks them:
/// `RINGPULL_DENY=link_timeout,recv`. All it can do is to make a pull take epoll.
pub(crate) const DENY: &str = "RINGPULL_DENY";

fn denied() -> Result<Vec<Operation>, ProbeError> {
    let text = std::env::var_os(DENY).unwrap_or_default();
    operations(&text.to_string_lossy())
}

fn operations(text: &str) -> Result<Vec<Operation>, ProbeError> {
    let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let named = Operation::ALL.into_iter().find(|operation| operation.key() == name);
            named.ok_or_else(|| ProbeError::NoOperation(name.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denied_operations_are_named_as_in_the_report() {
        let named = |text| operations(text).ok();
        assert_eq!(named(""), Some(vec![]));
        assert_eq!(
            named("recv, link_timeout"),
            Some(vec![Operation::Recv, Operation::LinkTimeout])
        );
        assert_eq!(named("recv,nop"), None);
    }

    #[test]
    fn without_an_operation_auto_takes_epoll_and_uring_by_name_fails() {
        for operation in Operation::ALL {
            let choice = choose_without(EngineWish::Auto, &[operation]).unwrap();
            assert_eq!(choice.engine, EngineKind::Epoll, "{operation}: {choice}");
            let named = choose_without(EngineWish::Only(EngineKind::Uring), &[operation]);
            assert!(matches!(named, Err(ProbeError::Unavailable(_))), "{operation}: {named:?}");
        }
    }
}
