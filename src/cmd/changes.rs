//! `bowline changes`: which bytes of a device changed, and since when.

mod map;

use bowline_api::Changes;
use bowline_api::changes::ChangesParams;
use bowline_api::units::ByteSize;
use clap::Args;

pub(crate) use map::draw;

use crate::cli::{Failure, Global, Output, Result, Table};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  bowline changes root --since nightly\n  \
                        bowline changes root --since nightly --map\n  \
                        bowline changes root --since nightly --raw")]
pub(crate) struct ChangesArgs {
    /// A device, or an image SNAPSHOT/DEVICE
    device: String,
    /// A snapshot, or the number of an epoch [default: what is not known to be a hole or zero]
    #[arg(long, value_name = "SNAPSHOT|EPOCH")]
    since: Option<String>,
    /// The snapshot that ends the interval [default: now]
    #[arg(long, value_name = "SNAPSHOT")]
    until: Option<String>,
    /// The generation of an epoch; fail where the device has another one, since then everything must be read
    #[arg(long, value_name = "UUID")]
    generation: Option<String>,
    /// Draw the device, one character for each piece of it
    #[arg(long, conflicts_with = "raw")]
    map: bool,
    /// Print one `OFFSET LENGTH` a line, in bytes
    #[arg(long)]
    raw: bool,
}

impl ChangesArgs {
    pub(crate) fn run(self, global: &Global, output: &mut Output<'_>) -> Result<()> {
        if output.is_json() && (self.map || self.raw) {
            let message =
                "--json is given together with --map or --raw: choose one; see `bowline changes --help`";
            return Err(Failure::Usage(message.to_owned()));
        }
        let params = ChangesParams { since: self.since, until: self.until, generation: self.generation };
        let changes = global.client()?.changes(&self.device, &params)?;
        if self.raw {
            return raw(&changes, output);
        }
        if self.map {
            return draw(&changes, output);
        }
        output.show(&changes, |output, changes| {
            output.table(&table(changes))?;
            output.line(summary(changes))
        })
    }
}

fn raw(changes: &Changes, output: &mut Output<'_>) -> Result<()> {
    changes
        .extents
        .iter()
        .try_for_each(|extent| output.line(format_args!("{} {}", extent.offset, extent.length)))
}

fn table(changes: &Changes) -> Table {
    let mut table = Table::new(&[">OFFSET", ">LENGTH", ">SIZE"]);
    for extent in &changes.extents {
        table.row([extent.offset.to_string(), extent.length.to_string(), ByteSize(extent.length).human()]);
    }
    table
}

/// `disk: 12K of 64M changed since s1, in 3 extents`.
fn summary(changes: &Changes) -> String {
    let bytes = format!("{} of {}", ByteSize(changes.bytes).human(), ByteSize(changes.size).human());
    let what = match &changes.since {
        Some(since) => format!("{bytes} changed since {since}"),
        None => format!("{bytes} in use"),
    };
    let until = changes.until.as_ref().map(|until| format!(" until {until}")).unwrap_or_default();
    format!("{}: {what}{until}, in {} extents", changes.device, changes.extents.len())
}

#[cfg(test)]
mod tests;
