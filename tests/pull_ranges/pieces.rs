//! The pieces of a blob, as a registry saw them asked for.

use std::ops::Range;

use ringpull::demo::{Action, RequestLine};

/// Which bytes each request brought, and how often what one was to bring was asked for again from
/// somewhere in it on: what the first sends behind that is on its way for nothing. A machine that is
/// busy enough makes the last pieces of any pull slow, so that they are split in any.
pub(crate) fn pieces(requests: &[&RequestLine]) -> (Vec<Range<u64>>, usize) {
    let mut pieces: Vec<Range<u64>> = Vec::new();
    let mut splits = 0;
    for line in requests {
        let Some((first, last)) = line.range else { continue };
        let sent = match (&line.fault, line.status) {
            (
                Action::None | Action::Chunked { .. } | Action::UntilClose | Action::Limit(_),
                Some(206),
            ) => last + 1 - first,
            (_, Some(206)) => line.body_sent,
            _ => 0,
        };
        let piece = first..first + sent;
        let split = |earlier: &&mut Range<u64>| {
            earlier.start < piece.start && piece.start < earlier.end && !piece.is_empty()
        };
        if let Some(earlier) = pieces.iter_mut().find(split) {
            earlier.end = piece.start;
            splits += 1;
        }
        pieces.push(piece);
    }
    (pieces, splits)
}

/// Checks that pieces cover a blob of `size` bytes, each byte once.
#[track_caller]
pub(crate) fn expect_cover(pieces: &[Range<u64>], size: u64) {
    let mut sorted: Vec<_> = pieces.iter().filter(|range| !range.is_empty()).collect();
    sorted.sort_by_key(|range| range.start);
    let mut end = 0;
    for range in sorted {
        assert_eq!(range.start, end, "neither gap nor overlap");
        end = range.end;
    }
    assert_eq!(end, size);
}

/// `… 1.5 MiB wasted …` of the last line, in bytes; as exact as it is said.
#[track_caller]
pub(crate) fn wasted(stderr: &str) -> u64 {
    let (before, _) = stderr.rsplit_once(" wasted").expect("a summary");
    let wasted = before.rsplit(", ").next().expect("what is wasted");
    let (number, unit) = wasted.split_once(' ').expect("a unit");
    let unit = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        other => panic!("{other}"),
    };
    (number.parse::<f64>().expect("a number") * f64::from(unit)) as u64
}

/// The most that one split can waste: what a receive brings.
pub(crate) const SPLIT_WASTE_MAX: u64 = 512 << 10;
