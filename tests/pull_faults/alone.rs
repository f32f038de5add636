//! Faults that need a clock, a signal or a second process: a test each, on both engines.

use std::fs::File;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ringpull::demo::{
    Action, Image, Kind, Options, Registry, RequestLine, Rule, Script, ScriptedPeer, Step,
};
use rustix::process::Signal;

use crate::harness::{Certificate, Destination, Disk, IMAGE, Scene, Tls, in_environment};
use crate::support::layout::Layout;
use crate::support::process::{Outcome, Running, SOON, ringpull_under, run, slack};
use crate::support::ringpull::engines;
use crate::support::server::eventually;
use crate::support::tools::{text, tool_or_skip};

const MIB: u64 = 1 << 20;

// --- 57: certificates of the system ----------------------------------------------------------------

#[test]
fn a_certificate_named_by_ssl_cert_file_is_trusted_itself() {
    for engine in engines() {
        let tls = Tls::new(Certificate { alone: true, ..Certificate::GOOD });
        let file = tls.ca_file.clone();
        let mut scene = tls.scene(Options::default());
        scene.flags.clear();
        let pull = |named: bool| {
            let out = Destination::new();
            let destination = out.reference();
            let https = "--plain-http=false";
            let arguments = ["pull", "--engine", engine, https, &scene.reference, &destination];
            let mut command = in_environment(&arguments);
            if named {
                command.env("SSL_CERT_FILE", &file);
            }
            (run(command), out)
        };
        let (outcome, out) = pull(true);
        outcome.expect_success();
        out.expect(Disk::Image, &IMAGE);
        let (outcome, _out) = pull(false);
        outcome.expect_failure(9, "tls-trust", "a self-signed one (--ca-file FILE trusts it)");
    }
}

// --- 10: silence, to the moment ------------------------------------------------------------------

#[test]
fn a_silence_ends_at_its_deadline_and_says_where() {
    const SILENCE: Duration = Duration::from_secs(2);
    let image = Image::generate(3, &[3 * MIB]);
    for engine in engines() {
        let peer = stalling(&image, MIB as usize);
        let out = Destination::new();
        let (reference, destination) = (reference(&peer), out.reference());
        let flags = ["--recv-timeout", "2s", "--retries", "0"];
        let running = start(engine, &reference, &destination, &flags);
        let asked = peer.wait_until(SOON, |seen| seen.get(1).is_some_and(asked_something));
        assert!(asked, "the layer was not asked for");

        // The last byte leaves after this moment, so the measured time is too long if anything.
        let last_byte = Instant::now();
        peer.go();
        let outcome = running.wait();
        let silence = outcome.at - last_byte;
        println!("{engine}: ended {silence:?} after the last byte");

        let layer = image.layers[0].digest.short();
        let expected = format!(
            "ringpull: error[recv-timeout]: {}: blob sha256:{layer}…: no bytes for 2 s while \
             receiving the body (1.0 of 3.0 MiB)",
            peer.address()
        );
        assert_eq!(outcome.last_line(), expected);
        assert_eq!((outcome.code, &outcome.stdout[..]), (5, ""), "{}", outcome.all);
        let allowed = SILENCE..=SILENCE + slack();
        assert!(allowed.contains(&silence), "{engine}: {silence:?}");
        out.expect(Disk::Blobs, &image);
    }
}

fn asked_something(seen: &ringpull::demo::peer::Seen) -> bool {
    !seen.received.is_empty()
}

/// A registry that sends `count` bytes of the image's first layer, the last one when it is told to,
/// and then no more. Each request has a connection of its own.
fn stalling(image: &Image, count: usize) -> ScriptedPeer {
    let head = |blob: &ringpull::demo::Blob| {
        let (size, media_type) = (blob.size(), &blob.media_type);
        format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {media_type}\r\nContent-Length: {size}\r\n\
             Connection: close\r\n\r\n"
        )
    };
    let sent = |blob: &ringpull::demo::Blob, count: usize| {
        Step::Send([head(blob).as_bytes(), &blob.bytes[..count]].concat().into())
    };
    let (manifest, layer) = (&image.manifest, &image.layers[0]);
    let last = layer.bytes.slice(count - 1..count);
    ScriptedPeer::start(vec![
        vec![Step::Receive(1), sent(manifest, manifest.bytes.len()), Step::Close],
        vec![Step::Receive(1), sent(layer, count - 1), Step::Pause, Step::Send(last), Step::Hold],
    ])
    .unwrap()
}

#[test]
fn after_a_silence_the_next_byte_is_asked_for() {
    let image = Image::generate(4, &[3 * MIB]);
    let (size, silent_at) = (3 * MIB, MIB + 12_345);
    for engine in engines() {
        let faults = Rule::on(Kind::Blob).layer(0).first(1).then(Action::StallAfter(silent_at));
        let scene = Scene::serving(Options { faults: faults.into(), ..Options::default() }, &image);
        let registry = scene.registry.as_ref().unwrap();
        let out = Destination::new();
        // Nobody is there to take over.
        let flags = ["--recv-timeout", "1s", "--connections", "1"];
        start(engine, &scene.reference, &out.reference(), &flags).wait().expect_success();
        out.expect(Disk::Image, &image);

        let log = registry.log();
        let layer = image.layers[0].digest.to_string();
        let asked: Vec<&RequestLine> =
            log.iter().filter(|line| line.target.ends_with(&layer)).collect();
        let [first, second] = asked[..] else { panic!("{engine}: {asked:#?}") };
        assert_eq!(first.body_sent, silent_at);
        let range = format!("bytes={silent_at}-{}", size - 1);
        assert_eq!(second.header("range"), Some(&range[..]));
        assert_eq!(second.body_sent, size - silent_at);
    }
}

// --- 66 to 68: what others do in the same directory ----------------------------------------------

#[test]
fn an_index_that_is_not_valid_ends_the_pull_and_stays_as_it_is() {
    for engine in engines() {
        for content in ["", "{", "[]", "{\"schemaVersion\":2,\"manifests\":{}}", "\0\0\0\0"] {
            let scene = Scene::serving(Options::default(), &IMAGE);
            let out = Destination::new();
            std::fs::create_dir(&out.path).unwrap();
            let index = out.path.join("index.json");
            std::fs::write(&index, content).unwrap();
            let outcome = start(engine, &scene.reference, &out.reference(), &[]).wait();
            outcome.expect_failure(8, "index", "it was left as it is");
            assert_eq!(std::fs::read_to_string(&index).unwrap(), content);
            assert_eq!(scene.registry.unwrap().log(), [], "found after the download");
            assert!(out.verified_blobs().is_empty() && out.partials().is_empty());
        }
    }
}

#[test]
fn several_pulls_into_one_layout_keep_each_others_names() {
    const PULLS: u64 = 6;
    for engine in engines() {
        let registry = Registry::start(Options::default()).unwrap();
        let images: Vec<Image> =
            // A layer of their own, and one that all of them want at once.
            (0..PULLS).map(with_common_layer).collect();
        for (nth, image) in images.iter().enumerate() {
            registry.add("demo", &format!("t{nth}"), image);
        }
        let out = Destination::new();
        let running: Vec<Running> = (0..images.len())
            .map(|nth| {
                let destination = format!("oci:{}:t{nth}", text(&out.path));
                start(engine, &registry.reference("demo", &format!("t{nth}")), &destination, &[])
            })
            .collect();
        for running in running {
            running.wait().expect_success();
        }
        let layout = Layout::open(&out.path);
        let tags = layout.tags();
        assert_eq!(tags.len(), images.len(), "{engine}: {tags:#?}");
        let blobs = out.verified_blobs();
        for (nth, image) in images.iter().enumerate() {
            let root = &tags[&format!("t{nth}")];
            assert_eq!(root.digest, image.manifest.digest.to_string());
            for blob in layout.reachable(root) {
                assert!(blobs.contains(&blob.digest), "{engine}: t{nth}: {blob:?} is missing");
            }
        }
        assert_eq!(out.partials(), [""; 0]);
    }
}

fn with_common_layer(seed: u64) -> Image {
    use ringpull::demo::{Format, Platform};
    let own = Image::generate(100 + seed, &[16 << 10]).layers[0].bytes.clone();
    let common = IMAGE.layers[0].bytes.clone();
    Image::of_layers(Format::Oci, Platform::LINUX_AMD64, vec![common, own])
}

#[test]
fn a_lock_that_is_held_too_long_ends_the_pull_and_names_its_holder() {
    const BOUND: Duration = Duration::from_millis(300);
    let is_blob = |line: &&RequestLine| line.kind == Kind::Blob;
    for engine in engines() {
        // What another process holds while it changes the index, and while it collects garbage. The
        // blobs are fetched before the first, and not before the second.
        for (name, fetched) in [("lock", IMAGE.layers.len() + 1), ("pulls", 0)] {
            let scene = Scene::serving(Options::default(), &IMAGE);
            let registry = scene.registry.as_ref().unwrap();
            let out = Destination::new();
            let file = out.locked(name);
            write!(&file, "{}", std::process::id()).unwrap();

            let destination = out.reference();
            let flags = ["--lock-timeout", "300ms"];
            let outcome = start(engine, &scene.reference, &destination, &flags).wait();
            let holder = format!("process {} holds the lock", std::process::id());
            outcome.expect_failure(10, "lock-busy", &holder);
            outcome.expect_failure(10, "lock-busy", "for more than 300ms");
            assert!(outcome.took >= BOUND, "{engine}: {name}: {:?}", outcome.took);
            out.expect(Disk::Blobs, &IMAGE);
            assert_eq!(registry.log().iter().filter(is_blob).count(), fetched);

            // The twin of the option; and what was fetched is not fetched again.
            let mut command = in_environment(&pulling(engine, &scene.reference, &destination, &[]));
            command.env("RINGPULL_LOCK_TIMEOUT", "200ms");
            run(command).expect_failure(10, "lock-busy", "for more than 200ms");
            drop(file);
            start(engine, &scene.reference, &destination, &[]).wait().expect_success();
            out.expect(Disk::Image, &IMAGE);
            let blobs = IMAGE.layers.len() + 1;
            assert_eq!(registry.log().iter().filter(is_blob).count(), blobs, "fetched again");
        }
    }
}

// --- 70, 72: the end of the process --------------------------------------------------------------

#[test]
fn after_a_kill_the_next_pull_completes_and_cleans_up() {
    for engine in engines() {
        let faults = Rule::on(Kind::Blob).layer(1).first(1).then(Action::StallAfter(1_000));
        let scene = Scene::serving(Options { faults: faults.into(), ..Options::default() }, &IMAGE);
        let registry = scene.registry.as_ref().unwrap();
        let out = Destination::new();
        let destination = out.reference();
        let running = start(engine, &scene.reference, &destination, &["--recv-timeout", "60s"]);
        let sent = |log: &[RequestLine]| log.iter().any(|line| line.body_sent == 1_000);
        assert!(registry.wait_until(SOON, sent));
        // Layer 0 was received before, and is verified meanwhile.
        let complete = out.path.join("blobs/sha256").join(IMAGE.layers[0].digest.hex());
        eventually(|| complete.exists().then_some(())).expect("layer 0");
        running.signal(Signal::KILL);
        assert_eq!(running.wait().code, 128 + 9);
        assert_eq!(out.verified_blobs(), [IMAGE.layers[0].digest.to_string()]);
        assert!(!out.path.join("index.json").exists());
        assert_eq!(out.partials().len(), 1, "the file that was being written");

        let before = registry.log().len();
        start(engine, &scene.reference, &destination, &[]).wait().expect_success();
        out.expect(Disk::Image, &IMAGE);
        let second = &registry.log()[before..];
        assert_eq!(crate::harness::starts(second), [0; 0], "layer 0 was there already");
    }
}

#[test]
fn a_signal_ends_a_pull_at_once_and_in_order() {
    for engine in engines() {
        for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
            for (fault, reached) in [
                (Rule::on(Kind::Manifest).then(Action::StallBeforeHead), 0),
                (Rule::on(Kind::Blob).layer(0).then(Action::StallBeforeHead), 0),
                (Rule::on(Kind::Blob).layer(0).then(Action::StallAfter(300_000)), 300_000),
                (Rule::on(Kind::Blob).layer(0).then(retry_later()), 0),
                (Rule::on(Kind::Manifest).then(retry_later()), 0),
            ] {
                let action = fault.action.clone();
                let options = Options { faults: Script::from(fault), ..Options::default() };
                let scene = Scene::serving(options, &IMAGE);
                let out = Destination::new();
                let patient = ["--recv-timeout", "60s", "--head-timeout", "60s"];
                let running = start(engine, &scene.reference, &out.reference(), &patient);
                let there = |line: &RequestLine| line.fault == action && line.body_sent >= reached;
                let registry = scene.registry.as_ref().unwrap();
                assert!(registry.wait_until(SOON, |log| log.iter().any(there)));
                check_ends(running, signal, code, &out, &format!("{engine}: {action:?}"));
            }
            let peer = ScriptedPeer::start(vec![vec![Step::Receive(1), Step::Hold]]).unwrap();
            let out = Destination::new();
            let flags = ["--plain-http=false", "--tls-timeout", "60s"];
            let running = start(engine, &reference(&peer), &out.reference(), &flags);
            assert!(peer.wait_until(SOON, |seen| seen.first().is_some_and(asked_something)));
            check_ends(running, signal, code, &out, &format!("{engine}: TLS handshake"));
        }
    }
}

fn retry_later() -> Action {
    let fields = vec![("Retry-After".to_owned(), "59".to_owned())];
    Action::Status { code: 429, fields, body: bytes::Bytes::new() }
}

#[track_caller]
fn check_ends(running: Running, signal: Signal, code: i32, out: &Destination, what: &str) {
    let signalled = Instant::now();
    running.signal(signal);
    let outcome = running.wait();
    let took = outcome.at - signalled;
    assert!(took < Duration::from_secs(1), "{what}: {took:?}");
    outcome.expect_failure(code, "interrupted", "interrupted");
    out.expect(Disk::Blobs, &IMAGE);
}

// --- warnings ------------------------------------------------------------------------------------

#[test]
fn each_warning_of_a_registry_is_shown_once() {
    let warning = "299 - \"Log in, or be limited.\", 110 cache \"stale\"";
    for engine in engines() {
        let faults = Rule::on(Kind::Any).then(Action::field("Warning", warning));
        let options = Options { faults: faults.into(), ..Options::default() };
        let scene = Scene::serving(options, &IMAGE);
        let out = Destination::new();
        let destination = out.reference();
        // Even where little is said: it is for the user.
        let arguments = pulling(engine, &scene.reference, &destination, &["--quiet"]);
        let mut command = in_environment(&arguments);
        command.env("RINGPULL_VERBOSE", "0");
        let outcome = run(command);
        outcome.expect_success();
        let registry = scene.registry.as_ref().unwrap().address();
        let expected = format!("ringpull: warning: {registry} says: Log in, or be limited.\n");
        assert_eq!(outcome.stderr, expected, "{engine}");
        out.expect(Disk::Image, &IMAGE);
    }
}

// --- 73: nobody listens --------------------------------------------------------------------------

#[test]
fn a_reader_that_went_away_fails_no_pull() {
    let unread = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        Stdio::from(writer)
    };
    for engine in engines() {
        for (stdout, stderr) in [(true, false), (false, true), (true, true)] {
            let scene = Scene::serving(Options::default(), &IMAGE);
            let out = Destination::new();
            let destination = out.reference();
            let mut command = in_environment(&pulling(engine, &scene.reference, &destination, &[]));
            if stdout {
                command.stdout(unread());
            }
            if stderr {
                command.stderr(unread());
            }
            run(command).expect_success();
            out.expect(Disk::Image, &IMAGE);
        }
        // The exit code is what is left to tell of a failure.
        let mut command =
            in_environment(&pulling(engine, "127.0.0.1:1/demo", "oci:/dev/null", &[]));
        command.stderr(unread());
        assert_eq!(run(command).code, 8);
    }
}

#[test]
fn a_result_that_cannot_be_written_is_a_failure() {
    for engine in engines() {
        let scene = Scene::serving(Options::default(), &IMAGE);
        let out = Destination::new();
        let destination = out.reference();
        let mut command = in_environment(&pulling(engine, &scene.reference, &destination, &[]));
        command.stdout(File::options().write(true).open("/dev/full").unwrap());
        let outcome = run(command);
        outcome.expect_failure(8, "disk-io", "cannot write to stdout");
        out.expect(Disk::Image, &IMAGE);
    }
}

#[test]
fn streams_that_are_not_open_fail_no_pull() {
    for engine in engines() {
        let scene = Scene::serving(Options::default(), &IMAGE);
        let out = Destination::new();
        let destination = out.reference();
        let mut shell = Command::new("sh");
        shell.args(["-c", "exec \"$0\" \"$@\" <&- >&- 2>&-"]);
        let arguments = pulling(engine, &scene.reference, &destination, &[]);
        run(ringpull_under(shell, &arguments)).expect_success();
        out.expect(Disk::Image, &IMAGE);
    }
}

// --- 75, 76: kernels without io_uring ------------------------------------------------------------

#[test]
fn without_io_uring_auto_is_epoll_and_says_why() {
    if tool_or_skip("strace").is_none() {
        return;
    }
    for (call, errno) in [
        ("io_uring_setup", "EPERM"),
        ("io_uring_setup", "ENOSYS"),
        ("io_uring_setup", "EINVAL"),
        ("io_uring_setup", "ENOMEM"),
        ("io_uring_enter", "EPERM"),
        ("io_uring_enter", "ENOSYS"),
        ("io_uring_enter", "EINVAL"),
    ] {
        let without = |engine, flags: &[&str]| -> (Outcome, Destination) {
            let scene = Scene::serving(Options::default(), &IMAGE);
            let out = Destination::new();
            let destination = out.reference();
            let mut strace = Command::new("strace");
            let inject = format!("inject={call}:error={errno}");
            strace.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
            strace.args(["-e", &inject]);
            let arguments = pulling(engine, &scene.reference, &destination, flags);
            (run(ringpull_under(strace, &arguments)), out)
        };
        let (auto, out) = without("auto", &["-v"]);
        auto.expect_success();
        assert!(auto.stderr.contains("engine: epoll ("), "{call} {errno}: {}", auto.all);
        out.expect(Disk::Image, &IMAGE);
        println!("{call} {errno}: {}", auto.stderr.lines().next().unwrap_or_default());

        let (named, out) = without("uring", &[]);
        let text = "the uring engine cannot be used here: ";
        named.expect_failure(8, "system", text);
        named.expect_failure(8, "system", "leave out --engine, or use --engine epoll");
        out.expect(Disk::Nothing, &IMAGE);
    }
}

// --- what they share -----------------------------------------------------------------------------

fn reference(peer: &ScriptedPeer) -> String {
    format!("{}/demo:latest", peer.address())
}

fn pulling<'a>(
    engine: &'a str,
    reference: &'a str,
    destination: &'a str,
    flags: &[&'a str],
) -> Vec<&'a str> {
    [&["pull", "--engine", engine, reference, destination], flags].concat()
}

/// Starts a pull with the deadlines of most rows.
fn start(engine: &str, reference: &str, destination: &str, flags: &[&str]) -> Running {
    Running::start(in_environment(&pulling(engine, reference, destination, flags)))
}
