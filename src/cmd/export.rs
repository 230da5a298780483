//! `bowline export`: devices made reachable.

use bowline_api::{Export, ExportAdd, ExportKind, ListenAddr};
use clap::{Args, Subcommand};

use super::{mode, removed};
use crate::cli::{Global, Output, Result, Table, absolute};

#[derive(Debug, Subcommand)]
pub(crate) enum ExportVerb {
    /// Export a device or image, and print its URI
    #[command(after_help = "Examples:\n  bowline export add root --nbd\n  \
                            bowline export add nightly/root --nbd unix:/run/nightly.sock --read-only")]
    Add(Add),
    /// List exports
    #[command(after_help = "Example:\n  bowline export list --json")]
    List,
    /// Remove an export, closing its connections
    #[command(after_help = "Example:\n  bowline export remove 1")]
    Remove {
        /// The id that `bowline export list` shows
        id: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Add {
    /// A device, or an image SNAPSHOT/DEVICE
    device: String,
    /// Over NBD; ADDR is unix:PATH or tcp:HOST:PORT [default: the daemon's listener]
    #[arg(long, value_name = "ADDR", num_args = 0..=1, required = true)]
    nbd: Option<Option<ListenAddr>>,
    /// Refuse writes on this export
    #[arg(long)]
    read_only: bool,
}

impl Add {
    fn request(self) -> Result<ExportAdd> {
        let address = match self.nbd.flatten() {
            Some(ListenAddr::Unix(path)) => Some(ListenAddr::Unix(absolute(&path)?)),
            other => other,
        };
        Ok(ExportAdd { device: self.device, kind: ExportKind::Nbd, address, read_only: self.read_only })
    }
}

impl ExportVerb {
    pub(crate) fn run(self, global: &Global, output: &mut Output<'_>) -> Result<()> {
        match self {
            ExportVerb::Add(add) => {
                let export = global.client()?.export_add(&add.request()?)?;
                output.show(&export, |output, export| output.line(&export.uri))
            }
            ExportVerb::List => {
                let exports = global.client()?.export_list()?;
                output.show(exports.as_slice(), |output, exports| output.table(&list(exports)))
            }
            ExportVerb::Remove { id } => {
                global.client()?.export_remove(&id)?;
                removed(output, &id)
            }
        }
    }
}

/// The table of `export list`.
fn list(exports: &[Export]) -> Table {
    let mut table = Table::new(&["ID", "DEVICE", "KIND", "MODE", ">CLIENTS", "URI"]);
    for export in exports {
        table.row([
            export.id.clone(),
            export.device.clone(),
            match export.kind {
                ExportKind::Nbd => "nbd".to_owned(),
            },
            mode(export.read_only),
            export.clients.to_string(),
            export.uri.clone(),
        ]);
    }
    table
}
