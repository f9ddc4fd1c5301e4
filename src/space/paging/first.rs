//! The first-stage format (VT-d 3.6, 9.7): 4 or 5 levels, canonical addresses, a present bit, reads always granted.
//!
//! Nothing here depends on WPE or SRE: these stand in the PASID entry, and say whether supervisor requests pass and whether
//! a page without R/W stops their writes (3.6.1). User requests, which is all DMA that does not ask for privilege, obey U/S
//! and R/W in either case. Tables carry both at every level; the leaf alone decides.

use super::format::{Access, Entry, Format, PageSizes};
use crate::host::address::Hpa;
use crate::host::mem::Links;
use crate::hw::pages::first::{A, D, EA, G, NX, P, PS, RW, US};

/// The first-stage format as one domain uses it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FirstStage {
    levels: u8,
    sizes: PageSizes,
    leaf: u64,
    table: u64,
    live: bool,
}

impl FirstStage {
    /// `levels` 4, or 5 where every unit has CAP.FS5LP (`None` for others); `sizes` 2 MiB on all units, 1 GiB where every
    /// one has CAP.FS1GP. `coherent`: every unit snoops the walks (ECAP.SMPWCS, and PWSNP in the PASID entries), so that
    /// hardware can write accessed and dirty bits. Else they are set from the start, for an update in a walk that is not
    /// snooped is fault 90h (3.10); with them, where entries have EAFE, extended accessed.
    pub(crate) const fn new(levels: u8, sizes: PageSizes, coherent: bool, extended_accessed: bool) -> Option<Self> {
        if levels < 4 || levels > 5 {
            return None;
        }
        let accessed = match (coherent, extended_accessed) {
            (true, _) => 0,
            (false, false) => A,
            (false, true) => A | EA,
        };
        let leaf = if coherent { 0 } else { accessed | D };
        Some(FirstStage { levels, sizes, leaf, table: P | RW | US | accessed, live: coherent })
    }

    /// What a leaf says of rights; `None` where reads are not among them.
    #[inline(always)]
    const fn rights(how: Access) -> Option<u64> {
        const KNOWN: u8 =
            Access::all().bits() | Access::PRIVILEGED.bits() | Access::NO_EXECUTE.bits() | Access::GLOBAL.bits();
        if !how.contains(Access::READ) || how.bits() & !KNOWN != 0 {
            return None;
        }
        let mut bits = P | US;
        if how.contains(Access::WRITE) {
            bits |= RW;
        }
        if how.contains(Access::PRIVILEGED) {
            bits &= !US;
        }
        if how.contains(Access::NO_EXECUTE) {
            bits |= NX;
        }
        if how.contains(Access::GLOBAL) {
            bits |= G;
        }
        Some(bits)
    }

    /// The same read back.
    fn access(leaf: u64) -> Access {
        let mut how = Access::READ;
        for (bit, set, access) in
            [(RW, RW, Access::WRITE), (US, 0, Access::PRIVILEGED), (NX, NX, Access::NO_EXECUTE), (G, G, Access::GLOBAL)]
        {
            if leaf & bit == set {
                how |= access;
            }
        }
        how
    }
}

impl Links for FirstStage {
    /// Not 10, which is EA.
    const MARK: u64 = 1 << 11;
}

impl Format for FirstStage {
    const CANONICAL: bool = true;

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
        let size = if self.sizes.large(level)? { PS } else { 0 };
        Some(to.get() | Self::rights(how)? | self.leaf | size)
    }

    fn table(&self) -> u64 {
        self.table
    }

    #[inline(always)]
    fn read(&self, entry: u64, level: u8) -> Entry {
        if entry & P == 0 {
            Entry::Empty
        } else if level > 1 && entry & PS == 0 {
            Entry::Table(Hpa::of_entry(entry))
        } else {
            Entry::Leaf {
                to: Hpa::of_entry(entry),
                how: Self::access(entry),
                accessed: entry & A != 0,
                dirty: entry & D != 0,
            }
        }
    }

    fn split(&self, leaf: u64, level: u8) -> u64 {
        if level > 2 { leaf } else { leaf & !PS }
    }

    fn protect(&self, leaf: u64, how: Access) -> Option<u64> {
        Some(leaf & !(P | RW | US | NX | G) | Self::rights(how)?)
    }

    fn live(&self) -> bool {
        self.live
    }

    fn clean(&self, leaf: u64) -> u64 {
        leaf & !D
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RWX: Access = Access::all();

    fn at() -> Hpa {
        Hpa::new(0x4000_0000).unwrap()
    }

    #[test]
    fn entries_are_those_of_the_specification() {
        let f = FirstStage::new(4, PageSizes::all(), true, false).unwrap();
        assert_eq!(f.leaf(at(), 1, RWX), Some(0x4000_0007));
        assert_eq!(f.leaf(at(), 2, Access::READ), Some(0x4000_0085));
        assert_eq!(f.leaf(at(), 3, RWX), Some(0x4000_0087));
        assert_eq!(f.leaf(at(), 4, RWX), None);
        assert_eq!(f.leaf(at(), 1, Access::READ | Access::PRIVILEGED), Some(0x4000_0001));
        assert_eq!(f.leaf(at(), 1, RWX | Access::PRIVILEGED), Some(0x4000_0003));
        assert_eq!(f.leaf(at(), 1, RWX | Access::GLOBAL), Some(0x4000_0107));
        assert_eq!(f.leaf(at(), 1, Access::READ | Access::NO_EXECUTE), Some(1 << 63 | 0x4000_0005));
        assert_eq!((f.table(), f.live()), (7, true));
        assert_eq!(f.split(0x4000_0fe7, 3), 0x4000_0fe7);
        assert_eq!(f.split(0x4000_0fe7, 2), 0x4000_0f67);
        assert_eq!(f.protect(0x4000_0fe7, Access::READ), Some(0x4000_0ee5));
        assert_eq!(f.protect(0x4000_0065, RWX | Access::PRIVILEGED), Some(0x4000_0063));
        assert_eq!(f.clean(0x4000_00e7), 0x4000_00a7);
        assert_eq!(f.read(0x4000_0827, 2), Entry::Table(at()));
        assert_eq!(f.read(0x4000_0006, 2), Entry::Empty);
        assert_eq!(f.read(0x4000_00a5, 2), Entry::Leaf { to: at(), how: Access::READ, accessed: true, dirty: false });
        let how = RWX | Access::PRIVILEGED | Access::GLOBAL | Access::NO_EXECUTE;
        assert_eq!(f.read(1 << 63 | 0x4000_0143, 1), Entry::Leaf { to: at(), how, accessed: false, dirty: true });
    }

    /// There is no right to write without one to read, and none to nothing.
    #[test]
    fn what_cannot_be_said_is_refused() {
        let f = FirstStage::new(5, PageSizes::empty(), true, false).unwrap();
        for how in [Access::WRITE, Access::empty(), Access::PRIVILEGED, RWX | Access::from_bits_retain(0x20)] {
            assert_eq!((f.leaf(at(), 1, how), f.protect(0x4000_0007, how)), (None, None), "{how:?}");
        }
        assert_eq!((f.leaf(at(), 2, RWX), f.leaf(at(), 3, RWX)), (None, None));
        assert!([3, 6].iter().all(|l| FirstStage::new(*l, PageSizes::all(), true, false).is_none()));
    }

    /// In tables whose walks are not snooped hardware could not set the marks (fault 90h).
    #[test]
    fn unsnooped_tables_have_their_marks_set() {
        let f = FirstStage::new(4, PageSizes::all(), false, false).unwrap();
        assert_eq!((f.leaf(at(), 1, RWX), f.table(), f.live()), (Some(0x4000_0067), 0x27, false));
        let f = FirstStage::new(4, PageSizes::all(), false, true).unwrap();
        assert_eq!((f.leaf(at(), 2, Access::READ), f.table()), (Some(0x4000_04e5), 0x427));
        let f = FirstStage::new(4, PageSizes::all(), true, true).unwrap();
        assert_eq!((f.leaf(at(), 1, RWX), f.table()), (Some(0x4000_0007), 7));
    }
}
