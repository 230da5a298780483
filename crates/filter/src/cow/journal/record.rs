//! What a journal says, one thing at a time.

use uuid::Uuid;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::layout::{
    ALIGN, EpochBytes, MemberBytes, REASON_MAX, RecordBytes, SlotsBytes, StoreBytes, TEXT_MAX, ZeroBytes,
};
use crate::cow::segment::SEGMENT_SLOTS;

const HEAD: usize = size_of::<RecordBytes>();

/// A slot of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    /// The number that a [`Record::Store`] gave the store.
    pub(crate) store: u16,
    /// A segment of it.
    pub(crate) segment: u32,
    /// A slot of that.
    pub(crate) slot: u8,
}

impl Place {
    /// The slot so many further on in the same segment.
    pub(crate) fn plus(self, slots: u64) -> Self {
        Self { slot: self.slot.saturating_add(u8::try_from(slots).unwrap_or(u8::MAX)), ..self }
    }
}

/// Blocks in consecutive slots of one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slots {
    pub(crate) epoch: u64,
    /// The first block.
    pub(crate) first: u64,
    pub(crate) at: Place,
    /// The checksum of each block, in the order of the blocks.
    pub(crate) crcs: Vec<u32>,
}

/// Blocks of zeroes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Zero {
    pub(crate) epoch: u64,
    pub(crate) first: u64,
    pub(crate) count: u64,
}

/// The take of a persistent snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) epoch: u64,
    pub(crate) snapshot: Uuid,
    /// Bytes of the image.
    pub(crate) size: u64,
    /// Its diff storage.
    pub(crate) store: u16,
}

/// One thing that a journal says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// From now on the number is that of this store, which is found by the text.
    Store { store: u16, id: Uuid, spec: String },
    /// The store was extended.
    MoreStore { store: u16, id: Uuid, spec: String },
    /// Nothing is in the store any more.
    NoStore { store: u16 },
    /// A snapshot was taken.
    Member(Taken),
    /// It was removed.
    Removed { epoch: u64 },
    /// It failed.
    Failed { epoch: u64, reason: String },
    /// Old contents.
    Copied(Slots),
    /// Old contents that were zero.
    Zero(Zero),
    /// What was written to an image, with the epoch of its snapshot.
    ImageWritten(Slots),
    /// Zeroes written to an image.
    ImageZero(Zero),
    /// A daemon begins to use the journal; epochs up to this one are taken.
    Opened { last_epoch: u64 },
    /// It has stopped using it; the origin was so then.
    Clean { fingerprint: Vec<u8> },
}

mod kind {
    pub(super) const STORE: u16 = 1;
    pub(super) const MORE_STORE: u16 = 2;
    pub(super) const NO_STORE: u16 = 3;
    pub(super) const MEMBER: u16 = 4;
    pub(super) const REMOVED: u16 = 5;
    pub(super) const FAILED: u16 = 6;
    pub(super) const COPIED: u16 = 7;
    pub(super) const ZERO: u16 = 8;
    pub(super) const IMAGE_WRITTEN: u16 = 9;
    pub(super) const IMAGE_ZERO: u16 = 10;
    pub(super) const OPENED: u16 = 11;
    pub(super) const CLEAN: u16 = 12;
}

/// The text, cut where a character ends.
pub(super) fn cut(text: &str, most: usize) -> &str {
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

impl Record {
    /// Adds its bytes.
    pub(super) fn encode(&self, to: &mut Vec<u8>) {
        let (start, kind) = (to.len(), self.kind());
        to.extend_from_slice(&[0; HEAD]);
        match self {
            Self::Store { store, id, spec } | Self::MoreStore { store, id, spec } => {
                put(to, &store_bytes(*store, *id, count(spec.len())));
                to.extend_from_slice(spec.as_bytes());
            }
            Self::NoStore { store } => put(to, &store_bytes(*store, Uuid::nil(), 0)),
            Self::Member(taken) => {
                let bytes = MemberBytes {
                    epoch: taken.epoch.into(),
                    snapshot: taken.snapshot.into_bytes(),
                    size: taken.size.into(),
                    store: taken.store.into(),
                    unused: [0; 6],
                };
                put(to, &bytes);
            }
            Self::Removed { epoch } => put(to, &epoch_bytes(*epoch, 0)),
            Self::Failed { epoch, reason } => {
                let reason = cut(reason, REASON_MAX);
                put(to, &epoch_bytes(*epoch, count(reason.len())));
                to.extend_from_slice(reason.as_bytes());
            }
            Self::Copied(slots) | Self::ImageWritten(slots) => {
                let bytes = SlotsBytes {
                    epoch: slots.epoch.into(),
                    first: slots.first.into(),
                    place: slots.at.segment.into(),
                    store: slots.at.store.into(),
                    slot: slots.at.slot,
                    count: u8::try_from(slots.crcs.len()).unwrap_or(0),
                };
                put(to, &bytes);
                slots.crcs.iter().for_each(|crc| to.extend_from_slice(&crc.to_le_bytes()));
            }
            Self::Zero(zero) | Self::ImageZero(zero) => {
                let Zero { epoch, first, count } = *zero;
                put(to, &ZeroBytes { epoch: epoch.into(), first: first.into(), count: count.into() });
            }
            Self::Opened { last_epoch } => put(to, &epoch_bytes(*last_epoch, 0)),
            Self::Clean { fingerprint } => {
                put(to, &epoch_bytes(0, count(fingerprint.len())));
                to.extend_from_slice(fingerprint);
            }
        }
        to.resize(to.len().next_multiple_of(ALIGN), 0);
        let head =
            RecordBytes { kind: kind.into(), reserved: 0.into(), bytes: count(to.len() - start).into() };
        if let Some(room) = to.get_mut(start..start + HEAD) {
            room.copy_from_slice(head.as_bytes());
        }
    }

    /// Bytes it takes.
    pub(super) fn encoded_bytes(&self) -> usize {
        let body = match self {
            Self::Store { spec, .. } | Self::MoreStore { spec, .. } => size_of::<StoreBytes>() + spec.len(),
            Self::NoStore { .. } => size_of::<StoreBytes>(),
            Self::Member(_) => size_of::<MemberBytes>(),
            Self::Removed { .. } => size_of::<EpochBytes>(),
            Self::Failed { reason, .. } => size_of::<EpochBytes>() + reason.len().min(REASON_MAX),
            Self::Copied(slots) | Self::ImageWritten(slots) => size_of::<SlotsBytes>() + slots.crcs.len() * 4,
            Self::Zero(_) | Self::ImageZero(_) => size_of::<ZeroBytes>(),
            Self::Opened { .. } => size_of::<EpochBytes>(),
            Self::Clean { fingerprint } => size_of::<EpochBytes>() + fingerprint.len(),
        };
        HEAD + body.next_multiple_of(ALIGN)
    }

    fn kind(&self) -> u16 {
        match self {
            Self::Store { .. } => kind::STORE,
            Self::MoreStore { .. } => kind::MORE_STORE,
            Self::NoStore { .. } => kind::NO_STORE,
            Self::Member(_) => kind::MEMBER,
            Self::Removed { .. } => kind::REMOVED,
            Self::Failed { .. } => kind::FAILED,
            Self::Copied(_) => kind::COPIED,
            Self::Zero(_) => kind::ZERO,
            Self::ImageWritten(_) => kind::IMAGE_WRITTEN,
            Self::ImageZero(_) => kind::IMAGE_ZERO,
            Self::Opened { .. } => kind::OPENED,
            Self::Clean { .. } => kind::CLEAN,
        }
    }

    /// The first record of `bytes`, and what follows it.
    pub(super) fn decode(bytes: &[u8]) -> Result<(Self, &[u8]), String> {
        let (head, _) = RecordBytes::ref_from_prefix(bytes).map_err(|_| "a record has no header")?;
        let len = usize::try_from(head.bytes.get()).unwrap_or(usize::MAX);
        if len < HEAD || len % ALIGN != 0 {
            return Err(format!("a record says that it has {len} bytes"));
        }
        let Some((own, rest)) = bytes.split_at_checked(len) else {
            return Err(format!("a record of {len} bytes has {} left", bytes.len()));
        };
        let body = own.get(HEAD..).unwrap_or_default();
        let record = match head.kind.get() {
            kind::STORE => store(body).map(|(store, id, spec)| Self::Store { store, id, spec }),
            kind::MORE_STORE => store(body).map(|(store, id, spec)| Self::MoreStore { store, id, spec }),
            kind::NO_STORE => store(body).map(|(store, ..)| Self::NoStore { store }),
            kind::MEMBER => member(body).map(Self::Member),
            kind::REMOVED => epoch(body).map(|(epoch, _)| Self::Removed { epoch }),
            kind::FAILED => epoch(body).and_then(|(epoch, reason)| {
                let reason = text(reason, "a reason")?;
                Ok(Self::Failed { epoch, reason: reason.to_owned() })
            }),
            kind::COPIED => slots(body).map(Self::Copied),
            kind::ZERO => zero(body).map(Self::Zero),
            kind::IMAGE_WRITTEN => slots(body).map(Self::ImageWritten),
            kind::IMAGE_ZERO => zero(body).map(Self::ImageZero),
            kind::OPENED => epoch(body).map(|(last_epoch, _)| Self::Opened { last_epoch }),
            kind::CLEAN => {
                epoch(body).map(|(_, fingerprint)| Self::Clean { fingerprint: fingerprint.to_vec() })
            }
            other => Err(format!("a record is of the unknown kind {other}")),
        };
        record.map(|record| (record, rest))
    }
}

fn put(to: &mut Vec<u8>, bytes: &(impl IntoBytes + Immutable)) {
    to.extend_from_slice(bytes.as_bytes());
}

fn store_bytes(store: u16, id: Uuid, text_bytes: u32) -> StoreBytes {
    StoreBytes { id: id.into_bytes(), store: store.into(), unused: [0; 2], text_bytes: text_bytes.into() }
}

fn epoch_bytes(epoch: u64, text_bytes: u32) -> EpochBytes {
    EpochBytes { epoch: epoch.into(), text_bytes: text_bytes.into(), unused: [0; 4] }
}

fn get<T: FromBytes + KnownLayout + Immutable + Unaligned>(body: &[u8]) -> Result<(&T, &[u8]), String> {
    T::ref_from_prefix(body).map_err(|_| format!("a record has {} bytes of contents only", body.len()))
}

fn take(rest: &[u8], len: u32) -> Result<&[u8], String> {
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    rest.get(..len).filter(|_| len <= TEXT_MAX).ok_or_else(|| format!("a text of {len} bytes is not there"))
}

fn text<'a>(bytes: &'a [u8], what: &str) -> Result<&'a str, String> {
    std::str::from_utf8(bytes).map_err(|_| format!("{what} is no text"))
}

fn store(body: &[u8]) -> Result<(u16, Uuid, String), String> {
    let (bytes, rest) = get::<StoreBytes>(body)?;
    let spec = text(take(rest, bytes.text_bytes.get())?, "what a store is found by")?;
    Ok((bytes.store.get(), Uuid::from_bytes(bytes.id), spec.to_owned()))
}

fn epoch(body: &[u8]) -> Result<(u64, &[u8]), String> {
    let (bytes, rest) = get::<EpochBytes>(body)?;
    Ok((bytes.epoch.get(), take(rest, bytes.text_bytes.get())?))
}

fn member(body: &[u8]) -> Result<Taken, String> {
    let (bytes, _) = get::<MemberBytes>(body)?;
    Ok(Taken {
        epoch: bytes.epoch.get(),
        snapshot: Uuid::from_bytes(bytes.snapshot),
        size: bytes.size.get(),
        store: bytes.store.get(),
    })
}

fn slots(body: &[u8]) -> Result<Slots, String> {
    let (bytes, rest) = get::<SlotsBytes>(body)?;
    let at = Place { store: bytes.store.get(), segment: bytes.place.get(), slot: bytes.slot };
    let count = u32::from(bytes.count);
    if count == 0 || u32::from(at.slot) + count > SEGMENT_SLOTS {
        return Err(format!("{count} blocks from slot {} on are not in one segment", at.slot));
    }
    let crcs = rest.chunks_exact(4).take(usize::from(bytes.count));
    let crcs: Vec<u32> = crcs.filter_map(|crc| crc.try_into().ok().map(u32::from_le_bytes)).collect();
    if crcs.len() != usize::from(bytes.count) {
        return Err(format!("{count} blocks have {} checksums", crcs.len()));
    }
    Ok(Slots { epoch: bytes.epoch.get(), first: bytes.first.get(), at, crcs })
}

fn zero(body: &[u8]) -> Result<Zero, String> {
    let (bytes, _) = get::<ZeroBytes>(body)?;
    Ok(Zero { epoch: bytes.epoch.get(), first: bytes.first.get(), count: bytes.count.get() })
}
