//! Turns what a snapshot tells about itself into events.

use std::sync::Arc;
use std::time::Duration;

use bowline_api::EventKind;
use bowline_filter::cow;

use crate::events::{Draft, EventLog};

pub(super) struct Teller(pub(super) Arc<EventLog>);

impl Teller {
    /// An event about diff storage, with its numbers.
    fn post_space(&self, kind: EventKind, message: String, snapshot: &str, space: &cow::Space<'_>) {
        let mut event = self.0.draft(kind, message).snapshot(snapshot);
        if let Some(device) = space.device {
            event = event.device(device);
        }
        let event = with_errno(event, space.cause);
        event.number("used", space.used).number("size", space.size).number("limit", space.limit).post();
    }
}

fn with_errno(event: Draft<'_>, cause: Option<cow::Cause>) -> Draft<'_> {
    match cause.and_then(|cause| cause.errno) {
        Some(errno) => event.number("errno", u64::from(errno.unsigned_abs())),
        None => event,
    }
}

fn in_words(cause: Option<cow::Cause>) -> String {
    cause.map_or(String::new(), |cause| format!(": {}", cause.kind.name()))
}

impl cow::SnapshotEvents for Teller {
    fn low_space(&self, snapshot: &str, space: &cow::Space<'_>) {
        let cow::Space { used, limit, .. } = space;
        let message = format!("diff storage of snapshot {snapshot} is nearly full: {used} of {limit} bytes");
        self.post_space(EventKind::LowSpace, message, snapshot, space);
    }

    fn grown(&self, snapshot: &str, space: &cow::Space<'_>) {
        let message = format!("diff storage of snapshot {snapshot} has grown to {} bytes", space.size);
        self.post_space(EventKind::Grown, message, snapshot, space);
    }

    fn no_space(&self, snapshot: &str, space: &cow::Space<'_>) {
        let cow::Space { used, limit, .. } = space;
        let cause = in_words(space.cause);
        let message =
            format!("diff storage of snapshot {snapshot} takes no more: {used} of {limit} bytes{cause}");
        self.post_space(EventKind::NoSpace, message, snapshot, space);
    }

    fn holding(&self, snapshot: &str, space: &cow::Space<'_>, timeout: Duration) {
        let limit = bowline_api::units::TimeSpan(timeout);
        let message =
            format!("writers wait for room in the diff storage of snapshot {snapshot}, {limit} at most");
        self.post_space(EventKind::Holding, message, snapshot, space);
    }

    fn failed(&self, snapshot: &str, failure: &cow::Failure<'_>) {
        let message = format!("snapshot {snapshot} failed, its devices go on: {}", failure.reason);
        let mut event = self.0.draft(EventKind::Failed, message).snapshot(snapshot);
        if let [device] = failure.devices {
            event = event.device(device);
        }
        let event = with_errno(event, failure.cause);
        event.number("used", failure.used).number("limit", failure.limit).post();
        // A persistent one must not come back as good.
        self.0.wish_saved();
    }

    fn device_gone(&self, snapshot: &str, device: &str, cause: Option<cow::Cause>) {
        let message = format!("device {device} of snapshot {snapshot} is gone{}", in_words(cause));
        let event = self.0.draft(EventKind::DeviceGone, message).snapshot(snapshot).device(device);
        with_errno(event, cause).post();
    }
}
