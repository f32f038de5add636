//! The command line: one file per command, flags as they are typed.
//!
//! Flags become a [`Config`](crate::config) before anything runs; what runs knows no flags. Every
//! option has a twin in the environment, `RINGPULL_` and its name.

mod demo;
mod environment;
mod gc;
mod images;
mod network;
mod probe;
mod pull;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::error::Class;
use crate::report::{Reporter, Style, Verbosity};
use crate::store::{self, Destination, Store, StoreError};

/// Pulls container images at high throughput, and never hangs.
///
/// Layers are fetched over io_uring: each receive has a deadline that the kernel itself enforces, so
/// a registry that falls silent costs one deadline, and the pull goes on from the next byte.
#[derive(Debug, Parser)]
#[command(name = "ringpull", version, max_term_width = 100, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Pull(Box<pull::PullArgs>),
    Images(images::ImagesArgs),
    Gc(gc::GcArgs),
    Demo(Box<demo::DemoArgs>),
    Probe(probe::ProbeArgs),
}

/// Runs the command line of this process.
pub fn run() -> ExitCode {
    match parse().and_then(|(cli, matches)| run_parsed(cli.command, &matches)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { class, exit_code, text }) => {
            Reporter::new(Verbosity::Quiet, Style::Lines).error(class, &text);
            ExitCode::from(exit_code)
        }
    }
}

/// The command line; ends the process after `--help` and `--version`.
///
/// # Errors
/// What clap does not understand. Its advice has been printed by then: the error is for the last line.
fn parse() -> Result<(Cli, ArgMatches), Failure> {
    let command = environment::without_empty(Cli::command());
    let parsed = command.clone().try_get_matches();
    let parsed = parsed.and_then(|matches| Ok((Cli::from_arg_matches(&matches)?, matches)));
    parsed.map_err(|error| {
        if !error.use_stderr() {
            error.exit();
        }
        let text = error.render().to_string();
        // What is wrong comes first, then an empty line. For a command line without a command, all of
        // it is help.
        let (what, advice) = match text.strip_prefix("error: ") {
            Some(text) => text.split_once("\n\n").unwrap_or((text, "")),
            None => ("no command is given", text.as_str()),
        };
        // A stderr that is closed is no reason to fail otherwise.
        let _ = writeln!(std::io::stderr(), "{}\n", advice.trim_end());
        let lines: Vec<&str> = what.lines().map(str::trim).collect();
        let what = lines.join(" ");
        Failure::usage(match environment::source_of(&error, command) {
            Some(variable) => format!("{variable}: {what}"),
            None => what,
        })
    })
}

/// Runs a command, after a warning of each variable that looks like an option's and is none.
///
/// # Errors
/// The command's. An error about a value that stands in the environment names the variable.
fn run_parsed(command: Command, matches: &ArgMatches) -> Result<(), Failure> {
    let reporter = Reporter::new(Verbosity::Normal, Style::Lines);
    for warning in environment::unknown(&Cli::command()) {
        reporter.warn(&warning);
    }
    dispatch(command, matches).map_err(|mut failure| {
        let text = &failure.text;
        if failure.class == Class::Usage
            && let Some(variable) = environment::variable_in(text, &Cli::command(), matches)
        {
            failure.text = format!("{variable}: {text}");
        }
        failure
    })
}

fn dispatch(command: Command, matches: &ArgMatches) -> Result<(), Failure> {
    // The command's own options; `Cli` has none, and demands a command.
    let matches = matches.subcommand().map_or(matches, |(_, matches)| matches);
    match command {
        Command::Pull(arguments) => pull::run(arguments.settled(matches)?),
        Command::Images(arguments) => images::run(&arguments),
        Command::Gc(arguments) => gc::run(&arguments),
        Command::Demo(arguments) => demo::run(arguments.settled(matches)?),
        Command::Probe(arguments) => probe::run(&arguments),
    }
}

/// Which of two options that contradict each other, both given, is to be left aside: what is typed
/// overrules what stands in the environment. (Clap's `conflicts_with` makes no difference: a variable
/// in somebody's profile would forbid a flag on every command line.)
///
/// # Errors
/// If both are typed, or both stand in the environment.
fn overruled(
    matches: &ArgMatches,
    one: &'static str,
    other: &'static str,
) -> Result<&'static str, Failure> {
    let typed = |option| matches.value_source(option) == Some(ValueSource::CommandLine);
    let flag = |option: &str| format!("--{}", option.replace('_', "-"));
    let variable = |option: &str| format!("RINGPULL_{}", option.to_uppercase());
    let contradiction = |name: fn(&str) -> String| {
        let (one, other) = (name(one), name(other));
        Failure::usage(format!("{one} and {other} contradict each other: leave one of them out"))
    };
    match (typed(one), typed(other)) {
        (true, false) => Ok(other),
        (false, true) => Ok(one),
        (true, true) => Err(contradiction(flag)),
        (false, false) => Err(contradiction(variable)),
    }
}

/// Why a command failed: the last line of stderr, and the exit code.
struct Failure {
    class: Class,
    exit_code: u8,
    text: String,
}

impl Failure {
    fn new(class: Class, text: impl ToString) -> Failure {
        Failure { class, exit_code: class.exit_code(), text: text.to_string() }
    }

    /// The command line or the environment cannot be used.
    fn usage(text: impl ToString) -> Failure {
        Failure::new(Class::Usage, text)
    }
}

impl From<crate::pull::Error> for Failure {
    fn from(error: crate::pull::Error) -> Failure {
        Failure { class: error.class(), exit_code: error.exit_code(), text: error.to_string() }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        Failure::new(error.class(), error)
    }
}

/// The store at `path`, or the default one; `None` if there is nothing: a command that looks does
/// not make one.
fn existing_store(path: Option<&Path>) -> Result<Option<Store>, Failure> {
    let path = match path {
        Some(path) => path.to_path_buf(),
        None => Destination::default_store().map_err(Failure::usage)?.path().to_path_buf(),
    };
    match path.symlink_metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        _ => Ok(Some(Store::open(&path, store::Options::default())?)),
    }
}

/// The result of a command, on stdout. A reader that went away is a quiet end; a full disk is not.
fn print(reporter: &Reporter, lines: &[String]) -> Result<(), Failure> {
    for line in lines {
        match reporter.result(line) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => break,
            Err(error) => {
                return Err(Failure::new(
                    Class::DiskIo,
                    format!("cannot write to stdout: {error}"),
                ));
            }
            Ok(()) => {}
        }
    }
    Ok(())
}
