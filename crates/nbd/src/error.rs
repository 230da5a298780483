//! Errors: the eight error numbers of the wire, and what can be wrong with a peer.
//!
//! Design notes: a [`WireError`] is an answer to one request and the connection goes on. Everything else means that
//! the byte stream can no longer be trusted: the caller sends what is in its output buffer, if anything, and closes.

use thiserror::Error;

/// An error number of the wire: the answer to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
pub enum WireError {
    /// Not permitted, as a write to a read-only export.
    #[error("operation not permitted")]
    NotPermitted,
    /// Input or output error.
    #[error("input/output error")]
    Io,
    /// Out of memory.
    #[error("cannot allocate memory")]
    NoMemory,
    /// Invalid request.
    #[error("invalid argument")]
    Invalid,
    /// No space, or a write beyond the end.
    #[error("no space left on device")]
    NoSpace,
    /// The reply would be too large.
    #[error("value too large")]
    Overflow,
    /// Not supported.
    #[error("operation not supported")]
    NotSupported,
    /// The server is shutting down.
    #[error("server is shutting down")]
    Shutdown,
}

impl WireError {
    /// The number on the wire.
    #[inline]
    #[must_use]
    pub const fn code(self) -> u32 {
        match self {
            Self::NotPermitted => 1,
            Self::Io => 5,
            Self::NoMemory => 12,
            Self::Invalid => 22,
            Self::NoSpace => 28,
            Self::Overflow => 75,
            Self::NotSupported => 95,
            Self::Shutdown => 108,
        }
    }

    /// The error of a number that is not 0; an unknown number is [`WireError::Invalid`], as the protocol asks.
    #[inline]
    #[must_use]
    pub const fn from_code(code: u32) -> Self {
        match code {
            1 => Self::NotPermitted,
            5 => Self::Io,
            12 => Self::NoMemory,
            28 => Self::NoSpace,
            75 => Self::Overflow,
            95 => Self::NotSupported,
            108 => Self::Shutdown,
            _ => Self::Invalid,
        }
    }
}

/// Why the server ends a negotiation.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NegotiationError {
    /// Handshake flags that the server did not offer.
    #[error("client flags {0:#x} hold bits that were not offered")]
    ClientFlags(u32),
    /// An option does not begin with `IHAVEOPT`.
    #[error("option magic is {0:#018x}, not IHAVEOPT")]
    OptionMagic(u64),
    /// More options than one connection may send.
    #[error("more than {0} options in one negotiation")]
    TooManyOptions(u32),
    /// Option data too long even to skip.
    #[error("option {option} announces {length} bytes of data")]
    OptionTooLong {
        /// Option number.
        option: u32,
        /// Announced length in bytes.
        length: u32,
    },
    /// `EXPORT_NAME` while TLS is required; the option has no error reply.
    #[error("export name requested without TLS, which is required")]
    TlsRequired,
    /// `EXPORT_NAME` of an export that is not there; the option has no error reply.
    #[error("no export named {0:?}")]
    UnknownExport(String),
    /// `EXPORT_NAME` with a name that is too long or not UTF-8, or after extended headers; it has no error reply.
    #[error("option EXPORT_NAME refused: {0}")]
    ExportName(&'static str),
    /// A client without fixed newstyle may only send `EXPORT_NAME`.
    #[error("option {0} from a client without fixed newstyle")]
    NotFixedNewstyle(u32),
    /// Stepped between `StartTls` and `tls_established`.
    #[error("plain bytes where TLS was to begin")]
    TlsPending,
    /// Stepped after the negotiation ended.
    #[error("negotiation is over")]
    Finished,
}

/// What is wrong with the byte stream of the transmission phase, on either side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ProtocolError {
    /// A request with the wrong magic.
    #[error("request magic is {found:#010x}, expected {expected:#010x}")]
    RequestMagic {
        /// What came.
        found: u32,
        /// What this connection negotiated.
        expected: u32,
    },
    /// A reply with a magic that was not negotiated.
    #[error("reply magic {0:#010x} does not belong to this connection")]
    ReplyMagic(u32),
    /// A chunk type that is not known.
    #[error("reply chunk type {0} is unknown")]
    ChunkType(u16),
    /// A chunk whose payload length does not fit its type.
    #[error("reply chunk type {kind} with {length} bytes of payload")]
    ChunkLength {
        /// Chunk type.
        kind: u16,
        /// Payload length in bytes.
        length: u64,
    },
    /// An error chunk with error number 0.
    #[error("error chunk without an error number")]
    ErrorZero,
    /// A chunk of type `NONE` without the `DONE` flag.
    #[error("empty chunk that is not the last of its reply")]
    EmptyNotDone,
    /// An extent of length 0, or extents whose sum overflows.
    #[error("block status extents are empty or overflow")]
    Extent,
    /// Data or a hole outside the read it answers, or more than was asked for.
    #[error("read reply for {length} bytes at offset {offset} is outside the request")]
    ReadRange {
        /// Offset of the chunk.
        offset: u64,
        /// Length of the chunk in bytes.
        length: u64,
    },
    /// A read reply that ended before all bytes came.
    #[error("read reply ended {missing} bytes short")]
    ReadShort {
        /// Bytes that never came.
        missing: u64,
    },
}

/// Why the client ends a negotiation.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ClientError {
    /// The peer does not speak NBD.
    #[error("greeting {0:#018x} is not that of an NBD server")]
    NotNbd(u64),
    /// An oldstyle server.
    #[error("the server speaks only the oldstyle handshake, which has no options")]
    Oldstyle,
    /// A reply does not begin with the reply magic.
    #[error("option reply magic is {0:#018x}")]
    ReplyMagic(u64),
    /// A reply to another option than the one sent.
    #[error("reply to option {found} while waiting for option {expected}")]
    WrongOption {
        /// Option of the reply.
        found: u32,
        /// Option that was sent.
        expected: u32,
    },
    /// A reply longer than is read.
    #[error("reply to option {option} announces {length} bytes")]
    ReplyTooLong {
        /// Option number.
        option: u32,
        /// Announced length in bytes.
        length: u32,
    },
    /// More replies than the option can have.
    #[error("too many replies to option {0}")]
    TooManyReplies(u32),
    /// A reply type or its data that does not fit the option.
    #[error("bad reply to option {option}: {what}")]
    BadReply {
        /// Option number.
        option: u32,
        /// What is wrong.
        what: &'static str,
    },
    /// The server refused an option that is needed.
    #[error("server refused option {option} ({reason}): {message}")]
    Refused {
        /// Option number.
        option: u32,
        /// Name of the reply type.
        reason: &'static str,
        /// The server's text, printable and cut to a bound.
        message: String,
    },
    /// The server cannot do TLS and the caller wants it.
    #[error("TLS is required and the server does not offer it: {0}")]
    NoTls(String),
    /// The server offers too little for what was asked, as listing without fixed newstyle.
    #[error("the server cannot {0}")]
    Unsupported(&'static str),
    /// The name, or a context, is longer than the protocol allows.
    #[error("{0} is longer than 4096 bytes")]
    NameTooLong(&'static str),
    /// Stepped between `StartTls` and `tls_established`.
    #[error("plain bytes where TLS was to begin")]
    TlsPending,
    /// Stepped after the negotiation ended.
    #[error("negotiation is over")]
    Finished,
}

/// What is wrong with an NBD URI; each names its part.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UriError {
    /// No `scheme:` or not one of the four.
    #[error("URI scheme {0:?} is not nbd, nbds, nbd+unix or nbds+unix")]
    Scheme(String),
    /// The scheme is not followed by `//`.
    #[error("URI has no \"//\" after its scheme")]
    NoAuthority,
    /// The host is missing or malformed.
    #[error("URI host {0:?} is not a host name or address")]
    Host(String),
    /// The port is not a number from 1 to 65535.
    #[error("URI port {0:?} is not a number from 1 to 65535")]
    Port(String),
    /// The export name is malformed.
    #[error("URI export name {0}")]
    Export(&'static str),
    /// `%` not followed by two hexadecimal digits.
    #[error("URI {part} holds a % that is not followed by two hexadecimal digits")]
    Percent {
        /// The part of the URI.
        part: &'static str,
    },
    /// A part is not UTF-8 once decoded.
    #[error("URI {part} is not UTF-8")]
    NotUtf8 {
        /// The part of the URI.
        part: &'static str,
    },
    /// A character that must be percent-encoded.
    #[error("URI {part} holds {character:?}, which must be percent-encoded")]
    Character {
        /// The part of the URI.
        part: &'static str,
        /// The character.
        character: char,
    },
    /// A Unix scheme without `socket`.
    #[error("URI has no socket= parameter, which {0} needs")]
    NoSocket(&'static str),
    /// The socket path is empty or holds a NUL.
    #[error("URI socket parameter {0}")]
    Socket(&'static str),
    /// A host where a socket is used.
    #[error("URI names host {0:?} although its scheme uses a Unix socket")]
    HostWithSocket(String),
    /// A query parameter that is not known, or not with this scheme.
    #[error("URI parameter {0:?} is not known here")]
    Parameter(String),
    /// A parameter given twice.
    #[error("URI parameter {0:?} is given twice")]
    Repeated(String),
    /// A parameter with a value it does not take.
    #[error("URI parameter {name} does not take {value:?}")]
    Value {
        /// The parameter.
        name: &'static str,
        /// Its value.
        value: String,
    },
    /// A fragment.
    #[error("URI has a #fragment, which NBD does not use")]
    Fragment,
    /// Longer than any sane URI.
    #[error("URI is {0} bytes long")]
    TooLong(usize),
}
