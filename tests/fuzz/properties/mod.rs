//! What must hold for any bytes: one property for each target of `scripts/fuzz`. A property panics
//! if it does not hold. The fuzzers give it bytes they invent, `tests/fuzz_corpus.rs` those that are
//! kept in `tests/fuzz/corpus`.
//!
//! That nothing panics, overflows or runs for ever holds by itself: builds of the fuzzers and of
//! tests check it. What else holds is said at each property.

mod client;
mod files;
mod http;
mod image;

use std::fmt::Display;

pub use client::client;
pub use files::config;
pub use http::{chunked, head, headers};
pub use image::{manifest, reference};

/// A property of any bytes.
pub type Property = fn(&[u8]);

/// All of them, by the name of their target and of their part of the corpus.
pub const ALL: [(&str, Property); 7] = [
    ("head", head),
    ("chunked", chunked),
    ("headers", headers),
    ("manifest", manifest),
    ("reference", reference),
    ("config", config),
    ("client", client),
];

/// Longest error text, in bytes: whatever a peer sends, a message fits a few lines of a terminal.
const MESSAGE_SIZE_MAX: usize = 4 << 10;

/// Numbers that follow from the input, so that a finding can be replayed.
struct Numbers(u64);

impl Numbers {
    /// The numbers of `bytes` (FNV-1a).
    fn of(bytes: &[u8]) -> Numbers {
        let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        Numbers(bytes.iter().fold(0xcbf2_9ce4_8422_2325, mix))
    }

    /// The next number below `end`, which is not zero.
    fn below(&mut self, end: usize) -> usize {
        // Knuth's constants (MMIX); the upper bits are the good ones.
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }
}

/// A message that is safe to print on any terminal, and of bounded length.
#[track_caller]
fn check_message(message: &dyn Display) {
    let text = message.to_string();
    assert!(!text.is_empty(), "an error that says nothing");
    assert!(!text.chars().any(char::is_control), "a control character in {text:?}");
    assert!(text.len() <= MESSAGE_SIZE_MAX, "a message of {} bytes", text.len());
}
