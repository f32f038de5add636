//! Names to addresses, under a deadline.

use std::net::{IpAddr, SocketAddr};

use super::{Deadline, Error};

/// The addresses of `host`, in the order of the system's resolver (RFC 6724). An IP address is its
/// own answer; no query is made for it.
///
/// The system's resolver blocks, so it runs on a thread of its own; at the deadline that thread is
/// left behind, and ends when the resolver gives up.
///
/// # Errors
/// [`Error::Resolve`] when there is no such name or no answer, [`Error::Expired`] at the deadline.
pub async fn resolve(host: &str, port: u16, deadline: Deadline) -> Result<Vec<SocketAddr>, Error> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let lookup = tokio::net::lookup_host((host, port));
    let Ok(answer) = tokio::time::timeout_at(deadline.at.into(), lookup).await else {
        return Err(Error::expired(deadline));
    };
    let failed = |reason: String, transient| {
        Err(Error::Resolve { host: host.to_owned(), reason, transient })
    };
    match answer {
        Ok(addresses) => {
            let addresses: Vec<SocketAddr> = addresses.collect();
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
