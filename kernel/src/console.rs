//! The first serial port: lines for people, and lines that begin with `@` for xtask (docs/architecture.md).

use crate::sync::IrqLock;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicUsize, Ordering};
use uart_16550::backend::PioBackend;
use uart_16550::{Config, Uart16550Tty};

const COM1: u16 = 0x3f8;

/// `None` until `init`, and for good where the machine has no such port.
static PORT: IrqLock<Option<Uart16550Tty<PioBackend>>> = IrqLock::new(None);

/// 0, or one more than the number of the first CPU that panics: from then on it alone speaks, and takes no lock.
static PANICKING: AtomicUsize = AtomicUsize::new(0);

/// Finds the port, which tests itself; without one the kernel runs silently.
pub fn init() {
    // SAFETY: the ports of COM1 belong to nobody else in this kernel.
    *PORT.lock() = unsafe { Uart16550Tty::new_port(COM1, Config::default()) }.ok();
}

/// Takes the console for CPU `cpu`, which panics; the number of the one that has it already.
pub fn begin_panic(cpu: usize) -> Result<(), usize> {
    match PANICKING.compare_exchange(0, cpu + 1, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => Ok(()),
        Err(first) => Err(first - 1),
    }
}

#[doc(hidden)]
pub fn print(args: fmt::Arguments<'_>) {
    if PANICKING.load(Ordering::Acquire) != 0 {
        // SAFETY: the panicking CPU is about to end the machine; whoever holds the lock will not go on from here in
        // a way that matters, and waiting for it could last for ever.
        if let Some(port) = unsafe { PORT.steal() } {
            let _ = port.write_fmt(args);
        }
    } else if let Some(port) = PORT.lock().as_mut() {
        // A full line at a time under the lock, so that CPUs do not mix theirs.
        let _ = port.write_fmt(args);
    }
}

/// Prints to the serial port.
#[macro_export]
macro_rules! print {
    ($($arg:tt)*) => { $crate::console::print(format_args!($($arg)*)) };
}

/// Prints a line to the serial port.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($arg:tt)*) => { $crate::console::print(format_args!("{}\n", format_args!($($arg)*))) };
}
