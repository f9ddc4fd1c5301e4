//! `cargo xtask dmar`: decodes DMAR tables on the host, with the driver's own parser.

use anyhow::{Context, Result};
use serde::Serialize;
use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use vtd::dmar::{Defect, Drhd, Entry, HeaderFlags, Oddity, Scope, Scopes, Structure, Table, audit};

/// No table is nearly as long; of a longer file only this much is read.
const LONGEST: u64 = 1 << 20;

/// Decode DMAR tables and say what is odd about them.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Reads tables as the firmware gives them, such as /sys/firmware/acpi/tables/DMAR.

What is cut short, has a wrong length or checksum, or overruns is decoded as far as it can be trusted; the rest is named \
(with --json on standard error). Exit code 0: every table is whole, however odd. 1: a table is damaged. 2: a file cannot \
be read.

--json prints one document a line and a file, in the form that tests/fixtures/dmar/README.md describes. A structure of \
unknown type, or too short for its type, is {\"type\": NUMBER, \"length\": LENGTH AS IT SAYS, \"bytes\": ITS BYTES IN HEX}; \
header fields that were cut off are left out.")]
pub struct Args {
    /// Files that each hold one table.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Print one compact JSON document for each file.
    #[arg(long)]
    json: bool,
}

/// Decodes every file; see `Args` for the exit code.
pub fn run(args: &Args) -> Result<ExitCode> {
    let mut worst = 0;
    for (n, file) in args.files.iter().enumerate() {
        let bytes = match read(file) {
            Ok(bytes) => bytes,
            Err(e) => {
                say(format_args!("{e:#}"));
                worst = worst.max(2);
                continue;
            }
        };
        let table = Table::new(&bytes);
        let mut defects = Vec::new();
        table.defects(&mut |d| defects.push(d));
        defects.sort_by_key(Defect::offset);
        if !defects.is_empty() {
            worst = worst.max(1);
        }
        let text = if args.json {
            for d in &defects {
                say(format_args!("{}: at {:#x}: {d}", file.display(), d.offset()));
            }
            serde_json::to_string(&Document::of(&table))? + "\n"
        } else {
            let gap = if n == 0 { "" } else { "\n" };
            format!("{gap}{}", tree(&file.display().to_string(), &table, &defects)?)
        };
        match std::io::stdout().write_all(text.as_bytes()) {
            Err(e) if e.kind() == ErrorKind::BrokenPipe => break,
            other => other.context("cannot write to standard output")?,
        }
    }
    Ok(ExitCode::from(worst))
}

/// A line on standard error, wherever that leads.
fn say(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn read(file: &Path) -> Result<Vec<u8>> {
    let cannot = || format!("cannot read {}", file.display());
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(file).with_context(cannot)?;
    opened.take(LONGEST).read_to_end(&mut bytes).with_context(cannot)?;
    Ok(bytes)
}

/// Text as the tables hold it: up to the first NUL, a blank for what cannot be printed.
fn text(bytes: &[u8]) -> String {
    let printable = |c: &u8| if c.is_ascii_graphic() { char::from(*c) } else { ' ' };
    bytes.iter().take_while(|c| **c != 0).map(printable).collect()
}

// ---- JSON -----------------------------------------------------------------------------------------------------------

#[derive(Serialize)]
struct Document {
    header: HeaderForm,
    structures: Vec<StructureForm>,
}

#[derive(Serialize)]
struct HeaderForm {
    #[serde(skip_serializing_if = "Option::is_none")]
    length: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<u8>,
    checksum_ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    oem_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    oem_table_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    oem_revision: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host_address_width: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flags: Option<u8>,
}

#[derive(Serialize)]
struct ScopeForm {
    r#type: u8,
    enumeration_id: u8,
    start_bus: u8,
    path: Vec<[u8; 2]>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum StructureForm {
    Known {
        r#type: &'static str,
        #[serde(flatten)]
        content: Content,
    },
    Unknown {
        r#type: u16,
        length: u16,
        bytes: String,
    },
}

#[derive(Serialize)]
#[serde(untagged)]
enum Content {
    Drhd { flags: u8, size: u8, segment: u16, register_base: String, scopes: Vec<ScopeForm> },
    Rmrr { segment: u16, base: String, limit: String, scopes: Vec<ScopeForm> },
    Flagged { flags: u8, segment: u16, scopes: Vec<ScopeForm> },
    Rhsa { register_base: String, proximity_domain: u32 },
    Andd { device_number: u8, name: String },
    Sidp { segment: u16, scopes: Vec<ScopeForm> },
}

fn wide(n: u64) -> String {
    format!("{n:#018x}")
}

fn scopes(list: Scopes<'_>) -> Vec<ScopeForm> {
    let form = |s: Scope<'_>| ScopeForm {
        r#type: s.kind,
        enumeration_id: s.enumeration_id,
        start_bus: s.start_bus,
        path: s.path.to_vec(),
    };
    list.flatten().map(form).collect()
}

impl Document {
    fn of(table: &Table<'_>) -> Self {
        let h = table.header();
        let have = |end: usize| table.available() >= end;
        let header = HeaderForm {
            length: have(8).then_some(h.length),
            revision: have(9).then_some(h.revision),
            checksum_ok: h.checksum_ok,
            oem_id: have(16).then(|| text(&h.oem_id)),
            oem_table_id: have(24).then(|| text(&h.oem_table_id)),
            oem_revision: have(28).then_some(h.oem_revision),
            host_address_width: have(37).then_some(h.host_address_width),
            flags: have(38).then_some(h.flags.bits()),
        };
        Document { header, structures: table.structures().filter_map(|e| StructureForm::of(&e)).collect() }
    }
}

impl StructureForm {
    fn of(entry: &Entry<'_>) -> Option<Self> {
        let content = match entry.structure {
            Structure::Drhd(d) => Content::Drhd {
                flags: d.flags,
                size: d.size,
                segment: d.segment,
                register_base: wide(d.register_base),
                scopes: scopes(d.scopes),
            },
            Structure::Rmrr(r) => {
                Content::Rmrr { segment: r.segment, base: wide(r.base), limit: wide(r.limit), scopes: scopes(r.scopes) }
            }
            Structure::Atsr(a) => Content::Flagged { flags: a.flags, segment: a.segment, scopes: scopes(a.scopes) },
            Structure::Satc(s) => Content::Flagged { flags: s.flags, segment: s.segment, scopes: scopes(s.scopes) },
            Structure::Sidp(s) => Content::Sidp { segment: s.segment, scopes: scopes(s.scopes) },
            Structure::Rhsa(a) => {
                Content::Rhsa { register_base: wide(a.register_base), proximity_domain: a.proximity_domain }
            }
            Structure::Andd(a) => Content::Andd { device_number: a.device_number, name: text(a.name) },
            Structure::Unknown => {
                let bytes = entry.bytes.iter().map(|b| format!("{b:02x}")).collect();
                return entry.kind.map(|kind| StructureForm::Unknown { r#type: kind, length: entry.length, bytes });
            }
        };
        Some(StructureForm::Known { r#type: name(entry.kind.unwrap_or(u16::MAX)), content })
    }
}

fn name(kind: u16) -> &'static str {
    match kind {
        0 => "DRHD",
        1 => "RMRR",
        2 => "ATSR",
        3 => "RHSA",
        4 => "ANDD",
        5 => "SATC",
        6 => "SIDP",
        _ => "unknown",
    }
}

// ---- for people -----------------------------------------------------------------------------------------------------

/// The table as a tree, each defect and oddity under what it is about.
fn tree(file: &str, table: &Table<'_>, defects: &[Defect]) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    let mut oddities = Vec::new();
    audit(table, None, &mut |o| oddities.push(o));
    oddities.sort_by_key(|o| o.at);
    let mut notes = Notes { defects, oddities: &oddities };
    let h = table.header();
    match table.is_dmar() {
        true => writeln!(out, "{file}: DMAR, {} bytes", h.length)?,
        false => writeln!(out, "{file}: no table that can be read")?,
    }
    if table.available() >= vtd::dmar::HEADER {
        writeln!(
            out,
            "  revision {}, checksum {}, OEM \"{}\" \"{}\" revision {:#x}",
            h.revision,
            match h.checksum_ok {
                true => "good",
                false if table.available() < h.length as usize => "not to be had",
                false => "wrong",
            },
            text(&h.oem_id),
            text(&h.oem_table_id),
            h.oem_revision
        )?;
        writeln!(out, "  DMA reaches {} bits of address{}", h.host_address_width, header_flags(h.flags))?;
    }
    let first = table.structures().next().map_or(usize::MAX, |e| e.at);
    notes.up_to(first, &mut out)?;
    let mut entries = table.structures().peekable();
    while let Some(entry) = entries.next() {
        structure(&mut out, &entry)?;
        notes.up_to(entries.peek().map_or(usize::MAX, |e| e.at), &mut out)?;
    }
    notes.up_to(usize::MAX, &mut out)?;
    let s = |n: usize| if n == 1 { "" } else { "s" };
    let (n, m) = (oddities.len(), defects.len());
    match m {
        0 => writeln!(out, "  whole; {n} oddit{}", if n == 1 { "y" } else { "ies" })?,
        _ => writeln!(out, "  DAMAGED: {m} defect{}; {n} oddit{}", s(m), if n == 1 { "y" } else { "ies" })?,
    }
    Ok(out)
}

/// What remains to be said of a table, in the order of its bytes.
struct Notes<'n> {
    defects: &'n [Defect],
    oddities: &'n [Oddity],
}

impl Notes<'_> {
    /// Prints all notes about what stands before `end`.
    fn up_to(&mut self, end: usize, out: &mut String) -> std::fmt::Result {
        let indent = |at: usize| if at < vtd::dmar::HEADER { "  " } else { "      " };
        let all = end == usize::MAX;
        while let Some((d, rest)) = self.defects.split_first().filter(|(d, _)| all || d.offset() < end) {
            writeln!(out, "{}DEFECT at {:#x}: {d}", indent(d.offset()), d.offset())?;
            self.defects = rest;
        }
        while let Some((o, rest)) = self.oddities.split_first().filter(|(o, _)| all || o.at < end) {
            writeln!(out, "{}ODD at {:#x}: {o}", indent(o.at), o.at)?;
            self.oddities = rest;
        }
        Ok(())
    }
}

fn header_flags(flags: HeaderFlags) -> String {
    let said = [
        (HeaderFlags::INTR_REMAP, "interrupt remapping"),
        (HeaderFlags::X2APIC_OPT_OUT, "firmware asks to stay out of x2APIC mode"),
        (HeaderFlags::DMA_CTRL_PLATFORM_OPT_IN, "firmware keeps its DMA to reserved regions"),
    ];
    said.iter().filter(|(flag, _)| flags.contains(*flag)).map(|(_, words)| format!("; {words}")).collect()
}

fn structure(out: &mut String, entry: &Entry<'_>) -> std::fmt::Result {
    let at = entry.at;
    match entry.structure {
        Structure::Drhd(d) => {
            write!(out, "  {at:#06x} DRHD unit at {:#x}, {}", d.register_base, window(&d))?;
            writeln!(out, ", segment {}{}", d.segment, if d.include_pci_all() { ", INCLUDE_PCI_ALL" } else { "" })?;
        }
        Structure::Rmrr(r) => {
            let kib = r.limit.checked_sub(r.base).and_then(|n| n.checked_add(1)).map(|n| n / 1024);
            write!(out, "  {at:#06x} RMRR reserved {:#x}-{:#x}", r.base, r.limit)?;
            writeln!(out, "{}, segment {}", kib.map_or(String::new(), |n| format!(" ({n} KiB)")), r.segment)?;
        }
        Structure::Atsr(a) => {
            let all = if a.flags & 1 != 0 { "all root ports" } else { "root ports" };
            writeln!(out, "  {at:#06x} ATSR {all} with ATS, segment {}", a.segment)?;
        }
        Structure::Rhsa(a) => {
            writeln!(out, "  {at:#06x} RHSA unit at {:#x} is on node {}", a.register_base, a.proximity_domain)?;
        }
        Structure::Andd(a) => writeln!(out, "  {at:#06x} ANDD ACPI device {}: {}", a.device_number, text(a.name))?,
        Structure::Satc(s) => {
            let must = if s.flags & 1 != 0 { ", which they need" } else { "" };
            writeln!(out, "  {at:#06x} SATC devices with a translation cache{must}, segment {}", s.segment)?;
        }
        Structure::Sidp(s) => {
            writeln!(out, "  {at:#06x} SIDP properties of integrated devices, segment {}", s.segment)?;
        }
        Structure::Unknown => match entry.kind {
            Some(kind) => writeln!(out, "  {at:#06x} {} (type {kind}), length {}", name(kind), entry.length)?,
            None => writeln!(out, "  {at:#06x} {} bytes", entry.bytes.len())?,
        },
    }
    let in_sidp = matches!(entry.structure, Structure::Sidp(_));
    for s in entry.scopes().flatten() {
        let what = match s.kind {
            1 => "PCI function".to_string(),
            2 => "bridge and all behind it".to_string(),
            3 => format!("IOAPIC {}", s.enumeration_id),
            4 => format!("HPET {}", s.enumeration_id),
            5 => format!("ACPI device {}", s.enumeration_id),
            n => format!("unknown scope type {n}, id {}", s.enumeration_id),
        };
        let path: Vec<String> = s.path.iter().map(|[d, f]| format!("{d:02x}.{f:x}")).collect();
        let flags = if in_sidp { format!(", flags {:#04x}", s.flags) } else { String::new() };
        writeln!(out, "      {:02x}:{} {what}{flags}", s.start_bus, path.join(" > "))?;
    }
    Ok(())
}

fn window(d: &Drhd<'_>) -> String {
    format!("{} KiB of registers", d.window() / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixtures() -> impl Iterator<Item = PathBuf> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/dmar");
        let files = std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().path());
        files.filter(|f| f.extension().is_some_and(|x| x == "bin"))
    }

    fn json(bytes: &[u8]) -> serde_json::Value {
        serde_json::to_value(Document::of(&Table::new(bytes))).unwrap()
    }

    fn people(bytes: &[u8]) -> String {
        let table = Table::new(bytes);
        let mut defects = Vec::new();
        table.defects(&mut |d| defects.push(d));
        tree("it", &table, &defects).unwrap()
    }

    #[test]
    fn every_fixture_decodes_as_an_independent_decoder_does() {
        let mut count = 0;
        for file in fixtures() {
            let want = std::fs::read(file.with_extension("json")).unwrap();
            let want: serde_json::Value = serde_json::from_slice(&want).unwrap();
            assert_eq!(json(&read(&file).unwrap()), want, "{}", file.display());
            count += 1;
        }
        assert!(count >= 42);
    }

    #[test]
    fn whole_fixtures_are_whole_and_every_cut_of_one_is_named() {
        for file in fixtures() {
            let bytes = read(&file).unwrap();
            assert!(people(&bytes).contains("  whole; "), "{}", people(&bytes));
            let whole = json(&bytes);
            for end in 0..bytes.len() {
                let cut = json(&bytes[..end]);
                assert!(people(&bytes[..end]).contains("DAMAGED"), "{} cut at {end}", file.display());
                let (had, has) = (whole["structures"].as_array().unwrap(), cut["structures"].as_array().unwrap());
                let intact = has.len().saturating_sub(1);
                assert_eq!(had[..intact], has[..intact]);
                for (key, value) in cut["header"].as_object().unwrap() {
                    assert!(key == "checksum_ok" || *value == whole["header"][key]);
                }
            }
        }
    }

    #[test]
    fn mutated_tables_are_printed() {
        let tables: Vec<Vec<u8>> = fixtures().map(|file| read(&file).unwrap()).collect();
        // Numbers of a small generator, so that every run prints the same tables.
        let mut n = 1u64;
        let mut random = |below: usize| {
            n = n.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (n >> 33) as usize % below
        };
        for _ in 0..2000 {
            let mut bytes = tables[random(tables.len())].clone();
            for _ in 0..random(8) {
                let at = random(bytes.len());
                bytes[at] = [0, 1, 4, 0x10, 0xff, random(256) as u8][random(6)];
            }
            bytes.truncate(bytes.len() - [0, 0, random(bytes.len())][random(3)]);
            let printed = people(&bytes);
            assert!(printed.chars().all(|c| c == '\n' || !c.is_control()), "{printed:?}");
            let document = serde_json::to_string(&Document::of(&Table::new(&bytes))).unwrap();
            assert!(!document.contains('\n'));
        }
    }

    #[test]
    fn unknown_structures_are_printed_as_bytes() {
        let mut bytes = b"DMAR\x38\0\0\0\x01\0".to_vec();
        bytes.resize(48, 0);
        bytes.extend([9, 0, 8, 0, 0xab, 1, 2, 3]);
        bytes[9] = bytes.iter().fold(0u8, |n, b| n.wrapping_sub(*b));
        let got = json(&bytes);
        assert_eq!(got["header"]["checksum_ok"], true);
        assert_eq!(got["structures"][0], serde_json::json!({"type": 9, "length": 8, "bytes": "09000800ab010203"}));
        assert!(people(&bytes).contains("structure of unknown type 9"));
    }
}
