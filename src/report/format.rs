//! Quantities as text: bytes, rates and times, in the same words everywhere.

use std::time::Duration;

use crate::limits;

/// Binary units; each is 1024 of the one before.
const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// A number of bytes: `512 B`, `12.1 MiB`. Binary units, one decimal, rounded.
pub fn bytes(count: u64) -> String {
    let unit = Unit::of(count);
    format!("{} {}", unit.rounded(count), unit.name)
}

/// How much of a number of bytes is there: `12.1 of 40.0 MiB`, both in the unit of the total.
///
/// `done` is rounded down while it is less than `total`: what is not whole never looks whole.
pub fn progress_bytes(done: u64, total: u64) -> String {
    let unit = Unit::of(total);
    let shown = if done < total { unit.rounded_down(done) } else { unit.rounded(done) };
    format!("{shown} of {} {}", unit.rounded(total), unit.name)
}

/// A rate in bytes per second: `180.2 MiB/s`.
pub fn rate(bytes_per_second: u64) -> String {
    format!("{}/s", bytes(bytes_per_second))
}

/// Bytes per second when `count` bytes took `elapsed`; 0 when no time passed.
pub fn per_second(count: u64, elapsed: Duration) -> u64 {
    match elapsed.as_micros() {
        0 => 0,
        micros => u64::try_from(u128::from(count) * 1_000_000 / micros).unwrap_or(u64::MAX),
    }
}

/// A time: `250 µs`, `500 ms`, `1.5 s`, `60 s`, `2 min 5 s`, `3 h 20 min`.
///
/// Up to two minutes in seconds, because that is how deadlines are written.
pub fn duration(time: Duration) -> String {
    const SECOND: Duration = Duration::from_secs(1);
    match time {
        Duration::ZERO => "0 s".to_owned(),
        _ if time < Duration::from_millis(1) => format!("{} µs", time.as_micros()),
        _ if time < SECOND => format!("{} ms", time.as_millis()),
        _ => match (time.as_millis() + 50) / 100 {
            tenths if tenths >= 1200 => minutes((tenths + 5) / 10),
            tenths if tenths % 10 == 0 => format!("{} s", tenths / 10),
            tenths => format!("{}.{} s", tenths / 10, tenths % 10),
        },
    }
}

/// A time that is counted down: never less than it is, and as exact as can be read.
pub fn countdown(left: Duration) -> String {
    let milliseconds = u64::try_from(left.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX);
    let step = match milliseconds {
        0..1_000 => 1,
        1_000..10_000 => 100,
        _ => 1_000,
    };
    duration(Duration::from_millis(milliseconds.div_ceil(step).saturating_mul(step)))
}

/// The time that `remaining` bytes take at a rate: `1 s left`. `None` when that cannot be known
/// or is longer than [`limits::TIME_LEFT_MAX`].
pub fn time_left(remaining: u64, bytes_per_second: u64) -> Option<String> {
    if bytes_per_second == 0 {
        return None;
    }
    // Rounded up: the last second of a pull is not "0 s left".
    let left = Duration::from_secs(remaining.div_ceil(bytes_per_second));
    (left <= limits::TIME_LEFT_MAX).then(|| format!("{} left", duration(left)))
}

/// `1 retry`, `2 retries`.
pub fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// The share of `total` that is `done`, in per cent, rounded down; 100 of nothing.
pub fn percent(done: u64, total: u64) -> u64 {
    match total {
        0 => 100,
        _ => u64::try_from(u128::from(done) * 100 / u128::from(total)).unwrap_or(u64::MAX),
    }
}

/// Whole seconds from two minutes on, as minutes or hours.
fn minutes(seconds: u128) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, minutes, 0) => format!("{minutes} min"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, 0, _) => format!("{hours} h"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

/// A unit of [`UNITS`].
#[derive(Clone, Copy)]
struct Unit {
    name: &'static str,
    size: u64,
}

impl Unit {
    /// The unit in which `count` has one to four digits before the point.
    fn of(count: u64) -> Unit {
        let mut unit = Unit { name: "B", size: 1 };
        for name in UNITS.iter().skip(1) {
            // Rounding decides: 1023.96 KiB is 1.0 MiB, not 1024.0 KiB.
            if unit.tenths(count) < 10_240 {
                break;
            }
            unit = Unit { name, size: unit.size << 10 };
        }
        unit
    }

    fn rounded(self, count: u64) -> String {
        self.decimal(self.tenths(count))
    }

    fn rounded_down(self, count: u64) -> String {
        self.decimal(u128::from(count) * 10 / u128::from(self.size))
    }

    /// Tenths of the unit, rounded.
    fn tenths(self, count: u64) -> u128 {
        (u128::from(count) * 10 + u128::from(self.size / 2)) / u128::from(self.size)
    }

    /// Bytes have no decimals.
    fn decimal(self, tenths: u128) -> String {
        match self.size {
            1 => format!("{}", tenths / 10),
            _ => format!("{}.{}", tenths / 10, tenths % 10),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_countdown_never_says_less_than_there_is() {
        for (microseconds, expected) in [
            (1, "1 ms"),
            (258_400, "259 ms"),
            (999_001, "1 s"),
            (1_000_001, "1.1 s"),
            (9_950_000, "10 s"),
            (11_200_000, "12 s"),
            (125_000_001, "2 min 6 s"),
            (0, "0 s"),
        ] {
            assert_eq!(countdown(Duration::from_micros(microseconds)), expected);
        }
    }

    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    #[test]
    fn bytes_have_one_decimal_and_a_binary_unit() {
        for (count, expected) in [
            (0, "0 B"),
            (1, "1 B"),
            (512, "512 B"),
            (1023, "1023 B"),
            (KIB, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (12 * MIB + 100 * KIB, "12.1 MiB"),
            (MIB - 1, "1.0 MiB"),
            (1023 * KIB, "1023.0 KiB"),
            (GIB - 1, "1.0 GiB"),
            (5 * GIB / 2, "2.5 GiB"),
            (1 << 60, "1.0 EiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(count), expected, "{count}");
        }
    }

    #[test]
    fn progress_is_in_the_unit_of_the_total_and_whole_only_when_whole() {
        for (done, total, expected) in [
            (12 * MIB + 110 * KIB, 40 * MIB, "12.1 of 40.0 MiB"),
            (0, 40 * MIB, "0.0 of 40.0 MiB"),
            (512, 40 * MIB, "0.0 of 40.0 MiB"),
            (40 * MIB - 1, 40 * MIB, "39.9 of 40.0 MiB"),
            (40 * MIB, 40 * MIB, "40.0 of 40.0 MiB"),
            // A total that rounds up is still reached.
            (MIB + 99 * KIB, MIB + 99 * KIB, "1.1 of 1.1 MiB"),
            (41 * MIB, 40 * MIB, "41.0 of 40.0 MiB"),
            (100, 512, "100 of 512 B"),
            (0, 0, "0 of 0 B"),
            (u64::MAX, u64::MAX, "16.0 of 16.0 EiB"),
        ] {
            assert_eq!(progress_bytes(done, total), expected, "{done} of {total}");
        }
    }

    #[test]
    fn durations_read_as_deadlines_are_written() {
        for (time, expected) in [
            (Duration::ZERO, "0 s"),
            (Duration::from_nanos(1), "0 µs"),
            (Duration::from_micros(250), "250 µs"),
            (Duration::from_millis(1), "1 ms"),
            (Duration::from_millis(500), "500 ms"),
            (Duration::from_micros(999_999), "999 ms"),
            (Duration::from_secs(1), "1 s"),
            (Duration::from_millis(1_500), "1.5 s"),
            (Duration::from_millis(1_949), "1.9 s"),
            (Duration::from_millis(1_950), "2 s"),
            (Duration::from_secs(60), "60 s"),
            (Duration::from_secs(90), "90 s"),
            (Duration::from_millis(119_999), "2 min"),
            (Duration::from_secs(125), "2 min 5 s"),
            (Duration::from_millis(3_599_999), "1 h"),
            (Duration::from_secs(12_000), "3 h 20 min"),
        ] {
            assert_eq!(duration(time), expected, "{time:?}");
        }
    }

    #[test]
    fn rates_and_times_left_are_shown_only_where_they_mean_something() {
        assert_eq!(rate(180 * MIB + 200 * KIB), "180.2 MiB/s");
        assert_eq!(rate(0), "0 B/s");
        for (count, elapsed, expected) in [
            (MIB, Duration::from_secs(2), MIB / 2),
            (MIB, Duration::from_millis(500), 2 * MIB),
            (MIB, Duration::ZERO, 0),
            (u64::MAX, Duration::from_micros(1), u64::MAX),
        ] {
            assert_eq!(per_second(count, elapsed), expected, "{count} in {elapsed:?}");
        }
        for (remaining, per_second, expected) in [
            (188 * MIB, 180 * MIB, Some("2 s left")),
            (1, MIB, Some("1 s left")),
            (0, MIB, Some("0 s left")),
            (125 * MIB, MIB, Some("2 min 5 s left")),
            (MIB, 0, None),
            (u64::MAX, 1, None),
        ] {
            let left = time_left(remaining, per_second);
            assert_eq!(left.as_deref(), expected, "{remaining} at {per_second}");
        }
    }

    #[test]
    fn shares_are_rounded_down() {
        for (done, total, expected) in
            [(0, 0, 100), (0, 1, 0), (199, 200, 99), (200, 200, 100), (u64::MAX, u64::MAX, 100)]
        {
            assert_eq!(percent(done, total), expected, "{done} of {total}");
        }
    }

    #[test]
    fn one_is_singular() {
        assert_eq!(count(0, "retry", "retries"), "0 retries");
        assert_eq!(count(1, "retry", "retries"), "1 retry");
        assert_eq!(count(2, "retry", "retries"), "2 retries");
    }
}
