//! What all clients of a pull share: settings, credentials, and the tokens they were given.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::{Client, Error, Question, Timeouts};
use crate::config::NetworkConfig;
use crate::error::Class;
use crate::http::{ResponseHead, Secret};
use crate::image::Reference;
use crate::limits::{
    RECV_BUFFER_SIZE, RECV_BUFFER_SIZE_MIN, TOKEN_MARGIN, TOKEN_RESPONSE_SIZE_MAX,
};
use crate::origin::Origin;
use crate::registry::challenge::{Bearer, ChallengeError};
use crate::registry::credential::Lookup;
use crate::registry::realm::RealmGrant;
use crate::registry::token::TokenError;
use crate::registry::{
    self, AddressClass, Asked, Challenge, Credential, CredentialFile, Token, address, challenge,
    realm, token,
};
use crate::report::Reporter;
use crate::transport::tls::TlsConfig;
use crate::transport::{Connection, clock};

/// What all clients of a pull share.
pub struct Session {
    pub(super) timeouts: Timeouts,
    /// Size of the buffer a connection receives into, in bytes.
    pub(super) buffer_size: usize,
    pub(super) tls: TlsConfig,
    pub(super) reporter: Reporter,
    /// Credentials for the registry of the reference, and for no other.
    credential: Option<Credential>,
    /// Who keeps those credentials, if that is somebody we do not ask.
    helper: Option<String>,
    /// Hosts that credentials may be sent to for a token, besides those that surely belong to the
    /// registry.
    trusted_realms: Vec<String>,
    /// What to send to whom. Never held across a wait.
    granted: Mutex<HashMap<Grantor, Granted>>,
    /// Held while somebody logs in, so that others wait for what comes of it.
    logging_in: tokio::sync::Mutex<()>,
    connections: AtomicU64,
    bytes: AtomicU64,
    /// In what kind of place each origin was reached last.
    places: Mutex<HashMap<Origin, AddressClass>>,
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
        let (credential, helper) = look_up(&config.credentials, reference)?;
        Ok(Session {
            timeouts: config.timeouts,
            buffer_size: buffer_size(config.limit_rate),
            tls,
            reporter: reporter.clone(),
            credential,
            helper,
            trusted_realms: config.trusted_realms.clone(),
            granted: Mutex::default(),
            logging_in: tokio::sync::Mutex::default(),
            connections: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            places: Mutex::default(),
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
    fn place(&self, origin: &Origin) -> AddressClass {
        lock(&self.places).get(origin).copied().unwrap_or(AddressClass::Public)
    }

    /// Tells a user whose credentials we did not get at, after a refusal.
    pub(super) fn explain_refusal(&self, class: Class) {
        if let (Class::Auth, Some(name)) = (class, &self.helper) {
            self.reporter.warn(&format!(
                "the credentials for this registry are kept by docker-credential-{name}, which \
                 ringpull does not ask yet; name a file that holds them with --authfile"
            ));
        }
    }

    /// What to send with a question right away, if it is known.
    pub(super) fn authorization(&self, question: Question<'_>) -> Option<Secret> {
        let granted = lock(&self.granted);
        let Some(known) = granted.get(&grantor(question)) else {
            return self.credential.as_ref().and_then(Credential::bearer);
        };
        let good = known.until.is_none_or(|until| clock::now() < until);
        good.then(|| known.secret.clone())
    }

    fn grant(&self, question: Question<'_>, secret: &Secret, until: Option<Instant>) {
        let granted = Granted { secret: secret.clone(), until };
        lock(&self.granted).insert(grantor(question), granted);
    }
}

/// A buffer large enough for speed, and small enough for a cap on the rate to be smooth.
fn buffer_size(limit_rate: Option<u64>) -> usize {
    let twentieth = limit_rate.and_then(|rate| usize::try_from(rate / 20).ok());
    twentieth.unwrap_or(RECV_BUFFER_SIZE).clamp(RECV_BUFFER_SIZE_MIN, RECV_BUFFER_SIZE)
}

/// What the first file that knows the registry says: credentials, or the name of who keeps them.
fn look_up(
    files: &[CredentialFile],
    reference: &Reference,
) -> Result<(Option<Credential>, Option<String>), Error> {
    for file in files {
        match file.lookup(reference.registry(), reference.repository())? {
            Lookup::Absent => {}
            Lookup::Found(credential) => return Ok((Some(credential), None)),
            Lookup::Helper { name } => return Ok((None, Some(name))),
        }
    }
    Ok((None, None))
}

fn grantor(question: Question<'_>) -> Grantor {
    Grantor { origin: question.endpoint.origin(), repository: question.repository.to_owned() }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing can panic while one of these is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers the challenge in `head`, a 401 to a request that carried `used`: the authorization to try
/// next. One client at a time asks; the others take what it was given.
pub(super) async fn log_in(
    client: &Client,
    question: Question<'_>,
    head: &ResponseHead,
    used: Option<Secret>,
) -> Result<Secret, Error> {
    let session = &*client.session;
    let _turn = session.logging_in.lock().await;
    if let Some(secret) = session.authorization(question)
        && Some(&secret) != used.as_ref()
    {
        return Ok(secret);
    }
    let (secret, until) = match challenge::read(head)? {
        Challenge::Bearer(bearer) => {
            let asked_at = clock::now();
            let token = fetch_token(client, question, &bearer).await?;
            let good_for = token.lifetime.saturating_sub(TOKEN_MARGIN);
            (token.authorization(), asked_at.checked_add(good_for))
        }
        Challenge::Basic => match &session.credential {
            Some(credential) => (credential.basic()?, None),
            None => return Err(Error::NoCredentials { origin: question.endpoint.origin() }),
        },
        Challenge::Other(scheme) => {
            return Err(ChallengeError::Unsupported(scheme).into());
        }
    };
    session.grant(question, &secret, until);
    Ok(secret)
}

/// Asks the token service that a challenge names, if it may be asked.
async fn fetch_token(
    client: &Client,
    question: Question<'_>,
    bearer: &Bearer,
) -> Result<Token, Error> {
    let session = &*client.session;
    let registry = question.endpoint.origin();
    let basic = session.credential.as_ref().map(Credential::basic).transpose()?;
    let service = realm::parse(&registry, &bearer.realm)?;
    let grant = realm::check(&registry, &service, basic.is_some(), &session.trusted_realms)?;
    let url = token::request_url(&service, bearer, question.repository);
    session.reporter.note(&format!("asking {url} for a token"));
    let origin = url.origin();
    let request = token::request(url, basic.filter(|_| grant == RealmGrant::WithCredentials))?;
    let place = session.place(&registry);
    let fetching = async {
        // What the service's name resolves to is judged before a byte is sent there.
        let answer = client
            .send_where(&request, |peer| origin == registry || address::allowed(place, peer.ip()))
            .await?;
        if registry::Answer::of(Asked::Token, &answer.head) != registry::Answer::Ok {
            return Err(super::refusal(Asked::Token, answer, false).await);
        }
        let date = answer.head.get("date").and_then(|date| httpdate::parse_http_date(date).ok());
        let body = match answer.body.collect(TOKEN_RESPONSE_SIZE_MAX).await {
            Err(Error::TooLarge { .. }) => return Err(TokenError::TooLarge.into()),
            body => body?,
        };
        Ok(Token::parse(&body, date)?)
    };
    fetching.await.map_err(|source| Error::TokenService { origin, source: Box::new(source) })
}
