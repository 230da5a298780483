//! Verifying a tracker's files without a device: what is there, and what is wrong with it.

use bowline_block::Result;
use bowline_state::Folder;
use uuid::Uuid;

use super::disk::bytes::corrupt;
use super::disk::header::{HEADER_BYTES_MAX, Header, State};
use super::disk::record::RECORD_BYTES_MAX;
use super::disk::sector::file_bytes;
use super::disk::{HEADER_FILE, INTENTS_FILE, LIVE_FILE, SETS_FILE, SETS_NEW_FILE};
use super::grain::REGIONS_MAX;
use super::identity::Identity;
use super::recover::{chain_of, parse_intents, parse_sets, read_file, read_live};

/// How much something matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// As it should be; worth knowing.
    Fine,
    /// An unclean stop leaves it like that: nothing is lost, and more than what changed may count as changed.
    AfterCrash,
    /// Damage that costs precision: all it may have said counts as changed.
    Damaged,
    /// The files will not be believed: the next start asks for a full read.
    Wrong,
}

/// Something that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file.
    pub file: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// What.
    pub what: String,
}

/// The names that files of a tracker have.
pub const FILES: [&str; 4] = [HEADER_FILE, INTENTS_FILE, SETS_FILE, LIVE_FILE];

/// Whose a tracker's files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The device.
    pub identity: Identity,
    /// The session in which they were written, and the one before. They are believed for these.
    pub sessions: [Uuid; 2],
}

/// Reads whose the files in a folder are.
///
/// # Errors
/// *Corrupt* when the header is missing or no good; what the folder says.
pub fn owner(folder: &dyn Folder) -> Result<Owner> {
    let data = read_file(folder, HEADER_FILE, HEADER_BYTES_MAX as u64)?;
    let header = Header::decode(&data.ok_or_else(|| corrupt("it is missing"))?)?;
    Ok(Owner { identity: header.identity, sessions: [header.session, header.previous_session] })
}

struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, file: &'static str, severity: Severity, what: impl Into<String>) {
        self.0.push(Finding { file, severity, what: what.into() });
    }

    /// What was read, or nothing, which is noted as wrong.
    fn needed(&mut self, file: &'static str, data: Result<Option<Vec<u8>>>) -> Option<Vec<u8>> {
        match data {
            Ok(Some(data)) => return Some(data),
            Ok(None) => self.add(file, Severity::Wrong, "it is missing"),
            Err(error) => self.add(file, Severity::Wrong, error.to_string()),
        }
        None
    }
}

/// Looks at the files of a tracker that is not in use. Changes nothing. Nothing that it finds is worse than a full read.
#[must_use]
pub fn check(folder: &dyn Folder) -> Vec<Finding> {
    let mut findings = Findings(Vec::new());
    if let Some(data) = findings.needed(HEADER_FILE, read_file(folder, HEADER_FILE, HEADER_BYTES_MAX as u64))
    {
        match Header::decode(&data) {
            Ok(header) => check_behind(folder, &header, &mut findings),
            Err(error) => findings.add(HEADER_FILE, Severity::Wrong, error.to_string()),
        }
    }
    if let Ok(names) = folder.names() {
        for name in names {
            if name == SETS_NEW_FILE || name.ends_with(".new") {
                let what = format!("{name} is left from a replacement that was cut short; it is ignored");
                findings.add(SETS_NEW_FILE, Severity::AfterCrash, what);
            }
        }
    }
    findings.0
}

fn check_behind(folder: &dyn Folder, header: &Header, findings: &mut Findings) {
    let identity = &header.identity;
    let run = match header.state {
        State::Clean { .. } => "stopped in order",
        State::Running => "in use, or not stopped in order",
    };
    let what = format!(
        "device {} of {} bytes in {}, generation {}, epoch {}, {run}",
        identity.device, identity.size, identity.source, header.generation, header.epoch
    );
    let clean = matches!(header.state, State::Clean { .. });
    findings.add(HEADER_FILE, if clean { Severity::Fine } else { Severity::AfterCrash }, what);
    let Some(saved) = check_sets(folder, header, findings) else { return };
    if header.live_epoch > saved {
        let crc = match header.state {
            State::Clean { live_crc, .. } => Some(live_crc),
            State::Running => None,
        };
        match read_live(folder, header, crc) {
            Ok(set) => {
                let what = format!("{} blocks changed in epoch {}", set.len(), header.live_epoch);
                findings.add(LIVE_FILE, Severity::Fine, what);
            }
            Err(error) => findings.add(LIVE_FILE, Severity::Wrong, error.to_string()),
        }
    } else if folder.open(LIVE_FILE).ok().flatten().and_then(|file| file.len().ok()) > Some(RECORD_BYTES_MAX)
    {
        findings.add(LIVE_FILE, Severity::Wrong, "it is larger than it can be");
    }
    check_intents(folder, header, saved, findings);
}

/// Gives the last epoch that is there.
fn check_sets(folder: &dyn Folder, header: &Header, findings: &mut Findings) -> Option<u64> {
    let data = findings.needed(SETS_FILE, read_file(folder, SETS_FILE, 1 << 30))?;
    let sets = parse_sets(&data, header.shape().block_count());
    let count = sets.records.len();
    let clean_len = match header.state {
        State::Clean { sets_len, .. } => Some(sets_len),
        State::Running => None,
    };
    if let Some(error) = &sets.broken {
        let severity = if clean_len.is_some() { Severity::Wrong } else { Severity::AfterCrash };
        findings.add(SETS_FILE, severity, format!("record {} at byte {}: {error}", count + 1, sets.end));
    }
    if let Some(len) = clean_len.filter(|len| *len != sets.end) {
        findings.add(SETS_FILE, Severity::Wrong, format!("it has {} good bytes instead of {len}", sets.end));
    }
    let members = match chain_of(sets.records, header.generation) {
        Ok(members) => members,
        Err(error) => {
            findings.add(SETS_FILE, Severity::Wrong, error.to_string());
            return None;
        }
    };
    let saved = members.last().map_or(0, |member| member.last);
    let needed = if clean_len.is_some() { header.epoch - 1 } else { header.saved_epoch };
    if saved < needed || saved >= header.epoch_limit {
        findings.add(SETS_FILE, Severity::Wrong, format!("its last epoch is {saved}, not {needed}"));
        return None;
    }
    findings.add(SETS_FILE, Severity::Fine, format!("{count} records, up to epoch {saved}"));
    Some(saved)
}

fn check_intents(folder: &dyn Folder, header: &Header, saved: u64, findings: &mut Findings) {
    let data = read_file(folder, INTENTS_FILE, file_bytes(REGIONS_MAX) * 2);
    let Some(data) = findings.needed(INTENTS_FILE, data) else { return };
    match parse_intents(&data, header, saved) {
        Ok(found) => {
            for (offset, error) in &found.bad_sectors {
                let what = format!("sector at byte {offset}: {error}; all of its regions count as changed");
                findings.add(INTENTS_FILE, Severity::Damaged, what);
            }
            let severity = if found.regions() == 0 { Severity::Fine } else { Severity::AfterCrash };
            let clean = matches!(header.state, State::Clean { .. });
            let severity = if clean { Severity::Fine } else { severity };
            let what = format!("{} regions were begun behind epoch {saved}", found.regions());
            findings.add(INTENTS_FILE, severity, what);
        }
        Err(error) => findings.add(INTENTS_FILE, Severity::Wrong, error.to_string()),
    }
}
