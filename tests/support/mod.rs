//! What the integration tests stand on: real registries, a test CA, real images, other tools.
//!
//! - [`skip`]: says what this machine cannot test
//! - [`tools`]: runs skopeo, umoci and the like; skips or fails a test whose tool is missing
//! - [`server`]: a child process that serves until it is dropped
//! - [`ca`]: a certificate authority for loopback addresses
//! - [`docker_registry`]: Debian's `docker-registry`: the reference implementation, over http or https
//! - [`nginx`]: nginx as a static registry: redirects, slow bodies, an access log to read
//! - [`image`]: builds OCI image layouts with random layers
//! - [`layout`]: reads image layouts, verifies and compares them
//! - [`ringpull`]: runs the binary under test
//! - [`process`]: the same, to be signalled, timed, or run under another program
//!
//! Nothing here uses ringpull's own code, so that a mistake in it cannot hide itself. All servers
//! listen on loopback, on ports that were free, and keep their files in temporary directories.
#![allow(dead_code, reason = "each test file uses a part of this")]
#![allow(unreachable_pub, reason = "`pub` means: for the tests")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "in a test, giving up with the reason at hand is how an error is handled"
)]

pub mod ca;
pub mod docker_registry;
pub mod image;
pub mod layout;
pub mod nginx;
pub mod process;
pub mod ringpull;
pub mod server;
pub mod skip;
pub mod tools;
