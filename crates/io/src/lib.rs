//! Queue threads: executor, readiness, buffers, and the uring and sync I/O engines.
