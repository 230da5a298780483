//! `bowline check`: a state folder looked at while no daemon uses it.
//!
//! Design notes: nothing is written and no file made, so it may be run on anything that looks like a state folder, also on
//! a copy or a read-only mount. It reads with the code that a start reads with, and goes on behind what it finds: one run
//! tells everything. All that is in the folder is untrusted.

mod document;
mod folder;
mod rollbacks;
mod snapshots;
mod trackers;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bowline_api::{ApiError, ErrorKind};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::Serialize;

use crate::error::failed_io;
use crate::rollback::FOLDER as ROLLBACKS;
use crate::snapshot::kept::FOLDER as JOURNALS;
use crate::state::{FILE, LOCK};
use crate::tracking::files::FOLDER as TRACKERS;

/// Findings that are told; the rest is counted.
const FINDINGS_MAX: usize = 1000;
/// What is done about a file that nobody knows.
const REMOVE: &str = "remove it, or move it elsewhere";

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The file, by its name in the folder, and the part of it.
    #[serde(rename = "where")]
    pub place: String,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub hint: String,
}

/// Something that is worth knowing, and nothing wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Note {
    /// The file, by its name in the folder.
    #[serde(rename = "where")]
    pub place: String,
    /// What is to be known.
    pub what: String,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The folder.
    pub folder: PathBuf,
    /// Whether all is well.
    pub ok: bool,
    /// Everything that is wrong, or the first thousand of it.
    pub findings: Vec<Finding>,
    /// How much more is wrong.
    pub untold: u64,
    /// What is worth knowing.
    pub notes: Vec<Note>,
    /// Devices in the document.
    pub devices: usize,
    /// Trackers looked at.
    pub trackers: usize,
    /// Journals of persistent snapshots looked at.
    pub journals: usize,
    /// Blocks of 4 KiB of persistent snapshots whose contents were compared with their checksums.
    pub blocks: u64,
}

impl Report {
    fn wrong(&mut self, place: impl Into<String>, what: impl Into<String>, hint: impl Into<String>) {
        if self.findings.len() >= FINDINGS_MAX {
            self.untold += 1;
            return;
        }
        let line = |text: String| bowline_api::error::one_line(&text);
        self.findings.push(Finding {
            place: line(place.into()),
            what: line(what.into()),
            hint: line(hint.into()),
        });
    }

    fn note(&mut self, place: impl Into<String>, what: impl Into<String>) {
        if self.notes.len() < FINDINGS_MAX {
            let what = bowline_api::error::one_line(&what.into());
            self.notes.push(Note { place: place.into(), what });
        }
    }
}

/// Looks at everything in a state folder.
///
/// # Errors
/// When it is none, cannot be read, or a daemon uses it. What is wrong in it is in the report.
pub fn check(path: &Path) -> Result<Report, ApiError> {
    let what = format!("check state folder {}", path.display());
    let hint = "name the folder that `bowline serve --state` was given";
    let found = std::fs::metadata(path).map_err(|error| {
        let kind = match error.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            std::io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
            _ => ErrorKind::Io,
        };
        ApiError::new(kind, &what, error, hint)
    })?;
    if !found.is_dir() {
        return Err(ApiError::invalid(what, "it is a file, not a folder", hint));
    }
    let lock = lock(path, &what)?;
    let mut report = Report { folder: path.to_owned(), ..Report::default() };
    let names = folder::names(path).map_err(|error| failed_io(&what, error))?;
    if lock.is_none() && !names.iter().any(|name| name == FILE) {
        let why = format!("it has neither {LOCK} nor {FILE}: it is no state folder");
        return Err(ApiError::invalid(what, why, hint));
    }
    let stored = document::check(path, &mut report);
    trackers::check(path, stored.as_ref(), &mut report);
    let stores = snapshots::check(path, stored.as_ref(), &mut report);
    rollbacks::check(path, stored.as_ref(), &mut report);
    for name in &names {
        top(path, name, &stores, &mut report);
    }
    report.ok = report.findings.is_empty();
    drop(lock);
    Ok(report)
}

/// Keeps daemons out as long as it lives; `None` where there is no lock file, and so none ever used the folder.
fn lock(path: &Path, what: &str) -> Result<Option<File>, ApiError> {
    // It may be anything: one that is a pipe would wait for ever.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path.join(LOCK)) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed_io(what, error)),
    };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::WOULDBLOCK) => {
            let hint = "stop that daemon first, or check a copy that was made while it was stopped";
            Err(ApiError::new(ErrorKind::Busy, what, "a daemon uses it", hint))
        }
        Err(error) => Err(failed_io(what, error.into())),
    }
}

/// What lies in the folder itself.
fn top(path: &Path, name: &str, stores: &[PathBuf], report: &mut Report) {
    let full = path.join(name);
    let found = std::fs::metadata(&full);
    let is_folder = found.as_ref().is_ok_and(std::fs::Metadata::is_dir);
    match name {
        LOCK | FILE => {}
        "state.json.new" => report.note(name, "it is left from a save that was cut short, and ignored"),
        TRACKERS | JOURNALS | ROLLBACKS if is_folder => {}
        TRACKERS | JOURNALS | ROLLBACKS => report.wrong(name, "it is no folder", REMOVE),
        // Sockets of a daemon may be anywhere.
        _ if found.is_ok_and(|found| found.file_type().is_socket()) => {}
        _ if stores.iter().any(|store| std::fs::canonicalize(&full).is_ok_and(|full| full == *store)) => {}
        _ => report.wrong(name, "it belongs to nothing", REMOVE),
    }
}

#[cfg(test)]
mod tests;
