//! Reading what an earlier run left: believed only as far as it proves itself.
//!
//! After a crash the epochs behind the last durable set are made up from intents: of the first one from its half of the
//! file, of the next one from the other half. More than two there cannot be, since nothing is written down for the next
//! but one before the set is durable.

use std::sync::Arc;

use bowline_block::{Error, Result};
use bowline_state::Folder;
use roaring::RoaringBitmap;
use uuid::Uuid;

use super::current::Shape;
use super::disk::bytes::{corrupt, crc32c};
use super::disk::header::{HEADER_BYTES_MAX, Header, State};
use super::disk::record::{RECORD_BYTES_MAX, Record, claimed_len};
use super::disk::sector::{SECTOR_BYTES, SECTOR_REGIONS, Sector, file_bytes, generation_part, offset_of};
use super::disk::{HEADER_FILE, INTENTS_FILE, LIVE_FILE, SETS_FILE};
use super::epochs::{ClosedSet, Member};
use super::fingerprint::Fingerprint;
use super::grain::Run;
use super::identity::Identity;
use super::map::insert;

/// Bytes of `sets` at most, and records in it.
const SETS_BYTES_MAX: u64 = 1 << 30;
const RECORDS_MAX: usize = 1 << 20;

/// What an earlier run left.
pub(crate) enum Past {
    /// It was stopped in order.
    Clean { header: Header, members: Vec<Member>, sets_len: u64, live: Arc<RoaringBitmap> },
    /// It was not. `members` reach up to the granted epochs.
    Crashed { header: Header, members: Vec<Member>, regions: u64, bytes: u64 },
    /// Nothing that could be believed.
    Nothing { reason: String },
}

/// What is to be found.
pub(crate) struct Expected<'a> {
    pub(crate) identity: &'a Identity,
    pub(crate) session: Option<Uuid>,
    pub(crate) fingerprint_now: &'a dyn Fn() -> Result<Fingerprint>,
}

/// A file's bytes, if there is one.
pub(crate) fn read_file(folder: &dyn Folder, name: &str, bytes_max: u64) -> Result<Option<Vec<u8>>> {
    let Some(file) = folder.open(name)? else { return Ok(None) };
    let len = file.len()?;
    if len > bytes_max {
        return Err(corrupt(format!("it has {len} bytes, more than the {bytes_max} it may have")));
    }
    let mut data = vec![0; usize::try_from(len).unwrap_or(0)];
    let read = file.read_at(0, &mut data)?;
    data.truncate(read);
    Ok(Some(data))
}

/// `sets`: its records, and where the first one begins that is none, with the reason.
pub(crate) struct Sets {
    pub(crate) records: Vec<Record>,
    pub(crate) end: u64,
    pub(crate) broken: Option<Error>,
}

pub(crate) fn parse_sets(data: &[u8], blocks: u64) -> Sets {
    let mut sets = Sets { records: Vec::new(), end: 0, broken: None };
    let mut rest = data;
    while !rest.is_empty() {
        let record = claimed_len(rest).and_then(|len| {
            let whole = usize::try_from(len).ok().and_then(|len| rest.split_at_checked(len));
            let (own, after) =
                whole.ok_or_else(|| corrupt(format!("a record of {len} bytes is cut short")))?;
            Ok((Record::decode(own, blocks)?, after))
        });
        match record {
            Ok((record, after)) if sets.records.len() < RECORDS_MAX => {
                sets.end += (rest.len() - after.len()) as u64;
                sets.records.push(record);
                rest = after;
            }
            Ok(_) => {
                sets.broken = Some(corrupt(format!("there are more than {RECORDS_MAX} records")));
                return sets;
            }
            Err(error) => {
                sets.broken = Some(error);
                return sets;
            }
        }
    }
    sets
}

/// The chain of a generation's records, which must leave no epoch out.
pub(crate) fn chain_of(records: Vec<Record>, generation: Uuid) -> Result<Vec<Member>> {
    let mut next = 1;
    let mut members = Vec::with_capacity(records.len());
    for record in records.into_iter().filter(|record| record.generation == generation) {
        let Record { first, last, names, set, .. } = record;
        if first != next {
            return Err(corrupt(format!("epoch {next} is missing: epoch {first} is next")));
        }
        next = last + 1;
        members.push(Member { first, last, names, set: Arc::new(ClosedSet::of_set(set)) });
    }
    Ok(members)
}

/// What the sectors say of the two epochs that may not be in `sets`.
#[derive(Default)]
pub(crate) struct FoundIntents {
    /// Of the first epoch, of the second, and of any whatever.
    pub(crate) sets: [RoaringBitmap; 3],
    /// Regions, each counted once.
    regions: RoaringBitmap,
    pub(crate) bad_sectors: Vec<(u64, Error)>,
}

/// Reads `intents` for the epochs behind `saved`.
pub(crate) fn parse_intents(data: &[u8], header: &Header, saved: u64) -> Result<FoundIntents> {
    let regions = header.shape().region_count();
    if data.len() as u64 != file_bytes(regions) {
        let why = format!("it has {} bytes instead of {}", data.len(), file_bytes(regions));
        return Err(corrupt(why));
    }
    let mut found = FoundIntents::default();
    let half = data.len() / 2 / SECTOR_BYTES;
    for (at, bytes) in data.chunks_exact(SECTOR_BYTES).enumerate() {
        let index = (at % half.max(1)) as u64;
        let parity = (at / half.max(1)) as u64;
        let of = |epoch: u64| epoch % 2 == parity;
        let own = Run { first: index * SECTOR_REGIONS, end: (index + 1) * SECTOR_REGIONS }.cut_to(regions);
        let expected = u32::try_from(index).unwrap_or(u32::MAX);
        match Sector::decode(bytes, expected) {
            Err(error) => {
                // It may have been anything: all of its regions count, in whichever epoch.
                found.bad_sectors.push((offset_of(parity, index, regions), error));
                found.add(2, own, header.shape());
            }
            Ok(sector) if sector.generation != generation_part(header.generation) || sector.epoch == 0 => {}
            Ok(sector) if !of(sector.epoch) => {
                return Err(corrupt(format!(
                    "sector {index} of epoch {} is in the wrong half",
                    sector.epoch
                )));
            }
            Ok(sector) if sector.epoch <= saved => {}
            Ok(sector) if sector.epoch > saved + 2 || sector.epoch >= header.epoch_limit => {
                let why =
                    format!("it knows epoch {}, but no set of epoch {} is there", sector.epoch, saved + 1);
                return Err(corrupt(why));
            }
            Ok(sector) => {
                let which = usize::from(sector.epoch != saved + 1);
                for (word, number) in sector.words.iter().zip(own.first / 64..) {
                    let bits = (0..64).filter(|bit| word >> bit & 1 == 1).map(|bit| number * 64 + bit);
                    for region in bits.filter(|region| *region < own.end) {
                        found.add(which, Run { first: region, end: region + 1 }, header.shape());
                    }
                }
            }
        }
    }
    Ok(found)
}

impl FoundIntents {
    /// How many regions count.
    pub(crate) fn regions(&self) -> u64 {
        self.regions.len()
    }

    fn add(&mut self, which: usize, regions: Run, shape: Shape) {
        insert(&mut self.regions, regions);
        let blocks = shape.blocks.touched_by(shape.regions.range_of(regions, shape.size));
        if let Some(set) = self.sets.get_mut(which) {
            insert(set, blocks);
        }
    }
}

/// Reads what there is. What stands against it is a reason, not an error.
pub(crate) fn read(folder: &dyn Folder, expected: &Expected<'_>) -> Past {
    match try_read(folder, expected) {
        Ok(past) => past,
        Err(error) => Past::Nothing { reason: error.to_string() },
    }
}

fn in_file(name: &'static str) -> impl Fn(Error) -> Error {
    move |error| corrupt(format!("its tracker's file {name} cannot be believed: {error}"))
}

fn try_read(folder: &dyn Folder, expected: &Expected<'_>) -> Result<Past> {
    let found = read_file(folder, HEADER_FILE, HEADER_BYTES_MAX as u64).map_err(in_file(HEADER_FILE))?;
    let Some(data) = found else {
        return Ok(Past::Nothing { reason: "nothing is kept of it yet".to_owned() });
    };
    let header = Header::decode(&data).map_err(in_file(HEADER_FILE))?;
    if let Some(difference) = header.identity.difference(expected.identity) {
        return Ok(Past::Nothing { reason: difference });
    }
    if let Some(session) = expected.session
        && session != header.session
        && session != header.previous_session
    {
        let reason = format!(
            "its tracker's files are those of another time: session {} instead of {session}",
            header.session
        );
        return Ok(Past::Nothing { reason });
    }
    let data = read_file(folder, SETS_FILE, SETS_BYTES_MAX).map_err(in_file(SETS_FILE))?;
    let data = data.ok_or_else(|| corrupt("its tracker's file sets is missing"))?;
    let sets = parse_sets(&data, header.shape().block_count());
    match header.state.clone() {
        State::Clean { sets_len, live_crc, fingerprint } => {
            if let Some(error) = sets.broken {
                return Err(in_file(SETS_FILE)(error));
            }
            if sets.end != sets_len {
                let why = format!("it has {} bytes instead of {sets_len}", sets.end);
                return Err(in_file(SETS_FILE)(corrupt(why)));
            }
            let members = chain_of(sets.records, header.generation).map_err(in_file(SETS_FILE))?;
            check_saved(&members, &header, header.epoch - 1).map_err(in_file(SETS_FILE))?;
            let live = read_live(folder, &header, Some(live_crc)).map_err(in_file(LIVE_FILE))?;
            let now = (expected.fingerprint_now)()
                .map_err(|error| corrupt(format!("what the device looks like cannot be told: {error}")))?;
            if let Some(difference) = fingerprint.difference(&now) {
                let reason = format!("the device changed while nobody tracked it: {difference}");
                return Ok(Past::Nothing { reason });
            }
            Ok(Past::Clean { header, members, sets_len, live })
        }
        State::Running => {
            let members = chain_of(sets.records, header.generation).map_err(in_file(SETS_FILE))?;
            crashed(folder, header, members)
        }
    }
}

fn check_saved(members: &[Member], header: &Header, needed: u64) -> Result<u64> {
    let saved = members.last().map_or(0, |member| member.last);
    if saved < needed || saved >= header.epoch_limit {
        return Err(corrupt(format!("its last epoch is {saved}, not {needed}")));
    }
    Ok(saved)
}

fn crashed(folder: &dyn Folder, header: Header, mut members: Vec<Member>) -> Result<Past> {
    let saved = check_saved(&members, &header, header.saved_epoch).map_err(in_file(SETS_FILE))?;
    let data = read_file(folder, INTENTS_FILE, file_bytes(super::grain::REGIONS_MAX) * 2)
        .map_err(in_file(INTENTS_FILE))?;
    let data = data.ok_or_else(|| corrupt("its tracker's file intents is missing"))?;
    let FoundIntents { sets: [mut first, mut second, any], regions, .. } =
        parse_intents(&data, &header, saved).map_err(in_file(INTENTS_FILE))?;
    let shape = header.shape();
    let regions_len = regions.len();
    first |= &any;
    second |= &any;
    let bytes = counted(&(&first | &second), shape);
    if header.live_epoch > saved {
        if header.live_epoch != saved + 1 {
            let why = format!("epoch {} is missing", saved + 1);
            return Err(in_file(SETS_FILE)(corrupt(why)));
        }
        first |= &*read_live(folder, &header, None).map_err(in_file(LIVE_FILE))?;
    }
    let last = header.epoch_limit - 1;
    let mut add = |from: u64, to: u64, mut set: RoaringBitmap| {
        set.optimize();
        let set = Arc::new(ClosedSet::of_set(Arc::new(set)));
        members.push(Member { first: from, last: to, set, names: Vec::new() });
    };
    if saved < last {
        add(saved + 1, saved + 1, first);
    }
    if saved + 1 < last {
        add(saved + 2, saved + 2, second);
    }
    if saved + 2 < last {
        // Takes behind which nothing was written, and numbers that were granted and not used.
        add(saved + 3, last, any);
    }
    Ok(Past::Crashed { header, members, regions: regions_len, bytes })
}

fn counted(set: &RoaringBitmap, shape: Shape) -> u64 {
    let mut bytes = 0;
    let mut ranges = set.iter();
    while let Some(range) = ranges.next_range() {
        let run = Run { first: u64::from(*range.start()), end: u64::from(*range.end()) + 1 };
        bytes += shape.blocks.range_of(run, shape.size).len();
    }
    bytes
}

/// The record of the epoch that went on behind a clean stop.
pub(crate) fn read_live(
    folder: &dyn Folder,
    header: &Header,
    crc: Option<u32>,
) -> Result<Arc<RoaringBitmap>> {
    let data = read_file(folder, LIVE_FILE, RECORD_BYTES_MAX)?.ok_or_else(|| corrupt("it is missing"))?;
    if crc.is_some_and(|crc| crc32c(&[&data]) != crc) {
        return Err(corrupt("it is another one than was saved"));
    }
    let record = Record::decode(&data, header.shape().block_count())?;
    let own = (header.generation, header.live_epoch, header.live_epoch);
    if (record.generation, record.first, record.last) != own {
        return Err(corrupt(format!("it is of epoch {}, not {}", record.last, header.live_epoch)));
    }
    Ok(record.set)
}
