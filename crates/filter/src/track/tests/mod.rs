//! Tests of the tracker.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation
)]

mod basic;
mod cut;
mod format;
mod many;
mod model;
mod parts;
mod restart;
mod rig;
mod small;
mod support;
mod taken;
mod threads;
mod trouble;
