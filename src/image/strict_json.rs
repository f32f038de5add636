//! A reading of a JSON document that only judges it: no key twice in one object, no nesting deeper
//! than a bound.
//!
//! Parsers differ in which of two equal keys they believe; a document that is one thing to the
//! registry's scanner and another to the puller is how CVE-2021-41190 worked. Nothing is built but
//! the set of keys of the objects that are open, so the memory needed is bounded by the document's.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::shown::shown;
use crate::limits::{JSON_DEPTH_MAX, JSON_KEYS_MAX};

// serde_json gives up at 128, with a text of its own.
const _: () = assert!(JSON_DEPTH_MAX < 128);

/// Why a document is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StrictJsonError {
    /// Not JSON; the position is in the text.
    #[error("it is not JSON: {0}")]
    Syntax(String),
    /// One object has a key twice.
    #[error("the key `{0}` occurs twice in one object")]
    DuplicateKey(String),
    /// Nested too deep.
    #[error("it is nested deeper than {JSON_DEPTH_MAX}")]
    TooDeep,
    /// Too many keys in the objects that are open at one place.
    #[error("one object, with those around it, has more than {JSON_KEYS_MAX} keys")]
    TooManyKeys,
}

/// Checks that `bytes` is one JSON value without duplicate keys and without deep nesting.
pub(super) fn check(bytes: &[u8]) -> Result<(), StrictJsonError> {
    let (mut fault, mut keys) = (None, 0);
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let judged = Judge { depth: 0, keys: &mut keys, fault: &mut fault }
        .deserialize(&mut json)
        .and_then(|()| json.end());
    match (judged, fault) {
        (Ok(()), _) => Ok(()),
        (Err(_), Some(fault)) => Err(fault),
        (Err(error), None) => Err(StrictJsonError::Syntax(shown(&error.to_string()))),
    }
}

/// Reads one value, and leaves in `fault` what serde's own error type has no room for.
struct Judge<'a> {
    /// How many arrays and objects are open around the value.
    depth: usize,
    /// How many keys the objects that are open have had so far, all together.
    keys: &'a mut usize,
    fault: &'a mut Option<StrictJsonError>,
}

impl Judge<'_> {
    /// The judge of a value inside the one being read.
    fn within<E: serde::de::Error>(&mut self) -> Result<Judge<'_>, E> {
        if self.depth >= JSON_DEPTH_MAX {
            return Err(self.refuse(StrictJsonError::TooDeep));
        }
        Ok(Judge { depth: self.depth + 1, keys: self.keys, fault: self.fault })
    }

    fn refuse<E: serde::de::Error>(&mut self, fault: StrictJsonError) -> E {
        let error = E::custom(&fault);
        *self.fault = Some(fault);
        error
    }
}

impl<'de> DeserializeSeed<'de> for Judge<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Judge<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        let mut keys = HashSet::new();
        while let Some(key) = map.next_key_seed(Key)? {
            if keys.contains(&key) {
                return Err(self.refuse(StrictJsonError::DuplicateKey(shown(&key))));
            }
            keys.insert(key);
            *self.keys += 1;
            if *self.keys > JSON_KEYS_MAX {
                return Err(self.refuse(StrictJsonError::TooManyKeys));
            }
            map.next_value_seed(self.within()?)?;
        }
        *self.keys -= keys.len();
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(self.within()?)?.is_some() {}
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

/// Reads a key: borrowed from the document unless it has escapes.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Cow<'de, str>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Borrowed(key))
    }

    fn visit_str<E>(self, key: &str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(key.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_judged() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        let objects = |depth: usize| "{\"a\":".repeat(depth) + "1" + &"}".repeat(depth);
        let many = |keys: usize, times: usize| {
            let keys: Vec<String> = (0..keys).map(|nth| format!(r#""{nth}":0"#)).collect();
            format!("[{}]", vec![format!("{{{}}}", keys.join(",")); times].join(","))
        };
        let twice = |key: &str| Err(StrictJsonError::DuplicateKey(key.to_owned()));
        for (text, expected) in [
            ("{}", Ok(())),
            (r#"{"a":1,"b":[null,true,-1,1.5,"x"],"A":{"a":1}}"#, Ok(())),
            (r#"{"a":1,"a":1}"#, twice("a")),
            (r#"{"a":1,"\u0061":2}"#, twice("a")),
            (r#"{"x":[{"b":1,"c":2,"b":3}]}"#, twice("b")),
            (r#"[{"a":1},{"a":1}]"#, Ok(())),
            (r#"{"\n":1,"\n":1}"#, twice("\\n")),
            (&nested(64), Ok(())),
            (&nested(65), Err(StrictJsonError::TooDeep)),
            (&objects(63), Ok(())),
            (&objects(65), Err(StrictJsonError::TooDeep)),
            (&"[".repeat(1 << 20), Err(StrictJsonError::TooDeep)),
            (&many(JSON_KEYS_MAX, 1), Ok(())),
            (&many(JSON_KEYS_MAX + 1, 1), Err(StrictJsonError::TooManyKeys)),
            // Objects beside each other are not open at once.
            (&many(JSON_KEYS_MAX, 2), Ok(())),
            (&format!(r#"{{"a":{}}}"#, many(JSON_KEYS_MAX, 1)), Err(StrictJsonError::TooManyKeys)),
        ] {
            assert_eq!(check(text.as_bytes()), expected, "{}", shown(text));
        }
    }

    #[test]
    fn what_is_not_one_json_value_is_refused_with_its_position() {
        for (bytes, expected) in [
            (&b""[..], "EOF while parsing a value at line 1 column 0"),
            (b"<html>", "line 1 column 1"),
            (b"{} {}", "trailing characters at line 1 column 4"),
            (b"{\"a\":1,}", "line 1 column 8"),
            (b"{\"a\":\xff}", "line 1"),
            (b"\xef\xbb\xbf{}", "line 1 column 1"),
        ] {
            let error = check(bytes).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_document_cut_anywhere_is_refused() {
        let text = r#"{"a":[1,{"b":"c\u00e9"}],"d":null}"#;
        for cut in 0..text.len() {
            assert!(check(&text.as_bytes()[..cut]).is_err(), "{cut}");
        }
        assert_eq!(check(text.as_bytes()), Ok(()));
    }
}
