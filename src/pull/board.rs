//! What is to be fetched next, and by how many connections: state only, with time as an argument.
//!
//! ```text
//!   blob   0 ▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒ received ▒▒▒▒▒┃┄┄ in flight ┄┄┃┄┄ in flight ┄┄┃ missing ……… size
//!                                          └ piece ┘        └ piece ┘
//! ```
//!
//! A small blob is one piece at first. Of a large one, pieces are taken from the front, so that hashing,
//! which goes in order, keeps up; each is a closed range of about a second's worth. A second connection
//! gets a piece of a blob only after the first was answered with the range that it asked for. While
//! connections are idle and nothing else is missing, or a piece has become much longer than it should
//! be, they get the back half of one that is under way.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::lane::Lane;
use super::replace::{Minimum, Watch};
use super::retry::{Attempts, Failure, Policy, Verdict, is_slowness};
use crate::config::Pieces;
use crate::error::Class;
use crate::limits::{
    DESCRIPTORS_PAUSE, DESCRIPTORS_REST, DESCRIPTORS_TRIES_MAX, PIECE_SIZE_SLOW_MIN, PIECE_TIME,
    PIECE_TIME_MIN_PART, SPLIT_TIME_LONG, SPLIT_TIME_MIN, WHOLE_SIZE_MAX,
};

/// A part of a blob for one connection to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    /// Which blob, by its place on the board.
    pub(super) blob: usize,
    /// Which bytes of it.
    pub(super) range: Range<u64>,
    /// How to ask.
    pub(super) form: Form,
    /// What came of asking for it before.
    pub(super) past: Past,
    /// Who answers it.
    pub(super) peer: Option<IpAddr>,
    /// Its number on the board.
    number: u64,
    /// Whether its answer has begun.
    flows: bool,
    /// How many failures of the blob had been counted when it was taken.
    failures: u64,
}

/// What came of asking for bytes before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Past {
    /// A connection was too slow: only a new one will do.
    pub(super) afresh: bool,
    /// Where that connection led.
    pub(super) avoid: Option<IpAddr>,
    /// How often the connection was replaced because others were faster.
    pub(super) replaced: u32,
}

/// Bytes that no connection is fetching.
#[derive(Debug, Clone)]
struct Gap {
    range: Range<u64>,
    past: Past,
}

impl Gap {
    fn new(range: Range<u64>) -> Gap {
        Gap { range, past: Past::default() }
    }
}

/// How a piece is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// By a range.
    Range,
    /// As the whole blob, of which the bytes that are there already are skipped.
    Whole,
}

/// What is known of a server's ranges for one blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ranges {
    Unknown,
    /// A range was answered as it was asked for.
    Honoured,
    /// They may do for going on after a failure, but not for several connections: the blob was
    /// wrong once.
    OneStream,
    /// They were ignored, refused or lied about: one stream is all there is.
    Useless,
}

/// One blob on the board.
struct Blob {
    size: u64,
    /// What no connection is fetching, in order.
    missing: VecDeque<Gap>,
    in_flight: usize,
    ranges: Ranges,
    attempts: Attempts,
    /// Failures counted so far. Those of pieces that were under way when one was counted are part
    /// of it: a server that breaks eight connections has failed once.
    failures: u64,
    /// Bytes received of it by pieces that have ended, all attempts together.
    arrived: u64,
    /// How many had been received when a failure was counted last.
    arrived_before: u64,
    /// When it may be asked for again.
    not_before: Option<Instant>,
    started: bool,
    /// Another process is fetching it.
    held: bool,
    /// Every byte was received, and the blob is being, or has been, verified.
    received: bool,
    /// It is in the store.
    stored: bool,
}

impl Blob {
    fn missing_size(&self) -> u64 {
        self.missing.iter().map(|gap| gap.range.end - gap.range.start).sum()
    }

    /// Puts back what a piece left.
    fn put_back(&mut self, left: Vec<Range<u64>>, past: Past) {
        let gaps = left.into_iter().filter(|range| !range.is_empty());
        self.missing.extend(gaps.map(|range| Gap { range, past }));
        self.missing.make_contiguous().sort_by_key(|gap| gap.range.start);
    }

    /// Whether one more connection may fetch a piece of it now.
    fn offers_a_piece(&self, spread: bool, now: Instant) -> bool {
        !self.missing.is_empty()
            && !self.held
            && self.not_before.is_none_or(|at| at <= now)
            && (self.in_flight == 0 || (spread && self.ranges == Ranges::Honoured))
    }
}

/// All blobs of a pull, and the connections that fetch them.
pub(super) struct Board {
    blobs: Vec<Blob>,
    pieces: Pieces,
    /// Blobs fetched at once.
    jobs: usize,
    /// Connections wanted at once.
    target: usize,
    /// Connections busy, by worker; none for a worker that does not work.
    busy: Vec<Option<usize>>,
    /// Most connections that each worker can have.
    most: Vec<usize>,
    /// How many of these have begun to bring bytes.
    flowing: usize,
    /// Bytes per second of a connection, as far as one is known.
    rate: Option<u64>,
    /// That rate was measured over all connections, and single pieces tell nothing better.
    rate_is_measured: bool,
    /// A server asked for silence until then: no connection is given up in favour of another one.
    gate: Option<Instant>,
    /// Several connections may fetch one blob.
    spread: bool,
    /// The connections that are receiving.
    watch: Watch,
    /// Pieces taken so far.
    taken: u64,
    /// A failure was final: nothing more is begun.
    over: bool,
    /// No more connections than so many until then: there was no file descriptor for more.
    ceiling: Option<(usize, Instant)>,
    /// How often that happened since a piece was received last.
    shortages: u32,
}

impl Board {
    /// A board for blobs of these `sizes`, largest first.
    pub(super) fn new(
        sizes: impl IntoIterator<Item = u64>,
        policy: Policy,
        jobs: usize,
        workers: usize,
    ) -> Board {
        let blobs = sizes.into_iter().map(|size| Blob {
            size,
            missing: VecDeque::from([Gap::new(0..size)]),
            in_flight: 0,
            ranges: Ranges::Unknown,
            attempts: Attempts::new(policy),
            failures: 0,
            arrived: 0,
            arrived_before: 0,
            not_before: None,
            started: false,
            held: false,
            received: false,
            stored: false,
        });
        let blobs = blobs.collect();
        Board {
            blobs,
            pieces: Pieces::default(),
            jobs,
            target: 1,
            busy: vec![Some(0); workers],
            most: vec![usize::MAX; workers],
            flowing: 0,
            rate: None,
            rate_is_measured: false,
            gate: None,
            spread: true,
            watch: Watch::default(),
            taken: 0,
            over: false,
            ceiling: None,
            shortages: 0,
        }
    }

    /// Whether several connections may fetch one blob from now on.
    pub(super) fn spread(&mut self, spread: bool) {
        self.spread = spread;
    }

    /// Whether several connections may fetch one blob.
    pub(super) fn is_spread(&self) -> bool {
        self.spread
    }

    /// Each connection has to bring at least this.
    pub(super) fn set_minimum(&mut self, minimum: Option<Minimum>) {
        self.watch = Watch::new(minimum);
    }

    /// How blobs are cut.
    pub(super) fn set_pieces(&mut self, pieces: Pieces) {
        self.pieces = pieces;
    }

    /// How many connections are wanted from now on.
    pub(super) fn set_target(&mut self, target: usize) {
        self.target = target.max(1);
    }

    /// What a connection brings, in bytes per second, over a time that covers a server's bursts.
    pub(super) fn set_rate(&mut self, rate_each: u64) {
        self.rate = Some(rate_each);
        self.rate_is_measured = true;
    }

    /// How many bytes are still to come, of all blobs: about, for an answer that has not begun is not
    /// counted.
    pub(super) fn left(&self) -> u64 {
        let missing: u64 = self.blobs.iter().map(Blob::missing_size).sum();
        missing + self.watch.left()
    }

    /// Whether as many connections are busy as are wanted, and more could be used.
    pub(super) fn is_saturated(&self) -> bool {
        self.busy() >= self.target
    }

    /// A piece's answer has begun.
    pub(super) fn flows(&mut self, piece: &mut Piece) {
        piece.flows = true;
        self.flowing += 1;
    }

    /// A piece's connection is about to receive these bytes; from now on it is watched.
    pub(super) fn receives(&mut self, piece: &Piece, sent: Range<u64>, now: Instant) -> Arc<Lane> {
        let lane = Arc::new(Lane::new(sent));
        self.watch.begin(piece.number, piece.blob, piece.past.replaced, &lane, now);
        lane
    }

    /// Looks at the connections that are receiving: has those replaced that are too slow, and the
    /// longest rests split while connections are idle. Whether there is more to take by that.
    ///
    /// To be called at regular intervals.
    pub(super) fn review(&mut self, now: Instant) -> bool {
        self.watch.observe(now);
        // Nothing could be asked for again now.
        if self.silent_until(now).is_some() {
            return false;
        }
        let Board { blobs, watch, .. } = self;
        let is = |blob: usize, wanted: fn(Ranges) -> bool| {
            blobs.get(blob).is_some_and(|blob| wanted(blob.ranges))
        };
        let tail = blobs.iter().all(|blob| blob.missing.is_empty());
        watch.tell_the_slow(tail, |blob| is(blob, |ranges| ranges != Ranges::Useless), now);
        let idle = self.target.saturating_sub(self.busy());
        let mut split = false;
        for _ in 0..if self.spread { idle } else { 0 } {
            let honoured = |blob: usize| {
                self.blobs.get(blob).is_some_and(|blob| blob.ranges == Ranges::Honoured)
            };
            let least = match self.choose(now) {
                None => SPLIT_TIME_MIN,
                Some(_) => SPLIT_TIME_LONG,
            };
            let Some((blob, back)) = self.watch.split(least, honoured) else { break };
            if let Some(blob) = self.blobs.get_mut(blob) {
                blob.put_back(vec![back], Past::default());
                split = true;
            }
        }
        split
    }

    /// A worker cannot have more than `most` connections, which is at least 1.
    pub(super) fn bound(&mut self, worker: usize, most: usize) {
        if let Some(bound) = self.most.get_mut(worker) {
            *bound = most.max(1);
        }
    }

    /// A worker could not start: its share goes to the others. `false` if there are none.
    pub(super) fn retire(&mut self, worker: usize) -> bool {
        if let Some(busy) = self.busy.get_mut(worker) {
            *busy = None;
        }
        self.busy.iter().any(Option::is_some)
    }

    /// Whether all connections that are busy have begun to bring bytes.
    pub(super) fn is_flowing(&self) -> bool {
        self.flowing >= self.busy()
    }

    /// How many blobs have bytes that were not received.
    pub(super) fn unreceived(&self) -> usize {
        self.blobs.iter().filter(|blob| !blob.received).count()
    }

    /// A blob was verified, and is in the store.
    pub(super) fn stored(&mut self, blob: usize) {
        if let Some(blob) = self.blobs.get_mut(blob) {
            blob.stored = true;
        }
    }

    /// Whether every blob is in the store. One that was only received may yet be wrong, and then
    /// has to be fetched again.
    pub(super) fn is_done(&self) -> bool {
        self.blobs.iter().all(|blob| blob.stored)
    }

    /// The next piece for a worker; `None` if it has its share, or there is nothing to do now.
    pub(super) fn take(&mut self, worker: usize, now: Instant) -> Option<Piece> {
        // The first workers get what cannot be shared evenly, so that one connection stays with one
        // worker, which keeps it.
        let working = self.busy.iter().flatten().count().max(1);
        let before = self.busy.iter().take(worker).flatten().count().min(working - 1);
        let share = (self.target + working - 1 - before) / working;
        let share = share.min(self.most.get(worker).copied().unwrap_or(0));
        let busy = self.busy.get(worker).copied().flatten();
        let ceiling = self.ceiling.filter(|(_, until)| now < *until).map(|(most, _)| most);
        if self.over
            || self.busy() >= ceiling.map_or(self.target, |most| most.min(self.target))
            || busy.is_none_or(|busy| busy >= share)
        {
            return None;
        }
        let index = self.choose(now)?;
        let piece = self.cut(index)?;
        if let Some(Some(busy)) = self.busy.get_mut(worker) {
            *busy += 1;
        }
        Some(piece)
    }

    /// Which blob gets the next connection: one that lost its only one, then one that has not
    /// started, then the one of which most is missing.
    fn choose(&self, now: Instant) -> Option<usize> {
        let offering = |index: &usize| self.blobs[*index].offers_a_piece(self.spread, now);
        let all = || (0..self.blobs.len()).filter(offering);
        let underway = self.blobs.iter().filter(|blob| blob.started && !blob.received).count();
        // Those that are being verified have their files open, too: a disk slower than the network
        // must not let them pile up.
        let open = self.blobs.iter().filter(|blob| blob.started && !blob.stored).count();
        let one_more = underway < self.jobs && open < 2 * self.jobs;
        all()
            .find(|&index| self.blobs[index].started && self.blobs[index].in_flight == 0)
            .or_else(|| all().find(|&index| one_more && !self.blobs[index].started))
            .or_else(|| {
                all()
                    .filter(|&index| self.blobs[index].started)
                    .max_by_key(|&index| self.blobs[index].missing_size())
            })
    }

    /// Takes the next piece out of what is missing of a blob.
    fn cut(&mut self, index: usize) -> Option<Piece> {
        let size_wanted = self.piece_size(index);
        let least = self.least_piece();
        let blob = self.blobs.get_mut(index)?;
        let (failures, number) = (blob.failures, self.taken);
        self.taken += 1;
        let Gap { range: mut gap, past } = blob.missing.pop_front()?;
        let piece = |range, form| Piece {
            blob: index,
            range,
            form,
            past,
            peer: None,
            number,
            flows: false,
            failures,
        };
        blob.started = true;
        blob.in_flight += 1;
        if blob.ranges == Ranges::Useless {
            gap.end = blob.missing.drain(..).next_back().map_or(gap.end, |last| last.range.end);
            return Some(piece(gap, Form::Whole));
        }
        // A rest that is hardly worth a request of its own comes along.
        let end = match gap.end - gap.start {
            rest if rest <= size_wanted.saturating_add(least / 2) => gap.end,
            _ => gap.start + size_wanted,
        };
        if end < gap.end {
            blob.missing.push_front(Gap { range: end..gap.end, past });
        }
        let range = gap.start..end;
        let is_all = range == (0..blob.size);
        let form = match is_all && (blob.size <= WHOLE_SIZE_MAX || blob.ranges == Ranges::OneStream)
        {
            true => Form::Whole,
            false => Form::Range,
        };
        Some(piece(range, form))
    }

    /// How large the next piece of a blob should be: what a connection receives in
    /// [`PIECE_TIME`], but so little that all the blob's connections end together.
    fn piece_size(&self, index: usize) -> u64 {
        if self.blobs.get(index).is_some_and(|blob| blob.ranges == Ranges::OneStream) {
            return u64::MAX;
        }
        let connections = (self.target / self.unreceived().max(1)).max(1) as u64;
        let wanted = match self.rate {
            None => self.pieces.first,
            // Alone, a connection needs no end of its own: what is left can be split at any time.
            Some(rate) if connections == 1 => {
                rate.saturating_mul(PIECE_TIME.as_secs()).max(self.pieces.first)
            }
            Some(rate) => rate.saturating_mul(PIECE_TIME.as_secs()),
        };
        let fair = match (self.blobs.get(index), connections) {
            (Some(blob), 2..) => blob.missing_size() / (2 * connections),
            _ => u64::MAX,
        };
        wanted.min(fair).max(self.least_piece())
    }

    /// The smallest piece that is worth a request.
    fn least_piece(&self) -> u64 {
        let most = self.pieces.least;
        match self.rate {
            None => most,
            Some(rate) => (rate / PIECE_TIME_MIN_PART).max(PIECE_SIZE_SLOW_MIN).min(most),
        }
    }

    /// A range of the blob was answered as it was asked for: more connections may have some.
    pub(super) fn ranges_are_honoured(&mut self, blob: usize) {
        if let Some(blob) = self.blobs.get_mut(blob)
            && blob.ranges == Ranges::Unknown
        {
            blob.ranges = Ranges::Honoured;
        }
    }

    /// The server answered a range with the whole blob: `piece` now covers all that is missing of
    /// it. `false` if that cannot be, because other pieces are under way.
    pub(super) fn widen_to_the_whole(&mut self, piece: &mut Piece) -> bool {
        let Some(blob) = self.blobs.get_mut(piece.blob) else { return false };
        blob.ranges = Ranges::Useless;
        let alone = blob.in_flight == 1;
        if alone {
            // Pieces are taken from the front, but one before this one may have failed meanwhile.
            let first = blob.missing.drain(..).next();
            let first = first.map_or(piece.range.start, |gap| gap.range.start);
            piece.range = first.min(piece.range.start)..blob.size;
        }
        alone
    }

    /// A piece was received whole, at this rate. Whether the blob is whole by that.
    pub(super) fn received(
        &mut self,
        worker: usize,
        piece: &Piece,
        took: Duration,
        now: Instant,
    ) -> bool {
        self.release(worker, piece);
        self.shortages = 0;
        let size = piece.range.end - piece.range.start;
        self.watch.finished(size, took, now);
        if size >= self.pieces.least && !self.rate_is_measured {
            let rate = crate::report::format::per_second(size, took);
            self.rate = Some(self.rate.map_or(rate, |known| u64::midpoint(known, rate)));
        }
        let Some(blob) = self.blobs.get_mut(piece.blob) else { return false };
        blob.attempts.progressed(size);
        blob.arrived += size;
        blob.in_flight -= 1;
        blob.received = blob.in_flight == 0 && blob.missing.is_empty();
        blob.received
    }

    /// A piece failed; `left` is what of it was not received. What follows for the blob.
    pub(super) fn failed(
        &mut self,
        worker: usize,
        piece: &Piece,
        left: Vec<Range<u64>>,
        mut failure: Failure,
        jitter: f64,
        now: Instant,
    ) -> Verdict {
        self.release(worker, piece);
        let underway = self.watch.received(piece.blob);
        let Some(blob) = self.blobs.get_mut(piece.blob) else { return Verdict::GiveUp };
        blob.in_flight -= 1;
        blob.arrived += failure.received;
        let past = match is_slowness(failure.class) {
            true => Past { afresh: true, avoid: piece.peer, ..piece.past },
            false => Past { replaced: piece.past.replaced, ..Past::default() },
        };
        blob.put_back(left, past);
        if matches!(failure.class, Class::Range | Class::Framing | Class::Size) {
            blob.ranges = Ranges::Useless;
        }
        let verdict = match piece.failures == blob.failures {
            true => {
                blob.failures += 1;
                // What other pieces of the blob received meanwhile is progress as well.
                let arrived = blob.arrived + underway;
                let since = arrived.saturating_sub(blob.arrived_before);
                failure.beside = since.saturating_sub(failure.received);
                blob.arrived_before = arrived;
                blob.attempts.after(failure, jitter)
            }
            false => blob.attempts.beside(failure, jitter),
        };
        self.over |= verdict == Verdict::GiveUp;
        if let Verdict::Again { pause } = verdict {
            blob.not_before = blob.not_before.max(now.checked_add(pause));
            if failure.retry_after.is_some() {
                self.gate = self.gate.max(now.checked_add(pause));
            }
        }
        verdict
    }

    /// A piece's range was refused while others of its blob are under way: what is `left` is asked for
    /// with the rest, without a range, once those have ended.
    pub(super) fn range_refused(&mut self, worker: usize, piece: &Piece, left: Vec<Range<u64>>) {
        self.release(worker, piece);
        let Some(blob) = self.blobs.get_mut(piece.blob) else { return };
        blob.in_flight -= 1;
        blob.put_back(left, Past::default());
    }

    /// Whether a range of the blob was answered as it was asked for.
    pub(super) fn honours_ranges(&self, blob: usize) -> bool {
        self.blobs.get(blob).is_some_and(|blob| blob.ranges == Ranges::Honoured)
    }

    /// A piece's connection is given up because others are faster; `left` is what of it was not
    /// received.
    pub(super) fn replaced(&mut self, worker: usize, piece: &Piece, left: Vec<Range<u64>>) {
        self.release(worker, piece);
        let Some(blob) = self.blobs.get_mut(piece.blob) else { return };
        blob.in_flight -= 1;
        let size = piece.range.end - piece.range.start;
        let missing: u64 = left.iter().map(|range| range.end - range.start).sum();
        blob.arrived += size.saturating_sub(missing);
        let replaced = piece.past.replaced + 1;
        blob.put_back(left, Past { afresh: true, avoid: piece.peer, replaced });
    }

    /// A piece was not fetched because no file descriptor was left for it: that is one connection
    /// fewer for a while, and the piece is taken again later. `false`, and nothing is done, if that
    /// was so too often.
    pub(super) fn was_short(
        &mut self,
        worker: usize,
        piece: &Piece,
        left: Vec<Range<u64>>,
        now: Instant,
    ) -> bool {
        if self.shortages >= DESCRIPTORS_TRIES_MAX {
            return false;
        }
        self.shortages += 1;
        self.release(worker, piece);
        self.ceiling = now.checked_add(DESCRIPTORS_REST).map(|until| (self.busy().max(1), until));
        if let Some(blob) = self.blobs.get_mut(piece.blob) {
            blob.in_flight -= 1;
            blob.put_back(left, piece.past);
            blob.not_before = blob.not_before.max(now.checked_add(DESCRIPTORS_PAUSE));
        }
        true
    }

    /// Until when a server asks for silence.
    pub(super) fn silent_until(&self, now: Instant) -> Option<Instant> {
        self.gate.filter(|until| now < *until)
    }

    /// Whether pieces of a blob are under way.
    pub(super) fn is_underway(&self, blob: usize) -> bool {
        self.blobs.get(blob).is_some_and(|blob| blob.in_flight > 0)
    }

    /// All of a blob's bytes were received, and are not what they should be: from the first byte
    /// again, in one stream, if that was not tried already.
    pub(super) fn rejected(&mut self, blob: usize, failure: Failure, now: Instant) -> Verdict {
        let Some(blob) = self.blobs.get_mut(blob) else { return Verdict::GiveUp };
        let verdict = blob.attempts.after(failure, 0.0);
        if let Verdict::Again { pause } = verdict {
            blob.not_before = now.checked_add(pause);
            blob.missing = VecDeque::from([Gap::new(0..blob.size)]);
            blob.ranges = Ranges::OneStream;
            blob.received = false;
        }
        verdict
    }

    /// The first piece of a blob is not fetched: it is up to [`resume`](Board::resume) what is.
    pub(super) fn put_back(&mut self, worker: usize, piece: &Piece) {
        self.release(worker, piece);
        if let Some(blob) = self.blobs.get_mut(piece.blob) {
            blob.in_flight -= 1;
            // Until then nothing of it is given out.
            blob.missing.clear();
        }
    }

    /// The same; and until then it is no blob under way.
    pub(super) fn hold(&mut self, worker: usize, piece: &Piece) {
        self.put_back(worker, piece);
        if let Some(blob) = self.blobs.get_mut(piece.blob) {
            blob.started = false;
            blob.held = true;
        }
    }

    /// This is what is missing of a blob that was put back or held. Whether the blob is whole by
    /// that.
    pub(super) fn resume(&mut self, blob: usize, missing: Vec<Range<u64>>) -> bool {
        let Some(blob) = self.blobs.get_mut(blob) else { return false };
        blob.held = false;
        blob.missing = missing.into_iter().map(Gap::new).collect();
        blob.received = blob.missing.is_empty();
        blob.received
    }

    /// What an earlier process has left of a blob was not what it should be: all of it is missing.
    pub(super) fn begins_anew(&mut self, blob: usize) -> Verdict {
        if let Some(blob) = self.blobs.get_mut(blob) {
            blob.missing = VecDeque::from([Gap::new(0..blob.size)]);
            blob.ranges = Ranges::Unknown;
            blob.received = false;
        }
        Verdict::Again { pause: Duration::ZERO }
    }

    /// When there may be something to do that there is not now.
    pub(super) fn wakes_at(&self, now: Instant) -> Option<Instant> {
        let pauses = self.blobs.iter().filter(|blob| !blob.received).map(|blob| blob.not_before);
        pauses.chain([self.gate]).flatten().filter(|at| *at > now).min()
    }

    /// The number of the attempt at a blob that is under way, and of the last one allowed.
    pub(super) fn attempt(&self, blob: usize) -> (u32, u32) {
        let attempts = self.blobs.get(blob).map(|blob| &blob.attempts);
        attempts.map_or((1, 1), |attempts| (attempts.current(), attempts.allowed()))
    }

    fn release(&mut self, worker: usize, piece: &Piece) {
        self.flowing -= usize::from(piece.flows);
        self.watch.end(piece.number);
        if let Some(Some(busy)) = self.busy.get_mut(worker) {
            *busy = busy.saturating_sub(1);
        }
    }

    fn busy(&self) -> usize {
        self.busy.iter().flatten().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::PIECE_FIRST;

    const MIB: u64 = 1 << 20;

    const POLICY: Policy =
        Policy { retries: 4, max_wait: Duration::from_secs(60), slow_progress_min: 1000 };

    fn board(sizes: &[u64], target: usize) -> Board {
        let mut board = Board::new(sizes.iter().copied(), POLICY, 6, 1);
        board.set_target(target);
        board
    }

    fn failure(class: Class, received: u64) -> Failure {
        Failure { class, retry_after: None, received, beside: 0 }
    }

    #[test]
    fn small_blobs_are_one_piece_each() {
        let now = Instant::now();
        let mut board = board(&[3 * MIB, 5, 0], 2);
        let first = board.take(0, now).unwrap();
        // By a range, whose answer tells whether another connection may have a part of it.
        assert_eq!((first.range.clone(), first.form), (0..3 * MIB, Form::Range));
        let second = board.take(0, now).unwrap();
        assert_eq!((second.range, second.form), (0..5, Form::Whole));
        assert_eq!(board.take(0, now), None, "two connections are wanted");
        assert!(board.received(0, &first, Duration::from_secs(1), now));
        let empty = board.take(0, now).unwrap();
        assert_eq!(empty.range, 0..0);
    }

    #[test]
    fn blobs_that_are_being_verified_hold_new_ones_back() {
        let (mut board, now) = (board(&[1; 30], 30), Instant::now());
        for _ in 0..2 {
            let pieces: Vec<Piece> = std::iter::from_fn(|| board.take(0, now)).collect();
            assert_eq!(pieces.len(), 6);
            for piece in &pieces {
                assert!(board.received(0, piece, Duration::from_millis(1), now));
            }
        }
        assert!(board.take(0, now).is_none(), "twelve files are open");
        board.stored(3);
        assert!(board.take(0, now).is_some());
        assert!(board.take(0, now).is_none());
    }

    #[test]
    fn a_large_blob_is_shared_only_once_ranges_are_known_to_work() {
        let now = Instant::now();
        let mut board = board(&[1000 * MIB], 4);
        let first = board.take(0, now).unwrap();
        assert_eq!((first.range.clone(), first.form), (0..PIECE_FIRST, Form::Range));
        assert_eq!(board.take(0, now), None);
        board.ranges_are_honoured(0);
        let second = board.take(0, now).unwrap();
        assert_eq!(second.range.start, PIECE_FIRST);
        let third = board.take(0, now).unwrap();
        assert_eq!(third.range.start, second.range.end, "from the front");
    }

    #[test]
    fn the_pieces_of_a_blob_cover_it_without_overlap() {
        let now = Instant::now();
        let mut board = board(&[777 * MIB + 13], 5);
        let mut covered = 0;
        let mut waiting = VecDeque::new();
        let mut whole = false;
        while !whole {
            while let Some(piece) = board.take(0, now) {
                board.ranges_are_honoured(0);
                assert_eq!(piece.range.start, covered);
                covered = piece.range.end;
                waiting.push_back(piece);
            }
            let piece = waiting.pop_front().unwrap();
            whole = board.received(0, &piece, Duration::from_millis(100), now);
        }
        assert_eq!(covered, 777 * MIB + 13);
        assert!(!board.is_done(), "it may yet be wrong");
        board.stored(0);
        assert!(board.is_done());
    }

    #[test]
    fn a_first_piece_that_turns_out_slow_is_shared_from_its_end() {
        let mut now = Instant::now();
        for size in [12 * MIB, 300 * MIB] {
            let mut board = board(&[size], 1);
            let mut first = board.take(0, now).unwrap();
            board.flows(&mut first);
            board.ranges_are_honoured(0);
            let lane = board.receives(&first, first.range.clone(), now);
            for _ in 0..4 {
                now += Duration::from_millis(75);
                lane.take(75 << 10);
                assert!(!board.review(now), "one connection is wanted");
            }
            board.set_rate(MIB);
            let end = first.range.end;
            assert_eq!(board.left(), size - (300 << 10));
            board.set_target(8);
            assert!(board.review(now));
            assert!(lane.standing().end < end - end / 3, "its end moves");
            let mut from = lane.standing().end;
            for piece in std::iter::from_fn(|| board.take(0, now)) {
                assert_eq!((piece.range.start, piece.form), (from, Form::Range), "from the front");
                assert!(piece.range.end - from <= 2 * MIB, "{piece:?}");
                from = piece.range.end;
            }
            assert_eq!(
                (board.busy(), board.left()),
                (8, size - (300 << 10) - (from - lane.standing().end))
            );
        }
    }

    #[test]
    fn pieces_follow_what_a_connection_brings() {
        let now = Instant::now();
        for (rate, piece) in
            [(60 << 10, 256 << 10), (MIB, MIB), (5 * MIB, 5 * MIB), (100 * MIB, 100 * MIB)]
        {
            let mut board = board(&[20_000 * MIB], 16);
            let first = board.take(0, now).unwrap();
            assert_eq!(first.range, 0..PIECE_FIRST, "nothing is known");
            board.ranges_are_honoured(0);
            board.set_rate(rate);
            let second = board.take(0, now).unwrap().range;
            assert_eq!(second.end - second.start, piece);
            // A burst that one piece came in says nothing.
            board.received(0, &first, Duration::from_millis(1), now);
            let third = board.take(0, now).unwrap().range;
            assert_eq!(third.end - third.start, piece);
        }
    }

    #[test]
    fn what_a_failed_piece_left_is_asked_for_next() {
        let now = Instant::now();
        let mut board = board(&[100 * MIB], 1);
        let piece = board.take(0, now).unwrap();
        let left = vec![5..piece.range.end];
        let verdict = board.failed(0, &piece, left, failure(Class::Truncated, 5), 1.0, now);
        assert_eq!(verdict, Verdict::Again { pause: Duration::ZERO }, "it brought something");
        let again = board.take(0, now).unwrap();
        assert_eq!((again.range.start, again.form), (5, Form::Range));
        let left = vec![again.range.clone()];
        let verdict = board.failed(0, &again, left, failure(Class::Truncated, 0), 1.0, now);
        let Verdict::Again { pause } = verdict else { panic!("{verdict:?}") };
        assert_eq!((board.take(0, now), pause.is_zero()), (None, false));
        assert_eq!(board.wakes_at(now), Some(now + pause));
        assert_eq!(board.take(0, now + pause).unwrap().range.start, 5);
    }

    #[test]
    fn a_server_that_lies_about_ranges_is_asked_for_one_stream() {
        let now = Instant::now();
        let mut board = board(&[100 * MIB], 3);
        let first = board.take(0, now).unwrap();
        board.ranges_are_honoured(0);
        let second = board.take(0, now).unwrap();
        let range = failure(Class::Range, 0);
        let left = vec![second.range.clone()];
        board.failed(0, &second, left, range, 1.0, now);
        let later = now + Duration::from_secs(60);
        assert_eq!(board.take(0, later), None, "the first is still under way");
        assert!(!board.received(0, &first, Duration::from_secs(1), now));
        let stream = board.take(0, later).unwrap();
        assert_eq!((stream.range, stream.form), (first.range.end..100 * MIB, Form::Whole));
        assert_eq!(board.take(0, later), None);
    }

    #[test]
    fn a_large_blob_is_shared_only_where_that_is_wanted() {
        let now = Instant::now();
        let mut board = board(&[100 * MIB], 3);
        board.spread(false);
        let first = board.take(0, now).unwrap();
        board.ranges_are_honoured(0);
        assert_eq!(board.take(0, now), None);
        board.received(0, &first, Duration::from_secs(1), now);
        assert!(board.take(0, now).is_some() && board.take(0, now).is_none());
        board.spread(true);
        assert!(board.take(0, now).is_some());
    }

    #[test]
    fn a_whole_blob_in_place_of_its_first_range_is_taken() {
        let now = Instant::now();
        let mut board = board(&[100 * MIB], 3);
        let mut piece = board.take(0, now).unwrap();
        assert!(board.widen_to_the_whole(&mut piece));
        assert_eq!(piece.range, 0..100 * MIB);
        assert_eq!(board.take(0, now), None);
        assert!(board.received(0, &piece, Duration::from_secs(1), now));
    }

    /// A board with one blob of 100 MiB, of which so many pieces are under way.
    fn underway(count: usize) -> (Board, Vec<Piece>) {
        let now = Instant::now();
        let mut board = board(&[100 * MIB], count);
        let mut pieces = vec![board.take(0, now).unwrap()];
        board.ranges_are_honoured(0);
        pieces.extend(std::iter::from_fn(|| board.take(0, now)));
        assert_eq!(pieces.len(), count);
        (board, pieces)
    }

    #[test]
    fn the_whole_is_taken_with_what_a_piece_before_it_left() {
        let (mut board, mut pieces) = underway(2);
        let now = Instant::now();
        let left = vec![5..pieces[0].range.end];
        board.failed(0, &pieces[0], left, failure(Class::Truncated, 5), 1.0, now);
        assert!(board.widen_to_the_whole(&mut pieces[1]));
        assert_eq!(pieces[1].range, 5..100 * MIB);
        assert!(board.received(0, &pieces[1], Duration::from_secs(1), now));
    }

    #[test]
    fn what_breaks_all_connections_of_a_blob_is_one_failure() {
        for class in [Class::Truncated, Class::Range, Class::Connect] {
            let (mut board, pieces) = underway(8);
            let now = Instant::now();
            for piece in &pieces {
                let left = vec![piece.range.clone()];
                let verdict = board.failed(0, piece, left, failure(class, 0), 1.0, now);
                let pause = Duration::from_millis(500);
                assert_eq!(verdict, Verdict::Again { pause }, "{class:?}");
            }
            assert_eq!(board.attempt(0), (2, 5));
            assert_eq!(board.wakes_at(now), Some(now + Duration::from_millis(500)));
        }
    }

    #[test]
    fn what_is_final_is_so_for_each_piece() {
        let (mut board, pieces) = underway(2);
        let now = Instant::now();
        let mut fail = |piece: &Piece, class| {
            board.failed(0, piece, vec![piece.range.clone()], failure(class, 0), 1.0, now)
        };
        fail(&pieces[0], Class::Truncated);
        assert_eq!(fail(&pieces[1], Class::NotFound), Verdict::GiveUp);
    }

    #[test]
    fn pieces_that_arrive_are_progress_too() {
        let (mut board, mut pieces) = underway(2);
        let mut now = Instant::now();
        for _ in 0..10 {
            let piece = pieces.pop().unwrap();
            let left = vec![piece.range.clone()];
            let verdict = board.failed(0, &piece, left, failure(Class::Connect, 0), 1.0, now);
            assert_eq!(verdict, Verdict::Again { pause: Duration::from_millis(500) });
            board.received(0, &pieces.pop().unwrap(), Duration::from_secs(1), now);
            now += Duration::from_secs(1);
            pieces.extend(std::iter::from_fn(|| board.take(0, now)));
        }
    }

    #[test]
    fn after_a_final_failure_nothing_is_begun() {
        let now = Instant::now();
        let mut board = board(&[5, 4, 3], 2);
        let piece = board.take(0, now).unwrap();
        let verdict = board.failed(0, &piece, vec![0..5], failure(Class::NotFound, 0), 1.0, now);
        assert_eq!((verdict, board.take(0, now)), (Verdict::GiveUp, None));
    }

    #[test]
    fn wrong_content_is_fetched_once_more_in_one_stream() {
        let now = Instant::now();
        let mut board = board(&[100 * MIB], 3);
        let mut piece = board.take(0, now).unwrap();
        board.widen_to_the_whole(&mut piece);
        assert!(board.received(0, &piece, Duration::from_secs(1), now));
        let digest = failure(Class::Digest, 0);
        assert!(matches!(board.rejected(0, digest, now), Verdict::Again { .. }));
        let again = board.take(0, now + Duration::from_secs(60)).unwrap();
        assert_eq!((again.range.clone(), again.form), (0..100 * MIB, Form::Whole));
        assert!(board.received(0, &again, Duration::from_secs(1), now));
        assert_eq!(board.rejected(0, digest, now), Verdict::GiveUp);
    }

    #[test]
    fn of_a_blob_that_is_gone_on_with_only_the_gaps_are_given_out() {
        let now = Instant::now();
        let mut board = board(&[100 * MIB, 5], 3);
        let piece = board.take(0, now).unwrap();
        board.put_back(0, &piece);
        assert!(!board.resume(0, vec![10 * MIB..12 * MIB, 99 * MIB..100 * MIB]));
        let first = board.take(0, now).unwrap();
        assert_eq!((first.range.clone(), first.form), (10 * MIB..12 * MIB, Form::Range));
        board.ranges_are_honoured(0);
        // The other blob has not started.
        assert_eq!(board.take(0, now).unwrap().blob, 1);
        let second = board.take(0, now).unwrap();
        assert_eq!(second.range, 99 * MIB..100 * MIB);
        assert!(!board.received(0, &first, Duration::from_secs(1), now));
        assert!(board.received(0, &second, Duration::from_secs(1), now));
    }

    #[test]
    fn a_blob_of_which_nothing_is_missing_is_whole() {
        let mut board = board(&[100 * MIB], 1);
        let piece = board.take(0, Instant::now()).unwrap();
        board.put_back(0, &piece);
        assert!(board.resume(0, Vec::new()));
        assert!(!board.is_done(), "it may yet be wrong");
    }

    #[test]
    fn a_blob_that_another_process_fetches_takes_no_connection_and_no_turn() {
        let now = Instant::now();
        let mut board = Board::new([9, 8, 7], POLICY, 1, 1);
        board.set_target(1);
        let piece = board.take(0, now).unwrap();
        board.hold(0, &piece);
        let next = board.take(0, now).unwrap();
        assert_eq!(next.blob, 1, "one at a time, and not that one");
        assert!(board.received(0, &next, Duration::from_secs(1), now));
        board.stored(1);
        assert!(!board.resume(0, vec![4..9]));
        assert_eq!(board.take(0, now).unwrap().range, 4..9);
    }

    #[test]
    fn what_was_left_behind_and_is_wrong_is_no_failure() {
        let now = Instant::now();
        let mut board = board(&[100 * MIB], 4);
        let piece = board.take(0, now).unwrap();
        board.put_back(0, &piece);
        board.resume(0, Vec::new());
        let pause = Duration::ZERO;
        assert_eq!(board.begins_anew(0), Verdict::Again { pause });
        assert_eq!(board.attempt(0), (1, 5));
        let again = board.take(0, now).unwrap();
        assert_eq!(again.range.start, 0);
        assert_eq!(board.take(0, now), None, "until it has a writer");
    }

    #[test]
    fn a_server_that_asks_for_silence_holds_back_the_blob_it_refused() {
        let now = Instant::now();
        let mut board = board(&[5, 4, 3], 3);
        let piece = board.take(0, now).unwrap();
        let asked =
            Failure { retry_after: Some(Duration::from_secs(7)), ..failure(Class::RateLimited, 0) };
        board.failed(0, &piece, vec![0..5], asked, 1.0, now);
        // Others may be at another server: `client` keeps them from the one that is silent.
        let soon = now + Duration::from_secs(6);
        assert_eq!([(); 2].map(|()| board.take(0, soon).unwrap().blob), [1, 2]);
        assert_eq!(board.take(0, soon), None);
        assert_eq!(board.take(0, now + Duration::from_secs(7)).unwrap().blob, 0);
    }

    #[test]
    fn the_share_of_a_worker_that_could_not_start_goes_to_the_others() {
        let now = Instant::now();
        let mut board = Board::new([9, 8, 7, 6], POLICY, 6, 3);
        board.set_target(2);
        assert!(board.retire(0));
        assert!(board.take(0, now).is_none());
        assert!(board.take(1, now).is_some() && board.take(1, now).is_none());
        assert!(board.retire(2));
        assert!(board.take(1, now).is_some());
        assert!(!board.retire(1), "nobody is left");
    }

    #[test]
    fn a_worker_gets_no_more_than_it_can_have() {
        let now = Instant::now();
        let mut board = Board::new([9, 8, 7, 6], POLICY, 6, 2);
        board.set_target(4);
        board.bound(0, 1);
        assert!(board.take(0, now).is_some() && board.take(0, now).is_none());
        assert!(board.take(1, now).is_some() && board.take(1, now).is_some());
    }

    #[test]
    fn without_a_descriptor_there_is_one_connection_fewer_for_a_while() {
        let mut now = Instant::now();
        let mut board = board(&[9, 8, 7], 3);
        let pieces: Vec<Piece> = std::iter::from_fn(|| board.take(0, now)).collect();
        assert_eq!(pieces.len(), 3);
        assert!(board.was_short(0, &pieces[2], vec![0..7], now));
        assert_eq!(board.attempt(2), (1, 5), "no failure of the blob");
        now += DESCRIPTORS_PAUSE;
        assert_eq!(board.take(0, now), None, "two are busy");
        assert!(board.received(0, &pieces[0], Duration::from_secs(1), now));
        let again = board.take(0, now).unwrap();
        assert_eq!((again.blob, again.range.clone()), (2, 0..7));
        assert!(board.was_short(0, &again, vec![3..7], now));
        now += DESCRIPTORS_REST;
        assert_eq!(board.take(0, now).unwrap().range, 3..7, "and then they may be as many again");
    }

    #[test]
    fn a_descriptor_is_not_waited_for_without_an_end() {
        let mut now = Instant::now();
        let mut board = board(&[9], 1);
        for _ in 0..DESCRIPTORS_TRIES_MAX {
            let piece = board.take(0, now).unwrap();
            assert!(board.was_short(0, &piece, vec![0..9], now));
            assert_eq!(board.wakes_at(now), Some(now + DESCRIPTORS_PAUSE));
            now += DESCRIPTORS_PAUSE;
        }
        let piece = board.take(0, now).unwrap();
        assert!(!board.was_short(0, &piece, vec![0..9], now));
    }

    #[test]
    fn workers_get_equal_shares() {
        let now = Instant::now();
        let mut board = Board::new([9, 8, 7, 6], POLICY, 6, 2);
        board.set_target(3);
        assert!(board.take(0, now).is_some() && board.take(0, now).is_some());
        assert!(board.take(0, now).is_none());
        assert!(board.take(1, now).is_some());
        assert!(board.take(1, now).is_none());
    }
}
