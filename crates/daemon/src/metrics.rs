//! `/metrics`: what the devices, snapshots and connections do, in the OpenMetrics text form.

use bowline_api::{ApiError, Device, ErrorKind, Snapshot, SnapshotState, Status};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::daemon::Daemon;

type Labels = Vec<(&'static str, String)>;
type Gauges = Family<Labels, Gauge>;

impl Daemon {
    /// The registry is made for each scrape: the numbers live in the devices, not in it.
    pub(crate) fn metrics(&self) -> Result<String, ApiError> {
        let status = self.describe_status();
        let mut registry = Registry::with_prefix("bowline");
        add_daemon(&mut registry, &status);
        add_devices(&mut registry, &status.devices);
        add_snapshots(&mut registry, &status.snapshots);
        let mut text = String::new();
        encode(&mut text, &registry)
            .map_err(|error| ApiError::new(ErrorKind::Internal, "write metrics", error, "report this"))?;
        Ok(text)
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn add_daemon(registry: &mut Registry, status: &Status) {
    registry.register("uptime", "How long the daemon has run", gauge(status.uptime_ms / 1000));
    let (used, limits) = (Gauges::default(), Gauges::default());
    for (name, limit) in &status.limits {
        let labels = vec![("limit", name.clone())];
        used.get_or_create(&labels).set(signed(limit.used));
        limits.get_or_create(&labels).set(signed(limit.limit));
    }
    registry.register("limit_used", "How much of a limit is in use", used);
    registry.register("limit", "The limits of the daemon", limits);
}

fn gauge(value: u64) -> Gauge {
    let gauge = Gauge::default();
    gauge.set(signed(value));
    gauge
}

fn add_devices(registry: &mut Registry, devices: &[Device]) {
    let (sizes, in_flight, clients) = (Gauges::default(), Gauges::default(), Gauges::default());
    for device in devices {
        let labels = vec![("device", device.name.clone())];
        sizes.get_or_create(&labels).set(signed(device.size));
        in_flight.get_or_create(&labels).set(signed(device.io.in_flight));
        let connected = device.exports.iter().map(|export| i64::from(export.clients)).sum();
        clients.get_or_create(&labels).set(connected);
    }
    registry.register_with_unit("device_size", "Size of a device", Unit::Bytes, sizes);
    let (tracked, map_bytes) = (Gauges::default(), Gauges::default());
    for device in devices.iter().filter(|device| device.tracking.enabled) {
        let labels = vec![("device", device.name.clone())];
        tracked.get_or_create(&labels).set(1);
        map_bytes.get_or_create(&labels).set(signed(device.tracking.map_bytes.unwrap_or(0)));
    }
    registry.register("device_tracked", "Devices whose changes are tracked", tracked);
    registry.register_with_unit("device_tracker", "Memory of a device's tracker", Unit::Bytes, map_bytes);
    registry.register("device_in_flight", "Requests inside a device", in_flight);
    registry.register("device_clients", "Connections to a device's exports", clients);
    type Count = fn(&Device) -> u64;
    let counters: [(&str, &str, Count); 8] = [
        ("device_reads", "Reads", |device| device.io.reads),
        ("device_writes", "Writes", |device| device.io.writes),
        ("device_flushes", "Flushes", |device| device.io.flushes),
        ("device_discards", "Discards", |device| device.io.discards),
        ("device_write_zeroes", "Write-zeroes", |device| device.io.write_zeroes),
        ("device_read_bytes", "Bytes read", |device| device.io.read_bytes),
        ("device_written_bytes", "Bytes written", |device| device.io.written_bytes),
        ("device_errors", "Requests that failed", |device| device.io.errors),
    ];
    for (name, help, count) in counters {
        let family = Family::<Labels, Counter>::default();
        for device in devices {
            family.get_or_create(&vec![("device", device.name.clone())]).inc_by(count(device));
        }
        registry.register(name, help, family);
    }
    registry.register("devices", "Devices and images", gauge(devices.len() as u64));
}

fn add_snapshots(registry: &mut Registry, snapshots: &[Snapshot]) {
    let (used, limit, active) = (Gauges::default(), Gauges::default(), Gauges::default());
    for snapshot in snapshots {
        let labels = vec![("snapshot", snapshot.name.clone())];
        used.get_or_create(&labels).set(signed(snapshot.store.used));
        limit.get_or_create(&labels).set(signed(snapshot.store.limit));
        active.get_or_create(&labels).set(i64::from(snapshot.state == SnapshotState::Active));
    }
    registry.register_with_unit("snapshot_store_used", "Diff storage in use", Unit::Bytes, used);
    registry.register_with_unit("snapshot_store_limit", "Diff storage that may be used", Unit::Bytes, limit);
    registry.register("snapshot_active", "Whether a snapshot's images can be read", active);
}
