//! The record of blobs that ringpull itself has hashed and synced in this layout, so that they need
//! not be hashed again on every pull: `.ringpull/verified`.
//!
//! A line is `digest size inode modified changed`, the times in nanoseconds. Lines are only ever
//! appended, each with one write; the last one of a digest counts. A line that was cut off (by a
//! crash, or by a full disk) runs into the next one, and both have too many fields to be read: what
//! is lost so costs a hash, and nothing is ever believed that was not written.
//!
//! A record holds only for bytes that are on disk. Otherwise a power cut could leave a file with
//! the recorded numbers and without its content.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::OWN_DIRECTORY;
use super::directory::{Directory, Stamp};
use super::disk;
use crate::image::Digest;
use crate::limits::VERIFIED_SIZE_MAX;

/// The record within [`OWN_DIRECTORY`].
const VERIFIED_FILE: &str = "verified";

/// What is known of the record. Other processes append to it, too, so it is read on before each
/// use.
#[derive(Debug, Default)]
pub(super) struct Verified {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    stamps: HashMap<Digest, Stamp>,
    /// Where the first line begins that has not been read.
    read_to: u64,
}

impl Verified {
    /// Whether the blob was verified when it had this stamp.
    ///
    /// A record that cannot be read knows nothing: that is never an error, it only costs a hash.
    pub(super) fn knows(&self, root: &Directory, digest: &Digest, stamp: &Stamp) -> bool {
        let mut known = self.known();
        let path = format!("{OWN_DIRECTORY}/{VERIFIED_FILE}");
        if let Ok(Some(file)) = root.file(&path) {
            // What was read before an error remains true.
            let _ = known.read_on(&file);
        }
        known.stamps.get(digest) == Some(stamp)
    }

    /// Records that the blob's bytes have its digest and are on disk.
    ///
    /// Without effect where that cannot be written: it is not worth failing a pull for.
    pub(super) fn note(&self, root: &Directory, digest: &Digest, stamp: &Stamp) {
        let Ok(directory) = root.make_directory(OWN_DIRECTORY) else { return };
        let Ok(file) = directory.file_to_append(VERIFIED_FILE) else { return };
        if file.metadata().is_ok_and(|metadata| metadata.len() >= VERIFIED_SIZE_MAX) {
            let _ = disk::truncate(&file, 0);
        }
        let _ = disk::append(&file, line(digest, stamp).as_bytes());
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Each line is taken in whole or not at all, so a panic elsewhere left nothing half done.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Takes in what was appended since the last time.
    fn read_on(&mut self, file: &File) -> std::io::Result<()> {
        let size = file.metadata()?.len();
        if size < self.read_to {
            // Somebody started it anew. Had it grown past this point already, lines would be
            // missed, which costs a hash each.
            *self = Known::default();
        }
        // The last writers may each have passed the bound by a line.
        let left = size.min(2 * VERIFIED_SIZE_MAX).saturating_sub(self.read_to);
        let mut bytes = vec![0; usize::try_from(left).unwrap_or(0)];
        file.read_exact_at(&mut bytes, self.read_to)?;
        for line in bytes.split_inclusive(|&byte| byte == b'\n') {
            if !line.ends_with(b"\n") {
                break;
            }
            if let Some((digest, stamp)) = parse(line) {
                self.stamps.insert(digest, stamp);
            }
            self.read_to = self.read_to.saturating_add(line.len() as u64);
        }
        Ok(())
    }
}

fn line(digest: &Digest, stamp: &Stamp) -> String {
    let Stamp { size, inode, modified, changed } = stamp;
    format!("{digest} {size} {inode} {modified} {changed}\n")
}

fn parse(line: &[u8]) -> Option<(Digest, Stamp)> {
    let line = std::str::from_utf8(line).ok()?.strip_suffix('\n')?;
    let mut fields = line.split(' ');
    let digest = Digest::parse(fields.next()?).ok()?;
    let stamp = Stamp {
        size: fields.next()?.parse().ok()?,
        inode: fields.next()?.parse().ok()?,
        modified: fields.next()?.parse().ok()?,
        changed: fields.next()?.parse().ok()?,
    };
    fields.next().is_none().then_some((digest, stamp))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Algorithm;

    fn stamp(number: u64) -> Stamp {
        Stamp { size: number, inode: 12, modified: 1_700_000_000_000_000_000, changed: -1 }
    }

    fn digest(number: u64) -> Digest {
        Digest::of(Algorithm::Sha256, &number.to_le_bytes())
    }

    fn layout() -> (tempfile::TempDir, Directory) {
        let temporary = tempfile::tempdir().unwrap();
        let root = Directory::open_or_create(temporary.path(), true).unwrap();
        (temporary, root)
    }

    #[test]
    fn the_last_record_of_a_blob_counts() {
        let (_guard, root) = layout();
        let (writer, reader) = (Verified::default(), Verified::default());
        assert!(!reader.knows(&root, &digest(1), &stamp(1)));
        writer.note(&root, &digest(1), &stamp(1));
        assert!(reader.knows(&root, &digest(1), &stamp(1)));
        assert!(!reader.knows(&root, &digest(1), &stamp(2)));
        assert!(!reader.knows(&root, &digest(2), &stamp(1)));
        writer.note(&root, &digest(1), &stamp(2));
        assert!(reader.knows(&root, &digest(1), &stamp(2)));
        assert!(!reader.knows(&root, &digest(1), &stamp(1)));
    }

    /// A record cut anywhere, and then written on: nothing is believed but what was written whole.
    #[test]
    fn a_record_cut_at_any_byte_makes_nothing_up() {
        let (guard, root) = layout();
        root.make_directory(OWN_DIRECTORY).unwrap();
        let path = guard.path().join(".ringpull/verified");
        let first = line(&digest(1), &stamp(11));
        for cut in 0..=first.len() {
            std::fs::write(&path, &first[..cut]).unwrap();
            let verified = Verified::default();
            assert_eq!(verified.knows(&root, &digest(1), &stamp(11)), cut == first.len());
            verified.note(&root, &digest(2), &stamp(22));
            verified.note(&root, &digest(3), &stamp(33));
            assert!(verified.knows(&root, &digest(3), &stamp(33)), "cut at {cut}");
            for known in verified.known().stamps.iter() {
                assert!(
                    [(&digest(1), &stamp(11)), (&digest(2), &stamp(22)), (&digest(3), &stamp(33))]
                        .contains(&known),
                    "cut at {cut}: {known:?}"
                );
            }
        }
    }

    #[test]
    fn a_line_read_before_it_is_whole_is_read_again() {
        let (guard, root) = layout();
        root.make_directory(OWN_DIRECTORY).unwrap();
        let path = guard.path().join(".ringpull/verified");
        let whole = line(&digest(1), &stamp(1));
        for cut in 0..whole.len() {
            let verified = Verified::default();
            for (text, expected) in [(&whole[..cut], false), (whole.as_str(), true)] {
                std::fs::write(&path, text).unwrap();
                assert_eq!(verified.knows(&root, &digest(1), &stamp(1)), expected, "cut at {cut}");
            }
        }
    }

    #[test]
    fn garbage_is_passed_over() {
        let (guard, root) = layout();
        let own = root.make_directory(OWN_DIRECTORY).unwrap();
        let path = own.path().join(VERIFIED_FILE);
        let mut bytes = b"\0\0\0\nsha256:../../x 1 2 3 4\n\xff\n\n".to_vec();
        bytes.extend_from_slice(line(&digest(2), &stamp(2)).replace('\n', " 5\n").as_bytes());
        bytes.extend_from_slice(line(&digest(1), &stamp(1)).as_bytes());
        std::fs::write(&path, bytes).unwrap();
        let verified = Verified::default();
        assert!(verified.knows(&root, &digest(1), &stamp(1)));
        assert_eq!(verified.known().stamps.len(), 1);
        drop(guard);
    }

    #[test]
    fn a_record_that_grew_too_long_starts_anew() {
        let (_guard, root) = layout();
        let own = root.make_directory(OWN_DIRECTORY).unwrap();
        let path = own.path().join(VERIFIED_FILE);
        let long_line = format!("{}\n", "x".repeat(1023));
        std::fs::write(&path, long_line.repeat(VERIFIED_SIZE_MAX as usize / 1024)).unwrap();
        let verified = Verified::default();
        assert!(!verified.knows(&root, &digest(1), &stamp(1)));
        verified.note(&root, &digest(1), &stamp(1));
        assert!(verified.knows(&root, &digest(1), &stamp(1)));
        assert!(std::fs::metadata(&path).unwrap().len() < 1000);
    }
}
