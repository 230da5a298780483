//! `bowline tour`: the main job from end to end, proved on this machine.
//!
//! Design notes: it is no mock. The daemon is a child process, `bowline serve`; snapshots and changes go through the
//! control socket as for any user, data over NBD by a client of its own (see `nbd`). What the disk must hold is known
//! from a model that never saw the daemon (see `model`): the original in memory and the numbers of the writes.
//! Whatever happens, the daemon and the temporary folder are gone in the end (see `workshop`).

mod disk;
mod folder;
mod image;
mod load;
mod model;
mod nbd;
mod proof;
mod report;
mod tag;
mod tool;
mod workshop;
mod writer;

use std::fmt::Display;

use bowline_client::Client;
use workshop::Workshop;

use crate::cli::{Failure, Output, Result};
use report::Report;

/// The name of the tour's snapshot.
const SNAPSHOT: &str = "tour";

/// Runs the whole tour; with `patterned`, on a disk without a file system.
pub(crate) fn run(patterned: bool, output: &mut Output<'_>) -> Result<()> {
    let mut report = Report::new(output);
    let workshop = Workshop::open()?;
    let done =
        steps(&workshop, patterned, &mut report).map_err(|failure| with_last_words(failure, &workshop));
    // What went wrong first is what counts.
    done.and(workshop.close())?;
    report.end(|took| {
        format!(
            "\nAll of it proved in {:.1} s; {} is removed. Next, with a disk of yours:\n\n\
             \x20 export BOWLINE_SOCKET=/tmp/bowline/control.sock\n\
             \x20 bowline serve disk.img &                           # prints where: any NBD client can use it\n\
             \x20 bowline snapshot take disk.img --name monday       # the image is the device monday/disk.img\n\
             \x20 bowline changes disk.img --since monday --map",
            took.as_secs_f64(),
            workshop.folder().display()
        )
    })
}

/// Every step in turn.
fn steps(workshop: &Workshop, patterned: bool, report: &mut Report<'_, '_>) -> Result<()> {
    let disk = disk::make(workshop.folder(), patterned)?;
    report.step("disk", &disk.about)?;
    let served = workshop.serve(&disk.path)?;
    let client = Client::connect(workshop.control_socket())?;
    report.step("serve", format_args!("{}  {}  (process {})", served.device, served.uri, served.process))?;
    let load = load::run(&client, &served, &disk, report)?;
    proof::of_image(workshop, &disk, &load, report)?;
    proof::of_changes(&client, &served, &disk, &load, report)?;
    client.snapshot_remove(SNAPSHOT)?;
    report.step("remove", format_args!("snapshot {SNAPSHOT}"))?;
    workshop.stop()?;
    proof::of_disk(&disk, &load, report)
}

/// The failure, and what the daemon logged last: the reason may be there.
fn with_last_words(failure: Failure, workshop: &Workshop) -> Failure {
    match (failure, workshop.last_words()) {
        (Failure::Failed(message), Some(words)) => {
            Failure::Failed(format!("{message} (the daemon logged last: {words})"))
        }
        (failure, _) => failure,
    }
}

/// `what failed: why: what to do`.
fn failed(what: impl Display, why: impl Display, hint: &str) -> Failure {
    Failure::Failed(format!("tour: {what}: {why}: {hint}"))
}

/// A failure nobody can do anything about but us.
fn ours(what: impl Display, why: impl Display) -> Failure {
    failed(what, why, "please report this")
}
