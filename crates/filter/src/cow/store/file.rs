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
use rustix::fs::{FallocateFlags, fallocate, fstat, ftruncate};
use rustix::io::{Errno, pwrite};

pub(super) struct StoreFile {
    pub(super) file: Arc<File>,
    pub(super) path: PathBuf,
    /// Whether we made it, and so remove it.
    made: bool,
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
                check_empty(path, &fs::metadata(path).map_err(failed)?)?;
                let file = OpenOptions::new().read(true).write(true).open(path).map_err(failed)?;
                // Looked at again now that it is open: the name may have come to mean another file.
                check_empty(path, &file.metadata().map_err(failed)?)?;
                (file, false)
            }
            Err(error) => return Err(failed(error)),
        };
        let file = Arc::new(File::new(OwnedFd::from(file)));
        let this = Self { file, path: path.to_owned(), made, size: AtomicU64::new(0) };
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
        let now = self.size();
        match fallocate(self.file.as_fd(), FallocateFlags::empty(), now, size.saturating_sub(now)) {
            Ok(()) => {}
            // A file system that cannot reserve: space is found, or not, when it is written to.
            Err(Errno::OPNOTSUPP) => ftruncate(self.file.as_fd(), size)?,
            Err(errno) => return Err(errno.into()),
        }
        self.size.store(size, Ordering::Relaxed);
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
        let result =
            if self.made { self.unlink() } else { ftruncate(self.file.as_fd(), 0).map_err(Into::into) };
        if let Err(error) = result {
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

fn check_empty(path: &Path, found: &fs::Metadata) -> Result<()> {
    let why = if found.is_dir() {
        "is a directory: name a file in it"
    } else if !found.is_file() {
        "is not a regular file"
    } else if found.len() > 0 {
        "exists and is not empty"
    } else {
        return Ok(());
    };
    Err(Error::new(ErrorKind::Invalid, format!("diff storage {} {why}", path.display())))
}
