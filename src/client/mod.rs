//! One answered question: a request, its redirects, the registry's challenge, over connections that
//! are kept.
//!
//! ```text
//!   ask ── authorization, once more after a challenge ──┐
//!    └ follow ── redirects: one policy, credentials stay at home
//!       └ send ── a kept connection, or a new one: resolve, connect, TLS
//!          └ exchange ── bytes out, head in, body on its way
//! ```
//!
//! A [`Client`] belongs to a thread, as its connections do; a [`Session`] is what all clients of a
//! pull share: settings, credentials, tokens.

mod error;
mod exchange;
mod pool;
mod session;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

pub use error::Error;
pub use exchange::{Answer, Body};
pub use session::Session;

use crate::http::{Request, Secret};
use crate::limits::{CONNECT_TIMEOUT, HEAD_TIMEOUT, RECV_TIMEOUT, RESOLVE_TIMEOUT, TLS_TIMEOUT};
use crate::origin::{Origin, Scheme};
use crate::registry::redirect::is_redirect;
use crate::registry::{self, Asked, Endpoint, Refusal, Trail};
use crate::report::format;
use crate::transport::resolve::resolve;
use crate::transport::{Connection, Connector, Deadline, Phase};
use exchange::Unanswered;
use pool::Pool;

/// The longest each phase may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Resolving a name.
    pub resolve: Duration,
    /// Connecting to one address.
    pub connect: Duration,
    /// A whole TLS handshake.
    pub tls: Duration,
    /// A whole response head.
    pub head: Duration,
    /// Each receive, and each send.
    pub recv: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            resolve: RESOLVE_TIMEOUT,
            connect: CONNECT_TIMEOUT,
            tls: TLS_TIMEOUT,
            head: HEAD_TIMEOUT,
            recv: RECV_TIMEOUT,
        }
    }
}

/// What is asked, and of whom.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    /// The registry.
    pub endpoint: &'a Endpoint,
    /// The repository: what a token is asked for.
    pub repository: &'a str,
    /// What for: whose absence a 404 means.
    pub asked: Asked,
    /// The request, without credentials.
    pub request: &'a Request,
}

/// Asks questions of registries, over the connections of one thread.
#[derive(Clone)]
pub struct Client {
    connector: Connector,
    session: Arc<Session>,
    pool: Pool,
    /// The address that is tried last.
    avoid: Option<IpAddr>,
}

impl Client {
    /// A client whose connections are made by `connector`.
    pub fn new(connector: Connector, session: Arc<Session>) -> Client {
        Client { connector, session, pool: Pool::default(), avoid: None }
    }

    /// The same client, which asks over new connections only, at another address than `avoid` first
    /// where a host has several: for what a connection of ours was too slow for.
    pub fn afresh(&self, avoid: Option<IpAddr>) -> Client {
        Client { pool: self.pool.for_new_ones(), avoid, ..self.clone() }
    }

    /// Asks, logs in if the registry wants it, follows redirects, and returns a successful answer.
    ///
    /// # Errors
    /// See [`Error`]; a refusal of the registry is [`Error::Refused`].
    pub async fn ask(&self, question: Question<'_>) -> Result<Answer, Error> {
        let home = question.endpoint.origin();
        let mut authorization = self.session.authorization(question);
        let mut challenged = false;
        loop {
            let answer = self.follow(question.request, authorization.clone()).await?;
            let redirected = answer.origin != home;
            match registry::Answer::of(question.asked, &answer.head) {
                registry::Answer::Ok => return Ok(answer),
                // Only the registry itself is told who we are, and not again and again.
                registry::Answer::Challenge if !challenged && !redirected => {
                    challenged = true;
                    let head = answer.head.clone();
                    answer.body.discard().await;
                    let used = authorization.take();
                    authorization = Some(session::log_in(self, question, &head, used).await?);
                }
                _ => {
                    let error = refusal(question.asked, answer, redirected).await;
                    self.session.explain_refusal(error.class());
                    return Err(error);
                }
            }
        }
    }

    /// Sends a request and follows where its answers lead. What is returned is no redirect.
    async fn follow(
        &self,
        request: &Request,
        authorization: Option<Secret>,
    ) -> Result<Answer, Error> {
        let mut trail = Trail::new(request.url().clone());
        let mut next = with_authorization(request.clone(), authorization.clone())?;
        loop {
            let answer = self.send_where(&next, |_| true).await?;
            if !is_redirect(answer.head.status()) {
                return Ok(answer);
            }
            let redirect = trail.follow(&answer.head)?;
            self.session.reporter.note(&format!("redirected to {}", redirect.url));
            answer.body.discard().await;
            let kept = authorization.clone().filter(|_| redirect.keeps_credentials);
            next = with_authorization(request.clone().at(redirect.url), kept)?;
        }
    }

    /// Sends a request to the origin of its URL, as it is, at an address that is `allowed`.
    async fn send_where(
        &self,
        request: &Request,
        allowed: impl Fn(&SocketAddr) -> bool,
    ) -> Result<Answer, Error> {
        let origin = request.url().origin();
        self.session.silence().await;
        if let Some(connection) = self.pool.take(&origin)
            && allowed(&connection.peer())
        {
            match exchange::ask(connection, request, &self.session, &self.pool).await {
                // Closed while it was idle: no attempt at all.
                Err(Unanswered { untouched: true, .. }) => {}
                other => return other.map_err(|unanswered| unanswered.error),
            }
        }
        let connection = self.connect(&origin, allowed).await?;
        // Somebody else may have been refused while this one connected.
        self.session.silence().await;
        let answer = exchange::ask(connection, request, &self.session, &self.pool).await;
        answer.map_err(|unanswered| unanswered.error)
    }

    /// A new connection to `origin`, at an address that is `allowed`.
    async fn connect(
        &self,
        origin: &Origin,
        allowed: impl Fn(&SocketAddr) -> bool,
    ) -> Result<Connection, Error> {
        let Session { timeouts, tls, reporter, .. } = &*self.session;
        let deadline = Deadline::after(timeouts.resolve, Phase::Resolve);
        let mut addresses = resolve(origin.host(), origin.port(), deadline).await?;
        addresses.retain(allowed);
        if addresses.is_empty() {
            return Err(Error::AddressRefused { host: origin.host().to_owned() });
        }
        // Stable: otherwise the resolver's order.
        addresses.sort_by_key(|address| Some(address.ip()) == self.avoid);
        let mut connection = Connection::open(
            &self.connector,
            &addresses,
            timeouts.connect,
            self.session.buffer_size,
        )
        .await?;
        if origin.scheme() == Scheme::Https {
            let deadline = Deadline::after(timeouts.tls, Phase::Handshake);
            connection = connection.secure(tls, origin.host(), deadline).await?;
        }
        let number = self.session.connected(origin, &connection);
        let (peer, security) = (connection.peer(), connection.security());
        reporter.note(&format!(
            "connection {number} to {} at {peer}, {security}, {} for each receive",
            origin.authority(),
            format::duration(timeouts.recv)
        ));
        Ok(connection)
    }
}

fn with_authorization(request: Request, secret: Option<Secret>) -> Result<Request, Error> {
    Ok(match secret {
        Some(secret) => request.authorization(secret)?,
        None => request,
    })
}

/// The error of an answer that is a refusal.
async fn refusal(asked: Asked, answer: Answer, redirected: bool) -> Error {
    let Answer { head, body, .. } = answer;
    let excerpt = body.excerpt().await;
    let refusal = Box::new(Refusal::new(asked, &head, &excerpt));
    Error::Refused { refusal, redirected }
}
