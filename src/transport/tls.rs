//! TLS 1.2 and 1.3 by rustls, sans-IO: ciphertext in, plaintext and ciphertext out.
//!
//! Uses rustls' unbuffered interface: records are decrypted in the buffer they were received into.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rustls::client::{Resumption, UnbufferedClientConnection};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{
    AlertDescription, CipherSuite, ClientConfig, InvalidMessage, PeerIncompatible, PeerMisbehaved,
    RootCertStore,
};

use super::trust::{self, Exceptions, Verifier};
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
        // A server's own certificate among them (`SSL_CERT_FILE`) is trusted as by `--ca-file`.
        let mut named = system.certs.clone();
        roots.add_parsable_certificates(system.certs);
        let notes = system.errors.iter().map(ToString::to_string).collect();
        for path in &options.ca_files {
            add_file(&mut roots, &mut named, path)?;
        }
        let provider = Arc::new(provider());
        let roots = Arc::new(roots);
        let verifier = |exceptions| Verifier::new(&roots, &provider, exceptions).map(Arc::new);
        let builder = || {
            ClientConfig::builder_with_provider(Arc::clone(&provider))
                .with_safe_default_protocol_versions()
                .map_err(TlsConfigError::Setup)
        };
        let mut verifying = builder()?
            .dangerous()
            .with_custom_certificate_verifier(verifier(Exceptions::Named(named))?)
            .with_no_client_auth();
        // Not offering it keeps out of the way of servers that would switch to HTTP/2.
        verifying.alpn_protocols = vec![b"http/1.1".to_vec()];
        let trusting = if options.insecure_hosts.is_empty() {
            None
        } else {
            let mut trusting = builder()?
                .dangerous()
                .with_custom_certificate_verifier(verifier(Exceptions::Any)?)
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
        count += 1;
        roots.add(certificate.clone()).map_err(|error| {
            let why = match &error {
                rustls::Error::InvalidCertificate(reason) => trust::words(reason),
                other => words(other),
            };
            unusable(format!("certificate {count} cannot be used: {why}"))
        })?;
        named.push(certificate);
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

/// What we offer in a handshake, for a peer that takes none of it. `provider` has nothing else.
const OFFER: &str = "ringpull offers TLS 1.2 and 1.3 with ECDHE and AES-GCM or ChaCha20-Poly1305; not \
    the older CBC suites, nor RSA key exchange";

/// An error of rustls, sorted: is the peer not trusted, does it refuse for good, or does it not speak
/// TLS properly?
fn failed(phase: Phase, error: &rustls::Error) -> Error {
    match error {
        rustls::Error::InvalidCertificate(reason) => Error::Trust(trust::words(reason)),
        rustls::Error::NoCertificatesPresented => Error::Trust("there is none".to_owned()),
        // The same the next time, and no reason to speak an older one.
        rustls::Error::AlertReceived(AlertDescription::ProtocolVersion) => {
            Error::TlsVersion(format!("it answers with the alert protocol_version; {OFFER}"))
        }
        rustls::Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
        ) => Error::TlsVersion(format!("it speaks an older one; {OFFER}")),
        rustls::Error::PeerIncompatible(other) => {
            let other = spaced(&format!("{other:?}"));
            Error::TlsRefused(format!("the server and ringpull do not fit ({other}); {OFFER}"))
        }
        rustls::Error::NoApplicationProtocol
        | rustls::Error::PeerMisbehaved(PeerMisbehaved::SelectedUnofferedApplicationProtocol) => {
            Error::TlsRefused("the server wants another protocol than HTTP/1.1".to_owned())
        }
        rustls::Error::AlertReceived(alert) => match refusal(*alert) {
            Some(reason) => Error::TlsRefused(reason),
            None => Error::Tls { phase, reason: format!("the alert {} came", name(*alert)) },
        },
        other => Error::Tls { phase, reason: words(other) },
    }
}

/// What an alert means that would come again the next time (RFC 8446 section 6.2), and the way out.
fn refusal(alert: AlertDescription) -> Option<String> {
    let meaning = match alert {
        AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity => {
            return Some(format!(
                "the server takes nothing of what is offered, or wants a client certificate: {OFFER} \
                 (alert {})",
                name(alert)
            ));
        }
        AlertDescription::NoApplicationProtocol => {
            "the server does not speak HTTP/1.1, and ringpull speaks nothing else"
        }
        AlertDescription::UnrecognisedName => {
            "the server knows no host of this name: is the registry's name right, and does the load \
             balancer in front of it know it?"
        }
        AlertDescription::CertificateRequired
        | AlertDescription::BadCertificate
        | AlertDescription::AccessDenied => {
            "the server wants a client certificate, and ringpull cannot give one yet"
        }
        _ => return None,
    };
    Some(format!("{meaning} (alert {})", name(alert)))
}

/// The name of an alert as RFC 8446 has it.
fn name(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::UnrecognisedName => "unrecognized_name".to_owned(),
        AlertDescription::Unknown(number) => number.to_string(),
        other => spaced(&format!("{other:?}")).replace(' ', "_"),
    }
}

/// An error of rustls that is none of trust, in words.
fn words(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "what came is no TLS".to_owned()
        }
        rustls::Error::InvalidMessage(other) => {
            format!("a malformed message came ({})", spaced(&format!("{other:?}")))
        }
        rustls::Error::PeerMisbehaved(other) => {
            format!("the server breaks the rules ({})", spaced(&format!("{other:?}")))
        }
        rustls::Error::InappropriateMessage { .. }
        | rustls::Error::InappropriateHandshakeMessage { .. } => {
            "a message came out of its turn".to_owned()
        }
        rustls::Error::DecryptError => "a record was changed on the way".to_owned(),
        rustls::Error::PeerSentOversizedRecord => "a record is too large".to_owned(),
        other => other.to_string(),
    }
}

/// The words in a name of Rust: `NoKxGroupsInCommon` are "no kx groups in common". What follows the
/// name in brackets is left out.
fn spaced(name: &str) -> String {
    let mut words = String::new();
    for letter in name.chars().take_while(|letter| letter.is_ascii_alphanumeric()) {
        if letter.is_ascii_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.push(letter.to_ascii_lowercase());
    }
    words
}

/// Whether bytes that came instead of TLS records are an answer in plain HTTP, with or without a
/// head. False as long as they may still become either.
pub(super) fn is_plain_http(bytes: &[u8]) -> bool {
    let starts = |text: &str| {
        bytes.get(..text.len()).is_some_and(|start| start.eq_ignore_ascii_case(text.as_bytes()))
    };
    ["HTTP/", "<html", "<!doc", "<?xml"].into_iter().any(starts)
}

/// Whether bytes that came instead of an answer in plain HTTP are a TLS record: an alert or a
/// handshake message, of SSL 3 or any version of TLS (RFC 8446 section 5.1).
pub fn is_tls_record(bytes: &[u8]) -> bool {
    const ALERT: u8 = 21;
    const HANDSHAKE: u8 = 22;
    matches!(bytes, [ALERT | HANDSHAKE, 3, 0..=4, ..])
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, Certificate, CertificateParams, ExtendedKeyUsagePurpose, GeneralSubtree,
        IsCa, Issuer, KeyPair, NameConstraints,
    };
    use rustls::client::danger::ServerCertVerifier;
    use rustls::pki_types::UnixTime;

    use super::*;

    const HOST: &str = "registry.test";

    /// The verdict on `shown` for a host, of a verifier that was told of `named`: what the user reads.
    fn verdict(named: &[&Certificate], shown: &[&Certificate], host: &str) -> Result<(), String> {
        let (mut roots, mut list) = (RootCertStore::empty(), Vec::new());
        for named in named {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("named.pem");
            std::fs::write(&path, named.pem()).unwrap();
            add_file(&mut roots, &mut list, &path).unwrap();
        }
        let provider = Arc::new(provider());
        let roots = Arc::new(roots);
        let verifier = Verifier::new(&roots, &provider, Exceptions::Named(list)).unwrap();
        let name = ServerName::try_from(host.to_owned()).unwrap();
        let sent: Vec<_> = shown[1..].iter().map(|shown| shown.der().clone()).collect();
        let result =
            verifier.verify_server_cert(shown[0].der(), &sent, &name, &[], UnixTime::now());
        result.map(drop).map_err(|error| failed(Phase::Handshake, &error).to_string())
    }

    fn for_host(host: &str) -> CertificateParams {
        CertificateParams::new(vec![host.to_owned()]).unwrap()
    }

    fn authority(name: &str) -> CertificateParams {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters
    }

    /// A certificate, and what signs others with it.
    fn own(parameters: CertificateParams) -> (Certificate, Issuer<'static, KeyPair>) {
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        (certificate, Issuer::new(parameters, key))
    }

    fn signed(
        parameters: CertificateParams,
        issuer: &Issuer<'static, KeyPair>,
    ) -> (Certificate, Issuer<'static, KeyPair>) {
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.signed_by(&key, issuer).unwrap();
        (certificate, Issuer::new(parameters, key))
    }

    #[track_caller]
    fn refused(verdict: Result<(), String>, text: &str) {
        let said = verdict.expect_err("it is refused");
        assert!(said.contains(text), "{said}");
        // Words, and no Debug form.
        assert!(!said.contains(['{', '"', '[']) && !said.contains("Other"), "{said}");
    }

    /// With each combination of who signed it and what it is marked as, the very certificate that was
    /// named is trusted, and its own statements count.
    #[test]
    fn a_certificate_that_is_named_itself_is_trusted() {
        let (_, elsewhere) = own(authority("an authority that nobody names"));
        for is_ca in [IsCa::Ca(BasicConstraints::Unconstrained), IsCa::ExplicitNoCa, IsCa::NoCa] {
            for self_signed in [true, false] {
                let make = |change: &dyn Fn(&mut CertificateParams)| {
                    let mut parameters = for_host(HOST);
                    parameters.is_ca = is_ca;
                    change(&mut parameters);
                    match self_signed {
                        true => own(parameters).0,
                        false => signed(parameters, &elsewhere).0,
                    }
                };
                let good = make(&|_| {});
                assert_eq!(verdict(&[&good], &[&good], HOST), Ok(()), "{is_ca:?} {self_signed}");
                let other = make(&|_| {});
                let verdict_of_other = verdict(&[&other], &[&good], HOST);
                assert!(verdict_of_other.is_err(), "another one was named");
                refused(
                    verdict(&[&good], &[&good], "elsewhere.test"),
                    "and not for elsewhere.test",
                );
                let expired = make(&|it| it.not_after = rcgen::date_time_ymd(2001, 1, 1));
                refused(verdict(&[&expired], &[&expired], HOST), "it has expired (2001-01-01T");
                let future = make(&|it| {
                    it.not_before = rcgen::date_time_ymd(4000, 1, 1);
                    it.not_after = rcgen::date_time_ymd(4001, 1, 1);
                });
                refused(verdict(&[&future], &[&future], HOST), "it is not valid yet (4000-01-01T");
                let client = make(&|it| {
                    it.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
                });
                refused(verdict(&[&client], &[&client], HOST), "it is not for servers");
                let server = make(&|it| {
                    it.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
                });
                assert_eq!(verdict(&[&server], &[&server], HOST), Ok(()));
            }
        }
    }

    #[test]
    fn every_refusal_is_in_words() {
        let (root, root_key) = own(authority("root"));
        let (plain, _) = signed(for_host(HOST), &root_key);
        assert_eq!(verdict(&[&root], &[&plain], HOST), Ok(()));
        refused(
            verdict(&[&root], &[&plain], "other.test"),
            "it is for registry.test, and not for other",
        );
        let (other_root, other_key) = own(authority("another root"));
        let (stranger, _) = signed(for_host(HOST), &other_key);
        refused(verdict(&[&root], &[&stranger], HOST), "signed by an unknown authority (--ca-file");

        let (lonely, _) = own(for_host(HOST));
        refused(verdict(&[&root], &[&lonely], HOST), "a self-signed one (--ca-file");
        let mut marked = for_host(HOST);
        marked.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let (self_marked, _) = own(marked.clone());
        refused(verdict(&[&root], &[&self_marked], HOST), "a self-signed one (--ca-file");
        let (marked, marked_key) = signed(marked, &root_key);
        refused(verdict(&[&root], &[&marked], HOST), "marked as an authority's (CA:TRUE)");
        assert_eq!(verdict(&[&root, &marked], &[&marked], HOST), Ok(()), "named itself");
        drop((other_root, marked_key));

        // A root of the same name, with another key.
        let (_, impostor) = own(authority("root"));
        let (forged, _) = signed(for_host(HOST), &impostor);
        refused(verdict(&[&root], &[&forged], HOST), "its signature is wrong");

        let mut narrow = authority("narrow");
        narrow.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let (narrow, narrow_key) = signed(narrow, &root_key);
        let (below, below_key) = signed(authority("below"), &narrow_key);
        let (leaf, _) = signed(for_host(HOST), &below_key);
        refused(verdict(&[&root], &[&leaf, &below, &narrow], HOST), "path length");

        let (mere, mere_key) = signed(for_host("mere.test"), &root_key);
        let (leaf, _) = signed(for_host(HOST), &mere_key);
        refused(verdict(&[&root], &[&leaf, &mere], HOST), "is no authority's");

        let mut local = authority("local");
        local.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName("elsewhere.test".to_owned())],
            excluded_subtrees: Vec::new(),
        });
        let (local, local_key) = signed(local, &root_key);
        let (leaf, _) = signed(for_host(HOST), &local_key);
        refused(verdict(&[&root], &[&leaf, &local], HOST), "name constraints");

        let mut client = for_host(HOST);
        client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let (client, _) = signed(client, &root_key);
        refused(verdict(&[&root], &[&client], HOST), "it is not for servers");

        let mut nameless = CertificateParams::new(Vec::new()).unwrap();
        nameless.distinguished_name.push(rcgen::DnType::CommonName, HOST);
        let (nameless, _) = signed(nameless, &root_key);
        refused(verdict(&[&root], &[&nameless], HOST), "no subjectAltName");
    }

    /// Made by `openssl req -x509 -newkey rsa:1024` and `openssl x509 -req -sha1`: rcgen makes neither.
    #[test]
    fn weak_keys_and_hashes_are_named() {
        let parse = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        for (root, leaf, text) in [
            (
                include_str!("testdata/short-root.pem"),
                include_str!("testdata/short-leaf.pem"),
                "an RSA key of 1024 bits is too short, 2048 are needed",
            ),
            (
                include_str!("testdata/forgeable-root.pem"),
                include_str!("testdata/forgeable-leaf.pem"),
                "it is signed with SHA-1, which can be forged",
            ),
        ] {
            let mut roots = RootCertStore::empty();
            roots.add(parse(root)).unwrap();
            let (roots, provider) = (Arc::new(roots), Arc::new(provider()));
            let named = Exceptions::Named(vec![parse(root)]);
            let verifier = Verifier::new(&roots, &provider, named).unwrap();
            let name = ServerName::try_from(HOST).unwrap();
            let leaf = parse(leaf);
            let result = verifier.verify_server_cert(&leaf, &[], &name, &[], UnixTime::now());
            refused(
                result.map(drop).map_err(|error| failed(Phase::Handshake, &error).to_string()),
                text,
            );
        }
    }

    #[test]
    fn alerts_that_would_come_again_say_the_way_out() {
        let said = |alert| failed(Phase::Handshake, &rustls::Error::AlertReceived(alert));
        for (alert, text) in [
            (AlertDescription::HandshakeFailure, "(alert handshake_failure)"),
            (AlertDescription::InsufficientSecurity, "(alert insufficient_security)"),
            (AlertDescription::NoApplicationProtocol, "(alert no_application_protocol)"),
            (AlertDescription::UnrecognisedName, "(alert unrecognized_name)"),
            (AlertDescription::CertificateRequired, "(alert certificate_required)"),
        ] {
            let error = said(alert);
            assert_eq!(error.class(), crate::error::Class::TlsRefused, "{error}");
            assert!(error.to_string().contains(text), "{error}");
        }
        let passing = said(AlertDescription::InternalError);
        assert_eq!(passing.class(), crate::error::Class::Tls);
        assert!(passing.to_string().contains("the alert internal_error came"), "{passing}");
        assert!(said(AlertDescription::Unknown(200)).to_string().contains("the alert 200 came"));
        assert_eq!(spaced("NoKxGroupsInCommon"), "no kx groups in common");
        assert_eq!(spaced("MissingData(\"x\")"), "missing data");
    }

    #[test]
    fn a_file_of_certificates_that_cannot_be_used_is_told_in_words() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.pem");
        let good = own(authority("root")).0.pem();
        let garbage =
            "-----BEGIN CERTIFICATE-----\nbm8gY2VydGlmaWNhdGU=\n-----END CERTIFICATE-----\n";
        std::fs::write(&path, format!("{good}{garbage}")).unwrap();
        let error = add_file(&mut RootCertStore::empty(), &mut Vec::new(), &path).unwrap_err();
        let said = error.to_string();
        assert!(said.contains("certificate 2 cannot be used: it is malformed"), "{said}");
    }

    #[test]
    fn what_is_offered_is_what_is_said() {
        for suite in provider().cipher_suites {
            let name = format!("{:?}", suite.suite());
            assert!(name.starts_with("TLS13_") || name.starts_with("TLS_ECDHE_"), "{name}");
            assert!(name.contains("_GCM_") || name.contains("_CHACHA20_POLY1305_"), "{name}");
        }
    }

    #[test]
    fn each_protocol_is_told_from_the_other() {
        for plain in ["HTTP/1.1 400 Bad Request\r\n", "HTTP/1.0 4", "<!DOCTYPE HTML>", "<HTML>"] {
            assert!(is_plain_http(plain.as_bytes()) && !is_tls_record(plain.as_bytes()), "{plain}");
        }
        for record in [&b"\x15\x03\x01\0\x02\x02\x46"[..], b"\x16\x03\x03\0\x7a", b"\x15\x03\x04"] {
            assert!(is_tls_record(record) && !is_plain_http(record));
        }
        for neither in [&b"SSH-2.0-x"[..], b"HTT", b"\x17\x03\x03", b"\x16\x03", b""] {
            assert!(!is_tls_record(neither) && !is_plain_http(neither));
        }
    }
}
