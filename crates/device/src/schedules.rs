//! The gate under a randomised scheduler: every lock and atomic of this crate is a point where another thread may go on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bowline_block::{
    Altitude, BlockSize, Buf, ByteRange, Capabilities, Done, Filter, Flags, Geometry, Io, IoFuture, Now, Op,
    Request, Store, Verdict,
};
use shuttle::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use shuttle::{future, thread};

use crate::gate::Gate;
use crate::{Device, freeze_all};

const ITERATIONS: usize = 3000;
/// Real time, which these tests do not spend: a wait that is never notified is a deadlock to the scheduler.
const LONG: Duration = Duration::from_secs(3600);

/// Runs the test in random schedules, and in schedules with few, well-placed switches.
fn check(test: impl Fn() + Send + Sync + Clone + 'static) {
    shuttle::check_random(test.clone(), ITERATIONS);
    shuttle::check_pct(test, ITERATIONS, 3);
}

fn deadline() -> Instant {
    Instant::now() + LONG
}

#[test]
fn nobody_is_inside_a_gate_that_is_closed_and_drained() {
    check(|| {
        let gate = Arc::new(Gate::new());
        let frozen = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for _ in 0..2 {
            let (gate, frozen) = (gate.clone(), frozen.clone());
            threads.push(thread::spawn(move || {
                for _ in 0..2 {
                    if let Some(entry) = gate.try_enter() {
                        assert!(!frozen.load(Ordering::SeqCst), "inside while frozen");
                        thread::yield_now();
                        assert!(!frozen.load(Ordering::SeqCst), "frozen while inside");
                        drop(entry);
                    }
                }
            }));
        }
        gate.close();
        assert!(gate.drain_until(deadline()));
        frozen.store(true, Ordering::SeqCst);
        thread::yield_now();
        frozen.store(false, Ordering::SeqCst);
        gate.open();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(gate.in_flight(), 0);
    });
}

#[test]
fn who_waits_at_a_closed_gate_is_woken_when_it_opens() {
    check(|| {
        let gate = Arc::new(Gate::new());
        gate.close();
        let waiters: Vec<_> = (0..3)
            .map(|_| {
                let gate = gate.clone();
                thread::spawn(move || {
                    future::block_on(async {
                        drop(gate.enter().await);
                        drop(gate.enter().await);
                    });
                })
            })
            .collect();
        gate.open();
        gate.close();
        assert!(gate.drain_until(deadline()));
        gate.open();
        waiters.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn the_last_one_out_wakes_who_drains() {
    check(|| {
        let gate = Arc::new(Gate::new());
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let gate = gate.clone();
                thread::spawn(move || drop(gate.try_enter()))
            })
            .collect();
        for _ in 0..2 {
            gate.close();
            assert!(gate.drain_until(deadline()));
            gate.open();
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

/// Notes who is inside, and stumbles over a device that is frozen meanwhile.
#[derive(Default)]
struct Watched {
    inside: AtomicU64,
    frozen: AtomicU64,
    done: AtomicU64,
}

impl Watched {
    fn visit(&self) {
        assert_eq!(self.frozen.load(Ordering::SeqCst), 0, "a request in a frozen device");
        self.inside.fetch_add(1, Ordering::SeqCst);
        thread::yield_now();
        assert_eq!(self.frozen.load(Ordering::SeqCst), 0, "frozen with a request inside");
        self.inside.fetch_sub(1, Ordering::SeqCst);
        self.done.fetch_add(1, Ordering::SeqCst);
    }

    /// To be called with the device frozen.
    fn hold(&self) {
        self.frozen.fetch_add(1, Ordering::SeqCst);
        assert_eq!(self.inside.load(Ordering::SeqCst), 0);
        thread::yield_now();
        assert_eq!(self.inside.load(Ordering::SeqCst), 0);
        self.frozen.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Store for Watched {
    fn geometry(&self) -> Geometry {
        let (block_size, can) = (BlockSize::B512, Capabilities::empty());
        Geometry { size: 1 << 20, block_size, read_only: false, can }
    }

    fn location(&self) -> String {
        "watched".to_owned()
    }

    fn write_now(&self, _: ByteRange, _: &[u8], _: Flags) -> Now {
        self.visit();
        Now::Done(Ok(()))
    }

    fn submit(&self, io: Io) -> IoFuture<'_> {
        Box::pin(async move {
            self.visit();
            Done::new(Ok(()), io.data)
        })
    }
}

fn write(device: &Device) {
    let range = ByteRange::new(0, 512);
    match device.write_now(range, &[0; 512], Flags::empty()) {
        Now::Done(result) => result.unwrap(),
        Now::NotNow => {
            let io = Io::new(Request::new(Op::Write, range), Buf::zeroed(512));
            future::block_on(device.submit(io)).result.unwrap();
        }
    }
}

#[test]
fn i6_two_who_freeze_in_turn_never_meet_a_request() {
    check(|| {
        let store = Arc::new(Watched::default());
        let device = Device::new("disk", store.clone());
        let writers: Vec<_> = (0..2)
            .map(|_| {
                let device = device.clone();
                thread::spawn(move || write(&device))
            })
            .collect();
        let freezers: Vec<_> = (0..2)
            .map(|_| {
                let (device, store) = (device.clone(), store.clone());
                thread::spawn(move || {
                    let frozen = freeze_all(&[device], LONG).unwrap();
                    store.hold();
                    drop(frozen);
                })
            })
            .collect();
        writers.into_iter().chain(freezers).for_each(|thread| thread.join().unwrap());
        assert_eq!(store.done.load(Ordering::SeqCst), 2);
        assert_eq!(device.stats().in_flight, 0);
    });
}

#[test]
fn two_devices_frozen_in_opposite_orders_do_not_lock_each_other_out() {
    check(|| {
        let make = |name: &str| Device::new(name, Arc::new(Watched::default()));
        let (one, two) = (make("one"), make("two"));
        let freezers: Vec<_> = [[one.clone(), two.clone()], [two.clone(), one.clone()]]
            .into_iter()
            .map(|devices| thread::spawn(move || drop(freeze_all(&devices, LONG).unwrap())))
            .collect();
        let writers: Vec<_> =
            [one, two].into_iter().map(|device| thread::spawn(move || write(&device))).collect();
        freezers.into_iter().chain(writers).for_each(|thread| thread.join().unwrap());
    });
}

struct Counts(AtomicU64);

impl Filter for Counts {
    fn kind(&self) -> &'static str {
        "counts"
    }

    fn ask<'a>(&'a self, _: &Request, _: &'a dyn Store) -> Verdict<'a> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Verdict::Pass
    }
}

#[test]
fn i6_requests_pass_while_a_filter_comes_and_goes() {
    check(|| {
        let store = Arc::new(Watched::default());
        let device = Device::new("disk", store.clone());
        let writers: Vec<_> = (0..2)
            .map(|_| {
                let device = device.clone();
                thread::spawn(move || {
                    write(&device);
                    write(&device);
                })
            })
            .collect();
        let filter = Arc::new(Counts(AtomicU64::new(0)));
        let mut frozen = freeze_all(std::slice::from_ref(&device), LONG).unwrap();
        let id = frozen.remove(0).attach(filter.clone(), Altitude(1), None).unwrap();
        drop(frozen);
        let frozen = freeze_all(std::slice::from_ref(&device), LONG).unwrap();
        let seen = filter.0.load(Ordering::SeqCst);
        frozen[0].detach(id).unwrap();
        drop(frozen);
        writers.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(store.done.load(Ordering::SeqCst), 4);
        assert_eq!(filter.0.load(Ordering::SeqCst), seen, "asked after it was detached");
    });
}
