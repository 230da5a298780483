//! The device: a stack of filters over a store, with freeze and thaw.
