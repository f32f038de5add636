//! Why a question has no answer.

use std::time::{Duration, SystemTime};

use crate::error::Class;
use crate::http;
use crate::http::{RangeError, RequestError, UrlError};
use crate::origin::Origin;
use crate::registry::answer::DigestHeaderError;
use crate::registry::challenge::ChallengeError;
use crate::registry::credential::CredentialError;
use crate::registry::endpoint::EndpointError;
use crate::registry::realm::RealmRefused;
use crate::registry::redirect::RedirectError;
use crate::registry::token::TokenError;
use crate::registry::{Answer, Refusal};
use crate::transport;

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The byte stream failed.
    #[error(transparent)]
    Transport(#[from] transport::Error),
    /// The answer is malformed, or ended too soon.
    #[error(transparent)]
    Http(#[from] http::Error),
    /// The answered range is not the one asked for.
    #[error(transparent)]
    Range(#[from] RangeError),
    /// The request cannot be written.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// A URL made from the reference cannot be asked.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// The registry of the reference cannot be spoken to.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The redirect is not followed.
    #[error(transparent)]
    Redirect(#[from] RedirectError),
    /// The registry's challenge cannot be answered.
    #[error(transparent)]
    Challenge(#[from] ChallengeError),
    /// The token service is not asked.
    #[error(transparent)]
    Realm(#[from] RealmRefused),
    /// The token service's answer cannot be used.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The user's credentials cannot be used.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// `Docker-Content-Digest` contradicts the bytes.
    #[error(transparent)]
    DigestHeader(#[from] DigestHeaderError),
    /// The server said no.
    #[error("{}", refusal.told(redirected.then(|| origin.authority()).as_deref()))]
    Refused {
        /// What it said.
        refusal: Box<Refusal>,
        /// Who said it.
        origin: Origin,
        /// Whether the registry had redirected us there.
        redirected: bool,
    },
    /// Asking the token service failed.
    #[error("the token service {origin}: {source}")]
    TokenService {
        /// The service.
        origin: Origin,
        /// Why.
        source: Box<Error>,
    },
    /// Access was refused, and this is what there is to know of credentials.
    #[error("{source}; {login}")]
    Login {
        /// The refusal.
        source: Box<Error>,
        /// Which credentials were sent, or why none; no secret.
        login: String,
    },
    /// The registry wants credentials, and there are none.
    #[error("{origin} wants a user name and a password")]
    NoCredentials {
        /// The registry.
        origin: Origin,
    },
    /// A name resolves only to addresses that were not allowed. Who asked knows why, and says it in
    /// an error of its own.
    #[error("{host} resolves only to addresses that the registry may not send us to")]
    AddressRefused {
        /// The host.
        host: String,
    },
    /// A document is larger than is read.
    #[error("the answer is longer than {size_max} bytes")]
    TooLarge {
        /// The bound in bytes.
        size_max: usize,
    },
    /// An invariant of ours does not hold.
    #[error("internal error: {0}")]
    Broken(&'static str),
}

impl Error {
    /// What kind of failure this is.
    pub fn class(&self) -> Class {
        match self {
            Error::Transport(error) => error.class(),
            Error::Http(error) => error.class(),
            Error::Range(error) => error.class(),
            Error::Request(error) => error.class(),
            Error::Url(error) => error.class(),
            Error::Endpoint(error) => error.class(),
            Error::Redirect(error) => error.class(),
            Error::Challenge(error) => error.class(),
            Error::Realm(error) => error.class(),
            Error::Token(error) => error.class(),
            Error::Credential(error) => error.class(),
            Error::DigestHeader(error) => error.class(),
            Error::Refused { refusal, .. } => refusal.class(),
            Error::TokenService { source, .. } | Error::Login { source, .. } => source.class(),
            Error::NoCredentials { .. } => Class::Auth,
            Error::AddressRefused { .. } => Class::RealmRefused,
            Error::TooLarge { .. } => Class::Limit,
            Error::Broken(_) => Class::System,
        }
    }

    /// The status, if a server refused by one.
    pub fn status(&self) -> Option<u16> {
        match self {
            Error::Refused { refusal, .. } => Some(refusal.status),
            Error::Login { source, .. } => source.status(),
            _ => None,
        }
    }

    /// Who refused, if a server did: a silence that it asks for is owed to it, and to nobody else.
    pub fn refused_by(&self) -> Option<&Origin> {
        match self {
            Error::Refused { origin, .. } => Some(origin),
            Error::TokenService { source, .. } | Error::Login { source, .. } => source.refused_by(),
            _ => None,
        }
    }

    /// Whether the range that was asked for may be to blame, so that the whole can still be had: the
    /// answer is not that range, or it is a refusal that does not ask for credentials, for patience
    /// or for another attempt. Status 500 may be either.
    pub fn refuses_range(&self) -> bool {
        match self {
            Error::Range(error) => error.class() == Class::Range,
            Error::Refused { refusal, .. } => match refusal.answer {
                Answer::RangeRefused | Answer::NotFound | Answer::Denied | Answer::Refused => true,
                Answer::Unavailable { .. } => refusal.status == 500,
                Answer::Ok | Answer::Redirect | Answer::Challenge | Answer::RateLimited { .. } => {
                    false
                }
            },
            Error::Login { source, .. } => source.refuses_range(),
            _ => false,
        }
    }

    /// How long the server asked us to wait before asking again.
    pub fn retry_after(&self) -> Option<Duration> {
        let Error::Refused { refusal, .. } = self else {
            return match self {
                Error::TokenService { source, .. } => source.retry_after(),
                _ => None,
            };
        };
        match refusal.answer {
            Answer::RateLimited { retry_after } | Answer::Unavailable { retry_after } => {
                // The registry's wall clock and ours may differ; the bound on what is waited for
                // makes a clock that is hours off an answer for the user.
                let delay = retry_after.map(|when| when.delay(SystemTime::now()));
                // A time that has passed asks for nothing.
                delay.filter(|delay| !delay.is_zero())
            }
            _ => None,
        }
    }
}
