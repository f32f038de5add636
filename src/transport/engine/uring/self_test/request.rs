//! Requests that are only tried: entries of any kind, also such as the io-uring crate cannot build,
//! on a bench where nothing can go wrong for memory.
//!
//! What a request points to is always in the bench's [`Memory`], and that is never freed. So
//! whatever a kernel does with an entry it half knows, and however late, it finds the memory there.
//! That costs some pages in a process that ends after it has printed what it found.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Instant;

use io_uring::{IoUring, squeue, types};
use rustix::io_uring::{IoringRegisterOp, io_uring_register};
use socket2::SockAddr;

use super::ring::{STEP_TIMEOUT, submit, wait_readable};

/// A submission queue entry as the kernel's header lays it out (`struct io_uring_sqe`).
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Request {
    pub(super) opcode: u8,
    pub(super) flags: u8,
    pub(super) priority: u16,
    pub(super) fd: i32,
    pub(super) offset: u64,
    /// Private, so that a request points into the bench's memory or nowhere.
    address: u64,
    pub(super) length: u32,
    pub(super) operation_flags: u32,
    pub(super) user_data: u64,
    /// The index of a registered buffer, or the group of a buffer ring.
    pub(super) buffer: u16,
    _rest: [u16; 11],
}

const _: () = assert!(size_of::<Request>() == size_of::<squeue::Entry>());

impl Request {
    pub(super) fn new(opcode: u8) -> Request {
        Request { opcode, ..Request::default() }
    }

    /// On a socket, which must stay open until the request was submitted.
    pub(super) fn on(opcode: u8, socket: &impl AsFd) -> Request {
        Request { fd: socket.as_fd().as_raw_fd(), ..Request::new(opcode) }
    }

    /// `IORING_OP_ASYNC_CANCEL` finds what it cancels by its user data, not by an address.
    pub(super) fn cancelling(mut self, user_data: u64) -> Request {
        self.address = user_data;
        self
    }

    pub(super) fn flag(mut self, flag: u8) -> Request {
        self.flags |= flag;
        self
    }

    pub(super) fn named(mut self, user_data: u64) -> Request {
        self.user_data = user_data;
        self
    }
}

/// A completion.
#[derive(Debug, Clone, Copy)]
pub(super) struct Completion {
    pub(super) user_data: u64,
    pub(super) result: i32,
    pub(super) flags: u32,
}

/// All that requests on a bench may point to, in pages of its own.
#[repr(C, align(4096))]
struct Memory {
    /// A buffer ring. The kernel finds its tail in the last two bytes of the first entry.
    buffers: [BufferEntry; BUFFERS],
    data: [u8; DATA_SIZE],
    /// A moment after the system started: always in the past.
    past: types::Timespec,
    address: Option<SockAddr>,
}

/// `struct io_uring_buf`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
struct BufferEntry {
    address: u64,
    length: u32,
    id: u16,
    tail: u16,
}

/// `struct io_uring_buf_reg`, with the flags that newer kernels have in it.
#[repr(C)]
struct Registration {
    ring: u64,
    entries: u32,
    group: u16,
    flags: u16,
    _rest: [u64; 3],
}

/// `struct iovec`.
#[repr(C)]
struct Vector {
    base: u64,
    length: usize,
}

/// Entries of the bench's buffer ring.
pub(super) const BUFFERS: usize = 8;
/// Bytes that requests may receive into.
pub(super) const DATA_SIZE: usize = 64;
/// The group of the bench's buffer ring.
pub(super) const GROUP: u16 = 1;

/// A ring, and memory for its requests.
pub(super) struct Bench {
    ring: IoUring,
    memory: *mut Memory,
}

impl Bench {
    pub(super) fn new(ring: IoUring) -> Bench {
        let memory = Box::new(Memory {
            buffers: Default::default(),
            data: [0; DATA_SIZE],
            past: types::Timespec::new().nsec(1),
            address: None,
        });
        Bench { ring, memory: Box::into_raw(memory) }
    }

    pub(super) fn ring(&self) -> &IoUring {
        &self.ring
    }

    /// A request that receives into, or sends from, the bench's first `length` bytes.
    pub(super) fn with_data(&self, mut request: Request, length: usize) -> Request {
        // SAFETY: the memory is never freed; no reference to it is made.
        request.address = unsafe { &raw mut (*self.memory).data } as u64;
        request.length = u32::try_from(length.min(DATA_SIZE)).unwrap_or(0);
        request
    }

    /// A linked timeout that has passed already.
    pub(super) fn expired_timeout(&self) -> Request {
        let mut request = Request::new(io_uring::opcode::LinkTimeout::CODE);
        // SAFETY: as above.
        request.address = unsafe { &raw const (*self.memory).past } as u64;
        request.length = 1;
        request.operation_flags = types::TimeoutFlags::ABS.bits();
        request
    }

    /// A request with an address: a connect. One for each bench.
    pub(super) fn with_address(&self, mut request: Request, address: SockAddr) -> Request {
        // SAFETY: the memory is never freed, and the kernel only ever reads the address; nothing
        // else of this process has a reference to it.
        let held = unsafe { (*self.memory).address.insert(address) };
        request.address = held.as_ptr() as u64;
        request.offset = held.len().into();
        request
    }

    /// The bench's bytes as they are now.
    pub(super) fn data(&self) -> [u8; DATA_SIZE] {
        // SAFETY: the memory is never freed; bytes that a kernel writes meanwhile are bytes still.
        unsafe { (&raw const (*self.memory).data).read_volatile() }
    }

    /// Registers the bench's bytes as buffer 0.
    pub(super) fn register_data(&self) -> io::Result<()> {
        // SAFETY: the memory is never freed.
        let base = unsafe { &raw mut (*self.memory).data };
        let vector = Vector { base: base as u64, length: DATA_SIZE };
        // SAFETY: the vector is read during the call; what it names is never freed.
        let answer = unsafe {
            io_uring_register(
                self.descriptor(),
                IoringRegisterOp::RegisterBuffers,
                (&raw const vector).cast(),
                1,
            )
        };
        Ok(answer.map(drop)?)
    }

    /// Registers a buffer ring with `count` buffers of `length` bytes each, one after the other.
    pub(super) fn register_buffers(
        &self,
        flags: u16,
        count: usize,
        length: usize,
    ) -> io::Result<()> {
        // SAFETY: the memory is never freed; the kernel reads the entries only once it knows the
        // ring, which it does not yet; no other reference to them exists.
        let (buffers, data) =
            unsafe { (&mut (*self.memory).buffers, &raw mut (*self.memory).data) };
        for (id, entry) in (0_u16..).zip(buffers.iter_mut().take(count)) {
            entry.address = data as u64 + u64::from(id) * length as u64;
            entry.length = u32::try_from(length).unwrap_or(0);
            entry.id = id;
        }
        // All are there from the start.
        buffers[0].tail = u16::try_from(count).unwrap_or(0);
        let registration = Registration {
            ring: (&raw mut *buffers) as u64,
            entries: BUFFERS as u32,
            group: GROUP,
            flags,
            _rest: [0; 3],
        };
        // SAFETY: the registration is read during the call; the buffer ring is never freed.
        let answer = unsafe {
            io_uring_register(
                self.descriptor(),
                IoringRegisterOp::RegisterPbufRing,
                (&raw const registration).cast(),
                1,
            )
        };
        Ok(answer.map(drop)?)
    }

    /// Queues the requests and hands them to the kernel in one call.
    pub(super) fn submit(&mut self, requests: &[Request]) -> io::Result<()> {
        for request in requests {
            // SAFETY: both are 64 bytes of plain integers, laid out as the kernel reads them.
            let entry = unsafe { std::mem::transmute::<Request, squeue::Entry>(*request) };
            // SAFETY: what the request points to is in memory that is never freed (`address` is
            // private, and set by the methods above alone); its descriptor is open until the
            // submission below, or until the ring is dropped and the entry with it.
            if unsafe { self.ring.submission().push(&entry) }.is_err() {
                return Err(io::Error::other("the submission queue is full"));
            }
        }
        submit(&self.ring)
    }

    /// Waits for `count` completions; fewer, if they do not come in time.
    pub(super) fn reap(&mut self, count: usize) -> io::Result<Vec<Completion>> {
        let end = Instant::now() + STEP_TIMEOUT;
        let mut seen = Vec::with_capacity(count);
        loop {
            seen.extend(self.ring.completion().map(|entry| Completion {
                user_data: entry.user_data(),
                result: entry.result(),
                flags: entry.flags(),
            }));
            let left = end.checked_duration_since(Instant::now());
            let (false, Some(left)) = (seen.len() >= count, left) else {
                return Ok(seen);
            };
            // Results that overflowed, and those deferred until we ask, come with this call.
            // SAFETY: it passes no pointer.
            unsafe { self.ring.submitter().enter::<u64>(0, 0, ENTER_GETEVENTS, None) }?;
            if self.ring.completion().is_empty() {
                wait_readable(&self.ring, left)?;
            }
        }
    }

    fn descriptor(&self) -> std::os::fd::BorrowedFd<'_> {
        // SAFETY: the ring outlives this borrow of its descriptor.
        unsafe { std::os::fd::BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }
}

/// `IORING_ENTER_GETEVENTS`.
const ENTER_GETEVENTS: u32 = 1;
