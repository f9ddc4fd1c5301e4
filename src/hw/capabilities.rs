//! What a unit can do: VER, CAP and ECAP. VT-d 11.4.1 to 11.4.3.

use super::field::{Field, encoding};
use super::registers::at;

/// Version of the architecture. VT-d 11.4.1.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Version(pub u32);

impl Version {
    /// Major number. Not a way to tell features: emulated units say 1 whatever they can.
    pub const fn major(self) -> u8 {
        const { Field::bits(7, 4) }.of(self.0 as u64) as u8
    }

    /// Minor number.
    pub const fn minor(self) -> u8 {
        const { Field::bits(3, 0) }.of(self.0 as u64) as u8
    }
}

encoding! {
    /// Width of second-stage input addresses, as the AW field of context and PASID table entries encodes it. VT-d 9.3, 9.6.
    pub enum AddressWidth {
        /// 39 bits, 3 levels.
        Bits39 = 1,
        /// 48 bits, 4 levels.
        Bits48 = 2,
        /// 57 bits, 5 levels.
        Bits57 = 3,
    }
}

impl AddressWidth {
    /// All, the narrowest first.
    pub const ALL: [AddressWidth; 3] = [AddressWidth::Bits39, AddressWidth::Bits48, AddressWidth::Bits57];

    /// The width of that many levels, 3 to 5.
    pub const fn of_levels(levels: u8) -> Option<Self> {
        match levels {
            3 => Some(AddressWidth::Bits39),
            4 => Some(AddressWidth::Bits48),
            5 => Some(AddressWidth::Bits57),
            _ => None,
        }
    }

    /// Levels of tables.
    pub const fn levels(self) -> u8 {
        self as u8 + 2
    }

    /// Bits of an input address.
    pub const fn bits(self) -> u8 {
        self.levels() * 9 + 12
    }
}

/// Methods that read one field each.
macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident: $high:literal : $low:literal;)*) => {
        $($(#[$doc])*
        pub const fn $name(self) -> u8 {
            const { Field::bits($high, $low) }.of(self.0) as u8
        })*
    };
}

/// Methods that read one bit each.
macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident: $at:literal;)*) => {
        $($(#[$doc])*
        pub const fn $name(self) -> bool {
            const { Field::bit($at) }.is_set(self.0)
        })*
    };
}

/// Capabilities. VT-d 11.4.2. Methods carry the fields' names; the rest is derived.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Cap(pub u64);

impl Cap {
    fields! {
        /// Number of domains, encoded: see [`domain_ids`](Cap::domain_ids).
        nd: 2:0;
        /// Largest address mask of a page-selective invalidation: 2^MAMV pages. Valid if [`psi`](Cap::psi).
        mamv: 53:48;
    }

    flags! {
        /// Advanced fault logging (revisions up to 3.x).
        afl: 3;
        /// Software must flush write buffers.
        rwbf: 4;
        /// Protected low memory region.
        plmr: 5;
        /// Protected high memory region.
        phmr: 6;
        /// Caching mode: entries that are not present may be cached.
        cm: 7;
        /// Zero-length reads of pages that may only be written.
        zlr: 22;
        /// Second-stage 2 MiB pages (SSLPS, lower bit).
        pages_2m: 34;
        /// Second-stage 1 GiB pages (SSLPS, upper bit).
        pages_1g: 35;
        /// Page-selective invalidation in the IOTLB command and descriptor; the PASID-based one does not need it.
        psi: 39;
        /// Writes in flight are drained.
        dwd: 54;
        /// Reads in flight are drained.
        drd: 55;
        /// First-stage 1 GiB pages.
        fs1gp: 56;
        /// Posted interrupts.
        pi: 59;
        /// First-stage tables of 5 levels.
        fs5lp: 60;
        /// Enhanced command interface.
        ecmds: 61;
        /// GCMD.SIRTP invalidates the interrupt entry cache itself.
        esirtps: 62;
        /// GCMD.SRTP invalidates all DMA caches itself.
        esrtps: 63;
    }

    /// Bits of a domain id, 4 to 16; `None` for the reserved encoding.
    pub const fn domain_id_bits(self) -> Option<u8> {
        match self.nd() {
            n @ 0..=6 => Some(4 + 2 * n),
            _ => None,
        }
    }

    /// How many domain ids there are, id 0 included; 0 for the reserved encoding.
    pub const fn domain_ids(self) -> u32 {
        match self.domain_id_bits() {
            Some(bits) => 1 << bits,
            None => 0,
        }
    }

    /// The second-stage widths: bit 1 for 39, bit 2 for 48, bit 3 for 57 bits. The outer two bits are reserved.
    pub const fn sagaw(self) -> u8 {
        const { Field::bits(12, 8) }.of(self.0) as u8
    }

    /// Whether second-stage tables may have this width.
    pub const fn supports(self, width: AddressWidth) -> bool {
        self.sagaw() & (1 << width as u8) != 0
    }

    /// Whether second-stage tables may have that many levels.
    pub const fn supports_levels(self, levels: u8) -> bool {
        match AddressWidth::of_levels(levels) {
            Some(width) => self.supports(width),
            None => false,
        }
    }

    /// The widest second-stage tables.
    pub const fn widest(self) -> Option<AddressWidth> {
        if self.supports(AddressWidth::Bits57) {
            Some(AddressWidth::Bits57)
        } else if self.supports(AddressWidth::Bits48) {
            Some(AddressWidth::Bits48)
        } else if self.supports(AddressWidth::Bits39) {
            Some(AddressWidth::Bits39)
        } else {
            None
        }
    }

    /// Bits of the widest address that the unit takes as input (MGAW).
    pub const fn mgaw(self) -> u8 {
        const { Field::bits(21, 16) }.of(self.0) as u8 + 1
    }

    /// Byte offset of the first fault recording register (FRO).
    pub const fn fro(self) -> u32 {
        const { Field::bits(33, 24) }.of(self.0) as u32 * 16
    }

    /// How many fault recording registers there are, 1 to 256 (NFR).
    pub const fn nfr(self) -> u32 {
        const { Field::bits(47, 40) }.of(self.0) as u32 + 1
    }

    /// Second-stage pages larger than 4 KiB as the field says: bit 0 for 2 MiB, bit 1 for 1 GiB.
    pub const fn sslps(self) -> u8 {
        const { Field::bits(37, 34) }.of(self.0) as u8
    }
}

/// Extended capabilities. VT-d 11.4.3. Methods carry the fields' names; the rest is derived.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ecap(pub u64);

impl Ecap {
    fields! {
        /// Largest index mask of an interrupt entry cache invalidation: 2^MHMV entries.
        mhmv: 23:20;
    }

    flags! {
        /// The unit snoops the CPU's caches when it reads root, context, PASID and interrupt tables and legacy-mode
        /// second-stage tables.
        c: 0;
        /// Queued invalidation.
        qi: 1;
        /// Device-TLBs (ATS).
        dt: 2;
        /// Interrupt remapping.
        ir: 3;
        /// 32-bit APIC ids in interrupt entries.
        eim: 4;
        /// Pass-through.
        pt: 6;
        /// Snoop control: SNP in second-stage entries, PGSNP in PASID table entries.
        sc: 7;
        /// Memory types.
        mts: 25;
        /// Nested translation as the bit says; [`nest`](Ecap::nest) is what may be used.
        nest_bit: 26;
        /// Page requests.
        prs: 29;
        /// Execute requests.
        ers: 30;
        /// Supervisor requests.
        srs: 31;
        /// The no-write flag of translation requests is honoured.
        nwfs: 33;
        /// Extended accessed flag in first-stage entries.
        eafs: 34;
        /// Requests with PASID.
        pasid: 40;
        /// Throttling of device-TLB invalidations: PFSID and MIP in the descriptors.
        dit: 41;
        /// Page-request drain flag in the wait descriptor.
        pds: 42;
        /// Scalable mode.
        smts: 43;
        /// Virtual command interface.
        vcs: 44;
        /// Accessed and dirty flags in second-stage entries.
        ssads: 45;
        /// Second stage in scalable mode.
        ssts: 46;
        /// First stage.
        fsts: 47;
        /// Walks of page tables through PASID entries can snoop (PWSNP).
        smpwcs: 48;
        /// RID_PASID in scalable context entries; without, PASID 0 is used.
        rps: 49;
        /// TDX Connect.
        tdxcs: 50;
        /// Performance monitoring.
        pms: 51;
        /// Abort-DMA mode.
        adms: 52;
        /// RID_PRIV in scalable context entries.
        rprivs: 53;
        /// Host permission tables.
        hpts: 55;
        /// PASID in translated requests.
        ptrs: 56;
        /// Rights of I/O in bits 61 and 62 of second-stage entries.
        ssirws: 57;
        /// Stop markers are handled.
        sms: 58;
        /// 1 GiB pages in host permission tables.
        hpt1gps: 59;
        /// Resource director register.
        rdts: 60;
        /// The unit must run with 32-bit APIC ids.
        eimer: 61;
        /// Interrupts are blocked while interrupt remapping is off.
        irreq: 62;
    }

    /// Byte offset of IVA, which IOTLB follows (IRO).
    pub const fn iro(self) -> u32 {
        const { Field::bits(17, 8) }.of(self.0) as u32 * 16
    }

    /// Bits of a PASID, 1 to 20 (PSS); means something where [`pasid`](Ecap::pasid) is set.
    pub const fn pss(self) -> u8 {
        const { Field::bits(39, 35) }.of(self.0) as u8 + 1
    }

    /// Nested translation: the bit counts only where scalable mode has both stages.
    pub const fn nest(self) -> bool {
        self.nest_bit() && self.smts() && self.fsts() && self.ssts()
    }
}

/// The three registers that say what a unit can do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Capabilities {
    /// Version.
    pub version: Version,
    /// Capabilities.
    pub cap: Cap,
    /// Extended capabilities.
    pub ecap: Ecap,
}

/// Bytes that every unit has.
const WINDOW: u32 = 4096;

impl Capabilities {
    /// Whether the registers can be those of a unit: neither all zero nor all ones, as where nothing answers.
    pub const fn plausible(&self) -> bool {
        let zero = self.version.0 == 0 || self.cap.0 == 0;
        let ones = self.version.0 == u32::MAX || self.cap.0 == u64::MAX || self.ecap.0 == u64::MAX;
        !zero && !ones
    }

    /// Byte offset of the fault recording register `n`; `None` where there is none.
    pub const fn fault_record(&self, n: u32) -> Option<u32> {
        if n < self.cap.nfr() { Some(self.cap.fro() + n * at::FRCD_STRIDE) } else { None }
    }

    /// Byte offset of IVA.
    pub const fn iva(&self) -> u32 {
        self.ecap.iro() + at::IVA_FROM_IRO
    }

    /// Byte offset of IOTLB.
    pub const fn iotlb(&self) -> u32 {
        self.ecap.iro() + at::IOTLB_FROM_IRO
    }

    /// Bytes of registers that the driver needs mapped, in whole pages. Performance counters may lie beyond.
    pub const fn window(&self) -> u32 {
        let faults = self.cap.fro() + self.cap.nfr() * at::FRCD_STRIDE;
        let invalidation = self.iotlb() + 8;
        let end = if faults > invalidation { faults } else { invalidation };
        if end > WINDOW { end.next_multiple_of(WINDOW) } else { WINDOW }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A Sapphire Rapids server's unit.
    const SERVER: Capabilities =
        Capabilities { version: Version(0x60), cap: Cap(0x19ed_008c_4078_0c66), ecap: Ecap(0x0003_ee9e_86f0_50df) };
    /// QEMU's unit in its plainest form.
    const QEMU: Capabilities =
        Capabilities { version: Version(0x10), cap: Cap(0x80d2_008c_222f_0606), ecap: Ecap(0x00f0_0f4a) };

    #[test]
    fn server() {
        let Capabilities { version, cap, ecap } = SERVER;
        assert_eq!((version.major(), version.minor()), (6, 0));
        assert_eq!((cap.domain_id_bits(), cap.domain_ids()), (Some(16), 65536));
        assert!(cap.plmr() && cap.phmr() && cap.zlr() && cap.psi() && cap.dwd() && cap.drd());
        assert!(!cap.afl() && !cap.rwbf() && !cap.cm());
        assert_eq!((cap.sagaw(), cap.widest(), cap.mgaw()), (0b1100, Some(AddressWidth::Bits57), 57));
        assert_eq!([2, 3, 4, 5, 6].map(|l| cap.supports_levels(l)), [false, false, true, true, false]);
        assert_eq!((cap.fro(), cap.nfr(), cap.mamv(), cap.sslps()), (0x400, 1, 45, 3));
        assert!(cap.pages_2m() && cap.pages_1g() && cap.fs1gp() && cap.pi() && cap.fs5lp());
        assert!(!cap.ecmds() && !cap.esirtps() && !cap.esrtps());
        assert!(ecap.c() && ecap.qi() && ecap.dt() && ecap.ir() && ecap.eim() && ecap.pt() && ecap.sc());
        assert!(ecap.mts() && ecap.nest() && ecap.srs() && ecap.nwfs() && ecap.eafs() && ecap.dit() && ecap.pds());
        assert!(ecap.smts() && ecap.ssads() && ecap.ssts() && ecap.fsts() && ecap.smpwcs() && ecap.rps());
        assert!(!ecap.prs() && !ecap.ers() && !ecap.pasid() && !ecap.vcs() && !ecap.pms() && !ecap.adms());
        assert_eq!((ecap.iro(), ecap.mhmv(), ecap.pss()), (0x500, 15, 20));
        assert_eq!((SERVER.iva(), SERVER.iotlb(), SERVER.window()), (0x500, 0x508, 0x1000));
        assert_eq!((SERVER.fault_record(0), SERVER.fault_record(1)), (Some(0x400), None));
    }

    #[test]
    fn qemu() {
        let Capabilities { version, cap, ecap } = QEMU;
        assert_eq!((version.major(), version.minor()), (1, 0));
        assert_eq!((cap.domain_ids(), cap.sagaw(), cap.widest()), (65536, 0b0110, Some(AddressWidth::Bits48)));
        assert!(cap.supports(AddressWidth::Bits39) && !cap.supports(AddressWidth::Bits57));
        assert_eq!((cap.mgaw(), cap.fro(), cap.nfr(), cap.mamv()), (48, 0x220, 1, 18));
        assert!(cap.psi() && cap.dwd() && cap.drd() && cap.esrtps() && cap.pages_1g());
        assert!(!cap.zlr() && !cap.rwbf() && !cap.plmr() && !cap.phmr() && !cap.cm() && !cap.fs1gp() && !cap.esirtps());
        assert!(ecap.qi() && ecap.ir() && ecap.pt());
        assert!(!ecap.c() && !ecap.dt() && !ecap.eim() && !ecap.sc() && !ecap.smts() && !ecap.pasid());
        assert_eq!((ecap.iro(), ecap.mhmv(), QEMU.iotlb()), (0xf0, 15, 0xf8));
    }

    #[test]
    fn qemu_in_scalable_mode() {
        let second = Ecap(0x4800_80f0_0f4a);
        assert!(second.smts() && second.ssts() && second.srs() && !second.fsts() && !second.nest());
        let first = Ecap(0x8800_00f0_0f4a);
        assert!(first.smts() && first.fsts() && !first.ssts() && !first.srs());
        let svm = Ecap(0x8d9a_20f0_0f4e);
        assert!(svm.dt() && svm.prs() && svm.nwfs() && svm.pasid() && svm.pds() && svm.fsts() && !svm.rps());
        assert_eq!(svm.pss(), 20);
        assert!(Cap(0x81d2_008c_222f_0606).fs1gp());
    }

    #[test]
    fn nesting_needs_both_stages_and_scalable_mode() {
        let all = 1 << 26 | 1 << 43 | 1 << 46 | 1 << 47;
        assert!(Ecap(all).nest());
        for missing in [26, 43, 46, 47] {
            assert!(!Ecap(all & !(1 << missing)).nest());
        }
    }

    #[test]
    fn domain_ids() {
        let ids = |nd| Cap(nd).domain_ids();
        assert_eq!([ids(0), ids(2), ids(6), ids(7)], [16, 256, 65536, 0]);
        assert_eq!(Cap(7).domain_id_bits(), None);
    }

    #[test]
    fn widths() {
        for (width, levels, bits) in
            [(AddressWidth::Bits39, 3, 39), (AddressWidth::Bits48, 4, 48), (AddressWidth::Bits57, 5, 57)]
        {
            assert_eq!((width.levels(), width.bits()), (levels, bits));
            assert_eq!((AddressWidth::of_levels(levels), AddressWidth::of(width as u64)), (Some(width), Some(width)));
        }
        assert_eq!((AddressWidth::of_levels(2), AddressWidth::of(0), AddressWidth::of(4)), (None, None, None));
        // The reserved outer bits of SAGAW are no widths.
        assert_eq!(Cap(0b1_0001 << 8).widest(), None);
        assert_eq!(Cap(0b1_0011 << 8).widest(), Some(AddressWidth::Bits39));
    }

    #[test]
    fn windows() {
        let unit = |fro: u64, nfr: u64, iro: u64| Capabilities {
            version: Version(0x10),
            cap: Cap(fro << 24 | nfr << 40),
            ecap: Ecap(iro << 8),
        };
        assert_eq!(unit(0x3ff, 255, 0).window(), 0x5000);
        assert_eq!(unit(0x100, 0, 0x0f).window(), 0x2000);
        assert_eq!(unit(0xff, 0, 0xff).window(), 0x1000);
        assert_eq!(unit(0, 0, 0x3ff).window(), 0x4000);
        assert_eq!((unit(0x40, 7, 0).fault_record(7), unit(0x40, 7, 0).fault_record(8)), (Some(0x470), None));
    }

    #[test]
    fn plausible() {
        assert!(SERVER.plausible() && QEMU.plausible());
        let silent = Capabilities { version: Version(u32::MAX), cap: Cap(u64::MAX), ecap: Ecap(u64::MAX) };
        assert!(!silent.plausible());
        assert!(!Capabilities { version: Version(0), cap: Cap(0), ecap: Ecap(0) }.plausible());
    }
}
