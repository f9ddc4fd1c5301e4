//! The interrupt descriptor table, one for all CPUs, and the entry stubs: each pushes what the CPU did not, its vector
//! and the registers, and goes to Rust.

use super::local::Stack;
use super::registers::Registers;
use core::arch::{asm, naked_asm};
use core::cell::UnsafeCell;

/// The selector of the code segment in every table of this kernel.
const CODE: u16 = 8;

/// Bytes between two stubs.
const STUB: u64 = 16;

#[derive(Clone, Copy)]
#[repr(C)]
struct Gate {
    low: u64,
    high: u64,
}

#[repr(C, align(16))]
struct Table(UnsafeCell<[Gate; 256]>);

// SAFETY: written by the boot processor alone, before it starts the others.
unsafe impl Sync for Table {}

static TABLE: Table = Table(UnsafeCell::new([Gate { low: 0, high: 0 }; 256]));

#[repr(C, packed)]
struct Pointer {
    limit: u16,
    base: u64,
}

/// 256 stubs of 16 bytes. The CPU pushes an error code for vectors 8, 10-14, 17, 21, 29 and 30; for the others the stub
/// pushes a 0, so that the frame is the same.
#[unsafe(naked)]
unsafe extern "C" fn stubs() {
    naked_asm!(
        ".balign 16",
        ".set vector, 0",
        ".rept 256",
        ".balign 16",
        ".if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30)",
        "push 0",
        ".endif",
        // push imm32, spelled out: the assembler would take the symbol's last value.
        ".byte 0x68",
        ".long vector",
        "jmp {common}",
        ".set vector, vector + 1",
        ".endr",
        common = sym common,
    )
}

/// The stubs' common part. There is no other privilege level and no floating point, so the general registers are all.
#[unsafe(naked)]
unsafe extern "C" fn common() {
    naked_asm!(
        // The stubs push vector after error; `Registers` has the vector below it.
        "push rax",
        "push rbx",
        "push rcx",
        "push rdx",
        "push rsi",
        "push rdi",
        "push rbp",
        "push r8",
        "push r9",
        "push r10",
        "push r11",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "cld",
        "mov rdi, rsp",
        // The interrupted program's frame pointer stays in rbp: backtraces go on into it.
        "mov rbx, rsp",
        "and rsp, -16",
        "call {dispatch}",
        "mov rsp, rbx",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop r11",
        "pop r10",
        "pop r9",
        "pop r8",
        "pop rbp",
        "pop rdi",
        "pop rsi",
        "pop rdx",
        "pop rcx",
        "pop rbx",
        "pop rax",
        "add rsp, 16",
        "iretq",
        dispatch = sym dispatch,
    )
}

extern "C" fn dispatch(registers: &mut Registers) {
    if registers.vector < 32 {
        super::exceptions::handle(registers);
    } else {
        super::interrupts::handle(registers.vector as u8);
    }
}

/// Fills the table. Until the CPU has its task state, every exception runs on the stack in use.
///
/// # Safety
///
/// On the boot processor, before the others run; `separate` only when every CPU that loads the table has a task state.
pub unsafe fn fill(separate: bool) {
    // The first stub stands at the next place aligned for stubs.
    let base = (stubs as *const () as u64).next_multiple_of(STUB);
    // SAFETY: the caller's promise: nobody else writes, and the CPU reads whole gates only when an interrupt comes.
    let gates = unsafe { &mut *TABLE.0.get() };
    for (vector, gate) in gates.iter_mut().enumerate() {
        let at = base + vector as u64 * STUB;
        let stack = match vector {
            2 => Some(Stack::Nmi),
            8 => Some(Stack::DoubleFault),
            18 => Some(Stack::MachineCheck),
            _ => None,
        };
        let stack = stack.filter(|_| separate).map_or(0, |s| s as u64 + 1);
        // Present, privilege 0, interrupt gate: interrupts stay masked in handlers.
        gate.low = at & 0xffff | u64::from(CODE) << 16 | stack << 32 | 0x8e << 40 | (at >> 16 & 0xffff) << 48;
        gate.high = at >> 32;
    }
}

/// Has the running CPU use the table.
pub fn load() {
    let pointer = Pointer { limit: 256 * 16 - 1, base: TABLE.0.get() as u64 };
    // SAFETY: the table is static and `fill` made its gates.
    unsafe { asm!("lidt [{}]", in(reg) &raw const pointer, options(readonly, nostack, preserves_flags)) };
}
