//! The bytes: the golden sample, and what a reader makes of anything else.

use bowline_block::ErrorKind;
use bowline_state::{Folder, SimFolder};
use uuid::Uuid;

use super::support::*;
use crate::cow::journal::layout::FRAMES_AT;
use crate::cow::journal::log::{FrameBuilder, failed_sector};
use crate::cow::journal::*;

/// One of each.
pub(crate) fn all_records() -> Vec<Record> {
    let at = Place { store: 1, segment: 5, slot: 62 };
    let slots = |epoch| Slots { epoch, first: 3, at, crcs: vec![0x0102_0304, 0xfffe_fdfc] };
    vec![
        Record::Opened { last_epoch: 2 },
        Record::Store { store: 1, id: Uuid::from_u128(0x11), spec: "file 1048576 4096 /var/diff".to_owned() },
        Record::MoreStore {
            store: 1,
            id: Uuid::from_u128(0x11),
            spec: "block 1048576 0 /dev/sdx".to_owned(),
        },
        Record::Store { store: 2, id: Uuid::from_u128(0x12), spec: String::new() },
        Record::NoStore { store: 2 },
        Record::Member(Taken { epoch: 3, snapshot: Uuid::from_u128(0x33), size: 98_304, store: 1 }),
        Record::Member(Taken { epoch: 5, snapshot: Uuid::from_u128(0x55), size: 98_304, store: 1 }),
        Record::Copied(slots(3)),
        Record::Zero(Zero { epoch: 4, first: 8, count: 9 }),
        Record::ImageWritten(Slots { epoch: 3, first: 0, at: Place { slot: 0, ..at }, crcs: vec![7] }),
        Record::ImageZero(Zero { epoch: 3, first: 1, count: 1 }),
        Record::Failed { epoch: 3, reason: "diff storage is full".to_owned() },
        Record::Removed { epoch: 5 },
        Record::Clean { fingerprint: b"size 98304".to_vec() },
    ]
}

fn bytes_of(records: &[Record]) -> Vec<u8> {
    let mut bytes = header().encode();
    for (sequence, some) in (40..).zip(records.chunks(5)) {
        let mut frame = FrameBuilder::default();
        some.iter().for_each(|record| assert!(frame.push(record)));
        bytes.extend(frame.finish(header().generation, sequence));
    }
    bytes
}

fn read(bytes: &[u8]) -> bowline_block::Result<(Scan, Vec<Record>)> {
    let folder = SimFolder::new();
    folder.put(NAME, bytes).unwrap();
    let mut records = Vec::new();
    let scan = scan(&*folder.open(NAME).unwrap().unwrap(), None, |record| {
        records.push(record);
        Ok(())
    })?;
    Ok((scan, records))
}

const GOLDEN: &[u8] = include_bytes!("journal-v1.bin");

#[test]
fn the_golden_sample_is_read_and_written_to_the_byte() {
    let bytes = bytes_of(&all_records());
    if let Some(path) = std::env::var_os("BOWLINE_WRITE_GOLDEN") {
        std::fs::write(path, &bytes).unwrap();
    }
    assert!(bytes == GOLDEN, "version 1 is written as ever");
    let (scan, records) = read(GOLDEN).unwrap();
    assert_eq!(records, all_records());
    assert_eq!(scan.header, header());
    assert_eq!((scan.end, scan.next_sequence, scan.torn), (GOLDEN.len() as u64, 43, false));
    let mut index = Index::new(&header());
    records.into_iter().for_each(|record| index.add(record).unwrap());
    assert_eq!(index.clean.as_deref(), Some(b"size 98304".as_slice()));
    assert_eq!(index.last_epoch, 5);
    let holdings = index.resolve().unwrap();
    let piece = |first, count, at| Piece { first, count, at };
    let at = Place { store: 1, segment: 5, slot: 62 };
    let copied: Vec<_> = holdings[&3].copied.pieces().collect();
    assert_eq!(copied, [piece(3, 2, Some(at)), piece(8, 9, None)]);
    let written: Vec<_> = holdings[&3].written.pieces().collect();
    assert_eq!(written, [piece(0, 1, Some(Place { slot: 0, ..at })), piece(1, 1, None)]);
}

#[test]
fn the_first_bytes_are_those_of_the_table() {
    assert_eq!(&GOLDEN[..8], b"BWLSNAPJ");
    assert_eq!(GOLDEN[8..12], 1u32.to_le_bytes(), "version");
    assert_eq!(GOLDEN[12..16], 512u32.to_le_bytes(), "logical block");
    assert_eq!(GOLDEN[16..32], Uuid::from_u128(7).into_bytes(), "generation");
    assert_eq!(GOLDEN[32..40], 98_304u64.to_le_bytes(), "size");
    assert_eq!(GOLDEN[40..44], 4u32.to_le_bytes());
    assert_eq!(&GOLDEN[44..48], b"disk");
    assert_eq!(GOLDEN[508..512], crc(&GOLDEN[..508]).to_le_bytes());
    assert_eq!(&GOLDEN[1024..1028], b"FRM1");
    assert_eq!(GOLDEN[1032..1040], 40u64.to_le_bytes(), "number of the frame");
    assert_eq!(GOLDEN[1048..1050], 11u16.to_le_bytes(), "opened");
}

#[test]
fn a_damaged_frame_is_the_end_only_when_nothing_good_follows() {
    let whole = bytes_of(&all_records());
    let (_, all) = read(&whole).unwrap();
    let frames: Vec<usize> =
        (FRAMES_AT as usize..whole.len()).step_by(8).filter(|&at| whole[at..].starts_with(b"FRM1")).collect();
    assert_eq!(frames.len(), 3);
    for at in FRAMES_AT as usize..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x40;
        let read = read(&bytes);
        if at < frames[2] {
            let error = read.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "byte {at}: {error}");
            assert!(error.to_string().contains("a good frame follows at byte"), "{error}");
        } else {
            let (scan, records) = read.unwrap();
            assert_eq!((scan.end, scan.torn), (frames[2] as u64, true), "byte {at}");
            assert_eq!(records[..], all[..10]);
        }
    }
    for len in frames[2]..whole.len() {
        let (scan, _) = read(&whole[..len]).unwrap();
        assert_eq!((scan.end, scan.torn), (frames[2] as u64, len > frames[2]));
    }
    let padded = [whole.as_slice(), &[0; 4096]].concat();
    assert!(!read(&padded).unwrap().0.torn, "zeroes ahead are nothing");
}

#[test]
fn what_is_no_journal_is_refused_and_named() {
    let whole = bytes_of(&all_records());
    let refused = |bytes: &[u8], why: &str| {
        let error = read(bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(why), "{error}");
    };
    refused(&[], "too short");
    refused(&whole[..700], "too short");
    refused(&[&[0; 16], &whole[16..]].concat(), "first bytes");
    refused(&[&whole[..8], &[2], &whole[9..]].concat(), "version 2");
    refused(&[&whole[..33], &[9], &whole[34..]].concat(), "header is damaged");
    let mut long_name = whole.clone();
    long_name[40..44].copy_from_slice(&256u32.to_le_bytes());
    let sum = crc(&long_name[..508]).to_le_bytes();
    long_name[508..512].copy_from_slice(&sum);
    refused(&long_name, "name is no text");
    let failed = [&whole[..512], &failed_sector("no space"), &whole[1024..]].concat();
    assert_eq!(read(&failed).unwrap().0.failed.as_deref(), Some("no space"));
    let failed = [&whole[..600], &[1], &whole[601..]].concat();
    assert!(read(&failed).unwrap().0.failed.unwrap().contains("damaged"));
}

#[test]
fn what_cannot_be_true_is_refused() {
    let refused = |records: &[Record], why: &str| {
        let mut index = Index::new(&header());
        let error = records.iter().try_for_each(|record| index.add(record.clone()));
        let error = error.and_then(|()| index.resolve().map(drop)).unwrap_err();
        assert!(error.contains(why), "{error}");
    };
    let member =
        |epoch, store| Record::Member(Taken { epoch, snapshot: Uuid::nil(), size: header().size, store });
    let copied = |epoch, first, slot| {
        Record::Copied(Slots { epoch, first, at: Place { store: 0, segment: 0, slot }, crcs: vec![1] })
    };
    refused(&[store_record(), store_record()], "named twice");
    refused(&[member(1, 0)], "store 0 is not known");
    refused(&[store_record(), member(2, 0), member(2, 0)], "comes after");
    refused(&[store_record(), member(1, 0), copied(1, BLOCKS, 0)], "beyond the end");
    refused(&[store_record(), member(1, 0), copied(1, u64::MAX, 0)], "beyond the end");
    refused(&[Record::Zero(Zero { epoch: 1, first: 1, count: u64::MAX })], "beyond the end");
    refused(&[store_record(), member(1, 0), copied(1, 1, 4), copied(1, 2, 4)], "has two blocks");
}

#[test]
fn a_frame_of_another_journal_does_not_count() {
    let whole = bytes_of(&all_records());
    let mut other = header();
    other.generation = Uuid::from_u128(8);
    let stolen = [other.encode(), whole[FRAMES_AT as usize..].to_vec()].concat();
    let (scan, records) = read(&stolen).unwrap();
    assert!(records.is_empty() && scan.torn, "its frames are not this journal's");
}

#[test]
fn removal_hands_history_to_the_older_neighbour() {
    let mut index = Index::new(&header());
    let copied = |epoch, first, slot, count| {
        Record::Copied(Slots { epoch, first, at: Place { store: 0, segment: 0, slot }, crcs: vec![1; count] })
    };
    let member =
        |epoch| Record::Member(Taken { epoch, snapshot: Uuid::nil(), size: header().size, store: 0 });
    let records = [
        store_record(),
        member(1),
        copied(1, 4, 0, 2),
        member(2),
        copied(2, 3, 10, 4),
        member(3),
        copied(3, 3, 20, 1),
        copied(4, 9, 30, 1),
    ];
    records.into_iter().for_each(|record| index.add(record).unwrap());
    let slots = |index: &Index, epoch| -> Vec<(u64, u64, u8)> {
        let holding = index.resolve().unwrap().remove(&epoch).unwrap();
        holding.copied.pieces().map(|piece| (piece.first, piece.count, piece.at.unwrap().slot)).collect()
    };
    assert_eq!(slots(&index, 1), [(4, 2, 0)]);
    assert_eq!(
        slots(&index, 3),
        [(3, 1, 20), (9, 1, 30)],
        "copies made for a plain snapshot are the older one's"
    );
    index.add(Record::Removed { epoch: 2 }).unwrap();
    assert_eq!(
        slots(&index, 1),
        [(3, 1, 10), (4, 2, 0), (6, 1, 13)],
        "the older one's own hide the removed one's"
    );
    index.add(Record::Removed { epoch: 3 }).unwrap();
    assert_eq!(slots(&index, 1), [(3, 1, 10), (4, 2, 0), (6, 1, 13), (9, 1, 30)]);
    let mut compacted = Index::new(&header());
    index.compact(|record| compacted.add(record).unwrap()).unwrap();
    assert_eq!(compacted.resolve().unwrap(), index.resolve().unwrap(), "said shorter, it is the same");
    assert_eq!(compacted.last_epoch, 4);
    index.add(Record::Removed { epoch: 1 }).unwrap();
    assert!(index.resolve().unwrap().is_empty());
}
