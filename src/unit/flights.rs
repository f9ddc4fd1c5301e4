//! Invalidations of several units at once: every unit's tail is written before the first is awaited (VT-d 6.5.2).

use super::Machine;
use super::invalidate::{Batch, InFlight};
use crate::host::error::Error;
use crate::host::platform::Platform;

/// Submissions in flight: the first few in place, so that a flush needs no memory; beyond those, one waits at once.
pub(crate) struct Flights {
    list: [Option<(usize, InFlight)>; 8],
}

impl Flights {
    pub(crate) const fn new() -> Self {
        Flights { list: [None; 8] }
    }

    /// Hands a batch to the unit in place `unit` of the machine; an empty one is nothing. Waits for room in the unit's
    /// queue.
    pub(crate) fn launch<P: Platform>(&mut self, m: &Machine<P>, unit: usize, batch: &Batch) -> Result<(), Error> {
        let Some(u) = m.units().get(unit).filter(|_| !batch.is_empty()) else { return Ok(()) };
        let flight = u.start(&m.host, batch)?;
        match self.list.iter_mut().find(|x| x.is_none()) {
            Some(free) => *free = Some((unit, flight)),
            None => u.finish(&m.host, flight)?,
        }
        Ok(())
    }

    /// Awaits all of them, each with its deadline. After an error the rest is still to be awaited, or abandoned.
    pub(crate) fn wait<P: Platform>(&mut self, m: &Machine<P>) -> Result<(), Error> {
        for (unit, f) in self.list.iter_mut().filter_map(Option::take) {
            if let Some(u) = m.units().get(unit) {
                u.finish(&m.host, f)?;
            }
        }
        Ok(())
    }

    /// Looks whether all have completed; `None` where one has not.
    pub(crate) fn poll<P: Platform>(&mut self, m: &Machine<P>) -> Option<Result<(), Error>> {
        for place in &mut self.list {
            let Some((unit, f)) = *place else { continue };
            let Some(u) = m.units().get(unit) else { continue };
            let outcome = u.poll(f)?;
            *place = None;
            if outcome.is_err() {
                return Some(outcome);
            }
        }
        Some(Ok(()))
    }

    /// Nobody will ask for the outcome of those that are left.
    pub(crate) fn abandon<P: Platform>(&mut self, m: &Machine<P>) {
        for (unit, f) in self.list.iter_mut().filter_map(Option::take) {
            if let Some(u) = m.units().get(unit) {
                u.abandon(f);
            }
        }
    }
}
