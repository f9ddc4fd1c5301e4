//! Units that come and go while the machine runs (VT-d 8.1: what ACPI's _DSM says of a hot-plugged host bridge).

use super::{BringUp, UnitReport, Vtd};
use crate::device::attach::Group;
use crate::device::registry::{Found, GroupState};
use crate::device::scan;
use crate::dmar::Topology;
use crate::host::address::{DeviceId, UnitId};
use crate::host::error::{Error, ErrorKind, Field, Need, Step};
use crate::host::grow;
use crate::host::platform::Platform;
use crate::unit::Unit;
use crate::unit::bring_up::{Place, Skipped, TakeOver};
use crate::unit::errata::Errata;
use alloc::vec::Vec;

/// The right to add or remove a unit, taken from everyone else for as long as it lives.
struct Plugging<'v, P: Platform>(&'v Vtd<P>);

impl<P: Platform> Drop for Plugging<'_, P> {
    fn drop(&mut self) {
        let core = &*self.0.0;
        core.rest.lock(core.platform()).plugging = false;
    }
}

impl<P: Platform> Vtd<P> {
    fn plugging(&self) -> Result<Plugging<'_, P>, Error> {
        let core = &*self.0;
        let mut rest = core.rest.lock(core.platform());
        if core::mem::replace(&mut rest.plugging, true) {
            return Err(ErrorKind::Busy.into());
        }
        Ok(Plugging(self))
    }

    /// Adds a unit that came while the machine runs, and the devices behind it, all blocked but for regions that firmware
    /// reserved. `structures` is what ACPI hands out for it, remapping structures as in the DMAR table: one DRHD, and the RMRRs
    /// that belong to its devices. A unit that is found on is turned off first. Only PCI functions that are there already are
    /// found; no device may do DMA before this has succeeded.
    ///
    /// Errors: `State(NotUp)`, `State(Suspended)`; `Invalid(Format)` where the structures are not those of one unit;
    /// `Invalid(Address)` for registers that another unit has; `Invalid(Device)` for a device that another unit serves; `Busy`
    /// while another unit is added or removed, and beyond `Config::spare_units`; those of `bring_up`. After an error nothing of it
    /// is left, but a place that it may have used up. Claims may fail with `State(NotUp)` meanwhile. Waits, with deadlines.
    pub fn add_unit(&self, structures: &[u8]) -> Result<BringUp, Error> {
        let core = &*self.0;
        core.registry()?;
        if let Some(unit) = core.units().iter().find(|u| !u.translates() && !u.removed()) {
            return Err(ErrorKind::State(unit.idle()).on(unit.id));
        }
        let _plugging = self.plugging()?;
        let id = {
            let mut rest = core.rest.lock(core.platform());
            let id = core.topology.units().len().saturating_add(usize::from(rest.added));
            let id = u16::try_from(id).map_err(|_| Error::from(ErrorKind::Busy))?;
            rest.added = rest.added.saturating_add(1);
            UnitId(id)
        };
        let topology = Topology::later(structures, id, &core.topology)?;
        let description = topology.units().first().ok_or(Error::from(ErrorKind::Invalid(Field::Format)))?;
        let place = Place::of(description, core.hpa_width(), TakeOver::Disable);
        if core.units().iter().any(|u| !u.removed() && Some(u.base) == place.base) {
            return Err(ErrorKind::Invalid(Field::Address).on(id));
        }
        let mut report = BringUp { units: Vec::new(), firmware: Vec::new(), errata: Vec::new() };
        for e in Errata::found(&core.identity) {
            grow::push(&mut report.errata, e)?;
        }
        let index = core.units().len();
        let found = scan::behind(core.platform(), &topology, index)?;
        self.unknown_yet(&found)?;
        let mut line = grow::with_capacity(1)?;
        let unit = match Unit::probe(core.host(), place, Errata::of(&core.identity))? {
            Ok(unit) => unit,
            Err(why) => return Err(refusal(why).on(id)),
        };
        grow::push(&mut line, UnitReport::new(id, Ok(&unit)))?;
        report.units = line;
        let mut unit = Some(unit);
        core.machine.add(&mut unit);
        if let Some(unit) = unit {
            unit.release(core.platform());
            return Err(ErrorKind::Busy.on(id));
        }
        let done = self.start_added(index, found, &mut report);
        if done.is_err()
            && let Some(unit) = core.units().get(index)
        {
            let _ = unit.remove(core.host());
        }
        done.map(|()| report)
    }

    /// The steps of `bring_up` for one unit.
    fn start_added(&self, index: usize, found: Found, report: &mut BringUp) -> Result<(), Error> {
        let core = &*self.0;
        let (host, registry) = (core.host(), core.registry()?);
        let unit = core.units().get(index).ok_or(Error::from(ErrorKind::Unknown))?;
        let on = unit.quiet(host, TakeOver::Disable)?;
        unit.start_queue(host)?;
        unit.start_root(host)?;
        let interrupt = unit.start_events(host);
        let places = registry.add(core.platform(), found)?;
        self.keep_firmware(places, &mut report.firmware)?;
        let was = unit.start_translation(host)?;
        for line in &mut report.units {
            (line.found, line.queue) = (on, unit.has_queue());
            (line.fault_interrupt, line.protected_memory) = (interrupt, was);
        }
        Ok(())
    }

    /// An error where one of the devices is served by another unit.
    fn unknown_yet(&self, found: &Found) -> Result<(), Error> {
        let core = &*self.0;
        let registry = core.registry()?;
        let served = |d: DeviceId| {
            let (g, m) = registry.find(d)?;
            let unit = registry.members(g).get(m).and_then(|m| core.units().get(m.unit()?));
            unit.filter(|u| !u.removed())
        };
        for member in found.list.iter().flat_map(|(_, members)| members) {
            let ids = member.sources.iter().map(|s| DeviceId { segment: member.device.segment, source: *s });
            if let Some(unit) = ids.chain([member.device]).find_map(served) {
                return Err(ErrorKind::Invalid(Field::Device).on(unit.id).of(member.device));
            }
        }
        Ok(())
    }

    /// Takes a unit out of use, before it leaves the machine, or after. Its id is not used again: what comes in its place is
    /// added as another unit. Groups behind it cannot be claimed any more, `UnitGone`.
    ///
    /// While it answers, all groups behind it must have been released, `Busy` else, and its devices must be quiet: translation
    /// goes off, and they would reach everything. A unit that does not answer any more is declared gone: the caller vouches that
    /// it reads no memory. Groups behind it can be released then, and domains let go, without a flush; the memory of its queue and
    /// tables stays owned for good. Waits, with deadlines.
    pub fn remove_unit(&self, u: UnitId) -> Result<(), Error> {
        let core = &*self.0;
        let registry = core.registry()?;
        let unit = core.machine.unit(u)?;
        let _plugging = self.plugging()?;
        if unit.removed() {
            return Err(ErrorKind::UnitGone.on(u));
        }
        let index = core.units().iter().position(|x| x.id == u).ok_or(ErrorKind::Unknown.on(u))?;
        let behind = || (0..registry.len()).filter(|g| registry.members(*g).iter().any(|m| m.unit() == Some(index)));
        let gone = unit.status().is_err();
        let claimed = |s: &GroupState<P>| s.owner.is_some();
        {
            let mut states = registry.states.lock(core.platform());
            if !gone && behind().any(|g| states.get(g).is_some_and(claimed)) {
                return Err(ErrorKind::Busy.on(u));
            }
            // Nobody claims one of them on the way: its device would be let loose with the unit.
            behind().for_each(|g| states.get_mut(g).into_iter().for_each(|s| s.leaving = true));
        }
        let outcome = (|| {
            if gone {
                // From here on nothing is asked of it, and what is owed to it is paid.
                unit.remove(core.host())?;
            }
            for g in behind() {
                if !registry.states.lock(core.platform()).get(g).is_some_and(claimed) {
                    Group::unclaimed(&self.0, g)?.block_all()?;
                }
            }
            unit.remove(core.host())
        })();
        let mut states = registry.states.lock(core.platform());
        behind().for_each(|g| states.get_mut(g).into_iter().for_each(|s| s.leaving = false));
        outcome
    }
}

/// Why a unit that was skipped cannot be added.
fn refusal(why: Skipped) -> ErrorKind {
    match why {
        Skipped::NoBase => ErrorKind::Invalid(Field::Address),
        Skipped::NotMapped => ErrorKind::Platform(Step::Registers),
        Skipped::NoAnswer => ErrorKind::UnitGone,
        Skipped::NoWidth => ErrorKind::Unsupported(Need::SecondStage),
    }
}
