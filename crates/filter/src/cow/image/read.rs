//! Reading an image: at once where everything is at hand, else waiting.

use bowline_block::{ByteRange, Error, ErrorKind, Io, Now, Op, Request, Result, Store};

use super::ImageStore;
use super::view::{Part, View};
use crate::cow::events::Cause;
use crate::cow::granule::GRANULE_BYTES;
use crate::cow::history::COW_ALTITUDE;
use crate::cow::segment::Segment;
use crate::cow::sync::{Ordering, fence};
use crate::cow::wait;
use crate::cow::zone::SlotId;

/// The bytes of `data`, which stands for `whole`, that stand for `part`.
pub(crate) fn window(whole: ByteRange, part: ByteRange, data: &mut [u8]) -> &mut [u8] {
    let from = usize::try_from(part.start().saturating_sub(whole.start())).unwrap_or(usize::MAX);
    let len = usize::try_from(part.len()).unwrap_or(usize::MAX);
    data.get_mut(from..from.saturating_add(len)).unwrap_or_default()
}

impl ImageStore {
    fn segment_of(&self, slot: SlotId) -> Result<(std::sync::Arc<Segment>, u64)> {
        let found = self.history.table.find(slot);
        found.ok_or_else(|| Error::new(ErrorKind::Corrupt, "the index leads to diff storage that is gone"))
    }

    /// An error of the origin. That it is not there any more is told, though this read alone costs nothing else.
    fn of_origin(&self, error: Error) -> Error {
        if error.kind() == ErrorKind::Gone {
            self.snapshot.device_gone(self.origin.name(), Some(Cause::of(&error)));
        }
        error
    }

    pub(super) fn try_read(&self, range: ByteRange, data: &mut [u8]) -> Result<Now> {
        let Some(inside) = self.origin.enter_now() else { return Ok(Now::NotNow) };
        let view = self.view()?;
        let below = inside.below(COW_ALTITUDE);
        let mut rest = range;
        while !rest.is_empty() {
            let part = view.first_part(rest);
            let done = match &part {
                Part::Origin(bytes) => {
                    self.check_origin(below, *bytes)?;
                    match below.read_now(*bytes, window(range, *bytes, data)) {
                        Now::Done(Ok(())) => {}
                        Now::Done(Err(error)) => return Err(self.of_origin(error)),
                        Now::NotNow => return Ok(Now::NotNow),
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

    /// What was preserved is not what is there now: no promise can be kept.
    fn if_damaged(&self, error: Error) -> Error {
        if error.kind() == ErrorKind::Corrupt {
            self.snapshot.fail(error.to_string());
        }
        error
    }

    fn read_part_now(&self, part: &Part, data: &mut [u8]) -> Now {
        match part {
            Part::Zero(_) => {
                data.fill(0);
                Now::Done(Ok(()))
            }
            Part::Preserved(bytes, slot) => match self.segment_of(*slot) {
                Ok((segment, at)) => match segment.read_now(at + bytes.start() % GRANULE_BYTES, data) {
                    Now::Done(done) => Now::Done(done.map_err(|error| self.if_damaged(error))),
                    Now::NotNow => Now::NotNow,
                },
                Err(error) => Now::Done(Err(error)),
            },
            Part::Origin(_) => Now::Done(Err(lost_bit())),
        }
    }

    pub(super) async fn read(&self, range: ByteRange, data: &mut [u8]) -> Result<()> {
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
            return result.map_err(|error| self.of_origin(error));
        }
        let io = Io::new(Request::new(Op::Read, bytes), bowline_io::alloc(data.len()));
        let done = below.submit(io).await;
        done.result.map_err(|error| self.of_origin(error))?;
        copy_out(&done.data, data)
    }

    pub(super) async fn read_preserved(&self, view: &View, range: ByteRange, data: &mut [u8]) -> Result<()> {
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
            Some(read) => copy_out(&read.map_err(|error| self.if_damaged(error))?, data),
            None => {
                let why = format!("reading diff storage took longer than {limit:?}");
                // What it promised cannot be had; a reader that is told so now must not find it healthy later.
                self.snapshot.fail(why.clone());
                Err(Error::new(ErrorKind::Io, why))
            }
        }
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

#[cfg(all(test, not(feature = "shuttle")))]
#[path = "read_tests.rs"]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests;
