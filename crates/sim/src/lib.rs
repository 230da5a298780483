//! A simulated disk for tests: seeded, with torn, lost and reordered unflushed writes.
