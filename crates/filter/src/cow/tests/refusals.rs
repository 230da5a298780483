//! I8: what is refused, and that nothing changes then.

use std::sync::Arc;
use std::time::Duration;

use bowline_block::*;
use bowline_device::Device;

use super::support::*;
use crate::cow::*;

fn open(kind: StoreKind, limit: u64, step: u64) -> Error {
    match DiffStorage::open(StoreSpec { kind, limit, step }) {
        Ok(_) => panic!("taken"),
        Err(error) => error,
    }
}

#[test]
fn storage_that_cannot_be_is_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| StoreKind::File(dir.path().join(name));
    std::fs::write(dir.path().join("full"), "x").unwrap();
    let cases = [
        (
            StoreKind::Memory,
            MIB,
            2 * MIB,
            ErrorKind::Invalid,
            "limit of 1048576 bytes is smaller than a step",
        ),
        (StoreKind::Memory, 4096, 4096, ErrorKind::Invalid, "smaller than 262144"),
        (StoreKind::Memory, MIB, 0, ErrorKind::Invalid, "step must not be 0"),
        (StoreKind::File(dir.path().to_owned()), MIB, MIB, ErrorKind::Invalid, "is a directory"),
        (at("full"), MIB, MIB, ErrorKind::Invalid, "is not empty"),
        (at("no/such"), MIB, MIB, ErrorKind::NotFound, "no/such"),
        (StoreKind::File("/dev/null".into()), MIB, MIB, ErrorKind::Invalid, "not a regular file"),
    ];
    for (kind, limit, step, want, why) in cases {
        let error = open(kind, limit, step);
        assert_eq!(error.kind(), want, "{error}");
        assert!(error.to_string().contains(why), "{error}");
    }
    assert_eq!(std::fs::read(dir.path().join("full")).unwrap(), b"x", "what was there is as it was");
}

#[test]
fn a_file_goes_with_its_storage_and_grows_by_steps() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("diff");
    let empty = dir.path().join("empty");
    std::fs::write(&empty, "").unwrap();
    for path in [&path, &empty] {
        let store = TestStore::new(16 * MIB, BlockSize::B512, Pace::Now);
        store.write(ByteRange::new(0, 16 * MIB), &vec![3; 16 << 20]);
        let device = Device::new("disk", store);
        let spec = StoreSpec { kind: StoreKind::File(path.clone()), limit: 16 * MIB, step: 2 * MIB };
        let storage = DiffStorage::open(spec).unwrap();
        assert_eq!(std::fs::metadata(path).unwrap().len(), 2 * MIB);
        let told = Arc::new(Told::default());
        let snapshot = take_with("s", &device, None, &storage, told.clone());
        (0..10).for_each(|at| write(&*device, at * MIB, &vec![4; 1 << 20]));
        let grown = |told: &Told| told.all().iter().filter(|one| one.contains("grown")).count();
        for _ in 0..2000 {
            if std::fs::metadata(path).unwrap().len() >= 10 * MIB && grown(&told) > 0 {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        assert!(std::fs::metadata(path).unwrap().len() >= 10 * MIB);
        assert!(contents(image(&snapshot)).iter().all(|&byte| byte == 3), "I2, read from the file");
        if path != &empty {
            assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        snapshot.remove(FREEZE).unwrap();
        assert_eq!(storage.used(), 0);
        drop((snapshot, storage));
    }
    assert!(!path.exists(), "a file of ours is removed");
    assert_eq!(std::fs::metadata(&empty).unwrap().len(), 0, "one that was there is empty again");
}

fn refused(origins: &[Origin], freeze: Duration) -> Error {
    let limits = Limits { freeze, ..Limits::default() };
    match take("s", origins, &memory(MIB), Arc::new(NoEvents), limits) {
        Ok(_) => panic!("taken"),
        Err(error) => error,
    }
}

#[test]
fn a_take_is_all_or_nothing() {
    let new = |name: &str| Device::new(name, TestStore::new(MIB, BlockSize::B512, Pace::Now));
    let (one, two) = (new("one"), new("two"));
    let both =
        |a: &Arc<Device>, b: &Arc<Device>| [Origin::new(a.clone(), None), Origin::new(b.clone(), None)];
    let second = Duration::from_secs(1);
    assert_eq!(refused(&[], second).kind(), ErrorKind::Invalid);
    let error = refused(&both(&one, &one), second);
    assert!(error.to_string().contains("device one is named twice"), "{error}");

    // Somebody stays inside: the take gives up, and the device goes on.
    let inside = two.enter_now().unwrap();
    let error = refused(&both(&one, &two), Duration::from_millis(50));
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    drop(inside);

    // A device whose history is not given has one already.
    let snapshot = take_one("s", &two, None);
    let error = refused(&both(&one, &two), second);
    assert_eq!(error.kind(), ErrorKind::Exists, "{error}");
    assert!(one.filters().is_empty(), "nothing was attached");
    write(&*one, 0, &[1; 512]);
    let wrong = Some(snapshot.devices()[0].history().clone());
    let error = refused(&[Origin::new(one.clone(), wrong)], second);
    assert!(error.to_string().contains("of another device"), "{error}");

    let store: Arc<dyn Store> = snapshot.devices()[0].image().clone();
    let fixed = Device::new("fixed", Arc::new(bowline_store::ReadOnly(store)));
    let error = refused(&[Origin::new(fixed, None)], second);
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");

    let gone = new("gone");
    let frozen = bowline_device::freeze_all(std::slice::from_ref(&gone), second).unwrap();
    frozen.into_iter().for_each(bowline_device::Frozen::remove);
    assert_eq!(refused(&both(&one, &gone), second).kind(), ErrorKind::Gone);
}
