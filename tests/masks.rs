//! A pull must succeed wherever io_uring is taken away, wholly or in part: one list of masks, each
//! put on a child process, which is asked for its probe and then for a pull.
//!
//! The pull has a layer that falls silent halfway, its blobs are read back and hashed, and the line
//! of `-v` that says which engine was taken, and why, must be what the probe said.
//!
//! Masks that this machine cannot make are named rows, "not run: why". `scripts/kernel-matrix` runs
//! the same list on other kernels, by these variables:
//!
//! | variable | what |
//! |---|---|
//! | `RINGPULL_BINARY` | the binary to test, instead of the one that cargo has built |
//! | `RINGPULL_MASKS_REPORT` | a file to write the rows to, as JSON |
//! | `RINGPULL_MASKS` | `all` (the default), or `kernel`: only masks on whose outcome kernels differ |
//! | `RINGPULL_MASKS_GUEST` | may change the machine: it is a guest that nobody else uses |
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[path = "support/skip.rs"]
mod skip;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ringpull::demo::{Action, Image, Kind, Options, Registry, Rule, Script};
use ringpull::image::{Algorithm, Digest};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};
use serde_json::{Value, json};
use skip::{Lack, skipped};
use tempfile::TempDir;

/// A mask, and what must come of it where io_uring works without it.
struct Mask {
    name: &'static str,
    how: How,
    decides: Decides,
    /// Part of the line that says why epoll was taken; `""` if io_uring must be.
    why_epoll: WhyEpoll,
}

/// Who decides what comes of a mask.
#[derive(Clone, Copy, PartialEq)]
enum Decides {
    /// The kernel: releases differ, or may.
    Kernel,
    /// A filter that answers before io_uring is asked, ringpull itself, or a part of the kernel that
    /// another mask asks already.
    Others,
}

#[derive(Clone, Copy)]
enum WhyEpoll {
    /// io_uring works all the same.
    Never,
    /// epoll must be taken, and the reason says this.
    Always(&'static str),
    /// Some kernels count the ring's memory, others do not.
    Perhaps(&'static str),
}
use WhyEpoll::{Always, Never, Perhaps};

#[derive(Clone, Copy)]
enum How {
    Nothing,
    /// An ordinary user instead of root.
    User,
    /// A seccomp filter that answers these calls with this error.
    Filter(&'static [i64], u32),
    /// A filter that forbids one operation of `io_uring_register`.
    FilterRegister(u64),
    /// The three calls answered as by Docker's default profile, in namespaces as of a container.
    Container,
    /// Ring restrictions.
    Deny(&'static str),
    /// An ordinary user with `ulimit` and these arguments.
    Limit(&'static str),
    /// A memory control group with a limit in bytes.
    Memory(u64),
    /// `kernel.io_uring_disabled`, for an ordinary user.
    Switch(&'static str),
}

// The same on every architecture.
const SETUP: i64 = 425;
const ENTER: i64 = 426;
const REGISTER: i64 = 427;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
const REGISTER_BUFFER_RING: u64 = 22;

const MASKS: &[Mask] = &[
    mask("none", How::Nothing, Never),
    mask("ordinary user", How::User, Never),
    same("seccomp: EPERM", How::Filter(&[SETUP, ENTER, REGISTER], EPERM), Always("forbidden")),
    same("seccomp: ENOSYS", How::Filter(&[SETUP, ENTER, REGISTER], ENOSYS), Always("ENOSYS")),
    same("seccomp: enter denied", How::Filter(&[ENTER], EPERM), Always("not entered")),
    same("seccomp: register denied", How::Filter(&[REGISTER], EPERM), Never),
    same("seccomp: no buffer rings", How::FilterRegister(REGISTER_BUFFER_RING), Never),
    same("container, Docker's default", How::Container, Always("forbidden")),
    mask("no RECV", How::Deny("recv"), Always("RECV")),
    same("no SEND", How::Deny("send"), Always("SEND")),
    same("no CONNECT", How::Deny("connect"), Always("CONNECT")),
    mask("no LINK_TIMEOUT", How::Deny("link_timeout"), Always("LINK_TIMEOUT")),
    mask("locked memory: none", How::Limit("-l 0"), Perhaps("RLIMIT_MEMLOCK")),
    mask("locked memory: 16 KiB", How::Limit("-l 16"), Perhaps("RLIMIT_MEMLOCK")),
    mask("locked memory: 32 KiB", How::Limit("-l 32"), Perhaps("RLIMIT_MEMLOCK")),
    mask("locked memory: 64 KiB", How::Limit("-l 64"), Perhaps("RLIMIT_MEMLOCK")),
    same("open files: 64", How::Limit("-n 64"), Never),
    mask("memory: 32 MiB", How::Memory(32 << 20), Never),
    mask("io_uring_disabled=1", How::Switch("1"), Always("kernel.io_uring_disabled=1")),
    mask("io_uring_disabled=2", How::Switch("2"), Always("kernel.io_uring_disabled=2")),
];

const fn mask(name: &'static str, how: How, why_epoll: WhyEpoll) -> Mask {
    Mask { name, how, decides: Decides::Kernel, why_epoll }
}

/// A mask whose outcome is the same on every kernel.
const fn same(name: &'static str, how: How, why_epoll: WhyEpoll) -> Mask {
    Mask { name, how, decides: Decides::Others, why_epoll }
}

/// The result of a mask that is left to a run on another kernel.
const SAME: &str = "the same on every kernel";

#[test]
fn a_pull_succeeds_under_every_mask() {
    let stage = Stage::new();
    let of_the_kernel_only = match std::env::var("RINGPULL_MASKS").as_deref() {
        Err(_) | Ok("all") => false,
        Ok("kernel") => true,
        Ok(other) => panic!("RINGPULL_MASKS={other}: it is `all` or `kernel`"),
    };
    let mut uring_works = false;
    let mut failed = Vec::new();
    let mut rows = Vec::new();
    for mask in MASKS {
        if of_the_kernel_only && mask.decides == Decides::Others {
            rows.push(json!({ "mask": mask.name, "result": SAME }));
            continue;
        }
        let row = match stage.try_mask(mask, uring_works) {
            Ok(row) => row,
            Err(NotRun::Because(why)) => {
                skipped(Lack::Right, &format!("mask {}: {why}", mask.name));
                json!({ "mask": mask.name, "result": format!("not run: {why}") })
            }
            Err(NotRun::Failed(why)) => {
                failed.push(format!("{}: {why}", mask.name));
                json!({ "mask": mask.name, "result": format!("failed: {why}") })
            }
        };
        if mask.name == "none" {
            uring_works = row["engine"] == "uring";
            if !uring_works && failed.is_empty() {
                skipped(Lack::Uring, &format!("most of the masks: {}", row["why"]));
            }
        }
        println!("{row}");
        rows.push(row);
    }
    if let Some(path) = std::env::var_os("RINGPULL_MASKS_REPORT") {
        fs::write(path, serde_json::to_string_pretty(&rows).unwrap()).unwrap();
    }
    assert!(failed.is_empty(), "\n{}\n", failed.join("\n"));
    assert!(rows.iter().any(|row| row["result"] == "verified"), "no mask could be put on");
}

enum NotRun {
    /// This machine has no such mask.
    Because(String),
    /// It was run, and went wrong.
    Failed(String),
}

fn failed(why: impl Into<String>) -> NotRun {
    NotRun::Failed(why.into())
}

/// In bytes. Small, since emulated processors hash slowly.
const LAYER_SIZES: [u64; 3] = [1 << 20, 256 << 10, 64 << 10];

/// A directory that everybody may use, with a copy of the binary.
struct Stage {
    directory: TempDir,
    binary: PathBuf,
    image: Image,
}

impl Stage {
    fn new() -> Stage {
        let directory = TempDir::new().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let binary = directory.path().join("ringpull");
        let built = std::env::var_os("RINGPULL_BINARY");
        fs::copy(built.unwrap_or(env!("CARGO_BIN_EXE_ringpull").into()), &binary).unwrap();
        Stage { directory, binary, image: Image::generate(7, &LAYER_SIZES) }
    }

    fn try_mask(&self, mask: &Mask, uring_works: bool) -> Result<Value, NotRun> {
        let on = On::put(mask.how).map_err(NotRun::Because)?;
        let probed = self.run(&on, &["probe", "--json"]);
        let probe: Value =
            serde_json::from_slice(&probed.stdout).map_err(|_| failed(shown(&probed)))?;
        let said = |key: &str| probe[key].as_str().unwrap_or_default().to_owned();
        let (engine, why) = (said("engine"), said("why"));
        self.pull_verified(&on, &engine, &why)?;
        match (mask.why_epoll, engine.as_str()) {
            (_, "epoll") if !uring_works && mask.name != "none" => {}
            (_, "epoll") if mask.name == "none" => {}
            (Never | Perhaps(_), "uring") => {}
            (Always(part) | Perhaps(part), "epoll") if why.contains(part) => {}
            _ => return Err(failed(format!("{engine} was taken: {why}"))),
        }
        if engine == "epoll" {
            let named = self.run(&on, &["pull", "--engine", "uring", "localhost:1/none"]);
            if named.status.code() == Some(0) || !shown(&named).contains("uring engine cannot") {
                return Err(failed(format!("--engine uring: {}", shown(&named))));
            }
        }
        Ok(json!({
            "mask": mask.name, "engine": engine, "path": said("path"), "why": why,
            "result": "verified",
        }))
    }

    /// Pulls an image with a layer that falls silent, and reads all of it back.
    fn pull_verified(&self, on: &On, engine: &str, why: &str) -> Result<(), NotRun> {
        let image = &self.image;
        let silence =
            Rule::on(Kind::Blob).layer(0).first(1).then(Action::StallAfter(LAYER_SIZES[0] / 4));
        let faults = Script::from([silence]);
        let registry = Registry::start(Options { faults, ..Options::default() }).unwrap();
        registry.add("masked", "latest", image);

        let target = TempDir::new_in(self.directory.path()).unwrap();
        fs::set_permissions(target.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let layout = target.path().join("layout");
        let (reference, destination) =
            (registry.reference("masked", "latest"), format!("oci:{}", layout.display()));
        let arguments = ["pull", "-v", "--recv-timeout", "500ms", &reference, &destination];
        let pulled = self.run(on, &arguments);
        if !pulled.status.success() {
            return Err(failed(shown(&pulled)));
        }
        let line = format!("engine: {engine} ({why})");
        if !shown(&pulled).contains(&line) {
            return Err(failed(format!("-v does not say `{line}`: {}", shown(&pulled))));
        }
        for blob in [&image.manifest, &image.config].into_iter().chain(&image.layers) {
            let path = layout.join("blobs/sha256").join(blob.digest.hex());
            let bytes = fs::read(&path).map_err(|error| failed(format!("{error}: {path:?}")))?;
            if Digest::of(Algorithm::Sha256, &bytes) != blob.digest {
                return Err(failed(format!("{path:?} has another digest")));
            }
        }
        Ok(())
    }

    fn run(&self, on: &On, arguments: &[&str]) -> Output {
        let mut command = on.command(&self.binary);
        command.args(arguments).env("HOME", "/nonexistent").current_dir("/");
        // What the tests are told is nothing to ringpull, and it would warn about it.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("RINGPULL_") {
                command.env_remove(name);
            }
        }
        let output = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    // A filter is of this thread, and of the children that it starts.
                    if let Some(filter) = &on.filter {
                        seccompiler::apply_filter(filter).unwrap();
                    }
                    command.output()
                })
                .join()
        });
        output.unwrap().unwrap()
    }
}

/// A mask that is on. What it changed in the machine is undone when it is dropped.
struct On {
    how: How,
    filter: Option<BpfProgram>,
    group: Option<PathBuf>,
}

impl On {
    /// # Errors
    /// Why this machine cannot have it.
    fn put(how: How) -> Result<On, String> {
        let is_root = rustix::process::geteuid().is_root();
        let filter = match how {
            How::Filter(calls, errno) => Some(filter(calls, None, errno)),
            How::FilterRegister(operation) => Some(filter(&[REGISTER], Some(operation), EPERM)),
            How::Container => Some(filter(&[SETUP, ENTER, REGISTER], None, EPERM)),
            _ => None,
        };
        let group = match how {
            How::Container | How::Memory(_) if !is_root => return Err("needs root".into()),
            How::Memory(limit) => Some(memory_group(limit).map_err(|error| error.to_string())?),
            _ => None,
        };
        if let How::Switch(value) = how {
            if std::env::var_os("RINGPULL_MASKS_GUEST").is_none() {
                return Err("changes the machine: only in a guest".into());
            }
            fs::write(SWITCH, value).map_err(|_| "this kernel has no such switch")?;
        }
        Ok(On { how, filter, group })
    }

    /// The binary, under the mask, and with an end to its time.
    fn command(&self, binary: &Path) -> Command {
        let mut command = Command::new("timeout");
        command.args(["-k", "5", "60"]);
        match self.how {
            How::Limit(limit) => {
                command.args(["sh", "-c", &format!("ulimit {limit} && exec \"$@\""), "sh"]);
            }
            How::Memory(_) => {
                let group =
                    self.group.as_ref().map_or(String::new(), |path| path.display().to_string());
                command.args([
                    "sh",
                    "-c",
                    &format!("echo $$ >{group}/cgroup.procs && exec \"$@\""),
                    "sh",
                ]);
            }
            How::Container => {
                command.args(["unshare", "-m", "-u", "-i", "-p", "-f"]);
            }
            How::Deny(operations) => {
                command.env("RINGPULL_DENY", operations);
            }
            _ => {}
        }
        command.arg(binary);
        let ordinary = matches!(self.how, How::User | How::Limit(_) | How::Switch(_));
        if ordinary && rustix::process::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }
}

impl Drop for On {
    fn drop(&mut self) {
        if let Some(group) = &self.group {
            let _ = fs::remove_dir(group);
        }
        if let How::Switch(_) = self.how {
            fs::write(SWITCH, "0").unwrap();
        }
    }
}

const SWITCH: &str = "/proc/sys/kernel/io_uring_disabled";
const NOBODY: u32 = 65_534;

/// A filter that answers `calls` with `errno`; if `second` is given, only when it is their second
/// argument.
fn filter(calls: &[i64], second: Option<u64>, errno: u32) -> BpfProgram {
    let rules = || -> Vec<SeccompRule> {
        let condition = |value| {
            SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value).unwrap()
        };
        second.map(|value| SeccompRule::new(vec![condition(value)]).unwrap()).into_iter().collect()
    };
    let rules: BTreeMap<i64, Vec<SeccompRule>> =
        calls.iter().map(|call| (*call, rules())).collect();
    let architecture = std::env::consts::ARCH.try_into().unwrap();
    let filter =
        SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno), architecture);
    filter.unwrap().try_into().unwrap()
}

/// A control group of the first or second version, whichever is there.
fn memory_group(limit: u64) -> std::io::Result<PathBuf> {
    let first = Path::new("/sys/fs/cgroup/memory");
    let (root, file) = if first.is_dir() {
        (first, "memory.limit_in_bytes")
    } else {
        let root = Path::new("/sys/fs/cgroup");
        let mut control =
            fs::OpenOptions::new().write(true).open(root.join("cgroup.subtree_control"))?;
        control.write_all(b"+memory")?;
        (root, "memory.max")
    };
    let group = root.join(format!("ringpull-test-{}", std::process::id()));
    fs::create_dir(&group)?;
    fs::write(group.join(file), limit.to_string())?;
    Ok(group)
}

fn shown(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    format!("{}: {}", output.status, String::from_utf8_lossy(&text).trim())
}
