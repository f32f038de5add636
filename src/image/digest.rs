//! Content digests (OCI image-spec, `descriptor.md`, section "Digests").

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest;

use super::shown::shown;

/// A digest algorithm that ringpull can compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256: 32 bytes.
    Sha256,
    /// SHA-512: 64 bytes.
    Sha512,
}

impl Algorithm {
    /// The registered name, as it stands before the colon and in `blobs/<name>/`.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }

    /// Length of the digest in bytes.
    pub fn size(self) -> usize {
        match self {
            Algorithm::Sha256 => 32,
            Algorithm::Sha512 => 64,
        }
    }

    /// A hasher that has seen no byte yet.
    pub fn hasher(self) -> Hasher {
        let context = match self {
            Algorithm::Sha256 => digest::Context::new(&digest::SHA256),
            Algorithm::Sha512 => digest::Context::new(&digest::SHA512),
        };
        Hasher { algorithm: self, context }
    }
}

/// The digest of some content: an algorithm and exactly its number of bytes.
///
/// [`Digest::parse`] and [`Hasher::finish`] are the only ways to one, so a file name made from it
/// cannot leave its directory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    /// The digest, followed by zeros up to the longest algorithm's size.
    bytes: [u8; 64],
}

/// Why a text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// There is no `algorithm:` before the hexadecimal part.
    #[error("digest `{0}` has no algorithm: write it as sha256:<64 hexadecimal digits>")]
    NoAlgorithm(String),
    /// The algorithm is none of [`Algorithm`].
    #[error("digest `{0}` uses an unsupported algorithm: sha256 and sha512 are supported")]
    Unsupported(String),
    /// Not exactly the algorithm's number of lowercase hexadecimal digits.
    #[error(
        "digest `{text}` is malformed: {algorithm} takes {digits} lowercase hexadecimal digits"
    )]
    Malformed {
        /// The text, escaped and shortened.
        text: String,
        /// Name of the algorithm.
        algorithm: &'static str,
        /// Number of digits it takes.
        digits: usize,
    },
}

impl Digest {
    /// Parses `sha256:<64 lowercase hex digits>` or `sha512:<128 lowercase hex digits>`.
    pub fn parse(text: &str) -> Result<Digest, DigestError> {
        let Some((name, hex_digits)) = text.split_once(':') else {
            return Err(DigestError::NoAlgorithm(shown(text)));
        };
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            _ => return Err(DigestError::Unsupported(shown(text))),
        };
        let malformed = || DigestError::Malformed {
            text: shown(text),
            algorithm: algorithm.name(),
            digits: algorithm.size() * 2,
        };
        // `hex` accepts upper case, the specification does not.
        if hex_digits.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(malformed());
        }
        let mut bytes = [0; 64];
        hex::decode_to_slice(hex_digits, &mut bytes[..algorithm.size()])
            .map_err(|_| malformed())?;
        Ok(Digest { algorithm, bytes })
    }

    /// The digest of `content`.
    pub fn of(algorithm: Algorithm, content: &[u8]) -> Digest {
        let mut hasher = algorithm.hasher();
        hasher.update(content);
        hasher.finish()
    }

    /// The algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The digest's bytes: 32 or 64.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.algorithm.size()]
    }

    /// The hexadecimal part: 64 or 128 lowercase digits. Safe as a file name.
    pub fn hex(&self) -> String {
        hex::encode(self.bytes())
    }

    /// The first twelve hexadecimal digits, as docker prints layers.
    pub fn short(&self) -> String {
        hex::encode(&self.bytes[..6])
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Digest, DigestError> {
        Digest::parse(text)
    }
}

/// Computes a digest from bytes in the order of the content.
#[derive(Clone)]
pub struct Hasher {
    algorithm: Algorithm,
    context: digest::Context,
}

impl Hasher {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
    }

    /// The digest of all bytes taken.
    pub fn finish(self) -> Digest {
        let value = self.context.finish();
        let mut bytes = [0; 64];
        let size = self.algorithm.size();
        bytes[..size].copy_from_slice(&value.as_ref()[..size]);
        Digest { algorithm: self.algorithm, bytes }
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hasher").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_digest_survives_its_text() {
        let digest = Digest::of(Algorithm::Sha256, b"");
        assert_eq!(digest.to_string(), EMPTY);
        assert_eq!(Digest::parse(EMPTY), Ok(digest));
        assert_eq!(digest.short(), "e3b0c44298fc");
        let long = Digest::of(Algorithm::Sha512, b"abc");
        assert_eq!(Digest::parse(&long.to_string()), Ok(long));
        assert_eq!(long.bytes().len(), 64);
    }

    #[test]
    fn what_is_not_exactly_a_digest_is_refused() {
        let upper = EMPTY.to_uppercase().replace("SHA256", "sha256");
        let long = format!("{EMPTY}0");
        for text in [
            "",
            "sha256",
            "sha256:",
            "sha256:../../etc/passwd",
            "md5:d41d8cd98f00b204e9800998ecf8427e",
            &EMPTY[..70],
            &long,
            &upper,
            &format!(" {EMPTY}"),
            &EMPTY.replace("sha256", "sha512"),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b85\u{e9}",
        ] {
            assert!(Digest::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_a_peer_sent_is_shown_escaped_and_short() {
        let error = Digest::parse(&format!("x\u{1b}[31m{}", "y".repeat(500))).unwrap_err();
        let text = error.to_string();
        assert!(!text.contains('\u{1b}') && text.len() < 200, "{text}");
    }
}
