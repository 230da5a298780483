//! Tests of the journal by itself.

mod cut;
mod damage;
mod format;
mod support;
