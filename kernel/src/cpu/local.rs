//! What each CPU has of its own: its number, behind GS; its descriptor table, task state and stacks.

use crate::memory::stacks;
use alloc::boxed::Box;
use core::arch::asm;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::instructions::tables::load_tss;
use x86_64::registers::model_specific::GsBase;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable};
use x86_64::structures::tss::TaskStateSegment;

/// CPUs beyond this many stay asleep.
pub const MAX_CPUS: usize = 64;

/// Pages of each stack for exceptions that cannot trust the one in use.
const EXCEPTION_STACK: u64 = 8;

/// Which of a CPU's stacks an exception runs on: an index of the interrupt stack table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stack {
    DoubleFault = 0,
    Nmi = 1,
    MachineCheck = 2,
}

/// A CPU, reached through GS.
#[repr(C)]
pub struct Local {
    /// The CPU's number. `index` reads it by its offset, 0.
    number: u32,
    /// Its local APIC's id.
    pub apic_id: AtomicU32,
    /// Work for it; see `smp`.
    pub state: AtomicU32,
    pub work: AtomicUsize,
    pub argument: AtomicUsize,
}

static LOCALS: [Local; MAX_CPUS] = {
    let mut locals = [const {
        Local {
            number: 0,
            apic_id: AtomicU32::new(0),
            state: AtomicU32::new(0),
            work: AtomicUsize::new(0),
            argument: AtomicUsize::new(0),
        }
    }; MAX_CPUS];
    let mut i = 0;
    while i < MAX_CPUS {
        locals[i].number = i as u32;
        i += 1;
    }
    locals
};

/// CPU number `i`.
pub fn get(i: usize) -> &'static Local {
    &LOCALS[i]
}

/// The number of the CPU that runs this: 0 for the one that booted.
pub fn index() -> usize {
    let number: u32;
    // SAFETY: `enter` made GS lead to a `Local`, whose number stands at offset 0.
    unsafe { asm!("mov {:e}, gs:[0]", out(reg) number, options(nostack, readonly, preserves_flags)) };
    number as usize
}

/// Makes the running CPU number `i`: first thing on each.
pub fn enter(i: usize) {
    GsBase::write(VirtAddr::from_ptr(&LOCALS[i]));
}

/// The running CPU's `APIC` id register becomes known.
pub fn set_apic_id(id: u32) {
    get(index()).apic_id.store(id, Ordering::Release);
}

/// Gives the running CPU a descriptor table, a task state and stacks for exceptions.
pub fn load_tables() {
    let mut task = TaskStateSegment::new();
    for stack in [Stack::DoubleFault, Stack::Nmi, Stack::MachineCheck] {
        let top = stacks::alloc(EXCEPTION_STACK).expect("no memory for a stack");
        task.interrupt_stack_table[stack as usize] = VirtAddr::new(top);
    }
    let task = Box::leak(Box::new(task));
    let table = Box::leak(Box::new(GlobalDescriptorTable::new()));
    let code = table.append(Descriptor::kernel_code_segment());
    let data = table.append(Descriptor::kernel_data_segment());
    let state = table.append(Descriptor::tss_segment(task));
    table.load();
    // SAFETY: the selectors are those of the table just loaded: flat code and data, and a task state that stays.
    unsafe {
        CS::set_reg(code);
        SS::set_reg(data);
        DS::set_reg(data);
        ES::set_reg(data);
        load_tss(state);
    }
}
