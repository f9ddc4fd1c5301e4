//! Frames that a device or the unit reads and writes beside the CPU.

use crate::memory::frames;
use crate::platform::KernelPlatform;
use crate::testing::Failure;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use vtd::{PAGE, Platform};

/// A run of frames: zeroed, given back when it is dropped.
pub struct Frame {
    at: NonNull<AtomicU64>,
    order: u8,
    /// Never to be given back.
    lost: bool,
}

impl Frame {
    /// One frame.
    pub fn new() -> Result<Self, Failure> {
        Self::run(0)
    }

    /// `2^order` frames.
    pub fn run(order: u8) -> Result<Self, Failure> {
        let at = frames::alloc(order).ok_or("no frames")?;
        // The zeros too have to be where the unit reads.
        KernelPlatform.flush(at, (PAGE as usize) << order);
        KernelPlatform.fence();
        Ok(Frame { at: at.cast(), order, lost: false })
    }

    /// Its physical address.
    pub fn address(&self) -> u64 {
        frames::hpa(self.at.cast()).get()
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: this many bytes, aligned and initialized, are ours until `drop`; whoever else writes them does so as
        // hardware does.
        unsafe { core::slice::from_raw_parts(self.at.as_ptr(), (PAGE as usize / 8) << self.order) }
    }

    /// Word `i`.
    pub fn get(&self, i: usize) -> u64 {
        self.words()[i].load(Ordering::Acquire)
    }

    /// Stores word `i` where the unit sees it, whether it snoops or not.
    pub fn set(&self, i: usize, v: u64) {
        self.words()[i].store(v, Ordering::Release);
        // SAFETY: `i` is within the run, as the line above has checked.
        KernelPlatform.flush(unsafe { self.at.add(i) }.cast(), 8);
        KernelPlatform.fence();
    }

    /// Stores all words.
    pub fn fill(&self, v: u64) {
        self.words().iter().for_each(|w| w.store(v, Ordering::Release));
    }

    /// Gives the memory up: hardware may go on using it.
    pub fn lose(&mut self) {
        self.lost = true;
    }

    /// How many words from the first on are `v`, and whether all behind them are `rest`.
    pub fn prefix(&self, v: u64, rest: u64) -> (usize, bool) {
        let n = self.words().iter().take_while(|w| w.load(Ordering::Acquire) == v).count();
        (n, self.words()[n..].iter().all(|w| w.load(Ordering::Acquire) == rest))
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        if !self.lost {
            // SAFETY: from `alloc` with this order; whoever drops a frame has taken it out of the unit's sight.
            unsafe { frames::free(self.at.cast(), self.order) }
        }
    }
}
