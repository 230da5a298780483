//! The thread that makes intents durable: all that wait, with one write and one sync.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use bowline_block::Result;

use super::current::Current;
use super::disk::sector::{SECTOR_REGIONS, SECTOR_WORDS, Sector, generation_part, offset_of};
use super::durable::Durable;
use super::grain::{Run, mask_of};
use super::intents::{IntentMap, Wanted};
use super::sync::lock;
use super::tracker::Inner;

impl Inner {
    pub(crate) fn commit_intents(&self, durable: &Durable) {
        while let Some(wanted) = durable.desk.take() {
            let current = self.current.load_full();
            if let Some(intents) = &current.intents
                && self.wait_for_turn(&current, intents)
            {
                let result = self.commit(durable, &current, intents, &wanted);
                if let Err(error) = result {
                    self.degrade(&format!("intents cannot be made durable: {error}"));
                }
            }
            // Whoever did not get what they want asks again.
            self.wake_all();
        }
    }

    /// Waits until the epoch's half of the file is free: the set of the one before last is durable.
    fn wait_for_turn(&self, current: &Arc<Current>, intents: &IntentMap) -> bool {
        let mut history = lock(&self.history);
        loop {
            let replaced = !Arc::ptr_eq(current, &self.current.load());
            if replaced || history.stopping || !history.disk.on {
                return false;
            }
            if intents.is_settled() && history.disk.saved + 2 >= current.epoch {
                return true;
            }
            history = self.progress.wait(history).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn commit(
        &self,
        durable: &Durable,
        current: &Current,
        intents: &IntentMap,
        wanted: &[Wanted],
    ) -> Result<()> {
        let own = |one: &&Wanted| one.generation == current.generation && one.epoch == current.epoch;
        let runs: Vec<Run> =
            wanted.iter().filter(own).map(|one| one.run).filter(|run| !intents.allows(*run)).collect();
        if runs.is_empty() {
            return Ok(());
        }
        let mut sectors: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for run in &runs {
            for index in run.first / SECTOR_REGIONS..run.end.div_ceil(SECTOR_REGIONS) {
                let first = index * SECTOR_WORDS;
                let words = sectors.entry(index).or_insert_with(|| {
                    (first..first + SECTOR_WORDS).map(|word| intents.word(word)).collect()
                });
                for (word, number) in words.iter_mut().zip(first..) {
                    *word |= mask_of(number, *run);
                }
            }
        }
        let regions = current.shape.region_count();
        let file = lock(&durable.intents);
        for (offset, bytes) in joined(current, regions, sectors) {
            file.write_at(offset, &bytes)?;
        }
        if durable.syncs() {
            file.sync()?;
        }
        drop(file);
        runs.iter().for_each(|run| intents.set(*run));
        Ok(())
    }
}

/// The sectors as bytes, neighbours in one piece.
fn joined(current: &Current, regions: u64, sectors: BTreeMap<u64, Vec<u64>>) -> Vec<(u64, Vec<u8>)> {
    let mut pieces: Vec<(u64, Vec<u8>)> = Vec::new();
    for (index, words) in sectors {
        let sector = Sector {
            epoch: current.epoch,
            generation: generation_part(current.generation),
            index: u32::try_from(index).unwrap_or(u32::MAX),
            words,
        };
        let (offset, bytes) = (offset_of(current.epoch, index, regions), sector.encode());
        match pieces.last_mut() {
            Some((start, piece)) if *start + piece.len() as u64 == offset => piece.extend(bytes),
            _ => pieces.push((offset, bytes)),
        }
    }
    pieces
}

impl Durable {
    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "a test plants damage there")]
    fn syncs(&self) -> bool {
        true
    }

    #[cfg(test)]
    fn syncs(&self) -> bool {
        !self.skip_sync.load(std::sync::atomic::Ordering::SeqCst)
    }
}
