//! The walk through first-stage tables (3.6), whose addresses a second stage may translate (3.8).

use super::attributes::Attributes;
use super::lookup::Tags;
use super::outcome::{ALL, Found};
use super::second::SecondStage;
use super::{Stop, Walk, Want};
use crate::bus::Snoop;
use crate::caches::{Rights, Stage, Table};
use crate::explain::{Observer, Step, What};
use crate::formats::{FirstStageEntry as Entry, PasidEntry};
use crate::reason::Reason;
use crate::request::{Answer, Pasid, Request};

/// First-stage tables, and how they are walked.
#[derive(Clone, Copy, Debug)]
pub(super) struct FirstStage {
    /// The top table; under nesting an address that the second stage translates.
    table: u64,
    /// How many address bits it serves: 48, 57.
    bits: u32,
    domain: u16,
    pasid: Pasid,
    snoop: Snoop,
    /// EAFE: entries have extended-accessed bits.
    extended: bool,
    /// Under nesting.
    pub(super) second: Option<SecondStage>,
}

/// A leaf of first-stage tables.
#[derive(Clone, Copy, Debug)]
pub(super) struct FirstLeaf {
    /// How many address bits it serves: 12, 21, 30.
    pub(super) bits: u32,
    /// Address of the page; under nesting one that the second stage translates.
    pub(super) page: u64,
    pub(super) rights: Rights,
    pub(super) entry: Entry,
    at: u64,
    writable: Writable,
}

/// Whether the second stage lets a first-stage table be written, so that its entries can be marked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Writable {
    Yes,
    No,
    /// The table came from the cache, which does not say.
    Unknown,
}

impl<O: Observer> Walk<'_, O> {
    /// The first-stage tables of a PASID entry.
    pub(super) fn first_stage(&self, entry: &PasidEntry, tags: &Tags) -> FirstStage {
        FirstStage {
            table: entry.first(),
            bits: if entry.get(PasidEntry::FSPM) == 1 { 57 } else { 48 },
            domain: tags.domain,
            pasid: tags.pasid,
            snoop: self.walk_snoop(entry),
            extended: self.profile.eafs() && entry.has(PasidEntry::EAFE),
            second: (tags.stage == Stage::Nested).then(|| self.second_stage(entry)),
        }
    }
    /// First-stage translation alone.
    pub(super) fn first_only(
        &mut self,
        request: &Request,
        want: &Want,
        entry: &PasidEntry,
        attributes: &Attributes,
        tags: &Tags,
    ) -> Result<Answer, Stop> {
        let tables = self.first_stage(entry, tags);
        let leaf = self.first(&tables, request.address)?;
        let mut found = Found {
            first: request.address >> leaf.bits << leaf.bits,
            size: 1 << leaf.bits,
            physical: leaf.page,
            read: true,
            write: true,
            rights: leaf.rights,
            dirty: true,
            snoop: attributes.snoops(None),
            memory: attributes.memory(Some((leaf.entry, leaf.bits)), None),
            stage: Stage::First,
        };
        let grant = self.admit(&found, request, want)?;
        found.dirty = self.mark_first_leaf(&tables, &leaf, want.write && grant.write)?;
        self.keep(request, &found, tags);
        Ok(self.granted(&found, &grant, request, want))
    }
    /// Finds the leaf of an address. It is not marked yet.
    pub(super) fn first(&mut self, tables: &FirstStage, address: u64) -> Result<FirstLeaf, Stop> {
        let unused = 64 - tables.bits;
        let canonical = (((address << unused) as i64) >> unused) as u64;
        self.check(canonical != address, Reason::SGN_1)?;
        let start = self.trail.len();
        let (mut table, mut bits, mut rights, mut writable) = match self.held_first(tables, address) {
            Some((table, bits, rights)) => (table, bits, rights, Writable::Unknown),
            None => {
                let (table, writable) = self.table(tables, tables.table, Reason::SFS_6)?;
                (table, tables.bits, ALL, writable)
            }
        };
        loop {
            let unreadable = if bits == tables.bits { Reason::SFS_4 } else { Reason::SFS_1 };
            bits -= 9;
            let at = table | (address >> bits & 0x1ff) << 3;
            self.trail.push(at);
            let what = What::FirstStage(bits as u8);
            let entry = Entry(self.read(what, at, tables.snoop, unreadable)?);
            self.check(!entry.has(Entry::P), Reason::SFS_2)?;
            self.check(entry.reserved(self.profile, bits), Reason::SFS_3)?;
            let leaf = entry.is_leaf(bits);
            let next = if leaf { entry.page(bits) } else { entry.address() };
            if let Some(second) = &tables.second {
                self.check(next >> self.width(second.bits) != 0, Reason::SFS_5)?;
            }
            rights = Rights {
                read: true,
                write: rights.write && entry.has(Entry::RW),
                user: rights.user && entry.has(Entry::US),
            };
            if leaf {
                return Ok(FirstLeaf { bits, page: next, rights, entry, at, writable });
            }
            self.mark_first(tables, what, at, entry, writable, false)?;
            (table, writable) = self.table(tables, next, Reason::SFS_7)?;
            self.keep_first(tables, address, table, bits, rights, start);
        }
    }
    /// Where a table is, and whether its entries can be marked. `unreadable`: the second stage does not let it be read.
    fn table(&mut self, tables: &FirstStage, address: u64, unreadable: Reason) -> Result<(u64, Writable), Stop> {
        match &tables.second {
            None => Ok((address, Writable::Yes)),
            Some(second) => self.nested_table(second, address, unreadable),
        }
    }
    /// Marks a leaf as used (3.6.2); says whether its dirty bit is set.
    pub(super) fn mark_first_leaf(&mut self, tables: &FirstStage, leaf: &FirstLeaf, write: bool) -> Result<bool, Stop> {
        let what = What::FirstStage(leaf.bits as u8);
        let marked = self.mark_first(tables, what, leaf.at, leaf.entry, leaf.writable, write)?;
        Ok(marked.has(Entry::D))
    }
    fn mark_first(
        &mut self,
        tables: &FirstStage,
        what: What,
        at: u64,
        entry: Entry,
        writable: Writable,
        dirty: bool,
    ) -> Result<Entry, Stop> {
        let mut marked = entry.with(Entry::A, 1);
        if tables.extended {
            marked = marked.with(Entry::EA, 1);
        }
        if dirty {
            marked = marked.with(Entry::D, 1);
        }
        if marked == entry {
            return Ok(entry);
        }
        if tables.second.is_some() {
            if writable == Writable::Unknown {
                return Err(Stop::Afresh);
            }
            self.check(writable == Writable::No, Reason::SFS_8)?;
        }
        self.check(tables.snoop == Snoop::No, Reason::SFS_9)?;
        self.mark(what, at, entry.0[0], marked.0[0], Reason::SFS_10)?;
        Ok(marked)
    }
    /// The lowest table on the way that is cached: where it is, how many bits it serves, the rights so far.
    fn held_first(&mut self, tables: &FirstStage, address: u64) -> Option<(u64, u32, Rights)> {
        if self.afresh {
            return None;
        }
        let held = self.caches.as_deref_mut()?.first_stage(tables.domain, tables.pasid, address)?;
        let bits = u32::from(held.bits);
        if !(21..tables.bits).contains(&bits) {
            return None;
        }
        self.trail.extend(&held.path);
        let (table, rights) = (held.table, held.rights);
        self.observer.see(|| Step::HeldTable { what: What::FirstStage(bits as u8), table });
        Some((table, bits, rights))
    }
    fn keep_first(&mut self, tables: &FirstStage, address: u64, table: u64, bits: u32, rights: Rights, start: usize) {
        let path = match self.keeper() {
            Some(_) => self.trail.since(start),
            None => return,
        };
        if let Some(caches) = self.keeper() {
            let first = address >> bits << bits;
            let table = Table { first, bits: bits as u8, table, rights, path };
            caches.keep_first_stage(tables.domain, tables.pasid, table);
        }
    }
}
