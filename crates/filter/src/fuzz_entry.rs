//! Entry points for fuzzing: each takes any bytes and asserts what must hold (I8, I9).

pub use crate::cow::fuzz_snapshot_journal as snapshot_journal;
pub use crate::rollback::log::fuzz::{rollback_log, sample as rollback_log_sample};
