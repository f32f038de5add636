//! Properties of what holds secrets: credential files, and the answers of token services.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ringpull::limits::{TOKEN_LIFETIME_MAX, TOKEN_LIFETIME_MIN};
use ringpull::registry::credential::Lookup;
use ringpull::registry::{Credential, CredentialFile, Token};

use super::check_message;

/// A credential file, or a token service's answer: no error and no `Debug` shows a secret or breaks
/// a terminal; a token can stand in a header; a password comes out as it was put in.
pub fn config(bytes: &[u8]) {
    match CredentialFile::parse("config.json", bytes) {
        Ok(file) => {
            let hidden = format!("{file:?}");
            for registry in ["docker.io", "ghcr.io", "localhost:5000", "quay.io"] {
                match file.lookup(registry, "org/app") {
                    Ok(Lookup::Found(credential)) => check_credential(&credential, &hidden, bytes),
                    Ok(Lookup::Helper { name }) => check_message(&name),
                    Ok(Lookup::Absent) => {}
                    Err(error) => check_message(&error),
                }
            }
        }
        Err(error) => check_message(&error),
    }
    for date in [None, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000))] {
        match Token::parse(bytes, date) {
            Ok(token) => {
                assert!((TOKEN_LIFETIME_MIN..=TOKEN_LIFETIME_MAX).contains(&token.lifetime));
                check_header(token.authorization().expose(), "Bearer ");
            }
            Err(error) => check_message(&error),
        }
    }
    check_password(bytes);
}

fn check_credential(credential: &Credential, hidden: &str, file: &[u8]) {
    if let Credential::Password { username, password } = credential {
        assert!(!username.contains(':'));
        let secret = password.expose();
        // Shorter ones may be part of any word, and one may be part of a registry's name.
        let times = file.windows(secret.len().max(1)).filter(|part| *part == secret.as_bytes());
        let tells = secret.len() >= 20 && times.count() < 2;
        assert!(!tells || !hidden.contains(secret), "a password is shown");
    }
    match credential.basic() {
        Ok(secret) => check_header(secret.expose(), "Basic "),
        Err(error) => check_message(&error),
    }
}

#[track_caller]
fn check_header(value: &str, scheme: &str) {
    let secret = value.strip_prefix(scheme).expect("a scheme");
    assert!(!secret.is_empty() && secret.bytes().all(|byte| byte.is_ascii_graphic()));
}

/// The first line is a user, the rest a password.
fn check_password(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let Some((username, password)) = text.split_once('\n') else { return };
    let auth = STANDARD.encode(format!("{username}:{password}"));
    let file = serde_json::json!({ "auths": { "https://quay.io/v1/": { "auth": auth } } });
    let file = CredentialFile::parse("config.json", file.to_string().as_bytes()).unwrap();
    match file.lookup("quay.io", "org/app") {
        Ok(Lookup::Found(Credential::Password { username: user, password: found })) => {
            let (user_put, password_put) = text.split_once('\n').unwrap();
            // The first colon parts them, wherever it was meant to stand.
            let put = format!("{user_put}:{password_put}");
            let put = put.trim_end_matches('\0');
            assert_eq!(format!("{user}:{}", found.expose()), put);
        }
        Ok(Lookup::Found(other)) => panic!("{other:?}"),
        Ok(_) => panic!("the entry is not found"),
        Err(error) => {
            check_message(&error);
        }
    }
}
