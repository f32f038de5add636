//! What a machine cannot test, said so that somebody sees it: `cargo test` shows nothing of a test
//! that passes, and one that is left out counts as passed.
//!
//! | variable | what |
//! |---|---|
//! | `RINGPULL_REQUIRE_TOOLS=1` (or `CI=true`) | to lack a program, or io_uring, is a failure |
//! | `RINGPULL_MAY_SKIP` | words; with `io_uring` among them, to lack that is none all the same |
//! | `RINGPULL_SKIPPED` | a file that gets a line for each test, or part of one, that is left out |
//!
//! `scripts/test` sets the first and the last, and ends with what is in the file.
#![allow(dead_code, reason = "each test file uses a part of this")]
#![allow(unreachable_pub, reason = "`pub` means: for the tests")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "as in the rest of the tests")]

use std::fs::OpenOptions;
use std::io::Write;

/// What a machine lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// A program that `scripts/setup` installs.
    Program,
    /// io_uring: of most tests, one half.
    Uring,
    /// A right, or a part of the kernel, that not everybody has: tracing, mounting, control groups,
    /// name spaces. Never a failure.
    Right,
    /// Nothing: by its version, the kernel does not do what the test is about.
    OldKernel,
}

/// The test that runs, whose thread has its name.
pub fn this_test() -> String {
    std::thread::current().name().unwrap_or("a test").to_owned()
}

fn may_skip(lack: &str) -> bool {
    std::env::var("RINGPULL_MAY_SKIP").is_ok_and(|text| text.split(' ').any(|word| word == lack))
}

/// Says that `what` is left out, and why. The caller returns.
///
/// # Panics
/// Where the tests must not be without what the machine lacks.
#[track_caller]
pub fn skipped(lack: Lack, what: &str) {
    let is = |name, value| std::env::var(name).is_ok_and(|found| found == value);
    let strict = is("CI", "true") || is("RINGPULL_REQUIRE_TOOLS", "1");
    match lack {
        Lack::Program => assert!(!strict, "{what}: run scripts/setup"),
        Lack::Uring => assert!(
            !strict || may_skip("io_uring"),
            "{what}: io_uring cannot be used here, so half of the tests would not run. If that is \
             meant: RINGPULL_MAY_SKIP=io_uring"
        ),
        Lack::Right | Lack::OldKernel => {}
    }
    eprintln!("skipped: {what}");
    if let Some(path) = std::env::var_os("RINGPULL_SKIPPED") {
        // One write each, for many tests may be left out at once.
        let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
        file.write_all(format!("{what}\n").as_bytes()).unwrap();
    }
}
