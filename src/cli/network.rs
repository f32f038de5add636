//! The options of all commands that talk to registries.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, ValueEnum};

use super::{Failure, overruled};
use crate::client::Timeouts;
use crate::config::{NetworkConfig, read_credentials};
use crate::limits::{
    CONNECT_TIMEOUT, CONNECTIONS_MAX, HEAD_TIMEOUT, JOBS, JOBS_MAX, LIMIT_RATE_MIN, MAX_WAIT,
    MEMORY_MIN, MIN_SPEED, RECV_TIMEOUT, RESOLVE_TIMEOUT, RETRIES, RETRIES_MAX, TIMEOUT_MAX,
    TLS_TIMEOUT,
};
use crate::report::{Reporter, Style, Verbosity, format};
use crate::transport::EngineKind;
use crate::transport::probe::EngineWish;
use crate::transport::tls::TlsOptions;

/// How much is said.
#[derive(Debug, Clone, Args)]
pub(super) struct ReportArgs {
    /// Print only the result, warnings and errors
    #[arg(short, long, value_parser = BoolishValueParser::new(), env = "RINGPULL_QUIET")]
    quiet: bool,
    /// Also print the engine and why, connections, redirects, retries, and what it cost
    #[arg(short, long, value_parser = BoolishValueParser::new(), env = "RINGPULL_VERBOSE")]
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
enum EngineArg {
    /// io_uring where it works, else epoll; -v says which and why
    Auto,
    /// io_uring: each wait is ended by the kernel; fails where io_uring cannot be used
    Uring,
    /// Readiness and timers, for kernels and containers without io_uring
    Epoll,
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
    /// Longest time for a name to be resolved
    #[arg(long, value_name = "TIME", value_parser = timeout, default_value = shown(RESOLVE_TIMEOUT), env = "RINGPULL_RESOLVE_TIMEOUT")]
    resolve_timeout: Duration,
    /// Further attempts after a failure, in a row without progress; 0 means one attempt
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=i64::from(RETRIES_MAX)), default_value_t = RETRIES, env = "RINGPULL_RETRIES")]
    retries: u32,
    /// Longest time that a registry may ask to be left alone; more fails at once
    #[arg(long, value_name = "TIME", value_parser = wait, default_value = shown(MAX_WAIT), env = "RINGPULL_MAX_WAIT")]
    max_wait: Duration,
    /// Layers fetched at once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=JOBS_MAX as i64), default_value_t = JOBS as u16, env = "RINGPULL_JOBS")]
    jobs: u16,
    /// Connections at once; auto adds some while that brings more
    #[arg(long, value_name = "auto|N", value_parser = connections, default_value = "auto", env = "RINGPULL_CONNECTIONS")]
    connections: Connections,
    /// Memory of all buffers, such as 64M
    #[arg(long, value_name = "SIZE", value_parser = memory, default_value = "64M", env = "RINGPULL_MEMORY")]
    memory: u64,
    /// Most bytes per second, over all connections, such as 20M
    #[arg(long, value_name = "SIZE", value_parser = limit_rate, env = "RINGPULL_LIMIT_RATE")]
    limit_rate: Option<u64>,
    /// Least bytes per second of a connection, over --recv-timeout, such as 20K; a slower one is
    /// replaced, and fails if that does not help
    #[arg(long, value_name = "SIZE|off", value_parser = min_speed, default_value = shown_size(MIN_SPEED), env = "RINGPULL_MIN_SPEED")]
    min_speed: SizeOr,
    /// Speak plain http to the registry of the reference. The default is https, but http for
    /// loopback ones unless --ca-file or --insecure is given (RINGPULL_CA_FILE does not count);
    /// --plain-http=false is https always
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new(), env = "RINGPULL_PLAIN_HTTP")]
    plain_http: Option<bool>,
    /// Do not verify the certificate of this host; may be repeated
    #[arg(long, value_name = "HOST", value_delimiter = ',', env = "RINGPULL_INSECURE")]
    insecure: Vec<String>,
    /// Trust the certificate authorities in this PEM file, too; may be repeated
    #[arg(long, value_name = "FILE", value_delimiter = ',', env = "RINGPULL_CA_FILE")]
    ca_file: Vec<PathBuf>,
    /// Take credentials from this file instead of docker's config.json and containers' auth.json
    #[arg(long, value_name = "FILE", env = "RINGPULL_AUTHFILE")]
    authfile: Option<PathBuf>,
    /// Send the registry's credentials to the token service at this host, too; may be repeated
    #[arg(long, value_name = "HOST", value_delimiter = ',', env = "RINGPULL_TRUST_TOKEN_SERVICE")]
    trust_token_service: Vec<String>,
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

    pub(super) fn config(self, reporter: &Reporter) -> Result<NetworkConfig, Failure> {
        let insecure_hosts = self.insecure.iter().map(|host| bare_host(host)).collect::<Vec<_>>();
        for host in &insecure_hosts {
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
            engine: match self.engine {
                EngineArg::Auto => EngineWish::Auto,
                EngineArg::Uring => EngineWish::Only(EngineKind::Uring),
                EngineArg::Epoll => EngineWish::Only(EngineKind::Epoll),
            },
            timeouts: Timeouts {
                resolve: self.resolve_timeout,
                connect: self.connect_timeout,
                tls: self.tls_timeout,
                head: self.head_timeout,
                recv: self.recv_timeout,
            },
            retries: self.retries,
            max_wait: self.max_wait,
            jobs: self.jobs.into(),
            connections: self.connections.0,
            memory: self.memory,
            limit_rate: self.limit_rate,
            min_speed: self.min_speed.0,
            plain_http: self.plain_http,
            tls: TlsOptions { ca_files: self.ca_file, insecure_hosts },
            ca_files_mean_https: self.ca_file_is_typed,
            credentials,
            trusted_realms: self.trust_token_service,
            ..NetworkConfig::default()
        })
    }
}

/// How times are written.
const TIME_FORM: &str = "write a time such as 60s, 500ms or 1m";

/// `60s`, `500ms`, `1m`; more than nothing and at most [`TIMEOUT_MAX`].
pub(super) fn timeout(text: &str) -> Result<Duration, String> {
    match wait(text)? {
        Duration::ZERO => Err(format!("a deadline of nothing would fail everything; {TIME_FORM}")),
        time => Ok(time),
    }
}

/// A time of at most [`TIMEOUT_MAX`]; `0s` is none.
fn wait(text: &str) -> Result<Duration, String> {
    let parsed = humantime::parse_duration(text.trim());
    let time = parsed.map_err(|error| format!("{error}; {TIME_FORM}"))?;
    if time > TIMEOUT_MAX {
        let most = humantime::format_duration(TIMEOUT_MAX);
        return Err(format!("at most {most} can be waited for; {TIME_FORM}"));
    }
    Ok(time)
}

/// A number of connections, or `auto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Connections(Option<usize>);

fn connections(text: &str) -> Result<Connections, String> {
    match text.parse() {
        _ if text == "auto" => Ok(Connections(None)),
        Ok(count @ 1..=CONNECTIONS_MAX) => Ok(Connections(Some(count))),
        _ => Err(format!("write auto, or a number from 1 to {CONNECTIONS_MAX}")),
    }
}

fn memory(text: &str) -> Result<u64, String> {
    size(text, MEMORY_MIN)
}

fn limit_rate(text: &str) -> Result<u64, String> {
    size(text, LIMIT_RATE_MIN)
}

/// A number of bytes, or a word for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SizeOr(pub(super) Option<u64>);

fn size_or(text: &str, word: &str) -> Result<SizeOr, String> {
    if text == word {
        return Ok(SizeOr(None));
    }
    let size = size(text, 1).map_err(|error| format!("{error}; or {word}"))?;
    Ok(SizeOr(Some(size)))
}

fn min_speed(text: &str) -> Result<SizeOr, String> {
    size_or(text, "off")
}

pub(super) fn direct_io_min(text: &str) -> Result<SizeOr, String> {
    size_or(text, "never")
}

/// A number of bytes, with `K`, `M` or `G` behind it for powers of 1024, as curl takes them.
fn size(text: &str, least: u64) -> Result<u64, String> {
    let form = "write a number of bytes, such as 500K, 20M or 1G";
    let (digits, unit) = match text.char_indices().last() {
        Some((last, 'k' | 'K')) => (&text[..last], 10),
        Some((last, 'm' | 'M')) => (&text[..last], 20),
        Some((last, 'g' | 'G')) => (&text[..last], 30),
        _ => (text, 0),
    };
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let number: Option<u64> = if is_number { digits.parse().ok() } else { None };
    let bytes = number.and_then(|number| number.checked_mul(1 << unit)).ok_or(form)?;
    if bytes < least {
        return Err(format!("at least {} are needed; {form}", format::bytes(least)));
    }
    Ok(bytes)
}

/// A default as it would be typed. Leaked once: clap keeps default values for the whole process.
pub(super) fn shown(time: Duration) -> &'static str {
    humantime::format_duration(time).to_string().leak()
}

pub(super) fn shown_size(bytes: u64) -> &'static str {
    bytes.to_string().leak()
}

/// The host of `HOST[:PORT]`, lower case, without the brackets of an IPv6 address.
fn bare_host(text: &str) -> String {
    let host = match text.strip_prefix('[') {
        Some(bracketed) => bracketed.split(']').next().unwrap_or(bracketed),
        None => match text.rsplit_once(':') {
            // Two colons or more make an IPv6 address without brackets.
            Some((host, port)) if !host.contains(':') && port.parse::<u16>().is_ok() => host,
            _ => text,
        },
    };
    host.to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_people_write_them() {
        for (text, milliseconds) in [
            ("2s", 2_000),
            ("500ms", 500),
            ("1m", 60_000),
            (" 1m 30s ", 90_000),
            ("24h", 86_400_000),
        ] {
            assert_eq!(timeout(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "60", "0s", "-1s", "1 fortnight", "25h", "1e3s", "99999999999999999999y"] {
            let error = timeout(text).expect_err(text);
            assert!(error.contains("60s"), "no way out in: {error}");
        }
        assert_eq!(wait("0s"), Ok(Duration::ZERO));
        assert!(wait("25h").is_err() && wait("-1s").is_err());
    }

    #[test]
    fn sizes_as_people_write_them() {
        for (text, bytes) in
            [("1", 1), ("20M", 20 << 20), ("64m", 64 << 20), ("3G", 3 << 30), ("5k", 5 << 10)]
        {
            assert_eq!(size(text, 0), Ok(bytes), "{text}");
        }
        for text in
            ["", "M", "1.5M", "-1", "+1", "1T", "1MB", " 1", "99999999999999999999", "20000000000G"]
        {
            assert!(size(text, 0).is_err(), "{text}");
        }
        assert!(limit_rate("1").is_err() && memory("1K").is_err());
        assert_eq!(min_speed("off"), Ok(SizeOr(None)));
        assert_eq!(min_speed("2K"), Ok(SizeOr(Some(2 << 10))));
        assert!(min_speed("0").is_err() && min_speed("none").is_err_and(|e| e.contains("off")));
        assert_eq!(direct_io_min("never"), Ok(SizeOr(None)));
        assert!(direct_io_min("off").is_err_and(|e| e.contains("never")));
        assert_eq!(connections("auto"), Ok(Connections(None)));
        assert_eq!(connections("16"), Ok(Connections(Some(16))));
        assert!(
            connections("0").is_err() && connections("257").is_err() && connections("all").is_err()
        );
    }

    #[test]
    fn an_insecure_host_is_a_host() {
        for (text, host) in [
            ("Registry.Test", "registry.test"),
            ("registry.test:5000", "registry.test"),
            ("[::1]:5000", "::1"),
            ("::1", "::1"),
            ("127.0.0.1", "127.0.0.1"),
        ] {
            assert_eq!(bare_host(text), host);
        }
    }
}
