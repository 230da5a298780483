//! The filters of a stack: copy-on-write snapshots, changed-block tracking.

pub mod cow;
pub mod probe;
pub mod track;
