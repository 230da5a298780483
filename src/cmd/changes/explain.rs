//! `bowline changes --explain`: which files of the mounted file system own what changed.
//!
//! Design notes: this asks the file system, and the file system asks the daemon for its blocks. So it is done here, in a
//! process of its own, where nobody waits for it: a daemon that walked a file system on its own device would wait for
//! itself. What is not yet allocated cannot be found, therefore the file system is synced first.

mod mount;

use std::fs::File;
use std::path::Path;

use bowline_api::units::ByteSize;
use bowline_api::{Changes, Extent};
use bowline_block::ByteRange;
use bowline_client::{ChangesPages, Client};
use bowline_kernel::explain::{ByteOwner, EXTENTS_MAX, Explanation, Limits, Share, explain};
use serde::Serialize;

use super::walk::{Sink, Totals, walk};
use crate::cli::{Failure, Output, Result, Table};

pub(super) use mount::Place;

/// What changed, all of it: an explanation sorts it by who owns it, not by where it is.
#[derive(Default)]
struct Collected {
    head: Option<Changes>,
    extents: Vec<ByteRange>,
}

impl Sink for Collected {
    fn begin(&mut self, _: &Changes) -> Result<()> {
        Ok(())
    }

    fn extent(&mut self, extent: Extent) -> Result<()> {
        if self.extents.len() >= EXTENTS_MAX {
            return Err(Failure::Failed(format!(
                "explain changes: there are more than {EXTENTS_MAX} extents: ask for a shorter interval"
            )));
        }
        self.extents.push(ByteRange::new(extent.offset, extent.length));
        Ok(())
    }

    fn end(&mut self, head: &Changes, _: &Totals) -> Result<()> {
        self.head = Some(head.clone());
        Ok(())
    }
}

/// The one JSON document.
#[derive(Debug, Serialize)]
struct Explained {
    device: String,
    since: Option<String>,
    until: Option<String>,
    bytes: u64,
    /// The mount point of the file system that was asked.
    mount: String,
    owners: Vec<Owner>,
    /// Why not every file was looked at, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    incomplete: Option<String>,
}

/// Who owns how much of what changed.
#[derive(Debug, Serialize)]
struct Owner {
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    what: Option<&'static str>,
    bytes: u64,
    extents: u64,
}

impl Owner {
    fn of(share: &Share) -> Self {
        let (kind, path, what) = match &share.owner {
            ByteOwner::File(path) => ("file", Some(path.to_string_lossy().into_owned()), None),
            ByteOwner::OtherFiles => ("other-files", None, None),
            ByteOwner::Metadata(what) => ("metadata", None, Some(*what)),
            ByteOwner::Free => ("free", None, None),
            ByteOwner::Unknown => ("unknown", None, None),
            ByteOwner::Outside => ("outside", None, None),
        };
        Owner { kind, path, what, bytes: share.bytes, extents: share.extents }
    }
}

/// Explains the changes that `pages` tell of, by the file system at `place`.
pub(super) fn tell(pages: ChangesPages<'_>, place: &Place, output: &mut Output<'_>) -> Result<()> {
    let mut collected = Collected::default();
    walk(pages, &mut [&mut collected])?;
    let Some(head) = collected.head else { return Ok(()) };
    let failed = |error: &dyn std::fmt::Display, hint: &str| {
        let what = format!("explain changes of {} by {}", head.device, place.path.display());
        Failure::Failed(format!("{what}: {error}: {hint}"))
    };
    let offset = place.offset_in(head.size).map_err(|why| failed(&why, mount::HINT))?;
    let explanation = explain(&place.path, offset, &collected.extents, Limits::default());
    let explanation = explanation.map_err(|error| match error.kind() {
        bowline_block::ErrorKind::Denied => failed(&error, "run it as root"),
        _ => failed(&error, "see `bowline changes --help` for what can be explained"),
    })?;
    show(&head, &place.path, &explanation, output)
}

/// Where the changes of a device are to be explained: at `given`, or where the daemon finds it mounted.
pub(super) fn place(
    client: &Client,
    device: &str,
    params: &bowline_api::changes::ChangesParams,
    given: Option<&Path>,
) -> Result<Place> {
    let place = match given {
        Some(path) => Place::given(path),
        None => mount::find(client, device, params),
    }?;
    // Files whose blocks are not chosen yet have no place that could be found. It takes part in what changed until now.
    let synced = File::open(&place.path).and_then(|root| Ok(rustix::fs::syncfs(root)?));
    synced.map_err(|error| {
        let what = format!("explain changes of {device}: sync the file system at {}", place.path.display());
        Failure::Failed(format!("{what}: {error}: run it as root, where the mount can be seen"))
    })?;
    Ok(place)
}

fn show(head: &Changes, mount: &Path, explanation: &Explanation, output: &mut Output<'_>) -> Result<()> {
    let explained = Explained {
        device: head.device.clone(),
        since: head.since.clone(),
        until: head.until.clone(),
        bytes: explanation.bytes,
        mount: mount.to_string_lossy().into_owned(),
        owners: explanation.shares.iter().map(Owner::of).collect(),
        incomplete: explanation.incomplete.clone(),
    };
    output.show(&explained, |output, _| {
        let mut table = Table::new(&["OWNER", ">BYTES", ">SIZE", ">EXTENTS"]);
        for share in &explanation.shares {
            table.row([
                share.owner.to_string(),
                share.bytes.to_string(),
                ByteSize(share.bytes).human(),
                share.extents.to_string(),
            ]);
        }
        output.table(&table)?;
        let extents = explanation.shares.iter().map(|share| share.extents).sum();
        let totals = Totals { bytes: explanation.bytes, extents, zero_bytes: 0 };
        output.line(super::summary(head, &totals))?;
        match &explanation.incomplete {
            Some(why) => output.line(format_args!("incomplete: {why}; what others own is unknown")),
            None => Ok(()),
        }
    })
}

#[cfg(test)]
mod tests;
