//! A store that lets no change through, over one that would.

use std::sync::Arc;

use bowline_block::{
    ByteRange, Done, ErrorKind, ExtentList, ExtentsFuture, Geometry, Io, IoFuture, Loss, Now, Store,
};

/// The same bytes, read-only.
pub struct ReadOnly<S: ?Sized>(pub Arc<S>);

impl<S: Store + ?Sized> Store for ReadOnly<S> {
    fn geometry(&self) -> Geometry {
        Geometry { read_only: true, ..self.0.geometry() }
    }

    fn location(&self) -> String {
        self.0.location()
    }

    fn read_now(&self, range: ByteRange, data: &mut [u8]) -> Now {
        self.0.read_now(range, data)
    }

    fn submit(&self, io: Io) -> IoFuture<'_> {
        if io.request.op.changes_data() {
            return Done::ready(Err(ErrorKind::ReadOnly.into()), io.data);
        }
        self.0.submit(io)
    }

    fn extents_now(&self, range: ByteRange, found: &mut ExtentList) -> Now {
        self.0.extents_now(range, found)
    }

    fn extents(&self, range: ByteRange, max: usize) -> ExtentsFuture<'_> {
        self.0.extents(range, max)
    }

    fn take_loss(&self) -> Option<Loss> {
        self.0.take_loss()
    }

    fn close(&self) {
        self.0.close();
    }
}
