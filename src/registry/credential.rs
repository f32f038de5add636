//! Credentials from Docker's `config.json` and the `auth.json` of containers, which have one form
//! (docker/cli `cli/config/types`, containers-auth.json(5)). The bytes of the files are arguments.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::error::Class;
use crate::http::Secret;
use crate::image::shown::shown;
use crate::limits::CREDENTIAL_FILE_SIZE_MAX;

/// What opens a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// A user name and a password (or access token), for Basic and for token services.
    Password {
        /// The user name; has no colon.
        username: String,
        /// The password.
        password: Secret,
    },
    /// A token to be sent to the registry as it is.
    RegistryToken(Secret),
    /// A token that is exchanged for others (OAuth 2). Kept, so that a user who has one is told why
    /// it does not help: see [`Credential::basic`].
    IdentityToken(Secret),
}

/// What a file says of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// Nothing.
    Absent,
    /// The credentials.
    Found(Credential),
    /// They are kept by `docker-credential-<name>`, which is not asked yet. The user should be told
    /// if the registry then refuses.
    Helper {
        /// The name, escaped and shortened.
        name: String,
    },
}

/// A file of credentials. `Debug` shows none of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialFile {
    /// The path, for messages.
    path: String,
    auths: BTreeMap<String, Entry>,
    helpers: BTreeMap<String, String>,
    default_helper: Option<String>,
}

/// Why credentials cannot be used. Never shows any of the file's content but the registries' names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// Too many bytes.
    #[error("{path} is larger than the {CREDENTIAL_FILE_SIZE_MAX} bytes allowed")]
    TooLarge {
        /// The file.
        path: String,
    },
    /// Nothing at all.
    #[error("{path} is empty: a file that holds no credentials is written {{}}")]
    Empty {
        /// The file.
        path: String,
    },
    /// Not JSON, or not of the shape expected.
    #[error("{path} is not the JSON expected (line {line}, column {column})")]
    Json {
        /// The file.
        path: String,
        /// Line of the error, from 1.
        line: usize,
        /// Column of the error, from 1.
        column: usize,
    },
    /// An entry that cannot be read.
    #[error("{path}: the entry of `{registry}` cannot be used: {reason}")]
    Entry {
        /// The file.
        path: String,
        /// The entry's key.
        registry: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Only an identity token is there.
    #[error(
        "the credentials are an identity token, which ringpull cannot exchange yet: log in with a \
         user name and a password or access token"
    )]
    IdentityToken,
    /// Only a token for the registry itself is there.
    #[error(
        "the credentials are a registry token, which only the registry takes, but it asks for a user \
         name and a password"
    )]
    RegistryToken,
}

impl CredentialError {
    /// [`Class::Usage`] for a file, [`Class::Auth`] for credentials that do not fit.
    pub fn class(&self) -> Class {
        match self {
            CredentialError::TooLarge { .. }
            | CredentialError::Empty { .. }
            | CredentialError::Json { .. }
            | CredentialError::Entry { .. } => Class::Usage,
            CredentialError::IdentityToken | CredentialError::RegistryToken => Class::Auth,
        }
    }
}

impl Credential {
    /// The value of `Authorization` with which a Basic challenge is answered and a token asked for:
    /// `Basic …` (RFC 7617).
    pub fn basic(&self) -> Result<Secret, CredentialError> {
        match self {
            Credential::Password { username, password } => {
                let pair = format!("{username}:{}", password.expose());
                Ok(Secret::from(format!("Basic {}", STANDARD.encode(pair))))
            }
            Credential::RegistryToken(_) => Err(CredentialError::RegistryToken),
            Credential::IdentityToken(_) => Err(CredentialError::IdentityToken),
        }
    }

    /// The value of `Authorization` to be sent to the registry at once, without a challenge:
    /// `Bearer …` for a registry token, nothing else.
    pub fn bearer(&self) -> Option<Secret> {
        match self {
            Credential::RegistryToken(token) => {
                Some(Secret::from(format!("Bearer {}", token.expose())))
            }
            Credential::Password { .. } | Credential::IdentityToken(_) => None,
        }
    }
}

impl CredentialFile {
    /// Reads a file's bytes. Entries are read when they are looked up: a broken one is a matter for
    /// its own registry only.
    pub fn parse(path: &str, bytes: &[u8]) -> Result<CredentialFile, CredentialError> {
        let path = shown(path);
        if bytes.len() > CREDENTIAL_FILE_SIZE_MAX {
            return Err(CredentialError::TooLarge { path });
        }
        // Some editors put a byte order mark first. RFC 8259 section 8.1 lets a parser ignore it.
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        if bytes.trim_ascii().is_empty() {
            return Err(CredentialError::Empty { path });
        }
        // serde's text is left out: it quotes what it does not like.
        let fields: FileFields = match serde_json::from_slice(bytes) {
            Ok(fields) => fields,
            Err(error) => {
                let (line, column) = (error.line(), error.column());
                return Err(CredentialError::Json { path, line, column });
            }
        };
        Ok(CredentialFile {
            path,
            auths: fields.auths.unwrap_or_default(),
            helpers: fields.cred_helpers.unwrap_or_default(),
            default_helper: fields.creds_store.filter(|name| !name.is_empty()),
        })
    }

    /// The file's path, escaped and shortened.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The credentials for `repository` at `registry`, as [`Reference`](crate::image::Reference)
    /// names them.
    ///
    /// A key is a registry, with or without scheme and API version (`https://index.docker.io/v1/`),
    /// or, in the manner of containers, a registry and the beginning of a repository
    /// (`quay.io/org`), which is for that part only. The longest key that fits is taken.
    pub fn lookup(&self, registry: &str, repository: &str) -> Result<Lookup, CredentialError> {
        let found = self
            .auths
            .iter()
            // Docker leaves `{}` behind where a helper keeps the password.
            .filter(|(_, entry)| !entry.is_empty())
            .filter_map(|(key, entry)| Some((fit(key, registry, repository)?, key, entry)))
            .max_by_key(|&(length, ..)| length);
        if let Some((_, key, entry)) = found {
            return match entry.credential() {
                Ok(credential) => Ok(Lookup::Found(credential)),
                Err(reason) => Err(CredentialError::Entry {
                    path: self.path.clone(),
                    registry: shown(key),
                    reason,
                }),
            };
        }
        let own = self.helpers.iter().find(|(key, _)| fit(key, registry, repository).is_some());
        let helper = own.map(|(_, name)| name).or(self.default_helper.as_ref());
        Ok(match helper.filter(|name| !name.is_empty()) {
            Some(name) => Lookup::Helper { name: shown(name) },
            None => Lookup::Absent,
        })
    }
}

// --- where the files are -------------------------------------------------------------------------

/// The values that say where credentials are kept. Empty ones count as unset.
#[derive(Debug, Clone, Copy, Default)]
pub struct Places<'a> {
    /// `--authfile`.
    pub authfile: Option<&'a Path>,
    /// `$REGISTRY_AUTH_FILE`.
    pub registry_auth_file: Option<&'a Path>,
    /// `$DOCKER_CONFIG`, a directory.
    pub docker_config: Option<&'a Path>,
    /// `$XDG_RUNTIME_DIR`.
    pub runtime_dir: Option<&'a Path>,
    /// The home directory.
    pub home: Option<&'a Path>,
}

/// A file that may hold credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Where.
    pub path: PathBuf,
    /// Whether the user named this very file, so that it is an error if it is not there.
    pub required: bool,
}

/// The files to look in, in this order; the first that has something for a registry decides.
///
/// A file named by the user is the only one. Else come `$DOCKER_CONFIG/config.json`,
/// `$XDG_RUNTIME_DIR/containers/auth.json`, and, unless `$DOCKER_CONFIG` stands in for it,
/// `~/.docker/config.json`.
pub fn candidates(places: &Places<'_>) -> Vec<Candidate> {
    let set = |path: Option<&Path>| {
        path.filter(|path| !path.as_os_str().is_empty()).map(Path::to_path_buf)
    };
    if let Some(path) = set(places.authfile).or(set(places.registry_auth_file)) {
        return vec![Candidate { path, required: true }];
    }
    let named = set(places.docker_config);
    let runtime = set(places.runtime_dir).map(|path| path.join("containers/auth.json"));
    let home = match named {
        Some(_) => None,
        None => set(places.home).map(|path| path.join(".docker/config.json")),
    };
    let named = named.map(|path| path.join("config.json"));
    let paths = [named, runtime, home].into_iter().flatten();
    paths.map(|path| Candidate { path, required: false }).collect()
}

// --- the files as they are written ---------------------------------------------------------------

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FileFields {
    auths: Option<BTreeMap<String, Entry>>,
    cred_helpers: Option<BTreeMap<String, String>>,
    creds_store: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Deserialize)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Entry(‹secret›)")
    }
}

impl Entry {
    fn is_empty(&self) -> bool {
        let fields =
            [&self.auth, &self.username, &self.password, &self.identitytoken, &self.registrytoken];
        fields.into_iter().all(|field| text(field).is_none())
    }

    /// The tokens come first, as they do in Docker: a password beside them is what they were got by.
    fn credential(&self) -> Result<Credential, &'static str> {
        if let Some(token) = text(&self.registrytoken) {
            return Ok(Credential::RegistryToken(Secret::from(token)));
        }
        if let Some(token) = text(&self.identitytoken) {
            return Ok(Credential::IdentityToken(Secret::from(token)));
        }
        let (username, password) = match text(&self.auth) {
            Some(auth) => decode(auth)?,
            None => {
                let username = text(&self.username).ok_or("it has no user name")?;
                let password = text(&self.password).ok_or("it has no password")?;
                (username.to_owned(), password.to_owned())
            }
        };
        if username.contains(':') {
            return Err("its user name has a colon");
        }
        // How credential helpers, and files made from their answers, mark an identity token.
        if username == "<token>" {
            return Ok(Credential::IdentityToken(Secret::from(password)));
        }
        Ok(Credential::Password { username, password: Secret::from(password) })
    }
}

fn text(field: &Option<String>) -> Option<&str> {
    field.as_deref().filter(|text| !text.is_empty())
}

/// Splits an `auth` field: base64 of `user:password`, with NUL bytes at the end in old files.
fn decode(auth: &str) -> Result<(String, String), &'static str> {
    let bytes = STANDARD.decode(auth.trim()).map_err(|_| "its `auth` is not base64")?;
    let pair = String::from_utf8(bytes).map_err(|_| "its `auth` is not text")?;
    let (username, password) =
        pair.split_once(':').ok_or("its `auth` is not a user name, a colon and a password")?;
    Ok((username.to_owned(), password.trim_end_matches('\0').to_owned()))
}

/// How well `key` fits: the length of its path. `None` if it is for something else.
fn fit(key: &str, registry: &str, repository: &str) -> Option<usize> {
    let without_scheme = key.strip_prefix("https://").or(key.strip_prefix("http://"));
    let (host, path) = match without_scheme.unwrap_or(key).split_once('/') {
        Some((host, path)) => (host, path.trim_end_matches('/')),
        None => (without_scheme.unwrap_or(key), ""),
    };
    if canonical(host) != canonical(registry) {
        return None;
    }
    // A URL's path is that of the API (`/v1/`); Docker disregards it, whatever it is.
    let path = if without_scheme.is_some() || matches!(path, "v1" | "v2") { "" } else { path };
    let rest = repository.strip_prefix(path)?;
    (path.is_empty() || rest.is_empty() || rest.starts_with('/')).then_some(path.len())
}

/// Docker Hub has been written in many ways.
fn canonical(host: &str) -> String {
    let host = host.to_ascii_lowercase();
    match host.as_str() {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `entry` as the file's only one.
    fn file(key: &str, entry: &str) -> CredentialFile {
        let text = format!(r#"{{"auths":{{"{key}":{entry}}}}}"#);
        CredentialFile::parse("config.json", text.as_bytes()).unwrap()
    }

    fn auth(pair: &str) -> String {
        format!(r#"{{"auth":"{}"}}"#, STANDARD.encode(pair))
    }

    fn password(username: &str, password: &str) -> Lookup {
        Lookup::Found(Credential::Password {
            username: username.to_owned(),
            password: Secret::from(password),
        })
    }

    #[test]
    fn a_key_fits_its_registry_and_no_other() {
        for (key, registry, repository, fits) in [
            ("ghcr.io", "ghcr.io", "a/b", true),
            ("GHCR.io", "ghcr.io", "a/b", true),
            ("https://ghcr.io", "ghcr.io", "a/b", true),
            ("https://ghcr.io/", "ghcr.io", "a/b", true),
            ("http://ghcr.io/v2/", "ghcr.io", "a/b", true),
            ("https://ghcr.io/any/path", "ghcr.io", "a/b", true),
            ("ghcr.io/v1/", "ghcr.io", "a/b", true),
            ("ghcr.io/", "ghcr.io", "a/b", true),
            ("https://index.docker.io/v1/", "docker.io", "library/a", true),
            ("index.docker.io", "docker.io", "library/a", true),
            ("registry-1.docker.io", "docker.io", "library/a", true),
            ("docker.io", "docker.io", "library/a", true),
            ("localhost:5000", "localhost:5000", "a", true),
            ("[::1]:5000", "[::1]:5000", "a", true),
            ("quay.io/org", "quay.io", "org/app", true),
            ("quay.io/org/app", "quay.io", "org/app", true),
            ("quay.io/org/", "quay.io", "org/app", true),
            ("quay.io/org", "quay.io", "organ/app", false),
            ("quay.io/org", "quay.io", "other/app", false),
            ("quay.io/org/app/x", "quay.io", "org/app", false),
            ("ghcr.io", "ghcr.io:5000", "a", false),
            ("ghcr.io:5000", "ghcr.io", "a", false),
            ("ghcr.io", "evil-ghcr.io", "a", false),
            ("ghcr.io", "ghcr.io.evil.example", "a", false),
            ("https://user@ghcr.io", "ghcr.io", "a", false),
            ("docker.io", "auth.docker.io", "a", false),
            ("", "ghcr.io", "a", false),
            ("https://", "ghcr.io", "a", false),
        ] {
            let expected = if fits { password("u", "p") } else { Lookup::Absent };
            let found = file(key, &auth("u:p")).lookup(registry, repository);
            assert_eq!(found, Ok(expected), "{key} for {registry}/{repository}");
        }
    }

    #[test]
    fn the_longest_key_that_fits_is_taken() {
        let text = format!(
            r#"{{"auths":{{"QUAY.io/org/app":{},"quay.io":{},"quay.io/org":{}}}}}"#,
            auth("app:1"),
            auth("all:2"),
            auth("org:3")
        );
        let file = CredentialFile::parse("f", text.as_bytes()).unwrap();
        for (repository, expected) in [
            ("org/app", password("app", "1")),
            ("org/app/sub", password("app", "1")),
            ("org/application", password("org", "3")),
            ("other", password("all", "2")),
        ] {
            assert_eq!(file.lookup("quay.io", repository), Ok(expected), "{repository}");
        }
    }

    #[test]
    fn entries_are_read() {
        let secret = Secret::from;
        for (entry, expected) in [
            (auth("u:p"), password("u", "p")),
            (auth("u:p:q"), password("u", "p:q")),
            (auth("u:p\0\0"), password("u", "p")),
            (auth("u:"), password("u", "")),
            (r#"{"username":"u","password":"p"}"#.to_owned(), password("u", "p")),
            (
                r#"{"auth":"","username":"u","password":"p","email":"x"}"#.to_owned(),
                password("u", "p"),
            ),
            (
                r#"{"auth":"dTpw","registrytoken":"r","identitytoken":"i"}"#.to_owned(),
                Lookup::Found(Credential::RegistryToken(secret("r"))),
            ),
            (
                r#"{"auth":"dTpw","identitytoken":"i"}"#.to_owned(),
                Lookup::Found(Credential::IdentityToken(secret("i"))),
            ),
            (auth("<token>:i"), Lookup::Found(Credential::IdentityToken(secret("i")))),
            ("{}".to_owned(), Lookup::Absent),
            (r#"{"auth":null,"identitytoken":""}"#.to_owned(), Lookup::Absent),
        ] {
            assert_eq!(file("r.example", &entry).lookup("r.example", "a"), Ok(expected), "{entry}");
        }
    }

    #[test]
    fn a_broken_entry_matters_to_its_own_registry_only() {
        for (entry, expected) in [
            (r#"{"auth":"CANARY!"}"#.to_owned(), "its `auth` is not base64"),
            (r#"{"auth":"Q0FOQVJZ"}"#.to_owned(), "its `auth` is not a user name, a colon"),
            (r#"{"auth":"/w=="}"#.to_owned(), "its `auth` is not text"),
            (r#"{"username":"CANARY"}"#.to_owned(), "it has no password"),
            (r#"{"password":"CANARY"}"#.to_owned(), "it has no user name"),
            (r#"{"username":"CAN:ARY","password":"CANARY"}"#.to_owned(), "has a colon"),
        ] {
            let file = file("r.example", &entry);
            let error = file.lookup("r.example", "a").unwrap_err();
            let text = format!("{error} {error:?} {file:?}");
            assert!(text.starts_with("config.json: the entry of `r.example`"), "{text}");
            assert!(text.contains(expected) && !text.contains("CANARY"), "{text}");
            assert_eq!(error.class(), Class::Usage);
            assert_eq!(file.lookup("other.example", "a"), Ok(Lookup::Absent));
        }
    }

    #[test]
    fn a_helper_is_named_where_it_keeps_the_credentials() {
        let text = format!(
            r#"{{"auths":{{"a.example":{},"b.example":{{}}}},
                "credHelpers":{{"b.example":"ecr-login","d.example":""}},"credsStore":"desktop"}}"#,
            auth("u:p")
        );
        let file = CredentialFile::parse("f", text.as_bytes()).unwrap();
        let helper = |name: &str| Lookup::Helper { name: name.to_owned() };
        assert_eq!(file.lookup("a.example", "x"), Ok(password("u", "p")));
        assert_eq!(file.lookup("b.example", "x"), Ok(helper("ecr-login")));
        assert_eq!(file.lookup("c.example", "x"), Ok(helper("desktop")));
        assert_eq!(file.lookup("d.example", "x"), Ok(Lookup::Absent), "switched off for this one");
    }

    #[test]
    fn what_is_not_such_a_file_is_refused_without_a_word_of_it() {
        for (text, line, column) in [
            ("CANARY", 1, 1),
            ("{\n\"auths\":\"CANARY\"}", 2, 16),
            ("{\"auths\":{\"r\":{\"auth\":[\"CANARY\"]}}}", 1, 22),
        ] {
            let error =
                CredentialFile::parse("~/.docker/config.json", text.as_bytes()).unwrap_err();
            let path = "~/.docker/config.json".to_owned();
            assert_eq!(error, CredentialError::Json { path, line, column }, "{text}");
            assert!(!format!("{error} {error:?}").contains("CANARY"));
        }
        for text in ["{}", r#"{"auths":null,"credHelpers":null,"HttpHeaders":{"a":"b"}}"#] {
            let file = CredentialFile::parse("f", text.as_bytes()).unwrap();
            assert_eq!(file.lookup("r.example", "a"), Ok(Lookup::Absent));
        }
        for text in ["", "\n \n"] {
            let error = CredentialFile::parse("f", text.as_bytes()).unwrap_err();
            assert_eq!(error, CredentialError::Empty { path: "f".to_owned() });
        }
        let large = vec![b' '; CREDENTIAL_FILE_SIZE_MAX + 1];
        let error = CredentialFile::parse("f", &large).unwrap_err();
        assert_eq!(error, CredentialError::TooLarge { path: "f".to_owned() });
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_a_file() {
        let text = format!("\u{feff}{{\"auths\":{{\"r.example\":{}}}}}", auth("u:p"));
        let file = CredentialFile::parse("f", text.as_bytes()).unwrap();
        assert_eq!(file.lookup("r.example", "a"), Ok(password("u", "p")));
    }

    #[test]
    fn credentials_become_fields() {
        let password = Credential::Password { username: "u".to_owned(), password: "p".into() };
        assert_eq!(password.basic().unwrap().expose(), "Basic dTpw");
        assert_eq!(password.bearer(), None);
        let registry = Credential::RegistryToken("CANARY".into());
        assert_eq!(registry.bearer().unwrap().expose(), "Bearer CANARY");
        assert_eq!(registry.basic(), Err(CredentialError::RegistryToken));
        let identity = Credential::IdentityToken("CANARY".into());
        assert_eq!(
            (identity.bearer(), identity.basic()),
            (None, Err(CredentialError::IdentityToken))
        );
        assert_eq!(CredentialError::IdentityToken.class(), Class::Auth);
        assert!(!format!("{registry:?} {identity:?} {password:?}").contains("CANARY"));
    }

    #[test]
    fn files_are_looked_for_in_order() {
        let path = |text: &'static str| Some(Path::new(text));
        let all = Places {
            authfile: path("/flag"),
            registry_auth_file: path("/env"),
            docker_config: path("/docker"),
            runtime_dir: path("/run"),
            home: path("/home"),
        };
        let none = Places::default();
        for (places, required, expected) in [
            (all, true, &["/flag"][..]),
            (Places { authfile: None, ..all }, true, &["/env"]),
            (Places { authfile: path(""), ..all }, true, &["/env"]),
            (
                Places { authfile: None, registry_auth_file: path(""), ..all },
                false,
                &["/docker/config.json", "/run/containers/auth.json"],
            ),
            (
                Places { runtime_dir: path("/run"), home: path("/home"), ..none },
                false,
                &["/run/containers/auth.json", "/home/.docker/config.json"],
            ),
            (Places { home: path("/home"), ..none }, false, &["/home/.docker/config.json"]),
            (none, false, &[]),
        ] {
            let expected: Vec<Candidate> = expected
                .iter()
                .map(|path| Candidate { path: PathBuf::from(path), required })
                .collect();
            assert_eq!(candidates(&places), expected, "{places:?}");
        }
    }
}
