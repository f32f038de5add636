//! TLS 1.2 and 1.3 by rustls, sans-IO: ciphertext in, plaintext and ciphertext out.
//!
//! Uses rustls' unbuffered interface: records are decrypted in the buffer they were received into.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    Resumption, UnbufferedClientConnection, WebPkiServerVerifier, verify_server_name,
};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{
    AlertDescription, CertificateError, CipherSuite, ClientConfig, DigitallySignedStruct,
    PeerIncompatible, RootCertStore, SignatureScheme,
};

use super::{Buffer, Error, Phase};

/// Whom to trust, checked once at the start.
#[derive(Debug, Clone, Default)]
pub struct TlsOptions {
    /// PEM files with further certificate authorities (`--ca-file`).
    pub ca_files: Vec<PathBuf>,
    /// Hosts whose certificates are not verified (`--insecure`), lower case, without port.
    pub insecure_hosts: Vec<String>,
}

/// Why the trust settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsConfigError {
    /// The file cannot be read.
    #[error("cannot read the certificates in {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file holds no usable certificate.
    #[error("{}: {reason}; a file of PEM blocks `-----BEGIN CERTIFICATE-----` is expected", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// rustls refuses the settings.
    #[error("TLS cannot be set up: {0}")]
    Setup(rustls::Error),
}

/// TLS settings shared by all connections: the roots of trust, and sessions to resume.
#[derive(Clone)]
pub struct TlsConfig {
    verifying: Arc<ClientConfig>,
    /// Present only if there are insecure hosts.
    trusting: Option<Arc<ClientConfig>>,
    insecure_hosts: Vec<String>,
    /// What of the system's certificates could not be used, for `-v`.
    notes: Vec<String>,
}

impl TlsConfig {
    /// Mozilla's roots, the system's (`SSL_CERT_FILE` and `SSL_CERT_DIR` replace those), and the
    /// files of the options.
    ///
    /// # Errors
    /// See [`TlsConfigError`]. A system store that cannot be read is a note, not an error.
    pub fn new(options: &TlsOptions) -> Result<TlsConfig, TlsConfigError> {
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        let system = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(system.certs);
        let notes = system.errors.iter().map(ToString::to_string).collect();
        let mut named = Vec::new();
        for path in &options.ca_files {
            add_file(&mut roots, &mut named, path)?;
        }
        let provider = Arc::new(provider());
        let usual = usual_verifier(roots, &provider)?;
        let verifier = |exceptions| Arc::new(Verifier { usual: Arc::clone(&usual), exceptions });
        let builder = || {
            ClientConfig::builder_with_provider(Arc::clone(&provider))
                .with_safe_default_protocol_versions()
                .map_err(TlsConfigError::Setup)
        };
        let mut verifying = builder()?
            .dangerous()
            .with_custom_certificate_verifier(verifier(Exceptions::Named(named)))
            .with_no_client_auth();
        // Not offering it keeps out of the way of servers that would switch to HTTP/2.
        verifying.alpn_protocols = vec![b"http/1.1".to_vec()];
        let trusting = if options.insecure_hosts.is_empty() {
            None
        } else {
            let mut trusting = builder()?
                .dangerous()
                .with_custom_certificate_verifier(verifier(Exceptions::Any))
                .with_no_client_auth();
            trusting.alpn_protocols = vec![b"http/1.1".to_vec()];
            // A session with an unverified peer is never resumed.
            trusting.resumption = Resumption::disabled();
            Some(Arc::new(trusting))
        };
        Ok(TlsConfig {
            verifying: Arc::new(verifying),
            trusting,
            insecure_hosts: options.insecure_hosts.clone(),
            notes,
        })
    }

    /// What of the system's certificates could not be used.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Whether the certificate of `host` (lower case) is verified.
    pub fn verifies(&self, host: &str) -> bool {
        !self.insecure_hosts.iter().any(|insecure| insecure == host)
    }

    fn for_host(&self, host: &str) -> &Arc<ClientConfig> {
        match &self.trusting {
            Some(trusting) if !self.verifies(host) => trusting,
            _ => &self.verifying,
        }
    }
}

/// rustls' cipher suites, AES with 128 bits first, as browsers and Go have it: the longer key costs
/// both sides a fifth more, and nobody breaks the shorter one.
fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    let is_short = |suite: CipherSuite| format!("{suite:?}").contains("AES_128");
    provider.cipher_suites.sort_by_key(|suite| !is_short(suite.suite()));
    provider
}

fn add_file(
    roots: &mut RootCertStore,
    named: &mut Vec<CertificateDer<'static>>,
    path: &Path,
) -> Result<(), TlsConfigError> {
    let pem = std::fs::read(path)
        .map_err(|source| TlsConfigError::Read { path: path.to_owned(), source })?;
    let unusable = |reason: String| TlsConfigError::Unusable { path: path.to_owned(), reason };
    let mut count = 0;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
        roots.add(certificate.clone()).map_err(|error| unusable(error.to_string()))?;
        named.push(certificate);
        count += 1;
    }
    if count == 0 { Err(unusable("no certificate found".to_owned())) } else { Ok(()) }
}

/// What a step of the session came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// More ciphertext is needed.
    Receive,
    /// The handshake is over, requests can be sent; more ciphertext brings more plaintext.
    Ready,
    /// The peer ended the stream with close_notify: nothing was cut off.
    Closed,
}

/// One TLS session. It holds no socket: what is to be sent is taken by
/// [`take_outgoing`](Session::take_outgoing).
pub(super) struct Session {
    connection: UnbufferedClientConnection,
    outgoing: Vec<u8>,
    closed: bool,
}

impl Session {
    pub(super) fn new(config: &TlsConfig, host: &str) -> Result<Session, Error> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| Error::Trust(format!("`{host}` cannot be the name on a certificate")))?;
        let connection = UnbufferedClientConnection::new(Arc::clone(config.for_host(host)), name)
            .map_err(|error| failed(Phase::Handshake, &error))?;
        Ok(Session { connection, outgoing: Vec::new(), closed: false })
    }

    /// Works through the ciphertext: decrypts what is whole into `plaintext`, and queues what has
    /// to be sent.
    pub(super) fn advance(
        &mut self,
        ciphertext: &mut Buffer,
        plaintext: &mut Buffer,
        phase: Phase,
    ) -> Result<Progress, Error> {
        loop {
            let before = ciphertext.filled().len();
            let UnbufferedStatus { mut discard, state, .. } =
                self.connection.process_tls_records(ciphertext.filled_mut());
            let mut progress = None;
            match state.map_err(|error| failed(phase, &error))? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(|error| failed(phase, &error))?;
                        discard += record.discard;
                        plaintext.extend(record.payload);
                    }
                }
                ConnectionState::EncodeTlsData(mut data) => {
                    grow(&mut self.outgoing, |room| match data.encode(room) {
                        Err(EncodeError::InsufficientSize(size)) => Err(size.required_size),
                        Err(EncodeError::AlreadyEncoded) => Ok(0),
                        Ok(count) => Ok(count),
                    });
                }
                // What was encoded is sent by the caller before it receives again.
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::BlockedHandshake => progress = Some(Progress::Receive),
                ConnectionState::WriteTraffic(_) => {
                    progress = Some(if self.closed { Progress::Closed } else { Progress::Ready });
                }
                ConnectionState::PeerClosed | ConnectionState::Closed => {
                    self.closed = true;
                    progress = Some(Progress::Closed);
                }
                // Early data is a server's matter, and it was never offered.
                _ => return Err(Error::Broken("an unknown state of the TLS session")),
            }
            ciphertext.consume(discard);
            if let Some(progress) = progress {
                return Ok(progress);
            }
            debug_assert!(ciphertext.filled().len() <= before);
        }
    }

    /// Encrypts `bytes` behind what is to be sent already.
    pub(super) fn encrypt(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let status = self.connection.process_tls_records(&mut []);
        let ConnectionState::WriteTraffic(mut traffic) =
            status.state.map_err(|error| failed(Phase::Send, &error))?
        else {
            return Err(Error::Broken("the TLS session cannot send now"));
        };
        let mut exhausted = false;
        grow(&mut self.outgoing, |room| match traffic.encrypt(bytes, room) {
            Err(EncryptError::InsufficientSize(size)) => Err(size.required_size),
            Err(EncryptError::EncryptExhausted) => {
                exhausted = true;
                Ok(0)
            }
            Ok(count) => Ok(count),
        });
        if exhausted {
            return Err(Error::Broken("the TLS session has used up its keys"));
        }
        Ok(())
    }

    /// What is to be sent now.
    pub(super) fn take_outgoing(&mut self) -> Bytes {
        Bytes::from(std::mem::take(&mut self.outgoing))
    }

    /// The version that was agreed on, for `-v`.
    pub(super) fn version(&self) -> &'static str {
        match self.connection.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_3) => "TLS 1.3",
            Some(rustls::ProtocolVersion::TLSv1_2) => "TLS 1.2",
            _ => "TLS",
        }
    }
}

/// Appends what `write` writes, with as much room as it asks for.
fn grow(outgoing: &mut Vec<u8>, mut write: impl FnMut(&mut [u8]) -> Result<usize, usize>) {
    let start = outgoing.len();
    // Twice at most: the first answer says how much room it takes.
    for _ in 0..2 {
        match write(&mut outgoing[start..]) {
            Ok(count) => return outgoing.truncate(start + count),
            Err(required) => outgoing.resize(start + required, 0),
        }
    }
    outgoing.truncate(start);
}

/// An error of rustls, sorted: is the peer not trusted, or does it not speak TLS properly?
fn failed(phase: Phase, error: &rustls::Error) -> Error {
    match error {
        rustls::Error::InvalidCertificate(reason) => Error::Trust(match reason {
            CertificateError::UnknownIssuer => {
                "it is signed by an unknown authority (--ca-file FILE adds one)".to_owned()
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "it has expired".to_owned()
            }
            reason if is_self_signed(reason) => {
                "it is a self-signed one (--ca-file FILE trusts it)".to_owned()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "it is not valid yet".to_owned()
            }
            other => other.to_string(),
        }),
        rustls::Error::NoCertificatesPresented => Error::Trust("there is none".to_owned()),
        // The same the next time, and no reason to speak an older one.
        rustls::Error::AlertReceived(AlertDescription::ProtocolVersion)
        | rustls::Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
        ) => Error::TlsVersion(error.to_string()),
        other => Error::Tls { phase, reason: other.to_string() },
    }
}

/// Verifies as usual, with exceptions that the user asked for. Signatures are always verified, so
/// that every handshake is a real one.
#[derive(Debug)]
struct Verifier {
    usual: Arc<WebPkiServerVerifier>,
    exceptions: Exceptions,
}

/// Which certificates are taken besides.
#[derive(Debug)]
enum Exceptions {
    /// Those that the user named themselves (`--ca-file`): one that is its own authority, as
    /// registries of one's own often have, can be named in no other way.
    Named(Vec<CertificateDer<'static>>),
    /// Any (`--insecure`).
    Any,
}

/// The usual verification against these roots.
fn usual_verifier(
    roots: RootCertStore,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, TlsConfigError> {
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map_err(|error| TlsConfigError::Setup(rustls::Error::General(error.to_string())))
}

/// Whether a certificate was refused only because it is an authority's. That is found last, after
/// its time and its use were found right.
fn is_self_signed(reason: &CertificateError) -> bool {
    // rustls hands this error of webpki on without a name of its own.
    matches!(reason, CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity"))
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
        let usual = self.usual.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        match &usual {
            Err(rustls::Error::InvalidCertificate(reason))
                if is_self_signed(reason) && named.iter().any(|named| named == end_entity) =>
            {
                let certificate = ParsedCertificate::try_from(end_entity)?;
                verify_server_name(&certificate, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            _ => usual,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A verifier that was told of `named`, and its verdict on `shown` for a host.
    fn verdict(named: &rcgen::Certificate, shown: &rcgen::Certificate, host: &str) -> bool {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("named.pem");
        std::fs::write(&path, named.pem()).unwrap();
        let (mut roots, mut list) = (RootCertStore::empty(), Vec::new());
        add_file(&mut roots, &mut list, &path).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let usual = usual_verifier(roots, &provider).unwrap();
        let verifier = Verifier { usual, exceptions: Exceptions::Named(list) };
        let name = ServerName::try_from(host.to_owned()).unwrap();
        verifier.verify_server_cert(shown.der(), &[], &name, &[], UnixTime::now()).is_ok()
    }

    /// A self-signed certificate as `openssl req -x509` makes them: an authority by itself.
    fn self_signed(end: i32) -> rcgen::Certificate {
        let mut parameters =
            rcgen::CertificateParams::new(vec!["registry.test".to_owned()]).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        parameters.not_after = rcgen::date_time_ymd(end, 1, 1);
        parameters.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap()
    }

    #[test]
    fn a_self_signed_certificate_is_trusted_if_it_is_named_itself() {
        let (own, other) = (self_signed(4000), self_signed(4000));
        assert!(verdict(&own, &own, "registry.test"));
        assert!(!verdict(&other, &own, "registry.test"), "another one was named");
        assert!(!verdict(&own, &own, "elsewhere.test"), "it is for another host");
        let expired = self_signed(2001);
        assert!(!verdict(&expired, &expired, "registry.test"), "it has expired");
    }
}
