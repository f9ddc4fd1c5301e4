//! What the driver `vtd` stands on in this kernel: the example for other kernels. Each function is a few lines.

use crate::cpu::{interrupts, local};
use crate::memory::{frames, paging};
use crate::pci::ecam;
use crate::sync::{IrqLock, irq_restore, irq_save};
use crate::{acpi, time};
use alloc::vec::Vec;
use core::arch::asm;
use core::arch::x86_64::__cpuid;
use core::hint::spin_loop;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use spin::Once;
use vtd::{DeviceId, Event, Hpa, Identity, Message, Mmio, Nanos, Platform, PlatformError, UnitId};
use x86_64::structures::paging::PageTableFlags;

/// The platform: everything it needs is global in this kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KernelPlatform;

/// What an interrupt of a unit calls; in interrupt context.
pub type EventHandler = fn(UnitId, Event);

/// The `EventHandler`, or 0.
static HANDLER: AtomicUsize = AtomicUsize::new(0);

/// Set by `wake`, cleared by `take_wake`.
static WOKEN: AtomicBool = AtomicBool::new(false);

/// Vectors handed out so far: a unit that is brought up again gets the same.
static VECTORS: IrqLock<Vec<(UnitId, Event, u8)>> = IrqLock::new(Vec::new());

/// Says who hears of the units' interrupts.
pub fn on_event(handler: EventHandler) {
    HANDLER.store(handler as usize, Ordering::Release);
}

/// Whether the driver asked for its deferred work since the last look.
pub fn take_wake() -> bool {
    WOKEN.swap(false, Ordering::AcqRel)
}

/// The handler of every vector of `event`: `argument` holds the unit and the event.
fn deliver(argument: usize) {
    let event = match argument & 3 {
        0 => Event::Fault,
        1 => Event::Invalidation,
        _ => Event::PageRequest,
    };
    let handler = HANDLER.load(Ordering::Acquire);
    if handler != 0 {
        // SAFETY: only `on_event` stores here, and it stores a function of this type.
        let handler: EventHandler = unsafe { core::mem::transmute(handler) };
        handler(UnitId((argument >> 2) as u16), event);
    }
}

/// How this CPU writes cache lines back.
struct Lines {
    size: usize,
    optimized: bool,
}

fn lines() -> &'static Lines {
    static LINES: Once<Lines> = Once::new();
    LINES.call_once(|| Lines {
        size: ((__cpuid(1).ebx >> 8 & 0xff) as usize * 8).max(16),
        optimized: __cpuid(0).eax >= 7 && __cpuid(7).ebx & 1 << 23 != 0,
    })
}

// SAFETY: `frames` hands out zeroed, aligned runs that nobody else has; memory is mapped at its own address, so `hpa`
// and `ptr` are inverse; `registers` maps what it is asked for.
unsafe impl Platform for KernelPlatform {
    type Registers = Mmio;
    type Irq = bool;

    fn registers(&self, base: Hpa, len: u64) -> Result<Mmio, PlatformError> {
        paging::map_device(base.get(), len).map_err(|_| PlatformError)?;
        let at = NonNull::new(base.get() as *mut u8).ok_or(PlatformError)?;
        // SAFETY: mapped uncached just now, for good.
        Ok(unsafe { Mmio::new(at, u32::try_from(len).map_err(|_| PlatformError)?) })
    }

    fn alloc(&self, order: u8, _node: Option<u32>) -> Option<NonNull<u8>> {
        frames::alloc(order)
    }

    unsafe fn free(&self, at: NonNull<u8>, order: u8) {
        // SAFETY: the caller's promise is the same.
        unsafe { frames::free(at, order) }
    }

    fn hpa(&self, at: NonNull<u8>) -> Hpa {
        frames::hpa(at)
    }

    fn ptr(&self, at: Hpa) -> NonNull<u8> {
        NonNull::new(at.get() as *mut u8).unwrap_or(NonNull::dangling())
    }

    fn flush(&self, at: NonNull<u8>, len: usize) {
        let Lines { size, optimized } = *lines();
        let end = at.as_ptr() as usize + len;
        let mut line = at.as_ptr() as usize & !(size - 1);
        while line < end {
            // SAFETY: writes back a line of mapped memory; its content stays.
            unsafe {
                if optimized {
                    asm!("clflushopt [{}]", in(reg) line, options(nostack, preserves_flags));
                } else {
                    asm!("clflush [{}]", in(reg) line, options(nostack, preserves_flags));
                }
            }
            line += size;
        }
    }

    fn fence(&self) {
        // SAFETY: orders memory accesses and nothing else.
        unsafe { asm!("mfence", options(nostack, preserves_flags)) };
    }

    fn irq_save(&self) -> bool {
        irq_save()
    }

    fn irq_restore(&self, was: bool) {
        irq_restore(was);
    }

    fn now(&self) -> Nanos {
        time::now()
    }

    fn relax(&self, _unit: UnitId, _since: Nanos) {
        spin_loop();
    }

    fn wake(&self) {
        WOKEN.store(true, Ordering::Release);
    }

    fn cpu(&self) -> u32 {
        local::index() as u32
    }

    fn config_read(&self, d: DeviceId, at: u16) -> Result<u32, PlatformError> {
        ecam::read(d, at).ok_or(PlatformError)
    }

    fn config_write(&self, d: DeviceId, at: u16, v: u32) -> Result<(), PlatformError> {
        ecam::write(d, at, v).ok_or(PlatformError)
    }

    fn event(&self, unit: UnitId, e: Event) -> Result<Message, PlatformError> {
        let mut vectors = VECTORS.lock();
        let known = vectors.iter().find(|v| v.0 == unit && v.1 == e).map(|v| v.2);
        let vector = match known {
            Some(vector) => vector,
            None => {
                let number = match e {
                    Event::Fault => 0,
                    Event::Invalidation => 1,
                    Event::PageRequest => 2,
                };
                vectors.try_reserve(1).map_err(|_| PlatformError)?;
                let argument = usize::from(unit.0) << 2 | number;
                let vector = interrupts::allocate(deliver, argument).ok_or(PlatformError)?;
                vectors.push((unit, e, vector));
                vector
            }
        };
        Ok(interrupts::message(vector, 0))
    }

    fn peek(&self, at: Hpa) -> Option<u64> {
        // All memory is mapped at its own address, cached; device registers are not.
        let at = Some(at.get()).filter(|at| at.is_multiple_of(8) && *at < 1 << 47)?;
        paging::find(at).filter(|m| !m.flags.contains(PageTableFlags::NO_CACHE))?;
        // SAFETY: mapped memory, aligned; whoever else has it may write it, so it is read as an atomic.
        Some(unsafe { AtomicU64::from_ptr(at as *mut u64) }.load(Ordering::Acquire))
    }

    fn identity(&self) -> Identity {
        let dmar = acpi::tables().dmar.first().copied().unwrap_or(&[]);
        Identity {
            cpu: __cpuid(1).eax,
            oem: bytes(dmar, 10),
            oem_table: bytes(dmar, 16),
            host_bridge: ecam::read(DeviceId::new(0, 0, 0, 0), 0).unwrap_or(u32::MAX),
        }
    }
}

/// `N` bytes of a table from `at` on; zeros where it ends before.
fn bytes<const N: usize>(table: &[u8], at: usize) -> [u8; N] {
    table.get(at..at + N).and_then(|b| b.try_into().ok()).unwrap_or([0; N])
}
