use std::cell::RefCell;
use std::rc::Rc;

use bowline_block::{Buf, ByteRange, ErrorKind, Flags, Io, IoFuture, Op, Request, Store};
use proptest::prelude::{ProptestConfig, prop_assert_eq, proptest};

use super::*;

const SIZE: u64 = 64 << 10;
/// Small, because every sector is checked at every cut.
const CHECKED_SIZE: u64 = 36 * SECTOR_BYTES;

fn write(range: ByteRange, data: Buf, flags: Flags) -> Io {
    Io::new(Request::new(Op::Write, range).with_flags(flags), data)
}

async fn put(disk: &SimDisk, offset: u64, byte: u8) {
    let mut data = Buf::zeroed(1024);
    data.fill(byte);
    disk.submit(write(ByteRange::new(offset, 1024), data, Flags::empty())).await.result.unwrap();
}

async fn flush(store: &dyn Store) -> bowline_block::Result<()> {
    store.submit(Io::bare(Request::flush())).await.result
}

/// Four clients at once over `store`, whose bottom is `disk`; every cut is checked.
fn run_clients(store: &dyn Store, disk: &SimDisk, seed: u64) -> Result<u64, String> {
    let ledger = Ledger::new();
    let mut schedule = SimScheduler::new(seed);
    for number in 0..4 {
        schedule.spawn(exercise(store, disk, &ledger, seed << 8 | number, 12));
    }
    schedule.run(1 << 20).unwrap();
    drop(schedule);
    ledger.check_every_cut(disk, 5)
}

/// Passes everything on but the flushes, which it acknowledges.
struct LosesFlushes<'a>(&'a SimDisk);

impl Store for LosesFlushes<'_> {
    fn geometry(&self) -> bowline_block::Geometry {
        self.0.geometry()
    }

    fn location(&self) -> String {
        self.0.location()
    }

    fn submit(&self, io: Io) -> IoFuture<'_> {
        match io.request.op {
            Op::Flush => bowline_block::Done::ready(Ok(()), io.data),
            _ => self.0.submit(io),
        }
    }
}

/// Drops FUA on the way.
struct LosesFua<'a>(&'a SimDisk);

impl Store for LosesFua<'_> {
    fn geometry(&self) -> bowline_block::Geometry {
        self.0.geometry()
    }

    fn location(&self) -> String {
        self.0.location()
    }

    fn submit(&self, io: Io) -> IoFuture<'_> {
        let request = io.request.with_flags(io.request.flags - Flags::FUA);
        self.0.submit(Io { request, data: io.data })
    }
}

#[test]
fn i7_flushed_data_survives_every_cut() {
    for seed in 0..12 {
        let disk =
            SimDisk::new(CHECKED_SIZE, seed).faulty(Faults { stall: Stall::Polls(6), ..Faults::default() });
        let cuts = run_clients(&disk, &disk, seed).unwrap();
        assert!(cuts > 100, "{cuts} cuts are too few to mean anything");
    }
}

#[test]
fn the_checker_notices_a_lost_flush_and_a_lost_fua() {
    let noticed = |make: &dyn Fn(&SimDisk) -> Result<u64, String>| {
        (0..10).filter(|&seed| make(&SimDisk::new(CHECKED_SIZE, seed)).is_err()).count()
    };
    assert_eq!(noticed(&|disk| run_clients(&LosesFlushes(disk), disk, 7)), 10);
    assert_eq!(noticed(&|disk| run_clients(&LosesFua(disk), disk, 7)), 10);
}

#[test]
fn the_checker_notices_what_nobody_wrote() {
    let disk = SimDisk::new(SIZE, 1);
    let ledger = Ledger::new();
    run_alone(exercise(&disk, &disk, &ledger, 3, 20)).unwrap();
    let mut image = disk.contents();
    assert_eq!(ledger.check(Some(Mark(u64::MAX)), &image), Ok(()));
    image.write(40 * SECTOR_BYTES + 100, &[1]);
    assert_eq!(ledger.check(Some(Mark(u64::MAX)), &image), Err(Violation::Foreign { sector: 40 }));
}

#[test]
fn the_checker_notices_a_flush_believed_after_one_failed() {
    let faults = Faults::default().fail(Some(Op::Flush), 0, ErrorKind::Io);
    let disk = SimDisk::new(SIZE, 1).faulty(faults);
    let ledger = Ledger::new();
    run_alone(async {
        let (id, data) = ledger.begin_write(&disk, ByteRange::new(0, 4096));
        disk.submit(write(ByteRange::new(0, 4096), data, Flags::empty())).await.result.unwrap();
        ledger.acknowledged(&disk, id, false);
        let failed = ledger.begin_flush(&disk);
        flush(&disk).await.unwrap_err();
        // A caller that tries again and believes the second answer.
        flush(&disk).await.unwrap();
        ledger.flushed(&disk, failed);
    })
    .unwrap();
    assert!(ledger.check_every_cut(&disk, 4).is_err());
}

#[test]
fn unflushed_data_may_survive_may_be_lost_and_tears_at_sectors() {
    let disk = SimDisk::new(SIZE, 1);
    run_alone(async {
        put(&disk, 0, 1).await;
        flush(&disk).await.unwrap();
        put(&disk, 0, 2).await;
    })
    .unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let bytes = disk.power_cut(seed).bytes(ByteRange::new(0, 1024));
        assert!(bytes.chunks(512).all(|sector| sector.iter().all(|&byte| byte == sector[0])));
        seen.insert((bytes[0], bytes[512]));
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [(1, 1), (1, 2), (2, 1), (2, 2)]);
}

#[test]
fn a_durable_write_cannot_be_undone_by_an_older_one() {
    let disk = SimDisk::new(SIZE, 1);
    run_alone(async {
        put(&disk, 0, 1).await;
        let mut data = Buf::zeroed(512);
        data.fill(2);
        let fua = write(ByteRange::new(0, 512), data, Flags::FUA);
        disk.submit(fua).await.result.unwrap();
    })
    .unwrap();
    for seed in 0..100 {
        assert_eq!(disk.power_cut(seed).bytes(ByteRange::new(0, 512)), [2; 512]);
    }
    assert_eq!(disk.unflushed(), 1);
}

#[test]
fn faults_strike_the_operation_they_name() {
    let faults = Faults { space_bytes: Some(8192), ..Faults::default() };
    let disk = SimDisk::new(SIZE, 1).faulty(faults.fail(Some(Op::Read), 1, ErrorKind::Io));
    let kinds = run_alone(async {
        let read = || disk.submit(Io::new(Request::new(Op::Read, ByteRange::new(0, 512)), Buf::zeroed(512)));
        let mut kinds = Vec::new();
        for _ in 0..3 {
            kinds.push(read().await.result.err().map(|error| error.kind()));
        }
        put(&disk, 0, 1).await;
        put(&disk, 4096, 1).await;
        let full = write(ByteRange::new(8192, 512), Buf::zeroed(512), Flags::empty());
        kinds.push(disk.submit(full).await.result.err().map(|error| error.kind()));
        kinds
    })
    .unwrap();
    assert_eq!(kinds, [None, Some(ErrorKind::Io), None, Some(ErrorKind::NoSpace)]);
}

#[test]
fn stalled_operations_overtake_each_other_and_wait_for_their_release() {
    let order_of = |seed| {
        let disk = SimDisk::new(SIZE, seed).faulty(Faults { stall: Stall::Polls(20), ..Faults::default() });
        let order = Rc::new(RefCell::new(Vec::new()));
        let mut schedule = SimScheduler::new(seed);
        for number in 0..8u8 {
            let (order, disk) = (order.clone(), &disk);
            schedule.spawn(async move {
                put(disk, u64::from(number) * 1024, number).await;
                order.borrow_mut().push(number);
            });
        }
        schedule.run(10_000).unwrap();
        drop(schedule);
        order.take()
    };
    assert_ne!(order_of(1), order_of(2));
    assert_eq!(order_of(1), order_of(1));

    let disk = SimDisk::new(SIZE, 1).faulty(Faults { stall: Stall::UntilReleased, ..Faults::default() });
    let mut schedule = SimScheduler::new(1);
    schedule.spawn(put(&disk, 0, 1));
    assert_eq!(schedule.run(100), Err(Stuck::Asleep(1)));
    assert_eq!(disk.stalled(), 1);
    disk.release();
    schedule.run(100).unwrap();
}

#[test]
fn without_power_nothing_works() {
    let disk = SimDisk::new(SIZE, 1);
    let image = disk.power_cut(1);
    assert_eq!(run_alone(flush(&disk)).unwrap().unwrap_err().kind(), ErrorKind::Gone);
    assert_eq!(image, Image::zeroed(SIZE));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn one_seed_gives_one_run(seed: u64) {
        let run = || {
            let faults = Faults { stall: Stall::Polls(4), ..Faults::default() };
            let disk = SimDisk::new(SIZE, seed).faulty(faults.fail(None, 9, ErrorKind::Io));
            let ledger = Ledger::new();
            let mut schedule = SimScheduler::new(seed);
            for number in 0..3 {
                schedule.spawn(exercise(&disk, &disk, &ledger, seed ^ number, 8));
            }
            schedule.run(1 << 20).unwrap();
            drop(schedule);
            disk.power_cut(seed)
        };
        prop_assert_eq!(run(), run());
    }

    #[test]
    fn an_image_holds_what_was_written(at in 0u64..60_000, len in 1usize..5000) {
        let mut image = Image::zeroed(SIZE);
        let before = image.clone();
        image.write(at, &vec![7; len]);
        let mut whole = vec![0; usize::try_from(SIZE).unwrap()];
        whole[usize::try_from(at).unwrap()..].iter_mut().take(len).for_each(|byte| *byte = 7);
        prop_assert_eq!(image.bytes(ByteRange::new(0, SIZE)), whole);
        prop_assert_eq!(before, Image::zeroed(SIZE));
    }
}
