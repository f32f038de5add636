//! Files beneath a directory that is held open: no path of a store is ever resolved from the root
//! of the file system twice, and none leads through a symbolic link.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use rustix::fs::{AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, retry_on_intr};

use super::StoreError;
use super::disk::{self, Operation};
use crate::limits::{LOCK_PAUSE_MAX, ROOT_TRIES_MAX, STAMP_AGE_MIN};
use crate::limits::{OPEN_PAUSE, OPEN_TRIES};

/// Permissions a new directory or lock file is given, before the process's umask.
const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o777);

/// A directory held open. Its path is used for messages only, except that of the store itself,
/// which is opened once.
///
/// Names given to the methods come from the store's own code, never from a document: constants, and
/// digits made from a [`crate::image::Digest`].
#[derive(Debug)]
pub(super) struct Directory {
    fd: OwnedFd,
    path: PathBuf,
    /// Of a store's own directory: what was created to have it, the innermost first.
    made: Vec<PathBuf>,
    /// Why names cannot be synced here. Shared with all directories beneath.
    unsyncable: Arc<OnceLock<Errno>>,
}

impl Directory {
    /// Opens the directory that the user named, creating it and its parents where missing. With
    /// `durable`, what was created survives a power cut.
    ///
    /// Parents may be symbolic links, as `/tmp` is on some systems; the directory itself may not.
    ///
    /// While it is open no other process [removes](Directory::remove_if_unused) it as unused.
    pub(super) fn open_or_create(path: &Path, durable: bool) -> Result<Directory, StoreError> {
        // `link/` and `link/.` would follow the link in spite of O_NOFOLLOW.
        let path: PathBuf = path.components().collect();
        let mut made = Vec::new();
        let mut tries = 0;
        loop {
            tries += 1;
            match Directory::open(&path) {
                Ok(directory) if directory.hold() || tries >= ROOT_TRIES_MAX => {
                    return Ok(Directory { made, ..directory });
                }
                // Another process removes it just now, because nothing came of its pull.
                Ok(_) => std::thread::sleep(LOCK_PAUSE_MAX / 10),
                Err(Errno::NOENT) if tries < ROOT_TRIES_MAX => {
                    match create_with_parents(&path, durable) {
                        Ok(created) => made.extend(created),
                        // The same, to a parent.
                        Err(error) if is_not_found(&error) => {}
                        Err(error) => return Err(StoreError::io("create", &path, error)),
                    }
                }
                Err(errno) => return Err(not_a_directory(&path, errno)),
            }
        }
    }

    fn open(path: &Path) -> Result<Directory, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty()))?;
        Ok(Directory { fd, path: path.to_path_buf(), made: Vec::new(), unsyncable: Arc::default() })
    }

    /// Keeps other processes from removing the directory as unused; `false` if one is about to, or
    /// has done so already. Where there are no locks, nobody removes it.
    fn hold(&self) -> bool {
        let shared = FlockOperation::NonBlockingLockShared;
        match retry_on_intr(|| rustix::fs::flock(&self.fd, shared)) {
            Err(Errno::WOULDBLOCK) => false,
            Ok(()) | Err(_) => self.is_at_its_path(),
        }
    }

    /// Whether the path still leads to this directory.
    fn is_at_its_path(&self) -> bool {
        let (Ok(open), Ok(named)) = (rustix::fs::fstat(&self.fd), rustix::fs::lstat(&self.path))
        else {
            return false;
        };
        (open.st_dev, open.st_ino) == (named.st_dev, named.st_ino)
    }

    /// Removes the directory again, and the parents that were created for it, if this process made
    /// it, nobody else has it open, and there is nothing in it but `files` and empty `directories`
    /// (a child before its parent). Whatever stands against that, it just stays.
    pub(super) fn remove_if_unused(&self, directories: &[&str], files: &[&str]) {
        let alone = FlockOperation::NonBlockingLockExclusive;
        if self.made.is_empty()
            || rustix::fs::flock(&self.fd, alone).is_err()
            || !self.is_at_its_path()
            || !matches!(self.has_only("", directories, files), Ok(true))
        {
            return;
        }
        for file in files {
            let _ = disk::remove(&self.fd, file);
        }
        for directory in directories {
            let _ = disk::remove_directory(&self.fd, directory);
        }
        for made in &self.made {
            // A parent may be the store of another process by now, with nothing in it yet.
            let Ok(directory) = Directory::open(made) else { break };
            let is_self = *made == self.path;
            let is_held = || rustix::fs::flock(&directory.fd, alone).is_err();
            if (!is_self && is_held()) || std::fs::remove_dir(made).is_err() {
                break;
            }
        }
    }

    /// Whether there is nothing beneath but these, all relative to the store; `prefix` is what leads
    /// here from there.
    fn has_only(
        &self,
        prefix: &str,
        directories: &[&str],
        files: &[&str],
    ) -> Result<bool, StoreError> {
        for name in self.names()? {
            let Some(name) = name.to_str() else { return Ok(false) };
            let relative = format!("{prefix}{name}");
            let is_known = if directories.contains(&relative.as_str()) {
                match self.directory(name)? {
                    Some(child) => child.has_only(&format!("{relative}/"), directories, files)?,
                    None => true,
                }
            } else {
                files.contains(&relative.as_str())
            };
            if !is_known {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Why the names in this directory, or in another of the store, could not be synced, if that was
    /// tried: the file system cannot.
    pub(super) fn unsyncable(&self) -> Option<Errno> {
        self.unsyncable.get().copied()
    }

    /// The path, for messages.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The directory `relative`, or `None` if there is nothing.
    pub(super) fn directory(&self, relative: &str) -> Result<Option<Directory>, StoreError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        match open_beneath(self.fd.as_fd(), relative, flags, Mode::empty()) {
            Ok(fd) => {
                let (path, unsyncable) = (self.path.join(relative), Arc::clone(&self.unsyncable));
                Ok(Some(Directory { fd, path, made: Vec::new(), unsyncable }))
            }
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.failed("open", relative, errno)),
        }
    }

    /// The directory `relative`, created where missing together with its parents.
    pub(super) fn make_directory(&self, relative: &str) -> Result<Directory, StoreError> {
        if let Some(directory) = self.directory(relative)? {
            return Ok(directory);
        }
        // One component at a time: a parent that is a symbolic link must be seen before something
        // is created behind it.
        match relative.rsplit_once('/') {
            Some((parent, name)) => self.make_directory(parent)?.make_child(name),
            None => self.make_child(relative),
        }
    }

    fn make_child(&self, name: &str) -> Result<Directory, StoreError> {
        match disk::make_directory(&self.fd, name, DIRECTORY_MODE) {
            // Another process may have been faster.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(self.failed("create", name, errno)),
        }
        let made = self.directory(name)?;
        made.ok_or_else(|| self.failed("open", name, Errno::NOENT))
    }

    /// Opens the regular file `relative` for reading, or `None` if there is nothing. Never waits
    /// for the other end of a FIFO.
    pub(super) fn file(&self, relative: &str) -> Result<Option<File>, StoreError> {
        match open_beneath(self.fd.as_fd(), relative, OFlags::RDONLY, Mode::empty()) {
            Ok(fd) => self.regular(relative, fd).map(Some),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.failed("open", relative, errno)),
        }
    }

    /// Opens the regular file `name` to be locked alone, or `None` if there is nothing: for writing,
    /// where that is allowed, because NFS refuses such a lock on a file that is open for reading only
    /// (flock(2), EBADF).
    pub(super) fn file_to_lock(&self, name: &str) -> Result<Option<File>, StoreError> {
        match open_beneath(self.fd.as_fd(), name, OFlags::RDWR, Mode::empty()) {
            Ok(fd) => self.regular(name, fd).map(Some),
            Err(_) => self.file(name),
        }
    }

    /// Opens the regular file `relative` for reading and appending, creating it where missing.
    pub(super) fn file_to_append(&self, relative: &str) -> Result<File, StoreError> {
        let flags = OFlags::RDWR | OFlags::APPEND | OFlags::CREATE;
        let opened = open_beneath(self.fd.as_fd(), relative, flags, Mode::from_raw_mode(0o666));
        let fd = opened.map_err(|errno| self.failed("open", relative, errno))?;
        self.regular(relative, fd)
    }

    /// Opens the regular file `name` for reading and writing, creating it where missing, then for
    /// this user alone.
    pub(super) fn file_to_write(&self, name: &str) -> Result<File, StoreError> {
        let flags = OFlags::RDWR | OFlags::CREATE;
        let opened = open_beneath(self.fd.as_fd(), name, flags, Mode::RUSR | Mode::WUSR);
        let fd = opened.map_err(|errno| self.failed("open", name, errno))?;
        self.regular(name, fd)
    }

    /// Opens the regular file `name` for writing past the page cache (O_DIRECT, open(2)), where there is
    /// one and the file system can.
    pub(super) fn file_to_write_directly(&self, name: &str) -> Option<File> {
        let flags = OFlags::WRONLY | OFlags::DIRECT;
        let fd = open_beneath(self.fd.as_fd(), name, flags, Mode::empty()).ok()?;
        self.regular(name, fd).ok()
    }

    /// Whether `name` is this file, and the only name of it.
    pub(super) fn is_name_of(&self, name: &str, file: &File) -> Result<bool, StoreError> {
        match self.is_only_name_of(name, file)? {
            // Through its other name it can be written to from outside the store.
            Some(false) => Err(self.unsafe_path(name, "a file with another name (a hard link)")),
            only => Ok(only.is_some()),
        }
    }

    /// Whether this file has no other name, if `name` is one of its names.
    pub(super) fn is_only_name_of(
        &self,
        name: &str,
        file: &File,
    ) -> Result<Option<bool>, StoreError> {
        let failed = |errno| self.failed("look at", name, errno);
        let open = rustix::fs::fstat(file).map_err(failed)?;
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(named) if (named.st_dev, named.st_ino) == (open.st_dev, open.st_ino) => {
                Ok(Some(open.st_nlink == 1))
            }
            Ok(_) | Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(failed(errno)),
        }
    }

    /// Creates the file `name` for this user alone, or `None` if there is one already.
    pub(super) fn create(&self, name: &str) -> Result<Option<File>, StoreError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        match open_beneath(self.fd.as_fd(), name, flags, Mode::RUSR | Mode::WUSR) {
            Ok(fd) => Ok(Some(File::from(fd))),
            Err(Errno::EXIST) => Ok(None),
            Err(errno) => Err(self.failed("create", name, errno)),
        }
    }

    /// Fails if there is something at `relative` that is not a regular file.
    pub(super) fn expect_regular_or_nothing(&self, relative: &str) -> Result<(), StoreError> {
        let (parent, name) = relative.rsplit_once('/').unwrap_or((".", relative));
        let Some(parent) = self.directory(parent)? else {
            return Ok(());
        };
        match rustix::fs::statat(&parent.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => Ok(()),
                FileType::Symlink => Err(parent.unsafe_path(name, "a symbolic link")),
                FileType::Directory => Err(parent.unsafe_path(name, "a directory")),
                _ => Err(parent.unsafe_path(name, "not a regular file")),
            },
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(parent.failed("look at", name, errno)),
        }
    }

    /// Moves the file `name` to `new_name` in `target`, replacing what is there.
    pub(super) fn rename(
        &self,
        name: &str,
        target: &Directory,
        new_name: &str,
    ) -> Result<(), StoreError> {
        disk::rename(&self.fd, name, &target.fd, new_name)
            .map_err(|errno| target.failed("replace", new_name, errno))
    }

    /// Removes the file `name`; `false` if there is none.
    pub(super) fn remove(&self, name: &str) -> Result<bool, StoreError> {
        match disk::remove(&self.fd, name) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(self.failed("remove", name, errno)),
        }
    }

    /// Waits until the names in this directory are on disk, where the file system can do that: some
    /// know fsync for files alone (CIFS before Linux 4.17, several in FUSE). That is
    /// [noted](Directory::unsyncable).
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        match disk::sync_names(&self.fd) {
            Err(errno) if is_not_syncable(errno) => {
                let _ = self.unsyncable.set(errno);
                Ok(())
            }
            synced => synced.map_err(|errno| StoreError::io("sync", &self.path, errno)),
        }
    }

    /// Waits until the store's own name is on disk, and those of the directories that lead to it, as
    /// far as that can be had: they are not the store's.
    pub(super) fn sync_parents(&self) {
        for parent in self.path.ancestors().skip(1) {
            let _ = sync_parent(parent);
        }
    }

    /// The names in this directory, in no order, without `.` and `..`.
    pub(super) fn names(&self) -> Result<Vec<OsString>, StoreError> {
        let failed = |errno: Errno| StoreError::io("list", &self.path, errno);
        let mut names = Vec::new();
        for entry in retry_on_intr(|| Dir::read_from(&self.fd)).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name));
            }
        }
        Ok(names)
    }

    /// Permissions for a file that everybody may read who may list this directory: nobody who is
    /// kept out of a store should read its blobs, and nobody else should need to.
    pub(super) fn mode_of_files(&self) -> Result<Mode, StoreError> {
        let stat = rustix::fs::fstat(&self.fd)
            .map_err(|errno| StoreError::io("look at", &self.path, errno))?;
        let readers = Mode::from_raw_mode(stat.st_mode) & (Mode::RGRP | Mode::ROTH);
        Ok(Mode::RUSR | Mode::WUSR | readers)
    }

    /// The bytes of this disk that nobody has taken, those kept for root included; `None` if the
    /// file system does not say.
    pub(super) fn space_left(&self) -> Option<u64> {
        let disk = rustix::fs::fstatvfs(&self.fd).ok().filter(|disk| disk.f_blocks > 0)?;
        Some(disk.f_bfree.saturating_mul(disk.f_frsize))
    }

    fn regular(&self, relative: &str, fd: OwnedFd) -> Result<File, StoreError> {
        let file = File::from(fd);
        let metadata = file
            .metadata()
            .map_err(|error| StoreError::io("look at", &self.path.join(relative), error))?;
        let kind = metadata.file_type();
        if kind.is_file() {
            return Ok(file);
        }
        let found = match () {
            () if kind.is_dir() => "a directory",
            () if kind.is_fifo() => "a FIFO",
            () => "not a regular file",
        };
        Err(self.unsafe_path(relative, found))
    }

    /// A failed call on `relative`. Beneath a store some errors mean that a path is not plain.
    fn failed(&self, action: &'static str, relative: &str, errno: Errno) -> StoreError {
        match errno {
            Errno::LOOP => self.unsafe_path(relative, "a symbolic link, or behind one"),
            Errno::NOTDIR => self.unsafe_path(relative, "not a directory, or not beneath one"),
            Errno::ISDIR => self.unsafe_path(relative, "a directory"),
            // Opening a socket, or a device without a driver.
            Errno::NXIO => self.unsafe_path(relative, "not a regular file"),
            errno => StoreError::io(action, &self.path.join(relative), errno),
        }
    }

    pub(super) fn unsafe_path(&self, relative: &str, found: &'static str) -> StoreError {
        StoreError::UnsafePath { path: self.path.join(relative), found }
    }
}

/// What a file is by its numbers. Two equal stamps of one name mean that the file was not replaced,
/// and not written to either: the change time cannot be set by a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Size in bytes.
    pub(super) size: u64,
    /// Inode number.
    pub(super) inode: u64,
    /// Time of the last write, in nanoseconds since 1970.
    pub(super) modified: i128,
    /// Time of the last change of content, name or permissions, in nanoseconds since 1970.
    pub(super) changed: i128,
}

impl Stamp {
    pub(super) fn of(metadata: &std::fs::Metadata) -> Stamp {
        let nanoseconds = |seconds: i64, rest: i64| {
            i128::from(seconds).saturating_mul(1_000_000_000).saturating_add(i128::from(rest))
        };
        Stamp {
            size: metadata.size(),
            inode: metadata.ino(),
            modified: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl Stamp {
    /// Whether a write at `now` or later is sure to change this stamp: its last write is more than a
    /// tick of any file system's clock ago. A younger one may stay as it is when the file is written
    /// to once more, and must not be recorded. (The same is known of git's index: gitformat-index(5),
    /// racy-git.)
    pub(super) fn is_settled(&self, now: SystemTime) -> bool {
        let since_1970 = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = i128::try_from(since_1970.as_nanos()).unwrap_or(i128::MAX);
        let age = now.saturating_sub(self.modified);
        u128::try_from(age).is_ok_and(|age| age >= STAMP_AGE_MIN.as_nanos())
    }
}

/// Opens `relative`, a path without `..`, through no symbolic link. `O_NONBLOCK` is for FIFOs and
/// means nothing to regular files.
fn open_beneath(
    directory: BorrowedFd<'_>,
    relative: &str,
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOFOLLOW;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let opened = with_a_descriptor(|| {
        if flags.contains(OFlags::CREATE) {
            disk::ask(Operation::Create)?;
        }
        rustix::fs::openat2(directory, relative, flags, mode, resolve)
    });
    match opened {
        // Before Linux 5.6, and in sandboxes that do not know the call and say EPERM. Where EPERM
        // was meant, it comes again.
        Err(Errno::NOSYS | Errno::PERM) => open_by_component(directory, relative, flags, mode),
        opened => opened,
    }
}

/// Opens again, a few times, where no descriptor is left: a blob that is complete gives back several
/// in a moment, and this one may be what it takes to complete another.
fn with_a_descriptor(mut open: impl FnMut() -> Result<OwnedFd, Errno>) -> Result<OwnedFd, Errno> {
    for _ in 1..OPEN_TRIES {
        match retry_on_intr(&mut open) {
            Err(Errno::MFILE | Errno::NFILE) => std::thread::sleep(OPEN_PAUSE),
            opened => return opened,
        }
    }
    retry_on_intr(open)
}

/// The same without openat2.
fn open_by_component(
    directory: BorrowedFd<'_>,
    relative: &str,
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    let parent_flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let (parents, name) = match relative.rsplit_once('/') {
        Some((parents, name)) => (Some(parents), name),
        None => (None, relative),
    };
    let mut parent: Option<OwnedFd> = None;
    for component in parents.into_iter().flat_map(|parents| parents.split('/')) {
        let at = parent.as_ref().map_or(directory, OwnedFd::as_fd);
        let opened =
            retry_on_intr(|| rustix::fs::openat(at, component, parent_flags, Mode::empty()))?;
        parent = Some(opened);
    }
    let at = parent.as_ref().map_or(directory, OwnedFd::as_fd);
    retry_on_intr(|| rustix::fs::openat(at, name, flags, mode))
}

/// Waits until the names in a directory above the store are on disk. One that may be entered but not
/// read cannot be synced, and nothing is to be done.
fn sync_parent(parent: &Path) -> Result<(), std::io::Error> {
    let here = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    match File::open(here) {
        Ok(parent) => match parent.sync_all() {
            // A directory above the store may be on a read-only file system: it has nothing to sync.
            Err(error)
                if Errno::from_io_error(&error)
                    .is_some_and(|errno| is_not_syncable(errno) || errno == Errno::ROFS) =>
            {
                Ok(())
            }
            synced => synced,
        },
        Err(_) => Ok(()),
    }
}

/// Whether this is how a file system says that it cannot sync a directory. One that became read-only
/// says something else: what was written may be lost.
fn is_not_syncable(errno: Errno) -> bool {
    matches!(errno, Errno::INVAL | Errno::NOTSUP | Errno::NOSYS)
}

/// Creates `path` and its missing parents; which those were, the innermost first.
fn create_with_parents(path: &Path, durable: bool) -> Result<Vec<PathBuf>, std::io::Error> {
    let missing: Vec<PathBuf> = path
        .ancestors()
        .take_while(|path| matches!(path.symlink_metadata(), Err(error) if is_not_found(&error)))
        .filter(|path| !path.as_os_str().is_empty())
        .map(Path::to_path_buf)
        .collect();
    std::fs::create_dir_all(path)?;
    if durable {
        for parent in missing.iter().filter_map(|path| path.parent()) {
            sync_parent(parent)?;
        }
    }
    Ok(missing)
}

fn is_not_found(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::NotFound
}

/// Why the store's own path could not be opened.
fn not_a_directory(path: &Path, errno: Errno) -> StoreError {
    // O_DIRECTORY with O_NOFOLLOW says ENOTDIR for a link, too.
    let is_link = path.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink());
    match errno {
        Errno::LOOP | Errno::NOTDIR if is_link => {
            StoreError::UnsafePath { path: path.to_path_buf(), found: "a symbolic link" }
        }
        errno => StoreError::io("open", path, errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Opener = fn(BorrowedFd<'_>, &str, OFlags, Mode) -> Result<OwnedFd, Errno>;

    /// Both ways to open must agree on what is plain and what is not.
    #[test]
    fn no_path_leads_through_a_symbolic_link() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("file"), "outside").unwrap();
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path();
        std::fs::create_dir_all(path.join("a/b")).unwrap();
        std::fs::write(path.join("a/b/file"), "inside").unwrap();
        std::os::unix::fs::symlink(outside.path(), path.join("out")).unwrap();
        std::os::unix::fs::symlink("a", path.join("in")).unwrap();
        std::os::unix::fs::symlink("file", path.join("a/b/link")).unwrap();

        let root = Directory::open_or_create(path, true).unwrap();
        let openers: [(&str, Opener); 2] =
            [("openat2", open_beneath), ("openat", open_by_component)];
        for (name, open) in openers {
            for (relative, expected) in [
                ("a/b/file", None),
                ("a/b", None),
                ("a/b/none", Some(&[Errno::NOENT][..])),
                ("none/file", Some(&[Errno::NOENT])),
                ("a/b/file/x", Some(&[Errno::NOTDIR])),
                ("out/file", Some(&[Errno::LOOP, Errno::NOTDIR])),
                ("in/b/file", Some(&[Errno::LOOP, Errno::NOTDIR])),
                ("a/b/link", Some(&[Errno::LOOP])),
                ("out", Some(&[Errno::LOOP])),
            ] {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW;
                let opened = open(root.fd.as_fd(), relative, flags, Mode::empty()).err();
                match expected {
                    None => assert_eq!(opened, None, "{name} {relative}"),
                    Some(errors) => {
                        assert!(errors.contains(&opened.unwrap()), "{name} {relative} {opened:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_is_created_behind_a_symbolic_link() {
        let outside = tempfile::tempdir().unwrap();
        let temporary = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), temporary.path().join("blobs")).unwrap();
        let root = Directory::open_or_create(temporary.path(), true).unwrap();
        let error = root.make_directory("blobs/sha256").unwrap_err();
        assert!(matches!(error, StoreError::UnsafePath { .. }), "{error}");
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn missing_parents_are_made() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("a/b/c/");
        let root = Directory::open_or_create(&path, true).unwrap();
        assert!(root.names().unwrap().is_empty());
        root.make_directory("x/y/z").unwrap();
        assert_eq!(root.names().unwrap(), ["x"]);
    }
}
