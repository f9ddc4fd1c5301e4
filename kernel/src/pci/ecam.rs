//! Configuration space in memory (PCI Express 7.2.2), by the regions that ACPI's MCFG table names.

use crate::acpi::{self, EcamRegion};
use crate::memory::paging;
use pci_types::{ConfigRegionAccess, PciAddress};
use vtd::DeviceId;

/// Bytes of a function's configuration space, and of a bus's.
const FUNCTION: u64 = 4096;
const BUS: u64 = FUNCTION << 8;

/// Makes the regions reachable.
pub fn init() {
    for r in regions() {
        let buses = u64::from(r.last_bus.saturating_sub(r.first_bus)) + 1;
        if paging::map_device(r.base, buses * BUS).is_err() {
            crate::println!("PCI configuration space at {:#x} cannot be mapped", r.base);
        }
    }
}

/// The regions.
pub fn regions() -> &'static [EcamRegion] {
    &acpi::tables().ecam
}

/// Where the register at `at` stands: aligned and within the function, or nothing.
fn place(d: DeviceId, at: u16) -> Option<*mut u32> {
    let bus = d.source.bus();
    let r = regions().iter().find(|r| r.segment == d.segment && (r.first_bus..=r.last_bus).contains(&bus))?;
    if !at.is_multiple_of(4) || u64::from(at) >= FUNCTION {
        return None;
    }
    let function = u64::from(bus - r.first_bus) * BUS + u64::from(d.source.devfn()) * FUNCTION;
    Some((r.base + function + u64::from(at)) as *mut u32)
}

/// Reads a register; `None` where there is no configuration space for it. A missing function reads as all ones.
pub fn read(d: DeviceId, at: u16) -> Option<u32> {
    // SAFETY: within a region that `init` mapped.
    place(d, at).map(|p| unsafe { p.read_volatile() })
}

/// Writes a register.
pub fn write(d: DeviceId, at: u16, v: u32) -> Option<()> {
    // SAFETY: as above.
    place(d, at).map(|p| unsafe { p.write_volatile(v) })
}

/// The accessor that crate `pci_types` works through.
#[derive(Clone, Copy)]
pub struct Ecam;

/// The crate's name for a function.
pub fn address(d: DeviceId) -> PciAddress {
    PciAddress::new(d.segment, d.source.bus(), d.source.device(), d.source.function())
}

fn id(a: PciAddress) -> DeviceId {
    DeviceId::new(a.segment(), a.bus(), a.device(), a.function())
}

impl ConfigRegionAccess for Ecam {
    unsafe fn read(&self, a: PciAddress, at: u16) -> u32 {
        read(id(a), at).unwrap_or(u32::MAX)
    }

    unsafe fn write(&self, a: PciAddress, at: u16, v: u32) {
        let _ = write(id(a), at, v);
    }
}
