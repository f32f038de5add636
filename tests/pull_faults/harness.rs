//! What a row of the table is, and how it is checked.

use std::any::Any;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use ringpull::demo::{Action, Image, Kind, Options, Registry, RequestLine, Rule, Script};
use rustls::ServerConfig;
use tempfile::TempDir;

use crate::support::layout::{Layout, expect_resumable, partials, sha256};
use crate::support::process::{ringpull, run, slack};
use crate::support::tools::text;

/// Size of the image's layer 0, in bytes: asked for whole, and in one piece.
pub const LAYER_SIZE: u64 = 512 << 10;

/// The image of most rows: one layer that is received in many pieces, one that comes in one.
pub static IMAGE: LazyLock<Image> = LazyLock::new(|| Image::generate(1, &[LAYER_SIZE, 8 << 10]));

/// Deadlines that no row waits for, however busy the machine is; rows about silence have [`SHORT`].
const ENVIRONMENT: [(&str, &str); 9] = [
    ("RINGPULL_RECV_TIMEOUT", "20s"),
    ("RINGPULL_HEAD_TIMEOUT", "20s"),
    ("RINGPULL_CONNECT_TIMEOUT", "20s"),
    ("RINGPULL_TLS_TIMEOUT", "20s"),
    ("RINGPULL_RETRIES", "1"),
    ("RINGPULL_JOBS", "1"),
    ("RINGPULL_CONNECTIONS", "1"),
    ("RINGPULL_NO_FSYNC", "1"),
    ("RINGPULL_VERBOSE", "1"),
];

/// Deadlines for rows that wait for them, far enough apart for the text to tell which has passed.
const SHORT: [&str; 4] = ["--recv-timeout", "1s", "--head-timeout", "2s"];

/// What must not be printed in any row, whatever is printed: passwords, tokens and signatures.
pub const SECRETS: [&str; 4] = ["canary", "demo-token-", "Signature=demo", "Y2FuYXJ5"];

/// Threads that check rows: rows wait more than they work.
const THREADS: usize = 6;

/// Rows that take longer are named, for the sake of those who wait.
const SLOW: Duration = Duration::from_secs(5);

/// What a pull has to leave on disk. In every state each file under `blobs/` hashes to its name,
/// and no partial is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    /// D0: nothing, except perhaps an empty directory.
    Nothing,
    /// D1: perhaps some blobs, but no image.
    Blobs,
    /// D2: the whole image, under its tag.
    Image,
}

/// What a row is about: servers that run as long as this lives, and the image they serve.
pub struct Scene {
    pub reference: String,
    pub image: Image,
    pub registry: Option<Registry>,
    pub flags: Vec<String>,
    /// Whatever else must live as long.
    pub kept: Vec<Box<dyn Any>>,
    /// When the registry's clock began.
    pub began: Instant,
}

impl Scene {
    /// A registry that serves an image as `demo:latest`.
    pub fn serving(options: Options, image: &Image) -> Scene {
        let began = Instant::now();
        let registry = Registry::start(options).unwrap();
        registry.add("demo", "latest", image);
        Scene {
            began,
            reference: registry.reference("demo", "latest"),
            image: image.clone(),
            registry: Some(registry),
            flags: Vec::new(),
            kept: Vec::new(),
        }
    }

    /// A server of another kind.
    pub fn at(reference: String, server: impl Any) -> Scene {
        let kept: Vec<Box<dyn Any>> = vec![Box::new(server)];
        let began = Instant::now();
        Scene { reference, image: IMAGE.clone(), registry: None, flags: Vec::new(), kept, began }
    }

    pub fn with(mut self, flags: &[&str]) -> Scene {
        self.flags.extend(flags.iter().map(|&flag| flag.to_owned()));
        self
    }

    pub fn keep(mut self, server: impl Any) -> Scene {
        self.kept.push(Box::new(server));
        self
    }
}

type MakeScene = Box<dyn Fn() -> Scene + Send + Sync>;
type CheckLog = Box<dyn Fn(&[RequestLine]) + Send + Sync>;

/// A row of the table: a fault, and what it must lead to.
pub struct Row {
    /// Number in the table of faults (`tests/faults.md`), then the fault.
    name: String,
    scene: MakeScene,
    flags: Vec<String>,
    prepare: Option<fn(&Path)>,
    code: i32,
    class: &'static str,
    /// Of the last line of stderr for a failure, of any line for a success.
    texts: Vec<String>,
    disk: Disk,
    took: Option<Duration>,
    logs: Vec<CheckLog>,
}

/// A row about a registry with the usual image. Each of its faults must have been met.
pub fn row(name: impl Into<String>, options: impl Fn() -> Options + Send + Sync + 'static) -> Row {
    let faults = options().faults;
    row_of(name, move || Scene::serving(options(), &IMAGE)).meets(faults)
}

/// A row about anything.
pub fn row_of(name: impl Into<String>, scene: impl Fn() -> Scene + Send + Sync + 'static) -> Row {
    Row {
        name: name.into(),
        scene: Box::new(scene),
        flags: Vec::new(),
        prepare: None,
        code: 0,
        class: "",
        texts: Vec::new(),
        disk: Disk::Image,
        took: None,
        logs: Vec::new(),
    }
}

/// A registry with these faults.
pub fn faults<const N: usize>(
    rules: [Rule; N],
) -> impl Fn() -> Options + Send + Sync + Clone + 'static {
    let faults = Script::from(rules);
    move || Options { faults: faults.clone(), ..Options::default() }
}

/// A registry with a fault of layer 0: each time it is asked for.
pub fn layer(action: Action) -> impl Fn() -> Options + Send + Sync + Clone + 'static {
    faults([Rule::on(Kind::Blob).layer(0).then(action)])
}

/// A registry with a fault of layer 0: the first time it is asked for.
pub fn layer_once(action: Action) -> impl Fn() -> Options + Send + Sync + Clone + 'static {
    faults([Rule::on(Kind::Blob).layer(0).first(1).then(action)])
}

/// A registry with a fault of each manifest.
pub fn manifest(action: Action) -> impl Fn() -> Options + Send + Sync + Clone + 'static {
    faults([Rule::on(Kind::Manifest).then(action)])
}

impl Row {
    pub fn flags(mut self, flags: &[&str]) -> Row {
        self.flags.extend(flags.iter().map(|&flag| flag.to_owned()));
        self
    }

    /// What is in the destination before.
    pub fn prepared(mut self, prepare: fn(&Path)) -> Row {
        self.prepare = Some(prepare);
        self
    }

    /// The pull fails so.
    pub fn fails(mut self, code: i32, class: &'static str, text: &str, disk: Disk) -> Row {
        (self.code, self.class, self.disk) = (code, class, disk);
        self.says(text)
    }

    /// The text is shown, too.
    pub fn says(mut self, text: &str) -> Row {
        self.texts.push(text.to_owned());
        self
    }

    /// The pull waits for short deadlines.
    pub fn impatient(self) -> Row {
        self.flags(&SHORT)
    }

    /// The pull ends so long after its first request (or its start, if none is logged), at most half a
    /// second later.
    pub fn after(mut self, milliseconds: u64) -> Row {
        self.took = Some(Duration::from_millis(milliseconds));
        self
    }

    /// The offsets from which layer 0 was asked for, request by request.
    pub fn starts(self, expected: &'static [u64]) -> Row {
        self.log(move |log| assert_eq!(starts(log), expected, "offsets of requests for layer 0"))
    }

    /// How often something was asked for.
    pub fn asked(self, kind: Kind, expected: usize) -> Row {
        self.log(move |log| {
            let count = log.iter().filter(|line| line.kind == kind).count();
            assert_eq!(count, expected, "requests of {kind:?}");
        })
    }

    /// Each of the faults was met: otherwise the row says nothing.
    pub fn meets(self, faults: Script) -> Row {
        self.log(move |log| {
            for Rule { action, .. } in &faults.rules {
                assert!(log.iter().any(|line| line.fault == *action), "not met: {action:?}");
            }
        })
    }

    pub fn log(mut self, check: impl Fn(&[RequestLine]) + Send + Sync + 'static) -> Row {
        self.logs.push(Box::new(check));
        self
    }

    /// Its number in the list of faults.
    pub fn number(&self) -> u32 {
        let number = self.name.split(' ').next().and_then(|number| number.parse().ok());
        number.unwrap_or_else(|| panic!("no number: {}", self.name))
    }

    /// Checks the row on an engine; panics if something is wrong.
    fn check(&self, engine: &str) {
        let scene = (self.scene)();
        let out = Destination::new();
        if let Some(prepare) = self.prepare {
            prepare(&out.path);
        }
        let destination = out.reference();
        let mut arguments = vec!["pull", "--engine", engine, &scene.reference, &destination];
        arguments.extend(self.flags.iter().chain(&scene.flags).map(String::as_str));
        let outcome = run(in_environment(&arguments));
        let log = scene.registry.as_ref().map(Registry::log).unwrap_or_default();
        let lines: Vec<String> = log.iter().map(RequestLine::to_string).collect();
        let all = format!("{}\n--- requests\n{}", outcome.all, lines.join("\n"));
        // For whatever fails below, on this thread or another.
        let shown = Shown(&all);
        if self.code == 0 {
            outcome.expect_success();
            assert!(outcome.stdout.contains("Status: "), "no result");
            for text in &self.texts {
                assert!(outcome.stderr.contains(text), "`{text}` is not in stderr");
            }
        } else {
            for text in &self.texts {
                outcome.expect_failure(self.code, self.class, text);
            }
        }
        if let Some(resident) = peak_memory(&outcome.stderr) {
            println!("{engine}: {resident:>5.1} MiB resident: {}", self.name);
            assert!(resident <= RESIDENT_MAX, "{resident} MiB resident");
        }
        let both = [&outcome.stdout[..], &outcome.stderr].concat();
        assert!(!both.contains("panicked"), "a panic");
        for secret in SECRETS {
            assert!(!both.contains(secret), "the secret {secret} is shown");
        }
        if let Some(expected) = self.took {
            let first = log.first().map(|line| scene.began + line.at);
            let took = first.map_or(outcome.took, |first| outcome.at - first);
            // The request is logged a moment after the pull began to wait.
            let least = expected - Duration::from_millis(50);
            let allowed = least..=expected + slack();
            assert!(allowed.contains(&took), "took {took:?}, not {expected:?}");
        }
        for check in &self.logs {
            check(&log);
        }
        out.expect(self.disk, &scene.image);
        std::mem::forget(shown);
    }
}

/// Most memory that a pull may have resident whatever it meets, in MiB, its program included.
const RESIDENT_MAX: f64 = 64.0;

/// The most memory that a pull says it had resident, in MiB; it says so with `-v`, after a failure,
/// too.
fn peak_memory(stderr: &str) -> Option<f64> {
    let (_, said) = stderr.lines().find_map(|line| line.split_once("peak memory "))?;
    said.split_once(" MiB")?.0.parse().ok()
}

/// `ringpull` with the deadlines of most rows.
pub fn in_environment(arguments: &[&str]) -> std::process::Command {
    with_deadlines(ringpull(arguments))
}

/// A command with the deadlines of most rows.
pub fn with_deadlines(mut command: std::process::Command) -> std::process::Command {
    command.envs(ENVIRONMENT);
    command
}

/// Prints its text when a check panics.
struct Shown<'a>(&'a str);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        println!("{}\n", self.0);
    }
}

/// The offsets from which layer 0 of [`IMAGE`] was asked for, in order.
pub fn starts(log: &[RequestLine]) -> Vec<u64> {
    let start = |line: &RequestLine| line.range.map_or(0, |(first, _)| first);
    for_blob(log, &IMAGE.layers[0]).map(start).collect()
}

/// The requests for a blob at the registry itself.
pub fn for_blob<'a>(
    log: &'a [RequestLine],
    blob: &ringpull::demo::Blob,
) -> impl Iterator<Item = &'a RequestLine> {
    let digest = blob.digest.to_string();
    log.iter().filter(move |line| line.kind == Kind::Blob && line.target.ends_with(&digest))
}

/// Checks all rows on an engine, or those whose name contains `RINGPULL_ROW`; panics with the names
/// of those that failed.
pub fn check_all(rows: &[Row], engine: &str) {
    let wanted = std::env::var("RINGPULL_ROW").unwrap_or_default();
    let rows: Vec<&Row> = rows.iter().filter(|row| row.name.contains(&wanted)).collect();
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(row) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let started = Instant::now();
                    let check = std::panic::AssertUnwindSafe(|| row.check(engine));
                    if std::panic::catch_unwind(check).is_err() {
                        println!("^^^ {engine}: {}\n", row.name);
                        failed.lock().unwrap().push(row.name.clone());
                    }
                    if started.elapsed() > SLOW {
                        println!("{engine}: {}: slow, {:?}", row.name, started.elapsed());
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    println!("{engine}: {} of {} rows hold", rows.len() - failed.len(), rows.len());
    assert!(failed.is_empty(), "{engine}: {failed:#?}");
}

/// An image layout that is not there yet.
pub struct Destination {
    pub path: PathBuf,
    _directory: TempDir,
}

impl Destination {
    pub fn new() -> Destination {
        let directory = TempDir::new().unwrap();
        Destination { path: directory.path().join("out"), _directory: directory }
    }

    /// How a pull names it.
    pub fn reference(&self) -> String {
        format!("oci:{}:latest", text(&self.path))
    }

    /// A lock of the store that is held, by whoever has the file.
    pub fn locked(&self, name: &str) -> File {
        std::fs::create_dir_all(self.path.join(".ringpull")).unwrap();
        let file = File::create_new(self.path.join(".ringpull").join(name)).unwrap();
        file.lock().unwrap();
        file
    }

    /// Checks the state on disk.
    #[track_caller]
    pub fn expect(&self, disk: Disk, image: &Image) {
        match disk {
            Disk::Blobs => expect_resumable(&self.path),
            Disk::Nothing | Disk::Image => {
                assert_eq!(self.partials(), [""; 0], "partials are left")
            }
        }
        let blobs = self.verified_blobs();
        let index = self.path.join("index.json");
        match disk {
            Disk::Nothing => assert_eq!(blobs, [""; 0], "nothing was to be stored"),
            Disk::Blobs => {}
            Disk::Image => {
                let layout = Layout::open(&self.path);
                let root = layout.tagged("latest");
                assert_eq!(root.digest, image.manifest.digest.to_string());
                let needed = layout.reachable(&root);
                assert_eq!(needed.len(), 2 + image.layers.len(), "{needed:?}");
                for blob in needed {
                    assert!(blobs.contains(&blob.digest), "{blob:?} is missing");
                }
            }
        }
        if disk != Disk::Image {
            assert!(!index.exists(), "an index of an image that is not whole");
            assert!(!self.path.join("oci-layout").exists(), "a layout without an image");
        }
    }

    /// The digests of all blobs, each of which must be what its name says.
    #[track_caller]
    pub fn verified_blobs(&self) -> Vec<String> {
        let names = names_in(&self.path.join("blobs/sha256"));
        assert_eq!(names_in(&self.path.join("blobs/sha512")), [""; 0]);
        for name in &names {
            let bytes = std::fs::read(self.path.join("blobs/sha256").join(name)).unwrap();
            assert_eq!(sha256(&bytes), format!("sha256:{name}"), "a blob that is not its name");
        }
        names.into_iter().map(|name| format!("sha256:{name}")).collect()
    }

    /// The names of the files that are being written, or were when a pull was killed.
    pub fn partials(&self) -> Vec<String> {
        partials(&self.path)
    }
}

/// The names in a directory, sorted; none, if there is no such directory.
fn names_in(directory: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.unwrap().file_name().into_string().unwrap()
    };
    let mut names: Vec<String> = entries.map(name).collect();
    names.sort();
    names
}

/// Certificates of an authority that only a test trusts.
pub struct Tls {
    pub server: Arc<ServerConfig>,
    /// PEM of the authority, for `--ca-file`.
    pub ca_file: PathBuf,
    _directory: TempDir,
}

/// When a certificate is good, and for whom; and what else its server wants.
#[derive(Clone, Copy)]
pub struct Certificate {
    pub name: &'static str,
    pub years: (i32, i32),
    /// A client certificate is required.
    pub wants_one: bool,
    /// It is an authority by itself (CA:TRUE), and so the one that has to be named.
    pub alone: bool,
}

impl Certificate {
    pub const GOOD: Certificate =
        Certificate { name: "127.0.0.1", years: (2020, 4096), wants_one: false, alone: false };
}

impl Tls {
    pub fn new(certificate: Certificate) -> Tls {
        let authority_key = rcgen::KeyPair::generate().unwrap();
        let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority_certificate = authority.self_signed(&authority_key).unwrap();
        let issuer = rcgen::Issuer::new(authority, authority_key);

        let key = rcgen::KeyPair::generate().unwrap();
        let names = vec![certificate.name.to_owned()];
        let mut parameters = rcgen::CertificateParams::new(names).unwrap();
        let (from, to) = certificate.years;
        parameters.not_before = rcgen::date_time_ymd(from, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(to, 1, 1);
        let signed = match certificate.alone {
            true => {
                parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
                parameters.self_signed(&key).unwrap()
            }
            false => parameters.signed_by(&key, &issuer).unwrap(),
        };
        let named = if certificate.alone { &signed } else { &authority_certificate };

        let directory = TempDir::new().unwrap();
        let ca_file = directory.path().join("ca.pem");
        std::fs::write(&ca_file, named.pem()).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let builder = ServerConfig::builder();
        let builder = match certificate.wants_one {
            true => {
                let mut roots = rustls::RootCertStore::empty();
                roots.add(authority_certificate.der().clone()).unwrap();
                let verifier = rustls::server::WebPkiClientVerifier::builder(Arc::new(roots));
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
            false => builder.with_no_client_auth(),
        };
        let server = builder.with_single_cert(vec![signed.der().clone()], key).unwrap();
        Tls { server: Arc::new(server), ca_file, _directory: directory }
    }

    /// A registry over TLS whose authority is trusted.
    pub fn scene(self, options: Options) -> Scene {
        let tls = Some(Arc::clone(&self.server));
        let scene = Scene::serving(Options { tls, ..options }, &IMAGE);
        scene.with(&["--ca-file", text(&self.ca_file)]).keep(self)
    }
}

/// A row about a registry over TLS that is trusted.
pub fn tls_row(
    name: impl Into<String>,
    options: impl Fn() -> Options + Send + Sync + 'static,
) -> Row {
    let faults = options().faults;
    row_of(name, move || Tls::new(Certificate::GOOD).scene(options())).meets(faults)
}
