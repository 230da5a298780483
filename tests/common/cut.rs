//! The checker of consistent cuts (I3): for all devices of a snapshot, a write that is in an image brings every write
//! with it that was acknowledged before it was submitted, on whichever device.
//!
//! Writers never stop. Each goes over all devices in turn. One clock counts: a write notes its reading before it is
//! submitted and after it is acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::daemon::Daemon;
use super::nbd::Nbd;
use super::oracle::{Found, SECTOR, filled, judge};

/// Sectors that a writer goes round in on each device: few, so that most writes preserve something.
const SLOTS: u64 = 64;

/// One write: its sequence is its place in its writer's list, from 1.
#[derive(Clone, Copy)]
pub(crate) struct Write {
    pub(crate) device: usize,
    pub(crate) sector: u64,
    pub(crate) submitted: u64,
    /// `u64::MAX`: not in this life.
    pub(crate) acknowledged: u64,
}

/// What a snapshot shows of all its devices.
pub(crate) struct Cut {
    /// What each device's image holds, by sector.
    pub(crate) images: Vec<Vec<u64>>,
    /// Readings of the clock around the take.
    pub(crate) began: u64,
    pub(crate) ended: u64,
}

/// The writers, and their clock.
pub(crate) struct InTurn {
    clock: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<Write>>>,
}

impl InTurn {
    /// As many writers as asked for, each over all the devices, from sector `first` of each on. They need
    /// [`InTurn::sectors`] there.
    pub(crate) fn start(daemon: &Daemon, devices: &[&str], writers: u64, first: u64) -> Self {
        let (clock, stop) = (Arc::new(AtomicU64::new(1)), Arc::new(AtomicBool::new(false)));
        let one = |id| {
            let disks = devices.iter().map(|name| daemon.connect(name)).collect();
            let (clock, stop) = (clock.clone(), stop.clone());
            std::thread::spawn(move || write_on(id, first, disks, &clock, &stop))
        };
        let threads = (0..writers).map(one).collect();
        InTurn { clock, stop, threads }
    }

    /// Sectors that so many writers write to.
    pub(crate) fn sectors(writers: u64) -> u64 {
        writers * SLOTS * 8
    }

    /// The clock, before or after something.
    pub(crate) fn now(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    /// Waits until so much has been written as a clock tells.
    pub(crate) fn let_write(&self, more: u64) {
        let until = self.clock.load(Ordering::SeqCst) + 2 * more;
        super::tools::eventually("the writers in turn go on", || {
            let ended = self.threads.iter().any(JoinHandle::is_finished);
            (ended || self.clock.load(Ordering::SeqCst) >= until).then_some(())
        });
    }

    /// Stops them; each one's writes.
    pub(crate) fn finish(self) -> Vec<Vec<Write>> {
        self.stop.store(true, Ordering::SeqCst);
        self.threads.into_iter().map(|writer| writer.join().unwrap()).collect()
    }
}

fn write_on(id: u64, first: u64, mut disks: Vec<Nbd>, clock: &AtomicU64, stop: &AtomicBool) -> Vec<Write> {
    let mut writes = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(60);
    let devices = disks.len() as u64;
    while !stop.load(Ordering::SeqCst) && Instant::now() < deadline {
        let turn = writes.len() as u64;
        let device = usize::try_from(turn % devices).unwrap();
        // Eight sectors apart: each in a block of its own.
        let sector = first + (id * SLOTS + turn / devices % SLOTS) * 8;
        let bytes = filled(sector, 1, u32::try_from(id).unwrap(), turn + 1);
        let submitted = clock.fetch_add(1, Ordering::SeqCst);
        disks[device].write(sector * SECTOR as u64, &bytes).unwrap_or_else(|error| panic!("I6: {error}"));
        let acknowledged = clock.fetch_add(1, Ordering::SeqCst);
        writes.push(Write { device, sector, submitted, acknowledged });
    }
    writes
}

/// The first write that should be in the images and is not, or the other way round.
pub(crate) fn violation(writers: &[Vec<Write>], cut: &Cut) -> Option<String> {
    let held = |write: &Write| cut.images[write.device][usize::try_from(write.sector).unwrap()];
    let all = || {
        let numbered = |(id, list): (usize, &Vec<Write>)| {
            (1..).zip(list.clone()).map(move |(sequence, write)| (id, sequence, write))
        };
        writers.iter().enumerate().flat_map(numbered).collect::<Vec<(usize, u64, Write)>>()
    };
    // The newest moment that any image shows.
    let newest =
        all().iter().filter(|(_, seq, write)| held(write) == *seq).map(|(_, _, write)| write.submitted).max();
    let due = newest.unwrap_or(0).max(cut.began);
    for (id, sequence, write) in all() {
        if write.acknowledged < due && held(&write) < sequence {
            let device = write.device;
            return Some(format!("write {sequence} of writer {id} is missing on device {device}"));
        }
        if write.submitted > cut.ended && held(&write) == sequence {
            return Some(format!("write {sequence} of writer {id} came after the take"));
        }
    }
    None
}

/// The sequence in each sector of an image.
pub(crate) fn sequences(image: &[u8]) -> Vec<u64> {
    let sound = |(number, sector): (u64, &[u8])| match judge(sector, number) {
        Ok(Found::Zero) => 0,
        Ok(Found::Written(stamp)) => stamp.sequence,
        Err(damage) => panic!("I2: sector {number}: {damage:?}"),
    };
    (0..).zip(image.chunks(SECTOR)).map(sound).collect()
}
