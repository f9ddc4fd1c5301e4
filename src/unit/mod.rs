//! One remapping unit: the one way to give it a command and await it (`command`), its invalidation queue (`queue`, `stats`),
//! what becomes of its errors (`recovery`) and what may be asked of it (`invalidate`; `rules` when, `flights` of several units at
//! once), its fault records (`fault_log`), its domain ids (`ids`), the memory of its
//! root and context tables (`root`) and of a requester's PASIDs (`pasid`), bringing it up and shutting it down (`bring_up`), and quirks as data (`errata`).

pub mod bring_up;
pub(crate) mod command;
pub mod config;
pub mod errata;
pub(crate) mod fault_log;
pub(crate) mod flights;
pub(crate) mod ids;
pub(crate) mod invalidate;
pub(crate) mod pasid;
pub(crate) mod power;
pub(crate) mod queue;
pub(crate) mod recovery;
pub(crate) mod root;
pub mod rules;
pub mod shield;
#[cfg(test)]
pub(crate) mod standin;
pub mod stats;
pub mod take_over;
#[cfg(test)]
mod tests;

use crate::host::address::{Hpa, SourceId, UnitId};
use crate::host::error::{Error, ErrorKind};
use crate::host::grow;
use crate::host::platform::{Event, Platform, Registers};
use crate::host::sync::{AtomicU32, AtomicU64, Lock, Once, Ordering};
use crate::host::wait::Turn;
use crate::hw::capabilities::Capabilities;
use crate::hw::invalidation::Ics;
use crate::hw::registers::{RootPointer, TableMode, at};
use alloc::vec::Vec;
use config::Config;
use errata::Errata;
use fault_log::FaultLog;
use ids::DomainIds;
use queue::Queue;
use root::RootTable;
use take_over::{Adopted, Malformed};

/// What every part of the driver is handed: the host, and what it chose.
pub(crate) struct Host<P: Platform> {
    pub(crate) platform: P,
    pub(crate) config: Config,
}

/// The host and its units, shared by everything that holds a handle of the driver.
pub(crate) struct Machine<P: Platform> {
    pub(crate) host: Host<P>,
    /// Set by `bring_up`, with room for units that come later: a unit keeps its place for good.
    units: Once<Vec<Once<Unit<P>>>>,
}

/// The units that there are, in their places.
pub(crate) struct Units<'m, P: Platform>(&'m [Once<Unit<P>>]);

impl<P: Platform> Clone for Units<'_, P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P: Platform> Copy for Units<'_, P> {}

impl<'m, P: Platform> Units<'m, P> {
    /// The unit in a place.
    pub(crate) fn get(self, i: usize) -> Option<&'m Unit<P>> {
        self.0.get(i).and_then(Once::get)
    }

    /// How many there are.
    pub(crate) fn len(self) -> usize {
        self.iter().count()
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = &'m Unit<P>> + Clone {
        self.0.iter().map_while(Once::get)
    }
}

impl<P: Platform> Machine<P> {
    pub(crate) fn new(platform: P, config: Config) -> Self {
        Machine { host: Host { platform, config }, units: Once::new() }
    }

    /// The units that work; none before `bring_up`.
    pub(crate) fn units(&self) -> Units<'_, P> {
        Units(self.units.get().map_or(&[], |u| u))
    }

    /// Sets the units, once, and leaves room for `spare` more. On an error they are still the caller's.
    pub(crate) fn adopt(&self, units: &mut Vec<Unit<P>>, spare: usize) -> Result<(), ErrorKind> {
        let cells = grow::filled(units.len().saturating_add(spare), Once::new)?;
        let cells = self.units.call_once(|| cells);
        for (unit, cell) in units.drain(..).zip(cells) {
            cell.call_once(|| unit);
        }
        Ok(())
    }

    /// Adds a unit, for one caller at a time; leaves it where there is no room.
    pub(crate) fn add(&self, unit: &mut Option<Unit<P>>) {
        let cell = self.units.get().and_then(|cells| cells.get(self.units().len()));
        if let Some((cell, unit)) = cell.and_then(|cell| Some((cell, unit.take()?))) {
            cell.call_once(|| unit);
        }
    }

    /// The working unit `id`.
    pub(crate) fn unit(&self, id: UnitId) -> Result<&Unit<P>, Error> {
        self.units().iter().find(|u| u.id == id).ok_or(ErrorKind::Unknown.on(id))
    }

    /// The host's platform, and the units, taken apart.
    pub(crate) fn into_parts(self) -> (Host<P>, impl Iterator<Item = Unit<P>>) {
        let cells = self.units.try_into_inner().into_iter().flatten();
        (self.host, cells.filter_map(Once::try_into_inner))
    }
}

/// A unit that answers.
pub(crate) struct Unit<P: Platform> {
    pub(crate) id: UnitId,
    pub(crate) segment: u16,
    pub(crate) base: Hpa,
    pub(crate) caps: Capabilities,
    pub(crate) errata: Errata,
    /// The tables that it runs on.
    pub(crate) mode: TableMode,
    /// Software must flush the write buffer: CAP.RWBF, or an erratum.
    write_buffer: bool,
    regs: P::Registers,
    /// Whose turn it is to give a command.
    commands: Turn,
    /// `phase::TAKEN` from when the unit was taken over until it was stopped: outside, nothing may be turned off that a
    /// predecessor left on, and there is nothing to invalidate.
    phase: AtomicU32,
    /// The bits of commands that went unanswered; all where the unit is gone. While there are any, its queue and tables are
    /// not given back.
    doubted: AtomicU32,
    /// Ranges for which more than twice as much was flushed.
    wide_flushes: AtomicU64,
    /// `None`: invalidation by registers.
    queue: Option<Queue>,
    faults: FaultLog,
    pub(crate) ids: Lock<DomainIds>,
    pub(crate) root: Lock<RootTable>,
    /// The id of pass-through entries: `ids::PASS_THROUGH`, unless a predecessor's tables have another use for that.
    pub(crate) pass_through: u16,
    /// What it goes on with of a predecessor's tables, or why with nothing of them.
    pub(crate) adopted: Option<Adopted>,
    pub(crate) fell_back: Option<Malformed>,
    /// What `suspend` found, for `resume`.
    kept: Lock<power::Kept>,
}

/// How far a unit has come.
mod phase {
    pub(super) const OFF: u32 = 0;
    pub(super) const TAKEN: u32 = 1;
    /// Taken over, and translation is on.
    pub(super) const TRANSLATING: u32 = 2;
    /// Ours, with translation and queue off: it caches nothing, and there is nothing to invalidate.
    pub(super) const SUSPENDED: u32 = 3;
    /// Taken over, in abort-DMA mode: every request is blocked, whatever tables say.
    pub(super) const SHIELDED: u32 = 4;
    /// Taken out of the machine, for good; whatever takes its place is another unit.
    pub(super) const REMOVED: u32 = 5;
}

impl<P: Platform> Unit<P> {
    /// Whether the unit stands between its devices and memory.
    pub(crate) fn translates(&self) -> bool {
        self.phase.load(Ordering::Acquire) == phase::TRANSLATING
    }

    /// Lets go of a predecessor's entries for requesters that nobody knows: nobody could ever claim and block them. Before the
    /// unit goes by these tables, and everything is flushed.
    pub(crate) fn lose_strangers(&self, p: &P, known: impl Fn(SourceId) -> bool) {
        loop {
            let mut root = self.root.lock(p);
            let Some(source) = root.stranger(&known) else { return };
            root.forsake(p, source);
            drop(root);
            self.lose_foreign(p, source);
        }
    }

    /// No cache holds anything of a predecessor's entry any more: the domain ids are free that it was the last to use.
    pub(crate) fn lose_foreign(&self, p: &P, source: SourceId) {
        loop {
            let Some(did) = self.root.lock(p).give_back(source) else { return };
            self.ids.lock(p).free(did);
        }
    }

    /// The top half of an interrupt. Says whether the bottom half has something to do.
    pub(crate) fn interrupted(&self, h: &Host<P>, e: Event) -> bool {
        match e {
            Event::Fault => {
                // A queue error is for the bottom half and for whoever waits.
                self.faults.collect(h, self);
                true
            }
            Event::Invalidation => {
                self.regs.write32(at::ICS, Ics::IWC.bits());
                false
            }
            Event::PageRequest => false,
        }
    }

    /// The fault log.
    pub(crate) fn faults(&self) -> &FaultLog {
        &self.faults
    }

    /// Clears queue errors that nobody waits for.
    pub(crate) fn tend_queue(&self, h: &Host<P>) -> Result<(), Error> {
        match &self.queue {
            Some(q) => q.recover(h, self),
            None => Ok(()),
        }
    }

    /// Whether absent-to-present changes need the write buffer flushed.
    pub(crate) fn needs_write_buffer_flush(&self) -> bool {
        self.write_buffer
    }

    /// RTADDR, which is what the unit goes by since `start_root`; `None` where the unit is gone.
    pub(crate) fn root_pointer(&self) -> Option<RootPointer> {
        match self.regs.read64(at::RTADDR) {
            u64::MAX => None,
            value => Some(RootPointer(value)),
        }
    }

    /// Whether its walks of page tables snoop the CPU's caches.
    pub(crate) fn snoops_walks(&self) -> bool {
        match self.mode {
            TableMode::Scalable => self.caps.ecap.smpwcs(),
            _ => self.caps.ecap.c(),
        }
    }

    /// Whether it runs in scalable mode.
    pub(crate) fn scalable(&self) -> bool {
        self.mode == TableMode::Scalable
    }

    /// Whether it has second-stage tables.
    pub(crate) fn has_second_stage(&self) -> bool {
        !self.scalable() || self.caps.ecap.ssts()
    }

    /// Notes that a range was too large, or too much in a batch, to be flushed page by page.
    pub(crate) fn count_wide_flush(&self) {
        self.wide_flushes.fetch_add(1, Ordering::Relaxed);
    }

    /// How often that was.
    pub(crate) fn wide_flushes(&self) -> u64 {
        self.wide_flushes.load(Ordering::Relaxed)
    }

    /// Whether it has first-stage tables.
    pub(crate) fn has_first_stage(&self) -> bool {
        self.scalable() && self.caps.ecap.fsts()
    }

    /// Whether invalidation goes through the queue.
    pub(crate) fn has_queue(&self) -> bool {
        self.queue.is_some()
    }

    /// Gives the memory back, but what the unit may still come to use. Only for a unit that is off.
    pub(crate) fn release(mut self, p: &P) {
        self.faults.release(p);
        self.ids.into_inner().release(p);
        if self.doubted.load(Ordering::Acquire) != 0 {
            return;
        }
        if let Some(q) = self.queue.take() {
            q.release(p);
        }
        self.root.into_inner().release(p);
    }
}
