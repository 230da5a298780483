//! Volumes: the parts of a diff storage, each of one kind and in one place.
//!
//! Segments are numbered over all volumes, and none lies in two: what a range has beyond its last whole segment is not
//! used.

use std::sync::Arc;
use std::time::Instant;

use bowline_block::{Error, ErrorKind, Result};

use super::super::events::Cause;
use super::super::segment::SEGMENT_BYTES;
use super::file::StoreFile;
use super::medium::Medium;
use super::spec::{StoreKind, StoreSpec};

/// Segments a storage can have.
const PLACES_MAX: u64 = u32::MAX as u64;
const ENOMEM: i32 = rustix::io::Errno::NOMEM.raw_os_error();

/// See the module.
pub(crate) struct Volume {
    /// The number of its first segment.
    pub(super) first: u32,
    /// Segments it can have.
    pub(super) places: u32,
    /// `None` for memory.
    medium: Option<Arc<dyn Medium>>,
    /// The first segment's first byte on the medium.
    offset: u64,
    pub(super) growth: Option<Growth>,
}

/// How a volume grows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Growth {
    step: u64,
    limit: u64,
}

impl Volume {
    /// What its contents are in; `None` for memory.
    pub(crate) fn medium(&self) -> Option<&Arc<dyn Medium>> {
        self.medium.as_ref()
    }

    /// The first byte of that segment on the medium.
    pub(crate) fn offset_of(&self, place: u32) -> u64 {
        self.offset + u64::from(place.saturating_sub(self.first)) * SEGMENT_BYTES
    }

    /// The number after that of its last segment.
    pub(super) fn end(&self) -> u32 {
        self.first + self.places
    }

    /// Whether the two share a medium, and so its fate.
    pub(super) fn is_beside(&self, other: &Self) -> bool {
        match (&self.medium, &other.medium) {
            (Some(own), Some(theirs)) => Arc::ptr_eq(own, theirs),
            _ => false,
        }
    }

    /// The size it is to have when so many segments have been handed out, if that is more than it has: half a step
    /// ahead of what is in use.
    pub(super) fn to_grow(&self, handed_out: u32) -> Option<u64> {
        let (Growth { step, limit }, medium) = (self.growth?, self.medium.as_ref()?);
        let most = u64::from(self.places) * SEGMENT_BYTES;
        let wanted = (u64::from(handed_out) * SEGMENT_BYTES + step / 2).min(most);
        let size = medium.size();
        (wanted > size).then(|| (size + (wanted - size).div_ceil(step) * step).min(limit))
    }
}

/// The volumes of a store, made new or, with `again`, as it was left; the first segment's number is `first`.
pub(super) fn open(spec: &StoreSpec, first: u32, again: bool) -> Result<Vec<Volume>> {
    spec.check()?;
    if again {
        spec.check_kept()?;
    }
    let StoreSpec { kind, limit, step } = spec;
    let growth = Some(Growth { step: *step, limit: *limit });
    let file = |file: StoreFile| -> Arc<dyn Medium> { Arc::new(file) };
    let mut volumes = Vec::new();
    match kind {
        StoreKind::Memory => add(&mut volumes, first, None, 0, *limit, None),
        StoreKind::File(path) => {
            let medium = match again {
                true => file(StoreFile::reopen(path)?),
                false => file(StoreFile::open(path, (*step).min(*limit))?),
            };
            add(&mut volumes, first, Some(medium), 0, *limit, growth);
        }
        StoreKind::Directory(path) => {
            let medium = file(StoreFile::unnamed(path, (*step).min(*limit))?);
            add(&mut volumes, first, Some(medium), 0, *limit, growth);
        }
        StoreKind::BlockDevice(path) => {
            let medium = file(StoreFile::device(path)?);
            let size = medium.size().min(*limit);
            add(&mut volumes, first, Some(medium), 0, size, None);
        }
        StoreKind::Ranges(ranges) => {
            let mut paths: Vec<_> = ranges.iter().map(|(path, _)| path).collect();
            paths.sort_unstable();
            paths.dedup();
            let mut left = *limit;
            for path in paths {
                let of_one: Vec<_> =
                    ranges.iter().filter(|(other, _)| other == path).map(|(_, range)| *range).collect();
                let medium = file(StoreFile::ranges(path, &of_one)?);
                for range in of_one {
                    let len = range.len().min(left) / SEGMENT_BYTES * SEGMENT_BYTES;
                    add(&mut volumes, first, Some(medium.clone()), range.start(), len, None);
                    left -= len;
                }
            }
        }
    }
    enough(volumes, spec)
}

/// A volume on a medium that is there already, of a fixed size or growing.
pub(super) fn on_medium(
    medium: Arc<dyn Medium>,
    spec: &StoreSpec,
    step: Option<u64>,
    first: u32,
) -> Result<Vec<Volume>> {
    let mut volumes = Vec::new();
    let limit = spec.limit;
    let growth = step.filter(|&step| step > 0).map(|step| Growth { step, limit });
    add(&mut volumes, first, Some(medium), 0, limit, growth);
    enough(volumes, spec)
}

fn add(
    volumes: &mut Vec<Volume>,
    first: u32,
    medium: Option<Arc<dyn Medium>>,
    offset: u64,
    bytes: u64,
    growth: Option<Growth>,
) {
    let first = volumes.last().map_or(first, Volume::end);
    let room = PLACES_MAX - u64::from(first);
    let places = u32::try_from((bytes / SEGMENT_BYTES).min(room)).unwrap_or(0);
    if places > 0 {
        volumes.push(Volume { first, places, medium, offset, growth });
    }
}

fn enough(volumes: Vec<Volume>, spec: &StoreSpec) -> Result<Vec<Volume>> {
    if volumes.is_empty() {
        let why = format!("diff storage {} has no room for {SEGMENT_BYTES} bytes", spec.kind.location());
        return Err(Error::new(ErrorKind::Invalid, why).op("open diff storage"));
    }
    Ok(volumes)
}

/// Why a storage takes nothing more, or a volume.
#[derive(Clone, Debug)]
pub(crate) struct Trouble {
    pub(crate) reason: String,
    pub(crate) cause: Option<Cause>,
}

impl Trouble {
    pub(super) fn of(error: &Error) -> Self {
        Self { reason: error.to_string(), cause: Some(Cause::of(error)) }
    }

    /// There is no memory, of the machine or in the numbers of an index: what no room in a storage helps.
    pub(crate) fn no_memory(reason: &str) -> Self {
        let cause = Cause { kind: ErrorKind::NoSpace, errno: Some(ENOMEM) };
        Self { reason: reason.to_owned(), cause: Some(cause) }
    }

    pub(crate) fn is_no_memory(&self) -> bool {
        self.cause.is_some_and(|cause| cause.errno == Some(ENOMEM))
    }
}

/// A volume in use.
pub(super) struct State {
    pub(super) volume: Arc<Volume>,
    /// Segments ever handed out, counted from its first.
    pub(super) next: u32,
    free: Vec<u32>,
    /// Segments it may have as things are: less than it can have where it could not grow.
    pub(super) usable: u32,
    /// It could not grow, for lack of space below, at that time.
    pub(super) stunted: Option<(Instant, Trouble)>,
    pub(super) broken: Option<Trouble>,
}

impl State {
    pub(super) fn new(volume: Arc<Volume>) -> Self {
        let usable = volume.places;
        Self { volume, next: 0, free: Vec::new(), usable, stunted: None, broken: None }
    }

    pub(super) fn has_place(&self) -> bool {
        self.broken.is_none() && (!self.free.is_empty() || self.next < self.usable)
    }

    pub(super) fn take(&mut self) -> Option<u32> {
        if self.broken.is_some() {
            return None;
        }
        if let Some(place) = self.free.pop() {
            return Some(place);
        }
        (self.next < self.usable).then(|| {
            self.next += 1;
            self.volume.first + self.next - 1
        })
    }

    pub(super) fn give_back(&mut self, place: u32) {
        self.free.push(place);
    }

    /// It could not grow: what it has must do, until there is space below.
    pub(super) fn stunt(&mut self, trouble: Trouble) {
        let size = self.volume.medium().map_or(0, |medium| medium.size());
        self.usable = u32::try_from(size / SEGMENT_BYTES).unwrap_or(u32::MAX).min(self.volume.places);
        self.stunted = Some((Instant::now(), trouble));
    }

    pub(super) fn grown(&mut self) {
        if self.stunted.take().is_some() {
            self.usable = self.volume.places;
        }
    }
}
