//! What is left at the bottom of a removed device: its shape, so that the file or connection itself can be closed.

use bowline_block::{Done, Error, ErrorKind, Geometry, Io, IoFuture, Store};

pub(crate) struct GoneStore(pub(crate) Geometry);

impl Store for GoneStore {
    fn geometry(&self) -> Geometry {
        self.0
    }

    fn location(&self) -> String {
        "gone".to_owned()
    }

    fn submit(&self, io: Io) -> IoFuture<'_> {
        Done::ready(Err(Error::new(ErrorKind::Gone, "the device was removed")), io.data)
    }
}
