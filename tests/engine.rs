//! The contract of the engines: one list of cases, run on each of them.
//!
//! Peers are plain blocking sockets of the standard library, steered by the test itself, so that
//! every case says exactly what the peer did and when. Deadlines are the only times involved.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[path = "support/skip.rs"]
mod skip;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ringpull::demo::blackhole;
use ringpull::limits::{LOW_WATER_HOLD, RACE_DELAY, RACE_EXTRA_MAX};
use ringpull::transport::engine::uring;
use ringpull::transport::race::{self, Lost};
use ringpull::transport::{
    Buffer, Connection, Connector, Deadline, Engine, EngineKind, Error, Fill, Phase, Socket,
};
use skip::{Lack, skipped};

/// Long enough never to pass in a test that passes.
const LONG: Duration = Duration::from_secs(30);
/// Short enough to wait for.
const SHORT: Duration = Duration::from_millis(100);
/// How late an engine may be. `RINGPULL_SLACK_MS` is for machines that are slow by nature, such as
/// emulated ones.
fn slack() -> Duration {
    let named = std::env::var("RINGPULL_SLACK_MS").ok().and_then(|text| text.parse().ok());
    Duration::from_millis(named.unwrap_or(500))
}

/// Runs every case on every engine, each as a test of its own.
macro_rules! contract {
    ($($case:ident),* $(,)?) => {
        mod on_uring { $( #[test] fn $case() { super::run(super::EngineKind::Uring, super::$case); } )* }
        mod on_epoll { $( #[test] fn $case() { super::run(super::EngineKind::Epoll, super::$case); } )* }
    };
}

contract! {
    data_arrives_in_the_buffer_that_was_given,
    what_is_there_is_returned_without_waiting_for_more,
    received_bytes_stand_behind_those_already_there,
    the_end_of_the_stream_is_zero,
    a_reset_is_an_error,
    silence_ends_at_the_deadline_and_costs_no_byte,
    a_passed_deadline_fails_at_once_and_takes_nothing,
    a_send_that_the_peer_does_not_take_ends_at_the_deadline,
    a_large_send_arrives_whole,
    a_refused_connection_is_an_error,
    a_connection_that_nobody_accepts_ends_at_the_deadline,
    a_dropped_receive_takes_the_socket_out_of_use,
    a_dropped_connect_leaves_nothing,
    a_connect_that_is_dropped_before_it_was_submitted_leaves_nothing,
    a_socket_is_refused_in_the_run_of_another_engine,
    the_next_address_starts_after_the_delay_and_the_first_to_accept_wins,
    an_address_that_fails_starts_the_next_one_at_once,
    each_address_has_a_deadline_of_its_own,
    attempts_beside_the_first_are_bounded,
    a_race_that_is_dropped_leaves_nothing,
    a_ring_without_room_for_it_makes_no_second_attempt,
    two_receives_at_once_are_refused,
    receiving_and_sending_at_once_is_fine,
    an_idle_socket_tells_whether_it_is_quiet,
    bytes_that_race_with_the_deadline_all_arrive_once,
    a_receive_waits_for_the_mark,
    the_end_is_not_held_back_by_a_mark,
    bytes_below_the_mark_at_the_deadline_are_progress,
    a_sender_without_room_ends_the_wait_for_the_mark,
    a_thousand_connections_wait_at_once,
    an_engine_that_ends_with_operations_in_flight_leaves_nothing,
    descriptors_and_memory_come_back,
}

fn data_arrives_in_the_buffer_that_was_given(engine: &Engine) {
    engine.run(async {
        let (socket, mut peer) = connected(engine).await;
        peer.write_all(b"hello").unwrap();
        let (count, buffer) = socket.recv(Buffer::new(16), body(LONG)).await;
        assert_eq!((count.unwrap(), buffer.filled()), (5, &b"hello"[..]));
        assert_eq!(buffer.capacity(), 16);
    });
}

fn what_is_there_is_returned_without_waiting_for_more(engine: &Engine) {
    engine.run(async {
        let (socket, mut peer) = connected(engine).await;
        peer.write_all(b"abcdefgh").unwrap();
        let (count, mut buffer) = socket.recv(Buffer::new(3), body(LONG)).await;
        assert_eq!((count.unwrap(), buffer.filled()), (3, &b"abc"[..]));
        buffer.consume(3);
        let (count, buffer) = socket.recv(buffer, body(LONG)).await;
        assert_eq!((count.unwrap(), buffer.filled()), (3, &b"def"[..]));
        let (count, buffer) = socket.recv(Buffer::new(100), body(LONG)).await;
        assert_eq!((count.unwrap(), buffer.filled()), (2, &b"gh"[..]));
    });
}

fn received_bytes_stand_behind_those_already_there(engine: &Engine) {
    engine.run(async {
        let (socket, mut peer) = connected(engine).await;
        let mut buffer = Buffer::new(8);
        buffer.extend(b"__ab");
        buffer.consume(2);
        peer.write_all(b"cdefghij").unwrap();
        let (count, buffer) = socket.recv(buffer, body(LONG)).await;
        assert_eq!((count.unwrap(), buffer.filled()), (4, &b"abcdef"[..]));
    });
}

fn the_end_of_the_stream_is_zero(engine: &Engine) {
    engine.run(async {
        let (socket, mut peer) = connected(engine).await;
        peer.write_all(b"x").unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        let (count, buffer) = socket.recv(Buffer::new(8), body(LONG)).await;
        assert_eq!(count.unwrap(), 1);
        for _ in 0..2 {
            let (count, _) = socket.recv(Buffer::new(8), body(LONG)).await;
            assert_eq!(count.unwrap(), 0);
        }
        drop(buffer);
    });
}

fn a_reset_is_an_error(engine: &Engine) {
    engine.run(async {
        let (socket, peer) = connected(engine).await;
        reset(peer);
        let (result, _) = socket.recv(Buffer::new(8), body(LONG)).await;
        assert!(matches!(result, Err(Error::Io { phase: Phase::Body, .. })), "{result:?}");
    });
}

fn silence_ends_at_the_deadline_and_costs_no_byte(engine: &Engine) {
    engine.run(async {
        let (socket, mut peer) = connected(engine).await;
        for round in 0..3 {
            let start = Instant::now();
            let (result, buffer) = socket.recv(Buffer::new(8), body(SHORT)).await;
            let waited = start.elapsed();
            assert!(matches!(result, Err(Error::Expired { phase: Phase::Body, limit }) if limit == SHORT));
            assert!(waited >= SHORT && waited < SHORT + slack(), "round {round}: {waited:?}");
            assert!(buffer.is_empty());
            // The connection is as good as before.
            peer.write_all(&[b'a' + round]).unwrap();
            let (count, buffer) = socket.recv(buffer, body(LONG)).await;
            assert_eq!((count.unwrap(), buffer.filled()), (1, &[b'a' + round][..]));
        }
    });
}

fn a_passed_deadline_fails_at_once_and_takes_nothing(engine: &Engine) {
    engine.run(async {
        let (socket, mut peer) = connected(engine).await;
        peer.write_all(b"kept").unwrap();
        let (result, buffer) = socket.recv(Buffer::new(8), body(Duration::ZERO)).await;
        assert!(matches!(result, Err(Error::Expired { .. })) && buffer.is_empty());
        let (result, _) = socket.send(Bytes::from_static(b"no"), send(Duration::ZERO)).await;
        assert!(matches!(result, Err(Error::Expired { phase: Phase::Send, .. })));
        let (count, buffer) = socket.recv(buffer, body(LONG)).await;
        assert_eq!((count.unwrap(), buffer.filled()), (4, &b"kept"[..]));
        let address = peer.local_addr().unwrap();
        let result = engine.connector().connect(address, connect(Duration::ZERO)).await;
        assert!(matches!(result, Err(Error::Expired { phase: Phase::Connect, .. })));
    });
}

fn a_send_that_the_peer_does_not_take_ends_at_the_deadline(engine: &Engine) {
    engine.run(async {
        let (socket, mut peer) = connected(engine).await;
        let chunk = Bytes::from((0..=255).cycle().take(1 << 20).collect::<Vec<u8>>());
        let mut sent = 0;
        let start = loop {
            let start = Instant::now();
            let rest = chunk.slice(sent % chunk.len()..);
            match socket.send(rest, send(SHORT)).await.0 {
                Ok(count) => sent += count,
                Err(Error::Expired { phase: Phase::Send, .. }) => break start,
                Err(other) => panic!("{other}"),
            }
        };
        assert!(start.elapsed() >= SHORT && start.elapsed() < SHORT + slack());
        socket.shutdown(Shutdown::Write);
        let mut received = Vec::new();
        peer.read_to_end(&mut received).unwrap();
        assert_eq!(received.len(), sent, "what was reported as sent arrives, and nothing else");
        assert!(received.iter().enumerate().all(|(index, byte)| *byte == (index % 256) as u8));
    });
}

fn a_large_send_arrives_whole(engine: &Engine) {
    engine.run(async {
        let (socket, mut peer) = connected(engine).await;
        let reader = std::thread::spawn(move || {
            let mut received = Vec::new();
            peer.read_to_end(&mut received).unwrap();
            received
        });
        let bytes: Vec<u8> = (0..8_000_000_u32).map(|index| (index % 251) as u8).collect();
        socket.send_all(Bytes::from(bytes.clone()), send(LONG)).await.unwrap();
        drop(socket);
        assert!(reader.join().unwrap() == bytes);
    });
}

fn a_refused_connection_is_an_error(engine: &Engine) {
    engine.run(async {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let result = engine.connector().connect(address, connect(LONG)).await;
        let Err(Error::Io { phase: Phase::Connect, source }) = result else { panic!("{result:?}") };
        assert_eq!(source.kind(), std::io::ErrorKind::ConnectionRefused);
    });
}

fn a_connection_that_nobody_accepts_ends_at_the_deadline(engine: &Engine) {
    engine.run(async {
        let full = blackhole().unwrap();
        let start = Instant::now();
        let result = engine.connector().connect(full.address, connect(SHORT)).await;
        assert!(matches!(result, Err(Error::Expired { phase: Phase::Connect, .. })), "{result:?}");
        assert!(start.elapsed() >= SHORT && start.elapsed() < SHORT + slack());
    });
}

fn a_dropped_receive_takes_the_socket_out_of_use(engine: &Engine) {
    engine.run(async {
        let (socket, mut peer) = connected(engine).await;
        let waiting = socket.recv(Buffer::new(8), body(LONG));
        assert!(tokio::time::timeout(Duration::from_millis(20), waiting).await.is_err());
        // The peer sees the end at once: nobody can tell which bytes the kernel still took.
        assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0);
        assert!(!socket.is_quiet());
        let (result, _) = socket.recv(Buffer::new(8), body(LONG)).await;
        assert!(matches!(result, Err(Error::Broken(_))), "{result:?}");
        let (result, _) = socket.send(Bytes::from_static(b"x"), send(LONG)).await;
        assert!(matches!(result, Err(Error::Broken(_))), "{result:?}");
    });
}

fn a_dropped_connect_leaves_nothing(engine: &Engine) {
    engine.run(async {
        let full = blackhole().unwrap();
        let before = open_descriptors();
        let connector = engine.connector();
        let start = Instant::now();
        let connecting = connector.connect(full.address, connect(LONG));
        assert!(tokio::time::timeout(Duration::from_millis(20), connecting).await.is_err());
        until(|| open_descriptors() <= before).await;
        // Not at the deadline, at which the kernel gives up by itself.
        assert!(start.elapsed() < LONG / 2, "{:?}", start.elapsed());
    });
}

/// Dropped in the moment in which it was queued: the kernel sees the connect after the shutdown.
fn a_connect_that_is_dropped_before_it_was_submitted_leaves_nothing(engine: &Engine) {
    engine.run(async {
        let full = blackhole().unwrap();
        let before = open_descriptors();
        let connector = engine.connector();
        let start = Instant::now();
        for _ in 0..8 {
            let mut connecting = Box::pin(connector.connect(full.address, connect(LONG)));
            poll_once(connecting.as_mut()).await;
            drop(connecting);
        }
        until(|| open_descriptors() <= before).await;
        // Not at the deadline, at which the kernel gives up by itself.
        assert!(start.elapsed() < LONG / 2, "{:?}", start.elapsed());
    });
}

fn a_socket_is_refused_in_the_run_of_another_engine(engine: &Engine) {
    let other = Engine::start(engine.kind(), 4).unwrap();
    let (socket, mut peer) = engine.run(connected(engine));
    peer.write_all(b"kept").unwrap();
    other.run(async {
        let (result, _) = socket.recv(Buffer::new(8), body(SHORT)).await;
        assert!(matches!(result, Err(Error::Broken(_))), "{result:?}");
        let (result, _) = socket.send(Bytes::from_static(b"x"), send(SHORT)).await;
        assert!(matches!(result, Err(Error::Broken(_))), "{result:?}");
        if engine.kind() == EngineKind::Uring {
            let address = peer.local_addr().unwrap();
            let result = engine.connector().connect(address, connect(SHORT)).await;
            assert!(matches!(result, Err(Error::Broken(_))), "{result:?}");
        }
    });
    // At home it is as good as ever.
    engine.run(async {
        let (count, buffer) = socket.recv(Buffer::new(8), body(LONG)).await;
        assert_eq!((count.unwrap(), buffer.filled()), (4, &b"kept"[..]));
    });
}

/// Who lost a race, and whether that was by being overtaken.
async fn raced(
    engine: &Engine,
    addresses: &[SocketAddr],
    limit: Duration,
    places: &race::Places,
) -> (Result<SocketAddr, Error>, Vec<(SocketAddr, bool)>) {
    let mut lost = Vec::new();
    let learn = |address, how: Lost<'_>| lost.push((address, matches!(how, Lost::Overtaken)));
    let won = race::connect(&engine.connector(), addresses, limit, places, learn).await;
    (won.map(|(_, address)| address), lost)
}

fn the_next_address_starts_after_the_delay_and_the_first_to_accept_wins(engine: &Engine) {
    engine.run(async {
        let (silent, dead) = (blackhole().unwrap(), blackhole().unwrap());
        let good = TcpListener::bind("127.0.0.1:0").unwrap();
        let good = (good.local_addr().unwrap(), good);
        let before = open_descriptors();
        let start = Instant::now();
        let addresses = [silent.address, dead.address, good.0];
        let (won, lost) = raced(engine, &addresses, LONG, &race::Places::new()).await;
        let took = start.elapsed();
        assert_eq!(won.unwrap(), good.0);
        assert_eq!(lost, [(silent.address, true), (dead.address, true)]);
        assert!(took >= 2 * RACE_DELAY && took < 2 * RACE_DELAY + slack(), "{took:?}");
        // The losers are cancelled, and closed.
        until(|| open_descriptors() <= before).await;
        assert!(start.elapsed() < LONG / 2, "{:?}", start.elapsed());
    });
}

fn an_address_that_fails_starts_the_next_one_at_once(engine: &Engine) {
    engine.run(async {
        let refuses = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let good = TcpListener::bind("127.0.0.1:0").unwrap();
        let addresses = [refuses(), refuses(), good.local_addr().unwrap()];
        let start = Instant::now();
        let (won, lost) = raced(engine, &addresses, LONG, &race::Places::new()).await;
        assert_eq!(won.unwrap(), addresses[2]);
        assert_eq!(lost, [(addresses[0], false), (addresses[1], false)]);
        assert!(start.elapsed() < 2 * RACE_DELAY + slack(), "{:?}", start.elapsed());
        // Beside one that is silent, too.
        let silent = blackhole().unwrap();
        let addresses = [silent.address, addresses[0], addresses[2]];
        let start = Instant::now();
        let (won, lost) = raced(engine, &addresses, LONG, &race::Places::new()).await;
        assert_eq!(won.unwrap(), addresses[2]);
        assert_eq!(lost, [(addresses[1], false), (addresses[0], true)]);
        assert!(start.elapsed() < 2 * RACE_DELAY + slack(), "{:?}", start.elapsed());
    });
}

fn each_address_has_a_deadline_of_its_own(engine: &Engine) {
    engine.run(async {
        let holes = [blackhole().unwrap(), blackhole().unwrap()];
        let addresses = [holes[0].address, holes[1].address];
        let limit = 2 * RACE_DELAY;
        let start = Instant::now();
        let (won, lost) = raced(engine, &addresses, limit, &race::Places::new()).await;
        let took = start.elapsed();
        let Err(Error::Address { address, source }) = won else { panic!("{won:?}") };
        assert_eq!(address, addresses[1], "the last one to fail");
        assert!(matches!(*source, Error::Expired { phase: Phase::Connect, .. }), "{source:?}");
        assert_eq!(lost, addresses.map(|address| (address, false)));
        let both = RACE_DELAY + limit;
        assert!(took >= both && took < both + slack(), "{took:?}");
    });
}

fn attempts_beside_the_first_are_bounded(engine: &Engine) {
    const RACES: usize = 3 * RACE_EXTRA_MAX;
    engine.run(async {
        let holes: Vec<_> = (0..3).map(|_| blackhole().unwrap()).collect();
        let addresses: Vec<SocketAddr> = holes.iter().map(|hole| hole.address).collect();
        let places = Rc::new(race::Places::new());
        let before = open_descriptors();
        let most = Rc::new(std::cell::Cell::new(0));
        let races = async {
            let one = || raced(engine, &addresses, LONG, &places);
            let mut all: Vec<_> = (0..RACES).map(|_| Box::pin(one())).collect();
            for race in &mut all {
                poll_once(race.as_mut()).await;
            }
            // All that they are allowed to, they have begun after this.
            tokio::time::sleep(RACE_DELAY + SHORT).await;
            for race in &mut all {
                poll_once(race.as_mut()).await;
            }
            most.set(open_descriptors().saturating_sub(before));
            drop(all);
        };
        races.await;
        assert_eq!(most.get(), RACES + RACE_EXTRA_MAX);
        until(|| open_descriptors() <= before).await;
    });
}

fn a_race_that_is_dropped_leaves_nothing(engine: &Engine) {
    engine.run(async {
        let holes: Vec<_> = (0..3).map(|_| blackhole().unwrap()).collect();
        let addresses: Vec<SocketAddr> = holes.iter().map(|hole| hole.address).collect();
        let before = open_descriptors();
        let places = race::Places::new();
        let start = Instant::now();
        let race = raced(engine, &addresses, LONG, &places);
        assert!(tokio::time::timeout(2 * RACE_DELAY + SHORT, race).await.is_err());
        until(|| open_descriptors() <= before).await;
        assert!(start.elapsed() < LONG / 2, "{:?}", start.elapsed());
        // Its places are free again.
        let good = TcpListener::bind("127.0.0.1:0").unwrap();
        let addresses = [addresses[0], good.local_addr().unwrap()];
        assert_eq!(raced(engine, &addresses, LONG, &places).await.0.unwrap(), addresses[1]);
    });
}

/// The sockets of a small ring are given to connections, not to second attempts.
fn a_ring_without_room_for_it_makes_no_second_attempt(outer: &Engine) {
    const SOCKETS: usize = 4;
    if outer.kind() != EngineKind::Uring {
        return;
    }
    let engine = Engine::start(EngineKind::Uring, SOCKETS).unwrap();
    assert_eq!(engine.sockets(), Some(SOCKETS));
    engine.run(async {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut held = Vec::new();
        for _ in 0..SOCKETS - 2 {
            held.push(connected_to(&engine, &listener).await);
        }
        let silent = blackhole().unwrap();
        let addresses = [silent.address, listener.local_addr().unwrap()];
        let places = race::Places::new();
        // One socket for the first attempt, and the last one for nobody.
        let limit = 3 * RACE_DELAY;
        let start = Instant::now();
        let (won, lost) = raced(&engine, &addresses, limit, &places).await;
        assert_eq!((won.unwrap(), &lost[..]), (addresses[1], &[(addresses[0], false)][..]));
        assert!(start.elapsed() >= limit, "{:?}", start.elapsed());
        // With one more it is tried at once.
        held.pop();
        let start = Instant::now();
        let (won, _) = raced(&engine, &addresses, LONG, &places).await;
        assert_eq!(won.unwrap(), addresses[1]);
        assert!(start.elapsed() < LONG / 2, "{:?}", start.elapsed());
    });
}

/// Polls a future that has something to wait for, once.
async fn poll_once<F: Future>(mut future: std::pin::Pin<&mut F>) {
    std::future::poll_fn(|context| {
        assert!(future.as_mut().poll(context).is_pending());
        std::task::Poll::Ready(())
    })
    .await;
}

fn two_receives_at_once_are_refused(engine: &Engine) {
    engine.run(async {
        let (socket, mut peer) = connected(engine).await;
        let socket = Rc::new(socket);
        let first = tokio::task::spawn_local({
            let socket = Rc::clone(&socket);
            async move { socket.recv(Buffer::new(8), body(LONG)).await }
        });
        tokio::task::yield_now().await;
        let (result, _) = socket.recv(Buffer::new(8), body(LONG)).await;
        assert!(matches!(result, Err(Error::Broken(_))), "{result:?}");
        // The first is not disturbed.
        peer.write_all(b"ok").unwrap();
        let (count, buffer) = first.await.unwrap();
        assert_eq!((count.unwrap(), buffer.filled()), (2, &b"ok"[..]));
    });
}

fn receiving_and_sending_at_once_is_fine(engine: &Engine) {
    engine.run(async {
        let (socket, mut peer) = connected(engine).await;
        let socket = Rc::new(socket);
        let receive = tokio::task::spawn_local({
            let socket = Rc::clone(&socket);
            async move { socket.recv(Buffer::new(8), body(LONG)).await }
        });
        tokio::task::yield_now().await;
        socket.send_all(Bytes::from_static(b"ping"), send(LONG)).await.unwrap();
        let mut ping = [0; 4];
        peer.read_exact(&mut ping).unwrap();
        peer.write_all(b"pong").unwrap();
        assert_eq!(receive.await.unwrap().1.filled(), b"pong");
    });
}

fn an_idle_socket_tells_whether_it_is_quiet(engine: &Engine) {
    engine.run(async {
        let (socket, mut peer) = connected(engine).await;
        assert!(socket.is_quiet());
        peer.write_all(b"unasked").unwrap();
        until(|| !socket.is_quiet()).await;
        let (count, _) = socket.recv(Buffer::new(16), body(LONG)).await;
        assert_eq!(count.unwrap(), 7, "asking took nothing");
        assert!(socket.is_quiet());
        drop(peer);
        until(|| !socket.is_quiet()).await;
    });
}

/// The peer sends numbered words at moments around the deadline of a receive: some win, some lose,
/// some tie. `RINGPULL_RACE_ROUNDS` makes it a campaign.
fn bytes_that_race_with_the_deadline_all_arrive_once(engine: &Engine) {
    let rounds = race_rounds();
    // The kernel's timer is exact; the runtime's has ticks of a millisecond, and rounds up.
    let latest = match engine {
        Engine::Uring(_) => Duration::from_micros(150),
        Engine::Epoll(_) | Engine::Sim(_) => Duration::from_micros(1_500),
    };
    let earliest = Duration::from_micros(100);
    engine.run(async {
        let (socket, mut peer) = connected(engine).await;
        let (deadlines, told) = mpsc::channel::<Instant>();
        let sender = std::thread::spawn(move || {
            let mut random = fastrand::Rng::with_seed(1);
            for (number, deadline) in (0_u32..).zip(told) {
                let offset = random.u64(0..(earliest + latest).as_micros() as u64);
                while Instant::now() + earliest < deadline + Duration::from_micros(offset) {
                    std::hint::spin_loop();
                }
                peer.write_all(&number.to_be_bytes()).unwrap();
            }
        });
        let mut buffer = Buffer::new(64);
        let mut expired: u32 = 0;
        for round in 0..rounds {
            let deadline = body(Duration::from_micros(300));
            deadlines.send(deadline.at).unwrap();
            let mut next = deadline;
            // Whoever won, the word arrives whole, once, and in its turn.
            while buffer.filled().len() < 4 {
                let (result, returned) = socket.recv(buffer, next).await;
                buffer = returned;
                match result {
                    Ok(count) => assert!(count > 0),
                    Err(Error::Expired { .. }) => expired += 1,
                    Err(other) => panic!("{other}"),
                }
                next = body(LONG);
            }
            assert_eq!(buffer.filled(), round.to_be_bytes(), "lost, doubled or reordered");
            buffer.consume(4);
        }
        drop(deadlines);
        let (result, buffer) = socket.recv(buffer, body(LONG)).await;
        assert_eq!((result.unwrap(), buffer.is_empty()), (0, true));
        sender.join().unwrap();
        let raced = uring_counters(&engine.connector()).map_or(0, |counters| counters.raced);
        println!("{rounds} rounds, {expired} expired, {raced} times data beside ETIME, none lost");
        assert!(expired > rounds / 20 && expired < rounds - rounds / 20, "{expired} of {rounds}");
    });
}

fn race_rounds() -> u32 {
    let named = std::env::var("RINGPULL_RACE_ROUNDS").ok().and_then(|text| text.parse().ok());
    named.unwrap_or(4_000)
}

fn a_receive_waits_for_the_mark(engine: &Engine) {
    engine.run(async {
        let (socket, mut peer) = connected(engine).await;
        socket.set_low_water(1_000).unwrap();
        // Both engines may look once before they mind the mark; not when nothing is there.
        let receive = socket.recv(Buffer::new(4_096), body(LONG));
        let sending = async {
            for _ in 0..10 {
                peer.write_all(&[7; 100]).unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let ((count, buffer), ()) = tokio::join!(receive, sending);
        let waited_for_it = !is_before(5, 19);
        assert_eq!(count.unwrap(), if waited_for_it { 1_000 } else { buffer.filled().len() });
    });
}

fn the_end_is_not_held_back_by_a_mark(engine: &Engine) {
    engine.run(async {
        let (socket, mut peer) = connected(engine).await;
        socket.set_low_water(1_000).unwrap();
        peer.write_all(b"rest").unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        let (count, buffer) = socket.recv(Buffer::new(4_096), body(LONG)).await;
        assert_eq!((count.unwrap(), buffer.filled()), (4, &b"rest"[..]));
        let (count, _) = socket.recv(buffer, body(LONG)).await;
        assert_eq!(count.unwrap(), 0);
    });
}

fn bytes_below_the_mark_at_the_deadline_are_progress(engine: &Engine) {
    engine.run(async {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = [listener.local_addr().unwrap()];
        let mut connection =
            Connection::open(&engine.connector(), &address, LONG, 4_096).await.unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        connection.set_low_water(1_000);
        peer.write_all(b"some").unwrap();
        // They are held back for a moment, not until the deadline.
        let start = Instant::now();
        assert_eq!(connection.fill(body(LONG)).await.unwrap(), Fill::Bytes);
        assert!(start.elapsed() < LOW_WATER_HOLD + slack());
        assert_eq!(connection.received(), b"some");
        assert!(connection.low_water() == 1 || is_before(5, 19), "the mark goes");
        // Without any byte it is a stall as ever.
        connection.set_low_water(1_000);
        let start = Instant::now();
        let result = connection.fill(body(SHORT)).await;
        assert!(matches!(result, Err(Error::Expired { .. })), "{result:?}");
        assert!(start.elapsed() >= SHORT && start.elapsed() < SHORT + slack());
    });
}

/// A window as large as the mark is all but full below it, for a sender of whole segments: the kernel
/// then calls the socket readable (since 5.12).
fn a_sender_without_room_ends_the_wait_for_the_mark(engine: &Engine) {
    const MARK: usize = 64 << 10;
    const SIZE: usize = 8 << 20;
    if is_before(5, 12) {
        let what = "a_sender_without_room_ends_the_wait_for_the_mark: Linux before 5.12";
        return skipped(Lack::OldKernel, what);
    }
    engine.run(async {
        for _ in 0..8 {
            let (socket, mut peer) = connected(engine).await;
            let sender = std::thread::spawn(move || peer.write_all(&vec![7; SIZE]));
            socket.set_low_water(MARK).unwrap();
            let mut buffer = Buffer::new(MARK);
            let mut left = SIZE;
            while left > 0 {
                if left < MARK {
                    socket.set_low_water(1).unwrap();
                }
                let received;
                (received, buffer) = socket.recv(buffer, body(LONG)).await;
                left -= received.unwrap();
                buffer.consume(MARK);
            }
            sender.join().unwrap().unwrap();
        }
    });
}

/// Whether the kernel is older than this version.
fn is_before(major: u32, minor: u32) -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < (major, minor)
}

/// Every connection of the ring queues its pair in one turn of the runtime: the fullest that the
/// submission queue can get.
fn a_thousand_connections_wait_at_once(engine: &Engine) {
    engine.run(async {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sockets = Vec::new();
        let mut peers = Vec::new();
        for _ in 0..1_000 {
            let (socket, peer) = connected_to(engine, &listener).await;
            sockets.push(socket);
            peers.push(peer);
        }
        let limit = Duration::from_secs(2);
        let waiting: Vec<_> = sockets
            .into_iter()
            .map(|socket| {
                tokio::task::spawn_local(async move {
                    let deadline = body(limit);
                    let (received, buffer) = tokio::join!(
                        socket.recv(Buffer::new(64), deadline),
                        socket.send_all(Bytes::from_static(b"ready"), send(LONG)),
                    )
                    .0;
                    (received, buffer, Instant::now().saturating_duration_since(deadline.at))
                })
            })
            .collect();
        let answering = tokio::task::spawn_blocking(move || {
            for (index, peer) in peers.iter_mut().enumerate() {
                peer.read_exact(&mut [0; 5]).unwrap();
                if index % 2 == 0 {
                    peer.write_all(format!("to {index}").as_bytes()).unwrap();
                }
            }
            peers
        });
        for (index, waiting) in waiting.into_iter().enumerate() {
            let (received, buffer, late) = waiting.await.unwrap();
            if index % 2 == 0 {
                assert!(received.is_ok(), "{received:?}");
                assert_eq!(buffer.filled(), format!("to {index}").as_bytes());
            } else {
                assert!(matches!(received, Err(Error::Expired { .. })), "{received:?}");
                assert!(late < slack(), "{late:?} late");
            }
        }
        drop(answering.await.unwrap());
        if let Some(counters) = uring_counters(&engine.connector()) {
            println!("{counters:?}");
            assert_eq!((counters.split, counters.overdue), (0, 0));
            assert!(counters.pairs >= 3_000 && counters.expired == 500);
        }
    });
}

fn an_engine_that_ends_with_operations_in_flight_leaves_nothing(outer: &Engine) {
    let kind = outer.kind();
    let before = open_descriptors();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let engine = Engine::start(kind, 16).unwrap();
    let mut peers = engine.run(async {
        let mut peers = Vec::new();
        for index in 0..16 {
            let (socket, peer) = connected_to(&engine, &listener).await;
            let wait = async move { socket.recv(Buffer::new(1 << 16), body(LONG)).await };
            if index % 2 == 0 {
                // Still a task of the runtime when the engine ends.
                tokio::task::spawn_local(wait);
            } else {
                // Dropped already, and perhaps still in flight.
                let _ = tokio::time::timeout(Duration::from_millis(1), wait).await;
            }
            peers.push(peer);
        }
        tokio::task::yield_now().await;
        peers
    });
    let start = Instant::now();
    drop(engine);
    assert!(start.elapsed() < Duration::from_secs(1), "nothing to wait for");
    for peer in &mut peers {
        peer.set_read_timeout(Some(LONG)).unwrap();
        assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0);
    }
    drop((peers, listener));
    assert_eq!(open_descriptors(), before);
}

fn descriptors_and_memory_come_back(engine: &Engine) {
    const SIZE: usize = 256 << 10;
    engine.run(async {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let before = open_descriptors();
        let mut resident = Vec::new();
        for round in 0..12 {
            let mut held = Vec::new();
            for index in 0..64 {
                let (socket, mut peer) = connected_to(engine, &listener).await;
                if index % 2 == 0 {
                    peer.write_all(&[round; 1000]).unwrap();
                }
                let mut buffer = Buffer::new(SIZE);
                buffer.spare().fill(1);
                let wait = socket.recv(buffer, body(LONG));
                let _ = tokio::time::timeout(Duration::from_millis(1), wait).await;
                held.push((socket, peer));
            }
            drop(held);
            until(|| open_descriptors() <= before).await;
            resident.push(resident_bytes());
        }
        // 64 buffers of 256 KiB a round: kept, they would show as 16 MiB each time.
        let grown = resident[11].saturating_sub(resident[3]);
        assert!(grown < 8 << 20, "resident memory over the rounds: {resident:?}");
    });
}

// --- the stage -----------------------------------------------------------------------------------

/// A case on a fresh engine; the test fails if it does not end.
fn run(kind: EngineKind, case: fn(&Engine)) {
    // Cases that count descriptors must be alone in the process's table, and the self-test has
    // descriptors too.
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if kind == EngineKind::Uring
        && let Ok(uring::Ability::Missing(why)) = uring::self_test()
    {
        return skipped(Lack::Uring, &format!("the contract of the engines on io_uring: {why}"));
    }
    let (done, ended) = mpsc::channel::<()>();
    let case = std::thread::spawn(move || {
        let engine = Engine::start(kind, 1_024).unwrap();
        case(&engine);
        if let Some(counters) = engine.run(async { uring_counters(&engine.connector()) }) {
            assert_eq!((counters.split, counters.overdue), (0, 0), "{counters:?}");
        }
        drop(engine);
        drop(done);
    });
    // A round of the race takes less than a millisecond, unless the machine is busy with others.
    let patience = Duration::from_secs(120) + Duration::from_millis(5) * race_rounds();
    let hung = ended.recv_timeout(patience) == Err(mpsc::RecvTimeoutError::Timeout);
    assert!(!hung, "the case hangs");
    let result = case.join();
    drop(alone);
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

fn body(limit: Duration) -> Deadline {
    Deadline::after(limit, Phase::Body)
}

fn send(limit: Duration) -> Deadline {
    Deadline::after(limit, Phase::Send)
}

fn connect(limit: Duration) -> Deadline {
    Deadline::after(limit, Phase::Connect)
}

async fn connected(engine: &Engine) -> (Socket, TcpStream) {
    connected_to(engine, &TcpListener::bind("127.0.0.1:0").unwrap()).await
}

async fn connected_to(engine: &Engine, listener: &TcpListener) -> (Socket, TcpStream) {
    let address = listener.local_addr().unwrap();
    let socket = engine.connector().connect(address, connect(LONG)).await.unwrap();
    let (peer, _) = listener.accept().unwrap();
    (socket, peer)
}

/// Closes a connection so that the other side sees a reset.
fn reset(peer: TcpStream) {
    let peer = socket2::Socket::from(peer);
    peer.set_linger(Some(Duration::ZERO)).unwrap();
}

/// Lets the runtime work until `condition` holds.
async fn until(condition: impl Fn() -> bool) {
    let end = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < end, "the condition never came true");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn resident_bytes() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

fn uring_counters(connector: &Connector) -> Option<uring::Counters> {
    match connector {
        Connector::Uring(connector) => Some(connector.counters()),
        Connector::Epoll | Connector::Sim(_) => None,
    }
}
