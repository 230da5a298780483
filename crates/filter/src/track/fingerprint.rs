//! What a device looks like from outside: to notice that it was written to while nobody tracked.
//!
//! Two fingerprints that agree do not prove that nothing was written; docs/format/tracker.md says what gets past.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::Path;

use bowline_block::{ByteRange, Error, Result};

use super::disk::bytes::{Reader, corrupt, crc32c, put_text};

/// Bytes of a sample.
pub const SAMPLE_BYTES: u64 = 4096;
/// Samples at pseudo-random places; the first and the last block come on top.
pub const SAMPLES: u64 = 62;

/// What can be told of changes without reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Traces {
    /// The times of a regular file, in nanoseconds since 1970.
    Times {
        /// Of its last change of contents.
        modified_ns: i128,
        /// Of its last change of any kind.
        changed_ns: i128,
    },
    /// The counter of a block device, which begins anew at each boot.
    Written {
        /// The boot it counts from.
        boot_id: String,
        /// Sectors written since.
        sectors: u64,
    },
    /// Nothing.
    None,
}

/// What a device looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// Its bytes.
    pub size: u64,
    /// What can be told without reading.
    pub traces: Traces,
    /// CRC-32C of the samples, one after another.
    pub samples_crc: u32,
}

impl Fingerprint {
    /// Takes the fingerprint of a device of `size` bytes, of which `read` fills buffers.
    ///
    /// # Errors
    /// What `read` says.
    pub fn take(
        size: u64,
        traces: Traces,
        mut read: impl FnMut(ByteRange, &mut [u8]) -> Result<()>,
    ) -> Result<Self> {
        let mut crcs = Vec::new();
        let mut data = vec![0; usize::try_from(SAMPLE_BYTES).unwrap_or(0)];
        for range in sample_ranges(size) {
            let room = data.get_mut(..usize::try_from(range.len()).unwrap_or(0)).unwrap_or_default();
            room.fill(0);
            read(range, room)?;
            crcs.extend(crc32c(&[room]).to_le_bytes());
        }
        Ok(Self { size, traces, samples_crc: crc32c(&[&crcs]) })
    }

    /// Takes the fingerprint of a regular file or block device.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn of_path(path: &Path) -> Result<Self> {
        let failed = |error| Error::from_io(format!("cannot look at {}", path.display()), error);
        let file = File::open(path).map_err(failed)?;
        let found = file.metadata().map_err(failed)?;
        let (size, traces) = if found.file_type().is_block_device() {
            let size = std::io::Seek::seek(&mut &file, std::io::SeekFrom::End(0)).map_err(failed)?;
            (size, written_sectors(found.rdev()))
        } else {
            let ns = |seconds: i64, ns: i64| i128::from(seconds) * 1_000_000_000 + i128::from(ns);
            let modified_ns = ns(found.mtime(), found.mtime_nsec());
            let changed_ns = ns(found.ctime(), found.ctime_nsec());
            (found.len(), Traces::Times { modified_ns, changed_ns })
        };
        Self::take(size, traces, |range, room| file.read_exact_at(room, range.start()).map_err(failed))
    }

    /// What of `now` differs from what was noted.
    #[must_use]
    pub fn difference(&self, now: &Self) -> Option<String> {
        if self.size != now.size {
            return Some(format!("it had {} bytes and has {} now", self.size, now.size));
        }
        match (&self.traces, &now.traces) {
            (Traces::Times { modified_ns, .. }, Traces::Times { modified_ns: other, .. })
                if modified_ns != other =>
            {
                return Some("the file was written to: it has another modification time".to_owned());
            }
            (Traces::Times { changed_ns, .. }, Traces::Times { changed_ns: other, .. })
                if changed_ns != other =>
            {
                return Some("the file was changed: it has another change time".to_owned());
            }
            (
                Traces::Written { boot_id, sectors },
                Traces::Written { boot_id: other_boot, sectors: other_sectors },
            ) if boot_id == other_boot && sectors != other_sectors => {
                return Some(format!(
                    "the device was written to: {sectors} sectors then, {other_sectors} now"
                ));
            }
            (before, now) if std::mem::discriminant(before) != std::mem::discriminant(now) => {
                return Some("the device is of another kind".to_owned());
            }
            _ => {}
        }
        (self.samples_crc != now.samples_crc).then(|| "sampled blocks of it have other contents".to_owned())
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.size.to_le_bytes());
        out.extend(self.samples_crc.to_le_bytes());
        match &self.traces {
            Traces::None => out.push(0),
            Traces::Times { modified_ns, changed_ns } => {
                out.push(1);
                out.extend(modified_ns.to_le_bytes());
                out.extend(changed_ns.to_le_bytes());
            }
            Traces::Written { boot_id, sectors } => {
                out.push(2);
                put_text(out, boot_id);
                out.extend(sectors.to_le_bytes());
            }
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let (size, samples_crc) = (reader.u64()?, reader.u32()?);
        let traces = match reader.u8()? {
            0 => Traces::None,
            1 => Traces::Times {
                modified_ns: i128::from_le_bytes(reader.array()?),
                changed_ns: i128::from_le_bytes(reader.array()?),
            },
            2 => Traces::Written { boot_id: reader.text()?, sectors: reader.u64()? },
            other => return Err(corrupt(format!("its fingerprint is of kind {other}"))),
        };
        Ok(Self { size, traces, samples_crc })
    }
}

/// The places that are looked at: always the same ones for a size, ascending.
fn sample_ranges(size: u64) -> Vec<ByteRange> {
    let blocks = size.div_ceil(SAMPLE_BYTES);
    let Some(last) = blocks.checked_sub(1) else { return Vec::new() };
    let mut state = size ^ 0x9e37_79b9_7f4a_7c15;
    let mut chosen: Vec<u64> = (0..SAMPLES)
        .map(|_| {
            // SplitMix64: any spread will do, as long as it is the same next year.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = state;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (mixed ^ (mixed >> 31)) % blocks
        })
        .chain([0, last])
        .collect();
    chosen.sort_unstable();
    chosen.dedup();
    let range = |block: u64| ByteRange::between(block * SAMPLE_BYTES, ((block + 1) * SAMPLE_BYTES).min(size));
    chosen.into_iter().map(range).collect()
}

/// What the kernel counts of a block device; nothing where it does not say.
fn written_sectors(device: u64) -> Traces {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let stat = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat"));
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    let (Ok(stat), Ok(boot_id)) = (stat, boot_id) else { return Traces::None };
    // The seventh number: sectors written.
    match stat.split_whitespace().nth(6).and_then(|number| number.parse().ok()) {
        Some(sectors) => Traces::Written { boot_id: boot_id.trim().to_owned(), sectors },
        None => Traces::None,
    }
}
