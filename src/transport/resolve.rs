//! Names to addresses, under a deadline, and one lookup for all who ask at the same time.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::engine::look_up;
use super::{Deadline, Error};
use crate::limits::{NAME_ADDRESSES_MAX, NAME_LIFETIME, NAMES_KEPT_MAX};
use crate::origin::is_localhost;

/// Looks names up, and keeps their addresses for [`NAME_LIFETIME`]. All connections of a pull share
/// one; cloning gives another handle to the same.
///
/// The system's resolver blocks, so each lookup runs on a thread of its own; at the deadline that
/// thread is left behind, and ends when the resolver gives up, or with the process. (Not on one of
/// the runtime's: it would wait for them when it ends, as long as the resolver likes.)
#[derive(Clone)]
pub struct Resolver {
    shared: Arc<Shared>,
}

struct Shared {
    look_up: Box<LookUp>,
    /// Never held across a wait.
    names: Mutex<HashMap<String, Name>>,
}

type LookUp = dyn Fn(&str) -> Result<Vec<IpAddr>, Failure> + Send + Sync;

/// The answer to a lookup.
type Answer = Result<Arc<[IpAddr]>, Failure>;

/// Why a name has no address.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Failure {
    reason: String,
    /// Whether the answer may be another one soon.
    transient: bool,
}

/// What is known of a name.
enum Name {
    /// It is being looked up; who asks meanwhile waits for the same answer.
    Asked { answer: watch::Receiver<Option<Answer>>, since: Instant },
    /// Its addresses, and until when they are used.
    Known { addresses: Arc<[IpAddr]>, until: Instant },
}

impl Resolver {
    /// Asks the system's resolver.
    pub fn new() -> Resolver {
        Resolver::asking(|host| {
            look_up(host).map_err(|error| Failure {
                reason: error.reason(),
                transient: error.is_transient(),
            })
        })
    }

    fn asking(
        look_up: impl Fn(&str) -> Result<Vec<IpAddr>, Failure> + Send + Sync + 'static,
    ) -> Resolver {
        Resolver {
            shared: Arc::new(Shared { look_up: Box::new(look_up), names: Mutex::default() }),
        }
    }

    /// The addresses of `host`, in the order of the system's resolver (RFC 6724). An IP address is
    /// its own answer, and so are `localhost` and the names below it: no query is made for them.
    ///
    /// A failure is told to all who wait for it, and then forgotten.
    ///
    /// # Errors
    /// [`Error::Resolve`] when there is no such name or no answer, [`Error::Expired`] at the deadline.
    pub async fn resolve(
        &self,
        host: &str,
        port: u16,
        deadline: Deadline,
    ) -> Result<Vec<SocketAddr>, Error> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        if is_localhost(host) {
            // In the order of RFC 6724, as the system's resolver has them where it knows both.
            let both = [IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::LOCALHOST)];
            return Ok(both.map(|address| SocketAddr::new(address, port)).to_vec());
        }
        let answer = match self.known_or_asked(host, deadline.limit) {
            Ok(addresses) => Ok(addresses),
            Err(mut answer) => {
                let told = answer.wait_for(Option::is_some);
                match tokio::time::timeout_at(deadline.at.into(), told).await {
                    Err(_) => return Err(Error::expired(deadline)),
                    Ok(told) => told.ok().and_then(|answer| answer.clone()).unwrap_or_else(|| {
                        Err(Failure::passing("the thread that resolves names died"))
                    }),
                }
            }
        };
        let failed = |Failure { reason, transient }| {
            Err(Error::Resolve { host: host.to_owned(), reason, transient })
        };
        match answer {
            Ok(addresses) => {
                Ok(addresses.iter().map(|address| SocketAddr::new(*address, port)).collect())
            }
            Err(failure) => failed(failure),
        }
    }

    /// Forgets the addresses of `host`, because none of them accepted a connection: they may have
    /// changed.
    pub fn forget(&self, host: &str) {
        let mut names = self.shared.names();
        if let Some(Name::Known { .. }) = names.get(host) {
            names.remove(host);
        }
    }

    /// The addresses, or where they will be told. A lookup that takes longer than `patience` is not
    /// waited for any more: the resolver may be stuck, and a second question may find an answer.
    fn known_or_asked(
        &self,
        host: &str,
        patience: Duration,
    ) -> Result<Arc<[IpAddr]>, watch::Receiver<Option<Answer>>> {
        let now = Instant::now();
        let mut names = self.shared.names();
        match names.get(host) {
            Some(Name::Known { addresses, until }) if now < *until => {
                return Ok(Arc::clone(addresses));
            }
            Some(Name::Asked { answer, since })
                if now.saturating_duration_since(*since) < patience =>
            {
                return Err(answer.clone());
            }
            _ => {}
        }
        let (tell, answer) = watch::channel(None);
        // A full table keeps what it has; the answer to this question is then told, and not kept.
        names.retain(|_, name| !matches!(name, Name::Known { until, .. } if *until <= now));
        if names.len() < NAMES_KEPT_MAX || names.contains_key(host) {
            names.insert(host.to_owned(), Name::Asked { answer: answer.clone(), since: now });
        }
        drop(names);
        let (shared, name) = (Arc::clone(&self.shared), host.to_owned());
        let thread = std::thread::Builder::new().name("resolve".to_owned());
        let asking = move || shared.ask(&name, &tell);
        if let Err(error) = thread.spawn(asking) {
            self.shared.end(host, None);
            return Err(told(Err(Failure::of_thread(&error))));
        }
        Err(answer)
    }
}

impl Default for Resolver {
    fn default() -> Resolver {
        Resolver::new()
    }
}

impl Failure {
    fn passing(reason: &str) -> Failure {
        Failure { reason: reason.to_owned(), transient: true }
    }

    fn of_thread(error: &io::Error) -> Failure {
        Failure::passing(&format!("no thread can be started for that: {error}"))
    }
}

/// A channel that has its answer already.
fn told(answer: Answer) -> watch::Receiver<Option<Answer>> {
    watch::channel(Some(answer)).1
}

impl Shared {
    fn names(&self) -> MutexGuard<'_, HashMap<String, Name>> {
        // Nothing can panic while it is held.
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks `host` up, keeps what was found, and tells who waits.
    fn ask(&self, host: &str, tell: &watch::Sender<Option<Answer>>) {
        let answer = match (self.look_up)(host) {
            Ok(found) if found.is_empty() => {
                Err(Failure { reason: "the name has no address".to_owned(), transient: false })
            }
            Ok(found) => Ok(found.into_iter().take(NAME_ADDRESSES_MAX).collect()),
            Err(failure) => Err(failure),
        };
        self.end(host, answer.as_ref().ok());
        // Nobody listens any more after the deadline.
        tell.send_replace(Some(answer));
    }

    /// A lookup of `host` has ended. What is not in the table, for want of room, stays outside.
    fn end(&self, host: &str, found: Option<&Arc<[IpAddr]>>) {
        let mut names = self.names();
        match found {
            Some(addresses) => {
                if let Some(name) = names.get_mut(host) {
                    let until = Instant::now() + NAME_LIFETIME;
                    *name = Name::Known { addresses: Arc::clone(addresses), until };
                }
            }
            None => {
                if let Some(Name::Asked { .. }) = names.get(host) {
                    names.remove(host);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::super::Phase;
    use super::*;

    type Found = Result<Vec<IpAddr>, Failure>;

    const LONG: Duration = Duration::from_secs(10);

    /// A resolver that answers when it is told what; and how often it was asked.
    fn scripted() -> (Resolver, mpsc::Sender<Found>, Arc<AtomicUsize>) {
        let (answer, answers) = mpsc::channel();
        let answers = Mutex::new(answers);
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        let resolver = Resolver::asking(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            answers.lock().unwrap().recv().unwrap()
        });
        (resolver, answer, asked)
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(future)
    }

    async fn resolve(resolver: &Resolver, limit: Duration) -> Result<Vec<SocketAddr>, Error> {
        resolver.resolve("registry.test", 443, Deadline::after(limit, Phase::Resolve)).await
    }

    #[test]
    fn one_lookup_serves_all_who_ask() {
        let (resolver, answer, asked) = scripted();
        block_on(async {
            let all = async {
                tokio::join!(resolve(&resolver, LONG), resolve(&resolver, LONG), async {
                    // Polled last: the two others wait by now.
                    answer.send(Ok(vec![address(2), address(1)])).unwrap();
                },)
            };
            let (one, two, ()) = all.await;
            let expected = [2, 1].map(|last| SocketAddr::new(address(last), 443));
            assert_eq!((&one.unwrap()[..], &two.unwrap()[..]), (&expected[..], &expected[..]));
            // For a while it is known, to those on other threads too; each has its own port.
            let elsewhere = resolver.clone();
            let there = std::thread::spawn(move || {
                let deadline = Deadline::after(LONG, Phase::Resolve);
                block_on(elsewhere.resolve("registry.test", 80, deadline)).unwrap()
            });
            assert_eq!(there.join().unwrap()[0], SocketAddr::new(address(2), 80));
            assert_eq!(asked.load(Ordering::SeqCst), 1);
            // None of the addresses was any good: asked again.
            resolver.forget("registry.test");
            answer.send(Ok(vec![address(3)])).unwrap();
            assert_eq!(resolve(&resolver, LONG).await.unwrap()[0].ip(), address(3));
            assert_eq!(asked.load(Ordering::SeqCst), 2);
        });
    }

    #[test]
    fn what_is_known_is_known_for_a_while_only() {
        let (resolver, answer, asked) = scripted();
        block_on(async {
            answer.send(Ok(vec![address(1)])).unwrap();
            resolve(&resolver, LONG).await.unwrap();
            for name in resolver.shared.names().values_mut() {
                let Name::Known { until, .. } = name else { panic!("it is known") };
                assert!(*until > Instant::now() && *until <= Instant::now() + NAME_LIFETIME);
                *until = Instant::now();
            }
            answer.send(Ok(vec![address(2)])).unwrap();
            assert_eq!(resolve(&resolver, LONG).await.unwrap()[0].ip(), address(2));
            assert_eq!(asked.load(Ordering::SeqCst), 2);
        });
    }

    #[test]
    fn a_failure_is_told_and_not_kept() {
        let (resolver, answer, asked) = scripted();
        block_on(async {
            answer.send(Err(Failure::passing("no answer"))).unwrap();
            let failed = resolve(&resolver, LONG).await;
            assert!(matches!(failed, Err(Error::Resolve { transient: true, .. })), "{failed:?}");
            answer.send(Ok(Vec::new())).unwrap();
            let failed = resolve(&resolver, LONG).await;
            assert!(matches!(failed, Err(Error::Resolve { transient: false, .. })), "{failed:?}");
            answer.send(Ok(vec![address(1)])).unwrap();
            resolve(&resolver, LONG).await.unwrap();
            assert_eq!(asked.load(Ordering::SeqCst), 3);
        });
    }

    #[test]
    fn a_lookup_that_is_stuck_is_not_joined_for_ever() {
        let (resolver, answer, asked) = scripted();
        let short = Duration::from_millis(20);
        block_on(async {
            for round in 1..=2 {
                let expired = resolve(&resolver, short).await;
                assert!(matches!(expired, Err(Error::Expired { .. })), "{expired:?}");
                // The thread may not have come to ask yet.
                let end = Instant::now() + LONG;
                while asked.load(Ordering::SeqCst) < round {
                    assert!(Instant::now() < end, "it joined the lookup that is stuck");
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            answer.send(Ok(vec![address(1)])).unwrap();
            answer.send(Ok(vec![address(1)])).unwrap();
            resolve(&resolver, LONG).await.unwrap();
        });
    }

    #[test]
    fn names_and_their_addresses_are_bounded() {
        let many = |_: &str| Ok((0..=255).map(address).collect());
        let resolver = Resolver::asking(many);
        block_on(async {
            for number in 0..2 * NAMES_KEPT_MAX {
                let host = format!("{number}.test");
                let deadline = Deadline::after(LONG, Phase::Resolve);
                let found = resolver.resolve(&host, 443, deadline).await.unwrap();
                assert_eq!(found.len(), NAME_ADDRESSES_MAX);
            }
            assert_eq!(resolver.shared.names().len(), NAMES_KEPT_MAX);
        });
    }
}
