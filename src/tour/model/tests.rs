//! The proof itself: it accepts what is right, and notices every planted damage.

use super::*;
use crate::tour::image::BLOCK_BYTES;

const BLOCKS: u64 = 64;

/// A disk of noise and zeroes.
fn original() -> Image {
    let mut image = Image::zeroes(BLOCKS as usize);
    for number in (0..BLOCKS).step_by(3) {
        image.set(BlockIndex(number), &Tag { kind: TagKind::Scratch, number, place: 0 }.fill());
    }
    image
}

/// Twenty writes, some of which go where an earlier one went, one to the first block and one to the last.
fn writes() -> Vec<BlockIndex> {
    let places = [3, 8, 3, 0, 63, 20, 21, 8, 8, 40, 41, 42, 3, 50, 51, 52, 0, 53, 54, 20];
    places.map(BlockIndex).to_vec()
}

/// The disk after the writes up to `last`, made one after the other.
fn after(last: u64) -> Image {
    let mut image = original();
    for (number, &block) in (1..=last).zip(&writes()) {
        image.set(block, &content(WriteNumber(number), block));
    }
    image
}

fn flip(image: &mut Image, block: u64, byte: usize) {
    let mut bytes = *image.block(BlockIndex(block));
    bytes[byte] ^= 0x40;
    image.set(BlockIndex(block), &bytes);
}

fn prove(image: &Image, acknowledged: u64, sent: u64) -> Result<u64, Damage> {
    let (original, writes) = (original(), writes());
    let model = Model { original: &original, writes: &writes };
    model.prove_instant(image, WriteNumber(acknowledged), WriteNumber(sent)).map(|number| number.0)
}

#[test]
fn every_instant_is_recognised() {
    for last in 0..=20 {
        assert_eq!(prove(&after(last), last, last), Ok(last));
        assert_eq!(prove(&after(last), 0, 20), Ok(last));
    }
}

#[test]
fn a_wrong_byte_is_noticed_wherever_it_is() {
    for block in 0..BLOCKS {
        for byte in [0, 9, 17, 25, BLOCK_BYTES / 2, BLOCK_BYTES - 1] {
            let mut image = after(19);
            flip(&mut image, block, byte);
            // Not only by another write seeming to be the last one: also among all instants at once.
            let damage = prove(&image, 0, 20).unwrap_err();
            let Damage::Contents { .. } = damage else { panic!("{damage}") };
        }
    }
    for block in [0, 33, BLOCKS - 1] {
        let mut image = after(20);
        flip(&mut image, block, 5);
        let byte = block * 4096 + 5;
        assert!(matches!(prove(&image, 20, 20), Err(Damage::Contents { byte: at, .. }) if at == byte));
    }
}

#[test]
fn a_missing_write_is_noticed() {
    let last_anywhere = |number: u64| {
        let places = writes();
        !places[number as usize..20].contains(&places[number as usize - 1])
    };
    for missing in (1..20).filter(|&number| last_anywhere(number)) {
        let block = writes()[missing as usize - 1];
        let mut image = after(20);
        image.set(block, after(missing - 1).block(block));
        let damage = prove(&image, 0, 20).unwrap_err();
        let expected = Some(WriteNumber(missing));
        assert!(
            matches!(damage, Damage::Contents { block: at, expected: of, .. } if at == block && of == expected),
            "{damage}"
        );
    }
}

/// Whether an old write is missing or a new one present, it is the same cut that is not one.
#[test]
fn a_later_write_is_noticed() {
    let places = writes();
    for present in 12..=20 {
        let block = places[present - 1];
        let mut image = after(10);
        image.set(block, &content(WriteNumber(present as u64), block));
        let damage = prove(&image, 0, 20).unwrap_err();
        assert!(matches!(damage, Damage::Contents { .. }), "{damage}");
    }
}

#[test]
fn an_instant_outside_of_the_take_is_noticed() {
    let instant = |found, acknowledged, sent| {
        Err(Damage::Instant {
            found: WriteNumber(found),
            acknowledged: WriteNumber(acknowledged),
            sent: WriteNumber(sent),
        })
    };
    assert_eq!(prove(&after(9), 10, 11), instant(9, 10, 11));
    assert_eq!(prove(&after(12), 10, 11), instant(12, 10, 11));
    assert_eq!(prove(&after(0), 1, 20), instant(0, 1, 20));
    let (original, writes) = (original(), &writes()[..5]);
    let model = Model { original: &original, writes };
    let never_made = model.prove_instant(&after(6), WriteNumber(0), WriteNumber(20));
    assert_eq!(never_made.map(|number| number.0), instant(6, 0, 5));
}

#[test]
fn a_write_in_another_place_is_noticed() {
    let mut image = after(20);
    image.set(BlockIndex(30), &content(WriteNumber(20), BlockIndex(20)));
    assert!(matches!(
        prove(&image, 0, 20),
        Err(Damage::Contents { block: BlockIndex(30), expected: None, .. })
    ));
}

#[test]
fn another_size_is_noticed() {
    let (original, writes) = (original(), writes());
    let model = Model { original: &original, writes: &writes };
    let damage = model.prove(&Image::zeroes(BLOCKS as usize - 1), WriteNumber(0)).unwrap_err();
    assert_eq!(damage.to_string(), "it has 258048 bytes and not 262144");
}

#[test]
fn damage_is_told_in_plain_words() {
    let mut image = after(20);
    flip(&mut image, 8, 100);
    assert_eq!(
        prove(&image, 20, 20).unwrap_err().to_string(),
        "byte 32868 (in block 8) is not that of write 9"
    );
    let mut image = after(20);
    flip(&mut image, 1, 0);
    let told = prove(&image, 20, 20).unwrap_err().to_string();
    assert_eq!(told, "byte 4096 (in block 1) is not that of the original disk");
}

#[test]
fn images_survive_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    let image = after(20);
    image.write_file(&path).unwrap();
    let read = Image::read_file(&path).unwrap();
    assert_eq!(read.size(), BLOCKS * 4096);
    assert_eq!(read.differing(&image).count(), 0);
    let changed: Vec<u64> = after(19).differing(&read).map(|block| block.0).collect();
    assert_eq!(changed, [20]);
}
