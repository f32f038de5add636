//! The embedded registry and the scripted peer, seen through plain sockets: what all other tests
//! rely on. Nothing of ringpull's client is used here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "support/skip.rs"]
mod skip;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringpull::demo::{
    Action, Asked, Auth, Bearer, BlobRedirect, Credentials, Door, Image, Kind, Options, Registry,
    Rule, Script, ScriptedPeer, Step, Then, blackhole,
};
use skip::{Lack, skipped};

/// Longer than any test takes that goes well.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long nothing must come before it counts as silence.
const SILENCE: Duration = Duration::from_millis(150);

/// Sizes of the layers of the image most tests use.
const LAYERS: [u64; 2] = [4096, 100 << 10];

// --- a client of a few lines ---

/// How a connection stands after what was read from it.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Silence,
    Fin,
    Reset,
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A GET with the fields given, each ended by CR LF.
fn get(target: &str, fields: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: demo\r\n{fields}\r\n")
}

#[derive(Debug)]
struct Response {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Response {
    fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// Sends a request and reads an answer that has a length.
fn ask(stream: &mut (impl Read + Write), request: &str) -> Response {
    stream.write_all(request.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let status = head.strip_prefix("HTTP/1.1 ").expect("a head, and nothing before it");
    let status = status[..3].parse().unwrap();
    let mut response = Response { status, head, body: Vec::new() };
    if !request.starts_with("HEAD") {
        let length = response.field("Content-Length").unwrap().parse().unwrap();
        response.body.resize(length, 0);
        stream.read_exact(&mut response.body).unwrap();
    }
    response
}

/// Reads until the end, or until nothing comes for a while.
fn read_all(stream: &mut TcpStream) -> (Vec<u8>, End) {
    stream.set_read_timeout(Some(SILENCE)).unwrap();
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return (bytes, End::Fin),
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return (bytes, End::Silence);
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                return (bytes, End::Reset);
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// A registry with an image at `demo:latest`.
fn start(options: Options) -> (Registry, Image) {
    let image = Image::generate(1, &LAYERS);
    let registry = Registry::start(options).unwrap();
    registry.add("demo", "latest", &image);
    (registry, image)
}

fn start_with_faults(faults: impl Into<Script>) -> (Registry, Image) {
    start(Options { faults: faults.into(), ..Options::default() })
}

/// Path of a layer.
fn layer(image: &Image, index: usize) -> String {
    format!("/v2/demo/blobs/{}", image.layers[index].digest)
}

// --- honest answers ---

#[test]
fn a_registry_serves_what_was_added() {
    let (registry, image) = start(Options::default());
    let content = &image.layers[0].bytes[..];
    let (blob, manifest) = (&layer(&image, 0)[..], &image.manifest.bytes[..]);
    let by_digest = &format!("/v2/demo/manifests/{}", image.manifest.digest)[..];
    let unknown = &format!("/v2/other/blobs/{}", image.config.digest)[..];
    let first_ten = "Range: bytes=0-9\r\n";
    let other_tag = "Range: bytes=0-9\r\nIf-Range: \"other\"\r\n";
    // All on one connection.
    let mut stream = connect(registry.address());
    for (target, fields, status, body) in [
        ("/v2/", "", 200, &b"{}"[..]),
        ("/v2/demo/manifests/latest", "", 200, manifest),
        (by_digest, "", 200, manifest),
        (by_digest, first_ten, 200, manifest),
        (blob, "", 200, content),
        (blob, first_ten, 206, &content[..10]),
        (blob, "Range: bytes=4000-\r\n", 206, &content[4000..]),
        (blob, "Range: bytes=4000-9999\r\n", 206, &content[4000..]),
        (blob, "Range: bytes=-96\r\n", 206, &content[4000..]),
        (blob, other_tag, 200, content),
        (blob, "Range: bytes=4096-\r\n", 416, b""),
        ("/v2/demo/tags/list", "", 200, br#"{"name":"demo","tags":["latest"]}"#),
        ("/v2/demo/manifests/other", "", 404, b""),
        ("/v2/demo/blobs/sha256:0", "", 404, b""),
        (unknown, "", 404, b""),
        ("/token", "", 404, b""),
        ("/elsewhere", "", 404, b""),
    ] {
        let response = ask(&mut stream, &get(target, fields));
        assert_eq!(response.status, status, "{target} {fields}");
        if status < 400 {
            assert_eq!(response.body, body, "{target} {fields}");
        } else {
            let error: serde_json::Value = serde_json::from_slice(&response.body).unwrap();
            assert!(error["errors"][0]["code"].is_string(), "{target}: {error}");
        }
    }
    assert_eq!(registry.connections_accepted(), 1);
}

#[test]
fn heads_say_what_registries_say() {
    let (registry, image) = start(Options::default());
    let mut stream = connect(registry.address());
    let part = ask(&mut stream, &get(&layer(&image, 0), "Range: bytes=10-19\r\n"));
    assert_eq!(part.field("Content-Range"), Some("bytes 10-19/4096"));
    assert_eq!(part.field("Accept-Ranges"), Some("bytes"));
    let digest = image.layers[0].digest.to_string();
    assert_eq!(part.field("Docker-Content-Digest"), Some(&digest[..]));
    let behind = ask(&mut stream, &get(&layer(&image, 0), "Range: bytes=5000-\r\n"));
    assert_eq!(behind.field("Content-Range"), Some("bytes */4096"));
    let target = layer(&image, 0);
    let ranged = format!("HEAD {target} HTTP/1.1\r\nRange: bytes=0-9\r\n\r\n");
    let whole = ask(&mut stream, &ranged);
    assert_eq!((whole.status, whole.field("Content-Length")), (200, Some("4096")));
    let head = "HEAD /v2/demo/manifests/latest HTTP/1.1\r\nHost: demo\r\n\r\n";
    let manifest = ask(&mut stream, head);
    assert_eq!(manifest.field("Content-Type"), Some(&image.manifest.media_type[..]));
    let length = image.manifest.size().to_string();
    assert_eq!(manifest.field("Content-Length"), Some(&length[..]));
    // A body after a HEAD would stand before this answer.
    assert_eq!(ask(&mut stream, &get("/v2/", "Connection: close\r\n")).body, b"{}");
    assert_eq!(read_all(&mut stream), (vec![], End::Fin));
}

#[test]
fn what_is_no_request_is_refused() {
    let (registry, _) = start(Options::default());
    for (request, status) in [
        ("rubbish\r\n\r\n".to_owned(), 400),
        (get("/v2/", &format!("A: {}\r\n", "a".repeat(70 << 10))), 431),
        ("POST /v2/demo/blobs/uploads/ HTTP/1.1\r\nContent-Length: 0\r\n\r\n".to_owned(), 405),
    ] {
        let mut stream = connect(registry.address());
        // The refusal may come before all is sent.
        let _ = stream.write_all(request.as_bytes());
        let (bytes, _) = read_all(&mut stream);
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.starts_with(&format!("HTTP/1.1 {status}")), "{text}");
    }
}

// --- faults ---

/// What a fault on a layer of 4096 bytes does to a request for bytes 100 to 199 of it: how the
/// answer starts, how many bytes follow the head, how the connection stands.
#[track_caller]
fn check_fault(action: Action, start: &str, body_size: usize, end: End) {
    let (registry, image) = start_with_faults(Rule::on(Kind::Blob).layer(0).first(1).then(action));
    let request = get(&layer(&image, 0), "Range: bytes=100-199\r\n");
    let mut stream = connect(registry.address());
    stream.write_all(request.as_bytes()).unwrap();
    let (bytes, got_end) = read_all(&mut stream);
    let head_size = bytes.windows(4).position(|four| four == b"\r\n\r\n").map_or(0, |at| at + 4);
    let head = String::from_utf8_lossy(&bytes[..head_size]);
    assert!(head.contains(start), "{head}");
    assert_eq!((bytes.len() - head_size, got_end), (body_size, end));
    // The rule has had its turn.
    let honest = ask(&mut connect(registry.address()), &request);
    assert_eq!(honest.body, &image.layers[0].bytes[100..200]);
}

#[test]
fn faults_of_time_and_end_are_exact() {
    let slow = Duration::from_millis(1);
    check_fault(Action::None, "206", 100, End::Silence);
    check_fault(Action::StallBeforeHead, "", 0, End::Silence);
    check_fault(Action::StallAfterHead, "Content-Length: 100", 0, End::Silence);
    check_fault(Action::StallAfter(7), "Content-Length: 100", 7, End::Silence);
    check_fault(Action::PauseAfter(7), "Content-Length: 100", 7, End::Silence);
    check_fault(Action::Drip { bytes: 9, every: slow }, "206", 100, End::Silence);
    check_fault(Action::DripAll { bytes: 9, every: slow }, "206", 100, End::Silence);
    check_fault(Action::CloseAfter(0), "Content-Length: 100", 0, End::Fin);
    check_fault(Action::CloseAfter(7), "Content-Length: 100", 7, End::Fin);
    check_fault(Action::CloseWithoutNotifyAfter(7), "Content-Length: 100", 7, End::Fin);
    check_fault(Action::ResetAfter(7), "Content-Length: 100", 7, End::Reset);
    check_fault(Action::ResetAfter(u64::MAX), "Content-Length: 100", 100, End::Reset);
    check_fault(Action::NoKeepAlive, "Connection: close", 100, End::Fin);
    check_fault(Action::UntilClose, "Connection: close", 100, End::Fin);
    check_fault(Action::ExtraAfterBody("extra".into()), "206", 105, End::Silence);
}

#[test]
fn faults_of_content_and_head_are_exact() {
    let whole = LAYERS[0] as usize;
    let chunked = Action::Chunked { size: 60, trailers: vec![] };
    check_fault(Action::Replace("ab".into()), "Content-Length: 2\r\n", 2, End::Silence);
    check_fault(Action::Overlong(5), "Content-Length: 105\r\n", 105, End::Silence);
    check_fault(Action::Short(5), "Content-Length: 95\r\n", 95, End::Silence);
    check_fault(chunked, "Transfer-Encoding: chunked\r\n", 117, End::Silence);
    check_fault(Action::content_encoding("gzip"), "Content-Encoding: gzip\r\n", 100, End::Silence);
    check_fault(Action::IgnoreRange, "HTTP/1.1 200 ", whole, End::Silence);
    check_fault(
        Action::ShiftContentRange { first: 1, last: 2, total: 3 },
        "Content-Range: bytes 101-201/4099\r\n",
        100,
        End::Silence,
    );
    check_fault(Action::status(503), "HTTP/1.1 503 ", 0, End::Silence);
    check_fault(Action::redirect("/x"), "Location: /x\r\n", 0, End::Silence);
    check_fault(Action::raw("HTTP/9\r\n\r\nx", Then::KeepOpen), "HTTP/9", 1, End::Silence);
    check_fault(Action::raw("HTTP/9\r\n\r\nx", Then::Close), "HTTP/9", 1, End::Fin);
    check_fault(Action::raw("HTTP/9\r\n\r\nx", Then::Reset), "HTTP/9", 1, End::Reset);
}

#[test]
fn a_flipped_byte_is_the_byte_of_the_blob() {
    let (registry, image) = start_with_faults(Rule::on(Kind::Blob).then(Action::FlipByte(150)));
    let mut stream = connect(registry.address());
    let honest = &image.layers[0].bytes;
    for (fields, first, last) in
        [("", 0, 4095), ("Range: bytes=100-199\r\n", 100, 199), ("Range: bytes=0-149\r\n", 0, 149)]
    {
        let body = ask(&mut stream, &get(&layer(&image, 0), fields)).body;
        let differing: Vec<usize> =
            (first..=last).filter(|at| body[at - first] != honest[*at]).collect();
        let expected = if (first..=last).contains(&150) { vec![150] } else { vec![] };
        assert_eq!(differing, expected, "{fields}");
    }
}

#[test]
fn a_reset_loses_no_byte_before_it() {
    // Far more than the buffers of both sockets hold, and a reader that is late.
    const SIZE: u64 = 32 << 20;
    const CUT: usize = 20_000_001;
    let image = Image::generate(1, &[SIZE]);
    let rule = Rule::on(Kind::Blob).then(Action::ResetAfter(CUT as u64));
    let registry = Registry::start(Options { faults: rule.into(), ..Options::default() }).unwrap();
    registry.add("demo", "latest", &image);
    let mut stream = connect(registry.address());
    stream.write_all(get(&layer(&image, 0), "").as_bytes()).unwrap();
    std::thread::sleep(SILENCE);
    let (bytes, end) = read_all(&mut stream);
    let body = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    assert_eq!((bytes.len() - body, end), (CUT, End::Reset));
    assert!(bytes[body..] == image.layers[0].bytes[..CUT]);
}

#[test]
fn a_pause_ends_when_the_test_says_go() {
    let (registry, image) = start_with_faults(Rule::on(Kind::Blob).then(Action::PauseAfter(10)));
    let mut stream = connect(registry.address());
    stream.write_all(get(&layer(&image, 0), "").as_bytes()).unwrap();
    assert!(registry.wait_until(PATIENCE, |log| log.iter().any(|line| line.body_sent == 10)));
    assert!(registry.log()[0].ended.is_none());
    registry.go();
    assert!(registry.wait_until(PATIENCE, |log| log[0].ended.is_some()));
    let (bytes, end) = read_all(&mut stream);
    assert!(bytes.ends_with(&image.layers[0].bytes));
    assert_eq!(end, End::Silence);
}

#[test]
fn a_limit_paces_the_body() {
    let (registry, image) = start_with_faults(Rule::on(Kind::Blob).then(Action::Limit(400 << 10)));
    let started = Instant::now();
    let response = ask(&mut connect(registry.address()), &get(&layer(&image, 1), ""));
    let took = started.elapsed();
    assert_eq!(response.body, image.layers[1].bytes);
    // 100 KiB at 400 KiB/s; the first piece comes at once.
    assert!(took >= Duration::from_millis(220) && took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn the_log_tells_what_was_asked_and_answered() {
    let (registry, image) = start_with_faults([
        Rule::on(Kind::Blob).layer(1).first(1).then(Action::StallAfter(1000)),
        Rule::on(Kind::Blob).asked(Asked::Covering(5000)).then(Action::CloseAfter(1)),
    ]);
    let mut stalled = connect(registry.address());
    stalled.write_all(get(&layer(&image, 1), "").as_bytes()).unwrap();
    assert!(registry.wait_until(PATIENCE, |log| log.iter().any(|line| line.body_sent == 1000)));
    assert_eq!(registry.connections(), 1);
    let mut resumed = connect(registry.address());
    resumed
        .write_all(get(&layer(&image, 1), "Range: bytes=1000-\r\nCookie: c\r\n").as_bytes())
        .unwrap();
    assert!(registry.wait_until(PATIENCE, |log| log.len() == 2 && log[1].ended.is_some()));
    let log = registry.log();
    let end = LAYERS[1] - 1;
    assert_eq!(log[0].kind, Kind::Blob);
    assert_eq!((log[0].connection, log[1].connection), (0, 1));
    assert_eq!((log[0].range, log[1].range), (None, Some((1000, end))));
    assert_eq!((log[0].status, log[1].status), (Some(200), Some(206)));
    assert_eq!((log[0].body_sent, log[1].body_sent), (1000, 1));
    assert_eq!((log[0].authorized(), log[1].authorized()), (false, true));
    assert_eq!(log[0].fault, Action::StallAfter(1000));
    assert!(log[0].ended.is_none() && log[0].at <= log[1].at);
    // The stall ends with the client.
    drop(stalled);
    assert!(registry.wait_until(PATIENCE, |log| log[0].ended.is_some()));
    let shown = log[1].to_string();
    let expected = format!("bytes 1000-{end}  206, 1 bytes");
    assert!(shown.contains(&expected), "{shown}");
}

// --- authorization, redirects ---

fn challenge(response: &Response) -> &str {
    response.field("WWW-Authenticate").unwrap()
}

#[test]
fn basic_credentials_are_checked() {
    let auth = Some(Auth::Basic(Credentials::new("user", "pass")));
    let (registry, _) = start(Options { auth, ..Options::default() });
    let mut stream = connect(registry.address());
    let refused = ask(&mut stream, &get("/v2/", ""));
    assert_eq!((refused.status, challenge(&refused)), (401, "Basic realm=\"ringpull-demo\""));
    let wrong = "Authorization: Basic dXNlcjp3cm9uZw==\r\n";
    assert_eq!(ask(&mut stream, &get("/v2/", wrong)).status, 401);
    let right = "authorization: basic dXNlcjpwYXNz\r\n";
    assert_eq!(ask(&mut stream, &get("/v2/", right)).status, 200);
    let kinds: Vec<Kind> = registry.log().iter().map(|line| line.kind).collect();
    assert_eq!(kinds, [Kind::Challenge, Kind::Challenge, Kind::Version]);
}

/// Asks the token service named by a challenge.
fn token(response: &Response, fields: &str) -> Response {
    let text = challenge(response);
    let parameter = |name: &str| {
        let rest = text.split(&format!("{name}=\"")).nth(1).unwrap();
        rest.split('"').next().unwrap().to_owned()
    };
    let realm = url::Url::parse(&parameter("realm")).unwrap();
    let address = realm.socket_addrs(|| None).unwrap()[0];
    let scope = parameter("scope").replace(':', "%3A");
    let target = format!("{}?service={}&scope={scope}", realm.path(), parameter("service"));
    ask(&mut connect(address), &get(&target, fields))
}

/// The field that carries the token.
fn bearer(response: &Response) -> String {
    let token: serde_json::Value = serde_json::from_slice(&response.body).unwrap();
    format!("Authorization: Bearer {}\r\n", token["token"].as_str().unwrap())
}

#[test]
fn tokens_are_given_checked_and_expire() {
    let credentials = Some(Credentials::new("user", "pass"));
    let bearer_auth =
        Bearer { credentials, own_port: true, uses_per_token: Some(2), ..Bearer::default() };
    let auth = Some(Auth::Bearer(bearer_auth));
    let (registry, image) = start(Options { auth, ..Options::default() });
    registry.add("other", "latest", &image);
    let mut stream = connect(registry.address());
    let manifest = "/v2/demo/manifests/latest";
    let refused = ask(&mut stream, &get(manifest, ""));
    assert_eq!(refused.status, 401);
    assert_eq!(token(&refused, "").status, 401, "without credentials");
    let given = bearer(&token(&refused, "Authorization: Basic dXNlcjpwYXNz\r\n"));
    // Another repository is another scope, and a refusal does not use the token up.
    let elsewhere = ask(&mut stream, &get("/v2/other/manifests/latest", &given));
    assert!(challenge(&elsewhere).ends_with("error=\"insufficient_scope\""));
    assert_eq!(ask(&mut stream, &get(manifest, &given)).status, 200);
    assert_eq!(ask(&mut stream, &get(&layer(&image, 0), &given)).status, 200);
    let expired = ask(&mut stream, &get(manifest, &given));
    assert!(challenge(&expired).ends_with("error=\"invalid_token\""));
    let given = bearer(&token(&refused, "Authorization: Basic dXNlcjpwYXNz\r\n"));
    assert_eq!(ask(&mut stream, &get(manifest, &given)).status, 200);
    assert_eq!(registry.log().iter().filter(|line| line.door == Door::Token).count(), 3);
}

#[test]
fn a_realm_can_be_named() {
    let bearer = Bearer { realm: Some("http://169.254.169.254/token".into()), ..Bearer::default() };
    let (registry, _) = start(Options { auth: Some(Auth::Bearer(bearer)), ..Options::default() });
    let refused = ask(&mut connect(registry.address()), &get("/v2/", ""));
    assert!(challenge(&refused).starts_with("Bearer realm=\"http://169.254.169.254/token\","));
}

#[test]
fn the_storage_takes_signed_urls_and_no_credentials() {
    let redirect_blobs = Some(BlobRedirect::Storage);
    let rule = Rule::on(Kind::Storage).layer(0).nth(2).then(Action::status(403));
    let (registry, image) =
        start(Options { redirect_blobs, faults: rule.into(), ..Options::default() });
    let mut stream = connect(registry.address());
    let mut locate = || {
        let response = ask(&mut stream, &get(&layer(&image, 0), "Range: bytes=1-2\r\n"));
        assert_eq!(response.status, 307);
        url::Url::parse(response.field("Location").unwrap()).unwrap()
    };
    let (first, second) = (locate(), locate());
    assert_ne!(first, second, "each URL has its own signature");
    let address = first.socket_addrs(|| None).unwrap()[0];
    assert_ne!(address, registry.address());
    let mut storage = connect(address);
    let signed = &first.as_str()[first.origin().ascii_serialization().len()..];
    let fields = "Range: bytes=1-2\r\n";
    assert_eq!(ask(&mut storage, &get(signed, fields)).body, &image.layers[0].bytes[1..3]);
    assert_eq!(ask(&mut storage, &get(signed, fields)).status, 403, "as scripted");
    assert_eq!(ask(&mut storage, &get(first.path(), fields)).status, 403, "without signature");
    let authorized = get(signed, "Authorization: Bearer canary\r\n");
    assert_eq!(ask(&mut storage, &authorized).status, 400);
}

#[test]
fn blobs_can_be_redirected_to_another_registry() {
    let (other, image) = start(Options::default());
    let redirect_blobs = Some(BlobRedirect::To(other.origin().to_owned()));
    let (registry, _) = start(Options { redirect_blobs, ..Options::default() });
    let response = ask(&mut connect(registry.address()), &get(&layer(&image, 0), ""));
    let location = format!("{}{}", other.origin(), layer(&image, 0));
    assert_eq!(response.field("Location"), Some(&location[..]));
}

// --- the end, and many at once ---

#[test]
fn dropping_a_registry_ends_all_waits() {
    let hour = Duration::from_secs(3600);
    for action in [
        Action::None,
        Action::Delay(hour),
        Action::Delay(Duration::MAX),
        Action::StallBeforeHead,
        Action::StallAfter(10),
        Action::PauseAfter(10),
        Action::Limit(1),
        Action::Drip { bytes: 1, every: hour },
        // Nobody reads: the send blocks, or the reset waits for what is unsent.
        Action::Overlong(64 << 20),
        Action::ResetAfter(u64::MAX),
    ] {
        let image = Image::generate(1, &[16 << 20]);
        let rule = Rule::on(Kind::Blob).then(action.clone());
        let options = Options { faults: rule.into(), ..Options::default() };
        let registry = Registry::start(options).unwrap();
        registry.add("demo", "latest", &image);
        let mut streams: Vec<TcpStream> = (0..3).map(|_| connect(registry.address())).collect();
        for stream in &mut streams {
            stream.write_all(get(&layer(&image, 0), "").as_bytes()).unwrap();
        }
        assert!(registry.wait_until(PATIENCE, |log| log.len() == 3));
        let stopping = Instant::now();
        let address = registry.address();
        drop(registry);
        assert!(stopping.elapsed() < Duration::from_secs(1), "{action:?}");
        assert!(TcpStream::connect(address).is_err(), "{action:?}");
    }
}

#[test]
fn many_connections_are_served_at_once() {
    const COUNT: usize = 1100;
    // Both ends of all connections are in this process.
    let limits = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limits.maximum, ..limits };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    let (registry, image) = start(Options::default());
    let mut streams: Vec<TcpStream> = (0..COUNT).map(|_| connect(registry.address())).collect();
    for round in 0..2 {
        for stream in &mut streams {
            stream.write_all(get(&layer(&image, 0), "").as_bytes()).unwrap();
        }
        for stream in &mut streams {
            let response = ask_sent(stream);
            assert!(response.ends_with(&image.layers[0].bytes), "round {round}");
        }
    }
    assert_eq!(registry.connections(), COUNT);
    assert_eq!(registry.connections_peak(Door::Registry), COUNT);
    assert_eq!(registry.log().len(), 2 * COUNT);
}

/// Reads the answer to a request for the first layer that was sent before.
fn ask_sent(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 8192];
    loop {
        let head = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        if head.is_some_and(|at| bytes.len() - at - 4 >= LAYERS[0] as usize) {
            return bytes;
        }
        let count = stream.read(&mut buffer).unwrap();
        assert!(count > 0);
        bytes.extend_from_slice(&buffer[..count]);
    }
}

// --- TLS ---

type TlsStream = rustls::StreamOwned<rustls::ClientConnection, TcpStream>;

struct Tls {
    server: Arc<rustls::ServerConfig>,
    client: Arc<rustls::ClientConfig>,
}

impl Tls {
    fn new() -> Tls {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = made.cert.der().clone();
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der());
        let server = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key.unwrap())
            .unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate).unwrap();
        let client =
            rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Tls { server: Arc::new(server), client: Arc::new(client) }
    }

    fn connect(&self, address: SocketAddr) -> TlsStream {
        let name = "127.0.0.1".try_into().unwrap();
        let session = rustls::ClientConnection::new(Arc::clone(&self.client), name).unwrap();
        rustls::StreamOwned::new(session, connect(address))
    }
}

#[test]
fn tls_is_served_and_truncated_on_request() {
    let tls = Tls::new();
    let options = Options { tls: Some(Arc::clone(&tls.server)), ..Options::default() };
    let (registry, image) = start(options);
    assert!(registry.origin().starts_with("https://127.0.0.1:"));
    let request = get(&layer(&image, 1), "");
    let mut stream = tls.connect(registry.address());
    for _ in 0..2 {
        assert_eq!(ask(&mut stream, &request).body, image.layers[1].bytes);
    }
    let drips = Action::DripAll { bytes: 1, every: Duration::ZERO };
    registry.set_faults(Rule::on(Kind::Version).then(drips).into());
    assert_eq!(ask(&mut stream, &get("/v2/", "")).body, b"{}");
    for (action, clean) in [
        (Action::NoKeepAlive, true),
        (Action::CloseAfter(1000), true),
        (Action::CloseWithoutNotifyAfter(1000), false),
        (Action::CloseWithoutNotifyAfter(u64::MAX), false),
    ] {
        registry.set_faults(Rule::on(Kind::Blob).then(action.clone()).into());
        let mut stream = tls.connect(registry.address());
        stream.write_all(request.as_bytes()).unwrap();
        let mut bytes = Vec::new();
        let end = stream.read_to_end(&mut bytes);
        match end {
            Ok(_) => assert!(clean, "{action:?}"),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{action:?}");
                assert!(!clean, "{action:?}");
            }
        }
    }
}

#[test]
fn an_unfinished_handshake_does_not_hold_up_the_end() {
    let tls = Tls::new();
    let (registry, _) = start(Options { tls: Some(tls.server), ..Options::default() });
    let mut stream = connect(registry.address());
    stream.write_all(&[22, 3, 1]).unwrap();
    let stopping = Instant::now();
    drop(registry);
    assert!(stopping.elapsed() < Duration::from_secs(1));
}

// --- peers ---

/// What a client reads that sends nothing, and how the connection stands then.
#[track_caller]
fn check_steps(steps: Vec<Step>, expected: &str, end: End) {
    let peer = ScriptedPeer::start(vec![steps]).unwrap();
    let (bytes, got_end) = read_all(&mut connect(peer.address()));
    assert_eq!((&bytes[..], got_end), (expected.as_bytes(), end));
}

#[test]
fn a_peer_takes_its_steps() {
    let send = |text: &'static str| Step::Send(text.into());
    let drip = Step::Drip { bytes: "drip".into(), size: 3, every: Duration::from_millis(20) };
    check_steps(vec![], "", End::Fin);
    check_steps(vec![send("a"), send("b"), Step::Close, send("c")], "ab", End::Fin);
    check_steps(vec![send("a"), Step::CloseWithoutNotify], "a", End::Fin);
    check_steps(vec![send("a"), Step::Reset], "a", End::Reset);
    check_steps(vec![send("a"), Step::Hold, send("b")], "a", End::Silence);
    check_steps(vec![send("a"), Step::Pause, send("b")], "a", End::Silence);
    check_steps(vec![send("a"), Step::Receive(1), send("b")], "a", End::Silence);
    check_steps(vec![Step::Wait(Duration::from_millis(20)), send("a")], "a", End::Fin);
    check_steps(vec![drip, Step::Hold], "drip", End::Silence);
    check_steps(vec![send("a"), Step::ShutdownWrite, Step::Hold], "a", End::Fin);
    check_steps(vec![Step::ShutdownWrite, Step::Wait(SILENCE), Step::Reset], "", End::Fin);
}

#[test]
fn a_close_is_no_reset_though_bytes_lie_unread() {
    // More than the buffers hold: the end of it is unsent when the connection is closed.
    const SIZE: usize = 16 << 20;
    for close in [Step::Close, Step::CloseWithoutNotify] {
        let steps = vec![Step::Pause, Step::Send(vec![b'a'; SIZE].into()), close];
        let peer = ScriptedPeer::start(vec![steps]).unwrap();
        let mut stream = connect(peer.address());
        stream.write_all(b"unread").unwrap();
        peer.go();
        let mut bytes = vec![0; SIZE - (512 << 10)];
        stream.read_exact(&mut bytes).unwrap();
        assert!(peer.wait_until(PATIENCE, |seen| seen[0].ended));
        let (rest, end) = read_all(&mut stream);
        assert_eq!((bytes.len() + rest.len(), end), (SIZE, End::Fin));
    }
}

#[test]
fn each_pause_takes_a_go_of_its_own() {
    let send = |text: &'static str| Step::Send(text.into());
    let steps = vec![Step::Pause, send("a"), Step::Pause, send("b"), Step::Hold];
    let peer = ScriptedPeer::start(vec![steps]).unwrap();
    let mut stream = connect(peer.address());
    for expected in ["a", "b"] {
        peer.go();
        assert_eq!(read_all(&mut stream), (expected.as_bytes().to_vec(), End::Silence));
    }
}

#[test]
fn a_peer_sees_what_it_receives_and_when_it_ends() {
    let echo = vec![Step::Receive(3), Step::Pause, Step::Send("answer".into()), Step::Hold];
    let peer = ScriptedPeer::start(vec![echo, vec![Step::Reset]]).unwrap();
    let mut first = connect(peer.address());
    first.write_all(b"ab").unwrap();
    assert!(peer.wait_until(PATIENCE, |seen| seen.first().is_some_and(|it| it.received == b"ab")));
    first.write_all(b"c").unwrap();
    assert!(peer.wait_until(PATIENCE, |seen| seen[0].received == b"abc"));
    peer.go();
    assert_eq!(read_all(&mut first), (b"answer".to_vec(), End::Silence));
    for _ in 0..2 {
        assert_eq!(read_all(&mut connect(peer.address())), (vec![], End::Reset));
    }
    assert!(!peer.seen()[0].ended);
    drop(first);
    assert!(peer.wait_until(PATIENCE, |seen| seen.iter().all(|it| it.ended)));
    assert_eq!(peer.seen().len(), 3);
}

#[test]
fn a_peer_speaks_tls() {
    let tls = Tls::new();
    let steps = vec![Step::Receive(4), Step::Send("pong".into()), Step::CloseWithoutNotify];
    let peer = ScriptedPeer::start_tls(vec![steps], Arc::clone(&tls.server)).unwrap();
    let mut stream = tls.connect(peer.address());
    stream.write_all(b"ping").unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"pong");
    let end = stream.read(&mut answer).unwrap_err();
    assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(peer.seen()[0].received, b"ping");
}

#[test]
fn dropping_a_peer_ends_all_waits() {
    let hour = Duration::from_secs(3600);
    for step in [Step::Hold, Step::Pause, Step::Wait(hour), Step::Receive(1)] {
        let peer = ScriptedPeer::start(vec![vec![step]]).unwrap();
        let _stream = connect(peer.address());
        assert!(peer.wait_until(PATIENCE, |seen| seen.len() == 1));
        let stopping = Instant::now();
        drop(peer);
        assert!(stopping.elapsed() < Duration::from_secs(1));
    }
}

#[test]
fn a_connect_to_a_blackhole_hangs() {
    let hole = blackhole().unwrap();
    for _ in 0..3 {
        let error = TcpStream::connect_timeout(&hole.address, SILENCE).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}

// --- another client ---

#[test]
fn skopeo_copies_and_inspects_the_image() {
    if Command::new("skopeo").arg("--version").stdout(Stdio::null()).status().is_err() {
        return skipped(Lack::Program, "skopeo copies from the demo registry: no skopeo on PATH");
    }
    let bearer = Bearer::default();
    let options = Options {
        auth: Some(Auth::Bearer(bearer)),
        redirect_blobs: Some(BlobRedirect::Storage),
        ..Options::default()
    };
    let (registry, image) = start(options);
    registry.add("demo", "docker", &Image::docker_schema2(2, &LAYERS));
    let directory = tempfile::tempdir().unwrap();
    for tag in ["latest", "docker"] {
        let source = format!("docker://{}", registry.reference("demo", tag));
        let destination = format!("oci:{}:{tag}", directory.path().display());
        skopeo(&["copy", "--src-tls-verify=false", &source, &destination]);
    }
    let source = format!("docker://{}", registry.reference("demo", "latest"));
    let inspected = skopeo(&["inspect", "--tls-verify=false", &source]);
    let inspected: serde_json::Value = serde_json::from_slice(&inspected).unwrap();
    assert_eq!(inspected["Digest"], image.manifest.digest.to_string());
    assert_eq!(inspected["RepoTags"], serde_json::json!(["docker", "latest"]));
    assert_eq!(inspected["Layers"][1], image.layers[1].digest.to_string());
}

/// Runs skopeo; returns its output.
fn skopeo(arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("skopeo").arg("--insecure-policy").args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}
