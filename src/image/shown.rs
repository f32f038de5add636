//! How text that came from a peer, a file or the command line is put into a message: escaped, so
//! that it cannot steer a terminal, and cut, so that it cannot flood one.

use crate::limits::SHOWN_SIZE_MAX;

/// `text`, escaped and cut after [`SHOWN_SIZE_MAX`] characters; `…` marks the cut.
pub(crate) fn shown(text: &str) -> String {
    shown_up_to(text, SHOWN_SIZE_MAX)
}

/// `text`, escaped and cut after `length_max` characters of the escaped form; `…` marks the cut.
pub(crate) fn shown_up_to(text: &str, length_max: usize) -> String {
    // Quotation marks and backslashes do no harm, and JSON is full of them.
    let is_plain = |character: char| matches!(character, '"' | '\'' | '\\');
    let escape = |character: char| match is_plain(character) {
        true => either(Some(character), None),
        false => either(None, Some(character.escape_debug())),
    };
    let mut escaped = text.chars().flat_map(escape);
    let mut shown: String = escaped.by_ref().take(length_max).collect();
    if escaped.next().is_some() {
        shown.push('…');
    }
    shown
}

/// One character as it is, or as it is escaped.
fn either(
    plain: Option<char>,
    escaped: Option<std::char::EscapeDebug>,
) -> impl Iterator<Item = char> {
    plain.into_iter().chain(escaped.into_iter().flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_escaped_and_cut() {
        for (text, expected) in [
            ("", ""),
            ("plain", "plain"),
            ("12345678", "12345678"),
            ("123456789", "12345678…"),
            ("\u{1b}[31m", "\\u{1b}[3…"),
            ("a\r\nb", "a\\r\\nb"),
            (r#"{"a":'\"#, r#"{"a":'\"#),
            ("\u{202e}x", "\\u{202e}…"),
        ] {
            assert_eq!(shown_up_to(text, 8), expected, "{text:?}");
        }
        assert_eq!(shown(&"y".repeat(500)).chars().count(), SHOWN_SIZE_MAX + 1);
    }
}
