//! A freestanding kernel that runs the `vtd` driver in QEMU, tests it there, and shows what it does.
#![no_std]
#![no_main]
#![deny(unsafe_op_in_unsafe_fn)]

extern crate alloc;

mod acpi;
mod boot;
mod console;
mod cpu;
mod devices;
mod dma;
mod exit;
mod iommu;
mod machine;
mod memory;
mod pci;
mod platform;
mod sync;
mod testing;
mod tests;
mod time;
mod tour;
mod way;

use boot::cmdline::{self, Mode};
use boot::info;
use cpu::{apic, idt, local, smp};
use exit::{Exit, exit};

/// The first Rust code, on the boot processor, with the lowest 4 GiB mapped.
extern "C" fn kernel_main(start_info: u32) -> ! {
    local::enter(0);
    console::init();
    // On a line of its own: firmware may have left one unfinished.
    println!("\n@boot");
    // SAFETY: the first code on the only CPU that runs; `start_info` is the loader's.
    unsafe { start(start_info) };

    let line = cmdline::get();
    let success = match line.mode {
        Mode::List => {
            testing::list(line);
            true
        }
        Mode::Test => testing::run(line),
        Mode::Tour => tour::run(),
    };
    exit(if success { Exit::Success } else { Exit::Failure })
}

/// Brings the machine up, each part on those before it.
///
/// # Safety
///
/// Called once, on the boot processor, before anything else.
unsafe fn start(start_info: u32) {
    // SAFETY: the caller's promise covers each: memory is as the loader left it until `memory::init`, and no other CPU
    // runs until `smp::start`.
    let root = unsafe {
        idt::fill(false);
        idt::load();
        info::read(start_info);
        let root = acpi::find_root();
        memory::init();
        local::load_tables();
        idt::fill(true);
        root
    };
    acpi::init(root);
    let tables = acpi::tables();
    time::init(tables.pm_timer, tables.pm_timer_is_32_bit);
    apic::init();
    x86_64::instructions::interrupts::enable();
    pci::functions::init();
    smp::start(tables.cpus.iter().copied());
}
