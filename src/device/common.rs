//! What all handles of the driver share: the machine, its topology, its groups, and the tables that stand in for
//! pass-through.

use super::events::Events;
use super::registry::Registry;
use crate::dmar::Topology;
use crate::host::address::Nanos;
use crate::host::error::{Error, ErrorKind, Need, State};
use crate::host::grow;
use crate::host::mem::Shared;
use crate::host::platform::{Identity, Platform};
use crate::host::sync::{Lock, Once};
use crate::space::domain::Domain;
use crate::space::paging::Access;
use crate::space::spec::DomainSpec;
use crate::space::state::Space;
use crate::unit::{Host, Machine, Unit, Units};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// What all handles share.
pub(crate) struct Core<P: Platform> {
    pub(crate) machine: Shared<Machine<P>>,
    pub(crate) topology: Topology,
    pub(crate) identity: Identity,
    /// Set when `bring_up` has gone all the way.
    pub(crate) up: Once<Registry<P>>,
    /// Units in abort-DMA mode that `bring_up` has not taken yet.
    pub(crate) shielded: Lock<Vec<Unit<P>>>,
    /// Tables that stand in for pass-through, made when first wanted.
    pub(crate) one_to_one: Lock<Option<Domain<P>>>,
    /// Domains that gather their flushes.
    pub(crate) deferred: Lock<Vec<Shared<Space<P>>>>,
    /// Who hears of faults that no claimed device's owner hears of.
    pub(crate) rest: Lock<Rest>,
}

/// What is behind one more lock.
#[derive(Default)]
pub(crate) struct Rest {
    pub(crate) handler: Option<Arc<dyn Events>>,
    /// Numbers the calls of `service`.
    pub(crate) round: u64,
    /// `shield` was called, `bring_up` has begun.
    pub(crate) shielded: bool,
    pub(crate) begun: bool,
    /// A unit is being added or removed, and so many have been added.
    pub(crate) plugging: bool,
    pub(crate) added: u16,
}

impl<P: Platform> Core<P> {
    pub(crate) fn host(&self) -> &Host<P> {
        &self.machine.host
    }

    pub(crate) fn machine(&self) -> &Shared<Machine<P>> {
        &self.machine
    }

    pub(crate) fn platform(&self) -> &P {
        &self.machine.host.platform
    }

    pub(crate) fn units(&self) -> Units<'_, P> {
        self.machine.units()
    }

    /// The groups; an error before `bring_up`.
    pub(crate) fn registry(&self) -> Result<&Registry<P>, Error> {
        self.up.get().ok_or(ErrorKind::State(State::NotUp).into())
    }

    /// Remembers a domain that gathers its flushes, so that `service` looks after it.
    pub(crate) fn look_after(&self, space: &Shared<Space<P>>) -> Result<(), ErrorKind> {
        self.forget_dropped();
        grow::push(&mut self.deferred.lock(self.platform()), space.clone())
    }

    /// Lets go of such domains that nobody has any more.
    pub(crate) fn forget_dropped(&self) {
        loop {
            let mut list = self.deferred.lock(self.platform());
            let Some(i) = list.iter().position(|d| d.handles() == 1) else { return };
            let gone = list.swap_remove(i);
            drop(list);
            // Frees its tables: outside the lock.
            drop(gone);
        }
    }

    /// Flushes those whose oldest range is too old, and says when the next one will be. Waits for the flushes.
    pub(crate) fn flush_deferred(&self) -> Option<Nanos> {
        self.forget_dropped();
        let (mut next, mut left) = (None::<Nanos>, self.deferred.lock(self.platform()).len());
        // From the last on: where another lets go of one meanwhile, one that was seen already takes its place.
        while let Some(i) = left.checked_sub(1) {
            left = i;
            let Some(space) = self.deferred.lock(self.platform()).get(i).cloned() else { continue };
            if space.due().is_some_and(|at| at <= self.platform().now()) {
                // What a unit does not confirm stays owed, and is due again a while later.
                let _ = space.settle();
            }
            next = match (next, space.due()) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
        next
    }

    /// Bits of a host physical address, as firmware says them.
    pub(crate) fn hpa_width(&self) -> u8 {
        self.topology.host_address_width().clamp(12, 52) as u8
    }

    /// A domain that maps every address to itself, as far as the configuration says and the units reach.
    pub(crate) fn identity_space(&self) -> Result<Shared<Space<P>>, Error> {
        if let Some(d) = &*self.one_to_one.lock(self.platform()) {
            return Ok(d.space.clone());
        }
        let spec = DomainSpec::best_of(self.units().iter());
        let spec = spec.ok_or(Error::from(ErrorKind::Unsupported(Need::AnyUnit)))?;
        let d: Domain<P> = Domain::new(&self.machine, &spec, self.hpa_width())?;
        let width = spec.width.min(self.hpa_width());
        let top = self.host().config.identity_top.get().min(1 << width) & !0xfff;
        // Gibibytes take their time: not under the lock. Of two that were made at once the first stays.
        d.space.map_one_to_one(top, Access::READ | Access::WRITE)?;
        let (mut known, mut spare) = (self.one_to_one.lock(self.platform()), Some(d));
        if known.is_none() {
            *known = spare.take();
        }
        let space = known.as_ref().map(|d| d.space.clone());
        drop(known);
        drop(spare);
        space.ok_or(ErrorKind::OutOfMemory.into())
    }
}
