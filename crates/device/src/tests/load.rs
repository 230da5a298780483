//! I6 under load: filters come and go while threads read and write, and nothing is lost, failed or done twice.

use std::sync::atomic::AtomicBool;

use bowline_block::{Done, Geometry, IoFuture};
use bowline_sim::Rng;

use super::*;

/// Counts what reaches the bottom.
struct Counting {
    disk: SimDisk,
    reached: AtomicU64,
}

impl Store for Counting {
    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }

    fn location(&self) -> String {
        self.disk.location()
    }

    fn read_now(&self, range: ByteRange, data: &mut [u8]) -> Now {
        self.reached.fetch_add(range.len(), Ordering::Relaxed);
        self.disk.read_now(range, data)
    }

    fn write_now(&self, range: ByteRange, data: &[u8], flags: Flags) -> Now {
        self.reached.fetch_add(range.len(), Ordering::Relaxed);
        self.disk.write_now(range, data, flags)
    }

    fn submit(&self, io: Io) -> IoFuture<'_> {
        let Io { request, mut data } = io;
        self.reached.fetch_add(request.range.len(), Ordering::Relaxed);
        let now = match request.op {
            Op::Read => self.disk.read_now(request.range, &mut data),
            _ => self.disk.write_now(request.range, &data, request.flags),
        };
        match now {
            Now::Done(result) => Done::ready(result, data),
            Now::NotNow => unreachable!("the disk answers at once"),
        }
    }
}

/// Holds now and then, passes otherwise.
struct Sometimes(AtomicU64);

impl Filter for Sometimes {
    fn kind(&self) -> &'static str {
        "sometimes"
    }

    fn ask<'a>(&'a self, _: &Request, _: &'a dyn Store) -> Verdict<'a> {
        if !self.0.fetch_add(1, Ordering::Relaxed).is_multiple_of(5) {
            return Verdict::Pass;
        }
        let mut polled = false;
        Verdict::Hold(Box::pin(std::future::poll_fn(move |cx| {
            cx.waker().wake_by_ref();
            if std::mem::replace(&mut polled, true) {
                std::task::Poll::Ready(())
            } else {
                std::task::Poll::Pending
            }
        })))
    }
}

/// Ends the others' loops also when a thread has panicked.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

const THREADS: u64 = 4;
const REQUESTS: u64 = 1500;

/// Writes and reads back in a region of its own; how many bytes it asked for.
fn work(device: &Device, number: u64) -> u64 {
    let mut rng = Rng::new(number);
    let region = SIZE / THREADS;
    let mut asked = 0;
    for _ in 0..REQUESTS {
        let len = 512 * (1 + rng.below(16));
        let start = number * region + rng.below((region - len) / 512) * 512;
        let byte = u8::try_from(rng.below(255)).unwrap() + 1;
        let len = usize::try_from(len).unwrap();
        write(device, start, &vec![byte; len]).unwrap();
        assert_eq!(read(device, start, len).unwrap(), vec![byte; len]);
        asked += 2 * len as u64;
    }
    asked
}

#[test]
fn i6_attach_and_detach_lose_fail_and_repeat_nothing() {
    let disk = SimDisk::new(SIZE, 1).answering_now();
    let store = Arc::new(Counting { disk, reached: AtomicU64::new(0) });
    let device = Device::new("disk", store.clone());
    let over = AtomicBool::new(false);
    let (asked, changes) = std::thread::scope(|scope| {
        let ends = Ends(&over);
        let changer = scope.spawn(|| {
            let mut rng = Rng::new(9);
            let mut attached = Vec::new();
            let mut changes = 0u64;
            while !over.load(Ordering::SeqCst) {
                let frozen = freeze(&device);
                if attached.len() < 4 {
                    let start = rng.below(SIZE / 4096 - 64) * 4096;
                    let range = rng.once_in(2).then_some(ByteRange::new(start, 64 * 4096));
                    let filter = Arc::new(Sometimes(AtomicU64::new(0)));
                    let altitude = Altitude(u32::try_from(changes).unwrap());
                    attached.push(frozen.attach(filter, altitude, range).unwrap());
                } else {
                    frozen.detach(attached.swap_remove(rng.index(attached.len()))).unwrap();
                }
                changes += 1;
            }
            changes
        });
        let workers: Vec<_> = (0..THREADS)
            .map(|number| (number, &device))
            .map(|(number, device)| scope.spawn(move || work(device, number)))
            .collect();
        let asked: u64 = workers.into_iter().map(|worker| worker.join().unwrap()).sum();
        drop(ends);
        (asked, changer.join().unwrap())
    });
    let stats = device.stats();
    assert_eq!((stats.reads, stats.writes), (THREADS * REQUESTS, THREADS * REQUESTS));
    assert_eq!((stats.errors, stats.in_flight), (0, 0));
    assert_eq!(store.reached.load(Ordering::SeqCst), asked, "bytes lost or repeated");
    assert!(changes > 20, "{changes} changes are too few to mean anything");
}

#[test]
fn two_threads_freeze_the_same_devices_in_opposite_orders_under_load() {
    let devices: Vec<_> = (0..4).map(|number| Device::new(format!("disk{number}"), disk())).collect();
    let mut reversed = devices.clone();
    reversed.reverse();
    let over = AtomicBool::new(false);
    let under_load = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let ends = Ends(&over);
        let writer = scope.spawn(|| {
            let mut written = 0;
            while !over.load(Ordering::SeqCst) {
                devices.iter().for_each(|device| write(device.as_ref(), 0, &[1; 512]).unwrap());
                written += 1;
                under_load.store(true, Ordering::SeqCst);
            }
            written
        });
        let under_load = &under_load;
        let freezers = [&devices, &reversed].map(|devices| {
            scope.spawn(move || {
                // On a busy machine the writer may begin after all that was to happen under its load.
                while !under_load.load(Ordering::SeqCst) {
                    std::thread::yield_now();
                }
                for _ in 0..150 {
                    let frozen = freeze_all(devices, LIMIT).unwrap();
                    assert!(devices.iter().all(|device| device.enter_now().is_none()));
                    drop(frozen);
                }
            })
        });
        freezers.into_iter().for_each(|freezer| freezer.join().unwrap());
        drop(ends);
        assert!(writer.join().unwrap() > 0);
    });
    assert!(devices.iter().all(|device| device.enter_now().is_some()));
}
