//! What can go wrong in a store: the disk, the paths, the documents, the bytes, the lock.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;

use crate::error::Class;
use crate::image::Digest;

/// Why a store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No space or no quota is left (ENOSPC, EDQUOT).
    #[error("the disk is full: {}", Shortage { path, need: *need, have: *have })]
    DiskFull {
        /// The store or the file that had no room.
        path: PathBuf,
        /// Bytes still to be written, where that is known.
        need: Option<u64>,
        /// Bytes free for this user, where the file system says.
        have: Option<u64>,
    },
    /// The disk failed (EIO), or its file system is damaged.
    #[error("the disk failed: cannot {action} {}: {source}", path.display())]
    DiskIo {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file or directory could not be used: permissions, a read-only disk, no more descriptors…
    #[error("cannot {action} {}: {source}", path.display())]
    Disk {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file would be larger than it may be (EFBIG): by the process's limit (`ulimit -f`,
    /// RLIMIT_FSIZE), or by the file system's.
    #[error(
        "cannot {action} {}: a file must not be so large here: {}, or name another directory",
        path.display(),
        FileSizeLimit
    )]
    FileSize {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file.
        path: PathBuf,
    },
    /// A partial blob with wrong bytes stays, whatever is done to it, so nobody can begin anew.
    #[error(
        "cannot remove {}, whose bytes are wrong: remove it by hand, or name another directory",
        path.display()
    )]
    Stuck {
        /// The partial blob.
        path: PathBuf,
    },
    /// A path that must be a plain file or directory of the store is something else.
    #[error(
        "{} is {found}: a store holds plain files and directories only; remove it, or name \
         another directory",
        path.display()
    )]
    UnsafePath {
        /// The path.
        path: PathBuf,
        /// What is there, as a noun: `a symbolic link`.
        found: &'static str,
    },
    /// `index.json` or `oci-layout` cannot be used. It has been left as it was.
    #[error(
        "{} {problem}; it was left as it is. Move it away to start a new one (blobs are found again \
         by their digests), or name another directory",
        path.display()
    )]
    Index {
        /// The document.
        path: PathBuf,
        /// What is wrong with it, as a verb: `is not JSON`.
        problem: String,
    },
    /// More or fewer bytes than the descriptor says.
    #[error("blob {digest}: {got} bytes where its descriptor says {expected}")]
    Size {
        /// The blob.
        digest: Digest,
        /// The descriptor's size in bytes.
        expected: u64,
        /// The bytes there are; when more come, those seen until then.
        got: u64,
    },
    /// The bytes have another digest than their descriptor.
    #[error("blob {expected}: its bytes have the digest {got}")]
    Digest {
        /// The descriptor's digest.
        expected: Digest,
        /// The digest of the bytes. Boxed: a result of any kind is as large as its largest error.
        got: Box<Digest>,
    },
    /// A document is larger than the caller is ready to read.
    #[error("blob {digest} has {size} bytes, more than the {size_max} that are read at once")]
    TooLarge {
        /// The blob.
        digest: Digest,
        /// Its size on disk in bytes.
        size: u64,
        /// The caller's bound in bytes.
        size_max: u64,
    },
    /// Another process has held the lock for longer than the bound.
    #[error("{}, for more than {}", Holder { path, pid: *holder }, humantime::format_duration(*waited))]
    LockBusy {
        /// The lock file.
        path: PathBuf,
        /// Process id of the holder, if it left one.
        holder: Option<u32>,
        /// The bound that has passed.
        waited: Duration,
    },
}

impl StoreError {
    /// The class of the failure.
    pub fn class(&self) -> Class {
        match self {
            StoreError::DiskFull { .. } => Class::DiskFull,
            StoreError::DiskIo { .. } => Class::DiskIo,
            StoreError::Disk { .. } | StoreError::FileSize { .. } | StoreError::Stuck { .. } => {
                Class::Disk
            }
            StoreError::UnsafePath { .. } => Class::UnsafePath,
            StoreError::Index { .. } => Class::Index,
            StoreError::Size { .. } => Class::Size,
            StoreError::Digest { .. } => Class::Digest,
            StoreError::TooLarge { .. } => Class::Limit,
            StoreError::LockBusy { .. } => Class::LockBusy,
        }
    }

    /// The failure of a system call on `path`, sorted by its error number.
    pub(super) fn io(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        let path = path.to_path_buf();
        match Errno::from_io_error(&source) {
            Some(Errno::NOSPC | Errno::DQUOT) => {
                let have = free_space(&path);
                StoreError::DiskFull { path, need: None, have }
            }
            Some(Errno::FBIG) => StoreError::FileSize { action, path },
            // EUCLEAN and EBADMSG: the file system found its own structures damaged.
            Some(Errno::IO | Errno::UCLEAN | Errno::BADMSG) => {
                StoreError::DiskIo { action, path, source }
            }
            _ => StoreError::Disk { action, path, source },
        }
    }

    /// The same failure; where it is a full disk, with the bytes that were still to be written.
    pub(super) fn needing(mut self, bytes: u64) -> Self {
        if let StoreError::DiskFull { need, .. } = &mut self {
            *need = Some(bytes);
        }
        self
    }
}

/// Bytes that this user may still write where `path` is or would be.
fn free_space(path: &Path) -> Option<u64> {
    let disk = path.ancestors().find_map(|path| rustix::fs::statvfs(path).ok())?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// The most bytes that this process may write into one file, if there is such a limit.
pub(super) fn file_size_max() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Fsize).current
}

/// `raise the limit of 1.0 GiB (ulimit -f)`
struct FileSizeLimit;

impl fmt::Display for FileSizeLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match file_size_max() {
            Some(limit) => write!(f, "raise the limit of {} (ulimit -f)", Bytes(limit)),
            None => f.write_str("the file system does not allow it"),
        }
    }
}

/// `need 1.2 GiB, have 300.0 MiB on /srv/images`
struct Shortage<'a> {
    path: &'a Path,
    need: Option<u64>,
    have: Option<u64>,
}

impl fmt::Display for Shortage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(need) = self.need {
            write!(f, "need {}, ", Bytes(need))?;
        }
        match self.have {
            Some(have) => write!(f, "have {} on {}", Bytes(have), self.path.display()),
            None => write!(f, "no room on {}", self.path.display()),
        }
    }
}

/// `process 4711 holds the lock /srv/images/.ringpull/lock`
struct Holder<'a> {
    path: &'a Path,
    pid: Option<u32>,
}

impl fmt::Display for Holder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "process {pid}")?,
            None => f.write_str("another process")?,
        }
        write!(f, " holds the lock {}", self.path.display())
    }
}

/// A number of bytes with one digit after the point, in the largest unit below it.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
            let size = 1u64 << shift;
            if self.0 >= size {
                // In integers: the tenths are those of the remainder.
                let tenths = (self.0 % size).saturating_mul(10) >> shift;
                return write!(f, "{}.{tenths} {unit}", self.0 >> shift);
            }
        }
        write!(f, "{} B", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_call_is_sorted_by_its_error_number() {
        for (errno, class) in [
            (Errno::NOSPC, Class::DiskFull),
            (Errno::DQUOT, Class::DiskFull),
            (Errno::IO, Class::DiskIo),
            (Errno::UCLEAN, Class::DiskIo),
            (Errno::ROFS, Class::Disk),
            (Errno::ACCESS, Class::Disk),
            (Errno::NOTDIR, Class::Disk),
            (Errno::LOOP, Class::Disk),
            (Errno::MFILE, Class::Disk),
            (Errno::NAMETOOLONG, Class::Disk),
            (Errno::FBIG, Class::Disk),
        ] {
            let error = StoreError::io("write", Path::new("/no/such/place"), errno);
            assert_eq!(error.class(), class, "{errno:?}");
        }
    }

    #[test]
    fn a_full_disk_says_what_is_needed_and_what_there_is() {
        let path = PathBuf::from("/srv/images");
        let full = |need, have| StoreError::DiskFull { path: path.clone(), need, have }.to_string();
        assert_eq!(
            full(Some(5 << 29), Some((300 << 20) + 1)),
            "the disk is full: need 2.5 GiB, have 300.0 MiB on /srv/images"
        );
        assert_eq!(full(None, Some(0)), "the disk is full: have 0 B on /srv/images");
        assert_eq!(full(None, None), "the disk is full: no room on /srv/images");
        assert_eq!(Bytes(u64::MAX).to_string(), "16777215.9 TiB");
    }

    #[test]
    fn a_busy_lock_names_its_holder() {
        let busy = StoreError::LockBusy {
            path: "/srv/images/.ringpull/lock".into(),
            holder: Some(4711),
            waited: Duration::from_secs(30),
        };
        assert_eq!(
            busy.to_string(),
            "process 4711 holds the lock /srv/images/.ringpull/lock, for more than 30s"
        );
    }
}
