//! Which bytes of a blob are there.

use std::ops::Range;

/// A set of byte offsets, kept as ranges: sorted, apart from each other, none empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Extents {
    ranges: Vec<Range<u64>>,
}

impl Extents {
    /// Adds a range; what is there already stays.
    pub(super) fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        // Those that touch the new one become one with it.
        let first = self.ranges.partition_point(|known| known.end < range.start);
        let last = self.ranges.partition_point(|known| known.start <= range.end);
        let touching = &self.ranges[first..last];
        let start = touching.first().map_or(range.start, |known| known.start.min(range.start));
        let end = touching.last().map_or(range.end, |known| known.end.max(range.end));
        self.ranges.splice(first..last, std::iter::once(start..end));
    }

    /// Adds all ranges of another set.
    pub(super) fn extend(&mut self, other: &Extents) {
        other.ranges.iter().for_each(|range| self.insert(range.clone()));
    }

    /// The ranges, in order.
    pub(super) fn ranges(&self) -> &[Range<u64>] {
        &self.ranges
    }

    /// Whether nothing is there.
    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How many bytes are there.
    pub(super) fn size(&self) -> u64 {
        self.ranges.iter().map(|range| range.end - range.start).sum()
    }

    /// The end of what is there from `start` on without a gap; `start` itself, if nothing is.
    pub(super) fn contiguous_from(&self, start: u64) -> u64 {
        let next = self.ranges.partition_point(|known| known.end <= start);
        match self.ranges.get(next) {
            Some(range) if range.start <= start => range.end,
            _ => start,
        }
    }

    /// The first gap within `within`, if there is one.
    pub(super) fn first_gap(&self, within: Range<u64>) -> Option<Range<u64>> {
        let start = self.contiguous_from(within.start);
        if start >= within.end {
            return None;
        }
        let next = self.ranges.partition_point(|known| known.end <= start);
        let end = self.ranges.get(next).map_or(within.end, |known| known.start.min(within.end));
        Some(start..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(inserted: &[Range<u64>], expected: &[Range<u64>]) {
        let mut extents = Extents::default();
        inserted.iter().for_each(|range| extents.insert(range.clone()));
        assert_eq!(extents.ranges, expected);
    }

    #[test]
    fn ranges_that_touch_become_one() {
        check(&[], &[]);
        check(&[5..5], &[]);
        check(&[0..5, 5..9], &[0..9]);
        check(&[5..9, 0..5], &[0..9]);
        check(&[0..2, 4..6], &[0..2, 4..6]);
        check(&[0..2, 4..6, 2..4], &[0..6]);
        check(&[0..2, 4..6, 8..9, 1..8], &[0..9]);
        check(&[3..4, 0..9], &[0..9]);
        check(&[0..9, 3..4], &[0..9]);
        check(&[8..9, 4..6, 0..2], &[0..2, 4..6, 8..9]);
    }

    #[test]
    fn gaps_are_found_in_order() {
        let mut extents = Extents::default();
        for range in [2..4, 6..8] {
            extents.insert(range);
        }
        assert_eq!(extents.size(), 4);
        assert_eq!(extents.first_gap(0..10), Some(0..2));
        assert_eq!(extents.first_gap(2..10), Some(4..6));
        assert_eq!(extents.first_gap(3..5), Some(4..5));
        assert_eq!(extents.first_gap(6..8), None);
        assert_eq!(extents.first_gap(7..10), Some(8..10));
        assert_eq!(extents.first_gap(9..9), None);
        for (start, end) in [(0, 0), (2, 4), (3, 4), (4, 4), (6, 8), (8, 8)] {
            assert_eq!(extents.contiguous_from(start), end, "{start}");
        }
    }

    #[test]
    fn it_agrees_with_a_set_of_bytes() {
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..2_000 {
            let (mut extents, mut bytes) = (Extents::default(), [false; 64]);
            for _ in 0..random.usize(0..12) {
                let start = random.usize(0..64);
                let end = random.usize(start..=64);
                extents.insert(start as u64..end as u64);
                bytes[start..end].fill(true);
            }
            assert_eq!(extents.size(), bytes.iter().filter(|there| **there).count() as u64);
            let gap = bytes.iter().position(|there| !there);
            assert_eq!(extents.first_gap(0..64).map(|gap| gap.start as usize), gap);
            assert!(extents.ranges.windows(2).all(|pair| pair[0].end < pair[1].start));
        }
    }
}
