//! What changed between two takes: what was preserved in the intervals between them.

use bowline_block::{ByteRange, Error, ErrorKind, Result};

use super::chain::Chain;
use super::granule::GRANULE_BYTES;
use super::shared::SnapshotState;
use super::snapshot::SnapshotDevice;

impl SnapshotDevice {
    /// What was preserved since this take, until a later one of the same origin or until now, and what was written to
    /// the images: in whole blocks of 4 KiB, ascending, neighbours merged. It is every block that was changed by an
    /// acknowledged write, and perhaps some that were written to with what they held.
    ///
    /// # Errors
    /// *Io* once a snapshot in question has failed, since nothing is preserved for it any more: a full read is needed.
    /// *Gone* once one was removed. *Invalid* when `until` is of another device, or earlier.
    pub fn changed(&self, until: Option<&Self>) -> Result<Vec<ByteRange>> {
        let chain = self.history().chain.load_full();
        if until.is_some_and(|until| !std::sync::Arc::ptr_eq(until.history(), self.history())) {
            let why = "the later snapshot is of another device, or of another generation of this one";
            return Err(Error::new(ErrorKind::Invalid, why).device(self.origin().name()));
        }
        let own = self.position_in(&chain)?;
        let end = match until {
            None => chain.members.len(),
            Some(until) => until.position_in(&chain)?,
        };
        let Some(between) = chain.members.get(own..end) else {
            let why = "the later snapshot is the earlier one";
            return Err(Error::new(ErrorKind::Invalid, why).device(self.origin().name()));
        };
        let between = Chain::new(between.to_vec(), chain.hold_limit, None);
        let size = until.map_or(self.size(), |until| until.size().min(self.size()));
        let granules = size.div_ceil(GRANULE_BYTES);
        let preserved = between.layers(0).ranges(granules, size);
        // What was written to either image is where they differ too.
        let written = until.map_or_else(Vec::new, |until| until.image().written());
        // A rollback changed what it has not put back yet, too.
        let rolled_back = self.history().rollback().filter(|_| until.is_none());
        let pending = rolled_back.map_or_else(Vec::new, |rollback| rollback.pending());
        let changed = merged([preserved, self.image().written(), written, pending].concat(), size);
        // Checked last: writes go uncounted only after the failure.
        self.still_counts()?;
        until.map_or(Ok(()), Self::still_counts)?;
        Ok(changed)
    }

    fn position_in(&self, chain: &Chain) -> Result<usize> {
        // One that came back failed was never in the chain.
        self.still_counts()?;
        chain.position(self.epoch).ok_or_else(|| {
            let why = format!("snapshot {} was removed", self.image().snapshot.name);
            Error::new(ErrorKind::Gone, why).device(self.origin().name())
        })
    }

    fn still_counts(&self) -> Result<()> {
        let snapshot = &self.image().snapshot;
        match snapshot.state() {
            SnapshotState::Active => Ok(()),
            SnapshotState::Failed { reason } => {
                let why = format!("snapshot {} failed: {reason}", snapshot.name);
                Err(Error::new(ErrorKind::Io, why).device(self.origin().name()))
            }
        }
    }
}

/// Ascending and without overlaps, neighbours merged, cut at `size`.
fn merged(mut ranges: Vec<ByteRange>, size: u64) -> Vec<ByteRange> {
    ranges.sort_unstable_by_key(|range| range.start());
    let mut merged: Vec<ByteRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        let range = range.intersection(ByteRange::new(0, size));
        match merged.last_mut() {
            _ if range.is_empty() => {}
            Some(last) if range.start() <= last.end() => {
                *last = ByteRange::between(last.start(), last.end().max(range.end()));
            }
            _ => merged.push(range),
        }
    }
    merged
}
