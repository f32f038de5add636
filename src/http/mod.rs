//! A sans-IO client of HTTP/1.1 (RFC 9110, RFC 9112): bytes in, bytes and verdicts out.
//!
//! Nothing here opens a socket, reads a clock or waits. A [`Request`] becomes bytes by
//! [`Request::encode`]; an [`Exchange`] is fed what arrives, in pieces of any size, and says what it
//! meant; the payload is pointed at within those pieces, never copied.
//!
//! The parser is strict. Where implementations differ in what they accept, an attacker finds two
//! that disagree on where a message ends; so whatever RFC 9112 calls an error, and much of what it
//! merely tolerates, ends the exchange with a named [`Error`], and the connection with it. What a
//! connection is worth after a good exchange is said by [`After`], with the reason.
//!
//! It is lenient where nobody can be harmed: blanks behind a chunk size, control characters in texts
//! that steer nothing, a `Content-Encoding` that is known to change no byte or that nobody knows.
//!
//! In reading order: [`url`] → [`request`] → [`exchange`] → [`response`] (the head) → [`framing`]
//! (how the body ends) → `chunked` → [`range`](mod@range); `header` has the rules for single bytes.
//!
//! Not here: `Content-Encoding` (only `identity` is asked for, and nothing is decoded), caching, cookies,
//! pipelining, requests with a body, redirects and authentication (their policy is `registry`'s).

mod chunked;
mod error;
pub mod exchange;
pub mod framing;
mod header;
pub mod range;
pub mod request;
pub mod response;
pub mod url;

pub use error::{Error, Part};
pub use exchange::{Event, Exchange};
pub use framing::{After, CloseReason, Framing};
pub use range::{ByteRange, RangeError};
pub use request::{Method, Request, RequestError, Secret, TargetForm};
pub use response::{ResponseHead, Version};
pub use url::{HttpUrl, UrlError};
