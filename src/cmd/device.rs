//! `bowline device`: the stacks.

use bowline_api::units::ByteSize;
use bowline_api::{Cache, Continuity, Device, DeviceAdd, Source, Tracking};
use clap::{Args, Subcommand, ValueEnum};

use super::{mode, removed};
use crate::cli::{Global, Output, Result, Table, absolute};

#[derive(Debug, Subcommand)]
pub(crate) enum DeviceVerb {
    /// Add a device
    #[command(after_help = "Examples:\n  bowline device add root /srv/root.img\n  \
                            bowline device add scratch /srv/scratch.img --size 10G\n  \
                            bowline device add data /srv/data.img --track\n  \
                            bowline device add fast mem:1G --block-size 4096")]
    Add(Add),
    /// List devices and images
    #[command(after_help = "Example:\n  bowline device list --json")]
    List,
    /// Show one device or image
    #[command(after_help = "Examples:\n  bowline device show root\n  bowline device show nightly/root")]
    Show {
        /// A device, or an image SNAPSHOT/DEVICE
        name: String,
    },
    /// Remove a device; its contents stay where they are
    #[command(after_help = "Example:\n  bowline device remove root")]
    Remove {
        /// A device
        name: String,
        /// Also when clients are connected or snapshots would fail
        #[arg(long)]
        force: bool,
    },
    /// Change the size of a device
    #[command(after_help = "Example:\n  bowline device resize root 20G")]
    Resize {
        /// A device
        name: String,
        /// The new size
        size: ByteSize,
        /// Also when it shrinks under connected clients
        #[arg(long)]
        force: bool,
    },
    /// Track what changes on a device from now on
    #[command(after_help = "Example:\n  bowline device track root")]
    Track {
        /// A device
        name: String,
    },
    /// Track a device no longer, and forget what was tracked
    #[command(after_help = "Example:\n  bowline device untrack root")]
    Untrack {
        /// A device
        name: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Add {
    /// Name of the new device; also its NBD export name
    name: String,
    /// PATH (regular file or block device), mem:SIZE, null:SIZE or nbd:URI
    source: Source,
    /// Refuse writes
    #[arg(long)]
    read_only: bool,
    /// Logical block size
    #[arg(long, value_name = "BYTES", value_parser = ["512", "4096"])]
    block_size: Option<String>,
    /// Go past the page cache or through it [default: direct for block devices, buffered for files]
    #[arg(long, value_enum)]
    cache: Option<CacheArg>,
    /// Create the file PATH with this size if it is missing
    #[arg(long)]
    size: Option<ByteSize>,
    /// Track what changes: `bowline changes` can tell since every snapshot, also removed ones and after a restart
    #[arg(long, conflicts_with = "read_only")]
    track: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum CacheArg {
    Direct,
    Buffered,
}

impl Add {
    fn request(self) -> Result<DeviceAdd> {
        let source = match self.source {
            Source::Path(path) => Source::Path(absolute(&path)?),
            other => other,
        };
        Ok(DeviceAdd {
            name: self.name,
            source: source.to_string(),
            read_only: self.read_only,
            block_size: self.block_size.and_then(|size| size.parse().ok()),
            cache: self.cache.map(|cache| match cache {
                CacheArg::Direct => Cache::Direct,
                CacheArg::Buffered => Cache::Buffered,
            }),
            size: self.size.map(|size| size.0),
            track: self.track,
        })
    }
}

impl DeviceVerb {
    pub(crate) fn run(self, global: &Global, output: &mut Output<'_>) -> Result<()> {
        match self {
            DeviceVerb::Add(add) => {
                let device = global.client()?.device_add(&add.request()?)?;
                if let Some(notice) = &device.notice {
                    eprintln!("bowline: device {}: {notice}", device.name);
                }
                output.show(&device, |output, device| output.line(&device.name))
            }
            DeviceVerb::List => {
                let devices = global.client()?.device_list()?;
                output.show(devices.as_slice(), |output, devices| output.table(&list(devices)))
            }
            DeviceVerb::Show { name } => {
                let device = global.client()?.device_show(&name)?;
                output.show(&device, |output, device| output.table(&details(device)))
            }
            DeviceVerb::Remove { name, force } => {
                global.client()?.device_remove(&name, force)?;
                removed(output, &name)
            }
            DeviceVerb::Resize { name, size, force } => {
                let device = global.client()?.device_resize(&name, size.0, force)?;
                output.show(&device, |output, device| {
                    output.line(format_args!("{} {}", device.name, device.size))
                })
            }
            DeviceVerb::Track { name } => {
                let device = global.client()?.device_track(&name, true)?;
                output.show(&device, |output, device| output.table(&tracking(&device.tracking)))
            }
            DeviceVerb::Untrack { name } => {
                let device = global.client()?.device_track(&name, false)?;
                output.show(&device, |_, _| Ok(()))
            }
        }
    }
}

/// The table of `device list` and `status`.
pub(super) fn list(devices: &[Device]) -> Table {
    let mut table = Table::new(&["NAME", ">SIZE", ">BLOCK", "MODE", "FILTERS", ">EXPORTS", "SOURCE"]);
    for device in devices {
        table.row([
            device.name.clone(),
            ByteSize(device.size).human(),
            device.block_size.to_string(),
            mode(device.read_only),
            filters(device),
            device.exports.len().to_string(),
            device.source.clone(),
        ]);
    }
    table
}

fn tracking(tracking: &Tracking) -> Table {
    let mut table = Table::pairs();
    let kept = match (tracking.enabled, tracking.durable) {
        (false, _) => "off: known while snapshots are held",
        (true, false) => "on, until the daemon ends: it has no state folder",
        (true, true) => "on",
    };
    table.pair("tracking", kept);
    if let (Some(epoch), Some(generation)) = (tracking.epoch, tracking.generation) {
        table.pair("epoch", format_args!("{epoch} of generation {generation}"));
    }
    if let (Some(granularity), Some(map_bytes)) = (tracking.granularity, tracking.map_bytes) {
        let (granularity, map_bytes) = (ByteSize(granularity).human(), ByteSize(map_bytes).human());
        table.pair("map", format_args!("blocks of {granularity}, {map_bytes} of memory"));
    }
    if let Some(continuity) = tracking.continuity {
        let word = match continuity {
            Continuity::Clean => "exact since the last start",
            Continuity::AfterCrash => "complete, and somewhat too large for the last crash",
            Continuity::Renewed => "new generation: read everything once",
        };
        let why = tracking.continuity_reason.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
        table.pair("continuity", format_args!("{word}{why}"));
    }
    table
}

fn filters(device: &Device) -> String {
    device.filters.iter().map(|filter| filter.kind.as_str()).collect::<Vec<_>>().join(",")
}

fn details(device: &Device) -> Table {
    let mut table = Table::pairs();
    table.pair("name", &device.name);
    table.pair("size", format_args!("{} ({} bytes)", ByteSize(device.size).human(), device.size));
    table.pair("block size", device.block_size);
    table.pair("source", &device.source);
    table.pair("mode", mode(device.read_only));
    if let Some(cache) = device.cache {
        table.pair("cache", if cache == Cache::Direct { "direct" } else { "buffered" });
    }
    if let Some(notice) = &device.notice {
        table.pair("notice", notice);
    }
    table.pair("filters", filters(device));
    for export in &device.exports {
        table.pair("export", format_args!("{} ({} clients)", export.uri, export.clients));
    }
    if device.tracking != Tracking::default() {
        table.append(tracking(&device.tracking));
    }
    if let Some(rollback) = &device.rollback {
        table.pair("rollback", super::snapshot::rollback_line(rollback));
    }
    let io = &device.io;
    table.pair("reads", format_args!("{} ({})", io.reads, ByteSize(io.read_bytes).human()));
    table.pair("writes", format_args!("{} ({})", io.writes, ByteSize(io.written_bytes).human()));
    table.pair("flushes", io.flushes);
    table.pair("discards", io.discards);
    table.pair("write zeroes", io.write_zeroes);
    table.pair("errors", io.errors);
    table.pair("in flight", io.in_flight);
    table
}
