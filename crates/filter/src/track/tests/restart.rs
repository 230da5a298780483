//! Clean stops, crashes, and what must not be believed.

use std::sync::Arc;

use bowline_block::{ByteRange, Error, ErrorKind, Op};
use bowline_state::{Folder, SimFolder};
use uuid::Uuid;

use super::rig::{BLOCK, Rig, fingerprint, identity, open, open_as};
use super::support::{M, clear};
use crate::track::{Continuity, Opened, StoreIdentity, Traces};

const SIZE: u64 = 96 * M;

fn block(at: u64) -> ByteRange {
    ByteRange::new(at * BLOCK, BLOCK)
}

fn exact(opened: &Opened, since: u64) -> Vec<ByteRange> {
    opened.tracker.changed(since, None).unwrap().ranges(0).collect()
}

fn reason(opened: &Opened) -> String {
    match &opened.continuity {
        Continuity::Renewed { reason } => reason.clone(),
        other => panic!("{other:?}"),
    }
}

/// A folder with two takes, a write behind each, stopped in order.
fn stopped() -> (SimFolder, Uuid, Uuid) {
    let mut rig = Rig::new(SimFolder::new(), SIZE, None);
    rig.take();
    rig.write(3);
    rig.take();
    rig.write(9000);
    (rig.folder.clone(), rig.save(), rig.tracker.generation())
}

#[test]
fn a_clean_stop_keeps_everything_exactly() {
    let (folder, session, generation) = stopped();
    let opened = open(&folder, SIZE, Some(session));
    assert_eq!(opened.continuity, Continuity::Clean);
    assert_eq!((opened.tracker.generation(), opened.tracker.epoch()), (generation, 3));
    assert_eq!(exact(&opened, 1), [block(3), block(9000)]);
    assert_eq!(exact(&opened, 2), [block(9000)]);
    assert_eq!(opened.tracker.epoch_of("s1"), Some(1));
    assert_ne!(opened.tracker.session(), Some(session), "a start is another session");
    assert!(opened.tracker.status().durable);
}

#[test]
fn i4_a_crash_counts_the_regions_that_were_begun() {
    let mut rig = Rig::new(SimFolder::new(), SIZE, None);
    rig.take();
    rig.write(3);
    let session = rig.tracker.session();
    // A take's name is as durable as its set, which is made so behind the take.
    assert!(rig.tracker.inner.wait_for(super::rig::limits().hold, |history| history.disk.saved == 1));
    let opened = open(&rig.folder.kill(), SIZE, session);
    let region = rig.tracker.status().region_bytes;
    assert_eq!(opened.continuity, Continuity::AfterCrash { regions: 1, bytes: region });
    assert_eq!(exact(&opened, 1), [ByteRange::new(0, region)]);
    assert_eq!(opened.tracker.epoch_of("s1"), Some(1));
    assert!(opened.tracker.epoch() > 60, "numbers that may have been given out are not given out again");
}

#[test]
fn epochs_that_nobody_wrote_in_cost_no_intents_and_survive() {
    let mut rig = Rig::new(SimFolder::new(), SIZE, None);
    let session = rig.tracker.session();
    for _ in 0..5 {
        rig.take();
    }
    rig.write(0);
    let last = rig.take();
    // The last set may be saved or not: both are right.
    let opened = open(&rig.folder.kill(), SIZE, session);
    assert!(opened.tracker.changed(last, None).unwrap().is_empty());
    assert!(opened.tracker.changed(last - 1, None).unwrap().contains(block(0)));
}

#[test]
fn i4_what_was_excluded_counts_behind_its_exclusion_and_behind_a_crash() {
    let mut rig = Rig::new(SimFolder::new(), SIZE, None);
    rig.take();
    rig.tracker.exclude(&[ByteRange::new(8 * M, M)]);
    rig.write(8 * M / BLOCK);
    clear(&rig.device, Op::Discard, ByteRange::new(8 * M - BLOCK, M + 2 * BLOCK));
    let ranges: Vec<_> = rig.tracker.changed(1, None).unwrap().ranges(0).collect();
    assert_eq!(ranges, [ByteRange::new(8 * M - BLOCK, BLOCK), ByteRange::new(9 * M, BLOCK)]);
    let crashed = open(&rig.folder.kill_at(rig.folder.cut_points()), SIZE, None);
    assert!(crashed.tracker.changed(1, None).unwrap().contains(ByteRange::new(8 * M, M)));
    rig.tracker.exclude(&[]);
    assert!(rig.tracker.changed(1, None).unwrap().contains(ByteRange::new(8 * M, M)));
}

/// Nothing is written near it: no intent says it too.
#[test]
fn i4_an_excluded_range_by_itself_counts_behind_a_crash_and_a_clean_stop() {
    let excluded = ByteRange::new(48 * M, M);
    let excluding = || {
        let mut rig = Rig::new(SimFolder::new(), SIZE, None);
        rig.take();
        rig.tracker.exclude(&[excluded]);
        rig
    };
    let crashed = open(&excluding().folder.kill(), SIZE, None);
    assert!(crashed.tracker.changed(1, None).unwrap().contains(excluded), "behind a crash");
    let rig = excluding();
    let session = rig.save();
    let stopped = open(&rig.folder, SIZE, Some(session));
    assert_eq!(stopped.continuity, Continuity::Clean);
    assert!(stopped.tracker.changed(1, None).unwrap().contains(excluded), "behind a clean stop");
}

#[test]
fn i4_nothing_changes_in_a_generation_that_is_not_durable_yet() {
    let mut rig = Rig::new(SimFolder::new(), SIZE, None);
    rig.take();
    rig.folder.stall(0);
    rig.tracker.resized(SIZE + M);
    assert!(!rig.tracker.mark_now(block(3)), "after a crash the old generation would be believed");
    rig.folder.release();
    rig.tracker.mark_blocking(block(3));
    assert!(rig.tracker.status().durable);
}

#[test]
fn i4_another_device_is_refused_with_the_reason() {
    let now = || Ok(fingerprint(SIZE));
    let mut other = [identity(SIZE), identity(SIZE), identity(SIZE), identity(SIZE + M)];
    other[0].device = "e".to_owned();
    other[1].source = "/images/e".to_owned();
    other[2].store = StoreIdentity::File { dev: 1, ino: 3 };
    for (identity, why) in other.iter().zip(["not of e", "/images/e now", "inode 3", "bytes and has"]) {
        let (folder, session, generation) = stopped();
        let opened = open_as(&folder, identity, Some(session), &now);
        assert!(reason(&opened).contains(why), "{why}: {:?}", opened.continuity);
        assert_ne!(opened.tracker.generation(), generation);
        assert_eq!(opened.tracker.changed(1, None).unwrap_err().kind(), ErrorKind::Gone);
    }
}

#[test]
fn i4_a_device_that_changed_while_nobody_tracked_is_refused() {
    let check = |now: &dyn Fn() -> bowline_block::Result<crate::track::Fingerprint>| {
        let (folder, session, _) = stopped();
        reason(&open_as(&folder, &identity(SIZE), Some(session), now))
    };
    let mut changed = fingerprint(SIZE);
    changed.samples_crc += 1;
    assert!(check(&|| Ok(changed.clone())).contains("sampled blocks"));
    changed.traces = Traces::Written { boot_id: "b".to_owned(), sectors: 1 };
    assert!(check(&|| Ok(changed.clone())).contains("another kind"));
    let error = || Error::new(ErrorKind::Gone, "the disk is not there");
    assert!(check(&|| Err(error())).contains("the disk is not there"));
}

#[test]
fn i4_files_of_another_time_are_refused() {
    let (folder, session, _) = stopped();
    let backup = folder.kill_at(folder.cut_points());
    let mut rig = Rig::new(folder.clone(), SIZE, Some(session));
    rig.write(1);
    let newer = rig.save();
    assert!(reason(&open(&backup, SIZE, Some(newer))).contains("of another time"));
    // A start whose session could not be noted any more is no other time.
    let missed = open(&folder, SIZE, rig.tracker.session());
    assert_eq!(missed.continuity, Continuity::Clean);
}

/// Every file, damaged in every way, at every hundredth byte: refused, or still a superset.
#[test]
fn i4_damaged_files_are_refused_or_still_say_enough() {
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
        for name in folder.names().unwrap() {
            let whole = folder.contents(&name).unwrap();
            let step = (whole.len() / 60).max(1);
            for at in (0..whole.len()).step_by(step) {
                let mut flipped = whole.clone();
                flipped[at] ^= 0x10;
                let mut cut = whole.clone();
                cut.truncate(at);
                for (damaged, what) in [(flipped, "flipped"), (cut, "cut")] {
                    let copy = folder.kill_at(folder.cut_points());
                    copy.put(&name, &damaged).unwrap();
                    let opened = open(&copy, SIZE, None);
                    if let Continuity::Renewed { reason } = &opened.continuity {
                        assert!(!reason.is_empty());
                        continue;
                    }
                    let set = opened.tracker.changed(1, None).unwrap();
                    assert!(
                        set.contains(block(3)) && set.contains(block(9000)),
                        "{name} {what} at {at}, clean {clean}: {:?}",
                        opened.continuity
                    );
                }
            }
            let copy = folder.kill_at(folder.cut_points());
            copy.remove(&name).unwrap();
            let opened = open(&copy, SIZE, None);
            let unused = (name == "intents" && clean) || (name == "live" && !clean);
            assert!(matches!(opened.continuity, Continuity::Renewed { .. }) || unused, "{name} was needed");
        }
    }
}

#[test]
fn i4_a_write_behind_the_save_takes_it_back() {
    let mut rig = Rig::new(SimFolder::new(), SIZE, None);
    rig.take();
    let session = rig.save();
    rig.write(5);
    assert!(!rig.tracker.status().durable);
    assert!(rig.tracker.session() != Some(session));
    let opened = open(&rig.folder.kill(), SIZE, Some(session));
    assert!(reason(&opened).contains("nothing is kept"));
}

#[test]
fn i4_a_resized_device_and_a_tracker_taken_off_begin_anew() {
    let mut rig = Rig::new(SimFolder::new(), SIZE, None);
    rig.take();
    rig.write(1);
    let before = rig.tracker.generation();
    rig.tracker.resized(SIZE + 8 * M);
    assert_ne!(rig.tracker.generation(), before);
    rig.take();
    rig.write(2);
    let opened = open(&rig.folder.kill(), SIZE, None);
    assert!(reason(&opened).contains("bytes and has"), "the header has the new size");
    let mut rig = Rig::new(SimFolder::new(), SIZE, None);
    rig.take();
    let before = rig.tracker.generation();
    let frozen =
        bowline_device::freeze_all(std::slice::from_ref(&rig.device), super::rig::limits().hold).unwrap();
    let id = rig.device.filters()[0].id;
    frozen[0].detach(id).unwrap();
    drop(frozen);
    rig.write(1);
    assert_eq!(rig.tracker.generation(), before, "off the device it sees nothing");
    assert_eq!(rig.tracker.changed(1, None).unwrap_err().kind(), ErrorKind::Gone, "and says so");
    let closed = rig.tracker.close_epoch("off");
    assert_ne!(closed.generation, before, "no epoch that lacks a change is one of the old generation");
    super::support::attach(&rig.device, &rig.tracker);
    rig.write(2);
    assert_ne!(rig.tracker.generation(), before);
}

#[test]
fn a_new_generation_survives_a_crash_as_itself() {
    let mut rig = Rig::new(SimFolder::new(), SIZE, None);
    rig.take();
    rig.write(1);
    rig.tracker.renew("test");
    let generation = rig.tracker.generation();
    let closed = rig.take();
    rig.write(9000);
    let opened = open(&rig.folder.power_cut(0), SIZE, None);
    let set = opened.tracker.changed_in(generation, closed, None).unwrap();
    assert!(set.contains(block(9000)) && !set.overlaps(block(1)));
    drop(Arc::clone(&opened.tracker));
}

/// More takes than the header grants, while it cannot be written.
#[test]
fn i4_no_epoch_is_given_out_twice_however_many_takes_the_header_has_not_heard_of() {
    let folder = SimFolder::new();
    let before = open(&folder, SIZE, None).tracker;
    folder.stall(0);
    let given_out: Vec<_> = (0..300).map(|take| before.close_epoch(&format!("s{take}"))).collect();
    let crashed = open(&folder.kill(), SIZE, None).tracker;
    folder.release();
    assert!(given_out.iter().any(|closed| closed.generation == crashed.generation()), "it is still known");
    for _ in 0..300 {
        crashed.prepare_close();
        let closed = crashed.close_epoch("again");
        assert!(!given_out.contains(&closed), "I4: epoch {} means two times", closed.epoch);
    }
}

/// Intents of another number of regions are elsewhere in their file, which has another length.
#[test]
fn a_crash_of_a_resized_device_costs_the_regions_that_were_begun_and_no_more() {
    let large = 40 << 30;
    for (before, after) in [(SIZE, large), (large, SIZE)] {
        let folder = SimFolder::new();
        let tracker = open(&folder, before, None).tracker;
        tracker.resized(after);
        let taken: Vec<_> = ["a", "b", "c"].map(|name| tracker.close_epoch(name)).into();
        let last = ByteRange::new(after - BLOCK, BLOCK);
        tracker.mark_blocking(last);
        assert!(tracker.status().durable);
        let opened = open(&folder.kill(), after, None);
        let bytes = opened.tracker.status().region_bytes;
        assert_eq!(opened.continuity, Continuity::AfterCrash { regions: 1, bytes }, "{after}");
        for closed in taken {
            let found = opened.tracker.changed_in(closed.generation, closed.epoch, None).unwrap();
            assert!(found.contains(last), "I4 since {}", closed.epoch);
        }
    }
}
