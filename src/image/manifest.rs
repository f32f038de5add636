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

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::marker::PhantomData;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};

use super::digest::DigestError;
use super::shown::shown;
use super::strict_json::{self, StrictJsonError};
use super::{Descriptor, Digest, MediaType, Platform};
use crate::error::Class;
use crate::limits::{
    BLOB_SIZE_MAX, FOREIGN_URLS_MAX, IMAGE_CONFIG_SIZE_MAX, INDEX_ENTRIES_MAX, LAYERS_MAX,
    MANIFEST_SIZE_MAX,
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
    pub config: Content,
    /// The layers, lowest first. At most [`LAYERS_MAX`]; none where the document lists none.
    pub layers: Vec<Content>,
}

/// A config or a layer, with what its descriptor says of other ways to its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Its type, digest and size.
    pub descriptor: Descriptor,
    /// URLs outside the registry that may have it, as they are written: the first
    /// [`FOREIGN_URLS_MAX`]. They are the image author's word; the puller decides whether they
    /// may be asked.
    pub urls: Vec<String>,
    /// Its bytes, where the document embeds them in the descriptor (OCI image-spec,
    /// `descriptor.md`, `data`) and they have the descriptor's size and digest. Embedded bytes
    /// that have not are as if they were missing.
    pub data: Option<Vec<u8>>,
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
    /// The kind of artifact that the index says it is, where that is no image.
    pub artifact_type: Option<String>,
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
    /// What there is instead, in the order of the index, each once: platforms, and artifacts with
    /// their types.
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
    #[error("it is neither a manifest (no `config`) nor an index (no `manifests`)")]
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
            | ManifestError::Json { reason: StrictJsonError::TooManyKeys, .. }
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
        match fields.kind(declared.as_ref())? {
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
        layers: Layers,
    ) -> Result<Manifest, ManifestError> {
        if layers.count > LAYERS_MAX {
            return Err(ManifestError::TooManyLayers(layers.count));
        }
        let mut sizes = Sizes::default();
        let config = sizes.content(config, || "config".to_owned())?;
        let layers = layers.items.into_iter().enumerate();
        let layers = layers
            .map(|(position, fields)| sizes.content(fields, || format!("layers[{position}]")));
        let layers = layers.collect::<Result<_, ManifestError>>()?;
        Ok(Manifest { media_type, config, layers })
    }
}

impl Index {
    fn new(media_type: MediaType, entries: Entries) -> Result<Index, ManifestError> {
        if entries.count > INDEX_ENTRIES_MAX {
            return Err(ManifestError::TooManyEntries(entries.count));
        }
        let mut sizes = Sizes::default();
        let manifests = entries.items.iter().enumerate().map(|(position, fields)| {
            let descriptor = sizes.descriptor(fields, || format!("manifests[{position}]"))?;
            Ok(IndexEntry::new(descriptor, fields))
        });
        let manifests = manifests.collect::<Result<_, ManifestError>>()?;
        Ok(Index { media_type, manifests })
    }

    /// The entry to pull on `wanted`: the one that fits best (see [`Platform::rank`]), the first
    /// among equals, entries that need no further features before those that do. Artifacts that
    /// name a platform are taken where no image fits.
    ///
    /// Where none fits and exactly one entry names no platform, that one is taken: it may be a
    /// nested index, or an image whose config says what it is for. Attestations, and artifacts
    /// without a platform, are never taken.
    ///
    /// # Errors
    /// [`NoPlatform`], with what there is instead.
    pub fn select(&self, wanted: &Platform) -> Result<&IndexEntry, NoPlatform> {
        let of = |kind| self.manifests.iter().filter(move |entry| entry.kind == kind);
        for kind in [EntryKind::Image, EntryKind::Artifact] {
            let ranked = of(kind).filter(|entry| entry.can_be_read()).filter_map(|entry| {
                let rank = wanted.rank(entry.platform.as_ref()?)?;
                Some((rank, entry.needs_features, entry))
            });
            if let Some((_, _, entry)) = ranked.min_by_key(|&(rank, features, _)| (rank, features))
            {
                return Ok(entry);
            }
        }
        let mut unnamed = of(EntryKind::Image).filter(|entry| entry.platform.is_none());
        match (unnamed.next(), unnamed.next()) {
            (Some(only), None) => Ok(only),
            _ => Err(NoPlatform { wanted: wanted.clone(), available: self.available() }),
        }
    }

    /// What there is, in the order of the index, each once. Attestations belong to other entries
    /// and are left out.
    fn available(&self) -> Vec<String> {
        let mut seen = HashSet::new();
        let entries = self.manifests.iter().filter(|entry| entry.kind != EntryKind::Attestation);
        entries.map(IndexEntry::shown).filter(|text| seen.insert(text.clone())).collect()
    }
}

impl IndexEntry {
    fn new(descriptor: Descriptor, fields: &DescriptorFields) -> IndexEntry {
        let named = fields.platform.as_ref();
        let platform = named.and_then(PlatformFields::platform);
        let artifact_type = fields.artifact_type().map(str::to_owned);
        let kind = if fields.is_attestation() || platform.as_ref().is_some_and(Platform::is_unknown)
        {
            EntryKind::Attestation
        } else if artifact_type.is_some() || !is_known(&descriptor.media_type) {
            EntryKind::Artifact
        } else if named.is_some() && platform.is_none() {
            // It names a platform, but not one that anything runs on.
            EntryKind::Artifact
        } else {
            EntryKind::Image
        };
        let needs_features =
            named.and_then(|named| named.os_features.as_ref()).is_some_and(|list| !list.is_empty());
        IndexEntry { descriptor, platform, kind, artifact_type, needs_features }
    }

    /// Whether it is a manifest or an index, whatever it is a manifest of.
    fn can_be_read(&self) -> bool {
        is_known(&self.descriptor.media_type)
    }

    /// What it is, for the list of what there is.
    fn shown(&self) -> String {
        let of_type = match (&self.artifact_type, self.can_be_read()) {
            (Some(artifact_type), _) => Some(shown(artifact_type)),
            (None, false) => Some(shown(self.descriptor.media_type.as_str())),
            (None, true) => None,
        };
        match (&self.platform, of_type) {
            (Some(platform), None) => platform.to_string(),
            (Some(platform), Some(of_type)) => format!("{platform} ({of_type})"),
            (None, Some(of_type)) => format!("an artifact without platform ({of_type})"),
            (None, None) if self.kind == EntryKind::Image => "one without platform".to_owned(),
            (None, None) => "one with a malformed platform".to_owned(),
        }
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

    /// Whether it names a layer that registries need not keep: Docker's "foreign", OCI's
    /// "nondistributable".
    pub fn is_foreign_layer(&self) -> bool {
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

/// The platform that an image's config names (OCI image-spec, `config.md`).
///
/// `None` where the config is larger than [`IMAGE_CONFIG_SIZE_MAX`], is not JSON, or names none.
pub fn config_platform(config: &[u8]) -> Option<Platform> {
    config_fields(config)?.platform()
}

/// The platform of an image's config if that does not run on `wanted`. For images that no entry of
/// an index with a platform led to: only the config says what they are for.
///
/// `None` where [`config_platform`] is. A config that names an architecture without a variant says
/// nothing of the variant: many images for arm/v6 were made so.
pub fn config_contradicts(config: &[u8], wanted: &Platform) -> Option<Platform> {
    let fields = config_fields(config)?;
    let offered = fields.platform()?;
    let any_variant = fields.variant.as_deref().unwrap_or_default().is_empty();
    let fits = wanted.matches(&offered) || (any_variant && wanted.runs_some_variant_of(&offered));
    (!fits).then_some(offered)
}

fn config_fields(config: &[u8]) -> Option<PlatformFields> {
    if config.len() > IMAGE_CONFIG_SIZE_MAX {
        return None;
    }
    serde_json::from_slice(config).ok()
}

// --- the documents as they are written -----------------------------------------------------------

/// The fields of manifests and indexes of all schemas, so that a document which is several things at
/// once is seen to be. Fields set to `null` count as absent, as they do for every other reader.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields {
    schema_version: Option<u64>,
    media_type: Option<String>,
    manifests: Option<Entries>,
    config: Option<DescriptorFields>,
    layers: Option<Layers>,
    fs_layers: Option<IgnoredAny>,
}

/// What the fields make of a document.
enum Kind {
    Index(Entries),
    Manifest { config: Box<DescriptorFields>, layers: Layers },
}

type Entries = FirstOf<DescriptorFields, INDEX_ENTRIES_MAX>;
type Layers = FirstOf<DescriptorFields, LAYERS_MAX>;

/// A list of which at most `MAX` items are kept: a document of 4 MiB can list 190,000 descriptors,
/// which take many times its size in memory.
struct FirstOf<T, const MAX: usize> {
    items: Vec<T>,
    /// How many items the document lists.
    count: usize,
}

impl<T, const MAX: usize> Default for FirstOf<T, MAX> {
    fn default() -> Self {
        FirstOf { items: Vec::new(), count: 0 }
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for FirstOf<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ListVisitor(PhantomData))
    }
}

struct ListVisitor<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for ListVisitor<T, MAX> {
    type Value = FirstOf<T, MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a sequence")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut list = FirstOf::default();
        while list.count < MAX {
            let Some(item) = seq.next_element()? else { return Ok(list) };
            list.items.push(item);
            list.count += 1;
        }
        while seq.next_element::<IgnoredAny>()?.is_some() {
            list.count += 1;
        }
        Ok(list)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DescriptorFields {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    urls: Option<FirstOf<String, FOREIGN_URLS_MAX>>,
    /// In base64.
    data: Option<String>,
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
    os_features: Option<Vec<IgnoredAny>>,
}

#[derive(Deserialize)]
struct AnnotationFields {
    /// `attestation-manifest` on the entries BuildKit adds.
    #[serde(rename = "vnd.docker.reference.type")]
    reference_type: Option<IgnoredAny>,
}

impl Fields {
    fn kind(self, declared: Option<&MediaType>) -> Result<Kind, ManifestError> {
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
            // Tools written in Go write an empty list as null, or leave it out.
            (None, Some(config), layers) => {
                Ok(Kind::Manifest { config: Box::new(config), layers: layers.unwrap_or_default() })
            }
            (None, None, None) if declared.is_some_and(MediaType::is_index) => {
                Ok(Kind::Index(Entries::default()))
            }
            _ => Err(ManifestError::Unrecognised),
        }
    }
}

impl DescriptorFields {
    fn is_attestation(&self) -> bool {
        self.annotations.as_ref().is_some_and(|annotations| annotations.reference_type.is_some())
    }

    /// The type of the artifact it is. On an image's descriptor `artifactType` repeats the type of
    /// its config, if it is there.
    fn artifact_type(&self) -> Option<&str> {
        let artifact_type = self.artifact_type.as_deref().filter(|text| !text.is_empty());
        artifact_type.filter(|text| !MediaType::new(text).is_image_config())
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

    fn content(
        &mut self,
        fields: DescriptorFields,
        place: impl Fn() -> String,
    ) -> Result<Content, ManifestError> {
        let descriptor = self.descriptor(&fields, place)?;
        let data = fields.data.and_then(|data| embedded(&data, &descriptor));
        let urls = fields.urls.unwrap_or_default().items;
        Ok(Content { descriptor, urls, data })
    }
}

/// The bytes that are embedded in a descriptor, if they are what it describes.
fn embedded(data: &str, descriptor: &Descriptor) -> Option<Vec<u8>> {
    let bytes = STANDARD.decode(data).ok()?;
    let is_right = bytes.len() as u64 == descriptor.size
        && Digest::of(descriptor.digest.algorithm(), &bytes) == descriptor.digest;
    is_right.then_some(bytes)
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
