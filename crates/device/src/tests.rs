mod load;
mod refusals;
mod verdicts;

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bowline_block::{
    Altitude, Buf, ByteRange, Error, ErrorKind, Filter, Flags, Io, Now, Op, Request, Result, Store, Verdict,
};
use bowline_sim::{SimDisk, run_alone};

use super::*;

const SIZE: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(20);

fn disk() -> Arc<SimDisk> {
    Arc::new(SimDisk::new(SIZE, 1).answering_now())
}

fn freeze(device: &Arc<Device>) -> Frozen {
    freeze_all(std::slice::from_ref(device), LIMIT).unwrap().remove(0)
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    run_alone(future).unwrap()
}

fn write(store: &dyn Store, start: u64, bytes: &[u8]) -> Result<()> {
    let range = ByteRange::new(start, bytes.len() as u64);
    match store.write_now(range, bytes, Flags::empty()) {
        Now::Done(result) => result,
        Now::NotNow => {
            wait(store.submit(Io::new(Request::new(Op::Write, range), Buf::copy_of(bytes)))).result
        }
    }
}

fn read(store: &dyn Store, start: u64, len: usize) -> Result<Vec<u8>> {
    let range = ByteRange::new(start, len as u64);
    let mut bytes = vec![0; len];
    match store.read_now(range, &mut bytes) {
        Now::Done(result) => result.map(|()| bytes),
        Now::NotNow => {
            let done = wait(store.submit(Io::new(Request::new(Op::Read, range), Buf::zeroed(len))));
            done.result.map(|()| done.data.to_vec())
        }
    }
}

type Log = Arc<Mutex<Vec<(&'static str, Request)>>>;

/// A filter that notes what it is asked and answers by a function.
struct Asked<F> {
    name: &'static str,
    log: Log,
    answer: F,
    detached: AtomicU64,
}

impl<F: Fn(&Request) -> Verdict<'static> + Send + Sync> Asked<F> {
    fn new(name: &'static str, log: &Log, answer: F) -> Arc<Self> {
        Arc::new(Self { name, log: log.clone(), answer, detached: AtomicU64::new(0) })
    }
}

impl<F: Fn(&Request) -> Verdict<'static> + Send + Sync> Filter for Asked<F> {
    fn kind(&self) -> &'static str {
        self.name
    }

    fn ask<'a>(&'a self, request: &Request, _: &'a dyn Store) -> Verdict<'a> {
        self.log.lock().unwrap().push((self.name, *request));
        (self.answer)(request)
    }

    fn detached(&self) {
        self.detached.fetch_add(1, Ordering::SeqCst);
    }
}

fn passes(_: &Request) -> Verdict<'static> {
    Verdict::Pass
}
