//! The sim engine: the contract over a network that exists in memory only, under a virtual clock.
//!
//! ```text
//!   Connector ── connect ──→ Network ──→ Listener ── accept ──→ Peer     what a test scripts
//!       │                                                        │
//!     Stream ←──────── pipe: segments, each with its arrival ────┘
//!            ────────→ pipe ─────────────────────────────────────→
//! ```
//!
//! Both sides run on one thread and one runtime whose clock is paused: it jumps to the next timer
//! when nobody has anything to do. What the network and the kernel do besides is drawn from a seed
//! ([`Weather`]), so that equal seeds give equal runs. Whoever starts the engine brings the runtime,
//! because only tests can have a paused one.
//!
//! Absences: no name is resolved, no descriptor is opened, no thread is started.

mod network;
mod pipe;

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::rc::Rc;

use bytes::Bytes;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep_until};

pub use network::{Fault, Listener, Network, Peer, Weather};

use super::super::{Buffer, Deadline, Error, Phase, clock};
use super::EngineId;
use network::Fate;
use pipe::{Pipe, Ready};

/// A runtime and the network that its sockets are on.
pub struct Engine {
    id: EngineId,
    runtime: tokio::runtime::Runtime,
    network: Network,
}

impl Engine {
    /// An engine on a current-thread `runtime`, whose clock should be paused.
    pub(super) fn new(runtime: tokio::runtime::Runtime, network: Network) -> Engine {
        Engine { id: EngineId::new(), runtime, network }
    }

    pub(super) fn id(&self) -> EngineId {
        self.id
    }

    pub(super) fn run<F: Future>(&self, main: F) -> F::Output {
        LocalSet::new().block_on(&self.runtime, main)
    }

    pub(super) fn connector(&self) -> Connector {
        Connector { network: self.network.clone() }
    }
}

/// Makes connections on a simulated network.
#[derive(Clone)]
pub struct Connector {
    network: Network,
}

impl Connector {
    pub(super) async fn connect(
        &self,
        address: SocketAddr,
        deadline: Deadline,
    ) -> Result<Stream, Error> {
        let fate = self.network.connect(address);
        let at = match &fate {
            Fate::Silent => None,
            Fate::Refused { at } | Fate::Unreachable { at } | Fate::Accepted { at, .. } => {
                Some(*at)
            }
        };
        match at {
            Some(at) if at < deadline.at => sleep_until(at.into()).await,
            _ => {
                sleep_until(deadline.at.into()).await;
                self.network.trace(|| format!("connect {address}: expired"));
                return Err(Error::expired(deadline));
            }
        }
        let refused = |errno: rustix::io::Errno| Err(Error::io(Phase::Connect, errno.into()));
        match fate {
            Fate::Accepted { end, deliver, .. } => {
                deliver();
                Ok(Stream {
                    end,
                    network: self.network.clone(),
                    peer: address,
                    low_water: Cell::new(1),
                })
            }
            Fate::Unreachable { .. } => refused(rustix::io::Errno::HOSTUNREACH),
            Fate::Refused { .. } | Fate::Silent => refused(rustix::io::Errno::CONNREFUSED),
        }
    }
}

/// Both directions of a connection, as one side has them.
struct End {
    number: u64,
    incoming: Rc<Pipe>,
    outgoing: Rc<Pipe>,
}

impl End {
    /// What close(2) does: FIN, or a reset if bytes were left unread, and nobody reads any more.
    fn close(&self) {
        match self.incoming.stop_reading() {
            0 => self.outgoing.finish(),
            _ => self.outgoing.reset(),
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.close();
    }
}

/// The client's side of a connection.
pub(super) struct Stream {
    end: End,
    network: Network,
    peer: SocketAddr,
    low_water: Cell<usize>,
}

impl Stream {
    pub(super) async fn recv(
        &self,
        mut buffer: Buffer,
        deadline: Deadline,
    ) -> (Result<usize, Error>, Buffer) {
        let number = self.end.number;
        if let Some(errno) = self.network.hiccup(number, "recv") {
            return (Err(Error::io(deadline.phase, errno)), buffer);
        }
        let pipe = &self.end.incoming;
        let answer = loop {
            let now = clock::now();
            let arrives = match pipe.ready(now, self.low_water.get()) {
                // What arrives in the moment of the deadline comes before it, or after it.
                Ready::Bytes { since }
                    if since == deadline.at && self.network.loses_race(number) =>
                {
                    break Err(Error::expired(deadline));
                }
                Ready::Bytes { .. } => {
                    let most = self.network.short(buffer.spare().len());
                    let count = pipe.take(now, &mut buffer.spare()[..most]);
                    buffer.advance(count);
                    break Ok(count);
                }
                Ready::End => break Ok(0),
                Ready::Reset => {
                    break Err(Error::io(deadline.phase, io::ErrorKind::ConnectionReset.into()));
                }
                Ready::NotYet { next } => next,
            };
            if now >= deadline.at {
                break Err(Error::expired(deadline));
            }
            pipe.release_into_race(deadline.at);
            wait(pipe.came(), arrives, deadline.at.into()).await;
        };
        self.network.trace(|| format!("#{number} recv {:?}: {answer:?}", deadline.phase));
        (answer, buffer)
    }

    pub(super) async fn send(
        &self,
        bytes: Bytes,
        deadline: Deadline,
    ) -> (Result<usize, Error>, Bytes) {
        let number = self.end.number;
        if let Some(errno) = self.network.hiccup(number, "send") {
            return (Err(Error::io(deadline.phase, errno)), bytes);
        }
        let pipe = &self.end.outgoing;
        let answer = loop {
            let most = self.network.short(bytes.len());
            match pipe.put(clock::now(), &bytes.slice(..most)) {
                Err(error) => break Err(Error::io(deadline.phase, error)),
                Ok(0) if !bytes.is_empty() => {}
                Ok(count) => break Ok(count),
            }
            if clock::now() >= deadline.at {
                break Err(Error::expired(deadline));
            }
            wait(pipe.went(), None, deadline.at.into()).await;
        };
        self.network.trace(|| format!("#{number} send: {answer:?}"));
        (answer, bytes)
    }

    pub(super) fn shutdown(&self, how: Shutdown) {
        if how != Shutdown::Write {
            self.end.incoming.shut();
        }
        if how != Shutdown::Read {
            self.end.outgoing.finish();
        }
    }

    /// As in the kernel, a mark is at most half of what a socket holds.
    pub(super) fn set_low_water(&self, bytes: usize) {
        self.low_water.set(bytes.min(self.end.incoming.window() / 2).max(1));
    }

    pub(super) fn waiting(&self) -> u64 {
        self.end.incoming.arrived(clock::now()) as u64
    }

    pub(super) fn is_quiet(&self) -> bool {
        matches!(self.end.incoming.ready(clock::now(), 1), Ready::NotYet { .. })
    }

    pub(super) fn peer_address(&self) -> SocketAddr {
        self.peer
    }
}

/// Ends with `change`, at `arrives` or at `until`, whichever comes first.
async fn wait(
    change: impl Future<Output = ()>,
    arrives: Option<std::time::Instant>,
    until: Instant,
) {
    let at = arrives.map_or(until, |arrives| until.min(arrives.into()));
    tokio::select! {
        biased;
        () = change => {}
        () = sleep_until(at) => {}
    }
}
