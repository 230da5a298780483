//! What a snapshot tells about itself.

/// Told of a snapshot's fate, each thing once and with numbers. Called on any thread, queue threads and the storage's
/// worker included: it must be quick, must not block and must not use the devices of the snapshot.
pub trait SnapshotEvents: Send + Sync {
    /// More than four fifths of the diff storage's limit is in use.
    fn low_space(&self, snapshot: &str, used: u64, limit: u64) {
        let _ = (snapshot, used, limit);
    }

    /// The diff storage has grown by a step to `size` bytes. Once per step.
    fn grown(&self, snapshot: &str, size: u64, limit: u64) {
        let _ = (snapshot, size, limit);
    }

    /// The diff storage is full: it could not take the next copy.
    fn no_space(&self, snapshot: &str, used: u64, limit: u64) {
        let _ = (snapshot, used, limit);
    }

    /// The snapshot failed: its images answer EIO from now on, its origins go on.
    fn failed(&self, snapshot: &str, reason: &str) {
        let _ = (snapshot, reason);
    }
}

/// Tells nobody.
pub struct NoEvents;

impl SnapshotEvents for NoEvents {}
