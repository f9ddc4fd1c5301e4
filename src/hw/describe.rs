//! The capabilities of VT-d 11.4.1 to 11.4.3 in words for people, field by field.

use super::capabilities::{AddressWidth, Cap, Capabilities, Ecap};
use core::fmt::Arguments;

type Each<'a> = &'a mut dyn FnMut(&'static str, Arguments<'_>);

/// Fields that are one bit: name, reader, words. Where the bit is 0 nothing is said.
type Flags<T> = [(&'static str, fn(T) -> bool, &'static str)];

const CAP: &Flags<Cap> = &[
    ("CAP.AFL", Cap::afl, "advanced fault logging"),
    ("CAP.RWBF", Cap::rwbf, "write buffers must be flushed by software"),
    ("CAP.PLMR", Cap::plmr, "protected low memory region"),
    ("CAP.PHMR", Cap::phmr, "protected high memory region"),
    ("CAP.CM", Cap::cm, "caching mode: entries that are not present may be cached"),
    ("CAP.ZLR", Cap::zlr, "zero-length reads of write-only pages"),
    ("CAP.DWD", Cap::dwd, "invalidation drains writes"),
    ("CAP.DRD", Cap::drd, "invalidation drains reads"),
    ("CAP.FS1GP", Cap::fs1gp, "first-stage 1 GiB pages"),
    ("CAP.PI", Cap::pi, "posted interrupts"),
    ("CAP.FS5LP", Cap::fs5lp, "5-level first stage"),
    ("CAP.ECMDS", Cap::ecmds, "enhanced commands"),
    ("CAP.ESIRTPS", Cap::esirtps, "setting the interrupt table invalidates the interrupt entry cache"),
    ("CAP.ESRTPS", Cap::esrtps, "setting the root table invalidates the translation caches"),
];

const ECAP: &Flags<Ecap> = &[
    ("ECAP.QI", Ecap::qi, "queued invalidation"),
    ("ECAP.DT", Ecap::dt, "device-TLBs (ATS)"),
    ("ECAP.IR", Ecap::ir, "interrupt remapping"),
    ("ECAP.EIM", Ecap::eim, "32-bit APIC ids"),
    ("ECAP.PT", Ecap::pt, "pass-through"),
    ("ECAP.SC", Ecap::sc, "snoop control"),
    ("ECAP.MTS", Ecap::mts, "memory types"),
    ("ECAP.PRS", Ecap::prs, "page requests"),
    ("ECAP.ERS", Ecap::ers, "execute requests"),
    ("ECAP.SRS", Ecap::srs, "supervisor requests"),
    ("ECAP.NWFS", Ecap::nwfs, "no-write flag of translation requests"),
    ("ECAP.EAFS", Ecap::eafs, "extended accessed flag"),
    ("ECAP.DIT", Ecap::dit, "throttling of device-TLB invalidations"),
    ("ECAP.PDS", Ecap::pds, "draining of page requests"),
    ("ECAP.SMTS", Ecap::smts, "scalable mode"),
    ("ECAP.VCS", Ecap::vcs, "virtual commands"),
    ("ECAP.SSADS", Ecap::ssads, "second-stage accessed and dirty flags"),
    ("ECAP.SSTS", Ecap::ssts, "scalable second stage"),
    ("ECAP.FSTS", Ecap::fsts, "first stage"),
    ("ECAP.SMPWCS", Ecap::smpwcs, "page walks through PASID tables can snoop"),
    ("ECAP.RPS", Ecap::rps, "PASID of requests without PASID can be chosen"),
    ("ECAP.TDXCS", Ecap::tdxcs, "TDX Connect"),
    ("ECAP.PMS", Ecap::pms, "performance monitoring"),
    ("ECAP.ADMS", Ecap::adms, "abort-DMA mode"),
    ("ECAP.RPRIVS", Ecap::rprivs, "privilege of requests without PASID can be chosen"),
    ("ECAP.HPTS", Ecap::hpts, "host permission tables"),
    ("ECAP.PTRS", Ecap::ptrs, "PASID in translated requests"),
    ("ECAP.SSIRWS", Ecap::ssirws, "separate I/O rights in second-stage entries"),
    ("ECAP.SMS", Ecap::sms, "stop markers"),
    ("ECAP.HPT1GPS", Ecap::hpt1gps, "1 GiB pages in host permission tables"),
    ("ECAP.RDTS", Ecap::rdts, "resource director"),
    ("ECAP.EIMER", Ecap::eimer, "32-bit APIC ids are required"),
    ("ECAP.IRREQ", Ecap::irreq, "interrupts are blocked while interrupt remapping is off"),
];

impl Capabilities {
    /// Gives `each` the name of a field and what it says in words, for all that the unit has.
    pub fn describe(&self, each: &mut dyn FnMut(&'static str, Arguments<'_>)) {
        let Capabilities { version, cap, ecap } = *self;
        each("VER", format_args!("version {}.{}", version.major(), version.minor()));
        second_stage(cap, each);
        each("CAP.MGAW", format_args!("{}-bit input addresses", cap.mgaw()));
        match cap.domain_ids() {
            0 => each("CAP.ND", format_args!("reserved number of domain ids")),
            n => each("CAP.ND", format_args!("{n} domain ids")),
        }
        match cap.nfr() {
            1 => each("CAP.NFR", format_args!("1 fault record at {:#x}", cap.fro())),
            n => each("CAP.NFR", format_args!("{n} fault records at {:#x}", cap.fro())),
        }
        if cap.psi() {
            each("CAP.PSI", format_args!("page-selective invalidation of up to 2^{} pages", cap.mamv()));
        }
        say(CAP, cap, each);
        let coherent =
            if ecap.c() { "tables are read through the CPU's caches" } else { "tables must be flushed to memory" };
        each("ECAP.C", format_args!("{coherent}"));
        if ecap.ir() {
            each("ECAP.MHMV", format_args!("invalidation of up to 2^{} interrupt entries", ecap.mhmv()));
        }
        if ecap.nest_bit() {
            let words =
                if ecap.nest() { "nested translation" } else { "nested translation without what it needs: not used" };
            each("ECAP.NEST", format_args!("{words}"));
        }
        if ecap.pasid() {
            each("ECAP.PSS", format_args!("PASIDs of {} bits", ecap.pss()));
        }
        say(ECAP, ecap, each);
    }
}

fn second_stage(cap: Cap, each: Each<'_>) {
    let mut any = false;
    for width in AddressWidth::ALL {
        if cap.supports(width) {
            any = true;
            each("CAP.SAGAW", format_args!("{}-bit, {}-level second stage", width.bits(), width.levels()));
        }
    }
    if !any {
        each("CAP.SAGAW", format_args!("no second stage"));
    }
    match (cap.pages_2m(), cap.pages_1g()) {
        (true, true) => each("CAP.SSLPS", format_args!("2 MiB and 1 GiB pages")),
        (true, false) => each("CAP.SSLPS", format_args!("2 MiB pages")),
        (false, true) => each("CAP.SSLPS", format_args!("1 GiB pages")),
        (false, false) => each("CAP.SSLPS", format_args!("4 KiB pages only")),
    }
}

fn say<T: Copy>(flags: &Flags<T>, value: T, each: Each<'_>) {
    for (name, reader, words) in flags {
        if reader(value) {
            each(name, format_args!("{words}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hw::capabilities::Version;
    use std::string::{String, ToString};
    use std::vec::Vec;

    fn lines(cap: u64, ecap: u64) -> Vec<(&'static str, String)> {
        let mut lines = Vec::new();
        let unit = Capabilities { version: Version(0x60), cap: Cap(cap), ecap: Ecap(ecap) };
        unit.describe(&mut |name, words| lines.push((name, words.to_string())));
        lines
    }

    fn says(lines: &[(&'static str, String)], name: &str, words: &str) -> bool {
        lines.iter().any(|(n, w)| *n == name && w == words)
    }

    /// Each reader looks at its bit and at no other.
    #[test]
    fn flags_read_their_bits() {
        let cap = [3, 4, 5, 6, 7, 22, 54, 55, 56, 59, 60, 61, 62, 63];
        let ecap = [
            1, 2, 3, 4, 6, 7, 25, 29, 30, 31, 33, 34, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 55, 56, 57,
            58, 59, 60, 61, 62,
        ];
        assert_eq!((CAP.len(), ECAP.len()), (cap.len(), ecap.len()));
        for ((name, reader, _), bit) in CAP.iter().zip(cap) {
            assert!(reader(Cap(1 << bit)) && !reader(Cap(!(1 << bit))), "{name}");
        }
        for ((name, reader, _), bit) in ECAP.iter().zip(ecap) {
            assert!(reader(Ecap(1 << bit)) && !reader(Ecap(!(1 << bit))), "{name}");
        }
    }

    #[test]
    fn server_in_words() {
        let lines = lines(0x19ed_008c_4078_0c66, 0x0003_ee9e_86f0_50df);
        for (name, words) in [
            ("VER", "version 6.0"),
            ("CAP.SAGAW", "48-bit, 4-level second stage"),
            ("CAP.SAGAW", "57-bit, 5-level second stage"),
            ("CAP.SSLPS", "2 MiB and 1 GiB pages"),
            ("CAP.MGAW", "57-bit input addresses"),
            ("CAP.ND", "65536 domain ids"),
            ("CAP.NFR", "1 fault record at 0x400"),
            ("CAP.PSI", "page-selective invalidation of up to 2^45 pages"),
            ("ECAP.C", "tables are read through the CPU's caches"),
            ("ECAP.QI", "queued invalidation"),
            ("ECAP.NEST", "nested translation"),
        ] {
            assert!(says(&lines, name, words), "{name}: {words}");
        }
        // ECAP.PASID is 0 on this unit, whatever PSS says.
        assert!(!lines.iter().any(|(name, _)| *name == "ECAP.PSS" || *name == "CAP.CM"));
    }

    #[test]
    fn what_is_missing_is_said() {
        let lines = lines(0x0000_0300_0000_0007, 1 << 26);
        for (name, words) in [
            ("CAP.SAGAW", "no second stage"),
            ("CAP.SSLPS", "4 KiB pages only"),
            ("CAP.ND", "reserved number of domain ids"),
            ("CAP.NFR", "4 fault records at 0x0"),
            ("ECAP.C", "tables must be flushed to memory"),
            ("ECAP.NEST", "nested translation without what it needs: not used"),
        ] {
            assert!(says(&lines, name, words), "{name}: {words}");
        }
    }

    #[test]
    fn pasid_width_is_said() {
        assert!(says(&lines(0, 0x8d9a_20f0_0f4e), "ECAP.PSS", "PASIDs of 20 bits"));
    }
}
