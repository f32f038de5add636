//! References: Docker's own table of cases, the texts of the errors, and the parser of the OCI types
//! as an oracle.

use oci_spec::distribution::Reference as Oracle;
use ringpull::image::Reference;
use ringpull::image::reference::ReferenceError;

const DIGEST: &str = "sha256:86e0e091d0da6bde2456dbb48306f3956bbeb2eae1b5b9a43045843f69fe4aaa";

/// As written; registry, repository, tag, short form.
type Row = (&'static str, &'static str, &'static str, &'static str, &'static str);

/// From `distribution/reference`, `normalize_test.go` and `reference_test.go`.
const ACCEPTED: &[Row] = &[
    ("alpine", "docker.io", "library/alpine", "latest", "alpine:latest"),
    ("alpine:3.20", "docker.io", "library/alpine", "3.20", "alpine:3.20"),
    ("library/alpine", "docker.io", "library/alpine", "latest", "alpine:latest"),
    ("docker.io/alpine", "docker.io", "library/alpine", "latest", "alpine:latest"),
    ("docker.io/library/alpine:3", "docker.io", "library/alpine", "3", "alpine:3"),
    ("index.docker.io/alpine", "docker.io", "library/alpine", "latest", "alpine:latest"),
    ("index.docker.io/library/foo", "docker.io", "library/foo", "latest", "foo:latest"),
    (
        "docker.io/library/foo/bar",
        "docker.io",
        "library/foo/bar",
        "latest",
        "library/foo/bar:latest",
    ),
    // The short form would be at another registry.
    ("docker.io/a.b/c", "docker.io", "a.b/c", "latest", "docker.io/a.b/c:latest"),
    ("fooo/bar", "docker.io", "fooo/bar", "latest", "fooo/bar:latest"),
    ("nonlibrary/ubuntu", "docker.io", "nonlibrary/ubuntu", "latest", "nonlibrary/ubuntu:latest"),
    ("other/library", "docker.io", "other/library", "latest", "other/library:latest"),
    ("localhost/fooo", "localhost", "fooo", "latest", "localhost/fooo:latest"),
    ("localhost", "docker.io", "library/localhost", "latest", "localhost:latest"),
    ("localhost:5000", "docker.io", "library/localhost", "5000", "localhost:5000"),
    ("LOCALDOMAIN/fooo/bar", "LOCALDOMAIN", "fooo/bar", "latest", "LOCALDOMAIN/fooo/bar:latest"),
    ("Foo/bar", "Foo", "bar", "latest", "Foo/bar:latest"),
    ("127.0.0.1:8000/a/b", "127.0.0.1:8000", "a/b", "latest", "127.0.0.1:8000/a/b:latest"),
    ("192.168.0.1", "docker.io", "library/192.168.0.1", "latest", "192.168.0.1:latest"),
    ("192.168.0.1:80", "docker.io", "library/192.168.0.1", "80", "192.168.0.1:80"),
    ("192.168.1.1/repo", "192.168.1.1", "repo", "latest", "192.168.1.1/repo:latest"),
    ("192.168.1.1:5000/r:5050", "192.168.1.1:5000", "r", "5050", "192.168.1.1:5000/r:5050"),
    ("test.com:5000", "docker.io", "library/test.com", "5000", "test.com:5000"),
    ("test:5000/repo", "test:5000", "repo", "latest", "test:5000/repo:latest"),
    ("example.com/moonbase", "example.com", "moonbase", "latest", "example.com/moonbase:latest"),
    (
        "b.gcr.io/t.example.com/my-app:t.c",
        "b.gcr.io",
        "t.example.com/my-app",
        "t.c",
        "b.gcr.io/t.example.com/my-app:t.c",
    ),
    (
        "xn--n3h.com/myimage:xn--n3h.com",
        "xn--n3h.com",
        "myimage",
        "xn--n3h.com",
        "xn--n3h.com/myimage:xn--n3h.com",
    ),
    ("foo_bar.com:8080", "docker.io", "library/foo_bar.com", "8080", "foo_bar.com:8080"),
    ("foo/foo_bar.com:8080", "docker.io", "foo/foo_bar.com", "8080", "foo/foo_bar.com:8080"),
    ("lowercase:Uppercase", "docker.io", "library/lowercase", "Uppercase", "lowercase:Uppercase"),
    (
        "docker---rules/docker",
        "docker.io",
        "docker---rules/docker",
        "latest",
        "docker---rules/docker:latest",
    ),
    ("dock__er/docker", "docker.io", "dock__er/docker", "latest", "dock__er/docker:latest"),
    ("d/docker:_x", "docker.io", "d/docker", "_x", "d/docker:_x"),
    ("[::1]:5000/repo", "[::1]:5000", "repo", "latest", "[::1]:5000/repo:latest"),
    ("[2001:db8::]/repo:tag", "[2001:db8::]", "repo", "tag", "[2001:db8::]/repo:tag"),
    (
        "[fc00:1:2:3:4:5:6:7]:5000/a/b",
        "[fc00:1:2:3:4:5:6:7]:5000",
        "a/b",
        "latest",
        "[fc00:1:2:3:4:5:6:7]:5000/a/b:latest",
    ),
    (
        "docker.io/1a3f5e7d9c1b3a5f7e9d1c3b5a7f9e1d3c5b7a9f1e3d5d7c9b1a3f5e7d9c1b3a",
        "docker.io",
        "library/1a3f5e7d9c1b3a5f7e9d1c3b5a7f9e1d3c5b7a9f1e3d5d7c9b1a3f5e7d9c1b3a",
        "latest",
        "1a3f5e7d9c1b3a5f7e9d1c3b5a7f9e1d3c5b7a9f1e3d5d7c9b1a3f5e7d9c1b3a:latest",
    ),
];

/// As written; what the error must say.
const REFUSED: &[(&str, &str)] = &[
    ("", "is empty: write NAME[:TAG]"),
    ("https://ghcr.io/org/app", "leave it out and write `ghcr.io/org/app`"),
    ("docker://alpine", "`docker://` does not belong in an image name"),
    ("alpine:", "the tag of `alpine:` is empty"),
    ("ghcr.io/a/b:", "write a/b:TAG, or leave out the colon"),
    ("ALPINE", "repository `ALPINE` has upper case letters: write `alpine`"),
    ("Alpine:3", "write `alpine`"),
    ("docker/Docker", "write `docker/docker`"),
    ("docker.io/docker/Docker", "write `docker/docker`"),
    ("test:5000/Uppercase/lower:tag", "write `uppercase/lower`"),
    (":justtag", "has no name before its tag or digest"),
    ("@sha256:ff", "has no name before its tag or digest"),
    ("docker/", "`` in repository `docker/` is malformed"),
    ("docker.io/", "names a registry and no image in it"),
    ("localhost:5000/", "write localhost:5000/NAME[:TAG]"),
    ("[fc00::1]", "names a registry and no image in it"),
    ("[fc00::1]:5000", "names a registry and no image in it"),
    ("ghcr.io/:tag", "names a registry and no image in it"),
    ("fc00::1:5000/debian", "write an IPv6 address in brackets"),
    ("[fe80::1%eth0]:5000/debian", "IPv6 address without zone"),
    ("[2001:db8:3:4::192.0.2.33]:5000/debian", "IPv6 address without zone"),
    ("[:::]/debian", "IPv6 address without zone"),
    ("[::1/debian", "IPv6 address without zone"),
    ("[::1]x/debian", "IPv6 address without zone"),
    ("host:0/a", "the port is a number from 1 to 65535"),
    ("host:65536/a", "the port is a number from 1 to 65535"),
    ("host:+80/a", "the port is a number from 1 to 65535"),
    ("host:/a", "the port is a number from 1 to 65535"),
    ("-docker.io/docker/docker", "registry `-docker.io` is not a host"),
    ("foo_bar.com/x", "registry `foo_bar.com` is not a host"),
    ("a..b/x", "registry `a..b` is not a host"),
    ("user@host.io/x", "does not belong in an image name: write `host.io/x`"),
    ("https://user:password@host.io/x", "does not belong in an image name: write `host.io/x`"),
    ("-docker", "`-docker` in repository"),
    ("docker-/docker", "`docker-` in repository"),
    ("docker///docker", "`` in repository `docker///docker`"),
    ("____/____", "`____` in repository"),
    ("d/dock..er", "`dock..er` in repository"),
    ("d/dock_.er", "`dock_.er` in repository"),
    ("d/dock-.er", "`dock-.er` in repository"),
    ("d/dock___er", "`dock___er` in repository"),
    ("aa/asdf$$^/aa", "`asdf$$^` in repository"),
    (" alpine", "` alpine` in repository"),
    ("alpine\n", "`alpine\\n` in repository"),
    ("café", "`café` in repository"),
    ("alpine:-x", "tag `-x` is malformed"),
    ("alpine:.x", "tag `.x` is malformed"),
    ("alpine:a b", "tag `a b` is malformed"),
    ("alpine:a:b", "tag `a:b` is malformed"),
    ("alpine:a/b", "registry `alpine:a` is not a host"),
    ("repo@sha256:ffff", "sha256 takes 64 lowercase hexadecimal digits"),
    ("repo@md5:d41d8cd98f00b204e9800998ecf8427e", "unsupported algorithm"),
    ("repo@", "digest `` has no algorithm"),
    (
        "1a3f5e7d9c1b3a5f7e9d1c3b5a7f9e1d3c5b7a9f1e3d5d7c9b1a3f5e7d9c1b3a",
        "is an image ID, and registries know images by name",
    ),
];

/// Where the parser of the OCI types decides otherwise, and why we stay with Docker or are stricter.
const DIFFERS: &[(&str, &str)] = &[
    ("[::1]:5000/repo", "the oracle knows no IPv6; Docker does"),
    ("[2001:db8::]/repo:tag", "the oracle knows no IPv6; Docker does"),
    ("[fc00:1:2:3:4:5:6:7]:5000/a/b", "the oracle knows no IPv6; Docker does"),
    ("LOCALDOMAIN/fooo/bar", "the oracle calls it a repository, in upper case; Docker a registry"),
    ("Foo/bar", "the oracle calls it a repository, in upper case; Docker a registry"),
    ("foo_bar.com/x", "no host has an underscore; Docker is left with an empty registry"),
    ("host:0/a", "no port"),
    ("host:65536/a", "no port"),
    (
        "1a3f5e7d9c1b3a5f7e9d1c3b5a7f9e1d3c5b7a9f1e3d5d7c9b1a3f5e7d9c1b3a",
        "the oracle would ask Docker Hub for a repository of that name; Docker refuses",
    ),
];

#[test]
fn names_mean_what_they_mean_to_docker() {
    for &(text, registry, repository, tag, familiar) in ACCEPTED {
        let reference = Reference::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(reference.registry(), registry, "{text}");
        assert_eq!(reference.repository(), repository, "{text}");
        assert_eq!(reference.tag(), Some(tag), "{text}");
        assert_eq!(reference.manifest_key(), tag, "{text}");
        assert_eq!(reference.familiar(), familiar, "{text}");
        let full = reference.to_string();
        assert_eq!(full, format!("{registry}/{repository}:{tag}"), "{text}");
        assert_eq!(Reference::parse(&full), Ok(reference.clone()), "{text}");
        assert_eq!(Reference::parse(familiar), Ok(reference), "{text}");
    }
}

#[test]
fn a_digest_decides_and_a_tag_beside_it_is_kept() {
    for &(text, ..) in ACCEPTED {
        // A bare name has no tag once it has a digest.
        let tagless = Reference::parse(&format!("{text}@{DIGEST}")).unwrap();
        let written = Reference::parse(text).unwrap();
        assert_eq!(tagless.manifest_key(), DIGEST, "{text}");
        assert_eq!(tagless.repository(), written.repository(), "{text}");
        assert!(tagless.to_string().ends_with(&format!("@{DIGEST}")), "{text}");
        assert_eq!(Reference::parse(&tagless.to_string()), Ok(tagless.clone()), "{text}");
        assert_eq!(Reference::parse(&tagless.familiar()), Ok(tagless), "{text}");
    }
    let both = Reference::parse(&format!("busybox:1.36@{DIGEST}")).unwrap();
    assert_eq!((both.tag(), both.manifest_key().as_str()), (Some("1.36"), DIGEST));
    assert_eq!(both.familiar(), format!("busybox:1.36@{DIGEST}"));
    let only = Reference::parse(&format!("busybox@{DIGEST}")).unwrap();
    assert_eq!((only.tag(), only.digest().map(|d| d.to_string())), (None, Some(DIGEST.to_owned())));
}

#[test]
fn what_is_not_a_reference_is_refused_with_a_way_out() {
    for &(text, expected) in REFUSED {
        let error = Reference::parse(text).expect_err(text);
        assert!(error.to_string().contains(expected), "{text}: {error}");
        assert_eq!(error.class().exit_code(), 2);
    }
}

#[test]
fn lengths_are_limited_to_the_byte() {
    let name = |length: usize| format!("example.com/{}", "a".repeat(length));
    assert!(Reference::parse(&name(255)).is_ok());
    let error = Reference::parse(&name(256)).unwrap_err();
    assert_eq!(error, ReferenceError::RepositoryTooLong { length: 256 });
    // `library/` counts.
    assert!(Reference::parse(&"a".repeat(247)).is_ok());
    assert!(Reference::parse(&"a".repeat(248)).is_err());
    let tag = |length: usize| format!("alpine:{}", "t".repeat(length));
    assert!(Reference::parse(&tag(128)).is_ok());
    let error = Reference::parse(&tag(129)).unwrap_err();
    assert_eq!(error, ReferenceError::TagTooLong { length: 129 });
}

#[test]
fn messages_show_foreign_text_escaped_and_short() {
    for text in [format!("a\u{1b}[31m{}", "x".repeat(5000)), format!("a:\u{7}{}", "x".repeat(90))] {
        let message = Reference::parse(&text).unwrap_err().to_string();
        assert!(!message.contains(['\u{1b}', '\u{7}']) && message.len() < 400, "{message}");
    }
}

#[test]
fn the_oracle_agrees_except_where_said() {
    let texts = ACCEPTED.iter().map(|row| row.0).chain(REFUSED.iter().map(|row| row.0));
    let mut unexpected = Vec::new();
    for text in texts {
        let ours = Reference::parse(text).ok();
        let theirs = text.parse::<Oracle>().ok();
        let agree = match (&ours, &theirs) {
            (Some(ours), Some(theirs)) => ours.to_string() == theirs.whole(),
            (None, None) => true,
            _ => false,
        };
        let differs = DIFFERS.iter().any(|&(difference, _)| difference == text);
        if agree == differs {
            unexpected.push(format!("{text}: ours {ours:?}, theirs {theirs:?}"));
        }
    }
    assert!(unexpected.is_empty(), "{unexpected:#?}");
}
