//! The locks of a layout. One is held for one change of `index.json`, never while anything is fetched;
//! the other is shared by all pulls from beginning to end, and keeps garbage from being collected.

use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind, Read};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::directory::Directory;
use super::disk;
use super::{OWN_DIRECTORY, StoreError};
use crate::limits::LOCK_PAUSE_MAX;

/// Whether a file system answers so because it has no locks (flock(2)), or none of this kind.
///
/// ENOSYS: Lustre without `-o flock`, some in FUSE. ENOLCK: NFS without a lock daemon. EOPNOTSUPP:
/// NFS version 4 servers and others. EBADF: NFS, for a lock that needs a file open for writing.
pub(super) fn is_missing(error: &io::Error) -> bool {
    let missing = [Errno::NOSYS, Errno::NOLCK, Errno::OPNOTSUPP, Errno::BADF];
    Errno::from_io_error(error).is_some_and(|errno| missing.contains(&errno))
}

/// What a file system that has no locks says to one. `None` if it has, or if that cannot be told: a
/// lock that is wanted then fails by itself.
pub(super) fn missing(root: &Directory) -> Option<io::Error> {
    let directory = root.make_directory(OWN_DIRECTORY).ok()?;
    let file = directory.file_to_append(USERS_FILE).ok()?;
    match file.try_lock_shared() {
        Ok(()) => {
            unlock(&file);
            None
        }
        Err(TryLockError::WouldBlock) => None,
        Err(TryLockError::Error(error)) => is_missing(&error).then_some(error),
    }
}

/// The lock file within [`OWN_DIRECTORY`]. It is never removed: somebody might be waiting for it.
pub(super) const LOCK_FILE: &str = "lock";

/// The file that pulls share a lock on, within [`OWN_DIRECTORY`]. It is never removed, either.
pub(super) const USERS_FILE: &str = "pulls";

/// Longest process id that is read from the lock file, in digits.
const PID_DIGITS_MAX: u64 = 10;

/// The lock, held until this is dropped or the process ends. While it is held the file says which
/// process holds it.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
}

impl Lock {
    /// Takes the lock, trying for at most `timeout`.
    ///
    /// The kernel can wait for a lock only without a deadline, so this asks again and again, with
    /// pauses that differ from process to process.
    pub(super) fn acquire(root: &Directory, timeout: Duration) -> Result<Lock, StoreError> {
        let directory = root.make_directory(OWN_DIRECTORY)?;
        let path = directory.path().join(LOCK_FILE);
        let file = directory.file_to_append(LOCK_FILE)?;
        let start = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => break,
                // On some file systems a call can be interrupted that does not wait.
                Err(TryLockError::Error(error)) if error.kind() != ErrorKind::Interrupted => {
                    return Err(StoreError::io("lock", &path, error));
                }
                Err(TryLockError::WouldBlock | TryLockError::Error(_)) => {}
            }
            let left = timeout.saturating_sub(start.elapsed());
            if left.is_zero() {
                let holder = holder(&directory, LOCK_FILE);
                return Err(StoreError::LockBusy { path, holder, waited: timeout });
            }
            std::thread::sleep(pause().min(left));
        }
        sign(&file);
        Ok(Lock { file })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = disk::truncate(&self.file, 0);
        unlock(&self.file);
    }
}

/// A lock that pulls share, and that a collection of garbage has alone. Held until this is dropped.
#[derive(Debug)]
pub(super) struct Users {
    file: File,
}

impl Users {
    /// Shares it, trying for at most `timeout`; `None` where there can be none.
    pub(super) fn share(root: &Directory, timeout: Duration) -> Result<Option<Users>, StoreError> {
        // On a disk that cannot be written to no garbage is collected.
        let Ok(directory) = root.make_directory(OWN_DIRECTORY) else { return Ok(None) };
        let Ok(file) = directory.file_to_append(USERS_FILE) else { return Ok(None) };
        let start = Instant::now();
        loop {
            match file.try_lock_shared() {
                Ok(()) => return Ok(Some(Users { file })),
                Err(TryLockError::Error(_)) => return Ok(None),
                Err(TryLockError::WouldBlock) => {}
            }
            let left = timeout.saturating_sub(start.elapsed());
            if left.is_zero() {
                let path = directory.path().join(USERS_FILE);
                let holder = holder(&directory, USERS_FILE);
                return Err(StoreError::LockBusy { path, holder, waited: timeout });
            }
            std::thread::sleep(pause().min(left));
        }
    }

    /// Has it alone; `None` if somebody shares it.
    pub(super) fn exclude(root: &Directory) -> Result<Option<Users>, StoreError> {
        let directory = root.make_directory(OWN_DIRECTORY)?;
        let file = directory.file_to_append(USERS_FILE)?;
        match file.try_lock() {
            Ok(()) => {
                sign(&file);
                Ok(Some(Users { file }))
            }
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => {
                Err(StoreError::io("lock", &directory.path().join(USERS_FILE), error))
            }
        }
    }
}

impl Drop for Users {
    fn drop(&mut self) {
        unlock(&self.file);
    }
}

/// Ends a lock on a file. Closing would do, were it not that a child between fork and exec shares the
/// open file: whoever comes next would find it locked, by nobody.
pub(super) fn unlock(file: &File) {
    let _ = file.unlock();
}

/// Ends a lock on a file when this is dropped.
pub(super) struct Unlocks<'a>(pub(super) &'a File);

impl Drop for Unlocks<'_> {
    fn drop(&mut self) {
        unlock(self.0);
    }
}

/// A tenth of the longest pause at least, at random.
fn pause() -> Duration {
    LOCK_PAUSE_MAX.mul_f64(0.1 + 0.9 * fastrand::f64())
}

/// Says which process holds the lock, for the message of those who wait. On a full disk they do
/// without.
fn sign(file: &File) {
    let _ = disk::truncate(file, 0);
    let _ = disk::append(file, std::process::id().to_string().as_bytes());
}

/// The process that says it holds the lock.
fn holder(directory: &Directory, name: &str) -> Option<u32> {
    let file = directory.file(name).ok()??;
    let mut text = String::new();
    file.take(PID_DIGITS_MAX).read_to_string(&mut text).ok()?;
    // `parse` alone would take "+5".
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_lock_is_waited_for_and_names_its_holder() {
        let temporary = tempfile::tempdir().unwrap();
        let root = Directory::open_or_create(temporary.path(), true).unwrap();
        let held = Lock::acquire(&root, Duration::ZERO).unwrap();

        let start = Instant::now();
        let bound = Duration::from_millis(50);
        let error = Lock::acquire(&root, bound).unwrap_err();
        assert!((bound..bound * 20).contains(&start.elapsed()), "{:?}", start.elapsed());
        let StoreError::LockBusy { holder, .. } = error else { panic!("{error}") };
        assert_eq!(holder, Some(std::process::id()));

        drop(held);
        drop(Lock::acquire(&root, Duration::ZERO).unwrap());
        assert_eq!(std::fs::read(temporary.path().join(".ringpull/lock")).unwrap(), b"");
    }

    #[test]
    fn what_is_not_a_process_id_is_not_shown() {
        let temporary = tempfile::tempdir().unwrap();
        let root = Directory::open_or_create(temporary.path(), true).unwrap();
        let own = root.make_directory(OWN_DIRECTORY).unwrap();
        for (text, expected) in
            [("4711", Some(4711)), ("", None), ("+5", None), ("x", None), ("99999999999", None)]
        {
            std::fs::write(temporary.path().join(".ringpull/lock"), text).unwrap();
            assert_eq!(holder(&own, LOCK_FILE), expected, "{text:?}");
        }
    }
}
