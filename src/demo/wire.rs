//! One accepted connection, plain or TLS, and the steps it can be made to take.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use socket2::SockRef;

use super::lock;

/// One thing that a connection does. The last four end it; a list of steps without one of them ends
/// as its owner says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Sends these bytes, in writes as large as the kernel takes.
    Send(Bytes),
    /// Sends these bytes in pieces, each in a write (and TLS record) of its own, at even times.
    Drip {
        /// What is sent.
        bytes: Bytes,
        /// Bytes in a piece; at least 1 is taken.
        size: usize,
        /// From the start of one piece to the start of the next.
        every: Duration,
    },
    /// Reads until this many bytes were received since the connection began.
    Receive(u64),
    /// Does nothing for a while; what arrives stays unread.
    Wait(Duration),
    /// Waits until the test says go.
    Pause,
    /// Sends FIN (after `close_notify` on TLS) and goes on: the peer may still send.
    ShutdownWrite,
    /// Sends nothing and reads nothing until the peer closes its side or the server stops.
    Hold,
    /// Closes in order: `close_notify` on TLS, FIN.
    Close,
    /// Closes with FIN, on TLS without `close_notify`: what a truncation attack looks like.
    CloseWithoutNotify,
    /// Closes with RST, once all bytes before it are on their way.
    Reset,
}

impl Step {
    /// Sends `bytes` at about `per_second` bytes per second, in fifty pieces a second.
    pub fn paced(bytes: Bytes, per_second: u64) -> Step {
        const PIECES_PER_SECOND: u64 = 50;
        let size = (per_second / PIECES_PER_SECOND).max(1);
        let every = Duration::from_secs_f64(size as f64 / per_second.max(1) as f64);
        Step::Drip { bytes, size: size as usize, every }
    }
}

/// What holds [`Step::Pause`] back.
#[derive(Debug, Default)]
pub(super) struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct GateState {
    permits: u64,
    stopped: bool,
}

impl Gate {
    /// Lets one pause pass: one that waits, or the next to come.
    pub(super) fn go(&self) {
        lock(&self.state).permits += 1;
        self.changed.notify_all();
    }

    /// Ends all pauses, with an error.
    pub(super) fn stop(&self) {
        lock(&self.state).stopped = true;
        self.changed.notify_all();
    }

    fn pass(&self) -> io::Result<()> {
        let closed = |state: &mut GateState| state.permits == 0 && !state.stopped;
        let mut state = self
            .changed
            .wait_while(lock(&self.state), closed)
            .unwrap_or_else(PoisonError::into_inner);
        if state.stopped {
            return Err(ended());
        }
        state.permits -= 1;
        Ok(())
    }
}

/// Whether the connection can go on after a step.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Continue,
    Ended,
}

/// Called with all bytes that were received, in order.
type Recorder = Box<dyn FnMut(&[u8]) + Send>;

/// A connection of a server. Every operation fails once the server stops, because that shuts the
/// socket down.
pub(super) struct Wire {
    stream: Stream,
    socket: Arc<TcpStream>,
    sent: u64,
    received: u64,
    recorder: Option<Recorder>,
}

enum Stream {
    Plain(Socket),
    Tls(Box<StreamOwned<ServerConnection, Socket>>),
}

impl Wire {
    /// The handshake of TLS happens with the first byte read or sent.
    pub(super) fn new(socket: Arc<TcpStream>, tls: Option<&Arc<ServerConfig>>) -> io::Result<Wire> {
        // A fault is as exact as its segments are prompt.
        socket.set_nodelay(true)?;
        let plain = Socket(Arc::clone(&socket));
        let stream = match tls {
            None => Stream::Plain(plain),
            Some(config) => {
                let session =
                    ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
                Stream::Tls(Box::new(StreamOwned::new(session, plain)))
            }
        };
        Ok(Wire { stream, socket, sent: 0, received: 0, recorder: None })
    }

    /// From now on, `recorder` sees all bytes received.
    pub(super) fn record(&mut self, recorder: Recorder) {
        self.recorder = Some(recorder);
    }

    /// Number of bytes sent so far, TLS not counted.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// Receives some bytes; 0 is the end of what the peer sends.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match &mut self.stream {
            Stream::Plain(socket) => socket.read(buffer)?,
            Stream::Tls(session) => session.read(buffer)?,
        };
        self.received += count as u64;
        if let Some(recorder) = &mut self.recorder {
            recorder(&buffer[..count]);
        }
        Ok(count)
    }

    /// Takes one step. An error means that the connection is over: the peer or the server ended it.
    pub(super) fn take(&mut self, step: &Step, gate: &Gate) -> io::Result<Flow> {
        match step {
            Step::Send(bytes) => self.send(bytes)?,
            Step::Drip { bytes, size, every } => self.drip(bytes, *size, *every)?,
            Step::Receive(total) => self.receive(*total)?,
            Step::Wait(time) => self.wait(*time)?,
            Step::Pause => gate.pass()?,
            Step::ShutdownWrite => self.shutdown_write()?,
            Step::Hold => {
                self.poll(PollFlags::RDHUP, None)?;
                return Ok(Flow::Ended);
            }
            Step::Close => {
                self.shutdown_write()?;
                self.discard_received()?;
                return Ok(Flow::Ended);
            }
            Step::CloseWithoutNotify => {
                self.socket.shutdown(Shutdown::Write)?;
                self.discard_received()?;
                return Ok(Flow::Ended);
            }
            Step::Reset => {
                self.prepare_reset()?;
                return Ok(Flow::Ended);
            }
        }
        Ok(Flow::Continue)
    }

    fn send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let count = match &mut self.stream {
                Stream::Plain(socket) => socket.write(bytes)?,
                Stream::Tls(session) => session.write(bytes)?,
            };
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.sent += count as u64;
            bytes = &bytes[count..];
        }
        match &mut self.stream {
            Stream::Plain(_) => Ok(()),
            Stream::Tls(session) => session.flush(),
        }
    }

    fn drip(&mut self, bytes: &Bytes, size: usize, every: Duration) -> io::Result<()> {
        // Each piece has its time from the start on, so that late ones do not add up.
        let started = Instant::now();
        for (nth, piece) in (0..).zip(bytes.chunks(size.max(1))) {
            let due = every.saturating_mul(nth);
            self.wait(due.saturating_sub(started.elapsed()))?;
            self.send(piece)?;
        }
        Ok(())
    }

    fn receive(&mut self, total: u64) -> io::Result<()> {
        let mut buffer = [0; 4096];
        while self.received < total {
            if self.read(&mut buffer)? == 0 {
                return Err(ended());
            }
        }
        Ok(())
    }

    /// Waits for a time; fails sooner when both directions are shut or the peer reset.
    fn wait(&self, time: Duration) -> io::Result<()> {
        // HUP and ERR are reported without being asked for.
        if time.is_zero() || self.poll(PollFlags::empty(), Some(time))?.is_empty() {
            return Ok(());
        }
        Err(ended())
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        if let Stream::Tls(session) = &mut self.stream {
            session.conn.send_close_notify();
            session.flush()?;
        }
        self.socket.shutdown(Shutdown::Write)
    }

    /// Takes what has arrived unread: the kernel answers the close of a socket that holds unread
    /// bytes with RST, and the peer would lose bytes before the FIN that was asked for.
    fn discard_received(&self) -> io::Result<()> {
        self.socket.set_nonblocking(true)?;
        let mut buffer = [0; 4096];
        while (&*self.socket).read(&mut buffer).is_ok_and(|count| count > 0) {}
        Ok(())
    }

    /// Makes the coming close a reset. A reset drops what the kernel has not sent yet, so wait until
    /// there is nothing such: with a low-water mark of one byte, the socket counts as writable only
    /// when no byte is unsent (tcp(7), `TCP_NOTSENT_LOWAT`).
    fn prepare_reset(&self) -> io::Result<()> {
        let socket = SockRef::from(&*self.socket);
        socket.set_tcp_notsent_lowat(1)?;
        self.poll(PollFlags::OUT, None)?;
        socket.set_linger(Some(Duration::ZERO))
    }

    /// Waits for `events`, or the end of the connection; returns none of them once `timeout` passed.
    fn poll(&self, events: PollFlags, timeout: Option<Duration>) -> io::Result<PollFlags> {
        // What the kernel cannot count is for ever.
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let mut polled = [PollFd::from_borrowed_fd(self.socket.as_fd(), events)];
        // A signal that comes in between starts the time anew: waits are at least as long as asked.
        retry_on_intr(|| poll(&mut polled, timeout.as_ref()))?;
        Ok(polled[0].revents())
    }
}

/// A shared socket, so that a server can shut it down while its thread is blocked on it, without a
/// second descriptor.
struct Socket(Arc<TcpStream>);

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self.0).read(buffer)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.0).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The peer or the server ended the connection during a wait.
fn ended() -> io::Error {
    io::ErrorKind::ConnectionAborted.into()
}
