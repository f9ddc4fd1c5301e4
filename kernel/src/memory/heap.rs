//! The heap: crate `talc` on one contiguous run of frames. It can be told to fail, so that tests reach every place that
//! must live with the end of memory.

use crate::sync::IrqLock;
use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicI64, Ordering};
use talc::DefaultBinning;
use talc::base::Talc;
use talc::source::Manual;

struct Heap {
    talc: IrqLock<Talc<Manual, DefaultBinning>>,
    /// Allocations that still succeed; negative for no limit.
    budget: AtomicI64,
}

// SAFETY: `Talc` points into the claimed memory, which belongs to no CPU in particular; the lock keeps CPUs apart.
unsafe impl Sync for Heap {}

#[global_allocator]
static HEAP: Heap = Heap { talc: IrqLock::new(Talc::new(Manual)), budget: AtomicI64::new(-1) };

// SAFETY: allocations come from `talc`, which hands out what its caller asked for, or null.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !spend(&self.budget) {
            return null_mut();
        }
        // SAFETY: `GlobalAlloc`'s contract: the layout has a size.
        unsafe { self.talc.lock().allocate(layout) }.map_or(null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: `GlobalAlloc`'s contract: from `alloc`, with this layout.
        unsafe { self.talc.lock().deallocate(at, layout) }
    }
}

/// Gives the heap its memory.
///
/// # Safety
///
/// The memory is mapped, writable and belongs to nobody else, now and later.
pub unsafe fn claim(base: *mut u8, len: usize) {
    // SAFETY: the caller's promise.
    let _ = unsafe { HEAP.talc.lock().claim(base, len) };
}

/// Lets `n` more allocations succeed and then none; `None` takes the limit away. For tests.
pub fn limit(n: Option<u32>) {
    HEAP.budget.store(n.map_or(-1, i64::from), Ordering::Release);
}

/// Takes one from a budget, if something is left in it or it is unlimited (negative).
pub(super) fn spend(budget: &AtomicI64) -> bool {
    budget
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| match n {
            0 => None,
            n if n < 0 => Some(n),
            n => Some(n - 1),
        })
        .is_ok()
}
