//! Names to addresses, under a deadline.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use tokio::sync::oneshot;

use super::{Deadline, Error};

/// The addresses of `host`, in the order of the system's resolver (RFC 6724). An IP address is its
/// own answer; no query is made for it.
///
/// The system's resolver blocks, so it runs on a thread of its own; at the deadline that thread is
/// left behind, and ends when the resolver gives up, or with the process. (Not on one of the
/// runtime's: it would wait for them when it ends, as long as the resolver likes.)
///
/// # Errors
/// [`Error::Resolve`] when there is no such name or no answer, [`Error::Expired`] at the deadline.
pub async fn resolve(host: &str, port: u16, deadline: Deadline) -> Result<Vec<SocketAddr>, Error> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let lookup = look_up(host.to_owned(), port);
    let Ok(answer) = tokio::time::timeout_at(deadline.at.into(), lookup).await else {
        return Err(Error::expired(deadline));
    };
    let failed = |reason: String, transient| {
        Err(Error::Resolve { host: host.to_owned(), reason, transient })
    };
    match answer {
        Ok(addresses) => {
            if addresses.is_empty() {
                return failed("the name has no address".to_owned(), false);
            }
            Ok(addresses)
        }
        Err(error) => {
            // getaddrinfo(3) tells EAI_AGAIN from EAI_NONAME, but the standard library hands on
            // only the text; a name that does not exist is the one that is worth no second try.
            let reason = error.to_string();
            let transient = reason.contains("Temporary failure");
            failed(reason, transient)
        }
    }
}

async fn look_up(host: String, port: u16) -> io::Result<Vec<SocketAddr>> {
    let (tell, told) = oneshot::channel();
    std::thread::Builder::new().name("resolve".to_owned()).spawn(move || {
        // Nobody listens any more after the deadline.
        let _ = tell.send((host.as_str(), port).to_socket_addrs().map(Iterator::collect));
    })?;
    told.await.map_err(|_| io::Error::other("the thread that resolves names died"))?
}
