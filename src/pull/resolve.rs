//! From a reference to the manifests it means, and the blobs they need.

use std::time::SystemTime;

use super::Context;
use super::error::{Cause, Error, Object};
use super::retry::{Attempts, Failure, Verdict};
use crate::client::{Client, Question};
use crate::config::Platforms;
use crate::http::Method;
use crate::image::manifest::{Document, EntryKind, Index, Manifest};
use crate::image::{Algorithm, Descriptor, Digest, MediaType, Reference};
use crate::limits::{INDEX_DEPTH_MAX, MANIFEST_SIZE_MAX};
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
    /// Configs and layers, as often as they are referred to.
    pub(super) blobs: Vec<Descriptor>,
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
    let mut fetched = fetch(client, context, &Wanted::Reference(reference)).await?;
    let digest = fetched.descriptor.digest;
    let mut resolved =
        Resolved { digest, root: fetched.descriptor.clone(), documents: vec![], blobs: vec![] };
    match platforms {
        Platforms::All => all(client, context, fetched, &mut resolved).await?,
        Platforms::One(platform) => {
            for _ in 0..=INDEX_DEPTH_MAX {
                let index = match &fetched.document {
                    Document::Manifest(_) => {
                        resolved.root = fetched.descriptor.clone();
                        return resolved.take(context, fetched);
                    }
                    Document::Index(index) => index,
                };
                let entry = index.select(platform).map_err(|error| {
                    let key = fetched.descriptor.digest.to_string();
                    Error::about(&context.subject(Object::Manifest(key)), error)
                })?;
                let wanted = entry.descriptor.clone();
                fetched = fetch(client, context, &Wanted::Descriptor(&wanted)).await?;
            }
            let key = digest.to_string();
            return Err(Error::about(&context.subject(Object::Manifest(key)), Cause::IndexDepth));
        }
    }
    Ok(resolved)
}

/// Everything that `first` leads to.
async fn all(
    client: &Client,
    context: &Context,
    first: Fetched,
    resolved: &mut Resolved,
) -> Result<(), Error> {
    let mut level = vec![first];
    for _ in 0..=INDEX_DEPTH_MAX {
        let mut below: Vec<Fetched> = Vec::new();
        for fetched in level {
            if let Document::Index(index) = &fetched.document {
                for wanted in entries(index) {
                    let known = |digest| {
                        let mut seen =
                            resolved.documents.iter().map(|(document, _)| document.digest);
                        seen.any(|seen| seen == digest)
                            || below.iter().any(|fetched| fetched.descriptor.digest == digest)
                    };
                    if !known(wanted.digest) {
                        below.push(fetch(client, context, &Wanted::Descriptor(wanted)).await?);
                    }
                }
            }
            resolved.add(context, fetched)?;
        }
        if below.is_empty() {
            // What is referred to is stored before what refers to it.
            resolved.documents.reverse();
            return Ok(());
        }
        level = below;
    }
    let key = resolved.digest.to_string();
    Err(Error::about(&context.subject(Object::Manifest(key)), Cause::IndexDepth))
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
    fn take(mut self, context: &Context, fetched: Fetched) -> Result<Resolved, Error> {
        self.add(context, fetched)?;
        Ok(self)
    }

    fn add(&mut self, context: &Context, fetched: Fetched) -> Result<(), Error> {
        let Fetched { descriptor, bytes, document } = fetched;
        if let Document::Manifest(Manifest { config, layers, .. }) = document {
            if let Some(foreign) = layers.iter().find(|layer| layer.foreign) {
                let subject = context.subject(Object::Manifest(descriptor.digest.to_string()));
                return Err(Error::about(&subject, Cause::Foreign(foreign.descriptor.digest)));
            }
            self.blobs.push(config);
            self.blobs.extend(layers.into_iter().map(|layer| layer.descriptor));
        }
        self.documents.push((descriptor, bytes));
        Ok(())
    }
}

/// How a document is known before it is here.
enum Wanted<'a> {
    /// By what the user typed.
    Reference(&'a Reference),
    /// By a document that refers to it, which is the authority on its digest and size.
    Descriptor(&'a Descriptor),
}

impl Wanted<'_> {
    fn key(&self) -> String {
        match self {
            Wanted::Reference(reference) => reference.manifest_key(),
            Wanted::Descriptor(descriptor) => descriptor.digest.to_string(),
        }
    }

    fn digest(&self) -> Option<Digest> {
        match self {
            Wanted::Reference(reference) => reference.digest().copied(),
            Wanted::Descriptor(descriptor) => Some(descriptor.digest),
        }
    }
}

/// Fetches a manifest or index, with as many attempts as the policy allows.
async fn fetch(client: &Client, context: &Context, wanted: &Wanted<'_>) -> Result<Fetched, Error> {
    let subject = context.subject(Object::Manifest(wanted.key()));
    let mut attempts = Attempts::new(context.policy);
    loop {
        let cause = match fetch_once(client, context, wanted).await {
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
                if retry_after.is_some() {
                    context.keep_silence(until, now);
                }
                let registry = context.registry.clone();
                client.waiting().begin(match retry_after {
                    Some(_) => WaitedFor::Silence { registry, until },
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
) -> Result<Fetched, Cause> {
    let url = context.endpoint.manifest_url(&context.repository, &wanted.key());
    let request = request::manifest(Method::Get, url.map_err(crate::client::Error::from)?);
    let request = request.map_err(crate::client::Error::from)?;
    let question = Question {
        endpoint: &context.endpoint,
        repository: &context.repository,
        asked: Asked::Manifest,
        request: &request,
    };
    let answer = client.ask(question).await?;
    answer.head.check_content_encoding().map_err(crate::client::Error::from)?;
    let content_type = answer.head.get("content-type").map(MediaType::new);
    let claimed = answer.head.get("docker-content-digest").map(str::to_owned);
    client.waiting().begin(WaitedFor::Bytes(answer.origin.authority()));
    let bytes = answer.body.collect(MANIFEST_SIZE_MAX).await?;

    let algorithm = wanted.digest().map_or(Algorithm::Sha256, |digest| digest.algorithm());
    let got = Digest::of(algorithm, &bytes);
    match wanted.digest() {
        // Asked for by digest: the bytes alone decide.
        Some(digest) if digest != got => return Err(Cause::Digest { got }),
        Some(_) => {}
        None => answer::check_content_digest(claimed.as_deref(), &bytes, None)
            .map_err(crate::client::Error::from)?,
    }
    if let Wanted::Descriptor(descriptor) = wanted
        && descriptor.size != bytes.len() as u64
    {
        return Err(Cause::Size { expected: descriptor.size, sent: bytes.len() as u64 });
    }
    let document = Document::parse(&bytes, content_type.as_ref())?;
    let media_type = match &document {
        Document::Index(index) => index.media_type.clone(),
        Document::Manifest(manifest) => manifest.media_type.clone(),
    };
    let descriptor = Descriptor { media_type, digest: got, size: bytes.len() as u64 };
    Ok(Fetched { descriptor, bytes, document })
}
