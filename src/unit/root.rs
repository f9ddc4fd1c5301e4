//! The memory of a unit's root and context tables in legacy mode (VT-d 3.4.1 to 3.4.3, 9.1, 9.3). What goes into an
//! entry, and what must be flushed after, is decided in `device::entries`, the one writer.

use crate::host::address::{Hpa, SourceId};
use crate::host::error::ErrorKind;
use crate::host::mem::Frames;
use crate::host::platform::Platform;
use crate::hw::tables::{ContextEntry, RootEntry};

/// A root table and the context tables that hang on it.
pub(crate) struct RootTable {
    root: Frames,
    contexts: [Option<Frames>; 256],
    coherent: bool,
    node: Option<u32>,
}

impl RootTable {
    pub(crate) fn new<P: Platform>(p: &P, coherent: bool, node: Option<u32>) -> Result<Self, ErrorKind> {
        let root = Frames::alloc(p, 0, node)?;
        let table = RootTable { root, contexts: [const { None }; 256], coherent, node };
        table.visible(p, &table.root, 0, table.root.len());
        Ok(table)
    }

    pub(crate) fn hpa<P: Platform>(&self, p: &P) -> Hpa {
        self.root.hpa(p)
    }

    /// Makes stores to `n` words visible to a unit that does not snoop.
    fn visible<P: Platform>(&self, p: &P, frames: &Frames, i: usize, n: usize) {
        if !self.coherent {
            frames.flush(p, i, n);
        }
        p.fence();
    }

    pub(crate) fn get(&self, source: SourceId) -> ContextEntry {
        let at = usize::from(source.devfn()) * 2;
        match self.contexts.get(usize::from(source.bus())) {
            Some(Some(t)) => ContextEntry { lo: t.get(at), hi: t.get(at + 1) },
            _ => ContextEntry::ABSENT,
        }
    }

    /// Replaces an entry. Where its bus has no context table yet, an absent one says nothing new, and a present one wants
    /// the table made first.
    ///
    /// A present entry is replaced by one 128-bit store; else presence is stored last.
    pub(crate) fn set<P: Platform>(&mut self, p: &P, source: SourceId, e: ContextEntry) -> Result<(), ErrorKind> {
        if e.present() {
            self.prepare(p, source)?;
        }
        let at = usize::from(source.devfn()) * 2;
        if let Some(Some(t)) = self.contexts.get(usize::from(source.bus())) {
            let now = ContextEntry { lo: t.get(at), hi: t.get(at + 1) };
            if now.present() {
                t.set_pair(at, e.lo, e.hi);
            } else {
                t.set(at + 1, e.hi);
                t.set(at, e.lo);
            }
            self.visible(p, t, at, 2);
        }
        Ok(())
    }

    /// Makes the context table for the entry of `source`, where its bus has none.
    pub(crate) fn prepare<P: Platform>(&mut self, p: &P, source: SourceId) -> Result<(), ErrorKind> {
        let bus = usize::from(source.bus());
        let Some(place) = self.contexts.get_mut(bus) else { return Ok(()) };
        if place.is_none() {
            let fresh = Frames::alloc(p, 0, self.node)?;
            if !self.coherent {
                fresh.flush(p, 0, fresh.len());
            }
            p.fence();
            self.root.set(bus * 2, RootEntry::legacy(fresh.hpa(p).get()).lo);
            *place = Some(fresh);
            self.visible(p, &self.root, bus * 2, 2);
        }
        Ok(())
    }

    /// Gives all tables back. Only for a unit whose translation is off.
    pub(crate) fn release<P: Platform>(self, p: &P) {
        for t in self.contexts.into_iter().flatten() {
            t.free(p);
        }
        self.root.free(p);
    }
}
