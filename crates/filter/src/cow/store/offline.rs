//! Storage that was kept, looked at while nobody uses it: nothing is written, claimed or grown.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bowline_block::{ByteRange, Error, ErrorKind, Result};
use uuid::Uuid;

use super::super::granule::GRANULE_BYTES;
use super::super::segment::{SEGMENT_BYTES, SEGMENT_SLOTS};
use super::kept::{LABEL_BYTES, label};
use super::spec::{StoreKind, StoreSpec};

/// See the module. Segments are where `volume` puts them.
pub struct KeptStore {
    parts: Vec<Part>,
}

/// A run of segments in one place.
struct Part {
    first: u32,
    places: u32,
    file: File,
    path: PathBuf,
    offset: u64,
}

impl KeptStore {
    /// Opens a storage by its id and what a journal finds it by.
    ///
    /// # Errors
    /// *Corrupt* for text that names no storage, and for a place that holds another; what the operating system says.
    pub fn open(id: Uuid, specs: &[String]) -> Result<Self> {
        let mut this = Self { parts: Vec::new() };
        for text in specs {
            this.add(&StoreSpec::from_text(text)?)?;
        }
        let mut found = [0; LABEL_BYTES];
        this.read(0, 0, &mut found)?;
        if found != label(id) {
            let what = this.parts.first().map(|part| part.path.display().to_string()).unwrap_or_default();
            let why = format!("what is in {what} is not the diff storage {id}");
            return Err(Error::new(ErrorKind::Corrupt, why));
        }
        Ok(this)
    }

    /// The files and devices that a storage is in.
    #[must_use]
    pub fn paths(specs: &[String]) -> Vec<PathBuf> {
        let kinds = specs.iter().filter_map(|text| StoreSpec::from_text(text).ok()).map(|spec| spec.kind);
        kinds
            .flat_map(|kind| match kind {
                StoreKind::File(path) | StoreKind::BlockDevice(path) => vec![path],
                StoreKind::Ranges(ranges) => ranges.into_iter().map(|(path, _)| path).collect(),
                StoreKind::Memory | StoreKind::Directory(_) => Vec::new(),
            })
            .collect()
    }

    /// Reads from the beginning of a slot.
    ///
    /// # Errors
    /// *Corrupt* when there is no such place, or the file ends before it; what the operating system says.
    pub fn read(&self, segment: u32, slot: u8, data: &mut [u8]) -> Result<()> {
        let has = |part: &&Part| segment.checked_sub(part.first).is_some_and(|local| local < part.places);
        let corrupt = |why: String| Error::new(ErrorKind::Corrupt, why);
        let part = self.parts.iter().find(has).filter(|_| u32::from(slot) < SEGMENT_SLOTS);
        let part = part.ok_or_else(|| corrupt(format!("there is no slot {slot} of segment {segment}")))?;
        let local = u64::from(segment - part.first);
        let at = part.offset + local * SEGMENT_BYTES + u64::from(slot) * GRANULE_BYTES;
        match part.file.read_exact_at(data, at) {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                Err(corrupt(format!("{} ends before byte {at}", part.path.display())))
            }
            Err(error) => Err(Error::from_io(format!("cannot read {}", part.path.display()), error)),
            Ok(()) => Ok(()),
        }
    }

    fn add(&mut self, spec: &StoreSpec) -> Result<()> {
        let StoreSpec { kind, limit, .. } = spec;
        match kind {
            StoreKind::File(path) => self.part(path, 0, *limit),
            StoreKind::BlockDevice(path) => {
                let size = open(path)?.seek(SeekFrom::End(0));
                let size = size.map_err(|error| cannot_open(path, error))?;
                self.part(path, 0, size.min(*limit))
            }
            StoreKind::Ranges(ranges) => self.ranges(ranges, *limit),
            StoreKind::Memory | StoreKind::Directory(_) => {
                Err(Error::new(ErrorKind::Corrupt, "it does not outlive a process"))
            }
        }
    }

    fn ranges(&mut self, ranges: &[(PathBuf, ByteRange)], limit: u64) -> Result<()> {
        let mut paths: Vec<&PathBuf> = ranges.iter().map(|(path, _)| path).collect();
        paths.sort_unstable();
        paths.dedup();
        let mut left = limit;
        for path in paths {
            for (_, range) in ranges.iter().filter(|(other, _)| other == path) {
                let len = range.len().min(left) / SEGMENT_BYTES * SEGMENT_BYTES;
                self.part(path, range.start(), len)?;
                left -= len;
            }
        }
        Ok(())
    }

    fn part(&mut self, path: &Path, offset: u64, bytes: u64) -> Result<()> {
        let first = self.parts.last().map_or(0, |part| part.first.saturating_add(part.places));
        let room = u64::from(u32::MAX - first);
        let places = u32::try_from((bytes / SEGMENT_BYTES).min(room)).unwrap_or(0);
        if places > 0 {
            self.parts.push(Part { first, places, file: open(path)?, path: path.to_owned(), offset });
        }
        Ok(())
    }
}

fn cannot_open(path: &Path, error: std::io::Error) -> Error {
    Error::from_io(format!("cannot open {}", path.display()), error)
}

fn open(path: &Path) -> Result<File> {
    // What is there now may be anything, also a pipe that would be waited for.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = opened.map_err(|error| cannot_open(path, error))?;
    let kind = file.metadata().map_err(|error| cannot_open(path, error))?.file_type();
    if kind.is_file() || kind.is_block_device() {
        return Ok(file);
    }
    let why = format!("{} is neither a file nor a block device", path.display());
    Err(Error::new(ErrorKind::Invalid, why))
}
