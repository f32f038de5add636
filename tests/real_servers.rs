//! Whole pulls from real registries, read back by real tools, on each engine.
//!
//! The servers are those that people run (CNCF Distribution, nginx), the judges are skopeo and umoci.
//! What servers do wrong is the subject of other files; here all of them behave.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests are tests, which clippy.toml cannot know"
)]

mod support;

use std::net::TcpStream;
use std::path::Path;

use serde_json::Value;
use support::ca::TestCa;
use support::docker_registry::{self, DockerRegistry, PASSWORD, USER};
use support::image::{Format, LAYERS, layout_with_image, layout_with_index};
use support::layout::{Descriptor, Layout, assert_same_image, verify_all};
use support::nginx::{self, Blobs, Nginx};
use support::ringpull::{engines, pull, write_authfile};
use support::server::get;
use support::tools::{skopeo, text, tools_or_skip, umoci};
use tempfile::TempDir;

// --- a registry in front of its own files --------------------------------------------------------

#[test]
fn an_oci_image_comes_whole_from_docker_registry() {
    if !tools_or_skip(&["docker-registry", "skopeo", "umoci"]) {
        return;
    }
    let (_kept, source) = layout_with_image(Format::Oci, "v1");
    let registry = DockerRegistry::start();
    push(&source, &registry, &[]);
    for engine in engines() {
        let out = Destination::new();
        let image = format!("{}/test/image:v1", registry.host());
        pull(engine, &["--plain-http", &image, &out.reference("v1")])
            .expect_status("Downloaded newer image for ");
        out.holds(&source, &source.tagged("v1"));
        skopeo_inspects(&out, "amd64");
        umoci_unpacks(&out);
    }
}

#[test]
fn a_docker_image_keeps_its_own_manifest() {
    if !tools_or_skip(&["docker-registry", "skopeo"]) {
        return;
    }
    let (_kept, source) = layout_with_image(Format::Docker, "v1");
    let registry = DockerRegistry::start();
    push(&source, &registry, &[]);
    for engine in engines() {
        let out = Destination::new();
        let image = format!("{}/test/image:v1", registry.host());
        pull(engine, &["--plain-http", &image, &out.reference("v1")])
            .expect_status("Downloaded newer image for ");
        out.holds(&source, &source.tagged("v1"));
        skopeo_inspects(&out, "amd64");
    }
}

#[test]
fn of_an_index_the_platform_asked_for_is_pulled() {
    if !tools_or_skip(&["docker-registry", "skopeo"]) {
        return;
    }
    for format in [Format::Oci, Format::Docker] {
        let (_kept, source) = layout_with_index(format, "v1", &["amd64", "arm64"]);
        let registry = DockerRegistry::start();
        push(&source, &registry, &["--all"]);
        let image = format!("{}/test/image:v1", registry.host());
        for engine in engines() {
            for (architecture, position) in [("amd64", 0), ("arm64", 1)] {
                let out = Destination::new();
                let platform = format!("linux/{architecture}");
                pull(
                    engine,
                    &["--plain-http", "--platform", &platform, &image, &out.reference("v1")],
                )
                .expect_status("Downloaded newer image for ");
                out.holds(&source, &manifest_at(&source, position));
                assert!(!out.has(&manifest_at(&source, 1 - position)), "{format:?}: both came");
                skopeo_inspects(&out, architecture);
            }
        }
    }
}

#[test]
fn of_an_index_all_platforms_can_be_pulled() {
    if !tools_or_skip(&["docker-registry", "skopeo"]) {
        return;
    }
    let (_kept, source) = layout_with_index(Format::Oci, "v1", &["amd64", "arm64"]);
    let registry = DockerRegistry::start();
    push(&source, &registry, &["--all"]);
    let image = format!("{}/test/image:v1", registry.host());
    for engine in engines() {
        let out = Destination::new();
        pull(engine, &["--plain-http", "--all-platforms", &image, &out.reference("v1")])
            .expect_status("Downloaded newer image for ");
        out.holds(&source, &source.tagged("v1"));
        assert_eq!(out.layout.tagged("v1").digest, source.tagged("v1").digest);
        for architecture in ["amd64", "arm64"] {
            skopeo_inspects(&out, architecture);
        }
    }
}

#[test]
fn what_is_not_there_is_said_to_be_not_there() {
    if !tools_or_skip(&["docker-registry", "skopeo"]) {
        return;
    }
    let (_kept, source) = layout_with_index(Format::Oci, "v1", &["amd64"]);
    let registry = DockerRegistry::start();
    push(&source, &registry, &["--all"]);
    for engine in engines() {
        for (name, platform, class) in [
            ("test/image:v2", "linux/amd64", "not-found"),
            ("test/other:v1", "linux/amd64", "not-found"),
            ("test/image:v1", "linux/riscv64", "no-platform"),
        ] {
            let out = Destination::new();
            let image = format!("{}/{name}", registry.host());
            pull(engine, &["--plain-http", "--platform", platform, &image, &out.reference("v1")])
                .expect_failure(3, class);
        }
    }
}

// --- credentials ---------------------------------------------------------------------------------

#[test]
fn basic_credentials_come_from_the_authfile() {
    if !tools_or_skip(&["docker-registry", "skopeo"]) {
        return;
    }
    let (kept, source) = layout_with_image(Format::Oci, "v1");
    let registry = DockerRegistry::start_with(docker_registry::Options {
        auth: true,
        ..docker_registry::Options::default()
    });
    push(&source, &registry, &["--dest-creds", &format!("{USER}:{PASSWORD}")]);
    let image = format!("{}/test/image:v1", registry.host());
    let authfile = kept.path().join("config.json");
    for engine in engines() {
        let out = Destination::new();
        let arguments =
            ["--plain-http", "--authfile", text(&authfile), &image, &out.reference("v1")];

        write_authfile(&authfile, &registry.host(), USER, PASSWORD);
        let right = pull(engine, &arguments);
        right.expect_status("Downloaded newer image for ");
        out.holds(&source, &source.tagged("v1"));

        write_authfile(&authfile, &registry.host(), USER, "canary");
        let wrong = pull(engine, &arguments);
        wrong.expect_failure(4, "auth");

        for ended in [right, wrong] {
            // No secret is printed, neither as typed nor as sent.
            for secret in [PASSWORD, "canary", "cHVsbGVyO"] {
                assert!(!ended.stdout.contains(secret) && !ended.stderr.contains(secret));
            }
        }
    }
}

// --- a registry that redirects to its storage ----------------------------------------------------

#[test]
fn blobs_come_over_https_from_where_the_registry_redirects_to() {
    if !tools_or_skip(&["nginx", "skopeo", "umoci"]) {
        return;
    }
    let ca = TestCa::new();
    let (kept, source) = layout_with_image(Format::Oci, "v1");
    let authfile = kept.path().join("config.json");
    for engine in engines() {
        let nginx = Nginx::start("test/image", &source, &redirecting(&ca));
        write_authfile(&authfile, &nginx.host(), USER, PASSWORD);
        let out = Destination::new();
        let image = format!("{}/test/image:v1", nginx.host());
        let trust = ca.certificate();
        pull(
            engine,
            &[
                "-v",
                "--ca-file",
                text(&trust),
                "--authfile",
                text(&authfile),
                &image,
                &out.reference("v1"),
            ],
        )
        .expect_status("Downloaded newer image for ");
        out.holds(&source, &source.tagged("v1"));
        skopeo_inspects(&out, "amd64");
        umoci_unpacks(&out);
        check_redirected(&nginx);
    }
}

#[test]
fn the_second_pull_asks_for_the_manifest_alone() {
    if !tools_or_skip(&["nginx"]) {
        return;
    }
    let ca = TestCa::new();
    for format in [Format::Oci, Format::Docker] {
        let (_kept, source) = layout_with_image(format, "v1");
        for engine in engines() {
            let nginx = Nginx::start("test/image", &source, &redirecting(&ca));
            let out = Destination::new();
            let image = format!("{}/test/image:v1", nginx.host());
            let trust = ca.certificate();
            let arguments = ["--ca-file", text(&trust), &image, &out.reference("v1")];
            pull(engine, &arguments).expect_status("Downloaded newer image for ");
            let first = nginx.requests();
            assert!(first.iter().any(nginx::Request::is_for_blob), "{first:#?}");

            pull(engine, &arguments).expect_status("Image is up to date for ");
            let second = &nginx.requests()[first.len()..];
            assert!(second.iter().any(nginx::Request::is_for_manifest), "{second:#?}");
            assert!(!second.iter().any(nginx::Request::is_for_blob), "{second:#?}");
            out.holds(&source, &source.tagged("v1"));
        }
    }
}

#[test]
fn the_second_pull_from_docker_registry_asks_for_no_blob_either() {
    if !tools_or_skip(&["docker-registry", "skopeo"]) {
        return;
    }
    let (_kept, source) = layout_with_image(Format::Oci, "v1");
    let registry = DockerRegistry::start();
    push(&source, &registry, &[]);
    let image = format!("{}/test/image:v1", registry.host());
    for engine in engines() {
        let out = Destination::new();
        let arguments = ["--plain-http", &image, &out.reference("v1")];
        pull(engine, &arguments).expect_status("Downloaded newer image for ");
        let before = registry.requests().len();
        pull(engine, &arguments).expect_status("Image is up to date for ");
        let second = &registry.requests()[before..];
        assert!(second.iter().any(|line| line.contains("/manifests/")), "{second:#?}");
        assert!(!second.iter().any(|line| line.contains("/blobs/")), "{second:#?}");
    }
}

#[test]
fn a_certificate_of_an_unknown_authority_ends_the_pull() {
    if !tools_or_skip(&["nginx"]) {
        return;
    }
    let (served, trusted) = (TestCa::new(), TestCa::new());
    let (_kept, source) = layout_with_image(Format::Oci, "v1");
    let nginx = Nginx::start("test/image", &source, &redirecting(&served));
    let image = format!("{}/test/image:v1", nginx.host());
    let other = trusted.certificate();
    for engine in engines() {
        let out = Destination::new();
        pull(engine, &["--plain-http=false", &image, &out.reference("v1")])
            .expect_failure(9, "tls-trust");
        pull(engine, &["--ca-file", text(&other), &image, &out.reference("v1")])
            .expect_failure(9, "tls-trust");
    }
    assert_eq!(nginx.requests(), [], "something was asked before the peer was trusted");
}

// --- the harness itself: skopeo in ringpull's place ----------------------------------------------

#[test]
fn harness_docker_registry_gives_back_what_was_pushed() {
    if !tools_or_skip(&["docker-registry", "skopeo", "umoci"]) {
        return;
    }
    let ca = TestCa::new();
    let (_kept, source) = layout_with_image(Format::Oci, "v1");
    for auth in [false, true] {
        for tls in [None, Some(ca.server())] {
            let over_http = tls.is_none();
            let registry = DockerRegistry::start_with(docker_registry::Options { auth, tls });
            let creds = format!("{USER}:{PASSWORD}");
            let push_creds: &[&str] = if auth { &["--dest-creds", &creds] } else { &[] };
            let pull_creds: &[&str] = if auth { &["--src-creds", &creds] } else { &[] };
            push(&source, &registry, push_creds);

            let out = Destination::new();
            let image = format!("docker://{}/test/image:v1", registry.host());
            let trust = ca.trust_directory();
            let check = if over_http { "--src-tls-verify=false" } else { "--src-tls-verify" };
            let copy =
                ["copy", "--preserve-digests", check, "--src-cert-dir", text(&trust), &image];
            skopeo(&[&copy, pull_creds, &[&out.reference("v1")]].concat());

            out.holds(&source, &source.tagged("v1"));
            skopeo_inspects(&out, "amd64");
            umoci_unpacks(&out);
            let blob = "GET /v2/test/image/blobs/";
            let requests = registry.requests();
            assert!(requests.iter().any(|line| line.starts_with(blob)), "{requests:#?}");
        }
    }
}

#[test]
fn harness_docker_registry_keeps_docker_manifests_and_indexes() {
    if !tools_or_skip(&["docker-registry", "skopeo"]) {
        return;
    }
    let registry = DockerRegistry::start();
    let raw = |source: &Layout| {
        let image = format!("docker://{}/test/image:v1", registry.host());
        push(source, &registry, &["--all"]);
        assert_eq!(
            skopeo(&["inspect", "--raw", "--tls-verify=false", &image]).as_bytes(),
            source.blob(&source.tagged("v1").digest)
        );
    };
    raw(&layout_with_image(Format::Docker, "v1").1);
    raw(&layout_with_index(Format::Docker, "v1", &["amd64", "arm64"]).1);
    raw(&layout_with_index(Format::Oci, "v1", &["amd64", "arm64"]).1);
}

#[test]
fn harness_nginx_serves_a_layout_and_logs_who_asked() {
    if !tools_or_skip(&["nginx", "skopeo"]) {
        return;
    }
    let ca = TestCa::new();
    let (_kept, source) = layout_with_image(Format::Oci, "v1");
    let nginx = Nginx::start("test/image", &source, &redirecting(&ca));
    let out = Destination::new();
    let image = format!("docker://{}/test/image:v1", nginx.host());
    let trust = ca.trust_directory();
    let arguments = ["copy", "--preserve-digests", "--src-cert-dir", text(&trust)];
    skopeo(&[&arguments[..], &[&image, &out.reference("v1")]].concat());
    out.holds(&source, &source.tagged("v1"));
    check_redirected(&nginx);
}

#[test]
fn harness_nginx_serves_ranges_and_keeps_to_its_rate() {
    if !tools_or_skip(&["nginx"]) {
        return;
    }
    let (_kept, source) = layout_with_image(Format::Oci, "v1");
    let options = nginx::Options { limit_rate: Some(400_000), ..nginx::Options::default() };
    let nginx = Nginx::start("test/image", &source, &options);
    let layer = largest(&source, &source.tagged("v1"));
    let started = std::time::Instant::now();
    let stream = TcpStream::connect(nginx.host()).unwrap();
    let path = format!("/v2/test/image/blobs/{}", layer.digest);
    let answer = get(stream, &path, "Range: bytes=1000000-1999999\r\n").unwrap();
    assert!(answer.ends_with(&source.blob(&layer.digest)[1_000_000..2_000_000]));
    assert!(started.elapsed().as_secs() >= 1, "1 MB at 0.4 MB/s took {:?}", started.elapsed());
    let [request] = &nginx.requests()[..] else { panic!("one request was made") };
    assert_eq!((request.status, request.bytes), (206, 1_000_000));
    assert_eq!(request.range, "bytes=1000000-1999999");
}

#[test]
#[should_panic(expected = "the bytes do not fit the name")]
fn harness_sees_a_spoiled_blob() {
    let (_kept, source) = layout_with_image(Format::Oci, "v1");
    let layer = largest(&source, &source.tagged("v1"));
    let mut content = source.blob(&layer.digest);
    content[1_000] ^= 1;
    std::fs::write(source.blob_path(&layer.digest), content).unwrap();
    verify_all(&source);
}

// --- what all of them share ----------------------------------------------------------------------

/// Where a pull goes: a layout that is not there yet.
struct Destination {
    layout: Layout,
    directory: TempDir,
}

impl Destination {
    fn new() -> Destination {
        let directory = TempDir::new().unwrap();
        Destination { layout: Layout::open(&directory.path().join("out")), directory }
    }

    fn reference(&self, tag: &str) -> String {
        self.layout.reference(tag)
    }

    fn path(&self) -> &Path {
        self.layout.path()
    }

    /// Checks that all of `root` is there as in `source`, and that every blob fits its name.
    #[track_caller]
    fn holds(&self, source: &Layout, root: &Descriptor) {
        assert_same_image(source, root, &self.layout);
        verify_all(&self.layout);
    }

    fn has(&self, descriptor: &Descriptor) -> bool {
        self.layout.blob_path(&descriptor.digest).exists()
    }
}

/// https for all, blobs at another host.
fn redirecting(ca: &TestCa) -> nginx::Options {
    nginx::Options { tls: Some(ca.server()), blobs: Blobs::Elsewhere, limit_rate: None }
}

/// Pushes `v1` of a layout as `test/image:v1`.
#[track_caller]
fn push(source: &Layout, registry: &DockerRegistry, more: &[&str]) {
    let directory = TempDir::new().unwrap();
    source.export_for_skopeo(&source.tagged("v1"), directory.path());
    let from = format!("dir:{}", text(directory.path()));
    let to = format!("docker://{}/test/image:v1", registry.host());
    let arguments = ["copy", "--preserve-digests", "--dest-tls-verify=false", &from, &to];
    skopeo(&[&arguments, more].concat());
}

/// Checks that skopeo reads the image for linux/`architecture`, with all its layers.
///
/// Docker's media types it only reads where it need not look for a tag.
#[track_caller]
fn skopeo_inspects(out: &Destination, architecture: &str) {
    let image = if out.layout.tagged("v1").media_type.contains(".oci.") {
        out.reference("v1")
    } else {
        format!("oci:{}", text(out.path()))
    };
    let of = ["--override-os", "linux", "--override-arch", architecture];
    let said: Value =
        serde_json::from_str(&skopeo(&[&of[..], &["inspect", &image]].concat())).unwrap();
    assert_eq!(said["Architecture"], architecture, "{said}");
    assert_eq!(said["Layers"].as_array().map(Vec::len), Some(LAYERS.len()), "{said}");
}

/// Checks that umoci finds the tag, and unpacks every layer's file at its full size.
#[track_caller]
fn umoci_unpacks(out: &Destination) {
    let layout = text(out.path());
    assert_eq!(umoci(&["ls", "--layout", layout]).trim(), "v1");
    let bundle = out.directory.path().join("bundle");
    umoci(&["unpack", "--rootless", "--image", &format!("{layout}:v1"), text(&bundle)]);
    for (position, layer) in LAYERS.iter().enumerate() {
        let file = bundle.join(format!("rootfs/layer-{position}/random"));
        assert_eq!(std::fs::metadata(file).unwrap().len(), layer.size as u64);
    }
}

/// Checks that all blobs came by redirect from the other host, which was told no credential.
#[track_caller]
fn check_redirected(nginx: &Nginx) {
    let requests = nginx.requests();
    let (redirects, served): (Vec<_>, Vec<_>) = requests
        .iter()
        .filter(|request| request.is_for_blob())
        .partition(|request| request.server == nginx.host());
    assert!(!redirects.is_empty() && !served.is_empty(), "{requests:#?}");
    for request in redirects {
        assert_eq!(request.status, 307, "{request:#?}");
    }
    for request in served {
        assert_eq!(request.server, nginx.blob_host());
        assert_eq!(request.authorization, "", "a credential crossed to another host");
        assert!(matches!(request.status, 200 | 206), "{request:#?}");
    }
}

/// The descriptor at `position` of the index that `v1` names.
fn manifest_at(source: &Layout, position: usize) -> Descriptor {
    let index: Value = serde_json::from_slice(&source.blob(&source.tagged("v1").digest)).unwrap();
    let digest = &index["manifests"][position]["digest"];
    let all = source.reachable(&source.tagged("v1"));
    all.into_iter().find(|descriptor| *digest == *descriptor.digest).unwrap()
}

fn largest(source: &Layout, root: &Descriptor) -> Descriptor {
    source.reachable(root).into_iter().max_by_key(|descriptor| descriptor.size).unwrap()
}
