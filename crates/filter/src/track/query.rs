//! Questions: what changed since a take.

use std::sync::Arc;

use bowline_block::{ByteRange, Error, ErrorKind, Result};
use roaring::MultiOps;
use uuid::Uuid;

use super::changes::ChangeSet;
use super::chunks::Source;
use super::sync::{Ordering, lock};
use super::tracker::Inner;

/// More closed sets than this are made one first: each is looked at for each chunk.
const APART_MAX: usize = 16;
/// All of a device, however much changed.
pub(crate) const WHOLE: (ByteRange, usize) = (ByteRange::new(0, u64::MAX), usize::MAX);

impl Inner {
    fn gone(&self, why: String) -> Error {
        Error::new(ErrorKind::Gone, why).device(&self.device).op("changes").hint("a full read is needed")
    }

    pub(crate) fn changed(
        &self,
        generation: Option<Uuid>,
        since: u64,
        until: Option<u64>,
        part: (ByteRange, usize),
    ) -> Result<ChangeSet> {
        let history = lock(&self.history);
        let current = self.current.load_full();
        if let Some(asked) = generation
            && asked != current.generation
        {
            return Err(self.gone(format!("the generation is {} now, not {asked}", current.generation)));
        }
        if let Some(until) = until
            && until < since
        {
            let why = format!("take {until} was before take {since}");
            return Err(Error::new(ErrorKind::Invalid, why).device(&self.device).op("changes"));
        }
        for asked in [Some(since), until].into_iter().flatten() {
            if asked == 0 || asked >= current.epoch {
                let why = format!("there was no take {asked}: the last one is {}", current.epoch - 1);
                return Err(self.gone(why));
            }
        }
        if history.chain.first().is_some_and(|first| since + 1 < first) {
            return Err(self.gone(format!("what changed right behind take {since} is not known")));
        }
        if until.is_none() && self.detached.load(Ordering::SeqCst) {
            return Err(
                self.gone("the tracker was taken off its device: what changed since is not seen".to_owned())
            );
        }
        let sets = history.chain.sets(since, until.unwrap_or(u64::MAX));
        drop(history);
        let mut sources = if sets.len() > APART_MAX {
            let sets: Vec<_> = sets.iter().map(|set| set.get()).collect();
            vec![Source::Packed(Arc::new(sets.iter().map(|set| &**set).union()))]
        } else {
            sets.iter().map(|set| set.source()).collect()
        };
        if until.is_none() {
            sources.push(Source::Map(current.clone()));
        }
        let shape = (current.shape.blocks, current.shape.size);
        let found = ChangeSet::of(&sources, shape, part, current.generation, (since, until));
        // A generation that ended meanwhile may have missed the newest of its changes.
        if self.current.load().generation != current.generation {
            return Err(self.gone("a new generation began meanwhile".to_owned()));
        }
        Ok(found)
    }
}
