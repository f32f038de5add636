//! Large blobs in pieces over several connections: whole pulls from a registry that honours ranges,
//! ignores them, lies about them or breaks in the middle of one. One table, held by both engines.
//!
//! After every row the image is the one that was served, each blob hashes to its name, nothing is
//! left of what was being written, and the memory stayed within its bounds.
//! `RINGPULL_ROW=reset cargo test --test pull_ranges` checks the rows whose name contains that.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests are tests, which clippy.toml cannot know"
)]

#[path = "pull_ranges/pieces.rs"]
mod pieces;
mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use pieces::{SPLIT_WASTE_MAX, expect_cover, pieces, wasted};
use ringpull::demo::{
    Action, Asked, BlobRedirect, Door, Image, Kind, Options, Registry, RequestLine, Rule, Script,
    Turn,
};
use rustix::process::Signal;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use support::ca::TestCa;
use support::layout::{Layout, expect_resumable, partials, sha256};
use support::process::{Outcome, Running, SOON, ringpull, run};
use support::ringpull::engines;
use support::tools::text;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

/// Size of the only layer of [`IMAGE`]: about ten pieces for eight connections.
const SIZE: u64 = 48 * MIB;

/// Where one piece breaks off. Counts as progress, and is less than a piece.
const CUT: u64 = 2 * MIB;

static IMAGE: LazyLock<Image> = LazyLock::new(|| Image::generate(1, &[SIZE]));

/// Large enough for connections to be added while it is fetched.
static LARGE: LazyLock<Image> = LazyLock::new(|| Image::generate(2, &[2 * SIZE]));

/// So many layers that each connection has one of its own.
static LAYERS: LazyLock<Image> = LazyLock::new(|| Image::generate(3, &[MIB; 64]));

/// The most a pull may take: the default of `--memory`, and 16 MiB for the program and its threads.
const MEMORY_MAX: u64 = 80 * MIB;

/// Rows checked at once on an engine: the two cores of a small machine.
const THREADS: usize = 2;

#[test]
fn the_table_holds_on_uring() {
    if engines().contains(&"uring") {
        check_all("uring");
    }
}

#[test]
fn the_table_holds_on_epoll() {
    check_all("epoll");
}

fn rows() -> Vec<Row> {
    [honest(), ignored(), lies(), breaks(), objections(), bounds()].into_iter().flatten().collect()
}

// --- rows ----------------------------------------------------------------------------------------

fn honest() -> Vec<Row> {
    let several = |pulled: &Pulled| {
        pulled.expect_pieces();
        pulled.expect_nothing_twice();
        assert!(pulled.layer_connections() > 2, "pieces are shared");
    };
    let storage = Options { redirect_blobs: Some(BlobRedirect::Storage), ..Options::default() };
    vec![
        row("ranges are honoured", several),
        row("over TLS", several).tls(),
        row("blobs are redirected to a storage", move |pulled| {
            several(pulled);
            let to_the_registry = pulled.log.iter().filter(|line| line.kind == Kind::Blob).count();
            assert_eq!(to_the_registry, 2, "the layer and the configuration, once each");
        })
        .options(storage.clone()),
        row("blobs are redirected, over TLS", several).options(storage).tls(),
        row("connections are added while that brings more", move |pulled| {
            several(pulled);
            assert!(pulled.outcome.stderr.contains(" connections wanted, after 2 at "));
            assert!(pulled.layer_connections() >= 4, "{}", pulled.layer_connections());
        })
        .image(&LARGE)
        .options(Options { bytes_per_second: Some(16 * MIB), ..Options::default() })
        .flags(&["--connections", "auto"]),
        row("pieces come in chunks, without a length", |pulled| {
            pulled.expect_pieces();
            pulled.expect_waste(0);
        })
        .fault(part().then(Action::Chunked { size: 64 << 10, trailers: Vec::new() })),
        row("pieces end with their connections", |pulled| {
            pulled.expect_pieces();
            pulled.expect_nothing_twice();
        })
        .fault(part().then(Action::UntilClose)),
    ]
}

fn ignored() -> Vec<Row> {
    vec![
        row("ranges are ignored", |pulled| {
            assert_eq!(pulled.layer().len(), 1, "one stream");
            pulled.expect_nothing_twice();
        })
        .fault(part().then(Action::IgnoreRange)),
        row("ranges are ignored after the first", Pulled::expect_one_stream_at_last)
            .fault(part().turn(Turn::After(1)).then(Action::IgnoreRange)),
        row("the whole comes instead of one piece", Pulled::expect_one_stream_at_last)
            .fault(part().nth(4).then(Action::IgnoreRange)),
        row("416 to one piece", Pulled::expect_one_stream_at_last)
            .fault(part().nth(4).then(Action::status(416))),
        row("416 to all pieces but the first", Pulled::expect_one_stream_at_last)
            .fault(part().turn(Turn::After(1)).then(Action::status(416))),
        row("416 to all pieces", |pulled| {
            assert_eq!(pulled.starts(), [0, 0]);
            pulled.expect_waste(0);
        })
        .fault(part().then(Action::status(416))),
    ]
}

fn lies() -> Vec<Row> {
    let shifted = |first, last, total| Action::ShiftContentRange { first, last, total };
    let bare = Action::Status { code: 206, fields: Vec::new(), body: vec![b'x'; 4096].into() };
    let one_of_them = [
        ("another start", shifted(1, 0, 0)),
        ("another start and end", shifted(4096, 4096, 0)),
        ("another end", shifted(0, -1, 0)),
        ("another total", shifted(0, 0, 1)),
        ("several parts", Action::field("Content-Type", "multipart/byteranges; boundary=x")),
        ("no Content-Range", bare),
    ];
    let mut rows: Vec<Row> = one_of_them
        .into_iter()
        .map(|(name, action)| {
            row(format!("one piece says {name}"), Pulled::expect_one_stream_at_last)
                .fault(part().nth(4).then(action))
        })
        .collect();
    rows.push(
        row("all pieces but the first say another start", Pulled::expect_one_stream_at_last)
            .fault(part().turn(Turn::After(1)).then(shifted(1, 0, 0))),
    );
    rows.push(
        row("a byte of one piece is wrong, once", |pulled| {
            let (last, pieces) = pulled.layer().split_last().map(|(a, b)| (*a, b.len())).unwrap();
            assert_eq!((last.range, last.body_sent), (None, SIZE), "once more, in one stream");
            assert!(pieces > 2);
            pulled.expect_sent(2 * SIZE);
            pulled.expect_waste(SIZE);
        })
        .fault(layer().asked(Asked::Covering(20 * MIB)).first(1).then(Action::FlipByte(20 * MIB))),
    );
    rows.push(
        row("a byte is wrong each time", |pulled| {
            pulled.outcome.expect_failure(7, "digest", "its bytes have the digest");
            pulled.expect_sent(2 * SIZE);
        })
        .fault(layer().then(Action::FlipByte(20 * MIB)))
        .fails(),
    );
    rows
}

fn breaks() -> Vec<Row> {
    // The piece is asked for again from its next byte, and nothing else is asked for twice.
    let goes_on = |pulled: &Pulled| {
        let broken = pulled.faulty();
        let (first, _) = broken.range.unwrap();
        // Idle connections may have been given the back half of it meanwhile.
        let rest = pulled.starts().into_iter().find(|start| *start == first + CUT);
        assert!(rest.is_some(), "the rest of {broken} is asked for");
        pulled.expect_pieces();
        pulled.expect_waste(0);
    };
    let once = |action| part().nth(4).then(action);
    let many_at_once =
        [part().first(1).then(Action::None), part().first(8).then(Action::ResetAfter(0))];
    vec![
        row("one piece falls silent", move |pulled| {
            goes_on(pulled);
            let silent = pulled.faulty().at;
            let meanwhile = pulled
                .layer()
                .into_iter()
                .filter(|line| line.at > silent && line.at < silent + Duration::from_millis(1_500));
            assert!(meanwhile.count() > 0, "the others go on");
            // The deadline, the longest pause, and time for what is left on a slow machine.
            let allowed = silent + Duration::from_millis(1_500 + 500 + 3_000);
            let end = pulled.layer().last().unwrap().at;
            assert!(end < allowed, "{end:?}");
        })
        .fault(once(Action::StallAfter(CUT)))
        .options(Options { bytes_per_second: Some(16 * MIB), ..Options::default() })
        .flags(&["--recv-timeout", "1500ms"]),
        row("one piece is reset", goes_on).fault(once(Action::ResetAfter(CUT))),
        row("one piece is reset, over TLS", goes_on).fault(once(Action::ResetAfter(CUT))).tls(),
        row("one piece ends early", goes_on).fault(once(Action::CloseAfter(CUT))),
        row("one piece ends early, over TLS", goes_on)
            .fault(once(Action::CloseWithoutNotifyAfter(CUT)))
            .tls(),
        row("every connection is reset after 3 MiB", |pulled| {
            pulled.expect_waste(0);
            let resets = pulled.layer().iter().filter(|line| line.body_sent == 3 * MIB).count();
            assert!(resets >= 8, "{resets}");
        })
        .fault(layer().then(Action::ResetAfter(3 * MIB))),
        row("seven connections are reset at once", |pulled| {
            let reset = pulled.layer().iter().filter(|line| line.body_sent == 0).count();
            assert_eq!(reset, 7);
            pulled.expect_waste(0);
        })
        .faults(many_at_once),
    ]
}

fn objections() -> Vec<Row> {
    let asks_for_silence = |code| Action::Status {
        code,
        fields: vec![("Retry-After".to_owned(), "1".to_owned())],
        body: Vec::new().into(),
    };
    [503, 429]
        .map(|code| {
            row(format!("{code} with Retry-After to one piece"), |pulled| {
                let refused = pulled.faulty();
                // What was on its way when the answer came is no disobedience.
                let silence =
                    refused.at + Duration::from_millis(200)..refused.at + Duration::from_secs(1);
                let loud = pulled.log.iter().filter(|line| silence.contains(&line.at));
                let loud: Vec<&RequestLine> = loud.collect();
                assert!(loud.is_empty(), "{loud:?}");
                pulled.expect_pieces();
                pulled.expect_nothing_twice();
            })
            .fault(part().nth(4).then(asks_for_silence(code)))
            .options(Options { bytes_per_second: Some(32 * MIB), ..Options::default() })
        })
        .into()
}

fn bounds() -> Vec<Row> {
    let paced = Options { bytes_per_second: Some(16 * MIB), ..Options::default() };
    let each_its_own = |pulled: &Pulled| {
        assert!(pulled.peak >= 48, "{} connections at once", pulled.peak);
        pulled.expect_waste(0);
    };
    let slow = Options { bytes_per_second: Some(MIB), ..Options::default() };
    let sixty_four = ["--connections", "64", "--jobs", "64"];
    vec![
        row("little memory, few connections", |pulled| {
            pulled.expect_connections(3);
            assert!(pulled.layer_connections() > 1);
            pulled.expect_nothing_twice();
        })
        .options(paced.clone())
        .flags(&["--connections", "auto", "--memory", "2M"]),
        row("little memory overrules many connections", |pulled| pulled.expect_connections(3))
            .flags(&["--connections", "64", "--memory", "2M"]),
        row("one connection", |pulled| {
            pulled.expect_connections(1);
            pulled.expect_pieces();
            pulled.expect_nothing_twice();
        })
        .flags(&["--connections", "1"]),
        row("a cap on the rate", |pulled| {
            // 48 MiB at 16 MiB/s, less the burst that is free at the start.
            assert!(
                pulled.outcome.took > Duration::from_millis(2_800),
                "{:?}",
                pulled.outcome.took
            );
            pulled.expect_nothing_twice();
        })
        .flags(&["--limit-rate", "16M"]),
        row("64 connections", each_its_own).image(&LAYERS).options(slow.clone()).flags(&sixty_four),
        row("64 connections, over TLS", each_its_own)
            .image(&LAYERS)
            .options(slow)
            .flags(&sixty_four)
            .tls(),
    ]
}

// --- signals -------------------------------------------------------------------------------------

#[test]
fn an_interrupt_ends_all_connections_and_leaves_what_can_be_gone_on_with() {
    for engine in engines() {
        let slow = row("interrupted", |_| {})
            .options(Options { bytes_per_second: Some(2 * MIB), ..Options::default() });
        let scene = Scene::new(&slow);
        let running = Running::start(scene.command(engine));
        scene.wait_for_pieces(8);
        let interrupted = Instant::now();
        running.signal(Signal::INT);
        let outcome = running.wait();
        outcome.expect_failure(130, "interrupted", "interrupted");
        let took = outcome.at - interrupted;
        assert!(took < Duration::from_secs(1), "{took:?}: {}", outcome.all);
        assert_eq!(scene.out.partials().len(), 2, "the layer and its journal");
        expect_resumable(&scene.out.path);
        scene.out.expect_verified_blobs();
        assert!(!scene.out.path.join("index.json").exists());
    }
}

#[test]
fn a_pull_after_one_that_was_killed_is_whole() {
    for engine in engines() {
        let slow = row("killed", |_| {})
            .options(Options { bytes_per_second: Some(8 * MIB), ..Options::default() });
        let scene = Scene::new(&slow);
        let running = Running::start(scene.command(engine));
        scene.wait_for_pieces(8);
        running.signal(Signal::KILL);
        assert_eq!(running.wait().code, 137);
        assert!(!scene.out.partials().is_empty(), "it was killed in the middle");
        let outcome = run(scene.command(engine));
        outcome.expect_success();
        scene.out.expect_image(&IMAGE);
    }
}

// --- how a row is checked ------------------------------------------------------------------------

/// Requests for the first layer.
fn layer() -> ringpull::demo::script::RuleFor {
    Rule::on(Kind::Blob).layer(0)
}

/// Requests for a piece of the layer.
fn part() -> ringpull::demo::script::RuleFor {
    layer().asked(Asked::Part)
}

/// What a registry does, and what a pull from it must look like.
struct Row {
    name: String,
    image: &'static LazyLock<Image>,
    options: Options,
    faults: Script,
    tls: bool,
    fails: bool,
    flags: Vec<&'static str>,
    check: Box<dyn Fn(&Pulled) + Send + Sync>,
}

fn row(name: impl Into<String>, check: impl Fn(&Pulled) + Send + Sync + 'static) -> Row {
    Row {
        name: name.into(),
        image: &IMAGE,
        options: Options::default(),
        faults: Script::default(),
        tls: false,
        fails: false,
        flags: vec!["--connections", "8"],
        check: Box::new(check),
    }
}

impl Row {
    fn image(self, image: &'static LazyLock<Image>) -> Row {
        Row { image, ..self }
    }

    fn options(self, options: Options) -> Row {
        Row { options, ..self }
    }

    fn fault(self, rule: Rule) -> Row {
        self.faults([rule])
    }

    fn faults<const N: usize>(self, rules: [Rule; N]) -> Row {
        Row { faults: Script::from(rules), ..self }
    }

    fn tls(self) -> Row {
        Row { tls: true, ..self }
    }

    /// The pull fails, and leaves no image.
    fn fails(self) -> Row {
        Row { fails: true, ..self }
    }

    /// In place of eight connections, or besides them.
    fn flags(mut self, flags: &[&'static str]) -> Row {
        if flags.contains(&"--connections") {
            self.flags.clear();
        }
        self.flags.extend(flags);
        self
    }

    fn check(&self, engine: &str) {
        let scene = Scene::new(self);
        let outcome = run(scene.command(engine));
        let log = scene.registry.log();
        let lines: Vec<String> = log.iter().map(RequestLine::to_string).collect();
        // For whatever fails below, on this thread or another.
        let shown = Shown(format!("{}\n--- requests\n{}", outcome.all, lines.join("\n")));
        assert!(!outcome.stderr.contains("panicked"), "a panic");
        if self.fails {
            // Content that is wrong leaves nothing.
            scene.out.expect_no_partials();
            scene.out.expect_verified_blobs();
            assert!(!scene.out.path.join("index.json").exists(), "no image");
        } else {
            outcome.expect_success();
            scene.out.expect_image(self.image);
            let peak = peak_memory(&outcome.stderr);
            assert!(peak < MEMORY_MAX, "peak memory: {} MiB", peak / MIB);
        }
        let peak = scene.registry.connections_peak(Door::Registry);
        (self.check)(&Pulled { image: self.image, log, outcome, peak });
        std::mem::forget(shown);
    }
}

/// Prints its text when a check panics.
struct Shown(String);

impl Drop for Shown {
    fn drop(&mut self) {
        println!("{}\n", self.0);
    }
}

fn check_all(engine: &str) {
    let wanted = std::env::var("RINGPULL_ROW").unwrap_or_default();
    let rows: Vec<Row> = rows().into_iter().filter(|row| row.name.contains(&wanted)).collect();
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(row) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let start = Instant::now();
                    let check = std::panic::AssertUnwindSafe(|| row.check(engine));
                    let held = std::panic::catch_unwind(check).is_ok();
                    let took = start.elapsed().as_millis();
                    println!("{engine}: {}: {took} ms", row.name);
                    if !held {
                        println!("^^^ failed");
                        failed.lock().unwrap().push(row.name.clone());
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    println!("{engine}: {} of {} rows hold", rows.len() - failed.len(), rows.len());
    assert!(failed.is_empty(), "{engine}: {failed:#?}");
}

/// A registry that serves the image of a row, and a place to pull it to.
struct Scene {
    registry: Registry,
    out: Destination,
    flags: Vec<String>,
    _tls: Option<Tls>,
}

impl Scene {
    fn new(row: &Row) -> Scene {
        let mut flags: Vec<String> = row.flags.iter().map(|&flag| flag.to_owned()).collect();
        let mut options = Options { faults: row.faults.clone(), ..row.options.clone() };
        let tls = row.tls.then(Tls::new);
        if let Some(tls) = &tls {
            options.tls = Some(Arc::clone(&tls.server));
            flags.extend(["--ca-file".to_owned(), text(&tls.ca.certificate()).to_owned()]);
        }
        let registry = Registry::start(options).unwrap();
        registry.add("demo", "latest", row.image);
        Scene { registry, out: Destination::new(), flags, _tls: tls }
    }

    fn command(&self, engine: &str) -> std::process::Command {
        let reference = self.registry.reference("demo", "latest");
        let destination = format!("oci:{}:latest", text(&self.out.path));
        let mut arguments = vec!["pull", "-v", "--no-fsync", "--engine", engine];
        arguments.extend(self.flags.iter().map(String::as_str));
        arguments.extend([reference.as_str(), destination.as_str()]);
        ringpull(&arguments)
    }

    fn wait_for_pieces(&self, count: usize) {
        let pieces = |log: &[RequestLine]| log.iter().filter(|line| line.range.is_some()).count();
        assert!(self.registry.wait_until(SOON, |log| pieces(log) >= count), "too few requests");
    }
}

/// What an authority that only the row trusts has signed.
struct Tls {
    ca: TestCa,
    server: Arc<ServerConfig>,
}

impl Tls {
    fn new() -> Tls {
        let ca = TestCa::new();
        let identity = ca.server();
        let certificate = CertificateDer::from_pem_file(&identity.certificate).unwrap();
        let key = PrivateKeyDer::from_pem_file(&identity.key).unwrap();
        let server = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        Tls { ca, server: Arc::new(server) }
    }
}

// --- what is looked at ---------------------------------------------------------------------------

/// A pull, seen from both ends.
struct Pulled {
    image: &'static LazyLock<Image>,
    log: Vec<RequestLine>,
    outcome: Outcome,
    /// The most connections that the registry saw at once.
    peak: usize,
}

impl Pulled {
    /// The requests for bytes of the first layer, wherever they are.
    fn layer(&self) -> Vec<&RequestLine> {
        let digest = self.image.layers[0].digest.to_string();
        let redirected = self.log.iter().any(|line| line.kind == Kind::Storage);
        let kind = if redirected { Kind::Storage } else { Kind::Blob };
        let about = |line: &&RequestLine| line.kind == kind && line.target.contains(&digest);
        self.log.iter().filter(about).collect()
    }

    /// The offsets it was asked for from.
    fn starts(&self) -> Vec<u64> {
        self.layer().iter().map(|line| line.range.map_or(0, |(first, _)| first)).collect()
    }

    /// Bytes of it that were sent.
    fn sent(&self) -> u64 {
        self.layer().iter().map(|line| line.body_sent).sum()
    }

    fn layer_connections(&self) -> usize {
        self.layer().iter().map(|line| line.connection).collect::<BTreeSet<_>>().len()
    }

    /// The only request that met a fault.
    #[track_caller]
    fn faulty(&self) -> &RequestLine {
        let mut faulty = self.log.iter().filter(|line| line.fault != Action::None);
        let first = faulty.next().expect("a fault");
        assert_eq!(faulty.count(), 0, "one fault");
        first
    }

    /// All of the first layer was asked for by closed ranges, one behind the other, from the front.
    #[track_caller]
    fn expect_pieces(&self) {
        for line in self.layer() {
            let (first, last) = line.range.unwrap_or_else(|| panic!("{line}: the whole"));
            assert_eq!(line.header("range"), Some(format!("bytes={first}-{last}").as_str()));
        }
        let (ranges, splits) = pieces(&self.layer());
        // Two threads take turns: what they ask for may arrive a few places early or late.
        let mut sorted = ranges.clone();
        sorted.sort_by_key(|range| (range.start, range.end));
        if self.outcome.stderr.contains(" 0 retries") && splits == 0 {
            for (place, range) in ranges.iter().enumerate() {
                let sorted_place = sorted.iter().position(|other| other == range).unwrap();
                assert!(place.abs_diff(sorted_place) <= 8, "{range:?} is not from the front");
            }
        }
        expect_cover(&ranges, self.image.layers[0].size());
    }

    /// How often the back half of a piece was given to an idle connection.
    fn splits(&self) -> usize {
        pieces(&self.layer()).1
    }

    /// So many bytes of the layer were sent; more only behind where a piece was split.
    #[track_caller]
    fn expect_sent(&self, bytes: u64) {
        let sent = self.sent();
        assert!(sent == bytes || self.splits() > 0 && sent > bytes, "{sent} bytes were sent");
    }

    /// Each byte was sent once.
    #[track_caller]
    fn expect_nothing_twice(&self) {
        let refusals = self.layer().iter().filter(|line| line.status > Some(299)).count();
        assert!(refusals <= 1);
        self.expect_sent(self.image.layers[0].size());
        self.expect_waste(0);
    }

    /// So many bytes were received in vain.
    #[track_caller]
    fn expect_waste(&self, bytes: u64) {
        let most = bytes + self.splits() as u64 * SPLIT_WASTE_MAX;
        let wasted = wasted(&self.outcome.stderr);
        assert!((bytes..=most).contains(&wasted), "{wasted} bytes wasted");
    }

    /// What the first pieces left came as one stream of the whole, of which the rest was skipped.
    #[track_caller]
    fn expect_one_stream_at_last(&self) {
        let layer = self.layer();
        assert!(layer.iter().any(|line| line.body_sent == SIZE), "the whole");
        let whole = layer.iter().filter(|line| line.header("range").is_none()).count();
        assert!(whole <= 1, "the whole is asked for {whole} times");
        // Not more than there are pieces, each of which may be under way before the lie is known.
        let most = 1 + SIZE.div_ceil(4 * MIB) as usize + self.splits();
        assert!(layer.len() <= most, "{} requests", layer.len());
    }

    /// At most so many connections fetched blobs.
    #[track_caller]
    fn expect_connections(&self, most: usize) {
        let blobs = self.log.iter().filter(|line| line.kind == Kind::Blob);
        let connections: BTreeSet<u64> = blobs.map(|line| line.connection).collect();
        // What was cut short is not kept.
        assert!(connections.len() <= most + self.splits(), "{} connections", connections.len());
        // That of the manifest is closed before, of which the server hears a moment later.
        assert!(self.peak <= most + 1, "{} at once", self.peak);
    }
}

/// `… peak memory 24.0 MiB` of the last line, in bytes.
#[track_caller]
fn peak_memory(stderr: &str) -> u64 {
    let (_, peak) = stderr.rsplit_once("peak memory ").expect("a summary");
    let mib = peak.split_once(" MiB").expect("MiB").0;
    (mib.parse::<f64>().unwrap() * MIB as f64) as u64
}

/// An image layout that is not there yet.
struct Destination {
    path: PathBuf,
    _directory: TempDir,
}

impl Destination {
    fn new() -> Destination {
        let directory = TempDir::new().unwrap();
        Destination { path: directory.path().join("out"), _directory: directory }
    }

    /// The layout holds the image, whole, and nothing besides.
    #[track_caller]
    fn expect_image(&self, image: &Image) {
        self.expect_no_partials();
        self.expect_verified_blobs();
        let layout = Layout::open(&self.path);
        let root = layout.tagged("latest");
        assert_eq!(root.digest, image.manifest.digest.to_string());
        for blob in layout.reachable(&root) {
            let there = std::fs::metadata(layout.blob_path(&blob.digest)).unwrap().len();
            assert_eq!(there, blob.size, "{blob:?}");
        }
    }

    #[track_caller]
    fn expect_no_partials(&self) {
        assert_eq!(self.partials(), [""; 0], "partials are left");
    }

    /// Each blob is what its name says.
    #[track_caller]
    fn expect_verified_blobs(&self) {
        let directory = self.path.join("blobs/sha256");
        for name in names_in(&directory) {
            let bytes = std::fs::read(directory.join(&name)).unwrap();
            assert_eq!(sha256(&bytes), format!("sha256:{name}"), "a blob that is not its name");
        }
    }

    fn partials(&self) -> Vec<String> {
        partials(&self.path)
    }
}

/// The names in a directory; none, if there is no such directory.
fn names_in(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}
