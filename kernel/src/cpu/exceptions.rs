//! Exceptions: the last words of a CPU that met one it did not expect, and the two that are expected.

use super::local;
use super::registers::Registers;
use crate::exit::{Exit, exit};
use crate::memory::paging;
use crate::{console, println};
use core::arch::{asm, naked_asm};
use core::sync::atomic::{AtomicU64, Ordering};
use x86_64::instructions::{hlt, interrupts};
use x86_64::registers::control::{Cr2, Cr3};

const NAMES: [&str; 22] = [
    "divide error",
    "debug",
    "non-maskable interrupt",
    "breakpoint",
    "overflow",
    "bound range",
    "invalid opcode",
    "no coprocessor",
    "double fault",
    "coprocessor overrun",
    "invalid task state",
    "segment not present",
    "stack fault",
    "general protection",
    "page fault",
    "reserved",
    "floating point",
    "alignment check",
    "machine check",
    "SIMD floating point",
    "virtualization",
    "control protection",
];

const BREAKPOINT: u64 = 3;
const PAGE_FAULT: u64 = 14;

/// Return addresses in a backtrace, at most.
const MAX_FRAMES: usize = 48;

static BREAKPOINTS: AtomicU64 = AtomicU64::new(0);

/// Breakpoint exceptions so far.
pub fn breakpoints() -> u64 {
    BREAKPOINTS.load(Ordering::Relaxed)
}

/// Every vector below 32 comes here.
pub fn handle(registers: &mut Registers) {
    match registers.vector {
        BREAKPOINT => {
            BREAKPOINTS.fetch_add(1, Ordering::Relaxed);
        }
        PAGE_FAULT if registers.rip == probe_write as *const () as u64 => {
            registers.rip = probe_failed as *const () as u64;
        }
        _ => fatal(registers),
    }
}

fn fatal(registers: &Registers) -> ! {
    begin();
    let name = NAMES.get(registers.vector as usize).unwrap_or(&"reserved");
    println!(
        "@panic cpu {}: exception {} ({name}), error code {:#x}, cr2 {:#x}, rip {:#x}",
        local::index(),
        registers.vector,
        registers.error,
        Cr2::read_raw(),
        registers.rip
    );
    println!("{registers}");
    println!("  cr2 {:016x}  cr3 {:016x}", Cr2::read_raw(), Cr3::read().0.start_address());
    println!("@frame {:#x}", registers.rip);
    backtrace(registers.rbp);
    exit(Exit::Panic)
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    begin();
    // One line for xtask, whatever the message holds.
    crate::print!("@panic cpu {}: ", local::index());
    if let Some(at) = info.location() {
        crate::print!("{}:{}: ", at.file(), at.line());
    }
    println!("{}", OneLine(info.message()));
    let frame: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, rbp", out(reg) frame, options(nomem, nostack, preserves_flags)) };
    backtrace(frame);
    exit(Exit::Panic)
}

/// Makes this CPU the one that speaks last. Any other stops here; one that fails while it speaks says no more.
fn begin() {
    interrupts::disable();
    match console::begin_panic(local::index()) {
        Ok(()) => {}
        Err(first) if first == local::index() => exit(Exit::Panic),
        Err(_) => loop {
            hlt();
        },
    }
}

/// Prints the return addresses from a frame pointer on, for as long as the chain is one.
fn backtrace(mut frame: u64) {
    for _ in 0..MAX_FRAMES {
        let readable = frame != 0 && frame.is_multiple_of(8) && paging::find_unlocked(frame).is_some();
        if !readable || paging::find_unlocked(frame + 8).is_none() {
            return;
        }
        let at = frame as *const u64;
        // SAFETY: mapped and aligned, and only read.
        let (up, back) = unsafe { (at.read(), at.add(1).read()) };
        if back == 0 {
            return;
        }
        println!("@frame {back:#x}");
        // Callers lie further up the stack; anything else is no chain.
        if up <= frame {
            return;
        }
        frame = up;
    }
}

/// A message with its line ends made spaces.
struct OneLine<T>(T);

impl<T: core::fmt::Display> core::fmt::Display for OneLine<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        struct Filter<'a, 'b>(&'a mut core::fmt::Formatter<'b>);
        impl core::fmt::Write for Filter<'_, '_> {
            fn write_str(&mut self, s: &str) -> core::fmt::Result {
                s.split_inclusive('\n').try_for_each(|part| match part.strip_suffix('\n') {
                    Some(line) => self.0.write_str(line).and_then(|()| self.0.write_str(" ")),
                    None => self.0.write_str(part),
                })
            }
        }
        core::fmt::write(&mut Filter(f), format_args!("{}", self.0))
    }
}

/// Stores a byte over itself; false where the CPU refuses. The first instruction is the one that may fault.
///
/// # Safety
///
/// Nobody writes to the place meanwhile.
#[unsafe(naked)]
pub unsafe extern "C" fn probe_write(at: u64) -> bool {
    naked_asm!("lock or byte ptr [rdi], 0", "mov eax, 1", "ret")
}

/// Where `probe_write` goes on when the CPU refuses.
#[unsafe(naked)]
unsafe extern "C" fn probe_failed() -> bool {
    naked_asm!("xor eax, eax", "ret")
}
