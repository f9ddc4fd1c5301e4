//! What a domain's handle, its attachments and its pending flushes share: the tables, the units that may cache them (tags),
//! what is still owed to these, and firmware's regions (VT-d 3.7, 6.2).
//!
//! Everything that is unmapped stays owned until a flush has completed: table pages by [`Unmapped`], ranges by the domain,
//! which refuses to map them anew ([`MapWhy::Unflushed`]).

use super::flush::{Cached, Flushed, add_range};
use super::foreign::CheckedTables;
use super::paging::Access;
use super::paging::engine::{Failed, Limits, Stale};
use super::spec::{DomainSpec, Stage};
use super::stage1::{Over, Stage1Spec};
use super::tables::Tables;
use super::unmapped::Unmapped;
use crate::dmar::IntegratedFlags;
use crate::host::address::{Hpa, INTERRUPT_RANGE, Iova, Nanos, Range};
use crate::host::error::{Error, ErrorKind, Field, MapError, MapWhy, Need};
use crate::host::grow;
use crate::host::mem::{FreedTables, Shared};
use crate::host::platform::Platform;
use crate::host::sync::{Guard, Lock, Rank};
use crate::hw::capabilities::AddressWidth;
use crate::hw::descriptors::Throttle;
use crate::hw::pasid_tables::FirstStage;
use crate::hw::registers::TableMode;
use crate::unit::flights::Flights;
use crate::unit::invalidate::{Batch, Request};
use crate::unit::pasid::RID_PASID;
use crate::unit::rules::{self, Change, Facts, Step};
use crate::unit::{Machine, Unit};
use alloc::vec::Vec;

/// What a domain's handle, its attachments and its pending flushes share.
pub(crate) struct Space<P: Platform> {
    pub(super) machine: Shared<Machine<P>>,
    pub(super) spec: DomainSpec,
    root: Root,
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

    /// The domain id on a unit that was `enter`ed.
    pub(crate) fn did(&self, index: usize) -> Option<u16> {
        self.lock().did(index)
    }

    /// Registers a user before any entry leads it to the domain: takes a domain id of the unit, for the first one there, and
    /// the tags. The domain id.
    pub(crate) fn enter(&self, user: &User<'_, P>) -> Result<u16, Error> {
        let unit = user.unit;
        let forbidden = [
            (self.spec.coherent, IntegratedFlags::NO_WALK_SNOOP, Need::Coherence),
            (self.spec.force_snoop, IntegratedFlags::NO_PAGE_SNOOP, Need::SnoopControl),
        ];
        let forbidden = forbidden.into_iter().find(|(wanted, what, _)| *wanted && user.forbids(*what));
        if let Some(need) = self.spec.lacking(unit).or(forbidden.map(|(.., need)| need)) {
            return Err(ErrorKind::Unsupported(need).on(unit.id));
        }
        if self.foreign.as_ref().is_some_and(|t| !t.taken_by(unit)) {
            return Err(ErrorKind::Unsupported(Need::SnoopControl).on(unit.id));
        }
        if let Some(why) = self.over.as_ref().and_then(|over| over.refused(user)) {
            return Err(why.on(unit.id));
        }
        let did = self.enter_own(user)?;
        if let Some(over) = &self.over
            && let Err(e) = over.parent.enter_nested(user, did)
        {
            self.leave_own(user);
            return Err(e.on(unit.id));
        }
        Ok(did)
    }

    /// What a user's entry asks of the domain itself.
    fn enter_own(&self, user: &User<'_, P>) -> Result<u16, Error> {
        let unit = user.unit;
        let p = &self.machine.host.platform;
        let mut s = self.lock();
        // Room for both tags first, so that nothing is to be taken back.
        s.tags.try_reserve(2).map_err(|_| ErrorKind::OutOfMemory.on(unit.id))?;
        let did = match s.did(user.index) {
            Some(did) => did,
            None => unit.ids.lock(p).alloc().map_err(|e| e.on(unit.id))?,
        };
        for what in self.tags_of(user, did).into_iter().flatten() {
            s.tag(user.index, what);
        }
        // First-stage entries that are absent are cached by nobody (6.1).
        let second = matches!(self.root, Root::Second { .. });
        s.flush_maps |= unit.caps.cap.cm() && second || unit.needs_write_buffer_flush();
        Ok(did)
    }

    /// Ends a use whose entry is gone from all caches. The last one on a unit gives the domain id back.
    pub(crate) fn leave(&self, user: &User<'_, P>) {
        if let Some((over, did)) = self.over.as_ref().zip(self.did(user.index)) {
            over.parent.leave_nested(user, did);
        }
        self.leave_own(user);
    }

    fn leave_own(&self, user: &User<'_, P>) {
        let mut s = self.lock();
        let Some(did) = s.did(user.index) else { return };
        for what in self.tags_of(user, did).into_iter().flatten() {
            s.untag(user.index, what);
        }
        if s.did(user.index).is_none() {
            user.unit.ids.lock(&self.machine.host.platform).free(did);
        }
    }

    /// The caches that may hold what a user was translated to.
    fn tags_of(&self, user: &User<'_, P>, did: u16) -> [Option<Cached>; 2] {
        let unit = match self.root {
            Root::First { .. } | Root::Nested { .. } => Cached::First { did, pasid: user.pasid },
            Root::Second { .. } => Cached::Second { did },
        };
        // The id is the unit's business: not part of what a device knows.
        [Some(unit), user.device.map(|_| Cached::Device(user.facts(0)))]
    }

    /// Adds a device's own cache to the tags of a user that is registered already, before it is turned on; or takes it out after
    /// it was turned off and flushed.
    pub(crate) fn set_device_cache(&self, user: &User<'_, P>, on: bool) -> Result<(), ErrorKind> {
        self.set_tag(user.index, Cached::Device(user.facts(0)), on)?;
        let Some(over) = &self.over else { return Ok(()) };
        let outcome = over.parent.set_tag(user.index, Cached::Nested(user.facts(0)), on);
        if outcome.is_err() {
            self.set_tag(user.index, Cached::Device(user.facts(0)), false)?;
        }
        outcome
    }

    fn set_tag(&self, index: usize, what: Cached, on: bool) -> Result<(), ErrorKind> {
        let mut s = self.lock();
        if on {
            s.tags.try_reserve(1).map_err(|_| ErrorKind::OutOfMemory)?;
            s.tag(index, what);
        } else {
            s.untag(index, what);
        }
        Ok(())
    }

    /// Maps a region that firmware reserved for a device, one to one, for as long as devices need it that are attached.
    pub(crate) fn enter_firmware(&self, r: Range) -> Result<(), ErrorKind> {
        let p = &self.machine.host.platform;
        let mut s = self.lock();
        if r.last.get() < s.one_to_one {
            return Ok(());
        }
        if let Some((_, uses)) = s.firmware.iter_mut().find(|(known, _)| *known == r) {
            *uses = uses.saturating_add(1);
            return Ok(());
        }
        // Room to remember the region, and to take back every piece of it that is mapped before one fails.
        let pieces = s.firmware.len().saturating_add(2);
        s.firmware.try_reserve(1).map_err(|_| ErrorKind::OutOfMemory)?;
        s.owed.try_reserve(pieces).map_err(|_| ErrorKind::OutOfMemory)?;
        let (ticket, mut from, mut flush) = (s.ticket(), r.first, false);
        // Regions may overlap: what another one has mapped already is left to it.
        while let Some(piece) = s.bare(from, r.last) {
            let to = Hpa::new(piece.first.get()).ok_or(ErrorKind::Invalid(Field::Address));
            let len = piece.len_minus_one().checked_add(1).ok_or(ErrorKind::Invalid(Field::Address));
            let mapped = to.and_then(|to| {
                let how = Access::READ | Access::WRITE;
                s.map(p, piece.first, to, len?, how, ticket).map_err(|e| match e.why {
                    MapWhy::OutOfFrames => ErrorKind::OutOfFrames,
                    MapWhy::OutOfMemory => ErrorKind::OutOfMemory,
                    _ => ErrorKind::Invalid(Field::ReservedRegion),
                })
            });
            match mapped {
                Ok(f) => flush |= f,
                Err(e) => {
                    let before = piece.first.get().checked_sub(1).and_then(|last| Range::new(r.first.get(), last));
                    s.unmap_bare(p, before, ticket);
                    self.take_back(s, ticket);
                    return Err(e);
                }
            }
            let Some(next) = piece.last.checked_add(1) else { break };
            from = next;
        }
        grow::push(&mut s.firmware, (r, 1))?;
        drop(s);
        if flush && let Err(e) = self.flush_mapped(r) {
            self.leave_firmware(r);
            return Err(e.kind);
        }
        Ok(())
    }

    /// Ends a use of such a region; the last one unmaps what no other region needs. What units do not confirm in time stays
    /// owed.
    pub(crate) fn leave_firmware(&self, r: Range) {
        let mut s = self.lock();
        let Some((_, uses)) = s.firmware.iter_mut().find(|(known, _)| *known == r) else { return };
        *uses -= 1;
        if *uses == 0 {
            s.firmware.retain(|(_, uses)| *uses != 0);
            let ticket = s.ticket();
            s.unmap_bare(&self.machine.host.platform, Some(r), ticket);
            self.take_back(s, ticket);
        }
    }

    /// Maps every address below `top` to itself, but for the interrupt addresses. Locks for one GiB at a time, for that can
    /// be 262144 entries.
    pub(crate) fn map_one_to_one(&self, top: u64, how: Access) -> Result<(), ErrorKind> {
        let p = &self.machine.host.platform;
        let below = top.min(INTERRUPT_RANGE.first.get());
        let above = INTERRUPT_RANGE.last.get() + 1;
        for (mut first, end) in [(0, below), (above, top)] {
            while first < end {
                let next = ((first | 0x3fff_ffff) + 1).min(end);
                let (at, to) = (Iova::at(first), Hpa::of_entry(first));
                let mapped = self.lock().map(p, at, to, next - first, how, NOBODY);
                mapped.map_err(|_| ErrorKind::OutOfFrames)?;
                first = next;
            }
        }
        self.lock().one_to_one = top;
        Ok(())
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
        drop(self.unmap(r)?);
        let h = &self.machine.host;
        let (first, full) = {
            let mut s = self.lock();
            let first = s.gathered.is_none();
            if first {
                s.gathered = Some(h.platform.now());
            }
            (first, s.owed.len() >= h.config.deferred_ranges.max(1))
        };
        if full {
            return self.settle().map(drop).map_err(|_| MapError { why: MapWhy::NotFlushed, at: r.first });
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

    /// Flushes what units may have cached where something was mapped: that it was absent, or a table that went.
    pub(super) fn flush_mapped(&self, r: Range) -> Result<(), Error> {
        // Invalidations flush the write buffer too.
        let mut flights = Flights::new();
        let outcome = self.launch(&mut flights, |_, add| add(r, false)).and_then(|()| flights.wait(&self.machine));
        flights.abandon(&self.machine);
        outcome
    }

    /// Hands the flush of the ranges that `ranges` gives out (with whether leaves alone changed) to every unit that has a tag,
    /// in as few batches as take them.
    pub(super) fn launch(
        &self,
        flights: &mut Flights,
        ranges: impl Fn(&State, &mut dyn FnMut(Range, bool)),
    ) -> Result<(), Error> {
        // The unit before, and where a batch was not enough for one.
        let (mut after, mut rest) = (None, None);
        loop {
            let mut batch = Batch::new();
            let (unit, next) = {
                let s = self.lock();
                let Some(unit) = s.unit_after(after) else { return Ok(()) };
                // Another unit's tags begin in front: the last of this one's may have gone meanwhile.
                let from = rest.filter(|(u, _)| *u == unit).map_or((false, 0), |(_, place)| place);
                (unit, self.gather(&s, unit, from, &mut batch, &ranges))
            };
            flights.launch(&self.machine, unit, &batch)?;
            (after, rest) = match next {
                Some(place) => (unit.checked_sub(1), Some((unit, place))),
                None => (Some(unit), None),
            };
        }
    }

    /// Adds what the tags of a unit ask for, from place `from` on: its own, then those of devices (6.5.2.5), also where one batch
    /// does not take them all. The place to go on at, where the batch is full.
    fn gather(
        &self,
        s: &State,
        index: usize,
        from: (bool, usize),
        batch: &mut Batch,
        ranges: &impl Fn(&State, &mut dyn FnMut(Range, bool)),
    ) -> Option<(bool, usize)> {
        const FIRST: &[Step] = rules::steps(Change::FirstStageTables, TableMode::Scalable);
        const SECOND: &[Step] = rules::steps(Change::SecondStageTables, TableMode::Legacy);
        const GUEST: &[Step] = rules::steps(Change::GuestTables, TableMode::Scalable);
        const PARENT: &[Step] = rules::steps(Change::ParentTables, TableMode::Scalable);
        let own = match self.root {
            Root::First { .. } => FIRST,
            Root::Second { .. } => SECOND,
            Root::Nested { .. } => GUEST,
        };
        let unit = self.machine.units().get(index)?;
        if from != (false, 0) && own.contains(&Step::Fence) {
            batch.push(Request::Fence);
        }
        let of = |devices: bool| {
            let tags = s.tags.iter().enumerate().filter(|(_, t)| t.uses != 0 && t.unit == index);
            let wanted = tags.filter(move |(_, t)| matches!(t.what, Cached::Device(_) | Cached::Nested(_)) == devices);
            wanted.map(move |(place, t)| ((devices, place), t))
        };
        for (place, tag) in of(false).chain(of(true)).filter(|(place, _)| *place >= from) {
            let mut fits = true;
            let row = if matches!(tag.what, Cached::NestedId { .. } | Cached::Nested(_)) { PARENT } else { own };
            ranges(s, &mut |r, leaf_only| fits = fits && add_range(unit, batch, row, tag.what, r, leaf_only));
            match tag.what {
                // What there is no room for behind others is a device's: it comes with the next batch.
                _ if !fits && place > from => return Some(place),
                Cached::Device(of) | Cached::Nested(of) if !fits => {
                    of.device_tlb().into_iter().for_each(|whole| batch.squeeze(whole))
                }
                _ => {}
            }
        }
        None
    }
}

impl State {
    /// The domain id on a unit.
    fn did(&self, index: usize) -> Option<u16> {
        self.tags.iter().filter(|t| t.uses != 0 && t.unit == index).find_map(|t| match t.what {
            Cached::First { did, .. } | Cached::Second { did } => Some(did),
            Cached::Device(_) | Cached::NestedId { .. } | Cached::Nested(_) => None,
        })
    }

    /// The first unit with a tag beyond `after`.
    fn unit_after(&self, after: Option<usize>) -> Option<usize> {
        let units = self.tags.iter().filter(|t| t.uses != 0).map(|t| t.unit);
        units.filter(|u| after.is_none_or(|a| *u > a)).min()
    }

    /// One more use of a tag; there is room.
    pub(super) fn tag(&mut self, unit: usize, what: Cached) {
        if let Some(t) = self.tags.iter_mut().find(|t| t.uses != 0 && t.unit == unit && t.what == what) {
            t.uses = t.uses.saturating_add(1);
        } else if let Some(free) = self.tags.iter_mut().find(|t| t.uses == 0) {
            *free = Tag { unit, what, uses: 1 };
        } else {
            let _ = grow::push(&mut self.tags, Tag { unit, what, uses: 1 });
        }
    }

    pub(super) fn untag(&mut self, unit: usize, what: Cached) {
        if let Some(t) = self.tags.iter_mut().find(|t| t.uses != 0 && t.unit == unit && t.what == what) {
            t.uses -= 1;
        }
    }

    /// The first part of `from` to `last` that no region of firmware covers.
    fn bare(&self, mut from: Iova, last: Iova) -> Option<Range> {
        let regions = || self.firmware.iter().map(|(r, _)| r);
        while let Some(r) = regions().find(|r| r.first <= from && from <= r.last) {
            from = r.last.checked_add(1)?;
        }
        let end = regions().filter(|r| r.first > from).map(|r| r.first.get() - 1).min();
        Range::new(from.get(), end.map_or(last.get(), |e| e.min(last.get())))
    }

    /// Unmaps what is mapped of a range and not covered by a region of firmware; owed under `ticket`.
    fn unmap_bare<P: Platform>(&mut self, p: &P, r: Option<Range>, ticket: u64) {
        let Some(r) = r else { return };
        let mut from = r.first;
        while let Some(piece) = self.bare(from, r.last) {
            // Nothing there, or no memory to remember it by, for which `enter_firmware` made room: then it stays mapped.
            let _ = self.unmap(p, piece, ticket);
            let Some(next) = piece.last.checked_add(1) else { break };
            from = next;
        }
    }

    /// An error where the range meets a region that firmware needs for an attached device.
    pub(super) fn leave_alone(&self, r: Range) -> Result<(), MapError> {
        match self.firmware.iter().find(|(f, _)| f.overlaps(&r)) {
            Some((f, _)) => Err(MapError { why: MapWhy::InterruptRange, at: f.first.max(r.first) }),
            None => Ok(()),
        }
    }

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
        self.allow(how, at)?;
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
        self.allow(how, r.first)?;
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
