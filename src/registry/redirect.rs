//! Where a redirect may lead, and whether credentials go along (RFC 9110 section 15.4).
//!
//! Registries redirect blobs to object stores with signed URLs. The store is another party: what is
//! meant for the registry is not for it to see, and many stores refuse requests that carry both a
//! signature and an `Authorization`.
//!
//! A `Location` is chosen by whoever answers, as a realm is: so what its host resolves to is judged
//! by [`address::allowed`] before the first byte is sent ([`Redirect::allows`]).

use std::net::IpAddr;
use std::time::Duration;

use super::address::{self, AddressClass, Errand};
use super::lifetime;
use crate::error::Class;
use crate::http::{Error, HttpUrl, ResponseHead, UrlError};
use crate::limits::{REDIRECT_LIFETIME_MAX, REDIRECTS_MAX};
use crate::origin::{Origin, Scheme};

/// The way of one request from its first URL on. Redirects of token requests are not followed at
/// all, so they have no trail.
#[derive(Debug, Clone)]
pub struct Trail {
    /// The URL asked first: its origin is the credentials' home.
    start: HttpUrl,
    /// The URLs asked since, in order. At most [`REDIRECTS_MAX`].
    followed: Vec<HttpUrl>,
    /// How long the redirects so far are good for, from the moment the first was asked for.
    lifetime: Duration,
    /// As [`Redirect::keeps_credentials`].
    keeps_credentials: bool,
    /// In what kind of place the first request was answered.
    home: AddressClass,
}

/// Where to ask next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// The URL.
    pub url: HttpUrl,
    /// Whether the credentials of the first request may be sent there: only if the trail has never
    /// left its origin. What was dropped once is not taken up again, not even at home: by then
    /// somebody else chooses what is asked for in our name.
    pub keeps_credentials: bool,
    /// Which of its addresses may be connected to.
    reach: Reach,
}

/// Which addresses a redirect may lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// All: it leads back to the origin that the user named.
    Home,
    /// Those that a registry in such a place may send us to.
    From(AddressClass),
}

impl Reach {
    fn allows(self, address: IpAddr) -> bool {
        match self {
            Reach::Home => true,
            Reach::From(home) => address::allowed(Errand::Content, home, address),
        }
    }
}

impl Redirect {
    /// Whether it may be followed to `address`, one of those that its host resolves to.
    pub fn allows(&self, address: IpAddr) -> bool {
        self.reach.allows(address)
    }
}

/// The end of a trail, where more of the same content can be asked for without its beginning.
///
/// Made only by [`Trail::shortcut`], of a trail that was followed by the rules, and led away from
/// where credentials may be sent: there are none to be sent here, ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortcut {
    /// The URL.
    pub url: HttpUrl,
    /// How long it is good for, from the moment the first request of the trail was sent. To be
    /// counted by a monotonic clock.
    pub lifetime: Duration,
    reach: Reach,
}

impl Shortcut {
    /// As [`Redirect::allows`]: a name may resolve otherwise by now.
    pub fn allows(&self, address: IpAddr) -> bool {
        self.reach.allows(address)
    }
}

/// Why a redirect is not followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RedirectError {
    /// No `Location`.
    #[error("{from} redirects, but does not say where to")]
    NoLocation {
        /// Who redirects.
        from: Origin,
    },
    /// Several `Location` fields, or one that is not text.
    #[error("{from} redirects in a way that cannot be followed: {source}")]
    Location {
        /// Who redirects.
        from: Origin,
        /// What is wrong with the field.
        source: Error,
    },
    /// `Location` is not a URL that ringpull follows.
    #[error("{from} redirects to a place that cannot be asked: {source}")]
    Url {
        /// Who redirects.
        from: Origin,
        /// What is wrong with the URL.
        source: UrlError,
    },
    /// From https to http.
    #[error("{from} redirects to {to}, where everybody could read and change the answer")]
    Downgrade {
        /// Who redirects.
        from: Origin,
        /// Where to.
        to: Origin,
    },
    /// To a URL that was asked before.
    #[error("{from} redirects in a loop, back to {to}")]
    Loop {
        /// Who redirects.
        from: Origin,
        /// Where to.
        to: Box<HttpUrl>,
    },
    /// To an address where no registry keeps its content.
    #[error(
        "{from} redirects to {to}, an address of this machine or one that only this network knows: \
         nothing was sent there"
    )]
    Address {
        /// Who redirects.
        from: Origin,
        /// Where to.
        to: Origin,
    },
    /// One redirect too many.
    #[error("{from} redirects once more after {REDIRECTS_MAX} redirects")]
    TooMany {
        /// Who redirects.
        from: Origin,
    },
}

impl RedirectError {
    /// Always [`Class::Redirect`].
    pub fn class(&self) -> Class {
        Class::Redirect
    }
}

/// Whether `status` is a redirect that is followed. 300, 304 and 305 are not: they want a choice, a
/// cache, a proxy.
pub fn is_redirect(status: u16) -> bool {
    matches!(status, 301 | 302 | 303 | 307 | 308)
}

impl Trail {
    /// A trail that starts with the URL asked first.
    pub fn new(start: HttpUrl) -> Trail {
        let (followed, lifetime) = (Vec::new(), REDIRECT_LIFETIME_MAX);
        let home = AddressClass::Public;
        Trail { start, followed, lifetime, keeps_credentials: true, home }
    }

    /// The last request was answered at `address`. Until this is said of the first, it counts as
    /// answered on the internet, from where the fewest addresses are allowed.
    pub fn answered_at(&mut self, address: IpAddr) {
        if self.followed.is_empty() {
            self.home = AddressClass::of(address);
        }
    }

    fn reach(&self, url: &HttpUrl) -> Reach {
        match url.origin() == self.start.origin() {
            true => Reach::Home,
            false => Reach::From(self.home),
        }
    }

    /// Where it led, if that may be asked again. An origin that gets credentials is asked from the
    /// start each time: it decides with each request who may have what.
    pub fn shortcut(&self) -> Option<Shortcut> {
        let url = self.followed.last()?.clone();
        let (lifetime, reach) = (self.lifetime, self.reach(&url));
        let is_of_use = !self.keeps_credentials && !lifetime.is_zero();
        is_of_use.then_some(Shortcut { url, lifetime, reach })
    }

    /// How often it was redirected.
    pub fn hops(&self) -> usize {
        self.followed.len()
    }

    /// The URL asked last.
    pub fn current(&self) -> &HttpUrl {
        self.followed.last().unwrap_or(&self.start)
    }

    /// Follows `head`, a redirect that answers the last request. All methods in use are `GET` and
    /// `HEAD`, which no status changes.
    pub fn follow(&mut self, head: &ResponseHead) -> Result<Redirect, RedirectError> {
        let from = self.current().origin();
        let location = match head.single("location") {
            Ok(Some(location)) => location,
            Ok(None) => return Err(RedirectError::NoLocation { from }),
            Err(source) => return Err(RedirectError::Location { from, source }),
        };
        let url = match self.current().join(location) {
            Ok(url) => url,
            Err(source) => return Err(RedirectError::Url { from, source }),
        };
        let to = url.origin();
        if (from.scheme(), to.scheme()) == (Scheme::Https, Scheme::Http) {
            return Err(RedirectError::Downgrade { from, to });
        }
        if self.asked().any(|asked| *asked == url) {
            return Err(RedirectError::Loop { from, to: Box::new(url) });
        }
        if self.hops() >= REDIRECTS_MAX {
            return Err(RedirectError::TooMany { from });
        }
        self.followed.push(url.clone());
        self.lifetime = self.lifetime.min(lifetime::of_redirect(head, &url));
        let reach = self.reach(&url);
        self.keeps_credentials &= reach == Reach::Home;
        Ok(Redirect { url, keeps_credentials: self.keeps_credentials, reach })
    }

    fn asked(&self) -> impl Iterator<Item = &HttpUrl> {
        std::iter::once(&self.start).chain(&self.followed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(locations: &[&str]) -> ResponseHead {
        let fields: String =
            locations.iter().map(|value| format!("Location: {value}\r\n")).collect();
        let text = format!("HTTP/1.1 307 x\r\n{fields}\r\n");
        ResponseHead::parse(text.as_bytes()).unwrap().unwrap().1
    }

    /// Follows a chain; each hop is a location, and whether credentials go there.
    #[track_caller]
    fn check(start: &str, hops: &[(&str, &str, bool)]) {
        let mut trail = Trail::new(HttpUrl::parse(start).unwrap());
        for (position, (location, expected, keeps)) in hops.iter().enumerate() {
            let redirect = trail.follow(&head(&[location])).unwrap();
            assert_eq!(redirect.url.absolute(), *expected);
            assert_eq!(redirect.keeps_credentials, *keeps, "hop {position} to {location}");
            assert_eq!((trail.hops(), trail.current()), (position + 1, &redirect.url));
        }
    }

    #[test]
    fn credentials_stay_with_their_origin() {
        for (start, location, expected, keeps) in [
            ("https://a.example/x", "/y", "https://a.example/y", true),
            ("https://a.example/x/y", "z", "https://a.example/x/z", true),
            ("https://a.example/x", "?q", "https://a.example/x?q", true),
            ("https://a.example/x", "https://a.example:443/y", "https://a.example/y", true),
            ("https://a.example/x", "https://A.EXAMPLE/y", "https://a.example/y", true),
            ("https://a.example/x", "//a.example/y", "https://a.example/y", true),
            ("https://a.example/x", "//b.example/y", "https://b.example/y", false),
            ("https://a.example/x", "https://b.example/y", "https://b.example/y", false),
            ("https://a.example/x", "https://b.a.example/y", "https://b.a.example/y", false),
            ("https://b.a.example/x", "https://a.example/y", "https://a.example/y", false),
            ("https://a.example/x", "https://a.example:444/y", "https://a.example:444/y", false),
            ("https://a.example/x", "https://a.example./y", "https://a.example./y", false),
            ("http://a.example/x", "https://a.example/y", "https://a.example/y", false),
            ("http://a.example:443/x", "https://a.example/y", "https://a.example/y", false),
            ("http://a.example/x", "http://a.example/y", "http://a.example/y", true),
            ("http://[::1]:5000/x", "http://[0::1]:5000/y", "http://[::1]:5000/y", true),
            ("http://localhost/x", "http://127.0.0.1/y", "http://127.0.0.1/y", false),
            (
                "https://a.example/x",
                "https://s3.example/k?sig=1%2F2",
                "https://s3.example/k?sig=1%2F2",
                false,
            ),
        ] {
            check(start, &[(location, expected, keeps)]);
        }
    }

    /// 8 kinds of another origin, 5 statuses, and on each way of three hops what comes after.
    #[test]
    fn no_other_origin_is_trusted_on_any_way_there() {
        // With `http://` as home, so that https is another one.
        let home = "http://r.a.example:5000";
        let others = [
            ("another host", "http://b.example:5000"),
            ("a host below", "http://x.r.a.example:5000"),
            ("the host above", "http://a.example:5000"),
            ("another port", "http://r.a.example:5001"),
            ("the default port", "http://r.a.example"),
            ("another scheme", "https://r.a.example:5000"),
            ("the host with a dot", "http://r.a.example.:5000"),
            ("an address", "http://127.0.0.1:5000"),
        ];
        let all: Vec<&str> =
            std::iter::once(home).chain(others.iter().map(|(_, origin)| *origin)).collect();
        let mut ways = 0;
        for code in [301, 302, 303, 307, 308] {
            for first in &all {
                for second in &all {
                    for third in &all {
                        let mut trail = Trail::new(HttpUrl::parse(&format!("{home}/0")).unwrap());
                        let mut left_home = false;
                        for (hop, origin) in [first, second, third].into_iter().enumerate() {
                            let text =
                                format!("HTTP/1.1 {code} x\r\nLocation: {origin}/{hop}x\r\n\r\n");
                            let head = ResponseHead::parse(text.as_bytes()).unwrap().unwrap().1;
                            let Ok(redirect) = trail.follow(&head) else {
                                // https never becomes http: nothing is sent there at all.
                                assert!(trail.current().origin().scheme() == Scheme::Https);
                                break;
                            };
                            left_home |= *origin != home;
                            assert_eq!(
                                redirect.keeps_credentials, !left_home,
                                "{code}: {first} {second} {third}, hop {hop}"
                            );
                        }
                        ways += 1;
                    }
                }
            }
        }
        assert_eq!(ways, 5 * 9 * 9 * 9);
    }

    #[test]
    fn what_was_dropped_is_never_restored() {
        let a = "https://a.example";
        check(
            &format!("{a}/1"),
            &[
                ("/2", "https://a.example/2", true),
                ("https://b.example/1", "https://b.example/1", false),
                ("/2", "https://b.example/2", false),
                ("https://a.example/3", "https://a.example/3", false),
                ("/4", "https://a.example/4", false),
            ],
        );
        check(
            "http://a.example/1",
            &[
                ("https://a.example/1", "https://a.example/1", false),
                ("/2", "https://a.example/2", false),
            ],
        );
    }

    #[track_caller]
    fn check_refused(start: &str, locations: &[&str], expected: &str) {
        let mut trail = Trail::new(HttpUrl::parse(start).unwrap());
        let error = trail.follow(&head(locations)).expect_err(expected);
        assert!(error.to_string().contains(expected), "{locations:?}: {error}");
        assert_eq!(error.class(), Class::Redirect);
        assert_eq!(trail.hops(), 0);
    }

    #[test]
    fn what_cannot_be_followed_is_refused() {
        let start = "https://a.example/x";
        for (locations, expected) in [
            (&[][..], "does not say where to"),
            (&[""], "the URL is empty"),
            (&["/y", "/y"], "cannot be followed"),
            (&["/y", "/z"], "cannot be followed"),
            (&["http://a.example/y"], "where everybody could read"),
            (&["http://b.example/y"], "where everybody could read"),
            (&["ftp://a.example/y"], "scheme `ftp`"),
            (&["file:///etc/passwd"], "scheme `file`"),
            (&["javascript:alert(1)"], "scheme `javascript`"),
            (&["https://u:p@b.example/y"], "user information"),
            (&["https://u@a.example/y"], "user information"),
            (&["//u@a.example/y"], "user information"),
            (&["https:///y"], "no host"),
            (&["https://[fe80::1%25eth0]/y"], "percent sign"),
            (&["/a b"], "character ' '"),
            (&["\\\\b.example/y"], "character '\\\\'"),
            (&[start], "in a loop"),
            (&["/x"], "in a loop"),
            (&["#fragment"], "in a loop"),
        ] {
            check_refused(start, locations, expected);
        }
    }

    #[test]
    fn a_shortcut_leads_where_no_credentials_go() {
        let signed = "https://s3.example/k?X-Amz-Expires=";
        for (locations, expected) in [
            (&[][..], None),
            (&["/y"], None),
            (&["/y", "/z"], None),
            (&[&format!("{signed}600")], Some((format!("{signed}600"), 600))),
            // The first to end counts, and not only the last is asked how long it is good.
            (
                &[&format!("{signed}300"), &format!("{signed}600")],
                Some((format!("{signed}600"), 300)),
            ),
            (&[&format!("{signed}0")], None),
            // Home again, but without credentials.
            (
                &["https://b.example/", "https://a.example/y"],
                Some(("https://a.example/y".into(), 60)),
            ),
        ] {
            let mut trail = Trail::new(HttpUrl::parse("https://a.example/x").unwrap());
            for location in locations {
                trail.follow(&head(&[location])).unwrap();
            }
            let shortcut = trail.shortcut();
            let shortcut =
                shortcut.map(|Shortcut { url, lifetime, .. }| (url.absolute(), lifetime.as_secs()));
            assert_eq!(shortcut, expected, "{locations:?}");
        }
    }

    /// Where a registry in each kind of place may redirect to: a public address, a private one, this
    /// machine, and one that is never right.
    #[test]
    fn a_redirect_leads_no_nearer_than_it_may() {
        for (home, location, expected) in [
            (Some("1.1.1.1"), "https://s3.example/", [true, true, false, false]),
            (Some("10.0.0.1"), "https://s3.example/", [true, true, false, false]),
            (Some("127.0.0.1"), "https://s3.example/", [true, true, true, false]),
            (Some("::1"), "https://s3.example/", [true, true, true, false]),
            (Some("169.254.1.1"), "https://s3.example/", [true, true, false, false]),
            (None, "https://s3.example/", [true, true, false, false]),
            // The user named this origin, wherever it is.
            (Some("1.1.1.1"), "/y", [true; 4]),
            (Some("1.1.1.1"), "https://a.example:443/y", [true; 4]),
            (Some("1.1.1.1"), "https://a.example:444/y", [true, true, false, false]),
        ] {
            let mut trail = Trail::new(HttpUrl::parse("https://a.example/x").unwrap());
            if let Some(home) = home {
                trail.answered_at(home.parse().unwrap());
            }
            let redirect = trail.follow(&head(&[location])).unwrap();
            let addresses = ["1.0.0.1", "10.9.9.9", "127.0.0.2", "169.254.169.254"];
            let allowed = addresses.map(|address| redirect.allows(address.parse().unwrap()));
            assert_eq!(allowed, expected, "{home:?} {location}");
            if let Some(shortcut) = trail.shortcut() {
                let allowed = addresses.map(|address| shortcut.allows(address.parse().unwrap()));
                assert_eq!(allowed, expected, "{home:?} {location}, later");
            }
            // Who answers on the way is not who the user named.
            trail.answered_at("127.0.0.1".parse().unwrap());
            let redirect = trail.follow(&head(&["https://c.example/"])).unwrap();
            let near = redirect.allows("127.0.0.2".parse().unwrap());
            assert_eq!(near, matches!(home, Some("127.0.0.1" | "::1")), "{home:?} {location}");
        }
    }

    #[test]
    fn a_loop_is_found_however_long() {
        let mut trail = Trail::new(HttpUrl::parse("https://a.example/0").unwrap());
        trail.follow(&head(&["https://b.example/1"])).unwrap();
        trail.follow(&head(&["https://c.example/2"])).unwrap();
        let error = trail.follow(&head(&["https://b.example/1"])).unwrap_err();
        assert!(matches!(error, RedirectError::Loop { .. }), "{error}");
    }

    #[test]
    fn redirects_are_counted() {
        let mut trail = Trail::new(HttpUrl::parse("https://a.example/0").unwrap());
        for hop in 1..=REDIRECTS_MAX {
            trail.follow(&head(&[&format!("/{hop}")])).unwrap();
        }
        let error = trail.follow(&head(&["/last"])).unwrap_err();
        assert!(error.to_string().contains("after 10 redirects"), "{error}");
    }

    #[test]
    fn a_signature_shows_in_no_message() {
        let mut trail = Trail::new(HttpUrl::parse("https://a.example/?sig=CANARY").unwrap());
        for location in ["/?sig=CANARY", "http://b.example/?sig=CANARY", "ftp://CANARY@x/"] {
            let error = trail.follow(&head(&[location])).unwrap_err();
            assert!(!format!("{error} {error:?} {trail:?}").contains("CANARY"), "{error:?}");
        }
    }

    #[test]
    fn only_five_statuses_redirect() {
        let followed: Vec<u16> = (100..600).filter(|&status| is_redirect(status)).collect();
        assert_eq!(followed, [301, 302, 303, 307, 308]);
    }
}
