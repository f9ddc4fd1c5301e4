//! What units may offer, and where the emulated unit's own tests show it.

use crate::features::Feature;

pub const FEATURES: &[Feature] = &[Feature { name: "queue", has: |p| p.qi(), own: ("queue/tests.rs", "x") }];
