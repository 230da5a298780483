//! I2, I9: a removal that failed half way, and what comes after it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bowline_block::*;
use bowline_device::Device;

use super::support::*;
use crate::cow::lane::lock_lane;
use crate::cow::*;

/// The block whose reads can be made to stay inside the device.
const STUCK: u64 = 8000;

/// A read that stays inside the device until it is dropped.
fn stay_inside<'a>(store: &TestStore, device: &'a Device) -> IoFuture<'a> {
    store.stuck.store(STUCK, Ordering::Relaxed);
    let range = ByteRange::new(STUCK * G, G);
    let mut inside = device.submit(Io::new(Request::new(Op::Read, range), Buf::zeroed(4096)));
    for _ in 0..4 {
        let polled = inside.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
        assert!(polled.is_pending());
    }
    inside
}

/// Removes a snapshot whose intervals somebody still reads, so that it fails between its merge and the orphan's leaving.
fn fail_in_step_3(store: &TestStore, device: &Device, snapshot: &Snapshot) {
    let part = &snapshot.devices()[0];
    let interval = {
        let chain = part.history().chain.load_full();
        chain.members[chain.position(part.epoch()).unwrap()].interval.clone()
    };
    std::thread::scope(|scope| {
        // The merge waits for this lane, so that somebody can get inside between the two freezes.
        let lane = lock_lane(interval.lanes.mine_first().next().unwrap());
        let removal = scope.spawn(|| snapshot.remove(Duration::from_millis(300)));
        for _ in 0..5000 {
            if part.history().chain.load().position(part.epoch()).is_none() {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let inside = loop {
            // Until the first freeze is over, nobody gets in on the spot.
            if device.enter_now().is_some() {
                break stay_inside(store, device);
            }
            std::thread::yield_now();
        };
        drop(lane);
        let error = removal.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        drop(inside);
    });
    store.stuck.store(u64::MAX, Ordering::Relaxed);
}

/// Overwrites blocks of two zones, every `nth` of them.
fn scribble(device: &Device, nth: usize, byte: u8) {
    for base in [0, 4096] {
        (base..base + 96).step_by(nth).for_each(|at| write(device, at * G, &[byte; 4096]));
    }
}

fn filled() -> (Arc<TestStore>, Arc<Device>) {
    let store = TestStore::new(32 * MIB, BlockSize::B512, Pace::Now);
    store.write(ByteRange::new(0, 32 * MIB), &vec![1; 32 << 20]);
    (store.clone(), Device::new("disk", store))
}

#[test]
fn a_failed_removal_frees_nothing_twice() {
    for retried in [false, true] {
        let (store, device) = filled();
        let storage = memory(16 * MIB);
        let take = |name: &str, earlier| take_with(name, &device, earlier, &storage, Arc::new(NoEvents));
        let a = take("a", None);
        // Some of what b preserves is hidden by a, the rest is taken over.
        scribble(&device, 3, 2);
        let b = take("b", Some(&a));
        scribble(&device, 2, 3);
        let c = take("c", Some(&b));
        let at_c = store.contents();
        scribble(&device, 1, 4);

        fail_in_step_3(&store, &device, &b);
        assert_eq!(contents(image(&c)), at_c, "I2");
        let at_a = vec![1; 32 << 20];
        assert_eq!(contents(image(&a)), at_a, "I2");
        if retried {
            b.remove(FREEZE).unwrap();
            assert_eq!(contents(image(&a)), at_a, "I2: what the older took over is kept");
        }
        a.remove(FREEZE).unwrap();
        assert_eq!(contents(image(&c)), at_c, "I2");
        // What was freed is used again.
        let d = take("d", Some(&c));
        let at_d = store.contents();
        (0..8).for_each(|at| write(&*device, at * MIB, &vec![5; 1 << 20]));
        assert_eq!(contents(image(&c)), at_c, "I2");
        assert_eq!(contents(image(&d)), at_d, "I2");
        c.remove(FREEZE).unwrap();
        assert_eq!(contents(image(&d)), at_d, "I2");
        b.remove(FREEZE).unwrap();
        d.remove(FREEZE).unwrap();
        assert_eq!(storage.used(), 0, "I9: every slot was freed once");
    }
}
