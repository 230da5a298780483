//! Which parts of an image hold data: what is preserved or written is data or zero, the rest is what the origin says
//! of itself, unless it was preserved in the meantime.

use bowline_block::{ByteRange, Error, ErrorKind, ExtentKind, ExtentList, Now, Result, Store};

use super::ImageStore;
use super::view::{Part, View};
use crate::cow::history::COW_ALTITUDE;
use crate::cow::sync::{Ordering, fence};

/// The walk over a range, which stops where the origin has to be asked.
struct Walk<'a> {
    view: &'a View,
    rest: ByteRange,
    found: &'a mut ExtentList,
}

impl Walk<'_> {
    /// Goes on to the next part that is the origin's to tell; `None` at the end, or when no more extents are taken.
    fn next_of_origin(&mut self) -> Option<ByteRange> {
        while !self.rest.is_empty() {
            let part = self.view.first_part(self.rest);
            if let Part::Origin(bytes) = part {
                return Some(bytes);
            }
            if !self.found.push(part.bytes(), part.kind()) {
                return None;
            }
            self.rest = ByteRange::between(part.bytes().end(), self.rest.end());
        }
        None
    }

    /// Takes over the origin's extents of a range; whether more are taken.
    fn take(&mut self, range: ByteRange, own: &ExtentList) -> bool {
        fence(Ordering::SeqCst);
        let mut end = range.start();
        for extent in own.as_slice() {
            let bytes = extent.range.intersection(range);
            // What was preserved since was written to: the origin's answer may be that of the new contents.
            while end < bytes.end() {
                let since = self.view.preserved_since(bytes, end);
                let (until, kind, next) = match since {
                    None => (bytes.end(), extent.kind, bytes.end()),
                    Some(since) if since.start() > end => (since.start(), extent.kind, since.start()),
                    Some(since) => (since.end(), ExtentKind::Data, since.end()),
                };
                if !self.found.push(ByteRange::between(end, until), kind) {
                    return false;
                }
                end = next;
            }
        }
        self.rest = ByteRange::between(end, self.rest.end());
        end > range.start()
    }
}

impl ImageStore {
    /// An error where the origin does not reach any more.
    pub(super) fn check_origin(&self, below: &dyn Store, part: ByteRange) -> Result<()> {
        let size = below.geometry().size;
        if part.end() <= size {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Io, format!("the origin {} ends at {size} now", self.origin.name()))
            .range(part))
    }

    pub(super) fn try_extents(&self, range: ByteRange, found: &mut ExtentList) -> Result<Now> {
        let Some(inside) = self.origin.enter_now() else { return Ok(Now::NotNow) };
        let view = self.view()?;
        let below = inside.below(COW_ALTITUDE);
        let mut walk = Walk { view: &view, rest: range, found };
        while let Some(bytes) = walk.next_of_origin() {
            self.check_origin(below, bytes)?;
            let mut own = ExtentList::with_max(walk.found.room() + 1);
            if let now @ (Now::NotNow | Now::Done(Err(_))) = below.extents_now(bytes, &mut own) {
                return Ok(now);
            }
            if !walk.take(bytes, &own) {
                break;
            }
        }
        fence(Ordering::SeqCst);
        self.snapshot.check()?;
        Ok(Now::Done(Ok(())))
    }

    pub(super) async fn find_extents(&self, range: ByteRange, max: usize) -> Result<ExtentList> {
        let inside = self.origin.enter().await;
        let view = self.view()?;
        let below = inside.below(COW_ALTITUDE);
        let mut found = ExtentList::with_max(max);
        let mut walk = Walk { view: &view, rest: range, found: &mut found };
        while let Some(bytes) = walk.next_of_origin() {
            self.check_origin(below, bytes)?;
            let own = below.extents(bytes, walk.found.room() + 1).await?;
            if !walk.take(bytes, &own) {
                break;
            }
        }
        fence(Ordering::SeqCst);
        self.snapshot.check()?;
        Ok(found)
    }
}
