//! The caches (6.2): everything stays, with its tags, until an invalidation that by the specification covers it completes.
//!
//! The walk (`translate`) asks and fills them, the queue and the registers empty them, the oracle reads them.

mod iotlb;
mod range;
mod store;
mod tables;
#[cfg(test)]
mod tests;

pub use iotlb::Translation;

use crate::invalidation::{Invalidation, Pages};
use crate::random::Random;
use crate::reason::Reason;
use crate::request::{Pasid, SourceId};
use crate::state::Mode;
use crate::story::Happening;
use crate::unit::Unit;
use alloc::vec::Vec;
use iotlb::Iotlb;
use range::Range;
use store::{Reached, Store};
use tables::Tables;

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
    /// DID in legacy mode, 0 in scalable mode.
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
    /// DID.
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
    /// The second stage, if it had a part, lets it be read.
    pub read: bool,
    /// The second stage, if it had a part, lets it be written.
    pub write: bool,
    /// What every entry of the first stage allows, if it had a part; what that means depends on who asks.
    pub first_rights: Rights,
    /// The dirty bits are set already: a write need not walk again.
    pub dirty: bool,
    /// SNP of the second-stage leaf, or PGSNP.
    pub snoop: bool,
    /// Memory type by the tables; bit 7: it is to be combined with that of the MTRRs.
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

/// A cached entry by its cache and tags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Held {
    /// Context cache.
    Context(SourceId),
    /// PASID cache.
    Pasid {
        /// Who asked.
        source: SourceId,
        /// The PASID.
        pasid: Pasid,
        /// DID.
        domain: u16,
    },
    /// IOTLB.
    Translation {
        /// Who asked.
        source: SourceId,
        /// DID.
        domain: u16,
        /// The PASID that tags it.
        pasid: Pasid,
        /// First input address.
        first: u64,
    },
    /// First-stage paging-structure cache.
    FirstStage {
        /// DID.
        domain: u16,
        /// The PASID.
        pasid: Pasid,
        /// First input address.
        first: u64,
    },
    /// Second-stage paging-structure cache.
    SecondStage {
        /// DID.
        domain: u16,
        /// First input address.
        first: u64,
    },
}

/// The caches of one unit.
#[derive(Clone, Debug)]
pub struct Caches {
    keep: Keep,
    /// How many entries each cache may have.
    capacity: usize,
    random: Random,
    contexts: Store<SourceId, Cached<Context>>,
    pasids: Store<(SourceId, Pasid), Cached<PasidEntry>>,
    iotlb: Iotlb,
    first_stage: Tables<(u16, Pasid)>,
    second_stage: Tables<u16>,
    interrupts: Store<u16, Cached<[u64; 2]>>,
}

impl Caches {
    /// Empty caches.
    pub fn new(keep: Keep, seed: u64) -> Self {
        Caches {
            keep,
            capacity: usize::MAX,
            random: Random::new(seed),
            contexts: Store::new(),
            pasids: Store::new(),
            iotlb: Iotlb::new(),
            first_stage: Tables::new(),
            second_stage: Tables::new(),
            interrupts: Store::new(),
        }
    }
    /// How long entries stay.
    pub fn keep(&self) -> Keep {
        self.keep
    }
    /// Says how long entries stay from now on; what there is goes if nothing is to be kept.
    pub fn set_keep(&mut self, keep: Keep) {
        self.keep = keep;
        if keep == Keep::Nothing {
            self.invalidate(&Invalidation::Everything, Mode::Legacy);
            self.invalidate(&Invalidation::Interrupts, Mode::Legacy);
        }
    }
    /// Says how many entries each cache may have from now on; a new one takes the place of the oldest.
    pub fn set_capacity(&mut self, capacity: Option<usize>) {
        self.capacity = capacity.unwrap_or(usize::MAX).max(1);
    }
    /// Whether the entry that is asked for turns out to have been dropped.
    fn drops(&mut self) -> bool {
        match self.keep {
            Keep::Most(percent) => self.random.percent(u64::from(percent)),
            _ => false,
        }
    }

    /// The context entry of a source.
    pub fn context(&mut self, source: SourceId) -> Option<&Cached<Context>> {
        if self.drops() {
            self.contexts.remove(&source);
        }
        self.contexts.get(&source)
    }
    /// Keeps it.
    pub fn keep_context(&mut self, source: SourceId, entry: Cached<Context>) {
        keep_in(&mut self.contexts, self.keep, self.capacity, source, entry);
    }
    /// The PASID entry of a source and PASID.
    pub fn pasid(&mut self, source: SourceId, pasid: Pasid) -> Option<&Cached<PasidEntry>> {
        if self.drops() {
            self.pasids.remove(&(source, pasid));
        }
        self.pasids.get(&(source, pasid))
    }
    /// Keeps it.
    pub fn keep_pasid(&mut self, source: SourceId, pasid: Pasid, entry: Cached<PasidEntry>) {
        keep_in(&mut self.pasids, self.keep, self.capacity, (source, pasid), entry);
    }
    /// The translation of an address; `pasid` as in the request.
    pub fn leaf(&mut self, source: SourceId, pasid: Option<Pasid>, address: u64) -> Option<&Cached<Leaf>> {
        let mut key = self.iotlb.find(source, pasid, address)?;
        if self.drops() {
            self.iotlb.remove(&key);
            key = self.iotlb.find(source, pasid, address)?;
        }
        self.iotlb.get(&key).map(|translation| &translation.found)
    }
    /// Keeps it.
    pub fn keep_leaf(&mut self, source: SourceId, pasid: Option<Pasid>, leaf: Leaf) {
        if self.keep != Keep::Nothing {
            self.iotlb.insert(source, pasid, leaf, self.capacity);
        }
    }
    /// Keeps the reason why there is no translation, for the page of 4 KiB at an address, with the tags that the translation
    /// would have had. Faults of first-stage tables are not kept, whatever CAP.CM says (6.2.4.1).
    pub fn keep_fault(
        &mut self,
        (source, pasid, address): (SourceId, Option<Pasid>, u64),
        tags: (u16, Pasid, Stage),
        reason: Reason,
    ) {
        if self.keep != Keep::Nothing && tags.2 != Stage::First {
            self.iotlb.insert_fault((source, pasid, address), tags, reason, self.capacity);
        }
    }
    /// The lowest first-stage table on the way to an address.
    pub fn first_stage(&mut self, domain: u16, pasid: Pasid, address: u64) -> Option<&Table> {
        let mut key = self.first_stage.find((domain, pasid), address)?;
        if self.drops() {
            self.first_stage.remove(&key);
            key = self.first_stage.find((domain, pasid), address)?;
        }
        self.first_stage.get(&key)
    }
    /// Keeps it.
    pub fn keep_first_stage(&mut self, domain: u16, pasid: Pasid, table: Table) {
        if self.keep != Keep::Nothing {
            self.first_stage.insert((domain, pasid), table, self.capacity);
        }
    }
    /// The lowest second-stage table on the way to an address.
    pub fn second_stage(&mut self, domain: u16, address: u64) -> Option<&Table> {
        let mut key = self.second_stage.find(domain, address)?;
        if self.drops() {
            self.second_stage.remove(&key);
            key = self.second_stage.find(domain, address)?;
        }
        self.second_stage.get(&key)
    }
    /// Keeps it.
    pub fn keep_second_stage(&mut self, domain: u16, table: Table) {
        if self.keep != Keep::Nothing {
            self.second_stage.insert(domain, table, self.capacity);
        }
    }
    /// The interrupt-remapping entry at an index.
    pub fn interrupt(&mut self, index: u16) -> Option<&Cached<[u64; 2]>> {
        if self.drops() {
            self.interrupts.remove(&index);
        }
        self.interrupts.get(&index)
    }
    /// Keeps it.
    pub fn keep_interrupt(&mut self, index: u16, entry: Cached<[u64; 2]>) {
        keep_in(&mut self.interrupts, self.keep, self.capacity, index, entry);
    }

    /// Forgets what an invalidation covers; where the specification lets it drop more, it drops as little as it may. `mode` is
    /// that of the tables: in scalable mode context entries have no domain among their tags (6.5.2.1).
    pub fn invalidate(&mut self, what: &Invalidation, mode: Mode) {
        match *what {
            Invalidation::Contexts => self.contexts.clear(),
            Invalidation::ContextsOfDomain(domain) => {
                self.contexts.remove_if(|_, entry| mode != Mode::Legacy || entry.domain() == domain);
            }
            Invalidation::ContextOfDevice { domain, source, mask } => {
                // FM leaves out bits of the function from the highest of the three on (Table 21).
                let looked_at = !([0, 4, 6, 7][usize::from(mask & 3)]);
                self.contexts.remove_if(|of, entry| {
                    of & looked_at == source & looked_at && (mode != Mode::Legacy || entry.domain() == domain)
                });
            }
            Invalidation::Pasids => self.pasids.clear(),
            Invalidation::PasidsOfDomain(domain) => self.pasids.remove_if(|_, entry| entry.domain() == domain),
            Invalidation::PasidOfDomain(domain, pasid) => {
                self.pasids.remove_if(|of, entry| of.1 == pasid && entry.domain() == domain);
            }
            Invalidation::Iotlb => self.forget_translations(),
            Invalidation::IotlbOfDomain(domain) => {
                self.iotlb.forget_domain(domain);
                self.first_stage.forget((domain, 0), (domain, Pasid::MAX));
                self.second_stage.forget(domain, domain);
            }
            Invalidation::IotlbPages(domain, pages) => {
                let range = Range::of(&pages);
                self.iotlb.forget_range(domain, false, None, range);
                self.iotlb.forget_part(domain, true, None);
                self.first_stage.forget((domain, 0), (domain, Pasid::MAX));
                if !pages.leaf_only {
                    self.second_stage.forget_range(domain, range);
                }
            }
            Invalidation::PasidIotlb(domain, pasid) => {
                self.iotlb.forget_pasid(domain, pasid);
                self.first_stage.forget((domain, pasid), (domain, pasid));
            }
            Invalidation::PasidIotlbPages(domain, pasid, pages) => {
                let range = Range::of(&pages);
                self.iotlb.forget_range(domain, true, Some(pasid), range);
                if !pages.leaf_only {
                    self.first_stage.forget_range((domain, pasid), range);
                }
            }
            Invalidation::Interrupts => self.interrupts.clear(),
            Invalidation::InterruptsAt(index, mask) => {
                let shift = u32::from(mask).min(16);
                self.interrupts.remove_if(|of, _| u32::from(*of) >> shift == u32::from(index) >> shift);
            }
            // Host permissions are read anew each time.
            Invalidation::HostPermissions => {}
            Invalidation::Everything => {
                self.contexts.clear();
                self.pasids.clear();
                self.forget_translations();
            }
        }
    }
    fn forget_translations(&mut self) {
        self.iotlb.clear();
        self.first_stage.clear();
        self.second_stage.clear();
    }

    /// The context cache: source, entry.
    pub fn contexts(&self) -> impl Iterator<Item = (SourceId, &Cached<Context>)> {
        self.contexts.iter().map(|(source, entry)| (*source, entry))
    }
    /// The PASID cache: source, PASID, entry.
    pub fn pasids(&self) -> impl Iterator<Item = (SourceId, Pasid, &Cached<PasidEntry>)> {
        self.pasids.iter().map(|((source, pasid), entry)| (*source, *pasid, entry))
    }
    /// The IOTLB.
    pub fn translations(&self) -> impl Iterator<Item = &Translation> {
        self.iotlb.iter()
    }
    /// The first-stage paging-structure cache: domain, PASID, table.
    pub fn first_stages(&self) -> impl Iterator<Item = (u16, Pasid, &Table)> {
        self.first_stage.iter().map(|((domain, pasid), table)| (domain, pasid, table))
    }
    /// The second-stage paging-structure cache: domain, table.
    pub fn second_stages(&self) -> impl Iterator<Item = (u16, &Table)> {
        self.second_stage.iter()
    }
    /// The interrupt entry cache: index, entry.
    pub fn interrupts(&self) -> impl Iterator<Item = (u16, &Cached<[u64; 2]>)> {
        self.interrupts.iter().map(|(index, entry)| (*index, entry))
    }
    /// An entry that was reached through a table in the pages from `first` to `last`, if there is one.
    pub fn holds_pages(&self, first: u64, last: u64) -> Option<Held> {
        let (first, last) = (first & !0xfff, last | 0xfff);
        let name = |&(source, pasid): &(SourceId, Pasid), entry: &Cached<PasidEntry>| Held::Pasid {
            source,
            pasid,
            domain: entry.domain(),
        };
        (self.iotlb.reached(first, last))
            .or_else(|| {
                let name = |(domain, pasid), first| Held::FirstStage { domain, pasid, first };
                self.first_stage.reached(first, last, name)
            })
            .or_else(|| self.second_stage.reached(first, last, |domain, first| Held::SecondStage { domain, first }))
            .or_else(|| self.pasids.reached(first, last, name))
            .or_else(|| self.contexts.reached(first, last, |source, _| Held::Context(*source)))
    }
    /// An entry that was reached through a table in the page at an address, if there is one.
    pub fn holds_page(&self, page: u64) -> Option<Held> {
        self.holds_pages(page, page)
    }
}

fn keep_in<K: Ord + Copy, V: Reached>(store: &mut Store<K, V>, keep: Keep, capacity: usize, key: K, value: V) {
    if keep == Keep::Nothing {
        return;
    }
    store.insert(key, value);
    if store.len() > capacity
        && let Some(key) = store.oldest()
    {
        store.remove(&key);
    }
}

impl Cached<Context> {
    /// The domain that tags it in legacy mode (6.2.2): 0 where it faults.
    pub fn domain(&self) -> u16 {
        match self {
            Cached::Valid(context) => context.domain,
            Cached::Faulting(_) => 0,
        }
    }
}

impl Cached<PasidEntry> {
    /// The domain that tags it (6.2.3): 0 where it faults.
    pub fn domain(&self) -> u16 {
        match self {
            Cached::Valid(entry) => entry.domain,
            Cached::Faulting(_) => 0,
        }
    }
}

impl Invalidation {
    /// What a page request that the unit accepts invalidates by itself (6.5.3.1, Table 27).
    pub fn of_page_request(stage: Stage, domain: u16, pasid: Pasid, address: u64) -> Self {
        let pages = Pages { address, order: 0, leaf_only: false };
        match stage {
            Stage::First => Invalidation::PasidIotlbPages(domain, pasid, pages),
            Stage::Second | Stage::PassThrough => Invalidation::IotlbPages(domain, pages),
            Stage::Nested => Invalidation::IotlbOfDomain(domain),
        }
    }
}

impl Unit {
    /// Forgets what an invalidation covers, and tells so.
    pub(crate) fn forget(&mut self, what: Invalidation) {
        self.caches.invalidate(&what, self.state.mode);
        self.tell(Happening::Forgot(what));
    }
    /// Says how long cached entries stay, and how many entries each cache may have.
    pub fn set_caching(&mut self, keep: Keep, capacity: Option<usize>) {
        self.caches.set_capacity(capacity);
        self.caches.set_keep(keep);
    }
}
