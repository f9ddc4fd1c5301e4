//! What a domain's handle, its attachments and its pending flushes share: the tables, the units that may cache them (tags),
//! what is still owed to these, and firmware's regions (VT-d 3.7, 6.2).
//!
//! Everything that is unmapped stays owned until a flush has completed: table pages by [`Unmapped`], ranges by the domain,
//! which refuses to map them anew ([`MapWhy::Unflushed`]).

use super::flush::{Cached, Flushed};
use super::foreign::CheckedTables;
use super::paging::Access;
use super::paging::engine::{Failed, Limits, Stale};
use super::spec::{DomainSpec, Stage};
use super::stage1::{Over, Stage1Spec};
use super::tables::Tables;
use super::unmapped::Unmapped;
use crate::dmar::IntegratedFlags;
use crate::host::address::{Hpa, Iova, Nanos, Range};
use crate::host::error::{Error, ErrorKind, MapError, MapWhy};
use crate::host::grow;
use crate::host::mem::{FreedTables, Shared};
use crate::host::platform::Platform;
use crate::host::sync::{Guard, Lock, Rank};
use crate::hw::capabilities::AddressWidth;
use crate::hw::descriptors::Throttle;
use crate::hw::pasid_tables::FirstStage;
use crate::unit::pasid::RID_PASID;
use crate::unit::rules::Facts;
use crate::unit::{Machine, Unit};
use alloc::vec::Vec;

/// What a domain's handle, its attachments and its pending flushes share.
pub(crate) struct Space<P: Platform> {
    pub(super) machine: Shared<Machine<P>>,
    pub(super) spec: DomainSpec,
    pub(super) root: Root,
    /// What was checked of tables that somebody else owns; then there are none in `state`.
    pub(super) foreign: Option<CheckedTables>,
    /// What a guest's tables lie over; then there are none in `state` either.
    pub(super) over: Option<Over<P>>,
    pub(super) state: Lock<State>,
}

/// Where a domain's page tables are, as entries name them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Root {
    First {
        table: Hpa,
        five_levels: bool,
        extended_accessed: bool,
    },
    Second {
        table: Hpa,
        width: AddressWidth,
        dirty: bool,
    },
    /// A guest's first stage, and what its addresses go through: `table` and what is with it, as in `Second`.
    Nested {
        first: FirstStage,
        table: Hpa,
        width: AddressWidth,
        dirty: bool,
    },
}

impl Root {
    /// The top table.
    #[cfg(test)]
    pub(crate) fn table(self) -> Hpa {
        match self {
            Root::First { table, .. } | Root::Second { table, .. } | Root::Nested { table, .. } => table,
        }
    }
}

/// Whose requests go to a domain: a requester id of a unit, with one PASID or none, and its own translation cache.
pub(crate) struct User<'u, P: Platform> {
    /// Place of the unit in the machine.
    pub(crate) index: usize,
    pub(crate) unit: &'u Unit<P>,
    pub(crate) source: u16,
    pub(crate) pasid: u32,
    /// How to invalidate its own cache, where that is on.
    pub(crate) device: Option<Throttle>,
    /// What firmware says of the device.
    pub(crate) flags: IntegratedFlags,
}

impl<P: Platform> Clone for User<'_, P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P: Platform> Copy for User<'_, P> {}

impl<P: Platform> User<'_, P> {
    /// What entries and caches of this user are known by.
    pub(crate) fn facts(&self, did: u16) -> Facts {
        Facts { source: self.source, did, pasid: self.pasid, device: self.device }
    }

    /// Whether firmware forbids this of the entry (VT-d 8.3.1, SIDP): of that for requests without PASID alone; and how walks
    /// snoop is in an entry in scalable mode only.
    pub(crate) fn forbids(&self, what: IntegratedFlags) -> bool {
        let here = self.unit.scalable() || what != IntegratedFlags::NO_WALK_SNOOP;
        self.flags.contains(what) && self.pasid == RID_PASID && here
    }
}

pub(super) struct State {
    /// `None` where somebody else owns them, and while the domain is being dropped.
    pub(super) tables: Option<Tables>,
    pub(super) tags: Vec<Tag>,
    /// A unit that caches absent entries is among the tags: mapping needs a flush too.
    pub(super) flush_maps: bool,
    pub(super) owed: Vec<Owed>,
    /// When the oldest range was gathered that a deferred domain has not flushed.
    pub(super) gathered: Option<Nanos>,
    /// The operation under way changed more than leaf entries.
    pub(super) tables_changed: bool,
    /// What dropped `Unmapped`s owned. Goes to the flush that takes their ranges over, in one step with these: a flush
    /// that completes without them proves nothing for it.
    pub(super) left: Left,
    pub(super) next_ticket: u64,
    /// Firmware's regions mapped one to one for attached devices, with the number of attachments.
    pub(super) firmware: Vec<(Range, u32)>,
    /// Every address below is mapped to itself, firmware's regions with them.
    pub(super) one_to_one: u64,
    /// The guests' tables that lie over it.
    pub(super) guests: Vec<Stage1Spec>,
    /// There was memory in it that devices may read and not write.
    pub(super) read_only: bool,
    /// There may be none: erratum 772415, as long as there are `guests`.
    pub(super) no_read_only: bool,
}

/// Table pages whose flush was given up.
pub(super) struct Left {
    pub(super) freed: FreedTables,
    pub(super) tables_changed: bool,
}

/// A cache that may hold the domain's translations.
#[derive(Clone, Copy)]
pub(super) struct Tag {
    /// Index into the machine's units.
    pub(super) unit: usize,
    pub(super) what: Cached,
    /// Users; 0 for a free place, so that places do not move under a flush that goes through them.
    pub(super) uses: u32,
}

/// A range that was unmapped and is not known to have left all caches.
#[derive(Clone, Copy)]
pub(super) struct Owed {
    /// What must not be mapped anew; nothing for a change of rights.
    pub(super) closed: Option<Range>,
    /// What must be flushed: also the large pages that were split and the tables that went, whole. Mapping next to what
    /// was unmapped is allowed there, but hardware may still walk through a table that went.
    pub(super) stale: Range,
    /// Which `Unmapped` will flush it; `NOBODY` when that one was dropped.
    pub(super) ticket: u64,
    /// Was nobody's once: whoever flushes it now, its first owner hears of it from `Unmapped::flush_all` alone.
    pub(super) orphan: bool,
}

pub(super) const NOBODY: u64 = 0;

impl<P: Platform> Space<P> {
    pub(super) fn new(machine: &Shared<Machine<P>>, spec: DomainSpec, hpa_width: u8) -> Result<Self, ErrorKind> {
        let spec = spec.decided(machine.units().iter())?;
        let reach = spec.reach()?;
        let p = &machine.host.platform;
        let limits = Limits { input: spec.width, output: hpa_width, coherent: spec.coherent, node: None };
        let tables = Tables::new(p, &spec, limits)?;
        let table = tables.root(p);
        let root = match spec.stage {
            Stage::First => {
                let extended_accessed = spec.extended_accessed;
                Root::First { table, five_levels: spec.levels == 5, extended_accessed }
            }
            _ => Root::Second { table, width: reach, dirty: spec.dirty },
        };
        Ok(Self::with(machine, spec, root, Some(tables)))
    }

    /// The space of tables that somebody else owns.
    pub(super) fn foreign(machine: &Shared<Machine<P>>, tables: CheckedTables) -> Result<Self, ErrorKind> {
        let spec = tables.spec();
        let (table, width) = (tables.root(), spec.reach()?);
        let root = match spec.stage {
            Stage::First => Root::First { table, five_levels: spec.levels == 5, extended_accessed: false },
            _ => Root::Second { table, width, dirty: false },
        };
        let mut space = Self::with(machine, spec, root, None);
        space.foreign = Some(tables);
        Ok(space)
    }

    pub(super) fn with(machine: &Shared<Machine<P>>, spec: DomainSpec, root: Root, tables: Option<Tables>) -> Self {
        let state = State {
            tables,
            tags: Vec::new(),
            flush_maps: false,
            owed: Vec::new(),
            gathered: None,
            tables_changed: false,
            left: Left { freed: FreedTables::new(), tables_changed: false },
            next_ticket: NOBODY + 1,
            firmware: Vec::new(),
            one_to_one: 0,
            guests: Vec::new(),
            read_only: false,
            no_read_only: false,
        };
        let state = Lock::new(Rank::Domain, state);
        Space { machine: machine.clone(), spec, root, foreign: None, over: None, state }
    }

    /// Whether the domain flushes through the units of `machine`.
    pub(crate) fn belongs_to(&self, machine: &Shared<Machine<P>>) -> bool {
        self.machine.is(machine)
    }

    pub(super) fn lock(&self) -> Guard<'_, State, P> {
        self.state.lock(&self.machine.host.platform)
    }

    /// Whether caches may hold translations of it.
    pub(super) fn in_use(&self) -> bool {
        self.lock().tags.iter().any(|t| t.uses != 0)
    }

    /// Where its tables are.
    pub(crate) fn root(&self) -> Root {
        self.root
    }

    /// What the domain was made with.
    pub(crate) fn spec(&self) -> DomainSpec {
        self.spec
    }

    /// The word of its tables at physical address `word`, where it is an entry on the way of the address `at`; `Err` where
    /// somebody holds the domain. Does not wait.
    pub(crate) fn entry(&self, at: u64, word: u64) -> Result<Option<u64>, ErrorKind> {
        let p = &self.machine.host.platform;
        let s = self.state.try_lock(p).ok_or(ErrorKind::Busy)?;
        Ok(s.tables.as_ref().and_then(|t| t.entry(p, at, word)))
    }

    /// When the ranges that were gathered must be flushed; `None` where there are none.
    pub(crate) fn due(&self) -> Option<Nanos> {
        self.lock().gathered.map(|since| since.after(self.machine.host.config.deferred_deadline))
    }

    /// Flushes what is still owed: dropped `Unmapped`s, flushes that failed, gathered ranges.
    pub(crate) fn settle(&self) -> Result<Flushed, Error> {
        let mut s = self.lock();
        let (ticket, was) = (s.ticket(), s.gathered.take());
        let outcome = self.end(s, ticket, None).flush_all();
        if outcome.is_err() && was.is_some() {
            // Not at once again.
            let now = self.machine.host.platform.now();
            self.lock().gathered.get_or_insert(now);
        }
        outcome.map_err(|n| n.error)
    }

    /// Unmaps, and gathers the flush: until there are too many, or `Vtd::service` finds them too old.
    pub(super) fn unmap_later(&self, r: Range) -> Result<(), MapError> {
        let h = &self.machine.host;
        let most = h.config.deferred_ranges.max(1);
        let failed = |_| MapError { why: MapWhy::NotFlushed, at: r.first };
        // Full since a flush failed: no more is gathered than was said.
        if self.lock().owed.len() >= most {
            self.settle().map_err(failed)?;
        }
        drop(self.unmap(r)?);
        let (first, full) = {
            let mut s = self.lock();
            let first = s.gathered.is_none();
            if first {
                s.gathered = Some(h.platform.now());
            }
            (first, s.owed.len() >= most)
        };
        if full {
            return self.settle().map(drop).map_err(failed);
        }
        if first {
            // `service` says when it wants to be called for it.
            h.platform.wake();
        }
        Ok(())
    }

    /// Unmaps for the owner of the domain, who has no say about firmware's regions while devices need them.
    pub(super) fn unmap(&self, r: Range) -> Result<Unmapped<'_, P>, MapError> {
        let mut s = self.lock();
        s.leave_alone(r)?;
        let ticket = s.ticket();
        match s.unmap(&self.machine.host.platform, r, ticket) {
            Ok(()) => Ok(self.end(s, ticket, None)),
            Err(e) => {
                self.take_back(s, ticket);
                Err(e)
            }
        }
    }

    /// Flushes what an operation that failed may have left in caches; if that fails too it stays owed.
    pub(super) fn take_back(&self, s: Guard<'_, State, P>, ticket: u64) {
        if s.owed.iter().any(|o| o.ticket == ticket) {
            let _ = self.end(s, ticket, None).flush();
        }
    }

    /// Ends an edit: what it unmapped becomes the caller's to flush; what it mapped is flushed now where units cache
    /// absent entries.
    pub(super) fn end<'d>(&'d self, mut s: Guard<'d, State, P>, ticket: u64, mapped: Option<Range>) -> Unmapped<'d, P> {
        let (freed, tables_changed) = s.take_freed();
        drop(s);
        let mut unmapped = Unmapped { space: self, ticket, freed, tables_changed };
        if let Some(r) = mapped
            && self.flush_mapped(r).is_err()
        {
            // `map` itself reports it; an edit's flush repeats it. Without memory for that it shows as a fault.
            unmapped.tables_changed = true;
            let _ = grow::push(&mut self.lock().owed, Owed { closed: None, stale: r, ticket, orphan: false });
        }
        unmapped
    }
}

impl State {
    pub(super) fn ticket(&mut self) -> u64 {
        let t = self.next_ticket;
        self.next_ticket = t.wrapping_add(1).max(NOBODY + 1);
        t
    }

    /// Maps, and says whether what was mapped must be flushed; what a failure left in caches is owed under `ticket`.
    pub(super) fn map<P: Platform>(
        &mut self,
        p: &P,
        at: Iova,
        to: Hpa,
        len: u64,
        how: Access,
        ticket: u64,
    ) -> Result<bool, MapError> {
        let range = Range::sized(at, len);
        let mut flush = self.flush_maps;
        if let Some(r) = range {
            for o in self.owed.iter().filter(|o| o.stale.overlaps(&r)) {
                if let Some(closed) = o.closed.filter(|c| c.overlaps(&r)) {
                    return Err(MapError { why: MapWhy::Unflushed, at: closed.first.max(at) });
                }
                flush = true;
            }
        }
        // Room for what a failure would owe, before anything is mapped.
        self.owed.try_reserve(1).map_err(|_| MapError { why: MapWhy::OutOfMemory, at })?;
        self.permit(how, at)?;
        let Some(tables) = &mut self.tables else { return Err(MapError { why: MapWhy::NotMapped, at }) };
        match tables.map(p, at, to, len, how) {
            Ok(()) => Ok(flush),
            Err(f) => Err(self.failed(f, range, ticket)),
        }
    }

    pub(super) fn failed(&mut self, f: Failed, closed: Option<Range>, ticket: u64) -> MapError {
        if let Some(stale) = f.stale {
            self.owe(stale, closed, ticket);
        }
        f.error
    }

    pub(super) fn unmap<P: Platform>(&mut self, p: &P, r: Range, ticket: u64) -> Result<(), MapError> {
        self.owed.try_reserve(1).map_err(|_| MapError { why: MapWhy::OutOfMemory, at: r.first })?;
        let Some(tables) = &mut self.tables else { return Err(MapError { why: MapWhy::NotMapped, at: r.first }) };
        match tables.unmap(p, r) {
            Ok(stale) => {
                self.owe(stale, Some(r), ticket);
                Ok(())
            }
            Err(f) => Err(self.failed(f, Some(r), ticket)),
        }
    }

    pub(super) fn protect<P: Platform>(&mut self, p: &P, r: Range, how: Access, ticket: u64) -> Result<(), MapError> {
        self.owed.try_reserve(1).map_err(|_| MapError { why: MapWhy::OutOfMemory, at: r.first })?;
        self.permit(how, r.first)?;
        let Some(tables) = &mut self.tables else { return Err(MapError { why: MapWhy::NotMapped, at: r.first }) };
        match tables.protect(p, r, how) {
            Ok(stale) => {
                if let Some(stale) = stale {
                    self.owe(stale, None, ticket);
                }
                Ok(())
            }
            Err(f) => Err(self.failed(f, None, ticket)),
        }
    }

    pub(super) fn owe(&mut self, stale: Stale, closed: Option<Range>, ticket: u64) {
        self.tables_changed |= !stale.leaf_only;
        let follows = |a: Range, b: Range| a.last.get().checked_add(1) == Some(b.first.get());
        if let Some(last) = self.owed.last_mut()
            && last.ticket == ticket
            && let (Some(a), Some(b)) = (&mut last.closed, closed)
            && follows(*a, b)
            && follows(last.stale, stale.range)
        {
            a.last = b.last;
            last.stale.last = stale.range.last;
            return;
        }
        // Room was reserved before anything changed; without it the range would be mapped anew too early.
        let _ = grow::push(&mut self.owed, Owed { closed, stale: stale.range, ticket, orphan: ticket == NOBODY });
    }

    /// What the tables gave up, and whether more than leaves changed.
    pub(super) fn take_freed(&mut self) -> (FreedTables, bool) {
        let freed = self.tables.as_mut().map_or(FreedTables::new(), Tables::take_freed);
        (freed, core::mem::take(&mut self.tables_changed))
    }
}

impl<P: Platform> Drop for Space<P> {
    fn drop(&mut self) {
        self.forget_guest();
        // No attachment holds the domain any more. A unit that was left has flushed the whole domain id, and what was owed
        // with it; what a unit did not confirm keeps its tag, and is leaked, not reused.
        let h = &self.machine.host;
        let mut s = self.state.lock(&h.platform);
        if s.tags.iter().all(|t| t.uses == 0)
            && let Some(tables) = s.tables.take()
        {
            let mut freed = tables.into_freed(&h.platform);
            freed.append(core::mem::replace(&mut s.left.freed, FreedTables::new()));
            drop(s);
            freed.release(&h.platform);
        }
    }
}
