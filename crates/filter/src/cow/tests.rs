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
mod image;
mod image_threads;
mod kept;
mod kept_extended;
mod kept_restart;
mod kept_world;
mod many;
mod model;
mod own_ranges;
mod places;
mod refusals;
mod removal;
mod storage;
pub(crate) mod support;
pub(crate) mod threads;
mod trouble;
