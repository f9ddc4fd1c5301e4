//! Groups in their owner's hands: attached, replaced, detached, given back.
//!
//! The order of an attachment (VT-d 6.2.2, 6.8): everything that can fail first (widths, domain ids, context tables,
//! firmware's regions), then the entries of every requester id, then one batch of invalidations a unit, then the old
//! domain lets go. A batch that does not complete leaves the group blocked, and what hardware may still use owned.

use super::common::Core;
use super::entries::{self, Aim};
use super::events::Events;
use super::group::GroupId;
use super::registry::{Attached, Member, Owner};
use crate::host::address::{DeviceId, INTERRUPT_RANGE, Range, SourceId};
use crate::host::error::{Error, ErrorKind, Field, Need};
use crate::host::mem::Shared;
use crate::host::platform::Platform;
use crate::space::domain::{Deferred, Domain, Strict};
use crate::space::spec::DomainSpec;
use crate::unit::Unit;
use crate::unit::invalidate::Batch;
use alloc::sync::Arc;
use core::fmt;

/// What a group is attached to.
#[non_exhaustive]
pub enum Target<'a, P: Platform> {
    /// Nothing: every request is blocked.
    Blocked,
    /// All memory, input address = physical address: pass-through where the unit has it, tables elsewhere. The tables
    /// reach `Config::identity_top` and leave the interrupt addresses out.
    Identity,
    /// A domain that flushes at every unmap.
    Domain(&'a Domain<P, Strict>),
    /// A domain that flushes at `sync`.
    Deferred(&'a Domain<P, Deferred>),
}

/// How a change of attachment looked to the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// Each request met the old tables or the new.
    Seamless,
    /// Requests may have been blocked in between, or were blocked before.
    WithGap,
}

/// A claimed group: the right to say what its devices reach. Dropping it releases it.
pub struct Group<P: Platform> {
    core: Shared<Core<P>>,
    id: GroupId,
    /// Its place in the registry.
    place: usize,
    owner: Owner,
    live: bool,
}

/// The right to change a group's attachment, taken from everyone else for as long as it lives.
struct Changing<'g, P: Platform> {
    group: &'g Group<P>,
}

impl<P: Platform> Drop for Changing<'_, P> {
    fn drop(&mut self) {
        let Ok(registry) = self.group.core.registry() else { return };
        let mut states = registry.states.lock(self.group.core.platform());
        if let Some(s) = states.get_mut(self.group.place) {
            s.busy = false;
        }
    }
}

impl<P: Platform> Group<P> {
    /// Claims: marks the group as owned, and blocks it.
    pub(crate) fn claim(core: &Shared<Core<P>>, id: GroupId, owner: Owner) -> Result<Self, Error> {
        let registry = core.registry()?;
        let place = registry.place(id)?;
        // Also after a `bring_up` or `hand_back` that failed half-way: where translation is off nothing can be promised.
        if let Some(unit) = core.units().iter().find(|u| !u.translates()) {
            return Err(ErrorKind::State(unit.idle()).into());
        }
        for m in registry.members(place) {
            let Some(unit) = m.unit.and_then(|i| core.units().get(i)) else {
                return Err(ErrorKind::Unsupported(Need::Unit).of(m.device));
            };
            if unit.stopped() {
                return Err(ErrorKind::State(unit.idle()).on(unit.id).of(m.device));
            }
            if owner != Owner::HOST && m.reserved.iter().any(|(_, relaxable)| !relaxable) {
                return Err(ErrorKind::Invalid(Field::ReservedRegion).of(m.device));
            }
        }
        {
            let mut states = registry.states.lock(core.platform());
            let s = states.get_mut(place).ok_or(Error::from(ErrorKind::Unknown))?;
            if s.owner.is_some() || s.busy {
                return Err(ErrorKind::Busy.into());
            }
            s.owner = Some(owner);
        }
        let group = Group { core: core.clone(), id, place, owner, live: true };
        group.attach(Target::Blocked)?;
        group.listen_from_now()?;
        Ok(group)
    }

    /// What the devices did before is not this owner's to hear.
    fn listen_from_now(&self) -> Result<(), Error> {
        let (registry, host) = (self.core.registry()?, self.core.host());
        for (m, member) in self.members().iter().enumerate() {
            let Some(unit) = member.unit.and_then(|i| self.core.units().get(i)) else { continue };
            unit.faults().collect(host, unit);
            let since = unit.faults().place(host);
            let mut states = registry.states.lock(&host.platform);
            if let Some(ear) = states.get_mut(self.place).and_then(|s| s.ears.get_mut(m)) {
                ear.since = since;
            }
        }
        Ok(())
    }

    /// The driver's own hand on a group that nobody has claimed: it comes and goes without a trace.
    pub(crate) fn unclaimed(core: &Shared<Core<P>>, place: usize) -> Result<Self, Error> {
        let id = core.registry()?.id(place)?;
        Ok(Group { core: core.clone(), id, place, owner: Owner::HOST, live: false })
    }

    /// The group's id.
    pub fn id(&self) -> GroupId {
        self.id
    }

    /// Who claimed it.
    pub fn owner(&self) -> Owner {
        self.owner
    }

    fn members(&self) -> &[Member] {
        self.core.registry().map_or(&[], |r| r.members(self.place))
    }

    /// The devices of the group.
    pub fn devices(&self) -> impl Iterator<Item = DeviceId> + '_ {
        self.members().iter().map(|m| m.device)
    }

    /// Input addresses that domains of this group must leave alone: interrupts, and firmware's regions, which an
    /// attachment maps one to one.
    pub fn reserved(&self) -> impl Iterator<Item = Range> + '_ {
        core::iter::once(INTERRUPT_RANGE).chain(self.firmware())
    }

    /// Firmware's regions of the members, as far as this owner must have them. The same region may come up twice.
    fn firmware(&self) -> impl Iterator<Item = Range> + '_ {
        let host = self.owner == Owner::HOST;
        self.members()
            .iter()
            .flat_map(move |m| m.reserved.iter().filter(move |(_, relaxable)| host || !relaxable).map(|(r, _)| *r))
    }

    /// The domain that all units of the group can take and that offers the most.
    pub fn best_spec(&self) -> DomainSpec {
        let units = self.core.units();
        let members = self.members().iter().filter_map(|m| units.get(m.unit?));
        DomainSpec::best_of(members).unwrap_or_default()
    }

    /// Every requester id of every member with the unit that serves it.
    fn sources(&self) -> impl Iterator<Item = (usize, &Unit<P>, SourceId)> + '_ {
        let units = self.core.units();
        self.members()
            .iter()
            .filter_map(move |m| m.unit.and_then(|i| units.get(i).map(|u| (i, u, m))))
            .flat_map(|(i, u, m)| m.sources.iter().map(move |s| (i, u, *s)))
    }

    /// Has every request of every member go through `to`, under each id that it may carry, or changes nothing and says
    /// why. After a timeout the group is blocked.
    ///
    /// Waits for invalidations, with a deadline. Not for interrupt context.
    pub fn attach(&self, to: Target<'_, P>) -> Result<Change, Error> {
        let new = match to {
            Target::Blocked => Attached::Blocked,
            Target::Identity => Attached::Identity,
            Target::Domain(d) => Attached::Space(d.space.clone()),
            Target::Deferred(d) => Attached::Space(d.space.clone()),
        };
        // Its flushes would go to another machine's units.
        if let Attached::Space(space) = &new
            && !space.belongs_to(self.core.machine())
        {
            return Err(ErrorKind::Invalid(Field::Domain).into());
        }
        let (_changing, old, unproved) = self.change()?;
        let new = match new {
            Attached::Identity if self.needs_identity_tables() => Attached::Space(self.core.identity_space()?),
            new => new,
        };
        self.enter(&new)?;
        match self.switch(&new, unproved) {
            Ok(change) => {
                self.set(new, false);
                self.leave(&old);
                Ok(change)
            }
            Err(e) => {
                // Fail closed. What either domain's entries may have left in caches keeps its ids and tables.
                let proved = self.switch(&Attached::Blocked, true).is_ok();
                self.set(Attached::Blocked, !proved);
                if proved {
                    self.leave(&old);
                    self.leave(&new);
                } else {
                    core::mem::forget((old, new));
                }
                Err(e)
            }
        }
    }

    fn change(&self) -> Result<(Changing<'_, P>, Attached<P>, bool), Error> {
        let mut states = self.core.registry()?.states.lock(self.core.platform());
        let s = states.get_mut(self.place).ok_or(Error::from(ErrorKind::Unknown))?;
        if core::mem::replace(&mut s.busy, true) {
            return Err(ErrorKind::Busy.into());
        }
        Ok((Changing { group: self }, s.attached.clone(), s.unproved))
    }

    fn set(&self, to: Attached<P>, unproved: bool) {
        let Ok(registry) = self.core.registry() else { return };
        let was = {
            let mut states = registry.states.lock(self.core.platform());
            states.get_mut(self.place).map(|s| {
                s.unproved = unproved;
                core::mem::replace(&mut s.attached, to)
            })
        };
        // The last handle of a domain frees its tables: outside the lock.
        drop(was);
    }

    fn needs_identity_tables(&self) -> bool {
        self.sources().any(|(_, u, _)| !u.caps.ecap.pt())
    }

    /// All that can fail of an attachment to `to`; an error leaves nothing behind.
    fn enter(&self, to: &Attached<P>) -> Result<(), Error> {
        let host = self.core.host();
        // An absent entry needs no table, and no unit that translates.
        if matches!(to, Attached::Blocked) {
            return Ok(());
        }
        for (_, unit, source) in self.sources() {
            if unit.stopped() {
                return Err(ErrorKind::State(unit.idle()).on(unit.id));
            }
            entries::prepare(host, unit, source).map_err(|e| e.on(unit.id))?;
        }
        let Attached::Space(space) = to else { return Ok(()) };
        for (done, (i, unit, _)) in self.sources().enumerate() {
            if let Err(e) = space.enter(i, unit) {
                self.sources().take(done).for_each(|(i, unit, _)| space.leave(i, unit));
                return Err(e);
            }
        }
        for (done, r) in self.firmware().enumerate() {
            if let Err(e) = space.enter_firmware(r) {
                self.firmware().take(done).for_each(|r| space.leave_firmware(r));
                self.sources().for_each(|(i, unit, _)| space.leave(i, unit));
                return Err(e.into());
            }
        }
        Ok(())
    }

    /// Undoes `enter` for what no entry names any more.
    fn leave(&self, from: &Attached<P>) {
        let Attached::Space(space) = from else { return };
        self.sources().for_each(|(i, unit, _)| space.leave(i, unit));
        self.firmware().for_each(|r| space.leave_firmware(r));
    }

    /// Writes the entries of all requester ids and flushes what that demands: one batch a unit. `unproved`: caches may hold
    /// entries that stood there before the present ones, under ids that nobody knows any more.
    ///
    /// An error ends it; but blocking goes on, so that no entry stays because a flush of another failed.
    fn switch(&self, to: &Attached<P>, unproved: bool) -> Result<Change, Error> {
        let mut seamless = true;
        let mut failed = None;
        for (index, unit) in self.core.units().iter().enumerate() {
            let Err(e) = self.switch_on(index, unit, to, unproved, &mut seamless) else { continue };
            failed = failed.or(Some(e));
            if !matches!(to, Attached::Blocked) {
                break;
            }
        }
        match failed {
            Some(e) => Err(e),
            None if seamless => Ok(Change::Seamless),
            None => Ok(Change::WithGap),
        }
    }

    fn switch_on(
        &self,
        index: usize,
        unit: &Unit<P>,
        to: &Attached<P>,
        unproved: bool,
        seamless: &mut bool,
    ) -> Result<(), Error> {
        let host = self.core.host();
        let mut batch = Batch::new();
        let (mut written, mut outcome) = (false, Ok(()));
        for (_, _, source) in self.sources().filter(|(i, ..)| *i == index) {
            let due = entries::write(host, unit, source, self.aim(to, index)?).map_err(|e| e.on(unit.id))?;
            *seamless &= due.seamless();
            if unproved && !written {
                unit.add_everything(&mut batch);
            }
            written = true;
            if !due.add_to(unit, &mut batch) {
                outcome = outcome.and(unit.invalidate(host, &batch));
                batch = Batch::new();
                due.add_to(unit, &mut batch);
            }
        }
        outcome?;
        if !batch.is_empty() {
            unit.invalidate(host, &batch)
        } else if written {
            unit.flush_write_buffer(host)
        } else {
            Ok(())
        }
    }

    fn aim(&self, to: &Attached<P>, index: usize) -> Result<Aim, Error> {
        Ok(match to {
            Attached::Blocked => Aim::Blocked,
            Attached::Identity => Aim::PassThrough,
            Attached::Space(space) => {
                let (root, width) = space.root();
                let did = space.did(index).ok_or(Error::from(ErrorKind::Unknown))?;
                Aim::SecondStage { root, width, did }
            }
        })
    }

    /// Has `h` hear of what device `d` of the group reports, in place of who heard before.
    pub fn on_events(&self, d: DeviceId, h: Arc<dyn Events>) -> Result<(), Error> {
        let member = self.members().iter().position(|m| m.device == d);
        let was = {
            let mut states = self.core.registry()?.states.lock(self.core.platform());
            let ear = member.and_then(|m| states.get_mut(self.place)?.ears.get_mut(m));
            match ear {
                Some(ear) => ear.handler.replace(h),
                None => return Err(ErrorKind::Invalid(Field::Device).of(d)),
            }
        };
        drop(was);
        Ok(())
    }

    /// Gives the group back, blocked. On an error it is blocked as well as can be, and still owned.
    pub fn release(mut self) -> Result<(), (Self, Error)> {
        match self.end() {
            Ok(()) => {
                self.live = false;
                Ok(())
            }
            Err(e) => Err((self, e)),
        }
    }

    fn end(&self) -> Result<(), Error> {
        self.attach(Target::Blocked)?;
        let registry = self.core.registry()?;
        for m in 0..self.members().len() {
            // With what it missed: that is not for the next owner.
            let was = {
                let mut states = registry.states.lock(self.core.platform());
                states.get_mut(self.place).and_then(|s| s.ears.get_mut(m)).map(core::mem::take)
            };
            drop(was);
        }
        let mut states = registry.states.lock(self.core.platform());
        if let Some(s) = states.get_mut(self.place) {
            s.owner = None;
        }
        Ok(())
    }
}

impl<P: Platform> fmt::Debug for Group<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("id", &self.id).field("owner", &self.owner).finish_non_exhaustive()
    }
}

impl<P: Platform> Drop for Group<P> {
    fn drop(&mut self) {
        if self.live {
            // Without success the group stays claimed for ever: nobody may have devices whose caches are unknown.
            let _ = self.end();
        }
    }
}
