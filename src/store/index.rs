//! What `index.json` and `oci-layout` say (OCI image-spec, `image-layout.md`). Bytes in, bytes out.
//!
//! The index is shared with other tools. It is kept as the text it is, and only the entries of one
//! name are ever touched: all else stays as it is and where it is, byte for byte, with its numbers as
//! they were written and with keys that occur twice.

use std::ops::Range;

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::image::{Descriptor, Digest, MediaType};

/// The annotation that names an entry (OCI image-spec, `annotations.md`).
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The annotation that tells which index the registry answered to the name, where what is stored is
/// the one of its manifests that fits the platform.
pub const INDEX_DIGEST: &str = "ringpull.index.digest";

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
    /// The text before the list of entries, with its bracket if there is no entry.
    head: String,
    entries: Vec<Entry>,
    /// The text behind the last entry, from the bracket on at the latest.
    tail: String,
}

/// One of the `manifests`.
#[derive(Debug, Clone, PartialEq)]
struct Entry {
    /// What stands before it: a bracket or a comma, and blanks.
    lead: String,
    /// The text of it.
    text: String,
    /// What it says; null if that is more than we can read, as a number without bounds.
    value: Value,
}

impl Entry {
    fn new(lead: &str, value: Value) -> Entry {
        Entry { lead: lead.to_owned(), text: value.to_string(), value }
    }
}

impl Index {
    /// The index of a layout that has none yet.
    pub(super) fn empty() -> Index {
        let kind = MediaType::OCI_INDEX;
        let head = format!(r#"{{"schemaVersion":2,"mediaType":"{kind}","manifests":"#);
        Index { head, entries: Vec::new(), tail: "[]}".to_owned() }
    }

    /// Parses `index.json`. The error is what is wrong with the file, as a verb.
    pub(super) fn parse(bytes: &[u8]) -> Result<Index, String> {
        let text = without_mark(bytes)?;
        let Fields(fields) = match serde_json::from_str(text) {
            Ok(fields) => fields,
            Err(error) if error.is_data() => return Err("is not a JSON object".into()),
            Err(error) => return Err(format!("is not JSON: {error}")),
        };
        // Of a key that occurs twice the last one counts, as in Go and in most other parsers.
        let last = |name: &str| fields.iter().rev().find(|(key, _)| key == name);
        let version = last("schemaVersion").and_then(|(_, raw)| value(raw).as_u64());
        if version != Some(2) {
            return Err("is not an image index: its schemaVersion is not 2".into());
        }
        let Some((_, list)) = last("manifests") else { return Ok(Index::without_list(text)) };
        let place = place_in(text, list.get());
        let (before, behind) = (&text[..place.start], &text[place.end..]);
        match list.get().as_bytes().first() {
            Some(b'[') => Index::with_list(before, list.get(), behind),
            // Tools written in Go write an empty list as null.
            Some(b'n') => {
                Ok(Index { head: before.into(), entries: Vec::new(), tail: format!("[]{behind}") })
            }
            _ => Err("is not an image index: its manifests are not a list".into()),
        }
    }

    fn with_list(before: &str, list: &str, behind: &str) -> Result<Index, String> {
        let raws: Vec<&RawValue> =
            serde_json::from_str(list).map_err(|error| format!("is not JSON: {error}"))?;
        let (mut entries, mut end) = (Vec::new(), 0);
        for raw in raws {
            let place = place_in(list, raw.get());
            let lead = list[end..place.start].to_owned();
            entries.push(Entry { lead, text: raw.get().to_owned(), value: value(raw) });
            end = place.end;
        }
        Ok(Index { head: before.to_owned(), entries, tail: format!("{}{behind}", &list[end..]) })
    }

    /// The index of an object that has no `manifests`: they come last in it.
    fn without_list(text: &str) -> Index {
        // A version at least is in it, so there is a brace, and a field before.
        let (fields, rest) = text.rsplit_once('}').unwrap_or((text, ""));
        let head = format!("{},\"manifests\":", fields.trim_end());
        Index { head, entries: Vec::new(), tail: format!("[]}}{rest}") }
    }

    /// The file's new content.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        let mut text = self.head;
        for Entry { lead, text: entry, .. } in &self.entries {
            text.push_str(lead);
            text.push_str(entry);
        }
        text.push_str(&self.tail);
        text.into_bytes()
    }

    /// What `name` means: the first entry of that name, if it is a descriptor ringpull can read.
    pub(super) fn resolve(&self, name: &str) -> Option<Descriptor> {
        self.entries().find(|entry| is_named(entry, name)).and_then(descriptor)
    }

    /// All entries, as they are.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Value> {
        self.entries.iter().map(|entry| &entry.value)
    }

    /// The name and the descriptor of each entry that ringpull can read, and the digest of the index
    /// that led to it.
    pub(super) fn images(
        &self,
    ) -> impl Iterator<Item = (Option<&str>, Descriptor, Option<Digest>)> {
        self.entries().filter_map(|entry| {
            let annotation = |key: &str| entry.get("annotations")?.get(key)?.as_str();
            let index = annotation(INDEX_DIGEST).and_then(|text| Digest::parse(text).ok());
            Some((annotation(REF_NAME), descriptor(entry)?, index))
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
        let place = self.entries.iter().position(|entry| is_named(&entry.value, name));
        let old = place.and_then(|place| self.entries.get(place)).map(|entry| &entry.value);
        let previous = old.and_then(descriptor);
        let mut value = match old {
            Some(old) if previous.as_ref() == Some(root) => old.clone(),
            _ => new_entry(name, root),
        };
        if let Some(Value::Object(present)) = value.get_mut("annotations") {
            if !annotations.iter().any(|(key, _)| *key == INDEX_DIGEST) {
                // The name means the manifest by itself now.
                present.shift_remove(INDEX_DIGEST);
            }
            for (key, value) in annotations.iter().filter(|(key, _)| *key != REF_NAME) {
                present.insert((*key).into(), (*value).into());
            }
        }

        match place.and_then(|place| self.entries.get_mut(place)) {
            // As it is written, if it says that already.
            Some(entry) if entry.value == value => {}
            Some(entry) => *entry = Entry::new(&entry.lead, value),
            None => self.append(value),
        }
        let mut index = 0;
        self.entries.retain(|entry| {
            let is_first = place.is_none_or(|place| index <= place);
            index += 1;
            is_first || !is_named(&entry.value, name)
        });

        match previous {
            None => Registered::New,
            Some(previous) if previous.digest == root.digest => Registered::Unchanged,
            Some(previous) => Registered::Updated { previous: previous.digest },
        }
    }

    fn append(&mut self, value: Value) {
        let entry = match self.entries.last() {
            // On a line of its own, if the one before is.
            Some(last) => {
                let blanks = last.lead.rsplit(['[', ',']).next().unwrap_or_default();
                Entry::new(&format!(",{blanks}"), value)
            }
            None => {
                // Nothing but blanks is between the brackets.
                if let Some((_, behind)) = self.tail.split_once(']') {
                    self.tail = format!("]{behind}");
                }
                Entry::new("[", value)
            }
        };
        self.entries.push(entry);
    }
}

/// The fields of a JSON object in their order, each with its text; a key may occur twice.
struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// What a text says; null if that is more than we can read.
fn value(raw: &RawValue) -> Value {
    serde_json::from_str(raw.get()).unwrap_or(Value::Null)
}

/// Where in `text` a part of it is, which is a part by its address.
fn place_in(text: &str, part: &str) -> Range<usize> {
    let start = (part.as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
    start..start.saturating_add(part.len())
}

/// The text of a document, without the byte order mark that some editors put first. (What is written
/// next has none: RFC 8259 section 8.1.)
fn without_mark(bytes: &[u8]) -> Result<&str, String> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    if bytes.is_empty() {
        return Err("is empty".into());
    }
    std::str::from_utf8(bytes).map_err(|error| format!("is not JSON: {error}"))
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
    match serde_json::from_str(without_mark(bytes)?) {
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
        assert_eq!(text(&Index::parse(text(&index).as_bytes()).unwrap()), text(&index));
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

    /// Whatever an index has besides: numbers as others write them, keys that occur twice, blanks,
    /// and what no parser of ours could say again.
    #[test]
    fn a_change_touches_no_other_byte() {
        const OTHERS: &str = r#"{"size":1.0,"big":123456789012345678901234567890,"e":1E400,"f":-0,
            "k":1,"k":2,"u":"\ud800\u0041\/","digest":"md5:1"}"#;
        let mine = new_entry("a", &root("1")).to_string();
        let new = new_entry("a", &root("2")).to_string();
        let other = new_entry("b", &root("3")).to_string();
        for (before, after) in [
            (
                format!(
                    "{{\"x\":1.50,\"x\":[1e2],\n \"schemaVersion\" : 2,\"manifests\": [ {OTHERS},\n\t{mine} , 7e7 ] ,\"z\":0.0 }}\n"
                ),
                format!(
                    "{{\"x\":1.50,\"x\":[1e2],\n \"schemaVersion\" : 2,\"manifests\": [ {OTHERS},\n\t{new} , 7e7 ] ,\"z\":0.0 }}\n"
                ),
            ),
            // The last of several lists counts, and of several entries of the name one remains.
            (
                format!(
                    "{{\"manifests\":[1.0],\"schemaVersion\":2,\"manifests\":[{mine},\n{OTHERS},\n{mine}\n]}}"
                ),
                format!(
                    "{{\"manifests\":[1.0],\"schemaVersion\":2,\"manifests\":[{new},\n{OTHERS}\n]}}"
                ),
            ),
            // A new entry stands as the one before.
            (
                format!("{{\"schemaVersion\":2,\"manifests\":[\n  {OTHERS} ,\n  {other}\n]}}"),
                format!(
                    "{{\"schemaVersion\":2,\"manifests\":[\n  {OTHERS} ,\n  {other},\n  {new}\n]}}"
                ),
            ),
            (
                "{\"schemaVersion\":2,\"n\":1.0,\"manifests\":[ ]}".to_owned(),
                format!("{{\"schemaVersion\":2,\"n\":1.0,\"manifests\":[{new}]}}"),
            ),
            (
                "{\"schemaVersion\":2,\"manifests\":null,\"n\":1.0}".to_owned(),
                format!("{{\"schemaVersion\":2,\"manifests\":[{new}],\"n\":1.0}}"),
            ),
            (
                "{\"schemaVersion\":2,\"n\":1.0 }\n".to_owned(),
                format!("{{\"schemaVersion\":2,\"n\":1.0,\"manifests\":[{new}]}}\n"),
            ),
        ] {
            let mut index = Index::parse(before.as_bytes()).unwrap();
            index.set("a", &root("2"), &[]);
            assert_eq!(text(&index), after);
            let mut again = Index::parse(after.as_bytes()).unwrap();
            assert_eq!(again.set("a", &root("2"), &[]), Registered::Unchanged);
            assert_eq!(text(&again), after);
        }
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_a_document() {
        let mut marked = b"\xef\xbb\xbf".to_vec();
        marked.extend_from_slice(&layout_file());
        assert_eq!(check_layout_file(&marked), Ok(()));
        let index = "\u{feff}{\"schemaVersion\":2,\"manifests\":[]}";
        assert_eq!(text(&Index::parse(index.as_bytes()).unwrap()), &index[3..]);
        assert_eq!(Index::parse("\u{feff}".as_bytes()).unwrap_err(), "is empty");
    }

    #[test]
    fn several_entries_of_a_name_become_one() {
        let named = |content| new_entry("a", &root(content));
        let document = json!({"schemaVersion": 2, "manifests": [1, named("1"), 2, named("2"), 3]});
        let mut index = Index::parse(document.to_string().as_bytes()).unwrap();
        assert_eq!(index.set("a", &root("1"), &[]), Registered::Unchanged);
        let entries: Vec<&Value> = index.entries().collect();
        assert_eq!(entries, [&json!(1), &named("1"), &json!(2), &json!(3)]);
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
        assert_eq!(index.entries[0].value["annotations"]["com.example.k"], "v");
    }

    #[test]
    fn what_is_not_an_index_is_said() {
        let deep = "[".repeat(1000);
        for (bytes, expected) in [
            ("", "is empty"),
            ("{", "is not JSON"),
            (deep.as_str(), "is not a JSON object"),
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
