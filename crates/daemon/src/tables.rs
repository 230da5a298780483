//! What the daemon has: devices, images, snapshots, listeners and exports, by name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bowline_api::{ApiError, Cache, DeviceAdd, ExportAdd, ListenAddr, Uuid};
use bowline_device::Device;
use bowline_export_nbd::NbdServer;
use bowline_store::FileStore;

use crate::rollback::RollbackEntry;
use crate::snapshot::{OriginState, SnapshotEntry};
use crate::state::Hidden;

/// A device or image.
#[derive(Clone)]
pub(crate) struct DeviceEntry {
    pub(crate) device: Arc<Device>,
    pub(crate) source: String,
    pub(crate) cache: Option<Cache>,
    /// What was asked for and could not be had, or is worth a second thought.
    pub(crate) notice: Option<String>,
    /// Its store, where that is memory: what it takes is no resident memory of the process.
    pub(crate) memory: Option<Arc<FileStore>>,
    pub(crate) read_only: bool,
    /// How it was asked for; `None` for images, which come and go with their snapshot.
    pub(crate) asked: Option<DeviceAdd>,
    /// What snapshots keep of it.
    pub(crate) origin: OriginState,
}

/// An export that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExportEntry {
    pub(crate) id: u64,
    pub(crate) device: String,
    pub(crate) listener: u64,
    pub(crate) read_only: bool,
    /// Whether the daemon was started with it, so that the state folder need not bring it back.
    pub(crate) address: Option<ListenAddr>,
}

/// A running NBD server.
pub(crate) struct Listener {
    pub(crate) id: u64,
    pub(crate) address: ListenAddr,
    pub(crate) server: Option<NbdServer>,
    /// Devices that were taken off this listener: everything else it serves by name.
    pub(crate) hidden: BTreeSet<String>,
}

/// A device of the state folder that could not be opened.
#[derive(Clone, Debug)]
pub(crate) struct AbsentDevice {
    pub(crate) asked: DeviceAdd,
    pub(crate) reason: String,
}

/// All of it.
#[derive(Default)]
pub(crate) struct Tables {
    pub(crate) devices: BTreeMap<String, DeviceEntry>,
    pub(crate) snapshots: Vec<SnapshotEntry>,
    /// The last rollback of each device.
    pub(crate) rollbacks: BTreeMap<String, RollbackEntry>,
    pub(crate) listeners: Vec<Listener>,
    pub(crate) exports: Vec<ExportEntry>,
    /// Devices of the state folder that could not be opened: kept for the next start.
    pub(crate) absent: Vec<AbsentDevice>,
    /// The exports of those.
    pub(crate) absent_exports: Vec<ExportAdd>,
    /// The sessions of trackers, as the state folder has them.
    pub(crate) sessions: BTreeMap<String, Uuid>,
    /// What listeners that do not run yet are not to serve.
    pub(crate) hidden_later: Vec<Hidden>,
    next_id: u64,
}

impl Tables {
    /// A number nothing here has had.
    pub(crate) fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(crate) fn device(&self, name: &str) -> Result<&DeviceEntry, ApiError> {
        self.devices.get(name).ok_or_else(|| ApiError::not_found("device", name))
    }

    pub(crate) fn snapshot(&self, name: &str) -> Result<&SnapshotEntry, ApiError> {
        let found = self.snapshots.iter().find(|snapshot| snapshot.name == name);
        found.ok_or_else(|| ApiError::not_found("snapshot", name))
    }

    /// Whether a device or image of that name is there after a restart: the images of plain snapshots are not.
    pub(crate) fn outlives(&self, name: &str) -> bool {
        match bowline_api::names::split_image(name) {
            None => true,
            Some((snapshot, _)) => self.snapshot(snapshot).is_ok_and(|entry| entry.document().is_some()),
        }
    }

    /// The sessions of all trackers: of those that run, and of devices that could not be opened.
    pub(crate) fn tracker_sessions(&self) -> BTreeMap<String, Uuid> {
        let absent = self.absent.iter().map(|absent| &absent.asked.name);
        let absent = absent.filter_map(|name| Some((name.clone(), *self.sessions.get(name)?)));
        let running = self
            .devices
            .iter()
            .filter_map(|(name, entry)| Some((name.clone(), entry.origin.tracker()?.session()?)));
        absent.chain(running).collect()
    }

    pub(crate) fn listener(&self, id: u64) -> Option<&Listener> {
        self.listeners.iter().find(|listener| listener.id == id)
    }

    /// Forgets a device that could not be opened at the start; whether there was one.
    pub(crate) fn forget_absent(&mut self, name: &str) -> bool {
        let before = self.absent.len();
        self.absent.retain(|absent| absent.asked.name != name);
        let found = self.absent.len() < before;
        if found {
            self.absent_exports.retain(|export| export.device != name);
            self.hidden_later.retain(|hidden| hidden.device != name);
            for listener in &mut self.listeners {
                listener.hidden.remove(name);
            }
        }
        found
    }

    /// What the listener at the address, which starts now, is not to serve.
    pub(crate) fn take_hidden(&mut self, address: Option<&ListenAddr>) -> BTreeSet<String> {
        let (now, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.hidden_later)
            .into_iter()
            .partition(|hidden| hidden.address.as_ref() == address);
        self.hidden_later = later;
        now.into_iter().map(|hidden| hidden.device).collect()
    }

    /// Connections to the device; every listener serves it by name, exported or not.
    pub(crate) fn clients_of(&self, device: &str) -> usize {
        let servers = self.listeners.iter().filter_map(|listener| listener.server.as_ref());
        servers.filter_map(|server| server.connections().get(device).copied()).sum()
    }

    /// The snapshots that have images of the device, oldest first.
    pub(crate) fn snapshots_of<'a>(&'a self, device: &'a str) -> impl Iterator<Item = &'a SnapshotEntry> {
        self.snapshots.iter().filter(move |snapshot| snapshot.has(device))
    }
}
