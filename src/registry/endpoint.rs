//! Where a registry is spoken to, and the URLs of what it has (OCI distribution-spec, section
//! "Endpoints").

use crate::error::Class;
use crate::http::{HttpUrl, UrlError};
use crate::image::reference::DEFAULT_REGISTRY;
use crate::image::shown::shown;
use crate::image::{Digest, Reference};
use crate::origin::{Origin, Scheme};

/// The host that serves the registry called `docker.io`.
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";

/// What the user said about speaking to registries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndpointOptions {
    /// The scheme to speak to the registry of the reference. `None`: http if it is on this machine
    /// (`localhost`, 127.0.0.0/8, `[::1]`), else https. There is no falling back from https to http.
    pub scheme: Option<Scheme>,
}

/// A registry's base URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Ends in `/v2/`.
    base: HttpUrl,
}

/// The registry or repository of a reference makes no URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("registry `{registry}` cannot be spoken to: {source}")]
pub struct EndpointError {
    /// The registry as it was written.
    pub registry: String,
    /// What is wrong with it.
    pub source: UrlError,
}

impl EndpointError {
    /// Always [`Class::Usage`]: references come from the user.
    pub fn class(&self) -> Class {
        Class::Usage
    }
}

impl Endpoint {
    /// The registry itself. `docker.io` is spoken to at `registry-1.docker.io`.
    ///
    /// Mirrors will be further endpoints in front of this one, each with options, credentials and
    /// capabilities of its own.
    pub fn for_reference(
        reference: &Reference,
        options: &EndpointOptions,
    ) -> Result<Endpoint, EndpointError> {
        let authority = match reference.registry() {
            DEFAULT_REGISTRY => DOCKER_HUB_HOST,
            registry => registry,
        };
        let base = |scheme: Scheme| {
            HttpUrl::parse(&format!("{scheme}://{authority}/v2/"))
                .map_err(|source| EndpointError { registry: shown(reference.registry()), source })
        };
        let scheme = match options.scheme {
            Some(scheme) => scheme,
            None if base(Scheme::Https)?.origin().is_loopback() => Scheme::Http,
            None => Scheme::Https,
        };
        Ok(Endpoint { base: base(scheme)? })
    }

    /// What its connections and credentials belong to.
    pub fn origin(&self) -> Origin {
        self.base.origin()
    }

    /// `/v2/`: answers 200 or 401 if this is a registry, and with 401 how to log in.
    pub fn base_url(&self) -> HttpUrl {
        self.base.clone()
    }

    /// The manifest that `key`, a tag or a digest, picks out of `repository`: see
    /// [`Reference::manifest_key`].
    pub fn manifest_url(&self, repository: &str, key: &str) -> Result<HttpUrl, UrlError> {
        self.url(repository, "manifests", key)
    }

    /// A blob of `repository`.
    pub fn blob_url(&self, repository: &str, digest: &Digest) -> Result<HttpUrl, UrlError> {
        self.url(repository, "blobs", &digest.to_string())
    }

    /// All URLs but the base come from here. A mirror's will get `?ns=<registry>` here, so that it
    /// knows whose repository is meant.
    fn url(&self, repository: &str, kind: &str, key: &str) -> Result<HttpUrl, UrlError> {
        // Absolute, not joined to the base: a repository or key must not be able to lead elsewhere.
        HttpUrl::parse(&format!("{}/v2/{repository}/{kind}/{key}", self.base.origin()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Algorithm;

    #[track_caller]
    fn check(reference: &str, scheme: Option<Scheme>, expected: &str) {
        let reference = Reference::parse(reference).unwrap();
        let endpoint = Endpoint::for_reference(&reference, &EndpointOptions { scheme }).unwrap();
        assert_eq!(endpoint.base_url().to_string(), format!("{expected}/v2/"));
        assert_eq!(endpoint.origin().to_string(), expected);
        let url = endpoint.manifest_url(reference.repository(), &reference.manifest_key());
        assert_eq!(
            url.unwrap().to_string(),
            format!(
                "{expected}/v2/{}/manifests/{}",
                reference.repository(),
                reference.manifest_key()
            )
        );
    }

    #[test]
    fn registries_are_spoken_to_where_they_are() {
        for (reference, expected) in [
            ("alpine", "https://registry-1.docker.io"),
            ("index.docker.io/a/b:1", "https://registry-1.docker.io"),
            ("ghcr.io/a/b", "https://ghcr.io"),
            ("GHCR.io/a/b", "https://ghcr.io"),
            ("ghcr.io:443/a/b", "https://ghcr.io"),
            ("registry:5000/a", "https://registry:5000"),
            ("192.168.0.1:80/a", "https://192.168.0.1:80"),
            ("localhost/a", "http://localhost"),
            ("localhost:443/a", "http://localhost:443"),
            (
                "localhost:5000/a@sha256:86e0e091d0da6bde2456dbb48306f3956bbeb2eae1b5b9a43045843f69fe4aaa",
                "http://localhost:5000",
            ),
            ("127.0.0.1:5000/a", "http://127.0.0.1:5000"),
            ("127.8.8.8/a", "http://127.8.8.8"),
            ("[::1]:5000/a", "http://[::1]:5000"),
            ("[0:0:0:0:0:0:0:1]/a", "http://[::1]"),
            ("[fc00::1]:5000/a", "https://[fc00::1]:5000"),
            // Not this machine, whatever they look like.
            ("localhost.example.com/a", "https://localhost.example.com"),
            ("127.0.0.1.example.com/a", "https://127.0.0.1.example.com"),
        ] {
            check(reference, None, expected);
        }
    }

    #[test]
    fn the_user_may_say_otherwise() {
        check("alpine", Some(Scheme::Http), "http://registry-1.docker.io");
        check("registry:5000/a", Some(Scheme::Http), "http://registry:5000");
        check("ghcr.io/a/b", Some(Scheme::Http), "http://ghcr.io");
        check("localhost:5000/a", Some(Scheme::Https), "https://localhost:5000");
        check("localhost/a", Some(Scheme::Https), "https://localhost");
    }

    #[test]
    fn a_blob_is_named_by_its_digest() {
        let reference = Reference::parse("ghcr.io/a/b").unwrap();
        let endpoint = Endpoint::for_reference(&reference, &EndpointOptions::default()).unwrap();
        let digest = Digest::of(Algorithm::Sha256, b"");
        assert_eq!(
            endpoint.blob_url("a/b", &digest).unwrap().to_string(),
            "https://ghcr.io/v2/a/b/blobs/sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }

    #[test]
    fn hosts_that_no_resolver_takes_are_refused() {
        for reference in ["1.2.3.4.5/a", &format!("{}.com/a", "x".repeat(64)), "256.1.1.1/a"] {
            let reference = Reference::parse(reference).unwrap();
            let error = Endpoint::for_reference(&reference, &EndpointOptions::default())
                .expect_err(reference.registry());
            assert!(error.to_string().contains("cannot be spoken to"), "{error}");
            assert_eq!(error.class(), Class::Usage);
        }
    }
}
