//! Files that are being written. Each has a unique name in `.ringpull/partial/`, belongs to one
//! writer, and ends in one of two ways: renamed to where it is seen, or removed.
//!
//! A writer holds a `flock` on its file for as long as it lives. The kernel drops it with the
//! process, however that ends, so a partial that can be locked is one that nobody will finish.

use std::fs::{File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use rustix::fs::Mode;

use super::StoreError;
use super::directory::{Directory, Stamp};
use crate::limits::PARTIAL_NAMES_MAX;

/// A file that is being written. Dropped before [`Partial::publish`], it is removed.
#[derive(Debug)]
pub(super) struct Partial {
    directory: Arc<Directory>,
    name: String,
    file: File,
    published: bool,
}

impl Partial {
    /// Creates an empty file whose name begins with `stem`, readable for this user alone.
    pub(super) fn create(directory: &Arc<Directory>, stem: &str) -> Result<Partial, StoreError> {
        for _ in 0..PARTIAL_NAMES_MAX {
            let name = format!("{stem}.{:016x}", fastrand::u64(..));
            let Some(file) = directory.create(&name)? else {
                continue;
            };
            let directory = Arc::clone(directory);
            let partial = Partial { directory, name, file, published: false };
            // Between its creation and its lock a sweep may have taken the file for a left-over.
            match partial.file.try_lock() {
                Err(TryLockError::WouldBlock) => continue,
                // Where files cannot be locked, sweeps cannot lock them either, and keep off.
                Ok(()) | Err(TryLockError::Error(_)) => {}
            }
            let metadata =
                partial.file.metadata().map_err(|error| partial.failed("look at", error))?;
            if metadata.nlink() > 0 {
                return Ok(partial);
            }
        }
        let taken = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
        Err(StoreError::io("create a file in", directory.path(), taken))
    }

    /// The file, open for reading and writing.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// A failed call on the file.
    pub(super) fn failed(&self, action: &'static str, error: std::io::Error) -> StoreError {
        StoreError::io(action, &self.directory.path().join(&self.name), error)
    }

    /// Prepares the file to be seen: its permissions and, with `durable`, its bytes on disk.
    ///
    /// After an error the file must not be published: the kernel reports a failed write-back once,
    /// and a second fsync would succeed over lost bytes.
    pub(super) fn finish(&self, mode: Mode, durable: bool) -> Result<(), StoreError> {
        // A file system without permissions refuses, and then there is nothing to be set.
        let _ = rustix::fs::fchmod(&self.file, mode);
        if durable {
            self.file.sync_all().map_err(|error| self.failed("sync", error))?;
        }
        Ok(())
    }

    /// Gives the finished file its final name in `target`, replacing what is there.
    pub(super) fn publish(mut self, target: &Directory, name: &str) -> Result<Stamp, StoreError> {
        self.directory.rename(&self.name, target, name)?;
        self.published = true;
        let metadata = self.file.metadata().map_err(|error| self.failed("look at", error))?;
        Ok(Stamp::of(&metadata))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.published {
            // Should it fail, the next sweep finds the file.
            let _ = self.directory.remove(&self.name);
        }
    }
}

/// What a sweep removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Number of files.
    pub files: u64,
    /// Their sizes in bytes, added up.
    pub bytes: u64,
}

/// Removes the partials whose writers are gone. What cannot be opened, or is not a regular file, is
/// not ours and stays.
pub(super) fn sweep(partials: &Directory) -> Result<Swept, StoreError> {
    let mut swept = Swept::default();
    for name in partials.names()? {
        let Some(name) = name.to_str() else { continue };
        let Ok(Some(file)) = partials.file(name) else { continue };
        if file.try_lock().is_err() {
            continue;
        }
        let size = file.metadata().map_or(0, |metadata| metadata.len());
        // Names are unique and never used again: should the writer have published the file just
        // before the lock, there is nothing under this name any more.
        if partials.remove(name)? {
            swept.files = swept.files.saturating_add(1);
            swept.bytes = swept.bytes.saturating_add(size);
        }
    }
    Ok(swept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partials() -> (tempfile::TempDir, Arc<Directory>) {
        let temporary = tempfile::tempdir().unwrap();
        let directory = Directory::open_or_create(temporary.path(), false).unwrap();
        (temporary, Arc::new(directory))
    }

    #[test]
    fn a_dropped_partial_leaves_nothing() {
        let (_guard, directory) = partials();
        let partial = Partial::create(&directory, "blob").unwrap();
        let mode = partial.file().metadata().unwrap().mode() & 0o777;
        assert_eq!(mode, 0o600);
        assert_eq!(directory.names().unwrap().len(), 1);
        drop(partial);
        assert!(directory.names().unwrap().is_empty());
    }

    #[test]
    fn a_sweep_takes_only_what_nobody_holds() {
        let (guard, directory) = partials();
        let alive = Partial::create(&directory, "alive").unwrap();
        std::fs::write(guard.path().join("dead.1"), "12345").unwrap();
        std::fs::create_dir(guard.path().join("foreign")).unwrap();
        std::os::unix::fs::symlink("dead.1", guard.path().join("link")).unwrap();
        assert_eq!(sweep(&directory).unwrap(), Swept { files: 1, bytes: 5 });
        assert_eq!(sweep(&directory).unwrap(), Swept::default());
        assert_eq!(directory.names().unwrap().len(), 3);
        drop(alive);
    }

    #[test]
    fn a_published_file_has_its_final_name_only() {
        let (guard, directory) = partials();
        let partial = Partial::create(&directory, "blob").unwrap();
        partial.finish(Mode::RUSR | Mode::RGRP, true).unwrap();
        partial.publish(&directory, "final").unwrap();
        assert_eq!(directory.names().unwrap(), ["final"]);
        let metadata = std::fs::metadata(guard.path().join("final")).unwrap();
        assert_eq!(metadata.mode() & 0o777, 0o440);
    }
}
