//! What the parts of this build cannot do: refused, rather than done by halves.

use bowline_api::{ApiError, ErrorKind, Snapshot, SnapshotRollback, SnapshotTake};

use crate::daemon::Daemon;

fn unsupported(what: &str) -> ApiError {
    ApiError::new(ErrorKind::Unsupported, what, "this build cannot do it", "use a newer one")
}

pub(crate) fn check_take(request: &SnapshotTake) -> Result<(), ApiError> {
    if request.persistent { Err(unsupported("take such a snapshot")) } else { Ok(()) }
}

impl Daemon {
    pub(crate) fn snapshot_rollback(&self, name: &str, _: &SnapshotRollback) -> Result<Snapshot, ApiError> {
        self.read().snapshot(name)?;
        Err(unsupported("roll back to a snapshot"))
    }
}
