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
mod values;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
use tokio::sync::watch;

use crate::error::Class;
use crate::image::Reference;
use crate::pull::{Signals, Stop};
use crate::report::{Reporter, Style, Verbosity, escape_json};
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
    match parse() {
        Ok((cli, matches)) => dispatch(cli.command, &matches),
        Err(failure) => conclude(Err(failure)),
    }
}

/// Says why a command failed, if it did, and waits until all that was said has been written.
fn conclude(outcome: Result<(), Failure>) -> ExitCode {
    let reporter = Reporter::new(Verbosity::Quiet, Style::Lines);
    let exit_code = match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { class, exit_code, text }) => {
            reporter.error(class, &text);
            ExitCode::from(exit_code)
        }
    };
    reporter.flush(None);
    exit_code
}

/// Does `work`, which ends early, and in order, at a signal, or when it has taken as long as `limit`. If
/// it does not, or nobody reads what it says, the process ends all the same.
fn stoppable(
    limit: Option<Duration>,
    work: impl FnOnce(watch::Receiver<Option<Stop>>) -> Result<(), Failure>,
) -> ExitCode {
    let reporter = Reporter::new(Verbosity::Quiet, Style::Lines);
    let (signals, stop) = match Signals::listen(&reporter, limit) {
        Ok(listening) => listening,
        Err(error) => return conclude(Err(error.into())),
    };
    let outcome = work(stop);
    signals.conclude();
    let exit_code = conclude(outcome);
    drop(signals);
    exit_code
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
        if let Some(meant) = detached_boolean(std::env::args()) {
            return Failure::usage(meant);
        }
        let lines: Vec<&str> = what.lines().map(str::trim).collect();
        let mut what = lines.join(" ");
        // A word that is nearly a command is none of an image.
        if error.kind() == ErrorKind::InvalidSubcommand
            && !text.contains("a similar subcommand exists")
            && let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand)
            && std::env::args().nth(1).as_ref() == Some(word)
            && Reference::parse(word).is_ok()
        {
            what = format!("{what}; to pull an image, write ringpull pull {word}");
        }
        Failure::usage(match environment::source_of(&error, command) {
            Some(variable) => format!("{variable}: {what}"),
            None => what,
        })
    })
}

/// What was meant by `--plain-http false`, if that was typed: the word is taken for the reference, and
/// the reference for the destination.
fn detached_boolean(arguments: impl Iterator<Item = String>) -> Option<String> {
    let arguments: Vec<String> = arguments.collect();
    arguments.windows(2).find_map(|pair| match pair {
        [flag, value] if flag == "--plain-http" && values::boolean(value).is_ok() => Some(format!(
            "`{value}` behind {flag} is taken for the image: write {flag}={value}, or give the image first"
        )),
        _ => None,
    })
}

/// Warns of each variable that looks like an option's and is none.
fn warn_of_unknown_variables() {
    let reporter = Reporter::new(Verbosity::Normal, Style::Lines);
    for warning in environment::unknown(&Cli::command()) {
        reporter.warn(&warning);
    }
}

/// The same, but an error about a value that stands in the environment names the variable.
fn with_variable(failure: Failure, matches: &ArgMatches) -> Failure {
    let Failure { class, exit_code, text } = failure;
    let variable = match class {
        Class::Usage => environment::variable_in(&text, &Cli::command(), matches),
        _ => None,
    };
    let text = variable.map_or(text.clone(), |variable| format!("{variable}: {text}"));
    Failure { class, exit_code, text }
}

fn dispatch(command: Command, all: &ArgMatches) -> ExitCode {
    warn_of_unknown_variables();
    // The command's own options; `Cli` has none, and demands a command.
    let matches = all.subcommand().map_or(all, |(_, matches)| matches);
    let named = |outcome: Result<(), Failure>| outcome.map_err(|error| with_variable(error, all));
    match command {
        Command::Pull(arguments) => stoppable(arguments.limit(), |stop| {
            named(arguments.settled(matches).and_then(|arguments| pull::run(arguments, stop)))
        }),
        Command::Demo(arguments) => stoppable(None, |stop| {
            named(arguments.settled(matches).and_then(|arguments| demo::run(arguments, stop)))
        }),
        Command::Images(arguments) => conclude(named(images::run(&arguments))),
        Command::Gc(arguments) => conclude(named(gc::run(&arguments))),
        Command::Probe(arguments) => conclude(named(probe::run(&arguments))),
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

/// A JSON document as lines for [`print`], which leaves them as they are.
fn json_lines(document: &serde_json::Value) -> Vec<String> {
    escape_json(&format!("{document:#}")).lines().map(str::to_owned).collect()
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
