//! Builds images as other tools would: layers are packed by tar and gzip, their content is random.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::layout::{Descriptor, Layout, sha256};
use super::tools::{run, text};

/// Whose media types a manifest and its blobs have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// OCI image-spec 1.0.
    Oci,
    /// Docker's image manifest, version 2, schema 2.
    Docker,
}

/// How a layer's tar is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Not at all.
    Plain,
    /// gzip, as nearly all layers are.
    Gzip,
}

/// One layer: the file `/layer-N/random` of `size` bytes, N its position from 0.
#[derive(Debug, Clone, Copy)]
pub struct Layer {
    /// Bytes of content. They do not compress.
    pub size: usize,
    /// The packing.
    pub packing: Packing,
}

/// A file much larger than any buffer, a small and an empty one.
pub const LAYERS: [Layer; 3] = [
    Layer { size: 5_000_011, packing: Packing::Gzip },
    Layer { size: 1_000, packing: Packing::Plain },
    Layer { size: 0, packing: Packing::Gzip },
];

/// A new layout with one image for linux/amd64, tagged `tag`. The layout lives as long as the
/// directory.
pub fn layout_with_image(format: Format, tag: &str) -> (TempDir, Layout) {
    let directory = TempDir::new().unwrap();
    let layout = Layout::create(&directory.path().join("layout"));
    let manifest = add_image(&layout, format, "amd64", &LAYERS);
    layout.tag(tag, &manifest);
    (directory, layout)
}

/// A new layout with an index of one image for each architecture, tagged `tag`. Docker calls it a
/// manifest list.
pub fn layout_with_index(format: Format, tag: &str, architectures: &[&str]) -> (TempDir, Layout) {
    let directory = TempDir::new().unwrap();
    let layout = Layout::create(&directory.path().join("layout"));
    let manifests = architectures.iter().map(|architecture| {
        let mut entry = add_image(&layout, format, architecture, &LAYERS).json();
        entry["platform"] = json!({ "architecture": architecture, "os": "linux" });
        entry
    });
    let media_type = format.index();
    let index = json!({
        "schemaVersion": 2,
        "mediaType": media_type,
        "manifests": manifests.collect::<Vec<Value>>(),
    });
    let index = layout.put(media_type, index.to_string().as_bytes());
    layout.tag(tag, &index);
    (directory, layout)
}

/// Builds an image into `layout` and returns its manifest's descriptor. It has no tag yet.
pub fn add_image(
    layout: &Layout,
    format: Format,
    architecture: &str,
    layers: &[Layer],
) -> Descriptor {
    let (mut descriptors, mut diff_ids) = (Vec::new(), Vec::new());
    for (position, layer) in layers.iter().enumerate() {
        let (packed, diff_id) = pack(position, layer);
        descriptors.push(layout.put(format.layer(layer.packing), &packed).json());
        diff_ids.push(diff_id);
    }
    let config = json!({
        "architecture": architecture,
        "os": "linux",
        "config": { "Cmd": ["/bin/true"] },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": format.manifest(),
        "config": layout.put(format.config(), config.to_string().as_bytes()).json(),
        "layers": descriptors,
    });
    layout.put(format.manifest(), manifest.to_string().as_bytes())
}

/// The layer as it is stored, and the digest of its tar.
fn pack(position: usize, layer: &Layer) -> (Vec<u8>, String) {
    let directory = TempDir::new().unwrap();
    let name = format!("layer-{position}");
    let mut content = vec![0; layer.size];
    fastrand::Rng::new().fill(&mut content);
    std::fs::create_dir(directory.path().join(&name)).unwrap();
    std::fs::write(directory.path().join(&name).join("random"), content).unwrap();

    let tar = directory.path().join("layer.tar");
    run(Command::new("tar")
        .args(["--create", "--owner=0", "--group=0", "--numeric-owner", "--mtime=@0"])
        .args(["--file", text(&tar), "--directory", text(directory.path()), &name]));
    let diff_id = sha256(&std::fs::read(&tar).unwrap());
    let packed = match layer.packing {
        Packing::Plain => tar,
        Packing::Gzip => gzip(&tar),
    };
    (std::fs::read(packed).unwrap(), diff_id)
}

fn gzip(file: &Path) -> std::path::PathBuf {
    run(Command::new("gzip").args(["--no-name", "--fast", text(file)]));
    file.with_extension("tar.gz")
}

impl Format {
    fn manifest(self) -> &'static str {
        match self {
            Format::Oci => "application/vnd.oci.image.manifest.v1+json",
            Format::Docker => "application/vnd.docker.distribution.manifest.v2+json",
        }
    }

    fn index(self) -> &'static str {
        match self {
            Format::Oci => "application/vnd.oci.image.index.v1+json",
            Format::Docker => "application/vnd.docker.distribution.manifest.list.v2+json",
        }
    }

    fn config(self) -> &'static str {
        match self {
            Format::Oci => "application/vnd.oci.image.config.v1+json",
            Format::Docker => "application/vnd.docker.container.image.v1+json",
        }
    }

    fn layer(self, packing: Packing) -> &'static str {
        match (self, packing) {
            (Format::Oci, Packing::Plain) => "application/vnd.oci.image.layer.v1.tar",
            (Format::Oci, Packing::Gzip) => "application/vnd.oci.image.layer.v1.tar+gzip",
            (Format::Docker, Packing::Plain) => "application/vnd.docker.image.rootfs.diff.tar",
            (Format::Docker, Packing::Gzip) => "application/vnd.docker.image.rootfs.diff.tar.gzip",
        }
    }
}
