//! An image: a snapshot's view of one origin, as a store.
//!
//! Whoever reads is inside the origin's gate, so the chain does not change meanwhile and no slot it may look at is
//! given back: slots are freed only after a freeze that began when the chain no longer led to them.
//!
//! Reads race with writes of the origin without a lock: read the origin, then look whether the granule is still
//! uncopied, else take the preserved copy. A writer sets the bit before it writes, so a reader that got anything of
//! the write sees the bit. In the same way it looks whether the snapshot has failed, because then writers no longer
//! set bits: what was read is given out only if it has not.

use std::sync::Arc;

use bowline_block::{
    BlockSize, ByteRange, Capabilities, Done, Error, ErrorKind, ExtentKind, ExtentList, ExtentsFuture,
    Geometry, Io, IoFuture, Now, Op, Request, Result, Store,
};
use bowline_device::Device;

use super::chain::Chain;
use super::granule::{GRANULE_BYTES, Granules};
use super::history::{COW_ALTITUDE, History};
use super::shared::Shared;
use super::sync::{Ordering, fence};
use super::wait;
use super::zone::SlotId;

/// A snapshot's view of one origin. Read-only.
pub struct ImageStore {
    pub(crate) origin: Arc<Device>,
    pub(crate) history: Arc<History>,
    pub(crate) snapshot: Arc<Shared>,
    pub(crate) epoch: u64,
    pub(crate) size: u64,
    pub(crate) block_size: BlockSize,
}

/// The chain as an image sees it.
struct View {
    chain: Arc<Chain>,
    own: usize,
}

/// A part of a read that comes from one place.
enum Part {
    Origin(ByteRange),
    Zero(ByteRange),
    Preserved(ByteRange, SlotId),
}

impl View {
    /// The part that begins at the start of the range.
    fn first_part(&self, range: ByteRange) -> Part {
        let Granules { first, end } = Granules::touched_by(range);
        let copied = self.chain.find_from(self.own, first, end, true);
        if copied > first {
            return Part::Origin(range.split_at(copied.saturating_mul(GRANULE_BYTES)).0);
        }
        self.preserved_part(range)
    }

    /// The same where the first granule is known to be preserved.
    fn preserved_part(&self, range: ByteRange) -> Part {
        let Granules { first, end } = Granules::touched_by(range);
        let Some(stretch) = self.chain.stretch(self.own, first, end) else { return Part::Origin(range) };
        let bytes = range.split_at((first + stretch.granules).saturating_mul(GRANULE_BYTES)).0;
        if stretch.slot == SlotId::ZERO { Part::Zero(bytes) } else { Part::Preserved(bytes, stretch.slot) }
    }

    /// What of a range that was read from the origin has been preserved since, from `at` on: the first run of it.
    fn preserved_since(&self, range: ByteRange, at: u64) -> Option<ByteRange> {
        let Granules { first, end } = Granules::touched_by(ByteRange::between(at, range.end()));
        let from = self.chain.find_from(self.own, first, end, true);
        if from >= end {
            return None;
        }
        let to = self.chain.find_from(self.own, from, end, false);
        Some(
            Granules { first: from, end: to }
                .bytes(u64::MAX)
                .intersection(ByteRange::between(at, range.end())),
        )
    }
}

/// The bytes of `data`, which stands for `whole`, that stand for `part`.
fn window(whole: ByteRange, part: ByteRange, data: &mut [u8]) -> &mut [u8] {
    let from = usize::try_from(part.start().saturating_sub(whole.start())).unwrap_or(usize::MAX);
    let len = usize::try_from(part.len()).unwrap_or(usize::MAX);
    data.get_mut(from..from.saturating_add(len)).unwrap_or_default()
}

impl ImageStore {
    fn view(&self) -> Result<View> {
        self.snapshot.check()?;
        let chain = self.history.chain.load_full();
        match chain.position(self.epoch) {
            Some(own) => Ok(View { chain, own }),
            None => Err(Error::new(ErrorKind::Gone, format!("snapshot {} was removed", self.snapshot.name))),
        }
    }

    /// An error where the origin does not reach any more.
    fn check_origin(&self, below: &dyn Store, part: ByteRange) -> Result<()> {
        let size = below.geometry().size;
        if part.end() <= size {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Io, format!("the origin {} ends at {size} now", self.origin.name()))
            .range(part))
    }

    fn segment_of(&self, slot: SlotId) -> Result<(Arc<super::segment::Segment>, u64)> {
        let found = self.history.table.find(slot);
        found.ok_or_else(|| Error::new(ErrorKind::Corrupt, "the index leads to diff storage that is gone"))
    }

    fn try_read(&self, range: ByteRange, data: &mut [u8]) -> Result<Now> {
        let Some(inside) = self.origin.enter_now() else { return Ok(Now::NotNow) };
        let view = self.view()?;
        let below = inside.below(COW_ALTITUDE);
        let mut rest = range;
        while !rest.is_empty() {
            let part = view.first_part(rest);
            let done = match &part {
                Part::Origin(bytes) => {
                    self.check_origin(below, *bytes)?;
                    if let now @ (Now::NotNow | Now::Done(Err(_))) =
                        below.read_now(*bytes, window(range, *bytes, data))
                    {
                        return Ok(now);
                    }
                    fence(Ordering::SeqCst);
                    let mut at = bytes.start();
                    while let Some(since) = view.preserved_since(*bytes, at) {
                        if let now @ (Now::NotNow | Now::Done(Err(_))) =
                            self.read_preserved_now(&view, since, window(range, since, data))
                        {
                            return Ok(now);
                        }
                        at = since.end();
                    }
                    *bytes
                }
                Part::Zero(bytes) | Part::Preserved(bytes, _) => {
                    if let now @ (Now::NotNow | Now::Done(Err(_))) =
                        self.read_part_now(&part, window(range, *bytes, data))
                    {
                        return Ok(now);
                    }
                    *bytes
                }
            };
            rest = ByteRange::between(done.end(), range.end());
        }
        fence(Ordering::SeqCst);
        self.snapshot.check()?;
        Ok(Now::Done(Ok(())))
    }

    /// Reads a range that is preserved throughout.
    fn read_preserved_now(&self, view: &View, range: ByteRange, data: &mut [u8]) -> Now {
        let mut rest = range;
        while !rest.is_empty() {
            let part = view.preserved_part(rest);
            let bytes = part.bytes();
            match self.read_part_now(&part, window(range, bytes, data)) {
                Now::Done(Ok(())) => rest = ByteRange::between(bytes.end(), range.end()),
                now => return now,
            }
        }
        Now::Done(Ok(()))
    }

    fn read_part_now(&self, part: &Part, data: &mut [u8]) -> Now {
        match part {
            Part::Zero(_) => {
                data.fill(0);
                Now::Done(Ok(()))
            }
            Part::Preserved(bytes, slot) => match self.segment_of(*slot) {
                Ok((segment, at)) => segment.read_now(at + bytes.start() % GRANULE_BYTES, data),
                Err(error) => Now::Done(Err(error)),
            },
            Part::Origin(_) => Now::Done(Err(lost_bit())),
        }
    }

    async fn read(&self, range: ByteRange, data: &mut [u8]) -> Result<()> {
        let inside = self.origin.enter().await;
        let view = self.view()?;
        let below = inside.below(COW_ALTITUDE);
        let mut rest = range;
        while !rest.is_empty() {
            let part = view.first_part(rest);
            let bytes = part.bytes();
            if let Part::Origin(bytes) = part {
                self.check_origin(below, bytes)?;
                self.read_origin(below, bytes, window(range, bytes, data)).await?;
                fence(Ordering::SeqCst);
                let mut at = bytes.start();
                while let Some(since) = view.preserved_since(bytes, at) {
                    self.read_preserved(&view, since, window(range, since, data)).await?;
                    at = since.end();
                }
            } else {
                self.read_part(&view, &part, window(range, bytes, data)).await?;
            }
            rest = ByteRange::between(bytes.end(), range.end());
        }
        fence(Ordering::SeqCst);
        self.snapshot.check()
    }

    async fn read_origin(&self, below: &dyn Store, bytes: ByteRange, data: &mut [u8]) -> Result<()> {
        if let Now::Done(result) = below.read_now(bytes, data) {
            return result;
        }
        let io = Io::new(Request::new(Op::Read, bytes), bowline_io::alloc(data.len()));
        let done = below.submit(io).await;
        done.result?;
        copy_out(&done.data, data)
    }

    async fn read_preserved(&self, view: &View, range: ByteRange, data: &mut [u8]) -> Result<()> {
        let mut rest = range;
        while !rest.is_empty() {
            let part = view.preserved_part(rest);
            let bytes = part.bytes();
            self.read_part(view, &part, window(range, bytes, data)).await?;
            rest = ByteRange::between(bytes.end(), range.end());
        }
        Ok(())
    }

    async fn read_part(&self, view: &View, part: &Part, data: &mut [u8]) -> Result<()> {
        if let Now::Done(result) = self.read_part_now(part, data) {
            return result;
        }
        let Part::Preserved(bytes, slot) = part else { return Err(lost_bit()) };
        let (segment, at) = self.segment_of(*slot)?;
        // Bounded, because a reader inside the gate is somebody that a freeze waits for.
        let limit = view.chain.hold_limit;
        let read = segment.read(at + bytes.start() % GRANULE_BYTES, data.len());
        match wait::bounded(limit, read).await {
            Some(read) => copy_out(&read?, data),
            None => {
                let why = format!("reading diff storage took longer than {limit:?}");
                // What it promised cannot be had; a reader that is told so now must not find it healthy later.
                self.snapshot.fail(why.clone());
                Err(Error::new(ErrorKind::Io, why))
            }
        }
    }

    /// Adds what the image holds to `found`: what is preserved is data or zero, the rest is what the origin says of
    /// itself, unless it was preserved in the meantime.
    fn try_extents(&self, range: ByteRange, found: &mut ExtentList) -> Result<Now> {
        let Some(inside) = self.origin.enter_now() else { return Ok(Now::NotNow) };
        let view = self.view()?;
        let below = inside.below(COW_ALTITUDE);
        let mut rest = range;
        while !rest.is_empty() {
            let part = view.first_part(rest);
            let Part::Origin(bytes) = part else {
                if !found.push(part.bytes(), part.kind()) {
                    break;
                }
                rest = ByteRange::between(part.bytes().end(), range.end());
                continue;
            };
            self.check_origin(below, bytes)?;
            let mut own = ExtentList::with_max(found.room() + 1);
            if let now @ (Now::NotNow | Now::Done(Err(_))) = below.extents_now(bytes, &mut own) {
                return Ok(now);
            }
            let Some(end) = view.add_origin_extents(bytes, &own, found) else { break };
            rest = ByteRange::between(end, range.end());
        }
        fence(Ordering::SeqCst);
        self.snapshot.check()?;
        Ok(Now::Done(Ok(())))
    }

    async fn find_extents(&self, range: ByteRange, max: usize) -> Result<ExtentList> {
        let inside = self.origin.enter().await;
        let view = self.view()?;
        let below = inside.below(COW_ALTITUDE);
        let mut found = ExtentList::with_max(max);
        let mut rest = range;
        while !rest.is_empty() {
            let part = view.first_part(rest);
            let Part::Origin(bytes) = part else {
                if !found.push(part.bytes(), part.kind()) {
                    break;
                }
                rest = ByteRange::between(part.bytes().end(), range.end());
                continue;
            };
            self.check_origin(below, bytes)?;
            let own = below.extents(bytes, found.room() + 1).await?;
            let Some(end) = view.add_origin_extents(bytes, &own, &mut found) else { break };
            rest = ByteRange::between(end, range.end());
        }
        fence(Ordering::SeqCst);
        self.snapshot.check()?;
        Ok(found)
    }
}

impl View {
    /// Takes over the origin's extents of a range; how far they reach, or `None` when no more are taken.
    fn add_origin_extents(&self, range: ByteRange, own: &ExtentList, found: &mut ExtentList) -> Option<u64> {
        fence(Ordering::SeqCst);
        let mut end = range.start();
        for extent in own.as_slice() {
            let bytes = extent.range.intersection(range);
            // What was preserved since was written to: the origin's answer may be that of the new contents.
            while end < bytes.end() {
                let since = self.preserved_since(bytes, end);
                let (until, kind, next) = match since {
                    None => (bytes.end(), extent.kind, bytes.end()),
                    Some(since) if since.start() > end => (since.start(), extent.kind, since.start()),
                    Some(since) => (since.end(), ExtentKind::Data, since.end()),
                };
                if !found.push(ByteRange::between(end, until), kind) {
                    return None;
                }
                end = next;
            }
        }
        (end > range.start()).then_some(end)
    }
}

impl Part {
    fn bytes(&self) -> ByteRange {
        match self {
            Self::Origin(bytes) | Self::Zero(bytes) | Self::Preserved(bytes, _) => *bytes,
        }
    }

    fn kind(&self) -> ExtentKind {
        if matches!(self, Self::Zero(_)) { ExtentKind::Zero } else { ExtentKind::Data }
    }
}

fn copy_out(from: &[u8], to: &mut [u8]) -> Result<()> {
    if from.len() != to.len() {
        return Err(Error::new(ErrorKind::Io, "a read came back short"));
    }
    to.copy_from_slice(from);
    Ok(())
}

fn lost_bit() -> Error {
    Error::new(ErrorKind::Corrupt, "a preserved block is not in the index")
}

impl Store for ImageStore {
    fn geometry(&self) -> Geometry {
        Geometry { size: self.size, block_size: self.block_size, read_only: true, can: Capabilities::EXTENTS }
    }

    fn location(&self) -> String {
        format!("{}/{}", self.snapshot.name, self.origin.name())
    }

    fn read_now(&self, range: ByteRange, data: &mut [u8]) -> Now {
        self.try_read(range, data).unwrap_or_else(|error| Now::Done(Err(error)))
    }

    fn submit(&self, io: Io) -> IoFuture<'_> {
        let Io { request, mut data } = io;
        match request.op {
            Op::Read => Box::pin(async move {
                let result = self.read(request.range, &mut data).await;
                Done::new(result, data)
            }),
            Op::Flush => Done::ready(Ok(()), data),
            _ => Done::ready(Err(Error::new(ErrorKind::ReadOnly, "images are read-only")), data),
        }
    }

    fn extents_now(&self, range: ByteRange, found: &mut ExtentList) -> Now {
        self.try_extents(range, found).unwrap_or_else(|error| Now::Done(Err(error)))
    }

    fn extents(&self, range: ByteRange, max: usize) -> ExtentsFuture<'_> {
        Box::pin(self.find_extents(range, max))
    }
}
