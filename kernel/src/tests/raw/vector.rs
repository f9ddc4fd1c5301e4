//! A vector whose interrupts are counted.

use crate::cpu::interrupts;
use crate::testing::Failure;
use crate::time::wait_until;
use vtd::{Message, Nanos};

/// How long an interrupt may take to come, and how long one that must not come is waited for.
const PATIENCE: Nanos = Nanos::millis(2000);
const PEACE: Nanos = Nanos::millis(20);

/// The vector; given back when it is dropped, which has to be after its sender is silent.
pub struct Vector(u8);

fn nothing_more(_: usize) {}

impl Vector {
    pub fn new() -> Result<Self, Failure> {
        Ok(Vector(interrupts::allocate(nothing_more, 0).ok_or("no vector")?))
    }

    /// What raises it on the boot processor.
    pub fn message(&self) -> Message {
        interrupts::message(self.0, 0)
    }

    /// Whether it comes `n` times in all, and not once more.
    pub fn comes(&self, n: u64) -> bool {
        wait_until(PATIENCE, || interrupts::count(self.0) >= n) && self.stays(n)
    }

    /// Whether it has come `n` times and does not come again.
    pub fn stays(&self, n: u64) -> bool {
        !wait_until(PEACE, || interrupts::count(self.0) != n)
    }
}

impl Drop for Vector {
    fn drop(&mut self) {
        interrupts::release(self.0);
    }
}
