//! Where the user wants an image: the default store, or a directory named as `oci:DIR[:TAG]`.

use std::path::PathBuf;

use etcetera::BaseStrategy;

use crate::error::Class;

/// The prefix of the only form there is.
const OCI: &str = "oci:";

/// Name of the default store in the user's data directory.
const DEFAULT_STORE: &str = "ringpull";

/// Longest tag (distribution-spec, section "Pulling manifests"), in characters.
const TAG_SIZE_MAX: usize = 128;

/// Where an image is to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// The default store, shared by all pulls. An image's name in it is its full reference.
    Default {
        /// `$XDG_DATA_HOME/ringpull`.
        path: PathBuf,
    },
    /// A layout the user named. An image's name in it is the tag.
    Layout {
        /// The directory, as typed.
        path: PathBuf,
        /// The tag to store the image under; without one, that of the image's reference.
        tag: Option<String>,
    },
}

/// Why a destination cannot be used. All of these are the user's to mend ([`Class::Usage`]).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DestinationError {
    /// A transport of other tools, or no transport at all.
    #[error(
        "destination {0:?} is not supported: write oci:DIR or oci:DIR:TAG{hint}, or leave it out \
         for the default store",
        hint = oci_form(.0)
    )]
    Unsupported(String),
    /// Nothing between `oci:` and the end or the tag.
    #[error("destination {0:?} names no directory: write oci:DIR or oci:DIR:TAG")]
    NoDirectory(String),
    /// Something behind the directory that is not a tag.
    #[error(
        "destination {0:?}: what follows the second colon is not a tag: write oci:DIR:TAG \
         with a TAG of letters, digits, `_`, `.` and `-` (at most 128, the first one no `.` or \
         `-`), and a DIR without a colon"
    )]
    Tag(String),
    /// There is no directory for the default store.
    #[error(
        "there is no home directory for the default store: set HOME, or name a \
         destination as oci:DIR"
    )]
    NoHome,
}

impl DestinationError {
    /// The class of the failure.
    pub fn class(&self) -> Class {
        Class::Usage
    }
}

impl Destination {
    /// The destination that was asked for, or the default store if none was.
    pub fn from_option(text: Option<&str>) -> Result<Destination, DestinationError> {
        text.map_or_else(Destination::default_store, Destination::parse)
    }

    /// Parses `oci:DIR[:TAG]`. As for other tools, DIR holds no colon.
    pub fn parse(text: &str) -> Result<Destination, DestinationError> {
        let Some(rest) = text.strip_prefix(OCI) else {
            return Err(DestinationError::Unsupported(text.to_owned()));
        };
        let (directory, tag) = match rest.split_once(':') {
            Some((directory, tag)) => (directory, Some(tag)),
            None => (rest, None),
        };
        if directory.is_empty() {
            return Err(DestinationError::NoDirectory(text.to_owned()));
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(DestinationError::Tag(text.to_owned()));
        }
        Ok(Destination::Layout { path: directory.into(), tag: tag.map(str::to_owned) })
    }

    /// `$XDG_DATA_HOME/ringpull`; where that is unset or relative, `~/.local/share/ringpull`.
    pub fn default_store() -> Result<Destination, DestinationError> {
        let directories =
            etcetera::base_strategy::Xdg::new().map_err(|_| DestinationError::NoHome)?;
        Ok(Destination::Default { path: directories.data_dir().join(DEFAULT_STORE) })
    }

    /// The directory of the layout.
    pub fn path(&self) -> &std::path::Path {
        match self {
            Destination::Default { path } | Destination::Layout { path, .. } => path,
        }
    }
}

/// How a path is to be written, if the text is one.
fn oci_form(text: &str) -> String {
    match text.starts_with(['.', '/']) {
        true => format!(" (here {OCI}{text})"),
        false => String::new(),
    }
}

/// `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`
fn is_tag(text: &str) -> bool {
    let is_first = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.len() <= TAG_SIZE_MAX
        && text.bytes().next().is_some_and(is_first)
        && text.bytes().all(|byte| is_first(byte) || matches!(byte, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_and_perhaps_a_tag() {
        let longest = "x".repeat(TAG_SIZE_MAX);
        for (text, directory, tag) in [
            ("oci:images", "images", None),
            ("oci:/srv/my images/", "/srv/my images/", None),
            ("oci:.", ".", None),
            ("oci:images:latest", "images", Some("latest")),
            ("oci:../a:_1.2-3", "../a", Some("_1.2-3")),
            (&format!("oci:a:{longest}"), "a", Some(longest.as_str())),
        ] {
            let expected =
                Destination::Layout { path: directory.into(), tag: tag.map(str::to_owned) };
            assert_eq!(Destination::parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn anything_else_names_the_forms_there_are() {
        let too_long = format!("oci:a:{}", "x".repeat(TAG_SIZE_MAX + 1));
        type Kind = fn(String) -> DestinationError;
        let rows: [(&str, Kind); 14] = [
            ("", DestinationError::Unsupported),
            ("images", DestinationError::Unsupported),
            ("./images:latest", DestinationError::Unsupported),
            ("OCI:images", DestinationError::Unsupported),
            ("docker-archive:image.tar", DestinationError::Unsupported),
            ("docker-daemon:alpine:latest", DestinationError::Unsupported),
            ("oci-archive:image.tar", DestinationError::Unsupported),
            ("oci:", DestinationError::NoDirectory),
            ("oci::latest", DestinationError::NoDirectory),
            ("oci:images:", DestinationError::Tag),
            ("oci:images:.x", DestinationError::Tag),
            ("oci:images:a:b", DestinationError::Tag),
            ("oci:images:sha256@x", DestinationError::Tag),
            (&too_long, DestinationError::Tag),
        ];
        for (text, kind) in rows {
            let error = Destination::parse(text).unwrap_err();
            assert_eq!(error, kind(text.to_owned()));
            assert!(error.to_string().contains("oci:DIR:TAG"), "{error}");
            assert_eq!(error.class(), Class::Usage);
        }
        let error = Destination::parse("x\u{1b}[31m").unwrap_err().to_string();
        assert!(!error.contains('\u{1b}'), "{error}");
    }

    #[test]
    fn without_a_destination_it_is_the_default_store() {
        let destination = Destination::from_option(None).unwrap();
        assert!(destination.path().ends_with("ringpull") && destination.path().is_absolute());
    }
}
