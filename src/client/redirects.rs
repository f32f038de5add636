//! Where blobs were redirected to, for their further pieces. State only, with time as an argument.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::session::lock;
use super::turnstile::Turnstile;
use crate::http::HttpUrl;
use crate::limits::{REDIRECT_MARGIN, REDIRECTS_KEPT_MAX};
use crate::registry::Shortcut;

/// What all clients of a pull know of redirects, by the URL at the registry. Never held across a
/// wait.
#[derive(Default)]
pub(super) struct Redirects {
    known: Mutex<HashMap<HttpUrl, Known>>,
}

struct Known {
    /// Absent while another is asked for.
    target: Option<Target>,
    /// Where those who want another one wait.
    renewing: Arc<Turnstile>,
    /// When it was asked for last.
    used: Instant,
}

struct Target {
    shortcut: Shortcut,
    until: Instant,
}

impl Redirects {
    /// Where the content of `url` can be asked for at `now`, if that is known.
    pub(super) fn target(&self, url: &HttpUrl, now: Instant) -> Option<Shortcut> {
        let mut known = lock(&self.known);
        let known = known.get_mut(url)?;
        known.used = now;
        let target = known.target.as_ref().filter(|target| now < target.until)?;
        Some(target.shortcut.clone())
    }

    /// Where to wait for one who asks the registry anew; `None` for a URL that is not known to
    /// redirect.
    pub(super) fn renewing(&self, url: &HttpUrl) -> Option<Arc<Turnstile>> {
        lock(&self.known).get(url).map(|known| Arc::clone(&known.renewing))
    }

    /// The registry answered a request for `url`, sent at `asked_at`, by this redirect, or by none.
    pub(super) fn learn(&self, url: &HttpUrl, shortcut: Option<Shortcut>, asked_at: Instant) {
        let target = shortcut.and_then(|shortcut| {
            let lifetime = shortcut.lifetime.saturating_sub(REDIRECT_MARGIN);
            Some(Target { until: asked_at.checked_add(lifetime)?, shortcut })
        });
        let mut known = lock(&self.known);
        let Some(target) = target.filter(|target| target.until > asked_at) else {
            known.remove(url);
            return;
        };
        if known.len() >= REDIRECTS_KEPT_MAX && !known.contains_key(url) {
            let oldest = known.iter().min_by_key(|(_, known)| known.used);
            let oldest = oldest.map(|(url, _)| url.clone());
            oldest.and_then(|url| known.remove(&url));
        }
        let renewing = known.get(url).map(|known| Arc::clone(&known.renewing)).unwrap_or_default();
        known.insert(url.clone(), Known { target: Some(target), renewing, used: asked_at });
    }

    /// `target` does not answer, or not any more. Another one that came meanwhile stays.
    pub(super) fn refuse(&self, url: &HttpUrl, target: &HttpUrl) {
        if let Some(known) = lock(&self.known).get_mut(url)
            && known.target.as_ref().is_some_and(|known| known.shortcut.url == *target)
        {
            known.target = None;
        }
    }

    /// Asking the registry failed: nothing that it said before is relied on.
    pub(super) fn forget(&self, url: &HttpUrl) {
        lock(&self.known).remove(url);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::http::ResponseHead;
    use crate::registry::Trail;

    const MINUTE: Duration = Duration::from_secs(60);

    fn url(text: &str) -> HttpUrl {
        HttpUrl::parse(&format!("https://a.example/{text}")).unwrap()
    }

    fn shortcut(target: &str, lifetime: Duration) -> Option<Shortcut> {
        let text = format!(
            "HTTP/1.1 307 x\r\nLocation: {}\r\nCache-Control: max-age={}\r\n\r\n",
            url(target).absolute(),
            lifetime.as_secs()
        );
        let (_, head) = ResponseHead::parse(text.as_bytes()).unwrap().unwrap();
        let mut trail = Trail::new(HttpUrl::parse("https://home.example/").unwrap());
        trail.follow(&head).unwrap();
        trail.shortcut()
    }

    fn target(redirects: &Redirects, url: &HttpUrl, now: Instant) -> Option<HttpUrl> {
        redirects.target(url, now).map(|shortcut| shortcut.url)
    }

    #[test]
    fn a_redirect_is_used_until_shortly_before_its_end() {
        let (redirects, now) = (Redirects::default(), Instant::now());
        let blob = url("blob");
        assert_eq!(target(&redirects, &blob, now), None);
        assert!(redirects.renewing(&blob).is_none(), "nobody waits for what may not redirect");
        redirects.learn(&blob, shortcut("x", MINUTE), now);
        let until = now + MINUTE - REDIRECT_MARGIN;
        assert_eq!(target(&redirects, &blob, until - Duration::from_nanos(1)), Some(url("x")));
        assert_eq!(target(&redirects, &blob, until), None);
        assert_eq!(target(&redirects, &url("other"), now), None);
        assert!(redirects.renewing(&blob).is_some());
    }

    #[test]
    fn one_that_ends_soon_is_not_kept() {
        let (redirects, now) = (Redirects::default(), Instant::now());
        for lifetime in [Duration::ZERO, REDIRECT_MARGIN] {
            redirects.learn(&url("blob"), shortcut("x", lifetime), now);
            assert!(redirects.renewing(&url("blob")).is_none(), "{lifetime:?}");
        }
    }

    #[test]
    fn what_is_refused_is_used_no_more_and_what_came_meanwhile_is() {
        let (redirects, now) = (Redirects::default(), Instant::now());
        let blob = url("blob");
        redirects.learn(&blob, shortcut("x", MINUTE), now);
        let waiting = redirects.renewing(&blob).unwrap();
        redirects.refuse(&blob, &url("x"));
        assert_eq!(target(&redirects, &blob, now), None);
        redirects.learn(&blob, shortcut("y", MINUTE), now);
        redirects.refuse(&blob, &url("x"));
        assert_eq!(target(&redirects, &blob, now), Some(url("y")));
        assert!(
            Arc::ptr_eq(&waiting, &redirects.renewing(&blob).unwrap()),
            "all wait at one place"
        );
        redirects.forget(&blob);
        assert_eq!(target(&redirects, &blob, now), None);
    }

    #[test]
    fn a_registry_that_stops_redirecting_is_asked_itself() {
        let (redirects, now) = (Redirects::default(), Instant::now());
        redirects.learn(&url("blob"), shortcut("x", MINUTE), now);
        redirects.learn(&url("blob"), None, now);
        assert_eq!(target(&redirects, &url("blob"), now), None);
    }

    #[test]
    fn their_number_is_bounded_and_the_one_in_use_stays() {
        let (redirects, start) = (Redirects::default(), Instant::now());
        for nth in 0..3 * REDIRECTS_KEPT_MAX as u64 {
            let now = start + Duration::from_millis(nth);
            redirects.learn(&url(&nth.to_string()), shortcut("x", MINUTE), now);
            assert_eq!(target(&redirects, &url("0"), now), Some(url("x")));
        }
        assert_eq!(lock(&redirects.known).len(), REDIRECTS_KEPT_MAX);
    }
}
