//! Pulls that are killed, or refused by the kernel, at each of their system calls in turn; and what
//! must hold afterwards, whatever the call was.
//!
//! strace does it: `inject=CALL:signal=KILL:when=N` ends the process at the Nth such call of a
//! thread, `inject=CALL:error=ERRNO:when=N` makes it fail. On uring, `io_uring_enter` is where
//! completions are met. After each of these:
//! - the pull has ended by itself, and said why with the right class and exit code;
//! - every blob hashes to its name, and `index.json` is wholly old or wholly new;
//! - the same pull, undisturbed, then completes.
//!
//! `cargo test` tries a few of the points; `scripts/crash-sweep` tries all. Partials may stay behind,
//! as long as they do the next pull no harm.
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

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use ringpull::demo::{Format, Image, Kind, Options, Platform, Registry};
use rustix::process::{Pid, Signal, kill_process_group};
use support::layout::{Layout, partials, sha256};
use support::process::{ringpull, ringpull_under};
use support::ringpull::engines;
use support::skip::{Lack, skipped};
use support::tools::{text, tool_or_skip};
use tempfile::TempDir;

/// A run that takes longer hangs: no deadline is near it.
const HUNG_AFTER: Duration = Duration::from_secs(90);

/// Few threads and short ways, so that the Nth call is the same one each time.
const ENVIRONMENT: [(&str, &str); 8] = [
    ("RINGPULL_JOBS", "1"),
    ("RINGPULL_CONNECTIONS", "1"),
    ("RINGPULL_RETRIES", "1"),
    ("RINGPULL_RECV_TIMEOUT", "20s"),
    ("RINGPULL_HEAD_TIMEOUT", "20s"),
    ("RINGPULL_CONNECT_TIMEOUT", "20s"),
    // The machine's certificates are hundreds of files, and not what this is about.
    ("SSL_CERT_FILE", "/dev/null"),
    ("SSL_CERT_DIR", "/nonexistent"),
];

/// The exit code where a library cannot be loaded.
const LOADER_FAILED: i32 = 127;

/// Calls that are made to fail, and how. Errors of the store's own files must be said with their
/// class; of others, only that they do no harm.
const ERRORS: [(&str, &[&str]); 30] = [
    ("openat", &["EMFILE", "ENOMEM", "EIO", "EACCES", "EROFS", "ENOSPC", "EINTR"]),
    (
        "openat2",
        &["EMFILE", "ENOMEM", "EIO", "EACCES", "EROFS", "ENOSPC", "ENAMETOOLONG", "ENOTDIR"],
    ),
    ("mkdir", &["ENOSPC", "EDQUOT", "EROFS", "EACCES", "EIO"]),
    ("mkdirat", &["ENOSPC", "EDQUOT", "EROFS", "EACCES", "EIO"]),
    ("write", &["ENOSPC", "EDQUOT", "EIO", "EINTR"]),
    ("pwrite64", &["ENOSPC", "EDQUOT", "EIO", "EINTR"]),
    ("pwritev", &["ENOSPC", "EDQUOT", "EIO", "EINTR"]),
    ("fallocate", &["ENOSPC", "EDQUOT", "EIO", "EOPNOTSUPP"]),
    ("ftruncate", &["ENOSPC", "EIO"]),
    ("fsync", &["EIO", "ENOSPC", "EDQUOT", "EROFS"]),
    ("fdatasync", &["EIO", "ENOSPC"]),
    ("sync_file_range", &["EIO", "ENOSPC"]),
    ("rename", &["ENOSPC", "EDQUOT", "EIO", "EROFS", "EACCES"]),
    ("renameat", &["ENOSPC", "EDQUOT", "EIO", "EROFS", "EACCES"]),
    ("renameat2", &["ENOSPC", "EDQUOT", "EIO", "EROFS", "EACCES"]),
    ("linkat", &["ENOSPC", "EDQUOT", "EIO", "EROFS", "EMLINK"]),
    ("unlinkat", &["EIO", "EROFS", "EACCES"]),
    ("flock", &["ENOLCK", "EINTR", "EIO"]),
    ("getdents64", &["EIO", "ENOMEM"]),
    ("statx", &["EIO", "EACCES", "ENOMEM"]),
    ("newfstatat", &["EIO", "EACCES", "ENOMEM"]),
    ("read", &["EIO", "EINTR"]),
    ("pread64", &["EIO", "EINTR"]),
    ("close", &["EIO", "EINTR"]),
    ("socket", &["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"]),
    ("setsockopt", &["ENOBUFS", "EINVAL"]),
    ("eventfd2", &["EMFILE", "ENOMEM"]),
    ("epoll_create1", &["EMFILE", "ENOMEM"]),
    ("clone3", &["EAGAIN", "ENOMEM"]),
    ("io_uring_enter", &["EINTR", "EAGAIN", "EBUSY"]),
];

// --- the sweeps ----------------------------------------------------------------------------------

/// About thirty points: kills and errors, spread over the calls that change files.
#[test]
fn a_pull_disturbed_at_some_system_calls_does_no_harm() {
    const CHANGING: [&str; 7] =
        ["pwrite64", "pwritev", "fsync", "renameat", "mkdirat", "flock", "fallocate"];
    sweep(|points| {
        let changing = |point: &Point| CHANGING.contains(&&point.call[..]);
        let (kills, errors): (Vec<Point>, Vec<Point>) =
            points.into_iter().filter(changing).partition(|it| it.disturbance == Disturbance::Kill);
        let some = |points: Vec<Point>| {
            let step = (points.len() / 8).max(1);
            points.into_iter().step_by(step)
        };
        some(kills).chain(some(errors)).collect()
    });
}

/// All points, or every `RINGPULL_SWEEP_EVERY`th of those whose name contains `RINGPULL_SWEEP`.
#[test]
#[ignore = "takes minutes: scripts/crash-sweep"]
fn a_pull_disturbed_at_any_system_call_does_no_harm() {
    let name = std::env::var("RINGPULL_SWEEP").unwrap_or_default();
    let every = std::env::var("RINGPULL_SWEEP_EVERY").ok().and_then(|text| text.parse().ok());
    sweep(|points| {
        let named = points.into_iter().filter(|point| point.name().contains(&name));
        named.step_by(every.unwrap_or(1)).collect()
    });
}

/// Tries the points that `choose` takes out of those of each engine, and panics with the names of
/// those after which something did not hold.
fn sweep(choose: impl Fn(Vec<Point>) -> Vec<Point>) {
    if tool_or_skip("strace").is_none() {
        return;
    }
    let stage = Stage::new();
    let mut failed = Vec::new();
    let mut tried = 0;
    for &engine in engines() {
        let Some(points) = stage.points(engine) else {
            return skipped(
                Lack::Right,
                "pulls disturbed at their system calls: strace may not trace here",
            );
        };
        if std::env::var_os("RINGPULL_SWEEP_LIST").is_some() {
            points.iter().for_each(|point| println!("{}", point.name()));
            tried += points.len();
            continue;
        }
        let (count, points) = (points.len(), choose(points));
        tried += points.len();
        let started = Instant::now();
        let tally = try_all(&stage, &points);
        println!(
            "{engine}: {} of {count} points in {:.0?}: {} reached; {:?}; {} failed",
            points.len(),
            started.elapsed(),
            tally.reached,
            tally.endings,
            tally.failed.len()
        );
        // Calls differ a little from run to run; but a sweep that meets nothing shows nothing.
        assert!(tally.reached * 10 >= points.len() * 7, "{engine}: too few points are reached");
        failed.extend(tally.failed);
    }
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(tried > 0, "no point has such a name: --list shows all");
}

/// What came of the points tried.
#[derive(Default)]
struct Tally {
    /// How many were reached; others are of a call that came less often this time.
    reached: usize,
    /// How often each exit code and class was met.
    endings: BTreeMap<String, usize>,
    failed: Vec<String>,
}

fn try_all(stage: &Stage, points: &[Point]) -> Tally {
    let (next, tally) = (AtomicUsize::new(0), Mutex::new(Tally::default()));
    let threads = std::thread::available_parallelism().map_or(2, |count| count.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let nth = next.fetch_add(1, Ordering::Relaxed);
                    let Some(point) = points.get(nth) else { break };
                    if nth > 0 && nth % 500 == 0 {
                        println!("{}: {nth} of {}", point.engine, points.len());
                    }
                    let tried = std::panic::AssertUnwindSafe(|| stage.attempt(point));
                    let tried = std::panic::catch_unwind(tried);
                    let mut tally = tally.lock().unwrap();
                    match tried {
                        Ok((reached, ending)) => {
                            tally.reached += usize::from(reached);
                            *tally.endings.entry(ending).or_default() += 1;
                        }
                        Err(_) => {
                            println!("^^^ {}\n", point.name());
                            tally.failed.push(point.name());
                        }
                    }
                }
            });
        }
    });
    tally.into_inner().unwrap()
}

// --- file systems that lack something ------------------------------------------------------------

/// Runs a command of ringpull while the kernel answers as the flags of strace say; `None` where
/// strace cannot trace. Beside the ending, the calls that it saw.
fn run_traced(stage: &Stage, flags: &[&str], arguments: &[&str]) -> Option<Ended> {
    tool_or_skip("strace")?;
    let trace = tempfile::NamedTempFile::new_in(stage.directory.path()).unwrap();
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-y", "-o", text(trace.path())]).args(flags);
    let ended = stage.run(with_environment(ringpull_under(strace, arguments)));
    if ended.stderr.contains("ptrace") {
        skipped(Lack::Right, "file systems that lack something: strace may not trace here");
        return None;
    }
    Some(Ended { trace: fs::read_to_string(trace.path()).unwrap(), ..ended })
}

/// As on Lustre without `-o flock`, on NFS without a lock daemon, and on others. NFS says EBADF for a
/// file that is open for reading only.
#[test]
fn a_file_system_without_locks_is_warned_about_and_will_do() {
    let stage = Stage::new();
    for errno in ["ENOSYS", "ENOLCK", "EOPNOTSUPP", "EBADF"] {
        let inject = format!("inject=flock:error={errno}");
        for &engine in engines() {
            for pull in [Pull::First, Pull::Second] {
                let place = Place::new(&stage, pull);
                let arguments = stage.arguments(engine, place.tag(), &place.path);
                let Some(ended) = run_traced(&stage, &["-e", &inject], &borrowed(&arguments))
                else {
                    return;
                };
                assert_eq!(ended.code, 0, "{errno}: {}", ended.stderr);
                let warned = format!("the file system of {} has no locks", text(&place.path));
                assert_eq!(ended.stderr.matches(&warned).count(), 1, "{errno}: {}", ended.stderr);
                place.check_unharmed(&stage);
                place.check_whole(&stage);
                assert!(partials(&place.path).is_empty());
            }
        }
    }
}

/// A sweep and a collection remove what nobody can be writing any more, and say why no more.
#[test]
fn without_locks_only_what_is_old_is_removed() {
    let stage = Stage::new();
    for errno in ["ENOSYS", "EBADF"] {
        let place = Place::new(&stage, Pull::Second);
        let partial = place.path.join(".ringpull/partial");
        let hours = |count: u64| Duration::from_secs(count * 3600);
        for (name, age) in [("young.1", hours(0)), ("old.1", hours(2))] {
            let file = fs::File::create(partial.join(name)).unwrap();
            file.set_modified(std::time::SystemTime::now() - age).unwrap();
        }
        let unnamed = place.path.join("blobs/sha256").join("0".repeat(64));
        fs::write(&unnamed, "").unwrap();
        let arguments = ["gc", "--store", text(&place.path), "--partials"];
        let inject = format!("inject=flock:error={errno}");
        let Some(ended) = run_traced(&stage, &["-e", &inject], &arguments) else { return };
        assert_eq!(ended.code, 0, "{}", ended.stderr);
        assert!(ended.stderr.contains("blobs were left: the file system has no locks"));
        assert_eq!(partials(&place.path), ["young.1"]);
        assert!(unnamed.exists());
    }
}

/// As on CIFS before Linux 4.17, and on several file systems in FUSE.
#[test]
fn a_directory_that_cannot_be_synced_is_noted() {
    let stage = Stage::new();
    for errno in ["EINVAL", "EOPNOTSUPP"] {
        for &engine in engines() {
            // strace knows paths by what is there when it begins.
            let place = Place::new(&stage, Pull::Second);
            let directories = [".", "blobs", "blobs/sha256", ".ringpull", ".ringpull/partial"];
            let paths: Vec<PathBuf> = directories.iter().map(|it| place.path.join(it)).collect();
            let inject = format!("inject=fsync:error={errno}");
            let mut flags = vec!["-e", &inject];
            let out = fs::canonicalize(&place.path).unwrap();
            flags.extend(["-P", text(&out), "-P", text(place.directory.path())]);
            flags.extend(paths[1..].iter().flat_map(|path| ["-P", text(path)]));
            let mut arguments = stage.arguments(engine, place.tag(), &place.path);
            arguments.push("-v".into());
            let Some(ended) = run_traced(&stage, &flags, &borrowed(&arguments)) else { return };
            assert_eq!(ended.code, 0, "{errno}: {}", ended.stderr);
            let refused = injected(&ended.trace);
            assert!(refused.lines().count() >= 3, "{}", ended.trace);
            let noted = format!("names in {} cannot be synced", text(&place.path));
            assert_eq!(ended.stderr.matches(&noted).count(), 1, "{errno}: {}", ended.stderr);
            place.check_whole(&stage);
        }
    }
}

#[test]
fn without_fsync_nothing_is_synced() {
    let stage = Stage::new();
    for &engine in engines() {
        for pull in [Pull::First, Pull::Second, Pull::Repair] {
            let place = Place::new(&stage, pull);
            let path = place.path.join("in/a/new/place");
            let path = if pull == Pull::First { &path } else { &place.path };
            let mut arguments = stage.arguments(engine, place.tag(), path);
            arguments.push("--no-fsync".into());
            let calls = "trace=fsync,fdatasync,sync,syncfs,sync_file_range,msync";
            let Some(ended) = run_traced(&stage, &["-e", calls], &borrowed(&arguments)) else {
                return;
            };
            assert_eq!(ended.code, 0, "{}", ended.stderr);
            assert_eq!(ended.trace, "", "{engine} {pull:?}");
        }
    }
}

/// The signal that comes with it (SIGXFSZ, setrlimit(2)) would kill the process.
#[test]
fn a_limit_on_the_size_of_files_is_a_failure_of_the_disk() {
    if tool_or_skip("prlimit").is_none() {
        return;
    }
    let stage = Stage::new();
    // Smaller than the largest layer: known before the first byte of it. Smaller than the manifest,
    // and than no layer: met by a write.
    let tiny = Image::generate(5, &[10; 16]);
    let manifest = tiny.manifest.bytes.len();
    assert!(tiny.config.bytes.len() < manifest);
    stage.registry.add("demo", "tiny", &tiny);
    for (tag, limit, layers_asked_for) in [("new", 512 << 10, false), ("tiny", manifest - 1, true)]
    {
        for &engine in engines() {
            let place = Place::new(&stage, Pull::First);
            let mut prlimit = Command::new("prlimit");
            prlimit.arg(format!("--fsize={limit}"));
            let arguments = stage.arguments(engine, tag, &place.path);
            let before = stage.registry.log().len();
            let command = ringpull_under(prlimit, &borrowed(&arguments));
            let ended = stage.run_quietly(with_environment(command));
            let last = ended.stderr.lines().last().unwrap_or_default();
            assert_eq!(ended.code, 8, "{tag}: {}", ended.stderr);
            assert!(last.starts_with("ringpull: error[disk]: "), "{last}");
            assert!(last.contains("a file must not be so large here"), "{last}");
            assert!(last.contains("(ulimit -f)"), "{last}");
            let log = stage.registry.log().split_off(before);
            assert_eq!(log.iter().any(|line| line.kind == Kind::Blob), layers_asked_for, "{tag}");
            assert!(!place.path.join("index.json").exists());
        }
    }
}

// --- points --------------------------------------------------------------------------------------

/// A pull, and where it is disturbed.
#[derive(Debug, Clone)]
struct Point {
    engine: &'static str,
    pull: Pull,
    call: String,
    disturbance: Disturbance,
    /// As strace counts: `3` is the third call of a thread, `3+` that and all after it.
    when: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disturbance {
    Kill,
    Error(&'static str),
}

/// What is pulled, and into what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pull {
    /// An image into a directory that is not there.
    First,
    /// An image that has a layer in common with one that is there.
    Second,
    /// An image that is there, with one layer damaged.
    Repair,
}

impl Point {
    /// Names it for `RINGPULL_SWEEP`: `uring First fsync:signal=KILL:when=3`.
    fn name(&self) -> String {
        format!("{} {:?} {}", self.engine, self.pull, self.inject())
    }

    fn inject(&self) -> String {
        let Point { call, when, .. } = self;
        match self.disturbance {
            Disturbance::Kill => format!("{call}:signal=KILL:when={when}"),
            Disturbance::Error(errno) => format!("{call}:error={errno}:when={when}"),
        }
    }
}

// --- the stage -----------------------------------------------------------------------------------

/// A registry, its images, and layouts to begin with.
struct Stage {
    registry: Registry,
    old: Image,
    new: Image,
    directory: TempDir,
}

/// A run that has ended.
struct Ended {
    code: i32,
    stderr: String,
    /// What strace saw, with the paths of file descriptors.
    trace: String,
}

impl Stage {
    fn new() -> Stage {
        // One large enough for its space to be reserved, small ones, and one that both images have.
        let layers = Image::generate(11, &[(1 << 20) + 512, 40 << 10, 2 << 10]).layers;
        let layers: Vec<bytes::Bytes> = layers.into_iter().map(|layer| layer.bytes).collect();
        let image = |which: &[usize]| {
            let layers = which.iter().map(|&nth| layers[nth].clone()).collect();
            Image::of_layers(Format::Oci, Platform::LINUX_AMD64, layers)
        };
        let (old, new) = (image(&[1]), image(&[0, 1, 2]));
        let registry = Registry::start(Options::default()).unwrap();
        registry.add("demo", "old", &old);
        registry.add("demo", "new", &new);
        let stage = Stage { registry, old, new, directory: TempDir::new().unwrap() };
        for (pull, image) in [(Pull::Second, "old"), (Pull::Repair, "new")] {
            let arguments = stage.arguments("epoll", image, &stage.template(pull));
            let ended = stage.run(with_environment(ringpull(&borrowed(&arguments))));
            assert_eq!(ended.code, 0, "{}", ended.stderr);
        }
        let damaged = Layout::open(&stage.template(Pull::Repair)).blob_path(&stage.damaged());
        let mut bytes = fs::read(&damaged).unwrap();
        bytes[1_000] ^= 1;
        fs::write(&damaged, bytes).unwrap();
        stage
    }

    fn template(&self, pull: Pull) -> PathBuf {
        self.directory.path().join(format!("{pull:?}"))
    }

    /// The layer that is damaged in [`Pull::Repair`].
    fn damaged(&self) -> String {
        self.new.layers[1].digest.to_string()
    }

    /// All points of an engine, in the order of pulls, kills first; `None` where strace cannot trace.
    fn points(&self, engine: &'static str) -> Option<Vec<Point>> {
        let mut points = Vec::new();
        for pull in [Pull::First, Pull::Second, Pull::Repair] {
            let place = Place::new(self, pull);
            let ended = self.pull_traced(engine, &place, &["-e", "trace=all"]);
            if ended.code != 0 {
                assert!(ended.stderr.contains("ptrace"), "{}", ended.stderr);
                return None;
            }
            let counts = counts(&ended.trace);
            let point = |call: &str, disturbance, when| Point {
                engine,
                pull,
                call: call.to_owned(),
                disturbance,
                when,
            };
            for (call, &count) in &counts {
                let kill = |nth: usize| point(call, Disturbance::Kill, nth.to_string());
                points.extend((1..=count).map(kill));
            }
            for (call, errors) in ERRORS {
                let count = counts.get(call).copied().unwrap_or(0);
                for &errno in errors {
                    let fail = |when: String| point(call, Disturbance::Error(errno), when);
                    points.extend((1..=count).map(|nth| fail(nth.to_string())));
                    // For good: from the start, and from the middle on. What asks to be repeated
                    // may be repeated for ever.
                    if count > 0 && !["EINTR", "EAGAIN", "EBUSY"].contains(&errno) {
                        let starts = BTreeSet::from([1, count.div_ceil(2)]);
                        points.extend(starts.into_iter().map(|nth| fail(format!("{nth}+"))));
                    }
                }
            }
        }
        Some(points)
    }

    /// Tries a point. Whether it was reached, and how the pull ended.
    fn attempt(&self, point: &Point) -> (bool, String) {
        let place = Place::new(self, point.pull);
        let trace = format!("trace={}", point.call);
        let inject = format!("inject={}", point.inject());
        // Not with --seccomp-bpf: strace 6.1 then counts wrongly.
        let flags = ["-e", &trace, "-e", &inject];
        let ended = self.pull_traced(point.engine, &place, &flags);
        let shown =
            Shown(format!("{}\n{}\n{}", point.name(), ended.stderr, injected(&ended.trace)));
        let last = ended.stderr.lines().last().unwrap_or_default();
        let class = last.strip_prefix("ringpull: error[").and_then(|rest| rest.split(']').next());
        let reached = match point.disturbance {
            Disturbance::Kill => {
                assert!([0, 137].contains(&ended.code), "exit code {}", ended.code);
                ended.code == 137
            }
            Disturbance::Error(errno) => {
                check_error(point, errno, &ended, class, &place);
                ended.trace.contains("(INJECTED)")
            }
        };
        place.check_unharmed(self);
        if ended.code == 0 {
            place.check_whole(self);
        }

        let again = self.arguments(point.engine, place.tag(), &place.path);
        let again = self.run(with_environment(ringpull(&borrowed(&again))));
        assert_eq!(again.code, 0, "the next pull fails: {}", again.stderr);
        place.check_unharmed(self);
        place.check_whole(self);
        std::mem::forget(shown);
        (reached, format!("{} {}", ended.code, class.unwrap_or_default()).trim().to_owned())
    }

    fn arguments(&self, engine: &str, tag: &str, path: &Path) -> Vec<String> {
        let destination = format!("oci:{}:{tag}", text(path));
        let reference = self.registry.reference("demo", tag);
        ["pull", "--engine", engine, &reference, &destination].map(str::to_owned).to_vec()
    }

    fn pull_traced(&self, engine: &str, place: &Place, flags: &[&str]) -> Ended {
        let mut strace = Command::new("strace");
        let trace = place.directory.path().join("trace");
        strace.args(["-f", "-qq", "-y", "-o", text(&trace)]).args(flags);
        let arguments = self.arguments(engine, place.tag(), &place.path);
        let command = ringpull_under(strace, &borrowed(&arguments));
        let ended = self.run(with_environment(command));
        Ended { trace: fs::read_to_string(&trace).unwrap_or_default(), ..ended }
    }

    /// As [`Stage::run`], for a process that may write to no file: through a pipe.
    fn run_quietly(&self, mut command: Command) -> Ended {
        let output = command.stdout(Stdio::null()).stderr(Stdio::piped()).output().unwrap();
        let code = output.status.code().or(output.status.signal().map(|signal| 128 + signal));
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        Ended { code: code.unwrap(), stderr, trace: String::new() }
    }

    /// Runs a command and all it starts; panics if it does not end.
    fn run(&self, mut command: Command) -> Ended {
        let output = tempfile::NamedTempFile::new_in(self.directory.path()).unwrap();
        // Files, not pipes: who would hold a pipe open, if strace dies, is the one that hangs.
        command.stdout(Stdio::null()).stderr(output.reopen().unwrap()).process_group(0);
        let mut child = command.spawn().unwrap();
        let group = Pid::from_child(&child);
        let (sender, ended) = mpsc::channel();
        let waiting = std::thread::spawn(move || sender.send(child.wait().unwrap()));
        let status = ended.recv_timeout(HUNG_AFTER);
        if status.is_err() {
            kill_process_group(group, Signal::KILL).unwrap();
        }
        waiting.join().unwrap().ok();
        let stderr = fs::read_to_string(output.path()).unwrap();
        let status = status.unwrap_or_else(|_| panic!("it hangs: {command:?}\n{stderr}"));
        let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap();
        Ended { code, stderr, trace: String::new() }
    }
}

/// The exit code and class of a pull in which a call failed.
fn check_error(point: &Point, errno: &str, ended: &Ended, class: Option<&str>, place: &Place) {
    let code = ended.code;
    let failed: Vec<&str> =
        ended.trace.lines().filter(|line| line.contains("(INJECTED)")).collect();
    if failed.is_empty() {
        return assert_eq!(code, 0, "undisturbed, but it failed");
    }
    // A counter in memory never fails so, and the runtime relies on it. Nor is it about the loader.
    // (Of a call that another thread came between, strace does not repeat what it was about.)
    let counter = |line: &&str| line.contains("[eventfd]") || line.contains("write resumed");
    if code == LOADER_FAILED || failed.iter().any(counter) {
        return;
    }
    // Tokio panics where it cannot have a thread for the disk; it is said, with its class.
    assert!(point.call == "clone3" || !ended.stderr.contains("panicked"), "a panic");
    if ["EINTR", "EAGAIN", "EBUSY"].contains(&errno) && point.call != "clone3" {
        return assert_eq!(code, 0, "{errno} means: once more");
    }
    let in_store = failed.iter().all(|line| line.contains(text(&place.path)));
    let expected: &[&str] = match errno {
        _ if code == 0 => return,
        "ENOSPC" | "EDQUOT" => &["disk-full"],
        "EIO" => &["disk-io"],
        // A component of the path is not what it must be.
        "ENOTDIR" => &["disk", "unsafe-path"],
        _ => &["disk"],
    };
    if in_store {
        assert_eq!(code, 8, "{failed:?}");
        let class = class.expect("a failure has a class");
        assert!(expected.contains(&class), "{class}, not {expected:?}: {failed:?}");
    } else {
        assert!([2, 5, 8].contains(&code), "{failed:?}");
    }
}

/// How often a thread makes each call, at most. Not what strace's own child does before the program.
fn counts(trace: &str) -> BTreeMap<String, usize> {
    let mut by_thread: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for line in trace.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let Some((call, _)) = rest.trim_start().split_once('(') else { continue };
        let is_name = call.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if is_name && !call.is_empty() && call != "execve" {
            *by_thread.entry((call, thread)).or_default() += 1;
        }
    }
    let mut counts = BTreeMap::new();
    for ((call, _), count) in by_thread {
        let most: &mut usize = counts.entry(call.to_owned()).or_default();
        *most = count.max(*most);
    }
    counts
}

fn injected(trace: &str) -> String {
    let lines: Vec<&str> = trace.lines().filter(|line| line.contains("(INJECTED)")).collect();
    lines.join("\n")
}

fn borrowed(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

fn with_environment(mut command: Command) -> Command {
    command.envs(ENVIRONMENT);
    command
}

// --- what must hold on disk ----------------------------------------------------------------------

/// Where one point's pulls land.
struct Place {
    pull: Pull,
    path: PathBuf,
    directory: TempDir,
}

impl Place {
    fn new(stage: &Stage, pull: Pull) -> Place {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("out");
        if pull != Pull::First {
            copy(&stage.template(pull), &path);
        }
        Place { pull, path, directory }
    }

    fn tag(&self) -> &'static str {
        "new"
    }

    /// What holds at every moment.
    #[track_caller]
    fn check_unharmed(&self, stage: &Stage) {
        let layout = Layout::open(&self.path);
        for algorithm in ["sha256", "sha512"] {
            let blobs = self.path.join("blobs").join(algorithm);
            for entry in fs::read_dir(blobs).into_iter().flatten() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                let digest = format!("{algorithm}:{name}");
                let as_before = self.pull == Pull::Repair
                    && digest == stage.damaged()
                    && layout.blob(&digest)
                        == Layout::open(&stage.template(self.pull)).blob(&digest);
                assert!(as_before || sha256(&layout.blob(&digest)) == digest, "{digest} differs");
            }
        }
        let before = fs::read(stage.template(self.pull).join("index.json")).ok();
        let index = fs::read(self.path.join("index.json")).ok();
        if index != before {
            self.check_index(stage);
        }
    }

    /// The new index: it names the new image, all of which is there, and what it named before.
    #[track_caller]
    fn check_index(&self, stage: &Stage) {
        let layout = Layout::open(&self.path);
        let tags = layout.tags();
        let named: Vec<&str> = tags.keys().map(String::as_str).collect();
        match self.pull {
            Pull::Second => assert_eq!(named, ["new", "old"]),
            Pull::First | Pull::Repair => assert_eq!(named, ["new"]),
        }
        for (tag, image) in [("old", &stage.old), ("new", &stage.new)] {
            let Some(root) = tags.get(tag) else { continue };
            assert_eq!(root.digest, image.manifest.digest.to_string());
            for blob in layout.reachable(root) {
                assert!(layout.blob_path(&blob.digest).exists(), "{blob:?} is missing");
            }
        }
    }

    /// After a pull that has succeeded.
    #[track_caller]
    fn check_whole(&self, stage: &Stage) {
        let layout = Layout::open(&self.path);
        self.check_index(stage);
        let image = &stage.new;
        for blob in [&image.manifest, &image.config].into_iter().chain(&image.layers) {
            // Not `assert_eq`: nobody reads a printed layer.
            assert!(layout.blob(&blob.digest.to_string()) == blob.bytes, "{} differs", blob.digest);
        }
        let layout_file = fs::read_to_string(self.path.join("oci-layout")).unwrap();
        assert_eq!(layout_file.trim(), r#"{"imageLayoutVersion":"1.0.0"}"#);
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// Prints its text when a check panics.
struct Shown(String);

impl Drop for Shown {
    fn drop(&mut self) {
        println!("{}\n", self.0);
    }
}
