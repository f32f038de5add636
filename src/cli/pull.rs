//! `ringpull pull`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{ArgMatches, Args};
use tokio::sync::watch;

use super::network::{NetworkArgs, ReportArgs};
use super::values::{SizeOr, TimeOr, boolean, direct_io_min, limit, shown, shown_size, timeout};
use super::{Failure, detached_boolean, overruled, print};
use crate::config::{Platforms, PullConfig, proxy_variable};
use crate::image::{Platform, Reference};
use crate::limits::{DIRECT_SIZE_MIN, LOCK_TIMEOUT};
use crate::pull::{Stop, pull};
use crate::registry::{Endpoint, EndpointOptions};
use crate::report::{Reporter, Verbosity, format, peak_memory};
use crate::store::{self, Destination};

/// Pull an image into the store, or into an OCI image layout
#[derive(Debug, Args)]
pub(super) struct PullArgs {
    /// Which image: NAME[:TAG][@DIGEST], such as alpine, ghcr.io/owner/image:1.2 or
    /// localhost:5000/image
    #[arg(value_name = "REFERENCE")]
    reference: String,
    /// Where to: oci:DIR[:TAG]; without it, to the store
    #[arg(value_name = "DESTINATION")]
    destination: Option<String>,
    /// The store: an OCI image layout shared by all pulls [default: $XDG_DATA_HOME/ringpull]
    #[arg(long, value_name = "DIR", env = "RINGPULL_STORE")]
    store: Option<PathBuf>,
    /// Which image of a multi-platform one: OS/ARCH[/VARIANT] [default: this machine's]
    #[arg(long, value_name = "PLATFORM", env = "RINGPULL_PLATFORM")]
    platform: Option<String>,
    /// All images of a multi-platform one, and their index
    #[arg(long, value_parser = boolean, env = "RINGPULL_ALL_PLATFORMS")]
    all_platforms: bool,
    /// Do not wait for the disk: faster, but a power cut may cost what was pulled
    #[arg(long, value_parser = boolean, env = "RINGPULL_NO_FSYNC")]
    no_fsync: bool,
    /// Longest time that another process may hold the store's lock, which is not held while anything
    /// is fetched
    #[arg(long, value_name = "TIME", value_parser = timeout, default_value = shown(LOCK_TIMEOUT), env = "RINGPULL_LOCK_TIMEOUT")]
    lock_timeout: Duration,
    /// Smallest layer, in bytes, that is written past the page cache, so that it pushes out nothing
    /// that others have there
    #[arg(long, value_name = "SIZE|none", value_parser = direct_io_min, default_value = shown_size(DIRECT_SIZE_MIN), env = "RINGPULL_DIRECT_IO_MIN")]
    direct_io_min: SizeOr,
    /// Longest time for the whole command; what was received by then is kept
    #[arg(long, value_name = "TIME|none", value_parser = limit, default_value = "none", env = "RINGPULL_TIMEOUT")]
    timeout: TimeOr,
    #[command(flatten)]
    report: ReportArgs,
    #[command(flatten)]
    network: NetworkArgs,
}

impl PullArgs {
    /// The paths that were named, with what they are for.
    fn paths(&self) -> Vec<(&'static str, &Path)> {
        let destination = self.destination.as_deref().and_then(|text| text.strip_prefix("oci:"));
        let destination = destination.map(|path| ("oci:", Path::new(path)));
        let store = self.store.as_deref().map(|path| ("--store ", path));
        destination.into_iter().chain(store).chain(self.network.paths()).collect()
    }

    /// How long the whole command may take.
    pub(super) fn limit(&self) -> Option<Duration> {
        self.timeout.0
    }

    /// The same without what is overruled.
    pub(super) fn settled(mut self, matches: &ArgMatches) -> Result<PullArgs, Failure> {
        self.report = self.report.settled(matches)?;
        self.network = self.network.settled(matches);
        if self.platform.is_some() && self.all_platforms {
            match overruled(matches, "platform", "all_platforms")? {
                "platform" => self.platform = None,
                _ => self.all_platforms = false,
            }
        }
        Ok(self)
    }
}

/// Tells of what stands in the place of the reference and is none.
fn check_order(reference: &str, destination: Option<&str>) -> Result<(), Failure> {
    if !reference.starts_with("oci:") {
        return Ok(());
    }
    let image = destination.unwrap_or("REFERENCE");
    Err(Failure::usage(format!(
        "`{reference}` says where to, but the image comes first: write ringpull pull {image} {reference}"
    )))
}

/// Tells of a `~` that a shell has left alone: it stands for the home directory only at the beginning
/// of a word.
pub(super) fn check_tilde(name: &str, path: &Path) -> Result<(), Failure> {
    let Ok(rest) = path.strip_prefix("~") else { return Ok(()) };
    let rest = rest.display();
    Err(Failure::usage(format!(
        "`{name}{}`: the shell does not replace this ~ by the home directory: write {name}$HOME/{rest}, or \
         {name}./~/{rest} for a directory of that name",
        path.display()
    )))
}

pub(super) fn run(arguments: PullArgs, stop: watch::Receiver<Option<Stop>>) -> Result<(), Failure> {
    let reporter = arguments.report.reporter();
    if boolean(&arguments.reference).is_ok()
        && let Some(meant) = detached_boolean(std::env::args())
    {
        return Err(Failure::usage(meant));
    }
    check_order(&arguments.reference, arguments.destination.as_deref())?;
    for (name, path) in arguments.paths() {
        check_tilde(name, path)?;
    }
    let reference = Reference::parse(&arguments.reference).map_err(Failure::usage)?;
    let destination = match (&arguments.destination, arguments.store) {
        (None, Some(path)) => Destination::Default { path },
        (text, _) => Destination::from_option(text.as_deref()).map_err(Failure::usage)?,
    };
    let platforms = match (&arguments.platform, arguments.all_platforms) {
        (_, true) => Platforms::All,
        (Some(text), _) => Platforms::One(Platform::parse(text).map_err(Failure::usage)?),
        (None, _) => Platforms::Host(Platform::host()),
    };
    let config = PullConfig {
        reference,
        platforms,
        destination,
        store: store::Options {
            fsync: !arguments.no_fsync,
            lock_timeout: arguments.lock_timeout,
            direct_size_min: arguments.direct_io_min.0.unwrap_or(u64::MAX),
        },
        network: arguments.network.config(&reporter)?,
    };
    warn_of_unused_proxy(&config, &reporter);
    let pulled = pull(&config, &reporter, stop).inspect_err(|_| {
        if let Some(peak) = peak_memory() {
            reporter.note(&format!("peak memory {}", format::bytes(peak)));
        }
    })?;
    let name = config.reference.to_string();
    if reporter.verbosity() == Verbosity::Quiet {
        return print(&reporter, &[name]);
    }
    let status = match pulled.downloaded {
        true => "Downloaded newer image for",
        false => "Image is up to date for",
    };
    let mut lines = vec![format!("Digest: {}", pulled.digest)];
    if pulled.manifest != pulled.digest {
        lines.push(format!("Manifest: {}", pulled.manifest));
    }
    lines.push(format!("Status: {status} {name}"));
    print(&reporter, &lines)
}

/// Says that the proxy which the environment names is not used, before anything waits for a registry
/// that perhaps only the proxy can reach. The value is not shown: it may hold a password.
fn warn_of_unused_proxy(config: &PullConfig, reporter: &Reporter) {
    let scheme = config.network.scheme_for(&config.reference);
    // The pull says what is wrong with the registry's name.
    let Ok(endpoint) = Endpoint::for_reference(&config.reference, &EndpointOptions { scheme })
    else {
        return;
    };
    let environment =
        |name: &str| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    if let Some(variable) = proxy_variable(environment, &endpoint.origin()) {
        reporter.warn(&format!(
            "{variable} names a proxy, and ringpull cannot use proxies yet: {} is asked directly. \
             If that is meant, add it to NO_PROXY",
            config.reference.registry()
        ));
    }
}
