//! I7 through a device: what was acknowledged and flushed survives every power cut, whatever passes in between.
#![cfg(not(feature = "shuttle"))]
#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // helpers of tests

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bowline_block::{
    Altitude, ByteRange, Done, ErrorKind, Filter, Flags, Geometry, Io, IoFuture, Op, Request, Store, Verdict,
};
use bowline_device::{Device, freeze_all};
use bowline_sim::{Faults, Ledger, SECTOR_BYTES, SimDisk, SimScheduler, Stall, exercise, run_alone};

const SIZE: u64 = 36 * SECTOR_BYTES;
const LIMIT: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Counts(AtomicU64);

impl Filter for Counts {
    fn kind(&self) -> &'static str {
        "counts"
    }

    fn ask<'a>(&'a self, _: &Request, _: &'a dyn Store) -> Verdict<'a> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Verdict::Pass
    }
}

/// Holds every third request for a few polls.
#[derive(Default)]
struct Dawdles(AtomicU64);

impl Filter for Dawdles {
    fn kind(&self) -> &'static str {
        "dawdles"
    }

    fn ask<'a>(&'a self, _: &Request, _: &'a dyn Store) -> Verdict<'a> {
        if !self.0.fetch_add(1, Ordering::Relaxed).is_multiple_of(3) {
            return Verdict::Pass;
        }
        let mut polls = 0;
        Verdict::Hold(Box::pin(std::future::poll_fn(move |cx| {
            polls += 1;
            cx.waker().wake_by_ref();
            if polls > 3 { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })))
    }
}

fn disk(seed: u64) -> Arc<SimDisk> {
    Arc::new(SimDisk::new(SIZE, seed).faulty(Faults { stall: Stall::Polls(5), ..Faults::default() }))
}

/// A device over `store` with filters on all of it and on parts of it.
fn filtered(store: Arc<dyn Store>) -> Arc<Device> {
    let device = Device::new("disk", store);
    let frozen = freeze_all(std::slice::from_ref(&device), LIMIT).unwrap();
    let on = |first, sectors| Some(ByteRange::new(first * SECTOR_BYTES, sectors * SECTOR_BYTES));
    frozen[0].attach(Arc::new(Counts::default()), Altitude(1), None).unwrap();
    frozen[0].attach(Arc::new(Counts::default()), Altitude(2), on(3, 7)).unwrap();
    frozen[0].attach(Arc::new(Dawdles::default()), Altitude(2), on(12, 5)).unwrap();
    frozen[0].attach(Arc::new(Dawdles::default()), Altitude(3), None).unwrap();
    drop(frozen);
    device
}

/// Four connections at once, in a schedule of the seed.
fn run(device: &Device, disk: &SimDisk, seed: u64) -> Result<u64, String> {
    let ledger = Ledger::new();
    let mut schedule = SimScheduler::new(seed);
    for number in 0..4 {
        schedule.spawn(exercise(device, disk, &ledger, seed << 8 | number, 10));
    }
    schedule.run(1 << 20).unwrap();
    drop(schedule);
    ledger.check_every_cut(disk, 4)
}

#[test]
fn i7_flushes_and_fua_reach_the_disk_through_filters() {
    for seed in 0..10 {
        let disk = disk(seed);
        let cuts = run(&filtered(disk.clone()), &disk, seed).unwrap();
        assert!(cuts > 100, "{cuts} cuts are too few to mean anything");
    }
}

#[test]
fn i7_a_flush_on_one_connection_covers_writes_acknowledged_on_another() {
    let disk = disk(1);
    let device = filtered(disk.clone());
    let ledger = Ledger::new();
    let range = ByteRange::new(0, 16 * SECTOR_BYTES);
    let (id, data) = ledger.begin_write(&disk, range);
    let write = Io::new(Request::new(Op::Write, range), data);
    std::thread::scope(|scope| {
        scope.spawn(|| run_alone(device.submit(write)).unwrap().result.unwrap()).join().unwrap();
        ledger.acknowledged(&disk, id, false);
        let flush = ledger.begin_flush(&disk);
        let flusher = scope.spawn(|| run_alone(device.submit(Io::bare(Request::flush()))).unwrap().result);
        flusher.join().unwrap().unwrap();
        ledger.flushed(&disk, flush);
    });
    for seed in 0..50 {
        assert_eq!(disk.power_cut(seed), disk.contents());
    }
    ledger.check_every_cut(&disk, 8).unwrap();
}

#[test]
fn i6_i7_filters_come_and_go_under_threads_that_flush() {
    // On a busy machine all threads of a round may have ended before the first change: not in every round.
    let mut changed_amid = false;
    for seed in 0..4 {
        let disk = disk(seed);
        let device = Device::new("disk", disk.clone() as Arc<dyn Store>);
        let ledger = Ledger::new();
        let changes = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..3)
                .map(|number| {
                    let (device, disk, ledger) = (&device, &disk, &ledger);
                    scope.spawn(move || {
                        run_alone(exercise(&**device, disk, ledger, seed << 8 | number, 25)).unwrap();
                    })
                })
                .collect();
            let mut changes = 0;
            while clients.iter().any(|client| !client.is_finished()) {
                let attach = |range| {
                    let frozen = freeze_all(std::slice::from_ref(&device), LIMIT).unwrap();
                    frozen[0].attach(Arc::new(Dawdles::default()), Altitude(5), range).unwrap()
                };
                let id = attach((changes % 2 == 0).then_some(ByteRange::new(1024, 4096)));
                let frozen = freeze_all(std::slice::from_ref(&device), LIMIT).unwrap();
                frozen[0].detach(id).unwrap();
                changes += 1;
            }
            changes
        });
        ledger.check_every_cut(&disk, 3).unwrap();
        assert_eq!(device.stats().errors, 0);
        changed_amid |= changes > 0;
    }
    assert!(changed_amid);
}

/// Drops every second flush, as a filter with a mistake might.
struct LosesFlushes(Arc<SimDisk>, AtomicU64);

impl Store for LosesFlushes {
    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }

    fn location(&self) -> String {
        self.0.location()
    }

    fn submit(&self, io: Io) -> IoFuture<'_> {
        if io.request.op == Op::Flush && self.1.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
            return Done::ready(Ok(()), io.data);
        }
        let flags = io.request.flags - Flags::FUA;
        self.0.submit(Io { request: io.request.with_flags(flags), data: io.data })
    }
}

#[test]
fn the_checker_notices_a_planted_lost_flush_below_a_device() {
    let noticed = (0..8).filter(|&seed| {
        let disk = disk(seed);
        let broken = Arc::new(LosesFlushes(disk.clone(), AtomicU64::new(0)));
        run(&filtered(broken), &disk, seed).is_err()
    });
    assert_eq!(noticed.count(), 8);
}

#[test]
fn i7_a_flush_that_failed_below_is_a_flush_that_failed_above() {
    let disk =
        Arc::new(SimDisk::new(SIZE, 1).faulty(Faults::default().fail(Some(Op::Flush), 0, ErrorKind::Io)));
    let device = filtered(disk);
    let flush = || run_alone(device.submit(Io::bare(Request::flush()))).unwrap().result;
    let error = flush().unwrap_err();
    assert_eq!((error.kind(), error.context().device.as_deref()), (ErrorKind::Io, Some("disk")));
    flush().unwrap();
    assert_eq!(device.stats().errors, 1);
}
