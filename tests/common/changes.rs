//! Lists of changed extents: whether one names all that was written, and whether a copy with it applied is the image.

use serde_json::Value;

use super::tools::part;

const PIECE: usize = 4096;

/// Offset and length, in bytes.
pub(crate) type Extent = (u64, u64);

/// The extents of an answer of `changes`, which must be ascending, merged, within the device, and add up.
pub(crate) fn extents(changes: &Value) -> Vec<Extent> {
    let list = changes["extents"].as_array().unwrap_or_else(|| panic!("no extents in {changes}"));
    let number = |extent: &Value, key: &str| extent[key].as_u64().unwrap();
    let list: Vec<Extent> = list.iter().map(|one| (number(one, "offset"), number(one, "length"))).collect();
    for pair in list.windows(2) {
        assert!(pair[0].0 + pair[0].1 < pair[1].0, "not ascending or not merged: {pair:?}");
    }
    let end = list.last().map_or(0, |(offset, length)| offset + length);
    assert!(end <= number(changes, "size"), "beyond the device's end: {end} in {}", changes["size"]);
    assert!(list.iter().all(|&(_, length)| length > 0), "an empty extent in {list:?}");
    assert_eq!(number(changes, "bytes"), total(&list));
    list
}

pub(crate) fn total(list: &[Extent]) -> u64 {
    list.iter().map(|(_, length)| length).sum()
}

/// What was written and is not in the list (I4): nothing, if the list is right.
pub(crate) fn missed(written: &[Extent], listed: &[Extent]) -> Vec<Extent> {
    let mut missed = Vec::new();
    for &(offset, length) in written {
        let (mut at, end) = (offset, offset + length);
        for &(from, len) in listed {
            if from + len <= at {
                continue;
            }
            if from >= end {
                break;
            }
            if from > at {
                missed.push((at, from - at));
            }
            at = at.max(from + len).min(end);
        }
        if at < end {
            missed.push((at, end - at));
        }
    }
    missed
}

/// The blocks that a list of writes touches, ascending and merged: what an exact list of changes is.
pub(crate) fn blocks_of(written: &[Extent], block: u64) -> Vec<Extent> {
    let mut blocks: Vec<Extent> = written
        .iter()
        .map(|(offset, length)| (offset / block * block, (offset + length).next_multiple_of(block)))
        .collect();
    blocks.sort_unstable();
    let mut merged: Vec<Extent> = Vec::new();
    for (from, end) in blocks {
        match merged.last_mut() {
            Some((first, length)) if *first + *length >= from => *length = (*length).max(end - *first),
            _ => merged.push((from, end - from)),
        }
    }
    merged
}

/// Copies the extents from `new` over the copy, as a backup tool applies an increment.
pub(crate) fn apply(copy: &mut [u8], list: &[Extent], new: &[u8]) {
    for &(offset, length) in list {
        let from = usize::try_from(offset).unwrap();
        let bytes = part(new, offset, length);
        copy[from..from + bytes.len()].copy_from_slice(bytes);
    }
}

/// Whether `old` with the increment is `new`, byte for byte: the proof that a chain of backups can be restored.
pub(crate) fn verify(old: &[u8], list: &[Extent], new: &[u8]) -> Result<(), String> {
    let mut copy = old.to_vec();
    copy.resize(new.len(), 0);
    apply(&mut copy, list, new);
    // By pieces: byte by byte takes a second for a disk.
    let differ = |(one, other): (&[u8], &[u8])| one != other;
    match copy.chunks(PIECE).zip(new.chunks(PIECE)).position(differ) {
        None => Ok(()),
        Some(at) => Err(format!("with the increment it differs within 4 KiB of {}", at * PIECE)),
    }
}

/// Leaves out each extent in turn, whose contents differ: every such list must be refused, or [`verify`] proves nothing.
pub(crate) fn verifier_notices(old: &[u8], list: &[Extent], new: &[u8]) {
    let differs = |&(offset, length): &Extent| {
        old.len() < new.len() || part(old, offset, length) != part(new, offset, length)
    };
    let telling: Vec<usize> = (0..list.len()).filter(|&at| differs(&list[at])).take(4).collect();
    assert!(!telling.is_empty(), "the images do not differ in any extent: nothing is proven");
    for at in telling {
        let mut short = list.to_vec();
        let dropped = short.remove(at);
        let why = verify(old, &short, new).expect_err("an extent was left out, and nobody noticed");
        assert!(why.contains("differs within"), "{why}");
        assert_eq!(missed(list, &short), [dropped], "an extent was left out, and nobody noticed");
    }
}
