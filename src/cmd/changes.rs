//! `bowline changes`: which bytes of a device changed, and since when.
//!
//! Design notes: an answer can have millions of extents, so it is read page by page (`walk`) and handed on piece by piece
//! to whoever prints or draws it; nobody here holds all of it.

mod bytes;
mod density;
mod document;
mod explain;
mod map;
mod picture;
mod text;
mod walk;

use std::path::PathBuf;

use bowline_api::changes::ChangesParams;
use bowline_api::units::ByteSize;
use bowline_api::{Changes, ChangesMark};
use clap::{Args, Subcommand, ValueEnum};

pub(crate) use map::draw;

use crate::cli::{Failure, Global, Output, Result};
use density::Density;
use walk::{Sink, Totals, walk};

#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Examples:\n  bowline changes root --since nightly\n  \
                  bowline changes root --since nightly --map\n  \
                  bowline changes root --since nightly --png root.png\n  \
                  bowline changes root --since nightly --explain --mount /mnt/root\n  \
                  bowline changes root --since 7 --until 9 --generation 6f2b0a52-94f5-4f3c-8a17-5d1f2b8d9c01\n  \
                  bowline changes root --since nightly --raw=bytes > root.changes"
)]
pub(crate) struct ChangesArgs {
    #[command(subcommand)]
    verb: Option<ChangesVerb>,
    /// A device, or an image SNAPSHOT/DEVICE
    #[arg(required = true)]
    device: Option<String>,
    /// A snapshot, or the number of an epoch [default: what is not known to be a hole or zero]
    #[arg(long, value_name = "SNAPSHOT|EPOCH")]
    since: Option<String>,
    /// The snapshot or epoch that ends the interval [default: now]
    #[arg(long, value_name = "SNAPSHOT|EPOCH")]
    until: Option<String>,
    /// The generation of an epoch; fail where the device has another one, since then everything must be read
    #[arg(long, value_name = "UUID")]
    generation: Option<String>,
    /// Draw the device, one character for each piece of it
    #[arg(long, conflicts_with = "raw")]
    map: bool,
    /// Draw the device into a PNG file, along a Hilbert curve: what is near on the device is near in the picture
    #[arg(long, value_name = "FILE")]
    png: Option<PathBuf>,
    /// For scripts: one `OFFSET LENGTH` a line, or bytes as docs/format/changes-raw.md has them [default: lines]
    #[arg(long, value_name = "FORM", num_args = 0..=1, require_equals = true, default_missing_value = "lines")]
    raw: Option<RawForm>,
    /// Name the files that own what changed, by the ext2, ext3, ext4 or xfs that is mounted from the device, or from its
    /// image at an end of the interval (that of --since names what was overwritten or deleted). Needs root
    #[arg(long, conflicts_with_all = ["map", "png", "raw"])]
    explain: bool,
    /// Where that is mounted, on a block device that is the device or a partition of it [default: asks the daemon]
    #[arg(long, value_name = "PATH", requires = "explain")]
    mount: Option<PathBuf>,
    /// Begin with the extent that ends after this byte
    #[arg(long, value_name = "OFFSET")]
    offset: Option<ByteSize>,
}

#[derive(Debug, Subcommand)]
enum ChangesVerb {
    /// Count a range of a tracked device as changed
    #[command(after_help = "Example:\n  bowline changes mark root 1M 64K")]
    Mark {
        /// A device
        device: String,
        /// First byte
        offset: ByteSize,
        /// Bytes
        length: ByteSize,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RawForm {
    Lines,
    Bytes,
}

/// The answer of `changes mark`.
#[derive(serde::Serialize)]
struct Marked<'a> {
    device: &'a str,
    marked: ChangesMark,
}

impl ChangesArgs {
    pub(crate) fn run(mut self, global: &Global, output: &mut Output<'_>) -> Result<()> {
        match (self.verb.take(), self.device.take()) {
            (Some(ChangesVerb::Mark { device, offset, length }), _) => {
                let marked = ChangesMark { offset: offset.0, length: length.0 };
                global.client()?.changes_mark(&device, marked)?;
                output.show(&Marked { device: &device, marked }, |_, _| Ok(()))
            }
            (None, Some(device)) => self.tell(&device, global, output),
            (None, None) => {
                Err(Failure::Usage("no device is named: see `bowline changes --help`".to_owned()))
            }
        }
    }

    fn tell(self, device: &str, global: &Global, output: &mut Output<'_>) -> Result<()> {
        let see = "see `bowline changes --help`";
        if output.is_json() && (self.map || self.raw.is_some()) {
            let message = format!("--json is given together with --map or --raw: choose one; {see}");
            return Err(Failure::Usage(message));
        }
        if self.raw == Some(RawForm::Bytes) && output.screen().terminal {
            let message =
                format!("--raw=bytes on a terminal: it is not for eyes, redirect it to a file; {see}");
            return Err(Failure::Usage(message));
        }
        let offset = self.offset.map(|ByteSize(offset)| i64::try_from(offset).unwrap_or(i64::MAX));
        let Self { since, until, generation, .. } = self;
        let params = ChangesParams { since, until, generation, offset, max_results: None };
        let client = global.client()?;
        if self.explain {
            let place = explain::place(&client, device, &params, self.mount.as_deref())?;
            return explain::tell(client.changes_pages(device, params), &place, output);
        }
        let pages = client.changes_pages(device, params);
        let mut picture = self.png.as_ref().map(|_| Density::for_picture());
        let (json, png_only) = (output.is_json(), self.png.is_some() && !self.map);
        let shown: &mut dyn Sink = match self.raw {
            Some(RawForm::Lines) => &mut text::Lines::new(output),
            Some(RawForm::Bytes) => &mut bytes::Bytes::new(output),
            None if json => &mut document::Document::new(output),
            None if self.map => &mut map::Map::new(output),
            None if png_only => &mut text::Summary(output),
            None => &mut text::People::new(output),
        };
        let mut sinks = vec![shown];
        sinks.extend(picture.as_mut().map(|density| density as &mut dyn Sink));
        walk(pages, &mut sinks)?;
        match (self.png, picture) {
            (Some(file), Some(density)) => picture::save(&file, &density),
            _ => Ok(()),
        }
    }
}

/// `disk: 12K of 64M changed since s1, in 3 extents`.
fn summary(head: &Changes, totals: &Totals) -> String {
    let bytes = format!("{} of {}", ByteSize(totals.bytes).human(), ByteSize(head.size).human());
    let what = match &head.since {
        Some(since) => format!("{bytes} changed since {since}"),
        None => format!("{bytes} in use"),
    };
    let until = head.until.as_ref().map(|until| format!(" until {until}")).unwrap_or_default();
    let zero = match totals.zero_bytes {
        0 => String::new(),
        zero => format!(", of which {} read as zeroes", ByteSize(zero).human()),
    };
    format!("{}: {what}{until}, in {} extents{zero}", head.device, totals.extents)
}

#[cfg(test)]
mod tests;
