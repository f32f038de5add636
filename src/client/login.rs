//! Whose credentials there are for the registry, and what is said of them when it refuses.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Error;
use crate::error::Class;
use crate::image::Reference;
use crate::image::shown::shown;
use crate::registry::credential::{Credential, CredentialFile, Lookup};

/// The credentials for the registry of the reference, and where they are from. Shows no secret.
pub(super) struct Login {
    registry: String,
    /// Credentials for that registry, and for no other.
    pub(super) credential: Option<Credential>,
    /// The file they stand in, or all files that were looked into.
    files: Vec<String>,
    /// Who keeps them, if that is somebody we do not ask.
    helper: Option<String>,
    /// Whether they were sent to anybody.
    sent: AtomicBool,
}

impl Login {
    /// What the first file that knows the registry says: credentials, or the name of who keeps them.
    ///
    /// # Errors
    /// [`Error::Credential`] if the entry for the registry cannot be read.
    pub(super) fn new(files: &[CredentialFile], reference: &Reference) -> Result<Login, Error> {
        let registry = reference.registry().to_owned();
        let login = |credential, files, helper| {
            let sent = AtomicBool::new(false);
            Ok(Login { registry: registry.clone(), credential, files, helper, sent })
        };
        for file in files {
            let path = || vec![file.path().to_owned()];
            match file.lookup(reference.registry(), reference.repository())? {
                Lookup::Absent => {}
                Lookup::Found(credential) => return login(Some(credential), path(), None),
                Lookup::Helper { name } => return login(None, path(), Some(name)),
            }
        }
        login(None, files.iter().map(|file| file.path().to_owned()).collect(), None)
    }

    /// The credentials have been put into a request.
    pub(super) fn was_sent(&self) {
        self.sent.store(true, Ordering::Relaxed);
    }

    /// The same failure; after a refusal of access, with what the user has to know of credentials.
    pub(super) fn explain(&self, error: Error) -> Error {
        match error {
            Error::Login { .. } => error,
            _ if error.class() == Class::Auth => {
                Error::Login { source: Box::new(error), login: self.to_string() }
            }
            _ => error,
        }
    }
}

impl fmt::Display for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Login { registry, files, helper, .. } = self;
        let registry = shown(registry);
        let files = match files.as_slice() {
            [] => "no file of docker or another tool".to_owned(),
            files => files.join(", "),
        };
        let whose = match (&self.credential, helper) {
            (Some(Credential::Password { username, .. }), _) => {
                format!("user `{}`", shown(username))
            }
            (Some(Credential::RegistryToken(_)), _) => "a registry token".to_owned(),
            (Some(Credential::IdentityToken(_)), _) => "an identity token".to_owned(),
            (None, Some(helper)) => {
                return write!(
                    f,
                    "no credentials were sent: those for {registry} are kept by \
                     docker-credential-{helper} ({files}), which ringpull does not ask yet; name a \
                     file that holds them with --authfile"
                );
            }
            (None, None) => {
                return write!(
                    f,
                    "no credentials were sent: there are none for {registry} (looked into {files}); \
                     log in with docker or another tool, or name a file with --authfile"
                );
            }
        };
        let sent = if self.sent.load(Ordering::Relaxed) { "were" } else { "were not" };
        write!(
            f,
            "the stored credentials for {registry} ({whose}, in {files}) {sent} sent: log in again, or, \
             if the image is public, log out (docker logout {registry}), so that none are used"
        )
    }
}
