//! A registry with a generated image, and peers that misbehave on request.
//!
//! `ringpull demo`, the tests and the benchmarks all talk to what is here, so none of them needs a
//! network. It is the *other side* of the wire and shares no code with the client (`http`,
//! `registry`, `transport`): a mistake made there is not mirrored here. Plain blocking threads, one
//! for each connection; nothing here is fast by cleverness, only by large writes from memory.
//!
//! ```text
//!   image     what is served: a valid image, made from a seed
//!   script    which request gets which fault: plain data, for tables of tests
//!   registry  the server: routes, content, log, up to three origins (registry, storage, tokens)
//!     request → auth → answer → plan      bytes in, the honest answer, the answer with its fault as steps
//!   peer      the same steps without HTTP: for contracts of connect, send and receive
//!     server, wire                        threads that stop; one connection, plain or TLS, taking steps
//! ```
//!
//! Absences: no sleep (each wait ends when the peer closes or the server stops), no timeout of its
//! own, no limit on how long the request log grows, no push.

mod answer;
pub mod auth;
pub mod image;
pub mod log;
pub mod peer;
mod plan;
pub mod registry;
mod request;
pub mod script;
mod server;
pub mod wire;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use auth::{Auth, Bearer, Credentials};
pub use image::{Blob, Format, Image, Index, Platform};
pub use log::{Door, RequestLine};
pub use peer::{Blackhole, ScriptedPeer, blackhole, blackhole_at};
pub use registry::{BlobRedirect, Conversation, Options, Registry};
pub use script::{Action, Asked, Kind, Rule, Script, Then, Turn, Which};
pub use wire::Step;

/// Locks `mutex`. A thread that panicked while holding it has failed its test already; the others
/// go on with what it left.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
