//! Second-stage entries and what they say of a request. VT-d 9.8, 3.7.

use super::{
    BEYOND_WIDTH, INTERRUPT_RANGE, INTERRUPT_RANGE_SCALABLE, NO_READ, NO_WRITE, PAGES_RESERVED, PAGES_UNREADABLE, Why,
};
use crate::devices::edu::Edu;
use crate::tests::raw::frame::Frame;
use crate::tests::raw::rig::{BEFORE, NOWHERE, Rig, source_of};
use crate::tests::raw::unit::RawUnit;
use crate::{check, check_eq, skip, test};
use alloc::format;
use vtd::hw::capabilities::AddressWidth;
use vtd::hw::faults::Access;
use vtd::hw::pages::{self, PAGE_SIZE, PRESENT, READ, SNOOP, WRITE, leaf_address, size};

/// What the unit says of a way into the interrupt range.
fn interrupt_range(rig: &Rig) -> Why {
    if rig.unit.capabilities.ecap.smts() { INTERRUPT_RANGE_SCALABLE } else { INTERRUPT_RANGE }
}

test! {
    /// Beyond the tables' width, beyond the unit's.
    fn address_beyond_the_width() {
        for width in AddressWidth::ALL {
            if !RawUnit::open()?.capabilities.cap.supports(width) {
                continue;
            }
            let mut rig = Rig::with(|_| Some(width), 1)?;
            let good = rig.iova;
            let limit = width.bits().min(rig.unit.capabilities.cap.mgaw());
            for bit in limit..64 {
                rig.iova = good | 1 << bit;
                rig.refused(&format!("bit {bit} with {} bits", width.bits()), BEYOND_WIDTH)?;
            }
            rig.iova = good;
            rig.arrives("within the width")?;
        }
    }

    /// At the leaf, and at each level above it although the leaf grants it.
    fn write_without_right() {
        let mut rig = Rig::new()?;
        for level in 1..=rig.space.levels() {
            rig.entry_refused(&format!("read-only at level {level}"), level, |e| e & !WRITE, NO_WRITE)?;
        }
    }

    fn write_to_an_absent_entry() {
        let mut rig = Rig::new()?;
        for level in 1..=rig.space.levels() {
            rig.entry_refused(&format!("zeros at level {level}"), level, |_| 0, NO_WRITE)?;
            // An address without rights is no entry, whatever else it says.
            rig.entry_refused(&format!("no rights at level {level}"), level, |e| e & !PRESENT, NO_WRITE)?;
            rig.entry_refused(&format!("only ignored bits at level {level}"), level, |_| !PRESENT, NO_WRITE)?;
        }
    }

    /// A page that may only be written, one that is not there, and a table through which nothing may be read. That
    /// nothing came is seen by having the device write out what it has.
    fn read_without_right() {
        let mut rig = Rig::new()?;
        let Some(edu) = Edu::all().next() else { skip!("no edu device") };
        let source = source_of(edu.id());
        let context = rig.context();
        rig.unit.set_context(source, context)?;
        let good = rig.space.get(rig.iova, 1);
        rig.target.fill(BEFORE);
        edu.read_memory(rig.iova, 0, 8)?;
        const SECRET: u64 = 0x0123_4567_89ab_cdef;
        rig.target.fill(SECRET);
        for (what, level, keep) in [("write-only", 1, !READ), ("absent", 1, 0), ("write-only", 2, !READ)] {
            let entry = rig.space.get(rig.iova, level);
            rig.space.set(rig.iova, level, entry & keep)?;
            rig.unit.invalidate_all()?;
            edu.read_memory(rig.iova, 0, 8)?;
            rig.unit.expect_fault(&format!("{what} at level {level}"), source, rig.iova, Access::Read, NO_READ)?;
            rig.space.set(rig.iova, level, entry)?;
        }
        check_eq!(rig.space.get(rig.iova, 1), good);
        rig.unit.invalidate_all()?;
        edu.write_memory(rig.iova + 64, 0, 8)?;
        check!(rig.target.get(8) != SECRET, "the device has read what it must not");
        edu.read_memory(rig.iova, 0, 8)?;
        edu.write_memory(rig.iova + 128, 0, 8)?;
        check_eq!(rig.target.get(16), SECRET, "with the right to read");
    }

    fn lower_table_unreadable() {
        let mut rig = Rig::new()?;
        for level in 2..=rig.space.levels() {
            let what = format!("a table outside memory below level {level}");
            rig.entry_refused(&what, level, |_| NOWHERE | PRESENT, PAGES_UNREADABLE)?;
        }
    }

    /// What does not lead to memory is not the unit's business: the write is lost, nothing is recorded.
    fn page_without_memory_is_no_fault() {
        let mut rig = Rig::new()?;
        rig.space.map(rig.iova, 1, NOWHERE)?;
        rig.stopped("a page outside memory")?;
        check!(rig.unit.fsts().is_empty(), "{:?}", rig.unit.fsts());
    }

    fn entry_has_address_bits_beyond_the_machine() {
        let mut rig = Rig::new()?;
        for level in 1..=rig.space.levels() {
            for bit in rig.unit.host_bits..52 {
                rig.entry_refused(&format!("bit {bit} at level {level}"), level, |e| e | 1 << bit, PAGES_RESERVED)?;
            }
        }
    }

    /// Bit 62, which is a right where SSIRWE is on, and nothing in legacy tables.
    fn entry_has_the_right_of_io_writes() {
        let mut rig = Rig::new()?;
        rig.entry_refused("in a leaf", 1, |e| e | pages::IO_WRITE, PAGES_RESERVED)?;
    }

    fn large_page_misaligned() {
        for level in 2..=3 {
            let mut rig = Rig::with(|u| u.capabilities.cap.widest(), level)?;
            for bit in 12..pages::shift(level) {
                let bad = |e| e | 1 << bit;
                rig.entry_refused(&format!("bit {bit} at level {level}"), level, bad, PAGES_RESERVED)?;
            }
        }
    }

    /// Levels at which there are no pages.
    fn page_of_a_level_that_has_none() {
        let mut rig = Rig::new()?;
        let cap = rig.unit.capabilities.cap;
        for level in 2..=rig.space.levels() {
            if !matches!(level, 2 if cap.pages_2m()) && !matches!(level, 3 if cap.pages_1g()) {
                let what = format!("a page at level {level}");
                rig.entry_refused(&what, level, |e| e | PAGE_SIZE, PAGES_RESERVED)?;
            }
        }
    }

    /// Forced snooping where the unit does not offer it. Scalable units take the bit in legacy tables too, as theirs.
    fn snooping_where_there_is_none() {
        let ecap = RawUnit::open()?.capabilities.ecap;
        for level in 1..=3 {
            let mut rig = Rig::with(|u| u.capabilities.cap.widest(), level)?;
            let what = format!("a leaf of level {level}");
            if ecap.sc() || ecap.smts() {
                rig.entry_passes(&what, level, |e| e | SNOOP)?;
            } else {
                rig.entry_refused(&what, level, |e| e | SNOOP, PAGES_RESERVED)?;
                if level < rig.space.levels() {
                    rig.entry_refused("a table", level + 1, |e| e | SNOOP, PAGES_RESERVED)?;
                }
            }
        }
    }

    /// By a page of 4 KiB, at both ends of the range, and by larger ones that hold it.
    fn page_in_the_interrupt_range() {
        let range = vtd::INTERRUPT_RANGE;
        let (first, last) = (range.first.get(), range.last.get() & !0xfff);
        for (level, output) in [(1, first), (1, last), (2, first), (2, last), (3, first)] {
            let mut rig = Rig::with(|u| u.capabilities.cap.widest(), level)?;
            let (good, why) = (rig.iova, interrupt_range(&rig));
            let within = size(level) - 1;
            rig.iova = good & !within | output & within;
            let what = format!("to {output:#x} at level {level}");
            let entry = rig.space.get(good, level);
            rig.space.map(good, level, output & leaf_address(level))?;
            rig.refused(&what, why)?;
            rig.space.set(good, level, entry)?;
            rig.iova = good;
            rig.arrives("to memory again")?;
        }
    }

    /// The neighbours of the range are ordinary addresses: no memory, but no fault.
    fn pages_beside_the_interrupt_range() {
        let mut rig = Rig::new()?;
        let target = Frame::new()?;
        for output in [vtd::INTERRUPT_RANGE.first.get() - 0x1000, vtd::INTERRUPT_RANGE.last.get() + 1] {
            rig.space.map(rig.iova, 1, output)?;
            rig.unit.invalidate_all()?;
            rig.writer.write(rig.iova, &target);
            check!(rig.unit.fsts().is_empty(), "{output:#x}: {:?}", rig.unit.fsts());
        }
    }
}
