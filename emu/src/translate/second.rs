//! The walk through second-stage tables (3.7).

use super::outcome::ALL;
use super::{Stop, Walk};
use crate::bus::Snoop;
use crate::caches::{Rights, Table};
use crate::explain::{Observer, Step, What};
use crate::formats::SecondStageEntry as Entry;
use crate::reason::Reason;

/// Second-stage tables, and how they are walked.
#[derive(Clone, Copy, Debug)]
pub(super) struct SecondStage {
    /// The top table.
    pub(super) table: u64,
    /// How many address bits it serves: 39, 48, 57.
    pub(super) bits: u32,
    pub(super) domain: u16,
    pub(super) snoop: Snoop,
    /// SSADE: entries have accessed and dirty bits.
    pub(super) marks: bool,
    /// SSIRWE: entries have their rights in bits 62:61.
    pub(super) separate: bool,
    /// The top entry could not be read.
    pub(super) top: Reason,
    /// Another entry could not be read.
    pub(super) unreadable: Reason,
    pub(super) reserved: Reason,
    /// No rights.
    pub(super) absent: Reason,
}

/// A leaf of second-stage tables.
#[derive(Clone, Copy, Debug)]
pub(super) struct SecondLeaf {
    /// How many address bits it serves: 12, 21, 30.
    pub(super) bits: u32,
    /// Physical address of the page.
    pub(super) page: u64,
    pub(super) read: bool,
    pub(super) write: bool,
    pub(super) entry: Entry,
    at: u64,
}

impl SecondLeaf {
    /// Where an address of the page leads.
    pub(super) fn output(&self, address: u64) -> u64 {
        self.page | address & ((1 << self.bits) - 1)
    }
}

impl<O: Observer> Walk<'_, O> {
    /// Finds the leaf of an address, which must be within the tables' width. The leaf is not marked yet.
    pub(super) fn second(&mut self, tables: &SecondStage, address: u64) -> Result<SecondLeaf, Stop> {
        let start = self.trail.len();
        let (mut table, mut bits, mut rights) =
            self.held_second(tables, address).unwrap_or((tables.table, tables.bits, ALL));
        loop {
            let unreadable = if bits == tables.bits { tables.top } else { tables.unreadable };
            bits -= 9;
            let at = table | (address >> bits & 0x1ff) << 3;
            self.trail.push(at);
            let what = What::SecondStage(bits as u8);
            let entry = Entry(self.read(what, at, tables.snoop, unreadable)?);
            let (r, w) = if tables.separate { (Entry::IR, Entry::IW) } else { (Entry::R, Entry::W) };
            let (read, write) = (entry.has(r), entry.has(w));
            self.keeps_fault = true;
            self.check(!read && !write, tables.absent)?;
            self.check(entry.reserved(self.profile, bits, tables.separate), tables.reserved)?;
            self.keeps_fault = false;
            rights = Rights { read: rights.read && read, write: rights.write && write, user: true };
            if entry.is_leaf(bits) {
                self.keeps_fault = true;
                if !rights.read && !rights.write {
                    self.check(true, tables.absent)?;
                }
                self.keeps_fault = false;
                let page = entry.address() >> bits << bits;
                return Ok(SecondLeaf { bits, page, read: rights.read, write: rights.write, entry, at });
            }
            self.mark_second(tables, what, at, entry, false)?;
            table = entry.address();
            self.keep_second(tables, address, table, bits, rights, start);
        }
    }
    /// Marks a leaf as used (3.7.2); says whether its dirty bit matters and is clear still.
    pub(super) fn mark_second_leaf(
        &mut self,
        tables: &SecondStage,
        leaf: &SecondLeaf,
        write: bool,
    ) -> Result<bool, Stop> {
        let marked = self.mark_second(tables, What::SecondStage(leaf.bits as u8), leaf.at, leaf.entry, write)?;
        Ok(tables.marks && !marked.has(Entry::D))
    }
    fn mark_second(
        &mut self,
        tables: &SecondStage,
        what: What,
        at: u64,
        entry: Entry,
        dirty: bool,
    ) -> Result<Entry, Stop> {
        let mut marked = entry.with(Entry::A, 1);
        if dirty {
            marked = marked.with(Entry::D, 1);
        }
        if !tables.marks || marked == entry {
            return Ok(entry);
        }
        self.check(tables.snoop == Snoop::No, Reason::SSS_5)?;
        self.mark(what, at, entry.0[0], marked.0[0], Reason::SSS_6)?;
        Ok(marked)
    }
    /// The lowest table on the way that is cached: where it is, how many bits it serves, the rights so far.
    fn held_second(&mut self, tables: &SecondStage, address: u64) -> Option<(u64, u32, Rights)> {
        let held = self.caches.as_deref_mut()?.second_stage(tables.domain, address)?;
        let bits = u32::from(held.bits);
        // Software that gives one domain tables of two widths has left the specification.
        if !(21..tables.bits).contains(&bits) {
            return None;
        }
        self.trail.extend(&held.path);
        let (table, rights) = (held.table, held.rights);
        self.observer.see(|| Step::HeldTable { what: What::SecondStage(bits as u8), table });
        Some((table, bits, rights))
    }
    fn keep_second(&mut self, tables: &SecondStage, address: u64, table: u64, bits: u32, rights: Rights, start: usize) {
        let path = match self.keeper() {
            Some(_) => self.trail.since(start),
            None => return,
        };
        if let Some(caches) = self.keeper() {
            let first = address >> bits << bits;
            caches.keep_second_stage(tables.domain, Table { first, bits: bits as u8, table, rights, path });
        }
    }
}
