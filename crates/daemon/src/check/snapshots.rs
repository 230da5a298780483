//! The journals of persistent snapshots, every block they keep, and whether they know what the document holds.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use bowline_api::Uuid;
use bowline_filter::cow::{JournalReport, KeptStore, check_journal};

use super::folder::{ReadFolder, names};
use super::{REMOVE, Report};
use crate::snapshot::kept::FOLDER;
use crate::state::{FILE, Stored};

const SUFFIX: &str = ".journal";
/// What becomes of a snapshot whose old contents are not all there.
const LOST: &str = "nothing to repair, remove the snapshots of that device and take new ones";

/// A snapshot of a device that a journal has.
struct Known {
    device: String,
    snapshot: Uuid,
}

/// Looks at all journals; gives the files their stores are in.
pub(super) fn check(path: &Path, stored: Option<&Stored>, report: &mut Report) -> Vec<PathBuf> {
    let folder = path.join(FOLDER);
    let mut stores = Vec::new();
    let mut known = Vec::new();
    for name in names(&folder).unwrap_or_default() {
        let place = format!("{FOLDER}/{name}");
        if name.ends_with(SUFFIX) {
            known.extend(check_one(&folder, &name, &place, stored, &mut stores, report));
        } else if name.ends_with(".journal.new") {
            report.note(place, "it is left from a compaction that was cut short, and ignored");
        } else {
            report.wrong(place, "it belongs to nothing", REMOVE);
        }
    }
    if let Some(stored) = stored {
        check_document(stored, &known, report);
    }
    stores.iter().filter_map(|store| std::fs::canonicalize(store).ok()).collect()
}

fn check_one(
    folder: &Path,
    name: &str,
    place: &str,
    stored: Option<&Stored>,
    stores: &mut Vec<PathBuf>,
    report: &mut Report,
) -> Vec<Known> {
    report.journals += 1;
    let used = RefCell::new(stores);
    let checked = check_journal(&ReadFolder(folder.to_owned()), name, |id, specs| {
        used.borrow_mut().extend(KeptStore::paths(specs));
        let store = KeptStore::open(id, specs)?;
        Ok(Box::new(move |segment, slot, data: &mut [u8]| store.read(segment, slot, data)))
    });
    let JournalReport { device, snapshots, blocks, problems } = match checked {
        Ok(checked) => checked,
        Err(error) => {
            report.wrong(place, error.to_string(), LOST);
            return Vec::new();
        }
    };
    report.blocks += blocks;
    let is_good = problems.is_empty();
    for problem in problems {
        report.wrong(place, problem, LOST);
    }
    for (epoch, id, failed) in &snapshots {
        if let Some(why) = failed {
            report.note(place, format!("snapshot {id} of epoch {epoch} has failed: {why}"));
        }
        let is_held = |stored: &Stored| stored.persistent_snapshots.iter().any(|held| held.id == *id);
        if stored.is_some_and(|stored| !is_held(stored)) {
            let what =
                format!("snapshot {id} of epoch {epoch} is not held any more: the next start forgets it");
            report.note(place, what);
        }
    }
    let is_there = |stored: &Stored| stored.devices.iter().any(|one| one.name == device);
    if is_good && stored.is_some_and(|stored| !is_there(stored)) {
        report.wrong(place, format!("it is of device {device:?}, which is not in {FILE}"), REMOVE);
    }
    snapshots.into_iter().map(|(_, snapshot, _)| Known { device: device.clone(), snapshot }).collect()
}

/// Whether every snapshot that the document holds is in the journals of its devices.
fn check_document(stored: &Stored, known: &[Known], report: &mut Report) {
    for (index, held) in stored.persistent_snapshots.iter().enumerate() {
        let place = format!("{FILE} persistent_snapshots[{index}]");
        let mut others = stored.persistent_snapshots.iter().take(index);
        if others.any(|other| other.name == held.name || other.id == held.id) {
            report.wrong(&place, format!("snapshot {:?} is there twice", held.name), "remove one of the two");
        }
        if let Err(error) = bowline_api::names::check_name("snapshot", &held.name) {
            report.wrong(&place, error.message, "correct it in the document");
        }
        for device in &held.devices {
            let is_there = |one: &Known| one.device == device.name && one.snapshot == held.id;
            if held.failed.is_none() && !known.iter().any(is_there) {
                let what = format!(
                    "no journal in {FOLDER} has snapshot {:?} of device {:?}",
                    held.name, device.name
                );
                report.wrong(
                    &place,
                    what,
                    format!("remove it after the next start: `bowline snapshot remove {}`", held.name),
                );
            }
        }
    }
}
