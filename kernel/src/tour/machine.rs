//! The machine in a few lines.

use super::report::{Report, Stop, fact};
use crate::boot::cmdline;
use crate::boot::info::{self, Kind};
use crate::cpu::{apic, smp};
use crate::{acpi, memory, pci, time};

pub fn show(report: &mut Report) -> Result<(), Stop> {
    let ram: u64 = info::get().regions().iter().filter(|r| r.kind == Kind::Ram).map(|r| r.end - r.start).sum();
    let tables = acpi::tables();
    let mode = if apic::is_x2apic() { "x2APIC" } else { "xAPIC" };
    let bridges = pci::all().iter().filter(|f| f.bridge.is_some()).count();
    fact("name", format_args!("{}", cmdline::get().machine.unwrap_or("none given")));
    fact("memory", format_args!("{} MiB, {} MiB free", ram >> 20, memory::frames::free_count() >> 8));
    fact("clock", format_args!("{} MHz, measured against ACPI's timer", time::tsc_hz() / 1_000_000));
    fact("PCI", format_args!("{} functions, {bridges} of them bridges", pci::all().len()));
    for io in &tables.io_apics {
        fact("I/O APIC", format_args!("id {} at {:#x}, interrupts from {}", io.id, io.address, io.first_interrupt));
    }
    let (running, named) = (smp::count(), tables.cpus.len());
    report.check(running == named, format_args!("{running} of {named} CPUs run, {mode}"));
    Ok(())
}
