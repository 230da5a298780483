//! Removing a snapshot: handing its interval to the older neighbour, and giving space back.
//!
//! 1. Frozen: the snapshot leaves the chain's members. Intervals that no snapshot reads any more leave with it; the
//!    others become orphans. If it was the newest, copies go to the older neighbour's interval again, and the orphan
//!    behind it counts as copied.
//! 2. Under load: the orphan's granules are merged into the member before it, zone by zone. A granule that both have is
//!    hidden by the older one: nobody but the removed image ever looked at the orphan's.
//! 3. Frozen: the orphan leaves the chain.
//! 4. Under load: its slots that were not taken over are freed.
//!
//! Slots are freed only in the end, after a freeze that began when the chain no longer led to them: everybody who may
//! have seen them was inside the gate, and has left it. So a freed slot is never looked at, and may be used again.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bowline_block::{Error, ErrorKind, Result};
use bowline_device::{Device, freeze_all};

use super::chain::{Chain, Member};
use super::history::{Attachment, History};
use super::interval::Interval;
use super::persist;
use super::snapshot::{Snapshot, SnapshotDevice};
use super::zone::SlotId;

impl Snapshot {
    /// Removes the snapshot; its images answer *gone* from now on. Take the image devices away first. Must not be called
    /// on a queue thread.
    ///
    /// # Errors
    /// *Timeout* when a device could not be frozen within `freeze`. The rest of the work is then left, nothing is lost,
    /// and calling again goes on with it. *Busy* while a device goes back to it.
    pub fn remove(&self, freeze: Duration) -> Result<()> {
        if let Some(device) = self.devices.iter().find(|device| device.is_rolling_back()) {
            let why = format!("a rollback to snapshot {} is not over", self.name());
            return Err(Error::new(ErrorKind::Busy, why).device(device.origin.name()).op("remove"));
        }
        if self.shared.is_waited_for() {
            // Writers that wait for room in its storage are inside the gate: they go on without it.
            self.shared.end("it is being removed".to_owned());
        }
        // All are tried, so that one stuck device does not keep the space of the others.
        let removed = self.devices.iter().map(|device| device.remove(freeze)).fold(Ok(()), Result::and);
        let removed = self
            .devices
            .iter()
            .map(|device| device.history.end_if_idle(&device.origin, freeze))
            .fold(removed, Result::and);
        if removed.is_ok() {
            persist::forget(self);
        }
        removed
    }
}

impl SnapshotDevice {
    fn remove(&self, freeze: Duration) -> Result<()> {
        let history = &self.history;
        let _one_at_a_time = history.surgery.lock().unwrap_or_else(PoisonError::into_inner);
        // First what an earlier removal left: after step 2 a slot is in two members, and leaving with both of them it
        // would be freed twice.
        history.merge_orphans(&self.origin, freeze)?;
        // Before any slot can be used again.
        persist::record_removal(self)?;
        history.drop_member(&self.origin, self.epoch, freeze)?;
        self.image().end();
        history.merge_orphans(&self.origin, freeze)
    }
}

/// Changes the chain while the device is frozen. A device that is gone has nobody inside.
fn change_chain(
    history: &History,
    origin: &Arc<Device>,
    freeze: Duration,
    change: impl FnOnce(&mut Vec<Member>),
) -> Result<()> {
    let frozen = match freeze_all(std::slice::from_ref(origin), freeze) {
        Ok(frozen) => frozen,
        Err(_) if origin.is_gone() => Vec::new(),
        Err(error) => return Err(error),
    };
    let chain = history.chain.load_full();
    let mut members = chain.members.clone();
    change(&mut members);
    // Where a storage still has contents on the device, somebody has to see what is written there.
    let over = members.iter().all(|member| member.snapshot.is_none()) && !history.exclusions.in_use();
    let persistent = |member: &Member| member.snapshot.as_ref().is_some_and(|one| one.is_persistent());
    let keeper = chain.keeper.clone().filter(|_| members.iter().any(persistent));
    let unused = if keeper.is_none() { chain.keeper.clone() } else { None };
    history.chain.store(Arc::new(Chain::new(members, chain.hold_limit, keeper)));
    if over {
        let before = std::mem::replace(&mut *history.attachment(), Attachment::Over);
        if let (Attachment::Attached(id), Some(frozen)) = (before, frozen.first()) {
            frozen.detach(id)?;
        }
    }
    drop(frozen);
    // The last persistent snapshot is gone.
    unused.map_or(Ok(()), |keeper| keeper.end())
}

impl History {
    /// Ends a history that was only kept for a storage's contents on the device, once there are none.
    fn end_if_idle(&self, origin: &Arc<Device>, freeze: Duration) -> Result<()> {
        let _one_at_a_time = self.surgery.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = self.exclusions.any() && self.chain.load().snapshots().next().is_none();
        if !kept || self.is_over() || self.exclusions.in_use() {
            return Ok(());
        }
        change_chain(self, origin, freeze, |_| {})
    }

    /// Takes the snapshot out of the chain, and with it what no other snapshot needs.
    fn drop_member(&self, origin: &Arc<Device>, epoch: u64, freeze: Duration) -> Result<()> {
        if self.chain.load().position(epoch).is_none() {
            return Ok(());
        }
        let mut unread = Vec::new();
        change_chain(self, origin, freeze, |members| {
            if let Some(own) = members.iter_mut().find(|member| member.interval.epoch == epoch) {
                own.snapshot = None;
            }
            // What comes before the oldest snapshot is read by nobody.
            let oldest = members.iter().position(|member| member.snapshot.is_some()).unwrap_or(members.len());
            unread = members.drain(..oldest).map(|member| member.interval).collect();
        })?;
        for interval in unread {
            interval.lanes.seal(&self.table);
            for (_, zone) in interval.zones() {
                self.table.free(stored(zone.entries()).map(|(_, slot)| slot));
            }
        }
        Ok(())
    }

    /// Steps 2 to 4 for every orphan. Done again after a failure in step 3 it comes to the same: nothing is merged twice,
    /// and only what the target did not take over is freed.
    fn merge_orphans(&self, origin: &Arc<Device>, freeze: Duration) -> Result<()> {
        while let Some((target, orphan)) = self.next_merge() {
            orphan.lanes.seal(&self.table);
            merge(&target, &orphan);
            change_chain(self, origin, freeze, |members| {
                members.retain(|member| !Arc::ptr_eq(&member.interval, &orphan));
            })?;
            self.free_hidden(&target, &orphan);
        }
        Ok(())
    }

    /// The oldest orphan, and the interval before it.
    fn next_merge(&self) -> Option<(Arc<Interval>, Arc<Interval>)> {
        let chain = self.chain.load();
        let at = chain.members.iter().position(|member| member.snapshot.is_none())?;
        let target = chain.members.get(at.checked_sub(1)?)?;
        Some((target.interval.clone(), chain.members.get(at)?.interval.clone()))
    }

    /// Frees what the orphan has and the target did not take over.
    fn free_hidden(&self, target: &Interval, orphan: &Interval) {
        for (number, zone) in orphan.zones() {
            let kept = target.zone(number).map(super::zone::Zone::entries).unwrap_or_default();
            let mut kept = kept.into_iter().peekable();
            let hidden = stored(zone.entries()).filter(|entry| {
                while kept.next_if(|other| other.0 < entry.0).is_some() {}
                kept.peek() != Some(entry)
            });
            self.table.free(hidden.map(|(_, slot)| slot));
        }
    }
}

/// Inserts what the target lacks. The orphan does not change any more; the target changes only by this, or, if copies go
/// to it, by granules that the orphan lacks.
fn merge(target: &Interval, orphan: &Interval) {
    for (number, zone) in orphan.zones() {
        // Beyond the target's cover no older image has anything.
        if let Some(into) = target.zone_or_new(number) {
            into.absorb(&zone.entries());
        }
    }
}

fn stored(entries: Vec<(u16, SlotId)>) -> impl Iterator<Item = (u16, SlotId)> {
    entries.into_iter().filter(|entry| entry.1 != SlotId::ZERO)
}
