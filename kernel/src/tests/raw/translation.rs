//! Tables that work: widths, page sizes, rights, pass-through, the root table's change.

use super::frame::Frame;
use super::reasons::NO_WRITE;
use super::rig::{BEFORE, DOMAIN, Rig, Writer, source_of};
use super::space::Space;
use super::unit::RawUnit;
use crate::devices::edu::Edu;
use crate::devices::testdev::Verdict;
use crate::testing::Failure;
use crate::{check, check_eq, skip, test};
use alloc::format;
use alloc::vec::Vec;
use vtd::hw::capabilities::AddressWidth;
use vtd::hw::faults::Access;
use vtd::hw::pages::{self, PAGE_SIZE, READ, WRITE, size};
use vtd::hw::registers::{Gcmd, RootPointer, TableMode, at};
use vtd::hw::tables::{ContextEntry, RootEntry, context_index, root_index};
use vtd::{DeviceId, Registers};

/// The widths that the unit takes, and the levels of the pages that it has.
fn shapes() -> Result<Vec<(AddressWidth, u8)>, Failure> {
    let cap = RawUnit::open()?.capabilities.cap;
    let levels = [(1, true), (2, cap.pages_2m()), (3, cap.pages_1g())];
    let levels = || levels.into_iter().filter(|l| l.1).map(|l| l.0);
    let widths = AddressWidth::ALL.into_iter().filter(|w| cap.supports(*w));
    Ok(widths.flat_map(|w| levels().map(move |l| (w, l))).collect())
}

test! {
    /// Every width with every page size: to the page, and to its first and last bytes.
    fn every_width_and_page_size() {
        let shapes = shapes()?;
        check!(!shapes.is_empty());
        for (width, level) in shapes {
            let mut rig = Rig::with(|_| Some(width), level)?;
            rig.arrives(&format!("{width:?}, level {level}"))?;
            // Another address that leads to the same page by other entries, at the end of the width.
            let offset = size(level) - 1;
            let last = (1u64 << width.bits().min(rig.unit.capabilities.cap.mgaw())) - size(level);
            let target = rig.target.address();
            rig.space.map(last, level, target)?;
            rig.iova = last | target & offset;
            rig.arrives(&format!("{width:?}, level {level}, the last page"))?;
            // Address 0 is an address.
            rig.space.map(0, level, target)?;
            rig.iova = target & offset;
            rig.arrives(&format!("{width:?}, level {level}, the first page"))?;
        }
    }

    /// The context entry alone says how many levels there are: the same tables, entered one level lower.
    fn lower_table_serves_as_a_narrower_top() {
        let mut rig = Rig::new()?;
        if rig.space.width == AddressWidth::Bits48 && rig.unit.capabilities.cap.supports(AddressWidth::Bits39) {
            let lower = rig.space.get(rig.iova, 4) & pages::ADDRESS;
            let entry = ContextEntry::second_stage(lower, AddressWidth::Bits39, DOMAIN);
            rig.unit.set_context(rig.writer.source, entry)?;
            rig.iova &= (1 << 39) - 1;
            rig.arrives("by three levels")?;
        } else {
            // One width only: entered at the top it works, as `Rig::new` has seen.
            check_eq!(rig.space.width, AddressWidth::Bits39);
        }
    }

    fn write_only_page_takes_writes() {
        let mut rig = Rig::new()?;
        for level in 1..=rig.space.levels() {
            rig.entry_passes(&format!("level {level}"), level, |e| e & !READ)?;
        }
    }

    fn read_only_page_gives_reads() {
        let mut rig = Rig::new()?;
        let Some(edu) = Edu::all().next() else { skip!("no edu device") };
        let context = rig.context();
        rig.unit.set_context(source_of(edu.id()), context)?;
        let out = rig.iova + 0x1000;
        let result = Frame::new()?;
        rig.space.map(out, 1, result.address())?;
        let good = rig.space.get(rig.iova, 1);
        rig.space.set(rig.iova, 1, good & !WRITE)?;
        rig.unit.invalidate_all()?;
        rig.target.fill(BEFORE);
        rig.target.set(1, 0x1122_3344_5566_7788);
        // Eight bytes, from the middle of a page to the middle of another.
        edu.read_memory(rig.iova + 8, 0x10, 8)?;
        edu.write_memory(out + 0x18, 0x10, 8)?;
        check_eq!(result.get(3), 0x1122_3344_5566_7788);
        check!(rig.unit.fsts().is_empty());
    }

    /// What hardware ignores, and what it writes only in scalable mode: accessed and dirty stay as they are.
    fn ignored_bits_are_ignored_and_kept() {
        let mut rig = Rig::new()?;
        let ignored = (1 << 2 | pages::MEMORY_TYPE | pages::IGNORE_PAT | pages::SOFTWARE | pages::SOFTWARE_HIGH)
            | pages::IO_READ;
        let flags = pages::ACCESSED | pages::DIRTY;
        for level in 1..=rig.space.levels() {
            // What is a page size above means nothing in the lowest table.
            let size_bit = if level == 1 { PAGE_SIZE } else { 0 };
            for bits in [0, ignored | size_bit, ignored | flags, flags] {
                rig.entry_passes(&format!("{bits:#x} at level {level}"), level, |e| e | bits)?;
            }
        }
    }

    fn pass_through_passes() {
        let mut rig = Rig::new()?;
        if !rig.unit.capabilities.ecap.pt() {
            skip!("the unit has no pass-through");
        }
        let (translated, width) = (rig.iova, rig.space.width);
        rig.iova = rig.target.address();
        let entry = ContextEntry::pass_through(width, DOMAIN);
        rig.context_passes("to its own address", entry)?;
        rig.iova = translated;
        rig.arrives("translated again")?;
    }

    fn off_means_untranslated() {
        let mut rig = Rig::new()?;
        let translated = rig.iova;
        rig.unit.command(Gcmd::TE, false)?;
        rig.iova = rig.target.address();
        rig.arrives("to its own address")?;
        rig.unit.command(Gcmd::TE, true)?;
        rig.iova = translated;
        rig.arrives("translated again")?;
    }

    /// A new root table counts from SRTP on, not from the register's write.
    fn root_table_changes_by_command() {
        let rig = Rig::new()?;
        let (root, other) = (Frame::new()?, Frame::new()?);
        let mut space = Space::new(rig.space.width)?;
        space.map(rig.iova, 1, other.address())?;
        let contexts = Frame::new()?;
        let source = rig.writer.source;
        let entry = ContextEntry::second_stage(space.top(), space.width, DOMAIN + 1);
        let i = context_index(source) * 2;
        contexts.set(i, entry.lo);
        contexts.set(i + 1, entry.hi);
        root.set(root_index(source) * 2, RootEntry::legacy(contexts.address()).lo);

        rig.unit.registers.write64(at::RTADDR, RootPointer::new(root.address(), TableMode::Legacy).0);
        rig.unit.invalidate_all()?;
        check!(rig.lands_in(&rig.target, &other)?, "the register alone has changed the tables");
        rig.unit.command(Gcmd::SRTP, true)?;
        if !rig.unit.capabilities.cap.esrtps() {
            rig.unit.invalidate_all()?;
        }
        check!(!rig.lands_in(&rig.target, &other)?, "the command has not changed the tables");
        rig.unit.set_root_table(rig.unit.root().address())?;
        rig.arrives("with its own root table again")?;
    }

    /// Every device that writes has its own source id, through a bridge the bridge's, and goes by its own entry.
    fn each_source_has_its_own_tables() {
        let mut rig = Rig::new()?;
        let mut spaces = Vec::new();
        let first = rig.writer.source;
        for (n, writer) in Writer::all().filter(|w| w.source != first).enumerate() {
            let (mut space, target) = (Space::new(rig.space.width)?, Frame::new()?);
            space.map(rig.iova, 1, target.address())?;
            let entry = ContextEntry::second_stage(space.top(), space.width, DOMAIN + 1 + n as u16);
            rig.unit.set_context(writer.source, entry)?;
            spaces.push((writer, space, target));
        }
        if spaces.is_empty() {
            skip!("one source id only");
        }
        rig.arrives("the first")?;
        rig.target.fill(BEFORE);
        for (writer, _, target) in &spaces {
            check_eq!(writer.write(rig.iova, target), Verdict::Arrived, "{}", writer.device.id());
        }
        check_eq!(rig.target.prefix(BEFORE, BEFORE), (512, true), "the first one's memory");
        check!(rig.unit.fsts().is_empty(), "{:?}", rig.unit.fsts());
    }

    /// Requests of a device on a conventional bus carry the bridge's id.
    fn conventional_bus_has_one_source() {
        let below = |d: DeviceId| source_of(d) != d.source.0;
        let Some(writer) = Writer::all().find(|w| below(w.device.id())) else { skip!("no device on such a bus") };
        let mut rig = Rig::new()?;
        let context = rig.context();
        rig.unit.set_context(writer.source, context)?;
        rig.unit.set_context(writer.device.id().source.0, ContextEntry::ABSENT)?;
        rig.unit.invalidate_all()?;
        check_eq!(writer.write(rig.iova, &rig.target), Verdict::Arrived);
        rig.space.set(rig.iova, 1, 0)?;
        rig.unit.invalidate_all()?;
        check_eq!(writer.write(rig.iova, &rig.target), Verdict::Stopped);
        rig.unit.expect_fault("behind the bridge", writer.source, rig.iova, Access::Write, NO_WRITE)?;
    }
}
