//! The head of a response: status and fields (RFC 9112 sections 2 to 5).

use std::borrow::Cow;
use std::fmt;

use super::error::shown;
use super::header::{SectionScanner, is_control, trim_blanks};
use super::{Error, framing};
use crate::limits::{RESPONSE_FIELD_COUNT_MAX, RESPONSE_HEAD_SIZE_MAX};

/// The version of HTTP that a response is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0: closes after each answer unless it says otherwise.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// Status and fields of a response, fields in the order they came in.
///
/// Values are kept as the bytes they are. RFC 9110 section 5.5 lets any byte beyond ASCII pass, and
/// refusing a response for the file name in a `Content-Disposition` would serve nobody; so a value
/// that is not UTF-8 is only an error once somebody needs it as text.
///
/// `Debug` shows the values of known-harmless fields only: `Location` may hold a signature.
#[derive(Clone, PartialEq, Eq)]
pub struct ResponseHead {
    status: u16,
    version: Version,
    fields: Vec<Field>,
}

#[derive(Clone, PartialEq, Eq)]
struct Field {
    /// In lower case.
    name: String,
    value: Vec<u8>,
}

impl ResponseHead {
    /// Splits the head that `input` begins with, if it is whole. Returns its size in bytes with it.
    ///
    /// Fails as soon as no more bytes could make a head of it. [`Exchange`](super::Exchange) does
    /// this without looking at any byte twice.
    pub fn parse(input: &[u8]) -> Result<Option<(usize, ResponseHead)>, Error> {
        match SectionScanner::head(RESPONSE_HEAD_SIZE_MAX).scan(input)? {
            Some(size) => Ok(Some((size, ResponseHead::split(&input[..size])?))),
            None => Ok(None),
        }
    }

    /// Splits `bytes`, in which a [`SectionScanner`] has found a whole head and nothing after it.
    pub(super) fn split(bytes: &[u8]) -> Result<ResponseHead, Error> {
        let text = without_controls(bytes);
        let mut fields = [httparse::EMPTY_HEADER; RESPONSE_FIELD_COUNT_MAX];
        let mut response = httparse::Response::new(&mut fields);
        match response.parse(&text) {
            Ok(httparse::Status::Complete(size)) if size == bytes.len() => {}
            // httparse disagrees with the scanner on where the head ends.
            Ok(_) => return Err(Error::Head(httparse::Error::NewLine)),
            Err(httparse::Error::TooManyHeaders) => return Err(Error::FieldCount),
            Err(error) => return Err(Error::Head(error)),
        }
        let version = match response.version {
            Some(0) => Version::Http10,
            Some(1) => Version::Http11,
            _ => return Err(Error::Head(httparse::Error::Version)),
        };
        let status = response.code.unwrap_or_default();
        if !(100..=599).contains(&status) {
            return Err(Error::Status(status));
        }
        let fields = response.headers.iter().map(|field| Field {
            name: field.name.to_ascii_lowercase(),
            value: as_sent(field.value, &text, bytes).to_vec(),
        });
        Ok(ResponseHead { status, version, fields: fields.collect() })
    }

    /// The status: 100 to 599.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The version of HTTP it is in.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The first value of the field `name` (in any case) that is text. For fields that help if they
    /// are there; where a contradiction must not pass, use [`ResponseHead::single`].
    pub fn get(&self, name: &str) -> Option<&str> {
        self.get_all(name).next()
    }

    /// All values of the field `name` that are text, in order.
    pub fn get_all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        self.values(name).filter_map(|value| str::from_utf8(value).ok())
    }

    /// The value of a field that may be there once at most, like `Location`. Two are an error, even
    /// if they agree, and so is one that is not UTF-8.
    pub fn single(&self, name: &str) -> Result<Option<&str>, Error> {
        let mut values = self.values(name);
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(Error::Repeated { name: name.to_owned() });
        }
        match str::from_utf8(value) {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(Error::NotText { name: name.to_owned(), value: shown(value) }),
        }
    }

    /// All values of the field `name` (in any case) as they came, without the white space around.
    pub fn values<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let named = self.fields.iter().filter(move |field| field.name.eq_ignore_ascii_case(name));
        named.map(|field| field.value.as_slice())
    }

    /// The elements of a comma-separated list (RFC 9110 section 5.6.1), which may be spread over
    /// several fields; empty ones included. Knows no quoted strings.
    pub fn list<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.values(name).flat_map(|value| value.split(|&byte| byte == b',')).map(trim_blanks)
    }

    /// All fields in order: name in lower case, and value.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.fields.iter().map(|field| (field.name.as_str(), field.value.as_slice()))
    }

    /// The number of bytes that `Content-Length` says, if it is there.
    pub fn content_length(&self) -> Result<Option<u64>, Error> {
        framing::content_length(self)
    }

    /// Fails if the body is compressed, or otherwise not the content itself. Requests ask for
    /// `identity`; decoding would be an invitation to bombs.
    ///
    /// Only codings that are known to change the bytes fail. Object stores repeat whatever an upload
    /// said of itself (`aws-chunked`, `utf-8`), and then send the plain content: size and digest
    /// decide about that.
    pub fn check_content_encoding(&self) -> Result<(), Error> {
        let changes = |coding: &&[u8]| {
            CHANGING_CODINGS.iter().any(|known| coding.eq_ignore_ascii_case(known.as_bytes()))
        };
        match self.list("content-encoding").find(changes) {
            Some(coding) => Err(Error::ContentEncoding { value: shown(coding) }),
            None => Ok(()),
        }
    }
}

/// Content codings that change the bytes: IANA's "HTTP Content Coding Registry" without `identity`,
/// and the `x-` names of RFC 9110 section 8.4.1.
const CHANGING_CODINGS: [&str; 12] = [
    "aes128gcm",
    "br",
    "compress",
    "dcb",
    "dcz",
    "deflate",
    "exi",
    "gzip",
    "pack200-gzip",
    "x-compress",
    "x-gzip",
    "zstd",
];

/// A copy of `head` in which a byte beyond ASCII stands for each control character that the scanner
/// let pass: httparse takes the one in values and reason phrases, and nowhere else.
fn without_controls(head: &[u8]) -> Cow<'_, [u8]> {
    let is_passed = |byte: u8| is_control(byte) && byte != b'\r' && byte != b'\n';
    if !head.iter().any(|&byte| is_passed(byte)) {
        return Cow::Borrowed(head);
    }
    let replaced = head.iter().map(|&byte| if is_passed(byte) { 0x80 } else { byte });
    Cow::Owned(replaced.collect())
}

/// The bytes of `sent` at the place where `value` is in `text`, a copy of equal length.
fn as_sent<'a>(value: &'a [u8], text: &[u8], sent: &'a [u8]) -> &'a [u8] {
    let start = value.as_ptr().addr().wrapping_sub(text.as_ptr().addr());
    let end = start.wrapping_add(value.len());
    sent.get(start..end).unwrap_or(value)
}

impl fmt::Debug for ResponseHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const HARMLESS: [&str; 11] = [
            "accept-ranges",
            "connection",
            "content-encoding",
            "content-length",
            "content-range",
            "content-type",
            "date",
            "docker-content-digest",
            "retry-after",
            "server",
            "transfer-encoding",
        ];
        write!(f, "ResponseHead({:?} {}", self.version, self.status)?;
        for (name, value) in self.fields() {
            match HARMLESS.contains(&name) {
                true => write!(f, ", {}: {}", shown(name), shown(value))?,
                false => write!(f, ", {}: …", shown(name))?,
            }
        }
        f.write_str(")")
    }
}
