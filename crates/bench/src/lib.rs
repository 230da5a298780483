//! Load generator and benchmark tables.
