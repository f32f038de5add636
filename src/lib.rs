//! ringpull: pulls container images on Linux at high throughput, and never hangs.
//!
//! Bytes flow one way. A reference comes in at the top, verified bytes land at the bottom, and each
//! layer knows only those below it:
//!
//! ```text
//!   cli → config → pull ──┬──→ client ──┬──→ registry → http    what to ask, what the answer means: no IO
//!                         │             └──→ transport          sockets with deadlines: uring | epoll | sim
//!                         └──→ store                            verified bytes: layout, index, lock
//!   shared words, using none of the above: image, origin, limits, error; report is where it is shown
//! ```
//!
//! In reading order:
//!
//! | module | what it is |
//! |---|---|
//! | [`limits`] | every bound, with its unit and reason |
//! | [`error`] | classes of failure: retry verdict and exit code, one `match` each |
//! | [`image`] | reference, digest, descriptor, platform, manifest |
//! | [`origin`] | scheme, host and port: what connections, credentials and redirects belong to |
//! | [`http`] | a strict HTTP/1.1 client, sans-IO |
//! | [`registry`] | the distribution protocol, sans-IO; every decision on where a secret may go |
//! | [`transport`] | byte streams with deadlines: names ([`transport::resolve`]), the first address that accepts ([`transport::race`]), TLS and trust; [`transport::engine`] is the contract of the engines, [`transport::engine::uring`] the linked pairs, [`transport::engine::sim`] a network in memory |
//! | [`client`] | one answered question: redirects, challenges, kept connections |
//! | [`store`] | the OCI image layout that pulls land in, large layers past the page cache ([`store::Stream`]); [`store::disk`] is all calls that change it, and a disk that fails for the simulator |
//! | [`pull`] | from a reference to a verified image in a store |
//! | [`report`] | all that is printed |
//! | [`config`] | what was asked for, checked once |
//! | [`cli`] | flags, one file per command |
//! | [`demo`] | a registry inside of this process, with faults on demand: for `ringpull demo`, tests and benchmarks |
//!
//! What holds everywhere, and what holds it:
//!
//! 1. No wait without a deadline that knows its phase ([`transport::Deadline`]). On io_uring the
//!    kernel keeps it: `tests/engine.rs` and `tests/kernel_trace.rs`.
//! 2. A linked pair is never split ([`transport::engine::uring`]).
//! 3. No byte that arrived is thrown away while it may be good (`pull::fetch`): `tests/sim.rs`.
//! 4. Nothing unverified is visible ([`store`]), nor after a power cut: `tests/store.rs`,
//!    `tests/pull_faults.rs`, `tests/power.rs`.
//! 5. The descriptor is the authority on size and digest; headers are hints.
//! 6. A credential belongs to an origin ([`registry`]).
//! 7. Memory is bounded by configuration: each peer-controlled size has a limit with a name.
//!
//! What is *not* there, held by `tests/tidy.rs`: `http`, `registry` and `image` open no socket, read
//! no file and no clock. `unsafe` occurs in `transport::engine` and nowhere else. Only
//! `report` prints.

pub mod cli;
pub mod client;
pub mod config;
pub mod demo;
pub mod error;
pub mod http;
pub mod image;
pub mod limits;
pub mod origin;
pub mod pull;
pub mod registry;
pub mod report;
pub mod store;
pub mod transport;
