//! What all connections of a pull share: where blobs were redirected to, tokens, and their ends in the
//! middle of a pull. One table, held by both engines.
//!
//! After every row the image is the one that was served, or there is none; each blob hashes to its
//! name, nothing is left of what was being written, and no secret was shown.
//! `RINGPULL_ROW=403 cargo test --test pull_client` checks the rows whose name contains that.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests are tests, which clippy.toml cannot know"
)]

#[path = "pull_ranges/pieces.rs"]
#[allow(dead_code, reason = "a part of it is for other tests")]
mod pieces;
mod support;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use pieces::{expect_cover, pieces, wasted};
use ringpull::demo::{
    Action, Asked, Auth, Bearer, BlobRedirect, Door, Image, Kind, Options, Registry, RequestLine,
    Rule,
};
use support::layout::{Layout, sha256};
use support::process::{Outcome, Running, SOON, ringpull};
use support::ringpull::engines;
use support::tools::text;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

/// Size of the only layer of [`IMAGE`]: twelve pieces of 4 MiB for eight connections.
const SIZE: u64 = 48 * MIB;

static IMAGE: LazyLock<Image> = LazyLock::new(|| Image::generate(1, &[SIZE]));

/// What must not be printed, whatever is printed.
const SECRETS: [&str; 3] = ["demo-token-", "Signature", "X-Amz"];

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
    [redirects(), storage_refuses(), refused_redirects(), tokens()].into_iter().flatten().collect()
}

// --- rows ----------------------------------------------------------------------------------------

/// A registry that redirects to a storage.
fn storage() -> Options {
    Options { redirect_blobs: Some(BlobRedirect::Storage), ..Options::default() }
}

/// Slow enough that the second round of pieces begins long after the first was asked for.
const SLOW: u64 = 4 * MIB;

fn redirects() -> Vec<Row> {
    let mut rows = vec![
        row("pieces go where the first was redirected to", storage(), |pulled| {
            assert_eq!(pulled.redirected(), 1);
            pulled.expect_each_byte_once();
        }),
        row("no-store: each piece asks", storage(), |pulled| {
            assert_eq!(pulled.redirected(), pulled.pieces().len());
            pulled.expect_each_byte_once();
        })
        .fault(Rule::on(Kind::Blob).then(Action::field("Cache-Control", "no-store"))),
        row("all URLs expire amid the pull", paced(storage()), |pulled| {
            let refused = pulled.pieces().iter().filter(|line| line.status == Some(403)).count();
            assert!(refused >= 1);
            assert_eq!(pulled.redirected(), 2, "one asks for all");
            pulled.expect_each_byte_once();
            pulled.expect(" 0 retries");
        })
        // What waits for it goes on together: nobody asks because another one takes long.
        .fault(Rule::on(Kind::Blob).layer(0).nth(2).then(Action::Delay(Duration::from_millis(300))))
        .meanwhile(|registry| {
            wait_for_bytes(registry);
            registry.expire_signatures();
        }),
        row(
            "URLs say when they expire",
            Options {
                signature_lifetime: Some(Duration::from_secs(8)),
                // Four seconds a piece: the second round begins when less than 5 s are left.
                bytes_per_second: Some(MIB),
                ..storage()
            },
            |pulled| {
                assert!(pulled.redirected() >= 2, "{}", pulled.redirected());
                assert!(pulled.pieces().iter().all(|line| line.status == Some(206)), "no refusal");
                pulled.expect_each_byte_once();
            },
        ),
        row("no URL is good for longer than it takes to ask", storage(), |pulled| {
            assert_eq!(pulled.redirected(), pulled.pieces().len());
            pulled.expect_each_byte_once();
        })
        .with(|options| options.signature_lifetime = Some(Duration::from_secs(5))),
        row("a URL expires before the rest of a piece", storage(), |pulled| {
            let [broken, refused, rest] = pulled.about(MIB)[..] else { panic!("three requests") };
            assert_eq!(
                (broken.body_sent, refused.status, rest.status),
                (MIB, Some(403), Some(206))
            );
            assert_eq!(refused.range, rest.range);
            assert_eq!(pulled.redirected(), 2);
            pulled.expect_waste_of(0);
            pulled.expect(" 1 retry");
        })
        .fault(
            Rule::on(Kind::Storage)
                .layer(0)
                .asked(Asked::From(0))
                .first(1)
                .then(Action::ResetAfter(MIB)),
        )
        .fault(
            Rule::on(Kind::Storage)
                .layer(0)
                .asked(Asked::From(MIB))
                .first(1)
                .then(Action::status(403)),
        ),
        row("a byte is wrong where the registry redirects to", storage(), |pulled| {
            assert_eq!(pulled.redirected(), 2, "it may know of another place");
            let (last, pieces) = pulled.pieces().split_last().map(|(a, b)| (*a, b.len())).unwrap();
            assert!(pieces >= 8, "{pieces}");
            assert_eq!((last.range, last.body_sent), (None, SIZE), "once more, in one stream");
            pulled.expect(" 48.0 MiB wasted");
        })
        .fault(
            Rule::on(Kind::Storage)
                .layer(0)
                .asked(Asked::Covering(20 * MIB))
                .first(1)
                .then(Action::FlipByte(20 * MIB)),
        ),
        row("the storage is busy", storage(), |pulled| {
            assert_eq!(pulled.redirected(), 1, "the URL is as good as it was");
            pulled.expect_each_byte_once();
            pulled.expect(" 1 retry");
        })
        .fault(Rule::on(Kind::Storage).layer(0).nth(5).then(Action::status(503))),
    ];
    for status in [400, 401, 403, 404, 410] {
        let fault = Rule::on(Kind::Storage).layer(0).nth(5).then(Action::status(status));
        rows.push(
            row(format!("{status} to one piece"), storage(), move |pulled| {
                let refused = pulled.faulty();
                assert_eq!(refused.status, Some(status));
                let same = pulled.pieces().into_iter().filter(|line| line.range == refused.range);
                assert_eq!(same.count(), 2, "asked for again as it was");
                assert_eq!(pulled.redirected(), 2);
                pulled.expect_each_byte_once();
                pulled.expect(" 0 retries");
            })
            .fault(fault),
        );
    }
    rows
}

/// What a storage refuses for good, or wants silence for: its host is named.
fn storage_refuses() -> Vec<Row> {
    let host = |pulled: &Pulled| {
        let line = pulled.of(Kind::Storage).next().expect("a request to the storage");
        line.header("host").unwrap().to_owned()
    };
    let later = Action::Status {
        code: 429,
        fields: vec![("Retry-After".to_owned(), "1".to_owned())],
        body: Vec::new().into(),
    };
    vec![
        row("a storage that refuses is named", storage(), move |pulled| {
            let host = host(pulled);
            let text =
                format!("{host}, where the registry redirects to, refused access (status 403)");
            pulled.outcome.expect_failure(4, "auth", &text);
            assert_eq!(pulled.redirected(), 4, "once more for a range, and for the whole");
        })
        .fault(Rule::on(Kind::Storage).layer(0).then(Action::status(403)))
        .fails(),
        row("a storage that wants silence is named", storage(), move |pulled| {
            pulled.expect(&format!("{} asks for silence: 1 s left", host(pulled)));
            pulled.expect_each_byte_once();
        })
        .fault(Rule::on(Kind::Storage).layer(0).nth(1).then(later)),
    ]
}

/// After the first redirect, which was followed, the next one may not be.
fn refused_redirects() -> Vec<Row> {
    let refused = |name: &str, action: Action, text: &'static str| {
        row(name, storage(), move |pulled| {
            pulled.outcome.expect_failure(6, "redirect", text);
            // Those that were under way meanwhile may have begun.
            assert!(pulled.redirected() >= 2);
        })
        .fault(Rule::on(Kind::Storage).layer(0).nth(5).then(Action::status(403)))
        .fault(Rule::on(Kind::Blob).layer(0).nth(2).then(action))
        .fails()
    };
    vec![
        refused(
            "another scheme, the second time",
            Action::redirect("ftp://127.0.0.1/?X-Amz-Signature=canary"),
            "only http and https",
        ),
        refused("nowhere, the second time", Action::status(307), "does not say where to"),
    ]
}

fn tokens() -> Vec<Row> {
    let asked_for = |pulled: &Pulled, count: usize| {
        assert_eq!(pulled.of(Kind::Token).count(), count, "requests for a token");
    };
    let expire = |registry: &Registry| {
        wait_for_bytes(registry);
        registry.expire_tokens();
    };
    let bearer = || Options { auth: Some(Auth::Bearer(Bearer::default())), ..Options::default() };
    vec![
        row("one token for all connections", bearer(), move |pulled| {
            asked_for(pulled, 1);
            pulled.expect_each_byte_once();
        }),
        row("the token expires amid the pull", paced(bearer()), move |pulled| {
            asked_for(pulled, 2);
            let refused = pulled.of(Kind::Challenge).filter(|line| line.authorized()).count();
            assert!(refused >= 1, "the first token was refused");
            pulled.expect_each_byte_once();
            pulled.expect(" 0 retries");
        })
        // All others come to want it meanwhile.
        .fault(Rule::on(Kind::Token).nth(2).then(Action::Delay(Duration::from_millis(1_500))))
        .meanwhile(expire),
        row(
            "the same, and blobs are redirected",
            paced(Options { auth: bearer().auth, ..storage() }),
            {
                move |pulled| {
                    // Signatures outlive the token: nobody needs a new one.
                    asked_for(pulled, 1);
                    assert_eq!(pulled.redirected(), 1);
                    let storage = pulled.log.iter().filter(|line| line.door == Door::Storage);
                    assert_eq!(
                        storage.filter(|line| line.authorized()).count(),
                        0,
                        "no token there"
                    );
                    pulled.expect_each_byte_once();
                }
            },
        )
        .meanwhile(|registry| {
            wait_for_bytes(registry);
            registry.expire_tokens();
        }),
        row(
            "token and URLs expire at once",
            paced(Options { auth: bearer().auth, ..storage() }),
            {
                move |pulled| {
                    asked_for(pulled, 2);
                    assert_eq!(pulled.redirected(), 2);
                    let storage = pulled.log.iter().filter(|line| line.door == Door::Storage);
                    assert_eq!(
                        storage.filter(|line| line.authorized()).count(),
                        0,
                        "no token there"
                    );
                    pulled.expect_each_byte_once();
                    pulled.expect(" 0 retries");
                }
            },
        )
        .meanwhile(|registry| {
            wait_for_bytes(registry);
            registry.expire_tokens();
            registry.expire_signatures();
        }),
        row("the token service fails for a moment", paced(bearer()), move |pulled| {
            asked_for(pulled, 3);
            pulled.expect_waste_of(0);
            pulled.expect(" 1 retry");
        })
        .fault(Rule::on(Kind::Token).nth(2).then(Action::status(503)))
        .meanwhile(|registry| {
            let begun = |line: &RequestLine| line.status == Some(206);
            assert!(registry.wait_until(SOON, |log| log.iter().any(begun)));
            registry.expire_tokens();
        })
        .with(|options| options.bytes_per_second = Some(4 * SLOW))
        .flags(&["--connections", "1"]),
        row("401 after a fresh token", bearer(), move |pulled| {
            pulled.outcome.expect_failure(4, "auth", "(status 401)");
            asked_for(pulled, 2);
            let refused = pulled.of(Kind::Blob).filter(|line| line.status == Some(401)).count();
            // Layer and configuration, twice each; the end of one ends the other.
            assert!((2..=4).contains(&refused), "{refused}");
        })
        .before(|registry| {
            let challenge = format!(
                "Bearer realm=\"{}/token\",service=\"s\",scope=\"repository:demo:pull\"",
                registry.origin()
            );
            let fields = vec![("WWW-Authenticate".to_owned(), challenge)];
            let refused = Action::Status { code: 401, fields, body: Vec::new().into() };
            registry.set_faults(Rule::on(Kind::Blob).then(refused).into());
        })
        .fails(),
    ]
}

/// Waits until the first piece is being answered, and the configuration was: what expires now, was good
/// when it was used first.
#[track_caller]
fn wait_for_bytes(registry: &Registry) {
    let whole = |line: &RequestLine| line.status == Some(200) && line.ended.is_some();
    let configuration = IMAGE.config.digest.to_string();
    let answered = |log: &[RequestLine]| {
        log.iter().any(|line| line.status == Some(206))
            && log.iter().any(|line| line.target.contains(&configuration) && whole(line))
    };
    assert!(registry.wait_until(SOON, answered), "nothing was answered");
}

fn paced(options: Options) -> Options {
    Options { bytes_per_second: Some(SLOW), ..options }
}

// --- how a row is checked ------------------------------------------------------------------------

type Act = Box<dyn Fn(&Registry) + Send + Sync>;

/// What a registry does, and what a pull from it must look like.
struct Row {
    name: String,
    options: Options,
    before: Option<Act>,
    meanwhile: Option<Act>,
    fails: bool,
    flags: Vec<&'static str>,
    check: Box<dyn Fn(&Pulled) + Send + Sync>,
}

fn row(
    name: impl Into<String>,
    options: Options,
    check: impl Fn(&Pulled) + Send + Sync + 'static,
) -> Row {
    Row {
        name: name.into(),
        options,
        before: None,
        meanwhile: None,
        fails: false,
        flags: vec!["--connections", "8"],
        check: Box::new(check),
    }
}

impl Row {
    fn with(mut self, change: impl Fn(&mut Options)) -> Row {
        change(&mut self.options);
        self
    }

    fn fault(mut self, rule: Rule) -> Row {
        self.options.faults.rules.push(rule);
        self
    }

    /// What is done to the registry before the pull.
    fn before(self, act: impl Fn(&Registry) + Send + Sync + 'static) -> Row {
        Row { before: Some(Box::new(act)), ..self }
    }

    /// What is done to the registry during the pull.
    fn meanwhile(self, act: impl Fn(&Registry) + Send + Sync + 'static) -> Row {
        Row { meanwhile: Some(Box::new(act)), ..self }
    }

    /// The pull fails, and leaves no image.
    fn fails(self) -> Row {
        Row { fails: true, ..self }
    }

    /// In place of eight connections.
    fn flags(self, flags: &[&'static str]) -> Row {
        Row { flags: flags.to_vec(), ..self }
    }

    fn check(&self, engine: &str) {
        let registry = Registry::start(self.options.clone()).unwrap();
        registry.add("demo", "latest", &IMAGE);
        if let Some(before) = &self.before {
            before(&registry);
        }
        let out = Destination::new();
        let (reference, destination) = (registry.reference("demo", "latest"), out.reference());
        let mut arguments = vec!["pull", "-v", "--no-fsync", "--engine", engine];
        arguments.extend(&self.flags);
        arguments.extend([reference.as_str(), destination.as_str()]);
        let running = Running::start(ringpull(&arguments));
        if let Some(meanwhile) = &self.meanwhile {
            meanwhile(&registry);
        }
        let outcome = running.wait();
        let log = registry.log();
        let lines: Vec<String> = log.iter().map(RequestLine::to_string).collect();
        // For whatever fails below, on this thread or another.
        let shown = Shown(format!("{}\n--- requests\n{}", outcome.all, lines.join("\n")));
        let both = [outcome.stdout.as_str(), &outcome.stderr].concat();
        assert!(!both.contains("panicked"), "a panic");
        for secret in SECRETS {
            assert!(!both.contains(secret), "the secret {secret} is shown");
        }
        out.expect_verified_blobs();
        if self.fails {
            assert!(!out.path.join("index.json").exists(), "no image");
        } else {
            outcome.expect_success();
            out.expect_image();
            out.expect_no_partials();
        }
        (self.check)(&Pulled { log, outcome });
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
                    println!("{engine}: {}: {} ms", row.name, start.elapsed().as_millis());
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

// --- what is looked at ---------------------------------------------------------------------------

/// A pull, seen from both ends.
struct Pulled {
    log: Vec<RequestLine>,
    outcome: Outcome,
}

impl Pulled {
    fn of(&self, kind: Kind) -> impl Iterator<Item = &RequestLine> {
        self.log.iter().filter(move |line| line.kind == kind)
    }

    /// The requests for the layer, at the registry or at the storage.
    fn layer(&self, kind: Kind) -> Vec<&RequestLine> {
        let digest = IMAGE.layers[0].digest.to_string();
        self.of(kind).filter(|line| line.target.contains(&digest)).collect()
    }

    /// How often the registry was asked where the layer is.
    fn redirected(&self) -> usize {
        self.layer(Kind::Blob).len()
    }

    /// The requests for bytes of the layer, wherever they are.
    fn pieces(&self) -> Vec<&RequestLine> {
        let at_the_storage = self.layer(Kind::Storage);
        if at_the_storage.is_empty() { self.layer(Kind::Blob) } else { at_the_storage }
    }

    /// Those for the byte at `offset`.
    fn about(&self, offset: u64) -> Vec<&RequestLine> {
        let holds = |range: (u64, u64)| (range.0..=range.1).contains(&offset);
        self.pieces().into_iter().filter(|line| line.range.is_some_and(holds)).collect()
    }

    /// The only request that met a fault.
    #[track_caller]
    fn faulty(&self) -> &RequestLine {
        let mut faulty = self.log.iter().filter(|line| line.fault != Action::None);
        let first = faulty.next().expect("a fault");
        assert_eq!(faulty.count(), 0, "one fault");
        first
    }

    /// The layer was sent in several closed ranges, neither gap nor overlap between them but where a
    /// rest was split.
    #[track_caller]
    fn expect_each_byte_once(&self) {
        let sent = self.pieces().into_iter().filter(|line| line.status == Some(206));
        let sent: Vec<&RequestLine> = sent.collect();
        assert!(sent.len() >= 8, "{} pieces", sent.len());
        let (brought, splits) = pieces(&sent);
        expect_cover(&brought, SIZE);
        let wasted = wasted(&self.outcome.stderr);
        assert!(wasted == 0 || (splits > 0 && wasted < SIZE / 8), "{wasted} B wasted");
    }

    #[track_caller]
    fn expect_waste_of(&self, bytes: u64) {
        self.expect(&format!(" {bytes} B wasted"));
    }

    /// The text stands in stderr.
    #[track_caller]
    fn expect(&self, text: &str) {
        assert!(self.outcome.stderr.contains(text), "not:{text}");
    }
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

    fn reference(&self) -> String {
        format!("oci:{}:latest", text(&self.path))
    }

    /// The layout holds the image, whole.
    #[track_caller]
    fn expect_image(&self) {
        let layout = Layout::open(&self.path);
        let root = layout.tagged("latest");
        assert_eq!(root.digest, IMAGE.manifest.digest.to_string());
        for blob in layout.reachable(&root) {
            let there = std::fs::metadata(layout.blob_path(&blob.digest)).unwrap().len();
            assert_eq!(there, blob.size, "{blob:?}");
        }
    }

    #[track_caller]
    fn expect_no_partials(&self) {
        assert_eq!(names_in(&self.path.join(".ringpull/partial")), [""; 0], "partials are left");
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
}

/// The names in a directory; none, if there is no such directory.
fn names_in(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}
