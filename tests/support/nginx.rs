//! nginx as a registry of static files: what a pull needs, straight from an image layout.
//!
//! It answers ranges, redirects blobs to another host as most public registries do, sends as slowly
//! as a test wants, and logs each request.

use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use super::ca::Identity;
use super::layout::{Descriptor, Layout, is_manifest};
use super::server::{Server, eventually, free_address, get};
use super::tools::{find, text};

/// The registry's address.
const REGISTRY_IP: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
/// Another host, for [`Blobs::Elsewhere`].
const BLOBS_IP: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// How often another process may take our ports before we do.
const ATTEMPTS: usize = 5;

/// Who serves the blobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Blobs {
    /// The registry itself.
    #[default]
    Here,
    /// Another host, to which the registry redirects by 307, with a signature in the query.
    Elsewhere,
}

/// How a registry is to be started.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Serve https with this certificate, on all hosts.
    pub tls: Option<Identity>,
    /// Who serves the blobs.
    pub blobs: Blobs,
    /// Bytes per second, for each blob request on its own.
    pub limit_rate: Option<u64>,
}

/// One request that has been answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The address that was asked, `IP:PORT`.
    pub server: String,
    /// GET or HEAD.
    pub method: String,
    /// Without the query.
    pub path: String,
    /// The `Range` header, or nothing.
    pub range: String,
    /// The `Authorization` header, or nothing.
    pub authorization: String,
    /// The answer's status.
    pub status: u16,
    /// Bytes of the answer's body that were sent.
    pub bytes: u64,
}

impl Request {
    /// Whether a blob was asked for, at the registry or where it redirects to.
    pub fn is_for_blob(&self) -> bool {
        self.path.contains("/blobs/")
    }

    /// Whether a manifest or index was asked for.
    pub fn is_for_manifest(&self) -> bool {
        self.path.contains("/manifests/")
    }
}

/// A running nginx that serves the images of one layout.
#[derive(Debug)]
pub struct Nginx {
    registry: SocketAddr,
    blobs: SocketAddr,
    server: Server,
    // After the server: it ends before its directory goes.
    directory: TempDir,
}

impl Nginx {
    /// Serves all tagged images of `layout` as `repository`: manifests by tag and by digest, blobs
    /// by digest. A tag that is added later is not seen; a blob that is changed is.
    pub fn start(repository: &str, layout: &Layout, options: &Options) -> Nginx {
        let mut failures = String::new();
        for _ in 0..ATTEMPTS {
            match Nginx::try_start(repository, layout, options) {
                Ok(nginx) => return nginx,
                Err(failure) => failures += &failure,
            }
        }
        panic!("nginx does not start:\n{failures}");
    }

    fn try_start(repository: &str, layout: &Layout, options: &Options) -> Result<Nginx, String> {
        let (registry, blobs) = (free_address(REGISTRY_IP.into()), free_address(BLOBS_IP.into()));
        let directory = TempDir::new().unwrap();
        let configuration = configuration(&Site {
            registry,
            blobs,
            directory: directory.path(),
            repository,
            layout,
            options,
        });
        let file = directory.path().join("nginx.conf");
        std::fs::write(&file, configuration).unwrap();

        let program = find("nginx").expect("see tool_or_skip");
        let mut command = Command::new(program);
        command.args(["-e", "stderr", "-p", text(directory.path()), "-c", text(&file)]);
        let mut server = Server::start(&mut command, &directory.path().join("output"));
        // All ports are its own before it answers on any, and nobody else has this socket.
        match server
            .wait(|| get(UnixStream::connect(control(directory.path())).ok()?, "/ready", ""))
        {
            Ok(_) => Ok(Nginx { registry, blobs, server, directory }),
            Err(status) => Err(format!("{status}:\n{}", server.output())),
        }
    }

    /// `127.0.0.1:PORT`: the first part of a reference.
    pub fn host(&self) -> String {
        self.registry.to_string()
    }

    /// `127.0.0.2:PORT`: where blobs are, if they are elsewhere.
    pub fn blob_host(&self) -> String {
        self.blobs.to_string()
    }

    /// All requests that were answered before this call, in the order in which that was done.
    pub fn requests(&self) -> Vec<Request> {
        // nginx logs a request before it looks at what came later.
        let path = format!("/flush-{:016x}", fastrand::u64(..));
        let stream = UnixStream::connect(control(self.directory.path())).unwrap();
        get(stream, &path, "").expect("an answer");
        eventually(|| self.logged().contains(&path).then_some(()))
            .expect("a request is logged once it is answered");

        let logged = self.logged();
        let requests = logged.lines().map(|line| request(&serde_json::from_str(line).unwrap()));
        requests.filter(|request| !request.server.starts_with("unix:")).collect()
    }

    fn logged(&self) -> String {
        std::fs::read_to_string(access_log(self.directory.path())).unwrap()
    }
}

/// The socket on which only the harness asks.
fn control(directory: &Path) -> PathBuf {
    directory.join("control")
}

fn access_log(directory: &Path) -> PathBuf {
    directory.join("access.log")
}

fn request(line: &Value) -> Request {
    let field = |name: &str| line[name].as_str().unwrap().to_owned();
    Request {
        server: field("server"),
        method: field("method"),
        path: field("path"),
        range: field("range"),
        authorization: field("authorization"),
        status: field("status").parse().unwrap(),
        bytes: field("bytes").parse().unwrap(),
    }
}

/// All that decides a configuration.
struct Site<'a> {
    registry: SocketAddr,
    blobs: SocketAddr,
    directory: &'a Path,
    repository: &'a str,
    layout: &'a Layout,
    options: &'a Options,
}

/// One process, in the foreground, as whoever runs the test; all its files in its own directory.
fn configuration(site: &Site<'_>) -> String {
    let directory = text(site.directory);
    let control = control(site.directory);
    let access_log = access_log(site.directory);
    format!(
        r#"
daemon off;
master_process off;
pid {directory}/pid;
error_log stderr notice;
events {{ worker_connections 1024; }}
http {{
    client_body_temp_path {directory}/client-body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    log_format fields escape=json
        '{{"server":"$server_addr:$server_port","method":"$request_method","path":"$uri",'
        '"range":"$http_range","authorization":"$http_authorization",'
        '"status":"$status","bytes":"$body_bytes_sent"}}';
    access_log {access_log} fields;
    types {{ }}
    server {{
        listen unix:{control};
        location / {{ return 204; }}
    }}
    server {{
        {registry}
        location = /v2/ {{
            default_type application/json;
            return 200 '{{}}';
        }}
        location / {{
            default_type application/json;
            return 404 '{{"errors":[{{"code":"MANIFEST_UNKNOWN","message":"not in this layout"}}]}}';
        }}
        {manifests}
        {blobs}
    }}
    {blob_server}
}}
"#,
        access_log = text(&access_log),
        control = text(&control),
        registry = listen(site.registry, site.options),
        manifests = manifests(site),
        blobs = blobs(site),
        blob_server = blob_server(site),
    )
}

fn listen(address: SocketAddr, options: &Options) -> String {
    match &options.tls {
        None => format!("listen {address};"),
        Some(identity) => format!(
            "listen {address} ssl; ssl_protocols TLSv1.2 TLSv1.3; ssl_certificate {}; \
             ssl_certificate_key {};",
            text(&identity.certificate),
            text(&identity.key)
        ),
    }
}

/// One location for each manifest's digest and each tag: each has its own media type.
fn manifests(site: &Site<'_>) -> String {
    let mut locations = String::new();
    let mut add = |name: &str, manifest: &Descriptor| {
        let Descriptor { media_type, digest, .. } = manifest;
        let (repository, path) = (site.repository, site.layout.blob_path(digest));
        let path = text(&path);
        writeln!(
            locations,
            "location = /v2/{repository}/manifests/{name} {{ default_type {media_type}; \
             add_header Docker-Content-Digest {digest}; alias {path}; }}"
        )
        .unwrap();
    };
    let mut by_digest = Vec::new();
    for (tag, root) in site.layout.tags() {
        add(&tag, &root);
        by_digest.extend(site.layout.reachable(&root));
    }
    by_digest.retain(|descriptor| is_manifest(&descriptor.media_type));
    by_digest.sort();
    by_digest.dedup();
    for manifest in by_digest {
        add(&manifest.digest, &manifest);
    }
    locations
}

fn blobs(site: &Site<'_>) -> String {
    let what = match site.options.blobs {
        Blobs::Here => blob_files(site),
        // What a presigned URL looks like, to nginx just a query.
        Blobs::Elsewhere => {
            format!("return 307 $scheme://{}/blobs/$1?signature=canary;", site.blobs)
        }
    };
    let repository = site.repository;
    format!(r#"location ~ "^/v2/{repository}/blobs/sha256:([0-9a-f]{{64}})$" {{ {what} }}"#)
}

fn blob_server(site: &Site<'_>) -> String {
    let listen = listen(site.blobs, site.options);
    let files = blob_files(site);
    format!(
        r#"server {{ {listen} location ~ "^/blobs/([0-9a-f]{{64}})$" {{ {files} }} location / {{ return 404; }} }}"#
    )
}

/// The files of the layout, `$1` being the blob's name.
fn blob_files(site: &Site<'_>) -> String {
    let limit = site.options.limit_rate.map_or(String::new(), |rate| format!("limit_rate {rate};"));
    let directory = text(site.layout.path());
    format!("default_type application/octet-stream; {limit} alias {directory}/blobs/sha256/$1;")
}
