//! Peers that take a list of steps, for what is below HTTP: contracts of connect, send and receive.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use socket2::{Domain, Socket, Type};

use super::lock;
use super::server::{Bound, Server};
use super::wire::{Flow, Gate, Step, Wire};

/// A listener whose connections take steps. Dropping it closes all connections and waits for its
/// threads.
pub struct ScriptedPeer {
    address: SocketAddr,
    shared: Arc<Shared>,
    _server: Server,
}

/// One connection, as its peer saw it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// What was received. Only [`Step::Receive`] receives.
    pub received: Vec<u8>,
    /// Whether the connection has ended: its steps are done, or the other side closed.
    pub ended: bool,
}

impl ScriptedPeer {
    /// Starts a peer on a free port of 127.0.0.1. The first connection takes the first list of
    /// steps, and so on; connections past the last list take the last one. A list that ends without
    /// ending the connection is followed by [`Step::Close`].
    pub fn start(scripts: Vec<Vec<Step>>) -> io::Result<ScriptedPeer> {
        ScriptedPeer::start_with(scripts, None)
    }

    /// As [`ScriptedPeer::start`], over TLS. The handshake comes with the first bytes sent or
    /// received.
    pub fn start_tls(scripts: Vec<Vec<Step>>, tls: Arc<ServerConfig>) -> io::Result<ScriptedPeer> {
        ScriptedPeer::start_with(scripts, Some(tls))
    }

    fn start_with(
        scripts: Vec<Vec<Step>>,
        tls: Option<Arc<ServerConfig>>,
    ) -> io::Result<ScriptedPeer> {
        let bound = Bound::new((Ipv4Addr::LOCALHOST, 0).into())?;
        let address = bound.address();
        let shared = Arc::new(Shared { scripts, tls, ..Shared::default() });
        let served = Arc::clone(&shared);
        let server =
            bound.serve(Arc::new(AtomicU64::new(0)), move |id, socket| served.serve(id, socket))?;
        Ok(ScriptedPeer { address, shared, _server: server })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets one [`Step::Pause`] pass: one that waits, or the next to come.
    pub fn go(&self) {
        self.shared.gate.go();
    }

    /// The connections so far, in the order of acceptance.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.shared.seen).clone()
    }

    /// Waits until the connections are as wanted; false when `timeout` passed first.
    pub fn wait_until(&self, timeout: Duration, wanted: impl Fn(&[Seen]) -> bool) -> bool {
        let waiting = |seen: &mut Vec<Seen>| !wanted(seen);
        let seen = lock(&self.shared.seen);
        let result = self.shared.changed.wait_timeout_while(seen, timeout, waiting);
        !result.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

impl Drop for ScriptedPeer {
    fn drop(&mut self) {
        // The server waits for its threads; one that pauses does not see its socket shut down.
        self.shared.gate.stop();
    }
}

#[derive(Default)]
struct Shared {
    scripts: Vec<Vec<Step>>,
    tls: Option<Arc<ServerConfig>>,
    gate: Gate,
    seen: Mutex<Vec<Seen>>,
    changed: Condvar,
}

impl Shared {
    fn serve(self: &Arc<Self>, id: u64, socket: Arc<TcpStream>) {
        // More connections than the address space has room for cannot be.
        let index = id as usize;
        self.update(index, |_| {});
        // An error is the other side's end of the connection, or the server's.
        let _ = self.take_steps(index, socket);
        self.update(index, |seen| seen.ended = true);
    }

    fn take_steps(self: &Arc<Self>, index: usize, socket: Arc<TcpStream>) -> io::Result<()> {
        let mut wire = Wire::new(socket, self.tls.as_ref())?;
        let shared = Arc::clone(self);
        wire.record(Box::new(move |bytes| {
            shared.update(index, |seen| seen.received.extend_from_slice(bytes));
        }));
        let steps = self.scripts.get(index).or(self.scripts.last());
        for step in steps.into_iter().flatten() {
            if wire.take(step, &self.gate)? == Flow::Ended {
                return Ok(());
            }
        }
        wire.take(&Step::Close, &self.gate)?;
        Ok(())
    }

    fn update(&self, index: usize, update: impl FnOnce(&mut Seen)) {
        let mut seen = lock(&self.seen);
        // Threads of later connections may come here first.
        if seen.len() <= index {
            seen.resize_with(index + 1, Seen::default);
        }
        update(&mut seen[index]);
        self.changed.notify_all();
    }
}

/// An address where connects hang: the queue of its listener is full, so the kernel drops each SYN.
#[derive(Debug)]
pub struct Blackhole {
    /// Where to connect in vain.
    pub address: SocketAddr,
    _listener: Socket,
    _queued: Vec<TcpStream>,
}

/// Makes a [`Blackhole`] at a free port of 127.0.0.1; it lasts until it is dropped.
pub fn blackhole() -> io::Result<Blackhole> {
    blackhole_at((Ipv4Addr::LOCALHOST, 0).into())
}

/// The same at an address of one's choice.
pub fn blackhole_at(address: SocketAddr) -> io::Result<Blackhole> {
    // One connection fits the queue of a listener with backlog 0 (listen(2) of Linux: the queue is
    // full when it holds more than its backlog); a few more are tried, for other kernels.
    const QUEUED_MAX: usize = 16;
    // How long the kernel may take over a handshake on loopback; microseconds, unless it is busy.
    const PATIENCE: Duration = Duration::from_secs(10);
    const PAUSE: Duration = Duration::from_millis(1);
    let listener = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    listener.bind(&address.into())?;
    listener.listen(0)?;
    let address = listener.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
    let mut queued = Vec::new();
    while queued.len() < QUEUED_MAX {
        queued.push(TcpStream::connect_timeout(&address, PATIENCE)?);
        // Connected here does not mean queued there: the last packet of the handshake may be on its way.
        let end = Instant::now() + PATIENCE;
        while accept_queue(address)? < queued.len() {
            if Instant::now() >= end {
                return Err(io::ErrorKind::TimedOut.into());
            }
            std::thread::sleep(PAUSE);
        }
        if accept_queue(address)? > BACKLOG_OF_ZERO {
            return Ok(Blackhole { address, _listener: listener, _queued: queued });
        }
    }
    Err(io::Error::other("this kernel accepts connections past a listener's backlog"))
}

/// A queue that holds more than its backlog is full, and all SYNs are dropped.
const BACKLOG_OF_ZERO: usize = 0;

/// How many connections wait to be accepted at `address` (proc(5), `/proc/net/tcp`: the receive queue
/// of a socket that listens).
fn accept_queue(address: SocketAddr) -> io::Result<usize> {
    const LISTENS: &str = "0A";
    let table = match address {
        SocketAddr::V4(_) => "/proc/thread-self/net/tcp",
        SocketAddr::V6(_) => "/proc/thread-self/net/tcp6",
    };
    let table = std::fs::read_to_string(table)?;
    // Addresses are written as the 32-bit words that this machine has in memory.
    let octets = match address.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let words = octets.chunks_exact(4).map(|word| {
        let word = [word[0], word[1], word[2], word[3]];
        format!("{:08X}", u32::from_ne_bytes(word))
    });
    let wanted = format!("{}:{:04X}", words.collect::<String>(), address.port());
    let queue = table.lines().find_map(|line| {
        let mut cells = line.split_ascii_whitespace().skip(1);
        let (local, _remote, state) = (cells.next()?, cells.next()?, cells.next()?);
        let (_sent, received) = cells.next()?.split_once(':')?;
        (local == wanted && state == LISTENS)
            .then(|| usize::from_str_radix(received, 16).ok())
            .flatten()
    });
    queue.ok_or_else(|| io::ErrorKind::NotFound.into())
}
