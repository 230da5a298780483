//! What a tracker outlives the daemon by: its files in the state folder, and what its device looked like when they were
//! written.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bowline_api::{ApiError, Source, Uuid};
use bowline_block::{Buf, ByteRange, Error, ErrorKind, Flags, Io, Op, Request, Store};
use bowline_filter::track::{Fingerprint, Identity, Opened, StoreIdentity, Traces, TrackLimits, Tracker};
use bowline_state::{Folder, RealFolder};

use super::Teller;
use crate::daemon::Daemon;
use crate::error::failed_io;
use crate::tables::DeviceEntry;

/// The folder of the trackers in the state folder; each device has one of its name in it.
pub(crate) const FOLDER: &str = "trackers";

/// Whether what is known of a device from before its tracker was opened counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    /// It was tracked when the daemon ended.
    Counts,
    /// It was not tracked: whatever is there is of another time.
    IsForgotten,
}

impl Daemon {
    /// The folder of a device's tracker. None without a state folder, and for what is gone with the daemon anyway.
    pub(super) fn tracker_folder(&self, entry: &DeviceEntry) -> Option<PathBuf> {
        let lasting = !matches!(source_of(entry), Some(Source::Memory(_) | Source::Null(_)) | None);
        self.tracker_folder_of(entry.device.name()).filter(|_| lasting)
    }

    fn tracker_folder_of(&self, device: &str) -> Option<PathBuf> {
        self.state.as_ref().map(|state| state.path().join(FOLDER).join(device))
    }

    /// Opens the tracker of a device, which nobody writes to yet.
    pub(super) fn open_tracker(&self, entry: &DeviceEntry, before: Before) -> Result<Opened, ApiError> {
        let (device, teller) = (&entry.device, Arc::new(Teller(self.events.clone())));
        let size = device.geometry().size;
        let begun = |reason: &str| bowline_filter::track::Continuity::Renewed { reason: reason.to_owned() };
        let Some(folder) = self.tracker_folder(entry) else {
            let tracker = Tracker::memory(device.name(), size, teller);
            return Ok(Opened { tracker, continuity: begun("it is tracked until the daemon ends only") });
        };
        let what = format!("track device {}", device.name());
        let mut session = None;
        match before {
            Before::IsForgotten => remove_folder(&folder).map_err(|error| failed_io(&what, error))?,
            Before::Counts => session = self.read().sessions.get(device.name()).copied(),
        }
        let folder = RealFolder::open(&folder).map_err(|error| crate::error::failed(&what, &error))?;
        let identity = identity_of(entry, size);
        let fingerprint = || self.fingerprint(entry);
        let limits = TrackLimits::default();
        let folder: Arc<dyn Folder> = Arc::new(folder);
        let mut opened = Tracker::open(&folder, &identity, session, &fingerprint, teller, limits);
        if before == Before::IsForgotten {
            opened.continuity = begun("tracking began");
        }
        Ok(opened)
    }

    /// Makes what a tracker knows durable at the clean stop. The device is flushed, and nobody uses it any more.
    pub(crate) fn save_tracker(&self, entry: &DeviceEntry) -> Option<(String, Uuid)> {
        let tracker = entry.origin.tracker()?;
        self.note_loss_of(entry);
        let name = entry.device.name().to_owned();
        if !tracker.status().durable {
            return tracker.session().map(|session| (name, session));
        }
        let saved = self.fingerprint(entry).and_then(|fingerprint| tracker.save(&fingerprint));
        if let Err(error) = &saved {
            tracing::error!(
                "{error}: the next start finds what a crash would have left, or asks for a full read"
            );
        }
        saved.ok().or_else(|| tracker.session()).map(|session| (name, session))
    }

    /// Removes the files of a device's tracker: it is not tracked any more.
    pub(crate) fn forget_tracker(&self, device: &str) {
        self.write().sessions.remove(device);
        let removed = self.tracker_folder_of(device).map_or(Ok(()), |folder| remove_folder(&folder));
        if let Err(error) = removed {
            // They are not believed: no session of theirs is noted.
            tracing::warn!(device, %error, "the files of its tracker are left behind");
        }
    }

    /// What the device looks like now, by what can be told of its source without going through the device.
    fn fingerprint(&self, entry: &DeviceEntry) -> bowline_block::Result<Fingerprint> {
        match source_of(entry) {
            Some(Source::Path(path)) => Fingerprint::of_path(&path),
            _ => Fingerprint::take(entry.device.geometry().size, Traces::None, |range, room| {
                self.read_sample(entry, range, room)
            }),
        }
    }

    /// The same in bytes that can be kept and compared. Without what counts from the last boot, so that another boot
    /// is no change; and without the time of a change of name or owner.
    pub(crate) fn fingerprint_bytes(&self, entry: &DeviceEntry) -> bowline_block::Result<Vec<u8>> {
        let Fingerprint { size, traces, samples_crc } = self.fingerprint(entry)?;
        let modified = match traces {
            Traces::Times { modified_ns, .. } => format!(", modified at {modified_ns} ns"),
            Traces::Written { .. } | Traces::None => String::new(),
        };
        Ok(format!("{size} bytes, samples {samples_crc:08x}{modified}").into_bytes())
    }

    fn read_sample(
        &self,
        entry: &DeviceEntry,
        range: ByteRange,
        room: &mut [u8],
    ) -> bowline_block::Result<()> {
        let whole = |error| Error::from_io("no queue to read with", error);
        let gone = || Error::new(ErrorKind::Gone, "the daemon has no queues");
        let (device, length) = (entry.device.clone(), room.len());
        // The last one of a device that ends within a block is read to that end.
        let request = Request { op: Op::Read, flags: Flags::empty(), range };
        let done = self
            .queues
            .nth(0)
            .ok_or_else(gone)?
            .run(move || async move { device.submit(Io::new(request, Buf::zeroed(length))).await });
        let done = done.map_err(whole)?;
        done.result?;
        room.copy_from_slice(done.data.get(..length).unwrap_or_default());
        Ok(())
    }
}

fn source_of(entry: &DeviceEntry) -> Option<Source> {
    entry.asked.as_ref().and_then(|asked| asked.source.parse().ok())
}

/// Removes a folder with all that is in it; fine when there is none.
fn remove_folder(folder: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Which device it is, by what lasts longest.
fn identity_of(entry: &DeviceEntry, size: u64) -> Identity {
    let source = entry.asked.as_ref().map(|asked| asked.source.clone()).unwrap_or_default();
    let store = match source_of(entry) {
        Some(Source::Path(path)) => match fs::metadata(&path) {
            Ok(found) if found.file_type().is_block_device() => {
                StoreIdentity::Block { id: block_id(found.rdev()).unwrap_or_else(|| source.clone()) }
            }
            Ok(found) => StoreIdentity::File { dev: found.dev(), ino: found.ino() },
            Err(_) => StoreIdentity::Other,
        },
        _ => StoreIdentity::Other,
    };
    Identity { device: entry.device.name().to_owned(), size, source, store }
}

/// What the system knows a block device by over reboots: the UUID of a mapping, the name of its hardware, with the number
/// of the partition.
fn block_id(rdev: u64) -> Option<String> {
    let folder =
        PathBuf::from(format!("/sys/dev/block/{}:{}", rustix::fs::major(rdev), rustix::fs::minor(rdev)));
    let read = |name: &str| {
        let text = fs::read_to_string(folder.join(name)).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    let partition = read("partition").map(|number| format!(" partition {number}")).unwrap_or_default();
    let names = ["dm/uuid", "wwid", "device/wwid", "serial", "device/serial"];
    let of_disk = names.iter().map(|name| format!("../{name}"));
    let found = names.iter().map(ToString::to_string).chain(of_disk).find_map(|name| read(&name));
    found.map(|id| format!("{id}{partition}"))
}
