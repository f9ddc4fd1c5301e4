//! A freestanding kernel that runs the `vtd` driver in QEMU, tests it there, and shows what it does.
#![no_std]
#![no_main]
#![deny(unsafe_op_in_unsafe_fn)]

extern crate alloc;

mod boot;
mod console;
mod exit;
mod memory;
mod sync;

use boot::cmdline::CommandLine;
use exit::{Exit, exit};
use pvh::start_info::reader::StartInfoReader;

/// The first Rust code, on the boot processor, with the lowest 4 GiB mapped.
extern "C" fn kernel_main(start_info: u32) -> ! {
    console::init();
    println!("@boot");
    // SAFETY: the address comes from the loader; memory is mapped at its own addresses.
    let info = unsafe { StartInfoReader::from_paddr_identity(start_info) };
    let text = info.as_ref().and_then(|i| i.cmdline()).and_then(|c| c.to_str().ok()).unwrap_or("");
    println!("{:?}", CommandLine::parse(text));
    exit(Exit::Success)
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    println!("@panic {info}");
    exit(Exit::Panic)
}
