//! A blob on its way into the store.

use std::collections::BTreeMap;
use std::fs::File;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Instant, SystemTime};

use rustix::fs::Advice;
use rustix::io::Errno;

use super::block::Block;
use super::direct::Direct;
use super::disk;
use super::extents::Extents;
use super::journal::{self, Journal, Kind, Subject};
use super::partial::{self, Claimed, Partial};
use super::{Options, Store, StoreError, blob_directory, relative_blob_path};
use crate::image::{Descriptor, Digest, Hasher};
use crate::limits::{
    BLOCK_SIZE, FOLLOW_STEP, HASH_BUFFER_SIZE, JOURNAL_PARTS, JOURNAL_STEP_MIN,
    JOURNAL_SYNC_INTERVAL, JOURNAL_SYNC_MIN, RESERVE_SIZE_MIN, WARM_BEHIND_MAX, WARM_BLOCKS_MAX,
    WRITE_BACK_STEP,
};

/// Writes one blob, its bytes in any order and by several threads, and hashes it in order.
///
/// ```text
/// Store::begin ──▶ write_at … write_at ──▶ commit      blobs/<algorithm>/<hex>
/// Store::claim ──▶   ▲           │
///                    └──restart──┘         drop        nothing; of a claimed blob, what is here
///                                          discard     nothing
///
///   bytes     0 ▒▒▒▒▒▒▒▒▒▒▒▒ hashed ▒▒▒▒▒▒▒ ……………… ▒▒▒▒▒▒▒ …… size
///                                  └ behind ┘
/// ```
///
/// Whole [blocks](BlobWriter::write_block) of a large blob may be left to a thread, which writes them
/// past the page cache ([`take_blocks`](BlobWriter::take_blocks)).
///
/// Bytes that continue the hashed part are hashed by the thread that writes them, while they are
/// warm in its cache. Bytes that came too early are read back from the page cache later, by
/// [`catch_up`](BlobWriter::catch_up); or all hashing is left to a thread of its own, which
/// [`follow`](BlobWriter::follow)s the writers. One thread at a time hashes, whoever it is.
///
/// What of a claimed blob is here is noted in its journal: when some was written, when it was synced,
/// and when the writer is dropped.
///
/// Nothing is visible under `blobs/` before [`BlobWriter::commit`]. All methods block on the disk.
#[derive(Debug)]
pub struct BlobWriter {
    store: Store,
    descriptor: Descriptor,
    partial: Partial,
    /// Of a claimed blob. Locked before the state.
    journal: Option<Mutex<Journal>>,
    state: Mutex<State>,
    /// Blocks that are on their way to the disk.
    direct: Direct,
    /// Told when bytes were written or the writer was closed, for a thread that follows.
    changed: Condvar,
}

/// What came of claiming a blob.
#[derive(Debug)]
pub enum Claim {
    /// It is ours to write. Something of it may be [written](BlobWriter::written) already, by an
    /// earlier process.
    Ours(Box<BlobWriter>),
    /// Another writer has it.
    Held {
        /// Its process id, if it left one.
        process: Option<u32>,
        /// When it last wrote, if that can be told. Not to be compared with a clock, only with what
        /// it was before.
        written_at: Option<SystemTime>,
    },
    /// There is a file in its place.
    There,
}

/// What a write came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// How many of the bytes were not there before.
    pub new: u64,
    /// How many bytes are written and not hashed although all before them are: more than a few
    /// buffers' worth are for [`BlobWriter::follow`].
    pub behind: u64,
    /// As many blocks wait to be hashed as are kept for that: it is time to
    /// [wait](BlobWriter::wait_for_hash).
    pub crowded: bool,
}

#[derive(Debug)]
struct State {
    /// What is written, or will be without anybody's doing.
    taken: Extents,
    /// What of that the file has.
    written: Extents,
    /// What of that is not in the journal.
    unnoted: Extents,
    /// What of that may not be on disk.
    unsynced: Extents,
    /// When bytes were last waited for.
    synced_at: Instant,
    /// Bytes were lost on their way to the disk: what was done with them, and the error's number.
    lost: Option<(&'static str, i32)>,
    /// Absent while a thread hashes.
    hasher: Option<Hasher>,
    /// Blocks that are to be hashed, by where they belong: they need not be read back.
    warm: BTreeMap<u64, Arc<Block>>,
    /// Bytes hashed, from the first one on.
    hashed: u64,
    /// Bytes, from the first one on, that the kernel was told to write back.
    handed_over: u64,
    /// No more bytes will be written: whoever follows may go.
    closed: bool,
    /// How many threads wait for a change: telling nobody is a system call, too.
    waiting: usize,
}

impl State {
    fn new(descriptor: &Descriptor) -> State {
        State {
            taken: Extents::default(),
            written: Extents::default(),
            unnoted: Extents::default(),
            unsynced: Extents::default(),
            synced_at: Instant::now(),
            lost: None,
            hasher: Some(descriptor.digest.algorithm().hasher()),
            warm: BTreeMap::new(),
            hashed: 0,
            handed_over: 0,
            closed: false,
            waiting: 0,
        }
    }

    /// Bytes that are here and could be hashed.
    fn behind(&self) -> Range<u64> {
        self.hashed..self.taken.contiguous_from(self.hashed)
    }

    /// The block that continues what is hashed, if it is in memory; it is not to be had again.
    fn next_warm(&mut self) -> Option<Arc<Block>> {
        self.warm = self.warm.split_off(&self.hashed);
        self.warm.remove(&self.hashed)
    }

    /// Where to a thread that hashes may read back: blocks that are in memory may not be written yet.
    fn readable(&self) -> u64 {
        let behind = self.behind();
        self.warm.keys().next().map_or(behind.end, |&warm| warm.min(behind.end))
    }

    /// Whether what belongs at `offset` continues what is hashed, and nobody else is at it.
    fn can_hash(&self, offset: u64) -> bool {
        self.hashed == offset && self.hasher.is_some()
    }

    /// Whether a block for this range need not be written at once: nothing of it is here, and it is hashed
    /// from memory.
    fn takes_block(&self, range: &Range<u64>) -> bool {
        self.taken.first_gap(range.clone()).as_ref() == Some(range)
            && (self.can_hash(range.start) || self.is_followed(range.start))
    }

    /// Whether a block that belongs at `offset` is going to be hashed soon, by who has the hasher.
    fn is_followed(&self, offset: u64) -> bool {
        self.hasher.is_none()
            && self.warm.len() < WARM_BLOCKS_MAX
            && offset.saturating_sub(self.hashed) <= WARM_BEHIND_MAX
            && self.behind().end >= offset
    }
}

impl BlobWriter {
    pub(super) fn begin(store: &Store, descriptor: &Descriptor) -> Result<BlobWriter, StoreError> {
        let partial = Partial::create(store.partials()?, &partial::name_of(&descriptor.digest))?;
        let writer = BlobWriter::new(store, descriptor, partial, None, State::new(descriptor));
        writer.reserve()?;
        Ok(writer)
    }

    pub(super) fn claim(
        store: &Store,
        descriptor: &Descriptor,
        replace: bool,
    ) -> Result<Claim, StoreError> {
        let digest = &descriptor.digest;
        let is_there = || Ok(!replace && store.root().file(&relative_blob_path(digest))?.is_some());
        if is_there()? {
            return Ok(Claim::There);
        }
        if store.missing_locks().is_some() {
            // Nobody could tell that it is taken.
            return BlobWriter::begin(store, descriptor).map(Box::new).map(Claim::Ours);
        }
        let partial = match Partial::claim(store.partials()?, digest)? {
            Claimed::Ours(partial) => partial,
            Claimed::Held => {
                let (partials, name) = (store.partials()?, partial::name_of(digest));
                let written_at = partials
                    .file(&name)?
                    .and_then(|file| file.metadata().and_then(|metadata| metadata.modified()).ok());
                let process = journal::process(partials, &name);
                return Ok(Claim::Held { process, written_at });
            }
            Claimed::Unlockable => {
                return BlobWriter::begin(store, descriptor).map(Box::new).map(Claim::Ours);
            }
        };
        // Its writer may have published it just before we had the lock. What we have now is empty.
        if is_there()? {
            return Ok(Claim::There);
        }
        let writer = BlobWriter::go_on(store, descriptor, partial)?;
        writer.reserve()?;
        Ok(Claim::Ours(Box::new(writer)))
    }

    /// A writer that has what the journal of its partial is believed.
    fn go_on(
        store: &Store,
        descriptor: &Descriptor,
        partial: Partial,
    ) -> Result<BlobWriter, StoreError> {
        let metadata =
            partial.file().metadata().map_err(|error| partial.failed("look at", error))?;
        let Descriptor { digest, size, .. } = *descriptor;
        let subject = Subject { digest, size, inode: metadata.ino() };
        let believed = journal::read(partial.directory(), partial.name(), &subject, metadata.len());
        let mut state = State::new(descriptor);
        let anew = believed.written.is_empty();
        if anew {
            let failed = |error| partial.failed("truncate", error);
            disk::truncate(partial.file(), 0).map_err(failed)?;
        } else {
            partial.keep();
            state.taken = believed.written.clone();
            state.written = believed.written.clone();
            if believed.synced != believed.written {
                state.unsynced = believed.written.clone();
            }
        }
        let mut journal = Journal::new(partial.directory(), partial.name(), subject, believed);
        if anew {
            journal.clear()?;
        }
        if size >= JOURNAL_STEP_MIN {
            // For those who wait. Without it they do not know for whom.
            let _ = journal.open();
        }
        Ok(BlobWriter::new(store, descriptor, partial, Some(Mutex::new(journal)), state))
    }

    fn new(
        store: &Store,
        descriptor: &Descriptor,
        partial: Partial,
        journal: Option<Mutex<Journal>>,
        state: State,
    ) -> BlobWriter {
        BlobWriter {
            store: store.clone(),
            descriptor: descriptor.clone(),
            partial,
            journal,
            state: Mutex::new(state),
            direct: Direct::default(),
            changed: Condvar::new(),
        }
    }

    /// Writes `bytes` at `offset` of the blob; what is there already stays as it is, for it may be
    /// hashed already. No two threads may write the same bytes at once.
    ///
    /// After an error nothing of `bytes` counts as written.
    ///
    /// # Errors
    /// [`StoreError::Size`] if the blob would get longer than its descriptor says; the disk's.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<Written, StoreError> {
        let end = offset.saturating_add(bytes.len() as u64);
        if end > self.descriptor.size {
            return Err(self.wrong_size(end));
        }
        self.expect_nothing_lost()?;
        let mut from = offset;
        let mut written = Extents::default();
        while let Some(gap) = self.first_missing(from..end) {
            let part = |at: u64| usize::try_from(at - offset).unwrap_or(usize::MAX);
            let part = bytes.get(part(gap.start)..part(gap.end)).unwrap_or_default();
            disk::write_all(self.partial.file(), part, gap.start)
                .map_err(|error| self.failed("write", error))?;
            from = gap.end;
            written.insert(gap);
        }
        let new = written.size();
        let mut state = self.lock();
        // What was taken before may not be written yet.
        state.taken.insert(offset..end);
        state.written.extend(&written);
        state.unnoted.extend(&written);
        let whole = new == bytes.len() as u64;
        let hasher = if whole && state.hashed == offset { state.hasher.take() } else { None };
        drop(state);
        let behind = self.hash(hasher, bytes, end);
        self.start_write_back();
        self.note_if_much();
        Ok(Written { new, behind, crowded: false })
    }

    /// Writes a block at `offset` of the blob, of which nothing is there: leaves it to the thread that
    /// [takes](BlobWriter::take_blocks) blocks, if it is hashed meanwhile; otherwise as
    /// [`write_at`](BlobWriter::write_at).
    ///
    /// # Errors
    /// As [`write_at`](BlobWriter::write_at), also for blocks that were taken before.
    pub fn write_block(&self, offset: u64, block: Block) -> Result<Written, StoreError> {
        self.expect_nothing_lost()?;
        let new = block.bytes().len() as u64;
        let range = offset..offset.saturating_add(new);
        let block = Arc::new(block);
        let mut state = self.lock();
        if range.end > self.descriptor.size || !state.takes_block(&range) {
            drop(state);
            return self.write_at(offset, block.bytes());
        }
        let hashes = state.can_hash(offset);
        state.taken.insert(range.clone());
        let hasher = if hashes { state.hasher.take() } else { None };
        if hasher.is_none() {
            state.warm.insert(offset, Arc::clone(&block));
        }
        let crowded = state.warm.len() >= WARM_BLOCKS_MAX;
        drop(state);
        if !self.direct.push(offset, Arc::clone(&block)) {
            // The thread has just ended.
            let written = disk::write_all(self.partial.file(), block.bytes(), offset);
            self.wrote(range.clone(), written);
        }
        let behind = self.hash(hasher, block.bytes(), range.end);
        self.expect_nothing_lost()?;
        Ok(Written { new, behind, crowded })
    }

    /// Waits until few blocks wait to be hashed, or nobody hashes them.
    pub fn wait_for_hash(&self) {
        let mut state = self.lock();
        while state.warm.len() > WARM_BLOCKS_MAX / 2 && state.hasher.is_none() && !state.closed {
            state = self.wait(state);
        }
    }

    /// Whether a block at `offset` would be taken now.
    pub(super) fn wants_block(&self, offset: u64) -> bool {
        let range = offset..offset.saturating_add(BLOCK_SIZE as u64);
        range.end <= self.descriptor.size
            && self.direct.is_served()
            && self.lock().takes_block(&range)
    }

    /// Bytes that were taken are written, or are not.
    pub(super) fn wrote(&self, range: Range<u64>, outcome: std::io::Result<()>) {
        let mut state = self.lock();
        match outcome {
            Ok(()) => {
                state.written.insert(range.clone());
                state.unnoted.insert(range);
            }
            Err(error) => state.lost = Some(("write", errno_of(&error))),
        }
        drop(state);
        self.start_write_back();
        self.note_if_much();
    }

    /// Hashes bytes that continue what is hashed, if there is a hasher for it, and tells those who wait
    /// for bytes; how many are behind.
    fn hash(&self, hasher: Option<Hasher>, bytes: &[u8], end: u64) -> u64 {
        let returned = hasher.is_some();
        if let Some(mut hasher) = hasher {
            hasher.update(bytes);
            let mut state = self.lock();
            state.hashed = end;
            state.hasher = Some(hasher);
        }
        let state = self.lock();
        let behind = state.behind();
        // Whoever waits for bytes is told of a few buffers' worth at a time, and of the last ones.
        let worth_it = returned
            || behind.end - behind.start >= FOLLOW_STEP
            || state.taken.size() == self.descriptor.size;
        let heard = state.waiting > 0 && worth_it;
        drop(state);
        if heard {
            self.changed.notify_all();
        }
        behind.end - behind.start
    }

    /// Appends to what is there without a gap.
    ///
    /// # Errors
    /// As [`write_at`](BlobWriter::write_at).
    pub fn write(&self, bytes: &[u8]) -> Result<(), StoreError> {
        let end = self.lock().taken.contiguous_from(0);
        self.write_at(end, bytes).map(|_| ())
    }

    /// Bytes that are written or about to be, wherever.
    pub fn taken(&self) -> u64 {
        self.lock().taken.size()
    }

    /// Bytes written so far, wherever.
    pub fn written(&self) -> u64 {
        self.lock().written.size()
    }

    /// Whether a thread hashes, or waits for bytes to hash.
    #[cfg(test)]
    pub(super) fn is_hashed_by_another(&self) -> bool {
        self.lock().hasher.is_none()
    }

    /// Bytes hashed so far, from the first one on.
    pub fn hashed(&self) -> u64 {
        self.lock().hashed
    }

    /// The first bytes within a range that are neither written nor about to be.
    pub fn first_missing(&self, within: Range<u64>) -> Option<Range<u64>> {
        self.lock().taken.first_gap(within)
    }

    /// Hashes what was written and not hashed yet, as far as there is no gap, or waits until another
    /// thread has done so; gives up once nobody writes any more.
    ///
    /// # Errors
    /// The disk's, when bytes cannot be read back.
    pub fn catch_up(&self) -> Result<(), StoreError> {
        self.hash_while(|state| !state.closed && !state.behind().is_empty())
    }

    /// Hashes what is written, as it is written, until it is complete or nobody writes any more
    /// ([`close`](BlobWriter::close)). For a thread that has nothing better to do: the writers then
    /// need not hash.
    ///
    /// # Errors
    /// As [`catch_up`](BlobWriter::catch_up).
    pub fn follow(&self) -> Result<(), StoreError> {
        let size = self.descriptor.size;
        self.hash_while(|state| !state.closed && state.hashed < size)
    }

    /// Nobody writes any more, and nobody wants the blob: ends a [`follow`](BlobWriter::follow) and
    /// a [`catch_up`](BlobWriter::catch_up), at once.
    pub fn close(&self) {
        self.direct.end();
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Takes the hasher, and hashes or waits for bytes, as long as `wanted`. A thread that has the
    /// hasher is waited for: it may be one that has only a buffer to hash, and goes.
    fn hash_while(&self, wanted: impl Fn(&State) -> bool) -> Result<(), StoreError> {
        let mut state = self.lock();
        let mut hasher = loop {
            if !wanted(&state) {
                return Ok(());
            }
            match state.hasher.take() {
                Some(hasher) => break hasher,
                None => state = self.wait(state),
            }
        };
        let mut buffer = vec![0; HASH_BUFFER_SIZE];
        let mut outcome = Ok(());
        while wanted(&state) && outcome.is_ok() {
            let behind = state.behind();
            if behind.is_empty() {
                state = self.wait(state);
                continue;
            }
            let warm = state.next_warm();
            let most = usize::try_from(state.readable() - behind.start).unwrap_or(usize::MAX);
            drop(state);
            let read = buffer.len().min(most);
            let bytes = match &warm {
                Some(block) => block.bytes(),
                None => {
                    outcome = self.partial.file().read_exact_at(&mut buffer[..read], behind.start);
                    &buffer[..read]
                }
            };
            if outcome.is_ok() {
                hasher.update(bytes);
            }
            state = self.lock();
            if outcome.is_ok() {
                state.hashed += bytes.len() as u64;
            }
            if state.waiting > 0 && state.warm.len() == WARM_BLOCKS_MAX / 2 {
                self.changed.notify_all();
            }
        }
        state.hasher = Some(hasher);
        drop(state);
        self.changed.notify_all();
        outcome.map_err(|error| self.partial.failed("read back", error))
    }

    /// Forgets all that was written: the next byte is the blob's first. No other thread may be using
    /// the writer.
    ///
    /// # Errors
    /// The disk's. The writer is of no further use then.
    pub fn restart(&self) -> Result<(), StoreError> {
        self.direct.drain();
        if let Some(journal) = &self.journal {
            lock(journal).clear()?;
        }
        let truncated = disk::truncate(self.partial.file(), 0);
        truncated.map_err(|error| self.partial.failed("truncate", error))?;
        *self.lock() = State::new(&self.descriptor);
        self.reserve()
    }

    /// Notes what was written since the last time: another process that finds the partial in this
    /// boot of the machine goes on from there. Does not wait for the disk.
    ///
    /// Where the journal cannot be written, what it says remains true, and that is all that is lost.
    pub fn note(&self) {
        if let Some(journal) = &self.journal {
            self.note_in(&mut lock(journal));
        }
    }

    /// Notes what was written, if that would be much to lose, and nobody else is at it.
    fn note_if_much(&self) {
        let Some(journal) = &self.journal else { return };
        let much = (self.descriptor.size / JOURNAL_PARTS).max(JOURNAL_STEP_MIN);
        if self.lock().unnoted.size() < much {
            return;
        }
        // Somebody who waits for the disk must not be waited for.
        match journal.try_lock() {
            Ok(mut journal) => self.note_in(&mut journal),
            Err(TryLockError::Poisoned(poisoned)) => self.note_in(&mut poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => {}
        }
    }

    fn note_in(&self, journal: &mut Journal) {
        // The names may be another writer's by now.
        if !self.partial.is_ours() {
            return;
        }
        let bytes = {
            let mut state = self.lock();
            let bytes = std::mem::take(&mut state.unnoted);
            state.unsynced.extend(&bytes);
            bytes
        };
        if bytes.is_empty() {
            return;
        }
        match journal.append(Kind::Written, &bytes) {
            Ok(()) => self.partial.keep(),
            Err(_) => self.lock().unnoted.extend(&bytes),
        }
    }

    /// Whether it is time to [`sync`](BlobWriter::sync). Not for a blob that is whole: its commit
    /// does so.
    pub fn wants_sync(&self) -> bool {
        let state = self.lock();
        self.journal.is_some()
            && self.store.options().fsync
            && state.lost.is_none()
            && state.taken.size() < self.descriptor.size
            && state.unsynced.size() >= JOURNAL_SYNC_MIN
            && state.synced_at.elapsed() >= JOURNAL_SYNC_INTERVAL
    }

    /// Waits until what was written is on disk, and notes that it is: from then on not even a power
    /// cut takes it away. Without [`Options::fsync`](super::Options::fsync) only
    /// [`note`](BlobWriter::note)s it.
    ///
    /// # Errors
    /// The disk's. Bytes are lost then, nobody knows which: the partial is gone, and all that is done
    /// with the writer fails.
    pub fn sync(&self) -> Result<(), StoreError> {
        let Some(journal) = &self.journal else { return Ok(()) };
        self.note();
        if !self.store.options().fsync {
            return Ok(());
        }
        let bytes = std::mem::take(&mut self.lock().unsynced);
        let synced = disk::sync_data(self.partial.file());
        if let Err(error) = synced {
            self.lock().lost = Some(("sync", errno_of(&error)));
            self.discard();
            return Err(self.partial.failed("sync", error));
        }
        let noted = {
            let mut journal = lock(journal);
            if !self.partial.is_ours() {
                return Ok(());
            }
            journal.append(Kind::Synced, &bytes).map(|()| journal.file())
        };
        // The journal is free meanwhile: whoever notes something must not wait for the disk.
        let named = noted.and_then(|file| {
            let failed = |error| self.partial.failed("sync the journal of", error);
            file.map_or(Ok(()), |file| disk::sync_data(&file)).map_err(failed)?;
            self.store.sync_partial_names()
        });
        let mut state = self.lock();
        state.synced_at = Instant::now();
        if named.is_err() {
            // They are on disk, but nobody would know.
            state.unsynced.extend(&bytes);
        }
        Ok(())
    }

    /// Bytes that a power cut could take away.
    pub fn unsynced(&self) -> u64 {
        self.lock().unsynced.size()
    }

    /// Nothing of the blob is to be believed: removes what was written, now. The writer is of no
    /// further use, to whoever has it.
    pub fn discard(&self) {
        self.close();
        // Whoever has the journal would write it anew.
        let _journal = self.journal.as_ref().map(lock);
        self.partial.discard();
    }

    fn expect_nothing_lost(&self) -> Result<(), StoreError> {
        let lost = self.lock().lost;
        match lost {
            Some((action, errno)) => {
                Err(self.failed(action, std::io::Error::from_raw_os_error(errno)))
            }
            None => Ok(()),
        }
    }

    /// A failed call, with how much room is missing if that is what it failed for.
    fn failed(&self, action: &'static str, error: std::io::Error) -> StoreError {
        let missing = self.descriptor.size.saturating_sub(self.written());
        self.partial.failed(action, error).needing(missing)
    }

    /// Makes the blob visible, if it is what its descriptor says; otherwise it is removed.
    ///
    /// Another process may have committed the same blob: then this one takes its place.
    ///
    /// # Errors
    /// [`StoreError::Size`] and [`StoreError::Digest`] for wrong bytes; the disk's.
    pub fn commit(self) -> Result<(), StoreError> {
        self.verify().inspect_err(|_| self.partial.discard())?;
        if self.descriptor.size >= JOURNAL_STEP_MIN {
            // The disk may be slow, and the process not wait for it.
            self.note();
        }
        self.store.publish(&self.partial, &self.descriptor.digest)
    }

    /// Whether all bytes are there, and right.
    fn verify(&self) -> Result<(), StoreError> {
        self.expect_nothing_lost()?;
        if self.written() != self.descriptor.size {
            return Err(self.wrong_size(self.written()));
        }
        // Nobody else has the writer, so nobody can have the hasher; a thread that panicked with it
        // leaves a blob that cannot be vouched for, and must not be waited for.
        if self.lock().hasher.is_some() {
            self.catch_up()?;
        }
        let mut state = self.lock();
        let got = match state.hasher.take() {
            Some(hasher) if state.hashed == self.descriptor.size => hasher.finish(),
            _ => return Err(self.wrong_size(state.hashed)),
        };
        let expected = self.descriptor.digest;
        if got != expected {
            return Err(StoreError::Digest { expected, got: Box::new(got) });
        }
        Ok(())
    }

    /// Claims the space of a large blob, so that a full disk is found before the bytes are fetched.
    fn reserve(&self) -> Result<(), StoreError> {
        let size = self.descriptor.size;
        if size < RESERVE_SIZE_MIN {
            return Ok(());
        }
        let failed = |errno: Errno| self.partial.failed("reserve", errno.into()).needing(size);
        // Asked first: a failing fallocate may fill the disk to the brim before it gives up.
        let missing = size.saturating_sub(partial::allocated_by(self.partial.file()));
        if self.store.root().space_left().is_some_and(|left| left < missing) {
            return Err(failed(Errno::NOSPC));
        }
        match disk::reserve(self.partial.file(), size) {
            // Not every file system can; there the writes will find out.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(errno) => Err(failed(errno)),
        }
    }

    /// Lets the disk work while the network does, so that the fsync at the end has little left.
    ///
    /// `sync_file_range` would say it plainly but has no safe form. DONTNEED begins, and does not
    /// wait, writing back the dirty pages of its range; from the cache it drops only pages that are
    /// clean already, of which there are few so soon.
    fn start_write_back(&self) {
        let Some(step) = NonZeroU64::new(WRITE_BACK_STEP) else { return };
        if !self.store.options().fsync {
            return;
        }
        loop {
            let mut state = self.lock();
            let start = state.handed_over;
            // Only what is hashed: the rest is to be read again, and had better stay.
            if state.hashed.saturating_sub(start) < WRITE_BACK_STEP {
                return;
            }
            state.handed_over = start.saturating_add(WRITE_BACK_STEP);
            drop(state);
            // Advice only: the fsync is what counts.
            let _ = rustix::fs::fadvise(self.partial.file(), start, Some(step), Advice::DontNeed);
        }
    }

    pub(super) fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    pub(super) fn options(&self) -> &Options {
        self.store.options()
    }

    pub(super) fn direct(&self) -> &Direct {
        &self.direct
    }

    pub(super) fn file(&self) -> &File {
        self.partial.file()
    }

    /// The file, to be written to without the page cache; `None` where that cannot be.
    pub(super) fn direct_file(&self) -> Option<File> {
        self.partial.direct_file()
    }

    fn wrong_size(&self, got: u64) -> StoreError {
        StoreError::Size { digest: self.descriptor.digest, expected: self.descriptor.size, got }
    }

    fn wait<'a>(&self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        state.waiting += 1;
        let mut state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        state.waiting -= 1;
        state
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        self.note();
    }
}

fn errno_of(error: &std::io::Error) -> i32 {
    error.raw_os_error().unwrap_or(Errno::IO.raw_os_error())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while one of these is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// Gives a file whose bytes were verified the name of its digest.
    fn publish(&self, partial: &Partial, digest: &Digest) -> Result<(), StoreError> {
        let durable = self.options().fsync;
        if durable {
            partial.backdate();
        }
        let finished = partial.finish(self.root().mode_of_files()?, durable);
        // After a failed fsync a second one would succeed over lost bytes.
        finished.inspect_err(|_| partial.discard())?;
        let directory = self.root().make_directory(blob_directory(digest.algorithm()))?;
        let stamp = partial.publish(&directory, &digest.hex())?;
        if durable {
            directory.sync()?;
            if stamp.is_settled(SystemTime::now()) {
                self.verified().note(self.root(), digest, &stamp);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::image::{Algorithm, MediaType};
    use crate::store::Options;

    const SIZE: usize = 3 * HASH_BUFFER_SIZE;

    /// A writer of a blob, and its bytes.
    fn writer() -> (tempfile::TempDir, BlobWriter, Vec<u8>) {
        let temporary = tempfile::tempdir().unwrap();
        let store = Store::open(temporary.path(), Options::default()).unwrap();
        let bytes: Vec<u8> = (0..SIZE).map(|index| (index / 7) as u8).collect();
        let descriptor = Descriptor {
            media_type: MediaType::new("application/octet-stream"),
            digest: Digest::of(Algorithm::Sha256, &bytes),
            size: bytes.len() as u64,
        };
        let writer = store.begin(&descriptor).unwrap();
        (temporary, writer, bytes)
    }

    /// Long enough for another thread to begin to wait, nearly always.
    const MOMENT: Duration = Duration::from_millis(20);

    #[test]
    fn only_bytes_that_were_not_there_are_new() {
        let (_guard, writer, bytes) = writer();
        let check = |range: Range<usize>, new, behind| {
            let written = writer.write_at(range.start as u64, &bytes[range]).unwrap();
            assert_eq!(written, Written { new, behind, crowded: false });
        };
        check(10..20, 10, 0);
        check(30..40, 10, 0);
        check(5..50, 25, 0);
        check(0..50, 5, 50);
        check(50..SIZE, SIZE as u64 - 50, SIZE as u64);
        writer.commit().unwrap();
    }

    #[test]
    fn a_blob_that_is_whole_is_synced_by_its_commit_alone() {
        let (_guard, unclaimed, bytes) = writer();
        let descriptor = unclaimed.descriptor();
        let Claim::Ours(writer) = unclaimed.store.claim(descriptor, false).unwrap() else {
            panic!("nobody else wants it");
        };
        let (most, rest) = bytes.split_at(bytes.len() - 1);
        writer.write(most).unwrap();
        {
            let mut state = writer.lock();
            state.unsynced.insert(0..JOURNAL_SYNC_MIN);
            state.synced_at = state.synced_at.checked_sub(2 * JOURNAL_SYNC_INTERVAL).unwrap();
        }
        assert!(writer.wants_sync());
        writer.write(rest).unwrap();
        assert!(!writer.wants_sync());
    }

    #[test]
    fn who_follows_waits_for_a_writer_that_hashes() {
        let (_guard, writer, bytes) = writer();
        let hasher = writer.lock().hasher.take();
        std::thread::scope(|scope| {
            let follower = scope.spawn(|| writer.follow());
            std::thread::sleep(MOMENT);
            writer.lock().hasher = hasher;
            // The last bytes first: their writer does not hash them.
            writer.write_at(10, &bytes[10..]).unwrap();
            writer.write_at(0, &bytes[..10]).unwrap();
            follower.join().unwrap().unwrap();
        });
        assert_eq!(writer.hashed(), SIZE as u64);
        writer.commit().unwrap();
    }

    #[test]
    fn closing_ends_who_follows_whatever_he_waits_for() {
        for hasher_is_taken in [false, true] {
            let (_guard, writer, bytes) = writer();
            writer.write(&bytes[..10]).unwrap();
            let hasher = writer.lock().hasher.take();
            if !hasher_is_taken {
                writer.lock().hasher = hasher;
            }
            std::thread::scope(|scope| {
                let follower = scope.spawn(|| writer.follow());
                std::thread::sleep(MOMENT);
                writer.close();
                follower.join().unwrap().unwrap();
            });
            writer.follow().unwrap();
        }
    }

    #[test]
    fn a_hasher_that_was_lost_is_not_waited_for() {
        let (_guard, writer, bytes) = writer();
        writer.write(&bytes).unwrap();
        writer.lock().hasher = None;
        assert!(matches!(writer.commit(), Err(StoreError::Size { .. })));
    }
}
