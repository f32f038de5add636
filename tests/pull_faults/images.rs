//! Rows about images as they are: layers that are elsewhere, bytes that are in the manifest, platforms
//! that only a config names; and about documents that are too much together.

use std::sync::Arc;

use bytes::Bytes;
use ringpull::demo::{
    Action, Auth, Blob, Credentials, Format, Image, Index, Kind, Options, Platform, Registry, Rule,
};
use ringpull::image::MediaType;
use serde_json::{Value, json};

use crate::harness::Disk::{Blobs, Nothing};
use crate::harness::{Certificate, IMAGE, Row, Scene, Tls, row_of};
use crate::support::ringpull::write_authfile;
use crate::support::tools::text;

const FOREIGN_TYPE: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";

pub fn rows() -> Vec<Row> {
    [elsewhere(), embedded(), platforms(), sums()].into_iter().flatten().collect()
}

/// The usual image with another manifest.
fn changed(change: impl Fn(&mut Value)) -> Image {
    let mut document: Value = serde_json::from_slice(&IMAGE.manifest.bytes).unwrap();
    change(&mut document);
    let manifest = Blob::new(MediaType::OCI_MANIFEST, document.to_string());
    Image { manifest, ..IMAGE.clone() }
}

fn with_urls(media_type: Option<&str>, urls: &[String]) -> Image {
    changed(|document| {
        let layer = &mut document["layers"][0];
        layer["urls"] = json!(urls);
        if let Some(media_type) = media_type {
            layer["mediaType"] = json!(media_type);
        }
    })
}

/// The registry has no layer 0.
fn without_layer() -> Options {
    let rule = Rule::on(Kind::Blob).layer(0).then(Action::status(404));
    Options { faults: rule.into(), ..Options::default() }
}

// --- layers that are elsewhere -------------------------------------------------------------------

fn elsewhere() -> Vec<Row> {
    let url = |text: &str| vec![text.to_owned()];
    let mut rows = vec![
        row_of("99 a foreign layer that the registry has", || {
            let urls = vec!["https://169.254.169.254/layer".to_owned()];
            Scene::serving(Options::default(), &with_urls(Some(FOREIGN_TYPE), &urls))
        })
        .starts(&[0]),
        row_of("99 a layer with a URL of another kind, too", || {
            let urls = vec!["ipfs://bafkreidabc".to_owned()];
            Scene::serving(Options::default(), &with_urls(None, &urls))
        })
        .starts(&[0]),
        row_of("43 a foreign layer that the registry has not", move || {
            let urls = url("https://169.254.169.254/layer");
            Scene::serving(without_layer(), &with_urls(Some(FOREIGN_TYPE), &urls))
        })
        .fails(
            6,
            "foreign-refused",
            "the registry does not have it; its manifest names 169.254.169.254 to fetch it from, \
             which --allow-foreign-urls allows",
            Blobs,
        )
        .starts(&[0]),
        row_of("43 an allowed URL in a network where no registry is", move || {
            let urls = vec!["https://169.254.169.254/layer".to_owned()];
            Scene::serving(without_layer(), &with_urls(Some(FOREIGN_TYPE), &urls))
                .with(&["--allow-foreign-urls"])
        })
        .fails(6, "realm-refused", "https://169.254.169.254 fails: ", Blobs),
        row_of("43 foreign layers without a URL that can be asked", || {
            let urls = ["http://127.0.0.1:1/x", "ipfs://x", "https://", "file:///etc/passwd"];
            let urls = urls.map(str::to_owned);
            Scene::serving(without_layer(), &with_urls(Some(FOREIGN_TYPE), &urls))
                .with(&["--allow-foreign-urls"])
        })
        .fails(6, "foreign-refused", "cannot be asked: only https is", Blobs),
    ];
    rows.extend([
        row_of("99 an allowed URL", || foreign(Options::default(), Options::default(), &IMAGE))
            .starts(&[0]),
        row_of("99 an allowed URL that breaks off, and goes on", || {
            let cut = Rule::on(Kind::Blob).first(1).then(Action::CloseAfter(300_000));
            foreign(
                Options { faults: cut.into(), ..Options::default() },
                Options::default(),
                &IMAGE,
            )
        })
        // The registry is not asked again: it has said that it has none.
        .starts(&[0]),
        row_of("99 an allowed URL has other bytes", || {
            let mut bytes = IMAGE.layers[0].bytes.to_vec();
            bytes[1_000] ^= 1;
            let replaced = Rule::on(Kind::Blob).then(Action::Replace(bytes.into()));
            let there = Options { faults: replaced.into(), ..Options::default() };
            foreign(there, Options::default(), &IMAGE)
        })
        .fails(7, "digest", "its bytes have the digest", Blobs),
        // Whoever it is wants a password, and is not told the registry's.
        row_of("43 an allowed URL wants credentials", || {
            let auth = || Some(Auth::Basic(Credentials::new("canary-user", "canary-password")));
            let there = Options { auth: auth(), ..Options::default() };
            foreign(there, Options { auth: auth(), ..Options::default() }, &IMAGE)
        })
        .fails(4, "auth", "the registry does not have it, and https://127.0.0.1:", Blobs),
    ]);
    rows
}

/// A registry that lacks layer 0, and another server over TLS that has it, at a URL that the manifest
/// names. Nobody may tell that server who they are.
fn foreign(there: Options, here: Options, image: &Image) -> Scene {
    let tls = Tls::new(Certificate::GOOD);
    let server = Arc::clone(&tls.server);
    let there = Registry::start(Options { tls: Some(Arc::clone(&server)), ..there }).unwrap();
    there.add("elsewhere", "latest", image);
    let origin = there.origin().to_owned();
    let url = format!("{origin}/v2/elsewhere/blobs/{}", IMAGE.layers[0].digest);
    let image = with_urls(Some(FOREIGN_TYPE), &["ipfs://x".to_owned(), url]);
    let options =
        Options { tls: Some(server), faults: without_layer().faults, auth: here.auth, ..here };
    let scene = Scene::serving(options, &image);
    let directory = tempfile::tempdir().unwrap();
    let authfile = directory.path().join("config.json");
    let address = scene.registry.as_ref().unwrap().address().to_string();
    write_authfile(&authfile, &address, "canary-user", "canary-password");
    scene
        .with(&["--allow-foreign-urls", "--ca-file", text(&tls.ca_file)])
        .with(&["--authfile", text(&authfile)])
        .keep(Uninformed(there))
        .keep((tls, directory))
}

/// A server that is asked, and told no secret.
struct Uninformed(Registry);

impl Drop for Uninformed {
    fn drop(&mut self) {
        let log = self.0.log();
        if !std::thread::panicking() {
            assert!(!log.is_empty() && !log.iter().any(|line| line.authorized()), "{log:#?}");
            assert!(log.iter().all(|line| line.header("cookie").is_none()), "{log:#?}");
        }
    }
}

// --- bytes in the manifest -----------------------------------------------------------------------

fn embedded() -> Vec<Row> {
    use base64::Engine as _;
    let in_base64 = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let right = in_base64(&IMAGE.config.bytes);
    let wrong = in_base64(&[b" ", &IMAGE.config.bytes[1..]].concat());
    let with_data = |data: String| changed(move |it| it["config"]["data"] = json!(data));
    let missing = |image: &Image| {
        let image = Image { config: IMAGE.layers[1].clone(), ..image.clone() };
        let mut scene = Scene::serving(Options::default(), &image);
        scene.image.config = IMAGE.config.clone();
        scene
    };
    let (embedded, short) = (with_data(right), with_data("e30=".into()));
    let spoiled = with_data(wrong);
    vec![
        row_of("45 a config that is missing, and in the manifest", move || missing(&embedded))
            .asked(Kind::Blob, IMAGE.layers.len()),
        row_of("45 a config in the manifest, of other bytes", move || {
            Scene::serving(Options::default(), &spoiled)
        })
        .asked(Kind::Blob, IMAGE.layers.len() + 1),
        row_of("45 a config that is missing, and another in the manifest", move || missing(&short))
            .fails(3, "not-found", "the registry has no such blob", Blobs),
    ]
}

// --- platforms -----------------------------------------------------------------------------------

fn platforms() -> Vec<Row> {
    let of = |os: &'static str, architecture: &'static str| {
        move || {
            let platform = Platform::new(os, architecture);
            let layers = IMAGE.layers.iter().map(|layer| layer.bytes.clone()).collect();
            Scene::serving(Options::default(), &Image::of_layers(Format::Oci, platform, layers))
        }
    };
    let blobs = IMAGE.layers.len() + 1;
    vec![
        row_of("98 an image for another platform than asked for", of("linux", "s390x"))
            .flags(&["--platform", "linux/arm64"])
            .fails(
                3,
                "no-platform",
                "the image is for linux/s390x, and --platform asks for linux/arm64",
                Nothing,
            )
            // Its config.
            .asked(Kind::Blob, 1),
        row_of("98 an image for the platform asked for", of("linux", "s390x"))
            .flags(&["--platform", "linux/s390x"])
            .asked(Kind::Blob, blobs),
        row_of("98 an image whose config names no variant", of("linux", "arm"))
            .flags(&["--platform", "linux/arm/v6"])
            .asked(Kind::Blob, blobs),
        row_of("98 an image for another platform, and nobody asked for one", of("plan9", "s390x"))
            .says("warning: the image is for plan9/s390x, and this machine is linux/")
            .asked(Kind::Blob, blobs),
        row_of("98 an index that names no platform", || {
            let image = Image::of_layers(Format::Oci, Platform::new("plan9", "arm64"), vec![]);
            let scene = Scene::serving(Options::default(), &image);
            let index = index(vec![descriptor(&image.manifest)]);
            scene.registry.as_ref().unwrap().add_manifest("demo", Some("latest"), &index);
            scene
        })
        .flags(&["--platform", "linux/arm64"])
        .fails(3, "no-platform", "the image is for plan9/arm64", Nothing),
        row_of("44 an index of artifacts for other platforms", || {
            artifacts(&[Platform::new("linux", "riscv64"), Platform::new("plan9", "arm64")])
        })
        .flags(&["--platform", "linux/arm64"])
        .fails(
            3,
            "no-platform",
            "it has linux/riscv64 (application/vnd.example.tool), plan9/arm64 \
             (application/vnd.example.tool)",
            Nothing,
        ),
    ]
}

fn artifacts(platforms: &[Platform]) -> Scene {
    let index = Index::generate(Format::Oci, 1, &[2048], platforms);
    let mut document: Value = serde_json::from_slice(&index.document.bytes).unwrap();
    for entry in document["manifests"].as_array_mut().unwrap() {
        entry["artifactType"] = json!("application/vnd.example.tool");
    }
    let document = Blob::new(MediaType::OCI_INDEX, document.to_string());
    let scene = Scene::serving(Options::default(), &index.images[0]);
    scene.registry.as_ref().unwrap().add_manifest("demo", Some("latest"), &document);
    scene
}

// --- documents that are too much together --------------------------------------------------------

fn sums() -> Vec<Row> {
    vec![
        row_of("40 150,000 layers of nothing", || {
            let layers = vec![r#"{"digest":"","size":0}"#; 150_000].join(",");
            let document = format!(
                r#"{{"schemaVersion":2,"config":{},"layers":[{layers}]}}"#,
                descriptor(&IMAGE.config)
            );
            serving(&[Blob::new(MediaType::OCI_MANIFEST, document)])
        })
        .fails(6, "limit", "150000 layers: at most 20000", Nothing),
        row_of("40 300,000 keys in one object", || {
            let keys: String = (0..300_000).map(|nth| format!(r#","{nth}":0"#)).collect();
            serving(&[Blob::new(MediaType::OCI_MANIFEST, format!(r#"{{"schemaVersion":2{keys}}}"#))])
        })
        .fails(6, "limit", "has more than 50000 keys", Nothing),
        row_of("86 manifests of 20 MiB", || {
            // Those that it names are not there: what they take is known before.
            let entries = (0..5).map(|nth| absent(nth, 4 << 20)).collect();
            serving(&[index(entries)])
        })
        .flags(&["--all-platforms"])
        .fails(
            6,
            "limit",
            "its manifests have more than 16777216 bytes together, and no more are read for one pull; \
             pull one platform at a time, with --platform",
            Nothing,
        )
        .asked(Kind::Manifest, 1)
        .asked(Kind::Blob, 0),
        row_of("86 24,002 layers in two manifests", || {
            let manifest = |first: usize| {
                let layers: Vec<Value> =
                    (first..first + 12_001).map(|nth| absent(nth, 1)).collect();
                let document = json!({
                    "schemaVersion": 2,
                    "config": descriptor(&IMAGE.config),
                    "layers": layers,
                });
                Blob::new(MediaType::OCI_MANIFEST, document.to_string())
            };
            let manifests = [manifest(0), manifest(12_001)];
            let index = index(manifests.iter().map(descriptor).collect());
            serving(&[&manifests[..], &[index]].concat())
        })
        .flags(&["--all-platforms"])
        .fails(6, "limit", "its manifests name more than 24000 blobs", Nothing)
        .asked(Kind::Blob, 0),
        row_of("42 one digest, two sizes, in two manifests", || {
            let other = changed(|document| document["layers"][0]["size"] = json!(1));
            let manifests = [IMAGE.manifest.clone(), other.manifest];
            let index = index(manifests.iter().map(descriptor).collect());
            serving(&[&manifests[..], &[index]].concat())
        })
        .flags(&["--all-platforms"])
        .fails(6, "manifest", "has 1 bytes here and 524288 in another place", Nothing)
        .asked(Kind::Blob, 0),
    ]
}

fn descriptor(blob: &Blob) -> Value {
    json!({
        "mediaType": blob.media_type, "digest": blob.digest.to_string(), "size": blob.size()
    })
}

/// The descriptor of something that nobody has.
fn absent(nth: usize, size: u64) -> Value {
    let digest = Blob::new("", Bytes::from(format!("absent {nth}"))).digest;
    json!({ "mediaType": MediaType::OCI_MANIFEST, "digest": digest.to_string(), "size": size })
}

fn index(entries: Vec<Value>) -> Blob {
    let media_type = MediaType::OCI_INDEX;
    let document = json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": entries });
    Blob::new(media_type, document.to_string())
}

/// A registry with these documents; the last one is tagged.
fn serving(documents: &[Blob]) -> Scene {
    let scene = Scene::serving(Options::default(), &IMAGE);
    for document in documents {
        scene.registry.as_ref().unwrap().add_manifest("demo", Some("latest"), document);
    }
    scene
}
