//! Blocks of large blobs that a thread writes past the page cache, while those who received them go on.
//!
//! ```text
//!                        ┌─▶ queue ─▶ thread ─▶ disk (O_DIRECT)
//!   Stream ─▶ full block ┤
//!                        └─▶ hashed at once, or kept for the thread that follows
//! ```
//!
//! A copy into the page cache is what costs most of writing, and more where its memory has to be had
//! first; of a blob of gigabytes little stays there until somebody reads it, and what others had there
//! is pushed out. So only blocks go this way that are hashed from memory. The rest of a blob, and all
//! for which no block is free because the disk is slower than the network, goes through the cache,
//! where a slow disk is not waited for.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use super::block::{Block, Blocks};
use super::writer::{BlobWriter, Written};
use super::{StoreError, disk};
use crate::limits::{BLOCK_SIZE, BLOCKS_LINGER, BLOCKS_PER_WRITE};

/// The blocks that a thread is to write.
#[derive(Debug, Default)]
pub(super) struct Direct {
    queue: Mutex<Queue>,
    /// Told when there is something to do for the thread, or when it has done it.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    /// Where they belong, in the order in which they came.
    blocks: VecDeque<(u64, Arc<Block>)>,
    /// Some are on their way to the disk.
    writing: bool,
    /// There is a thread, and it is not told to end.
    served: bool,
    /// How many wait until all is written.
    waiting: usize,
}

impl Direct {
    /// Leaves a block to the thread; `false` if there is none.
    pub(super) fn push(&self, offset: u64, block: Arc<Block>) -> bool {
        let mut queue = self.lock();
        if queue.served {
            queue.blocks.push_back((offset, block));
        }
        let (served, worth_it) = (queue.served, queue.is_worth_a_write());
        drop(queue);
        if worth_it {
            self.changed.notify_all();
        }
        served
    }

    /// Whether there is a thread.
    pub(super) fn is_served(&self) -> bool {
        self.lock().served
    }

    /// The thread ends, once it has written what it has.
    pub(super) fn end(&self) {
        self.lock().served = false;
        self.changed.notify_all();
    }

    /// Waits until all is written.
    pub(super) fn drain(&self) {
        let mut queue = self.lock();
        queue.waiting += 1;
        self.changed.notify_all();
        while queue.writing || !queue.blocks.is_empty() {
            queue = self.wait(queue);
        }
        queue.waiting -= 1;
    }

    /// Where the next block belongs, and it and those that follow it; `None` once there is to be none.
    fn next(&self) -> Option<(u64, Vec<Arc<Block>>)> {
        let mut queue = self.lock();
        let mut lingered = false;
        while !(queue.is_worth_a_write() || lingered && !queue.blocks.is_empty()) {
            if !queue.served {
                return None;
            }
            let waited = self.changed.wait_timeout(queue, BLOCKS_LINGER);
            let (back, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            (queue, lingered) = (back, timeout.timed_out());
        }
        let (start, first) = queue.blocks.pop_front()?;
        let mut run = vec![first];
        while run.len() < BLOCKS_PER_WRITE
            && let end = start + size_of_blocks(run.len())
            && queue.blocks.front().is_some_and(|(offset, _)| *offset == end)
            && let Some((_, block)) = queue.blocks.pop_front()
        {
            run.push(block);
        }
        queue.writing = true;
        Some((start, run))
    }

    /// What [`next`](Direct::next) gave is written, or cannot be.
    fn done(&self) {
        self.lock().writing = false;
        self.changed.notify_all();
    }

    fn wait<'a>(&self, queue: MutexGuard<'a, Queue>) -> MutexGuard<'a, Queue> {
        self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing panics while it is held.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// Whether there are enough blocks, or nobody to bring more: one write takes about as much from the
    /// processor as another.
    fn is_worth_a_write(&self) -> bool {
        let hurried = self.waiting > 0 || !self.served;
        self.blocks.len() >= if hurried { 1 } else { BLOCKS_PER_WRITE }
    }
}

fn size_of_blocks(count: usize) -> u64 {
    (count * BLOCK_SIZE) as u64
}

/// A thread serves the queue as long as this lives, or is about to. Nobody waits for one that died, or
/// never began.
struct Served(Arc<BlobWriter>);

impl Served {
    fn new(writer: Arc<BlobWriter>) -> Served {
        writer.direct().lock().served = true;
        Served(writer)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let Served(writer) = self;
        let mut queue = writer.direct().lock();
        let lost = queue.writing || !queue.blocks.is_empty();
        (queue.served, queue.writing) = (false, false);
        queue.blocks.clear();
        drop(queue);
        if lost {
            writer.wrote(0..0, Err(Errno::IO.into()));
        }
        writer.direct().changed.notify_all();
    }
}

impl BlobWriter {
    /// Has a thread take its [blocks](BlobWriter::write_block), if enough of the blob is to come and the
    /// disk can be written to without the page cache: the thread is to do what this returns, until
    /// that returns, which is after [`take_no_blocks`](BlobWriter::take_no_blocks) or
    /// [`close`](BlobWriter::close).
    pub fn take_blocks(self: Arc<BlobWriter>) -> Option<impl FnOnce() + Send + 'static> {
        let left = self.descriptor().size.saturating_sub(self.written());
        if left < self.options().direct_size_min {
            return None;
        }
        let file = self.direct_file()?;
        let served = Served::new(self);
        Some(move || served.0.write_blocks(&file))
    }

    fn write_blocks(&self, file: &File) {
        while let Some((start, run)) = self.direct().next() {
            let blocks: Vec<&[u8]> = run.iter().map(|block| block.bytes()).collect();
            let outcome = disk::write_direct(file, self.file(), &blocks, start);
            self.wrote(start..start + size_of_blocks(run.len()), outcome);
            // Free again before anybody hears that they are written.
            drop(run);
            self.direct().done();
        }
    }

    /// No more blocks are taken: the thread ends, once it has written those that were.
    pub fn take_no_blocks(&self) {
        self.direct().end();
    }

    /// Waits until all blocks that were taken are written, or cannot be.
    pub fn drain(&self) {
        self.direct().drain();
    }
}

/// The bytes of a blob that one connection brings, in order. What waits for its block to be full is
/// written when this is dropped.
pub struct Stream<'a> {
    writer: &'a BlobWriter,
    blocks: &'a Arc<Blocks>,
    /// One that is not full, and where it belongs.
    open: Option<(u64, Block)>,
}

impl<'a> Stream<'a> {
    /// Begins one, with memory from `blocks`.
    pub fn new(writer: &'a BlobWriter, blocks: &'a Arc<Blocks>) -> Stream<'a> {
        Stream { writer, blocks, open: None }
    }

    /// Takes bytes that belong at `offset`: those that follow what it took before.
    ///
    /// # Errors
    /// As [`BlobWriter::write_at`].
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<Written, StoreError> {
        let (mut at, mut rest) = (offset, bytes);
        let mut all = Written::default();
        while !rest.is_empty() {
            self.open_block(at);
            let taken = match &mut self.open {
                Some((_, block)) => {
                    let count = block.fill(rest);
                    all.new += count as u64;
                    if block.is_full() {
                        let Written { behind, crowded, .. } = self.flush()?;
                        all = Written { behind, crowded, ..all };
                    }
                    count
                }
                None => {
                    let to_the_next = BLOCK_SIZE - usize::try_from(at).unwrap_or(0) % BLOCK_SIZE;
                    let count = rest.len().min(to_the_next);
                    let part = rest.get(..count).unwrap_or_default();
                    let Written { new, behind, .. } = self.writer.write_at(at, part)?;
                    all = Written { new: all.new + new, behind, ..all };
                    count
                }
            };
            (at, rest) = (at + taken as u64, rest.get(taken..).unwrap_or_default());
        }
        Ok(all)
    }

    /// Opens a block for what comes from `at` on, if that is of use.
    fn open_block(&mut self, at: u64) {
        let begins = self.open.is_none() && at.is_multiple_of(BLOCK_SIZE as u64);
        if begins && self.writer.wants_block(at) {
            self.open = self.blocks.take().map(|block| (at, block));
        }
    }

    /// Writes what waits for its block to be full.
    ///
    /// # Errors
    /// As [`BlobWriter::write_at`].
    pub fn flush(&mut self) -> Result<Written, StoreError> {
        match self.open.take() {
            Some((at, block)) if block.is_full() => self.writer.write_block(at, block),
            Some((at, block)) => self.writer.write_at(at, block.bytes()),
            None => Ok(Written::default()),
        }
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        // Whoever wants to know has flushed it.
        let _ = self.flush();
    }
}

#[cfg(test)]
mod tests {
    use std::thread::{self, JoinHandle};

    use super::super::disk::{Answer, Operation, with_faults};
    use super::super::{Options, Store};
    use super::*;
    use crate::error::Class;
    use crate::image::{Algorithm, Descriptor, Digest, MediaType};

    /// Some blocks, and a rest.
    const SIZE: usize = 11 * BLOCK_SIZE + 1234;

    struct Scene {
        _place: tempfile::TempDir,
        store: Store,
        writer: Arc<BlobWriter>,
        descriptor: Descriptor,
        bytes: Vec<u8>,
        blocks: Arc<Blocks>,
        disk: JoinHandle<()>,
    }

    impl Scene {
        /// A blob whose blocks a thread writes, to a disk that answers so.
        fn new(blocks: usize, answer: impl FnMut(Operation) -> Answer + Send + 'static) -> Scene {
            // Beside this program: temporary files may be in memory, where older kernels cannot.
            let program = std::env::current_exe().unwrap();
            let place = tempfile::tempdir_in(program.parent().unwrap()).unwrap();
            let options = Options { direct_size_min: 1, ..Options::default() };
            let store = Store::open(place.path(), options).unwrap();
            let bytes: Vec<u8> = (0..SIZE).map(|index| (index / 5 % 251) as u8).collect();
            let descriptor = Descriptor {
                media_type: MediaType::new("application/octet-stream"),
                digest: Digest::of(Algorithm::Sha256, &bytes),
                size: bytes.len() as u64,
            };
            let writer = Arc::new(store.begin(&descriptor).unwrap());
            let work = Arc::clone(&writer).take_blocks().expect("a disk that takes blocks");
            let disk = thread::spawn(move || {
                let _faulty = with_faults(answer);
                work();
            });
            let blocks = Blocks::new(blocks);
            Scene { _place: place, store, writer, descriptor, bytes, blocks, disk }
        }

        /// Writes a part of the blob as a connection brings it.
        fn bring(&self, part: std::ops::Range<usize>, step: usize) -> Result<(), StoreError> {
            let mut stream = Stream::new(&self.writer, &self.blocks);
            for start in part.clone().step_by(step) {
                let end = (start + step).min(part.end);
                let written = stream.write(start as u64, &self.bytes[start..end])?;
                assert_eq!(written.new, (end - start) as u64);
            }
            stream.flush().map(|_| ())
        }

        fn commit(self) -> Result<(), StoreError> {
            self.writer.take_no_blocks();
            self.disk.join().unwrap();
            Arc::into_inner(self.writer).unwrap().commit()?;
            let file = self.store.path().join("blobs/sha256").join(self.descriptor.digest.hex());
            assert!(std::fs::read(file).unwrap() == self.bytes);
            Ok(())
        }
    }

    #[test]
    fn what_connections_bring_is_written_in_blocks_and_hashed() {
        for blocks in [0, 1, 3, 100] {
            for step in [1000, BLOCK_SIZE, 3 * BLOCK_SIZE + 7] {
                let scene = Scene::new(blocks, |_| Answer::Done);
                scene.bring(0..SIZE, step).unwrap();
                assert_eq!(scene.writer.hashed(), SIZE as u64, "{blocks} blocks, {step} at once");
                scene.commit().unwrap();
            }
        }
    }

    #[test]
    fn what_came_too_early_and_what_is_there_already_is_written_as_well() {
        let scene = Scene::new(100, |_| Answer::Done);
        scene.bring(5 * BLOCK_SIZE..SIZE, BLOCK_SIZE).unwrap();
        scene.bring(100..2 * BLOCK_SIZE + 100, 999).unwrap();
        scene.writer.write_at(0, &scene.bytes).unwrap();
        scene.commit().unwrap();
    }

    #[test]
    fn what_is_only_taken_does_not_count_as_written_when_it_comes_again() {
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let scene = Scene::new(100, move |_| {
            let _ = wait.recv();
            Answer::Done
        });
        scene.bring(0..2 * BLOCK_SIZE, BLOCK_SIZE).unwrap();
        let again = scene.writer.write_at(0, &scene.bytes[..3 * BLOCK_SIZE]).unwrap();
        assert_eq!((again.new, scene.writer.written()), (1 << 18, 1 << 18));
        drop(go);
        scene.bring(3 * BLOCK_SIZE..SIZE, BLOCK_SIZE).unwrap();
        scene.commit().unwrap();
    }

    #[test]
    fn who_follows_hashes_from_memory_what_is_not_written() {
        // A disk that writes nothing before all is hashed.
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let scene = Scene::new(100, move |operation| {
            if operation == Operation::Write {
                let _ = wait.recv();
            }
            Answer::Done
        });
        thread::scope(|scope| {
            // There is nothing to hash yet, so it has the hasher before there is.
            let follower = scope.spawn(|| scene.writer.follow());
            while !scene.writer.is_hashed_by_another() {
                thread::yield_now();
            }
            scene.bring(0..8 * BLOCK_SIZE, BLOCK_SIZE).unwrap();
            while scene.writer.hashed() < 8 * BLOCK_SIZE as u64 {
                thread::yield_now();
            }
            assert_eq!(scene.writer.written(), 0);
            assert_eq!(scene.writer.first_missing(0..SIZE as u64).unwrap().start, 8 << 18);
            drop(go);
            scene.bring(8 * BLOCK_SIZE..SIZE, BLOCK_SIZE).unwrap();
            follower.join().unwrap().unwrap();
        });
        scene.commit().unwrap();
    }

    #[test]
    fn fewer_blocks_than_are_worth_a_write_are_written_after_a_while_and_when_somebody_waits() {
        let scene = Scene::new(100, |_| Answer::Done);
        scene.bring(0..BLOCK_SIZE, BLOCK_SIZE).unwrap();
        while scene.writer.written() == 0 {
            thread::yield_now();
        }
        scene.bring(BLOCK_SIZE..2 * BLOCK_SIZE, BLOCK_SIZE).unwrap();
        scene.writer.drain();
        assert_eq!(scene.writer.written(), 2 * BLOCK_SIZE as u64);
        scene.bring(2 * BLOCK_SIZE..SIZE, BLOCK_SIZE).unwrap();
        scene.commit().unwrap();
    }

    #[test]
    fn a_dropped_stream_has_written_what_it_took() {
        let scene = Scene::new(100, |_| Answer::Done);
        let mut stream = Stream::new(&scene.writer, &scene.blocks);
        stream.write(0, &scene.bytes[..1000]).unwrap();
        assert_eq!(scene.writer.written(), 0);
        drop(stream);
        assert_eq!(scene.writer.written(), 1000);
        scene.bring(1000..SIZE, BLOCK_SIZE).unwrap();
        scene.commit().unwrap();
    }

    #[test]
    fn a_disk_that_wants_no_blocks_is_written_to_through_the_cache() {
        for refusal in [Errno::INVAL, Errno::OPNOTSUPP] {
            let mut calls = 0;
            let scene = Scene::new(100, move |_| {
                calls += 1;
                if calls == 1 { Answer::Fails(refusal) } else { Answer::Done }
            });
            scene.bring(0..SIZE, BLOCK_SIZE).unwrap();
            scene.commit().unwrap();
        }
    }

    #[test]
    fn a_disk_that_fails_is_named_to_whoever_writes_next() {
        for (errno, class) in [(Errno::IO, Class::DiskIo), (Errno::NOSPC, Class::DiskFull)] {
            let scene = Scene::new(100, move |_| Answer::Fails(errno));
            scene.bring(0..8 * BLOCK_SIZE, BLOCK_SIZE).unwrap_or_default();
            scene.writer.drain();
            assert_eq!(scene.writer.written(), 0);
            let next = scene.writer.write_at(8 << 18, &scene.bytes[8 << 18..]);
            assert_eq!(next.unwrap_err().class(), class);
            assert_eq!(scene.commit().unwrap_err().class(), class);
        }
    }
}
