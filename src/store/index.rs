//! What `index.json` and `oci-layout` say (OCI image-spec, `image-layout.md`). Bytes in, bytes out.
//!
//! The index is shared with other tools. It is kept as the JSON it is, and of that only the entries
//! of one name are ever touched: fields and entries that ringpull does not know stay as they are
//! and where they are.

use serde_json::{Map, Value, json};

use crate::image::{Descriptor, Digest, MediaType};

/// The annotation that names an entry (OCI image-spec, `annotations.md`).
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The only version of the layout there is.
const LAYOUT_VERSION: &str = "1.0.0";

/// What is shown of a text in a document that cannot be used, in characters.
const SHOWN_CHARS_MAX: usize = 40;

/// What [`super::Store::register`] found under the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registered {
    /// The name was not in the index, or its entry named nothing that ringpull can read.
    New,
    /// The name meant another image.
    Updated {
        /// What it meant.
        previous: Digest,
    },
    /// The name already meant this image.
    Unchanged,
}

/// A valid `index.json`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Index {
    /// The document, with nothing in the place of its `manifests`.
    document: Map<String, Value>,
    /// Its `manifests`.
    entries: Vec<Value>,
}

impl Index {
    /// The index of a layout that has none yet.
    pub(super) fn empty() -> Index {
        let mut document = Map::new();
        document.insert("schemaVersion".into(), 2.into());
        document.insert("mediaType".into(), MediaType::OCI_INDEX.into());
        document.insert("manifests".into(), Value::Null);
        Index { document, entries: Vec::new() }
    }

    /// Parses `index.json`. The error is what is wrong with the file, as a verb.
    pub(super) fn parse(bytes: &[u8]) -> Result<Index, String> {
        let mut document = object(bytes)?;
        if document.get("schemaVersion").and_then(Value::as_u64) != Some(2) {
            return Err("is not an image index: its schemaVersion is not 2".into());
        }
        let entries = match document.insert("manifests".into(), Value::Null) {
            Some(Value::Array(entries)) => entries,
            // Tools written in Go write an empty list as null.
            Some(Value::Null) | None => Vec::new(),
            Some(_) => return Err("is not an image index: its manifests are not a list".into()),
        };
        Ok(Index { document, entries })
    }

    /// The file's new content.
    pub(super) fn into_bytes(mut self) -> Vec<u8> {
        // Inserting under a key that is there keeps its place.
        self.document.insert("manifests".into(), Value::Array(self.entries));
        Value::Object(self.document).to_string().into_bytes()
    }

    /// What `name` means: the first entry of that name, if it is a descriptor ringpull can read.
    pub(super) fn resolve(&self, name: &str) -> Option<Descriptor> {
        self.entries.iter().find(|entry| is_named(entry, name)).and_then(descriptor)
    }

    /// All entries, as they are.
    pub(super) fn entries(&self) -> &[Value] {
        &self.entries
    }

    /// The name and the descriptor of each entry that ringpull can read.
    pub(super) fn images(&self) -> impl Iterator<Item = (Option<&str>, Descriptor)> {
        self.entries.iter().filter_map(|entry| {
            let name = entry.get("annotations").and_then(|annotations| annotations.get(REF_NAME));
            Some((name.and_then(Value::as_str), descriptor(entry)?))
        })
    }

    /// Makes `name` mean `root`, and nothing else: of several entries of the name one remains, in
    /// the place of the first. An entry that already names `root` keeps what else it says.
    pub(super) fn set(
        &mut self,
        name: &str,
        root: &Descriptor,
        annotations: &[(&str, &str)],
    ) -> Registered {
        let old = self.entries.iter().find(|entry| is_named(entry, name)).cloned();
        let previous = old.as_ref().and_then(descriptor);
        let mut entry = match old {
            Some(old) if previous.as_ref() == Some(root) => old,
            _ => new_entry(name, root),
        };
        if let Some(Value::Object(present)) = entry.get_mut("annotations") {
            for (key, value) in annotations.iter().filter(|(key, _)| *key != REF_NAME) {
                present.insert((*key).into(), (*value).into());
            }
        }

        let mut place = Some(entry);
        self.entries.retain_mut(|entry| {
            if !is_named(entry, name) {
                return true;
            }
            place.take().map(|new| *entry = new).is_some()
        });
        self.entries.extend(place);

        match previous {
            None => Registered::New,
            Some(previous) if previous.digest == root.digest => Registered::Unchanged,
            Some(previous) => Registered::Updated { previous: previous.digest },
        }
    }
}

/// The content of `oci-layout`.
pub(super) fn layout_file() -> Vec<u8> {
    json!({ "imageLayoutVersion": LAYOUT_VERSION }).to_string().into_bytes()
}

/// Checks the content of `oci-layout`. The error is what is wrong with the file, as a verb.
pub(super) fn check_layout_file(bytes: &[u8]) -> Result<(), String> {
    match object(bytes)?.get("imageLayoutVersion") {
        Some(Value::String(version)) if version == LAYOUT_VERSION => Ok(()),
        Some(Value::String(version)) => {
            let version: String = version.escape_debug().take(SHOWN_CHARS_MAX).collect();
            Err(format!("is of version {version}, and only {LAYOUT_VERSION} is known"))
        }
        _ => Err("names no imageLayoutVersion".into()),
    }
}

fn object(bytes: &[u8]) -> Result<Map<String, Value>, String> {
    if bytes.is_empty() {
        return Err("is empty".into());
    }
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(document)) => Ok(document),
        Ok(_) => Err("is not a JSON object".into()),
        Err(error) => Err(format!("is not JSON: {error}")),
    }
}

fn is_named(entry: &Value, name: &str) -> bool {
    entry.get("annotations").and_then(|annotations| annotations.get(REF_NAME))
        == Some(&Value::from(name))
}

fn descriptor(entry: &Value) -> Option<Descriptor> {
    Some(Descriptor {
        media_type: MediaType::new(entry.get("mediaType")?.as_str()?),
        digest: Digest::parse(entry.get("digest")?.as_str()?).ok()?,
        size: entry.get("size")?.as_u64()?,
    })
}

fn new_entry(name: &str, root: &Descriptor) -> Value {
    json!({
        "mediaType": root.media_type.as_str(),
        "digest": root.digest.to_string(),
        "size": root.size,
        "annotations": { REF_NAME: name },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Algorithm;

    fn root(content: &str) -> Descriptor {
        Descriptor {
            media_type: MediaType::new(MediaType::OCI_MANIFEST),
            digest: Digest::of(Algorithm::Sha256, content.as_bytes()),
            size: content.len() as u64,
        }
    }

    fn text(index: &Index) -> String {
        String::from_utf8(index.clone().into_bytes()).unwrap()
    }

    #[test]
    fn a_name_means_what_was_set_last() {
        let mut index = Index::empty();
        assert_eq!(index.resolve("a"), None);
        assert_eq!(index.set("a", &root("1"), &[]), Registered::New);
        assert_eq!(index.set("b", &root("2"), &[]), Registered::New);
        assert_eq!(index.set("a", &root("1"), &[]), Registered::Unchanged);
        let previous = root("1").digest;
        assert_eq!(index.set("a", &root("3"), &[]), Registered::Updated { previous });
        assert_eq!(index.resolve("a"), Some(root("3")));
        assert_eq!(index.resolve("b"), Some(root("2")));
        assert_eq!(Index::parse(text(&index).as_bytes()), Ok(index));
    }

    #[test]
    fn what_others_wrote_stays_as_it_is_and_where_it_is() {
        let mine = root("1").digest;
        let before = format!(
            r#"{{"z":[1,{{"y":null}}],"schemaVersion":2,"manifests":[{{"digest":"md5:1","x":1}},{{"mediaType":"{}","digest":"{mine}","size":1,"annotations":{{"{REF_NAME}":"a","k":"v"}},"platform":{{"os":"linux"}}}},7],"annotations":{{"q":"w"}}}}"#,
            MediaType::OCI_MANIFEST
        );
        let mut index = Index::parse(before.as_bytes()).unwrap();
        assert_eq!(index.set("a", &root("1"), &[]), Registered::Unchanged);
        assert_eq!(text(&index), before, "an entry that is right is not touched");

        assert_eq!(index.set("a", &root("2"), &[]), Registered::Updated { previous: mine });
        let changed = new_entry("a", &root("2")).to_string();
        let (head, tail) = (before.find(r#"{"mediaType"#).unwrap(), before.find(",7]").unwrap());
        assert_eq!(text(&index), format!("{}{changed}{}", &before[..head], &before[tail..]));
    }

    #[test]
    fn several_entries_of_a_name_become_one() {
        let named = |content| new_entry("a", &root(content));
        let document = json!({"schemaVersion": 2, "manifests": [1, named("1"), 2, named("2"), 3]});
        let mut index = Index::parse(document.to_string().as_bytes()).unwrap();
        assert_eq!(index.set("a", &root("1"), &[]), Registered::Unchanged);
        assert_eq!(index.entries, [json!(1), named("1"), json!(2), json!(3)]);
    }

    #[test]
    fn an_entry_that_cannot_be_read_is_replaced() {
        let bad = json!({"digest": "md5:0", "annotations": {REF_NAME: "a"}});
        let document = json!({"schemaVersion": 2, "manifests": [bad]});
        let mut index = Index::parse(document.to_string().as_bytes()).unwrap();
        assert_eq!(index.resolve("a"), None);
        assert_eq!(index.set("a", &root("1"), &[]), Registered::New);
        assert_eq!(index.entries.len(), 1);
    }

    #[test]
    fn annotations_are_added_and_never_rename() {
        let mut index = Index::empty();
        let annotations = [("com.example.k", "v"), (REF_NAME, "other")];
        index.set("a", &root("1"), &annotations);
        assert_eq!(index.set("a", &root("1"), &annotations), Registered::Unchanged);
        assert_eq!(index.resolve("other"), None);
        assert_eq!(index.entries[0]["annotations"]["com.example.k"], "v");
    }

    #[test]
    fn what_is_not_an_index_is_said() {
        let deep = "[".repeat(1000);
        for (bytes, expected) in [
            ("", "is empty"),
            ("{", "is not JSON"),
            (deep.as_str(), "is not JSON"),
            ("[]", "is not a JSON object"),
            ("{}", "schemaVersion"),
            (r#"{"schemaVersion":1,"manifests":[]}"#, "schemaVersion"),
            (r#"{"schemaVersion":2,"manifests":{}}"#, "not a list"),
            (r#"{"schemaVersion":2} x"#, "is not JSON"),
        ] {
            let problem = Index::parse(bytes.as_bytes()).unwrap_err();
            assert!(problem.contains(expected), "{bytes}: {problem}");
        }
        for bytes in [r#"{"schemaVersion":2}"#, r#"{"schemaVersion":2,"manifests":null}"#] {
            let mut index = Index::parse(bytes.as_bytes()).unwrap();
            assert_eq!(index.set("a", &root("1"), &[]), Registered::New);
            assert_eq!(index.resolve("a"), Some(root("1")));
        }
    }

    #[test]
    fn every_cut_of_an_index_is_refused() {
        let mut index = Index::empty();
        index.set("a", &root("1"), &[]);
        let bytes = index.into_bytes();
        for cut in 0..bytes.len() {
            assert!(Index::parse(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn the_layout_file_names_the_one_version() {
        assert_eq!(check_layout_file(&layout_file()), Ok(()));
        assert_eq!(layout_file(), br#"{"imageLayoutVersion":"1.0.0"}"#);
        for (bytes, expected) in [
            (r#"{"imageLayoutVersion":"2.0.0"}"#, "version 2.0.0"),
            (r#"{"imageLayoutVersion":"\u001b[31m"}"#, r"version \u{1b}[31m"),
            (r#"{"imageLayoutVersion":1}"#, "names no"),
            ("{}", "names no"),
            ("", "is empty"),
        ] {
            let problem = check_layout_file(bytes.as_bytes()).unwrap_err();
            assert!(problem.contains(expected), "{bytes}: {problem}");
        }
    }
}
