//! Which images a store has.

use std::collections::{HashMap, HashSet, VecDeque};

use super::{Store, StoreError};
use crate::image::manifest::config_platform;
use crate::image::{Descriptor, Digest, Document, Manifest};
use crate::limits::{DESCRIPTORS_MAX, IMAGE_CONFIG_SIZE_MAX, INDEX_DEPTH_MAX, MANIFEST_SIZE_MAX};

/// An entry of `index.json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredImage {
    /// Its name; `None` for an entry that another tool has left without one.
    pub name: Option<String>,
    /// What the registry answered to the name: a manifest or an index.
    pub digest: Digest,
    /// What of it is here: the same, or of an index the manifest for one platform.
    pub manifest: Digest,
    /// The platforms of the images that are here, in the order of the index.
    pub platforms: Vec<String>,
    /// Bytes of all its blobs that are here, each counted once. Other images may share them.
    pub size: u64,
    /// How many of its blobs are missing or of another size. The images of an index that are not
    /// here at all do not count.
    pub missing: usize,
    /// Whether it leads to more than is looked into: deeper than [`INDEX_DEPTH_MAX`] indexes, or to
    /// more than [`DESCRIPTORS_MAX`] blobs. No pull makes such an image.
    pub beyond: bool,
}

/// What is found on the way from an entry to its blobs.
#[derive(Default)]
struct Found {
    platforms: Vec<String>,
    /// Size in bytes of each blob, or `None` of one that is missing.
    blobs: HashMap<Digest, Option<u64>>,
    /// Entries of indexes that were, or are to be, looked into.
    queued: HashSet<Digest>,
    beyond: bool,
}

impl Store {
    /// The images that `index.json` names, in its order. Entries that ringpull cannot read are left
    /// out. Nothing is hashed but documents.
    ///
    /// # Errors
    /// [`StoreError::Index`]; the disk's.
    pub fn images(&self) -> Result<Vec<StoredImage>, StoreError> {
        let (_, index) = self.index()?;
        let mut images = Vec::new();
        for (name, root, index) in index.images() {
            let mut found = Found::default();
            self.look(&root, &mut found)?;
            let name = name.map(str::to_owned);
            let size = found.blobs.values().flatten().sum();
            let missing = found.blobs.values().filter(|size| size.is_none()).count();
            let Found { platforms, beyond, .. } = found;
            let (digest, manifest) = (index.unwrap_or(root.digest), root.digest);
            images.push(StoredImage { name, digest, manifest, platforms, size, missing, beyond });
        }
        Ok(images)
    }

    /// Looks into `root` and all that it leads to, with the bounds that pulls have.
    fn look(&self, root: &Descriptor, found: &mut Found) -> Result<(), StoreError> {
        let mut wanted = VecDeque::from([(root.clone(), 0)]);
        while let Some((document, depth)) = wanted.pop_front() {
            // A blob that was seen already is not looked into again, so a cycle ends.
            if found.blobs.contains_key(&document.digest) {
                continue;
            }
            if depth > INDEX_DEPTH_MAX || found.blobs.len() >= DESCRIPTORS_MAX {
                found.beyond = true;
                return Ok(());
            }
            self.count(&document, found)?;
            let Some(bytes) = self.read_if_right(&document.digest, MANIFEST_SIZE_MAX)? else {
                found.blobs.insert(document.digest, None);
                continue;
            };
            match Document::parse(&bytes, Some(&document.media_type)) {
                Ok(Document::Index(index)) => {
                    for entry in index.manifests {
                        let digest = &entry.descriptor.digest;
                        if !found.queued.contains(digest) && self.size_of(digest)?.is_some() {
                            found.queued.insert(*digest);
                            wanted.push_back((entry.descriptor, depth + 1));
                        }
                    }
                }
                Ok(Document::Manifest(manifest)) => self.look_at_image(manifest, found)?,
                // An artifact of another kind.
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn look_at_image(&self, manifest: Manifest, found: &mut Found) -> Result<(), StoreError> {
        let Manifest { config, layers, .. } = manifest;
        let bytes = self.read_if_right(&config.descriptor.digest, IMAGE_CONFIG_SIZE_MAX)?;
        let platform = bytes.as_deref().and_then(config_platform);
        found.platforms.extend(platform.map(|platform| platform.to_string()));
        for content in std::iter::once(config).chain(layers) {
            self.count(&content.descriptor, found)?;
        }
        Ok(())
    }

    fn count(&self, blob: &Descriptor, found: &mut Found) -> Result<(), StoreError> {
        let size = self.size_of(&blob.digest)?.filter(|size| *size == blob.size);
        found.blobs.insert(blob.digest, size);
        Ok(())
    }

    fn size_of(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        Ok(self.open_blob(digest)?.map(|(_, stamp)| stamp.size))
    }

    /// A document, if it is here and is what its name says.
    fn read_if_right(
        &self,
        digest: &Digest,
        size_max: usize,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        match self.read(digest, size_max as u64) {
            Err(StoreError::Digest { .. } | StoreError::TooLarge { .. }) => Ok(None),
            read => read,
        }
    }
}
