//! The receive buffer of a connection.

/// Bytes of the buffer: a queue of 32 requests of 4 KiB of data, and more, in one receive.
pub(super) const INPUT_BYTES: usize = 256 << 10;

/// What was received and not yet used. Its memory is there only while it is needed, and untouched pages of it cost
/// nothing.
#[derive(Default)]
pub(super) struct Input {
    memory: Vec<u8>,
    start: usize,
    end: usize,
}

impl Input {
    /// A buffer that holds what the handshake left over.
    pub(super) fn with(left_over: &[u8]) -> Self {
        let mut input = Self::default();
        let room = input.room();
        let taken = left_over.len().min(room.len());
        if let (Some(room), Some(bytes)) = (room.get_mut(..taken), left_over.get(..taken)) {
            room.copy_from_slice(bytes);
        }
        input.received(taken);
        input
    }

    #[inline]
    pub(super) fn bytes(&self) -> &[u8] {
        self.memory.get(self.start..self.end).unwrap_or_default()
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Drops bytes from the front.
    #[inline]
    pub(super) fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Room for more behind the unused bytes, which are moved to the front: little, since they are part of a request.
    #[inline]
    pub(super) fn room(&mut self) -> &mut [u8] {
        if self.memory.is_empty() {
            self.memory = vec![0; INPUT_BYTES];
        }
        if self.start > 0 {
            self.memory.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        self.memory.get_mut(self.end..).unwrap_or_default()
    }

    /// So many bytes of the room were filled.
    #[inline]
    pub(super) fn received(&mut self, count: usize) {
        self.end = (self.end + count).min(self.memory.len());
    }

    /// Gives the memory back if nothing is in it.
    pub(super) fn release(&mut self) {
        if self.is_empty() {
            self.memory = Vec::new();
        }
    }
}
