//! The kernel's own account of a pull: every operation was submitted with a linked timeout, and a
//! silence was ended by the kernel's timer.
//!
//! Reads the `io_uring:*` trace events (Documentation/trace/events.rst) of one process, and the
//! expiries of `io_link_timeout_fn`. Needs root and tracefs; says so and skips where there is none.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "support/skip.rs"]
mod skip;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ringpull::demo::{Action, Image, Kind, Options, Registry, Rule, Script};
use ringpull::transport::engine::uring;
use rustix::io::Errno;
use skip::{Lack, skipped};

const TRACEFS: &str = "/sys/kernel/tracing";

/// A trace buffer of this test's own, removed when it is dropped.
struct Instance {
    path: PathBuf,
}

impl Instance {
    /// `None` where there is no tracefs that we may use.
    fn new(name: &str) -> Option<Instance> {
        let instances = Path::new(TRACEFS).join("instances");
        if !instances.exists() {
            // Mounted on demand on some systems; harmless, and only root can.
            let _ = Command::new("mount").args(["-t", "tracefs", "nodev", TRACEFS]).output();
        }
        let path = instances.join(format!("ringpull-{name}-{}", std::process::id()));
        fs::create_dir(&path).ok()?;
        let instance = Instance { path };
        // 16 MiB for each core: far more than a pull makes.
        instance.write("buffer_size_kb", "16384").then_some(instance)
    }

    fn write(&self, file: &str, text: &str) -> bool {
        fs::write(self.path.join(file), text).is_ok()
    }

    fn lines(&self) -> Vec<String> {
        let trace = fs::read_to_string(self.path.join("trace")).unwrap();
        assert!(!trace.contains("LOST"), "the trace buffer was too small");
        trace.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}

/// What the events say of one kind of operation.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Count {
    submitted: usize,
    linked_to_a_timeout: usize,
    completed: usize,
    cancelled: usize,
}

#[derive(Debug, Default)]
struct Account {
    operations: HashMap<String, Count>,
    /// Completions of linked timeouts, by result.
    timeouts: HashMap<i32, usize>,
}

impl Account {
    /// Follows the requests through the events. The kernel uses their memory again, so the opcode of
    /// a request is that of its last submission.
    fn of(lines: &[String]) -> Account {
        let mut account = Account::default();
        let mut opcode_of: HashMap<String, String> = HashMap::new();
        // The self-test's ring, known by its NOP, is not the pull's.
        let mut self_tests: HashSet<String> = HashSet::new();
        for line in lines {
            let field = |name: &str| {
                let (_, rest) = line.split_once(name)?;
                Some(rest.trim_start().split([',', ' ']).next()?.to_owned())
            };
            let Some(ring) = field(": ring ") else { continue };
            if line.contains("io_uring_create:") {
                self_tests.remove(&ring);
            } else if line.contains("opcode NOP") {
                self_tests.insert(ring.clone());
            }
            if self_tests.contains(&ring) {
                continue;
            }
            if line.contains("io_uring_submit_req:") {
                let (request, opcode) = (field("req ").unwrap(), field("opcode ").unwrap());
                account.operations.entry(opcode.clone()).or_default().submitted += 1;
                opcode_of.insert(request, opcode);
            } else if line.contains("io_uring_link:") {
                let (timeout, operation) = (field("request ").unwrap(), field("after ").unwrap());
                assert_eq!(opcode_of[&timeout], "LINK_TIMEOUT", "linked to something else: {line}");
                let operation = opcode_of[&operation].clone();
                account.operations.entry(operation).or_default().linked_to_a_timeout += 1;
            } else if line.contains("io_uring_complete:") {
                let result: i32 = field("result ").unwrap().parse().unwrap();
                let Some(opcode) = opcode_of.get(&field("req ").unwrap()) else { continue };
                if opcode == "LINK_TIMEOUT" {
                    *account.timeouts.entry(result).or_default() += 1;
                } else {
                    let count = account.operations.entry(opcode.clone()).or_default();
                    count.completed += 1;
                    count.cancelled += usize::from(CANCELLED.contains(&result));
                }
            }
        }
        account
    }

    fn operation(&self, opcode: &str) -> Count {
        self.operations.get(opcode).copied().unwrap_or_default()
    }

    fn timeouts(&self, result: i32) -> usize {
        self.timeouts.get(&result).copied().unwrap_or_default()
    }
}

/// What the engine submits: connects, sends, and receives with and without a low-water mark.
const OPERATIONS: [&str; 4] = ["CONNECT", "SEND", "RECV", "RECVMSG"];

/// How the kernel answers for an operation that its timeout ended.
const CANCELLED: [i32; 2] = [-Errno::CANCELED.raw_os_error(), -Errno::INTR.raw_os_error()];

#[test]
fn every_wait_of_a_pull_is_linked_to_a_timeout_and_a_stall_is_ended_by_the_kernel() {
    if let Ok(uring::Ability::Missing(why)) = uring::self_test() {
        return skipped(Lack::Uring, &format!("the kernel's account of a pull: {why}"));
    }
    let (Some(ring), Some(timer)) = (Instance::new("ring"), Instance::new("timer")) else {
        let what = format!("the kernel's account of a pull: no tracefs for this user at {TRACEFS}");
        return skipped(Lack::Right, &what);
    };
    // The processes that the shell below becomes, and their threads.
    assert!(ring.write("options/event-fork", "1"));
    assert!(ring.write("events/io_uring/enable", "1"));
    assert!(timer.write("events/timer/hrtimer_expire_entry/enable", "1"));

    let layers = [8 << 20, 4 << 20, 2 << 20, 1 << 20];
    let stall = Rule::on(Kind::Blob).layer(1).first(1).then(Action::StallAfter(1 << 20));
    let faults = Script::from([stall]);
    let registry = Registry::start(Options { faults, ..Options::default() }).unwrap();
    registry.add("traced", "latest", &Image::generate(7, &layers));
    let directory = tempfile::tempdir().unwrap();
    let script = format!("echo $$ > {}/set_event_pid && exec \"$@\"", ring.path.display());
    let pulled = Command::new("sh")
        .args(["-c", &script, "sh", env!("CARGO_BIN_EXE_ringpull"), "pull", "-v"])
        .args(["--engine", "uring", "--recv-timeout", "500ms"])
        .arg(registry.reference("traced", "latest"))
        .arg(format!("oci:{}", directory.path().join("out").display()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&pulled.stderr);
    assert!(pulled.status.success(), "{said}");

    let account = Account::of(&ring.lines());
    println!("as the kernel saw it: {account:?}");
    for opcode in OPERATIONS {
        let count = account.operation(opcode);
        // A receive with a low-water mark is a RECVMSG, on kernels and at rates that have any.
        assert!(count.submitted > 0 || opcode == "RECVMSG", "no {opcode} at all");
        assert_eq!(count.submitted, count.linked_to_a_timeout, "a {opcode} without a deadline");
        assert_eq!(count.submitted, count.completed, "a {opcode} was left behind");
    }
    let all = OPERATIONS.map(|opcode| account.operation(opcode));
    let pairs: usize = all.iter().map(|count| count.submitted).sum();
    let cancelled: usize = all.iter().map(|count| count.cancelled).sum();
    let timeouts = account.operation("LINK_TIMEOUT");
    assert_eq!(timeouts.submitted, pairs);
    let etime = -Errno::TIME.raw_os_error();
    let einval = -Errno::INVAL.raw_os_error();
    assert_eq!(account.timeouts(einval), 0, "a pair was split");
    // The stall's; and before it the end of a low-water mark's hold, if the layer came fast enough
    // to be given one.
    let ended = account.timeouts(etime);
    assert!((1..=2).contains(&ended), "{ended} operations were ended by their timeouts");
    assert_eq!(cancelled, ended, "an operation was ended by something else");

    // The timer that ended the stall is the kernel's.
    let expiries = timer.lines().iter().filter(|line| line.contains("io_link_timeout_fn")).count();
    println!("{expiries} expiries of io_link_timeout_fn on this machine meanwhile");
    assert!(expiries >= 1, "no linked timeout of the kernel expired");
    // Other connections may have brought the back of the layer meanwhile.
    let stalled =
        said.lines().find(|line| line.contains("no bytes for 500 ms while receiving the"));
    assert!(stalled.is_some_and(|line| line.contains(" of 4.0 MiB)")), "{said}");
}
