//! The honest answer to a request, before any fault.

use bytes::Bytes;
use serde_json::json;

use super::image::Blob;

/// How the end of the body is told (RFC 9112 section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

/// A response that is not yet bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// All fields but those of framing and `Connection`.
    pub(super) fields: Vec<(String, String)>,
    pub(super) framing: Framing,
    pub(super) body: Bytes,
    /// Where the body begins in the blob it is a part of.
    pub(super) first: u64,
    /// Whether the connection ends with the body.
    pub(super) close: bool,
}

impl Answer {
    pub(super) fn new(status: u16, content_type: &str, body: impl Into<Bytes>) -> Answer {
        let body = body.into();
        let framing = Framing::Length(body.len() as u64);
        let mut answer = Answer::empty(status);
        answer.set("Content-Type", content_type);
        Answer { framing, body, ..answer }
    }

    pub(super) fn empty(status: u16) -> Answer {
        let fields =
            vec![("Docker-Distribution-Api-Version".to_owned(), "registry/2.0".to_owned())];
        let (framing, body) = (Framing::Length(0), Bytes::new());
        Answer { status, fields, framing, body, first: 0, close: false }
    }

    /// An error with a body as registries send it (OCI distribution-spec, "Error Codes").
    pub(super) fn error(status: u16, code: &str, message: &str) -> Answer {
        let body = json!({ "errors": [{ "code": code, "message": message, "detail": null }] });
        Answer::new(status, "application/json", body.to_string())
    }

    /// A whole manifest.
    pub(super) fn manifest(blob: &Blob) -> Answer {
        Answer::content(blob, &blob.media_type)
    }

    fn content(blob: &Blob, content_type: &str) -> Answer {
        let mut answer = Answer::new(200, content_type, blob.bytes.clone());
        answer.set("Docker-Content-Digest", &blob.digest.to_string());
        answer.set("ETag", &etag(blob));
        answer
    }

    /// The part of a blob that was asked for.
    pub(super) fn part(blob: &Blob, part: Part) -> Answer {
        // Registries do not know what a blob is; its manifest does.
        const CONTENT_TYPE: &str = "application/octet-stream";
        let size = blob.size();
        let mut answer = match part {
            Part::Whole => Answer::content(blob, CONTENT_TYPE),
            Part::Of { first, last } => {
                let mut answer = Answer::content(blob, CONTENT_TYPE);
                answer.status = 206;
                answer.set("Content-Range", &format!("bytes {first}-{last}/{size}"));
                answer.first = first;
                answer.replace(blob.bytes.slice(first as usize..=last as usize));
                answer
            }
            Part::Unsatisfiable => {
                let message = "the range starts behind the end of the blob";
                let mut answer = Answer::error(416, "RANGE_INVALID", message);
                answer.set("Content-Range", &format!("bytes */{size}"));
                answer
            }
        };
        answer.set("Accept-Ranges", "bytes");
        answer
    }

    /// Replaces all fields of this name by one.
    pub(super) fn set(&mut self, name: &str, value: &str) {
        self.fields.retain(|(given, _)| !given.eq_ignore_ascii_case(name));
        self.fields.push((name.to_owned(), value.to_owned()));
    }

    /// Replaces the body, and its length.
    pub(super) fn replace(&mut self, body: Bytes) {
        self.framing = Framing::Length(body.len() as u64);
        self.body = body;
    }
}

/// The entity tag of a blob: its digest in quotes.
pub(super) fn etag(blob: &Blob) -> String {
    format!("\"{}\"", blob.digest)
}

/// Which part of a blob is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Whole,
    Of { first: u64, last: u64 },
    Unsatisfiable,
}

impl Part {
    /// What a `Range` field asks of `size` bytes (RFC 9110 section 14.1.2). Other units, several
    /// ranges and nonsense are ignored, as a server may.
    pub(super) fn asked(range: Option<&str>, size: u64) -> Part {
        Part::parse(range, size).unwrap_or(Part::Whole)
    }

    fn parse(range: Option<&str>, size: u64) -> Option<Part> {
        let (first, last) = range?.strip_prefix("bytes=")?.split_once('-')?;
        let number = |text: &str| {
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            if digits { text.parse::<u64>().ok() } else { None }
        };
        let (first, last) = match (first, last) {
            ("", suffix) => match number(suffix)? {
                0 => return Some(Part::Unsatisfiable),
                count => (size.saturating_sub(count), u64::MAX),
            },
            (first, "") => (number(first)?, u64::MAX),
            (first, last) => (number(first)?, number(last)?),
        };
        if last < first {
            return None;
        }
        if first >= size {
            return Some(Part::Unsatisfiable);
        }
        Some(Part::Of { first, last: last.min(size - 1) })
    }

    /// First and last byte, unless it is the whole or nothing.
    pub(super) fn bounds(self) -> Option<(u64, u64)> {
        match self {
            Part::Of { first, last } => Some((first, last)),
            Part::Whole | Part::Unsatisfiable => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_rfc_says() {
        let of = |first, last| Part::Of { first, last };
        for (range, expected) in [
            (None, Part::Whole),
            (Some("bytes=0-0"), of(0, 0)),
            (Some("bytes=2-5"), of(2, 5)),
            (Some("bytes=2-"), of(2, 9)),
            (Some("bytes=2-99"), of(2, 9)),
            (Some("bytes=9-"), of(9, 9)),
            (Some("bytes=10-"), Part::Unsatisfiable),
            (Some("bytes=10-20"), Part::Unsatisfiable),
            (Some("bytes=-3"), of(7, 9)),
            (Some("bytes=-30"), of(0, 9)),
            (Some("bytes=-0"), Part::Unsatisfiable),
            (Some("bytes=5-2"), Part::Whole),
            (Some("bytes=+1-2"), Part::Whole),
            (Some("bytes=0-1,3-4"), Part::Whole),
            (Some("lines=0-1"), Part::Whole),
            (Some("bytes=-"), Part::Whole),
        ] {
            assert_eq!(Part::asked(range, 10), expected, "{range:?}");
        }
        assert_eq!(Part::asked(Some("bytes=0-"), 0), Part::Unsatisfiable);
    }
}
