//! Groups in their owner's hands: attached, replaced, detached, given back.
//! What a change of attachment does, and in which order, is in `change`.

use super::common::Core;
use super::events::Events;
use super::group::GroupId;
use super::registry::{Attached, Member, Owner};
use super::standing::Matter;
use crate::dmar::IntegratedFlags;
use crate::host::address::{DeviceId, INTERRUPT_RANGE, Pasid, Range};
use crate::host::error::{Error, ErrorKind, Field, Need, State};
use crate::host::mem::Shared;
use crate::host::platform::Platform;
use crate::space::address_space::AddressSpace;
use crate::space::domain::{Deferred, Domain, Strict};
use crate::space::foreign::{Offers, Refused, TableForm};
use crate::space::spec::DomainSpec;
use crate::space::stage1::Stage1;
use crate::space::state::User;
use crate::unit::Unit;
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
    /// A CPU's own tables.
    Shared(&'a AddressSpace<P>),
    /// A guest's first-stage tables, over a domain.
    Stage1(&'a Stage1<P>),
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
    pub(super) core: Shared<Core<P>>,
    id: GroupId,
    /// Its place in the registry.
    pub(super) place: usize,
    owner: Owner,
    live: bool,
}

/// Which requests of a group a change is about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Those without PASID, of every requester id of every member.
    Plain,
    /// The same of one member.
    PlainOf { member: usize },
    /// Those of one member with this PASID.
    Pasid { member: usize, pasid: Pasid },
}

impl Scope {
    /// Itself, and for a part of the requests without PASID all of them.
    pub(crate) fn whole(self) -> Self {
        if let Scope::PlainOf { .. } = self { Scope::Plain } else { self }
    }
}

/// The right to change a group's attachment, taken from everyone else for as long as it lives.
pub(crate) struct Changing<'g, P: Platform> {
    pub(super) group: &'g Group<P>,
}

impl<P: Platform> Drop for Changing<'_, P> {
    fn drop(&mut self) {
        let (core, place) = (&self.group.core, self.group.place);
        let Ok(registry) = core.registry() else { return };
        let dropped = {
            let mut states = registry.states.lock(core.platform());
            states.get_mut(place).is_some_and(|s| {
                s.busy = false;
                s.dropped
            })
        };
        // `service` may have come to isolate one of them meanwhile, or to give them back, and gone.
        if dropped || registry.members(place).iter().any(|m| m.standing.is(Matter::SUSPECT)) {
            core.platform().wake();
        }
    }
}

impl<P: Platform> Group<P> {
    /// Claims: marks the group as owned, and blocks it.
    pub(crate) fn claim(core: &Shared<Core<P>>, id: GroupId, owner: Owner) -> Result<Self, Error> {
        let registry = core.registry()?;
        let place = registry.place(id)?;
        // Also after a `bring_up` or `hand_back` that failed half-way: where translation is off nothing can be promised.
        if let Some(unit) = core.units().iter().find(|u| !u.translates() && !u.removed()) {
            return Err(ErrorKind::State(unit.idle()).into());
        }
        for m in registry.members(place) {
            let Some(unit) = m.unit().and_then(|i| core.units().get(i)) else {
                return Err(ErrorKind::Unsupported(Need::Unit).of(m.device));
            };
            if unit.removed() {
                return Err(ErrorKind::UnitGone.on(unit.id).of(m.device));
            }
            if unit.stopped() {
                return Err(ErrorKind::State(unit.idle()).on(unit.id).of(m.device));
            }
            if m.standing.is(Matter::GONE) && !m.is_back(core.platform()) {
                return Err(ErrorKind::State(State::Removed).of(m.device));
            }
            if owner != Owner::HOST && m.reserved.iter().any(|(_, relaxable)| !relaxable) {
                return Err(ErrorKind::Invalid(Field::ReservedRegion).of(m.device));
            }
        }
        {
            let mut states = registry.states.lock(core.platform());
            let s = states.get_mut(place).ok_or(Error::from(ErrorKind::Unknown))?;
            if s.owner.is_some() || s.busy || s.leaving {
                return Err(ErrorKind::Busy.into());
            }
            s.owner = Some(owner);
        }
        let group = Group { core: core.clone(), id, place, owner, live: true };
        for m in group.members().iter().filter(|m| m.standing.clear(Matter::GONE)) {
            if let Some(unit) = group.unit(m) {
                unit.hear_again(core.host(), m.device.source);
            }
        }
        group.attach(Target::Blocked)?;
        // Who was blocked apart while nobody owned the group has no entry, as all of them.
        for m in group.members() {
            m.standing.clear(Matter::HELD | Matter::QUARANTINED | Matter::SUSPECT);
        }
        group.find_off()?;
        group.listen_from_now()?;
        group.set_pasids(true)?;
        Ok(group)
    }

    /// Lets devices send requests with PASID, where they and their units can, or not any more. Every PASID is blocked now.
    fn set_pasids(&self, on: bool) -> Result<(), Error> {
        for m in self.members() {
            let able = self.unit(m).is_some_and(|u| m.requester(u).pasid_bits != 0) && !m.standing.is(Matter::GONE);
            if let Some(capability) = m.pasid.filter(|_| able) {
                capability.switch(self.core.platform(), m.device, on)?;
            }
        }
        Ok(())
    }

    /// What the devices did before is not this owner's to hear.
    fn listen_from_now(&self) -> Result<(), Error> {
        let (registry, host) = (self.core.registry()?, self.core.host());
        for (m, member) in self.members().iter().enumerate() {
            let Some(unit) = member.unit().and_then(|i| self.core.units().get(i)) else { continue };
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

    /// The group in a place, where its owner has dropped it and could not give it back: dropping it tries again.
    pub(crate) fn dropped(core: &Shared<Core<P>>, place: usize) -> Option<Self> {
        let registry = core.registry().ok()?;
        let id = registry.id(place).ok()?;
        let mut states = registry.states.lock(core.platform());
        let s = states.get_mut(place).filter(|s| s.dropped && !s.busy)?;
        s.dropped = false;
        Some(Group { core: core.clone(), id, place, owner: s.owner?, live: true })
    }

    /// The group's id.
    pub fn id(&self) -> GroupId {
        self.id
    }

    /// Who claimed it.
    pub fn owner(&self) -> Owner {
        self.owner
    }

    pub(super) fn members(&self) -> &[Member] {
        self.core.registry().map_or(&[], |r| r.members(self.place))
    }

    /// The unit that serves a member.
    pub(super) fn unit(&self, m: &Member) -> Option<&Unit<P>> {
        m.unit().and_then(|i| self.core.units().get(i))
    }

    /// A device of the group: its place, itself, its unit.
    pub(super) fn member(&self, d: DeviceId) -> Result<(usize, &Member, &Unit<P>), Error> {
        let find = |(_, m): &(usize, &Member)| m.device == d;
        let found = self.members().iter().enumerate().find(find);
        let (place, m) = found.ok_or(ErrorKind::Invalid(Field::Device).of(d))?;
        let unit = self.unit(m).ok_or(ErrorKind::Unsupported(Need::Unit).of(d))?;
        Ok((place, m, unit))
    }

    /// What a member's requests are attached to: those without PASID, then those of each PASID that is attached.
    pub(super) fn attachment(&self, member: usize, n: usize) -> Result<Option<(Scope, Attached<P>)>, Error> {
        let states = self.core.registry()?.states.lock(self.core.platform());
        let s = states.get(self.place).ok_or(Error::from(ErrorKind::Unknown))?;
        let Some(n) = n.checked_sub(1) else { return Ok(Some((Scope::PlainOf { member }, s.attached.clone()))) };
        let mut of = s.pasids.iter().filter(|(m, ..)| *m == member);
        Ok(of.nth(n).map(|(_, pasid, to)| (Scope::Pasid { member, pasid: *pasid }, to.clone())))
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
    pub(super) fn firmware(&self) -> impl Iterator<Item = Range> + '_ {
        let host = self.owner == Owner::HOST;
        self.members()
            .iter()
            .flat_map(move |m| m.reserved.iter().filter(move |(_, relaxable)| host || !relaxable).map(|(r, _)| *r))
    }

    /// The domain that all units of the group can take and that offers the most.
    pub fn best_spec(&self) -> DomainSpec {
        let units = self.core.units();
        let members = self.members().iter().filter_map(|m| units.get(m.unit()?));
        let mut spec = DomainSpec::best_of(members).unwrap_or_default();
        let unsnooped = |u: User<'_, P>| u.forbids(IntegratedFlags::NO_WALK_SNOOP);
        spec.coherent &= !self.users(Scope::Plain).any(unsnooped);
        spec
    }

    /// What all units of the group offer to tables of a CPU, for [`CheckedTables::check`](crate::CheckedTables::check).
    pub fn table_offers(&self, form: TableForm) -> Result<Offers, Refused> {
        let units = self.core.units();
        let members = self.members().iter().filter_map(|m| units.get(m.unit()?));
        let mut all = None;
        for unit in members {
            let offers = Offers::of(unit, form, self.core.hpa_width())?;
            all = Some(all.map_or(offers, |others| offers.and(others).unwrap_or(offers)));
        }
        all.ok_or(Refused::Stage(form))
    }

    /// Has every request without PASID of every member go through `to`, under each id that it may carry, or changes nothing
    /// and says why. After a timeout the group is blocked.
    ///
    /// A member that is blocked for a reset comes to `to` when that is over. With one that did not answer (`State(Quarantined)`)
    /// the group can only be blocked.
    ///
    /// Waits for invalidations, with a deadline. Not for interrupt context.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn core::error::Error>> {
    /// # use vtd::{Access, Change, Iova, PAGE, Strict, Target};
    /// # let (host, vtd, group) = emulated::ready();
    /// let (one, two) = (vtd.domain::<Strict>(&group.best_spec())?, vtd.domain::<Strict>(&group.best_spec())?);
    /// let (at, first, second) = (Iova::at(0x4000_0000), host.memory(1), host.memory(1));
    /// one.map(at, first, PAGE, Access::READ | Access::WRITE)?;
    /// two.map(at, second, PAGE, Access::READ | Access::WRITE)?;
    ///
    /// group.attach(Target::Domain(&one))?;
    /// host.write(None, 0x4000_0000, 1)?;
    /// // Second-stage tables take each other's place: every request meets the one or the other.
    /// assert_eq!(group.attach(Target::Domain(&two))?, Change::Seamless);
    /// host.write(None, 0x4000_0000, 2)?;
    /// assert_eq!((host.word(first.get()), host.word(second.get())), (Some(1), Some(2)));
    ///
    /// group.attach(Target::Identity)?;
    /// host.write(None, first.get() + 8, 3)?;
    /// group.attach(Target::Blocked)?;
    /// assert!(host.write(None, first.get() + 8, 4).is_err());
    /// # Ok(())
    /// # }
    /// ```
    pub fn attach(&self, to: Target<'_, P>) -> Result<Change, Error> {
        self.change_to(Scope::Plain, to)
    }

    /// Has the requests of device `d` with PASID `p` go through `to`, beside those without PASID and with others, or changes
    /// nothing and says why. After a timeout the PASID is blocked. `Target::Blocked` ends it, as `detach_pasid` does.
    ///
    /// Errors: `State(Quarantined)`, `State(InReset)` and `State(Removed)` for a device that is blocked by itself;
    /// `Unsupported(Pasid)` where the unit takes no PASIDs (scalable mode and ECAP.PASID); `Unsupported(DevicePasid)`
    /// where the device sends none, or something on its way or in its group may turn them round; `Invalid(Pasid)` for a PASID
    /// wider than both take; those of `attach`.
    ///
    /// Waits for invalidations, with a deadline. Not for interrupt context.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn core::error::Error>> {
    /// # use vtd::{Access, Iova, PAGE, Pasid, Stage, Strict, Target};
    /// # use emulated::CARD;
    /// # let (host, vtd, group) = emulated::ready();
    /// let mut spec = group.best_spec();
    /// let plain = vtd.domain::<Strict>(&spec)?;
    /// (spec.stage, spec.levels, spec.width) = (Stage::First, 4, 47);
    /// let process = vtd.domain::<Strict>(&spec)?;
    /// let (at, first, second) = (Iova::at(0x4000_0000), host.memory(1), host.memory(1));
    /// plain.map(at, first, PAGE, Access::READ | Access::WRITE)?;
    /// process.map(at, second, PAGE, Access::READ | Access::WRITE)?;
    ///
    /// // Beside each other: requests without PASID by second-stage tables, those with PASID 7 by first-stage tables.
    /// let seven = Pasid::new(7).unwrap();
    /// group.attach(Target::Domain(&plain))?;
    /// group.attach_pasid(CARD, seven, Target::Domain(&process))?;
    /// host.write(None, 0x4000_0000, 1)?;
    /// host.write(Some(seven), 0x4000_0000, 2)?;
    /// assert_eq!((host.word(first.get()), host.word(second.get())), (Some(1), Some(2)));
    ///
    /// group.detach_pasid(CARD, seven)?;
    /// assert!(host.write(Some(seven), 0x4000_0000, 3).is_err());
    /// host.write(None, 0x4000_0000, 4)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn attach_pasid(&self, d: DeviceId, p: Pasid, to: Target<'_, P>) -> Result<Change, Error> {
        let with = |e: Error| Error { pasid: Some(p), ..e.of(d) };
        let scope = self.pasid_scope(d, p).map_err(with)?;
        self.change_to(scope, to).map_err(with)
    }

    /// Blocks the requests of device `d` with PASID `p` again; nothing where they are blocked.
    pub fn detach_pasid(&self, d: DeviceId, p: Pasid) -> Result<(), Error> {
        self.attach_pasid(d, p, Target::Blocked).map(drop)
    }

    fn pasid_scope(&self, d: DeviceId, pasid: Pasid) -> Result<Scope, Error> {
        let (member, m, unit) = self.member(d)?;
        let alone = self.members().iter().filter(|m| m.pasid.is_some()).count() == 1;
        if !(unit.scalable() && unit.caps.ecap.pasid()) {
            Err(ErrorKind::Unsupported(Need::Pasid).on(unit.id))
        } else if m.pasid.is_none() || !alone || m.sources.len() != 1 {
            Err(ErrorKind::Unsupported(Need::DevicePasid).into())
        } else if pasid.get() >> m.requester(unit).pasid_bits != 0 {
            Err(ErrorKind::Invalid(Field::Pasid).into())
        } else {
            Ok(Scope::Pasid { member, pasid })
        }
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

    /// Each device may fail to answer once: then it is blocked apart, and the rest goes on.
    fn end(&self) -> Result<(), Error> {
        for _ in self.members() {
            match self.end_attachments() {
                Err(e) if e.kind == ErrorKind::DeviceTimeout => {}
                outcome => return outcome.and_then(|()| self.forget()),
            }
        }
        self.end_attachments()?;
        self.forget()
    }

    /// PASIDs one by one, then the devices' own caches, then requests without PASID.
    fn end_attachments(&self) -> Result<(), Error> {
        while let Some(scope) = self.some_pasid()? {
            self.change_to(scope, Target::Blocked)?;
        }
        {
            let _changing = self.hold()?;
            for (member, m) in self.members().iter().enumerate() {
                m.standing.clear(Matter::TRUSTED);
                self.turn_off(member)?;
            }
        }
        self.attach(Target::Blocked)?;
        self.set_pasids(false)
    }

    /// The group has no owner any more.
    fn forget(&self) -> Result<(), Error> {
        let registry = self.core.registry()?;
        for m in self.members() {
            m.standing.clear(Matter::HELD | Matter::QUARANTINED | Matter::SUSPECT);
        }
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

impl<P: Platform> Group<P> {
    /// Blocks everything: requests with PASIDs and without.
    pub(crate) fn block_all(&self) -> Result<(), Error> {
        while let Some(scope) = self.some_pasid()? {
            self.change_to(scope, Target::Blocked)?;
        }
        self.attach(Target::Blocked).map(drop)
    }

    /// A PASID that is attached to something, or of which caches may hold something.
    fn some_pasid(&self) -> Result<Option<Scope>, Error> {
        let states = self.core.registry()?.states.lock(self.core.platform());
        let Some(s) = states.get(self.place) else { return Ok(None) };
        let attached = s.pasids.first().map(|(member, pasid, _)| Scope::Pasid { member: *member, pasid: *pasid });
        let tagged = |scope: &Scope| matches!(scope, Scope::Pasid { .. });
        Ok(attached.or_else(|| s.doubts.iter().map(|(scope, _)| *scope).find(tagged)))
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
            // Without success the group stays claimed for ever: nobody may have devices whose caches are unknown. But who isolates
            // one of them just now comes to an end.
            if self.end().is_err_and(|e| e.kind == ErrorKind::Busy) {
                let Ok(registry) = self.core.registry() else { return };
                registry
                    .states
                    .lock(self.core.platform())
                    .get_mut(self.place)
                    .into_iter()
                    .for_each(|s| s.dropped = true);
                self.core.platform().wake();
            }
        }
    }
}
