//! The one error of the data plane: a kind to act on, a context to read, a source to look into.

use std::error::Error as StdError;
use std::{fmt, io};

use crate::ByteRange;

/// What went wrong, for control flow and for the errno an export answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The store below failed.
    Io,
    /// Stored data is not what was stored.
    Corrupt,
    /// Not an operation of this device.
    Unsupported,
    /// Beyond the end of the device.
    OutOfRange,
    /// Malformed: alignment, size, name.
    Invalid,
    /// No space below, or a limit reached.
    NoSpace,
    /// In use by somebody else.
    Busy,
    /// The device, store or peer is not there any more.
    Gone,
    /// A change to something read-only.
    ReadOnly,
    /// No such thing.
    NotFound,
    /// There is one already.
    Exists,
    /// Not permitted.
    Denied,
    /// Not done in time.
    Timeout,
    /// A peer broke its protocol.
    Protocol,
}

impl ErrorKind {
    /// The table from kinds to errno, used by every export.
    #[must_use]
    pub const fn errno(self) -> Errno {
        Errno(match self {
            Self::Io | Self::Corrupt | Self::Gone | Self::Protocol => 5, // EIO
            Self::Unsupported => 95,                                     // EOPNOTSUPP
            Self::OutOfRange | Self::Invalid => 22,                      // EINVAL
            Self::NoSpace => 28,                                         // ENOSPC
            Self::Busy => 16,                                            // EBUSY
            Self::ReadOnly | Self::Denied => 1,                          // EPERM
            Self::NotFound => 2,                                         // ENOENT
            Self::Exists => 17,                                          // EEXIST
            Self::Timeout => 110,                                        // ETIMEDOUT
        })
    }

    /// The kind of an error the operating system gave.
    #[must_use]
    pub fn of_errno(errno: i32) -> Self {
        match errno {
            1 | 13 => Self::Denied,
            2 | 20 => Self::NotFound,
            6 | 19 | 108 => Self::Gone,
            11 | 16 | 26 => Self::Busy,
            17 => Self::Exists,
            21 | 22 => Self::Invalid,
            27 | 28 | 122 => Self::NoSpace,
            30 => Self::ReadOnly,
            95 => Self::Unsupported,
            110 => Self::Timeout,
            _ => Self::Io,
        }
    }

    /// The kind in words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Io => "input/output error",
            Self::Corrupt => "corrupt data",
            Self::Unsupported => "not supported",
            Self::OutOfRange => "out of range",
            Self::Invalid => "invalid",
            Self::NoSpace => "no space",
            Self::Busy => "busy",
            Self::Gone => "gone",
            Self::ReadOnly => "read-only",
            Self::NotFound => "not found",
            Self::Exists => "exists already",
            Self::Denied => "not permitted",
            Self::Timeout => "timed out",
            Self::Protocol => "protocol error",
        }
    }
}

/// An error number of the Linux kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

/// Where it went wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// The device or path.
    pub device: Option<String>,
    /// The operation.
    pub op: Option<&'static str>,
    /// The bytes.
    pub range: Option<ByteRange>,
    /// The reason.
    pub why: String,
    /// What to do about it, for whoever tells a person: not part of the text.
    pub hint: Option<String>,
}

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    context: Context,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// An error with kind, context and source. One pointer wide, so that a good result costs nothing.
#[derive(Debug)]
pub struct Error(Box<Inner>);

/// A result of the data plane.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of `kind`, because of `why`.
    #[must_use]
    pub fn new(kind: ErrorKind, why: impl Into<String>) -> Self {
        let context = Context { why: why.into(), ..Context::default() };
        Self(Box::new(Inner { kind, context, source: None }))
    }

    /// The error the operating system gave while doing `why`.
    #[must_use]
    pub fn from_io(why: impl Into<String>, error: io::Error) -> Self {
        let kind = error.raw_os_error().map_or(ErrorKind::Io, ErrorKind::of_errno);
        Self::new(kind, why).source(error)
    }

    /// What to match on.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Where it happened.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.0.context
    }

    /// What an export answers for it.
    #[must_use]
    pub fn errno(&self) -> Errno {
        self.0.kind.errno()
    }

    /// Names the device, if none is named yet: the layer nearest the fault knows best.
    #[must_use]
    pub fn device(mut self, device: impl Into<String>) -> Self {
        self.0.context.device.get_or_insert_with(|| device.into());
        self
    }

    /// Names the operation, if none is named yet.
    #[must_use]
    pub fn op(mut self, op: &'static str) -> Self {
        self.0.context.op.get_or_insert(op);
        self
    }

    /// Names the bytes, if none are named yet.
    #[must_use]
    pub fn range(mut self, range: ByteRange) -> Self {
        self.0.context.range.get_or_insert(range);
        self
    }

    /// Says what to do about it, if nothing is said yet.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.context.hint.get_or_insert_with(|| hint.into());
        self
    }

    /// Adds what caused it.
    #[must_use]
    pub fn source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Context { device, op, range, why, .. } = &self.0.context;
        if let Some(device) = device {
            write!(f, "{device}: ")?;
        }
        match (op, range) {
            (Some(op), Some(range)) => write!(f, "{op} {range}: ")?,
            (Some(op), None) => write!(f, "{op}: ")?,
            (None, Some(range)) => write!(f, "{range}: ")?,
            (None, None) => {}
        }
        f.write_str(if why.is_empty() { self.0.kind.name() } else { why })?;
        match &self.0.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

impl From<ErrorKind> for Error {
    fn from(kind: ErrorKind) -> Self {
        Self::new(kind, "")
    }
}
