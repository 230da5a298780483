//! What is to be sent, in order: a fixed buffer that replies are written into, and owned buffers between its bytes.

use std::collections::VecDeque;
use std::io::IoSlice;

use bowline_block::Buf;

/// Bytes of the fixed buffer: several long pieces with their headers. What is sent in one go keeps the client from
/// falling asleep, and waking it is what costs. Untouched pages of it cost nothing.
pub(super) const OUTPUT_BYTES: usize = (1 << 20) + (64 << 10);
/// Data up to this length is copied rather than sent from a buffer of its own.
const COPIED_MAX: usize = 16 << 10;
/// Unsent bytes up to this number are moved to the front to make room.
const MOVED_MAX: usize = 16 << 10;
/// Slices of one send.
pub(super) const SLICES_MAX: usize = 64;

/// A buffer that goes out before the byte `before` of the fixed buffer.
struct Owned {
    before: usize,
    data: Buf,
    sent: usize,
}

#[derive(Default)]
pub(super) struct Output {
    memory: Vec<u8>,
    /// Sent up to here.
    head: usize,
    /// Written up to here.
    tail: usize,
    owned: VecDeque<Owned>,
    owned_bytes: usize,
}

impl Output {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.head == self.tail && self.owned.is_empty()
    }

    /// Bytes of owned buffers that wait.
    #[inline]
    pub(super) fn owned_bytes(&self) -> usize {
        self.owned_bytes
    }

    /// At least `need` bytes to write a reply into, at most [`OUTPUT_BYTES`]; `None` until more was sent.
    #[inline]
    pub(super) fn room(&mut self, need: usize) -> Option<&mut [u8]> {
        if self.memory.len() - self.tail < need {
            self.make_room(need)?;
        }
        self.memory.get_mut(self.tail..)
    }

    #[cold]
    fn make_room(&mut self, need: usize) -> Option<()> {
        if self.memory.is_empty() {
            self.memory = vec![0; OUTPUT_BYTES];
        } else if self.owned.is_empty() && self.tail - self.head <= MOVED_MAX {
            self.memory.copy_within(self.head..self.tail, 0);
            self.tail -= self.head;
            self.head = 0;
        }
        (self.memory.len() - self.tail >= need).then_some(())
    }

    /// So many bytes of the room are to be sent.
    #[inline]
    pub(super) fn commit(&mut self, count: usize) {
        self.tail = (self.tail + count).min(self.memory.len());
    }

    /// Sends a buffer after everything so far.
    pub(super) fn push(&mut self, data: Buf) {
        if data.len() <= COPIED_MAX
            && let Some(room) = self.room(data.len()).and_then(|room| room.get_mut(..data.len()))
        {
            room.copy_from_slice(&data);
            self.commit(data.len());
            return;
        }
        self.owned_bytes += data.len();
        self.owned.push_back(Owned { before: self.tail, data, sent: 0 });
    }

    /// The fixed bytes to be sent, if there is nothing else.
    #[inline]
    pub(super) fn plain(&self) -> Option<&[u8]> {
        if self.owned.is_empty() { self.memory.get(self.head..self.tail) } else { None }
    }

    /// The front of what is to be sent; how many of `slices` were filled, and with how many bytes.
    pub(super) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; SLICES_MAX]) -> (usize, usize) {
        let (mut count, mut bytes) = (0, 0);
        let mut add = |part: &'a [u8]| {
            if part.is_empty() {
                return;
            }
            if let Some(slot) = slices.get_mut(count) {
                *slot = IoSlice::new(part);
                count += 1;
                bytes += part.len();
            }
        };
        let mut at = self.head;
        for owned in self.owned.iter().take(SLICES_MAX / 2) {
            add(self.memory.get(at..owned.before).unwrap_or_default());
            add(owned.data.get(owned.sent..).unwrap_or_default());
            at = owned.before;
        }
        if self.owned.len() <= SLICES_MAX / 2 {
            add(self.memory.get(at..self.tail).unwrap_or_default());
        }
        (count, bytes)
    }

    /// So many bytes from the front were sent.
    #[inline]
    pub(super) fn sent(&mut self, mut count: usize) {
        while let Some(first) = self.owned.front_mut() {
            let fixed = count.min(first.before - self.head);
            self.head += fixed;
            count -= fixed;
            let own = count.min(first.data.len() - first.sent);
            first.sent += own;
            count -= own;
            if self.head < first.before || first.sent < first.data.len() {
                return;
            }
            self.owned_bytes -= first.data.len();
            self.owned.pop_front();
        }
        self.head = (self.head + count).min(self.tail);
        if self.head == self.tail {
            self.head = 0;
            self.tail = 0;
        }
    }

    /// Gives the memory back if nothing is in it.
    pub(super) fn release(&mut self) {
        if self.is_empty() {
            self.memory = Vec::new();
            self.owned = VecDeque::new();
        }
    }
}
