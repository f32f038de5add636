//! Gives the bytes that libFuzzer invents to the property of this name.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| properties::chunked(bytes));

#[path = "../properties/mod.rs"]
#[allow(dead_code, reason = "each target needs one of them")]
mod properties;
