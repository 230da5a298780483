//! Storage that outlives the process: opened again, with what is in it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bowline_block::{Error, ErrorKind, Result};
use uuid::Uuid;

use super::super::journal::crc;
use super::super::segment::{SEGMENT_BYTES, Segment};
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

    /// Whether anything is in it but its label.
    pub(crate) fn has_contents(&self) -> bool {
        let label = u64::from(self.inner.labelled.load(Ordering::Relaxed)) * SEGMENT_BYTES;
        self.used() > label
    }

    /// Takes its first segment for a label, and writes it; durable when this returns.
    pub(crate) fn label(&self, id: Uuid) -> Result<()> {
        let taken = self.inner.work().take_place();
        let medium =
            taken.as_ref().and_then(|(volume, place)| Some((volume.medium()?, volume.offset_of(*place))));
        let Some((medium, at)) = medium.filter(|_| taken.as_ref().is_some_and(|(_, place)| *place == 0))
        else {
            let why = format!("diff storage {} is in use already", self.location());
            return Err(Error::new(ErrorKind::Invalid, why).op("open diff storage"));
        };
        self.inner.labelled.store(true, Ordering::Relaxed);
        medium.write_at(at, &label(id))?;
        medium.sync()
    }

    /// Looks whether it has that label.
    ///
    /// # Errors
    /// *Corrupt* when it has another one; what reading it says.
    pub(crate) fn check_label(&self, id: Uuid) -> Result<()> {
        let volume = self.inner.work().volumes.first().map(|state| state.volume.clone());
        let medium = volume.as_ref().and_then(|volume| Some((volume.medium()?, volume.offset_of(0))));
        let Some((medium, at)) = medium else {
            return Err(Error::new(ErrorKind::Invalid, "it is in memory"));
        };
        let mut found = [0; LABEL_BYTES];
        medium.read_at(at, &mut found)?;
        if found == label(id) {
            self.inner.labelled.store(true, Ordering::Relaxed);
            return Ok(());
        }
        let what = if found.starts_with(&LABEL_MAGIC) { "is another one" } else { "holds no snapshots" };
        Err(Error::new(ErrorKind::Corrupt, format!("diff storage {} {what}", self.location())))
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

pub(super) const LABEL_BYTES: usize = 32;
const LABEL_MAGIC: [u8; 8] = *b"BWLSTORE";

/// What a storage of persistent snapshots begins with: see `docs/format/journal.md`.
pub(super) fn label(id: Uuid) -> [u8; LABEL_BYTES] {
    let mut bytes = [0; LABEL_BYTES];
    let parts = [&LABEL_MAGIC[..], &1u32.to_le_bytes(), id.as_bytes()].concat();
    let sum = crc(&parts).to_le_bytes();
    for (to, from) in bytes.iter_mut().zip(parts.iter().chain(&sum)) {
        *to = *from;
    }
    bytes
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
