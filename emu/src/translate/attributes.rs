//! How the page of a translation is accessed: snooping (3.10) and memory type (3.11).

use super::mtrr;
use super::outcome::{ALL, Found, WRITE_BACK};
use super::second::SecondLeaf;
use crate::caches::Stage;
use crate::formats::{FirstStageEntry, PasidEntry as Entry, SecondStageEntry};
use crate::profile::Profile;
use crate::registers::Registers;

/// Beside a PAT type: it is to be combined with the MTRRs' type of the address.
const BY_MTRR: u8 = 0x80;

const UNCACHEABLE: u8 = 0;
const WRITE_COMBINING: u8 = 1;
const WRITE_THROUGH: u8 = 4;
const WRITE_PROTECTED: u8 = 5;
/// UC-, as the PAT encodes it.
const UNCACHED: u8 = 7;

/// What a PASID entry says about pages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attributes {
    snoop: bool,
    /// ECAP.MTS: memory types mean something.
    typed: bool,
    disabled: bool,
    /// EMTE.
    extended: bool,
    pat: u64,
}

impl Attributes {
    pub(super) fn of(profile: &Profile, entry: &Entry) -> Self {
        Attributes {
            snoop: entry.has(Entry::PGSNP),
            typed: profile.mts(),
            disabled: entry.has(Entry::CD),
            extended: entry.has(Entry::EMTE),
            pat: entry.get(Entry::PAT),
        }
    }
    /// Whether accesses snoop even with the no-snoop attribute; with the second-stage leaf, where there is one (Table 6).
    pub(super) fn snoops(&self, leaf: Option<&SecondLeaf>) -> bool {
        self.snoop || leaf.is_some_and(|leaf| leaf.entry.has(SecondStageEntry::SNP))
    }
    /// The memory type under pass-through (Table 9).
    pub(super) fn pass_through(&self) -> u8 {
        if self.typed && self.disabled { UNCACHEABLE } else { WRITE_BACK }
    }
    /// The memory type of a leaf of the first stage, the second, or both (Table 9), as far as it does not depend on the MTRRs.
    pub(super) fn memory(&self, first: Option<(FirstStageEntry, u32)>, second: Option<&SecondLeaf>) -> u8 {
        if !self.typed {
            return WRITE_BACK;
        }
        if self.disabled {
            return UNCACHEABLE;
        }
        let second = second
            .filter(|_| self.extended)
            .map(|leaf| (leaf.entry.get(SecondStageEntry::EMT) as u8, leaf.entry.has(SecondStageEntry::IPAT)));
        let pat = first.map(|(entry, bits)| (self.pat >> (4 * entry.pat(bits)) & 15) as u8);
        match (second, pat) {
            (None, None) => WRITE_BACK,
            (Some((extended, _)), None) | (Some((extended, true)), _) => known(extended),
            (Some((extended, false)), Some(pat)) => combine(known(extended), pat),
            (None, Some(pat)) => pat | BY_MTRR,
        }
    }
    /// The translation by a leaf of second-stage tables alone.
    pub(super) fn second_only(&self, address: u64, leaf: &SecondLeaf) -> Found {
        Found {
            first: address >> leaf.bits << leaf.bits,
            size: 1 << leaf.bits,
            physical: leaf.page,
            read: leaf.read,
            write: leaf.write,
            rights: ALL,
            dirty: true,
            snoop: self.snoops(Some(leaf)),
            memory: self.memory(None, Some(leaf)),
            stage: Stage::Second,
        }
    }
}

/// The memory type of an access (3.11.3).
pub(super) fn effective(memory: u8, registers: &Registers, width: u8, address: u64) -> u8 {
    if memory & BY_MTRR != 0 {
        combine(mtrr::memory_type(registers, width, address), memory & !BY_MTRR)
    } else {
        memory
    }
}

/// A memory type, or UC for encodings that are reserved.
pub(super) fn known(memory: u8) -> u8 {
    match memory {
        UNCACHEABLE | WRITE_COMBINING | WRITE_THROUGH | WRITE_PROTECTED | WRITE_BACK => memory,
        _ => UNCACHEABLE,
    }
}

/// The effective type of a base type (MTRR or EMT) and a PAT type (Table 7).
fn combine(base: u8, pat: u8) -> u8 {
    match (base, pat) {
        (_, WRITE_COMBINING) => WRITE_COMBINING,
        (WRITE_COMBINING | WRITE_PROTECTED, UNCACHED) => WRITE_COMBINING,
        (_, UNCACHEABLE | UNCACHED) => UNCACHEABLE,
        (UNCACHEABLE, _) => UNCACHEABLE,
        (WRITE_COMBINING, WRITE_BACK) => WRITE_COMBINING,
        (WRITE_COMBINING, _) => UNCACHEABLE,
        (WRITE_THROUGH, WRITE_PROTECTED) => WRITE_PROTECTED,
        (WRITE_THROUGH, WRITE_THROUGH | WRITE_BACK) => WRITE_THROUGH,
        (WRITE_PROTECTED, WRITE_THROUGH) => WRITE_THROUGH,
        (WRITE_PROTECTED, WRITE_PROTECTED | WRITE_BACK) => WRITE_PROTECTED,
        (WRITE_BACK, WRITE_THROUGH | WRITE_PROTECTED | WRITE_BACK) => pat,
        _ => UNCACHEABLE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effective_types_are_those_of_table_7() {
        // Base UC, WC, WT, WB, WP by PAT UC, UC-, WC, WT, WB, WP.
        let table = [
            (0, [0, 0, 1, 0, 0, 0]),
            (1, [0, 1, 1, 0, 1, 0]),
            (4, [0, 0, 1, 4, 4, 5]),
            (6, [0, 0, 1, 4, 6, 5]),
            (5, [0, 1, 1, 4, 5, 5]),
        ];
        for (base, row) in table {
            for (pat, effective) in [0, 7, 1, 4, 6, 5].into_iter().zip(row) {
                assert_eq!(combine(base, pat), effective, "base {base}, PAT {pat}");
            }
        }
    }
    #[test]
    fn reserved_types_are_uncacheable() {
        assert_eq!([2, 3, 7].map(known), [0, 0, 0]);
        assert_eq!([2, 3, 8, 15].map(|pat| combine(WRITE_BACK, pat)), [0, 0, 0, 0]);
    }
}
