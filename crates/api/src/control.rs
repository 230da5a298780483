//! What a daemon must be able to do for the control API.

use std::time::Duration;

use crate::changes::{Changes, ChangesMark, ChangesQuery};
use crate::device::{Device, DeviceAdd, Mount};
use crate::error::Result;
use crate::event::{Event, EventId};
use crate::export::{Export, ExportAdd};
use crate::snapshot::{Snapshot, SnapshotExtend, SnapshotRollback, SnapshotTake};
use crate::status::Status;

/// The verbs of the control API. One method is one route is one verb of the command line.
///
/// Methods block; the server calls each on a thread where that is fine. Requests have passed their `check` before they
/// get here, so names and sizes are well formed; whether they exist and fit is for the implementation to say. The names
/// of devices may be those of images, `SNAPSHOT/DEVICE`.
pub trait Control: Send + Sync + 'static {
    /// The daemon, its limits and all it has.
    fn status(&self) -> Result<Status>;

    /// All devices and images.
    fn device_list(&self) -> Result<Vec<Device>>;
    /// One device or image.
    fn device_show(&self, name: &str) -> Result<Device>;
    /// Adds a device.
    fn device_add(&self, request: DeviceAdd) -> Result<Device>;
    /// Removes a device. Without `force`, one that is exported to a connected client or has snapshots is busy.
    fn device_remove(&self, name: &str, force: bool) -> Result<()>;
    /// Changes a device's size, in bytes. Without `force`, one that would shrink under a connected client is busy.
    fn device_resize(&self, name: &str, size: u64, force: bool) -> Result<Device>;
    /// Begins or ends the tracking of a live device.
    fn device_track(&self, name: &str, enabled: bool) -> Result<Device>;
    /// The file systems that are mounted on this machine from exports of a device or image.
    fn device_mounts(&self, name: &str) -> Result<Vec<Mount>>;

    /// Makes a device or image reachable.
    fn export_add(&self, request: ExportAdd) -> Result<Export>;
    /// All exports.
    fn export_list(&self) -> Result<Vec<Export>>;
    /// Removes an export and closes its connections.
    fn export_remove(&self, id: &str) -> Result<()>;

    /// Takes a snapshot of several devices at one instant.
    fn snapshot_take(&self, request: SnapshotTake) -> Result<Snapshot>;
    /// All snapshots, oldest first.
    fn snapshot_list(&self) -> Result<Vec<Snapshot>>;
    /// One snapshot.
    fn snapshot_show(&self, name: &str) -> Result<Snapshot>;
    /// Removes a snapshot and its images.
    fn snapshot_remove(&self, name: &str) -> Result<()>;
    /// Adds diff storage to a snapshot.
    fn snapshot_extend(&self, name: &str, request: SnapshotExtend) -> Result<Snapshot>;
    /// Begins to put devices back to a snapshot; the answer tells how far each is.
    fn snapshot_rollback(&self, name: &str, request: SnapshotRollback) -> Result<Snapshot>;

    /// What changed on a device.
    fn changes(&self, query: ChangesQuery) -> Result<Changes>;
    /// Counts a range of a tracked device as changed.
    fn changes_mark(&self, device: &str, request: ChangesMark) -> Result<()>;

    /// The oldest `max` kept events after `since`.
    fn events(&self, since: EventId, max: usize) -> Result<Vec<Event>>;
    /// As `events`, but when there are none yet, waits up to `timeout` for one. May answer with none.
    fn wait_events(&self, since: EventId, timeout: Duration) -> Result<Vec<Event>>;

    /// Counters and gauges in the OpenMetrics text form.
    fn metrics_text(&self) -> Result<String>;
}
