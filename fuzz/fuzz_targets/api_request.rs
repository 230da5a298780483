//! See `bowline_api::fuzz_entry::api_request` for what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bowline_api::fuzz_entry::api_request(data));
