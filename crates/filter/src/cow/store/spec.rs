//! What diff storage is asked for, and what may not be asked for.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use bowline_block::{ByteRange, Error, ErrorKind, Result};

use super::super::segment::SEGMENT_BYTES;
use super::identity::FileIdentity;

/// What the first and last byte of a range are multiples of.
pub const RANGE_ALIGNMENT: u64 = 4096;
/// Ranges one storage may be made of.
pub const RANGES_MAX: usize = 1024;

/// What kind of diff storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// Memory of this process.
    Memory,
    /// A file, made new or found empty. It goes with the storage.
    File(PathBuf),
    /// A file without a name in this directory. It goes with the process at the latest.
    Directory(PathBuf),
    /// A whole block device that nobody else uses. What is on it is lost.
    BlockDevice(PathBuf),
    /// Ranges of files or block devices, also of an origin's own. What is in them is lost.
    Ranges(Vec<(PathBuf, ByteRange)>),
}

/// What diff storage to open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreSpec {
    /// Where it is.
    pub kind: StoreKind,
    /// Bytes it may use; less where a block device or the ranges are smaller.
    pub limit: u64,
    /// Bytes a file grows by at a time; of no effect on what does not grow.
    pub step: u64,
}

impl StoreKind {
    /// Whether it begins small and grows.
    #[must_use]
    pub fn grows(&self) -> bool {
        matches!(self, Self::File(_) | Self::Directory(_))
    }

    /// Where it is: `mem`, a path, or the ranges as the command line takes them.
    #[must_use]
    pub fn location(&self) -> String {
        match self {
            Self::Memory => "mem".to_owned(),
            Self::File(path) | Self::Directory(path) | Self::BlockDevice(path) => path.display().to_string(),
            Self::Ranges(ranges) => {
                let shown: Vec<_> =
                    ranges.iter().map(|(path, range)| format!("{}@{range}", path.display())).collect();
                format!("ranges:{}", shown.join(","))
            }
        }
    }
}

impl StoreSpec {
    /// The parts of that file or device that this storage would write to. They are to be given to the take as excluded
    /// where it is an origin's own source.
    #[must_use]
    pub fn ranges_on(&self, file: &FileIdentity) -> Vec<ByteRange> {
        let StoreKind::Ranges(ranges) = &self.kind else { return Vec::new() };
        let same = |path: &Path| FileIdentity::of(path).is_ok_and(|one| one.is_same(file));
        let mut found: Vec<_> =
            ranges.iter().filter(|(path, _)| same(path)).map(|(_, range)| *range).collect();
        found.sort_unstable();
        found
    }

    /// Whether this storage may be used for a snapshot of an origin whose source is that file or device.
    ///
    /// # Errors
    /// *Invalid* when it is the source itself, or a block device that holds it or lies on it.
    pub fn check_origin(&self, device: &str, source: &FileIdentity) -> Result<()> {
        let refuse = |path: &Path, why: &str| {
            let why = format!("diff storage {} {why} {device}", path.display());
            let hint = "name another place, or free ranges of it: `ranges:PATH@OFFSET+LENGTH`";
            Err(Error::new(ErrorKind::Invalid, why).op("open diff storage").hint(hint))
        };
        match &self.kind {
            StoreKind::File(path) => match FileIdentity::of(path) {
                Ok(own) if own.is_same(source) => refuse(path, "is the file of the origin"),
                _ => Ok(()),
            },
            StoreKind::BlockDevice(path) => match FileIdentity::of(path) {
                Ok(own) if own.is_same(source) => refuse(path, "is the device of the origin"),
                Ok(own) if own.shares_disk(source) => {
                    refuse(path, "shares its sectors with the device of the origin")
                }
                _ => Ok(()),
            },
            StoreKind::Ranges(ranges) => {
                // A partition's own numbers are not those of its disk: nothing would keep the two apart.
                let shared = ranges.iter().find(|(path, _)| {
                    FileIdentity::of(path).is_ok_and(|own| !own.is_same(source) && own.shares_disk(source))
                });
                shared.map_or(Ok(()), |(path, _)| {
                    refuse(path, "shares its sectors, under other numbers, with the device of the origin")
                })
            }
            StoreKind::Memory | StoreKind::Directory(_) => Ok(()),
        }
    }

    /// Whether a snapshot that is held may be extended by this storage, as [`StoreSpec::check_origin`]. Ranges of the
    /// origin itself have to be named at the take: its image has promised what is in them by now.
    ///
    /// # Errors
    /// *Invalid*, as there, and for ranges on the origin.
    pub fn check_extend(&self, device: &str, source: &FileIdentity) -> Result<()> {
        if let Some(range) = self.ranges_on(source).first() {
            let why =
                format!("range {range} is on {device} itself, and the image held promises what is there");
            let hint = "name ranges on an origin when the snapshot is taken, or extend by another place";
            return Err(Error::new(ErrorKind::Invalid, why).op("extend diff storage").hint(hint));
        }
        self.check_origin(device, source)
    }

    /// A file that was made has to be found again after a power cut.
    pub(crate) fn sync_name(&self) -> Result<()> {
        let StoreKind::File(path) = &self.kind else { return Ok(()) };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or_else(|| Path::new("."));
        match File::open(folder).and_then(|folder| folder.sync_all()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::from_io(format!("cannot sync folder {}", folder.display()), error))
            }
            // Not there: the storage is on another medium than this says.
            _ => Ok(()),
        }
    }

    /// As a journal keeps it.
    ///
    /// # Errors
    /// *Invalid* for what does not outlive the process, and for paths that are no text of one line.
    pub(crate) fn to_text(&self) -> Result<String> {
        self.check_kept()?;
        let path = |path: &Path| match path.to_str() {
            Some(text) if !text.contains('\n') => Ok(text.to_owned()),
            _ => {
                let why = format!("diff storage {} has a name that is no text of one line", path.display());
                Err(Error::new(ErrorKind::Invalid, why).op("open diff storage"))
            }
        };
        let Self { limit, step, kind } = self;
        Ok(match kind {
            StoreKind::File(file) => format!("file {limit} {step}\n{}", path(file)?),
            StoreKind::BlockDevice(device) => format!("block {limit} {step}\n{}", path(device)?),
            StoreKind::Ranges(ranges) => {
                let mut text = format!("ranges {limit} {step}");
                for (file, range) in ranges {
                    text += &format!("\n{} {} {}", range.start(), range.len(), path(file)?);
                }
                text
            }
            StoreKind::Memory | StoreKind::Directory(_) => String::new(),
        })
    }

    /// What a journal kept.
    ///
    /// # Errors
    /// *Corrupt* for anything else.
    pub(crate) fn from_text(text: &str) -> Result<Self> {
        let corrupt = || Error::new(ErrorKind::Corrupt, format!("`{text}` names no diff storage"));
        let mut lines = text.split('\n');
        let mut words = lines.next().unwrap_or_default().split(' ');
        let kind = words.next().unwrap_or_default();
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok()).ok_or_else(corrupt);
        let (limit, step) = (number()?, number()?);
        let mut path = || lines.next().filter(|path| !path.is_empty()).map(PathBuf::from).ok_or_else(corrupt);
        let kind = match kind {
            "file" => StoreKind::File(path()?),
            "block" => StoreKind::BlockDevice(path()?),
            "ranges" => {
                let range = |line: &str| {
                    let mut parts = line.splitn(3, ' ');
                    let start = parts.next()?.parse().ok()?;
                    let len: u64 = parts.next()?.parse().ok()?;
                    let end = len.checked_add(start)?;
                    Some((PathBuf::from(parts.next()?), ByteRange::between(start, end)))
                };
                let ranges: Option<Vec<_>> = lines.by_ref().take(RANGES_MAX + 1).map(range).collect();
                StoreKind::Ranges(ranges.ok_or_else(corrupt)?)
            }
            _ => return Err(corrupt()),
        };
        let spec = Self { kind, limit, step };
        spec.check()?;
        Ok(spec)
    }

    /// Whether it can outlive the process.
    pub(super) fn check_kept(&self) -> Result<()> {
        let what = match self.kind {
            StoreKind::Memory => "memory",
            StoreKind::Directory(_) => "an unnamed file",
            _ => return Ok(()),
        };
        let why = format!("diff storage in {what} does not outlive the process");
        Err(Error::new(ErrorKind::Invalid, why)
            .op("open diff storage")
            .hint("name a file, a block device or ranges"))
    }

    /// What can be said without looking at anything.
    pub(super) fn check(&self) -> Result<()> {
        let Self { limit, step, kind } = self;
        let invalid = |why: String| Err(Error::new(ErrorKind::Invalid, why).op("open diff storage"));
        if *limit < SEGMENT_BYTES {
            return invalid(format!("the limit of {limit} bytes is smaller than {SEGMENT_BYTES}, the least"));
        }
        match kind {
            StoreKind::Ranges(ranges) => check_ranges(ranges),
            StoreKind::BlockDevice(_) => Ok(()),
            _ if *step == 0 => invalid("the step must not be 0".to_owned()),
            _ if limit < step => {
                invalid(format!("the limit of {limit} bytes is smaller than a step of {step} bytes"))
            }
            _ => Ok(()),
        }
    }
}

/// What is wrong with ranges by themselves. Those of one file under two names are found when they are claimed.
fn check_ranges(ranges: &[(PathBuf, ByteRange)]) -> Result<()> {
    let refuse = |path: &Path, range: &ByteRange, why: &str| {
        let why = format!("range {}@{range} {why}", path.display());
        Err(Error::new(ErrorKind::Invalid, why).op("open diff storage"))
    };
    if ranges.is_empty() || ranges.len() > RANGES_MAX {
        let why = format!("{} ranges are named, from 1 to {RANGES_MAX} can be", ranges.len());
        return Err(Error::new(ErrorKind::Invalid, why).op("open diff storage"));
    }
    for (at, (path, range)) in ranges.iter().enumerate() {
        if range.is_empty() {
            return refuse(path, range, "is empty");
        }
        if !range.is_aligned_to(RANGE_ALIGNMENT) {
            let why = format!("does not begin and end at multiples of {RANGE_ALIGNMENT} bytes");
            return refuse(path, range, &why);
        }
        let mut earlier = ranges.iter().take(at);
        if let Some((_, other)) = earlier.find(|(name, other)| name == path && other.overlaps(*range)) {
            return refuse(path, range, &format!("overlaps {}@{other}", path.display()));
        }
    }
    if ranges.iter().all(|(_, range)| range.len() < SEGMENT_BYTES) {
        let why = format!("none of the ranges has {SEGMENT_BYTES} bytes, the least of which one can be used");
        return Err(Error::new(ErrorKind::Invalid, why).op("open diff storage"));
    }
    Ok(())
}
