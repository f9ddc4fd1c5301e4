//! What the engine wants to know of a page-table format, and the words for rights and page sizes.

use crate::host::address::Hpa;
use crate::host::mem::Links;

bitflags::bitflags! {
    /// What a device may do with memory.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct Access: u8 {
        /// Read it.
        const READ = 1;
        /// Write it. Atomic operations want both.
        const WRITE = 2;
    }
}

/// What only first-stage tables can say of a page, together with rights; second-stage tables refuse it. None of these is
/// part of [`Access::all`], which is all rights.
impl Access {
    /// Only requests with supervisor privilege (U/S = 0, VT-d 3.6.1), which units pass with SRE alone.
    pub const PRIVILEGED: Access = Access::from_bits_retain(4);
    /// Not for execution (bit 63), for a CPU that shares the tables: remapping hardware of today ignores it.
    pub const NO_EXECUTE: Access = Access::from_bits_retain(8);
    /// Global (bit 8), for a CPU that shares the tables: remapping hardware ignores it.
    pub const GLOBAL: Access = Access::from_bits_retain(16);
}

bitflags::bitflags! {
    /// Sizes of pages. 4 KiB is always there.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct PageSizes: u8 {
        /// 2 MiB (second stage: CAP.SSLPS bit 0; first stage: always).
        const SIZE_2M = 1;
        /// 1 GiB (second stage: CAP.SSLPS bit 1; first stage: CAP.FS1GP).
        const SIZE_1G = 2;
    }
}

impl PageSizes {
    /// Whether a leaf of this level is a large page, which has the page-size bit; `None` where no leaf may be.
    #[inline(always)]
    pub(super) const fn large(self, level: u8) -> Option<bool> {
        match level {
            1 => Some(false),
            2 if self.contains(PageSizes::SIZE_2M) => Some(true),
            3 if self.contains(PageSizes::SIZE_1G) => Some(true),
            _ => None,
        }
    }
}

/// An entry as the format reads it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Entry {
    /// Maps nothing.
    Empty,
    /// Points at the table one level down.
    Table(Hpa),
    /// Maps a page.
    Leaf {
        /// Where to.
        to: Hpa,
        /// With which rights.
        how: Access,
        /// Hardware has used it.
        accessed: bool,
        /// Hardware has written through it.
        dirty: bool,
    },
}

/// A page-table format: tables of 512 entries of 64 bits, indexed by nine bits of the address a level.
///
/// Levels count from 1, the tables that map pages of 4 KiB.
pub(crate) trait Format: Links + Copy {
    /// Addresses are canonical: the top bit that is translated is repeated above it, so that they come in two halves.
    const CANONICAL: bool;
    /// The level of the root table.
    fn levels(&self) -> u8;
    /// The page sizes that leaves may have.
    fn sizes(&self) -> PageSizes;
    /// The entry that maps the page at `to`; `None` where the size or the rights cannot be said. The pages that follow
    /// differ in the address alone.
    fn leaf(&self, to: Hpa, level: u8, how: Access) -> Option<u64>;
    /// What an entry that points at a table carries beside the address.
    fn table(&self) -> u64;
    /// What an entry says.
    fn read(&self, entry: u64, level: u8) -> Entry;
    /// The first of the 512 entries one level down that say together what `leaf` says: frame, rights, accessed and dirty.
    fn split(&self, leaf: u64, level: u8) -> u64;
    /// `leaf` with other rights; `None` where these cannot be said.
    fn protect(&self, leaf: u64, how: Access) -> Option<u64>;
    /// Whether hardware writes accessed and dirty bits to the entries, so that a dirty bit means something.
    fn live(&self) -> bool;
    /// `leaf` without its dirty bit.
    fn clean(&self, leaf: u64) -> u64;
}
