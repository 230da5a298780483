//! The tracker's files: their names and their bytes. See docs/format/tracker.md.

pub(crate) mod bytes;
pub(crate) mod header;
pub(crate) mod record;
pub(crate) mod sector;

/// Who and what the tracker is of, its generation, session and limits; replaced whole.
pub(crate) const HEADER_FILE: &str = "tracker";
/// Two halves of sectors with intent bits; overwritten in place.
pub(crate) const INTENTS_FILE: &str = "intents";
/// Records of closed epochs; appended to, and replaced by a shorter one now and then.
pub(crate) const SETS_FILE: &str = "sets";
/// The new [`SETS_FILE`], while it is being written.
pub(crate) const SETS_NEW_FILE: &str = "sets.new";
/// The record of an epoch that goes on behind a clean stop; replaced whole.
pub(crate) const LIVE_FILE: &str = "live";
