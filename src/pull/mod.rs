//! A pull: from a reference to a verified image in a store.
//!
//! ```text
//!   resolve    reference → manifests, small and kept in memory
//!   plan       which blobs the store does not have, each digest once
//!   descriptors  how many files and sockets there may be, and what for
//!   workers    a thread per core, an engine each
//!     board    which piece of which blob is fetched next; retry: whether and when again
//!     claim    who writes a blob, and what of it is here already
//!     replace  which connections are too slow to be kept; lane: what each one is to fetch
//!     tuner    how many connections; throttle: how many bytes per second
//!     fetch    one piece: asked for, written, hashed; the last one has its blob verified and published
//!     foreign  whom to ask for a layer that the registry does not have
//!   register   manifests are written, then the name: only now is the image visible
//!   signals    end all of that, whatever it waits for
//! ```
//!
//! Mirrors have their place in the endpoint.

mod board;
mod claim;
mod descriptors;
mod error;
mod executor;
mod fetch;
mod foreign;
mod lane;
mod replace;
mod resolve;
mod retry;
mod signals;
mod throttle;
mod tuner;
mod workers;

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::watch;

pub use error::Error;
use error::{Cause, Object, Subject};
use executor::Executor;
use foreign::Foreign;
use resolve::Resolved;
use retry::Policy;
pub use signals::{Signals, Stop};

use crate::client::{Client, Session};
use crate::config::PullConfig;
use crate::image::manifest::Content;
use crate::image::{Descriptor, Digest};
use crate::registry::{Endpoint, EndpointOptions};
use crate::report::{BlobProgress, PullProgress, Reporter, Shown, Summary, format, peak_memory};
use crate::store::{Destination, INDEX_DIGEST, Presence, Registered, Store, Swept};
use crate::transport::probe::{self, Choice};
use crate::transport::tls::TlsConfig;
use crate::transport::{Connector, Engine, clock};

/// Sockets that the thread which resolves references may have at once: one, and one that a redirect
/// leads to, and those that are about to be closed.
const RESOLVING_SOCKETS: usize = 8;

/// What a pull came to.
#[derive(Debug, Clone)]
pub struct Pulled {
    /// What the reference's tag or digest means: the manifest or index that the registry answered.
    pub digest: Digest,
    /// What of it is in the store: the manifest for the platform, or the whole index.
    pub manifest: Digest,
    /// Whether the store has it under this name only now.
    pub downloaded: bool,
    /// The engine that fetched it, and why that one.
    pub engine: Choice,
    /// What it cost.
    pub summary: Summary,
}

/// A blob to be fetched.
struct Job {
    descriptor: Descriptor,
    progress: BlobProgress,
    /// Whether the store has a damaged one in its place.
    replaces: bool,
    /// Who may have it if the registry has not.
    foreign: Foreign,
    slot: Mutex<fetch::Slot>,
}

/// What all workers share.
struct Context {
    session: Arc<Session>,
    endpoint: Endpoint,
    /// The registry as the reference names it, for messages.
    registry: String,
    repository: String,
    store: Store,
    policy: Policy,
    /// Whether others than the registry may be asked for a layer, as its manifest says.
    foreign_urls: bool,
    /// How long another process may write nothing of a blob before it is not waited for any more.
    held_silence_max: Duration,
    reporter: Reporter,
    retries_done: AtomicU64,
    stalls: AtomicU64,
    wasted: AtomicU64,
}

/// Pulls an image.
///
/// It ends early, and in order, once `stop` has a reason: see [`Signals`].
///
/// # Errors
/// See [`Error`]; the store is then as it was, but for blobs that were complete, and what is kept of
/// others for the next pull to go on with.
pub fn pull(
    config: &PullConfig,
    reporter: &Reporter,
    stop: watch::Receiver<Option<Stop>>,
) -> Result<Pulled, Error> {
    let choice = probe::choose(config.network.engine).map_err(Error::new)?;
    reporter.note(&format!("engine: {choice}"));
    descriptors::prepare(choice.engine)?;
    let engine = Engine::start(choice.engine, RESOLVING_SOCKETS)
        .map_err(|source| Error::system("cannot start the engine", source))?;
    engine.run(async {
        let executor = Executor::Threads(choice.engine);
        pull_until(config, reporter, choice, &engine, executor, stop).await
    })
}

/// Pulls an image inside of an engine's [`run`](Engine::run), with all the work on its thread, until
/// `stop` has a reason to end.
///
/// # Errors
/// As [`pull`].
pub async fn pull_on(
    engine: &Engine,
    config: &PullConfig,
    reporter: &Reporter,
    stop: watch::Receiver<Option<Stop>>,
) -> Result<Pulled, Error> {
    let choice = Choice { engine: engine.kind(), why: "given".into() };
    let executor = Executor::Local;
    pull_until(config, reporter, choice, engine, executor, stop).await
}

async fn pull_until(
    config: &PullConfig,
    reporter: &Reporter,
    choice: Choice,
    engine: &Engine,
    executor: Executor,
    mut stop: watch::Receiver<Option<Stop>>,
) -> Result<Pulled, Error> {
    let context = Arc::new(Context::new(config, reporter)?);
    let pulled = pull_with(&context, config, choice, engine, executor, &mut stop).await;
    if pulled.is_err() {
        context.store.remove_if_unused();
    }
    pulled
}

async fn pull_with(
    context: &Arc<Context>,
    config: &PullConfig,
    choice: Choice,
    engine: &Engine,
    executor: Executor,
    stop: &mut watch::Receiver<Option<Stop>>,
) -> Result<Pulled, Error> {
    let start = clock::now();
    let reporter = &context.reporter;
    let client = Client::new(engine.connector(), Arc::clone(&context.session));
    let name = config.name();
    let label = config.reference.tag().map_or_else(|| config.reference.manifest_key(), Into::into);
    reporter.status(&format!("{label}: Pulling from {}", config.reference.repository()));

    let shown = reporter.waiting(&label);
    let client = client.shown_by(shown.handle());
    let resolving = resolve::resolve(&client, context, &config.reference, &config.platforms);
    let mut resolved = tokio::select! {
        biased;
        resolved = resolving => resolved?,
        why = workers::stopped(stop) => return Err(Error::new(Cause::Stopped(why))),
    };
    // Its connections are of no use to the threads that fetch, and would count beside theirs.
    drop((client, shown));
    // What is found now must still be there when it is named.
    let _held = context.store.hold_blobs().map_err(Error::new)?;
    if let Some(why) = context.store.missing_locks() {
        reporter.warn(&format!(
            "the file system of {} has no locks ({why}): pulls into it share no layers and begin anew \
             after an interruption. Let one process at a time pull into it",
            context.store.path().display()
        ));
    }
    let connector = engine.connector();
    let blobs = std::mem::take(&mut resolved.blobs);
    let progress =
        context.reporter.pull(blobs.iter().map(|blob| shown_as(blob, &resolved.configs)));
    let blobs = (blobs, progress);
    let fetched = fetch_missing(context, blobs, config, executor, &connector, stop).await?;
    if let Some(offered) = resolve::other_platform(context, &resolved, &config.platforms) {
        reporter.warn(&format!(
            "the image is for {offered}, and this machine is {}: pull it with --platform {offered} \
             if that is what you want",
            crate::image::Platform::host(),
        ));
    }
    let registered = register(context, &resolved, &name)?;
    if let Some(why) = context.store.unsyncable() {
        reporter.note(&format!(
            "names in {} cannot be synced ({why}): a power cut may cost what was pulled last",
            context.store.path().display()
        ));
    }

    let downloaded = fetched || !matches!(registered, Registered::Unchanged);
    let summary = context.summary(start);
    reporter.summary(&summary);
    let (digest, manifest) = (resolved.digest, resolved.root.digest);
    Ok(Pulled { digest, manifest, downloaded, engine: choice, summary })
}

/// How a blob is shown: a config is no layer, and says so.
fn shown_as(blob: &Content, configs: &HashSet<Digest>) -> Shown {
    let Descriptor { digest, size, .. } = blob.descriptor;
    let is_layer = !configs.contains(&digest);
    let name = if is_layer { digest.short() } else { format!("{} (config)", digest.short()) };
    Shown { name, size, is_layer }
}

/// Fetches what the store does not have, and shows it; whether there was anything.
async fn fetch_missing(
    context: &Arc<Context>,
    (blobs, progress): (Vec<Content>, PullProgress),
    config: &PullConfig,
    executor: Executor,
    connector: &Connector,
    stop: &mut watch::Receiver<Option<Stop>>,
) -> Result<bool, Error> {
    let mut jobs = Vec::new();
    let mut embedded = false;
    for (Content { descriptor, urls, data }, progress) in blobs.into_iter().zip(progress.blobs()) {
        let replaces = match context.store.check(&descriptor).map_err(Error::new)? {
            Presence::Present => {
                progress.exists();
                continue;
            }
            Presence::Missing => {
                // Counted from the start, though it is this blob's turn only later.
                progress.set(context.store.kept_of(&descriptor.digest));
                false
            }
            Presence::Damaged(damage) => {
                context.reporter.warn(&format!(
                    "blob {} in {} is damaged ({damage}); it is fetched again",
                    descriptor.digest,
                    context.store.path().display()
                ));
                true
            }
        };
        if let Some(bytes) = data {
            // Its document has brought it along, or it was worth to be fetched with that.
            context.store.put(&descriptor, &bytes).map_err(Error::new)?;
            progress.complete();
            embedded = true;
            continue;
        }
        let (progress, foreign) = (progress.clone(), Foreign::new(urls));
        jobs.push(Job { descriptor, progress, replaces, foreign, slot: Mutex::default() });
    }
    if jobs.is_empty() {
        return Ok(embedded);
    }
    let missing = jobs.iter().map(|job| &job.descriptor);
    context.store.expect_room_for(missing).map_err(Error::new)?;
    let network = &config.network;
    workers::fetch_all(Arc::clone(context), executor, connector, jobs, network, stop).await?;
    Ok(true)
}

/// Writes the manifests, then the name.
fn register(context: &Context, resolved: &Resolved, name: &str) -> Result<Registered, Error> {
    for (descriptor, bytes) in &resolved.documents {
        context.store.put(descriptor, bytes).map_err(Error::new)?;
    }
    // Of an index that is not stored itself, the entry tells the digest.
    let index = resolved.digest.to_string();
    let annotations: &[(&str, &str)] = match resolved.digest == resolved.root.digest {
        true => &[],
        false => &[(INDEX_DIGEST, &index)],
    };
    context.store.register(name, &resolved.root, annotations).map_err(Error::new)
}

impl Context {
    fn new(config: &PullConfig, reporter: &Reporter) -> Result<Context, Error> {
        let scheme = config.network.scheme_for(&config.reference);
        let endpoint = Endpoint::for_reference(&config.reference, &EndpointOptions { scheme })
            .map_err(|error| Error::new(crate::client::Error::from(error)))?;
        let tls = TlsConfig::new(&config.network.tls).map_err(Error::new)?;
        let session =
            Session::new(&config.network, tls, &config.reference, reporter).map_err(Error::new)?;
        let store = Store::open(config.destination.path(), config.store).map_err(Error::new)?;
        let swept = store.sweep();
        if let Err(error) = &swept {
            // The store may be read-only, and have all that is wanted.
            reporter.note(&format!("left-overs of earlier pulls stay: {error}"));
        }
        let Swept { files, bytes } = swept.unwrap_or_default();
        if files > 0 {
            let left = format::count(files, "partial blob", "partial blobs");
            let bytes = format::bytes(bytes);
            reporter.note(&format!("removed {left} ({bytes}) that an earlier pull left behind"));
        }
        Ok(Context {
            session: Arc::new(session),
            endpoint,
            registry: config.reference.registry().to_owned(),
            repository: config.reference.repository().to_owned(),
            store,
            foreign_urls: config.network.foreign_urls,
            policy: Policy::new(&config.network),
            // As long as it may wait for a receive in vain, and then for the next.
            held_silence_max: config.network.timeouts.recv.saturating_mul(2),
            reporter: reporter.clone(),
            retries_done: AtomicU64::new(0),
            stalls: AtomicU64::new(0),
            wasted: AtomicU64::new(0),
        })
    }

    fn subject(&self, object: Object) -> Subject {
        Subject { registry: self.registry.clone(), object }
    }

    fn summary(&self, start: Instant) -> Summary {
        Summary {
            bytes: self.session.bytes_received(),
            elapsed: clock::now().saturating_duration_since(start),
            connections: self.session.connections_opened(),
            retries: self.retries_done.load(Ordering::Relaxed),
            stalls: self.stalls.load(Ordering::Relaxed),
            wasted: self.wasted.load(Ordering::Relaxed),
            peak_memory: peak_memory(),
        }
    }
}

impl PullConfig {
    /// The image's name in its store: the whole reference in the default store, which all images
    /// share; in a layout of the user's, the tag, as other tools write it.
    fn name(&self) -> String {
        match &self.destination {
            Destination::Default { .. } => self.reference.to_string(),
            Destination::Layout { tag: Some(tag), .. } => tag.clone(),
            Destination::Layout { tag: None, .. } => {
                self.reference.tag().map_or_else(|| "latest".to_owned(), str::to_owned)
            }
        }
    }
}
