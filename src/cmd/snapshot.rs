//! `bowline snapshot`: images of devices, taken at one instant.

mod rollback;
mod tell;

use bowline_api::units::{ByteSize, TimeSpan};
use bowline_api::{OnFull, SnapshotExtend, SnapshotTake, StoreSpec};
use clap::{Args, Subcommand, ValueEnum};

pub(super) use tell::{list, rollback_line};

use super::removed;
use crate::cli::{Failure, Global, Output, Result, absolute};

#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotVerb {
    /// Take a snapshot of one or several devices at one instant, and print its name
    #[command(after_help = "Examples:\n  bowline snapshot take root\n  \
                            bowline snapshot take root data --name nightly --store /var/tmp/nightly.diff --limit 20G\n  \
                            bowline snapshot take root --store /srv/keep.diff --persistent\n  \
                            bowline snapshot take root --store ranges:/dev/sdb@0+10G --on-full hold --hold-timeout 30s\n  \
                            bowline snapshot take root --freeze --freeze-timeout 5s")]
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
    /// Add diff storage to a snapshot that is held
    #[command(
        after_help = "Examples:\n  bowline snapshot extend nightly /mnt/more/nightly.diff --limit 50G\n  \
                            bowline snapshot extend nightly ranges:/dev/sdb@10G+10G"
    )]
    Extend {
        /// A snapshot
        name: String,
        /// Where more old contents may go: mem, a PATH, or ranges:PATH@OFFSET+LENGTH[,...]
        store: StoreSpec,
        /// Space they may take there [default: 1G; all of a block device or of ranges]
        #[arg(long, value_name = "SIZE")]
        limit: Option<ByteSize>,
    },
    /// Put devices back to a snapshot, while they are in use
    #[command(after_help = "Examples:\n  bowline snapshot rollback nightly\n  \
                            bowline snapshot rollback nightly root --no-wait\n\n\
                            A device reads as the snapshot at once, and can be written; the rest is put back meanwhile. Other \
                            snapshots of it stay exact.\n\n\
                            One that failed goes on when it is begun again. Where that cannot be, `bowline device remove \
                            --force` gives it up with the device, whose contents are a mix of both then.")]
    Rollback(rollback::Back),
}

#[derive(Debug, Args)]
pub(crate) struct Take {
    /// Devices to take together
    #[arg(required = true, value_name = "DEVICE")]
    devices: Vec<String>,
    /// Name of the snapshot [default: made from the time of take]
    #[arg(long)]
    name: Option<String>,
    /// Where old contents go: mem, the PATH of a file (made if it is missing), directory or block device, or
    /// ranges:PATH@OFFSET+LENGTH[,...]
    #[arg(long, default_value = "mem")]
    store: StoreSpec,
    /// Space old contents may take [default: 1G; all of a block device or of ranges]
    #[arg(long, value_name = "SIZE")]
    limit: Option<ByteSize>,
    /// Space the store grows by at a time
    #[arg(long, value_name = "SIZE")]
    step: Option<ByteSize>,
    /// When the store is full, fails or stalls: the snapshot fails and the devices go on; or writers are held
    #[arg(long, value_enum, default_value = "drop")]
    on_full: OnFullArg,
    /// How long writers are held before the snapshot fails after all; with `--on-full hold`
    #[arg(long, value_name = "TIME")]
    hold_timeout: Option<TimeSpan>,
    /// Survive restarts of the daemon, its crash and power loss
    #[arg(long)]
    persistent: bool,
    /// Freeze file systems that are mounted from the devices' exports for the instant
    #[arg(long)]
    freeze: bool,
    /// How long freezing may take before it is undone and the take fails [default: 10s]
    #[arg(long, value_name = "TIME", requires = "freeze")]
    freeze_timeout: Option<TimeSpan>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OnFullArg {
    Drop,
    Hold,
}

impl Take {
    fn request(self) -> Result<SnapshotTake> {
        if self.hold_timeout.is_some() && !matches!(self.on_full, OnFullArg::Hold) {
            let message = "--hold-timeout is given, and writers are not held: add --on-full hold; see \
                           `bowline snapshot take --help`";
            return Err(Failure::Usage(message.to_owned()));
        }
        Ok(SnapshotTake {
            devices: self.devices,
            name: self.name,
            store: self.store.with_paths(absolute)?,
            limit: self.limit.map(|limit| limit.0),
            step: self.step.map(|step| step.0),
            on_full: match self.on_full {
                OnFullArg::Drop => OnFull::Drop,
                OnFullArg::Hold => OnFull::Hold,
            },
            hold_timeout_ms: self.hold_timeout.map(TimeSpan::as_millis),
            persistent: self.persistent,
            freeze: self.freeze,
            freeze_timeout_ms: self.freeze_timeout.map(TimeSpan::as_millis),
        })
    }
}

impl SnapshotVerb {
    pub(crate) fn run(self, global: &Global, output: &mut Output<'_>) -> Result<()> {
        match self {
            SnapshotVerb::Take(take) => {
                let request = take.request()?;
                let snapshot = global.client()?.snapshot_take(&request)?;
                output.show(&snapshot, |output, snapshot| output.line(&snapshot.name))
            }
            SnapshotVerb::List => {
                let snapshots = global.client()?.snapshot_list()?;
                output.show(snapshots.as_slice(), |output, snapshots| output.table(&list(snapshots)))
            }
            SnapshotVerb::Show { name } => {
                let snapshot = global.client()?.snapshot_show(&name)?;
                output.show(&snapshot, |output, snapshot| output.table(&tell::details(snapshot)))
            }
            SnapshotVerb::Remove { name } => {
                global.client()?.snapshot_remove(&name)?;
                removed(output, &name)
            }
            SnapshotVerb::Extend { name, store, limit } => {
                let request =
                    SnapshotExtend { store: store.with_paths(absolute)?, limit: limit.map(|limit| limit.0) };
                let snapshot = global.client()?.snapshot_extend(&name, &request)?;
                output.show(&snapshot, |output, snapshot| {
                    let store = &snapshot.store;
                    output.line(format_args!("{} {} {}", snapshot.name, store.used, store.limit))
                })
            }
            SnapshotVerb::Rollback(back) => back.run(global, output),
        }
    }
}
