//! Address spaces that devices are attached to: what is mapped, which units may cache it under which domain id, and
//! what is still owed to them (VT-d 3.7, 6.2).
//!
//! Everything that `unmap` takes away stays owned until a flush has completed: table pages by [`Unmapped`], ranges by
//! the domain, which refuses to map them anew ([`MapWhy::Unflushed`]).

use super::flush::{Flushed, add_range};
use super::paging::engine::{Failed, Limits, Paging, Stale};
use super::paging::second::SecondStage;
use super::paging::{Access, PageSizes};
use crate::host::address::{Hpa, INTERRUPT_RANGE, Iova, Range};
use crate::host::error::{Error, ErrorKind, Field, MapError, MapWhy, Need};
use crate::host::grow;
use crate::host::mem::{FreedTables, Shared};
use crate::host::platform::Platform;
use crate::host::sync::{Guard, Lock, Rank};
use crate::hw::capabilities::{AddressWidth, Cap, Capabilities};
use crate::unit::errata::Errata;
use crate::unit::invalidate::{Batch, InFlight};
use crate::unit::{Machine, Unit};
use alloc::vec::Vec;
use core::marker::PhantomData;
use core::ops::ControlFlow;

/// The floor that every unit which may join must meet; a unit below it is refused by name at attach.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DomainSpec {
    /// Levels of tables: 3 (39 bits), 4 (48 bits) or 5 (57 bits). A unit takes those of CAP.SAGAW.
    pub levels: u8,
    /// Bits of input addresses: at most what the levels reach, and CAP.MGAW of every unit.
    pub width: u8,
    /// Page sizes that the tables may use beside 4 KiB.
    pub sizes: PageSizes,
    /// Only units that snoop their table walks may join; saves flushing cache lines.
    pub coherent: bool,
    /// Every access of a device is snooped, whatever the device asks for.
    pub force_snoop: bool,
}

impl Default for DomainSpec {
    /// Four levels, 39 bits, 4 KiB pages, any coherence: what nearly every unit takes.
    fn default() -> Self {
        DomainSpec { levels: 4, width: 39, sizes: PageSizes::empty(), coherent: false, force_snoop: false }
    }
}

impl DomainSpec {
    /// The most that a unit offers: the widest tables up to 48 bits, all page sizes, coherent where it snoops.
    pub(crate) fn best_of(caps: &Capabilities, errata: Errata) -> Self {
        let levels = [4, 3, 5].into_iter().find(|l| caps.cap.supports_levels(*l)).unwrap_or(4);
        let width = caps.cap.mgaw().min(12 + 9 * levels);
        DomainSpec { levels, width, sizes: sizes_of(caps, errata), coherent: caps.ecap.c(), force_snoop: false }
    }

    /// What both offer.
    pub(crate) fn common(self, other: Self) -> Self {
        DomainSpec {
            levels: self.levels,
            width: self.width.min(other.width),
            sizes: self.sizes & other.sizes,
            coherent: self.coherent && other.coherent,
            force_snoop: self.force_snoop && other.force_snoop,
        }
    }

    /// The width that the levels reach, as entries encode it.
    fn reach(&self) -> Result<AddressWidth, ErrorKind> {
        AddressWidth::of_levels(self.levels)
            .filter(|w| (12..=w.bits()).contains(&self.width))
            .ok_or(ErrorKind::Invalid(Field::Size))
    }

    /// What a unit lacks of it.
    fn lacking(&self, caps: &Capabilities, errata: Errata) -> Option<Need> {
        if !caps.cap.supports_levels(self.levels) || caps.cap.mgaw() < self.width {
            Some(Need::Width)
        } else if !sizes_of(caps, errata).contains(self.sizes) {
            Some(Need::PageSizes)
        } else if self.coherent && !caps.ecap.c() {
            Some(Need::Coherence)
        } else if self.force_snoop && !caps.ecap.sc() {
            Some(Need::SnoopControl)
        } else {
            None
        }
    }
}

fn sizes_of(caps: &Capabilities, errata: Errata) -> PageSizes {
    let mut sizes = PageSizes::empty();
    if !errata.contains(Errata::SMALL_PAGES) {
        sizes.set(PageSizes::SIZE_2M, caps.cap.pages_2m());
        sizes.set(PageSizes::SIZE_1G, caps.cap.pages_1g());
    }
    sizes
}

mod mode {
    pub trait Sealed {}
}

/// When unmapped ranges are flushed: part of a domain's type, so that no caller takes one for the other.
pub trait FlushMode: mode::Sealed + Send + Sync + 'static {}

/// Every unmap yields what must be flushed before the memory may be used for anything else.
#[derive(Debug)]
pub enum Strict {}

/// Unmaps are gathered, and flushed by `sync`; until then devices may reach what was unmapped.
#[derive(Debug)]
pub enum Deferred {}

impl mode::Sealed for Strict {}
impl mode::Sealed for Deferred {}
impl FlushMode for Strict {}
impl FlushMode for Deferred {}

/// An address space.
pub struct Domain<P: Platform, M: FlushMode = Strict> {
    pub(crate) space: Shared<Space<P>>,
    mode: PhantomData<M>,
}

/// What a domain's handle, its attachments and its pending flushes share.
pub(crate) struct Space<P: Platform> {
    machine: Shared<Machine<P>>,
    spec: DomainSpec,
    root: (Hpa, AddressWidth),
    state: Lock<State>,
}

struct State {
    /// `None` only while the domain is being dropped.
    tables: Option<Paging<SecondStage>>,
    tags: Vec<Tag>,
    /// A unit that caches absent entries is among the tags: mapping needs a flush too.
    flush_maps: bool,
    owed: Vec<Owed>,
    /// The operation under way changed more than leaf entries.
    tables_changed: bool,
    /// What dropped `Unmapped`s owned. Goes to the flush that takes their ranges over, in one step with these: a flush
    /// that completes without them proves nothing for it.
    left: Left,
    next_ticket: u64,
    /// Firmware's regions mapped one to one for attached devices, with the number of attachments.
    firmware: Vec<(Range, u32)>,
    /// Every address below is mapped to itself, firmware's regions with them.
    one_to_one: u64,
}

/// Table pages whose flush was given up.
struct Left {
    freed: FreedTables,
    tables_changed: bool,
}

/// A unit that may cache the domain's translations.
#[derive(Clone, Copy)]
struct Tag {
    /// Index into the machine's units.
    unit: usize,
    did: u16,
    /// Requester ids attached; 0 for a free place, so that places do not move under a flush that goes through them.
    uses: u32,
}

/// A range that was unmapped and is not known to have left all caches.
#[derive(Clone, Copy)]
struct Owed {
    /// What must not be mapped anew; nothing for a change of rights.
    closed: Option<Range>,
    /// What must be flushed: also the large pages that were split and the tables that went, whole. Mapping next to what
    /// was unmapped is allowed there, but hardware may still walk through a table that went.
    stale: Range,
    /// Which `Unmapped` will flush it; `NOBODY` when that one was dropped.
    ticket: u64,
}

const NOBODY: u64 = 0;

impl<P: Platform> Space<P> {
    fn new(machine: &Shared<Machine<P>>, spec: DomainSpec, hpa_width: u8) -> Result<Self, ErrorKind> {
        let reach = spec.reach()?;
        let format = SecondStage::new(spec.levels, spec.sizes, spec.force_snoop, false, spec.coherent)
            .ok_or(ErrorKind::Invalid(Field::Size))?;
        let p = &machine.host.platform;
        let limits = Limits { input: spec.width, output: hpa_width, coherent: spec.coherent, node: None };
        let tables = Paging::new(p, format, limits)?;
        let root = (tables.root(p), reach);
        let state = State {
            tables: Some(tables),
            tags: Vec::new(),
            flush_maps: false,
            owed: Vec::new(),
            tables_changed: false,
            left: Left { freed: FreedTables::new(), tables_changed: false },
            next_ticket: NOBODY + 1,
            firmware: Vec::new(),
            one_to_one: 0,
        };
        Ok(Space { machine: machine.clone(), spec, root, state: Lock::new(Rank::Domain, state) })
    }

    fn lock(&self) -> Guard<'_, State, P> {
        self.state.lock(&self.machine.host.platform)
    }

    /// The address of the top table, and the width that its levels reach.
    pub(crate) fn root(&self) -> (Hpa, AddressWidth) {
        self.root
    }

    /// The domain id on a unit that was `enter`ed.
    pub(crate) fn did(&self, index: usize) -> Option<u16> {
        self.lock().tags.iter().find(|t| t.uses != 0 && t.unit == index).map(|t| t.did)
    }

    /// Registers the use by one more requester id on a unit, before any entry names the domain there. The domain id.
    pub(crate) fn enter(&self, index: usize, unit: &Unit<P>) -> Result<u16, Error> {
        if let Some(need) = self.spec.lacking(&unit.caps, unit.errata) {
            return Err(ErrorKind::Unsupported(need).on(unit.id));
        }
        let p = &self.machine.host.platform;
        let mut s = self.lock();
        if let Some(t) = s.tags.iter_mut().find(|t| t.uses != 0 && t.unit == index) {
            t.uses = t.uses.saturating_add(1);
            return Ok(t.did);
        }
        let did = unit.ids.lock(p).alloc().map_err(|e| e.on(unit.id))?;
        let tag = Tag { unit: index, did, uses: 1 };
        if let Some(free) = s.tags.iter_mut().find(|t| t.uses == 0) {
            *free = tag;
        } else if let Err(e) = grow::push(&mut s.tags, tag) {
            unit.ids.lock(p).free(did);
            return Err(e.on(unit.id));
        }
        s.flush_maps |= unit.caps.cap.cm() || unit.needs_write_buffer_flush();
        Ok(did)
    }

    /// Ends a use whose entry is gone from all caches. The last one on a unit gives the domain id back.
    pub(crate) fn leave(&self, index: usize, unit: &Unit<P>) {
        let mut s = self.lock();
        if let Some(t) = s.tags.iter_mut().find(|t| t.uses != 0 && t.unit == index) {
            t.uses -= 1;
            if t.uses == 0 {
                let did = t.did;
                unit.ids.lock(&self.machine.host.platform).free(did);
            }
        }
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
        s.firmware.try_reserve(1).map_err(|_| ErrorKind::OutOfMemory)?;
        let Some(to) = Hpa::new(r.first.get()) else { return Err(ErrorKind::Invalid(Field::Address)) };
        let len = r.len_minus_one().checked_add(1).ok_or(ErrorKind::Invalid(Field::Address))?;
        let ticket = s.ticket();
        match s.map(p, r.first, to, len, Access::READ | Access::WRITE, ticket) {
            Ok(flush) => {
                grow::push(&mut s.firmware, (r, 1))?;
                drop(s);
                if flush && let Err(e) = self.flush_mapped(r) {
                    self.leave_firmware(r);
                    return Err(e.kind);
                }
            }
            Err(e) => {
                self.take_back(s, ticket);
                return Err(match e.why {
                    MapWhy::OutOfFrames => ErrorKind::OutOfFrames,
                    MapWhy::OutOfMemory => ErrorKind::OutOfMemory,
                    _ => ErrorKind::Invalid(Field::ReservedRegion),
                });
            }
        }
        Ok(())
    }

    /// Ends a use of such a region; the last one unmaps it. What units do not confirm in time stays owed.
    pub(crate) fn leave_firmware(&self, r: Range) {
        let last = {
            let mut s = self.lock();
            let Some((_, uses)) = s.firmware.iter_mut().find(|(known, _)| *known == r) else { return };
            *uses -= 1;
            let last = *uses == 0;
            s.firmware.retain(|(_, uses)| *uses != 0);
            last
        };
        if last && let Ok(u) = self.unmap(r) {
            let _ = u.flush();
        }
    }

    /// Maps every address below `top` to itself, but for the interrupt addresses.
    pub(crate) fn map_one_to_one(&self, top: u64, how: Access) -> Result<(), ErrorKind> {
        let p = &self.machine.host.platform;
        let below = top.min(INTERRUPT_RANGE.first.get());
        let above = INTERRUPT_RANGE.last.get() + 1;
        let mut s = self.lock();
        for (first, len) in [(0, below), (above, top.saturating_sub(above))] {
            let (at, Some(to)) = (Iova::at(first), Hpa::new(first)) else { continue };
            if len != 0 {
                s.map(p, at, to, len, how, NOBODY).map_err(|_| ErrorKind::OutOfFrames)?;
            }
        }
        s.one_to_one = top;
        Ok(())
    }

    fn unmap(&self, r: Range) -> Result<Unmapped<'_, P>, MapError> {
        let mut s = self.lock();
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
    fn take_back(&self, s: Guard<'_, State, P>, ticket: u64) {
        if s.owed.iter().any(|o| o.ticket == ticket) {
            let _ = self.end(s, ticket, None).flush();
        }
    }

    /// Ends an edit: what it unmapped becomes the caller's to flush; what it mapped is flushed now where units cache
    /// absent entries.
    fn end<'d>(&'d self, mut s: Guard<'d, State, P>, ticket: u64, mapped: Option<Range>) -> Unmapped<'d, P> {
        let (freed, tables_changed) = s.take_freed();
        drop(s);
        let unmapped = Unmapped { space: self, ticket, freed, tables_changed };
        if let Some(r) = mapped {
            // A failure shows as a fault of the device; `map` itself reports it, an edit's next flush repeats it.
            let _ = self.flush_mapped(r);
        }
        unmapped
    }

    /// Flushes what units may have cached where something was mapped: that it was absent, or a table that went.
    fn flush_mapped(&self, r: Range) -> Result<(), Error> {
        let h = &self.machine.host;
        let mut i = 0;
        while let Some((tag, batch)) = self.batch(i, |b, cap, did| add_range(b, cap, did, r, false)) {
            i += 1;
            if let Some(unit) = self.machine.units().get(tag.unit) {
                // Invalidations flush the write buffer too.
                unit.invalidate(h, &batch)?;
            }
        }
        Ok(())
    }

    /// The batch for the tag in place `i`; empty for a free place, `None` behind the last.
    fn batch(&self, i: usize, add: impl Fn(&mut Batch, Cap, u16)) -> Option<(Tag, Batch)> {
        let tag = *self.lock().tags.get(i)?;
        let mut batch = Batch::new();
        if let Some(unit) = self.machine.units().get(tag.unit).filter(|_| tag.uses != 0) {
            add(&mut batch, unit.caps.cap, tag.did);
        }
        Some((tag, batch))
    }
}

impl State {
    fn ticket(&mut self) -> u64 {
        let t = self.next_ticket;
        self.next_ticket = t.wrapping_add(1).max(NOBODY + 1);
        t
    }

    /// Maps, and says whether what was mapped must be flushed; what a failure left in caches is owed under `ticket`.
    fn map<P: Platform>(
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
        let Some(tables) = &mut self.tables else { return Err(MapError { why: MapWhy::NotMapped, at }) };
        match tables.map(p, at, to, len, how) {
            Ok(()) => Ok(flush),
            Err(f) => Err(self.failed(f, range, ticket)),
        }
    }

    fn failed(&mut self, f: Failed, closed: Option<Range>, ticket: u64) -> MapError {
        if let Some(stale) = f.stale {
            self.owe(stale, closed, ticket);
        }
        f.error
    }

    fn unmap<P: Platform>(&mut self, p: &P, r: Range, ticket: u64) -> Result<(), MapError> {
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

    fn protect<P: Platform>(&mut self, p: &P, r: Range, how: Access, ticket: u64) -> Result<(), MapError> {
        self.owed.try_reserve(1).map_err(|_| MapError { why: MapWhy::OutOfMemory, at: r.first })?;
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

    fn owe(&mut self, stale: Stale, closed: Option<Range>, ticket: u64) {
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
        let _ = grow::push(&mut self.owed, Owed { closed, stale: stale.range, ticket });
    }

    /// What the tables gave up, and whether more than leaves changed.
    fn take_freed(&mut self) -> (FreedTables, bool) {
        let freed = self.tables.as_mut().map_or(FreedTables::new(), Paging::take_freed);
        (freed, core::mem::take(&mut self.tables_changed))
    }
}

impl<P: Platform> Drop for Space<P> {
    fn drop(&mut self) {
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

impl<P: Platform, M: FlushMode> Domain<P, M> {
    pub(crate) fn new(machine: &Shared<Machine<P>>, spec: &DomainSpec, hpa_width: u8) -> Result<Self, ErrorKind> {
        let space = Shared::new(Space::new(machine, *spec, hpa_width)?).map_err(|(_, e)| e)?;
        Ok(Domain { space, mode: PhantomData })
    }

    /// What the domain was made with.
    pub fn spec(&self) -> DomainSpec {
        self.space.spec
    }

    /// Maps `len` bytes at `at` to the memory at `to`, with the largest pages that fit. Nothing that is mapped is
    /// replaced, and an error leaves the range as it was. All three numbers are multiples of 4 KiB.
    ///
    /// Waits, with a deadline, only where a unit caches absent entries or buffers writes (CAP.CM, CAP.RWBF), where
    /// hardware may still walk through a table that an unflushed unmap next to it took away, and where an error came
    /// after hardware may have seen part of the mapping. Not for interrupt context.
    pub fn map(&self, at: Iova, to: Hpa, len: u64, how: Access) -> Result<(), MapError> {
        let space = &*self.space;
        let mut s = space.lock();
        let ticket = s.ticket();
        match s.map(&space.machine.host.platform, at, to, len, how, ticket) {
            Ok(false) => Ok(()),
            Ok(true) => {
                drop(s);
                let Some(r) = Range::sized(at, len) else { return Ok(()) };
                space.flush_mapped(r).map_err(|_| MapError { why: MapWhy::NotFlushed, at })
            }
            Err(e) => {
                space.take_back(s, ticket);
                Err(e)
            }
        }
    }

    /// The input addresses that the tables reach: from 0 to the last of the domain's width.
    pub fn addresses(&self) -> Range {
        let last = self.space.lock().tables.as_ref().map_or(Iova::at(0), Paging::last);
        Range { first: Iova::at(0), last }
    }

    /// Where an input address leads: the memory, the bytes from there to the end of its page, and the rights.
    pub fn translate(&self, at: Iova) -> Option<(Hpa, u64, Access)> {
        self.space.lock().tables.as_ref()?.translate(&self.space.machine.host.platform, at)
    }

    /// Flushes what earlier calls still owe: dropped [`Unmapped`]s, flushes that failed.
    pub fn settle(&self) -> Result<Flushed, Error> {
        let space = &*self.space;
        let mut s = space.lock();
        let ticket = s.ticket();
        space.end(s, ticket, None).flush().map_err(|n| n.error)
    }

    /// Ranges that devices attached to the domain need for firmware's sake, which are mapped one to one.
    pub fn firmware_ranges(&self, each: &mut dyn FnMut(Range)) {
        for (r, _) in &self.space.lock().firmware {
            each(*r);
        }
    }
}

impl<P: Platform> Domain<P, Strict> {
    /// Unmaps every page of the range that is mapped; splits large pages that it cuts, seamlessly for the rest.
    /// `NotMapped` where there is nothing at all.
    ///
    /// Devices may go on reaching the memory until the result is flushed.
    pub fn unmap(&self, r: Range) -> Result<Unmapped<'_, P>, MapError> {
        self.space.unmap(r)
    }

    /// Changes the rights of every mapped page of the range. The flush makes it true for devices.
    pub fn protect(&self, r: Range, how: Access) -> Result<Unmapped<'_, P>, MapError> {
        let space = &*self.space;
        let mut s = space.lock();
        let ticket = s.ticket();
        match s.protect(&space.machine.host.platform, r, how, ticket) {
            Ok(()) => Ok(space.end(s, ticket, None)),
            Err(e) => {
                space.take_back(s, ticket);
                Err(e)
            }
        }
    }

    /// Many operations under one lock, with the walk position and the ranges kept. Other users of the domain wait, and
    /// interrupts are masked on this CPU, until `finish`.
    pub fn edit(&self) -> Edit<'_, P> {
        let space = &*self.space;
        let mut guard = space.lock();
        let ticket = guard.ticket();
        Edit { space, guard: Some(guard), ticket, mapped: None }
    }
}

impl<P: Platform> Domain<P, Deferred> {
    /// Unmaps as `Domain::unmap` does, and leaves the flush to the next `sync`.
    pub fn unmap_later(&self, r: Range) -> Result<(), MapError> {
        self.space.unmap(r).map(drop)
    }

    /// Flushes all that was unmapped.
    pub fn sync(&self) -> Result<Flushed, Error> {
        self.settle()
    }
}

/// Many operations on a domain: see [`Domain::edit`].
pub struct Edit<'d, P: Platform> {
    space: &'d Space<P>,
    /// Gone once finished.
    guard: Option<Guard<'d, State, P>>,
    ticket: u64,
    mapped: Option<Range>,
}

impl<'d, P: Platform> Edit<'d, P> {
    /// As [`Domain::map`]; never waits. What an error left in caches is part of what `finish` yields.
    pub fn map(&mut self, at: Iova, to: Hpa, len: u64, how: Access) -> Result<(), MapError> {
        let Some(s) = &mut self.guard else { return Err(MapError { why: MapWhy::Unflushed, at }) };
        if s.map(&self.space.machine.host.platform, at, to, len, how, self.ticket)?
            && let Some(r) = Range::sized(at, len)
        {
            self.mapped = Some(match self.mapped {
                Some(m) => Range { first: m.first.min(r.first), last: m.last.max(r.last) },
                None => r,
            });
        }
        Ok(())
    }

    /// As [`Domain::unmap`].
    pub fn unmap(&mut self, r: Range) -> Result<(), MapError> {
        let Some(s) = &mut self.guard else { return Err(MapError { why: MapWhy::Unflushed, at: r.first }) };
        s.unmap(&self.space.machine.host.platform, r, self.ticket)
    }

    /// Ends the edit. Where a unit caches absent entries, what was mapped is flushed before this returns.
    pub fn finish(mut self) -> Unmapped<'d, P> {
        let mapped = self.mapped.take();
        match self.guard.take() {
            Some(s) => self.space.end(s, self.ticket, mapped),
            None => Unmapped::nothing(self.space),
        }
    }
}

impl<P: Platform> Drop for Edit<'_, P> {
    fn drop(&mut self) {
        if let Some(s) = self.guard.take() {
            drop(self.space.end(s, self.ticket, self.mapped.take()));
        }
    }
}

/// What was unmapped and is still in caches. Owns the freed table pages. Dropped unflushed they are owed by the domain
/// and come back with its next flush, never earlier.
#[must_use = "devices reach the unmapped memory until this is flushed"]
pub struct Unmapped<'d, P: Platform> {
    space: &'d Space<P>,
    ticket: u64,
    freed: FreedTables,
    tables_changed: bool,
}

impl<'d, P: Platform> Unmapped<'d, P> {
    fn nothing(space: &'d Space<P>) -> Self {
        Unmapped { space, ticket: NOBODY, freed: FreedTables::new(), tables_changed: false }
    }

    /// Flushes and awaits it, with a deadline. Not for interrupt context, and not under an `Edit` of the same domain.
    pub fn flush(self) -> Result<Flushed, NotFlushed<'d, P>> {
        let pending = self.submit()?;
        pending.wait()
    }

    /// Hands the flush to every unit, and does not wait for it.
    pub fn submit(mut self) -> Result<Pending<'d, P>, NotFlushed<'d, P>> {
        let space = self.space;
        {
            // Takes over what nobody else will flush.
            let mut s = space.lock();
            for o in s.owed.iter_mut().filter(|o| o.ticket == NOBODY) {
                o.ticket = self.ticket;
            }
            self.freed.append(core::mem::replace(&mut s.left.freed, FreedTables::new()));
            self.tables_changed |= core::mem::take(&mut s.left.tables_changed);
        }
        let mut flights = Flights::new();
        let mut i = 0;
        loop {
            match self.start(i, &mut flights) {
                Ok(true) => i += 1,
                Ok(false) => return Ok(Pending { unmapped: self, flights }),
                Err(error) => {
                    flights.abandon(space);
                    return Err(NotFlushed { error, still: self });
                }
            }
        }
    }

    /// Starts the flush for the tag in place `i`; `false` behind the last.
    fn start(&self, i: usize, flights: &mut Flights) -> Result<bool, Error> {
        let space = self.space;
        let (tag, batch) = {
            let s = space.lock();
            let Some(&tag) = s.tags.get(i) else { return Ok(false) };
            let mut batch = Batch::new();
            if let Some(unit) = space.machine.units().get(tag.unit).filter(|_| tag.uses != 0) {
                for o in s.owed.iter().filter(|o| o.ticket == self.ticket) {
                    add_range(&mut batch, unit.caps.cap, tag.did, o.stale, !self.tables_changed);
                }
            }
            (tag, batch)
        };
        if let Some(unit) = space.machine.units().get(tag.unit)
            && !batch.is_empty()
        {
            let flight = unit.start(&space.machine.host, &batch)?;
            flights.push(space, tag.unit, flight)?;
        }
        Ok(true)
    }

    fn done(mut self) -> Flushed {
        let space = self.space;
        space.lock().owed.retain(|o| o.ticket != self.ticket);
        core::mem::replace(&mut self.freed, FreedTables::new()).release(&space.machine.host.platform);
        self.ticket = NOBODY;
        Flushed(())
    }
}

impl<P: Platform> Drop for Unmapped<'_, P> {
    fn drop(&mut self) {
        if self.ticket == NOBODY {
            return;
        }
        let freed = core::mem::replace(&mut self.freed, FreedTables::new());
        let mut s = self.space.lock();
        for o in s.owed.iter_mut().filter(|o| o.ticket == self.ticket) {
            o.ticket = NOBODY;
        }
        s.left.freed.append(freed);
        s.left.tables_changed |= self.tables_changed;
    }
}

/// Submissions in flight: the first few in place, so that a flush needs no memory; beyond those, one waits at once.
struct Flights {
    list: [Option<(usize, InFlight)>; 8],
}

impl Flights {
    const fn new() -> Self {
        Flights { list: [None; 8] }
    }

    fn push<P: Platform>(&mut self, space: &Space<P>, unit: usize, f: InFlight) -> Result<(), Error> {
        if let Some(free) = self.list.iter_mut().find(|x| x.is_none()) {
            *free = Some((unit, f));
            return Ok(());
        }
        match space.machine.units().get(unit) {
            Some(u) => u.finish(&space.machine.host, f),
            None => Ok(()),
        }
    }

    fn abandon<P: Platform>(&mut self, space: &Space<P>) {
        for (unit, f) in self.list.iter_mut().filter_map(Option::take) {
            if let Some(u) = space.machine.units().get(unit) {
                u.abandon(f);
            }
        }
    }
}

/// A flush that was handed to the units.
#[must_use = "nothing is proved before this says so"]
pub struct Pending<'d, P: Platform> {
    unmapped: Unmapped<'d, P>,
    flights: Flights,
}

impl<'d, P: Platform> Pending<'d, P> {
    /// Looks whether all units have completed it. Never waits; a unit that never answers is found by `wait` only.
    pub fn poll(mut self) -> ControlFlow<Result<Flushed, NotFlushed<'d, P>>, Self> {
        let space = self.unmapped.space;
        for place in &mut self.flights.list {
            let Some((unit, f)) = *place else { continue };
            let Some(u) = space.machine.units().get(unit) else { continue };
            match u.poll(f) {
                None => return ControlFlow::Continue(self),
                Some(Ok(())) => *place = None,
                Some(Err(error)) => {
                    *place = None;
                    return ControlFlow::Break(Err(self.failed(error)));
                }
            }
        }
        ControlFlow::Break(Ok(self.into_unmapped().done()))
    }

    /// Awaits all units, with a deadline.
    pub fn wait(mut self) -> Result<Flushed, NotFlushed<'d, P>> {
        let space = self.unmapped.space;
        for place in &mut self.flights.list {
            let Some((unit, f)) = place.take() else { continue };
            let Some(u) = space.machine.units().get(unit) else { continue };
            if let Err(error) = u.finish(&space.machine.host, f) {
                return Err(self.failed(error));
            }
        }
        Ok(self.into_unmapped().done())
    }

    fn failed(mut self, error: Error) -> NotFlushed<'d, P> {
        self.flights.abandon(self.unmapped.space);
        NotFlushed { error, still: self.into_unmapped() }
    }

    fn into_unmapped(mut self) -> Unmapped<'d, P> {
        let nothing = Unmapped::nothing(self.unmapped.space);
        core::mem::replace(&mut self.unmapped, nothing)
    }
}

impl<P: Platform> Drop for Pending<'_, P> {
    fn drop(&mut self) {
        self.flights.abandon(self.unmapped.space);
    }
}

/// A flush that failed or ran out of time: nothing is given back; pages, ids and status words stay owned.
pub struct NotFlushed<'d, P: Platform> {
    /// What happened.
    pub error: Error,
    /// What is still to be flushed.
    pub still: Unmapped<'d, P>,
}

impl<P: Platform> core::fmt::Debug for NotFlushed<'_, P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("NotFlushed").field("error", &self.error).finish_non_exhaustive()
    }
}
