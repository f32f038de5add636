//! What was asked for, in values that work: flags, environment and defaults, checked once.
//!
//! `cli` holds what was typed; nothing below this module looks at flags, the environment or the
//! home directory again.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::client::Timeouts;
use crate::error::Class;
use crate::image::{Platform, Reference};
use crate::limits::{
    CREDENTIAL_FILE_SIZE_MAX, JOBS, MAX_WAIT, MEMORY, MIN_SPEED, PIECE_FIRST, PIECE_SIZE_MIN,
    RETRIES,
};
use crate::origin::Scheme;
use crate::registry::CredentialFile;
use crate::registry::credential::{Candidate, CredentialError, Places, candidates};
use crate::store::{self, Destination};
use crate::transport::probe::EngineWish;
use crate::transport::tls::TlsOptions;

/// A pull.
#[derive(Debug, Clone)]
pub struct PullConfig {
    /// Which image.
    pub reference: Reference,
    /// Which of its platforms.
    pub platforms: Platforms,
    /// Where it goes.
    pub destination: Destination,
    /// How it is written there.
    pub store: store::Options,
    /// How it is fetched.
    pub network: NetworkConfig,
}

/// Which images of an index are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Platforms {
    /// The one that fits this platform best.
    One(Platform),
    /// All of them, and the index itself.
    All,
}

/// How registries are reached.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// Which engine.
    pub engine: EngineWish,
    /// The deadline of each phase.
    pub timeouts: Timeouts,
    /// Attempts at an object after the first, without progress in between.
    pub retries: u32,
    /// Longest time that a registry may ask us to wait (`Retry-After`).
    pub max_wait: Duration,
    /// Blobs fetched at once, 1 to [`crate::limits::JOBS_MAX`].
    pub jobs: usize,
    /// Connections at once; `None` finds out how many are worth having.
    pub connections: Option<usize>,
    /// Memory of all buffers, in bytes.
    pub memory: u64,
    /// Bytes per second of all connections together; `None` is no cap.
    pub limit_rate: Option<u64>,
    /// Least bytes per second of each connection, over the deadline of a receive; `None` is no
    /// minimum.
    pub min_speed: Option<u64>,
    /// Whether the reference's registry is spoken to over plain http; see
    /// [`scheme_for`](NetworkConfig::scheme_for).
    pub plain_http: Option<bool>,
    /// Whom to trust.
    pub tls: TlsOptions,
    /// The files that may hold credentials for the registry; the first that knows it decides.
    pub credentials: Vec<CredentialFile>,
    /// Hosts that credentials may be sent to for a token, besides those that surely belong to the
    /// registry.
    pub trusted_realms: Vec<String>,
    /// How blobs are cut. No flag: simulations cut small ones.
    pub pieces: Pieces,
}

/// The sizes of the pieces that large blobs are fetched in, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pieces {
    /// Of the first piece of a blob; smaller blobs are one piece.
    pub first: u64,
    /// Of the smallest piece; at least 1.
    pub least: u64,
}

impl Default for Pieces {
    fn default() -> Pieces {
        Pieces { first: PIECE_FIRST, least: PIECE_SIZE_MIN }
    }
}

impl Default for NetworkConfig {
    fn default() -> NetworkConfig {
        NetworkConfig {
            engine: EngineWish::Auto,
            timeouts: Timeouts::default(),
            retries: RETRIES,
            max_wait: MAX_WAIT,
            jobs: JOBS,
            connections: None,
            memory: MEMORY,
            limit_rate: None,
            min_speed: Some(MIN_SPEED),
            plain_http: None,
            tls: TlsOptions::default(),
            credentials: Vec::new(),
            trusted_realms: Vec::new(),
            pieces: Pieces::default(),
        }
    }
}

impl NetworkConfig {
    /// The scheme that the user wants for this registry; `None` leaves it to the default, which is
    /// http for loopback and https for all others.
    ///
    /// Who names certificates (`--ca-file`, `--insecure` for this host) means https on loopback too.
    pub fn scheme_for(&self, reference: &Reference) -> Option<Scheme> {
        let host = reference.registry().to_ascii_lowercase();
        let named = |insecure: &String| {
            host.strip_prefix(insecure.as_str())
                .or_else(|| host.strip_prefix(&format!("[{insecure}]")))
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
        };
        match self.plain_http {
            Some(true) => Some(Scheme::Http),
            Some(false) => Some(Scheme::Https),
            None if !self.tls.ca_files.is_empty() => Some(Scheme::Https),
            None if self.tls.insecure_hosts.iter().any(named) => Some(Scheme::Https),
            None => None,
        }
    }
}

/// Why a configuration cannot be used. The text names the file.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file of credentials cannot be read.
    #[error("cannot read the credentials in {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of credentials is malformed.
    #[error(transparent)]
    Credential(#[from] CredentialError),
}

/// Reads the files that may hold credentials: `authfile` if it is given, else those that other tools
/// write, as far as they are there.
///
/// # Errors
/// A file named by the user must be there; and no file that is there may be malformed.
pub fn read_credentials(authfile: Option<&Path>) -> Result<Vec<CredentialFile>, ConfigError> {
    let path_of = |name| std::env::var_os(name).map(PathBuf::from);
    let (registry_auth_file, docker_config) =
        (path_of("REGISTRY_AUTH_FILE"), path_of("DOCKER_CONFIG"));
    let (runtime_dir, home) = (path_of("XDG_RUNTIME_DIR"), std::env::home_dir());
    let places = Places {
        authfile,
        registry_auth_file: registry_auth_file.as_deref(),
        docker_config: docker_config.as_deref(),
        runtime_dir: runtime_dir.as_deref(),
        home: home.as_deref(),
    };
    let mut files = Vec::new();
    for Candidate { path, required } in candidates(&places) {
        match read_at_most(&path, CREDENTIAL_FILE_SIZE_MAX) {
            Ok(bytes) => files.push(CredentialFile::parse(&path.to_string_lossy(), &bytes)?),
            Err(error) if !required && error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(ConfigError::File { path, source }),
        }
    }
    Ok(files)
}

/// A file's bytes, up to one more than `size_max`: whoever reads them tells that they are too many.
fn read_at_most(path: &Path, size_max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(size_max as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

impl ConfigError {
    /// Always [`Class::Usage`].
    pub fn class(&self) -> Class {
        Class::Usage
    }
}
