//! Which caches may hold a domain's translations, and under which names: the tags, and what is flushed by them (VT-d 6.2, 6.5.2).

use super::flush::{Cached, add_range};
use super::state::{Root, Space, State, Tag, User};
use crate::dmar::IntegratedFlags;
use crate::host::address::Range;
use crate::host::error::{Error, ErrorKind, Need};
use crate::host::grow;
use crate::host::platform::Platform;
use crate::hw::registers::TableMode;
use crate::unit::flights::Flights;
use crate::unit::invalidate::{Batch, Request};
use crate::unit::rules::{self, Change, Step};

impl<P: Platform> Space<P> {
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
    pub(super) fn enter_own(&self, user: &User<'_, P>) -> Result<u16, Error> {
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

    pub(super) fn leave_own(&self, user: &User<'_, P>) {
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
    pub(super) fn tags_of(&self, user: &User<'_, P>, did: u16) -> [Option<Cached>; 2] {
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

    pub(super) fn set_tag(&self, index: usize, what: Cached, on: bool) -> Result<(), ErrorKind> {
        let mut s = self.lock();
        if on {
            s.tags.try_reserve(1).map_err(|_| ErrorKind::OutOfMemory)?;
            s.tag(index, what);
        } else {
            s.untag(index, what);
        }
        Ok(())
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
    pub(super) fn gather(
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
    pub(super) fn did(&self, index: usize) -> Option<u16> {
        self.tags.iter().filter(|t| t.uses != 0 && t.unit == index).find_map(|t| match t.what {
            Cached::First { did, .. } | Cached::Second { did } => Some(did),
            Cached::Device(_) | Cached::NestedId { .. } | Cached::Nested(_) => None,
        })
    }

    /// The first unit with a tag beyond `after`.
    pub(super) fn unit_after(&self, after: Option<usize>) -> Option<usize> {
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
}
