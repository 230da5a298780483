//! The verbs, one file each: its arguments, and what it does with them.

mod changes;
mod check;
mod completions;
mod device;
mod events;
mod export;
mod serve;
mod snapshot;
mod status;
mod tour;

use clap::Subcommand;

pub(crate) use changes::draw as draw_changes;

use crate::cli::{Global, Output, Result};

/// A verb of the command line.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Show the main job from end to end: serve a disk, snapshot it under load, prove the image, draw the changes
    Tour(tour::TourArgs),
    /// Run the daemon in the foreground, and export the disks named
    Serve(serve::Serve),
    /// Add, list, show, remove and resize devices
    #[command(subcommand, after_help = "Example:\n  bowline device list")]
    Device(device::DeviceVerb),
    /// Make devices and images reachable
    #[command(subcommand, after_help = "Example:\n  bowline export list")]
    Export(export::ExportVerb),
    /// Take, list, show and remove snapshots
    #[command(subcommand, after_help = "Example:\n  bowline snapshot list")]
    Snapshot(snapshot::SnapshotVerb),
    /// Tell what changed on a device
    Changes(changes::ChangesArgs),
    /// Verify a state folder that no daemon uses
    Check(check::CheckArgs),
    /// Print what happened, one JSON object a line
    Events(events::EventsArgs),
    /// Tell about the daemon: version, engine, limits and their use, devices, snapshots
    Status(status::StatusArgs),
    /// Print a completion script for a shell
    Completions(completions::CompletionsArgs),
}

impl Verb {
    pub(crate) fn run(self, global: &Global, output: &mut Output<'_>) -> Result<()> {
        match self {
            Verb::Tour(args) => args.run(output),
            Verb::Serve(serve) => serve.run(global),
            Verb::Device(verb) => verb.run(global, output),
            Verb::Export(verb) => verb.run(global, output),
            Verb::Snapshot(verb) => verb.run(global, output),
            Verb::Changes(args) => args.run(global, output),
            Verb::Check(args) => args.run(output),
            Verb::Events(args) => args.run(global, output),
            Verb::Status(args) => args.run(global, output),
            Verb::Completions(args) => args.run(output),
        }
    }
}

/// The answer of a verb that removes something.
#[derive(serde::Serialize)]
struct Removed<'a> {
    removed: &'a str,
}

/// Tells that `name` is removed: to scripts, since to people silence says it.
fn removed(output: &mut Output<'_>, name: &str) -> Result<()> {
    output.show(&Removed { removed: name }, |_, _| Ok(()))
}

/// `ro` or `rw`.
fn mode(read_only: bool) -> String {
    if read_only { "ro".to_owned() } else { "rw".to_owned() }
}
