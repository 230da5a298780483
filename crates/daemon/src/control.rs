//! The control API's calls, each to its verb.

use std::time::Duration;

use bowline_api::event::EVENTS_MAX;
use bowline_api::{
    Changes, ChangesMark, ChangesQuery, Control, Device, DeviceAdd, Event, EventId, Export, ExportAdd, Mount,
    Result, Snapshot, SnapshotExtend, SnapshotRollback, SnapshotTake, Status,
};

use crate::daemon::Daemon;

impl Control for Daemon {
    fn status(&self) -> Result<Status> {
        Ok(self.describe_status())
    }

    fn device_list(&self) -> Result<Vec<Device>> {
        Ok(self.device_list())
    }

    fn device_show(&self, name: &str) -> Result<Device> {
        self.device_show(name)
    }

    fn device_add(&self, request: DeviceAdd) -> Result<Device> {
        self.device_add(&request)
    }

    fn device_remove(&self, name: &str, force: bool) -> Result<()> {
        self.device_remove(name, force)
    }

    fn device_resize(&self, name: &str, size: u64, force: bool) -> Result<Device> {
        self.device_resize(name, size, force)
    }

    fn device_track(&self, name: &str, enabled: bool) -> Result<Device> {
        self.device_track(name, enabled)
    }

    fn device_mounts(&self, name: &str) -> Result<Vec<Mount>> {
        self.device_mounts(name)
    }

    fn export_add(&self, request: ExportAdd) -> Result<Export> {
        self.export_add(request)
    }

    fn export_list(&self) -> Result<Vec<Export>> {
        Ok(self.export_list())
    }

    fn export_remove(&self, id: &str) -> Result<()> {
        self.export_remove(id)
    }

    fn snapshot_take(&self, request: SnapshotTake) -> Result<Snapshot> {
        self.snapshot_take(&request)
    }

    fn snapshot_list(&self) -> Result<Vec<Snapshot>> {
        Ok(self.snapshot_list())
    }

    fn snapshot_show(&self, name: &str) -> Result<Snapshot> {
        self.snapshot_show(name)
    }

    fn snapshot_remove(&self, name: &str) -> Result<()> {
        self.snapshot_remove(name)
    }

    fn snapshot_extend(&self, name: &str, request: SnapshotExtend) -> Result<Snapshot> {
        self.snapshot_extend(name, &request)
    }

    fn snapshot_rollback(&self, name: &str, request: SnapshotRollback) -> Result<Snapshot> {
        self.snapshot_rollback(name, &request)
    }

    fn changes(&self, query: ChangesQuery) -> Result<Changes> {
        self.changes_of(&query)
    }

    fn changes_mark(&self, device: &str, request: ChangesMark) -> Result<()> {
        self.changes_mark(device, request)
    }

    fn events(&self, since: EventId, max: usize) -> Result<Vec<Event>> {
        Ok(self.events.since(since, max))
    }

    fn wait_events(&self, since: EventId, timeout: Duration) -> Result<Vec<Event>> {
        Ok(self.events.wait(since, EVENTS_MAX as usize, timeout))
    }

    fn metrics_text(&self) -> Result<String> {
        self.metrics()
    }
}
