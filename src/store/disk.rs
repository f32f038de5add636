//! The calls that change what is on disk, in one place; and a disk that fails, for the simulator.
//!
//! Which calls fail is [told](with_faults) to a thread, so that simulated pulls beside each other have
//! disks of their own. All others pay for it with a look at a variable.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{AtFlags, FallocateFlags, Mode};
use rustix::io::{Errno, retry_on_intr};

use crate::limits::WRITE_SIZE;

/// What is asked of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A file is made, or opened that could have been made.
    Create,
    /// A directory is made.
    MakeDirectory,
    /// Bytes are written.
    Write,
    /// A file is cut off, or extended.
    Truncate,
    /// Space is reserved.
    Reserve,
    /// The bytes of a file are waited for.
    Sync,
    /// The names in a directory are waited for.
    SyncNames,
    /// A file gets another name.
    Rename,
    /// A name is removed.
    Remove,
}

/// What a disk says to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answer {
    /// It is done.
    Done,
    /// So many bytes are written, at most; at least one.
    Short(usize),
    /// It is not.
    Fails(Errno),
}

type Faults = Box<dyn FnMut(Operation) -> Answer>;

thread_local! {
    static FAULTS: RefCell<Option<Faults>> = const { RefCell::new(None) };
}

/// While this lives, the thread has a disk with faults.
#[derive(Debug)]
pub struct FaultyDisk(());

/// Gives this thread a disk that answers as `faults` says, which must not use a disk itself.
pub fn with_faults(faults: impl FnMut(Operation) -> Answer + 'static) -> FaultyDisk {
    FAULTS.set(Some(Box::new(faults)));
    FaultyDisk(())
}

impl Drop for FaultyDisk {
    fn drop(&mut self) {
        FAULTS.set(None);
    }
}

fn answer(operation: Operation) -> Answer {
    FAULTS.with_borrow_mut(|faults| match faults {
        Some(faults) => faults(operation),
        None => Answer::Done,
    })
}

/// What is done before an operation.
pub(super) fn ask(operation: Operation) -> Result<(), Errno> {
    match answer(operation) {
        Answer::Fails(errno) => Err(errno),
        Answer::Done | Answer::Short(_) => Ok(()),
    }
}

/// Writes all of `bytes` at `at`, in steps that end at multiples of [`WRITE_SIZE`] of the file.
pub(super) fn write_all(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    Written(file).write_all_at(bytes, at)
}

/// Writes all of `blocks`, one behind the other, at `at` of a file that is open as `direct` for that
/// without the page cache. Where the disk wants them aligned in another way, or takes only some, the
/// cache does.
pub(super) fn write_direct(
    direct: &File,
    file: &File,
    blocks: &[&[u8]],
    mut at: u64,
) -> io::Result<()> {
    let write = || {
        ask(Operation::Write)?;
        let blocks: Vec<IoSlice<'_>> = blocks.iter().map(|block| IoSlice::new(block)).collect();
        rustix::io::pwritev(direct, &blocks, at)
    };
    let mut written = match retry_on_intr(write) {
        Err(Errno::INVAL | Errno::OPNOTSUPP) => 0,
        written => written?,
    };
    for block in blocks {
        let count = written.min(block.len());
        written -= count;
        write_all(file, &block[count..], at + count as u64)?;
        at += block.len() as u64;
    }
    Ok(())
}

/// A file on a disk that may fail. What is to be done about a short or an interrupted write, the
/// traits' own `write_all_at` and `write_all` know.
struct Written<'a>(&'a File);

impl FileExt for Written<'_> {
    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        self.0.read_at(bytes, at)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<usize> {
        let to_the_next = WRITE_SIZE - at % WRITE_SIZE;
        let step = usize::try_from(to_the_next).map_or(bytes.len(), |step| step.min(bytes.len()));
        self.0.write_at(part(&bytes[..step])?, at)
    }
}

/// Writes all of `bytes` at the end of a file that is open for that.
pub(super) fn append(file: &File, bytes: &[u8]) -> io::Result<()> {
    Written(file).write_all(bytes)
}

impl Write for Written<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(part(bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// What of a write the disk takes.
fn part(bytes: &[u8]) -> io::Result<&[u8]> {
    match answer(Operation::Write) {
        Answer::Done => Ok(bytes),
        Answer::Short(most) => Ok(bytes.get(..most.max(1)).unwrap_or(bytes)),
        Answer::Fails(errno) => Err(errno.into()),
    }
}

/// Makes a file as long as `size`.
pub(super) fn truncate(file: &File, size: u64) -> io::Result<()> {
    let truncate = || {
        ask(Operation::Truncate)?;
        rustix::fs::ftruncate(file, size)
    };
    Ok(retry_on_intr(truncate)?)
}

/// Reserves `size` bytes. The file's size stays what was really written.
pub(super) fn reserve(file: &File, size: u64) -> Result<(), Errno> {
    retry_on_intr(|| {
        ask(Operation::Reserve)?;
        rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, size)
    })
}

/// Waits until a file's bytes are on disk, and all that is known of it.
pub(super) fn sync(file: &File) -> io::Result<()> {
    let sync = || {
        ask(Operation::Sync)?;
        rustix::fs::fsync(file)
    };
    Ok(retry_on_intr(sync)?)
}

/// Waits until a file's bytes are on disk.
pub(super) fn sync_data(file: &File) -> io::Result<()> {
    let sync = || {
        ask(Operation::Sync)?;
        rustix::fs::fdatasync(file)
    };
    Ok(retry_on_intr(sync)?)
}

/// Waits until the names in a directory are on disk.
pub(super) fn sync_names(directory: impl AsFd) -> Result<(), Errno> {
    retry_on_intr(|| {
        ask(Operation::SyncNames)?;
        rustix::fs::fsync(&directory)
    })
}

/// Makes a directory.
pub(super) fn make_directory(parent: impl AsFd, name: &str, mode: Mode) -> Result<(), Errno> {
    ask(Operation::MakeDirectory)?;
    rustix::fs::mkdirat(parent, name, mode)
}

/// Gives a file another name, replacing what has it.
pub(super) fn rename(
    from: impl AsFd,
    name: &str,
    to: impl AsFd,
    new_name: &str,
) -> Result<(), Errno> {
    ask(Operation::Rename)?;
    rustix::fs::renameat(from, name, to, new_name)
}

/// Removes a directory, which must be empty.
pub(super) fn remove_directory(parent: impl AsFd, name: &str) -> Result<(), Errno> {
    ask(Operation::Remove)?;
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}

/// Removes the name of a file.
pub(super) fn remove(directory: impl AsFd, name: &str) -> Result<(), Errno> {
    ask(Operation::Remove)?;
    rustix::fs::unlinkat(directory, name, AtFlags::empty())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    #[test]
    fn writes_end_where_steps_of_the_file_do() {
        let step = usize::try_from(WRITE_SIZE).unwrap();
        let file = tempfile::tempfile().unwrap();
        // The end of a step, two whole ones, and the beginning of one.
        let bytes: Vec<u8> = (0..3 * step).map(|index| (index / 11) as u8).collect();
        let writes = Rc::new(Cell::new(0));
        let counted = Rc::clone(&writes);
        let faulty = with_faults(move |_| {
            counted.set(counted.get() + 1);
            Answer::Done
        });
        write_all(&file, &bytes, WRITE_SIZE - 10).unwrap();
        drop(faulty);
        assert_eq!(writes.get(), 4);
        let mut found = vec![0; bytes.len()];
        file.read_exact_at(&mut found, WRITE_SIZE - 10).unwrap();
        assert!(found == bytes);
    }
}
