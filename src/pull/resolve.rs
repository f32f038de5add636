//! From a reference to the manifests it means, and the blobs they need.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::SystemTime;

use super::Context;
use super::error::{Cause, Error, Object, Subject};
use super::retry::{Attempts, Failure, Verdict};
use crate::client::{Client, Question};
use crate::config::Platforms;
use crate::http::Method;
use crate::image::manifest::{
    Content, Document, EntryKind, Index, Manifest, ManifestError, config_contradicts,
};
use crate::image::{Algorithm, Descriptor, Digest, MediaType, Platform, Reference};
use crate::limits::{
    DESCRIPTORS_MAX, DOCUMENTS_SIZE_MAX, IMAGE_CONFIG_SIZE_MAX, INDEX_DEPTH_MAX, MANIFEST_SIZE_MAX,
};
use crate::registry::{Asked, answer, request};
use crate::report::WaitedFor;
use crate::transport::clock;

/// What a reference means.
pub(super) struct Resolved {
    /// The digest of what the registry answered to the reference itself.
    pub(super) digest: Digest,
    /// What the name will mean in the store: the one manifest for the platform that was asked for,
    /// or the whole index.
    pub(super) root: Descriptor,
    /// The manifests and indexes to be stored, with their bytes; those that are referred to before
    /// those that refer to them.
    pub(super) documents: Vec<(Descriptor, Vec<u8>)>,
    /// Configs and layers, each digest once.
    pub(super) blobs: Vec<Content>,
    /// Which of them are configs: those are no layers.
    pub(super) configs: HashSet<Digest>,
    /// The config that says whether the image runs on this machine, where nothing else does and
    /// nobody asked for a platform. To be looked at once it is here.
    pub(super) unchecked: Option<Descriptor>,
    /// The size that each digest has, of documents and blobs. At most [`DESCRIPTORS_MAX`].
    sizes: HashMap<Digest, u64>,
    /// Bytes of the documents that are kept, of those that are still to be fetched, and of what
    /// they embed. At most [`DOCUMENTS_SIZE_MAX`].
    kept: u64,
}

/// An answer of the registry: verified, and not read yet.
struct Received {
    digest: Digest,
    bytes: Vec<u8>,
    content_type: Option<MediaType>,
}

/// A document as the registry answered it: verified, and read.
struct Fetched {
    descriptor: Descriptor,
    bytes: Vec<u8>,
    document: Document,
}

/// Asks for what `reference` means, and for all that it leads to on the platforms wanted, down to
/// manifests.
pub(super) async fn resolve(
    client: &Client,
    context: &Context,
    reference: &Reference,
    platforms: &Platforms,
) -> Result<Resolved, Error> {
    let wanted = Wanted::Reference(reference);
    let mut fetched = fetch(client, context, &wanted, Fetched::read).await?;
    let mut resolved = Resolved::new(&fetched.descriptor);
    let platform = match platforms {
        Platforms::All => {
            all(client, context, fetched, &mut resolved).await?;
            return Ok(resolved);
        }
        Platforms::One(platform) | Platforms::Host(platform) => platform,
    };
    // Whether an index says for which platform the manifest is.
    let mut named = false;
    for _ in 0..=INDEX_DEPTH_MAX {
        let index = match fetched.document {
            Document::Manifest(_) => {
                resolved.root = fetched.descriptor.clone();
                if !named {
                    check_platform(client, context, &mut fetched, platforms, &mut resolved).await?;
                }
                resolved.add(context, fetched)?;
                return Ok(resolved);
            }
            Document::Index(index) => index,
        };
        let entry = index
            .select(platform)
            .map_err(|error| Error::about(&about(context, &fetched.descriptor), error))?;
        named |= entry.platform.is_some();
        let wanted = entry.descriptor.clone();
        fetched = fetch(client, context, &Wanted::Descriptor(&wanted), Fetched::read).await?;
    }
    let key = resolved.digest.to_string();
    Err(Error::about(&context.subject(Object::Manifest(key)), Cause::IndexDepth))
}

/// Compares the platform wanted with what the config of a manifest says, where no index has said
/// what the manifest is for.
///
/// A platform that the user asked for is worth to fetch the config first: nothing is stored of an
/// image that is for another. Of this machine's platform, the config is looked at when it is here
/// anyway.
async fn check_platform(
    client: &Client,
    context: &Context,
    fetched: &mut Fetched,
    platforms: &Platforms,
    resolved: &mut Resolved,
) -> Result<(), Error> {
    let subject = about(context, &fetched.descriptor);
    let Document::Manifest(Manifest { config, .. }) = &mut fetched.document else { return Ok(()) };
    if config.descriptor.size > IMAGE_CONFIG_SIZE_MAX as u64 {
        return Ok(());
    }
    let wanted = match platforms {
        Platforms::All => return Ok(()),
        Platforms::Host(_) => {
            resolved.unchecked = Some(config.descriptor.clone());
            return Ok(());
        }
        Platforms::One(platform) => platform,
    };
    let bytes = match &config.data {
        Some(bytes) => bytes,
        None => {
            let digest = &config.descriptor.digest;
            let stored = context.store.read(digest, IMAGE_CONFIG_SIZE_MAX as u64);
            let bytes = match stored {
                Ok(Some(bytes)) => bytes,
                // A damaged one is fetched again.
                Ok(None) | Err(_) => {
                    let wanted = Wanted::Config(&config.descriptor);
                    fetch(client, context, &wanted, |received| Ok(received.bytes)).await?
                }
            };
            config.data.insert(bytes)
        }
    };
    match config_contradicts(bytes, wanted) {
        None => Ok(()),
        Some(offered) => Err(Error::about(
            &subject,
            Cause::OtherPlatform { wanted: wanted.clone().into(), offered: offered.into() },
        )),
    }
}

/// The platform of a config that was not looked at before it was here, if the image does not run on
/// this machine.
pub(super) fn other_platform(
    context: &Context,
    resolved: &Resolved,
    platforms: &Platforms,
) -> Option<Platform> {
    let (Some(config), Platforms::Host(host)) = (&resolved.unchecked, platforms) else {
        return None;
    };
    let bytes = context.store.read(&config.digest, IMAGE_CONFIG_SIZE_MAX as u64).ok()??;
    config_contradicts(&bytes, host)
}

fn about(context: &Context, document: &Descriptor) -> Subject {
    context.subject(Object::Manifest(document.digest.to_string()))
}

/// Everything that `first` leads to, level by level.
async fn all(
    client: &Client,
    context: &Context,
    first: Fetched,
    resolved: &mut Resolved,
) -> Result<(), Error> {
    let mut wanted: VecDeque<(Descriptor, usize)> = VecDeque::new();
    resolved.keep(context, &first.descriptor)?;
    let (mut fetched, mut depth) = (first, 0);
    loop {
        if let Document::Index(index) = &fetched.document {
            for entry in entries(index) {
                // What all of them take is known, and refused, before the first is fetched.
                if resolved.keep(context, entry)? {
                    wanted.push_back((entry.clone(), depth + 1));
                }
            }
        }
        resolved.add(context, fetched)?;
        let Some((next, its_depth)) = wanted.pop_front() else { break };
        if its_depth > INDEX_DEPTH_MAX {
            let key = resolved.digest.to_string();
            return Err(Error::about(&context.subject(Object::Manifest(key)), Cause::IndexDepth));
        }
        fetched = fetch(client, context, &Wanted::Descriptor(&next), Fetched::read).await?;
        depth = its_depth;
    }
    // What is referred to is stored before what refers to it.
    resolved.documents.reverse();
    Ok(())
}

/// The entries of an index that are manifests or indexes: all but unknown kinds of artifacts, which
/// cannot be read.
fn entries(index: &Index) -> impl Iterator<Item = &Descriptor> {
    let known = |media_type: &MediaType| media_type.is_index() || media_type.is_manifest();
    index
        .manifests
        .iter()
        .filter(move |entry| {
            entry.kind != EntryKind::Artifact || known(&entry.descriptor.media_type)
        })
        .map(|entry| &entry.descriptor)
}

impl Resolved {
    fn new(first: &Descriptor) -> Resolved {
        Resolved {
            digest: first.digest,
            root: first.clone(),
            documents: Vec::new(),
            blobs: Vec::new(),
            configs: HashSet::new(),
            unchecked: None,
            sizes: HashMap::new(),
            kept: 0,
        }
    }

    /// Takes a document that was fetched, and the blobs that it refers to.
    fn add(&mut self, context: &Context, fetched: Fetched) -> Result<(), Error> {
        let Fetched { descriptor, bytes, document } = fetched;
        if let Document::Manifest(Manifest { config, layers, .. }) = document {
            self.configs.insert(config.descriptor.digest);
            for content in std::iter::once(config).chain(layers) {
                if self.is_new(context, &content.descriptor)? {
                    let embedded = content.data.as_ref().map_or(0, Vec::len);
                    let urls: usize = content.urls.iter().map(String::len).sum();
                    self.grow(context, (embedded + urls) as u64)?;
                    self.blobs.push(content);
                }
            }
        }
        self.documents.push((descriptor, bytes));
        Ok(())
    }

    /// Makes room for a document, if it is not there yet; whether it is not.
    fn keep(&mut self, context: &Context, document: &Descriptor) -> Result<bool, Error> {
        let new = self.is_new(context, document)?;
        if new {
            self.grow(context, document.size)?;
        }
        Ok(new)
    }

    fn grow(&mut self, context: &Context, bytes: u64) -> Result<(), Error> {
        self.kept = self.kept.saturating_add(bytes);
        match self.kept > DOCUMENTS_SIZE_MAX {
            false => Ok(()),
            true => Err(self.refused(context, Cause::DocumentsTooLarge)),
        }
    }

    /// Whether a digest is met for the first time.
    fn is_new(&mut self, context: &Context, descriptor: &Descriptor) -> Result<bool, Error> {
        let Descriptor { digest, size, .. } = descriptor;
        if let Some(&other) = self.sizes.get(digest) {
            if other == *size {
                return Ok(false);
            }
            // One document cannot say both: see `ManifestError::TwoSizes`.
            let place = "another document".to_owned();
            let two = ManifestError::TwoSizes { place, digest: *digest, size: *size, other };
            return Err(self.refused(context, two));
        }
        if self.sizes.len() >= DESCRIPTORS_MAX {
            return Err(self.refused(context, Cause::TooManyDescriptors));
        }
        self.sizes.insert(*digest, *size);
        Ok(true)
    }

    fn refused(&self, context: &Context, cause: impl Into<Cause>) -> Error {
        let key = self.digest.to_string();
        Error::about(&context.subject(Object::Manifest(key)), cause)
    }
}

/// How a document is known before it is here.
enum Wanted<'a> {
    /// By what the user typed.
    Reference(&'a Reference),
    /// By a document that refers to it, which is the authority on its digest and size.
    Descriptor(&'a Descriptor),
    /// The same of an image's config, which is a blob.
    Config(&'a Descriptor),
}

impl Wanted<'_> {
    fn key(&self) -> String {
        match self {
            Wanted::Reference(reference) => reference.manifest_key(),
            Wanted::Descriptor(descriptor) | Wanted::Config(descriptor) => {
                descriptor.digest.to_string()
            }
        }
    }

    fn digest(&self) -> Option<Digest> {
        match self {
            Wanted::Reference(reference) => reference.digest().copied(),
            Wanted::Descriptor(descriptor) | Wanted::Config(descriptor) => Some(descriptor.digest),
        }
    }

    fn object(&self) -> Object {
        match self {
            Wanted::Config(descriptor) => Object::Blob(descriptor.digest),
            Wanted::Reference(_) | Wanted::Descriptor(_) => Object::Manifest(self.key()),
        }
    }
}

/// Fetches a manifest, an index or a config, and reads it, with as many attempts as the policy
/// allows.
async fn fetch<T>(
    client: &Client,
    context: &Context,
    wanted: &Wanted<'_>,
    read: impl Fn(Received) -> Result<T, Cause>,
) -> Result<T, Error> {
    let subject = context.subject(wanted.object());
    let mut attempts = Attempts::new(context.policy);
    loop {
        let cause = match fetch_once(client, context, wanted).await.and_then(&read) {
            Ok(fetched) => return Ok(fetched),
            Err(cause) => cause,
        };
        let error = Error::about(&subject, cause);
        let error = error.in_attempt(attempts.current(), attempts.allowed());
        let (class, retry_after) = (error.class(), error.retry_after());
        let failure = Failure { class, retry_after, received: 0, beside: 0 };
        match attempts.after(failure, fastrand::f64()) {
            Verdict::GiveUp => return Err(error.given_up(context.policy, SystemTime::now())),
            Verdict::Again { pause } => {
                context.retried(&error, pause);
                let now = clock::now();
                let until = now.checked_add(pause).unwrap_or(now);
                let silent = error.refused_by().filter(|_| retry_after.is_some());
                if let Some(origin) = silent {
                    context.keep_silence(origin, until, now);
                }
                client.waiting().begin(match silent {
                    Some(origin) => WaitedFor::Silence { registry: context.name_of(origin), until },
                    None => WaitedFor::Pause(until),
                });
                tokio::time::sleep_until(until.into()).await;
            }
        }
    }
}

async fn fetch_once(
    client: &Client,
    context: &Context,
    wanted: &Wanted<'_>,
) -> Result<Received, Cause> {
    let Context { endpoint, repository, .. } = context;
    let (asked, request, size_max) = match wanted {
        Wanted::Config(descriptor) => {
            let url = endpoint.blob_url(repository, &descriptor.digest);
            let request = request::blob(url.map_err(crate::client::Error::from)?, None);
            (Asked::Blob, request, IMAGE_CONFIG_SIZE_MAX)
        }
        Wanted::Reference(_) | Wanted::Descriptor(_) => {
            let url = endpoint.manifest_url(repository, &wanted.key());
            let request = request::manifest(Method::Get, url.map_err(crate::client::Error::from)?);
            (Asked::Manifest, request.map_err(crate::client::Error::from)?, MANIFEST_SIZE_MAX)
        }
    };
    let question = Question { endpoint, repository, asked, request: &request };
    let answer = client.ask(question).await?;
    answer.head.check_content_encoding().map_err(crate::client::Error::from)?;
    let content_type = answer.head.get("content-type").map(MediaType::new);
    let claimed = answer.head.get("docker-content-digest").map(str::to_owned);
    client.waiting().begin(WaitedFor::Bytes(answer.origin.authority()));
    let bytes = answer.body.collect(size_max).await?;

    let algorithm = wanted.digest().map_or(Algorithm::Sha256, |digest| digest.algorithm());
    let got = Digest::of(algorithm, &bytes);
    match wanted.digest() {
        // Asked for by digest: the bytes alone decide.
        Some(digest) if digest != got => return Err(Cause::Digest { got }),
        Some(_) => {}
        None => answer::check_content_digest(claimed.as_deref(), &bytes, None)
            .map_err(crate::client::Error::from)?,
    }
    if let Wanted::Descriptor(descriptor) | Wanted::Config(descriptor) = wanted
        && descriptor.size != bytes.len() as u64
    {
        return Err(Cause::Size { expected: descriptor.size, sent: bytes.len() as u64 });
    }
    Ok(Received { digest: got, bytes, content_type })
}

impl Fetched {
    fn read(received: Received) -> Result<Fetched, Cause> {
        let Received { digest, bytes, content_type } = received;
        let document = Document::parse(&bytes, content_type.as_ref())?;
        let media_type = match &document {
            Document::Index(index) => index.media_type.clone(),
            Document::Manifest(manifest) => manifest.media_type.clone(),
        };
        let descriptor = Descriptor { media_type, digest, size: bytes.len() as u64 };
        Ok(Fetched { descriptor, bytes, document })
    }
}
