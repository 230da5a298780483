//! What a kill costs: regions as small as the device, and no more ahead of a writer than he has come through (I4).

use bowline_block::ByteRange;
use bowline_state::{Folder, SimFolder};

use super::rig::{BLOCK, Rig, open};
use super::support::{M, write};
use crate::track::disk::HEADER_FILE;
use crate::track::disk::header::Header;
use crate::track::grain::Grain;
use crate::track::{Continuity, Opened};

const SIZE: u64 = 128 * M;
const REGION: u64 = 128 << 10;

fn killed(rig: &Rig, since: u64) -> (Opened, u64) {
    // A copy: the run goes on.
    let opened = open(&rig.folder.kill_at(rig.folder.cut_points()), SIZE, None);
    let bytes = opened.tracker.changed(since, None).unwrap().bytes();
    (opened, bytes)
}

#[test]
fn i4_scattered_writes_count_as_little_more_than_their_regions() {
    let mut rig = Rig::new(SimFolder::new(), SIZE, None);
    assert_eq!(rig.tracker.status().region_bytes, REGION);
    let since = rig.take();
    let places: Vec<u64> = (0..20_u64).map(|nth| nth * 0x9e37 % (SIZE / BLOCK)).collect();
    places.iter().for_each(|block| rig.write(*block));
    let (opened, bytes) = killed(&rig, since);
    let set = opened.tracker.changed(since, None).unwrap();
    assert!(places.iter().all(|block| set.contains(ByteRange::new(block * BLOCK, BLOCK))));
    assert!(bytes <= 20 * 2 * REGION, "{bytes}");
}

#[test]
fn i4_a_sequential_writer_costs_at_most_twice_what_was_written() {
    for (chunk, from) in [(BLOCK, 0), (64 << 10, 5 * M), (M, 3 * M + BLOCK), (24 << 10, 70 * M)] {
        let mut rig = Rig::new(SimFolder::new(), SIZE, None);
        let since = rig.take();
        let mut written = 0;
        for sum in [REGION, M, 8 * M] {
            while written < sum {
                write(&rig.device, from + written, &vec![1; chunk as usize]);
                written += chunk;
            }
            let (opened, bytes) = killed(&rig, since);
            let whole = ByteRange::new(from, written);
            let set = opened.tracker.changed(since, None).unwrap();
            assert!(set.contains(whole), "I4: {chunk} from {from}: {written} bytes, {:?}", set.extents(0, 9));
            // The first region may be begun in its middle, the last one too.
            assert!(bytes <= 2 * written + 2 * REGION, "{chunk} from {from}: {bytes} for {written}");
        }
    }
}

fn with_regions(folder: &SimFolder, shift: u8) {
    let mut header = Header::decode(&folder.contents(HEADER_FILE).unwrap()).unwrap();
    header.regions = Grain::read(SIZE, 12, shift).unwrap().1;
    folder.replace(HEADER_FILE, &header.encode()).unwrap();
}

/// Files of the version whose regions had 4 MiB on a device of any size.
#[test]
fn i4_files_with_other_regions_are_read_as_they_were_written() {
    for clean in [true, false] {
        let mut rig = Rig::new(SimFolder::new(), SIZE, None);
        let since = rig.take();
        rig.write(3);
        if clean {
            rig.save();
        }
        let folder = rig.folder.kill();
        with_regions(&folder, 22);
        let opened = open(&folder, SIZE, None);
        let expected = if clean { BLOCK } else { 4 * M };
        assert_eq!(opened.tracker.changed(since, None).unwrap().bytes(), expected);
        // Only behind a clean stop nothing depends on them any more.
        let region = opened.tracker.status().region_bytes;
        assert_eq!(region, if clean { REGION } else { 4 * M });
        opened.tracker.mark_blocking(ByteRange::new(100 * M, 1));
        let again = open(&folder.kill(), SIZE, None);
        assert!(matches!(again.continuity, Continuity::AfterCrash { .. }), "{:?}", again.continuity);
        let set = again.tracker.changed(since, None).unwrap();
        assert!(set.contains(ByteRange::new(100 * M, 1)) && set.bytes() <= expected + region, "{set:?}");
    }
}
