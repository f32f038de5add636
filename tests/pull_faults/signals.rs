//! 72 and 83: a signal ends a pull within a second, whatever it waits for: a disk that is slow, a lock,
//! or whoever reads its output. So does the time that it was given. A test each, on both engines.

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::process::Command;
use std::time::{Duration, Instant};

use ringpull::demo::{Action, Blob, Image, Kind, Options, RequestLine, Rule};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Destination, Disk, IMAGE, Scene, for_blob, in_environment, with_deadlines};
use crate::support::process::{Outcome, Running, SOON, ringpull_under, run, slack};
use crate::support::ringpull::engines;
use crate::support::server::eventually;
use crate::support::tools::{text, tool_or_skip};

/// A pull on a disk that takes half a minute for each call of `slow`, and what strace saw of that.
struct SlowDisk {
    running: Running,
    trace: tempfile::NamedTempFile,
}

impl SlowDisk {
    fn start(engine: &str, slow: &str, scene: &Scene, out: &Destination) -> SlowDisk {
        let trace = tempfile::NamedTempFile::new().unwrap();
        let mut strace = Command::new("strace");
        // `-D`: the process that is started is ringpull, and strace its grandchild.
        strace.args(["-D", "-f", "-qq", "-o", text(trace.path())]);
        strace.args(["-e", &format!("trace={slow}")]);
        strace.args(["-e", &format!("inject={slow}:delay_enter=30000000")]);
        let destination = out.reference();
        let mut arguments = vec!["pull", "--engine", engine, "--jobs", "2", "--connections", "2"];
        arguments.extend(["--recv-timeout", "60s", "--head-timeout", "60s"]);
        arguments.extend([&scene.reference[..], &destination]);
        let mut command = with_deadlines(ringpull_under(strace, &arguments));
        command.env("RINGPULL_NO_FSYNC", "0");
        SlowDisk { running: Running::start(command), trace }
    }

    /// Waits until the disk is waited for.
    fn wait_until_it_hangs(&self) {
        let hangs = || std::fs::metadata(self.trace.path()).unwrap().len() > 0;
        eventually(|| hangs().then_some(())).expect("the disk is waited for");
    }

    /// Sends the signal, and has the disk let go once the process has ended: the kernel keeps a thread
    /// until its call is over.
    #[track_caller]
    fn check_ends_soon(self, signal: Signal, out: &Destination, what: &str) {
        let tracer = status(&self.running, "TracerPid:").and_then(|text| text.parse().ok());
        let signalled = Instant::now();
        self.running.signal(signal);
        let is_zombie = || status(&self.running, "State:").is_none_or(|state| state == "Z");
        eventually(|| is_zombie().then_some(())).expect("the process ends");
        let took = signalled.elapsed();
        let tracer = tracer.and_then(Pid::from_raw).expect("strace");
        kill_process(tracer, Signal::KILL).unwrap();
        check_end(self.running.wait(), took, signal, out, what);
    }
}

/// The first word of a line of `/proc/PID/status`.
fn status(running: &Running, field: &str) -> Option<String> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", running.id())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next().map(str::to_owned)
}

#[track_caller]
fn check_ends_soon(running: Running, signal: Signal, out: &Destination, what: &str) {
    let signalled = Instant::now();
    running.signal(signal);
    let outcome = running.wait();
    let took = outcome.at - signalled;
    check_end(outcome, took, signal, out, what);
}

#[track_caller]
fn check_end(outcome: Outcome, took: Duration, signal: Signal, out: &Destination, what: &str) {
    println!("{what}: ended {took:?} after {signal:?}");
    assert!(took < Duration::from_secs(1), "{what}: {took:?}");
    assert_eq!(outcome.code, 128 + signal.as_raw(), "{what}: {}", outcome.all);
    // Strace may have a last word.
    let is_error = |line: &str| line.starts_with("ringpull: error[interrupted]: interrupted");
    assert!(outcome.stderr.lines().any(is_error), "{what}: {}", outcome.all);
    check_kept(out);
}

/// No image is visible, and all that is there is whole.
#[track_caller]
fn check_kept(out: &Destination) {
    assert!(!out.path.join("index.json").exists());
    out.verified_blobs();
}

/// What the journals say, all of them.
fn journals(out: &Destination) -> String {
    let directory = out.path.join(".ringpull/partial");
    let is_journal = |name: &String| name.ends_with(".journal");
    let read = |name: String| std::fs::read_to_string(directory.join(name)).unwrap();
    let names = std::fs::read_dir(&directory).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(is_journal).map(read).collect()
}

/// The rest of the image, by a pull that nothing slows down; from where each layer was asked for.
fn go_on(engine: &str, scene: &Scene, out: &Destination) -> Vec<Vec<u64>> {
    let registry = scene.registry.as_ref().unwrap();
    let before = registry.log().len();
    let destination = out.reference();
    run(in_environment(&["pull", "--engine", engine, &scene.reference, &destination]))
        .expect_success();
    out.expect(Disk::Image, &scene.image);
    let start = |line: &RequestLine| line.range.map_or(0, |(first, _)| first);
    let log = registry.log().split_off(before);
    let starts = |layer| for_blob(&log, layer).map(start).collect();
    scene.image.layers.iter().map(starts).collect()
}

#[test]
fn a_signal_does_not_wait_for_a_slow_disk() {
    if tool_or_skip("strace").is_none() {
        return;
    }
    const MIB: u64 = 1 << 20;
    let large = Image::generate(6, &[3 * MIB, 8 << 10]);
    // Layer 1 is worth a journal.
    let small = Image::generate(7, &[MIB / 2, 300 << 10]);
    // The image, where its layer 0 stops, the call that hangs, and whether it does so before the signal.
    let rows: [(&str, &Image, u64, &str, bool); 3] = [
        ("amid the pull, so that a power cut costs little", &large, 2 * MIB, "fdatasync", true),
        ("when a blob is whole", &small, 300_000, "fsync", true),
        ("at the end, for what was received last", &small, 300_000, "fdatasync", false),
    ];
    for engine in engines() {
        for signal in [Signal::INT, Signal::TERM] {
            for (name, image, at, call, before) in rows {
                let stall = Rule::on(Kind::Blob).layer(0).first(1).then(Action::StallAfter(at));
                let options = Options { faults: stall.into(), ..Options::default() };
                let scene = Scene::serving(options, image);
                let out = Destination::new();
                // Directories that are made are synced, too.
                for directory in ["blobs/sha256", ".ringpull/partial"] {
                    std::fs::create_dir_all(out.path.join(directory)).unwrap();
                }
                let disk = SlowDisk::start(engine, call, &scene, &out);
                let registry = scene.registry.as_ref().unwrap();
                let reached = |log: &[RequestLine]| log.iter().any(|line| line.body_sent == at);
                assert!(registry.wait_until(SOON, reached));
                wait_for_bytes(&out, image, at);
                if call == "fdatasync" {
                    wait_for_blob(&out, &image.layers[1]);
                }
                if before {
                    disk.wait_until_it_hangs();
                }
                disk.check_ends_soon(signal, &out, &format!("{engine}: {name}"));
                let journals = journals(&out);
                assert!(journals.contains("written "), "{engine}: {name}: {journals}");
                // What the disk did not say that it has is not said to be there.
                let synced = journals.contains("synced ");
                assert_eq!(synced, call != "fdatasync", "{engine}: {name}: {journals}");
                // All of it is used in this boot nevertheless.
                let starts = go_on(engine, &scene, &out);
                assert_eq!(starts, [vec![at], Vec::new()], "{engine}: {name}");
            }
        }
    }
}

/// Waits until a blob is visible.
fn wait_for_blob(out: &Destination, blob: &Blob) {
    let path = out.path.join("blobs/sha256").join(blob.digest.hex());
    eventually(|| path.exists().then_some(())).expect("the blob is visible");
}

/// Waits until `count` bytes of the image's layer 0 are in the kernel's hands.
fn wait_for_bytes(out: &Destination, image: &Image, count: u64) {
    let name = format!("sha256-{}", image.layers[0].digest.hex());
    let path = out.path.join(".ringpull/partial").join(name);
    let written = || std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() >= count);
    eventually(|| written().then_some(())).expect("the bytes are written");
}

#[test]
fn a_signal_does_not_wait_for_a_lock() {
    for engine in engines() {
        // One that is wanted before the blobs are fetched, and one that is after.
        for name in ["lock", "pulls"] {
            let scene = Scene::serving(Options::default(), &IMAGE);
            let registry = scene.registry.as_ref().unwrap();
            let out = Destination::new();
            let file = out.locked(name);
            let destination = out.reference();
            let start = || {
                let arguments = ["pull", "--engine", engine, &scene.reference, &destination];
                let running = Running::start(in_environment(&arguments));
                let place = out.path.join(".ringpull").join(name);
                let waits = || locks_wanted(&running, &place);
                eventually(|| waits().then_some(())).expect("the lock is waited for");
                running
            };
            check_ends_soon(start(), Signal::INT, &out, &format!("{engine}: {name}"));

            // The second at once: nothing more is said.
            let running = start();
            running.signal(Signal::INT);
            running.signal(Signal::TERM);
            let outcome = running.wait();
            assert!([130, 143].contains(&outcome.code), "{}", outcome.all);
            assert!(!outcome.stderr.contains("interrupted"), "{}", outcome.all);
            drop(file);
            run(in_environment(&["pull", "--engine", engine, &scene.reference, &destination]))
                .expect_success();
            out.expect(Disk::Image, &IMAGE);
            let blobs = registry.log().iter().filter(|line| line.kind == Kind::Blob).count();
            assert_eq!(blobs, IMAGE.layers.len() + 1, "fetched again");
        }
    }
}

/// Whether a process has the lock's file open.
fn locks_wanted(running: &Running, path: &std::path::Path) -> bool {
    let Ok(descriptors) = std::fs::read_dir(format!("/proc/{}/fd", running.id())) else {
        return false;
    };
    descriptors.flatten().any(|entry| std::fs::read_link(entry.path()).is_ok_and(|to| to == path))
}

// --- 83: nobody reads what is printed --------------------------------------------------------------

/// A pipe that takes nothing more, and its reader.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
    // A page at a time, then what is left of the last one.
    for size in [4096, 1] {
        while writer.write(&vec![b'\n'; size]).is_ok() {}
    }
    fcntl_setfl(&writer, OFlags::empty()).unwrap();
    (reader, writer)
}

/// A pull of a layer that stalls, whose stderr or stdout nobody reads.
fn unread(engine: &str, flags: &[&str], scene: &Scene, out: &Destination) -> (Running, PipeReader) {
    let (reader, writer) = full_pipe();
    let destination = out.reference();
    let stderr = flags.contains(&"-v");
    let arguments = [&["pull", "--engine", engine], flags, &[&scene.reference, &destination]];
    let mut command = in_environment(&arguments.concat());
    command.env("RINGPULL_VERBOSE", if stderr { "1" } else { "0" });
    match stderr {
        true => command.stderr(writer),
        false => command.stdout(writer),
    };
    (Running::start(command), reader)
}

#[test]
fn a_signal_does_not_wait_for_a_reader() {
    const AT: u64 = 300_000;
    for engine in engines() {
        for signal in [Signal::INT, Signal::TERM] {
            let what = format!("{engine}: {signal:?}");
            let code = 128 + signal.as_raw();
            let stall = Rule::on(Kind::Blob).layer(0).first(1).then(Action::StallAfter(AT));
            let options = Options { faults: stall.into(), ..Options::default() };
            let scene = Scene::serving(options, &IMAGE);
            let out = Destination::new();
            let (running, reader) = unread(engine, &["-v"], &scene, &out);
            wait_for_bytes(&out, &IMAGE, AT);
            running.signal(signal);
            let signalled = Instant::now();
            let outcome = running.wait();
            let took = outcome.at - signalled;
            assert!(took < Duration::from_secs(1), "{what}: stderr: {took:?}");
            assert_eq!(outcome.code, code, "{what}: stderr: {}", outcome.all);
            check_kept(&out);
            drop(reader);
            // Noted in order, though nobody was told.
            assert_eq!(go_on(engine, &scene, &out)[0], [AT], "{what}");

            // Amid the result, when the pull itself is over.
            let scene = Scene::serving(Options::default(), &IMAGE);
            let out = Destination::new();
            let (running, reader) = unread(engine, &[], &scene, &out);
            let index = out.path.join("index.json");
            eventually(|| index.exists().then_some(())).expect("the image is visible");
            running.signal(signal);
            let signalled = Instant::now();
            let outcome = running.wait();
            let took = outcome.at - signalled;
            assert!(took < Duration::from_secs(1), "{what}: stdout: {took:?}");
            assert_eq!(outcome.code, code, "{what}: stdout: {}", outcome.all);
            drop(reader);
            out.expect(Disk::Image, &IMAGE);
        }
    }
}

#[test]
fn a_reader_who_stopped_holds_up_no_pull() {
    for engine in engines() {
        let scene = Scene::serving(Options::default(), &IMAGE);
        let out = Destination::new();
        let (running, mut reader) = unread(engine, &["-v"], &scene, &out);
        let index = out.path.join("index.json");
        eventually(|| index.exists().then_some(())).expect("the image is visible");
        // Read at last, and nothing is lost.
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        running.wait().expect_success();
        let text = text.trim_start();
        assert!(text.starts_with("engine: "), "{engine}: {text}");
        assert!(text.contains("\npulled: ") && text.contains("\nfetched "), "{engine}: {text}");
    }
}

// --- the time that a command is given --------------------------------------------------------------

#[test]
fn a_pull_ends_in_order_when_its_time_is_over() {
    const AT: u64 = 300_000;
    const LIMIT: Duration = Duration::from_secs(1);
    for engine in engines() {
        let stall = Rule::on(Kind::Blob).layer(0).first(1).then(Action::StallAfter(AT));
        let options = Options { faults: stall.into(), ..Options::default() };
        let scene = Scene::serving(options, &IMAGE);
        let out = Destination::new();
        let destination = out.reference();
        let pull = ["pull", "--engine", engine, "--timeout", "1s", &scene.reference, &destination];
        let outcome = run(in_environment(&pull));
        let text = "not done within 1 s, which is all the time it has (--timeout); what was received is \
                    kept, and the same command goes on from there";
        outcome.expect_failure(5, "timeout", text);
        check_in_time(engine, &outcome, LIMIT);
        check_kept(&out);
        assert_eq!(go_on(engine, &scene, &out)[0], [AT], "{engine}");

        // Before there is anything to keep.
        let stall = Rule::on(Kind::Manifest).then(Action::StallBeforeHead);
        let options = Options { faults: stall.into(), ..Options::default() };
        let scene = Scene::serving(options, &IMAGE);
        let out = Destination::new();
        let destination = out.reference();
        let mut command =
            in_environment(&["pull", "--engine", engine, &scene.reference, &destination]);
        let outcome = run({
            command.env("RINGPULL_TIMEOUT", "1s");
            command
        });
        let last = "which is all the time it has (--timeout)";
        outcome.expect_failure(5, "timeout", last);
        assert!(outcome.last_line().ends_with(last), "{}", outcome.all);
        check_in_time(engine, &outcome, LIMIT);

        // Though nobody reads.
        let (running, reader) = unread(engine, &["-v", "--timeout", "1s"], &scene, &out);
        let outcome = running.wait();
        assert_eq!(outcome.code, 5, "{}", outcome.all);
        check_in_time(engine, &outcome, LIMIT + Duration::from_secs(1));
        drop(reader);
    }
}

#[track_caller]
fn check_in_time(engine: &str, outcome: &Outcome, limit: Duration) {
    let took = outcome.took;
    assert!(took < limit + slack(), "{engine}: took {took:?}: {}", outcome.all);
}
