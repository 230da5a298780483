//! From the data plane's error to the control API's.

use std::fmt::Display;

use bowline_api::{ApiError, ErrorKind};
use bowline_block::Error;

/// The line of the control API for an error of the data plane: what was being done, why it failed, what to do.
pub(crate) fn failed(what: impl Display, error: &Error) -> ApiError {
    use bowline_block::ErrorKind as Kind;
    let (kind, hint) = match error.kind() {
        Kind::NotFound => (ErrorKind::NotFound, "check the path"),
        Kind::Denied => (ErrorKind::PermissionDenied, "check the permissions"),
        Kind::ReadOnly => (ErrorKind::PermissionDenied, "use it read-only"),
        Kind::Exists => (ErrorKind::AlreadyExists, "choose another"),
        Kind::Busy => (ErrorKind::Busy, "free it and try again"),
        Kind::NoSpace => (ErrorKind::NoSpace, "make room and try again"),
        Kind::Timeout => (ErrorKind::Timeout, "try again when there is less load"),
        Kind::Unsupported => (ErrorKind::Unsupported, "see the manual for what it can do"),
        Kind::Invalid | Kind::OutOfRange => (ErrorKind::InvalidRequest, "correct it and try again"),
        Kind::Gone => (ErrorKind::NotFound, "look at the events"),
        _ => (ErrorKind::Io, "look at the events and the kernel log"),
    };
    // Where it failed knows best what to do about it.
    ApiError::new(kind, what, error, error.context().hint.as_deref().unwrap_or(hint))
}

/// The same for an error of the operating system.
pub(crate) fn failed_io(what: impl Display, error: std::io::Error) -> ApiError {
    let text = what.to_string();
    failed(text, &Error::from_io("", error))
}
