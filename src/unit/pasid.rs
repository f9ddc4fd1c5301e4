//! The PASIDs of one requester: its PASID directory and PASID tables (VT-d 3.4.3, 9.5, 9.6).
//!
//! Each requester id has a directory of its own, also within a group: context entries are one for each id, ids come and
//! go one by one, and no table needs to know who else names it. What is flushed is the same, for PASID caches and
//! translations are flushed by domain id.

use super::root::TableMemory;
use crate::host::error::ErrorKind;
use crate::host::mem::Frames;
use crate::host::platform::Platform;
use crate::hw::pasid_tables::{Allowed, DirectoryEntry, PasidEntry, ScalableContextEntry};
use crate::hw::tables::{directory_index, pasid_index};
use alloc::vec::Vec;

/// The PASID of requests without one. Units without ECAP.RPS know no other.
pub(crate) const RID_PASID: u32 = 0;

/// A directory is a page, the least that there is: 512 entries, for 2^15 PASIDs.
const PDTS: u8 = 2;

const ENTRY_WORDS: usize = 8;

/// A PASID directory, and the PASID tables that hang on it.
pub(crate) struct PasidTables {
    directory: Frames,
    /// By their place in the directory.
    tables: Vec<(usize, Frames)>,
}

impl PasidTables {
    pub(crate) fn new<P: Platform>(p: &P, memory: TableMemory) -> Result<Self, ErrorKind> {
        Ok(PasidTables { directory: memory.table(p)?, tables: Vec::new() })
    }

    /// The context entry of the requester: requests without PASID, and nothing else.
    pub(crate) fn context<P: Platform>(&self, p: &P) -> ScalableContextEntry {
        ScalableContextEntry::new(self.directory.hpa(p).get(), PDTS, RID_PASID, Allowed::default())
    }

    fn table(&self, pasid: u32) -> Option<&Frames> {
        self.tables.iter().find(|(i, _)| *i == directory_index(pasid)).map(|(_, t)| t)
    }

    /// The directory, and the tables.
    pub(super) fn frames(&self) -> impl Iterator<Item = &Frames> {
        core::iter::once(&self.directory).chain(self.tables.iter().map(|(_, t)| t))
    }

    /// Makes the PASID table for the entry of `pasid`, where there is none.
    pub(crate) fn prepare<P: Platform>(&mut self, p: &P, memory: TableMemory, pasid: u32) -> Result<(), ErrorKind> {
        if self.table(pasid).is_some() {
            return Ok(());
        }
        let at = directory_index(pasid);
        let end = self.tables.len();
        let entry = memory.insert(p, &mut self.tables, end, at)?;
        memory.store(p, &self.directory, at, &[DirectoryEntry::new(entry.get()).0]);
        Ok(())
    }

    pub(crate) fn get(&self, pasid: u32) -> PasidEntry {
        let at = pasid_index(pasid) * ENTRY_WORDS;
        match self.table(pasid) {
            Some(t) => PasidEntry(core::array::from_fn(|i| t.get(at + i))),
            None => PasidEntry::ABSENT,
        }
    }

    /// Replaces the entry of a PASID that was prepared. Second-stage and pass-through entries differ in their first 128 bits
    /// alone.
    pub(crate) fn set<P: Platform>(&self, p: &P, memory: TableMemory, pasid: u32, e: PasidEntry) {
        if let Some(t) = self.table(pasid) {
            let at = pasid_index(pasid) * ENTRY_WORDS;
            memory.replace(p, t, at, self.get(pasid).present(), &e.0);
        }
    }

    /// Gives all of it back. Only for a unit whose translation is off.
    pub(crate) fn release<P: Platform>(self, p: &P) {
        for (_, t) in self.tables {
            t.free(p);
        }
        self.directory.free(p);
    }
}
