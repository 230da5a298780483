//! `bowline status`: the daemon, its limits and their use, and all it has.

use std::collections::BTreeMap;

use bowline_api::{Absent, Engine, Limit, Status};
use bowline_io::EngineKind;

use crate::daemon::Daemon;
use crate::snapshot::SnapshotEntry;
use crate::tables::AbsentDevice;

impl Daemon {
    pub(crate) fn describe_status(&self) -> Status {
        let devices = self.device_list();
        let tables = self.read();
        let listen = tables.listeners.iter().map(|listener| listener.address.to_string()).collect();
        let exports = self.describe_exports(&tables, None);
        let snapshots: Vec<_> = tables.snapshots.iter().map(SnapshotEntry::describe).collect();
        let limits = self.limits(&devices, &snapshots);
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            engine: match self.queues.engine() {
                EngineKind::Uring => Engine::Uring,
                EngineKind::Sync => Engine::Sync,
            },
            queues: u32::try_from(self.queues.handles().len()).unwrap_or(u32::MAX),
            pid: std::process::id(),
            started_at: self.started_at,
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            listen,
            state: self.state.as_ref().map(|folder| folder.path().display().to_string()),
            limits,
            absent: tables.absent.iter().map(describe_absent).collect(),
            devices,
            exports,
            snapshots,
        }
    }

    /// Every bound of the daemon that can be reached, with its use (I9).
    fn limits(
        &self,
        devices: &[bowline_api::Device],
        snapshots: &[bowline_api::Snapshot],
    ) -> BTreeMap<String, Limit> {
        let tables = self.read();
        let servers = || tables.listeners.iter().filter_map(|listener| listener.server.as_ref());
        let connections = servers().map(|server| server.connection_count() as u64).sum();
        let connections_max = servers().map(|server| server.connections_max() as u64).sum();
        let (events, events_max) = self.events.fill();
        let in_flight = devices.iter().map(|device| device.io.in_flight).sum();
        let in_flight_max = connections_max * bowline_export_nbd::REQUESTS_PER_CONNECTION_MAX as u64;
        let diff = snapshots.iter().map(|snapshot| snapshot.store.used).sum();
        let diff_max = snapshots.iter().map(|snapshot| snapshot.store.limit).sum();
        let index = tables.devices.values().map(|entry| entry.origin.index_bytes()).sum();
        let preserved: u64 = tables.snapshots.iter().map(SnapshotEntry::preserved_blocks).sum();
        let mut limits = BTreeMap::new();
        let mut add = |name: &str, used: u64, limit: u64| {
            limits.insert(name.to_owned(), Limit { used, limit });
        };
        add("connections", connections, connections_max);
        add("requests_in_flight", in_flight, in_flight_max);
        add("events_kept", events as u64, events_max as u64);
        add("diff_storage_bytes", diff, diff_max);
        add("snapshot_index_bytes", index, diff_max / bowline_filter::cow::GRANULE_BYTES * 8 + index);
        add("preserved_blocks", preserved, diff_max / bowline_filter::cow::GRANULE_BYTES);
        add("memory_bytes", resident_bytes(), memory_bytes());
        limits
    }
}

fn describe_absent(absent: &AbsentDevice) -> Absent {
    let AbsentDevice { asked, reason } = absent.clone();
    Absent { name: asked.name, source: asked.source, reason }
}

/// Resident memory of this process.
fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}

/// Memory of the machine.
fn memory_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    total.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
}
