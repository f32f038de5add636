//! A run: one or more pulls on a simulated network, and what must be true of them.

use std::cell::Cell;
use std::fmt;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use ringpull::demo::{Image, Options, Registry};
use ringpull::error::Class;
use ringpull::image::{Algorithm, Digest};
use ringpull::pull::{self, Pulled, Stop};
use ringpull::report::{Reporter, Verbosity};
use ringpull::store::disk;
use ringpull::transport::Engine;
use ringpull::transport::engine::sim::{Fault, Network, Weather};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::peers;
use super::scenario::{DiskFault, End, Scenario, address};

/// What must not be printed, whatever is printed.
const SECRETS: [&str; 3] = ["canary", "demo-token-", "Signature=demo"];

/// The annotation that names an image in `index.json`.
const NAME: &str = "org.opencontainers.image.ref.name";

/// How long a pull may go on after a signal.
const ENDS_AFTER_SIGNAL: Duration = Duration::from_secs(1);

/// What a number of runs came to.
#[derive(Debug, Default)]
pub struct Outcome {
    pub pulls: u64,
    succeeded: u64,
    failed: u64,
    interrupted: u64,
    killed: u64,
    faults: u64,
    disk_faults: u64,
    virtual_time: Duration,
    pub fingerprint: u64,
}

impl Outcome {
    pub fn add(&mut self, other: &Outcome) {
        self.pulls += other.pulls;
        self.succeeded += other.succeeded;
        self.failed += other.failed;
        self.interrupted += other.interrupted;
        self.killed += other.killed;
        self.faults += other.faults;
        self.disk_faults += other.disk_faults;
        self.virtual_time += other.virtual_time;
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outcome { pulls, succeeded, failed, interrupted, killed, faults, disk_faults, .. } =
            self;
        let hours = self.virtual_time.as_secs_f64() / 3600.0;
        write!(f, "{pulls} pulls, {succeeded} succeeded, {failed} failed as they may, ")?;
        write!(
            f,
            "{interrupted} interrupted, {killed} killed; {faults} faults of the network and "
        )?;
        write!(f, "{disk_faults} of the disk met; ")?;
        write!(f, "{hours:.1} h by the virtual clock")
    }
}

/// Runs a seed; with `shown`, prints all that happens in it. `Err` is an invariant that broke.
pub fn run(seed: u64, shown: bool) -> Result<Outcome, String> {
    let result = catch_unwind(AssertUnwindSafe(|| run_through(seed, shown)));
    result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
        Err(format!("a panic: {}", text.unwrap_or_default()))
    })
}

fn run_through(seed: u64, shown: bool) -> Result<Outcome, String> {
    // Pauses between attempts, and names of partial files.
    fastrand::seed(seed);
    let scenario = Scenario::of(seed);
    if shown {
        println!("{scenario:#?}");
    }
    let (image, older) = scenario.images(seed);
    let stage = Stage { seed, shown, scenario: &scenario };
    let root = temporary_directory();
    let store = root.path().join("store");
    let mut outcome = Outcome::default();

    if scenario.older {
        let pulled = stage.pull_in_calm(&older, &store, &mut outcome)?;
        check_pulled(&pulled, &older)?;
        check_image(&store, &older)?;
    }
    let attempt = stage.pull(&image, &store, &mut outcome)?;
    let old = scenario.older.then_some(&older);
    let Attempt { ended, faults, disk, printed, requests, .. } = &attempt;
    for secret in SECRETS {
        ensure(!printed.contains(secret), || format!("the secret {secret} is shown:\n{printed}"))?;
    }
    // What a crash leaves is what was on disk in that moment.
    let store = if attempt.killed { root.path().join("left") } else { store };
    check_layout(&store, &image, old)?;
    match ended {
        Some(Ok(pulled)) => {
            outcome.succeeded += 1;
            let untold = disk.is_some() && scenario.disk.is_some_and(|fault| fault.is_grave());
            ensure(!untold, || format!("succeeded in spite of {:?}", scenario.disk))?;
            check_pulled(pulled, &image)?;
            check_image(&store, &image)?;
            check_waste(&scenario, pulled, &image, faults, *requests)?;
        }
        Some(Err(Class::Interrupted)) if scenario.end != End::ByItself => outcome.interrupted += 1,
        Some(Err(class)) => {
            outcome.failed += 1;
            ensure(!scenario.must_succeed(faults, *disk), || {
                format!("failed ({}) after {faults:?} and {disk:?}:\n{printed}", class.name())
            })?;
            ensure(scenario.may_fail_as(*class, faults, *disk), || {
                format!(
                    "failed by what was not there ({}): {faults:?}, {disk:?}\n{printed}",
                    class.name()
                )
            })?;
        }
        None => outcome.killed += 1,
    }
    // Whatever came of it, the next one succeeds.
    if !matches!(ended, Some(Ok(_))) {
        let pulled = stage.pull_in_calm(&image, &store, &mut outcome)?;
        check_pulled(&pulled, &image)?;
        check_image(&store, &image)?;
        check_layout(&store, &image, old)?;
    }
    Ok(outcome)
}

pub fn temporary_directory() -> TempDir {
    let memory = Path::new("/dev/shm");
    match memory.is_dir() {
        true => tempfile::tempdir_in(memory).unwrap(),
        false => tempfile::tempdir().unwrap(),
    }
}

/// What the pulls of a run have in common.
struct Stage<'a> {
    seed: u64,
    shown: bool,
    scenario: &'a Scenario,
}

/// A pull that ended, one way or another.
struct Attempt {
    /// `None` if it was killed.
    ended: Option<Result<Pulled, Class>>,
    killed: bool,
    faults: Vec<Fault>,
    /// The class of a fault of the disk that was met.
    disk: Option<Class>,
    printed: String,
    requests: usize,
}

impl Stage<'_> {
    /// A pull with all that the scenario holds for it.
    fn pull(&self, image: &Image, store: &Path, outcome: &mut Outcome) -> Result<Attempt, String> {
        let Scenario { weather, end, disk, .. } = self.scenario;
        let met = Rc::new(Cell::new(0));
        let disk_fails = disk.map(|fault| disk::with_faults(self.disk(fault, &met)));
        let attempt =
            self.pull_in(image, store, weather, self.scenario.options(), *end, outcome)?;
        drop(disk_fails);
        outcome.disk_faults += met.get();
        let disk = disk.filter(|_| met.get() > 0).and_then(|fault| fault.class());
        Ok(Attempt { disk, ..attempt })
    }

    /// What a disk with this fault says to each operation. Counts how often it was met.
    fn disk(
        &self,
        fault: DiskFault,
        met: &Rc<Cell<u64>>,
    ) -> impl FnMut(disk::Operation) -> disk::Answer + use<> {
        let (shown, met) = (self.shown, Rc::clone(met));
        let mut nth = 0;
        move |operation| {
            if operation != fault.operation {
                return disk::Answer::Done;
            }
            nth += 1;
            let is_it = nth - 1 == fault.nth || fault.lasting && nth > fault.nth;
            if !is_it {
                return disk::Answer::Done;
            }
            met.set(met.get() + 1);
            if shown {
                println!("the disk: {operation:?}: {:?}", fault.answer);
            }
            fault.answer
        }
    }

    /// A pull of which nothing disturbs the quiet.
    fn pull_in_calm(
        &self,
        image: &Image,
        store: &Path,
        outcome: &mut Outcome,
    ) -> Result<Pulled, String> {
        let options = Options { bind: address(), ..Options::default() };
        let weather = Weather::default();
        let attempt = self.pull_in(image, store, &weather, options, End::ByItself, outcome)?;
        match attempt.ended {
            Some(Ok(pulled)) => Ok(pulled),
            other => Err(format!("undisturbed, it ends so: {other:?}\n{}", attempt.printed)),
        }
    }

    fn pull_in(
        &self,
        image: &Image,
        store: &Path,
        weather: &Weather,
        options: Options,
        end: End,
        outcome: &mut Outcome,
    ) -> Result<Attempt, String> {
        let (registry, runtime, network) = staged(options, image, self.seed, weather.clone());
        if self.shown {
            network.show(|line| println!("{line}"));
        }
        let engine = Engine::simulated(runtime, network.clone());
        let (reporter, captured) = Reporter::captured(Verbosity::Verbose);
        let config = self.scenario.config(store);
        let limit = self.scenario.ends_within();
        let (ended, took) = engine.run(async {
            peers::serve(&network, &registry);
            let start = Instant::now();
            let (stop, stopped) = watch::channel(None);
            let pulling = pull::pull_on(&engine, &config, &reporter, stopped);
            tokio::pin!(pulling);
            let ended = match end {
                End::ByItself => within(limit, &mut pulling).await,
                End::Interrupted(at) => match within(at, &mut pulling).await {
                    Some(ended) => Some(ended),
                    None => {
                        network.trace(|| "a signal".into());
                        let _ = stop.send(Some(Stop::Signal(2)));
                        within(ENDS_AFTER_SIGNAL, &mut pulling).await
                    }
                },
                End::Killed(at) => within(at, &mut pulling).await,
            };
            if ended.is_none() && matches!(end, End::Killed(_)) {
                network.trace(|| "killed".into());
                copy(store, &store.with_file_name("left"));
            }
            drop(stop);
            let ended = ended.map(|ended| ended.map_err(|error| (error.class(), error)));
            (ended, start.elapsed())
        });
        drop(engine);
        if self.shown {
            println!("{}", captured.stderr());
        }
        let killed = ended.is_none() && matches!(end, End::Killed(_));
        ensure(ended.is_some() || killed, || {
            let what = if end == End::ByItself { "a hang" } else { "deaf to a signal" };
            format!("{what}: not done after {took:?}\n{}", captured.stderr())
        })?;
        outcome.pulls += 1;
        outcome.faults += network.faults().len() as u64;
        outcome.virtual_time += took;
        outcome.fingerprint = outcome.fingerprint.rotate_left(7) ^ network.fingerprint();
        let mut printed = format!("{}{}", captured.stdout(), captured.stderr());
        if let Some(Err((_, error))) = &ended {
            printed.push_str(&format!("{error}"));
        }
        let ended = ended.map(|ended| ended.map_err(|(class, _)| class));
        let requests = registry.log().len();
        Ok(Attempt { ended, killed, faults: network.faults(), disk: None, printed, requests })
    }
}

pub async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        ended = work => Some(ended),
        () = sleep(limit) => None,
    }
}

// --- what must be true ---------------------------------------------------------------------------

fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

fn check_pulled(pulled: &Pulled, image: &Image) -> Result<(), String> {
    ensure(pulled.digest == image.manifest.digest, || format!("{} was pulled", pulled.digest))
}

/// Every blob hashes to its name; the index is not there, as it was, or names the image.
pub fn check_layout(store: &Path, image: &Image, old: Option<&Image>) -> Result<(), String> {
    let blobs = store.join("blobs/sha256");
    for name in names(&blobs) {
        let bytes = fs::read(blobs.join(&name)).unwrap();
        let got = Digest::of(Algorithm::Sha256, &bytes);
        ensure(got.hex() == name, || format!("blobs/sha256/{name} has the digest {got}"))?;
    }
    let named = index(store)?;
    let expected = [Some(image), old].into_iter().flatten();
    let expected: Vec<_> = expected.map(|image| image.manifest.digest.to_string()).collect();
    match named {
        None => ensure(old.is_none(), || "the index lost the older image".into()),
        Some(digest) if expected.contains(&digest) => {
            let new = digest == image.manifest.digest.to_string();
            check_image(store, if new { image } else { old.unwrap_or(image) })
        }
        Some(digest) => Err(format!("the index names {digest}")),
    }
}

/// The image is there, byte for byte, under its name, and no partial is.
fn check_image(store: &Path, image: &Image) -> Result<(), String> {
    let named = index(store)?;
    let expected = image.manifest.digest.to_string();
    ensure(named.as_deref() == Some(&*expected), || format!("the index names {named:?}"))?;
    for blob in image.layers.iter().chain([&image.manifest, &image.config]) {
        let path = store.join("blobs/sha256").join(blob.digest.hex());
        let there = fs::read(&path).is_ok_and(|bytes| bytes == blob.bytes);
        ensure(there, || format!("{} is not there, or not right", blob.digest))?;
    }
    Ok(())
}

/// What the index names `latest`.
fn index(store: &Path) -> Result<Option<String>, String> {
    let Ok(bytes) = fs::read(store.join("index.json")) else { return Ok(None) };
    let index: Value =
        serde_json::from_slice(&bytes).map_err(|error| format!("index.json: {error}"))?;
    let mut entries = index["manifests"].as_array().into_iter().flatten();
    let entry = entries.find(|entry| entry["annotations"][NAME] == "latest");
    Ok(entry.and_then(|entry| entry["digest"].as_str()).map(str::to_owned))
}

/// A registry that has `image`, a runtime on a virtual clock, and the network between them.
pub fn staged(
    options: Options,
    image: &Image,
    seed: u64,
    weather: Weather,
) -> (Rc<Registry>, tokio::runtime::Runtime, Network) {
    let registry = Registry::unplugged(options);
    registry.add("demo", "latest", image);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let network = {
        let _inside = runtime.enter();
        Network::new(seed, weather)
    };
    (Rc::new(registry), runtime, network)
}

/// What was received is what was missing, and documents and refusals besides: nothing was thrown
/// away, whatever broke.
fn check_waste(
    scenario: &Scenario,
    pulled: &Pulled,
    image: &Image,
    faults: &[Fault],
    requests: usize,
) -> Result<(), String> {
    let Some(waste_max) = scenario.waste_max() else { return Ok(()) };
    // A range that was answered by a 500 is taken for refused (row 87 of faults.md): from then on the
    // whole of that blob is asked for, once more after each fault.
    let waste_max = match scenario.answers_by_500() {
        true => {
            let largest = scenario.sizes.iter().max().map_or(0, |size| *size as u64);
            waste_max + (faults.len() as u64 + 1) * largest
        }
        false => waste_max,
    };
    let wasted = pulled.summary.wasted;
    ensure(wasted <= waste_max, || format!("{wasted} bytes wasted after {faults:?}"))?;
    const REFUSAL: u64 = 300;
    let attempts = u64::from(scenario.network.retries) * 4 + 4 + faults.len() as u64;
    let most =
        image.size() + waste_max + attempts * image.manifest.size() + requests as u64 * REFUSAL;
    let received = pulled.summary.bytes;
    ensure(received <= most, || {
        format!("{received} bytes were received for an image of {} after {faults:?}", image.size())
    })
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Copies a directory with all that is in it, if it is there.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).into_iter().flatten() {
        let entry = entry.unwrap();
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        match entry.file_type().unwrap().is_dir() {
            true => copy(&from, &to),
            false => drop(fs::copy(from, to).unwrap()),
        }
    }
}
