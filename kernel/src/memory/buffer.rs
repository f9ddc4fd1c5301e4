//! Memory that devices read and write, looked at through volatile accesses.

use super::frames;
use core::ptr::NonNull;
use vtd::{Hpa, PAGE};

/// A run of frames, given back when dropped: after every device has lost it.
pub struct Buffer {
    at: NonNull<u8>,
    order: u8,
}

impl Buffer {
    /// `2^order` frames, zeroed, aligned to their size.
    pub fn new(order: u8) -> Option<Buffer> {
        frames::alloc(order).map(|at| Buffer { at, order })
    }

    /// The physical address.
    pub fn hpa(&self) -> Hpa {
        frames::hpa(self.at)
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        PAGE << self.order
    }

    fn word(&self, at: u64) -> *mut u32 {
        assert!(at.is_multiple_of(4) && at < self.len(), "no such word: {at:#x}");
        // SAFETY: within the run.
        unsafe { self.at.as_ptr().add(at as usize).cast() }
    }

    /// The word at `at`.
    pub fn read(&self, at: u64) -> u32 {
        // SAFETY: within the run, which lives as long as `self`; devices may change it at any time.
        unsafe { self.word(at).read_volatile() }
    }

    /// Stores the word at `at`.
    pub fn write(&self, at: u64, v: u32) {
        // SAFETY: as above.
        unsafe { self.word(at).write_volatile(v) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: from `alloc` with this order, and given back once.
        unsafe { frames::free(self.at, self.order) }
    }
}
