//! Devices with translation caches of their own (ATS, VT-d chapter 4; PCI Express 10): whether they may have them on, and how
//! these are turned on and off.
//!
//! A translated request reaches any memory: the unit does not look at its tables again. So a device's cache is off until the
//! host says that it trusts the device ([`Ats::Trusted`]), and it stays off where something on the way could not be relied on.
//!
//! On (4.5.1): the tags of all domains that the device's requests go to; then the context entry, flushed as one that changed;
//! then the device's own switch. Off (4.5.2): the switch; then an invalidation of all that it holds, awaited, behind which no
//! translated request is under way; then the context entry; then the tags. The specification wants the device quiet meanwhile.

use super::attach::{Group, Scope};
use super::entries::{self, Aim};
use super::pci::{Role, Tree};
use super::registry::{Attached, Member};
use super::standing::Matter;
use crate::dmar::{IntegratedFlags, Topology};
use crate::host::address::DeviceId;
use crate::host::error::{Error, ErrorKind, Need, NoAts, State, Step};
use crate::host::platform::Platform;
use crate::hw::descriptors::Throttle;
use crate::hw::registers::TableMode;
use crate::space::state::User;
use crate::unit::Unit;
use crate::unit::errata;
use crate::unit::flights::Flights;
use crate::unit::invalidate::{Batch, Request};
use crate::unit::pasid::RID_PASID;
use crate::unit::rules::{self, Change, Facts};

/// Whether a device may use a translation cache of its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Ats {
    /// Every request goes through the unit's tables.
    #[default]
    Off,
    /// The device may ask for translations, keep them, and send requests with translated addresses, **which the unit lets through
    /// unchecked**: a device that is not what it says it is reaches all memory.
    Trusted,
}

/// The ATS capability of a function (PCI Express 10.5.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AtsCapability {
    at: u16,
    /// How many invalidations it takes at once; 0 for 32.
    pub depth: u8,
    /// It asks for page-aligned addresses only.
    pub aligned: bool,
    /// It heeds the global flag of invalidations.
    pub global: bool,
}

impl AtsCapability {
    /// Enable of the control register, and the field of the smallest translation unit.
    const ENABLE: u32 = 1 << 31;
    const SMALLEST: u32 = 0x1f << 16;

    pub(super) fn new(at: u16, w: u16) -> Self {
        AtsCapability { at, depth: (w & 0x1f) as u8, aligned: w & 1 << 5 != 0, global: w & 1 << 6 != 0 }
    }

    fn place(&self) -> u16 {
        self.at.saturating_add(4)
    }

    /// Capability and control; `None` where the function is gone.
    fn read<P: Platform>(&self, p: &P, d: DeviceId) -> Result<Option<u32>, Error> {
        let v = p.config_read(d, self.place()).map_err(|_| ErrorKind::Platform(Step::Configuration).of(d))?;
        Ok((v != u32::MAX).then_some(v))
    }

    fn write<P: Platform>(&self, p: &P, d: DeviceId, v: u32) -> Result<(), Error> {
        p.config_write(d, self.place(), v).map_err(|_| ErrorKind::Platform(Step::Configuration).of(d))
    }

    /// Whether it is on; not where the function is gone.
    pub(super) fn is_on<P: Platform>(&self, p: &P, d: DeviceId) -> Result<bool, Error> {
        Ok(self.read(p, d)?.is_some_and(|v| v & Self::ENABLE != 0))
    }

    /// Turns it on, with a page as the smallest translation unit, which is changed only while it is off.
    fn turn_on<P: Platform>(&self, p: &P, d: DeviceId) -> Result<(), Error> {
        let gone = ErrorKind::State(State::Removed).of(d);
        let v = self.read(p, d)?.ok_or(gone)?;
        if v & Self::ENABLE != 0 {
            self.write(p, d, v & !Self::ENABLE)?;
        }
        let v = v & !(Self::ENABLE | Self::SMALLEST);
        self.write(p, d, v)?;
        self.write(p, d, v | Self::ENABLE)?;
        match self.read(p, d)? {
            Some(v) if v & Self::ENABLE != 0 => Ok(()),
            Some(_) => Err(ErrorKind::Platform(Step::Configuration).of(d)),
            None => Err(gone),
        }
    }

    /// Turns it off. Nothing happens where it is, or the function is gone.
    pub(super) fn turn_off<P: Platform>(&self, p: &P, d: DeviceId) -> Result<(), Error> {
        match self.read(p, d)? {
            Some(v) if v & Self::ENABLE != 0 => self.write(p, d, v & !Self::ENABLE),
            _ => Ok(()),
        }
    }

    /// Has the smallest translation unit of a physical function be a page, which its virtual functions go by. Says whether it is.
    fn settle_smallest<P: Platform>(&self, p: &P, d: DeviceId) -> Result<bool, Error> {
        match self.read(p, d)? {
            Some(v) if v & Self::SMALLEST == 0 => Ok(true),
            Some(v) if v & Self::ENABLE == 0 => self.write(p, d, v & !Self::SMALLEST).map(|()| true),
            _ => Ok(false),
        }
    }
}

/// What a function has of ATS, as the PCI tree and firmware's table show it; its unit's part is not in it.
#[derive(Clone, Copy)]
pub(crate) struct Offer {
    pub(crate) capability: Option<AtsCapability>,
    /// The physical function of a virtual one, whose smallest unit and queue it uses.
    physical: Option<(DeviceId, AtsCapability)>,
    barred: Option<NoAts>,
}

impl Offer {
    /// Looks at a function and the way above it.
    pub(super) fn of(d: DeviceId, tree: &Tree, topology: &Topology) -> Self {
        let function = tree.function(d);
        let capability = function.and_then(|f| f.ats);
        let of = |p: DeviceId| Some((p, tree.function(p)?.ats?));
        let physical = function.and_then(|f| f.physical);
        let barred = match (function, capability) {
            (Some(f), Some(_)) if errata::completes_early(f.vendor, f.device) => Some(NoAts::Erratum),
            (Some(_), Some(c)) if !c.aligned => Some(NoAts::Unaligned),
            (Some(_), Some(_)) if physical.is_some_and(|p| of(p).is_none()) => Some(NoAts::Physical),
            (Some(_), Some(_)) => barred_above(d, tree, topology),
            _ => Some(NoAts::Capability),
        };
        Offer { capability, physical: physical.and_then(of), barred }
    }
}

/// What is in the way between a function and its unit.
fn barred_above(d: DeviceId, tree: &Tree, topology: &Topology) -> Option<NoAts> {
    if tree.rivals(d).next().is_some() {
        return Some(NoAts::Bridge);
    }
    let mut port = None;
    for p in tree.above(d) {
        match p.role {
            Role::ToPci | Role::ToExpress | Role::Conventional | Role::Acpi => return Some(NoAts::Bridge),
            _ if p.acs.is_some_and(|a| a.blocks_translated()) => return Some(NoAts::Blocked),
            role => port = Some((p.id, role)),
        }
    }
    match port {
        // Integrated in the root complex.
        None => None,
        Some((id, Role::RootPort)) if topology.port_has_ats(id, tree) => None,
        Some(_) => Some(NoAts::Port),
    }
}

impl Member {
    /// How its translation cache would be invalidated behind its unit, or why it cannot be on.
    pub(super) fn able<P: Platform>(&self, unit: &Unit<P>) -> Result<Throttle, NoAts> {
        let required = self.flags.is_some_and(|f| f.contains(IntegratedFlags::CACHE_REQUIRED));
        let (capability, physical) = (self.ats.capability.ok_or(NoAts::Capability)?, self.ats.physical);
        if let Some(why) = self.ats.barred {
            Err(why)
        } else if !unit.caps.ecap.dt() || !unit.has_queue() {
            Err(NoAts::Unit)
        } else if required && !unit.scalable() {
            Err(NoAts::ByHardware)
        } else if self.sources.len() != 1 {
            Err(NoAts::Aliases)
        } else {
            Ok(self.throttle(unit, capability, physical))
        }
    }

    /// Both fields are reserved without ECAP.DIT.
    fn throttle<P: Platform>(
        &self,
        unit: &Unit<P>,
        own: AtsCapability,
        physical: Option<(DeviceId, AtsCapability)>,
    ) -> Throttle {
        if !unit.caps.ecap.dit() {
            return Throttle::NONE;
        }
        let (queue, depth) = physical.map_or((self.device, own.depth), |(id, c)| (id, c.depth));
        Throttle { pfsid: queue.source.0, mip: depth }
    }
}

impl<P: Platform> Group<P> {
    /// Says whether the host trusts device `d` of the group with a translation cache of its own, and turns that on or off. A
    /// claimed group begins with `Ats::Off`. What is attached stays attached, and attachments that follow flush the cache too.
    ///
    /// In legacy mode a pass-through entry blocks the device's requests for translations: while `Target::Identity` is attached
    /// there the cache is off, and it comes back with the next domain. `Group::info` says how it stands.
    ///
    /// The device should be quiet: no DMA of it under way (VT-d 4.5). One that loses its configuration in another way than by a
    /// reset, in a sleep state say, wants [`Group::reset`] around that too.
    ///
    /// Errors: `Unsupported(Ats(..))` with the reason; `Invalid(Device)`; `State(Quarantined)` and `State(Removed)`; `Busy`;
    /// `DeviceTimeout` where the device did not complete the invalidation: then it is blocked, as `Events::isolated` says.
    /// After another error it is off in the device, and the call may be repeated.
    ///
    /// Waits for invalidations, with a deadline. Not for interrupt context.
    pub fn set_ats(&self, d: DeviceId, ats: Ats) -> Result<(), Error> {
        let (member, m, unit) = self.member(d)?;
        let _changing = self.hold()?;
        if ats == Ats::Off {
            m.standing.clear(Matter::TRUSTED);
            return if m.standing.throttle().is_some() { self.turn_off(member) } else { Ok(()) };
        }
        let throttle = m.able(unit).map_err(|why| ErrorKind::Unsupported(Need::Ats(why)).on(unit.id).of(d))?;
        if m.standing.is(Matter::GONE) {
            return Err(ErrorKind::State(State::Removed).of(d));
        }
        if m.standing.is(Matter::HELD) || unit.is_silent(m.device.source) {
            return Err(ErrorKind::State(State::Quarantined).of(d));
        }
        m.standing.set(Matter::TRUSTED);
        if m.standing.throttle().is_some() {
            if m.ats.capability.is_some_and(|c| matches!(c.is_on(self.core.platform(), d), Ok(true))) {
                return Ok(());
            }
            // Half off, since a flush failed.
            self.turn_off(member)?;
        }
        if self.passes_through(m)? {
            return Ok(());
        }
        let outcome = self.turn_on(member, throttle);
        if outcome.is_err() {
            m.standing.clear(Matter::TRUSTED);
        }
        outcome
    }

    /// Turns caches off that were on before the group was claimed, and has them emptied: nothing of an earlier owner's stays.
    pub(super) fn find_off(&self) -> Result<(), Error> {
        let p = self.core.platform();
        for (member, m) in self.members().iter().enumerate() {
            let (Some(c), Some(unit)) = (m.ats.capability, self.unit(m)) else { continue };
            if m.standing.is(Matter::GONE) || !c.is_on(p, m.device)? {
                continue;
            }
            c.turn_off(p, m.device)?;
            // Where the unit has no part in it there was nothing to be had.
            if unit.caps.ecap.dt() && unit.has_queue() {
                self.empty(member, m.throttle(unit, c, m.ats.physical)).map_err(|e| e.of(m.device))?;
            }
        }
        Ok(())
    }

    /// Whether the entry that stands for the member's requests blocks ATS: pass-through in legacy mode.
    pub(super) fn passes_through(&self, m: &Member) -> Result<bool, Error> {
        let states = self.core.registry()?.states.lock(self.core.platform());
        let attached = states.get(self.place).map(|s| s.attached.blocks_ats());
        Ok(attached == Some(true) && self.unit(m).is_some_and(|u| !u.scalable()))
    }

    /// Turns the caches of trusted members off whose entries will not allow them, before these are written.
    pub(super) fn make_way(&self, to: &Attached<P>) -> Result<(), Error> {
        if !to.blocks_ats() {
            return Ok(());
        }
        for (member, m) in self.members().iter().enumerate() {
            if m.standing.throttle().is_some() && self.unit(m).is_some_and(|u| !u.scalable()) {
                self.turn_off(member)?;
            }
        }
        Ok(())
    }

    /// Turns the caches of trusted members on again whose entries allow them now. One that cannot be stays off, and no longer
    /// trusted: the attachment itself is as it was asked for.
    pub(super) fn take_up(&self) {
        for (member, m) in self.members().iter().enumerate() {
            let off = m.standing.is(Matter::TRUSTED) && !m.standing.is(Matter::HELD) && m.standing.throttle().is_none();
            if !off || !matches!(self.passes_through(m), Ok(false)) {
                continue;
            }
            let on = self.unit(m).and_then(|unit| m.able(unit).ok()).map(|t| self.turn_on(member, t));
            if !matches!(on, Some(Ok(()))) {
                m.standing.clear(Matter::TRUSTED);
            }
        }
    }

    /// Who changes the group turns a member's cache on.
    pub(super) fn turn_on(&self, member: usize, throttle: Throttle) -> Result<(), Error> {
        let Some(m) = self.members().get(member) else { return Err(ErrorKind::Unknown.into()) };
        let p = self.core.platform();
        let capability = m.ats.capability.ok_or(ErrorKind::Unsupported(Need::Ats(NoAts::Capability)))?;
        if let Some((physical, c)) = m.ats.physical
            && !c.settle_smallest(p, physical)?
        {
            return Err(ErrorKind::Unsupported(Need::Ats(NoAts::Physical)).of(m.device));
        }
        if let Err(e) = self.tag(member, throttle, true) {
            return Err(e.of(m.device));
        }
        m.standing.set_cache(Some(throttle));
        let outcome = self.let_through(member, true).and_then(|()| capability.turn_on(p, m.device));
        if outcome.is_err() {
            // It may have come on all the same.
            let _ = self.turn_off(member);
        }
        outcome.map_err(|e| e.of(m.device))
    }

    /// Who changes the group turns a member's cache off, and has it emptied. One that does not answer is isolated.
    pub(super) fn turn_off(&self, member: usize) -> Result<(), Error> {
        let Some(m) = self.members().get(member) else { return Err(ErrorKind::Unknown.into()) };
        let Some(throttle) = m.standing.throttle() else { return Ok(()) };
        if m.standing.is(Matter::GONE) {
            return self.isolate(member, None);
        }
        let switched = match m.ats.capability {
            Some(c) => c.turn_off(self.core.platform(), m.device),
            None => Ok(()),
        };
        let emptied = self.empty(member, throttle);
        if let Err(e) = emptied {
            if e.kind == ErrorKind::DeviceTimeout {
                self.isolate(member, None)?;
            }
            // Else it may hold what it held, and the unit lets it through and asks it, until this is tried again.
            return Err(e.of(m.device));
        }
        m.standing.set_cache(None);
        if let Err(e) = self.let_through(member, false) {
            // Its tags stay, for so may what it holds.
            m.standing.set_cache(Some(throttle));
            return Err(e.of(m.device));
        }
        self.tag(member, throttle, false)?;
        switched.map_err(|e| e.of(m.device))
    }

    /// Has all that a member's cache holds invalidated, and awaits it: with that its translated requests are done, too.
    fn empty(&self, member: usize, throttle: Throttle) -> Result<(), Error> {
        const ROW: &[rules::Step] = rules::steps(Change::DeviceTlbOff, TableMode::Scalable);
        let Some(m) = self.members().get(member) else { return Ok(()) };
        let Some((index, unit)) = m.unit().and_then(|i| Some((i, self.core.units().get(i)?))) else { return Ok(()) };
        let (mut flights, machine) = (Flights::new(), &self.core.machine);
        let mut batch = Batch::new();
        let source = m.device.source.0;
        // The PASIDs by one request, where the device heeds that.
        let global = m.ats.capability.is_some_and(|c| c.global) && self.attachment(member, 1)?.is_some();
        if global {
            batch.push(Request::DeviceTlbOfPasids { source, throttle });
        }
        let outcome = (|| {
            let mut n = 0;
            while let Some((scope, _)) = self.attachment(member, n)? {
                n += 1;
                let pasid = match scope {
                    Scope::Pasid { .. } if global => continue,
                    Scope::Pasid { pasid, .. } => pasid.get(),
                    _ => RID_PASID,
                };
                let facts = Facts { source, did: 0, pasid, device: Some(throttle) };
                if !facts.add(ROW, unit.errata, &mut batch) {
                    flights.launch(machine, index, &batch)?;
                    batch = Batch::new();
                    facts.add(ROW, unit.errata, &mut batch);
                }
            }
            flights.launch(machine, index, &batch)?;
            flights.wait(machine)
        })();
        flights.abandon(machine);
        outcome
    }

    /// Puts a member's cache into the tags of all domains that its requests go to, or takes it out.
    pub(super) fn tag(&self, member: usize, throttle: Throttle, on: bool) -> Result<(), Error> {
        self.keep_doubts();
        let mut n = 0;
        while let Some((scope, to)) = self.attachment(member, n)? {
            if let Err(e) = self.tag_of(scope, &to, throttle, on) {
                for n in 0..n {
                    if let Some((scope, to)) = self.attachment(member, n)? {
                        self.tag_of(scope, &to, throttle, false)?;
                    }
                }
                return Err(e);
            }
            n += 1;
        }
        Ok(())
    }

    /// The same of one scope of a member, and what it is attached to.
    pub(super) fn tag_of(&self, scope: Scope, to: &Attached<P>, how: Throttle, on: bool) -> Result<(), Error> {
        let Attached::Space(space) = to else { return Ok(()) };
        let own = |u: &User<'_, P>| self.members().iter().any(|m| m.device.source.0 == u.source);
        for user in self.users(scope).filter(own) {
            space.set_device_cache(&User { device: Some(how), ..user }, on)?;
        }
        Ok(())
    }

    /// Has the unit let a member's translation and translated requests through, or block them, and flushes that.
    pub(super) fn let_through(&self, member: usize, on: bool) -> Result<(), Error> {
        let Some(m) = self.members().get(member) else { return Ok(()) };
        let Some((index, unit)) = m.unit().and_then(|i| Some((i, self.core.units().get(i)?))) else { return Ok(()) };
        let (host, machine) = (self.core.host(), &self.core.machine);
        let (mut flights, mut batch) = (Flights::new(), Batch::new());
        let outcome = (|| {
            for user in self.users(Scope::PlainOf { member }).filter(|u| u.source == m.device.source.0) {
                if unit.scalable() {
                    entries::let_through(host, &user, on, &mut batch, &mut |batch| {
                        flights.launch(machine, index, batch)?;
                        *batch = Batch::new();
                        Ok(())
                    })?;
                } else {
                    let to = self.attachment(member, 0)?.map_or(Attached::Blocked, |(_, to)| to);
                    let aim = if to.blocks_ats() { Aim::PassThrough } else { self.aim(&to, index)? };
                    let due = entries::write(host, user, aim).map_err(|e| e.on(unit.id))?;
                    // Its cache is off in the device, and not asked.
                    due.without_device().add_to(&mut batch);
                }
            }
            flights.launch(machine, index, &batch)?;
            flights.wait(machine)
        })();
        flights.abandon(machine);
        outcome
    }
}
