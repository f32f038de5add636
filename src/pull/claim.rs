//! Who writes a blob: this process, from where an earlier one stopped, or another one just now.
//!
//! ```text
//!   first piece ──▶ claim ──┬─▶ nothing of it is here: the piece is fetched
//!                           ├─▶ some of it is here:    the board has what is missing
//!                           ├─▶ another has it:        off the board, claimed again now and then,
//!                           │                          and fetched after all if that one stands still
//!                           └─▶ it is there by now:    verified
//! ```

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use super::Job;
use super::board::Piece;
use super::error::{Cause, Error};
use super::fetch::{self, Fetch, lock};
use crate::limits::{HASH_BEHIND_MAX, HELD_PAUSE, JOURNAL_SYNC_LAST_MAX};
use crate::report::format;
use crate::store::{BlobWriter, Claim, Presence};

/// The writer of a blob for one of its pieces; `None` if the piece is not wanted any more, because
/// another was there before, and all that follows from that is done.
///
/// A blob without a writer has one piece under way at most, so nobody else is here for it.
///
/// # Errors
/// A failure of the piece; within, one that is final for the pull.
pub(super) async fn writer_of(
    fetch: &Fetch,
    worker: usize,
    job: &Job,
    piece: &Piece,
) -> Result<Result<Option<Arc<BlobWriter>>, Error>, Cause> {
    if let Some(writer) = &lock(&job.slot).writer {
        return Ok(Ok(Some(Arc::clone(writer))));
    }
    match fetch.context.store.claim(&job.descriptor, job.replaces)? {
        Claim::Ours(writer) if writer.written() == 0 => Ok(Ok(Some(fetch.begin(job, *writer)))),
        Claim::Ours(writer) => {
            fetch.board().put_back(worker, piece);
            Ok(go_on(fetch, job, piece.blob, *writer).await.map(|()| None))
        }
        claim @ (Claim::Held { .. } | Claim::There) => {
            fetch.board().hold(worker, piece);
            fetch.tell();
            Ok(wait_for_another(fetch, job, piece.blob, claim).await.map(|()| None))
        }
    }
}

/// Has the board give out what is missing of a blob of which some is here.
async fn go_on(fetch: &Fetch, job: &Job, blob: usize, writer: BlobWriter) -> Result<(), Error> {
    let size = job.descriptor.size;
    let here = writer.written();
    let writer = fetch.begin(job, writer);
    if here > 0 {
        job.progress.resuming(here);
        let bytes = format::progress_bytes(here, size);
        let digest = job.descriptor.digest.short();
        fetch.context.reporter.note(&format!("{digest}: {bytes} are here from an earlier pull"));
    }
    let whole = fetch.board().resume(blob, gaps(&writer, &(0..size)));
    fetch.tell();
    if whole {
        drop(writer);
        return fetch::finish(fetch, job, blob).await;
    }
    if here > HASH_BEHIND_MAX {
        // What is here is hashed while the rest comes.
        fetch.follow(job);
    }
    Ok(())
}

/// Waits until another process has finished the blob, or has it no more.
async fn wait_for_another(
    fetch: &Fetch,
    job: &Job,
    blob: usize,
    mut claim: Claim,
) -> Result<(), Error> {
    let store = &fetch.context.store;
    let mut replaces = job.replaces;
    let (mut last_written, mut since) = (None, Instant::now());
    loop {
        match claim {
            Claim::Ours(writer) => return go_on(fetch, job, blob, *writer).await,
            Claim::Held { process, written_at } => {
                if written_at != last_written {
                    (last_written, since) = (written_at, Instant::now());
                }
                if since.elapsed() > fetch.context.held_silence_max {
                    let process = process.map_or("another process".to_owned(), |process| {
                        format!("process {process}")
                    });
                    fetch.context.reporter.warn(&format!(
                        "{process} does not get on with blob {}; it is fetched here as well",
                        job.descriptor.digest
                    ));
                    let writer = store.begin(&job.descriptor);
                    let writer = writer.map_err(|error| failed(fetch, job, error))?;
                    return go_on(fetch, job, blob, writer).await;
                }
                job.progress.held(process);
                tokio::time::sleep(HELD_PAUSE).await;
            }
            Claim::There => {
                let (store, descriptor) = (store.clone(), job.descriptor.clone());
                // Hashing a large blob must not keep the connections of this thread waiting.
                let checked = fetch.executor.block(move || store.check(&descriptor)).await;
                let checked = checked.map_err(|error| Error::new(fetch::died(error)))?;
                if checked.map_err(|error| failed(fetch, job, error))? == Presence::Present {
                    job.progress.exists();
                    fetch.board().stored(blob);
                    fetch.tell();
                    return Ok(());
                }
                replaces = true;
            }
        }
        claim =
            store.claim(&job.descriptor, replaces).map_err(|error| failed(fetch, job, error))?;
    }
}

fn failed(fetch: &Fetch, job: &Job, cause: impl Into<Cause>) -> Error {
    job.progress.failed();
    fetch::described(&fetch.context, job, cause.into(), 1, 1)
}

/// What of a range is not written.
pub(super) fn gaps(writer: &BlobWriter, range: &Range<u64>) -> Vec<Range<u64>> {
    let mut gaps = Vec::new();
    let mut from = range.start;
    while let Some(gap) = writer.first_missing(from..range.end) {
        from = gap.end;
        gaps.push(gap);
    }
    gaps
}

impl Fetch {
    /// Has threads of their own wait for the disk, for blobs that are far from being whole: what is
    /// on disk then survives a power cut.
    pub(super) fn sync_partials(&self) {
        for job in self.jobs() {
            let mut slot = lock(&job.slot);
            if slot.sync.as_ref().is_some_and(|sync| !sync.is_finished()) {
                continue;
            }
            if let Some(writer) = slot.writer.clone().filter(|writer| writer.wants_sync()) {
                // A failure is told to whoever writes next.
                slot.sync = self.executor.beside(move || drop(writer.sync()));
            }
        }
    }

    /// Notes what of each blob is here, for another pull to go on with. The pull ends now, so the
    /// disk is waited for only as long as little is left to be written, and for `patience` at most.
    /// What is noted was written, and counts even if it is not on disk by then.
    pub(super) fn keep_partials(&self, patience: Option<Duration>) {
        let left = Arc::new(AtomicU64::new(JOURNAL_SYNC_LAST_MAX));
        let (working, all_done) = mpsc::channel::<()>();
        for job in self.jobs() {
            let Some(writer) = lock(&job.slot).writer.take() else { continue };
            let (left, working) = (Arc::clone(&left), working.clone());
            // Each on a thread: one that waits for the disk must not keep the others.
            let kept = std::thread::Builder::new().spawn(move || {
                writer.note();
                // There may be no time for it.
                writer.drain();
                writer.note();
                let unsynced = writer.unsynced();
                let fits = |left: u64| left.checked_sub(unsynced);
                let order = Ordering::Relaxed;
                if unsynced > 0 && left.fetch_update(order, order, fits).is_ok() {
                    // After a failure nothing of it is left to be believed.
                    let _ = writer.sync();
                }
                drop((writer, working));
            });
            // Without a thread, the writer notes what it has when it is dropped.
            drop(kept);
        }
        drop(working);
        // Nothing is ever sent: it ends when all of them have.
        match patience {
            Some(patience) => drop(all_done.recv_timeout(patience)),
            None => drop(all_done.recv()),
        }
    }
}
