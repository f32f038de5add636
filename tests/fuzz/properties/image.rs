//! Properties of names and documents: references, platforms, digests, manifests and indexes.

use std::collections::BTreeMap;

use ringpull::http::HttpUrl;
use ringpull::image::{
    Algorithm, Descriptor, Digest, Document, MediaType, Platform, Reference, manifest,
};
use ringpull::limits::{
    BLOB_SIZE_MAX, INDEX_ENTRIES_MAX, JSON_DEPTH_MAX, LAYERS_MAX, MANIFEST_SIZE_MAX,
    REPOSITORY_LENGTH_MAX, TAG_LENGTH_MAX,
};
use ringpull::registry::{Endpoint, EndpointOptions};
use serde_json::Value;

use super::check_message;

/// A manifest or index: what is taken has one reading only, keeps within the bounds, means the same
/// without its white space and its unknown fields, and does not depend on a type that says nothing.
pub fn manifest(bytes: &[u8]) {
    let _: Option<Platform> = manifest::config_platform(bytes);
    let types = [MediaType::OCI_INDEX, MediaType::OCI_MANIFEST, "text/plain"].map(MediaType::new);
    for media_type in &types {
        if let Err(error) = Document::parse(bytes, Some(media_type)) {
            check_message(&error);
        }
    }
    let document = match Document::parse(bytes, None) {
        Ok(document) => document,
        Err(error) => return check_message(&error),
    };
    assert!(bytes.len() <= MANIFEST_SIZE_MAX);
    assert_eq!(Document::parse(bytes, Some(&types[2])).as_ref(), Ok(&document));
    let mut value: Value = serde_json::from_slice(bytes).expect("it is JSON");
    assert!(depth(&value) <= JSON_DEPTH_MAX);
    // Members whose key is twice in the text are once in the value.
    value["unknown"] = Value::Bool(true);
    let again = value.to_string();
    assert_eq!(Document::parse(again.as_bytes(), None).as_ref(), Ok(&document));
    match &document {
        Document::Manifest(manifest) => {
            assert!(manifest.layers.len() <= LAYERS_MAX && manifest.media_type.is_manifest());
            let layers = manifest.layers.iter().map(|layer| &layer.descriptor);
            check_descriptors(layers.chain([&manifest.config.descriptor]));
        }
        Document::Index(index) => {
            assert!(index.manifests.len() <= INDEX_ENTRIES_MAX && index.media_type.is_index());
            check_descriptors(index.manifests.iter().map(|entry| &entry.descriptor));
            for wanted in ["linux/amd64/v4", "linux/arm/v7", "linux/arm64", "windows/amd64"] {
                let wanted = Platform::parse(wanted).unwrap();
                match index.select(&wanted) {
                    Ok(entry) => {
                        let fits = entry.platform.as_ref().is_none_or(|it| wanted.matches(it));
                        assert!(fits, "{entry:?} for {wanted}");
                    }
                    Err(_) => assert!(!index.manifests.iter().any(|entry| {
                        entry.kind != manifest::EntryKind::Attestation
                            && (entry.descriptor.media_type.is_manifest()
                                || entry.descriptor.media_type.is_index())
                            && entry.platform.as_ref().is_some_and(|it| wanted.matches(it))
                    })),
                }
            }
        }
    }
}

/// One size for each digest, within the bound; a digest reads as it is written.
fn check_descriptors<'a>(descriptors: impl Iterator<Item = &'a Descriptor>) {
    let mut sizes = BTreeMap::new();
    for descriptor in descriptors {
        assert!(descriptor.size <= BLOB_SIZE_MAX);
        assert_eq!(*sizes.entry(descriptor.digest).or_insert(descriptor.size), descriptor.size);
        assert_eq!(Digest::parse(&descriptor.digest.to_string()), Ok(descriptor.digest));
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(values) => 1 + values.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// A reference: written out, in full or short, it is the same reference; it leads to URLs of its own
/// registry, below its own repository. A platform, written out, is the same platform; a digest too.
pub fn reference(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    match Reference::parse(text) {
        Ok(reference) => check_reference(&reference),
        Err(error) => check_message(&error),
    }
    match Platform::parse(text) {
        Ok(platform) => {
            assert_eq!(Platform::parse(&platform.to_string()).as_ref(), Ok(&platform));
            assert_eq!(platform.rank(&platform), Some(0), "{platform} does not run on itself");
        }
        Err(error) => check_message(&error),
    }
    match Digest::parse(text) {
        Ok(digest) => {
            assert_eq!(digest.to_string(), text);
            assert_eq!(digest.bytes().len(), digest.algorithm().size());
        }
        Err(error) => check_message(&error),
    }
    match HttpUrl::parse(text) {
        Ok(url) => assert_eq!(HttpUrl::parse(&url.absolute()).as_ref(), Ok(&url)),
        Err(error) => check_message(&error),
    }
}

fn check_reference(reference: &Reference) {
    let (full, short) = (reference.to_string(), reference.familiar());
    assert_eq!(Reference::parse(&full).as_ref(), Ok(reference), "{full}");
    assert_eq!(Reference::parse(&short).as_ref(), Ok(reference), "{short}");
    assert!(reference.repository().len() <= REPOSITORY_LENGTH_MAX);
    assert!(reference.tag().is_none_or(|tag| (1..=TAG_LENGTH_MAX).contains(&tag.len())));
    let endpoint = match Endpoint::for_reference(reference, &EndpointOptions::default()) {
        Ok(endpoint) => endpoint,
        Err(error) => return check_message(&error),
    };
    let key = reference.manifest_key();
    let manifest = endpoint.manifest_url(reference.repository(), &key).unwrap();
    let path = format!("/v2/{}/manifests/{key}", reference.repository());
    assert_eq!(manifest.path_and_query(), path);
    let digest = Digest::of(Algorithm::Sha512, b"");
    let blob = endpoint.blob_url(reference.repository(), &digest).unwrap();
    assert_eq!(blob.path_and_query(), format!("/v2/{}/blobs/{digest}", reference.repository()));
    assert_eq!((manifest.origin(), blob.origin()), (endpoint.origin(), endpoint.origin()));
}
