//! Whole pulls with one thing wrong: what is said, which exit code it is, what is asked for again, and
//! what is on disk afterwards. One table, held by both engines.
//!
//! The numbers are those of `tests/faults.md`, the list of all faults and where each is tested.
//! `RINGPULL_ROW=13 cargo test --test pull_faults table` checks the rows whose name contains that.
//!
//! ```text
//!   harness       what a row is, and how it is checked
//!   wire          rows: connections, silence, framing, ranges, content
//!   protocol      rows: manifests, tokens, redirects, refusals, certificates, files that are there
//!   images        rows: layers that are elsewhere, platforms, documents that are too much together
//!   alone         what needs a clock, a signal, a second process: tests of their own
//!   surroundings  links, limits, an interrupted kernel: tests of their own
//!   secrets       what redirects must not tell
//!   signals       ends amid waits for a disk or a lock
//!   clock         a date that changes
//!   names         what needs a name server or several addresses
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    unreachable_pub,
    reason = "helpers of tests are tests, which clippy.toml cannot know"
)]

#[path = "pull_faults/alone.rs"]
mod alone;
#[path = "pull_faults/clock.rs"]
mod clock;
#[path = "pull_faults/harness.rs"]
mod harness;
#[path = "pull_faults/images.rs"]
mod images;
#[path = "pull_faults/names.rs"]
mod names;
#[path = "pull_faults/protocol.rs"]
mod protocol;
#[path = "pull_faults/secrets.rs"]
mod secrets;
#[path = "pull_faults/signals.rs"]
mod signals;
mod support;
#[path = "pull_faults/surroundings.rs"]
mod surroundings;
#[path = "pull_faults/wire.rs"]
mod wire;

use std::collections::BTreeMap;

use harness::{Row, check_all};
use support::ringpull::engines;

#[test]
fn the_table_holds_on_uring() {
    if engines().contains(&"uring") {
        check_all(&rows(), "uring");
    }
}

#[test]
fn the_table_holds_on_epoll() {
    check_all(&rows(), "epoll");
}

fn rows() -> Vec<Row> {
    [
        wire::connecting(),
        wire::silence(),
        wire::trickles(),
        wire::endings(),
        wire::framing(),
        wire::ranges(),
        wire::refused_ranges(),
        wire::parallel(),
        wire::content(),
        protocol::documents(),
        protocol::credentials(),
        protocol::redirects(),
        protocol::storages(),
        protocol::refusals(),
        protocol::trust(),
        protocol::other_protocols(),
        protocol::files(),
        protocol::sizes(),
        images::rows(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[test]
fn the_list_of_faults_is_true() {
    let list = include_str!("faults.md");
    let mut found = BTreeMap::new();
    for row in rows() {
        *found.entry(row.number()).or_insert(0) += 1;
    }
    let mut listed = BTreeMap::new();
    for line in list.lines() {
        let mut cells = line.split(" | ");
        let number = cells.next().and_then(|cell| cell.strip_prefix("| "));
        let count = line.split_once("table (").and_then(|(_, rest)| rest.split_once(')'));
        if let (Some(number), Some((count, _))) = (number, count)
            && let (Ok(number), Ok(count)) = (number.parse::<u32>(), count.parse::<u32>())
        {
            listed.insert(number, count);
        }
    }
    assert_eq!(listed, found, "correct the numbers of rows in tests/faults.md");
    for name in list.split('`').filter(|word| word.contains('_') && !word.contains(['/', ' ', '…']))
    {
        let test = format!("fn {name}()");
        let files = [
            include_str!("pull_faults/alone.rs"),
            include_str!("pull_faults/surroundings.rs"),
            include_str!("pull_faults/secrets.rs"),
            include_str!("../src/registry/redirect.rs"),
            include_str!("../src/pull/replace.rs"),
            include_str!("../src/pull/tuner.rs"),
            include_str!("pull_faults/clock.rs"),
            include_str!("pull_faults/signals.rs"),
            include_str!("cli.rs"),
            include_str!("crash.rs"),
            include_str!("power.rs"),
            include_str!("resume.rs"),
            include_str!("pull_replace.rs"),
            include_str!("pull_faults/names.rs"),
            include_str!("pull_client.rs"),
            include_str!("sim.rs"),
            include_str!("store.rs"),
            include_str!("masks.rs"),
            include_str!("../src/transport/engine/uring/self_test/mod.rs"),
            include_str!("../src/transport/engine/uring/mod.rs"),
            include_str!("../src/transport/tls.rs"),
        ];
        assert!(files.iter().any(|file| file.contains(&test)), "there is no test {name}");
    }
}
