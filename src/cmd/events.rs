//! `bowline events`: what happened, as it happens.

use std::ops::ControlFlow;

use bowline_api::EventId;
use clap::Args;

use crate::cli::{Global, Output, Result};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  bowline events\n  bowline events --follow --since 100")]
pub(crate) struct EventsArgs {
    /// Stay, and print events as they happen
    #[arg(long)]
    follow: bool,
    /// Only events after this one
    #[arg(long, value_name = "ID", default_value_t)]
    since: EventId,
}

impl EventsArgs {
    pub(crate) fn run(self, global: &Global, output: &mut Output<'_>) -> Result<()> {
        let client = global.client()?;
        if !self.follow {
            return client.events(self.since, None)?.iter().try_for_each(|event| output.json_line(event));
        }
        let mut printed = Ok(());
        client.follow_events(self.since, |event| {
            printed = output.json_line(&event);
            if printed.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        printed
    }
}
