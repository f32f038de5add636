//! Origins (RFC 6454): what a connection, a credential and a redirect belong to.
//!
//! Two URLs share connections and credentials if, and only if, their scheme, host and port are all
//! equal. curl compared hosts alone (CVE-2022-27774), others forgot the scheme: so here the three
//! are one type, and there is no way to compare fewer.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use crate::error::Class;

/// How a host is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// In the clear.
    Http,
    /// Over TLS.
    Https,
}

impl Scheme {
    /// The scheme as it begins a URL: `http` or `https`.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }

    /// The port of a URL that names none: 80 or 443.
    pub fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A scheme, a host and a port. Equal origins are equal texts, and the other way round.
///
/// Displayed as `https://ghcr.io` or `http://[::1]:5000`: the port is left out if it is the
/// scheme's own.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    scheme: Scheme,
    /// A lower-case name, an IPv4 address or an IPv6 address without brackets, each in its one
    /// normal form.
    host: String,
    port: u16,
}

/// Why a host and a port make no origin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OriginError {
    /// The host is neither a name nor an address.
    #[error("`{0}` is neither a host name nor an IP address")]
    Host(String),
    /// Port 0 names no service.
    #[error("port 0 cannot be connected to")]
    Port,
}

impl OriginError {
    /// The class of a host or port that a *user* wrote; for one that a peer sent, the caller knows
    /// better (a redirect, a realm).
    pub fn class(&self) -> Class {
        Class::Usage
    }
}

impl Origin {
    /// An origin from its parts. `host` is a name (made lower case, and punycode if it is not ASCII),
    /// an IPv4 address, or an IPv6 address with or without brackets, but without a zone id.
    pub fn new(scheme: Scheme, host: &str, port: u16) -> Result<Origin, OriginError> {
        if port == 0 {
            return Err(OriginError::Port);
        }
        let host = normal_host(host).ok_or_else(|| OriginError::Host(shown(host)))?;
        Ok(Origin { scheme, host, port })
    }

    /// The scheme.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The host, as DNS, TLS and `connect` want it: lower case, IPv6 without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port; never 0.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The host's address, if the host is one and needs no resolving.
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// Whether the host is this machine, whoever resolves it: `localhost` and names below it
    /// (RFC 6761 section 6.3), 127.0.0.0/8 and ::1, also as an IPv4-mapped IPv6 address.
    pub fn is_loopback(&self) -> bool {
        match self.ip() {
            Some(address) => address.to_canonical().is_loopback(),
            None => is_localhost(&self.host),
        }
    }

    /// What the `Host` field of a request says (RFC 9110 section 7.2): `ghcr.io`,
    /// `registry:5000`, `[::1]:5000`; without the port if it is the scheme's own.
    pub fn authority(&self) -> String {
        let (open, close) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        if self.port == self.scheme.default_port() {
            format!("{open}{}{close}", self.host)
        } else {
            format!("{open}{}{close}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority())
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Origin({self})")
    }
}

/// Whether `host` is `localhost` or a name below it, in lower case. Such names are this machine,
/// whatever a resolver says (RFC 6761 section 6.3): plain http is spoken to them, so no password may
/// go where a resolver leads.
pub fn is_localhost(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host);
    name == "localhost" || name.ends_with(".localhost")
}

/// The one spelling of a host that all its spellings are compared by.
fn normal_host(host: &str) -> Option<String> {
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if bracketed.is_some() || host.contains(':') {
        // The standard library's parser refuses zone ids, which mean something on one machine only.
        let address: Ipv6Addr = bracketed.unwrap_or(host).parse().ok()?;
        return Some(address.to_string());
    }
    // Percent signs would be decoded by the URL parser: `ghcr%2eio` must not become `ghcr.io` here.
    if host.contains('%') {
        return None;
    }
    match url::Host::parse(host).ok()? {
        url::Host::Domain(name) if is_name(&name) => Some(name),
        url::Host::Domain(_) => None,
        url::Host::Ipv4(address) => Some(address.to_string()),
        url::Host::Ipv6(address) => Some(address.to_string()),
    }
}

/// Letters, digits, hyphens and underscores in labels of 1 to 63 bytes, 253 in all (RFC 1035 section
/// 2.3.4). Underscores are in no RFC, but in the service names of Docker Compose. A dot at the end is
/// kept: it keeps resolvers from trying search domains.
fn is_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name.len() <= 253
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
}

/// At most 80 characters of `host`, control characters escaped: it may come from a peer.
fn shown(host: &str) -> String {
    host.chars().take(80).flat_map(char::escape_debug).collect()
}
