//! Set-up, run and test of the workspace: everything behind `cargo xtask`.
//!
//! A library as well as a program, so that `tests/qemu.rs` boots machines by the same code.

pub mod boot;
pub mod cli;
pub mod differential;
pub mod dmar;
pub mod docs;
pub mod doctor;
pub mod filter;
pub mod guest;
pub mod kernel;
pub mod machines;
pub mod mutants;
pub mod places;
pub mod protocol;
pub mod run;
pub mod setup;
pub mod symbols;
pub mod test;
pub mod version;
