//! The driver's own files, built with `loom`'s atomics (`src/host/sync.rs` under `cfg(loom)`), and two models: the
//! invalidation queue with two submitters and a unit, and the turn that one CPU at a time has.
//!
//! `loom` runs a model once for every order in which its threads may meet, and lets each load see every store that the
//! language allows it to see.

// As a test it would be the driver's own tests without what they need.
#![cfg(not(test))]

extern crate alloc;

#[allow(dead_code, unused_imports, reason = "the models use a part of it")]
#[path = "../../../src/host/mod.rs"]
mod host;
#[allow(dead_code, unused_imports, reason = "the models use a part of it")]
#[path = "../../../src/hw/mod.rs"]
mod hw;
mod machine;
mod models;
#[allow(dead_code, unused_imports, reason = "the models use a part of it")]
mod unit;

pub use models::{MODELS, Model, check, sites};
