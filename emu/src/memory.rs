//! Physical memory, which belongs to the embedder.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;

/// Memory that the unit and its devices reach. Addresses are physical and aligned to the access; `None` says that there is
/// no memory there.
pub trait Memory {
    /// Reads 64 bits.
    fn read64(&self, at: u64) -> Option<u64>;
    /// Writes 64 bits.
    fn write64(&mut self, at: u64, v: u64) -> Option<()>;
    /// Writes 32 bits.
    fn write32(&mut self, at: u64, v: u32) -> Option<()>;
    /// Stores `new` where `old` stands, in one step; says what stood there.
    fn compare_exchange64(&mut self, at: u64, old: u64, new: u64) -> Option<u64>;
    /// Reads 128 aligned bits in one step, low half first, as hardware reads an entry (9.1). An embedder whose CPUs run at the
    /// same time must see to it that the halves belong together.
    fn read128(&self, at: u64) -> Option<[u64; 2]> {
        Some([self.read64(at)?, self.read64(at + 8)?])
    }
}

const PAGE: u64 = 4096;

/// Memory of its own, zero until written: for tests without a driver, and for differential runs.
#[derive(Clone, Default, Debug)]
pub struct Ram {
    end: u64,
    pages: BTreeMap<u64, Box<[u64; 512]>>,
}

impl Ram {
    /// Memory from 0 up to `end`.
    pub fn new(end: u64) -> Self {
        Ram { end, pages: BTreeMap::new() }
    }
    /// Zeroes everything.
    pub fn clear(&mut self) {
        self.pages.clear();
    }
    fn has(&self, at: u64, size: u64) -> bool {
        at.is_multiple_of(size) && at.checked_add(size).is_some_and(|end| end <= self.end)
    }
    fn word(&mut self, at: u64) -> &mut u64 {
        &mut self.pages.entry(at & !(PAGE - 1)).or_insert_with(|| Box::new([0; 512]))[(at % PAGE / 8) as usize]
    }
}

impl Memory for Ram {
    fn read64(&self, at: u64) -> Option<u64> {
        self.has(at, 8).then(|| self.pages.get(&(at & !(PAGE - 1))).map_or(0, |p| p[(at % PAGE / 8) as usize]))
    }
    fn write64(&mut self, at: u64, v: u64) -> Option<()> {
        self.has(at, 8).then(|| *self.word(at) = v)
    }
    fn write32(&mut self, at: u64, v: u32) -> Option<()> {
        if !self.has(at, 4) {
            return None;
        }
        let shift = at % 8 * 8;
        let word = self.word(at & !7);
        *word = *word & !(0xffff_ffff << shift) | u64::from(v) << shift;
        Some(())
    }
    fn compare_exchange64(&mut self, at: u64, old: u64, new: u64) -> Option<u64> {
        if !self.has(at, 8) {
            return None;
        }
        let word = self.word(at);
        let was = *word;
        if was == old {
            *word = new;
        }
        Some(was)
    }
}
