//! The bottoms of a stack: where bytes finally are.
//!
//! * [`FileStore`]: a regular file or a block device, through the page cache or past it;
//! * [`FileStore::memory`]: unnamed memory of this process;
//! * [`NbdStore`]: an export of an NBD server elsewhere;
//! * [`NullStore`]: takes everything, keeps nothing;
//! * [`ReadOnly`]: any of them, with no change let through.

mod file;
mod nbd;
mod null;
mod read_only;

pub use file::{CacheMode, FileOptions, FileStore, Opened};
pub use nbd::{NbdOptions, NbdStore};
pub use null::NullStore;
pub use read_only::ReadOnly;

#[cfg(test)]
mod tests;
