//! The power is cut, or the process killed, at every moment of a rollback: going on with it never puts old contents over
//! what was acknowledged later (after a kill) or flushed later (after a power cut), and in the end every sector is the
//! snapshot's or was written later (I4 of rollbacks, I7).

use std::sync::Arc;
use std::time::Duration;

use bowline_block::*;
use bowline_device::Device;
use bowline_sim::{Crash, Image, PowerSwitch, SimDisk};
use bowline_state::{Folder, SimFolder};
use uuid::Uuid;

use super::super::core::Core;
use super::super::log::Log;
use super::super::pending::ZoneBits;
use super::super::source::{ReadFuture, Source};
use super::*;
use crate::cow::tests::threads::Dice;

const SECTOR: u64 = 512;
const GRANULES: u64 = 96;
const SECTORS: u64 = GRANULES * 8;
const SIZE: u64 = GRANULES * G;
const SNAPSHOT: Uuid = Uuid::from_u128(7);
/// Boots.
const FIRST: Uuid = Uuid::from_u128(1);
const SECOND: Uuid = Uuid::from_u128(2);

/// Versions of a sector: the snapshot's, what was written before the rollback, and writes behind it from there on.
const TAKEN: u64 = 1;
const BEFORE: u64 = 2;

fn sector_bytes(sector: u64, version: u64) -> [u8; SECTOR as usize] {
    let mut bytes = [version as u8 | 1; SECTOR as usize];
    bytes[..8].copy_from_slice(&sector.to_le_bytes());
    bytes[8..16].copy_from_slice(&version.to_le_bytes());
    bytes
}

fn version_of(sector: u64, bytes: &[u8]) -> std::result::Result<u64, String> {
    let version = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
    if bytes == sector_bytes(sector, version) { Ok(version) } else { Err(format!("sector {sector} is torn")) }
}

/// Whether a granule was changed since the take: not all, so that there are many runs.
fn is_changed(granule: u64) -> bool {
    !granule.is_multiple_of(5)
}

/// A snapshot that outlives everything; slow, so that writers come between, or not.
#[derive(Clone, Copy)]
struct Taken(Duration);

impl Source for Taken {
    fn preserved(&self) -> Result<ZoneBits> {
        let mut bits = Box::new([0; 64]);
        for granule in (0..GRANULES).filter(|&granule| is_changed(granule)) {
            bits[granule as usize / 64] |= 1 << (granule % 64);
        }
        Ok(ZoneBits::from([(0, bits)]))
    }

    fn read<'a>(&'a self, range: ByteRange, data: &'a mut [u8]) -> ReadFuture<'a> {
        Box::pin(async move {
            std::thread::sleep(self.0);
            for (at, sector) in data.chunks_mut(SECTOR as usize).enumerate() {
                sector.copy_from_slice(&sector_bytes(range.start() / SECTOR + at as u64, TAKEN));
            }
            Ok(())
        })
    }
}

struct Written {
    first: u64,
    count: u64,
    version: u64,
    submitted: u64,
    acknowledged: u64,
    /// From when on no power cut may lose it.
    durable: u64,
}

/// A run, all of whose moments can be cut.
struct Run {
    disk: Arc<SimDisk>,
    folder: SimFolder,
    power: PowerSwitch,
    /// When it had begun.
    begun: u64,
    writes: Vec<Written>,
}

fn core_over(disk: &Arc<SimDisk>, taken: Taken) -> (Arc<Device>, Arc<Core>) {
    let device = Device::new("disk", disk.clone() as Arc<dyn Store>);
    let core = Core::new(&device, Box::new(taken));
    (device, core)
}

fn options_in(folder: &SimFolder) -> RollbackOptions {
    let folder: Arc<dyn Folder> = Arc::new(folder.clone());
    RollbackOptions { folder: Some(folder), ..options() }
}

fn image_before() -> Image {
    let mut image = Image::zeroed(SIZE);
    for sector in 0..SECTORS {
        let version = if is_changed(sector / 8) { BEFORE } else { TAKEN };
        image.write(sector * SECTOR, &sector_bytes(sector, version));
    }
    image
}

fn run(seed: u64, stops: bool) -> Run {
    let power = PowerSwitch::new();
    let disk = Arc::new(SimDisk::with_image(image_before(), seed).powered_by(&power));
    let folder = SimFolder::powered_by(&power);
    let taken = Taken(Duration::from_micros(300));
    let (device, core) = core_over(&disk, taken);
    core.begin(&options_in(&folder), SNAPSHOT, FIRST, None, |_| taken.preserved()).unwrap();
    let begun = power.now();
    let mut dice = Dice(seed * 0x1234_5679 + 99);
    let mut writes: Vec<Written> = Vec::new();
    for turn in 0..36 {
        if stops && turn == 20 {
            core.end("stopped");
        }
        match dice.roll(6) {
            0 => {
                let at = power.now();
                block_on(perform(&*device, Op::Flush, ByteRange::new(0, 0), &[])).unwrap();
                let now = power.now();
                let covered = writes.iter_mut().filter(|one| one.acknowledged <= at);
                covered.for_each(|one| one.durable = one.durable.min(now));
            }
            kind => {
                let count = if kind == 1 { 8 * (1 + dice.roll(3)) } else { 1 + dice.roll(20) };
                let mut first = dice.roll(SECTORS - count + 1);
                if kind == 1 {
                    first -= first % 8;
                }
                let version = BEFORE + 1 + turn;
                let data: Vec<u8> = (first..first + count).flat_map(|at| sector_bytes(at, version)).collect();
                let flags = if kind == 2 { Flags::FUA } else { Flags::empty() };
                let range = ByteRange::new(first * SECTOR, count * SECTOR);
                let submitted = power.now();
                let request = Request::new(Op::Write, range).with_flags(flags);
                block_on(device.submit(Io::new(request, Buf::copy_of(&data)))).result.unwrap();
                let acknowledged = power.now();
                let durable = if kind == 2 { acknowledged } else { u64::MAX };
                writes.push(Written { first, count, version, submitted, acknowledged, durable });
            }
        }
    }
    if !stops {
        done(&Rollback { core });
    }
    Run { disk, folder, power, begun, writes }
}

/// Goes on after a crash, to the end; what the device holds then. `None` where there was no log.
fn go_on(image: Image, folder: &SimFolder, boot: Uuid) -> std::result::Result<Option<Vec<u8>>, String> {
    let disk = Arc::new(SimDisk::with_image(image, 1));
    let Some(found) = Log::open(folder).map_err(|error| error.to_string())? else {
        return Ok(None);
    };
    let pending = found.pending(boot == found.header.boot).map_err(|error| error.to_string())?;
    let (_device, core) = core_over(&disk, Taken(Duration::ZERO));
    core.begin(&options_in(folder), SNAPSHOT, boot, Some(boot == FIRST), |_| Ok(pending))
        .map_err(|error| error.to_string())?;
    done(&Rollback { core });
    Ok(Some(disk.contents().bytes(ByteRange::new(0, SIZE))))
}

impl Run {
    /// What is wrong behind a crash at a moment; `kept` says from when on a write must not be lost.
    fn check(
        &self,
        moment: u64,
        bytes: &[u8],
        rolled_back: bool,
        kept: impl Fn(&Written) -> u64,
    ) -> std::result::Result<(), String> {
        for (sector, bytes) in (0..SECTORS).zip(bytes.chunks(SECTOR as usize)) {
            let version = version_of(sector, bytes)?;
            let of_sector = || {
                let all = self.writes.iter().filter(|one| one.submitted <= moment);
                all.filter(|one| (one.first..one.first + one.count).contains(&sector))
            };
            let least = of_sector().filter(|one| kept(one) <= moment).map(|one| one.version).max();
            let legal = match version {
                BEFORE => !rolled_back && is_changed(sector / 8) && least.is_none(),
                TAKEN => least.is_none() && (rolled_back || !is_changed(sector / 8)),
                _ => of_sector().any(|one| one.version == version) && Some(version) >= least,
            };
            if !legal {
                return Err(format!(
                    "sector {sector} holds version {version}, at least {least:?} had to be kept"
                ));
            }
        }
        Ok(())
    }

    fn check_cut(&self, moment: u64, seed: u64) -> std::result::Result<(), String> {
        let crash = match seed {
            0 => Crash::LoseAll,
            1 => Crash::KeepAll,
            seed => Crash::Seeded(seed),
        };
        let image = self.disk.cut_at(moment, crash);
        let folder = self.folder.cut_at(moment, seed);
        self.judge(moment, image, &folder, SECOND, |one| one.durable)
            .map_err(|error| format!("power cut behind moment {moment}, seed {seed}: {error}"))
    }

    fn check_kill(&self, moment: u64) -> std::result::Result<(), String> {
        let image = self.disk.cut_at(moment, Crash::KeepAll);
        let folder = self.folder.kill_at(moment);
        self.judge(moment, image, &folder, FIRST, |one| one.acknowledged)
            .map_err(|error| format!("killed behind moment {moment}: {error}"))
    }

    fn judge(
        &self,
        moment: u64,
        image: Image,
        folder: &SimFolder,
        boot: Uuid,
        kept: impl Fn(&Written) -> u64,
    ) -> std::result::Result<(), String> {
        let whole = image.bytes(ByteRange::new(0, SIZE));
        match go_on(image, folder, boot)? {
            Some(bytes) => self.check(moment, &bytes, true, kept),
            // Not begun, or over.
            None => self.check(moment, &whole, moment >= self.begun, kept),
        }
    }

    fn check_from(&self, first: u64, every: u64) -> std::result::Result<(), String> {
        let mut moment = first;
        while moment <= self.power.now() {
            self.check_kill(moment)?;
            for seed in 0..4 {
                self.check_cut(moment, seed)?;
            }
            moment += every;
        }
        Ok(())
    }
}

#[test]
fn a_rollback_goes_on_behind_a_crash_at_any_moment() {
    for seed in 1..4 {
        let run = run(seed, false);
        assert!(run.writes.len() > 10);
        // Another third of the moments each.
        run.check_from(seed - 1, 3).unwrap();
    }
}

#[test]
fn a_rollback_that_was_stopped_goes_on() {
    run(11, true).check_from(0, 3).unwrap();
}

/// Planted damage: a log that forgets what was cleared puts old contents over new ones.
#[test]
fn a_log_without_its_records_is_noticed() {
    let run = run(5, false);
    let moment = run.writes.last().unwrap().acknowledged;
    let lost = (run.begun..=moment).find_map(|moment| {
        let folder = run.folder.kill_at(moment);
        let bytes = folder.contents(super::super::LOG_NAME)?;
        let records = Log::open(&folder).unwrap().unwrap().header.records_at() as usize;
        folder.put(super::super::LOG_NAME, &bytes[..records]).unwrap();
        let image = run.disk.cut_at(moment, Crash::KeepAll);
        run.judge(moment, image, &folder, FIRST, |one| one.acknowledged).err()
    });
    assert!(lost.unwrap().contains("had to be kept"));
}

/// Planted damage: records that no flush confirmed are believed behind a power cut.
#[test]
fn believing_unconfirmed_records_is_noticed() {
    let run = run(6, false);
    let wrong = (run.begun..=run.power.now()).find_map(|moment| {
        let folder = run.folder.cut_at(moment, 1);
        let image = run.disk.cut_at(moment, Crash::LoseAll);
        run.judge(moment, image, &folder, FIRST, |one| one.durable).err()
    });
    wrong.expect("what was only in memory is lost, and not put back again");
}
