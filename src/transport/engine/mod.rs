//! One contract, three engines: an owned buffer goes in, the owned buffer and a result come out.
//!
//! | | uring | epoll | sim |
//! |---|---|---|---|
//! | a wait is | a linked pair of SQEs: the operation and its `LINK_TIMEOUT` | readiness, beside a timer | a change of the simulated network, beside a timer |
//! | the deadline is kept by | the kernel | the runtime's timer wheel | the same, under a virtual clock |
//! | runtime | tokio-uring, one thread | tokio current-thread, one thread | as epoll, its clock paused |
//!
//! The contract, which `tests/engine.rs` and, for sim, `tests/sim.rs` hold the engines to:
//!
//! - At most one receive and one send (or connect) at a time are under way on a socket.
//! - Bytes that arrived win over a deadline that passed; no byte is lost, none comes twice.
//! - An operation whose deadline has passed already fails at once and receives nothing.
//! - An operation that is dropped while under way makes its socket unusable: the kernel may still
//!   have taken bytes. The socket is shut down, so that the peer sees the end.
//! - A socket's descriptor is closed when nothing is in flight on it any more, and not before.
//! - A connect that is dropped under way is cancelled, be it that the kernel had not seen it yet.
//! - A socket works inside the `run` of the engine that made it, and in no other: there it would
//!   count in the wrong ring, and wait for a kernel that nobody asks.
//!
//! Code above this module is the same for every engine: it takes a [`Connector`] and never asks.

mod epoll;
mod low_water;
mod names;
pub mod sim;
pub mod uring;

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::{Buffer, Deadline, Error, clock};
pub(super) use names::look_up;

/// The engines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EngineKind {
    /// io_uring with linked timeouts.
    Uring,
    /// Readiness and timers.
    Epoll,
    /// Scripted peers under a virtual clock. For tests: no flag names it.
    Sim,
}

impl EngineKind {
    /// Every engine that talks to a kernel, for tests that run once per engine.
    pub const ALL: [EngineKind; 2] = [EngineKind::Uring, EngineKind::Epoll];
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EngineKind::Uring => "uring",
            EngineKind::Epoll => "epoll",
            EngineKind::Sim => "sim",
        })
    }
}

/// An engine and its single-threaded runtime. Belongs to the thread that started it.
pub enum Engine {
    /// See [`uring`].
    Uring(uring::Engine),
    /// Tokio's readiness, kept private: there is nothing to study in it.
    #[doc(hidden)]
    Epoll(epoll::Engine),
    /// See [`sim`].
    Sim(sim::Engine),
}

impl Engine {
    /// Starts an engine on this thread, for at most `connections` sockets at once.
    ///
    /// # Errors
    /// What the kernel answers when the ring or the epoll instance is made.
    pub fn start(kind: EngineKind, connections: usize) -> io::Result<Engine> {
        Ok(match kind {
            EngineKind::Uring => Engine::Uring(uring::Engine::start(connections)?),
            EngineKind::Epoll => Engine::Epoll(epoll::Engine::start()?),
            // It needs a network to begin with.
            EngineKind::Sim => return Err(io::ErrorKind::Unsupported.into()),
        })
    }

    /// An engine on a simulated `network`, over a current-thread `runtime` whose clock is paused.
    pub fn simulated(runtime: tokio::runtime::Runtime, network: sim::Network) -> Engine {
        Engine::Sim(sim::Engine::new(runtime, network))
    }

    /// Which engine this is.
    pub fn kind(&self) -> EngineKind {
        match self {
            Engine::Uring(_) => EngineKind::Uring,
            Engine::Epoll(_) => EngineKind::Epoll,
            Engine::Sim(_) => EngineKind::Sim,
        }
    }

    /// Runs `main` and all that it spawns with `tokio::task::spawn_local`, until `main` ends.
    /// What is still under way then is cancelled.
    pub fn run<F: Future>(&self, main: F) -> F::Output {
        let _running = Running::enter(self.id());
        match self {
            Engine::Uring(engine) => engine.run(main),
            Engine::Epoll(engine) => engine.run(main),
            Engine::Sim(engine) => engine.run(main),
        }
    }

    fn id(&self) -> EngineId {
        match self {
            Engine::Uring(engine) => engine.id(),
            Engine::Epoll(engine) => engine.id(),
            Engine::Sim(engine) => engine.id(),
        }
    }

    /// How many sockets there can be at once, where that is bounded: a ring may have had to be
    /// smaller than was asked for.
    pub fn sockets(&self) -> Option<usize> {
        match self {
            Engine::Uring(engine) => Some(engine.sockets()),
            Engine::Epoll(_) | Engine::Sim(_) => None,
        }
    }

    /// Makes connections on this engine; use it inside [`run`](Engine::run).
    pub fn connector(&self) -> Connector {
        match self {
            Engine::Uring(engine) => Connector::Uring(engine.connector()),
            Engine::Epoll(_) => Connector::Epoll,
            Engine::Sim(engine) => Connector::Sim(engine.connector()),
        }
    }
}

/// Tells the engines of this process from each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct EngineId(u64);

impl EngineId {
    fn new() -> EngineId {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        EngineId(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

thread_local! {
    /// The engine whose `run` this thread is in.
    static RUNNING: Cell<Option<EngineId>> = const { Cell::new(None) };
}

/// Marks an engine as the running one of this thread while it lives.
struct Running {
    before: Option<EngineId>,
}

impl Running {
    fn enter(id: EngineId) -> Running {
        Running { before: RUNNING.replace(Some(id)) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.set(self.before);
    }
}

/// Makes connections on the engine it came from.
#[derive(Clone)]
pub enum Connector {
    /// On io_uring.
    Uring(uring::Connector),
    /// On epoll.
    Epoll,
    /// On a simulated network.
    Sim(sim::Connector),
}

impl Connector {
    /// Whether a socket more would leave room for another one, where that is bounded.
    pub(super) fn has_room(&self) -> bool {
        match self {
            Connector::Uring(connector) => connector.has_room(),
            Connector::Epoll | Connector::Sim(_) => true,
        }
    }

    /// Connects to one address. Dropped under way, the attempt is cancelled.
    ///
    /// # Errors
    /// [`Error::Expired`] at the deadline, [`Error::Io`] when the kernel or the peer refuses.
    pub async fn connect(&self, address: SocketAddr, deadline: Deadline) -> Result<Socket, Error> {
        if deadline.remaining(clock::now()).is_none() {
            return Err(Error::expired(deadline));
        }
        let engine = RUNNING.get();
        if let Connector::Uring(connector) = self
            && engine != Some(connector.id())
        {
            return Err(Error::Broken(FOREIGN));
        }
        let stream = match self {
            Connector::Uring(connector) => {
                Stream::Uring(connector.connect(address, deadline).await?)
            }
            Connector::Epoll => Stream::Epoll(epoll::Stream::connect(address, deadline).await?),
            Connector::Sim(connector) => Stream::Sim(connector.connect(address, deadline).await?),
        };
        Ok(Socket {
            stream,
            engine,
            receiving: Cell::default(),
            sending: Cell::default(),
            lost: Cell::default(),
        })
    }
}

/// Why an operation is refused outside of the engine that its socket belongs to.
const FOREIGN: &str = "a socket was used outside of the engine that made it";

/// A connected TCP socket.
pub struct Socket {
    stream: Stream,
    /// The engine in whose `run` it was made.
    engine: Option<EngineId>,
    /// A receive is under way.
    receiving: Cell<bool>,
    /// A send is under way.
    sending: Cell<bool>,
    /// An operation was dropped under way: nobody knows which bytes the kernel took.
    lost: Cell<bool>,
}

enum Stream {
    Uring(uring::Stream),
    Epoll(epoll::Stream),
    Sim(sim::Stream),
}

impl Socket {
    /// Receives at least one byte behind those in `buffer`, which must have spare room. `Ok(0)` is
    /// the peer's end of the stream.
    ///
    /// # Errors
    /// [`Error::Expired`] when no byte came before the deadline, [`Error::Io`] on a reset.
    pub async fn recv(&self, buffer: Buffer, deadline: Deadline) -> (Result<usize, Error>, Buffer) {
        let turn = match Turn::take(self, &self.receiving, deadline) {
            Ok(turn) => turn,
            Err(error) => return (Err(error), buffer),
        };
        let answer = match &self.stream {
            Stream::Uring(stream) => stream.recv(buffer, deadline).await,
            Stream::Epoll(stream) => stream.recv(buffer, deadline).await,
            Stream::Sim(stream) => stream.recv(buffer, deadline).await,
        };
        turn.end();
        answer
    }

    /// Sends some of `bytes`, at least one, and returns how many.
    ///
    /// # Errors
    /// [`Error::Expired`] when nothing could be sent before the deadline, [`Error::Io`] on a reset.
    pub async fn send(&self, bytes: Bytes, deadline: Deadline) -> (Result<usize, Error>, Bytes) {
        let turn = match Turn::take(self, &self.sending, deadline) {
            Ok(turn) => turn,
            Err(error) => return (Err(error), bytes),
        };
        let answer = match &self.stream {
            Stream::Uring(stream) => stream.send(bytes, deadline).await,
            Stream::Epoll(stream) => stream.send(bytes, deadline).await,
            Stream::Sim(stream) => stream.send(bytes, deadline).await,
        };
        turn.end();
        answer
    }

    /// Sends all of `bytes`; the deadline is one for all of them.
    ///
    /// # Errors
    /// As [`send`](Socket::send).
    pub async fn send_all(&self, mut bytes: Bytes, deadline: Deadline) -> Result<(), Error> {
        while !bytes.is_empty() {
            let (sent, rest) = self.send(bytes, deadline).await;
            bytes = rest;
            let _ = bytes.split_to(sent?.min(bytes.len()));
        }
        Ok(())
    }

    /// Ends both directions now; what is in flight comes back. The descriptor is closed when the
    /// socket is dropped and nothing is in flight any more.
    pub fn shutdown(&self, how: Shutdown) {
        match &self.stream {
            Stream::Uring(stream) => stream.shutdown(how),
            Stream::Epoll(stream) => stream.shutdown(how),
            Stream::Sim(stream) => stream.shutdown(how),
        }
    }

    /// Lets a receive wait until `bytes` are there, and not return with fewer; 1 undoes that. With a
    /// mark above 1, a deadline can pass although bytes came: see
    /// [`has_bytes`](Socket::has_bytes). The end of the stream is not held back.
    ///
    /// # Errors
    /// The kernel's; the mark is then what it was.
    pub fn set_low_water(&self, bytes: usize) -> io::Result<()> {
        match &self.stream {
            Stream::Uring(stream) => stream.set_low_water(bytes),
            Stream::Epoll(stream) => stream.set_low_water(bytes),
            Stream::Sim(stream) => {
                stream.set_low_water(bytes);
                Ok(())
            }
        }
    }

    /// Whether bytes wait in the kernel, be they fewer than the mark. Never waits.
    pub fn has_bytes(&self) -> bool {
        let waiting = match &self.stream {
            Stream::Uring(stream) => stream.waiting(),
            Stream::Epoll(stream) => stream.waiting(),
            Stream::Sim(stream) => Ok(stream.waiting()),
        };
        waiting.is_ok_and(|count| count > 0)
    }

    /// Whether an idle connection may be used again: not lost, not closed by the peer, and no byte
    /// waiting that nobody asked for (response queue poisoning). Never waits.
    pub fn is_quiet(&self) -> bool {
        !self.lost.get()
            && match &self.stream {
                Stream::Uring(stream) => stream.is_quiet(),
                Stream::Epoll(stream) => stream.is_quiet(),
                Stream::Sim(stream) => stream.is_quiet(),
            }
    }

    /// The peer's address.
    ///
    /// # Errors
    /// `ENOTCONN` once the peer has reset the connection.
    pub fn peer_address(&self) -> io::Result<SocketAddr> {
        match &self.stream {
            Stream::Uring(stream) => stream.peer_address(),
            Stream::Epoll(stream) => stream.peer_address(),
            Stream::Sim(stream) => Ok(stream.peer_address()),
        }
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("peer", &self.peer_address().ok()).finish_non_exhaustive()
    }
}

/// The right to run one operation in one direction of a socket. Dropped before its
/// [`end`](Turn::end), that is when the operation's future was dropped under way, it takes the
/// socket out of use.
struct Turn<'a> {
    socket: &'a Socket,
    busy: &'a Cell<bool>,
}

impl<'a> Turn<'a> {
    fn take(
        socket: &'a Socket,
        busy: &'a Cell<bool>,
        deadline: Deadline,
    ) -> Result<Turn<'a>, Error> {
        if socket.lost.get() {
            return Err(Error::Broken("the socket was used after an operation on it was dropped"));
        }
        if socket.engine != RUNNING.get() {
            return Err(Error::Broken(FOREIGN));
        }
        if busy.get() {
            return Err(Error::Broken("two operations in one direction of a socket"));
        }
        if deadline.remaining(clock::now()).is_none() {
            return Err(Error::expired(deadline));
        }
        busy.set(true);
        Ok(Turn { socket, busy })
    }

    fn end(self) {
        self.busy.set(false);
        std::mem::forget(self);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.socket.lost.set(true);
        self.socket.shutdown(Shutdown::Both);
    }
}

/// Whether a socket without bytes expected has none, and is open: one `MSG_PEEK` that never waits.
fn has_nothing_to_say(socket: impl std::os::fd::AsFd) -> bool {
    use rustix::net::{RecvFlags, recv};
    let mut byte = [0; 1];
    let peeked = recv(&socket, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT);
    matches!(peeked.map(|(_, length)| length), Err(rustix::io::Errno::AGAIN))
}
