//! Tests of the snapshots as a whole.

mod basic;
mod cut;
mod economy;
mod failures;
mod model;
mod refusals;
mod support;
mod threads;
