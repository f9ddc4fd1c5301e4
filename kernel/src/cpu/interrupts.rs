//! Interrupt vectors: handed out with a handler, taken back, counted.

use super::{apic, local};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use vtd::Message;

/// The first vector that is handed out: those below are exceptions and the old interrupt controllers' share.
const FIRST: usize = 0x30;
/// Wakes a CPU from its halt.
pub const WAKE: u8 = 0xf0;
/// The local APIC's answer when an interrupt vanished; needs no end of interrupt.
pub const SPURIOUS: u8 = 0xff;

/// What a vector calls. Runs with interrupts masked, on the CPU that the message named.
pub type Handler = fn(usize);

struct Slot {
    /// A `Handler`, or 0 where the vector is free.
    handler: AtomicUsize,
    argument: AtomicUsize,
    count: AtomicU64,
}

static SLOTS: [Slot; 256] =
    [const { Slot { handler: AtomicUsize::new(0), argument: AtomicUsize::new(0), count: AtomicU64::new(0) } }; 256];

/// In a slot whose vector is taken but not ready.
const TAKEN: usize = 1;

/// Interrupts on vectors that nobody has.
static STRAY: AtomicU64 = AtomicU64::new(0);

/// A vector of its own for `handler`, which is called with `argument`; `None` where all are taken.
pub fn allocate(handler: Handler, argument: usize) -> Option<u8> {
    let vector = (FIRST..usize::from(WAKE))
        .find(|&v| SLOTS[v].handler.compare_exchange(0, TAKEN, Ordering::AcqRel, Ordering::Relaxed).is_ok())?;
    let slot = &SLOTS[vector];
    slot.argument.store(argument, Ordering::Relaxed);
    slot.count.store(0, Ordering::Relaxed);
    slot.handler.store(handler as usize, Ordering::Release);
    Some(vector as u8)
}

/// Takes a vector back, whose sender has been silenced.
pub fn release(vector: u8) {
    SLOTS[usize::from(vector)].handler.store(0, Ordering::Release);
}

/// How often the vector has come since it was handed out.
pub fn count(vector: u8) -> u64 {
    SLOTS[usize::from(vector)].count.load(Ordering::Acquire)
}

/// Interrupts that nobody waited for.
pub fn stray() -> u64 {
    STRAY.load(Ordering::Relaxed)
}

/// The message that raises `vector` on CPU `cpu` (edge-triggered, fixed). Ids above 255 need interrupt remapping.
pub fn message(vector: u8, cpu: usize) -> Message {
    let id = u64::from(local::get(cpu).apic_id.load(Ordering::Acquire));
    Message { address: 0xfee0_0000 | (id & 0xff) << 12 | (id >> 8) << 40, data: u32::from(vector) }
}

/// Every vector from 32 on comes here.
pub fn handle(vector: u8) {
    if vector == SPURIOUS {
        return;
    }
    let slot = &SLOTS[usize::from(vector)];
    slot.count.fetch_add(1, Ordering::AcqRel);
    match slot.handler.load(Ordering::Acquire) {
        0 | TAKEN if vector != WAKE => {
            STRAY.fetch_add(1, Ordering::Relaxed);
        }
        0 | TAKEN => {}
        handler => {
            // SAFETY: only `allocate` stores anything else than 0 and `TAKEN`, and it stores a `Handler`.
            let handler: Handler = unsafe { core::mem::transmute(handler) };
            handler(slot.argument.load(Ordering::Relaxed));
        }
    }
    apic::end_of_interrupt();
}
