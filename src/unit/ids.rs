//! Domain ids of one unit (VT-d 3.4.3, 6.2.1): a bitmap in frames, the lowest free id first.
//!
//! Id 0 is never used (with CM=1 it tags cached faulting entries); id 1 belongs to pass-through alone.

use crate::host::error::ErrorKind;
use crate::host::mem::{Frames, WORDS};
use crate::host::platform::Platform;

/// The id of all pass-through entries.
pub(crate) const PASS_THROUGH: u16 = 1;

/// Which ids are in use.
pub(crate) struct DomainIds {
    used: Frames,
    /// Number of ids that the unit has, a power of two between 16 and 65536.
    count: u32,
    /// No word before this one has a free id.
    hint: usize,
}

impl DomainIds {
    pub(crate) fn new<P: Platform>(p: &P, count: u32, node: Option<u32>) -> Result<Self, ErrorKind> {
        let order = if count as usize > WORDS * 64 { 1 } else { 0 };
        let used = Frames::alloc(p, order, node)?;
        used.keep(0, 0b11);
        Ok(DomainIds { used, count: count.clamp(16, 0x1_0000), hint: 0 })
    }

    pub(crate) fn alloc(&mut self) -> Result<u16, ErrorKind> {
        let words = (self.count as usize).div_ceil(64);
        for i in self.hint..words {
            let word = self.used.get(i);
            let bit = word.trailing_ones();
            let id = (i as u32) * 64 + bit;
            if bit < 64 && id < self.count {
                self.used.keep(i, word | 1 << bit);
                self.hint = i;
                return Ok(id as u16);
            }
        }
        self.hint = words;
        Err(ErrorKind::OutOfDomainIds)
    }

    /// Takes an id out of use that a predecessor's tables name.
    pub(crate) fn take(&mut self, id: u16) {
        if u32::from(id) < self.count {
            let i = usize::from(id) / 64;
            self.used.keep(i, self.used.get(i) | 1 << (id % 64));
        }
    }

    /// Gives an id back whose last trace has left all caches.
    pub(crate) fn free(&mut self, id: u16) {
        let (i, bit) = (usize::from(id) / 64, id % 64);
        if id > PASS_THROUGH {
            self.used.keep(i, self.used.get(i) & !(1 << bit));
            self.hint = self.hint.min(i);
        }
    }

    pub(crate) fn release<P: Platform>(self, p: &P) {
        self.used.free(p);
    }
}
