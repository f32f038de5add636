//! One answered question: a request, its redirects, the registry's challenge, over connections that
//! are kept.
//!
//! ```text
//!   ask ── for a blob: where it was redirected to before, while that is good ──┐
//!    └ ask_registry ── authorization, once more after a challenge              │
//!       └ follow ── redirects: one policy, credentials stay at home            │
//!          └ send ── a kept connection, or a new one: resolve, connect, TLS ◀──┘
//!             └ exchange ── bytes out, head in, body on its way
//! ```
//!
//! A [`Client`] belongs to a thread, as its connections do; a [`Session`] is what all clients of a
//! pull share: settings, credentials, tokens, redirects of blobs, addresses that are dead.

mod addresses;
mod error;
mod exchange;
mod login;
mod pool;
mod redirects;
mod session;
mod turnstile;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

pub use error::Error;
pub use exchange::{Answer, Body};
pub use session::Session;

use crate::error::Class;
use crate::http::{HttpUrl, Request, ResponseHead, Secret};
use crate::limits::{
    CONNECT_TIMEOUT, DOCUMENT_TIMEOUT, HEAD_TIMEOUT, RECV_TIMEOUT, RESOLVE_TIMEOUT, TLS_TIMEOUT,
};
use crate::origin::{Origin, Scheme};
use crate::registry::address::{self, Errand};
use crate::registry::redirect::{RedirectError, is_redirect};
use crate::registry::{self, Asked, Challenge, Endpoint, Refusal, Shortcut, Trail, challenge};
use crate::report::{WaitedFor, Waiting, format};
use crate::transport::race::{self, Lost};
use crate::transport::{self, Connection, Connector, Deadline, Phase, clock};
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
    /// A whole manifest, index or answer of a token service, and a second more for each
    /// [`DOCUMENT_SPEED_MIN`](crate::limits::DOCUMENT_SPEED_MIN) bytes of it.
    pub document: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            resolve: RESOLVE_TIMEOUT,
            connect: CONNECT_TIMEOUT,
            tls: TLS_TIMEOUT,
            head: HEAD_TIMEOUT,
            recv: RECV_TIMEOUT,
            document: DOCUMENT_TIMEOUT,
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
    /// Where it is written down what is waited for.
    waiting: Waiting,
}

impl Client {
    /// A client whose connections are made by `connector`.
    pub fn new(connector: Connector, session: Arc<Session>) -> Client {
        Client {
            connector,
            session,
            pool: Pool::default(),
            avoid: None,
            waiting: Waiting::default(),
        }
    }

    /// The same client, which writes down there what it waits for.
    pub fn shown_by(&self, waiting: Waiting) -> Client {
        Client { waiting, ..self.clone() }
    }

    /// Where it is written down what is waited for.
    pub fn waiting(&self) -> &Waiting {
        &self.waiting
    }

    /// The same client, which asks over new connections only, at another address than `avoid` first
    /// where a host has several: for what a connection of ours was too slow for.
    pub fn afresh(&self, avoid: Option<IpAddr>) -> Client {
        Client { pool: self.pool.for_new_ones(), avoid, ..self.clone() }
    }

    /// Asks, logs in if the registry wants it, follows redirects, and returns a successful answer.
    ///
    /// Where a blob was redirected to is asked for its further pieces too, as long as that answers. For
    /// the whole of a blob the registry is asked: it is the first question, or one after something was
    /// wrong with what came from there.
    ///
    /// # Errors
    /// See [`Error`]; a refusal of the registry is [`Error::Refused`].
    pub async fn ask(&self, question: Question<'_>) -> Result<Answer, Error> {
        if question.asked != Asked::Blob {
            return Ok(self.ask_registry(question, false).await?.0);
        }
        if question.request.requested_range().is_none() {
            return self.ask_and_learn(question, false).await;
        }
        let redirects = &self.session.redirects;
        let url = question.request.url();
        let mut refused = false;
        if let Some(target) = redirects.target(url, clock::now()) {
            if let Some(answer) = self.ask_storage(question, &target).await? {
                return Ok(answer);
            }
            refused = true;
        }
        let Some(renewing) = redirects.renewing(url) else {
            return self.ask_and_learn(question, false).await;
        };
        let turn = renewing.pass().await;
        if let Some(target) = redirects.target(url, clock::now()) {
            // Somebody else has asked for it meanwhile.
            drop(turn);
            if let Some(answer) = self.ask_storage(question, &target).await? {
                return Ok(answer);
            }
            return self.ask_and_learn(question, true).await;
        }
        let answer = self.ask_and_learn(question, refused).await;
        if answer.is_err() {
            renewing.failed();
        }
        answer
    }

    /// Asks for a blob at `url`, which a manifest names outside of the registry, and follows where
    /// that leads. Nothing but the request goes there: no credentials, whoever it is, and no answer
    /// to a challenge. It must not be in a network of one's own, unless the registry is there.
    ///
    /// # Errors
    /// See [`Error`]; a refusal, by a challenge too, is [`Error::Refused`].
    pub async fn ask_elsewhere(
        &self,
        question: Question<'_>,
        url: HttpUrl,
    ) -> Result<Answer, Error> {
        let place = self.session.place(&question.endpoint.origin());
        let mut trail = Trail::new(url.clone());
        let mut request = question.request.clone().at(url);
        loop {
            let allowed = |peer: &SocketAddr| address::allowed(Errand::Foreign, place, peer.ip());
            let answer = self.send_where(&request, allowed).await?;
            if is_redirect(answer.head.status()) {
                let redirect = trail.follow(&answer.head)?;
                self.session.reporter.note(&format!("redirected to {}", redirect.url));
                answer.body.discard().await;
                request = request.at(redirect.url);
                continue;
            }
            return match registry::Answer::of(question.asked, &answer.head) {
                registry::Answer::Ok => Ok(answer),
                _ => Err(refusal(question.asked, answer, false).await),
            };
        }
    }

    /// Asks for a blob where it was redirected to before. `None` if that is good no more.
    async fn ask_storage(
        &self,
        question: Question<'_>,
        target: &Shortcut,
    ) -> Result<Option<Answer>, Error> {
        let refuse = || self.session.redirects.refuse(question.request.url(), &target.url);
        // The question has no credentials, and what comes from a redirect gets none.
        let request = question.request.clone().at(target.url.clone());
        let answer = match self.send_where(&request, |peer| target.allows(peer.ip())).await {
            Ok(answer) => answer,
            // By now its name leads where nothing is sent. The registry may name another one.
            Err(Error::AddressRefused { .. }) => {
                refuse();
                return Ok(None);
            }
            Err(error) => {
                // The registry may know of another storage by the next attempt.
                refuse();
                return Err(error);
            }
        };
        match registry::Answer::of(question.asked, &answer.head) {
            registry::Answer::Ok => Ok(Some(answer)),
            // It would say the same behind another signature.
            registry::Answer::RateLimited { .. }
            | registry::Answer::Unavailable { .. }
            | registry::Answer::RangeRefused => Err(refusal(question.asked, answer, true).await),
            // Stores say in many ways that a signature has expired: 403, 401, 404, 410; Amazon's, of
            // the token within it, 400.
            registry::Answer::Redirect
            | registry::Answer::Challenge
            | registry::Answer::NotFound
            | registry::Answer::Denied
            | registry::Answer::Refused => {
                let (from, status) = (&answer.origin, answer.head.status());
                let text = format!("{from} answers {status}: the registry is asked where to go");
                self.session.reporter.note(&text);
                refuse();
                answer.body.discard().await;
                Ok(None)
            }
        }
    }

    /// Asks the registry for a blob, and keeps in mind where it led. `refused`: as in
    /// [`ask_registry`](Client::ask_registry).
    async fn ask_and_learn(&self, question: Question<'_>, refused: bool) -> Result<Answer, Error> {
        let redirects = &self.session.redirects;
        let url = question.request.url();
        let asked_at = clock::now();
        match self.ask_registry(question, refused).await {
            Ok((answer, trail)) => {
                redirects.learn(url, trail.shortcut(), asked_at);
                Ok(answer)
            }
            Err(error) => {
                redirects.forget(url);
                Err(error)
            }
        }
    }

    /// Asks the registry itself, logs in, follows redirects: a successful answer, and how it was
    /// come by.
    ///
    /// If the server that the registry redirects to refuses, the registry is asked once more: the
    /// redirect may have expired, and the registry may know of another place. `refused`: that has
    /// happened already.
    async fn ask_registry(
        &self,
        question: Question<'_>,
        mut refused: bool,
    ) -> Result<(Answer, Trail), Error> {
        let home = question.endpoint.origin();
        let mut authorization = session::authorization(self, question).await?;
        let mut challenged = false;
        loop {
            let (answer, trail) = self.follow(question.request, authorization.clone()).await?;
            let redirected = answer.origin != home;
            let meaning = registry::Answer::of(question.asked, &answer.head);
            if meaning == registry::Answer::Ok {
                return Ok((answer, trail));
            }
            // Only the registry itself is told who we are, and not again and again.
            if !challenged
                && !redirected
                && let Some(challenge) =
                    self.session.challenge(meaning, &answer.head, authorization.as_ref())
            {
                challenged = true;
                answer.body.discard().await;
                let used = authorization.take();
                authorization = Some(session::log_in(self, question, challenge, used).await?);
                continue;
            }
            let may_be_signed_anew = matches!(
                meaning,
                registry::Answer::Challenge
                    | registry::Answer::NotFound
                    | registry::Answer::Denied
                    | registry::Answer::Refused
            );
            if may_be_signed_anew && redirected && !refused && !wants_login(&answer.head) {
                refused = true;
                let (from, status) = (&answer.origin, answer.head.status());
                let text = format!("{from} answers {status}: the registry is asked once more");
                self.session.reporter.note(&text);
                answer.body.discard().await;
                continue;
            }
            let error = refusal(question.asked, answer, redirected).await;
            // A storage is sent no credentials.
            return Err(if redirected { error } else { self.session.login.explain(error) });
        }
    }

    /// Sends a request and follows where its answers lead. What is returned is no redirect.
    async fn follow(
        &self,
        request: &Request,
        authorization: Option<Secret>,
    ) -> Result<(Answer, Trail), Error> {
        let mut trail = Trail::new(request.url().clone());
        let first = with_authorization(request.clone(), authorization.clone())?;
        let mut answer = self.send_where(&first, |_| true).await?;
        self.session.show_warnings(&answer.origin, &answer.head);
        while is_redirect(answer.head.status()) {
            trail.answered_at(answer.peer.ip());
            let redirect = trail.follow(&answer.head)?;
            self.session.reporter.note(&format!("redirected to {}", redirect.url));
            answer.body.discard().await;
            let kept = authorization.clone().filter(|_| redirect.keeps_credentials);
            let next = with_authorization(request.clone().at(redirect.url.clone()), kept)?;
            let sent = self.send_where(&next, |peer| redirect.allows(peer.ip())).await;
            let from = answer.origin;
            answer = sent.map_err(|error| match error {
                Error::AddressRefused { .. } => {
                    RedirectError::Address { from, to: redirect.url.origin() }.into()
                }
                error => error,
            })?;
        }
        Ok((answer, trail))
    }

    /// Sends a request to the origin of its URL, as it is, at an address that is `allowed`.
    async fn send_where(
        &self,
        request: &Request,
        allowed: impl Fn(&SocketAddr) -> bool,
    ) -> Result<Answer, Error> {
        let origin = request.url().origin();
        self.session.silence(&origin).await;
        if let Some(connection) = self.pool.take(&origin)
            && allowed(&connection.peer())
        {
            self.waiting.begin(WaitedFor::Answer(origin.authority()));
            match exchange::ask(connection, request, &self.session, &self.pool).await {
                // Closed while it was idle: no attempt at all.
                Err(Unanswered { untouched: true, .. }) => {}
                other => return other.map_err(|unanswered| unanswered.error),
            }
        }
        let connection = self.connect(&origin, allowed).await?;
        // Somebody else may have been refused while this one connected.
        self.session.silence(&origin).await;
        let peer = connection.peer();
        self.waiting.begin(WaitedFor::Answer(origin.authority()));
        let answer = exchange::ask(connection, request, &self.session, &self.pool).await;
        answer.map_err(|Unanswered { error, .. }| {
            // Accepted, and then not served: the next attempt had better go elsewhere.
            self.session.distrust(peer);
            error
        })
    }

    /// A new connection to `origin`, at an address that is `allowed`.
    async fn connect(
        &self,
        origin: &Origin,
        allowed: impl Fn(&SocketAddr) -> bool,
    ) -> Result<Connection, Error> {
        let Session { timeouts, tls, reporter, .. } = &*self.session;
        self.waiting.begin(WaitedFor::Addresses(origin.host().to_owned()));
        let deadline = Deadline::after(timeouts.resolve, Phase::Resolve);
        let resolver = &self.session.resolver;
        let mut addresses = resolver.resolve(origin.host(), origin.port(), deadline).await?;
        addresses.retain(allowed);
        if addresses.is_empty() {
            return Err(Error::AddressRefused { host: origin.host().to_owned() });
        }
        race::interleave(&mut addresses);
        // Stable: otherwise the resolver's order, the families in turn.
        addresses.sort_by_key(|address| Some(address.ip()) == self.avoid);
        self.waiting.begin(WaitedFor::Connection(origin.authority()));
        let opened = self.open(&mut addresses).await;
        let mut connection = opened.inspect_err(|_| resolver.forget(origin.host()))?;
        if origin.scheme() == Scheme::Https {
            self.waiting.begin(WaitedFor::Handshake(origin.authority()));
            let deadline = Deadline::after(timeouts.tls, Phase::Handshake);
            let peer = connection.peer();
            let secured = connection.secure(tls, origin.host(), deadline).await;
            connection = secured.inspect_err(|_| self.session.distrust(peer))?;
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

    /// A connection to the first of `addresses` that accepts one ([`race`]). Those that are known to be
    /// slow or dead are tried last.
    async fn open(&self, addresses: &mut [SocketAddr]) -> Result<Connection, transport::Error> {
        let Session { timeouts, addresses: known, buffer_size, race_places, reporter, .. } =
            &*self.session;
        known.sort(addresses);
        if known.are_unreachable(addresses, clock::now())
            && let Some(&address) = addresses.last()
        {
            let deadline = Deadline::after(timeouts.connect, Phase::Connect);
            let source = Box::new(transport::Error::expired(deadline));
            return Err(transport::Error::Address { address, source });
        }
        let learn = |address, lost: Lost<'_>| match lost {
            Lost::Failed(error) => {
                let silent = error.class() == Class::ConnectTimeout;
                known.failed(address, silent, clock::now());
            }
            // The next connection begins with the one that answered.
            Lost::Overtaken => {
                reporter.note(&format!("{address} did not answer, and another address did"));
                known.distrust(address, clock::now());
            }
        };
        let (socket, peer) =
            race::connect(&self.connector, addresses, timeouts.connect, race_places, learn).await?;
        known.accepted(peer);
        Ok(Connection::over(socket, peer, *buffer_size))
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
    let Answer { head, body, origin, .. } = answer;
    let excerpt = body.excerpt().await;
    if origin.scheme() == Scheme::Http && registry::answer::wants_tls(head.status(), &excerpt) {
        return transport::Error::WantsTls.into();
    }
    let refusal = Box::new(Refusal::new(asked, &head, &excerpt));
    Error::Refused { refusal, origin, redirected }
}

/// Whether a server wants a user name or a token. A storage that finds a signed URL expired does not:
/// another registry does, and it would ask again.
fn wants_login(head: &ResponseHead) -> bool {
    head.status() == 401
        && matches!(challenge::read(head), Ok(Challenge::Bearer(_) | Challenge::Basic))
}
