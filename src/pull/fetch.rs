//! The pieces of blobs, from a request to verified bytes in the store.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::runtime::{Handle, RuntimeMetrics};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::task::JoinHandle;

use super::board::{Board, Form, Piece};
use super::claim;
use super::error::{Cause, Error, Object};
use super::executor::Executor;
use super::lane::{Lane, Taken};
use super::replace::Slow;
use super::retry::{Failure, Verdict};
use super::throttle::Throttle;
use super::tuner::Tuner;
use super::{Context, Job};
use crate::client::{self, Answer, Client, Question};
use crate::error::{Class, Retry};
use crate::http::{self, ByteRange, RangeError};
use crate::limits::{FOLLOW_SIZE_MIN, HASH_BEHIND_MAX, WRITER_PATIENCE, WRITER_PAUSE};
use crate::origin::Origin;
use crate::registry::{Asked, request};
use crate::report::{WaitedFor, format};
use crate::store::{BlobWriter, Blocks, StoreError, Stream, Written};
use crate::transport::clock;

/// All that the workers of a pull share.
pub(super) struct Fetch {
    pub(super) context: Arc<Context>,
    /// In the order of the board.
    jobs: Vec<Job>,
    board: Mutex<Board>,
    tuner: Mutex<Tuner>,
    throttle: Option<Throttle>,
    /// Tells of changes after which there may be something to do for others.
    changed: Notify,
    pub(super) executor: Executor,
    /// Memory of what is written past the page cache.
    blocks: Arc<Blocks>,
    /// Of the runtimes of the workers that have one of their own.
    runtimes: Mutex<Vec<RuntimeMetrics>>,
    /// No thread may begin to hash any more.
    closed: AtomicBool,
}

/// Where a blob under way is written.
#[derive(Default)]
pub(super) struct Slot {
    pub(super) writer: Option<Arc<BlobWriter>>,
    /// The thread that hashes it, if that is not done by those who write it.
    pub(super) follower: Option<JoinHandle<Result<(), StoreError>>>,
    /// The thread that writes its blocks, if it has any.
    pub(super) direct: Option<JoinHandle<()>>,
    /// The thread that waits for the disk meanwhile.
    pub(super) sync: Option<JoinHandle<()>>,
    /// How much of it an earlier process has written, in bytes.
    pub(super) resumed: u64,
    /// What an earlier process had written was wrong, and was thrown away.
    begun_anew: bool,
}

impl Fetch {
    pub(super) fn new(
        context: Arc<Context>,
        jobs: Vec<Job>,
        board: Board,
        tuner: Tuner,
        throttle: Option<Throttle>,
        executor: Executor,
        blocks: Arc<Blocks>,
    ) -> Fetch {
        let (board, tuner) = (Mutex::new(board), Mutex::new(tuner));
        let fetch = Fetch {
            context,
            jobs,
            board,
            tuner,
            throttle,
            changed: Notify::new(),
            executor,
            blocks,
            runtimes: Mutex::default(),
            closed: AtomicBool::new(false),
        };
        fetch.board().set_target(fetch.tuner().target());
        fetch
    }

    pub(super) fn jobs(&self) -> &[Job] {
        &self.jobs
    }

    pub(super) fn board(&self) -> MutexGuard<'_, Board> {
        lock(&self.board)
    }

    pub(super) fn tuner(&self) -> MutexGuard<'_, Tuner> {
        lock(&self.tuner)
    }

    /// A worker runs on the runtime of this thread.
    pub(super) fn runs_here(&self) {
        if let Executor::Threads(_) = self.executor {
            lock(&self.runtimes).push(Handle::current().metrics());
        }
    }

    /// How long the workers had something to do, all together and by the clock on the wall: with the
    /// time that others had their core.
    pub(super) fn busy_time(&self) -> Duration {
        // Each is a runtime of one thread.
        lock(&self.runtimes).iter().map(|runtime| runtime.worker_total_busy_duration(0)).sum()
    }

    /// Tells all workers to look at the board again.
    pub(super) fn tell(&self) {
        self.changed.notify_waiters();
    }

    /// Ends with the next change after this call, whenever it is awaited first.
    pub(super) fn change(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Gives threads of their own to the hashing of large blobs, as long as there are fewer blobs
    /// under way than cores.
    pub(super) fn use_idle_cores(&self, cores: usize) {
        let underway: Vec<&Job> =
            self.jobs.iter().filter(|job| lock(&job.slot).writer.is_some()).collect();
        if underway.len() >= cores || underway.len() < self.board().unreceived() {
            return;
        }
        for job in underway {
            let left = |writer: &Arc<BlobWriter>| job.descriptor.size - writer.hashed();
            let large = lock(&job.slot).writer.as_ref().is_some_and(|w| left(w) >= FOLLOW_SIZE_MIN);
            if large {
                self.follow(job);
            }
        }
    }

    /// Gives a blob that is begun its writer; if it is large, threads write past the page cache and hash
    /// what the connections bring.
    pub(super) fn begin(&self, job: &Job, writer: BlobWriter) -> Arc<BlobWriter> {
        let writer = Arc::new(writer);
        let mut slot = lock(&job.slot);
        slot.resumed = writer.written();
        slot.writer = Some(Arc::clone(&writer));
        // As in `follow`.
        if !self.closed.load(Ordering::Relaxed)
            && let Some(write_blocks) = Arc::clone(&writer).take_blocks()
        {
            slot.direct = self.executor.beside(write_blocks);
        }
        let direct = slot.direct.is_some();
        drop(slot);
        if direct && self.executor.cores() > 1 {
            self.follow(job);
        }
        writer
    }

    /// Leaves the hashing of a blob to a thread of its own, while bytes of it are still missing.
    pub(super) fn follow(&self, job: &Job) {
        let mut slot = lock(&job.slot);
        // Looked at under the slot's lock: whoever closes comes to this slot before or after.
        if self.closed.load(Ordering::Relaxed) {
            return;
        }
        if let Slot { writer: Some(writer), follower: None, .. } = &*slot
            && writer.taken() < job.descriptor.size
        {
            let writer = Arc::clone(writer);
            slot.follower = self.executor.beside(move || writer.follow());
        }
    }

    /// Waits until hashing has caught up with what is kept for it.
    async fn wait_for_hash(&self, job: &Job) -> Result<(), Cause> {
        let Some(writer) = lock(&job.slot).writer.clone() else { return Ok(()) };
        self.executor.block(move || writer.wait_for_hash()).await.map_err(died)
    }

    /// Ends all threads that hash, for good.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        for job in &self.jobs {
            if let Some(writer) = &lock(&job.slot).writer {
                writer.close();
            }
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while one of these is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Fetches a piece, and whatever follows from how that went.
///
/// # Errors
/// A failure that is final for the pull.
pub(super) async fn piece(
    client: &Client,
    fetch: &Fetch,
    worker: usize,
    mut piece: Piece,
) -> Result<(), Error> {
    let Some(job) = fetch.jobs.get(piece.blob) else { return Ok(()) };
    let start = clock::now();
    let outcome = match claim::writer_of(fetch, worker, job, &piece).await {
        Ok(claimed) => {
            let Some(writer) = claimed? else { return Ok(()) };
            let outcome = attempt(client, fetch, job, &writer, &mut piece).await;
            outcome.map_err(|cause| (cause, claim::gaps(&writer, &piece.range)))
        }
        Err(cause) => Err((cause, vec![piece.range.clone()])),
    };
    let received = |piece: &Piece| {
        let now = clock::now();
        fetch.board().received(worker, piece, now.saturating_duration_since(start), now)
    };
    let whole = match outcome {
        Ok(()) => received(&piece),
        // An answer that ended badly, but after its last byte: the digest will tell.
        Err((cause, left)) if left.is_empty() && is_cut_off(&cause) => received(&piece),
        Err((cause, left)) if left.is_empty() && !matches!(cause, Cause::Store(_)) => {
            // More than there should be: none of it is trusted.
            let whole = received(&piece);
            fetch.tell();
            return if whole { reject(fetch, job, piece.blob, cause) } else { Ok(()) };
        }
        Err((Cause::TooSlow(slow @ Slow::Outpaced { .. }), left)) => {
            replaced(fetch, worker, job, &piece, slow, left);
            false
        }
        Err((Cause::RangeRefused, left)) => {
            fetch.board().range_refused(worker, &piece, left);
            false
        }
        Err((cause, left)) => {
            failed(fetch, worker, job, &piece, cause, left)?;
            false
        }
    };
    fetch.tell();
    if whole { finish(fetch, job, piece.blob).await } else { Ok(()) }
}

/// Whether an answer failed by ending, rather than by what it said.
fn is_cut_off(cause: &Cause) -> bool {
    match cause {
        Cause::Client(error) => error.class().retry() == Retry::Again,
        cause => matches!(cause, Cause::TooSlow(_)),
    }
}

/// Asks for a piece and writes it down.
async fn attempt(
    client: &Client,
    fetch: &Fetch,
    job: &Job,
    writer: &BlobWriter,
    piece: &mut Piece,
) -> Result<(), Cause> {
    // Of an empty blob nothing is missing.
    let Some(range) = ByteRange::new(piece.range.start, piece.range.end) else { return Ok(()) };
    job.progress.downloading();
    let Context { endpoint, repository, .. } = &*fetch.context;
    let url = endpoint.blob_url(repository, &job.descriptor.digest).map_err(client::Error::from)?;
    let mut asked = (piece.form == Form::Range).then_some(range);
    let size = job.descriptor.size;
    let client = client.shown_by(job.progress.waiting_for());
    let answer = loop {
        let request = request::blob(url.clone(), asked);
        let question = Question { endpoint, repository, asked: Asked::Blob, request: &request };
        let answer = match piece.past.afresh {
            true => {
                let client = client.afresh(piece.past.avoid);
                job.foreign.ask(&client, &fetch.context, question).await
            }
            false => job.foreign.ask(&client, &fetch.context, question).await,
        };
        let judged = answer.and_then(|answer| Ok(judged(answer, asked, size)?));
        match (judged, asked) {
            (Ok(answer), _) => break answer,
            (Err(cause), Some(_)) if may_have_the_whole(fetch, piece, &cause) => {
                let note = format!("{cause}: the whole is asked for");
                fetch.context.reporter.note(&note);
                // Ranges are an offer, not a promise: without one, in the same attempt.
                match fetch.board().widen_to_the_whole(piece) {
                    true => asked = None,
                    false => return Err(Cause::RangeRefused),
                }
            }
            (Err(cause), _) => return Err(cause),
        }
    };
    client.waiting().begin(WaitedFor::Bytes(answer.origin.authority()));
    piece.peer = Some(answer.peer.ip());
    fetch.board().flows(piece);
    let sent = match (asked, answer.head.status()) {
        (Some(_), 206) => {
            fetch.board().ranges_are_honoured(piece.blob);
            fetch.tell();
            piece.range.clone()
        }
        // Ranges are an offer, not a promise (RFC 9110 section 14.2).
        (Some(_), _) if fetch.board().widen_to_the_whole(piece) => 0..size,
        (Some(_), _) => return Err(Cause::RangeIgnored),
        (None, 206) => return Err(Cause::RangeUnasked),
        (None, _) => 0..size,
    };
    match answer.body.remaining() {
        // A length that is announced must be the descriptor's; others are checked as they come.
        Some(length) if length != sent.end - sent.start => {
            Err(Cause::Size { expected: size, sent: length })
        }
        _ => {
            let lane = fetch.board().receives(piece, sent.clone(), clock::now());
            let mut stream = Stream::new(writer, &fetch.blocks);
            let mut outcome = tokio::select! {
                biased;
                outcome = receive(answer, fetch, job, &mut stream, sent, &piece.range, &lane) => outcome,
                // The connection is closed with what is dropped here: all it brought is written.
                slow = lane.replaced() => Err(Cause::TooSlow(slow)),
            };
            if let Err(error) = stream.flush() {
                outcome = Err(error.into());
            }
            // What was given to another connection is none of this piece any more.
            piece.range.end = piece.range.end.min(lane.close()).max(piece.range.start);
            outcome
        }
    }
}

/// The answer to a request for a range of a blob of `size` bytes, or for the whole, if its head says
/// nothing that is wrong.
fn judged(answer: Answer, asked: Option<ByteRange>, size: u64) -> Result<Answer, client::Error> {
    if let (Some(range), 206) = (asked, answer.head.status()) {
        // A range of an encoding is no range of the blob.
        answer.head.check_content_encoding().map_err(RangeError::Field)?;
        range.check(&answer.head, size)?;
    }
    answer.head.check_content_encoding()?;
    Ok(answer)
}

/// Whether the whole of a blob may be had where a range was answered so. A status that may pass, as
/// 500, is no reason to give up ranges that worked before.
fn may_have_the_whole(fetch: &Fetch, piece: &Piece, cause: &Cause) -> bool {
    let (Cause::Client(error) | Cause::ForeignFailed { source: error, .. }) = cause else {
        return false;
    };
    let may_pass = error.class().retry() == Retry::Again;
    error.refuses_range() && !(may_pass && fetch.board().honours_ranges(piece.blob))
}

/// Receives a body that holds the bytes `sent` of the blob, and writes those that are `wanted`, as
/// far as its lane goes.
async fn receive(
    mut answer: Answer,
    fetch: &Fetch,
    job: &Job,
    stream: &mut Stream<'_>,
    sent: Range<u64>,
    wanted: &Range<u64>,
    lane: &Lane,
) -> Result<(), Cause> {
    let mut at = sent.start;
    answer.body.starts_at(at);
    loop {
        let bytes = match answer.body.next().await {
            Ok(Some(bytes)) => bytes,
            Ok(None) if at == sent.end => return Ok(()),
            // The framing says that this is all.
            Ok(None) => return Err(Cause::Size { expected: job.descriptor.size, sent: at }),
            // An end without close_notify could be a cut; not so when nothing is missing.
            Err(client::Error::Http(http::Error::UncleanClose)) if at == sent.end => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let count = bytes.len();
        if bytes.len() as u64 > sent.end - at {
            return Err(Cause::Size { expected: job.descriptor.size, sent: at + count as u64 });
        }
        let Taken { used, enough } = lane.take(count);
        // Of a whole blob in place of a range, what is there already is of no use.
        let known = usize::try_from(wanted.start.saturating_sub(at)).unwrap_or(count).min(used);
        if known < used {
            let Written { new, behind, crowded } =
                stream.write(at + known as u64, &bytes[known..used])?;
            job.progress.add(new);
            fetch.context.wasted.fetch_add(count as u64 - new, Ordering::Relaxed);
            if behind > HASH_BEHIND_MAX {
                fetch.follow(job);
            }
            if crowded {
                fetch.wait_for_hash(job).await?;
            }
        } else {
            fetch.context.wasted.fetch_add(count as u64, Ordering::Relaxed);
        }
        at += count as u64;
        if enough {
            return Ok(());
        }
        if let Some(throttle) = &fetch.throttle
            && let now = clock::now()
            && let Some(until) = throttle.took(count, now)
        {
            lane.hold(now, until);
            tokio::time::sleep_until(until.into()).await;
        }
    }
}

/// Puts what is left of a piece back, to be asked for over another connection.
fn replaced(
    fetch: &Fetch,
    worker: usize,
    job: &Job,
    piece: &Piece,
    slow: Slow,
    left: Vec<Range<u64>>,
) {
    let from = left.first().map_or(piece.range.end, |range| range.start);
    fetch.board().replaced(worker, piece, left);
    let context = &*fetch.context;
    context.stalls.fetch_add(1, Ordering::Relaxed);
    let subject = context.subject(Object::Blob(job.descriptor.digest));
    let error = Error::about(&subject, Cause::TooSlow(slow));
    context.reporter.note(&format!("{error}; again from byte {from}, over a new connection"));
}

/// Puts what is left of a piece back, and decides whether the pull goes on.
fn failed(
    fetch: &Fetch,
    worker: usize,
    job: &Job,
    piece: &Piece,
    cause: Cause,
    left: Vec<Range<u64>>,
) -> Result<(), Error> {
    let context = &*fetch.context;
    let mut board = fetch.board();
    let (attempt, allowed) = board.attempt(piece.blob);
    let error = described(context, job, cause, attempt, allowed);
    if error.is_short_of_descriptors() && board.was_short(worker, piece, left.clone(), clock::now())
    {
        context.reporter.note(&format!("{error}; again later, with a connection fewer"));
        return Ok(());
    }
    let class = error.class();
    let missing: u64 = left.iter().map(|range| range.end - range.start).sum();
    let received = (piece.range.end - piece.range.start).saturating_sub(missing);
    let failure = Failure { class, retry_after: error.retry_after(), received, beside: 0 };
    let now = clock::now();
    let verdict = board.failed(worker, piece, left, failure, fastrand::f64(), now);
    let (attempt, _) = board.attempt(piece.blob);
    let idle = !board.is_underway(piece.blob);
    // A connection that ended after it brought something was no objection to how many there are.
    let objects = match class {
        Class::RateLimited | Class::Http5xx | Class::Connect => true,
        Class::Truncated => received == 0,
        _ => false,
    };
    if objects {
        let mut tuner = fetch.tuner();
        tuner.back_off(now);
        board.set_target(tuner.target());
    }
    drop(board);
    if matches!(class, Class::RecvTimeout | Class::TooSlow) {
        context.stalls.fetch_add(1, Ordering::Relaxed);
    }
    if let Verdict::Again { pause } = verdict
        && error.retry_after().is_some()
        && let Some(origin) = error.refused_by()
        && let Some(until) = now.checked_add(pause)
    {
        context.keep_silence(origin, until, now);
        job.progress.silent(until);
    }
    go_on(context, job, error, verdict, idle.then_some((attempt, allowed)))
}

/// Verifies and publishes a blob of which every byte was received, on another thread: waiting for
/// the disk must not keep the other connections of this one waiting.
pub(super) async fn finish(fetch: &Fetch, job: &Job, blob: usize) -> Result<(), Error> {
    job.progress.verifying();
    match commit(&fetch.executor, job).await {
        Ok(()) => {
            job.progress.complete();
            fetch.board().stored(blob);
            fetch.tell();
            Ok(())
        }
        Err(cause) => reject(fetch, job, blob, cause),
    }
}

/// Throws away a blob that is not what it should be, and decides whether the pull goes on.
fn reject(fetch: &Fetch, job: &Job, blob: usize, cause: Cause) -> Result<(), Error> {
    let context = &*fetch.context;
    let mut board = fetch.board();
    let (attempt, allowed) = board.attempt(blob);
    let error = described(context, job, cause, attempt, allowed);
    let class = error.class();
    let failure = Failure { class, retry_after: None, received: 0, beside: 0 };
    let Slot { writer, resumed, begun_anew, .. } = std::mem::take(&mut *lock(&job.slot));
    // What an earlier process has left may be to blame, and then the registry is not.
    let left_behind = resumed > 0 && class == Class::Digest;
    if left_behind && begun_anew {
        // It was removed once, and is there again: its file cannot be removed.
        drop(board);
        job.progress.failed();
        let path = context.store.partial_path(&job.descriptor.digest);
        return Err(described(context, job, StoreError::Stuck { path }.into(), attempt, allowed));
    }
    lock(&job.slot).begun_anew = begun_anew || left_behind;
    let verdict = match left_behind {
        true => board.begins_anew(blob),
        false => board.rejected(blob, failure, clock::now()),
    };
    let (attempt, _) = board.attempt(blob);
    drop(board);
    if let Some(writer) = writer {
        // Whoever still hashes it ends now.
        writer.discard();
    }
    if matches!(verdict, Verdict::Again { .. }) {
        let received = job.descriptor.size.saturating_sub(resumed);
        context.wasted.fetch_add(received, Ordering::Relaxed);
        job.progress.set(0);
    }
    let outcome = go_on(context, job, error, verdict, Some((attempt, allowed)));
    fetch.tell();
    outcome
}

pub(super) fn died(error: tokio::task::JoinError) -> Cause {
    let source = std::io::Error::other(error);
    Cause::System { what: "a thread that works on the disk died", source }
}

async fn commit(executor: &Executor, job: &Job) -> Result<(), Cause> {
    // Hashing may be far behind. Until it is done the writer stays where the end of the pull finds
    // it, and can end that.
    let (direct, follower, sync) = {
        let mut slot = lock(&job.slot);
        if let Some(writer) = &slot.writer {
            writer.take_no_blocks();
        }
        (slot.direct.take(), slot.follower.take(), slot.sync.take())
    };
    if let Some(direct) = direct {
        direct.await.map_err(died)?;
    }
    if let Some(sync) = sync {
        sync.await.map_err(died)?;
    }
    if let Some(follower) = follower {
        // It ends by itself once all is hashed.
        follower.await.map_err(died)??;
    }
    let behind = lock(&job.slot).writer.clone().filter(|w| w.hashed() < job.descriptor.size);
    if let Some(writer) = behind {
        executor.block(move || writer.catch_up()).await.map_err(died)??;
    }
    let busy = || {
        let source = std::io::Error::other("somebody else is still writing it");
        Cause::System { what: "a blob cannot be verified", source }
    };
    let mut shared = lock(&job.slot).writer.take().ok_or_else(busy)?;
    let until = clock::now() + WRITER_PATIENCE;
    let writer = loop {
        shared = match Arc::try_unwrap(shared) {
            Ok(writer) => break writer,
            // A thread that waited for it is about to go.
            Err(shared) if clock::now() < until => shared,
            Err(_) => return Err(busy()),
        };
        tokio::time::sleep(WRITER_PAUSE).await;
    };
    Ok(executor.block(move || writer.commit()).await.map_err(died)??)
}

/// A failure of a blob, with how far it got.
pub(super) fn described(
    context: &Context,
    job: &Job,
    cause: Cause,
    attempt: u32,
    allowed: u32,
) -> Error {
    let size = job.descriptor.size;
    let written = lock(&job.slot).writer.as_ref().map_or(size, |writer| writer.taken());
    Error::about(&context.subject(Object::Blob(job.descriptor.digest)), cause)
        .after_bytes(written, size)
        .in_attempt(attempt, allowed)
}

/// Says that there is another attempt, or ends the pull. `attempt`: the number of the one to come and
/// of the last one, if nothing of the blob is under way until then.
fn go_on(
    context: &Context,
    job: &Job,
    error: Error,
    verdict: Verdict,
    attempt: Option<(u32, u32)>,
) -> Result<(), Error> {
    match verdict {
        Verdict::GiveUp => {
            if let Class::Size | Class::Digest = error.class()
                && let Some(writer) = &lock(&job.slot).writer
            {
                writer.discard();
            }
            job.progress.failed();
            Err(error.given_up(context.policy, SystemTime::now()))
        }
        Verdict::Again { pause } => {
            context.retried(&error, pause);
            if let Some((attempt, allowed)) = attempt {
                job.progress.retrying(attempt, allowed, pause, &error.brief());
            }
            Ok(())
        }
    }
}

impl Context {
    /// Counts a retry, and tells of it; of a blob, only the curious: it has a state that is shown.
    pub(super) fn retried(&self, error: &Error, pause: Duration) {
        self.retries_done.fetch_add(1, Ordering::Relaxed);
        let again = match pause {
            Duration::ZERO => "at once".to_owned(),
            pause => format!("in {}", format::duration(pause)),
        };
        let text = format!("{error}; again {again}");
        match error.is_about_a_manifest() {
            true => self.reporter.status(&text),
            false => self.reporter.note(&text),
        }
    }

    /// The server at `origin` asked not to be asked anything before `until`: whoever is about to waits.
    pub(super) fn keep_silence(&self, origin: &Origin, until: Instant, now: Instant) {
        if self.session.keep_silence(origin, until) {
            let left = format::countdown(until.saturating_duration_since(now));
            let who = self.name_of(origin);
            self.reporter.status(&format!("{who} asks for silence: {left} left"));
        }
    }

    /// What a user calls a server: the registry as in the reference, any other by its address.
    pub(super) fn name_of(&self, origin: &Origin) -> String {
        match *origin == self.endpoint.origin() {
            true => self.registry.clone(),
            false => origin.authority(),
        }
    }
}
