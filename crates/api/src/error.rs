//! How the control API says no.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What went wrong, for programs. Each kind has one HTTP status: see [`ErrorKind::http_status`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    /// The request itself is wrong: a bad name, size, address or JSON document.
    InvalidRequest,
    /// The daemon may not do it: permissions of a file, a socket or the kernel.
    PermissionDenied,
    /// What the request names does not exist.
    NotFound,
    /// The path exists, but not for this method.
    MethodNotAllowed,
    /// The name, path or address is taken.
    AlreadyExists,
    /// It exists and is in use, so it cannot be removed or changed now.
    Busy,
    /// The generation or snapshot asked about is gone: what changed cannot be proven, read everything.
    FullReadNeeded,
    /// The request body is larger than the server takes.
    TooLarge,
    /// A byte that is asked about is not within the device.
    OutOfRange,
    /// This device, store or kernel cannot do it.
    Unsupported,
    /// A read or write of the device or its store failed.
    Io,
    /// It did not finish within its time.
    Timeout,
    /// A limit is reached, or the daemon is stopping.
    Unavailable,
    /// No space left on the store.
    NoSpace,
    /// A defect of the daemon; also every kind an older client does not know.
    #[serde(other)]
    Internal,
}

impl ErrorKind {
    /// Every kind, for tests and tables.
    pub const ALL: [ErrorKind; 15] = [
        ErrorKind::InvalidRequest,
        ErrorKind::PermissionDenied,
        ErrorKind::NotFound,
        ErrorKind::MethodNotAllowed,
        ErrorKind::AlreadyExists,
        ErrorKind::Busy,
        ErrorKind::FullReadNeeded,
        ErrorKind::TooLarge,
        ErrorKind::OutOfRange,
        ErrorKind::Unsupported,
        ErrorKind::Io,
        ErrorKind::Timeout,
        ErrorKind::Unavailable,
        ErrorKind::NoSpace,
        ErrorKind::Internal,
    ];

    /// The HTTP status that carries this kind.
    #[must_use]
    pub fn http_status(self) -> u16 {
        match self {
            ErrorKind::InvalidRequest => 400,
            ErrorKind::PermissionDenied => 403,
            ErrorKind::NotFound => 404,
            ErrorKind::MethodNotAllowed => 405,
            ErrorKind::AlreadyExists | ErrorKind::Busy => 409,
            ErrorKind::FullReadNeeded => 410,
            ErrorKind::TooLarge => 413,
            ErrorKind::OutOfRange => 416,
            ErrorKind::Unsupported => 422,
            ErrorKind::Io | ErrorKind::Internal => 500,
            ErrorKind::Unavailable => 503,
            ErrorKind::Timeout => 504,
            ErrorKind::NoSpace => 507,
        }
    }
}

/// A refusal or failure of the control API: the body of every response that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[error("{message}")]
pub struct ApiError {
    /// For programs.
    pub kind: ErrorKind,
    /// For people: one line, `what failed: why: what to do`.
    pub message: String,
}

/// The result of every call of [`Control`](crate::Control).
pub type Result<T> = std::result::Result<T, ApiError>;

impl ApiError {
    /// An error in the house form. Line breaks and control characters in the parts (they may quote a client's bytes)
    /// become spaces, so that the message stays one line.
    pub fn new(
        kind: ErrorKind,
        what: impl fmt::Display,
        why: impl fmt::Display,
        hint: impl fmt::Display,
    ) -> Self {
        ApiError { kind, message: one_line(&format!("{what}: {why}: {hint}")) }
    }

    /// The request is wrong.
    pub fn invalid(what: impl fmt::Display, why: impl fmt::Display, hint: impl fmt::Display) -> Self {
        Self::new(ErrorKind::InvalidRequest, what, why, hint)
    }

    /// `what` ("device", "snapshot", …) of this name does not exist.
    pub fn not_found(what: &str, name: &str) -> Self {
        Self::new(
            ErrorKind::NotFound,
            format_args!("find {what} {name:?}"),
            format_args!("there is no {what} of that name"),
            format_args!("`bowline {what} list` names them"),
        )
    }
}

/// `text` on one line: control characters become spaces, runs of white space one space.
#[must_use]
pub fn one_line(text: &str) -> String {
    text.split(|c: char| c.is_control() || c.is_whitespace())
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}
