//! The options of all commands that talk to registries.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, ValueEnum};

use super::values::{
    Connections, SizeOr, boolean, connections, limit_rate, memory, min_speed, number, shown,
    shown_size, timeout, wait,
};
use super::{Failure, overruled};
use crate::client::Timeouts;
use crate::config::{NetworkConfig, read_credentials};
use crate::limits::{
    CONNECT_TIMEOUT, DOCUMENT_TIMEOUT, HEAD_TIMEOUT, JOBS, JOBS_MAX, MAX_WAIT, MIN_SPEED,
    RECV_TIMEOUT, RESOLVE_TIMEOUT, RETRIES, RETRIES_MAX, TLS_TIMEOUT,
};
use crate::origin::{Origin, Scheme};
use crate::report::{Reporter, Style, Verbosity};
use crate::transport::EngineKind;
use crate::transport::probe::EngineWish;
use crate::transport::tls::TlsOptions;

/// How much is said.
#[derive(Debug, Clone, Args)]
pub(super) struct ReportArgs {
    /// Print only the result, warnings and errors
    #[arg(short, long, value_parser = boolean, env = "RINGPULL_QUIET")]
    quiet: bool,
    /// Also print the engine and why, connections, redirects, retries, and what it cost
    #[arg(short, long, value_parser = boolean, env = "RINGPULL_VERBOSE")]
    verbose: bool,
}

impl ReportArgs {
    /// The same without what is overruled.
    pub(super) fn settled(mut self, matches: &ArgMatches) -> Result<ReportArgs, Failure> {
        if self.quiet && self.verbose {
            let loser = overruled(matches, "quiet", "verbose")?;
            (self.quiet, self.verbose) = (loser != "quiet", loser != "verbose");
        }
        Ok(self)
    }

    pub(super) fn reporter(&self) -> Reporter {
        let verbosity = match (self.quiet, self.verbose) {
            (true, _) => Verbosity::Quiet,
            (_, true) => Verbosity::Verbose,
            _ => Verbosity::Normal,
        };
        Reporter::new(verbosity, Style::detect())
    }
}

/// An engine, or the choice of one.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum EngineArg {
    /// io_uring where it works, else epoll; -v says which and why
    Auto,
    /// io_uring: each wait is ended by the kernel; fails where io_uring cannot be used
    Uring,
    /// Readiness and timers, for kernels and containers without io_uring
    Epoll,
}

impl EngineArg {
    pub(super) fn wish(self) -> EngineWish {
        match self {
            EngineArg::Auto => EngineWish::Auto,
            EngineArg::Uring => EngineWish::Only(EngineKind::Uring),
            EngineArg::Epoll => EngineWish::Only(EngineKind::Epoll),
        }
    }
}

/// How registries are reached.
#[derive(Debug, Clone, Args)]
pub(super) struct NetworkArgs {
    /// What the network is driven by
    #[arg(long, value_enum, default_value_t = EngineArg::Auto, env = "RINGPULL_ENGINE")]
    engine: EngineArg,
    /// Longest silence within an answer: the deadline of each receive, and of each send
    #[arg(long, value_name = "TIME", value_parser = timeout, default_value = shown(RECV_TIMEOUT), env = "RINGPULL_RECV_TIMEOUT")]
    recv_timeout: Duration,
    /// Longest time for one address to accept a connection
    #[arg(long, value_name = "TIME", value_parser = timeout, default_value = shown(CONNECT_TIMEOUT), env = "RINGPULL_CONNECT_TIMEOUT")]
    connect_timeout: Duration,
    /// Longest TLS handshake
    #[arg(long, value_name = "TIME", value_parser = timeout, default_value = shown(TLS_TIMEOUT), env = "RINGPULL_TLS_TIMEOUT")]
    tls_timeout: Duration,
    /// Longest time for a whole response head to arrive
    #[arg(long, value_name = "TIME", value_parser = timeout, default_value = shown(HEAD_TIMEOUT), env = "RINGPULL_HEAD_TIMEOUT")]
    head_timeout: Duration,
    /// Longest time for a whole manifest or token to arrive, and a second more for each 16 KiB of it
    #[arg(long, value_name = "TIME", value_parser = timeout, default_value = shown(DOCUMENT_TIMEOUT), env = "RINGPULL_DOCUMENT_TIMEOUT")]
    document_timeout: Duration,
    /// Longest time for a name to be resolved
    #[arg(long, value_name = "TIME", value_parser = timeout, default_value = shown(RESOLVE_TIMEOUT), env = "RINGPULL_RESOLVE_TIMEOUT")]
    resolve_timeout: Duration,
    /// Further attempts after a failure, in a row that bring no new byte; 0 means one attempt
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = number(0..=RETRIES_MAX), default_value_t = RETRIES, env = "RINGPULL_RETRIES")]
    retries: u32,
    /// Longest time that a registry may ask to be left alone; more fails at once
    #[arg(long, value_name = "TIME", value_parser = wait, default_value = shown(MAX_WAIT), env = "RINGPULL_MAX_WAIT")]
    max_wait: Duration,
    /// Layers fetched at once
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = number(1..=JOBS_MAX as u32), default_value_t = JOBS as u32, env = "RINGPULL_JOBS")]
    jobs: u32,
    /// Connections at once; auto adds some while that brings more
    #[arg(long, value_name = "auto|N", value_parser = connections, default_value = "auto", env = "RINGPULL_CONNECTIONS")]
    connections: Connections,
    /// Memory of all buffers, such as 64M
    #[arg(long, value_name = "SIZE", value_parser = memory, default_value = "64M", env = "RINGPULL_MEMORY")]
    memory: u64,
    /// Most bytes per second, over all connections, such as 20M
    #[arg(long, value_name = "SIZE|none", value_parser = limit_rate, default_value = "none", env = "RINGPULL_LIMIT_RATE")]
    limit_rate: SizeOr,
    /// Least bytes per second of a connection, over --recv-timeout, such as 20K; a slower one is
    /// replaced, and fails if that does not help
    #[arg(long, value_name = "SIZE|none", value_parser = min_speed, default_value = shown_size(MIN_SPEED), env = "RINGPULL_MIN_SPEED")]
    min_speed: SizeOr,
    /// Speak plain http to the registry of the reference. The default is https, but http for
    /// loopback ones unless --ca-file or --insecure is given (RINGPULL_CA_FILE does not count);
    /// --plain-http=false is https always
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean, env = "RINGPULL_PLAIN_HTTP")]
    plain_http: Option<bool>,
    /// Do not verify the certificate of this host; may be repeated
    #[arg(long, value_name = "HOST", value_delimiter = ',', value_parser = host, env = "RINGPULL_INSECURE")]
    insecure: Vec<String>,
    /// Trust the certificate authorities in this PEM file, too; may be repeated
    #[arg(long, value_name = "FILE", value_delimiter = ',', env = "RINGPULL_CA_FILE")]
    ca_file: Vec<PathBuf>,
    /// Take credentials from this file instead of docker's config.json and containers' auth.json
    #[arg(long, value_name = "FILE", env = "RINGPULL_AUTHFILE")]
    authfile: Option<PathBuf>,
    /// Send the registry's credentials to the token service at this host, too, and let it be in a
    /// private network or on this machine; may be repeated
    #[arg(long, value_name = "HOST", value_delimiter = ',', value_parser = host, env = "RINGPULL_TRUST_TOKEN_SERVICE")]
    trust_token_service: Vec<String>,
    /// Fetch a layer that the registry does not have from the https URLs that the image names for it,
    /// without credentials
    #[arg(long, value_parser = boolean, env = "RINGPULL_ALLOW_FOREIGN_URLS")]
    allow_foreign_urls: bool,
    /// Whether `--ca-file` was typed, rather than set in the environment.
    #[arg(skip)]
    ca_file_is_typed: bool,
}

impl NetworkArgs {
    /// The same, knowing what was typed.
    pub(super) fn settled(mut self, matches: &ArgMatches) -> NetworkArgs {
        self.ca_file_is_typed = matches.value_source("ca_file") == Some(ValueSource::CommandLine);
        self
    }

    /// The paths that were named, with the option that names them.
    pub(super) fn paths(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let authfile = self.authfile.as_deref().map(|path| ("--authfile ", path));
        let ca_files = self.ca_file.iter().map(|path| ("--ca-file ", path.as_path()));
        authfile.into_iter().chain(ca_files)
    }

    pub(super) fn config(self, reporter: &Reporter) -> Result<NetworkConfig, Failure> {
        for host in &self.insecure {
            reporter.warn(&format!(
                "the certificate of {host} is not verified (--insecure): anyone on the way can read \
                 credentials sent to it, and answer in its name"
            ));
        }
        let read = read_credentials(self.authfile.as_deref());
        let (credentials, warnings) = read.map_err(Failure::usage)?;
        for warning in warnings {
            reporter.warn(&warning);
        }
        Ok(NetworkConfig {
            engine: self.engine.wish(),
            timeouts: Timeouts {
                resolve: self.resolve_timeout,
                connect: self.connect_timeout,
                tls: self.tls_timeout,
                head: self.head_timeout,
                document: self.document_timeout,
                recv: self.recv_timeout,
            },
            retries: self.retries,
            max_wait: self.max_wait,
            jobs: usize::try_from(self.jobs).unwrap_or(JOBS_MAX),
            connections: self.connections.0,
            memory: self.memory,
            limit_rate: self.limit_rate.0,
            min_speed: self.min_speed.0,
            plain_http: self.plain_http,
            tls: TlsOptions { ca_files: self.ca_file, insecure_hosts: self.insecure },
            ca_files_mean_https: self.ca_file_is_typed,
            credentials,
            foreign_urls: self.allow_foreign_urls,
            trusted_realms: self.trust_token_service,
            ..NetworkConfig::default()
        })
    }
}

/// The host of `[SCHEME://]HOST[:PORT][/…]`, in its one spelling ([`Origin::host`]). It is meant at
/// any port: scheme, port and path are what people copy along with it.
fn host(text: &str) -> Result<String, String> {
    let form = "write a host, such as auth.example.com or 10.0.0.7";
    let trimmed = text.trim();
    let rest = ["https://", "http://"]
        .iter()
        .find_map(|scheme| {
            let start = trimmed.get(..scheme.len())?;
            start.eq_ignore_ascii_case(scheme).then(|| &trimmed[scheme.len()..])
        })
        .unwrap_or(trimmed);
    let authority = rest.split('/').next().unwrap_or_default();
    let name = match authority.rsplit_once(':') {
        // Two colons or more make an IPv6 address, with brackets if a port follows.
        Some((name, port))
            if (!name.contains(':') || name.ends_with(']')) && port.parse::<u16>().is_ok() =>
        {
            name
        }
        _ => authority,
    };
    if name.is_empty() {
        return Err(format!("there is no host in it; {form}"));
    }
    let origin = Origin::new(Scheme::Https, name, Scheme::Https.default_port());
    Ok(origin.map_err(|error| format!("{error}; {form}"))?.host().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_found_in_what_people_copy() {
        for (text, expected) in [
            ("Registry.Test", "registry.test"),
            ("registry.test:5000", "registry.test"),
            (" registry.test:5000 ", "registry.test"),
            ("https://registry.test", "registry.test"),
            ("HTTPS://Registry.test:5000/", "registry.test"),
            ("http://registry.test/token?service=x", "registry.test"),
            ("registry.test/v2/", "registry.test"),
            ("[::1]:5000", "::1"),
            ("https://[0:0::1]:5000", "::1"),
            ("[::1]", "::1"),
            ("::1", "::1"),
            ("127.0.0.1", "127.0.0.1"),
            ("10.0.0.7:443", "10.0.0.7"),
            ("bücher.example", "xn--bcher-kva.example"),
        ] {
            assert_eq!(host(text).as_deref(), Ok(expected), "{text}");
        }
        for text in
            ["", " ", "https://", ":5000", "a b", "*.example.com", "user@host", "ftp://host", "a:b"]
        {
            let error = host(text).expect_err(text);
            assert!(error.contains("auth.example.com"), "no way out in: {error}");
        }
    }
}
