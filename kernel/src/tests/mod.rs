//! The tests that run in the machine. Those of the kernel's own parts; a file for each part.

mod acpi;
mod cpu;
mod devices;
mod driver;
mod memory;
mod no_iommu;
mod pci;
mod platform;
mod raw;
mod time;
