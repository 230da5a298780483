//! The bottoms of a stack: where bytes finally are.
//!
//! * [`FileStore`]: a regular file or a block device, through the page cache or past it;
//! * [`FileStore::memory`]: unnamed memory of this process;
//! * [`NbdStore`]: an export of an NBD server elsewhere;
//! * [`NullStore`]: takes everything, keeps nothing.

mod file;
mod nbd;
mod null;

pub use file::{CacheMode, FileOptions, FileStore, Opened};
pub use nbd::{NbdOptions, NbdStore};
pub use null::NullStore;

#[cfg(test)]
mod tests;
