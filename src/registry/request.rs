//! The requests of the protocol. They carry no credentials: these are attached by whoever sends
//! them, for the origin they are sent to, each time anew.

use crate::http::{ByteRange, HttpUrl, Method, Request, RequestError};
use crate::image::MediaType;

/// A request for a manifest or index, at the URL of an endpoint or of a redirect. `HEAD` asks for its
/// digest alone, which registries do not count against their rate limits.
pub fn manifest(method: Method, url: HttpUrl) -> Result<Request, RequestError> {
    // Docker's schema 1 is not in the list: it would be refused. Neither is `*/*`, by which some
    // registries would take it that schema 1 is welcome.
    let accepted = [
        MediaType::OCI_INDEX,
        MediaType::OCI_MANIFEST,
        MediaType::DOCKER_INDEX,
        MediaType::DOCKER_MANIFEST,
    ];
    Request::new(method, url).header("Accept", &accepted.join(", "))
}

/// A request for a blob or a part of it, at the URL of an endpoint or of a redirect.
pub fn blob(url: HttpUrl, range: Option<ByteRange>) -> Request {
    let request = Request::get(url);
    match range {
        // On purpose without `If-Range` (RFC 9110 section 13.1.5): a blob's name is its digest, which
        // decides on the bytes. A registry whose hosts disagree on the ETag would else send the whole.
        Some(range) => request.range(range),
        None => request,
    }
}

/// A request for `/v2/`: is this a registry, and how does one log in?
pub fn ping(url: HttpUrl) -> Request {
    Request::get(url)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::TargetForm;

    #[track_caller]
    fn check(request: Request, expected: &[&str]) {
        let text = String::from_utf8(request.encode(TargetForm::Origin)).unwrap();
        for line in expected {
            assert!(text.contains(&format!("{line}\r\n")), "{line} in {text}");
        }
        assert!(!text.contains("Authorization"), "{text}");
    }

    #[test]
    fn requests_say_what_is_wanted() {
        let url = |path: &str| HttpUrl::parse(&format!("https://r.example{path}")).unwrap();
        check(
            manifest(Method::Head, url("/v2/a/manifests/1")).unwrap(),
            &[
                "HEAD /v2/a/manifests/1 HTTP/1.1",
                "Accept: application/vnd.oci.image.index.v1+json, \
                 application/vnd.oci.image.manifest.v1+json, \
                 application/vnd.docker.distribution.manifest.list.v2+json, \
                 application/vnd.docker.distribution.manifest.v2+json",
            ],
        );
        let range = ByteRange { start: 10, end: 20 };
        check(
            blob(url("/v2/a/blobs/x"), Some(range)),
            &["GET /v2/a/blobs/x HTTP/1.1", "Range: bytes=10-19"],
        );
        check(blob(url("/b?sig=1"), None), &["GET /b?sig=1 HTTP/1.1"]);
        check(ping(url("/v2/")), &["GET /v2/ HTTP/1.1", "Host: r.example"]);
    }
}
