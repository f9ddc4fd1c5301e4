//! Physical memory of a machine for tests: one piece of the heap that stands for the addresses from [`BASE`] on, handed out in
//! frames, and reached by the driver through pointers and by the emulated units and devices through [`Memory`].

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use vtd_emu::Memory;

/// The first address: low enough for every unit's address width, and not zero.
pub const BASE: u64 = 16 << 20;
/// How much memory there is.
pub const SIZE: u64 = 32 << 20;
const PAGE: usize = 4096;

/// The memory and who has which frame.
pub struct Arena {
    block: NonNull<u8>,
    /// The first whole largest block within `block`.
    start: usize,
    frames: Mutex<Frames>,
}

// SAFETY: the memory is reached through atomics only; the rest is behind a lock.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

/// Free and used frames, by offset.
struct Frames {
    free: [Vec<usize>; 14],
    used: BTreeMap<usize, u8>,
}

const LAYOUT: Layout = match Layout::from_size_align(2 * SIZE as usize, 16) {
    Ok(l) => l,
    Err(_) => panic!(),
};

impl Arena {
    pub fn new() -> Self {
        // SAFETY: the layout has a size.
        let block = NonNull::new(unsafe { alloc_zeroed(LAYOUT) }).expect("memory for a test");
        let start = (block.as_ptr() as usize).next_multiple_of(SIZE as usize);
        let mut free = [const { Vec::new() }; 14];
        free[13].push(0);
        assert_eq!(PAGE << 13, SIZE as usize);
        Arena { block, start, frames: Mutex::new(Frames { free, used: BTreeMap::new() }) }
    }

    fn frames(&self) -> MutexGuard<'_, Frames> {
        self.frames.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// `2^order` frames, zeroed and aligned to their size.
    pub fn alloc(&self, order: u8) -> Option<NonNull<u8>> {
        let order = usize::from(order);
        let mut f = self.frames();
        let found = (order..f.free.len()).find(|o| !f.free[*o].is_empty())?;
        let at = f.free[found].pop()?;
        for half in (order..found).rev() {
            f.free[half].push(at + (PAGE << half));
        }
        f.used.insert(at, order as u8);
        drop(f);
        (0..PAGE << order).step_by(8).for_each(|i| self.word(at + i).store(0, Ordering::Relaxed));
        NonNull::new((self.start + at) as *mut u8)
    }

    /// Takes frames back.
    pub fn free(&self, at: NonNull<u8>, order: u8) {
        let offset = at.as_ptr() as usize - self.start;
        let mut f = self.frames();
        assert_eq!(f.used.remove(&offset), Some(order), "freed twice, or never allocated");
        f.free[usize::from(order)].push(offset);
    }

    /// How many frames of 4 KiB are out.
    pub fn used(&self) -> u64 {
        self.frames().used.values().map(|order| 1 << order).sum()
    }

    pub fn hpa(&self, at: usize) -> u64 {
        let offset = at - self.start;
        assert!(offset < SIZE as usize, "{at:#x} is no memory of this machine");
        offset as u64 + BASE
    }

    pub fn ptr(&self, at: u64) -> NonNull<u8> {
        let offset = at - BASE;
        assert!(offset < SIZE, "{at:#x} is no memory of this machine");
        NonNull::new((self.start as u64 + offset) as *mut u8).expect("not at 0")
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset < SIZE as usize && offset.is_multiple_of(8));
        // SAFETY: within the block, aligned, and reached through atomics only.
        unsafe { AtomicU64::from_ptr((self.start + offset) as *mut u64) }
    }

    fn at(&self, at: u64) -> Option<&AtomicU64> {
        let offset = at.checked_sub(BASE).filter(|o| *o < SIZE && o.is_multiple_of(8))?;
        Some(self.word(offset as usize))
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: from `alloc_zeroed` with this layout; nobody has the arena any more.
        unsafe { dealloc(self.block.as_ptr(), LAYOUT) }
    }
}

/// The memory as units and devices reach it.
#[derive(Clone)]
pub struct Physical(pub Arc<Arena>);

impl std::fmt::Debug for Physical {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Physical")
    }
}

impl Memory for Physical {
    fn read64(&self, at: u64) -> Option<u64> {
        Some(self.0.at(at)?.load(Ordering::Acquire))
    }

    fn write64(&mut self, at: u64, v: u64) -> Option<()> {
        self.0.at(at)?.store(v, Ordering::Release);
        Some(())
    }

    fn write32(&mut self, at: u64, v: u32) -> Option<()> {
        self.0.at(at & !7).filter(|_| at.is_multiple_of(4))?;
        // SAFETY: within the arena and aligned; the driver reaches such words as 32 bits only.
        unsafe { AtomicU32::from_ptr(self.0.ptr(at).cast().as_ptr()) }.store(v, Ordering::Release);
        Some(())
    }

    fn compare_exchange64(&mut self, at: u64, old: u64, new: u64) -> Option<u64> {
        let outcome = self.0.at(at)?.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire);
        Some(outcome.unwrap_or_else(|was| was))
    }

    /// Both halves at once, as the driver's threads store them.
    fn read128(&self, at: u64) -> Option<[u64; 2]> {
        self.0.at(at).zip(self.0.at(at.wrapping_add(8))).filter(|_| at.is_multiple_of(16))?;
        let (mut lo, mut hi) = (0u64, 0u64);
        // SAFETY: in the arena and aligned to 16. The comparison with zero fails, or stores the zero that is there. rbx cannot
        // be named as an operand, so it is swapped in and out.
        unsafe {
            core::arch::asm!(
                "xchg {b}, rbx",
                "lock cmpxchg16b [rdi]",
                "mov rbx, {b}",
                in("rdi") self.0.ptr(at).as_ptr(),
                b = inout(reg) 0u64 => _,
                in("rcx") 0u64,
                inout("rax") lo,
                inout("rdx") hi,
                options(nostack),
            );
        }
        let _ = (&mut lo, &mut hi);
        Some([lo, hi])
    }
}
