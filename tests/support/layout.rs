//! OCI image layouts on disk (image-spec, `image-layout.md`): written, read, verified, compared.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ringpull::limits::JOURNAL_STEP_MIN;
use serde_json::{Value, json};

use super::tools::text;

/// The annotation of a descriptor in `index.json` that holds its tag.
const TAG: &str = "org.opencontainers.image.ref.name";

/// A reference to a blob, by digest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Descriptor {
    /// What the blob is.
    pub media_type: String,
    /// `sha256:<hex>`.
    pub digest: String,
    /// In bytes.
    pub size: u64,
}

impl Descriptor {
    /// As it stands in a document.
    pub fn json(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": self.digest, "size": self.size })
    }

    fn of_json(value: &Value) -> Descriptor {
        Descriptor {
            media_type: value["mediaType"].as_str().unwrap_or_default().to_owned(),
            digest: value["digest"].as_str().expect("a digest").to_owned(),
            size: value["size"].as_u64().expect("a size"),
        }
    }
}

/// An image layout's directory.
#[derive(Debug, Clone)]
pub struct Layout {
    path: PathBuf,
}

impl Layout {
    /// Makes an empty layout at `path`.
    pub fn create(path: &Path) -> Layout {
        std::fs::create_dir_all(path.join("blobs/sha256")).unwrap();
        std::fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let layout = Layout::open(path);
        layout.write_index(&json!({ "schemaVersion": 2, "manifests": [] }));
        layout
    }

    /// The layout at `path`, which must be there when it is used.
    pub fn open(path: &Path) -> Layout {
        Layout { path: path.to_owned() }
    }

    /// The layout's directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `oci:DIR:TAG`, as skopeo and ringpull call an image in it.
    pub fn reference(&self, tag: &str) -> String {
        format!("oci:{}:{tag}", text(&self.path))
    }

    /// Writes a blob.
    pub fn put(&self, media_type: &str, content: &[u8]) -> Descriptor {
        let digest = sha256(content);
        std::fs::write(self.blob_path(&digest), content).unwrap();
        Descriptor { media_type: media_type.to_owned(), digest, size: content.len() as u64 }
    }

    /// Names `manifest` in `index.json`.
    pub fn tag(&self, tag: &str, manifest: &Descriptor) {
        let mut index = self.index();
        let mut entry = manifest.json();
        entry["annotations"] = json!({ TAG: tag });
        index["manifests"].as_array_mut().expect("a list").push(entry);
        self.write_index(&index);
    }

    /// All tags, with what they name.
    pub fn tags(&self) -> BTreeMap<String, Descriptor> {
        let index = self.index();
        let entries = index["manifests"].as_array().expect("a list").iter();
        entries
            .filter_map(|entry| {
                let tag = entry["annotations"][TAG].as_str()?;
                Some((tag.to_owned(), Descriptor::of_json(entry)))
            })
            .collect()
    }

    /// What `tag` names.
    #[track_caller]
    pub fn tagged(&self, tag: &str) -> Descriptor {
        let tags = self.tags();
        tags.get(tag).unwrap_or_else(|| panic!("no tag {tag}, but {tags:?}")).clone()
    }

    /// The content of a blob.
    #[track_caller]
    pub fn blob(&self, digest: &str) -> Vec<u8> {
        let path = self.blob_path(digest);
        std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Where a blob lies.
    pub fn blob_path(&self, digest: &str) -> PathBuf {
        self.path.join("blobs").join(digest.replace(':', "/"))
    }

    /// `root` and all it refers to, directly or not: indexes and manifests before what they name.
    #[track_caller]
    pub fn reachable(&self, root: &Descriptor) -> Vec<Descriptor> {
        let mut found = vec![root.clone()];
        if is_manifest(&root.media_type) {
            let document: Value = serde_json::from_slice(&self.blob(&root.digest)).unwrap();
            for manifest in document["manifests"].as_array().into_iter().flatten() {
                found.extend(self.reachable(&Descriptor::of_json(manifest)));
            }
            let layers = document["layers"].as_array().into_iter().flatten();
            found.extend(document.get("config").into_iter().chain(layers).map(Descriptor::of_json));
        }
        found
    }

    /// Copies `root` and all it refers to into skopeo's own format, a directory: in an image layout
    /// it does not look for Docker's media types.
    pub fn export_for_skopeo(&self, root: &Descriptor, directory: &Path) {
        std::fs::create_dir_all(directory).unwrap();
        let write = |name: &str, content: &[u8]| {
            std::fs::write(directory.join(name), content).unwrap();
        };
        write("version", b"Directory Transport Version: 1.1\n");
        write("manifest.json", &self.blob(&root.digest));
        for Descriptor { media_type, digest, .. } in &self.reachable(root)[1..] {
            let hex = digest.trim_start_matches("sha256:");
            let suffix = if is_manifest(media_type) { ".manifest.json" } else { "" };
            write(&format!("{hex}{suffix}"), &self.blob(digest));
        }
    }

    fn index(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.path.join("index.json")).unwrap()).unwrap()
    }

    fn write_index(&self, index: &Value) {
        std::fs::write(self.path.join("index.json"), index.to_string()).unwrap();
    }
}

/// Whether documents of this type name other blobs.
pub fn is_manifest(media_type: &str) -> bool {
    media_type.contains("manifest") || media_type.contains("image.index")
}

/// Checks that every file under `blobs` is what its name says, and that there is one.
#[track_caller]
pub fn verify_all(layout: &Layout) {
    let directory = layout.path().join("blobs/sha256");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&directory).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let digest = format!("sha256:{name}");
        assert_eq!(sha256(&layout.blob(&digest)), digest, "the bytes do not fit the name");
        names.push(name);
    }
    assert!(!names.is_empty(), "{} is empty", directory.display());
}

/// The names in `.ringpull/partial` of a layout: files that are being written, or that a pull was
/// ended over. Sorted; none, if there is no such directory.
pub fn partials(layout: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(layout.join(".ringpull/partial")).into_iter().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Checks that what is left of blobs is what a pull can go on with, and nothing besides: partials
/// named by their digests, each with its journal, for this user alone, of blobs that are not there. Blobs
/// smaller than a step of the journal have one only once they are given up: of those that were waiting
/// for the disk when the pull was killed, the next one sweeps what is left.
#[track_caller]
pub fn expect_resumable(layout: &Path) {
    let names = partials(layout);
    for name in &names {
        let partial = name.strip_suffix(".journal").unwrap_or(name);
        let hex = partial.strip_prefix("sha256-").expect("the name of a partial");
        let is_hex = hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
        assert!(is_hex, "{name} is left");
        assert!(names.contains(&partial.to_owned()), "{name} without its partial: {names:?}");
        let size = std::fs::metadata(layout.join(".ringpull/partial").join(name)).unwrap().len();
        let journal = names.contains(&format!("{partial}.journal"));
        assert!(journal || size < JOURNAL_STEP_MIN, "{name} without its journal: {size} bytes");
        assert!(!layout.join("blobs/sha256").join(hex).exists(), "{name} of a blob that is there");
        let metadata = std::fs::metadata(layout.join(".ringpull/partial").join(name)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600, "{name}");
    }
}

/// Checks that all of `root`, as it is in `expected`, is in `found` too, byte for byte.
#[track_caller]
pub fn assert_same_image(expected: &Layout, root: &Descriptor, found: &Layout) {
    for descriptor in expected.reachable(root) {
        let (wanted, is) = (expected.blob(&descriptor.digest), found.blob(&descriptor.digest));
        // Not `assert_eq`: nobody reads a printed layer.
        assert!(wanted == is, "{descriptor:?} differs");
    }
}

/// `sha256:<hex>` of `content`.
pub fn sha256(content: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, content);
    format!("sha256:{}", hex::encode(digest))
}
