//! See `bowline_filter::fuzz_entry::rollback_log` for what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bowline_filter::fuzz_entry::rollback_log(data));
