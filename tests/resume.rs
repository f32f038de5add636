//! Pulls that were ended before they were done, and those that come after them; and two pulls of one
//! image at once. What counts is what the registry is asked for: each byte once, but for few.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests are tests, which clippy.toml cannot know"
)]

mod support;

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use ringpull::demo::{
    Action, Asked, Blob, Image, Kind, Options, Registry, RequestLine, Rule, Script,
};
use rustix::process::Signal;
use serde_json::Value;
use support::layout::{Layout, expect_resumable, partials, sha256, verify_all};
use support::process::{Outcome, Running, SOON, ringpull, ringpull_under, run};
use support::ringpull::engines;
use support::server::eventually;
use support::skip::{Lack, skipped};
use support::tools::{text, tool_or_skip};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

/// Size of the only layer of [`SMALL`]: one piece.
const SIZE: u64 = 16 * MIB;

/// Where its only connection falls silent.
const CUT: u64 = SIZE / 10 * 9;

static SMALL: LazyLock<Image> = LazyLock::new(|| Image::generate(1, &[SIZE]));

/// Several pieces for several connections.
static LARGE: LazyLock<Image> = LazyLock::new(|| Image::generate(2, &[48 * MIB]));

static LAYERS: LazyLock<Image> = LazyLock::new(|| Image::generate(3, &[24 * MIB, 8 * MIB, MIB]));

/// With the disk waited for, and without.
const DURABILITY: [&[&str]; 2] = [&[], &["--no-fsync"]];

// --- ended, and gone on with ---------------------------------------------------------------------

#[test]
fn a_pull_killed_at_90_percent_costs_at_most_5_percent() {
    let size: u64 = std::env::var("RINGPULL_RESUME_MIB").map_or(256, |mib| mib.parse().unwrap());
    let image = Image::generate(4, &[size * MIB]);
    let layer = &image.layers[0];
    for engine in engines() {
        for flags in DURABILITY {
            let pace = Some(size * MIB / 2);
            let scene =
                Scene::new(Options { bytes_per_second: pace, ..Options::default() }, &image);
            let running = scene.start(engine, flags);
            let nearly = |log: &[RequestLine]| sent(log, layer) >= layer.size() / 10 * 9;
            assert!(scene.registry.wait_until(Duration::from_secs(60), nearly), "too slow");
            running.signal(Signal::KILL);
            assert_eq!(running.wait().code, 137);
            expect_resumable(&scene.path);

            let first = scene.registry.log();
            let outcome = scene.pull(engine, flags);
            outcome.expect_success();
            assert!(outcome.stderr.contains(": Resuming, "), "{}", outcome.all);
            let all = scene.registry.log();
            let twice = sent(&all, layer) - layer.size();
            let again = 100.0 * twice as f64 / layer.size() as f64;
            println!("{engine} {flags:?}: {again:.2} % of {size} MiB fetched again");
            assert!(twice <= layer.size() / 20, "{}\n{:#?}", outcome.all, &all[first.len()..]);
            scene.expect_image(&image);
        }
    }
}

#[test]
fn only_the_gaps_are_asked_for() {
    for engine in engines() {
        for flags in DURABILITY {
            for signal in [Signal::INT, Signal::TERM, Signal::KILL] {
                // One piece stops in its middle; all others arrive.
                let stall = layer().asked(Asked::Part).nth(3).then(stall_after(2 * MIB));
                let scene = Scene::new(faulty(stall), &LARGE);
                let running = scene.start(engine, &[&["--connections", "4"], flags].concat());
                let blob = &LARGE.layers[0];
                let all_but_one = |log: &[RequestLine]| {
                    let lines = || about(log, blob);
                    let stalled = lines().find(|line| line.fault != Action::None);
                    let left = stalled
                        .and_then(|line| line.range)
                        .map_or(0, |(first, last)| last + 1 - first - 2 * MIB);
                    sent(log, blob).saturating_add(left) >= blob.size()
                };
                assert!(scene.registry.wait_until(SOON, all_but_one));
                scene.wait_for_all_but_the_gap(blob);
                let outcome = scene.end(running, signal);
                expect_resumable(&scene.path);

                let before = scene.registry.log();
                let stalled = about(&before, blob).find(|line| line.fault != Action::None).unwrap();
                let (first, last) = stalled.range.unwrap();
                let outcome = (outcome, scene.pull(engine, flags));
                outcome.1.expect_success();
                let after = scene.registry.log().split_off(before.len());
                let asked: Vec<_> = about(&after, blob).map(|line| line.range).collect();
                let what = format!("{signal:?}: {}\n{}", outcome.0.all, outcome.1.all);
                match signal {
                    // Nobody could note the last bytes.
                    Signal::KILL => {
                        let again = sent(&after, blob).saturating_sub(scene.left(blob));
                        assert!(again <= blob.size() / 20, "{again} bytes: {what}");
                    }
                    // Some of the rest may have been split off, and have arrived, or nearly so.
                    _ => {
                        let gap = first + 2 * MIB..=last;
                        let within = |asked: &Option<(u64, u64)>| {
                            asked.is_some_and(|(from, to)| gap.contains(&from) && gap.contains(&to))
                        };
                        assert!(
                            asked[0].is_some_and(|(from, _)| from == first + 2 * MIB)
                                && asked.iter().all(within),
                            "{asked:?} in place of {first} + 2 MiB to {last}: {what}"
                        );
                    }
                }
                scene.expect_image(&LARGE);
            }
        }
    }
}

#[test]
fn an_interrupted_pull_is_gone_on_with_from_its_last_byte() {
    for engine in engines() {
        for flags in DURABILITY {
            let scene = Scene::new(faulty(layer().first(1).then(stall_after(CUT))), &SMALL);
            let running = scene.start(engine, flags);
            scene.wait_for_bytes(&SMALL.layers[0], CUT);
            scene.end(running, Signal::INT);
            let outcome = scene.pull(engine, flags);
            outcome.expect_success();
            assert_eq!(scene.starts(), [0, CUT], "{}", outcome.all);
            let here = ": Resuming, 14.3 of 16.0 MiB are here\n";
            assert!(outcome.stderr.contains(here), "{}", outcome.all);
            scene.expect_image(&SMALL);
        }
    }
}

#[test]
fn a_second_signal_ends_at_once_and_the_journal_is_whole() {
    for engine in engines() {
        let scene = Scene::new(faulty(layer().first(1).then(stall_after(CUT))), &SMALL);
        let running = scene.start(engine, &[]);
        scene.wait_for_bytes(&SMALL.layers[0], CUT);
        running.signal(Signal::INT);
        let outcome = scene.end(running, Signal::TERM);
        assert!([130, 143].contains(&outcome.code), "{}", outcome.all);
        scene.pull(engine, &[]).expect_success();
        let starts = scene.starts();
        assert!(starts.len() == 2 && starts[1] >= CUT - SIZE / 20, "{starts:?}");
        scene.expect_image(&SMALL);
    }
}

#[test]
fn a_pull_that_failed_is_gone_on_with() {
    for engine in engines() {
        let scene = Scene::new(faulty(layer().first(1).then(Action::CloseAfter(CUT))), &SMALL);
        let outcome = scene.pull(engine, &["--retries", "0"]);
        outcome.expect_failure(5, "truncated", "(14.3 of 16.0 MiB)");
        expect_resumable(&scene.path);
        scene.pull(engine, &[]).expect_success();
        assert_eq!(scene.starts(), [0, CUT]);
        scene.expect_image(&SMALL);
    }
}

#[test]
fn a_server_that_refuses_the_rest_is_asked_for_the_whole() {
    for engine in engines() {
        for code in [400, 403, 500, 501] {
            let scene = interrupted(engine, &[]);
            let before = scene.registry.log().len();
            let refuses = layer().asked(Asked::Part).then(Action::status(code));
            scene.registry.set_faults(refuses.into());
            let outcome = scene.pull(engine, &["--retries", "0"]);
            outcome.expect_success();
            let log = scene.registry.log().split_off(before);
            let asked: Vec<_> = about(&log, &SMALL.layers[0]).map(|line| line.status).collect();
            assert_eq!(asked, [Some(code), Some(200)], "{code}: {}", outcome.all);
            scene.expect_image(&SMALL);
        }
    }
}

// --- what cannot be believed ---------------------------------------------------------------------

#[test]
fn a_partial_that_is_not_what_was_written_is_fetched_again() {
    for engine in engines() {
        let scene = interrupted(engine, &[]);
        let file = std::fs::File::options().write(true).open(scene.partial()).unwrap();
        file.write_all_at(b"something else", 4 * MIB).unwrap();
        // Not the registry's fault, so it does not count as an attempt.
        scene.pull(engine, &["--retries", "0"]).expect_success();
        assert_eq!(scene.starts(), [0, CUT, 0]);
        scene.expect_image(&SMALL);
    }
}

/// Wrong bytes that cannot be removed are not hashed and refused without end.
#[test]
fn a_wrong_partial_that_cannot_be_removed_ends_the_pull() {
    if tool_or_skip("strace").is_none() {
        return;
    }
    for engine in engines() {
        let scene = interrupted(engine, &[]);
        let file = std::fs::File::options().write(true).open(scene.partial()).unwrap();
        file.write_all_at(b"something else", 4 * MIB).unwrap();
        let mut strace = std::process::Command::new("strace");
        strace.args(["-f", "-qq", "-o", "/dev/null", "-e", "inject=unlinkat:error=EACCES"]);
        // By the names as the calls have them, relative to a directory that is open.
        for path in [scene.partial(), scene.journal()] {
            strace.arg("-P").arg(path.file_name().unwrap());
        }
        let reference = scene.registry.reference("demo", "latest");
        let destination = format!("oci:{}:latest", text(&scene.path));
        let arguments = ["pull", "-v", "--engine", engine, "--connections", "1", "--retries", "0"];
        let arguments = [&arguments[..], &[&reference, &destination]].concat();
        let outcome = run(ringpull_under(strace, &arguments));
        outcome.expect_failure(8, "disk", &format!("cannot remove {}", text(&scene.partial())));
        assert!(outcome.last_line().contains("remove it by hand"), "{}", outcome.all);
        assert_eq!(scene.starts(), [0, CUT], "the registry is not to blame");
        assert!(outcome.all.matches("; again at once").count() == 1, "{}", outcome.all);

        // By hand it can be removed.
        std::fs::remove_file(scene.partial()).unwrap();
        scene.pull(engine, &[]).expect_success();
        scene.expect_image(&SMALL);
    }
}

#[test]
fn a_partial_that_lost_bytes_starts_anew() {
    for engine in engines() {
        let scene = interrupted(engine, &[]);
        let file = std::fs::File::options().write(true).open(scene.partial()).unwrap();
        file.set_len(CUT - 1).unwrap();
        scene.pull(engine, &[]).expect_success();
        assert_eq!(scene.starts(), [0, 0]);
        scene.expect_image(&SMALL);
    }
}

#[test]
fn a_partial_that_is_another_file_starts_anew() {
    for engine in engines() {
        let scene = interrupted(engine, &[]);
        let (partial, copy) = (scene.partial(), scene.path.join("copy"));
        std::fs::copy(&partial, &copy).unwrap();
        std::fs::rename(&copy, &partial).unwrap();
        scene.pull(engine, &[]).expect_success();
        assert_eq!(scene.starts(), [0, 0]);
        scene.expect_image(&SMALL);
    }
}

#[test]
fn what_was_not_synced_does_not_survive_a_boot() {
    for engine in engines() {
        for (flags, start) in [(DURABILITY[0], CUT), (DURABILITY[1], 0)] {
            let scene = interrupted(engine, flags);
            rewrite(&scene.journal(), |line| match line.split_once("ringpull 1 ") {
                Some((_, head)) => {
                    let mut fields: Vec<&str> = head.split(' ').collect();
                    fields[3] = "another-boot";
                    Some(format!("ringpull 1 {}", fields.join(" ")))
                }
                None => Some(line.to_owned()),
            });
            scene.pull(engine, flags).expect_success();
            assert_eq!(scene.starts(), [0, start], "{flags:?}");
            scene.expect_image(&SMALL);
        }
    }
}

#[test]
fn a_journal_that_says_more_than_there_is_is_not_believed() {
    for engine in engines() {
        let scene = interrupted(engine, &[]);
        // Well formed, and about a blob that is larger than this one.
        let lie = |line: &str| match line.rsplit_once(' ') {
            Some((record, _)) if record.starts_with("synced") => {
                Some(format!("{record} {}", 2 * SIZE))
            }
            _ => Some(line.to_owned()),
        };
        rewrite(&scene.journal(), lie);
        scene.pull(engine, &[]).expect_success();
        assert_eq!(scene.starts(), [0, 0]);
        scene.expect_image(&SMALL);
    }
}

#[test]
fn wrong_content_leaves_nothing_to_go_on_with() {
    for engine in engines() {
        let scene = Scene::new(faulty(layer().then(Action::FlipByte(5))), &SMALL);
        scene.pull(engine, &[]).expect_failure(7, "digest", "its bytes have the digest");
        assert_eq!(partials(&scene.path), [""; 0]);
    }
}

// --- two at once ---------------------------------------------------------------------------------

#[test]
fn two_pulls_of_one_image_fetch_each_layer_once() {
    for engine in engines() {
        for flags in DURABILITY {
            let pause = layer().first(1).then(Action::PauseAfter(5 * MIB));
            let scene = Scene::new(faulty(pause), &LAYERS);
            let first = scene.start(engine, flags);
            scene.wait_for_bytes(&LAYERS.layers[0], 5 * MIB);
            let shown = format!(": Waiting for process {}, which is fetching it", first.id());
            let (second, heard) = scene.start_heard(engine, flags);
            assert!(eventually(|| heard().contains(&shown).then_some(())).is_some(), "{}", heard());
            scene.registry.go();
            let outcomes = [first.wait(), second.wait()];
            for outcome in &outcomes {
                outcome.expect_success();
            }
            let log = scene.registry.log();
            for blob in LAYERS.layers.iter().chain([&LAYERS.config]) {
                assert_eq!(sent(&log, blob), blob.size(), "{}\n{log:#?}", outcomes[1].all);
            }
            scene.expect_image(&LAYERS);
        }
    }
}

#[test]
fn when_the_first_is_killed_the_second_goes_on_from_there() {
    for engine in engines() {
        for flags in DURABILITY {
            for signal in [Signal::KILL, Signal::INT] {
                let stall = layer().first(1).then(stall_after(CUT));
                let scene = Scene::new(faulty(stall), &SMALL);
                let first = scene.start(engine, flags);
                scene.wait_for_bytes(&SMALL.layers[0], CUT);
                scene.wait_for_journal(CUT - SIZE / 20);
                let (second, heard) = scene.start_heard(engine, flags);
                let waits = || heard().contains("which is fetching it").then_some(());
                assert!(eventually(waits).is_some(), "{}", heard());
                scene.end(first, signal);
                let outcome = second.wait();
                outcome.expect_success();
                assert!(heard().contains(": Resuming, "), "{}", heard());
                let starts = scene.starts();
                assert!(starts.len() == 2 && starts[1] >= CUT - SIZE / 20, "{starts:?}");
                scene.expect_image(&SMALL);
            }
        }
    }
}

#[test]
fn a_process_that_stands_still_is_not_waited_for_for_ever() {
    for engine in engines() {
        let scene = Scene::new(faulty(layer().first(1).then(stall_after(CUT))), &SMALL);
        let first = scene.start(engine, &[]);
        scene.wait_for_bytes(&SMALL.layers[0], CUT);
        first.signal(Signal::STOP);
        let outcome = scene.pull(engine, &["--recv-timeout", "500ms", "--connections", "1"]);
        outcome.expect_success();
        let said = format!("warning: process {} does not get on with blob ", first.id());
        assert!(outcome.stderr.contains(&said), "{}", outcome.all);
        assert_eq!(scene.starts(), [0, 0]);
        assert_eq!(partials(&scene.path).len(), 2, "the first one's");
        first.signal(Signal::CONT);
        scene.end(first, Signal::INT);
        verify_all(&Layout::open(&scene.path));
    }
}

#[test]
fn a_pull_that_waits_can_be_interrupted() {
    for engine in engines() {
        let scene = Scene::new(faulty(layer().first(1).then(stall_after(CUT))), &SMALL);
        let first = scene.start(engine, &[]);
        scene.wait_for_bytes(&SMALL.layers[0], CUT);
        let (second, heard) = scene.start_heard(engine, &[]);
        let waits = || heard().contains("which is fetching it").then_some(());
        assert!(eventually(waits).is_some(), "{}", heard());
        assert_eq!(scene.end(second, Signal::INT).code, 130);
        assert_eq!(partials(&scene.path).len(), 2, "the first one's");
        scene.end(first, Signal::INT);
    }
}

// --- what is kept is said, and can be removed ----------------------------------------------------

#[test]
fn images_and_partials_are_listed_and_partials_removed() {
    let scene = interrupted("epoll", &[]);
    let store = text(&scene.path);
    let said = |arguments: &[&str]| {
        let outcome = run(ringpull(&[arguments, &["--store", store]].concat()));
        outcome.expect_success();
        outcome.stdout
    };
    let digest = &SMALL.layers[0].digest;
    let partial = format!("\n{}  14.3 of 16.0 MiB  ", digest.short());
    let listed = said(&["images"]);
    assert!(listed.contains("\nPARTIAL       HERE              AGE\n"), "{listed}");
    assert!(listed.contains(&partial), "{listed}");
    let document: Value = serde_json::from_str(&said(&["images", "--json"])).unwrap();
    assert_eq!(document["images"], serde_json::json!([]));
    let kept = &document["partials"][0];
    assert_eq!((&kept["digest"], &kept["size"]), (&digest.to_string().into(), &SIZE.into()));
    assert_eq!((&kept["kept"], &kept["busy"]), (&CUT.into(), &false.into()));

    assert!(said(&["gc"]).starts_with("Removed 0 partial blobs (0 B), "));
    assert!(said(&["gc", "--partials", "--dry-run"]).starts_with("Would remove 1 partial blob ("));
    assert_eq!(partials(&scene.path).len(), 2);
    assert!(said(&["gc", "--partials"]).starts_with("Removed 1 partial blob (14.4 MiB), "));
    assert_eq!(partials(&scene.path), [""; 0]);

    scene.pull("epoll", &[]).expect_success();
    let listed = said(&["images"]);
    let manifest = SMALL.manifest.digest.short();
    let line = format!("\nlatest  {manifest}  {manifest}  linux/amd64  16.0 MiB\n");
    assert!(listed.contains(&line), "{listed}");
    assert!(!listed.contains("PARTIAL"), "{listed}");
    said(&["gc"]);
    scene.expect_image(&SMALL);
}

#[test]
fn what_only_looks_makes_no_store() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("none");
    for arguments in [["images", "--store"], ["gc", "--store"]] {
        run(ringpull(&[&arguments[..], &[text(&path)]].concat())).expect_success();
        assert!(!path.exists());
    }
}

#[test]
fn room_for_the_whole_pull_is_asked_for_before_the_first_byte() {
    for engine in engines() {
        let scene = Scene::new(Options::default(), &LAYERS);
        std::fs::create_dir(&scene.path).unwrap();
        let mount = ["-t", "tmpfs", "-o", "size=30m", "tmpfs", text(&scene.path)];
        let mounted = std::process::Command::new("mount").args(mount).output();
        if !mounted.is_ok_and(|output| output.status.success()) {
            let what = "room for the whole pull: tmpfs cannot be mounted here";
            return skipped(Lack::Right, what);
        }
        let outcome = scene.pull(engine, &[]);
        let unmount = std::process::Command::new("umount").arg("-l").arg(&scene.path).output();
        assert!(unmount.unwrap().status.success());
        outcome.expect_failure(8, "disk-full", "need 33.0 MiB, have 30.0 MiB on ");
        assert!(scene.registry.log().iter().all(|line| line.kind != Kind::Blob));
    }
}

// --- helpers -------------------------------------------------------------------------------------

fn layer() -> ringpull::demo::script::RuleFor {
    Rule::on(Kind::Blob).layer(0)
}

fn stall_after(bytes: u64) -> Action {
    Action::StallAfter(bytes)
}

fn faulty(rule: Rule) -> Options {
    Options { faults: Script::from(rule), ..Options::default() }
}

/// The requests for a blob.
fn about<'a>(log: &'a [RequestLine], blob: &Blob) -> impl Iterator<Item = &'a RequestLine> {
    let digest = blob.digest.to_string();
    log.iter().filter(move |line| line.kind == Kind::Blob && line.target.ends_with(&digest))
}

/// Bytes of a blob that were sent.
fn sent(log: &[RequestLine], blob: &Blob) -> u64 {
    about(log, blob).map(|line| line.body_sent).sum()
}

/// A scene with a pull of [`SMALL`] that was interrupted at [`CUT`].
fn interrupted(engine: &str, flags: &[&str]) -> Scene {
    let scene = Scene::new(faulty(layer().first(1).then(stall_after(CUT))), &SMALL);
    let running = scene.start(engine, flags);
    scene.wait_for_bytes(&SMALL.layers[0], CUT);
    scene.end(running, Signal::INT);
    expect_resumable(&scene.path);
    scene
}

/// Rewrites the lines of a journal, which come without their checks, and writes checks that are
/// right: the first 16 digits of the SHA-256 of the check before, a line break, and the line.
fn rewrite(journal: &Path, change: impl Fn(&str) -> Option<String>) {
    let text = std::fs::read_to_string(journal).unwrap();
    let (mut check, mut new) = (String::new(), String::new());
    for line in text.lines() {
        let (line, _) = line.rsplit_once(' ').unwrap();
        let Some(line) = change(line) else { continue };
        let digest = sha256(format!("{check}\n{line}").as_bytes());
        check = digest["sha256:".len()..][..16].to_owned();
        new.push_str(&format!("{line} {check}\n"));
    }
    assert_ne!(text, new, "nothing was changed");
    std::fs::write(journal, new).unwrap();
}

/// A registry, and a place that pulls from it go to.
struct Scene {
    registry: Registry,
    path: PathBuf,
    directory: TempDir,
}

impl Scene {
    fn new(options: Options, image: &Image) -> Scene {
        let registry = Registry::start(options).unwrap();
        registry.add("demo", "latest", image);
        let directory = TempDir::new().unwrap();
        Scene { registry, path: directory.path().join("out"), directory }
    }

    fn command(&self, engine: &str, flags: &[&str]) -> std::process::Command {
        let reference = self.registry.reference("demo", "latest");
        let destination = format!("oci:{}:latest", text(&self.path));
        let mut arguments = vec!["pull", "-v", "--engine", engine];
        if !flags.contains(&"--connections") {
            arguments.extend(["--connections", "1"]);
        }
        arguments.extend(flags);
        arguments.extend([reference.as_str(), destination.as_str()]);
        ringpull(&arguments)
    }

    fn start(&self, engine: &str, flags: &[&str]) -> Running {
        Running::start(self.command(engine, flags))
    }

    /// The same; what it says can be read meanwhile.
    fn start_heard(&self, engine: &str, flags: &[&str]) -> (Running, impl Fn() -> String + use<>) {
        let path = self.directory.path().join("stderr");
        let mut command = self.command(engine, flags);
        command.stderr(std::fs::File::create(&path).unwrap());
        (Running::start(command), move || std::fs::read_to_string(&path).unwrap())
    }

    fn pull(&self, engine: &str, flags: &[&str]) -> Outcome {
        run(self.command(engine, flags))
    }

    /// Sends a signal, and waits for the end, which is soon.
    #[track_caller]
    fn end(&self, running: Running, signal: Signal) -> Outcome {
        let signalled = Instant::now();
        running.signal(signal);
        let outcome = running.wait();
        let took = outcome.at - signalled;
        // A second, and what a busy machine takes.
        assert!(took < Duration::from_secs(2), "{took:?}: {}", outcome.all);
        outcome
    }

    /// Waits until so many bytes of a blob were sent and are in its partial.
    #[track_caller]
    fn wait_for_bytes(&self, blob: &Blob, bytes: u64) {
        let there = |log: &[RequestLine]| sent(log, blob) >= bytes;
        assert!(self.registry.wait_until(SOON, there), "{:#?}", self.registry.log());
        let partial = self.partial_of(blob);
        let length = || std::fs::metadata(&partial).map_or(0, |metadata| metadata.len());
        assert!(eventually(|| (length() >= bytes).then_some(())).is_some(), "{}", length());
    }

    /// Waits until all of a blob is in its partial but what its stalled request did not send.
    #[track_caller]
    fn wait_for_all_but_the_gap(&self, blob: &Blob) {
        let log = self.registry.log();
        let stalled = about(&log, blob).find(|line| line.fault != Action::None).unwrap();
        let (first, last) = stalled.range.unwrap();
        let (start, end) = ((first + stalled.body_sent) as usize, last as usize + 1);
        let is_there = || {
            let bytes = std::fs::read(self.partial_of(blob)).unwrap();
            let same = bytes.len() == blob.bytes.len()
                && bytes[..start] == blob.bytes[..start]
                && bytes[end..] == blob.bytes[end..];
            same.then_some(())
        };
        assert!(eventually(is_there).is_some(), "bytes that were sent do not arrive");
    }

    /// Waits until the journals have so many bytes as written.
    #[track_caller]
    fn wait_for_journal(&self, bytes: u64) {
        let noted = || {
            let journals =
                partials(&self.path).into_iter().filter(|name| name.ends_with(".journal"));
            let read = |name: String| {
                std::fs::read_to_string(self.path.join(".ringpull/partial").join(name))
            };
            let lines: Vec<String> = journals.flat_map(read).collect();
            let numbers = |line: &str| -> Option<u64> {
                let mut fields = line.strip_prefix("written ")?.split(' ');
                let (start, end): (u64, u64) =
                    (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
                Some(end - start)
            };
            lines.iter().flat_map(|text| text.lines()).filter_map(numbers).sum::<u64>()
        };
        let slack = 512 << 10;
        assert!(eventually(|| (noted() + slack >= bytes).then_some(())).is_some(), "{}", noted());
    }

    /// Bytes of a blob whose stalled request did not send them.
    fn left(&self, blob: &Blob) -> u64 {
        let log = self.registry.log();
        let stalled = about(&log, blob).find(|line| line.fault != Action::None).unwrap();
        let (first, last) = stalled.range.unwrap();
        last + 1 - first - stalled.body_sent
    }

    /// The offsets that the layer of [`SMALL`] was asked for from.
    fn starts(&self) -> Vec<u64> {
        let log = self.registry.log();
        about(&log, &SMALL.layers[0]).map(|line| line.range.map_or(0, |(first, _)| first)).collect()
    }

    fn partial_of(&self, blob: &Blob) -> PathBuf {
        self.path.join(".ringpull/partial").join(format!("sha256-{}", blob.digest.hex()))
    }

    fn partial(&self) -> PathBuf {
        self.partial_of(&SMALL.layers[0])
    }

    fn journal(&self) -> PathBuf {
        self.partial().with_extension("journal")
    }

    /// The image is there, whole, and nothing besides.
    #[track_caller]
    fn expect_image(&self, image: &Image) {
        assert_eq!(partials(&self.path), [""; 0], "partials are left");
        let layout = Layout::open(&self.path);
        verify_all(&layout);
        let root = layout.tagged("latest");
        assert_eq!(root.digest, image.manifest.digest.to_string());
        assert_eq!(layout.reachable(&root).len(), 2 + image.layers.len());
    }
}
