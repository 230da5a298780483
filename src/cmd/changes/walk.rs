//! Goes through the pages of an answer and hands on what they tell, joined where it touches.

use bowline_api::{Changes, Extent};

use crate::cli::Result;

/// What somebody does with what is told.
pub(super) trait Sink {
    /// Before anything else: what holds for all of it. Its lists are those of the first page.
    fn begin(&mut self, head: &Changes) -> Result<()>;

    /// The next extent, merged.
    fn extent(&mut self, _extent: Extent) -> Result<()> {
        Ok(())
    }

    /// The next part of what reads as zeroes, merged.
    fn zero(&mut self, _extent: Extent) -> Result<()> {
        Ok(())
    }

    /// The next piece of an extent: all of it reads as zeroes, or none is known to.
    fn piece(&mut self, _piece: Extent, _zero: bool) -> Result<()> {
        Ok(())
    }

    /// That was all.
    fn end(&mut self, head: &Changes, totals: &Totals) -> Result<()>;
}

/// Sums over all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Totals {
    pub(super) extents: u64,
    pub(super) bytes: u64,
    pub(super) zero_bytes: u64,
}

/// Joins what touches: the last one is kept until the next is known.
#[derive(Default)]
struct Joiner(Option<(Extent, bool)>);

impl Joiner {
    /// Takes the next; gives the one before, once it cannot grow any more.
    fn push(&mut self, next: Extent, zero: bool) -> Option<(Extent, bool)> {
        match &mut self.0 {
            Some((last, kind)) if *kind == zero && last.offset.saturating_add(last.length) == next.offset => {
                last.length = last.length.saturating_add(next.length);
                None
            }
            kept => kept.replace((next, zero)),
        }
    }
}

/// Hands all pages to all sinks.
pub(super) fn walk<E>(
    pages: impl Iterator<Item = std::result::Result<Changes, E>>,
    sinks: &mut [&mut dyn Sink],
) -> Result<()>
where
    crate::cli::Failure: From<E>,
{
    let (mut head, mut totals) = (None, Totals::default());
    let (mut extents, mut zeroes, mut pieces) = (Joiner::default(), Joiner::default(), Joiner::default());
    for page in pages {
        let page = page?;
        if head.is_none() {
            let first = Changes { extents: Vec::new(), zeroes: Vec::new(), ..page.clone() };
            sinks.iter_mut().try_for_each(|sink| sink.begin(&page))?;
            head = Some(first);
        }
        for &extent in &page.extents {
            totals.bytes = totals.bytes.saturating_add(extent.length);
            if let Some((extent, _)) = extents.push(extent, false) {
                totals.extents += 1;
                sinks.iter_mut().try_for_each(|sink| sink.extent(extent))?;
            }
        }
        for &zero in &page.zeroes {
            totals.zero_bytes = totals.zero_bytes.saturating_add(zero.length);
            if let Some((zero, _)) = zeroes.push(zero, true) {
                sinks.iter_mut().try_for_each(|sink| sink.zero(zero))?;
            }
        }
        for (piece, zero) in split(&page.extents, &page.zeroes) {
            if let Some((piece, zero)) = pieces.push(piece, zero) {
                sinks.iter_mut().try_for_each(|sink| sink.piece(piece, zero))?;
            }
        }
    }
    let Some(mut head) = head else { return Ok(()) };
    (head.bytes, head.next) = (totals.bytes, None);
    if let Some((extent, _)) = extents.0 {
        totals.extents += 1;
        sinks.iter_mut().try_for_each(|sink| sink.extent(extent))?;
    }
    if let Some((zero, _)) = zeroes.0 {
        sinks.iter_mut().try_for_each(|sink| sink.zero(zero))?;
    }
    if let Some((piece, zero)) = pieces.0 {
        sinks.iter_mut().try_for_each(|sink| sink.piece(piece, zero))?;
    }
    sinks.iter_mut().try_for_each(|sink| sink.end(&head, &totals))
}

/// `extents`, cut where what reads as zeroes begins and ends. Both ascend.
fn split(extents: &[Extent], zeroes: &[Extent]) -> Vec<(Extent, bool)> {
    let end_of = |extent: &Extent| extent.offset.saturating_add(extent.length);
    let mut pieces = Vec::new();
    let mut zeroes = zeroes.iter().peekable();
    for extent in extents {
        let (mut at, end) = (extent.offset, end_of(extent));
        while at < end {
            while zeroes.next_if(|zero| end_of(zero) <= at).is_some() {}
            let (stop, zero) = match zeroes.peek() {
                Some(zero) if zero.offset <= at => (end_of(zero).min(end), true),
                Some(zero) => (zero.offset.min(end), false),
                None => (end, false),
            };
            pieces.push((Extent { offset: at, length: stop - at }, zero));
            at = stop;
        }
    }
    pieces
}

#[cfg(test)]
pub(super) mod tests;
