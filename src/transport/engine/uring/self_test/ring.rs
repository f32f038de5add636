//! The small rings that things are tried on.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use io_uring::register::Restriction;
use io_uring::{IoUring, opcode};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::super::patiently;
use super::Operation;

/// Entries of a ring that something is tried on.
pub(super) const ENTRIES: u32 = 8;

/// How long a step may take. None waits for anything, so this is never reached where all is well.
pub(super) const STEP_TIMEOUT: Duration = Duration::from_millis(500);

/// A ring that refuses the operations of `denied`, as a kernel without them would.
///
/// # Errors
/// What `io_uring_setup(2)` answers.
pub(super) fn open(denied: &[Operation]) -> io::Result<IoUring> {
    patiently(|| open_once(denied))
}

fn open_once(denied: &[Operation]) -> io::Result<IoUring> {
    if denied.is_empty() {
        return IoUring::new(ENTRIES);
    }
    let ring = IoUring::builder().setup_r_disabled().build(ENTRIES)?;
    // Restrictions name what is allowed: all that the self-test does, less what is denied.
    let mut allowed = vec![
        Restriction::sqe_op(opcode::Nop::CODE),
        Restriction::sqe_flags_allowed(u8::MAX),
        Restriction::register_op(REGISTER_PROBE),
        Restriction::register_op(REGISTER_ENABLE_RINGS),
    ];
    let operations = Operation::ALL.into_iter().filter(|operation| !denied.contains(operation));
    allowed.extend(operations.map(|operation| Restriction::sqe_op(operation.code())));
    ring.submitter().register_restrictions(&mut allowed)?;
    ring.submitter().register_enable_rings()?;
    Ok(ring)
}

/// `IORING_REGISTER_PROBE`: denied operations are reported as supported all the same.
const REGISTER_PROBE: u8 = 8;
/// `IORING_REGISTER_ENABLE_RINGS`.
const REGISTER_ENABLE_RINGS: u8 = 12;

/// Hands what is queued to the kernel; again, for up to [`STEP_TIMEOUT`], while it is interrupted or
/// has no room for the moment: that says nothing about what it can do.
pub(super) fn submit(ring: &IoUring) -> io::Result<()> {
    let end = Instant::now() + STEP_TIMEOUT;
    loop {
        let Err(error) = ring.submit() else { return Ok(()) };
        let passing = [Errno::INTR, Errno::AGAIN, Errno::BUSY];
        if !Errno::from_io_error(&error).is_some_and(|errno| passing.contains(&errno))
            || Instant::now() >= end
        {
            return Err(error);
        }
        std::thread::yield_now();
    }
}

/// Waits for `count` completions, and returns their user data and results; `None` if they do not
/// come within [`STEP_TIMEOUT`].
pub(super) fn reap(ring: &mut IoUring, count: usize) -> io::Result<Option<Vec<(u64, i32)>>> {
    let end = Instant::now() + STEP_TIMEOUT;
    let mut results = Vec::with_capacity(count);
    loop {
        results.extend(ring.completion().map(|entry| (entry.user_data(), entry.result())));
        if results.len() >= count {
            return Ok(Some(results));
        }
        let Some(left) = end.checked_duration_since(Instant::now()) else {
            return Ok(None);
        };
        wait_readable(ring, left)?;
    }
}

/// Waits until the ring has completions.
pub(super) fn wait_readable(ring: &IoUring, left: Duration) -> io::Result<()> {
    // SAFETY: the ring outlives this borrow of its descriptor.
    let fd = unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) };
    let limit = Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().into() };
    match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
