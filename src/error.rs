//! What went wrong, sorted by who is at fault.
//!
//! Each layer has an error enum of its own, close to what it does. All of them say which [`Class`]
//! they belong to; what follows from a class (whether to try again, which exit code) is decided
//! here, in one `match` each, and nowhere else.

/// What kind of failure this is. The name in brackets on the last line of stderr
/// (`ringpull: error[recv-timeout]: …`) is [`Class::name`]; it is stable, for scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    // --- the user ---
    /// The command line or a configuration file cannot be used.
    Usage,
    // --- the registry refused ---
    /// No such repository, manifest or blob.
    NotFound,
    /// The image has no manifest for the platform asked for.
    NoPlatform,
    /// Credentials are missing or were refused.
    Auth,
    /// Any other status by which a registry refuses for good.
    HttpStatus,
    /// 408, 500, 502, 503, 504: the registry could not answer now.
    Http5xx,
    /// 429: too many requests.
    RateLimited,
    // --- time and the network ---
    /// The name does not exist.
    Resolve,
    /// The name could not be resolved now.
    ResolveTimeout,
    /// The connection was refused or unreachable.
    Connect,
    /// No address accepted a connection before its deadline.
    ConnectTimeout,
    /// The peer closed or reset the connection before the first byte of its answer.
    EmptyResponse,
    /// No bytes before the deadline of a receive.
    RecvTimeout,
    /// Bytes came, but fewer than the minimum speed asks for, or a document was not whole in time.
    TooSlow,
    /// Nothing could be sent before the deadline of a send.
    SendTimeout,
    /// The response head was not whole before its deadline.
    HeadTimeout,
    /// The connection ended or was reset before the body did.
    Truncated,
    /// The TLS handshake or a record failed, but not for want of trust.
    Tls,
    /// The same, for a reason that stays: no cipher or protocol in common, a client certificate that
    /// is wanted, http where TLS was expected, or the reverse. Its name is that of [`Class::Tls`].
    TlsRefused,
    /// The proxy refused, or answered nonsense.
    Proxy,
    /// The whole command was not done within the time that it was given.
    Timeout,
    // --- the peer broke the protocol, or a bound or policy of ours ---
    /// The response cannot be split into messages safely (RFC 9112 section 6.3).
    Framing,
    /// The response is larger than a bound in [`crate::limits`].
    Limit,
    /// The body is compressed although only `identity` was asked for.
    Encoding,
    /// The answered range is not the one asked for.
    Range,
    /// The manifest or index is malformed, or of a kind that is refused.
    Manifest,
    /// A digest in a document or header is not one.
    DigestSyntax,
    /// A layer is to be fetched from a foreign URL, which was not allowed.
    ForeignRefused,
    /// The token service named by the registry may not be asked.
    RealmRefused,
    /// The token service answered nonsense.
    Token,
    /// The redirect may not be followed.
    Redirect,
    // --- content ---
    /// More or fewer bytes than the descriptor says.
    Size,
    /// The bytes do not have the digest of their descriptor.
    Digest,
    /// The registry's `Docker-Content-Digest` contradicts the bytes.
    DigestHeader,
    // --- this machine ---
    /// Not enough space or quota.
    DiskFull,
    /// The disk failed.
    DiskIo,
    /// A file or directory could not be used.
    Disk,
    /// A path of the store is a symbolic link or not a regular file.
    UnsafePath,
    /// The store's `index.json` or `oci-layout` cannot be used.
    Index,
    /// The kernel refused something that ringpull needs.
    System,
    // --- trust ---
    /// The peer's certificate is not trusted, or does not fit.
    TlsTrust,
    // --- others ---
    /// Another process holds a lock.
    LockBusy,
    /// A signal asked for the end.
    Interrupted,
}

/// Whether the same request may be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// A new connection may do better; pause first.
    Again,
    /// Worth one more attempt from the start, no more: what was received cannot be trusted.
    Once,
    /// Trying again would give the same answer.
    Never,
}

impl Class {
    /// The stable name of the class, as printed in brackets.
    pub fn name(self) -> &'static str {
        match self {
            Class::Usage => "usage",
            Class::NotFound => "not-found",
            Class::NoPlatform => "no-platform",
            Class::Auth => "auth",
            Class::HttpStatus => "http-status",
            Class::Http5xx => "http-5xx",
            Class::RateLimited => "rate-limited",
            Class::Resolve => "resolve",
            Class::ResolveTimeout => "resolve-timeout",
            Class::Connect => "connect",
            Class::ConnectTimeout => "connect-timeout",
            Class::EmptyResponse => "empty-response",
            Class::RecvTimeout => "recv-timeout",
            Class::TooSlow => "too-slow",
            Class::SendTimeout => "send-timeout",
            Class::HeadTimeout => "head-timeout",
            Class::Truncated => "truncated",
            Class::Tls | Class::TlsRefused => "tls",
            Class::Proxy => "proxy",
            Class::Timeout => "timeout",
            Class::Framing => "framing",
            Class::Limit => "limit",
            Class::Encoding => "encoding",
            Class::Range => "range",
            Class::Manifest => "manifest",
            Class::DigestSyntax => "digest-syntax",
            Class::ForeignRefused => "foreign-refused",
            Class::RealmRefused => "realm-refused",
            Class::Token => "token",
            Class::Redirect => "redirect",
            Class::Size => "size",
            Class::Digest => "digest",
            Class::DigestHeader => "digest-header",
            Class::DiskFull => "disk-full",
            Class::DiskIo => "disk-io",
            Class::Disk => "disk",
            Class::UnsafePath => "unsafe-path",
            Class::Index => "index",
            Class::System => "system",
            Class::TlsTrust => "tls-trust",
            Class::LockBusy => "lock-busy",
            Class::Interrupted => "interrupted",
        }
    }

    /// The exit code of a process that ends with this failure.
    ///
    /// `Interrupted` is 130 (128 + SIGINT) here; a handler that knows the signal says better.
    pub fn exit_code(self) -> u8 {
        match self {
            Class::Usage => 2,
            Class::NotFound | Class::NoPlatform => 3,
            Class::Auth => 4,
            Class::Http5xx
            | Class::RateLimited
            | Class::Resolve
            | Class::ResolveTimeout
            | Class::Connect
            | Class::ConnectTimeout
            | Class::EmptyResponse
            | Class::RecvTimeout
            | Class::TooSlow
            | Class::SendTimeout
            | Class::HeadTimeout
            | Class::Truncated
            | Class::Tls
            | Class::TlsRefused
            | Class::Proxy
            | Class::Timeout => 5,
            Class::HttpStatus
            | Class::Framing
            | Class::Limit
            | Class::Encoding
            | Class::Range
            | Class::Manifest
            | Class::DigestSyntax
            | Class::ForeignRefused
            | Class::RealmRefused
            | Class::Token
            | Class::Redirect => 6,
            Class::Size | Class::Digest | Class::DigestHeader => 7,
            Class::DiskFull
            | Class::DiskIo
            | Class::Disk
            | Class::UnsafePath
            | Class::Index
            | Class::System => 8,
            Class::TlsTrust => 9,
            Class::LockBusy => 10,
            Class::Interrupted => 130,
        }
    }

    /// Whether a request that failed so may be tried again.
    pub fn retry(self) -> Retry {
        match self {
            Class::ResolveTimeout
            | Class::Connect
            | Class::ConnectTimeout
            | Class::EmptyResponse
            | Class::RecvTimeout
            | Class::TooSlow
            | Class::SendTimeout
            | Class::HeadTimeout
            | Class::Truncated
            | Class::Tls
            | Class::Proxy
            | Class::Http5xx
            | Class::RateLimited => Retry::Again,
            Class::Framing | Class::Range | Class::Size | Class::Digest => Retry::Once,
            Class::Usage
            | Class::NotFound
            | Class::NoPlatform
            | Class::Auth
            | Class::HttpStatus
            | Class::Resolve
            | Class::Limit
            | Class::Encoding
            | Class::Manifest
            | Class::DigestSyntax
            | Class::ForeignRefused
            | Class::RealmRefused
            | Class::Token
            | Class::Redirect
            | Class::DigestHeader
            | Class::DiskFull
            | Class::DiskIo
            | Class::Disk
            | Class::UnsafePath
            | Class::Index
            | Class::System
            | Class::TlsTrust
            | Class::TlsRefused
            | Class::LockBusy
            | Class::Timeout
            | Class::Interrupted => Retry::Never,
        }
    }
}
