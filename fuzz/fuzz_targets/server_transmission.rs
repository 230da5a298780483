//! See `bowline_nbd::fuzz_entry::server_transmission` for what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bowline_nbd::fuzz_entry::server_transmission(data));
