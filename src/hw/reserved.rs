//! Which bits of an entry are reserved on a unit: set in a present entry they are a fault. VT-d 9.1 to 9.8.
//!
//! Each function gives the bits in the entry's own words. `width` is the host address width of the machine.

use super::capabilities::{Cap, Capabilities, Ecap};
use super::field::Field;
use super::pages::{self, ADDRESS, IO_WRITE, MAX_LEAF_LEVEL, PAGE_SIZE, SNOOP};
use super::pasid_tables::{
    AW, CD, DID, DTE, DirectoryEntry, EAFE, EMTE, FSPM, PASIDE, PAT, PDTS, PGSNP, PGTT, PRE, PWSNP, PasidEntry,
    RID_PASID, RID_PRIV, SRE, SSADE, ScalableContextEntry, WPE,
};
use super::tables::{CONTEXT_AW, CONTEXT_DID, CONTEXT_SOFTWARE, ContextEntry, FPD, P, RootEntry, TT, Translation};

/// The page address of a pointer, all bits that there are.
const POINTER: Field = Field::bits(63, 12);
/// Scalable context entry: host permission tables for translated requests, PASIDs in translated requests.
const HPTE: Field = Field::bit(5);
const EPTR: Field = Field::bit(6);
/// PASID table entry, third word: ignored.
const IGNORED: Field = Field::bits(6, 5);
/// Fifth word: HPTSZ and HPTPFD.
const HPT_FLAGS: Field = Field::bits(2, 0);

/// All bits of a field.
const fn all(field: Field) -> u64 {
    field.in_place(u64::MAX)
}

/// All bits of a field where the unit has what it is for.
const fn of(has: bool, field: Field) -> u64 {
    if has { all(field) } else { 0 }
}

/// The bits above the host's addresses.
const fn beyond(width: u8) -> u64 {
    u64::MAX << if width < 52 { width } else { 52 }
}

const fn pointer(width: u8) -> u64 {
    all(POINTER) & !beyond(width)
}

/// A field of domain ids that have `bits` bits.
const fn domain(bits: Option<u8>, field: Field) -> u64 {
    match bits {
        Some(bits @ 0..=16) => field.with((1 << bits) - 1),
        _ => 0,
    }
}

/// Of a legacy root entry.
pub const fn root(width: u8) -> [u64; 2] {
    [!(all(P) | pointer(width)), u64::MAX]
}

/// Of each half of a scalable root entry.
pub const fn scalable_root(width: u8) -> u64 {
    !(all(P) | pointer(width))
}

/// Of `entry` in a legacy context table. Pass-through ignores the address of its tables.
pub const fn context(entry: ContextEntry, cap: Cap, width: u8) -> [u64; 2] {
    context_of(entry, cap.domain_id_bits(), width)
}

const fn context_of(entry: ContextEntry, ids: Option<u8>, width: u8) -> [u64; 2] {
    let table =
        if matches!(entry.translation(), Some(Translation::PassThrough)) { all(POINTER) } else { pointer(width) };
    let hi = all(CONTEXT_AW) | all(CONTEXT_SOFTWARE) | domain(ids, CONTEXT_DID);
    [!(all(P) | all(FPD) | all(TT) | table), !hi]
}

/// Of a scalable context entry.
pub const fn scalable_context(e: Ecap, width: u8) -> [u64; 4] {
    let allowed = of(e.dt(), DTE) | of(e.pasid(), PASIDE) | of(e.prs(), PRE);
    let translated = of(e.hpts(), HPTE) | of(e.ptrs(), EPTR);
    let lo = all(P) | all(FPD) | allowed | translated | all(PDTS) | pointer(width);
    [!lo, !(of(e.rps(), RID_PASID) | of(e.rprivs(), RID_PRIV)), u64::MAX, u64::MAX]
}

/// Whether a scalable context entry allows PASIDs in translated requests but not in others, which is not allowed.
pub const fn contradicts(entry: u64) -> bool {
    EPTR.is_set(entry) && !PASIDE.is_set(entry)
}

/// Of a PASID directory entry.
pub const fn directory(width: u8) -> u64 {
    !(all(P) | all(FPD) | pointer(width))
}

/// Of an entry in a PASID table. AW is reserved without ECAP.SSTS, says Intel; known units ignore it there, and with
/// `strict_width` it is reserved.
pub const fn pasid(cap: Cap, e: Ecap, width: u8, strict_width: bool) -> [u64; 8] {
    let ids = domain(cap.domain_id_bits(), DID);
    let aw = of(e.ssts() || !strict_width, AW);
    let table = if e.ssts() { pointer(width) } else { 0 };
    let a = all(P) | all(FPD) | aw | all(PGTT) | of(e.ssts() && e.ssads(), SSADE) | table;
    let types = of(e.mts(), CD) | of(e.mts(), EMTE) | of(e.mts(), PAT);
    let b = ids | of(e.smpwcs(), PWSNP) | of(e.sc(), PGSNP) | types;
    let first = of(e.fsts(), FSPM) | of(e.fsts(), WPE) | if e.fsts() { pointer(width) } else { 0 };
    let c = of(e.srs(), SRE) | all(IGNORED) | of(e.eafs(), EAFE) | first;
    let (hpt, hptdid) = if e.hpts() { (all(HPT_FLAGS) | pointer(width), ids) } else { (0, 0) };
    [!a, !b, !c, u64::MAX, !hpt, !hptdid, u64::MAX, u64::MAX]
}

/// The address bits of an entry below the page that it maps; nothing for a table.
const fn unaligned(level: u8, leaf: bool) -> u64 {
    if leaf { ADDRESS & !pages::leaf_address(level) } else { 0 }
}

/// Whether a second-stage entry of `level` says that it maps a page.
pub const fn second_is_leaf(entry: u64, level: u8) -> bool {
    level == 1 || level <= MAX_LEAF_LEVEL && entry & PAGE_SIZE != 0
}

/// Of a second-stage entry in a table of `level`. With `io_rights` (RTADDR.SSIRWE) bit 62 is a right.
pub const fn second(entry: u64, level: u8, caps: &Capabilities, width: u8, io_rights: bool) -> u64 {
    let large = match level {
        1 => true,
        2 => caps.cap.pages_2m(),
        3 => caps.cap.pages_1g(),
        _ => false,
    };
    let leaf = second_is_leaf(entry, level);
    (ADDRESS & beyond(width))
        | (if io_rights { 0 } else { IO_WRITE })
        | (if large { 0 } else { PAGE_SIZE })
        | (if leaf && caps.ecap.sc() { 0 } else { SNOOP })
        | unaligned(level, leaf)
}

/// Whether a first-stage entry of `level` says that it maps a page.
pub const fn first_is_leaf(entry: u64, level: u8) -> bool {
    level == 1 || level <= MAX_LEAF_LEVEL && entry & pages::first::PS != 0
}

/// Of a first-stage entry in a table of `level`.
pub const fn first(entry: u64, level: u8, caps: &Capabilities, width: u8) -> u64 {
    let large = match level {
        1 | 2 => true,
        3 => caps.cap.fs1gp(),
        _ => false,
    };
    let leaf = first_is_leaf(entry, level);
    let pat = if leaf && level > 1 { pages::first::PAT_LARGE } else { 0 };
    (ADDRESS & beyond(width)) | (if large { 0 } else { pages::first::PS }) | unaligned(level, leaf) & !pat
}

/// Whether any of the bits is set.
fn any<const N: usize>(words: [u64; N], masks: [u64; N]) -> bool {
    words.iter().zip(masks).any(|(word, mask)| word & mask != 0)
}

impl RootEntry {
    /// Whether a present entry of legacy mode sets a reserved bit, on a machine whose addresses have `width` bits.
    pub fn reserved(self, width: u8) -> bool {
        self.table().is_some() && any([self.lo, self.hi], root(width))
    }

    /// Whether a present half of an entry of scalable mode does.
    pub fn scalable_reserved(self, width: u8) -> bool {
        let mask = |half: Option<u64>| half.map_or(0, |_| scalable_root(width));
        any([self.lo, self.hi], [mask(self.table()), mask(self.upper())])
    }
}

impl ContextEntry {
    /// Whether it sets a reserved bit, on a machine whose addresses have `width` bits and a unit whose domain ids have
    /// `ids` bits. What pass-through does not look at may be anything.
    pub fn reserved(self, width: u8, ids: u8) -> bool {
        any([self.lo, self.hi], context_of(self, Some(ids), width))
    }
}

impl ScalableContextEntry {
    /// Whether it sets a reserved bit, on a machine whose addresses have `width` bits: one that never means anything, or one
    /// of what the unit lacks.
    pub fn reserved(self, ecap: Ecap, width: u8) -> bool {
        any(self.0, scalable_context(ecap, width))
    }
}

impl DirectoryEntry {
    /// Whether it sets a reserved bit, on a machine whose addresses have `width` bits.
    pub fn reserved(self, width: u8) -> bool {
        any([self.0], [directory(width)])
    }
}

impl PasidEntry {
    /// Whether it sets a reserved bit, on a machine whose addresses have `width` bits: one that never means anything, or one
    /// of what the unit lacks. AW counts as known everywhere: some units want it where the specification does not.
    pub fn reserved(self, cap: Cap, ecap: Ecap, width: u8) -> bool {
        any(self.0, pasid(cap, ecap, width, false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hw::capabilities::{AddressWidth, Ecap, Version};
    use crate::hw::pasid_tables::{Allowed, FirstStage, SecondStage};
    use crate::hw::tables::RootEntry;

    fn unit(cap: u64, ecap: u64) -> Capabilities {
        Capabilities { version: Version(0x50), cap: Cap(cap), ecap: Ecap(ecap) }
    }

    /// 16-bit domain ids, every page size, every field of the tables.
    const CAP: u64 = 6 | 3 << 34 | 1 << 56 | 1 << 60;
    const ECAP: u64 = 1 << 2
        | 1 << 6
        | 1 << 7
        | 1 << 25
        | 1 << 26
        | 1 << 29
        | 1 << 31
        | 1 << 34
        | 1 << 40
        | 1 << 43
        | 0x1f << 45
        | 1 << 53
        | 3 << 55;

    #[test]
    fn what_the_driver_builds_has_none_set() {
        let caps = unit(CAP, ECAP);
        let address = 0xf_ffff_ffff_f000;
        let entry = RootEntry::legacy(address);
        assert_eq!([entry.lo & root(52)[0], entry.hi & root(52)[1], entry.lo & scalable_root(52)], [0; 3]);
        let entry = ContextEntry::second_stage(address, AddressWidth::Bits57, 0xffff).with_software(15).with_fpd(true);
        assert_eq!([entry.lo & context(entry, caps.cap, 52)[0], entry.hi & context(entry, caps.cap, 52)[1]], [0; 2]);
        let all = Allowed { device_tlb: true, pasid: true, page_requests: true };
        let entry = ScalableContextEntry::new(address, 7, 0xf_ffff, all).with_rid_priv();
        assert_eq!(entry.0.iter().zip(scalable_context(caps.ecap, 52)).map(|(w, m)| w & m).sum::<u64>(), 0);
        assert_eq!(DirectoryEntry::new(address).0 & directory(52), 0);
        let first = FirstStage {
            table: address,
            five_levels: true,
            supervisor: true,
            write_protect: true,
            extended_accessed: true,
        };
        let second = SecondStage { table: address, width: AddressWidth::Bits57, accessed_dirty: true };
        let entry = PasidEntry::nested(first, second, 0xffff).with_walk_snoop().with_page_snoop();
        let entry = entry.with_memory_types(true, true, u32::MAX);
        assert_eq!(entry.0.iter().zip(pasid(caps.cap, caps.ecap, 52, true)).map(|(w, m)| w & m).sum::<u64>(), 0);
    }

    #[test]
    fn fields_of_what_a_unit_lacks_are_reserved() {
        let bare = unit(0, 1 << 43);
        // Pointers of 39 bits; domain ids of 4.
        let high = u64::MAX << 39;
        assert_eq!(root(39), [high | 0xffe, u64::MAX]);
        let through = ContextEntry { lo: 9 | 1 << 51, hi: 0 };
        assert_eq!(context(through, bare.cap, 39), [0xff0, !0xf7f]);
        assert_eq!(context(ContextEntry { lo: 1, hi: 0 }, bare.cap, 39)[0], high | 0xff0);
        assert_eq!(scalable_context(bare.ecap, 39), [high | 0x1fc, u64::MAX, u64::MAX, u64::MAX]);
        assert_eq!(directory(39), high | 0xffc);
        assert_eq!(
            pasid(bare.cap, bare.ecap, 39, true),
            [!0x1c3, !0xf, !0x60, u64::MAX, u64::MAX, u64::MAX, u64::MAX, u64::MAX]
        );
        assert_eq!(pasid(bare.cap, bare.ecap, 39, false)[0], !0x1df);
        // One capability, one field.
        let with = |bit: u64| pasid(Cap(0), Ecap(1 << 43 | bit), 39, true);
        assert_eq!(with(1 << 46)[0], !(0x1df | !high & !0xfff));
        assert_eq!([with(1 << 48)[1], with(1 << 7)[1]], [!(1 << 23 | 0xf), !(1 << 24 | 0xf)]);
        assert_eq!(with(1 << 25)[1], !(0xffff_ffff_0600_000f));
        assert_eq!([with(1 << 31)[2], with(1 << 34)[2]], [!0x61, !0xe0]);
        assert_eq!(with(1 << 47)[2], !(0x7c | !high & !0xfff));
        assert_eq!([with(1 << 55)[4], with(1 << 55)[5]], [!(7 | !high & !0xfff), !0xf]);
        let with = |bit: u64| !scalable_context(Ecap(1 << 43 | bit), 12)[0] & !0xe03;
        assert_eq!([2, 40, 29, 55, 56].map(|bit| with(1 << bit)), [4, 8, 16, 32, 64]);
        assert!(contradicts(1 << 6) && !contradicts(1 << 6 | 1 << 3) && !contradicts(1 << 3));
    }

    #[test]
    fn page_entries() {
        let (all, bare) = (unit(CAP, ECAP), unit(0, 0));
        let ps = PAGE_SIZE;
        // Second stage: PS above level 3 and without the size, SNP in tables and without SC, bit 62, low address bits.
        assert_eq!(second(3, 4, &all, 52, false), IO_WRITE | ps | SNOOP);
        assert_eq!(second(3, 3, &all, 52, true), SNOOP);
        assert_eq!(second(ps, 3, &all, 52, false), IO_WRITE | 0x3fff_f000);
        assert_eq!(second(ps, 2, &all, 46, false), IO_WRITE | 0x1f_f000 | 0x3f << 46);
        assert_eq!(second(ps, 2, &bare, 52, false), IO_WRITE | ps | SNOOP | 0x1f_f000);
        assert_eq!(second(0, 1, &bare, 52, false), IO_WRITE | SNOOP);
        // First stage: PS above level 3 and without FS1GP; PAT of large pages is no address.
        assert_eq!([first(1, 5, &all, 52), first(1, 4, &all, 52), first(1, 3, &all, 52)], [ps, ps, 0]);
        assert_eq!([first(ps, 3, &all, 52), first(ps, 2, &all, 52)], [0x3fff_e000, 0x1f_e000]);
        assert_eq!([first(ps, 3, &bare, 52), first(ps, 1, &bare, 51)], [ps | 0x3fff_e000, 1 << 51]);
    }
}
