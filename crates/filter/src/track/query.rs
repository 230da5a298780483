//! Questions: what changed since a take.

use std::sync::Arc;

use bowline_block::{Error, ErrorKind, Result};
use roaring::{MultiOps, RoaringBitmap};
use uuid::Uuid;

use super::changes::ChangeSet;
use super::epochs::ClosedSet;
use super::sync::{Ordering, lock};
use super::tracker::Inner;

impl Inner {
    fn gone(&self, why: String) -> Error {
        Error::new(ErrorKind::Gone, why).device(&self.device).op("changes").hint("a full read is needed")
    }

    pub(crate) fn changed(
        &self,
        generation: Option<Uuid>,
        since: u64,
        until: Option<u64>,
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
        let mut sets = history.chain.sets(since, until.unwrap_or(u64::MAX));
        drop(history);
        if until.is_none() {
            sets.push(Arc::new(ClosedSet::of_live(&current)));
        }
        let sets: Vec<Arc<RoaringBitmap>> = sets.iter().map(|set| set.get()).collect();
        let all = match sets.as_slice() {
            [one] => (**one).clone(),
            several => several.iter().map(|set| &**set).union(),
        };
        // A generation that ended meanwhile may have missed the newest of its changes.
        if self.current.load().generation != current.generation {
            return Err(self.gone("a new generation began meanwhile".to_owned()));
        }
        let shape = (current.shape.blocks, current.shape.size);
        Ok(ChangeSet::new(all, shape, current.generation, (since, until)))
    }
}
