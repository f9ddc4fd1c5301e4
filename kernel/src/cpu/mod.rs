//! Processors: descriptor tables, exceptions, interrupts, the local APIC, the other CPUs.

pub mod apic;
pub mod exceptions;
pub mod idt;
pub mod interrupts;
pub mod local;
pub mod registers;
pub mod smp;
pub mod trampoline;
