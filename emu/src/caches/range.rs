//! Address ranges of invalidations, and which bits of an address are a tag (6.2.1, Tables 18, 19 and 22).

use crate::invalidation::Pages;

/// The widest input address has 57 bits. What stands above them is a sign, or was refused before any cache was asked.
const TAG: u64 = (1 << 57) - 1;

/// The bits of an address that tag an entry.
pub(super) fn tag(address: u64) -> u64 {
    address & TAG
}

/// Tags from `first` to `last`, a power of two of them, aligned to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Range {
    pub(super) first: u64,
    pub(super) last: u64,
}

impl Range {
    /// What a page-selective invalidation asks for. Address bits that AM masks are not looked at.
    pub(super) fn of(pages: &Pages) -> Self {
        let bits = 12 + u32::from(pages.order);
        if bits >= 57 {
            return Range { first: 0, last: TAG };
        }
        let first = tag(pages.address >> bits << bits);
        Range { first, last: first | ((1 << bits) - 1) }
    }
    /// Whether an aligned block of 2^`shift` bytes lies in it.
    pub(super) fn covers(&self, first: u64, shift: u8) -> bool {
        self.first <= first
            && (shift >= 57 || first | ((1 << shift) - 1) <= self.last)
            && (shift < 57 || self.last == TAG)
    }
    /// Whether it has an address in the same half of an aligned block.
    pub(super) fn touches(&self, first: u64, shift: u8) -> bool {
        let last = if shift >= 57 { TAG } else { first | ((1 << shift) - 1) };
        self.first <= last && first <= self.last
    }
}
