//! Block status: extents of every context that was selected, one chunk each.

use std::sync::Arc;

use bowline_block::{Buf, ByteRange, Error, ErrorKind, ExtentKind, Result, Store};
use bowline_device::Device;
use bowline_nbd::transmission::reply::{MAX_HEADER, block_status_size};
use bowline_nbd::wire::allocation;
use bowline_nbd::{
    BlockStatusFilter, CommandFlags, Extent, ReplyForm, ReplyWriter, RequestHead, RequestLimits, WireError,
};

use super::contexts::{Context, Source};
use super::fit::fit;
use crate::bitmaps::DirtyBitmap;

/// Extents of one reply, those of all contexts together; a client asks again for what lies behind them.
const EXTENTS_MAX: usize = 4096;
/// What a query may hold.
pub(super) const COST: usize = 192 << 10;
/// The flag of a dirty bitmap's extent.
const DIRTY: u64 = 1;

/// A query that has been checked.
pub(super) struct Query {
    range: ByteRange,
    contexts: Vec<Context>,
    one: bool,
}

impl Query {
    /// Checks a query against what was negotiated.
    pub(super) fn new(
        head: &RequestHead,
        payload: &[u8],
        limits: &RequestLimits,
        selected: &[Context],
    ) -> std::result::Result<Self, (WireError, &'static str)> {
        let one = head.flags.contains(CommandFlags::REQ_ONE);
        if !head.flags.contains(CommandFlags::PAYLOAD_LEN) {
            let range = ByteRange::new(head.offset, head.length);
            return Ok(Self { range, contexts: selected.to_vec(), one });
        }
        let filter = BlockStatusFilter::parse(payload).map_err(|error| (error, "malformed filter"))?;
        limits
            .check_status_range(head.offset, filter.length)
            .map_err(|error| (error, "the filter's range is outside the export"))?;
        let mut contexts: Vec<Context> = Vec::new();
        for id in filter.contexts() {
            let known = selected.iter().find(|context| context.id == id);
            let Some(context) = known.filter(|_| contexts.iter().all(|wanted| wanted.id != id)) else {
                return Err((WireError::Invalid, "a context that was not selected, or twice"));
            };
            contexts.push(context.clone());
        }
        Ok(Self { range: ByteRange::new(head.offset, filter.length), contexts, one })
    }

    /// Extents that one context may have in the reply.
    fn extents_max(&self) -> usize {
        if self.one { 1 } else { (EXTENTS_MAX / self.contexts.len().max(1)).max(1) }
    }
}

/// Asks the device and its bitmaps, and writes the reply.
pub(super) async fn answer(
    device: Arc<Device>,
    query: Query,
    form: ReplyForm,
    writer: ReplyWriter,
) -> Result<Buf> {
    if device.is_gone() {
        return Err(Error::new(ErrorKind::Gone, "the device was removed"));
    }
    let max = query.extents_max();
    let mut found = Vec::with_capacity(query.contexts.len());
    for context in &query.contexts {
        let extents = match &context.source {
            Source::Allocation => allocated(&device, query.range, max).await?,
            Source::Bitmap(bitmap) => {
                let unit = device.geometry().block_size.bytes();
                dirty(&**bitmap, query.range, unit, max).map_err(|error| unanswered(context, &error))?
            }
            Source::Lost => {
                return Err(unanswered(
                    context,
                    &"the export became another device while the client connected",
                ));
            }
        };
        found.push(extents);
    }
    write(&query, &found, form, writer)
}

/// The reply. A query that asks about no context is answered with nothing.
fn write(query: &Query, found: &[Vec<Extent>], form: ReplyForm, writer: ReplyWriter) -> Result<Buf> {
    let size: usize = found.iter().map(|extents| block_status_size(form, extents.len())).sum();
    let mut reply = bowline_io::alloc(size + MAX_HEADER);
    let mut at = 0;
    for (index, (context, extents)) in query.contexts.iter().zip(found).enumerate() {
        let last = index + 1 == query.contexts.len();
        let room = reply.get_mut(at..).unwrap_or_default();
        let (count, _) = writer.block_status(room, context.id, extents, last).map_err(unfit)?;
        at += count;
    }
    if query.contexts.is_empty() {
        at = writer.none(&mut reply).map_err(unfit)?;
    }
    reply.set_len(at);
    Ok(reply)
}

fn unfit(_: bowline_nbd::NoRoom) -> Error {
    Error::new(ErrorKind::Io, "the extents do not fit the reply")
}

/// What `base:allocation` says: a block that is data in part is data.
async fn allocated(device: &Arc<Device>, range: ByteRange, max: usize) -> Result<Vec<Extent>> {
    let list = device.extents(range, max).await?;
    let unit = device.geometry().block_size.bytes();
    let pieces = list.as_slice().iter().map(|extent| (extent.range.len(), flags(extent.kind)));
    let mut extents = fit(range, unit, max, pieces, |one, other| one & other, 0);
    if extents.is_empty() {
        extents.push(Extent { length: range.len(), flags: 0 });
    }
    Ok(extents)
}

/// What a bitmap says: a block that is dirty in part is dirty.
fn dirty(bitmap: &dyn DirtyBitmap, range: ByteRange, unit: u64, max: usize) -> Result<Vec<Extent>> {
    let found = bitmap.extents(range, max)?;
    let pieces = found.iter().map(|extent| (extent.length, if extent.dirty { DIRTY } else { 0 }));
    let extents = fit(range, unit, max, pieces, |one, other| one | other, DIRTY);
    if extents.is_empty() {
        // Saying nothing would read as clean to some clients.
        return Err(Error::new(ErrorKind::Io, "it gave no extents"));
    }
    Ok(extents)
}

/// The error of a bitmap that has no answer: of the query, never of the connection, and never "clean".
fn unanswered(context: &Context, error: &dyn std::fmt::Display) -> Error {
    Error::new(ErrorKind::Io, format!("{} cannot be answered, read everything: {error}", context.name))
}

/// The flags of `base:allocation`.
fn flags(kind: ExtentKind) -> u64 {
    u64::from(match kind {
        ExtentKind::Data => 0,
        ExtentKind::Hole => allocation::HOLE | allocation::ZERO,
        ExtentKind::Zero => allocation::ZERO,
    })
}
