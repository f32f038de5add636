//! What was asked for, in values that work: flags, environment and defaults, checked once.
//!
//! `cli` holds what was typed; nothing below this module looks at flags, the environment or the
//! home directory again.

use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::client::Timeouts;
use crate::error::Class;
use crate::image::{Platform, Reference};
use crate::limits::{
    CREDENTIAL_FILE_SIZE_MAX, JOBS, MAX_WAIT, MEMORY, MIN_SPEED, PIECE_FIRST, PIECE_SIZE_MIN,
    RETRIES,
};
use crate::origin::{Origin, Scheme};
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
    /// The one that fits this platform best, which the user asked for.
    One(Platform),
    /// The one that fits this platform best, which is this machine's: nobody asked for it.
    Host(Platform),
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
    /// Whether certificates were named for this very pull (`--ca-file`), so that it means https also
    /// on loopback. `RINGPULL_CA_FILE` is for all pulls of a machine and means no such thing.
    pub ca_files_mean_https: bool,
    /// The files that may hold credentials for the registry; the first that knows it decides.
    pub credentials: Vec<CredentialFile>,
    /// Whether a layer that the registry does not have is fetched from a URL elsewhere that its
    /// manifest names.
    pub foreign_urls: bool,
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
            ca_files_mean_https: false,
            credentials: Vec::new(),
            foreign_urls: false,
            trusted_realms: Vec::new(),
            pieces: Pieces::default(),
        }
    }
}

impl NetworkConfig {
    /// The scheme that the user wants for this registry; `None` leaves it to the default, which is
    /// http for loopback and https for all others.
    ///
    /// `--ca-file`, and `--insecure` for this host, mean https on loopback too.
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
            None if self.ca_files_mean_https => Some(Scheme::Https),
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
    /// The same, of a file that a variable names.
    #[error("{variable}: {source}")]
    Named {
        /// The variable.
        variable: &'static str,
        /// What is wrong with the file.
        source: Box<ConfigError>,
    },
}

/// The variable by which tools of the containers project are told of a file with credentials.
const REGISTRY_AUTH_FILE: &str = "REGISTRY_AUTH_FILE";

/// Reads the files that may hold credentials: `authfile` if it is given, else those that other tools
/// write. Beside them, a warning for each of those that is there and cannot be used: it costs the
/// credentials in it, and a public image needs none.
///
/// # Errors
/// A file that the user named (`--authfile`, `REGISTRY_AUTH_FILE`) must be there, and not malformed.
pub fn read_credentials(
    authfile: Option<&Path>,
) -> Result<(Vec<CredentialFile>, Vec<String>), ConfigError> {
    let path_of = |name| std::env::var_os(name).map(PathBuf::from);
    let (registry_auth_file, docker_config) =
        (path_of(REGISTRY_AUTH_FILE), path_of("DOCKER_CONFIG"));
    let (runtime_dir, home) = (path_of("XDG_RUNTIME_DIR"), std::env::home_dir());
    let places = Places {
        authfile,
        registry_auth_file: registry_auth_file.as_deref(),
        docker_config: docker_config.as_deref(),
        runtime_dir: runtime_dir.as_deref(),
        home: home.as_deref(),
    };
    let (mut files, mut warnings) = (Vec::new(), Vec::new());
    for Candidate { path, required } in candidates(&places) {
        match read_credential_file(&path, required) {
            Ok(Some(file)) => files.push(file),
            Ok(None) => {}
            Err(source) if required && authfile.is_none() => {
                let source = Box::new(source);
                return Err(ConfigError::Named { variable: REGISTRY_AUTH_FILE, source });
            }
            Err(error) if required => return Err(error),
            Err(error) => {
                warnings.push(format!("{error}; the pull goes on without credentials from there"));
            }
        }
    }
    Ok((files, warnings))
}

/// A file of credentials; `None` if it need not be there, and is not.
fn read_credential_file(
    path: &Path,
    required: bool,
) -> Result<Option<CredentialFile>, ConfigError> {
    let failed = |source| ConfigError::File { path: path.to_path_buf(), source };
    // A pipe that the user names is read until its end (`--authfile <(pass ...)`). One that nobody
    // named might have no writer, and would be waited for without end.
    let read = || match required {
        false if !std::fs::metadata(path)?.is_file() => {
            Err(io::Error::other("it is not a regular file"))
        }
        _ => read_at_most(path, CREDENTIAL_FILE_SIZE_MAX),
    };
    match read() {
        Ok(bytes) => Ok(Some(CredentialFile::parse(&path.to_string_lossy(), &bytes)?)),
        Err(error) if !required && error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(failed(source)),
    }
}

/// A file's bytes, up to one more than `size_max`: whoever reads them tells that they are too many.
fn read_at_most(path: &Path, size_max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(size_max as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The variable that names a proxy for connections to `host`, if one is set; each wants the bytes of
/// its `environment` by name.
///
/// As curl and Go's `net/http` look for it: the variable of the scheme before that for all, lower
/// case first; never for this machine, nor for hosts that `NO_PROXY` covers.
pub fn proxy_variable(
    environment: impl Fn(&str) -> Option<String>,
    origin: &Origin,
) -> Option<&'static str> {
    let set = |name: &str| environment(name).filter(|value| !value.trim().is_empty());
    let names = match origin.scheme() {
        Scheme::Https => ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"],
        Scheme::Http => ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"],
    };
    let variable = names.into_iter().find(|name| set(name).is_some())?;
    let exceptions = set("no_proxy").or_else(|| set("NO_PROXY")).unwrap_or_default();
    let excepted = exceptions
        .split([',', ' ', '\t'])
        .filter(|exception| !exception.is_empty())
        .any(|exception| covers(exception, origin));
    (!origin.is_loopback() && !excepted).then_some(variable)
}

/// Whether an entry of `NO_PROXY` covers an origin: `*`, a name with all names below it (with or
/// without a dot or `*.` before it), an address, or a network such as `10.0.0.0/8`; each but the last
/// also with a port.
fn covers(exception: &str, origin: &Origin) -> bool {
    let exception = exception.to_ascii_lowercase();
    if exception == "*" {
        return true;
    }
    if let Some(address) = origin.ip()
        && let Some((network, bits)) = exception.split_once('/')
    {
        let bits = bits.parse().ok();
        return network.parse().is_ok_and(|network| {
            bits.is_some_and(|bits| is_in_network(address.to_canonical(), network, bits))
        });
    }
    let port = format!(":{}", origin.port());
    let exception = exception.strip_suffix(&port).unwrap_or(&exception);
    let exception = exception.trim_start_matches('[').trim_end_matches(']');
    if let Some(address) = origin.ip() {
        return exception.parse() == Ok(address);
    }
    let name = exception.trim_start_matches('*').trim_start_matches('.').trim_end_matches('.');
    let host = origin.host().trim_end_matches('.');
    !name.is_empty()
        && host.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Whether the first `bits` bits of two addresses of one family are the same.
fn is_in_network(address: IpAddr, network: IpAddr, bits: u32) -> bool {
    let (one, other, length) = match (address, network) {
        (IpAddr::V4(one), IpAddr::V4(other)) => {
            (u128::from(one.to_bits()), u128::from(other.to_bits()), u32::BITS)
        }
        (IpAddr::V6(one), IpAddr::V6(other)) => (one.to_bits(), other.to_bits(), u128::BITS),
        _ => return false,
    };
    let rest = length.checked_sub(bits);
    rest.is_some_and(|rest| (one ^ other).checked_shr(rest).unwrap_or(0) == 0)
}

impl ConfigError {
    /// Always [`Class::Usage`].
    pub fn class(&self) -> Class {
        Class::Usage
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_seen_unless_the_host_is_excepted() {
        let https = |host| Origin::new(Scheme::Https, host, 443).unwrap();
        let http = |host| Origin::new(Scheme::Http, host, 5000).unwrap();
        type Variables<'a> = &'a [(&'a str, &'a str)];
        let rows: [(Origin, Variables<'_>, Option<&str>); 31] = [
            (https("ghcr.io"), &[], None),
            (https("ghcr.io"), &[("https_proxy", "")], None),
            (https("ghcr.io"), &[("https_proxy", "http://p:1")], Some("https_proxy")),
            (https("ghcr.io"), &[("HTTPS_PROXY", "p")], Some("HTTPS_PROXY")),
            (https("ghcr.io"), &[("https_proxy", "p"), ("ALL_PROXY", "p")], Some("https_proxy")),
            (https("ghcr.io"), &[("ALL_PROXY", "socks5://p")], Some("ALL_PROXY")),
            (https("ghcr.io"), &[("HTTP_PROXY", "p")], None),
            (http("ghcr.io"), &[("HTTP_PROXY", "p")], Some("HTTP_PROXY")),
            (http("ghcr.io"), &[("https_proxy", "p")], None),
            (http("localhost"), &[("http_proxy", "p")], None),
            (http("127.0.0.1"), &[("http_proxy", "p")], None),
            (https("ghcr.io"), &[("https_proxy", "p"), ("NO_PROXY", "*")], None),
            (https("ghcr.io"), &[("https_proxy", "p"), ("NO_PROXY", "a,ghcr.io")], None),
            (https("ghcr.io"), &[("https_proxy", "p"), ("no_proxy", "a GHCR.IO")], None),
            (https("ghcr.io"), &[("https_proxy", "p"), ("no_proxy", ".io")], None),
            (https("ghcr.io"), &[("https_proxy", "p"), ("no_proxy", "*.io")], None),
            (https("ghcr.io"), &[("https_proxy", "p"), ("no_proxy", "ghcr.io:443")], None),
            (https("ghcr.io"), &[("https_proxy", "p"), ("no_proxy", "r.io")], Some("https_proxy")),
            (https("ghcr.io"), &[("https_proxy", "p"), ("no_proxy", "a.b")], Some("https_proxy")),
            (
                https("ghcr.io"),
                &[("https_proxy", "p"), ("no_proxy", "ghcr.io:1")],
                Some("https_proxy"),
            ),
            (https("ghcr.io"), &[("https_proxy", "p"), ("no_proxy", " ,.")], Some("https_proxy")),
            (
                https("ghcr.io"),
                &[("https_proxy", "p"), ("no_proxy", "10.0.0.0/8")],
                Some("https_proxy"),
            ),
            (https("10.1.2.3"), &[("https_proxy", "p"), ("no_proxy", "10.0.0.0/8")], None),
            (https("10.1.2.3"), &[("https_proxy", "p"), ("no_proxy", "10.1.2.2/31")], None),
            (
                https("10.1.2.3"),
                &[("https_proxy", "p"), ("no_proxy", "10.1.2.0/31")],
                Some("https_proxy"),
            ),
            (https("10.1.2.3"), &[("https_proxy", "p"), ("no_proxy", "0.0.0.0/0")], None),
            (
                https("10.1.2.3"),
                &[("https_proxy", "p"), ("no_proxy", "10.0.0.0/40")],
                Some("https_proxy"),
            ),
            (https("10.1.2.3"), &[("https_proxy", "p"), ("no_proxy", "::/0")], Some("https_proxy")),
            (https("10.1.2.3"), &[("https_proxy", "p"), ("no_proxy", "10.1.2.3")], None),
            (https("fd00::1"), &[("https_proxy", "p"), ("no_proxy", "[fd00::1]:443")], None),
            (https("fd00::1"), &[("https_proxy", "p"), ("no_proxy", "fd00::/8")], None),
        ];
        for (origin, variables, expected) in rows {
            let environment = |name: &str| {
                let found = variables.iter().find(|(variable, _)| *variable == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            assert_eq!(proxy_variable(environment, &origin), expected, "{origin} {variables:?}");
        }
    }
}
