//! A machine without a remapping unit: what it lacks, shown by what a device does to memory that nobody gave it.

use super::engine::{Engine, FURTHER};
use super::live::{NO_ENGINE, page};
use super::report::{Report, Stop, detail};
use crate::iommu::{self, NoIommu};
use alloc::string::ToString;

pub fn show(report: &mut Report) {
    report.section("No remapping unit", |report| {
        let missing = matches!(iommu::topology(), Err(NoIommu::NoTable));
        report
            .check(missing, format_args!("the firmware has no DMAR table: nothing stands between devices and memory"));
        unhindered(report)?;
        detail(format_args!(
            "With a unit (`cargo xtask run`) the same is stopped and reported: groups, domains, mappings and faults, \
             which the tour shows there, are what this machine lacks."
        ));
        Ok(())
    });
}

/// No one maps anything for the device, and it reads and writes all the same.
fn unhindered(report: &mut Report) -> Result<(), Stop> {
    const VALUE: u32 = 0x5ec2_e700;
    let engine = *Engine::all().first().ok_or(Stop::Missing(NO_ENGINE.to_string()))?;
    let page = page(0)?;
    page.set(0, VALUE);
    let (at, behind) = (page.hpa(), (FURTHER / 4) as usize);
    engine.read(at.get())?;
    engine.write(at.get() + FURTHER, at)?;
    let (found, wanted) = (page.get(behind), engine.writes(VALUE));
    let how = if engine.reads() { "reads a secret" } else { "writes" };
    report.check(
        found == wanted,
        format_args!("{engine} {how} at {at}, in memory that nobody gave it, and leaves {found:#010x} there"),
    );
    Ok(())
}
