//! What the tests with real clients share: a daemon with a guard, programs that may be missing, an NBD client of its
//! own, and sectors that know where and when they were written.
//!
//! Nothing here uses Bowline's crates: a mistake that both ends of a codec share must not hide.

#![allow(dead_code, unused_imports, reason = "each test program uses a part of this")]

pub(crate) mod bitmap;
pub(crate) mod cage;
pub(crate) mod changes;
pub(crate) mod cut;
pub(crate) mod daemon;
pub(crate) mod filesystem;
pub(crate) mod fuse;
pub(crate) mod http;
pub(crate) mod load;
pub(crate) mod model;
pub(crate) mod nbd;
pub(crate) mod oracle;
pub(crate) mod prefix;
pub(crate) mod scene;
pub(crate) mod tools;
pub(crate) mod writer;

pub(crate) use daemon::{Daemon, Ran, Start};
pub(crate) use nbd::{Nbd, NbdError};
pub(crate) use tools::{file_bytes, run, sparse_file, tool};

pub(crate) const KIB: u64 = 1 << 10;
pub(crate) const MIB: u64 = 1 << 20;
