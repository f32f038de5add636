//! Properties of answers: heads, chunked bodies, and the fields that decide something.

use std::time::{Duration, SystemTime};

use ringpull::http::{
    After, ByteRange, CloseReason, Error, Event, Exchange, Framing, HttpUrl, Method, ResponseHead,
    Version,
};
use ringpull::limits::{
    CHUNK_EXTENSION_SIZE_MAX, REDIRECTS_MAX, RESPONSE_FIELD_COUNT_MAX, RESPONSE_HEAD_SIZE_MAX,
};
use ringpull::origin::Scheme;
use ringpull::registry::answer::RetryAfter;
use ringpull::registry::challenge::{self, Challenge};
use ringpull::registry::redirect::Trail;
use ringpull::registry::{realm, token};

use super::{Numbers, check_message};

/// A response head: cut anywhere it is the beginning of one, or refused for the same reason; what
/// follows it changes nothing; written again from what was understood, it is the same head.
pub fn head(bytes: &[u8]) {
    let cut = Numbers::of(bytes).below(bytes.len() + 1);
    let whole = ResponseHead::parse(bytes);
    match (ResponseHead::parse(&bytes[..cut]), &whole) {
        (Ok(None), _) => {}
        (part, whole) => assert_eq!(part, *whole, "the first {cut} bytes decide otherwise"),
    }
    match whole {
        Ok(None) => assert!(bytes.len() <= RESPONSE_HEAD_SIZE_MAX, "more bytes are waited for"),
        Ok(Some((size, head))) => {
            assert!(size <= bytes.len() && size <= RESPONSE_HEAD_SIZE_MAX);
            assert_eq!(ResponseHead::parse(&bytes[..size - 1]), Ok(None));
            assert_eq!(ResponseHead::parse(&bytes[..size]), Ok(Some((size, head.clone()))));
            check_head(&head);
        }
        Err(error) => check_message(&error),
    }
}

fn check_head(head: &ResponseHead) {
    assert!((100..=599).contains(&head.status()));
    assert!(head.fields().count() <= RESPONSE_FIELD_COUNT_MAX);
    let version = match head.version() {
        Version::Http10 => "HTTP/1.0",
        Version::Http11 => "HTTP/1.1",
    };
    let mut written = format!("{version} {} \r\n", head.status()).into_bytes();
    for (name, value) in head.fields() {
        assert!(!name.is_empty() && !name.bytes().any(|byte| byte.is_ascii_uppercase()));
        assert!(!value.iter().any(|byte| b"\r\n\0".contains(byte)), "{value:?}");
        let blank = |byte: Option<&u8>| byte.is_some_and(|byte| b" \t".contains(byte));
        assert!(!blank(value.first()) && !blank(value.last()), "{value:?}");
        written.extend([name.as_bytes(), b":", value, b"\r\n"].concat());
    }
    written.extend(b"\r\n");
    let size = written.len();
    assert_eq!(ResponseHead::parse(&written), Ok(Some((size, head.clone()))));
    for method in [Method::Get, Method::Head] {
        match Framing::of(method, head) {
            Ok(framing) => {
                let length = head.content_length().unwrap();
                assert!(framing != Framing::Chunked || length.is_none(), "two framings");
                After::of(head, framing);
            }
            Err(error) => check_message(&error),
        }
    }
}

// --- chunked -------------------------------------------------------------------------------------

/// A chunked body: in whatever pieces it comes, the payload, the end and the error are the same; the
/// payload is that of a decoder which is written down in the plainest way; and any payload arrives,
/// in whatever chunks it is sent.
pub fn chunked(bytes: &[u8]) {
    const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let sent = [HEAD, bytes].concat();
    let mut numbers = Numbers::of(bytes);
    let whole = Delivery::of(&sent, Method::Get, |room| room);
    let pieces = Delivery::of(&sent, Method::Get, |room| 1 + numbers.below(room.min(1 << 10)));
    assert_eq!(whole, pieces, "pieces change what an answer is");
    match (&whole.end, plainly(bytes)) {
        (End::Done { used, .. }, Some((payload, size))) => {
            assert_eq!((used - HEAD.len(), &whole.body), (size, &payload));
        }
        // What is plain is no error, but for the bounds, which only we have.
        (End::Done { .. }, None) => panic!("taken, though it is not a chunked body"),
        (End::Failed(Error::ChunkExtensionSize | Error::HeadSize | Error::TrailerSize), _) => {}
        (end, Some(_)) => panic!("a chunked body, but {end:?}"),
        (_, None) => {}
    }
    check_encoded(bytes, &mut numbers);
}

/// The payload of a chunked body, and the size of it all, if it is whole and follows RFC 9112
/// section 7.1, with the line ends that we insist on. Blanks may follow a size.
fn plainly(mut bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let all = bytes.len();
    let mut payload = Vec::new();
    loop {
        let (line, rest) = line(bytes)?;
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let (size, extension) = (str::from_utf8(&line[..digits]).ok()?, &line[digits..]);
        if digits == 0 || digits > 16 || !is_extension(extension) {
            return None;
        }
        let size = u64::from_str_radix(size, 16).ok()?;
        if size == 0 {
            bytes = rest;
            break;
        }
        let size = usize::try_from(size).ok()?;
        payload.extend(rest.get(..size)?);
        bytes = rest.get(size..)?.strip_prefix(b"\r\n")?;
    }
    loop {
        let (line, rest) = line(bytes)?;
        bytes = rest;
        if line.is_empty() {
            return Some((payload, all - bytes.len()));
        }
        let colon = line.iter().position(|&byte| byte == b':')?;
        if colon == 0 || !line[..colon].iter().all(|&byte| is_token(byte)) {
            return None;
        }
    }
}

/// The line that `bytes` begin with, which has no NUL, and what follows.
fn line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| b"\0\r\n".contains(byte))?;
    Some((&bytes[..end], bytes[end..].strip_prefix(b"\r\n")?))
}

fn is_extension(bytes: &[u8]) -> bool {
    let blanks = bytes.iter().take_while(|byte| b" \t".contains(byte)).count();
    bytes[blanks..].is_empty() || bytes[blanks..].starts_with(b";")
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Sends `payload` in chunks of many sizes, with an extension and a trailer here and there.
fn check_encoded(payload: &[u8], numbers: &mut Numbers) {
    let mut sent = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    let (mut rest, mut room) = (payload, CHUNK_EXTENSION_SIZE_MAX);
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(1 + numbers.below(rest.len().min(300)));
        let extension = match room.checked_sub(4) {
            Some(left) if numbers.below(4) == 0 => {
                room = left;
                ";a=b"
            }
            _ => "",
        };
        sent.extend(format!("{:x}{extension}\r\n", chunk.len()).bytes());
        sent.extend([chunk, b"\r\n"].concat());
        rest = after;
    }
    sent.extend(b"0\r\n");
    if numbers.below(2) == 0 {
        sent.extend(format!("trailer: {}\r\n", "x".repeat(numbers.below(100))).bytes());
    }
    sent.extend(b"\r\n");
    let delivery = Delivery::of(&sent, Method::Get, |room| 1 + numbers.below(room));
    assert!(delivery.body == payload, "the payload differs");
    assert_eq!(delivery.end, End::Done { after: After::Keep, used: sent.len() });
}

/// What an answer came to, however it was cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Delivery {
    /// Statuses of interim answers.
    pub(super) interim: Vec<u16>,
    pub(super) head: Option<ResponseHead>,
    pub(super) body: Vec<u8>,
    pub(super) end: End,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// After so many bytes.
    Done {
        after: After,
        used: usize,
    },
    Failed(Error),
}

impl Delivery {
    /// Gives `sent` to an exchange in pieces, whose size `piece` chooses, up to what is left; then the
    /// peer closes, cleanly.
    pub(super) fn of(
        sent: &[u8],
        method: Method,
        mut piece: impl FnMut(usize) -> usize,
    ) -> Delivery {
        let mut exchange = Exchange::new(method);
        let (mut interim, mut head, mut body) = (Vec::new(), None, Vec::new());
        let (mut begin, mut end) = (0, 0);
        let end = loop {
            let input = &sent[begin..end];
            let before = exchange.body_remaining();
            let (used, event) = match exchange.recv(input) {
                Ok(step) => step,
                Err(error) => {
                    assert_eq!(exchange.recv(b"HTTP"), Err(error.clone()), "it recovered");
                    assert_eq!(exchange.recv_eof(true), Err(error.clone()), "it recovered");
                    break End::Failed(error);
                }
            };
            assert!(used <= input.len());
            begin += used;
            match event {
                Event::NeedMore => {
                    assert_eq!(used, input.len(), "bytes are asked for twice");
                    if end == sent.len() {
                        break match exchange.recv_eof(true) {
                            Ok(after) => End::Done { after, used: begin },
                            Err(error) => End::Failed(error),
                        };
                    }
                    end += piece(sent.len() - end);
                }
                Event::Interim { status } => interim.push(status),
                Event::Head(found) => assert!(head.replace(found).is_none(), "two heads"),
                Event::Body(range) => {
                    assert!(!range.is_empty() && range.end <= used);
                    if let (Some(before), Some(after)) = (before, exchange.body_remaining()) {
                        assert_eq!(before - after, range.len() as u64);
                    }
                    body.extend_from_slice(&input[range]);
                }
                // Whether more bytes have come by then is the network's business.
                Event::Done(After::Keep | After::Close(CloseReason::BytesAfterEnd)) => {
                    break End::Done { after: After::Keep, used: begin };
                }
                Event::Done(after) => break End::Done { after, used: begin },
            }
        };
        Delivery { interim, head, body, end }
    }
}

// --- fields --------------------------------------------------------------------------------------

/// The fields that decide something, one line of the input each: `Content-Range`,
/// `WWW-Authenticate`, `Retry-After`, `Location`.
///
/// A range passes if and only if it reads as the one asked for. No challenge spoils one beside it. A realm that was read can be asked
/// without leaving its origin. No redirect leaves https, goes in circles, or takes credentials to
/// another origin. No date overflows.
pub fn headers(bytes: &[u8]) {
    let mut lines = bytes.splitn(4, |&byte| byte == b'\n');
    let mut line = || lines.next().unwrap_or_default();
    let (range, authenticate, retry_after, location) = (line(), line(), line(), line());
    check_range(range, &mut Numbers::of(bytes));
    if let Some(head) = with_field(401, "www-authenticate", authenticate) {
        check_challenge(&head);
    }
    if let Some(head) = with_field(503, "retry-after", retry_after) {
        check_retry_after(&head);
    }
    if let Some(head) = with_field(307, "location", location) {
        check_redirect(&head);
    }
    check_beside(authenticate);
    check_quoting(authenticate);
}

/// A head with one field, if the value may stand there at all.
fn with_field(status: u16, name: &str, value: &[u8]) -> Option<ResponseHead> {
    let start = format!("HTTP/1.1 {status} x\r\n{name}: ");
    let head = [start.as_bytes(), value, b"\r\n\r\n"].concat();
    match ResponseHead::parse(&head) {
        Ok(Some((size, head_read))) if size == head.len() => Some(head_read),
        _ => None,
    }
}

fn check_range(value: &[u8], numbers: &mut Numbers) {
    let Some(head) = with_field(206, "content-range", value) else { return };
    // As loosely as one may read it; what is asked for is either this, or beside it.
    let text = String::from_utf8_lossy(value);
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let read = text.trim().split_once(' ').and_then(|(_, rest)| {
        let (range, total) = rest.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        Some((number(first)?, number(last)?.checked_add(1)?, number(total)?))
    });
    let (start, end, total) = read.unwrap_or((0, 1, 1));
    let asked = [
        (start, end, total),
        (start, end.saturating_add(1), total),
        (start.saturating_add(1), end, total),
        (start, end, total.saturating_add(1)),
        (numbers.below(100) as u64, 100, 100),
    ];
    for (start, end, total) in asked {
        match (ByteRange { start, end }).check(&head, total) {
            Ok(()) => assert_eq!(read, Some((start, end, total)), "another range passes"),
            Err(error) => check_message(&error),
        }
    }
    if let Some(asked) = ByteRange::new(start, end)
        && end <= total
    {
        let honest = format!("bytes {start}-{}/{total}", end - 1);
        let head = with_field(206, "content-range", honest.as_bytes()).unwrap();
        assert_eq!(asked.check(&head, total), Ok(()));
    }
}

fn check_challenge(head: &ResponseHead) {
    let start = HttpUrl::parse("https://registry.example.com/v2/").unwrap();
    match challenge::read(head) {
        Err(error) => check_message(&error),
        Ok(Challenge::Basic) => {}
        Ok(Challenge::Other(scheme)) => assert!(!scheme.is_empty()),
        Ok(Challenge::Bearer(bearer)) => {
            let realm = match realm::parse(&start.origin(), &bearer.realm) {
                Ok(realm) => realm,
                Err(refused) => return check_message(&refused),
            };
            let url = token::request_url(&realm, &bearer, "library/demo");
            assert_eq!(url.origin(), realm.origin());
            assert_eq!(url.path(), realm.path());
            assert!(url.path_and_query().starts_with(realm.path_and_query()));
            for has_credentials in [false, true] {
                match realm::check(&start.origin(), &url, has_credentials, &[]) {
                    Ok(_) => assert_eq!(url.origin().scheme(), Scheme::Https),
                    Err(refused) => check_message(&refused),
                }
            }
        }
    }
}

/// A good challenge in a field of its own is answered, whatever stands in the one before.
fn check_beside(value: &[u8]) {
    let good = b"\r\nwww-authenticate: Bearer realm=\"https://auth.example.com/\"";
    if let Some(head) = with_field(401, "www-authenticate", &[value, good].concat()) {
        let read = challenge::read(&head);
        assert!(matches!(read, Ok(Challenge::Bearer(_))), "{read:?}");
    }
}

/// Whatever can be put into a quoted string comes out of it as it was.
fn check_quoting(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    if text.is_empty() || text.chars().any(char::is_control) {
        return;
    }
    let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
    let field = format!("Basic realm=\"x\", BEARER scope=\"a, b\" , realm=\"{quoted}\"");
    let read = challenge::parse([field.as_str()]);
    let Some(Ok(Challenge::Bearer(bearer))) = read.get(1) else { panic!("{read:?} of {field}") };
    assert_eq!((bearer.realm.as_str(), bearer.scope.as_deref()), (text, Some("a, b")));
}

fn check_retry_after(head: &ResponseHead) {
    let Some(when) = RetryAfter::of(head) else { return };
    check_message(&when);
    for now in [SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 34)] {
        let delay = when.delay(now);
        assert!(now.checked_add(delay).is_some() && delay.checked_mul(2).is_some());
    }
}

fn check_redirect(head: &ResponseHead) {
    let start = HttpUrl::parse("https://registry.example.com/v2/a/blobs/x?y").unwrap();
    let mut trail = Trail::new(start.clone());
    let mut hops = 0;
    loop {
        let from = trail.current().clone();
        let redirect = match trail.follow(head) {
            Ok(redirect) => redirect,
            Err(error) => return check_message(&error),
        };
        hops += 1;
        assert!(hops <= REDIRECTS_MAX, "no end");
        assert!(redirect.url != from && redirect.url.origin().scheme() == Scheme::Https);
        assert!(!redirect.keeps_credentials || redirect.url.origin() == start.origin());
        check_url(&redirect.url);
    }
}

/// A URL can be sent: as a request it is one line, and read again it is the same.
fn check_url(url: &HttpUrl) {
    let text = url.absolute();
    assert!(text.bytes().all(|byte| byte.is_ascii_graphic()), "{text:?} cannot be sent");
    assert!(url.path_and_query().starts_with('/'));
    assert!(!url.to_string().chars().any(char::is_control));
    if text.len() <= ringpull::limits::URL_SIZE_MAX {
        assert_eq!(HttpUrl::parse(&text).as_ref(), Ok(url), "{text}");
    }
}
