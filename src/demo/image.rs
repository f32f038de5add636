//! Images made from a seed: valid for every OCI tool, the same bytes on every machine.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::image::{Algorithm, Digest, MediaType};

/// Unit of a tar archive, in bytes (POSIX.1-2017, pax, "ustar Interchange Format").
const TAR_BLOCK_SIZE: usize = 512;

/// Smallest layer, in bytes: the header of its file, and two empty blocks that end the archive.
pub const LAYER_SIZE_MIN: u64 = 3 * TAR_BLOCK_SIZE as u64;

/// Some bytes with their digest and media type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// What the bytes are.
    pub media_type: String,
    /// Their SHA-256 digest.
    pub digest: Digest,
    /// The bytes; clones share them.
    pub bytes: Bytes,
}

impl Blob {
    /// Hashes `bytes`.
    pub fn new(media_type: &str, bytes: impl Into<Bytes>) -> Blob {
        let bytes = bytes.into();
        let digest = Digest::of(Algorithm::Sha256, &bytes);
        Blob { media_type: media_type.to_owned(), digest, bytes }
    }

    /// Length in bytes.
    pub fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// The descriptor of this blob (OCI image-spec, `descriptor.md`).
    fn descriptor(&self) -> Value {
        json!({
            "mediaType": self.media_type,
            "digest": self.digest.to_string(),
            "size": self.size(),
        })
    }
}

/// Which family of media types an image uses. The documents have the same shape in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// OCI image-spec 1.
    Oci,
    /// Docker image manifest version 2, schema 2.
    Docker,
}

impl Format {
    fn manifest(self) -> &'static str {
        match self {
            Format::Oci => MediaType::OCI_MANIFEST,
            Format::Docker => MediaType::DOCKER_MANIFEST,
        }
    }

    fn index(self) -> &'static str {
        match self {
            Format::Oci => MediaType::OCI_INDEX,
            Format::Docker => MediaType::DOCKER_INDEX,
        }
    }

    fn config(self) -> &'static str {
        match self {
            Format::Oci => "application/vnd.oci.image.config.v1+json",
            Format::Docker => "application/vnd.docker.container.image.v1+json",
        }
    }

    fn layer(self) -> &'static str {
        match self {
            Format::Oci => "application/vnd.oci.image.layer.v1.tar",
            Format::Docker => "application/vnd.docker.image.rootfs.diff.tar",
        }
    }
}

/// What an image runs on, in Go's words (OCI image-spec, `image-index.md`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Platform {
    /// `GOOS`.
    pub os: &'static str,
    /// `GOARCH`.
    pub architecture: &'static str,
    /// Variant of the architecture, such as `v8`.
    pub variant: Option<&'static str>,
}

impl Platform {
    /// What single images are made for, whatever machine makes them: same seed, same digests.
    pub const LINUX_AMD64: Platform = Platform::new("linux", "amd64");

    /// A platform without a variant.
    pub const fn new(os: &'static str, architecture: &'static str) -> Platform {
        Platform { os, architecture, variant: None }
    }

    fn json(&self) -> Value {
        let mut platform = json!({ "architecture": self.architecture, "os": self.os });
        if let Some(variant) = self.variant {
            platform["variant"] = json!(variant);
        }
        platform
    }
}

/// An image for one platform.
#[derive(Debug, Clone)]
pub struct Image {
    /// The manifest; its digest is the image's.
    pub manifest: Blob,
    /// The configuration.
    pub config: Blob,
    /// The layers, lowest first. Uncompressed, so that each layer's digest is its `diff_id` too.
    pub layers: Vec<Blob>,
}

impl Image {
    /// An OCI image for linux/amd64 whose layers have the sizes asked for, in bytes.
    ///
    /// Each layer is a tar archive with one file of pseudo-random bytes. An archive is a number of
    /// 512-byte blocks, so sizes are rounded up to the next multiple of 512, and to
    /// [`LAYER_SIZE_MIN`] at least. For layers of any other size see [`Image::of_layers`].
    pub fn generate(seed: u64, layer_sizes: &[u64]) -> Image {
        let layers = generate_layers(seed, layer_sizes);
        Image::of_layers(Format::Oci, Platform::LINUX_AMD64, layers)
    }

    /// The same layers as [`Image::generate`] makes, described by Docker's schema 2.
    pub fn docker_schema2(seed: u64, layer_sizes: &[u64]) -> Image {
        let layers = generate_layers(seed, layer_sizes);
        Image::of_layers(Format::Docker, Platform::LINUX_AMD64, layers)
    }

    /// An image with exactly these layers, be they archives or not: an image of one empty blob, or
    /// of ten thousand, is for pulling, not for unpacking.
    pub fn of_layers(format: Format, platform: Platform, layers: Vec<Bytes>) -> Image {
        let layers: Vec<Blob> =
            layers.into_iter().map(|bytes| Blob::new(format.layer(), bytes)).collect();
        let config = Blob::new(format.config(), config(&platform, &layers).to_string());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": format.manifest(),
            "config": config.descriptor(),
            "layers": layers.iter().map(Blob::descriptor).collect::<Vec<_>>(),
        });
        let manifest = Blob::new(format.manifest(), manifest.to_string());
        Image { manifest, config, layers }
    }

    /// Number of bytes of everything: manifest, configuration and layers.
    pub fn size(&self) -> u64 {
        let layers: u64 = self.layers.iter().map(Blob::size).sum();
        self.manifest.size() + self.config.size() + layers
    }
}

/// One name for images of several platforms.
#[derive(Debug, Clone)]
pub struct Index {
    /// The index; its digest is what a tag resolves to.
    pub document: Blob,
    /// The images, in the order of the index.
    pub images: Vec<Image>,
}

impl Index {
    /// An index of one image for each platform. The images differ in all their layers.
    pub fn generate(
        format: Format,
        seed: u64,
        layer_sizes: &[u64],
        platforms: &[Platform],
    ) -> Index {
        let images: Vec<Image> = (0..)
            .zip(platforms)
            .map(|(nth, platform)| {
                let layers = generate_layers(mixed(seed, nth), layer_sizes);
                Image::of_layers(format, *platform, layers)
            })
            .collect();
        let manifests: Vec<Value> = images
            .iter()
            .zip(platforms)
            .map(|(image, platform)| {
                let mut descriptor = image.manifest.descriptor();
                descriptor["platform"] = platform.json();
                descriptor
            })
            .collect();
        let document = json!({
            "schemaVersion": 2,
            "mediaType": format.index(),
            "manifests": manifests,
        });
        Index { document: Blob::new(format.index(), document.to_string()), images }
    }
}

/// The configuration of an image with these layers (OCI image-spec, `config.md`).
fn config(platform: &Platform, layers: &[Blob]) -> Value {
    const CREATED: &str = "1970-01-01T00:00:00Z";
    let history: Vec<Value> = (1..=layers.len())
        .map(|nth| json!({ "created": CREATED, "created_by": format!("ringpull demo: layer {nth}") }))
        .collect();
    let mut config = json!({ "created": CREATED });
    if let (Value::Object(config), Value::Object(platform)) = (&mut config, platform.json()) {
        config.extend(platform);
    }
    config["config"] = json!({ "Labels": { "org.opencontainers.image.title": "ringpull demo" } });
    config["rootfs"] = json!({
        "type": "layers",
        "diff_ids": layers.iter().map(|layer| layer.digest.to_string()).collect::<Vec<_>>(),
    });
    config["history"] = json!(history);
    config
}

fn generate_layers(seed: u64, sizes: &[u64]) -> Vec<Bytes> {
    (0..).zip(sizes).map(|(nth, size)| layer(mixed(seed, nth), nth, *size)).collect()
}

/// A tar archive of `size` bytes (rounded up) with one file, `demo/layer-<nth>.bin`.
fn layer(seed: u64, nth: u64, size: u64) -> Bytes {
    let size = size.max(LAYER_SIZE_MIN).next_multiple_of(TAR_BLOCK_SIZE as u64);
    let content_size = size - LAYER_SIZE_MIN;
    let mut archive = vec![0; size as usize];
    let (header, rest) = archive.split_at_mut(TAR_BLOCK_SIZE);
    tar_header(header, &format!("demo/layer-{nth}.bin"), content_size);
    fill(&mut rest[..content_size as usize], seed);
    Bytes::from(archive)
}

/// Writes the ustar header of a regular file that belongs to root and is as old as the epoch.
fn tar_header(block: &mut [u8], name: &str, size: u64) {
    let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    put(100, b"0000644\0"); // mode
    put(108, b"0000000\0"); // user
    put(116, b"0000000\0"); // group
    if size < 1 << 33 {
        put(124, format!("{size:011o}\0").as_bytes());
    } else {
        // Eleven octal digits end at 8 GiB; above, all readers take GNU's binary form.
        put(124, &[0x80, 0, 0, 0]);
        put(128, &size.to_be_bytes());
    }
    put(136, b"00000000000\0"); // time
    put(148, b"        "); // the checksum counts as spaces in its own sum
    put(156, b"0"); // a regular file
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// Fills `bytes` from `seed`: SplitMix64, written here so that no new version of a crate changes
/// the digests of generated images. Several GB/s when optimised.
fn fill(bytes: &mut [u8], seed: u64) {
    let (words, rest) = bytes.as_chunks_mut::<8>();
    let mut nth = 0;
    for word in words {
        *word = mixed(seed, nth).to_le_bytes();
        nth += 1;
    }
    rest.copy_from_slice(&mixed(seed, nth).to_le_bytes()[..rest.len()]);
}

/// The `nth` number of the SplitMix64 sequence (Steele, Lea, Flood 2014) that begins at `seed`.
fn mixed(seed: u64, nth: u64) -> u64 {
    let mut z = seed.wrapping_add((nth.wrapping_add(1)).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_splitmix64() {
        // First numbers of the reference implementation (prng.di.unimi.it/splitmix64.c), seed 0.
        assert_eq!(mixed(0, 0), 0xe220_a839_7b1d_cdaf);
        assert_eq!(mixed(0, 1), 0x6e78_9e6a_a1b9_65f4);
    }

    #[test]
    fn layers_have_the_size_asked_for() {
        for (asked, got) in [
            (0, LAYER_SIZE_MIN),
            (1, LAYER_SIZE_MIN),
            (LAYER_SIZE_MIN, LAYER_SIZE_MIN),
            (LAYER_SIZE_MIN + 1, LAYER_SIZE_MIN + 512),
            (1 << 20, 1 << 20),
        ] {
            assert_eq!(Image::generate(7, &[asked]).layers[0].size(), got, "{asked}");
        }
    }

    #[test]
    fn the_same_seed_makes_the_same_image() {
        let sizes = [4096, 4096];
        let image = Image::generate(1, &sizes);
        assert_eq!(image.manifest, Image::generate(1, &sizes).manifest);
        assert_ne!(image.manifest.digest, Image::generate(2, &sizes).manifest.digest);
        assert_ne!(image.layers[0].digest, image.layers[1].digest);
        // Pinned: images of one seed are the same on every machine and in every version.
        assert_eq!(image.manifest.digest.short(), "bcc9ef5d6a29");
    }

    #[test]
    fn a_layer_is_a_tar_archive() {
        let bytes = layer(3, 5, 2048);
        assert_eq!(&bytes[..17], b"demo/layer-5.bin\0");
        assert_eq!(&bytes[124..136], b"00000001000\0", "512 bytes in octal");
        assert_eq!(&bytes[257..265], b"ustar\x0000");
        assert!(bytes[512..1024].iter().any(|byte| *byte != 0), "the content");
        assert!(bytes[1024..].iter().all(|byte| *byte == 0), "the end of the archive");
    }

    #[test]
    fn the_reference_parser_reads_all_documents() {
        for format in [Format::Oci, Format::Docker] {
            let arm = Platform { variant: Some("v8"), ..Platform::new("linux", "arm64") };
            let index = Index::generate(format, 1, &[2048, 4096], &[Platform::LINUX_AMD64, arm]);
            let read = oci_spec::image::ImageIndex::from_reader(&index.document.bytes[..]).unwrap();
            assert_eq!(read.manifests().len(), 2);
            for (descriptor, image) in read.manifests().iter().zip(&index.images) {
                assert_eq!(descriptor.digest().to_string(), image.manifest.digest.to_string());
                assert_eq!(descriptor.size(), image.manifest.size());
                check_image(image);
            }
            let platform = read.manifests()[1].platform().clone().unwrap();
            assert_eq!(platform.variant().as_deref(), Some("v8"));
        }
    }

    #[track_caller]
    fn check_image(image: &Image) {
        let manifest =
            oci_spec::image::ImageManifest::from_reader(&image.manifest.bytes[..]).unwrap();
        assert_eq!(manifest.config().digest().to_string(), image.config.digest.to_string());
        let config =
            oci_spec::image::ImageConfiguration::from_reader(&image.config.bytes[..]).unwrap();
        let ids = config.rootfs().diff_ids();
        assert_eq!(manifest.layers().len(), image.layers.len());
        for ((described, id), layer) in manifest.layers().iter().zip(ids).zip(&image.layers) {
            assert_eq!(described.digest().to_string(), layer.digest.to_string());
            assert_eq!(described.size(), layer.size());
            assert_eq!(*id, layer.digest.to_string());
        }
    }
}
