//! The NBD protocol without I/O: wire structures, negotiation and transmission, both sides.
