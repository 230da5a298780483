//! Opening a tracker with the files of an earlier run, or making them anew.

use std::sync::{Arc, Mutex};

use bowline_block::Result;
use bowline_state::Folder;
use roaring::RoaringBitmap;
use uuid::Uuid;

use super::current::{Current, Shape};
use super::disk::header::{Header, State};
use super::disk::record::Record;
use super::disk::{HEADER_FILE, INTENTS_FILE, LIVE_FILE, SETS_FILE, SETS_NEW_FILE};
use super::durable::{Durable, Files, GRANT, lay_out_intents};
use super::epochs::{Chain, Member, SetLimits};
use super::events::TrackEvents;
use super::fingerprint::Fingerprint;
use super::identity::Identity;
use super::intents::{Desk, IntentMap};
use super::map::insert;
use super::recover::{self, Expected, Past};
use super::tracker::{DiskState, Start, TrackLimits, Tracker};

/// What a tracker knows of what was before it was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Continuity {
    /// Everything: it was stopped in order.
    Clean,
    /// Everything, and perhaps more: it was not stopped in order.
    AfterCrash {
        /// Regions that count as changed since, because something may have been written there.
        regions: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// Nothing: a new generation began, and a full read is needed.
    Renewed {
        /// Why.
        reason: String,
    },
}

/// An open tracker.
pub struct Opened {
    /// The tracker.
    pub tracker: Arc<Tracker>,
    /// What it knows of before.
    pub continuity: Continuity,
}

/// A run that has begun on disk.
struct Begun {
    files: Files,
    epoch: u64,
    members: Vec<Member>,
    /// What the epoch that is going on has changed already.
    live: Arc<RoaringBitmap>,
}

impl Tracker {
    /// Opens the tracker of the device whose files are in that folder. `session` is what [`Tracker::session`] was at
    /// last, if that is known; `fingerprint_now` is asked only if the tracker was stopped in order. Nothing may change on
    /// the device before this returns. Blocks.
    ///
    /// This does not fail: where the files cannot be believed, a new generation begins; where they cannot be written,
    /// what changes is tracked in memory only, and `events` are told. [`Tracker::session`] should be noted in each case.
    #[must_use]
    pub fn open(
        folder: &Arc<dyn Folder>,
        identity: &Identity,
        session: Option<Uuid>,
        fingerprint_now: &dyn Fn() -> Result<Fingerprint>,
        events: Arc<dyn TrackEvents>,
        limits: TrackLimits,
    ) -> Opened {
        Self::open_within(
            folder,
            &Expected { identity, session, fingerprint_now },
            events,
            limits,
            SetLimits::default(),
        )
    }

    pub(crate) fn open_within(
        folder: &Arc<dyn Folder>,
        expected: &Expected<'_>,
        events: Arc<dyn TrackEvents>,
        limits: TrackLimits,
        set_limits: SetLimits,
    ) -> Opened {
        let identity = expected.identity;
        let past = recover::read(&**folder, expected);
        let mut continuity = match &past {
            Past::Clean { .. } => Continuity::Clean,
            Past::Crashed { regions, bytes, .. } => {
                Continuity::AfterCrash { regions: *regions, bytes: *bytes }
            }
            Past::Nothing { reason } => Continuity::Renewed { reason: reason.clone() },
        };
        let begun = match past {
            Past::Clean { header, members, sets_len, live } => {
                begin_again(folder, header, members, sets_len, live)
            }
            Past::Crashed { header, members, .. } => begin_recovered(folder, header, members),
            Past::Nothing { .. } => begin_anew(folder, identity),
        };
        let begun = begun.and_then(|begun| {
            let intents = folder.open(INTENTS_FILE)?;
            let missing = || super::disk::bytes::corrupt("its tracker's file intents is missing");
            Ok((intents.ok_or_else(missing)?, begun))
        });
        let start = match begun {
            Ok((intents, begun)) => started(begun, intents, limits, set_limits),
            Err(error) => {
                // What is there must not be believed next time, since what changes from now on is not noted there.
                let revoked = folder.remove(HEADER_FILE).and_then(|()| folder.sync());
                let reason = match revoked {
                    Ok(()) => format!("its tracker's files cannot be written: {error}"),
                    Err(also) => {
                        format!("its tracker's files can neither be written ({error}) nor removed ({also})")
                    }
                };
                events.not_durable(&identity.device, &reason);
                continuity = Continuity::Renewed { reason };
                in_memory(identity, set_limits)
            }
        };
        Opened { tracker: Self::start(&identity.device, events, start), continuity }
    }
}

fn in_memory(identity: &Identity, set_limits: SetLimits) -> Start {
    let current = Current::new(Uuid::new_v4(), 1, Shape::of(identity.size), None);
    // Not that of the files, should they still be there.
    let disk = DiskState { session: Some(Uuid::new_v4()), ..DiskState::default() };
    Start { current, chain: Chain::default(), disk, durable: None, set_limits }
}

fn started(
    begun: Begun,
    intents: Arc<dyn bowline_state::StateFile>,
    limits: TrackLimits,
    set_limits: SetLimits,
) -> Start {
    let Begun { files, epoch, members, live } = begun;
    let header = &files.header;
    let shape = header.shape();
    let map = IntentMap::new(shape.region_count(), epoch, true);
    let current = Current::new(header.generation, epoch, shape, Some(map));
    current.map.set_all(&live);
    let disk = DiskState {
        on: true,
        saved: epoch - 1,
        limit: header.epoch_limit,
        session: Some(header.session),
        ..DiskState::default()
    };
    let durable = Durable {
        desk: Desk::default(),
        hold: limits.hold,
        files: Mutex::new(files),
        intents: Mutex::new(intents),
        #[cfg(test)]
        skip_sync: std::sync::atomic::AtomicBool::new(false),
    };
    Start { current, chain: Chain::from_members(members), disk, durable: Some(durable), set_limits }
}

/// Goes on where an earlier run was stopped in order: that mark is taken away before anything changes.
fn begin_again(
    folder: &Arc<dyn Folder>,
    mut header: Header,
    members: Vec<Member>,
    sets_len: u64,
    live: Arc<RoaringBitmap>,
) -> Result<Begun> {
    header.previous_session = std::mem::replace(&mut header.session, Uuid::new_v4());
    header.epoch_limit = header.epoch_limit.max(header.epoch + GRANT);
    header.state = State::Running;
    let missing = || super::disk::bytes::corrupt("its tracker's file sets is missing");
    let sets = folder.open(SETS_FILE)?.ok_or_else(missing)?;
    let regions = Shape::of(header.identity.size).regions;
    if regions != header.regions
        && let Some(intents) = folder.open(INTENTS_FILE)?
    {
        // Behind a clean stop nobody reads intents: an earlier version's regions end here.
        header.regions = regions;
        lay_out_intents(&*intents, &header)?;
    }
    folder.replace(HEADER_FILE, &header.encode())?;
    let epoch = header.epoch;
    let files = Files { folder: folder.clone(), sets, sets_len, header };
    Ok(Begun { files, epoch, members, live })
}

/// Goes on behind a crash: what was made up from intents is written down as sets first.
fn begin_recovered(folder: &Arc<dyn Folder>, mut header: Header, members: Vec<Member>) -> Result<Begun> {
    let missing = || super::disk::bytes::corrupt("its tracker's file sets is missing");
    let sets = folder.open(SETS_FILE)?.ok_or_else(missing)?;
    let epoch = header.epoch_limit;
    let shape = header.shape();
    // What was excluded may have changed without a trace. It counts from now on.
    let mut live = RoaringBitmap::new();
    for range in &header.excluded {
        let blocks =
            shape.blocks.touched_by(range.intersection(bowline_block::ByteRange::new(0, shape.size)));
        insert(&mut live, blocks);
    }
    let live = Arc::new(live);
    let mut files = Files { folder: folder.clone(), sets, sets_len: 0, header: header.clone() };
    files.rewrite(members.iter())?;
    let generation = header.generation;
    let record = Record { generation, first: epoch, last: epoch, names: Vec::new(), set: live.clone() };
    folder.replace(LIVE_FILE, &record.encode())?;
    header.previous_session = std::mem::replace(&mut header.session, Uuid::new_v4());
    header.epoch = epoch;
    header.epoch_limit = epoch + GRANT;
    header.saved_epoch = epoch - 1;
    header.live_epoch = epoch;
    header.excluded.clear();
    folder.replace(HEADER_FILE, &header.encode())?;
    files.header = header;
    Ok(Begun { files, epoch, members, live })
}

/// Begins with nothing.
fn begin_anew(folder: &Arc<dyn Folder>, identity: &Identity) -> Result<Begun> {
    // Without a header nothing is believed: so it goes first and comes last.
    folder.remove(HEADER_FILE)?;
    folder.sync()?;
    let Shape { blocks, regions, .. } = Shape::of(identity.size);
    let header = Header {
        identity: identity.clone(),
        blocks,
        regions,
        generation: Uuid::new_v4(),
        session: Uuid::new_v4(),
        previous_session: Uuid::nil(),
        epoch: 1,
        epoch_limit: 1 + GRANT,
        live_epoch: 0,
        saved_epoch: 0,
        excluded: Vec::new(),
        state: State::Running,
    };
    let intents = folder.create(INTENTS_FILE)?;
    lay_out_intents(&*intents, &header)?;
    let sets = folder.create(SETS_FILE)?;
    sets.sync()?;
    folder.remove(LIVE_FILE)?;
    folder.remove(SETS_NEW_FILE)?;
    folder.sync()?;
    folder.replace(HEADER_FILE, &header.encode())?;
    let files = Files { folder: folder.clone(), sets, sets_len: 0, header };
    Ok(Begun { files, epoch: 1, members: Vec::new(), live: Arc::default() })
}
