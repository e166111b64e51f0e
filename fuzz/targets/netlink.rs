//! `cargo +nightly fuzz run netlink tests/corpus/netlink`; see `netwright::fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| netwright::fuzz::netlink(bytes));
