//! Block status: what is allocated, as extents.

use std::sync::Arc;

use bowline_block::{Buf, ByteRange, Error, ErrorKind, ExtentKind, Result, Store};
use bowline_device::Device;
use bowline_nbd::meta::BASE_ALLOCATION;
use bowline_nbd::transmission::reply::{MAX_HEADER, block_status_size};
use bowline_nbd::wire::allocation;
use bowline_nbd::{
    BlockStatusFilter, CommandFlags, ContextId, Extent, ReplyForm, ReplyWriter, RequestHead, RequestLimits,
    SelectedContext, WireError,
};

/// Extents of one reply; a client asks again for what lies behind them.
const EXTENTS_MAX: usize = 4096;
/// What a query may hold.
pub(super) const COST: usize = 128 << 10;

/// The contexts an export offers.
pub(crate) fn offered() -> Vec<String> {
    vec![BASE_ALLOCATION.to_owned()]
}

/// A query that has been checked.
pub(super) struct Query {
    range: ByteRange,
    contexts: Vec<ContextId>,
    one: bool,
}

impl Query {
    /// Checks a query against what was negotiated.
    pub(super) fn new(
        head: &RequestHead,
        payload: &[u8],
        limits: &RequestLimits,
        selected: &[SelectedContext],
    ) -> std::result::Result<Self, (WireError, &'static str)> {
        let one = head.flags.contains(CommandFlags::REQ_ONE);
        let mut contexts: Vec<ContextId> = selected.iter().map(|context| context.id).collect();
        let mut length = head.length;
        if head.flags.contains(CommandFlags::PAYLOAD_LEN) {
            let filter = BlockStatusFilter::parse(payload).map_err(|error| (error, "malformed filter"))?;
            length = filter.length;
            limits
                .check_status_range(head.offset, length)
                .map_err(|error| (error, "the filter's range is outside the export"))?;
            let mut wanted = Vec::new();
            for id in filter.contexts() {
                if !contexts.contains(&id) || wanted.contains(&id) {
                    return Err((WireError::Invalid, "a context that was not selected, or twice"));
                }
                wanted.push(id);
            }
            contexts = wanted;
        }
        Ok(Self { range: ByteRange::new(head.offset, length), contexts, one })
    }
}

/// Asks the device and writes the reply.
pub(super) async fn answer(
    device: Arc<Device>,
    query: Query,
    form: ReplyForm,
    writer: ReplyWriter,
) -> Result<Buf> {
    let max = if query.one { 1 } else { EXTENTS_MAX };
    let list = device.extents(query.range, max).await?;
    let mut extents: Vec<Extent> = list
        .as_slice()
        .iter()
        .take(max)
        .map(|extent| Extent { length: extent.range.len(), flags: flags(extent.kind) })
        .collect();
    if extents.is_empty() {
        extents.push(Extent { length: query.range.len(), flags: 0 });
    }
    let size = block_status_size(form, extents.len()).saturating_mul(query.contexts.len()) + MAX_HEADER;
    let mut reply = bowline_io::alloc(size);
    let mut at = 0;
    for (index, context) in query.contexts.iter().enumerate() {
        let last = index + 1 == query.contexts.len();
        let room = reply.get_mut(at..).unwrap_or_default();
        let (count, _) = writer.block_status(room, *context, &extents, last).map_err(unfit)?;
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

/// The flags of `base:allocation`.
fn flags(kind: ExtentKind) -> u64 {
    u64::from(match kind {
        ExtentKind::Data => 0,
        ExtentKind::Hole => allocation::HOLE | allocation::ZERO,
        ExtentKind::Zero => allocation::ZERO,
    })
}
