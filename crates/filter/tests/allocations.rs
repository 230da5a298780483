//! What the filter allocates, counted: nothing for a rewrite of preserved blocks or a tracked write, and nothing in proportion to the size
//! of a device for a take or a discard of it. One test, because all threads of the process are counted.
#![cfg(not(feature = "shuttle"))]
#![allow(unsafe_code, clippy::expect_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bowline_block::{
    BlockSize, Buf, ByteRange, Capabilities, Done, ExtentKind, ExtentList, Flags, Geometry, Io, IoFuture,
    Now, Op, Request, Store,
};
use bowline_device::Device;
use bowline_filter::cow::{DiffStorage, Limits, NoEvents, Origin, Snapshot, StoreKind, StoreSpec, take};
use bowline_filter::track::{NoTrackEvents, TRACK_ALTITUDE, Tracker};

struct Counting;

thread_local! {
    static MINE: std::cell::Cell<(u64, u64)> = const { std::cell::Cell::new((0, 0)) };
}

// SAFETY: all is passed on to the system's allocator; counting touches only a thread-local without a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = MINE.try_with(|mine| mine.set((mine.get().0 + 1, mine.get().1 + layout.size() as u64)));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Allocations and bytes of this thread while `act` runs.
fn counted<T>(act: impl FnOnce() -> T) -> (T, u64, u64) {
    let before = MINE.get();
    let value = act();
    let after = MINE.get();
    (value, after.0 - before.0, after.1 - before.1)
}

/// One byte value everywhere, or holes; writes are counted and dropped.
struct Vast {
    size: u64,
    kind: ExtentKind,
    written: AtomicU64,
}

impl Store for Vast {
    fn geometry(&self) -> Geometry {
        let can = Capabilities::all();
        Geometry { size: self.size, block_size: BlockSize::B512, read_only: false, can }
    }

    fn location(&self) -> String {
        "vast".to_owned()
    }

    fn read_now(&self, _range: ByteRange, data: &mut [u8]) -> Now {
        data.fill(if self.kind == ExtentKind::Data { 0x5a } else { 0 });
        Now::Done(Ok(()))
    }

    fn write_now(&self, range: ByteRange, _data: &[u8], _flags: Flags) -> Now {
        self.written.fetch_add(range.len(), Ordering::Relaxed);
        Now::Done(Ok(()))
    }

    fn submit(&self, io: Io) -> IoFuture<'_> {
        Done::ready(Ok(()), io.data)
    }

    fn extents_now(&self, range: ByteRange, found: &mut ExtentList) -> Now {
        found.push(range, self.kind);
        Now::Done(Ok(()))
    }
}

const TIB: u64 = 1 << 40;
const MIB: u64 = 1 << 20;

fn snapshot(size: u64, kind: ExtentKind) -> (Arc<Device>, Snapshot, u64) {
    let device = Device::new("disk", Arc::new(Vast { size, kind, written: AtomicU64::new(0) }));
    let spec = StoreSpec { kind: StoreKind::Memory, limit: 64 * MIB, step: MIB };
    let storage = DiffStorage::open(spec).expect("opened");
    let limits = Limits::default();
    let (snapshot, _, bytes) = counted(|| {
        take("s", &[Origin::new(device.clone(), None)], &storage, Arc::new(NoEvents), limits).expect("taken")
    });
    (device, snapshot, bytes)
}

fn write(device: &Device, at: u64, data: &[u8]) {
    let range = ByteRange::new(at, data.len() as u64);
    assert!(matches!(device.write_now(range, data, Flags::empty()), Now::Done(Ok(()))));
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return value;
        }
    }
}

#[test]
fn what_is_allocated_does_not_depend_on_sizes() {
    // I9: a take costs the same for any size.
    for size in [MIB, 64 * TIB] {
        let (device, snapshot, bytes) = snapshot(size, ExtentKind::Hole);
        assert!(bytes < MIB, "a take of {size} bytes allocated {bytes}");

        // A discard of everything finds holes, and costs neither storage nor index.
        let begun = Instant::now();
        let ((), _, bytes) = counted(|| {
            let request = Request::new(Op::Discard, ByteRange::new(0, size));
            wait(device.submit(Io::bare(request))).result.expect("discarded");
        });
        assert!(bytes < MIB, "a discard of {size} bytes allocated {bytes}");
        assert!(begun.elapsed() < Duration::from_secs(2));
        let memory = snapshot.devices()[0].history().memory();
        assert!(memory.index_bytes + memory.bit_bytes < MIB, "{memory:?}");
        assert_eq!(snapshot.storage().used(), 0);

        let (extents, _, bytes) =
            counted(|| wait(snapshot.devices()[0].image().extents(ByteRange::new(0, size), 16)));
        assert_eq!(extents.expect("found").as_slice().len(), 1);
        assert!(bytes < MIB);
    }

    let (device, snapshot, _) = snapshot(64 * TIB, ExtentKind::Data);
    let data = Buf::zeroed(4096);
    let places = [0, 5 * 4096, 33 << 30, 64 * TIB - 4096];
    for at in places {
        write(&device, at, &data);
    }
    assert_eq!(snapshot.devices()[0].stats().stored_blocks, 4);
    // A rewrite of preserved blocks is let pass without an allocation.
    let ((), count, bytes) = counted(|| {
        for _ in 0..1000 {
            for at in places {
                write(&device, at, &data);
            }
        }
    });
    assert_eq!((count, bytes), (0, 0), "a rewrite allocates nothing");
    // First writes allocate only where lists grow.
    let ((), count, _) = counted(|| (0..4096).for_each(|at| write(&device, (1 << 30) + at * 4096, &data)));
    assert!(count < 4096 / 8, "4096 first writes made {count} allocations");

    // The counter counts.
    let (_, count, bytes) = counted(|| std::hint::black_box(vec![1u8; 100]));
    assert_eq!((count, bytes), (1, 100));
}

#[test]
fn a_tracked_write_allocates_nothing() {
    let size = 64 * TIB;
    let store = Vast { size, kind: ExtentKind::Hole, written: AtomicU64::new(0) };
    let device = Device::new("disk", Arc::new(store));
    let tracker = Tracker::memory("disk", size, Arc::new(NoTrackEvents));
    let freeze = || bowline_device::freeze_all(std::slice::from_ref(&device), Duration::from_secs(5));
    freeze().expect("frozen")[0].attach(tracker.clone(), TRACK_ALTITUDE, None).expect("attached");
    let data = Buf::zeroed(4096);
    // The first bit of some GiB makes the leaf.
    write(&device, 0, &data);
    let ((), count, _) = counted(|| {
        for _ in 0..2 {
            (0..4096).for_each(|at| write(&device, at << 20, &data));
        }
    });
    assert_eq!(count, 0, "first and later writes allocate nothing");
    // I9: a discard of everything is marked without memory for each block, and a take is ready before it freezes.
    let ((), _, bytes) = counted(|| {
        let request = Request::new(Op::Discard, ByteRange::new(0, size));
        wait(device.submit(Io::bare(request))).result.expect("discarded");
    });
    assert!(bytes < MIB, "a discard of {size} bytes allocated {bytes}");
    tracker.prepare_close();
    let (closed, _, bytes) = counted(|| {
        let _frozen = freeze().expect("frozen");
        tracker.close_epoch("s")
    });
    assert!(closed.epoch == 1 && bytes < 4096, "a take allocated {bytes} bytes under the freeze");
}
