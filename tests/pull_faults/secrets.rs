//! 53: each kind of secret, on each status that redirects, over three hops to other origins. A canary
//! that is seen anywhere but at home fails the test.

use std::net::Ipv4Addr;
use std::path::Path;

use bytes::Bytes;
use ringpull::demo::{
    Action, Auth, Bearer, Credentials, Image, Kind, Options, Registry, RequestLine, Rule, Script,
    Which,
};
use serde_json::{Value, json};

use crate::harness::{Destination, Disk, Scene, in_environment};
use crate::support::process::run;
use crate::support::ringpull::engines;
use crate::support::tools::text;

/// What no other origin, no message and no file may have of the secrets below, as they are or in Base64;
/// and the tokens of the demo registry.
const CANARIES: [&str; 4] = ["canary", "Y2FuYXJ5", "2FuYXJ5", "demo-token-"];

/// A secret: its name, what a registry wants, what the user's file says of it, and whether home sees it.
struct Secret {
    name: &'static str,
    options: fn() -> Options,
    entry: Value,
    is_sent: bool,
}

fn secrets() -> [Secret; 4] {
    let entry = json!({ "username": "alice", "password": "canary-password" });
    [
        Secret {
            name: "a password",
            options: || {
                let password = Credentials::new("alice", "canary-password");
                Options { auth: Some(Auth::Basic(password)), ..Options::default() }
            },
            entry: entry.clone(),
            is_sent: true,
        },
        Secret {
            name: "a token, and the password for it",
            options: || {
                let credentials = Some(Credentials::new("alice", "canary-password"));
                let bearer = Bearer { credentials, own_port: true, ..Bearer::default() };
                Options { auth: Some(Auth::Bearer(bearer)), ..Options::default() }
            },
            entry,
            is_sent: true,
        },
        Secret {
            name: "a registry's token",
            // Sent unasked.
            options: Options::default,
            entry: json!({ "registrytoken": "canary-token" }),
            is_sent: true,
        },
        Secret {
            name: "an identity token, which is not for registries",
            options: Options::default,
            entry: json!({ "identitytoken": "canary-identity" }),
            is_sent: false,
        },
    ]
}

#[test]
fn a_secret_is_seen_at_home_alone() {
    let image = Image::generate(10, &[8 << 10]);
    for engine in engines() {
        for secret in secrets() {
            for (turn, code) in [301, 302, 303, 307, 308].into_iter().enumerate() {
                check(engine, &image, &secret, code, turn);
            }
        }
    }
}

fn check(engine: &str, image: &Image, secret: &Secret, code: u16, turn: usize) {
    let what = format!("{engine}: {}, by {code}", secret.name);
    // Another port, another address, and another name for an address that home has, too: each of them
    // is the first, the second and the last of the way.
    let other = |bind: Ipv4Addr| {
        Registry::start(Options { bind: (bind, 0).into(), ..Options::default() }).unwrap()
    };
    let others = [
        other(Ipv4Addr::LOCALHOST),
        other(Ipv4Addr::new(127, 0, 0, 2)),
        other(Ipv4Addr::LOCALHOST),
    ];
    let named = |at: usize| match at {
        2 => format!("http://localhost:{}", others[2].address().port()),
        at => others[at].origin().to_owned(),
    };
    let way: Vec<usize> = (0..3).map(|hop| (hop + turn) % 3).collect();
    others[way[2]].add("demo", "latest", image);
    for pair in way.windows(2) {
        others[pair[0]].set_faults(leading_to(&named(pair[1]), code, image));
    }
    let mut options = (secret.options)();
    options.faults.rules.extend(leading_to(&named(way[0]), code, image).rules);
    let scene = Scene::serving(options, image);
    let home = scene.registry.as_ref().unwrap();

    let directory = tempfile::tempdir().unwrap();
    let authfile = directory.path().join("auth.json");
    let file = json!({ "auths": { home.address().to_string(): secret.entry } });
    std::fs::write(&authfile, file.to_string()).unwrap();
    let out = Destination::new();
    let destination = out.reference();
    let arguments = ["pull", "-v", "--engine", engine, "--authfile", text(&authfile)];
    let arguments = [&arguments[..], &[&scene.reference, &destination]].concat();
    let outcome = run(in_environment(&arguments));
    assert_eq!(outcome.code, 0, "{what}: {}", outcome.all);
    out.expect(Disk::Image, image);

    let sees = |log: &[RequestLine]| {
        log.iter().any(|line| {
            let fields = line.headers.iter().map(|(_, value)| value);
            fields.chain([&line.target]).any(|text| has_canary(text.as_bytes()))
        })
    };
    assert_eq!(sees(&home.log()), secret.is_sent, "{what}: home");
    for (hop, at) in way.into_iter().enumerate() {
        let log = others[at].log();
        assert_eq!(log.len(), image.layers.len() + 1, "{what}: hop {hop}: {log:?}");
        assert!(!sees(&log) && !log.iter().any(RequestLine::authorized), "{what}: hop {hop}");
    }
    for stream in [&outcome.stdout, &outcome.stderr] {
        assert!(!has_canary(stream.as_bytes()), "{what}: {}", outcome.all);
    }
    assert!(!holds_canary(&out.path), "{what}: on disk");
}

/// Each blob is to be asked for at the same path of another origin.
fn leading_to(origin: &str, code: u16, image: &Image) -> Script {
    let blobs = image.layers.iter().chain([&image.config]);
    let rules = blobs.map(|blob| {
        let location = format!("{origin}/v2/demo/blobs/{}", blob.digest);
        let fields = vec![("Location".to_owned(), location)];
        let redirect = Action::Status { code, fields, body: Bytes::new() };
        Rule::on(Kind::Blob).which(Which::Digest(blob.digest)).then(redirect)
    });
    Script { rules: rules.collect() }
}

fn has_canary(bytes: &[u8]) -> bool {
    let found = |canary: &str| bytes.windows(canary.len()).any(|part| part == canary.as_bytes());
    CANARIES.into_iter().any(found)
}

/// Whether any file holds one: blobs, index, journals, records.
fn holds_canary(path: &Path) -> bool {
    if path.is_dir() {
        let mut entries = std::fs::read_dir(path).unwrap();
        return entries.any(|entry| holds_canary(&entry.unwrap().path()));
    }
    has_canary(&std::fs::read(path).unwrap())
}
