//! Tests of the snapshots as a whole.

mod basic;
mod support;
