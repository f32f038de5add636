//! Answers that trickle: somewhere in the answers of a pull, one goes on byte by byte, each byte sooner
//! than any silence would end it. Wherever that is, the pull ends within the bounds that are documented.
//!
//! A place is drawn from its number: which answer (of a registry, a storage, a token service: manifest,
//! blob, redirect, challenge, token, refusal), whether only that one or all from there on, in what
//! framing, and at which byte.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use ringpull::client::Timeouts;
use ringpull::config::{NetworkConfig, Pieces, Platforms, PullConfig};
use ringpull::demo::{
    Action, Auth, Bearer, BlobRedirect, Format, Image, Kind, Options, Platform, Rule, Script, Step,
};
use ringpull::error::Class;
use ringpull::image::Reference;
use ringpull::limits::{DISCARD_TIME, EXCERPT_TIME, MIN_SPEED, RETRY_PAUSE_FIRST, TUNER_INTERVAL};
use ringpull::pull;
use ringpull::report::{Reporter, Verbosity};
use ringpull::store::Destination;
use ringpull::transport::engine::sim::Weather;
use ringpull::transport::probe::EngineWish;
use ringpull::transport::{Engine, EngineKind};
use tokio::sync::watch;
use tokio::time::Instant;

use super::peers;
use super::run::{check_layout, staged, temporary_directory, within};
use super::scenario::address;

/// What is added to a body so that it can go on for hours, in bytes.
const MORE: usize = 60_000;

/// What a number of places came to.
#[derive(Debug, Default)]
pub struct Trickles {
    places: u64,
    met: u64,
    succeeded: u64,
    /// How those that failed did.
    failed: BTreeMap<&'static str, u64>,
    /// Which answers trickled, by status and kind.
    answers: BTreeMap<String, u64>,
    slowest: Duration,
    /// The nearest that one came to its bound, in per cent.
    nearest: u64,
    /// What undisturbed sending would have taken, all together.
    trickling: Duration,
}

impl Trickles {
    pub fn add(&mut self, place: Trickled) {
        self.places += 1;
        for answer in place.answers {
            self.met += 1;
            *self.answers.entry(answer).or_default() += 1;
        }
        match place.failed {
            None => self.succeeded += 1,
            Some(class) => *self.failed.entry(class.name()).or_default() += 1,
        }
        self.slowest = self.slowest.max(place.took);
        let per_cent = place.took.as_millis() * 100 / place.bound.as_millis().max(1);
        self.nearest = self.nearest.max(per_cent as u64);
        self.trickling += place.trickling;
    }
}

impl fmt::Display for Trickles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Trickles { places, met, succeeded, slowest, nearest, .. } = self;
        let hours = self.trickling.as_secs() / 3600;
        write!(f, "{places} places, {met} answers that trickled and would have for {hours} h; ")?;
        write!(f, "{succeeded} pulls succeeded, {:?} failed; slowest {slowest:?}, ", self.failed)?;
        write!(f, "nearest to its bound {nearest} %; {:?}", self.answers)
    }
}

/// A pull with a place where it trickles.
#[derive(Debug)]
pub struct Trickled {
    answers: Vec<String>,
    failed: Option<Class>,
    took: Duration,
    bound: Duration,
    trickling: Duration,
}

/// How the trickling answer is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// As it was.
    Same,
    /// With so many blanks more, which its length counts.
    Longer,
    /// In chunks, with an extension and a trailer.
    Chunked,
    /// Behind interim responses.
    Interim,
    /// With so many blanks more, until close.
    UntilClose,
}

/// What happens in a run.
#[derive(Debug, Clone)]
struct Place {
    /// Which answer, from 0 on.
    nth: u64,
    /// Whether all after it trickle, too.
    lasting: bool,
    framing: Framing,
    /// Where in the answer, of a million.
    at: u64,
    /// Bytes at once: always fewer than the minimum speed asks for.
    bytes: usize,
    every: Duration,
}

impl Place {
    fn draw(random: &mut Rng, patience: Duration) -> Place {
        const FRAMINGS: [Framing; 5] = [
            Framing::Same,
            Framing::Longer,
            Framing::Chunked,
            Framing::Interim,
            Framing::UntilClose,
        ];
        let bytes = random.usize(1..=3);
        let every = patience.mul_f64(0.05 + 0.85 * random.f64());
        assert!((bytes as f64) < every.as_secs_f64() * MIN_SPEED as f64);
        Place {
            nth: random.u64(..10),
            lasting: random.u8(..3) == 0,
            framing: FRAMINGS[random.usize(..5)],
            // The head is the shorter part, and the more interesting.
            at: if random.bool() { random.u64(..20_000) } else { random.u64(..=1_000_000) },
            bytes,
            every,
        }
    }

    /// The steps of an answer that trickles, and what it would take to send all of it.
    fn trickle(&self, steps: Vec<Step>) -> (Vec<Step>, Duration) {
        let mut all = Vec::new();
        let mut others = Vec::new();
        for step in steps {
            match step {
                Step::Send(bytes) | Step::Drip { bytes, .. } => all.extend_from_slice(&bytes),
                other => others.push(other),
            }
        }
        let mut all = self.reframed(&all).unwrap_or(all);
        let at = (all.len() as u64 * self.at / 1_000_000) as usize;
        let rest = Bytes::from(all.split_off(at));
        let time = self.every * (rest.len() / self.bytes + 1) as u32;
        let drip = Step::Drip { bytes: rest, size: self.bytes, every: self.every };
        (others.into_iter().chain([Step::Send(all.into()), drip]).collect(), time)
    }

    fn reframed(&self, answer: &[u8]) -> Option<Vec<u8>> {
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
        let (head, body) = (std::str::from_utf8(&answer[..end]).ok()?, &answer[end + 4..]);
        let without = |name: &str| -> String {
            let lines = head.split("\r\n").filter(|line| !line.starts_with(name));
            lines.collect::<Vec<_>>().join("\r\n")
        };
        let blanks = vec![b' '; MORE];
        let headed = |head: String, parts: &[&[u8]]| {
            Some([head.as_bytes(), b"\r\n\r\n", &parts.concat()].concat())
        };
        let bare = without("Content-Length");
        match self.framing {
            Framing::Same => None,
            Framing::Longer => {
                let head = format!("{bare}\r\nContent-Length: {}", body.len() + MORE);
                headed(head, &[body, &blanks])
            }
            Framing::Chunked => {
                let head = format!("{bare}\r\nTransfer-Encoding: chunked");
                // All extensions together stay within their bound.
                let count = body.len().div_ceil(10_000).max(1);
                let extension = format!(";x={}\r\n", "x".repeat(10_000 / count));
                let mut chunks = Vec::new();
                for chunk in body.chunks(10_000) {
                    chunks.extend_from_slice(format!("{:x}{extension}", chunk.len()).as_bytes());
                    chunks.extend_from_slice(chunk);
                    chunks.extend_from_slice(b"\r\n");
                }
                let trailer = format!("0\r\nX: {}\r\n\r\n", "x".repeat(5_000));
                headed(head, &[&chunks, trailer.as_bytes()])
            }
            Framing::Interim => {
                let interim = format!("HTTP/1.1 103 \r\nX: {}\r\n\r\n", "x".repeat(5_000));
                Some([interim.repeat(3).as_bytes(), answer].concat())
            }
            Framing::UntilClose => headed(format!("{bare}\r\nConnection: close"), &[body, &blanks]),
        }
    }
}

/// Runs the place with this number. `Err` is a pull that goes on beyond its bound, or another broken
/// promise.
pub fn run(number: u64, shown: bool) -> Result<Trickled, String> {
    fastrand::seed(number);
    let random = &mut Rng::with_seed(number);
    let layers: Vec<Bytes> = (0..random.usize(1..=3))
        .map(|_| {
            let mut bytes = vec![0; random.usize(1..150_000)];
            random.fill(&mut bytes);
            bytes.into()
        })
        .collect();
    let seconds = |random: &mut Rng| Duration::from_secs(random.u64(2..=10));
    let timeouts = Timeouts {
        connect: Duration::from_secs(1),
        head: seconds(random),
        recv: seconds(random),
        document: seconds(random),
        ..Timeouts::default()
    };
    let network = NetworkConfig {
        engine: EngineWish::Only(EngineKind::Sim),
        timeouts,
        retries: random.u32(..=2),
        jobs: random.usize(1..=4),
        connections: Some(random.usize(1..=4)),
        pieces: match random.bool() {
            true => Pieces::default(),
            false => Pieces { first: 40_000, least: 20_000 },
        },
        ..NetworkConfig::default()
    };
    let place = Place::draw(random, timeouts.recv.min(timeouts.head));
    let refusal = |random: &mut Rng| {
        let kind = [Kind::Manifest, Kind::Blob, Kind::Storage, Kind::Token][random.usize(..4)];
        let code = [400, 401, 403, 404, 405, 416, 429, 451, 500, 503][random.usize(..10)];
        let body = vec![b'x'; [0, 100, MORE, 2 * MORE][random.usize(..4)]].into();
        let action = Action::Status { code, fields: Vec::new(), body };
        if random.bool() {
            Rule::on(kind).first(1).then(action)
        } else {
            Rule::on(kind).then(action)
        }
    };
    let refused = random.u8(..3) == 0;
    let faults = if refused { Script::from(refusal(random)) } else { Script::default() };
    let bearer = Bearer { own_port: random.bool(), ..Bearer::default() };
    let options = Options {
        bind: address(),
        auth: random.bool().then_some(Auth::Bearer(bearer)),
        redirect_blobs: random.bool().then_some(BlobRedirect::Storage),
        faults,
        ..Options::default()
    };
    let bound = bound(&network, &layers, place.lasting || refused);
    if shown {
        println!("{place:#?}\n{options:#?}\n{network:#?}\nbound: {bound:?}");
    }
    let harmless = matches!(place.framing, Framing::Same | Framing::Chunked | Framing::Interim);
    let must_succeed = harmless && !place.lasting && !refused && network.retries > 0;

    let image = Image::of_layers(Format::Oci, Platform::LINUX_AMD64, layers);
    let root = temporary_directory();
    let store = root.path().join("store");
    let config = PullConfig {
        reference: Reference::parse(&format!("{}/demo:latest", address())).unwrap(),
        platforms: Platforms::One("linux/amd64".parse().unwrap()),
        destination: Destination::Layout { path: store.clone(), tag: None },
        store: ringpull::store::Options { fsync: false, ..Default::default() },
        network,
    };
    let (result, printed, took, answers, trickling) =
        pulled(number, shown, options, &image, &config, place, bound);
    let wrong = |what: &str| Err(format!("{what} after {took:?}, bound {bound:?}\n{printed}"));
    check_layout(&store, &image, None)?;
    let failed = match result {
        None => return wrong("not done"),
        Some(Ok(())) => None,
        Some(Err(class)) if must_succeed => return wrong(&format!("failed ({})", class.name())),
        Some(Err(class)) => Some(class),
    };
    Ok(Trickled { answers, failed, took, bound, trickling })
}

type Run = (Option<Result<(), Class>>, String, Duration, Vec<String>, Duration);

/// A pull in which the answers trickle as `place` says.
fn pulled(
    number: u64,
    shown: bool,
    options: Options,
    image: &Image,
    config: &PullConfig,
    place: Place,
    bound: Duration,
) -> Run {
    let (registry, runtime, network) = staged(options, image, number, Weather::default());
    if shown {
        network.show(|line| println!("{line}"));
    }
    let engine = Engine::simulated(runtime, network.clone());
    let (reporter, captured) = Reporter::captured(Verbosity::Verbose);
    let count = Cell::new(0);
    let answers = Rc::new(RefCell::new(Vec::new()));
    let trickling = Rc::new(Cell::new(Duration::ZERO));
    let change = {
        let (registry, answers, trickling) =
            (Rc::clone(&registry), Rc::clone(&answers), Rc::clone(&trickling));
        move |steps| {
            let nth = count.replace(count.get() + 1);
            if nth != place.nth && !(place.lasting && nth > place.nth) {
                return steps;
            }
            let (steps, time) = place.trickle(steps);
            if let Some(line) = registry.log().last() {
                let status = line.status.unwrap_or_default();
                answers.borrow_mut().push(format!("{:?} {status}", line.kind));
            }
            trickling.set(trickling.get() + time);
            steps
        }
    };
    let (ended, took) = engine.run(async {
        peers::serve_changed(&network, &registry, Rc::new(change));
        let start = Instant::now();
        let (_stop, stopped) = watch::channel(None);
        let ended = within(bound, pull::pull_on(&engine, config, &reporter, stopped)).await;
        (ended, start.elapsed())
    });
    drop(engine);
    let mut printed = format!("{}{}", captured.stdout(), captured.stderr());
    if let Some(Err(error)) = &ended {
        printed.push_str(&format!("{error}"));
    }
    if shown {
        println!("{printed}\nafter {took:?}");
    }
    let ended = ended.map(|ended| ended.map(|_| ()).map_err(|error| error.class()));
    (ended, printed, took, answers.take(), trickling.get())
}

/// How long a pull may take, by what the README says of deadlines, on a network that takes no time.
fn bound(network: &NetworkConfig, layers: &[Bytes], often: bool) -> Duration {
    let Timeouts { connect, head, recv, document, .. } = network.timeouts;
    // A second more for each 16 KiB; no document here is longer than what is added to it.
    let document = document + Duration::from_secs((2 * MORE as u64 + 10_000) >> 14);
    let hop = connect + recv + head + DISCARD_TIME;
    // A challenge, a token, the registry, a storage.
    let question = hop * 4 + document.max(EXCERPT_TIME);
    // A connection is too slow when it brings next to nothing for as long as one receive may take; the
    // bytes before that came at once, and count for as long. It is looked at now and then.
    let too_slow = recv * 2 + TUNER_INTERVAL * 2;
    let body = document.max(too_slow);
    let pause = RETRY_PAUSE_FIRST * 2_u32.pow(network.retries);
    if !often {
        // One answer trickles, somewhere, and no other takes any time.
        return head.max(body).max(EXCERPT_TIME) + pause + Duration::from_secs(1);
    }
    let objects = layers.len() as u32 + 2;
    let pieces =
        layers.iter().map(|layer| layer.len() as u32 / network.pieces.least.max(1) as u32 + 1);
    // Each attempt asks for the range, then for the whole; at a redirect, once more each.
    let attempts = objects * (network.retries + 1) * 4 + pieces.sum::<u32>() * 4;
    (question + body + pause) * attempts
}
