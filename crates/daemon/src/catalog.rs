//! What a listener serves: every device and image by name, except what was taken off it.

use std::sync::{Arc, PoisonError, RwLock};

use bowline_export_nbd::{ExportEntry, ExportTarget, Exports};

use crate::tables::Tables;

/// The view of one listener on the tables.
pub(crate) struct Catalog {
    pub(crate) tables: Arc<RwLock<Tables>>,
    pub(crate) listener: u64,
}

impl Catalog {
    fn serves(&self, tables: &Tables, name: &str) -> bool {
        tables.listener(self.listener).is_some_and(|listener| !listener.hidden.contains(name))
    }

    fn target(&self, tables: &Tables, name: &str) -> Option<ExportTarget> {
        if !self.serves(tables, name) {
            return None;
        }
        let entry = tables.devices.get(name)?;
        let mut asked =
            tables.exports.iter().filter(|export| export.device == name && export.listener == self.listener);
        // Read-only when that is what was asked for here, and only that.
        let read_only =
            asked.next().is_some_and(|first| first.read_only && asked.all(|other| other.read_only));
        Some(ExportTarget {
            device: entry.device.clone(),
            read_only: read_only || entry.read_only,
            description: entry.source.clone(),
            bitmaps: crate::bitmaps::of_export(&self.tables, name, entry),
        })
    }
}

impl Exports for Catalog {
    fn list(&self) -> Vec<ExportEntry> {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        tables
            .devices
            .iter()
            .filter(|(name, _)| self.serves(&tables, name))
            .map(|(name, entry)| ExportEntry { name: name.clone(), description: entry.source.clone() })
            .collect()
    }

    fn find(&self, name: &str) -> Option<ExportTarget> {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        if !name.is_empty() {
            return self.target(&tables, name);
        }
        // The default export is the only device, if there is only one; its images do not make it ambiguous.
        let mut devices = tables.devices.iter().filter(|(_, entry)| entry.asked.is_some());
        match (devices.next(), devices.next()) {
            (Some((only, _)), None) => self.target(&tables, only),
            _ => None,
        }
    }
}
