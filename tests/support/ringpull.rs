//! The binary under test.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::LazyLock;

use tempfile::TempDir;

use super::process::direct_io_min;
use super::skip::{Lack, skipped};
use super::tools::{describe, output_of};

/// The binary that cargo has built for this test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_ringpull");
/// Seconds after which a run counts as hung: no deadline in these tests is near it.
const HUNG_AFTER: &str = "120";

/// The engines of this machine: every test of a pull runs once on each.
///
/// `uring` is left out where the kernel, or a filter on it, does not offer io_uring.
pub fn engines() -> &'static [&'static str] {
    if *URING { &["uring", "epoll"] } else { &["epoll"] }
}

static URING: LazyLock<bool> = LazyLock::new(|| {
    let output = output_of(Command::new(BINARY).arg("probe"));
    let said = String::from_utf8_lossy(&output.stdout).to_lowercase();
    let refused = |line: &str| line.contains("not available") || line.contains("unavailable");
    let available = !said.lines().any(|line| line.contains("uring") && refused(line));
    if !available {
        skipped(Lack::Uring, &format!("pulls on io_uring: {}", said.trim()));
    }
    available
});

/// How a run of the binary ended.
#[derive(Debug)]
pub struct Ended {
    /// The exit code.
    pub code: i32,
    /// All of stdout.
    pub stdout: String,
    /// All of stderr.
    pub stderr: String,
    /// Both, and the command line, to show when something is wrong.
    pub all: String,
}

impl Ended {
    /// Checks that the pull succeeded, and that the last line of stdout begins with `status`.
    #[track_caller]
    pub fn expect_status(&self, status: &str) -> &Ended {
        assert_eq!(self.code, 0, "{}", self.all);
        let last = self.stdout.lines().last().unwrap_or_default();
        assert!(last.starts_with(&format!("Status: {status}")), "{}", self.all);
        self
    }

    /// Checks that the pull failed with `code`, and that stderr ends with `error[class]`.
    #[track_caller]
    pub fn expect_failure(&self, code: i32, class: &str) -> &Ended {
        assert_eq!(self.code, code, "{}", self.all);
        let last = self.stderr.lines().last().unwrap_or_default();
        assert!(last.starts_with(&format!("ringpull: error[{class}]: ")), "{}", self.all);
        self
    }
}

/// Runs `ringpull pull --engine ENGINE ARGUMENTS…`, in an environment that holds nothing of the
/// machine's configuration.
#[track_caller]
pub fn pull(engine: &str, arguments: &[&str]) -> Ended {
    let home = TempDir::new().unwrap();
    let mut command = Command::new("timeout");
    command
        .args(["--kill-after=5", HUNG_AFTER, BINARY, "pull", "--engine", engine])
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", home.path())
        .envs(direct_io_min());
    let output = output_of(&mut command);
    ended(&command, output)
}

/// Writes a `config.json` with Basic credentials for `host`, for `--authfile`.
pub fn write_authfile(path: &Path, host: &str, user: &str, password: &str) {
    use base64::Engine;
    let credentials = format!("{user}:{password}");
    let auth = base64::engine::general_purpose::STANDARD.encode(credentials);
    let config = serde_json::json!({ "auths": { host: { "auth": auth } } });
    std::fs::write(path, config.to_string()).unwrap();
}

#[track_caller]
fn ended(command: &Command, output: Output) -> Ended {
    let all = describe(command, &output);
    let code = output.status.code().unwrap_or_else(|| panic!("killed by a signal: {all}"));
    assert!(code != 124 && code != 137, "hung: {all}");
    Ended {
        code,
        stdout: String::from_utf8(output.stdout).expect("stdout is UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("stderr is UTF-8"),
        all,
    }
}
