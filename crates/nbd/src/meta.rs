//! Metadata contexts: names, queries and selection.
//!
//! Design notes: the catalog offers full names (`base:allocation`, `qemu:dirty-bitmap:NAME`). A selection names them
//! exactly; a listing also takes `base:`, `qemu:` and `qemu:dirty-bitmap:` for everything below it. A query that matches
//! nothing is no error: the client learns it from the missing reply. A listing is bounded, a selection by name is not
//! bound by what a listing shows.

use std::collections::HashSet;

use crate::options::MetaQueries;

/// The context that every export should offer.
pub const BASE_ALLOCATION: &str = "base:allocation";
/// What a dirty bitmap context begins with.
pub const DIRTY_BITMAP_PREFIX: &str = "qemu:dirty-bitmap:";
/// Most contexts one connection may select.
pub const MAX_CONTEXTS: usize = 64;
/// Most contexts a listing shows.
pub const MAX_OFFERED: usize = 4096;
/// Queries that list what begins with them. Others that end in `:` are names: that of a bitmap may.
const GROUPS: [&str; 3] = ["base:", "qemu:", DIRTY_BITMAP_PREFIX];

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

/// The contexts of `offered` that `queries` list, in the order offered, at most [`MAX_OFFERED`]. No query lists
/// everything.
pub(crate) fn list<'a>(offered: &'a [String], queries: MetaQueries<'a>) -> impl Iterator<Item = &'a str> {
    let all = queries.is_empty();
    let groups: Vec<&str> =
        GROUPS.into_iter().filter(|group| queries.into_iter().any(|query| query == *group)).collect();
    // A set: a client may send thousands of queries.
    let names: HashSet<&str> = queries.collect();
    let listed = offered.iter().map(String::as_str).filter(move |name| {
        all || names.contains(name) || groups.iter().any(|group| name.starts_with(group))
    });
    listed.take(MAX_OFFERED)
}

/// The contexts that `queries` select of those that are `known`, numbered from 1; at most [`MAX_CONTEXTS`].
///
/// # Errors
/// The number selected when there are too many.
pub(crate) fn select(
    known: impl Fn(&str) -> bool,
    queries: MetaQueries<'_>,
) -> Result<Vec<SelectedContext>, usize> {
    let mut selected: Vec<SelectedContext> = Vec::new();
    for query in queries {
        if selected.iter().any(|context| context.name == query) || !known(query) {
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
