//! The bottoms of a stack: file, block device, memory, null, NBD client.
