//! What each unit can do, and how it was brought up: the driver's report beside the registers as they stand.

use super::report::{Report, Stop, detail, fact, pairs};
use crate::iommu::Session;
use crate::platform::KernelPlatform;
use crate::println;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use vtd::hw::invalidation::Iqa;
use vtd::hw::registers::{EventControl, Fsts, Gsts, Pmen, RootPointer, TableMode, at};
use vtd::{Mmio, Platform, Registers, UnitId, UnitReport};

/// The capabilities in words.
pub fn capabilities(report: &mut Report, session: &Session) -> Result<(), Stop> {
    for line in &session.report().units {
        if let Some(why) = line.skipped {
            report.ok(format_args!("{} is left alone, its devices are not served: {why}", line.unit));
            continue;
        }
        let (base, caps) = (session.vtd().register_base(line.unit)?, session.vtd().capabilities(line.unit)?);
        fact(&line.unit.to_string(), format_args!("at {base:#x}, {} KiB of registers", caps.window() / 1024));
        println!();
        let mut texts = Vec::new();
        caps.describe(&mut |name, words| texts.push(format!("{name:<13} {words}")));
        pairs(&texts);
    }
    Ok(())
}

/// The unit's registers, beside the driver; they are only read.
pub fn registers(session: &Session, unit: UnitId) -> Result<Mmio, Stop> {
    let base = session.vtd().register_base(unit)?;
    Ok(KernelPlatform.registers(base, 4096).map_err(|_| "the unit's registers cannot be mapped")?)
}

/// Bring-up, step by step.
pub fn bring_up(report: &mut Report, session: &Session, nanos: u64) -> Result<(), Stop> {
    for line in session.report().units.iter().filter(|l| l.skipped.is_none()) {
        steps(report, line, &registers(session, line.unit)?, session.report().units.len() > 1);
    }
    for f in &session.report().firmware {
        let kept = match f.error {
            None => "goes on reaching it".to_string(),
            Some(e) => format!("does not reach it: {e}"),
        };
        report
            .check(f.error.is_none(), format_args!("firmware's region {} of {}: the device {kept}", f.range, f.device));
    }
    for e in &session.report().errata {
        detail(format_args!("quirk: {}", e.why));
    }
    let units = session.report().units.iter().filter(|l| l.skipped.is_none()).count();
    report
        .check(units > 0, format_args!("{units} unit(s) up in {} us, every device blocked from here on", nanos / 1000));
    Ok(())
}

fn steps(report: &mut Report, line: &UnitReport, r: &Mmio, several: bool) {
    if several {
        fact(&line.unit.to_string(), format_args!(""));
    }
    let mut step = |ok: bool, what: &str, register: String, says: String| {
        report.check(ok, format_args!("{what:<16} {register:<26} {says}"));
    };
    let found = match line.found {
        on if on.is_empty() => "everything was off".to_string(),
        on => format!("{} found on and turned off", names(on)),
    };
    let gsts = Gsts::from_bits_retain(r.read32(at::GSTS));
    step(true, "found", format!("GSTS   {:#010x}", line.found.bits()), found);
    let on = gsts.contains(Gsts::QIES);
    if line.queue {
        let (address, head, tail) = (Iqa(r.read64(at::IQA)), r.read64(at::IQH), r.read64(at::IQT));
        let carried = address.width().index(head);
        let says = format!("{} descriptors, {carried} carried out, none waiting", address.entries());
        step(on && head == tail, "queue", format!("IQA    {:#018x}", address.0), says);
    } else {
        step(!on, "no queue", format!("GSTS   {:#010x}", gsts.bits()), "invalidation by registers".to_string());
    }
    let root = RootPointer(r.read64(at::RTADDR));
    let taken = root.mode() == line.tables && gsts.contains(Gsts::RTPS);
    let mode = if line.tables == Some(TableMode::Scalable) { "scalable" } else { "legacy" };
    step(taken, "root table", format!("RTADDR {:#018x}", root.0), format!("{mode} mode, taken over"));
    let control = EventControl::from_bits_retain(r.read32(at::FECTL));
    let open = !control.contains(EventControl::IM);
    let message = format!("FEADDR {:#010x} <- {:#x}", r.read32(at::FEADDR), r.read32(at::FEDATA));
    let says = if open { "faults interrupt" } else { "masked: faults are looked for" };
    step(open == line.fault_interrupt, "fault interrupt", message, says.to_string());
    let status = Fsts::from_bits_retain(r.read32(at::FSTS));
    step(status.is_empty(), "fault status", format!("FSTS   {:#010x}", status.bits()), "nothing recorded".to_string());
    step(gsts.contains(Gsts::TES), "translation on", format!("GSTS   {:#010x}", gsts.bits()), names(gsts));
    let pmen = Pmen::from_bits_retain(r.read32(at::PMEN));
    let says = if line.protected_memory { "was on, and was turned off" } else { "was off" };
    let off = !pmen.contains(Pmen::PRS);
    step(off, "protected memory", format!("PMEN   {:#010x}", pmen.bits()), says.to_string());
}

/// The status bits that are set, by name.
pub fn names(status: Gsts) -> String {
    let names: Vec<&str> = status.iter_names().map(|(name, _)| name).collect();
    names.join(" ")
}
