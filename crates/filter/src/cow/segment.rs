//! Segments: 256 KiB of diff storage, and the table by which a history finds them.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use bowline_block::{Buf, Error, ErrorKind, Now, Result};
use bowline_io::FileOp;
use rustix::io::{Errno, ReadWriteFlags, preadv2};

use super::granule::GRANULE_BYTES;
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
}

impl Segment {
    pub(crate) fn new(storage: Arc<DiffStorage>, volume: Arc<Volume>, place: u32, buf: Buf) -> Arc<Self> {
        Arc::new(Self {
            storage,
            volume,
            place,
            content: RwLock::new(Content::Memory(buf)),
            holders: AtomicU32::new(1),
        })
    }

    /// One whose contents are on the medium already. Nobody holds it yet.
    pub(crate) fn stored(storage: Arc<DiffStorage>, volume: Arc<Volume>, place: u32) -> Arc<Self> {
        let (content, holders) = (RwLock::new(Content::Stored), AtomicU32::new(0));
        Arc::new(Self { storage, volume, place, content, holders })
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
        {
            let content = self.content.read().unwrap_or_else(PoisonError::into_inner);
            if let Content::Memory(bytes) = &*content {
                let bytes = bytes.get(window(at, len as u64)).unwrap_or_default();
                if bytes.len() != buf.len() {
                    return Err(self.unreadable(io::ErrorKind::UnexpectedEof.into()));
                }
                buf.copy_from_slice(bytes);
                return Ok(buf);
            }
        }
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
