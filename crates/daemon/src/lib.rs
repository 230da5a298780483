//! The daemon: assembles stacks, keeps state, answers the control API.
