//! `bowline status`: the daemon at a glance.

use std::time::Duration;

use bowline_api::Status;
use clap::Args;

use crate::cli::{Global, Output, Result, Table};

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  bowline status --json")]
pub(crate) struct StatusArgs {}

impl StatusArgs {
    pub(crate) fn run(self, global: &Global, output: &mut Output<'_>) -> Result<()> {
        let status = global.client()?.status()?;
        output.show(&status, |output, status| {
            output.table(&daemon(status))?;
            output.line("")?;
            output.table(&limits(status))?;
            output.line("")?;
            output.table(&super::device::list(&status.devices))?;
            if !status.absent.is_empty() {
                output.line("")?;
                output.table(&absent(status))?;
            }
            if !status.snapshots.is_empty() {
                output.line("")?;
                output.table(&super::snapshot::list(&status.snapshots))?;
            }
            Ok(())
        })
    }
}

fn daemon(status: &Status) -> Table {
    let mut table = Table::pairs();
    table.pair("version", &status.version);
    table.pair("engine", format_args!("{}, {} queues", status.engine, status.queues));
    table.pair("process", status.pid);
    table.pair("up for", format_args!("{:?}", Duration::from_secs(status.uptime_ms / 1000)));
    for address in &status.listen {
        table.pair("listens at", address);
    }
    table.pair("state", status.state.as_deref().unwrap_or("none: nothing outlives the daemon"));
    table.pair("exports", status.exports.len());
    table
}

fn absent(status: &Status) -> Table {
    let mut table = Table::new(&["ABSENT", "SOURCE", "REASON"]);
    for device in &status.absent {
        table.row([device.name.clone(), device.source.clone(), device.reason.clone()]);
    }
    table
}

fn limits(status: &Status) -> Table {
    let mut table = Table::new(&["LIMIT", ">USED", ">OF"]);
    for (name, limit) in &status.limits {
        table.row([name.clone(), limit.used.to_string(), limit.limit.to_string()]);
    }
    table
}
