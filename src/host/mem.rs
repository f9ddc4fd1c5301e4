//! The only way to memory (design rules 1, 3 and 9): frames as owned values, allocation that can fail, and the one
//! primitive through which everything is stored that hardware may read.
//!
//! All `unsafe` of the driver outside `platform` stands here. No safe function turns a caller's number into a pointer.

use super::address::Hpa;
use super::error::ErrorKind;
use super::platform::Platform;
use super::sync::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
use alloc::alloc::{Layout, alloc as heap_alloc, dealloc};
use core::marker::PhantomData;
use core::ops::Deref;
use core::ptr::NonNull;

/// Words in a frame of 4 KiB.
pub(crate) const WORDS: usize = 512;

/// Stores a word that hardware may read: a single aligned 64-bit store, after everything stored before it.
///
/// Every such store of the driver goes through here or through [`store_pair`].
#[inline(always)]
fn store(at: &AtomicU64, v: u64) {
    at.store(v, Ordering::Release);
}

/// `2^order` contiguous frames: a table, a ring, a log. Not given back unless `free` is called: what hardware may still
/// touch is better leaked than reused.
#[derive(Debug)]
pub(crate) struct Frames {
    at: NonNull<AtomicU64>,
    order: u8,
}

// SAFETY: the memory is exclusively owned and reached through atomics only.
unsafe impl Send for Frames {}
// SAFETY: as above.
unsafe impl Sync for Frames {}

impl Frames {
    pub(crate) fn alloc<P: Platform>(p: &P, order: u8, node: Option<u32>) -> Result<Self, ErrorKind> {
        let at = p.alloc(order, node).ok_or(ErrorKind::OutOfFrames)?;
        Ok(Frames { at: at.cast(), order })
    }

    pub(crate) fn free<P: Platform>(self, p: &P) {
        // SAFETY: owned, from `alloc` with this order, and `self` was the only way to it.
        unsafe { p.free(self.at.cast(), self.order) }
    }

    pub(crate) fn hpa<P: Platform>(&self, p: &P) -> Hpa {
        p.hpa(self.at.cast())
    }

    /// Number of 64-bit words.
    pub(crate) const fn len(&self) -> usize {
        WORDS << self.order
    }

    #[inline(always)]
    fn words(&self) -> &[AtomicU64] {
        // SAFETY: `alloc` gave this many bytes, zeroed and aligned; they live until `free` takes `self`.
        unsafe { core::slice::from_raw_parts(self.at.as_ptr(), self.len()) }
    }

    /// Reads word `i`; 0 beyond the end.
    #[inline(always)]
    pub(crate) fn get(&self, i: usize) -> u64 {
        self.words().get(i).map_or(0, |w| w.load(Ordering::Acquire))
    }

    /// Stores word `i`; nothing beyond the end.
    #[inline(always)]
    pub(crate) fn set(&self, i: usize, v: u64) {
        if let Some(w) = self.words().get(i) {
            store(w, v);
        }
    }

    /// The aligned 32-bit word `i` (of `2 * len()`), as a place that hardware writes a status to.
    pub(crate) fn status(&self, i: usize) -> Option<&AtomicU32> {
        if i >= self.len() * 2 {
            return None;
        }
        // SAFETY: within the frames and aligned; a status word is accessed as 32 bits only, by software and hardware.
        Some(unsafe { self.at.cast::<AtomicU32>().add(i).as_ref() })
    }

    /// Replaces the pair of words `i`, `i + 1` (`i` even) in one 128-bit store, so that hardware sees both or neither.
    pub(crate) fn set_pair(&self, i: usize, lo: u64, hi: u64) {
        if i % 2 == 0 && i + 1 < self.len() {
            // SAFETY: in bounds, and aligned to 16 because `i` is even and frames are aligned to pages.
            unsafe { store_pair(self.at.as_ptr().add(i), lo, hi) }
        }
    }

    /// Has the cache lines of `n` words from word `i` on leave the CPU's caches at the next fence.
    pub(crate) fn flush<P: Platform>(&self, p: &P, i: usize, n: usize) {
        if n != 0 && i.checked_add(n).is_some_and(|end| end <= self.len()) {
            // SAFETY: in bounds, see above.
            p.flush(unsafe { self.at.add(i) }.cast(), n * 8);
        }
    }
}

/// Replaces 16 aligned bytes at once.
///
/// # Safety
///
/// `at` is valid for 16 bytes, aligned to 16, and reached through atomics only.
unsafe fn store_pair(at: *mut AtomicU64, lo: u64, hi: u64) {
    fence(Ordering::Release);
    // SAFETY: the caller's promise; every x86-64 CPU with VT-d has cmpxchg16b. rbx is the compiler's, so it is swapped
    // in and out around the instruction.
    unsafe {
        let (mut old_lo, mut old_hi) = ((*at).load(Ordering::Relaxed), (*at.add(1)).load(Ordering::Relaxed));
        loop {
            let ok: u8;
            core::arch::asm!(
                "xchg {new_lo}, rbx",
                "lock cmpxchg16b [{at}]",
                "sete {ok}",
                "mov rbx, {new_lo}",
                at = in(reg) at,
                new_lo = inout(reg) lo => _,
                in("rcx") hi,
                inout("rax") old_lo,
                inout("rdx") old_hi,
                ok = out(reg_byte) ok,
                options(nostack),
            );
            if ok != 0 {
                return;
            }
        }
    }
}

/// A counted pointer whose making can fail, unlike `Arc`'s.
pub(crate) struct Shared<T> {
    at: NonNull<Counted<T>>,
    owns: PhantomData<Counted<T>>,
}

struct Counted<T> {
    count: AtomicUsize,
    value: T,
}

// SAFETY: as for `Arc`: the value is reached from several threads, and dropped on any.
unsafe impl<T: Send + Sync> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// Moves `value` to the heap; gives it back where the heap has ended.
    pub(crate) fn new(value: T) -> Result<Self, (T, ErrorKind)> {
        let layout = Layout::new::<Counted<T>>();
        // SAFETY: the layout has a size, for there is a count in it.
        let Some(at) = NonNull::new(unsafe { heap_alloc(layout) }) else {
            return Err((value, ErrorKind::OutOfMemory));
        };
        let at = at.cast::<Counted<T>>();
        // SAFETY: fresh memory of this layout.
        unsafe { at.write(Counted { count: AtomicUsize::new(1), value }) };
        Ok(Shared { at, owns: PhantomData })
    }

    fn counted(&self) -> &Counted<T> {
        // SAFETY: alive as long as one `Shared` is.
        unsafe { self.at.as_ref() }
    }

    /// Whether the two are one.
    pub(crate) fn same(a: &Self, b: &Self) -> bool {
        a.at == b.at
    }

    /// The value, where this is the last handle; the handle back otherwise.
    pub(crate) fn take(self) -> Result<T, Self> {
        if self.counted().count.compare_exchange(1, 0, Ordering::Acquire, Ordering::Relaxed).is_err() {
            return Err(self);
        }
        let at = self.at;
        core::mem::forget(self);
        // SAFETY: the count went from 1 to 0 in this handle, so nobody else has one; read once, then freed.
        unsafe {
            let value = at.read().value;
            dealloc(at.as_ptr().cast(), Layout::new::<Counted<T>>());
            Ok(value)
        }
    }

    /// How many handles there are, which may have changed when the caller looks at it.
    pub(crate) fn handles(&self) -> usize {
        self.counted().count.load(Ordering::Acquire)
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        self.counted().count.fetch_add(1, Ordering::Relaxed);
        Shared { at: self.at, owns: PhantomData }
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.counted().value
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        if self.counted().count.fetch_sub(1, Ordering::Release) == 1 {
            fence(Ordering::Acquire);
            // SAFETY: the last handle; dropped once, then freed.
            unsafe {
                self.at.drop_in_place();
                dealloc(self.at.as_ptr().cast(), Layout::new::<Counted<T>>());
            }
        }
    }
}
