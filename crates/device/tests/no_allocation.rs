//! A chain of filters that all pass costs no allocation on the synchronous path, filtered ranges included.
#![cfg(not(feature = "shuttle"))]
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use bowline_block::{
    Altitude, BlockSize, ByteRange, Capabilities, Done, Filter, Flags, Geometry, Io, IoFuture, Now, Request,
    Store, Verdict,
};
use bowline_device::{Device, freeze_all};

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

struct Nothing;

impl Store for Nothing {
    fn geometry(&self) -> Geometry {
        let (block_size, can) = (BlockSize::B512, Capabilities::empty());
        Geometry { size: 1 << 20, block_size, read_only: false, can }
    }

    fn location(&self) -> String {
        "nothing".to_owned()
    }

    fn read_now(&self, _: ByteRange, _: &mut [u8]) -> Now {
        Now::Done(Ok(()))
    }

    fn write_now(&self, _: ByteRange, _: &[u8], _: Flags) -> Now {
        Now::Done(Ok(()))
    }

    fn submit(&self, io: Io) -> IoFuture<'_> {
        Done::ready(Ok(()), io.data)
    }
}

struct Passes;

impl Filter for Passes {
    fn kind(&self) -> &'static str {
        "passes"
    }

    fn ask<'a>(&'a self, _: &Request, _: &'a dyn Store) -> Verdict<'a> {
        Verdict::Pass
    }
}

#[test]
fn eight_passing_filters_allocate_nothing() {
    let device = Device::new("disk", Arc::new(Nothing));
    let frozen = freeze_all(std::slice::from_ref(&device), Duration::from_secs(5)).unwrap();
    for altitude in 0..8 {
        let range = (altitude % 2 == 0).then_some(ByteRange::new(0, 64 << 10));
        frozen[0].attach(Arc::new(Passes), Altitude(altitude), range).unwrap();
    }
    drop(frozen);
    let mut data = [0; 4096];
    let mut round = |offset| {
        let range = ByteRange::new(offset, 4096);
        assert!(matches!(device.read_now(range, &mut data), Now::Done(Ok(()))));
        assert!(matches!(device.write_now(range, &data, Flags::FUA), Now::Done(Ok(()))));
    };
    // The first request of a thread sets up what is the thread's own.
    round(0);
    let before = COUNT.with(Cell::get);
    for offset in (0..128 << 10).step_by(4096) {
        round(offset);
    }
    assert_eq!(COUNT.with(Cell::get) - before, 0);
    drop(vec![1]);
    assert_ne!(COUNT.with(Cell::get), before, "the counter counts nothing");
}
