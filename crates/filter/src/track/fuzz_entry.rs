//! Entry point for fuzzing the readers of the tracker's files: any bytes, and what must hold (I8, I9).
//!
//! Assertions panic on purpose here; this module exists only for tests and fuzzing.
#![allow(clippy::panic, clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::Arc;

use bowline_block::ByteRange;
use roaring::RoaringBitmap;
use uuid::Uuid;

use super::disk::bytes::seal;
use super::disk::header::{Header, State};
use super::disk::record::Record;
use super::disk::sector::{SECTOR_BYTES, SECTOR_WORDS, Sector, generation_part};
use super::fingerprint::{Fingerprint, Traces};
use super::grain::Grain;
use super::identity::{Identity, StoreIdentity};
use super::recover::{chain_of, parse_intents, parse_sets};

/// Blocks and records of the device that records are read for.
const BLOCKS: u64 = 1 << 20;

/// The first byte says which file the rest is of: 0 header, 1 sets, 2 a sector, 3 a header behind which sectors follow.
/// Checksums are made right first, or nothing would get past them.
pub fn tracker_files(data: &[u8]) {
    let Some((which, rest)) = data.split_first() else { return };
    let mut rest = rest.to_vec();
    match which % 4 {
        0 => header(&mut rest),
        1 => sets(&mut rest),
        2 => sector(&mut rest),
        _ => intents(&rest),
    }
}

fn header(data: &mut [u8]) {
    seal(data, 8);
    if let Ok(header) = Header::decode(data) {
        let again = header.encode();
        assert_eq!(Header::decode(&again).unwrap(), header);
        assert!(header.excluded.iter().all(|range| range.end() >= range.start()));
    }
}

fn sets(data: &mut [u8]) {
    // Each record that can be found gets its checksum.
    let mut at = 0;
    while let Some(head) = data.get(at..at + 16) {
        let len = u64::from_le_bytes(head[8..16].try_into().unwrap());
        let Some(end) = usize::try_from(len).ok().and_then(|len| at.checked_add(len)) else { break };
        if len < 16 || end > data.len() {
            break;
        }
        seal(&mut data[at..end], 4);
        at = end;
    }
    let sets = parse_sets(data, BLOCKS);
    assert!(sets.end <= data.len() as u64);
    assert_eq!(sets.broken.is_none(), sets.end == data.len() as u64);
    let Some(first) = sets.records.first() else { return };
    for record in &sets.records {
        assert!(record.set.max().is_none_or(|last| u64::from(last) < BLOCKS));
        let again = Record::decode(&record.encode(), BLOCKS).unwrap();
        assert_eq!(again, *record);
    }
    let generation = first.generation;
    if let Ok(members) = chain_of(sets.records, generation) {
        let ends: Vec<_> = members.iter().map(|member| (member.first, member.last)).collect();
        assert!(ends.windows(2).all(|pair| pair[0].1 + 1 == pair[1].0));
    }
}

fn sector(data: &mut Vec<u8>) {
    data.resize(SECTOR_BYTES, 0);
    seal(data, 4);
    let index = u32::from_le_bytes(data[24..28].try_into().unwrap());
    if let Ok(sector) = Sector::decode(data, index) {
        assert_eq!(Sector::decode(&sector.encode(), index).unwrap(), sector);
    }
}

fn intents(data: &[u8]) {
    // The header says how long it is.
    let len = data.get(12..16).map_or(0, |len| u32::from_le_bytes(len.try_into().unwrap()) as usize);
    let Some((head, sectors)) = data.split_at_checked(len) else { return };
    let mut head = head.to_vec();
    seal(&mut head, 8);
    let Ok(header) = Header::decode(&head) else { return };
    if let Ok(found) = parse_intents(sectors, &header, header.saved_epoch) {
        let shape = header.shape();
        for set in &found.sets {
            assert!(set.max().is_none_or(|last| u64::from(last) < shape.block_count()));
        }
        let whole = ByteRange::new(0, shape.size);
        assert!(found.regions() <= shape.regions.touched_by(whole).end);
    }
}

/// Samples of each file, as they were written when the format was made: which of the kinds of [`tracker_files`], name,
/// bytes.
#[must_use]
pub fn samples() -> Vec<(u8, &'static str, Vec<u8>)> {
    let id = |byte: u8| Uuid::from_bytes([byte; 16]);
    // Regions are smaller on so small a device today: those of the first version stay readable.
    let (blocks, regions) = Grain::read(100 << 20, 12, 22).unwrap();
    let running = Header {
        identity: Identity {
            device: "vm".to_owned(),
            size: 100 << 20,
            source: "/images/vm.raw".to_owned(),
            store: StoreIdentity::File { dev: 0x801, ino: 4711 },
        },
        blocks,
        regions,
        generation: id(1),
        session: id(2),
        previous_session: id(3),
        epoch: 7,
        epoch_limit: 71,
        live_epoch: 5,
        saved_epoch: 5,
        excluded: vec![ByteRange::new(1 << 20, 8 << 20)],
        state: State::Running,
    };
    let traces = Traces::Times { modified_ns: 1_795_000_000_123_456_789, changed_ns: -1 };
    let fingerprint = Fingerprint { size: 100 << 20, traces, samples_crc: 0x1234_5678 };
    let state = State::Clean { sets_len: 300, live_crc: 0xdead_beef, fingerprint };
    let clean = Header { state, excluded: Vec::new(), ..running.clone() };
    let traces = Traces::Written { boot_id: "0d2e4a56-0000-0000-0000-1122334455aa".to_owned(), sectors: 99 };
    let fingerprint = Fingerprint { size: 100 << 20, traces, samples_crc: 1 };
    let store = StoreIdentity::Block { id: "wwn-0x5000".to_owned() };
    let state = State::Clean { sets_len: 0, live_crc: 0, fingerprint };
    let block = Header { identity: Identity { store, ..clean.identity.clone() }, state, ..clean.clone() };
    let record = |first, last, names: &[(u64, &str)], set: RoaringBitmap| Record {
        generation: id(1),
        first,
        last,
        names: names.iter().map(|(epoch, name)| (*epoch, Arc::from(*name))).collect(),
        set: Arc::new(set),
    };
    let mut long: RoaringBitmap = (5..5000).collect();
    long.optimize();
    let sets = [
        record(1, 4, &[(1, "monday"), (4, "tuesday")], long).encode(),
        record(5, 5, &[(5, "wednesday")], [1, 5, 70_000].into_iter().collect()).encode(),
    ]
    .concat();
    let live = record(5, 5, &[], RoaringBitmap::new()).encode();
    let mut words = vec![0; usize::try_from(SECTOR_WORDS).unwrap()];
    words[0] = 0b1011;
    let sector = |epoch, generation| {
        let words = if epoch == 0 { Vec::new() } else { words.clone() };
        Sector { epoch, generation: generation_part(generation), index: 0, words }.encode()
    };
    let intents = [sector(6, id(1)), sector(7, id(1))].concat();
    vec![
        (0, "header-running", running.encode()),
        (0, "header-clean", clean.encode()),
        (0, "header-block", block.encode()),
        (1, "sets", sets),
        (1, "live", live),
        (2, "sector", sector(7, id(1))),
        (2, "sector-empty", sector(0, id(1))),
        (3, "intents", [running.encode(), intents].concat()),
    ]
}
