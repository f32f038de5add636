//! The pieces of blobs, from a request to verified bytes in the store.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::task::JoinHandle;

use super::board::{Board, Form, Piece};
use super::error::{Cause, Error, Object};
use super::executor::Executor;
use super::retry::{Failure, Verdict};
use super::throttle::Throttle;
use super::tuner::Tuner;
use super::{Context, Job};
use crate::client::{self, Answer, Client, Question};
use crate::error::{Class, Retry};
use crate::http::{self, ByteRange};
use crate::limits::{FOLLOW_SIZE_MIN, HASH_BEHIND_MAX};
use crate::registry::{Asked, request};
use crate::store::{BlobWriter, StoreError, Written};
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
    /// No thread may begin to hash any more.
    closed: AtomicBool,
}

/// Where a blob under way is written.
#[derive(Default)]
pub(super) struct Slot {
    writer: Option<Arc<BlobWriter>>,
    /// The thread that hashes it, if that is not done by those who write it.
    follower: Option<JoinHandle<Result<(), StoreError>>>,
}

impl Fetch {
    pub(super) fn new(
        context: Arc<Context>,
        jobs: Vec<Job>,
        board: Board,
        tuner: Tuner,
        throttle: Option<Throttle>,
        executor: Executor,
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
            closed: AtomicBool::new(false),
        };
        fetch.board().set_target(fetch.tuner().target());
        fetch
    }

    pub(super) fn board(&self) -> MutexGuard<'_, Board> {
        lock(&self.board)
    }

    pub(super) fn tuner(&self) -> MutexGuard<'_, Tuner> {
        lock(&self.tuner)
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

    /// Leaves the hashing of a blob to a thread of its own, while bytes of it are still missing.
    fn follow(&self, job: &Job) {
        let mut slot = lock(&job.slot);
        // Looked at under the slot's lock: whoever closes comes to this slot before or after.
        if self.closed.load(Ordering::Relaxed) {
            return;
        }
        if let Slot { writer: Some(writer), follower: None } = &*slot
            && writer.written() < job.descriptor.size
        {
            let writer = Arc::clone(writer);
            slot.follower = self.executor.beside(move || writer.follow());
        }
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
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
    let outcome = match writer_of(fetch, job) {
        Ok(writer) => {
            let outcome = attempt(client, fetch, job, &writer, &mut piece).await;
            outcome.map_err(|cause| (cause, gaps(&writer, &piece.range)))
        }
        Err(error) => Err((error.into(), vec![piece.range.clone()])),
    };
    let took = clock::now().saturating_duration_since(start);
    let whole = match outcome {
        Ok(()) => fetch.board().received(worker, &piece, took),
        // An answer that ended badly, but after its last byte: the digest will tell.
        Err((cause, left)) if left.is_empty() && is_cut_off(&cause) => {
            fetch.board().received(worker, &piece, took)
        }
        Err((cause, left)) if left.is_empty() => {
            // More than there should be: none of it is trusted.
            let whole = fetch.board().received(worker, &piece, took);
            fetch.tell();
            return if whole { reject(fetch, job, piece.blob, cause) } else { Ok(()) };
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
    matches!(cause, Cause::Client(error) if error.class().retry() == Retry::Again)
}

/// The writer of a blob; made for its first piece, when no other can be under way.
fn writer_of(fetch: &Fetch, job: &Job) -> Result<Arc<BlobWriter>, StoreError> {
    let mut slot = lock(&job.slot);
    if let Some(writer) = &slot.writer {
        return Ok(Arc::clone(writer));
    }
    let writer = Arc::new(fetch.context.store.begin(&job.descriptor)?);
    slot.writer = Some(Arc::clone(&writer));
    Ok(writer)
}

/// What of a range is not written.
fn gaps(writer: &BlobWriter, range: &Range<u64>) -> Vec<Range<u64>> {
    let mut gaps = Vec::new();
    let mut from = range.start;
    while let Some(gap) = writer.first_missing(from..range.end) {
        from = gap.end;
        gaps.push(gap);
    }
    gaps
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
    let asked = (piece.form == Form::Range).then_some(range);
    let request = request::blob(url, asked);
    let question = Question { endpoint, repository, asked: Asked::Blob, request: &request };
    let answer = client.ask(question).await?;
    fetch.board().flows(piece);
    answer.head.check_content_encoding().map_err(client::Error::from)?;
    let size = job.descriptor.size;
    let sent = match (asked, answer.head.status()) {
        (Some(range), 206) => {
            range.check(&answer.head, size).map_err(client::Error::from)?;
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
        _ => receive(answer, fetch, job, writer, sent, &piece.range).await,
    }
}

/// Receives a body that holds the bytes `sent` of the blob, and writes those that are `wanted`.
async fn receive(
    mut answer: Answer,
    fetch: &Fetch,
    job: &Job,
    writer: &BlobWriter,
    sent: Range<u64>,
    wanted: &Range<u64>,
) -> Result<(), Cause> {
    let mut at = sent.start;
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
        // Of a whole blob in place of a range, what is there already is of no use.
        let known = usize::try_from(wanted.start.saturating_sub(at)).unwrap_or(count).min(count);
        if known < count {
            let Written { new, behind } = writer.write_at(at + known as u64, &bytes[known..])?;
            job.progress.add(new);
            fetch.context.wasted.fetch_add(count as u64 - new, Ordering::Relaxed);
            if behind > HASH_BEHIND_MAX {
                fetch.follow(job);
            }
        } else {
            fetch.context.wasted.fetch_add(count as u64, Ordering::Relaxed);
        }
        at += count as u64;
        if let Some(throttle) = &fetch.throttle
            && let Some(until) = throttle.took(count, clock::now())
        {
            tokio::time::sleep_until(until.into()).await;
        }
    }
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
    let class = error.class();
    let missing: u64 = left.iter().map(|range| range.end - range.start).sum();
    let received = (piece.range.end - piece.range.start).saturating_sub(missing);
    let failure = Failure { class, retry_after: error.retry_after(), received };
    let now = clock::now();
    let verdict = board.failed(worker, piece, left, failure, fastrand::f64(), now);
    let (attempt, _) = board.attempt(piece.blob);
    if matches!(class, Class::RateLimited | Class::Http5xx | Class::Truncated | Class::Connect) {
        let mut tuner = fetch.tuner();
        tuner.back_off(now);
        board.set_target(tuner.target());
    }
    drop(board);
    if class == Class::RecvTimeout {
        context.stalls.fetch_add(1, Ordering::Relaxed);
    }
    go_on(context, job, error, verdict, (attempt, allowed))
}

/// Verifies and publishes a blob of which every byte was received, on another thread: waiting for
/// the disk must not keep the other connections of this one waiting.
async fn finish(fetch: &Fetch, job: &Job, blob: usize) -> Result<(), Error> {
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
    let failure = Failure { class: error.class(), retry_after: None, received: 0 };
    let verdict = board.rejected(blob, failure, clock::now());
    let (attempt, _) = board.attempt(blob);
    drop(board);
    if let Some(writer) = std::mem::take(&mut *lock(&job.slot)).writer {
        // Its file goes with the last who has it: a thread that hashes ends now.
        writer.close();
    }
    if matches!(verdict, Verdict::Again { .. }) {
        context.wasted.fetch_add(job.descriptor.size, Ordering::Relaxed);
        job.progress.set(0);
    }
    let outcome = go_on(context, job, error, verdict, (attempt, allowed));
    fetch.tell();
    outcome
}

async fn commit(executor: &Executor, job: &Job) -> Result<(), Cause> {
    let died = |error: tokio::task::JoinError| {
        let source = std::io::Error::other(error);
        Cause::System { what: "a thread that works on the disk died", source }
    };
    // Hashing may be far behind. Until it is done the writer stays where the end of the pull finds
    // it, and can end that.
    let follower = lock(&job.slot).follower.take();
    if let Some(follower) = follower {
        // It ends by itself once all is hashed.
        follower.await.map_err(died)??;
    }
    let behind = lock(&job.slot).writer.clone().filter(|w| w.hashed() < job.descriptor.size);
    if let Some(writer) = behind {
        executor.block(move || writer.catch_up()).await.map_err(died)??;
    }
    let writer = lock(&job.slot).writer.take();
    let Some(writer) = writer.and_then(Arc::into_inner) else {
        let source = std::io::Error::other("somebody else is still writing it");
        return Err(Cause::System { what: "a blob cannot be verified", source });
    };
    Ok(executor.block(move || writer.commit()).await.map_err(died)??)
}

/// A failure of a blob, with how far it got.
fn described(context: &Context, job: &Job, cause: Cause, attempt: u32, allowed: u32) -> Error {
    let size = job.descriptor.size;
    let written = lock(&job.slot).writer.as_ref().map_or(size, |writer| writer.written());
    Error::about(&context.subject(Object::Blob(job.descriptor.digest)), cause)
        .after_bytes(written, size)
        .in_attempt(attempt, allowed)
}

/// Says that there is another attempt, or ends the pull.
fn go_on(
    context: &Context,
    job: &Job,
    error: Error,
    verdict: Verdict,
    (attempt, allowed): (u32, u32),
) -> Result<(), Error> {
    match verdict {
        Verdict::GiveUp => {
            job.progress.failed();
            Err(error)
        }
        Verdict::Again { pause } => {
            context.retried(&error, pause);
            job.progress.retrying(attempt, allowed, pause, &error.brief());
            Ok(())
        }
    }
}

impl Context {
    /// Counts a retry, and tells the curious.
    pub(super) fn retried(&self, error: &Error, pause: Duration) {
        self.retries_done.fetch_add(1, Ordering::Relaxed);
        let pause = crate::report::format::duration(pause);
        self.reporter.note(&format!("{error}; again in {pause}"));
    }
}
