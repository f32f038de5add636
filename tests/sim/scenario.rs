//! What happens in a run, drawn from its seed: an image, flags, faults, and how the run ends.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use ringpull::client::Timeouts;
use ringpull::config::{NetworkConfig, Pieces, Platforms, PullConfig};
use ringpull::demo::{
    Action, Auth, Bearer, BlobRedirect, Credentials, Format, Image, Kind, Options, Platform, Rule,
    Script, Then, Turn, Which,
};
use ringpull::error::Class;
use ringpull::image::Reference;
use ringpull::limits::{RECV_BUFFER_SIZE, SPLIT_SIZE_MIN};
use ringpull::registry::CredentialFile;
use ringpull::store::Destination;
use ringpull::store::disk::{Answer, Operation};
use ringpull::transport::EngineKind;
use ringpull::transport::engine::sim::{Fault, Weather};
use ringpull::transport::probe::EngineWish;
use rustix::io::Errno;

/// Where the registry listens; its storage and token service are at the ports after it.
const REGISTRY: &str = "127.0.0.1:5000";

/// What a run is about.
#[derive(Debug)]
pub struct Scenario {
    pub sizes: Vec<usize>,
    /// What the store holds under the same name before.
    pub older: bool,
    pub format: Format,
    pub network: NetworkConfig,
    pub weather: Weather,
    pub auth: Option<Bearer>,
    pub redirect: bool,
    pub pace: Option<u64>,
    pub faults: Vec<Planned>,
    /// Whether the disk is waited for.
    pub fsync: bool,
    pub disk: Option<DiskFault>,
    pub end: End,
}

/// A fault of the disk.
#[derive(Debug, Clone, Copy)]
pub struct DiskFault {
    pub operation: Operation,
    /// Which of these operations it is, from 0 on.
    pub nth: u64,
    pub answer: Answer,
    /// Whether all after it are answered so, too.
    pub lasting: bool,
}

impl DiskFault {
    /// The class of a failure by it; `None` if it is to be borne.
    pub fn class(&self) -> Option<Class> {
        match self.answer {
            Answer::Done | Answer::Short(_) | Answer::Fails(Errno::INTR) => None,
            Answer::Fails(Errno::NOSPC | Errno::DQUOT) => Some(Class::DiskFull),
            Answer::Fails(Errno::IO) => Some(Class::DiskIo),
            Answer::Fails(_) => Some(Class::Disk),
        }
    }

    /// Whether no pull may succeed that has met it. Of others, what failed may have been of no account:
    /// the record of verified blobs, for one.
    pub fn is_grave(&self) -> bool {
        let grave = [Operation::Sync, Operation::SyncNames, Operation::Rename];
        self.class().is_some() && grave.contains(&self.operation)
    }
}

/// How a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By itself.
    ByItself,
    /// By a signal, so long after its start.
    Interrupted(Duration),
    /// As by SIGKILL, so long after its start.
    Killed(Duration),
}

/// A fault of the registry.
#[derive(Debug, Clone)]
pub struct Planned {
    pub rule: Rule,
    pub gravity: Gravity,
    /// How a pull may fail of it.
    pub classes: Vec<Class>,
}

/// What the policy makes of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gravity {
    /// Costs no attempt.
    Harmless,
    /// Costs an attempt each time it is met.
    Passing,
    /// May be met once.
    Grave,
    /// Ends the pull.
    Final,
}

impl Scenario {
    pub fn of(seed: u64) -> Scenario {
        let random = &mut Rng::with_seed(seed);
        let sizes = (0..random.usize(1..=8)).map(|_| size(random)).collect();
        let network = network(random);
        let calm = random.u8(..8) == 0;
        let weather = weather(random, calm, &network);
        let timeouts = network.timeouts;
        let faults = match random.u8(..10) {
            _ if calm => 0,
            0..=3 => 0,
            4..=6 => 1,
            7..=8 => 2,
            _ => 3,
        };
        let longest = Duration::from_secs(random.u64(1..20));
        let moment = Duration::from_millis(random.u64(..=longest.as_millis() as u64));
        Scenario {
            sizes,
            older: random.u8(..8) == 0,
            format: if random.bool() { Format::Oci } else { Format::Docker },
            auth: (random.u8(..4) == 0).then(|| bearer(random)),
            redirect: random.u8(..4) == 0,
            pace: (random.u8(..8) == 0).then(|| random.u64(20_000..2_000_000)),
            faults: (0..faults).map(|_| fault(random, &timeouts)).collect(),
            fsync: random.bool(),
            disk: (!calm && random.u8(..4) == 0).then(|| disk_fault(random)),
            end: match random.u8(..8) {
                0 => End::Killed(moment),
                1 => End::Interrupted(moment),
                _ => End::ByItself,
            },
            network,
            weather,
        }
    }

    /// The image, and the one that the store has before it: some layers are the same.
    pub fn images(&self, seed: u64) -> (Image, Image) {
        let random = &mut Rng::with_seed(!seed);
        let layers: Vec<Bytes> = self.sizes.iter().map(|size| content(random, *size)).collect();
        let older = layers.iter().step_by(2).cloned().chain([content(random, 3_000)]);
        let platform = Platform::LINUX_AMD64;
        let older = Image::of_layers(self.format, platform, older.collect());
        (Image::of_layers(self.format, platform, layers), older)
    }

    pub fn options(&self) -> Options {
        Options {
            bind: address(),
            auth: self.auth.clone().map(Auth::Bearer),
            redirect_blobs: self.redirect.then_some(BlobRedirect::Storage),
            faults: Script { rules: self.faults.iter().map(|fault| fault.rule.clone()).collect() },
            bytes_per_second: self.pace,
            ..Options::default()
        }
    }

    pub fn config(&self, store: &Path) -> PullConfig {
        PullConfig {
            reference: Reference::parse(&format!("{REGISTRY}/demo:latest")).unwrap(),
            platforms: Platforms::Host("linux/amd64".parse().unwrap()),
            destination: Destination::Layout { path: store.to_owned(), tag: None },
            store: ringpull::store::Options { fsync: self.fsync, ..Default::default() },
            network: NetworkConfig { credentials: self.credentials(), ..self.network.clone() },
        }
    }

    fn credentials(&self) -> Vec<CredentialFile> {
        let wanted = self.auth.as_ref().and_then(|auth| auth.credentials.as_ref());
        let entry = |credentials: &Credentials| {
            let Credentials { user, password } = credentials;
            let file = serde_json::json!({
                "auths": { REGISTRY: { "username": user, "password": password } }
            });
            CredentialFile::parse("auth.json", file.to_string().as_bytes()).unwrap()
        };
        wanted.map(entry).into_iter().collect()
    }

    /// How often an attempt can fail, at most; `None` if without end.
    fn failures(&self, network: &[Fault]) -> Option<u32> {
        let of_registry = self.faults.iter().map(|fault| match (fault.gravity, fault.rule.turn) {
            (Gravity::Harmless, _) => Some(0),
            // What it was answered with may fail once more, by its digest.
            (Gravity::Grave, Turn::First(count)) => u32::try_from(count * 2).ok(),
            (Gravity::Grave, Turn::Nth(_)) => Some(2),
            (_, Turn::First(count)) => u32::try_from(count).ok(),
            (_, Turn::Nth(_)) => Some(1),
            _ => None,
        });
        of_registry.sum::<Option<u32>>().map(|count| count + network.len() as u32)
    }

    /// Whether the pull has to succeed, after these faults of the network and this one of the disk.
    pub fn must_succeed(&self, network: &[Fault], disk: Option<Class>) -> bool {
        let count = |gravity| self.faults.iter().filter(|it| it.gravity == gravity).count();
        let grave: Vec<_> = self.faults.iter().filter(|it| it.gravity == Gravity::Grave).collect();
        let once = grave.iter().all(|it| matches!(it.rule.turn, Turn::First(1) | Turn::Nth(_)));
        let poisoned = |it: &Planned| matches!(it.rule.action, Action::ExtraAfterBody(_));
        let poisoned_tokens = self.auth.is_some() && self.faults.iter().any(poisoned);
        // What breaks a connection may break off the last answer that a token was good for.
        let tokens_last = self.auth.as_ref().is_none_or(|auth| auth.uses_per_token.is_none())
            || self.network.connections == Some(1) && network.is_empty();
        self.failures(network).is_some_and(|failures| failures <= self.network.retries)
            && count(Gravity::Final) == 0
            && grave.len() <= 1
            && once
            && tokens_last
            && !poisoned_tokens
            && disk.is_none()
            && !self.is_cut_unseen(network)
    }

    /// Whether the network cut off what was to end with its connection: nobody sees that but by size
    /// and digest.
    fn is_cut_unseen(&self, network: &[Fault]) -> bool {
        network.contains(&Fault::Finish)
            && self.faults.iter().any(|it| it.rule.action == Action::UntilClose)
    }

    /// Whether the pull may fail so.
    pub fn may_fail_as(&self, class: Class, network: &[Fault], disk: Option<Class>) -> bool {
        use Class::*;
        let of_network = |fault: &Fault| match fault {
            Fault::Refused => class == Connect,
            Fault::Silent => class == ConnectTimeout,
            Fault::Stall | Fault::Race => {
                matches!(class, RecvTimeout | HeadTimeout | SendTimeout | TooSlow)
            }
            Fault::Reset | Fault::Finish | Fault::Hiccup => {
                matches!(class, EmptyResponse | Truncated | Framing)
            }
        };
        let expires = |auth: &Bearer| auth.uses_per_token.is_some();
        let of_tokens = class == Auth && self.auth.as_ref().is_some_and(expires);
        let of_a_cut = matches!(class, Size | Digest | DigestHeader | Manifest | Token);
        network.iter().any(of_network)
            || disk == Some(class)
            || of_a_cut && self.is_cut_unseen(network)
            || self.faults.iter().any(|fault| fault.classes.contains(&class))
            || of_tokens
    }

    /// Bytes that may be received beyond those that are needed, and those of manifests and refusals;
    /// `None` if that says nothing. Of what is split while it comes, one receive may be too late each
    /// time.
    pub fn waste_max(&self) -> Option<u64> {
        const SPLITS_MAX: usize = 4;
        let large = self.sizes.iter().filter(|size| **size as u64 >= SPLIT_SIZE_MIN).count();
        let late = (large * SPLITS_MAX * RECV_BUFFER_SIZE) as u64;
        self.faults.iter().all(|it| it.gravity == Gravity::Passing).then_some(late)
    }

    /// Whether a request may be answered by a 500.
    pub fn answers_by_500(&self) -> bool {
        let is_500 =
            |fault: &Planned| matches!(fault.rule.action, Action::Status { code: 500, .. });
        self.faults.iter().any(is_500)
    }

    /// When the pull must have ended, by the virtual clock.
    pub fn ends_within(&self) -> Duration {
        const PAUSE_MAX: Duration = Duration::from_secs(60);
        let Timeouts { connect, head, recv, .. } = self.network.timeouts;
        let objects = self.sizes.len() as u32 + 3;
        // An attempt that received 1 MiB starts the count anew.
        let without_end = objects * (self.network.retries + 1) * 4;
        let attempts = objects + self.weather.faults + self.failures(&[]).unwrap_or(without_end);
        let weather = &self.weather;
        let attempt = connect + head + recv * 2 + PAUSE_MAX + *weather.latency.end() * 10;
        let slowest = (*weather.bytes_per_second.start())
            .min(self.pace.unwrap_or(u64::MAX))
            .min(self.network.limit_rate.unwrap_or(u64::MAX));
        let bytes: usize = self.sizes.iter().sum::<usize>() + 100_000;
        let bytes = Duration::from_secs_f64(bytes as f64 / slowest as f64);
        let dripped = |fault: &Planned| match fault.rule.action {
            Action::Drip { bytes, every } | Action::DripAll { bytes, every } => {
                let most = self.sizes.iter().max().copied().unwrap_or(0) + 20_000;
                every * (most / bytes.max(1) + 1) as u32 * objects
            }
            _ => Duration::ZERO,
        };
        let dripped: Duration = self.faults.iter().map(dripped).sum();
        attempt * attempts + bytes * 4 + dripped * 4
    }
}

pub fn address() -> SocketAddr {
    REGISTRY.parse().unwrap()
}

/// Mostly small: a run should be short, and edges are at small sizes.
fn size(random: &mut Rng) -> usize {
    match random.u8(..20) {
        0 => 0,
        1 => 1,
        2..=10 => random.usize(1..4 << 10),
        11..=16 => random.usize(1..64 << 10),
        17..=18 => random.usize(1..512 << 10),
        _ => random.usize(1..3 << 20),
    }
}

/// Bytes that no other layer has, but for the shortest.
fn content(random: &mut Rng, size: usize) -> Bytes {
    let mut bytes = vec![0; size];
    random.fill(&mut bytes);
    bytes.into()
}

fn network(random: &mut Rng) -> NetworkConfig {
    let seconds = |random: &mut Rng| Duration::from_secs(random.u64(1..=60));
    let timeouts = Timeouts {
        connect: seconds(random),
        head: seconds(random),
        recv: seconds(random),
        document: seconds(random),
        ..Timeouts::default()
    };
    NetworkConfig {
        engine: EngineWish::Only(EngineKind::Sim),
        timeouts,
        retries: random.u32(..=6),
        jobs: random.usize(1..=6),
        connections: random.bool().then(|| random.usize(1..=8)),
        memory: (1 << 19) << random.u32(..=7),
        limit_rate: (random.u8(..10) == 0).then(|| random.u64(10_000..5_000_000)),
        pieces: match random.bool() {
            true => Pieces::default(),
            false => Pieces { first: random.u64(1..200_000), least: random.u64(1_000..100_000) },
        },
        ..NetworkConfig::default()
    }
}

fn weather(random: &mut Rng, calm: bool, network: &NetworkConfig) -> Weather {
    let millis = Duration::from_millis;
    // A deadline that is shorter than the way there and back is a fault of its own.
    let Timeouts { connect, head, recv, .. } = network.timeouts;
    let most = connect.min(head).min(recv).as_millis() as u64 / 8;
    let latency = [0, 1, 20, 200][random.usize(..4)].min(most);
    let rate = [20_000, 1_000_000, 100_000_000, 1 << 40][random.usize(..4)];
    let window = [1 << 10, 16 << 10, 256 << 10, 4 << 20][random.usize(..4)];
    Weather {
        latency: millis(latency / 2)..=millis(latency),
        bytes_per_second: rate / 2..=rate * 2,
        window: window..=window * 2,
        small_segments: [0, 0, 40, 200][random.usize(..4)],
        segment: 1..=[1, 3, 100, 1500][random.usize(..4)],
        short: [0, 0, 100, 900][random.usize(..4)],
        breaks: if calm { 0 } else { [0, 100, 300, 900][random.usize(..4)] },
        breaks_at: 0..=[100, 1_000, 100_000, 1 << 20][random.usize(..4)],
        hiccups: if calm { 0 } else { [0, 0, 2, 20][random.usize(..4)] },
        faults: if calm { 0 } else { random.u32(..=8) },
    }
}

fn disk_fault(random: &mut Rng) -> DiskFault {
    use Operation::*;
    let operation =
        [Create, MakeDirectory, Write, Truncate, Reserve, Sync, SyncNames, Rename, Remove];
    let operation = match random.u8(..3) {
        0 => Write,
        _ => operation[random.usize(..operation.len())],
    };
    let errno = [Errno::NOSPC, Errno::DQUOT, Errno::IO, Errno::IO, Errno::ROFS];
    let answer = match (operation, random.u8(..3)) {
        (Write, 0) => Answer::Short(random.usize(1..5_000)),
        // Those that can be interrupted.
        (Create | Write | Truncate | Reserve | Sync | SyncNames, 1) => Answer::Fails(Errno::INTR),
        _ => Answer::Fails(errno[random.usize(..errno.len())]),
    };
    let latest = [0, 3, 12, 60][random.usize(..4)];
    DiskFault {
        operation,
        nth: random.u64(..=latest),
        answer,
        // What is interrupted for ever is tried for ever.
        lasting: answer != Answer::Fails(Errno::INTR) && random.bool(),
    }
}

fn bearer(random: &mut Rng) -> Bearer {
    Bearer {
        credentials: random.bool().then(|| Credentials::new("someone", "canary")),
        own_port: random.bool(),
        uses_per_token: random.bool().then(|| random.u64(1..=6)),
        realm: None,
    }
}

fn fault(random: &mut Rng, timeouts: &Timeouts) -> Planned {
    use Class::*;
    use Gravity::{Final, Grave, Harmless, Passing};
    // Shorter than any silence that is not borne.
    let patience = timeouts.recv.min(timeouts.head);
    // With some bytes before it, it is first of all slow.
    let silence: &[Class] = &[RecvTimeout, HeadTimeout, TooSlow];
    let end: &[Class] = &[EmptyResponse, Truncated, Framing];
    let count = [0, 1, 1_000, 20_000, 300_000][random.usize(..5)];
    let count = random.u64(..=count);
    let kind = match random.u8(..8) {
        0 => Kind::Manifest,
        1 => Kind::Token,
        2 => Kind::Any,
        3 => Kind::Storage,
        _ => Kind::Blob,
    };
    let limited = |random: &mut Rng, code| Action::Status {
        code,
        fields: vec![("Retry-After".into(), random.u64(..=60).to_string())],
        body: Bytes::new(),
    };
    let shift = |random: &mut Rng| Action::ShiftContentRange {
        first: random.i64(-1..=1),
        last: random.i64(-1..=1),
        total: random.i64(-1..=1),
    };
    let drip = |random: &mut Rng, patience: Duration| -> (Action, Gravity, &'static [Class]) {
        let (bytes, every) = (random.usize(1..2_000), patience.mul_f64(random.f64() / 50.0));
        // Well above the minimum speed it costs nothing.
        match (bytes as f64) < every.as_secs_f64() * 1_000.0 {
            true => (Action::Drip { bytes, every }, Passing, &[TooSlow]),
            false => (Action::Drip { bytes, every }, Harmless, &[]),
        }
    };
    let (action, gravity, classes): (Action, Gravity, &'static [Class]) = match random.u8(..34) {
        0 => (Action::StallBeforeHead, Passing, silence),
        1 => (Action::StallAfterHead, Passing, silence),
        2 | 3 => (Action::StallAfter(count), Passing, silence),
        4 | 5 => (Action::CloseAfter(count), Passing, end),
        6 | 7 => (Action::ResetAfter(count), Passing, end),
        8 => (Action::raw("", Then::Close), Passing, end),
        9 => (Action::raw("", Then::Reset), Passing, end),
        10 => (Action::raw("HTTP/1.1 200 OK\r\nContent-Le", Then::Close), Passing, end),
        11 => (Action::status([500, 502, 503, 504, 408][random.usize(..5)]), Passing, &[Http5xx]),
        12 => (limited(random, 503), Passing, &[Http5xx]),
        13 => (limited(random, 429), Passing, &[RateLimited]),
        14 => (Action::Delay(patience.mul_f64(random.f64() / 2.0)), Harmless, &[HeadTimeout]),
        15 => drip(random, patience),
        16 => (Action::NoKeepAlive, Harmless, &[]),
        17 => (Action::UntilClose, Harmless, &[]),
        18 => (Action::Chunked { size: random.usize(1..3_000), trailers: vec![] }, Harmless, &[]),
        // Late enough, it is taken for the answer to the next request: nobody could tell.
        19 => (
            Action::ExtraAfterBody(Bytes::from_static(b"HTTP/1.1 200 \r\n\r\n")),
            Grave,
            // A head without a length is waited behind for an end.
            &[
                Size,
                Range,
                Digest,
                DigestHeader,
                Framing,
                Manifest,
                Token,
                Auth,
                RecvTimeout,
                TooSlow,
            ],
        ),
        20 | 21 => (Action::IgnoreRange, Grave, &[Range]),
        22 => (shift(random), Grave, &[Range, Framing, Size]),
        23 => (Action::status(416), Grave, &[Range, HttpStatus]),
        24 => (Action::FlipByte(count), Grave, &[Digest, DigestHeader, Manifest, Token, Auth]),
        25 => (
            Action::Overlong(1 + count % 100),
            Grave,
            &[Size, Range, Digest, DigestHeader, Manifest],
        ),
        26 => {
            (Action::Short(1 + count % 100), Grave, &[Size, Range, Digest, DigestHeader, Manifest])
        }
        27 => (Action::raw("nonsense\r\n\r\n", Then::Close), Grave, &[Framing]),
        28 => (
            Action::Replace(Bytes::from_static(b"{}")),
            Grave,
            &[Size, Range, Digest, DigestHeader, Manifest],
        ),
        29 => (Action::status(404), Final, &[NotFound, HttpStatus]),
        30 => (Action::status(403), Final, &[Auth]),
        31 => (Action::status(401), Final, &[Auth]),
        32 => (Action::content_encoding("gzip"), Final, &[Encoding]),
        _ => (Action::redirect("/v2/"), Final, &[Redirect, NotFound, HttpStatus, Size, Manifest]),
    };
    let turn = match random.u8(..10) {
        0 => Turn::Always,
        1..=5 => Turn::First(random.u64(1..=3)),
        _ => Turn::Nth(random.u64(1..=6)),
    };
    let which = if random.bool() { Which::Any } else { Which::Layer(random.usize(..3)) };
    let which = if matches!(kind, Kind::Blob | Kind::Storage) { which } else { Which::Any };
    // What a document is, decides how it can be wrong; what a token service says, is not checked.
    let gravity = match (gravity, kind) {
        (Grave, Kind::Manifest | Kind::Token | Kind::Any) => Final,
        (gravity, _) => gravity,
    };
    let mut classes = classes.to_vec();
    if matches!(kind, Kind::Token | Kind::Any) {
        classes.extend([Token, Auth, NotFound, HttpStatus, Framing, Redirect, RealmRefused, Range]);
    }
    Planned { rule: Rule::on(kind).which(which).turn(turn).then(action), gravity, classes }
}
