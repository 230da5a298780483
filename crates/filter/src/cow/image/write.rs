//! Writing to an image: writes, discards and write-zeroes, at any alignment that the block size allows.
//!
//! A granule that is written in part gets the rest of it from what the image reads there now. Its claim keeps other
//! writers of the image from it meanwhile, and what the snapshot preserves does not change, whatever the origin does.
//!
//! Nothing here waits inside the origin's gate except for reading: a take is not kept waiting by a full image.

use std::time::Duration;

use bowline_block::{
    ByteRange, Error, ErrorKind, ExtentKind, ExtentList, Flags, Now, PAGE_BYTES, Result, Store,
};

use super::ImageStore;
use super::overlay::{NoRoom, Overlay};
use super::read::window;
use crate::cow::copy::{is_zero, not_busy};
use crate::cow::granule::{GRANULE_BYTES, Granules};
use crate::cow::journal::Outcome;
use crate::cow::segment::SEGMENT_SLOTS;
use crate::cow::wait::{self, Deadline};
use crate::cow::zone::{Claim, Claimed, SlotId};

/// Bytes that are written on the spot; a larger write is submitted, so that it does not keep its queue from others.
const AT_ONCE_MAX: u64 = 256 * 1024;
/// Granules of data claimed at once: 1 MiB.
const CLAIM_MAX: u16 = 256;
/// Extents asked for at once.
const EXTENTS_MAX: usize = 128;
/// How long a writer waits for readers of replaced blocks before it looks again.
const CROWDED: Duration = Duration::from_millis(2);

/// A segment of zeroes.
static ZEROES: [u8; 64 * PAGE_BYTES] = [0; 64 * PAGE_BYTES];

/// What is written.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    /// These bytes, one for each of the whole range.
    Data(&'a [u8]),
    /// Zeroes; what is stored there is given back.
    Zeroes,
    /// Zeroes for which room is to be kept.
    StoredZeroes,
}

impl<'a> Source<'a> {
    /// The bytes that stand for `part` of `whole`, or the first of them; `None` where nothing need be stored.
    fn bytes(self, whole: ByteRange, part: ByteRange) -> Option<&'a [u8]> {
        match self {
            Self::Zeroes => None,
            Self::StoredZeroes => {
                Some(ZEROES.get(..usize::try_from(part.len()).unwrap_or(usize::MAX)).unwrap_or(&ZEROES))
            }
            Self::Data(data) => {
                let from = usize::try_from(part.start().saturating_sub(whole.start())).unwrap_or(usize::MAX);
                let len = usize::try_from(part.len()).unwrap_or(usize::MAX);
                Some(data.get(from..from.saturating_add(len)).unwrap_or_default())
            }
        }
    }

    fn fill(self, whole: ByteRange, part: ByteRange, room: &mut [u8]) {
        match self.bytes(whole, part) {
            Some(bytes) if bytes.len() == room.len() => room.copy_from_slice(bytes),
            _ => room.fill(0),
        }
    }
}

/// A write to an image.
struct Writing<'a> {
    overlay: &'a Overlay,
    size: u64,
    whole: ByteRange,
    source: Source<'a>,
}

/// What one step came to.
enum Step {
    /// What comes before this byte is written.
    UpTo(u64),
    /// The contents of this granule are needed first.
    Needs(ByteRange),
    /// Too much is on its way to the file.
    Wait,
    Failed(Error),
}

impl Writing<'_> {
    /// Writes what `rest`, whose granules are claimed, begins with.
    fn step(&self, rest: ByteRange) -> Step {
        let first = rest.start() / GRANULE_BYTES;
        let granule = Granules { first, end: first + 1 }.bytes(self.size);
        let piece = rest.intersection(granule);
        let gives_back = matches!(self.source, Source::Zeroes);
        let slot = self.overlay.slot(first);
        if gives_back && slot == Some(SlotId::ZERO) {
            return Step::UpTo(piece.end());
        }
        if let Some(slot) = slot.filter(|&slot| slot != SlotId::ZERO && !(gives_back && piece == granule)) {
            let fill = |room: &mut [u8]| self.source.fill(self.whole, piece, room);
            if self.overlay.in_place(first, slot, piece.start() % GRANULE_BYTES, piece.len(), fill).is_some()
            {
                return Step::UpTo(piece.end());
            }
        }
        if piece != granule {
            return Step::Needs(granule);
        }
        let mut end = Granules::inside(rest, self.size).end;
        if !gives_back {
            end = self.new_until(first + 1, end.min(first + u64::from(SEGMENT_SLOTS)));
        }
        let granules = Granules { first, end };
        self.put(granules, self.source.bytes(self.whole, granules.bytes(self.size)))
    }

    /// The first granule of `from..end` that can be written in place.
    fn new_until(&self, from: u64, end: u64) -> u64 {
        let in_place = |&granule: &u64| {
            let slot = self.overlay.slot(granule).filter(|&slot| slot != SlotId::ZERO);
            slot.is_some_and(|slot| self.overlay.in_place(granule, slot, 0, 0, |_| ()).is_some())
        };
        (from..end).find(in_place).unwrap_or(end)
    }

    /// Writes a granule of which a part is new: `old` is what it holds.
    fn merge(&self, rest: ByteRange, granule: ByteRange, old: &mut [u8]) -> Step {
        let piece = rest.intersection(granule);
        self.source.fill(self.whole, piece, window(granule, piece, old));
        match self.put(Granules::touched_by(granule), Some(old)) {
            Step::UpTo(_) => Step::UpTo(piece.end()),
            other => other,
        }
    }

    fn put(&self, granules: Granules, data: Option<&[u8]>) -> Step {
        let keeps_room = matches!(self.source, Source::StoredZeroes);
        let data = data.filter(|data| keeps_room || !is_zero(data));
        match self.overlay.put(granules, self.size, data) {
            Ok(count) => Step::UpTo(
                Granules { first: granules.first, end: granules.first + count }.bytes(self.size).end(),
            ),
            Err(NoRoom::Wait) => Step::Wait,
            Err(NoRoom::Failed(error)) => Step::Failed(error),
        }
    }

    /// The part of `rest` that a claim covers.
    fn claimed(&self, rest: ByteRange, claim: &Claim<'_>) -> ByteRange {
        let first = rest.start() / GRANULE_BYTES;
        let granules = Granules { first, end: first + u64::from(claim.run().count) };
        rest.intersection(granules.bytes(self.size))
    }

    fn claim_max(&self) -> u16 {
        if matches!(self.source, Source::Zeroes) { u16::MAX } else { CLAIM_MAX }
    }
}

impl ImageStore {
    /// Whether the image is there, and what was written to it.
    fn begin_writing(&self) -> Result<(std::sync::Arc<Overlay>, Duration)> {
        let limit = self.check_there()?;
        Ok((self.overlay_or_new()?, limit))
    }

    /// An error if the snapshot failed or was removed; how long one of its requests may wait.
    fn check_there(&self) -> Result<Duration> {
        self.snapshot.check()?;
        let chain = self.history.chain.load();
        chain.position(self.epoch).ok_or_else(|| self.removed())?;
        Ok(chain.hold_limit)
    }

    /// Makes what was written so far durable, if the snapshot is. Of a plain one no more is promised than that everything
    /// acknowledged can be read until the snapshot is gone.
    pub(super) async fn flush(&self) -> Result<()> {
        let deadline = Deadline::after(self.check_there()?);
        let Some(overlay) = self.overlay() else { return Ok(()) };
        let Some(saving) = overlay.save() else { return Ok(()) };
        for ticket in &saving.tickets {
            match wait::bounded(deadline.left(), ticket.done()).await {
                Some(Outcome::Durable) => {}
                // Nobody knows what is there now.
                Some(Outcome::NoStore(why) | Outcome::NoJournal(why)) => {
                    let why = format!("what was written to an image cannot be made durable: {why}");
                    self.snapshot.fail(why.clone());
                    return Err(Error::new(ErrorKind::Io, why));
                }
                None => {
                    let why = "what was written to an image could not be made durable in time";
                    self.snapshot.fail(why.to_owned());
                    return Err(Error::new(ErrorKind::Timeout, why).device(self.location()));
                }
            }
        }
        overlay.saved(saving);
        Ok(())
    }

    pub(super) fn try_write(&self, range: ByteRange, data: &[u8]) -> Result<Now> {
        if range.len() > AT_ONCE_MAX {
            return Ok(Now::NotNow);
        }
        let (overlay, _) = self.begin_writing()?;
        if self.tracker.as_ref().is_some_and(|tracker| !tracker.mark_now(range)) {
            return Ok(Now::NotNow);
        }
        if overlay.is_crowded() {
            return Ok(Now::NotNow);
        }
        let _token = overlay.enter();
        let writing =
            Writing { overlay: &overlay, size: self.size, whole: range, source: Source::Data(data) };
        let mut rest = range;
        while !rest.is_empty() {
            let claim = match overlay.claim(Granules::touched_by(rest), CLAIM_MAX) {
                Some((_, Claimed::Mine(claim))) => claim,
                _ => return Ok(Now::NotNow),
            };
            let mut part = writing.claimed(rest, &claim);
            let end = part.end();
            while !part.is_empty() {
                let step = match writing.step(part) {
                    Step::Needs(granule) => {
                        let mut old = [0; PAGE_BYTES];
                        let old = window(granule, granule, &mut old);
                        match self.try_read(granule, old)? {
                            Now::Done(result) => result?,
                            Now::NotNow => return Ok(Now::NotNow),
                        }
                        writing.merge(part, granule, old)
                    }
                    step => step,
                };
                match step {
                    Step::UpTo(at) => part = ByteRange::between(at, end),
                    Step::Wait | Step::Needs(_) => return Ok(Now::NotNow),
                    Step::Failed(error) => return Err(error),
                }
            }
            rest = ByteRange::between(end, range.end());
        }
        self.snapshot.check()?;
        Ok(Now::Done(Ok(())))
    }

    pub(super) async fn write(&self, range: ByteRange, source: Source<'_>) -> Result<()> {
        let (overlay, limit) = self.begin_writing()?;
        if let Some(tracker) = &self.tracker {
            tracker.mark(range).await;
        }
        let writing = Writing { overlay: &overlay, size: self.size, whole: range, source };
        let mut rest = range;
        while !rest.is_empty() {
            let end = self.write_some(&writing, rest, Deadline::after(limit)).await?;
            rest = ByteRange::between(end, range.end());
            if !rest.is_empty() {
                wait::step_aside().await;
                self.check_there()?;
            }
        }
        self.snapshot.check()
    }

    /// Writes what one claim covers; up to where.
    async fn write_some(&self, writing: &Writing<'_>, rest: ByteRange, deadline: Deadline) -> Result<u64> {
        let overlay = writing.overlay;
        while overlay.is_crowded() {
            if deadline.left().is_zero() {
                return Err(self.too_slow("readers of what is replaced", deadline));
            }
            wait::bounded(CROWDED, std::future::pending::<()>()).await;
        }
        let _token = overlay.enter();
        let claim = loop {
            match overlay.claim(Granules::touched_by(rest), writing.claim_max()) {
                Some((_, Claimed::Mine(claim))) => break claim,
                Some((zone, Claimed::Busy(run))) => {
                    if wait::bounded(deadline.left(), not_busy(zone, run)).await.is_none() {
                        return Err(self.too_slow("another write to the same block", deadline));
                    }
                }
                _ => return Err(Error::new(ErrorKind::OutOfRange, "beyond the image").range(rest)),
            }
        };
        let mut part = writing.claimed(rest, &claim);
        let end = part.end();
        while !part.is_empty() {
            let mut step = writing.step(part);
            if let Step::Needs(granule) = step {
                let mut old = bowline_io::alloc(PAGE_BYTES);
                let old = window(granule, granule, &mut old);
                self.read(granule, old).await?;
                step = writing.merge(part, granule, old);
            }
            match step {
                Step::UpTo(at) => part = ByteRange::between(at, end),
                Step::Failed(error) => return Err(error),
                Step::Wait | Step::Needs(_) => {
                    let drained = self.snapshot.storage.drained();
                    if wait::bounded(deadline.left(), drained).await.is_none() {
                        return Err(self.too_slow("diff storage", deadline));
                    }
                }
            }
        }
        Ok(end)
    }

    /// Discard, and write-zeroes: what reads as zeroes already costs nothing.
    pub(super) async fn clear(&self, range: ByteRange, flags: Flags) -> Result<()> {
        if flags.contains(Flags::NO_UNMAP) {
            if flags.contains(Flags::FAST_ZERO) {
                let why = "zeroes that keep their room are not faster than writing";
                return Err(Error::new(ErrorKind::Unsupported, why));
            }
            return self.write(range, Source::StoredZeroes).await;
        }
        self.check_there()?;
        let mut rest = range;
        while !rest.is_empty() {
            let found = self.find_extents(rest, EXTENTS_MAX).await.unwrap_or_else(|_| {
                let mut all = ExtentList::with_max(1);
                all.push(rest, ExtentKind::Data);
                all
            });
            let mut end = rest.start();
            for extent in found.as_slice() {
                end = extent.range.end();
                if !extent.kind.reads_zero() {
                    self.write(extent.range.intersection(rest), Source::Zeroes).await?;
                }
            }
            if end <= rest.start() {
                return self.write(rest, Source::Zeroes).await;
            }
            rest = ByteRange::between(end, range.end());
            self.check_there()?;
        }
        Ok(())
    }

    fn too_slow(&self, what: &str, deadline: Deadline) -> Error {
        let why = format!("waiting for {what} took longer than {:?}", deadline.limit);
        Error::new(ErrorKind::Timeout, why).device(self.location())
    }
}
