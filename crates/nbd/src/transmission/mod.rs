//! Transmission: requests and replies, both sides.
//!
//! Design notes: headers only. Payload bytes (data of a write, of a read reply) are moved by the caller straight
//! between its buffers and the socket; this module says how many there are.

pub mod decode;
pub mod reply;
pub mod request;
#[cfg(test)]
mod tests;
