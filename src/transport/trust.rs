//! Whom to trust: the usual verification by webpki, the exceptions that the user asked for, and every
//! refusal in words.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};

use super::certificate::{Certificate, Signature};
use super::tls::TlsConfigError;

/// Shortest RSA key that is trusted, in bits: what webpki's algorithms take.
const RSA_BITS_MIN: usize = 2048;

/// Verifies as usual, with exceptions that the user asked for. Signatures are always verified, so
/// that every handshake is a real one.
#[derive(Debug)]
pub(super) struct Verifier {
    usual: Arc<WebPkiServerVerifier>,
    provider: Arc<CryptoProvider>,
    exceptions: Exceptions,
}

/// Which certificates are taken besides.
#[derive(Debug)]
pub(super) enum Exceptions {
    /// Those that are named themselves, by `--ca-file` or among the system's: such a certificate is
    /// trusted whoever signed it, and whether or not it is an authority's, as curl (which sets
    /// OpenSSL's partial chains) and Go have it. Its time, its use and its names count.
    Named(Vec<CertificateDer<'static>>),
    /// Any (`--insecure`).
    Any,
}

/// A refusal for which rustls has no error of its own, in words.
#[derive(Debug)]
struct Refusal(String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

fn refused(words: impl Into<String>) -> rustls::Error {
    let refusal = Arc::new(Refusal(words.into()));
    rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(refusal)))
}

impl Verifier {
    pub(super) fn new(
        roots: &Arc<RootCertStore>,
        provider: &Arc<CryptoProvider>,
        exceptions: Exceptions,
    ) -> Result<Verifier, TlsConfigError> {
        let builder =
            WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider));
        let usual = builder
            .build()
            .map_err(|error| TlsConfigError::Setup(rustls::Error::General(error.to_string())))?;
        Ok(Verifier { usual, provider: Arc::clone(provider), exceptions })
    }

    /// The verdict on a certificate that is trusted by name: only what it says of itself counts.
    fn verify_named(
        &self,
        end_entity: &CertificateDer<'_>,
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let malformed = || rustls::Error::InvalidCertificate(CertificateError::BadEncoding);
        let parsed = webpki::EndEntityCert::try_from(end_entity).map_err(|_| malformed())?;
        let facts = Certificate::parse(end_entity).ok_or_else(malformed)?;
        // Without any authority, what is found is what does not depend on one: first the time.
        let alone = parsed.verify_for_usage(
            self.provider.signature_verification_algorithms.all,
            &[],
            &[],
            now,
            webpki::KeyUsage::server_auth(),
            None,
            None,
        );
        match alone.map(drop) {
            Ok(())
            | Err(
                webpki::Error::UnknownIssuer
                | webpki::Error::CaUsedAsEndEntity
                // Judged below, for authorities, too.
                | webpki::Error::RequiredEkuNotFoundContext(_)
                | webpki::Error::EmptyEkuExtension,
            ) => {}
            Err(webpki::Error::CertExpired { time, not_after }) => {
                return Err(CertificateError::ExpiredContext { time, not_after }.into());
            }
            Err(webpki::Error::CertNotValidYet { time, not_before }) => {
                return Err(CertificateError::NotValidYetContext { time, not_before }.into());
            }
            Err(other) => return Err(refused(of_webpki(&other))),
        }
        if !facts.is_for_servers() {
            return Err(CertificateError::InvalidPurpose.into());
        }
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, name)?;
        Ok(ServerCertVerified::assertion())
    }

    /// Whether a certificate is refused for nothing but that it is its own authority, and none is
    /// known to us. (Its names alone do not say so: an authority may have the same one.)
    fn is_self_signed(&self, end_entity: &CertificateDer<'_>, now: UnixTime) -> bool {
        let Ok(anchor) = webpki::anchor_from_trusted_cert(end_entity) else { return false };
        let verified = webpki::EndEntityCert::try_from(end_entity).map(|parsed| {
            let algorithms = self.provider.signature_verification_algorithms.all;
            let usage = webpki::KeyUsage::server_auth();
            parsed.verify_for_usage(algorithms, &[anchor], &[], now, usage, None, None).is_ok()
        });
        verified.unwrap_or(false)
    }

    /// Says more than webpki does about the refusal of a certificate.
    fn explain(
        &self,
        error: rustls::Error,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> rustls::Error {
        let rustls::Error::InvalidCertificate(reason) = &error else { return error };
        let Some(facts) = Certificate::parse(end_entity) else { return error };
        match reason {
            CertificateError::UnknownIssuer if self.is_self_signed(end_entity, now) => {
                refused("it is a self-signed one (--ca-file FILE trusts it)")
            }
            CertificateError::BadSignature => {
                let sent = std::iter::once(end_entity).chain(intermediates);
                let sent: Vec<_> = sent.filter_map(|der| Certificate::parse(der)).collect();
                let named = match &self.exceptions {
                    Exceptions::Named(named) => &named[..],
                    Exceptions::Any => &[],
                };
                let named = named.iter().filter_map(|der| Certificate::parse(der));
                let signed =
                    named.filter(|authority| sent.iter().any(|one| one.is_issued_by(authority)));
                let bits = signed.chain(sent.iter().copied()).filter_map(|one| one.rsa_bits());
                match bits.min().filter(|bits| *bits < RSA_BITS_MIN) {
                    Some(bits) => refused(short_key(bits)),
                    None => error,
                }
            }
            _ => match webpki_error(reason) {
                Some(webpki::Error::CaUsedAsEndEntity) => refused(match facts.is_self_issued() {
                    true => "it is a self-signed one (--ca-file FILE trusts it)",
                    // Firefox refuses these, too. Without that check, whoever has a server's
                    // certificate by mistake marked so could make others.
                    false => {
                        "it is marked as an authority's (CA:TRUE), and no server's may be \
                         (--ca-file FILE with this very certificate trusts it)"
                    }
                }),
                _ => error,
            },
        }
    }

    /// Says more about a signature of the handshake that is wrong.
    fn explain_signature(error: rustls::Error, certificate: &CertificateDer<'_>) -> rustls::Error {
        let short =
            || Certificate::parse(certificate)?.rsa_bits().filter(|bits| *bits < RSA_BITS_MIN);
        match (&error, short()) {
            (rustls::Error::InvalidCertificate(CertificateError::BadSignature), Some(bits)) => {
                refused(short_key(bits))
            }
            _ => error,
        }
    }
}

fn short_key(bits: usize) -> String {
    format!("an RSA key of {bits} bits is too short, {RSA_BITS_MIN} are needed")
}

/// The error of webpki for which rustls has none of its own.
fn webpki_error(reason: &CertificateError) -> Option<&webpki::Error> {
    match reason {
        CertificateError::Other(OtherError(other)) => other.downcast_ref(),
        _ => None,
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let named = match &self.exceptions {
            Exceptions::Any => return Ok(ServerCertVerified::assertion()),
            Exceptions::Named(named) => named,
        };
        if named.iter().any(|named| named == end_entity) {
            return self.verify_named(end_entity, server_name, now);
        }
        let usual = &self.usual;
        usual
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            .map_err(|error| self.explain(error, end_entity, intermediates, now))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual
            .verify_tls12_signature(message, certificate, signature)
            .map_err(|error| Verifier::explain_signature(error, certificate))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual
            .verify_tls13_signature(message, certificate, signature)
            .map_err(|error| Verifier::explain_signature(error, certificate))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}

/// Why a certificate is not trusted, to stand behind "the certificate is not trusted: ".
pub(super) fn words(reason: &CertificateError) -> String {
    let fixed = match reason {
        CertificateError::UnknownIssuer => {
            "it is signed by an unknown authority (--ca-file FILE adds one)"
        }
        CertificateError::ExpiredContext { not_after, .. } => {
            return format!("it has expired{}", date(*not_after));
        }
        CertificateError::NotValidYetContext { not_before, .. } => {
            return format!("it is not valid yet{}", date(*not_before));
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            let host = expected.to_str();
            if presented.is_empty() {
                return format!(
                    "it names no host at all (no subjectAltName; a common name does not count), and \
                     so not {host}"
                );
            }
            let names: Vec<&str> = presented.iter().map(|name| inner(name)).collect();
            return format!("it is for {}, and not for {host}", names.join(", "));
        }
        CertificateError::UnsupportedSignatureAlgorithmContext {
            signature_algorithm_id, ..
        } => {
            return match Signature::of(signature_algorithm_id) {
                Signature::Broken(hash) => {
                    format!("it is signed with {hash}, which can be forged")
                }
                Signature::Other(algorithm) => {
                    format!("it is signed with an algorithm that is not supported ({algorithm})")
                }
            };
        }
        CertificateError::Other(OtherError(other)) => {
            return match (other.downcast_ref(), other.downcast_ref::<Refusal>()) {
                (Some(error), _) => of_webpki(error),
                (_, Some(refusal)) => refusal.to_string(),
                _ => "it cannot be verified".to_owned(),
            };
        }
        CertificateError::Expired => "it has expired",
        CertificateError::NotValidYet => "it is not valid yet",
        CertificateError::NotValidForName => "it is for another name",
        CertificateError::BadEncoding => "it is malformed",
        CertificateError::Revoked => "it was revoked",
        CertificateError::UnhandledCriticalExtension => {
            "it has a critical extension that is not understood"
        }
        CertificateError::BadSignature => {
            "its signature is wrong: it was changed, or an authority of the same name but with another \
             key has signed it"
        }
        CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "its signature is of another kind than the key of its authority"
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "it is not for servers (its extended key usage lacks server authentication)"
        }
        _ => "it cannot be verified",
    };
    fixed.to_owned()
}

/// What webpki says, in words.
fn of_webpki(error: &webpki::Error) -> String {
    let fixed = match error {
        webpki::Error::CaUsedAsEndEntity => "it is an authority's",
        webpki::Error::EndEntityUsedAsCa => {
            "the one that signed it is no authority's (it is not marked CA:TRUE)"
        }
        webpki::Error::PathLenConstraintViolated => {
            "there are more authorities between it and its root than the root allows (path length)"
        }
        webpki::Error::NameConstraintViolation => {
            "its authority may not sign for this name (name constraints)"
        }
        webpki::Error::EmptyEkuExtension => "its extended key usage is empty",
        webpki::Error::InvalidCertValidity => "its time ends before it begins",
        webpki::Error::UnsupportedCriticalExtension => {
            "it has a critical extension that is not understood"
        }
        webpki::Error::UnsupportedCertVersion => "it is not of version 3 of X.509",
        webpki::Error::SignatureAlgorithmMismatch => "it names two ways in which it is signed",
        webpki::Error::CertDistrusted => "its authority is distrusted",
        webpki::Error::MaximumPathBuildCallsExceeded
        | webpki::Error::MaximumPathDepthExceeded
        | webpki::Error::MaximumSignatureChecksExceeded
        | webpki::Error::MaximumNameConstraintComparisonsExceeded => {
            "too many certificates stand between it and a trusted one"
        }
        _ => "it is malformed",
    };
    fixed.to_owned()
}

/// The text in `DnsName("registry.test")`, which is how webpki lists names.
fn inner(name: &str) -> &str {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(name).trim_matches('"')
}

/// " (2020-01-01T00:00:00Z)"; nothing, if it is no date that is written so.
fn date(time: UnixTime) -> String {
    /// The last second of the year 9999.
    const LAST: u64 = 253_402_300_799;
    let seconds = time.as_secs();
    let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    match at.filter(|_| seconds <= LAST) {
        Some(at) => format!(" ({})", humantime::format_rfc3339_seconds(at)),
        None => String::new(),
    }
}
