//! The filters of a stack: copy-on-write snapshots first.

pub mod cow;
