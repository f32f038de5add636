//! Byte streams with deadlines.
//!
//! ```text
//!   resolve, race   names to addresses, and the first of those that accepts
//!       │
//!   connection   one peer: plain or TLS, bytes in order, every wait with a deadline
//!       │
//!      tls       rustls driven sans-IO: ciphertext in, plaintext and ciphertext out;
//!       │        trust: whose certificates are taken, and why not; certificate: what stands in one
//!       │
//!    engine      owned buffer in, owned buffer and result out: uring | epoll | sim
//! ```
//!
//! Knows no HTTP. Which engine is used is decided once, by [`probe`], and no code above
//! [`engine`] can tell.

pub mod buffer;
mod certificate;
pub mod clock;
pub mod connection;
pub mod deadline;
pub mod engine;
pub mod error;
pub mod probe;
pub mod race;
pub mod resolve;
pub mod tls;
mod trust;

pub use buffer::Buffer;
pub use connection::{Connection, Fill};
pub use deadline::{Deadline, Phase};
pub use engine::{Connector, Engine, EngineKind, Socket};
pub use error::Error;
pub use resolve::Resolver;
