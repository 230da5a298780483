//! What we ask the kernel beyond reads and writes.
//!
//! | module | asks |
//! |--------|------|
//! | [`freeze`] | hold the writers of a mounted file system for an instant (`FIFREEZE`) |
//! | [`mounts`] | what is mounted, and what each block device is made of |
//! | [`ancestors`] | what a file or device stands on: file systems, loop files, partitions, mappings |
//! | [`probe`] | which mounted file systems stand on a device of ours, by reads that the device must see |
//! | [`fiemap`], [`fsmap`], [`explain`] | which files own given bytes of a device |
//! | [`block`] | size, block size, discard and zeroing of block devices |
//!
//! Whatever the kernel says here was, at least in part, put together by somebody else: names, counts and addresses are
//! untrusted. And whatever touches a file system of somebody else may never return (a FUSE server that hangs), which is
//! why it is done on a thread that is given up after a limit.

pub mod ancestors;
pub mod block;
pub mod explain;
pub mod fiemap;
pub mod freeze;
pub mod fsmap;
pub mod mountinfo;
pub mod mounts;
pub mod probe;
mod sys;
mod within;

#[cfg(test)]
mod tests;
