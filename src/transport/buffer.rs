//! The buffer that travels through an engine: handed over whole, handed back whole.

/// Bytes received and not yet consumed, with room for more.
///
/// ```text
///   0 ……… start ▒▒▒▒▒▒▒▒ end ……………… capacity
///         └ filled ┘      └ spare ┘
/// ```
///
/// The memory is zeroed once, when the buffer is made (fresh pages from the kernel are zero
/// already, so that costs nothing), and never moves while an operation owns the buffer.
pub struct Buffer {
    /// A `Vec` and not a boxed slice: moving it must not assert unique access to what the kernel
    /// may be writing.
    storage: Vec<u8>,
    start: usize,
    end: usize,
    /// How much of the spare room is offered.
    offered: usize,
}

impl Buffer {
    /// An empty buffer of `capacity` bytes.
    pub fn new(capacity: usize) -> Buffer {
        Buffer { storage: vec![0; capacity], start: 0, end: 0, offered: usize::MAX }
    }

    /// How many bytes it can hold in all.
    pub fn capacity(&self) -> usize {
        self.storage.len()
    }

    /// The bytes that wait to be consumed.
    pub fn filled(&self) -> &[u8] {
        &self.storage[self.start..self.end]
    }

    /// The same bytes, to be changed in place.
    pub fn filled_mut(&mut self) -> &mut [u8] {
        &mut self.storage[self.start..self.end]
    }

    /// Whether no byte waits.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Forgets the first `count` bytes, or all if there are fewer.
    pub fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// The room behind the bytes, as far as it is [offered](Buffer::offer).
    pub fn spare(&mut self) -> &mut [u8] {
        let end = self.end.saturating_add(self.offered).min(self.storage.len());
        &mut self.storage[self.end..end]
    }

    /// Offers at most `count` bytes of its room from now on, at least one.
    pub fn offer(&mut self, count: usize) {
        self.offered = count.max(1);
    }

    /// Counts the first `count` bytes of [`spare`](Buffer::spare) as filled.
    pub fn advance(&mut self, count: usize) {
        self.end = (self.end + count).min(self.storage.len());
    }

    /// Makes room for at least `count` bytes: moves what waits to the front, and grows if that is
    /// not enough. Who calls it with a `count` that a peer chose bounds that first.
    pub fn reserve(&mut self, count: usize) {
        if self.storage.len() - self.end >= count {
            return;
        }
        self.storage.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.storage.len() - self.end < count {
            self.storage.resize(self.end + count, 0);
        }
    }

    /// Appends `bytes`, growing if needed.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        self.storage[self.end..][..bytes.len()].copy_from_slice(bytes);
        self.advance(bytes.len());
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the bytes: they may hold a token.
        write!(f, "Buffer({} of {} bytes)", self.end - self.start, self.capacity())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_as_they_went_in() {
        let mut buffer = Buffer::new(4);
        buffer.extend(b"abcd");
        buffer.consume(3);
        assert_eq!(buffer.filled(), b"d");
        buffer.extend(b"ef");
        assert_eq!((buffer.filled(), buffer.capacity()), (&b"def"[..], 4));
        buffer.extend(b"ghi");
        assert_eq!((buffer.filled(), buffer.capacity()), (&b"defghi"[..], 6));
        buffer.consume(100);
        assert!(buffer.is_empty());
        assert_eq!(buffer.spare().len(), 6);
        buffer.offer(4);
        assert_eq!(buffer.spare().len(), 4);
        buffer.extend(b"abcde");
        assert_eq!(buffer.filled(), b"abcde");
        assert_eq!(buffer.spare().len(), 1);
    }
}
