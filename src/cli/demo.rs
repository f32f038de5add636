//! `ringpull demo`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{ArgMatches, Args};
use etcetera::BaseStrategy;
use tokio::sync::watch;

use super::network::{NetworkArgs, ReportArgs};
use super::values::timeout;
use super::{Failure, print};
use crate::config::{Platforms, PullConfig};
use crate::demo::{Action, Image, Kind, Options, Registry, RequestLine, Rule, Script};
use crate::error::Class;
use crate::image::{Algorithm, Digest, Platform, Reference};
use crate::pull::{Pulled, Stop, pull};
use crate::report::{Reporter, format};
use crate::store::{self, Destination};

/// Pull a generated image from a registry inside of this process, with one layer that falls silent
///
/// Needs no network. The registry listens on loopback, and everything on the way to the verified
/// image is the real thing.
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
    #[command(flatten)]
    report: ReportArgs,
    #[command(flatten)]
    network: NetworkArgs,
}

/// Sizes of the layers, in bytes: one large, some small, as in most images.
const LAYER_SIZES: [u64; 6] = [64 << 20, 32 << 20, 16 << 20, 8 << 20, 4 << 20, 1 << 20];

/// The layer that falls silent within its first piece, once.
const STALLING_LAYER: usize = 1;

const REPOSITORY: &str = "demo";
const TAG: &str = "latest";

impl DemoArgs {
    /// The same without what is overruled.
    pub(super) fn settled(mut self, matches: &ArgMatches) -> Result<DemoArgs, Failure> {
        self.report = self.report.settled(matches)?;
        self.network = self.network.settled(matches);
        Ok(self)
    }
}

pub(super) fn run(arguments: DemoArgs, stop: watch::Receiver<Option<Stop>>) -> Result<(), Failure> {
    let reporter = arguments.report.reporter();
    let directory = match arguments.directory {
        Some(directory) => directory,
        None => fresh_default()?,
    };
    // New content each time: a layer that is there already would not be pulled.
    let layer_sizes = LAYER_SIZES.map(|size| size / arguments.smaller);
    let image = Image::generate(fastrand::u64(..), &layer_sizes);
    let silent_at = layer_sizes[STALLING_LAYER] / 4;
    let faults = Script::from([Rule::on(Kind::Blob)
        .layer(STALLING_LAYER)
        .first(1)
        .then(Action::StallAfter(silent_at))]);
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
                "Its layer {} will fall silent after {}; a silence is waited for {}.",
                image.layers[STALLING_LAYER].digest.short(),
                format::progress_bytes(silent_at, layer_sizes[STALLING_LAYER]),
                format::duration(arguments.patience)
            ),
        ],
    )?;

    let mut network = arguments.network.config(&reporter)?;
    network.timeouts.recv = arguments.patience;
    let reference =
        Reference::parse(&registry.reference(REPOSITORY, TAG)).map_err(Failure::usage)?;
    let config = PullConfig {
        reference,
        platforms: Platforms::One(Platform::host()),
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
    let resumed = log
        .iter()
        .filter(|line| line.kind == Kind::Blob && line.target.ends_with(&layer.digest.to_string()));
    let Some((from, to)) = resumed.filter_map(|line| line.range).next_back() else {
        let text = "the layer that fell silent was not asked for again from where it stopped";
        return Err(Failure::new(Class::RecvTimeout, text));
    };
    let timeouts = &config.network.timeouts;
    let summary = &pulled.summary;
    let busy = summary.elapsed.saturating_sub(timeouts.recv);
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
                "Layer {} fell silent at {}. Its deadline ended the wait after {}, and the rest was \
                 asked for on another connection: Range: bytes={from}-{to}.",
                layer.digest.short(),
                format::bytes(from),
                format::duration(timeouts.recv)
            ),
            format!(
                "Pulled {} in {}, {} of them waiting out the silence: {} in the rest.",
                format::bytes(summary.bytes),
                format::duration(summary.elapsed),
                format::duration(timeouts.recv),
                format::rate(format::per_second(summary.bytes, busy))
            ),
            format!(
                "Verified: all {verified} blobs in {} were read back and have their digests.",
                config.destination.path().display()
            ),
        ],
    )
}
