//! Manifests and indexes: what is read, what is refused and with which class, and which entry of an
//! index is taken.

#![allow(clippy::unwrap_used, clippy::panic)] // in builders and checks, which are not `#[test]`s

use oci_spec::image::{ImageIndex, ImageManifest};
use ringpull::error::Class;
use ringpull::image::manifest::{EntryKind, config_contradicts, config_platform};
use ringpull::image::{Document, Index, Manifest, MediaType, Platform};
use ringpull::limits::{
    BLOB_SIZE_MAX, FOREIGN_URLS_MAX, INDEX_ENTRIES_MAX, LAYERS_MAX, MANIFEST_SIZE_MAX,
};

const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";

// --- builders ------------------------------------------------------------------------------------

/// A digest that differs with `number`.
fn digest(number: usize) -> String {
    format!("sha256:{number:064x}")
}

fn descriptor(media_type: &str, number: usize, size: u64, more: &str) -> String {
    let digest = digest(number);
    format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{size}{more}}}"#)
}

fn config() -> String {
    descriptor("application/vnd.oci.image.config.v1+json", 1, 100, "")
}

fn layer(number: usize) -> String {
    descriptor(OCI_LAYER, number, 1000, "")
}

/// A manifest with these layers; `more` is put into the document.
fn manifest(layers: &str, more: &str) -> String {
    format!(r#"{{"schemaVersion":2,"config":{},"layers":[{layers}]{more}}}"#, config())
}

/// An index with these entries; `more` is put into the document.
fn index(entries: &[String], more: &str) -> String {
    format!(r#"{{"schemaVersion":2,"manifests":[{}]{more}}}"#, entries.join(","))
}

/// An entry for a platform: `linux/amd64`, `linux/arm/v7`.
fn entry(number: usize, platform: &str) -> String {
    let mut parts = platform.split('/');
    let mut part = || parts.next().unwrap_or_default();
    let (os, architecture, variant) = (part(), part(), part());
    let more = format!(
        r#","platform":{{"os":"{os}","architecture":"{architecture}","variant":"{variant}"}}"#
    );
    descriptor(MediaType::OCI_MANIFEST, number, 500, &more)
}

fn parse(text: &str, content_type: Option<&str>) -> Result<Document, String> {
    let content_type = content_type.map(MediaType::new);
    Document::parse(text.as_bytes(), content_type.as_ref()).map_err(|error| error.to_string())
}

fn parsed_manifest(text: &str) -> Manifest {
    match parse(text, None) {
        Ok(Document::Manifest(manifest)) => manifest,
        other => panic!("{text}: {other:?}"),
    }
}

fn parsed_index(text: &str) -> Index {
    match parse(text, None) {
        Ok(Document::Index(index)) => index,
        other => panic!("{text}: {other:?}"),
    }
}

// --- what is read --------------------------------------------------------------------------------

#[test]
fn a_manifest_is_read_as_the_oci_types_read_it() {
    let text = manifest(&[layer(2), layer(3), layer(2)].join(","), "");
    let ours = parsed_manifest(&text);
    let theirs: ImageManifest = serde_json::from_str(&text).unwrap();
    let pair = |descriptor: &oci_spec::image::Descriptor| {
        (descriptor.media_type().to_string(), descriptor.digest().to_string(), descriptor.size())
    };
    let own = |descriptor: &ringpull::image::Descriptor| {
        (descriptor.media_type.to_string(), descriptor.digest.to_string(), descriptor.size)
    };
    assert_eq!(own(&ours.config.descriptor), pair(theirs.config()));
    let ours: Vec<_> = ours.layers.iter().map(|layer| own(&layer.descriptor)).collect();
    assert_eq!(ours, theirs.layers().iter().map(pair).collect::<Vec<_>>());
}

#[test]
fn an_index_is_read_as_the_oci_types_read_it() {
    let text = index(&[entry(1, "linux/amd64"), entry(2, "linux/arm/v7")], "");
    let ours = parsed_index(&text);
    let theirs: ImageIndex = serde_json::from_str(&text).unwrap();
    assert_eq!(ours.manifests.len(), theirs.manifests().len());
    for (ours, theirs) in ours.manifests.iter().zip(theirs.manifests()) {
        assert_eq!(ours.descriptor.digest.to_string(), theirs.digest().to_string());
        let platform = theirs.platform().as_ref().unwrap();
        let expected = ours.platform.as_ref().unwrap();
        assert_eq!(expected.architecture(), platform.architecture().to_string());
        assert_eq!(expected.os(), platform.os().to_string());
    }
}

#[test]
fn the_type_is_decided_once_and_must_agree() {
    let field = |media_type: &str| format!(r#","mediaType":"{media_type}""#);
    let oci = MediaType::OCI_MANIFEST;
    let docker = MediaType::DOCKER_MANIFEST;
    let rows: &[(&str, Option<&str>, Result<&str, &str>)] = &[
        ("", None, Ok(oci)),
        ("", Some(docker), Ok(docker)),
        ("", Some("application/json"), Ok(oci)),
        (oci, None, Ok(oci)),
        (oci, Some(oci), Ok(oci)),
        (oci, Some("Application/VND.oci.image.manifest.v1+json; charset=utf-8"), Ok(oci)),
        (docker, Some("text/plain"), Ok(docker)),
        (oci, Some(docker), Err("its mediaType is application/vnd.oci")),
        (oci, Some(MediaType::OCI_INDEX), Err("but it came as Content-Type")),
        ("", Some(MediaType::OCI_INDEX), Err("has the fields of a manifest")),
        (MediaType::DOCKER_INDEX, None, Err("has the fields of a manifest")),
        ("application/x-\\u001b", None, Err("`application/x-\\u{1b}`: neither")),
        (SCHEMA1, None, Err("schema 1")),
        (oci, Some(SCHEMA1), Err("but it came as Content-Type")),
        ("", Some(SCHEMA1), Err("schema 1")),
    ];
    for (media_type, content_type, expected) in rows {
        let more = if media_type.is_empty() { String::new() } else { field(media_type) };
        match (parse(&manifest(&layer(2), &more), *content_type), expected) {
            (Ok(Document::Manifest(manifest)), Ok(expected)) => {
                assert_eq!(manifest.media_type.as_str(), *expected);
            }
            (Err(error), Err(expected)) => assert!(error.contains(expected), "{error}"),
            other => panic!("{media_type} as {content_type:?}: {other:?}"),
        }
    }
    let list = index(&[entry(1, "linux/amd64")], &field(MediaType::DOCKER_INDEX));
    assert_eq!(parsed_index(&list).media_type.as_str(), MediaType::DOCKER_INDEX);
    let liar = index(&[entry(1, "linux/amd64")], &field(oci));
    assert!(parse(&liar, None).unwrap_err().contains("has the fields of an index"));
}

#[test]
fn urls_of_layers_are_read_as_far_as_they_count() {
    let url = "https://cdn.example/x";
    let many = format!(r#","urls":[{}]"#, vec![format!("\"{url}\""); 9].join(","));
    for (more, count) in [
        ("", 0),
        (r#","urls":[]"#, 0),
        (r#","urls":null"#, 0),
        (r#","urls":["https://cdn.example/x"]"#, 1),
        (&many, FOREIGN_URLS_MAX),
    ] {
        let text = manifest(&descriptor(OCI_LAYER, 2, 10, more), "");
        assert_eq!(parsed_manifest(&text).layers[0].urls, vec![url; count], "{more}");
    }
}

#[test]
fn a_list_that_is_null_or_missing_is_empty() {
    for text in [
        format!(r#"{{"schemaVersion":2,"config":{},"layers":null}}"#, config()),
        format!(r#"{{"schemaVersion":2,"config":{}}}"#, config()),
        format!(r#"{{"config":{},"manifests":null}}"#, config()),
    ] {
        assert_eq!(parsed_manifest(&text).layers, [], "{text}");
    }
    let index = format!(r#"{{"schemaVersion":2,"mediaType":"{}""#, MediaType::OCI_INDEX);
    for text in [format!(r#"{index},"manifests":null}}"#), format!("{index}}}")] {
        assert_eq!(parsed_index(&text).manifests, [], "{text}");
    }
}

#[test]
fn embedded_bytes_are_taken_if_they_are_what_the_descriptor_says() {
    // The empty JSON object (OCI image-spec, `manifest.md`, "Guidance for an Empty Descriptor").
    const EMPTY: &str = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
    for (size, data, expected) in [
        (2, r#""e30=""#, Some(&b"{}"[..])),
        (2, r#""e30""#, None),
        (2, r#""e31=""#, None),
        (2, r#""e30=x""#, None),
        (3, r#""e30=""#, None),
        (2, r#""""#, None),
        (2, "null", None),
    ] {
        let more = format!(r#","data":{data}"#);
        let config = descriptor("a/b", 1, size, &more).replace(&digest(1), EMPTY);
        let text = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{config}]}}"#);
        let Manifest { config, layers, .. } = parsed_manifest(&text);
        assert_eq!(config.data.as_deref(), expected, "{size}: {data}");
        assert_eq!(layers[0].data, config.data);
    }
}

// --- what is refused -----------------------------------------------------------------------------

#[test]
fn what_can_be_read_two_ways_or_not_at_all_is_refused() {
    let list = format!(r#","manifests":[{}]"#, entry(9, "linux/amd64"));
    let size = |size: &str| manifest(&layer(2).replace("1000", size), "");
    let keys: String = (0..50_000).map(|nth| format!(r#","x{nth}":0"#)).collect();
    let many_keys = manifest("", &keys);
    let digest = |text: &str| manifest(&layer(2).replace(&digest(2), text), "");
    let rows: Vec<(String, Class, &str)> = vec![
        (String::new(), Class::Manifest, "it is not JSON: EOF"),
        ("<html>".into(), Class::Manifest, "it is not JSON"),
        ("[]".into(), Class::Manifest, "invalid length 0"),
        ("{}".into(), Class::Manifest, "neither a manifest"),
        (r#"{"schemaVersion":2,"manifests":null}"#.into(), Class::Manifest, "neither a manifest"),
        (manifest(&layer(2), &list), Class::Manifest, "both `manifests` and `config`"),
        (index(&[], r#","layers":[]"#), Class::Manifest, "both `manifests` and `layers`"),
        (index(&[], r#","fsLayers":[]"#), Class::Manifest, "both `manifests` and `fsLayers`"),
        (manifest("", r#","layers":[]"#), Class::Manifest, "the key `layers` occurs twice"),
        (manifest("", r#","a":{"b":{"c":1,"c":2}}"#), Class::Manifest, "the key `c` occurs twice"),
        (
            manifest("", &format!(r#","a":{}{}"#, "[".repeat(64), "]".repeat(64))),
            Class::Manifest,
            "nested deeper than 64",
        ),
        (r#"{"schemaVersion":1,"name":"x"}"#.into(), Class::Manifest, "schema 1"),
        (
            r#"{"schemaVersion":1,"fsLayers":[],"signatures":[]}"#.into(),
            Class::Manifest,
            "schema 1",
        ),
        (manifest("", r#","fsLayers":[]"#), Class::Manifest, "must be pushed again"),
        (manifest("", "").replace(":2,", ":3,"), Class::Manifest, "schemaVersion 3"),
        (r#"{"schemaVersion":2,"layers":[]}"#.into(), Class::Manifest, "neither a manifest"),
        (many_keys, Class::Limit, "has more than 50000 keys"),
        (digest("sha256:../../etc/passwd"), Class::DigestSyntax, "layers[0]: digest `sha256:../"),
        (digest(&"A".repeat(64)), Class::DigestSyntax, "layers[0]: digest"),
        (digest("md5:d41d8cd98f00b204e9800998ecf8427e"), Class::DigestSyntax, "unsupported"),
        (size("-1"), Class::Manifest, "invalid value: integer `-1`"),
        (size("1.5"), Class::Manifest, "floating point"),
        (size("\\\"1\\\"").replace('\\', ""), Class::Manifest, "invalid type: string"),
        (size("18446744073709551616"), Class::Manifest, "floating point"),
        (size("18446744073709551615"), Class::Limit, "layers[0]: the size 18446744073709551615"),
        (size(&(BLOB_SIZE_MAX + 1).to_string()), Class::Limit, "is beyond the"),
        (
            manifest(&[layer(2), descriptor(OCI_LAYER, 2, 1001, "")].join(","), ""),
            Class::Manifest,
            "layers[1]: sha256:0000000000000000000000000000000000000000000000000000000000000002 \
             has 1001 bytes here and 1000 in another place",
        ),
        (manifest(&descriptor(OCI_LAYER, 1, 7, ""), ""), Class::Manifest, "and 100 in another"),
    ];
    for (text, class, expected) in rows {
        let error = Document::parse(text.as_bytes(), None).expect_err(&text);
        assert!(error.to_string().contains(expected), "{text}: {error}");
        assert_eq!(error.class(), class, "{text}");
    }
}

#[test]
fn an_error_page_is_called_one() {
    let error = parse("<html>502</html>", Some("text/html; charset=utf-8")).unwrap_err();
    assert!(error.contains("(it came as `text/html`)"), "{error}");
    let error = parse("<html>", Some(MediaType::OCI_INDEX)).unwrap_err();
    assert!(!error.contains("it came as"), "{error}");
}

#[test]
fn limits_hold_to_the_byte_and_to_the_item() {
    let class = |text: &str| Document::parse(text.as_bytes(), None).map_err(|error| error.class());
    let padded = |size: usize| {
        let text = manifest("", "");
        " ".repeat(size - text.len()) + &text
    };
    assert!(class(&padded(MANIFEST_SIZE_MAX)).is_ok());
    assert_eq!(class(&padded(MANIFEST_SIZE_MAX + 1)), Err(Class::Limit));
    // No media type: shorter, so that the count is reached before the size.
    let layers = |count: usize| {
        let one = format!(r#"{{"digest":"{}","size":1}}"#, digest(2));
        manifest(&vec![one; count].join(","), "")
    };
    assert!(class(&layers(LAYERS_MAX)).is_ok());
    assert_eq!(class(&layers(LAYERS_MAX + 1)), Err(Class::Limit));
    let entries =
        |count: usize| index(&vec![format!(r#"{{"digest":"{}","size":1}}"#, digest(2)); count], "");
    assert!(class(&entries(INDEX_ENTRIES_MAX)).is_ok());
    assert_eq!(class(&entries(INDEX_ENTRIES_MAX + 1)), Err(Class::Limit));
    let largest = manifest(&layer(2).replace("1000", &BLOB_SIZE_MAX.to_string()), "");
    assert!(class(&largest).is_ok());
}

#[test]
fn a_document_cut_anywhere_is_refused() {
    let text = manifest(&layer(2), "");
    for cut in 0..text.len() {
        assert!(parse(&text[..cut], None).is_err(), "{cut}");
    }
}

#[test]
fn messages_show_foreign_text_escaped_and_short() {
    let escape = format!("\\u001b[31m{}", "x".repeat(5000));
    for text in [
        manifest("", &format!(r#","mediaType":"{escape}""#)),
        manifest("", &format!(r#","{escape}":1,"{escape}":2"#)),
        manifest(&layer(2).replace(&digest(2), &escape), ""),
        manifest(&layer(2).replace("1000", &format!("\"{escape}\"")), ""),
    ] {
        let message = parse(&text, None).unwrap_err();
        assert!(!message.contains('\u{1b}') && message.len() < 300, "{message}");
    }
}

// --- which entry is taken ------------------------------------------------------------------------

/// The number of the entry taken, or the text of the refusal.
#[track_caller]
fn check(entries: &[String], wanted: &str, expected: Result<usize, &str>) {
    let index = parsed_index(&index(entries, ""));
    let wanted = Platform::parse(wanted).unwrap();
    match (index.select(&wanted), expected) {
        (Ok(entry), Ok(number)) => assert_eq!(entry.descriptor.digest.to_string(), digest(number)),
        (Err(error), Err(text)) => {
            assert_eq!(error.to_string(), text);
            assert_eq!(error.class(), Class::NoPlatform);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_entry_that_fits_best_is_taken() {
    let usual = [
        entry(1, "linux/386"),
        entry(2, "linux/amd64"),
        entry(3, "linux/arm/v6"),
        entry(4, "linux/arm/v7"),
        entry(5, "linux/arm64/v8"),
        entry(6, "windows/amd64"),
        entry(7, "linux/amd64"),
    ];
    check(&usual, "linux/amd64", Ok(2));
    check(&usual, "linux/386", Ok(1));
    check(&usual, "linux/arm/v7", Ok(4));
    check(&usual, "linux/arm/v6", Ok(3));
    check(&usual, "linux/arm64", Ok(5));
    check(&usual[..3], "linux/arm/v7", Ok(3));
    check(&usual[..1], "linux/amd64", Ok(1));
    check(
        &usual,
        "linux/s390x",
        Err("the image has no manifest for linux/s390x: it has linux/386, linux/amd64, \
             linux/arm/v6, linux/arm/v7, linux/arm64, windows/amd64"),
    );
    check(
        &[],
        "linux/amd64",
        Err("the image has no manifest for linux/amd64: it has no image at all"),
    );
}

#[test]
fn attestations_and_artifacts_without_platform_are_never_taken() {
    let annotated = descriptor(
        MediaType::OCI_MANIFEST,
        2,
        5,
        r#","annotations":{"vnd.docker.reference.type":"attestation-manifest"},
            "platform":{"os":"linux","architecture":"amd64"}"#,
    );
    let artifact =
        descriptor(MediaType::OCI_MANIFEST, 4, 5, r#","artifactType":"application/spdx+json""#);
    let odd_type = descriptor("application/x-wasm", 5, 5, "");
    let odd_platform = entry(6, "li nux/amd64");
    let kinds = |text: &str| parsed_index(&index(&[text.to_owned()], "")).manifests[0].kind;
    for (text, kind) in [
        (entry(1, "linux/amd64"), EntryKind::Image),
        (annotated.clone(), EntryKind::Attestation),
        (entry(3, "unknown/unknown"), EntryKind::Attestation),
        (artifact.clone(), EntryKind::Artifact),
        (odd_type.clone(), EntryKind::Artifact),
        (odd_platform.clone(), EntryKind::Artifact),
        (
            descriptor(
                MediaType::OCI_MANIFEST,
                7,
                5,
                r#","artifactType":"application/vnd.oci.image.config.v1+json""#,
            ),
            EntryKind::Image,
        ),
        (descriptor(MediaType::OCI_INDEX, 8, 5, ""), EntryKind::Image),
    ] {
        assert_eq!(kinds(&text), kind, "{text}");
    }
    let others = [annotated, entry(3, "unknown/unknown"), artifact, odd_type, odd_platform];
    let none = "the image has no manifest for linux/amd64: it has an artifact without platform \
                (application/spdx+json), an artifact without platform (application/x-wasm), one \
                with a malformed platform";
    check(&others, "linux/amd64", Err(none));
    let with_image = [&others[..], &[entry(9, "linux/amd64")]].concat();
    check(&with_image, "linux/amd64", Ok(9));
}

#[test]
fn an_entry_without_platform_is_taken_only_if_it_is_the_only_one() {
    let unnamed = |number| descriptor(MediaType::OCI_INDEX, number, 5, "");
    check(&[unnamed(1)], "linux/amd64", Ok(1));
    check(&[unnamed(1), entry(2, "linux/amd64")], "linux/amd64", Ok(2));
    check(&[unnamed(1), entry(2, "linux/arm64")], "linux/amd64", Ok(1));
    check(
        &[unnamed(1), unnamed(2)],
        "linux/amd64",
        Err("the image has no manifest for linux/amd64: it has one without platform"),
    );
}

#[test]
fn an_artifact_for_the_platform_is_taken_where_no_image_is() {
    let artifact = |number, platform| {
        entry(number, platform).replacen('{', r#"{"artifactType":"application/x-tool","#, 1)
    };
    let both = [artifact(1, "linux/amd64"), artifact(2, "linux/arm64")];
    check(&both, "linux/amd64", Ok(1));
    check(&both, "linux/arm64", Ok(2));
    check(&both, "linux/amd64/v3", Ok(1));
    let with_image = [&both[..], &[entry(3, "linux/386"), entry(4, "linux/arm64")]].concat();
    check(&with_image, "linux/amd64", Ok(3));
    check(&with_image, "linux/arm64", Ok(4));
    let unreadable = artifact(5, "linux/s390x").replace(MediaType::OCI_MANIFEST, "a/b");
    check(
        &[&both[..], &[unreadable]].concat(),
        "linux/s390x",
        Err("the image has no manifest for linux/s390x: it has linux/amd64 (application/x-tool), \
             linux/arm64 (application/x-tool), linux/s390x (application/x-tool)"),
    );
}

#[test]
fn a_config_that_says_otherwise_is_found() {
    let config = |os: &str, architecture: &str, variant: &str| {
        format!(r#"{{"os":"{os}","architecture":"{architecture}","variant":"{variant}"}}"#)
    };
    for (config, wanted, expected) in [
        (config("linux", "amd64", ""), "linux/amd64", None),
        (config("linux", "amd64", ""), "linux/amd64/v3", None),
        (config("linux", "amd64", "v3"), "linux/amd64", Some("linux/amd64/v3")),
        (config("linux", "386", ""), "linux/amd64", None),
        (config("linux", "amd64", ""), "linux/386", Some("linux/amd64")),
        (config("linux", "arm", ""), "linux/arm/v6", None),
        (config("linux", "arm", "v7"), "linux/arm/v6", Some("linux/arm/v7")),
        (config("linux", "arm64", "v8"), "linux/arm64", None),
        (config("linux", "s390x", ""), "linux/amd64", Some("linux/s390x")),
        (config("windows", "amd64", ""), "linux/amd64", Some("windows/amd64")),
        ("{}".into(), "linux/amd64", None),
        ("not JSON".into(), "linux/amd64", None),
    ] {
        let wanted = Platform::parse(wanted).unwrap();
        let found = config_contradicts(config.as_bytes(), &wanted).map(|it| it.to_string());
        assert_eq!(found.as_deref(), expected, "{config} for {wanted}");
    }
}

/// The level that /proc/cpuinfo shows, read by another way than the one under test.
#[test]
#[cfg(target_arch = "x86_64")]
fn the_best_variant_that_runs_here_is_taken() {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags")).unwrap();
    let has = |names: &str| {
        names.split(' ').all(|name| flags.split_ascii_whitespace().any(|flag| flag == name))
    };
    let v2 = has("cx16 lahf_lm popcnt pni ssse3 sse4_1 sse4_2");
    let v3 = v2 && has("avx avx2 bmi1 bmi2 f16c fma abm movbe");
    let v4 = v3 && has("avx512f avx512bw avx512cd avx512dq avx512vl");
    let level = 1 + usize::from(v2) + usize::from(v3) + usize::from(v4);
    let entries = ["linux/amd64", "linux/amd64/v2", "linux/amd64/v3", "linux/amd64/v4"];
    let host = Platform::host().to_string();
    for count in 1..=4 {
        let entries: Vec<String> = (1..=count).map(|nth| entry(nth, entries[nth - 1])).collect();
        check(&entries, &host, Ok(count.min(level)));
    }
}

#[test]
fn entries_that_need_features_come_last() {
    let demanding = entry(1, "linux/amd64").replace(r#""os":"#, r#""os.features":["erofs"],"os":"#);
    check(&[demanding.clone(), entry(2, "linux/amd64")], "linux/amd64", Ok(2));
    check(&[demanding], "linux/amd64", Ok(1));
}

#[test]
fn a_long_list_of_platforms_is_cut() {
    let entries: Vec<String> =
        (0..50).map(|number| entry(number, &format!("os{number}/x"))).collect();
    let error = parsed_index(&index(&entries, "")).select(&Platform::host()).unwrap_err();
    assert!(error.to_string().ends_with("os19/x and 30 more"), "{error}");
    assert_eq!(error.available.len(), 50);
}

#[test]
fn a_config_names_its_platform() {
    for (config, expected) in [
        (
            r#"{"os":"linux","architecture":"arm64","variant":"v8","rootfs":{}}"#,
            Some("linux/arm64"),
        ),
        (r#"{"os":"linux","architecture":"amd64","history":[]}"#, Some("linux/amd64")),
        (r#"{"os":"linux"}"#, None),
        (r#"{"os":1,"architecture":"amd64"}"#, None),
        ("not JSON", None),
        ("", None),
    ] {
        let platform = config_platform(config.as_bytes()).map(|platform| platform.to_string());
        assert_eq!(platform.as_deref(), expected, "{config}");
    }
}
