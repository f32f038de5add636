//! Faults of what is around a pull: files that are no files, limits on the process, a kernel that is
//! interrupted, another tool in the same directory. A test each, on both engines.

use std::ffi::OsString;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use ringpull::demo::{Action, Format, Image, Kind, Options, Platform, Rule};

use crate::harness::{Destination, Disk, IMAGE, Scene, in_environment};
use crate::support::layout::Layout;
use crate::support::process::{Outcome, Running, SOON, ringpull_under, run};
use crate::support::ringpull::engines;
use crate::support::skip::{Lack, skipped};
use crate::support::tools::{tool_or_skip, tools_or_skip};

// --- 64: links, and what is no file --------------------------------------------------------------

#[test]
fn a_pull_follows_no_link_and_opens_nothing_but_files() {
    type Make = fn(&Path, &Path);
    fn at_blob(out: &Path) -> std::path::PathBuf {
        let directory = out.join("blobs/sha256");
        std::fs::create_dir_all(&directory).unwrap();
        directory.join(IMAGE.layers[0].digest.hex())
    }
    let rows: [(&str, Make); 9] = [
        ("the directory is a link", |out, other| symlink(other, out).unwrap()),
        ("the directory is a file", |out, _| std::fs::write(out, "").unwrap()),
        ("blobs is a link", |out, other| {
            std::fs::create_dir(out).unwrap();
            symlink(other, out.join("blobs")).unwrap();
        }),
        ("index.json is a link", |out, other| {
            std::fs::create_dir(out).unwrap();
            symlink(other.join("x"), out.join("index.json")).unwrap();
        }),
        ("a blob is a link", |out, other| {
            std::fs::write(other.join("x"), &IMAGE.layers[0].bytes).unwrap();
            symlink(other.join("x"), at_blob(out)).unwrap();
        }),
        ("a blob is a link to nothing", |out, _| symlink("nowhere", at_blob(out)).unwrap()),
        ("a blob is a directory", |out, _| std::fs::create_dir(at_blob(out)).unwrap()),
        ("a blob is a FIFO", |out, _| {
            let made = Command::new("mkfifo").arg(at_blob(out)).status().unwrap();
            assert!(made.success());
        }),
        // Whoever writes to its other name writes to the blob.
        ("a blob has a second name", |out, other| {
            std::fs::write(other.join("x"), &IMAGE.layers[0].bytes).unwrap();
            std::fs::hard_link(other.join("x"), at_blob(out)).unwrap();
        }),
    ];
    for engine in engines() {
        for (name, make) in rows {
            let scene = Scene::serving(Options::default(), &IMAGE);
            let (out, other) = (Destination::new(), tempfile::tempdir().unwrap());
            make(&out.path, other.path());
            let before = (tree(&out.path), tree(other.path()));
            let outcome = pull(engine, &scene, &out, &[]);
            let class = if name == "the directory is a file" { "disk" } else { "unsafe-path" };
            println!("{engine}: {name}: {}", outcome.last_line());
            outcome.expect_failure(8, class, "");
            let after = (tree(&out.path), tree(other.path()));
            // Not `assert_eq`: nobody reads a printed layer.
            assert!(after == before, "{engine}: {name}: something was changed");
            let layers = scene.registry.unwrap().log();
            let layers = layers.iter().filter(|line| line.kind == Kind::Blob).count();
            assert_eq!(layers, 0, "{engine}: {name}: found after the download");
        }
    }
}

/// All that is at `path`, with its bytes, but for what is ringpull's own: links are not followed,
/// FIFOs not read.
fn tree(path: &Path) -> Vec<(OsString, Option<Vec<u8>>)> {
    let Ok(metadata) = path.symlink_metadata() else { return Vec::new() };
    if path.ends_with(".ringpull") {
        return Vec::new();
    }
    let kind = metadata.file_type();
    let bytes = match () {
        () if kind.is_file() => Some(std::fs::read(path).unwrap()),
        () if kind.is_symlink() || kind.is_fifo() => None,
        () => {
            let entries = std::fs::read_dir(path).unwrap();
            let mut all: Vec<_> = entries.flat_map(|entry| tree(&entry.unwrap().path())).collect();
            all.sort();
            all.push((path.as_os_str().to_owned(), None));
            return all;
        }
    };
    vec![(path.as_os_str().to_owned(), bytes)]
}

// --- 69: a tool that knows no lock ---------------------------------------------------------------

#[test]
fn what_another_tool_names_meanwhile_is_kept() {
    const THEIRS: &str = r#"{"schemaVersion":2,"theirs":[1, 2],"manifests":[{"mediaType":"a/b",
        "digest":"sha256:00","size":1,"annotations":{"org.opencontainers.image.ref.name":"theirs"}}]}"#;
    for engine in engines() {
        let pause = Rule::on(Kind::Blob).layer(0).first(1).then(Action::PauseAfter(1_000));
        let scene = Scene::serving(Options { faults: pause.into(), ..Options::default() }, &IMAGE);
        let registry = scene.registry.as_ref().unwrap();
        let out = Destination::new();
        let running = Running::start(pulling(engine, &scene, &out, &[]));
        // The index has been read by then, and was not there.
        assert!(registry.wait_until(SOON, |log| log.iter().any(|line| line.body_sent == 1_000)));
        std::fs::create_dir_all(&out.path).unwrap();
        std::fs::write(out.path.join("index.json"), THEIRS).unwrap();
        registry.go();
        running.wait().expect_success();
        out.expect(Disk::Image, &IMAGE);
        let tags = Layout::open(&out.path).tags();
        assert_eq!(tags.keys().collect::<Vec<_>>(), ["latest", "theirs"], "{engine}");
        let index = std::fs::read_to_string(out.path.join("index.json")).unwrap();
        assert!(index.contains("\"theirs\":"), "{engine}: {index}");
    }
}

// --- 77: a kernel that is interrupted ------------------------------------------------------------

#[test]
fn a_ring_that_must_be_entered_again_is() {
    if tool_or_skip("strace").is_none() || !engines().contains(&"uring") {
        return;
    }
    for errno in ["EINTR", "EAGAIN", "EBUSY"] {
        // Each second time, each third, and some times in a row. An entry that the runtime has lost
        // so is made up for by the engine's watch, a moment later.
        for when in ["1+2", "2+3", "8..10"] {
            let scene = Scene::serving(Options::default(), &IMAGE);
            let out = Destination::new();
            let mut strace = Command::new("strace");
            let inject = format!("inject=io_uring_enter:error={errno}:when={when}");
            strace.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=io_uring_enter"]);
            strace.args(["-e", &inject]);
            let destination = out.reference();
            let arguments = ["pull", "--engine", "uring", &scene.reference, &destination];
            let outcome = run(ringpull_under(strace, &arguments));
            println!("{errno} {when}: {}", outcome.last_line());
            outcome.expect_success();
            out.expect(Disk::Image, &IMAGE);
        }
    }
}

// --- 78: limits ----------------------------------------------------------------------------------

#[test]
fn few_descriptors_and_no_locked_memory_will_do() {
    // More layers than there are descriptors.
    let image = Image::generate(5, &[4 << 10; 24]);
    for engine in engines() {
        // `-l` does not bind root; of other users, kernels before 5.12 count rings towards it.
        for limits in ["ulimit -n 32", "ulimit -n 48", "ulimit -l 0", "ulimit -n 32 && ulimit -l 0"]
        {
            let scene = Scene::serving(Options::default(), &image);
            let out = Destination::new();
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("{limits} && exec \"$0\" \"$@\"")]);
            let destination = out.reference();
            let arguments = ["pull", "--engine", engine, &scene.reference, &destination];
            let outcome = run(ringpull_under(shell, &arguments));
            println!("{engine}: {limits}: {}", outcome.last_line());
            outcome.expect_success();
            out.expect(Disk::Image, &image);
        }
    }
}

// --- 102: few descriptors on many cores ------------------------------------------------------------

/// A library that has a program see as many cores as `APPARENT_CORES` says.
const APPARENT_CORES: &str = r#"
#define _GNU_SOURCE
#include <sched.h>
#include <stdlib.h>
#include <string.h>
int sched_getaffinity(pid_t pid, size_t size, cpu_set_t *set) {
    memset(set, 0, size);
    for (int i = 0; i < atoi(getenv("APPARENT_CORES")); i++) CPU_SET_S(i, size, set);
    return 0;
}
"#;

/// `RINGPULL_DESCRIPTORS=all` tries all limits on all numbers of cores, and prints a table.
#[test]
fn few_descriptors_on_many_cores_will_do() {
    if !tools_or_skip(&["cc", "nproc"]) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (source, library) = (directory.path().join("cores.c"), directory.path().join("cores.so"));
    std::fs::write(&source, APPARENT_CORES).unwrap();
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-o"]).args([&library, &source]);
    assert!(cc.status().unwrap().success());
    let apparent = |program: &mut Command, cores: usize| {
        program.env("LD_PRELOAD", &library).env("APPARENT_CORES", cores.to_string());
    };
    let mut nproc = Command::new("nproc");
    apparent(&mut nproc, 16);
    assert_eq!(nproc.output().unwrap().stdout, b"16\n", "the library has no effect");

    let all = std::env::var("RINGPULL_DESCRIPTORS").is_ok_and(|which| which == "all");
    let (cores, limits): (&[usize], &[u32]) = match all {
        true => (&[2, 4, 8, 16], &[32, 48, 64, 96, 128, 256]),
        false => (&[4, 16], &[32, 48, 96]),
    };
    // Large layers, which are shared, and more small ones than there are descriptors.
    let image = Image::generate(5, &[&[6 << 20; 2][..], &[4 << 10; 30]].concat());
    for engine in engines() {
        for &cores in cores {
            for &limit in limits {
                let scene = Scene::serving(Options::default(), &image);
                let out = Destination::new();
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("ulimit -n {limit} && exec \"$0\" \"$@\"")]);
                let destination = out.reference();
                let arguments = ["pull", "-v", "--engine", engine, &scene.reference, &destination];
                let mut command = ringpull_under(shell, &arguments);
                apparent(&mut command, cores);
                let outcome = run(command);
                let short = outcome.stderr.matches("Too many open files").count();
                println!(
                    "{engine}: {cores} cores, {limit} descriptors: exit {}, {short} times short, {}",
                    outcome.code,
                    outcome.stderr.lines().find(|line| line.starts_with("fetched")).unwrap_or("")
                );
                outcome.expect_success();
                out.expect(Disk::Image, &image);
            }
        }
        // Fewer than one connection takes: that is said before anything is asked.
        let scene = Scene::serving(Options::default(), &image);
        let out = Destination::new();
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -n 25 && exec \"$0\" \"$@\""]);
        let destination = out.reference();
        let arguments = ["pull", "--engine", engine, &scene.reference, &destination];
        let outcome = run(ringpull_under(shell, &arguments));
        outcome.expect_failure(8, "system", "files must be open at once, and the limit is 25");
        assert_eq!(scene.registry.as_ref().unwrap().log(), [], "{engine}: asked in vain");
        out.expect(Disk::Nothing, &image);
    }
}

/// A soft limit is raised as far as the hard one allows: nothing has to be set.
#[test]
fn a_soft_limit_on_descriptors_is_raised() {
    for engine in engines() {
        let scene = Scene::serving(Options::default(), &IMAGE);
        let out = Destination::new();
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -Sn 20 && ulimit -Hn 500 && exec \"$0\" \"$@\""]);
        let destination = out.reference();
        let arguments = ["pull", "--engine", engine, &scene.reference, &destination];
        run(ringpull_under(shell, &arguments)).expect_success();
        out.expect(Disk::Image, &IMAGE);
    }
}

/// A directory of the machine that bounds the memory of the processes named in it, if it can be made.
struct MemoryGroup(PathBuf);

impl MemoryGroup {
    fn new(limit: u64) -> std::io::Result<MemoryGroup> {
        // The first version of control groups, or the second.
        let first = Path::new("/sys/fs/cgroup/memory");
        let (root, file) = match first.is_dir() {
            true => (first, "memory.limit_in_bytes"),
            false => (Path::new("/sys/fs/cgroup"), "memory.max"),
        };
        let group = root.join(format!("ringpull-faults-{}", std::process::id()));
        std::fs::create_dir(&group)?;
        let group = MemoryGroup(group);
        std::fs::write(group.0.join(file), limit.to_string())?;
        Ok(group)
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn a_large_image_passes_through_a_small_memory_group() {
    const MIB: u64 = 1 << 20;
    let group = match MemoryGroup::new(64 * MIB) {
        Ok(group) => group,
        Err(error) => {
            let what = format!("a small memory group: there can be none here: {error}");
            return skipped(Lack::Right, &what);
        }
    };
    // Four times what the group may have, with the pages of files that are being written.
    let image = Image::generate(11, &[160 * MIB, 64 * MIB, 32 * MIB]);
    for engine in engines() {
        let scene = Scene::serving(Options::default(), &image);
        let out = Destination::new();
        let mut shell = Command::new("sh");
        let join = format!("echo $$ >{}/cgroup.procs && exec \"$0\" \"$@\"", group.0.display());
        shell.args(["-c", &join]);
        let destination = out.reference();
        let arguments = ["pull", "-v", "--engine", engine, &scene.reference, &destination];
        let outcome = run(ringpull_under(shell, &arguments));
        outcome.expect_success();
        println!("{engine}: {}", outcome.last_line());
        println!("{engine}: {} MiB resident", peak_memory(&outcome.stderr) / MIB);
        out.expect(Disk::Image, &image);
    }
}

// --- 79: many layers -----------------------------------------------------------------------------

/// Most memory that a pull may have resident, in bytes. `RINGPULL_LAYERS=10000` takes two minutes.
const RESIDENT_MAX: u64 = 64 << 20;

#[test]
fn thousands_of_layers_need_little_memory() {
    let count = std::env::var("RINGPULL_LAYERS").map_or(2_000, |count| count.parse().unwrap());
    let layers = (0..count).map(|nth| Bytes::from(format!("{nth:05}"))).collect();
    let image = Image::of_layers(Format::Oci, Platform::LINUX_AMD64, layers);
    for engine in engines() {
        let scene = Scene::serving(Options::default(), &image);
        let out = Destination::new();
        let outcome = pull(engine, &scene, &out, &["--jobs", "8", "--connections", "8"]);
        outcome.expect_success();
        let blobs = scene.registry.as_ref().unwrap().log();
        let blobs = blobs.iter().filter(|line| line.kind == Kind::Blob).count();
        assert_eq!(blobs, count + 1, "{engine}: each once");
        // Each hashes to its name. The usual check of the image would look through all for each.
        assert_eq!(out.verified_blobs().len(), count + 2, "with the config and the manifest");
        let root = Layout::open(&out.path).tagged("latest");
        assert_eq!(root.digest, image.manifest.digest.to_string());
        let resident = peak_memory(&outcome.stderr);
        println!("{engine}: {count} layers in {:?}, {resident} bytes resident", outcome.took);
        assert!(resident <= RESIDENT_MAX, "{engine}: {resident} bytes");
    }
}

/// The most memory that a pull says it had resident, in bytes; it says so in MiB or GiB.
fn peak_memory(stderr: &str) -> u64 {
    let said = stderr.lines().find_map(|line| line.split_once("peak memory ")).unwrap().1;
    let mebibytes = said.split_once(" MiB").unwrap_or_else(|| panic!("{said}")).0;
    (mebibytes.parse::<f64>().unwrap() * f64::from(1 << 20)) as u64
}

// --- what they share -----------------------------------------------------------------------------

fn pulling(engine: &str, scene: &Scene, out: &Destination, flags: &[&str]) -> Command {
    let destination = out.reference();
    let arguments = [&["pull", "--engine", engine, &scene.reference, &destination], flags].concat();
    in_environment(&arguments)
}

fn pull(engine: &str, scene: &Scene, out: &Destination, flags: &[&str]) -> Outcome {
    run(pulling(engine, scene, out, flags))
}
