//! Which unit it is: version, capabilities (11.4.1 to 11.4.3), and what the capability registers leave open.

mod shipped;

pub use shipped::Qemu;

use crate::bus::Snoop;

/// A unit's make. Everything is public: start from one of the shipped profiles and change what the test is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Profile {
    /// For reports.
    pub name: &'static str,
    /// VER: major 7:4, minor 3:0.
    pub version: u32,
    /// CAP.
    pub cap: u64,
    /// ECAP.
    pub ecap: u64,
    /// Host address width: address bits that memory has.
    pub width: u8,
    /// AW of first-stage and pass-through PASID entries must be 0 on units without SSTS (9.6), as the text says and no
    /// known unit does.
    pub strict_aw: bool,
    /// Sapphire Rapids' erratum 772415: read-only second-stage mappings misbehave under nesting.
    pub erratum_772415: bool,
    /// IQERCD says why (11.4.9.9); units older than that register leave it 0.
    pub error_record: bool,
    /// A fault of a source that has one pending already is dropped (7.2.1).
    pub compression: bool,
    /// Protected memory is closed to requests that remapping translates, too (11.4.8.1). Units of major version 2 and up
    /// always do that; of the others those since Skylake.
    pub protects_remapped: bool,
    /// Protected regions begin and end at multiples of 2 to this (11.4.8.2).
    pub region_bits: u8,
    /// MTRRCAP (11.4.12.1), where ECAP.MTS is set.
    pub mtrr_cap: u64,
}

impl Profile {
    /// The same with bits of CAP set and cleared.
    pub fn with_cap(self, set: u64, clear: u64) -> Self {
        Profile { cap: self.cap & !clear | set, ..self }
    }
    /// The same with bits of ECAP set and cleared.
    pub fn with_ecap(self, set: u64, clear: u64) -> Self {
        Profile { ecap: self.ecap & !clear | set, ..self }
    }
    /// How root, context and PASID tables, legacy second-stage tables and the interrupt-remapping table are read (3.10).
    /// Write buffers that hold stores back (6.8) do so whether caches are snooped or not.
    pub(crate) fn snoop(&self) -> Snoop {
        if self.coherent() && !self.rwbf() { Snoop::Yes } else { Snoop::No }
    }
    /// The host address width as a mask; no host has less than 32 bits.
    pub(crate) fn addresses(&self) -> u64 {
        below(self.width.max(32).into())
    }
    /// Whether requests that remapping translates are kept out of protected memory (11.4.8.1).
    pub fn protects_all(&self) -> bool {
        self.major() >= 2 || self.protects_remapped
    }
    /// Address bits of the widest tables that it walks: FRCD.FI has no others (11.4.7.6).
    pub(crate) fn agaw(&self) -> u32 {
        match (self.sagaw(), self.fsts(), self.fs5lp()) {
            (8.., ..) | (_, true, true) => 57,
            (4.., ..) | (_, true, _) => 48,
            _ => 39,
        }
    }
}

/// The bits below bit `n`.
pub(crate) fn below(n: u32) -> u64 {
    1u64.checked_shl(n).map_or(u64::MAX, |bit| bit - 1)
}

/// The fields of CAP and ECAP (11.4.2, 11.4.3).
impl Profile {
    /// CAP.ND.
    pub fn nd(&self) -> u64 {
        self.cap & 0x7
    }
    /// CAP.RWBF.
    pub fn rwbf(&self) -> bool {
        self.cap >> 4 & 1 != 0
    }
    /// CAP.PLMR.
    pub fn plmr(&self) -> bool {
        self.cap >> 5 & 1 != 0
    }
    /// CAP.PHMR.
    pub fn phmr(&self) -> bool {
        self.cap >> 6 & 1 != 0
    }
    /// CAP.CM.
    pub fn cm(&self) -> bool {
        self.cap >> 7 & 1 != 0
    }
    /// CAP.SAGAW.
    pub fn sagaw(&self) -> u64 {
        self.cap >> 8 & 0x1f
    }
    /// CAP.MGAW: the width is one more.
    pub fn mgaw(&self) -> u64 {
        self.cap >> 16 & 0x3f
    }
    /// CAP.ZLR.
    pub fn zlr(&self) -> bool {
        self.cap >> 22 & 1 != 0
    }
    /// CAP.FRO, in units of 16 bytes.
    pub fn fro(&self) -> u64 {
        self.cap >> 24 & 0x3ff
    }
    /// CAP.SSLPS.
    pub fn sslps(&self) -> u64 {
        self.cap >> 34 & 0xf
    }
    /// CAP.PSI.
    pub fn psi(&self) -> bool {
        self.cap >> 39 & 1 != 0
    }
    /// CAP.NFR: the number is one more.
    pub fn nfr(&self) -> u64 {
        self.cap >> 40 & 0xff
    }
    /// CAP.MAMV.
    pub fn mamv(&self) -> u64 {
        self.cap >> 48 & 0x3f
    }
    /// CAP.DWD.
    pub fn dwd(&self) -> bool {
        self.cap >> 54 & 1 != 0
    }
    /// CAP.DRD.
    pub fn drd(&self) -> bool {
        self.cap >> 55 & 1 != 0
    }
    /// CAP.FS1GP.
    pub fn fs1gp(&self) -> bool {
        self.cap >> 56 & 1 != 0
    }
    /// CAP.PI.
    pub fn pi(&self) -> bool {
        self.cap >> 59 & 1 != 0
    }
    /// CAP.FS5LP.
    pub fn fs5lp(&self) -> bool {
        self.cap >> 60 & 1 != 0
    }
    /// CAP.ECMDS.
    pub fn ecmds(&self) -> bool {
        self.cap >> 61 & 1 != 0
    }
    /// CAP.ESIRTPS.
    pub fn esirtps(&self) -> bool {
        self.cap >> 62 & 1 != 0
    }
    /// CAP.ESRTPS.
    pub fn esrtps(&self) -> bool {
        self.cap >> 63 & 1 != 0
    }
    /// ECAP.C.
    pub fn coherent(&self) -> bool {
        self.ecap & 1 != 0
    }
    /// ECAP.QI.
    pub fn qi(&self) -> bool {
        self.ecap >> 1 & 1 != 0
    }
    /// ECAP.DT.
    pub fn dt(&self) -> bool {
        self.ecap >> 2 & 1 != 0
    }
    /// ECAP.IR.
    pub fn ir(&self) -> bool {
        self.ecap >> 3 & 1 != 0
    }
    /// ECAP.EIM.
    pub fn eim(&self) -> bool {
        self.ecap >> 4 & 1 != 0
    }
    /// ECAP.PT.
    pub fn pt(&self) -> bool {
        self.ecap >> 6 & 1 != 0
    }
    /// ECAP.SC.
    pub fn sc(&self) -> bool {
        self.ecap >> 7 & 1 != 0
    }
    /// ECAP.IRO, in units of 16 bytes.
    pub fn iro(&self) -> u64 {
        self.ecap >> 8 & 0x3ff
    }
    /// ECAP.MHMV.
    pub fn mhmv(&self) -> u64 {
        self.ecap >> 20 & 0xf
    }
    /// ECAP.MTS.
    pub fn mts(&self) -> bool {
        self.ecap >> 25 & 1 != 0
    }
    /// ECAP.NEST.
    pub fn nest(&self) -> bool {
        self.ecap >> 26 & 1 != 0
    }
    /// ECAP.PRS.
    pub fn prs(&self) -> bool {
        self.ecap >> 29 & 1 != 0
    }
    /// ECAP.ERS.
    pub fn ers(&self) -> bool {
        self.ecap >> 30 & 1 != 0
    }
    /// ECAP.SRS.
    pub fn srs(&self) -> bool {
        self.ecap >> 31 & 1 != 0
    }
    /// ECAP.NWFS.
    pub fn nwfs(&self) -> bool {
        self.ecap >> 33 & 1 != 0
    }
    /// ECAP.EAFS.
    pub fn eafs(&self) -> bool {
        self.ecap >> 34 & 1 != 0
    }
    /// ECAP.PSS: the width is one more.
    pub fn pss(&self) -> u64 {
        self.ecap >> 35 & 0x1f
    }
    /// ECAP.PASID.
    pub fn pasid(&self) -> bool {
        self.ecap >> 40 & 1 != 0
    }
    /// ECAP.DIT.
    pub fn dit(&self) -> bool {
        self.ecap >> 41 & 1 != 0
    }
    /// ECAP.PDS.
    pub fn pds(&self) -> bool {
        self.ecap >> 42 & 1 != 0
    }
    /// ECAP.SMTS.
    pub fn smts(&self) -> bool {
        self.ecap >> 43 & 1 != 0
    }
    /// ECAP.VCS.
    pub fn vcs(&self) -> bool {
        self.ecap >> 44 & 1 != 0
    }
    /// ECAP.SSADS.
    pub fn ssads(&self) -> bool {
        self.ecap >> 45 & 1 != 0
    }
    /// ECAP.SSTS.
    pub fn ssts(&self) -> bool {
        self.ecap >> 46 & 1 != 0
    }
    /// ECAP.FSTS.
    pub fn fsts(&self) -> bool {
        self.ecap >> 47 & 1 != 0
    }
    /// ECAP.SMPWCS.
    pub fn smpwcs(&self) -> bool {
        self.ecap >> 48 & 1 != 0
    }
    /// ECAP.RPS.
    pub fn rps(&self) -> bool {
        self.ecap >> 49 & 1 != 0
    }
    /// ECAP.PMS.
    pub fn pms(&self) -> bool {
        self.ecap >> 51 & 1 != 0
    }
    /// ECAP.ADMS.
    pub fn adms(&self) -> bool {
        self.ecap >> 52 & 1 != 0
    }
    /// ECAP.RPRIVS.
    pub fn rprivs(&self) -> bool {
        self.ecap >> 53 & 1 != 0
    }
    /// ECAP.HPTS.
    pub fn hpts(&self) -> bool {
        self.ecap >> 55 & 1 != 0
    }
    /// ECAP.PTRS.
    pub fn ptrs(&self) -> bool {
        self.ecap >> 56 & 1 != 0
    }
    /// ECAP.SSIRWS.
    pub fn ssirws(&self) -> bool {
        self.ecap >> 57 & 1 != 0
    }
    /// ECAP.SMS.
    pub fn sms(&self) -> bool {
        self.ecap >> 58 & 1 != 0
    }
    /// ECAP.HPT1GPS.
    pub fn hpt1gps(&self) -> bool {
        self.ecap >> 59 & 1 != 0
    }
    /// ECAP.RDTS.
    pub fn rdts(&self) -> bool {
        self.ecap >> 60 & 1 != 0
    }
    /// ECAP.EIMER.
    pub fn eimer(&self) -> bool {
        self.ecap >> 61 & 1 != 0
    }
    /// ECAP.IRREQ.
    pub fn irreq(&self) -> bool {
        self.ecap >> 62 & 1 != 0
    }
    /// VER.major.
    pub fn major(&self) -> u32 {
        self.version >> 4 & 15
    }
    /// How many bits a domain id has.
    pub fn domain_bits(&self) -> u32 {
        4 + 2 * self.nd() as u32
    }
}
