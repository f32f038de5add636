//! The HTTP client and its vocabulary, fed with what servers, mirrors and attackers send.
//!
//! Every response is fed whole, byte by byte, and cut in two at every byte; the outcome must be the
//! same. What is tried comes from RFC 9110 and 9112, from the CVEs of other clients, and from what
//! the suites of curl, hyper, Node and the Web Platform Tests try.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "http/urls.rs"]
mod urls;

use ringpull::error::Class;
use ringpull::http::{
    After, ByteRange, CloseReason, Error, Event, Exchange, Framing, HttpUrl, Method, Part,
    RangeError, Request, RequestError, ResponseHead, Secret, TargetForm, Version,
};
use ringpull::limits::{
    CHUNK_EXTENSION_SIZE_MAX, INTERIM_COUNT_MAX, RESPONSE_FIELD_COUNT_MAX, RESPONSE_HEAD_SIZE_MAX,
    TRAILER_SIZE_MAX,
};

// --- feeding -------------------------------------------------------------------------------------

/// How the connection goes on after the last byte.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Then {
    StaysOpen,
    Closed,
    ClosedWithoutNotify,
}

/// What an exchange came to.
#[derive(Debug, Clone, PartialEq)]
struct Outcome {
    interim: Vec<u16>,
    head: Option<ResponseHead>,
    body: Vec<u8>,
    end: End,
}

#[derive(Debug, Clone, PartialEq)]
enum End {
    /// Neither done nor failed: more bytes are needed.
    Open,
    Done(After),
    Failed(Error),
}

/// Feeds `pieces` to an exchange, and checks on the way what holds for any input.
fn feed<'a>(method: Method, pieces: impl IntoIterator<Item = &'a [u8]>, then: Then) -> Outcome {
    let mut exchange = Exchange::new(method);
    let mut outcome = Outcome { interim: Vec::new(), head: None, body: Vec::new(), end: End::Open };
    for piece in pieces {
        if let Err(error) = feed_piece(&mut exchange, piece, &mut outcome) {
            assert_eq!(exchange.recv(b"more"), Err(error.clone()), "failed stays failed");
            assert_eq!(exchange.recv_eof(true), Err(error.clone()), "failed stays failed");
            return Outcome { end: End::Failed(error), ..outcome };
        }
    }
    if then != Then::StaysOpen {
        outcome.end = match exchange.recv_eof(then == Then::Closed) {
            Ok(after) => End::Done(after),
            Err(error) => End::Failed(error),
        };
    }
    outcome
}

fn feed_piece(exchange: &mut Exchange, piece: &[u8], outcome: &mut Outcome) -> Result<(), Error> {
    let mut at = 0;
    for _ in 0..2 * piece.len() + 3 {
        let input = &piece[at..];
        let remaining = exchange.body_remaining();
        let (used, event) = exchange.recv(input)?;
        assert!(used <= input.len());
        assert!(exchange.started() || (outcome.head.is_none() && piece.is_empty()));
        at += used;
        match event {
            Event::NeedMore => {
                assert_eq!(at, piece.len(), "asks for more only when all is used");
                return Ok(());
            }
            Event::Interim { status } => outcome.interim.push(status),
            Event::Head(head) => {
                assert_eq!(outcome.head, None, "one head");
                outcome.head = Some(head);
            }
            Event::Body(range) => {
                assert!(range.start < range.end && range.end <= used);
                if let Some(remaining) = remaining {
                    assert_eq!(exchange.body_remaining(), Some(remaining - range.len() as u64));
                }
                outcome.body.extend_from_slice(&input[range]);
            }
            Event::Done(after) => {
                outcome.end = End::Done(after);
                return Ok(());
            }
        }
    }
    panic!("the exchange does not come to an end of its input");
}

/// The outcome of `raw`, which must be the same however it is cut.
#[track_caller]
fn outcome_of(method: Method, raw: &[u8], then: Then) -> Outcome {
    let whole = feed(method, [raw], then);
    let shown = &raw[..raw.len().min(200)];
    let dripped = feed(method, raw.chunks(1), then);
    assert_eq!(dripped, whole, "byte by byte: {}", shown.escape_ascii());
    // Long vectors are about a bound, and are cut in fewer places.
    let step = if raw.len() < 1000 { 1 } else { raw.len() / 50 };
    for cut in (0..=raw.len()).step_by(step) {
        let (left, right) = raw.split_at(cut);
        let split = feed(method, [left, right], then);
        assert_eq!(split, whole, "cut at {cut}: {}", shown.escape_ascii());
    }
    whole
}

/// `raw` ends well: with this payload, and this verdict on the connection.
#[track_caller]
fn check(raw: impl AsRef<[u8]>, body: impl AsRef<[u8]>, after: After) {
    let raw = raw.as_ref();
    let outcome = outcome_of(Method::Get, raw, Then::StaysOpen);
    let shown = raw[..raw.len().min(300)].escape_ascii();
    assert_eq!(outcome.end, End::Done(after), "{shown}");
    assert!(outcome.body == body.as_ref(), "{shown}: {}", outcome.body.escape_ascii());
}

/// `raw` is refused, whether the connection is closed after it or not.
#[track_caller]
fn check_refused(raw: impl AsRef<[u8]>, error: Error) {
    let raw = raw.as_ref();
    for then in [Then::StaysOpen, Then::Closed] {
        let outcome = outcome_of(Method::Get, raw, then);
        let shown = raw[..raw.len().min(300)].escape_ascii();
        assert_eq!(outcome.end, End::Failed(error.clone()), "{shown}");
    }
}

/// The head at the start of `raw`, cut at every byte.
#[track_caller]
fn head_of(raw: &str) -> ResponseHead {
    for cut in 0..raw.len() {
        assert_eq!(ResponseHead::parse(&raw.as_bytes()[..cut]), Ok(None), "{raw:?} cut at {cut}");
    }
    let (size, head) = ResponseHead::parse(raw.as_bytes()).unwrap().expect(raw);
    assert_eq!(size, raw.len());
    head
}

fn ok(fields: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n")
}

fn chunked(body: &str) -> String {
    ok("Transfer-Encoding: chunked") + body
}

const KEEP: After = After::Keep;

fn close(reason: CloseReason) -> After {
    After::Close(reason)
}

// --- where a body ends ---------------------------------------------------------------------------

#[test]
fn a_content_length_is_a_number_and_nothing_else() {
    let good = [
        ("Content-Length: 42", 42),
        ("content-length: 42", 42),
        ("CONTENT-LENGTH:42", 42),
        ("Content-Length:\t 42 \t", 42),
        ("Content-Length: 0", 0),
        ("Content-Length: 000", 0),
        ("Content-Length: 030", 30),
        ("Content-Length: 42,42", 42),
        ("Content-Length: 42, 42", 42),
        ("Content-Length: 42 ,\t42", 42),
        ("Content-Length: 42, 42, 42", 42),
        ("Content-Length: 42\r\nContent-Length: 42", 42),
        ("Content-Length: 42\r\nContent-Length: 42,42", 42),
        ("Content-Length: 30,30\r\nX: y\r\nContent-Length: 30", 30),
        ("Content-Length: 030\r\nContent-Length: 030", 30),
    ];
    for (fields, length) in good {
        let body = "x".repeat(length);
        check(ok(fields) + &body, body, KEEP);
    }

    for value in [
        "",
        "+5",
        "-1",
        "--1",
        "0x5",
        "0x20",
        "5.0",
        "5e1",
        "1_000",
        "1 000",
        "42s",
        "s42",
        "aaaah",
        "\"42\"",
        "42;42",
        "42\u{a0}",
        "٤٢",
        "18446744073709551616",
        "99999999999999999999999",
        ":42",
    ] {
        let error = Error::ContentLength { value: value.as_bytes().escape_ascii().to_string() };
        check_refused(ok(&format!("Content-Length: {value}")) + "body", error);
    }

    let bad = |value: &str| Error::ContentLength { value: value.to_owned() };
    let differ = |first: &str, second: &str| Error::ContentLengths {
        first: first.to_owned(),
        second: second.to_owned(),
    };
    let lists = [
        ("Content-Length: 5,6", differ("5", "6")),
        ("Content-Length: 42,30", differ("42", "30")),
        ("Content-Length: 30, 30, 42", differ("30", "42")),
        ("Content-Length: 42\r\nContent-Length: 30", differ("42", "30")),
        ("Content-Length: 30\r\nContent-Length: 42", differ("30", "42")),
        ("Content-Length: 030\r\nContent-Length: 30", differ("030", "30")),
        ("Content-Length: 030, 30", differ("030", "30")),
        ("Content-Length: 30,", bad("")),
        ("Content-Length: ,30", bad("")),
        ("Content-Length: 30,,30", bad("")),
        ("Content-Length: 30\r\nContent-Length: \t", bad("")),
        ("Content-Length: \r\nContent-Length: 30", bad("")),
        ("Content-Length: aaaah, nah", bad("aaaah")),
        ("Content-Length: aaaah\r\nContent-Length: aaaah", bad("aaaah")),
        ("Content-Length: 30\r\nContent-Length: +30", bad("+30")),
    ];
    for (fields, error) in lists {
        check_refused(ok(fields) + "body", error);
    }
}

#[test]
fn the_longest_content_length_is_one_below_two_to_the_64() {
    let mut exchange = Exchange::new(Method::Get);
    let head = ok("Content-Length: 18446744073709551615");
    let (used, _) = exchange.recv(head.as_bytes()).unwrap();
    assert_eq!((used, exchange.body_remaining()), (head.len(), Some(u64::MAX)));
    assert_eq!(exchange.recv(b"abc"), Ok((3, Event::Body(0..3))));
    assert_eq!(exchange.body_remaining(), Some(u64::MAX - 3));
    let missing = Some(u64::MAX - 3);
    assert_eq!(exchange.recv_eof(true), Err(Error::TruncatedBody { missing }));
}

#[test]
fn the_one_transfer_coding_is_chunked() {
    for value in ["chunked", "Chunked", "CHUNKED", " \tchunked \t"] {
        check(ok(&format!("Transfer-Encoding:{value}")) + "2\r\nhi\r\n0\r\n\r\n", "hi", KEEP);
    }
    for value in [
        "",
        "gzip",
        "gzip, chunked",
        "chunked, gzip",
        "chunked, identity",
        "identity",
        "chunked,",
        ",chunked",
        "chunked, chunked",
        "chunked;q=1",
        "xchunked",
        "chunkedx",
        "\"chunked\"",
        "chunked\u{b}",
        "chunked\u{85}",
        "trailers",
    ] {
        let raw = ok(&format!("Transfer-Encoding: {value}")) + "2\r\nhi\r\n0\r\n\r\n";
        let value = value.as_bytes().escape_ascii().to_string();
        check_refused(raw, Error::TransferEncoding { value });
    }
    let value = || "chunked, chunked".to_owned();
    check_refused(
        ok("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
        Error::TransferEncoding { value: value() },
    );
    check_refused(
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        Error::TransferEncodingInHttp10,
    );
}

#[test]
fn two_framings_are_one_too_many() {
    for fields in [
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Content-Length: 0\r\nTransfer-Encoding: chunked",
        "Content-Length: 5\r\nX: y\r\ntransfer-encoding: CHUNKED\r\nContent-Length: 5",
    ] {
        check_refused(ok(fields) + "0\r\n\r\n", Error::TwoFramings);
    }
    // Where neither would matter, they are wrong all the same.
    let raw = ok("Transfer-Encoding: chunked\r\nContent-Length: 5");
    let outcome = outcome_of(Method::Head, raw.as_bytes(), Then::StaysOpen);
    assert_eq!(outcome.end, End::Failed(Error::TwoFramings));
    check_refused(
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 1,2\r\n\r\n",
        Error::ContentLengths { first: "1".to_owned(), second: "2".to_owned() },
    );
}

#[test]
fn some_answers_have_no_body() {
    for (method, raw) in [
        (Method::Head, ok("Content-Length: 42")),
        (Method::Head, ok("Transfer-Encoding: chunked")),
        (Method::Head, ok("X: y")),
        (Method::Head, "HTTP/1.1 404 Not Found\r\nContent-Length: 42\r\n\r\n".to_owned()),
        (Method::Get, "HTTP/1.1 204 No Content\r\n\r\n".to_owned()),
        (Method::Get, "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n".to_owned()),
        (Method::Get, "HTTP/1.1 304 Not Modified\r\nContent-Length: 42\r\n\r\n".to_owned()),
        (Method::Get, "HTTP/1.1 304 Not Modified\r\n\r\n".to_owned()),
        (Method::Get, ok("Content-Length: 0")),
    ] {
        let outcome = outcome_of(method, raw.as_bytes(), Then::StaysOpen);
        assert_eq!((outcome.end, outcome.body.len()), (End::Done(KEEP), 0), "{raw:?}");
        let closed = outcome_of(method, raw.as_bytes(), Then::Closed);
        assert_eq!(closed.end, End::Done(close(CloseReason::PeerClosed)), "{raw:?}");
    }
}

#[test]
fn a_body_without_a_length_runs_until_close() {
    let cases = [
        ("HTTP/1.1 200 OK\r\n\r\nhello", CloseReason::UntilClose),
        ("HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n\r\nhello", CloseReason::UntilClose),
        ("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello", CloseReason::ServerSaidClose),
        ("HTTP/1.0 200 OK\r\n\r\nhello", CloseReason::Http10),
        ("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\nhello", CloseReason::UntilClose),
    ];
    for (raw, reason) in cases {
        let outcome = outcome_of(Method::Get, raw.as_bytes(), Then::Closed);
        assert_eq!(outcome.end, End::Done(close(reason)), "{raw:?}");
        assert_eq!(outcome.body, b"hello");
        let open = outcome_of(Method::Get, raw.as_bytes(), Then::StaysOpen);
        assert_eq!(open.end, End::Open);
        // Over TLS, a close without notice may have been forged.
        let cut = outcome_of(Method::Get, raw.as_bytes(), Then::ClosedWithoutNotify);
        assert_eq!(cut.end, End::Failed(Error::UncleanClose), "{raw:?}");
    }
}

// --- chunks --------------------------------------------------------------------------------------

#[test]
fn chunked_bodies_are_put_together() {
    let extension = "e".repeat(CHUNK_EXTENSION_SIZE_MAX - 1);
    let trailer_value = "t".repeat(TRAILER_SIZE_MAX - "t:\r\n\r\n".len());
    let big = "x".repeat(0x1234);
    for (body, payload) in [
        ("0\r\n\r\n", ""),
        ("00000\r\n\r\n", ""),
        ("0000000000000000\r\n\r\n", ""),
        ("5\r\nhello\r\n0\r\n\r\n", "hello"),
        ("0000000000000005\r\nhello\r\n0\r\n\r\n", "hello"),
        ("2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", "hello"),
        ("1\r\na\r\n1\r\nb\r\n1\r\nc\r\n0\r\n\r\n", "abc"),
        ("A\r\n0123456789\r\na\r\nabcdefghij\r\n0\r\n\r\n", "0123456789abcdefghij"),
        ("4\r\n\r\n\r\n\r\n0\r\n\r\n", "\r\n\r\n"),
        ("5\r\n0\r\n\r\n\r\n0\r\n\r\n", "0\r\n\r\n"),
        ("5;a\r\nhello\r\n0\r\n\r\n", "hello"),
        ("5;a=b\r\nhello\r\n0;last\r\n\r\n", "hello"),
        ("5 ; a = \"b;\u{e9}\"\r\nhello\r\n0\r\n\r\n", "hello"),
        ("5\t;\ta\r\nhello\r\n0\r\n\r\n", "hello"),
        // Servers that fill sizes up with blanks.
        ("5 \r\nhello\r\n0   \r\n\r\n", "hello"),
        ("5 \t \r\nhello\r\n0\t\r\n\r\n", "hello"),
        ("5 ;a \r\nhello\r\n0 ; \r\n\r\n", "hello"),
        // Control characters that steer nothing.
        ("5;\x7f\r\nhello\r\n0\r\n\r\n", "hello"),
        ("5;\x1b[31m\r\nhello\r\n0\r\nA: b\x01\r\n\r\n", "hello"),
        ("5;\r\nhello\r\n0;\r\n\r\n", "hello"),
        ("0\r\nDigest: sha-256=x\r\n\r\n", ""),
        ("0\r\nA: b\r\nC:\r\nD:\te\u{e9} \r\n\r\n", ""),
        // A trailer cannot change what has been decided by the head.
        ("2\r\nhi\r\n0\r\nContent-Length: 77\r\nTransfer-Encoding: gzip\r\n\r\n", "hi"),
        (&format!("1234\r\n{big}\r\n0\r\n\r\n"), &big),
        (&format!("2;{extension}\r\nhi\r\n0\r\n\r\n"), "hi"),
        (&format!("2\r\nhi\r\n0\r\nt:{trailer_value}\r\n\r\n"), "hi"),
    ] {
        check(chunked(body), payload, KEEP);
    }
}

#[test]
fn chunks_that_could_be_read_in_two_ways_are_refused() {
    let size = |byte: u8| Error::ChunkSize { byte };
    let end = |byte: u8| Error::ChunkEnd { byte };
    let line_end = || Error::LineEnd { part: Part::ChunkLine };
    let control = |byte: u8| Error::Control { part: Part::ChunkLine, byte };
    let trailer_end = || Error::LineEnd { part: Part::Trailer };
    let trailer_name = |byte: u8| Error::FieldName { part: Part::Trailer, byte };
    let cases = [
        ("\r\n", size(b'\r')),
        ("\n", size(b'\n')),
        (" 5\r\nhello\r\n", size(b' ')),
        (";a\r\n", size(b';')),
        ("g\r\n", size(b'g')),
        ("G\r\n", size(b'G')),
        ("+5\r\nhello\r\n", size(b'+')),
        ("-5\r\nhello\r\n", size(b'-')),
        ("0x5\r\nhello\r\n", size(b'x')),
        ("5_0\r\n", size(b'_')),
        ("5,5\r\n", size(b',')),
        ("5 5\r\n", size(b'5')),
        ("5 a\r\nhello\r\n", size(b'a')),
        ("5 \nhello\r\n", line_end()),
        ("5\t\rhello\r\n", line_end()),
        ("5\0\r\nhello\r\n", size(0)),
        ("\u{665}\r\nhello\r\n", size(0xd9)),
        ("10000000000000000\r\n", Error::ChunkSizeOverflow),
        ("00000000000000005\r\nhello\r\n", Error::ChunkSizeOverflow),
        ("fffffffffffffffff\r\n", Error::ChunkSizeOverflow),
        ("f0000000000000003\r\nabc\r\n", Error::ChunkSizeOverflow),
        ("5\nhello\n0\n\n", line_end()),
        ("5\r\rhello", line_end()),
        ("5\rhello\r\n", line_end()),
        ("5;a\nhello\r\n", line_end()),
        ("5;a\rb\r\nhello\r\n", line_end()),
        ("5;a\r\r\nhello\r\n", line_end()),
        ("5;\"a\nb\"\r\nhello\r\n", line_end()),
        ("5;a\0\r\nhello\r\n", control(0)),
        ("5;a\x01\0\r\nhello\r\n", control(0)),
        ("5\r\nhelloXX0\r\n\r\n", end(b'X')),
        ("5\r\nhello0\r\n\r\n", end(b'0')),
        ("5\r\nhello\n0\r\n\r\n", end(b'\n')),
        ("5\r\nhello\rX0\r\n\r\n", end(b'X')),
        ("5\r\nhello\r\r\n", end(b'\r')),
        ("5\r\nhello world\r\n0\r\n\r\n", end(b' ')),
        ("5\r\nhello\r\n\r\n0\r\n\r\n", size(b'\r')),
        ("0\n\n", line_end()),
        ("0\r\n\n", trailer_end()),
        ("0\r\n\r\r\n", trailer_end()),
        ("0\r\n\rX", trailer_end()),
        ("0\r\nA: b\n\r\n", trailer_end()),
        ("0\r\nA: b\rC: d\r\n\r\n", trailer_end()),
        ("0\r\nA: b\0\r\n\r\n", Error::Control { part: Part::Trailer, byte: 0 }),
        ("0\r\nA\x01: b\r\n\r\n", Error::Control { part: Part::Trailer, byte: 1 }),
        ("0\r\n A: b\r\n\r\n", Error::Folded { part: Part::Trailer }),
        ("0\r\nA: b\r\n\tc\r\n\r\n", Error::Folded { part: Part::Trailer }),
        ("0\r\nA : b\r\n\r\n", trailer_name(b' ')),
        ("0\r\n: b\r\n\r\n", trailer_name(b':')),
        ("0\r\nA\r\n\r\n", trailer_end()),
        ("0\r\nHTTP/1.1 200 OK\r\n\r\n", trailer_name(b'/')),
    ];
    for (body, error) in cases {
        check_refused(chunked(body), error);
    }
}

#[test]
fn what_only_costs_is_bounded_in_chunks() {
    let too_long = "e".repeat(CHUNK_EXTENSION_SIZE_MAX);
    check_refused(chunked(&format!("2;{too_long}\r\nhi\r\n")), Error::ChunkExtensionSize);
    check_refused(chunked(&format!("2{}", " ".repeat(20_000))), Error::ChunkExtensionSize);
    // Each byte of payload pays for one of extensions: three of these four are not paid for. The
    // last chunk is paid for by the room that is left.
    let most = (CHUNK_EXTENSION_SIZE_MAX - 4) / 3;
    let many = |count: usize| "1;abc\r\nx\r\n".repeat(count);
    check(chunked(&(many(most) + "0\r\n\r\n")), "x".repeat(most), KEEP);
    check_refused(chunked(&(many(most + 2) + "0\r\n\r\n")), Error::ChunkExtensionSize);
    // A large body may have any number of them, but nothing is saved up for later.
    let signed = format!("2000;chunk-signature={}\r\n{}\r\n", "f".repeat(64), "x".repeat(0x2000));
    let large = signed.repeat(400);
    const { assert!(400 * 81 > CHUNK_EXTENSION_SIZE_MAX) };
    check(chunked(&(large.clone() + "0\r\n\r\n")), "x".repeat(400 * 0x2000), KEEP);
    let after = format!("0;{too_long}\r\n\r\n");
    check_refused(chunked(&(large + &after)), Error::ChunkExtensionSize);

    let value = "t".repeat(TRAILER_SIZE_MAX - "t:\r\n\r\n".len() + 1);
    check_refused(chunked(&format!("0\r\nt:{value}\r\n\r\n")), Error::TrailerSize);
    let many = "t:\r\n".repeat(TRAILER_SIZE_MAX / 4);
    check_refused(chunked(&format!("0\r\n{many}\r\n")), Error::TrailerSize);
}

#[test]
fn payload_comes_in_the_largest_pieces_there_are() {
    let raw = chunked("5;x\r\nhello\r\n3\r\nabc\r\n0\r\n\r\n");
    let mut exchange = Exchange::new(Method::Get);
    let (head_size, _) = exchange.recv(raw.as_bytes()).unwrap();
    let body = &raw.as_bytes()[head_size..];
    // Framing is used up together with the payload after it.
    assert_eq!(exchange.recv(body), Ok((10, Event::Body(5..10))));
    assert_eq!(exchange.recv(&body[10..]), Ok((8, Event::Body(5..8))));
    assert_eq!(exchange.recv(&body[18..]), Ok((7, Event::Done(KEEP))));

    let raw = ok("Content-Length: 8") + "hello";
    let mut exchange = Exchange::new(Method::Get);
    let (head_size, _) = exchange.recv(raw.as_bytes()).unwrap();
    assert_eq!(exchange.recv(&raw.as_bytes()[head_size..]), Ok((5, Event::Body(0..5))));
    assert_eq!(exchange.recv(b""), Ok((0, Event::NeedMore)));
    assert_eq!(exchange.recv(b"abcHTTP/1.1 "), Ok((3, Event::Body(0..3))));
    let after = close(CloseReason::BytesAfterEnd);
    assert_eq!(exchange.recv(b"HTTP/1.1 "), Ok((0, Event::Done(after))));
    assert_eq!(exchange.recv(b""), Ok((0, Event::Done(after))), "once closed, closed for good");
}

// --- heads ---------------------------------------------------------------------------------------

#[test]
fn heads_are_split_into_status_and_fields() {
    type Case<'a> = (&'a str, u16, Version, &'a [(&'a str, &'a [u8])]);
    let cases: [Case; 14] = [
        ("HTTP/1.1 200 OK\r\n\r\n", 200, Version::Http11, &[]),
        ("HTTP/1.0 200 OK\r\n\r\n", 200, Version::Http10, &[]),
        ("HTTP/1.1 200 \r\n\r\n", 200, Version::Http11, &[]),
        ("HTTP/1.1 200\r\n\r\n", 200, Version::Http11, &[]),
        ("HTTP/1.1 404 Not \t Found: é\r\n\r\n", 404, Version::Http11, &[]),
        ("HTTP/1.1 100 Continue\r\n\r\n", 100, Version::Http11, &[]),
        ("HTTP/1.1 599 \r\n\r\n", 599, Version::Http11, &[]),
        ("HTTP/1.1 200 OK\r\nA: b\r\n\r\n", 200, Version::Http11, &[("a", b"b")]),
        ("HTTP/1.1 200 OK\r\nA:b\r\nA:\r\n\r\n", 200, Version::Http11, &[("a", b"b"), ("a", b"")]),
        ("HTTP/1.1 200 OK\r\nA: \t b c \t\r\n\r\n", 200, Version::Http11, &[("a", b"b c")]),
        ("HTTP/1.1 200 OK\r\nA: : \r\n\r\n", 200, Version::Http11, &[("a", b":")]),
        ("HTTP/1.1 200 OK\r\nA:  \r\n\r\n", 200, Version::Http11, &[("a", b"")]),
        ("HTTP/1.1 200 OK\r\nA: é\r\n\r\n", 200, Version::Http11, &[("a", b"\xc3\xa9")]),
        (
            "HTTP/1.1 200 OK\r\n!#$%&'*+-.^_`|~09aZ: b\r\n\r\n",
            200,
            Version::Http11,
            &[("!#$%&'*+-.^_`|~09az", b"b")],
        ),
    ];
    for (raw, status, version, fields) in cases {
        let head = head_of(raw);
        assert_eq!((head.status(), head.version()), (status, version), "{raw:?}");
        assert_eq!(head.fields().collect::<Vec<_>>(), fields, "{raw:?}");
    }
}

#[test]
fn what_is_not_a_head_is_refused() {
    let not_http = |seen: &str| Error::NotHttp { seen: seen.to_owned() };
    let line_end = || Error::LineEnd { part: Part::Head };
    let control = |byte: u8| Error::Control { part: Part::Head, byte };
    let folded = || Error::Folded { part: Part::Head };
    let name = |byte: u8| Error::FieldName { part: Part::Head, byte };
    let version = || Error::Head(httparse::Error::Version);
    let status = || Error::Head(httparse::Error::Status);
    let cases: [(&[u8], Error); 62] = [
        // Other protocols, and garbage.
        (b"<html>hello</html>", not_http("<")),
        (b"\x00\x00\x12\x04\x00\x00\x00\x00\x00", not_http("\\x00")),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", not_http("P")),
        (b"\x15\x03\x01\x00\x02\x02\x50", not_http("\\x15")),
        (b"SSH-2.0-OpenSSH_9.9\r\n", not_http("S")),
        (b"HTTP/2 200 OK\r\n\r\n", not_http("HTTP/2")),
        (b"HTTP/2.0 200 OK\r\n\r\n", not_http("HTTP/2")),
        (b"HTTP/0.9 200 OK\r\n\r\n", not_http("HTTP/0")),
        (b"http/1.1 200 OK\r\n\r\n", not_http("h")),
        (b"HTTP 1.1 200 OK\r\n\r\n", not_http("HTTP ")),
        (b"HTTP/11 200 OK\r\n\r\n", not_http("HTTP/11")),
        (b"ICY 200 OK\r\n\r\n", not_http("I")),
        (b"\r\nHTTP/1.1 200 OK\r\n\r\n", not_http("\\r")),
        (b"\nHTTP/1.1 200 OK\r\n\r\n", not_http("\\n")),
        (b" HTTP/1.1 200 OK\r\n\r\n", not_http(" ")),
        (b"\xef\xbb\xbfHTTP/1.1 200 OK\r\n\r\n", not_http("\\xef")),
        // Status lines.
        (b"HTTP/1.2 200 OK\r\n\r\n", version()),
        (b"HTTP/1. 200 OK\r\n\r\n", version()),
        (b"HTTP/1.10 200 OK\r\n\r\n", version()),
        (b"HTTP/1.1200 OK\r\n\r\n", version()),
        (b"HTTP/1.1\t200 OK\r\n\r\n", version()),
        (b"HTTP/1.1  200 OK\r\n\r\n", status()),
        (b"HTTP/1.1 20 OK\r\n\r\n", status()),
        (b"HTTP/1.1 2 OK\r\n\r\n", status()),
        (b"HTTP/1.1 2000 OK\r\n\r\n", status()),
        (b"HTTP/1.1 65736 OK\r\n\r\n", status()),
        (b"HTTP/1.1 +20 OK\r\n\r\n", status()),
        (b"HTTP/1.1 0x2 OK\r\n\r\n", status()),
        (b"HTTP/1.1 BLAH\r\n\r\n", status()),
        (b"HTTP/1.1 200OK\r\n\r\n", status()),
        (b"HTTP/1.1 200\tOK\r\n\r\n", status()),
        (b"HTTP/1.1 OK\r\n\r\n", status()),
        (b"HTTP/1.1 \r\n\r\n", status()),
        (b"HTTP/1.1 000 OK\r\n\r\n", Error::Status(0)),
        (b"HTTP/1.1 099 OK\r\n\r\n", Error::Status(99)),
        (b"HTTP/1.1 600 OK\r\n\r\n", Error::Status(600)),
        (b"HTTP/1.1 999 OK\r\n\r\n", Error::Status(999)),
        // Line ends.
        (b"HTTP/1.1 200 OK\n\n", line_end()),
        (b"HTTP/1.1 200 OK\nA: b\n\n", line_end()),
        (b"HTTP/1.1 200 OK\r\nA: b\n\r\n", line_end()),
        (b"HTTP/1.1 200 OK\r\nA: b\r\n\n", line_end()),
        (b"HTTP/1.1 200 OK\r\nA: b\r\r\n\r\n", line_end()),
        (b"HTTP/1.1 200 OK\r\nA: b\rC: d\r\n\r\n", line_end()),
        (b"HTTP/1.1\r200 OK\r\n\r\n", line_end()),
        (b"HTTP/1.1 200\rOK\r\n\r\n", line_end()),
        (b"HTTP/1.1 200 OK\r\n\rA: b\r\n\r\n", line_end()),
        (b"HTTP/1.1 200 OK\r\nA\r: b\r\n\r\n", line_end()),
        (b"HTTP/1.1 200 OK\r\nA:\r b\r\n\r\n", line_end()),
        // Fields.
        (b"HTTP/1.1 200 OK\r\n A: b\r\n\r\n", folded()),
        (b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", folded()),
        (b"HTTP/1.1 200 OK\r\nA: b\r\n\tc\r\n\r\n", folded()),
        (b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n", name(b' ')),
        (b"HTTP/1.1 200 OK\r\nA\t: b\r\n\r\n", name(b'\t')),
        (b"HTTP/1.1 200 OK\r\n: b\r\n\r\n", name(b':')),
        (b"HTTP/1.1 200 OK\r\nA b: c\r\n\r\n", name(b' ')),
        (b"HTTP/1.1 200 OK\r\nA\xe9: c\r\n\r\n", name(0xe9)),
        (b"HTTP/1.1 200 OK\r\n(A): c\r\n\r\n", name(b'(')),
        (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", name(b' ')),
        (b"HTTP/1.1 200 OK\r\nnocolon\r\n\r\n", line_end()),
        (b"HTTP/1.1 200 O\0K\r\n\r\n", control(0)),
        (b"HTTP/1.1 200 OK\r\nA: b\0c\r\n\r\n", control(0)),
        (b"HTTP/1.1 200 OK\r\nA: \x1b\0\r\n\r\n", control(0)),
    ];
    for (raw, error) in cases {
        check_refused(raw, error);
    }
    for byte in (0..=0x1f).chain([0x7f]).filter(|byte| !b"\t\r\n".contains(byte)) {
        for place in ["HTTP/1.1 200 OK\r\n?A: b\r\n\r\n", "HTTP/1.1 200 OK\r\nA?: b\r\n\r\n"] {
            check_refused(place.replace('?', &char::from(byte).to_string()), control(byte));
        }
        let in_status = format!("HTTP/1.1{}200 OK\r\n\r\n", char::from(byte));
        assert!(ResponseHead::parse(in_status.as_bytes()).is_err(), "{in_status:?}");
    }
}

/// RFC 9110 section 5.5: control characters other than CR, LF and NUL may be kept.
#[test]
fn control_characters_in_a_value_are_kept_as_they_came() {
    for byte in (1..=0x1f).chain([0x7f]).filter(|byte| !b"\t\r\n".contains(byte)) {
        let control = char::from(byte);
        let raw = ok(&format!("A: b\nB: {control}b{control}c{control} \nC:{control}"));
        let raw =
            raw.replace("\r\n", "\n").replace('\n', "\r\n").replace("OK", &format!("O{control}K"));
        let head = head_of(&raw);
        assert_eq!(head.values("a").collect::<Vec<_>>(), [b"b"]);
        assert_eq!(head.values("b").collect::<Vec<_>>(), [[byte, b'b', byte, b'c', byte]]);
        assert_eq!(head.values("c").collect::<Vec<_>>(), [[byte]]);
        // Where a field decides something, they make it another value.
        let refused = |fields: &str| {
            let head = head_of(&ok(&fields.replace('?', &control.to_string())));
            assert!(Framing::of(Method::Get, &head).is_err(), "{fields} {byte:#x}");
        };
        refused("Content-Length: 5?");
        refused("Content-Length: ?5");
        refused("Transfer-Encoding: chunked?");
        refused("Transfer-Encoding: ?chunked");
    }
}

#[test]
fn a_byte_put_anywhere_into_a_head_never_makes_it_another() {
    let raw = "HTTP/1.1 200 OK\r\nName: value\r\n\r\n";
    let end = raw.len() - 1;
    for at in 0..=end {
        for byte in ["\n", "\r", "\0", "\t", " ", ":"] {
            let broken = format!("{}{byte}{}", &raw[..at], &raw[at..]);
            let parsed = ResponseHead::parse(broken.as_bytes());
            // The same text as with the LF put after the head.
            if at == end && byte == "\n" {
                assert_eq!(parsed.unwrap().unwrap().0, raw.len());
                continue;
            }
            // Harmless only within reason and value, and for what may stand there.
            let in_text = (13..=15).contains(&at) || (22..=28).contains(&at);
            let in_text = in_text || (at == 12 && byte == " ");
            if in_text && ["\t", " ", ":"].contains(&byte) {
                let (size, head) = parsed.unwrap().unwrap();
                assert_eq!((size, head.status()), (broken.len(), 200), "{broken:?}");
                assert!(head.get("name").is_some(), "{broken:?}");
            } else if byte == ":" && (18..=21).contains(&at) {
                // The name ends sooner.
                assert_eq!(parsed.unwrap().unwrap().1.fields().count(), 1, "{broken:?}");
            } else {
                assert!(parsed.is_err(), "{broken:?}: {parsed:?}");
            }
        }
    }
}

#[test]
fn heads_are_bounded() {
    let filled = |size: usize| {
        let frame = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nA: \r\n\r\n".len();
        ok(&format!("Content-Length: 0\r\nA: {}", "x".repeat(size - frame)))
    };
    assert_eq!(filled(RESPONSE_HEAD_SIZE_MAX).len(), RESPONSE_HEAD_SIZE_MAX);
    check(filled(RESPONSE_HEAD_SIZE_MAX), "", KEEP);
    check_refused(filled(RESPONSE_HEAD_SIZE_MAX + 1), Error::HeadSize);
    check_refused("HTTP/1.1 200 ".to_owned() + &"x".repeat(100_000), Error::HeadSize);

    let counted = |count: usize| ok(&vec!["Content-Length: 0"; count].join("\r\n"));
    check(counted(RESPONSE_FIELD_COUNT_MAX), "", KEEP);
    check_refused(counted(RESPONSE_FIELD_COUNT_MAX + 1), Error::FieldCount);
}

#[test]
fn interim_responses_pass_but_not_for_ever() {
    let check_interim = |raw: &str, statuses: &[u16]| {
        let outcome = outcome_of(Method::Get, raw.as_bytes(), Then::StaysOpen);
        assert_eq!((outcome.end, &outcome.interim[..]), (End::Done(KEEP), statuses), "{raw:?}");
        assert_eq!((outcome.head.unwrap().status(), outcome.body.len()), (200, 2));
    };
    let last = ok("Content-Length: 2") + "hi";
    check_interim(&last, &[]);
    check_interim(&format!("HTTP/1.1 100 Continue\r\n\r\n{last}"), &[100]);
    check_interim(&format!("HTTP/1.1 100\r\n\r\n{last}"), &[100]);
    check_interim(&format!("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n{last}"), &[103]);
    check_interim(
        &format!("HTTP/1.1 100 C\r\n\r\nHTTP/1.1 102 P\r\n\r\nHTTP/1.1 199 X\r\n\r\n{last}"),
        &[100, 102, 199],
    );
    // No interim response has a body, whatever it says.
    check_interim(&format!("HTTP/1.1 100 C\r\nContent-Length: 9\r\n\r\n{last}"), &[100]);
    let most = "HTTP/1.1 100 C\r\n\r\n".repeat(INTERIM_COUNT_MAX);
    check_interim(&(most.clone() + &last), &[100; INTERIM_COUNT_MAX]);

    check_refused(most + "HTTP/1.1 100 C\r\n\r\n" + &last, Error::InterimCount);
    let large = format!("HTTP/1.1 100 C\r\nA: {}\r\n\r\n", "x".repeat(RESPONSE_HEAD_SIZE_MAX / 4));
    check_refused(large.repeat(4) + &last, Error::HeadSize);
    for upgrade in ["", "Upgrade: h2c\r\nConnection: Upgrade\r\n"] {
        check_refused(
            format!("HTTP/1.1 101 Switching Protocols\r\n{upgrade}\r\n{last}"),
            Error::SwitchedProtocols,
        );
    }
    check_refused(
        "HTTP/1.1 100 Continue\r\n\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        Error::NotHttp { seen: "\\r".to_owned() },
    );
}

#[test]
fn fields_are_found_by_name_in_any_case() {
    let raw = b"HTTP/1.1 200 OK\r\nETag: \"a\"\r\nLink: b\r\nlink: c, d\r\nName: \xe9\r\n\r\n";
    let (_, head) = ResponseHead::parse(raw).unwrap().unwrap();
    assert_eq!(head.get("etag"), Some("\"a\""));
    assert_eq!(head.get("ETAG"), Some("\"a\""));
    assert_eq!(head.get("absent"), None);
    assert_eq!(head.get("Link"), Some("b"));
    assert_eq!(head.get_all("LINK").collect::<Vec<_>>(), ["b", "c, d"]);
    assert_eq!(head.list("link").collect::<Vec<_>>(), [&b"b"[..], b"c", b"d"]);
    assert_eq!(head.single("etag"), Ok(Some("\"a\"")));
    assert_eq!(head.single("absent"), Ok(None));
    assert_eq!(head.single("link"), Err(Error::Repeated { name: "link".to_owned() }));
    // Bytes that are not text are kept, and an error only where text is needed.
    assert_eq!(head.get("name"), None);
    assert_eq!(head.values("name").collect::<Vec<_>>(), [b"\xe9"]);
    let error = Error::NotText { name: "name".to_owned(), value: "\\xe9".to_owned() };
    assert_eq!(head.single("name"), Err(error));

    let twice = head_of(&ok("Location: /a\r\nLocation: /a"));
    assert_eq!(twice.single("location"), Err(Error::Repeated { name: "location".to_owned() }));
}

#[test]
fn a_body_is_taken_as_it_is_or_not_at_all() {
    for fields in [
        "A: b",
        "Content-Encoding: identity",
        "Content-Encoding: Identity, IDENTITY",
        "Content-Encoding:",
        "Content-Encoding: ,",
        // Said of an upload, and repeated: the bytes are the content.
        "Content-Encoding: aws-chunked",
        "Content-Encoding: identityx",
        "Content-Encoding: UTF-8, binary",
        "Content-Encoding: \u{e9}",
    ] {
        assert_eq!(head_of(&ok(fields)).check_content_encoding(), Ok(()), "{fields:?}");
    }
    for (fields, coding) in [
        ("Content-Encoding: gzip", "gzip"),
        ("content-encoding: GZIP", "GZIP"),
        ("Content-Encoding: br", "br"),
        ("Content-Encoding: zstd", "zstd"),
        ("Content-Encoding: identity, deflate", "deflate"),
        ("Content-Encoding: gzip, identity", "gzip"),
        ("Content-Encoding: identity\r\nContent-Encoding: gzip", "gzip"),
        ("Content-Encoding: aws-chunked,gzip", "gzip"),
        ("Content-Encoding: x-gzip", "x-gzip"),
        ("Content-Encoding: compress", "compress"),
        ("Content-Encoding: dcz", "dcz"),
    ] {
        let error = head_of(&ok(fields)).check_content_encoding().unwrap_err();
        assert_eq!(error, Error::ContentEncoding { value: coding.to_owned() });
        assert_eq!(error.class(), Class::Encoding);
    }
}

// --- the connection afterwards -------------------------------------------------------------------

#[test]
fn a_connection_is_kept_only_if_nothing_speaks_against_it() {
    use CloseReason::{BodyAnnounced, BytesAfterEnd, Http10, ServerSaidClose};
    let length = "Content-Length: 2\r\n";
    let cases = [
        (1, "", KEEP),
        (1, "Connection: keep-alive\r\n", KEEP),
        (1, "Connection: Upgrade\r\n", KEEP),
        (1, "Connection:\r\n", KEEP),
        (1, "Connection: closed\r\n", KEEP),
        (1, "Connection: x-close\r\n", KEEP),
        (1, "Keep-Alive: timeout=0, max=0\r\n", KEEP),
        (1, "Connection: close\r\n", close(ServerSaidClose)),
        (1, "connection:CLOSE\r\n", close(ServerSaidClose)),
        (1, "Connection: keep-alive, close\r\n", close(ServerSaidClose)),
        (1, "Connection: close, keep-alive\r\n", close(ServerSaidClose)),
        (1, "Connection: ,\t close ,\r\n", close(ServerSaidClose)),
        (1, "Connection: keep-alive\r\nConnection: close\r\n", close(ServerSaidClose)),
        (0, "", close(Http10)),
        (0, "Connection: Upgrade\r\n", close(Http10)),
        (0, "Keep-Alive: timeout=5\r\n", close(Http10)),
        (0, "Connection: keep-alive\r\n", KEEP),
        (0, "Connection: Keep-Alive, x\r\n", KEEP),
        (0, "Connection: keep-alive, close\r\n", close(ServerSaidClose)),
    ];
    for (minor, fields, after) in cases {
        let raw = format!("HTTP/1.{minor} 200 OK\r\n{length}{fields}\r\nhi");
        check(&raw, "hi", after);
        // Whatever was said: no answer begins where the last one has not ended.
        let after = if after == KEEP { close(BytesAfterEnd) } else { after };
        check(raw + "HTTP/1.1 200 OK\r\n\r\n", "hi", after);
    }
    check("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", "", close(BodyAnnounced));
    check(
        "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n",
        "",
        close(BodyAnnounced),
    );
    check("HTTP/1.1 204 No Content\r\n\r\nx", "", close(BytesAfterEnd));
    check(chunked("2\r\nhi\r\n0\r\n\r\n\r\n"), "hi", close(BytesAfterEnd));
    check("HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\nhi", "", close(BytesAfterEnd));
}

#[test]
fn close_reasons_say_why() {
    assert_eq!(CloseReason::ServerSaidClose.to_string(), "the server said Connection: close");
    assert_eq!(CloseReason::Http10.to_string(), "HTTP/1.0 without keep-alive");
    assert_eq!(CloseReason::UntilClose.to_string(), "the body ran until close");
    assert_eq!(CloseReason::BytesAfterEnd.to_string(), "bytes after the end of the body");
}

#[test]
fn an_answer_that_is_cut_is_never_taken_for_a_whole_one() {
    for raw in [
        ok("Content-Length: 5") + "hello",
        "HTTP/1.1 100 C\r\n\r\n".to_owned() + &ok("Content-Length: 1") + "x",
        chunked("2;e\r\nhe\r\n3\r\nllo\r\n0\r\nT: v\r\n\r\n"),
        "HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 3\r\n\r\nnot".to_owned(),
    ] {
        let raw = raw.as_bytes();
        for cut in 0..raw.len() {
            for then in [Then::Closed, Then::ClosedWithoutNotify] {
                let outcome = outcome_of(Method::Get, &raw[..cut], then);
                let End::Failed(error) = outcome.end else { panic!("cut at {cut}: {outcome:?}") };
                let expected = match (cut, outcome.head) {
                    (0, _) => Error::EmptyResponse,
                    (_, None) => Error::TruncatedHead,
                    (_, Some(head)) => {
                        let length = head.content_length().unwrap();
                        let missing = length.map(|length| length - outcome.body.len() as u64);
                        Error::TruncatedBody { missing }
                    }
                };
                assert_eq!(error, expected, "cut at {cut}");
            }
        }
    }
    assert_eq!(Error::EmptyResponse.class(), Class::EmptyResponse);
    assert_eq!(Error::TruncatedHead.class(), Class::Truncated);
    assert_eq!(Error::TruncatedBody { missing: None }.class(), Class::Truncated);
    let error = Error::TruncatedBody { missing: Some(7) };
    let text = "the connection was closed within the body, with 7 bytes missing";
    assert_eq!(error.to_string(), text);
}

#[test]
fn an_exchange_knows_whether_it_has_begun() {
    let mut exchange = Exchange::new(Method::Get);
    assert!(!exchange.started());
    assert_eq!(exchange.recv(b""), Ok((0, Event::NeedMore)));
    assert!(!exchange.started() && exchange.body_remaining().is_none());
    assert_eq!(exchange.recv(b"H"), Ok((1, Event::NeedMore)));
    assert!(exchange.started());
}

// --- ranges --------------------------------------------------------------------------------------

#[test]
fn the_answered_range_is_the_one_asked_for_or_an_error() {
    let asked = ByteRange::new(100, 200).unwrap();
    let check_range = |status: u16, fields: &str, expected: Result<(), RangeError>| {
        let head = head_of(&format!("HTTP/1.1 {status} X\r\n{fields}\r\n\r\n"));
        assert_eq!(asked.check(&head, 1000), expected, "{fields:?}");
        assert!(expected.is_ok() || expected.is_err_and(|error| error.class() != Class::Limit));
    };
    for fields in [
        "Content-Range: bytes 100-199/1000",
        "content-range: Bytes 100-199/1000",
        "Content-Range: bytes 0100-0199/01000",
        "Content-Range: bytes 100-199/1000\r\nContent-Length: 100",
        "Content-Range: bytes 100-199/1000\r\nTransfer-Encoding: chunked",
        "Content-Range: bytes 100-199/1000\r\nContent-Type: application/octet-stream",
    ] {
        check_range(206, fields, Ok(()));
    }

    let other = |start, end| Err(RangeError::Other { asked, answered: ByteRange { start, end } });
    for (range, expected) in [
        ("0-99/1000", other(0, 100)),
        ("0-999/1000", other(0, 1000)),
        ("100-999/1000", other(100, 1000)),
        ("100-198/1000", other(100, 199)),
        ("100-200/1000", other(100, 201)),
        ("99-198/1000", other(99, 199)),
        ("101-199/1000", other(101, 200)),
        ("100-199/999", Err(RangeError::Total { expected: 1000, answered: 999 })),
        ("100-199/200", Err(RangeError::Total { expected: 1000, answered: 200 })),
        ("100-199/*", Err(RangeError::UnknownTotal)),
    ] {
        check_range(206, &format!("Content-Range: bytes {range}"), expected);
    }

    for value in [
        "",
        "bytes",
        "bytes 100-199",
        "bytes 100-199/",
        "bytes */1000",
        "bytes 100-/1000",
        "bytes -199/1000",
        "bytes 199-100/1000",
        "bytes 100-199/199",
        "bytes 100-1000/1000",
        "bytes=100-199/1000",
        "bytes  100-199/1000",
        "bytes\t100-199/1000",
        "bytes 100 - 199/1000",
        "bytes 100-199 /1000",
        "bytes +100-199/1000",
        "bytes 0x64-199/1000",
        "100-199/1000",
        "items 100-199/1000",
        "bytes 100-199/1000, bytes 0-1/1000",
        "bytes 100-199/1000/1000",
        "bytes 100-199/18446744073709551616",
        "bytes 18446744073709551616-199/1000",
        "bytes 0-18446744073709551615/18446744073709551615",
        "none",
    ] {
        let malformed = RangeError::Malformed { value: value.replace('\t', "\\t") };
        check_range(206, &format!("Content-Range: {value}"), Err(malformed));
    }

    let right = "Content-Range: bytes 100-199/1000";
    check_range(200, right, Err(RangeError::Status(200)));
    check_range(416, "Content-Range: bytes */1000", Err(RangeError::Status(416)));
    check_range(206, "A: b", Err(RangeError::Missing));
    let repeated = Error::Repeated { name: "content-range".to_owned() };
    check_range(206, &format!("{right}\r\n{right}"), Err(RangeError::Field(repeated)));
    for boundary in ["multipart/byteranges; boundary=x", "Multipart/ByteRanges", "multipart/mixed"]
    {
        let fields = format!("Content-Type: {boundary}\r\n{right}");
        check_range(206, &fields, Err(RangeError::Multipart));
        check_range(206, &format!("Content-Type: {boundary}"), Err(RangeError::Multipart));
    }
    for length in [0, 99, 101, 1000] {
        let fields = format!("{right}\r\nContent-Length: {length}");
        check_range(206, &fields, Err(RangeError::Length { length, size: 100 }));
    }
    let malformed = Error::ContentLength { value: "+100".to_owned() };
    let fields = format!("{right}\r\nContent-Length: +100");
    check_range(206, &fields, Err(RangeError::Field(malformed)));

    assert_eq!(RangeError::Missing.class(), Class::Range);
    assert_eq!(RangeError::Total { expected: 1, answered: 2 }.class(), Class::Size);
}

#[test]
fn ranges_are_sent_closed() {
    let range = |start, end| ByteRange { start, end };
    assert_eq!(range(0, 1).header_value(), "bytes=0-0");
    assert_eq!(range(100, 200).header_value(), "bytes=100-199");
    assert_eq!(range(0, u64::MAX).header_value(), "bytes=0-18446744073709551614");
    assert_eq!(
        (range(100, 200).size(), range(100, 200).to_string()),
        (100, "bytes 100 to 199".to_owned())
    );
    assert_eq!(ByteRange::new(5, 6), Some(range(5, 6)));
    assert_eq!((ByteRange::new(5, 5), ByteRange::new(6, 5)), (None, None));
    // An empty range breaks nothing, but no answer fits it.
    for empty in [range(0, 0), range(5, 5), range(6, 5)] {
        empty.header_value();
        let head = head_of("HTTP/1.1 206 X\r\nContent-Range: bytes 5-5/10\r\n\r\n");
        assert!(empty.check(&head, 10).is_err());
    }
}

// --- requests ------------------------------------------------------------------------------------

#[test]
fn requests_are_written_as_servers_and_proxies_want_them() {
    let url = || HttpUrl::parse("http://Registry.example:5000/v2/a/blobs/b?ns=c#d").unwrap();
    let agent = concat!("User-Agent: ringpull/", env!("CARGO_PKG_VERSION"), "\r\n");
    let request = Request::get(url());
    let expected = format!(
        "GET /v2/a/blobs/b?ns=c HTTP/1.1\r\nHost: registry.example:5000\r\n{agent}\
         Accept-Encoding: identity\r\n\r\n"
    );
    assert_eq!(String::from_utf8(request.encode(TargetForm::Origin)).unwrap(), expected);

    let request = Request::head(url())
        .header("Accept", "application/json, */*;q=0.1")
        .and_then(|request| request.header("X-Empty", ""))
        .and_then(|request| request.authorization("Bearer old".into()))
        .and_then(|request| request.authorization("Bearer t".into()))
        .and_then(|request| request.proxy_authorization("Basic p".into()))
        .unwrap()
        .range(ByteRange { start: 5, end: 10 });
    let fields = format!(
        "Host: registry.example:5000\r\n{agent}Accept-Encoding: identity\r\n\
         Accept: application/json, */*;q=0.1\r\nX-Empty: \r\nRange: bytes=5-9\r\n\
         Authorization: Bearer t\r\n"
    );
    // The proxy's credentials go to the proxy, not through it.
    let expected = format!("HEAD /v2/a/blobs/b?ns=c HTTP/1.1\r\n{fields}\r\n");
    assert_eq!(String::from_utf8(request.encode(TargetForm::Origin)).unwrap(), expected);
    let target = "http://registry.example:5000/v2/a/blobs/b?ns=c";
    let expected =
        format!("HEAD {target} HTTP/1.1\r\n{fields}Proxy-Authorization: Basic p\r\n\r\n");
    assert_eq!(String::from_utf8(request.encode(TargetForm::Absolute)).unwrap(), expected);
    assert_eq!((request.method(), request.url()), (Method::Head, &url()));
    assert_eq!(request.requested_range(), Some(ByteRange { start: 5, end: 10 }));

    let ipv6 = Request::get(HttpUrl::parse("https://[::1]/").unwrap()).encode(TargetForm::Origin);
    assert!(String::from_utf8(ipv6).unwrap().contains("\r\nHost: [::1]\r\n"));
}

#[test]
fn nothing_breaks_out_of_its_line() {
    let request = || Request::get(HttpUrl::parse("https://a.example/").unwrap());
    for name in [
        "", " ", "a b", "a:", "a\r\nb", "a\n", "a\0", "é", "(a)", "a\t", ":", "a/b", "a@b", "\"a\"",
    ] {
        let error = request().header(name, "value").unwrap_err();
        assert!(matches!(error, RequestError::Name(_)), "{name:?}");
        assert!(!error.to_string().contains(char::is_control), "{name:?}");
    }
    for value in [
        "a\r\nX: y",
        "a\nb",
        "a\rb",
        "\r\n",
        "\n",
        "a\0b",
        " a",
        "a ",
        "\ta",
        "a\t",
        "é",
        "a\u{7f}",
        "a\x1b[0m",
        "a\u{85}b",
        "a\u{2028}b",
        " ",
        "a\x0bb",
    ] {
        let error = RequestError::Value("X".to_owned());
        assert_eq!(request().header("X", value).unwrap_err(), error, "{value:?}");
        let secret = || Secret::from(value.to_owned());
        assert!(request().authorization(secret()).is_err(), "{value:?}");
        assert!(request().proxy_authorization(secret()).is_err(), "{value:?}");
    }
    assert!(request().authorization("".into()).is_err());
    for name in [
        "Host",
        "host",
        "HOST",
        "User-Agent",
        "Accept-Encoding",
        "Connection",
        "Content-Length",
        "Transfer-Encoding",
        "TE",
        "Trailer",
        "Upgrade",
        "Expect",
        "Range",
        "Authorization",
        "Proxy-Authorization",
        "Keep-Alive",
        "Proxy-Connection",
        "Via",
    ] {
        let error = RequestError::Reserved(name.to_owned());
        assert_eq!(request().header(name, "x").unwrap_err(), error);
        assert_eq!(error.class(), Class::Usage);
    }
    let fine = request().header("X-Tab", "a\tb c").unwrap();
    assert!(fine.encode(TargetForm::Origin).ends_with(b"X-Tab: a\tb c\r\n\r\n"));
}

#[test]
fn secrets_do_not_show() {
    let secret = Secret::from("CANARY\r\n");
    assert_eq!(format!("{secret} {secret:?} {secret:#?}"), "‹secret› ‹secret› ‹secret›");
    assert_eq!(secret.expose(), "CANARY\r\n");
    let request = Request::get(HttpUrl::parse("https://a.example/?t=CANARY").unwrap());
    let error = request.clone().authorization(secret).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("CANARY"));
    let request = request
        .header("X-Auth", "CANARY")
        .and_then(|request| request.authorization("CANARY".into()))
        .and_then(|request| request.proxy_authorization("CANARY".into()))
        .unwrap();
    let shown = format!("{request:?} {request:#?}");
    assert!(!shown.contains("CANARY") && shown.contains("X-Auth"), "{shown}");

    let fields = "Location: https://b/?sig=CANARY\r\nSet-Cookie: CANARY\r\nContent-Length: 5";
    let shown = format!("{:?}", head_of(&ok(fields)));
    assert!(!shown.contains("CANARY") && shown.contains("content-length: 5"), "{shown}");
}

// --- errors --------------------------------------------------------------------------------------

#[test]
fn errors_show_what_a_peer_sent_escaped_and_short() {
    let hostile = format!("\u{9b}31m\u{202e}{}", "y".repeat(5000));
    let raw = ok(&format!("Content-Length: {hostile}"));
    let End::Failed(error) = outcome_of(Method::Get, raw.as_bytes(), Then::StaysOpen).end else {
        panic!("accepted");
    };
    let text = error.to_string();
    assert!(text.is_ascii() || text.replace('…', "").is_ascii(), "{text}");
    assert!(text.len() < 600, "{text}");
    assert_eq!(error.class(), Class::Framing);
    for (error, class) in [
        (Error::HeadSize, Class::Limit),
        (Error::FieldCount, Class::Limit),
        (Error::InterimCount, Class::Limit),
        (Error::ChunkExtensionSize, Class::Limit),
        (Error::TrailerSize, Class::Limit),
        (Error::SwitchedProtocols, Class::Framing),
        (Error::TwoFramings, Class::Framing),
        (Error::ChunkSizeOverflow, Class::Framing),
        (Error::UncleanClose, Class::Truncated),
    ] {
        assert_eq!(error.class(), class, "{error}");
    }
}

// --- chance --------------------------------------------------------------------------------------

/// Not a fuzzer, but what a fuzzer would find within a second: no panic, no endless loop, no byte
/// used twice, and one outcome for all ways to cut.
#[test]
fn mutations_of_good_answers_do_no_harm() {
    let seeds: Vec<Vec<u8>> = [
        ok("Content-Length: 5") + "hello",
        ok("Content-Length: 5, 5\r\nConnection: close") + "hello",
        "HTTP/1.1 100 Continue\r\n\r\n".to_owned() + &ok("Content-Length: 1") + "x",
        chunked("5;a=b\r\nhello\r\n3\r\nabc\r\n0\r\nT: v\r\n\r\n"),
        "HTTP/1.0 206 Partial Content\r\nContent-Range: bytes 0-1/2\r\n\r\nhi".to_owned(),
        "HTTP/1.1 204 No Content\r\n\r\n".to_owned(),
    ]
    .map(String::into_bytes)
    .into();
    let tokens: [&[u8]; 12] = [
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b" ",
        b":",
        b",",
        b"0",
        b"f",
        b";",
        b"HTTP/1.1 ",
        b"Transfer-Encoding: chunked\r\n",
    ];
    let mut random = fastrand::Rng::with_seed(0x5249_4e47);
    for _ in 0..20_000 {
        let mut raw = random.choice(&seeds).unwrap().clone();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(0..raw.len());
            match random.u8(0..4) {
                0 => raw[at] = random.u8(..),
                1 => drop(raw.remove(at)),
                2 => drop(raw.splice(at..at, random.choice(tokens).unwrap().iter().copied())),
                _ => raw.truncate(at.max(1)),
            }
            if raw.is_empty() {
                raw.push(b'H');
            }
        }
        let method = random.choice([Method::Get, Method::Head]).unwrap();
        let then =
            random.choice([Then::StaysOpen, Then::Closed, Then::ClosedWithoutNotify]).unwrap();
        let whole = feed(method, [&raw[..]], then);
        let (first, second) = (random.usize(0..=raw.len()), random.usize(0..=raw.len()));
        let (first, second) = (first.min(second), first.max(second));
        let pieces = [&raw[..first], &raw[first..second], &raw[second..]];
        assert_eq!(feed(method, pieces, then), whole, "{}", raw.escape_ascii());
        let dripped = feed(method, raw.chunks(1), then);
        assert_eq!(dripped, whole, "{}", raw.escape_ascii());
    }
}
