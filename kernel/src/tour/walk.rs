//! The way of an address through the tables that the driver built, read by the kernel as the unit reads them.

use super::report::{Report, Stop, table};
use super::station::Station;
use super::units;
use crate::boot::info::{self, Kind};
use crate::iommu::Session;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use vtd::Registers;
use vtd::hw::pages;
use vtd::hw::registers::{RootPointer, at};
use vtd::hw::tables::{ContextEntry, RootEntry, context_index, root_index};

/// Word `i` of the table at `table`.
fn word(table: u64, i: usize) -> Result<u64, Stop> {
    let within = |r: &&info::Region| r.kind == Kind::Ram && r.start <= table && table + vtd::PAGE <= r.end;
    if info::get().regions().iter().find(within).is_none() || i >= pages::ENTRIES {
        return Err(Stop::Wrong(format!("the way leads to a table at {table:#x}, where no memory is")));
    }
    // SAFETY: a word in memory, which is mapped at its own address; read only, whoever else uses it.
    Ok(unsafe { (table as *const u64).add(i).read_volatile() })
}

/// Shows each step from the unit's register to the memory that `it` has mapped at `address`.
pub fn show(report: &mut Report, session: &Session, it: &Station, address: u64) -> Result<(), Stop> {
    let device = it.engine.id();
    let source = device.source;
    let root = RootPointer(units::registers(session, session.vtd().unit_of(device)?)?.read64(at::RTADDR)).table();
    let mut rows: Vec<[String; 4]> = Vec::new();
    let mut row = |place: &str, index: String, entry: u64, says: String| {
        rows.push([place.to_string(), index, format!("{entry:#018x}"), says]);
    };

    let i = root_index(source.0);
    let root_entry = RootEntry { lo: word(root, 2 * i)?, hi: word(root, 2 * i + 1)? };
    let context = root_entry.table().ok_or("the root entry is absent")?;
    row("root table", format!("bus {:02x}", source.bus()), root_entry.lo, format!("context table at {context:#x}"));

    let i = context_index(source.0);
    let entry = ContextEntry { lo: word(context, 2 * i)?, hi: word(context, 2 * i + 1)? };
    let levels = entry.width().filter(|_| entry.present()).ok_or("the context entry is absent")?.levels();
    let says = format!("domain id {}, {levels} levels", entry.did());
    row("context table", format!("function {:02x}.{}", source.device(), source.function()), entry.lo, says);

    let (mut table_at, mut reached) = (entry.table(), None);
    for level in (1..=levels).rev() {
        let i = pages::index(address, level);
        let entry = word(table_at, i)?;
        let leaf = level == 1 || entry & pages::PAGE_SIZE != 0;
        table_at = entry & pages::ADDRESS;
        let says = match (entry & pages::PRESENT, leaf) {
            (0, _) => "absent".to_string(),
            (_, false) => format!("table at {table_at:#x}"),
            (rights, true) => {
                let read = if rights & pages::READ != 0 { ", read" } else { "" };
                let write = if rights & pages::WRITE != 0 { ", write" } else { "" };
                format!("memory at {table_at:#x}{read}{write}")
            }
        };
        row(&format!("level {level}"), format!("entry {i:#x}"), entry, says);
        if entry & pages::PRESENT == 0 || leaf {
            reached = (entry & pages::PRESENT != 0).then_some(table_at);
            break;
        }
    }
    let titles = ["table", "by", "entry", "says"];
    table(titles, &rows);
    let memory = it.page(address)?.hpa();
    report.check(
        reached == Some(memory.get()),
        format_args!("{address:#x} of {} leads to {memory}, the page that was mapped", it.engine),
    );
    Ok(())
}
