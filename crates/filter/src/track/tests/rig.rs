//! A device in memory with a durable tracker, and a log of what happened when.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bowline_block::{ByteRange, Result};
use bowline_device::Device;
use bowline_sim::Rng;
use bowline_state::{Folder, SimFolder};
use uuid::Uuid;

use super::support::{Memory, attach, close, write};
use crate::track::grain::{Grain, Run};
use crate::track::{
    Closed, Continuity, Fingerprint, Identity, NoTrackEvents, Opened, StoreIdentity, Traces, TrackEvents,
    TrackLimits, Tracker,
};

pub(crate) const BLOCK: u64 = 4096;

pub(crate) fn identity(size: u64) -> Identity {
    Identity {
        device: "d".to_owned(),
        size,
        source: "/images/d".to_owned(),
        store: StoreIdentity::File { dev: 1, ino: 2 },
    }
}

pub(crate) fn fingerprint(size: u64) -> Fingerprint {
    Fingerprint { size, traces: Traces::None, samples_crc: 7 }
}

/// Notes what it is told.
#[derive(Default)]
pub(crate) struct Told(pub(crate) Mutex<Vec<String>>);

impl TrackEvents for Told {
    fn renewed(&self, _: &str, reason: &str) {
        self.0.lock().unwrap().push(format!("renewed: {reason}"));
    }

    fn not_durable(&self, _: &str, reason: &str) {
        self.0.lock().unwrap().push(format!("not durable: {reason}"));
    }
}

pub(crate) fn open(folder: &SimFolder, size: u64, session: Option<Uuid>) -> Opened {
    open_as(folder, &identity(size), session, &|| Ok(fingerprint(size)))
}

pub(crate) fn open_as(
    folder: &SimFolder,
    identity: &Identity,
    session: Option<Uuid>,
    now: &dyn Fn() -> Result<Fingerprint>,
) -> Opened {
    let folder: Arc<dyn Folder> = Arc::new(folder.clone());
    Tracker::open(&folder, identity, session, now, Arc::new(NoTrackEvents), limits())
}

pub(crate) fn limits() -> TrackLimits {
    TrackLimits { hold: Duration::from_secs(20) }
}

/// What happened, and the moment of the folder's power at which it had.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    Write { moment: u64, generation: Uuid, epoch: u64, block: u64 },
    Take { moment: u64, closed: Closed },
}

/// A device and its tracker. The device survives crashes of the folder.
pub(crate) struct Rig {
    pub(crate) folder: SimFolder,
    pub(crate) tracker: Arc<Tracker>,
    pub(crate) device: Arc<Device>,
    pub(crate) continuity: Continuity,
    pub(crate) size: u64,
    pub(crate) log: Vec<Event>,
    takes: u64,
}

impl Rig {
    pub(crate) fn new(folder: SimFolder, size: u64, session: Option<Uuid>) -> Self {
        let Opened { tracker, continuity } = open(&folder, size, session);
        let device = Device::new("d", Memory::new(size));
        attach(&device, &tracker);
        Self { folder, tracker, device, continuity, size, log: Vec::new(), takes: 0 }
    }

    pub(crate) fn write(&mut self, block: u64) {
        write(&self.device, block * BLOCK, &[1; 512]);
        let (generation, epoch) = (self.tracker.generation(), self.tracker.epoch());
        let moment = self.folder.power().now();
        self.log.push(Event::Write { moment, generation, epoch, block });
    }

    pub(crate) fn take(&mut self) -> u64 {
        self.takes += 1;
        let epoch = close(&self.device, &self.tracker, &format!("s{}", self.takes));
        let closed = Closed { epoch, generation: self.tracker.generation() };
        self.log.push(Event::Take { moment: self.folder.power().now(), closed });
        epoch
    }

    /// Random writes and takes.
    pub(crate) fn play(&mut self, rng: &mut Rng, steps: u64) {
        let blocks = self.size / BLOCK;
        for _ in 0..steps {
            if rng.once_in(6) {
                self.take();
            } else {
                // A few regions are hot, so that intents are met again.
                let block = if rng.once_in(2) { rng.below(blocks) } else { rng.below(blocks / 256) };
                self.write(block);
            }
        }
    }

    pub(crate) fn save(&self) -> Uuid {
        self.tracker.save(&fingerprint(self.size)).unwrap()
    }
}

/// What a tracker that was opened after a cut at `moment` must say (I4), and may say at most.
pub(crate) fn check(
    opened: &Opened,
    log: &[Event],
    moment: u64,
    size: u64,
) -> std::result::Result<(), String> {
    let known = log.iter().filter_map(|event| match event {
        Event::Take { moment: at, closed } if *at <= moment => Some(*closed),
        _ => None,
    });
    for closed in known {
        if opened.tracker.generation() != closed.generation {
            return Err(format!(
                "take {} is of a generation that is gone: {:?}",
                closed.epoch, opened.continuity
            ));
        }
        let set = opened
            .tracker
            .changed_in(closed.generation, closed.epoch, None)
            .map_err(|error| format!("since {}: {error}", closed.epoch))?;
        let later = log.iter().filter_map(|event| match event {
            Event::Write { moment, generation, epoch, block }
                if *generation == closed.generation && *epoch > closed.epoch =>
            {
                Some((*moment, *block))
            }
            _ => None,
        });
        let mut regions = std::collections::BTreeSet::new();
        let grain = Grain::regions_of(size);
        for (at, block) in later {
            let range = ByteRange::new(block * BLOCK, BLOCK);
            if at <= moment && !set.contains(range) {
                return Err(format!("I4: since {} block {block} is missed", closed.epoch));
            }
            regions.insert(grain.touched_by(range).first);
        }
        for range in set.ranges(0) {
            let Run { first, end } = grain.touched_by(range);
            // What was asked for ahead may be there too.
            let near = |region: u64| regions.range(region.saturating_sub(16)..=region).next().is_some();
            if let Some(region) = (first..end).find(|region| !near(*region)) {
                return Err(format!(
                    "since {} region {region} counts, where nothing was written",
                    closed.epoch
                ));
            }
        }
    }
    Ok(())
}
