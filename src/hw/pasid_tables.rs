//! Scalable-mode context entry, PASID directory entry and PASID table entry. VT-d 9.4 to 9.6.

use super::capabilities::AddressWidth;
use super::field::{Field, encoding};

/// P of every entry.
pub(super) const P: Field = Field::bit(0);
/// FPD of every entry.
pub(super) const FPD: Field = Field::bit(1);
/// The address of the next table.
const TABLE: Field = Field::bits(51, 12);

pub(super) const DTE: Field = Field::bit(2);
pub(super) const PASIDE: Field = Field::bit(3);
pub(super) const PRE: Field = Field::bit(4);
pub(super) const PDTS: Field = Field::bits(11, 9);
/// In the second word.
pub(super) const RID_PASID: Field = Field::bits(19, 0);
/// In the second word.
pub(super) const RID_PRIV: Field = Field::bit(20);

/// Scalable-mode context entry, four words. VT-d 9.4.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct ScalableContextEntry(pub [u64; 4]);

/// What a scalable-mode context entry lets a device do besides plain DMA.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Allowed {
    /// DTE: translation requests and translated requests (ECAP.DT).
    pub device_tlb: bool,
    /// PASIDE: requests with PASID (ECAP.PASID).
    pub pasid: bool,
    /// PRE: page requests (ECAP.PRS); needs `device_tlb`.
    pub page_requests: bool,
}

impl ScalableContextEntry {
    /// The device reaches nothing and its faults are recorded.
    pub const ABSENT: ScalableContextEntry = ScalableContextEntry([0; 4]);

    /// A present entry: a directory of 2^(`pdts` + 7) entries at `directory`; requests without PASID use `rid_pasid`
    /// (0 without ECAP.RPS).
    pub const fn new(directory: u64, pdts: u8, rid_pasid: u32, allowed: Allowed) -> Self {
        let flags = DTE.flag(allowed.device_tlb) | PASIDE.flag(allowed.pasid) | PRE.flag(allowed.page_requests);
        let lo = P.flag(true) | flags | PDTS.with(pdts as u64) | TABLE.in_place(directory);
        ScalableContextEntry([lo, RID_PASID.with(rid_pasid as u64), 0, 0])
    }

    /// The same entry, its qualified faults not recorded if `disabled`; counts in an absent entry too.
    pub const fn with_fpd(self, disabled: bool) -> Self {
        let [a, b, c, d] = self.0;
        ScalableContextEntry([a & !FPD.flag(true) | FPD.flag(disabled), b, c, d])
    }

    /// The same entry with requests without PASID taken as privileged (ECAP.RPRIVS).
    pub const fn with_rid_priv(self) -> Self {
        let [a, b, c, d] = self.0;
        ScalableContextEntry([a, b | RID_PRIV.flag(true), c, d])
    }

    /// P.
    pub const fn present(self) -> bool {
        let [a, ..] = self.0;
        P.is_set(a)
    }

    /// FPD: qualified faults are not recorded.
    pub const fn fpd(self) -> bool {
        let [a, ..] = self.0;
        FPD.is_set(a)
    }

    /// What the device may do.
    pub const fn allowed(self) -> Allowed {
        let [a, ..] = self.0;
        Allowed { device_tlb: DTE.is_set(a), pasid: PASIDE.is_set(a), page_requests: PRE.is_set(a) }
    }

    /// The PASID directory.
    pub const fn directory(self) -> u64 {
        let [a, ..] = self.0;
        TABLE.in_place(a)
    }

    /// How many PASIDs the directory covers.
    pub const fn pasids(self) -> u32 {
        let [a, ..] = self.0;
        1 << (PDTS.of(a) + 13)
    }

    /// The PASID of requests without one.
    pub const fn rid_pasid(self) -> u32 {
        let [_, b, ..] = self.0;
        RID_PASID.of(b) as u32
    }

    /// RID_PRIV: requests without PASID are privileged.
    pub const fn rid_priv(self) -> bool {
        let [_, b, ..] = self.0;
        RID_PRIV.is_set(b)
    }
}

/// PASID directory entry. VT-d 9.5.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct DirectoryEntry(pub u64);

impl DirectoryEntry {
    /// A present entry: the PASID table at `table`.
    pub const fn new(table: u64) -> Self {
        DirectoryEntry(P.flag(true) | TABLE.in_place(table))
    }

    /// The PASID table, where the entry is present.
    pub const fn table(self) -> Option<u64> {
        if P.is_set(self.0) { Some(TABLE.in_place(self.0)) } else { None }
    }

    /// FPD: qualified faults are not recorded.
    pub const fn fpd(self) -> bool {
        FPD.is_set(self.0)
    }
}

/// First word: AW, PGTT, SSADE.
pub(super) const AW: Field = Field::bits(4, 2);
pub(super) const PGTT: Field = Field::bits(8, 6);
pub(super) const SSADE: Field = Field::bit(9);
/// Second word.
pub(super) const DID: Field = Field::bits(15, 0);
pub(super) const PWSNP: Field = Field::bit(23);
pub(super) const PGSNP: Field = Field::bit(24);
pub(super) const CD: Field = Field::bit(25);
pub(super) const EMTE: Field = Field::bit(26);
pub(super) const PAT: Field = Field::bits(63, 32);
/// Third word: SRE, FSPM, WPE, EAFE; the first-stage table's address in it may be a guest's.
pub(super) const SRE: Field = Field::bit(0);
pub(super) const FSPM: Field = Field::bits(3, 2);
pub(super) const WPE: Field = Field::bit(4);
pub(super) const EAFE: Field = Field::bit(7);
const FIRST_TABLE: Field = Field::bits(63, 12);

encoding! {
    /// PGTT: how requests with this PASID are translated.
    pub enum PasidTranslation {
        /// First-stage tables (ECAP.FSTS).
        FirstStage = 1,
        /// Second-stage tables (ECAP.SSTS).
        SecondStage = 2,
        /// First-stage tables of a guest, then second-stage tables (ECAP.NEST).
        Nested = 3,
        /// None (ECAP.PT).
        PassThrough = 4,
    }
}

/// The first-stage half of a PASID table entry.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FirstStage {
    /// The top table: a host address, or a guest address where nested.
    pub table: u64,
    /// FSPM: 5 levels instead of 4 (CAP.FS5LP).
    pub five_levels: bool,
    /// SRE: supervisor requests are served (ECAP.SRS).
    pub supervisor: bool,
    /// WPE: supervisor writes obey the tables.
    pub write_protect: bool,
    /// EAFE: the extended accessed flag is set (ECAP.EAFS).
    pub extended_accessed: bool,
}

impl FirstStage {
    /// Tables of 4 levels at `table` and nothing else.
    pub const fn four_levels(table: u64) -> Self {
        FirstStage { table, five_levels: false, supervisor: false, write_protect: false, extended_accessed: false }
    }

    const fn word(self) -> u64 {
        SRE.flag(self.supervisor)
            | FSPM.flag(self.five_levels)
            | WPE.flag(self.write_protect)
            | EAFE.flag(self.extended_accessed)
            | FIRST_TABLE.in_place(self.table)
    }
}

/// The second-stage half of a PASID table entry.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SecondStage {
    /// The top table.
    pub table: u64,
    /// AW.
    pub width: AddressWidth,
    /// SSADE: accessed and dirty flags are maintained (ECAP.SSADS).
    pub accessed_dirty: bool,
}

impl SecondStage {
    /// Tables of that width at `table`, no accessed and dirty flags.
    pub const fn new(table: u64, width: AddressWidth) -> Self {
        SecondStage { table, width, accessed_dirty: false }
    }

    const fn word(self) -> u64 {
        AW.with(self.width as u64) | SSADE.flag(self.accessed_dirty) | TABLE.in_place(self.table)
    }
}

/// PASID table entry, eight words. VT-d 9.6.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct PasidEntry(pub [u64; 8]);

impl PasidEntry {
    /// Requests with this PASID reach nothing and their faults are recorded.
    pub const ABSENT: PasidEntry = PasidEntry([0; 8]);

    const fn new(translation: PasidTranslation, lo: u64, did: u16, third: u64) -> Self {
        let lo = P.flag(true) | PGTT.with(translation as u64) | lo;
        PasidEntry([lo, DID.with(did as u64), third, 0, 0, 0, 0, 0])
    }

    /// First-stage translation.
    pub const fn first_stage(first: FirstStage, did: u16) -> Self {
        Self::new(PasidTranslation::FirstStage, 0, did, first.word())
    }

    /// Second-stage translation.
    pub const fn second_stage(second: SecondStage, did: u16) -> Self {
        Self::new(PasidTranslation::SecondStage, second.word(), did, 0)
    }

    /// First stage, then second stage.
    pub const fn nested(first: FirstStage, second: SecondStage, did: u16) -> Self {
        Self::new(PasidTranslation::Nested, second.word(), did, first.word())
    }

    /// No translation.
    pub const fn pass_through(did: u16) -> Self {
        Self::new(PasidTranslation::PassThrough, 0, did, 0)
    }

    const fn with(self, first: u64, second: u64) -> Self {
        let [a, b, c, d, e, f, g, h] = self.0;
        PasidEntry([a | first, b | second, c, d, e, f, g, h])
    }

    /// The same entry with AW set where its translation does not read it: some units want the first stage's width
    /// there. Must stay 0 without ECAP.SSTS, says Intel.
    pub const fn with_width(self, width: AddressWidth) -> Self {
        let [a, b, c, d, e, f, g, h] = self.0;
        PasidEntry([a & !AW.in_place(u64::MAX) | AW.with(width as u64), b, c, d, e, f, g, h])
    }

    /// The same entry, its page walks snooping the CPU's caches (PWSNP; ECAP.SMPWCS).
    pub const fn with_walk_snoop(self) -> Self {
        self.with(0, PWSNP.flag(true))
    }

    /// The same entry, all its accesses snooping the CPU's caches (PGSNP; ECAP.SC).
    pub const fn with_page_snoop(self) -> Self {
        self.with(0, PGSNP.flag(true))
    }

    /// The same entry with its memory types: `uncached` (CD), second-stage memory types used (EMTE), and the PAT
    /// (ECAP.MTS).
    pub const fn with_memory_types(self, uncached: bool, second_stage: bool, pat: u32) -> Self {
        self.with(0, CD.flag(uncached) | EMTE.flag(second_stage) | PAT.with(pat as u64))
    }

    /// The same entry, its qualified faults not recorded if `disabled`; counts in an absent entry too.
    pub const fn with_fpd(self, disabled: bool) -> Self {
        let [a, b, c, d, e, f, g, h] = self.0;
        PasidEntry([a & !FPD.flag(true) | FPD.flag(disabled), b, c, d, e, f, g, h])
    }

    /// The same entry, not present.
    pub const fn cleared(self) -> Self {
        let [a, b, c, d, e, f, g, h] = self.0;
        PasidEntry([a & !P.flag(true), b, c, d, e, f, g, h])
    }

    const fn words(self) -> (u64, u64, u64) {
        let [a, b, c, ..] = self.0;
        (a, b, c)
    }

    /// P.
    pub const fn present(self) -> bool {
        P.is_set(self.words().0)
    }

    /// FPD: qualified faults are not recorded.
    pub const fn fpd(self) -> bool {
        FPD.is_set(self.words().0)
    }

    /// PGTT; `None` for the reserved encodings.
    pub const fn translation(self) -> Option<PasidTranslation> {
        PasidTranslation::of(PGTT.of(self.words().0))
    }

    /// The domain id.
    pub const fn did(self) -> u16 {
        DID.of(self.words().1) as u16
    }

    /// AW; `None` for 0 and the reserved encodings.
    pub const fn width(self) -> Option<AddressWidth> {
        AddressWidth::of(AW.of(self.words().0))
    }

    /// The second-stage half; `None` where AW is not one of the widths.
    pub const fn second(self) -> Option<SecondStage> {
        let (a, ..) = self.words();
        match self.width() {
            Some(width) => Some(SecondStage { table: TABLE.in_place(a), width, accessed_dirty: SSADE.is_set(a) }),
            None => None,
        }
    }

    /// The first-stage half; `None` where FSPM is reserved.
    pub const fn first(self) -> Option<FirstStage> {
        let (.., c) = self.words();
        let five_levels = match FSPM.of(c) {
            0 => false,
            1 => true,
            _ => return None,
        };
        Some(FirstStage {
            table: FIRST_TABLE.in_place(c),
            five_levels,
            supervisor: SRE.is_set(c),
            write_protect: WPE.is_set(c),
            extended_accessed: EAFE.is_set(c),
        })
    }

    /// SRE: supervisor requests are served, whatever the translation.
    pub const fn supervisor(self) -> bool {
        SRE.is_set(self.words().2)
    }

    /// PWSNP.
    pub const fn walk_snoop(self) -> bool {
        PWSNP.is_set(self.words().1)
    }

    /// PGSNP.
    pub const fn page_snoop(self) -> bool {
        PGSNP.is_set(self.words().1)
    }
}

#[cfg(test)]
mod tests {
    use super::super::capabilities::{Cap, Ecap};
    use super::*;

    #[test]
    fn context() {
        let all = Allowed { device_tlb: true, pasid: true, page_requests: true };
        let entry = ScalableContextEntry::new(0x4000, 7, 0, all);
        assert_eq!(entry.0, [0x4e1d, 0, 0, 0]);
        assert_eq!((entry.directory(), entry.pasids(), entry.allowed()), (0x4000, 1 << 20, all));
        let entry = ScalableContextEntry::new(0x4000, 0, 0xf_fff1, Allowed::default()).with_rid_priv();
        assert_eq!(entry.0, [0x4001, 0x1f_fff1, 0, 0]);
        assert_eq!((entry.rid_pasid(), entry.pasids(), entry.present()), (0xf_fff1, 1 << 13, true));
        let one = |allowed| ScalableContextEntry::new(0, 0, 0, allowed).0[0] & !1;
        assert_eq!(one(Allowed { device_tlb: true, ..Allowed::default() }), 4);
        assert_eq!(one(Allowed { pasid: true, ..Allowed::default() }), 8);
        assert_eq!(one(Allowed { page_requests: true, ..Allowed::default() }), 16);
        let quiet = ScalableContextEntry::ABSENT.with_fpd(true);
        assert_eq!((quiet.0[0], quiet.present(), quiet.fpd()), (2, false, true));
    }

    #[test]
    fn directory() {
        assert_eq!(DirectoryEntry::new(0x9000).0, 0x9001);
        assert_eq!(DirectoryEntry(0x9003).table(), Some(0x9000));
        assert!(DirectoryEntry(0x9003).fpd());
        assert_eq!(DirectoryEntry(0x9002).table(), None);
    }

    #[test]
    fn first_stage() {
        let entry = PasidEntry::first_stage(FirstStage::four_levels(0x3000), 1).with_walk_snoop();
        assert_eq!(entry.0, [0x41, 0x80_0001, 0x3000, 0, 0, 0, 0, 0]);
        assert_eq!(entry.with_width(AddressWidth::Bits48).0[0], 0x49);
        assert_eq!(entry.first(), Some(FirstStage::four_levels(0x3000)));
        assert_eq!((entry.translation(), entry.did()), (Some(PasidTranslation::FirstStage), 1));
        let table = 0xffff_8000_0000_5000;
        let rest =
            FirstStage { table, five_levels: true, supervisor: true, write_protect: true, extended_accessed: true };
        let entry = PasidEntry::first_stage(rest, 1);
        assert_eq!(entry.0[2], 0xffff_8000_0000_5095);
        assert_eq!(entry.first(), Some(rest));
        assert_eq!(PasidEntry([0, 0, 8, 0, 0, 0, 0, 0]).first(), None);
    }

    #[test]
    fn second_stage() {
        let second = SecondStage::new(0x5000, AddressWidth::Bits48);
        let entry = PasidEntry::second_stage(second, 2).with_walk_snoop();
        assert_eq!(entry.0, [0x5089, 0x80_0002, 0, 0, 0, 0, 0, 0]);
        assert_eq!((entry.second(), entry.walk_snoop(), entry.page_snoop()), (Some(second), true, false));
        let dirty = SecondStage { accessed_dirty: true, ..second };
        let entry = PasidEntry::second_stage(dirty, 2).with_page_snoop();
        assert_eq!((entry.0[0], entry.0[1]), (0x5289, 0x100_0002));
        assert_eq!((entry.second(), entry.page_snoop()), (Some(dirty), true));
    }

    #[test]
    fn nested_and_pass_through() {
        let second = SecondStage::new(0x5000, AddressWidth::Bits48);
        let entry = PasidEntry::nested(FirstStage::four_levels(0x6000), second, 3);
        assert_eq!(entry.0, [0x50c9, 3, 0x6000, 0, 0, 0, 0, 0]);
        assert_eq!(PasidEntry::pass_through(1).0, [0x101, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(PasidEntry::pass_through(1).second(), None);
        assert_eq!(PasidEntry([0x141, 0, 0, 0, 0, 0, 0, 0]).translation(), None);
    }

    #[test]
    fn flags() {
        let entry = PasidEntry::pass_through(1).with_memory_types(true, true, 0x0007_0406);
        assert_eq!(entry.0[1], 0x0007_0406_0600_0001);
        let quiet = PasidEntry::ABSENT.with_fpd(true);
        assert_eq!((quiet.0[0], quiet.present(), quiet.fpd()), (2, false, true));
        let cleared = PasidEntry::pass_through(1).with_fpd(true).cleared();
        assert_eq!((cleared.0[0], cleared.present(), cleared.did()), (0x102, false, 1));
    }

    #[test]
    fn reserved_bits_of_scalable_entries() {
        let (cap, all, none) = (Cap(2), Ecap(u64::MAX), Ecap(0));
        let allowed = Allowed { device_tlb: true, pasid: true, page_requests: true };
        let context = ScalableContextEntry::new(0x4000, 7, 0xf_ffff, allowed).with_fpd(true).with_rid_priv();
        assert!(!context.reserved(all, 39) && context.reserved(none, 39));
        for (word, bits) in [(0, 1u64 << 7 | 1 << 39), (1, 1 << 21), (2, 1), (3, 1)] {
            for bit in (0..64).filter(|b| bits >> b & 1 != 0) {
                let mut odd = context;
                odd.0[word] |= 1 << bit;
                assert!(odd.reserved(all, 39), "{bit} of {word}");
            }
        }
        assert!(!ScalableContextEntry::new(0x4000, 2, 0, Allowed::default()).reserved(none, 39));
        assert!(!DirectoryEntry(0x4003).reserved(39) && DirectoryEntry(0x4005).reserved(39));
        assert!(DirectoryEntry(1 << 39 | 1).reserved(39));
        let dirty = SecondStage { accessed_dirty: true, ..SecondStage::new(0x5000, AddressWidth::Bits48) };
        let first = FirstStage { supervisor: true, write_protect: true, ..FirstStage::four_levels(1 << 50) };
        let nested = PasidEntry::nested(first, dirty, 0xff).with_walk_snoop().with_page_snoop();
        assert!(nested.reserved(cap, all, 39), "9.6 reserves what is above the host's width in a guest's address, too");
        assert!(!nested.reserved(cap, all, 51));
        assert!(nested.reserved(Cap(0), all, 51), "a domain id too large");
        assert!(PasidEntry::first_stage(first, 1).reserved(cap, all, 39));
        let plain = PasidEntry::pass_through(1);
        assert!(!plain.reserved(cap, none, 39) && !plain.with_width(AddressWidth::Bits48).reserved(cap, none, 39));
        for (word, bit) in [
            (0, 5u64),
            (0, 9),
            (0, 12),
            (1, 16),
            (1, 23),
            (1, 24),
            (1, 25),
            (1, 32),
            (2, 0),
            (2, 1),
            (2, 2),
            (2, 7),
            (2, 12),
            (3, 0),
            (4, 0),
            (5, 0),
            (6, 0),
            (7, 63),
        ] {
            let mut odd = plain;
            odd.0[word] |= 1 << bit;
            assert!(odd.reserved(cap, none, 39), "{bit} of {word}");
        }
        let mut ignored = plain;
        ignored.0[2] |= 1 << 5;
        assert!(!ignored.reserved(cap, none, 39));
    }
}
