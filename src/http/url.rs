//! The URLs that ringpull follows: `http` and `https`, and nothing a parser could read in two ways.

use std::fmt;

use ::url::{Position, Url};

use super::error::shown;
use crate::error::Class;
use crate::limits::URL_SIZE_MAX;
use crate::origin::{Origin, OriginError, Scheme};

/// An absolute `http` or `https` URL without user information and fragment.
///
/// [`HttpUrl::parse`] and [`HttpUrl::join`] are the only ways to one. Below them is the WHATWG
/// parser, which repairs what it can: it drops tabs and line breaks, reads `\` as `/`, and finds a
/// host in `https:host`. What it would repair is refused here, because a server, a proxy or a filter
/// may read it otherwise.
///
/// `Display` and `Debug` hide the query, in which signed URLs carry their signature: `…?…`. Only
/// the keys of the token protocol are shown, and the `ns` of mirrors.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct HttpUrl {
    url: Url,
    origin: Origin,
}

/// Why a text is not a URL that ringpull follows. Holds nothing that could be secret in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Nothing.
    #[error("the URL is empty")]
    Empty,
    /// Longer than [`URL_SIZE_MAX`], as it is written or with everything escaped that must be.
    #[error("the URL has {size} bytes; at most {URL_SIZE_MAX} are accepted")]
    TooLong {
        /// Its length in bytes.
        size: usize,
    },
    /// White space, a control character or a backslash.
    #[error("the URL contains the character {0:?}")]
    Character(char),
    /// No scheme, and nothing it could be relative to.
    #[error("the URL does not begin with http:// or https://")]
    Relative,
    /// A scheme other than http and https.
    #[error("the URL has the scheme `{0}`: only http and https are supported")]
    Scheme(String),
    /// Nothing between the slashes.
    #[error("the URL has no host")]
    NoHost,
    /// `user:password@`, even if empty: it hides the host from people, and it is no place for
    /// credentials.
    #[error("the URL has user information (`user@`) before its host")]
    UserInfo,
    /// A percent sign in the host: an IPv6 zone id, or a name in disguise.
    #[error("the host of the URL contains a percent sign")]
    EscapedHost,
    /// A host that is neither a name nor an address, or port 0.
    #[error("the URL cannot be used: {0}")]
    Origin(#[from] OriginError),
    /// Anything else that the URL parser refuses.
    #[error("the URL is malformed: {0}")]
    Syntax(#[from] ::url::ParseError),
}

impl UrlError {
    /// The class of a URL that a *user* wrote; for one that a peer sent, the caller knows better (a
    /// redirect, a realm).
    pub fn class(&self) -> Class {
        Class::Usage
    }
}

impl HttpUrl {
    /// Parses an absolute URL. A fragment is dropped: it is never sent (RFC 9110 section 7.1).
    pub fn parse(text: &str) -> Result<HttpUrl, UrlError> {
        check_text(text)?;
        let (scheme, rest) = split_scheme(text).ok_or(UrlError::Relative)?;
        if !["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
            return Err(UrlError::Scheme(shown(scheme)));
        }
        let rest = rest.strip_prefix("//").ok_or(UrlError::NoHost)?;
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if authority.contains('@') {
            return Err(UrlError::UserInfo);
        }
        if authority.contains('%') {
            return Err(UrlError::EscapedHost);
        }
        if authority.is_empty() || authority.starts_with(':') {
            return Err(UrlError::NoHost);
        }
        HttpUrl::new(Url::parse(text)?)
    }

    /// The URL that `location`, a reference in an answer to a request for this one, leads to (RFC
    /// 9110 section 10.2.2). Whether to go there is not decided here.
    pub fn join(&self, location: &str) -> Result<HttpUrl, UrlError> {
        check_text(location)?;
        // What names a host must pass the same gate as any other URL.
        if split_scheme(location).is_some() {
            return HttpUrl::parse(location);
        }
        if location.starts_with("//") {
            return HttpUrl::parse(&format!("{}:{location}", self.origin.scheme()));
        }
        HttpUrl::new(self.url.join(location)?)
    }

    /// Wraps what the parser made of a text that has been checked.
    fn new(mut url: Url) -> Result<HttpUrl, UrlError> {
        let scheme = match url.scheme() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            other => return Err(UrlError::Scheme(shown(other))),
        };
        url.set_fragment(None);
        let host = url.host_str().ok_or(UrlError::NoHost)?;
        let origin = Origin::new(scheme, host, url.port().unwrap_or(scheme.default_port()))?;
        let url = HttpUrl { url, origin };
        // Escaped, a text may be three times as long.
        match url.absolute().len() {
            size if size > URL_SIZE_MAX => Err(UrlError::TooLong { size }),
            _ => Ok(url),
        }
    }

    /// Scheme, host and port.
    pub fn origin(&self) -> Origin {
        self.origin.clone()
    }

    /// The path, percent-encoded; begins with `/`.
    pub fn path(&self) -> &str {
        self.url.path()
    }

    /// The request target in origin form (RFC 9112 section 3.2.1): path and query. Not redacted.
    pub fn path_and_query(&self) -> &str {
        &self.url[Position::BeforePath..Position::AfterQuery]
    }

    /// The request target in absolute form (RFC 9112 section 3.2.2). Not redacted.
    pub fn absolute(&self) -> String {
        format!("{}{}", self.origin, self.path_and_query())
    }

    /// This URL with `pairs` added at the end of its query, percent-encoded.
    pub fn with_query_pairs<'a>(
        &self,
        pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> HttpUrl {
        let mut added = self.clone();
        // The URL library would leave a bare `?` behind if there is nothing to add.
        let mut pairs = pairs.into_iter().peekable();
        if pairs.peek().is_some() {
            added.url.query_pairs_mut().extend_pairs(pairs);
        }
        added
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Longer than any path of the distribution protocol: a name of 255, a digest of 135.
        const PATH_SHOWN_MAX: usize = 512;
        // Keys whose values name things, and open none.
        const HARMLESS: [&str; 3] = ["service", "scope", "ns"];

        write!(f, "{}", self.origin)?;
        match self.path().get(..PATH_SHOWN_MAX) {
            Some(start) => write!(f, "{start}…")?,
            None => f.write_str(self.path())?,
        }
        let Some(query) = self.url.query() else { return Ok(()) };
        let harmless = |pair: &&str| HARMLESS.contains(&pair.split('=').next().unwrap_or_default());
        let mut separator = '?';
        for pair in query.split('&').filter(harmless) {
            write!(f, "{separator}{}", shown(pair))?;
            separator = '&';
        }
        match query.split('&').all(|pair| harmless(&pair)) {
            true => Ok(()),
            false => write!(f, "{separator}…"),
        }
    }
}

impl fmt::Debug for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpUrl({self})")
    }
}

/// Refuses what the URL parser would drop or repair without a word.
fn check_text(text: &str) -> Result<(), UrlError> {
    if text.is_empty() {
        return Err(UrlError::Empty);
    }
    if text.len() > URL_SIZE_MAX {
        return Err(UrlError::TooLong { size: text.len() });
    }
    match text.chars().find(|c| c.is_control() || c.is_whitespace() || *c == '\\') {
        Some(character) => Err(UrlError::Character(character)),
        None => Ok(()),
    }
}

/// The scheme and what follows its colon (RFC 3986 section 3.1); `None` if the text is a relative
/// reference, in whose first segment there is no colon.
fn split_scheme(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once(':')?;
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    is_scheme.then_some((scheme, rest))
}
