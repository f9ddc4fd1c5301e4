//! What a host gives the driver: registers, frames, cache maintenance, interrupt masking, a clock, PCI configuration,
//! messages. About twenty short functions; the kernel in this repository and `examples/adopt` are two ways to write them.

use super::address::{DeviceId, Hpa, Nanos, UnitId};
use core::ptr::NonNull;

/// The registers of one remapping unit (VT-d 11.1): aligned accesses of exactly this width, uncached, in program order.
///
/// Offsets come from the driver and lie within the length that `Platform::registers` was asked for.
pub trait Registers: Send + Sync {
    /// Reads the 32-bit register at byte offset `at`.
    fn read32(&self, at: u32) -> u32;
    /// Writes it.
    fn write32(&self, at: u32, v: u32);
    /// Reads the 64-bit register at byte offset `at`.
    fn read64(&self, at: u32) -> u64;
    /// Writes it.
    fn write64(&self, at: u32, v: u64);
}

/// The platform could not do what was asked; the driver says which step failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PlatformError;

/// The three interrupts of a unit (VT-d 7.3, 6.5.2.10, 7.7).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// Faults were recorded, or the invalidation queue stopped with an error.
    Fault,
    /// An invalidation wait asked for an interrupt.
    Invalidation,
    /// Page requests arrived.
    PageRequest,
}

/// A message-signalled interrupt: where a device writes, and what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    /// The address, 0xfee... on this architecture, with destination ids above 255 in bits 63:40 (x2APIC form).
    pub address: u64,
    /// The data: vector and delivery mode.
    pub data: u32,
}

/// What the errata table is keyed by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Identity {
    /// CPUID leaf 1, EAX: family, model and stepping of the CPU.
    pub cpu: u32,
    /// OEM id of the DMAR table.
    pub oem: [u8; 6],
    /// OEM table id of the DMAR table.
    pub oem_table: [u8; 8],
    /// Vendor (15:0) and device id (31:16) of function 00:00.0 of segment 0.
    pub host_bridge: u32,
}

/// A host. The driver calls it from any context in which the host calls the driver, and from interrupt context only
/// `registers` methods, `irq_save`, `irq_restore`, `now`, `cpu` and `wake`.
///
/// # Safety
///
/// Frames from `alloc` are exclusive to the driver, zeroed, aligned to their size and stay put until freed; `hpa` and
/// `ptr` are inverse on them; `registers` maps what it is asked for and nothing else.
pub unsafe trait Platform: Send + Sync + 'static {
    /// Access to one unit's registers.
    type Registers: Registers;
    /// What `irq_save` remembers.
    type Irq: Copy;

    /// Maps `len` bytes of registers at `base`, uncached. May be called again with a larger `len` for the same base.
    fn registers(&self, base: Hpa, len: u64) -> Result<Self::Registers, PlatformError>;
    /// `2^order` contiguous frames of 4 KiB, zeroed, aligned to their size, near NUMA node `node` where that can be.
    fn alloc(&self, order: u8, node: Option<u32>) -> Option<NonNull<u8>>;
    /// Gives frames back.
    ///
    /// # Safety
    ///
    /// `at` and `order` are those of an `alloc`, not yet freed, and nothing refers to the memory any more.
    unsafe fn free(&self, at: NonNull<u8>, order: u8);
    /// The physical address of memory from `alloc`.
    fn hpa(&self, at: NonNull<u8>) -> Hpa;
    /// The pointer to memory from `alloc`, given an address within it.
    fn ptr(&self, at: Hpa) -> NonNull<u8>;
    /// Has the lines of `len` bytes at `at` leave the CPU's caches at the next `fence` (clflushopt and its like).
    fn flush(&self, at: NonNull<u8>, len: usize);
    /// Orders flushes and stores before what follows (mfence or sfence).
    fn fence(&self);
    /// Masks interrupts on this CPU and says how it was.
    fn irq_save(&self) -> Self::Irq;
    /// Puts the mask back.
    fn irq_restore(&self, was: Self::Irq);
    /// Monotonic time.
    fn now(&self) -> Nanos;
    /// Called once a turn of every wait for `unit`, which began at `since`: spin, yield or sleep.
    fn relax(&self, unit: UnitId, since: Nanos);
    /// Has `Vtd::service` called soon. Callable from interrupt context.
    fn wake(&self);
    /// A small number for the running CPU (a thread, where threads take its place), stable while interrupts are masked.
    /// Debug builds check the order of locks with it.
    fn cpu(&self) -> u32;
    /// Reads the aligned 32 bits at `at` of a function's configuration space; all ones where there is no function.
    fn config_read(&self, d: DeviceId, at: u16) -> Result<u32, PlatformError>;
    /// Writes them.
    fn config_write(&self, d: DeviceId, at: u16, v: u32) -> Result<(), PlatformError>;
    /// Reads the aligned 64 bits of memory at `at`, which is not the driver's: tables that a predecessor left
    /// (`TakeOver::Adopt`). `None` where there is no memory, and from hosts that never adopt.
    fn peek(&self, at: Hpa) -> Option<u64> {
        let _ = at;
        None
    }
    /// Hands out a message that leads to `Vtd::interrupt(unit, e)`.
    fn event(&self, unit: UnitId, e: Event) -> Result<Message, PlatformError>;
    /// The keys of the errata table.
    fn identity(&self) -> Identity;
}

/// Registers in memory: the usual implementation of [`Registers`], on crate `volatile`.
#[derive(Clone, Copy, Debug)]
pub struct Mmio {
    base: NonNull<u8>,
    len: u32,
}

// SAFETY: the accesses are volatile loads and stores of device registers, which any CPU may do.
unsafe impl Send for Mmio {}
// SAFETY: as above; order between CPUs is the driver's business (its locks).
unsafe impl Sync for Mmio {}

impl Mmio {
    /// Registers at `base`.
    ///
    /// # Safety
    ///
    /// `len` bytes from `base` on are mapped, uncached, aligned to 8, for as long as the value and its copies live.
    pub const unsafe fn new(base: NonNull<u8>, len: u32) -> Self {
        Mmio { base, len }
    }

    fn at<T>(&self, at: u32) -> Option<volatile::VolatilePtr<'_, T>> {
        let size = size_of::<T>() as u32;
        if !at.is_multiple_of(size) || at.checked_add(size)? > self.len {
            return None;
        }
        // SAFETY: within the mapping that `new`'s caller vouches for, and aligned.
        Some(unsafe { volatile::VolatilePtr::new(self.base.add(at as usize).cast()) })
    }
}

impl Registers for Mmio {
    fn read32(&self, at: u32) -> u32 {
        self.at(at).map_or(u32::MAX, |r| r.read())
    }
    fn write32(&self, at: u32, v: u32) {
        if let Some(r) = self.at(at) {
            r.write(v);
        }
    }
    fn read64(&self, at: u32) -> u64 {
        self.at(at).map_or(u64::MAX, |r| r.read())
    }
    fn write64(&self, at: u32, v: u64) {
        if let Some(r) = self.at(at) {
            r.write(v);
        }
    }
}
