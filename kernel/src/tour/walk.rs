//! The way of an address through the tables that the driver built, each step of it.

use super::report::{Report, Stop, table};
use super::station::Station;
use crate::iommu::Session;
use crate::way;
use alloc::format;
use alloc::vec::Vec;

/// Shows each step from the unit's register to the memory that `it` has mapped at `address`.
pub fn show(report: &mut Report, session: &Session, it: &Station, address: u64) -> Result<(), Stop> {
    let way = way::of(session.vtd(), it.engine.id(), address)?;
    let rows: Vec<_> = way.steps.into_iter().map(|s| [s.table, s.by, format!("{:#018x}", s.entry), s.says]).collect();
    table(["table", "by", "entry", "says"], &rows);
    let memory = it.page(address)?.hpa();
    report.check(
        way.memory == Some(memory.get()),
        format_args!("{address:#x} of {} leads to {memory}, the page that was mapped", it.engine),
    );
    Ok(())
}
