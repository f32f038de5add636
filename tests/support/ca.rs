//! A certificate authority that only the tests trust.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use tempfile::TempDir;

/// The names and addresses that [`TestCa::server`] is for.
pub const SERVER_NAMES: [&str; 5] =
    ["127.0.0.1", "127.0.0.2", "localhost", "registry.test", "blobs.test"];

/// A fresh authority and a server certificate it signed, as PEM files.
pub struct TestCa {
    directory: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

/// PEM files of a certificate and its private key.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key, PKCS #8.
    pub key: PathBuf,
}

impl TestCa {
    /// Makes a new authority, trusted by nobody yet.
    pub fn new() -> TestCa {
        let directory = TempDir::new().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.distinguished_name.push(DnType::CommonName, "ringpull test CA");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = parameters.self_signed(&key).unwrap();

        // The one file of its directory, because skopeo trusts all it finds in a directory.
        std::fs::create_dir(directory.path().join("trust")).unwrap();
        let ca = TestCa { issuer: Issuer::new(parameters, key), directory };
        std::fs::write(ca.certificate(), certificate.pem()).unwrap();
        ca
    }

    /// The authority's certificate: what a client has to trust (`--ca-file`).
    pub fn certificate(&self) -> PathBuf {
        self.trust_directory().join("ca.crt")
    }

    /// A directory with [`TestCa::certificate`] alone (skopeo's `--src-cert-dir`).
    pub fn trust_directory(&self) -> PathBuf {
        self.directory.path().join("trust")
    }

    /// A certificate for all of [`SERVER_NAMES`].
    pub fn server(&self) -> Identity {
        self.issue("server", &SERVER_NAMES)
    }

    /// A certificate for `names` (DNS names or IP addresses), in files called after `file`.
    pub fn issue(&self, file: &str, names: &[&str]) -> Identity {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut parameters = CertificateParams::new(names).unwrap();
        parameters.distinguished_name.push(DnType::CommonName, "ringpull test server");
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        Identity {
            certificate: write(self.directory.path(), file, "crt", &certificate.pem()),
            key: write(self.directory.path(), file, "key", &key.serialize_pem()),
        }
    }
}

fn write(directory: &Path, name: &str, extension: &str, pem: &str) -> PathBuf {
    let path = directory.join(name).with_extension(extension);
    std::fs::write(&path, pem).unwrap();
    path
}
