//! Requests, and the secrets in them.

use std::fmt;

use super::error::shown;
use super::header::{is_field_name, is_field_value};
use super::{ByteRange, HttpUrl};
use crate::error::Class;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// The content.
    Get,
    /// What a GET would say of the content, without it.
    Head,
}

impl Method {
    /// The method as it begins a request.
    pub fn name(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A password, token or header value that hides itself: `Debug` and `Display` print `‹secret›`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The secret itself. To be read where it is sent, and nowhere else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Secret {
        Secret(text)
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Secret {
        Secret(text.to_owned())
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("‹secret›")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// How the request target is written (RFC 9112 section 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetForm {
    /// `/v2/`: to the server, or to it through a tunnel.
    Origin,
    /// `http://registry:5000/v2/`: to a proxy that is to forward it. The one form with which
    /// `Proxy-Authorization` is sent.
    Absolute,
}

/// Why a field cannot be sent. Never holds a value: it may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Not a token (RFC 9110 section 5.1).
    #[error("`{0}` is not a field name")]
    Name(String),
    /// The value has a line break, a control character or one beyond ASCII, or white space at an end.
    #[error("the value of {0} has characters that cannot be sent")]
    Value(String),
    /// A field that ringpull writes itself.
    #[error("the field {0} cannot be set")]
    Reserved(String),
}

impl RequestError {
    /// The class of a field that a *user* configured; for a token that a peer sent, the caller knows
    /// better.
    pub fn class(&self) -> Class {
        Class::Usage
    }
}

/// A request without a body. Nothing in it can break out of its line: every part is checked when it
/// is put in.
///
/// `Debug` shows names of fields, not values.
#[derive(Clone)]
pub struct Request {
    method: Method,
    url: HttpUrl,
    /// Names and values that may be sent as they are.
    fields: Vec<(String, String)>,
    range: Option<ByteRange>,
    authorization: Option<Secret>,
    proxy_authorization: Option<Secret>,
}

impl Request {
    /// A request for the content at `url`.
    pub fn get(url: HttpUrl) -> Request {
        Request::new(Method::Get, url)
    }

    /// A request for what a GET of `url` would say.
    pub fn head(url: HttpUrl) -> Request {
        Request::new(Method::Head, url)
    }

    /// A request with a method that is chosen elsewhere.
    pub fn new(method: Method, url: HttpUrl) -> Request {
        Request {
            method,
            url,
            fields: Vec::new(),
            range: None,
            authorization: None,
            proxy_authorization: None,
        }
    }

    /// Adds a field. Fails for fields that say how the message is framed, where it goes or with which
    /// credentials: these have functions of their own, or none.
    pub fn header(mut self, name: &str, value: &str) -> Result<Request, RequestError> {
        const RESERVED: [&str; 16] = [
            "accept-encoding",
            "authorization",
            "connection",
            "content-length",
            "expect",
            "host",
            "keep-alive",
            "proxy-authorization",
            "proxy-connection",
            "range",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
            "user-agent",
            "via",
        ];
        if !is_field_name(name.as_bytes()) {
            return Err(RequestError::Name(shown(name)));
        }
        if RESERVED.iter().any(|reserved| name.eq_ignore_ascii_case(reserved)) {
            return Err(RequestError::Reserved(name.to_owned()));
        }
        if !is_field_value(value.as_bytes()) {
            return Err(RequestError::Value(name.to_owned()));
        }
        self.fields.push((name.to_owned(), value.to_owned()));
        Ok(self)
    }

    /// Sets `Authorization`: scheme and credentials, like `Bearer …`.
    pub fn authorization(mut self, secret: Secret) -> Result<Request, RequestError> {
        self.authorization = Some(check_secret("Authorization", secret)?);
        Ok(self)
    }

    /// Sets `Proxy-Authorization`, which is sent in [`TargetForm::Absolute`] only.
    pub fn proxy_authorization(mut self, secret: Secret) -> Result<Request, RequestError> {
        self.proxy_authorization = Some(check_secret("Proxy-Authorization", secret)?);
        Ok(self)
    }

    /// The same request for another URL. Credentials do not come along.
    pub fn at(mut self, url: HttpUrl) -> Request {
        self.url = url;
        self.authorization = None;
        self.proxy_authorization = None;
        self
    }

    /// Asks for a part of the content.
    pub fn range(mut self, range: ByteRange) -> Request {
        self.range = Some(range);
        self
    }

    /// The method.
    pub fn method(&self) -> Method {
        self.method
    }

    /// Where it goes.
    pub fn url(&self) -> &HttpUrl {
        &self.url
    }

    /// The part asked for, if it is a part.
    pub fn requested_range(&self) -> Option<ByteRange> {
        self.range
    }

    /// The bytes to send: the whole request, secrets included. There is no `Connection` field:
    /// HTTP/1.1 keeps connections unless told otherwise (RFC 9112 section 9.3).
    pub fn encode(&self, form: TargetForm) -> Vec<u8> {
        const USER_AGENT: &str = concat!("ringpull/", env!("CARGO_PKG_VERSION"));

        let target = match form {
            TargetForm::Origin => self.url.path_and_query().to_owned(),
            TargetForm::Absolute => self.url.absolute(),
        };
        let mut text = format!("{} {target} HTTP/1.1\r\n", self.method);
        let mut field = |name: &str, value: &str| {
            text.extend([name, ": ", value, "\r\n"]);
        };
        field("Host", &self.url.origin().authority());
        field("User-Agent", USER_AGENT);
        field("Accept-Encoding", "identity");
        for (name, value) in &self.fields {
            field(name, value);
        }
        if let Some(range) = self.range {
            field("Range", &range.header_value());
        }
        if let Some(secret) = &self.authorization {
            field("Authorization", secret.expose());
        }
        if let (TargetForm::Absolute, Some(secret)) = (form, &self.proxy_authorization) {
            field("Proxy-Authorization", secret.expose());
        }
        text.push_str("\r\n");
        text.into_bytes()
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.fields.iter().map(|(name, _)| name.as_str()).collect();
        write!(f, "Request({} {}", self.method, self.url)?;
        if let Some(range) = self.range {
            write!(f, ", {range}")?;
        }
        let with = |secret: &Option<Secret>| if secret.is_some() { "with" } else { "without" };
        write!(f, ", fields {names:?}, {} authorization", with(&self.authorization))?;
        write!(f, ", {} proxy authorization)", with(&self.proxy_authorization))
    }
}

/// `secret`, if it can be the value of a field.
fn check_secret(name: &str, secret: Secret) -> Result<Secret, RequestError> {
    match !secret.0.is_empty() && is_field_value(secret.0.as_bytes()) {
        true => Ok(secret),
        false => Err(RequestError::Value(name.to_owned())),
    }
}
