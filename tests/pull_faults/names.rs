//! Name servers that do not help, and names with several addresses: a test each, on both engines.
//! Files of the resolver are replaced in a name space of the one process.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use ringpull::demo::{Action, BlobRedirect, Image, Kind, Options, Rule, Script, blackhole_at};
use ringpull::limits::RACE_DELAY;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::harness::{Destination, Disk, IMAGE, Scene, in_environment};
use crate::support::process::{Running, SOON, ringpull_under, run};
use crate::support::ringpull::engines;
use crate::support::skip::{Lack, skipped, this_test};
use crate::support::tools::tools_or_skip;

/// Files that stand in `/etc` for one process.
struct Etc {
    directory: TempDir,
    files: Vec<&'static str>,
}

impl Etc {
    fn new(files: &[(&'static str, String)]) -> Etc {
        let directory = TempDir::new().unwrap();
        for (name, content) in files {
            std::fs::write(directory.path().join(name), content).unwrap();
        }
        Etc { directory, files: files.iter().map(|(name, _)| *name).collect() }
    }

    /// `ringpull` with these files, and the deadlines of most rows.
    fn command(&self, arguments: &[&str]) -> Command {
        let script: String = self
            .files
            .iter()
            .map(|name| format!("mount --bind \"$0\"/{name} /etc/{name} && "))
            .chain(["exec \"$@\"".to_owned()])
            .collect();
        let mut unshare = Command::new("unshare");
        unshare.args(["--map-root-user", "--mount", "sh", "-c", &script]);
        unshare.arg(self.directory.path());
        let mut command = ringpull_under(unshare, arguments);
        command.envs(in_environment(&[]).get_envs().filter_map(|(key, value)| Some((key, value?))));
        command
    }

    /// Whether this machine allows it; says so if not.
    fn works(&self) -> bool {
        let there = |name: &&str| Path::new("/etc").join(name).exists();
        let works = tools_or_skip(&["unshare"])
            && self.files.iter().all(there)
            && run(self.command(&["--version"])).code == 0;
        if !works {
            let what = format!("{}: no name spaces, or nothing in /etc to replace", this_test());
            skipped(Lack::Right, &what);
        }
        works
    }

    fn start(&self, engine: &str, name: &str, out: &Destination, flags: &[&str]) -> Running {
        let destination = out.reference();
        let arguments = ["pull", "--engine", engine, name, &destination];
        Running::start(self.command(&[&arguments, flags].concat()))
    }
}

// --- 2: name servers -----------------------------------------------------------------------------

/// What a name server does about each question.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Behaviour {
    Silent,
    /// Answers `SERVFAIL` (RFC 1035 section 4.1.1: response code 2).
    Fails,
    /// Answers `NXDOMAIN` (response code 3).
    KnowsNothing,
    /// Answers that each name is at 127.0.0.1, for no time at all.
    Knows,
}

/// A name server at the only port that a resolver asks, and what makes a process ask it.
struct NameServer {
    etc: Etc,
    /// A message for each question.
    asked: Receiver<()>,
}

impl NameServer {
    /// `None` where there can be none. `host` is for those that run at once: an address each.
    fn start(behaviour: Behaviour, host: u8) -> Option<NameServer> {
        let ip = Ipv4Addr::new(127, 53, 0, host);
        let socket = match UdpSocket::bind((ip, 53)) {
            Ok(socket) => socket,
            Err(error) => {
                let what = format!("{}: no name server can be started: {error}", this_test());
                skipped(Lack::Right, &what);
                return None;
            }
        };
        let (tell, asked) = channel();
        // Ends with the test process: it waits for questions that do not come any more.
        std::thread::spawn(move || {
            let mut message = [0; 512];
            while let Ok((size @ 12.., asker)) = socket.recv_from(&mut message) {
                let code = match behaviour {
                    Behaviour::Silent => None,
                    Behaviour::Fails => Some(2),
                    Behaviour::KnowsNothing => Some(3),
                    Behaviour::Knows => Some(0),
                };
                if let Some(code) = code {
                    // The question as a response, with recursion available.
                    message[2] |= 0x80;
                    message[3] = 0x80 | code;
                    let mut response = message[..size].to_vec();
                    if behaviour == Behaviour::Knows {
                        answer(&mut response);
                    }
                    socket.send_to(&response, asker).unwrap();
                }
                let _ = tell.send(());
            }
        });
        let etc = Etc::new(&[
            ("resolv.conf", format!("nameserver {ip}\noptions timeout:20 attempts:1\n")),
            ("nsswitch.conf", "hosts: files dns\n".to_owned()),
        ]);
        etc.works().then_some(NameServer { etc, asked })
    }
}

/// Appends the address of a name that was asked for; of IPv6 there is none.
fn answer(response: &mut Vec<u8>) {
    const HEADER: usize = 12;
    let name = response[HEADER..].iter().position(|&length| length == 0).unwrap() + 1;
    let question = HEADER + name + 4;
    let asks_for_v4 = response[HEADER + name..question] == [0, 1, 0, 1];
    // No further record of the question's (RFC 1035 section 4.1.1: the counts of answers and others).
    response.truncate(question);
    response[6..HEADER].copy_from_slice(&[0, u8::from(asks_for_v4), 0, 0, 0, 0]);
    if asks_for_v4 {
        // The name is that of the question; class and type are its; time to live 0; four bytes.
        response.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, 1]);
    }
}

#[test]
fn a_name_is_looked_up_once_for_all_connections() {
    let Some(server) = NameServer::start(Behaviour::Knows, 5) else { return };
    let image = Image::generate(5, &[8 << 10; 8]);
    for engine in engines() {
        // Each request takes a connection of its own.
        let faults = Rule::on(Kind::Any).then(Action::NoKeepAlive);
        let (scene, address) = at("127.0.0.1", faults.into(), &image);
        while server.asked.try_recv().is_ok() {}
        let out = Destination::new();
        let name = format!("registry.test:{}/demo", address.port());
        let flags = ["--plain-http", "--retries", "0"];
        server.etc.start(engine, &name, &out, &flags).wait().expect_success();
        out.expect(Disk::Image, &image);
        let connections = scene.registry.as_ref().unwrap().connections_accepted();
        let questions = server.asked.try_iter().count();
        println!("{engine}: {questions} questions for {connections} connections");
        assert!(connections >= 10, "{connections}");
        // One for each family.
        assert!((1..=2).contains(&questions), "{engine}: {questions} questions");
    }
}

#[test]
fn a_silent_name_server_costs_one_deadline() {
    let Some(server) = NameServer::start(Behaviour::Silent, 1) else { return };
    for engine in engines() {
        let out = Destination::new();
        let flags = ["--resolve-timeout", "1s", "--retries", "0"];
        let outcome = server.etc.start(engine, "registry.test/demo", &out, &flags).wait();
        let text = "no answer within 1 s while resolving the name";
        outcome.expect_failure(5, "resolve-timeout", text);
        println!("{engine}: a silent name server: {:?}", outcome.took);
        // Not the resolver's own patience, 20 s here, with which its thread is left behind.
        let allowed = Duration::from_secs(1)..Duration::from_secs(6);
        assert!(allowed.contains(&outcome.took), "{engine}: {:?}", outcome.took);
        out.expect(Disk::Nothing, &IMAGE);
    }
}

#[test]
fn a_name_server_that_fails_is_asked_again() {
    let Some(server) = NameServer::start(Behaviour::Fails, 2) else { return };
    for engine in engines() {
        let out = Destination::new();
        let outcome = server.etc.start(engine, "registry.test/demo", &out, &[]).wait();
        outcome.expect_failure(5, "resolve-timeout", "registry.test cannot be resolved");
        outcome.expect_failure(5, "resolve-timeout", "attempt 2 of 2");
        out.expect(Disk::Nothing, &IMAGE);
    }
}

#[test]
fn a_name_server_that_knows_no_such_name_is_believed() {
    let Some(server) = NameServer::start(Behaviour::KnowsNothing, 3) else { return };
    for engine in engines() {
        let out = Destination::new();
        let outcome = server.etc.start(engine, "registry.test/demo", &out, &[]).wait();
        outcome.expect_failure(5, "resolve", "registry.test cannot be resolved");
        assert!(!outcome.stderr.contains("again in"), "{}", outcome.all);
        out.expect(Disk::Nothing, &IMAGE);
    }
}

#[test]
fn a_signal_ends_the_wait_for_a_name_server() {
    let Some(server) = NameServer::start(Behaviour::Silent, 4) else { return };
    for engine in engines() {
        let out = Destination::new();
        let flags = ["--resolve-timeout", "60s"];
        while server.asked.try_recv().is_ok() {}
        let running = server.etc.start(engine, "registry.test/demo", &out, &flags);
        server.asked.recv_timeout(SOON).expect("it is asked");
        let signalled = Instant::now();
        running.signal(Signal::INT);
        let outcome = running.wait();
        let took = outcome.at - signalled;
        assert!(took < Duration::from_secs(1), "{engine}: {took:?}");
        outcome.expect_failure(130, "interrupted", "interrupted");
    }
}

// --- 91: this machine ----------------------------------------------------------------------------

#[test]
fn a_name_below_localhost_stays_on_this_machine_whatever_a_resolver_says() {
    let etc = Etc::new(&[("hosts", "127.0.0.2 registry.localhost localhost\n".to_owned())]);
    if !etc.works() {
        return;
    }
    for engine in engines() {
        for name in ["registry.localhost", "localhost"] {
            let (_scene, address) = at("127.0.0.1", Script::default(), &IMAGE);
            // Whoever the resolver names, with a port that is told apart by the address alone.
            let elsewhere = TcpListener::bind(("127.0.0.2", address.port())).unwrap();
            elsewhere.set_nonblocking(true).unwrap();
            let out = Destination::new();
            let name = format!("{name}:{}/demo", address.port());
            let outcome = etc.start(engine, &name, &out, &["--retries", "0"]).wait();
            outcome.expect_success();
            out.expect(Disk::Image, &IMAGE);
            assert!(elsewhere.accept().is_err(), "{engine}: {name} was looked for elsewhere");
        }
    }
}

// --- 5: several addresses ------------------------------------------------------------------------

fn two_addresses() -> Etc {
    Etc::new(&[("hosts", "127.0.0.2 two.test\n127.0.0.1 two.test\n".to_owned())])
}

/// A registry at `ip`, in front of which or behind which the resolver names another address.
fn at(ip: &str, faults: Script, image: &Image) -> (Scene, SocketAddr) {
    let bind = format!("{ip}:0").parse().unwrap();
    let scene = Scene::serving(Options { bind, faults, ..Options::default() }, image);
    let address = scene.registry.as_ref().unwrap().address();
    (scene, address)
}

#[test]
fn the_second_address_is_tried_when_the_first_is_dead() {
    let etc = two_addresses();
    if !etc.works() {
        return;
    }
    for engine in engines() {
        // Whichever is tried first, one of the two has nobody behind it.
        for ip in ["127.0.0.1", "127.0.0.2"] {
            let (_scene, address) = at(ip, Script::default(), &IMAGE);
            let out = Destination::new();
            let name = format!("two.test:{}/demo", address.port());
            let flags = ["--plain-http", "--retries", "0"];
            etc.start(engine, &name, &out, &flags).wait().expect_success();
            out.expect(Disk::Image, &IMAGE);
        }
    }
}

/// RFC 8305: the next address starts after a moment, whatever the first one does; and a name is looked
/// up once, not with each connection.
#[test]
fn a_silent_address_costs_a_moment_and_not_a_deadline() {
    let etc = two_addresses();
    if !etc.works() {
        return;
    }
    let image = Image::generate(5, &[8 << 10; 8]);
    for engine in engines() {
        let mut waited = 0;
        // Whichever is tried first, one of the two does not answer.
        for (ip, dead) in [("127.0.0.1", "127.0.0.2"), ("127.0.0.2", "127.0.0.1")] {
            // Each request takes a connection of its own.
            let faults = Rule::on(Kind::Any).then(Action::NoKeepAlive);
            let (scene, address) = at(ip, faults.into(), &image);
            let dead: IpAddr = dead.parse().unwrap();
            let _hole = blackhole_at((dead, address.port()).into()).unwrap();
            let out = Destination::new();
            let name = format!("two.test:{}/demo", address.port());
            let flags = ["--plain-http", "--retries", "0", "--connect-timeout", "60s"];
            let outcome = etc.start(engine, &name, &out, &flags).wait();
            outcome.expect_success();
            out.expect(Disk::Image, &image);
            let connections = scene.registry.as_ref().unwrap().connections_accepted();
            assert!(connections >= 10, "{connections}");
            println!("{engine}: {dead} silent: {:?}, {connections} connections", outcome.took);
            assert!(outcome.took < SOON, "{engine}: {:?}", outcome.took);
            // The moment is waited for by the first connection alone.
            waited += usize::from(outcome.took >= RACE_DELAY);
        }
        assert!(waited >= 1, "{engine}: the silent address was never tried");
    }
}

/// The first address is one of IPv6 that never answers, as on a machine whose IPv6 is broken.
#[test]
fn a_broken_ipv6_costs_a_moment() {
    let etc = Etc::new(&[("hosts", "::1 two.test\n127.0.0.1 two.test\n".to_owned())]);
    if !etc.works() || TcpListener::bind("[::1]:0").is_err() {
        return;
    }
    for engine in engines() {
        let (_scene, address) = at("127.0.0.1", Script::default(), &IMAGE);
        let hole = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), address.port());
        let _hole = blackhole_at(hole).unwrap();
        let out = Destination::new();
        let name = format!("two.test:{}/demo", address.port());
        let flags = ["-v", "--plain-http", "--retries", "0", "--connect-timeout", "60s"];
        let outcome = etc.start(engine, &name, &out, &flags).wait();
        outcome.expect_success();
        out.expect(Disk::Image, &IMAGE);
        assert!(outcome.took < SOON, "{engine}: {:?}", outcome.took);
        println!("{engine}: a broken IPv6: {:?}", outcome.took);
        assert!(outcome.stderr.contains(&format!("at {address}")), "{}", outcome.all);
        assert!(!outcome.stderr.contains(&format!("at {hole}")), "{}", outcome.all);
        let note = format!("{hole} did not answer, and another address did");
        // Told once: all later connections begin with the one that answered.
        assert_eq!(outcome.stderr.matches(&note).count(), 1, "{}", outcome.all);
    }
}

#[test]
fn an_address_that_does_not_answer_is_left_aside_by_the_next_attempt() {
    let etc = two_addresses();
    if !etc.works() {
        return;
    }
    for engine in engines() {
        let mut retries = 0;
        // Whichever is tried first, one of the two accepts connections, and that is all.
        for (ip, silent) in [("127.0.0.1", "127.0.0.2"), ("127.0.0.2", "127.0.0.1")] {
            let (_scene, address) = at(ip, Script::default(), &IMAGE);
            let silent: IpAddr = silent.parse().unwrap();
            let _listener = TcpListener::bind((silent, address.port())).unwrap();
            let out = Destination::new();
            let name = format!("two.test:{}/demo", address.port());
            // One retry, which would be spent on the same address.
            let flags = ["--plain-http", "--recv-timeout", "1500ms", "--retries", "1"];
            let outcome = etc.start(engine, &name, &out, &flags).wait();
            outcome.expect_success();
            out.expect(Disk::Image, &IMAGE);
            assert!(outcome.stderr.contains(" 0 retries") || outcome.stderr.contains(" 1 retry"));
            retries += usize::from(outcome.stderr.contains(" 1 retry"));
        }
        assert!(retries >= 1, "{engine}: the silent address was never tried");
    }
}

#[test]
fn a_storage_that_does_not_answer_costs_a_deadline_for_all_blobs() {
    const DEADLINE: Duration = Duration::from_secs(4);
    for engine in engines() {
        let hole = blackhole_at((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let redirect_blobs = Some(BlobRedirect::To(format!("http://{}", hole.address)));
        let scene = Scene::serving(Options { redirect_blobs, ..Options::default() }, &IMAGE);
        let out = Destination::new();
        let destination = out.reference();
        // One connection for three blobs: they come one after the other.
        let flags = ["--connect-timeout", "4s", "--retries", "1", "--jobs", "3"];
        let arguments = ["pull", "--engine", engine, &scene.reference, &destination];
        let outcome = run(in_environment(&[&arguments[..], &flags].concat()));
        outcome.expect_failure(5, "connect-timeout", "attempt 2 of 2");
        println!("{engine}: a silent storage: {:?}", outcome.took);
        // All fail for the first, and then one for its retry. One by one it would be three.
        let allowed = 2 * DEADLINE..3 * DEADLINE;
        assert!(allowed.contains(&outcome.took), "{engine}: {:?}", outcome.took);
        out.expect(Disk::Nothing, &IMAGE);
    }
}
