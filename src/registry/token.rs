//! Tokens: asking the service that a challenge names, and reading its answer (the distribution
//! project's `spec/auth/token.md`).
//!
//! Only the `GET` form is here. The `POST` form (`spec/auth/oauth.md`), by which an identity token is
//! exchanged, will stand beside [`request_url`] as a second way to ask; the answer is the same, and
//! [`Token::parse`] reads it already.
//!
//! Whether the service may be asked at all is [`realm::check`](super::realm::check)'s to say. Its
//! answer is never a redirect that is followed.

use std::time::{Duration, SystemTime};

use serde::Deserialize;

use super::challenge::Bearer;
use crate::error::Class;
use crate::http::{HttpUrl, Request, RequestError, Secret};
use crate::limits::{TOKEN_LIFETIME_MAX, TOKEN_LIFETIME_MIN, TOKEN_RESPONSE_SIZE_MAX};

/// A token that a registry takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    secret: Secret,
    /// How long it is good for, from the moment its request was sent. To be counted by a monotonic
    /// clock.
    pub lifetime: Duration,
}

/// Why the answer of a token service is refused. Never shows any of it: it may hold the token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Too many bytes.
    #[error("the token service's answer has more than {TOKEN_RESPONSE_SIZE_MAX} bytes")]
    TooLarge,
    /// Not JSON, or not of the shape expected.
    #[error("the token service's answer is not the JSON expected (line {line}, column {column})")]
    Json {
        /// Line of the error, from 1.
        line: usize,
        /// Column of the error, from 1.
        column: usize,
    },
    /// Neither `token` nor `access_token`.
    #[error("the token service's answer has no token in it")]
    Missing,
    /// The token cannot be sent.
    #[error("the token service's token has white space or characters that cannot be sent")]
    Malformed,
}

impl TokenError {
    /// Always [`Class::Token`].
    pub fn class(&self) -> Class {
        Class::Token
    }
}

/// The URL to get a token at: the realm, with the service and scope of the challenge. Where the
/// challenge names no scope, pulling from `repository` is asked for.
pub fn request_url(realm: &HttpUrl, challenge: &Bearer, repository: &str) -> HttpUrl {
    let pull = format!("repository:{repository}:pull");
    let scope = challenge.scope.as_deref().unwrap_or(&pull);
    let service = challenge.service.as_deref().map(|service| ("service", service));
    // Several scopes are one parameter each, as Docker and containerd send them.
    let scopes = scope.split_ascii_whitespace().map(|scope| ("scope", scope));
    realm.with_query_pairs(service.into_iter().chain(scopes))
}

/// The request for a token. `authorization` only if [`realm::check`](super::realm::check) granted it.
pub fn request(url: HttpUrl, authorization: Option<Secret>) -> Result<Request, RequestError> {
    let request = Request::get(url).header("Accept", "application/json")?;
    match authorization {
        Some(secret) => request.authorization(secret),
        None => Ok(request),
    }
}

impl Token {
    /// Reads the body of a token service's answer, which is at most [`TOKEN_RESPONSE_SIZE_MAX`] bytes.
    ///
    /// `date` is the `Date` field of the answer. A token that was issued earlier (`issued_at`), and
    /// kept by a cache since, is good for that much less: both times are the service's, so that it
    /// does not matter what our clock says.
    pub fn parse(body: &[u8], date: Option<SystemTime>) -> Result<Token, TokenError> {
        if body.len() > TOKEN_RESPONSE_SIZE_MAX {
            return Err(TokenError::TooLarge);
        }
        let fields: Fields = serde_json::from_slice(body)
            .map_err(|error| TokenError::Json { line: error.line(), column: error.column() })?;
        let token = [&fields.token, &fields.access_token]
            .into_iter()
            .flatten()
            .find(|token| !token.is_empty())
            .ok_or(TokenError::Missing)?;
        // RFC 6750 section 2.1 allows fewer characters; services have been seen to use more.
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TokenError::Malformed);
        }
        Ok(Token { secret: Secret::from(token.as_str()), lifetime: fields.lifetime(date) })
    }

    /// The value of `Authorization`: `Bearer …`.
    pub fn authorization(&self) -> Secret {
        Secret::from(format!("Bearer {}", self.secret.expose()))
    }
}

#[derive(Deserialize)]
struct Fields {
    token: Option<String>,
    access_token: Option<String>,
    /// Seconds. Not worth failing for: a token that ends early is asked for again.
    expires_in: Option<serde_json::Value>,
    /// RFC 3339.
    issued_at: Option<serde_json::Value>,
}

impl Fields {
    fn lifetime(&self, date: Option<SystemTime>) -> Duration {
        let seconds = self.expires_in.as_ref().and_then(serde_json::Value::as_u64);
        let issued = self.issued_at.as_ref().and_then(serde_json::Value::as_str);
        let issued = issued.and_then(|text| humantime::parse_rfc3339(text).ok());
        // A token from the future, by its own service's clock, has no age.
        let age = date.zip(issued).and_then(|(date, issued)| date.duration_since(issued).ok());
        seconds
            .map_or(TOKEN_LIFETIME_MIN, Duration::from_secs)
            .saturating_sub(age.unwrap_or_default())
            .clamp(TOKEN_LIFETIME_MIN, TOKEN_LIFETIME_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::TargetForm;

    #[track_caller]
    fn check_url(realm: &str, service: Option<&str>, scope: Option<&str>, expected: &str) {
        let challenge = Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
            error: None,
        };
        let url = request_url(&HttpUrl::parse(realm).unwrap(), &challenge, "library/alpine");
        assert_eq!(url.path_and_query(), expected);
    }

    #[test]
    fn a_token_is_asked_for_what_the_challenge_says() {
        check_url(
            "https://auth.docker.io/token",
            Some("registry.docker.io"),
            Some("repository:library/alpine:pull"),
            "/token?service=registry.docker.io&scope=repository%3Alibrary%2Falpine%3Apull",
        );
        check_url(
            "https://a.example/t",
            None,
            None,
            "/t?scope=repository%3Alibrary%2Falpine%3Apull",
        );
        check_url("https://a.example/t?a=b", Some("s"), Some("x"), "/t?a=b&service=s&scope=x");
        check_url("https://a.example/t", Some("s"), Some("x  y"), "/t?service=s&scope=x&scope=y");
        check_url(
            "https://a.example/t",
            Some("a&b=c #"),
            Some("x"),
            "/t?service=a%26b%3Dc+%23&scope=x",
        );
    }

    #[test]
    fn credentials_are_sent_only_if_given() {
        let url = || HttpUrl::parse("https://a.example/t").unwrap();
        let text = |secret| {
            String::from_utf8(request(url(), secret).unwrap().encode(TargetForm::Origin)).unwrap()
        };
        assert!(!text(None).contains("Authorization"));
        assert!(text(Some(Secret::from("Basic eDp5"))).contains("Authorization: Basic eDp5\r\n"));
    }

    #[track_caller]
    fn check(body: &str, expected: Result<(&str, u64), TokenError>) {
        let date = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let token = Token::parse(body.as_bytes(), Some(date));
        let token = token
            .map(|token| (token.authorization().expose().to_owned(), token.lifetime.as_secs()));
        assert_eq!(token, expected.map(|(text, seconds)| (format!("Bearer {text}"), seconds)));
    }

    #[test]
    fn answers_are_read() {
        for (body, expected) in [
            (r#"{"token":"abc"}"#, ("abc", 60)),
            (r#"{"access_token":"abc"}"#, ("abc", 60)),
            (r#"{"token":"abc","access_token":"def","expires_in":300}"#, ("abc", 300)),
            (r#"{"token":"","access_token":"def"}"#, ("def", 60)),
            (r#"{"token":null,"access_token":"def","x":[]}"#, ("def", 60)),
            (r#"{"token":"a.b-c_d~e+f/g==","expires_in":3600}"#, ("a.b-c_d~e+f/g==", 3600)),
            (r#"{"token":"abc","expires_in":5}"#, ("abc", 60)),
            (r#"{"token":"abc","expires_in":-5}"#, ("abc", 60)),
            (r#"{"token":"abc","expires_in":"300"}"#, ("abc", 60)),
            (r#"{"token":"abc","expires_in":18446744073709551615}"#, ("abc", 86400)),
            // Issued 100 s before, in the future, at no time.
            (
                r#"{"token":"abc","expires_in":300,"issued_at":"1994-11-06T08:47:57Z"}"#,
                ("abc", 200),
            ),
            (r#"{"token":"abc","expires_in":300,"issued_at":"1994-11-06T08:40:00Z"}"#, ("abc", 60)),
            (
                r#"{"token":"abc","expires_in":300,"issued_at":"2094-11-06T08:40:00Z"}"#,
                ("abc", 300),
            ),
            (r#"{"token":"abc","expires_in":300,"issued_at":"yesterday"}"#, ("abc", 300)),
            (r#"{"token":"abc","expires_in":300,"issued_at":7}"#, ("abc", 300)),
        ] {
            check(body, Ok(expected));
        }
        let token = Token::parse(
            br#"{"token":"abc","expires_in":300,"issued_at":"1994-11-06T08:47:57Z"}"#,
            None,
        );
        assert_eq!(token.unwrap().lifetime, Duration::from_secs(300), "no Date, no age");
    }

    #[test]
    fn answers_that_hold_no_usable_token_are_refused() {
        for (body, expected) in [
            ("{}", TokenError::Missing),
            (r#"{"token":""}"#, TokenError::Missing),
            (r#"{"token":"a b"}"#, TokenError::Malformed),
            (r#"{"token":"a\r\nX: y"}"#, TokenError::Malformed),
            (r#"{"token":"a\u0000"}"#, TokenError::Malformed),
            (r#"{"token":"a\u007f"}"#, TokenError::Malformed),
            (r#"{"token":"caf\u00e9"}"#, TokenError::Malformed),
            (r#"{"token":" abc"}"#, TokenError::Malformed),
            ("", TokenError::Json { line: 1, column: 0 }),
            ("<html>", TokenError::Json { line: 1, column: 1 }),
            (r#"{"token":1}"#, TokenError::Json { line: 1, column: 10 }),
            (r#"{"token":"a","token":"b"}"#, TokenError::Json { line: 1, column: 20 }),
        ] {
            assert_eq!(expected.class(), Class::Token);
            check(body, Err(expected));
        }
    }

    #[test]
    fn an_answer_is_limited_to_the_byte() {
        let padded = |size: usize| {
            let body = r#"{"token":"abc"}"#;
            " ".repeat(size - body.len()) + body
        };
        check(&padded(TOKEN_RESPONSE_SIZE_MAX), Ok(("abc", 60)));
        check(&padded(TOKEN_RESPONSE_SIZE_MAX + 1), Err(TokenError::TooLarge));
    }

    #[test]
    fn a_token_shows_in_no_message() {
        let token = Token::parse(br#"{"token":"CANARY"}"#, None).unwrap();
        assert!(!format!("{token:?}").contains("CANARY"));
        for body in [r#"{"token":["CANARY"]}"#, r#"{"token":"CANARY "}"#, r#"{"CANARY"}"#] {
            let error = Token::parse(body.as_bytes(), None).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("CANARY"), "{error:?}");
        }
    }
}
