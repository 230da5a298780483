//! Files that outlive the daemon: the tracker's, the persistent snapshots' index, and what holds their data.
//!
//! Everything here blocks and is called on threads that may wait, never on a queue thread. What was written is durable
//! after [`StateFile::sync`]; names are durable after [`Folder::sync`]; [`Folder::replace`] is both, all or nothing.

mod real;
#[cfg(any(test, feature = "sim"))]
mod sim;

use std::sync::Arc;

use bowline_block::Result;

pub use real::{RealFile, RealFolder};
#[cfg(any(test, feature = "sim"))]
pub use sim::{FolderFault, FolderOp, FolderWalk, SimFolder, Trouble};

/// A file.
pub trait StateFile: Send + Sync {
    /// Its size in bytes.
    ///
    /// # Errors
    /// What the operating system says.
    fn len(&self) -> Result<u64>;

    /// Whether it has no bytes.
    ///
    /// # Errors
    /// As [`StateFile::len`].
    fn is_empty(&self) -> Result<bool> {
        self.len().map(|len| len == 0)
    }

    /// Fills `data` from `offset` on; fewer bytes only where the file ends.
    ///
    /// # Errors
    /// What the operating system says.
    fn read_at(&self, offset: u64, data: &mut [u8]) -> Result<usize>;

    /// Writes all of `data` at `offset`, growing the file if need be. A power cut before the next sync may keep any part
    /// of it.
    ///
    /// # Errors
    /// What the operating system says.
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()>;

    /// Cuts the file, or grows it by zeroes.
    ///
    /// # Errors
    /// What the operating system says.
    fn set_len(&self, len: u64) -> Result<()>;

    /// Makes what was written durable. After an error nothing is known about what was written since the last success.
    ///
    /// # Errors
    /// What the operating system says.
    fn sync(&self) -> Result<()>;
}

/// A folder of files, without folders in it.
pub trait Folder: Send + Sync {
    /// Opens a file; `None` when there is none of that name.
    ///
    /// # Errors
    /// What the operating system says.
    fn open(&self, name: &str) -> Result<Option<Arc<dyn StateFile>>>;

    /// Makes a file, empty, whether or not there was one.
    ///
    /// # Errors
    /// What the operating system says.
    fn create(&self, name: &str) -> Result<Arc<dyn StateFile>>;

    /// Gives a file these contents, all or nothing, durable when it returns.
    ///
    /// # Errors
    /// What the operating system says; the file is the old one or the new one then.
    fn replace(&self, name: &str, contents: &[u8]) -> Result<()>;

    /// Gives a file another name, over any file of that name. Its contents should be synced before.
    ///
    /// # Errors
    /// What the operating system says.
    fn rename(&self, from: &str, to: &str) -> Result<()>;

    /// Removes a file; fine when there is none.
    ///
    /// # Errors
    /// What the operating system says.
    fn remove(&self, name: &str) -> Result<()>;

    /// The names of its files.
    ///
    /// # Errors
    /// What the operating system says.
    fn names(&self) -> Result<Vec<String>>;

    /// Makes names durable.
    ///
    /// # Errors
    /// What the operating system says.
    fn sync(&self) -> Result<()>;

    /// Where it is, for people.
    fn location(&self) -> String;
}
