//! `cargo +nightly fuzz run document tests/corpus/document`; see `netwright::fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| netwright::fuzz::document(bytes));
