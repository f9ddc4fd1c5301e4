//! Page-table entries of both stages. VT-d 3.6, 3.7 (walks), 9.7 (first stage), 9.8 (second stage).
//!
//! Levels count from the leaves: level 1 maps 4 KiB pages, level 2 maps 2 MiB, level 3 maps 1 GiB; the top table of a
//! 48-bit space is of level 4.

/// Index bits of a level.
const INDEX_BITS: u32 = 9;
/// Bits of the offset in the smallest page.
const PAGE_BITS: u32 = 12;

/// Entries in a table.
pub const ENTRIES: usize = 1 << INDEX_BITS;

/// The highest level there is.
pub const MAX_LEVEL: u8 = 5;

/// The highest level whose entries can be leaves (1 GiB).
pub const MAX_LEAF_LEVEL: u8 = 3;

/// Bits 51:12 of an entry: the address of a table or of a 4 KiB page.
pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Bits of an address below the index of `level`: 12, 21, 30, 39, 48.
pub const fn shift(level: u8) -> u32 {
    PAGE_BITS + INDEX_BITS * (level.saturating_sub(1) as u32)
}

/// Bytes that an entry of `level` maps: 4 KiB, 2 MiB, 1 GiB, ...
pub const fn size(level: u8) -> u64 {
    1u64.wrapping_shl(shift(level))
}

/// Index of `address` in a table of `level`, below [`ENTRIES`].
pub const fn index(address: u64, level: u8) -> usize {
    (address.wrapping_shr(shift(level)) as usize) & (ENTRIES - 1)
}

/// Levels of tables that take addresses of `bits` bits.
pub const fn levels_of_width(bits: u8) -> Option<u8> {
    match bits {
        39 => Some(3),
        48 => Some(4),
        57 => Some(5),
        _ => None,
    }
}

/// Bits of the addresses that `levels` of tables take.
pub const fn width_of_levels(levels: u8) -> Option<u8> {
    match levels {
        3 => Some(39),
        4 => Some(48),
        5 => Some(57),
        _ => None,
    }
}

/// Bits of the page address in a leaf of `level`; those below it are reserved in large leaves.
pub const fn leaf_address(level: u8) -> u64 {
    ADDRESS & !(size(level).wrapping_sub(1))
}

/// Second stage: reads are permitted. An entry is present if reads or writes are.
pub const READ: u64 = 1 << 0;
/// Second stage: writes are permitted.
pub const WRITE: u64 = 1 << 1;
/// Second stage: any of these makes an entry present.
pub const PRESENT: u64 = READ | WRITE;
/// EPT alone: execution is permitted. Ignored by the second stage of today.
pub const EXECUTE: u64 = 1 << 2;
/// Second stage: lowest bit of the leaf's memory type.
pub const MEMORY_TYPE_SHIFT: u32 = 3;
/// Second stage: the leaf's memory type, EMT; used with EMTE only.
pub const MEMORY_TYPE: u64 = 0b111 << MEMORY_TYPE_SHIFT;
/// Second stage: the first stage's memory type is ignored, IPAT (leaf, nested).
pub const IGNORE_PAT: u64 = 1 << 6;
/// Second stage: in entries of levels 2 and 3, a page, not a table. Reserved above, ignored in level 1.
pub const PAGE_SIZE: u64 = 1 << 7;
/// Second stage: accessed; written by hardware with SSADE only.
pub const ACCESSED: u64 = 1 << 8;
/// Second stage: dirty, in leaves; written by hardware with SSADE only.
pub const DIRTY: u64 = 1 << 9;
/// Second stage: ignored by hardware in non-leaf entries and in leaves.
pub const SOFTWARE: u64 = 1 << 10;
/// Second stage: in leaves, every access snoops. Reserved without ECAP.SC.
pub const SNOOP: u64 = 1 << 11;
/// Second stage: more bits that hardware ignores, 60:52 and 63.
pub const SOFTWARE_HIGH: u64 = 0x1ff << 52 | 1 << 63;
/// Second stage: reads of I/O are permitted, with RTADDR.SSIRWE; ignored without.
pub const IO_READ: u64 = 1 << 61;
/// Second stage: writes of I/O are permitted, with RTADDR.SSIRWE; reserved without.
pub const IO_WRITE: u64 = 1 << 62;

/// First-stage entries: those of a 64-bit CPU in IA-32e paging. VT-d 9.7; walks and rights 3.6, 3.6.1; marks 3.6.2.
pub mod first {
    /// Present. Grants reads; there is no page for writes alone.
    pub const P: u64 = 1 << 0;
    /// Writes allowed, at every level: for user requests always, for supervisor requests with WPE. 3.6.1.
    pub const RW: u64 = 1 << 1;
    /// User requests allowed, at every level: DMA is user's unless a device asks otherwise. 3.6.1.
    pub const US: u64 = 1 << 2;
    /// Memory type, with PCD and PAT the index of a PAT slot (leaf; ECAP.MTS). 3.11.1.
    pub const PWT: u64 = 1 << 3;
    /// Memory type (leaf; ECAP.MTS). 3.11.1.
    pub const PCD: u64 = 1 << 4;
    /// Accessed; hardware always sets it. 3.6.2.
    pub const A: u64 = 1 << 5;
    /// Dirty (leaf); hardware always sets it. 3.6.2.
    pub const D: u64 = 1 << 6;
    /// Leaf of 2 MiB (level 2) or 1 GiB (level 3, CAP.FS1GP). Must be 0 above.
    pub const PS: u64 = 1 << 7;
    /// Memory type in a 4 KiB leaf.
    pub const PAT_4K: u64 = 1 << 7;
    /// Global (leaf): a CPU's; remapping hardware ignores it.
    pub const G: u64 = 1 << 8;
    /// Extended accessed: with EAFE hardware sets it together with A; ignored without. 3.6.2.
    pub const EA: u64 = 1 << 10;
    /// Memory type in a larger leaf.
    pub const PAT_LARGE: u64 = 1 << 12;
    /// Bits that hardware ignores in every entry, and a CPU too: 9, 11 and 62:52 (a CPU with protection keys: 58:52).
    pub const SOFTWARE: u64 = 1 << 9 | 1 << 11 | 0x7ff << 52;
    /// No execution: a CPU's, and of remapping hardware up to revision 3.3 with NXE; later hardware ignores it.
    pub const NX: u64 = 1 << 63;

    /// Bits of addresses that `levels` of tables translate, the sign at their top included; levels 4 and 5 only.
    pub const fn width_of_levels(levels: u8) -> Option<u8> {
        match levels {
            4 => Some(48),
            5 => Some(57),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_indices() {
        assert_eq!([1, 2, 3, 4, 5].map(shift), [12, 21, 30, 39, 48]);
        assert_eq!([1, 2, 3].map(size), [0x1000, 0x20_0000, 0x4000_0000]);
        // Five indices of their own and an offset.
        let address = 1 << 48 | 2 << 39 | 3 << 30 | 4 << 21 | 5 << 12 | 0xfff;
        assert_eq!([5, 4, 3, 2, 1].map(|level| index(address, level)), [1, 2, 3, 4, 5]);
        assert_eq!([1, 5].map(|level| index(u64::MAX, level)), [511, 511]);
        assert_eq!(ENTRIES, 512);
    }

    #[test]
    fn widths() {
        for (levels, width) in [(3, 39), (4, 48), (5, 57)] {
            assert_eq!((levels_of_width(width), width_of_levels(levels)), (Some(levels), Some(width)));
        }
        assert_eq!((levels_of_width(30), width_of_levels(2), width_of_levels(6)), (None, None, None));
    }

    #[test]
    fn leaf_addresses() {
        assert_eq!(leaf_address(1), 0x000f_ffff_ffff_f000);
        assert_eq!(leaf_address(2), 0x000f_ffff_ffe0_0000);
        assert_eq!(leaf_address(3), 0x000f_ffff_c000_0000);
    }

    /// No bit has two meanings, and none is left over.
    #[test]
    fn second_stage_bits_are_disjoint() {
        let fields = [
            READ,
            WRITE,
            EXECUTE,
            MEMORY_TYPE,
            IGNORE_PAT,
            PAGE_SIZE,
            ACCESSED,
            DIRTY,
            SOFTWARE,
            SNOOP,
            ADDRESS,
            SOFTWARE_HIGH,
            IO_READ,
            IO_WRITE,
        ];
        let mut seen = 0;
        for field in fields {
            assert_eq!(seen & field, 0);
            seen |= field;
        }
        assert_eq!(!seen, 0);
        assert_eq!((SNOOP, IO_READ, IO_WRITE), (0x800, 1 << 61, 1 << 62));
    }

    #[test]
    fn first_stage_bits_are_those_of_the_cpu() {
        use first::*;
        assert_eq!([P, RW, US, PWT, PCD, A, D, PS].map(u64::trailing_zeros), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!((PAT_4K, PAT_LARGE, EA), (PS, 0x1000, 0x400));
        assert_eq!(SOFTWARE & (ADDRESS | NX | EA | G | PS | D | A | PCD | PWT | US | RW | P), 0);
        // Nothing is left over.
        assert_eq!(SOFTWARE | ADDRESS | NX | EA | G | PS | D | A | PCD | PWT | US | RW | P, u64::MAX);
        assert_eq!(SOFTWARE.count_ones(), 13);
        assert_eq!([3, 4, 5, 6].map(first::width_of_levels), [None, Some(48), Some(57), None]);
    }
}
