//! 74: the machine's clock is set amid a pull, a day ahead and a day back. libfaketime does it, to the
//! clock that tells the date alone: the one that deadlines go by cannot be set.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, SystemTime};

use ringpull::demo::{Action, Auth, Bearer, BlobRedirect, Image, Kind, Options, RequestLine, Rule};
use tempfile::TempDir;

use crate::harness::{Certificate, Destination, Disk, Scene, Tls, in_environment};
use crate::support::process::{Running, SOON, run};
use crate::support::ringpull::engines;
use crate::support::tools::{self, text, tool_or_skip};

const MIB: u64 = 1 << 20;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// What a process takes for the date: what it is, and so much more or less.
struct Clock {
    library: PathBuf,
    directory: TempDir,
}

impl Clock {
    /// None where there is no faketime.
    fn new() -> Option<Clock> {
        tool_or_skip("faketime")?;
        let arguments = ["-m", "-f", "+0", "printenv", "LD_PRELOAD"];
        let library = tools::run(Command::new("faketime").args(arguments));
        let library = library.trim().split(':').next_back().unwrap().into();
        let clock = Clock { library, directory: TempDir::new().unwrap() };
        clock.set("+0");
        Some(clock)
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("offset")
    }

    /// Sets it: `+1d`, `-1d`. By a rename, for it is read again each time.
    fn set(&self, offset: &str) {
        let new = self.directory.path().join("new");
        std::fs::write(&new, offset).unwrap();
        std::fs::rename(new, self.file()).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = in_environment(arguments);
        command.env("LD_PRELOAD", &self.library);
        command.env("FAKETIME_TIMESTAMP_FILE", self.file());
        command.env("FAKETIME_NO_CACHE", "1");
        command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        command
    }
}

#[test]
fn a_clock_that_is_set_amid_a_pull_changes_nothing() {
    let Some(clock) = Clock::new() else { return };
    // Two pieces, of which each is under way when the clock is set.
    let image = Image::generate(9, &[24 * MIB, 8 << 10]);
    for engine in engines() {
        for offsets in [["+1d", "-1d"], ["-1d", "+1d"]] {
            let options = Options {
                auth: Some(Auth::Bearer(Bearer { own_port: true, ..Bearer::default() })),
                redirect_blobs: Some(BlobRedirect::Storage),
                // Good for longer than the pull, and for much less than a day.
                signature_lifetime: Some(Duration::from_secs(600)),
                faults: Rule::on(Kind::Storage).layer(0).then(Action::PauseAfter(MIB)).into(),
                ..Options::default()
            };
            let scene = over_tls(options, &image);
            let registry = scene.registry.as_ref().unwrap();
            let out = Destination::new();
            clock.set("+0");
            let destination = out.reference();
            let mut arguments = vec!["pull", "--engine", engine, &scene.reference, &destination];
            arguments.extend(scene.flags.iter().map(String::as_str));
            let running = Running::start(clock.command(&arguments));
            for (nth, offset) in offsets.into_iter().enumerate() {
                let paused =
                    |line: &&RequestLine| line.kind == Kind::Storage && line.body_sent == MIB;
                let reached = |log: &[RequestLine]| log.iter().filter(paused).count() == 1;
                assert!(registry.wait_until(SOON, reached), "{engine}: piece {nth}");
                clock.set(offset);
                registry.go();
            }
            let outcome = running.wait();
            let log = registry.log();
            let lines: Vec<String> = log.iter().map(RequestLine::to_string).collect();
            let all = format!("{}\n--- requests\n{}", outcome.all, lines.join("\n"));
            assert_eq!(outcome.code, 0, "{engine}: {offsets:?}: {all}");
            assert!(outcome.took < DAY && outcome.stderr.contains("0 retries, 0 stalls"), "{all}");
            // A token and a place are good for as long as they were.
            let count = |kind| log.iter().filter(|line| line.kind == kind).count();
            assert_eq!(count(Kind::Token), 1, "{engine}: {offsets:?}: {all}");
            let layer = image.layers[0].digest.to_string();
            let placed =
                |line: &&RequestLine| line.kind == Kind::Blob && line.target.ends_with(&layer);
            assert_eq!(log.iter().filter(placed).count(), 1, "{engine}: {offsets:?}: {all}");
            out.expect(Disk::Image, &image);
        }
    }
}

/// Certificates have dates, too.
fn over_tls(options: Options, image: &Image) -> Scene {
    let tls = Tls::new(Certificate::GOOD);
    let options = Options { tls: Some(tls.server.clone()), ..options };
    Scene::serving(options, image).with(&["--ca-file", text(&tls.ca_file)]).keep(tls)
}

/// Otherwise the test above says nothing: this is a date that is shown.
#[test]
fn a_clock_that_is_set_is_seen() {
    let Some(clock) = Clock::new() else { return };
    for engine in engines() {
        for (offset, expected) in
            [("+1d", SystemTime::now() + DAY), ("-1d", SystemTime::now() - DAY)]
        {
            let later = Action::Status {
                code: 429,
                fields: vec![("Retry-After".into(), "61".into())],
                body: bytes::Bytes::new(),
            };
            let faults = Rule::on(Kind::Manifest).then(later).into();
            let scene =
                Scene::serving(Options { faults, ..Options::default() }, &crate::harness::IMAGE);
            let out = Destination::new();
            let destination = out.reference();
            clock.set(offset);
            let arguments = ["pull", "--engine", engine, &scene.reference, &destination];
            let outcome = run(clock.command(&arguments));
            outcome.expect_failure(5, "rate-limited", "; that is ");
            let said = outcome.last_line().split("that is ").nth(1).and_then(|s| s.get(..20));
            let said = humantime::parse_rfc3339(said.unwrap()).unwrap();
            let off = said.duration_since(expected).unwrap_or_else(|early| early.duration());
            assert!(off < DAY / 24, "{offset}: {}", outcome.all);
        }
    }
}
