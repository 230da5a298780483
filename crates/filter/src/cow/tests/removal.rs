//! I2, I9: a removal that failed half way, and what comes after it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bowline_block::*;
use bowline_device::Device;

use super::support::*;
use crate::cow::interval::Interval;
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

/// Removes a snapshot, and does something else between the two freezes, before its interval is merged.
fn between_the_freezes<'a, R>(
    device: &Device,
    snapshot: &Snapshot,
    freeze: Duration,
    work: impl FnOnce() -> R + 'a,
) -> (R, Result<()>) {
    let part = &snapshot.devices()[0];
    let interval = interval_of(snapshot);
    std::thread::scope(|scope| {
        // The merge waits for this lane, so that somebody can get inside between the two freezes.
        let lane = lock_lane(interval.lanes.mine_first().next().unwrap());
        let removal = scope.spawn(move || snapshot.remove(freeze));
        for _ in 0..5000 {
            if part.history().chain.load().position(part.epoch()).is_none() {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        // Until the first freeze is over, nobody gets in on the spot.
        while device.enter_now().is_none() {
            std::thread::yield_now();
        }
        let done = work();
        drop(lane);
        (done, removal.join().unwrap())
    })
}

fn interval_of(snapshot: &Snapshot) -> Arc<Interval> {
    let part = &snapshot.devices()[0];
    let chain = part.history().chain.load_full();
    chain.members[chain.position(part.epoch()).unwrap()].interval.clone()
}

/// Removes a snapshot whose intervals somebody still reads, so that it fails between its merge and the orphan's leaving.
fn fail_in_step_3(store: &TestStore, device: &Device, snapshot: &Snapshot) {
    let freeze = Duration::from_millis(300);
    let (inside, removed) = between_the_freezes(device, snapshot, freeze, || stay_inside(store, device));
    let error = removed.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    drop(inside);
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

/// What the removed snapshot's interval has is preserved for the older one already, before it is merged: it is not
/// preserved again, as it is by now.
#[test]
fn i2_writes_amid_a_removal_preserve_only_what_the_removed_one_did_not() {
    for op in [Op::Write, Op::Discard] {
        let (store, device) = filled();
        let storage = memory(16 * MIB);
        let a = take_with("a", &device, None, &storage, Arc::new(NoEvents));
        let at_a = store.contents();
        scribble(&device, 6, 2);
        let b = take_with("b", &device, Some(&a), &storage, Arc::new(NoEvents));
        // Every other block is preserved for both; a third of these for each by itself.
        scribble(&device, 2, 3);
        let copied = |one: &Snapshot| interval_of(one).counts().0;
        let preserved = (copied(&a), copied(&b));
        assert_eq!(preserved, (32, 96));
        let amid = || {
            for base in [0, 4096] {
                block_on(perform(&*device, op, ByteRange::new(base * G, 98 * G), &[4; 98 * 4096])).unwrap();
            }
            assert_eq!(copied(&a), 32 + 2 * 50, "each block is preserved once");
            assert!(contents(image(&a)) == at_a, "I2: amid the removal");
        };
        let ((), removed) = between_the_freezes(&device, &b, FREEZE, amid);
        removed.unwrap();
        assert!(contents(image(&a)) == at_a, "I2: behind the removal");
        assert_eq!(copied(&a), 2 * 98);
        a.remove(FREEZE).unwrap();
        assert_eq!(storage.used(), 0, "I9: every slot was freed once");
    }
}

/// Nothing is given back while somebody is inside who may look at it: of the oldest snapshot, which is read by itself,
/// and of one whose interval the older one hides.
#[test]
fn i2_a_removal_gives_nothing_back_before_its_readers_have_left() {
    let (store, device) = filled();
    let storage = memory(16 * MIB);
    let take = |name: &str, earlier| take_with(name, &device, earlier, &storage, Arc::new(NoEvents));
    let a = take("a", None);
    scribble(&device, 1, 2);
    let b = take("b", Some(&a));
    scribble(&device, 1, 3);
    let used = storage.used();
    let inside = stay_inside(&store, &device);
    assert_eq!(a.remove(Duration::from_millis(100)).unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(storage.used(), used, "a reader of it is inside");
    drop(inside);
    // Everything that b preserves is hidden by a.
    fail_in_step_3(&store, &device, &b);
    assert_eq!(storage.used(), used, "who came between the freezes is inside");
    assert!(contents(image(&a)) == vec![1; 32 << 20], "I2");
    b.remove(FREEZE).unwrap();
    assert!(storage.used() < used, "and then it is");
    assert!(contents(image(&a)) == vec![1; 32 << 20], "I2");
    a.remove(FREEZE).unwrap();
    assert_eq!(storage.used(), 0, "I9: every slot was freed once");
}
