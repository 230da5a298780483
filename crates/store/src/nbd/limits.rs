//! What the server's description of the export means for the store.

use bowline_block::{BlockSize, Capabilities, Error, ErrorKind, Geometry, Result};
use bowline_nbd::meta::BASE_ALLOCATION;
use bowline_nbd::wire::MAX_PAYLOAD;
use bowline_nbd::{ContextId, NegotiatedExport, TransmissionFlags};

/// The shape of the store, and what its requests must keep to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) geometry: Geometry,
    /// Most bytes of a read or write.
    pub(super) payload_max: u64,
    pub(super) can_flush: bool,
    pub(super) can_fua: bool,
    pub(super) can_fast_zero: bool,
}

impl Limits {
    pub(super) fn of(export: &NegotiatedExport) -> Result<Self> {
        let minimum = export.blocks.minimum;
        let block_size = match minimum {
            0..=512 => BlockSize::B512,
            513..=4096 => BlockSize::B4096,
            _ => {
                let why = format!("the server wants blocks of {minimum} bytes; 4096 is the most that works");
                return Err(Error::new(ErrorKind::Unsupported, why));
            }
        };
        let block = block_size.bytes();
        let payload_max = whole(u64::from(export.blocks.maximum.min(MAX_PAYLOAD)), block);
        if payload_max == 0 {
            let maximum = export.blocks.maximum;
            let why = format!("the server takes {maximum} bytes per request, less than a block of {block}");
            return Err(Error::new(ErrorKind::Unsupported, why));
        }
        let has = |flag| export.flags.contains(flag);
        let mut can = Capabilities::empty();
        can.set(Capabilities::DISCARD, has(TransmissionFlags::SEND_TRIM));
        can.set(Capabilities::WRITE_ZEROES, has(TransmissionFlags::SEND_WRITE_ZEROES));
        can.set(Capabilities::EXTENTS, allocation(export).is_some());
        let read_only = has(TransmissionFlags::READ_ONLY);
        Ok(Self {
            geometry: Geometry { size: whole(export.size, block), block_size, read_only, can },
            payload_max,
            can_flush: has(TransmissionFlags::SEND_FLUSH),
            can_fua: has(TransmissionFlags::SEND_FUA),
            can_fast_zero: has(TransmissionFlags::SEND_FAST_ZERO),
        })
    }

    /// Most bytes of a request without data: what a compact header can say.
    pub(super) fn range_max(&self) -> u64 {
        whole(u64::from(u32::MAX), 1 << 16)
    }

    /// Whether an export found when connecting again can stand for this one.
    pub(super) fn accept(&self, other: &Self) -> Result<()> {
        let same = self.geometry.size == other.geometry.size
            && self.geometry.block_size == other.geometry.block_size
            && self.geometry.read_only == other.geometry.read_only
            && other.geometry.can.contains(self.geometry.can)
            && other.payload_max >= self.payload_max
            && (other.can_flush, other.can_fua, other.can_fast_zero)
                == (self.can_flush, self.can_fua, self.can_fast_zero);
        if same {
            return Ok(());
        }
        let (was, is) = (self.geometry.size, other.geometry.size);
        let why = format!("the export has changed (it had {was} bytes and has {is}); add the device again");
        Err(Error::new(ErrorKind::Gone, why))
    }
}

/// The number of the context that tells extents.
pub(super) fn allocation(export: &NegotiatedExport) -> Option<ContextId> {
    export.options.contexts.iter().find(|context| context.name == BASE_ALLOCATION).map(|context| context.id)
}

fn whole(bytes: u64, unit: u64) -> u64 {
    bytes & !(unit - 1)
}
