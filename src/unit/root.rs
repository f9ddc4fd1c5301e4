//! The memory of a unit's root and context tables, and in scalable mode of its requesters' PASID tables (VT-d 3.4.1 to
//! 3.4.3, 9.1 to 9.6). What goes into an entry, and what must be flushed after, is decided in `device::entries`, the one
//! writer.
//!
//! Tables are made when first wanted and stay until the unit is off: an absent entry in one that is there costs fewer
//! flushes than taking the table away, and the next owner finds it.

use super::pasid::{PasidTables, RID_PASID, Requester};
use crate::host::address::{Hpa, SourceId};
use crate::host::error::ErrorKind;
use crate::host::grow;
use crate::host::mem::Frames;
use crate::host::platform::Platform;
use crate::hw::pasid_tables::{Allowed, PasidEntry, ScalableContextEntry};
use crate::hw::registers::TableMode;
use crate::hw::tables::{ContextEntry, RootEntry, context_index, is_upper, root_index, scalable_context_index};
use alloc::vec::Vec;

/// What says where the requests of one requester id go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Entry {
    /// Legacy mode: its context entry.
    Context(ContextEntry),
    /// Scalable mode: a PASID table entry.
    Pasid(PasidEntry),
}

impl Entry {
    pub(crate) fn present(self) -> bool {
        match self {
            Entry::Context(e) => e.present(),
            Entry::Pasid(e) => e.present(),
        }
    }
}

/// How tables get their memory, and how what is stored in them reaches the unit.
#[derive(Clone, Copy)]
pub(crate) struct TableMemory {
    /// The unit snoops these tables (ECAP.C).
    coherent: bool,
    node: Option<u32>,
}

impl TableMemory {
    /// An empty table, a page, which may be linked.
    pub(super) fn table<P: Platform>(self, p: &P) -> Result<Frames, ErrorKind> {
        self.tables(p, 0)
    }

    /// The same of `2^order` pages.
    pub(super) fn tables<P: Platform>(self, p: &P, order: u8) -> Result<Frames, ErrorKind> {
        let fresh = Frames::alloc(p, order, self.node)?;
        self.visible(p, &fresh, 0, fresh.len());
        Ok(fresh)
    }

    /// The same, kept in place `place` of `list` under `key`. Its address.
    pub(super) fn insert<P: Platform, K>(
        self,
        p: &P,
        list: &mut Vec<(K, Frames)>,
        place: usize,
        key: K,
    ) -> Result<Hpa, ErrorKind> {
        list.try_reserve(1).map_err(|_| ErrorKind::OutOfMemory)?;
        let fresh = self.table(p)?;
        let at = fresh.hpa(p);
        grow::insert(list, place, (key, fresh))?;
        Ok(at)
    }

    /// Makes stores to `n` words visible to a unit that does not snoop.
    fn visible<P: Platform>(self, p: &P, frames: &Frames, i: usize, n: usize) {
        if !self.coherent {
            frames.flush(p, i, n);
        }
        p.fence();
    }

    /// Writes an entry that is absent until its first word is there: that one last.
    pub(super) fn store<P: Platform>(self, p: &P, frames: &Frames, at: usize, words: &[u64]) {
        for (i, w) in words.iter().enumerate().rev() {
            frames.set(at + i, *w);
        }
        self.visible(p, frames, at, words.len());
    }

    /// Replaces an entry. A `present` one in one store of its first two words; what is behind them is cleared after that where
    /// the entry ends, and stays where another follows, which does not look at it. An absent one presence last.
    pub(super) fn replace<P: Platform>(self, p: &P, frames: &Frames, at: usize, present: bool, words: &[u64]) {
        match words {
            [lo, hi, rest @ ..] if present => {
                frames.set_pair(at, *lo, *hi);
                if lo & 1 == 0 {
                    let used = |(i, _): &(usize, &u64)| frames.get(at + 2 + i) != 0;
                    rest.iter().enumerate().filter(used).for_each(|(i, w)| frames.set(at + 2 + i, *w));
                }
                self.visible(p, frames, at, words.len());
            }
            _ => self.store(p, frames, at, words),
        }
    }
}

/// A root table and what hangs on it.
pub(crate) struct RootTable {
    root: Frames,
    mode: TableMode,
    /// By the word of the root table that names them, in order.
    contexts: Vec<(usize, Frames)>,
    /// By requester id, in order. Scalable mode only.
    pasids: Vec<(SourceId, PasidTables)>,
    /// Requester ids, in order, whose context entries are still a predecessor's.
    foreign: Vec<SourceId>,
    /// The domain ids that a predecessor's entries used, by requester id, in order: until caches have lost them.
    foreign_ids: Vec<(SourceId, u16)>,
    memory: TableMemory,
}

impl RootTable {
    pub(crate) fn new<P: Platform>(
        p: &P,
        mode: TableMode,
        coherent: bool,
        node: Option<u32>,
    ) -> Result<Self, ErrorKind> {
        let memory = TableMemory { coherent, node };
        let root = memory.table(p)?;
        let (contexts, pasids, foreign, foreign_ids) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Ok(RootTable { root, mode, contexts, pasids, foreign, foreign_ids, memory })
    }

    pub(crate) fn hpa<P: Platform>(&self, p: &P) -> Hpa {
        self.root.hpa(p)
    }

    /// The word of the root table that names the context table of a requester id, and the word of that where its entry is.
    fn place(&self, source: SourceId) -> (usize, usize) {
        let SourceId(id) = source;
        match self.mode {
            TableMode::Scalable => (root_index(id) * 2 + usize::from(is_upper(id)), scalable_context_index(id) * 4),
            _ => (root_index(id) * 2, context_index(id) * 2),
        }
    }

    /// The context table of a requester id, and the word of it where its entry is.
    fn context(&self, source: SourceId) -> Option<(&Frames, usize)> {
        let (key, at) = self.place(source);
        let i = self.contexts.binary_search_by_key(&key, |(k, _)| *k).ok()?;
        self.contexts.get(i).map(|(_, t)| (t, at))
    }

    fn pasids(&self, source: SourceId) -> Option<&PasidTables> {
        let i = self.pasids.binary_search_by_key(&source, |(s, _)| *s).ok()?;
        self.pasids.get(i).map(|(_, t)| t)
    }

    pub(crate) fn get(&self, source: SourceId, pasid: u32) -> Entry {
        match self.mode {
            TableMode::Scalable => Entry::Pasid(self.pasids(source).map_or(PasidEntry::ABSENT, |t| t.get(pasid))),
            _ => Entry::Context(match self.context(source) {
                Some((t, at)) => ContextEntry { lo: t.get(at), hi: t.get(at + 1) },
                None => ContextEntry::ABSENT,
            }),
        }
    }

    /// The word at physical address `word`, where it is in one of the tables of a requester id.
    pub(crate) fn word<P: Platform>(&self, p: &P, source: SourceId, word: u64) -> Option<u64> {
        let context = self.context(source).map(|(t, _)| t);
        let tables = [Some(&self.root), context].into_iter().flatten();
        let mut all = tables.chain(self.pasids(source).into_iter().flat_map(PasidTables::frames));
        all.find_map(|t| t.word(p, word))
    }

    /// Replaces an entry of the unit's mode. Where there is no table for it, an absent one says nothing new, and a present
    /// one is an error: it wants the tables made first.
    pub(crate) fn set<P: Platform>(&mut self, p: &P, source: SourceId, pasid: u32, e: Entry) -> Result<(), ErrorKind> {
        let missing = if e.present() { Err(ErrorKind::Unknown) } else { Ok(()) };
        let Some((table, at)) = self.context(source) else { return missing };
        match e {
            Entry::Context(e) => {
                self.memory.replace(p, table, at, self.get(source, pasid).present(), &[e.lo, e.hi]);
            }
            Entry::Pasid(e) => {
                let Some(pasids) = self.pasids(source) else { return missing };
                pasids.set(p, self.memory, pasid, e);
                // Once there it stays; the entry that it leads to is the one that changes.
                let there = ScalableContextEntry(core::array::from_fn(|i| table.get(at + i))).present();
                if e.present() && !there {
                    self.memory.store(p, table, at, &pasids.context(p).0);
                }
            }
        }
        Ok(())
    }

    /// Makes the tables for the entry of `source` and `pasid`, where they are missing.
    pub(crate) fn prepare<P: Platform>(
        &mut self,
        p: &P,
        source: SourceId,
        pasid: u32,
        of: Requester,
    ) -> Result<(), ErrorKind> {
        self.prepare_context(p, source)?;
        if self.mode != TableMode::Scalable {
            return Ok(());
        }
        if let Err(place) = self.pasids.binary_search_by_key(&source, |(s, _)| *s) {
            self.pasids.try_reserve(1).map_err(|_| ErrorKind::OutOfMemory)?;
            let tables = PasidTables::new(p, self.memory, of)?;
            grow::insert(&mut self.pasids, place, (source, tables))?;
        }
        match self.pasids.binary_search_by_key(&source, |(s, _)| *s).ok().and_then(|i| self.pasids.get_mut(i)) {
            Some((_, tables)) => tables.prepare(p, self.memory, pasid),
            None => Ok(()),
        }
    }

    /// Makes the context table of `source`, where it is missing.
    fn prepare_context<P: Platform>(&mut self, p: &P, source: SourceId) -> Result<(), ErrorKind> {
        let (key, _) = self.place(source);
        if let Err(place) = self.contexts.binary_search_by_key(&key, |(k, _)| *k) {
            let table = self.memory.insert(p, &mut self.contexts, place, key)?;
            // A half of a scalable entry is a word like the first of a legacy one.
            self.memory.store(p, &self.root, key, &[RootEntry::legacy(table.get()).lo]);
        }
        Ok(())
    }

    /// Copies a predecessor's context entry, of a requester later than all before. For tables that no unit reads yet.
    pub(super) fn adopt<P: Platform>(&mut self, p: &P, source: SourceId, words: &[u64]) -> Result<(), ErrorKind> {
        grow::push(&mut self.foreign, source)?;
        self.prepare_context(p, source)?;
        if let Some((table, at)) = self.context(source) {
            self.memory.store(p, table, at, words);
        }
        Ok(())
    }

    /// Remembers a domain id that such an entry leads to; whether it is the first that does.
    pub(super) fn adopt_id(&mut self, source: SourceId, did: u16) -> Result<bool, ErrorKind> {
        let first = !self.names(did);
        if let Err(place) = self.foreign_ids.binary_search(&(source, did)) {
            grow::insert(&mut self.foreign_ids, place, (source, did))?;
        }
        Ok(first)
    }

    fn names(&self, did: u16) -> bool {
        self.foreign_ids.iter().any(|(_, d)| *d == did)
    }

    /// Whether the context entry of a requester is a predecessor's.
    pub(crate) fn is_foreign(&self, source: SourceId) -> bool {
        self.foreign.binary_search(&source).is_ok()
    }

    /// A requester whose context entry is a predecessor's, and whom nobody knows.
    pub(super) fn stranger(&self, known: impl Fn(SourceId) -> bool) -> Option<SourceId> {
        self.foreign.iter().copied().find(|s| !known(*s))
    }

    /// Clears a predecessor's context entry. Nothing tells what caches hold of it: everything is to be flushed.
    pub(crate) fn forsake<P: Platform>(&mut self, p: &P, source: SourceId) {
        let Ok(i) = self.foreign.binary_search(&source) else { return };
        self.foreign.remove(i);
        let words = if self.mode == TableMode::Scalable { 4 } else { 2 };
        if let Some((table, at)) = self.context(source) {
            // From the first word on, which ends it.
            (at..at + words).for_each(|i| table.set(i, 0));
            self.memory.visible(p, table, at, words);
        }
    }

    /// A domain id that this predecessor's entry was the last to use, once no cache holds anything of it; `None` when there
    /// are no more.
    pub(crate) fn give_back(&mut self, source: SourceId) -> Option<u16> {
        loop {
            let i = self.foreign_ids.partition_point(|(s, _)| *s < source);
            let (_, did) = *self.foreign_ids.get(i).filter(|(s, _)| *s == source)?;
            self.foreign_ids.remove(i);
            if !self.names(did) {
                return Some(did);
            }
        }
    }

    /// What the context entry of a requester lets it do, in scalable mode; what it will, where it is still absent.
    pub(crate) fn allowed(&self, source: SourceId) -> Option<Allowed> {
        self.pasids(source).map(PasidTables::allowed)
    }

    /// Changes that, in a present context entry by one store. Says whether it is present: then it is to be flushed as a
    /// context entry that changed.
    pub(crate) fn set_allowed<P: Platform>(&mut self, p: &P, source: SourceId, allowed: Allowed) -> bool {
        let Ok(i) = self.pasids.binary_search_by_key(&source, |(s, _)| *s) else { return false };
        let Some((_, tables)) = self.pasids.get_mut(i) else { return false };
        tables.set_allowed(allowed);
        let words = tables.context(p).0;
        let Some((table, at)) = self.context(source) else { return false };
        let there = ScalableContextEntry(core::array::from_fn(|i| table.get(at + i))).present();
        if there {
            self.memory.replace(p, table, at, true, &words);
        }
        there
    }

    /// The present entries of a requester: its PASIDs, and PASID 0 for its context entry in legacy mode.
    pub(crate) fn present(&self, source: SourceId, each: &mut dyn FnMut(u32, Entry)) {
        if let Some(tables) = self.pasids(source) {
            tables.present().for_each(|(pasid, e)| each(pasid, Entry::Pasid(e)));
        } else {
            let e = self.get(source, RID_PASID);
            if e.present() {
                each(RID_PASID, e);
            }
        }
    }

    /// Gives all tables back. Only for a unit whose translation is off.
    pub(crate) fn release<P: Platform>(self, p: &P) {
        for (_, t) in self.pasids {
            t.release(p);
        }
        for (_, t) in self.contexts {
            t.free(p);
        }
        self.root.free(p);
    }
}
