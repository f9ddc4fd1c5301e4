//! How what a group is attached to changes: entered, switched entry by entry, flushed, left.
//!
//! The order (VT-d 6.2.2, 6.2.3, 6.8): everything that can fail first (widths, domain ids, tags, context and PASID tables,
//! firmware's regions), then the entries of every requester id, then one batch of invalidations a unit (every unit's tail before
//! the first wait), then entries that could not take another's place at once, then the old domain lets go. A batch that does not
//! complete leaves the requests blocked, and what hardware may still use owned.

use super::attach::{Change, Changing, Group, Scope, Target};
use super::entries::{self, Aim};
use super::registry::{Attached, Member};
use super::standing::Matter;
use crate::host::address::{Range, SourceId};
use crate::host::error::{Error, ErrorKind, Field};
use crate::host::grow;
use crate::host::platform::Platform;
use crate::space::state::User;
use crate::unit::flights::Flights;
use crate::unit::invalidate::Batch;
use crate::unit::pasid::RID_PASID;

impl<P: Platform> Group<P> {
    /// Whose entries a change is about: each requester id with the unit that serves it.
    /// None of a member that is blocked apart from its group: it is in nobody's tags, and its entries are not written.
    pub(super) fn users(&self, scope: Scope) -> impl Iterator<Item = User<'_, P>> + '_ {
        let units = self.core.units();
        let served = move |(n, m): (usize, _)| {
            let unit = units.get(Member::unit(m)?)?;
            (!m.standing.is(Matter::HELD)).then_some((n, m, unit))
        };
        self.members().iter().enumerate().filter_map(served).flat_map(move |(n, m, unit)| {
            let pasid = match scope {
                Scope::Plain => Some(RID_PASID),
                Scope::PlainOf { member } => Some(RID_PASID).filter(|_| member == n),
                Scope::Pasid { member, pasid } => Some(pasid.get()).filter(|_| member == n),
            };
            let index = Member::unit(m).unwrap_or_default();
            m.sources.iter().filter_map(move |source| {
                // An alias carries no PASID and has no cache.
                let own = *source == m.device.source;
                let pasid = pasid.filter(|_| own || !matches!(scope, Scope::Pasid { .. }))?;
                let device = m.standing.throttle().filter(|_| own);
                let flags = m.flags.unwrap_or_default();
                Some(User { index, unit, source: source.0, pasid, device, flags })
            })
        })
    }

    pub(super) fn change_to(&self, scope: Scope, to: Target<'_, P>) -> Result<Change, Error> {
        let new = match to {
            Target::Blocked => Attached::Blocked,
            Target::Identity => Attached::Identity,
            Target::Domain(d) => Attached::Space(d.space.clone()),
            Target::Deferred(d) => Attached::Space(d.space.clone()),
            Target::Shared(a) => Attached::Space(a.space.clone()),
            Target::Stage1(s) => Attached::Space(s.space.clone()),
        };
        // Its flushes would go to another machine's units.
        if let Attached::Space(space) = &new
            && !space.belongs_to(self.core.machine())
        {
            return Err(ErrorKind::Invalid(Field::Domain).into());
        }
        let (_changing, old, unproved) = self.change(scope, &new)?;
        self.answerable(scope, &new)?;
        let new = match new {
            Attached::Identity if self.needs_identity_tables(scope) => Attached::Space(self.core.identity_space()?),
            new => new,
        };
        let outcome = self.move_to(scope, old, new, unproved);
        if scope == Scope::Plain {
            self.take_up();
        }
        outcome
    }

    /// Attaches, with the right to. What is done first to make that possible `take_up` undoes.
    pub(super) fn move_to(
        &self,
        scope: Scope,
        old: Attached<P>,
        new: Attached<P>,
        unproved: bool,
    ) -> Result<Change, Error> {
        if scope == Scope::Plain {
            self.make_way(&new)?;
        }
        self.enter(scope, &new)?;
        match self.switch(scope, &new, unproved) {
            Ok(change) => {
                self.set(scope, new);
                self.leave(scope, &old);
                self.settle(scope);
                Ok(change)
            }
            Err(e) => {
                // Who did not answer is blocked apart, and not asked again.
                self.isolate_silent(scope, &new);
                // Fail closed. What either domain's entries may have left in caches keeps its ids and tables.
                let proved = self.switch(scope, &Attached::Blocked, true).is_ok();
                self.doubt(scope, [&old, &new]);
                self.set(scope, Attached::Blocked);
                if proved {
                    self.settle(scope);
                }
                Err(e)
            }
        }
    }

    /// Takes the right to change.
    pub(crate) fn hold(&self) -> Result<Changing<'_, P>, Error> {
        self.change(Scope::Plain, &Attached::Blocked).map(|(changing, ..)| changing)
    }

    /// Takes the right to change, and says what is attached and whether caches may hold what nobody knows of.
    pub(super) fn change(&self, scope: Scope, to: &Attached<P>) -> Result<(Changing<'_, P>, Attached<P>, bool), Error> {
        let mut states = self.core.registry()?.states.lock(self.core.platform());
        let s = states.get_mut(self.place).ok_or(Error::from(ErrorKind::Unknown))?;
        if s.busy {
            return Err(ErrorKind::Busy.into());
        }
        if !matches!(to, Attached::Blocked) {
            // Room to remember it, and what may fail of it or of its end, so that neither needs memory.
            s.pasids.try_reserve(1).map_err(|_| ErrorKind::OutOfMemory)?;
            s.make_room()?;
        }
        let old = match scope {
            Scope::Plain | Scope::PlainOf { .. } => s.attached.clone(),
            Scope::Pasid { member, pasid } => s.target(member, Some(pasid)).clone(),
        };
        s.busy = true;
        Ok((Changing { group: self }, old, s.unproved(scope)))
    }

    /// Remembers that caches may hold what requests were attached to.
    pub(super) fn doubt(&self, scope: Scope, what: [&Attached<P>; 2]) {
        let Ok(registry) = self.core.registry() else { return };
        let mut states = registry.states.lock(self.core.platform());
        let Some(s) = states.get_mut(self.place) else { return };
        for to in what.into_iter().filter(|to| !matches!(to, Attached::Blocked)) {
            // There is room; without it the space would have to be leaked.
            if grow::push(&mut s.doubts, (scope, to.clone())).is_err() {
                core::mem::forget(to.clone());
            }
        }
    }

    /// Members are, or stand, otherwise than when doubts arose: ending these then could end uses that are not theirs. What was
    /// attached stays owned for good; that everything is to be flushed stays true.
    pub(super) fn keep_doubts(&self) {
        let Ok(registry) = self.core.registry() else { return };
        let mut states = registry.states.lock(self.core.platform());
        for (_, to) in states.get_mut(self.place).into_iter().flat_map(|s| &mut s.doubts) {
            core::mem::forget(core::mem::replace(to, Attached::Blocked));
        }
    }

    /// Everything is flushed: ends what was in doubt.
    pub(super) fn settle(&self, scope: Scope) {
        let Ok(registry) = self.core.registry() else { return };
        loop {
            let was = {
                let mut states = registry.states.lock(self.core.platform());
                let doubts = states.get_mut(self.place).map(|s| &mut s.doubts);
                doubts.and_then(|l| l.iter().position(|(s, _)| *s == scope).map(|i| l.swap_remove(i)))
            };
            let Some((_, to)) = was else { return };
            self.leave(scope, &to);
        }
    }

    pub(super) fn set(&self, scope: Scope, to: Attached<P>) {
        let Ok(registry) = self.core.registry() else { return };
        let was = {
            let mut states = registry.states.lock(self.core.platform());
            states.get_mut(self.place).map(|s| match scope {
                Scope::Plain | Scope::PlainOf { .. } => Some(core::mem::replace(&mut s.attached, to)),
                Scope::Pasid { member, pasid } => {
                    let place = s.pasids.iter().position(|(m, p, _)| (*m, *p) == (member, pasid));
                    match (place.and_then(|i| s.pasids.get_mut(i)), place) {
                        (Some(known), Some(i)) if matches!(to, Attached::Blocked) => {
                            let was = core::mem::replace(&mut known.2, to);
                            s.pasids.swap_remove(i);
                            Some(was)
                        }
                        (Some(known), _) => Some(core::mem::replace(&mut known.2, to)),
                        (None, _) if matches!(to, Attached::Blocked) => None,
                        (None, _) => {
                            let _ = grow::push(&mut s.pasids, (member, pasid, to));
                            None
                        }
                    }
                }
            })
        };
        // The last handle of a domain frees its tables: outside the lock.
        drop(was);
    }

    pub(super) fn needs_identity_tables(&self, scope: Scope) -> bool {
        self.users(scope).any(|u| !u.unit.caps.ecap.pt())
    }

    /// Firmware's regions that an attachment maps: they are for requests without PASID.
    pub(super) fn mapped_regions(&self, scope: Scope) -> impl Iterator<Item = Range> + '_ {
        self.firmware().filter(move |_| scope == Scope::Plain)
    }

    /// All that can fail of an attachment to `to`; an error leaves nothing behind.
    pub(super) fn enter(&self, scope: Scope, to: &Attached<P>) -> Result<(), Error> {
        let host = self.core.host();
        // An absent entry needs no table, and no unit that translates.
        if matches!(to, Attached::Blocked) {
            return Ok(());
        }
        for user in self.users(scope) {
            if user.unit.stopped() {
                return Err(ErrorKind::State(user.unit.idle()).on(user.unit.id));
            }
            let member = self.members().iter().find(|m| m.sources.iter().any(|s| s.0 == user.source));
            let of = member.map(|m| m.requester(user.unit)).unwrap_or_default();
            entries::prepare(host, &user, of).map_err(|e| e.on(user.unit.id))?;
        }
        let Attached::Space(space) = to else { return Ok(()) };
        for (done, user) in self.users(scope).enumerate() {
            if let Err(e) = space.enter(&user) {
                self.users(scope).take(done).for_each(|user| space.leave(&user));
                return Err(e);
            }
        }
        for (done, r) in self.mapped_regions(scope).enumerate() {
            if let Err(e) = space.enter_firmware(r) {
                self.mapped_regions(scope).take(done).for_each(|r| space.leave_firmware(r));
                self.users(scope).for_each(|user| space.leave(&user));
                return Err(e.into());
            }
        }
        Ok(())
    }

    /// Undoes `enter` for what no entry names any more.
    pub(super) fn leave(&self, scope: Scope, from: &Attached<P>) {
        if let Attached::Adopted = from {
            self.users(scope).for_each(|user| user.unit.lose_foreign(self.core.platform(), SourceId(user.source)));
        }
        let Attached::Space(space) = from else { return };
        self.users(scope).for_each(|user| space.leave(&user));
        self.mapped_regions(scope).for_each(|r| space.leave_firmware(r));
    }

    /// Writes the entries of all users and flushes what that demands. `unproved`: caches may hold entries that stood there
    /// before the present ones, under ids that nobody knows any more.
    ///
    /// An error ends it; but blocking goes on, so that no entry stays because a flush of another failed.
    pub(super) fn switch(&self, scope: Scope, to: &Attached<P>, unproved: bool) -> Result<Change, Error> {
        let mut gap = false;
        let again = self.round(scope, to, unproved, &mut gap)?;
        // Where an entry had to be cleared first it is absent now, and the new one may come.
        if again && self.round(scope, to, false, &mut gap)? {
            return Err(ErrorKind::Busy.into());
        }
        Ok(if gap { Change::WithGap } else { Change::Seamless })
    }

    /// One round over all entries: every unit's batch is handed over before the first is awaited. Says whether some entry was
    /// only cleared.
    pub(super) fn round(&self, scope: Scope, to: &Attached<P>, unproved: bool, gap: &mut bool) -> Result<bool, Error> {
        let machine = &self.core.machine;
        let (mut again, mut failed, mut flights) = (false, None, Flights::new());
        for index in 0..machine.units().len() {
            let outcome = self.write_on(index, (scope, to, unproved), &mut flights, gap);
            match outcome {
                Ok(cleared) => again |= cleared,
                Err(e) => {
                    failed = failed.or(Some(e));
                    if !matches!(to, Attached::Blocked) {
                        break;
                    }
                }
            }
        }
        // Each time on to the next that is left.
        while let Err(e) = flights.wait(machine) {
            failed = failed.or(Some(e));
            if !matches!(to, Attached::Blocked) {
                break;
            }
        }
        flights.abandon(machine);
        failed.map_or(Ok(again), Err)
    }

    /// Writes the entries on one unit, and hands their flush to it.
    pub(super) fn write_on(
        &self,
        index: usize,
        (scope, to, unproved): (Scope, &Attached<P>, bool),
        flights: &mut Flights,
        gap: &mut bool,
    ) -> Result<bool, Error> {
        let (host, machine) = (self.core.host(), &self.core.machine);
        let Some(unit) = machine.units().get(index) else { return Ok(false) };
        let mut batch = Batch::new();
        let (mut written, mut again) = (false, false);
        for user in self.users(scope).filter(|u| u.index == index) {
            let due = entries::write(host, user, self.aim(to, index)?).map_err(|e| e.on(unit.id))?;
            *gap |= !due.seamless();
            again |= due.again;
            if unproved && !written {
                unit.add_everything(&mut batch);
            }
            written = true;
            let own = if unproved { user.facts(0).device_tlb() } else { None };
            let add = |batch: &mut Batch| due.add_to(batch) && own.is_none_or(|r| batch.push(r));
            if !add(&mut batch) {
                flights.launch(machine, index, &batch)?;
                batch = Batch::new();
                if unproved {
                    // Of this user and those after it the first batch knew nothing.
                    unit.add_everything(&mut batch);
                }
                add(&mut batch);
            }
        }
        if !batch.is_empty() {
            flights.launch(machine, index, &batch)?;
        } else if written {
            unit.flush_write_buffer(host)?;
        }
        Ok(again)
    }

    pub(super) fn aim(&self, to: &Attached<P>, index: usize) -> Result<Aim, Error> {
        Ok(match to {
            Attached::Blocked => Aim::Blocked,
            Attached::Identity => Aim::PassThrough,
            Attached::Adopted => return Err(ErrorKind::Unknown.into()),
            Attached::Space(space) => {
                let did = space.did(index).ok_or(Error::from(ErrorKind::Unknown))?;
                Aim::Tables { root: space.root(), did, snoop: space.spec().force_snoop }
            }
        })
    }
}
