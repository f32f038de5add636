//! Where pulls land: an OCI image layout (OCI image-spec, `image-layout.md`), which any OCI tool
//! can read in place.
//!
//! ```text
//! DIR/
//!   oci-layout               {"imageLayoutVersion":"1.0.0"}
//!   index.json               which name means which manifest
//!   blobs/<algorithm>/<hex>  each file hashes to its name
//!   .ringpull/
//!     lock                   flock, held for one change of index.json
//!     pulls                  flock, shared by all pulls, and for garbage collection alone
//!     verified               which blobs need not be hashed again
//!     unsynced               there if a pull without fsync changed the layout since the last with it
//!     partial/               files being written, each locked by its writer; of blobs, the journals
//! ```
//!
//! What holds at every moment, whatever process dies and whatever disk fills up:
//! - No byte is visible under `blobs/` that was not verified.
//! - `index.json` is wholly old or wholly new; with [`Options::fsync`] after a power cut, too, and it
//!   never names a blob that a power cut could still take away.
//! - No path leads through a symbolic link, and nothing but plain files and directories is used.
//! - Several processes may use one layout. They meet only at the lock, and only for moments. Tools
//!   that know no lock may change `index.json`, too: it is looked at again just before it is replaced.
//!
//! All calls block on the disk; none waits for the network. What of a blob is here when a process
//! ends, in whatever way, is gone on with by the next that [claims](Store::claim) it.

mod block;
mod catalog;
mod destination;
mod direct;
mod directory;
pub mod disk;
mod document;
mod error;
mod extents;
mod garbage;
mod index;
mod journal;
mod lock;
mod partial;
mod verified;
mod writer;

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use rustix::fs::Advice;

pub use block::{Block, Blocks};
pub use catalog::StoredImage;
pub use destination::{Destination, DestinationError};
pub use direct::Stream;
pub use error::StoreError;
pub use garbage::{Collect, Collected, HeldBlobs};
pub use index::{INDEX_DIGEST, Registered};
pub use partial::{KeptPartial, Swept};
pub use writer::{BlobWriter, Claim, Written};

use crate::image::{Algorithm, Descriptor, Digest};
use crate::limits::{
    DIRECT_SIZE_MIN, HASH_BUFFER_SIZE, INDEX_ROUNDS_MAX, INDEX_SIZE_MAX, LAYOUT_FILE_SIZE_MAX,
    LOCK_TIMEOUT,
};
use directory::{Directory, Stamp};
use index::Index;
use lock::Lock;
use partial::Sweep;
use verified::Verified;

const LAYOUT_FILE: &str = "oci-layout";
const INDEX_FILE: &str = "index.json";
/// The directories of blobs; a parent after its children.
const BLOB_DIRECTORIES: [&str; 3] = ["blobs/sha256", "blobs/sha512", "blobs"];
const OWN_DIRECTORY: &str = ".ringpull";
const PARTIALS: &str = ".ringpull/partial";
/// Marks that what leads to the index, and its bytes, may not be on disk. Within [`OWN_DIRECTORY`].
const UNSYNCED_FILE: &str = "unsynced";

/// How a store works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Whether what was reported as done survives a power cut. Without it nothing is synced at all: a
    /// power cut may leave an `index.json` that is torn, and blobs are hashed on each use.
    pub fsync: bool,
    /// How long another process may hold the lock before [`StoreError::LockBusy`].
    pub lock_timeout: Duration,
    /// Blobs of which so many bytes are to come are written past the page cache, as far as that is of
    /// use, and can be.
    pub direct_size_min: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options { fsync: true, lock_timeout: LOCK_TIMEOUT, direct_size_min: DIRECT_SIZE_MIN }
    }
}

/// An OCI image layout on disk. Cheap to clone; clones and threads share it.
#[derive(Debug, Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    root: Directory,
    options: Options,
    /// Opened, and made, when the first file is written.
    partials: OnceLock<Arc<Directory>>,
    /// Set once the directories that lead to it are on disk.
    partials_led_to: OnceLock<()>,
    /// What the file system says if it has no locks.
    missing_locks: OnceLock<Option<String>>,
    verified: Verified,
}

/// Whether the store has a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It has, and the bytes are right.
    Present,
    /// It has not.
    Missing,
    /// There is a file of that name with other bytes. Writing the blob again replaces it.
    Damaged(Damage),
}

/// In what a file differs from the blob it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// In its size, in bytes.
    Size {
        /// The descriptor's.
        expected: u64,
        /// The file's.
        got: u64,
    },
    /// In its bytes.
    Digest {
        /// What they hash to.
        got: Digest,
    },
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Damage::Size { expected, got } => {
                write!(f, "{got} bytes on disk instead of {expected}")
            }
            Damage::Digest { got } => write!(f, "its bytes on disk have the digest {got}"),
        }
    }
}

impl Store {
    /// Opens the layout at `path`. What is missing is created, but nothing inside the directory
    /// before something is written.
    ///
    /// # Errors
    /// [`StoreError::UnsafePath`] if `path` or a directory within is a symbolic link,
    /// [`StoreError::Index`] if `oci-layout` is of another version or `index.json` is not valid
    /// (better now than after the download), [`StoreError::Disk`] if the directory cannot be used.
    pub fn open(path: &Path, options: Options) -> Result<Store, StoreError> {
        let root = Directory::open_or_create(path, options.fsync)?;
        for directory in BLOB_DIRECTORIES.into_iter().chain([PARTIALS]) {
            root.directory(directory)?;
        }
        document::read(&root, LAYOUT_FILE, LAYOUT_FILE_SIZE_MAX, index::check_layout_file)?;
        document::read(&root, INDEX_FILE, INDEX_SIZE_MAX, Index::parse)?;
        let shared = Shared {
            root,
            options,
            partials: OnceLock::new(),
            partials_led_to: OnceLock::new(),
            missing_locks: OnceLock::new(),
            verified: Verified::default(),
        };
        Ok(Store { shared: Arc::new(shared) })
    }

    /// Where the layout is.
    pub fn path(&self) -> &Path {
        self.shared.root.path()
    }

    /// Why this file system has no locks (flock(2)), if that is so. Then pulls share nothing, no
    /// partial is kept, the index is changed without a lock, and no blob is collected as garbage.
    pub fn missing_locks(&self) -> Option<&str> {
        let ask = || lock::missing(self.root()).map(|error| error.to_string());
        self.shared.missing_locks.get_or_init(ask).as_deref()
    }

    /// Why some names in the store were not synced, if that was tried: its file system cannot do it,
    /// and a power cut may cost what was pulled last.
    pub fn unsyncable(&self) -> Option<String> {
        self.root().unsyncable().map(|errno| std::io::Error::from(errno).to_string())
    }

    /// Removes the directory again that [`Store::open`] made, if nothing came to be in it and nobody
    /// else uses it. For a pull that failed.
    pub fn remove_if_unused(&self) {
        let own = |name: &str| format!("{OWN_DIRECTORY}/{name}");
        let (lock, users) = (own(lock::LOCK_FILE), own(lock::USERS_FILE));
        let [sha256, sha512, blobs] = BLOB_DIRECTORIES;
        let directories = [PARTIALS, OWN_DIRECTORY, sha256, sha512, blobs];
        self.root().remove_if_unused(&directories, &[&lock, &users]);
    }

    /// Whether the blob is there, with the right size and the right bytes.
    ///
    /// It is hashed unless the layout's own record says that ringpull did so before and the file is
    /// the same since. A file that was written a moment ago is not recorded. Of a blob of many GiB that takes as many seconds.
    ///
    /// # Errors
    /// [`StoreError::UnsafePath`] if there is something else than a plain file; the disk's.
    pub fn check(&self, descriptor: &Descriptor) -> Result<Presence, StoreError> {
        let digest = &descriptor.digest;
        let Some((file, stamp)) = self.open_blob(digest)? else {
            return Ok(Presence::Missing);
        };
        if stamp.size != descriptor.size {
            let damage = Damage::Size { expected: descriptor.size, got: stamp.size };
            return Ok(Presence::Damaged(damage));
        }
        if self.verified().knows(self.root(), digest, &stamp) {
            return Ok(Presence::Present);
        }
        // As it was before a byte was read: a write from now on changes the stamp.
        let settled = stamp.is_settled(SystemTime::now());
        let failed = |action, error| StoreError::io(action, &self.blob_path(digest), error);
        let got = hash(&file, digest.algorithm()).map_err(|error| failed("read", error))?;
        if got != *digest {
            return Ok(Presence::Damaged(Damage::Digest { got }));
        }
        if self.options().fsync {
            // Another tool may have written it a moment ago, and not waited for the disk.
            disk::sync(&file).map_err(|error| failed("sync", error))?;
            if settled {
                self.verified().note(self.root(), digest, &stamp);
            }
        }
        Ok(Presence::Present)
    }

    /// Reads a small blob: a manifest or a configuration. Its bytes are verified each time.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] above `size_max` bytes, [`StoreError::Digest`] for wrong bytes,
    /// [`StoreError::UnsafePath`]; the disk's.
    pub fn read(&self, digest: &Digest, size_max: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let Some((file, stamp)) = self.open_blob(digest)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        let read = file
            .take(size_max.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(|error| StoreError::io("read", &self.blob_path(digest), error))?;
        if read as u64 > size_max {
            return Err(StoreError::TooLarge { digest: *digest, size: stamp.size, size_max });
        }
        let got = Digest::of(digest.algorithm(), &bytes);
        if got != *digest {
            return Err(StoreError::Digest { expected: *digest, got: Box::new(got) });
        }
        Ok(Some(bytes))
    }

    /// Claims a blob, of which an earlier process may have written some: this one goes on with it,
    /// and if it ends before the blob is whole, the next does. At any time one process at most has
    /// it. The space of a large one is reserved at once.
    ///
    /// With `replace`, what is in its place is known to be [`Presence::Damaged`].
    ///
    /// # Errors
    /// As for [`Store::begin`].
    pub fn claim(&self, descriptor: &Descriptor, replace: bool) -> Result<Claim, StoreError> {
        self.root().expect_regular_or_nothing(&relative_blob_path(&descriptor.digest))?;
        BlobWriter::claim(self, descriptor, replace)
    }

    /// Begins a blob that nobody is to go on with. The space of a large one is reserved at once.
    ///
    /// # Errors
    /// [`StoreError::DiskFull`] if the blob cannot fit, [`StoreError::UnsafePath`] if something
    /// else than a plain file is in its place; the disk's.
    pub fn begin(&self, descriptor: &Descriptor) -> Result<BlobWriter, StoreError> {
        self.root().expect_regular_or_nothing(&relative_blob_path(&descriptor.digest))?;
        BlobWriter::begin(self, descriptor)
    }

    /// Writes a whole small blob, unless it is there: a store that has all of an image may be
    /// read-only.
    ///
    /// # Errors
    /// Those of [`Store::begin`] and [`BlobWriter::commit`].
    pub fn put(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<(), StoreError> {
        // What stands in its place may be replaced, if not read.
        if matches!(self.check(descriptor), Ok(Presence::Present)) {
            return Ok(());
        }
        let writer = self.begin(descriptor)?;
        writer.write(bytes)?;
        writer.commit()
    }

    /// Makes `name` mean the image `root` in `index.json`, with further `annotations` on its entry.
    /// Everything else in the index stays.
    ///
    /// The name becomes the annotation `org.opencontainers.image.ref.name`, and which name that is
    /// the caller decides: the full reference (`docker.io/library/alpine:latest`) in the default
    /// store, where all images of all registries meet; the tag in a directory the user named, so
    /// that `skopeo inspect oci:DIR:TAG` finds it.
    ///
    /// All blobs of the image must have been committed, or found [`Presence::Present`], before.
    ///
    /// # Errors
    /// [`StoreError::LockBusy`], [`StoreError::Index`] if another tool has left an index that is
    /// not valid; the disk's. The index is as it was then.
    pub fn register(
        &self,
        name: &str,
        root: &Descriptor,
        annotations: &[(&str, &str)],
    ) -> Result<Registered, StoreError> {
        if self.says(name, root, annotations)? {
            self.make_durable()?;
            return Ok(Registered::Unchanged);
        }
        // Without locks, only other tools' changes are noticed in time, as ever.
        let _lock = match self.missing_locks() {
            None => Some(Lock::acquire(self.root(), self.options().lock_timeout)?),
            Some(_) => None,
        };
        self.make_durable()?;
        if !self.options().fsync {
            self.root().make_directory(OWN_DIRECTORY)?.file_to_append(UNSYNCED_FILE)?;
        }
        if document::stamp(self.root(), LAYOUT_FILE)?.is_none() {
            if self.options().fsync {
                // Who made the directory may have ended before it did this.
                self.root().sync_parents();
            }
            self.replace(LAYOUT_FILE, &index::layout_file(), || Ok(true))?;
        }
        self.change_index(|index| index.set(name, root, annotations))
    }

    /// Whether the layout says already what [`register`](Store::register) is to make it say.
    fn says(
        &self,
        name: &str,
        root: &Descriptor,
        annotations: &[(&str, &str)],
    ) -> Result<bool, StoreError> {
        let (Some(_), index) = self.index()? else { return Ok(false) };
        if index.resolve(name).as_ref() != Some(root) {
            return Ok(false);
        }
        let mut same = index.clone();
        same.set(name, root, annotations);
        Ok(same == index && document::stamp(self.root(), LAYOUT_FILE)?.is_some())
    }

    /// What `name` means now. An entry that ringpull cannot read, of an unknown digest algorithm
    /// for example, counts as none.
    ///
    /// # Errors
    /// [`StoreError::Index`]; the disk's.
    pub fn resolve(&self, name: &str) -> Result<Option<Descriptor>, StoreError> {
        Ok(self.index()?.1.resolve(name))
    }

    /// Removes what writers have left behind that are gone, except for what a pull can go on with
    /// and that is not older than [`PARTIAL_AGE_MAX`](crate::limits::PARTIAL_AGE_MAX). Those that
    /// still write are not disturbed, so any time is right; the beginning of a pull is a good one.
    ///
    /// # Errors
    /// The disk's.
    pub fn sweep(&self) -> Result<Swept, StoreError> {
        self.sweep_partials(Sweep::Aged, false)
    }

    /// The partial blobs that a pull can go on with, or that are being written.
    ///
    /// # Errors
    /// The disk's.
    pub fn kept_partials(&self) -> Result<Vec<KeptPartial>, StoreError> {
        match self.root().directory(PARTIALS)? {
            Some(partials) => partial::kept(&partials),
            None => Ok(Vec::new()),
        }
    }

    /// Makes sure that all `blobs` have room, of which nothing is here but what partials hold.
    ///
    /// # Errors
    /// [`StoreError::DiskFull`], with what all of them together need; [`StoreError::FileSize`] if one
    /// is larger than a file of this process may be.
    pub fn expect_room_for<'a>(
        &self,
        blobs: impl IntoIterator<Item = &'a Descriptor>,
    ) -> Result<(), StoreError> {
        let missing =
            |blob: &Descriptor| blob.size.saturating_sub(self.allocated_for(&blob.digest));
        let blobs: Vec<&Descriptor> = blobs.into_iter().collect();
        let file_size_max = error::file_size_max().unwrap_or(u64::MAX);
        if let Some(large) = blobs.iter().find(|blob| blob.size > file_size_max) {
            return Err(StoreError::io(
                "write",
                &self.blob_path(&large.digest),
                rustix::io::Errno::FBIG,
            ));
        }
        let need = blobs.into_iter().map(missing).fold(0, u64::saturating_add);
        match self.root().space_left() {
            Some(left) if left < need => {
                let full = StoreError::io("reserve", self.path(), rustix::io::Errno::NOSPC);
                Err(full.needing(need))
            }
            _ => Ok(()),
        }
    }

    fn root(&self) -> &Directory {
        &self.shared.root
    }

    pub(crate) fn options(&self) -> &Options {
        &self.shared.options
    }

    fn verified(&self) -> &Verified {
        &self.shared.verified
    }

    fn partials(&self) -> Result<&Arc<Directory>, StoreError> {
        if let Some(partials) = self.shared.partials.get() {
            return Ok(partials);
        }
        let partials = self.root().make_directory(PARTIALS)?;
        Ok(self.shared.partials.get_or_init(|| Arc::new(partials)))
    }

    /// The index, and the stamp of the file it was read from if there is one.
    fn index(&self) -> Result<(Option<Stamp>, Index), StoreError> {
        let read = document::read(self.root(), INDEX_FILE, INDEX_SIZE_MAX, Index::parse)?;
        Ok(read.map_or_else(|| (None, Index::empty()), |(stamp, index)| (Some(stamp), index)))
    }

    /// Reads, changes and replaces the index; again, if another tool has done so meanwhile. The
    /// lock, which is held here, keeps out other ringpulls only.
    fn change_index(
        &self,
        mut change: impl FnMut(&mut Index) -> Registered,
    ) -> Result<Registered, StoreError> {
        for _ in 0..INDEX_ROUNDS_MAX {
            let (stamp, old) = self.index()?;
            let mut new = old.clone();
            let registered = change(&mut new);
            if new == old {
                return Ok(registered);
            }
            let bytes = new.into_bytes();
            if bytes.len() as u64 > INDEX_SIZE_MAX {
                // Nobody could read it again.
                return Err(self.bad_index("has no room for another name"));
            }
            let unchanged = || Ok(document::stamp(self.root(), INDEX_FILE)? == stamp);
            if self.replace(INDEX_FILE, &bytes, unchanged)? {
                return Ok(registered);
            }
        }
        Err(self.bad_index("is changed again and again by another program"))
    }

    fn bad_index(&self, problem: &str) -> StoreError {
        StoreError::Index { path: self.path().join(INDEX_FILE), problem: problem.to_owned() }
    }

    /// Replaces a document, unless `still_valid` says no at the last moment.
    fn replace(
        &self,
        name: &str,
        bytes: &[u8],
        still_valid: impl FnOnce() -> Result<bool, StoreError>,
    ) -> Result<bool, StoreError> {
        let durable = self.options().fsync;
        document::replace(self.root(), self.partials()?, name, bytes, durable, still_valid)
    }

    /// Makes sure that every blob an index could name has its name on disk, and the index that is
    /// there: another process may have made them, and ended before it synced the directory. After a
    /// pull without fsync, that holds for the bytes of the documents and for the store's own name, too.
    fn make_durable(&self) -> Result<(), StoreError> {
        if !self.options().fsync {
            return Ok(());
        }
        for directory in BLOB_DIRECTORIES {
            if let Some(directory) = self.root().directory(directory)? {
                directory.sync()?;
            }
        }
        let own = self.root().directory(OWN_DIRECTORY)?;
        let marked = own.filter(|own| matches!(own.file(UNSYNCED_FILE), Ok(Some(_))));
        if marked.is_some() {
            document::sync(self.root(), LAYOUT_FILE)?;
            document::sync(self.root(), INDEX_FILE)?;
            self.root().sync_parents();
        }
        self.root().sync()?;
        if let Some(own) = marked {
            // Where it stays, all of this is done once more.
            let _ = own.remove(UNSYNCED_FILE);
        }
        Ok(())
    }

    /// Makes sure that partials and their journals have their names on disk.
    fn sync_partial_names(&self) -> Result<(), StoreError> {
        let led_to = &self.shared.partials_led_to;
        if led_to.get().is_none() {
            self.root().sync()?;
            if let Some(own) = self.root().directory(OWN_DIRECTORY)? {
                own.sync()?;
            }
            let _ = led_to.set(());
        }
        self.partials()?.sync()
    }

    fn open_blob(&self, digest: &Digest) -> Result<Option<(File, Stamp)>, StoreError> {
        let path = relative_blob_path(digest);
        let Some(file) = self.root().file(&path)? else {
            return Ok(None);
        };
        let metadata = file
            .metadata()
            .map_err(|error| StoreError::io("look at", &self.blob_path(digest), error))?;
        if metadata.nlink() > 1 {
            // Through its other name it can be written to from outside the store.
            return Err(self.root().unsafe_path(&path, "a file with another name (a hard link)"));
        }
        Ok(Some((file, Stamp::of(&metadata))))
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.path().join(relative_blob_path(digest))
    }
}

/// Where the blobs of an algorithm are.
fn blob_directory(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::Sha256 => "blobs/sha256",
        Algorithm::Sha512 => "blobs/sha512",
    }
}

fn relative_blob_path(digest: &Digest) -> String {
    format!("{}/{}", blob_directory(digest.algorithm()), digest.hex())
}

/// The digest of a file's bytes.
fn hash(mut file: &File, algorithm: Algorithm) -> std::io::Result<Digest> {
    // Advice only: read ahead.
    let _ = rustix::fs::fadvise(file, 0, None, Advice::Sequential);
    let mut hasher = algorithm.hasher();
    let mut buffer = vec![0; HASH_BUFFER_SIZE];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(read) => hasher.update(&buffer[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

// Threads share a store, and a blob may be finished on another thread than it was begun on.
const _: () = {
    const fn is_send_and_sync<T: Send + Sync>() {}
    const fn is_send<T: Send>() {}
    is_send_and_sync::<Store>();
    is_send::<BlobWriter>();
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::MediaType;
    use serde_json::{Value, json};

    /// A change that is made while another tool, between our reading and our writing, makes its own
    /// `interruptions` times.
    fn change_with_interruptions(interruptions: u32) -> (Result<Registered, StoreError>, Value) {
        let temporary = tempfile::tempdir().unwrap();
        let store = Store::open(temporary.path(), Options::default()).unwrap();
        let path = temporary.path().join(INDEX_FILE);
        let bytes = b"{}";
        let root = Descriptor {
            media_type: MediaType::new(MediaType::OCI_MANIFEST),
            digest: Digest::of(Algorithm::Sha256, bytes),
            size: bytes.len() as u64,
        };
        let mut left = interruptions;
        let result = store.change_index(|index| {
            if left > 0 {
                left -= 1;
                let document = json!({"schemaVersion": 2, "manifests": [{"left": left}]});
                std::fs::write(&path, document.to_string()).unwrap();
            }
            index.set("name", &root, &[])
        });
        (result, serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap())
    }

    #[test]
    fn what_another_tool_writes_meanwhile_is_kept() {
        for interruptions in [1, INDEX_ROUNDS_MAX - 1] {
            let (result, index) = change_with_interruptions(interruptions);
            assert_eq!(result.unwrap(), Registered::New);
            assert_eq!(index["manifests"][0], json!({"left": 0}));
            assert_eq!(index["manifests"].as_array().unwrap().len(), 2);
        }
        let (result, index) = change_with_interruptions(INDEX_ROUNDS_MAX);
        let error = result.unwrap_err();
        assert!(error.to_string().contains("again and again"), "{error}");
        assert_eq!(index["manifests"], json!([{"left": 0}]));
    }
}
