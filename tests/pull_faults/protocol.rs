//! Rows about what is said: manifests, tokens, redirects, refusals, certificates; and about what is in
//! the destination already.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ringpull::demo::{
    Action, Auth, Bearer, Blob, BlobRedirect, Credentials, Door, Format, Image, Index, Kind,
    Options, Platform, Registry, RequestLine, Rule, Script, ScriptedPeer, Step, Which,
};
use ringpull::image::MediaType;
use serde_json::{Value, json};

use crate::harness::Disk::{Blobs, Nothing};
use crate::harness::{
    Certificate, IMAGE, LAYER_SIZE, Row, Scene, Tls, faults, for_blob, layer, manifest, row,
    row_of, tls_row,
};
use crate::support::ringpull::write_authfile;
use crate::support::tools::text;

// --- manifests -----------------------------------------------------------------------------------

pub fn documents() -> Vec<Row> {
    let descriptor = |blob: &Blob| json!({ "mediaType": blob.media_type, "digest": blob.digest.to_string(), "size": blob.size() });
    let manifest_with = |change: &dyn Fn(&mut Value)| {
        let mut document: Value = serde_json::from_slice(&IMAGE.manifest.bytes).unwrap();
        change(&mut document);
        Blob::new(MediaType::OCI_MANIFEST, document.to_string())
    };
    let config = descriptor(&IMAGE.config);
    let text_of = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
    let layers = |count| {
        manifest_with(&|document: &mut Value| {
            let layer = descriptor(&IMAGE.layers[1]);
            document["layers"] = vec![layer; count].into();
        })
    };
    let digest = |digest: &'static str| {
        manifest_with(&|document: &mut Value| {
            document["layers"][0]["digest"] = digest.into();
        })
    };
    let index = |entries: Vec<Value>| {
        let media_type = MediaType::OCI_INDEX;
        let document = json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": entries });
        Blob::new(media_type, document.to_string())
    };
    let mut rows = Vec::new();
    for (name, document, class, text) in [
        (
            "39 manifests and layers at once",
            manifest_with(&|document: &mut Value| {
                document["manifests"] = json!([]);
            }),
            "manifest",
            "can be read as two different images",
        ),
        (
            "39 the same key twice",
            {
                let config = format!("\"config\":{config},\"config\":");
                let bytes = text_of(&IMAGE.manifest.bytes).replace("\"config\":", &config);
                Blob::new(MediaType::OCI_MANIFEST, bytes)
            },
            "manifest",
            "`config`",
        ),
        (
            "39 nested too deep",
            manifest_with(&|document: &mut Value| {
                document["annotations"] = serde_json::from_str(&deep).unwrap();
            }),
            "manifest",
            "deep",
        ),
        (
            "39 another type than its Content-Type",
            { Blob::new(MediaType::OCI_INDEX, IMAGE.manifest.bytes.clone()) },
            "manifest",
            "but it came as Content-Type",
        ),
        (
            "39 an error page",
            Blob::new("text/html", "<html>blocked</html>"),
            "manifest",
            "text/html",
        ),
        (
            "39 cut off in the middle",
            { Blob::new(MediaType::OCI_MANIFEST, IMAGE.manifest.bytes.slice(..200)) },
            "manifest",
            "it cannot be used",
        ),
        (
            "40 4 MiB and a byte",
            {
                let padding = " ".repeat((4 << 20) + 1 - IMAGE.manifest.bytes.len());
                let bytes = text_of(&IMAGE.manifest.bytes) + &padding;
                Blob::new(MediaType::OCI_MANIFEST, bytes)
            },
            "limit",
            "4194304",
        ),
        ("40 20,001 layers", layers(20_001), "limit", "20001 layers: at most 20000"),
        (
            "41 a path for a digest",
            digest("sha256:../../../etc/passwd"),
            "digest-syntax",
            "layers[0]",
        ),
        (
            "41 an upper case digest",
            digest("sha256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
            "digest-syntax",
            "layers[0]",
        ),
        ("41 md5", digest("md5:d41d8cd98f00b204e9800998ecf8427e"), "digest-syntax", "layers[0]"),
        (
            "41 a digit too few",
            digest("sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
            "digest-syntax",
            "layers[0]",
        ),
        (
            "41 no algorithm",
            digest("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
            "digest-syntax",
            "layers[0]",
        ),
        (
            "42 one digest, two sizes",
            manifest_with(&|document: &mut Value| {
                let mut twice = document["layers"][0].clone();
                twice["size"] = json!(LAYER_SIZE + 1);
                document["layers"].as_array_mut().unwrap().push(twice);
            }),
            "manifest",
            "and 524288 in another place",
        ),
        (
            "79 a layer beyond any disk",
            manifest_with(&|document: &mut Value| {
                document["layers"][0]["size"] = json!(1_u64 << 45);
            }),
            "limit",
            "the size 35184372088832 is beyond",
        ),
    ] {
        rows.push(
            row_of(name, move || serving_document(&document))
                .fails(6, class, text, Nothing)
                .asked(Kind::Manifest, 1)
                .asked(Kind::Blob, 0),
        );
    }
    // Six indexes on the way: one more than two more than are walked.
    let nested = move || {
        let scene = serving_document(&index(vec![]));
        let mut document = IMAGE.manifest.clone();
        for _ in 0..6 {
            let mut entry = descriptor(&document);
            entry["platform"] = json!({ "os": "linux", "architecture": "amd64" });
            document = index(vec![entry]);
            scene.registry.as_ref().unwrap().add_manifest("demo", Some("latest"), &document);
        }
        scene
    };
    let platform = ["--platform", "linux/amd64"];
    rows.push(row_of("40 six indexes, one in the other", nested).flags(&platform).fails(
        6,
        "limit",
        "indexes are nested more than 4 deep",
        Nothing,
    ));
    rows.push(row_of("40 six indexes, all platforms", nested).flags(&["--all-platforms"]).fails(
        6,
        "limit",
        "indexes are nested more than 4 deep",
        Nothing,
    ));
    rows.push(
        row_of("44 no such platform", || {
            let others = [Platform::new("linux", "riscv64"), Platform::new("linux", "s390x")];
            let index = Index::generate(Format::Oci, 1, &[2048], &others);
            serving_document(&index.document)
        })
        .flags(&platform)
        .fails(3, "no-platform", "it has linux/riscv64, linux/s390x", Nothing),
    );
    rows
}

/// A registry that serves any document as `demo:latest`, and the blobs of the usual image.
fn serving_document(document: &Blob) -> Scene {
    let scene = Scene::serving(Options::default(), &IMAGE);
    scene.registry.as_ref().unwrap().add_manifest("demo", Some("latest"), document);
    scene
}

// --- credentials ---------------------------------------------------------------------------------

const USER: &str = "alice";
const PASSWORD: &str = "canary-password";

fn wants_token(bearer: Bearer) -> Options {
    Options { auth: Some(Auth::Bearer(bearer)), ..Options::default() }
}

/// With credentials for its registry in a file of the user's.
fn with_authfile(scene: Scene) -> Scene {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.json");
    let address = scene.registry.as_ref().unwrap().address().to_string();
    write_authfile(&file, &address, USER, PASSWORD);
    scene.with(&["--authfile", text(&file)]).keep(directory)
}

fn needs_password() -> Option<Credentials> {
    Some(Credentials::new(USER, PASSWORD))
}

pub fn credentials() -> Vec<Row> {
    let mut rows = Vec::new();
    let challenge = |value: &str| Action::Status {
        code: 401,
        fields: vec![("WWW-Authenticate".into(), value.into())],
        body: Bytes::new(),
    };
    for (name, action, text) in [
        ("46 a 401 without a challenge", Action::status(401), "does not say how"),
        ("46 an unknown scheme", challenge("Negotiate"), "only Bearer and Basic are supported"),
        ("46 a malformed challenge", challenge("Bearer realm=\"http://x"), "malformed"),
        ("46 a token service without an address", challenge("Bearer service=\"x\""), "no realm"),
        (
            "46 Basic, and no credentials",
            challenge("Basic realm=\"x\""),
            "no credentials were sent: there are none for ",
        ),
    ] {
        rows.push(
            row(name, manifest(action)).fails(4, "auth", text, Nothing).asked(Kind::Manifest, 1),
        );
    }
    let token_of = |body: &str| {
        let rule = Rule::on(Kind::Token).then(Action::Replace(body.to_owned().into()));
        let faults = Script::from(rule);
        move || Options { faults: faults.clone(), ..wants_token(Bearer::default()) }
    };
    for (name, body, text) in [
        ("51 no JSON", "<html>".to_owned(), "is not the JSON expected"),
        ("51 no token", "{}".to_owned(), "has no token in it"),
        ("51 a line break in a token", r#"{"token":"a\r\nX: y"}"#.to_owned(), "cannot be sent"),
        ("51 a space in a token", r#"{"token":"a b"}"#.to_owned(), "white space"),
        ("51 an empty token", r#"{"token":""}"#.to_owned(), "token"),
        (
            "51 1 MiB and more",
            format!("{{\"token\":\"{}\"}}", "x".repeat(1 << 20)),
            "has more than 1048576 bytes",
        ),
    ] {
        rows.push(
            row(name, token_of(&body)).fails(6, "token", text, Nothing).asked(Kind::Token, 1),
        );
    }
    rows.extend([
        row("47 a fresh token is refused", || {
            wants_token(Bearer { uses_per_token: Some(0), ..Bearer::default() })
        })
        .fails(4, "auth", "the registry refused access (status 401)", Nothing)
        .asked(Kind::Token, 1),
        row("48 a token for each two requests", || {
            wants_token(Bearer { uses_per_token: Some(2), ..Bearer::default() })
        })
        .flags(&["--retries", "0"])
        .asked(Kind::Token, 2),
        row("48 a token that ends before the rest of a layer", || Options {
            faults: Rule::on(Kind::Blob).layer(0).first(1).then(Action::CloseAfter(300_000)).into(),
            // The manifest and the first half.
            ..wants_token(Bearer { uses_per_token: Some(2), ..Bearer::default() })
        })
        .starts(&[0, 300_000]),
        row_of("46 a wrong password", || {
            let auth = Auth::Basic(Credentials::new(USER, "another"));
            with_authfile(Scene::serving(
                Options { auth: Some(auth), ..Options::default() },
                &IMAGE,
            ))
        })
        .fails(4, "auth", "(status 401)", Nothing),
        row_of("46 the right password", || {
            let auth = needs_password().map(Auth::Basic);
            with_authfile(Scene::serving(Options { auth, ..Options::default() }, &IMAGE))
        }),
        row_of("46 the right password for a token service at another port", || {
            let bearer =
                Bearer { credentials: needs_password(), own_port: true, ..Bearer::default() };
            with_authfile(Scene::serving(wants_token(bearer), &IMAGE))
        })
        .asked(Kind::Token, 1),
    ]);
    rows.extend(challenges());
    rows.extend(realms());
    rows
}

/// Challenges that can be answered although something is odd about them.
fn challenges() -> Vec<Row> {
    let good = "Bearer realm=\"REALM\",service=\"s\",scope=\"repository:demo:pull\"";
    let before = format!("Basic realm=My Registry, {good}");
    let behind = format!("{good}, Bearer realm=");
    let twice = format!("{good}, service=s, scope=\"repository:demo:pull\"");
    let mut rows = Vec::new();
    for (name, code, fields) in [
        ("101 a malformed challenge in a field before", 401, vec!["Basic realm=My Registry", good]),
        ("101 a malformed challenge before, in the field", 401, vec![&before]),
        ("101 a malformed challenge behind, in the field", 401, vec![&behind]),
        ("101 a challenge without a realm beside it", 401, vec!["Bearer service=\"s\"", good]),
        ("101 a parameter twice, with one value", 401, vec![&twice]),
        ("101 a 403 with a challenge", 403, vec![good]),
        ("101 a 403 with a malformed challenge and a good one", 403, vec!["Basic realm=a b", good]),
    ] {
        let fields: Vec<String> = fields.into_iter().map(str::to_owned).collect();
        rows.push(
            row_of(name, move || challenging(code, &fields, 1)).asked(Kind::Manifest, 2).log(
                |log| {
                    let asked: Vec<bool> = log
                        .iter()
                        .filter(|line| line.kind == Kind::Manifest)
                        .map(RequestLine::authorized)
                        .collect();
                    assert_eq!(asked, [false, true]);
                },
            ),
        );
    }
    let refuses = |value: &str, credentials: bool| {
        let value = value.to_owned();
        move || {
            let scene = challenging(403, std::slice::from_ref(&value), u64::MAX);
            if credentials { with_authfile(scene) } else { scene }
        }
    };
    let denied = "the registry refused access (status 403)";
    rows.extend([
        row_of("101 a 403 with a challenge, again and again", refuses(good, false))
            .fails(4, "auth", denied, Nothing)
            .asked(Kind::Manifest, 2),
        row_of("101 a 403 with Basic, and no credentials", refuses("Basic realm=\"x\"", false))
            .fails(4, "auth", denied, Nothing)
            .asked(Kind::Manifest, 1),
        row_of("101 a 403 with Basic, and a password that is refused", {
            refuses("Basic realm=\"x\"", true)
        })
        .fails(4, "auth", denied, Nothing)
        .asked(Kind::Manifest, 2),
        row_of("101 a 403 with an unknown scheme", refuses("Negotiate", true))
            .fails(4, "auth", denied, Nothing)
            .asked(Kind::Manifest, 1),
        row_of("101 a 403 with Basic, and the right password", || {
            let fields = vec![("WWW-Authenticate".into(), "Basic realm=\"x\"".into())];
            let refusal = Action::Status { code: 403, fields, body: Bytes::new() };
            let faults = Rule::on(Kind::Challenge).then(refusal).into();
            let auth = needs_password().map(Auth::Basic);
            with_authfile(Scene::serving(Options { auth, faults, ..Options::default() }, &IMAGE))
        })
        .asked(Kind::Challenge, 1)
        .asked(Kind::Manifest, 1),
    ]);
    rows
}

/// A registry that refuses manifests the first few times, by these challenges, in which `REALM` is the
/// URL of a token service.
fn challenging(code: u16, fields: &[String], times: u64) -> Scene {
    let service = Registry::start(wants_token(Bearer::default())).unwrap();
    let realm = format!("{}/token", service.origin());
    let fields = fields
        .iter()
        .map(|value| ("WWW-Authenticate".to_owned(), value.replace("REALM", &realm)))
        .collect();
    let refusal = Action::Status { code, fields, body: Bytes::new() };
    let faults = Rule::on(Kind::Manifest).first(times).then(refusal).into();
    Scene::serving(Options { faults, ..Options::default() }, &IMAGE).keep(service)
}

/// Rows about a registry at another address than loopback, which is none that anybody else reaches:
/// Linux takes 0.0.0.0 for this machine.
fn from_elsewhere(options: Options) -> Scene {
    let mut scene = Scene::serving(options, &IMAGE);
    scene.reference = scene.reference.replace("127.0.0.1", "0.0.0.0");
    scene.with(&["--plain-http"])
}

/// Token services that are not asked, or not with a password. Nothing of them is ever reached.
fn realms() -> Vec<Row> {
    let mut rows = Vec::new();
    for (name, realm, text) in [
        (
            "50 a realm where clouds keep credentials",
            "http://169.254.169.254/token",
            "an address where machines find their own",
        ),
        (
            "50 the same in IPv6",
            "http://[fd00:ec2::254]/token",
            "an address where machines find their own",
        ),
        (
            "50 the same in IPv6, mapped",
            "http://[::ffff:169.254.169.254]/token",
            "an address where machines find their own",
        ),
        (
            "50 another domain",
            "http://token.invalid/token",
            "not known to belong to it: nothing was sent",
        ),
        ("50 user information", "http://user:canary@127.0.0.1/token", "user information"),
        ("50 a fragment", "http://127.0.0.1/token#x", "a fragment"),
        ("50 another scheme", "ftp://127.0.0.1/token", "only http and https"),
    ] {
        rows.push(
            row_of(name, move || {
                let realm = Some(realm.to_owned());
                let bearer = Bearer { credentials: needs_password(), realm, ..Bearer::default() };
                with_authfile(Scene::serving(wants_token(bearer), &IMAGE))
            })
            .fails(6, "realm-refused", text, Nothing)
            .asked(Kind::Token, 0),
        );
    }
    rows.extend([
        row_of("50 http from a registry on https", || {
            let realm = Some("http://127.0.0.1:1/token".to_owned());
            Tls::new(Certificate::GOOD).scene(wants_token(Bearer { realm, ..Bearer::default() }))
        })
        .fails(
            6,
            "realm-refused",
            "is on https, but names a token service that is not",
            Nothing,
        ),
        row_of("50 a token service that redirects", || {
            let bearer = Bearer { credentials: needs_password(), ..Bearer::default() };
            let faults = Rule::on(Kind::Token).then(Action::redirect("/elsewhere")).into();
            with_authfile(Scene::serving(Options { faults, ..wants_token(bearer) }, &IMAGE))
        })
        .fails(6, "realm-refused", "redirects, which is not followed", Nothing)
        .asked(Kind::Other, 0),
        row_of("50 a token service on this machine, the registry elsewhere", || {
            from_elsewhere(wants_token(Bearer { own_port: true, ..Bearer::default() }))
        })
        .fails(
            6,
            "realm-refused",
            "nothing was sent. If that is right (a forwarded port, say), name it with \
             --trust-token-service 127.0.0.1",
            Nothing,
        )
        .asked(Kind::Token, 0),
        row_of("50 the same, trusted by the user", || {
            from_elsewhere(wants_token(Bearer { own_port: true, ..Bearer::default() }))
                .with(&["--trust-token-service", "http://127.0.0.1:5001/token"])
        })
        .asked(Kind::Token, 1),
        row_of("50 trust makes no token service of a place of credentials", || {
            let realm = Some("http://169.254.169.254/token".to_owned());
            Scene::serving(wants_token(Bearer { realm, ..Bearer::default() }), &IMAGE)
                .with(&["--trust-token-service", "169.254.169.254"])
        })
        .fails(6, "realm-refused", "an address where machines find their own", Nothing),
    ]);
    rows
}

// --- redirects -----------------------------------------------------------------------------------

pub fn redirects() -> Vec<Row> {
    let mut rows = Vec::new();
    let two = Action::Status {
        code: 307,
        fields: vec![("Location".into(), "/a".into()), ("Location".into(), "/b".into())],
        body: Bytes::new(),
    };
    for (name, action, text) in [
        ("52 another scheme", Action::redirect("ftp://127.0.0.1/x"), "only http and https"),
        ("52 a file", Action::redirect("file:///etc/passwd"), "only http and https"),
        (
            "52 user information",
            Action::redirect("http://user:canary@127.0.0.1/x"),
            "user information",
        ),
        ("52 a space", Action::redirect("/a b"), "the character ' '"),
        ("52 two places", two, "more than one location"),
        ("52 nowhere", Action::status(307), "does not say where to"),
        (
            "52 a URL of 17 KiB",
            Action::redirect(&format!("/{}", "x".repeat(17 << 10))),
            "at most 16384",
        ),
    ] {
        rows.push(row(name, layer(action)).fails(6, "redirect", text, Blobs).starts(&[0]));
    }
    let secret = || BlobRedirect::Storage;
    rows.extend([
        row("52 eleven in a row", || {
            let hop = |nth| {
                let action = Action::redirect(&format!("/hop-{nth}"));
                Rule::on(Kind::Other).nth(nth).then(action)
            };
            let first = Rule::on(Kind::Blob).layer(0).then(Action::redirect("/hop-0"));
            let rules = [first].into_iter().chain((1..=10).map(hop)).collect();
            Options { faults: Script { rules }, ..Options::default() }
        })
        .fails(6, "redirect", "once more after 10 redirects", Blobs)
        .asked(Kind::Other, 10),
        row(
            "52 a loop",
            faults([
                Rule::on(Kind::Blob).layer(0).then(Action::redirect("/round")),
                Rule::on(Kind::Other).then(Action::redirect("/round")),
            ]),
        )
        .fails(6, "redirect", "redirects in a loop", Blobs)
        .asked(Kind::Other, 1),
        tls_row("52 from https to http", layer(Action::redirect("http://127.0.0.1:1/x"))).fails(
            6,
            "redirect",
            "where everybody could read and change the answer",
            Blobs,
        ),
        row_of("53 to a storage, without the password", move || {
            let auth = needs_password().map(Auth::Basic);
            let redirect_blobs = Some(secret());
            let options = Options { auth, redirect_blobs, ..Options::default() };
            with_authfile(Scene::serving(options, &IMAGE))
        })
        .asked(Kind::Storage, 3)
        .log(|log| {
            for line in log {
                assert!(line.door == Door::Registry || !line.authorized(), "{line:?}");
            }
        }),
        row_of("53 there and back: the password is not taken up again", there_and_back)
            .fails(4, "auth", "(status 401)", Nothing)
            .asked(Kind::Manifest, 1)
            .asked(Kind::Challenge, 2),
        row("49 a signed URL that has expired", || Options {
            redirect_blobs: Some(BlobRedirect::Storage),
            faults: Rule::on(Kind::Storage).layer(0).first(1).then(Action::status(403)).into(),
            ..Options::default()
        })
        .starts(&[0, 0]),
        row("49 a signed URL that has expired before the rest", || Options {
            redirect_blobs: Some(BlobRedirect::Storage),
            faults: Script::from([
                Rule::on(Kind::Storage).layer(0).first(1).then(Action::CloseAfter(300_000)),
                Rule::on(Kind::Storage).layer(0).nth(2).then(Action::status(403)),
            ]),
            ..Options::default()
        })
        // What is left is asked for where the first part was, then at the registry: in one attempt.
        .starts(&[0, 300_000])
        .asked(Kind::Storage, 5)
        .says(" 1 retry"),
        row("49 a signed URL that is never good", || Options {
            redirect_blobs: Some(BlobRedirect::Storage),
            faults: Rule::on(Kind::Storage).layer(0).then(Action::status(403)).into(),
            ..Options::default()
        })
        .fails(4, "auth", "(status 403)", Blobs)
        .starts(&[0, 0]),
        row_of("91 a name below localhost is this machine", || {
            let mut scene = Scene::serving(Options::default(), &IMAGE);
            scene.reference = scene.reference.replace("127.0.0.1", "registry.localhost");
            scene
        }),
    ]);
    rows.extend(redirects_nearby());
    rows
}

/// Those to whom the registry redirects refuse.
pub fn storages() -> Vec<Row> {
    let mut rows = Vec::new();
    for (code, exit, class) in [
        (400, 6, "http-status"),
        (401, 4, "auth"),
        (403, 4, "auth"),
        (404, 3, "not-found"),
        (410, 6, "http-status"),
        (451, 6, "http-status"),
    ] {
        rows.push(
            row(format!("88 {code} by the storage"), move || Options {
                redirect_blobs: Some(BlobRedirect::Storage),
                faults: Rule::on(Kind::Storage).layer(0).then(Action::status(code)).into(),
                ..Options::default()
            })
            .flags(&["--retries", "4"])
            .fails(exit, class, ", where the registry redirects to, ", Blobs)
            .says(&format!("(status {code})"))
            // Once more, and no more than that.
            .starts(&[0, 0]),
        );
    }
    let another = || {
        let auth = Some(Auth::Bearer(Bearer::default()));
        let other = Registry::start(Options { auth, ..Options::default() }).unwrap();
        other.add("demo", "latest", &IMAGE);
        other
    };
    const OF_ITS_OWN: &str = "redirects to, asks for credentials of its own, and gets none";
    rows.extend([
        row_of("88 a manifest at a registry with a token service of its own", move || {
            let other = another();
            let away = format!("{}/v2/demo/manifests/latest", other.origin());
            let faults = Rule::on(Kind::Manifest).then(Action::redirect(&away)).into();
            Scene::serving(Options { faults, ..Options::default() }, &IMAGE).keep(other)
        })
        .flags(&["--retries", "4"])
        .fails(4, "auth", OF_ITS_OWN, Nothing)
        .asked(Kind::Manifest, 1),
        row_of("88 layers at a registry with a token service of its own", move || {
            let other = another();
            let redirect_blobs = Some(BlobRedirect::To(other.origin().to_owned()));
            Scene::serving(Options { redirect_blobs, ..Options::default() }, &IMAGE).keep(other)
        })
        .flags(&["--retries", "4"])
        .fails(4, "auth", OF_ITS_OWN, Blobs)
        .starts(&[0]),
    ]);
    rows
}

/// Redirects to where no registry keeps its content: not a byte is sent there.
fn redirects_nearby() -> Vec<Row> {
    let text = "an address of this machine or one that only this network knows: nothing was sent";
    let mut rows = Vec::new();
    for (name, location) in [
        ("90 a layer where clouds keep credentials", "http://169.254.169.254/latest/meta-data"),
        ("90 the same in IPv6", "http://[fd00:ec2::254]/latest"),
        ("90 the same in IPv6, mapped", "http://[::ffff:169.254.169.254]/latest"),
        ("90 the same as a number", "http://2852039166/latest"),
        ("90 a link-local address", "http://[fe80::1]:5000/x"),
    ] {
        rows.push(
            row(name, layer(Action::redirect(location)))
                .fails(6, "redirect", text, Blobs)
                .starts(&[0]),
        );
    }
    rows.extend([
        // Somebody is there, and must not be asked.
        row_of("90 an address that is this machine's by accident", || {
            let (redirect, other) = to_neighbour("0.0.0.0");
            let faults = Rule::on(Kind::Blob).layer(0).then(redirect).into();
            Scene::serving(Options { faults, ..Options::default() }, &IMAGE).keep(other)
        })
        .fails(6, "redirect", text, Blobs),
        row_of("90 this machine, the registry elsewhere", || {
            let (redirect, other) = to_neighbour("127.0.0.1");
            let faults = Rule::on(Kind::Blob).layer(0).then(redirect).into();
            from_elsewhere(Options { faults, ..Options::default() }).keep(other)
        })
        .fails(6, "redirect", text, Blobs),
        row_of("90 this machine by a name, the registry elsewhere", || {
            let (redirect, other) = to_neighbour("storage.localhost");
            let faults = Rule::on(Kind::Manifest).then(redirect).into();
            from_elsewhere(Options { faults, ..Options::default() }).keep(other)
        })
        .fails(6, "redirect", text, Nothing),
        row_of("90 back to the registry, wherever it is", || {
            let scene = from_elsewhere(Options::default());
            let registry = scene.registry.as_ref().unwrap();
            let digest = IMAGE.layers[1].digest;
            let location = format!(
                "http://0.0.0.0:{}/v2/demo/blobs/{digest}?again",
                registry.address().port()
            );
            let rule = Rule::on(Kind::Blob).layer(1).first(1).then(Action::redirect(&location));
            registry.set_faults(rule.into());
            scene
        }),
    ]);
    rows
}

/// A redirect to somebody at `host` who has the layer, and must not be asked.
fn to_neighbour(host: &str) -> (Action, Unasked) {
    let other = Registry::start(Options::default()).unwrap();
    other.add("demo", "latest", &IMAGE);
    let (port, digest) = (other.address().port(), IMAGE.layers[0].digest);
    let location = format!("http://{host}:{port}/v2/demo/blobs/{digest}");
    (Action::redirect(&location), Unasked(other))
}

/// A registry that nobody may connect to.
struct Unasked(Registry);

impl Drop for Unasked {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.0.connections_accepted(), 0, "{:#?}", self.0.log());
        }
    }
}

/// A registry that wants a password redirects manifests to another one, which redirects back.
fn there_and_back() -> Scene {
    let auth = needs_password().map(Auth::Basic);
    let home = Registry::start(Options { auth, ..Options::default() }).unwrap();
    home.add("demo", "latest", &IMAGE);
    let other = Registry::start(Options {
        faults: Rule::on(Kind::Any)
            .then(Action::redirect(&format!("{}/v2/demo/manifests/latest?again", home.origin())))
            .into(),
        ..Options::default()
    })
    .unwrap();
    let away = format!("{}/v2/demo/manifests/latest", other.origin());
    home.set_faults(Rule::on(Kind::Manifest).then(Action::redirect(&away)).into());
    let scene = Scene {
        reference: home.reference("demo", "latest"),
        image: IMAGE.clone(),
        registry: Some(home),
        flags: Vec::new(),
        kept: Vec::new(),
        began: Instant::now(),
    };
    with_authfile(scene).keep(Uninformed(other))
}

/// A registry that nobody may tell who they are.
struct Uninformed(Registry);

impl Drop for Uninformed {
    fn drop(&mut self) {
        let log = self.0.log();
        if !std::thread::panicking() {
            assert!(!log.is_empty() && !log.iter().any(|line| line.authorized()), "{log:#?}");
        }
    }
}

// --- refusals ------------------------------------------------------------------------------------

pub fn refusals() -> Vec<Row> {
    let status = |code, fields: &[(&str, &str)], body: &str| Action::Status {
        code,
        fields: fields.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
        body: body.to_owned().into(),
    };
    let later = move |when: &str| status(429, &[("Retry-After", when)], "");
    let dated = |time: &str| {
        let when = format!("Sun, 06 Nov 1994 {time} GMT");
        status(429, &[("Retry-After", &when), ("Date", "Sun, 06 Nov 1994 08:49:37 GMT")], "")
    };
    let mut rows = vec![
        row_of("44 no such tag", || {
            let mut scene = Scene::serving(Options::default(), &IMAGE);
            scene.reference = scene.reference.replace(":latest", ":v2");
            scene
        })
        .fails(
            3,
            "not-found",
            "manifest v2: the registry has no such manifest (status 404)",
            Nothing,
        )
        .asked(Kind::Manifest, 1),
        row("45 no such layer", layer(Action::status(404)))
            .fails(3, "not-found", "the registry has no such blob (status 404)", Blobs)
            .starts(&[0]),
        row("54 429 for a second", faults([Rule::on(Kind::Manifest).first(1).then(later("1"))]))
            .asked(Kind::Manifest, 2)
            .says(" asks for silence: 1 s left")
            .log(|log| assert!(log[1].at - log[0].at >= Duration::from_secs(1), "too soon")),
        row(
            "54 429 for a second, on a layer",
            faults([Rule::on(Kind::Blob).layer(0).first(1).then(later("1"))]),
        )
        .says(" asks for silence: 1 s left")
        .starts(&[0, 0]),
        // Whatever our clock shows: it is not that of 1994.
        row(
            "54 429 for a second, by the registry's clock",
            faults([Rule::on(Kind::Manifest).first(1).then(dated("08:49:38"))]),
        )
        .asked(Kind::Manifest, 2)
        .log(|log| assert!(log[1].at - log[0].at >= Duration::from_secs(1), "too soon")),
        row_of("54 429 by a storage does not silence the registry", move || {
            let storage = Registry::start(Options {
                faults: Rule::on(Kind::Blob).first(1).then(later("2")).into(),
                ..Options::default()
            })
            .unwrap();
            storage.add("demo", "latest", &IMAGE);
            let layer = &IMAGE.layers[0].digest;
            let away = format!("{}/v2/demo/blobs/{layer}", storage.origin());
            let faults = Script::from([
                Rule::on(Kind::Blob).layer(0).then(Action::redirect(&away)),
                Rule::on(Kind::Blob).which(Which::Config).first(1).then(Action::status(503)),
            ]);
            Scene::serving(Options { faults, ..Options::default() }, &IMAGE).keep(storage)
        })
        .flags(&["--jobs", "3", "--connections", "3"])
        .log(|log| {
            let times = |blob: &Blob| for_blob(log, blob).map(|line| line.at).collect::<Vec<_>>();
            let (layer, config) = (times(&IMAGE.layers[0]), times(&IMAGE.config));
            assert_eq!((layer.len(), config.len()), (2, 2));
            assert!(layer[1] - layer[0] >= Duration::from_secs(2), "asked for again too soon");
            assert!(config[1] < layer[1], "the registry was silenced, too");
        }),
        row("54 429 for a day, by the registry's clock", manifest(dated("23:49:37")))
            .fails(5, "rate-limited", "and at most 60 s are waited for", Nothing)
            .asked(Kind::Manifest, 1),
        row("54 429 for more than a minute", manifest(later("61")))
            .flags(&["--retries", "4"])
            .fails(
                5,
                "rate-limited",
                "too many requests (status 429), to be asked again in 61 s; that is 2",
                Nothing,
            )
            .says(", and at most 60 s are waited for (--max-wait)")
            .asked(Kind::Manifest, 1),
        row("54 429 for longer than the user waits", layer(later("2")))
            .flags(&["--retries", "4", "--max-wait", "1s"])
            .fails(5, "rate-limited", "and at most 1 s are waited for (--max-wait)", Blobs)
            .starts(&[0]),
        row("54 429 until the end of time", manifest(later("Fri, 31 Dec 9999 23:59:59 GMT")))
            .fails(5, "rate-limited", "at 9999-12-31T23:59:59Z", Nothing)
            .asked(Kind::Manifest, 1),
        row("54 429 for more seconds than there are", manifest(later(&"9".repeat(30))))
            .fails(5, "rate-limited", "to be asked again in", Nothing)
            .asked(Kind::Manifest, 1),
        row("54 429 that may be asked again at once", manifest(later("0")))
            .fails(5, "rate-limited", "too many requests (status 429), attempt 2 of 2", Nothing)
            .asked(Kind::Manifest, 2),
        row("54 429 for nonsense", manifest(later("soon")))
            .fails(5, "rate-limited", "attempt 2 of 2", Nothing)
            .asked(Kind::Manifest, 2),
        row("55 503 once", faults([Rule::on(Kind::Any).first(1).then(Action::status(503))])),
        row(
            "55 503 on a layer, once",
            faults([Rule::on(Kind::Blob).layer(0).first(1).then(Action::status(503))]),
        )
        .starts(&[0, 0]),
        row(
            "56 403",
            manifest(status(403, &[], r#"{"errors":[{"code":"DENIED","message":"no"}]}"#)),
        )
        .fails(4, "auth", "the registry refused access (status 403): DENIED: no", Nothing)
        .asked(Kind::Manifest, 1),
        row("56 a long refusal", manifest(status(400, &[], &"x".repeat(3_000)))).fails(
            6,
            "http-status",
            &format!("{}…", "x".repeat(1_000)),
            Nothing,
        ),
        row("80 escape codes in a refusal", {
            manifest(status(
                404,
                &[],
                "\u{1b}[2J\u{1b}]0;title\u{7}\nringpull: all is well\r\u{202e}",
            ))
        })
        .fails(
            3,
            "not-found",
            r"\u{1b}[2J\u{1b}]0;title\u{7}\nringpull: all is well",
            Nothing,
        ),
        row("80 escape codes in a JSON refusal", {
            let body = json!({ "errors": [{ "code": "X", "message": "\u{1b}[31mred\u{9b}2J" }] });
            manifest(status(400, &[], &body.to_string()))
        })
        .fails(6, "http-status", r"X: \u{1b}[31mred\u{9b}2J", Nothing),
        row("80 escape codes in a warning", {
            manifest(Action::field(
                "Warning",
                "299 - \"\u{1b}[2Jringpull: all is\\\\ well\u{202e}\"",
            ))
        })
        .says(r"says: \u{1b}[2Jringpull: all is\ well\u{202e}"),
        row("80 escape codes in a head", {
            manifest(Action::raw(
                "HTTP/1.1 200 OK\r\nContent-Length: \u{9b}2J\r\n\r\n",
                ringpull::demo::Then::Close,
            ))
        })
        .fails(6, "framing", r"\xc2\x9b2J", Nothing),
        row_of("80 escape codes in a manifest", || {
            let bytes = r#"{"schemaVersion":2,"mediaType":"\u001b[31mred"}"#;
            serving_document(&Blob::new("application/json", bytes))
        })
        .fails(6, "manifest", r"\u{1b}[31mred", Nothing),
    ];
    for code in [408, 500, 502, 503, 504] {
        rows.push(
            row(format!("55 {code}"), manifest(Action::status(code)))
                .fails(5, "http-5xx", &format!("(status {code}), attempt 2 of 2"), Nothing)
                .asked(Kind::Manifest, 2),
        );
    }
    for code in [400, 402, 405, 410, 451] {
        rows.push(
            row(format!("56 {code}"), layer(status(code, &[], "because")))
                .fails(6, "http-status", &format!("(status {code}): because"), Blobs)
                .starts(&[0]),
        );
    }
    rows
}

// --- certificates --------------------------------------------------------------------------------

/// A record with a handshake message (RFC 4346 section 7.4.1.3): version, time and 28 bytes, no session,
/// TLS_RSA_WITH_AES_128_CBC_SHA, no compression.
const SERVER_HELLO_OF_TLS_1_1: &[u8] = b"\x16\x03\x02\0\x2a\x02\0\0\x26\x03\x02\
    0123456789abcdef0123456789abcdef\0\0\x2f\0";

pub fn trust() -> Vec<Row> {
    let certified = |certificate| move || Tls::new(certificate).scene(Options::default());
    let expired = Certificate { years: (2019, 2020), ..Certificate::GOOD };
    let future = Certificate { years: (4000, 4096), ..Certificate::GOOD };
    let other = Certificate { name: "registry.test", ..Certificate::GOOD };
    let alone = Certificate { alone: true, ..Certificate::GOOD };
    let raw = |steps: Vec<Step>| {
        move || {
            let peer = ScriptedPeer::start(vec![steps.clone()]).unwrap();
            Scene::at(format!("{}/demo:latest", peer.address()), peer).with(&["--plain-http=false"])
        }
    };
    let send = |bytes: &'static [u8]| vec![Step::Receive(1), Step::Send(Bytes::from_static(bytes))];
    vec![
        row_of("57 all is well", certified(Certificate::GOOD)),
        row_of("57 a certificate that is its own authority, and named itself", certified(alone)),
        row_of("57 an expired certificate", certified(expired))
            .fails(9, "tls-trust", "the certificate is not trusted: it has expired", Nothing)
            .asked(Kind::Any, 0),
        row_of("57 a certificate of the future", certified(future)).fails(
            9,
            "tls-trust",
            "it is not valid yet",
            Nothing,
        ),
        row_of("57 a certificate for another name", certified(other)).fails(
            9,
            "tls-trust",
            "registry.test",
            Nothing,
        ),
        row_of("57 an unknown authority", || {
            let mut scene = Tls::new(Certificate::GOOD).scene(Options::default());
            scene.flags = vec!["--plain-http=false".into()];
            scene
        })
        .fails(9, "tls-trust", "signed by an unknown authority (--ca-file FILE adds one)", Nothing)
        .log(|log| assert!(log.is_empty(), "something was asked")),
        row_of("57 an unknown authority, which does not matter", || {
            let mut scene = Tls::new(Certificate::GOOD).scene(Options::default());
            scene.flags = vec!["--insecure".into(), "127.0.0.1".into()];
            scene
        })
        .says("warning: the certificate of 127.0.0.1 is not verified"),
        row_of("57 a peer that refuses our versions", raw(send(b"\x15\x03\x01\0\x02\x02\x46")))
            .fails(
                9,
                "tls-trust",
                "no version of TLS that can be trusted is spoken there",
                Nothing,
            ),
        row_of("57 a peer that speaks TLS 1.1", raw(send(SERVER_HELLO_OF_TLS_1_1))).fails(
            9,
            "tls-trust",
            "no version of TLS that can be trusted is spoken there",
            Nothing,
        ),
        row_of("58 a silent handshake", raw(vec![Step::Hold]))
            .flags(&["--retries", "0", "--tls-timeout", "600ms"])
            .fails(5, "tls", "the TLS handshake did not end within 600 ms", Nothing)
            .after(600),
        row_of("58 the end amid the handshake", raw(vec![Step::Receive(1), Step::Close])).fails(
            5,
            "tls",
            "closed the connection while in the TLS handshake, attempt 2 of 2",
            Nothing,
        ),
        row_of("58 another protocol in the handshake", raw(send(b"SSH-2.0-OpenSSH_9.9\r\n")))
            .fails(
                5,
                "tls",
                "what came is no TLS while in the TLS handshake, attempt 2 of 2",
                Nothing,
            ),
        row_of("58 an alert in the handshake", raw(send(b"\x15\x03\x03\0\x02\x02\x50"))).fails(
            5,
            "tls",
            "the alert internal_error came while in the TLS handshake, attempt 2 of 2",
            Nothing,
        ),
        row_of("58 a bad record amid a layer", || relayed(300_000))
            .starts(&[0, 300_000 / 16_384 * 16_384]),
    ]
}

/// Two who do not speak the same, which does not pass: nothing is tried again, and the way out is said.
pub fn other_protocols() -> Vec<Row> {
    // A second connection would end in another way.
    let once = |steps: Vec<Step>, flags: &'static [&'static str]| {
        move || {
            let again = vec![Step::Receive(1), Step::Reset];
            let peer = ScriptedPeer::start(vec![steps.clone(), again]).unwrap();
            Scene::at(format!("{}/demo:latest", peer.address()), peer).with(flags)
        }
    };
    const HTTPS: &[&str] = &["--plain-http=false"];
    const HTTP: &[&str] = &["--plain-http"];
    let mut rows = Vec::new();
    for (name, answer) in [
        ("with a head", &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..]),
        ("without a head", b"<!DOCTYPE HTML>\n<html><body>400 Bad request syntax</body></html>"),
    ] {
        let steps = vec![Step::Receive(1), Step::Send(Bytes::from_static(answer))];
        let text = "plain http is spoken there, and not TLS: --plain-http";
        rows.push(
            row_of(format!("89 plain http on an https port, {name}"), once(steps, HTTPS))
                .fails(5, "tls", text, Nothing),
        );
    }
    let head = |size: usize| format!("HTTP/1.1 400 Bad Request\r\nContent-Length: {size}\r\n\r\n");
    let refused = |text: &str| [head(text.len()).as_bytes(), text.as_bytes()].concat();
    for (name, answer) in [
        ("a TLS alert", b"\x15\x03\x01\0\x02\x02\x46".to_vec()),
        ("a TLS handshake message", b"\x16\x03\x03\0\x04\0\0\0\0".to_vec()),
        ("Go", refused("Client sent an HTTP request to an HTTPS server.\n")),
        ("nginx", refused("<title>400 The plain HTTP request was sent to HTTPS port</title>\r\n")),
    ] {
        let steps = vec![Step::Receive(1), Step::Send(Bytes::from(answer))];
        let text = "TLS is spoken there, and not plain http: --plain-http=false";
        rows.push(
            row_of(format!("89 https on a plain port: {name}"), once(steps, HTTP))
                .fails(5, "tls", text, Nothing),
        );
    }
    for (name, alert, text) in [
        ("nothing in common", 40_u8, "RSA key exchange (alert handshake_failure)"),
        ("too weak", 71, "TLS 1.2 and 1.3 with ECDHE and AES-GCM or ChaCha20-Poly1305"),
        ("an unknown name", 112, "knows no host of this name"),
        ("no protocol in common", 120, "does not speak HTTP/1.1"),
    ] {
        let record = vec![0x15, 3, 3, 0, 2, 2, alert];
        let steps = vec![Step::Receive(1), Step::Send(Bytes::from(record))];
        rows.push(row_of(format!("89 {name}"), once(steps, HTTPS)).fails(5, "tls", text, Nothing));
    }
    // A server of another kind, in whole handshakes.
    let certified = |certificate| move || Tls::new(certificate).scene(Options::default());
    let demanding = Certificate { wants_one: true, ..Certificate::GOOD };
    rows.push(
        row_of("89 a client certificate is required", certified(demanding))
            .fails(5, "tls", "wants a client certificate", Nothing)
            .log(|log| assert!(log.is_empty())),
    );
    rows
}

/// A registry over TLS behind a relay that spoils a byte of the first connection that brings so many.
fn relayed(spoiled_at: usize) -> Scene {
    let mut scene = Tls::new(Certificate::GOOD).scene(Options::default());
    let target = scene.registry.as_ref().unwrap().address();
    let relay = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = relay.local_addr().unwrap();
    scene.reference = format!("{address}/demo:latest");
    // Ends with the test process: it waits for connections that do not come any more.
    std::thread::spawn(move || {
        let spoiled = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        for client in relay.incoming() {
            let (client, spoiled) = (client.unwrap(), spoiled.clone());
            std::thread::spawn(move || relay_one(client, target, spoiled_at, &spoiled));
        }
    });
    scene
}

fn relay_one(
    client: TcpStream,
    target: SocketAddr,
    spoiled_at: usize,
    spoiled: &std::sync::atomic::AtomicBool,
) {
    let Ok(mut server) = TcpStream::connect(target) else { return };
    let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(std::net::Shutdown::Write);
    });
    let (mut client, mut buffer, mut passed) = (client, vec![0; 64 << 10], 0);
    while let Ok(count @ 1..) = server.read(&mut buffer) {
        let here = passed..passed + count;
        if here.contains(&spoiled_at) && !spoiled.swap(true, std::sync::atomic::Ordering::Relaxed) {
            buffer[spoiled_at - passed] ^= 1;
        }
        passed += count;
        if client.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = client.shutdown(std::net::Shutdown::Both);
}

// --- files that are there already ----------------------------------------------------------------

pub fn files() -> Vec<Row> {
    fn blob(out: &Path, bytes: &[u8]) {
        let directory = out.join("blobs/sha256");
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join(IMAGE.layers[0].digest.hex()), bytes).unwrap();
    }
    fn index(out: &Path, bytes: &str) {
        std::fs::create_dir_all(out).unwrap();
        std::fs::write(out.join("index.json"), bytes).unwrap();
    }
    const OTHER: &str = r#"{"schemaVersion":2,"x":[1, 2],"manifests":[{"mediaType":"a/b","digest":"x:y","size":1,"z":{}}]}"#;
    vec![
        row("65 a layer with a wrong byte", Options::default)
            .prepared(|out| {
                let mut bytes = IMAGE.layers[0].bytes.to_vec();
                bytes[1_000] ^= 1;
                blob(out, &bytes);
            })
            .says("is damaged (its bytes on disk have the digest sha256:")
            .starts(&[0]),
        row("65 a layer that is cut", Options::default)
            .prepared(|out| blob(out, &IMAGE.layers[0].bytes[..100]))
            .says("is damaged (100 bytes on disk instead of 524288)")
            .starts(&[0]),
        row("65 a layer that is whole", Options::default)
            .prepared(|out| blob(out, &IMAGE.layers[0].bytes))
            .says(": Already exists")
            .starts(&[]),
        row("66 an index of another tool's", Options::default).prepared(|out| index(out, OTHER)),
    ]
}

// --- sizes ---------------------------------------------------------------------------------------

pub fn sizes() -> Vec<Row> {
    let of_layers = |layers: Vec<Bytes>| {
        move || {
            let image = Image::of_layers(Format::Oci, Platform::LINUX_AMD64, layers.clone());
            Scene::serving(Options::default(), &image)
        }
    };
    let tiny = (0..2_000).map(|nth| Bytes::from(format!("{nth}"))).collect();
    vec![
        row_of("79 2,000 layers", of_layers(tiny)).flags(&["--jobs", "8"]).asked(Kind::Blob, 2_001),
        row_of("79 an empty layer, and one of a byte", of_layers(vec!["".into(), "1".into()])),
        row_of("79 no layer", of_layers(vec![])),
        row_of("79 the same layer twice", || {
            let layers = vec![Bytes::from_static(b"twice"); 2];
            let image = Image::of_layers(Format::Oci, Platform::LINUX_AMD64, layers);
            Scene::serving(Options::default(), &image)
        })
        .asked(Kind::Blob, 2),
        row_of("61 a layer larger than the disk", || {
            let mut document: Value = serde_json::from_slice(&IMAGE.manifest.bytes).unwrap();
            document["layers"][0]["size"] = json!(1_u64 << 44);
            serving_document(&Blob::new(MediaType::OCI_MANIFEST, document.to_string()))
        })
        .fails(8, "disk-full", "need 16.0 TiB", Nothing)
        .asked(Kind::Blob, 0),
    ]
}
