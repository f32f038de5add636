//! The head of a response: status and fields (RFC 9112 sections 2 to 5).

use std::fmt;

use super::error::shown;
use super::header::SectionScanner;
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
        let mut fields = [httparse::EMPTY_HEADER; RESPONSE_FIELD_COUNT_MAX];
        let mut response = httparse::Response::new(&mut fields);
        match response.parse(bytes) {
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
            value: field.value.to_vec(),
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
        self.values(name)
            .flat_map(|value| value.split(|&byte| byte == b','))
            .map(<[u8]>::trim_ascii)
    }

    /// All fields in order: name in lower case, and value.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.fields.iter().map(|field| (field.name.as_str(), field.value.as_slice()))
    }

    /// The number of bytes that `Content-Length` says, if it is there.
    pub fn content_length(&self) -> Result<Option<u64>, Error> {
        framing::content_length(self)
    }

    /// Fails if the body is compressed or otherwise encoded. Requests ask for `identity`; a server
    /// that encodes nevertheless would make the bytes differ from their digest, and decoding them
    /// would be an invitation to bombs.
    pub fn check_content_encoding(&self) -> Result<(), Error> {
        // An empty element means nothing (RFC 9110 section 5.6.1.2); object stores send them.
        let mut codings = self.list("content-encoding").filter(|coding| !coding.is_empty());
        match codings.find(|coding| !coding.eq_ignore_ascii_case(b"identity")) {
            Some(coding) => Err(Error::ContentEncoding { value: shown(coding) }),
            None => Ok(()),
        }
    }
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
