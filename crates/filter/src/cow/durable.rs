//! Copies for persistent snapshots: published when they and their records are on stable storage, and what becomes of
//! writers when that cannot be.
//!
//! A writer whose old contents cannot be made durable goes on (I1), but not before it is on record that the snapshots
//! have failed, or has waited for that as long as it may.

use std::sync::Arc;

use bowline_block::Verdict;

use super::chain::Chain;
use super::copy::too_slow;
use super::history::History;
use super::journal::{Outcome, Ticket};
use super::keeper::{Kept, Stored};
use super::store::Trouble;
use super::wait::{self, Deadline};
use super::zone::{Claim, Run, SlotId, ZONE_GRANULES};

impl History {
    /// Asks for a copy to be made durable; `None` when nobody needs that.
    pub(crate) fn commit_copy(&self, chain: &Chain, zone: u64, run: Run, stored: &Stored) -> Option<Ticket> {
        let keeper = chain.keeper.as_ref()?;
        if !chain.charged()?.is_persistent() {
            return None;
        }
        #[cfg(test)]
        if self.no_hold.load(std::sync::atomic::Ordering::Relaxed) {
            let first = zone * ZONE_GRANULES + run.from();
            keeper.commit(&self.table, Kept::Old, chain.current()?.epoch, first, stored);
            return None;
        }
        let first = zone * ZONE_GRANULES + run.from();
        Some(keeper.commit(&self.table, Kept::Old, chain.current()?.epoch, first, stored))
    }

    /// Publishes what is stored, each when it is durable. At the first failure the rest is left unpublished.
    pub(crate) async fn publish_all(
        &self,
        chain: &Chain,
        claim: &mut Claim<'_>,
        pending: Vec<(Stored, Option<Ticket>)>,
        deadline: Deadline,
    ) {
        for (stored, ticket) in pending {
            if let Some(ticket) = ticket
                && !self.is_durable(chain, &stored, &ticket, deadline).await
            {
                return;
            }
            claim.publish(u16::try_from(stored.count).unwrap_or(u16::MAX), stored.slot);
        }
    }

    async fn is_durable(&self, chain: &Chain, stored: &Stored, ticket: &Ticket, deadline: Deadline) -> bool {
        let found = if stored.slot == SlotId::ZERO { None } else { self.table.find(stored.slot) };
        let segment = found.map(|(segment, _)| segment);
        match wait::bounded(deadline.left(), ticket.done()).await {
            Some(Outcome::Durable) => {
                segment.iter().for_each(|one| one.add_committed(u32::try_from(stored.count).unwrap_or(0)));
                return true;
            }
            Some(Outcome::NoStore(reason)) => {
                let of_storage = |one: &&Arc<super::shared::Shared>| {
                    segment.as_ref().is_none_or(|segment| Arc::ptr_eq(&one.storage, &segment.storage))
                };
                let trouble = Trouble { reason, cause: None };
                chain.snapshots().filter(of_storage).for_each(|one| one.fail_for(trouble.clone()));
            }
            Some(Outcome::NoJournal(why)) => chain.fail_persistent(&why),
            None => {
                let why = too_slow("making old contents durable", deadline.limit);
                if let Some(keeper) = &chain.keeper {
                    keeper.journal.fail(&why);
                }
                chain.fail_persistent(&why);
            }
        }
        false
    }

    /// Waits until it is on record which persistent snapshots have failed; no longer than half as long again as a write may
    /// be held.
    pub(crate) async fn wait_for_record(&self, chain: &Chain, deadline: Deadline) {
        for doomed in chain.doomed() {
            let slice = deadline.limit / 4;
            if wait::bounded(slice, doomed.ended()).await.is_some() {
                continue;
            }
            // The journal's thread may be stuck in a store; its mark of failure is another's work.
            if let Some(keeper) = &chain.keeper {
                keeper.journal.fail("a snapshot's failure could not be recorded in time");
            }
            if wait::bounded(slice, doomed.ended()).await.is_none() {
                doomed.give_up();
            }
        }
    }

    /// Holds a request until failures are on record.
    pub(crate) fn after_failures(&self, chain: Arc<Chain>) -> Verdict<'_> {
        Verdict::Hold(Box::pin(async move {
            self.wait_for_record(&chain, Deadline::after(chain.hold_limit)).await;
        }))
    }
}
