//! The properties of `tests/fuzz`, held for the inputs kept there, and for what lies near them, by
//! plain `cargo test`. `scripts/fuzz` looks for more inputs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs,
    unreachable_pub,
    reason = "helpers of tests are tests, which clippy.toml cannot know"
)]

#[path = "fuzz/properties/mod.rs"]
mod properties;

use std::fs;
use std::path::{Path, PathBuf};

use properties::{ALL, Property};

/// Of a large input, so many variants are tried, evenly spread.
const VARIANTS_MAX: usize = 300;

/// Bytes that mean something to some parser.
const TELLING: [u8; 8] = *b"\0\n\r\":,0\xff";

#[test]
fn every_property_holds_for_its_corpus() {
    for (name, property) in ALL {
        let inputs = corpus(name);
        assert!(inputs.len() >= 5, "{name}: only {} inputs", inputs.len());
        let mut count = 0;
        for (path, bytes) in &inputs {
            for variant in variants(bytes) {
                check(path, property, &variant);
                count += 1;
            }
        }
        println!("{name}: {} inputs, {count} with their variants", inputs.len());
    }
}

#[test]
fn the_corpus_has_no_input_that_nobody_reads() {
    let mut found: Vec<String> = fs::read_dir(root().join("corpus"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    found.sort();
    let mut names = ALL.map(|(name, _)| name);
    names.sort_unstable();
    assert_eq!(found, names);
    for name in names {
        assert!(root().join(format!("targets/{name}.rs")).is_file(), "no target {name}");
    }
}

/// The input itself, cut at many places, and with one byte changed at many places.
fn variants(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut variants = vec![bytes.to_vec()];
    let step = bytes.len().div_ceil(VARIANTS_MAX).max(1);
    for at in (0..bytes.len()).step_by(step) {
        variants.push(bytes[..at].to_vec());
        let mut changed = bytes.to_vec();
        changed[at] = TELLING[at % TELLING.len()];
        variants.push(changed);
    }
    variants
}

fn check(path: &Path, property: Property, bytes: &[u8]) {
    if let Err(panic) = std::panic::catch_unwind(|| property(bytes)) {
        println!("{}, or near it: {}", path.display(), bytes.escape_ascii());
        std::panic::resume_unwind(panic);
    }
}

fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(root().join("corpus").join(name)).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(&path).unwrap())).collect()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz")
}
