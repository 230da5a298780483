//! The log of a disk, and the way through it again.

use std::sync::Arc;

use bowline_block::ByteRange;

use crate::cache::{Cache, Crash, Written};
use crate::image::Image;

/// A note that a test puts into the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(pub u64);

#[derive(Clone)]
pub(crate) enum Entry {
    Begun(Arc<Written>),
    Applied(u64),
    Failed { write: u64, seed: u64 },
    FlushBegun,
    Flushed { turn: u64 },
    Forgotten { turn: u64 },
    Marked(Mark),
}

/// What happened at a point of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A change of this range reached the disk.
    Begun(ByteRange),
    /// A change was acknowledged.
    Applied,
    /// A change was answered with an error.
    Failed,
    /// A flush reached the disk.
    FlushBegun,
    /// A flush was acknowledged.
    Flushed,
    /// A flush was answered with an error.
    FlushFailed,
    /// The test noted something.
    Marked(Mark),
}

/// A disk's past: stands at one moment of it and can be cut there.
pub struct Replay {
    cache: Cache,
    entries: std::vec::IntoIter<Entry>,
    last_mark: Option<Mark>,
}

impl Replay {
    pub(crate) fn new(start: Image, entries: Vec<Entry>) -> Self {
        Self { cache: Cache::new(start), entries: entries.into_iter(), last_mark: None }
    }

    /// Goes on by one event; `None` at the end.
    pub fn step(&mut self) -> Option<Event> {
        let entry = self.entries.next()?;
        Some(match entry {
            Entry::Begun(write) => {
                self.cache.begin(&write);
                Event::Begun(write.range)
            }
            Entry::Applied(number) => {
                self.cache.apply(number);
                Event::Applied
            }
            Entry::Failed { write, seed } => {
                self.cache.apply_failed(write, seed);
                Event::Failed
            }
            Entry::FlushBegun => Event::FlushBegun,
            Entry::Flushed { turn } => {
                self.cache.flush(turn);
                Event::Flushed
            }
            Entry::Forgotten { turn } => {
                self.cache.forget(turn);
                Event::FlushFailed
            }
            Entry::Marked(mark) => {
                self.last_mark = Some(mark);
                Event::Marked(mark)
            }
        })
    }

    /// The last mark that was passed.
    #[must_use]
    pub fn last_mark(&self) -> Option<Mark> {
        self.last_mark
    }

    /// An image that a power cut at this moment may leave.
    #[must_use]
    pub fn power_cut(&self, crash: Crash) -> Image {
        self.cache.power_cut(crash)
    }

    /// Cuts at the start and behind every event: nothing survives, everything does, and `seeds` random ways. `check`
    /// gets the last mark passed and the image, and ends the walk by an error.
    ///
    /// # Errors
    /// What `check` says, with the cut it says it of.
    pub fn each_cut<E>(
        mut self,
        seeds: u64,
        mut check: impl FnMut(Option<Mark>, &Image) -> Result<(), E>,
    ) -> Result<u64, (u64, Crash, E)> {
        let mut cut = 0;
        loop {
            let random = (0..seeds).map(|seed| Crash::Seeded(cut << 16 | seed));
            for crash in [Crash::LoseAll, Crash::KeepAll].into_iter().chain(random) {
                let image = self.power_cut(crash);
                check(self.last_mark, &image).map_err(|error| (cut, crash, error))?;
            }
            cut += 1;
            if self.step().is_none() {
                return Ok(cut);
            }
        }
    }
}
