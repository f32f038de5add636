//! One request on one connection, and the answer as it arrives.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::pool::Pool;
use super::{Error, Session, Timeouts};
use crate::http::{self, After, Event, Exchange, Request, ResponseHead, TargetForm};
use crate::limits::{
    DISCARD_TIME, DOCUMENT_SPEED_MIN, EXCERPT_TIME, LOW_WATER_AFTER, LOW_WATER_MAX, LOW_WATER_TIME,
    RECV_BUFFER_SIZE, REFUSAL_BODY_SIZE_MAX,
};
use crate::origin::Origin;
use crate::report::format;
use crate::transport::{self, Connection, Deadline, Fill, Phase, clock};

/// The answer to a request: its head is here, its body comes with [`Body::next`].
pub struct Answer {
    /// Status and fields.
    pub head: ResponseHead,
    /// What follows the head.
    pub body: Body,
    /// Who answered.
    pub origin: Origin,
    /// At which address: for [`Session::distrust`].
    pub peer: SocketAddr,
}

/// A body on its way. Dropped before its end, it closes its connection.
pub struct Body {
    /// Absent once the body has ended.
    connection: Option<Connection>,
    exchange: Exchange,
    pace: Pace,
    /// How long all of it may take; absent for blobs, which have a minimum speed instead.
    allowance: Option<Allowance>,
    /// Bytes of the connection's buffer that were handed out and are not needed any more.
    used: usize,
    session: Arc<Session>,
    pool: Pool,
    origin: Origin,
}

/// How long all of a body may take, however its bytes come.
#[derive(Clone, Copy)]
struct Allowance {
    /// When the first wait for it began.
    since: Option<Instant>,
    /// The time that it has in any case.
    limit: Duration,
    /// Each so many bytes give it a second more.
    speed_min: Option<u64>,
}

impl Allowance {
    fn new(limit: Duration, speed_min: Option<u64>) -> Allowance {
        Allowance { since: None, limit, speed_min }
    }

    /// The deadline of the whole body at `now`, after `received` bytes of it.
    fn deadline(&mut self, received: u64, now: Instant) -> Deadline {
        let since = *self.since.get_or_insert(now);
        let more = self.speed_min.map_or(0, |speed| received / speed.max(1));
        let limit = self.limit.saturating_add(Duration::from_secs(more));
        Deadline::from(since, limit, Phase::Document)
    }
}

/// How fast a body comes, and how many bytes a receive should wait for by that.
struct Pace {
    /// What the first byte is to whoever writes it down.
    offset: u64,
    since: Instant,
    received: u64,
    /// The last receive had a mark.
    marked: bool,
    /// A mark was not reached in time: this body gets none any more.
    fell_short: bool,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { offset: 0, since: clock::now(), received: 0, marked: false, fell_short: false }
    }
}

impl Pace {
    /// Sets the mark for the next receive of a body of which `remaining` bytes are to come: what
    /// comes in [`LOW_WATER_TIME`], in powers of two so that it seldom changes, and never more than
    /// there will be.
    fn set_low_water(&mut self, connection: &mut Connection, remaining: Option<u64>) {
        let before = connection.low_water();
        let Some(remaining) = remaining.filter(|_| self.received >= LOW_WATER_AFTER) else {
            return;
        };
        let rate =
            format::per_second(self.received, clock::now().saturating_duration_since(self.since));
        let wanted = rate / 1_000 * LOW_WATER_TIME.as_millis() as u64;
        let power = 1 << wanted.clamp(1, LOW_WATER_MAX).ilog2();
        // Set, and now gone: see `Connection::receive`.
        self.fell_short |= self.marked && before == 1;
        let mark = if self.fell_short { 1 } else { power.min(remaining).max(1) };
        connection.set_low_water(usize::try_from(mark).unwrap_or(1));
        self.marked = mark > 1;
    }

    /// How many bytes are missing to the next multiple of [`RECV_BUFFER_SIZE`]. The head of the answer
    /// comes with the first bytes of its body, and leaves the others askew; in whole blocks they
    /// are written at a third less (measured on ext4, Linux 6.18).
    fn up_to_the_next_block(&self) -> usize {
        let at = self.offset.wrapping_add(self.received) % RECV_BUFFER_SIZE as u64;
        RECV_BUFFER_SIZE - usize::try_from(at).unwrap_or(0)
    }
}

/// Why there is no answer, and whether the request may have reached the server at all.
pub(super) struct Unanswered {
    pub(super) error: Error,
    /// Not a byte of an answer came, and the connection ended: on a kept connection, the server
    /// most likely closed it before the request arrived.
    pub(super) untouched: bool,
}

/// Sends `request` and receives the head of its answer.
pub(super) async fn ask(
    mut connection: Connection,
    request: &Request,
    session: &Arc<Session>,
    pool: &Pool,
) -> Result<Answer, Unanswered> {
    let mut exchange = Exchange::new(request.method());
    match send_and_receive(&mut connection, &mut exchange, request, &session.timeouts).await {
        Ok(head) => {
            let (origin, peer) = (request.url().origin(), connection.peer());
            let body = Body {
                connection: Some(connection),
                exchange,
                pace: Pace::default(),
                allowance: None,
                used: 0,
                session: Arc::clone(session),
                pool: pool.clone(),
                origin: origin.clone(),
            };
            Ok(Answer { head, body, origin, peer })
        }
        Err(error) => {
            let ended = matches!(
                error,
                Error::Http(http::Error::EmptyResponse)
                    | Error::Transport(transport::Error::Io { .. })
            );
            Err(Unanswered { untouched: ended && !exchange.started(), error })
        }
    }
}

async fn send_and_receive(
    connection: &mut Connection,
    exchange: &mut Exchange,
    request: &Request,
    timeouts: &Timeouts,
) -> Result<ResponseHead, Error> {
    let bytes = Bytes::from(request.encode(TargetForm::Origin));
    connection.send(bytes, Deadline::after(timeouts.recv, Phase::Send)).await?;
    let whole_head = Deadline::after(timeouts.head, Phase::Head);
    loop {
        if !exchange.started() && connection.wants_tls() {
            return Err(transport::Error::WantsTls.into());
        }
        let (used, event) = exchange.recv(connection.received())?;
        connection.consume(used);
        match event {
            Event::Head(head) => return Ok(head),
            Event::Interim { .. } => {}
            Event::NeedMore => {
                let deadline = Deadline::after(timeouts.recv, Phase::Reply).sooner(whole_head);
                if let Fill::End { clean } = connection.fill(deadline).await? {
                    exchange.recv_eof(clean)?;
                }
            }
            // The exchange gives the head before anything of the body.
            Event::Body(_) | Event::Done(_) => {
                return Err(Error::Broken("a body without a head"));
            }
        }
    }
}

impl Body {
    /// The next bytes of the payload, as they stand in the connection's buffer; `None` at the end,
    /// with which the connection goes back to the pool if it is fit for another request.
    ///
    /// # Errors
    /// A deadline that passed, a connection that ended too soon, a body that is framed wrongly.
    pub async fn next(&mut self) -> Result<Option<&[u8]>, Error> {
        let range = loop {
            let Some(connection) = &mut self.connection else { return Ok(None) };
            connection.consume(std::mem::take(&mut self.used));
            let (used, event) = self.exchange.recv(connection.received())?;
            match event {
                Event::Body(range) => {
                    self.used = used;
                    self.session.received(range.len());
                    self.pace.received += range.len() as u64;
                    break range;
                }
                Event::NeedMore => {
                    connection.consume(used);
                    let now = clock::now();
                    let mut deadline = Deadline::from(now, self.session.timeouts.recv, Phase::Body);
                    match &mut self.allowance {
                        Some(allowance) => {
                            deadline = deadline.sooner(allowance.deadline(self.pace.received, now));
                        }
                        // A receive with a mark may last longer than its deadline: see
                        // `Connection::receive`. A document is too short to need one.
                        None => {
                            self.pace.set_low_water(connection, self.exchange.body_remaining());
                        }
                    }
                    let most = self.pace.up_to_the_next_block();
                    if let Fill::End { clean } = connection.fill_up_to(most, deadline).await? {
                        let after = self.exchange.recv_eof(clean)?;
                        self.end(after);
                    }
                }
                Event::Done(after) => {
                    connection.consume(used);
                    self.end(after);
                }
                Event::Interim { .. } | Event::Head(_) => {
                    return Err(Error::Broken("a head after the head"));
                }
            }
        };
        Ok(self.connection.as_ref().and_then(|connection| connection.received().get(range)))
    }

    /// All of the payload of a document, within the deadline of a whole document, which grows by a
    /// second for each [`DOCUMENT_SPEED_MIN`] bytes received.
    ///
    /// # Errors
    /// As [`next`](Body::next), and [`Error::TooLarge`] beyond `size_max` bytes.
    pub async fn collect(mut self, size_max: usize) -> Result<Vec<u8>, Error> {
        let limit = self.session.timeouts.document;
        self.allowance = Some(Allowance::new(limit, Some(DOCUMENT_SPEED_MIN)));
        let mut all = Vec::new();
        while let Some(bytes) = self.next().await? {
            if all.len() + bytes.len() > size_max {
                return Err(Error::TooLarge { size_max });
            }
            all.extend_from_slice(bytes);
        }
        Ok(all)
    }

    /// The beginning of the payload for a message: at most [`REFUSAL_BODY_SIZE_MAX`] bytes, and no more
    /// than come within [`EXCERPT_TIME`]. A failure on the way only makes it shorter.
    pub(super) async fn excerpt(self) -> Vec<u8> {
        self.beginning(EXCERPT_TIME).await
    }

    async fn beginning(mut self, limit: Duration) -> Vec<u8> {
        self.allowance = Some(Allowance::new(limit, None));
        let mut excerpt = Vec::new();
        while let Ok(Some(bytes)) = self.next().await {
            if excerpt.len() + bytes.len() > REFUSAL_BODY_SIZE_MAX {
                break;
            }
            excerpt.extend_from_slice(bytes);
        }
        excerpt
    }

    /// Receives a short body for nothing, so that the connection is fit for the next request. One that
    /// is longer, or not whole within [`DISCARD_TIME`], is not worth that: its connection is closed.
    pub(super) async fn discard(self) {
        if self.remaining().is_some_and(|size| size <= REFUSAL_BODY_SIZE_MAX as u64) {
            self.beginning(DISCARD_TIME).await;
        }
    }

    /// The first byte will be written at `offset`: receives then end where blocks do.
    pub fn starts_at(&mut self, offset: u64) {
        self.pace.offset = offset;
    }

    /// How many bytes are to come, where the framing says so.
    pub fn remaining(&self) -> Option<u64> {
        self.exchange.body_remaining()
    }

    fn end(&mut self, after: After) {
        let Some(mut connection) = self.connection.take() else { return };
        connection.set_low_water(1);
        match after {
            After::Keep => self.pool.put(self.origin.clone(), connection),
            After::Close(_) => connection.close(),
        }
    }
}
