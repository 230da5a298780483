//! A world for persistent snapshots: an origin on a simulated disk, journals and stores in a simulated folder, one power
//! switch for both, and a ledger of what was promised when.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use bowline_block::*;
use bowline_device::Device;
use bowline_sim::{Crash, PowerSwitch, Rng, SimDisk};
use bowline_state::{Folder, SimFolder};

use super::support::*;
use crate::cow::journal::Damage;
use crate::cow::*;

/// Not a multiple of the granule.
pub(crate) const SIZE: u64 = 40 * G + 1536;

/// A snapshot that the daemon's document names.
#[derive(Clone)]
pub(crate) struct Noted {
    pub(crate) held: HeldSnapshot,
    /// What its image holds, image writes included.
    pub(crate) image: Vec<u8>,
    from: u64,
    until: Option<u64>,
    /// Moment, place and byte of each image write.
    written: Vec<(u64, ByteRange, u8)>,
    /// What was durable of the image from a moment on, and how many of the writes that covers.
    saved: Vec<(u64, Vec<u8>, usize)>,
}

impl Noted {
    /// A flush covers all that was written.
    pub(crate) fn all_saved(&mut self) {
        self.saved.push((0, self.image.clone(), self.written.len()));
    }

    /// Whether the image may be this after a cut at that moment.
    fn check(&self, found: &[u8], moment: u64) -> std::result::Result<(), String> {
        let (_, saved, covered) = self.saved.iter().rev().find(|(acked, ..)| *acked <= moment).unwrap();
        let later: Vec<_> = self.written[*covered..].iter().filter(|(begun, ..)| *begun <= moment).collect();
        for (at, &byte) in found.iter().enumerate() {
            let may_be = |(_, range, new): &&(u64, ByteRange, u8)| {
                *new == byte && (range.start()..range.end()).contains(&(at as u64))
            };
            if byte != saved[at] && !later.iter().any(may_be) {
                return Err(format!("has {byte} at {at}, not {}", saved[at]));
            }
        }
        Ok(())
    }
}

struct Flushed {
    contents: Vec<u8>,
    acked: u64,
    /// Writes begun by then are covered.
    writes: usize,
}

/// See the module.
pub(crate) struct World {
    pub(crate) power: PowerSwitch,
    pub(crate) disk: Arc<SimDisk>,
    pub(crate) folder: SimFolder,
    pub(crate) device: Arc<Device>,
    pub(crate) rng: Rng,
    pub(crate) now: Vec<u8>,
    pub(crate) snapshots: Vec<Snapshot>,
    pub(crate) noted: Vec<Noted>,
    /// Moment and range of each write.
    writes: Vec<(u64, ByteRange)>,
    flushed: Vec<Flushed>,
    taken: u32,
    damage: Option<Damage>,
    pub(crate) no_hold: bool,
    pub(crate) limits: Limits,
    /// Whether snapshots may come back failed, since something failed.
    pub(crate) may_fail: bool,
}

/// Storage in a file of the folder.
pub(crate) fn store_in(folder: &SimFolder, spec: &StoreSpec, new: bool) -> Result<Arc<DiffStorage>> {
    let name = spec.kind.location();
    let file = if new {
        let file = folder.create(&name)?;
        Folder::sync(folder)?;
        file
    } else {
        folder.open(&name)?.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no {name}")))?
    };
    let medium = Arc::new(StateMedium::new(file, name)?);
    DiffStorage::on_medium(spec.clone(), medium, Some(spec.step))
}

pub(crate) fn spec(name: &str) -> StoreSpec {
    StoreSpec { kind: StoreKind::File(PathBuf::from(format!("{name}.store"))), limit: 8 * MIB, step: MIB }
}

pub(crate) fn put(device: &Device, op: Op, at: u64, data: &[u8]) -> Result<()> {
    block_on(perform(device, op, ByteRange::new(at, data.len() as u64), data)).map(drop)
}

/// What comes back of these snapshots.
pub(crate) fn bring_back(
    folder: &SimFolder,
    device: &Arc<Device>,
    held: &[HeldSnapshot],
    fingerprint: &[u8],
) -> Result<Vec<Snapshot>> {
    let journals: Arc<dyn Folder> = Arc::new(folder.clone());
    recover(&Recovery {
        folder: &journals,
        devices: &[Returned { device: device.clone(), tracker: None, fingerprint: fingerprint.to_vec() }],
        held,
        open: &|specs| store_in(folder, &specs[0], false),
        events: &|_| Arc::new(NoEvents),
        limits: limits(),
    })
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let power = PowerSwitch::new();
        let mut disk = SimDisk::new(SIZE, seed).powered_by(&power);
        if seed % 2 == 1 {
            disk = disk.answering_now();
        }
        let disk = Arc::new(disk);
        let device = Device::new("disk", disk.clone());
        Self {
            folder: SimFolder::powered_by(&power),
            power,
            disk,
            device,
            rng: Rng::new(seed),
            now: vec![0; SIZE as usize],
            snapshots: Vec::new(),
            noted: Vec::new(),
            writes: Vec::new(),
            flushed: Vec::new(),
            taken: 0,
            damage: None,
            no_hold: false,
            limits: limits(),
            may_fail: false,
        }
    }

    pub(crate) fn plant(&mut self, damage: Damage) {
        self.damage = Some(damage);
    }

    fn span(&mut self) -> ByteRange {
        let sectors = SIZE / 512;
        let from = self.rng.below(sectors);
        let most = if self.rng.once_in(6) { 120 } else { 20 };
        let len = (1 + self.rng.below(most)).min(sectors - from);
        ByteRange::new(from * 512, len * 512)
    }

    fn change(&mut self, range: ByteRange, op: Op, byte: u8) {
        let data = vec![byte; range.len() as usize];
        self.writes.push((self.power.now(), range));
        put(&self.device, op, range.start(), &data).expect("I1: the origin never fails");
        self.now[range.start() as usize..range.end() as usize].copy_from_slice(&data);
    }

    pub(crate) fn write(&mut self) {
        let range = self.span();
        // Now and then zeroes, which are not stored.
        let byte = if self.rng.once_in(6) { 0 } else { self.rng.below(255) as u8 + 1 };
        self.change(range, Op::Write, byte);
    }

    pub(crate) fn clear(&mut self) {
        let range = self.span();
        let op = if self.rng.once_in(2) { Op::Discard } else { Op::WriteZeroes };
        self.change(range, op, 0);
    }

    /// Several writes at once, far from each other.
    pub(crate) fn burst(&mut self) {
        let device = &self.device;
        let before = self.power.now();
        let ranges: Vec<_> = (0..4u64).map(|nth| ByteRange::new(nth * 10 * G + 512, 3 * G)).collect();
        let byte = self.rng.below(255) as u8 + 1;
        std::thread::scope(|scope| {
            for range in &ranges {
                scope.spawn(move || {
                    put(device, Op::Write, range.start(), &vec![byte; 3 * G as usize]).unwrap();
                });
            }
        });
        for range in ranges {
            self.writes.push((before, range));
            self.now[range.start() as usize..range.end() as usize].fill(byte);
        }
    }

    pub(crate) fn flush(&mut self) {
        let (contents, writes) = (self.now.clone(), self.writes.len());
        block_on(self.device.submit(Io::bare(Request::flush()))).result.unwrap();
        self.flushed.push(Flushed { contents, acked: self.power.now(), writes });
    }

    fn history(&self) -> Option<Arc<History>> {
        self.snapshots.last().map(|one| one.devices()[0].history().clone())
    }

    pub(crate) fn take(&mut self, persistent: bool) {
        self.taken += 1;
        let name = format!("s{}", self.taken);
        let origin = [Origin::new(self.device.clone(), self.history())];
        let image = self.now.clone();
        let snapshot = if persistent {
            let folder: Arc<dyn Folder> = Arc::new(self.folder.clone());
            let storage = match store_in(&self.folder, &spec(&name), true) {
                Err(_) if self.may_fail => return,
                opened => opened.unwrap(),
            };
            match take_persistent(&name, &origin, &storage, Arc::new(NoEvents), self.limits, &folder) {
                Ok(snapshot) => snapshot,
                Err(_) if self.may_fail => return,
                Err(error) => panic!("{error}"),
            }
        } else {
            take(&name, &origin, &memory(8 * MIB), Arc::new(NoEvents), limits()).unwrap()
        };
        let history = snapshot.devices()[0].history();
        history.no_hold.store(self.no_hold, std::sync::atomic::Ordering::Relaxed);
        if let (Some(damage), Some(keeper)) = (self.damage, &history.chain.load().keeper) {
            keeper.journal.plant(damage);
        }
        if persistent {
            let device = HeldDevice { name: "disk".to_owned(), tracked: None, excluded: Vec::new() };
            let held = HeldSnapshot {
                name,
                id: snapshot.id(),
                taken_at: SystemTime::UNIX_EPOCH,
                on_full: OnFull::Drop,
                devices: vec![device],
                failed: None,
            };
            let from = self.power.now();
            let saved = vec![(0, image.clone(), 0)];
            self.noted.push(Noted { held, image, from, until: None, written: Vec::new(), saved });
        }
        self.snapshots.push(snapshot);
    }

    pub(crate) fn remove(&mut self) {
        if self.snapshots.len() < 2 {
            return;
        }
        let snapshot = self.snapshots.remove(self.rng.index(self.snapshots.len()));
        let now = self.power.now();
        let same = |one: &&mut Noted| one.held.id == snapshot.id();
        self.noted.iter_mut().filter(same).for_each(|one| one.until = Some(now));
        snapshot.remove(FREEZE).unwrap();
    }

    /// Writes to an image, or flushes one.
    pub(crate) fn use_image(&mut self) {
        let which = self.rng.index(self.snapshots.len());
        let Some(snapshot) = self.snapshots.get(which).filter(|one| one.is_persistent()) else { return };
        let image = snapshot.devices()[0].image().clone();
        let id = snapshot.id();
        let (range, byte) = (self.span(), self.rng.below(3) as u8 * 100);
        let Some(noted) = self.noted.iter_mut().find(|one| one.held.id == id) else { return };
        if self.rng.once_in(3) {
            let (contents, covered) = (noted.image.clone(), noted.written.len());
            if block_on(image.submit(Io::bare(Request::flush()))).result.is_ok() {
                noted.saved.push((self.power.now(), contents, covered));
            }
            return;
        }
        let op = if byte == 0 { Op::Discard } else { Op::Write };
        noted.written.push((self.power.now(), range, byte));
        if block_on(perform(&*image, op, range, &vec![byte; range.len() as usize])).is_ok() {
            noted.image[range.start() as usize..range.end() as usize].fill(byte);
        }
    }

    pub(crate) fn live(&mut self, steps: u64) {
        for _ in 0..6 {
            self.write();
        }
        self.take(true);
        for _ in 0..steps {
            match self.rng.below(18) {
                0 => self.take(true),
                1 => self.take(false),
                2 => self.remove(),
                3 => self.flush(),
                4 | 5 => self.clear(),
                6 => self.burst(),
                7..=9 => self.use_image(),
                _ => self.write(),
            }
        }
    }

    pub(crate) fn held_at(&self, moment: u64) -> Vec<&Noted> {
        let there = |one: &&Noted| one.from <= moment && one.until.is_none_or(|until| until > moment);
        self.noted.iter().filter(there).collect()
    }

    /// Checks what is left after a cut at that moment: every snapshot exact, everything flushed there. With `go_on`, the
    /// origin is written all over afterwards.
    pub(crate) fn check(
        &self,
        folder: &SimFolder,
        moment: u64,
        crash: Crash,
        go_on: bool,
    ) -> std::result::Result<(), String> {
        let left = self.disk.cut_at(moment, crash);
        self.check_flushed(&left.bytes(ByteRange::new(0, SIZE)), moment)?;
        let disk = Arc::new(SimDisk::with_image(left, moment).answering_now());
        let device = Device::new("disk", disk);
        let noted = self.held_at(moment);
        let held: Vec<_> = noted.iter().map(|one| one.held.clone()).collect();
        let snapshots = bring_back(folder, &device, &held, b"").map_err(|error| error.to_string())?;
        let exact = |when: &str| {
            for (noted, snapshot) in noted.iter().zip(&snapshots) {
                let name = &noted.held.name;
                if let SnapshotState::Failed { reason } = snapshot.state() {
                    if self.may_fail {
                        continue;
                    }
                    return Err(format!("I2: {name} {when}: {reason}"));
                }
                let found = read(image(snapshot), ByteRange::new(0, SIZE))
                    .map_err(|error| format!("I2: {name} {when}: {error}"))?;
                noted.check(&found, moment).map_err(|why| format!("I2: {name} {when} {why}"))?;
            }
            Ok(())
        };
        exact("came back")?;
        if go_on {
            put(&device, Op::Write, 0, &vec![0xee; SIZE as usize]).unwrap();
            exact("went on")?;
        }
        Ok(())
    }

    fn check_flushed(&self, left: &[u8], moment: u64) -> std::result::Result<(), String> {
        let Some(flushed) = self.flushed.iter().rev().find(|one| one.acked <= moment) else { return Ok(()) };
        let mut touched = vec![false; SIZE as usize];
        for (begun, range) in &self.writes[flushed.writes..] {
            if *begun <= moment {
                touched[range.start() as usize..range.end() as usize].fill(true);
            }
        }
        let wrong = (0..SIZE as usize).find(|&at| !touched[at] && left[at] != flushed.contents[at]);
        wrong.map_or(Ok(()), |at| Err(format!("I7: byte {at} was flushed and is lost")))
    }

    /// Every cut, with `seeds` seeds each, and what a kill leaves.
    pub(crate) fn check_every_cut(&self, seeds: u64) -> std::result::Result<u64, String> {
        let mut walk = self.folder.walk();
        let from = self.noted.first().map_or(0, |one| one.from);
        walk.go_to(from.saturating_sub(1));
        for moment in from..=self.power.now() {
            walk.go_to(moment);
            for seed in 0..seeds {
                let (seed, crash) = match seed {
                    0 => (0, Crash::LoseAll),
                    1 => (1, Crash::KeepAll),
                    _ => (seed ^ moment << 8, Crash::Seeded(seed ^ moment << 8)),
                };
                self.check(&walk.cut(seed), moment, crash, moment % 7 == seed % 7)
                    .map_err(|why| format!("cut at {moment}, seed {seed}: {why}"))?;
            }
            self.check(&walk.kill(), moment, Crash::KeepAll, moment % 5 == 0)
                .map_err(|why| format!("killed at {moment}: {why}"))?;
        }
        Ok(self.power.now() - from)
    }
}
