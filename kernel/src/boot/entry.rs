//! The PVH entry point: 32-bit protected mode without paging, `ebx` holding the address of the start information
//! (x86/HVM direct boot ABI). It builds the first page tables, which the kernel soon replaces by its own, and goes to
//! 64 bits.

use core::arch::naked_asm;

pvh::xen_elfnote_phys32_entry!(pvh_start);

/// Page tables and descriptor table for the way from 32 to 64 bits: the lowest 4 GiB at their own addresses.
#[repr(C, align(4096))]
struct BootTables {
    pml4: [u64; 512],
    pdpt: [u64; 512],
    pd: [[u64; 512]; 4],
}

static mut BOOT_TABLES: BootTables = BootTables { pml4: [0; 512], pdpt: [0; 512], pd: [[0; 512]; 4] };

/// Null, 64-bit code, data.
static BOOT_GDT: [u64; 3] = [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

/// The operand of `lgdt` in 32-bit mode.
#[repr(C, packed)]
struct GdtPointer {
    limit: u16,
    base: &'static [u64; 3],
    // Pads the pointer's size; `lgdt` in 32-bit mode reads the low half of `base` only.
}

static BOOT_GDT_POINTER: GdtPointer = GdtPointer { limit: 23, base: &BOOT_GDT };

/// Where the loader jumps to.
#[unsafe(naked)]
#[unsafe(link_section = ".text.boot")]
#[unsafe(no_mangle)]
unsafe extern "C" fn pvh_start() -> ! {
    naked_asm!(
        ".code32",
        "cld",
        "mov esp, offset __boot_stack_top",
        "mov esi, ebx",
        // 2048 large pages of 2 MiB: present, writable, large.
        "mov edi, offset {tables} + 8192",
        "mov eax, 0x83",
        "mov ecx, 2048",
        "2: mov [edi], eax",
        "mov dword ptr [edi + 4], 0",
        "add edi, 8",
        "add eax, 0x200000",
        "loop 2b",
        // Four page directories under one pointer table.
        "mov edi, offset {tables} + 4096",
        "mov eax, offset {tables} + 8192 + 3",
        "mov ecx, 4",
        "3: mov [edi], eax",
        "add edi, 8",
        "add eax, 4096",
        "loop 3b",
        "mov edi, offset {tables}",
        "lea eax, [edi + 4096 + 3]",
        "mov [edi], eax",
        "mov cr3, edi",
        // CR4.PAE; EFER.LME and NXE; CR0.PG and WP.
        "mov eax, cr4",
        "or eax, 0x20",
        "mov cr4, eax",
        "mov ecx, 0xc0000080",
        "rdmsr",
        "or eax, 0x900",
        "wrmsr",
        "mov eax, cr0",
        "or eax, 0x80010000",
        "mov cr0, eax",
        "lgdt [{gdt}]",
        "push 8",
        "mov eax, offset {long_mode}",
        "push eax",
        "retf",
        ".code64",
        tables = sym BOOT_TABLES,
        gdt = sym BOOT_GDT_POINTER,
        long_mode = sym long_mode,
    )
}

/// In 64-bit mode, the address of the start information still in `esi`.
#[unsafe(naked)]
unsafe extern "C" fn long_mode() -> ! {
    naked_asm!(
        "mov eax, 16",
        "mov ds, eax",
        "mov es, eax",
        "mov ss, eax",
        "xor eax, eax",
        "mov fs, eax",
        "mov gs, eax",
        // No frame above this one: the backtrace ends here.
        "xor ebp, ebp",
        "mov rsp, offset __boot_stack_top",
        "mov edi, esi",
        "call {main}",
        "ud2",
        main = sym crate::kernel_main,
    )
}
