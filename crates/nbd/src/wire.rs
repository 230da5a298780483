//! What is on the wire: magics, numbers, flags and the fixed-size structures, all big-endian.
//!
//! Design notes: numbers that the peer may extend (options, reply types, commands) are plain integers or enums with
//! an `Other` variant, so that an unknown one is answered, not fatal. Structures are `zerocopy` views: parsing a
//! header is a bounds check.

use bitflags::bitflags;
use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First magic of the server's greeting, `NBDMAGIC`.
pub const GREETING_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// Second magic of a newstyle greeting and first of every option, `IHAVEOPT`.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Second magic of an oldstyle greeting, which is recognised only to be refused by name.
pub const OLDSTYLE_MAGIC: u64 = 0x0000_4202_8186_1253;
/// Magic of every option reply.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Magic of a compact request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Magic of an extended request.
pub const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// Magic of a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Magic of a structured reply chunk.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
/// Magic of an extended reply chunk.
pub const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

/// The IANA port of NBD.
pub const DEFAULT_PORT: u16 = 10809;
/// Longest string (export name, description, context name, message) either side may send, in bytes.
pub const MAX_STRING: usize = 4096;
/// Most option data that is parsed; longer is skipped or refused.
pub const MAX_OPTION_DATA: usize = 64 << 10;
/// Most option data that is skipped to keep the connection; beyond it the connection is closed.
pub const MAX_SKIPPED_OPTION: u32 = 1 << 20;
/// Options one connection may send in a negotiation phase.
pub const MAX_OPTIONS: u32 = 4096;
/// Most data of one read or write request, in bytes.
pub const MAX_PAYLOAD: u32 = 32 << 20;
/// Zeroes after the reply to `EXPORT_NAME` unless both sides set `NO_ZEROES`.
pub const EXPORT_NAME_ZEROES: usize = 124;

/// Option numbers.
pub mod opt {
    /// Choose an export and enter transmission; has no error reply.
    pub const EXPORT_NAME: u32 = 1;
    /// End the session.
    pub const ABORT: u32 = 2;
    /// List exports.
    pub const LIST: u32 = 3;
    /// Upgrade to TLS.
    pub const STARTTLS: u32 = 5;
    /// Describe an export.
    pub const INFO: u32 = 6;
    /// Choose an export and enter transmission.
    pub const GO: u32 = 7;
    /// Use structured replies.
    pub const STRUCTURED_REPLY: u32 = 8;
    /// List metadata contexts of an export.
    pub const LIST_META_CONTEXT: u32 = 9;
    /// Select metadata contexts of an export.
    pub const SET_META_CONTEXT: u32 = 10;
    /// Use extended (64-bit) headers.
    pub const EXTENDED_HEADERS: u32 = 11;
}

/// Option reply types.
pub mod rep {
    /// Done.
    pub const ACK: u32 = 1;
    /// One export of a list.
    pub const SERVER: u32 = 2;
    /// One item of information about an export.
    pub const INFO: u32 = 3;
    /// One metadata context.
    pub const META_CONTEXT: u32 = 4;
    /// Set in every error reply type.
    pub const ERROR_BIT: u32 = 1 << 31;
    /// The option is unknown to the server.
    pub const ERR_UNSUP: u32 = ERROR_BIT | 1;
    /// Forbidden by policy.
    pub const ERR_POLICY: u32 = ERROR_BIT | 2;
    /// The option's data is malformed, or it came at the wrong time.
    pub const ERR_INVALID: u32 = ERROR_BIT | 3;
    /// Not supported on this platform.
    pub const ERR_PLATFORM: u32 = ERROR_BIT | 4;
    /// TLS is required first.
    pub const ERR_TLS_REQD: u32 = ERROR_BIT | 5;
    /// No such export.
    pub const ERR_UNKNOWN: u32 = ERROR_BIT | 6;
    /// The server is shutting down.
    pub const ERR_SHUTDOWN: u32 = ERROR_BIT | 7;
    /// The client must ask for block sizes.
    pub const ERR_BLOCK_SIZE_REQD: u32 = ERROR_BIT | 8;
    /// The request or reply is too large.
    pub const ERR_TOO_BIG: u32 = ERROR_BIT | 9;
    /// Extended headers are required, or already negotiated.
    pub const ERR_EXT_HEADER_REQD: u32 = ERROR_BIT | 10;
}

/// Information types of `INFO` and `GO`.
pub mod info {
    /// Size and transmission flags.
    pub const EXPORT: u16 = 0;
    /// Canonical name.
    pub const NAME: u16 = 1;
    /// Description.
    pub const DESCRIPTION: u16 = 2;
    /// Block size constraints.
    pub const BLOCK_SIZE: u16 = 3;
}

/// Structured and extended reply chunk types.
pub mod chunk {
    /// Nothing but the flags.
    pub const NONE: u16 = 0;
    /// Data at an offset.
    pub const OFFSET_DATA: u16 = 1;
    /// Zeroes at an offset.
    pub const OFFSET_HOLE: u16 = 2;
    /// Extents of one context, 32-bit.
    pub const BLOCK_STATUS: u16 = 5;
    /// Extents of one context, 64-bit.
    pub const BLOCK_STATUS_EXT: u16 = 6;
    /// Set in every error chunk type.
    pub const ERROR_BIT: u16 = 1 << 15;
    /// An error.
    pub const ERROR: u16 = ERROR_BIT | 1;
    /// An error at an offset.
    pub const ERROR_OFFSET: u16 = ERROR_BIT | 2;
    /// Chunk flag: the last chunk of its reply.
    pub const FLAG_DONE: u16 = 1;
}

/// Status flags of `base:allocation`.
pub mod allocation {
    /// Not allocated.
    pub const HOLE: u32 = 1;
    /// Reads as zeroes.
    pub const ZERO: u32 = 2;
}

/// Status flag of `qemu:dirty-bitmap:NAME`: the extent is dirty.
pub const DIRTY: u32 = 1;

bitflags! {
    /// Flags of the greeting, from the server and, the same numbers, from the client.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct HandshakeFlags: u32 {
        /// Fixed newstyle: options get replies.
        const FIXED_NEWSTYLE = 1;
        /// No 124 zeroes after the reply to `EXPORT_NAME`.
        const NO_ZEROES = 2;
    }

    /// What an export can do.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct TransmissionFlags: u16 {
        /// Always set.
        const HAS_FLAGS = 1;
        /// Writes fail.
        const READ_ONLY = 1 << 1;
        /// `FLUSH` is supported.
        const SEND_FLUSH = 1 << 2;
        /// `FUA` is supported.
        const SEND_FUA = 1 << 3;
        /// A rotating medium.
        const ROTATIONAL = 1 << 4;
        /// `TRIM` is supported.
        const SEND_TRIM = 1 << 5;
        /// `WRITE_ZEROES` is supported.
        const SEND_WRITE_ZEROES = 1 << 6;
        /// `DF` is supported; needs structured replies.
        const SEND_DF = 1 << 7;
        /// A flush on one connection covers all.
        const CAN_MULTI_CONN = 1 << 8;
        /// `RESIZE` (never offered here).
        const SEND_RESIZE = 1 << 9;
        /// `CACHE` is supported.
        const SEND_CACHE = 1 << 10;
        /// `FAST_ZERO` is supported.
        const SEND_FAST_ZERO = 1 << 11;
        /// `BLOCK_STATUS` takes a payload that filters contexts; needs extended headers.
        const BLOCK_STATUS_PAYLOAD = 1 << 12;
        // Bits the peer may know and this crate does not are kept.
        const _ = !0;
    }

    /// Flags of a request.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct CommandFlags: u16 {
        /// Durable before the reply.
        const FUA = 1;
        /// `WRITE_ZEROES` must not deallocate.
        const NO_HOLE = 1 << 1;
        /// `READ` must be answered in one chunk.
        const DF = 1 << 2;
        /// `BLOCK_STATUS` wants one extent.
        const REQ_ONE = 1 << 3;
        /// `WRITE_ZEROES` must fail rather than be as slow as a write.
        const FAST_ZERO = 1 << 4;
        /// The header's length is that of a payload.
        const PAYLOAD_LEN = 1 << 5;
        // Unknown bits survive parsing so that the check can refuse them.
        const _ = !0;
    }
}

/// The client's name for a request, returned in its reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Cookie(pub u64);

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Read data.
    Read,
    /// Write data.
    Write,
    /// Soft disconnect; has no reply.
    Disconnect,
    /// Make everything acknowledged durable.
    Flush,
    /// Discard a range.
    Trim,
    /// Prefetch a range.
    Cache,
    /// Write zeroes without sending them.
    WriteZeroes,
    /// Query metadata contexts.
    BlockStatus,
    /// Anything else.
    Other(u16),
}

impl Command {
    /// The command of a wire number.
    #[inline]
    #[must_use]
    pub const fn from_code(code: u16) -> Self {
        match code {
            0 => Self::Read,
            1 => Self::Write,
            2 => Self::Disconnect,
            3 => Self::Flush,
            4 => Self::Trim,
            5 => Self::Cache,
            6 => Self::WriteZeroes,
            7 => Self::BlockStatus,
            other => Self::Other(other),
        }
    }

    /// The wire number.
    #[inline]
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::Read => 0,
            Self::Write => 1,
            Self::Disconnect => 2,
            Self::Flush => 3,
            Self::Trim => 4,
            Self::Cache => 5,
            Self::WriteZeroes => 6,
            Self::BlockStatus => 7,
            Self::Other(code) => code,
        }
    }
}

macro_rules! wire_struct {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
        #[repr(C)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type),* }

        impl $name {
            /// Size on the wire, in bytes.
            pub const SIZE: usize = size_of::<Self>();
        }
    };
}

wire_struct! {
    /// The server's first message.
    Greeting {
        /// [`GREETING_MAGIC`].
        magic: U64,
        /// [`OPTION_MAGIC`].
        option_magic: U64,
        /// [`HandshakeFlags`].
        flags: U16,
    }
}
wire_struct! {
    /// Before the data of an option.
    OptionHeader {
        /// [`OPTION_MAGIC`].
        magic: U64,
        /// One of [`opt`].
        option: U32,
        /// Bytes of data that follow.
        length: U32,
    }
}
wire_struct! {
    /// Before the data of an option reply.
    OptionReplyHeader {
        /// [`OPTION_REPLY_MAGIC`].
        magic: U64,
        /// The option replied to.
        option: U32,
        /// One of [`rep`].
        reply: U32,
        /// Bytes of data that follow.
        length: U32,
    }
}
wire_struct! {
    /// Reply to `EXPORT_NAME`, and the rest of information item `EXPORT` after its type.
    ExportHeader {
        /// Size of the export in bytes.
        size: U64,
        /// [`TransmissionFlags`].
        flags: U16,
    }
}
wire_struct! {
    /// The rest of information item `BLOCK_SIZE` after its type.
    BlockSizeHeader {
        /// Requests are multiples of this.
        minimum: U32,
        /// Requests of multiples of this are efficient.
        preferred: U32,
        /// Longest data of a request.
        maximum: U32,
    }
}
wire_struct! {
    /// A compact request.
    CompactRequest {
        /// [`REQUEST_MAGIC`].
        magic: U32,
        /// [`CommandFlags`].
        flags: U16,
        /// [`Command`].
        command: U16,
        /// [`Cookie`].
        cookie: U64,
        /// Where, in bytes.
        offset: U64,
        /// How much, in bytes.
        length: U32,
    }
}
wire_struct! {
    /// An extended request.
    ExtendedRequest {
        /// [`EXTENDED_REQUEST_MAGIC`].
        magic: U32,
        /// [`CommandFlags`].
        flags: U16,
        /// [`Command`].
        command: U16,
        /// [`Cookie`].
        cookie: U64,
        /// Where, in bytes.
        offset: U64,
        /// How much, or with `PAYLOAD_LEN` the payload's length, in bytes.
        length: U64,
    }
}
wire_struct! {
    /// A simple reply.
    SimpleReply {
        /// [`SIMPLE_REPLY_MAGIC`].
        magic: U32,
        /// 0 or an error number.
        error: U32,
        /// [`Cookie`].
        cookie: U64,
    }
}
wire_struct! {
    /// Header of a structured reply chunk.
    StructuredReply {
        /// [`STRUCTURED_REPLY_MAGIC`].
        magic: U32,
        /// [`chunk::FLAG_DONE`].
        flags: U16,
        /// One of [`chunk`].
        kind: U16,
        /// [`Cookie`].
        cookie: U64,
        /// Bytes of payload that follow.
        length: U32,
    }
}
wire_struct! {
    /// Header of an extended reply chunk.
    ExtendedReply {
        /// [`EXTENDED_REPLY_MAGIC`].
        magic: U32,
        /// [`chunk::FLAG_DONE`].
        flags: U16,
        /// One of [`chunk`].
        kind: U16,
        /// [`Cookie`].
        cookie: U64,
        /// Offset of the request.
        offset: U64,
        /// Bytes of payload that follow.
        length: U64,
    }
}
wire_struct! {
    /// Payload of `OFFSET_HOLE`.
    HolePayload {
        /// Where, in bytes.
        offset: U64,
        /// How many zeroes.
        length: U32,
    }
}
wire_struct! {
    /// Start of the payload of an error chunk; the message follows.
    ErrorPayload {
        /// Error number, not 0.
        error: U32,
        /// Bytes of message that follow.
        message_length: U16,
    }
}
wire_struct! {
    /// One extent of `BLOCK_STATUS`.
    NarrowExtent {
        /// Length in bytes.
        length: U32,
        /// The context's flags.
        flags: U32,
    }
}
wire_struct! {
    /// One extent of `BLOCK_STATUS_EXT`.
    WideExtent {
        /// Length in bytes.
        length: U64,
        /// The context's flags.
        flags: U64,
    }
}
wire_struct! {
    /// Start of the payload of `BLOCK_STATUS_EXT`; the extents follow.
    WideStatusPayload {
        /// Context.
        context: U32,
        /// How many extents follow.
        count: U32,
    }
}
