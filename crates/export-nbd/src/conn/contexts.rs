//! Metadata contexts: what an export offers, and what stands behind those that a client selected.

use std::collections::VecDeque;
use std::sync::Arc;

use bowline_device::Device;
use bowline_nbd::meta::{BASE_ALLOCATION, DIRTY_BITMAP_PREFIX, MAX_CONTEXTS, MAX_OFFERED};
use bowline_nbd::wire::MAX_STRING;
use bowline_nbd::{ContextId, SelectedContext};

use crate::bitmaps::DirtyBitmap;
use crate::exports::ExportTarget;

/// What answers for a context.
#[derive(Clone)]
pub(super) enum Source {
    /// The extents of the device.
    Allocation,
    /// A dirty bitmap.
    Bitmap(Arc<dyn DirtyBitmap>),
    /// The bitmap was that of a device that is not the export's any more.
    Lost,
}

/// A context of one connection.
#[derive(Clone)]
pub(super) struct Context {
    pub(super) id: ContextId,
    pub(super) name: Arc<str>,
    pub(super) source: Source,
}

/// The names that a listing shows. One too long for the wire cannot be asked for either, and is left out: cut short it
/// would name another bitmap.
pub(super) fn offered(target: &ExportTarget) -> Vec<String> {
    let mut names = vec![BASE_ALLOCATION.to_owned()];
    if let Some(bitmaps) = &target.bitmaps {
        let full = bitmaps.names().into_iter().map(|name| format!("{DIRTY_BITMAP_PREFIX}{name}"));
        names.extend(full.filter(|name| name.len() <= MAX_STRING).take(MAX_OFFERED - 1));
    }
    names
}

/// Bitmaps that a client selected, held from then on: what its name means later is another matter.
#[derive(Default)]
pub(super) struct Opened(VecDeque<(String, Arc<Device>, Arc<dyn DirtyBitmap>)>);

impl Opened {
    /// Whether a context can be selected, also one that the listing has no room for; a bitmap is opened by it.
    pub(super) fn offers(&mut self, target: &ExportTarget, context: &str) -> bool {
        if context == BASE_ALLOCATION {
            return true;
        }
        let Some(bitmap) = bitmap(target, context) else { return false };
        // A selection opens one too many at most, so that those of the last are all among these.
        if self.0.len() > MAX_CONTEXTS {
            self.0.pop_front();
        }
        self.0.push_back((context.to_owned(), target.device.clone(), bitmap));
        true
    }

    /// What stands behind the contexts selected for `device`.
    pub(super) fn contexts(&self, device: &Arc<Device>, selected: Vec<SelectedContext>) -> Vec<Context> {
        let source = |name: &str| {
            if name == BASE_ALLOCATION {
                return Source::Allocation;
            }
            let mut newest_first = self.0.iter().rev();
            let found = newest_first.find(|(opened, of, _)| opened == name && Arc::ptr_eq(of, device));
            found.map_or(Source::Lost, |(_, _, bitmap)| Source::Bitmap(bitmap.clone()))
        };
        let context = |SelectedContext { id, name }| Context { id, source: source(&name), name: name.into() };
        selected.into_iter().map(context).collect()
    }
}

fn bitmap(target: &ExportTarget, context: &str) -> Option<Arc<dyn DirtyBitmap>> {
    let name = context.strip_prefix(DIRTY_BITMAP_PREFIX)?;
    target.bitmaps.as_ref()?.open(name)
}
