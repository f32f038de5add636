//! Files that are being written, in `.ringpull/partial/`. Each belongs to one writer, and ends in one
//! of three ways: renamed to where it is seen, removed, or kept for a later process to go on with.
//!
//! Only a blob that was [claimed](Partial::claim) is kept. Its name is its digest, so that processes
//! meet at it, and beside it lies its [journal](super::journal). All others have unique names.
//!
//! A writer holds a `flock` on its file for as long as it lives. The kernel drops it with the
//! process, however that ends, so a partial that can be locked is one that nobody is writing.

use std::fs::{File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::Mode;

use super::directory::{Directory, Stamp};
use super::disk;
use super::journal::{self, Believed, Subject};
use super::lock::{self, Unlocks, unlock};
use super::{PARTIALS, Store, StoreError, relative_blob_path};
use crate::image::{Algorithm, Digest};
use crate::limits::{GARBAGE_AGE_MIN, PARTIAL_AGE_MAX, PARTIAL_NAMES_MAX, STAMP_BACKDATE};

/// Permissions of a file that is not finished.
const UNFINISHED: Mode = Mode::from_raw_mode(0o600);

/// A file that is being written. Dropped before [`Partial::publish`], it is removed, unless it is to
/// be [kept](Partial::keep).
#[derive(Debug)]
pub(super) struct Partial {
    directory: Arc<Directory>,
    name: String,
    file: File,
    /// Whether it has a journal beside it.
    claimed: bool,
    kept: AtomicBool,
    /// The name is not this file's any more.
    gone: AtomicBool,
}

/// What came of claiming a partial.
#[derive(Debug)]
pub(super) enum Claimed {
    /// It is ours.
    Ours(Partial),
    /// Somebody is writing it.
    Held,
    /// The file system has no locks, or the file is another user's.
    Unlockable,
}

impl Partial {
    /// Creates an empty file whose name begins with `stem`, readable for this user alone.
    pub(super) fn create(directory: &Arc<Directory>, stem: &str) -> Result<Partial, StoreError> {
        for _ in 0..PARTIAL_NAMES_MAX {
            let name = format!("{stem}.{:016x}", fastrand::u64(..));
            let Some(file) = directory.create(&name)? else {
                continue;
            };
            let partial = Partial::new(directory, name, file, false);
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
        Err(names_taken(directory))
    }

    /// Takes the partial of a blob, as it is or empty, unless somebody else has it.
    pub(super) fn claim(
        directory: &Arc<Directory>,
        digest: &Digest,
    ) -> Result<Claimed, StoreError> {
        let name = name_of(digest);
        for _ in 0..PARTIAL_NAMES_MAX {
            let file = match directory.file_to_write(&name) {
                Ok(file) => file,
                Err(StoreError::Disk { source, .. })
                    if source.kind() == std::io::ErrorKind::PermissionDenied =>
                {
                    return Ok(Claimed::Unlockable);
                }
                Err(error) => return Err(error),
            };
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(Claimed::Held),
                Err(TryLockError::Error(_)) => return Ok(Claimed::Unlockable),
            }
            // Before the lock another process may have published or removed this very file. With it,
            // nobody can.
            if directory.is_name_of(&name, &file)? {
                return Ok(Claimed::Ours(Partial::new(directory, name, file, true)));
            }
        }
        Err(names_taken(directory))
    }

    fn new(directory: &Arc<Directory>, name: String, file: File, claimed: bool) -> Partial {
        let (kept, gone) = (AtomicBool::new(false), AtomicBool::new(false));
        Partial { directory: Arc::clone(directory), name, file, claimed, kept, gone }
    }

    /// The file, open for reading and writing.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// The file, open for writing past the page cache, where the file system lets it be.
    pub(super) fn direct_file(&self) -> Option<File> {
        let file = self.directory.file_to_write_directly(&self.name)?;
        // Somebody else may have put another in its place.
        let (ours, opened) = (self.file.metadata().ok()?, file.metadata().ok()?);
        ((ours.dev(), ours.ino()) == (opened.dev(), opened.ino())).then_some(file)
    }

    /// Where it is.
    pub(super) fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    /// Its name there.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// A failed call on the file.
    pub(super) fn failed(&self, action: &'static str, error: std::io::Error) -> StoreError {
        StoreError::io(action, &self.directory.path().join(&self.name), error)
    }

    /// Whether the name is still this file's.
    pub(super) fn is_ours(&self) -> bool {
        !self.gone.load(Ordering::Relaxed)
    }

    /// From now on the file is worth to be gone on with: it stays when this is dropped.
    pub(super) fn keep(&self) {
        self.kept.store(self.claimed, Ordering::Relaxed);
    }

    /// Removes the file, now: nothing of it is to be believed. Who has it open may go on to use it,
    /// in vain.
    pub(super) fn discard(&self) {
        if self.gone.swap(true, Ordering::Relaxed) {
            return;
        }
        // The journal first: without it the file is a left-over. Should either fail, the next sweep
        // finds it.
        if self.claimed {
            let _ = self.directory.remove(&journal::name_of(&self.name));
        }
        let _ = self.directory.remove(&self.name);
    }

    /// Gives the file a time of its last write that lies [`STAMP_BACKDATE`] ago, so that any later
    /// write changes it: without this, one within the same tick of the file system's clock would not.
    /// All of it must be written. Where that cannot be, the stamp is too young to be
    /// [recorded](super::verified).
    pub(super) fn backdate(&self) {
        if let Some(earlier) = SystemTime::now().checked_sub(STAMP_BACKDATE) {
            let _ = self.file.set_modified(earlier);
        }
    }

    /// Prepares the file to be seen: its permissions and, with `durable`, its bytes on disk.
    ///
    /// After an error the file must not be published: the kernel reports a failed write-back once,
    /// and a second fsync would succeed over lost bytes.
    pub(super) fn finish(&self, mode: Mode, durable: bool) -> Result<(), StoreError> {
        // A file system without permissions refuses, and then there is nothing to be set.
        let _ = rustix::fs::fchmod(&self.file, mode);
        if durable {
            disk::sync(&self.file).map_err(|error| self.failed("sync", error))?;
        }
        Ok(())
    }

    /// Gives the finished file its final name in `target`, replacing what is there.
    pub(super) fn publish(&self, target: &Directory, name: &str) -> Result<Stamp, StoreError> {
        if let Err(error) = self.directory.rename(&self.name, target, name) {
            let _ = rustix::fs::fchmod(&self.file, UNFINISHED);
            return Err(error);
        }
        self.gone.store(true, Ordering::Relaxed);
        if self.claimed {
            // Alone it says nothing, and the next sweep would find it.
            let _ = self.directory.remove(&journal::name_of(&self.name));
        }
        let metadata = self.file.metadata().map_err(|error| self.failed("look at", error))?;
        Ok(Stamp::of(&metadata))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.kept.load(Ordering::Relaxed) {
            self.discard();
        }
        unlock(&self.file);
    }
}

fn names_taken(directory: &Directory) -> StoreError {
    let taken = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
    StoreError::io("create a file in", directory.path(), taken)
}

/// The name of the partial of a blob that may be gone on with.
pub(super) fn name_of(digest: &Digest) -> String {
    format!("{}-{}", digest.algorithm().name(), digest.hex())
}

/// The blob that a partial of this name is a part of.
fn digest_of(name: &str) -> Option<Digest> {
    let (algorithm, hex) = name.split_once('-')?;
    let known = [Algorithm::Sha256, Algorithm::Sha512].map(Algorithm::name);
    known.contains(&algorithm).then(|| Digest::parse(&format!("{algorithm}:{hex}")).ok())?
}

/// Files that were removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Number of files; a journal goes with its partial, and does not count.
    pub files: u64,
    /// Their sizes in bytes, added up.
    pub bytes: u64,
}

impl Swept {
    pub(super) fn add(&mut self, bytes: u64) {
        self.files = self.files.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// A partial blob that is kept for a pull to go on with, or is being written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptPartial {
    /// Which blob.
    pub digest: Digest,
    /// Its whole size in bytes, if the journal says.
    pub size: Option<u64>,
    /// Bytes of it that are here.
    pub kept: u64,
    /// Bytes that it takes on disk, those reserved included.
    pub allocated: u64,
    /// How long ago it was written to.
    pub age: Duration,
    /// Whether a process is writing it.
    pub busy: bool,
}

/// Which of the partials that nobody writes a sweep is to remove, besides those of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sweep {
    /// Those that were not written to for [`PARTIAL_AGE_MAX`].
    Aged,
    /// All.
    All,
}

/// Removes the partials whose writers are gone and that no pull can or should go on with; only
/// counts them, if `dry`. What cannot be opened, or is not a regular file, is not ours and stays.
/// Nobody goes on with a blob that the store has by now, which `is_stored` tells.
pub(super) fn sweep(
    partials: &Directory,
    which: Sweep,
    dry: bool,
    is_stored: impl Fn(&Digest) -> bool,
) -> Result<Swept, StoreError> {
    let mut swept = Swept::default();
    for name in partials.names()? {
        let Some(name) = name.to_str() else { continue };
        if let Some(partial) = name.strip_suffix(journal::SUFFIX) {
            // Writers make the partial first, and remove it last.
            if !dry && matches!(partials.file(partial), Ok(None)) {
                partials.remove(name)?;
            }
            continue;
        }
        let Ok(Some(file)) = partials.file_to_lock(name) else { continue };
        let held = match file.try_lock() {
            Ok(()) => Some(Unlocks(&file)),
            Err(TryLockError::Error(error)) if lock::is_missing(&error) => None,
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => continue,
        };
        let Ok(metadata) = file.metadata() else { continue };
        let resumable = digest_of(name)
            .filter(|digest| !is_stored(digest))
            .and_then(|digest| believed(partials, name, &digest, &file));
        let age_min = match (resumable, which) {
            (Some(_), Sweep::Aged) => PARTIAL_AGE_MAX,
            _ if held.is_some() => Duration::ZERO,
            // Without locks nobody can tell whether it is being written, except by its age.
            _ => GARBAGE_AGE_MIN,
        };
        if age(&metadata) < age_min {
            continue;
        }
        // Should its writer have published it just before the lock, the name is free, or another's.
        // After a power cut in that moment it may still be there, beside the new one.
        if !matches!(partials.is_only_name_of(name, &file), Ok(Some(_))) {
            continue;
        }
        if !dry {
            let _ = partials.remove(&journal::name_of(name));
            if !partials.remove(name)? {
                continue;
            }
        }
        swept.add(metadata.len());
    }
    Ok(swept)
}

/// The partials that a pull can go on with, or that are being written, in the order of their digests.
pub(super) fn kept(partials: &Directory) -> Result<Vec<KeptPartial>, StoreError> {
    let mut kept = Vec::new();
    for name in partials.names()? {
        let Some(name) = name.to_str() else { continue };
        let Some(digest) = digest_of(name) else { continue };
        let Ok(Some(file)) = partials.file(name) else { continue };
        let Ok(metadata) = file.metadata() else { continue };
        // Shared, so that two who look do not see each other.
        let busy = matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock));
        let _held = (!busy).then(|| Unlocks(&file));
        let believed = believed(partials, name, &digest, &file);
        if believed.is_none() && !busy {
            continue;
        }
        kept.push(KeptPartial {
            digest,
            size: journal::blob_size(partials, name),
            kept: believed.map_or(0, |believed| believed.written.size()),
            allocated: allocated(&metadata),
            age: age(&metadata),
            busy,
        });
    }
    kept.sort_by_key(|partial| partial.digest.to_string());
    Ok(kept)
}

/// What the journal of a partial says is there, if that is anything.
fn believed(partials: &Directory, name: &str, digest: &Digest, file: &File) -> Option<Believed> {
    let metadata = file.metadata().ok()?;
    let size = journal::blob_size(partials, name)?;
    let subject = Subject { digest: *digest, size, inode: metadata.ino() };
    let believed = journal::read(partials, name, &subject, metadata.len());
    (!believed.written.is_empty()).then_some(believed)
}

fn age(metadata: &std::fs::Metadata) -> Duration {
    let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    // A time to come is as good as now.
    SystemTime::now().duration_since(modified).unwrap_or_default()
}

/// The bytes that a file takes, those reserved included; none, if that cannot be told.
pub(super) fn allocated_by(file: &File) -> u64 {
    file.metadata().map_or(0, |metadata| allocated(&metadata))
}

/// Blocks are counted in 512 bytes.
fn allocated(metadata: &std::fs::Metadata) -> u64 {
    metadata.blocks().saturating_mul(512)
}

impl Store {
    pub(super) fn sweep_partials(&self, which: Sweep, dry: bool) -> Result<Swept, StoreError> {
        let Some(partials) = self.root().directory(PARTIALS)? else { return Ok(Swept::default()) };
        let is_stored =
            |digest: &Digest| matches!(self.root().file(&relative_blob_path(digest)), Ok(Some(_)));
        sweep(&partials, which, dry, is_stored)
    }

    /// Where the partial of a blob is that a pull can go on with, for messages.
    pub(crate) fn partial_path(&self, digest: &Digest) -> std::path::PathBuf {
        self.path().join(PARTIALS).join(name_of(digest))
    }

    /// Bytes of this disk that the partial of a blob has taken already.
    /// Bytes of a blob that its partial holds, as far as the journal vouches for them. Neither waits for
    /// a process that writes it, nor disturbs one.
    pub fn kept_of(&self, digest: &Digest) -> u64 {
        let Ok(Some(partials)) = self.root().directory(PARTIALS) else { return 0 };
        let name = name_of(digest);
        let file = partials.file(&name).ok().flatten();
        let believed = file.and_then(|file| believed(&partials, &name, digest, &file));
        believed.map_or(0, |believed| believed.written.size())
    }

    pub(super) fn allocated_for(&self, digest: &Digest) -> u64 {
        let partials = self.root().directory(PARTIALS).ok().flatten();
        let file = partials.and_then(|partials| partials.file(&name_of(digest)).ok().flatten());
        file.map_or(0, |file| allocated_by(&file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partials() -> (tempfile::TempDir, Arc<Directory>) {
        let temporary = tempfile::tempdir().unwrap();
        let directory = Directory::open_or_create(temporary.path(), true).unwrap();
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

    /// As a child of this process does between fork and exec.
    #[test]
    fn a_lock_ends_with_its_holder_though_somebody_shares_the_open_file() {
        let (_guard, directory) = partials();
        let digest = Digest::of(Algorithm::Sha256, b"blob");
        for kept in [true, false] {
            let Claimed::Ours(first) = Partial::claim(&directory, &digest).unwrap() else {
                panic!()
            };
            if kept {
                first.keep();
            }
            let _shared = first.file().try_clone().unwrap();
            assert!(matches!(Partial::claim(&directory, &digest).unwrap(), Claimed::Held));
            drop(first);
            let Claimed::Ours(second) = Partial::claim(&directory, &digest).unwrap() else {
                panic!()
            };
            drop(second);
        }
    }

    #[test]
    fn a_sweep_takes_only_what_nobody_holds() {
        let (guard, directory) = partials();
        let alive = Partial::create(&directory, "alive").unwrap();
        std::fs::write(guard.path().join("dead.1"), "12345").unwrap();
        std::fs::create_dir(guard.path().join("foreign")).unwrap();
        std::os::unix::fs::symlink("dead.1", guard.path().join("link")).unwrap();
        assert_eq!(
            sweep(&directory, Sweep::Aged, false, |_| false).unwrap(),
            Swept { files: 1, bytes: 5 }
        );
        assert_eq!(sweep(&directory, Sweep::Aged, false, |_| false).unwrap(), Swept::default());
        assert_eq!(directory.names().unwrap().len(), 3);
        drop(alive);
    }

    /// As a power cut may leave it amid a rename.
    #[test]
    fn a_sweep_takes_a_name_whose_file_has_another() {
        let (guard, directory) = partials();
        std::fs::write(guard.path().join("old.1"), "12345").unwrap();
        std::fs::create_dir(guard.path().join("blobs")).unwrap();
        std::fs::hard_link(guard.path().join("old.1"), guard.path().join("blobs/new")).unwrap();
        sweep(&directory, Sweep::Aged, false, |_| true).unwrap();
        assert_eq!(directory.names().unwrap(), ["blobs"]);
        assert_eq!(std::fs::read(guard.path().join("blobs/new")).unwrap(), b"12345");
    }

    /// A partial blob that nobody writes, with a journal of its first bytes.
    fn left_behind(directory: &Arc<Directory>, content: &[u8]) -> String {
        let digest = Digest::of(Algorithm::Sha256, content);
        let Claimed::Ours(partial) = Partial::claim(directory, &digest).unwrap() else { panic!() };
        let inode = partial.file().metadata().unwrap().ino();
        let subject = Subject { digest, size: content.len() as u64, inode };
        let mut file = partial.file();
        std::io::Write::write_all(&mut file, &content[..3]).unwrap();
        let mut journal =
            journal::Journal::new(directory, partial.name(), subject, Believed::default());
        let mut written = crate::store::extents::Extents::default();
        written.insert(0..3);
        journal.append(journal::Kind::Written, &written).unwrap();
        partial.keep();
        name_of(&digest)
    }

    #[test]
    fn a_sweep_leaves_what_can_be_gone_on_with_until_it_is_too_old() {
        let (guard, directory) = partials();
        let swept = |which| sweep(&directory, which, false, |_| false).unwrap().files;
        let new = left_behind(&directory, b"new blob");
        let old = left_behind(&directory, b"old blob");
        let file = File::options().write(true).open(guard.path().join(&old)).unwrap();
        file.set_modified(SystemTime::now() - PARTIAL_AGE_MAX).unwrap();
        drop(file);
        assert_eq!(
            sweep(&directory, Sweep::Aged, true, |_| false).unwrap(),
            Swept { files: 1, bytes: 3 }
        );
        assert_eq!(directory.names().unwrap().len(), 4);
        assert_eq!(swept(Sweep::Aged), 1);
        let mut names = directory.names().unwrap();
        names.sort();
        assert_eq!(names, [new.as_str(), &journal::name_of(&new)]);
        let kept = kept(&directory).unwrap();
        assert_eq!((kept[0].kept, kept[0].size, kept[0].busy), (3, Some(8), false));

        // Without a journal, with a torn one, with one that says more than there is; and a journal
        // alone.
        let torn = left_behind(&directory, b"torn blob");
        std::fs::write(guard.path().join(journal::name_of(&torn)), "ringpull 1 sha").unwrap();
        let bare = left_behind(&directory, b"bare blob");
        std::fs::remove_file(guard.path().join(journal::name_of(&bare))).unwrap();
        let short = left_behind(&directory, b"short blob");
        File::options().write(true).open(guard.path().join(short)).unwrap().set_len(2).unwrap();
        let alone = left_behind(&directory, b"journal alone");
        std::fs::remove_file(guard.path().join(alone)).unwrap();
        assert_eq!(swept(Sweep::Aged), 3);
        assert_eq!(directory.names().unwrap().len(), 2);

        left_behind(&directory, b"blob that is there");
        let there = Digest::of(Algorithm::Sha256, b"blob that is there");
        let is_stored = |digest: &Digest| *digest == there;
        assert_eq!(sweep(&directory, Sweep::Aged, false, is_stored).unwrap().files, 1);

        let digest = Digest::of(Algorithm::Sha256, b"new blob");
        let held = Partial::claim(&directory, &digest).unwrap();
        assert!(matches!(Partial::claim(&directory, &digest).unwrap(), Claimed::Held));
        assert_eq!(swept(Sweep::All), 0, "somebody writes it");
        let Claimed::Ours(held) = held else { panic!() };
        held.keep();
        drop(held);
        assert_eq!(swept(Sweep::All), 1);
        assert!(directory.names().unwrap().is_empty());
    }

    #[test]
    fn a_partial_that_was_published_or_removed_meanwhile_is_not_claimed() {
        let (_guard, directory) = partials();
        let digest = Digest::of(Algorithm::Sha256, b"blob");
        let Claimed::Ours(first) = Partial::claim(&directory, &digest).unwrap() else { panic!() };
        first.discard();
        // The name is free at once, and not the first one's any more.
        let Claimed::Ours(second) = Partial::claim(&directory, &digest).unwrap() else { panic!() };
        drop(first);
        assert!(directory.is_name_of(second.name(), second.file()).unwrap());
        second.publish(&directory, "final").unwrap();
        let Claimed::Ours(third) = Partial::claim(&directory, &digest).unwrap() else { panic!() };
        drop((second, third));
        assert_eq!(directory.names().unwrap(), ["final"]);
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
