//! What webpki does not tell of a certificate: its extended key usage, the size of its RSA key,
//! whether it signed itself.
//!
//! Reads DER (X.690) as far as RFC 5280 section 4.1 needs it, and decides nothing about signatures.
//! Sans-IO; any bytes may be given to it.

/// What stands in a certificate.
#[derive(Debug, Clone, Copy)]
pub(super) struct Certificate<'a> {
    issuer: &'a [u8],
    subject: &'a [u8],
    /// `SubjectPublicKeyInfo` without its tag and length.
    key: &'a [u8],
    /// The list of extensions without its tag and length; empty if there is none.
    extensions: &'a [u8],
}

/// Tags of DER (X.690 section 8).
mod tag {
    pub(super) const INTEGER: u8 = 0x02;
    pub(super) const BIT_STRING: u8 = 0x03;
    pub(super) const OCTET_STRING: u8 = 0x04;
    pub(super) const OBJECT_IDENTIFIER: u8 = 0x06;
    pub(super) const SEQUENCE: u8 = 0x30;
    /// `[0]`, explicit: the version of a certificate.
    pub(super) const VERSION: u8 = 0xa0;
    /// `[3]`, explicit: its extensions.
    pub(super) const EXTENSIONS: u8 = 0xa3;
}

/// Object identifiers, as they are encoded.
mod oid {
    /// 2.5.29.37 (RFC 5280 section 4.2.1.12).
    pub(super) const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 37];
    /// 2.5.29.37.0.
    pub(super) const ANY_USAGE: &[u8] = &[0x55, 0x1d, 37, 0];
    /// 1.3.6.1.5.5.7.3.1.
    pub(super) const SERVER_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];
    /// 1.2.840.113549.1.1.1 (RFC 8017).
    pub(super) const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
    /// 1.2.840.113549.1.1.5, 1.2.840.10045.4.1 and 1.3.14.3.2.29.
    pub(super) const WITH_SHA1: [&[u8]; 3] = [
        &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 5],
        &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1],
        &[0x2b, 14, 3, 2, 29],
    ];
    /// 1.2.840.113549.1.1.4.
    pub(super) const WITH_MD5: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 4];
}

impl<'a> Certificate<'a> {
    /// `None` if it is malformed.
    pub(super) fn parse(der: &'a [u8]) -> Option<Certificate<'a>> {
        let mut signed = Reader(Reader(der).read(tag::SEQUENCE)?);
        let mut fields = Reader(signed.read(tag::SEQUENCE)?);
        fields.read_if(tag::VERSION);
        let _serial = fields.read(tag::INTEGER)?;
        let _algorithm = fields.read(tag::SEQUENCE)?;
        let issuer = fields.read(tag::SEQUENCE)?;
        let _validity = fields.read(tag::SEQUENCE)?;
        let subject = fields.read(tag::SEQUENCE)?;
        let key = fields.read(tag::SEQUENCE)?;
        let mut extensions: &[u8] = &[];
        while let Some((tag, content)) = fields.next() {
            if tag == tag::EXTENSIONS {
                extensions = Reader(content).read(tag::SEQUENCE)?;
            }
        }
        Some(Certificate { issuer, subject, key, extensions })
    }

    /// Whether it names itself as its authority.
    pub(super) fn is_self_issued(&self) -> bool {
        self.issuer == self.subject
    }

    /// Whether `authority` has the name that this one's authority has.
    pub(super) fn is_issued_by(&self, authority: &Certificate<'_>) -> bool {
        self.issuer == authority.subject
    }

    /// Whether its extended key usage lets a server use it: it has none, or it names servers, or
    /// any purpose (RFC 5280 section 4.2.1.12). One that cannot be read allows nothing.
    pub(super) fn is_for_servers(&self) -> bool {
        let mut extensions = Reader(self.extensions);
        while let Some(mut extension) = extensions.read(tag::SEQUENCE).map(Reader) {
            if extension.read(tag::OBJECT_IDENTIFIER) != Some(oid::EXTENDED_KEY_USAGE) {
                continue;
            }
            // Between the name and the value there may be a `critical`.
            let value = std::iter::from_fn(|| extension.next())
                .find(|(tag, _)| *tag == tag::OCTET_STRING)
                .and_then(|(_, value)| Reader(value).read(tag::SEQUENCE));
            let mut purposes = Reader(value.unwrap_or_default());
            return std::iter::from_fn(|| purposes.read(tag::OBJECT_IDENTIFIER))
                .any(|purpose| purpose == oid::SERVER_AUTH || purpose == oid::ANY_USAGE);
        }
        true
    }

    /// The length of its RSA key in bits; `None` if it has another key.
    pub(super) fn rsa_bits(&self) -> Option<usize> {
        let mut key = Reader(self.key);
        let mut algorithm = Reader(key.read(tag::SEQUENCE)?);
        if algorithm.read(tag::OBJECT_IDENTIFIER)? != oid::RSA {
            return None;
        }
        // The first byte counts the unused bits at the end: none.
        let key = key.read(tag::BIT_STRING)?.strip_prefix(&[0])?;
        let modulus = Reader(Reader(key).read(tag::SEQUENCE)?).read(tag::INTEGER)?;
        let zeros = modulus.iter().take_while(|byte| **byte == 0).count();
        let modulus = &modulus[zeros..];
        let unused = modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
        Some(modulus.len() * 8 - unused)
    }
}

/// In what way a signature is made, of an `AlgorithmIdentifier` without its tag and length.
pub(super) enum Signature {
    /// With a hash that can be forged: its name.
    Broken(&'static str),
    /// With this algorithm, in the usual notation: `1.2.840.113549.1.1.11`.
    Other(String),
}

impl Signature {
    pub(super) fn of(algorithm: &[u8]) -> Signature {
        let named = Reader(algorithm).read(tag::OBJECT_IDENTIFIER).unwrap_or_default();
        if oid::WITH_SHA1.contains(&named) {
            return Signature::Broken("SHA-1");
        }
        if named == oid::WITH_MD5 {
            return Signature::Broken("MD5");
        }
        Signature::Other(dotted(named))
    }
}

/// The usual notation of an object identifier (X.690 section 8.19).
fn dotted(identifier: &[u8]) -> String {
    let mut numbers = Vec::new();
    let mut number: u64 = 0;
    for byte in identifier {
        number = (number << 7) | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            if numbers.is_empty() {
                let first = (number / 40).min(2);
                numbers.push(first.to_string());
                number -= first * 40;
            }
            numbers.push(number.to_string());
            number = 0;
        }
    }
    numbers.join(".")
}

/// What is left of some DER.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// The next element: its tag and its content; `None` at the end, and before what is malformed.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            // The length takes so many bytes. Four are 4 GiB; none is BER.
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    /// The content of the next element, which must have this tag.
    fn read(&mut self, expected: u8) -> Option<&'a [u8]> {
        self.next().filter(|(tag, _)| *tag == expected).map(|(_, content)| content)
    }

    /// Skips the next element if it has this tag.
    fn read_if(&mut self, expected: u8) {
        if self.0.first() == Some(&expected) {
            self.next();
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair};

    use super::*;

    fn parameters(purposes: &[ExtendedKeyUsagePurpose]) -> CertificateParams {
        let mut parameters = CertificateParams::new(vec!["registry.test".to_owned()]).unwrap();
        parameters.extended_key_usages = purposes.to_vec();
        parameters
    }

    #[test]
    fn the_extended_key_usage_is_read() {
        use ExtendedKeyUsagePurpose::{Any, ClientAuth, EmailProtection, ServerAuth};
        for (purposes, expected) in [
            (&[][..], true),
            (&[ServerAuth], true),
            (&[ClientAuth, ServerAuth], true),
            (&[Any], true),
            (&[ClientAuth], false),
            (&[ClientAuth, EmailProtection], false),
        ] {
            let key = KeyPair::generate().unwrap();
            let certificate = parameters(purposes).self_signed(&key).unwrap();
            let parsed = Certificate::parse(certificate.der()).unwrap();
            assert_eq!(parsed.is_for_servers(), expected, "{purposes:?}");
            assert!(parsed.is_self_issued());
            assert_eq!(parsed.rsa_bits(), None);
        }
    }

    #[test]
    fn who_signed_it_is_read() {
        let (key, authority_key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let mut authority = parameters(&[]);
        let name = rcgen::DnType::CommonName;
        authority.distinguished_name.push(name, "an authority");
        let authority_certificate = authority.self_signed(&authority_key).unwrap();
        let issuer = Issuer::new(authority, authority_key);
        let certificate = parameters(&[]).signed_by(&key, &issuer).unwrap();
        let parsed = Certificate::parse(certificate.der()).unwrap();
        let parent = Certificate::parse(authority_certificate.der()).unwrap();
        assert!(!parsed.is_self_issued() && parsed.is_issued_by(&parent));
        assert!(!parent.is_issued_by(&parsed));
    }

    #[test]
    fn algorithms_have_names() {
        let of = |bytes: &[u8]| match Signature::of(bytes) {
            Signature::Broken(name) => name.to_owned(),
            Signature::Other(text) => text,
        };
        assert_eq!(of(b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x05\x05\x00"), "SHA-1");
        assert_eq!(of(b"\x06\x07\x2a\x86\x48\xce\x3d\x04\x01"), "SHA-1");
        assert_eq!(
            of(b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b\x05\x00"),
            "1.2.840.113549.1.1.11"
        );
        assert_eq!(of(b"\x06\x03\x2b\x65\x71"), "1.3.101.113");
        assert_eq!(of(b""), "");
    }

    #[test]
    fn any_bytes_are_read_without_harm() {
        let key = KeyPair::generate().unwrap();
        let certificate =
            parameters(&[ExtendedKeyUsagePurpose::ClientAuth]).self_signed(&key).unwrap();
        let whole = certificate.der().to_vec();
        let read = |bytes: &[u8]| {
            if let Some(parsed) = Certificate::parse(bytes) {
                let _ = (parsed.is_for_servers(), parsed.rsa_bits(), parsed.is_self_issued());
            }
        };
        for cut in 0..whole.len() {
            read(&whole[..cut]);
        }
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..20_000 {
            let mut spoilt = whole.clone();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(..spoilt.len());
                spoilt[at] = random.u8(..);
            }
            read(&spoilt);
        }
    }
}
