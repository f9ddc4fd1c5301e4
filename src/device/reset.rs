//! Devices that are blocked apart from their group: around a reset, because they did not answer (VT-d 6.5.2.11, ITE), or
//! because they were taken out.
//!
//! Such a device has no present entry under any PASID, the unit lets none of its translated requests through, and it is in
//! nobody's tags: nobody's flush asks it, and what it may still hold is of no use to it. What it was attached to is kept, for when
//! it comes back.

use super::attach::{Group, Scope};
use super::registry::{Attached, Member};
use super::standing::Matter;
use crate::host::address::DeviceId;
use crate::host::error::{Error, ErrorKind, Need, State};
use crate::host::platform::Platform;
use crate::unit::Unit;

/// The two ends of a device's reset.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reset {
    /// It is about to be reset.
    Before,
    /// It has been, and answers again.
    After,
}

impl Member {
    /// Whether what was taken out, or another of its kind, answers where it was.
    pub(super) fn is_back<P: Platform>(&self, p: &P) -> bool {
        self.ids.is_some_and(|(d, ids)| p.config_read(d, 0).is_ok_and(|v| v == ids))
    }
}

impl<P: Platform> Group<P> {
    /// The two ends of a reset of device `d` of the group, by function-level reset or any other.
    ///
    /// `Before` blocks the device, whatever the rest of the group does: its translation cache is turned off and emptied, its
    /// entries, those of PASIDs too, are cleared and flushed. `After` lets it have what it is attached to, and its PASIDs and
    /// its translation cache as they were before; also after it did not answer and was blocked for that
    /// (`Events::isolated`), which a reset alone makes good. In between the group may be attached elsewhere, and released.
    ///
    /// Errors leave the device blocked as well as can be; `Before` may be repeated, and so may an `After` that failed once `Before` has been.
    /// `State(NotInReset)` for an `After` of a device that is not blocked, `State(Removed)`, `Invalid(Device)`, `Busy`.
    ///
    /// Waits for invalidations, with a deadline. Not for interrupt context.
    pub fn reset(&self, d: DeviceId, r: Reset) -> Result<(), Error> {
        let (member, m, unit) = self.member(d)?;
        let _changing = self.hold()?;
        if m.standing.is(Matter::GONE) {
            return Err(ErrorKind::State(State::Removed).of(d));
        }
        let held = m.standing.is(Matter::HELD);
        match r {
            Reset::Before if held => Ok(()),
            Reset::Before => match self.turn_off(member) {
                // Its reset empties it.
                Err(_) if m.standing.is(Matter::HELD) => Ok(()),
                Ok(()) => self.block(member, None),
                Err(e) => {
                    // It may hold what it held: it is asked to the end, and what it asks for anew is blocked.
                    let _ = self.clear(member, None, false);
                    self.doubt_member(member)?;
                    Err(e)
                }
            },
            Reset::After if !held => Err(ErrorKind::State(State::NotInReset).of(d)),
            Reset::After => self.unblock(member, m, unit),
        }
        .map_err(|e| e.of(d))
    }

    /// Whether a scope can come to something else: not where it is that of a device that is blocked apart.
    pub(super) fn answerable(&self, scope: Scope, to: &Attached<P>) -> Result<(), Error> {
        if matches!(to, Attached::Blocked) {
            return Ok(());
        }
        for (n, m) in self.members().iter().enumerate() {
            let state = match (m.apart(), scope) {
                (Some(state), Scope::Pasid { member, .. }) if member == n => state,
                (Some(State::Quarantined), Scope::Plain) => State::Quarantined,
                _ => continue,
            };
            return Err(ErrorKind::State(state).of(m.device));
        }
        Ok(())
    }

    /// Isolates the members that did not answer while the group was about to come to `to`.
    pub(super) fn isolate_silent(&self, scope: Scope, to: &Attached<P>) {
        for (member, m) in self.members().iter().enumerate() {
            let silent =
                m.standing.throttle().is_some() && self.unit(m).is_some_and(|unit| unit.is_silent(m.device.source));
            let scope = match scope {
                Scope::Plain => Scope::PlainOf { member },
                Scope::Pasid { member: of, .. } | Scope::PlainOf { member: of } if of == member => scope,
                _ => continue,
            };
            if silent {
                let _ = self.isolate(member, Some((scope, to)));
            }
        }
    }

    /// Blocks a member that does not answer, or is gone, apart from its group. `also`: what one of its scopes was about to
    /// come to, and has tags of.
    pub(crate) fn isolate(&self, member: usize, also: Option<(Scope, &Attached<P>)>) -> Result<(), Error> {
        let Some(m) = self.members().get(member) else { return Ok(()) };
        if !m.standing.is(Matter::GONE) {
            m.standing.set(Matter::QUARANTINED);
            if let Some(c) = m.ats.capability {
                // Whether it hears that or not.
                let _ = c.turn_off(self.core.platform(), m.device);
            }
        }
        self.block(member, also)
    }

    /// Blocks a member apart from its group, without asking it for anything. An error leaves its entries cleared, and its tags.
    pub(super) fn block(&self, member: usize, also: Option<(Scope, &Attached<P>)>) -> Result<(), Error> {
        let Some(m) = self.members().get(member) else { return Ok(()) };
        if m.standing.is(Matter::HELD) {
            return Ok(());
        }
        let throttle = m.standing.throttle();
        m.standing.set_cache(None);
        if let Err(e) = self.clear(member, also.map(|(scope, _)| scope), throttle.is_some()) {
            m.standing.set_cache(throttle);
            self.doubt_member(member)?;
            return Err(e);
        }
        if let Some(throttle) = throttle {
            self.tag(member, throttle, false)?;
            if let Some((scope, to)) = also {
                self.tag_of(scope, to, throttle, false)?;
            }
        }
        let mut n = 0;
        while let Some((scope, to)) = self.attachment(member, n)? {
            self.leave(scope, &to);
            n += 1;
        }
        if let Some((scope, to)) = also {
            self.leave(scope, to);
        }
        self.keep_doubts();
        m.standing.set(Matter::HELD);
        Ok(())
    }

    /// Caches may hold of a member what no entry says any more.
    fn doubt_member(&self, member: usize) -> Result<(), Error> {
        let mut n = 0;
        while let Some((scope, _)) = self.attachment(member, n)? {
            let mut states = self.core.registry()?.states.lock(self.core.platform());
            states.get_mut(self.place).into_iter().for_each(|s| s.doubt(scope));
            n += 1;
        }
        Ok(())
    }

    /// Clears all entries of a member, and has its translated requests blocked where they were not. Goes on after an error, so
    /// that no entry stays.
    fn clear(&self, member: usize, also: Option<Scope>, caching: bool) -> Result<(), Error> {
        let end = |scope| {
            let unproved = {
                let states = self.core.registry()?.states.lock(self.core.platform());
                states.get(self.place).is_some_and(|s| s.unproved(scope))
            };
            self.switch(scope, &Attached::Blocked, unproved).map(drop)
        };
        let (mut n, mut outcome) = (0, Ok(()));
        while let Some((scope, _)) = self.attachment(member, n)? {
            outcome = outcome.and(end(scope));
            n += 1;
        }
        if let Some(scope) = also {
            outcome = outcome.and(end(scope));
        }
        // In legacy mode the one entry says both.
        let scalable = self.members().get(member).and_then(|m| self.unit(m)).is_some_and(Unit::scalable);
        if scalable && caching { outcome.and(self.let_through(member, false)) } else { outcome }
    }

    /// Lets a member have what its group, and its PASIDs, are attached to.
    fn unblock(&self, member: usize, m: &Member, unit: &Unit<P>) -> Result<(), Error> {
        unit.hear_again(self.core.host(), m.device.source);
        if let Some(capability) = m.pasid.filter(|_| m.requester(unit).pasid_bits != 0) {
            capability.switch(self.core.platform(), m.device, true)?;
        }
        let was = m.standing.is(Matter::QUARANTINED);
        self.keep_doubts();
        m.standing.clear(Matter::HELD | Matter::QUARANTINED);
        let mut entered = 0;
        while let Some((scope, to)) = self.attachment(member, entered)? {
            if let Err(e) = self.enter(scope, &to) {
                for n in 0..entered {
                    if let Ok(Some((scope, to))) = self.attachment(member, n) {
                        self.leave(scope, &to);
                    }
                }
                m.standing.set(if was { Matter::HELD | Matter::QUARANTINED } else { Matter::HELD });
                return Err(e);
            }
            entered += 1;
        }
        let outcome = self.restore(member, m, unit);
        if outcome.is_err() {
            let _ = self.turn_off(member);
            let _ = self.block(member, None);
        }
        outcome
    }

    fn restore(&self, member: usize, m: &Member, unit: &Unit<P>) -> Result<(), Error> {
        let mut n = 0;
        while let Some((scope, to)) = self.attachment(member, n)? {
            self.switch(scope, &to, false)?;
            n += 1;
        }
        if m.standing.is(Matter::TRUSTED) && !self.passes_through(m)? {
            let throttle = m.able(unit).map_err(|why| ErrorKind::Unsupported(Need::Ats(why)))?;
            self.turn_on(member, throttle)?;
        }
        Ok(())
    }
}

impl Member {
    /// Why it is blocked apart from its group, if it is.
    pub(super) fn apart(&self) -> Option<State> {
        let is = |what| self.standing.is(what);
        if is(Matter::GONE) {
            Some(State::Removed)
        } else if is(Matter::QUARANTINED) {
            Some(State::Quarantined)
        } else {
            is(Matter::HELD).then_some(State::InReset)
        }
    }
}
