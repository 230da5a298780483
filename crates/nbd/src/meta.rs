//! Metadata contexts: names, queries and selection.
//!
//! Design notes: the catalog offers full names (`base:allocation`, `qemu:dirty-bitmap:NAME`). A selection names them
//! exactly; a listing also takes a query that ends in `:` (`base:`, `qemu:`, `qemu:dirty-bitmap:`) for everything
//! below it. A query that matches nothing is no error: the client learns it from the missing reply.

use crate::options::MetaQueries;

/// The context that every export should offer.
pub const BASE_ALLOCATION: &str = "base:allocation";
/// What a dirty bitmap context begins with.
pub const DIRTY_BITMAP_PREFIX: &str = "qemu:dirty-bitmap:";
/// Most contexts one connection may select.
pub const MAX_CONTEXTS: usize = 64;

/// The server's number for a selected context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContextId(pub u32);

/// A selected context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelectedContext {
    /// Number in replies.
    pub id: ContextId,
    /// Full name.
    pub name: String,
}

/// The contexts of `offered` that `queries` list, in the order offered. No query lists everything.
pub(crate) fn list<'a>(offered: &'a [String], queries: MetaQueries<'a>) -> impl Iterator<Item = &'a str> {
    let all = queries.is_empty();
    offered.iter().map(String::as_str).filter(move |name| {
        all || queries
            .clone()
            .any(|query| query == *name || (query.ends_with(':') && name.starts_with(query)))
    })
}

/// The contexts of `offered` that `queries` select, numbered from 1; at most [`MAX_CONTEXTS`].
///
/// # Errors
/// The number selected when there are too many.
pub(crate) fn select(offered: &[String], queries: MetaQueries<'_>) -> Result<Vec<SelectedContext>, usize> {
    let mut selected: Vec<SelectedContext> = Vec::new();
    for query in queries {
        let known = offered.iter().any(|name| name == query);
        if !known || selected.iter().any(|context| context.name == query) {
            continue;
        }
        if selected.len() == MAX_CONTEXTS {
            return Err(selected.len() + 1);
        }
        let id = ContextId(u32::try_from(selected.len() + 1).unwrap_or(u32::MAX));
        selected.push(SelectedContext { id, name: query.to_owned() });
    }
    Ok(selected)
}
