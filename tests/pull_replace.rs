//! Connections that stall, crawl or come last: whole pulls that must not wait for them, nor replace
//! what is as slow as everything else. Each is held by both engines.
//!
//! What a registry does without the fault is measured beside it, on the same machine and at the same
//! time of day: the bounds are relative to that. `--nocapture` shows the figures.
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

use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use pieces::{SPLIT_WASTE_MAX, expect_cover, pieces, wasted};
use ringpull::demo::{Action, Asked, Image, Kind, Options, Registry, RequestLine, Rule, Script};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use support::ca::TestCa;
use support::layout::Layout;
use support::process::{Outcome, ringpull, run};
use support::ringpull::engines;
use support::tools::text;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

/// Size of the only layer of [`IMAGE`]: twelve pieces for eight connections.
const SIZE: u64 = 48 * MIB;

static IMAGE: LazyLock<Image> = LazyLock::new(|| Image::generate(1, &[SIZE]));

/// One small layer: a single piece.
static SMALL: LazyLock<Image> = LazyLock::new(|| Image::generate(2, &[MIB / 2]));

/// What a busy machine may add to anything.
const SLACK: Duration = Duration::from_secs(2);

/// One pull at a time: rates are compared here.
static ALONE: Mutex<()> = Mutex::new(());

fn on_both(check: impl Fn(&str)) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    engines().iter().for_each(|engine| check(engine));
}

// --- replacement ---------------------------------------------------------------------------------

#[test]
fn a_connection_that_stalls_for_ever_costs_one_deadline() {
    // Fast enough that no rest is worth splitting: then each byte is sent once.
    const PACE: u64 = 8 * MIB;
    on_both(|engine| {
        let honest = Pull::new(engine).pace(PACE).flags(&["--recv-timeout", "2s"]).run();
        // Longer than nothing, shorter than a piece.
        let stalled = Pull::new(engine)
            .pace(PACE)
            .fault(part().nth(4).then(Action::StallAfter(MIB)))
            .flags(&["--recv-timeout", "2s"])
            .run();
        let (without, with) = (honest.took(), stalled.took());
        println!("{engine}: {without:?} without the stall, {with:?} with it");
        assert!(with <= without + Duration::from_secs(2) + SLACK, "{without:?}, {with:?}");
        stalled.expect_waste(0);
        stalled.expect_stalls(1);
        stalled.expect_each_byte_once();
        stalled.expect_new_connection(stalled.rest_of_the_faulty().0);
    });
}

#[test]
fn a_stall_of_a_connection_does_not_hold_back_the_others() {
    on_both(|engine| {
        // Nothing is compared within one deadline: the deadline alone replaces.
        let pull = Pull::new(engine)
            .pace(3 * MIB)
            .fault(part().nth(4).then(Action::StallAfter(MIB)))
            .flags(&["--recv-timeout", "1s"])
            .run();
        pull.expect_stalls(1);
        assert!(pull.outcome.stderr.contains("no bytes for 1 s while receiving the body"));
        let (rest, silent) = pull.rest_of_the_faulty();
        // Its megabyte comes at once; then the deadline, and no pause.
        let waited = rest.at - silent.at;
        assert!(waited < Duration::from_secs(1) + SLACK, "{waited:?}");
        let meanwhile = pull.layer().into_iter();
        let meanwhile = meanwhile.filter(|line| line.at > silent.at && line.at < rest.at).count();
        assert!(meanwhile > 0, "the others go on");
    });
}

#[test]
fn a_connection_that_drips_among_fast_ones_is_replaced() {
    on_both(|engine| a_drip_is_replaced(engine, false));
}

#[test]
fn a_connection_that_drips_among_fast_ones_is_replaced_over_tls() {
    on_both(|engine| a_drip_is_replaced(engine, true));
}

#[track_caller]
fn a_drip_is_replaced(engine: &str, tls: bool) {
    const PACE: u64 = 3 * MIB / 2;
    let second = Duration::from_secs(1);
    let honest = Pull::new(engine).pace(PACE).tls(tls).run();
    let dripping = Action::DripAfter { count: MIB, bytes: 1, every: second };
    let drips = Pull::new(engine).pace(PACE).tls(tls).fault(part().nth(4).then(dripping)).run();
    let (without, with) = (honest.took(), drips.took());
    println!("{engine}, TLS {tls}: {without:?} without the drip, {with:?} with it");
    assert!(with <= 2 * without, "{without:?}, {with:?}");
    drips.expect_stalls(1);
    drips.expect_new_connection(drips.rest_of_the_faulty().0);
    assert!(drips.outcome.stderr.contains(", where other connections get "));
}

#[test]
fn what_is_slow_for_all_is_not_replaced() {
    on_both(|engine| {
        let pull = Pull::new(engine).pace(MIB).flags(&["--connections", "12"]).run();
        pull.expect_stalls(0);
        pull.expect_waste(0);
    });
}

#[test]
fn a_cap_of_the_users_own_replaces_nothing() {
    on_both(|engine| {
        for rate in ["12M", "2M"] {
            let image = if rate == "2M" { &*LAYERS } else { &*IMAGE };
            let pull = Pull::new(engine).image(image).flags(&["--limit-rate", rate]).run();
            pull.expect_stalls(0);
        }
    });
}

/// Some layers, so that a slow pull of them is not too long.
static LAYERS: LazyLock<Image> = LazyLock::new(|| Image::generate(3, &[2 * MIB; 4]));

#[test]
fn one_connection_below_the_minimum_is_too_slow_in_the_end() {
    on_both(|engine| {
        let crawl = Action::Drip { bytes: 100, every: Duration::from_millis(100) };
        let pull = Pull::new(engine)
            .image(&SMALL)
            .fault(layer().then(crawl))
            .flags(&["--connections", "1", "--min-speed", "2K"])
            .flags(&["--recv-timeout", "1500ms", "--retries", "1"])
            .fail();
        let said = "for 1.5 s while receiving the body, less than the minimum of 2.0 KiB/s";
        pull.outcome.expect_failure(5, "too-slow", said);
        pull.outcome.expect_failure(5, "too-slow", "attempt 2 of 2");
        let starts: Vec<u64> = pull.layer().iter().map(|line| line.start()).collect();
        assert_eq!((starts.len(), starts[0]), (2, 0), "{starts:?}");
        assert!(starts[1] >= 1000, "nothing received is asked for again: {starts:?}");
        let connections: Vec<u64> = pull.layer().iter().map(|line| line.connection).collect();
        assert_ne!(connections[0], connections[1], "over another connection");
    });
}

#[test]
fn one_connection_below_the_minimum_is_replaced() {
    on_both(|engine| {
        let crawl = Action::Drip { bytes: 100, every: Duration::from_millis(100) };
        let pull = Pull::new(engine)
            .image(&SMALL)
            .fault(layer().first(1).then(crawl))
            .flags(&["--connections", "1", "--min-speed", "2K", "--recv-timeout", "1500ms"])
            .run();
        pull.expect_stalls(1);
        pull.expect_waste(0);
    });
}

#[test]
fn without_a_minimum_one_slow_connection_is_kept() {
    on_both(|engine| {
        let crawl = Action::DripAfter {
            count: MIB / 2 - 2500,
            bytes: 100,
            every: Duration::from_millis(100),
        };
        let pull = Pull::new(engine)
            .image(&SMALL)
            .fault(layer().then(crawl))
            .flags(&["--connections", "1", "--min-speed", "off", "--recv-timeout", "1500ms"])
            .run();
        pull.expect_stalls(0);
        assert_eq!(pull.layer().len(), 1);
    });
}

// --- silence -------------------------------------------------------------------------------------

#[test]
fn nobody_asks_while_the_registry_wants_silence() {
    // Of three seconds, or four to five from before the pull begins.
    const SILENCE: Duration = Duration::from_secs(2);
    on_both(|engine| {
        for by_date in [false, true] {
            let at = SystemTime::now() + Duration::from_secs(5);
            let when = if by_date { httpdate::fmt_http_date(at) } else { "3".to_owned() };
            let refused = Action::Status {
                code: 429,
                fields: vec![("Retry-After".to_owned(), when)],
                body: Vec::new().into(),
            };
            let pull = Pull::new(engine).pace(4 * MIB).fault(part().nth(4).then(refused)).run();
            let refused = pull.faulty();
            // What was on its way when the answer came is no disobedience.
            let silence = refused.at + Duration::from_millis(300)..refused.at + SILENCE;
            let loud = pull.log.iter().filter(|line| silence.contains(&line.at)).count();
            assert_eq!(loud, 0, "{}", pull.all());
            let said = pull.outcome.stderr.matches(" asks for silence: ").count();
            assert_eq!(said, 1, "once: {}", pull.all());
            pull.expect_stalls(0);
        }
    });
}

// --- the tail ------------------------------------------------------------------------------------

#[test]
fn the_last_piece_is_split_when_connections_are_idle() {
    on_both(|engine| {
        // The last piece takes some seconds, and has been split before it could be replaced.
        let limit = Action::Limit(MIB / 8);
        let pull = Pull::new(engine)
            .pace(3 * MIB)
            .fault(part().asked(Asked::Covering(SIZE - 1)).first(1).then(limit))
            .flags(&["--recv-timeout", "20s"])
            .run();
        let slow = pull.faulty();
        let (first, last) = slow.range.unwrap();
        let split = pull.layer().into_iter().filter(|line| line.start() > first);
        let split: Vec<u64> =
            split.map(RequestLine::start).filter(|start| *start <= last).collect();
        println!("{engine}: {first} to {last} split at {split:?} in {:?}", pull.took());
        assert!(!split.is_empty(), "its back half is asked for over another connection");
        assert!(slow.body_sent < last + 1 - first, "and not received from it");
        pull.expect_waste(0);
    });
}

// --- lines as users have them --------------------------------------------------------------------

/// One layer that would fit into a first piece.
static ONE: LazyLock<Image> = LazyLock::new(|| Image::generate(4, &[12 * MIB]));

/// No number of connections is asked for.
const AUTO: [&str; 2] = ["--connections", "auto"];

#[test]
fn one_layer_over_connections_that_are_capped_gets_more_of_them_at_once() {
    on_both(|engine| {
        for tls in [false, true] {
            let pull = Pull::new(engine).image(&ONE).pace(MIB).tls(tls).flags(&AUTO).run();
            let took = pull.took();
            let mut connections: Vec<u64> =
                pull.layer().iter().map(|line| line.connection).collect();
            connections.sort_unstable();
            connections.dedup();
            println!("{engine}, TLS {tls}: {took:?} over {} connections", connections.len());
            // One connection takes 12 seconds, two take 6.
            assert!(took <= Duration::from_secs(3) + SLACK, "{took:?}");
            assert!((4..=40).contains(&connections.len()), "{connections:?}");
            pull.expect_waste(0);
        }
    });
}

/// What sends a second connection at once is that the blob may be shared, not that a piece ended.
#[test]
fn a_worker_that_waits_is_told_when_a_layer_may_be_shared() {
    static LONG: LazyLock<Image> = LazyLock::new(|| Image::generate(6, &[24 * MIB]));
    on_both(|engine| {
        // The first piece takes 3.2 seconds, which is too little to be split, and wanted are two.
        let pull = Pull::new(engine).image(&LONG).pace(5 * MIB).flags(&AUTO).run();
        let layer = pull.layer();
        let after = layer[1].at - layer[0].at;
        println!("{engine}: after {after:?}");
        assert!(after < Duration::from_millis(2500), "{after:?}");
    });
}

#[test]
fn small_layers_beyond_the_jobs_share_the_connections_that_pay() {
    static SIX: LazyLock<Image> = LazyLock::new(|| Image::generate(5, &[3 * MIB; 6]));
    on_both(|engine| {
        let pull = Pull::new(engine).image(&SIX).pace(MIB / 2);
        let pull = pull.flags(&["--connections", "auto", "--jobs", "3"]).run();
        // Two rounds of three connections take 12 seconds.
        let took = pull.took();
        println!("{engine}: {took:?}");
        assert!(took <= Duration::from_secs(6) + SLACK, "{took:?}");
    });
}

#[test]
fn the_only_connection_gets_a_companion_when_it_drops_and_is_replaced() {
    on_both(|engine| {
        let drops =
            Action::DripAfter { count: 4 * MIB, bytes: 2_000, every: Duration::from_millis(100) };
        let honest = Pull::new(engine).image(&ONE).flags(&AUTO).run();
        let fault = layer().first(1).then(drops);
        let pull = Pull::new(engine).image(&ONE).fault(fault).flags(&AUTO).run();
        let (without, with) = (honest.took(), pull.took());
        println!("{engine}: {without:?} without the drop, {with:?} with it");
        // What it would take itself: 400 seconds.
        assert!(with <= without + Duration::from_secs(5) + SLACK, "{without:?}, {with:?}");
        pull.expect_stalls(1);
        assert!(pull.outcome.stderr.contains(", where other connections get "));
        pull.expect_waste(0);
    });
}

#[test]
fn a_server_that_resets_every_connection_is_gone_on_with_at_once() {
    on_both(|engine| {
        let honest = Pull::new(engine).image(&ONE).flags(&AUTO).run();
        for count in [4 * MIB, MIB / 4] {
            let fault = layer().then(Action::ResetAfter(count));
            let pull = Pull::new(engine).image(&ONE).fault(fault).flags(&AUTO).run();
            let (without, with) = (honest.took(), pull.took());
            println!("{engine}: {without:?} without resets, {with:?} with one each {count}");
            assert!(with <= 4 * without + SLACK, "{without:?}, {with:?}");
            let said = &pull.outcome.stderr;
            assert!(said.contains("; again at once") && !said.contains("; again in "), "{said}");
            assert!(!said.contains("attempt 3 of 5"), "each brought something: {said}");
        }
    });
}

// --- how a pull is made --------------------------------------------------------------------------

/// Requests for the first layer.
fn layer() -> ringpull::demo::script::RuleFor {
    Rule::on(Kind::Blob).layer(0)
}

/// Requests for a piece of the layer.
fn part() -> ringpull::demo::script::RuleFor {
    layer().asked(Asked::Part)
}

trait Start {
    /// The offset that was asked for from.
    fn start(&self) -> u64;
}

impl Start for RequestLine {
    fn start(&self) -> u64 {
        self.range.map_or(0, |(first, _)| first)
    }
}

/// A pull to be made: eight connections to a registry.
struct Pull<'a> {
    engine: &'a str,
    image: &'static Image,
    options: Options,
    tls: bool,
    flags: Vec<&'a str>,
}

impl<'a> Pull<'a> {
    fn new(engine: &'a str) -> Pull<'a> {
        let flags = vec!["--connections", "8"];
        Pull { engine, image: &IMAGE, options: Options::default(), tls: false, flags }
    }

    fn image(self, image: &'static Image) -> Pull<'a> {
        Pull { image, ..self }
    }

    /// Bytes per second of each connection.
    fn pace(mut self, pace: u64) -> Pull<'a> {
        self.options.bytes_per_second = Some(pace);
        self
    }

    fn fault(mut self, rule: Rule) -> Pull<'a> {
        self.options.faults = Script::from(rule);
        self
    }

    fn tls(self, tls: bool) -> Pull<'a> {
        Pull { tls, ..self }
    }

    /// In place of eight connections, or besides them.
    fn flags(mut self, flags: &[&'a str]) -> Pull<'a> {
        if flags.contains(&"--connections") {
            self.flags.clear();
        }
        self.flags.extend(flags);
        self
    }

    #[track_caller]
    fn run(self) -> Pulled {
        let image = self.image;
        let (pulled, out) = self.pulled();
        assert_eq!(pulled.outcome.code, 0, "{}", pulled.all());
        let layout = Layout::open(&out.path().join("out"));
        let root = layout.tagged("latest");
        assert_eq!(root.digest, image.manifest.digest.to_string());
        pulled
    }

    fn fail(self) -> Pulled {
        self.pulled().0
    }

    fn pulled(self) -> (Pulled, TempDir) {
        let Pull { engine, image, mut options, tls, flags } = self;
        let (out, ca) = (TempDir::new().unwrap(), TestCa::new());
        let certificate = ca.certificate();
        let mut arguments = vec!["pull", "-v", "--no-fsync", "--engine", engine];
        arguments.extend(flags);
        if tls {
            options.tls = Some(server(&ca));
            arguments.extend(["--ca-file", text(&certificate)]);
        }
        let registry = Registry::start(options).unwrap();
        registry.add("demo", "latest", image);
        let reference = registry.reference("demo", "latest");
        let destination = format!("oci:{}:latest", text(&out.path().join("out")));
        arguments.extend([reference.as_str(), destination.as_str()]);
        let outcome = run(ringpull(&arguments));
        let log = registry.log();
        assert!(!outcome.stderr.contains("panicked"), "{}", outcome.all);
        (Pulled { image, log, outcome }, out)
    }
}

fn server(ca: &TestCa) -> Arc<ServerConfig> {
    let identity = ca.server();
    let certificate = CertificateDer::from_pem_file(&identity.certificate).unwrap();
    let key = PrivateKeyDer::from_pem_file(&identity.key).unwrap();
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    Arc::new(config)
}

/// A pull that has ended, seen from both ends.
struct Pulled {
    image: &'static Image,
    log: Vec<RequestLine>,
    outcome: Outcome,
}

impl Pulled {
    /// From the first request for the layer to the end of the process.
    fn took(&self) -> Duration {
        self.outcome.took
    }

    fn all(&self) -> String {
        let lines: Vec<String> = self.log.iter().map(RequestLine::to_string).collect();
        format!("{}\n--- requests\n{}", self.outcome.all, lines.join("\n"))
    }

    /// The requests for the first layer.
    fn layer(&self) -> Vec<&RequestLine> {
        let digest = self.image.layers[0].digest.to_string();
        let about = |line: &&RequestLine| line.target.contains(&digest);
        self.log.iter().filter(about).collect()
    }

    /// The only request that met a fault.
    #[track_caller]
    fn faulty(&self) -> &RequestLine {
        let mut faulty = self.log.iter().filter(|line| line.fault != Action::None);
        let first = faulty.next().unwrap_or_else(|| panic!("no fault: {}", self.all()));
        assert_eq!(faulty.count(), 0, "one fault");
        first
    }

    /// The request that goes on where the faulty one ended, and that one. Of what a drip sent last,
    /// a few bytes may have come too late.
    #[track_caller]
    fn rest_of_the_faulty(&self) -> (&RequestLine, &RequestLine) {
        let faulty = self.faulty();
        let end = faulty.start() + faulty.body_sent.max(MIB);
        let goes_on = |line: &&&RequestLine| {
            line.at > faulty.at && (end - 1..=end + 10).contains(&line.start())
        };
        let layer = self.layer();
        let rest = layer.iter().find(goes_on);
        (rest.unwrap_or_else(|| panic!("no rest from {end}: {}", self.all())), faulty)
    }

    /// Nothing was asked for before over this request's connection.
    #[track_caller]
    fn expect_new_connection(&self, request: &RequestLine) {
        let first = self.log.iter().find(|line| line.connection == request.connection);
        assert_eq!(first, Some(request), "over a new connection: {}", self.all());
    }

    /// So many bytes were received in vain, besides those of rests that were split.
    #[track_caller]
    fn expect_waste(&self, bytes: u64) {
        let most = bytes + pieces(&self.layer()).1 as u64 * SPLIT_WASTE_MAX;
        let wasted = wasted(&self.outcome.stderr);
        assert!((bytes..=most).contains(&wasted), "{wasted} wasted: {}", self.all());
    }

    /// So many connections were too slow.
    #[track_caller]
    fn expect_stalls(&self, count: u64) {
        let said = match count {
            1 => " 1 stall,".to_owned(),
            _ => format!(" {count} stalls,"),
        };
        assert!(self.outcome.stderr.contains(&said), "not{said} {}", self.all());
    }

    /// What was sent of the layer is all of it, and nothing twice.
    #[track_caller]
    fn expect_each_byte_once(&self) {
        expect_cover(&pieces(&self.layer()).0, self.image.layers[0].size());
    }
}
