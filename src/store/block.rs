//! Memory in blocks: whole pages, as disks take them without the page cache between, and no more of
//! them than were allowed.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::limits::{BLOCK_ALIGNMENT, BLOCK_SIZE};

/// So many blocks, shared by those who write. They are made when they are first used.
#[derive(Debug)]
pub struct Blocks {
    /// How many may be made yet.
    left: AtomicUsize,
    /// Those that nobody uses.
    free: Mutex<Vec<Vec<u8>>>,
}

impl Blocks {
    /// At most `most` blocks of [`BLOCK_SIZE`] bytes.
    pub fn new(most: usize) -> Arc<Blocks> {
        Arc::new(Blocks { left: AtomicUsize::new(most), free: Mutex::default() })
    }

    /// An empty block; `None` while all are in use.
    pub fn take(self: &Arc<Blocks>) -> Option<Block> {
        let made = self.free().pop();
        let memory = made.or_else(|| {
            let one_less = |left: usize| left.checked_sub(1);
            let order = Ordering::Relaxed;
            self.left.fetch_update(order, order, one_less).ok()?;
            Some(vec![0; BLOCK_SIZE + BLOCK_ALIGNMENT])
        })?;
        // Should the offset not be known, the block is not aligned, and the disk will say so.
        let start = memory.as_ptr().align_offset(BLOCK_ALIGNMENT);
        let start = if start < BLOCK_ALIGNMENT { start } else { 0 };
        Some(Block { memory, start, filled: 0, blocks: Arc::clone(self) })
    }

    fn free(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        // Nothing panics while it is held.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Memory for [`BLOCK_SIZE`] bytes that begins at a page. Goes back to where it came from when it is
/// dropped.
pub struct Block {
    /// Never resized, so it does not move.
    memory: Vec<u8>,
    start: usize,
    filled: usize,
    blocks: Arc<Blocks>,
}

impl Block {
    /// The bytes that are in it.
    pub fn bytes(&self) -> &[u8] {
        self.memory.get(self.start..self.start + self.filled).unwrap_or_default()
    }

    /// Whether it has no room left.
    pub fn is_full(&self) -> bool {
        self.filled == BLOCK_SIZE
    }

    /// Copies the first of `bytes` into it, as many as there is room for; how many.
    pub fn fill(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(BLOCK_SIZE - self.filled);
        let room = self.start + self.filled;
        self.memory[room..room + count].copy_from_slice(&bytes[..count]);
        self.filled += count;
        count
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.blocks.free().push(std::mem::take(&mut self.memory));
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Block({} bytes)", self.filled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_no_more_than_allowed_and_each_begins_at_a_page() {
        let blocks = Blocks::new(2);
        let (mut first, second) = (blocks.take().unwrap(), blocks.take().unwrap());
        assert!(blocks.take().is_none());
        assert_eq!(first.fill(b"abc"), 3);
        assert_eq!(first.fill(&vec![1; BLOCK_SIZE]), BLOCK_SIZE - 3);
        assert!(first.is_full() && first.bytes().starts_with(b"abc\x01"));
        drop(first);
        let again = blocks.take().unwrap();
        assert!(again.bytes().is_empty() && blocks.take().is_none());
        for block in [again, second] {
            assert_eq!(block.memory[block.start..].as_ptr() as usize % BLOCK_ALIGNMENT, 0);
        }
    }
}
