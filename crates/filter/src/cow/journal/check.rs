//! A journal and its stores, looked at without using them.

use bowline_block::Result;
use bowline_state::{Folder, StateFile};

use super::index::{Index, KnownStore};
use super::layout::crc;
use super::log::{read_header, scan};
use super::record::Place;
use crate::cow::granule::GRANULE_BYTES;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JournalReport {
    /// The origin's name.
    pub device: String,
    /// Persistent snapshots: epoch, identity, and why it failed if it has.
    pub snapshots: Vec<(u64, uuid::Uuid, Option<String>)>,
    /// Blocks of 4 KiB whose contents were compared with their checksums.
    pub blocks: u64,
    /// What is wrong, in words.
    pub problems: Vec<String>,
}

/// Problems that are told; the rest is counted.
const PROBLEMS_MAX: usize = 100;

impl JournalReport {
    fn wrong(&mut self, what: String) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(what);
        }
    }
}

/// Reads blocks of a store: from a segment and a slot on.
pub type ReadBlocks<'a> = &'a dyn Fn(u32, u8, &mut [u8]) -> Result<()>;

/// Reads one journal and compares every preserved block with its checksum. `open` finds a store by what the journal knows
/// of it and gives a way to read it.
///
/// # Errors
/// Only when the journal's file cannot be read at all; what is wrong with it is in the report.
pub fn check_journal<'a>(
    folder: &dyn Folder,
    name: &str,
    open: impl Fn(uuid::Uuid, &[String]) -> Result<Box<dyn Fn(u32, u8, &mut [u8]) -> Result<()> + 'a>>,
) -> Result<JournalReport> {
    let mut report = JournalReport::default();
    let Some(file) = folder.open(name)? else {
        report.wrong(format!("there is no {name}"));
        return Ok(report);
    };
    let Some(index) = read(&*file, &mut report) else { return Ok(report) };
    let holdings = match index.resolve() {
        Ok(holdings) => holdings,
        Err(why) => {
            report.wrong(why);
            return Ok(report);
        }
    };
    for (&number, KnownStore { id, specs }) in &index.stores {
        let pieces = holdings.values().flat_map(|one| one.copied.pieces().chain(one.written.pieces()));
        let mut places: Vec<(Place, u64)> = pieces
            .filter_map(|piece| piece.at.map(|at| (at, piece.count)))
            .filter(|(at, _)| at.store == number)
            .collect();
        if places.is_empty() {
            continue;
        }
        places.sort_unstable();
        match open(*id, specs) {
            Err(error) => report.wrong(format!("store {}: {error}", specs.join(" + "))),
            Ok(read) => places.into_iter().for_each(|(at, count)| {
                check_blocks(&index, at, count, &*read, &mut report);
            }),
        }
    }
    Ok(report)
}

fn read(file: &dyn StateFile, report: &mut JournalReport) -> Option<Index> {
    let read = read_header(file).and_then(|(header, failed)| {
        report.device.clone_from(&header.device);
        if let Some(why) = failed {
            report.wrong(format!("the journal has failed: {why}"));
        }
        let mut index = Index::new(&header);
        scan(file, None, |record| index.add(record)).map(|_| index)
    });
    match read {
        Err(error) => {
            report.wrong(error.to_string());
            None
        }
        Ok(index) => {
            let known =
                index.members.iter().map(|(&epoch, one)| (epoch, one.taken.snapshot, one.failed.clone()));
            report.snapshots = known.collect();
            Some(index)
        }
    }
}

fn check_blocks(index: &Index, at: Place, count: u64, read: ReadBlocks<'_>, report: &mut JournalReport) {
    for slot in 0..count {
        let at = at.plus(slot);
        let mut block = vec![0; usize::try_from(GRANULE_BYTES).unwrap_or(4096)];
        let whose = format!("block at slot {} of segment {} of store {}", at.slot, at.segment, at.store);
        match read(at.segment, at.slot, &mut block) {
            Err(error) => report.wrong(format!("{whose}: {error}")),
            Ok(()) if index.sum(at) != Some(crc(&block)) => report.wrong(format!("{whose} is damaged")),
            Ok(()) => report.blocks += 1,
        }
    }
}
