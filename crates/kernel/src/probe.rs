//! Which mounted file systems stand on a device of ours, through whatever export and client.
//!
//! Design notes: between our device and a mounted file system lie programs and drivers of others: a FUSE client and a
//! loop device, the kernel's NBD client, device-mapper. None of them tells what is below. But reads go through all of
//! them: random places are read from the candidate, and our device sees them or does not.
//!
//! What comes between may read more than was asked for (read-ahead, larger blocks), so places count as seen when reads
//! *cover* them. It may also have them cached, and then nothing is seen: the cache of a loop file is dropped where
//! possible, and every round takes new places. And others read at the same time, a backup perhaps everything: therefore
//! each round has decoys, places that are not read, and says nothing when those were seen, too.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bowline_block::{ByteRange, Error, ErrorKind, Result};

use crate::ancestors::{Ancestor, ancestors, ancestors_of_device};
use crate::mountinfo::DevId;
use crate::mounts::{BlockDevice, MountedDevice, mounted_block_devices};
use crate::within::within;

/// Places read in one round, and decoys beside them.
const READS: usize = 8;
/// What is read of each: the least that any block size allows.
const READ_BYTES: u64 = 4096;
/// Rounds until it is given up, and rounds that must agree.
const ROUNDS_MAX: usize = 6;
const ROUNDS_NEEDED: usize = 2;

/// What a device of ours sees of reads.
pub trait ReadWatcher {
    /// Forgets what was seen.
    fn clear(&self);
    /// Whether reads since then covered this range.
    fn saw(&self, range: ByteRange) -> bool;
}

/// Places of a device that nobody else reads, most likely.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// To be read.
    pub reads: Vec<ByteRange>,
    /// Not to be read.
    pub decoys: Vec<ByteRange>,
}

impl Signature {
    /// Random places of a device of that size, none of them twice.
    ///
    /// # Errors
    /// *Invalid* when the device is too small to have so many; or there are no random numbers to be had.
    pub fn random(size: u64) -> Result<Self> {
        let blocks = size / READ_BYTES;
        if blocks < 16 * READS as u64 {
            return Err(Error::new(ErrorKind::Invalid, format!("{size} bytes are too few for a probe")));
        }
        let mut places: Vec<u64> = Vec::new();
        while places.len() < 2 * READS {
            let block = random()? % blocks;
            // Apart, so that reading ahead from one does not reach the next, where there is room.
            let apart = (blocks / (8 * READS as u64)).clamp(1, 1024);
            if places.iter().all(|place| place.abs_diff(block) >= apart) {
                places.push(block);
            }
        }
        let decoys = places.split_off(READS);
        let ranges = |places: Vec<u64>| {
            places.into_iter().map(|block| ByteRange::new(block * READ_BYTES, READ_BYTES)).collect()
        };
        Ok(Self { reads: ranges(places), decoys: ranges(decoys) })
    }
}

fn random() -> Result<u64> {
    let mut bytes = [0; 8];
    let failed = |error| Error::from_io("cannot read /dev/urandom", error);
    File::open("/dev/urandom").map_err(failed)?.read_exact(&mut bytes).map_err(failed)?;
    Ok(u64::from_ne_bytes(bytes))
}

/// Reads the places of a signature from a block device, past its cache.
///
/// # Errors
/// *Timeout* when the device does not answer within `limit`: the thread is left to it. Or what the device says.
pub fn read_signature(device: &Path, signature: &Signature, limit: Duration) -> Result<()> {
    let (path, reads) = (device.to_owned(), signature.reads.clone());
    within(limit, &format!("reading from {}", device.display()), move || read_all(&path, &reads))
}

fn read_all(path: &Path, reads: &[ByteRange]) -> Result<()> {
    let failed = |error| Error::from_io(format!("cannot read from {}", path.display()), error);
    let flags = libc::O_DIRECT | libc::O_CLOEXEC;
    let device = File::options().read(true).custom_flags(flags).open(path).map_err(failed)?;
    let length = usize::try_from(READ_BYTES).unwrap_or(0);
    let mut memory = vec![0_u8; 2 * length];
    let at = memory.as_ptr().align_offset(length).min(length);
    let Some(buffer) = memory.get_mut(at..at + length) else { return Ok(()) };
    for range in reads {
        device.read_at(buffer, range.start()).map_err(failed)?;
    }
    Ok(())
}

/// Drops the pages of a loop file from the page cache, so that reads reach whoever serves it. What cannot be dropped is
/// left: other rounds look elsewhere.
fn drop_cached(loop_file: &Path, reads: &[ByteRange]) {
    let Ok(file) = File::open(loop_file) else { return };
    for range in reads {
        let length = std::num::NonZeroU64::new(range.len());
        let _ = rustix::fs::fadvise(&file, range.start(), length, rustix::fs::Advice::DontNeed);
    }
}

/// What a probe of one device came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Our device saw the reads.
    Backed,
    /// It did not.
    NotBacked,
    /// It cannot be told: the candidate does not answer, or others read so much that nothing can be made out.
    Unclear,
}

/// Whether a block device stands on the device of `watcher`, byte for byte.
#[must_use]
pub fn probe(candidate: &BlockDevice, watcher: &dyn ReadWatcher, limit: Duration) -> Finding {
    let loop_file = candidate.loop_file.as_deref();
    let candidate = Candidate { path: &candidate.path, size: candidate.size, cached_in: loop_file };
    probe_candidate(&candidate, watcher, limit)
}

/// Something that may be our device.
struct Candidate<'a> {
    path: &'a Path,
    size: u64,
    /// The file whose pages the kernel may have, instead of asking for them.
    cached_in: Option<&'a Path>,
}

fn probe_candidate(candidate: &Candidate<'_>, watcher: &dyn ReadWatcher, limit: Duration) -> Finding {
    let (mut backed, mut unclear) = (0, 0);
    for _ in 0..ROUNDS_MAX {
        match round(candidate, watcher, limit) {
            Ok(Finding::Backed) => backed += 1,
            Ok(Finding::NotBacked) => {}
            Ok(Finding::Unclear) => unclear += 1,
            Err(error) => {
                tracing::warn!(device = %candidate.path.display(), %error, "cannot be probed");
                return Finding::Unclear;
            }
        }
        if backed == ROUNDS_NEEDED {
            return Finding::Backed;
        }
    }
    if unclear > ROUNDS_MAX / 2 || backed > 0 { Finding::Unclear } else { Finding::NotBacked }
}

fn round(candidate: &Candidate<'_>, watcher: &dyn ReadWatcher, limit: Duration) -> Result<Finding> {
    let signature = Signature::random(candidate.size)?;
    if let Some(file) = candidate.cached_in.map(Path::to_owned) {
        let reads = signature.reads.clone();
        within(limit, "dropping cached pages", move || {
            drop_cached(&file, &reads);
            Ok(())
        })?;
    }
    watcher.clear();
    read_signature(candidate.path, &signature, limit)?;
    let seen = |ranges: &[ByteRange]| ranges.iter().filter(|range| watcher.saw(**range)).count();
    let (reads, decoys) = (seen(&signature.reads), seen(&signature.decoys));
    Ok(match (reads == READS, decoys * 2 < READS) {
        (true, true) => Finding::Backed,
        (true, false) => Finding::Unclear,
        (false, _) => Finding::NotBacked,
    })
}

/// A file system that stands on a device of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackedMount {
    /// The file system.
    pub mount: MountedDevice,
    /// The block device that is our device byte for byte: the file system's, or what that is a partition of or mapped to.
    pub whole: PathBuf,
    /// The byte of our device where the file system's device begins; not known when it is mapped.
    pub offset: Option<u64>,
}

/// What was found by [`mounts_of`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackedMounts {
    /// File systems that stand on the device.
    pub mounts: Vec<BackedMount>,
    /// Those of which it could not be told.
    pub unclear: Vec<MountedDevice>,
}

/// The mounted file systems that stand on the device of `watcher`, which has `size` bytes. Each candidate is given
/// `limit` for each of a few rounds.
///
/// # Errors
/// What is mounted cannot be learned.
pub fn mounts_of(size: u64, watcher: &dyn ReadWatcher, limit: Duration) -> Result<BackedMounts> {
    let mut found = BackedMounts::default();
    let mut findings: HashMap<DevId, Finding> = HashMap::new();
    for mount in mounted_block_devices()? {
        for (device, offset) in candidates(&mount.device, size)? {
            let finding = *findings.entry(device.dev).or_insert_with(|| probe(&device, watcher, limit));
            match finding {
                Finding::Backed => {
                    found.mounts.push(BackedMount { mount: mount.clone(), whole: device.path, offset });
                    break;
                }
                Finding::Unclear => found.unclear.push(mount.clone()),
                Finding::NotBacked => {}
            }
        }
    }
    Ok(found)
}

/// Whether `path`, a file or a block device, stands on the device of `watcher`, which has `size` bytes, through whatever
/// export and client; and if so how. For a store that must not lie on its origin; that it does not by plain names is
/// [`crate::ancestors::stands_on`]'s to tell.
///
/// # Errors
/// *Busy* when it cannot be told, with what it was that did not let itself be probed; or as
/// [`crate::ancestors::ancestors`].
pub fn stands_on_device(
    path: &Path,
    size: u64,
    watcher: &dyn ReadWatcher,
    limit: Duration,
) -> Result<Option<String>> {
    let chain = ancestors(path)?;
    for (index, ancestor) in chain.iter().enumerate() {
        let finding = match ancestor {
            Ancestor::Device(device) if is_as_large(device.size, size) => probe(device, watcher, limit),
            // A file that is served, such as nbdfuse makes of an export.
            Ancestor::File(file)
                if is_served(chain.get(index + 1)) && file_size(file, limit)? == Some(size) =>
            {
                probe_candidate(&Candidate { path: file, size, cached_in: Some(file) }, watcher, limit)
            }
            _ => continue,
        };
        let names: Vec<String> = chain.iter().take(index + 1).map(ToString::to_string).collect();
        match finding {
            Finding::Backed => return Ok(Some(names.join(", on "))),
            Finding::NotBacked => {}
            Finding::Unclear => {
                let why = format!("whether {ancestor} is this device cannot be told now");
                return Err(Error::new(ErrorKind::Busy, why));
            }
        }
    }
    Ok(None)
}

/// Clients round off the last block.
fn is_as_large(candidate: u64, size: u64) -> bool {
    candidate <= size && size - candidate < READ_BYTES
}

/// Whether a file on this is made by a program.
fn is_served(file_system: Option<&Ancestor>) -> bool {
    matches!(file_system, Some(Ancestor::FileSystem { fs_type, .. }) if fs_type.starts_with("fuse"))
}

/// The size of a regular file; `None` for what is none or not there.
fn file_size(path: &Path, limit: Duration) -> Result<Option<u64>> {
    let asked = path.to_owned();
    within(limit, &format!("looking at {}", path.display()), move || {
        Ok(std::fs::metadata(&asked).ok().filter(std::fs::Metadata::is_file).map(|meta| meta.len()))
    })
}

/// The block devices that a file system's device stands on, itself included, that are as large as ours: within the last
/// block, which some clients round off. With the offset of the file system's device in each.
fn candidates(device: &BlockDevice, size: u64) -> Result<Vec<(BlockDevice, Option<u64>)>> {
    let mut found = Vec::new();
    for ancestor in ancestors_of_device(device.dev)? {
        match ancestor {
            // What is behind a loop file is another device's affair.
            Ancestor::File(_) | Ancestor::FileSystem { .. } => {}
            Ancestor::Device(one) => {
                let offset = if one.dev == device.dev {
                    Some(0)
                } else {
                    device.partition.filter(|(parent, _)| *parent == one.dev).map(|(_, start)| start)
                };
                if is_as_large(one.size, size) {
                    found.push((one, offset));
                }
            }
        }
    }
    Ok(found)
}
