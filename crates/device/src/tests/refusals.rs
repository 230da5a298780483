//! What is refused, what is left after a refusal, and what a removed device answers.

use std::time::Instant;

use bowline_sim::{Faults, SimScheduler, Stall};

use super::*;

fn kind<T>(result: Result<T>) -> ErrorKind {
    result.err().unwrap().kind()
}

#[test]
fn attach_and_detach_refuse_what_does_not_fit() {
    let device = Device::new("disk", disk());
    let log = Log::default();
    let filter = || Asked::new("part", &log, passes);
    let frozen = freeze(&device);
    let on = |start, len| Some(ByteRange::new(start, len));
    let attach = |altitude, range| frozen.attach(filter(), Altitude(altitude), range);
    let first = attach(1, on(4096, 4096)).unwrap();
    assert_eq!(kind(attach(1, on(4096, 4096))), ErrorKind::Exists);
    assert_eq!(kind(attach(1, on(0, 4608))), ErrorKind::Exists);
    assert_eq!(kind(attach(1, None)), ErrorKind::Exists);
    attach(1, on(8192, 4096)).unwrap();
    attach(2, on(4096, 4096)).unwrap();
    assert_eq!(kind(attach(3, on(0, 0))), ErrorKind::OutOfRange);
    assert_eq!(kind(attach(3, on(SIZE - 512, 1024))), ErrorKind::OutOfRange);
    assert_eq!(kind(attach(3, on(u64::MAX - 511, 512))), ErrorKind::OutOfRange);
    // A border inside a block would cut requests into pieces no disk takes.
    assert_eq!(kind(attach(3, on(100, 512))), ErrorKind::Invalid);
    assert_eq!(kind(attach(3, on(512, 700))), ErrorKind::Invalid);
    assert_eq!(device.filters().len(), 3);
    frozen.detach(first).unwrap();
    assert_eq!(kind(frozen.detach(first)), ErrorKind::NotFound);
    assert_eq!(kind(frozen.detach(FilterId(u64::MAX))), ErrorKind::NotFound);
    assert_eq!(device.filters().len(), 2);
    let taken = attach(2, None).err().unwrap().to_string();
    assert!(taken.contains("disk") && taken.contains("altitude 2"), "{taken}");
}

#[test]
fn requests_that_do_not_fit_the_device_never_reach_a_filter() {
    let device = Device::new("disk", disk());
    let log = Log::default();
    freeze(&device).attach(Asked::new("all", &log, passes), Altitude(1), None).unwrap();
    assert_eq!(kind(write(&*device, SIZE, &[0; 512])), ErrorKind::OutOfRange);
    assert_eq!(kind(read(&*device, 1, 512)), ErrorKind::Invalid);
    let zone = Request::new(Op::Zone, ByteRange::new(0, 512));
    assert_eq!(kind(wait(device.submit(Io::bare(zone))).result), ErrorKind::Unsupported);
    assert!(log.lock().unwrap().is_empty());
    assert_eq!(device.stats().errors, 3);
}

#[test]
fn i1_a_freeze_that_takes_too_long_undoes_itself_on_every_device() {
    let stuck_disk = disk();
    let (stuck, other) = (Device::new("stuck", stuck_disk.clone()), Device::new("other", disk()));
    stuck_disk.set_faults(Faults { stall: Stall::UntilReleased, ..Faults::default() });
    let request = Request::new(Op::Write, ByteRange::new(0, 512));
    let done = std::cell::Cell::new(false);
    let mut schedule = SimScheduler::new(1);
    schedule.spawn(async {
        stuck.submit(Io::new(request, Buf::zeroed(512))).await.result.unwrap();
        done.set(true);
    });
    schedule.turn();
    let devices = [other.clone(), stuck.clone()];
    let begin = Instant::now();
    let error = freeze_all(&devices, Duration::from_millis(100)).err().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(5));
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().starts_with("stuck: freeze: 1 request"), "{error}");
    // Both go on at once.
    write(&*other, 0, &[1; 512]).unwrap();
    assert!(stuck.enter_now().is_some());
    stuck_disk.release();
    schedule.run(100).unwrap();
    drop(schedule);
    assert!(done.get());
    assert_eq!(freeze_all(&devices, LIMIT).unwrap().len(), 2);
}

#[test]
fn a_device_frozen_by_another_is_waited_for_and_then_given_up() {
    let device = Device::new("disk", disk());
    let frozen = freeze(&device);
    let again = || freeze_all(&[device.clone(), device.clone()], Duration::from_millis(50));
    let error = again().err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(device.enter_now().is_none(), "the other's freeze was undone");
    drop(frozen);
    assert_eq!(again().unwrap().len(), 1, "a device named twice is frozen once");
}

#[test]
fn a_request_at_a_frozen_device_waits_and_goes_on() {
    let device = Device::new("disk", disk());
    let frozen = freeze(&device);
    let range = ByteRange::new(0, 512);
    assert!(matches!(device.write_now(range, &[1; 512], Flags::empty()), Now::NotNow));
    let mut schedule = SimScheduler::new(1);
    for _ in 0..3 {
        schedule.spawn(async {
            let io = Io::new(Request::new(Op::Write, range), Buf::copy_of(&[5; 512]));
            device.submit(io).await.result.unwrap();
        });
    }
    assert!(schedule.run(100).is_err());
    drop(frozen);
    schedule.run(100).unwrap();
    drop(schedule);
    assert_eq!(read(&*device, 0, 512).unwrap(), [5; 512]);
    assert_eq!(device.stats().writes, 3);
}

#[test]
fn a_removed_device_answers_gone_and_tells_its_filters_once() {
    let disk = disk();
    let device = Device::new("disk", disk);
    let log = Log::default();
    let filters = [Asked::new("one", &log, passes as fn(&Request) -> _), Asked::new("two", &log, passes)];
    let frozen = freeze(&device);
    for (filter, altitude) in filters.iter().zip(1..) {
        frozen.attach(filter.clone(), Altitude(altitude), None).unwrap();
    }
    let mut schedule = SimScheduler::new(1);
    schedule.spawn(async {
        let request = Request::new(Op::Write, ByteRange::new(0, 512));
        let done = device.submit(Io::new(request, Buf::zeroed(512))).await;
        assert_eq!(kind(done.result), ErrorKind::Gone);
        assert_eq!(done.data.len(), 512);
    });
    schedule.turn();
    frozen.remove();
    schedule.run(100).unwrap();
    drop(schedule);
    assert!(device.is_gone());
    assert_eq!(device.geometry().size, SIZE);
    assert_eq!(kind(write(&*device, 0, &[1; 512])), ErrorKind::Gone);
    assert_eq!(kind(wait(device.submit(Io::bare(Request::flush()))).result), ErrorKind::Gone);
    assert_eq!(kind(wait(device.extents(ByteRange::new(0, 512), 1))), ErrorKind::Gone);
    assert_eq!(freeze_all(&[device], LIMIT).err().unwrap().kind(), ErrorKind::Gone);
    for filter in filters {
        assert_eq!(filter.detached.load(Ordering::SeqCst), 1);
    }
}

#[test]
fn a_removed_device_lets_go_of_its_store() {
    let disk = disk();
    let device = Device::new("disk", disk.clone());
    freeze(&device).remove();
    assert_eq!(Arc::strong_count(&disk), 1);
}
