//! An image: a snapshot's view of one origin, as a store.
//!
//! Whoever reads is inside the origin's gate, so the chain does not change meanwhile and no slot it may look at is
//! given back: slots are freed only after a freeze that began when the chain no longer led to them.
//!
//! Reads race with writes of the origin without a lock: read the origin, then look whether the granule is still
//! uncopied, else take the preserved copy. A writer sets the bit before it writes, so a reader that got anything of
//! the write sees the bit. In the same way it looks whether the snapshot has failed, because then writers no longer
//! set bits: what was read is given out only if it has not.
//!
//! What is written to an image goes to an overlay in front of all that (`overlay`), in the snapshot's diff storage. It
//! lasts as long as the snapshot. When there is no room, the writer of the image hears of it (ENOSPC); the snapshot
//! stays what it is, and its origin never notices. A plain snapshot does not outlive the daemon, so a flush has nothing
//! to make durable: what was acknowledged can be read until the snapshot is removed. A flush of a persistent one's image goes
//! through the journal.

mod as_taken;
mod extents;
mod overlay;
pub(crate) mod read;
mod view;
mod write;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bowline_block::{
    BlockSize, ByteRange, Capabilities, Done, Error, ErrorKind, ExtentList, ExtentsFuture, Flags, Geometry,
    Io, IoFuture, Now, Op, Request, Result, Store,
};
use bowline_device::Device;

use super::history::History;
use super::interval::Interval;
use super::shared::Shared;
use super::wait;
use crate::track::Tracker;
use overlay::Overlay;
use view::View;
use write::Source;

/// A snapshot's view of one origin. Writable: see the module.
pub struct ImageStore {
    origin: Arc<Device>,
    history: Arc<History>,
    pub(crate) snapshot: Arc<Shared>,
    epoch: u64,
    pub(crate) size: u64,
    block_size: BlockSize,
    /// The origin's: what is written to an image is a change.
    tracker: Option<Arc<Tracker>>,
    /// Whether there is an overlay: an image that was never written to reads without a look at it.
    is_written: AtomicBool,
    overlay: Mutex<Front>,
}

/// What is in front of what the snapshot preserves.
enum Front {
    /// Nothing was written.
    Nothing,
    Written(Arc<Overlay>),
    /// The snapshot was removed.
    Over,
}

impl ImageStore {
    pub(crate) fn new(
        origin: &Arc<Device>,
        history: &Arc<History>,
        snapshot: &Arc<Shared>,
        tracker: Option<&Arc<Tracker>>,
        epoch: u64,
        geometry: Geometry,
    ) -> Arc<Self> {
        Arc::new(Self {
            origin: origin.clone(),
            history: history.clone(),
            snapshot: snapshot.clone(),
            epoch,
            size: geometry.size,
            block_size: geometry.block_size,
            tracker: tracker.cloned(),
            is_written: AtomicBool::new(false),
            overlay: Mutex::new(Front::Nothing),
        })
    }

    /// What was written to the image, zeroes and discards included: in whole blocks of 4 KiB, ascending, neighbours
    /// merged.
    #[must_use]
    pub fn written(&self) -> Vec<ByteRange> {
        self.overlay().map(|overlay| overlay.ranges(self.size)).unwrap_or_default()
    }

    fn front(&self) -> std::sync::MutexGuard<'_, Front> {
        self.overlay.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn overlay(&self) -> Option<Arc<Overlay>> {
        // Who reads after a write was acknowledged has that from its writer, and with it this.
        if !self.is_written.load(Ordering::Relaxed) {
            return None;
        }
        match &*self.front() {
            Front::Written(overlay) => Some(overlay.clone()),
            Front::Nothing | Front::Over => None,
        }
    }

    fn overlay_or_new(&self) -> Result<Arc<Overlay>> {
        let mut front = self.front();
        match &*front {
            Front::Written(overlay) => Ok(overlay.clone()),
            Front::Nothing => {
                let overlay = Overlay::new(&self.history, &self.snapshot, self.size, self.epoch);
                *front = Front::Written(overlay.clone());
                self.is_written.store(true, Ordering::Relaxed);
                Ok(overlay)
            }
            Front::Over => Err(self.removed()),
        }
    }

    /// What was written before the daemon's start comes back.
    pub(crate) fn restore(&self, fill: impl FnOnce(&Interval)) -> Result<()> {
        fill(&self.overlay_or_new()?.written);
        Ok(())
    }

    /// As a flush does, on a thread that may wait.
    pub(crate) fn save(&self) -> Result<()> {
        let mut result = Ok(());
        wait::here(async { result = self.flush().await });
        result
    }

    /// The snapshot was removed: the space of what was written goes back when the last that looks at it has ended.
    pub(crate) fn end(&self) {
        let before = std::mem::replace(&mut *self.front(), Front::Over);
        drop(before);
    }

    fn removed(&self) -> Error {
        Error::new(ErrorKind::Gone, format!("snapshot {} was removed", self.snapshot.name))
    }

    /// What the image looks like now. The caller is inside the origin's gate.
    fn view(&self) -> Result<View> {
        self.snapshot.check()?;
        let chain = self.history.chain.load_full();
        let own = chain.position(self.epoch).ok_or_else(|| self.removed())?;
        let overlay = self.overlay().map(|overlay| {
            let token = overlay.enter();
            (overlay, token)
        });
        Ok(View { chain, own, overlay })
    }
}

impl Store for ImageStore {
    fn geometry(&self) -> Geometry {
        let can = Capabilities::EXTENTS
            | Capabilities::WRITE_ZEROES
            | Capabilities::DISCARD
            | Capabilities::DISCARD_READS_ZERO
            | Capabilities::FAST_ZERO;
        Geometry { size: self.size, block_size: self.block_size, read_only: false, can }
    }

    fn location(&self) -> String {
        format!("{}/{}", self.snapshot.name, self.origin.name())
    }

    fn read_now(&self, range: ByteRange, data: &mut [u8]) -> Now {
        self.try_read(range, data).unwrap_or_else(|error| Now::Done(Err(error)))
    }

    fn write_now(&self, range: ByteRange, data: &[u8], flags: Flags) -> Now {
        if flags.contains(Flags::FUA) && self.snapshot.is_persistent() {
            return Now::NotNow;
        }
        self.try_write(range, data).unwrap_or_else(|error| Now::Done(Err(error)))
    }

    fn submit(&self, io: Io) -> IoFuture<'_> {
        let Io { request: Request { op, flags, range }, mut data } = io;
        Box::pin(async move {
            let result = match op {
                Op::Read => self.read(range, &mut data).await,
                Op::Write => self.write(range, Source::Data(&data)).await,
                Op::Discard => self.clear(range, Flags::empty()).await,
                Op::WriteZeroes => self.clear(range, flags).await,
                Op::Flush => self.flush().await,
                Op::SecureErase | Op::Zone => Err(ErrorKind::Unsupported.into()),
            };
            let result = match result {
                Ok(()) if flags.contains(Flags::FUA) && op.changes_data() => self.flush().await,
                other => other,
            };
            Done::new(result, data)
        })
    }

    fn extents_now(&self, range: ByteRange, found: &mut ExtentList) -> Now {
        self.try_extents(range, found).unwrap_or_else(|error| Now::Done(Err(error)))
    }

    fn extents(&self, range: ByteRange, max: usize) -> ExtentsFuture<'_> {
        Box::pin(self.find_extents(range, max))
    }
}
