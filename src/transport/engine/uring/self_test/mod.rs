//! Whether this kernel, in this container, lets us do what the engine needs: tried, not read from
//! a version.
//!
//! [`self_test`] is what each pull runs: a handful of system calls. [`features`] is what
//! `ringpull probe` adds: every feature that matters to us, each tried on a ring of its own.

pub mod features;
mod request;
mod ring;

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use io_uring::{IoUring, Probe, opcode, squeue, types};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with, socketpair};
use socket2::SockAddr;

use super::Engine;
use super::lent::Lent;
use ring::{reap, submit};

/// Whether the io_uring engine can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ability {
    /// Every step of the self-test did what the engine relies on.
    Works,
    /// It cannot, for this reason.
    Missing(String),
}

impl Ability {
    fn without(operation: Operation) -> Ability {
        Ability::Missing(format!("this kernel's io_uring has no {operation}"))
    }
}

/// An operation that the engine uses, and the self-test tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// `IORING_OP_RECV`.
    Recv,
    /// `IORING_OP_SEND`.
    Send,
    /// `IORING_OP_CONNECT`.
    Connect,
    /// `IORING_OP_LINK_TIMEOUT`.
    LinkTimeout,
}

impl Operation {
    /// All of them.
    pub const ALL: [Operation; 4] =
        [Operation::Recv, Operation::Send, Operation::Connect, Operation::LinkTimeout];

    /// The operation's name, in the way of the probe's keys.
    pub fn key(self) -> &'static str {
        match self {
            Operation::Recv => "recv",
            Operation::Send => "send",
            Operation::Connect => "connect",
            Operation::LinkTimeout => "link_timeout",
        }
    }

    fn code(self) -> u8 {
        match self {
            Operation::Recv => opcode::Recv::CODE,
            Operation::Send => opcode::Send::CODE,
            Operation::Connect => opcode::Connect::CODE,
            Operation::LinkTimeout => opcode::LinkTimeout::CODE,
        }
    }
}

impl fmt::Display for Operation {
    /// As in the kernel's manual: `LINK_TIMEOUT`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key().to_uppercase())
    }
}

/// Whether one small engine can be had: [`self_test_for`] without further needs.
///
/// # Errors
/// As there.
pub fn self_test() -> io::Result<Ability> {
    self_test_for(1, 1, &[])
}

/// Sets up a small ring, enters it, reaps it, and tries each operation: a send, a receive won by
/// that send's data, a receive ended by its linked timeout, and a connect that is refused.
///
/// Then it makes sure that the rings of a pull fit in the memory there is: one for each of `threads`
/// engines with `connections` sockets.
///
/// The ring's own restrictions forbid the operations of `denied`, so that tests can have a kernel
/// which lacks them.
///
/// # Errors
/// What says nothing about io_uring, such as `EMFILE`.
pub fn self_test_for(
    threads: usize,
    connections: usize,
    denied: &[Operation],
) -> io::Result<Ability> {
    let mut ring = match ring::open(denied) {
        Ok(ring) => ring,
        Err(error) => return setup_failed(error).map(Ability::Missing),
    };
    if let Some(missing) = missing_operation(&ring) {
        return Ok(Ability::without(missing));
    }
    match entered(&mut ring) {
        Ok(true) => {}
        Ok(false) => {
            return Ok(Ability::Missing("a NOP was submitted, and never completed".into()));
        }
        Err(error) => {
            return Ok(Ability::Missing(format!(
                "io_uring can be set up, but not entered ({error})"
            )));
        }
    }
    for ends_by in [EndsBy::Data, EndsBy::Timeout] {
        if let Err(reason) = ends_by.check(&mut ring)? {
            return Ok(Ability::Missing(reason));
        }
    }
    if let Err(reason) = refused_connect(&mut ring)? {
        return Ok(Ability::Missing(reason));
    }
    // Or its memory would count as well.
    drop(ring);
    match Engine::fit(threads, connections) {
        Ok(()) => Ok(Ability::Works),
        Err(error) => setup_failed(error).map(Ability::Missing),
    }
}

/// Why there is no ring; or an error that would hit any engine.
fn setup_failed(error: io::Error) -> io::Result<String> {
    match Errno::from_io_error(&error) {
        Some(Errno::PERM | Errno::ACCESS) => Ok(match switch().as_deref() {
            Some("2") => "io_uring is switched off (kernel.io_uring_disabled=2)".into(),
            Some("1") => {
                "io_uring is reserved to a group or administrators (kernel.io_uring_disabled=1)"
                    .into()
            }
            _ => {
                "io_uring is forbidden (EPERM), probably by this container's seccomp profile".into()
            }
        }),
        Some(Errno::NOSYS) => Ok("there is no io_uring (ENOSYS): an old kernel, or masked".into()),
        Some(Errno::NOMEM) => Ok("no memory for the rings (see RLIMIT_MEMLOCK: ulimit -l)".into()),
        Some(Errno::INVAL) => Ok("io_uring refuses a plain ring (EINVAL)".into()),
        _ => Err(error),
    }
}

/// What `kernel.io_uring_disabled` says: "0" (off), "1" or "2"; `None` on kernels before 6.6, which
/// do not have it, and where /proc is not mounted.
pub fn switch() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?;
    Some(text.trim().to_owned())
}

/// The first operation that the kernel says it lacks. A kernel that does not tell (or may not) is
/// asked by trying.
fn missing_operation(ring: &IoUring) -> Option<Operation> {
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).ok()?;
    lacking(|code| probe.is_supported(code))
}

fn lacking(is_supported: impl Fn(u8) -> bool) -> Option<Operation> {
    Operation::ALL.into_iter().find(|operation| !is_supported(operation.code()))
}

/// Whether a NOP comes back.
fn entered(ring: &mut IoUring) -> io::Result<bool> {
    let nop = opcode::Nop::new().build();
    // SAFETY: a NOP points to nothing.
    if unsafe { ring.submission().push(&nop) }.is_err() {
        return Ok(false);
    }
    submit(ring)?;
    Ok(reap(ring, 1)?.is_some())
}

/// Whether a connect reaches its address: a name in the abstract namespace at which nobody listens.
/// Needs no network, not even loopback, and never waits.
fn refused_connect(ring: &mut IoUring) -> io::Result<Result<(), String>> {
    // An abstract name begins with a NUL, and is of the network namespace, not of the file system.
    let address = Lent::new(SockAddr::unix("\0ringpull: nobody listens here")?);
    // SAFETY: the value is there until `address` is dropped, and nothing ever writes to it.
    let name = unsafe { &*address.as_ptr() };
    let (pointer, length) = (name.as_ptr(), name.len());
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    let connect =
        opcode::Connect::new(types::Fd(socket.as_raw_fd()), pointer.cast(), length).build();
    // SAFETY: the entry points into `address`, which is dropped below only after the completion
    // was reaped, and leaked otherwise; `socket` is closed after that too.
    if unsafe { ring.submission().push(&connect) }.is_err() {
        return Ok(Err(QUEUE_FULL.into()));
    }
    submit(ring)?;
    let Some(results) = reap(ring, 1)? else {
        give_up(socket, address);
        return Ok(Err("a connect did not complete".into()));
    };
    let connected = results.first().map_or(0, |(_, result)| *result);
    Ok(if connected == -Errno::CONNREFUSED.raw_os_error() {
        Ok(())
    } else {
        Err(format!("CONNECT does not work ({})", told(connected)))
    })
}

/// What ends the receive of the self-test.
enum EndsBy {
    Data,
    Timeout,
}

impl EndsBy {
    /// Submits a linked pair that ends this way without any waiting, and checks both results.
    fn check(&self, ring: &mut IoUring) -> io::Result<Result<(), String>> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        if let EndsBy::Data = self
            && let Err(reason) = send_a_byte(ring, &theirs)?
        {
            return Ok(Err(reason));
        }
        let held = Lent::new(Held {
            byte: [0],
            // Absolute: a moment after the system started is always in the past; a century is not.
            at: match self {
                EndsBy::Data => types::Timespec::new().sec(100 * 365 * 86_400),
                EndsBy::Timeout => types::Timespec::new().nsec(1),
            },
        });
        // SAFETY: the value is there; no reference to it is made.
        let (byte, at) =
            unsafe { (&raw mut (*held.as_ptr()).byte, &raw const (*held.as_ptr()).at) };
        let receive = opcode::Recv::new(types::Fd(ours.as_raw_fd()), byte.cast(), 1)
            .build()
            .flags(squeue::Flags::IO_LINK)
            .user_data(RECEIVE);
        let timeout =
            opcode::LinkTimeout::new(at).flags(types::TimeoutFlags::ABS).build().user_data(TIMEOUT);
        // SAFETY: both entries point into `held`, which is dropped below only after both
        // completions were reaped, and leaked otherwise; `ours` is closed after that too.
        if unsafe { ring.submission().push_multiple(&[receive, timeout]) }.is_err() {
            return Ok(Err(QUEUE_FULL.into()));
        }
        submit(ring)?;
        let Some(results) = reap(ring, 2)? else {
            give_up(ours, held);
            return Ok(Err("a receive was not ended by its linked timeout".into()));
        };
        let result = |which| {
            results
                .iter()
                .find(|(user_data, _)| *user_data == which)
                .map_or(0, |(_, result)| *result)
        };
        let (received, fired) = (result(RECEIVE), result(TIMEOUT));
        let cancelled = [-Errno::CANCELED.raw_os_error(), -Errno::INTR.raw_os_error()];
        let right = match self {
            // Of all answers a kernel may give to the timeout of a receive that was won by data,
            // only those of an entry that was refused, or never linked, are wrong.
            EndsBy::Data => {
                let refused = [Errno::INVAL, Errno::ACCESS, Errno::PERM, Errno::OPNOTSUPP];
                received == 1 && !refused.iter().any(|errno| fired == -errno.raw_os_error())
            }
            EndsBy::Timeout => {
                cancelled.contains(&received) && fired == -Errno::TIME.raw_os_error()
            }
        };
        Ok(if right {
            Ok(())
        } else {
            let (received, fired) = (told(received), told(fired));
            Err(format!(
                "RECV with LINK_TIMEOUT does not work (receive: {received}; timeout: {fired})"
            ))
        })
    }
}

const RECEIVE: u64 = 1;
const TIMEOUT: u64 = 2;
const QUEUE_FULL: &str = "the submission queue is full at the start";

/// What the kernel may touch while the pair is in flight.
struct Held {
    byte: [u8; 1],
    at: types::Timespec,
}

/// Sends a byte by way of the ring. The peer's buffer is empty, so it never waits.
fn send_a_byte(ring: &mut IoUring, socket: &OwnedFd) -> io::Result<Result<(), String>> {
    static BYTE: u8 = b'x';
    let send = opcode::Send::new(types::Fd(socket.as_raw_fd()), &raw const BYTE, 1).build();
    // SAFETY: the byte is static; the caller closes the socket after its entry was submitted, from
    // which moment on the operation holds a reference of its own.
    if unsafe { ring.submission().push(&send) }.is_err() {
        return Ok(Err(QUEUE_FULL.into()));
    }
    submit(ring)?;
    let results = reap(ring, 1)?;
    Ok(match results.as_deref() {
        Some([(_, 1)]) => Ok(()),
        Some([(_, sent), ..]) => Err(format!("SEND does not work ({})", told(*sent))),
        _ => Err("a send did not complete".into()),
    })
}

/// A completion's result in words.
fn told(result: i32) -> String {
    if result < 0 { io::Error::from_raw_os_error(-result).to_string() } else { result.to_string() }
}

/// Leaves what did not complete to the kernel.
fn give_up<D>(socket: OwnedFd, held: Lent<D>) {
    let _ = rustix::net::shutdown(&socket, rustix::net::Shutdown::Both);
    std::mem::forget(socket);
    std::mem::forget(held);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reasons_name_the_way_out() {
        let reason = |errno: Errno| setup_failed(errno.into()).ok();
        assert!(reason(Errno::PERM).unwrap().contains("forbidden"));
        assert!(reason(Errno::NOSYS).unwrap().contains("ENOSYS"));
        assert!(reason(Errno::NOMEM).unwrap().contains("RLIMIT_MEMLOCK"));
        assert_eq!(reason(Errno::MFILE), None, "not a matter of io_uring");
    }

    #[test]
    fn an_operation_that_the_kernel_does_not_list_is_missed() {
        for operation in Operation::ALL {
            assert_eq!(lacking(|code| code != operation.code()), Some(operation));
        }
        assert_eq!(lacking(|_| true), None);
        assert!(lacking(|_| false).is_some());
        let said = Ability::without(Operation::LinkTimeout);
        assert_eq!(said, Ability::Missing("this kernel's io_uring has no LINK_TIMEOUT".into()));
    }

    #[test]
    fn each_operation_is_missed_when_it_is_denied() {
        if self_test().unwrap() != Ability::Works {
            return;
        }
        for operation in Operation::ALL {
            let Ability::Missing(why) = self_test_for(1, 1, &[operation]).unwrap() else {
                panic!("{operation} was denied, and not missed");
            };
            assert!(why.contains(&operation.to_string()), "{operation}: {why}");
        }
    }
}
