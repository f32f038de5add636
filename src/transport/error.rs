//! Why a byte stream failed.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::{Deadline, Phase};
use crate::error::Class;
use crate::report::format;

/// Why a wait on a byte stream ended without its bytes.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The deadline passed.
    #[error("{}", expired(*phase, *limit))]
    Expired {
        /// What was waited for.
        phase: Phase,
        /// The bound that passed.
        limit: Duration,
    },
    /// The kernel reported an error: reset, refused, unreachable.
    #[error("{source} while {phase}")]
    Io {
        /// What was waited for.
        phase: Phase,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The name could not be resolved.
    #[error("{host} cannot be resolved: {reason}")]
    Resolve {
        /// The host name.
        host: String,
        /// The resolver's answer.
        reason: String,
        /// Whether the answer may be another one soon (a server failure, not an unknown name).
        transient: bool,
    },
    /// None of a host's addresses accepted a connection.
    #[error("{address}: {source}")]
    Address {
        /// The last address tried.
        address: SocketAddr,
        /// What came of it.
        source: Box<Error>,
    },
    /// The peer's certificate is not trusted, or is for another name.
    #[error("the certificate is not trusted: {0}")]
    Trust(String),
    /// The peer speaks only versions of TLS that are not safe any more, or none of those we speak.
    #[error("no version of TLS that can be trusted is spoken there: {0}")]
    TlsVersion(String),
    /// The TLS handshake or a record failed for another reason.
    #[error("TLS: {reason} while {phase}")]
    Tls {
        /// What was waited for.
        phase: Phase,
        /// What rustls says.
        reason: String,
    },
    /// The peer refuses what we offer in the TLS handshake, and would the next time.
    #[error("TLS: {0}")]
    TlsRefused(String),
    /// Where TLS was to be spoken, an answer came in plain HTTP.
    #[error("plain http is spoken there, and not TLS: --plain-http asks a registry that does so")]
    PlainHttp,
    /// Where plain http was to be spoken, TLS is wanted.
    #[error(
        "TLS is spoken there, and not plain http: --plain-http=false asks a registry over https"
    )]
    WantsTls,
    /// The peer closed the connection in the middle of the TLS handshake.
    #[error("the peer closed the connection while {0}")]
    Closed(Phase),
    /// An invariant of the engine does not hold; the connection is lost, the process is not.
    #[error("internal error of the engine: {0}")]
    Broken(&'static str),
}

/// The text of a passed deadline. Nothing came in a receive; other phases did not end.
fn expired(phase: Phase, limit: Duration) -> String {
    let limit = format::duration(limit);
    match phase {
        Phase::Body | Phase::Reply => format!("no bytes for {limit} while {phase}"),
        Phase::Head => format!("the response head was not whole within {limit}"),
        Phase::Document => format!("the document was not whole within {limit}"),
        Phase::Resolve | Phase::Connect => format!("no answer within {limit} while {phase}"),
        Phase::Handshake => format!("the TLS handshake did not end within {limit}"),
        Phase::Send => format!("nothing could be sent for {limit} while {phase}"),
    }
}

impl Error {
    /// The error of a deadline that passed.
    pub fn expired(deadline: Deadline) -> Error {
        Error::Expired { phase: deadline.phase, limit: deadline.limit }
    }

    /// The error of a failed system call on a connection.
    pub fn io(phase: Phase, source: io::Error) -> Error {
        Error::Io { phase, source }
    }

    /// What kind of failure this is.
    pub fn class(&self) -> Class {
        match self {
            Error::Expired { phase, .. } => match phase {
                Phase::Resolve => Class::ResolveTimeout,
                Phase::Connect => Class::ConnectTimeout,
                Phase::Handshake => Class::Tls,
                Phase::Send => Class::SendTimeout,
                Phase::Head => Class::HeadTimeout,
                Phase::Reply | Phase::Body => Class::RecvTimeout,
                Phase::Document => Class::TooSlow,
            },
            Error::Io { phase, .. } => match phase {
                Phase::Resolve => Class::ResolveTimeout,
                Phase::Connect => Class::Connect,
                Phase::Handshake => Class::Tls,
                Phase::Send | Phase::Reply | Phase::Head => Class::EmptyResponse,
                Phase::Body | Phase::Document => Class::Truncated,
            },
            Error::Resolve { transient: true, .. } => Class::ResolveTimeout,
            Error::Resolve { transient: false, .. } => Class::Resolve,
            Error::Address { source, .. } => source.class(),
            Error::Trust(_) | Error::TlsVersion(_) => Class::TlsTrust,
            Error::Tls { .. } | Error::Closed(_) => Class::Tls,
            Error::TlsRefused(_) | Error::PlainHttp | Error::WantsTls => Class::TlsRefused,
            Error::Broken(_) => Class::Connect,
        }
    }
}
