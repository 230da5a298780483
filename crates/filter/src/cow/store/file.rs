//! The file, unnamed file, block device or foreign file of a diff storage.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bowline_block::{ByteRange, Error, ErrorKind, Result};
use bowline_io::File;
use rustix::fs::{
    FallocateFlags, FileType, FlockOperation, Mode, OFlags, fallocate, fdatasync, flock, fstat, fstatfs,
    ftruncate,
};
use rustix::io::{Errno, pread, pwrite, retry_on_intr};

use super::SEGMENT_BYTES;
use super::identity::{Claim, FileIdentity};
use super::medium::Medium;

/// What `fstatfs` calls tmpfs.
const TMPFS_MAGIC: i128 = 0x0102_1994;
/// How often and after what pause a place that is in use is looked at again.
const BUSY_TRIES: u32 = 20;
const BUSY_PAUSE: Duration = Duration::from_millis(10);
/// Names tried for a file that loses its name at once.
const NAMES_MAX: u32 = 1000;

/// What becomes of it when the storage ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AtEnd {
    /// We made it, and remove it.
    Remove,
    /// It was there, empty, or has no name: it becomes empty again.
    Empty,
    /// It is not ours.
    Leave,
}

pub(super) struct StoreFile {
    /// First, so that it is let go before the file is closed: after that its inode may be another file's, which would be
    /// taken for claimed.
    _claim: Claim,
    pub(super) file: Arc<File>,
    pub(super) path: PathBuf,
    at_end: AtEnd,
    /// Whether what is written has to reach a device after that, which may fail.
    written_back: bool,
    size: AtomicU64,
}

impl StoreFile {
    /// Makes the file, or takes one that is empty, and gives it its first `step` bytes.
    pub(super) fn open(path: &Path, step: u64) -> Result<Self> {
        let failed = |error| cannot_open(path, error);
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
        let at_end = if made { AtEnd::Remove } else { AtEnd::Empty };
        Self::new(file, path, at_end, 0, &[ByteRange::new(0, u64::MAX)])?.with_first(step)
    }

    /// Opens a file that was kept, with what is in it.
    pub(super) fn reopen(path: &Path) -> Result<Self> {
        let failed = |error| cannot_open(path, error);
        check_kind(path, &fs::metadata(path).map_err(failed)?)?;
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(failed)?;
        lock(path, &file)?;
        let found = file.metadata().map_err(failed)?;
        check_kind(path, &found)?;
        Self::new(file, path, AtEnd::Remove, found.len(), &[ByteRange::new(0, u64::MAX)])
    }

    /// Makes a file without a name in a directory, and gives it its first `step` bytes.
    pub(super) fn unnamed(directory: &Path, step: u64) -> Result<Self> {
        let failed = |error| cannot_open(directory, error);
        if !fs::metadata(directory).map_err(failed)?.is_dir() {
            let why = format!("diff storage {} is not a directory", directory.display());
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = match rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR) {
            Ok(fd) => fs::File::from(fd),
            // A file system that knows no unnamed files.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => {
                unlinked(directory).map_err(failed)?
            }
            Err(errno) => return Err(failed(errno.into())),
        };
        Self::new(file, directory, AtEnd::Empty, 0, &[ByteRange::new(0, u64::MAX)])?.with_first(step)
    }

    /// Takes a whole block device that nobody else uses.
    pub(super) fn device(path: &Path) -> Result<Self> {
        let failed = |error| cannot_open(path, error);
        if FileIdentity::of(path).map_err(failed)?.rdev.is_none() {
            let why = format!("diff storage {} is not a block device", path.display());
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        // For block devices EXCL means: not while it is mounted, or part of something that is.
        let flags = OFlags::RDWR | OFlags::EXCL | OFlags::CLOEXEC;
        let file = match patiently(Errno::BUSY, || rustix::fs::open(path, flags, Mode::empty())) {
            Ok(fd) => fs::File::from(fd),
            Err(Errno::BUSY) => {
                let why = format!("diff storage {} is mounted or in use by another program", path.display());
                return Err(Error::new(ErrorKind::Busy, why));
            }
            Err(errno) => return Err(failed(errno.into())),
        };
        let size = end_of(&file).map_err(failed)?;
        if size < SEGMENT_BYTES {
            let why =
                format!("diff storage {} has {size} bytes, the least is {SEGMENT_BYTES}", path.display());
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        Self::new(file, path, AtEnd::Leave, size, &[ByteRange::new(0, u64::MAX)])
    }

    /// Takes ranges of a file or block device that others may use the rest of. A regular file's get their space now.
    pub(super) fn ranges(path: &Path, ranges: &[ByteRange]) -> Result<Self> {
        let failed = |error| cannot_open(path, error);
        let found = fs::metadata(path).map_err(failed)?;
        let block = FileType::from_raw_mode(found.mode()) == FileType::BlockDevice;
        if !found.is_file() && !block {
            let why = format!("diff storage {} is neither a file nor a block device", path.display());
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(failed)?;
        let size = end_of(&file).map_err(failed)?;
        for range in ranges {
            if range.end() > size {
                let why = format!("range {}@{range} is beyond its end at {size} bytes", path.display());
                return Err(Error::new(ErrorKind::OutOfRange, why).op("open diff storage"));
            }
        }
        let this = Self::new(file, path, AtEnd::Leave, size, ranges)?;
        for range in ranges.iter().filter(|_| !block) {
            let allocate =
                || fallocate(this.file.as_fd(), FallocateFlags::empty(), range.start(), range.len());
            match retry_on_intr(allocate) {
                Ok(()) | Err(Errno::OPNOTSUPP) => {}
                Err(errno) => {
                    let why = format!("cannot allocate range {}@{range}", path.display());
                    return Err(Error::from_io(why, errno.into()).op("open diff storage"));
                }
            }
        }
        Ok(this)
    }

    fn new(file: fs::File, path: &Path, at_end: AtEnd, size: u64, claimed: &[ByteRange]) -> Result<Self> {
        let identity = FileIdentity::of_open(&file).map_err(|error| cannot_open(path, error))?;
        let claim = Claim::new(path, identity, claimed)?;
        // A file system that cannot be asked is taken for one that writes back.
        let tmpfs = fstatfs(&file).is_ok_and(|found| i128::from(found.f_type) == TMPFS_MAGIC);
        Ok(Self {
            file: Arc::new(File::new(OwnedFd::from(file))),
            path: path.to_owned(),
            at_end,
            // A device's node may be on a tmpfs; the device is not.
            written_back: !tmpfs || identity.rdev.is_some(),
            size: AtomicU64::new(size),
            _claim: claim,
        })
    }

    fn with_first(self, step: u64) -> Result<Self> {
        if let Err(error) = self.grow_to(step) {
            self.give_back();
            let why = format!("cannot allocate {step} bytes in {}", self.path.display());
            return Err(Error::from_io(why, error));
        }
        Ok(self)
    }

    fn grow_to(&self, size: u64) -> io::Result<()> {
        self.grow_by(size, |from, len| fallocate(self.file.as_fd(), FallocateFlags::empty(), from, len))
    }

    /// Reserves with `allocate`. A long one is interrupted by any signal, which is no failure.
    fn grow_by(
        &self,
        size: u64,
        mut allocate: impl FnMut(u64, u64) -> rustix::io::Result<()>,
    ) -> io::Result<()> {
        let now = self.size.load(Ordering::Relaxed);
        match retry_on_intr(|| allocate(now, size.saturating_sub(now))) {
            Ok(()) => {}
            // A file system that cannot reserve: space is found, or not, when it is written to.
            Err(Errno::OPNOTSUPP) => retry_on_intr(|| ftruncate(self.file.as_fd(), size))?,
            Err(errno) => return Err(errno.into()),
        }
        self.size.store(size, Ordering::Relaxed);
        Ok(())
    }

    fn write(&self, mut data: &[u8], mut offset: u64) -> io::Result<()> {
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

    fn give_back(&self) {
        if self.at_end == AtEnd::Leave {
            return;
        }
        let unlinked = if self.at_end == AtEnd::Remove { self.unlink() } else { Ok(()) };
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

impl Medium for StoreFile {
    fn location(&self) -> String {
        self.path.display().to_string()
    }

    fn file(&self) -> Option<&Arc<File>> {
        Some(&self.file)
    }

    fn read_at(&self, offset: u64, data: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while let Some(room) = data.get_mut(done..).filter(|room| !room.is_empty()) {
            match pread(self.file.as_fd(), room, offset + done as u64) {
                Ok(0) => return Err(self.failed("read from", io::ErrorKind::UnexpectedEof.into())),
                Ok(bytes) => done += bytes,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.failed("read from", errno.into())),
            }
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.write(data, offset).map_err(|error| self.failed("write to", error))
    }

    fn sync(&self) -> Result<()> {
        if self.written_back {
            retry_on_intr(|| fdatasync(self.file.as_fd()))
                .map_err(|errno| self.failed("write to", errno.into()))?;
        }
        Ok(())
    }

    fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    fn grow(&self, size: u64) -> Result<()> {
        self.grow_to(size).map_err(|error| {
            Error::from_io(format!("cannot grow {} to {size} bytes", self.path.display()), error)
        })
    }

    fn dispose(&self) {
        self.give_back();
    }
}

impl StoreFile {
    fn failed(&self, what: &str, error: io::Error) -> Error {
        Error::from_io(format!("cannot {what} {}", self.path.display()), error)
    }
}

fn cannot_open(path: &Path, error: io::Error) -> Error {
    Error::from_io(format!("cannot open diff storage {}", path.display()), error)
}

/// A file that loses its name at once.
fn unlinked(directory: &Path) -> io::Result<fs::File> {
    let mut number = 0;
    loop {
        let path = directory.join(format!(".bowline-diff-{}-{number}", std::process::id()));
        match OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => return fs::remove_file(&path).map(|()| file),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < NAMES_MAX => number += 1,
            Err(error) => return Err(error),
        }
    }
}

/// Where a file or block device ends.
fn end_of(file: &fs::File) -> io::Result<u64> {
    let mut file = file;
    io::Seek::seek(&mut file, io::SeekFrom::End(0))
}

/// Two storages in one file would overwrite each other's contents.
fn lock(path: &Path, file: &fs::File) -> Result<()> {
    match patiently(Errno::WOULDBLOCK, || flock(file, FlockOperation::NonBlockingLockExclusive)) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => Err(busy(path)),
        // A file system without locks: nothing is known of others.
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOLCK) => Ok(()),
        Err(errno) => {
            Err(Error::from_io(format!("cannot lock diff storage {}", path.display()), errno.into()))
        }
    }
}

/// Tries again for a moment while it is `busy`: what an engine's ring had registered is closed a little later.
fn patiently<T>(busy: Errno, mut attempt: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    let mut tries = 0;
    loop {
        match attempt() {
            Err(errno) if errno == busy && tries < BUSY_TRIES => {
                tries += 1;
                std::thread::sleep(BUSY_PAUSE);
            }
            done => return done,
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
    // One that a killed daemon left is no different from what somebody keeps there.
    let why = format!("diff storage {} exists and is not empty", path.display());
    Err(Error::new(ErrorKind::Invalid, why).hint("remove that file if nobody needs it, or name another"))
}

#[cfg(all(test, not(feature = "shuttle")))]
#[path = "file_tests.rs"]
mod tests;
