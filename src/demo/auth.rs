//! Who may ask: Basic, or Bearer tokens from the registry's own token service.

use std::collections::HashMap;
use std::fmt;
use std::sync::Mutex;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use url::form_urlencoded;

use super::lock;
use super::request::Request;

/// Name of the service in challenges.
const SERVICE: &str = "ringpull-demo";

/// What a registry asks for.
#[derive(Debug, Clone)]
pub enum Auth {
    /// The same credentials with each request (RFC 7617).
    Basic(Credentials),
    /// A token with each request, from a token service (distribution, `docs/spec/auth/token.md`).
    Bearer(Bearer),
}

/// How tokens are given out.
#[derive(Debug, Clone, Default)]
pub struct Bearer {
    /// What the token service asks for; `None` gives tokens to anyone.
    pub credentials: Option<Credentials>,
    /// Whether the token service listens on a port of its own, and so is another origin.
    pub own_port: bool,
    /// Requests that a token is good for; after them it has expired. `None` is for ever.
    pub uses_per_token: Option<u64>,
    /// A realm to name in challenges instead of the token service's URL.
    pub realm: Option<String>,
}

/// A user name and a password. `Debug` hides the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub user: String,
    /// The password.
    pub password: String,
}

impl Credentials {
    /// Credentials of these texts.
    pub fn new(user: &str, password: &str) -> Credentials {
        Credentials { user: user.to_owned(), password: password.to_owned() }
    }

    fn authorize(&self, request: &Request) -> bool {
        let encoded = STANDARD.encode(format!("{}:{}", self.user, self.password));
        authorization(request, "Basic") == Some(&encoded)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Why a request is refused: the challenge to send along.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Challenge(pub(super) String);

/// Checks requests, and gives out tokens.
pub(super) struct Guard {
    auth: Option<Auth>,
    /// URL of the token service.
    realm: String,
    tokens: Mutex<HashMap<String, Token>>,
}

struct Token {
    scopes: Vec<String>,
    uses: u64,
    expired: bool,
}

impl Guard {
    pub(super) fn new(auth: Option<Auth>, token_service: String) -> Guard {
        let realm = match &auth {
            Some(Auth::Bearer(Bearer { realm: Some(realm), .. })) => realm.clone(),
            _ => token_service,
        };
        Guard { auth, realm, tokens: Mutex::default() }
    }

    /// Whether a request to the registry may be answered. `repository` is what it wants to pull.
    pub(super) fn check(
        &self,
        request: &Request,
        repository: Option<&str>,
    ) -> Result<(), Challenge> {
        match &self.auth {
            None => Ok(()),
            Some(Auth::Basic(credentials)) if credentials.authorize(request) => Ok(()),
            Some(Auth::Basic(_)) => Err(Challenge(basic_challenge())),
            Some(Auth::Bearer(bearer)) => self.check_token(bearer, request, repository),
        }
    }

    fn check_token(
        &self,
        bearer: &Bearer,
        request: &Request,
        repository: Option<&str>,
    ) -> Result<(), Challenge> {
        let scope = repository.map(|name| format!("repository:{name}:pull"));
        let refused = |error: &str| {
            let mut text = format!("Bearer realm=\"{}\",service=\"{SERVICE}\"", self.realm);
            if let Some(scope) = &scope {
                text.push_str(&format!(",scope=\"{scope}\""));
            }
            text.push_str(error);
            Err(Challenge(text))
        };
        let Some(given) = authorization(request, "Bearer") else { return refused("") };
        let mut tokens = lock(&self.tokens);
        let Some(token) = tokens.get_mut(given) else {
            return refused(",error=\"invalid_token\"");
        };
        if scope.as_ref().is_some_and(|scope| !token.scopes.contains(scope)) {
            return refused(",error=\"insufficient_scope\"");
        }
        if token.expired || bearer.uses_per_token.is_some_and(|uses| token.uses >= uses) {
            return refused(",error=\"invalid_token\"");
        }
        token.uses += 1;
        Ok(())
    }

    /// A token, as the JSON of its answer, for a request to the token service; `None` if there is no
    /// such service.
    pub(super) fn token(&self, request: &Request) -> Option<Result<String, Challenge>> {
        let Some(Auth::Bearer(bearer)) = &self.auth else { return None };
        if bearer.credentials.as_ref().is_some_and(|needed| !needed.authorize(request)) {
            return Some(Err(Challenge(basic_challenge())));
        }
        let pairs = form_urlencoded::parse(request.query().as_bytes());
        // `scope` may stand several times, and hold several scopes.
        let scopes = pairs
            .filter(|(name, _)| name == "scope")
            .flat_map(|(_, value)| value.split(' ').map(str::to_owned).collect::<Vec<_>>())
            .collect();
        let mut tokens = lock(&self.tokens);
        let text = format!("demo-token-{}", tokens.len() + 1);
        tokens.insert(text.clone(), Token { scopes, uses: 0, expired: false });
        Some(Ok(json!({ "token": text, "access_token": text, "expires_in": 300 }).to_string()))
    }

    /// All tokens given out so far are good no more.
    pub(super) fn expire_tokens(&self) {
        lock(&self.tokens).values_mut().for_each(|token| token.expired = true);
    }

    /// Whether the token service has a port of its own.
    pub(super) fn token_service_apart(auth: Option<&Auth>) -> bool {
        matches!(auth, Some(Auth::Bearer(Bearer { own_port: true, .. })))
    }
}

fn basic_challenge() -> String {
    format!("Basic realm=\"{SERVICE}\"")
}

/// What follows the scheme in `Authorization`, if it is this scheme (RFC 9110 section 11.4).
fn authorization<'a>(request: &'a Request, scheme: &str) -> Option<&'a str> {
    let (given, value) = request.header("authorization")?.split_once(' ')?;
    given.eq_ignore_ascii_case(scheme).then_some(value)
}
