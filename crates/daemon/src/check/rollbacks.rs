//! The logs of rollbacks that go on at the next start.

use std::path::Path;

use bowline_filter::rollback::{LOG_NAME, check_log};

use super::folder::{ReadFolder, names};
use super::{REMOVE, Report};
use crate::rollback::FOLDER;
use crate::state::{FILE, Stored};

/// What a log is needed for.
const MIXED: &str = "the device holds a part of each, restore the log from a backup, or the device";

/// Looks at the folders of all devices.
pub(super) fn check(path: &Path, stored: Option<&Stored>, report: &mut Report) {
    let folder = path.join(FOLDER);
    for name in names(&folder).unwrap_or_default() {
        let (path, place) = (folder.join(&name), format!("{FOLDER}/{name}"));
        if !path.is_dir() {
            report.wrong(place, "it belongs to nothing", REMOVE);
            continue;
        }
        if stored.is_some_and(|stored| !stored.devices.iter().any(|device| device.name == name)) {
            report.wrong(&place, format!("there is no such device in {FILE}"), REMOVE);
        }
        for file in names(&path).unwrap_or_default() {
            if file.ends_with(".new") {
                report.note(
                    format!("{place}/{file}"),
                    "it is left from a replacement that was cut short, and ignored",
                );
            } else if file != LOG_NAME {
                report.wrong(format!("{place}/{file}"), "it belongs to nothing", REMOVE);
            }
        }
        check_one(&format!("{place}/{LOG_NAME}"), &ReadFolder(path), stored, report);
    }
}

fn check_one(place: &str, folder: &ReadFolder, stored: Option<&Stored>, report: &mut Report) {
    match check_log(folder) {
        Ok(None) => {}
        Err(error) => report.wrong(place, error.to_string(), MIXED),
        Ok(Some(log)) => {
            let is_held =
                |stored: &Stored| stored.persistent_snapshots.iter().any(|held| held.id == log.snapshot);
            if stored.is_some_and(|stored| !is_held(stored)) {
                report.wrong(
                    place,
                    format!("it goes back to snapshot {}, which is not in {FILE}", log.snapshot),
                    MIXED,
                );
            }
            let what = format!("{} of {} bytes are still to be put back", log.pending_bytes, log.total_bytes);
            report.note(place, what);
        }
    }
}
