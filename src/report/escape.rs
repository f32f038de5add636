//! Making text that came from a peer safe to show.

use std::borrow::Cow;

/// `text` with every character escaped that a terminal or a reader would not take as text: control
/// characters and so escape codes (`\u{1b}`), marks that turn the direction of writing, and
/// characters without any width. What is escaped once comes back unchanged the second time.
///
/// Line breaks are escaped too (`\n`): a peer must not be able to write a line that looks like ours.
pub fn escape(text: &str) -> Cow<'_, str> {
    let Some(first) = text.find(is_unsafe) else {
        return Cow::Borrowed(text);
    };
    let (safe, rest) = text.split_at(first);
    let mut escaped = String::with_capacity(text.len() + 16);
    escaped.push_str(safe);
    for character in rest.chars() {
        match character {
            '\n' | '\r' | '\t' => escaped.extend(character.escape_default()),
            _ if is_unsafe(character) => escaped.extend(character.escape_unicode()),
            _ => escaped.push(character),
        }
    }
    Cow::Owned(escaped)
}

/// The text of a JSON document with the same characters escaped, in JSON's own way (RFC 8259 section
/// 7): it stays the document it is, and [`escape`] changes nothing of it but line breaks.
///
/// Outside of strings a document has none of them but line breaks, which stay.
pub fn escape_json(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if character == '\n' || !is_unsafe(character) {
            escaped.push(character);
            continue;
        }
        for unit in character.encode_utf16(&mut [0; 2]) {
            escaped.push_str(&format!("\\u{unit:04x}"));
        }
    }
    escaped
}

/// Whether `character` acts on what surrounds it, or hides.
///
/// Besides the control characters: the format characters (general category Cf) that occur outside
/// of single scripts, the line and paragraph separators, and invisible fillers.
fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(character,
            // Soft hyphen, Arabic letter mark, Mongolian vowel separator.
            '\u{ad}' | '\u{61c}' | '\u{180e}'
            // Zero-width characters, and left-to-right and right-to-left marks.
            | '\u{200b}'..='\u{200f}'
            // Line and paragraph separators, bidi embeddings and overrides.
            | '\u{2028}'..='\u{202e}'
            // Invisible operators, bidi isolates, deprecated format characters.
            | '\u{2060}'..='\u{206f}'
            // Fillers, byte order mark, interlinear annotations.
            | '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            // Tags: invisible copies of ASCII.
            | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let escaped = escape(text);
        assert_eq!(escaped, expected);
        assert_eq!(matches!(escaped, Cow::Borrowed(_)), text == expected, "borrowed if unchanged");
        assert_eq!(escape(expected), expected, "escaping twice changes nothing");
    }

    #[test]
    fn text_stays_as_it_is() {
        check("", "");
        check("latest: Pulling from library/alpine", "latest: Pulling from library/alpine");
        check(r#"a "quoted" \ path"#, r#"a "quoted" \ path"#);
        check("Größe 大きさ גודל 🦀", "Größe 大きさ גודל 🦀");
    }

    #[test]
    fn what_acts_on_the_terminal_is_escaped() {
        check("\u{1b}[2Jgone", r"\u{1b}[2Jgone");
        check("title\u{1b}]0;x\u{7}", r"title\u{1b}]0;x\u{7}");
        check("c1 \u{9b}31m", r"c1 \u{9b}31m");
        check("\0 \u{8} \u{7f}", r"\u{0} \u{8} \u{7f}");
        check("one\r\ntwo\tthree", r"one\r\ntwo\tthree");
    }

    #[test]
    fn json_is_escaped_in_its_own_way() {
        let hostile = "a\u{202e}\u{7f}\u{9b}\u{feff}\u{e0041}\n\"\\";
        let document = serde_json::json!({ "key": hostile, hostile: [hostile] });
        let text = escape_json(&format!("{document:#}"));
        assert!(text.lines().all(|line| escape(line) == line), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), document);
        assert!(text.contains(r"a\u202e\u007f\u009b\ufeff\udb40\udc41\n"), "{text}");
    }

    #[test]
    fn what_deceives_the_reader_is_escaped() {
        check("user\u{202e}txt.exe", r"user\u{202e}txt.exe");
        check("\u{2066}a\u{2069}", r"\u{2066}a\u{2069}");
        check("\u{200e}\u{200f}\u{61c}", r"\u{200e}\u{200f}\u{61c}");
        check("ali\u{200b}ne\u{feff}", r"ali\u{200b}ne\u{feff}");
        check("a\u{2028}b\u{2029}c", r"a\u{2028}b\u{2029}c");
        check("\u{e0041}", r"\u{e0041}");
    }
}
