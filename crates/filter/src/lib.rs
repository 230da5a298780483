//! The filters of a stack: copy-on-write snapshots, changed-block tracking.

pub mod cow;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz_entry;
pub mod probe;
pub mod rollback;
pub mod track;
