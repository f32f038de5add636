//! Other programs: found, run, and their failure shown whole.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::skip::{Lack, skipped, this_test};

/// Where servers live besides `PATH`, which of an ordinary user leaves them out.
const SERVER_DIRECTORIES: [&str; 2] = ["/usr/sbin", "/usr/local/sbin"];

/// The program's path, or `None` to skip the test: `let Some(..) = tool_or_skip("x") else { return };`
///
/// Where tests must not be without it, a missing program fails the test instead: see [`super::skip`].
#[track_caller]
pub fn tool_or_skip(program: &str) -> Option<PathBuf> {
    let found = find(program);
    if found.is_none() {
        skipped(Lack::Program, &format!("{}: `{program}` is missing", this_test()));
    }
    found
}

/// Whether all of `programs` are there; see [`tool_or_skip`].
#[track_caller]
pub fn tools_or_skip(programs: &[&str]) -> bool {
    programs.iter().all(|program| tool_or_skip(program).is_some())
}

/// Runs skopeo, which must succeed, and returns its stdout. The machine's signature policy, if it
/// has any, is left aside.
#[track_caller]
pub fn skopeo(arguments: &[&str]) -> String {
    run(Command::new("skopeo").arg("--insecure-policy").args(arguments))
}

/// Runs umoci, which must succeed, and returns its stdout.
#[track_caller]
pub fn umoci(arguments: &[&str]) -> String {
    run(Command::new("umoci").args(arguments))
}

/// Runs a command without stdin and returns its stdout; panics with all it said if it fails.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let output = output_of(command);
    assert!(output.status.success(), "{}", describe(command, &output));
    String::from_utf8(output.stdout).expect("stdout is UTF-8")
}

/// Runs a command without stdin to its end, whatever that is.
#[track_caller]
pub fn output_of(command: &mut Command) -> Output {
    match command.stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(error) => panic!("{command:?}: {error}"),
    }
}

/// All there is to say about a command that has ended.
pub fn describe(command: &Command, output: &Output) -> String {
    format!(
        "{command:?}: {}\n--- stdout\n{}\n--- stderr\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// The path of `program`, if it is on this machine.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(SERVER_DIRECTORIES.iter().map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

/// `path` as text, for a command line or a configuration file.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("temporary directories have plain names")
}
