//! TLS 1.3 for benches: a client without a socket that decrypts in place, as `transport::tls` does,
//! and the settings of a server for it.

use std::sync::Arc;

use rcgen::CertifiedKey;
use rustls::client::UnbufferedClientConnection;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedCipherSuite, version};

/// The name on the certificate.
const NAME: &str = "localhost";

/// A certificate that signed itself, and its key.
pub(crate) struct Identity {
    pub(crate) certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    pub(crate) fn generate() -> Identity {
        let CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed([NAME.to_owned()]).expect("a certificate");
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).expect("a key");
        Identity { certificate: cert.der().clone(), key }
    }

    /// Settings of a server with this certificate, for `suite` alone.
    pub(crate) fn server(&self, suite: SupportedCipherSuite) -> Arc<ServerConfig> {
        let config = ServerConfig::builder_with_provider(provider(suite))
            .with_protocol_versions(&[&version::TLS13])
            .expect("TLS 1.3")
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], self.key.clone_key());
        Arc::new(config.expect("the key is of the certificate"))
    }
}

fn provider(suite: SupportedCipherSuite) -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider { cipher_suites: vec![suite], ..aws_lc_rs::default_provider() })
}

/// The client's side of one connection. What it has to send stands in `outgoing`.
pub(crate) struct Client {
    connection: UnbufferedClientConnection,
    pub(crate) outgoing: Vec<u8>,
    /// The handshake is over.
    pub(crate) is_ready: bool,
}

impl Client {
    /// A client that trusts `certificate` alone.
    pub(crate) fn new(
        suite: SupportedCipherSuite,
        certificate: &CertificateDer<'static>,
    ) -> Client {
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).expect("a certificate");
        let config = ClientConfig::builder_with_provider(provider(suite))
            .with_protocol_versions(&[&version::TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(NAME).expect("a name");
        let connection = UnbufferedClientConnection::new(Arc::new(config), name).expect("a client");
        let mut client = Client { connection, outgoing: Vec::new(), is_ready: false };
        // The first flight.
        client.decrypt(&mut [], |_| {});
        client
    }

    /// Works through the records that are whole, and returns how many bytes of `ciphertext` they
    /// were. Each payload is decrypted where it stands.
    pub(crate) fn decrypt(&mut self, ciphertext: &mut [u8], mut take: impl FnMut(&[u8])) -> usize {
        let mut used = 0;
        loop {
            let UnbufferedStatus { mut discard, state, .. } =
                self.connection.process_tls_records(&mut ciphertext[used..]);
            let mut is_done = false;
            match state.expect("records of an honest server") {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.expect("records of an honest server");
                        discard += record.discard;
                        take(record.payload);
                    }
                }
                ConnectionState::EncodeTlsData(mut data) => {
                    append(&mut self.outgoing, |room| match data.encode(room) {
                        Err(EncodeError::InsufficientSize(size)) => Err(size.required_size),
                        other => Ok(other.expect("a message to encode")),
                    });
                }
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::WriteTraffic(_) => {
                    self.is_ready = true;
                    is_done = true;
                }
                // The handshake, or the rest of a record, is to come; or nothing any more.
                _ => is_done = true,
            }
            used += discard;
            if is_done {
                return used;
            }
        }
    }
}

/// Appends what `write` writes. It says how much room that takes.
fn append(to: &mut Vec<u8>, mut write: impl FnMut(&mut [u8]) -> Result<usize, usize>) {
    let start = to.len();
    if let Err(required) = write(&mut []) {
        to.resize(start + required, 0);
        let count = write(&mut to[start..]).expect("as much room as was asked for");
        to.truncate(start + count);
    }
}
