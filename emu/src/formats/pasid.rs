//! PASID-directory and PASID-table entries (9.5, 9.6).

use super::{Field, PAGE, entry, when};
use crate::profile::Profile;

/// An entry of a PASID directory (9.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PasidDirectoryEntry(pub [u64; 1]);

entry!(PasidDirectoryEntry);

impl PasidDirectoryEntry {
    /// P.
    pub const P: Field = Field::bit(0);
    /// FPD.
    pub const FPD: Field = Field::bit(1);

    /// A present entry.
    pub fn new(table: u64) -> Self {
        PasidDirectoryEntry([table & PAGE | 1])
    }
    /// SMPTBLPTR: where the PASID table is.
    pub fn table(&self) -> u64 {
        self.0[0] & PAGE
    }
    /// Whether a reserved bit is set.
    pub fn reserved(&self, profile: &Profile) -> bool {
        self.0[0] & !(profile.pointer() | 3) != 0
    }
}

/// An entry of a PASID table (9.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PasidEntry(pub [u64; 8]);

entry!(PasidEntry);

impl PasidEntry {
    /// P.
    pub const P: Field = Field::bit(0);
    /// FPD.
    pub const FPD: Field = Field::bit(1);
    /// AW: 1 three levels, 2 four, 3 five.
    pub const AW: Field = Field::bits(4, 2);
    /// PGTT: 1 first stage, 2 second stage, 3 nested, 4 pass-through.
    pub const PGTT: Field = Field::bits(8, 6);
    /// SSADE: the second stage has accessed and dirty bits.
    pub const SSADE: Field = Field::bit(9);
    /// SSPTPTR, without its low twelve bits.
    pub const SSPTPTR: Field = Field::bits(63, 12);
    /// DID.
    pub const DID: Field = Field::bits(79, 64);
    /// PWSNP: walks snoop.
    pub const PWSNP: Field = Field::bit(87);
    /// PGSNP: accesses to pages snoop.
    pub const PGSNP: Field = Field::bit(88);
    /// CD: pages are uncacheable.
    pub const CD: Field = Field::bit(89);
    /// EMTE: second-stage leaves have memory types.
    pub const EMTE: Field = Field::bit(90);
    /// PAT: eight memory types of four bits.
    pub const PAT: Field = Field::bits(127, 96);
    /// SRE: privileged requests are processed.
    pub const SRE: Field = Field::bit(128);
    /// FSPM: 0 four levels, 1 five.
    pub const FSPM: Field = Field::bits(131, 130);
    /// WPE: R/W binds privileged requests, too.
    pub const WPE: Field = Field::bit(132);
    /// EAFE: first-stage entries have extended-accessed bits.
    pub const EAFE: Field = Field::bit(135);
    /// FSPTPTR, without its low twelve bits.
    pub const FSPTPTR: Field = Field::bits(191, 140);
    /// HPTSZ: the top host permission table covers 2^(HPTSZ+49) addresses.
    pub const HPTSZ: Field = Field::bits(257, 256);
    /// HPTPFD: no host permissions are fetched ahead.
    pub const HPTPFD: Field = Field::bit(258);
    /// HPTPTR, without its low twelve bits.
    pub const HPTPTR: Field = Field::bits(319, 268);
    /// HPTDID.
    pub const HPTDID: Field = Field::bits(335, 320);

    /// A present entry of a translation type and domain.
    pub fn new(pgtt: u64, domain: u16) -> Self {
        PasidEntry::default().with(Self::P, 1).with(Self::PGTT, pgtt).with(Self::DID, u64::from(domain))
    }
    /// First-stage tables: where the top is, and whether there are five levels of them.
    pub fn first_stage(table: u64, five: bool, domain: u16) -> Self {
        PasidEntry::new(1, domain).with_first_stage(table, five)
    }
    /// Second-stage tables.
    pub fn second_stage(table: u64, aw: u64, domain: u16) -> Self {
        PasidEntry::new(2, domain).with_second_stage(table, aw)
    }
    /// First-stage tables in addresses that second-stage tables translate.
    pub fn nested(first: u64, five: bool, second: u64, aw: u64, domain: u16) -> Self {
        PasidEntry::new(3, domain).with_first_stage(first, five).with_second_stage(second, aw)
    }
    /// Requests pass as they are.
    pub fn pass_through(domain: u16) -> Self {
        PasidEntry::new(4, domain)
    }
    fn with_first_stage(self, table: u64, five: bool) -> Self {
        self.with(Self::FSPTPTR, table >> 12).with(Self::FSPM, u64::from(five))
    }
    fn with_second_stage(self, table: u64, aw: u64) -> Self {
        self.with(Self::SSPTPTR, table >> 12).with(Self::AW, aw)
    }
    /// DID.
    pub fn domain(&self) -> u16 {
        self.get(Self::DID) as u16
    }
    /// SSPTPTR: where the top second-stage table is.
    pub fn second(&self) -> u64 {
        self.0[0] & PAGE
    }
    /// FSPTPTR: where the top first-stage table is.
    pub fn first(&self) -> u64 {
        self.0[2] & PAGE
    }
    /// HPTPTR: where the top host permission table is.
    pub fn permissions(&self) -> u64 {
        self.0[4] & PAGE
    }
    /// Whether a reserved bit is set: one that never has a meaning, or one of a feature that the unit does not have. Fields
    /// that the translation type does not use are ignored only where the unit has the feature.
    pub fn reserved(&self, profile: &Profile) -> bool {
        let second = profile.ssts();
        let known = [
            Self::P.mask()
                | Self::FPD.mask()
                | Self::PGTT.mask()
                | when(second || !profile.strict_aw, Self::AW.mask())
                | when(second, profile.pointer())
                | when(second && profile.ssads(), Self::SSADE.mask()),
            profile.domains()
                | when(profile.smpwcs(), Self::PWSNP.mask())
                | when(profile.sc(), Self::PGSNP.mask())
                | when(profile.mts(), Self::CD.mask() | Self::EMTE.mask() | Self::PAT.mask()),
            // 134:133 are ignored.
            Field::bits(134, 133).mask()
                | when(profile.srs(), Self::SRE.mask())
                | when(profile.fsts(), Self::FSPM.mask() | Self::WPE.mask() | profile.pointer())
                | when(profile.eafs(), Self::EAFE.mask()),
            0,
            when(profile.hpts(), Self::HPTSZ.mask() | Self::HPTPFD.mask() | profile.pointer()),
            when(profile.hpts(), profile.domains()),
            0,
            0,
        ];
        self.0.iter().zip(known).any(|(word, known)| word & !known != 0)
    }
}
