//! Why a pull failed, in the user's terms.

use std::fmt;
use std::time::{Duration, SystemTime};

use rustix::io::Errno;

use super::replace::Slow;
use super::retry::Policy;
use super::signals::Stop;
use crate::client;
use crate::error::{Class, Retry};
use crate::image::manifest::{ManifestError, NoPlatform};
use crate::image::{Digest, Platform};
use crate::limits::{DESCRIPTORS_MAX, DOCUMENTS_SIZE_MAX};
use crate::origin::Origin;
use crate::report::{escape, format};
use crate::store::StoreError;
use crate::transport::probe::ProbeError;
use crate::transport::tls::TlsConfigError;

/// A failed pull, or a failed attempt at one of its objects.
///
/// > `ghcr.io: blob sha256:9f2c…: no bytes for 60 s while receiving the body (12.1 of 40.0 MiB)`
#[derive(Debug)]
pub struct Error(Box<Details>);

/// Boxed, so that a result is not as large as its rarest case.
#[derive(Debug)]
struct Details {
    /// What was being fetched, and from where; absent if the failure concerns no object.
    subject: Option<Subject>,
    cause: Cause,
    /// Bytes received of the object, and its size.
    progress: Option<(u64, u64)>,
    /// The number of the attempt, and of the last one allowed.
    attempt: Option<(u32, u32)>,
    /// The registry asks for more time than it is given.
    patience: Option<Patience>,
    /// What was received by then is on disk, for another pull to go on with.
    keeps: bool,
}

/// How long a registry wants to be left alone, and how long it may.
#[derive(Debug)]
struct Patience {
    /// Absent for a time that has no date.
    until: Option<SystemTime>,
    most: Duration,
}

/// An object of a registry.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    /// The registry, as the reference names it.
    pub(super) registry: String,
    pub(super) object: Object,
}

/// What can be fetched.
#[derive(Debug, Clone)]
pub(super) enum Object {
    /// A manifest or index, by tag or digest.
    Manifest(String),
    /// A layer or config.
    Blob(Digest),
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub(super) enum Cause {
    #[error(transparent)]
    Client(#[from] client::Error),
    #[error("it cannot be used: {0}")]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    NoPlatform(#[from] NoPlatform),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Probe(#[from] ProbeError),
    #[error(transparent)]
    Tls(#[from] TlsConfigError),
    /// A connection brings next to nothing.
    #[error("{0}")]
    TooSlow(Slow),
    /// The bytes of a document have another digest than the one asked for.
    #[error("its bytes have the digest {got}")]
    Digest { got: Digest },
    /// The registry sends more or fewer bytes than the descriptor says.
    #[error("the registry sends {sent} bytes, but its descriptor says {expected}")]
    Size { expected: u64, sent: u64 },
    /// The whole blob came instead of a range in the middle of it.
    #[error("the registry sent the whole blob instead of the range asked for")]
    RangeIgnored,
    /// The range was refused, while other ranges of the blob are under way.
    #[error("the range was refused")]
    RangeRefused,
    /// A range came although the whole blob was asked for.
    #[error("the registry sent a part of the blob instead of the whole")]
    RangeUnasked,
    /// The registry does not have the blob, and its manifest names others who may.
    #[error(
        "the registry does not have it; its manifest names {host} to fetch it from, which \
         --allow-foreign-urls allows"
    )]
    Foreign { host: String },
    /// The same, but nobody who can be asked.
    #[error(
        "the registry does not have it, and the URLs that its manifest names for it cannot be \
         asked: only https is"
    )]
    ForeignUnusable,
    /// A URL outside the registry that the manifest names failed, too.
    #[error("the registry does not have it, and {origin} fails: {source}")]
    ForeignFailed { origin: Origin, source: client::Error },
    /// The image is for another platform than the user asked for.
    #[error("the image is for {offered}, and --platform asks for {wanted}")]
    OtherPlatform { wanted: Box<Platform>, offered: Box<Platform> },
    /// The documents of a pull are too large in sum.
    #[error(
        "its manifests have more than {DOCUMENTS_SIZE_MAX} bytes together, and no more are read for \
         one pull; pull one platform at a time, with --platform"
    )]
    DocumentsTooLarge,
    /// The documents of a pull name too many blobs and documents.
    #[error(
        "its manifests name more than {DESCRIPTORS_MAX} blobs and manifests together; pull one \
         platform at a time, with --platform"
    )]
    TooManyDescriptors,
    #[error("indexes are nested more than {} deep", crate::limits::INDEX_DEPTH_MAX)]
    IndexDepth,
    /// Too few file descriptors for a single connection.
    #[error(
        "at least {needed} files must be open at once, and the limit is {limit}: raise it with \
         `ulimit -n`, or the hard limit with `ulimit -Hn`"
    )]
    FewDescriptors { limit: u64, needed: u64 },
    #[error("{what}: {source}")]
    System { what: &'static str, source: std::io::Error },
    /// The user wanted the end.
    #[error("{}", stopped(*.0))]
    Stopped(Stop),
}

impl Error {
    /// A failure that concerns no object.
    pub(super) fn new(cause: impl Into<Cause>) -> Error {
        let cause = cause.into();
        Error(Box::new(Details {
            subject: None,
            cause,
            progress: None,
            attempt: None,
            patience: None,
            keeps: false,
        }))
    }

    /// A failure of one object.
    pub(super) fn about(subject: &Subject, cause: impl Into<Cause>) -> Error {
        let mut error = Error::new(cause);
        error.0.subject = Some(subject.clone());
        error
    }

    /// The same, amid the layers: says that what was received of them is kept.
    pub(super) fn keeping(mut self) -> Error {
        self.0.keeps = true;
        self
    }

    /// The same, `received` of `size` bytes into the object.
    pub(super) fn after_bytes(mut self, received: u64, size: u64) -> Error {
        self.0.progress = Some((received, size));
        self
    }

    /// The same, in the attempt with this number of so many; what is never tried again has none.
    pub(super) fn in_attempt(mut self, attempt: u32, allowed: u32) -> Error {
        self.0.attempt = Some((attempt, allowed)).filter(|_| self.class().retry() != Retry::Never);
        self
    }

    /// The same, final; it says so if that is because the registry asks for more time, as of `now`,
    /// than `policy` gives it.
    pub(super) fn given_up(mut self, policy: Policy, now: SystemTime) -> Error {
        let asked = self.retry_after();
        if let (Some(asked), true) = (asked, policy.is_too_long(asked)) {
            self.0.attempt = None;
            let until = now.checked_add(asked);
            self.0.patience = Some(Patience { until, most: policy.max_wait });
        }
        self
    }

    pub(super) fn system(what: &'static str, source: std::io::Error) -> Error {
        Error::new(Cause::System { what, source })
    }

    /// What kind of failure this is.
    pub fn class(&self) -> Class {
        match &self.0.cause {
            Cause::Client(error) => error.class(),
            Cause::Manifest(error) => error.class(),
            Cause::NoPlatform(error) => error.class(),
            Cause::Store(error) => error.class(),
            Cause::Probe(_) | Cause::System { .. } | Cause::FewDescriptors { .. } => Class::System,
            Cause::Tls(_) => Class::Usage,
            Cause::TooSlow(_) => Class::TooSlow,
            Cause::Digest { .. } => Class::Digest,
            Cause::Size { .. } => Class::Size,
            Cause::RangeIgnored | Cause::RangeUnasked | Cause::RangeRefused => Class::Range,
            Cause::Foreign { .. } | Cause::ForeignUnusable => Class::ForeignRefused,
            Cause::ForeignFailed { source, .. } => source.class(),
            Cause::OtherPlatform { .. } => Class::NoPlatform,
            Cause::IndexDepth | Cause::DocumentsTooLarge | Cause::TooManyDescriptors => {
                Class::Limit
            }
            Cause::Stopped(Stop::Signal(_)) => Class::Interrupted,
            Cause::Stopped(Stop::TimeLimit(_)) => Class::Timeout,
        }
    }

    /// The exit code: the class's, or 128 and the number of the signal.
    pub fn exit_code(&self) -> u8 {
        match self.0.cause {
            Cause::Stopped(Stop::Signal(signal)) => u8::try_from(128 + signal).unwrap_or(130),
            _ => self.class().exit_code(),
        }
    }

    /// Whether it was the user who ended the pull, by a signal or by a limit of time.
    pub(super) fn is_interruption(&self) -> bool {
        matches!(self.0.cause, Cause::Stopped(_))
    }

    /// Whether it concerns a manifest, which nothing else is shown of.
    pub(super) fn is_about_a_manifest(&self) -> bool {
        let object = self.0.subject.as_ref().map(|subject| &subject.object);
        matches!(object, Some(Object::Manifest(_)))
    }

    /// Whether this process, or the machine, has no file descriptor left (EMFILE, ENFILE).
    pub(super) fn is_short_of_descriptors(&self) -> bool {
        let mut error: Option<&(dyn std::error::Error + 'static)> = Some(&self.0.cause);
        while let Some(source) = error {
            let number = source.downcast_ref::<std::io::Error>().and_then(|it| it.raw_os_error());
            if number.is_some_and(|it| {
                it == Errno::MFILE.raw_os_error() || it == Errno::NFILE.raw_os_error()
            }) {
                return true;
            }
            error = source.source();
        }
        false
    }

    /// How long the server asked us to wait.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match &self.0.cause {
            Cause::Client(error) | Cause::ForeignFailed { source: error, .. } => {
                error.retry_after()
            }
            _ => None,
        }
    }

    /// Who refused, if a server did.
    pub(super) fn refused_by(&self) -> Option<&Origin> {
        match &self.0.cause {
            Cause::Client(error) | Cause::ForeignFailed { source: error, .. } => error.refused_by(),
            _ => None,
        }
    }

    /// The failure alone, for a line that names the object already.
    pub(super) fn brief(&self) -> String {
        self.0.cause.to_string()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Subject { registry, object }) = &self.0.subject {
            write!(f, "{}: {object}: ", escape(registry))?;
        }
        write!(f, "{}", self.0.cause)?;
        if let Some((received, size)) = self.0.progress {
            write!(f, " ({})", format::progress_bytes(received, size))?;
        }
        if let Some((attempt, allowed)) = self.0.attempt.filter(|(_, allowed)| *allowed > 1) {
            write!(f, ", attempt {attempt} of {allowed}")?;
        }
        if self.0.keeps {
            f.write_str("; what was received is kept, and the same command goes on from there")?;
        }
        match &self.0.patience {
            Some(Patience { until: Some(until), most }) => {
                let (until, most) =
                    (humantime::format_rfc3339_seconds(*until), format::duration(*most));
                write!(f, "; that is {until}, and at most {most} are waited for (--max-wait)")
            }
            Some(Patience { until: None, most }) => {
                write!(f, "; at most {} are waited for (--max-wait)", format::duration(*most))
            }
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Object::Manifest(key) => match Digest::parse(key) {
                Ok(digest) => write!(f, "manifest {}", shortened(&digest)),
                Err(_) => write!(f, "manifest {}", escape(key)),
            },
            Object::Blob(digest) => write!(f, "blob {}", shortened(digest)),
        }
    }
}

/// The end that the user wanted, in words.
fn stopped(why: Stop) -> String {
    match why {
        Stop::Signal(_) => "interrupted".to_owned(),
        Stop::TimeLimit(limit) => {
            format!(
                "not done within {}, which is all the time it has (--timeout)",
                format::duration(limit)
            )
        }
    }
}

/// A digest that can be told from its neighbours: `sha256:9f2c0b4c1d2e…`.
fn shortened(digest: &Digest) -> String {
    format!("{}:{}…", digest.algorithm().name(), digest.short())
}
