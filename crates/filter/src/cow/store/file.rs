//! The file of a diff storage.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bowline_block::{Error, ErrorKind, Result};
use bowline_io::File;
use rustix::fs::{FallocateFlags, FlockOperation, fallocate, fdatasync, flock, fstat, fstatfs, ftruncate};
use rustix::io::{Errno, pwrite, retry_on_intr};

/// What `fstatfs` calls tmpfs.
const TMPFS_MAGIC: i128 = 0x0102_1994;

pub(super) struct StoreFile {
    pub(super) file: Arc<File>,
    pub(super) path: PathBuf,
    /// Whether we made it, and so remove it.
    made: bool,
    /// Whether what is written has to reach a device after that, which may fail.
    written_back: bool,
    size: AtomicU64,
}

impl StoreFile {
    /// Makes the file, or takes one that is empty, and gives it its first `step` bytes.
    pub(super) fn open(path: &Path, step: u64) -> Result<Self> {
        let failed = |error| Error::from_io(format!("cannot open diff storage {}", path.display()), error);
        let new = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path);
        let (file, made) = match new {
            Ok(file) => (file, true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // Before it is opened: that alone may have an effect on what is no file.
                check_kind(path, &fs::metadata(path).map_err(failed)?)?;
                (OpenOptions::new().read(true).write(true).open(path).map_err(failed)?, false)
            }
            Err(error) => return Err(failed(error)),
        };
        lock(path, &file)?;
        // Looked at now that it is open and nobody else's: the name may have come to mean another file.
        let found = file.metadata().map_err(failed)?;
        check_kind(path, &found)?;
        check_empty(path, &found)?;
        let named = fs::metadata(path).map_err(failed)?;
        if (named.dev(), named.ino()) != (found.dev(), found.ino()) {
            return Err(busy(path));
        }
        // A file system that cannot be asked is taken for one that writes back.
        let written_back = fstatfs(&file).map_or(true, |found| i128::from(found.f_type) != TMPFS_MAGIC);
        let file = Arc::new(File::new(OwnedFd::from(file)));
        let this = Self { file, path: path.to_owned(), made, written_back, size: AtomicU64::new(0) };
        if let Err(error) = this.grow(step) {
            this.dispose();
            return Err(Error::from_io(format!("cannot allocate {step} bytes in {}", path.display()), error));
        }
        Ok(this)
    }

    pub(super) fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    pub(super) fn grow(&self, size: u64) -> io::Result<()> {
        self.grow_by(size, |from, len| fallocate(self.file.as_fd(), FallocateFlags::empty(), from, len))
    }

    /// Reserves with `allocate`. A long one is interrupted by any signal, which is no failure.
    fn grow_by(
        &self,
        size: u64,
        mut allocate: impl FnMut(u64, u64) -> rustix::io::Result<()>,
    ) -> io::Result<()> {
        let now = self.size();
        match retry_on_intr(|| allocate(now, size.saturating_sub(now))) {
            Ok(()) => {}
            // A file system that cannot reserve: space is found, or not, when it is written to.
            Err(Errno::OPNOTSUPP) => retry_on_intr(|| ftruncate(self.file.as_fd(), size))?,
            Err(errno) => return Err(errno.into()),
        }
        self.size.store(size, Ordering::Relaxed);
        Ok(())
    }

    /// Makes sure that what was written can be read again: until now the kernel may only have promised to write it, and
    /// forget both the promise and the contents.
    pub(super) fn sync(&self) -> io::Result<()> {
        if self.written_back {
            retry_on_intr(|| fdatasync(self.file.as_fd()))?;
        }
        Ok(())
    }

    pub(super) fn write(&self, mut data: &[u8], mut offset: u64) -> io::Result<()> {
        while !data.is_empty() {
            match pwrite(self.file.as_fd(), data, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => {
                    data = data.get(bytes..).unwrap_or_default();
                    offset += bytes as u64;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Gives the space back: a file of ours goes, one that was there becomes empty again.
    pub(super) fn dispose(&self) {
        let unlinked = if self.made { self.unlink() } else { Ok(()) };
        // One that was unlinked too: its blocks are freed here and not by whoever closes it.
        let emptied = retry_on_intr(|| ftruncate(self.file.as_fd(), 0)).map_err(io::Error::from);
        if let Err(error) = unlinked.and(emptied) {
            tracing::warn!(path = %self.path.display(), %error, "cannot give diff storage back");
        }
    }

    fn unlink(&self) -> io::Result<()> {
        let ours = fstat(self.file.as_fd())?;
        let named = fs::symlink_metadata(&self.path)?;
        // Somebody may have put another file there.
        if (named.dev(), named.ino()) == (ours.st_dev, ours.st_ino) {
            fs::remove_file(&self.path)?;
        }
        Ok(())
    }
}

/// Two storages in one file would overwrite each other's contents.
fn lock(path: &Path, file: &fs::File) -> Result<()> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => Err(busy(path)),
        // A file system without locks: nothing is known of others.
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOLCK) => Ok(()),
        Err(errno) => {
            Err(Error::from_io(format!("cannot lock diff storage {}", path.display()), errno.into()))
        }
    }
}

fn busy(path: &Path) -> Error {
    let why = format!("diff storage {} is in use by another storage or process", path.display());
    Error::new(ErrorKind::Busy, why)
}

fn check_kind(path: &Path, found: &fs::Metadata) -> Result<()> {
    let why = if found.is_dir() {
        "is a directory: name a file in it"
    } else if !found.is_file() {
        "is not a regular file"
    } else {
        return Ok(());
    };
    Err(Error::new(ErrorKind::Invalid, format!("diff storage {} {why}", path.display())))
}

fn check_empty(path: &Path, found: &fs::Metadata) -> Result<()> {
    if found.len() == 0 {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Invalid, format!("diff storage {} exists and is not empty", path.display())))
}

#[cfg(all(test, not(feature = "shuttle")))]
#[path = "file_tests.rs"]
mod tests;
