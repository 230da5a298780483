//! The bytes of a journal. The table is `docs/format/journal.md`; a golden sample in the tests holds both to it.

use crc_fast::{CrcAlgorithm, Digest, checksum};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// What a journal begins with.
pub(super) const MAGIC: [u8; 8] = *b"BWLSNAPJ";
/// What a mark of failure begins with.
pub(super) const FAILED_MAGIC: [u8; 8] = *b"BWLSNAPF";
/// What a frame begins with.
pub(super) const FRAME_MAGIC: [u8; 4] = *b"FRM1";
/// The version that is written, and the only one that is read.
pub(super) const VERSION: u32 = 1;

/// Header and mark of failure are a sector each, so that neither is ever half there.
pub(super) const SECTOR: usize = 512;
/// Where the mark of failure is.
pub(super) const FAILED_AT: u64 = SECTOR as u64;
/// Where the frames begin.
pub(super) const FRAMES_AT: u64 = 2 * SECTOR as u64;
/// Frames begin at multiples of this.
pub(super) const ALIGN: usize = 8;
/// Bytes of records in one frame, at most.
pub(super) const PAYLOAD_MAX: usize = 1 << 20;
/// Bytes of a device's name, at most.
pub(super) const NAME_MAX: usize = 255;
/// Bytes of a reason, at most; a longer one is cut.
pub(super) const REASON_MAX: usize = 400;
/// Bytes of what a store is found by, and of a fingerprint.
pub(super) const TEXT_MAX: usize = 48 << 10;

/// Sector 0.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct HeaderBytes {
    pub(super) magic: [u8; 8],
    pub(super) version: U32,
    pub(super) block_bytes: U32,
    pub(super) generation: [u8; 16],
    pub(super) size: U64,
    pub(super) name_bytes: U32,
    pub(super) name: [u8; 256],
    pub(super) unused: [u8; 208],
    /// Of all before.
    pub(super) crc: U32,
}

/// Sector 1; all zero as long as the journal has not failed.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct FailedBytes {
    pub(super) magic: [u8; 8],
    pub(super) reason_bytes: U32,
    pub(super) reason: [u8; REASON_MAX],
    pub(super) unused: [u8; 96],
    pub(super) crc: U32,
}

/// What stands before the records of a frame.
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct FrameBytes {
    pub(super) magic: [u8; 4],
    pub(super) payload_bytes: U32,
    pub(super) sequence: U64,
    pub(super) records: U32,
    /// Of the generation, the header before this field and the payload.
    pub(super) crc: U32,
}

/// Bytes of a frame's header.
pub(super) const FRAME_BYTES: usize = size_of::<FrameBytes>();

/// What stands before each record.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RecordBytes {
    pub(super) kind: U16,
    pub(super) reserved: U16,
    /// With this header and the padding.
    pub(super) bytes: U32,
}

/// Blocks that were copied into consecutive slots, or written to an image; their checksums follow.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct SlotsBytes {
    pub(super) epoch: U64,
    pub(super) first: U64,
    pub(super) place: U32,
    pub(super) store: U16,
    pub(super) slot: u8,
    pub(super) count: u8,
}

/// Blocks that are zero.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct ZeroBytes {
    pub(super) epoch: U64,
    pub(super) first: U64,
    pub(super) count: U64,
}

/// The take of a persistent snapshot.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct MemberBytes {
    pub(super) epoch: U64,
    pub(super) snapshot: [u8; 16],
    pub(super) size: U64,
    pub(super) store: U16,
    pub(super) unused: [u8; 6],
}

/// A store, or more of one; what it is found by follows.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct StoreBytes {
    pub(super) id: [u8; 16],
    pub(super) store: U16,
    pub(super) unused: [u8; 2],
    pub(super) text_bytes: U32,
}

/// An epoch; and a reason may follow.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct EpochBytes {
    pub(super) epoch: U64,
    pub(super) text_bytes: U32,
    pub(super) unused: [u8; 4],
}

pub(crate) fn crc(bytes: &[u8]) -> u32 {
    narrow(checksum(CrcAlgorithm::Crc32Iscsi, bytes))
}

/// The checksum of a frame, which holds for this journal only.
pub(super) fn frame_crc(generation: &[u8; 16], head: &FrameBytes, payload: &[u8]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(generation);
    digest.update(head.as_bytes().get(..FRAME_BYTES - 4).unwrap_or_default());
    digest.update(payload);
    narrow(digest.finalize())
}

fn narrow(crc: u64) -> u32 {
    u32::try_from(crc & u64::from(u32::MAX)).unwrap_or(0)
}

const _: () = assert!(size_of::<HeaderBytes>() == SECTOR && size_of::<FailedBytes>() == SECTOR);
const _: () = assert!(FRAME_BYTES.is_multiple_of(ALIGN) && size_of::<RecordBytes>().is_multiple_of(ALIGN));
