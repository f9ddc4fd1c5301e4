//! From an unmap to the proof that no cache holds it: flushes submitted to every unit before the first is awaited.

use super::flush::Flushed;
use super::state::{NOBODY, Owed, Space};
use crate::host::error::Error;
use crate::host::mem::FreedTables;
use crate::host::platform::Platform;
use crate::unit::flights::Flights;
use core::ops::ControlFlow;

/// What was unmapped and is still in caches. Owns the freed table pages. Dropped unflushed they are owed by the domain
/// and come back with its next flush, never earlier.
#[must_use = "devices reach the unmapped memory until this is flushed"]
pub struct Unmapped<'d, P: Platform> {
    pub(super) space: &'d Space<P>,
    pub(super) ticket: u64,
    pub(super) freed: FreedTables,
    pub(super) tables_changed: bool,
}

impl<'d, P: Platform> Unmapped<'d, P> {
    pub(super) fn nothing(space: &'d Space<P>) -> Self {
        Unmapped { space, ticket: NOBODY, freed: FreedTables::new(), tables_changed: false }
    }

    /// Flushes and awaits it, with a deadline. Not for interrupt context, and not under an `Edit` of the same domain.
    pub fn flush(self) -> Result<Flushed, NotFlushed<'d, P>> {
        self.flush_and(false)
    }

    /// The same for all that nobody kept, also where another flush has taken it over and is not done: the proof covers it.
    pub(super) fn flush_all(self) -> Result<Flushed, NotFlushed<'d, P>> {
        self.flush_and(true)
    }

    fn flush_and(mut self, orphans: bool) -> Result<Flushed, NotFlushed<'d, P>> {
        let mut flights = Flights::new();
        match self.start_all(&mut flights, orphans).and_then(|()| flights.wait(&self.space.machine)) {
            Ok(()) => Ok(self.done()),
            Err(error) => {
                flights.abandon(&self.space.machine);
                Err(NotFlushed { error, still: self })
            }
        }
    }

    /// Hands the flush to every unit, and does not wait for it.
    pub fn submit(mut self) -> Result<Pending<'d, P>, NotFlushed<'d, P>> {
        let mut flights = Flights::new();
        match self.start_all(&mut flights, false) {
            Ok(()) => Ok(Pending { unmapped: self, flights }),
            Err(error) => {
                flights.abandon(&self.space.machine);
                Err(NotFlushed { error, still: self })
            }
        }
    }

    /// Every unit's tail is written before the first is awaited.
    fn start_all(&mut self, flights: &mut Flights, orphans: bool) -> Result<(), Error> {
        let space = self.space;
        let elsewhere = {
            // Takes over what nobody else will flush.
            let mut s = space.lock();
            for o in s.owed.iter_mut().filter(|o| o.ticket == NOBODY) {
                o.ticket = self.ticket;
            }
            self.freed.append(core::mem::replace(&mut s.left.freed, FreedTables::new()));
            self.tables_changed |= core::mem::take(&mut s.left.tables_changed);
            orphans && s.owed.iter().any(|o| o.orphan && o.ticket != self.ticket)
        };
        // Whether tables went with what another has taken over is not known here.
        let (ticket, leaf_only) = (self.ticket, !(self.tables_changed || elsewhere));
        let wanted = |o: &&Owed| o.ticket == ticket || orphans && o.orphan;
        space.launch(flights, |s, add| s.owed.iter().filter(wanted).for_each(|o| add(o.stale, leaf_only)))
    }

    fn done(mut self) -> Flushed {
        let space = self.space;
        space.lock().owed.retain(|o| o.ticket != self.ticket);
        core::mem::replace(&mut self.freed, FreedTables::new()).release(&space.machine.host.platform);
        self.ticket = NOBODY;
        Flushed(())
    }
}

impl<P: Platform> core::fmt::Debug for Unmapped<'_, P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Unmapped").field("ticket", &self.ticket).finish_non_exhaustive()
    }
}

impl<P: Platform> Drop for Unmapped<'_, P> {
    fn drop(&mut self) {
        if self.ticket == NOBODY {
            return;
        }
        let freed = core::mem::replace(&mut self.freed, FreedTables::new());
        let mut s = self.space.lock();
        for o in s.owed.iter_mut().filter(|o| o.ticket == self.ticket) {
            (o.ticket, o.orphan) = (NOBODY, true);
        }
        s.left.freed.append(freed);
        s.left.tables_changed |= self.tables_changed;
    }
}

/// A flush that was handed to the units.
#[must_use = "nothing is proved before this says so"]
pub struct Pending<'d, P: Platform> {
    unmapped: Unmapped<'d, P>,
    flights: Flights,
}

impl<'d, P: Platform> Pending<'d, P> {
    /// Looks whether all units have completed it. Never waits; a unit that never answers is found by `wait` only.
    pub fn poll(mut self) -> ControlFlow<Result<Flushed, NotFlushed<'d, P>>, Self> {
        match self.flights.poll(&self.unmapped.space.machine) {
            None => ControlFlow::Continue(self),
            Some(Ok(())) => ControlFlow::Break(Ok(self.into_unmapped().done())),
            Some(Err(error)) => ControlFlow::Break(Err(self.failed(error))),
        }
    }

    /// Awaits all units, with a deadline.
    pub fn wait(mut self) -> Result<Flushed, NotFlushed<'d, P>> {
        match self.flights.wait(&self.unmapped.space.machine) {
            Ok(()) => Ok(self.into_unmapped().done()),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn failed(mut self, error: Error) -> NotFlushed<'d, P> {
        self.flights.abandon(&self.unmapped.space.machine);
        NotFlushed { error, still: self.into_unmapped() }
    }

    fn into_unmapped(mut self) -> Unmapped<'d, P> {
        let nothing = Unmapped::nothing(self.unmapped.space);
        core::mem::replace(&mut self.unmapped, nothing)
    }
}

impl<P: Platform> Drop for Pending<'_, P> {
    fn drop(&mut self) {
        self.flights.abandon(&self.unmapped.space.machine);
    }
}

/// A flush that failed or ran out of time: nothing is given back; pages, ids and status words stay owned.
pub struct NotFlushed<'d, P: Platform> {
    /// What happened.
    pub error: Error,
    /// What is still to be flushed.
    pub still: Unmapped<'d, P>,
}

impl<P: Platform> core::fmt::Debug for NotFlushed<'_, P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("NotFlushed").field("error", &self.error).finish_non_exhaustive()
    }
}
