//! Image references: `alpine`, `ghcr.io/org/app:1.2`, `localhost:5000/app@sha256:…`.
//!
//! The grammar and the normalisation are Docker's (`distribution/reference`, `reference.go`,
//! `regexp.go` and `normalize.go`), so that a name means here what it means to every other tool.
//! Differences, all towards refusing:
//!
//! - an IPv6 address in brackets must be one (Docker takes any hexadecimal digits and colons);
//! - a port must be within 1 to 65535 (Docker takes any digits);
//! - a digest must be one that ringpull can verify, in lower case.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use super::Digest;
use super::digest::DigestError;
use super::shown::shown;
use crate::error::Class;
use crate::limits::{REPOSITORY_LENGTH_MAX, TAG_LENGTH_MAX};

/// The registry of names that name none.
pub const DEFAULT_REGISTRY: &str = "docker.io";

/// The name by which Docker Hub went before, and by which old configuration still calls it.
const LEGACY_DEFAULT_REGISTRY: &str = "index.docker.io";

/// Where Docker Hub keeps the images with one-word names.
const OFFICIAL_PREFIX: &str = "library/";

const DEFAULT_TAG: &str = "latest";

/// Which image: a registry, a repository in it, and a tag, a digest, or both.
///
/// Where both are given the digest decides what is fetched; the tag is only a label.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    version: Version,
}

/// What picks one manifest out of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Version {
    Tag(String),
    Digest { digest: Digest, label: Option<String> },
}

/// Why a text is not a reference. Each says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// The text is empty.
    #[error("the image name is empty: write NAME[:TAG], such as alpine:3.20")]
    Empty,
    /// The text starts with a URL scheme.
    #[error("`{scheme}` does not belong in an image name: leave it out and write `{rest}`")]
    Scheme {
        /// The scheme with its slashes.
        scheme: String,
        /// What follows it.
        rest: String,
    },
    /// A user name, and perhaps a password, stands before the registry. Neither is repeated.
    #[error(
        "`USER@` or `USER:PASSWORD@` does not belong in an image name: write `{rest}`, and log in with \
         docker or name a file of credentials with --authfile"
    )]
    UserInfo {
        /// What follows it.
        rest: String,
    },
    /// The text is 64 hexadecimal digits: an image ID.
    #[error(
        "`{0}` is an image ID, and registries know images by name: write NAME@sha256:<the digest>"
    )]
    Identifier(String),
    /// There is a registry and no repository.
    #[error("`{0}` names a registry and no image in it: write {0}/NAME[:TAG]")]
    NoRepository(String),
    /// There is no name before the tag or digest.
    #[error("`{0}` has no name before its tag or digest: write NAME[:TAG] or NAME@sha256:…")]
    NoName(String),
    /// The part before the first slash looks like a registry but is not a host.
    #[error("registry `{host}` is not a host: {reason}")]
    Registry {
        /// The host and port as they were written.
        host: String,
        /// What is wrong, and what would be right.
        reason: &'static str,
    },
    /// The repository has upper case letters.
    #[error("repository `{repository}` has upper case letters: write `{lowercase}`")]
    Uppercase {
        /// The repository as it was written.
        repository: String,
        /// The same in lower case.
        lowercase: String,
    },
    /// A part of the repository between two slashes is malformed.
    #[error(
        "`{component}` in repository `{repository}` is malformed: between slashes stand lower case \
         letters and digits, separated by `.`, `_`, `__` or dashes"
    )]
    Component {
        /// The malformed part.
        component: String,
        /// The repository as it was written.
        repository: String,
    },
    /// The repository is too long.
    #[error(
        "the repository is {length} characters long: at most {REPOSITORY_LENGTH_MAX} are allowed"
    )]
    RepositoryTooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// Nothing follows the colon.
    #[error("the tag of `{name}:` is empty: write {name}:TAG, or leave out the colon for `latest`")]
    TagEmpty {
        /// What stands before the colon.
        name: String,
    },
    /// The tag is too long.
    #[error("the tag is {length} characters long: at most {TAG_LENGTH_MAX} are allowed")]
    TagTooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// The tag has a character that tags do not have.
    #[error(
        "tag `{0}` is malformed: tags have letters, digits, `_`, `.` and `-`, and do not start with \
         `.` or `-`"
    )]
    Tag(String),
    /// What follows the `@` is not a digest.
    #[error(transparent)]
    Digest(#[from] DigestError),
}

impl ReferenceError {
    /// Always [`Class::Usage`]: references come from the user.
    pub fn class(&self) -> Class {
        Class::Usage
    }
}

impl Reference {
    /// Parses a reference as Docker does: `docker.io`, `library/` and `latest` are filled in.
    ///
    /// A digest leaves the tag as it is: `alpine@sha256:…` has none.
    pub fn parse(text: &str) -> Result<Reference, ReferenceError> {
        refuse_lookalikes(text)?;
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (text, None),
        };
        let (registry, remainder) = split_registry(name)?;
        let (path, tag) = match remainder.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (remainder, None),
        };
        if path.is_empty() {
            return Err(match registry {
                Some(registry) => ReferenceError::NoRepository(shown(registry)),
                None => ReferenceError::NoName(shown(text)),
            });
        }
        if let Some(registry) = registry {
            check_registry(registry)?;
        }
        check_repository(path)?;
        let registry = match registry {
            None | Some(LEGACY_DEFAULT_REGISTRY) => DEFAULT_REGISTRY,
            Some(registry) => registry,
        };
        let official = registry == DEFAULT_REGISTRY && !path.contains('/');
        let repository = format!("{}{path}", if official { OFFICIAL_PREFIX } else { "" });
        if repository.len() > REPOSITORY_LENGTH_MAX {
            return Err(ReferenceError::RepositoryTooLong { length: repository.len() });
        }
        if let Some(tag) = tag {
            check_tag(path, tag)?;
        }
        let version = match digest {
            Some(digest) => {
                Version::Digest { digest: Digest::parse(digest)?, label: tag.map(str::to_owned) }
            }
            None => Version::Tag(tag.unwrap_or(DEFAULT_TAG).to_owned()),
        };
        Ok(Reference { registry: registry.to_owned(), repository, version })
    }

    /// The registry as it was written, `host` or `host:port`; Docker Hub is always `docker.io`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository within the registry: `library/alpine`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag: the one given, or `latest` where neither a tag nor a digest was.
    pub fn tag(&self) -> Option<&str> {
        match &self.version {
            Version::Tag(tag) => Some(tag),
            Version::Digest { label, .. } => label.as_deref(),
        }
    }

    /// The digest, if one was given.
    pub fn digest(&self) -> Option<&Digest> {
        match &self.version {
            Version::Tag(_) => None,
            Version::Digest { digest, .. } => Some(digest),
        }
    }

    /// What stands after `/v2/<repository>/manifests/`: the digest if there is one, else the tag.
    pub fn manifest_key(&self) -> String {
        match &self.version {
            Version::Tag(tag) => tag.clone(),
            Version::Digest { digest, .. } => digest.to_string(),
        }
    }

    /// The short form that Docker shows: `alpine:latest`, `org/app:1.2`, `ghcr.io/org/app:1.2`.
    pub fn familiar(&self) -> String {
        if self.registry != DEFAULT_REGISTRY {
            return self.to_string();
        }
        // `library/a/b` keeps its prefix: `a/b` would be another repository.
        let path = match self.repository.strip_prefix(OFFICIAL_PREFIX) {
            Some(name) if !name.contains('/') => name,
            _ => &self.repository,
        };
        // And `docker.io/a.b/c` keeps its registry: `a.b/c` would be at another one.
        match split_registry(path) {
            Ok((None, _)) => format!("{path}{}", self.version),
            _ => self.to_string(),
        }
    }
}

impl fmt::Display for Reference {
    /// The full form, which parses to the same reference: `docker.io/library/alpine:latest`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}{}", self.registry, self.repository, self.version)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Version::Tag(tag) => write!(f, ":{tag}"),
            Version::Digest { digest, label: Some(tag) } => write!(f, ":{tag}@{digest}"),
            Version::Digest { digest, label: None } => write!(f, "@{digest}"),
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Reference, ReferenceError> {
        Reference::parse(text)
    }
}

/// Refuses what people write instead of a name, before the grammar finds an odder reason.
fn refuse_lookalikes(text: &str) -> Result<(), ReferenceError> {
    if text.is_empty() {
        return Err(ReferenceError::Empty);
    }
    let without_scheme = text.split_once("://").map_or(text, |(_, rest)| rest);
    if let Some((_, rest)) = without_scheme.split_once('@')
        && let Some((registry, _)) = rest.split_once('/')
        && check_registry(registry).is_ok()
    {
        return Err(ReferenceError::UserInfo { rest: shown(rest) });
    }
    if let Some((scheme, rest)) = text.split_once("://")
        && !scheme.contains('/')
    {
        return Err(ReferenceError::Scheme {
            scheme: shown(&format!("{scheme}://")),
            rest: shown(rest),
        });
    }
    if text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(ReferenceError::Identifier(text.to_owned()));
    }
    Ok(())
}

/// Splits the registry off, as `splitDockerDomain` does: what stands before the first slash is one
/// if it has a dot, a colon or an upper case letter, or is `localhost`.
fn split_registry(name: &str) -> Result<(Option<&str>, &str), ReferenceError> {
    let Some((first, rest)) = name.split_once('/') else {
        if name.starts_with('[') {
            return Err(ReferenceError::NoRepository(shown(name)));
        }
        return Ok((None, name));
    };
    let is_host = first == "localhost"
        || first.contains(['.', ':'])
        || first.chars().any(|character| character.is_uppercase());
    Ok(if is_host { (Some(first), rest) } else { (None, name) })
}

fn check_registry(registry: &str) -> Result<(), ReferenceError> {
    let refused = |reason| Err(ReferenceError::Registry { host: shown(registry), reason });
    let (host, port) = match registry.rsplit_once(':') {
        // The last colon of `[::1]` belongs to the address.
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (registry, None),
    };
    if let Some(address) = host.strip_prefix('[') {
        let address = address.strip_suffix(']').unwrap_or_default();
        // Docker's grammar has neither zones (`%eth0`) nor embedded IPv4 addresses.
        if address.contains('.') || address.parse::<Ipv6Addr>().is_err() {
            return refused("between brackets stands an IPv6 address without zone, such as [::1]");
        }
    } else if host.contains(':') {
        return refused("write an IPv6 address in brackets: [::1]:5000/NAME");
    } else if !host.split('.').all(is_host_label) {
        return refused(
            "a host name has letters, digits and dashes between its dots, and no dash at either end",
        );
    }
    match port {
        None => Ok(()),
        Some(port) if is_port(port) => Ok(()),
        Some(_) => refused("the port is a number from 1 to 65535"),
    }
}

fn is_host_label(label: &str) -> bool {
    !label.is_empty()
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// `u16::from_str` alone would take `+80`.
fn is_port(port: &str) -> bool {
    port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
}

fn check_repository(repository: &str) -> Result<(), ReferenceError> {
    if repository.chars().any(char::is_uppercase) {
        return Err(ReferenceError::Uppercase {
            repository: shown(repository),
            lowercase: shown(&repository.to_lowercase()),
        });
    }
    match repository.split('/').find(|component| !is_component(component)) {
        None => Ok(()),
        Some(component) => Err(ReferenceError::Component {
            component: shown(component),
            repository: shown(repository),
        }),
    }
}

/// Whether `component` is `[a-z0-9]+` parts joined by `.`, `_`, `__` or any number of dashes.
fn is_component(component: &str) -> bool {
    let is_word = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9');
    let bytes = component.as_bytes();
    bytes.first().is_some_and(|&byte| is_word(byte))
        && bytes.last().is_some_and(|&byte| is_word(byte))
        && bytes
            .split(|&byte| is_word(byte))
            .all(|gap| matches!(gap, b"" | b"." | b"_" | b"__") || gap.iter().all(|&b| b == b'-'))
}

fn check_tag(name: &str, tag: &str) -> Result<(), ReferenceError> {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if tag.is_empty() {
        return Err(ReferenceError::TagEmpty { name: shown(name) });
    }
    if tag.len() > TAG_LENGTH_MAX {
        return Err(ReferenceError::TagTooLong { length: tag.len() });
    }
    let well_formed = tag.bytes().all(|byte| is_word(byte) || matches!(byte, b'.' | b'-'))
        && !tag.starts_with(['.', '-']);
    if well_formed { Ok(()) } else { Err(ReferenceError::Tag(shown(tag))) }
}
