//! The kernel's page tables: memory and device registers at their own addresses, writable or executable and never both.

use super::{boot_stack_guard, data, frames, image, rodata, text};
use crate::boot::info::{self, Kind};
use crate::sync::IrqLock;
use alloc::vec::Vec;
use core::ops::Range;
use vtd::PAGE;
use x86_64::PhysAddr;
use x86_64::instructions::tlb;
use x86_64::registers::control::{Cr3, Cr3Flags};
use x86_64::structures::paging::{PhysFrame, page_table::PageTableFlags as Flags};

/// What may be done with a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Constants.
    Read,
    /// Variables, heap, stacks, memory.
    Write,
    /// Code.
    Execute,
    /// Device registers: read and written, never cached.
    Device,
}

impl Access {
    fn flags(self) -> Flags {
        Flags::PRESENT
            | match self {
                Access::Read => Flags::NO_EXECUTE,
                Access::Write => Flags::NO_EXECUTE | Flags::WRITABLE,
                Access::Execute => Flags::empty(),
                Access::Device => Flags::NO_EXECUTE | Flags::WRITABLE | Flags::NO_CACHE | Flags::WRITE_THROUGH,
            }
    }
}

/// Why a range could not be mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapError {
    /// No frame is left for a table.
    OutOfFrames,
    /// Something else is mapped there.
    Occupied,
}

/// A mapping as the tables have it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    pub start: u64,
    pub size: u64,
    pub physical: u64,
    pub flags: Flags,
}

#[repr(C, align(4096))]
struct Table([u64; 512]);

/// Below 4 GiB, so that a CPU that starts in 16-bit mode can load it.
static ROOT: IrqLock<Table> = IrqLock::new(Table([0; 512]));

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Bytes mapped by an entry of level 0 (4 KiB) to 3 (512 GiB).
const fn span(level: u32) -> u64 {
    PAGE << (9 * level)
}

fn index(virt: u64, level: u32) -> usize {
    (virt >> (12 + 9 * level)) as usize & 511
}

/// Whether the CPU maps 1 GiB with one entry.
fn has_huge() -> bool {
    core::arch::x86_64::__cpuid(0x8000_0001).edx & 1 << 26 != 0
}

/// The table that `entry` leads to.
///
/// # Safety
///
/// `entry` is a present entry that leads to a table of this module, and no other reference to that table lives.
unsafe fn child<'a>(entry: u64) -> &'a mut Table {
    // SAFETY: the caller's promise; tables are mapped at their own addresses.
    unsafe { &mut *((entry & ADDRESS) as *mut Table) }
}

fn map_in(table: &mut Table, level: u32, virt: Range<u64>, phys: u64, flags: Flags) -> Result<(), MapError> {
    let mut at = virt.start;
    while at < virt.end {
        let size = span(level);
        let end = virt.end.min((at & !(size - 1)).saturating_add(size));
        let slot = &mut table.0[index(at, level)];
        let physical = phys + (at - virt.start);
        let whole = end - at == size && physical.is_multiple_of(size);
        if whole && (level < 2 || level == 2 && has_huge()) {
            if *slot != 0 {
                return Err(MapError::Occupied);
            }
            let large = if level > 0 { Flags::HUGE_PAGE } else { Flags::empty() };
            *slot = physical | (flags | large).bits();
        } else {
            if *slot == 0 {
                let table = frames::alloc(0).ok_or(MapError::OutOfFrames)?;
                *slot = table.as_ptr() as u64 | (Flags::PRESENT | Flags::WRITABLE).bits();
            } else if *slot & Flags::HUGE_PAGE.bits() != 0 {
                return Err(MapError::Occupied);
            }
            // SAFETY: a present entry above the leaves leads to a table; the parent is borrowed mutably, so nobody else
            // is in it.
            map_in(unsafe { child(*slot) }, level - 1, at..end, physical, flags)?;
        }
        at = end;
    }
    Ok(())
}

/// Maps `len` bytes at `virt`, where nothing is mapped yet. Both addresses and `len` are multiples of a page.
pub fn map(virt: u64, phys: u64, len: u64, access: Access) -> Result<(), MapError> {
    map_in(&mut ROOT.lock(), 3, virt..virt + len, phys, access.flags())
}

/// Makes sure that device registers at `phys` can be reached at their own address. Below 4 GiB they always can.
pub fn map_device(phys: u64, len: u64) -> Result<(), MapError> {
    let (first, end) = (phys & !(PAGE - 1), phys.saturating_add(len).next_multiple_of(PAGE));
    // In pieces of 2 MiB, so that neighbours share a large page.
    let piece = span(1);
    let mut at = first & !(piece - 1);
    while at < end {
        match find(at) {
            Some(m) if m.flags.contains(Flags::NO_CACHE) => {}
            Some(_) if at < 1 << 32 => {}
            Some(_) => return Err(MapError::Occupied),
            None => map(at, at, piece, Access::Device)?,
        }
        at += piece;
    }
    Ok(())
}

/// What is mapped at `virt`. Takes the tables' lock.
pub fn find(virt: u64) -> Option<Mapping> {
    find_in(&ROOT.lock(), virt)
}

/// The same after a panic: without the lock.
pub fn find_unlocked(virt: u64) -> Option<Mapping> {
    // SAFETY: only read, and only when the machine is about to end.
    find_in(unsafe { ROOT.steal() }, virt)
}

fn find_in(mut table: &Table, virt: u64) -> Option<Mapping> {
    for level in (0..4).rev() {
        let entry = table.0[index(virt, level)];
        let flags = Flags::from_bits_truncate(entry);
        if !flags.contains(Flags::PRESENT) {
            return None;
        }
        if level == 0 || flags.contains(Flags::HUGE_PAGE) {
            let size = span(level);
            return Some(Mapping { start: virt & !(size - 1), size, physical: entry & ADDRESS & !(size - 1), flags });
        }
        // SAFETY: a present entry above the leaves leads to a table, which is only read here.
        table = unsafe { child(entry) };
    }
    None
}

/// Calls `f` for every mapping, in the order of addresses.
pub fn for_each(f: &mut dyn FnMut(Mapping)) {
    fn walk(table: &Table, level: u32, base: u64, f: &mut dyn FnMut(Mapping)) {
        for (i, &entry) in table.0.iter().enumerate() {
            let flags = Flags::from_bits_truncate(entry);
            let size = span(level);
            let mut start = base + i as u64 * size;
            if level == 3 && i >= 256 {
                start |= 0xffff << 48;
            }
            if !flags.contains(Flags::PRESENT) {
                continue;
            }
            if level == 0 || flags.contains(Flags::HUGE_PAGE) {
                f(Mapping { start, size, physical: entry & ADDRESS & !(size - 1), flags });
            } else {
                // SAFETY: a present entry above the leaves leads to a table, which is only read here.
                walk(unsafe { child(entry) }, level - 1, start, f);
            }
        }
    }
    walk(&ROOT.lock(), 3, 0, f);
}

/// What the CPU's table register holds.
pub fn root() -> u64 {
    &raw const *ROOT.lock() as u64
}

/// Makes a page that is mapped alone executable and no longer writable. Before other CPUs run.
pub fn make_executable(virt: u64) {
    let mut root = ROOT.lock();
    let mut table: &mut Table = &mut root;
    for level in (1..4).rev() {
        let entry = table.0[index(virt, level)];
        assert!(entry & Flags::PRESENT.bits() != 0 && entry & Flags::HUGE_PAGE.bits() == 0, "not mapped alone");
        // SAFETY: a present entry that is no leaf; the root is borrowed mutably.
        table = unsafe { child(entry) };
    }
    let slot = &mut table.0[index(virt, 0)];
    *slot = *slot & ADDRESS | Access::Execute.flags().bits();
    tlb::flush(x86_64::VirtAddr::new(virt));
}

/// What the page at `at`, which lies below 4 GiB or in memory, is to be; `None` stays unmapped.
fn wanted(at: u64) -> Option<Access> {
    if at == 0 || at == boot_stack_guard() {
        return None;
    }
    if image().contains(&at) {
        return Some(match at {
            _ if text().contains(&at) => Access::Execute,
            _ if rodata().contains(&at) => Access::Read,
            _ => Access::Write,
        });
    }
    let kind = info::get().regions().iter().find(|r| (r.start..r.end).contains(&at)).map(|r| r.kind);
    match kind {
        Some(Kind::Ram | Kind::Acpi) => Some(Access::Write),
        _ if at < 1 << 32 => Some(Access::Device),
        _ => None,
    }
}

/// Builds the tables and switches to them.
///
/// # Safety
///
/// Called once, on the boot processor, on the first page tables.
pub unsafe fn init() {
    // Wherever the wanted access may change: between two such places it does not.
    let (text, rodata, data) = (text(), rodata(), data());
    let guard = boot_stack_guard();
    let low_end = crate::cpu::trampoline::AREA.end;
    let mut edges: Vec<u64> = [0, PAGE, low_end, 1 << 32, guard, guard + PAGE].into();
    edges.extend([text.start, text.end, rodata.start, rodata.end, data.start, data.end]);
    for r in info::get().regions() {
        // A page that is only partly memory is not memory.
        edges.extend(match r.kind {
            Kind::Ram => [r.start.next_multiple_of(PAGE), r.end & !(PAGE - 1)],
            _ => [r.start & !(PAGE - 1), r.end.next_multiple_of(PAGE)],
        });
    }
    // Pages of 4 KiB around the code that starts the other CPUs, whose access changes.
    edges.extend(crate::cpu::trampoline::AREA.step_by(PAGE as usize));
    edges.sort_unstable();
    edges.dedup();
    for pair in edges.windows(2) {
        if let Some(access) = wanted(pair[0]) {
            map(pair[0], pair[0], pair[1] - pair[0], access).expect("the first page tables");
        }
    }
    let root = PhysFrame::containing_address(PhysAddr::new(root()));
    // SAFETY: the tables map the image, the stack and all memory at the addresses that are in use.
    unsafe { Cr3::write(root, Cr3Flags::empty()) };
}
