//! Blocking all devices before there are tables.

use super::Vtd;
use crate::device::Tree;
use crate::host::address::{DeviceId, UnitId};
use crate::host::error::{Error, ErrorKind, State};
use crate::host::grow;
use crate::host::platform::Platform;
use crate::unit::Unit;
use crate::unit::bring_up::{Place, Skipped, TakeOver};
use crate::unit::errata::Errata;
use alloc::vec::Vec;

/// One unit in the answer of [`Vtd::shield`].
#[derive(Clone, Copy, Debug)]
pub struct ShieldReport {
    /// The unit.
    pub unit: UnitId,
    /// Whether it blocks its devices now.
    pub outcome: Shielding,
}

/// Whether a unit blocks its devices before `bring_up`, or why not.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shielding {
    /// Every request of every device behind it is blocked.
    On,
    /// It has no abort-DMA mode (ECAP.ADMS), or no queue.
    Unsupported,
    /// Translation, queue or interrupt remapping was on: that is for `bring_up`.
    FoundOn,
    /// Firmware reserved memory for this device, which may be using it.
    Firmware(DeviceId),
    /// It does not work.
    Skipped(Skipped),
}

impl<P: Platform> Vtd<P> {
    /// Has every unit that can block all its devices (abort-DMA mode, VT-d 3.4.4), before any table is made. For right after
    /// `new`; `bring_up` takes the units as they are and leads them out of the mode, and says how in
    /// [`UnitReport::left_shield`](super::UnitReport::left_shield).
    ///
    /// A unit that serves devices for which firmware reserved memory is left alone, as such devices may be active, unless
    /// `over_firmware` says that they are not, or are to be cut off until `bring_up` maps their regions. What a unit cannot
    /// do is no error. Once only. After an error no unit is shielded, as far as they answer. Waits, with deadlines.
    pub fn shield(&self, over_firmware: bool) -> Result<Vec<ShieldReport>, Error> {
        let core = &*self.0;
        {
            let mut rest = core.rest.lock(core.platform());
            if rest.begun || core::mem::replace(&mut rest.shielded, true) {
                return Err(ErrorKind::State(State::AlreadyUp).into());
            }
        }
        let mut units = Vec::new();
        let outcome = self.shield_units(over_firmware, &mut units);
        if outcome.is_err() {
            self.give_up(units);
        } else {
            *core.shielded.lock(core.platform()) = units;
        }
        outcome
    }

    fn shield_units(&self, over_firmware: bool, units: &mut Vec<Unit<P>>) -> Result<Vec<ShieldReport>, Error> {
        let core = &*self.0;
        let tree = Tree::scan(core.platform(), core.topology.units().iter().map(|u| u.segment))?;
        let errata = Errata::of(&core.identity);
        let count = core.topology.units().len();
        let mut report = grow::with_capacity(count)?;
        *units = grow::with_capacity(count)?;
        for u in core.topology.units() {
            let served = |d: &DeviceId| core.topology.unit_of(*d, &tree).is_some_and(|x| x.id == u.id);
            let firmware = tree.functions().iter().map(|f| f.id).filter(served);
            let firmware = firmware.into_iter().find(|d| core.topology.reserved_of(*d, &tree).next().is_some());
            let outcome =
                match (Unit::probe(core.host(), Place::of(u, core.hpa_width(), TakeOver::Refuse), errata)?, firmware) {
                    (Err(why), _) => Shielding::Skipped(why),
                    (Ok(unit), _) if !unit.has_shield() => self.leave(unit, Shielding::Unsupported),
                    (Ok(unit), Some(d)) if !over_firmware => self.leave(unit, Shielding::Firmware(d)),
                    (Ok(unit), _) => match unit.on() {
                        Ok(on) if on.is_empty() => {
                            // Among those that an error gives up before anything can fail.
                            grow::push(units, unit)?;
                            units.last().map_or(Ok(()), |unit| unit.shield(core.host()))?;
                            Shielding::On
                        }
                        Ok(_) => self.leave(unit, Shielding::FoundOn),
                        Err(e) => {
                            self.leave(unit, Shielding::Unsupported);
                            return Err(e);
                        }
                    },
                };
            grow::push(&mut report, ShieldReport { unit: u.id, outcome })?;
        }
        Ok(report)
    }

    /// Gives a unit up that was not touched.
    fn leave(&self, unit: Unit<P>, why: Shielding) -> Shielding {
        unit.release(self.0.platform());
        why
    }

    /// Turns units off and gives their memory back; what does not turn off keeps its memory.
    pub(super) fn give_up(&self, units: Vec<Unit<P>>) {
        let core = &*self.0;
        for unit in units {
            match unit.stop(core.host()) {
                Ok(()) => unit.release(core.platform()),
                Err(_) => core::mem::forget(unit),
            }
        }
    }

    pub(super) fn take_shielded(&self) -> Vec<Unit<P>> {
        core::mem::take(&mut *self.0.shielded.lock(self.0.platform()))
    }

    /// Turns units off that were shielded and never brought up.
    pub(super) fn drop_shield(&self) -> Result<(), Error> {
        let core = &*self.0;
        let units = self.take_shielded();
        let outcome = units.iter().try_for_each(|u| u.stop(core.host()));
        *core.shielded.lock(core.platform()) = units;
        outcome
    }
}
