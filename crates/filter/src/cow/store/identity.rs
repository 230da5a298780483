//! Which file a path or descriptor is, whatever its name, and who uses which part of it.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bowline_block::{ByteRange, Error, ErrorKind, Result};
use rustix::fs::{FileType, fstat, major, minor};

/// A file or a block device, by what the kernel knows it as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileIdentity {
    /// The file system it is on.
    pub dev: u64,
    /// Its number there.
    pub ino: u64,
    /// The device it is, for a block device.
    pub rdev: Option<u64>,
}

impl FileIdentity {
    /// What is at that path now.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn of(path: &Path) -> io::Result<Self> {
        let found = fs::metadata(path)?;
        let block = FileType::from_raw_mode(found.mode()) == FileType::BlockDevice;
        Ok(Self { dev: found.dev(), ino: found.ino(), rdev: block.then(|| found.rdev()) })
    }

    /// What is open.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn of_open(file: impl AsFd) -> io::Result<Self> {
        let found = fstat(file)?;
        let block = FileType::from_raw_mode(found.st_mode) == FileType::BlockDevice;
        Ok(Self { dev: found.st_dev, ino: found.st_ino, rdev: block.then_some(found.st_rdev) })
    }

    /// Whether the two are one, also under two names or device nodes.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        match (self.rdev, other.rdev) {
            (Some(own), Some(theirs)) => own == theirs,
            (None, None) => (self.dev, self.ino) == (other.dev, other.ino),
            _ => false,
        }
    }

    /// Whether two block devices are partitions of one disk that overlap, or a disk and a partition of it. Two
    /// different partitions share nothing.
    #[must_use]
    pub fn shares_disk(&self, other: &Self) -> bool {
        let (Some(own), Some(theirs)) = (self.rdev, other.rdev) else { return false };
        own == theirs || whole_disk(own) == Some(theirs) || whole_disk(theirs) == Some(own)
    }
}

/// The disk that this device is a partition of.
fn whole_disk(rdev: u64) -> Option<u64> {
    let folder = PathBuf::from(format!("/sys/dev/block/{}:{}", major(rdev), minor(rdev)));
    if !folder.join("partition").exists() {
        return None;
    }
    let numbers = fs::read_to_string(folder.join("../dev")).ok()?;
    let (major, minor) = numbers.trim().split_once(':')?;
    Some(rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?))
}

/// What the storages of this process write to. Two in one place would overwrite each other's contents, and a lock on a
/// whole file would keep apart ranges that can live side by side.
static CLAIMS: Mutex<Vec<(FileIdentity, ByteRange)>> = Mutex::new(Vec::new());

fn claims() -> MutexGuard<'static, Vec<(FileIdentity, ByteRange)>> {
    CLAIMS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The right to write to ranges of a file, until it is dropped.
pub(super) struct Claim {
    file: FileIdentity,
    ranges: Vec<ByteRange>,
}

impl Claim {
    /// Claims them, or none.
    pub(super) fn new(path: &Path, file: FileIdentity, ranges: &[ByteRange]) -> Result<Self> {
        let mut claims = claims();
        let mut claim = Self { file, ranges: Vec::new() };
        for &range in ranges {
            let taken = claims.iter().find(|(other, taken)| other.is_same(&file) && taken.overlaps(range));
            if let Some((_, taken)) = taken {
                let own = claim.ranges.contains(taken);
                let kind = if own { ErrorKind::Invalid } else { ErrorKind::Busy };
                let by = if own { "names them twice" } else { "is in use by another storage" };
                let why = format!("diff storage {} {by}: {range} overlaps {taken}", path.display());
                drop(claims);
                return Err(Error::new(kind, why).op("open diff storage"));
            }
            claims.push((file, range));
            claim.ranges.push(range);
        }
        Ok(claim)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut claims = claims();
        for own in &self.ranges {
            if let Some(at) = claims.iter().position(|(file, range)| *file == self.file && range == own) {
                claims.swap_remove(at);
            }
        }
    }
}
