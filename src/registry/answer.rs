//! What an answer means, by what was asked (OCI distribution-spec, sections "Pull" and "Error
//! Codes").

use std::fmt;
use std::time::{Duration, SystemTime};

use serde::Deserialize;

use super::redirect::is_redirect;
use crate::error::Class;
use crate::http::ResponseHead;
use crate::image::Digest;
use crate::image::shown::shown_up_to;
use crate::limits::REFUSAL_TEXT_LENGTH_MAX;
use crate::report::format;

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Asked {
    /// `/v2/`.
    Ping,
    /// A manifest or index.
    Manifest,
    /// A blob or a part of it.
    Blob,
    /// A token, of a token service.
    Token,
}

/// What the status means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// 200, or 206 for a part of a blob: the content follows.
    Ok,
    /// To be asked elsewhere: see [`super::redirect`].
    Redirect,
    /// 401: to be asked again with credentials, if there are any that were not sent yet: see
    /// [`super::challenge`].
    Challenge,
    /// It is not there.
    NotFound,
    /// It is not for us.
    Denied,
    /// 429.
    RateLimited {
        /// When to ask again, if the registry says so in a way that can be understood.
        retry_after: Option<RetryAfter>,
    },
    /// 408 and the temporary ones of 5xx: may go better soon.
    Unavailable {
        /// When to ask again, if the registry says so in a way that can be understood.
        retry_after: Option<RetryAfter>,
    },
    /// 416: the blob is not that long (or the registry does not do ranges at all).
    RangeRefused,
    /// Anything else. Asking again would not help.
    Refused,
}

/// The value of `Retry-After` (RFC 9110 section 10.2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryAfter {
    /// So much later.
    Delay(Duration),
    /// At this time, by the registry's clock.
    At {
        /// The time.
        time: SystemTime,
        /// What its clock showed, if it said so (`Date`).
        date: Option<SystemTime>,
    },
}

/// An answer that is not what was asked for, with what the registry said to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What was asked for.
    pub asked: Asked,
    /// The status.
    pub status: u16,
    /// What it means.
    pub answer: Answer,
    /// What the registry says, escaped, at most [`REFUSAL_TEXT_LENGTH_MAX`] characters; may be empty.
    text: String,
}

/// The registry's `Docker-Content-Digest` is not that of the bytes it sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Docker-Content-Digest says {header}, but the bytes that came have {computed}")]
pub struct DigestHeaderError {
    /// What the header says.
    pub header: Box<Digest>,
    /// The digest of the bytes.
    pub computed: Box<Digest>,
}

impl DigestHeaderError {
    /// Always [`Class::DigestHeader`].
    pub fn class(&self) -> Class {
        Class::DigestHeader
    }
}

impl Answer {
    /// The meaning of `head` as the answer to a request for `asked`.
    pub fn of(asked: Asked, head: &ResponseHead) -> Answer {
        match (head.status(), asked) {
            (200, _) | (206, Asked::Blob) => Answer::Ok,
            // A token service that redirects would have us carry credentials to where it likes.
            (status, Asked::Ping | Asked::Manifest | Asked::Blob) if is_redirect(status) => {
                Answer::Redirect
            }
            (401, Asked::Token) => Answer::Denied,
            (401, _) => Answer::Challenge,
            (403, _) => Answer::Denied,
            (404, Asked::Ping | Asked::Manifest | Asked::Blob) => Answer::NotFound,
            (416, Asked::Blob) => Answer::RangeRefused,
            (429, _) => Answer::RateLimited { retry_after: RetryAfter::of(head) },
            // 520 to 524: a content delivery network cannot reach the registry behind it.
            (408 | 500 | 502..=504 | 520..=524, _) => {
                Answer::Unavailable { retry_after: RetryAfter::of(head) }
            }
            _ => Answer::Refused,
        }
    }
}

impl RetryAfter {
    /// The first `Retry-After` of `head`, if it is a number of seconds other than 0, or an HTTP date.
    pub fn of(head: &ResponseHead) -> Option<RetryAfter> {
        RetryAfter::parse(head.get("retry-after")?, head.get("date"))
    }

    fn parse(text: &str, date: Option<&str>) -> Option<RetryAfter> {
        let text = text.trim();
        // "At once" is what no field says, too.
        if !text.is_empty() && text.bytes().all(|byte| byte == b'0') {
            return None;
        }
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            // More digits than fit mean "never", not "at once". A hundred years are never, and can be
            // added to any time without overflow.
            let seconds = text.parse().unwrap_or(u32::MAX);
            return Some(RetryAfter::Delay(Duration::from_secs(seconds.into())));
        }
        let date = date.and_then(|date| httpdate::parse_http_date(date).ok());
        httpdate::parse_http_date(text).ok().map(|time| RetryAfter::At { time, date })
    }

    /// How long to wait, if it is `now`, which counts only where the registry does not say what its own
    /// clock shows: ours may be a day off. Zero for a time that has passed.
    pub fn delay(self, now: SystemTime) -> Duration {
        match self {
            RetryAfter::Delay(delay) => delay,
            RetryAfter::At { time, date } => {
                time.duration_since(date.unwrap_or(now)).unwrap_or_default()
            }
        }
    }
}

impl fmt::Display for RetryAfter {
    /// `in 30 s`, `at 1994-11-06T08:49:37Z`: to be put behind "ask again".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RetryAfter::Delay(delay) => write!(f, "in {}", format::duration(*delay)),
            RetryAfter::At { time, .. } => {
                write!(f, "at {}", humantime::format_rfc3339_seconds(*time))
            }
        }
    }
}

impl Refusal {
    /// The refusal of `asked` by `head`, and by `body` or the beginning of it: up to
    /// [`REFUSAL_BODY_SIZE_MAX`](crate::limits::REFUSAL_BODY_SIZE_MAX) bytes are worth reading.
    pub fn new(asked: Asked, head: &ResponseHead, body: &[u8]) -> Refusal {
        Refusal {
            asked,
            status: head.status(),
            answer: Answer::of(asked, head),
            // What is compressed says nothing.
            text: match head.check_content_encoding() {
                Ok(()) => shown_up_to(&what_it_says(body), REFUSAL_TEXT_LENGTH_MAX),
                Err(_) => String::new(),
            },
        }
    }

    /// The refusal in words. `elsewhere` is who refused, if the registry redirected us there.
    pub fn told(&self, elsewhere: Option<&str>) -> String {
        let registry = match elsewhere {
            None => "the registry".to_owned(),
            Some(host) => format!("{host}, where the registry redirects to,"),
        };
        let server = if elsewhere.is_some() { registry.as_str() } else { "the server" };
        let meaning = match self.answer {
            Answer::NotFound => match self.asked {
                Asked::Ping => "there is no registry (no /v2/) at this address".to_owned(),
                Asked::Manifest => format!("{registry} has no such manifest"),
                Asked::Blob | Asked::Token => format!("{registry} has no such blob"),
            },
            Answer::Challenge if elsewhere.is_some() => {
                format!("{registry} asks for credentials of its own, and gets none")
            }
            Answer::Denied if self.asked == Asked::Token => {
                "the token service refused access".to_owned()
            }
            Answer::Challenge | Answer::Denied => format!("{registry} refused access"),
            Answer::RateLimited { .. } if elsewhere.is_some() => {
                format!("{registry} got too many requests")
            }
            Answer::RateLimited { .. } => "too many requests".to_owned(),
            Answer::Unavailable { .. } => format!("{server} cannot answer now"),
            Answer::RangeRefused => format!("{registry} refused the range asked for"),
            Answer::Refused if self.class() == Class::RealmRefused => {
                "the token service redirects, which is not followed with credentials at stake"
                    .into()
            }
            Answer::Ok | Answer::Redirect | Answer::Refused => {
                format!("{server} did not do as asked")
            }
        };
        let mut told = format!("{meaning} (status {})", self.status);
        if let Answer::RateLimited { retry_after: Some(when) }
        | Answer::Unavailable { retry_after: Some(when) } = self.answer
        {
            told.push_str(&format!(", to be asked again {when}"));
        }
        if !self.text.is_empty() {
            told.push_str(": ");
            told.push_str(&self.text);
        }
        told
    }

    /// What kind of failure this is, for whoever cannot do better.
    pub fn class(&self) -> Class {
        match self.answer {
            Answer::NotFound => Class::NotFound,
            Answer::Challenge | Answer::Denied => Class::Auth,
            Answer::RateLimited { .. } => Class::RateLimited,
            Answer::Unavailable { .. } => Class::Http5xx,
            Answer::RangeRefused => Class::Range,
            Answer::Refused if self.asked == Asked::Token && is_redirect(self.status) => {
                Class::RealmRefused
            }
            Answer::Ok | Answer::Redirect | Answer::Refused => Class::HttpStatus,
        }
    }
}

impl std::error::Error for Refusal {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.told(None))
    }
}

/// Checks the `Docker-Content-Digest` of a manifest that was asked for by tag (`requested` is `None`)
/// against its bytes.
///
/// By digest, the header is not looked at: the bytes are checked against the digest asked for, and
/// that is all there is to know. A field that is empty, malformed, or of an algorithm that ringpull
/// cannot compute says nothing: it is as good as none.
pub fn check_content_digest(
    header: Option<&str>,
    bytes: &[u8],
    requested: Option<&Digest>,
) -> Result<(), DigestHeaderError> {
    let (Some(header), None) = (header, requested) else { return Ok(()) };
    let Ok(header) = Digest::parse(header.trim()) else { return Ok(()) };
    let computed = Digest::of(header.algorithm(), bytes);
    match computed == header {
        true => Ok(()),
        false => Err(DigestHeaderError { header: Box::new(header), computed: Box::new(computed) }),
    }
}

/// The registry's list of errors (`{"errors":[{"code":…,"message":…}]}`), what token services put in
/// its place (`{"details":…}`, `{"error":…,"error_description":…}`), the code and message of a storage
/// (`<Error><Code>…</Code><Message>…`), or else the text as it is. A page for a browser is not worth more
/// than its title.
fn what_it_says(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let text = text.trim_start_matches('\u{feff}').trim();
    if text.starts_with('<') {
        return what_markup_says(text);
    }
    let Ok(fields) = serde_json::from_str::<RefusalFields>(text) else {
        return text.to_owned();
    };
    let listed = fields.errors.unwrap_or_default().into_iter().map(|error| {
        [error.code, error.message].into_iter().flatten().collect::<Vec<_>>().join(": ")
    });
    let others = [fields.error, fields.error_description, fields.details, fields.message];
    let all: Vec<String> =
        listed.chain(others.into_iter().flatten()).filter(|text| !text.is_empty()).collect();
    match all.is_empty() {
        true => text.to_owned(),
        false => all.join("; "),
    }
}

/// The title of a page, or the code and message of an XML error. Nothing else of either is for people
/// who do not look at it in a browser.
fn what_markup_says(text: &str) -> String {
    if let Some(title) = element(text, "title") {
        return format!("a page titled \"{title}\"");
    }
    let parts = [element(text, "code"), element(text, "message")];
    parts.into_iter().flatten().collect::<Vec<_>>().join(": ")
}

/// The text of the first element of this name, in one line, with the entities resolved that XML has.
fn element(text: &str, name: &str) -> Option<String> {
    // ASCII only, so that places in one are places in the other.
    let lower = text.to_ascii_lowercase();
    let tag = format!("<{name}");
    let is_tag = |(at, _): &(usize, &str)| {
        lower[at + tag.len()..].starts_with(|next: char| next == '>' || next.is_ascii_whitespace())
    };
    let (at, _) = lower.match_indices(&tag).find(is_tag)?;
    let begin = at + lower[at..].find('>')? + 1;
    let end = begin + lower[begin..].find(&format!("</{name}"))?;
    let mut content = text[begin..end].split_whitespace().collect::<Vec<_>>().join(" ");
    // `&amp;` last: what it makes is no entity.
    for (entity, character) in
        [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&amp;", "&")]
    {
        content = content.replace(entity, character);
    }
    (!content.is_empty()).then_some(content)
}

#[derive(Deserialize)]
struct RefusalFields {
    errors: Option<Vec<ErrorFields>>,
    error: Option<String>,
    error_description: Option<String>,
    details: Option<String>,
    message: Option<String>,
}

#[derive(Deserialize)]
struct ErrorFields {
    code: Option<String>,
    message: Option<String>,
}

/// Whether a server that speaks TLS says that it was asked in plain http: Go's, nginx, Apache and
/// Tomcat have a text for that, and most others close the connection.
pub fn wants_tls(status: u16, body: &[u8]) -> bool {
    const TEXTS: [&str; 4] = [
        "HTTP request to an HTTPS server",
        "plain HTTP request was sent to HTTPS port",
        "speaking plain HTTP to an SSL-enabled server port",
        "combination of host and port requires TLS",
    ];
    let body = String::from_utf8_lossy(body);
    status == 400 && TEXTS.iter().any(|text| body.contains(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Algorithm;

    fn head(status: u16, fields: &str) -> ResponseHead {
        let text = format!("HTTP/1.1 {status} x\r\n{fields}\r\n");
        ResponseHead::parse(text.as_bytes()).unwrap().unwrap().1
    }

    #[test]
    fn every_status_has_a_meaning_for_everything_asked() {
        use Answer::*;
        let unavailable = Unavailable { retry_after: None };
        let limited = RateLimited { retry_after: None };
        for (status, ping, manifest, blob, token) in [
            (200, Ok, Ok, Ok, Ok),
            (201, Refused, Refused, Refused, Refused),
            (204, Refused, Refused, Refused, Refused),
            (206, Refused, Refused, Ok, Refused),
            (300, Refused, Refused, Refused, Refused),
            (301, Redirect, Redirect, Redirect, Refused),
            (302, Redirect, Redirect, Redirect, Refused),
            (303, Redirect, Redirect, Redirect, Refused),
            (304, Refused, Refused, Refused, Refused),
            (305, Refused, Refused, Refused, Refused),
            (307, Redirect, Redirect, Redirect, Refused),
            (308, Redirect, Redirect, Redirect, Refused),
            (400, Refused, Refused, Refused, Refused),
            (401, Challenge, Challenge, Challenge, Denied),
            (402, Refused, Refused, Refused, Refused),
            (403, Denied, Denied, Denied, Denied),
            (404, NotFound, NotFound, NotFound, Refused),
            (405, Refused, Refused, Refused, Refused),
            (407, Refused, Refused, Refused, Refused),
            (408, unavailable, unavailable, unavailable, unavailable),
            (410, Refused, Refused, Refused, Refused),
            (416, Refused, Refused, RangeRefused, Refused),
            (429, limited, limited, limited, limited),
            (451, Refused, Refused, Refused, Refused),
            (500, unavailable, unavailable, unavailable, unavailable),
            (501, Refused, Refused, Refused, Refused),
            (502, unavailable, unavailable, unavailable, unavailable),
            (503, unavailable, unavailable, unavailable, unavailable),
            (504, unavailable, unavailable, unavailable, unavailable),
            (505, Refused, Refused, Refused, Refused),
            (522, unavailable, unavailable, unavailable, unavailable),
        ] {
            let answers = [Asked::Ping, Asked::Manifest, Asked::Blob, Asked::Token]
                .map(|asked| Answer::of(asked, &head(status, "")));
            assert_eq!(answers, [ping, manifest, blob, token], "{status}");
        }
    }

    #[track_caller]
    fn check_class(asked: Asked, status: u16, expected: Class) {
        assert_eq!(Refusal::new(asked, &head(status, ""), b"").class(), expected);
    }

    #[test]
    fn refusals_have_a_class() {
        check_class(Asked::Manifest, 404, Class::NotFound);
        check_class(Asked::Manifest, 401, Class::Auth);
        check_class(Asked::Token, 401, Class::Auth);
        check_class(Asked::Blob, 403, Class::Auth);
        check_class(Asked::Blob, 416, Class::Range);
        check_class(Asked::Manifest, 429, Class::RateLimited);
        check_class(Asked::Token, 503, Class::Http5xx);
        check_class(Asked::Token, 302, Class::RealmRefused);
        check_class(Asked::Token, 404, Class::HttpStatus);
        check_class(Asked::Blob, 451, Class::HttpStatus);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let date = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let seconds = |seconds| Some(RetryAfter::Delay(Duration::from_secs(seconds)));
        for (value, expected) in [
            ("0", None),
            ("00", None),
            ("01", seconds(1)),
            ("30", seconds(30)),
            (" 30 ", seconds(30)),
            ("4294967296", seconds(u32::MAX.into())),
            ("99999999999999999999999", seconds(u32::MAX.into())),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(RetryAfter::At { time: date, date: None })),
            ("Sunday, 06-Nov-94 08:49:37 GMT", Some(RetryAfter::At { time: date, date: None })),
            ("Sun Nov  6 08:49:37 1994", Some(RetryAfter::At { time: date, date: None })),
            ("", None),
            ("+30", None),
            ("-1", None),
            ("1.5", None),
            ("0x1e", None),
            ("30 seconds", None),
            ("Sun, 99 Nov 1994 08:49:37 GMT", None),
            ("Wed, 31 Dec 1969 23:59:59 GMT", None),
            ("soon", None),
        ] {
            let head = head(429, &format!("Retry-After: {value}\r\n"));
            let answer = Answer::of(Asked::Blob, &head);
            assert_eq!(answer, Answer::RateLimited { retry_after: expected }, "{value}");
        }
    }

    #[test]
    fn a_date_is_waited_for_and_never_backwards() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let when = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let at = |seconds| RetryAfter::At { time: when(seconds), date: None };
        assert_eq!(at(1030).delay(now), Duration::from_secs(30));
        assert_eq!(at(1000).delay(now), Duration::ZERO);
        assert_eq!(at(10).delay(now), Duration::ZERO);
        // Whatever our clock shows.
        let by_theirs = RetryAfter::At { time: when(90_030), date: Some(when(90_000)) };
        assert_eq!(by_theirs.delay(now), Duration::from_secs(30));
        assert_eq!(RetryAfter::Delay(Duration::from_secs(7)).delay(now), Duration::from_secs(7));
    }

    #[test]
    fn the_ends_of_time_can_be_shown() {
        for (value, expected) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", "at 1970-01-01T00:00:00Z"),
            ("Fri, 31 Dec 9999 23:59:59 GMT", "at 9999-12-31T23:59:59Z"),
            ("1", "in 1 s"),
            ("9999999999", "in 1193046 h 28 min"),
        ] {
            let shown = RetryAfter::parse(value, None).map(|when| when.to_string());
            assert_eq!(shown.as_deref(), Some(expected));
        }
    }

    #[track_caller]
    fn check_text(status: u16, fields: &str, body: &str, expected: &str) {
        let refusal = Refusal::new(Asked::Manifest, &head(status, fields), body.as_bytes());
        assert_eq!(refusal.to_string(), expected);
    }

    #[test]
    fn a_refusal_says_what_the_registry_says() {
        let none = "the registry has no such manifest (status 404)";
        for (body, expected) in [
            ("", ""),
            (" \r\n", ""),
            (
                r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"Tag":"x"}}]}"#,
                ": MANIFEST_UNKNOWN: manifest unknown",
            ),
            (
                r#"{"errors":[{"code":"A","message":"a"},{"code":"B"},{"message":"c"},{}]}"#,
                ": A: a; B; c",
            ),
            (r#"{"details":"incorrect username or password"}"#, ": incorrect username or password"),
            (
                r#"{"error":"invalid_grant","error_description":"expired"}"#,
                ": invalid_grant; expired",
            ),
            (r#"{"message":"no"}"#, ": no"),
            (r#"{"errors":[]}"#, r#": {"errors":[]}"#),
            (r#"{"errors":"x"}"#, r#": {"errors":"x"}"#),
            (r#"say "no" \ it's over"#, r#": say "no" \ it's over"#),
            ("<html>gone</html>\n", ""),
            (
                "\u{feff}<!DOCTYPE html><HTML><titles/><TITLE lang=x>\n 502 Bad\n Gateway &lt;&amp;lt;\n</TITLE>\
                 <body><h1>x</h1></HTML>",
                ": a page titled \"502 Bad Gateway <&lt;\"",
            ),
            ("<title></title><p>no</p>", ""),
            ("<title>cut", ""),
            (
                "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code><Message>Request has \
                 expired</Message><X>y</X></Error>",
                ": AccessDenied: Request has expired",
            ),
            ("a\u{1b}[31mb\r\nc", ": a\\u{1b}[31mb\\r\\nc"),
        ] {
            check_text(404, "", body, &format!("{none}{expected}"));
        }
        check_text(
            429,
            "Retry-After: 90\r\n",
            "",
            "too many requests (status 429), to be asked again in 90 s",
        );
        check_text(
            503,
            "Retry-After: Sun, 06 Nov 1994 08:49:37 GMT\r\n",
            "busy",
            "the server cannot answer now (status 503), to be asked again at 1994-11-06T08:49:37Z: busy",
        );
    }

    #[test]
    fn what_is_compressed_is_not_shown() {
        let gzip = "Content-Encoding: gzip\r\n";
        check_text(404, gzip, "\u{1f}\u{8b}", "the registry has no such manifest (status 404)");
        let aws = "Content-Encoding: aws-chunked\r\n";
        check_text(404, aws, "no", "the registry has no such manifest (status 404): no");
    }

    #[test]
    fn what_the_registry_says_is_cut() {
        for body in ["\u{1b}".repeat(5000), "x".repeat(1 << 20), "\u{fffd}".repeat(5000)] {
            let text = Refusal::new(Asked::Blob, &head(400, ""), body.as_bytes()).to_string();
            assert!(text.chars().count() < REFUSAL_TEXT_LENGTH_MAX + 60, "{}", text.len());
            assert!(text.ends_with('…') && !text.contains('\u{1b}'));
        }
        let bytes = [0xff; 100];
        assert!(Refusal::new(Asked::Blob, &head(400, ""), &bytes).to_string().contains('\u{fffd}'));
    }

    #[test]
    fn the_digest_header_must_not_contradict_the_bytes() {
        let digest = |algorithm, bytes: &[u8]| Digest::of(algorithm, bytes).to_string();
        let right = digest(Algorithm::Sha256, b"abc");
        let right512 = digest(Algorithm::Sha512, b"abc");
        let wrong = digest(Algorithm::Sha256, b"abd");
        let wrong512 = digest(Algorithm::Sha512, b"abd");
        let requested = Digest::of(Algorithm::Sha256, b"abc");
        let rows: Vec<(Option<&str>, Option<&Digest>, Option<Class>)> = vec![
            (None, None, None),
            (Some(&right), None, None),
            (Some(&right512), None, None),
            (Some(&wrong), None, Some(Class::DigestHeader)),
            (Some(&wrong512), None, Some(Class::DigestHeader)),
            (Some("blake3:00"), None, None),
            // As good as none.
            (Some("sha256:00"), None, None),
            (Some("x"), None, None),
            (Some(""), None, None),
            (Some(" "), None, None),
            // Asked for by digest: not looked at.
            (Some(&wrong), Some(&requested), None),
            (Some("x"), Some(&requested), None),
            (None, Some(&requested), None),
        ];
        for (header, requested, expected) in rows {
            let error = check_content_digest(header, b"abc", requested).err();
            assert_eq!(error.map(|error| error.class()), expected, "{header:?} {requested:?}");
        }
    }
}
