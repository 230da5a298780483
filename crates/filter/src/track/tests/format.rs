//! The files as they are on disk: golden samples, offline checks, fingerprints.

use std::sync::Arc;

use bowline_block::ByteRange;
use bowline_sim::Rng;
use bowline_state::{Folder, RealFolder, SimFolder};

use super::rig::{BLOCK, Rig, fingerprint, identity};
use super::support::{M, Memory, attach, close, write};
use crate::track::fuzz_entry::{samples, tracker_files};
use crate::track::{Continuity, Fingerprint, NoTrackEvents, Severity, Traces, TrackLimits, Tracker, check};

const SIZE: u64 = 96 * M;

fn golden(name: &str) -> Vec<u8> {
    let path = format!("{}/src/track/tests/golden/{name}.bin", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What was written once must be written, and read, like that for ever.
#[test]
fn golden_samples_are_what_is_written_and_are_read() {
    for (which, name, bytes) in samples() {
        assert_eq!(golden(name), bytes, "{name}");
        tracker_files(&[&[which], bytes.as_slice()].concat());
    }
    use crate::track::disk::{header::Header, record::Record, sector::Sector};
    assert_eq!(Header::decode(&golden("header-clean")).unwrap().epoch, 7);
    assert_eq!(Header::decode(&golden("header-running")).unwrap().excluded.len(), 1);
    assert!(Record::decode(&golden("live"), 25_600).unwrap().set.is_empty());
    assert_eq!(Sector::decode(&golden("sector"), 0).unwrap().words[0], 0b1011);
}

#[test]
fn i8_any_bytes_are_read_without_a_panic() {
    let mut rng = Rng::new(3);
    for (which, _, bytes) in samples() {
        for _ in 0..400 {
            let mut input = [&[which], bytes.as_slice()].concat();
            for _ in 0..=rng.below(4) {
                let at = rng.index(input.len());
                input[at] = rng.below(256) as u8;
            }
            input.truncate(input.len() - if rng.once_in(4) { rng.index(input.len()) } else { 0 });
            tracker_files(&input);
        }
    }
}

fn worst(folder: &SimFolder) -> Severity {
    let found = check(folder);
    let rank = |severity| match severity {
        Severity::Fine => 0,
        Severity::AfterCrash => 1,
        Severity::Damaged => 2,
        Severity::Wrong => 3,
    };
    found.iter().map(|finding| finding.severity).max_by_key(|severity| rank(*severity)).unwrap()
}

/// A check and an open agree on what can be believed.
#[test]
fn a_check_says_what_an_open_would() {
    for clean in [true, false] {
        let mut rig = Rig::new(SimFolder::new(), SIZE, None);
        rig.take();
        rig.write(3);
        rig.take();
        rig.write(9000);
        if clean {
            rig.save();
        }
        let folder = rig.folder.kill();
        assert_eq!(
            worst(&folder),
            if clean { Severity::Fine } else { Severity::AfterCrash },
            "{:?}",
            check(&folder)
        );
        for name in folder.names().unwrap() {
            let whole = folder.contents(&name).unwrap();
            for at in (0..whole.len()).step_by((whole.len() / 40).max(1)) {
                let mut damaged = whole.clone();
                damaged[at] ^= 4;
                let copy = folder.kill_at(folder.cut_points());
                copy.put(&name, &damaged).unwrap();
                let found = worst(&copy);
                let opened = super::rig::open(&copy, SIZE, None);
                let refused = matches!(opened.continuity, Continuity::Renewed { .. });
                // What a clean stop does not need is looked at all the same.
                let unused = clean && name == "intents" || !clean && name == "live";
                assert!(
                    refused == (found == Severity::Wrong) || unused,
                    "{name} at {at}, clean {clean}: {found:?}"
                );
                if !unused && clean {
                    assert_ne!(found, Severity::Fine, "{name} at {at}: damage that is not seen");
                }
            }
        }
    }
    assert_eq!(worst(&SimFolder::new()), Severity::Wrong);
}

#[test]
fn fingerprints_tell_what_differs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    std::fs::write(&path, vec![7; 3_000_000]).unwrap();
    let before = Fingerprint::of_path(&path).unwrap();
    assert_eq!(before.difference(&Fingerprint::of_path(&path).unwrap()), None);
    std::thread::sleep(std::time::Duration::from_millis(20));
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_at(&file, &[1], 0).unwrap();
    let after = Fingerprint::of_path(&path).unwrap();
    assert!(before.difference(&after).unwrap().contains("modification time"));
    let untimed = |one: &Fingerprint| Fingerprint { traces: Traces::None, ..one.clone() };
    assert!(untimed(&before).difference(&untimed(&after)).unwrap().contains("sampled blocks"));
    file.set_len(10).unwrap();
    assert!(before.difference(&Fingerprint::of_path(&path).unwrap()).unwrap().contains("10 now"));
    let sectors = |sectors| Fingerprint {
        traces: Traces::Written { boot_id: "b".to_owned(), sectors },
        ..before.clone()
    };
    assert!(sectors(1).difference(&sectors(2)).unwrap().contains("1 sectors then, 2 now"));
    let rebooted =
        Fingerprint { traces: Traces::Written { boot_id: "c".to_owned(), sectors: 0 }, ..before.clone() };
    assert_eq!(sectors(1).difference(&rebooted), None, "a counter begins anew at each boot");
}

#[test]
fn a_real_folder_does_too() {
    let folder = tempfile::tempdir().unwrap();
    let open = |session| {
        let files: Arc<dyn Folder> = Arc::new(RealFolder::open(folder.path()).unwrap());
        let (identity, now) = (identity(SIZE), || Ok(fingerprint(SIZE)));
        Tracker::open(&files, &identity, session, &now, Arc::new(NoTrackEvents), TrackLimits::default())
    };
    let run = |tracker: &Arc<Tracker>, block: u64| {
        let device = bowline_device::Device::new("d", Memory::new(SIZE));
        attach(&device, tracker);
        let epoch = close(&device, tracker, "s");
        write(&device, block * BLOCK, &[1; 512]);
        epoch
    };
    let first = open(None).tracker;
    assert_eq!(run(&first, 5), 1);
    let session = first.save(&fingerprint(SIZE)).unwrap();
    drop(first);
    let second = open(Some(session));
    assert_eq!(second.continuity, Continuity::Clean);
    assert_eq!(run(&second.tracker, 6), 2);
    // Not in order.
    let session = second.tracker.session();
    drop(second);
    let third = open(session);
    assert_eq!(third.continuity, Continuity::AfterCrash { regions: 1, bytes: 128 << 10 });
    let set = third.tracker.changed(1, None).unwrap();
    assert!(set.contains(ByteRange::new(5 * BLOCK, 2 * BLOCK)));
}
