//! Writable images, the plain cases one by one (scenario 7).

use std::sync::Arc;
use std::time::{Duration, Instant};

use bowline_block::*;
use bowline_device::Device;

use super::support::*;
use crate::cow::*;

const KIB: u64 = 1024;

fn submit(store: &dyn Store, request: Request, data: &[u8]) -> Result<()> {
    block_on(store.submit(Io::new(request, Buf::copy_of(data)))).result
}

fn stores(dir: &tempfile::TempDir, limit: u64) -> [Arc<DiffStorage>; 2] {
    [memory(limit), file(dir, "diff", limit)]
}

#[test]
fn large_unaligned_writes_of_both_sides_stay_apart() {
    for pace in [Pace::Now, Pace::Later, Pace::Mixed] {
        let dir = tempfile::tempdir().unwrap();
        for storage in stores(&dir, 32 * MIB) {
            let (store, device) = device(8, pace);
            let mut want = store.contents();
            let snapshot = take_with("s", &device, None, &storage, Arc::new(NoEvents));
            let image = image(&snapshot);
            for (round, at) in
                [2 * MIB, 4 * MIB, 2 * MIB + 512, 4 * MIB - 1536, 2 * MIB + 33 * KIB].iter().enumerate()
            {
                let fill = 100 + round as u8;
                write(&*device, at + 7 * 512, &vec![fill; 126 << 10]);
                write(image, *at, &vec![fill ^ 0xff; 126 << 10]);
                want[*at as usize..][..126 << 10].fill(fill ^ 0xff);
                write(&*device, *at, &vec![fill; 126 << 10]);
            }
            assert_eq!(contents(image), want, "I2: the image is its instant and what was written to it");
            assert!(store.contents()[2 << 20..][..126 << 10].iter().all(|byte| byte & 0x80 == 0));
            assert!(snapshot.storage().used() > 0);
            snapshot.remove(FREEZE).unwrap();
            assert_eq!(storage.used(), 0, "space is given back");
            let error =
                submit(image, Request::new(Op::Write, ByteRange::new(0, 512)), &[1; 512]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Gone, "{error}");
        }
    }
}

#[test]
fn what_is_written_to_an_image_counts_as_changed() {
    let (_, device) = device(4, Pace::Mixed);
    let first = take_one("first", &device, None);
    let second = take_one("second", &device, Some(&first));
    write(&*device, 0, &[1; 512]);
    write(image(&first), 8 * KIB + 512, &[2; 512]);
    clear(image(&second), Op::Discard, ByteRange::new(20 * KIB, 8 * KIB));
    let starts = |from: &Snapshot, until: Option<&Snapshot>| -> Vec<_> {
        let ranges = from.devices()[0].changed(until.map(|until| &until.devices()[0])).unwrap();
        ranges.iter().map(|range| (range.start() / KIB, range.len() / KIB)).collect()
    };
    assert_eq!(starts(&first, Some(&second)), [(8, 4), (20, 8)]);
    assert_eq!(starts(&first, None), [(0, 4), (8, 4)]);
    assert_eq!(starts(&second, None), [(0, 4), (20, 8)]);
    assert_eq!(image(&second).written(), [ByteRange::new(20 * KIB, 8 * KIB)]);
}

#[test]
fn a_discard_gives_space_back_and_reads_as_zeroes() {
    let (_, device) = device(8, Pace::Mixed);
    let snapshot = take_one("s", &device, None);
    let (image, storage) = (image(&snapshot), snapshot.storage().clone());
    write(image, 0, &vec![7; 4 << 20]);
    assert_eq!(storage.used(), 4 * MIB);
    clear(image, Op::Discard, ByteRange::new(0, 8 * MIB));
    assert!(storage.used() <= 4 * SEGMENT_BYTES, "{} bytes are still in use", storage.used());
    assert!(contents(image).iter().all(|&byte| byte == 0));
    let found = block_on(image.extents(ByteRange::new(0, 8 * MIB), 8)).unwrap();
    assert_eq!(found.as_slice().len(), 1, "{found:?}");
    assert_eq!(found.as_slice()[0].kind, ExtentKind::Zero);
    // Zeroes for which room is to be kept are stored, and may not be had fast.
    let zeroes = Request::new(Op::WriteZeroes, ByteRange::new(0, MIB)).with_flags(Flags::NO_UNMAP);
    submit(image, zeroes, &[]).unwrap();
    assert!(storage.used() >= MIB);
    let fast = zeroes.with_flags(Flags::NO_UNMAP | Flags::FAST_ZERO);
    assert_eq!(submit(image, fast, &[]).unwrap_err().kind(), ErrorKind::Unsupported);
    assert!(contents(image).iter().all(|&byte| byte == 0));
}

#[test]
fn clearing_a_sparse_image_costs_nothing() {
    let store = TestStore::new(64 * MIB, BlockSize::B512, Pace::Mixed);
    let device = Device::new("disk", store);
    write(&*device, MIB, &[1; 4096]);
    let snapshot = take_one("s", &device, None);
    clear(image(&snapshot), Op::WriteZeroes, ByteRange::new(0, 64 * MIB));
    assert_eq!(image(&snapshot).written(), [ByteRange::new(MIB, G)], "what reads as zeroes costs no bit");
    assert_eq!(snapshot.storage().used(), 0);
}

#[test]
fn rewriting_one_place_does_not_eat_the_storage() {
    let dir = tempfile::tempdir().unwrap();
    for storage in stores(&dir, 8 * MIB) {
        let (_, device) = device(4, Pace::Now);
        let snapshot = take_with("s", &device, None, &storage, Arc::new(NoEvents));
        let image = image(&snapshot);
        for round in 0..=400u64 {
            write(image, (round + 1) % 8 * 4096, &vec![round as u8 | 1; 256 << 10]);
        }
        let last = read(image, ByteRange::new(4096, 256 * KIB)).unwrap();
        assert!(last.iter().all(|&byte| byte == 400u64 as u8 | 1));
        assert_eq!(snapshot.state(), SnapshotState::Active);
    }
}

#[test]
fn a_full_storage_fails_the_image_write_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    for storage in stores(&dir, 4 * MIB) {
        let (store, device) = device(8, Pace::Mixed);
        let told = Arc::new(Told::default());
        let snapshot = take_with("s", &device, None, &storage, told.clone());
        let mut want = store.contents();
        let mut refused = 0;
        for at in (0..8 * MIB).step_by(64 << 10) {
            let data = vec![3; 64 << 10];
            let range = ByteRange::new(at, 64 * KIB);
            match block_on(perform(image(&snapshot), Op::Write, range, &data)) {
                Ok(_) => want[at as usize..][..64 << 10].fill(3),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
                    // What a failed write leaves is the old or the new, block by block.
                    let now = read(image(&snapshot), range).unwrap();
                    want[at as usize..][..64 << 10].copy_from_slice(&now);
                    refused += 1;
                }
            }
        }
        assert!(refused > 0);
        assert_eq!(snapshot.state(), SnapshotState::Active, "{:?}", told.all());
        // The last part is the origin's.
        let before = contents(image(&snapshot));
        overwrite(&device, 0, 256 * KIB, 1);
        assert_eq!(snapshot.state(), SnapshotState::Active, "{:?}", told.all());
        assert_eq!(contents(image(&snapshot)), before, "I2");
        assert_eq!(before, want, "I2");
        clear(image(&snapshot), Op::Discard, ByteRange::new(0, 8 * MIB));
        write(image(&snapshot), 0, &[9; 4096]);
        overwrite(&device, 0, 8 * MIB, 1);
        assert!(store.contents().iter().all(|&byte| byte == 1), "I1");
        snapshot.remove(FREEZE).unwrap();
        assert_eq!(storage.used(), 0);
    }
}

#[test]
fn a_failed_snapshot_answers_writes_with_eio() {
    let (_, device) = device(4, Pace::Mixed);
    let snapshot = take_with("s", &device, None, &memory(MIB), Arc::new(NoEvents));
    write(image(&snapshot), 0, &[1; 4096]);
    overwrite(&device, 0, 4 * MIB, 1);
    assert_failed(&snapshot, "full");
    for op in [Op::Write, Op::Discard, Op::WriteZeroes, Op::Flush] {
        let data = if op == Op::Write { &[1; 512][..] } else { &[] };
        let len = if op == Op::Flush { 0 } else { 512 };
        let error = submit(image(&snapshot), Request::new(op, ByteRange::new(0, len)), data).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{op:?}: {error}");
    }
}

#[test]
fn a_backlogged_storage_keeps_image_writers_waiting_for_a_bounded_time() {
    let dir = tempfile::tempdir().unwrap();
    let (_, device) = device(64, Pace::Now);
    let storage = file(&dir, "diff", 64 * MIB);
    let limits = Limits { freeze: FREEZE, hold: Duration::from_millis(300), ..Limits::default() };
    let snapshot =
        take("s", &[Origin::new(device.clone(), None)], &storage, Arc::new(NoEvents), limits).unwrap();
    let open = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let gate = open.clone();
    storage.plan(|faults| {
        faults.write = Some(Arc::new(move |_| {
            while !gate.load(std::sync::atomic::Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(())
        }));
    });
    let begun = Instant::now();
    let data = vec![5; 1 << 20];
    let failed = (0..64).find_map(|at| {
        let range = ByteRange::new(at * MIB, MIB);
        block_on(perform(image(&snapshot), Op::Write, range, &data)).err()
    });
    assert_eq!(failed.expect("the storage does not drain").kind(), ErrorKind::Timeout);
    assert!(begun.elapsed() < Duration::from_secs(20), "I9: every wait is bounded");
    assert_eq!(snapshot.state(), SnapshotState::Active);
    open.store(true, std::sync::atomic::Ordering::Relaxed);
    block_on(storage.drained());
    write(image(&snapshot), 63 * MIB, &data);
}

#[test]
fn an_image_of_a_device_with_an_odd_end_is_writable_to_its_last_sector() {
    let store = TestStore::new(MIB + 1536, BlockSize::B512, Pace::Mixed);
    let device = Device::new("disk", store.clone());
    let snapshot = take_one("s", &device, None);
    let image = image(&snapshot);
    write(image, MIB + 1024, &[1; 512]);
    write(&*device, MIB + 512, &[2; 1024]);
    write(image, MIB, &[3; 512]);
    let want = [[3; 512], [0; 512], [1; 512]].concat();
    assert_eq!(read(image, ByteRange::new(MIB, 1536)).unwrap(), want);
    clear(image, Op::Discard, ByteRange::new(MIB + 512, 1024));
    assert_eq!(read(image, ByteRange::new(MIB, 1536)).unwrap()[..1024], want[..1024]);
    assert_eq!(image.geometry().size, MIB + 1536);
    assert!(!image.geometry().read_only);
    assert_eq!(image.location(), "s/disk");
}

#[test]
fn a_snapshot_of_an_image_is_exact() {
    let (_, device) = device(4, Pace::Mixed);
    let snapshot = take_one("s", &device, None);
    let image = Device::new("image", snapshot.devices()[0].image().clone());
    write(&*image, 0, &[1; 8192]);
    let before = contents(&*image);
    let nested = take_one("n", &image, None);
    write(&*image, 512, &[2; 4096]);
    write(&*device, 0, &[3; 65536]);
    clear(&*image, Op::Discard, ByteRange::new(MIB, MIB));
    assert_eq!(contents(super::support::image(&nested)), before, "I2");
    nested.remove(FREEZE).unwrap();
    snapshot.remove(FREEZE).unwrap();
}
