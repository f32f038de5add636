//! Reading requests: just enough of RFC 9112 for a server that takes no bodies.

use std::io;

use super::wire::Wire;
use crate::limits::DEMO_REQUEST_HEAD_SIZE_MAX;

/// The head of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) headers: Vec<(String, String)>,
    /// Whether another request may follow on the connection.
    pub(super) keep_alive: bool,
}

/// Why there is no request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Malformed {
    /// The head is longer than its bound.
    TooLong,
    /// The head is not one.
    Syntax,
}

impl Request {
    /// The first field of this name, which is in lower case.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let field = self.headers.iter().find(|(given, _)| given.eq_ignore_ascii_case(name));
        field.map(|(_, value)| value.as_str())
    }

    /// The path, without a query; of the absolute form too (RFC 9112 section 3.2.2).
    pub(super) fn path(&self) -> &str {
        let target = self.target.split_once('?').map_or(self.target.as_str(), |(path, _)| path);
        match target.split_once("://") {
            Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]),
            None => target,
        }
    }

    /// The query, without its question mark.
    pub(super) fn query(&self) -> &str {
        self.target.split_once('?').map_or("", |(_, query)| query)
    }

    fn parse(head: &str) -> Option<Request> {
        let mut lines = head.split("\r\n");
        let mut words = lines.next()?.split(' ');
        let (method, target, version) = (words.next()?, words.next()?, words.next()?);
        if words.next().is_some() || method.is_empty() || target.is_empty() {
            return None;
        }
        let headers: Vec<(String, String)> = lines
            .map(|line| line.split_once(':'))
            .map(|field| field.map(|(name, value)| (name.to_owned(), value.trim().to_owned())))
            .collect::<Option<_>>()?;
        let (method, target) = (method.to_owned(), target.to_owned());
        let mut request = Request { method, target, headers, keep_alive: version == "HTTP/1.1" };
        let close = request.header("connection").is_some_and(|it| it.eq_ignore_ascii_case("close"));
        // A body would stand where the next request is looked for.
        let body = request.header("transfer-encoding").is_some()
            || request.header("content-length").is_some_and(|length| length != "0");
        request.keep_alive &= !close && !body;
        Some(request)
    }
}

/// Reads the requests of a connection, one after the other.
#[derive(Debug, Default)]
pub(super) struct Reader {
    buffer: Vec<u8>,
}

impl Reader {
    /// Appends what was received.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next request; `None` when the peer closed instead.
    pub(super) fn next(
        &mut self,
        wire: &mut Wire,
    ) -> io::Result<Option<Result<Request, Malformed>>> {
        let mut piece = [0; 4096];
        loop {
            if let Some(request) = self.take() {
                return Ok(Some(request));
            }
            match wire.read(&mut piece)? {
                0 => return Ok(None),
                count => self.push(&piece[..count]),
            }
        }
    }

    /// The request at the start of the buffer, once it is whole.
    pub(super) fn take(&mut self) -> Option<Result<Request, Malformed>> {
        // Clients that are told not to insist on TLS try it first, and wait long for an answer. Of
        // their handshake, the first byte is enough to tell.
        if self.buffer.first().is_some_and(|byte| !byte.is_ascii_alphabetic()) {
            return Some(Err(Malformed::Syntax));
        }
        let end = self.buffer.windows(4).position(|four| four == b"\r\n\r\n");
        let Some(end) = end.filter(|end| *end <= DEMO_REQUEST_HEAD_SIZE_MAX) else {
            let too_long = self.buffer.len() > DEMO_REQUEST_HEAD_SIZE_MAX;
            return too_long.then_some(Err(Malformed::TooLong));
        };
        let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
        let head = std::str::from_utf8(&head[..end]).ok();
        Some(head.and_then(Request::parse).ok_or(Malformed::Syntax))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fed cut at every byte, the outcome is the same.
    #[track_caller]
    fn check(head: &str, expected: Result<(&str, &str, bool), Malformed>) {
        for cut in 0..head.len() {
            let mut reader = Reader { buffer: head.as_bytes()[..cut].to_vec() };
            assert_eq!(reader.take(), None, "{cut}");
            reader.buffer.extend_from_slice(&head.as_bytes()[cut..]);
            let got = reader.take().unwrap();
            let got = got.as_ref().map(|it| (it.path(), it.query(), it.keep_alive));
            assert_eq!(got, expected.as_ref().map(|it| *it), "{cut}");
            assert!(reader.buffer.is_empty());
        }
    }

    #[test]
    fn a_request_is_read_at_any_cut() {
        check("GET /v2/ HTTP/1.1\r\nHost: h\r\n\r\n", Ok(("/v2/", "", true)));
        check("GET /token?a=b?c HTTP/1.1\r\n\r\n", Ok(("/token", "a=b?c", true)));
        check("GET http://h:1/v2/?q HTTP/1.1\r\n\r\n", Ok(("/v2/", "q", true)));
        check("GET http://h HTTP/1.1\r\n\r\n", Ok(("/", "", true)));
        check("GET / HTTP/1.0\r\n\r\n", Ok(("/", "", false)));
        check("GET / HTTP/1.1\r\nconnection: Close\r\n\r\n", Ok(("/", "", false)));
        check("PUT / HTTP/1.1\r\nContent-Length: 5\r\n\r\n", Ok(("/", "", false)));
        check("GET /\r\n\r\n", Err(Malformed::Syntax));
        check("GET / HTTP/1.1 x\r\n\r\n", Err(Malformed::Syntax));
        check("GET / HTTP/1.1\r\nno colon\r\n\r\n", Err(Malformed::Syntax));
    }

    #[test]
    fn a_tls_handshake_is_refused_at_its_first_byte() {
        let mut reader = Reader { buffer: vec![22] };
        assert_eq!(reader.take(), Some(Err(Malformed::Syntax)));
    }

    #[test]
    fn a_head_has_a_bound() {
        let mut reader = Reader { buffer: vec![b'a'; DEMO_REQUEST_HEAD_SIZE_MAX] };
        assert_eq!(reader.take(), None);
        reader.buffer.push(b'a');
        assert_eq!(reader.take(), Some(Err(Malformed::TooLong)));
    }
}
