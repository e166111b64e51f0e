//! `cargo +nightly fuzz run capture tests/corpus/capture`; see `netwright::fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| netwright::fuzz::capture(bytes));
