//! Random writes, takes, questions, restarts and crashes against what really changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bowline_block::{ByteRange, Op};
use bowline_device::Device;
use bowline_state::{Folder, SimFolder};
use proptest::prelude::*;
use uuid::Uuid;

use super::rig::{BLOCK, fingerprint, identity, limits};
use super::support::{Memory, attach, clear, close, write};
use crate::track::epochs::SetLimits;
use crate::track::recover::Expected;
use crate::track::{Continuity, NoTrackEvents, Opened, Tracker};

const BLOCKS: u64 = 3000;
/// The last block is short.
const SIZE: u64 = BLOCKS * BLOCK - 512;

#[derive(Clone, Debug)]
enum Step {
    Write { at: u64, sectors: u64 },
    Clear { block: u64, blocks: u64, zeroes: bool },
    Take,
    Ask { since: u64, until: Option<u64> },
    Restart,
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..SIZE / 512, 1..40_u64).prop_map(|(at, sectors)| Step::Write { at, sectors }),
        1 => (0..BLOCKS, 1..BLOCKS, any::<bool>())
            .prop_map(|(block, blocks, zeroes)| Step::Clear { block, blocks, zeroes }),
        4 => Just(Step::Take),
        4 => (any::<u64>(), proptest::option::of(any::<u64>()))
            .prop_map(|(since, until)| Step::Ask { since, until }),
        1 => Just(Step::Restart),
        1 => Just(Step::Crash),
    ];
    proptest::collection::vec(step, 1..60)
}

struct World {
    folder: SimFolder,
    set_limits: SetLimits,
    tracker: Arc<Tracker>,
    device: Arc<Device>,
    memory: Arc<Memory>,
    /// What the device held at each take, and which blocks were touched in each epoch.
    takes: BTreeMap<u64, Vec<u8>>,
    touched: BTreeMap<u64, BTreeSet<u64>>,
    sequence: u8,
    /// Whether answers may be more than what was touched.
    wide: bool,
}

impl World {
    fn new(set_limits: SetLimits) -> Self {
        let (folder, memory) = (SimFolder::new(), Memory::new(SIZE));
        let opened = Self::open(&folder, None, set_limits);
        let device = Device::new("d", memory.clone());
        attach(&device, &opened.tracker);
        let (takes, touched) = (BTreeMap::new(), BTreeMap::new());
        let tracker = opened.tracker;
        Self { folder, set_limits, tracker, device, memory, takes, touched, sequence: 0, wide: false }
    }

    fn open(folder: &SimFolder, session: Option<Uuid>, set_limits: SetLimits) -> Opened {
        let shared: Arc<dyn Folder> = Arc::new(folder.clone());
        let (identity, now) = (identity(SIZE), || Ok(fingerprint(SIZE)));
        let expected = Expected { identity: &identity, session, fingerprint_now: &now };
        Tracker::open_within(&shared, &expected, Arc::new(NoTrackEvents), limits(), set_limits)
    }

    fn touch(&mut self, range: ByteRange) {
        let blocks = range.start() / BLOCK..range.end().div_ceil(BLOCK);
        self.touched.entry(self.tracker.epoch()).or_default().extend(blocks);
    }

    fn again(&mut self, crash: bool) {
        // Noted first: a tracker whose folder has died may have given up by the time it is asked.
        let (generation, epoch) = (self.tracker.generation(), self.tracker.epoch());
        let mut session = self.tracker.session();
        if crash {
            self.folder = self.folder.kill();
        } else {
            session = Some(self.tracker.save(&fingerprint(SIZE)).unwrap());
        }
        let opened = Self::open(&self.folder, session, self.set_limits);
        match opened.continuity {
            Continuity::Clean => assert!(!crash),
            Continuity::AfterCrash { .. } => assert!(crash),
            Continuity::Renewed { reason } => panic!("{reason}"),
        }
        self.wide |= crash;
        self.tracker = opened.tracker;
        assert_eq!(self.tracker.generation(), generation);
        assert!(self.tracker.epoch() >= epoch);
        self.device = Device::new("d", self.memory.clone());
        attach(&self.device, &self.tracker);
    }

    fn ask(&self, since: u64, until: Option<u64>) {
        let known: Vec<u64> = self.takes.keys().copied().collect();
        let Some(nth) = since.checked_rem(known.len() as u64) else { return };
        let since = known[nth as usize];
        let until = until.map(|until| {
            let later: Vec<u64> = known.iter().copied().filter(|epoch| *epoch >= since).collect();
            later[(until % later.len() as u64) as usize]
        });
        let set = self.tracker.changed(since, until).unwrap();
        let now = self.memory.0.lock().unwrap();
        let end = until.map_or(&*now, |until| &self.takes[&until]);
        let differs = |block: &u64| {
            let at = (block * BLOCK) as usize..((block + 1) * BLOCK).min(SIZE) as usize;
            self.takes[&since][at.clone()] != end[at]
        };
        let of = |block: u64| ByteRange::between(block * BLOCK, ((block + 1) * BLOCK).min(SIZE));
        for block in (0..BLOCKS).filter(differs) {
            assert!(set.contains(of(block)), "I4: since {since} until {until:?} block {block} is missed");
        }
        if !self.wide && self.set_limits.count > 1000 {
            let inside = |epoch: u64| epoch > since && until.is_none_or(|until| epoch <= until);
            let epochs = self.touched.iter().filter(|(epoch, _)| inside(**epoch));
            let touched: BTreeSet<u64> = epochs.flat_map(|(_, blocks)| blocks.iter().copied()).collect();
            let found: BTreeSet<u64> = (0..BLOCKS).filter(|block| set.overlaps(of(*block))).collect();
            assert_eq!(found, touched, "since {since} until {until:?}");
            assert_eq!(set.bytes(), touched.iter().map(|block| of(*block).len()).sum::<u64>());
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Write { at, sectors } => {
                let range = ByteRange::between(at * 512, (at * 512 + sectors * 512).min(SIZE));
                self.sequence = self.sequence.wrapping_add(1);
                write(&self.device, range.start(), &vec![self.sequence; range.len() as usize]);
                self.touch(range);
            }
            Step::Clear { block, blocks, zeroes } => {
                let range = ByteRange::between(block * BLOCK, ((block + blocks) * BLOCK).min(SIZE));
                clear(&self.device, if zeroes { Op::WriteZeroes } else { Op::Discard }, range);
                self.touch(range);
            }
            Step::Take => {
                let epoch = close(&self.device, &self.tracker, "s");
                let held = self.memory.0.lock().unwrap().clone();
                assert!(self.takes.insert(epoch, held).is_none(), "epoch {epoch} was given out twice");
                assert_eq!(self.tracker.epoch_of("s"), Some(epoch));
            }
            Step::Ask { since, until } => self.ask(since, until),
            Step::Restart => self.again(false),
            Step::Crash => self.again(true),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn i4_changes_are_what_changed(steps in steps()) {
        let mut world = World::new(SetLimits::default());
        steps.iter().for_each(|step| world.step(step));
    }

    #[test]
    fn i4_merged_epochs_miss_nothing(steps in steps()) {
        let mut world = World::new(SetLimits { count: 3, bytes: 1 << 20 });
        steps.iter().for_each(|step| world.step(step));
        world.ask(0, None);
    }
}

#[test]
#[should_panic(expected = "I4")]
fn a_missed_block_is_noticed() {
    let mut world = World::new(SetLimits::default());
    world.step(&Step::Take);
    // Past the tracker: nobody sees it.
    world.memory.0.lock().unwrap()[5000] = 1;
    world.ask(0, None);
}
