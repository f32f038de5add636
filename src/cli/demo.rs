//! `ringpull demo`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{ArgMatches, Args};
use etcetera::BaseStrategy;
use tokio::sync::watch;

use super::network::{EngineArg, ReportArgs};
use super::pull::check_tilde;
use super::values::{Connections, SizeOr, connections, limit_rate, timeout};
use super::{Failure, print};
use crate::client::Timeouts;
use crate::config::{NetworkConfig, Platforms, PullConfig};
use crate::demo::{Action, Image, Kind, Options, Registry, RequestLine, Rule, Script};
use crate::error::Class;
use crate::image::{Algorithm, Digest, Platform, Reference};
use crate::pull::{Pulled, Stop, pull};
use crate::report::{Reporter, format};
use crate::store::{self, Destination};

/// Pull a generated image from a registry inside of this process, with one layer that falls silent
///
/// Needs no network. The registry listens on loopback, and everything on the way to the verified image
/// is the real thing. The image is left in DIR.
#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// Where to: an OCI image layout, left there [default: $XDG_DATA_HOME/ringpull-demo, made anew
    /// each time]
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
    /// How long the silence is waited for
    #[arg(long, value_name = "TIME", value_parser = timeout, default_value = "2s")]
    patience: Duration,
    /// All layers this many times smaller: for emulated machines, which hash slowly
    #[arg(long, value_name = "N", hide = true, default_value_t = 1,
          value_parser = clap::value_parser!(u64).range(1..=64))]
    smaller: u64,
    /// What the network is driven by
    #[arg(long, value_enum, default_value_t = EngineArg::Auto, env = "RINGPULL_ENGINE")]
    engine: EngineArg,
    /// Connections at once; auto adds some while that brings more
    #[arg(long, value_name = "auto|N", value_parser = connections, default_value = "auto", env = "RINGPULL_CONNECTIONS")]
    connections: Connections,
    /// Most bytes per second, over all connections, such as 20M
    #[arg(long, value_name = "SIZE|none", value_parser = limit_rate, default_value = "none", env = "RINGPULL_LIMIT_RATE")]
    limit_rate: SizeOr,
    #[command(flatten)]
    report: ReportArgs,
}

/// Sizes of the layers, in bytes: one large, some small, as in most images.
const LAYER_SIZES: [u64; 6] = [64 << 20, 32 << 20, 16 << 20, 8 << 20, 4 << 20, 1 << 20];

/// The layer whose first answer falls silent.
const STALLING_LAYER: usize = 1;

/// After how many bytes it does, so few that any first answer has them.
const SILENT_AFTER: u64 = 192 << 10;

const REPOSITORY: &str = "demo";
const TAG: &str = "latest";

impl DemoArgs {
    /// The same without what is overruled.
    pub(super) fn settled(mut self, matches: &ArgMatches) -> Result<DemoArgs, Failure> {
        self.report = self.report.settled(matches)?;
        Ok(self)
    }
}

pub(super) fn run(arguments: DemoArgs, stop: watch::Receiver<Option<Stop>>) -> Result<(), Failure> {
    let reporter = arguments.report.reporter();
    let directory = match arguments.directory {
        Some(directory) => {
            check_tilde("", &directory)?;
            directory
        }
        None => fresh_default()?,
    };
    // New content each time: a layer that is there already would not be pulled.
    let layer_sizes = LAYER_SIZES.map(|size| size / arguments.smaller);
    let image = Image::generate(fastrand::u64(..), &layer_sizes);
    let faults = Script::from([Rule::on(Kind::Blob)
        .layer(STALLING_LAYER)
        .first(1)
        .then(Action::StallAfter(SILENT_AFTER))]);
    let registry = Registry::start(Options { faults, ..Options::default() })
        .map_err(|error| Failure::new(Class::System, format!("the demo's registry: {error}")))?;
    registry.add(REPOSITORY, TAG, &image);
    print(
        &reporter,
        &[
            format!(
                "An image of {} layers, {}, is served by a registry inside of this process, at {}.",
                image.layers.len(),
                format::bytes(image.size()),
                registry.address()
            ),
            format!(
                "The first answer for its layer {} will fall silent after {} (of {}); a silence is waited \
                 for {}.",
                image.layers[STALLING_LAYER].digest.short(),
                format::bytes(SILENT_AFTER),
                format::bytes(layer_sizes[STALLING_LAYER]),
                format::duration(arguments.patience)
            ),
        ],
    )?;

    let timeouts = Timeouts { recv: arguments.patience, ..Timeouts::default() };
    let network = NetworkConfig {
        engine: arguments.engine.wish(),
        timeouts,
        connections: arguments.connections.0,
        limit_rate: arguments.limit_rate.0,
        ..NetworkConfig::default()
    };
    let reference =
        Reference::parse(&registry.reference(REPOSITORY, TAG)).map_err(Failure::usage)?;
    let config = PullConfig {
        reference,
        platforms: Platforms::Host(Platform::host()),
        destination: Destination::Layout { path: directory.clone(), tag: None },
        store: store::Options::default(),
        network,
    };
    let pulled = pull(&config, &reporter, stop)?;
    let verified = verify(&directory, &image)?;
    tell(&reporter, &image, &pulled, &registry.log(), &config, verified)
}

/// The demo's own layout, without what an earlier demo left in it.
fn fresh_default() -> Result<PathBuf, Failure> {
    let directories = etcetera::base_strategy::Xdg::new()
        .map_err(|_| Failure::usage("there is no home directory: name one, as in `demo DIR`"))?;
    let directory = directories.data_dir().join("ringpull-demo");
    match std::fs::remove_dir_all(&directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            let text = format!("cannot make {} anew: {error}", directory.display());
            Err(Failure::new(Class::Disk, text))
        }
        _ => Ok(directory),
    }
}

/// Reads every blob back and hashes it, trusting nothing that the pull said; how many there are.
fn verify(directory: &Path, image: &Image) -> Result<usize, Failure> {
    let blobs = [&image.manifest, &image.config].into_iter().chain(&image.layers);
    let mut count = 0;
    for blob in blobs {
        let path = directory.join("blobs/sha256").join(blob.digest.hex());
        let bytes = std::fs::read(&path).map_err(|error| {
            Failure::new(Class::Disk, format!("cannot read {}: {error}", path.display()))
        })?;
        if Digest::of(Algorithm::Sha256, &bytes) != blob.digest {
            let text = format!("{} does not have the digest it is named by", path.display());
            return Err(Failure::new(Class::Digest, text));
        }
        count += 1;
    }
    Ok(count)
}

/// What happened, as the registry saw it too.
fn tell(
    reporter: &Reporter,
    image: &Image,
    pulled: &Pulled,
    log: &[RequestLine],
    config: &PullConfig,
    verified: usize,
) -> Result<(), Failure> {
    let layer = &image.layers[STALLING_LAYER];
    let digest = layer.digest.to_string();
    let mut asked =
        log.iter().filter(|line| line.kind == Kind::Blob && line.target.ends_with(&digest));
    let silent = asked.find(|line| matches!(line.fault, Action::StallAfter(_)));
    let silent =
        silent.map(|line| (line.at, line.range.map_or(0, |(from, _)| from) + SILENT_AFTER));
    // The request for the next byte after the last one that came.
    let again = silent.and_then(|(_, stopped)| {
        asked.find_map(|line| Some((line.at, line.range.filter(|(from, _)| *from == stopped)?)))
    });
    let (Some((fell_silent, stopped)), Some((asked_again, (from, to)))) = (silent, again) else {
        let text = "the layer that fell silent was not asked for again from where it stopped";
        return Err(Failure::new(Class::RecvTimeout, text));
    };
    let waited = asked_again.saturating_sub(fell_silent);
    let timeouts = &config.network.timeouts;
    let ended = match waited < timeouts.recv {
        true => "Other connections were faster, which ended the wait",
        false => "Its deadline ended the wait",
    };
    let summary = &pulled.summary;
    let busy = summary.elapsed.saturating_sub(waited);
    print(
        reporter,
        &[
            format!("Engine: {}.", pulled.engine),
            format!(
                "Deadlines: {} to connect, {} for a response head, {} for each receive.",
                format::duration(timeouts.connect),
                format::duration(timeouts.head),
                format::duration(timeouts.recv)
            ),
            format!(
                "Layer {} fell silent at {}. {ended} after {}, and the rest was asked for on another \
                 connection: Range: bytes={from}-{to}.",
                layer.digest.short(),
                format::bytes(stopped),
                format::duration(waited)
            ),
            format!(
                "Pulled {} in {}, {} of them waiting out the silence: {} in the rest.",
                format::bytes(summary.bytes),
                format::duration(summary.elapsed),
                format::duration(waited),
                format::rate(format::per_second(summary.bytes, busy))
            ),
            format!(
                "Verified: all {verified} blobs in {} were read back and have their digests.",
                config.destination.path().display()
            ),
            format!(
                "The image is left there, {}: remove it with rm -r {}.",
                format::bytes(image.size()),
                config.destination.path().display()
            ),
        ],
    )
}
