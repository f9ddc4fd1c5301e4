//! A spin lock that masks interrupts while it is held: an interrupt handler on the CPU that holds it would wait for ever.

use core::ops::{Deref, DerefMut};
use spin::mutex::{SpinMutex, SpinMutexGuard};
use x86_64::instructions::interrupts;

/// Masks interrupts on this CPU and says whether they were on.
pub fn irq_save() -> bool {
    let on = interrupts::are_enabled();
    interrupts::disable();
    on
}

/// Puts the mask back to what `irq_save` found.
pub fn irq_restore(on: bool) {
    if on {
        interrupts::enable();
    }
}

/// The lock.
pub struct IrqLock<T>(SpinMutex<T>);

impl<T> IrqLock<T> {
    pub const fn new(value: T) -> Self {
        IrqLock(SpinMutex::new(value))
    }

    pub fn lock(&self) -> IrqGuard<'_, T> {
        let on = irq_save();
        IrqGuard { value: self.0.lock(), _mask: Mask(on) }
    }

    /// The value, lock or no lock.
    ///
    /// # Safety
    ///
    /// Nobody who holds the lock goes on to use the value.
    #[expect(clippy::mut_from_ref, reason = "that is what stealing is")]
    pub unsafe fn steal(&self) -> &mut T {
        // SAFETY: the caller's promise makes this the only user.
        unsafe { &mut *self.0.as_mut_ptr() }
    }
}

/// The held lock. Fields drop in order: first unlocked, then unmasked.
pub struct IrqGuard<'a, T> {
    value: SpinMutexGuard<'a, T>,
    _mask: Mask,
}

struct Mask(bool);

impl Drop for Mask {
    fn drop(&mut self) {
        irq_restore(self.0);
    }
}

impl<T> Deref for IrqGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for IrqGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}
