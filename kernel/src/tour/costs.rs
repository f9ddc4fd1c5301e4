//! What each change of an attachment and of a mapping hands to the unit's queue; pass-through; and the marks that the unit
//! sets in page tables.

use super::engine::Engine;
use super::live::{NO_ENGINE, page};
use super::report::{Report, Stop, table};
use crate::iommu::Session;
use crate::memory::buffer::Buffer;
use crate::platform::KernelPlatform;
use crate::way;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use vtd::explain::Attempt;
use vtd::hw::pages::first;
use vtd::{Access, Change, Domain, Group, Iova, PAGE, Range, Stage, Strict, Target, UnitId, UnitStats, Vtd};

const RW: Access = Access::READ.union(Access::WRITE);

/// Two pages on either side of a line of 2 MiB, at which naive flushes become wide.
const LINE: u64 = 0x12_4020_0000;
/// What goes through all of them.
const VALUE: u32 = 0xc0de_0011;
/// Words of a page.
const WORDS: usize = PAGE as usize / 4;
/// Another address, which no request has reached.
const MARKED: u64 = 0x12_5000_0000;

/// What was handed to the queue, step by step.
struct Ledger<'s> {
    vtd: &'s Vtd<KernelPlatform>,
    unit: UnitId,
    rows: Vec<[String; 5]>,
}

/// What one step cost.
#[derive(Clone, Copy)]
struct Cost {
    batches: u64,
    descriptors: u64,
    wide: u64,
}

impl Ledger<'_> {
    fn now(&self) -> Result<UnitStats, Stop> {
        Ok(self.vtd.invalidation_stats(self.unit)?)
    }

    /// Does a step, and writes down what it cost and what it says.
    fn step<T>(
        &mut self,
        what: &str,
        act: impl FnOnce() -> Result<T, Stop>,
        says: impl FnOnce(&T) -> String,
    ) -> Result<Cost, Stop> {
        let before = self.now()?;
        let outcome = act()?;
        let after = self.now()?;
        let batches = after.submissions - before.submissions;
        let descriptors = after.descriptors - before.descriptors;
        let wide = after.wide_flushes - before.wide_flushes;
        let numbers = [batches, descriptors, wide].map(|n| n.to_string());
        let [b, d, w] = numbers;
        self.rows.push([what.to_string(), b, d, w, says(&outcome)]);
        Ok(Cost { batches, descriptors, wide })
    }
}

fn change(c: &Change) -> String {
    match c {
        Change::Seamless => "no request falls between old and new",
        Change::WithGap => "blocked in between, or before",
    }
    .to_string()
}

fn nothing(_: &()) -> String {
    String::new()
}

fn attach(group: &Group<KernelPlatform>, to: Target<'_, KernelPlatform>) -> Result<Change, Stop> {
    Ok(group.attach(to)?)
}

pub fn show(report: &mut Report, session: &Session) -> Result<(), Stop> {
    let vtd = session.vtd();
    let engine = *Engine::apart(vtd).first().ok_or(Stop::Missing(NO_ENGINE.to_string()))?;
    let unit = vtd.unit_of(engine.id())?;
    if !session.report().units.iter().any(|l| l.unit == unit && l.queue) {
        return Err(Stop::Missing("a queue: the unit is told of changes by registers".to_string()));
    }
    let (group, events) = session.claim(engine.id())?;
    let spec = group.best_spec();
    let (one, two) = (vtd.domain::<Strict>(&spec)?, vtd.domain::<Strict>(&spec)?);
    let pages = [page(0)?, page(0)?];
    let memory = Buffer::new(2).ok_or("no memory")?;
    // Those around them stay mapped: where a table goes with its last page, all that it spans is flushed.
    let around = Range::sized(Iova::at(LINE - 2 * PAGE), 4 * PAGE).ok_or("no such range")?;
    let range = Range::sized(Iova::at(LINE - PAGE), 2 * PAGE).ok_or("no such range")?;
    two.map(range.first, pages[1].hpa(), PAGE, RW)?;

    let mut ledger = Ledger { vtd, unit, rows: Vec::new() };
    ledger.step("attach to a domain", || attach(&group, Target::Domain(&one)), change)?;
    let mapped = ledger.step(
        "map 4 pages across a 2 MiB line",
        || Ok(one.map(around.first, memory.hpa(), 4 * PAGE, RW)?),
        nothing,
    )?;
    memory.set(WORDS, VALUE);
    engine.read(LINE - PAGE)?;
    engine.write(LINE, memory.hpa())?;
    let unmapped = ledger.step(
        "unmap and flush the 2 at the line",
        || Ok(one.unmap(range)?.flush().map_err(|n| n.error)?),
        |_| String::new(),
    )?;
    let replaced = ledger.step("another domain in its place", || attach(&group, Target::Domain(&two)), change)?;
    engine.write(range.first.get(), pages[1].hpa())?;
    let through = ledger.step("pass-through in its place", || attach(&group, Target::Identity), change)?;
    engine.write(pages[0].hpa().get(), pages[0].hpa())?;
    let back = ledger.step("tables again", || attach(&group, Target::Domain(&one)), change)?;
    let detached = ledger.step("detach", || attach(&group, Target::Blocked), change)?;
    table(["step", "batches", "descriptors", "wide", ""], &ledger.rows);

    let found = [memory.get(2 * WORDS), pages[1].get(0), pages[0].get(0)];
    report.check(
        found == [engine.writes(VALUE); 3],
        format_args!(
            "{engine} reached memory through one domain, the other, and past them: {:#010x} {:#010x} {:#010x}",
            found[0], found[1], found[2]
        ),
    );
    let caching = vtd.capabilities(unit)?.cap.cm();
    report.check(
        mapped.batches == 0 || caching,
        format_args!("mapping costs nothing{}", if caching { ", but where absent entries may be cached" } else { "" }),
    );
    report.check(
        (unmapped.batches, unmapped.descriptors, unmapped.wide) == (1, 2, 0),
        format_args!("two pages across the line are flushed by two descriptors, one wait and one write of the tail"),
    );
    let changes = [replaced, through, back, detached];
    report.check(
        changes.iter().all(|c| (1..=2).contains(&c.batches) && c.descriptors <= 8),
        format_args!("each change of the attachment is one batch, or two where the entry has to be cleared in between"),
    );
    attach(&group, Target::Domain(&one))?;
    marks(report, session, &engine, &one)?;
    crate::iommu::tend(vtd);
    if let Some(fault) = events.take().first() {
        return Err(Stop::Wrong(format!("blocked, and was not to be: {fault}")));
    }
    group.release().map_err(|(_, e)| e)?;
    Ok(())
}

/// The unit's accessed and dirty bits.
fn marks(
    report: &mut Report,
    session: &Session,
    engine: &Engine,
    domain: &Domain<KernelPlatform, Strict>,
) -> Result<(), Stop> {
    if domain.spec().stage != Stage::First {
        report.missing(format_args!("accessed and dirty bits: QEMU's unit sets them in first-stage entries only"));
        return Ok(());
    }
    let (vtd, at, page) = (session.vtd(), Iova::at(MARKED), page(0)?);
    domain.map(at, page.hpa(), PAGE, RW)?;
    let leaf = || -> Result<(u64, u64), Stop> { Ok(way::of(vtd, engine.id(), MARKED)?.leaf.ok_or("no page tables")?) };
    let (place, set) = leaf()?;
    const MARKS: u64 = first::A | first::D;
    report.check(
        set & MARKS == MARKS,
        format_args!("{set:#018x}: A and D are set from the start, for the unit's own updates are not snooped here"),
    );
    // SAFETY: the entry of a page that no request has reached yet; nobody else writes there.
    unsafe { (place as *mut u64).write_volatile(set & !MARKS) };
    engine.read(MARKED)?;
    let read = leaf()?.1;
    domain.unmap(Range::sized(at, PAGE).ok_or("no such page")?)?.flush().map_err(|n| n.error)?;
    domain.map(at, page.hpa(), PAGE, RW)?;
    let (place, set) = leaf()?;
    // SAFETY: as above, for the page is mapped anew.
    unsafe { (place as *mut u64).write_volatile(set & !MARKS) };
    engine.write(MARKED, page.hpa())?;
    let explained = vtd.explain(engine.id(), None, at, Attempt::Write)?;
    let written = explained.walk.steps().last().and_then(|s| s.words().first().copied()).unwrap_or_default();
    let right = written & MARKS == MARKS && (!engine.reads() || read & MARKS == first::A);
    report.check(right, format_args!("cleared by hand: the unit sets A where {engine} reads, A and D where it writes"));
    domain.unmap(Range::sized(at, PAGE).ok_or("no such page")?)?.flush().map_err(|n| n.error)?;
    Ok(())
}
