//! From the loader to Rust: the PVH entry point, what the loader says about the machine, the command line.

pub mod cmdline;
pub mod entry;
pub mod info;
