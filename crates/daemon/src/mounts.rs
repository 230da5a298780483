//! File systems that stand on devices of ours: found by reads that the device must see, frozen for the instant of a take,
//! and no place for the device's own diff storage.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bowline_api::{ApiError, ErrorKind, Mount, Source};
use bowline_block::{ByteRange, Filter, Store};
use bowline_device::freeze_all;
use bowline_filter::cow;
use bowline_filter::probe::{PROBE_ALTITUDE, ReadProbe};
use bowline_kernel::freeze::FrozenFs;
use bowline_kernel::probe::{BackedMounts, ReadWatcher, mounts_of, stands_on_device};
use bowline_kernel::{ancestors, freeze};

use crate::daemon::{Daemon, FREEZE_LIMIT};
use crate::error::failed;
use crate::tables::DeviceEntry;

/// How long each look at a device that may be ours can take.
const PROBE_LIMIT: Duration = Duration::from_secs(2);

/// What the probe in a device's stack sees.
struct Watcher(Arc<ReadProbe>);

impl ReadWatcher for Watcher {
    fn clear(&self) {
        self.0.clear();
    }

    fn saw(&self, range: ByteRange) -> bool {
        self.0.saw(range)
    }
}

/// How long a device is waited for whose writers may be held.
const HELD_LIMIT: Duration = Duration::from_millis(200);

impl Daemon {
    pub(crate) fn device_mounts(&self, name: &str) -> Result<Vec<Mount>, ApiError> {
        let entry = self.read().device(name)?.clone();
        let found = self.backed_mounts(&entry, &format!("find what is mounted from {name}"))?;
        let described = found.mounts.iter().map(|one| Mount {
            path: one.mount.mount_point.to_string_lossy().into_owned(),
            file_system: one.mount.fs_type.clone(),
            source: one.mount.device.path.to_string_lossy().into_owned(),
            offset: one.offset,
        });
        Ok(described.collect())
    }

    /// The file systems that are mounted from the device's exports.
    fn backed_mounts(&self, entry: &DeviceEntry, what: &str) -> Result<BackedMounts, ApiError> {
        // Whom nobody is connected to nobody has mounted.
        if self.read().clients_of(entry.device.name()) == 0 {
            return Ok(BackedMounts::default());
        }
        let size = entry.device.geometry().size;
        self.watched(entry, what, FREEZE_LIMIT, |watcher| mounts_of(size, watcher, PROBE_LIMIT))
    }

    /// Runs `look` with a probe above everything else in the device's stack.
    fn watched<T>(
        &self,
        entry: &DeviceEntry,
        what: &str,
        patience: Duration,
        look: impl FnOnce(&dyn ReadWatcher) -> bowline_block::Result<T>,
    ) -> Result<T, ApiError> {
        let _alone = self.probing();
        let frozen = |limit| freeze_all(std::slice::from_ref(&entry.device), limit);
        let probe = ReadProbe::new();
        let filter: Arc<dyn Filter> = probe.clone();
        let mut attached = None;
        for frozen in &frozen(patience).map_err(|error| failed(what, &error))? {
            let id = frozen.attach(filter.clone(), PROBE_ALTITUDE, None);
            attached = Some(id.map_err(|error| failed(what, &error))?);
        }
        let found = look(&Watcher(probe));
        for frozen in &frozen(FREEZE_LIMIT).map_err(|error| failed(what, &error))? {
            if let Some(id) = attached.take() {
                frozen.detach(id).map_err(|error| failed(what, &error))?;
            }
        }
        found.map_err(|error| failed(what, &error))
    }

    /// Freezes every file system that is mounted from exports of the devices.
    pub(crate) fn freeze_mounts(
        &self,
        what: &str,
        origins: &[DeviceEntry],
        limit: Duration,
    ) -> Result<Vec<FrozenFs>, ApiError> {
        let mut mount_points: Vec<PathBuf> = Vec::new();
        for entry in origins {
            let found = self.backed_mounts(entry, what)?;
            if let Some(unclear) = found.unclear.first() {
                let why = format!(
                    "whether {} stands on {} cannot be told now",
                    unclear.mount_point.display(),
                    entry.device.name()
                );
                let hint = "try again when there is less load, or take it without --freeze";
                return Err(ApiError::new(ErrorKind::Busy, what, why, hint));
            }
            mount_points.extend(found.mounts.into_iter().map(|one| one.mount.mount_point));
        }
        mount_points.sort_unstable();
        mount_points.dedup();
        freeze::freeze_all(&mount_points, limit).map_err(|error| failed(what, &error))
    }

    /// Refuses diff storage in a file system that stands on one of the devices: the copy of a block would need a copy of
    /// its own, without end. Writers that wait for that very storage let nobody look at what is mounted from their device:
    /// where they `may_wait`, that is not insisted on.
    pub(crate) fn check_ancestors(
        &self,
        what: &str,
        spec: &cow::StoreSpec,
        origins: &[DeviceEntry],
        may_wait: bool,
    ) -> Result<(), ApiError> {
        for path in paths_of(&spec.kind) {
            for entry in origins {
                let source = entry.asked.as_ref().and_then(|asked| asked.source.parse().ok());
                let own = match &source {
                    // Ranges of the device itself are left out of what is preserved.
                    Some(Source::Path(source)) if is_same(path, source) => continue,
                    Some(Source::Path(source)) => ancestors::stands_on(path, source),
                    _ => Ok(None),
                };
                let mut found = own.map_err(|error| failed(what, &error))?;
                if found.is_none() && self.read().clients_of(entry.device.name()) > 0 {
                    let size = entry.device.geometry().size;
                    let look = |watcher: &dyn ReadWatcher| stands_on_device(path, size, watcher, PROBE_LIMIT);
                    let patience = if may_wait { HELD_LIMIT } else { FREEZE_LIMIT };
                    found = match self.watched(entry, what, patience, look) {
                        Err(error) if may_wait && error.kind == ErrorKind::Timeout => None,
                        found => found?,
                    };
                }
                if let Some(chain) = found {
                    let why = format!("diff storage would be on {} itself: {chain}", entry.device.name());
                    let hint = "name a place that does not stand on it, or ranges: of the device";
                    return Err(ApiError::new(ErrorKind::InvalidRequest, what, why, hint));
                }
            }
        }
        Ok(())
    }
}

fn is_same(path: &Path, source: &Path) -> bool {
    let identity = |path| cow::FileIdentity::of(path).ok();
    identity(path).zip(identity(source)).is_some_and(|(one, other)| one.is_same(&other))
}

/// Every file, folder and device of a storage, once.
fn paths_of(kind: &cow::StoreKind) -> Vec<&Path> {
    let mut paths: Vec<&Path> = match kind {
        cow::StoreKind::Memory => Vec::new(),
        cow::StoreKind::File(path) | cow::StoreKind::Directory(path) | cow::StoreKind::BlockDevice(path) => {
            vec![path]
        }
        cow::StoreKind::Ranges(ranges) => ranges.iter().map(|(path, _)| path.as_path()).collect(),
    };
    paths.sort_unstable();
    paths.dedup();
    paths
}
