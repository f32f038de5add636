//! The contract of the engines, on sim: what `tests/engine.rs` holds the others to, where the virtual
//! clock lets the moments be exact.

use std::future::Future;
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use ringpull::transport::engine::sim::{Fault, Network, Peer, Weather};
use ringpull::transport::{Buffer, Deadline, Engine, Error, Phase, Socket, clock};
use tokio::time::{sleep, timeout};

const LONG: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(100);
/// One way through the network.
const LATENCY: Duration = Duration::from_millis(10);

/// A connection on a network like this, and a case about it.
fn check<F: Future<Output = ()>>(
    seed: u64,
    weather: Weather,
    case: impl FnOnce(Network, Socket, Peer) -> F,
) {
    on_network(seed, weather, async |engine, network| {
        let listener = network.listen(address());
        let socket = engine.connector().connect(address(), connect(LONG)).await.unwrap();
        let peer = listener.accept().await;
        case(network, socket, peer).await;
    });
}

fn on_network(seed: u64, weather: Weather, case: impl AsyncFnOnce(&Engine, Network)) {
    let builder = &mut tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().unwrap();
    let network = {
        let _inside = runtime.enter();
        Network::new(seed, weather)
    };
    let engine = Engine::simulated(runtime, network.clone());
    engine.run(case(&engine, network));
}

fn address() -> SocketAddr {
    "192.0.2.1:80".parse().unwrap()
}

fn body(limit: Duration) -> Deadline {
    Deadline::after(limit, Phase::Body)
}

fn connect(limit: Duration) -> Deadline {
    Deadline::after(limit, Phase::Connect)
}

fn slow() -> Weather {
    Weather { latency: LATENCY..=LATENCY, ..Weather::default() }
}

/// Every connection breaks, so soon.
fn breaking(at: u64) -> Weather {
    Weather { breaks: 1_000, breaks_at: at..=at, faults: 1, ..slow() }
}

/// The first seed in which the one connection breaks in this way.
fn seed_of(fault: Fault, at: u64) -> u64 {
    let meets = |seed: &u64| {
        let mut met = Vec::new();
        on_network(*seed, breaking(at), async |engine, network| {
            let _listener = network.listen(address());
            let _ = engine.connector().connect(address(), connect(SHORT)).await;
            met = network.faults();
        });
        met == [fault]
    };
    (0..1_000).find(meets).unwrap()
}

const HELLO: Bytes = Bytes::from_static(b"hello");

#[test]
fn data_arrives_behind_what_is_there_already_and_after_its_latency() {
    check(0, slow(), async |_, socket, peer| {
        let start = clock::now();
        peer.write_all(HELLO).await.unwrap();
        let mut buffer = Buffer::new(6);
        buffer.extend(b"__");
        let (count, buffer) = socket.recv(buffer, body(LONG)).await;
        assert_eq!((count.unwrap(), buffer.filled()), (4, &b"__hell"[..]));
        assert_eq!(clock::now() - start, LATENCY);
        let (count, buffer) = socket.recv(Buffer::new(9), body(LONG)).await;
        assert_eq!((count.unwrap(), buffer.filled()), (1, &b"o"[..]));
    });
}

#[test]
fn the_end_of_the_stream_is_zero_and_comes_last() {
    check(0, slow(), async |_, socket, peer| {
        peer.write_all(HELLO).await.unwrap();
        peer.finish();
        let (count, _) = socket.recv(Buffer::new(9), body(LONG)).await;
        assert_eq!(count.unwrap(), 5);
        for _ in 0..2 {
            let (count, _) = socket.recv(Buffer::new(9), body(LONG)).await;
            assert_eq!(count.unwrap(), 0);
        }
        assert!(!socket.is_quiet());
    });
}

#[test]
fn a_reset_is_an_error() {
    check(0, slow(), async |_, socket, peer| {
        peer.reset();
        let (result, _) = socket.recv(Buffer::new(9), body(LONG)).await;
        assert!(matches!(result, Err(Error::Io { phase: Phase::Body, .. })), "{result:?}");
        let (result, _) = socket.send(HELLO, Deadline::after(LONG, Phase::Send)).await;
        assert!(matches!(result, Err(Error::Io { phase: Phase::Send, .. })), "{result:?}");
    });
}

#[test]
fn silence_ends_at_the_deadline_and_costs_no_byte() {
    check(0, slow(), async |_, socket, peer| {
        for _ in 0..3 {
            let start = clock::now();
            let (result, buffer) = socket.recv(Buffer::new(9), body(SHORT)).await;
            assert!(matches!(result, Err(Error::Expired { limit: SHORT, .. })), "{result:?}");
            assert_eq!((clock::now() - start, buffer.is_empty()), (SHORT, true));
            peer.write_all(HELLO).await.unwrap();
            let (count, buffer) = socket.recv(buffer, body(LONG)).await;
            assert_eq!((count.unwrap(), buffer.filled()), (5, &HELLO[..]));
        }
    });
}

#[test]
fn a_passed_deadline_fails_at_once_and_takes_nothing() {
    check(0, slow(), async |_, socket, peer| {
        peer.write_all(HELLO).await.unwrap();
        let deadline = body(SHORT);
        sleep(SHORT).await;
        let (result, _) = socket.recv(Buffer::new(9), deadline).await;
        assert!(matches!(result, Err(Error::Expired { .. })), "{result:?}");
        let (count, _) = socket.recv(Buffer::new(9), body(LONG)).await;
        assert_eq!(count.unwrap(), 5);
    });
}

#[test]
fn in_the_moment_of_the_deadline_both_can_come_first_and_no_byte_is_lost() {
    let mut expired = 0;
    for seed in 0..64 {
        check(seed, slow(), async |_, socket, peer| {
            sleep(SHORT - LATENCY).await;
            let deadline = body(LATENCY);
            peer.write_all(HELLO).await.unwrap();
            let (result, buffer) = socket.recv(Buffer::new(9), deadline).await;
            assert!(clock::now() <= deadline.at);
            let (count, buffer) = if let Err(error) = result {
                expired += 1;
                assert!(matches!(error, Error::Expired { .. }) && buffer.is_empty());
                socket.recv(buffer, body(LONG)).await
            } else {
                (result, buffer)
            };
            assert_eq!((count.unwrap(), buffer.filled()), (5, &HELLO[..]));
        });
    }
    assert!((16..=48).contains(&expired), "{expired} of 64 came too late");
}

#[test]
fn a_receive_waits_for_the_mark_but_not_past_the_deadline_or_the_end() {
    check(0, slow(), async |_, socket, peer| {
        socket.set_low_water(8).unwrap();
        peer.write_all(HELLO).await.unwrap();
        let (result, buffer) = socket.recv(Buffer::new(99), body(SHORT)).await;
        assert!(matches!(result, Err(Error::Expired { .. })) && buffer.is_empty());
        assert!(socket.has_bytes());
        peer.write_all(HELLO).await.unwrap();
        let (count, buffer) = socket.recv(buffer, body(LONG)).await;
        assert_eq!((count.unwrap(), buffer.filled()), (10, &b"hellohello"[..]));
        peer.write_all(HELLO).await.unwrap();
        peer.finish();
        let (count, _) = socket.recv(Buffer::new(99), body(LONG)).await;
        assert_eq!(count.unwrap(), 5);
    });
}

#[test]
fn a_send_that_the_peer_does_not_take_ends_at_the_deadline() {
    let weather = Weather { window: 1_000..=1_000, ..slow() };
    check(0, weather, async |_, socket, peer| {
        let many = Bytes::from(vec![7; 1_500]);
        let start = clock::now();
        let result = socket.send_all(many, Deadline::after(SHORT, Phase::Send)).await;
        assert!(matches!(result, Err(Error::Expired { phase: Phase::Send, .. })), "{result:?}");
        assert_eq!(clock::now() - start, SHORT);
        let mut buffer = [0; 2_000];
        assert_eq!(peer.read(&mut buffer).await.unwrap(), 1_000);
        let (count, _) = socket.send(HELLO, Deadline::after(SHORT, Phase::Send)).await;
        assert_eq!(count.unwrap(), 5);
    });
}

#[test]
fn where_nobody_listens_a_connection_is_refused() {
    on_network(0, slow(), async |engine, _| {
        let result = engine.connector().connect(address(), connect(LONG)).await;
        assert!(matches!(result, Err(Error::Io { phase: Phase::Connect, .. })), "{result:?}");
    });
}

#[test]
fn a_connection_that_nobody_answers_ends_at_the_deadline() {
    let seed = seed_of(Fault::Silent, 0);
    on_network(seed, breaking(0), async |engine, network| {
        let _listener = network.listen(address());
        let start = clock::now();
        let result = engine.connector().connect(address(), connect(SHORT)).await;
        assert!(matches!(result, Err(Error::Expired { limit: SHORT, .. })), "{result:?}");
        assert_eq!(clock::now() - start, SHORT);
    });
}

#[test]
fn a_stall_leaves_what_came_before_it() {
    check(seed_of(Fault::Stall, 3), breaking(3), async |_, socket, peer| {
        peer.write_all(HELLO).await.unwrap();
        peer.finish();
        let (count, buffer) = socket.recv(Buffer::new(9), body(LONG)).await;
        assert_eq!((count.unwrap(), buffer.filled()), (3, &b"hel"[..]));
        let (result, _) = socket.recv(buffer, body(LONG)).await;
        assert!(matches!(result, Err(Error::Expired { .. })), "{result:?}");
    });
}

#[test]
fn a_dropped_receive_takes_the_socket_out_of_use() {
    check(0, slow(), async |_, socket, peer| {
        let waiting = socket.recv(Buffer::new(9), body(LONG));
        assert!(timeout(SHORT, waiting).await.is_err());
        let (result, _) = socket.recv(Buffer::new(9), body(LONG)).await;
        assert!(matches!(result, Err(Error::Broken(_))), "{result:?}");
        assert!(!socket.is_quiet());
        peer.closed().await;
        assert!(peer.write_all(HELLO).await.is_err());
    });
}

#[test]
fn a_shutdown_brings_back_what_is_under_way() {
    check(0, slow(), async |_, socket, peer| {
        let waiting = socket.recv(Buffer::new(9), body(LONG));
        let shutting = async {
            sleep(SHORT).await;
            socket.shutdown(Shutdown::Both);
        };
        let start = clock::now();
        let ((count, _), ()) = tokio::join!(waiting, shutting);
        assert_eq!((count.unwrap(), clock::now() - start), (0, SHORT));
        assert_eq!(peer.read(&mut [0; 9]).await.unwrap(), 0);
    });
}

#[test]
fn an_idle_socket_tells_whether_it_is_quiet() {
    check(0, slow(), async |_, socket, peer| {
        assert!(socket.is_quiet() && !socket.has_bytes());
        peer.write_all(HELLO).await.unwrap();
        sleep(LATENCY).await;
        assert!(!socket.is_quiet() && socket.has_bytes());
        let (count, _) = socket.recv(Buffer::new(9), body(LONG)).await;
        assert_eq!(count.unwrap(), 5);
        assert!(socket.is_quiet());
        drop(peer);
        sleep(LATENCY).await;
        assert!(!socket.is_quiet());
    });
}
