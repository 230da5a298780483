//! The log's bytes (I8): `docs/format/rollback.md`.

use std::sync::Arc;

use bowline_block::ErrorKind;
use bowline_state::{Folder, SimFolder};
use uuid::Uuid;

use super::super::LOG_NAME;
use super::super::log::{Header, Log, Parsed, Record, check_log, encode};
use super::super::pending::ZoneBits;
use crate::cow::Granules;

/// A device of 40 MiB, two zones, and a record of each kind.
fn sample() -> Vec<u8> {
    let header = Header {
        id: Uuid::from_u128(0x11),
        snapshot: Uuid::from_u128(0x22),
        boot: Uuid::from_u128(0x33),
        size: 40 << 20,
        zones: 2,
    };
    let mut zones = ZoneBits::new();
    zones.insert(0, Box::new(std::array::from_fn(|word| if word == 0 { 0xff } else { 0 })));
    zones.insert(2, Box::new(std::array::from_fn(|word| if word == 1 { 1 << 63 } else { 0 })));
    let mut bytes = encode(&header, &zones);
    let run = |first, end| Granules { first, end };
    for record in [
        Record::Cleared { phase: 1, granules: run(0, 2) },
        Record::Confirmed { phase: 1 },
        Record::Cleared { phase: 2, granules: run(8319, 8320) },
    ] {
        let offset = bytes.len() as u64;
        bytes.extend(record.encode(header.id, offset));
    }
    bytes
}

fn folder(bytes: &[u8]) -> SimFolder {
    let folder = SimFolder::new();
    folder.put(LOG_NAME, bytes).unwrap();
    folder
}

fn parsed(bytes: &[u8]) -> bowline_block::Result<Parsed> {
    Log::open(&folder(bytes)).map(Option::unwrap)
}

fn granules(zones: &ZoneBits) -> Vec<u64> {
    let words = zones.iter().flat_map(|(zone, bits)| (zone * 64..).zip(bits.iter()));
    words
        .flat_map(|(word, bits)| {
            (0..64).filter(move |bit| bits >> bit & 1 == 1).map(move |bit| word * 64 + bit)
        })
        .collect()
}

#[test]
fn the_committed_sample_is_read_for_ever() {
    let golden = include_bytes!("rollback-v1.log");
    assert_eq!(golden.as_slice(), sample(), "the format has changed: make it another version");
    let found = parsed(golden).unwrap();
    assert_eq!(found.header.snapshot, Uuid::from_u128(0x22));
    assert_eq!(granules(&found.pending(true).unwrap()), [2, 3, 4, 5, 6, 7]);
    assert_eq!(
        granules(&found.pending(false).unwrap()),
        [2, 3, 4, 5, 6, 7, 8319],
        "phase 2 is not confirmed"
    );
    let summary = check_log(&folder(golden)).unwrap().unwrap();
    assert_eq!((summary.total_bytes, summary.pending_bytes), (9 * 4096, 6 * 4096));
    assert_eq!((summary.records, summary.trailing_bytes), (3, 0));
}

#[test]
fn every_flipped_bit_and_every_length_is_an_error_or_a_shorter_log() {
    let whole = sample();
    let records = whole.len() - 3 * 32;
    let full = granules(&parsed(&whole).unwrap().pending(true).unwrap());
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        match parsed(&bytes) {
            Err(error) => {
                assert!(at < records, "{error}");
                assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported), "{error}");
            }
            Ok(found) => {
                assert!(at >= records, "a flipped bit at {at} is not noticed");
                let left = granules(&found.pending(true).unwrap());
                assert!(full.iter().all(|granule| left.contains(granule)), "never more is cleared");
                assert!(found.records.len() < 3 && found.trailing_bytes > 0);
            }
        }
    }
    for len in 0..whole.len() {
        match parsed(&whole[..len]) {
            Err(error) => assert!(len < records && error.kind() == ErrorKind::Corrupt, "{error}"),
            Ok(found) => assert_eq!(found.records.len(), (len - records) / 32),
        }
    }
}

#[test]
fn a_record_of_another_log_or_place_counts_for_nothing() {
    let mut bytes = sample();
    let at = bytes.len();
    let record = Record::Cleared { phase: 2, granules: Granules { first: 2, end: 4 } };
    bytes.extend(record.encode(Uuid::from_u128(0x11), 0));
    assert_eq!(parsed(&bytes).unwrap().records.len(), 3);
    bytes.truncate(at);
    bytes.extend(record.encode(Uuid::from_u128(0x99), at as u64));
    assert_eq!(parsed(&bytes).unwrap().records.len(), 3);
    bytes.truncate(at);
    bytes.extend(record.encode(Uuid::from_u128(0x11), at as u64));
    assert_eq!(parsed(&bytes).unwrap().records.len(), 4);
    let beyond = Record::Cleared { phase: 2, granules: Granules { first: 10239, end: 10241 } };
    bytes.extend(beyond.encode(Uuid::from_u128(0x11), at as u64 + 32));
    assert_eq!(parsed(&bytes).unwrap().pending(true).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn no_log_is_no_rollback() {
    let folder: Arc<dyn Folder> = Arc::new(SimFolder::new());
    assert!(Log::open(&*folder).unwrap().is_none());
    assert_eq!(check_log(&*folder).unwrap(), None);
}
