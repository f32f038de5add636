//! The rules that the tree is held to, chiefly what must *not* be in it: absences cannot be seen in
//! code. Each message says which way leads out.
//!
//! Rules look at code with comments and literals blanked out, so a comment may name what code must
//! not do. `rules_can_fail`, last, shows each of them something to refuse.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "helpers of tests are tests, which clippy.toml cannot know"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The one room of `unsafe`: files or directories.
const UNSAFE_ROOM: [&str; 3] = [
    "src/transport/engine/uring",
    "src/transport/engine/low_water",
    // getaddrinfo(3), whose error number no safe wrapper hands on.
    "src/transport/engine/names",
];
/// Who may print: the module made for it, and those that run before and after it.
const PRINTERS: [&str; 3] = ["src/report", "src/cli", "src/main"];
/// Protocol code: bytes, instants and configuration in, bytes and verdicts out.
const SANS_IO: [&str; 4] = ["src/http", "src/registry", "src/image", "src/origin"];
/// Lines of the longest file: what one can read in a sitting.
const FILE_LINES_MAX: usize = 1_500;
/// Directories that hold text of ours, besides the files at the top.
const DIRECTORIES: [&str; 7] = [".ci", "bench", "benches", "docs", "scripts", "src", "tests"];
/// Bytes as a peer or another tool wrote them: no rule of ours holds for their form.
const VERBATIM: [&str; 3] = ["tests/fuzz/corpus", "tests/golden", "tests/vectors"];

// --- where things may be -------------------------------------------------------------------------

#[test]
fn unsafe_has_one_room() {
    hold(
        &rust_files(&["src", "tests", "bench", "benches"]),
        unsafe_elsewhere,
        "`unsafe` lives in transport::engine and nowhere else: use rustix or socket2, or give \
         the engine a safe function.",
    );
}

#[test]
fn report_is_the_only_module_that_prints() {
    hold(
        &rust_files(&["src"]),
        printing_elsewhere,
        "Hand what there is to say to `report`, or return it: output that bypasses it tears progress \
         bars, and is not escaped.",
    );
}

#[test]
fn protocol_code_opens_no_socket_and_reads_no_clock() {
    hold(
        &rust_files(&SANS_IO),
        io_in_protocol_code,
        "Take bytes and instants as arguments and return what is to be done: `client` and `transport` \
         do it.",
    );
}

// --- how files look ------------------------------------------------------------------------------

#[test]
fn text_has_no_tabs_and_no_trailing_spaces() {
    hold(
        &text_files(),
        untidy_space,
        "Run `cargo fmt`; in other files, indent with spaces, and end the last line.",
    );
}

#[test]
fn every_source_file_says_first_what_it_is() {
    hold(
        &rust_files(&["src", "tests", "bench", "benches"]),
        no_first_sentence,
        "Begin the file with `//!` and a sentence that tells a newcomer why it is there.",
    );
}

#[test]
fn no_file_is_too_long_to_read() {
    hold(
        &rust_files(&["src", "tests", "bench", "benches"]),
        too_long,
        "Find the second idea in the file and give it a file of its own.",
    );
}

#[test]
fn no_path_of_some_machine_is_left_behind() {
    hold(
        &text_files(),
        machine_path,
        "Nobody else has this path: make it relative, or take a temporary directory.",
    );
}

#[test]
fn a_test_that_is_left_out_says_so_in_one_way() {
    hold(
        &rust_files(&["tests"]),
        skipped_in_silence,
        "Call `skipped` of tests/support/skip.rs: what is only printed, cargo hides.",
    );
}

#[test]
fn tests_that_scripts_name_exist() {
    let mut findings = Vec::new();
    let mut named = 0;
    for script in files_under("scripts") {
        for (file, name) in tests_named(&script.text) {
            named += 1;
            if !read(&format!("tests/{file}.rs")).contains(&format!("fn {name}(")) {
                findings.push(format!("{}: tests/{file}.rs has no {name}", script.path));
            }
        }
    }
    assert!(named >= 4, "scripts/one-test is used by more scripts than {named}");
    settle(
        findings,
        "Name a test that is there: of another name, cargo runs none, and is content.",
    );
}

#[test]
fn scripts_can_be_run() {
    let mut findings = Vec::new();
    for file in files_under("scripts").into_iter().chain(files_under(".ci")) {
        let mode = fs::metadata(root().join(&file.path)).unwrap().permissions().mode();
        if mode & 0o111 == 0 || !file.text.starts_with("#!") {
            findings.push(file.path);
        }
    }
    settle(
        findings,
        "Give it a first line `#!/usr/bin/env bash`, and `git update-index --chmod=+x`.",
    );
}

// --- the map and the documents -------------------------------------------------------------------

#[test]
fn the_map_names_every_module() {
    let library = read("src/lib.rs");
    let map: Vec<&str> = library.lines().filter(|line| line.starts_with("//!")).collect();
    let findings = unnamed_modules(&map.join("\n"), &top_level_modules());
    settle(
        findings,
        "Add the module to the map in src/lib.rs, in reading order, with what it is for.",
    );
}

#[test]
fn every_dependency_has_a_reason() {
    let findings = dependencies_without_reason(&read("Cargo.toml"));
    settle(
        findings,
        "Write a comment above it: what it does here that the standard library does not.",
    );
}

#[test]
fn the_readme_shows_only_commands_that_exist() {
    let readme = read("README.md");
    let mut findings: Vec<String> = script_names(&readme)
        .into_iter()
        .filter(|script| !root().join(script).is_file())
        .map(|script| format!("README.md: {script} does not exist"))
        .collect();
    for command in ringpull_commands(&readme) {
        findings.extend(unknown_to_help(&command));
    }
    settle(findings, "Correct README.md, or the command line if README.md is right.");
}

// --- what ringpull is built on -------------------------------------------------------------------

#[test]
fn licences_of_all_dependencies_are_allowed() {
    let allowed = Allowed::parse(&read("deny.toml"));
    let findings = packages()
        .iter()
        .filter(|package| !allowed.covers(&package.name, &package.licence))
        .map(|package| format!("{} {}: `{}`", package.name, package.version, package.licence))
        .collect();
    settle(
        findings,
        "Do without the dependency; or, if the licence is permissive and OSI-approved, allow it in \
         deny.toml.",
    );
}

#[test]
fn io_uring_comes_in_one_version() {
    let findings = versions_of(&read("Cargo.lock"), "io-uring");
    assert!(
        findings.len() == 1,
        "\nio-uring {findings:?}\n\ntokio-uring takes SQEs of the version it is built on, so Cargo.toml \
         must ask for that one.\n"
    );
}

// --- the rules on files --------------------------------------------------------------------------

/// What a rule finds in a file: line numbers from 1, and what is wrong there.
type Findings = Vec<(usize, String)>;

fn unsafe_elsewhere(file: &File) -> Findings {
    if file.is_within(&UNSAFE_ROOM) { Vec::new() } else { words(&file.code(), &["unsafe"]) }
}

fn printing_elsewhere(file: &File) -> Findings {
    if file.is_within(&PRINTERS) {
        return Vec::new();
    }
    let printing = ["print!", "println!", "eprint!", "eprintln!", "dbg!", "stdout()", "stderr()"];
    words(&file.code_without_tests(), &printing)
}

fn io_in_protocol_code(file: &File) -> Findings {
    // Addresses of `std::net` are values; what opens or resolves is not.
    let io = [
        "Instant::now",
        "SystemTime::now",
        "TcpListener",
        "TcpStream",
        "ToSocketAddrs",
        "UdpSocket",
        "UnixListener",
        "UnixStream",
        "io_uring",
        "socket2",
        "std::fs",
        "thread::sleep",
        "tokio",
        "tokio_uring",
    ];
    words(&file.code_without_tests(), &io)
}

fn untidy_space(file: &File) -> Findings {
    let mut findings = Vec::new();
    for (number, line) in numbered(&file.text) {
        if line.contains('\t') {
            findings.push((number, "a tab".to_owned()));
        }
        if line.ends_with([' ', '\t', '\r']) {
            findings.push((number, "space at the end".to_owned()));
        }
    }
    if !file.text.is_empty() && !file.text.ends_with('\n') {
        findings.push((file.text.lines().count(), "no end of line at the end".to_owned()));
    }
    findings
}

fn no_first_sentence(file: &File) -> Findings {
    let first = file.text.lines().next().unwrap_or_default();
    match first.strip_prefix("//! ") {
        Some(sentence) if !sentence.trim().is_empty() => Vec::new(),
        _ => vec![(1, "no `//!`".to_owned())],
    }
}

fn skipped_in_silence(file: &File) -> Findings {
    // Put together here, so that this file does not find itself.
    let begins = ["skip", "ped: "].concat();
    let is_own = file.path.ends_with("support/skip.rs");
    let lines = numbered(&file.text).filter(|(_, line)| !is_own && line.contains(&begins));
    lines.map(|(number, _)| (number, "left out, and only printed".to_owned())).collect()
}

/// The tests that a script runs by name, as `scripts/one-test FILE NAME`: files and functions.
fn tests_named(script: &str) -> Vec<(String, String)> {
    let words = script.replace("\\\n", " ");
    let calls = words.split("exec scripts/one-test ").skip(1);
    let named = calls.filter_map(|call| {
        let mut words = call.split_whitespace();
        let (file, name) = (words.next()?, words.next()?.trim_matches('"'));
        Some((file.to_owned(), name.rsplit("::").next()?.to_owned()))
    });
    named.collect()
}

fn too_long(file: &File) -> Findings {
    let lines = file.text.lines().count();
    if lines <= FILE_LINES_MAX { Vec::new() } else { vec![(lines, format!("{lines} lines"))] }
}

fn machine_path(file: &File) -> Findings {
    // Put together here, so that this file does not find itself.
    let directories = ["work", "root"].map(|name| format!("/{name}/"));
    let mut findings = Vec::new();
    for (number, line) in numbered(&file.text) {
        for directory in &directories {
            let begins_there = |(at, _): (usize, &str)| !ends_in_name(&line[..at]);
            if line.match_indices(directory.as_str()).any(begins_there) {
                findings.push((number, format!("a path under {directory}")));
            }
        }
    }
    findings
}

/// Whether a path goes on after `before`: `https://example.com` or `assets`, but not `"` or ` `.
fn ends_in_name(before: &str) -> bool {
    before.ends_with(|last: char| last.is_alphanumeric() || "._-~*}$".contains(last))
}

// --- the rules on documents ----------------------------------------------------------------------

fn unnamed_modules(map: &str, modules: &[String]) -> Vec<String> {
    let named = |module: &&String| words(map, &[module.as_str()]).is_empty();
    modules.iter().filter(named).map(|module| format!("src/lib.rs: `{module}`")).collect()
}

fn dependencies_without_reason(manifest: &str) -> Vec<String> {
    let mut findings = Vec::new();
    let (mut in_dependencies, mut previous) = (false, "");
    for (number, line) in numbered(manifest) {
        if line.starts_with('[') {
            in_dependencies = line.trim_end_matches(']').ends_with("dependencies");
        } else if in_dependencies && line.starts_with(|first: char| first.is_ascii_alphanumeric()) {
            // `# --- a heading ---` is no reason.
            if !previous.starts_with("# ") || previous.starts_with("# --") {
                findings.push(format!("Cargo.toml:{number}: {line}"));
            }
        }
        previous = line;
    }
    findings
}

/// All `scripts/NAME` in a text.
fn script_names(text: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    text.match_indices("scripts/")
        .map(|(at, found)| {
            let rest = &text[at + found.len()..];
            let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
            format!("scripts/{}", &rest[..end])
        })
        .filter(|name| name != "scripts/")
        .collect()
}

/// A command line of ringpull, as far as `--help` knows about it.
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    subcommand: Option<String>,
    long_flags: Vec<String>,
}

/// The command lines in a document's code blocks: lines that begin with `ringpull` or `$ ringpull`.
fn ringpull_commands(document: &str) -> Vec<Shown> {
    let (mut commands, mut in_block) = (Vec::new(), false);
    // A backslash continues a command.
    for line in document.replace("\\\n", " ").lines() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        }
        let mut typed = line.trim().trim_start_matches("$ ").split_whitespace();
        if !in_block || typed.next() != Some("ringpull") {
            continue;
        }
        let typed: Vec<&str> =
            typed.take_while(|word| !word.starts_with(['#', '|', '>'])).collect();
        let is_subcommand = |word: &&&str| word.starts_with(|c: char| c.is_ascii_lowercase());
        let long_flag = |word: &&str| {
            let flag = word.split_once('=').map_or(*word, |(flag, _)| flag);
            flag.starts_with("--").then(|| flag.to_owned())
        };
        commands.push(Shown {
            subcommand: typed.first().filter(is_subcommand).map(|&word| word.to_owned()),
            long_flags: typed.iter().filter_map(long_flag).collect(),
        });
    }
    commands
}

/// What of a command line `ringpull SUBCOMMAND --help` does not know.
fn unknown_to_help(shown: &Shown) -> Vec<String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringpull"));
    let output =
        command.args(&shown.subcommand).arg("--help").stdin(Stdio::null()).output().unwrap();
    if !output.status.success() {
        return vec![format!("README.md: {command:?}: {}", output.status)];
    }
    let help = String::from_utf8_lossy(&output.stdout);
    let known: BTreeSet<&str> =
        help.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').collect();
    let unknown = |flag: &&String| !known.contains(flag.as_str());
    let flags = shown.long_flags.iter().filter(unknown);
    flags.map(|flag| format!("README.md: {flag} is not in the output of {command:?}")).collect()
}

fn versions_of(lock: &str, package: &str) -> Vec<String> {
    let name = format!("name = \"{package}\"");
    let mut lines = lock.lines();
    let mut versions = Vec::new();
    while let Some(line) = lines.next() {
        if line == name {
            versions.extend(lines.next().map(str::to_owned));
        }
    }
    versions
}

// --- licences ------------------------------------------------------------------------------------

/// A package that ringpull, its build or its tests use on this platform.
struct Package {
    name: String,
    version: String,
    /// An SPDX expression; empty if the package does not say.
    licence: String,
}

fn packages() -> Vec<Package> {
    // Without `--filter-platform`, cargo would want packages that only other platforms need, which a
    // build has not fetched.
    let metadata = cargo(&[
        "metadata",
        "--format-version=1",
        "--offline",
        "--locked",
        "--filter-platform",
        &host(),
    ]);
    let metadata: serde_json::Value = serde_json::from_str(&metadata).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages
        .map(|package| Package {
            name: text(&package["name"]),
            version: text(&package["version"]),
            licence: text(&package["license"]),
        })
        .collect()
}

fn host() -> String {
    let version = cargo(&["--version", "--verbose"]);
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.expect("cargo says for which host it is").to_owned()
}

fn cargo(arguments: &[&str]) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let mut command = Command::new(cargo);
    let output = command.args(arguments).current_dir(root()).stdin(Stdio::null()).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// The licences that deny.toml allows: to all, and to some packages.
struct Allowed {
    to_all: BTreeSet<String>,
    to_one: BTreeMap<String, BTreeSet<String>>,
}

impl Allowed {
    /// Reads the section `[licenses]`, as far as ours uses TOML.
    fn parse(deny: &str) -> Allowed {
        let mut allowed = Allowed { to_all: BTreeSet::new(), to_one: BTreeMap::new() };
        let (mut in_section, mut in_list) = (false, false);
        for line in deny.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
            match line {
                _ if line.starts_with('[') => in_section = line == "[licenses]",
                "allow = [" => in_list = in_section,
                "]" => in_list = false,
                _ if in_list => allowed.to_all.extend(quoted(line)),
                _ if in_section && line.starts_with("{ crate = ") => {
                    let mut words = quoted(line);
                    let package = words.remove(0);
                    allowed.to_one.entry(package).or_default().extend(words);
                }
                _ => {}
            }
        }
        assert!(!allowed.to_all.is_empty(), "deny.toml has no list `allow` in [licenses]");
        allowed
    }

    fn covers(&self, package: &str, licence: &str) -> bool {
        let exceptions = self.to_one.get(package);
        let allowed = |name: &str| {
            self.to_all.contains(name) || exceptions.is_some_and(|names| names.contains(name))
        };
        let mut tokens = tokens_of(licence).into_iter().peekable();
        // What is left over was not understood.
        any_of(&mut tokens, &allowed) && tokens.next().is_none()
    }
}

/// The parts of a line that stand in double quotes.
fn quoted(line: &str) -> Vec<String> {
    line.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

type Tokens = std::iter::Peekable<std::vec::IntoIter<String>>;

/// Splits an SPDX expression; the old `/` is an `OR`.
fn tokens_of(licence: &str) -> Vec<String> {
    let spaced = licence.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    spaced.split_whitespace().map(str::to_owned).collect()
}

/// `all-of OR all-of …`. Reads all of it, whatever the first says.
fn any_of(tokens: &mut Tokens, allowed: &impl Fn(&str) -> bool) -> bool {
    let mut result = all_of(tokens, allowed);
    while tokens.next_if(|token| token == "OR").is_some() {
        result |= all_of(tokens, allowed);
    }
    result
}

/// `one AND one …`.
fn all_of(tokens: &mut Tokens, allowed: &impl Fn(&str) -> bool) -> bool {
    let mut result = one(tokens, allowed);
    while tokens.next_if(|token| token == "AND").is_some() {
        result &= one(tokens, allowed);
    }
    result
}

/// `( any-of )`, `LICENCE` or `LICENCE WITH EXCEPTION`.
fn one(tokens: &mut Tokens, allowed: &impl Fn(&str) -> bool) -> bool {
    let Some(mut name) = tokens.next() else { return false };
    if name == "(" {
        return any_of(tokens, allowed) & tokens.next_if(|token| token == ")").is_some();
    }
    if tokens.next_if(|token| token == "WITH").is_some() {
        name = format!("{name} WITH {}", tokens.next().unwrap_or_default());
    }
    allowed(&name)
}

// --- files ---------------------------------------------------------------------------------------

/// A text file of the tree.
struct File {
    /// From the top of the tree.
    path: String,
    text: String,
}

impl File {
    /// Whether this is one of `modules` (`src/name.rs`), or lies in one (`src/name/…`).
    fn is_within(&self, modules: &[&str]) -> bool {
        modules.iter().any(|module| {
            let rest = self.path.strip_prefix(module);
            rest.is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
        })
    }

    /// The text with comments and literals blanked out.
    fn code(&self) -> String {
        blank(&self.text)
    }

    /// The code that is shipped. Tests stand last in a file, or in a file `tests.rs`.
    fn code_without_tests(&self) -> String {
        if self.path.ends_with("/tests.rs") {
            return String::new();
        }
        let code = self.code();
        let tests = code.find("#[cfg(test)]\nmod ").unwrap_or(code.len());
        code[..tests].to_owned()
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All text files of ours.
fn text_files() -> Vec<File> {
    let mut files: Vec<File> = DIRECTORIES.iter().flat_map(|path| files_under(path)).collect();
    for entry in fs::read_dir(root()).unwrap() {
        let path = entry.unwrap().path();
        // In a work tree of git's own, `.git` is a file that says where the repository is.
        if path.is_file() && !path.ends_with(".git") {
            files.extend(load(&path));
        }
    }
    files.retain(|file| !file.is_within(&VERBATIM));
    files
}

/// All Rust files of some modules: files `NAME.rs`, directories `NAME`, or both.
fn rust_files(modules: &[&str]) -> Vec<File> {
    let mut files: Vec<File> = modules.iter().flat_map(|module| files_under(module)).collect();
    for module in modules {
        files.extend(load(&root().join(format!("{module}.rs"))));
    }
    files.retain(|file| file.path.ends_with(".rs"));
    files
}

/// All text files in a directory, none if there is none, in a fixed order.
fn files_under(directory: &str) -> Vec<File> {
    let mut files = Vec::new();
    let mut left = vec![root().join(directory)];
    while let Some(directory) = left.pop() {
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        let (directories, others): (Vec<_>, Vec<_>) =
            paths.into_iter().partition(|path| path.is_dir());
        left.extend(directories);
        files.extend(others.iter().filter_map(|path| load(path)));
    }
    files
}

/// `None` for what is not text, or not there.
fn load(path: &Path) -> Option<File> {
    let text = fs::read_to_string(path).ok()?;
    let path = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
    Some(File { path, text })
}

/// Names of the modules that lib.rs declares or has beside it.
fn top_level_modules() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(root().join("src"))
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .filter(|name| name != "lib" && name != "main")
        .collect();
    names.sort();
    names
}

// --- reading code --------------------------------------------------------------------------------

/// Lines with their numbers, from 1. A carriage return stays part of the line.
fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.split('\n').enumerate().map(|(index, line)| (index + 1, line))
}

/// Where one of `wanted` stands in `code` as a word of its own.
fn words(code: &str, wanted: &[&str]) -> Findings {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut findings = Vec::new();
    for (number, line) in numbered(code) {
        for word in wanted {
            let stands_alone = |(at, _): (usize, &str)| {
                let (before, after) = (&line[..at], &line[at + word.len()..]);
                let goes_on = word.ends_with(is_word) && after.starts_with(is_word);
                !before.ends_with(is_word) && !goes_on
            };
            if line.match_indices(word).any(stands_alone) {
                findings.push((number, format!("`{word}`")));
            }
        }
    }
    findings
}

/// Rust source with the inside of comments and literals replaced by spaces; lines stay where they are.
fn blank(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let hidden = comment_or_literal(rest);
        // Within a word, `r` and `b` begin no literal.
        let in_word =
            first.is_alphanumeric() && code.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        if hidden == 0 || in_word {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            code.extend(rest[..hidden].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = &rest[hidden..];
        }
    }
    code
}

/// Length in bytes of the comment or literal that `source` begins with; 0 if with neither.
fn comment_or_literal(source: &str) -> usize {
    let to = |end: Option<usize>| end.unwrap_or(source.len());
    if source.starts_with("//") {
        return to(source.find('\n'));
    }
    if source.starts_with("/*") {
        return to(block_comment_end(source));
    }
    if source.starts_with('\'') {
        return character_end(source).unwrap_or(0);
    }
    let prefix = source.len() - source.trim_start_matches(['b', 'c', 'r']).len();
    let (prefix, literal) = source.split_at(prefix);
    if !["", "b", "c", "r", "br", "cr"].contains(&prefix) {
        return 0;
    }
    if prefix.ends_with('r') {
        let hashes = literal.len() - literal.trim_start_matches('#').len();
        let end = format!("\"{}", "#".repeat(hashes));
        let Some(content) = literal[hashes..].strip_prefix('"') else { return 0 };
        let before = source.len() - content.len();
        return to(content.find(&end).map(|at| before + at + end.len()));
    }
    let Some(content) = literal.strip_prefix('"') else { return 0 };
    let before = source.len() - content.len();
    to(unescaped(content, '"').map(|at| before + at + 1))
}

/// The end of a block comment, which may hold others.
fn block_comment_end(source: &str) -> Option<usize> {
    let (mut depth, mut at) = (0, 0);
    loop {
        let rest = source.get(at..)?;
        let next = rest.find("/*").into_iter().chain(rest.find("*/")).min()?;
        depth = if rest[next..].starts_with("/*") { depth + 1 } else { depth - 1 };
        at += next + 2;
        if depth == 0 {
            return Some(at);
        }
    }
}

/// The end of a character literal; `None` for a lifetime.
fn character_end(source: &str) -> Option<usize> {
    let content = &source[1..];
    if content.starts_with('\\') {
        return unescaped(content, '\'').map(|at| at + 2);
    }
    let first = content.chars().next()?;
    content[first.len_utf8()..].starts_with('\'').then(|| first.len_utf8() + 2)
}

/// Where `end` first stands without a backslash before it.
fn unescaped(content: &str, end: char) -> Option<usize> {
    let mut escaped = false;
    content.char_indices().find_map(|(at, c)| {
        let found = c == end && !escaped;
        escaped = c == '\\' && !escaped;
        found.then_some(at)
    })
}

// --- verdicts ------------------------------------------------------------------------------------

/// Holds files to a rule.
#[track_caller]
fn hold(files: &[File], rule: fn(&File) -> Findings, way_out: &str) {
    assert!(!files.is_empty(), "no file was looked at");
    let findings = files.iter().flat_map(|file| {
        let found = rule(file).into_iter();
        found.map(move |(line, what)| format!("{}:{line}: {what}", file.path))
    });
    settle(findings.collect(), way_out);
}

#[track_caller]
fn settle(findings: Vec<String>, way_out: &str) {
    assert!(findings.is_empty(), "\n{}\n\n{way_out}\n", findings.join("\n"));
}

// --- the rules are held, too ---------------------------------------------------------------------

#[test]
fn rules_can_fail() {
    type Case = (fn(&File) -> Findings, &'static str, &'static str, usize);
    let cases: &[Case] = &[
        (unsafe_elsewhere, "src/store/mod.rs", "//! x\nfn f() { unsafe { g() } }\n", 1),
        (unsafe_elsewhere, "src/transport/engine/uring2.rs", "unsafe fn f() {}\n", 1),
        (unsafe_elsewhere, "src/transport/engine/uring.rs", "unsafe fn f() {}\n", 0),
        (unsafe_elsewhere, "src/transport/engine/uring/pair.rs", "unsafe fn f() {}\n", 0),
        (unsafe_elsewhere, "src/a.rs", "// unsafe\n/* unsafe /* */ unsafe */ fn f() {}\n", 0),
        (unsafe_elsewhere, "src/a.rs", "#![deny(unsafe_code)]\nconst A: &str = \"unsafe\";\n", 0),
        (unsafe_elsewhere, "src/a.rs", "f(r#\"\" unsafe\"#, b\"\\\" unsafe\"); unsafe {}\n", 1),
        (unsafe_elsewhere, "src/a.rs", "f('\"'); unsafe { g('\\'', '\"') }\n", 1),
        (unsafe_elsewhere, "src/a.rs", "fn f<'a>(x: &'a str) { unsafe {} }\n", 1),
        (printing_elsewhere, "src/store/mod.rs", "println!(); eprint!()\n", 2),
        (printing_elsewhere, "src/store/mod.rs", "let out = io::stdout().lock();\n", 1),
        (printing_elsewhere, "src/store/mod.rs", "command.stdout(Stdio::piped());\n", 0),
        (printing_elsewhere, "src/a.rs", "f();\n#[cfg(test)]\nmod tests { dbg!(1); }\n", 0),
        (printing_elsewhere, "src/report/board.rs", "println!()\n", 0),
        (printing_elsewhere, "src/main.rs", "println!()\n", 0),
        (io_in_protocol_code, "src/http/a.rs", "let now = Instant::now();\n", 1),
        (io_in_protocol_code, "src/http/a.rs", "use tokio::time;\nuse std::net::TcpStream;\n", 2),
        (io_in_protocol_code, "src/http/a.rs", "use std::net::IpAddr; // no TcpStream\n", 0),
        (untidy_space, "deny.toml", "a\n\tb\n", 1),
        (untidy_space, "deny.toml", "a \nb\r\nc", 3),
        (untidy_space, "deny.toml", "a\n\nb\n", 0),
        (no_first_sentence, "src/a.rs", "use std::fmt;\n", 1),
        (no_first_sentence, "src/a.rs", "//!\n//! Late.\n", 1),
        (no_first_sentence, "src/a.rs", "//! Says it.\n", 0),
        (machine_path, "src/a.rs", concat!("x = \"/", "work/x\"\ny = /", "root/.cargo\n"), 2),
        (skipped_in_silence, "tests/a.rs", concat!("println!(\"skip", "ped: x\");\n"), 1),
        (skipped_in_silence, "tests/support/skip.rs", concat!("\"skip", "ped: {}\"\n"), 0),
        (machine_path, "src/a.rs", concat!("https://example.com/", "work/x\n"), 0),
    ];
    for (index, &(rule, path, text, findings)) in cases.iter().enumerate() {
        let found = rule(&File { path: path.to_owned(), text: text.to_owned() });
        assert_eq!(found.len(), findings, "case {index}: {path}: {text:?}: {found:?}");
    }
    let script = "x\nexec scripts/one-test engine \\\n    \"on_$engine::a_case\" --quiet\n";
    assert_eq!(tests_named(script), [("engine".to_owned(), "a_case".to_owned())]);
    let long = "//! Too long.\n".repeat(FILE_LINES_MAX + 1);
    assert_eq!(too_long(&File { path: "src/a.rs".to_owned(), text: long }).len(), 1);
}

#[test]
fn rules_on_documents_can_fail() {
    let modules = ["http".to_owned(), "store".to_owned()];
    assert_eq!(unnamed_modules("//! http_1 and store", &modules), ["src/lib.rs: `http`"]);

    let manifest =
        "[dependencies]\n# --- one ---\na = \"1\"\n# Why.\nb = \"1\"\nc = \"1\"\n[lib]\nd = 1\n";
    let findings = dependencies_without_reason(manifest);
    assert_eq!(findings, ["Cargo.toml:3: a = \"1\"", "Cargo.toml:6: c = \"1\""]);

    let lock =
        "name = \"io-uring\"\nversion = \"0.6.4\"\n\nname = \"io-uring\"\nversion = \"0.7.0\"\n";
    assert_eq!(versions_of(lock, "io-uring").len(), 2);

    let readme = "Run `scripts/test` or scripts/x-y.\n```sh\n$ ringpull pull --engine=uring \\\n  -q a\n```\n\
                  ringpull prose\n```\nringpull --version # --not\n```\n";
    assert_eq!(
        script_names(readme).into_iter().collect::<Vec<_>>(),
        ["scripts/test", "scripts/x-y"]
    );
    let shown = |subcommand: Option<&str>, flag: &str| Shown {
        subcommand: subcommand.map(str::to_owned),
        long_flags: vec![flag.to_owned()],
    };
    assert_eq!(
        ringpull_commands(readme),
        [shown(Some("pull"), "--engine"), shown(None, "--version")]
    );
}

#[test]
fn licences_can_be_refused() {
    let allowed = Allowed::parse(
        "[bans]\nallow = [\n  \"GPL-3.0\",\n]\n[licenses]\nallow = [\n  # \"AGPL\"\n  \"MIT\",\n  \"ISC\",\n]\n\
         exceptions = [\n{ crate = \"roots\", allow = [\"CDLA\"] },\n]\n",
    );
    for (package, licence, expected) in [
        ("a", "MIT", true),
        ("a", "GPL-3.0", false),
        ("a", "AGPL", false),
        ("a", "", false),
        ("a", "GPL-3.0 OR MIT", true),
        ("a", "GPL-3.0/MIT", true),
        ("a", "GPL-3.0 AND MIT", false),
        ("a", "ISC AND (GPL-3.0 OR MIT)", true),
        ("a", "ISC AND (GPL-3.0 AND MIT)", false),
        ("a", "(MIT OR GPL-3.0) AND GPL-3.0", false),
        ("a", "MIT WITH Some-exception", false),
        ("a", "MIT WITH Some-exception OR ISC", true),
        ("a", "MIT ISC", false),
        ("a", "(MIT", false),
        ("roots", "CDLA", true),
        ("a", "CDLA", false),
    ] {
        assert_eq!(allowed.covers(package, licence), expected, "{package}: {licence}");
    }
}
