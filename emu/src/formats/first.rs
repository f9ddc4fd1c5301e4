//! First-stage paging entries (9.7).

use super::{Field, PAGE, entry};
use crate::profile::Profile;

/// A first-stage paging entry of any level.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FirstStageEntry(pub [u64; 1]);

entry!(FirstStageEntry);

impl FirstStageEntry {
    /// P.
    pub const P: Field = Field::bit(0);
    /// R/W.
    pub const RW: Field = Field::bit(1);
    /// U/S.
    pub const US: Field = Field::bit(2);
    /// PWT.
    pub const PWT: Field = Field::bit(3);
    /// PCD.
    pub const PCD: Field = Field::bit(4);
    /// A.
    pub const A: Field = Field::bit(5);
    /// D.
    pub const D: Field = Field::bit(6);
    /// PS: a leaf of 2 MiB or 1 GiB; PAT in a leaf of 4 KiB.
    pub const PS: Field = Field::bit(7);
    /// EA.
    pub const EA: Field = Field::bit(10);
    /// PAT in a leaf of 2 MiB or 1 GiB.
    pub const LARGE_PAT: Field = Field::bit(12);

    /// An entry that leads to a table, or to a page of 4 KiB, for users to read and write.
    pub fn new(address: u64) -> Self {
        FirstStageEntry([address & Self::ADDRESS | 7])
    }
    /// An entry that maps 2 MiB or 1 GiB, for users to read and write.
    pub fn large(address: u64) -> Self {
        FirstStageEntry::new(address).with(Self::PS, 1)
    }
    /// Where the table is, or the page of 4 KiB.
    pub fn address(&self) -> u64 {
        self.0[0] & Self::ADDRESS
    }
    /// Address bits.
    pub(crate) const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

    /// Whether an entry that serves 2^`bits` addresses maps a page: the lowest level always, PS above.
    pub(crate) fn is_leaf(&self, bits: u32) -> bool {
        bits == 12 || self.has(Self::PS)
    }
    /// Where the page of a leaf is that serves 2^`bits` addresses.
    pub(crate) fn page(&self, bits: u32) -> u64 {
        self.address() >> bits << bits
    }
    /// The index into PAT of a leaf that serves 2^`bits` addresses (3.11.1).
    pub(crate) fn pat(&self, bits: u32) -> u64 {
        let pat = if bits == 12 { Self::PS } else { Self::LARGE_PAT };
        4 * self.get(pat) + 2 * self.get(Self::PCD) + self.get(Self::PWT)
    }
    /// Whether a reserved bit is set in an entry that serves 2^`bits` addresses (3.6).
    pub(crate) fn reserved(&self, profile: &Profile, bits: u32) -> bool {
        let mut reserved = profile.beyond() & Self::ADDRESS;
        if self.is_leaf(bits) && bits > 12 {
            let supported = bits == 21 || bits == 30 && profile.fs1gp();
            if !supported {
                reserved |= Self::PS.mask();
            }
            reserved |= ((1 << bits) - 1) & PAGE & !Self::LARGE_PAT.mask();
        }
        self.0[0] & reserved != 0
    }
}
