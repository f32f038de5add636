//! Values as people type them: times, sizes, numbers, yes and no. A text about a bad one says what is
//! wrong with it, and what can be typed instead.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::limits::{CONNECTIONS_MAX, LIMIT_RATE_MIN, MEMORY_MIN, TIMEOUT_MAX};
use crate::report::format;

/// How times are written.
const TIME_FORM: &str = "write a time such as 60s, 500ms or 1m";

/// How sizes are written.
const SIZE_FORM: &str = "write a number of bytes, such as 500K, 20M or 1G";

/// The units of times, by all their names, in nanoseconds.
const TIME_UNITS: [(&[&str], u64); 7] = [
    (&["ns", "nsec", "nanos"], 1),
    (&["us", "µs", "usec", "micros"], 1_000),
    (&["ms", "msec", "msecs", "millis", "millisecond", "milliseconds"], 1_000_000),
    (&["s", "sec", "secs", "second", "seconds"], 1_000_000_000),
    (&["m", "min", "mins", "minute", "minutes"], 60_000_000_000),
    (&["h", "hr", "hrs", "hour", "hours"], 3_600_000_000_000),
    (&["d", "day", "days"], 86_400_000_000_000),
];

/// The words for no bound at all.
fn means_none(text: &str) -> bool {
    ["none", "off", "never", "no", "unlimited"].contains(&text.trim().to_ascii_lowercase().as_str())
}

// --- times ---------------------------------------------------------------------------------------

/// `60s`, `500ms`, `1m`; more than nothing and at most [`TIMEOUT_MAX`].
pub(super) fn timeout(text: &str) -> Result<Duration, String> {
    match time(text)? {
        Duration::ZERO => Err(format!("a deadline of nothing would fail everything; {TIME_FORM}")),
        time => Ok(time),
    }
}

/// A time of at most [`TIMEOUT_MAX`]; `0s` is none.
pub(super) fn wait(text: &str) -> Result<Duration, String> {
    match text.trim() {
        "0" => Ok(Duration::ZERO),
        text => time(text),
    }
}

/// A time, or a word for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TimeOr(pub(super) Option<Duration>);

/// A time that ends everything, of at most [`TIMEOUT_MAX`]; or none.
pub(super) fn limit(text: &str) -> Result<TimeOr, String> {
    if means_none(text) {
        return Ok(TimeOr(None));
    }
    timeout(text).map(Some).map(TimeOr).map_err(|error| format!("{error}, or none"))
}

/// Numbers with units, one after the other: `1m 30s`.
fn time(text: &str) -> Result<Duration, String> {
    if means_none(text) {
        return Err(format!("this wait cannot do without an end; {TIME_FORM}, {}", at_most()));
    }
    if text.trim().starts_with('-') {
        return Err(format!("a time cannot be negative; {TIME_FORM}"));
    }
    let mut rest = text.trim();
    let mut sum: u128 = 0;
    while !rest.is_empty() {
        let (number, behind) =
            split(rest, |character| character.is_ascii_digit() || character == '.');
        let (unit, behind) = split(behind.trim_start(), |character| character.is_alphabetic());
        let of_unit = |(names, _): &&(&[&str], u64)| names.contains(&unit.to_lowercase().as_str());
        let size = match TIME_UNITS.iter().find(of_unit) {
            Some((_, size)) => *size,
            None if unit.is_empty() && !number.is_empty() => {
                return Err(format!(
                    "the unit is missing; write {number}s, {number}ms or {number}m"
                ));
            }
            None => return Err(TIME_FORM.to_owned()),
        };
        let part = multiple(number, size).ok_or_else(|| TIME_FORM.to_owned())?;
        sum = sum.saturating_add(part);
        rest = behind.trim_start();
    }
    if text.trim().is_empty() {
        return Err(format!("this is empty; {TIME_FORM}"));
    }
    if sum > TIMEOUT_MAX.as_nanos() {
        return Err(format!("{}; {TIME_FORM}", at_most()));
    }
    Ok(Duration::from_nanos(u64::try_from(sum).unwrap_or(u64::MAX)))
}

fn at_most() -> String {
    format!("at most {}h can be waited for", TIMEOUT_MAX.as_secs() / 3600)
}

// --- sizes ---------------------------------------------------------------------------------------

/// A number of bytes, or a word for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SizeOr(pub(super) Option<u64>);

pub(super) fn memory(text: &str) -> Result<u64, String> {
    size(text, MEMORY_MIN)
}

pub(super) fn limit_rate(text: &str) -> Result<SizeOr, String> {
    size_or_none(without_per_second(text), LIMIT_RATE_MIN)
}

pub(super) fn min_speed(text: &str) -> Result<SizeOr, String> {
    size_or_none(without_per_second(text), 1)
}

pub(super) fn direct_io_min(text: &str) -> Result<SizeOr, String> {
    size_or_none(text, 1)
}

/// A rate as it is shown: `20 MiB/s`.
fn without_per_second(text: &str) -> &str {
    let text = text.trim();
    text.strip_suffix("/s").unwrap_or(text)
}

fn size_or_none(text: &str, least: u64) -> Result<SizeOr, String> {
    if means_none(text) {
        return Ok(SizeOr(None));
    }
    let size = size(text, least).map_err(|error| format!("{error}, or none"))?;
    Ok(SizeOr(Some(size)))
}

/// A number of bytes. `K`, `M`, `G` and `T` behind it, alone or as `Ki` or `KiB`, are powers of 1024,
/// as curl takes them; `KB`, `MB`, `GB` and `TB` are powers of 1000 (IEC 80000-13).
fn size(text: &str, least: u64) -> Result<u64, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err(format!("this is empty; {SIZE_FORM}"));
    }
    if text.starts_with('-') {
        return Err(format!("a size cannot be negative; {SIZE_FORM}"));
    }
    let (number, unit) = split(text, |character| character.is_ascii_digit() || character == '.');
    let unit = unit.trim_start().to_lowercase();
    if unit.contains("bit") || unit.ends_with("bps") {
        return Err(format!("this is in bits; {SIZE_FORM}"));
    }
    let mut letters = unit.chars();
    let power = match letters.next() {
        None | Some('b') => 0,
        Some('k') => 1,
        Some('m') => 2,
        Some('g') => 3,
        Some('t') => 4,
        Some(_) => return Err(SIZE_FORM.to_owned()),
    };
    let base: u64 = match (power, letters.as_str()) {
        (0, "" | "yte" | "ytes") | (_, "" | "i" | "ib") => 1024,
        (_, "b") => 1000,
        _ => return Err(SIZE_FORM.to_owned()),
    };
    let bytes = multiple(number, base.pow(power)).ok_or_else(|| SIZE_FORM.to_owned())?;
    let bytes = u64::try_from(bytes).ok().filter(|bytes| *bytes <= i64::MAX as u64);
    let bytes = bytes.ok_or_else(|| format!("this is more than there can be; {SIZE_FORM}"))?;
    if bytes < least {
        return Err(format!("at least {} are needed; {SIZE_FORM}", format::bytes(least)));
    }
    Ok(bytes)
}

/// `number`, which may have a decimal point, times `unit`, rounded down; `None` if it is no number, or
/// one of too many digits.
fn multiple(number: &str, unit: u64) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || fraction.len() > 9 {
        return None;
    }
    let whole = whole.parse::<u64>().ok()?;
    let parts = u128::from(fraction.parse::<u64>().ok()?) * u128::from(unit);
    let fraction = parts / 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    Some(u128::from(whole) * u128::from(unit) + fraction)
}

/// The longest beginning of such characters, and the rest.
fn split(text: &str, is: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|character| !is(character)).unwrap_or(text.len()))
}

// --- others --------------------------------------------------------------------------------------

/// A number of connections, or `auto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Connections(pub(super) Option<usize>);

pub(super) fn connections(text: &str) -> Result<Connections, String> {
    if text.trim().eq_ignore_ascii_case("auto") {
        return Ok(Connections(None));
    }
    match whole(text) {
        Some(count @ 1..) if count <= CONNECTIONS_MAX as u64 => {
            Ok(Connections(usize::try_from(count).ok()))
        }
        _ => Err(format!("write auto, or a number from 1 to {CONNECTIONS_MAX}")),
    }
}

/// A parser of numbers within `range`.
pub(super) fn number(
    range: RangeInclusive<u32>,
) -> impl Fn(&str) -> Result<u32, String> + Clone + Send + Sync + 'static {
    move |text| {
        let number = whole(text).and_then(|number| u32::try_from(number).ok());
        let (least, most) = (range.start(), range.end());
        number
            .filter(|number| range.contains(number))
            .ok_or_else(|| format!("write a number from {least} to {most}"))
    }
}

/// Digits alone: the standard library would take `+5`, too.
fn whole(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

/// Yes or no.
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" | "y" | "t" => Ok(true),
        "false" | "no" | "off" | "0" | "n" | "f" => Ok(false),
        _ => Err("write true or false".to_owned()),
    }
}

/// A time as it would be typed. Leaked once: clap keeps default values for the whole process.
pub(super) fn shown(time: Duration) -> &'static str {
    let text = match time.subsec_millis() {
        0 => format!("{}s", time.as_secs()),
        _ => format!("{}ms", time.as_millis()),
    };
    text.leak()
}

/// A size as it would be typed.
pub(super) fn shown_size(bytes: u64) -> &'static str {
    let units = [(30, "G"), (20, "M"), (10, "K")];
    let unit = units.into_iter().find(|(power, _)| bytes > 0 && bytes.trailing_zeros() >= *power);
    let (power, name) = unit.unwrap_or((0, ""));
    format!("{}{name}", bytes >> power).leak()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_refused<T: std::fmt::Debug>(result: Result<T, String>, texts: &[&str]) {
        let error = result.expect_err(texts[0]);
        for text in texts {
            assert!(error.contains(text), "`{text}` is not in: {error}");
        }
        // Libraries have their own words for it.
        for foreign in ["invalid digit", "expected number", "1day"] {
            assert!(!error.contains(foreign), "{error}");
        }
    }

    #[test]
    fn times_as_people_write_them() {
        for (text, milliseconds) in [
            ("2s", 2_000),
            ("500ms", 500),
            ("1m", 60_000),
            (" 1m 30s ", 90_000),
            ("1m30s", 90_000),
            ("1.5s", 1_500),
            ("0.5 min", 30_000),
            ("2 Minutes", 120_000),
            ("24h", 86_400_000),
            ("1day", 86_400_000),
        ] {
            assert_eq!(timeout(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for (text, texts) in [
            ("", ["this is empty", "60s"]),
            (" ", ["this is empty", "60s"]),
            ("60", ["the unit is missing", "60s, 60ms or 60m"]),
            ("1m 30", ["the unit is missing", "30s"]),
            ("0s", ["a deadline of nothing", "60s"]),
            ("-1s", ["cannot be negative", "60s"]),
            ("fast", ["write a time", "60s"]),
            ("1 fortnight", ["write a time", "60s"]),
            ("1.s", ["write a time", "60s"]),
            ("1e3s", ["write a time", "60s"]),
            ("25h", ["at most 24h", "60s"]),
            ("99999999999999999999h", ["write a time", "60s"]),
            ("9999999999999999999h", ["at most 24h", "60s"]),
            ("off", ["cannot do without an end", "at most 24h"]),
        ] {
            check_refused(timeout(text), &texts);
        }
        assert_eq!(wait("0s"), Ok(Duration::ZERO));
        assert_eq!(wait("0"), Ok(Duration::ZERO));
        check_refused(wait("25h"), &["at most 24h"]);
        for text in ["none", "off", "never", "None"] {
            assert_eq!(limit(text), Ok(TimeOr(None)), "{text}");
        }
        assert_eq!(limit("5m"), Ok(TimeOr(Some(Duration::from_secs(300)))));
        check_refused(limit("300"), &["300s", "or none"]);
    }

    #[test]
    fn sizes_as_people_write_them() {
        for (text, bytes) in [
            ("1", 1),
            ("20M", 20 << 20),
            ("64m", 64 << 20),
            ("64Mi", 64 << 20),
            ("64MiB", 64 << 20),
            ("64 mib", 64 << 20),
            ("64MB", 64_000_000),
            ("3G", 3 << 30),
            ("2T", 2 << 40),
            ("5k", 5 << 10),
            ("5kB", 5_000),
            ("12B", 12),
            ("12 bytes", 12),
            ("1.5M", 3 << 19),
            (" 7 ", 7),
        ] {
            assert_eq!(size(text, 0), Ok(bytes), "{text}");
        }
        for (text, wrong) in [
            ("", "this is empty"),
            ("-1", "cannot be negative"),
            ("M", "500K"),
            ("+1", "500K"),
            ("1.", "500K"),
            ("1X", "500K"),
            ("1MBB", "500K"),
            ("1Mio", "500K"),
            ("100Mbit", "in bits"),
            ("100Mbps", "in bits"),
            ("99999999999999999999", "500K"),
            ("20000000000G", "more than there can be"),
        ] {
            check_refused(size(text, 0), &[wrong, "such as 500K, 20M or 1G"]);
        }
        check_refused(memory("1K"), &["at least", "500K"]);
        check_refused(limit_rate("1"), &["at least 4.0 KiB", "or none"]);
        assert_eq!(limit_rate("20 MiB/s"), Ok(SizeOr(Some(20 << 20))));
        for none in ["none", "off", "never"] {
            for parse in [limit_rate, min_speed, direct_io_min] {
                assert_eq!(parse(none), Ok(SizeOr(None)), "{none}");
            }
        }
        assert_eq!(min_speed("2K"), Ok(SizeOr(Some(2 << 10))));
        check_refused(min_speed("0"), &["at least 1 B", "or none"]);
    }

    #[test]
    fn numbers_and_truth_as_people_write_them() {
        assert_eq!(connections("auto"), Ok(Connections(None)));
        assert_eq!(connections("16"), Ok(Connections(Some(16))));
        for text in ["0", "257", "all", "+5", ""] {
            check_refused(connections(text), &["auto, or a number from 1 to 256"]);
        }
        let parse = number(1..=64);
        assert_eq!((parse("1"), parse(" 64 ")), (Ok(1), Ok(64)));
        for text in ["0", "65", "x", "+5", "-1", "", "99999999999"] {
            check_refused(parse(text), &["write a number from 1 to 64"]);
        }
        for (text, truth) in [("true", true), ("Yes", true), ("1", true), ("off", false)] {
            assert_eq!(boolean(text), Ok(truth), "{text}");
        }
        check_refused(boolean("perhaps"), &["true or false"]);
    }

    #[test]
    fn what_is_shown_can_be_typed() {
        for (bytes, text) in [(256, "256"), (32 << 20, "32M"), (1 << 30, "1G"), (0, "0")] {
            assert_eq!(shown_size(bytes), text);
            assert_eq!(size(text, 0), Ok(bytes));
        }
        for (time, text) in
            [(Duration::from_secs(60), "60s"), (Duration::from_millis(1_500), "1500ms")]
        {
            assert_eq!(shown(time), text);
            assert_eq!(timeout(text), Ok(time));
        }
    }
}
