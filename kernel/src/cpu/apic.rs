//! The local APIC: x2APIC by its registers where the CPU has it, else xAPIC in memory. The old interrupt controllers are
//! silenced.

use super::{interrupts, local};
use crate::memory::paging;
use core::sync::atomic::{AtomicU64, Ordering};
use x86_64::instructions::port::Port;
use x86_64::registers::model_specific::Msr;

const APIC_BASE: Msr = Msr::new(0x1b);
const ENABLED: u64 = 1 << 11;
const X2APIC: u64 = 1 << 10;

/// Registers, as offsets of the xAPIC's page; x2APIC's number is 0x800 + offset / 16.
const ID: u32 = 0x20;
const END: u32 = 0xb0;
const SPURIOUS: u32 = 0xf0;
const COMMAND_LOW: u32 = 0x300;
const COMMAND_HIGH: u32 = 0x310;

/// In the command register: delivery still pending (xAPIC only).
const PENDING: u32 = 1 << 12;

/// Kinds of interrupts between CPUs: delivery mode and the level that it wants.
pub const INIT: u32 = 5 << 8 | 1 << 14;
pub const STARTUP: u32 = 6 << 8 | 1 << 14;

/// Address of the xAPIC's page, or 0 where x2APIC is in use.
static PAGE: AtomicU64 = AtomicU64::new(0);

/// Whether the local APICs are used as x2APICs.
pub fn is_x2apic() -> bool {
    PAGE.load(Ordering::Relaxed) == 0
}

fn read(register: u32) -> u32 {
    match PAGE.load(Ordering::Relaxed) {
        // SAFETY: an x2APIC register, which the CPU has.
        0 => unsafe { Msr::new(0x800 + register / 16).read() as u32 },
        // SAFETY: the xAPIC's page, mapped uncached.
        page => unsafe { ((page + u64::from(register)) as *const u32).read_volatile() },
    }
}

fn write(register: u32, v: u32) {
    match PAGE.load(Ordering::Relaxed) {
        // SAFETY: an x2APIC register, which the CPU has.
        0 => unsafe { Msr::new(0x800 + register / 16).write(u64::from(v)) },
        // SAFETY: the xAPIC's page, mapped uncached.
        page => unsafe { ((page + u64::from(register)) as *mut u32).write_volatile(v) },
    }
}

/// Switches the boot processor's local APIC on and the old controllers off.
pub fn init() {
    silence_pics();
    // SAFETY: every CPU with long mode has the register.
    let base = unsafe { APIC_BASE.read() };
    if core::arch::x86_64::__cpuid(1).ecx & 1 << 21 == 0 {
        let page = base & 0x000f_ffff_ffff_f000;
        paging::map_device(page, vtd::PAGE).expect("the local APIC's page");
        PAGE.store(page, Ordering::Relaxed);
    }
    enable();
}

/// Switches the running CPU's local APIC on, in the mode that `init` chose.
pub fn enable() {
    let mode = if is_x2apic() { ENABLED | X2APIC } else { ENABLED };
    // SAFETY: the architecture's way to enable it; x2APIC only where the CPU has it.
    unsafe {
        let mut base = APIC_BASE;
        let v = base.read();
        base.write(v | mode);
    }
    write(SPURIOUS, 1 << 8 | u32::from(interrupts::SPURIOUS));
    local::set_apic_id(id());
}

/// The running CPU's APIC id.
pub fn id() -> u32 {
    if is_x2apic() { read(ID) } else { read(ID) >> 24 }
}

/// Says that the interrupt in service has been handled.
pub fn end_of_interrupt() {
    write(END, 0);
}

/// Sends an interrupt to the CPU with the APIC id `to`: a vector, with `INIT` or `STARTUP` where one of these is meant.
pub fn send(to: u32, command: u32) {
    let page = PAGE.load(Ordering::Relaxed);
    if page == 0 {
        // SAFETY: x2APIC's command register takes both halves at once.
        unsafe { Msr::new(0x830).write(u64::from(to) << 32 | u64::from(command)) };
        return;
    }
    // A handler that sent between the two halves would spoil them.
    let on = crate::sync::irq_save();
    write(COMMAND_HIGH, to << 24);
    write(COMMAND_LOW, command);
    while read(COMMAND_LOW) & PENDING != 0 {
        core::hint::spin_loop();
    }
    crate::sync::irq_restore(on);
}

/// Moves the two 8259 controllers' vectors away from the exceptions and masks all their lines.
fn silence_pics() {
    for (command, data, vector, wiring) in [(0x20u16, 0x21u16, 0x20u8, 4u8), (0xa0, 0xa1, 0x28, 2)] {
        let (mut command, mut data) = (Port::<u8>::new(command), Port::<u8>::new(data));
        // SAFETY: the controllers' ports, which belong to this kernel.
        unsafe {
            command.write(0x11);
            data.write(vector);
            data.write(wiring);
            data.write(1);
            data.write(0xff);
        }
    }
}
