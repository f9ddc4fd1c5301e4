//! PCI: configuration space in memory (ECAM), the functions found in it, their registers, interrupts, capabilities.

mod assign;
pub mod bars;
pub mod capabilities;
pub mod ecam;
pub mod functions;
pub mod msi;

pub use functions::{Function, all, find};
