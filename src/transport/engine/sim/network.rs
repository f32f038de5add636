//! The network: who listens where, and what goes wrong on the way, from a seed.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::io::Errno;
use tokio::sync::Notify;

use super::pipe::{Break, Line, Pipe, Ready};
use super::{End, clock};

/// What a network is like. The default is a fast one without faults.
#[derive(Debug, Clone)]
pub struct Weather {
    /// One way.
    pub latency: RangeInclusive<Duration>,
    /// Of each direction of a connection.
    pub bytes_per_second: RangeInclusive<u64>,
    /// Bytes that are sent and not taken, at most.
    pub window: RangeInclusive<usize>,
    /// How many segments at the start of a direction are cut small.
    pub small_segments: usize,
    /// Sizes of those, in bytes.
    pub segment: RangeInclusive<usize>,
    /// Of a thousand operations, how many take fewer bytes than they could.
    pub short: u32,
    /// Of a thousand connections, how many break on the way, or are not made.
    pub breaks: u32,
    /// Where a connection breaks, in bytes from the server.
    pub breaks_at: RangeInclusive<u64>,
    /// Of a thousand operations, how many the kernel refuses for want of memory and the like.
    pub hiccups: u32,
    /// How many faults there are in all; then the weather is fair.
    pub faults: u32,
}

impl Default for Weather {
    fn default() -> Weather {
        Weather {
            latency: Duration::ZERO..=Duration::ZERO,
            bytes_per_second: 1 << 40..=1 << 40,
            window: 1 << 20..=1 << 20,
            small_segments: 0,
            segment: 1..=1,
            short: 0,
            breaks: 0,
            breaks_at: 0..=0,
            hiccups: 0,
            faults: 0,
        }
    }
}

/// A fault that was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// A connection was refused, or its network was unreachable.
    Refused,
    /// Nobody answered to a connection.
    Silent,
    /// A direction fell silent for good.
    Stall,
    /// A connection was reset.
    Reset,
    /// A stream ended before its sender wanted that.
    Finish,
    /// Bytes arrived in the moment of a deadline, or just beside it.
    Race,
    /// The kernel refused an operation.
    Hiccup,
}

/// A network. Cloning gives another handle to the same one.
#[derive(Clone)]
pub struct Network {
    inner: Rc<Inner>,
}

/// Takes a line for each thing that happens.
type Shown = Box<dyn Fn(&str)>;

struct Inner {
    random: RefCell<fastrand::Rng>,
    weather: RefCell<Weather>,
    epoch: Instant,
    listeners: RefCell<BTreeMap<SocketAddr, Rc<Backlog>>>,
    connections: Cell<u64>,
    faults: RefCell<Vec<Fault>>,
    traced: Cell<u64>,
    shown: RefCell<Option<Shown>>,
}

#[derive(Default)]
struct Backlog {
    waiting: RefCell<VecDeque<Peer>>,
    came: Notify,
}

/// What becomes of an attempt to connect.
pub(super) enum Fate {
    Accepted { at: Instant, end: End, deliver: Box<dyn FnOnce()> },
    Refused { at: Instant },
    Unreachable { at: Instant },
    Silent,
}

impl Network {
    /// A network whose faults follow from `seed`. To be made inside of the runtime that it is used in.
    pub fn new(seed: u64, weather: Weather) -> Network {
        let inner = Inner {
            random: RefCell::new(fastrand::Rng::with_seed(seed)),
            weather: RefCell::new(weather),
            epoch: clock::now(),
            listeners: RefCell::default(),
            connections: Cell::default(),
            faults: RefCell::default(),
            traced: Cell::new(0xcbf2_9ce4_8422_2325),
            shown: RefCell::default(),
        };
        Network { inner: Rc::new(inner) }
    }

    /// Listens at an address, for as long as the listener lives.
    pub fn listen(&self, address: SocketAddr) -> Listener {
        let backlog = Rc::new(Backlog::default());
        self.inner.listeners.borrow_mut().insert(address, Rc::clone(&backlog));
        Listener { backlog, address, network: self.clone() }
    }

    /// The faults met so far.
    pub fn faults(&self) -> Vec<Fault> {
        self.inner.faults.borrow().clone()
    }

    /// A number that two equal runs share: all that happened, in its order and at its time.
    pub fn fingerprint(&self) -> u64 {
        self.inner.traced.get()
    }

    /// From now on, hands everything that happens to `shown`, a line each.
    pub fn show(&self, shown: impl Fn(&str) + 'static) {
        *self.inner.shown.borrow_mut() = Some(Box::new(shown));
    }

    /// Notes what happened.
    pub fn trace(&self, what: impl FnOnce() -> String) {
        let what = what();
        let at = clock::now().saturating_duration_since(self.inner.epoch);
        if let Some(shown) = &*self.inner.shown.borrow() {
            shown(&format!("{:>10.3} s  {what}", at.as_secs_f64()));
        }
        // FNV-1a: no more is asked of it than to tell two runs apart.
        let fold = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        let at = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX).to_le_bytes();
        let hash = at.into_iter().chain(what.bytes()).fold(self.inner.traced.get(), fold);
        self.inner.traced.set(hash);
    }

    /// Whether something happens that happens so many times in a thousand.
    fn chance(&self, per_mille: u32) -> bool {
        per_mille > 0 && self.inner.random.borrow_mut().u32(..1_000) < per_mille
    }

    /// Uses up one of the faults, if one is left.
    fn fault(&self, fault: Fault) -> bool {
        let mut weather = self.inner.weather.borrow_mut();
        if weather.faults == 0 {
            return false;
        }
        weather.faults -= 1;
        self.inner.faults.borrow_mut().push(fault);
        drop(weather);
        self.trace(|| format!("fault: {fault:?}"));
        true
    }

    pub(super) fn hiccup(&self, number: u64, operation: &str) -> Option<io::Error> {
        let hiccups = self.inner.weather.borrow().hiccups;
        if !self.chance(hiccups) || !self.fault(Fault::Hiccup) {
            return None;
        }
        let errors = [Errno::NOMEM, Errno::NOBUFS, Errno::AGAIN];
        let errno = errors[self.inner.random.borrow_mut().usize(..errors.len())];
        self.trace(|| format!("#{number} {operation}: {errno}"));
        Some(errno.into())
    }

    /// How many of `most` bytes an operation moves at most; at least one.
    pub(super) fn short(&self, most: usize) -> usize {
        let short = self.inner.weather.borrow().short;
        if most > 1 && self.chance(short) {
            return self.inner.random.borrow_mut().usize(1..=most);
        }
        most
    }

    /// Whether a deadline comes before the bytes that arrive in the same moment.
    pub(super) fn loses_race(&self, number: u64) -> bool {
        let lost = self.inner.random.borrow_mut().bool();
        self.trace(|| format!("#{number} a race, {}", if lost { "lost" } else { "won" }));
        lost
    }

    /// Decides what becomes of a connection.
    pub(super) fn connect(&self, address: SocketAddr) -> Fate {
        let weather = self.inner.weather.borrow().clone();
        let number = self.inner.connections.get();
        self.inner.connections.set(number + 1);
        let latency = self.draw_time(&weather.latency);
        let at = clock::now() + latency * 2;
        let backlog = self.inner.listeners.borrow().get(&address).cloned();
        let Some(backlog) = backlog else { return Fate::Refused { at } };
        let mut fault = None;
        if weather.faults > 0 && self.chance(weather.breaks) {
            let fate = self.inner.random.borrow_mut().u32(..8);
            let breaks = match fate {
                0 if self.fault(Fault::Refused) => return Fate::Refused { at },
                1 if self.fault(Fault::Refused) => return Fate::Unreachable { at },
                2 if self.fault(Fault::Silent) => return Fate::Silent,
                3 => Break::Stall,
                4 => Break::Reset,
                5 => Break::ResetAhead,
                6 => Break::Finish,
                _ => self.draw_race(),
            };
            let (from, to) = weather.breaks_at.clone().into_inner();
            fault = Some((breaks, self.inner.random.borrow_mut().u64(from..=to)));
        }
        self.trace(|| format!("#{number} connect {address}: {latency:?}, {fault:?}"));
        if let Some((breaks, _)) = fault {
            let named = match breaks {
                Break::Stall => Fault::Stall,
                Break::Reset | Break::ResetAhead => Fault::Reset,
                Break::Finish => Fault::Finish,
                Break::Race { .. } => Fault::Race,
            };
            self.fault(named);
        }
        let up = Rc::new(Pipe::new(self.draw_line(&weather, latency, None)));
        let down = Rc::new(Pipe::new(self.draw_line(&weather, latency, fault)));
        let client = End { number, incoming: Rc::clone(&down), outgoing: Rc::clone(&up) };
        let server = End { number, incoming: up, outgoing: down };
        let deliver = Box::new(move || {
            backlog.waiting.borrow_mut().push_back(Peer { end: server });
            backlog.came.notify_one();
        });
        Fate::Accepted { at, end: client, deliver }
    }

    fn draw_time(&self, range: &RangeInclusive<Duration>) -> Duration {
        let milliseconds = |time: &Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let range = milliseconds(range.start())..=milliseconds(range.end());
        Duration::from_millis(self.inner.random.borrow_mut().u64(range))
    }

    /// Just before a deadline, in its moment, or just after.
    fn draw_race(&self) -> Break {
        let [none, moment] = [Duration::ZERO, Duration::from_millis(1)];
        match self.inner.random.borrow_mut().u32(..4) {
            0 => Break::Race { ahead: moment, behind: none },
            1 => Break::Race { ahead: none, behind: moment },
            _ => Break::Race { ahead: none, behind: none },
        }
    }

    fn draw_line(&self, weather: &Weather, latency: Duration, fault: Option<(Break, u64)>) -> Line {
        let random = &mut *self.inner.random.borrow_mut();
        let bytes_per_second = random.u64(weather.bytes_per_second.clone()).max(1);
        let window = random.usize(weather.window.clone());
        let segments =
            (0..weather.small_segments).map(|_| random.usize(weather.segment.clone())).collect();
        Line { latency, bytes_per_second, window, segments, fault, epoch: self.inner.epoch }
    }
}

/// Accepts what connects to an address. Dropped, it refuses.
pub struct Listener {
    backlog: Rc<Backlog>,
    address: SocketAddr,
    network: Network,
}

impl Listener {
    /// The next connection.
    pub async fn accept(&self) -> Peer {
        loop {
            let peer = self.backlog.waiting.borrow_mut().pop_front();
            match peer {
                Some(peer) => return peer,
                None => self.backlog.came.notified().await,
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.network.inner.listeners.borrow_mut().remove(&self.address);
    }
}

/// The server's side of a connection. Dropped, it closes as close(2) does.
pub struct Peer {
    end: End,
}

impl Peer {
    /// The number of the connection, from 0.
    pub fn number(&self) -> u64 {
        self.end.number
    }

    /// Receives some bytes; 0 is the end of what the client sends.
    ///
    /// # Errors
    /// `ConnectionReset` once the client has reset the connection.
    pub async fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        let pipe = &self.end.incoming;
        loop {
            let now = clock::now();
            let next = match pipe.ready(now, 1) {
                Ready::Bytes { .. } => return Ok(pipe.take(now, into)),
                Ready::End => return Ok(0),
                Ready::Reset => return Err(io::ErrorKind::ConnectionReset.into()),
                Ready::NotYet { next } => next,
            };
            match next {
                Some(at) => super::wait(pipe.came(), None, at.into()).await,
                None => pipe.came().await,
            }
        }
    }

    /// Sends all of `bytes`, as fast as the client takes them.
    ///
    /// # Errors
    /// `BrokenPipe` once nobody takes them any more.
    pub async fn write_all(&self, mut bytes: Bytes) -> io::Result<()> {
        let pipe = &self.end.outgoing;
        while !bytes.is_empty() {
            match pipe.put(clock::now(), &bytes)? {
                0 => pipe.went().await,
                count => drop(bytes.split_to(count)),
            }
        }
        Ok(())
    }

    /// Sends FIN; the client may still send.
    pub fn finish(&self) {
        self.end.outgoing.finish();
    }

    /// Sends RST, behind what was sent before.
    pub fn reset(self) {
        self.end.outgoing.reset();
    }

    /// Closes in order, whatever was left unread: the client finds the end behind what was sent.
    pub fn close(self) {
        self.end.outgoing.finish();
        self.end.incoming.stop_reading();
    }

    /// Ends when the client's side is closed.
    pub async fn closed(&self) {
        while !self.end.outgoing.is_shut() {
            self.end.outgoing.went().await;
        }
    }
}
