//! The tests that run in the machine. Those of the kernel's own parts; a file for each part.

mod cpu;
mod memory;
mod pci;
mod raw;
mod time;
