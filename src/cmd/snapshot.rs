//! `bowline snapshot`: images of devices, taken at one instant.

use bowline_api::units::ByteSize;
use bowline_api::{OnFull, Snapshot, SnapshotState, SnapshotTake, StoreKind, StoreSpec};
use clap::{Args, Subcommand, ValueEnum};

use super::removed;
use crate::cli::{Global, Output, Result, Table, absolute};

#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotVerb {
    /// Take a snapshot of one or several devices at one instant, and print its name
    #[command(after_help = "Examples:\n  bowline snapshot take root\n  \
                            bowline snapshot take root data --name nightly --store /var/tmp/nightly.diff --limit 20G")]
    Take(Take),
    /// List snapshots, oldest first
    #[command(after_help = "Example:\n  bowline snapshot list --json")]
    List,
    /// Show one snapshot
    #[command(after_help = "Example:\n  bowline snapshot show nightly")]
    Show {
        /// A snapshot
        name: String,
    },
    /// Remove a snapshot and its images
    #[command(after_help = "Example:\n  bowline snapshot remove nightly")]
    Remove {
        /// A snapshot
        name: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Take {
    /// Devices to take together
    #[arg(required = true, value_name = "DEVICE")]
    devices: Vec<String>,
    /// Name of the snapshot [default: made from the time of take]
    #[arg(long)]
    name: Option<String>,
    /// Where old contents go: mem, or the PATH of a file
    #[arg(long, default_value = "mem")]
    store: StoreSpec,
    /// Space old contents may take
    #[arg(long, value_name = "SIZE", default_value = "1G")]
    limit: ByteSize,
    /// Space the store grows by at a time
    #[arg(long, value_name = "SIZE")]
    step: Option<ByteSize>,
    /// When the store is full: the snapshot fails and the devices go on
    #[arg(long, value_enum, default_value = "drop")]
    on_full: OnFullArg,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OnFullArg {
    Drop,
}

impl Take {
    fn request(self) -> Result<SnapshotTake> {
        Ok(SnapshotTake {
            devices: self.devices,
            name: self.name,
            store: match self.store {
                StoreSpec::Memory => StoreSpec::Memory,
                StoreSpec::Path(path) => StoreSpec::Path(absolute(&path)?),
            },
            limit: Some(self.limit.0),
            step: self.step.map(|step| step.0),
            on_full: match self.on_full {
                OnFullArg::Drop => OnFull::Drop,
            },
        })
    }
}

impl SnapshotVerb {
    pub(crate) fn run(self, global: &Global, output: &mut Output<'_>) -> Result<()> {
        match self {
            SnapshotVerb::Take(take) => {
                let snapshot = global.client()?.snapshot_take(&take.request()?)?;
                output.show(&snapshot, |output, snapshot| output.line(&snapshot.name))
            }
            SnapshotVerb::List => {
                let snapshots = global.client()?.snapshot_list()?;
                output.show(snapshots.as_slice(), |output, snapshots| output.table(&list(snapshots)))
            }
            SnapshotVerb::Show { name } => {
                let snapshot = global.client()?.snapshot_show(&name)?;
                output.show(&snapshot, |output, snapshot| output.table(&details(snapshot)))
            }
            SnapshotVerb::Remove { name } => {
                global.client()?.snapshot_remove(&name)?;
                removed(output, &name)
            }
        }
    }
}

/// The table of `snapshot list` and `status`.
pub(super) fn list(snapshots: &[Snapshot]) -> Table {
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
    let kind = match snapshot.store.kind {
        StoreKind::Mem => "mem",
        StoreKind::File => "file",
    };
    match &snapshot.store.location {
        Some(location) => format!("{kind} {location}"),
        None => kind.to_owned(),
    }
}

fn details(snapshot: &Snapshot) -> Table {
    let mut table = Table::pairs();
    table.pair("name", &snapshot.name);
    table.pair("id", snapshot.id);
    table.pair("state", state(snapshot));
    table.pair("taken at", snapshot.taken_at);
    table.pair("frozen for", format_args!("{} us", snapshot.frozen_us));
    table.pair("store", store(snapshot));
    let (used, limit) = (ByteSize(snapshot.store.used).human(), ByteSize(snapshot.store.limit).human());
    table.pair(
        "used",
        format_args!("{used} of {limit}, in steps of {}", ByteSize(snapshot.store.step).human()),
    );
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
