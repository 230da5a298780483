//! See `bowline_filter::track::fuzz_entry::tracker_files` for what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bowline_filter::track::fuzz_entry::tracker_files(data));
