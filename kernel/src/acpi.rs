//! ACPI's tables, as far as this kernel needs them: CPUs, configuration space, timer, and the DMAR table as bytes.

use crate::boot::info;
use crate::memory::paging;
use crate::time::PmTimer;
use ::acpi::address::AddressSpace;
use ::acpi::fadt::Fadt;
use ::acpi::madt::{Madt, MadtEntry};
use ::acpi::mcfg::Mcfg;
use ::acpi::rsdp::Rsdp;
use ::acpi::sdt::Signature;
use ::acpi::{AcpiHandler, AcpiTables, PhysicalMapping};
use alloc::vec::Vec;
use core::cell::Cell;
use core::ptr::NonNull;
use spin::Once;

/// Enabled, or may be enabled later, in the flags of a CPU's entry.
const CPU_ENABLED: u32 = 1;

/// A part of configuration space in memory.
#[derive(Clone, Copy, Debug)]
pub struct EcamRegion {
    pub base: u64,
    pub segment: u16,
    pub first_bus: u8,
    pub last_bus: u8,
}

/// An I/O interrupt controller.
#[derive(Clone, Copy, Debug)]
pub struct IoApic {
    pub id: u8,
    pub address: u32,
    pub first_interrupt: u32,
}

/// What the tables say.
#[derive(Debug, Default)]
pub struct Tables {
    /// 0 for the first ACPI, 2 since.
    pub revision: u8,
    /// APIC ids of the CPUs, in the tables' order.
    pub cpus: Vec<u32>,
    pub io_apics: Vec<IoApic>,
    pub ecam: Vec<EcamRegion>,
    pub pm_timer: Option<PmTimer>,
    pub pm_timer_is_32_bit: bool,
    /// Each DMAR table, whole, in the tables' order.
    pub dmar: Vec<&'static [u8]>,
}

static TABLES: Once<Tables> = Once::new();

/// Memory at its own addresses. Remembers where it last looked.
#[derive(Clone)]
struct Identity<'a>(&'a Cell<usize>);

impl AcpiHandler for Identity<'_> {
    unsafe fn map_physical_region<T>(&self, at: usize, size: usize) -> PhysicalMapping<Self, T> {
        // What is memory is mapped; what the memory map leaves out may not be.
        let _ = paging::map_device(at as u64, size as u64);
        self.0.set(at);
        let start = NonNull::new(at as *mut T).expect("an ACPI table at address 0");
        // SAFETY: the range is mapped at its own address, for good.
        unsafe { PhysicalMapping::new(at, start, size, size, self.clone()) }
    }

    fn unmap_physical_region<T>(_: &PhysicalMapping<Self, T>) {}
}

/// Where the tables begin: the loader says it, or the BIOS left it in its memory. Before page 0 is unmapped.
pub fn find_root() -> Option<u64> {
    info::get().rsdp.or_else(|| {
        // SAFETY: only loaders of machines with a BIOS leave the address out.
        let found = unsafe { Rsdp::search_for_on_bios(BiosMemory) }.ok()?;
        Some(found.physical_start() as u64)
    })
}

/// The same as `Identity` on the first page tables, which map the BIOS's memory already.
#[derive(Clone)]
struct BiosMemory;

impl AcpiHandler for BiosMemory {
    unsafe fn map_physical_region<T>(&self, at: usize, size: usize) -> PhysicalMapping<Self, T> {
        let start = NonNull::new(at as *mut T).expect("not address 0");
        // SAFETY: the first page tables map the lowest 4 GiB at their own addresses.
        unsafe { PhysicalMapping::new(at, start, size, size, BiosMemory) }
    }

    fn unmap_physical_region<T>(_: &PhysicalMapping<Self, T>) {}
}

/// Reads the machine's tables, from their root on.
pub fn init(root: Option<u64>) {
    TABLES.call_once(|| root.map(|r| read(r as usize)).unwrap_or_default());
}

/// What `init` read.
pub fn tables() -> &'static Tables {
    TABLES.get().expect("read at boot")
}

/// Reads the tables from the root pointer at `root` on.
pub fn read(root: usize) -> Tables {
    let mut found = Tables::default();
    let last = Cell::new(0);
    // SAFETY: the address is the firmware's or that of a table that was checked.
    let tables = match unsafe { AcpiTables::from_rsdp(Identity(&last), root) } {
        Ok(tables) => tables,
        Err(e) => {
            crate::println!("ACPI tables cannot be read: {e:?}");
            return found;
        }
    };
    found.revision = tables.revision();
    if let Ok(madt) = tables.find_table::<Madt>() {
        for entry in madt.get().entries() {
            match entry {
                MadtEntry::LocalApic(e) if e.flags & CPU_ENABLED != 0 => found.cpus.push(e.apic_id.into()),
                MadtEntry::LocalX2Apic(e) if e.flags & CPU_ENABLED != 0 => found.cpus.push(e.x2apic_id),
                MadtEntry::IoApic(e) => found.io_apics.push(IoApic {
                    id: e.io_apic_id,
                    address: e.io_apic_address,
                    first_interrupt: e.global_system_interrupt_base,
                }),
                _ => {}
            }
        }
        // A CPU may be named in both forms.
        found.cpus.sort_unstable();
        found.cpus.dedup();
    }
    if let Ok(mcfg) = tables.find_table::<Mcfg>() {
        found.ecam.extend(mcfg.entries().iter().map(|e| EcamRegion {
            base: e.base_address,
            segment: e.pci_segment_group,
            first_bus: e.bus_number_start,
            last_bus: e.bus_number_end,
        }));
    }
    if let Ok(fadt) = tables.find_table::<Fadt>() {
        // A copy: the table is packed.
        let flags = fadt.flags;
        found.pm_timer_is_32_bit = flags.pm_timer_is_32_bit();
        if let Ok(Some(block)) = fadt.pm_timer_block() {
            found.pm_timer = match block.address_space {
                AddressSpace::SystemIo => Some(PmTimer::Port(block.address as u16)),
                AddressSpace::SystemMemory => {
                    paging::map_device(block.address, 4).ok().map(|()| PmTimer::Memory(block.address))
                }
                _ => None,
            };
        }
    }
    for header in tables.headers().filter(|h| h.signature == Signature::DMAR) {
        // The iterator gives a copy of the header; the handler knows where it last looked.
        // SAFETY: the whole table, which `acpi` has read for its checksum; nobody writes it.
        found.dmar.push(unsafe { core::slice::from_raw_parts(last.get() as *const u8, header.length as usize) });
    }
    found
}
