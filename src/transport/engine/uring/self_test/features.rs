//! Every feature of io_uring that matters to us, each tried on a ring of its own.
//!
//! A version says little (distributions carry features back, and containers take them away), so
//! each row of [`FEATURES`] has a trial that uses the feature and looks at what came of it. No
//! trial waits for anything but a kernel that breaks a promise, and then half a second.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;

use io_uring::{IoUring, Probe, cqueue, opcode, types};
use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, Type};

use super::super::patiently;
use super::request::{Bench, Completion, DATA_SIZE, GROUP, Request};
use super::{Operation, ring, told};

/// A feature, and how it is tried.
pub struct Feature {
    /// Its name in JSON. Never changes.
    pub key: &'static str,
    /// What it gives, for somebody who does not know io_uring; and the kernel's name of it.
    pub what: &'static str,
    /// Whether ringpull uses it today.
    pub used: bool,
    trial: fn(&[Operation]) -> Result<(), Refusal>,
}

/// What came of a trial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It works.
    Yes,
    /// It does not, for this reason.
    No(String),
    /// It could not be tried, for this reason.
    NotTried(String),
}

/// Every feature, in the order of the probe's report.
pub const FEATURES: &[Feature] = &[
    used("setup", "set up a ring, the queue that a program and the kernel share", set_up),
    used("enter", "hand an operation to the kernel", enter),
    used("reap", "get its result back", reap),
    used("recv", "receive from a connection (RECV)", recv),
    used("send", "send on a connection (SEND)", send),
    used("connect", "open a connection (CONNECT)", connect),
    used("link_timeout", "a receive is ended by its deadline (LINK_TIMEOUT)", recv_expires),
    used("link_timeout_data", "a receive with a deadline gets its data in time", recv_in_time),
    used("connect_timeout", "a connect is ended by its deadline", connect_expires),
    used("coop_taskrun", "results without interruptions (COOP_TASKRUN)", coop_taskrun),
    known("async_cancel", "take one operation back (ASYNC_CANCEL)", async_cancel),
    known("async_cancel_fd", "take all operations of a connection back", async_cancel_fd),
    known("cqe_skip", "no result for what went well (CQE_SKIP)", cqe_skip),
    known("ext_arg", "wait for results for a limited time (EXT_ARG)", ext_arg),
    known("nodrop", "no result is lost when they pile up (NODROP)", nodrop),
    known("single_issuer", "a ring for one thread alone (SINGLE_ISSUER)", single_issuer),
    known("defer_taskrun", "results are prepared when asked for (DEFER_TASKRUN)", defer_taskrun),
    known("registered_buffers", "memory that the kernel knows beforehand", registered_buffers),
    known("buffer_rings", "the kernel picks a buffer when data arrives", buffer_rings),
    known("incremental_buffers", "one large buffer, filled bit by bit", incremental_buffers),
    known("multishot_recv", "one request for many receives", multishot_recv),
    known("bundle_recv", "one receive into many buffers", bundle_recv),
    known("send_zc", "send without copying (SEND_ZC)", send_zc),
    known("recv_zc", "receive without copying (RECV_ZC)", recv_zc),
];

/// Tries every feature. Rings of what ringpull uses refuse the operations of `denied`.
pub fn try_all(denied: &[Operation]) -> Vec<(&'static Feature, Answer)> {
    let no_ring = set_up(denied).is_err();
    let answer = |feature: &Feature| match no_ring && feature.key != "setup" {
        true => Answer::NotTried("there is no ring".into()),
        false => (feature.trial)(denied).into(),
    };
    FEATURES.iter().map(|feature| (feature, answer(feature))).collect()
}

const fn used(
    key: &'static str,
    what: &'static str,
    trial: fn(&[Operation]) -> Result<(), Refusal>,
) -> Feature {
    Feature { key, what, used: true, trial }
}

const fn known(
    key: &'static str,
    what: &'static str,
    trial: fn(&[Operation]) -> Result<(), Refusal>,
) -> Feature {
    Feature { key, what, used: false, trial }
}

/// Why a trial did not succeed.
enum Refusal {
    No(String),
    NotTried(String),
}

impl From<Result<(), Refusal>> for Answer {
    fn from(tried: Result<(), Refusal>) -> Answer {
        match tried {
            Ok(()) => Answer::Yes,
            Err(Refusal::No(why)) => Answer::No(why),
            Err(Refusal::NotTried(why)) => Answer::NotTried(why),
        }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Refusal {
        Refusal::No(error.to_string())
    }
}

type Tried = Result<(), Refusal>;

// --- what ringpull uses --------------------------------------------------------------------------

fn set_up(denied: &[Operation]) -> Tried {
    ring::open(denied).map(drop).map_err(|error| match super::setup_failed(error) {
        Ok(why) => Refusal::No(why),
        Err(error) => error.into(),
    })
}

fn enter(denied: &[Operation]) -> Tried {
    Ok(bench(denied)?.submit(&[Request::new(opcode::Nop::CODE)])?)
}

fn reap(denied: &[Operation]) -> Tried {
    let mut bench = bench(denied)?;
    bench.submit(&[Request::new(opcode::Nop::CODE)]).map_err(not_entered)?;
    expect(&bench.reap(1)?, 0, 0)
}

fn recv(denied: &[Operation]) -> Tried {
    receives(&mut bench(denied)?)
}

fn send(denied: &[Operation]) -> Tried {
    let mut bench = bench(denied)?;
    let (ours, _theirs) = UnixStream::pair()?;
    let send = bench.with_data(Request::on(opcode::Send::CODE, &ours), 1);
    bench.submit(&[send])?;
    expect(&bench.reap(1)?, 0, 1)
}

fn connect(denied: &[Operation]) -> Tried {
    let mut bench = bench(denied)?;
    // Nobody listens at this name of the abstract namespace: refused, by the right function.
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    let address = SockAddr::unix("\0ringpull: nobody listens here")?;
    let connect = bench.with_address(Request::on(opcode::Connect::CODE, &socket), address);
    bench.submit(&[connect])?;
    expect_error(&bench.reap(1)?, 0, &[Errno::CONNREFUSED])
}

fn recv_expires(denied: &[Operation]) -> Tried {
    expires(&mut bench(denied)?)
}

fn recv_in_time(denied: &[Operation]) -> Tried {
    let mut bench = bench(denied)?;
    let (ours, mut theirs) = UnixStream::pair()?;
    theirs.write_all(b"x")?;
    // The data is there, so even a deadline long passed comes second: bytes win.
    let recv = bench.with_data(Request::on(opcode::Recv::CODE, &ours), 1).flag(LINK).named(1);
    bench.submit(&[recv, bench.expired_timeout().named(2)])?;
    let completions = bench.reap(2)?;
    expect(&completions, 1, 1)?;
    match result_of(&completions, 2) {
        Some(result) if [Errno::INVAL, Errno::ACCESS].iter().any(|errno| is(result, *errno)) => {
            Err(Refusal::No(told(result)))
        }
        Some(_) => Ok(()),
        None => Err(Refusal::No("the timeout never completed".into())),
    }
}

fn connect_expires(denied: &[Operation]) -> Tried {
    let mut bench = bench(denied)?;
    // A listener whose queue is full answers no SYN: the connect waits until somebody ends it.
    let listener = tcp()?;
    let no_loopback = |error| Refusal::NotTried(format!("loopback is down ({error})"));
    listener.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).map_err(no_loopback)?;
    listener.listen(0)?;
    let address = listener.local_addr()?;
    let mut queued = Vec::new();
    for _ in 0..4 {
        let waiting = tcp()?;
        waiting.set_nonblocking(true)?;
        match waiting.connect(&address) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NETUNREACH) => {
                return Err(no_loopback(error));
            }
            _ => queued.push(waiting),
        }
    }
    let socket = tcp()?;
    let connect = Request::on(opcode::Connect::CODE, &socket).flag(LINK).named(1);
    let connect = bench.with_address(connect, address);
    bench.submit(&[connect, bench.expired_timeout().named(2)])?;
    let completions = bench.reap(2)?;
    expect_error(&completions, 1, &[Errno::CANCELED, Errno::INTR])?;
    expect_error(&completions, 2, &[Errno::TIME])
}

fn coop_taskrun(_: &[Operation]) -> Tried {
    let ring = open(IoUring::builder().setup_coop_taskrun())?;
    expires(&mut Bench::new(ring))
}

// --- what it could use ---------------------------------------------------------------------------

fn async_cancel(_: &[Operation]) -> Tried {
    let mut bench = bench(&[])?;
    let (ours, _theirs) = UnixStream::pair()?;
    let recv = bench.with_data(Request::on(opcode::Recv::CODE, &ours), 1).named(1);
    let cancel = Request::new(opcode::AsyncCancel::CODE).cancelling(1).named(2);
    bench.submit(&[recv, cancel])?;
    let completions = bench.reap(2)?;
    expect(&completions, 2, 0)?;
    expect_error(&completions, 1, &[Errno::CANCELED, Errno::INTR])
}

fn async_cancel_fd(_: &[Operation]) -> Tried {
    let mut bench = bench(&[])?;
    let (ours, _theirs) = UnixStream::pair()?;
    let recv = bench.with_data(Request::on(opcode::Recv::CODE, &ours), 1);
    let mut cancel = Request::on(opcode::AsyncCancel::CODE, &ours).named(2);
    cancel.operation_flags = CANCEL_ALL | CANCEL_FD;
    bench.submit(&[recv.named(1), recv.named(1), cancel])?;
    let cancelled = result_of(&bench.reap(1)?, 2);
    match cancelled {
        Some(result) if result < 0 => Err(Refusal::No(told(result))),
        _ => Ok(()),
    }
}

fn cqe_skip(_: &[Operation]) -> Tried {
    let mut bench = bench(&[])?;
    let nop = Request::new(opcode::Nop::CODE);
    bench.submit(&[nop.flag(CQE_SKIP_SUCCESS).named(1), nop.named(2)])?;
    let completions = bench.reap(1)?;
    match result_of(&completions, 1) {
        Some(result) => Err(Refusal::No(told(result))),
        None => expect(&completions, 2, 0),
    }
}

fn ext_arg(_: &[Operation]) -> Tried {
    let bench = bench(&[])?;
    let limit = types::Timespec::new().nsec(1_000);
    let arguments = types::SubmitArgs::new().timespec(&limit);
    match bench.ring().submitter().submit_with_args(1, &arguments) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::TIME) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => Err(Refusal::No("the wait ended without a result".into())),
    }
}

fn nodrop(_: &[Operation]) -> Tried {
    let mut bench = bench(&[])?;
    // Half as many again as the completion queue has room for.
    let rounds = bench.ring().params().cq_entries() * 3 / 2 / ring::ENTRIES;
    let nops = [Request::new(opcode::Nop::CODE); ring::ENTRIES as usize];
    for _ in 0..rounds {
        bench.submit(&nops)?;
    }
    let all = nops.len() * rounds as usize;
    match bench.reap(all)?.len() {
        count if count == all => Ok(()),
        count => Err(Refusal::No(format!("{count} of {all} results came"))),
    }
}

fn single_issuer(_: &[Operation]) -> Tried {
    let ring = open(IoUring::builder().setup_single_issuer())?;
    receives(&mut Bench::new(ring))
}

fn defer_taskrun(_: &[Operation]) -> Tried {
    let ring = open(IoUring::builder().setup_single_issuer().setup_defer_taskrun())?;
    expires(&mut Bench::new(ring))
}

fn registered_buffers(_: &[Operation]) -> Tried {
    let mut bench = bench(&[])?;
    let (ours, mut theirs) = UnixStream::pair()?;
    theirs.write_all(b"x")?;
    bench.register_data()?;
    let read = bench.with_data(Request::on(opcode::ReadFixed::CODE, &ours), 1);
    bench.submit(&[read])?;
    expect(&bench.reap(1)?, 0, 1)
}

fn buffer_rings(_: &[Operation]) -> Tried {
    let mut bench = bench(&[])?;
    let (ours, mut theirs) = UnixStream::pair()?;
    theirs.write_all(b"x")?;
    bench.register_buffers(0, 1, DATA_SIZE)?;
    bench.submit(&[select_buffer(&ours)])?;
    expect(&bench.reap(1)?, 0, 1)?;
    expect_data(&bench, b"x")
}

fn incremental_buffers(_: &[Operation]) -> Tried {
    let mut bench = bench(&[])?;
    let (ours, mut theirs) = UnixStream::pair()?;
    bench.register_buffers(BUFFERS_INCREMENTAL, 1, DATA_SIZE)?;
    for byte in [b"a", b"b"] {
        theirs.write_all(byte)?;
        bench.submit(&[select_buffer(&ours)])?;
        expect(&bench.reap(1)?, 0, 1)?;
    }
    // The second byte stands behind the first, not in a second buffer.
    expect_data(&bench, b"ab")
}

fn multishot_recv(_: &[Operation]) -> Tried {
    let mut bench = bench(&[])?;
    let (ours, mut theirs) = UnixStream::pair()?;
    // More than there are bytes: without a buffer for what may come next, it ends.
    bench.register_buffers(0, 4, 1)?;
    let mut recv = select_buffer(&ours);
    recv.priority = RECV_MULTISHOT;
    bench.submit(&[recv])?;
    for byte in [b"a", b"b"] {
        theirs.write_all(byte)?;
        let completions = bench.reap(1)?;
        expect(&completions, 0, 1)?;
        if !completions.iter().all(|completion| cqueue::more(completion.flags)) {
            return Err(Refusal::No("it ended with the first receive".into()));
        }
    }
    expect_data(&bench, b"ab")
}

fn bundle_recv(_: &[Operation]) -> Tried {
    let mut bench = bench(&[])?;
    let (ours, mut theirs) = UnixStream::pair()?;
    theirs.write_all(b"abc")?;
    bench.register_buffers(0, 4, 1)?;
    let mut recv = select_buffer(&ours);
    recv.priority = RECV_BUNDLE;
    // Linux 6.12 takes a single buffer if not told how many bytes there may be.
    recv.length = 3;
    bench.submit(&[recv])?;
    expect(&bench.reap(1)?, 0, 3)?;
    expect_data(&bench, b"abc")
}

fn send_zc(_: &[Operation]) -> Tried {
    let mut bench = bench(&[])?;
    let no_loopback = |error| Refusal::NotTried(format!("loopback is down ({error})"));
    let listener = TcpListener::bind("127.0.0.1:0").map_err(no_loopback)?;
    let ours = TcpStream::connect(listener.local_addr()?).map_err(no_loopback)?;
    let (mut theirs, _) = listener.accept()?;
    let send = bench.with_data(Request::on(opcode::SendZc::CODE, &ours), 1);
    bench.submit(&[send])?;
    let completions = bench.reap(1)?;
    let sent = completions.iter().find(|completion| completion.flags & CQE_NOTIFICATION == 0);
    match sent.map(|completion| completion.result) {
        Some(1) => Ok(theirs.read_exact(&mut [0])?),
        Some(other) => Err(Refusal::No(told(other))),
        None => Err(Refusal::No("it never completed".into())),
    }
}

/// All that can be known without a network card that splits headers from payload.
fn recv_zc(_: &[Operation]) -> Tried {
    let bench = bench(&[])?;
    let mut probe = Probe::new();
    bench.ring().submitter().register_probe(&mut probe)?;
    Err(if probe.is_supported(RECV_ZC) {
        let why = "this kernel has it, but it needs a network card that splits headers off";
        Refusal::NotTried(why.into())
    } else {
        Refusal::No("this kernel has no such operation".into())
    })
}

// --- the stage -----------------------------------------------------------------------------------

// From the kernel's include/uapi/linux/io_uring.h, where the io-uring crate has no name for it.
/// `IOSQE_IO_LINK`.
const LINK: u8 = 1 << 2;
/// `IOSQE_BUFFER_SELECT`.
const BUFFER_SELECT: u8 = 1 << 5;
/// `IOSQE_CQE_SKIP_SUCCESS`.
const CQE_SKIP_SUCCESS: u8 = 1 << 6;
/// `IORING_ASYNC_CANCEL_ALL`.
const CANCEL_ALL: u32 = 1 << 0;
/// `IORING_ASYNC_CANCEL_FD`.
const CANCEL_FD: u32 = 1 << 1;
/// `IORING_RECV_MULTISHOT`.
const RECV_MULTISHOT: u16 = 1 << 1;
/// `IORING_RECVSEND_BUNDLE`.
const RECV_BUNDLE: u16 = 1 << 4;
/// `IOU_PBUF_RING_INC`.
const BUFFERS_INCREMENTAL: u16 = 2;
/// `IORING_CQE_F_NOTIF`.
const CQE_NOTIFICATION: u32 = 1 << 3;
/// `IORING_OP_RECV_ZC`.
const RECV_ZC: u8 = 58;

fn bench(denied: &[Operation]) -> Result<Bench, Refusal> {
    let ring = ring::open(denied).map_err(|error| no_ring(&error))?;
    Ok(Bench::new(ring))
}

/// A ring with a flag that this kernel may not know.
fn open(builder: &mut io_uring::Builder) -> Result<IoUring, Refusal> {
    match patiently(|| builder.build(ring::ENTRIES)) {
        Ok(ring) => Ok(ring),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            Err(Refusal::No("this kernel does not know it".into()))
        }
        Err(error) => Err(no_ring(&error)),
    }
}

fn no_ring(error: &io::Error) -> Refusal {
    Refusal::NotTried(format!("there is no ring ({error})"))
}

fn not_entered(error: io::Error) -> Refusal {
    Refusal::NotTried(format!("nothing can be handed to the kernel ({error})"))
}

fn tcp() -> io::Result<Socket> {
    Socket::new(Domain::IPV4, Type::STREAM, None)
}

/// A receive of a byte that comes after it was asked for.
fn receives(bench: &mut Bench) -> Tried {
    let (ours, mut theirs) = UnixStream::pair()?;
    let recv = bench.with_data(Request::on(opcode::Recv::CODE, &ours), 1);
    bench.submit(&[recv])?;
    theirs.write_all(b"x")?;
    expect(&bench.reap(1)?, 0, 1)?;
    expect_data(bench, b"x")
}

/// A receive for which nothing comes, and its linked timeout.
fn expires(bench: &mut Bench) -> Tried {
    let (ours, _theirs) = UnixStream::pair()?;
    let recv = bench.with_data(Request::on(opcode::Recv::CODE, &ours), 1).flag(LINK).named(1);
    bench.submit(&[recv, bench.expired_timeout().named(2)])?;
    let completions = bench.reap(2)?;
    expect_error(&completions, 2, &[Errno::TIME])?;
    expect_error(&completions, 1, &[Errno::CANCELED, Errno::INTR])
}

/// A receive into whichever buffer of the bench's ring the kernel picks.
fn select_buffer(socket: &UnixStream) -> Request {
    let mut recv = Request::on(opcode::Recv::CODE, socket).flag(BUFFER_SELECT);
    recv.buffer = GROUP;
    recv
}

fn result_of(completions: &[Completion], user_data: u64) -> Option<i32> {
    completions.iter().find(|entry| entry.user_data == user_data).map(|entry| entry.result)
}

fn expect(completions: &[Completion], user_data: u64, wanted: i32) -> Tried {
    match result_of(completions, user_data) {
        Some(result) if result == wanted => Ok(()),
        Some(result) => Err(Refusal::No(told(result))),
        None => Err(Refusal::No("it never completed".into())),
    }
}

fn expect_error(completions: &[Completion], user_data: u64, wanted: &[Errno]) -> Tried {
    match result_of(completions, user_data) {
        Some(result) if wanted.iter().any(|errno| is(result, *errno)) => Ok(()),
        Some(result) => Err(Refusal::No(told(result))),
        None => Err(Refusal::No("it never completed".into())),
    }
}

fn is(result: i32, errno: Errno) -> bool {
    result == -errno.raw_os_error()
}

fn expect_data(bench: &Bench, wanted: &[u8]) -> Tried {
    match bench.data().get(..wanted.len()) {
        Some(data) if data == wanted => Ok(()),
        _ => Err(Refusal::No("the bytes are not where they should be".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_unique() {
        let mut keys: Vec<_> = FEATURES.iter().map(|feature| feature.key).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), FEATURES.len());
    }

    #[test]
    fn what_is_denied_is_no_and_what_does_not_need_it_is_yes() {
        if super::super::self_test().unwrap() != super::super::Ability::Works {
            return;
        }
        let answers = try_all(&[Operation::LinkTimeout]);
        let answer = |key| &answers.iter().find(|(feature, _)| feature.key == key).unwrap().1;
        assert!(matches!(answer("link_timeout"), Answer::No(_)));
        assert!(matches!(answer("connect_timeout"), Answer::No(_) | Answer::NotTried(_)));
        assert_eq!(*answer("recv"), Answer::Yes);
    }
}
