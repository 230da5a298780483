//! Where a snapshot's diff storage shall be: `mem`, `PATH`, `ranges:PATH@OFFSET+LENGTH[,…]`.
//!
//! The wire carries the text, so that the API says exactly what the command line says. What a path is (a file, a
//! directory, a block device) is decided by what is there when the store is opened.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::units::ByteSize;

/// A range of bytes of a file or block device.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StoreRange {
    /// The file or block device.
    pub path: PathBuf,
    /// First byte.
    pub offset: u64,
    /// Bytes; more than none.
    pub length: u64,
}

/// Diff storage, as asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum StoreSpec {
    /// Memory of the daemon.
    #[default]
    Memory,
    /// A file (made if it is missing), a directory, or a block device: what is there.
    Path(PathBuf),
    /// Ranges of files or block devices, also of the origin itself.
    Ranges(Vec<StoreRange>),
}

/// Most ranges of one store.
pub const RANGES_MAX: usize = 4096;

/// Why a store was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a store: {why}: write mem, a PATH or ranges:PATH@OFFSET+LENGTH,…")]
pub struct StoreError {
    text: String,
    why: String,
}

impl FromStr for StoreSpec {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, StoreError> {
        parse(text).map_err(|why| StoreError { text: text.chars().take(160).collect(), why })
    }
}

fn parse(text: &str) -> Result<StoreSpec, String> {
    match text {
        "mem" => Ok(StoreSpec::Memory),
        "" => Err("it is empty".to_owned()),
        _ if text.contains('\0') => Err("a path cannot contain a zero byte".to_owned()),
        _ if text.starts_with("mem:") => Err("the size of a memory store is its limit (--limit)".to_owned()),
        _ => match text.strip_prefix("ranges:") {
            Some(ranges) => parse_ranges(ranges).map(StoreSpec::Ranges),
            None => Ok(StoreSpec::Path(PathBuf::from(text))),
        },
    }
}

/// `PATH@OFFSET+LENGTH`, several between commas; one without a path is of the same path as the one before.
fn parse_ranges(text: &str) -> Result<Vec<StoreRange>, String> {
    let mut ranges: Vec<StoreRange> = Vec::new();
    for one in text.split(',') {
        let (path, range) = match (one.rsplit_once('@'), ranges.last()) {
            (Some(("", _)), _) => return Err(format!("the path of {one:?} is empty")),
            (Some((path, range)), _) => (PathBuf::from(path), range),
            (None, Some(before)) => (before.path.clone(), one),
            (None, None) => return Err(format!("{one:?} has no @OFFSET")),
        };
        let (offset, length) = range.split_once('+').ok_or_else(|| format!("{one:?} has no +LENGTH"))?;
        let size =
            |text: &str| text.parse::<ByteSize>().map_err(|_| format!("{text:?} is not a size as 64M"));
        let (ByteSize(offset), ByteSize(length)) = (size(offset)?, size(length)?);
        if length == 0 {
            return Err(format!("the length of {one:?} is 0"));
        }
        if offset.checked_add(length).is_none() {
            return Err(format!("{one:?} ends beyond 64 bits"));
        }
        ranges.push(StoreRange { path, offset, length });
        if ranges.len() > RANGES_MAX {
            return Err(format!("it has more than {RANGES_MAX} ranges"));
        }
    }
    Ok(ranges)
}

impl fmt::Display for StoreRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}+{}", self.path.display(), ByteSize(self.offset), ByteSize(self.length))
    }
}

impl fmt::Display for StoreSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreSpec::Memory => f.write_str("mem"),
            StoreSpec::Path(path) => write!(f, "{}", path.display()),
            StoreSpec::Ranges(ranges) => {
                for (at, range) in ranges.iter().enumerate() {
                    write!(f, "{}{range}", if at == 0 { "ranges:" } else { "," })?;
                }
                Ok(())
            }
        }
    }
}

impl StoreSpec {
    /// The same with every path as `change` has it, for a client that stands in another folder than the daemon.
    ///
    /// # Errors
    /// What `change` says.
    pub fn with_paths<E>(self, change: impl Fn(&Path) -> Result<PathBuf, E>) -> Result<Self, E> {
        Ok(match self {
            StoreSpec::Memory => StoreSpec::Memory,
            StoreSpec::Path(path) => StoreSpec::Path(change(&path)?),
            StoreSpec::Ranges(ranges) => {
                let changed = |range: StoreRange| Ok(StoreRange { path: change(&range.path)?, ..range });
                StoreSpec::Ranges(ranges.into_iter().map(changed).collect::<Result<_, E>>()?)
            }
        })
    }
}

impl Serialize for StoreSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for StoreSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
