//! The first of several addresses that accepts a connection (RFC 8305, "happy eyeballs").
//!
//! ```text
//!     0 ms   address 1 ────────────────────…  silent: overtaken, cancelled, closed
//!   250 ms              address 2 ──→ accepts: it wins
//! ```
//!
//! An attempt that fails starts the next one at once. Each attempt has a deadline of its own, which
//! on io_uring the kernel keeps. Attempts that run beside the first one of their connection are
//! bounded over a whole pull ([`RACE_EXTRA_MAX`]), and never take the last socket of a ring.

use std::collections::VecDeque;
use std::future::{Future, pending, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use rustix::io::Errno;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{Connector, Deadline, Error, Phase, Socket};
use crate::limits::{RACE_ATTEMPTS_MAX, RACE_DELAY, RACE_EXTRA_MAX};

/// What a race found out about an address that did not win.
#[derive(Debug, Clone, Copy)]
pub enum Lost<'a> {
    /// The attempt failed.
    Failed(&'a Error),
    /// The address had a head start, and did not answer before another one accepted.
    Overtaken,
}

/// The right to make attempts beside the first one of a connection: shared by all connections of a
/// pull, so that a dead network costs it [`RACE_EXTRA_MAX`] descriptors and no more.
pub struct Places(Semaphore);

impl Places {
    /// All places are free.
    pub fn new() -> Places {
        Places(Semaphore::new(RACE_EXTRA_MAX))
    }
}

impl Default for Places {
    fn default() -> Places {
        Places::new()
    }
}

/// Puts the address families in turn, beginning with that of the first address. Within a family the
/// order stays (RFC 8305 section 4).
pub fn interleave(addresses: &mut Vec<SocketAddr>) {
    let first_is_v4 = addresses.first().is_some_and(SocketAddr::is_ipv4);
    let (mut turn, mut other): (VecDeque<SocketAddr>, VecDeque<SocketAddr>) =
        addresses.drain(..).partition(|address| address.is_ipv4() == first_is_v4);
    while let Some(next) = turn.pop_front() {
        addresses.push(next);
        if !other.is_empty() {
            std::mem::swap(&mut turn, &mut other);
        }
    }
}

/// Connects to the first of `addresses` that accepts. They are tried in their order; the next one
/// starts [`RACE_DELAY`] after the one before, or at once when one fails. Each has `limit` for it.
/// `lost` is told about each address that failed or was overtaken.
///
/// # Errors
/// [`Error::Address`] with the failure that came last.
pub async fn connect(
    connector: &Connector,
    addresses: &[SocketAddr],
    limit: Duration,
    places: &Places,
    mut lost: impl FnMut(SocketAddr, Lost<'_>),
) -> Result<(Socket, SocketAddr), Error> {
    let mut waiting: VecDeque<SocketAddr> = addresses.iter().copied().collect();
    let Some(first) = waiting.pop_front() else {
        return Err(Error::Broken("a host without addresses"));
    };
    let mut attempts = Attempts { connector, limit, under_way: Vec::new() };
    attempts.start(first, None);
    loop {
        let may_start = !waiting.is_empty() && attempts.under_way.len() < RACE_ATTEMPTS_MAX;
        let next = async {
            if !may_start {
                return pending().await;
            }
            loop {
                tokio::time::sleep(RACE_DELAY).await;
                // The last socket of a ring is left to a connection that has none yet.
                if connector.has_room() {
                    break;
                }
            }
            places.0.acquire().await.ok()
        };
        let ended = tokio::select! {
            biased;
            ended = attempts.next_to_end() => ended,
            place = next => {
                if let Some(address) = waiting.pop_front() {
                    attempts.start(address, place);
                }
                continue;
            }
        };
        let Ended { attempt: Attempt { address, place, .. }, result, ahead } = ended;
        let error = match result {
            Ok(socket) => {
                for slower in ahead {
                    lost(slower, Lost::Overtaken);
                }
                return Ok((socket, address));
            }
            Err(error) => error,
        };
        let alone = attempts.under_way.is_empty();
        if is_want_of_room(&error) && !alone {
            // This says nothing about the address: it is tried again after the usual delay.
            waiting.push_front(address);
            continue;
        }
        if !is_want_of_room(&error) {
            lost(address, Lost::Failed(&error));
        }
        match waiting.pop_front() {
            Some(next) => attempts.start(next, place),
            None if alone => {
                return Err(Error::Address { address, source: Box::new(error) });
            }
            None => {}
        }
    }
}

/// Whether an attempt failed for want of descriptors or memory on this machine.
fn is_want_of_room(error: &Error) -> bool {
    let Error::Io { source, .. } = error else { return false };
    let wanting = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    Errno::from_io_error(source).is_some_and(|errno| wanting.contains(&errno))
}

type Connecting<'a> = Pin<Box<dyn Future<Output = Result<Socket, Error>> + 'a>>;

/// An attempt under way. Dropped, it is cancelled, and its socket closed as soon as nothing is in
/// flight on it ([`Connector::connect`]).
struct Attempt<'a> {
    address: SocketAddr,
    connecting: Connecting<'a>,
    /// Its place beside the others; `None` for one that is the only one of its connection.
    place: Option<SemaphorePermit<'a>>,
}

/// The attempts under way, in the order in which they started.
struct Attempts<'a> {
    connector: &'a Connector,
    limit: Duration,
    under_way: Vec<Attempt<'a>>,
}

/// An attempt that ended.
struct Ended<'a> {
    attempt: Attempt<'a>,
    result: Result<Socket, Error>,
    /// The addresses whose attempts started before it, and are under way still.
    ahead: Vec<SocketAddr>,
}

impl<'a> Attempts<'a> {
    fn start(&mut self, address: SocketAddr, place: Option<SemaphorePermit<'a>>) {
        let deadline = Deadline::after(self.limit, Phase::Connect);
        let connecting = Box::pin(self.connector.connect(address, deadline));
        self.under_way.push(Attempt { address, connecting, place });
    }

    /// Waits for the next attempt to end; of two that end at once, the one that started first.
    async fn next_to_end(&mut self) -> Ended<'a> {
        poll_fn(|context| {
            for index in 0..self.under_way.len() {
                if let Poll::Ready(result) = self.under_way[index].connecting.as_mut().poll(context)
                {
                    let ahead =
                        self.under_way[..index].iter().map(|attempt| attempt.address).collect();
                    let attempt = self.under_way.remove(index);
                    return Poll::Ready(Ended { attempt, result, ahead });
                }
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[track_caller]
    fn check(addresses: &[&str], expected: &[&str]) {
        let parse = |text: &&str| text.parse::<SocketAddr>().unwrap();
        let mut sorted: Vec<SocketAddr> = addresses.iter().map(parse).collect();
        interleave(&mut sorted);
        assert_eq!(sorted, expected.iter().map(parse).collect::<Vec<_>>());
    }

    #[test]
    fn families_take_turns_and_keep_their_order() {
        let [six, seven, eight] = ["[2001:db8::6]:1", "[2001:db8::7]:1", "[2001:db8::8]:1"];
        let [one, two] = ["192.0.2.1:1", "192.0.2.2:1"];
        check(&[six, seven, eight, one, two], &[six, one, seven, two, eight]);
        check(&[one, two, six], &[one, six, two]);
        check(&[six, one, two], &[six, one, two]);
        check(&[six, seven], &[six, seven]);
        check(&[], &[]);
    }

    #[test]
    fn only_want_of_room_says_nothing_about_an_address() {
        let io = |errno: Errno| Error::io(Phase::Connect, io::Error::from(errno));
        assert!(is_want_of_room(&io(Errno::MFILE)) && is_want_of_room(&io(Errno::NOBUFS)));
        assert!(!is_want_of_room(&io(Errno::CONNREFUSED)));
        assert!(!is_want_of_room(&Error::expired(Deadline::after(RACE_DELAY, Phase::Connect))));
    }
}
