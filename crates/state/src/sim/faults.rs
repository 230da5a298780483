//! What goes wrong on request.

use bowline_block::ErrorKind;

/// An operation of a folder or of a file in it. [`crate::Folder::replace`] is several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FolderOp {
    /// Opening a file, or asking for names or sizes.
    Look,
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Cutting or growing a file.
    SetLen,
    /// Making a file's contents durable.
    Sync,
    /// Making a file.
    Create,
    /// Renaming a file.
    Rename,
    /// Removing a file.
    Remove,
    /// Making names durable.
    SyncNames,
}

/// What is to happen to an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It fails. A write has been done in part; a sync has lost what it should have kept.
    Fail(ErrorKind),
    /// It does not come back before [`super::SimFolder::release`] or the end of the power; then it is done.
    Stall,
}

/// Trouble for some operations.
#[derive(Clone, Copy, Debug)]
pub struct FolderFault {
    /// Which; `None` is any but looking and reading.
    pub op: Option<FolderOp>,
    /// Operations of this kind still to be let through.
    pub after: u64,
    /// How often.
    pub times: u64,
    /// What.
    pub trouble: Trouble,
}

impl FolderFault {
    fn is_for(&self, op: FolderOp) -> bool {
        match self.op {
            Some(planned) => planned == op,
            None => !matches!(op, FolderOp::Look | FolderOp::Read),
        }
    }
}

/// The trouble this operation is to get.
pub(super) fn strike(planned: &mut Vec<FolderFault>, op: FolderOp) -> Option<Trouble> {
    let mut struck = None;
    for fault in planned.iter_mut().filter(|fault| fault.is_for(op)) {
        if fault.after > 0 {
            fault.after -= 1;
        } else if fault.times > 0 && struck.is_none() {
            fault.times -= 1;
            struck = Some(fault.trouble);
        }
    }
    planned.retain(|fault| fault.times > 0);
    struck
}
