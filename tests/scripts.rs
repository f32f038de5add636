//! The scripts fail when they have tested nothing: nothing to be had, nothing asked for.
#![allow(clippy::unwrap_used, missing_docs, reason = "helpers of tests are tests")]

#[path = "support/skip.rs"]
mod skip;

use std::path::Path;
use std::process::{Command, Stdio};

use skip::{Lack, skipped};

/// Exit code, and all that was said.
fn run(script: &str, arguments: &[&str], cache: &Path) -> (Option<i32>, String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(script);
    let mut command = Command::new(path);
    command.args(arguments).env("XDG_CACHE_HOME", cache).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().to_lowercase().ends_with("_proxy") {
            command.env_remove(name);
        }
    }
    let output = command.output().unwrap();
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

/// `true` if there is no python, which is said.
fn no_python() -> bool {
    let missing = Command::new("python3").arg("--version").stdout(Stdio::null()).status().is_err();
    if missing {
        skipped(Lack::Program, "scripts/kernel-matrix without kernels: no python3");
    }
    missing
}

#[test]
fn a_matrix_without_a_mirror_fails_and_says_why() {
    if no_python() {
        return;
    }
    let cache = tempfile::tempdir().unwrap();
    // Nobody listens there.
    let mirror = ["--mirror", "http://127.0.0.1:9"];
    for options in [&["--download"][..], &["--download", "--short"]] {
        let (code, said) = run("kernel-matrix", &[options, &mirror].concat(), cache.path());
        assert_eq!(code, Some(1), "{options:?}: {said}");
        assert!(said.contains("FAILED") && said.contains("no kernel ran: "), "{options:?}: {said}");
        // On a machine with Debian's tools; others say which one is missing.
        if Path::new("/usr/share/keyrings/debian-archive-keyring.gpg").exists() {
            assert!(
                said.contains("127.0.0.1:9") && said.contains("refused"),
                "{options:?}: {said}"
            );
        }
    }
}

#[test]
fn a_matrix_without_a_kernel_fails() {
    if no_python() {
        return;
    }
    let cache = tempfile::tempdir().unwrap();
    for (options, code, expected) in [
        (&["--download", "--cached"][..], 1, "no kernel ran: "),
        (&["--download", "--cached", "--short"], 1, "no kernel ran: "),
        (&["--download", "--cached", "--kernels", "6.1"], 1, "no kernel ran: "),
        // None was meant, perhaps by a variable that is empty.
        (&["--kernels", ""], 2, "is no series"),
        (&["--kernels", "6.1,"], 2, "is no series"),
        (&["--here", "--kernels", "6.1"], 2, "--here is without guests"),
        (&["--jobs", "0"], 2, "--jobs: at least 1"),
    ] {
        let (got, said) = run("kernel-matrix", options, cache.path());
        assert!(got == Some(code) && said.contains(expected), "{options:?}: {got:?}: {said}");
    }
}

#[test]
fn a_campaign_of_nothing_is_refused() {
    let cache = tempfile::tempdir().unwrap();
    for (script, arguments) in [
        ("race", &["0"][..]),
        ("race", &["many"]),
        ("race", &["1000", "sim"]),
        ("sim", &["--seeds", "0"]),
        ("sim", &["--seeds", ""]),
        ("power-loss", &["--seeds", "0"]),
        ("power-loss", &["--pulls", "0"]),
        ("power-loss", &["--pulls"]),
        ("crash-sweep", &["--every", "0"]),
        ("crash-sweep", &["--every", "some"]),
        ("fuzz", &["--seconds", "0"]),
        ("fuzz", &["no_such_target"]),
        ("one-test", &["tidy"]),
    ] {
        let (code, said) = run(script, arguments, cache.path());
        assert_eq!(code, Some(2), "{script} {arguments:?}: {said}");
    }
}
