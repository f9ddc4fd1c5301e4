//! Real devices: what reaches memory, what does not, and what the unit says of it.

use super::engine::{Engine, FURTHER};
use super::report::{Report, Stop, table};
use super::station::{Station, Wanted};
use super::walk;
use crate::iommu::Session;
use crate::memory::buffer::Buffer;
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;
use vtd::Access;

const RW: Access = Access::READ.union(Access::WRITE);

/// What memory holds that no device is to change.
const UNTOUCHED: u32 = 0x5afe_5afe;
/// The input addresses: within 39 bits, which every unit takes, and no memory of the machine.
const SHARED: u64 = 0x12_3456_7000;
const READ_ONLY: u64 = 0x12_3456_a000;
const UNMAPPED: u64 = 0x12_3456_d000;

/// The word behind `FURTHER` bytes.
const BEHIND: usize = (FURTHER / 4) as usize;

/// A page whose words all hold `value`.
pub fn page(value: u32) -> Result<Buffer, Stop> {
    let page = Buffer::new(0).ok_or("no memory for a page")?;
    page.fill(|_| value);
    Ok(page)
}

/// All sections with devices that do DMA on demand.
pub fn show(report: &mut Report, session: &Session) {
    let engines = Engine::apart(session.vtd());
    let mut station = None;
    report.section("Before and after mapping", |report| {
        let engine = *engines.first().ok_or(Stop::Missing(format!("{NO_ENGINE}; so nothing of DMA is shown")))?;
        let it = station.insert(Station::new(session, engine)?);
        before(report, session, it)?;
        after(report, session, it)
    });
    let Some(mut first) = station else { return };
    report.section("The way of an address", |report| walk::show(report, session, &first, SHARED));
    report.section("One address, two devices, two memories", |report| {
        let other = *engines.get(1).ok_or(Stop::Missing("a second device that does DMA on demand".to_string()))?;
        let mut second = Station::new(session, other)?;
        two_memories(report, session, [&mut first, &mut second])?;
        second.close(report, session)
    });
    report.section("What is stopped, and how it is reported", |report| {
        read_only(report, session, &mut first)?;
        unattached(report, session, &first, engines.get(1))?;
        unmapped(report, session, &first)
    });
    report.section("Unmapped means unreachable", |report| {
        after_unmap(report, session, &mut first)?;
        let engine = first.engine;
        first.close(report, session)?;
        report.ok(format_args!("{engine} is given back, everything that it was given is unmapped"));
        Ok(())
    });
}

pub const NO_ENGINE: &str = "the machine has neither an edu nor an iommu-testdev";

/// The device tries the address that the memory really has.
fn before(report: &mut Report, session: &Session, it: &Station) -> Result<(), Stop> {
    let (engine, page) = (it.engine, page(UNTOUCHED)?);
    let real = page.hpa();
    engine.write(real.get(), real)?;
    let kept = page.first_other(|_| UNTOUCHED).is_none();
    report.check(
        kept,
        format_args!("{engine}, in an empty domain, writes to memory at {real}: still {:#010x}", page.get(0)),
    );
    Wanted::write(engine.id(), real.get()).come(report, session, &it.events)
}

fn after(report: &mut Report, session: &Session, it: &mut Station) -> Result<(), Stop> {
    const VALUE: u32 = 0xc0de_cafe;
    let (engine, page) = (it.engine, page(UNTOUCHED)?);
    page.set(0, VALUE);
    let real = page.hpa();
    it.map(report, SHARED, page, RW)?;
    report.ok(format_args!("{SHARED:#x} mapped for {engine} to memory at {real}, 4 KiB, read and write"));
    engine.read(SHARED)?;
    engine.write(SHARED + FURTHER, real)?;
    it.undisturbed(session)?;
    let page = it.page(SHARED)?;
    let (value, wanted) = (page.get(BEHIND), engine.writes(VALUE));
    let spared = page.first_other(|i| match i {
        0 => VALUE,
        BEHIND => wanted,
        _ => UNTOUCHED,
    });
    let how = if engine.reads() { "copies a word within it" } else { "writes a word to it" };
    report.check(
        value == wanted && spared.is_none(),
        format_args!("{engine} {how}: {value:#010x} arrives, and nothing else changes"),
    );
    Ok(())
}

/// Both do the same at the same address, at the same time.
fn two_memories(report: &mut Report, session: &Session, both: [&mut Station; 2]) -> Result<(), Stop> {
    let [first, second] = both;
    let values = [0xaaaa_0001, 0xbbbb_0002];
    first.page(SHARED)?.fill(|i| if i == 0 { values[0] } else { UNTOUCHED });
    let other = page(UNTOUCHED)?;
    other.set(0, values[1]);
    second.map(report, SHARED, other, RW)?;
    let both = [&*first, &*second];
    for it in both {
        it.engine.begin_read(SHARED)?;
    }
    for it in both {
        it.engine.finish()?;
        it.engine.begin_write(SHARED + FURTHER, it.page(SHARED)?.hpa())?;
    }
    let (mut rows, mut right) = (Vec::new(), true);
    for (it, value) in both.into_iter().zip(values) {
        it.engine.finish()?;
        it.undisturbed(session)?;
        let page = it.page(SHARED)?;
        right &= page.get(0) == value && page.get(BEHIND) == it.engine.writes(value);
        rows.push([
            it.engine.to_string(),
            format!("──  {SHARED:#x}  ──>"),
            page.hpa().to_string(),
            format!("{:#010x}", page.get(0)),
            format!("{:#010x}", page.get(BEHIND)),
        ]);
    }
    table(["device", "    it asks for", "memory", "holds", "came back"], &rows);
    report.check(right, format_args!("each reached its own memory by the same address, and only that"));
    Ok(())
}

fn read_only(report: &mut Report, session: &Session, it: &mut Station) -> Result<(), Stop> {
    let engine = it.engine;
    it.map(report, READ_ONLY, page(UNTOUCHED)?, Access::READ)?;
    let page = it.page(READ_ONLY)?;
    engine.write(READ_ONLY, page.hpa())?;
    let kept = page.first_other(|_| UNTOUCHED).is_none();
    report.check(kept, format_args!("{engine} writes to a read-only page: still {:#010x}", page.get(0)));
    Wanted::write(engine.id(), READ_ONLY).come(report, session, &it.events)
}

/// Another device tries what is good for the first.
fn unattached(report: &mut Report, session: &Session, it: &Station, other: Option<&Engine>) -> Result<(), Stop> {
    let Some(other) = other else {
        report.missing(format_args!("a second device that does DMA on demand, to leave in no domain"));
        return Ok(());
    };
    let page = it.page(SHARED)?;
    page.fill(|_| UNTOUCHED);
    other.write(SHARED, page.hpa())?;
    let kept = page.first_other(|_| UNTOUCHED).is_none();
    report.check(
        kept,
        format_args!("{other}, in no domain, writes where {} may: still {:#010x}", it.engine, page.get(0)),
    );
    Wanted::unattached(other.id(), SHARED).come(report, session, &session.rest)?;
    it.undisturbed(session)
}

fn unmapped(report: &mut Report, session: &Session, it: &Station) -> Result<(), Stop> {
    let engine = it.engine;
    if !engine.reads() {
        return Err(Stop::Missing(format!("a device that can read on demand (edu): {engine} only writes")));
    }
    engine.read(UNMAPPED)?;
    report.ok(format_args!("{engine} reads {UNMAPPED:#x}, where nothing is mapped, and gets a fault"));
    Wanted::read(engine.id(), UNMAPPED).explained(report, session, &it.events)
}

/// The very transfer that arrived before.
fn after_unmap(report: &mut Report, session: &Session, it: &mut Station) -> Result<(), Stop> {
    const VALUE: u32 = 0xdead_beef;
    let engine = it.engine;
    let page = it.page(SHARED)?;
    page.fill(|i| if i == 0 { VALUE } else { UNTOUCHED });
    let real = page.hpa();
    engine.read(SHARED)?;
    engine.write(SHARED + FURTHER, real)?;
    it.undisturbed(session)?;
    let (value, wanted) = (it.page(SHARED)?.get(BEHIND), engine.writes(VALUE));
    report.check(value == wanted, format_args!("while {SHARED:#x} is mapped, {engine} writes {value:#010x} there"));
    let page = it.unmap(report, SHARED)?;
    page.fill(|_| UNTOUCHED);
    report.ok(format_args!("{SHARED:#x} is unmapped, the unit's caches are flushed, and memory is written over"));
    engine.write(SHARED + FURTHER, real)?;
    let kept = page.first_other(|_| UNTOUCHED).is_none();
    report.check(kept, format_args!("the same write again: memory still holds {:#010x}", page.get(BEHIND)));
    Wanted::write(engine.id(), SHARED).come(report, session, &it.events)
}
