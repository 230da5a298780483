//! I2 as a state machine: a device with any number of snapshots, whose images are written to, against byte vectors.
//!
//! The device is large, so that it has several zones; what is written and compared is in windows at its start, across
//! a border of zones and at its end, which is not a multiple of the granule.

use std::sync::Arc;

use bowline_block::*;
use bowline_device::Device;
use proptest::prelude::*;

use super::support::*;
use crate::cow::*;

const SIZE: u64 = 33 * MIB + 1536;
const WINDOW: u64 = 96 * 1024;
const WINDOWS: [u64; 3] = [0, 16 * MIB - WINDOW / 2, SIZE - WINDOW];

/// An offset in the model is a place in a window.
fn place(offset: u64) -> (u64, u64) {
    let window = offset / WINDOW;
    (WINDOWS[window as usize] + offset % WINDOW, WINDOW - offset % WINDOW)
}

#[derive(Clone, Debug)]
enum Step {
    Write { at: u64, len: u64, fill: u8 },
    Clear { op: Op, at: u64, len: u64 },
    ClearMuch { op: Op },
    Take { file: bool },
    Remove { which: usize },
    Read { which: usize, at: u64, len: u64 },
    WriteImage { which: usize, at: u64, len: u64, fill: u8 },
    ClearImage { which: usize, op: Op, keep: bool, at: u64, len: u64 },
    ClearMuchOfImage { which: usize },
    Settle,
}

fn span() -> impl Strategy<Value = (u64, u64)> {
    let sectors = WINDOW * WINDOWS.len() as u64 / 512;
    let len = prop_oneof![6 => 1..20u64, 2 => Just(8u64), 1 => 20..192u64];
    (0..sectors, len, any::<bool>()).prop_map(|(at, len, whole)| {
        let at = if whole { at / 8 * 8 } else { at };
        let (_, room) = place(at * 512);
        (at * 512, (len * 512).min(room))
    })
}

fn step() -> impl Strategy<Value = Step> {
    let clear_op = || prop_oneof![Just(Op::Discard), Just(Op::WriteZeroes)];
    prop_oneof![
        10 => (span(), 0..=255u8).prop_map(|((at, len), fill)| Step::Write { at, len, fill }),
        3 => (span(), clear_op()).prop_map(|((at, len), op)| Step::Clear { op, at, len }),
        1 => clear_op().prop_map(|op| Step::ClearMuch { op }),
        2 => any::<bool>().prop_map(|file| Step::Take { file }),
        2 => any::<usize>().prop_map(|which| Step::Remove { which }),
        4 => (any::<usize>(), span()).prop_map(|(which, (at, len))| Step::Read { which, at, len }),
        5 => (any::<usize>(), span(), 0..=255u8)
            .prop_map(|(which, (at, len), fill)| Step::WriteImage { which, at, len, fill }),
        3 => (any::<usize>(), span(), clear_op(), any::<bool>())
            .prop_map(|(which, (at, len), op, keep)| Step::ClearImage { which, op, keep, at, len }),
        1 => any::<usize>().prop_map(|which| Step::ClearMuchOfImage { which }),
        1 => Just(Step::Settle),
    ]
}

type Bytes = Vec<u8>;

struct Model {
    device: Arc<Device>,
    dir: tempfile::TempDir,
    now: Bytes,
    snapshots: Vec<(Snapshot, Bytes)>,
    taken: u32,
    /// Planted damage: the copy of that number is dropped.
    sabotage: u64,
}

impl Model {
    fn new(pace: Pace, zeroes_promised: bool) -> Self {
        let mut store = TestStore::plain(SIZE, BlockSize::B512, pace);
        if !zeroes_promised {
            store.can = Capabilities::DISCARD | Capabilities::EXTENTS;
        }
        let now = vec![0; (WINDOW * WINDOWS.len() as u64) as usize];
        let device = Device::new("disk", Arc::new(store));
        Self { device, dir: tempfile::tempdir().unwrap(), now, snapshots: Vec::new(), taken: 0, sabotage: 0 }
    }

    fn set(&mut self, at: u64, len: u64, byte: impl Fn(u64) -> u8) {
        for offset in at..at + len {
            self.now[offset as usize] = byte(offset);
        }
    }

    fn step(&mut self, step: &Step) -> std::result::Result<(), String> {
        match *step {
            Step::Write { at, len, fill } => {
                // Now and then zeroes, which are not stored.
                let byte = |offset: u64| if fill < 32 { 0 } else { fill ^ (offset / 512) as u8 };
                self.set(at, len, byte);
                write(&*self.device, place(at).0, &self.now[at as usize..(at + len) as usize]);
            }
            Step::Clear { op, at, len } => {
                self.set(at, len, |_| 0);
                clear(&*self.device, op, ByteRange::new(place(at).0, len));
            }
            Step::ClearMuch { op } => {
                self.now.fill(0);
                clear(&*self.device, op, ByteRange::new(0, SIZE));
            }
            Step::Take { .. } if self.snapshots.len() >= 5 => {}
            Step::Take { file } => {
                self.taken += 1;
                let name = format!("s{}", self.taken);
                let kind =
                    if file { StoreKind::File(self.dir.path().join(&name)) } else { StoreKind::Memory };
                let storage = DiffStorage::open(StoreSpec { kind, limit: 32 * MIB, step: MIB }).unwrap();
                let earlier = self.snapshots.last().map(|(snapshot, _)| snapshot);
                let snapshot = take_with(&name, &self.device, earlier, &storage, Arc::new(NoEvents));
                if self.sabotage > 0 {
                    snapshot.devices()[0].history().drop_copy(std::mem::take(&mut self.sabotage));
                }
                self.snapshots.push((snapshot, self.now.clone()));
            }
            Step::Remove { which } if !self.snapshots.is_empty() => {
                let (snapshot, _) = self.snapshots.remove(which % self.snapshots.len());
                snapshot.remove(FREEZE).unwrap();
            }
            Step::Read { which, at, len } if !self.snapshots.is_empty() => {
                self.compare(which % self.snapshots.len(), at, len)?;
            }
            Step::WriteImage { which, at, len, fill } if !self.snapshots.is_empty() => {
                let which = which % self.snapshots.len();
                let (snapshot, old) = &mut self.snapshots[which];
                let fresh = |offset: u64| if fill < 32 { 0 } else { fill ^ 0x55 ^ (offset / 512) as u8 };
                (at..at + len).for_each(|offset| old[offset as usize] = fresh(offset));
                write(image(snapshot), place(at).0, &old[at as usize..(at + len) as usize]);
            }
            Step::ClearImage { which, op, keep, at, len } if !self.snapshots.is_empty() => {
                let which = which % self.snapshots.len();
                let (snapshot, old) = &mut self.snapshots[which];
                old[at as usize..(at + len) as usize].fill(0);
                let flags = if keep && op == Op::WriteZeroes { Flags::NO_UNMAP } else { Flags::empty() };
                let request = Request::new(op, ByteRange::new(place(at).0, len)).with_flags(flags);
                block_on(image(snapshot).submit(Io::bare(request))).result.unwrap();
            }
            Step::ClearMuchOfImage { which } if !self.snapshots.is_empty() => {
                let which = which % self.snapshots.len();
                let (snapshot, old) = &mut self.snapshots[which];
                old.fill(0);
                clear(image(snapshot), Op::Discard, ByteRange::new(0, SIZE));
            }
            // Lets full segments reach their file.
            Step::Settle => std::thread::sleep(std::time::Duration::from_millis(1)),
            _ => {}
        }
        Ok(())
    }

    fn compare(&self, which: usize, at: u64, len: u64) -> std::result::Result<(), String> {
        let (snapshot, old) = &self.snapshots[which];
        let range = ByteRange::new(place(at).0, len);
        let have = read(image(snapshot), range).map_err(|error| error.to_string())?;
        let want = &old[at as usize..(at + len) as usize];
        if let Some(differs) = have.iter().zip(want).position(|(have, want)| have != want) {
            let byte = range.start() + differs as u64;
            return Err(format!("I2: image {} differs at byte {byte}", snapshot.name()));
        }
        let found = block_on(image(snapshot).extents(range, 64)).map_err(|error| error.to_string())?;
        let mut next = range.start();
        for extent in found.as_slice() {
            let part = extent.range;
            if part.start() != next || part.end() > range.end() {
                return Err(format!("extents have a gap or reach too far: {found:?} of {range}"));
            }
            next = part.end();
            let from = (part.start() - range.start()) as usize;
            let zero = want[from..from + part.len() as usize].iter().all(|&byte| byte == 0);
            if extent.kind.reads_zero() && !zero {
                return Err(format!("extents say zero where there is data: {part}"));
            }
        }
        Ok(())
    }

    fn compare_all(&self) -> std::result::Result<(), String> {
        for which in 0..self.snapshots.len() {
            for window in 0..WINDOWS.len() as u64 {
                self.compare(which, window * WINDOW, WINDOW)?;
            }
            self.check_changes(which)?;
        }
        for (window, start) in WINDOWS.iter().enumerate() {
            let have = read(&*self.device, ByteRange::new(*start, WINDOW)).unwrap();
            let from = window * WINDOW as usize;
            if have != self.now[from..from + WINDOW as usize] {
                return Err("the origin differs from its model".to_owned());
            }
        }
        Ok(())
    }

    /// Every byte that differs from now must be in the list of changes.
    fn check_changes(&self, which: usize) -> std::result::Result<(), String> {
        let (snapshot, old) = &self.snapshots[which];
        let changed = snapshot.devices()[0].changed(None).map_err(|error| error.to_string())?;
        if changed.windows(2).any(|pair| pair[0].end() >= pair[1].start()) {
            return Err(format!("changes are not ascending and merged: {changed:?}"));
        }
        for (offset, _) in old.iter().zip(&self.now).enumerate().filter(|(_, (old, now))| old != now) {
            let byte = ByteRange::new(place(offset as u64).0, 1);
            if !changed.iter().any(|range| range.contains(byte)) {
                return Err(format!("a change at {byte} is missed"));
            }
        }
        Ok(())
    }

    fn run(&mut self, steps: &[Step]) -> std::result::Result<(), String> {
        for step in steps {
            self.step(step)?;
        }
        self.compare_all()?;
        // In the order of their ages, then nothing may be left.
        let storages: Vec<_> = self.snapshots.iter().map(|(one, _)| one.storage().clone()).collect();
        while let Some((snapshot, _)) = self.snapshots.pop() {
            snapshot.remove(FREEZE).unwrap();
            self.compare_all()?;
        }
        match storages.iter().find(|storage| storage.used() > 0) {
            Some(storage) => Err(format!("{} bytes were not given back", storage.used())),
            None => Ok(()),
        }
    }
}

fn pace() -> impl Strategy<Value = Pace> {
    prop_oneof![Just(Pace::Now), Just(Pace::Later), Just(Pace::Mixed)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn every_image_equals_the_origin_at_its_take(
        pace in pace(), promised in any::<bool>(), steps in prop::collection::vec(step(), 1..60),
    ) {
        let result = Model::new(pace, promised).run(&steps);
        prop_assert!(result.is_ok(), "{}", result.unwrap_err());
    }
}

#[test]
fn the_model_notices_a_dropped_copy() {
    for nth in 1..4 {
        let mut model = Model::new(Pace::Now, true);
        model.sabotage = nth;
        let old = |at| Step::Write { at, len: 4096, fill: 200 };
        let new = |at| Step::Write { at, len: 4096, fill: 100 };
        let places = [0, 8192, WINDOW, 2 * WINDOW];
        let mut steps: Vec<_> = places.map(old).into();
        steps.push(Step::Take { file: false });
        steps.extend(places.map(new));
        let error = model.run(&steps).unwrap_err();
        assert!(error.starts_with("I2: image s1 differs"), "{error}");
    }
}
