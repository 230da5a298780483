//! What a snapshot tells about itself.

use std::error::Error as _;
use std::io;
use std::time::Duration;

use bowline_block::{Error, ErrorKind};

/// What was behind something that is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cause {
    /// What kind of error it was.
    pub kind: ErrorKind,
    /// The operating system's number for it, where there is one.
    pub errno: Option<i32>,
}

impl Cause {
    /// That of an error.
    #[must_use]
    pub fn of(error: &Error) -> Self {
        let mut errno = None;
        let mut at = error.source();
        while let (None, Some(source)) = (errno, at) {
            errno = source.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
            at = source.source();
        }
        Self { kind: error.kind(), errno }
    }
}

/// The diff storage in numbers, at the time of what is told.
#[derive(Clone, Copy, Debug)]
pub struct Space<'a> {
    /// The origin whose write met it, where one did.
    pub device: Option<&'a str>,
    /// Bytes in use.
    pub used: u64,
    /// Bytes that may be used.
    pub limit: u64,
    /// Bytes that files, devices and ranges have now; memory counts as far as it is in use.
    pub size: u64,
    /// Why there is no more, where it is not the limit.
    pub cause: Option<Cause>,
}

/// How a snapshot failed.
#[derive(Clone, Copy, Debug)]
pub struct Failure<'a> {
    /// Its devices, all of them.
    pub devices: &'a [String],
    /// In words.
    pub reason: &'a str,
    /// The error behind it, where there was one.
    pub cause: Option<Cause>,
    /// Bytes of its diff storage in use.
    pub used: u64,
    /// Bytes that could be used.
    pub limit: u64,
}

/// Told of a snapshot's fate, each thing once and with numbers. Called on any thread, queue threads and the storage's
/// worker included: it must be quick, must not block and must not use the devices of the snapshot.
pub trait SnapshotEvents: Send + Sync {
    /// More than four fifths of the diff storage's limit is in use. Once, and again after each time it was extended.
    fn low_space(&self, snapshot: &str, space: &Space<'_>) {
        let _ = (snapshot, space);
    }

    /// A file of the diff storage has grown by a step. Once per step.
    fn grown(&self, snapshot: &str, space: &Space<'_>) {
        let _ = (snapshot, space);
    }

    /// The diff storage could not take the next copy. Once, and again after each time it was extended.
    fn no_space(&self, snapshot: &str, space: &Space<'_>) {
        let _ = (snapshot, space);
    }

    /// Writers begin to wait for room, or for a storage that takes nothing; then the snapshot fails.
    fn holding(&self, snapshot: &str, space: &Space<'_>, timeout: Duration) {
        let _ = (snapshot, space, timeout);
    }

    /// The snapshot failed: its images answer EIO from now on, its origins go on.
    fn failed(&self, snapshot: &str, failure: &Failure<'_>) {
        let _ = (snapshot, failure);
    }

    /// A device of the snapshot was removed, or answers that it is not there any more. Once for each.
    fn device_gone(&self, snapshot: &str, device: &str, cause: Option<Cause>) {
        let _ = (snapshot, device, cause);
    }
}

/// Tells nobody.
pub struct NoEvents;

impl SnapshotEvents for NoEvents {}
