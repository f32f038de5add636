//! One direction of a connection: segments on their way, each with the instant at which it arrives.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// How a direction carries bytes.
#[derive(Debug, Clone)]
pub(super) struct Line {
    /// From the sender to the receiver.
    pub(super) latency: Duration,
    pub(super) bytes_per_second: u64,
    /// Most bytes sent and not taken by the receiver.
    pub(super) window: usize,
    /// Sizes of the first segments, one after the other, in bytes; those after them are as large as
    /// what leaves in a moment.
    pub(super) segments: VecDeque<usize>,
    /// What goes wrong, and after how many bytes.
    pub(super) fault: Option<(Break, u64)>,
    /// When the clock began: bytes arrive at whole milliseconds after it, because timers cannot tell
    /// finer times apart.
    pub(super) epoch: Instant,
}

impl Line {
    /// What leaves in a moment, so that bytes of a slow line do not come all at its end; at least what
    /// fits into a packet.
    fn segment_max(&self) -> usize {
        usize::try_from(self.bytes_per_second / 20).unwrap_or(usize::MAX).max(1_460)
    }
}

/// What happens to a direction in the middle of its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Break {
    /// Nothing arrives any more, and nobody is told.
    Stall,
    /// A reset arrives behind the bytes before it.
    Reset,
    /// A reset arrives at once: bytes on their way are lost.
    ResetAhead,
    /// The stream ends as if its sender had wanted that.
    Finish,
    /// What follows is held back until the deadline of the next receive that waits for it, and
    /// arrives so long before or after that.
    Race { ahead: Duration, behind: Duration },
}

/// What a receiver finds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ready {
    /// Enough bytes are there, since this instant.
    Bytes { since: Instant },
    /// The end of the stream.
    End,
    /// The peer reset the connection.
    Reset,
    /// Nothing yet; when the next segment arrives, if one is on its way.
    NotYet { next: Option<Instant> },
}

pub(super) struct Pipe {
    state: RefCell<State>,
    came: Notify,
    went: Notify,
}

struct State {
    line: Line,
    segments: VecDeque<(Instant, Bytes)>,
    /// Bytes in `segments`.
    held: usize,
    /// Bytes written so far.
    total: u64,
    /// When the last byte written has left.
    sent_at: Instant,
    ending: Option<(Instant, Ending)>,
    /// Nothing that is written arrives any more.
    stalled: bool,
    /// Bytes that wait for a deadline to race with.
    racing: Option<(VecDeque<Bytes>, Duration, Duration)>,
    /// The receiver has shut its side: it finds an end, and the sender an error.
    shut: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Finished,
    Reset,
}

impl Pipe {
    pub(super) fn new(line: Line) -> Pipe {
        let state = State {
            sent_at: line.epoch,
            line,
            segments: VecDeque::new(),
            held: 0,
            total: 0,
            ending: None,
            stalled: false,
            racing: None,
            shut: false,
        };
        Pipe { state: RefCell::new(state), came: Notify::new(), went: Notify::new() }
    }

    /// Ends when something was put in, or the pipe has changed otherwise, after this call.
    pub(super) fn came(&self) -> Notified<'_> {
        self.came.notified()
    }

    /// Ends when something was taken out, or the pipe has changed otherwise, after this call.
    pub(super) fn went(&self) -> Notified<'_> {
        self.went.notified()
    }

    fn changed(&self) {
        self.came.notify_waiters();
        self.went.notify_waiters();
    }

    pub(super) fn window(&self) -> usize {
        self.state.borrow().line.window
    }

    /// How many bytes a receiver could take now.
    pub(super) fn arrived(&self, now: Instant) -> usize {
        self.state.borrow().arrived(now).0
    }

    /// What a receiver finds that wants `mark` bytes.
    pub(super) fn ready(&self, now: Instant, mark: usize) -> Ready {
        let state = self.state.borrow();
        let (arrived, since) = state.arrived(now);
        // Bytes that are yet to race with a deadline come before the end that was sent behind them.
        let held_back = state.racing.as_ref().is_some_and(|(bytes, ..)| !bytes.is_empty());
        let ended = state.ending.filter(|(at, _)| *at <= now && !held_back);
        let ended = ended.map(|(_, ending)| ending);
        match (since, ended) {
            (Some(since), None) if arrived >= mark.min(state.line.window / 2).max(1) => {
                Ready::Bytes { since }
            }
            // The end is not held back by a mark.
            (Some(since), Some(_)) => Ready::Bytes { since },
            (Some(since), None) if state.shut => Ready::Bytes { since },
            (_, None) if state.shut => Ready::End,
            (None, Some(Ending::Finished)) => Ready::End,
            (None, Some(Ending::Reset)) => Ready::Reset,
            (_, None) => {
                let segments = state.segments.iter().map(|(at, _)| *at);
                let ending = state.ending.map(|(at, _)| at);
                Ready::NotYet { next: segments.chain(ending).find(|at| *at > now) }
            }
        }
    }

    /// Takes what has arrived, as much as there is room for.
    pub(super) fn take(&self, now: Instant, into: &mut [u8]) -> usize {
        let mut state = self.state.borrow_mut();
        let mut count = 0;
        while count < into.len()
            && let Some((at, bytes)) = state.segments.front_mut()
            && *at <= now
        {
            let part = bytes.split_to(bytes.len().min(into.len() - count));
            into[count..count + part.len()].copy_from_slice(&part);
            count += part.len();
            if bytes.is_empty() {
                state.segments.pop_front();
            }
        }
        state.held -= count;
        drop(state);
        self.went.notify_waiters();
        count
    }

    /// Sends some of `bytes`, as many as fit; 0 if none do.
    pub(super) fn put(&self, now: Instant, bytes: &Bytes) -> io::Result<usize> {
        let mut state = self.state.borrow_mut();
        if state.shut || state.ending.is_some() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let count = bytes.len().min(state.line.window.saturating_sub(state.held));
        state.send(now, bytes.slice(..count));
        drop(state);
        self.came.notify_waiters();
        Ok(count)
    }

    /// The sender sends no more.
    pub(super) fn finish(&self) {
        self.end(Ending::Finished);
    }

    /// The sender resets the connection. What it had sent arrives before.
    pub(super) fn reset(&self) {
        self.end(Ending::Reset);
    }

    fn end(&self, ending: Ending) {
        let mut state = self.state.borrow_mut();
        state.end(ending);
        drop(state);
        self.changed();
    }

    /// The receiver takes no more; it finds the end.
    pub(super) fn shut(&self) {
        self.state.borrow_mut().shut = true;
        self.changed();
    }

    /// The receiver is gone. How many bytes it leaves unread.
    pub(super) fn stop_reading(&self) -> usize {
        let mut state = self.state.borrow_mut();
        state.shut = true;
        let left = state.arrived(super::clock::now()).0;
        state.segments.clear();
        state.held = 0;
        drop(state);
        self.changed();
        left
    }

    /// Whether both sides are done with it: the receiver sees the end, or is gone itself.
    pub(super) fn is_shut(&self) -> bool {
        self.state.borrow().shut
    }

    /// A receive waits for bytes, until `deadline`: those that are to race with it set out.
    pub(super) fn release_into_race(&self, deadline: Instant) {
        let mut state = self.state.borrow_mut();
        let Some((held_back, ahead, behind)) = state.racing.take() else { return };
        if held_back.is_empty() {
            state.racing = Some((held_back, ahead, behind));
            return;
        }
        let at = (deadline + behind).checked_sub(ahead).unwrap_or(deadline);
        let at = at.max(state.last_arrival()).max(super::clock::now());
        state.segments.extend(held_back.into_iter().map(|bytes| (at, bytes)));
        if let Some((ends_at, _)) = &mut state.ending {
            *ends_at = (*ends_at).max(at);
        }
    }
}

impl State {
    /// How many bytes have arrived, and when the last of them did.
    fn arrived(&self, now: Instant) -> (usize, Option<Instant>) {
        let arrived = self.segments.iter().take_while(|(at, _)| *at <= now);
        arrived.fold((0, None), |(count, _), (at, bytes)| (count + bytes.len(), Some(*at)))
    }

    fn last_arrival(&self) -> Instant {
        self.segments.back().map_or(self.line.epoch, |(at, _)| *at)
    }

    fn send(&mut self, now: Instant, mut bytes: Bytes) {
        self.held += bytes.len();
        while !bytes.is_empty() {
            let until_fault = match self.line.fault {
                Some((_, at)) if at > self.total => usize::try_from(at - self.total).ok(),
                _ => None,
            };
            let size = self.line.segments.pop_front().unwrap_or(usize::MAX).max(1);
            let size = size.min(self.line.segment_max());
            let size = size.min(until_fault.unwrap_or(usize::MAX)).min(bytes.len());
            let segment = bytes.split_to(size);
            self.total += size as u64;
            let nanoseconds = size as u128 * 1_000_000_000 / u128::from(self.line.bytes_per_second);
            let takes = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
            self.sent_at = self.sent_at.max(now) + takes;
            let at = self.tick(self.sent_at + self.line.latency).max(self.last_arrival());
            match &mut self.racing {
                _ if self.stalled || self.ending.is_some() => {}
                Some((held_back, ..)) => held_back.push_back(segment),
                None => self.segments.push_back((at, segment)),
            }
            if let Some((fault, after)) = self.line.fault
                && self.total >= after
            {
                self.line.fault = None;
                match fault {
                    Break::Stall => self.stalled = true,
                    Break::Reset => self.end(Ending::Reset),
                    Break::ResetAhead => {
                        self.segments.retain(|(at, _)| *at <= now);
                        self.held = self.segments.iter().map(|(_, bytes)| bytes.len()).sum();
                        self.ending = Some((self.tick(now + self.line.latency), Ending::Reset));
                    }
                    Break::Finish => self.end(Ending::Finished),
                    Break::Race { ahead, behind } => {
                        self.racing = Some((VecDeque::new(), ahead, behind));
                    }
                }
            }
        }
    }

    fn end(&mut self, ending: Ending) {
        let at = self.tick(super::clock::now() + self.line.latency).max(self.last_arrival());
        match self.ending {
            Some((_, Ending::Reset)) => {}
            Some((_, Ending::Finished)) if ending == Ending::Finished => {}
            // It would arrive where nothing arrives.
            _ if self.stalled => {}
            _ => self.ending = Some((at, ending)),
        }
    }

    /// The first whole millisecond of the clock that is not before `at`.
    fn tick(&self, at: Instant) -> Instant {
        let since = at.saturating_duration_since(self.line.epoch).as_nanos();
        let milliseconds = u64::try_from(since.div_ceil(1_000_000)).unwrap_or(u64::MAX);
        self.line.epoch + Duration::from_millis(milliseconds)
    }
}
