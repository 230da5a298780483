//! Snapshots for people.

use bowline_api::units::{ByteSize, TimeSpan};
use bowline_api::{OnFull, Rollback, RollbackState, Snapshot, SnapshotState, StoreKind};

use crate::cli::Table;

/// The table of `snapshot list` and `status`.
pub(in crate::cmd) fn list(snapshots: &[Snapshot]) -> Table {
    let mut table = Table::new(&["NAME", "STATE", "TAKEN", ">USED", ">LIMIT", "STORE", "DEVICES"]);
    for snapshot in snapshots {
        let devices: Vec<&str> = snapshot.devices.iter().map(|device| device.name.as_str()).collect();
        table.row([
            snapshot.name.clone(),
            state(snapshot),
            snapshot.taken_at.to_string(),
            ByteSize(snapshot.store.used).human(),
            ByteSize(snapshot.store.limit).human(),
            store(snapshot),
            devices.join(","),
        ]);
    }
    table
}

/// The state, with its reason where it has one.
fn state(snapshot: &Snapshot) -> String {
    let state = match snapshot.state {
        SnapshotState::Active => "active",
        SnapshotState::Failed => "failed",
        SnapshotState::Removing => "removing",
    };
    match &snapshot.reason {
        Some(reason) => format!("{state} ({reason})"),
        None => state.to_owned(),
    }
}

fn store(snapshot: &Snapshot) -> String {
    place(snapshot.store.kind, snapshot.store.location.as_deref())
}

fn place(kind: StoreKind, location: Option<&str>) -> String {
    let kind = match kind {
        StoreKind::Mem => "mem",
        StoreKind::File => "file",
        StoreKind::Directory => "directory",
        StoreKind::Block => "block",
        StoreKind::Ranges => "ranges",
    };
    match location {
        // Ranges begin with what they are.
        Some(location) if location.starts_with(&format!("{kind}:")) => location.to_owned(),
        Some(location) => format!("{kind} {location}"),
        None => kind.to_owned(),
    }
}

/// `root: 1.5G of 4G are back at nightly`.
pub(in crate::cmd) fn rollback_line(rollback: &Rollback) -> String {
    let Rollback { snapshot, device, done, total, .. } = rollback;
    let (done, total) = (ByteSize(*done).human(), ByteSize(*total).human());
    match rollback.state {
        RollbackState::Running => format!("{device}: {done} of {total} are back at {snapshot}"),
        RollbackState::Done => format!("{device}: back at {snapshot}, {total} were put back"),
        RollbackState::Failed => {
            let why = rollback.reason.as_deref().unwrap_or("no reason is given");
            format!("{device}: failed after {done} of {total}: {why}")
        }
    }
}

pub(super) fn details(snapshot: &Snapshot) -> Table {
    let mut table = Table::pairs();
    table.pair("name", &snapshot.name);
    table.pair("id", snapshot.id);
    table.pair("state", state(snapshot));
    table.pair("taken at", snapshot.taken_at);
    table.pair("frozen for", format_args!("{} us", snapshot.frozen_us));
    table.pair("store", store(snapshot));
    let (used, limit) = (ByteSize(snapshot.store.used).human(), ByteSize(snapshot.store.limit).human());
    let steps = match snapshot.store.step {
        0 => String::new(),
        step => format!(", in steps of {}", ByteSize(step).human()),
    };
    table.pair("used", format_args!("{used} of {limit}{steps}"));
    if snapshot.stores.len() > 1 {
        for part in &snapshot.stores {
            let place = place(part.kind, part.location.as_deref());
            table.pair("part", format_args!("{place}, up to {}", ByteSize(part.limit).human()));
        }
    }
    table.pair(
        "when full",
        match (snapshot.on_full, snapshot.hold_timeout_ms) {
            (OnFull::Drop, _) => "the snapshot fails, devices go on".to_owned(),
            (OnFull::Hold, None) => "writers wait".to_owned(),
            (OnFull::Hold, Some(limit)) => {
                let limit = TimeSpan(std::time::Duration::from_millis(limit));
                format!("writers wait up to {limit}")
            }
        },
    );
    table.pair("persistent", if snapshot.persistent { "yes" } else { "no" });
    for path in &snapshot.frozen_file_systems {
        table.pair("frozen", path);
    }
    for rollback in &snapshot.rollback {
        table.pair("rollback", rollback_line(rollback));
    }
    for device in &snapshot.devices {
        table.pair(
            "image",
            format_args!(
                "{}, {}, {} preserved, epoch {} of generation {}",
                device.image,
                ByteSize(device.size).human(),
                ByteSize(device.preserved).human(),
                device.epoch,
                device.generation
            ),
        );
    }
    table
}
