//! The variables `RINGPULL_…`: which of them count, and what is said about those that do not.

use std::collections::BTreeSet;
use std::ffi::OsStr;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};

/// How the names of all variables begin that are options.
const PREFIX: &str = "RINGPULL_";

/// Variables of that prefix that are no options: they are for the tests, and do a user no harm.
const OTHERS: [&str; 1] = [crate::transport::probe::DENY];

/// The same command, to which a variable that is set to the empty text is as if unset.
///
/// Clap would parse the empty text, and refuse it for most options. Shells, service files and
/// container definitions cannot always leave a variable out, and write `NAME=` instead.
pub(super) fn without_empty(command: Command) -> Command {
    let is_empty = |arg: &Arg| arg.get_env().is_some_and(is_set_to_nothing);
    // `None` has no type of its own.
    let unset = None::<&'static str>;
    command.mut_args(|arg| if is_empty(&arg) { arg.env(unset) } else { arg }).mut_subcommands(
        |command| {
            // Clap adds its own subcommand `help` later, and cannot change it.
            without_empty(command)
        },
    )
}

fn is_set_to_nothing(name: &OsStr) -> bool {
    std::env::var_os(name).is_some_and(|value| value.is_empty())
}

/// The variable that a value came from which `command` refused with `error`; `None` if the value was
/// typed.
///
/// Clap names the option only. Parsing again without the variable tells: a value that was typed is
/// refused again.
pub(super) fn source_of(error: &clap::Error, command: Command) -> Option<String> {
    if !matches!(error.kind(), ErrorKind::InvalidValue | ErrorKind::ValueValidation) {
        return None;
    }
    let Some(ContextValue::String(refused)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    // An argument can say its name only once its command is built.
    let mut built = command.clone();
    built.build();
    let arg = args(&built).find(|arg| {
        arg.to_string() == *refused
            && arg.get_env().is_some_and(|name| std::env::var_os(name).is_some())
    })?;
    let variable = arg.get_env()?.to_string_lossy().into_owned();
    let is_refused = |other: &Arg| other.get_id() == arg.get_id();
    let without = command.mut_subcommands(|command| {
        command.mut_args(|arg| if is_refused(&arg) { arg.env(None::<&'static str>) } else { arg })
    });
    let again = without.try_get_matches().err();
    let refused_again = again.and_then(|again| again.get(ContextKind::InvalidArg).cloned());
    (refused_again.as_ref() != error.get(ContextKind::InvalidArg)).then_some(variable)
}

/// The variable whose value an error is about that was found after parsing: its text shows the value.
pub(super) fn variable_in(text: &str, command: &Command, matches: &ArgMatches) -> Option<String> {
    let (name, matches) = matches.subcommand()?;
    let command = command.find_subcommand(name)?;
    let arg = command.get_arguments().find(|arg| {
        let id = arg.get_id().as_str();
        matches.value_source(id) == Some(ValueSource::EnvVariable)
            && matches.try_get_raw(id).ok().flatten().is_some_and(|values| {
                let mut values = values.map(OsStr::to_string_lossy);
                values.any(|value| shows(text, &value))
            })
    })?;
    Some(arg.get_env()?.to_string_lossy().into_owned())
}

/// Whether `text` has `value` in it, not as a part of a longer word.
fn shows(text: &str, value: &str) -> bool {
    let is_word = |character: Option<char>| {
        character.is_some_and(|character| character.is_alphanumeric() || character == '/')
    };
    text.match_indices(value).any(|(at, found)| {
        let (before, after) = (&text[..at], &text[at + found.len()..]);
        !found.is_empty() && !is_word(before.chars().last()) && !is_word(after.chars().next())
    })
}

/// A warning for each variable of this process that begins as options do and is none.
pub(super) fn unknown(command: &Command) -> Vec<String> {
    let known: BTreeSet<String> = args(command)
        .filter_map(Arg::get_env)
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    let mut set: Vec<String> = std::env::vars_os()
        .map(|(name, _)| name.to_string_lossy().into_owned())
        .filter(|name| name.starts_with(PREFIX) && !OTHERS.contains(&name.as_str()))
        .filter(|name| !known.contains(name))
        .collect();
    set.sort();
    set.iter()
        .map(|name| {
            let nearest = known.iter().min_by_key(|known| distance(name, known));
            let nearest = nearest.map_or(String::new(), |known| format!("; did you mean {known}?"));
            format!("the variable {name} is no option of ringpull and has no effect{nearest}")
        })
        .collect()
}

/// The arguments of all subcommands.
fn args(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_subcommands().flat_map(Command::get_arguments)
}

/// How many characters must be put in, taken out or changed to make one text the other
/// (Levenshtein's distance).
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    // The distances of what was seen of `one` to each beginning of `other`.
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (seen, character) in one.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], seen + 1);
        for (index, &expected) in other.iter().enumerate() {
            let changed = diagonal + usize::from(character != expected);
            diagonal = row[index + 1];
            row[index + 1] = changed.min(diagonal + 1).min(row[index] + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_the_one_with_the_fewest_changes() {
        for (one, other, expected) in [
            ("", "", 0),
            ("abc", "abc", 0),
            ("abc", "", 3),
            ("", "abc", 3),
            ("JOB", "JOBS", 1),
            ("RETRYS", "RETRIES", 2),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(one, other), expected, "{one} {other}");
            assert_eq!(distance(other, one), expected, "{other} {one}");
        }
    }

    #[test]
    fn a_value_is_shown_if_it_is_a_word_of_the_text() {
        for (text, value, expected) in [
            ("platform `linux` has no architecture", "linux", true),
            ("cannot read /a/b.json: No such file", "/a/b.json", true),
            ("cannot read /x/a/b.json: No such file", "/a/b.json", false),
            ("cannot read /a/b.json: No such file", "/a", false),
            ("platform `linuxes`", "linux", false),
            ("anything", "", false),
            ("über `ü`", "ü", true),
        ] {
            assert_eq!(shows(text, value), expected, "{text} {value}");
        }
    }
}
