//! A reader that is slow between looking a block up and copying it.

use std::sync::Arc;

use bowline_block::{ByteRange, Op};

use super::{ImageStore, View, window};
use crate::cow::tests::support::*;
use crate::cow::{NoEvents, SEGMENT_BYTES};

fn segment(number: u64) -> ByteRange {
    ByteRange::new(number * SEGMENT_BYTES, SEGMENT_BYTES)
}

/// The second half of a read: what was looked up is copied now.
fn copy(image: &ImageStore, view: &View, range: ByteRange, part: &super::Part) -> Vec<u8> {
    assert_eq!(part.bytes(), range);
    let mut data = vec![0xa5; usize::try_from(range.len()).unwrap()];
    block_on(image.read_part(view, part, window(range, range, &mut data))).unwrap();
    data
}

/// Slots that are replaced are not another block's as long as a reader from before is there.
#[test]
fn i2_a_slow_reader_of_an_image_gets_no_other_blocks_bytes() {
    let dir = tempfile::tempdir().unwrap();
    for storage in [memory(16 * MIB), file(&dir, "diff", 16 * MIB)] {
        let (_, device) = device(8, Pace::Now);
        let snapshot = take_with("s", &device, None, &storage, Arc::new(NoEvents));
        let image = image(&snapshot);
        let fill = |number: u64, byte: u8| {
            write(image, segment(number).start(), &vec![byte; 256 << 10]);
        };
        fill(0, 1);
        fill(1, 2);
        let used = storage.used();
        let view = image.view().unwrap();
        let parts = [0, 1].map(|number| view.first_part(segment(number)));
        // One after another: what is retired later goes to a token that the reader has only by way of its own.
        for number in [0, 1] {
            clear(image, Op::Discard, segment(number));
            // Would be where the other was, if that were free.
            fill(4 + number, 9);
            assert!(copy(image, &view, segment(0), &parts[0]) == vec![1; 256 << 10], "I2");
            assert!(copy(image, &view, segment(1), &parts[1]) == vec![2; 256 << 10], "I2");
        }
        assert_eq!(storage.used(), 2 * used, "what is looked at is not given back");
        drop((parts, view));
        assert_eq!(storage.used(), used, "I9: it is given back when nobody looks at it");
        assert!(contents(image)[..1 << 19] == vec![0; 1 << 19]);
        snapshot.remove(FREEZE).unwrap();
        assert_eq!(storage.used(), 0);
    }
}
