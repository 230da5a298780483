//! The document: whether a daemon would read it, and whether what it says fits together.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;

use bowline_api::names::{check_name, split_image};
use serde_json::Value;

use super::{Report, folder};
use crate::state::{BYTES_MAX, FILE, Stored, VERSION, VERSION_OLDEST};

const RESTORE: &str = "restore it from a backup, or move it away to start with nothing";
const CORRECT: &str = "correct it in the document, or restore that from a backup";

/// Reads and checks it; `None` when it says nothing that can be relied on.
pub(super) fn check(path: &Path, report: &mut Report) -> Option<Stored> {
    let text = match read(path) {
        Ok(Some(text)) => text,
        Ok(None) => {
            report.note(FILE, "there is none: nothing is kept");
            return Some(Stored::default());
        }
        Err(why) => {
            report.wrong(FILE, why, RESTORE);
            return None;
        }
    };
    match parse(&text) {
        Ok(stored) => {
            report.devices = stored.devices.len();
            check_devices(&stored, report);
            check_references(&stored, report);
            Some(stored)
        }
        Err(why) => {
            report.wrong(FILE, why, RESTORE);
            None
        }
    }
}

fn read(path: &Path) -> Result<Option<String>, String> {
    let file = match folder::open(&path.join(FILE)) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("it cannot be opened, {error}")),
    };
    let mut text = String::new();
    file.take(BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|error| format!("it cannot be read, {error}"))?;
    match u64::try_from(text.len()) {
        Ok(..=BYTES_MAX) => Ok(Some(text)),
        _ => Err(format!("it has more than {BYTES_MAX} bytes")),
    }
}

fn parse(text: &str) -> Result<Stored, String> {
    // The version first: another one may look different in all the rest.
    let whole: Value = serde_json::from_str(text).map_err(|error| format!("it is no JSON, {error}"))?;
    let Some(version) = whole.get("version") else { return Err("it has no version".to_owned()) };
    if !version.as_u64().is_some_and(|version| (VERSION_OLDEST.into()..=VERSION.into()).contains(&version)) {
        return Err(format!(
            "it has version {version}, and versions {VERSION_OLDEST} to {VERSION} can be read"
        ));
    }
    serde_json::from_str(text).map_err(|error| format!("it is no state document, {error}"))
}

fn check_devices(stored: &Stored, report: &mut Report) {
    let mut names = BTreeSet::new();
    for (index, device) in stored.devices.iter().enumerate() {
        let place = format!("{FILE} devices[{index}]");
        if let Err(error) = device.check() {
            report.wrong(&place, error.message, CORRECT);
        }
        if !names.insert(&device.name) {
            report.wrong(&place, format!("device {:?} is there twice", device.name), "remove one of the two");
        }
    }
}

/// Names of devices in other parts of the document, and what must be there once.
fn check_references(stored: &Stored, report: &mut Report) {
    let names: BTreeSet<&str> = stored.devices.iter().map(|device| device.name.as_str()).collect();
    let tracked: BTreeSet<&str> =
        stored.devices.iter().filter(|device| device.track).map(|device| device.name.as_str()).collect();
    let unknown = |name: &str| format!("there is no device {name:?}");
    // Exports may also be of images that outlive the daemon.
    let is_known = |name: &str| match split_image(name) {
        None => names.contains(name),
        Some((snapshot, device)) => stored
            .persistent_snapshots
            .iter()
            .any(|held| held.name == snapshot && held.devices.iter().any(|part| part.name == device)),
    };
    for (index, export) in stored.exports.iter().enumerate() {
        let place = format!("{FILE} exports[{index}]");
        if !is_known(&export.device) {
            report.wrong(&place, unknown(&export.device), CORRECT);
        }
        if stored.exports.iter().take(index).any(|other| other == export) {
            report.wrong(&place, format!("this export of {:?} is there twice", export.device), CORRECT);
        }
    }
    for (index, hidden) in stored.hidden.iter().enumerate() {
        let place = format!("{FILE} hidden[{index}]");
        if !is_known(&hidden.device) {
            report.wrong(&place, unknown(&hidden.device), CORRECT);
        }
        if stored.hidden.iter().take(index).any(|other| other == hidden) {
            report.wrong(&place, format!("{:?} is hidden there twice", hidden.device), CORRECT);
        }
    }
    let mut snapshots = BTreeSet::new();
    for (index, name) in stored.plain_snapshots.iter().enumerate() {
        let place = format!("{FILE} plain_snapshots[{index}]");
        if let Err(error) = check_name("snapshot", name) {
            report.wrong(&place, error.message, CORRECT);
        }
        if !snapshots.insert(name) {
            report.wrong(&place, format!("snapshot {name:?} is there twice"), CORRECT);
        }
    }
    for name in stored.tracker_sessions.keys() {
        if !tracked.contains(name.as_str()) {
            let what = format!("there is no device {name:?} that is tracked");
            report.wrong(format!("{FILE} tracker_sessions"), what, CORRECT);
        }
    }
}
