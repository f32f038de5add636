//! What can be removed from a store: partials that nobody comes back for, and blobs that no name
//! leads to.
//!
//! A blob is removed only if all of this holds; each is for somebody who needs it although no name
//! leads to it now:
//! - Every document that the index leads to could be read. Any text in one of them that is a digest
//!   keeps that blob, whatever kind of document it is.
//! - No pull is under way: it may count on blobs that it found, and has not named yet. Pulls share a
//!   lock ([`Store::hold_blobs`]) that is wanted for this one alone.
//! - It is old enough: other tools know none of these locks.
//! - Nobody has locked it.

use std::collections::HashSet;
use std::fs::{File, TryLockError};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::directory::Directory;
use super::lock::{Lock, Unlocks, Users};
use super::partial::{Sweep, Swept};
use super::{INDEX_FILE, LAYOUT_FILE, OWN_DIRECTORY, Store, StoreError};
use super::{blob_directory, document};
use crate::image::{Algorithm, Digest, MediaType};
use crate::limits::{GARBAGE_AGE_MIN, MANIFEST_SIZE_MAX};

/// What a [`Store::collect_garbage`] is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Collect {
    /// Removes all partials that nobody writes, not only those that are too old.
    pub all_partials: bool,
    /// How long a blob must have been there to be removed; less than [`GARBAGE_AGE_MIN`] only where
    /// nobody else can be at work.
    pub blob_age_min: Duration,
    /// Counts, and removes nothing.
    pub dry_run: bool,
}

impl Default for Collect {
    fn default() -> Collect {
        Collect { all_partials: false, blob_age_min: GARBAGE_AGE_MIN, dry_run: false }
    }
}

/// What it did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collected {
    /// Partial blobs removed.
    pub partials: Swept,
    /// Blobs removed.
    pub blobs: Swept,
    /// Why no blob was removed, if for a reason; follows on "blobs were left: ".
    pub blobs_left: Option<String>,
}

/// While this lives, no blob is removed as garbage by any process.
#[derive(Debug)]
pub struct HeldBlobs {
    _users: Users,
}

impl Store {
    /// Keeps all blobs, of whatever name or none, from being removed as garbage.
    ///
    /// `None` where the store cannot be written to, or has no locks.
    ///
    /// # Errors
    /// [`StoreError::LockBusy`] if garbage is being collected, for longer than the bound.
    pub fn hold_blobs(&self) -> Result<Option<HeldBlobs>, StoreError> {
        let users = Users::share(self.root(), self.options().lock_timeout)?;
        Ok(users.map(|users| HeldBlobs { _users: users }))
    }

    /// Removes what nobody needs; what that is, the module's first lines say.
    ///
    /// # Errors
    /// [`StoreError::LockBusy`], [`StoreError::Index`]; the disk's.
    pub fn collect_garbage(&self, collect: Collect) -> Result<Collected, StoreError> {
        let which = if collect.all_partials { Sweep::All } else { Sweep::Aged };
        let partials = self.sweep_partials(which, collect.dry_run)?;
        let mut collected = Collected { partials, blobs: Swept::default(), blobs_left: None };
        match self.collect_blobs(&collect)? {
            Ok(blobs) => collected.blobs = blobs,
            Err(why) => collected.blobs_left = Some(why),
        }
        Ok(collected)
    }

    /// The blobs removed, or why none.
    fn collect_blobs(&self, collect: &Collect) -> Result<Result<Swept, String>, StoreError> {
        let mut swept = Swept::default();
        if self.root().directory("blobs")?.is_none() {
            return Ok(Ok(swept));
        }
        let is_ours = self.root().directory(OWN_DIRECTORY)?.is_some();
        if !is_ours && document::stamp(self.root(), LAYOUT_FILE)?.is_none() {
            return Ok(Err("this is no image layout".to_owned()));
        }
        if self.missing_locks().is_some() {
            let why =
                "the file system has no locks, so nobody can tell whether a pull is under way";
            return Ok(Err(why.to_owned()));
        }
        let Some(_users) = Users::exclude(self.root())? else {
            return Ok(Err("a pull is under way".to_owned()));
        };
        let _lock = Lock::acquire(self.root(), self.options().lock_timeout)?;
        let stamp = document::stamp(self.root(), INDEX_FILE)?;
        let needed = match self.needed()? {
            Ok(needed) => needed,
            Err(why) => return Ok(Err(why)),
        };
        if document::stamp(self.root(), INDEX_FILE)? != stamp {
            return Ok(Err("another program changes the index".to_owned()));
        }
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let Some(directory) = self.root().directory(blob_directory(algorithm))? else {
                continue;
            };
            for name in directory.names()? {
                let digest = name.to_str().map(|hex| format!("{}:{hex}", algorithm.name()));
                let Some(Ok(digest)) = digest.map(|text| Digest::parse(&text)) else { continue };
                if !needed.contains(&digest)
                    && let Some(size) = remove_old(&directory, &digest.hex(), collect)?
                {
                    swept.add(size);
                }
            }
        }
        Ok(Ok(swept))
    }

    /// All that the index leads to, and perhaps more; or why that cannot be known.
    fn needed(&self) -> Result<Result<HashSet<Digest>, String>, StoreError> {
        let (_, index) = self.index()?;
        let mut links = Vec::new();
        for entry in index.entries() {
            let digest = entry.get("digest").and_then(Value::as_str).map(Digest::parse);
            let Some(Ok(_)) = digest else {
                return Ok(Err("the index names something that ringpull cannot read".to_owned()));
            };
            collect_links(entry, &mut links);
        }
        let mut needed = HashSet::new();
        while let Some(Link { digest, is_document }) = links.pop() {
            if !needed.insert(digest) {
                continue;
            }
            match self.document(&digest) {
                Ok(Some(document)) => collect_links(&document, &mut links),
                // Not here, as the images of other platforms are not; or a layer.
                Ok(None) if !is_document || !self.is_there(&digest)? => {}
                Err(StoreError::Digest { .. } | StoreError::TooLarge { .. }) if !is_document => {}
                Ok(None) | Err(StoreError::Digest { .. } | StoreError::TooLarge { .. }) => {
                    return Ok(Err(format!("{digest}, which may name others, cannot be read")));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Ok(needed))
    }

    /// A blob, if it is here, and a JSON object.
    pub(super) fn document(&self, digest: &Digest) -> Result<Option<Value>, StoreError> {
        use std::os::unix::fs::FileExt;
        let mut first = [0];
        let looks_like_one = self.open_blob(digest)?.is_some_and(|(file, _)| {
            // An archive, compressed or not, begins otherwise.
            file.read_exact_at(&mut first, 0).is_ok() && first[0].is_ascii() && first[0] != 0x1f
        });
        if !looks_like_one {
            return Ok(None);
        }
        let bytes = match self.read(digest, MANIFEST_SIZE_MAX as u64)? {
            Some(bytes) => bytes,
            None => return Ok(None),
        };
        Ok(serde_json::from_slice(&bytes).ok().filter(Value::is_object))
    }

    fn is_there(&self, digest: &Digest) -> Result<bool, StoreError> {
        Ok(self.open_blob(digest)?.is_some())
    }
}

/// A digest in a document.
struct Link {
    digest: Digest,
    /// Whether it says that this is a manifest or an index.
    is_document: bool,
}

/// All texts in a document that are digests, at any depth the parser has let through.
fn collect_links(value: &Value, links: &mut Vec<Link>) {
    match value {
        Value::Object(fields) => {
            let media_type = fields.get("mediaType").and_then(Value::as_str).map(MediaType::new);
            let is_document = media_type.is_some_and(|kind| kind.is_manifest() || kind.is_index());
            for (name, value) in fields {
                match value {
                    Value::String(text) if name == "digest" => {
                        links
                            .extend(Digest::parse(text).map(|digest| Link { digest, is_document }));
                    }
                    value => collect_links(value, links),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| collect_links(value, links)),
        Value::String(text) => {
            links.extend(Digest::parse(text).map(|digest| Link { digest, is_document: false }));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Removes a blob that is old enough and that nobody has locked; its size, if it did or would.
fn remove_old(
    directory: &Directory,
    name: &str,
    collect: &Collect,
) -> Result<Option<u64>, StoreError> {
    let Ok(Some(file)) = directory.file_to_lock(name) else { return Ok(None) };
    let Ok(metadata) = file.metadata() else { return Ok(None) };
    if age(&metadata) < collect.blob_age_min || !lock_or_unlockable(&file) {
        return Ok(None);
    }
    let _held = Unlocks(&file);
    Ok((collect.dry_run || directory.remove(name)?).then_some(metadata.len()))
}

/// Since a file was last written to or got its name, whichever is later.
fn age(metadata: &std::fs::Metadata) -> Duration {
    use std::os::unix::fs::MetadataExt;
    let changed = u64::try_from(metadata.ctime()).map(Duration::from_secs).unwrap_or_default();
    let changed = SystemTime::UNIX_EPOCH.checked_add(changed);
    let newest = metadata.modified().ok().max(changed).unwrap_or_else(SystemTime::now);
    // A time to come is as good as now.
    SystemTime::now().duration_since(newest).unwrap_or_default()
}

fn lock_or_unlockable(file: &File) -> bool {
    !matches!(file.try_lock(), Err(TryLockError::WouldBlock))
}
