//! The vocabulary of the block layer: requests, ranges, errors, store and filter traits; no I/O.
