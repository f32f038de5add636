//! Descriptors (OCI image-spec, `descriptor.md`): the authority on a blob's size and digest.

use std::fmt;

use super::Digest;

/// What a blob is: a media type (RFC 6838), lower case, without parameters.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct MediaType(String);

impl MediaType {
    /// OCI image manifest.
    pub const OCI_MANIFEST: &'static str = "application/vnd.oci.image.manifest.v1+json";
    /// OCI image index.
    pub const OCI_INDEX: &'static str = "application/vnd.oci.image.index.v1+json";
    /// Docker image manifest, schema 2.
    pub const DOCKER_MANIFEST: &'static str =
        "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker manifest list: Docker's index.
    pub const DOCKER_INDEX: &'static str =
        "application/vnd.docker.distribution.manifest.list.v2+json";

    /// The media type of `text`; parameters (`; charset=utf-8`) are dropped.
    pub fn new(text: &str) -> MediaType {
        let essence = text.split(';').next().unwrap_or_default();
        MediaType(essence.trim().to_ascii_lowercase())
    }

    /// The type as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it names an index (OCI or Docker).
    pub fn is_index(&self) -> bool {
        matches!(self.as_str(), MediaType::OCI_INDEX | MediaType::DOCKER_INDEX)
    }

    /// Whether it names an image manifest (OCI or Docker schema 2).
    pub fn is_manifest(&self) -> bool {
        matches!(self.as_str(), MediaType::OCI_MANIFEST | MediaType::DOCKER_MANIFEST)
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MediaType({:?})", self.0)
    }
}

/// What a document says of a blob it refers to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Descriptor {
    /// What the blob is.
    pub media_type: MediaType,
    /// The digest of its bytes.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}
