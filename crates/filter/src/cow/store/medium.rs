//! What the contents of a volume are kept in.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bowline_block::{Error, ErrorKind, Result};
use bowline_io::File;
use bowline_state::StateFile;

/// A file, a device, or what stands for one in a test. All of it blocks, and is called on the storage's worker; only
/// what [`Medium::file`] gives is read from queue threads too.
pub trait Medium: Send + Sync {
    /// Where it is, for people.
    fn location(&self) -> String;

    /// What reads go to, on the spot or through the engines. `None`: they go to [`Medium::read_at`], on whatever thread
    /// asks, so it must not take long then.
    fn file(&self) -> Option<&Arc<File>>;

    /// Fills `data` from `offset` on.
    ///
    /// # Errors
    /// What the operating system says; an end before all is read.
    fn read_at(&self, offset: u64, data: &mut [u8]) -> Result<()>;

    /// Writes all of `data`.
    ///
    /// # Errors
    /// What the operating system says.
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()>;

    /// Makes sure that what was written can be read again: until then the kernel may only have promised to write it,
    /// and forget both the promise and the contents.
    ///
    /// # Errors
    /// What the operating system says; then nothing is known of what was written since the last success.
    fn sync(&self) -> Result<()>;

    /// Bytes that it has now.
    fn size(&self) -> u64;

    /// Makes it larger, with the space reserved.
    ///
    /// # Errors
    /// What the operating system says; it is as large as before then.
    fn grow(&self, size: u64) -> Result<()>;

    /// The storage is over: gives the space back.
    fn dispose(&self);
}

/// A [`StateFile`] as a medium. Its contents stay when the storage ends.
pub struct StateMedium {
    file: Arc<dyn StateFile>,
    location: String,
    size: AtomicU64,
}

impl StateMedium {
    /// Takes a file as it is.
    ///
    /// # Errors
    /// When its size cannot be told.
    pub fn new(file: Arc<dyn StateFile>, location: impl Into<String>) -> Result<Self> {
        let size = AtomicU64::new(file.len()?);
        Ok(Self { file, location: location.into(), size })
    }
}

impl Medium for StateMedium {
    fn location(&self) -> String {
        self.location.clone()
    }

    fn file(&self) -> Option<&Arc<File>> {
        None
    }

    fn read_at(&self, offset: u64, data: &mut [u8]) -> Result<()> {
        if self.file.read_at(offset, data)? == data.len() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Io, format!("{} ends too early", self.location)))
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.file.write_at(offset, data)
    }

    fn sync(&self) -> Result<()> {
        self.file.sync()
    }

    fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    fn grow(&self, size: u64) -> Result<()> {
        self.file.set_len(size)?;
        self.size.store(size, Ordering::Relaxed);
        Ok(())
    }

    fn dispose(&self) {}
}
