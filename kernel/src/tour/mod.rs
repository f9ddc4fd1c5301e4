//! The tour: what a remapping unit is and does, shown on this machine. Every line is a result; what is not as it must be
//! says so, and the tour fails.

mod costs;
mod devices;
mod emulated;
mod engine;
mod live;
mod machine;
mod report;
mod station;
mod table;
mod units;
mod virtio;
mod walk;
mod without;

use crate::boot::cmdline;
use crate::iommu::Session;
use crate::memory::frames;
use crate::platform::KernelPlatform;
use crate::{acpi, iommu, pci, println, time};
use report::{Report, Stop};
use vtd::hw::registers::{Gsts, at};
use vtd::{Config, Platform, Registers};

/// Shows everything; whether all of it was as it must be.
pub fn run() -> bool {
    let begun = time::now();
    let mut report = Report::default();
    report.section("The machine", machine::show);
    if let Err(broken) = crate::machine::keeps_promise() {
        report.check(false, format_args!("{broken}"));
    } else if acpi::tables().dmar.is_empty() {
        without::show(&mut report);
    } else {
        report.section("What the firmware says: the DMAR table", table::show);
        with_unit(&mut report);
    }
    let nanos = time::now().0 - begun.0;
    println!("\n@time tour {nanos}");
    conclude(&report, nanos / 1_000_000)
}

/// The driver comes up, is shown, and goes again.
fn with_unit(report: &mut Report) {
    map_registers();
    let free = frames::free_count();
    let begun = time::now();
    let started = Session::start(Config { tables: cmdline::get().tables, ..Config::default() });
    let nanos = time::now().0 - begun.0;
    let session = match started {
        Ok(session) => session,
        Err(e) => return report.section("Bring-up", |_| Err(e.into())),
    };
    println!("@time bringup {nanos}");
    report.section("What each unit can do", |r| units::capabilities(r, &session));
    report.section("Devices, their units and groups", |r| devices::show(r, &session));
    report.section("Bring-up, step by step", |r| units::bring_up(r, &session, nanos));
    live::show(report, &session);
    report.section("What changes cost, and what passes through", |r| costs::show(r, &session));
    report.section("Devices at work behind the unit", |r| virtio::show(r, &session));
    report.section("On an emulated unit inside the kernel: what QEMU's units lack", emulated::show);
    report.section("The end", |r| end(r, session, free));
}

/// Maps whatever registers the tour needs: the kernel's own tables take frames for them, which are not given back.
fn map_registers() {
    for unit in iommu::topology().iter().flat_map(|t| t.units()) {
        if let Some(base) = unit.base {
            let _ = KernelPlatform.registers(base, unit.window.max(4096));
        }
    }
    for f in pci::all().iter().filter(|f| f.vendor == crate::devices::virtio::VENDOR) {
        for window in 0..f.windows.len() {
            f.map(window);
        }
    }
}

/// Everything off, everything given back.
fn end(report: &mut Report, session: Session, free: usize) -> Result<(), Stop> {
    iommu::tend(session.vtd());
    let (unexpected, lost) = (session.rest.take(), session.rest.take_lost());
    for fault in &unexpected {
        report::detail(format_args!("{fault}"));
    }
    let none = unexpected.is_empty() && lost == 0;
    report.check(none, format_args!("{} faults that nobody asked for, {lost} lost", unexpected.len()));
    let mut registers = alloc::vec::Vec::new();
    for line in session.report().units.iter().filter(|l| l.skipped.is_none()) {
        registers.push(units::registers(&session, line.unit)?);
    }
    session.end()?;
    for r in registers {
        let gsts = Gsts::from_bits_retain(r.read32(at::GSTS));
        report.check(
            !gsts.intersects(Gsts::TES | Gsts::QIES),
            format_args!("translation and queue are off again: GSTS {:#010x} {}", gsts.bits(), units::names(gsts)),
        );
    }
    let now = frames::free_count();
    report.check(now == free, format_args!("{free} frames were free before the driver came, {now} are now"));
    Ok(())
}

/// The last lines.
fn conclude(report: &Report, ms: u64) -> bool {
    let (results, wrong) = report.results();
    let t = report.tally;
    if t.mapped != 0 {
        println!("{} pages mapped, {} ranges unmapped and flushed, {} faults caught", t.mapped, t.unmaps, t.faults);
    }
    match wrong.len() {
        0 => println!("{results} results in {ms} ms, all as they must be"),
        n => println!("{n} of {results} results NOT as they must be, in {ms} ms:"),
    }
    for what in wrong {
        report::paragraph("  WRONG  ", what);
    }
    wrong.is_empty()
}
