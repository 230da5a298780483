//! The control API: its types, routes and OpenAPI document.
//!
//! The types here are the only vocabulary the daemon, the client library and the command line share; they are what
//! goes over the control socket as JSON. A daemon implements [`Control`] and hands it to `server::serve`, which owns
//! everything about HTTP. The feature split keeps a client light: without the `server` feature this crate is serde
//! types and nothing else.
//!
//! * Numbers are bytes, milliseconds or microseconds; the field or its description says which. People write `64M`
//!   and `5s`: [`units`] turns those into numbers before they reach the wire.
//! * Requests refuse fields they do not know, so a misspelt option is an error. Responses may grow fields: an older
//!   client reads a newer daemon.
//! * Every failure is an [`ApiError`]: a kind for programs and one line, `what: why: what to do`, for people.

pub mod address;
pub mod changes;
pub mod control;
pub mod device;
pub mod error;
pub mod event;
pub mod export;
pub mod names;
pub mod snapshot;
pub mod source;
pub mod status;
pub mod store;
pub mod timestamp;
pub mod units;

#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz_entry;
#[cfg(feature = "server")]
pub mod server;

pub use address::ListenAddr;
pub use changes::{Changes, ChangesMark, ChangesQuery, Extent};
pub use control::Control;
pub use device::{
    AttachedFilter, Cache, Continuity, Device, DeviceAdd, DeviceResize, DeviceTrack, IoCounters, Mount,
    Tracking,
};
pub use error::{ApiError, ErrorKind, Result};
pub use event::{Event, EventId, EventKind};
pub use export::{Export, ExportAdd, ExportKind};
pub use snapshot::{
    OnFull, Rollback, RollbackState, Snapshot, SnapshotDevice, SnapshotExtend, SnapshotRollback,
    SnapshotState, SnapshotStore, SnapshotTake, StoreKind, StorePart,
};
pub use source::Source;
pub use status::{Absent, Engine, Limit, Status};
pub use store::{StoreRange, StoreSpec};
pub use timestamp::Timestamp;
pub use uuid::Uuid;
