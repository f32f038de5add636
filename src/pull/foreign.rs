//! Layers that their registry does not have, and that their manifest names URLs elsewhere for
//! (OCI image-spec, `descriptor.md`, `urls`).
//!
//! The registry is asked first. Only if it has no such blob do the URLs count, and only if the user
//! allows them: they are the image author's choice, and whoever is asked learns who pulls what.
//! They must be https, are sent no credentials, and get no answer to a challenge (CVE-2020-15157:
//! credentials of a registry given to such a URL). The bytes are held to size and digest like any.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::Context;
use super::error::Cause;
use crate::client::{Answer, Client, Question};
use crate::error::{Class, Retry};
use crate::http::HttpUrl;
use crate::origin::Scheme;

/// Who may have a blob besides its registry.
#[derive(Debug, Default)]
pub(super) struct Foreign {
    /// As the manifest writes them.
    urls: Vec<String>,
    /// 0: the registry is asked. Any other number: the registry has none, and the URL of this number
    /// less one, of those that can be asked, is asked first.
    turn: AtomicUsize,
}

impl Foreign {
    pub(super) fn new(urls: Vec<String>) -> Foreign {
        Foreign { urls, turn: AtomicUsize::new(0) }
    }

    /// Asks the registry, or whoever has the blob instead.
    ///
    /// # Errors
    /// The registry's, [`Cause::Foreign`] and its kin.
    pub(super) async fn ask(
        &self,
        client: &Client,
        context: &Context,
        question: Question<'_>,
    ) -> Result<Answer, Cause> {
        let turn = self.turn.load(Ordering::Relaxed);
        if turn == 0 {
            match client.ask(question).await {
                Err(error) if error.class() == Class::NotFound && !self.urls.is_empty() => {}
                asked => return Ok(asked?),
            }
        }
        let parsed = self.urls.iter().filter_map(|url| HttpUrl::parse(url).ok());
        let usable: Vec<HttpUrl> =
            parsed.filter(|url| url.origin().scheme() == Scheme::Https).collect();
        let Some(first) = usable.first() else { return Err(Cause::ForeignUnusable) };
        if !context.foreign_urls {
            return Err(Cause::Foreign { host: first.origin().authority().to_owned() });
        }
        let first = turn.saturating_sub(1);
        let mut failed: Option<Cause> = None;
        for nth in (first..first + usable.len()).map(|nth| nth % usable.len()) {
            let Some(url) = usable.get(nth) else { break };
            let origin = url.origin();
            match client.ask_elsewhere(question, url.clone()).await {
                Ok(answer) => {
                    if turn == 0 {
                        context.reporter.note(&format!(
                            "{} does not have the blob: {origin} is asked, as its manifest says",
                            context.registry
                        ));
                    }
                    self.turn.store(nth + 1, Ordering::Relaxed);
                    return Ok(answer);
                }
                // One that may do better later is worth more than one that never will.
                Err(source) if failed.is_none() || source.class().retry() == Retry::Again => {
                    failed = Some(Cause::ForeignFailed { origin, source });
                }
                Err(_) => {}
            }
        }
        // There is one: there was a URL.
        Err(failed.unwrap_or(Cause::ForeignUnusable))
    }
}
