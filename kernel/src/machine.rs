//! The machine in a few lines, for people.

use crate::boot::cmdline;
use crate::boot::info::{self, Kind};
use crate::cpu::{apic, smp};
use crate::{acpi, memory, pci, println, time};

/// Prints what the kernel found.
pub fn describe() {
    let ram: u64 = info::get().regions().iter().filter(|r| r.kind == Kind::Ram).map(|r| r.end - r.start).sum();
    let tables = acpi::tables();
    println!("Machine {}", cmdline::get().machine.unwrap_or("without a name"));
    println!("  memory     {} MiB, {} MiB free", ram >> 20, memory::frames::free_count() >> 8);
    let mode = if apic::is_x2apic() { "x2APIC" } else { "xAPIC" };
    println!(
        "  CPUs       {} of {}, {mode}, counter {} MHz",
        smp::count(),
        tables.cpus.len(),
        time::tsc_hz() / 1_000_000
    );
    println!("  ACPI       revision {}, {} DMAR table(s)", tables.revision, tables.dmar.len());
    for io in &tables.io_apics {
        println!("  I/O APIC   id {}, at {:#x}, interrupts from {}", io.id, io.address, io.first_interrupt);
    }
    println!("  functions  {}", pci::all().len());
    for f in pci::all() {
        crate::print!("    {}  {:04x}:{:04x}  class {:06x}", f.id, f.vendor, f.device, f.class);
        match f.bridge {
            Some(b) => println!("  bridge to bus {:02x}-{:02x}", b.secondary, b.subordinate),
            None => println!(),
        }
    }
}

/// Whether the machine has a DMAR table exactly if the command line promises one; says so where it is not kept.
pub fn keeps_promise() -> bool {
    let found = !acpi::tables().dmar.is_empty();
    match cmdline::get().iommu {
        Some(true) if !found => println!("The machine promises a remapping unit, and its firmware names none"),
        Some(false) if found => println!("The machine promises no remapping unit, and its firmware names one"),
        _ => return true,
    }
    false
}
