//! The command line: what it refuses and how it says so, what it prints and what never.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "helpers of tests are tests, which clippy.toml cannot know"
)]

mod support;

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use ringpull::demo::{
    Action, Auth, Bearer, BlobRedirect, Credentials, Format, Image, Index, Kind, Options, Platform,
    Registry, RequestLine, Rule, Script,
};
use rustix::process::Signal;
use serde_json::Value;
use support::layout::Layout;
use support::process::{Outcome, Running, SOON, ringpull, run};
use support::ringpull::{engines, write_authfile};
use support::server::eventually;
use support::skip::{Lack, skipped};
use support::tools::text;
use tempfile::TempDir;

static IMAGE: LazyLock<Image> = LazyLock::new(|| Image::generate(1, &[64 << 10, 8 << 10]));

type Environment<'a> = &'a [(&'a str, &'a str)];

/// Runs `ringpull pull` with these arguments and variables, and no retries.
fn pull(arguments: &[&str], environment: Environment<'_>) -> Outcome {
    let mut command = ringpull(&[&["pull"], arguments].concat());
    command.env("RINGPULL_RETRIES", "0").envs(environment.iter().copied());
    run(command)
}

/// A registry with the image as `demo:latest`, and a place to pull to.
struct World {
    registry: Registry,
    directory: TempDir,
}

impl World {
    fn new(options: Options) -> World {
        let registry = Registry::start(options).unwrap();
        registry.add("demo", "latest", &IMAGE);
        World { registry, directory: TempDir::new().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn layout(&self) -> Layout {
        Layout::open(&self.path("out"))
    }

    fn pull(&self, arguments: &[&str], environment: Environment<'_>) -> Outcome {
        let reference = self.registry.reference("demo", "latest");
        let destination = self.layout().reference("latest");
        pull(&[arguments, &[&reference, &destination]].concat(), environment)
    }
}

// --- what is refused -----------------------------------------------------------------------------

/// Exit code 2, nothing on stdout, and an error that has all of `texts`: the thing, and the way out. The
/// last line has its class, for scripts.
#[track_caller]
fn check_refused(arguments: &[&str], environment: Environment<'_>, texts: &[&str]) {
    let outcome = pull(arguments, environment);
    outcome.expect_failure(2, "usage", "");
    for text in texts {
        assert!(outcome.stderr.contains(text), "`{text}` is not in: {}", outcome.all);
    }
    assert!(!outcome.stderr.contains("panicked"), "{}", outcome.all);
    assert!(outcome.stderr.lines().count() <= 8, "more than one reads: {}", outcome.all);
}

/// The same, and the one line is ours.
#[track_caller]
fn check_usage(arguments: &[&str], environment: Environment<'_>, texts: &[&str]) {
    check_refused(arguments, environment, texts);
    let outcome = pull(arguments, environment);
    assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.all);
}

#[test]
fn bad_references_are_named_with_the_way_out() {
    for (reference, texts) in [
        ("", &["is empty", "alpine:3.20"][..]),
        ("Alpine", &["`Alpine` has upper case letters", "write `alpine`"]),
        ("https://ghcr.io/a/b", &["`https://`", "write `ghcr.io/a/b`"]),
        ("docker://alpine", &["`docker://`", "write `alpine`"]),
        ("alpine:", &["the tag of `alpine:` is empty", "alpine:TAG"]),
        ("alpine:-x", &["tag `-x`", "letters, digits"]),
        (":latest", &["`:latest` has no name", "NAME[:TAG]"]),
        ("alpine@sha256:12", &["digest `sha256:12`", "64 lowercase hexadecimal digits"]),
        (
            "alpine@md5:d41d8cd98f00b204e9800998ecf8427e",
            &["md5", "sha256 and sha512 are supported"],
        ),
        ("alpine@latest", &["digest `latest`", "sha256:<64 hexadecimal digits>"]),
        ("ghcr.io/", &["ghcr.io", "NAME"]),
        ("a//b", &["malformed", "between slashes"]),
        ("host:99999/a", &["host:99999"]),
        ("../../etc/passwd", &["registry `..` is not a host"]),
        ("a/../b", &["`..` in repository `a/../b` is malformed"]),
        ("user:canary@host:5000/a", &["`USER:PASSWORD@`", "write `host:5000/a`", "--authfile"]),
    ] {
        check_usage(&[reference, "oci:/nonexistent/x"], &[], texts);
    }
    let long = "a/".repeat(200) + "b";
    check_usage(&[&long], &[], &["at most 255 are allowed"]);
}

#[test]
fn a_command_line_that_is_not_understood_is_told_in_one_last_line() {
    for (arguments, last, advice) in [
        (&[][..], "no command is given", "Usage: ringpull <COMMAND>"),
        (&["pull"], "the following required arguments were not provided: <REFERENCE>", "Usage: "),
        (&["pull", "a", "b", "c"], "unexpected argument 'c' found", "--help"),
        (&["pull", "--retry", "a"], "unexpected argument '--retry' found", "exists: '--retries'"),
        (
            &["fetch"],
            "unrecognized subcommand 'fetch'; to pull an image, write ringpull pull fetch",
            "--help",
        ),
        (&["pul"], "unrecognized subcommand 'pul'", "'pull'"),
        (&["help", "fetch"], "unrecognized subcommand 'fetch'", "--help"),
        // Clap leaves escape codes out.
        (&["pull", "--\u{1b}[31m"], "unexpected argument '--' found", "--help"),
    ] {
        let outcome = run(ringpull(arguments));
        outcome.expect_failure(2, "usage", "");
        assert_eq!(outcome.last_line(), format!("ringpull: error[usage]: {last}"));
        assert!(outcome.stderr.contains(advice), "{}", outcome.all);
    }
    for (flag, text) in [("--help", "Usage: ringpull <COMMAND>"), ("--version", "ringpull ")] {
        let outcome = run(ringpull(&[flag]));
        outcome.expect_success();
        assert!(outcome.stdout.contains(text) && outcome.stderr.is_empty(), "{}", outcome.all);
    }
}

#[test]
fn bad_values_are_named_with_the_way_out() {
    const FORM: &str = "60s, 500ms or 1m";
    for (arguments, texts) in [
        (&["--recv-timeout", "fast"][..], &["'fast'", "--recv-timeout", FORM][..]),
        (&["--recv-timeout", "60"], &["'60'", "--recv-timeout", "write 60s, 60ms or 60m"]),
        (&["--recv-timeout", "0s"], &["--recv-timeout", "a deadline of nothing", FORM]),
        (&["--recv-timeout", "2days"], &["--recv-timeout", "at most 24h", FORM]),
        (&["--connect-timeout=-1s"], &["'-1s'", "--connect-timeout", FORM]),
        (&["--head-timeout", "x"], &["--head-timeout", FORM]),
        (&["--tls-timeout", "x"], &["--tls-timeout", FORM]),
        (&["--resolve-timeout", "x"], &["--resolve-timeout", FORM]),
        (&["--jobs", "0"], &["'0'", "--jobs", "from 1 to 64"]),
        (&["--jobs", "65"], &["'65'", "--jobs", "from 1 to 64"]),
        (&["--jobs", "x"], &["'x'", "--jobs", "from 1 to 64"]),
        (&["--retries", "101"], &["'101'", "--retries", "from 0 to 100"]),
        (&["--retries", "-1"], &["'-1'", "--retries", "from 0 to 100"]),
        (&["--engine", "kqueue"], &["'kqueue'", "--engine", "auto, uring, epoll"]),
        (&["--plain-http=perhaps"], &["'perhaps'", "--plain-http", "write true or false"]),
        (&["--timeout", "60"], &["'60'", "--timeout", "60s, 60ms or 60m", "or none"]),
        (&["--memory", "64Mbit"], &["'64Mbit'", "--memory", "in bits", "20M"]),
        (&["--memory", "none"], &["'none'", "--memory", "20M"]),
        (&["--limit-rate", "0"], &["'0'", "--limit-rate", "at least 4.0 KiB", "or none"]),
        (&["--no-such-flag"], &["--no-such-flag", "--help"]),
        (&["--platform", "linux"], &["`linux`", "linux/amd64"]),
        (&["--platform", "linux/a b"], &["`a b`", "letters"]),
        (&["--platform", ""], &["``", "linux/amd64"]),
    ] {
        check_refused(&[arguments, &["alpine", "oci:/nonexistent/x"]].concat(), &[], texts);
    }
    for destination in ["images", "docker-archive:x.tar", "oci:", "oci:x:", "oci:x:a:b"] {
        check_usage(&["alpine", destination], &[], &[destination, "oci:DIR:TAG"]);
    }
    check_refused(&[], &[], &["<REFERENCE>", "--help"]);
    check_refused(&["a", "oci:b", "c"], &[], &["'c'", "--help"]);
}

#[test]
fn bad_files_are_named_with_the_way_out() {
    let directory = TempDir::new().unwrap();
    let file = |name: &str, content: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let destination = format!("oci:{}", text(&directory.path().join("out")));
    let with = |flag, path: &Path, texts: &[&str]| {
        let named = [&[text(path)], texts].concat();
        check_usage(&[flag, text(path), "127.0.0.1:1/a", &destination], &[], &named);
    };
    const BLOCKS: &str = "PEM blocks `-----BEGIN CERTIFICATE-----`";
    let missing = directory.path().join("missing");
    with("--ca-file", &missing, &["cannot read the certificates", "No such file"]);
    with("--ca-file", directory.path(), &["cannot read the certificates", "directory"]);
    with("--ca-file", &file("empty", ""), &["no certificate found", BLOCKS]);
    with("--ca-file", &file("text", "not PEM at all"), &["no certificate found", BLOCKS]);
    let block = "-----BEGIN CERTIFICATE-----\n%%%\n-----END CERTIFICATE-----\n";
    with("--ca-file", &file("garbage", block), &[BLOCKS]);
    let block = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
    with("--ca-file", &file("other", block), &[BLOCKS]);
    let block = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n";
    with("--ca-file", &file("cut", block), &[BLOCKS]);

    with("--authfile", &missing, &["cannot read the credentials", "No such file"]);
    with("--authfile", directory.path(), &["cannot read the credentials"]);
    with("--authfile", &file("nothing", ""), &["is empty", "is written {}"]);
    with("--authfile", &file("list", "[]"), &["is not the JSON expected (line 1"]);
    let broken = file("broken", r#"{"auths":{"127.0.0.1:1":{"auth":"canary"#);
    with("--authfile", &broken, &["is not the JSON expected (line 1"]);
    let entry = file("entry", r#"{"auths":{"127.0.0.1:1":{"auth":"canary!"}}}"#);
    with("--authfile", &entry, &["the entry of `127.0.0.1:1` cannot be used"]);
    for path in [broken, entry] {
        let outcome = pull(&["--authfile", text(&path), "127.0.0.1:1/a", &destination], &[]);
        assert!(!outcome.all.replace(text(&path), "").contains("canary"), "{}", outcome.all);
    }
}

/// A credentials file that nobody named, and that cannot be used.
struct Unusable {
    what: &'static str,
    /// How ringpull comes upon it.
    variable: (&'static str, String),
    /// What the warning says.
    texts: Vec<String>,
}

fn unusable_files(directory: &Path) -> Vec<Unusable> {
    let home = |name: &str, make: &dyn Fn(&Path)| {
        let docker = directory.join(name).join(".docker");
        std::fs::create_dir_all(&docker).unwrap();
        make(&docker.join("config.json"));
        ("HOME", text(&directory.join(name)).to_owned())
    };
    let write = |content: &'static str| move |path: &Path| std::fs::write(path, content).unwrap();
    let fifo = |path: &Path| {
        let path = std::ffi::CString::new(text(path)).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &*path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
    };
    let named = |name: &str| format!("{name}/.docker/config.json");
    let file = text(&directory.join("file")).to_owned();
    std::fs::write(&file, "{}").unwrap();
    let runtime = text(&directory.join("runtime")).to_owned();
    std::fs::create_dir_all(format!("{runtime}/containers")).unwrap();
    std::fs::write(format!("{runtime}/containers/auth.json"), "[]").unwrap();
    let row = |what, variable, texts: &[&str]| {
        let texts = texts.iter().map(|text| (*text).to_owned()).collect();
        Unusable { what, variable, texts }
    };
    let plain = "not a regular file";
    let of_file = format!("{file}/config.json");
    vec![
        row("empty", home("empty", &write("")), &[&named("empty"), "is empty"]),
        row("not JSON", home("text", &write("canary")), &[&named("text"), "line 1"]),
        row(
            "a directory",
            home("directory", &|path| std::fs::create_dir(path).unwrap()),
            &[&named("directory"), plain],
        ),
        // Nobody ever writes to it: a pull that opens it waits without end.
        row("a pipe", home("pipe", &fifo), &[&named("pipe"), plain]),
        row(
            "no directory",
            ("HOME", "/dev/null".to_owned()),
            &["/dev/null/.docker/config.json: Not a directory"],
        ),
        row("DOCKER_CONFIG is the file", ("DOCKER_CONFIG", file), &[&of_file]),
        row(
            "of containers",
            ("XDG_RUNTIME_DIR", runtime),
            &["runtime/containers/auth.json is not the JSON expected"],
        ),
    ]
}

#[test]
fn a_credentials_file_that_nobody_named_and_cannot_be_used_is_a_warning() {
    let directory = TempDir::new().unwrap();
    for engine in engines() {
        for Unusable { what, variable: (name, value), texts } in unusable_files(directory.path()) {
            let world = World::new(Options::default());
            let outcome = world.pull(&["-q", "--engine", engine], &[(name, &value)]);
            outcome.expect_success();
            assert!(!outcome.all.contains("canary"), "{what}: {}", outcome.all);
            let [warning] = outcome.stderr.lines().collect::<Vec<_>>()[..] else {
                panic!("{what}: {}", outcome.all)
            };
            assert!(warning.starts_with("ringpull: warning: "), "{what}: {warning}");
            assert!(warning.contains("goes on without credentials"), "{what}: {warning}");
            for text in texts {
                assert!(warning.contains(&text), "{what}: `{text}` is not in: {warning}");
            }
        }
        // Made anew for the next engine.
        std::fs::remove_file(directory.path().join("pipe/.docker/config.json")).unwrap();
        std::fs::remove_dir(directory.path().join("directory/.docker/config.json")).unwrap();
    }
}

/// As under `sudo -u`, or in a container that keeps the HOME of its image's user.
#[test]
fn the_home_of_another_user_is_a_warning() {
    use std::os::unix::fs::PermissionsExt;
    if !rustix::process::geteuid().is_root() {
        return skipped(Lack::Right, "the home of another user: only root can be one");
    }
    let world = World::new(Options::default());
    let open = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    open(world.directory.path(), 0o777);
    let home = world.path("home");
    std::fs::create_dir_all(home.join(".docker")).unwrap();
    std::fs::write(home.join(".docker/config.json"), "{}").unwrap();
    open(&home, 0o700);
    let binary = world.path("ringpull");
    std::fs::copy(support::ringpull::BINARY, &binary).unwrap();
    let mut command = std::process::Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(binary);
    command.args(["pull", &world.registry.reference("demo", "latest")]);
    command.arg(world.layout().reference("latest"));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", &home);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let outcome = run(command);
    outcome.expect_success();
    let warning = "home/.docker/config.json: Permission denied";
    assert!(outcome.stderr.contains(warning), "{}", outcome.all);
}

#[test]
fn a_credentials_file_with_a_byte_order_mark_is_read() {
    let options =
        Options { auth: Some(Auth::Basic(Credentials::new(USER, PASSWORD))), ..Options::default() };
    let world = World::new(options);
    let authfile = world.path("auth.json");
    write_authfile(&authfile, &world.registry.address().to_string(), USER, PASSWORD);
    let content = std::fs::read_to_string(&authfile).unwrap();
    std::fs::write(&authfile, format!("\u{feff}{content}")).unwrap();
    world.pull(&["--authfile", text(&authfile)], &[]).expect_success();
}

#[test]
fn what_was_meant_is_said() {
    for (arguments, texts) in [
        (
            &["oci:./a", "alpine"][..],
            &["the image comes first", "ringpull pull alpine oci:./a"][..],
        ),
        (&["oci:./a"], &["the image comes first", "ringpull pull REFERENCE oci:./a"]),
        (&["--plain-http", "false", "alpine"], &["write --plain-http=false"]),
        (&["--plain-http", "false"], &["write --plain-http=false"]),
        (&["alpine", "oci:~/x"], &["`oci:~/x`", "the shell", "write oci:$HOME/x", "oci:./~/x"]),
        (&["--store", "~/x", "alpine"], &["`--store ~/x`", "write --store $HOME/x"]),
        (&["--authfile", "~/x", "alpine"], &["`--authfile ~/x`", "write --authfile $HOME/x"]),
        (&["--ca-file", "~/x", "alpine"], &["`--ca-file ~/x`", "write --ca-file $HOME/x"]),
        (&["alpine", "./dir"], &["destination", "(here oci:./dir)"]),
        (&["alpine", "/dir"], &["destination", "(here oci:/dir)"]),
    ] {
        check_usage(arguments, &[], texts);
    }
    let three = ["--plain-http", "false", "alpine", "oci:/nonexistent/x"];
    check_refused(&three, &[], &["write --plain-http=false"]);
    let outcome = run(ringpull(&["alpine"]));
    outcome.expect_failure(2, "usage", "to pull an image, write ringpull pull alpine");
    let outcome = run(ringpull(&["demo", "~/x"]));
    outcome.expect_failure(2, "usage", "write $HOME/x");
}

// --- flags and their twins -----------------------------------------------------------------------

/// All variables of options, as the help names them.
fn variables() -> Vec<String> {
    let mut names = Vec::new();
    for command in ["pull", "gc", "images", "demo"] {
        let help = run(ringpull(&[command, "--help"])).stdout;
        let found = help.match_indices("[env: RINGPULL_").map(|(at, _)| {
            help[at + "[env: ".len()..].chars().take_while(|&c| c == '_' || c.is_alphanumeric())
        });
        names.extend(found.map(String::from_iter));
    }
    names.sort();
    names.dedup();
    names
}

#[test]
fn a_variable_that_is_empty_is_as_if_unset() {
    let world = World::new(Options::default());
    let names = variables();
    assert!(names.len() > 25, "{names:?}");
    let others = ["DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "https_proxy"];
    let empty: Vec<(&str, &str)> =
        names.iter().map(String::as_str).chain(others).map(|name| (name, "")).collect();
    let set = |command: &mut std::process::Command| {
        command.envs(empty.iter().copied());
    };
    for arguments in [&["images"][..], &["gc"]] {
        let mut command = ringpull(arguments);
        set(&mut command);
        run(command).expect_success();
    }
    // With retries as they are by default.
    let reference = world.registry.reference("demo", "latest");
    let mut command = ringpull(&["pull", &reference, &world.layout().reference("latest")]);
    set(&mut command);
    let outcome = run(command);
    outcome.expect_success();
    assert!(!outcome.stderr.contains("warning"), "{}", outcome.all);
    assert!(outcome.stderr.contains("Pulling from"), "{}", outcome.all);
}

#[test]
fn an_error_about_a_value_from_the_environment_names_the_variable() {
    let arguments = ["127.0.0.1:1/a", "oci:/nonexistent/x"];
    for (variable, value) in [
        ("RINGPULL_RECV_TIMEOUT", "x"),
        ("RINGPULL_LOCK_TIMEOUT", "x"),
        ("RINGPULL_JOBS", "0"),
        ("RINGPULL_CONNECTIONS", "0"),
        ("RINGPULL_MEMORY", "x"),
        ("RINGPULL_ENGINE", "kqueue"),
        ("RINGPULL_PLATFORM", "linux"),
        ("RINGPULL_QUIET", "perhaps"),
        ("RINGPULL_PLAIN_HTTP", "perhaps"),
        ("RINGPULL_CA_FILE", "/nonexistent/ca.pem"),
        ("RINGPULL_AUTHFILE", "/nonexistent/auth.json"),
        ("REGISTRY_AUTH_FILE", "/nonexistent/auth.json"),
    ] {
        let outcome = pull(&arguments, &[(variable, value)]);
        outcome.expect_failure(2, "usage", value);
        let last = outcome.last_line();
        assert!(last.starts_with(&format!("ringpull: error[usage]: {variable}: ")), "{last}");
    }
    // A value that was typed is blamed itself, though there is a variable.
    for (flag, typed, variable, set) in [
        ("--jobs", "0", "RINGPULL_JOBS", "4"),
        ("--jobs", "0", "RINGPULL_JOBS", "0"),
        ("--platform", "linux", "RINGPULL_PLATFORM", "linux"),
        ("--authfile", "/nonexistent/a.json", "REGISTRY_AUTH_FILE", "/nonexistent/a.json"),
    ] {
        let outcome = pull(&[&[flag, typed], &arguments[..]].concat(), &[(variable, set)]);
        outcome.expect_failure(2, "usage", typed);
        assert!(!outcome.last_line().contains(variable), "{}", outcome.all);
    }
}

#[test]
fn a_variable_that_is_no_option_is_warned_about() {
    let world = World::new(Options::default());
    for (name, nearest) in [
        ("RINGPULL_RETRYS", "RINGPULL_RETRIES"),
        ("RINGPULL_CONNECTION", "RINGPULL_CONNECTIONS"),
        ("RINGPULL_RECV_TIMOUT", "RINGPULL_RECV_TIMEOUT"),
    ] {
        let outcome = world.pull(&["-q"], &[(name, "1")]);
        outcome.expect_success();
        let expected = format!(
            "ringpull: warning: the variable {name} is no option of ringpull and has no effect; did \
             you mean {nearest}?\n"
        );
        assert_eq!(outcome.stderr, expected);
    }
    // Another command's, and what the tests of engines use.
    let known = [("RINGPULL_PARTIALS", "1"), ("RINGPULL_DENY", "")];
    assert_eq!(world.pull(&["-q"], &known).stderr, "");
}

#[test]
fn a_ca_file_in_the_environment_leaves_loopback_registries_plain() {
    let world = World::new(Options::default());
    let pem = rcgen::generate_simple_self_signed(["registry.test".to_owned()]).unwrap().cert.pem();
    let path = world.path("ca.pem");
    std::fs::write(&path, pem).unwrap();
    for engine in engines() {
        let flags = ["--engine", engine, "-v"];
        world.pull(&flags, &[("RINGPULL_CA_FILE", text(&path))]).expect_success();
        let typed = world.pull(&[&flags[..], &["--ca-file", text(&path)]].concat(), &[]);
        assert_eq!(typed.code, 5, "typed, it means https: {}", typed.all);
    }
}

#[test]
fn a_proxy_that_is_not_used_is_warned_about() {
    // Nothing listens there, and the name leads nowhere: the warning comes before any wait.
    let at_name = |environment: Environment<'_>| {
        let outcome = pull(&["-q", "registry.invalid:1/a", "oci:/nonexistent/x"], environment);
        assert_ne!(outcome.code, 0, "{}", outcome.all);
        assert!(!outcome.stderr.contains("canary"), "{}", outcome.all);
        outcome.stderr
    };
    let proxy = "http://user:canary@proxy.invalid:3128";
    for variable in ["https_proxy", "HTTPS_PROXY", "ALL_PROXY"] {
        let said = at_name(&[(variable, proxy)]);
        let expected = format!(
            "ringpull: warning: {variable} names a proxy, and ringpull cannot use proxies yet: \
             registry.invalid:1 is asked directly"
        );
        assert!(said.starts_with(&expected), "{said}");
    }
    for except in [("NO_PROXY", "registry.invalid"), ("no_proxy", "*")] {
        let said = at_name(&[("HTTPS_PROXY", proxy), except]);
        assert!(!said.contains("proxy"), "{said}");
    }
    let world = World::new(Options::default());
    let outcome = world.pull(&["-q"], &[("http_proxy", proxy), ("ALL_PROXY", proxy)]);
    outcome.expect_success();
    assert_eq!(outcome.stderr, "", "this machine is never behind a proxy");
}

#[test]
fn what_is_typed_must_not_contradict_itself() {
    check_usage(&["-q", "-v", "a"], &[], &["--quiet and --verbose contradict each other"]);
    let both = ["--platform", "linux/amd64", "--all-platforms", "a"];
    check_usage(&both, &[], &["--platform and --all-platforms contradict each other"]);
    let environment = [("RINGPULL_QUIET", "1"), ("RINGPULL_VERBOSE", "1")];
    let text = "RINGPULL_QUIET and RINGPULL_VERBOSE contradict each other";
    check_usage(&["a"], &environment, &[text]);
    let environment = [("RINGPULL_PLATFORM", "a/b"), ("RINGPULL_ALL_PLATFORMS", "1")];
    let text = "RINGPULL_PLATFORM and RINGPULL_ALL_PLATFORMS contradict each other";
    check_usage(&["a"], &environment, &[text]);
}

#[test]
fn what_is_typed_overrules_the_environment() {
    let world = World::new(Options::default());
    let quiet = |outcome: Outcome| {
        outcome.expect_success();
        assert_eq!(outcome.stderr, "");
    };
    let verbose = |outcome: Outcome| {
        outcome.expect_success();
        assert!(outcome.stderr.starts_with("engine: "), "{}", outcome.all);
    };
    quiet(world.pull(&["-q"], &[("RINGPULL_VERBOSE", "1")]));
    quiet(world.pull(&["-q"], &[("RINGPULL_VERBOSE", "true")]));
    quiet(world.pull(&[], &[("RINGPULL_VERBOSE", "0"), ("RINGPULL_QUIET", "yes")]));
    verbose(world.pull(&["-v"], &[("RINGPULL_QUIET", "1")]));
    verbose(world.pull(&["-v"], &[("RINGPULL_QUIET", "off")]));
    verbose(world.pull(&["-v", "--engine", "epoll"], &[("RINGPULL_ENGINE", "kqueue")]));

    let others = [Platform::LINUX_AMD64, Platform::new("linux", "arm64")];
    let index = Index::generate(Format::Oci, 1, &[2048], &others);
    world.registry.add_index("demo", "latest", &index);
    let tagged = |outcome: Outcome| {
        outcome.expect_success();
        world.layout().tagged("latest").digest
    };
    let all = index.document.digest.to_string();
    let arm = index.images[1].manifest.digest.to_string();
    let platform = ("RINGPULL_PLATFORM", "linux/arm64");
    assert_eq!(tagged(world.pull(&["--all-platforms"], &[platform])), all);
    // What a pull says of the image, `images` says, too: the index, and what of it is here.
    let shown = |manifest: &str| {
        let outcome = world.pull(&["--platform", "linux/arm64"], &[]);
        let lines = format!("Digest: {all}\nManifest: {manifest}\nStatus: ");
        assert!(outcome.stdout.starts_with(&lines), "{}", outcome.all);
        let listed = run(ringpull(&["images", "--json", "--store", text(&world.path("out"))]));
        let listed: serde_json::Value = serde_json::from_str(&listed.stdout).unwrap();
        let entry = &listed["images"][0];
        assert_eq!(
            (&entry["digest"], &entry["manifest"]),
            (&all.as_str().into(), &manifest.into())
        );
    };
    shown(&arm);
    // Up to date, and the same.
    shown(&arm);
    let everything = ("RINGPULL_ALL_PLATFORMS", "1");
    assert_eq!(tagged(world.pull(&["--platform", "linux/arm64"], &[everything])), arm);
    assert_eq!(tagged(world.pull(&[], &[everything])), all);
    assert_eq!(tagged(world.pull(&[], &[platform])), arm);
}

#[test]
fn options_have_twins_in_the_environment() {
    let stalling = Rule::on(Kind::Manifest).then(Action::StallBeforeHead);
    let world = World::new(Options { faults: stalling.into(), ..Options::default() });
    let environment = [("RINGPULL_RECV_TIMEOUT", "300ms"), ("RINGPULL_ENGINE", "epoll")];
    let outcome = world.pull(&["-v"], &environment);
    outcome.expect_failure(5, "recv-timeout", "no bytes for 300 ms");
    assert!(outcome.stderr.contains("engine: epoll (asked for)"), "{}", outcome.all);
    let outcome = world.pull(&["--recv-timeout", "200ms"], &environment);
    outcome.expect_failure(5, "recv-timeout", "no bytes for 200 ms");
    let retries = [("RINGPULL_RETRIES", "1"), ("RINGPULL_RECV_TIMEOUT", "100ms")];
    world.pull(&[], &retries).expect_failure(5, "recv-timeout", "attempt 2 of 2");
    for (variable, value) in [
        ("RINGPULL_RECV_TIMEOUT", "x"),
        ("RINGPULL_LOCK_TIMEOUT", "x"),
        ("RINGPULL_JOBS", "0"),
        ("RINGPULL_ENGINE", "kqueue"),
        ("RINGPULL_PLATFORM", "linux"),
        ("RINGPULL_QUIET", "perhaps"),
        ("RINGPULL_PLAIN_HTTP", "perhaps"),
        ("RINGPULL_CA_FILE", "/nonexistent/ca.pem"),
        ("RINGPULL_AUTHFILE", "/nonexistent/auth.json"),
    ] {
        check_refused(&["127.0.0.1:1/a", "oci:/nonexistent/x"], &[(variable, value)], &[value]);
    }

    world.registry.set_faults(Script::default());
    let store = world.path("store");
    let reference = world.registry.reference("demo", "latest");
    pull(&[&reference], &[("RINGPULL_STORE", text(&store))]).expect_success();
    assert_eq!(Layout::open(&store).tagged(&reference).digest, IMAGE.manifest.digest.to_string());
}

// --- what is left, and what is not needed --------------------------------------------------------

#[test]
fn a_pull_that_failed_leaves_no_empty_directory() {
    let refused = || Options {
        faults: Rule::on(Kind::Blob).then(Action::status(404)).into(),
        ..Options::default()
    };
    for engine in engines() {
        for (options, tag, code) in [(Options::default(), "none", 3), (refused(), "latest", 3)] {
            let world = World::new(options);
            let reference = world.registry.reference("demo", tag);
            for (path, left) in [("new", None), ("a/new/one", None), ("there/new", Some("there"))] {
                if let Some(left) = left {
                    std::fs::create_dir(world.path(left)).unwrap();
                }
                let destination = format!("oci:{}", text(&world.path(path)));
                let outcome = pull(&["--engine", engine, &reference, &destination], &[]);
                assert_eq!(outcome.code, code, "{}", outcome.all);
                let names: Vec<_> = std::fs::read_dir(world.directory.path()).unwrap().collect();
                assert_eq!(names.len(), usize::from(left.is_some()), "{path}: {names:?}");
            }
            // One that was there stays, with what is in it.
            std::fs::create_dir(world.path("mine")).unwrap();
            let destination = format!("oci:{}", text(&world.path("mine")));
            let outcome = pull(&["--engine", engine, &reference, &destination], &[]);
            assert_eq!(outcome.code, code, "{}", outcome.all);
            assert!(world.path("mine").exists());
        }
    }
}

/// The one that fails does not take away what the other has begun to use.
#[test]
fn a_pull_that_failed_takes_nothing_from_one_beside_it() {
    for engine in engines() {
        let world = World::new(Options::default());
        let (good, bad) =
            (world.registry.reference("demo", "latest"), world.registry.reference("demo", "none"));
        for round in 0..10 {
            let path = world.path(&format!("a{round}/b"));
            let pull_to = |reference: &str, name: &str| {
                let destination = format!("oci:{}", text(&path.join(name)));
                pull(&["--engine", engine, reference, &destination], &[])
            };
            std::thread::scope(|scope| {
                let failing = scope.spawn(|| pull_to(&bad, ""));
                let beside = scope.spawn(|| pull_to(&bad, "other"));
                pull_to(&good, "").expect_success();
                assert_eq!(failing.join().unwrap().code, 3);
                assert_eq!(beside.join().unwrap().code, 3);
            });
        }
    }
}

/// Runs a pull as a user who may read the store, and write nothing of it.
#[test]
fn a_store_that_has_all_of_an_image_may_be_read_only() {
    use std::os::unix::fs::PermissionsExt;
    if !rustix::process::geteuid().is_root() {
        return skipped(Lack::Right, "a store that is read-only: only root can be another user");
    }
    for engine in engines() {
        let world = World::new(Options::default());
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(world.directory.path(), open).unwrap();
        world.pull(&[], &[]).expect_success();
        // What a sweep would remove.
        std::fs::write(world.layout().path().join(".ringpull/partial/left.1"), "").unwrap();
        let binary = world.path("ringpull");
        std::fs::copy(support::ringpull::BINARY, &binary).unwrap();
        let as_nobody = |tag: &str| {
            let mut command = std::process::Command::new("setpriv");
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&binary);
            let reference = world.registry.reference("demo", tag);
            command.args(["pull", "--engine", engine, &reference]);
            command.arg(world.layout().reference("latest"));
            command.env_clear().env("HOME", "/nonexistent");
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
            run(command)
        };
        let outcome = as_nobody("latest");
        outcome.expect_success();
        assert!(outcome.stdout.contains("Image is up to date"), "{}", outcome.all);
        assert!(!outcome.stderr.contains("warning"), "{}", outcome.all);
        let another = Image::generate(2, &[4096]);
        world.registry.add("demo", "another", &another);
        as_nobody("another").expect_failure(8, "disk", "Permission denied");
    }
}

// --- what is printed -----------------------------------------------------------------------------

#[test]
fn no_wait_is_a_silent_one() {
    let token = Some(Auth::Bearer(Bearer::default()));
    let rows = [
        (
            None,
            Rule::on(Kind::Manifest).then(Action::StallBeforeHead),
            "latest: ",
            "HOST to answer",
        ),
        (
            None,
            Rule::on(Kind::Manifest).then(Action::StallAfter(10)),
            "latest: ",
            "bytes from HOST",
        ),
        (
            token,
            Rule::on(Kind::Token).then(Action::StallBeforeHead),
            "latest: ",
            "a token: HOST to answer",
        ),
        (
            None,
            Rule::on(Kind::Blob).layer(0).then(Action::StallBeforeHead),
            "pulling: ",
            "HOST to answer",
        ),
        (
            None,
            Rule::on(Kind::Blob).layer(0).then(Action::StallAfter(10_000)),
            "pulling: ",
            "bytes from HOST",
        ),
    ];
    std::thread::scope(|scope| {
        for engine in engines() {
            for (auth, rule, begins, waits) in &rows {
                scope.spawn(move || {
                    let options = Options {
                        auth: auth.clone(),
                        faults: rule.clone().into(),
                        ..Options::default()
                    };
                    let world = World::new(options);
                    let flags =
                        ["--engine", engine, "--head-timeout", "7s", "--recv-timeout", "7s"];
                    let outcome = world.pull(&flags, &[]);
                    assert_eq!(outcome.code, 5, "{}", outcome.all);
                    let waits = waits.replace("HOST", &world.registry.address().to_string());
                    let told = |line: &str| {
                        let text = line.strip_prefix(begins);
                        text.is_some_and(|text| text.contains(" s) for ") && text.contains(&waits))
                    };
                    assert!(outcome.stderr.lines().any(told), "{waits}: {}", outcome.all);
                });
            }
        }
    });
}

#[test]
fn each_retry_is_shown_with_its_cause_and_pause() {
    let token = Some(Auth::Bearer(Bearer::default()));
    for engine in engines() {
        for (auth, kind, object) in [
            (None, Kind::Manifest, "manifest latest: "),
            (token.clone(), Kind::Token, "manifest latest: the token service "),
            (None, Kind::Blob, ": Retrying in "),
        ] {
            let failing = Rule::on(kind).first(1).then(Action::status(503));
            let world = World::new(Options { auth, faults: failing.into(), ..Options::default() });
            let outcome = world.pull(&["--engine", engine], &[("RINGPULL_RETRIES", "1")]);
            outcome.expect_success();
            let told = |line: &str| {
                line.contains(object)
                    && line.contains("503")
                    && (line.contains("; again in ") || line.contains(": Retrying in "))
            };
            assert!(outcome.stderr.lines().any(told), "{object}: {}", outcome.all);
        }
    }
}

/// A layer whose turn has not come counts with what an earlier pull has left of it.
#[test]
fn a_resumed_pull_counts_what_is_there_from_the_start() {
    let image = Image::generate(9, &[1 << 20, 600 << 10]);
    for engine in engines() {
        let faults = Script::from([
            Rule::on(Kind::Blob).layer(0).then(Action::StallBeforeHead),
            Rule::on(Kind::Blob).layer(1).first(1).then(Action::StallAfter(300_000)),
        ]);
        let world = World::new(Options { faults, ..Options::default() });
        world.registry.add("demo", "latest", &image);
        let name = format!("sha256-{}", image.layers[1].digest.hex());
        let partial = world.path("out").join(".ringpull/partial").join(name);
        let received = || std::fs::metadata(&partial).is_ok_and(|file| file.len() >= 300_000);
        for at_once in ["2", "1"] {
            let reference = world.registry.reference("demo", "latest");
            let destination = world.layout().reference("latest");
            let flags = ["--jobs", at_once, "--connections", at_once];
            let pull = ["pull", "--engine", engine, &reference, &destination];
            let before = world.registry.log().len();
            let running = Running::start(ringpull(&[&pull[..], &flags].concat()));
            let large = image.layers[0].digest.to_string();
            let asked = |log: &[RequestLine]| {
                log[before..].iter().any(|line| line.target.ends_with(&large))
            };
            assert!(world.registry.wait_until(SOON, asked));
            eventually(|| received().then_some(())).expect("some of the small layer is there");
            running.signal(Signal::INT);
            let outcome = running.wait();
            outcome.expect_failure(130, "interrupted", "the same command goes on from there");
            let stopped = "stopped: 0.2 of 1.6 MiB";
            assert!(outcome.stderr.contains(stopped), "{at_once}: {}", outcome.all);
        }
    }
}

#[test]
fn the_demo_does_what_it_announces() {
    for engine in engines() {
        let directory = TempDir::new().unwrap();
        let out = directory.path().join("out");
        let out = text(&out);
        let outcome = run(ringpull(&["demo", "--engine", engine, "--patience", "500ms", out]));
        outcome.expect_success();
        for said in [
            " will fall silent after 192.0 KiB (of 32.0 MiB); ",
            " fell silent at 192.0 KiB. ",
            ": Range: bytes=196608-",
            "Verified: all 8 blobs ",
            &format!("The image is left there, 125.0 MiB: remove it with rm -r {out}.\n"),
        ] {
            assert!(outcome.stdout.contains(said), "`{said}` is not in {}", outcome.all);
        }
    }
    // Nothing of it is a registry's.
    let help = run(ringpull(&["demo", "--help"])).stdout;
    for option in ["--authfile", "--plain-http", "--recv-timeout", "--insecure", "--retries"] {
        assert!(!help.contains(option), "{option} is offered: {help}");
    }
}

#[test]
fn quiet_prints_the_reference_alone() {
    let world = World::new(Options::default());
    for _ in ["pulled", "up to date"] {
        let outcome = world.pull(&["-q"], &[]);
        outcome.expect_success();
        assert_eq!(outcome.stdout, world.registry.reference("demo", "latest") + "\n");
        assert_eq!(outcome.stderr, "");
    }
}

#[test]
fn the_result_is_on_stdout_and_the_rest_on_stderr() {
    let world = World::new(Options::default());
    let reference = world.registry.reference("demo", "latest");
    let digest = IMAGE.manifest.digest;
    for status in ["Downloaded newer image for", "Image is up to date for"] {
        let outcome = world.pull(&[], &[]);
        outcome.expect_success();
        // The config is no layer.
        assert!(outcome.stderr.contains(" 2 of 2 layers complete\n"), "{}", outcome.all);
        assert_eq!(outcome.stdout, format!("Digest: {digest}\nStatus: {status} {reference}\n"));
        assert!(outcome.stderr.starts_with("latest: Pulling from demo\n"), "{}", outcome.all);
    }
}

#[test]
fn verbose_names_engine_connections_and_deadline() {
    for engine in engines() {
        let world = World::new(Options::default());
        let outcome = world.pull(&["-v", "--engine", engine, "--recv-timeout", "17s"], &[]);
        outcome.expect_success();
        let address = world.registry.address();
        for text in [
            format!("engine: {engine} (asked for)\n"),
            format!("connection 1 to {address} at {address}, plain, 17 s for each receive\n"),
            "0 retries, 0 stalls, 0 B wasted".to_owned(),
        ] {
            assert!(outcome.stderr.contains(&text), "`{text}` is not in: {}", outcome.all);
        }
    }
    let outcome = World::new(Options::default()).pull(&["-v"], &[]);
    let chosen = engines()[0];
    let expected = format!("engine: {chosen} (");
    assert!(outcome.stderr.starts_with(&expected), "{}", outcome.all);
    assert!(!outcome.stderr.starts_with(&format!("{expected}asked for")), "{}", outcome.all);
}

/// Names come from any tool that writes into the layout.
#[test]
fn what_is_for_programs_is_json_whatever_the_names_hold() {
    let world = World::new(Options::default());
    world.pull(&[], &[]).expect_success();
    let path = world.layout().path().join("index.json");
    let name = "a\u{202e}\u{1b}[2J\u{7f}\u{9b}\u{feff}\u{e0041}\u{2028}\n\t\"\\ü";
    let mut index: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"] = name.into();
    std::fs::write(&path, index.to_string()).unwrap();
    let listed = |flags: &[&str]| {
        let store = world.layout();
        let outcome = run(ringpull(&[&["images", "--store", text(store.path())], flags].concat()));
        outcome.expect_success();
        outcome.stdout
    };
    let document = listed(&["--json"]);
    let read: Value = serde_json::from_str(&document).unwrap();
    assert_eq!(read["images"][0]["name"], name);
    for said in [document, listed(&[])] {
        let unsafe_ones = ['\u{1b}', '\u{202e}', '\u{7f}', '\u{9b}', '\u{feff}', '\u{2028}'];
        assert!(!said.contains(unsafe_ones), "{said:?}");
    }
}

#[test]
fn probe_speaks_to_people_and_to_programs() {
    let text = run(ringpull(&["probe"]));
    text.expect_success();
    let json = run(ringpull(&["probe", "--json"]));
    json.expect_success();
    assert_eq!((text.stderr, json.stderr), (String::new(), String::new()));
    let value: Value = serde_json::from_str(&json.stdout).unwrap();
    let usable = engines().contains(&"uring");
    assert_eq!(value["io_uring"], usable);
    assert_eq!(value["engine"], engines()[0]);
    assert!(value["why"].as_str().is_some_and(|why| !why.is_empty()));
    let said = if usable { "io_uring: available\n" } else { "io_uring: not available\n" };
    assert!(text.stdout.starts_with(said), "{}", text.stdout);
}

// --- what is never printed -----------------------------------------------------------------------

const USER: &str = "alice";
const PASSWORD: &str = "canary-password";
/// Passwords as they are typed and as they are sent; tokens and signatures of the demo registry; and
/// whatever the tests put into URLs.
const SECRETS: [&str; 5] =
    ["canary", "Y2FuYXJ5", "demo-token-", "Signature=demo", "Signature%3Ddemo"];

#[track_caller]
fn check_keeps_secrets(outcome: &Outcome) {
    for secret in SECRETS {
        for stream in [&outcome.stdout, &outcome.stderr] {
            assert!(!stream.contains(secret), "{secret} is shown: {}", outcome.all);
        }
    }
}

/// A pull at `-v` with credentials, of which no secret may be seen.
#[track_caller]
fn check_secrets(engine: &str, options: Options, code: i32) {
    let world = World::new(options);
    let authfile = world.path("auth.json");
    let host = world.registry.address().to_string();
    write_authfile(&authfile, &host, USER, PASSWORD);
    let outcome = world.pull(
        // One at a time: a token that is good for one request is of no use to two.
        &["-v", "--engine", engine, "--authfile", text(&authfile), "--connections", "1"],
        &[("RINGPULL_RETRIES", "1")],
    );
    assert_eq!(outcome.code, code, "{}", outcome.all);
    check_keeps_secrets(&outcome);
    if code != 0 {
        return;
    }
    // Nor is one stored.
    let index = std::fs::read_to_string(world.layout().path().join("index.json")).unwrap();
    assert!(!SECRETS.iter().any(|secret| index.contains(secret)), "{index}");
}

#[test]
fn no_secret_is_shown() {
    let basic = |password| Some(Auth::Basic(Credentials::new(USER, password)));
    let bearer = |bearer| Some(Auth::Bearer(bearer));
    let credentials = Some(Credentials::new(USER, PASSWORD));
    let token = Bearer { credentials: credentials.clone(), own_port: true, ..Bearer::default() };
    let with = |auth, rule: Option<Rule>| Options {
        auth,
        redirect_blobs: Some(BlobRedirect::Storage),
        faults: Script { rules: rule.into_iter().collect() },
        ..Options::default()
    };
    let redirected = |location: &str| Rule::on(Kind::Blob).then(Action::redirect(location));
    let realm = |realm: &str| bearer(Bearer { realm: Some(realm.into()), ..token.clone() });
    let mut rows = Vec::new();
    for &engine in engines() {
        for (code, options) in [
            (0, with(basic(PASSWORD), None)),
            (0, with(bearer(token.clone()), None)),
            (0, with(bearer(Bearer { uses_per_token: Some(1), ..token.clone() }), None)),
            (4, with(basic("another"), None)),
            (4, with(bearer(Bearer { uses_per_token: Some(0), ..token.clone() }), None)),
            (
                4,
                with(
                    bearer(Bearer {
                        credentials: Some(Credentials::new(USER, "x")),
                        ..token.clone()
                    }),
                    None,
                ),
            ),
            (5, with(bearer(token.clone()), Some(Rule::on(Kind::Token).then(Action::status(500))))),
            (
                6,
                with(
                    bearer(token.clone()),
                    Some(
                        Rule::on(Kind::Token)
                            .then(Action::Replace("{\"token\":\"canary canary\"}".into())),
                    ),
                ),
            ),
            (4, with(basic(PASSWORD), Some(Rule::on(Kind::Storage).then(Action::status(403))))),
            (5, with(basic(PASSWORD), Some(Rule::on(Kind::Storage).then(Action::CloseAfter(0))))),
            (
                5,
                with(
                    basic(PASSWORD),
                    Some(redirected("http://127.0.0.1:1/x?X-Amz-Signature=canary&token=canary")),
                ),
            ),
            (6, with(basic(PASSWORD), Some(redirected("http://user:canary@127.0.0.1:1/x")))),
            (6, with(basic(PASSWORD), Some(redirected("ftp://127.0.0.1/x?sig=canary")))),
            (6, with(basic(PASSWORD), Some(redirected("http://127.0.0.1:99999/x?sig=canary")))),
            (6, with(basic(PASSWORD), Some(redirected("http://a b/x?sig=canary")))),
            (6, with(basic(PASSWORD), Some(redirected("/x?sig=canary&y=[\u{1}")))),
            (6, with(realm("http://user:canary@127.0.0.1/token"), None)),
            (6, with(realm("http://token.invalid/token?key=canary"), None)),
            (5, with(realm("http://127.0.0.1:1/token?key=canary"), None)),
        ] {
            rows.push((engine, options, code));
        }
    }
    std::thread::scope(|scope| {
        for (engine, options, code) in rows {
            scope.spawn(move || check_secrets(engine, options, code));
        }
    });
}

/// Each refusal of access says which credentials were sent, whose, and from which file; or why none.
#[test]
fn a_refusal_says_which_credentials_were_sent() {
    let basic = |password| Some(Auth::Basic(Credentials::new(USER, password)));
    let bearer = |credentials| Some(Auth::Bearer(Bearer { credentials, ..Bearer::default() }));
    let other = Some(Credentials::new(USER, "another"));
    let unusable = Bearer { uses_per_token: Some(0), ..Bearer::default() };
    let sent =
        |name: &str| format!("(user `{USER}`, in {name}) were sent: log in again, or, if the");
    let none = |name: &str| {
        format!("no credentials were sent: there are none for HOST (looked into {name})")
    };
    let rows = [
        ("a wrong password", basic("another"), true, sent("FILE"), "refused access (status 401)"),
        ("the same, for a token", bearer(other.clone()), true, sent("FILE"), "the token service "),
        ("none", basic("another"), false, none("FILE"), "wants a user name and a password"),
        ("none, for a token", bearer(other), false, none("FILE"), "the token service "),
        (
            "none, and a token that is not taken",
            Some(Auth::Bearer(unusable)),
            false,
            none("FILE"),
            "refused access (status 401)",
        ),
    ];
    for engine in engines() {
        for (name, auth, stored, text, cause) in &rows {
            let world = World::new(Options { auth: auth.clone(), ..Options::default() });
            let authfile = world.path("auth.json");
            let host = world.registry.address().to_string();
            let key = if *stored { &host } else { "registry.invalid" };
            write_authfile(&authfile, key, USER, PASSWORD);
            let outcome = world
                .pull(&["--engine", engine, "--authfile", support::tools::text(&authfile)], &[]);
            let file = support::tools::text(&authfile);
            let text = text.replace("FILE", file).replace("HOST", &host);
            outcome.expect_failure(4, "auth", &text);
            assert!(outcome.last_line().contains(cause), "{name}: {cause}: {}", outcome.all);
            check_keeps_secrets(&outcome);
        }
    }
}

#[test]
fn a_password_typed_into_a_reference_is_not_repeated() {
    for reference in
        ["https://user:canary@127.0.0.1:1/a", "user:canary@127.0.0.1:1/a", "docker://canary@h/a:b"]
    {
        let outcome = pull(&["-v", reference, "oci:/nonexistent/x"], &[]);
        outcome.expect_failure(2, "usage", "USER:PASSWORD@");
        check_keeps_secrets(&outcome);
    }
}
