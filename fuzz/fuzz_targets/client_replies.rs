//! See `bowline_nbd::fuzz_entry::client_replies` for what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bowline_nbd::fuzz_entry::client_replies(data));
