//! One request's answer, from its first byte to the connection's fate.

use std::mem;
use std::ops::Range;

use super::chunked::{ChunkEvent, Chunks};
use super::header::SectionScanner;
use super::{After, Error, Framing, Method, ResponseHead};
use crate::limits::{INTERIM_COUNT_MAX, RESPONSE_HEAD_SIZE_MAX};

/// The answer to one request, as a state machine fed with the bytes of the connection.
///
/// ```text
///            ┌─┐ Interim
///            │ ↓
///   new ─→ RecvHead ──Head──┬─→ RecvLength ─────Body…──┬─→ Done
///                           ├─→ RecvChunks ─────Body…──┤
///                           ├─→ RecvUntilClose ─Body…──┘ (recv_eof)
///                           └─→ Done (no body)
///   any ──Error──→ Failed, for good
/// ```
///
/// The caller receives bytes and gives them to [`Exchange::recv`], again and again with what was not
/// used, until it says [`Event::NeedMore`] or [`Event::Done`]:
///
/// ```
/// use ringpull::http::{After, Event, Exchange, Method};
///
/// let mut exchange = Exchange::new(Method::Get);
/// let received = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
/// let (mut at, mut body) = (0, Vec::new());
/// loop {
///     let input = &received[at..];
///     let (used, event) = exchange.recv(input)?;
///     at += used;
///     match event {
///         Event::NeedMore => break, // all of `received` was used: receive more
///         Event::Interim { .. } => {}
///         Event::Head(head) => assert_eq!(head.status(), 200),
///         Event::Body(range) => body.extend_from_slice(&input[range]),
///         Event::Done(after) => {
///             assert_eq!(after, After::Keep);
///             break;
///         }
///     }
/// }
/// assert_eq!(body, b"hello");
/// # Ok::<(), ringpull::http::Error>(())
/// ```
pub struct Exchange {
    state: State,
    started: bool,
}

/// What the bytes given to [`Exchange::recv`] meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// All of the input was used, and the answer goes on.
    NeedMore,
    /// An interim response (1xx) has passed; the final one is to come.
    Interim {
        /// Its status: 100, or 102 to 199.
        status: u16,
    },
    /// The final head. Its framing is sound; what it says is for the caller to judge.
    Head(ResponseHead),
    /// Bytes of the payload: where they are in the input just given. Never empty, and as many as
    /// are in one piece there.
    Body(Range<usize>),
    /// The answer is whole. If the input holds more bytes, nobody asked for them: they are not
    /// used, and the verdict is [`BytesAfterEnd`](super::CloseReason::BytesAfterEnd). Whoever receives bytes *later*,
    /// before the next request, must close likewise.
    Done(After),
}

impl Exchange {
    /// Before the first byte of the answer to a request with `method`.
    pub fn new(method: Method) -> Exchange {
        Exchange { state: State::RecvHead(RecvHead::new(method)), started: false }
    }

    /// How many bytes of `input` were used, and what they meant. To be called again with the rest,
    /// which may be empty: after the last byte of a body, [`Event::Done`] needs no further input.
    ///
    /// Input is never asked for twice: with [`Event::NeedMore`], all of it was used. A head that
    /// comes in pieces is kept here, at most [`RESPONSE_HEAD_SIZE_MAX`] bytes of it. Once failed, it
    /// fails with the same error for ever.
    pub fn recv(&mut self, input: &[u8]) -> Result<(usize, Event), Error> {
        self.started |= !input.is_empty();
        let (state, used, event) = match self.take_state().recv(input) {
            Ok(next) => next,
            Err(error) => return Err(self.fail(error)),
        };
        self.state = state;
        Ok((used, event))
    }

    /// The peer closed its side. `clean` is false if the connection is encrypted and ended without
    /// `close_notify`.
    ///
    /// Ends a body that runs until close, if the close was clean. If not, the body may have been
    /// cut, but a caller that knows its size better (from a descriptor), and has all of it, need not
    /// ask. Anything else that is not [`Event::Done`] already fails.
    pub fn recv_eof(&mut self, clean: bool) -> Result<After, Error> {
        let missing = self.body_remaining();
        let error = match self.take_state() {
            State::RecvHead(_) if !self.started => Error::EmptyResponse,
            State::RecvHead(_) => Error::TruncatedHead,
            State::RecvLength(_) | State::RecvChunks(_) => Error::TruncatedBody { missing },
            State::RecvUntilClose(_) if !clean => Error::UncleanClose,
            State::RecvUntilClose(RecvUntilClose { after }) | State::Done(Done { after }) => {
                let after = after.with_peer_closed();
                self.state = State::Done(Done { after });
                return Ok(after);
            }
            State::Failed(error) => error,
        };
        Err(self.fail(error))
    }

    /// Whether any byte of the answer has been seen. If not, and the connection was not fresh, it
    /// was most likely closed before the request reached the server.
    pub fn started(&self) -> bool {
        self.started
    }

    /// How many bytes of the body are to come, where that is known: never for chunked bodies and
    /// those that run until close, and not before the head.
    pub fn body_remaining(&self) -> Option<u64> {
        match &self.state {
            State::RecvLength(body) => Some(body.remaining),
            State::Done(_) => Some(0),
            State::RecvHead(_)
            | State::RecvChunks(_)
            | State::RecvUntilClose(_)
            | State::Failed(_) => None,
        }
    }

    /// Takes the state out. What stays behind is a failure, so that a transition that panics leaves a
    /// failed machine; no transition that returns leaves it there.
    fn take_state(&mut self) -> State {
        mem::replace(&mut self.state, State::Failed(Error::TruncatedHead))
    }

    fn fail(&mut self, error: Error) -> Error {
        self.state = State::Failed(error.clone());
        error
    }
}

enum State {
    RecvHead(RecvHead),
    RecvLength(RecvLength),
    RecvChunks(RecvChunks),
    RecvUntilClose(RecvUntilClose),
    Done(Done),
    Failed(Error),
}

/// The state after a piece of input, how many bytes of it were used, and what they meant.
type Step = Result<(State, usize, Event), Error>;

impl State {
    fn recv(self, input: &[u8]) -> Step {
        match self {
            State::RecvHead(state) => state.recv(input),
            State::RecvLength(state) => Ok(state.recv(input)),
            State::RecvChunks(state) => state.recv(input),
            State::RecvUntilClose(state) => Ok(state.recv(input)),
            State::Done(state) => Ok(state.recv(input)),
            State::Failed(error) => Err(error),
        }
    }
}

/// Within a head: an interim one, or the final one.
struct RecvHead {
    method: Method,
    scanner: SectionScanner,
    /// What has come of this head.
    bytes: Vec<u8>,
    /// How many interim responses have passed.
    interim_count: usize,
}

impl RecvHead {
    fn new(method: Method) -> RecvHead {
        let scanner = SectionScanner::head(RESPONSE_HEAD_SIZE_MAX);
        RecvHead { method, scanner, bytes: Vec::new(), interim_count: 0 }
    }

    fn recv(mut self, input: &[u8]) -> Step {
        let Some(used) = self.scanner.scan(input)? else {
            self.bytes.extend_from_slice(input);
            return Ok((State::RecvHead(self), input.len(), Event::NeedMore));
        };
        self.bytes.extend_from_slice(&input[..used]);
        let head = ResponseHead::split(&self.bytes)?;
        let (state, event) = match head.status() {
            101 => return Err(Error::SwitchedProtocols),
            status @ 100..=199 => (self.interim()?, Event::Interim { status }),
            _ => (self.body(&head)?, Event::Head(head)),
        };
        Ok((state, used, event))
    }

    /// At the head after an interim one, which shares its bounds.
    fn interim(mut self) -> Result<State, Error> {
        self.interim_count += 1;
        if self.interim_count > INTERIM_COUNT_MAX {
            return Err(Error::InterimCount);
        }
        self.scanner = SectionScanner::head(self.scanner.room());
        self.bytes.clear();
        Ok(State::RecvHead(self))
    }

    /// At the body after the final head.
    fn body(self, head: &ResponseHead) -> Result<State, Error> {
        let framing = Framing::of(self.method, head)?;
        let after = After::of(head, framing);
        Ok(match framing {
            Framing::None | Framing::Length(0) => State::Done(Done { after }),
            Framing::Length(remaining) => State::RecvLength(RecvLength { remaining, after }),
            Framing::Chunked => State::RecvChunks(RecvChunks { chunks: Chunks::new(), after }),
            Framing::UntilClose => State::RecvUntilClose(RecvUntilClose { after }),
        })
    }
}

/// Within a body of known length.
struct RecvLength {
    /// How many bytes are to come; not zero.
    remaining: u64,
    after: After,
}

impl RecvLength {
    fn recv(self, input: &[u8]) -> (State, usize, Event) {
        let RecvLength { remaining, after } = self;
        if input.is_empty() {
            return (State::RecvLength(self), 0, Event::NeedMore);
        }
        // A body longer than the address space has more to come than `input` can hold.
        let size = usize::try_from(remaining).map_or(input.len(), |r| r.min(input.len()));
        let state = match remaining - size as u64 {
            0 => State::Done(Done { after }),
            remaining => State::RecvLength(RecvLength { remaining, after }),
        };
        (state, size, Event::Body(0..size))
    }
}

/// Within a chunked body.
struct RecvChunks {
    chunks: Chunks,
    after: After,
}

impl RecvChunks {
    fn recv(mut self, input: &[u8]) -> Step {
        let (used, event) = self.chunks.recv(input)?;
        Ok(match event {
            ChunkEvent::NeedMore => (State::RecvChunks(self), used, Event::NeedMore),
            ChunkEvent::Data(range) => (State::RecvChunks(self), used, Event::Body(range)),
            ChunkEvent::End => {
                let (state, _, event) = Done { after: self.after }.recv(&input[used..]);
                (state, used, event)
            }
        })
    }
}

/// Within a body that ends with the connection.
struct RecvUntilClose {
    after: After,
}

impl RecvUntilClose {
    fn recv(self, input: &[u8]) -> (State, usize, Event) {
        let event = match input.len() {
            0 => Event::NeedMore,
            size => Event::Body(0..size),
        };
        (State::RecvUntilClose(self), input.len(), event)
    }
}

/// The answer is whole.
struct Done {
    after: After,
}

impl Done {
    fn recv(self, input: &[u8]) -> (State, usize, Event) {
        let after = self.after.with_leftover(input.len());
        (State::Done(Done { after }), 0, Event::Done(after))
    }
}
