//! One connection to one peer, plain or TLS: bytes in order, and a deadline for every wait.

use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use bytes::Bytes;

use super::tls::{self, Progress, Session, TlsConfig};
use super::{Buffer, Connector, Deadline, Error, Socket, race};
use crate::limits::LOW_WATER_HOLD;

/// What a receive brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// At least one byte more stands in [`Connection::received`].
    Bytes,
    /// The peer ended its stream.
    End {
        /// Nothing can have been cut off: a plain connection's FIN, or TLS's close_notify.
        clean: bool,
    },
}

/// A connection.
pub struct Connection {
    socket: Socket,
    tls: Option<Tls>,
    /// Received, decrypted, and not yet consumed.
    received: Buffer,
    /// Size of the buffers to receive into, in bytes.
    buffer_size: usize,
    /// How many bytes a receive waits for.
    low_water: usize,
    peer: SocketAddr,
}

/// What a TLS connection has besides.
struct Tls {
    session: Session,
    ciphertext: Buffer,
    /// What the session failed with, right behind bytes that are good.
    failed: Option<Error>,
}

impl Connection {
    /// Connects to the first of `addresses` that accepts ([`race`]). Each has `limit` for it.
    ///
    /// # Errors
    /// [`Error::Address`] with the failure that came last.
    pub async fn open(
        connector: &Connector,
        addresses: &[SocketAddr],
        limit: Duration,
        buffer_size: usize,
    ) -> Result<Connection, Error> {
        let places = race::Places::new();
        let (socket, peer) = race::connect(connector, addresses, limit, &places, |_, _| {}).await?;
        Ok(Connection::over(socket, peer, buffer_size))
    }

    /// A plain connection over a socket that is connected to `peer`.
    pub fn over(socket: Socket, peer: SocketAddr, buffer_size: usize) -> Connection {
        let received = Buffer::new(0);
        Connection { socket, tls: None, received, buffer_size, low_water: 1, peer }
    }

    /// Makes the TLS handshake with `host`.
    ///
    /// # Errors
    /// [`Error::Trust`] if the certificate is not trusted or not for `host`, [`Error::Tls`] if the
    /// peer does not speak TLS, [`Error::TlsRefused`] if it takes nothing of what is offered,
    /// [`Error::PlainHttp`] if it speaks http, [`Error::Expired`] at the deadline of the whole handshake.
    pub async fn secure(
        mut self,
        config: &TlsConfig,
        host: &str,
        deadline: Deadline,
    ) -> Result<Connection, Error> {
        let mut session = Session::new(config, host)?;
        let mut ciphertext = Buffer::new(self.buffer_size);
        loop {
            if tls::is_plain_http(ciphertext.filled()) {
                return Err(Error::PlainHttp);
            }
            let progress = session.advance(&mut ciphertext, &mut self.received, deadline.phase);
            // An alert that says why we refuse is owed to the peer even after an error.
            let sent = self.socket.send_all(session.take_outgoing(), deadline).await;
            match progress? {
                Progress::Ready => {
                    sent?;
                    self.tls = Some(Tls { session, ciphertext, failed: None });
                    return Ok(self);
                }
                Progress::Closed => return Err(Error::Closed(deadline.phase)),
                Progress::Receive => sent?,
            }
            let buffer = make_room(&mut ciphertext, self.buffer_size);
            let (count, buffer) = self.socket.recv(buffer, deadline).await;
            ciphertext = buffer;
            if count? == 0 {
                return Err(Error::Closed(deadline.phase));
            }
        }
    }

    /// Sends all of `bytes`.
    ///
    /// # Errors
    /// [`Error::Expired`] if they are not sent by the deadline, [`Error::Io`] on a reset.
    pub async fn send(&mut self, bytes: Bytes, deadline: Deadline) -> Result<(), Error> {
        let bytes = match &mut self.tls {
            None => bytes,
            Some(tls) => {
                tls.session.encrypt(&bytes)?;
                tls.session.take_outgoing()
            }
        };
        self.socket.send_all(bytes, deadline).await
    }

    /// Received bytes that were not consumed yet.
    pub fn received(&self) -> &[u8] {
        self.received.filled()
    }

    /// Forgets the first `count` received bytes.
    pub fn consume(&mut self, count: usize) {
        self.received.consume(count);
    }

    /// Lets receives wait for about `bytes` instead of returning with any: fewer and larger ones
    /// cost less. At least so many must be to come, those included that were received and not
    /// decrypted yet. 1 undoes it.
    pub fn set_low_water(&mut self, bytes: usize) {
        let undecrypted = self.tls.as_ref().map_or(0, |tls| tls.ciphertext.filled().len());
        let bytes = bytes.saturating_sub(undecrypted).clamp(1, self.buffer_size);
        // Without a mark everything works as well, only not as cheaply.
        if bytes != self.low_water && self.socket.set_low_water(bytes).is_ok() {
            self.low_water = bytes;
        }
    }

    /// How many bytes a receive waits for; 1 again after they did not come in [`LOW_WATER_HOLD`].
    pub fn low_water(&self) -> usize {
        self.low_water
    }

    /// Receives into `buffer`. A mark that is not reached soon goes, so that it never holds back what
    /// is there, nor turns bytes below it into a stall; the deadline stays what it is.
    async fn receive(
        &mut self,
        buffer: Buffer,
        deadline: Deadline,
    ) -> (Result<usize, Error>, Buffer) {
        if self.low_water == 1 {
            return self.socket.recv(buffer, deadline).await;
        }
        let hold = Deadline::after(LOW_WATER_HOLD, deadline.phase);
        match self.socket.recv(buffer, deadline.sooner(hold)).await {
            (Err(Error::Expired { .. }), buffer) => {
                self.set_low_water(1);
                // Bytes that came before the deadline are progress, even if nobody took them yet.
                let last = match self.socket.has_bytes() {
                    true => Deadline::after(deadline.limit, deadline.phase),
                    false => deadline,
                };
                self.socket.recv(buffer, last).await
            }
            answered => answered,
        }
    }

    /// Receives until there is at least one byte more.
    ///
    /// # Errors
    /// [`Error::Expired`] at the deadline, [`Error::Io`] on a reset, [`Error::Tls`] on a bad record.
    pub async fn fill(&mut self, deadline: Deadline) -> Result<Fill, Error> {
        self.fill_up_to(usize::MAX, deadline).await
    }

    /// As [`fill`](Connection::fill), with at most `most` bytes for a plain connection. Over TLS, it
    /// is the records' size that counts.
    ///
    /// # Errors
    /// As [`fill`](Connection::fill).
    pub async fn fill_up_to(&mut self, most: usize, deadline: Deadline) -> Result<Fill, Error> {
        if self.tls.is_none() {
            let mut buffer = make_room(&mut self.received, self.buffer_size);
            buffer.offer(most);
            let (count, buffer) = self.receive(buffer, deadline).await;
            self.received = buffer;
            return Ok(if count? == 0 { Fill::End { clean: true } } else { Fill::Bytes });
        }
        let before = self.received.filled().len();
        loop {
            let Some(tls) = &mut self.tls else { return Err(Error::Broken("TLS went away")) };
            if let Some(error) = tls.failed.take() {
                return Err(error);
            }
            let progress =
                tls.session.advance(&mut tls.ciphertext, &mut self.received, deadline.phase);
            let more = self.received.filled().len() > before;
            let progress = match progress {
                // What came before the bad record is authentic: it is not lost with it.
                Err(error) if more => {
                    tls.failed = Some(error);
                    return Ok(Fill::Bytes);
                }
                progress => progress?,
            };
            self.socket.send_all(tls.session.take_outgoing(), deadline).await?;
            if more {
                return Ok(Fill::Bytes);
            }
            if progress == Progress::Closed {
                return Ok(Fill::End { clean: true });
            }
            let buffer = make_room(&mut tls.ciphertext, self.buffer_size);
            let (count, buffer) = self.receive(buffer, deadline).await;
            if let Some(tls) = &mut self.tls {
                tls.ciphertext = buffer;
            }
            if count? == 0 {
                return Ok(Fill::End { clean: false });
            }
        }
    }

    /// Gives back the memory of buffers that hold nothing, while the connection is idle.
    pub fn rest(&mut self) {
        let ciphertext = self.tls.as_mut().map(|tls| &mut tls.ciphertext);
        for buffer in [Some(&mut self.received), ciphertext].into_iter().flatten() {
            if buffer.is_empty() {
                *buffer = Buffer::new(0);
            }
        }
    }

    /// Whether an idle connection may carry another request: nothing received that nobody asked
    /// for, neither here nor in the kernel, and not closed.
    pub fn is_quiet(&self) -> bool {
        self.received.is_empty()
            && self.tls.as_ref().is_none_or(|tls| tls.ciphertext.is_empty() && tls.failed.is_none())
            && self.socket.is_quiet()
    }

    /// The address of the peer.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Whether the peer speaks TLS on this plain connection: its first bytes are a TLS record.
    pub fn wants_tls(&self) -> bool {
        self.tls.is_none() && tls::is_tls_record(self.received())
    }

    /// `plain`, or the version of TLS.
    pub fn security(&self) -> &'static str {
        self.tls.as_ref().map_or("plain", |tls| tls.session.version())
    }

    /// Ends the connection now, in both directions.
    pub fn close(self) {
        self.socket.shutdown(Shutdown::Both);
    }
}

/// Takes a buffer out, to be given to the kernel: with what it holds, and room for more.
fn make_room(buffer: &mut Buffer, size: usize) -> Buffer {
    let mut taken = std::mem::replace(buffer, Buffer::new(0));
    if taken.capacity() < size {
        let mut larger = Buffer::new(size.max(taken.filled().len() + 1));
        larger.extend(taken.filled());
        return larger;
    }
    // A partial record near the end would leave room for a small receive only.
    taken.reserve(size / 2);
    taken
}
