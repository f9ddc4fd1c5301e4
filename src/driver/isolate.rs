//! Devices that did not answer (VT-d 6.5.2.11, ITE) or were taken out: blocked, forgotten by everyone's flushes, and told of.

use super::Vtd;
use crate::device::attach::Group;
use crate::device::registry::Registry;
use crate::device::standing::Matter;
use crate::host::address::DeviceId;
use crate::host::error::{Error, ErrorKind, Need};
use crate::host::platform::Platform;

impl<P: Platform> Vtd<P> {
    /// Device `d` was taken out without warning. Its configuration space is not touched any more, nobody's flush asks it, its
    /// entries are cleared and flushed; its group stays claimed until it is released, and then is claimed again only once
    /// the same kind of device answers in its place. `service` tells the owner (`Events::isolated`). What another call is
    /// changing of the group just now is left to `service`.
    ///
    /// Invalidations that are on their way to it may still take as long as the hardware waits for an answer.
    ///
    /// Errors: `Unknown`, `Unsupported(Unit)`, and those of an invalidation: then `service` tries again.
    ///
    /// Waits for invalidations, with a deadline. Not for interrupt context.
    pub fn removed(&self, d: DeviceId) -> Result<(), Error> {
        let core = &*self.0;
        let registry = core.registry()?;
        let (place, member) = registry.find(d).ok_or(ErrorKind::Unknown.of(d))?;
        let m = registry.members(place).get(member).filter(|m| m.device == d).ok_or(ErrorKind::Unknown.of(d))?;
        let unit = m.unit().and_then(|i| core.units().get(i)).ok_or(ErrorKind::Unsupported(Need::Unit).of(d))?;
        m.standing.set(Matter::GONE | Matter::SUSPECT);
        unit.hear_no_more(core.host(), d.source);
        core.platform().wake();
        match self.isolate(place, member) {
            Err(e) if e.kind == ErrorKind::Busy => Ok(()),
            outcome => outcome.map_err(|e| e.of(d)),
        }
    }

    /// Blocks a member apart from its group, unless it is.
    fn isolate(&self, place: usize, member: usize) -> Result<(), Error> {
        let group = Group::unclaimed(&self.0, place)?;
        let _changing = group.hold()?;
        group.isolate(member, None)
    }

    /// Isolates what has not answered since the last call, or is gone, and tells the owners. Those whose group is being changed
    /// are left to the next call, which the end of that change asks for. The number of handlers called.
    pub(super) fn isolate_suspects(&self, registry: &Registry<P>) -> usize {
        let core = &*self.0;
        for unit in core.units().iter() {
            while let Some(source) = unit.take_suspect(core.host()) {
                let id = DeviceId { segment: unit.segment, source };
                let member = registry.find(id).and_then(|(g, m)| registry.members(g).get(m));
                // Whose owner has given it back meanwhile is off, and no matter of the next one.
                let matters = Matter::CACHING | Matter::HELD | Matter::QUARANTINED;
                if let Some(m) = member.filter(|m| m.standing.is(matters)) {
                    m.standing.set(Matter::SUSPECT);
                }
            }
        }
        let mut told = 0usize;
        for place in 0..registry.len() {
            for (member, m) in registry.members(place).iter().enumerate() {
                if !m.standing.is(Matter::SUSPECT) || self.isolate(place, member).is_err() {
                    continue;
                }
                m.standing.clear(Matter::SUSPECT);
                let handler = {
                    let states = registry.states.lock(core.platform());
                    states.get(place).and_then(|s| s.ears.get(member)?.handler.clone())
                };
                if let Some(h) = handler.or_else(|| self.rest_handler()) {
                    h.isolated(m.device);
                    told = told.saturating_add(1);
                }
            }
        }
        told
    }
}
