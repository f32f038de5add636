//! An operation and its linked timeout, submitted together and awaited together.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use io_uring::{cqueue, opcode, squeue, types};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};
use tokio_uring::{InFlightOneshot, OneshotOutputTransform, UnsubmittedOneshot};

use super::super::super::{Deadline, Error};
use super::{File, InFlight, Stream};

/// The two directions of a socket. In each, one operation can be in flight.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lane {
    /// Receiving.
    Receive,
    /// Sending and connecting.
    Send,
}

impl Lane {
    /// Where the watch looks for the deadline of what is in flight.
    fn waiting(self, file: &File) -> &Cell<Option<Instant>> {
        match self {
            Lane::Receive => &file.receiving,
            Lane::Send => &file.sending,
        }
    }
}

/// How a pair ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The operation completed with this result; for a receive, 0 is the end of the stream.
    Completed(usize),
    /// The kernel ended the operation at its deadline.
    Expired,
    /// The operation ended without a result and before its deadline; it may be submitted again.
    Interrupted,
    /// The operation failed.
    Failed(io::Error),
    /// The timeout was not linked to the operation (`-EINVAL`): there is no deadline.
    Split,
}

impl Outcome {
    /// The outcome as an error of a wait with this deadline.
    pub(super) fn into_error(self, deadline: Deadline) -> Error {
        match self {
            Outcome::Expired => Error::expired(deadline),
            Outcome::Failed(error) => Error::io(deadline.phase, error),
            Outcome::Interrupted => {
                Error::io(deadline.phase, io::Error::from(io::ErrorKind::Interrupted))
            }
            Outcome::Split => Error::Broken("a linked timeout was split from its operation"),
            Outcome::Completed(_) => Error::Broken("a completed operation is not an error"),
        }
    }
}

/// A submitted operation, its linked timeout, and `data`: what the kernel may touch meanwhile.
///
/// As a future, it ends when both completions have been seen, in whatever order they come. Dropped
/// before that, it leaves both to tokio-uring, which keeps their data until their completions.
pub(super) struct Pair<'a, D: Unpin + 'static> {
    operation: Option<InFlightOneshot<Held<D>, Raw<D>>>,
    /// What the operation brought back, once it has ended.
    data: Option<D>,
    timeout: Option<InFlightOneshot<Limit, RawLimit>>,
    seen: Seen,
    stream: &'a Stream,
    lane: Lane,
}

/// What an operation owns while it is in flight.
struct Held<D> {
    data: D,
    _file: Rc<File>,
    _in_flight: InFlight,
}

/// What a timeout owns while it is in flight. The timespec is read by the kernel at submission,
/// which may come later than the future's end; the socket's share of the ring is held as long as
/// the timeout's completion is outstanding.
struct Limit {
    _at: Rc<types::Timespec>,
    _file: Rc<File>,
    _in_flight: InFlight,
}

impl<'a, D: Unpin + 'static> Pair<'a, D> {
    /// Queues `entry`, linked to a timeout at the instant `at`.
    ///
    /// # Safety
    /// What `entry` points to is owned by `data`, and does not move when `data` does. `entry` names
    /// no other descriptor than that of `stream`. Nothing else is in flight in this lane.
    pub(super) unsafe fn submit(
        stream: &'a Stream,
        lane: Lane,
        data: D,
        entry: squeue::Entry,
        at: Instant,
    ) -> Pair<'a, D> {
        let Stream { file, ring } = stream;
        let before = lane.waiting(file).replace(Some(at));
        debug_assert!(before.is_none(), "one operation at a time in each lane");
        ring.count(|counters| counters.pairs += 1);

        let limit = Rc::new(timespec(at));
        let timeout_entry =
            opcode::LinkTimeout::new(Rc::as_ptr(&limit)).flags(types::TimeoutFlags::ABS).build();
        let held = Held { data, _file: Rc::clone(file), _in_flight: InFlight::new(ring) };
        let limit = Limit { _at: limit, _file: Rc::clone(file), _in_flight: InFlight::new(ring) };

        // The two calls below must end up in one submission. tokio-uring submits when its queue is
        // full or when the runtime has nothing left to do. Neither can happen between them: the
        // queue has `SQES_PER_SOCKET` entries for each socket that exists (`Ring::sockets`), of
        // which this one uses at most half for each direction, and there is no `await` in between.
        let linked = entry.flags(squeue::Flags::IO_LINK);
        let operation = UnsubmittedOneshot::new(held, Raw::default(), linked).submit();
        let timeout = UnsubmittedOneshot::new(limit, RawLimit, timeout_entry).submit();
        ring.queued.notify_one();
        Pair {
            operation: Some(operation),
            data: None,
            timeout: Some(timeout),
            seen: Seen::default(),
            stream,
            lane,
        }
    }
}

impl<D: Unpin + 'static> Future for Pair<'_, D> {
    type Output = (Outcome, D);

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<(Outcome, D)> {
        let this = self.get_mut();
        if let Some(timeout) = &mut this.timeout
            && let Poll::Ready(result) = Pin::new(timeout).poll(context)
        {
            this.timeout = None;
            this.seen.timeout = Some(result);
            if result == -Errno::INVAL.raw_os_error() {
                // The operation waits without a limit. End it: its completion then comes, and
                // brings back the data.
                this.stream.ring.count(|counters| counters.split += 1);
                this.stream.file.shutdown(Shutdown::Both);
            }
        }
        if let Some(operation) = &mut this.operation
            && let Poll::Ready((result, data)) = Pin::new(operation).poll(context)
        {
            this.operation = None;
            this.seen.operation = Some(result);
            this.data = Some(data);
        }
        let Some(outcome) = this.seen.outcome() else { return Poll::Pending };
        let Some(data) = this.data.take() else { return Poll::Pending };
        this.lane.waiting(&this.stream.file).set(None);
        let fired = this.seen.timeout == Some(-Errno::TIME.raw_os_error());
        this.stream.ring.count(|counters| match outcome {
            Outcome::Expired => counters.expired += 1,
            Outcome::Completed(_) if fired => counters.raced += 1,
            _ => {}
        });
        Poll::Ready((outcome, data))
    }
}

impl<D: Unpin + 'static> Drop for Pair<'_, D> {
    fn drop(&mut self) {
        if self.operation.is_some() {
            // Who drops it shuts the socket down, so it is over soon and needs no watch.
            self.lane.waiting(&self.stream.file).set(None);
            self.stream.ring.count(|counters| counters.dropped += 1);
        }
    }
}

/// The results of a pair that were seen so far. Both always come, in either order.
#[derive(Debug, Default)]
struct Seen {
    operation: Option<i32>,
    timeout: Option<i32>,
}

impl Seen {
    /// How the pair ended, once both have been seen.
    fn outcome(&self) -> Option<Outcome> {
        Some(decide(self.operation?, self.timeout?))
    }
}

/// What the two results mean. The operation's decides; the timeout's only tells a deadline from
/// another cancellation.
fn decide(operation: i32, timeout: i32) -> Outcome {
    if timeout == -Errno::INVAL.raw_os_error() {
        return Outcome::Split;
    }
    if let Ok(count) = usize::try_from(operation) {
        return Outcome::Completed(count);
    }
    let error = Errno::from_raw_os_error(-operation);
    let fired = timeout == -Errno::TIME.raw_os_error();
    match error {
        Errno::CANCELED | Errno::INTR if fired => Outcome::Expired,
        Errno::INTR => Outcome::Interrupted,
        error => Outcome::Failed(error.into()),
    }
}

/// The instant on the monotonic clock, as the kernel reads it. A passed one is in the past there
/// too, and fires at once.
fn timespec(at: Instant) -> types::Timespec {
    // The standard library does not say what an instant is; but its distance to now is known.
    let now = clock_gettime(ClockId::Monotonic);
    let left = at.saturating_duration_since(Instant::now());
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0) + u64::from(left.subsec_nanos());
    let seconds =
        u64::try_from(now.tv_sec).unwrap_or(0) + left.as_secs() + nanoseconds / 1_000_000_000;
    let nanoseconds = u32::try_from(nanoseconds % 1_000_000_000).unwrap_or(0);
    types::Timespec::new().sec(seconds).nsec(nanoseconds)
}

/// Hands the operation's result and data on as they are.
struct Raw<D>(std::marker::PhantomData<D>);

impl<D> Default for Raw<D> {
    fn default() -> Raw<D> {
        Raw(std::marker::PhantomData)
    }
}

impl<D> OneshotOutputTransform for Raw<D> {
    type Output = (i32, D);
    type StoredData = Held<D>;

    fn transform_oneshot_output(self, held: Held<D>, entry: cqueue::Entry) -> (i32, D) {
        (entry.result(), held.data)
    }
}

/// Hands the timeout's result on as it is.
struct RawLimit;

impl OneshotOutputTransform for RawLimit {
    type Output = i32;
    type StoredData = Limit;

    fn transform_oneshot_output(self, _limit: Limit, entry: cqueue::Entry) -> i32 {
        entry.result()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The last error number of Linux (`EHWPOISON`).
    const ERRNO_MAX: i32 = 133;

    /// A pair that ends with these results means the same in whichever order they come, and nothing
    /// before both have.
    #[track_caller]
    fn outcome(operation: i32, timeout: i32) -> Outcome {
        let mut operation_first = Seen::default();
        assert!(operation_first.outcome().is_none());
        operation_first.operation = Some(operation);
        assert!(operation_first.outcome().is_none());
        operation_first.timeout = Some(timeout);
        let mut timeout_first = Seen { timeout: Some(timeout), ..Seen::default() };
        assert!(timeout_first.outcome().is_none());
        timeout_first.operation = Some(operation);
        let [one, other] = [operation_first, timeout_first].map(|seen| seen.outcome().unwrap());
        assert_eq!(format!("{one:?}"), format!("{other:?}"));
        one
    }

    #[test]
    fn every_pair_of_results_has_its_meaning_in_both_orders() {
        let [canceled, interrupted, invalid, time] =
            [libc::ECANCELED, libc::EINTR, libc::EINVAL, libc::ETIME];
        // All error numbers, and what a timeout that was removed or never armed may say.
        let timeouts = (0..=ERRNO_MAX).map(|errno| -errno);
        for timeout in timeouts {
            for result in [0, 1, 4096, i32::MAX] {
                match outcome(result, timeout) {
                    Outcome::Split => assert_eq!(timeout, -invalid),
                    Outcome::Completed(count) => assert_eq!(count, result as usize, "no byte lost"),
                    other => panic!("{result} beside {timeout}: {other:?}"),
                }
            }
            for errno in 1..=ERRNO_MAX {
                match outcome(-errno, timeout) {
                    Outcome::Split => assert_eq!(timeout, -invalid),
                    Outcome::Expired => {
                        assert!(
                            timeout == -time && [canceled, interrupted].contains(&errno),
                            "{errno}"
                        );
                    }
                    Outcome::Interrupted => assert!(timeout != -time && errno == interrupted),
                    Outcome::Failed(error) => {
                        assert_eq!(error.raw_os_error(), Some(errno));
                        assert!(errno != interrupted && (errno != canceled || timeout != -time));
                    }
                    Outcome::Completed(_) => panic!("{errno} beside {timeout} is no success"),
                }
            }
        }
    }
}
