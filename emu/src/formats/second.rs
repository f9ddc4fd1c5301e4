//! Second-stage paging entries (9.8).

use super::{Field, PAGE, entry};
use crate::profile::Profile;

/// A second-stage paging entry of any level.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SecondStageEntry(pub [u64; 1]);

entry!(SecondStageEntry);

impl SecondStageEntry {
    /// R.
    pub const R: Field = Field::bit(0);
    /// W.
    pub const W: Field = Field::bit(1);
    /// EMT: the memory type of a leaf.
    pub const EMT: Field = Field::bits(5, 3);
    /// IPAT: the first stage's memory type does not count.
    pub const IPAT: Field = Field::bit(6);
    /// PS: a leaf of 2 MiB or 1 GiB.
    pub const PS: Field = Field::bit(7);
    /// A.
    pub const A: Field = Field::bit(8);
    /// D.
    pub const D: Field = Field::bit(9);
    /// SNP.
    pub const SNP: Field = Field::bit(11);
    /// IR: the right to read with SSIRWE.
    pub const IR: Field = Field::bit(61);
    /// IW: the right to write with SSIRWE.
    pub const IW: Field = Field::bit(62);

    /// An entry that leads to a table, or to a page of 4 KiB, with the rights to read and write.
    pub fn new(address: u64) -> Self {
        SecondStageEntry([address & Self::ADDRESS | 3])
    }
    /// An entry that maps 2 MiB or 1 GiB, with the rights to read and write.
    pub fn large(address: u64) -> Self {
        SecondStageEntry::new(address).with(Self::PS, 1)
    }
    /// The same with these rights.
    #[must_use]
    pub fn rights(self, read: bool, write: bool) -> Self {
        self.with(Self::R, u64::from(read)).with(Self::W, u64::from(write))
    }
    /// Where the table is, or the page of 4 KiB.
    pub fn address(&self) -> u64 {
        self.0[0] & Self::ADDRESS
    }
    /// Address bits.
    pub(crate) const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

    /// Whether an entry that each serves 2^`bits` addresses maps a page: the lowest level always, PS above.
    pub(crate) fn is_leaf(&self, bits: u32) -> bool {
        bits == 12 || self.has(Self::PS)
    }
    /// Whether a reserved bit is set in an entry that serves 2^`bits` addresses (3.7). `separate`: SSIRWE.
    pub(crate) fn reserved(&self, profile: &Profile, bits: u32, separate: bool) -> bool {
        let leaf = self.is_leaf(bits);
        let mut reserved = profile.beyond() & Self::ADDRESS;
        if !separate {
            reserved |= Self::IW.mask();
        }
        if !leaf || !profile.sc() {
            reserved |= Self::SNP.mask();
        }
        if leaf && bits > 12 {
            let supported = match bits {
                21 => profile.sslps() & 1 != 0,
                30 => profile.sslps() & 2 != 0,
                _ => false,
            };
            if !supported {
                reserved |= Self::PS.mask();
            }
            reserved |= ((1 << bits) - 1) & PAGE;
        }
        self.0[0] & reserved != 0
    }
}
