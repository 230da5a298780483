//! The daemon: assembles stacks, keeps state, answers the control API.

pub mod options;

pub use options::{EngineChoice, ListenAddr, LogLevel, ServeOptions, TlsFiles};
