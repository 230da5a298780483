//! The NBD protocol without I/O: wire structures, negotiation and transmission, both sides.
//!
//! Design notes
//!
//! * **Sans-I/O.** Every function takes the bytes that have arrived and says how many of them it used; it never
//!   reads, writes or waits. The caller owns sockets, TLS and time limits.
//! * **The peer's word buys nothing.** No length, count or name sent by the peer sizes an allocation: whatever is
//!   kept is bounded by a constant of this crate ([`wire::MAX_OPTION_DATA`], [`wire::MAX_STRING`],
//!   [`meta::MAX_CONTEXTS`]) and by bytes that have really arrived.
//! * **The hot path allocates nothing.** [`RequestHead::parse`], [`RequestLimits::check`] and [`ReplyWriter`] work
//!   in the caller's buffers; payload bytes never pass through this crate.
//!
//! The byte tables are in `docs/format/nbd.md`.

pub mod error;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz_entry;
pub mod meta;
pub mod negotiate;
pub mod options;
pub mod transmission;
pub mod uri;
pub mod wire;

pub use error::{ClientError, NegotiationError, ProtocolError, UriError, WireError};
pub use meta::{ContextId, SelectedContext};
pub use negotiate::client::{
    ClientConfig, ClientGoal, ClientNegotiation, ClientStep, ClientTls, ListedExport, NegotiatedExport,
};
pub use negotiate::server::{ServerConfig, ServerNegotiation, Step, TlsPolicy, Transmission};
pub use negotiate::{BlockSizes, ExportCatalog, ExportEntry, ExportInfo, NegotiatedOptions, ReplyForm};
pub use transmission::decode::{Extent, ExtentDecoder, ReadProgress, Reply, ReplyBody};
pub use transmission::reply::{NoRoom, ReplyWriter};
pub use transmission::request::{BlockStatusFilter, RequestHead, RequestLimits};
pub use uri::{NbdUri, TlsKind, TlsOptions, Transport};
pub use wire::{Command, CommandFlags, Cookie, TransmissionFlags};
