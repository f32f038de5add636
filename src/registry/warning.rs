//! `Warning`: what a registry wants its users to know (OCI distribution-spec, section "Warnings";
//! RFC 7234 section 5.5).
//!
//! Only the code 299 is a registry's. The others are those of caches and proxies on the way, and
//! mean nothing to who pulls.

use crate::http::ResponseHead;
use crate::limits::WARNING_LENGTH_MAX;

/// The warnings in `head`, in order, each cut after [`WARNING_LENGTH_MAX`] characters. They are not
/// escaped.
pub fn read(head: &ResponseHead) -> Vec<String> {
    let mut texts = Vec::new();
    for field in head.values("warning") {
        let field = String::from_utf8_lossy(field);
        let mut rest = &*field;
        while let Some((code, text, after)) = warning_value(rest) {
            if code == "299" && !text.trim().is_empty() {
                texts.push(cut(text.trim()));
            }
            rest = after;
        }
    }
    texts
}

/// The first `warn-code SP warn-agent SP warn-text [ SP warn-date ]` of a list: its code, its text,
/// and what follows it. `None` at the end, or where the grammar ends.
fn warning_value(list: &str) -> Option<(&str, String, &str)> {
    let list = list.trim_start_matches([' ', '\t', ',']);
    let (code, rest) = list.split_once(' ')?;
    let (_agent, rest) = rest.trim_start_matches(' ').split_once(' ')?;
    let (text, rest) = quoted(rest.trim_start_matches(' '))?;
    let rest = match quoted(rest.trim_start_matches(' ')) {
        Some((_date, rest)) => rest,
        None => rest,
    };
    Some((code, text, rest))
}

/// A quoted string (RFC 9110 section 5.6.4) without its quotes and escapes, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut characters = text.strip_prefix('"')?.chars();
    let mut value = String::new();
    loop {
        match characters.next()? {
            '"' => return Some((value, characters.as_str())),
            '\\' => value.push(characters.next()?),
            character => value.push(character),
        }
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(WARNING_LENGTH_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(fields: &[&str], expected: &[&str]) {
        let fields: String = fields.iter().map(|value| format!("Warning: {value}\r\n")).collect();
        let text = format!("HTTP/1.1 200 x\r\n{fields}\r\n");
        let (_, head) = ResponseHead::parse(text.as_bytes()).unwrap().unwrap();
        assert_eq!(read(&head), expected, "{fields}");
    }

    #[test]
    fn warnings_of_registries_are_read() {
        check(&[], &[]);
        check(&["299 - \"Token ends soon.\""], &["Token ends soon."]);
        check(&["299 - \"a\"", "299 - \"b, c\""], &["a", "b, c"]);
        check(
            &["299 - \"a\", 299 x:5000 \"b\" \"Sun, 06 Nov 1994 08:49:37 GMT\",299 - \"c\""],
            &["a", "b", "c"],
        );
        check(&[r#"299 - "a \"word\" and \\""#], &[r#"a "word" and \"#]);
        check(&["299 - \"Größe\u{1b}[2J\""], &["Größe\u{1b}[2J"]);
    }

    #[test]
    fn what_is_no_warning_of_a_registry_is_passed_over() {
        for field in [
            "",
            ",",
            "299",
            "299 -",
            "299 - text",
            "299 - \"open",
            "299 - \"open\\",
            "299 - \"\"",
            "299 - \" \"",
            "- \"a\"",
            "110 cache \"Response is stale\"",
            "2990 - \"a\"",
        ] {
            check(&[field], &[]);
            check(&[field, "299 - \"b\""], &["b"]);
        }
        check(&["110 cache \"stale\", 299 - \"b\""], &["b"]);
    }

    #[test]
    fn a_long_warning_is_cut() {
        let exact = "ä".repeat(WARNING_LENGTH_MAX);
        check(&[&format!("299 - \"{exact}\"")], &[&exact]);
        check(&[&format!("299 - \"{exact}b\"")], &[&format!("{exact}…")]);
    }
}
