//! How fast the parts are that every byte of a pull passes through: head, framing, digest, TLS.
//!
//! `cargo bench --bench decode`, or with a part of a name behind it: `… -- chunked`. All of them run
//! on one thread and in memory, so that a change shows before a network hides it. No part may be
//! slower than the network it is for: at 100 Gb/s a byte has 0.08 ns, which nothing but the framing
//! of a body of known length can meet on one core.
#![allow(missing_docs, reason = "criterion's macros make public items")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a bench may give up")]

#[path = "support/tls.rs"]
mod tls;

use std::hint::black_box;
use std::io::Write;
use std::ops::Range;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{
    BatchSize, BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};
use ringpull::http::{Event, Exchange, Method, ResponseHead};
use ringpull::image::{Algorithm, Digest};
use ringpull::limits::RECV_BUFFER_SIZE;
use rustls::crypto::aws_lc_rs::cipher_suite::{
    TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
};
use rustls::{ServerConnection, SupportedCipherSuite};

/// Payload of each body that is decoded, in bytes.
const BODY_SIZE: usize = 4 << 20;

/// What nginx answers to a ranged request for a blob.
const SHORT_HEAD: &[u8] = b"HTTP/1.1 206 Partial Content\r\n\
    Server: nginx\r\n\
    Date: Sat, 01 Nov 2025 12:00:00 GMT\r\n\
    Content-Type: application/octet-stream\r\n\
    Content-Length: 8388608\r\n\
    Last-Modified: Sat, 01 Nov 2025 11:00:00 GMT\r\n\
    Connection: keep-alive\r\n\
    ETag: \"6905e8f0-c0000000\"\r\n\
    Content-Range: bytes 0-8388607/3221225472\r\n\
    \r\n";

criterion_group! {
    name = benches;
    // Short: these loops do the same thing each time, and a noisy machine is not helped by patience.
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1200))
        .sample_size(20)
        .without_plots();
    targets = heads, bodies, digests, records
}
criterion_main!(benches);

// --- response heads ------------------------------------------------------------------------------

fn heads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("head");
    for (name, head) in [("nginx", SHORT_HEAD.to_vec()), ("cdn", long_head())] {
        group.throughput(Throughput::Bytes(head.len() as u64));
        group.bench_function(BenchmarkId::new("whole", name), |bencher| {
            bencher.iter(|| ResponseHead::parse(black_box(&head)).unwrap());
        });
        // As it comes from a slow peer: what has been scanned is not scanned again.
        group.bench_function(BenchmarkId::new("by 64 bytes", name), |bencher| {
            bencher.iter(|| {
                let mut exchange = Exchange::new(Method::Get);
                head.chunks(64).for_each(|piece| {
                    black_box(exchange.recv(piece).unwrap());
                });
            });
        });
    }
    group.finish();
}

/// What a large CDN in front of an object store answers: 26 fields, about 2 KiB.
fn long_head() -> Vec<u8> {
    let mut head = b"HTTP/1.1 200 OK\r\nContent-Length: 104857600\r\n".to_vec();
    for number in 0..25 {
        head.extend(format!("X-Amz-Meta-Field-{number}: {}\r\n", "v".repeat(50)).bytes());
    }
    head.extend(b"\r\n");
    head
}

// --- bodies --------------------------------------------------------------------------------------

fn bodies(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("body");
    group.throughput(Throughput::Bytes(BODY_SIZE as u64));
    let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY_SIZE}\r\n\r\n").into_bytes();
    answer.resize(answer.len() + BODY_SIZE, 0x5a);
    body(&mut group, BenchmarkId::from_parameter("length"), &answer);
    for chunk_size in [1 << 10, 4 << 10, 16 << 10, 64 << 10, 1 << 20] {
        let id = BenchmarkId::new("chunked", format!("{} KiB", chunk_size >> 10));
        body(&mut group, id, &chunked(chunk_size));
    }
    group.finish();
}

/// Decodes an answer that comes by full receive buffers.
fn body(group: &mut BenchmarkGroup<'_, WallTime>, id: BenchmarkId, answer: &[u8]) {
    group.bench_function(id, |bencher| {
        bencher.iter(|| {
            let mut exchange = Exchange::new(Method::Get);
            let pieces = black_box(answer).chunks(RECV_BUFFER_SIZE);
            let size: usize = pieces.map(|piece| payload(&mut exchange, piece)).sum();
            assert_eq!(size, BODY_SIZE);
        });
    });
}

/// How many bytes of the payload `input` brings.
fn payload(exchange: &mut Exchange, mut input: &[u8]) -> usize {
    let mut size = 0;
    loop {
        let (used, event) = exchange.recv(input).unwrap();
        input = &input[used..];
        match event {
            Event::Body(Range { start, end }) => size += end - start,
            Event::NeedMore | Event::Done(_) => return size,
            Event::Head(_) | Event::Interim { .. } => {}
        }
    }
}

fn chunked(chunk_size: usize) -> Vec<u8> {
    let mut answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..BODY_SIZE / chunk_size {
        answer.extend(format!("{chunk_size:x}\r\n").bytes());
        answer.resize(answer.len() + chunk_size, 0x5a);
        answer.extend(b"\r\n");
    }
    answer.extend(b"0\r\n\r\n");
    answer
}

// --- digests -------------------------------------------------------------------------------------

fn digests(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sha256");
    let content = vec![0x5a; BODY_SIZE];
    group.throughput(Throughput::Bytes(BODY_SIZE as u64));
    // By blocks, because that is how they come: what does a small one cost?
    for block_size in [1 << 10, 16 << 10, 256 << 10, 4 << 20] {
        let id = BenchmarkId::from_parameter(format!("{} KiB", block_size >> 10));
        group.bench_function(id, |bencher| {
            bencher.iter(|| {
                let mut hasher = Algorithm::Sha256.hasher();
                black_box(&content).chunks(block_size).for_each(|block| hasher.update(block));
                hasher.finish()
            });
        });
    }
    group.throughput(Throughput::Bytes(2 << 10));
    group.bench_function("a manifest of 2 KiB", |bencher| {
        bencher.iter(|| Digest::of(Algorithm::Sha256, black_box(&content[..2 << 10])));
    });
    group.finish();
}

// --- TLS -----------------------------------------------------------------------------------------

/// The suites of TLS 1.3.
const SUITES: [SupportedCipherSuite; 3] =
    [TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256];

/// Plaintext of each batch of records, in bytes.
const BATCH_SIZE: usize = 1 << 20;

/// Decrypts records in place, as `transport` does it. One session decrypts nothing twice, so each
/// measurement takes what the server has just made for it.
fn records(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tls");
    group.throughput(Throughput::Bytes(BATCH_SIZE as u64));
    let identity = tls::Identity::generate();
    for suite in SUITES {
        let (mut client, mut server) = connected(&identity, suite);
        for record_size in [1 << 10, 16 << 10] {
            let id = format!("{:?}, records of {} KiB", suite.suite(), record_size >> 10);
            group.bench_function(id, |bencher| {
                bencher.iter_batched_ref(
                    || encrypted(&mut server, record_size),
                    |ciphertext| {
                        let mut size = 0;
                        let used = client.decrypt(ciphertext, |payload| size += payload.len());
                        assert_eq!((used, size), (ciphertext.len(), BATCH_SIZE));
                    },
                    // Records are decrypted in the order in which they were made.
                    BatchSize::PerIteration,
                );
            });
        }
    }
    group.finish();
}

/// A client and a server after their handshake.
fn connected(
    identity: &tls::Identity,
    suite: SupportedCipherSuite,
) -> (tls::Client, ServerConnection) {
    let mut client = tls::Client::new(suite, &identity.certificate);
    let mut server = ServerConnection::new(identity.server(suite)).unwrap();
    while !client.is_ready || server.is_handshaking() {
        let outgoing = std::mem::take(&mut client.outgoing);
        let mut left = outgoing.as_slice();
        while !left.is_empty() {
            server.read_tls(&mut left).unwrap();
            server.process_new_packets().unwrap();
        }
        let mut answer = sent(&mut server);
        assert_eq!(client.decrypt(&mut answer, |_| {}), answer.len());
    }
    // Session tickets, so that they are in nobody's measurement.
    let mut tickets = sent(&mut server);
    client.decrypt(&mut tickets, |_| {});
    (client, server)
}

fn encrypted(server: &mut ServerConnection, record_size: usize) -> Vec<u8> {
    server.set_buffer_limit(None);
    for _ in 0..BATCH_SIZE / record_size {
        server.writer().write_all(&vec![0x5a; record_size]).unwrap();
    }
    sent(server)
}

fn sent(server: &mut ServerConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while server.wants_write() {
        server.write_tls(&mut bytes).unwrap();
    }
    bytes
}
