//! The profiles that come with the crate: QEMU, and units of four ages.

use super::Profile;
use alloc::vec::Vec;

/// The forms of QEMU's unit (11.1), by its properties.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Qemu {
    /// As it comes: legacy mode, 48 bits.
    Legacy,
    /// `aw-bits=39`.
    Narrow,
    /// `caching-mode=on`.
    Caching,
    /// `scalable-mode=on`: second-stage tables only.
    SecondStage,
    /// `scalable-mode=on,fsts=on`: first-stage tables only.
    FirstStage,
    /// The same with `svm=on,device-iotlb=on,pasid-bits=20`: PASIDs, device TLBs and page requests.
    Svm,
}

// Bits of CAP.
const ZLR: u64 = 1 << 22;
const PSI: u64 = 1 << 39;
const DRAINING: u64 = 3 << 54;
const FS1GP: u64 = 1 << 56;
const PI: u64 = 1 << 59;
const FS5LP: u64 = 1 << 60;
const ESIRTPS: u64 = 1 << 62;
const ESRTPS: u64 = 1 << 63;
const PROTECTED: u64 = 3 << 5;

// Bits of ECAP.
const C: u64 = 1;
const QI: u64 = 1 << 1;
const DT: u64 = 1 << 2;
const IR: u64 = 1 << 3;
const EIM: u64 = 1 << 4;
const PT: u64 = 1 << 6;
const SC: u64 = 1 << 7;
const MTS: u64 = 1 << 25;
const NEST: u64 = 1 << 26;
const PRS: u64 = 1 << 29;
const SRS: u64 = 1 << 31;
const NWFS: u64 = 1 << 33;
const EAFS: u64 = 1 << 34;
const PASID: u64 = 1 << 40;
const DIT: u64 = 1 << 41;
const PDS: u64 = 1 << 42;
const SMTS: u64 = 1 << 43;
const SSADS: u64 = 1 << 45;
const SSTS: u64 = 1 << 46;
const FSTS: u64 = 1 << 47;
const SMPWCS: u64 = 1 << 48;
const RPS: u64 = 1 << 49;
const ADMS: u64 = 1 << 52;
const RPRIVS: u64 = 1 << 53;
const PTRS: u64 = 1 << 56;
const SSIRWS: u64 = 1 << 57;
const SMS: u64 = 1 << 58;
const RDTS: u64 = 1 << 60;

/// What the profiles do not say otherwise.
const PLAIN: Profile = Profile {
    name: "",
    version: 0x10,
    cap: 0,
    ecap: 0,
    width: 48,
    strict_aw: false,
    erratum_772415: false,
    error_record: false,
    compression: false,
    protects_remapped: true,
    region_bits: 21,
    mtrr_cap: 0x50a,
};

impl Profile {
    /// QEMU 11.1 with the registers that it shows; its departures from the specification are not imitated.
    pub fn qemu(form: Qemu) -> Self {
        let legacy =
            Profile { name: "QEMU", cap: 0x80d2_008c_222f_0606, ecap: 0x00f0_0f4a, compression: true, ..PLAIN };
        match form {
            Qemu::Legacy => legacy,
            Qemu::Narrow => Profile { name: "QEMU, 39 bits", cap: 0x80d2_008c_2226_0206, width: 39, ..legacy },
            Qemu::Caching => Profile { name: "QEMU, caching mode", ..legacy }.with_cap(1 << 7, 0),
            Qemu::SecondStage => Profile { name: "QEMU, second stage", ecap: 0x4800_80f0_0f4a, ..legacy },
            Qemu::FirstStage => {
                Profile { name: "QEMU, first stage", ecap: 0x8800_00f0_0f4a, ..legacy }.with_cap(FS1GP, 0)
            }
            Qemu::Svm => Profile { name: "QEMU, svm", ecap: 0x8d9a_20f0_0f4e, ..legacy }.with_cap(FS1GP, 0),
        }
    }
    /// A unit of 2008 (GM45): no queue, no interrupt remapping, write buffers to flush, walks that do not snoop, three
    /// levels, one fault register, protected memory open to remapped requests.
    pub fn old() -> Self {
        Profile { name: "old", cap: 0x00c9_0080_2063_0272, ecap: 0x1000, width: 36, protects_remapped: false, ..PLAIN }
    }
    /// A server's unit of 2014 to 2020 (Broadwell, Skylake): coherent, legacy mode, queue, interrupt remapping and posting,
    /// device TLBs, pass-through, snoop control, four levels, eight fault registers.
    pub fn server() -> Self {
        Profile { name: "server", cap: 0x08d2_078c_106f_0466, ecap: 0x00f0_20df, width: 46, ..PLAIN }
    }
    /// A Sapphire Rapids unit as read from one: scalable mode with nesting and five levels, and neither PASIDs nor page
    /// requests, which on that processor only the units of the accelerators have.
    pub fn sapphire_rapids() -> Self {
        Profile {
            name: "Sapphire Rapids",
            version: 0x60,
            cap: 0x19ed_008c_4078_0c66,
            ecap: 0x0003_ee9e_86f0_50df,
            width: 52,
            erratum_772415: true,
            error_record: true,
            ..PLAIN
        }
    }
    /// The same with PASIDs and page requests.
    pub fn sapphire_rapids_svm() -> Self {
        Profile { name: "Sapphire Rapids, svm", ..Self::sapphire_rapids() }.with_ecap(PASID | PRS, 0)
    }
    /// Everything of revision 5.10 that a driver may use, but host permission tables, performance monitoring and enhanced
    /// commands.
    pub fn maximal() -> Self {
        // Sixteen-bit domain ids, 39, 48 and 57 bits, FRCD at 600h, 32 of them, IVA at 500h.
        let cap = 6
            | PROTECTED
            | 0b01110 << 8
            | 56 << 16
            | ZLR
            | 0x60 << 24
            | 3 << 34
            | PSI
            | 31 << 40
            | 45 << 48
            | DRAINING
            | FS1GP
            | PI
            | FS5LP
            | ESIRTPS
            | ESRTPS;
        let stages = SMTS | SSTS | FSTS | NEST | SSADS | SMPWCS | EAFS | RPS | RPRIVS | SRS | ADMS | SSIRWS | MTS;
        let devices = DT | NWFS | DIT | PDS | PRS | PASID | 19 << 35 | SMS | PTRS;
        let ecap = C | QI | IR | EIM | PT | SC | 0x50 << 8 | 15 << 20 | RDTS | stages | devices;
        Profile { name: "maximal", version: 0x80, cap, ecap, width: 52, error_record: true, ..PLAIN }
    }
    /// Every profile that comes with the crate.
    pub fn all() -> Vec<Self> {
        [Qemu::Legacy, Qemu::Narrow, Qemu::Caching, Qemu::SecondStage, Qemu::FirstStage, Qemu::Svm]
            .into_iter()
            .map(Self::qemu)
            .chain([Self::old(), Self::server(), Self::sapphire_rapids(), Self::sapphire_rapids_svm(), Self::maximal()])
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "Implementations that report X as Clear also report this as Clear" (11.4.2, 11.4.3).
    #[test]
    fn no_profile_claims_what_it_lacks_the_ground_for() {
        for p in Profile::all() {
            let needs = [
                (p.rwbf(), !p.smts(), "RWBF with SMTS"),
                (p.pi(), p.ir(), "PI without IR"),
                (p.fs1gp() || p.fs5lp(), p.fsts(), "first-stage sizes without FSTS"),
                (p.dt() || p.ir() || p.smts(), p.qi(), "DT, IR or SMTS without QI"),
                (p.eim() || p.mhmv() != 0, p.ir(), "EIM or MHMV without IR"),
                (p.mts() || p.srs() || p.pasid() || p.pss() != 0, p.smts(), "MTS, SRS, PASID or PSS without SMTS"),
                (p.fsts() || p.smpwcs() || p.rps(), p.smts(), "FSTS, SMPWCS or RPS without SMTS"),
                (p.nest(), p.smts() && p.fsts() && p.ssts(), "NEST without both stages"),
                (p.prs(), p.dt() && p.smts(), "PRS without DT and SMTS"),
                (p.nwfs() || p.dit() || p.pds(), p.dt(), "NWFS, DIT or PDS without DT"),
                (p.eafs(), p.fsts() && p.smpwcs(), "EAFS without FSTS and SMPWCS"),
                (p.ssads(), p.smpwcs(), "SSADS without SMPWCS"),
                (p.rprivs(), p.srs(), "RPRIVS without SRS"),
                (p.hpts(), p.smts() && p.dt(), "HPTS without SMTS and DT"),
                (p.ptrs(), p.dt() && p.pasid(), "PTRS without DT and PASID"),
                (p.ssirws(), p.ssts(), "SSIRWS without SSTS"),
                (p.sms(), p.prs(), "SMS without PRS"),
                (p.eimer(), p.eim(), "EIMER without EIM"),
                (p.irreq(), p.ir(), "IRREQ without IR"),
                (p.major() >= 6 && p.sagaw() != 0, p.ssts(), "SAGAW without SSTS"),
                (p.major() >= 2, p.cap & DRAINING == DRAINING, "no draining"),
                (true, p.mgaw() + 1 >= p.width.into(), "MGAW below the host's width"),
                (true, matches!(p.sslps(), 0 | 1 | 3), "SSLPS"),
                (true, p.nd() < 7 && !p.ers() && !p.vcs(), "reserved values"),
                (true, p.cap & (1 << 3 | 7 << 13 | 1 << 23 | 1 << 38 | 3 << 57) == 0, "reserved bits of CAP"),
                (true, p.ecap & (1 << 5 | 3 << 18 | 1 << 24 | 3 << 27 | 1 << 32 | 1 << 54 | 1 << 63) == 0, "of ECAP"),
            ];
            for (claim, ground, what) in needs {
                assert!(!claim || ground, "{}: {what}", p.name);
            }
        }
    }

    #[test]
    fn the_registers_of_a_profile_do_not_lie_over_each_other() {
        for p in Profile::all() {
            let faults = (16 * p.fro(), 16 * p.fro() + 16 * (p.nfr() + 1));
            let iotlb = (16 * p.iro(), 16 * p.iro() + 16);
            assert!(faults.0 >= iotlb.1 || iotlb.0 >= faults.1, "{}", p.name);
            let standard = if p.mts() { 0x220 } else { 0xf0 };
            assert!(faults.0 >= standard && iotlb.0 >= standard, "{}", p.name);
            assert!(faults.1 <= 0x1000, "{}", p.name);
        }
    }

    #[test]
    fn sapphire_rapids_is_what_it_is_known_to_be() {
        let p = Profile::sapphire_rapids();
        assert_eq!((p.major(), p.nd(), p.sagaw(), p.mgaw(), p.nfr()), (6, 6, 0b01100, 56, 0));
        assert_eq!((p.fro(), p.iro(), p.mamv(), p.mhmv(), p.pss()), (0x40, 0x50, 45, 15, 19));
        assert!(p.plmr() && p.phmr() && !p.rwbf() && !p.cm() && p.pi() && p.fs5lp() && !p.esrtps());
        assert!(p.coherent() && p.nest() && p.ssads() && p.smpwcs() && p.rps() && p.mts() && !p.pasid() && !p.prs());
    }

    #[test]
    fn bits_are_overridden() {
        let p = Profile::server().with_cap(1 << 4, 1 << 39).with_ecap(0, 1);
        assert!(p.rwbf() && !p.psi() && !p.coherent() && p.qi());
    }
}
