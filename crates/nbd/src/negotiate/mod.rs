//! Negotiation: from the greeting to the transmission phase, both sides.
//!
//! Design notes: both machines take the bytes that have arrived and do at most one thing per step (one option, one
//! reply), so that the caller can send what was produced before it goes on, and a peer that never reads cannot make
//! output pile up. A machine asks for more input with the *total* number of bytes that it needs next, which is
//! bounded by [`MAX_NEEDED`].

pub mod client;
mod client_reply;
pub mod server;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_client;
#[cfg(test)]
mod tests_pair;

use crate::meta::SelectedContext;
use crate::wire::{self, TransmissionFlags};

/// Most bytes a negotiation step can ask to see at once; the caller's buffer must hold as many.
pub const MAX_NEEDED: usize = wire::MAX_OPTION_DATA + wire::OptionReplyHeader::SIZE;

/// How replies are framed, which also tells how requests are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReplyForm {
    /// Compact requests, simple replies.
    #[default]
    Simple,
    /// Compact requests, structured replies.
    Structured,
    /// Extended requests and replies.
    Extended,
}

impl ReplyForm {
    /// Whether requests and replies have 64-bit headers.
    #[inline]
    #[must_use]
    pub const fn is_extended(self) -> bool {
        matches!(self, Self::Extended)
    }

    /// Size of a request header, in bytes.
    #[inline]
    #[must_use]
    pub const fn request_size(self) -> usize {
        if self.is_extended() { wire::ExtendedRequest::SIZE } else { wire::CompactRequest::SIZE }
    }
}

/// Block size constraints of an export, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockSizes {
    /// Offsets and lengths are multiples of this; a power of two.
    pub minimum: u32,
    /// Requests of multiples of this are efficient; a power of two.
    pub preferred: u32,
    /// Longest data of a request.
    pub maximum: u32,
}

impl BlockSizes {
    /// What the protocol lets a client assume when the server says nothing.
    pub const DEFAULT: Self = Self { minimum: 1, preferred: 4096, maximum: wire::MAX_PAYLOAD };
}

/// One line of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportEntry {
    /// Export name.
    pub name: String,
    /// Text for a human, may be empty.
    pub description: String,
}

/// What the server tells of an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportInfo {
    /// The canonical name, which may differ from the one asked for (the default export).
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// What it can do. `HAS_FLAGS`, `SEND_DF` and `BLOCK_STATUS_PAYLOAD` are set by the negotiation itself.
    pub flags: TransmissionFlags,
    /// Block size constraints.
    pub blocks: BlockSizes,
    /// Text for a human, may be empty.
    pub description: String,
    /// Full names of the metadata contexts that a listing shows.
    pub contexts: Vec<String>,
}

/// The exports that a server has, asked at each option so that they may come and go.
pub trait ExportCatalog {
    /// All exports, for `LIST`.
    fn list(&self) -> Vec<ExportEntry>;
    /// The export of that name; the empty name is the default export.
    fn find(&self, name: &str) -> Option<ExportInfo>;
    /// Whether a metadata context of `export`, as [`ExportCatalog::find`] gave it, can be selected. It may have more than
    /// [`ExportInfo::contexts`] shows.
    fn offers(&self, export: &ExportInfo, context: &str) -> bool {
        export.contexts.iter().any(|offered| offered == context)
    }
}

/// What both sides agreed on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NegotiatedOptions {
    /// How requests and replies are framed.
    pub form: ReplyForm,
    /// Metadata contexts selected for this export.
    pub contexts: Vec<SelectedContext>,
    /// No zeroes after the reply to `EXPORT_NAME`.
    pub no_zeroes: bool,
    /// The connection runs over TLS.
    pub tls: bool,
}

/// The flags that are sent for an export under `form`: some depend on what was negotiated, not on the export.
fn effective_flags(flags: TransmissionFlags, form: ReplyForm) -> TransmissionFlags {
    let mut flags = flags | TransmissionFlags::HAS_FLAGS;
    flags.set(TransmissionFlags::SEND_DF, form != ReplyForm::Simple);
    flags.set(TransmissionFlags::BLOCK_STATUS_PAYLOAD, form.is_extended());
    flags
}
