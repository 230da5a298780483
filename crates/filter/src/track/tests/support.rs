//! A disk in memory with a tracker on it, and ways to drive both.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bowline_block::{
    BlockSize, Buf, ByteRange, Capabilities, Done, Flags, Geometry, Io, IoFuture, Now, Op, Request, Store,
};
use bowline_device::{Device, freeze_all};

use crate::track::{TRACK_ALTITUDE, Tracker};

pub(crate) const K: u64 = 4096;
pub(crate) const M: u64 = 1 << 20;

pub(crate) struct Memory(pub(crate) Mutex<Vec<u8>>);

impl Memory {
    pub(crate) fn new(size: u64) -> Arc<Self> {
        Arc::new(Self(Mutex::new(vec![0; size as usize])))
    }

    fn change(&self, request: &Request, data: &[u8]) {
        let range = request.range.start() as usize..request.range.end() as usize;
        match request.op {
            Op::Write => self.0.lock().unwrap()[range].copy_from_slice(data),
            Op::Discard | Op::WriteZeroes => self.0.lock().unwrap()[range].fill(0),
            _ => {}
        }
    }
}

impl Store for Memory {
    fn geometry(&self) -> Geometry {
        let size = self.0.lock().unwrap().len() as u64;
        Geometry { size, block_size: BlockSize::B512, read_only: false, can: Capabilities::all() }
    }

    fn location(&self) -> String {
        "memory".to_owned()
    }

    fn write_now(&self, range: ByteRange, data: &[u8], _: Flags) -> Now {
        self.change(&Request::new(Op::Write, range), data);
        Now::Done(Ok(()))
    }

    fn submit(&self, io: Io) -> IoFuture<'_> {
        self.change(&io.request, &io.data);
        Done::ready(Ok(()), io.data)
    }
}

struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park_timeout(Duration::from_secs(20)),
        }
    }
}

pub(crate) fn write(device: &Device, at: u64, data: &[u8]) {
    let range = ByteRange::new(at, data.len() as u64);
    match device.write_now(range, data, Flags::empty()) {
        Now::Done(result) => result.unwrap(),
        Now::NotNow => {
            let io = Io::new(Request::new(Op::Write, range), Buf::copy_of(data));
            block_on(device.submit(io)).result.unwrap();
        }
    }
}

pub(crate) fn clear(device: &Device, op: Op, range: ByteRange) {
    block_on(device.submit(Io::bare(Request::new(op, range)))).result.unwrap();
}

pub(crate) fn attach(device: &Arc<Device>, tracker: &Arc<Tracker>) {
    let frozen = freeze_all(std::slice::from_ref(device), Duration::from_secs(20)).unwrap();
    frozen[0].attach(tracker.clone(), TRACK_ALTITUDE, None).unwrap();
}

/// A take of one device, as snapshots do it; gives the epoch closed.
pub(crate) fn close(device: &Arc<Device>, tracker: &Tracker, name: &str) -> u64 {
    tracker.prepare_close();
    let frozen = freeze_all(std::slice::from_ref(device), Duration::from_secs(20)).unwrap();
    let closed = tracker.close_epoch(name);
    drop(frozen);
    closed.epoch
}
