//! The PASIDs of one requester: its PASID directory and PASID tables (VT-d 3.4.3, 9.5, 9.6).
//!
//! Each requester id has a directory of its own, also within a group: context entries are one for each id, ids come and
//! go one by one, and no table needs to know who else names it. What is flushed is the same, for PASID caches and
//! translations are flushed by domain id.

use super::root::TableMemory;
use crate::host::error::{ErrorKind, Field};
use crate::host::mem::Frames;
use crate::host::platform::Platform;
use crate::hw::pasid_tables::{Allowed, DirectoryEntry, PasidEntry, PasidTranslation, ScalableContextEntry};
use crate::hw::tables::{directory_index, pasid_index};
use alloc::vec::Vec;

/// The PASID of requests without one. Units without ECAP.RPS know no other.
pub(crate) const RID_PASID: u32 = 0;

const ENTRY_WORDS: usize = 8;

/// PASIDs in one table, as a power of two.
const TABLE_BITS: u8 = 6;

/// What a requester can do with PASIDs and what its context entry lets it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Requester {
    /// Bits of the PASIDs that it and its unit both know; 0 for none.
    pub(crate) pasid_bits: u8,
    pub(crate) allowed: Allowed,
}

/// A PASID directory, and the PASID tables that hang on it.
pub(crate) struct PasidTables {
    directory: Frames,
    pdts: u8,
    allowed: Allowed,
    /// By their place in the directory, in order.
    tables: Vec<(usize, Frames)>,
}

impl PasidTables {
    /// An empty directory for the PASIDs of a requester: a page holds 2^15, the largest, of 32 pages, 2^20.
    pub(crate) fn new<P: Platform>(p: &P, memory: TableMemory, of: Requester) -> Result<Self, ErrorKind> {
        let order = of.pasid_bits.min(20).saturating_sub(15);
        let directory = memory.tables(p, order)?;
        // 2^(PDTS + 7) entries; PDTS has three bits, and 7 is for 2^20 PASIDs.
        let pdts = (9 + order).saturating_sub(7);
        Ok(PasidTables { directory, pdts, allowed: of.allowed, tables: Vec::new() })
    }

    /// The context entry of the requester.
    pub(crate) fn context<P: Platform>(&self, p: &P) -> ScalableContextEntry {
        ScalableContextEntry::new(self.directory.hpa(p).get(), self.pdts, RID_PASID, self.allowed)
    }

    /// What the context entry lets the requester do.
    pub(crate) fn allowed(&self) -> Allowed {
        self.allowed
    }

    /// Changes that; the context entry is still to be written.
    pub(super) fn set_allowed(&mut self, allowed: Allowed) {
        self.allowed = allowed;
    }

    fn table(&self, pasid: u32) -> Option<&Frames> {
        let i = self.tables.binary_search_by_key(&directory_index(pasid), |(i, _)| *i).ok()?;
        self.tables.get(i).map(|(_, t)| t)
    }

    /// The directory, and the tables.
    pub(super) fn frames(&self) -> impl Iterator<Item = &Frames> {
        core::iter::once(&self.directory).chain(self.tables.iter().map(|(_, t)| t))
    }

    /// Makes the PASID table for the entry of `pasid`, where there is none.
    pub(crate) fn prepare<P: Platform>(&mut self, p: &P, memory: TableMemory, pasid: u32) -> Result<(), ErrorKind> {
        let at = directory_index(pasid);
        if at >= 1 << (self.pdts + 7) {
            return Err(ErrorKind::Invalid(Field::Pasid));
        }
        if let Err(place) = self.tables.binary_search_by_key(&at, |(i, _)| *i) {
            let entry = memory.insert(p, &mut self.tables, place, at)?;
            memory.store(p, &self.directory, at, &[DirectoryEntry::new(entry.get()).0]);
        }
        Ok(())
    }

    pub(crate) fn get(&self, pasid: u32) -> PasidEntry {
        let at = pasid_index(pasid) * ENTRY_WORDS;
        match self.table(pasid) {
            Some(t) => PasidEntry(core::array::from_fn(|i| t.get(at + i))),
            None => PasidEntry::ABSENT,
        }
    }

    /// Replaces the entry of a PASID that was prepared. A present one takes another's place only where `seamless` says that
    /// it can.
    pub(crate) fn set<P: Platform>(&self, p: &P, memory: TableMemory, pasid: u32, e: PasidEntry) {
        if let Some(t) = self.table(pasid) {
            let at = pasid_index(pasid) * ENTRY_WORDS;
            memory.replace(p, t, at, self.get(pasid).present(), &e.0);
        }
    }

    /// The present entries, with their PASIDs.
    pub(crate) fn present(&self) -> impl Iterator<Item = (u32, PasidEntry)> + '_ {
        let pasids =
            self.tables.iter().flat_map(|(i, _)| (0..1u32 << TABLE_BITS).map(|n| (*i as u32) << TABLE_BITS | n));
        pasids.map(|pasid| (pasid, self.get(pasid))).filter(|(_, e)| e.present())
    }

    /// Gives all of it back. Only for a unit whose translation is off.
    pub(crate) fn release<P: Platform>(self, p: &P) {
        for (_, t) in self.tables {
            t.free(p);
        }
        self.directory.free(p);
    }
}

/// Whether a present entry can take the place of a present one in one store of 16 bytes, the first two words (6.2.3.1): the
/// third, which hardware may have read before, says the same, or is not looked at by the new one. What stays in it then
/// is cleared with the entry. SRE alone counts whatever the translation: it must not stay behind.
pub(crate) fn seamless(old: PasidEntry, new: PasidEntry) -> bool {
    let ([_, _, was, ..], [_, _, is, ..]) = (old.0, new.0);
    let unread = matches!(new.translation(), Some(PasidTranslation::SecondStage | PasidTranslation::PassThrough));
    was == is || unread && is == 0 && !old.supervisor()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hw::capabilities::AddressWidth;
    use crate::hw::pasid_tables::{FirstStage, SecondStage};

    #[test]
    fn one_store_replaces_what_differs_in_its_first_words_alone() {
        let first = FirstStage::four_levels(0x3000);
        let (low, high) =
            (SecondStage::new(0x5000, AddressWidth::Bits48), SecondStage::new(0x7000, AddressWidth::Bits48));
        let (second, passing) = (PasidEntry::second_stage(low, 2), PasidEntry::pass_through(1));
        let nested = PasidEntry::nested(first, low, 3);
        // The guest's table stays, or is not looked at.
        assert!(seamless(nested, PasidEntry::nested(first, high, 4)));
        assert!(seamless(nested, second) && seamless(nested, passing));
        // Another table, or the same of another form.
        for other in [FirstStage::four_levels(0x4000), FirstStage { five_levels: true, ..first }] {
            assert!(!seamless(nested, PasidEntry::nested(other, low, 4)));
        }
        assert!(!seamless(second, nested) && !seamless(passing, nested));
        // Supervisors would be served by what knows nothing of them.
        let served = PasidEntry::nested(FirstStage { supervisor: true, ..first }, low, 3);
        assert!(!seamless(served, second) && !seamless(served, passing));
    }
}
