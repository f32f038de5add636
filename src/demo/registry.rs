//! The registry: repositories in memory, served as the OCI distribution-spec says, with the faults
//! of a script.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use rustls::ServerConfig;
use serde_json::json;

use super::answer::{Answer, Part, etag};
use super::auth::{Auth, Challenge, Guard};
use super::image::{Blob, Image, Index};
use super::lock;
use super::log::{Door, Log, RequestLine};
use super::plan::Plan;
use super::request::{Malformed, Reader, Request};
use super::script::{Action, Facts, Kind, Role, RunningScript, Script};
use super::server::{Bound, Server};
use super::wire::{Flow, Gate, Step, Wire};
use crate::image::Digest;

/// How a registry is started. The default is plain HTTP on a free port of 127.0.0.1, open to all,
/// without a fault.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the registry listens; port 0 takes a free one. Its other listeners use the same
    /// address and a free port.
    pub bind: SocketAddr,
    /// TLS, for all listeners.
    pub tls: Option<Arc<ServerConfig>>,
    /// Who may ask.
    pub auth: Option<Auth>,
    /// Whether blobs are served by someone else.
    pub redirect_blobs: Option<BlobRedirect>,
    /// How long a URL of the storage is good for, in whole seconds, as it says itself
    /// (`X-Amz-Expires`). `None` is until [`Registry::expire_signatures`], and says nothing.
    pub signature_lifetime: Option<Duration>,
    /// The faults.
    pub faults: Script,
    /// Bytes per second of each body, on each connection, where no fault says otherwise.
    pub bytes_per_second: Option<u64>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            bind: (Ipv4Addr::LOCALHOST, 0).into(),
            tls: None,
            auth: None,
            redirect_blobs: None,
            signature_lifetime: None,
            faults: Script::default(),
            bytes_per_second: None,
        }
    }
}

/// Where requests for blobs are redirected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BlobRedirect {
    /// A storage of this registry's own, at another port. It behaves as S3 does: the URL carries a
    /// signature, and a request that carries `Authorization` besides is refused with 400.
    Storage,
    /// The same path below this URL, which ends without a slash: another registry's origin, say.
    To(String),
}

/// A running registry. Dropping it closes all connections and waits for its threads.
pub struct Registry {
    state: Arc<State>,
    origin: String,
    address: SocketAddr,
    connections: Arc<AtomicU64>,
    servers: Vec<(Door, Server)>,
}

impl Registry {
    /// Starts a registry without content.
    pub fn start(options: Options) -> io::Result<Registry> {
        let scheme = if options.tls.is_some() { "https" } else { "http" };
        let mut doors = vec![(Door::Registry, Bound::new(options.bind)?)];
        let other_port = SocketAddr::new(options.bind.ip(), 0);
        if options.redirect_blobs == Some(BlobRedirect::Storage) {
            doors.push((Door::Storage, Bound::new(other_port)?));
        }
        if Guard::token_service_apart(options.auth.as_ref()) {
            doors.push((Door::Token, Bound::new(other_port)?));
        }
        let origin = |wanted: Door| {
            let bound = doors.iter().find(|(door, _)| *door == wanted).or(doors.first());
            bound.map_or_else(String::new, |(_, bound)| format!("{scheme}://{}", bound.address()))
        };
        let address = doors.first().map_or(options.bind, |(_, bound)| bound.address());
        let registry_origin = origin(Door::Registry);
        let state = Arc::new(State::new(options, &origin(Door::Token), origin(Door::Storage)));
        let connections = Arc::new(AtomicU64::new(0));
        let servers = doors
            .into_iter()
            .map(|(door, bound)| {
                let state = Arc::clone(&state);
                let serve = move |id, socket| state.serve(door, id, socket);
                Ok((door, bound.serve(Arc::clone(&connections), serve)?))
            })
            .collect::<io::Result<_>>()?;
        Ok(Registry { state, origin: registry_origin, address, connections, servers })
    }

    /// A registry that listens nowhere: somebody else carries its [conversations](Registry::converse),
    /// without TLS. Its storage and its token service are at the ports after that of `bind`.
    pub fn unplugged(options: Options) -> Registry {
        let address = options.bind;
        let origin = |nth| {
            let port = address.port().saturating_add(nth);
            format!("http://{}", SocketAddr::new(address.ip(), port))
        };
        let token_apart = Guard::token_service_apart(options.auth.as_ref());
        let token = origin(if token_apart { 2 } else { 0 });
        Registry {
            state: Arc::new(State::new(options, &token, origin(1))),
            origin: origin(0),
            address,
            connections: Arc::default(),
            servers: Vec::new(),
        }
    }

    /// The registry's side of one connection more.
    pub fn converse(&self, door: Door) -> Conversation {
        let connection = self.connections.fetch_add(1, Ordering::Relaxed);
        Conversation { state: Arc::clone(&self.state), door, connection, reader: Reader::default() }
    }

    /// Where the registry listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The registry's origin: `http://127.0.0.1:PORT`.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// How a client names an image: `127.0.0.1:PORT/repository:tag`.
    pub fn reference(&self, repository: &str, tag: &str) -> String {
        format!("{}/{repository}:{tag}", self.address)
    }

    /// How a client names an image by digest: `127.0.0.1:PORT/repository@sha256:…`.
    pub fn reference_by_digest(&self, repository: &str, digest: &Digest) -> String {
        format!("{}/{repository}@{digest}", self.address)
    }

    /// Serves an image under a tag, and by digest.
    pub fn add(&self, repository: &str, tag: &str, image: &Image) {
        self.add_untagged(repository, image);
        self.add_manifest(repository, Some(tag), &image.manifest);
    }

    /// Serves an index under a tag and by digest, with all its images by digest.
    pub fn add_index(&self, repository: &str, tag: &str, index: &Index) {
        for image in &index.images {
            self.add_untagged(repository, image);
        }
        self.add_manifest(repository, Some(tag), &index.document);
    }

    /// Serves any manifest or index by digest, and under a tag. Nothing it refers to is looked at.
    pub fn add_manifest(&self, repository: &str, tag: Option<&str>, manifest: &Blob) {
        let mut repositories = lock(&self.state.repositories);
        let repository = repositories.entry(repository.to_owned()).or_default();
        repository.manifests.insert(manifest.digest, manifest.clone());
        if let Some(tag) = tag {
            repository.tags.insert(tag.to_owned(), manifest.digest);
        }
    }

    /// Serves a blob. To the rules of a script, it is neither layer nor configuration.
    pub fn add_blob(&self, repository: &str, blob: &Blob) {
        self.state.add_blob(repository, blob, None);
    }

    /// Replaces the script, and begins it.
    pub fn set_faults(&self, faults: Script) {
        *lock(&self.state.script) = RunningScript::new(faults);
    }

    /// Lets one [`Action::PauseAfter`] go on: one that waits, or the next to come.
    pub fn go(&self) {
        self.state.gate.go();
    }

    /// All tokens given out so far have expired.
    pub fn expire_tokens(&self) {
        self.state.guard.expire_tokens();
    }

    /// All URLs of the storage given out so far have expired.
    pub fn expire_signatures(&self) {
        lock(&self.state.signatures).fill(Duration::ZERO);
    }

    /// All requests so far, in the order in which they were received. Requests that could not be
    /// read are answered by 400 and do not stand here.
    pub fn log(&self) -> Vec<RequestLine> {
        self.state.log.lines()
    }

    /// Waits until the log is as wanted; false when `timeout` passed first.
    pub fn wait_until(&self, timeout: Duration, wanted: impl Fn(&[RequestLine]) -> bool) -> bool {
        self.state.log.wait_until(timeout, wanted)
    }

    /// Number of connections that are open now, at all listeners.
    pub fn connections(&self) -> usize {
        self.servers.iter().map(|(_, server)| server.open()).sum()
    }

    /// Largest number of connections that were open at once, at one listener.
    pub fn connections_peak(&self, door: Door) -> usize {
        let server = self.servers.iter().find(|(given, _)| *given == door);
        server.map_or(0, |(_, server)| server.peak())
    }

    /// Number of connections accepted so far, at all listeners.
    pub fn connections_accepted(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    fn add_untagged(&self, repository: &str, image: &Image) {
        self.state.add_blob(repository, &image.config, Some(Role::Config));
        for (index, layer) in image.layers.iter().enumerate() {
            self.state.add_blob(repository, layer, Some(Role::Layer(index)));
        }
        self.add_manifest(repository, None, &image.manifest);
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // The servers wait for their threads; one that pauses does not see its socket shut down.
        self.state.gate.stop();
    }
}

/// The registry's side of a connection that somebody else carries: bytes in, steps out.
pub struct Conversation {
    state: Arc<State>,
    door: Door,
    connection: u64,
    reader: Reader,
}

impl Conversation {
    /// Takes bytes that the client sent.
    pub fn received(&mut self, bytes: &[u8]) {
        self.reader.push(bytes);
    }

    /// What to do about the next request, once it is whole. Without a last step that ends the
    /// connection, it goes on.
    pub fn answer(&mut self) -> Option<Vec<Step>> {
        let plan = match self.reader.take()? {
            Ok(request) => self.state.plan(self.door, self.connection, request).0,
            Err(malformed) => State::refusal(malformed),
        };
        Some(plan.steps)
    }
}

/// What all connections share.
struct State {
    guard: Guard,
    redirect: Option<BlobRedirect>,
    /// Origin of the storage.
    storage: String,
    tls: Option<Arc<ServerConfig>>,
    pace: Option<u64>,
    repositories: Mutex<HashMap<String, Repository>>,
    script: Mutex<RunningScript>,
    signature_lifetime: Option<Duration>,
    /// Until when each URL signed so far is good, by the log's clock: no two URLs are equal.
    signatures: Mutex<Vec<Duration>>,
    log: Log,
    gate: Gate,
}

#[derive(Default)]
struct Repository {
    tags: BTreeMap<String, Digest>,
    manifests: HashMap<Digest, Blob>,
    blobs: HashMap<Digest, Stored>,
}

#[derive(Clone)]
struct Stored {
    blob: Blob,
    role: Option<Role>,
}

// --- connections ---

impl State {
    fn new(options: Options, token_service: &str, storage: String) -> State {
        State {
            guard: Guard::new(options.auth, format!("{token_service}/token")),
            redirect: options.redirect_blobs,
            storage,
            tls: options.tls,
            pace: options.bytes_per_second,
            repositories: Mutex::default(),
            script: Mutex::new(RunningScript::new(options.faults)),
            signature_lifetime: options.signature_lifetime,
            signatures: Mutex::default(),
            log: Log::new(),
            gate: Gate::default(),
        }
    }

    fn serve(&self, door: Door, connection: u64, socket: Arc<TcpStream>) {
        // An error is the peer's end of the connection, or the server's: nobody is left to tell.
        let _ = self.converse(door, connection, socket);
    }

    fn converse(&self, door: Door, connection: u64, socket: Arc<TcpStream>) -> io::Result<()> {
        let mut wire = Wire::new(socket, self.tls.as_ref())?;
        let mut reader = Reader::default();
        while let Some(request) = reader.next(&mut wire)? {
            let flow = match request {
                Ok(request) => self.respond(&mut wire, door, connection, request)?,
                Err(malformed) => self.refuse(&mut wire, malformed)?,
            };
            if flow == Flow::Ended {
                return Ok(());
            }
        }
        wire.take(&Step::Close, &self.gate)?;
        Ok(())
    }

    /// Answers a request, with its fault, and logs it.
    fn respond(
        &self,
        wire: &mut Wire,
        door: Door,
        connection: u64,
        request: Request,
    ) -> io::Result<Flow> {
        let (plan, line) = self.plan(door, connection, request);
        let flow = self.perform(wire, &plan, line);
        let now = self.log.elapsed();
        self.log.update(line, |line| line.ended = Some(now));
        flow
    }

    /// What to do about a request, and its line in the log.
    fn plan(&self, door: Door, connection: u64, request: Request) -> (Plan, usize) {
        let asked = self.look_up(door, &request);
        let action = lock(&self.script).action(&asked.facts());
        let ignore_range = action == Action::IgnoreRange;
        let mut answer = self.answer(&asked, &request, ignore_range);
        answer.close = !request.keep_alive;
        let mut plan = Plan::new(answer, &action, self.pace);
        if request.method == "HEAD" {
            plan = plan.without_body();
        }
        let line = self.log.enter(RequestLine {
            at: self.log.elapsed(),
            ended: None,
            connection,
            door,
            kind: asked.kind(),
            range: asked.part.bounds(),
            status: plan.status,
            body_sent: 0,
            fault: action,
            method: request.method,
            target: request.target,
            headers: request.headers,
        });
        (plan, line)
    }

    /// Takes the steps of a plan, and notes in the log what was sent.
    fn perform(&self, wire: &mut Wire, plan: &Plan, line: usize) -> io::Result<Flow> {
        let before = wire.sent();
        for step in &plan.steps {
            let flow = wire.take(step, &self.gate);
            let sent = (wire.sent() - before).saturating_sub(plan.head_size);
            self.log.update(line, |line| line.body_sent = sent);
            if flow? == Flow::Ended {
                return Ok(Flow::Ended);
            }
        }
        Ok(Flow::Continue)
    }

    fn refuse(&self, wire: &mut Wire, malformed: Malformed) -> io::Result<Flow> {
        for step in State::refusal(malformed).steps {
            wire.take(&step, &self.gate)?;
        }
        Ok(Flow::Ended)
    }

    fn refusal(malformed: Malformed) -> Plan {
        let status = match malformed {
            Malformed::TooLong => 431,
            Malformed::Syntax => 400,
        };
        let answer = Answer { close: true, ..Answer::empty(status) };
        Plan::new(answer, &Action::None, None)
    }
}

// --- what is asked ---

/// A path, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route<'a> {
    Version,
    Tags { repository: &'a str },
    Manifest { repository: &'a str, reference: &'a str },
    Blob { repository: &'a str, digest: &'a str },
    Storage { repository: &'a str, digest: &'a str },
    Token,
    Other,
}

impl<'a> Route<'a> {
    fn of(door: Door, path: &'a str) -> Route<'a> {
        match door {
            Door::Registry => Route::of_registry(path),
            Door::Token if path == "/token" => Route::Token,
            Door::Storage => Route::of_storage(path).unwrap_or(Route::Other),
            Door::Token => Route::Other,
        }
    }

    fn of_registry(path: &'a str) -> Route<'a> {
        if path == "/token" {
            return Route::Token;
        }
        let Some(path) = path.strip_prefix("/v2").filter(|rest| rest.starts_with('/')) else {
            return if path == "/v2" { Route::Version } else { Route::Other };
        };
        let path = &path[1..];
        if path.is_empty() {
            Route::Version
        } else if let Some(repository) = path.strip_suffix("/tags/list") {
            Route::Tags { repository }
        } else if let Some((repository, reference)) = path.rsplit_once("/manifests/") {
            Route::Manifest { repository, reference }
        } else if let Some((repository, digest)) = path.rsplit_once("/blobs/") {
            Route::Blob { repository, digest }
        } else {
            Route::Other
        }
    }

    fn of_storage(path: &'a str) -> Option<Route<'a>> {
        let (repository, digest) = path.strip_prefix("/storage/")?.rsplit_once('/')?;
        Some(Route::Storage { repository, digest })
    }

    fn repository(self) -> Option<&'a str> {
        match self {
            Route::Tags { repository }
            | Route::Manifest { repository, .. }
            | Route::Blob { repository, .. }
            | Route::Storage { repository, .. } => Some(repository),
            Route::Version | Route::Token | Route::Other => None,
        }
    }

    fn kind(self) -> Kind {
        match self {
            Route::Version => Kind::Version,
            Route::Tags { .. } => Kind::Tags,
            Route::Manifest { .. } => Kind::Manifest,
            Route::Blob { .. } => Kind::Blob,
            Route::Storage { .. } => Kind::Storage,
            Route::Token => Kind::Token,
            Route::Other => Kind::Other,
        }
    }
}

/// A request, with what it names.
struct Wanted<'a> {
    route: Route<'a>,
    /// Whether it may be answered.
    allowed: Result<(), Challenge>,
    digest: Option<Digest>,
    tag: Option<&'a str>,
    found: Option<Stored>,
    part: Part,
}

impl Wanted<'_> {
    fn kind(&self) -> Kind {
        if self.allowed.is_ok() { self.route.kind() } else { Kind::Challenge }
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            kind: self.kind(),
            digest: self.digest,
            tag: self.tag,
            role: self.found.as_ref().and_then(|stored| stored.role),
            range: self.part.bounds(),
        }
    }
}

impl State {
    fn look_up<'a>(&self, door: Door, request: &'a Request) -> Wanted<'a> {
        let route = Route::of(door, request.path());
        let allowed = match route {
            Route::Token | Route::Storage { .. } | Route::Other => Ok(()),
            _ => self.guard.check(request, route.repository()),
        };
        let (named, tag) = match route {
            Route::Blob { digest, .. } | Route::Storage { digest, .. } => (Some(digest), None),
            Route::Manifest { reference, .. } if reference.contains(':') => (Some(reference), None),
            Route::Manifest { reference, .. } => (None, Some(reference)),
            _ => (None, None),
        };
        let digest = named.and_then(|text| Digest::parse(text).ok());
        let found = route.repository().and_then(|name| self.find(name, route, digest, tag));
        let ranged =
            matches!(route, Route::Blob { .. } | Route::Storage { .. }) && request.method == "GET";
        let part = match &found {
            Some(stored) if ranged => asked_part(request, &stored.blob),
            _ => Part::Whole,
        };
        Wanted { route, allowed, digest, tag, found, part }
    }

    fn find(
        &self,
        repository: &str,
        route: Route<'_>,
        digest: Option<Digest>,
        tag: Option<&str>,
    ) -> Option<Stored> {
        let repositories = lock(&self.repositories);
        let repository = repositories.get(repository)?;
        match route {
            Route::Manifest { .. } => {
                let digest = digest.or_else(|| repository.tags.get(tag?).copied())?;
                let blob = repository.manifests.get(&digest)?.clone();
                Some(Stored { blob, role: None })
            }
            _ => repository.blobs.get(&digest?).cloned(),
        }
    }

    fn add_blob(&self, repository: &str, blob: &Blob, role: Option<Role>) {
        let mut repositories = lock(&self.repositories);
        let blobs = &mut repositories.entry(repository.to_owned()).or_default().blobs;
        // The same layer may stand in an image twice: it keeps its first index.
        blobs.entry(blob.digest).or_insert_with(|| Stored { blob: blob.clone(), role });
    }
}

/// The part that is asked for, unless `If-Range` names other content (RFC 9110 section 13.1.5).
fn asked_part(request: &Request, blob: &Blob) -> Part {
    if request.header("if-range").is_some_and(|tag| tag != etag(blob)) {
        return Part::Whole;
    }
    Part::asked(request.header("range"), blob.size())
}

// --- honest answers ---

impl State {
    fn answer(&self, wanted: &Wanted<'_>, request: &Request, ignore_range: bool) -> Answer {
        if let Err(challenge) = &wanted.allowed {
            return unauthorized(challenge);
        }
        if !matches!(request.method.as_str(), "GET" | "HEAD") {
            return Answer::error(405, "UNSUPPORTED", "this registry is for pulling");
        }
        let part = if ignore_range { Part::Whole } else { wanted.part };
        match (wanted.route, &wanted.found) {
            (Route::Version, _) => Answer::new(200, "application/json", "{}"),
            (Route::Token, _) => self.answer_token(request),
            (Route::Tags { repository }, _) => self.answer_tags(repository),
            (Route::Manifest { .. }, Some(stored)) => Answer::manifest(&stored.blob),
            (Route::Manifest { .. }, None) => {
                Answer::error(404, "MANIFEST_UNKNOWN", "manifest unknown")
            }
            (Route::Blob { repository, .. }, Some(stored)) => match &self.redirect {
                Some(redirect) => self.answer_redirect(redirect, repository, &stored.blob),
                None => Answer::part(&stored.blob, part),
            },
            (Route::Blob { .. }, None) => {
                Answer::error(404, "BLOB_UNKNOWN", "blob unknown to registry")
            }
            (Route::Storage { .. }, stored) => self.answer_storage(request, stored.as_ref(), part),
            (Route::Other, _) => Answer::error(404, "NOT_FOUND", "no such path"),
        }
    }

    fn answer_token(&self, request: &Request) -> Answer {
        match self.guard.token(request) {
            None => Answer::error(404, "NOT_FOUND", "no such path"),
            Some(Ok(token)) => Answer::new(200, "application/json", token),
            Some(Err(challenge)) => unauthorized(&challenge),
        }
    }

    fn answer_tags(&self, name: &str) -> Answer {
        let repositories = lock(&self.repositories);
        let Some(repository) = repositories.get(name) else {
            return Answer::error(404, "NAME_UNKNOWN", "repository name not known to registry");
        };
        let tags: Vec<&String> = repository.tags.keys().collect();
        let body = json!({ "name": name, "tags": tags });
        Answer::new(200, "application/json", body.to_string())
    }

    fn answer_redirect(&self, redirect: &BlobRedirect, repository: &str, blob: &Blob) -> Answer {
        let digest = &blob.digest;
        let mut answer = Answer::empty(307);
        let location = match redirect {
            BlobRedirect::To(base) => format!("{base}/v2/{repository}/blobs/{digest}"),
            BlobRedirect::Storage => {
                let now = SystemTime::now();
                answer.set("Date", &httpdate::fmt_http_date(now));
                let (storage, query) = (&self.storage, self.sign(now));
                format!("{storage}/storage/{repository}/{digest}?{query}")
            }
        };
        answer.set("Location", &location);
        answer
    }

    /// The query of a URL that is good from `now` on.
    fn sign(&self, now: SystemTime) -> String {
        let lifetime = self.signature_lifetime;
        let until = lifetime.map_or(Duration::MAX, |lifetime| self.log.elapsed() + lifetime);
        let mut signatures = lock(&self.signatures);
        signatures.push(until);
        let mut query = format!("X-Amz-Signature=demo-{}", signatures.len());
        if let Some(lifetime) = lifetime {
            let date = humantime::format_rfc3339_seconds(now).to_string().replace(['-', ':'], "");
            query.push_str(&format!("&X-Amz-Date={date}&X-Amz-Expires={}", lifetime.as_secs()));
        }
        query
    }

    /// Whether a query has a signature of ours that is still good.
    fn is_signed(&self, query: &str) -> bool {
        let signature =
            query.split('&').find_map(|pair| pair.strip_prefix("X-Amz-Signature=demo-"));
        let number = signature.and_then(|number| number.parse::<usize>().ok());
        let signatures = lock(&self.signatures);
        let until = number.and_then(|number| signatures.get(number.checked_sub(1)?));
        until.is_some_and(|until| self.log.elapsed() < *until)
    }

    /// What S3 answers, in outline.
    fn answer_storage(&self, request: &Request, stored: Option<&Stored>, part: Part) -> Answer {
        let refused = |status, code| {
            Answer::new(status, "application/xml", format!("<Error><Code>{code}</Code></Error>"))
        };
        if request.header("authorization").is_some() {
            return refused(400, "InvalidArgument: Only one auth mechanism allowed");
        }
        if !self.is_signed(request.query()) {
            return refused(403, "AccessDenied");
        }
        match stored {
            Some(stored) => Answer::part(&stored.blob, part),
            None => refused(404, "NoSuchKey"),
        }
    }
}

fn unauthorized(challenge: &Challenge) -> Answer {
    let mut answer = Answer::error(401, "UNAUTHORIZED", "authentication required");
    answer.set("WWW-Authenticate", &challenge.0);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_apart() {
        let check =
            |path, expected| assert_eq!(Route::of(Door::Registry, path), expected, "{path}");
        check("/v2", Route::Version);
        check("/v2/", Route::Version);
        check("/v2x", Route::Other);
        check("/", Route::Other);
        check("/v2/a/b/tags/list", Route::Tags { repository: "a/b" });
        check("/v2/a/manifests/t", Route::Manifest { repository: "a", reference: "t" });
        let both = Route::Blob { repository: "a/blobs/b", digest: "d" };
        check("/v2/a/blobs/b/blobs/d", both);
        check("/token", Route::Token);
        let storage = Route::Storage { repository: "a/b", digest: "d" };
        assert_eq!(Route::of(Door::Storage, "/storage/a/b/d"), storage);
        assert_eq!(Route::of(Door::Storage, "/v2/"), Route::Other);
        assert_eq!(Route::of(Door::Token, "/token"), Route::Token);
        assert_eq!(Route::of(Door::Token, "/v2/"), Route::Other);
    }
}
