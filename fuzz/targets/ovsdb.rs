//! `cargo +nightly fuzz run ovsdb tests/corpus/ovsdb`; see `netwright::fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| netwright::fuzz::ovsdb(bytes));
