//! What a filter's answers do, where it sees a request, and in which order.

use super::*;

#[test]
fn the_highest_altitude_is_asked_first_whatever_the_order_of_attaching() {
    let device = Device::new("disk", disk());
    let log = Log::default();
    let frozen = freeze(&device);
    for (name, altitude) in [("middle", 20), ("top", 30), ("bottom", 10)] {
        frozen.attach(Asked::new(name, &log, passes), Altitude(altitude), None).unwrap();
    }
    drop(frozen);
    write(&*device, 0, &[1; 512]).unwrap();
    let flush = Io::bare(Request::flush());
    wait(device.submit(flush)).result.unwrap();
    let order: Vec<_> = log.lock().unwrap().iter().map(|(name, _)| *name).collect();
    assert_eq!(order, ["top", "middle", "bottom", "top", "middle", "bottom"]);
    let kinds: Vec<_> = device.filters().iter().map(|filter| (filter.kind, filter.altitude.0)).collect();
    assert_eq!(kinds, [("top", 30), ("middle", 20), ("bottom", 10)]);
}

#[test]
fn a_request_across_a_border_is_split_and_each_byte_seen_once() {
    let disk = disk();
    let device = Device::new("disk", disk.clone());
    let (log, below) = (Log::default(), Log::default());
    let frozen = freeze(&device);
    frozen.attach(Asked::new("all", &below, passes), Altitude(1), None).unwrap();
    let own = ByteRange::new(4096, 4096);
    frozen.attach(Asked::new("part", &log, passes), Altitude(2), Some(own)).unwrap();
    drop(frozen);
    let bytes: Vec<u8> = (0..64u8).flat_map(|n| [n; 512]).collect();
    // Outside, up to the border, across one border, across both, inside.
    let cases = [(0, 4096, 0), (2048, 4096, 2048), (6144, 4096, 2048), (0, 32768, 4096), (4608, 512, 512)];
    for (start, len, inside) in cases {
        for op in [Op::Write, Op::Read, Op::WriteZeroes] {
            log.lock().unwrap().clear();
            below.lock().unwrap().clear();
            let range = ByteRange::new(start, len);
            let at = usize::try_from(start).unwrap()..usize::try_from(start + len).unwrap();
            match op {
                Op::Write => write(&*device, start, &bytes[at]).unwrap(),
                Op::Read => assert_eq!(read(&*device, start, at.len()).unwrap(), &bytes[at]),
                _ => wait(device.submit(Io::bare(Request::new(op, range)))).result.unwrap(),
            }
            let sum = |log: &Log| log.lock().unwrap().iter().map(|(_, asked)| asked.range.len()).sum::<u64>();
            let asked = log.lock().unwrap().clone();
            assert!(asked.iter().all(|(_, asked)| own.contains(asked.range)), "{op:?} {range}: {asked:?}");
            // The synchronous attempt may have asked before it was given up for a split.
            assert_eq!(sum(&log), inside, "{op:?} {range}");
            assert_eq!(sum(&below), len, "{op:?} {range}");
        }
        assert!(disk.contents().bytes(ByteRange::new(start, len)).iter().all(|&byte| byte == 0));
    }
}

#[test]
fn a_flush_concerns_filters_on_every_range() {
    let device = Device::new("disk", disk());
    let log = Log::default();
    let range = Some(ByteRange::new(8192, 4096));
    freeze(&device).attach(Asked::new("part", &log, passes), Altitude(1), range).unwrap();
    wait(device.submit(Io::bare(Request::flush()))).result.unwrap();
    assert_eq!(log.lock().unwrap().len(), 1);
}

#[test]
fn complete_ends_a_request_above_the_store() {
    let disk = disk();
    let device = Device::new("disk", disk.clone());
    let log = Log::default();
    let answer = |request: &Request| match request.op {
        Op::Write => Verdict::Complete(Err(Error::new(ErrorKind::NoSpace, "the filter is full"))),
        _ => Verdict::Complete(Ok(())),
    };
    freeze(&device).attach(Asked::new("ends", &log, answer), Altitude(1), None).unwrap();
    let error = write(&*device, 512, &[1; 512]).unwrap_err();
    assert_eq!(error.to_string(), "disk: write 512+512: the filter is full");
    let request = Request::new(Op::Write, ByteRange::new(512, 512));
    let done = wait(device.submit(Io::new(request, Buf::zeroed(512))));
    assert_eq!(done.result.unwrap_err().kind(), ErrorKind::NoSpace);
    assert_eq!(done.data.len(), 512, "the buffer comes back");
    read(&*device, 0, 512).unwrap();
    assert_eq!(disk.cut_points(), 1, "nothing reached the disk");
    let stats = device.stats();
    assert_eq!((stats.errors, stats.reads, stats.writes), (2, 1, 0));
}

#[test]
fn redirect_goes_to_the_other_store_at_the_other_offset() {
    let (disk, other) = (disk(), disk());
    let device = Device::new("disk", disk.clone());
    let log = Log::default();
    let to = other.clone();
    let answer =
        move |request: &Request| Verdict::Redirect { to: to.clone(), offset: request.range.start() + 65536 };
    let range = Some(ByteRange::new(4096, 4096));
    freeze(&device).attach(Asked::new("elsewhere", &log, answer), Altitude(1), range).unwrap();
    let bytes: Vec<u8> = (0..24u8).flat_map(|n| [n + 1; 512]).collect();
    write(&*device, 0, &bytes).unwrap();
    assert_eq!(read(&*device, 0, bytes.len()).unwrap(), bytes);
    assert_eq!(read(&*device, 4608, 512).unwrap(), bytes[4608..5120]);
    assert_eq!(other.contents().bytes(ByteRange::new(65536 + 4096, 4096)), bytes[4096..8192]);
    assert!(disk.contents().bytes(ByteRange::new(4096, 4096)).iter().all(|&byte| byte == 0));
    assert_eq!(disk.contents().bytes(ByteRange::new(8192, 4096)), bytes[8192..]);
}

#[test]
fn hold_waits_and_asks_again() {
    let disk = disk();
    let device = Device::new("disk", disk.clone());
    let (log, released) = (Log::default(), Arc::new(AtomicU64::new(0)));
    let seen = released.clone();
    let answer = move |_: &Request| {
        if seen.load(Ordering::SeqCst) >= 3 {
            return Verdict::Pass;
        }
        let seen = seen.clone();
        Verdict::Hold(Box::pin(std::future::poll_fn(move |cx| {
            cx.waker().wake_by_ref();
            match seen.fetch_add(1, Ordering::SeqCst) {
                0 => std::task::Poll::Pending,
                _ => std::task::Poll::Ready(()),
            }
        })))
    };
    freeze(&device).attach(Asked::new("holds", &log, answer), Altitude(1), None).unwrap();
    let range = ByteRange::new(0, 512);
    assert!(matches!(device.write_now(range, &[7; 512], Flags::empty()), Now::NotNow));
    assert_eq!(disk.cut_points(), 1);
    write(&*device, 0, &[7; 512]).unwrap();
    assert_eq!(disk.contents().bytes(range), [7; 512]);
    assert!(log.lock().unwrap().len() >= 4);
    assert_eq!(device.stats().writes, 1, "counted once, however often it was asked about");
}

#[test]
fn below_an_altitude_lies_what_a_filter_there_would_write_to() {
    let disk = disk();
    let device = Device::new("disk", disk.clone());
    let log = Log::default();
    let frozen = freeze(&device);
    frozen.attach(Asked::new("low", &log, passes), Altitude(10), None).unwrap();
    frozen.attach(Asked::new("high", &log, passes), Altitude(20), None).unwrap();
    assert!(device.enter_now().is_none(), "frozen");
    drop(frozen);
    let inside = device.enter_now().unwrap();
    write(inside.below(Altitude(20)), 0, &[1; 512]).unwrap();
    write(inside.below(Altitude(10)), 0, &[1; 512]).unwrap();
    write(inside.below(Altitude(21)), 0, &[1; 512]).unwrap();
    let names: Vec<_> = log.lock().unwrap().iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["low", "high", "low"]);
    assert_eq!(device.stats().in_flight, 1);
}
