//! Where a snapshot's diff storage is to be, and where it must not be.
//!
//! Ranges may lie on the devices that are taken, and are then left out of what is preserved and tracked. On any other
//! device of this daemon they would be written to behind its back, and a file that *is* a device even more so: refused.

use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use bowline_api::snapshot::LIMIT_DEFAULT;
use bowline_api::{ApiError, ErrorKind, Source, StoreSpec};
use bowline_block::ByteRange;
use bowline_filter::cow;

use crate::daemon::Daemon;
use crate::error::failed;
use crate::tables::DeviceEntry;

/// Bytes a file grows by when nothing else is said.
const STEP_DEFAULT: u64 = 64 << 20;

/// The diff storage that was asked for. What a path is, is seen by what is there.
pub(super) fn spec_of(
    store: &StoreSpec,
    limit: Option<u64>,
    step: Option<u64>,
) -> Result<cow::StoreSpec, ApiError> {
    let kind = match store {
        StoreSpec::Memory => cow::StoreKind::Memory,
        StoreSpec::Ranges(ranges) => {
            let ranges = ranges.iter().map(|one| {
                let path = std::path::absolute(&one.path).unwrap_or_else(|_| one.path.clone());
                (path, ByteRange::new(one.offset, one.length))
            });
            cow::StoreKind::Ranges(ranges.collect())
        }
        StoreSpec::Path(path) => {
            let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            match std::fs::metadata(&path).map(|found| found.file_type()) {
                Ok(found) if found.is_dir() => cow::StoreKind::Directory(path),
                Ok(found) if found.is_block_device() => cow::StoreKind::BlockDevice(path),
                // Whatever is wrong with it is said when it is opened.
                _ => cow::StoreKind::File(path),
            }
        }
    };
    // What has its size gives all of it.
    let all = matches!(kind, cow::StoreKind::BlockDevice(_) | cow::StoreKind::Ranges(_));
    let limit = limit.unwrap_or(if all { u64::MAX } else { LIMIT_DEFAULT });
    Ok(cow::StoreSpec { kind, limit, step: step.unwrap_or(STEP_DEFAULT.min(limit)) })
}

/// The file or block device that a device is over.
fn identity_of(entry: &DeviceEntry) -> Option<cow::FileIdentity> {
    let asked = entry.asked.as_ref()?;
    match asked.source.parse() {
        Ok(Source::Path(path)) => cow::FileIdentity::of(&path).ok(),
        _ => None,
    }
}

fn paths_of(spec: &cow::StoreSpec) -> Vec<&Path> {
    match &spec.kind {
        cow::StoreKind::Memory => Vec::new(),
        cow::StoreKind::File(path) | cow::StoreKind::Directory(path) | cow::StoreKind::BlockDevice(path) => {
            vec![path]
        }
        cow::StoreKind::Ranges(ranges) => ranges.iter().map(|(path, _)| path.as_path()).collect(),
    }
}

impl Daemon {
    /// Whether the storage may be where it is to be; for each of the devices that are taken, which of its ranges it takes.
    pub(super) fn check_storage(
        &self,
        what: &str,
        spec: &cow::StoreSpec,
        taken: &[DeviceEntry],
    ) -> Result<Vec<Vec<ByteRange>>, ApiError> {
        if let Some(state) = &self.state {
            paths_of(spec).into_iter().try_for_each(|path| state.refuse_own(what, path))?;
        }
        let all: Vec<DeviceEntry> =
            self.read().devices.values().filter(|entry| entry.asked.is_some()).cloned().collect();
        for entry in &all {
            let (Some(identity), name) = (identity_of(entry), entry.device.name()) else { continue };
            spec.check_origin(name, &identity).map_err(|error| failed(what, &error))?;
            let is_taken = taken.iter().any(|taken| taken.device.name() == name);
            if !is_taken && !spec.ranges_on(&identity).is_empty() {
                let why = format!("diff storage {} is on device {name}", spec.kind.location());
                let hint = "take that device too, or name another place";
                return Err(ApiError::new(ErrorKind::InvalidRequest, what, why, hint));
            }
        }
        let ranges = |entry| identity_of(entry).map(|identity| spec.ranges_on(&identity)).unwrap_or_default();
        Ok(taken.iter().map(ranges).collect())
    }

    /// Tells a device's tracker which ranges are diff storage's now.
    pub(super) fn exclude_from_tracking(&self, entry: &DeviceEntry, coming: &[ByteRange]) {
        let (Some(tracker), Some(identity)) = (entry.origin.tracker(), identity_of(entry)) else { return };
        let tables = self.read();
        let held = tables.snapshots_of(entry.device.name());
        let mut ranges: Vec<ByteRange> =
            held.flat_map(|snapshot| snapshot.taken.storage().ranges_on(&identity)).collect();
        drop(tables);
        ranges.extend(coming);
        ranges.sort_unstable();
        ranges.dedup();
        tracker.exclude(&ranges);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(path: &Path) -> cow::StoreKind {
        spec_of(&StoreSpec::Path(path.to_owned()), None, None).unwrap().kind
    }

    #[test]
    fn a_path_is_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(kind(folder.path()), cow::StoreKind::Directory(folder.path().to_owned()));
        let file = folder.path().join("file");
        assert_eq!(kind(&file), cow::StoreKind::File(file));
    }

    #[test]
    fn what_has_a_size_gives_all_of_it_unless_told() {
        let spec = |text: &str, limit| spec_of(&text.parse().unwrap(), limit, None).unwrap();
        assert_eq!((spec("mem", None).limit, spec("mem", None).step), (1 << 30, 64 << 20));
        assert_eq!(spec("ranges:/dev/x@0+1M", None).limit, u64::MAX);
        let small = spec("ranges:/dev/x@0+1M", Some(4096));
        assert_eq!((small.limit, small.step), (4096, 4096));
    }
}
