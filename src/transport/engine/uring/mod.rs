//! The io_uring engine: every connect, send and recv is a pair of linked SQEs, so that the kernel
//! itself ends each wait.
//!
//! ```text
//!   submission queue:   … [ RECV | IOSQE_IO_LINK ] [ LINK_TIMEOUT, absolute ] …
//!                              │                        │
//!   completion queue:     n bytes  -ECANCELED      data first (either order; -ENOENT when it races)
//!                        -ECANCELED  -ETIME        the deadline passed (either order)
//!                            n bytes  -ETIME       both at once: the bytes count
//!                         (nothing)   -EINVAL      the pair was split: must never happen
//! ```
//!
//! - The operation's completion alone decides the outcome (`pair::Pair`).
//! - **A pair is never split.** tokio-uring queues the two entries by two calls; a full queue would
//!   be flushed between them, and the operation would then wait for ever. So the ring has
//!   `SQES_PER_SOCKET` entries for every socket that may exist, and a socket can queue no more.
//! - What the kernel may touch (socket, buffer, address, timespec) is owned by the operation. When
//!   its future is dropped, tokio-uring keeps that data until the completion has come; the socket
//!   is shut down at once so that it comes soon. A descriptor can therefore not be closed, and its
//!   number not be used again, while an entry names it.
//! - An engine that ends first waits until nothing is in flight ([`Engine`]'s `Drop`): tokio-uring
//!   0.5 frees the data of dropped operations when its driver goes, before it cancels them.
//! - Timeouts are absolute, so an entry that waits in the queue has a running clock. Should an
//!   `io_uring_enter` fail, the next turn of the runtime submits what is still queued, and
//!   the watch (`Engine::run`) makes sure that there is one soon; should the kernel never answer, it
//!   ends the connection itself (`Ring::end_overdue`).
//!
//! This module and its children are the only place with `unsafe`; each block says why it holds.
#![allow(unsafe_code)]

mod lent;
mod pair;
mod self_test;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::mem::ManuallyDrop;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsRawFd;
use std::rc::{Rc, Weak};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use io_uring::{opcode, types};
use socket2::{Domain, Protocol, SockAddr, Type};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::MissedTickBehavior;

use super::super::{Buffer, Deadline, Error, Phase};
use super::EngineId;
use lent::Lent;
use pair::{Lane, Outcome, Pair};

pub use self_test::{Ability, Operation, features, self_test, self_test_for, switch};

/// Entries that one socket can have queued: a pair for receiving and one for sending.
const SQES_PER_SOCKET: usize = 4;

/// Fewest sockets a ring is made for, if the kernel lets us have no larger one.
const SOCKETS_MIN: usize = 4;

/// How often a ring is tried while there is no memory for it.
const MEMORY_TRIES: u32 = 6;

/// How long memory is waited for between two tries.
const MEMORY_PAUSE: Duration = Duration::from_millis(10);

/// How often the runtime wakes to look after operations that the kernel forgot.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// When the runtime wakes after an entry was queued: should the kernel have refused to be entered, the
/// entry is still there, and is submitted when the runtime goes back to sleep.
const SUBMIT_AGAIN: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(100)];

/// How often a socket whose connect was given up is shut down again. By then the kernel has seen the
/// connect.
const ABANDON_AGAIN: usize = SUBMIT_AGAIN.len() + 1;

/// How long after its deadline an operation must have completed.
const GRACE: Duration = Duration::from_secs(2);

/// What the engine counted since it started. For `-v` and for tests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Linked pairs submitted.
    pub pairs: u64,
    /// Operations that the kernel ended at their deadline.
    pub expired: u64,
    /// Operations that completed although their timeout had fired too.
    pub raced: u64,
    /// Operations whose future was dropped under way.
    pub dropped: u64,
    /// Timeouts answered with `-EINVAL`: a pair was split. Always 0.
    pub split: u64,
    /// Operations that the kernel did not answer two seconds after their deadline. Always 0.
    pub overdue: u64,
}

/// tokio-uring's runtime on a ring of the right size.
pub struct Engine {
    runtime: ManuallyDrop<tokio_uring::Runtime>,
    ring: Rc<Ring>,
    shape: Shape,
}

/// Whether COOP_TASKRUN (kernel 5.19) is there, which spares an interrupt for each completion.
///
/// Asked before a runtime is made: tokio-uring 0.5 leaks the four descriptors of one whose ring is
/// refused. The kernel looks at the flags before anything else, so the answer is about them.
fn knows_coop_taskrun() -> bool {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    *KNOWN.get_or_init(|| {
        let ring: io::Result<io_uring::IoUring> =
            io_uring::IoUring::builder().setup_coop_taskrun().build(1);
        !ring.is_err_and(|error| error.kind() == io::ErrorKind::InvalidInput)
    })
}

/// Makes a ring again while there is no memory for it: that of rings which are gone is given back
/// late, by a worker of the kernel.
fn patiently<T>(mut make: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 1..MEMORY_TRIES {
        match make() {
            Err(error) if error.kind() == io::ErrorKind::OutOfMemory => {
                std::thread::sleep(MEMORY_PAUSE);
            }
            other => return other,
        }
    }
    make()
}

/// What kind of ring an engine runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Sockets that the ring has entries for: all that were asked for, or as many as there was
    /// memory for.
    pub sockets: usize,
    /// With COOP_TASKRUN: completions do not interrupt the thread.
    pub cooperative: bool,
}

/// What all sockets of a ring share.
struct Ring {
    id: EngineId,
    /// One permit for each socket the ring has entries for.
    sockets: Arc<Semaphore>,
    /// Every socket that may have something in flight, for the watch.
    open: RefCell<Vec<Weak<File>>>,
    /// Sockets whose connect was given up, perhaps before the kernel had seen it, and how often each
    /// is to be shut down again.
    abandoned: RefCell<Vec<(Weak<File>, usize)>>,
    counters: Cell<Counters>,
    /// Told of each pair that is queued.
    queued: Notify,
    /// Entries in flight: each operation and each timeout counts as one.
    in_flight: Cell<usize>,
    /// Told when nothing is in flight any more.
    idle: Notify,
    /// The engine ends: no operation may start.
    ending: Cell<bool>,
    /// Whether receives can be told to wait for readiness before they look (kernel 5.19). Without
    /// that a low-water mark means nothing to them.
    poll_first: Cell<bool>,
}

impl Ring {
    fn count(&self, change: impl FnOnce(&mut Counters)) {
        let mut counters = self.counters.get();
        change(&mut counters);
        self.counters.set(counters);
    }

    /// Ends the connections whose operations the kernel should have completed long ago: the last
    /// line of defence against a wait without an end.
    fn end_overdue(&self, now: Instant) {
        self.open.borrow_mut().retain(|file| {
            let Some(file) = file.upgrade() else { return false };
            for waiting in [&file.receiving, &file.sending] {
                if waiting.get().is_some_and(|deadline| now > deadline + GRACE) {
                    waiting.set(None);
                    self.count(|counters| counters.overdue += 1);
                    file.shutdown(Shutdown::Both);
                }
            }
            true
        });
    }

    /// Ends the connects that were given up and go on. One that was only queued when its socket was
    /// shut down begins afterwards; Linux 6.18 then ends it by itself, but shutdown(2) promises
    /// nothing of that: it answers `ENOTCONN`. Only a few times: see [`File::give_up`].
    fn end_abandoned(&self) {
        self.abandoned.borrow_mut().retain_mut(|(file, left)| {
            let Some(file) = file.upgrade() else { return false };
            file.give_up();
            *left -= 1;
            *left > 0
        });
    }

    /// Ends every connection and waits until nothing is in flight.
    async fn drain(&self) {
        self.ending.set(true);
        let mut rounds = 0..ABANDON_AGAIN;
        while self.in_flight.get() > 0 {
            // More than once: the kernel may not have seen a connect yet.
            if rounds.next().is_some() {
                for file in self.open.borrow().iter().filter_map(Weak::upgrade) {
                    file.give_up();
                }
            }
            let _ = tokio::time::timeout(SUBMIT_AGAIN[0], self.idle.notified()).await;
        }
    }
}

/// Counts an entry in flight for as long as it lives: with the data of the operation, until its
/// completion has come.
struct InFlight(Rc<Ring>);

impl InFlight {
    fn new(ring: &Rc<Ring>) -> InFlight {
        ring.in_flight.set(ring.in_flight.get() + 1);
        InFlight(Rc::clone(ring))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let left = self.0.in_flight.get() - 1;
        self.0.in_flight.set(left);
        if left == 0 {
            self.0.idle.notify_one();
        }
    }
}

impl Engine {
    /// Starts a runtime whose ring has entries for `connections` sockets, or for fewer if the
    /// kernel has no memory for such a ring (`RLIMIT_MEMLOCK`, memory cgroups).
    ///
    /// # Errors
    /// What `io_uring_setup(2)` answers.
    pub fn start(connections: usize) -> io::Result<Engine> {
        let mut sockets = connections.max(SOCKETS_MIN).next_power_of_two();
        loop {
            match Engine::start_with(sockets) {
                Err(error)
                    if error.kind() == io::ErrorKind::OutOfMemory && sockets > SOCKETS_MIN =>
                {
                    sockets /= 2;
                }
                Err(error) if error.kind() == io::ErrorKind::OutOfMemory => {
                    return patiently(|| Engine::start_with(sockets));
                }
                other => return other,
            }
        }
    }

    /// Whether `threads` engines for `connections` sockets each can be there at once, if need be on
    /// smaller rings. Only their rings are made.
    fn fit(threads: usize, connections: usize) -> io::Result<()> {
        let mut rings = Vec::with_capacity(threads);
        let mut sockets = connections.max(SOCKETS_MIN).next_power_of_two();
        while rings.len() < threads {
            let entries = u32::try_from(sockets * SQES_PER_SOCKET)
                .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
            match io_uring::IoUring::new(entries) {
                Ok(ring) => rings.push(ring),
                Err(error) if error.kind() != io::ErrorKind::OutOfMemory => return Err(error),
                Err(_) if sockets > SOCKETS_MIN => sockets /= 2,
                Err(_) => rings.push(patiently(|| io_uring::IoUring::new(entries))?),
            }
        }
        Ok(())
    }

    fn start_with(sockets: usize) -> io::Result<Engine> {
        let entries = u32::try_from(sockets * SQES_PER_SOCKET)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let cooperative = knows_coop_taskrun();
        let mut ring_builder = tokio_uring::uring_builder();
        if cooperative {
            ring_builder.setup_coop_taskrun();
        }
        let mut builder = tokio_uring::builder();
        builder.entries(entries);
        let runtime = tokio_uring::Runtime::new(builder.uring_builder(&ring_builder))?;
        let ring = Rc::new(Ring {
            id: EngineId::new(),
            sockets: Arc::new(Semaphore::new(sockets)),
            open: RefCell::default(),
            abandoned: RefCell::default(),
            counters: Cell::default(),
            queued: Notify::new(),
            in_flight: Cell::default(),
            idle: Notify::new(),
            ending: Cell::default(),
            poll_first: Cell::new(true),
        });
        let shape = Shape { sockets, cooperative };
        Ok(Engine { runtime: ManuallyDrop::new(runtime), ring, shape })
    }

    /// What kind of ring the kernel gave us.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    pub(super) fn run<F: Future>(&self, main: F) -> F::Output {
        let ring = Rc::clone(&self.ring);
        self.runtime.block_on(async move {
            let watch = tokio::task::spawn_local(async move {
                let mut rounds = tokio::time::interval(WATCH_INTERVAL);
                rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
                loop {
                    tokio::select! {
                        _ = rounds.tick() => {
                            ring.end_overdue(Instant::now());
                            ring.end_abandoned();
                        }
                        () = ring.queued.notified() => {
                            for pause in SUBMIT_AGAIN {
                                tokio::time::sleep(pause).await;
                                ring.end_abandoned();
                            }
                        }
                    }
                }
            });
            let output = main.await;
            watch.abort();
            output
        })
    }

    pub(super) fn id(&self) -> EngineId {
        self.ring.id
    }

    /// How many sockets the ring has entries for.
    pub(super) fn sockets(&self) -> usize {
        self.shape.sockets
    }

    pub(super) fn connector(&self) -> Connector {
        Connector { ring: Rc::clone(&self.ring) }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let ring = &self.ring;
        let drained =
            self.runtime.block_on(async { tokio::time::timeout(GRACE, ring.drain()).await });
        if drained.is_ok() {
            // SAFETY: the runtime is not used after this; `drop` runs once.
            unsafe { ManuallyDrop::drop(&mut self.runtime) }
        }
        // Otherwise the kernel still holds buffers that the driver would free: leak them. This
        // takes a kernel that does not complete an operation on a socket that was shut down.
    }
}

/// Makes connections on the ring.
#[derive(Clone)]
pub struct Connector {
    ring: Rc<Ring>,
}

impl Connector {
    /// What the engine counted so far.
    pub fn counters(&self) -> Counters {
        self.ring.counters.get()
    }

    pub(super) fn id(&self) -> EngineId {
        self.ring.id
    }

    /// Whether the ring has entries for two sockets more: one that can be spared, and one to spare.
    pub(super) fn has_room(&self) -> bool {
        self.ring.sockets.available_permits() > 1
    }

    pub(super) async fn connect(
        &self,
        address: SocketAddr,
        deadline: Deadline,
    ) -> Result<Stream, Error> {
        let failed = |error| Error::io(Phase::Connect, error);
        if self.ring.ending.get() {
            return Err(Error::Broken("the engine has ended"));
        }
        let slot = Arc::clone(&self.ring.sockets).acquire_owned();
        let Ok(slot) = tokio::time::timeout_at(deadline.at.into(), slot).await else {
            return Err(Error::expired(deadline));
        };
        let slot = slot.map_err(|_| Error::Broken("the ring was closed"))?;
        // Blocking, so that io_uring waits for readiness itself: a non-blocking socket would have
        // it answer EAGAIN at once. Nothing here ever makes a blocking call on it.
        let socket =
            socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))
                .map_err(failed)?;
        socket.set_tcp_nodelay(true).map_err(failed)?;
        let file = Rc::new(File {
            socket,
            receiving: Cell::default(),
            sending: Cell::default(),
            low_water: Cell::new(1),
            _slot: slot,
        });
        self.ring.open.borrow_mut().push(Rc::downgrade(&file));
        let stream = Stream { file, ring: Rc::clone(&self.ring) };
        stream.connect(address, deadline).await?;
        Ok(stream)
    }
}

/// A socket, and its share of the ring. Every operation in flight owns a reference, so it is
/// closed, and its share given back, when the last of them has completed.
struct File {
    socket: socket2::Socket,
    /// The deadline of the receive in flight.
    receiving: Cell<Option<Instant>>,
    /// The deadline of the send or connect in flight.
    sending: Cell<Option<Instant>>,
    /// `SO_RCVLOWAT`, in bytes.
    low_water: Cell<usize>,
    _slot: OwnedSemaphorePermit,
}

impl File {
    fn fd(&self) -> types::Fd {
        types::Fd(self.socket.as_raw_fd())
    }

    fn shutdown(&self, how: Shutdown) {
        // Fails only on a socket that has no peer (any more), which is as well. It ends a connect
        // in flight too: Linux disconnects a socket in SYN-SENT.
        let _ = self.socket.shutdown(how);
    }

    /// Ends whatever is in flight, a connect too, as soon as the kernel can.
    ///
    /// A shutdown wakes the connect. Linux 6.18 then sees that it was ended; Linux 5.10 begins it
    /// anew, and would go on until its deadline. With a `TCP_USER_TIMEOUT` of next to nothing (tcp(7))
    /// it fails once its first SYN was not answered for a second. Each shutdown begins that second
    /// anew, so there are only a few.
    fn give_up(&self) {
        let _ = self.socket.set_tcp_user_timeout(Some(Duration::from_millis(1)));
        self.shutdown(Shutdown::Both);
    }
}

/// A connected socket on the ring.
pub struct Stream {
    file: Rc<File>,
    ring: Rc<Ring>,
}

impl Stream {
    async fn connect(&self, address: SocketAddr, deadline: Deadline) -> Result<(), Error> {
        let address = SockAddr::from(address);
        let length = address.len();
        let target = Lent::new(address);
        // SAFETY: the value is there, and no other reference to it exists. The pointer stays good
        // when this reference is gone: nothing writes to the address any more.
        let pointer = unsafe { (*target.as_ptr()).as_ptr() };
        let entry = opcode::Connect::new(self.file.fd(), pointer.cast(), length).build();
        // A connect whose future is dropped must not go on: the socket is of no use to anyone.
        let abandon = AbandonOnDrop(self);
        // SAFETY: the entry points to the address, which is on the heap, does not move with its
        // owner (`Lent`), and is stored with the operation; it names the socket, to which the
        // operation holds a reference.
        let pair = unsafe { Pair::submit(self, Lane::Send, target, entry, deadline.at) };
        let (outcome, _target) = pair.await;
        std::mem::forget(abandon);
        match outcome {
            Outcome::Completed(_) => Ok(()),
            other => Err(other.into_error(deadline)),
        }
    }

    pub(super) async fn recv(
        &self,
        mut buffer: Buffer,
        deadline: Deadline,
    ) -> (Result<usize, Error>, Buffer) {
        loop {
            let by_mark = self.file.low_water.get() > 1 && self.ring.poll_first.get();
            let outcome;
            (outcome, buffer) = match by_mark {
                true => self.recv_at_the_mark(buffer, deadline).await,
                false => self.recv_what_is_there(buffer, deadline).await,
            };
            match outcome {
                Outcome::Completed(count) => {
                    buffer.advance(count);
                    return (Ok(count), buffer);
                }
                Outcome::Interrupted if deadline.remaining(Instant::now()).is_some() => {}
                // A kernel before 5.19 does not know the flag.
                Outcome::Failed(error) if by_mark && is_invalid(&error) => {
                    self.ring.poll_first.set(false);
                }
                other => return (Err(other.into_error(deadline)), buffer),
            }
        }
    }

    /// A receive that looks first, and waits only if there is nothing.
    async fn recv_what_is_there(
        &self,
        mut buffer: Buffer,
        deadline: Deadline,
    ) -> (Outcome, Buffer) {
        let spare = buffer.spare();
        let length = u32::try_from(spare.len()).unwrap_or(u32::MAX);
        let entry = opcode::Recv::new(self.file.fd(), spare.as_mut_ptr(), length).build();
        // SAFETY: the entry points to the spare part of the buffer, whose storage is on the heap,
        // does not move with it, and is stored with the operation; it names the socket, to which
        // the operation holds a reference.
        unsafe { Pair::submit(self, Lane::Receive, buffer, entry, deadline.at) }.await
    }

    /// A receive that waits for readiness first, which is where the kernel minds the mark.
    async fn recv_at_the_mark(&self, mut buffer: Buffer, deadline: Deadline) -> (Outcome, Buffer) {
        let message = Message::new(buffer.spare());
        let entry = opcode::RecvMsg::new(self.file.fd(), message.header())
            .ioprio(RECVSEND_POLL_FIRST)
            .build();
        // SAFETY: the entry points to the header, which points to the vector, which points to the
        // spare part of the buffer. Header and vector are side by side on the heap, the buffer's
        // storage is there too; all are stored with the operation, and none moves with its owner
        // (`Lent`, and the storage of `Buffer`). The entry names the socket, to which the operation
        // holds a reference.
        let pair =
            unsafe { Pair::submit(self, Lane::Receive, (buffer, message), entry, deadline.at) };
        let (outcome, (buffer, _message)) = pair.await;
        (outcome, buffer)
    }

    pub(super) async fn send(
        &self,
        mut bytes: Bytes,
        deadline: Deadline,
    ) -> (Result<usize, Error>, Bytes) {
        loop {
            let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            let entry = opcode::Send::new(self.file.fd(), bytes.as_ptr(), length)
                .flags(rustix::net::SendFlags::NOSIGNAL.bits().cast_signed())
                .build();
            // SAFETY: the entry points to the bytes, which are on the heap or static, immutable,
            // and stored with the operation; it names the socket, to which the operation holds a
            // reference.
            let pair = unsafe { Pair::submit(self, Lane::Send, bytes, entry, deadline.at) };
            let (outcome, returned) = pair.await;
            bytes = returned;
            match outcome {
                Outcome::Completed(count) => return (Ok(count), bytes),
                Outcome::Interrupted if deadline.remaining(Instant::now()).is_some() => {}
                other => return (Err(other.into_error(deadline)), bytes),
            }
        }
    }

    pub(super) fn shutdown(&self, how: Shutdown) {
        self.file.shutdown(how);
    }

    pub(super) fn set_low_water(&self, bytes: usize) -> io::Result<()> {
        super::low_water::set(&self.file.socket, bytes)?;
        self.file.low_water.set(bytes);
        Ok(())
    }

    pub(super) fn waiting(&self) -> io::Result<u64> {
        Ok(rustix::io::ioctl_fionread(&self.file.socket)?)
    }

    pub(super) fn is_quiet(&self) -> bool {
        super::has_nothing_to_say(&self.file.socket)
    }

    pub(super) fn peer_address(&self) -> io::Result<SocketAddr> {
        let address = self.file.socket.peer_addr()?;
        address.as_socket().ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))
    }
}

/// `IORING_RECVSEND_POLL_FIRST` (io_uring_enter(2)).
const RECVSEND_POLL_FIRST: u16 = 1;

fn is_invalid(error: &io::Error) -> bool {
    rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::INVAL)
}

/// What recvmsg(2) takes for one piece of memory: a header that points to a vector of one, side by
/// side on the heap.
struct Message(Lent<(libc::msghdr, libc::iovec)>);

impl Message {
    fn new(memory: &mut [u8]) -> Message {
        let vector = libc::iovec { iov_base: memory.as_mut_ptr().cast(), iov_len: memory.len() };
        // SAFETY: a header of zeros and null pointers is a valid one, without name, vector and
        // control data.
        let header: libc::msghdr = unsafe { std::mem::zeroed() };
        let both = Lent::new((header, vector));
        let place = both.as_ptr();
        // SAFETY: the value is there, and nobody else knows of it yet. Both pointers come from the one
        // that `Lent` keeps, and so stay good as long as it lives.
        unsafe {
            (*place).0.msg_iov = &raw mut (*place).1;
            (*place).0.msg_iovlen = 1;
        }
        Message(both)
    }

    fn header(&self) -> *mut libc::msghdr {
        // SAFETY: the value is there; no reference to it is made.
        unsafe { &raw mut (*self.0.as_ptr()).0 }
    }
}

/// Gives a connect up when it is dropped: its socket is shut down, now and until the kernel has
/// let go of it.
struct AbandonOnDrop<'a>(&'a Stream);

impl Drop for AbandonOnDrop<'_> {
    fn drop(&mut self) {
        let Stream { file, ring } = self.0;
        file.give_up();
        ring.abandoned.borrow_mut().push((Rc::downgrade(file), ABANDON_AGAIN));
        ring.queued.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use tokio_uring::{OneshotOutputTransform, UnsubmittedOneshot};

    use super::*;

    #[test]
    fn the_completion_queue_holds_all_that_can_be_in_flight() {
        for sockets in [SOCKETS_MIN, 16, 256] {
            let entries = u32::try_from(sockets * SQES_PER_SOCKET).unwrap();
            let Ok(ring) = io_uring::IoUring::new(entries) else { return };
            let ring: io_uring::IoUring = ring;
            assert!(ring.params().sq_entries() >= entries);
            assert!(ring.params().cq_entries() >= entries, "{sockets} sockets");
        }
    }

    /// Hands out the result as it is.
    struct Result32;

    impl OneshotOutputTransform for Result32 {
        type Output = i32;
        type StoredData = ();

        fn transform_oneshot_output(self, (): (), entry: io_uring::cqueue::Entry) -> i32 {
            entry.result()
        }
    }

    /// It cannot happen by the sizes; should it, the kernel keeps what does not fit, and the runtime
    /// has it all delivered.
    #[test]
    fn completions_that_overflow_their_queue_all_come() {
        const ENTRIES: u32 = 4;
        const COUNT: usize = 500;
        // That so many do overflow it.
        let Ok(mut ring) = io_uring::IoUring::new(ENTRIES) else { return };
        let ring: &mut io_uring::IoUring = &mut ring;
        for _ in 0..COUNT {
            // SAFETY: a NOP points to nothing.
            unsafe { ring.submission().push(&opcode::Nop::new().build()) }.unwrap();
            ring.submit().unwrap();
        }
        assert!(ring.submission().cq_overflow());

        let Ok(runtime) = tokio_uring::Runtime::new(tokio_uring::builder().entries(ENTRIES)) else {
            return;
        };
        runtime.block_on(async {
            // A NOP completes as it is submitted, and nothing is reaped before the first await.
            let nop = || {
                let entry = opcode::Nop::new().build();
                UnsubmittedOneshot::new((), Result32, entry).submit()
            };
            let all: Vec<_> = (0..COUNT).map(|_| nop()).collect();
            for (came, one) in all.into_iter().enumerate() {
                let one = tokio::time::timeout(Duration::from_secs(30), one).await;
                assert_eq!(one.ok(), Some(0), "after {came} of {COUNT}");
            }
        });
    }
}
