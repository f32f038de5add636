//! Manifests and indexes (OCI image-spec, `manifest.md` and `image-index.md`; Docker's schema 2 has
//! the same shape).
//!
//! A document is read once, from its bytes, and what it is is decided there and never again: by the
//! fields it has, with which its `mediaType` and the `Content-Type` it came under must agree
//! (CVE-2021-41190). What cannot be one thing only is refused.
//!
//! The fields are read into types of this module rather than `oci_spec`'s, which drop the place of a
//! malformed digest and cannot see that a document is manifest and index at once; the tests hold
//! the two to the same reading.

use std::collections::HashMap;

use serde::Deserialize;

use super::digest::DigestError;
use super::shown::shown;
use super::strict_json::{self, StrictJsonError};
use super::{Descriptor, Digest, MediaType, Platform};
use crate::error::Class;
use crate::limits::{
    BLOB_SIZE_MAX, IMAGE_CONFIG_SIZE_MAX, INDEX_ENTRIES_MAX, LAYERS_MAX, MANIFEST_SIZE_MAX,
};

/// A document that a reference or an index entry leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// Several manifests, one of which is chosen by platform.
    Index(Index),
    /// One image (or other artifact).
    Manifest(Manifest),
}

/// An image: a config and layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// OCI's or Docker's manifest type.
    pub media_type: MediaType,
    /// The image's config.
    pub config: Descriptor,
    /// The layers, lowest first. At most [`LAYERS_MAX`].
    pub layers: Vec<Layer>,
}

/// One layer of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Its type, digest and size.
    pub descriptor: Descriptor,
    /// Whether it is meant to be fetched from URLs outside the registry (it lists `urls`, or its
    /// type says so). Whoever pulls decides whether that is allowed.
    pub foreign: bool,
}

/// A list of manifests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// OCI's index type or Docker's manifest list type.
    pub media_type: MediaType,
    /// The entries in their order. At most [`INDEX_ENTRIES_MAX`].
    pub manifests: Vec<IndexEntry>,
}

/// One entry of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexEntry {
    /// The manifest (or nested index).
    pub descriptor: Descriptor,
    /// The platform it is for; `None` where the index names none, or none that is well-formed.
    pub platform: Option<Platform>,
    /// Whether it is an image at all.
    pub kind: EntryKind,
    /// Whether it asks for features of the operating system beyond its name (`os.features`).
    pub needs_features: bool,
}

/// What an entry of an index is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// An image, or an index of images.
    Image,
    /// A statement about another entry (provenance, bill of materials), as BuildKit adds them.
    Attestation,
    /// Something else: another artifact, or a type this version does not know.
    Artifact,
}

/// No entry of an index is for the platform wanted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the image has no manifest for {wanted}: it has {}", listed(.available))]
pub struct NoPlatform {
    /// The platform wanted.
    pub wanted: Platform,
    /// The platforms there are, in the order of the index, each once.
    pub available: Vec<String>,
}

impl NoPlatform {
    /// Always [`Class::NoPlatform`].
    pub fn class(&self) -> Class {
        Class::NoPlatform
    }
}

/// Why a document is refused. The texts follow on "the manifest of … cannot be used: ".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Too many bytes.
    #[error("it has {size} bytes: at most {MANIFEST_SIZE_MAX} are read")]
    TooLarge {
        /// Its size in bytes.
        size: usize,
    },
    /// Not JSON, or not the JSON of one reading only.
    #[error("{reason}{}", came_as(.content_type))]
    Json {
        /// What is wrong with it.
        reason: StrictJsonError,
        /// The type it came under, if that is not a manifest's: a proxy's error page, perhaps.
        content_type: Option<MediaType>,
    },
    /// A field has the wrong type or is missing.
    #[error("{0}")]
    Field(String),
    /// Both an index and a manifest.
    #[error("it has both `manifests` and `{0}`, and can be read as two different images")]
    Ambiguous(&'static str),
    /// Neither an index nor a manifest.
    #[error("it is neither a manifest (no `config` and `layers`) nor an index (no `manifests`)")]
    Unrecognised,
    /// Docker schema 1.
    #[error(
        "it is in Docker's schema 1, the image format of before 2016, which carries no sizes and is \
         no longer read: the image must be pushed again with a current client"
    )]
    Schema1,
    /// Another schema version.
    #[error("it has schemaVersion {0}: only 2 is known")]
    SchemaVersion(u64),
    /// `mediaType` and `Content-Type` name different kinds of manifest.
    #[error("its mediaType is {field}, but it came as Content-Type {header}")]
    TypesDiffer {
        /// The type in the document.
        field: MediaType,
        /// The type it came under.
        header: MediaType,
    },
    /// The type is none of a manifest's.
    #[error("its mediaType is `{0}`: neither a manifest nor an index")]
    UnknownType(String),
    /// The type says index and the fields say manifest, or the other way round.
    #[error("its type is {media_type}, but it has the fields of {fields}")]
    TypeDenied {
        /// The type in the document, or else the one it came under.
        media_type: MediaType,
        /// What the fields make of it.
        fields: &'static str,
    },
    /// Too many layers.
    #[error("it has {0} layers: at most {LAYERS_MAX} are read")]
    TooManyLayers(usize),
    /// Too many entries.
    #[error("it has {0} entries: at most {INDEX_ENTRIES_MAX} are read")]
    TooManyEntries(usize),
    /// A digest is malformed.
    #[error("{place}: {source}")]
    Digest {
        /// Where: `config`, `layers[3]`, `manifests[0]`.
        place: String,
        /// What is wrong with it.
        source: DigestError,
    },
    /// A size is beyond what any file system holds.
    #[error("{place}: the size {size} is beyond the {BLOB_SIZE_MAX} bytes allowed")]
    Size {
        /// Where.
        place: String,
        /// The size in bytes.
        size: u64,
    },
    /// The same digest with two sizes: one of them must be wrong.
    #[error("{place}: {digest} has {size} bytes here and {other} in another place")]
    TwoSizes {
        /// The second place.
        place: String,
        /// The digest.
        digest: Digest,
        /// Its size at `place`, in bytes.
        size: u64,
        /// Its size where it occurred before, in bytes.
        other: u64,
    },
}

impl ManifestError {
    /// [`Class::Limit`], [`Class::DigestSyntax`] or [`Class::Manifest`].
    pub fn class(&self) -> Class {
        match self {
            ManifestError::TooLarge { .. }
            | ManifestError::TooManyLayers(_)
            | ManifestError::TooManyEntries(_)
            | ManifestError::Size { .. } => Class::Limit,
            ManifestError::Digest { .. } => Class::DigestSyntax,
            ManifestError::Json { .. }
            | ManifestError::Field(_)
            | ManifestError::Ambiguous(_)
            | ManifestError::Unrecognised
            | ManifestError::Schema1
            | ManifestError::SchemaVersion(_)
            | ManifestError::TypesDiffer { .. }
            | ManifestError::UnknownType(_)
            | ManifestError::TypeDenied { .. }
            | ManifestError::TwoSizes { .. } => Class::Manifest,
        }
    }
}

impl Document {
    /// Reads a document of at most [`MANIFEST_SIZE_MAX`] bytes, which came under `content_type`.
    ///
    /// A `content_type` that is no manifest's (`application/json`, `text/plain`) says nothing and is
    /// not held against the document.
    pub fn parse(
        bytes: &[u8],
        content_type: Option<&MediaType>,
    ) -> Result<Document, ManifestError> {
        if bytes.len() > MANIFEST_SIZE_MAX {
            return Err(ManifestError::TooLarge { size: bytes.len() });
        }
        strict_json::check(bytes).map_err(|reason| ManifestError::Json {
            reason,
            content_type: content_type.filter(|media_type| !is_known(media_type)).cloned(),
        })?;
        let fields: Fields = serde_json::from_slice(bytes)
            .map_err(|error| ManifestError::Field(shown(&error.to_string())))?;
        let declared = declared_type(&fields, content_type)?;
        match fields.kind()? {
            Kind::Index(entries) => {
                let media_type = confirm(declared, MediaType::OCI_INDEX, MediaType::is_index)?;
                Ok(Document::Index(Index::new(media_type, entries)?))
            }
            Kind::Manifest { config, layers } => {
                let media_type =
                    confirm(declared, MediaType::OCI_MANIFEST, MediaType::is_manifest)?;
                Ok(Document::Manifest(Manifest::new(media_type, *config, layers)?))
            }
        }
    }
}

impl Manifest {
    fn new(
        media_type: MediaType,
        config: DescriptorFields,
        layers: Vec<DescriptorFields>,
    ) -> Result<Manifest, ManifestError> {
        if layers.len() > LAYERS_MAX {
            return Err(ManifestError::TooManyLayers(layers.len()));
        }
        let mut sizes = Sizes::default();
        let config = sizes.descriptor(&config, || "config".to_owned())?;
        let layers = layers.iter().enumerate().map(|(position, fields)| {
            let descriptor = sizes.descriptor(fields, || format!("layers[{position}]"))?;
            let foreign = fields.has_urls() || descriptor.media_type.is_foreign_layer();
            Ok(Layer { descriptor, foreign })
        });
        let layers = layers.collect::<Result<_, ManifestError>>()?;
        Ok(Manifest { media_type, config, layers })
    }
}

impl Index {
    fn new(media_type: MediaType, entries: Vec<DescriptorFields>) -> Result<Index, ManifestError> {
        if entries.len() > INDEX_ENTRIES_MAX {
            return Err(ManifestError::TooManyEntries(entries.len()));
        }
        let mut sizes = Sizes::default();
        let manifests = entries.iter().enumerate().map(|(position, fields)| {
            let descriptor = sizes.descriptor(fields, || format!("manifests[{position}]"))?;
            Ok(IndexEntry::new(descriptor, fields))
        });
        let manifests = manifests.collect::<Result<_, ManifestError>>()?;
        Ok(Index { media_type, manifests })
    }

    /// The entry to pull on `wanted`: the one that fits best (see [`Platform::rank`]), the first
    /// among equals, entries that need no further features before those that do.
    ///
    /// Where none fits and exactly one entry names no platform, that one is taken: it may be a
    /// nested index, or an image whose config says what it is for. Attestations and other artifacts
    /// are never taken.
    pub fn select(&self, wanted: &Platform) -> Result<&IndexEntry, NoPlatform> {
        let images = || self.manifests.iter().filter(|entry| entry.kind == EntryKind::Image);
        let ranked = images().filter_map(|entry| {
            let rank = wanted.rank(entry.platform.as_ref()?)?;
            Some((rank, entry.needs_features, entry))
        });
        if let Some((_, _, entry)) = ranked.min_by_key(|&(rank, features, _)| (rank, features)) {
            return Ok(entry);
        }
        let mut unnamed = images().filter(|entry| entry.platform.is_none());
        match (unnamed.next(), unnamed.next()) {
            (Some(only), None) => Ok(only),
            _ => Err(NoPlatform { wanted: wanted.clone(), available: self.platforms() }),
        }
    }

    /// The platforms there are images for, in the order of the index, each once.
    pub fn platforms(&self) -> Vec<String> {
        let mut platforms = Vec::new();
        for entry in self.manifests.iter().filter(|entry| entry.kind == EntryKind::Image) {
            let platform = match &entry.platform {
                Some(platform) => platform.to_string(),
                None => "one without platform".to_owned(),
            };
            if !platforms.contains(&platform) {
                platforms.push(platform);
            }
        }
        platforms
    }
}

impl IndexEntry {
    fn new(descriptor: Descriptor, fields: &DescriptorFields) -> IndexEntry {
        let named = fields.platform.as_ref();
        let platform = named.and_then(PlatformFields::platform);
        let kind = if fields.is_attestation() || platform.as_ref().is_some_and(Platform::is_unknown)
        {
            EntryKind::Attestation
        } else if fields.is_artifact() || !is_known(&descriptor.media_type) {
            EntryKind::Artifact
        } else if named.is_some() && platform.is_none() {
            // It names a platform, but not one that anything runs on.
            EntryKind::Artifact
        } else {
            EntryKind::Image
        };
        let needs_features =
            named.and_then(|named| named.os_features.as_ref()).is_some_and(|list| !list.is_empty());
        IndexEntry { descriptor, platform, kind, needs_features }
    }
}

impl MediaType {
    /// Docker image manifest, schema 1: refused.
    pub const DOCKER_SCHEMA1: &'static str = "application/vnd.docker.distribution.manifest.v1+json";
    /// The same, signed: refused.
    pub const DOCKER_SCHEMA1_SIGNED: &'static str =
        "application/vnd.docker.distribution.manifest.v1+prettyjws";

    /// Whether it names a manifest of Docker's schema 1.
    fn is_schema1(&self) -> bool {
        matches!(self.as_str(), MediaType::DOCKER_SCHEMA1 | MediaType::DOCKER_SCHEMA1_SIGNED)
    }

    /// Whether it names a layer that registries do not keep: Docker's "foreign", OCI's
    /// "nondistributable".
    fn is_foreign_layer(&self) -> bool {
        self.as_str().contains("foreign") || self.as_str().contains("nondistributable")
    }

    fn is_image_config(&self) -> bool {
        matches!(
            self.as_str(),
            "application/vnd.oci.image.config.v1+json"
                | "application/vnd.docker.container.image.v1+json"
        )
    }
}

/// The platform that an image's config names (OCI image-spec, `config.md`). For images that no index
/// led to: whether they fit is seen only once the config is there, and is then worth a warning.
///
/// `None` where the config is larger than [`IMAGE_CONFIG_SIZE_MAX`], is not JSON, or names none.
pub fn config_platform(config: &[u8]) -> Option<Platform> {
    if config.len() > IMAGE_CONFIG_SIZE_MAX {
        return None;
    }
    let fields: PlatformFields = serde_json::from_slice(config).ok()?;
    fields.platform()
}

// --- the documents as they are written -----------------------------------------------------------

/// The fields of manifests and indexes of all schemas, so that a document which is several things at
/// once is seen to be. Fields set to `null` count as absent, as they do for every other reader.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields {
    schema_version: Option<u64>,
    media_type: Option<String>,
    manifests: Option<Vec<DescriptorFields>>,
    config: Option<DescriptorFields>,
    layers: Option<Vec<DescriptorFields>>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

/// What the fields make of a document.
enum Kind {
    Index(Vec<DescriptorFields>),
    Manifest { config: Box<DescriptorFields>, layers: Vec<DescriptorFields> },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DescriptorFields {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    urls: Option<Vec<serde::de::IgnoredAny>>,
    platform: Option<PlatformFields>,
    artifact_type: Option<String>,
    annotations: Option<AnnotationFields>,
}

#[derive(Deserialize)]
struct PlatformFields {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    variant: Option<String>,
    #[serde(rename = "os.features")]
    os_features: Option<Vec<serde::de::IgnoredAny>>,
}

#[derive(Deserialize)]
struct AnnotationFields {
    /// `attestation-manifest` on the entries BuildKit adds.
    #[serde(rename = "vnd.docker.reference.type")]
    reference_type: Option<serde::de::IgnoredAny>,
}

impl Fields {
    fn kind(self) -> Result<Kind, ManifestError> {
        if self.manifests.is_some() {
            let others = [
                ("config", self.config.is_some()),
                ("layers", self.layers.is_some()),
                ("fsLayers", self.fs_layers.is_some()),
            ];
            if let Some((name, _)) = others.into_iter().find(|&(_, present)| present) {
                return Err(ManifestError::Ambiguous(name));
            }
        }
        if self.fs_layers.is_some() || self.schema_version == Some(1) {
            return Err(ManifestError::Schema1);
        }
        // Required by the specification; tools that leave it out are forgiven, as nothing hangs on it.
        if let Some(version) = self.schema_version.filter(|&version| version != 2) {
            return Err(ManifestError::SchemaVersion(version));
        }
        match (self.manifests, self.config, self.layers) {
            (Some(entries), ..) => Ok(Kind::Index(entries)),
            (None, Some(config), Some(layers)) => {
                Ok(Kind::Manifest { config: Box::new(config), layers })
            }
            _ => Err(ManifestError::Unrecognised),
        }
    }
}

impl DescriptorFields {
    fn has_urls(&self) -> bool {
        self.urls.as_ref().is_some_and(|urls| !urls.is_empty())
    }

    fn is_attestation(&self) -> bool {
        self.annotations.as_ref().is_some_and(|annotations| annotations.reference_type.is_some())
    }

    /// On an image's descriptor `artifactType` repeats the type of its config, if it is there.
    fn is_artifact(&self) -> bool {
        let artifact_type = self.artifact_type.as_deref().filter(|text| !text.is_empty());
        artifact_type.is_some_and(|text| !MediaType::new(text).is_image_config())
    }
}

impl PlatformFields {
    fn platform(&self) -> Option<Platform> {
        let variant = self.variant.as_deref().unwrap_or_default();
        Platform::new(&self.os, &self.architecture, variant).ok()
    }
}

/// The descriptors of one document, held to one size for each digest.
#[derive(Default)]
struct Sizes(HashMap<Digest, u64>);

impl Sizes {
    fn descriptor(
        &mut self,
        fields: &DescriptorFields,
        place: impl Fn() -> String,
    ) -> Result<Descriptor, ManifestError> {
        let digest = Digest::parse(&fields.digest)
            .map_err(|source| ManifestError::Digest { place: place(), source })?;
        let size = fields.size;
        if size > BLOB_SIZE_MAX {
            return Err(ManifestError::Size { place: place(), size });
        }
        let other = *self.0.entry(digest).or_insert(size);
        if other != size {
            return Err(ManifestError::TwoSizes { place: place(), digest, size, other });
        }
        Ok(Descriptor { media_type: MediaType::new(&fields.media_type), digest, size })
    }
}

/// Whether the type says that the document is a manifest or an index.
fn is_known(media_type: &MediaType) -> bool {
    media_type.is_index() || media_type.is_manifest()
}

/// The type of the document by its own word and that of the header, which must not differ.
fn declared_type(
    fields: &Fields,
    content_type: Option<&MediaType>,
) -> Result<Option<MediaType>, ManifestError> {
    let header = content_type.filter(|header| is_known(header) || header.is_schema1());
    let field = fields.media_type.as_deref().filter(|text| !text.is_empty()).map(MediaType::new);
    if let Some(field) = field {
        if field.is_schema1() {
            return Err(ManifestError::Schema1);
        }
        if !is_known(&field) {
            return Err(ManifestError::UnknownType(shown(field.as_str())));
        }
        return match header {
            Some(header) if *header != field => {
                Err(ManifestError::TypesDiffer { field, header: header.clone() })
            }
            _ => Ok(Some(field)),
        };
    }
    match header {
        Some(header) if header.is_schema1() => Err(ManifestError::Schema1),
        header => Ok(header.cloned()),
    }
}

/// The declared type if it is the kind that the fields make of the document; `default` if none was
/// declared.
fn confirm(
    declared: Option<MediaType>,
    default: &str,
    is_kind: fn(&MediaType) -> bool,
) -> Result<MediaType, ManifestError> {
    match declared {
        None => Ok(MediaType::new(default)),
        Some(media_type) if is_kind(&media_type) => Ok(media_type),
        Some(media_type) => {
            let fields = if media_type.is_index() { "a manifest" } else { "an index" };
            Err(ManifestError::TypeDenied { media_type, fields })
        }
    }
}

fn came_as(content_type: &Option<MediaType>) -> String {
    match content_type {
        Some(media_type) => format!(" (it came as `{}`)", shown(media_type.as_str())),
        None => String::new(),
    }
}

/// Most platforms named in one message.
const LISTED_MAX: usize = 20;

fn listed(platforms: &[String]) -> String {
    match platforms {
        [] => "no image at all".to_owned(),
        few if few.len() <= LISTED_MAX => few.join(", "),
        many => format!("{} and {} more", many[..LISTED_MAX].join(", "), many.len() - LISTED_MAX),
    }
}
