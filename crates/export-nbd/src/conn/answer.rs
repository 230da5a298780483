//! From errors of the data plane to those of the wire.

use bowline_block::{Error, ErrorKind};
use bowline_nbd::WireError;

/// The error number a client is told. The wire knows eight; whatever has none of its own is an I/O error.
pub(super) fn wire_error(error: &Error) -> WireError {
    if error.kind() == ErrorKind::Gone {
        return WireError::Shutdown;
    }
    match error.errno().0 {
        1 => WireError::NotPermitted,
        12 => WireError::NoMemory,
        22 => WireError::Invalid,
        28 => WireError::NoSpace,
        75 => WireError::Overflow,
        95 => WireError::NotSupported,
        108 => WireError::Shutdown,
        _ => WireError::Io,
    }
}

/// Whether every byte is zero. Data differs from zero early, so that asking costs next to nothing.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    let (chunks, rest) = bytes.as_chunks::<64>();
    chunks.iter().all(|chunk| chunk.iter().fold(0, |sum, byte| sum | byte) == 0)
        && rest.iter().all(|&byte| byte == 0)
}

/// An error of ours for a request that the machine has no memory for.
pub(super) fn no_memory() -> Error {
    Error::new(ErrorKind::Busy, "no memory for the request's data")
}
