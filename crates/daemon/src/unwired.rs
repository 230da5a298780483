//! What the parts of this build cannot do: refused, rather than done by halves.

use bowline_api::{
    ApiError, ChangesMark, Device, DeviceAdd, ErrorKind, Mount, OnFull, Snapshot, SnapshotExtend,
    SnapshotRollback, SnapshotTake, StoreSpec,
};

use crate::daemon::Daemon;

fn unsupported(what: &str) -> ApiError {
    ApiError::new(ErrorKind::Unsupported, what, "this build cannot do it", "use a newer one")
}

pub(crate) fn check_add(request: &DeviceAdd) -> Result<(), ApiError> {
    if request.track { Err(unsupported("track a device")) } else { Ok(()) }
}

pub(crate) fn check_take(request: &SnapshotTake) -> Result<(), ApiError> {
    let odd = request.persistent || request.freeze || request.on_full == OnFull::Hold;
    let ranges = matches!(request.store, StoreSpec::Ranges(_));
    if odd || ranges { Err(unsupported("take such a snapshot")) } else { Ok(()) }
}

impl Daemon {
    pub(crate) fn device_track(&self, name: &str, _: bool) -> Result<Device, ApiError> {
        self.read().device(name)?;
        Err(unsupported("track a device"))
    }

    pub(crate) fn device_mounts(&self, name: &str) -> Result<Vec<Mount>, ApiError> {
        self.read().device(name)?;
        Err(unsupported("find mounts of a device"))
    }

    pub(crate) fn changes_mark(&self, name: &str, _: ChangesMark) -> Result<(), ApiError> {
        self.read().device(name)?;
        Err(unsupported("mark a device"))
    }

    pub(crate) fn snapshot_extend(&self, name: &str, _: &SnapshotExtend) -> Result<Snapshot, ApiError> {
        self.read().snapshot(name)?;
        Err(unsupported("extend a snapshot"))
    }

    pub(crate) fn snapshot_rollback(&self, name: &str, _: &SnapshotRollback) -> Result<Snapshot, ApiError> {
        self.read().snapshot(name)?;
        Err(unsupported("roll back to a snapshot"))
    }
}
