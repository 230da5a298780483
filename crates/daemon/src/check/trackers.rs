//! The trackers' files: whole, and of the device and the session that the document says.

use std::path::Path;

use bowline_api::{DeviceAdd, Source};
use bowline_filter::track::{self, FILES, Severity};

use super::folder::{ReadFolder, names};
use super::{REMOVE, Report, TRACKERS};
use crate::state::{FILE, Stored};

/// What happens to a tracker that is not believed.
const FULL_READ: &str =
    "nothing to repair, the next start counts anew and its next backup must read everything";

/// Looks at the folder of trackers; without a document only at what the files say themselves.
pub(super) fn check(path: &Path, stored: Option<&Stored>, report: &mut Report) {
    let folder = path.join(TRACKERS);
    let found = match names(&folder) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        // That it is no folder is told with the other names.
        Err(_) if !folder.is_dir() => Vec::new(),
        Err(error) => {
            report.wrong(TRACKERS, format!("it cannot be listed, {error}"), "run it as who runs the daemon");
            return;
        }
    };
    for name in &found {
        let place = format!("{TRACKERS}/{name}");
        let path = folder.join(name);
        if !path.is_dir() {
            report.wrong(place, "it belongs to nothing", REMOVE);
            continue;
        }
        let device = stored.and_then(|stored| stored.devices.iter().find(|device| device.name == *name));
        match (stored, device) {
            (Some(_), None) => report.wrong(&place, format!("there is no such device in {FILE}"), REMOVE),
            (_, Some(device)) if !device.track => {
                // The next start removes them.
                report.note(place, format!("device {name} is not tracked"));
                continue;
            }
            _ => {}
        }
        check_one(&place, &ReadFolder(path), name, stored.zip(device), report);
    }
    for device in stored.iter().flat_map(|stored| &stored.devices) {
        if device.track && is_lasting(device) && !found.contains(&device.name) {
            let what = format!("device {} is tracked, and there are no files of its tracker", device.name);
            report.wrong(format!("{TRACKERS}/{}", device.name), what, FULL_READ);
        }
    }
}

/// Whether a tracker of it has files.
fn is_lasting(device: &DeviceAdd) -> bool {
    !matches!(device.source.parse::<Source>(), Ok(Source::Memory(_) | Source::Null(_)) | Err(_))
}

fn check_one(
    place: &str,
    folder: &ReadFolder,
    name: &str,
    known: Option<(&Stored, &DeviceAdd)>,
    report: &mut Report,
) {
    report.trackers += 1;
    for finding in track::check(folder) {
        let place = format!("{place}/{}", finding.file);
        match finding.severity {
            Severity::Fine => {}
            Severity::AfterCrash => report.note(place, finding.what),
            Severity::Damaged => {
                report.wrong(
                    place,
                    finding.what,
                    "nothing to repair, more than what changed counts as changed",
                );
            }
            Severity::Wrong => report.wrong(place, finding.what, FULL_READ),
        }
    }
    for file in names(&folder.0).unwrap_or_default() {
        // Replacements that were cut short are told as such.
        if !FILES.contains(&file.as_str()) && !file.ends_with(".new") {
            report.wrong(format!("{place}/{file}"), "it belongs to nothing", REMOVE);
        }
    }
    // A header that is no good is found above.
    let Ok(owner) = track::owner(folder) else { return };
    let header = format!("{place}/tracker");
    let of = owner.identity;
    if of.device != name {
        let what = format!("it is of device {:?}, not of {name:?}", of.device);
        report.wrong(&header, what, "move the folders back to where they were");
    }
    let Some((stored, device)) = known else { return };
    if of.source != device.source {
        let what = format!("it is of a device in {}, and {name} is in {}", of.source, device.source);
        report.wrong(&header, what, FULL_READ);
    }
    let noted = stored.tracker_sessions.get(name);
    if let Some(noted) = noted.filter(|noted| !owner.sessions.contains(noted)) {
        let what =
            format!("it is of session {}, and {FILE} has {noted}: a copy of another time", owner.sessions[0]);
        report.wrong(&header, what, FULL_READ);
    }
}
