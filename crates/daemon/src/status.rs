//! `bowline status`: the daemon, its limits and their use, and all it has.

use std::collections::BTreeMap;

use bowline_api::{Absent, Engine, Limit, Status};
use bowline_block::Store;
use bowline_filter::cow::GRANULE_BYTES;
use bowline_io::EngineKind;

use crate::daemon::Daemon;
use crate::snapshot::SnapshotEntry;
use crate::tables::{AbsentDevice, Listener, Tables};

impl Daemon {
    pub(crate) fn describe_status(&self) -> Status {
        let devices = self.device_list();
        let tables = self.read();
        let listen = tables.listeners.iter().map(listens_at).collect();
        let exports = self.describe_exports(&tables, None);
        let snapshots: Vec<_> = tables.snapshots.iter().map(|entry| entry.describe(&tables)).collect();
        let limits = self.limits(&tables, &devices, &snapshots);
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
        tables: &Tables,
        devices: &[bowline_api::Device],
        snapshots: &[bowline_api::Snapshot],
    ) -> BTreeMap<String, Limit> {
        let servers = || tables.listeners.iter().filter_map(|listener| listener.server.as_ref());
        let connections = servers().map(|server| server.connection_count() as u64).sum();
        let connections_max = servers().map(|server| server.connections_max() as u64).sum();
        let (events, events_max) = self.events.fill();
        let in_flight = devices.iter().map(|device| device.io.in_flight).sum();
        let in_flight_max = connections_max * bowline_export_nbd::REQUESTS_PER_CONNECTION_MAX as u64;
        let diff = snapshots.iter().map(|snapshot| snapshot.store.used).sum();
        let diff_max = snapshots.iter().map(|snapshot| snapshot.store.limit).sum();
        let memories = || tables.devices.values().filter_map(|entry| entry.memory.as_ref());
        let memory = memories().map(|store| store.allocated_bytes()).sum();
        let memory_max = memories().map(|store| store.geometry().size).sum();
        let index = tables.devices.values().map(|entry| entry.origin.index_bytes()).sum();
        let trackers: Vec<u64> = tables.devices.values().map(|entry| entry.origin.tracker_bytes()).collect();
        let tracked = trackers.iter().filter(|bytes| **bytes > 0).count() as u64;
        let taken = || snapshots.iter().flat_map(|snapshot| &snapshot.devices);
        let preserved: u64 = tables.snapshots.iter().map(SnapshotEntry::preserved_blocks).sum();
        let mut limits = BTreeMap::new();
        let mut add = |name: &str, used: u64, limit: u64| {
            limits.insert(name.to_owned(), Limit { used, limit });
        };
        add("connections", connections, connections_max);
        add("requests_in_flight", in_flight, in_flight_max);
        add("events_kept", events as u64, events_max as u64);
        add("diff_storage_bytes", diff, diff_max);
        add("snapshot_index_bytes", index, taken().map(|device| index_bytes_max(device.size)).sum());
        // Blocks that are zero are preserved without taking diff storage: a take has at most all blocks.
        add("preserved_blocks", preserved, taken().map(|device| device.size.div_ceil(GRANULE_BYTES)).sum());
        add("tracker_map_bytes", trackers.iter().sum(), tracked * TRACKER_BYTES_MAX);
        add("memory_device_bytes", memory, memory_max);
        add("memory_bytes", resident_bytes() + memory, memory_bytes());
        limits
    }
}

/// The most memory of one tracker: the map of the current epoch, the next one's, and the closed ones.
const TRACKER_BYTES_MAX: u64 = 3 * (64 << 20);

fn describe_absent(absent: &AbsentDevice) -> Absent {
    let AbsentDevice { asked, reason } = absent.clone();
    Absent { name: asked.name, source: asked.source, reason }
}

/// Where a listener is reached, with the port that was chosen.
fn listens_at(listener: &Listener) -> String {
    match &listener.server {
        Some(server) => server.address().to_string(),
        None => listener.address.to_string(),
    }
}

/// The most the index of one take of a device of that size can come to, when all of it was preserved.
fn index_bytes_max(size: u64) -> u64 {
    /// A list of slots, four bytes each, that has just doubled.
    const SLOT_BYTES: u64 = 8;
    /// Each 64 blocks have a segment of diff storage.
    const SEGMENT_BLOCKS: u64 = 64;
    const SEGMENT_ENTRY_BYTES: u64 = 128;
    /// Each 16 MiB have bits, the lists themselves, and who waits for a copy.
    const ZONE_BYTES: u64 = 16 << 20;
    const ZONE_ENTRY_BYTES: u64 = 4096;
    /// Each 32 GiB have a table of those.
    const TABLE_BYTES: u64 = 32 << 30;
    const TABLE_ENTRY_BYTES: u64 = 64 << 10;
    let blocks = size.div_ceil(GRANULE_BYTES);
    [
        blocks.saturating_mul(SLOT_BYTES),
        (blocks / SEGMENT_BLOCKS + 1).saturating_mul(SEGMENT_ENTRY_BYTES),
        size.div_ceil(ZONE_BYTES).saturating_mul(ZONE_ENTRY_BYTES),
        size.div_ceil(TABLE_BYTES).saturating_mul(TABLE_ENTRY_BYTES),
    ]
    .into_iter()
    .fold(0, u64::saturating_add)
}

/// Resident memory of this process.
fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}

/// Memory of the machine; 0 where that cannot be told.
pub(crate) fn memory_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    total.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
}
