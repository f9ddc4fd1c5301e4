//! Root entries and the legacy context entry (VT-d 9.1 to 9.3); indices of all tables above the page tables (3.4).
//! Scalable entries: `pasid_tables`.
//!
//! An entry is built whole from what it must say; a change of one field is a new entry. Which words change together
//! is the writer's concern (VT-d 6.2.2.1, 6.2.3.1).

use super::capabilities::AddressWidth;
use super::field::{Field, encoding};

/// Entries in a root table, one for each bus, and in a legacy context table, one for each function of the bus.
pub const ROOT_ENTRIES: usize = 256;
/// Entries in a scalable context table: half a bus.
pub const SCALABLE_CONTEXT_ENTRIES: usize = 128;
/// Entries in a PASID table.
pub const PASID_ENTRIES: usize = 64;

/// Index of a source id in the root table: its bus.
pub const fn root_index(sid: u16) -> usize {
    (sid >> 8) as usize
}

/// Index of a source id in its legacy context table: device and function.
pub const fn context_index(sid: u16) -> usize {
    (sid & 0xff) as usize
}

/// Index of a source id in its scalable context table; which of the two: [`is_upper`].
pub const fn scalable_context_index(sid: u16) -> usize {
    (sid & 0x7f) as usize
}

/// Whether a source id is found in the upper of the two scalable context tables of its bus (devices 16 to 31).
pub const fn is_upper(sid: u16) -> bool {
    sid & 0x80 != 0
}

/// Index of a PASID in the PASID directory.
pub const fn directory_index(pasid: u32) -> usize {
    const { Field::bits(19, 6) }.of(pasid as u64) as usize
}

/// Index of a PASID in its PASID table.
pub const fn pasid_index(pasid: u32) -> usize {
    const { Field::bits(5, 0) }.of(pasid as u64) as usize
}

/// P of every entry.
pub(super) const P: Field = Field::bit(0);
/// FPD of every entry but the root entry.
pub(super) const FPD: Field = Field::bit(1);
/// The address of the next table in every entry.
const TABLE: Field = Field::bits(51, 12);

/// Root entry, legacy (VT-d 9.1) and scalable (9.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct RootEntry {
    /// Bits 63:0. Scalable: the lower context table.
    pub lo: u64,
    /// Bits 127:64. Legacy: 0. Scalable: the upper context table.
    pub hi: u64,
}

impl RootEntry {
    /// Nothing behind this bus: what a zeroed table holds.
    pub const ABSENT: RootEntry = RootEntry { lo: 0, hi: 0 };

    /// Legacy: the context table of the bus at `table`.
    pub const fn legacy(table: u64) -> Self {
        RootEntry { lo: P.flag(true) | TABLE.in_place(table), hi: 0 }
    }

    /// Scalable: a context table for each half of the bus, where there is one.
    pub const fn scalable(lower: Option<u64>, upper: Option<u64>) -> Self {
        RootEntry { lo: Self::half(lower), hi: Self::half(upper) }
    }

    const fn half(table: Option<u64>) -> u64 {
        match table {
            Some(t) => P.flag(true) | TABLE.in_place(t),
            None => 0,
        }
    }

    const fn read(word: u64) -> Option<u64> {
        if P.is_set(word) { Some(TABLE.in_place(word)) } else { None }
    }

    /// Legacy: the context table. Scalable: that of devices 0 to 15.
    pub const fn table(self) -> Option<u64> {
        Self::read(self.lo)
    }

    /// Scalable: the context table of devices 16 to 31.
    pub const fn upper(self) -> Option<u64> {
        Self::read(self.hi)
    }
}

encoding! {
    /// Translation type of a legacy context entry (TT).
    pub enum Translation {
        /// Untranslated requests go through second-stage tables; ATS is blocked.
        Untranslated = 0,
        /// The same, and ATS is allowed (ECAP.DT).
        WithDeviceTlb = 1,
        /// Untranslated requests pass as they are; ATS is blocked (ECAP.PT).
        PassThrough = 2,
    }
}

pub(super) const TT: Field = Field::bits(3, 2);
/// AW in the upper word of a context entry.
pub(super) const CONTEXT_AW: Field = Field::bits(2, 0);
/// Software's own bits in the upper word of a context entry.
pub(super) const CONTEXT_SOFTWARE: Field = Field::bits(6, 3);
pub(super) const CONTEXT_DID: Field = Field::bits(23, 8);

/// Legacy context entry. VT-d 9.3.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct ContextEntry {
    /// Bits 63:0.
    pub lo: u64,
    /// Bits 127:64.
    pub hi: u64,
}

impl ContextEntry {
    /// The device reaches nothing and its faults are recorded: what a zeroed table holds.
    pub const ABSENT: ContextEntry = ContextEntry { lo: 0, hi: 0 };

    /// A present entry. `table` is the top second-stage table and has as many levels as `width` says; pass-through
    /// ignores it and takes the widest that the unit supports.
    pub const fn new(translation: Translation, table: u64, width: AddressWidth, did: u16) -> Self {
        let table = match translation {
            Translation::PassThrough => 0,
            _ => TABLE.in_place(table),
        };
        ContextEntry {
            lo: P.flag(true) | TT.with(translation as u64) | table,
            hi: CONTEXT_AW.with(width as u64) | CONTEXT_DID.with(did as u64),
        }
    }

    /// Present, second-stage tables, no ATS.
    pub const fn second_stage(table: u64, width: AddressWidth, did: u16) -> Self {
        Self::new(Translation::Untranslated, table, width, did)
    }

    /// Present, no translation.
    pub const fn pass_through(width: AddressWidth, did: u16) -> Self {
        Self::new(Translation::PassThrough, 0, width, did)
    }

    /// The same entry, its qualified faults not recorded if `disabled`; counts in an absent entry too.
    pub const fn with_fpd(self, disabled: bool) -> Self {
        ContextEntry { lo: self.lo & !FPD.flag(true) | FPD.flag(disabled), hi: self.hi }
    }

    /// The same entry with four bits that hardware ignores.
    pub const fn with_software(self, bits: u8) -> Self {
        let kept = self.hi & !CONTEXT_SOFTWARE.in_place(u64::MAX);
        ContextEntry { lo: self.lo, hi: kept | CONTEXT_SOFTWARE.with(bits as u64) }
    }

    /// P.
    pub const fn present(self) -> bool {
        P.is_set(self.lo)
    }

    /// FPD: qualified faults are not recorded.
    pub const fn fpd(self) -> bool {
        FPD.is_set(self.lo)
    }

    /// TT; `None` for the reserved encoding.
    pub const fn translation(self) -> Option<Translation> {
        Translation::of(TT.of(self.lo))
    }

    /// The top second-stage table.
    pub const fn table(self) -> u64 {
        TABLE.in_place(self.lo)
    }

    /// AW; `None` for the reserved encodings.
    pub const fn width(self) -> Option<AddressWidth> {
        AddressWidth::of(CONTEXT_AW.of(self.hi))
    }

    /// The domain id.
    pub const fn did(self) -> u16 {
        CONTEXT_DID.of(self.hi) as u16
    }

    /// The bits that hardware ignores.
    pub const fn software(self) -> u8 {
        CONTEXT_SOFTWARE.of(self.hi) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices() {
        let sid = 0xabcd;
        assert_eq!((root_index(sid), context_index(sid)), (0xab, 0xcd));
        assert_eq!((scalable_context_index(sid), is_upper(sid)), (0x4d, true));
        // Device 15 is the last of the lower table.
        assert_eq!((scalable_context_index(0x7f), is_upper(0x7f)), (0x7f, false));
        assert_eq!((scalable_context_index(0x80), is_upper(0x80)), (0, true));
        assert_eq!((directory_index(0xf_ffff), pasid_index(0xf_ffff)), (0x3fff, 0x3f));
        assert_eq!((directory_index(0x41), pasid_index(0x41)), (1, 1));
    }

    #[test]
    fn root_entries() {
        let legacy = RootEntry::legacy(0x1234_5678_9000);
        assert_eq!((legacy.lo, legacy.hi), (0x1234_5678_9001, 0));
        assert_eq!((legacy.table(), legacy.upper()), (Some(0x1234_5678_9000), None));
        assert_eq!(RootEntry::ABSENT.table(), None);
        let both = RootEntry::scalable(Some(0x1000), Some(0x2000));
        assert_eq!((both.lo, both.hi), (0x1001, 0x2001));
        let upper = RootEntry::scalable(None, Some(0x2000));
        assert_eq!((upper.lo, upper.table(), upper.upper()), (0, None, Some(0x2000)));
    }

    #[test]
    fn context_entries() {
        let entry = ContextEntry::second_stage(0x1000, AddressWidth::Bits48, 5);
        assert_eq!((entry.lo, entry.hi), (0x1001, 0x502));
        assert_eq!((entry.present(), entry.fpd(), entry.table(), entry.did()), (true, false, 0x1000, 5));
        assert_eq!((entry.translation(), entry.width()), (Some(Translation::Untranslated), Some(AddressWidth::Bits48)));
        let pass = ContextEntry::pass_through(AddressWidth::Bits57, 5);
        assert_eq!((pass.lo, pass.hi), (0x9, 0x503));
        let ats = ContextEntry::new(Translation::WithDeviceTlb, 0xf_ffff_ffff_ffff, AddressWidth::Bits39, 0xffff);
        assert_eq!((ats.lo, ats.hi), (0xf_ffff_ffff_f005, 0xff_ff01));
        assert_eq!((ats.did(), ats.table()), (0xffff, 0xf_ffff_ffff_f000));
    }

    #[test]
    fn context_entry_oddities() {
        let quiet = ContextEntry::ABSENT.with_fpd(true);
        assert_eq!((quiet.lo, quiet.hi, quiet.present(), quiet.fpd()), (2, 0, false, true));
        assert_eq!(quiet.with_fpd(false), ContextEntry::ABSENT);
        let marked = ContextEntry::second_stage(0x1000, AddressWidth::Bits48, 5).with_software(0xf);
        assert_eq!((marked.hi, marked.software()), (0x57a, 0xf));
        assert_eq!(marked.with_software(0).hi, 0x502);
        let odd = ContextEntry { lo: 0xd, hi: 4 };
        assert_eq!((odd.translation(), odd.width()), (None, None));
        assert_eq!(ContextEntry { lo: 0, hi: 0 }.width(), None);
    }

    #[test]
    fn reserved_bits_of_root_and_context_entries() {
        let root = |lo, hi| RootEntry { lo, hi };
        assert!(!root(0x1001, 0).reserved(39) && !root(0xffe, 5).reserved(39), "absent entries may hold anything");
        assert!(root(0x1003, 0).reserved(39) && root(0x1001, 1).reserved(39) && root(1 << 39 | 1, 0).reserved(39));
        assert!(
            !root(1 << 39 | 1, 0).reserved(40)
                && !root(1 << 51 | 1, 0).reserved(52)
                && root(1 << 52 | 1, 0).reserved(64)
        );
        assert!(!root(0x1001, 0x2001).scalable_reserved(39) && !root(0x1002, 0x2001).scalable_reserved(39));
        assert!(root(0x1001, 0x2003).scalable_reserved(39) && root(1 << 39 | 1, 0).scalable_reserved(39));
        let entry = ContextEntry::second_stage(0x1000, AddressWidth::Bits48, 0xff).with_fpd(true).with_software(0xf);
        assert!(!entry.reserved(39, 8) && entry.reserved(39, 4));
        let with = |lo, hi| ContextEntry { lo: entry.lo | lo, hi: entry.hi | hi };
        for bit in [4u32, 11, 39, 51, 63] {
            assert!(with(1 << bit, 0).reserved(39, 8), "{bit}");
        }
        for bit in [7, 16, 24, 63] {
            assert!(with(0, 1 << bit).reserved(39, 8), "{bit} of the second word");
        }
        let pass = ContextEntry::pass_through(AddressWidth::Bits48, 1);
        assert!(!ContextEntry { lo: pass.lo | 1 << 60, ..pass }.reserved(39, 8), "nobody looks at its table");
        assert!(ContextEntry { lo: pass.lo | 1 << 5, ..pass }.reserved(39, 8));
    }
}
