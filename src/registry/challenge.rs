//! `WWW-Authenticate`: how a registry wants to be logged in to (RFC 9110 section 11.6.1; the
//! distribution project's `spec/auth/token.md`).
//!
//! A field may hold several challenges, and several fields may hold some each. Commas part both
//! challenges and their parameters, and stand inside of quoted values (`scope="a:b:pull,push"`), so
//! the fields are read by a small parser of the grammar and not split.
//!
//! A challenge that breaks the grammar is skipped up to the next comma, and those beside it count:
//! `Basic realm=My Registry, Bearer realm="https://…"` offers a token.

use crate::error::Class;
use crate::http::ResponseHead;
use crate::image::shown::shown;

/// One way to log in that a registry offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    /// A token of the service at `realm`.
    Bearer(Bearer),
    /// A user name and password, sent to the registry itself (RFC 7617).
    Basic,
    /// A scheme that ringpull does not speak.
    Other(String),
}

/// Where to get a token, and for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bearer {
    /// The URL of the token service, as the registry wrote it: not checked yet.
    pub realm: String,
    /// The name of the registry, as the token service knows it.
    pub service: Option<String>,
    /// What the token must allow: `repository:library/alpine:pull`. Several are parted by spaces.
    pub scope: Option<String>,
    /// What was wrong with the token sent: `invalid_token`, `insufficient_scope`.
    pub error: Option<String>,
}

/// Why nobody can log in by these challenges.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChallengeError {
    /// A 401 without `WWW-Authenticate`.
    #[error("the registry asks for credentials, but does not say how to send them")]
    Missing,
    /// The field does not follow the grammar.
    #[error("the registry's WWW-Authenticate is malformed: {reason} in `{field}`")]
    Malformed {
        /// What is wrong.
        reason: &'static str,
        /// The field, escaped and shortened.
        field: String,
    },
    /// A bearer challenge without `realm`.
    #[error("the registry asks for a token, but does not say where to get one (no realm)")]
    NoRealm,
    /// Only schemes that ringpull does not speak.
    #[error("the registry wants to be logged in to by {0}: only Bearer and Basic are supported")]
    Unsupported(String),
}

impl ChallengeError {
    /// Always [`Class::Auth`].
    pub fn class(&self) -> Class {
        Class::Auth
    }
}

/// The challenge to answer, of all those in `head`, a 401 or 403: the first `Bearer`, else `Basic`.
pub fn read(head: &ResponseHead) -> Result<Challenge, ChallengeError> {
    let fields: Vec<_> = head.values("www-authenticate").map(String::from_utf8_lossy).collect();
    choose(parse(fields.iter().map(AsRef::as_ref)))
}

/// All challenges in these values of `WWW-Authenticate`, in order; for one that cannot be answered,
/// why.
pub fn parse<'a>(
    fields: impl IntoIterator<Item = &'a str>,
) -> Vec<Result<Challenge, ChallengeError>> {
    let mut challenges = Vec::new();
    for field in fields {
        let mut parser = Parser { rest: field };
        loop {
            match parser.challenge() {
                Ok(Some(raw)) => challenges.push(raw.known()),
                Ok(None) => break,
                Err(reason) => {
                    let field = shown(field);
                    challenges.push(Err(ChallengeError::Malformed { reason, field }));
                    parser.skip_element();
                }
            }
        }
    }
    challenges
}

/// A token rather than a password: it opens less, and for a shorter time. If nothing can be
/// answered, the first error is the one to show.
fn choose(read: Vec<Result<Challenge, ChallengeError>>) -> Result<Challenge, ChallengeError> {
    let (mut challenges, mut errors) = (Vec::new(), Vec::new());
    for challenge in read {
        match challenge {
            Ok(challenge) => challenges.push(challenge),
            Err(error) => errors.push(error),
        }
    }
    let is_bearer = |challenge: &&Challenge| matches!(challenge, Challenge::Bearer(_));
    if let Some(bearer) = challenges.iter().find(is_bearer) {
        return Ok(bearer.clone());
    }
    if challenges.contains(&Challenge::Basic) {
        return Ok(Challenge::Basic);
    }
    if let Some(error) = errors.into_iter().next() {
        return Err(error);
    }
    if challenges.is_empty() {
        return Err(ChallengeError::Missing);
    }
    let names: Vec<String> = challenges
        .into_iter()
        .filter_map(|challenge| match challenge {
            Challenge::Other(name) => Some(shown(&name)),
            _ => None,
        })
        .collect();
    Err(ChallengeError::Unsupported(shown(&names.join(", "))))
}

/// A challenge as it is written.
struct Raw<'a> {
    scheme: &'a str,
    /// Names in lower case.
    parameters: Vec<(String, String)>,
}

impl Raw<'_> {
    fn known(mut self) -> Result<Challenge, ChallengeError> {
        if self.scheme.eq_ignore_ascii_case("Bearer") {
            let realm = self.take("realm").ok_or(ChallengeError::NoRealm)?;
            return Ok(Challenge::Bearer(Bearer {
                realm,
                service: self.take("service"),
                scope: self.take("scope"),
                error: self.take("error"),
            }));
        }
        if self.scheme.eq_ignore_ascii_case("Basic") {
            return Ok(Challenge::Basic);
        }
        Ok(Challenge::Other(self.scheme.to_owned()))
    }

    /// The value of a parameter, unless it is empty.
    fn take(&mut self, name: &str) -> Option<String> {
        let position = self.parameters.iter().position(|(known, _)| known == name)?;
        Some(self.parameters.swap_remove(position).1).filter(|value| !value.is_empty())
    }
}

/// Reads one field from left to right. All of its errors are reasons of
/// [`ChallengeError::Malformed`]; after one, [`Parser::skip_element`] leads to the next element.
/// Nothing is read twice, so a field costs time in proportion to its length.
struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    /// The next challenge: `scheme [ 1*SP ( token68 / #auth-param ) ]`. `None` at the end.
    fn challenge(&mut self) -> Result<Option<Raw<'a>>, &'static str> {
        self.skip(|c| matches!(c, ' ' | '\t' | ','));
        if self.rest.is_empty() {
            return Ok(None);
        }
        let scheme = self.token().ok_or("no scheme")?;
        let mut raw = Raw { scheme, parameters: Vec::new() };
        if self.at_element_end() {
            return Ok(Some(raw));
        }
        if !self.rest.starts_with([' ', '\t']) {
            return Err("no space after the scheme");
        }
        self.skip_space();
        if self.token68() {
            return Ok(Some(raw));
        }
        // A comma is followed by one more parameter or by the next challenge; which of them is seen
        // by the `=` after the first word.
        while let Some((name, value)) = self.parameter()? {
            let name = name.to_ascii_lowercase();
            if !self.at_element_end() {
                return Err("no comma between parameters");
            }
            match raw.parameters.iter().find(|(known, _)| *known == name) {
                None => raw.parameters.push((name, value)),
                // RFC 9110 section 11.2 forbids it, but one value can be read in one way only.
                Some((_, known)) if *known == value => {}
                Some(_) => return Err("a parameter occurs twice"),
            }
            self.skip(|c| matches!(c, ' ' | '\t' | ','));
        }
        match raw.parameters.is_empty() {
            true => Err("no parameter after the scheme"),
            false => Ok(Some(raw)),
        }
    }

    /// `token BWS "=" BWS ( token / quoted-string )`; nothing is consumed if it is not one.
    fn parameter(&mut self) -> Result<Option<(&'a str, String)>, &'static str> {
        let start = self.rest;
        let Some(name) = self.token() else { return Ok(None) };
        self.skip_space();
        let Some(after) = self.rest.strip_prefix('=') else {
            self.rest = start;
            return Ok(None);
        };
        self.rest = after;
        self.skip_space();
        let value = match self.rest.strip_prefix('"') {
            Some(quoted) => {
                self.rest = quoted;
                self.quoted()?
            }
            None => self.token().ok_or("a parameter has no value")?.to_owned(),
        };
        Ok(Some((name, value)))
    }

    /// What follows an opening quote (RFC 9110 section 5.6.4), without escapes.
    ///
    /// The string is consumed to its closing quote in any case, or to the end of the field.
    fn quoted(&mut self) -> Result<String, &'static str> {
        let mut value = String::new();
        let mut characters = std::mem::take(&mut self.rest).chars();
        loop {
            let character = match characters.next().ok_or("a quote is not closed")? {
                '"' => break,
                '\\' => characters.next().ok_or("a quote is not closed")?,
                character => character,
            };
            value.push(character);
        }
        self.rest = characters.as_str();
        match value.chars().any(|character| character.is_control() && character != '\t') {
            true => Err("a control character"),
            false => Ok(value),
        }
    }

    /// Goes on behind the next comma that is outside of quotes, or to the end of the field.
    fn skip_element(&mut self) {
        loop {
            self.skip(|c| !matches!(c, ',' | '"'));
            match self.rest.strip_prefix('"') {
                Some(quoted) => {
                    self.rest = quoted;
                    // For its end alone.
                    let _ = self.quoted();
                }
                None => return self.skip(|c| c == ','),
            }
        }
    }

    /// Consumes a `token68` if it is one to its end: `Negotiate YII=`.
    fn token68(&mut self) -> bool {
        let is_word =
            |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~' | '+' | '/');
        let word = self.rest.trim_start_matches(is_word);
        let after = word.trim_start_matches('=');
        let mut ahead = Parser { rest: after };
        let is_token68 = word.len() < self.rest.len() && ahead.at_element_end();
        if is_token68 {
            self.rest = after;
        }
        is_token68
    }

    /// RFC 9110 section 5.6.2.
    fn token(&mut self) -> Option<&'a str> {
        let is_token =
            |c: char| c.is_ascii_alphanumeric() || (c.is_ascii() && "!#$%&'*+-.^_`|~".contains(c));
        let rest = self.rest.trim_start_matches(is_token);
        let token = &self.rest[..self.rest.len() - rest.len()];
        self.rest = rest;
        (!token.is_empty()).then_some(token)
    }

    /// Whether only white space comes before the next comma or the end.
    fn at_element_end(&mut self) -> bool {
        let ahead = self.rest.trim_start_matches([' ', '\t']);
        ahead.is_empty() || ahead.starts_with(',')
    }

    fn skip_space(&mut self) {
        self.skip(|c| matches!(c, ' ' | '\t'));
    }

    fn skip(&mut self, of: fn(char) -> bool) {
        self.rest = self.rest.trim_start_matches(of);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HUB: &str = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/alpine:pull""#;

    fn bearer(realm: &str, service: &str, scope: &str, error: &str) -> Challenge {
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        Challenge::Bearer(Bearer {
            realm: realm.to_owned(),
            service: some(service),
            scope: some(scope),
            error: some(error),
        })
    }

    fn other(name: &str) -> Challenge {
        Challenge::Other(name.to_owned())
    }

    #[test]
    fn challenges_are_read_by_the_grammar() {
        let hub = bearer(
            "https://auth.docker.io/token",
            "registry.docker.io",
            "repository:library/alpine:pull",
            "",
        );
        let r = || bearer("r", "", "", "");
        let rows: Vec<(&[&str], Vec<Challenge>)> = vec![
            (&[], vec![]),
            (&[""], vec![]),
            (&[" , ,"], vec![]),
            (&[HUB], vec![hub.clone()]),
            (&["Basic realm=\"x\""], vec![Challenge::Basic]),
            (&["Basic"], vec![Challenge::Basic]),
            (&["basic realm=x, charset=\"UTF-8\""], vec![Challenge::Basic]),
            (&["BEARER REALM=r"], vec![r()]),
            (&["Bearer realm = \"r\" , service\t=\ts"], vec![bearer("r", "s", "", "")]),
            (&[",Bearer realm=r,,service=s,"], vec![bearer("r", "s", "", "")]),
            // A comma and an escape inside quotes.
            (
                &[r#"Bearer realm="r",scope="repository:a:pull,push",error="in\"valid\\""#],
                vec![bearer("r", "", "repository:a:pull,push", "in\"valid\\")],
            ),
            (&[r#"Bearer realm="r",service="""#], vec![r()]),
            // Several in one field, in several fields, in both.
            (&["Basic realm=\"x\", Bearer realm=\"r\""], vec![Challenge::Basic, r()]),
            (&["Bearer realm=r, Basic realm=\"x, Bearer y\""], vec![r(), Challenge::Basic]),
            (&["Negotiate, Basic realm=x"], vec![other("Negotiate"), Challenge::Basic]),
            (&["Negotiate YII==, Bearer realm=r"], vec![other("Negotiate"), r()]),
            (&["NTLM YII"], vec![other("NTLM")]),
            (&["Digest realm=x, nonce=\"a,b\", qop=auth", HUB], vec![other("Digest"), hub]),
            (&["Basic", "Bearer realm=r", ""], vec![Challenge::Basic, r()]),
            // A repetition that says the same.
            (
                &["Bearer realm=r,service=\"s\",realm=\"r\",Service=s"],
                vec![bearer("r", "s", "", "")],
            ),
            // Beyond ASCII: not for us to judge.
            (&["Basic realm=\"caf\u{e9}\""], vec![Challenge::Basic]),
        ];
        for (fields, expected) in rows {
            let expected: Vec<_> = expected.into_iter().map(Ok).collect();
            assert_eq!(parse(fields.iter().copied()), expected, "{fields:?}");
        }
    }

    #[test]
    fn what_breaks_the_grammar_is_refused() {
        for (field, expected) in [
            ("=", "no scheme"),
            ("\"Bearer\" realm=r", "no scheme"),
            ("Bearer=x", "no space after the scheme"),
            ("Bearer:realm=r", "no space after the scheme"),
            ("Bearer \"x\"", "no parameter after the scheme"),
            ("Bearer realm=\"r", "a quote is not closed"),
            ("Bearer realm=\"r\\", "a quote is not closed"),
            ("Bearer realm=\"a\u{7}b\"", "a control character"),
            ("Bearer realm=\"a\\\nb\"", "a control character"),
            ("Bearer service=s,realm=,scope=x", "a parameter has no value"),
            // A token68, by the letter.
            ("Bearer realm=,service=s", "no realm"),
            ("Bearer realm=r service=s", "no comma between parameters"),
            ("Bearer realm=\"a\"b", "no comma between parameters"),
            ("Basic realm=Artifactory Realm", "no comma between parameters"),
            ("Bearer realm=a,realm=b", "a parameter occurs twice"),
            ("Bearer realm=a,Realm=b", "a parameter occurs twice"),
            ("Bearer realm=a,service=s,realm=b", "a parameter occurs twice"),
            ("Bearer service=s", "no realm"),
            ("Bearer realm=\"\"", "no realm"),
            ("Bearer", "no realm"),
            ("Bearer abc==", "no realm"),
        ] {
            let error = parse([field]).into_iter().find_map(Result::err).expect(field);
            assert_eq!(choose(parse([field])), Err(error.clone()), "{field}");
            assert!(error.to_string().contains(expected), "{field}: {error}");
            assert_eq!(error.class(), Class::Auth);
        }
    }

    #[test]
    fn a_field_cut_anywhere_is_refused_or_is_another_field() {
        let whole = parse([HUB]);
        assert!(whole.iter().all(Result::is_ok));
        for cut in 0..HUB.len() {
            assert_ne!(parse([&HUB[..cut]]), whole, "{cut}");
        }
    }

    /// A malformed challenge spoils none beside it, before or behind, in its field or another.
    #[test]
    fn a_good_challenge_beside_a_malformed_one_is_answered() {
        let r = || Ok(bearer("r", "", "", ""));
        for spoiled in [
            "Basic realm=Artifactory Realm",
            "Bearer realm=a,realm=b",
            "Bearer",
            "Bearer realm=\"\"",
            "Bearer realm=\"a\u{7}b, Basic\"",
            "Bearer \"x, Bearer realm=q\"",
            "Basic realm=x service=y, scope=\"z\"",
            "=",
            "\"",
        ] {
            for fields in [
                &[spoiled, "Bearer realm=r"][..],
                &["Bearer realm=r", spoiled],
                &["Basic, Bearer realm=r", spoiled],
                &[&format!("Bearer realm=r, {spoiled}")],
            ] {
                assert_eq!(choose(parse(fields.iter().copied())), r(), "{fields:?}");
            }
            let before = format!("{spoiled}, Bearer realm=r");
            let expected = match spoiled {
                // Nobody knows where that ends.
                "\"" => Err("no scheme"),
                _ => Ok("r"),
            };
            match (choose(parse([before.as_str()])), expected) {
                (Ok(Challenge::Bearer(bearer)), Ok(realm)) => assert_eq!(bearer.realm, realm),
                (Err(error), Err(text)) => assert!(error.to_string().contains(text), "{error}"),
                (other, _) => panic!("{before}: {other:?}"),
            }
        }
        // A password where no token can be had.
        assert_eq!(choose(parse(["Bearer service=s, Basic realm=x"])), Ok(Challenge::Basic));
        assert_eq!(choose(parse(["Bearer realm=\"open, Basic"])).ok(), None);
        let error = choose(parse(["Negotiate, Bearer service=s"])).unwrap_err();
        assert_eq!(error, ChallengeError::NoRealm);
    }

    #[test]
    fn bytes_that_are_no_text_spoil_no_challenge() {
        let raw = b"HTTP/1.1 401 x\r\nWWW-Authenticate: Basic realm=\"caf\xe9\"\r\n\r\n";
        let head = ResponseHead::parse(raw).unwrap().unwrap().1;
        assert_eq!(read(&head), Ok(Challenge::Basic));
    }

    #[test]
    fn a_field_full_of_errors_costs_time_in_proportion_to_its_length() {
        for element in ["=,", "a b,", "Bearer a=b c,", "Bearer a=\"\u{7}\",", "a=\"b,\"c,\""] {
            let field = element.repeat((64 << 10) / element.len());
            let found = parse([field.as_str()]);
            assert!(found.len() <= field.len(), "{element}");
        }
    }

    #[test]
    fn a_token_is_preferred_to_a_password() {
        let choice = |fields: &[&str]| choose(parse(fields.iter().copied()));
        assert_eq!(choice(&["Basic, Bearer realm=r"]), Ok(bearer("r", "", "", "")));
        assert_eq!(choice(&["Bearer realm=1, Bearer realm=2"]), Ok(bearer("1", "", "", "")));
        assert_eq!(choice(&["Negotiate", "Basic realm=x"]), Ok(Challenge::Basic));
        assert_eq!(choice(&[]), Err(ChallengeError::Missing));
        assert_eq!(choice(&[""]), Err(ChallengeError::Missing));
        let error = choice(&["Negotiate, NTLM"]).unwrap_err();
        assert!(error.to_string().contains("logged in to by Negotiate, NTLM"), "{error}");
    }

    #[test]
    fn messages_show_the_field_escaped_and_short() {
        let field = format!("Bearer realm=\"\u{1b}[31m{}", "x".repeat(5000));
        let message = choose(parse([field.as_str()])).unwrap_err().to_string();
        assert!(!message.contains('\u{1b}') && message.len() < 250, "{message}");
    }
}
