//! The second-stage format (VT-d 3.7, 9.8): 3, 4 or 5 levels; rights in bits 1:0; present is what grants anything.

use super::format::{Access, Entry, Format, PageSizes};
use crate::host::address::Hpa;
use crate::host::mem::Links;
use crate::hw::pages::{ACCESSED, DIRTY, PAGE_SIZE, READ, SNOOP, SOFTWARE, WRITE};

/// The second-stage format as one domain uses it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SecondStage {
    levels: u8,
    sizes: PageSizes,
    leaf: u64,
    table: u64,
    live: bool,
}

impl SecondStage {
    /// `levels` 3, 4 or 5 (`None` for others); `sizes` as every unit of the domain has them; `force_snoop` only where
    /// every unit has ECAP.SC. With `dirty`, hardware writes accessed and dirty bits (SSADE); without `coherent` it
    /// cannot, and they are set from the start (an update in a walk that is not snooped is fault 7Ch).
    pub(crate) const fn new(
        levels: u8,
        sizes: PageSizes,
        force_snoop: bool,
        dirty: bool,
        coherent: bool,
    ) -> Option<Self> {
        if levels < 3 || levels > 5 {
            return None;
        }
        let preset = if coherent { 0 } else { ACCESSED };
        let leaf = preset | if coherent { 0 } else { DIRTY } | if force_snoop { SNOOP } else { 0 };
        Some(SecondStage { levels, sizes, leaf, table: READ | WRITE | preset, live: dirty && coherent })
    }

    /// Rights as bits 1:0, which is the order that `Access` has. Nothing but rights can be said.
    const fn rights(how: Access) -> Option<u64> {
        let bits = how.bits() as u64;
        if bits.wrapping_sub(1) < READ | WRITE { Some(bits) } else { None }
    }
}

impl Links for SecondStage {
    const MARK: u64 = SOFTWARE;
}

impl Format for SecondStage {
    const CANONICAL: bool = false;

    #[inline(always)]
    fn levels(&self) -> u8 {
        self.levels
    }

    #[inline(always)]
    fn sizes(&self) -> PageSizes {
        self.sizes
    }

    #[inline(always)]
    fn leaf(&self, to: Hpa, level: u8, how: Access) -> Option<u64> {
        let size = if self.sizes.large(level)? { PAGE_SIZE } else { 0 };
        Some(to.get() | Self::rights(how)? | self.leaf | size)
    }

    fn table(&self) -> u64 {
        self.table
    }

    #[inline(always)]
    fn read(&self, entry: u64, level: u8) -> Entry {
        if entry & (READ | WRITE) == 0 {
            Entry::Empty
        } else if level > 1 && entry & PAGE_SIZE == 0 {
            Entry::Table(Hpa::of_entry(entry))
        } else {
            Entry::Leaf {
                to: Hpa::of_entry(entry),
                how: Access::from_bits_truncate((entry & (READ | WRITE)) as u8),
                accessed: entry & ACCESSED != 0,
                dirty: entry & DIRTY != 0,
            }
        }
    }

    fn split(&self, leaf: u64, level: u8) -> u64 {
        if level > 2 { leaf } else { leaf & !PAGE_SIZE }
    }

    fn protect(&self, leaf: u64, how: Access) -> Option<u64> {
        Some(leaf & !(READ | WRITE) | Self::rights(how)?)
    }

    fn live(&self) -> bool {
        self.live
    }

    fn clean(&self, leaf: u64) -> u64 {
        leaf & !DIRTY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_those_of_the_specification() {
        let all = PageSizes::all();
        let f = SecondStage::new(4, all, true, false, true).unwrap();
        let at = Hpa::new(0x4000_0000).unwrap();
        let rw = Access::READ | Access::WRITE;
        assert_eq!(f.leaf(at, 1, rw), Some(0x4000_0803));
        assert_eq!(f.leaf(at, 2, Access::READ), Some(0x4000_0881));
        assert_eq!(f.leaf(at, 3, Access::WRITE), Some(0x4000_0882));
        assert_eq!(f.leaf(at, 4, rw), None);
        for how in [Access::empty(), rw | Access::PRIVILEGED, rw | Access::NO_EXECUTE, rw | Access::GLOBAL] {
            assert_eq!(f.leaf(at, 1, how), None);
        }
        assert_eq!(f.table(), 3);
        assert_eq!(f.split(0x4000_0f83, 3), 0x4000_0f83);
        assert_eq!(f.split(0x4000_0f83, 2), 0x4000_0f03);
        assert_eq!(f.protect(0x4000_0f83, Access::READ), Some(0x4000_0f81));
        assert_eq!(f.read(0x4000_0003, 2), Entry::Table(at));
        assert_eq!(f.read(0x4000_0000, 2), Entry::Empty);
        assert_eq!(f.read(0x4000_0182, 2), Entry::Leaf { to: at, how: Access::WRITE, accessed: true, dirty: false });
        // Page sizes that a unit lacks are reserved bits there; unsnooped tables have A and D preset.
        let f = SecondStage::new(3, PageSizes::empty(), false, false, false).unwrap();
        assert_eq!((f.leaf(at, 2, rw), f.leaf(at, 3, rw)), (None, None));
        assert_eq!((f.leaf(at, 1, rw), f.table()), (Some(0x4000_0303), 0x103));
        assert!(SecondStage::new(2, all, false, false, true).is_none());
        assert!(SecondStage::new(6, all, false, false, true).is_none());
    }
}
