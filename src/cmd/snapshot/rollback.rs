//! `bowline snapshot rollback`: begins it, and stays until it has ended.

use std::collections::BTreeMap;
use std::time::Duration;

use bowline_api::{Rollback, RollbackState, Snapshot};
use bowline_client::Client;
use clap::Args;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::tell::rollback_line;
use crate::cli::{Failure, Global, Output, Result};

/// How often the daemon is asked how far it is.
const TICK: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub(crate) struct Back {
    /// A snapshot
    name: String,
    /// The devices that shall go back [default: all of the snapshot]
    #[arg(value_name = "DEVICE")]
    devices: Vec<String>,
    /// Leave once it is begun: `bowline snapshot show` tells how far it is
    #[arg(long)]
    no_wait: bool,
}

impl Back {
    pub(super) fn run(self, global: &Global, output: &mut Output<'_>) -> Result<()> {
        let client = global.client()?;
        let mut snapshot = client.snapshot_rollback(&self.name, &self.devices)?;
        if !self.no_wait {
            snapshot = self.wait(&client, snapshot)?;
        }
        output.show(&snapshot, |output, snapshot| {
            let going_well = |one: &&Rollback| one.state != RollbackState::Failed;
            self.of(snapshot).filter(going_well).try_for_each(|one| output.line(rollback_line(one)))
        })?;
        let failed = self.of(&snapshot).find(|rollback| rollback.state == RollbackState::Failed);
        match failed {
            None => Ok(()),
            Some(Rollback { device, reason, .. }) => Err(Failure::Failed(format!(
                "roll back {device} to {}: {}: remove the cause, and roll back again",
                self.name,
                reason.as_deref().unwrap_or("no reason is given")
            ))),
        }
    }

    /// The rollbacks that were asked for.
    fn of<'a>(&'a self, snapshot: &'a Snapshot) -> impl Iterator<Item = &'a Rollback> {
        let all = self.devices.is_empty();
        snapshot.rollback.iter().filter(move |rollback| all || self.devices.contains(&rollback.device))
    }

    fn wait(&self, client: &Client, mut snapshot: Snapshot) -> Result<Snapshot> {
        let bars = Bars::new();
        loop {
            self.of(&snapshot).for_each(|rollback| bars.show(rollback));
            if self.of(&snapshot).all(|rollback| rollback.state != RollbackState::Running) {
                return Ok(snapshot);
            }
            std::thread::sleep(TICK);
            snapshot = client.snapshot_show(&self.name)?;
        }
    }
}

/// A bar for each device, on stderr, where that is a terminal.
struct Bars {
    all: MultiProgress,
    each: std::cell::RefCell<BTreeMap<String, ProgressBar>>,
}

impl Bars {
    fn new() -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        Bars { all, each: std::cell::RefCell::default() }
    }

    fn show(&self, rollback: &Rollback) {
        let mut each = self.each.borrow_mut();
        let bar = each.entry(rollback.device.clone()).or_insert_with(|| {
            let bar = self.all.add(ProgressBar::new(rollback.total));
            if let Ok(style) =
                ProgressStyle::with_template("{prefix} [{bar:30}] {bytes} of {total_bytes}, {eta} left")
            {
                bar.set_style(style);
            }
            bar.with_prefix(rollback.device.clone())
        });
        bar.set_length(rollback.total);
        bar.set_position(rollback.done);
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        let _ = self.all.clear();
    }
}
