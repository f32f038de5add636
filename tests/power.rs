//! Pulls that end with the power: whatever the disk has kept of what it was not told to keep, the next
//! pull completes, and nothing in between is ever believed.
//!
//! There is no disk here that forgets, so one is made: strace records all that pulls do to files
//! (`power/trace.rs`), a model of a disk that promises no more than POSIX does takes it in
//! (`power/disk.rs`), and at each boundary, where names change or something is synced, it says what
//! could be left in many ways. Each of them is checked in memory (`power/left.rs`), and laid out for a
//! pull by another boot of the machine:
//! - each blob hashes to its name, also where a name survived that its bytes did not;
//! - `index.json` is wholly old or wholly new, and then all it names is there; after the pull was
//!   reported as done, it is new;
//! - the journal is believed for no byte that is not there, and what it was synced for is not lost;
//! - the next pull succeeds, its image is whole, nothing is left over, and it has asked for each byte that
//!   was not on disk once, and for no other.
//!
//! That the model misses nothing is checked, too: what it says is on disk at the end, with nothing lost,
//! must be what is there. A file that was written to through the ring, or through memory, would not be.
//!
//! `cargo test` checks all of these in memory and pulls into some; `scripts/power-loss` tries more,
//! kills pulls at each of their syncs and renames before, and pulls into all.
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

#[path = "power/disk.rs"]
mod disk;
#[path = "power/left.rs"]
mod left;
mod support;
#[path = "power/trace.rs"]
mod trace;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use disk::{Disk, Tree, Variant};
use left::{Expected, LAYOUT};
use ringpull::demo::{Action, Format, Image, Kind, Options, Platform, Registry, Rule, Script};
use support::layout::{Layout, partials, sha256, verify_all};
use support::process::{Outcome, ringpull, ringpull_under, run};
use support::ringpull::engines;
use support::skip::{Lack, skipped};
use support::tools::{text, tool_or_skip};
use tempfile::TempDir;
use trace::{Call, Event};

/// One connection and one blob at a time, so that a pull does the same each time.
const ENVIRONMENT: [(&str, &str); 6] = [
    ("RINGPULL_JOBS", "1"),
    ("RINGPULL_CONNECTIONS", "1"),
    ("RINGPULL_RETRIES", "1"),
    ("RINGPULL_RECV_TIMEOUT", "20s"),
    // The machine's certificates are hundreds of files, and not what this is about.
    ("SSL_CERT_FILE", "/dev/null"),
    ("SSL_CERT_DIR", "/nonexistent"),
];

/// Sizes of the layers, in bytes: one that is synced on its way, and small ones.
const LAYERS: [u64; 3] = [(3 << 20) + 512, 40 << 10, 2 << 10];

/// Where the first layer falls silent, where it does.
const STALL: u64 = (2 << 20) + 100;

/// The longest trace of one write, in bytes.
const WRITE_SIZE_MAX: &str = "8388608";

// --- the sweeps ----------------------------------------------------------------------------------

/// Each pull on one engine or the other, and some that were killed before.
#[test]
fn a_directory_may_be_opened_before_who_made_it_returns() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name).to_str().unwrap().to_owned();
    let flags = "O_RDONLY|O_DIRECTORY".to_owned();
    let made = Call::MakeDirectory { at: None, path: path("blobs") };
    let opened = Call::Open { at: None, path: path("blobs"), flags, fd: 5 };
    let events =
        [Event { began: 2, done: 3, call: opened }, Event { began: 1, done: 4, call: made }];
    Disk::with(root.path()).replay(&events);
}

#[test]
fn a_power_cut_at_some_boundaries_does_no_harm() {
    let take_turns = |nth: usize, engine: &str| engines()[nth % engines().len()] == engine;
    explore(take_turns, 3, 9, |calls| {
        // When the layout's directory has its name, when a blob is about to have its, and when the
        // index has; none of them synced.
        vec!["fsync:1".into(), "renameat:1".into(), format!("fsync:{}", calls["fsync"])]
    });
}

/// Also pulls that were killed at each call that changes a file, on both engines.
#[test]
#[ignore = "takes many minutes: scripts/power-loss"]
fn a_power_cut_at_any_boundary_does_no_harm() {
    let number = |name: &str, default| {
        std::env::var(name).map_or(default, |text| text.parse::<usize>().unwrap())
    };
    let seeds = number("RINGPULL_POWER_SEEDS", 8);
    let pulls = number("RINGPULL_POWER_PULLS", 12);
    explore(
        |_, _| true,
        seeds as u64,
        pulls,
        |calls| {
            let changing =
                ["fsync", "fdatasync", "renameat", "unlinkat", "mkdirat", "ftruncate", "pwrite64"];
            let made = calls.iter().filter(|(call, _)| changing.contains(&call.as_str()));
            made.flat_map(|(call, count)| (1..=*count).map(move |nth| format!("{call}:{nth}")))
                .collect()
        },
    );
}

/// Records the pulls that are wanted of each engine, and those killed at the points that `kills`
/// chooses, given how often a thread makes each call; then tries what may be left of each, and pulls
/// into so many of these states.
fn explore(
    is_wanted: impl Fn(usize, &str) -> bool,
    seeds: u64,
    pulls: usize,
    kills: impl Fn(&BTreeMap<String, usize>) -> Vec<String>,
) {
    if tool_or_skip("strace").is_none() {
        return;
    }
    let stage = Stage::new();
    let mut plots = Vec::new();
    for &engine in engines() {
        let Some(calls) = stage.calls(engine) else {
            return skipped(
                Lack::Right,
                "pulls that end with the power: strace may not trace here",
            );
        };
        let killed = kills(&calls).into_iter().map(Plot::Killed);
        let all = [Plot::Paced, Plot::Stalled, Plot::Second, Plot::Repair];
        let all = all.into_iter().chain([Plot::Unsynced, Plot::UnsyncedBefore]).chain(killed);
        let wanted = all.enumerate().filter(|(nth, _)| is_wanted(*nth, engine));
        plots.extend(wanted.map(|(_, plot)| (engine, plot)));
    }
    let begun = AtomicUsize::new(0);
    let tallies = in_parallel(&plots, |(engine, plot)| {
        // Without an end, a call that was cut off cannot be told from one that was not made.
        let record = AssertUnwindSafe(|| (0..3).find_map(|_| stage.record(engine, plot)));
        let Ok(story) = catch_unwind(record) else {
            let bad = vec![format!("{engine} {plot:?}: cannot be recorded")];
            return Tally { bad, ..Tally::default() };
        };
        let nth = begun.fetch_add(1, Ordering::Relaxed);
        if nth % 20 == 19 {
            println!("{nth} of {}", plots.len());
        }
        story.map_or_else(Tally::default, |story| story.try_all(&stage, seeds, pulls))
    });
    let mut all = Tally::default();
    for tally in tallies {
        all.stories += tally.stories;
        all.states += tally.states;
        all.distinct += tally.distinct;
        all.pulls += tally.pulls;
        all.bad.extend(tally.bad);
    }
    let Tally { stories, states, distinct, pulls, bad } = all;
    println!(
        "{stories} of {} sequences of pulls; {states} states, {distinct} distinct ones; {pulls} pulled \
         into; {} bad",
        plots.len(),
        bad.len()
    );
    assert!(stories * 10 >= plots.len() * 7, "too few could be recorded");
    let shown: Vec<&String> = bad.iter().take(40).collect();
    assert!(bad.is_empty(), "bad states: {shown:#?}");
    // A recording may be cut off; but states of hardly any pull show hardly anything.
    assert!(stories * 2 >= plots.len() && states > 0, "{stories} of {} recorded", plots.len());
}

/// What came of it.
#[derive(Default)]
struct Tally {
    stories: usize,
    states: usize,
    distinct: usize,
    pulls: usize,
    bad: Vec<String>,
}

fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(2, |count| count.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let nth = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(nth) else { break };
                    let result = work(item);
                    results.lock().unwrap().push((nth, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap();
    results.sort_by_key(|(nth, _)| *nth);
    results.into_iter().map(|(_, result)| result).collect()
}

// --- what is recorded ----------------------------------------------------------------------------

/// Pulls, one after another into one layout.
#[derive(Debug, Clone)]
enum Plot {
    /// Of an image, so slowly that it is synced on its way.
    Paced,
    /// Of an image that has a layer in common with one that is there.
    Second,
    /// Of an image that is there, with one layer damaged.
    Repair,
    /// One that ends amid a layer, and one that goes on.
    Stalled,
    /// One that does not wait for the disk.
    Unsynced,
    /// The same, and then one that does.
    UnsyncedBefore,
    /// One that is killed at the Nth of a call, and one that goes on: `fsync:3`.
    Killed(String),
}

/// What pulls did to a disk.
struct Story {
    name: String,
    engine: &'static str,
    disk: Disk,
    index_before: Option<Vec<u8>>,
    names_before: Vec<String>,
    damaged: Option<(String, String)>,
    /// Whether the disk was waited for.
    durable: bool,
    /// When a pull was reported as done that had waited for the disk.
    done_at: Option<usize>,
}

impl Story {
    fn expected<'a>(&self, stage: &'a Stage, at: usize) -> Expected<'a> {
        let done = self.done_at.is_some_and(|done| done <= at);
        Expected {
            new: &stage.new,
            index_before: self.index_before.clone(),
            names_before: self.names_before.clone(),
            damaged: self.damaged.clone(),
            durable: self.durable || done,
            done,
        }
    }

    /// Checks all that may be left, and pulls into some of it.
    fn try_all(&self, stage: &Stage, seeds: u64, pulls: usize) -> Tally {
        let mut cuts: BTreeMap<usize, &str> = BTreeMap::new();
        for (at, what) in &self.disk.boundaries {
            cuts.entry(at - 1).or_insert(what);
            cuts.insert(*at, what);
        }
        cuts.insert(self.disk.now, "the end");
        let mut tally = Tally { stories: 1, ..Tally::default() };
        let (mut known, mut distinct) = (HashSet::new(), Vec::new());
        let hasher = RandomState::new();
        for (at, what) in cuts {
            let expected = self.expected(stage, at);
            for variant in variants(seeds) {
                let tree = self.disk.after_power_cut(at, variant);
                let lost = || match variant {
                    Variant::Synced => self.lost_progress(at, &tree).map_or(Ok(()), Err),
                    _ => Ok(()),
                };
                let name = format!("{}, {variant:?} at {at} ({what})", self.name);
                tally.states += 1;
                match left::check(&self.disk, &tree, &expected).and_then(|()| lost()) {
                    Err(problem) => tally.bad.push(format!("{name}: {problem}")),
                    Ok(()) if known.insert(hasher.hash_one(&tree)) => {
                        distinct.push((at, variant, name));
                    }
                    Ok(()) => {}
                }
            }
        }
        tally.distinct = distinct.len();
        // Odd, so that they are not all of one kind.
        let step = (distinct.len() / pulls.max(1)).max(1);
        for (at, variant, name) in distinct.into_iter().step_by(step | 1) {
            let tree = self.disk.after_power_cut(at, variant);
            let tried = AssertUnwindSafe(|| stage.pull_into(self, at, &tree));
            tally.pulls += 1;
            if catch_unwind(tried).is_err() {
                tally.bad.push(format!("{name}: the next pull"));
            }
        }
        tally
    }

    /// What journals had as synced when their directory was, and is not there now.
    fn lost_progress(&self, at: usize, left: &Tree) -> Option<String> {
        let (began, _) = self.disk.partials_synced.iter().find(|(_, done)| *done == at)?;
        let before = self.disk.after_power_cut(began - 1, Variant::Everything);
        for (digest, ranges, _) in left::synced(&self.disk, &before) {
            let now = left::synced(&self.disk, left).find(|(of, _, _)| *of == digest);
            if now.is_none_or(|(_, now, _)| now != ranges) {
                return Some(format!("what was synced is lost: {ranges:?}"));
            }
        }
        None
    }
}

fn variants(seeds: u64) -> Vec<Variant> {
    let plain = [
        Variant::Synced,
        Variant::SyncedByHalves,
        Variant::Everything,
        Variant::NamesAndSizes,
        Variant::Names,
        Variant::Bytes,
    ];
    let seeded = (0..seeds).flat_map(|seed| {
        [Variant::Torn(seed), Variant::Random(2 * seed), Variant::Random(2 * seed + 1)]
            .into_iter()
            .chain([Variant::Journaled(seed)])
    });
    plain.into_iter().chain(seeded).collect()
}

/// A registry, its images, and layouts to begin with.
struct Stage {
    registry: Registry,
    old: Image,
    new: Image,
    directory: TempDir,
}

impl Stage {
    fn new() -> Stage {
        let layers = Image::generate(21, &LAYERS).layers;
        let layers: Vec<bytes::Bytes> = layers.into_iter().map(|layer| layer.bytes).collect();
        let image = |which: &[usize]| {
            let layers = which.iter().map(|&nth| layers[nth].clone()).collect();
            Image::of_layers(Format::Oci, Platform::LINUX_AMD64, layers)
        };
        let (old, new) = (image(&[1]), image(&[0, 1, 2]));
        let directory = temporary_directory();
        let stage =
            Stage { registry: Registry::start(Options::default()).unwrap(), old, new, directory };
        stage.offer(&stage.registry);
        for (template, tag) in [("second", "old"), ("repair", "new")] {
            let root = stage.directory.path().join(template);
            fs::create_dir(&root).unwrap();
            stage.pull("epoll", &stage.registry, tag, &root, &[]).expect_success();
        }
        let damaged = Layout::open(&stage.directory.path().join("repair").join(LAYOUT))
            .blob_path(&stage.new.layers[1].digest.to_string());
        let mut bytes = fs::read(&damaged).unwrap();
        bytes[1_000] ^= 1;
        fs::write(&damaged, bytes).unwrap();
        stage
    }

    fn offer(&self, registry: &Registry) {
        registry.add("demo", "old", &self.old);
        registry.add("demo", "new", &self.new);
    }

    fn arguments(&self, engine: &str, registry: &Registry, tag: &str, root: &Path) -> Vec<String> {
        let destination = format!("oci:{}:{tag}", text(&root.join(LAYOUT)));
        let reference = registry.reference("demo", tag);
        ["pull", "--engine", engine, &reference, &destination].map(str::to_owned).to_vec()
    }

    fn pull(
        &self,
        engine: &str,
        registry: &Registry,
        tag: &str,
        root: &Path,
        flags: &[&str],
    ) -> Outcome {
        let arguments = self.arguments(engine, registry, tag, root);
        let arguments: Vec<&str> =
            arguments.iter().map(String::as_str).chain(flags.iter().copied()).collect();
        let mut command = ringpull(&arguments);
        command.envs(ENVIRONMENT);
        run(command)
    }

    /// A pull of the new image, and what it did; strace takes these flags besides.
    fn pull_traced(
        &self,
        engine: &str,
        registry: &Registry,
        root: &Path,
        flags: &[&str],
        strace_flags: &[&str],
    ) -> (Outcome, String) {
        let trace = tempfile::NamedTempFile::new_in(self.directory.path()).unwrap();
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-xx", "-s", WRITE_SIZE_MAX, "-o", text(trace.path())]);
        strace.arg("-e").arg(format!("trace={}", trace::CALLS)).args(strace_flags);
        let arguments = self.arguments(engine, registry, "new", root);
        let arguments: Vec<&str> =
            arguments.iter().map(String::as_str).chain(flags.iter().copied()).collect();
        let mut command = ringpull_under(strace, &arguments);
        command.envs(ENVIRONMENT);
        let outcome = run(command);
        (outcome, fs::read_to_string(trace.path()).unwrap())
    }

    /// How often a thread makes each call in a first pull, at most; `None` where strace cannot trace.
    fn calls(&self, engine: &str) -> Option<BTreeMap<String, usize>> {
        let root = TempDir::new_in(self.directory.path()).unwrap();
        let (outcome, trace) = self.pull_traced(engine, &self.registry, root.path(), &[], &[]);
        if outcome.code != 0 {
            assert!(outcome.stderr.contains("ptrace"), "{}", outcome.all);
            return None;
        }
        let mut by_thread: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for line in trace.lines() {
            let Some((thread, rest)) = line.split_once(' ') else { continue };
            let Some((call, _)) = rest.trim_start().split_once('(') else { continue };
            if !call.starts_with('<') {
                *by_thread.entry((call, thread)).or_default() += 1;
            }
        }
        let mut calls = BTreeMap::new();
        for ((call, _), count) in by_thread {
            let most: &mut usize = calls.entry(call.to_owned()).or_default();
            *most = count.max(*most);
        }
        Some(calls)
    }

    /// Runs the pulls of a plot; `None` if one was killed at a moment of which the trace does not say
    /// what came of it.
    fn record(&self, engine: &'static str, plot: &Plot) -> Option<Story> {
        let directory = TempDir::new_in(self.directory.path()).unwrap();
        let root = directory.path();
        let template = match plot {
            Plot::Second => Some("second"),
            Plot::Repair => Some("repair"),
            _ => None,
        };
        if let Some(template) = template {
            copy(&self.directory.path().join(template).join(LAYOUT), &root.join(LAYOUT));
        }
        let pace = matches!(plot, Plot::Paced).then_some(1 << 20);
        let options = Options { bytes_per_second: pace, ..Options::default() };
        let registry = Registry::start(options).unwrap();
        self.offer(&registry);
        let mut disk = Disk::with(root);
        let perform = |disk: &mut Disk, flags: &[&str], strace_flags: &[&str]| {
            let (outcome, trace) = self.pull_traced(engine, &registry, root, flags, strace_flags);
            disk.replay(&trace::parse(&trace));
            outcome
        };
        match plot {
            Plot::Paced | Plot::Second | Plot::Repair => {}
            Plot::Stalled => {
                let silent = Rule::on(Kind::Blob).layer(0);
                let more = Rule::on(Kind::Blob).layer(0);
                registry.set_faults(Script {
                    rules: vec![
                        silent.first(1).then(Action::StallAfter(STALL)),
                        more.then(Action::StallAfter(0)),
                    ],
                });
                perform(&mut disk, &["--recv-timeout", "3s"], &[]).expect_failure(
                    5,
                    "recv-timeout",
                    "",
                );
                registry.set_faults(Script::default());
            }
            Plot::Unsynced => {}
            Plot::UnsyncedBefore => drop(perform(&mut disk, &["--no-fsync"], &[]).expect_success()),
            Plot::Killed(point) => {
                let (call, nth) = point.split_once(':').unwrap();
                let inject = format!("inject={call}:signal=KILL:when={nth}");
                let outcome = perform(&mut disk, &[], &["-e", &inject]);
                assert!([0, 137].contains(&outcome.code), "{}", outcome.all);
                if !unlike_on_disk(&disk, root).is_empty() {
                    return None;
                }
            }
        }
        let durable = !matches!(plot, Plot::Unsynced);
        let flags: &[&str] = if durable { &[] } else { &["--no-fsync"] };
        perform(&mut disk, flags, &[]).expect_success();
        let unlike = unlike_on_disk(&disk, root);
        assert!(
            unlike.is_empty(),
            "{plot:?}: the trace does not say all that was done: {unlike:?}"
        );
        let template = template.map(|name| self.directory.path().join(name).join(LAYOUT));
        let damaged = &self.new.layers[1].digest;
        Some(Story {
            name: format!("{engine} {plot:?}"),
            engine,
            done_at: durable.then_some(disk.now),
            disk,
            index_before: template.as_ref().map(|it| fs::read(it.join("index.json")).unwrap()),
            names_before: match plot {
                Plot::Second => vec!["old".into()],
                Plot::Repair => vec!["new".into()],
                _ => Vec::new(),
            },
            damaged: matches!(plot, Plot::Repair).then(|| {
                let layout = Layout::open(&template.unwrap());
                (damaged.hex(), sha256(&layout.blob(&damaged.to_string())))
            }),
            durable: durable && !matches!(plot, Plot::UnsyncedBefore),
        })
    }

    /// Pulls into what a power cut has left, and checks what is there then.
    #[track_caller]
    fn pull_into(&self, story: &Story, at: usize, tree: &Tree) {
        let root = TempDir::new_in(self.directory.path()).unwrap();
        left::lay_out(&story.disk, tree, root.path());
        let path = root.path().join(LAYOUT);
        let before = listing(root.path());
        let registry = Registry::start(Options::default()).unwrap();
        self.offer(&registry);
        let outcome = self.pull(story.engine, &registry, "new", root.path(), &[]);
        if outcome.code != 0 && !story.expected(self, at).durable {
            // A document that nobody waited for is torn: it is named, and does no harm once moved away.
            outcome.expect_failure(8, "index", "Move it away");
            for document in ["index.json", "oci-layout"] {
                let moved = path.join(document);
                if outcome.last_line().contains(text(&moved)) {
                    fs::remove_file(moved).unwrap();
                }
            }
            let again = self.pull(story.engine, &registry, "new", root.path(), &[]);
            // Both may be torn.
            if again.code != 0 {
                again.expect_failure(8, "index", "Move it away");
                fs::remove_file(path.join("index.json")).unwrap();
                self.pull(story.engine, &registry, "new", root.path(), &[]).expect_success();
            }
        } else {
            assert_eq!(outcome.code, 0, "{}\n{before:#?}", outcome.all);
        }
        self.check_sent(story, tree, &registry);
        let layout = Layout::open(&path);
        verify_all(&layout);
        assert_eq!(layout.tagged("new").digest, self.new.manifest.digest.to_string());
        for blob in [&self.new.manifest, &self.new.config].into_iter().chain(&self.new.layers) {
            // Not `assert_eq`: nobody reads a printed layer.
            assert!(layout.blob(&blob.digest.to_string()) == blob.bytes, "{} differs", blob.digest);
        }
        for name in &story.names_before {
            assert!(layout.tags().contains_key(name), "{name} is gone");
        }
        let layout_file = fs::read_to_string(path.join("oci-layout")).unwrap();
        assert_eq!(layout_file, r#"{"imageLayoutVersion":"1.0.0"}"#);
        let left = partials(&path);
        assert!(left.is_empty(), "{left:?} are left over of {before:#?}");
        let known = ["lock", "partial", "pulls", "unsynced", "verified"].map(String::from);
        let ours = names(&path.join(".ringpull"));
        assert!(ours.iter().all(|name| known.contains(name)), "{ours:?}");
        let known = [".ringpull", "blobs", "index.json", "oci-layout"].map(String::from);
        assert_eq!(names(&path), BTreeSet::from(known));
    }
}

impl Stage {
    /// What was right, or synced, was not fetched again; and all else was, once: nothing was believed
    /// that then turned out to be wrong.
    #[track_caller]
    fn check_sent(&self, story: &Story, tree: &Tree, registry: &Registry) {
        let log = registry.log();
        for layer in &self.new.layers {
            let digest = layer.digest.to_string();
            let about =
                log.iter().filter(|it| it.kind == Kind::Blob && it.target.ends_with(&digest));
            let sent: u64 = about.map(|line| line.body_sent).sum();
            let synced = left::synced(&story.disk, tree).find(|(of, _, _)| *of == digest);
            let here = match synced {
                _ if left::has(tree, &digest) => layer.size(),
                Some((_, ranges, _)) => ranges.iter().map(|range| range.len() as u64).sum(),
                None => 0,
            };
            assert_eq!(sent + here, layer.size(), "{here} bytes of {digest} were here");
        }
    }
}

/// What is not as the model says, with nothing lost.
fn unlike_on_disk(disk: &Disk, root: &Path) -> Vec<String> {
    let model = disk.after_power_cut(disk.now, Variant::Everything);
    let real: BTreeSet<String> = listing(root).into_iter().collect();
    let expected = model.files.keys().chain(&model.directories).cloned().collect();
    // Of two threads that append at once, strace may tell the second one first.
    let in_order = |path: &str, bytes: Vec<u8>| {
        let mut lines: Vec<Vec<u8>> =
            bytes.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        if path.ends_with("/verified") {
            lines.sort();
        }
        lines
    };
    real.union(&expected)
        .filter(|path| {
            if model.directories.contains(*path) || root.join(path).is_dir() {
                return !model.directories.contains(*path) || !root.join(path).is_dir();
            }
            let model = model.files.get(*path).map(|(_, content)| content.bytes.to_vec());
            let real = fs::read(root.join(path)).ok();
            model.map(|bytes| in_order(path, bytes)) != real.map(|bytes| in_order(path, bytes))
        })
        .cloned()
        .collect()
}

/// The paths of all files and directories beneath a directory.
fn listing(root: &Path) -> Vec<String> {
    let (mut paths, mut pending) = (Vec::new(), vec![String::new()]);
    while let Some(path) = pending.pop() {
        for name in names(&root.join(&path)) {
            let path = if path.is_empty() { name } else { format!("{path}/{name}") };
            paths.push(path.clone());
            if root.join(&path).is_dir() {
                pending.push(path);
            }
        }
    }
    paths
}

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn temporary_directory() -> TempDir {
    let memory = Path::new("/dev/shm");
    match memory.is_dir() {
        true => TempDir::new_in(memory).unwrap(),
        false => TempDir::new().unwrap(),
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for name in names(from) {
        let (from, to) = (from.join(&name), to.join(&name));
        match from.is_dir() {
            true => copy(&from, &to),
            false => drop(fs::copy(from, to).unwrap()),
        }
    }
}
