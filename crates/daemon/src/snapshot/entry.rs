//! A snapshot with what the daemon knows about it, and how it is told.

use std::sync::Arc;

use bowline_api::{
    OnFull, Snapshot, SnapshotDevice, SnapshotState, SnapshotStore, StoreKind, StorePart, Timestamp,
};
use bowline_filter::cow;

use crate::state::KeptSnapshot;
use crate::tables::Tables;

/// A snapshot with the names the daemon knows it by.
#[derive(Clone)]
pub(crate) struct SnapshotEntry {
    pub(crate) name: String,
    pub(crate) taken: Arc<cow::Snapshot>,
    pub(crate) removing: bool,
    /// How long writers wait for a full store; none: they do not.
    pub(crate) hold_timeout_ms: Option<u64>,
    /// Mount points of what was frozen for the take.
    pub(crate) frozen: Vec<String>,
    /// If it outlives the daemon.
    pub(crate) kept: Option<Kept>,
}

/// A persistent snapshot, as the state document has it.
#[derive(Clone)]
pub(crate) struct Kept {
    pub(crate) document: KeptSnapshot,
    /// Whether all of its devices are there. Those that are not may be again at the next start: that they are missing
    /// is no failure to be kept.
    pub(crate) is_whole: bool,
}

impl SnapshotEntry {
    /// Whether it has an image of the device.
    pub(crate) fn has(&self, device: &str) -> bool {
        self.taken.device(device).is_some()
    }

    /// Blocks of 4 KiB that were preserved for it.
    pub(crate) fn preserved_blocks(&self) -> u64 {
        self.taken.devices().iter().map(|device| device.stats().blocks).sum()
    }

    /// Whether it outlives the daemon.
    pub(crate) fn is_persistent(&self) -> bool {
        self.kept.is_some()
    }

    /// What the state document is to have of it.
    pub(crate) fn document(&self) -> Option<KeptSnapshot> {
        let Kept { document, is_whole } = self.kept.as_ref().filter(|_| !self.removing)?;
        let failed = match self.taken.state() {
            cow::SnapshotState::Failed { reason } if *is_whole => Some(reason),
            _ => document.failed.clone(),
        };
        Some(KeptSnapshot { failed, ..document.clone() })
    }

    pub(crate) fn describe(&self, tables: &Tables) -> Snapshot {
        let taken = &self.taken;
        let (state, reason) = match taken.state() {
            _ if self.removing => (SnapshotState::Removing, None),
            cow::SnapshotState::Active => (SnapshotState::Active, None),
            cow::SnapshotState::Failed { reason } => (SnapshotState::Failed, Some(reason)),
        };
        let storage = taken.storage();
        let stores = storage.stores();
        Snapshot {
            name: self.name.clone(),
            id: taken.id(),
            taken_at: Timestamp::from_system(taken.taken_at()),
            frozen_us: match &self.kept {
                Some(kept) => kept.document.frozen_us,
                None => u64::try_from(taken.frozen_for().as_micros()).unwrap_or(u64::MAX),
            },
            devices: taken.devices().iter().map(|device| self.describe_device(device)).collect(),
            state,
            reason,
            on_full: if self.hold_timeout_ms.is_some() { OnFull::Hold } else { OnFull::Drop },
            hold_timeout_ms: self.hold_timeout_ms,
            persistent: self.is_persistent(),
            store: SnapshotStore {
                kind: kind_of(&storage.spec().kind),
                used: storage.used(),
                limit: storage.limit(),
                step: if storage.spec().kind.grows() { storage.spec().step } else { 0 },
                location: location_of(&storage.spec().kind),
            },
            stores: match stores.as_slice() {
                [only] => vec![StorePart { used: Some(storage.used()), ..part_of(only, storage.limit()) }],
                several => several.iter().map(|store| part_of(store, store.limit)).collect(),
            },
            frozen_file_systems: self.frozen.clone(),
            rollback: tables
                .rollbacks
                .iter()
                .filter(|(_, entry)| entry.id == taken.id())
                .map(|(device, entry)| entry.describe(device))
                .collect(),
        }
    }

    fn describe_device(&self, device: &cow::SnapshotDevice) -> SnapshotDevice {
        let name = device.origin().name();
        SnapshotDevice {
            name: name.to_owned(),
            image: bowline_api::names::image(&self.name, name),
            epoch: device.epoch(),
            generation: device.generation(),
            size: device.size(),
            preserved: device.stats().blocks * cow::GRANULE_BYTES,
        }
    }
}

fn kind_of(kind: &cow::StoreKind) -> StoreKind {
    match kind {
        cow::StoreKind::Memory => StoreKind::Mem,
        cow::StoreKind::File(_) => StoreKind::File,
        cow::StoreKind::Directory(_) => StoreKind::Directory,
        cow::StoreKind::BlockDevice(_) => StoreKind::Block,
        cow::StoreKind::Ranges(_) => StoreKind::Ranges,
    }
}

fn location_of(kind: &cow::StoreKind) -> Option<String> {
    (*kind != cow::StoreKind::Memory).then(|| kind.location())
}

/// The part of a storage that this store is; its limit, where it was given none, is what there is.
fn part_of(store: &cow::StoreSpec, limit: u64) -> StorePart {
    let limit = match &store.kind {
        cow::StoreKind::Ranges(ranges) => ranges.iter().map(|(_, range)| range.len()).sum::<u64>().min(limit),
        _ => limit,
    };
    StorePart { kind: kind_of(&store.kind), location: location_of(&store.kind), used: None, limit }
}
