//! How a response can be unusable.

use std::fmt;

use crate::error::Class;
use crate::limits::{
    CHUNK_EXTENSION_SIZE_MAX, INTERIM_COUNT_MAX, RESPONSE_FIELD_COUNT_MAX, RESPONSE_HEAD_SIZE_MAX,
    SHOWN_SIZE_MAX, TRAILER_SIZE_MAX,
};

/// Why a response cannot be used. After any of these, nothing that the connection still brings can
/// be trusted: close it.
///
/// The same bytes give the same error, however they were cut into pieces.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    // --- it ended too soon ---
    /// Not one byte came.
    #[error("the connection was closed before the first byte of the answer")]
    EmptyResponse,
    /// The head is not whole.
    #[error("the connection was closed within the response head")]
    TruncatedHead,
    /// The body is not whole.
    #[error("the connection was closed within the body{}", missing_text(*.missing))]
    TruncatedBody {
        /// How many bytes of the body are missing, where that is known.
        missing: Option<u64>,
    },
    /// The body runs until the connection is closed, but TLS was not closed in order: whoever can
    /// cut the connection could have cut the body (RFC 8446 section 6.1).
    #[error("the body runs until close, but the connection was not closed in order (close_notify)")]
    UncleanClose,

    // --- bytes out of place ---
    /// The answer does not begin with `HTTP/1.`: another protocol, HTTP/0.9 or garbage.
    #[error("the answer is not HTTP/1: it begins with `{seen}`")]
    NotHttp {
        /// What came up to the first byte that is wrong, escaped.
        seen: String,
    },
    /// A CR without LF, or a LF without CR.
    #[error("a line of the {part} does not end in CR LF")]
    LineEnd {
        /// Where.
        part: Part,
    },
    /// NUL in a text, or any control character but tab where a name must be.
    #[error("the {part} contains the control character {byte:#04x}")]
    Control {
        /// Where.
        part: Part,
        /// The character.
        byte: u8,
    },
    /// A field continued on a second line (`obs-fold`, RFC 9112 section 5.2), or white space before
    /// the first field.
    #[error("a line of the {part} begins with white space")]
    Folded {
        /// Where.
        part: Part,
    },
    /// A field name with a byte that is none of a token's (RFC 9110 section 5.1); also white space
    /// before the colon, or no colon at all.
    #[error("a field name in the {part} contains the byte {byte:#04x}")]
    FieldName {
        /// Where.
        part: Part,
        /// The byte.
        byte: u8,
    },
    /// The status line or a field is malformed in another way.
    #[error("the response head is malformed: {0}")]
    Head(httparse::Error),
    /// The status is none of 100 to 599.
    #[error("status {0} is outside 100 to 599")]
    Status(u16),
    /// 101: the server wants to change the protocol, which it was not asked to.
    #[error("the server switched protocols (101) without being asked to")]
    SwitchedProtocols,

    // --- the length of the body is in doubt ---
    /// Both `Transfer-Encoding` and `Content-Length`: a smuggling attempt, or a broken server.
    #[error("the response has both Transfer-Encoding and Content-Length")]
    TwoFramings,
    /// `Transfer-Encoding` in a HTTP/1.0 response (RFC 9112 section 6.1).
    #[error("a HTTP/1.0 response has Transfer-Encoding")]
    TransferEncodingInHttp10,
    /// A `Transfer-Encoding` other than exactly one `chunked`.
    #[error("Transfer-Encoding `{value}` is not supported: only a single `chunked` is")]
    TransferEncoding {
        /// The values, escaped and shortened.
        value: String,
    },
    /// A `Content-Length` that is not a decimal number below 2^64.
    #[error("Content-Length `{value}` is not a number of bytes")]
    ContentLength {
        /// The value, escaped and shortened.
        value: String,
    },
    /// Two `Content-Length`s that differ.
    #[error("Content-Length says both `{first}` and `{second}`")]
    ContentLengths {
        /// The first.
        first: String,
        /// The first that differs from it.
        second: String,
    },
    /// A byte that belongs to no chunk size.
    #[error("the byte {byte:#04x} is no part of a chunk size")]
    ChunkSize {
        /// The byte.
        byte: u8,
    },
    /// A chunk size of more than 16 hexadecimal digits, which may be 2^64 or more.
    #[error("a chunk size has more than 16 digits")]
    ChunkSizeOverflow,
    /// The data of a chunk is longer than its size says.
    #[error("a chunk is followed by the byte {byte:#04x} instead of CR LF")]
    ChunkEnd {
        /// The byte.
        byte: u8,
    },

    // --- too much of it ---
    /// More than [`RESPONSE_HEAD_SIZE_MAX`], interim responses included.
    #[error("the response head is larger than {} KiB", RESPONSE_HEAD_SIZE_MAX >> 10)]
    HeadSize,
    /// More than [`RESPONSE_FIELD_COUNT_MAX`].
    #[error("the response head has more than {RESPONSE_FIELD_COUNT_MAX} fields")]
    FieldCount,
    /// More than [`INTERIM_COUNT_MAX`].
    #[error("more than {INTERIM_COUNT_MAX} interim responses (1xx)")]
    InterimCount,
    /// More than [`CHUNK_EXTENSION_SIZE_MAX`] beyond what the payload allows.
    #[error(
        "the chunk extensions are more than {} KiB larger than the payload between them",
        CHUNK_EXTENSION_SIZE_MAX >> 10
    )]
    ChunkExtensionSize,
    /// More than [`TRAILER_SIZE_MAX`].
    #[error("the trailer section is larger than {} KiB", TRAILER_SIZE_MAX >> 10)]
    TrailerSize,

    // --- well-formed, but not to be used ---
    /// A field that must stand alone stands there more than once.
    #[error("the response has more than one {name}")]
    Repeated {
        /// The field's name.
        name: String,
    },
    /// A field that is needed as text is not UTF-8.
    #[error("{name} `{value}` is not UTF-8")]
    NotText {
        /// The field's name.
        name: String,
        /// The value, escaped and shortened.
        value: String,
    },
    /// A `Content-Encoding` that changes the bytes, although only `identity` was asked for.
    #[error("the body has Content-Encoding `{value}`, but only identity was asked for")]
    ContentEncoding {
        /// The coding, escaped and shortened.
        value: String,
    },
}

impl Error {
    /// What kind of failure this is.
    pub fn class(&self) -> Class {
        match self {
            Error::EmptyResponse => Class::EmptyResponse,
            Error::TruncatedHead | Error::TruncatedBody { .. } | Error::UncleanClose => {
                Class::Truncated
            }
            Error::NotHttp { .. }
            | Error::LineEnd { .. }
            | Error::Control { .. }
            | Error::Folded { .. }
            | Error::FieldName { .. }
            | Error::Head(_)
            | Error::Status(_)
            | Error::SwitchedProtocols
            | Error::TwoFramings
            | Error::TransferEncodingInHttp10
            | Error::TransferEncoding { .. }
            | Error::ContentLength { .. }
            | Error::ContentLengths { .. }
            | Error::ChunkSize { .. }
            | Error::ChunkSizeOverflow
            | Error::ChunkEnd { .. }
            | Error::Repeated { .. }
            | Error::NotText { .. } => Class::Framing,
            Error::HeadSize
            | Error::FieldCount
            | Error::InterimCount
            | Error::ChunkExtensionSize
            | Error::TrailerSize => Class::Limit,
            Error::ContentEncoding { .. } => Class::Encoding,
        }
    }
}

/// A part of a response that is made of lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Status line and fields.
    Head,
    /// The size of a chunk and its extensions.
    ChunkLine,
    /// The fields after the last chunk.
    Trailer,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Part::Head => "response head",
            Part::ChunkLine => "chunk size line",
            Part::Trailer => "trailer section",
        })
    }
}

/// At most [`SHOWN_SIZE_MAX`] bytes of what a peer sent, all but printable ASCII escaped.
pub(super) fn shown(text: impl AsRef<[u8]>) -> String {
    let text = text.as_ref();
    match text.get(..SHOWN_SIZE_MAX) {
        Some(start) if start.len() < text.len() => format!("{}…", start.escape_ascii()),
        _ => text.escape_ascii().to_string(),
    }
}

fn missing_text(missing: Option<u64>) -> String {
    missing.map(|bytes| format!(", with {bytes} bytes missing")).unwrap_or_default()
}
