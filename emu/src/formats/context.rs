//! Context entries (9.3, 9.4).

use super::{Field, PAGE, entry, when};
use crate::profile::Profile;
use crate::request::Pasid;

/// A context entry of legacy mode (9.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ContextEntry(pub [u64; 2]);

entry!(ContextEntry);

impl ContextEntry {
    /// P.
    pub const P: Field = Field::bit(0);
    /// FPD.
    pub const FPD: Field = Field::bit(1);
    /// TT: 0 second stage, 1 second stage with ATS, 2 pass-through.
    pub const TT: Field = Field::bits(3, 2);
    /// SSPTPTR, without its low twelve bits.
    pub const SSPTPTR: Field = Field::bits(63, 12);
    /// AW: 1 three levels, 2 four, 3 five.
    pub const AW: Field = Field::bits(66, 64);
    /// DID.
    pub const DID: Field = Field::bits(87, 72);

    /// A present entry with second-stage tables.
    pub fn new(table: u64, aw: u64, domain: u16) -> Self {
        ContextEntry([table & PAGE | 1, 0]).with(Self::AW, aw).with(Self::DID, u64::from(domain))
    }
    /// A present entry that lets requests through as they are.
    pub fn pass_through(aw: u64, domain: u16) -> Self {
        ContextEntry::new(0, aw, domain).with(Self::TT, 2)
    }
    /// DID.
    pub fn domain(&self) -> u16 {
        self.get(Self::DID) as u16
    }
    /// SSPTPTR: where the top second-stage table is.
    pub fn table(&self) -> u64 {
        self.0[0] & PAGE
    }
    /// Whether a reserved bit is set. SSPTPTR is not looked at under pass-through.
    pub fn reserved(&self, profile: &Profile) -> bool {
        let pointer = if self.get(Self::TT) == 2 { PAGE } else { profile.pointer() };
        let low = pointer | Self::P.mask() | Self::FPD.mask() | Self::TT.mask();
        let ignored = Field::bits(70, 67).mask();
        let high = Self::AW.mask() | ignored | profile.domains() << 8;
        self.0[0] & !low != 0 || self.0[1] & !high != 0
    }
}

/// A context entry of scalable mode (9.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ScalableContextEntry(pub [u64; 4]);

entry!(ScalableContextEntry);

impl ScalableContextEntry {
    /// P.
    pub const P: Field = Field::bit(0);
    /// FPD.
    pub const FPD: Field = Field::bit(1);
    /// DTE: translation and translated requests are processed.
    pub const DTE: Field = Field::bit(2);
    /// PASIDE: requests with PASID are processed.
    pub const PASIDE: Field = Field::bit(3);
    /// PRE: page requests are processed.
    pub const PRE: Field = Field::bit(4);
    /// HPTE: translated requests are looked up in the host permission table.
    pub const HPTE: Field = Field::bit(5);
    /// EPTR: translated requests with PASID are processed.
    pub const EPTR: Field = Field::bit(6);
    /// PDTS: the directory has 2^(PDTS+7) entries.
    pub const PDTS: Field = Field::bits(11, 9);
    /// PASIDDIRPTR, without its low twelve bits.
    pub const PASIDDIRPTR: Field = Field::bits(63, 12);
    /// RID_PASID: the PASID of requests that bring none.
    pub const RID_PASID: Field = Field::bits(83, 64);
    /// RID_PRIV: requests without PASID are privileged.
    pub const RID_PRIV: Field = Field::bit(84);

    /// A present entry with a directory for 2^(pdts+13) PASIDs.
    pub fn new(directory: u64, pdts: u64) -> Self {
        ScalableContextEntry([directory & PAGE | 1, 0, 0, 0]).with(Self::PDTS, pdts)
    }
    /// PASIDDIRPTR: where the PASID directory is.
    pub fn directory(&self) -> u64 {
        self.0[0] & PAGE
    }
    /// The largest PASID that the directory covers.
    pub fn last_pasid(&self) -> Pasid {
        // 2^(PDTS+7) entries of 64 PASIDs each.
        (1 << (self.get(Self::PDTS) + 13)) - 1
    }
    /// RID_PASID.
    pub fn rid_pasid(&self) -> Pasid {
        self.get(Self::RID_PASID) as Pasid
    }
    /// Whether a reserved bit is set.
    pub fn reserved(&self, profile: &Profile) -> bool {
        let low = profile.pointer()
            | Self::P.mask()
            | Self::FPD.mask()
            | Self::PDTS.mask()
            | when(profile.dt(), Self::DTE.mask())
            | when(profile.pasid(), Self::PASIDE.mask())
            | when(profile.prs(), Self::PRE.mask())
            | when(profile.hpts(), Self::HPTE.mask())
            | when(profile.ptrs(), Self::EPTR.mask());
        let high = when(profile.rps(), Self::RID_PASID.mask()) | when(profile.rprivs(), Self::RID_PRIV.mask());
        self.0[0] & !low != 0 || self.0[1] & !high != 0 || self.0[2] != 0 || self.0[3] != 0
    }
}
