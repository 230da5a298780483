//! Tests of the snapshots as a whole.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation
)]

mod basic;
mod cut;
mod economy;
mod failures;
mod full;
mod hold;
<<<<<<< HEAD
mod many;
=======
mod image;
mod image_threads;
>>>>>>> 15c0e14 (Images are writable: what is written to one goes to an overlay in the snapshot's diff storage)
mod model;
mod own_ranges;
mod places;
mod refusals;
mod removal;
mod storage;
mod support;
mod threads;
