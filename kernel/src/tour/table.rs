//! The firmware's DMAR table, as the driver reads it, and what is odd about it.

use super::report::{Report, Stop, fact, paragraph};
use crate::acpi;
use crate::boot::info::{self, Kind};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use vtd::Range;
use vtd::dmar::{Defect, Entry, HeaderFlags, Oddity, Scopes, Structure, Table, audit};

pub fn show(report: &mut Report) -> Result<(), Stop> {
    let bytes = *acpi::tables().dmar.first().ok_or("the firmware has no DMAR table")?;
    let table = Table::new(bytes);
    let h = table.header();
    fact(
        "header",
        format_args!(
            "{} bytes, revision {}, by \"{}\" \"{}\"; DMA reaches {} bits of address{}",
            h.length,
            h.revision,
            text(&h.oem_id),
            text(&h.oem_table_id),
            h.host_address_width,
            flags(h.flags)
        ),
    );
    for entry in table.structures() {
        let (name, words) = structure(&entry);
        fact(name, format_args!("{words}"));
        scopes(entry.scopes());
    }
    let (mut defects, mut oddities) = (Vec::<Defect>::new(), Vec::<Oddity>::new());
    table.defects(&mut |d| defects.push(d));
    audit(&table, Some(&is_reserved), &mut |o| oddities.push(o));
    for o in &oddities {
        fact("odd", format_args!("at {:#x}: {o}", o.at));
    }
    for d in &defects {
        fact("damaged", format_args!("at {:#x}: {d}", d.offset()));
    }
    let odd = match oddities.len() {
        0 => "nothing odd about it".to_string(),
        1 => "1 oddity".to_string(),
        n => format!("{n} oddities"),
    };
    report
        .check(defects.is_empty(), format_args!("checksum and lengths of the table, {} defects; {odd}", defects.len()));
    Ok(())
}

/// Whether the memory map keeps the range out of general use.
fn is_reserved(r: Range) -> bool {
    let map = info::get().regions().iter();
    !map.filter(|m| m.kind == Kind::Ram).any(|m| m.start <= r.last.get() && r.first.get() < m.end)
}

/// Text as the table holds it: up to the first NUL, without blanks at its end.
fn text(bytes: &[u8]) -> String {
    let printable = |c: &u8| if c.is_ascii_graphic() { char::from(*c) } else { ' ' };
    let all: String = bytes.iter().take_while(|c| **c != 0).map(printable).collect();
    all.trim_end().to_string()
}

fn flags(flags: HeaderFlags) -> String {
    let said = [
        (HeaderFlags::INTR_REMAP, "interrupt remapping"),
        (HeaderFlags::X2APIC_OPT_OUT, "firmware asks to stay out of x2APIC mode"),
        (HeaderFlags::DMA_CTRL_PLATFORM_OPT_IN, "firmware keeps its DMA to reserved regions"),
    ];
    said.iter().filter(|(flag, _)| flags.contains(*flag)).map(|(_, words)| format!("; {words}")).collect()
}

fn structure(entry: &Entry<'_>) -> (&'static str, String) {
    match entry.structure {
        Structure::Drhd(d) => {
            let all = if d.include_pci_all() { ", all devices that no other unit names" } else { "" };
            let kib = d.window() / 1024;
            ("unit", format!("at {:#x}, {kib} KiB of registers, segment {}{all} (DRHD)", d.register_base, d.segment))
        }
        Structure::Rmrr(r) => {
            ("reserved", format!("memory {:#x}-{:#x} for devices of segment {} (RMRR)", r.base, r.limit, r.segment))
        }
        Structure::Atsr(a) => {
            let all = if a.flags & 1 != 0 { "all root ports" } else { "root ports" };
            ("ATS", format!("{all} of segment {} (ATSR)", a.segment))
        }
        Structure::Rhsa(a) => {
            ("node", format!("unit at {:#x} is on node {} (RHSA)", a.register_base, a.proximity_domain))
        }
        Structure::Andd(a) => ("ACPI", format!("device {} is {} (ANDD)", a.device_number, text(a.name))),
        Structure::Satc(s) => ("caches", format!("devices of segment {} with a translation cache (SATC)", s.segment)),
        Structure::Sidp(s) => ("integrated", format!("properties of devices of segment {} (SIDP)", s.segment)),
        Structure::Unknown => ("unknown", format!("type {:?}, {} bytes at {:#x}", entry.kind, entry.length, entry.at)),
    }
}

/// Those of a kind in one paragraph.
fn scopes(list: Scopes<'_>) {
    let mut paragraphs: Vec<(String, String)> = Vec::new();
    for s in list.flatten() {
        let what = match s.kind {
            1 => "functions".to_string(),
            2 => "bridges and all behind".to_string(),
            3 => format!("I/O APIC {}", s.enumeration_id),
            4 => format!("HPET {}", s.enumeration_id),
            5 => format!("ACPI device {}", s.enumeration_id),
            n => format!("unknown type {n}, id {}", s.enumeration_id),
        };
        let path: Vec<String> = s.path.iter().map(|[d, f]| format!("{d:02x}.{f:x}")).collect();
        let place = format!("{:02x}:{}", s.start_bus, path.join(">"));
        match paragraphs.iter_mut().find(|(of, _)| *of == what) {
            Some((_, places)) => *places = format!("{places} {place}"),
            None => paragraphs.push((what, place)),
        }
    }
    for (what, places) in paragraphs {
        paragraph(&format!("             └ {what:<22} "), &places);
    }
}
