//! What a tracker tells about itself.

/// Told what happens to a tracker. Called on any thread, queue threads included: it must be quick, must not block and
/// must not call the tracker.
pub trait TrackEvents: Send + Sync {
    /// A new generation began: what changed before cannot be told any more, and a full read is needed.
    fn renewed(&self, device: &str, reason: &str) {
        let _ = (device, reason);
    }

    /// What changes is tracked in memory only from now on; the next start asks for a full read. The session is another
    /// one from here on and should be noted, so that files that could not be removed are not believed.
    fn not_durable(&self, device: &str, reason: &str) {
        let _ = (device, reason);
    }
}

/// Tells nobody.
pub struct NoTrackEvents;

impl TrackEvents for NoTrackEvents {}
