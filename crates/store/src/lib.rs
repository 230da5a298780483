//! The bottoms of a stack: where bytes finally are.
//!
//! * [`FileStore`]: a regular file or a block device, through the page cache or past it;
//! * [`FileStore::memory`]: unnamed memory of this process;
//! * [`NullStore`]: takes everything, keeps nothing.

mod file;
mod null;

pub use file::{CacheMode, FileOptions, FileStore, Opened};
pub use null::NullStore;

#[cfg(test)]
mod tests;
