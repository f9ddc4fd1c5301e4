//! The code that a CPU begins with, in 16-bit mode below 1 MiB, and the page beside it that tells it where to go.

use crate::boot::info::{self, Kind, Region};
use crate::memory::paging;
use core::arch::naked_asm;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

/// Code page and data page. The memory below 1 MiB is never handed out; here SeaBIOS and others leave it alone.
pub const AREA: Range<u64> = 0x8000..0xa000;

/// The page number that a start-up interrupt carries.
pub const PAGE_NUMBER: u32 = (AREA.start >> 12) as u32;

/// What the data page holds. The code knows the offsets.
#[repr(C)]
struct Data {
    /// Operand of `lgdt`: limit in the upper two bytes of the first word, then the base.
    gdt_limit: [u16; 4],
    gdt_base: u64,
    gdt: [u64; 3],
    root: u64,
    stack: AtomicU64,
    entry: u64,
}

/// From 16 bits straight to 64: with paging and long mode enabled at once. Addresses are those of `AREA`.
#[unsafe(naked)]
unsafe extern "C" fn start() -> ! {
    naked_asm!(
        "trampoline_start:",
        ".code16",
        "cli",
        "cld",
        "xor ax, ax",
        "mov ds, ax",
        // PAE; the page tables; EFER.LME and NXE; then protection, paging and write protection at once.
        "mov eax, 0x20",
        "mov cr4, eax",
        "mov eax, dword ptr [0x9028]",
        "mov cr3, eax",
        "mov ecx, 0xc0000080",
        "rdmsr",
        "or eax, 0x900",
        "wrmsr",
        "lgdt [0x9006]",
        "mov eax, 0x80010033",
        "mov cr0, eax",
        // A far jump to selector 8, spelled out: the code runs elsewhere than it is linked.
        ".byte 0x66, 0xea",
        ".long 0x8000 + (trampoline_long - trampoline_start)",
        ".word 8",
        ".code64",
        "trampoline_long:",
        "mov eax, 16",
        "mov ds, eax",
        "mov es, eax",
        "mov ss, eax",
        "xor eax, eax",
        "mov fs, eax",
        "mov gs, eax",
        "xor ebp, ebp",
        "mov rsp, qword ptr [0x9030]",
        "call qword ptr [0x9038]",
        "ud2",
        ".globl trampoline_end",
        "trampoline_end:",
    )
}

unsafe extern "C" {
    static trampoline_end: u8;
}

fn data() -> *mut Data {
    (AREA.start + vtd::PAGE) as *mut Data
}

/// Whether the memory map has memory there.
pub fn is_usable() -> bool {
    let holds = |r: &Region| r.kind == Kind::Ram && r.start <= AREA.start && AREA.end <= r.end;
    info::get().regions().iter().any(holds)
}

/// Puts the code and its data in place. `entry` is where a CPU goes in 64-bit mode.
pub fn install(entry: extern "C" fn() -> !) {
    let from = start as *const () as *const u8;
    let len = &raw const trampoline_end as usize - from as usize;
    let values = Data {
        gdt_limit: [0, 0, 0, 23],
        gdt_base: AREA.start + vtd::PAGE + 16,
        gdt: [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff],
        root: paging::root(),
        stack: AtomicU64::new(0),
        entry: entry as usize as u64,
    };
    // SAFETY: two pages of memory that nobody else uses, mapped writable.
    unsafe {
        (AREA.start as *mut u8).copy_from_nonoverlapping(from, len);
        data().write(values);
    }
    paging::make_executable(AREA.start);
}

/// Says which stack the next CPU takes.
pub fn set_stack(top: u64) {
    // SAFETY: `install` put the data there.
    unsafe { (*data()).stack.store(top, Ordering::Release) };
}
