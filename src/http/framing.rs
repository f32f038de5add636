//! Where a body ends (RFC 9112 section 6.3), and what the connection is worth after it (9.3).

use std::fmt;

use super::error::shown;
use super::{Error, Method, ResponseHead, Version};

/// How the end of a body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is none: an answer to HEAD, or 204 or 304.
    None,
    /// It has so many bytes.
    Length(u64),
    /// It comes in chunks, the last of which has size zero.
    Chunked,
    /// It ends with the connection.
    UntilClose,
}

impl Framing {
    /// The framing of the body that follows `head`, a final (not 1xx) answer to `method`.
    ///
    /// `Transfer-Encoding` and `Content-Length` must be sound even where they do not matter (HEAD,
    /// 304): they are still believed to be the size of something.
    pub fn of(method: Method, head: &ResponseHead) -> Result<Framing, Error> {
        let chunked = is_chunked(head)?;
        let length = content_length(head)?;
        // RFC 9112 section 6.3, item 3: "ought to be handled as an error". It always is here.
        if chunked && length.is_some() {
            return Err(Error::TwoFramings);
        }
        if method == Method::Head || matches!(head.status(), 204 | 304) {
            return Ok(Framing::None);
        }
        Ok(match length {
            _ if chunked => Framing::Chunked,
            Some(length) => Framing::Length(length),
            None => Framing::UntilClose,
        })
    }
}

/// What becomes of a connection after an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// It may carry another request.
    Keep,
    /// It must be closed.
    Close(CloseReason),
}

/// Why a connection cannot carry another request. Displayed in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// `Connection: close`.
    ServerSaidClose,
    /// A HTTP/1.0 response without `Connection: keep-alive`.
    Http10,
    /// The body ran until close.
    UntilClose,
    /// 204 has no body, but this one announced one: the server may yet send it.
    BodyAnnounced,
    /// Bytes came that belong to no answer: the next answer would be mistaken for them, or they for
    /// the next answer (response queue poisoning).
    BytesAfterEnd,
    /// The peer closed its side.
    PeerClosed,
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CloseReason::ServerSaidClose => "the server said Connection: close",
            CloseReason::Http10 => "HTTP/1.0 without keep-alive",
            CloseReason::UntilClose => "the body ran until close",
            CloseReason::BodyAnnounced => "status 204 announced a body",
            CloseReason::BytesAfterEnd => "bytes after the end of the body",
            CloseReason::PeerClosed => "the peer closed the connection",
        })
    }
}

impl After {
    /// What `head`, whose body has `framing`, lets become of the connection once the body has ended.
    pub fn of(head: &ResponseHead, framing: Framing) -> After {
        let option = |name: &str| {
            head.list("connection").any(|option| option.eq_ignore_ascii_case(name.as_bytes()))
        };
        // `close` wins over `keep-alive`, in whatever order they stand.
        if option("close") {
            After::Close(CloseReason::ServerSaidClose)
        } else if head.version() == Version::Http10 && !option("keep-alive") {
            After::Close(CloseReason::Http10)
        } else if framing == Framing::UntilClose {
            After::Close(CloseReason::UntilClose)
        } else if head.status() == 204 && announces_body(head) {
            After::Close(CloseReason::BodyAnnounced)
        } else {
            After::Keep
        }
    }

    /// The same, now that `size` bytes have come after the end of the body.
    pub fn with_leftover(self, size: usize) -> After {
        match self {
            After::Keep if size > 0 => After::Close(CloseReason::BytesAfterEnd),
            unchanged => unchanged,
        }
    }

    /// The same, now that the peer has closed its side.
    pub fn with_peer_closed(self) -> After {
        match self {
            After::Keep => After::Close(CloseReason::PeerClosed),
            unchanged => unchanged,
        }
    }
}

/// The number of bytes that `Content-Length` says, if it is there.
///
/// Repetitions of one number are tolerated, in one field or several (RFC 9112 section 6.3, item 5),
/// but only digit by digit: `030` beside `30` is refused, as in the Fetch standard.
pub(super) fn content_length(head: &ResponseHead) -> Result<Option<u64>, Error> {
    let mut first: Option<(&[u8], u64)> = None;
    for text in head.list("content-length") {
        let number = decimal(text).ok_or_else(|| Error::ContentLength { value: shown(text) })?;
        match first {
            None => first = Some((text, number)),
            Some((first, _)) if first == text => {}
            Some((first, _)) => {
                return Err(Error::ContentLengths { first: shown(first), second: shown(text) });
            }
        }
    }
    Ok(first.map(|(_, number)| number))
}

/// `1*DIGIT` below 2^64. `str::parse` would accept a plus sign.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// Whether the body is chunked. Any other coding, any list and any repetition is an error: only
/// `chunked` may be sent without having been asked for (RFC 9112 section 7.4).
fn is_chunked(head: &ResponseHead) -> Result<bool, Error> {
    let values: Vec<&[u8]> = head.values("transfer-encoding").collect();
    match values.as_slice() {
        [] => Ok(false),
        _ if head.version() == Version::Http10 => Err(Error::TransferEncodingInHttp10),
        [value] if value.eq_ignore_ascii_case(b"chunked") => Ok(true),
        values => Err(Error::TransferEncoding { value: shown(values.join(&b", "[..])) }),
    }
}

fn announces_body(head: &ResponseHead) -> bool {
    head.values("transfer-encoding").next().is_some()
        || !matches!(content_length(head), Ok(None | Some(0)))
}
