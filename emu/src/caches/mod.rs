//! The caches (6.2): everything stays, with its tags, until an invalidation that by the specification covers it completes.
//!
//! The walk (`translate`) asks and fills them, the queue and the registers empty them, the oracle reads them.

use crate::invalidation::Invalidation;
use crate::reason::Reason;
use crate::request::{Pasid, SourceId};
use alloc::vec::Vec;

/// The physical pages of the tables that a cached value was reached through, outermost first.
pub type Path = Vec<u64>;

/// How long entries stay.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Keep {
    /// Until an invalidation covers them.
    #[default]
    Everything,
    /// The same, but in this percentage of look-ups the entry turns out to have been dropped.
    Most(u8),
    /// Nothing is kept.
    Nothing,
}

/// A value that was read, or on caching-mode units why it was no use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cached<T> {
    /// The entry.
    Valid(T),
    /// With CAP.CM: an entry that faults.
    Faulting(Reason),
}

/// A context entry, tagged by source; legacy entries also by domain (6.2.1).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Context {
    /// The entry: two words in legacy mode, four in scalable mode.
    pub words: [u64; 4],
    /// DID in legacy mode, 0 in scalable mode and for faulting entries.
    pub domain: u16,
    /// Where it came from.
    pub path: Path,
}

/// A PASID-table entry, tagged by source and PASID for look-up, by domain and PASID for invalidation (6.2.2).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PasidEntry {
    /// The entry.
    pub words: [u64; 8],
    /// FPD of the directory entry.
    pub silent: bool,
    /// DID; 0 for faulting entries.
    pub domain: u16,
    /// Where it came from.
    pub path: Path,
}

/// What kind of translation an entry is the result of: PGTT, or the legacy TT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// First-stage tables.
    First,
    /// Second-stage tables.
    Second,
    /// Both.
    Nested,
    /// Neither.
    PassThrough,
}

/// A translation (IOTLB, 6.2.4), tagged by source and, for requests with PASID, by PASID for look-up; by domain and PASID
/// (RID_PASID for requests without) for invalidation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leaf {
    /// First input address of the page.
    pub first: u64,
    /// Its size in bytes: that of the smaller of both stages' pages.
    pub size: u64,
    /// Physical address of the page.
    pub physical: u64,
    /// Reads pass.
    pub read: bool,
    /// Writes pass.
    pub write: bool,
    /// First stage: every entry of the walk was writable and a user's; supervisor rights are read anew from `first_rights`.
    pub first_rights: Rights,
    /// The dirty bits are set already: a write need not walk again.
    pub dirty: bool,
    /// SNP of the second-stage leaf.
    pub snoop: bool,
    /// Memory type of the second-stage leaf (EMT 2:0, IPAT bit 3), and of the first-stage leaf (PAT index in 6:4).
    pub memory: u8,
    /// Domain.
    pub domain: u16,
    /// The PASID that tags it; 0 in legacy mode.
    pub pasid: Pasid,
    /// What it is the result of.
    pub stage: Stage,
    /// Where it came from.
    pub path: Path,
}

/// Rights gathered on the way down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rights {
    /// R, or present in first-stage tables.
    pub read: bool,
    /// W, or R/W.
    pub write: bool,
    /// U/S in every first-stage entry so far; true for second-stage tables.
    pub user: bool,
}

/// A position in a walk (paging-structure caches, 6.2.5): first-stage ones are tagged by domain, PASID and address, second-stage
/// ones by domain and address. No source is among the tags.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Table {
    /// First address that the table serves.
    pub first: u64,
    /// How many address bits the table serves: 21 for a table of 4 KiB leaves, 30, 39, 48.
    pub bits: u8,
    /// Physical address of the table.
    pub table: u64,
    /// Rights so far.
    pub rights: Rights,
    /// Where it came from.
    pub path: Path,
}

/// The caches of one unit.
#[derive(Clone, Debug)]
pub struct Caches {
    keep: Keep,
}

impl Caches {
    /// Empty caches.
    pub fn new(keep: Keep, seed: u64) -> Self {
        let _ = seed;
        Caches { keep }
    }
    /// How long entries stay.
    pub fn keep(&self) -> Keep {
        self.keep
    }
    /// The context entry of a source.
    pub fn context(&mut self, _source: SourceId) -> Option<&Cached<Context>> {
        None
    }
    /// Keeps it.
    pub fn keep_context(&mut self, _source: SourceId, _entry: Cached<Context>) {}
    /// The PASID entry of a source and PASID.
    pub fn pasid(&mut self, _source: SourceId, _pasid: Pasid) -> Option<&Cached<PasidEntry>> {
        None
    }
    /// Keeps it.
    pub fn keep_pasid(&mut self, _source: SourceId, _pasid: Pasid, _entry: Cached<PasidEntry>) {}
    /// The translation of an address; `pasid` as in the request.
    pub fn leaf(&mut self, _source: SourceId, _pasid: Option<Pasid>, _address: u64) -> Option<&Cached<Leaf>> {
        None
    }
    /// Keeps it. A faulting one is a page of 4 KiB.
    pub fn keep_leaf(&mut self, _source: SourceId, _pasid: Option<Pasid>, _address: u64, _entry: Cached<Leaf>) {}
    /// The lowest first-stage table on the way to an address.
    pub fn first_stage(&mut self, _domain: u16, _pasid: Pasid, _address: u64) -> Option<&Table> {
        None
    }
    /// Keeps it.
    pub fn keep_first_stage(&mut self, _domain: u16, _pasid: Pasid, _table: Table) {}
    /// The lowest second-stage table on the way to an address.
    pub fn second_stage(&mut self, _domain: u16, _address: u64) -> Option<&Table> {
        None
    }
    /// Keeps it.
    pub fn keep_second_stage(&mut self, _domain: u16, _table: Table) {}
    /// The interrupt-remapping entry at an index.
    pub fn interrupt(&mut self, _index: u16) -> Option<&Cached<[u64; 2]>> {
        None
    }
    /// Keeps it.
    pub fn keep_interrupt(&mut self, _index: u16, _entry: Cached<[u64; 2]>) {}
    /// Forgets what an invalidation covers; where the specification lets it drop more, it drops as little as it may.
    pub fn invalidate(&mut self, _what: &Invalidation) {}
}
