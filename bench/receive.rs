//! Receives from a peer that sends without end, and says what that cost: the program behind
//! `bench/uring-vs-epoll`.
//!
//! ```text
//! receive serve [--tls FILE]                prints its address; serves until its stdin ends
//! receive run ADDRESS --engine uring …      receives, and prints one line of JSON
//! ```
//!
//! No HTTP and no pull: only the engine under `transport`, on one thread, as one worker of a pull
//! would use it. So buffer sizes can be tried that no option of ringpull offers, and an engine beside
//! the same runtime without any deadline.
#![allow(clippy::expect_used, clippy::panic, reason = "a bench may give up")]
#![allow(clippy::print_stdout, reason = "its line of JSON is what it is for")]

#[path = "support/tls.rs"]
mod tls;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::{Args, Parser, ValueEnum};
use ringpull::image::{Algorithm, Hasher};
use ringpull::limits::{CONNECT_TIMEOUT, RECV_BUFFER_SIZE, RECV_TIMEOUT};
use ringpull::transport::{Buffer, Connector, Deadline, Engine, EngineKind, Phase, Socket};
use rustix::time::{ClockId, clock_gettime};
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256 as SUITE;
use rustls::{ServerConfig, ServerConnection};
use serde_json::json;

/// Bytes that the server hands to the kernel at once.
const SEND_SIZE: usize = 256 << 10;

#[derive(Parser)]
enum Command {
    /// Send zeros to whoever connects, until they close
    Serve {
        /// Speak TLS 1.3, and put the certificate into this file
        #[arg(long)]
        tls: Option<PathBuf>,
    },
    /// Receive
    Run(Options),
}

#[derive(Args)]
struct Options {
    /// Where a server is
    address: SocketAddr,
    #[arg(long, value_enum, default_value_t = EngineName::Uring)]
    engine: EngineName,
    /// Bytes to receive in all; with TLS, of plaintext
    #[arg(long, default_value_t = 1 << 30)]
    bytes: u64,
    /// Connections at once, all on one thread
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Size of the buffer of each connection, in bytes
    #[arg(long, default_value_t = RECV_BUFFER_SIZE)]
    buffer: usize,
    /// Bytes that a receive waits for (SO_RCVLOWAT), as a pull sets them
    #[arg(long, default_value_t = 1, conflicts_with = "no_timeout")]
    low_water: usize,
    /// Receive without a deadline, by the engine's runtime alone
    #[arg(long)]
    no_timeout: bool,
    /// The server's certificate, if it speaks TLS
    #[arg(long)]
    tls: Option<PathBuf>,
    /// Compute SHA-256 of what each connection brings
    #[arg(long)]
    hash: bool,
    /// Write what each connection brings to a new file in this directory
    #[arg(long)]
    write: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum EngineName {
    Uring,
    Epoll,
}

fn main() {
    match Command::parse() {
        Command::Serve { tls } => serve(tls.as_deref()),
        Command::Run(options) => run(&options),
    }
}

// --- the receiver --------------------------------------------------------------------------------

fn run(options: &Options) {
    let kind = match options.engine {
        EngineName::Uring => EngineKind::Uring,
        EngineName::Epoll => EngineKind::Epoll,
    };
    let engine = Engine::start(kind, options.connections).expect("the engine starts");
    let (receives, before, after) = engine.run(receive(options, &engine.connector()));
    let (user, system) = after.processor_since(&before);
    let line = json!({
        "engine": kind.to_string(),
        "connections": options.connections,
        "buffer": options.buffer,
        "low_water": options.low_water,
        "timeout": !options.no_timeout,
        "tls": options.tls.is_some(),
        "hash": options.hash,
        "write": options.write.is_some(),
        "bytes": options.bytes,
        "receives": receives,
        "seconds": after.wall.duration_since(before.wall).as_secs_f64(),
        "user": user,
        "system": system,
    });
    println!("{line}");
}

/// How many receives it took, and the meter before and after them.
async fn receive(options: &Options, connector: &Connector) -> (u64, Meter, Meter) {
    let mut peers = Vec::new();
    for number in 0..options.connections {
        let peer = Peer::connect(options, connector).await;
        peers.push((peer, Sink::new(options, number)));
    }
    let share = options.bytes.div_ceil(options.connections as u64);
    let before = Meter::read();
    let tasks = peers.into_iter().map(|(mut peer, mut sink)| {
        tokio::task::spawn_local(async move {
            let mut receives = 0;
            while sink.size < share {
                peer.receive(&mut sink).await;
                receives += 1;
            }
            sink.finish();
            receives
        })
    });
    let mut receives = 0;
    for task in tasks.collect::<Vec<_>>() {
        receives += task.await.expect("all bytes");
    }
    (receives, before, Meter::read())
}

/// One connection.
struct Peer {
    stream: Stream,
    tls: Option<tls::Client>,
    /// What the records of one receive held, in one piece, as `transport::connection` keeps it.
    plaintext: Buffer,
}

impl Peer {
    /// Connects, and makes the TLS handshake if there is one to make.
    async fn connect(options: &Options, connector: &Connector) -> Peer {
        let mut stream = Stream::connect(options, connector).await;
        let Some(certificate) = &options.tls else {
            stream.set_low_water(options.low_water);
            return Peer { stream, tls: None, plaintext: Buffer::new(0) };
        };
        let certificate = fs::read(certificate).expect("the server's certificate");
        let mut tls = tls::Client::new(SUITE, &certificate.into());
        while !tls.is_ready {
            stream.send(std::mem::take(&mut tls.outgoing)).await;
            stream.receive().await;
            let used = tls.decrypt(stream.filled(), |_| panic!("data within the handshake"));
            stream.consume(used);
        }
        stream.send(std::mem::take(&mut tls.outgoing)).await;
        stream.set_low_water(options.low_water);
        Peer { stream, tls: Some(tls), plaintext: Buffer::new(options.buffer) }
    }

    async fn receive(&mut self, sink: &mut Sink) {
        self.stream.receive().await;
        let filled = self.stream.filled();
        let used = match &mut self.tls {
            None => {
                sink.take(filled);
                filled.len()
            }
            Some(tls) => {
                let plaintext = &mut self.plaintext;
                let used = tls.decrypt(filled, |record| plaintext.extend(record));
                sink.take(plaintext.filled());
                plaintext.consume(plaintext.filled().len());
                used
            }
        };
        self.stream.consume(used);
    }
}

/// A socket, and what it has received.
enum Stream {
    /// The library's, each receive with its deadline.
    Deadlines { socket: Socket, buffer: Buffer },
    /// tokio-uring's own read.
    Ring { stream: tokio_uring::net::TcpStream, bytes: Vec<u8> },
    /// Tokio's own readiness.
    Readiness { stream: tokio::net::TcpStream, buffer: Buffer },
}

impl Stream {
    async fn connect(options: &Options, connector: &Connector) -> Stream {
        let buffer = Buffer::new(options.buffer);
        let address = options.address;
        let refused = "the server accepts";
        match (options.no_timeout, options.engine) {
            (false, _) => {
                let deadline = Deadline::after(CONNECT_TIMEOUT, Phase::Connect);
                let socket = connector.connect(address, deadline).await.expect(refused);
                Stream::Deadlines { socket, buffer }
            }
            (true, EngineName::Uring) => {
                let stream = tokio_uring::net::TcpStream::connect(address).await.expect(refused);
                Stream::Ring { stream, bytes: Vec::with_capacity(options.buffer) }
            }
            (true, EngineName::Epoll) => {
                let stream = tokio::net::TcpStream::connect(address).await.expect(refused);
                Stream::Readiness { stream, buffer }
            }
        }
    }

    /// Receives behind what is there already.
    async fn receive(&mut self) {
        let count = match self {
            Stream::Deadlines { socket, buffer } => {
                make_room(buffer);
                let moved = std::mem::replace(buffer, Buffer::new(0));
                let deadline = Deadline::after(RECV_TIMEOUT, Phase::Body);
                let (count, moved) = socket.recv(moved, deadline).await;
                *buffer = moved;
                count.expect("the server sends")
            }
            Stream::Ring { stream, bytes } => {
                use tokio_uring::buf::BoundedBuf;
                let filled = bytes.len();
                // What is left of a record may fill a small buffer.
                bytes.reserve(bytes.capacity() / 2);
                let (count, moved) = stream.read(std::mem::take(bytes).slice(filled..)).await;
                *bytes = moved.into_inner();
                count.expect("the server sends")
            }
            Stream::Readiness { stream, buffer } => {
                make_room(buffer);
                let count = loop {
                    match stream.try_read(buffer.spare()) {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            stream.readable().await.expect("a socket");
                        }
                        other => break other.expect("the server sends"),
                    }
                };
                buffer.advance(count);
                count
            }
        };
        assert!(count > 0, "the server has ended the stream");
    }

    /// Of the library's sockets: the others have no way to wait for more than one byte.
    fn set_low_water(&mut self, bytes: usize) {
        if let (Stream::Deadlines { socket, .. }, 2..) = (self, bytes) {
            socket.set_low_water(bytes).expect("a mark");
        }
    }

    async fn send(&mut self, bytes: Vec<u8>) {
        match self {
            Stream::Deadlines { socket, .. } => {
                let deadline = Deadline::after(RECV_TIMEOUT, Phase::Send);
                socket.send_all(Bytes::from(bytes), deadline).await.expect("the server receives");
            }
            Stream::Ring { stream, .. } => {
                stream.write_all(bytes).await.0.expect("the server receives");
            }
            Stream::Readiness { stream, .. } => {
                // A handshake fits into any socket's buffer.
                stream.writable().await.expect("a socket");
                let count = stream.try_write(&bytes).expect("the server receives");
                assert_eq!(count, bytes.len());
            }
        }
    }

    fn filled(&mut self) -> &mut [u8] {
        match self {
            Stream::Ring { bytes, .. } => bytes,
            Stream::Deadlines { buffer, .. } | Stream::Readiness { buffer, .. } => {
                buffer.filled_mut()
            }
        }
    }

    fn consume(&mut self, count: usize) {
        match self {
            Stream::Ring { bytes, .. } => drop(bytes.drain(..count)),
            Stream::Deadlines { buffer, .. } | Stream::Readiness { buffer, .. } => {
                buffer.consume(count);
            }
        }
    }
}

/// Half of the buffer, so that the rest of a TLS record at its end does not make the next receive a
/// small one.
fn make_room(buffer: &mut Buffer) {
    buffer.reserve(buffer.capacity() / 2);
}

/// Where the bytes of a connection go.
struct Sink {
    size: u64,
    hasher: Option<Hasher>,
    file: Option<File>,
}

impl Sink {
    fn new(options: &Options, number: usize) -> Sink {
        let create = |directory: &PathBuf| {
            File::create(directory.join(number.to_string())).expect("a directory to write in")
        };
        Sink {
            size: 0,
            hasher: options.hash.then(|| Algorithm::Sha256.hasher()),
            file: options.write.as_ref().map(create),
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
        if let Some(file) = &self.file {
            file.write_all_at(bytes, self.size).expect("space on the disk");
        }
        self.size += bytes.len() as u64;
    }

    fn finish(&mut self) {
        std::hint::black_box(self.hasher.take().map(Hasher::finish));
    }
}

/// What time and processor have been used until now.
struct Meter {
    wall: Instant,
    /// Processor time of all threads, in seconds; the kernel counts it exactly.
    processor: f64,
    /// Of that, in user and in system mode, in ticks of 10 ms.
    ticks: (f64, f64),
}

impl Meter {
    fn read() -> Meter {
        let processor = clock_gettime(ClockId::ProcessCPUTime);
        let nanoseconds = Duration::new(
            processor.tv_sec.try_into().expect("a time of use"),
            processor.tv_nsec.try_into().expect("less than a second"),
        );
        let stat = fs::read_to_string("/proc/self/stat").expect("/proc");
        // proc_pid_stat(5): the 14th and 15th, counted from behind the name, which may hold spaces.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
        let ticks = |index: usize| fields[index - 3].parse().expect("a number of ticks");
        Meter {
            wall: Instant::now(),
            processor: nanoseconds.as_secs_f64(),
            ticks: (ticks(14), ticks(15)),
        }
    }

    /// Seconds in user and in system mode: exact in sum, and shared as the ticks are.
    fn processor_since(&self, before: &Meter) -> (f64, f64) {
        let sum = self.processor - before.processor;
        let (user, system) = (self.ticks.0 - before.ticks.0, self.ticks.1 - before.ticks.1);
        // Too short to have a tick: in the system, where a receiver is.
        let of_user = if user + system > 0.0 { user / (user + system) } else { 0.0 };
        (sum * of_user, sum * (1.0 - of_user))
    }
}

// --- the server ----------------------------------------------------------------------------------

/// One thread for each connection, and zeros without end for each.
fn serve(tls: Option<&Path>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let config = tls.map(|path| {
        let identity = tls::Identity::generate();
        fs::write(path, &identity.certificate).expect("a file for the certificate");
        identity.server(SUITE)
    });
    println!("{}", listener.local_addr().expect("an address"));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let config = config.clone();
            thread::spawn(move || {
                // It ends when the receiver has had enough, and closes.
                let _ = stream.and_then(|stream| send(stream, config));
            });
        }
    });
    // Whoever started us holds the other end, so that we cannot outlive them.
    let _ = io::stdin().read_to_end(&mut Vec::new());
}

fn send(mut stream: std::net::TcpStream, config: Option<Arc<ServerConfig>>) -> io::Result<()> {
    let zeros = vec![0; SEND_SIZE];
    let Some(config) = config else {
        loop {
            stream.write_all(&zeros)?;
        }
    };
    let mut session = ServerConnection::new(config).map_err(io::Error::other)?;
    session.set_buffer_limit(None);
    session.complete_io(&mut stream)?;
    loop {
        session.writer().write_all(&zeros)?;
        session.complete_io(&mut stream)?;
    }
}
