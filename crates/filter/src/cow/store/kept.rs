//! Storage that outlives the process: opened again, with what is in it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bowline_block::{Error, ErrorKind, Result};

use super::super::segment::Segment;
use super::volume::{self, State};
use super::{DiffStorage, Inner, Medium, StoreSpec};

impl DiffStorage {
    /// Opens what a storage was made of that was kept: the stores in the order in which they were added. It is kept again.
    ///
    /// # Errors
    /// *Invalid* for stores that cannot outlive a process; *not found* for a file that is gone; otherwise as
    /// [`DiffStorage::open`].
    pub fn reopen(stores: &[StoreSpec]) -> Result<Arc<Self>> {
        let Some(first) = stores.first() else {
            return Err(Error::new(ErrorKind::Invalid, "no store is named").op("open diff storage"));
        };
        let mut volumes = Vec::new();
        for store in stores {
            let next = volumes.last().map_or(0, volume::Volume::end);
            volumes.extend(volume::open(store, next, true)?);
        }
        let this = Self::start(first.clone(), volumes)?;
        stores.clone_into(&mut this.stores_mut());
        this.keep(true);
        Ok(this)
    }

    /// Adds a medium that is there already, as [`DiffStorage::on_medium`] takes it.
    ///
    /// # Errors
    /// *Invalid* for a limit smaller than a segment, or too many stores.
    pub fn extend_on(&self, spec: StoreSpec, medium: Arc<dyn Medium>, step: Option<u64>) -> Result<()> {
        self.extend_by(spec, |spec, first| volume::on_medium(medium, spec, step, first))
    }

    /// Whether its files stay as they are when it ends.
    pub fn keep(&self, keep: bool) {
        self.inner.kept.store(keep, Ordering::Relaxed);
    }

    /// Segments that have contents, by their places; nothing was handed out before. Nobody holds them yet.
    pub(crate) fn adopt(self: &Arc<Self>, places: &BTreeSet<u32>) -> Result<Vec<Arc<Segment>>> {
        let mut work = self.inner.work();
        let mut segments = Vec::with_capacity(places.len());
        for &place in places {
            let after = work.volumes.partition_point(|state| state.volume.first <= place);
            let state = after.checked_sub(1).and_then(|at| work.volumes.get_mut(at));
            let Some(volume) = state.and_then(|state| state.adopt(place)) else {
                let why = format!("diff storage {} has no segment {place}", self.inner.spec.kind.location());
                return Err(Error::new(ErrorKind::Corrupt, why));
            };
            work.used += 1;
            segments.push(Segment::stored(self.clone(), volume, place));
        }
        Ok(segments)
    }
}

impl State {
    /// Takes that place; what comes before it and was not taken is free.
    fn adopt(&mut self, place: u32) -> Option<Arc<volume::Volume>> {
        let local = place.checked_sub(self.volume.first)?;
        if local >= self.volume.places || local < self.next {
            return None;
        }
        for free in self.next..local {
            self.give_back(self.volume.first + free);
        }
        self.next = local + 1;
        Some(self.volume.clone())
    }
}

impl Inner {
    pub(super) fn is_kept(&self) -> bool {
        self.kept.load(Ordering::Relaxed)
    }
}
