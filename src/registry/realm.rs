//! Whether the token service that a registry names may be asked, and with credentials.
//!
//! The realm of a challenge is chosen by whoever answers for the registry, before anybody has proved
//! anything. Most clients send the user's password wherever it points; 2026 brought a CVE a month
//! for that. Here the rules are one function, [`check`]; what the name resolves to is judged apart,
//! when it is known, by [`super::address::allowed`].

use crate::error::Class;
use crate::http::{HttpUrl, UrlError};
use crate::origin::{Origin, Scheme};
use crate::registry::AddressClass;

/// Leave to ask a token service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RealmGrant {
    /// The user's credentials may be sent along.
    WithCredentials,
    /// The service may be asked, but without credentials: there are none.
    Anonymous,
}

/// Why a token service is not asked. Nothing has been sent to it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RealmRefused {
    /// The realm is not a URL that can be asked.
    #[error("{registry} names a token service that cannot be asked: {source}")]
    Url {
        /// The registry.
        registry: Origin,
        /// What is wrong with the URL.
        source: UrlError,
    },
    /// The realm has a fragment, which is never sent: it can only be there to mislead.
    #[error("{registry} names a token service by a URL with a fragment (`#`)")]
    Fragment {
        /// The registry.
        registry: Origin,
    },
    /// A registry on https names a token service on http.
    #[error("{registry} is on https, but names a token service that is not: {realm}")]
    Insecure {
        /// The registry.
        registry: Origin,
        /// The token service.
        realm: Origin,
    },
    /// The realm is on this machine or in this network, and the registry is not.
    #[error(
        "{registry} names {realm} as its token service, an address of this machine or this network, \
         where the registry itself is not: nothing was sent. If that is right (a forwarded port, \
         say), name it with --trust-token-service {host}",
        host = .realm.host()
    )]
    Near {
        /// The registry.
        registry: Origin,
        /// The token service.
        realm: Origin,
    },
    /// The realm is an address where no token service is.
    #[error(
        "{registry} names {realm} as its token service, an address where machines find their own \
         credentials (or nothing)"
    )]
    Address {
        /// The registry.
        registry: Origin,
        /// The token service.
        realm: Origin,
    },
    /// Credentials would leave the registry's domain.
    #[error(
        "{registry} wants the credentials for it to be sent to {realm}, which is not known to belong \
         to it: nothing was sent. If it does, name it with --trust-token-service {host}",
        host = .realm.host()
    )]
    OtherDomain {
        /// The registry.
        registry: Origin,
        /// The token service.
        realm: Origin,
    },
}

impl RealmRefused {
    /// Always [`Class::RealmRefused`].
    pub fn class(&self) -> Class {
        Class::RealmRefused
    }
}

/// Parses the realm of a challenge that `registry` sent.
pub fn parse(registry: &Origin, realm: &str) -> Result<HttpUrl, RealmRefused> {
    if realm.contains('#') {
        return Err(RealmRefused::Fragment { registry: registry.clone() });
    }
    HttpUrl::parse(realm).map_err(|source| RealmRefused::Url { registry: registry.clone(), source })
}

/// Decides whether `realm`, a token service that `registry` named, may be asked for a token.
///
/// - It must be on https, unless the registry itself is on http.
/// - It must not be an address of [`AddressClass::Never`].
/// - Credentials go only to the registry's own host, to a token service that is known to be the
///   registry's, to one the user trusts by name, or within one domain (see `same_domain`).
///   To any other it is an error to have them, rather than silently to go without: the user would
///   be told that an image is missing which is only private.
///
/// `trusted` are host names. The caller must not follow a redirect of the service's answer.
pub fn check(
    registry: &Origin,
    realm: &HttpUrl,
    has_credentials: bool,
    trusted: &[String],
) -> Result<RealmGrant, RealmRefused> {
    let origin = realm.origin();
    if (registry.scheme(), origin.scheme()) == (Scheme::Https, Scheme::Http) {
        return Err(RealmRefused::Insecure { registry: registry.clone(), realm: origin });
    }
    if origin.ip().is_some_and(|address| AddressClass::of(address) == AddressClass::Never) {
        return Err(RealmRefused::Address { registry: registry.clone(), realm: origin });
    }
    if !has_credentials {
        return Ok(RealmGrant::Anonymous);
    }
    let (from, to) = (registry.host(), origin.host());
    let belongs = from == to
        || KNOWN_SERVICES.iter().any(|(domain, service)| is_within(from, domain) && to == *service)
        || is_trusted(&origin, trusted)
        || same_domain(from, to);
    match belongs {
        true => Ok(RealmGrant::WithCredentials),
        false => Err(RealmRefused::OtherDomain { registry: registry.clone(), realm: origin }),
    }
}

/// Whether the user trusts `realm` by the name of its host, at any port.
pub fn is_trusted(realm: &Origin, trusted: &[String]) -> bool {
    trusted.iter().any(|host| host.eq_ignore_ascii_case(realm.host()))
}

/// Domains of registries, and the token services that are known to be theirs although the rules for
/// domains do not say so. (Docker Hub's `auth.docker.io` and GitLab's `gitlab.com` need no entry.)
const KNOWN_SERVICES: &[(&str, &str)] = &[
    // Registries of all regions name that of the first.
    ("aliyuncs.com", "dockerauth.aliyuncs.com"),
    ("aliyuncs.com", "dockerauth.cn-beijing.aliyuncs.com"),
    ("aliyuncs.com", "dockerauth.cn-hangzhou.aliyuncs.com"),
    ("aliyuncs.com", "dockerauth.cn-shanghai.aliyuncs.com"),
];

/// Whether two hosts surely have one owner: one is below the other, or both are below a name that
/// one registers. `registry.example.com` and `auth.example.com` are; `a.co.uk` and `b.co.uk` are not.
///
/// There is no list of all public suffixes here: it is large, changes weekly, and being out of date
/// errs to the wrong side. The rules below err to the right one, and take fewer than it would.
fn same_domain(a: &str, b: &str) -> bool {
    if is_address(a) || is_address(b) || TENANT_DOMAINS.iter().any(|domain| is_within(a, domain)) {
        return false;
    }
    let shared: Vec<&str> = a
        .rsplit('.')
        .zip(b.rsplit('.'))
        .take_while(|(a, b)| a == b)
        .map(|(label, _)| label)
        .collect();
    // A dot at the end of both hosts is an empty label.
    let [top, second, ..] = shared[..] else { return false };
    !top.is_empty() && shared.len() >= labels_of_a_domain(top, second)
}

/// How many labels a name below `second.top` must have to be one that somebody registered.
fn labels_of_a_domain(top: &str, second: &str) -> usize {
    let is_country = top.len() == 2;
    match second.len() {
        // `co.uk`, `com.au`; `uk.com`, `jpn.com`, `eu.org`, which are let in the same way.
        0..=3 if is_country || matches!(top, "com" | "net" | "org") => 3,
        // `example.de`, `example.com`, `x.dev`.
        _ if !is_country || FLAT_COUNTRIES.contains(&top) => 2,
        // `gouv.fr`; `city.kyoto.jp`.
        _ => 4,
    }
}

fn is_address(host: &str) -> bool {
    host.parse::<std::net::IpAddr>().is_ok()
}

/// Whether `host` is `domain` or below it.
fn is_within(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Top-level domains of two letters, directly below which anybody registers a name, and where no
/// longer names (provinces, towns) are let to others.
const FLAT_COUNTRIES: &[&str] = &[
    "ai", "at", "be", "ch", "cz", "de", "eu", "gg", "ie", "io", "is", "li", "lu", "nl", "si", "sk",
];

/// Domains below which strangers are neighbours: clouds, hosters, dynamic DNS, clusters. Credentials
/// do not go from one host below them to another, however much of the name they share.
const TENANT_DOMAINS: &[&str] = &[
    "aliyuncs.com",
    "amazonaws.com",
    "amazonaws.com.cn",
    "app.github.dev",
    "appdomain.cloud",
    "appspot.com",
    "azure.com",
    "azurecr.cn",
    "azurecr.io",
    "azurecr.us",
    "azurefd.net",
    "azurewebsites.net",
    "cloudapp.net",
    "cloudflarestorage.com",
    "cloudfront.net",
    "cloudsmith.io",
    "ddns.net",
    "deno.dev",
    "digitaloceanspaces.com",
    "duckdns.org",
    "dyndns.org",
    "firebaseapp.com",
    "fly.dev",
    "github.io",
    "gitlab.io",
    "gitpod.io",
    "googleapis.com",
    "googleusercontent.com",
    "herokuapp.com",
    "jfrog.io",
    "linodeobjects.com",
    "local",
    "localhost",
    "myhuaweicloud.com",
    "myqcloud.com",
    "netlify.app",
    "ngrok-free.app",
    "ngrok.app",
    "ngrok.io",
    "nip.io",
    "no-ip.org",
    "ondigitalocean.app",
    "onrender.com",
    "oraclecloud.com",
    "oraclevcn.com",
    "ovh.net",
    "pages.dev",
    "pkg.dev",
    "r2.dev",
    "railway.app",
    "readthedocs.io",
    "repl.co",
    "replit.dev",
    "run.app",
    "scw.cloud",
    "sslip.io",
    "tencentcloudcr.com",
    "trycloudflare.com",
    "ts.net",
    "vercel.app",
    "web.app",
    "windows.net",
    "workers.dev",
];

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of a realm: with credentials, and without.
    #[derive(Debug, PartialEq)]
    enum Outcome {
        Sent,
        AnonymousOnly,
        Refused,
    }
    use Outcome::{AnonymousOnly, Refused, Sent};

    fn origin(url: &str) -> Origin {
        HttpUrl::parse(url).unwrap().origin()
    }

    #[track_caller]
    fn check_outcome(registry: &str, realm: &str, trusted: &[&str], expected: Outcome) {
        let trusted: Vec<String> = trusted.iter().map(|host| (*host).to_owned()).collect();
        let decide = |has_credentials| {
            let realm = parse(&origin(registry), realm)?;
            check(&origin(registry), &realm, has_credentials, &trusted)
        };
        let outcome = match (decide(true), decide(false)) {
            (Ok(RealmGrant::WithCredentials), Ok(RealmGrant::Anonymous)) => Sent,
            (Err(RealmRefused::OtherDomain { .. }), Ok(RealmGrant::Anonymous)) => AnonymousOnly,
            (Err(_), Err(_)) => Refused,
            other => panic!("{registry} {realm}: {other:?}"),
        };
        assert_eq!(outcome, expected, "{registry} names {realm}");
    }

    #[test]
    fn credentials_stay_with_their_owner() {
        for (registry, realm, expected) in [
            ("https://registry-1.docker.io", "https://auth.docker.io/token", Sent),
            ("https://ghcr.io", "https://ghcr.io/token", Sent),
            ("https://quay.io", "https://quay.io/v2/auth", Sent),
            ("https://registry.gitlab.com", "https://gitlab.com/jwt/auth", Sent),
            ("https://git.example.com:5050", "https://git.example.com/jwt/auth", Sent),
            ("https://git.example.com:5050", "https://git.example.com:8443/jwt/auth", Sent),
            ("https://a.b.example.com", "https://auth.example.com/", Sent),
            ("https://example.com", "https://auth.example.com/", Sent),
            ("https://auth.example.com", "https://example.com/", Sent),
            ("https://r.example.de", "https://auth.example.de/", Sent),
            ("https://r.example.co.uk", "https://auth.example.co.uk/", Sent),
            ("https://r.dept.example.fr", "https://auth.dept.example.fr/", AnonymousOnly),
            ("https://r.x.dept.example.fr", "https://auth.x.dept.example.fr/", Sent),
            ("https://t.azurecr.io", "https://t.azurecr.io/oauth2/token", Sent),
            ("https://10.0.0.1", "https://10.0.0.1/token", Sent),
            ("http://localhost:5000", "http://localhost:5001/token", Sent),
            ("http://registry:5000", "http://registry:5001/token", Sent),
            ("http://registry:5000", "https://registry/token", Sent),
            ("https://r.mygithub.io", "https://auth.mygithub.io/", Sent),
            (
                "https://registry.cn-shanghai.aliyuncs.com",
                "https://dockerauth.cn-hangzhou.aliyuncs.com/auth",
                Sent,
            ),
            // Somebody else's.
            ("https://ghcr.io", "https://dockerauth.cn-hangzhou.aliyuncs.com/auth", AnonymousOnly),
            (
                "https://registry.cn-shanghai.aliyuncs.com",
                "https://evil.oss-cn-shanghai.aliyuncs.com/auth",
                AnonymousOnly,
            ),
            ("https://ghcr.io", "https://evil.example/token", AnonymousOnly),
            ("https://ghcr.io", "https://ghcr.io.evil.example/token", AnonymousOnly),
            ("https://ghcr.io", "https://evilghcr.io/token", AnonymousOnly),
            ("https://ghcr.io", "https://ghcr.io./token", AnonymousOnly),
            ("https://ghcr.io.", "https://quay.io./token", AnonymousOnly),
            ("https://ghcr.io", "https://quay.io/token", AnonymousOnly),
            ("https://registry-1.docker.io", "https://auth.docker.com/", AnonymousOnly),
            ("https://r.example.co.uk", "https://r.evil.co.uk/", AnonymousOnly),
            ("https://r.example.com.au", "https://evil.com.au/", AnonymousOnly),
            ("https://r.example.uk.com", "https://r.evil.uk.com/", AnonymousOnly),
            ("https://r.example.jpn.com", "https://r.evil.jpn.com/", AnonymousOnly),
            ("https://r.example.eu.org", "https://r.evil.eu.org/", AnonymousOnly),
            ("https://r.example.tokyo.jp", "https://r.evil.tokyo.jp/", AnonymousOnly),
            ("https://r.a.milano.it", "https://r.b.milano.it/", AnonymousOnly),
            ("https://a.azurecr.io", "https://b.azurecr.io/", AnonymousOnly),
            ("https://a.jfrog.io", "https://jfrog.io/", AnonymousOnly),
            ("https://a.github.io", "https://b.github.io/", AnonymousOnly),
            ("https://a.eu-1.amazonaws.com", "https://b.eu-1.amazonaws.com/", AnonymousOnly),
            ("https://r.a.svc.cluster.local", "https://r.b.svc.cluster.local/", AnonymousOnly),
            ("https://10.0.0.1", "https://10.0.0.2/token", AnonymousOnly),
            ("https://1.2.3.4", "https://9.2.3.4/token", AnonymousOnly),
            ("https://[2001:db8::1]", "https://[2001:db8::2]/token", AnonymousOnly),
            ("http://a.localhost", "http://b.localhost/", AnonymousOnly),
            ("http://registry:5000", "http://auth:5000/", AnonymousOnly),
            // Not even without credentials.
            ("https://ghcr.io", "http://ghcr.io/token", Refused),
            ("https://ghcr.io", "http://localhost/token", Refused),
            ("https://ghcr.io", "https://169.254.169.254/latest/meta-data", Refused),
            ("http://registry", "http://169.254.169.254/latest/meta-data", Refused),
            ("http://registry", "http://2852039166/latest/meta-data", Refused),
            ("http://registry", "http://0xa9fea9fe/latest/meta-data", Refused),
            ("http://registry", "http://[::ffff:169.254.169.254]/", Refused),
            ("http://registry", "http://[fd00:ec2::254]/", Refused),
            ("http://registry", "http://[fe80::1]/", Refused),
            ("http://registry", "http://0.0.0.0/", Refused),
            ("http://registry", "http://100.100.100.200/", Refused),
            ("https://169.254.1.1", "https://169.254.1.1/", Refused),
            ("https://ghcr.io", "https://user@ghcr.io/token", Refused),
            ("https://ghcr.io", "https://ghcr.io@evil.example/token", Refused),
            ("https://ghcr.io", "https://ghcr.io/token#x", Refused),
            ("https://ghcr.io", "/token", Refused),
            ("https://ghcr.io", "//ghcr.io/token", Refused),
            ("https://ghcr.io", "ftp://ghcr.io/token", Refused),
            ("https://ghcr.io", "https://ghcr.io/a b", Refused),
            ("https://ghcr.io", "https://ghcr.io\\@evil.example/", Refused),
        ] {
            check_outcome(registry, realm, &[], expected);
        }
    }

    #[test]
    fn the_user_may_trust_a_host_but_not_an_insecure_one() {
        let trusted = &["SSO.example.net"];
        check_outcome("https://ghcr.io", "https://sso.example.net/t", trusted, Sent);
        check_outcome("https://ghcr.io", "https://sso.example.net:8443/t", trusted, Sent);
        check_outcome("https://ghcr.io", "https://x.sso.example.net/t", trusted, AnonymousOnly);
        check_outcome("https://ghcr.io", "http://sso.example.net/t", trusted, Refused);
        check_outcome("http://r", "http://169.254.169.254/t", &["169.254.169.254"], Refused);
    }

    #[test]
    fn a_refusal_names_both_hosts() {
        let registry = origin("https://ghcr.io");
        let realm = parse(&registry, "https://evil.example/token?x=CANARY").unwrap();
        let error = check(&registry, &realm, true, &[]).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("https://ghcr.io wants"), "{text}");
        assert!(text.contains("sent to https://evil.example, which"), "{text}");
        assert!(!text.contains("CANARY"), "{text}");
        assert_eq!(error.class(), Class::RealmRefused);
    }
}
