//! What needs no privilege.

mod mountinfo;
