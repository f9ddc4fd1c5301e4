//! Memory that devices read and write: frames that give themselves back, looked at one word at a time as they stand now.

use super::frames;
use core::ptr::NonNull;
use vtd::{Hpa, PAGE};

/// `2^order` frames, zeroed.
pub struct Buffer {
    at: NonNull<u8>,
    order: u8,
}

// SAFETY: the frames belong to the value, and its words are read and written whole, by whichever CPU.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// `None` where frames have run out.
    pub fn new(order: u8) -> Option<Self> {
        frames::alloc(order).map(|at| Buffer { at, order })
    }

    /// Where it is in memory.
    pub fn hpa(&self) -> Hpa {
        frames::hpa(self.at)
    }

    /// Words of 32 bits in it.
    pub fn words(&self) -> usize {
        (PAGE as usize / 4) << self.order
    }

    /// Word `i` as it is now.
    pub fn get(&self, i: usize) -> u32 {
        assert!(i < self.words());
        // SAFETY: within the frames, which are ours; a device may write meanwhile, so the compiler assumes nothing.
        unsafe { self.at.cast::<u32>().add(i).read_volatile() }
    }

    /// Stores word `i`.
    pub fn set(&self, i: usize, v: u32) {
        assert!(i < self.words());
        // SAFETY: as above.
        unsafe { self.at.cast::<u32>().add(i).write_volatile(v) }
    }

    /// Stores `f` of its number in every word.
    pub fn fill(&self, f: impl Fn(usize) -> u32) {
        (0..self.words()).for_each(|i| self.set(i, f(i)));
    }

    /// The first word that is not `f` of its number.
    pub fn first_other(&self, f: impl Fn(usize) -> u32) -> Option<usize> {
        (0..self.words()).find(|&i| self.get(i) != f(i))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: from `alloc`, and no reference into the frames is ever given out. Keeping devices away is the
        // owner's part: by an unmap that is flushed, or a transfer that has ended.
        unsafe { frames::free(self.at, self.order) }
    }
}
