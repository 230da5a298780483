//! `bowline check`: whether a state folder is whole, and what is wrong with it.

use std::path::PathBuf;

use bowline_daemon::check::{Finding, Report, check};
use clap::Args;

use crate::cli::{Failure, Output, Result};

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  bowline check /var/lib/bowline\n\n\
                        No daemon may use the folder. Nothing in it is changed. Exit code 1 when something is wrong; \
                        with --json\nalso what is only worth knowing, as after a crash. docs/check.md says what can be \
                        found.")]
pub(crate) struct CheckArgs {
    /// What `bowline serve --state` was given
    state_dir: PathBuf,
}

impl CheckArgs {
    pub(crate) fn run(self, output: &mut Output<'_>) -> Result<()> {
        let report = check(&self.state_dir).map_err(|error| Failure::Failed(error.to_string()))?;
        output.show(&report, show)?;
        if report.ok {
            return Ok(());
        }
        output.flush()?;
        let count = u64::try_from(report.findings.len()).unwrap_or(u64::MAX).saturating_add(report.untold);
        let things =
            if count == 1 { "1 thing is wrong".to_owned() } else { format!("{count} things are wrong") };
        let folder = self.state_dir.display();
        Err(Failure::Failed(format!("check state folder {folder}: {things}: do what stdout says of each")))
    }
}

fn show(output: &mut Output<'_>, report: &Report) -> Result<()> {
    for Finding { place, what, hint } in &report.findings {
        output.line(format_args!("{place}: {what}: {hint}"))?;
    }
    if report.untold > 0 {
        output.line(format_args!("and {} more", report.untold))?;
    }
    if !report.ok {
        return Ok(());
    }
    let notes = match report.notes.len() {
        0 => String::new(),
        notes => format!(" ({notes} notes with --json)"),
    };
    output.line(format_args!(
        "{}: all is well: {} devices, {} trackers, {} journals with {} blocks{notes}",
        report.folder.display(),
        report.devices,
        report.trackers,
        report.journals,
        report.blocks
    ))
}

#[cfg(test)]
mod tests;
