//! Asking for a part of the content, and checking that the answer is that part (RFC 9110 section 14).
//!
//! Registries, mirrors and caches answer ranges wrongly in every way there is: with another range,
//! with the whole under status 206, with no `Content-Range`. Believing them puts right bytes in wrong
//! places, which is found out when the digest of the whole does not fit: so the answer is checked
//! before its first byte is used.

use std::fmt;

use super::error::shown;
use super::framing::decimal;
use super::{Error, ResponseHead};
use crate::error::Class;

/// A range of bytes. `end` is exclusive and greater than `start`.
///
/// Always closed when sent (`bytes=0-99`): some registries answer 416 to `bytes=100-`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ByteRange {
    /// Offset of the first byte.
    pub start: u64,
    /// Offset after the last byte. A range that does not end after its start can be sent, but no
    /// answer to it passes [`ByteRange::check`].
    pub end: u64,
}

/// How the answer to a range is not what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// The status is not 206.
    #[error("status {0} instead of 206 (Partial Content)")]
    Status(u16),
    /// There is no `Content-Range`.
    #[error("status 206 without Content-Range")]
    Missing,
    /// Several parts at once, although one was asked for.
    #[error("status 206 with several parts (multipart/byteranges), though one range was asked for")]
    Multipart,
    /// `Content-Range` is not `bytes FIRST-LAST/TOTAL` with FIRST ≤ LAST < TOTAL.
    #[error("Content-Range `{value}` is malformed")]
    Malformed {
        /// Its value, escaped and shortened.
        value: String,
    },
    /// `Content-Range: bytes FIRST-LAST/*`.
    #[error("Content-Range does not say the size of the whole")]
    UnknownTotal,
    /// Another range than the one asked for.
    #[error("{answered} answered instead of {asked}")]
    Other {
        /// What was asked for.
        asked: ByteRange,
        /// What was answered.
        answered: ByteRange,
    },
    /// The whole is not as large as the descriptor says.
    #[error("the whole has {answered} bytes, but its descriptor says {expected}")]
    Total {
        /// What the descriptor says, in bytes.
        expected: u64,
        /// What was answered, in bytes.
        answered: u64,
    },
    /// `Content-Length` contradicts `Content-Range`.
    #[error("Content-Length is {length}, but the range has {size} bytes")]
    Length {
        /// What `Content-Length` says.
        length: u64,
        /// The size of the range, in bytes.
        size: u64,
    },
    /// A field repeated or malformed.
    #[error(transparent)]
    Field(#[from] Error),
}

impl RangeError {
    /// What kind of failure this is. A whole of another size is a matter of content; all else is the
    /// range's alone, and the whole may still be had.
    pub fn class(&self) -> Class {
        match self {
            RangeError::Total { .. } => Class::Size,
            _ => Class::Range,
        }
    }
}

impl ByteRange {
    /// The range from `start` to before `end`; `None` if it would be empty.
    pub fn new(start: u64, end: u64) -> Option<ByteRange> {
        (start < end).then_some(ByteRange { start, end })
    }

    /// How many bytes it has.
    pub fn size(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// The value of the `Range` field (section 14.1.2): `bytes=0-99` for the first hundred.
    pub fn header_value(&self) -> String {
        format!("bytes={}-{}", self.start, self.end.saturating_sub(1))
    }

    /// Whether `head` answers this range, and nothing else, of content with `total` bytes.
    ///
    /// To be asked of a 206; a 200 brings the whole, which is no error of the protocol.
    pub fn check(&self, head: &ResponseHead, total: u64) -> Result<(), RangeError> {
        if head.status() != 206 {
            return Err(RangeError::Status(head.status()));
        }
        if head.values("content-type").any(is_multipart) {
            return Err(RangeError::Multipart);
        }
        let value = head.single("content-range")?.ok_or(RangeError::Missing)?;
        let (answered, answered_total) = parse_content_range(value)?;
        if answered != *self {
            return Err(RangeError::Other { asked: *self, answered });
        }
        if answered_total != total {
            return Err(RangeError::Total { expected: total, answered: answered_total });
        }
        match head.content_length()? {
            Some(length) if length != self.size() => {
                Err(RangeError::Length { length, size: self.size() })
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bytes {} to {}", self.start, self.end.saturating_sub(1))
    }
}

/// The range and the total in a `Content-Range` (section 14.4).
fn parse_content_range(value: &str) -> Result<(ByteRange, u64), RangeError> {
    let malformed = || RangeError::Malformed { value: shown(value) };
    let (unit, rest) = value.split_once(' ').ok_or_else(malformed)?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return Err(malformed());
    }
    let (range, total) = rest.split_once('/').ok_or_else(malformed)?;
    let (first, last) = range.split_once('-').ok_or_else(malformed)?;
    let first = decimal(first.as_bytes()).ok_or_else(malformed)?;
    let last = decimal(last.as_bytes()).ok_or_else(malformed)?;
    if total == "*" {
        return Err(RangeError::UnknownTotal);
    }
    let total = decimal(total.as_bytes()).ok_or_else(malformed)?;
    // `last < total` also makes `last + 1` possible.
    if first > last || last >= total {
        return Err(malformed());
    }
    Ok((ByteRange { start: first, end: last + 1 }, total))
}

fn is_multipart(content_type: &[u8]) -> bool {
    const MULTIPART: &[u8] = b"multipart/";
    content_type.get(..MULTIPART.len()).is_some_and(|start| start.eq_ignore_ascii_case(MULTIPART))
}
