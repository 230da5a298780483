//! Tests of the snapshots as a whole.

mod basic;
mod cut;
mod model;
mod support;
mod threads;
