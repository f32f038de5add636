//! Rows about bytes and connections: silence, ends, framing, ranges, wrong content.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use ringpull::demo::{
    Action, Asked, Auth, Bearer, Blob, BlobRedirect, Format, Image, Kind, Options, Platform,
    RequestLine, Rule, Script, ScriptedPeer, Step, Then, Turn, Which, blackhole,
};

use crate::harness::Disk::{Blobs, Nothing};
use crate::harness::{
    Certificate, IMAGE, LAYER_SIZE, Row, Scene, Tls, faults, for_blob, layer, layer_once, manifest,
    row, row_of, tls_row,
};
use crate::support;
use crate::support::process::slack;

// --- getting there -------------------------------------------------------------------------------

pub fn connecting() -> Vec<Row> {
    vec![
        row_of("1 a name that does not exist", || {
            Scene::at("registry.invalid/demo:latest".into(), ())
        })
        .fails(5, "resolve", "registry.invalid cannot be resolved", Nothing),
        row_of("3 nobody listens", || {
            // Bound, so that nobody else gets the port, and not listening.
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
            let socket = socket.unwrap();
            socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
            let address = socket.local_addr().unwrap().as_socket().unwrap();
            Scene::at(format!("{address}/demo:latest"), socket)
        })
        .fails(5, "connect", "Connection refused", Nothing)
        .fails(5, "connect", "attempt 2 of 2", Nothing),
        row_of("4 the connection is not answered", || {
            let hole = blackhole().unwrap();
            Scene::at(format!("{}/demo:latest", hole.address), hole)
        })
        .flags(&["--retries", "0", "--connect-timeout", "500ms"])
        .fails(5, "connect-timeout", "no answer within 500 ms while connecting", Nothing)
        .after(500),
        row(
            "6 a kept connection is reset instead of an answer",
            faults([
                // One worker asks for layer 0, layer 1 and the config, in this order of their sizes.
                Rule::on(Kind::Blob).layer(1).first(1).then(Action::raw("", Then::Reset)),
            ]),
        )
        .flags(&["--retries", "0"])
        .asked(Kind::Blob, 4),
        row(
            "6 a kept connection is closed instead of an answer",
            faults([Rule::on(Kind::Blob).layer(1).first(1).then(Action::raw("", Then::Close))]),
        )
        .flags(&["--retries", "0"])
        .asked(Kind::Blob, 4),
        row("7 a new connection is closed instead of an answer", {
            manifest(Action::raw("", Then::Close))
        })
        .fails(5, "empty-response", "closed before the first byte of the answer", Nothing)
        .asked(Kind::Manifest, 2),
        row("7 a new connection is reset instead of an answer", {
            manifest(Action::raw("", Then::Reset))
        })
        .fails(5, "empty-response", "attempt 2 of 2", Nothing)
        .asked(Kind::Manifest, 2),
        row("7 once", layer_once(Action::raw("", Then::Close))).starts(&[0, 0]),
    ]
}

// --- silence -------------------------------------------------------------------------------------

pub fn silence() -> Vec<Row> {
    const NO_HEAD: &str = "no bytes for 1 s while waiting for the response";
    let slow = |bytes| Action::DripAll { bytes, every: Duration::from_millis(100) };
    let rows = vec![
        row("8 no head of a manifest", manifest(Action::StallBeforeHead))
            .flags(&["--retries", "0"])
            .fails(5, "recv-timeout", NO_HEAD, Nothing)
            .after(1_000),
        row("8 no head of a manifest, twice", manifest(Action::StallBeforeHead))
            .fails(5, "recv-timeout", "attempt 2 of 2", Nothing)
            .asked(Kind::Manifest, 2),
        row("8 no head of a layer", layer(Action::StallBeforeHead))
            .fails(5, "recv-timeout", NO_HEAD, Blobs)
            .starts(&[0, 0]),
        row("8 no head of a layer, once", layer_once(Action::StallBeforeHead)).starts(&[0, 0]),
        row("8 half a head", manifest(Action::raw("HTTP/1.1 200 OK\r\nContent-", Then::Stall)))
            .flags(&["--retries", "0"])
            .fails(5, "recv-timeout", "no bytes for 1 s", Nothing),
        row("9 a head that drips", manifest(slow(1)))
            .flags(&["--retries", "0"])
            .fails(5, "head-timeout", "the response head was not whole within 2 s", Nothing)
            .after(2_000),
        row("9 interim responses that drip", {
            let interim = "HTTP/1.1 102 \r\n\r\n".repeat(4);
            manifest(Action::raw(interim, Then::Stall))
        })
        .flags(&["--retries", "0"])
        .fails(5, "recv-timeout", NO_HEAD, Nothing),
        row("10 silence behind the head", layer(Action::StallAfterHead))
            .fails(5, "recv-timeout", "while receiving the body (0.0 of 512.0 KiB)", Blobs)
            .starts(&[0, 0]),
        row("10 silence amid a layer", layer_once(Action::StallAfter(300_000)))
            .starts(&[0, 300_000]),
        row("10 silence before the last byte", layer_once(Action::StallAfter(LAYER_SIZE - 1)))
            .starts(&[0, LAYER_SIZE - 1]),
        row("10 silence amid a manifest", manifest(Action::StallAfter(100)))
            .flags(&["--retries", "0"])
            .fails(5, "recv-timeout", "no bytes for 1 s while receiving the body", Nothing)
            .after(1_000),
        row(
            "10 silence each time, a little further on",
            faults([Rule::on(Kind::Blob).layer(0).first(3).then(Action::StallAfter(100_000))]),
        )
        .flags(&["--retries", "3"])
        .starts(&[0, 100_000, 200_000, 300_000]),
    ];
    let slow = Action::Drip { bytes: 1 << 10, every: Duration::from_millis(400) };
    let mut rows: Vec<Row> = rows.into_iter().map(Row::impatient).collect();
    rows.push(
        // Eight pieces take longer than one may.
        row("10 a slow body is no silence", faults([Rule::on(Kind::Blob).layer(1).then(slow)]))
            .flags(&["--retries", "0", "--recv-timeout", "2s"])
            .asked(Kind::Blob, 3),
    );
    rows
}

// --- what drips ---------------------------------------------------------------------------------

/// Nothing of this is silent for as long as a receive may be.
pub fn trickles() -> Vec<Row> {
    const TICK: Duration = Duration::from_millis(50);
    let drip = || Action::Drip { bytes: 1, every: TICK };
    let blanks = |head: &str| Action::raw(head.to_owned(), Then::Blanks(TICK));
    let answer = |fields: &str| blanks(&format!("HTTP/1.1 {fields}\r\n\r\n"));
    const NOT_WHOLE: &str = "the document was not whole within 1 s";
    const MANIFEST: &str = "Content-Type: application/vnd.oci.image.manifest.v1+json";
    let bearer = |rules: Script| Options {
        auth: Some(Auth::Bearer(Bearer::default())),
        faults: rules,
        ..Options::default()
    };
    let mut rows = Vec::new();
    for (what, action) in [
        ("a manifest", drip()),
        (
            "a manifest behind blanks",
            answer(&format!("200 \r\n{MANIFEST}\r\nContent-Length: 60000")),
        ),
        (
            "the extension of a chunk of a manifest",
            blanks(&format!(
                "HTTP/1.1 200 \r\n{MANIFEST}\r\nTransfer-Encoding: chunked\r\n\r\n400;x="
            )),
        ),
        (
            "the trailer of a manifest",
            blanks(&format!(
                "HTTP/1.1 200 \r\n{MANIFEST}\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{{\r\n0\r\nX: "
            )),
        ),
    ] {
        rows.push(
            row(format!("81 {what} drips"), manifest(action))
                .flags(&["--retries", "0", "--document-timeout", "1s"])
                .fails(5, "too-slow", NOT_WHOLE, Nothing)
                .after(1_000),
        );
    }
    // The text is waited for a moment, and the status is what counts.
    for (code, exit, class) in [
        (401, 4, "auth"),
        (403, 4, "auth"),
        (404, 3, "not-found"),
        (416, 6, "http-status"),
        (429, 5, "rate-limited"),
        (503, 5, "http-5xx"),
    ] {
        let challenge = if code == 401 { "WWW-Authenticate: Negotiate\r\n" } else { "" };
        let action = answer(&format!("{code} \r\n{challenge}Content-Length: 60000"));
        let row = row(format!("81 the body of a {code} drips"), manifest(action))
            .flags(&["--retries", "0"]);
        rows.push(match code {
            401 => {
                row.fails(exit, class, "only Bearer and Basic are supported", Nothing).after(100)
            }
            _ => row.fails(exit, class, &format!("(status {code})"), Nothing).after(2_000),
        });
    }
    rows.extend([
        row("81 a manifest drips, twice", manifest(drip()))
            .flags(&["--document-timeout", "500ms"])
            .fails(5, "too-slow", "not whole within 500 ms, attempt 2 of 2", Nothing)
            .asked(Kind::Manifest, 2),
        row("81 a manifest drips, once", {
            faults([Rule::on(Kind::Manifest).first(1).then(drip())])
        })
        .flags(&["--document-timeout", "500ms"])
        .asked(Kind::Manifest, 2),
        row("81 a token drips", move || bearer(Rule::on(Kind::Token).then(drip()).into()))
            .flags(&["--retries", "0", "--document-timeout", "1s"])
            .fails(5, "too-slow", "the token service http://127.0.0.1:", Nothing)
            .says(NOT_WHOLE),
        row("81 the refusal of a token drips", move || {
            let refusal =
                Action::raw("HTTP/1.1 403 \r\nContent-Length: 60000\r\n\r\n", Then::Blanks(TICK));
            bearer(Rule::on(Kind::Token).then(refusal).into())
        })
        .fails(4, "auth", "the token service refused access (status 403)", Nothing),
        // 40 KB: longer than the deadline, at a speed that is borne.
        row_of("81 a slow manifest is borne", || {
            let layers = (0..200).map(|nth| Bytes::from(format!("{nth}"))).collect();
            let image = Image::of_layers(Format::Oci, Platform::LINUX_AMD64, layers);
            let slow = Action::Drip { bytes: 4 << 10, every: Duration::from_millis(150) };
            let faults = Rule::on(Kind::Manifest).then(slow).into();
            Scene::serving(Options { faults, ..Options::default() }, &image)
        })
        .flags(&["--retries", "0", "--document-timeout", "500ms"])
        .asked(Kind::Manifest, 1),
    ]);
    rows.extend(needless_bodies());
    rows
}

/// Bodies of answers whose heads have said all.
fn needless_bodies() -> Vec<Row> {
    let announced = |fields: &str, then| {
        Action::raw(format!("HTTP/1.1 {fields}\r\nContent-Length: 1000\r\n\r\n"), then)
    };
    // The second request came soon after the first, over another connection.
    let went_on = |log: &[RequestLine], kind: Kind| {
        let first = log.iter().position(|line| line.fault != Action::None).unwrap();
        let next = log[first..].iter().find(|line| line.kind == kind && line.fault == Action::None);
        let (first, next) = (&log[first], next.unwrap());
        let took = next.at - first.at;
        assert!(took < Duration::from_millis(100) + slack(), "went on after {took:?}");
        assert_ne!(first.connection, next.connection, "its connection is closed");
    };
    let mut rows = Vec::new();
    for (what, then) in
        [("never comes", Then::Stall), ("drips", Then::Blanks(Duration::from_millis(50)))]
    {
        let target = format!("/v2/demo/blobs/{}?again", IMAGE.layers[0].digest);
        let redirect = announced(&format!("307 \r\nLocation: {target}"), then);
        rows.push(
            row(format!("82 the body of a redirect {what}"), layer_once(redirect))
                .flags(&["--retries", "0"])
                .log(move |log| went_on(log, Kind::Blob)),
        );
        rows.push(
            row_of(format!("82 the body of a 401 {what}"), move || {
                let auth = Some(Auth::Bearer(Bearer::default()));
                let scene = Scene::serving(Options { auth, ..Options::default() }, &IMAGE);
                let registry = scene.registry.as_ref().unwrap();
                let realm = format!("Bearer realm=\"{}/token\"", registry.origin());
                let challenge = announced(&format!("401 \r\nWWW-Authenticate: {realm}"), then);
                registry.set_faults(Rule::on(Kind::Challenge).first(1).then(challenge).into());
                scene
            })
            .flags(&["--retries", "0"])
            .log(move |log| went_on(log, Kind::Token)),
        );
        rows.push(
            row(format!("82 the body of an expired URL's refusal {what}"), move || Options {
                redirect_blobs: Some(BlobRedirect::Storage),
                faults: Rule::on(Kind::Storage)
                    .layer(0)
                    .first(1)
                    .then(announced("403 ", then))
                    .into(),
                ..Options::default()
            })
            .flags(&["--retries", "0"])
            .log(move |log| went_on(log, Kind::Blob)),
        );
    }
    rows
}

// --- connections that end ------------------------------------------------------------------------

pub fn endings() -> Vec<Row> {
    vec![
        row("12 a reset amid a layer", layer_once(Action::ResetAfter(300_000)))
            .starts(&[0, 300_000]),
        row("12 a reset each time, after some bytes", layer(Action::ResetAfter(40_000)))
            .starts(&EACH_40_000),
        row("12 a reset each time, before the first byte", layer(Action::ResetAfter(0)))
            .fails(5, "truncated", "(0.0 of 512.0 KiB), attempt 2 of 2", Blobs)
            .starts(&[0, 0]),
        row("13 the end amid a layer", layer_once(Action::CloseAfter(300_000)))
            .starts(&[0, 300_000]),
        row("13 the end before the last byte", layer_once(Action::CloseAfter(LAYER_SIZE - 1)))
            .starts(&[0, LAYER_SIZE - 1]),
        row("13 the end each time, after some bytes", layer(Action::CloseAfter(40_000)))
            .starts(&EACH_40_000),
        row("13 the end each time, before the first byte", layer(Action::CloseAfter(0)))
            .fails(5, "truncated", "the connection was closed within the body", Blobs)
            .starts(&[0, 0]),
        row("13 the end amid a manifest", manifest(Action::CloseAfter(100)))
            .fails(5, "truncated", "the connection was closed within the body", Nothing)
            .asked(Kind::Manifest, 2),
        row("13 the end amid a head", manifest(Action::raw("HTTP/1.1 200 OK\r\nCon", Then::Close)))
            .fails(5, "truncated", "the connection was closed within the response head", Nothing),
        tls_row("14 the end of TLS without close_notify, once", {
            layer_once(Action::CloseWithoutNotifyAfter(300_000))
        })
        .starts(&[0, 300_000]),
        tls_row("14 the end of TLS without close_notify, each time", {
            layer(Action::CloseWithoutNotifyAfter(0))
        })
        .fails(5, "truncated", "closed within the body", Blobs)
        .starts(&[0, 0]),
        tls_row("14 the end of TLS with close_notify, once", {
            layer_once(Action::CloseAfter(300_000))
        })
        .starts(&[0, 300_000]),
        tls_row("15 no close_notify behind a whole layer", {
            layer(Action::CloseWithoutNotifyAfter(u64::MAX))
        })
        .flags(&["--retries", "0"])
        .starts(&[0]),
        row_of("15 no close_notify behind a body until close", || until_close(LAYER_SIZE as usize))
            .flags(&["--retries", "0"]),
        row_of("15 no close_notify, and a body until close that is short", || until_close(1_000))
            .flags(&["--retries", "0"])
            .fails(5, "truncated", "the connection was not closed in order", Blobs),
        row("16 a body until close", layer(Action::UntilClose)).starts(&[0]),
        tls_row("16 a body until close over TLS", layer(Action::UntilClose)).starts(&[0]),
        row("16 a manifest until close", manifest(Action::UntilClose)).asked(Kind::Manifest, 1),
        row("28 bytes behind a layer", {
            let extra = [head(&length(&IMAGE.layers[1])), IMAGE.layers[1].bytes.to_vec()].concat();
            let extra = [&extra[..], b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"].concat();
            faults([Rule::on(Kind::Blob).layer(1).then(Action::raw(extra, Then::KeepOpen))])
        })
        .flags(&["--retries", "0"])
        .log(|log| {
            let connection = |blob| for_blob(log, blob).next().unwrap().connection;
            assert_eq!(connection(&IMAGE.layers[0]), connection(&IMAGE.layers[1]));
            assert_ne!(connection(&IMAGE.layers[1]), connection(&IMAGE.config));
        }),
        row("28 no keep-alive", faults([Rule::on(Kind::Any).then(Action::NoKeepAlive)]))
            .asked(Kind::Blob, 3),
    ]
}

/// A registry over TLS that sends the first `count` bytes of layer 0 until close, and no
/// close_notify.
fn until_close(count: usize) -> Scene {
    let tls = Tls::new(Certificate::GOOD);
    let answer = |fields: &str, body: &[u8], end| {
        let closing = format!("{fields}Connection: close\r\n");
        vec![Step::Receive(1), Step::Send([head(&closing), body.to_vec()].concat().into()), end]
    };
    let manifest =
        format!("{}Content-Type: {}\r\n", length(&IMAGE.manifest), IMAGE.manifest.media_type);
    let layer = &IMAGE.layers[0].bytes[..count];
    let whole = |blob: &Blob| answer(&length(blob), &blob.bytes, Step::Close);
    let peer = ScriptedPeer::start_tls(
        vec![
            answer(&manifest, &IMAGE.manifest.bytes, Step::Close),
            answer("", layer, Step::CloseWithoutNotify),
            whole(&IMAGE.layers[1]),
            whole(&IMAGE.config),
        ],
        tls.server.clone(),
    )
    .unwrap();
    let reference = format!("{}/demo:latest", peer.address());
    let ca_file = tls.ca_file.clone();
    Scene::at(reference, peer).with(&["--ca-file", support::tools::text(&ca_file)]).keep(tls)
}

fn head(fields: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\n{fields}\r\n").into_bytes()
}

fn length(blob: &Blob) -> String {
    format!("Content-Length: {}\r\n", blob.size())
}

// --- framing -------------------------------------------------------------------------------------

pub fn framing() -> Vec<Row> {
    let mut rows = Vec::new();
    let body = &IMAGE.layers[0].bytes;
    let refused = |name: String, bytes: Vec<u8>, text: &str| {
        row(name, layer(Action::raw(bytes, Then::Close)))
            .flags(&["--retries", "3"])
            .fails(6, "framing", text, Blobs)
            // Once more from the start, for it may have been an accident; then never again.
            .starts(&[0, 0])
    };
    let size = LAYER_SIZE;
    let chunks = chunked(body, 64 << 10);
    for (name, fields, body, text) in [
        (
            "19 length and chunks",
            format!("Content-Length: {}\r\nTransfer-Encoding: chunked\r\n", chunks.len()),
            &chunks,
            "both Transfer-Encoding and Content-Length",
        ),
        (
            "20 two lengths",
            format!("Content-Length: {size}\r\nContent-Length: 5\r\n"),
            &body.to_vec(),
            "Content-Length says both",
        ),
        (
            "20 a list of lengths",
            format!("Content-Length: {size}, 6\r\n"),
            &body.to_vec(),
            "Content-Length",
        ),
        (
            "20 +length",
            format!("Content-Length: +{size}\r\n"),
            &body.to_vec(),
            "is not a number of bytes",
        ),
        ("20 -length", "Content-Length: -1\r\n".into(), &body.to_vec(), "is not a number of bytes"),
        (
            "20 0xlength",
            format!("Content-Length: 0x{size:x}\r\n"),
            &body.to_vec(),
            "is not a number of bytes",
        ),
        (
            "20 2^64 and more",
            format!("Content-Length: {}\r\n", (1 << 64) + u128::from(size)),
            &body.to_vec(),
            "is not a number of bytes",
        ),
        (
            "20 an empty length",
            "Content-Length: \r\n".into(),
            &body.to_vec(),
            "is not a number of bytes",
        ),
        (
            "21 gzip, chunked",
            "Transfer-Encoding: gzip, chunked\r\n".into(),
            &chunks,
            "Transfer-Encoding `gzip, chunked`",
        ),
        (
            "21 chunked, identity",
            "Transfer-Encoding: chunked, identity\r\n".into(),
            &chunks,
            "Transfer-Encoding",
        ),
        (
            "21 chunked twice",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n".into(),
            &chunks,
            "Transfer-Encoding",
        ),
        (
            "21 an unknown coding",
            "Transfer-Encoding: xchunked\r\n".into(),
            &chunks,
            "Transfer-Encoding",
        ),
        (
            "27 NUL in a head",
            format!("X: a\0b\r\nContent-Length: {size}\r\n"),
            &body.to_vec(),
            "control character 0x00",
        ),
        (
            "27 a bare CR in a head",
            format!("X: a\rb\r\nContent-Length: {size}\r\n"),
            &body.to_vec(),
            "response head",
        ),
        (
            "27 a folded line",
            format!("X: a\r\n b\r\nContent-Length: {size}\r\n"),
            &body.to_vec(),
            "begins with white space",
        ),
        (
            "27 a bare LF in a head",
            format!("X: a\nContent-Length: {size}\r\n"),
            &body.to_vec(),
            "does not end in CR LF",
        ),
    ] {
        rows.push(refused(name.into(), [head(&fields), body.clone()].concat(), text));
    }
    let after_chunked = |bytes: &[u8]| [&head("Transfer-Encoding: chunked\r\n"), bytes].concat();
    for (name, chunks, text) in [
        ("22 a size that is not hexadecimal", &b"10g\r\n"[..], "is no part of a chunk size"),
        (
            "22 a size that overflows",
            b"fffffffffffffffff\r\n",
            "a chunk size has more than 16 digits",
        ),
        ("22 a size with a sign", b"+5\r\nabcde\r\n0\r\n\r\n", "is no part of a chunk size"),
        ("22 no CR LF behind a chunk", b"5\r\nabcdeX\r\n0\r\n\r\n", "instead of CR LF"),
        ("22 LF alone behind a size", b"5\nabcde\r\n0\r\n\r\n", "does not end in CR LF"),
    ] {
        let bytes = after_chunked(chunks);
        rows.push(
            row(name, layer(Action::raw(bytes, Then::Close)))
                .flags(&["--retries", "3"])
                .fails(6, "framing", text, Blobs)
                .starts(&[0, 0]),
        );
    }
    for (name, chunks, text) in [
        (
            "23 extensions",
            format!("5;{}\r\n", "x".repeat(17 << 10)),
            "the chunk extensions are more than 16 KiB larger than the payload",
        ),
        (
            "23 many extensions",
            format!("1;{}\r\na\r\n", "x".repeat(1 << 10)).repeat(17),
            "the chunk extensions are more than 16 KiB larger than the payload",
        ),
        (
            "23 a trailer",
            format!("0\r\n{}", format!("X: {}\r\n", "x".repeat(1 << 10)).repeat(17)),
            "the trailer section is larger than 16 KiB",
        ),
    ] {
        let bytes = after_chunked(chunks.as_bytes());
        rows.push(
            row(name, layer(Action::raw(bytes, Then::Close)))
                .fails(6, "limit", text, Blobs)
                .starts(&[0]),
        );
    }
    let cut = |count: usize| layer_once(Action::raw(after_chunked(&chunks[..count]), Then::Close));
    // 64 KiB chunks, each after 7 bytes of `10000\r\n` and before 2 of CR LF.
    rows.push(row("24 the end within a chunk", cut(7 + (60 << 10))).starts(&[0, 60 << 10]));
    rows.push(row("24 the end between chunks", cut(9 + (64 << 10))).starts(&[0, 64 << 10]));
    rows.push(row("24 the end before the last chunk", cut(chunks.len() - 5)));
    rows.push(
        row("24 chunks are as good as a length", {
            let trailers = vec![("X-Checksum".into(), "1".into())];
            layer(Action::Chunked { size: 10_000, trailers })
        })
        .starts(&[0]),
    );
    rows.push(
        row("22 blanks behind each size", {
            let blank = |chunk: &[u8]| {
                [format!("{:x} \t \r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat()
            };
            let chunks: Vec<u8> =
                body.chunks(9_000).flat_map(blank).chain(*b"0  \r\n\r\n").collect();
            layer(Action::raw(after_chunked(&chunks), Then::KeepOpen))
        })
        .starts(&[0]),
    );
    rows.push(
        row("23 a signature of each chunk of a large body", {
            let signed = |chunk: &[u8]| {
                let signature = "f".repeat(64);
                let line = format!("{:x};chunk-signature={signature}\r\n", chunk.len());
                [line.as_bytes(), chunk, b"\r\n"].concat()
            };
            // 256 chunks with 81 bytes of extension each: 20 KiB.
            let chunks: Vec<u8> =
                body.chunks(2 << 10).flat_map(signed).chain(*b"0\r\n\r\n").collect();
            layer(Action::raw(after_chunked(&chunks), Then::KeepOpen))
        })
        .starts(&[0]),
    );
    rows.push(
        row("27 control characters in a value and a reason steer nothing", {
            let head = format!(
                "HTTP/1.1 200 O\x08K\r\nX: a\x01b\x7f\x1b[2J\r\nY: \x0c\r\n{}\r\n",
                length(&IMAGE.layers[0])
            );
            layer(Action::raw([head.as_bytes(), body].concat(), Then::KeepOpen))
        })
        .starts(&[0]),
    );
    rows.extend(heads());
    rows
}

/// What comes instead of a head, or too much of it.
fn heads() -> Vec<Row> {
    let answer = [
        head(&format!(
            "{}Content-Type: {}\r\n",
            length(&IMAGE.manifest),
            IMAGE.manifest.media_type
        )),
        IMAGE.manifest.bytes.to_vec(),
    ]
    .concat();
    let answered_after = |bytes: &[u8]| [bytes, &answer].concat();
    let field = |size| format!("X: {}\r\n", "x".repeat(size));
    let mut rows = Vec::new();
    for (name, bytes, class, text) in [
        (
            "25 17 interim responses",
            answered_after("HTTP/1.1 103 \r\n\r\n".repeat(17).as_bytes()),
            "limit",
            "more than 16 interim responses",
        ),
        (
            "25 64 KiB of interim responses",
            answered_after(
                format!("HTTP/1.1 103 \r\n{}\r\n", field(16 << 10)).repeat(4).as_bytes(),
            ),
            "limit",
            "the response head is larger than 64 KiB",
        ),
        (
            "27 a head of 64 KiB",
            head(&field(65 << 10)),
            "limit",
            "the response head is larger than 64 KiB",
        ),
        (
            "27 a head without end",
            [&b"HTTP/1.1 200 OK\r\nX: "[..], &[b'x'; 70 << 10]].concat(),
            "limit",
            "the response head is larger than 64 KiB",
        ),
        ("27 257 fields", head(&field(1).repeat(257)), "limit", "more than 256 fields"),
        (
            "26 101 unasked",
            answered_after(b"HTTP/1.1 101 \r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
            "framing",
            "switched protocols (101)",
        ),
        (
            "26 HTTP/0.9",
            b"<html>hello</html>".to_vec(),
            "framing",
            "is not HTTP/1: it begins with `<",
        ),
        (
            "26 HTTP/2",
            b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x80".to_vec(),
            "framing",
            "is not HTTP/1",
        ),
        ("26 another protocol", b"SSH-2.0-OpenSSH_9.9\r\n".to_vec(), "framing", "is not HTTP/1"),
        ("26 a status of two digits", b"HTTP/1.1 20 OK\r\n\r\n".to_vec(), "framing", ""),
        (
            "26 status 600",
            b"HTTP/1.1 600 X\r\n\r\n".to_vec(),
            "framing",
            "status 600 is outside 100 to 599",
        ),
    ] {
        let asked = if class == "limit" { 1 } else { 2 };
        rows.push(
            row(name, manifest(Action::raw(bytes, Then::Close)))
                .fails(6, class, text, Nothing)
                .asked(Kind::Manifest, asked),
        );
    }
    rows.push(
        row("25 16 interim responses are not too many", {
            let answer = answered_after("HTTP/1.1 103 \r\n\r\n".repeat(16).as_bytes());
            manifest(Action::raw(answer, Then::KeepOpen))
        })
        .asked(Kind::Manifest, 1),
    );
    for coding in ["gzip", "br", "zstd", "identity, deflate"] {
        let last = coding.rsplit(' ').next().unwrap();
        let text = format!("the body has Content-Encoding `{last}`");
        rows.push(
            row(format!("29 a layer in {coding}"), layer(Action::content_encoding(coding)))
                .fails(6, "encoding", &text, Blobs)
                .starts(&[0]),
        );
    }
    rows.push(
        row("29 a manifest in gzip", manifest(Action::content_encoding("gzip")))
            .fails(6, "encoding", "Content-Encoding `gzip`", Nothing)
            .asked(Kind::Manifest, 1),
    );
    rows.push(row("29 identity is no coding", layer(Action::content_encoding("identity"))));
    for coding in ["aws-chunked", "aws-chunked,identity", "utf-8", "binary"] {
        rows.push(
            row(format!("100 a layer in {coding}"), layer(Action::content_encoding(coding)))
                .starts(&[0]),
        );
    }
    rows.push(
        row("100 a manifest in aws-chunked", manifest(Action::content_encoding("aws-chunked")))
            .asked(Kind::Manifest, 1),
    );
    rows.push(
        row_of("100 a coding that nobody knows, and other bytes", || {
            let layer = &IMAGE.layers[0];
            let other: Vec<u8> = layer.bytes.iter().map(|byte| byte ^ 1).collect();
            let head = head(&format!("Content-Encoding: rot\r\n{}", length(layer)));
            let answer = Action::raw([head, other].concat(), Then::KeepOpen);
            Scene::serving(
                Options {
                    faults: Rule::on(Kind::Blob).layer(0).then(answer).into(),
                    ..Options::default()
                },
                &IMAGE,
            )
        })
        .fails(7, "digest", "digest", Blobs),
    );
    rows
}

fn chunked(body: &[u8], size: usize) -> Vec<u8> {
    let chunk =
        |chunk: &[u8]| [format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat();
    body.chunks(size).flat_map(chunk).chain(*b"0\r\n\r\n").collect()
}

/// A request for a range says nothing of what the rest has to be like.
fn no_validator(log: &[RequestLine]) {
    let says = |line: &RequestLine| line.header("if-range").or(line.header("if-match")).is_some();
    assert!(!log.iter().any(says), "a range that depends on an ETag");
}

fn whole_with_another_etag() -> Action {
    let layer = &IMAGE.layers[0];
    let head = head(&format!("{}ETag: \"other\"\r\n", length(layer)));
    Action::raw([&head[..], &layer.bytes].concat(), Then::KeepOpen)
}

/// A rest that is well framed and honestly labelled, of content that is not the blob's.
fn rest_of_other_content() -> Action {
    let fields = [("Content-Range", "bytes 300000-524287/524288"), ("ETag", "\"other\"")];
    let fields = fields.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let other = Image::generate(8, &[LAYER_SIZE]).layers[0].bytes.slice(CUT as usize..);
    Action::Status { code: 206, fields: fields.into(), body: other }
}

// --- ranges --------------------------------------------------------------------------------------

/// The byte that the first answer ends before.
const CUT: u64 = 300_000;

/// Layer 0 is cut, and the request for the rest is answered so.
fn rest(name: &str, action: Action) -> Row {
    row(
        name,
        faults([
            Rule::on(Kind::Blob).layer(0).first(1).then(Action::CloseAfter(CUT)),
            Rule::on(Kind::Blob).layer(0).nth(2).then(action),
        ]),
    )
    .flags(&["--retries", "2"])
}

pub fn ranges() -> Vec<Row> {
    let shifted = |first, last, total| Action::ShiftContentRange { first, last, total };
    let part = |fields: &[(&str, &str)]| Action::Status {
        code: 206,
        fields: fields.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
        body: IMAGE.layers[0].bytes.slice(CUT as usize..),
    };
    let right = "bytes 300000-524287/524288";
    // Each wrong answer is thrown away before its first byte is used, and the whole is asked for.
    vec![
        rest("30 the whole instead of the rest", Action::IgnoreRange).starts(&[0, CUT]),
        rest("31 another start", shifted(-1, 0, 0)).starts(&[0, CUT, 0]),
        rest("31 another end", shifted(0, -1, 0)).starts(&[0, CUT, 0]),
        rest("31 an unknown size", Action::field("Content-Range", "bytes 300000-524287/*"))
            .starts(&[0, CUT, 0]),
        rest("31 a malformed range", Action::field("Content-Range", "bytes 300000-/524288"))
            .starts(&[0, CUT, 0]),
        rest("31 no Content-Range", part(&[])).starts(&[0, CUT, 0]),
        rest("31 two equal ones", part(&[("Content-Range", right), ("Content-Range", right)]))
            .starts(&[0, CUT, 0]),
        rest(
            "31 several parts",
            part(&[("Content-Type", "multipart/byteranges; boundary=x"), ("Content-Range", right)]),
        )
        .starts(&[0, CUT, 0]),
        rest("31 a rest that is shorter than it says", Action::Short(1)).starts(&[0, CUT, 0]),
        row("31 206 to a request for the whole", layer_once(part(&[("Content-Range", right)])))
            .starts(&[0, 0]),
        row(
            "31 another start each time",
            faults([
                Rule::on(Kind::Blob).layer(0).asked(Asked::Part).then(shifted(-1, 0, 0)),
                Rule::on(Kind::Blob).layer(0).then(Action::CloseAfter(CUT)),
            ]),
        )
        .flags(&["--retries", "4"])
        // Lies are met by asking for the whole, which here is cut each time.
        .fails(5, "truncated", "attempt 5 of 5", Blobs)
        .starts(&[0, CUT, 0, 0, 0, 0]),
        rest("32 another size of the whole, once", shifted(0, 0, 1)).starts(&[0, CUT, 0]),
        row(
            "32 another size of the whole",
            faults([
                Rule::on(Kind::Blob).layer(0).asked(Asked::Part).then(shifted(0, 0, 1)),
                Rule::on(Kind::Blob).layer(0).then(Action::CloseAfter(CUT)),
            ]),
        )
        .flags(&["--retries", "4"])
        .fails(5, "truncated", "attempt 5 of 5", Blobs)
        .starts(&[0, CUT, 0, 0, 0]),
        rest("34 another ETag for the rest", Action::field("ETag", "\"other\""))
            .starts(&[0, CUT])
            .log(no_validator),
        rest("34 a weak ETag for the rest", Action::field("ETag", "W/\"other\"")).starts(&[0, CUT]),
        // As if it were other content by `If-Range`: what is here already is not taken again.
        rest("34 the whole instead of the rest, with another ETag", whole_with_another_etag())
            .starts(&[0, CUT])
            .log(no_validator),
        row(
            "34 another ETag, and other bytes",
            faults([
                Rule::on(Kind::Blob).layer(0).first(1).then(Action::CloseAfter(CUT)),
                Rule::on(Kind::Blob).layer(0).nth(2).then(rest_of_other_content()),
            ]),
        )
        .flags(&["--retries", "2"])
        .starts(&[0, CUT, 0]),
        rest("33 416 to the request for the rest", Action::status(416)).starts(&[0, CUT, 0]),
        rest("35 a wrong byte in the rest, once", Action::FlipByte(CUT + 7)).starts(&[0, CUT, 0]),
        row(
            "35 a wrong byte in the rest",
            faults([
                Rule::on(Kind::Blob).layer(0).asked(Asked::Part).then(Action::FlipByte(CUT + 7)),
                Rule::on(Kind::Blob).layer(0).then(Action::CloseAfter(CUT)),
            ]),
        )
        .flags(&["--retries", "4"])
        .fails(7, "digest", "its bytes have the digest sha256:", Blobs)
        .starts(&[0, CUT, 0, CUT]),
    ]
}

/// Any other answer to a range: the whole is asked for, once, in the same attempt.
pub fn refused_ranges() -> Vec<Row> {
    let mut rows = Vec::new();
    for code in [400, 403, 404, 405, 406, 410, 416, 500, 501] {
        rows.push(
            rest(&format!("87 {code} to the request for the rest"), Action::status(code))
                .starts(&[0, CUT, 0])
                .says(" 1 retry"),
        );
        rows.push(several(
            &format!("87 {code} each time"),
            Rule::on(Kind::Blob).asked(Asked::Part).then(Action::status(code)),
        ));
    }
    for coding in ["gzip", "br"] {
        rows.push(
            rest(&format!("87 a rest in {coding}"), Action::content_encoding(coding))
                .starts(&[0, CUT, 0])
                .says(" 1 retry"),
        );
    }
    let encoded = Action::content_encoding("gzip");
    rows.push(several(
        "87 each range in gzip",
        Rule::on(Kind::Blob).asked(Asked::Part).then(encoded.clone()),
    ));
    rows.push(one_range("87 400 to one range", Turn::First(1), Action::status(400)));
    // It may pass, and ranges worked before.
    rows.push(one_range("87 500 to one range", Turn::First(1), Action::status(500)).log(|log| {
        let whole = log.iter().filter(|line| line.target.contains("blobs"));
        assert_eq!(whole.filter(|line| line.range.is_none()).count(), 1, "the config");
    }));
    // Not even the whole is to be had.
    rows.push(
        row(
            "87 403 to the rest, and to the whole",
            faults([
                Rule::on(Kind::Blob).layer(0).first(1).then(Action::CloseAfter(CUT)),
                Rule::on(Kind::Blob).layer(0).then(Action::status(403)),
            ]),
        )
        .flags(&["--retries", "4"])
        .fails(4, "auth", "the registry refused access (status 403)", Blobs)
        .starts(&[0, CUT, 0]),
    );
    rows.push(
        row("87 a storage that refuses ranges", || Options {
            redirect_blobs: Some(BlobRedirect::Storage),
            faults: Script::from([
                Rule::on(Kind::Storage).layer(0).asked(Asked::Part).then(Action::status(403)),
                Rule::on(Kind::Storage).layer(0).first(1).then(Action::CloseAfter(CUT)),
            ]),
            ..Options::default()
        })
        // The registry is asked once more for the rest, and then for the whole.
        .starts(&[0, CUT, 0])
        .says(" 1 retry"),
    );
    rows
}

// --- ranges, several at once ---------------------------------------------------------------------

const MIB: u64 = 1 << 20;

/// Where a layer of [`LAYER_SIZE`] is gone on with that is never given more than 40,000 bytes at once.
const EACH_40_000: [u64; 14] = {
    let mut starts = [0; 14];
    let mut number = 0;
    while number < starts.len() {
        starts[number] = 40_000 * number as u64;
        number += 1;
    }
    assert!(starts[13] < LAYER_SIZE && LAYER_SIZE <= starts[13] + 40_000);
    starts
};

/// An image of one layer that is worth several connections.
static LARGE: LazyLock<Image> = LazyLock::new(|| Image::generate(5, &[24 * MIB]));

/// A fault of the range that holds the layer's middle.
fn one_range(name: &str, turn: Turn, action: Action) -> Row {
    several(name, Rule::on(Kind::Blob).asked(Asked::Covering(12 * MIB)).turn(turn).then(action))
}

/// A fault of ranges that are fetched by four connections.
fn several(name: &str, rule: Rule) -> Row {
    let faults = Script::from(rule);
    let met = faults.clone();
    row_of(format!("{name}, of several"), move || {
        Scene::serving(Options { faults: faults.clone(), ..Options::default() }, &LARGE)
    })
    .meets(met)
    .flags(&["--connections", "4", "--retries", "2"])
    .log(|log| {
        let ranges = log.iter().filter(|line| line.range.is_some()).count();
        assert!(ranges > 0, "there were no ranges");
    })
}

pub fn parallel() -> Vec<Row> {
    let once = Turn::First(1);
    let shifted = |first| Action::ShiftContentRange { first, last: 0, total: 0 };
    let later = Action::Status {
        code: 429,
        fields: vec![("Retry-After".into(), "1".into())],
        body: Bytes::new(),
    };
    let parts = || Rule::on(Kind::Blob).asked(Asked::Part);
    vec![
        one_range("10 a range that falls silent", once, Action::StallAfter(MIB))
            .flags(&["--recv-timeout", "1s"]),
        one_range("12 a range that is reset", once, Action::ResetAfter(MIB)),
        one_range("13 a range that ends", once, Action::CloseAfter(MIB)),
        one_range("18 a range that is short", once, Action::Short(1)),
        one_range("17 a range that is long", once, Action::Overlong(1)),
        one_range("19 a range with two framings", once, {
            let both = "HTTP/1.1 206 \r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n";
            Action::raw(both, Then::Close)
        }),
        one_range("30 a range answered by the whole", once, Action::IgnoreRange),
        several("30 all ranges answered by the whole", parts().then(Action::IgnoreRange)),
        one_range("31 another range", once, shifted(-1)),
        several("31 other ranges each time", parts().then(shifted(1))),
        one_range("34 another ETag", once, Action::field("ETag", "\"other\"")).log(no_validator),
        several("34 another ETag each time", parts().then(Action::field("ETag", "\"other\"")))
            .log(no_validator),
        one_range("33 416", once, Action::status(416)),
        several("33 416 each time", parts().then(Action::status(416))),
        one_range("35 a wrong byte, once", once, Action::FlipByte(12 * MIB + 7)),
        one_range("35 a wrong byte", Turn::Always, Action::FlipByte(12 * MIB + 7)).fails(
            7,
            "digest",
            "its bytes have the digest sha256:",
            Blobs,
        ),
        one_range("54 429 for a second", once, later),
        one_range("55 503", once, Action::status(503)),
        several("55 503 each time", parts().then(Action::status(503))).fails(
            5,
            "http-5xx",
            "(status 503) (0.0 of 24.0 MiB), attempt 3 of 3",
            Blobs,
        ),
    ]
}

// --- content -------------------------------------------------------------------------------------

pub fn content() -> Vec<Row> {
    let other = || Image::generate(2, &[4 << 10]).manifest;
    let by_digest = |faults: Script| {
        move || {
            let options = Options { faults: faults.clone(), ..Options::default() };
            let mut scene = Scene::serving(options, &IMAGE);
            let registry = scene.registry.as_ref().unwrap();
            scene.reference = registry.reference_by_digest("demo", &IMAGE.manifest.digest);
            scene
        }
    };
    vec![
        row("17 a byte more than the descriptor says", layer(Action::Overlong(1)))
            .flags(&["--retries", "3"])
            .fails(7, "size", "sends 524289 bytes, but its descriptor says 524288", Blobs)
            .starts(&[0, 0]),
        row("17 a byte more, once", layer_once(Action::Overlong(1))).starts(&[0, 0]),
        row("17 a chunk more", {
            let bytes = [&IMAGE.layers[0].bytes[..], b"+"].concat();
            let chunks = chunked(&bytes, 64 << 10);
            layer(Action::raw(
                [head("Transfer-Encoding: chunked\r\n"), chunks].concat(),
                Then::Close,
            ))
        })
        .fails(7, "size", "524289 bytes", Blobs)
        .starts(&[0, 0]),
        row("17 bytes without end", {
            let bytes = [&IMAGE.layers[0].bytes[..], &[b'+'; 1 << 20]].concat();
            layer(Action::raw([head(""), bytes].concat(), Then::Stall))
        })
        .fails(7, "size", "but its descriptor says 524288", Blobs),
        row("18 a byte fewer than the descriptor says", layer(Action::Short(1)))
            .flags(&["--retries", "3"])
            .fails(7, "size", "sends 524287 bytes, but its descriptor says 524288", Blobs)
            .starts(&[0, 0]),
        row("18 nothing", layer(Action::Replace(Bytes::new()))).fails(
            7,
            "size",
            "sends 0 bytes, but its descriptor says 524288",
            Blobs,
        ),
        row("18 a byte fewer in chunks", {
            let chunks = chunked(&IMAGE.layers[0].bytes[1..], 64 << 10);
            layer(Action::raw(
                [head("Transfer-Encoding: chunked\r\n"), chunks].concat(),
                Then::Close,
            ))
        })
        .fails(7, "size", "524287 bytes", Blobs),
        row("35 a wrong byte", layer(Action::FlipByte(77)))
            .flags(&["--retries", "3"])
            .fails(7, "digest", "its bytes have the digest sha256:", Blobs)
            .starts(&[0, 0]),
        row("35 a wrong byte, once", layer_once(Action::FlipByte(77))).starts(&[0, 0]),
        row(
            "35 a wrong byte in the config",
            faults([Rule::on(Kind::Blob).which(Which::Config).then(Action::FlipByte(0))]),
        )
        .fails(7, "digest", "its bytes have the digest sha256:", Blobs),
        row_of(
            "37 another manifest than the digest asked for",
            by_digest(Rule::on(Kind::Manifest).then(Action::Replace(other().bytes)).into()),
        )
        .fails(7, "digest", "its bytes have the digest", Nothing),
        row_of(
            "37 a wrong byte in a manifest by digest, once",
            by_digest(Rule::on(Kind::Manifest).first(1).then(Action::FlipByte(100)).into()),
        )
        .asked(Kind::Manifest, 2),
        row_of(
            "37 a lie about the digest matters not by digest",
            by_digest(Rule::on(Kind::Manifest).then(Action::wrong_digest()).into()),
        )
        .asked(Kind::Manifest, 1),
        row("38 a lie about the digest", manifest(Action::wrong_digest()))
            .fails(7, "digest-header", "Docker-Content-Digest says sha256:", Nothing)
            .asked(Kind::Manifest, 1),
        row("38 a digest that is none", manifest(Action::field("Docker-Content-Digest", "md5sum"))),
        row("38 an empty digest", manifest(Action::field("Docker-Content-Digest", ""))),
        row(
            "38 a digest that is cut",
            manifest(Action::field("Docker-Content-Digest", "sha256:0123456789abcdef")),
        ),
    ]
}
