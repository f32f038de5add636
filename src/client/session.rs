//! What all clients of a pull share: settings, credentials, and the tokens they were given.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::addresses::Addresses;
use super::login::Login;
use super::redirects::Redirects;
use super::turnstile::Turnstile;
use super::{Client, Error, Question, Timeouts};
use crate::config::NetworkConfig;
use crate::error::Retry;
use crate::http::{ResponseHead, Secret};
use crate::image::Reference;
use crate::limits::{
    RECV_BUFFER_SIZE, RECV_BUFFER_SIZE_MIN, TOKEN_MARGIN, TOKEN_RESPONSE_SIZE_MAX, WARNINGS_MAX,
};
use crate::origin::Origin;
use crate::registry::address::Errand;
use crate::registry::challenge::{Bearer, ChallengeError};
use crate::registry::realm::{RealmGrant, RealmRefused};
use crate::registry::token::TokenError;
use crate::registry::{
    self, AddressClass, Asked, Challenge, Credential, Token, address, challenge, realm, token,
    warning,
};
use crate::report::Reporter;
use crate::transport::race::Places;
use crate::transport::tls::TlsConfig;
use crate::transport::{Connection, Resolver, clock};

/// What all clients of a pull share.
pub struct Session {
    pub(super) timeouts: Timeouts,
    /// Size of the buffer a connection receives into, in bytes.
    pub(super) buffer_size: usize,
    pub(super) tls: TlsConfig,
    pub(super) reporter: Reporter,
    /// Credentials for the registry of the reference, and for no other.
    pub(super) login: Login,
    /// Hosts that credentials may be sent to for a token, besides those that surely belong to the
    /// registry.
    trusted_realms: Vec<String>,
    /// What to send to whom. Never held across a wait.
    granted: Mutex<HashMap<Grantor, Granted>>,
    /// Where others wait while somebody logs in.
    logging_in: Turnstile,
    /// Where blobs are.
    pub(super) redirects: Redirects,
    /// Which addresses are worth a try.
    pub(super) addresses: Addresses,
    /// Looks names up, once for all connections.
    pub(super) resolver: Resolver,
    /// Attempts to connect beside the first one of each connection.
    pub(super) race_places: Places,
    connections: AtomicU64,
    bytes: AtomicU64,
    /// In what kind of place each origin was reached last.
    places: Mutex<HashMap<Origin, AddressClass>>,
    /// Until when who is asked nothing.
    silences: Mutex<HashMap<Origin, Instant>>,
    /// Warnings of the registry that were shown.
    warnings: Mutex<BTreeSet<String>>,
}

/// What an authorization is good for: a repository at an origin.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Grantor {
    origin: Origin,
    repository: String,
}

/// An authorization, and when it ends.
struct Granted {
    secret: Secret,
    until: Option<Instant>,
    /// What the registry wanted for it; of a token, which ends.
    bearer: Option<Bearer>,
}

impl Session {
    /// A session for pulling `reference`.
    ///
    /// # Errors
    /// [`Error::Credential`] if the entry for the registry cannot be read.
    pub fn new(
        config: &NetworkConfig,
        tls: TlsConfig,
        reference: &Reference,
        reporter: &Reporter,
    ) -> Result<Session, Error> {
        for note in tls.notes() {
            reporter.note(&format!("the system's certificates: {note}"));
        }
        let login = Login::new(&config.credentials, reference)?;
        Ok(Session {
            timeouts: config.timeouts,
            buffer_size: buffer_size(config.limit_rate),
            tls,
            reporter: reporter.clone(),
            login,
            trusted_realms: config.trusted_realms.clone(),
            granted: Mutex::default(),
            logging_in: Turnstile::default(),
            redirects: Redirects::default(),
            addresses: Addresses::default(),
            resolver: Resolver::new(),
            race_places: Places::new(),
            connections: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            places: Mutex::default(),
            silences: Mutex::default(),
            warnings: Mutex::default(),
        })
    }

    /// How many connections were opened.
    pub fn connections_opened(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// How many bytes of bodies were received, those of manifests and tokens included.
    pub fn bytes_received(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// A server asked for silence: no request is sent to its origin before `until`; others are asked
    /// as before. Whether that is news, and not one more answer to requests that were under way.
    pub fn keep_silence(&self, origin: &Origin, until: Instant) -> bool {
        /// Answers to requests that were sent at about the same time mean the same silence.
        const MOMENT: Duration = Duration::from_secs(1);
        let mut silences = lock(&self.silences);
        // Only those that last are kept, so that their number is that of the servers in use.
        let now = clock::now();
        let before = silences.get(origin).copied();
        silences.retain(|_, until| now < *until);
        silences.insert(origin.clone(), before.map_or(until, |before| before.max(until)));
        before.is_none_or(|before| until.saturating_duration_since(before) > MOMENT)
    }

    /// Waits until the server at `origin` may be asked.
    pub(super) async fn silence(&self, origin: &Origin) {
        loop {
            let until = lock(&self.silences).get(origin).copied();
            let until = until.filter(|until| clock::now() < *until);
            match until {
                Some(until) => tokio::time::sleep_until(until.into()).await,
                None => return,
            }
        }
    }

    /// A connection to `address` fell silent, or is slow: connections made later prefer the other
    /// addresses of its host, if it has any.
    pub fn distrust(&self, address: SocketAddr) {
        self.addresses.distrust(address, clock::now());
    }

    /// Counts bytes of a body.
    pub(super) fn received(&self, count: usize) {
        self.bytes.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Counts a connection; returns its number, from 1.
    pub(super) fn connected(&self, origin: &Origin, connection: &Connection) -> u64 {
        lock(&self.places).insert(origin.clone(), AddressClass::of(connection.peer().ip()));
        self.connections.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// In what kind of place `origin` is, as far as we have been there.
    pub(super) fn place(&self, origin: &Origin) -> AddressClass {
        lock(&self.places).get(origin).copied().unwrap_or(AddressClass::Public)
    }

    /// Shows what the registry warns of in `head`: each text once, and at most [`WARNINGS_MAX`].
    pub(super) fn show_warnings(&self, registry: &Origin, head: &ResponseHead) {
        for text in warning::read(head) {
            let mut shown = lock(&self.warnings);
            if shown.len() > WARNINGS_MAX || !shown.insert(text.clone()) {
                continue;
            }
            let count = shown.len();
            drop(shown);
            self.reporter.warn(&match count {
                0..=WARNINGS_MAX => format!("{} says: {text}", registry.authority()),
                _ => format!("{} warns of more, which is not shown", registry.authority()),
            });
        }
    }

    /// The challenge that is to be answered in `head`, a refusal of the registry itself of a request
    /// that carried `used`: that of a 401, or one of a 403 that can be answered. Some registries
    /// answer 403 to who is not logged in, or whose token opens too little (RFC 6750 section 3.1).
    pub(super) fn challenge(
        &self,
        meaning: registry::Answer,
        head: &ResponseHead,
        used: Option<&Secret>,
    ) -> Option<Result<Challenge, ChallengeError>> {
        let can_be_answered = |challenge: &Challenge| match challenge {
            Challenge::Bearer(_) => true,
            Challenge::Basic => {
                let basic = self.login.credential.as_ref().and_then(|known| known.basic().ok());
                basic.is_some() && basic.as_ref() != used
            }
            Challenge::Other(_) => false,
        };
        match meaning {
            registry::Answer::Challenge => Some(challenge::read(head)),
            registry::Answer::Denied => challenge::read(head).ok().filter(can_be_answered).map(Ok),
            _ => None,
        }
    }

    /// What can be sent with a question, if that is known.
    fn authorization(&self, question: Question<'_>) -> Option<Secret> {
        let granted = lock(&self.granted);
        let Some(known) = granted.get(&grantor(question)) else {
            let token = self.login.credential.as_ref().and_then(Credential::bearer);
            if token.is_some() {
                self.login.was_sent();
            }
            return token;
        };
        let now = clock::now();
        known.until.is_none_or(|until| now < until).then(|| known.secret.clone())
    }

    /// A token that has ended or is about to, and what the registry wanted for it.
    fn ended(&self, question: Question<'_>) -> Option<(Secret, Bearer)> {
        let granted = lock(&self.granted);
        let known = granted.get(&grantor(question))?;
        let now = clock::now();
        let ended = known.until.is_some_and(|until| until <= now);
        let bearer = known.bearer.clone().filter(|_| ended)?;
        Some((known.secret.clone(), bearer))
    }
}

/// A buffer large enough for speed, and small enough for a cap on the rate to be smooth.
fn buffer_size(limit_rate: Option<u64>) -> usize {
    let twentieth = limit_rate.and_then(|rate| usize::try_from(rate / 20).ok());
    twentieth.unwrap_or(RECV_BUFFER_SIZE).clamp(RECV_BUFFER_SIZE_MIN, RECV_BUFFER_SIZE)
}

fn grantor(question: Question<'_>) -> Grantor {
    Grantor { origin: question.endpoint.origin(), repository: question.repository.to_owned() }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing can panic while one of these is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What to send with a question right away, if it is known. A token that is about to end is renewed
/// first: otherwise each of those who use it would have to be refused once.
pub(super) async fn authorization(
    client: &Client,
    question: Question<'_>,
) -> Result<Option<Secret>, Error> {
    let Some((used, bearer)) = client.session.ended(question) else {
        return Ok(client.session.authorization(question));
    };
    match log_in(client, question, Ok(Challenge::Bearer(bearer)), Some(used)).await {
        Ok(secret) => Ok(Some(secret)),
        // The registry may want something else by now: its refusal will tell.
        Err(error) if error.class().retry() == Retry::Never => Ok(None),
        Err(error) => Err(error),
    }
}

/// Answers `challenge`, after a request that carried `used` was refused or would be: the
/// authorization to try next. One client at a time asks; the others take what it was given.
pub(super) async fn log_in(
    client: &Client,
    question: Question<'_>,
    challenge: Result<Challenge, ChallengeError>,
    used: Option<Secret>,
) -> Result<Secret, Error> {
    let session = &*client.session;
    let _turn = session.logging_in.pass().await;
    if let Some(secret) = session.authorization(question)
        && Some(&secret) != used.as_ref()
    {
        return Ok(secret);
    }
    let granted = match answer(client, question, challenge).await {
        Ok(granted) => granted,
        Err(error) => {
            session.logging_in.failed();
            return Err(session.login.explain(error));
        }
    };
    let secret = granted.secret.clone();
    lock(&session.granted).insert(grantor(question), granted);
    Ok(secret)
}

/// What a challenge wants, as far as there is such a thing.
async fn answer(
    client: &Client,
    question: Question<'_>,
    challenge: Result<Challenge, ChallengeError>,
) -> Result<Granted, Error> {
    match challenge? {
        Challenge::Bearer(bearer) => {
            let asked_at = clock::now();
            let token = fetch_token(client, question, &bearer).await?;
            let good_for = token.lifetime.saturating_sub(TOKEN_MARGIN);
            let until = asked_at.checked_add(good_for);
            Ok(Granted { secret: token.authorization(), until, bearer: Some(bearer) })
        }
        Challenge::Basic => match &client.session.login.credential {
            Some(credential) => {
                let secret = credential.basic()?;
                client.session.login.was_sent();
                Ok(Granted { secret, until: None, bearer: None })
            }
            None => Err(Error::NoCredentials { origin: question.endpoint.origin() }),
        },
        Challenge::Other(scheme) => Err(ChallengeError::Unsupported(scheme).into()),
    }
}

/// Asks the token service that a challenge names, if it may be asked.
async fn fetch_token(
    client: &Client,
    question: Question<'_>,
    bearer: &Bearer,
) -> Result<Token, Error> {
    let session = &*client.session;
    let registry = question.endpoint.origin();
    let basic = session.login.credential.as_ref().map(Credential::basic).transpose()?;
    let service = realm::parse(&registry, &bearer.realm)?;
    let grant = realm::check(&registry, &service, basic.is_some(), &session.trusted_realms)?;
    let url = token::request_url(&service, bearer, question.repository);
    session.reporter.note(&format!("asking {url} for a token"));
    let origin = url.origin();
    let basic = basic.filter(|_| grant == RealmGrant::WithCredentials);
    if basic.is_some() {
        session.login.was_sent();
    }
    let request = token::request(url, basic)?;
    let place = session.place(&registry);
    let client = client.shown_by(client.waiting().on_behalf_of("a token"));
    let trusted = realm::is_trusted(&origin, &session.trusted_realms);
    let errand = if trusted { Errand::TrustedToken } else { Errand::Token };
    let fetching = async {
        // What the service's name resolves to is judged before a byte is sent there.
        let allowed = |ip| origin == registry || address::allowed(errand, place, ip);
        let answer = client.send_where(&request, |peer| allowed(peer.ip())).await;
        let answer = answer.map_err(|error| match error {
            Error::AddressRefused { .. } => {
                let (registry, realm) = (registry.clone(), origin.clone());
                Error::Realm(match trusted {
                    true => RealmRefused::Address { registry, realm },
                    false => RealmRefused::Near { registry, realm },
                })
            }
            error => error,
        })?;
        if registry::Answer::of(Asked::Token, &answer.head) != registry::Answer::Ok {
            return Err(super::refusal(Asked::Token, answer, false).await);
        }
        answer.head.check_content_encoding()?;
        let date = answer.head.get("date").and_then(|date| httpdate::parse_http_date(date).ok());
        let body = match answer.body.collect(TOKEN_RESPONSE_SIZE_MAX).await {
            Err(Error::TooLarge { .. }) => return Err(TokenError::TooLarge.into()),
            body => body?,
        };
        Ok(Token::parse(&body, date)?)
    };
    match fetching.await {
        // It names the service itself.
        Err(refused @ Error::Realm(_)) => Err(refused),
        Err(source) => Err(Error::TokenService { origin, source: Box::new(source) }),
        token => token,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::demo::{Auth, Image, Kind, Options, Registry};
    use crate::http::Method;
    use crate::registry::{Endpoint, EndpointOptions, request};
    use crate::report::{Style, Verbosity};
    use crate::transport::{Engine, EngineKind};

    /// Asks for a manifest again and again, and what the registry saw of it; before each question but
    /// the first, `meanwhile` happens.
    fn asking(times: usize, meanwhile: impl Fn(&Registry, &Session)) -> Vec<Kind> {
        let auth = Some(Auth::Bearer(crate::demo::Bearer::default()));
        let registry = Registry::start(Options { auth, ..Options::default() }).unwrap();
        registry.add("demo", "latest", &Image::generate(1, &[1]));
        let reference = Reference::parse(&registry.reference("demo", "latest")).unwrap();
        let endpoint = Endpoint::for_reference(&reference, &EndpointOptions::default()).unwrap();
        let config = NetworkConfig::default();
        let reporter = Reporter::new(Verbosity::Quiet, Style::Lines);
        let tls = TlsConfig::new(&config.tls).unwrap();
        let session = Arc::new(Session::new(&config, tls, &reference, &reporter).unwrap());
        let engine = Engine::start(EngineKind::Epoll, 4).unwrap();
        engine.run(async {
            let client = Client::new(engine.connector(), Arc::clone(&session));
            for nth in 0..times {
                if nth > 0 {
                    meanwhile(&registry, &session);
                }
                let url = endpoint.manifest_url("demo", "latest").unwrap();
                let request = request::manifest(Method::Get, url).unwrap();
                let question = Question {
                    endpoint: &endpoint,
                    repository: "demo",
                    asked: Asked::Manifest,
                    request: &request,
                };
                let answer = client.ask(question).await.unwrap();
                answer.body.collect(1 << 20).await.unwrap();
            }
        });
        registry.log().iter().map(|line| line.kind).collect()
    }

    #[test]
    fn a_silence_is_kept_towards_the_server_that_asked_for_it() {
        let (config, reporter) =
            (NetworkConfig::default(), Reporter::new(Verbosity::Quiet, Style::Lines));
        let tls = TlsConfig::new(&config.tls).unwrap();
        let reference = Reference::parse("registry.example/demo").unwrap();
        let session = Session::new(&config, tls, &reference, &reporter).unwrap();
        let origin = |host| Origin::new(crate::origin::Scheme::Https, host, 443).unwrap();
        let [registry, storage] = ["registry.example", "storage.example"].map(origin);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let minute = Duration::from_secs(60);
            assert!(session.keep_silence(&storage, clock::now() + minute));
            let waits = async |origin: &Origin| {
                tokio::time::timeout(minute / 2, session.silence(origin)).await.is_err()
            };
            assert!(!waits(&registry).await && waits(&storage).await);
            assert!(session.keep_silence(&registry, clock::now() + 2 * minute));
            assert!(!session.keep_silence(&registry, clock::now() + minute), "no news");
            tokio::time::sleep(minute).await;
            assert!(waits(&registry).await && !waits(&storage).await);
        });
    }

    #[test]
    fn warnings_are_shown_once_and_not_without_end() {
        let reference = Reference::parse("registry.test/demo").unwrap();
        let config = NetworkConfig::default();
        let (reporter, captured) = Reporter::captured(Verbosity::Quiet);
        let tls = TlsConfig::new(&config.tls).unwrap();
        let session = Session::new(&config, tls, &reference, &reporter).unwrap();
        let endpoint = Endpoint::for_reference(&reference, &EndpointOptions::default()).unwrap();
        let warn = |text: &str| {
            let head = format!("HTTP/1.1 200 x\r\nWarning: 299 - \"{text}\"\r\n\r\n");
            let (_, head) = ResponseHead::parse(head.as_bytes()).unwrap().unwrap();
            session.show_warnings(&endpoint.origin(), &head);
        };
        for _ in 0..3 {
            warn("once");
        }
        let expected = "ringpull: warning: registry.test says: once\n";
        assert_eq!(captured.stderr(), expected);
        for nth in 0..1000 {
            warn(&format!("another {nth}"));
        }
        let shown = captured.stderr();
        assert_eq!(shown.lines().count(), WARNINGS_MAX + 1, "{shown}");
        assert!(shown.ends_with("registry.test warns of more, which is not shown\n"), "{shown}");
        assert_eq!(lock(&session.warnings).len(), WARNINGS_MAX + 1, "memory is bounded");
    }

    fn end_all(session: &Session) {
        for granted in lock(&session.granted).values_mut() {
            granted.until = Some(clock::now());
        }
    }

    #[test]
    fn a_token_is_renewed_before_it_ends() {
        use Kind::{Challenge, Manifest, Token};
        let first = [Challenge, Token, Manifest];
        assert_eq!(asking(3, |_, _| {}), [&first[..], &[Manifest, Manifest]].concat());
        let renewed = asking(2, |registry, session| {
            registry.expire_tokens();
            end_all(session);
        });
        assert_eq!(renewed, [&first[..], &[Token, Manifest]].concat(), "without a second refusal");
    }

    #[test]
    fn a_token_that_ends_early_is_renewed_after_a_refusal() {
        use Kind::{Challenge, Manifest, Token};
        let first = [Challenge, Token, Manifest];
        let refused = asking(2, |registry, _| registry.expire_tokens());
        assert_eq!(refused, [&first[..], &first].concat());
    }

    #[test]
    fn a_challenge_that_is_out_of_date_is_asked_for_again() {
        use Kind::{Challenge, Manifest, Other, Token};
        let moved = asking(2, |registry, session| {
            registry.expire_tokens();
            end_all(session);
            for granted in lock(&session.granted).values_mut() {
                if let Some(bearer) = &mut granted.bearer {
                    bearer.realm = format!("{}/moved", registry.origin());
                }
            }
        });
        let first = [Challenge, Token, Manifest];
        assert_eq!(moved, [&first[..], &[Other], &first].concat());
    }
}
