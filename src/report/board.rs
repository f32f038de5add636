//! What stands on the terminal during a pull: rows for the layers that matter now, a line for the
//! others, and a line for the whole. A function of the snapshot and the terminal's size, no more.

use super::format;
use super::snapshot::{Row, Snapshot, State};
use crate::limits;

/// Widest and narrowest bar, in columns. Below the narrowest there is none.
const BAR_WIDTH: std::ops::RangeInclusive<usize> = 10..=40;

/// Columns of the longest `progress_bytes`: `1023.9 of 1023.9 MiB`.
const PROGRESS_BYTES_WIDTH: usize = 20;

/// The size of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    /// Columns.
    pub(super) width: usize,
    /// Rows.
    pub(super) height: usize,
}

/// The lines that show `pull` while it runs: none wider than the terminal, and fewer than its rows.
pub(super) fn running(pull: &Snapshot<'_>, size: Size) -> Vec<String> {
    let mut lines = cut(layers(pull, size), size.width);
    lines.push(one(&format!("total: {}", pull.totals()), size));
    lines
}

/// The lines that stay on the terminal when the pull has ended. Nothing is drawn over the last one, so
/// it may be wider than the terminal.
pub(super) fn ended(pull: &Snapshot<'_>, size: Size) -> Vec<String> {
    let mut lines = cut(layers(pull, size), size.width);
    lines.push(pull.closing());
    lines
}

/// A line behind which the cursor stays: so much narrower than the terminal that the `^C` of an
/// interruption fits behind it. It would begin a line otherwise, and what is drawn over would be off by
/// one.
pub(super) fn one(text: &str, size: Size) -> String {
    let width = size.width.saturating_sub("^C".len()).max(1);
    cut(vec![text.to_owned()], width).pop().unwrap_or_default()
}

/// All layers if there is room for them, else those of interest and a summary of the others.
fn layers(pull: &Snapshot<'_>, size: Size) -> Vec<String> {
    let room = size.height.saturating_sub(limits::TERMINAL_ROWS_RESERVED).max(1);
    if pull.rows.len() <= room {
        return pull.rows.iter().map(|row| line(row, size.width)).collect();
    }
    let (shown, hidden) = select(&pull.rows, room);
    let mut lines: Vec<String> = shown.into_iter().map(|row| line(row, size.width)).collect();
    lines.push(summary(&hidden, lines.is_empty()));
    lines
}

/// At most `room` rows to show, and the others, both in the order of the manifest: what is busy or
/// failed before what will be next; what is finished has nothing more to tell.
fn select<'a>(rows: &'a [Row<'a>], room: usize) -> (Vec<&'a Row<'a>>, Vec<&'a Row<'a>>) {
    let is_busy = |row: &Row<'_>| !row.state.is_here() && row.state != State::Waiting;
    let mut busy_left = room;
    let busy = rows.iter().filter(|row| is_busy(row)).count();
    let mut waiting_left = room.saturating_sub(busy);
    rows.iter().partition(|row| {
        let left = match row.state {
            State::Exists | State::Complete => return false,
            State::Waiting => &mut waiting_left,
            _ => &mut busy_left,
        };
        let fits = *left > 0;
        *left = left.saturating_sub(1);
        fits
    })
}

/// `12 more waiting, 30 complete`; without "more" when no layer is shown.
fn summary(hidden: &[&Row<'_>], alone: bool) -> String {
    let count = |is: fn(&State) -> bool| hidden.iter().filter(|row| is(&row.state)).count();
    let more = if alone { "" } else { " more" };
    let parts = [
        (count(|state| matches!(state, State::Downloading | State::Resuming)), more, "downloading"),
        (count(|state| matches!(state, State::Retrying { .. })), more, "retrying"),
        (count(|state| matches!(state, State::Verifying)), more, "verifying"),
        (count(|state| matches!(state, State::Failed)), more, "failed"),
        (count(|state| matches!(state, State::Waiting | State::Held { .. })), more, "waiting"),
        (count(|state| matches!(state, State::Complete)), "", "complete"),
        (count(|state| matches!(state, State::Exists)), "", "already here"),
    ];
    let parts = parts.iter().filter(|(count, ..)| *count > 0);
    parts.map(|(count, more, what)| format!("{count}{more} {what}")).collect::<Vec<_>>().join(", ")
}

/// A layer: `9824c27679d3: Downloading [====>     ] 12.1 of 40.0 MiB`.
fn line(row: &Row<'_>, width: usize) -> String {
    let text = format!("{}: {}", row.name, row.state.text(row.now));
    if !matches!(row.state, State::Downloading | State::Resuming) {
        return text;
    }
    let bytes = format::progress_bytes(row.done, row.size);
    if let Some((_, waited)) = &row.waited {
        return format!("{}: {bytes}, {waited}", row.name);
    }
    // Around the bar: a space and a bracket on either side.
    let around = columns(&text) + 4 + PROGRESS_BYTES_WIDTH;
    match width.saturating_sub(around).min(*BAR_WIDTH.end()) {
        bar if bar >= *BAR_WIDTH.start() => format!("{text} [{}] {bytes}", self::bar(row, bar)),
        _ => format!("{text} {bytes}"),
    }
}

/// A bar of `width` columns, full only when all bytes are here.
fn bar(row: &Row<'_>, width: usize) -> String {
    let percent = format::percent(row.done, row.size).min(100);
    let full = usize::try_from(percent).map_or(width, |percent| width * percent / 100);
    match full {
        0 => " ".repeat(width),
        _ if full >= width => "=".repeat(width),
        _ => format!("{}>{}", "=".repeat(full - 1), " ".repeat(width - full)),
    }
}

/// Cuts every line to the terminal's width, because a wrapped line takes the rows of others.
fn cut(mut lines: Vec<String>, width: usize) -> Vec<String> {
    for line in lines.iter_mut().filter(|line| columns(line) > width) {
        let mut used = 0;
        let room = width.saturating_sub(1);
        let end = line.char_indices().find(|&(_, character)| {
            used += column_count(character);
            used > room
        });
        if let Some((end, _)) = end {
            line.truncate(end);
            line.push('…');
        }
    }
    lines
}

fn columns(text: &str) -> usize {
    text.chars().map(column_count).sum()
}

/// Columns that a character takes at most. Only text of peers is not ASCII; to cut that early is
/// cheaper than a table of widths.
fn column_count(character: char) -> usize {
    if character.is_ascii() { 1 } else { 2 }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    const MIB: u64 = 1 << 20;
    const NORMAL: Size = Size { width: 100, height: 30 };

    /// A pull of layers of 40 MiB in these states.
    fn pull(states: impl IntoIterator<Item = (u64, State)>) -> Snapshot<'static> {
        let now = Instant::now();
        let states = states.into_iter();
        Snapshot {
            rows: states
                .map(|(done, state)| Row::new("9824c27679d3", 40 * MIB, done, state, now))
                .collect(),
            elapsed: Duration::from_secs(1),
            received: 0,
            rate: None,
            silence: None,
        }
    }

    fn many(state: &State, count: usize) -> impl Iterator<Item = (u64, State)> {
        std::iter::repeat_n((0, state.clone()), count)
    }

    #[track_caller]
    fn check(pull: &Snapshot<'_>, size: Size, expected: &[&str]) {
        assert_eq!(running(pull, size), expected);
    }

    #[test]
    fn few_layers_all_have_a_row() {
        let retrying = State::Retrying {
            attempt: 2,
            attempts: 5,
            at: Instant::now(),
            why: "reset by peer".into(),
        };
        let pull = pull([
            (0, State::Exists),
            (40 * MIB, State::Complete),
            (10 * MIB, State::Downloading),
            (40 * MIB, State::Verifying),
            (MIB, retrying),
            (0, State::Waiting),
            (0, State::Failed),
        ]);
        check(
            &pull,
            NORMAL,
            &[
                "9824c27679d3: Already exists",
                "9824c27679d3: Pull complete",
                "9824c27679d3: Downloading [=========>                              ] 10.0 of 40.0 MiB",
                "9824c27679d3: Verifying",
                "9824c27679d3: Retrying (attempt 2 of 5): reset by peer",
                "9824c27679d3: Waiting",
                "9824c27679d3: Failed",
                "total: 91.0 of 240.0 MiB (37%), 2 of 7 layers complete",
            ],
        );
    }

    #[test]
    fn a_bar_is_full_only_when_all_is_here() {
        for (done, expected) in [
            (0, "          "),
            (4 * MIB, ">         "),
            (20 * MIB, "====>     "),
            (40 * MIB - 1, "========> "),
            (40 * MIB, "=========="),
            (50 * MIB, "=========="),
        ] {
            let pull = pull([(done, State::Downloading)]);
            assert_eq!(bar(&pull.rows[0], 10), expected, "{done}");
        }
    }

    #[test]
    fn many_layers_leave_room_for_those_that_matter() {
        let size = Size { width: 100, height: 8 };
        let rows = many(&State::Complete, 30)
            .chain(many(&State::Exists, 4))
            .chain(many(&State::Waiting, 1))
            .chain(many(&State::Verifying, 2))
            .chain(many(&State::Waiting, 20));
        check(
            &pull(rows),
            size,
            &[
                "9824c27679d3: Waiting",
                "9824c27679d3: Verifying",
                "9824c27679d3: Verifying",
                "9824c27679d3: Waiting",
                "19 more waiting, 30 complete, 4 already here",
                "total: 0.0 of 2.1 GiB (0%), 34 of 57 layers complete",
            ],
        );
        let rows = many(&State::Verifying, 9).chain(many(&State::Failed, 1));
        check(
            &pull(rows),
            size,
            &[
                "9824c27679d3: Verifying",
                "9824c27679d3: Verifying",
                "9824c27679d3: Verifying",
                "9824c27679d3: Verifying",
                "5 more verifying, 1 more failed",
                "total: 0.0 of 400.0 MiB (0%), 0 of 10 layers complete",
            ],
        );
        check(
            &pull(many(&State::Complete, 70)),
            size,
            &["70 complete", "total: 0.0 of 2.7 GiB (0%), 70 of 70 layers complete"],
        );
    }

    #[test]
    fn no_line_is_wider_and_no_board_higher_than_the_terminal() {
        let why = "大きな reason ".repeat(20);
        let states = [
            State::Downloading,
            State::Waiting,
            State::Retrying { attempt: 2, attempts: 5, at: Instant::now(), why: why.into() },
        ];
        for width in 1..=140 {
            for height in 3..=90 {
                let size = Size { width, height };
                let pull = pull(states.iter().flat_map(|state| many(state, 20)));
                let lines = running(&pull, size);
                assert!(lines.len() < height.max(4), "{size:?}: {} lines", lines.len());
                let last = lines.last().unwrap();
                let room = width.saturating_sub(2).max(1);
                assert!(columns(last.trim_end_matches('…')) <= room, "{size:?}: {last}");
                for line in &lines {
                    assert!(columns(line.trim_end_matches('…')) <= width, "{size:?}: {line}");
                }
            }
        }
    }

    #[test]
    fn a_narrow_terminal_has_no_bar() {
        let pull = pull([(10 * MIB, State::Downloading)]);
        let at = |width| running(&pull, Size { width, height: 30 }).remove(0);
        assert_eq!(at(59), "9824c27679d3: Downloading [=>        ] 10.0 of 40.0 MiB");
        assert_eq!(at(58), "9824c27679d3: Downloading 10.0 of 40.0 MiB");
        assert_eq!(at(30), "9824c27679d3: Downloading 10.…");
    }

    #[test]
    fn the_end_leaves_what_happened() {
        let pull = pull([(40 * MIB, State::Complete), (MIB, State::Failed)]);
        assert_eq!(
            ended(&pull, NORMAL),
            [
                "9824c27679d3: Pull complete",
                "9824c27679d3: Failed",
                "stopped: 41.0 of 80.0 MiB, 1 of 2 layers complete"
            ]
        );
    }
}
