//! Segments: 256 KiB of diff storage, and the table by which a history finds them.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use bowline_block::{Buf, Error, ErrorKind, Now, Result};
use bowline_io::FileOp;
use rustix::io::{Errno, ReadWriteFlags, preadv2};

use super::granule::{GRANULE_BYTES, mask_of};
use super::journal;
use super::store::{DiffStorage, Volume};
use super::zone::SlotId;

/// Slots of a segment.
pub(crate) const SEGMENT_SLOTS: u32 = 64;
/// Bytes of a segment.
pub const SEGMENT_BYTES: u64 = SEGMENT_SLOTS as u64 * GRANULE_BYTES;
/// Segments that a history can number; the very last number is left out, since its last slot means zero.
const SEGMENTS_MAX: u32 = (1 << 26) - 1;

/// Where a segment's contents are.
pub(crate) enum Content {
    Memory(Buf),
    /// On the volume's medium, at the segment's own place.
    Stored,
}

/// See the module.
pub(crate) struct Segment {
    pub(crate) storage: Arc<DiffStorage>,
    /// The part of the storage it is in.
    pub(crate) volume: Arc<Volume>,
    /// Its place in the storage, counted in segments.
    pub(crate) place: u32,
    pub(crate) content: RwLock<Content>,
    /// Slots in use, and one while a lane still fills it.
    holders: AtomicU32,
    /// What the slots' contents must come to when they are read from the medium, as far as that is known.
    sums: OnceLock<Box<Sums>>,
    /// Slots a lane has given out, once it is full; those of them that are on the medium already, durably.
    filled: AtomicU8,
    committed: AtomicU8,
}

/// The checksums of a segment's slots.
struct Sums {
    known: AtomicU64,
    sums: [AtomicU32; SEGMENT_SLOTS as usize],
}

impl Segment {
    pub(crate) fn new(storage: Arc<DiffStorage>, volume: Arc<Volume>, place: u32, buf: Buf) -> Arc<Self> {
        Arc::new(Self {
            storage,
            volume,
            place,
            content: RwLock::new(Content::Memory(buf)),
            holders: AtomicU32::new(1),
            sums: OnceLock::new(),
            filled: AtomicU8::new(0),
            committed: AtomicU8::new(0),
        })
    }

    /// One whose contents are on the medium already. Nobody holds it yet.
    pub(crate) fn stored(storage: Arc<DiffStorage>, volume: Arc<Volume>, place: u32) -> Arc<Self> {
        Arc::new(Self {
            storage,
            volume,
            place,
            content: RwLock::new(Content::Stored),
            holders: AtomicU32::new(0),
            sums: OnceLock::new(),
            filled: AtomicU8::new(0),
            committed: AtomicU8::new(0),
        })
    }

    /// From now on the contents of slots must come to these sums when they are read from the medium.
    pub(crate) fn know_sums(&self, first: u8, sums: &[u32]) {
        let all = self.sums.get_or_init(|| {
            Box::new(Sums { known: AtomicU64::new(0), sums: std::array::from_fn(|_| AtomicU32::new(0)) })
        });
        for (slot, &sum) in (usize::from(first)..).zip(sums) {
            if let Some(place) = all.sums.get(slot) {
                place.store(sum, Ordering::Relaxed);
                all.known.fetch_or(1 << slot, Ordering::Release);
            }
        }
    }

    /// That many slots were given out, and no more will be.
    pub(crate) fn set_filled(&self, slots: u32) {
        self.filled.store(u8::try_from(slots).unwrap_or(u8::MAX), Ordering::Release);
    }

    /// That many more are on the medium, durably.
    pub(crate) fn add_committed(&self, slots: u32) {
        self.committed.fetch_add(u8::try_from(slots).unwrap_or(0), Ordering::AcqRel);
    }

    /// Whether all of it is on the medium already.
    pub(crate) fn is_committed(&self) -> bool {
        let filled = self.filled.load(Ordering::Acquire);
        filled > 0 && self.committed.load(Ordering::Acquire) == filled
    }

    /// Where its contents go and come from, for a journal.
    pub(crate) fn write_of(self: &Arc<Self>, slot: u8, slots: u64) -> Option<journal::Write> {
        let at = u64::from(slot) * GRANULE_BYTES;
        Some(journal::Write {
            vault: self.volume.medium()?.clone(),
            at: self.offset() + at,
            source: self.clone(),
            window: window(at, slots * GRANULE_BYTES),
        })
    }

    /// Whole slots around a range of bytes, if contents there must be compared with their sums.
    fn to_verify(&self, at: u64, len: usize) -> Option<(u64, usize)> {
        let known = self.sums.get()?.known.load(Ordering::Acquire);
        let end = at + len as u64;
        let (first, last) = (at / GRANULE_BYTES, end.div_ceil(GRANULE_BYTES));
        if known & mask_of(0, first, last) == 0 {
            return None;
        }
        let from = first * GRANULE_BYTES;
        Some((from, usize::try_from(last * GRANULE_BYTES - from).unwrap_or(usize::MAX)))
    }

    /// Compares whole slots, from byte `from` on, with their sums.
    fn verify(&self, from: u64, data: &[u8]) -> Result<()> {
        let Some(sums) = self.sums.get() else { return Ok(()) };
        let known = sums.known.load(Ordering::Acquire);
        let slot_bytes = usize::try_from(GRANULE_BYTES).unwrap_or(4096);
        for (slot, bytes) in (from / GRANULE_BYTES..).zip(data.chunks(slot_bytes)) {
            let sum = usize::try_from(slot).ok().and_then(|slot| sums.sums.get(slot));
            let is_known = known >> (slot % 64) & 1 == 1;
            if is_known && sum.is_none_or(|sum| sum.load(Ordering::Relaxed) != journal::crc(bytes)) {
                let why = format!(
                    "a preserved block in {} is damaged: slot {slot} of segment {}",
                    self.storage.location(),
                    self.place
                );
                return Err(Error::new(ErrorKind::Corrupt, why));
            }
        }
        Ok(())
    }

    pub(crate) fn hold(&self, slots: u32) {
        self.holders.fetch_add(slots, Ordering::AcqRel);
    }

    /// Lets go; whether that was the last.
    pub(crate) fn release(&self, slots: u32) -> bool {
        self.holders.fetch_sub(slots, Ordering::AcqRel) == slots
    }

    pub(crate) fn is_unused(&self) -> bool {
        self.holders.load(Ordering::Acquire) == 0
    }

    /// Lets `fill` write to the bytes from `at`. `false` when the segment is closed to writing.
    pub(crate) fn write<R>(&self, at: u64, len: u64, fill: impl FnOnce(&mut [u8]) -> R) -> Option<R> {
        let mut content = self.content.write().unwrap_or_else(PoisonError::into_inner);
        match &mut *content {
            Content::Memory(buf) => buf.get_mut(window(at, len)).map(fill),
            Content::Stored => None,
        }
    }

    /// Reads from byte `at` on, if that needs no waiting.
    pub(crate) fn read_now(&self, at: u64, data: &mut [u8]) -> Now {
        {
            let content = self.content.read().unwrap_or_else(PoisonError::into_inner);
            if let Content::Memory(buf) = &*content {
                return match buf.get(window(at, data.len() as u64)) {
                    Some(bytes) => {
                        data.copy_from_slice(bytes);
                        Now::Done(Ok(()))
                    }
                    None => Now::Done(Err(self.unreadable(io::ErrorKind::UnexpectedEof.into()))),
                };
            }
        }
        if let Some((from, whole)) = self.to_verify(at, data.len()) {
            if (from, whole) != (at, data.len()) {
                let mut room = bowline_io::alloc(whole);
                let now = self.read_medium_now(from, &mut room);
                return now_checked(now, || {
                    self.verify(from, &room)?;
                    copy_part(&room, at - from, data)
                });
            }
            let now = self.read_medium_now(at, data);
            return now_checked(now, || self.verify(at, data));
        }
        self.read_medium_now(at, data)
    }

    fn read_medium_now(&self, at: u64, data: &mut [u8]) -> Now {
        let Some(medium) = self.volume.medium() else { return Now::NotNow };
        #[cfg(test)]
        if self.storage.reads_stall() {
            return Now::NotNow;
        }
        let offset = self.offset() + at;
        let Some(file) = medium.file() else { return Now::Done(medium.read_at(offset, data)) };
        match preadv2(file.as_fd(), &mut [io::IoSliceMut::new(data)], offset, ReadWriteFlags::NOWAIT) {
            Ok(bytes) if bytes == data.len() => Now::Done(Ok(())),
            // Partly in memory, not in memory, or a file system that does not know the flag.
            Ok(_) | Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::INTR) => Now::NotNow,
            Err(errno) => Now::Done(Err(self.unreadable(errno.into()))),
        }
    }

    /// Reads `len` bytes from byte `at` on.
    pub(crate) async fn read(&self, at: u64, len: usize) -> Result<Buf> {
        let mut buf = bowline_io::alloc(len);
        if self.read_memory(at, &mut buf)? {
            return Ok(buf);
        }
        let Some((from, whole)) = self.to_verify(at, len) else { return self.read_medium(at, buf).await };
        let room = self.read_medium(from, bowline_io::alloc(whole)).await?;
        self.verify(from, &room)?;
        copy_part(&room, at - from, &mut buf)?;
        Ok(buf)
    }

    /// Whether it was in memory.
    pub(crate) fn read_memory(&self, at: u64, data: &mut [u8]) -> Result<bool> {
        let content = self.content.read().unwrap_or_else(PoisonError::into_inner);
        let Content::Memory(bytes) = &*content else { return Ok(false) };
        let bytes = bytes.get(window(at, data.len() as u64)).unwrap_or_default();
        if bytes.len() != data.len() {
            return Err(self.unreadable(io::ErrorKind::UnexpectedEof.into()));
        }
        data.copy_from_slice(bytes);
        Ok(true)
    }

    async fn read_medium(&self, at: u64, mut buf: Buf) -> Result<Buf> {
        let len = buf.len();
        let Some(medium) = self.volume.medium() else {
            return Err(self.unreadable(io::ErrorKind::NotFound.into()));
        };
        #[cfg(test)]
        if self.storage.reads_stall() {
            std::future::pending::<()>().await;
        }
        let Some(file) = medium.file() else {
            medium.read_at(self.offset() + at, &mut buf)?;
            return Ok(buf);
        };
        let mut skip = 0;
        while skip < len {
            let read = FileOp::Read { offset: self.offset() + at + skip as u64, skip };
            let (done, back) = bowline_io::submit(file, read, buf).await;
            buf = back;
            match done {
                Ok(0) => return Err(self.unreadable(io::ErrorKind::UnexpectedEof.into())),
                Ok(bytes) => skip += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.unreadable(error)),
            }
        }
        Ok(buf)
    }

    /// Its first byte on the volume's medium.
    pub(crate) fn offset(&self) -> u64 {
        self.volume.offset_of(self.place)
    }

    fn unreadable(&self, error: io::Error) -> Error {
        let why = format!("cannot read preserved contents from {}", self.storage.location());
        Error::new(ErrorKind::Io, why).source(error)
    }
}

impl journal::Source for Segment {
    fn lend(
        &self,
        window: std::ops::Range<usize>,
        take: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Option<Result<()>> {
        // Only read-locked: image readers go on from memory while this may be stuck.
        match &*self.content.read().unwrap_or_else(PoisonError::into_inner) {
            Content::Memory(buf) => Some(take(buf.get(window)?)),
            // The storage's worker was faster.
            Content::Stored => None,
        }
    }
}

fn now_checked(now: Now, check: impl FnOnce() -> Result<()>) -> Now {
    match now {
        Now::Done(Ok(())) => Now::Done(check()),
        other => other,
    }
}

fn copy_part(from: &[u8], at: u64, to: &mut [u8]) -> Result<()> {
    let Some(part) = from.get(window(at, to.len() as u64)) else {
        return Err(Error::new(ErrorKind::Io, "a read came back short"));
    };
    to.copy_from_slice(part);
    Ok(())
}

fn window(at: u64, len: u64) -> std::ops::Range<usize> {
    let at = usize::try_from(at).unwrap_or(usize::MAX);
    at..at.saturating_add(usize::try_from(len).unwrap_or(usize::MAX))
}

/// The segments of a history, by number. They may belong to several storages: an interval that is handed to an older
/// snapshot stays where it is.
#[derive(Default)]
pub(crate) struct SegmentTable {
    inner: RwLock<Inner>,
}

#[derive(Default)]
struct Inner {
    segments: Vec<Option<Arc<Segment>>>,
    free: Vec<u32>,
}

impl SegmentTable {
    /// The number under which the segment is found from now on; `None` when there are too many.
    pub(crate) fn insert(&self, segment: Arc<Segment>) -> Option<u32> {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = inner.free.pop() {
            *inner.segments.get_mut(usize::try_from(number).ok()?)? = Some(segment);
            return Some(number);
        }
        let number = u32::try_from(inner.segments.len()).ok().filter(|&number| number < SEGMENTS_MAX)?;
        inner.segments.push(Some(segment));
        Some(number)
    }

    /// The segment of a slot, and the slot's first byte in it.
    pub(crate) fn find(&self, slot: SlotId) -> Option<(Arc<Segment>, u64)> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        let index = usize::try_from(slot.0 / SEGMENT_SLOTS).ok()?;
        let segment = inner.segments.get(index)?.clone()?;
        Some((segment, u64::from(slot.0 % SEGMENT_SLOTS) * GRANULE_BYTES))
    }

    /// Gives slots back. Nobody may look at them any more: see `remove`.
    pub(crate) fn free(&self, slots: impl IntoIterator<Item = SlotId>) {
        let mut slots: Vec<u32> = slots.into_iter().map(|slot| slot.0).collect();
        // Slots of a segment side by side, so that it is looked up once.
        slots.sort_unstable();
        for of_one in slots.chunk_by(|one, next| one / SEGMENT_SLOTS == next / SEGMENT_SLOTS) {
            let (Some(&first), Ok(count)) = (of_one.first(), u32::try_from(of_one.len())) else { continue };
            if let Some((segment, _)) = self.find(SlotId(first))
                && segment.release(count)
            {
                self.forget(first / SEGMENT_SLOTS, &segment);
            }
        }
    }

    /// Takes a segment without slots out and gives it back to its storage.
    pub(crate) fn forget(&self, number: u32, segment: &Arc<Segment>) {
        let taken = {
            let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
            let index = usize::try_from(number).unwrap_or(usize::MAX);
            let taken = inner.segments.get_mut(index).and_then(Option::take);
            inner.free.extend(taken.as_ref().map(|_| number));
            taken
        };
        if taken.is_some() {
            segment.storage.take_back(segment);
        }
    }

    /// Bytes of memory.
    pub(crate) fn bytes(&self) -> u64 {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        let live = inner.segments.iter().flatten().count() as u64;
        // An Arc's two counters come on top of what it points to.
        live * (size_of::<Segment>() as u64 + 16)
            + inner.segments.capacity() as u64 * size_of::<Option<Arc<Segment>>>() as u64
            + inner.free.capacity() as u64 * 4
    }
}
