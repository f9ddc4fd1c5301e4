//! Address spaces that devices are attached to, as their owner handles them: mapped, unmapped, edited, translated.

use super::flush::Flushed;
use super::paging::Access;
use super::spec::DomainSpec;
use super::state::{Space, State};
use super::tables::Tables;
use super::unmapped::Unmapped;
use crate::host::address::{Hpa, Iova, Range};
use crate::host::error::{Error, ErrorKind, MapError, MapWhy};
use crate::host::mem::Shared;
use crate::host::platform::Platform;
use crate::host::sync::Guard;
use crate::unit::Machine;
use core::fmt;
use core::marker::PhantomData;

mod mode {
    pub trait Sealed {}
}

/// When unmapped ranges are flushed: part of a domain's type, so that no caller takes one for the other.
pub trait FlushMode: mode::Sealed + Send + Sync + 'static {
    /// Whether unmapped ranges are gathered.
    const DEFERRED: bool;
}

/// Every unmap yields what must be flushed before the memory may be used for anything else.
#[derive(Debug)]
pub enum Strict {}

/// Unmaps are gathered, and flushed by `sync`, when there are many, and by `Vtd::service` when they are old; until then devices
/// may reach what was unmapped.
#[derive(Debug)]
pub enum Deferred {}

impl mode::Sealed for Strict {}
impl mode::Sealed for Deferred {}
impl FlushMode for Strict {
    const DEFERRED: bool = false;
}
impl FlushMode for Deferred {
    const DEFERRED: bool = true;
}

/// An address space.
///
/// ```
/// # fn main() -> Result<(), Box<dyn core::error::Error>> {
/// # use vtd::{Access, Iova, PAGE, Range, Strict, Target};
/// # let (host, vtd, group) = emulated::ready();
/// let domain = vtd.domain::<Strict>(&group.best_spec())?;
/// group.attach(Target::Domain(&domain))?;
///
/// let (at, memory) = (Iova::at(0x4000_0000), host.memory(4));
/// domain.map(at, memory, 4 * PAGE, Access::READ | Access::WRITE)?;
/// assert_eq!(domain.translate(at), Some((memory, PAGE, Access::READ | Access::WRITE)));
/// // The device writes, and memory has it.
/// host.write(None, 0x4000_0008, 42)?;
/// assert_eq!(host.word(memory.get() + 8), Some(42));
///
/// // Until the flush has completed, the device may go on reaching the page.
/// let unmapped = domain.unmap(Range::sized(at, PAGE).unwrap())?;
/// unmapped.flush().map_err(|not| not.error)?;
/// assert!(host.write(None, 0x4000_0008, 43).is_err());
/// host.write(None, 0x4000_1000, 44)?;
/// # Ok(())
/// # }
/// ```
pub struct Domain<P: Platform, M: FlushMode = Strict> {
    pub(crate) space: Shared<Space<P>>,
    mode: PhantomData<M>,
}

impl<P: Platform, M: FlushMode> fmt::Debug for Domain<P, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Domain").field("spec", &self.space.spec).finish_non_exhaustive()
    }
}

impl<P: Platform, M: FlushMode> Domain<P, M> {
    pub(crate) fn new(machine: &Shared<Machine<P>>, spec: &DomainSpec, hpa_width: u8) -> Result<Self, ErrorKind> {
        let space = Shared::new(Space::new(machine, *spec, hpa_width)?).map_err(|(_, e)| e)?;
        Ok(Domain { space, mode: PhantomData })
    }

    /// What the domain was made with.
    pub fn spec(&self) -> DomainSpec {
        self.space.spec
    }

    /// Maps `len` bytes at `at` to the memory at `to`, with the largest pages that fit. Nothing that is mapped is
    /// replaced, and an error leaves the range as it was. All three numbers are multiples of 4 KiB.
    ///
    /// Waits, with a deadline, only where a unit caches absent entries or buffers writes (CAP.CM, CAP.RWBF), where
    /// hardware may still walk through a table that an unflushed unmap next to it took away, and where an error came
    /// after hardware may have seen part of the mapping. Not for interrupt context.
    pub fn map(&self, at: Iova, to: Hpa, len: u64, how: Access) -> Result<(), MapError> {
        let space = &*self.space;
        let mut s = space.lock();
        let ticket = s.ticket();
        match s.map(&space.machine.host.platform, at, to, len, how, ticket) {
            Ok(false) => Ok(()),
            Ok(true) => {
                drop(s);
                let Some(r) = Range::sized(at, len) else { return Ok(()) };
                space.flush_mapped(r).map_err(|_| MapError { why: MapWhy::NotFlushed, at })
            }
            Err(e) => {
                space.take_back(s, ticket);
                Err(e)
            }
        }
    }

    /// The input addresses that the tables reach: from 0 to the last of the domain's width.
    pub fn addresses(&self) -> Range {
        let last = self.space.lock().tables.as_ref().map_or(Iova::at(0), Tables::last);
        Range { first: Iova::at(0), last }
    }

    /// Where an input address leads: the memory, the bytes from there to the end of its page, and the rights.
    pub fn translate(&self, at: Iova) -> Option<(Hpa, u64, Access)> {
        self.space.lock().tables.as_ref()?.translate(&self.space.machine.host.platform, at)
    }

    /// Flushes what earlier calls still owe: dropped [`Unmapped`]s, flushes that failed.
    pub fn settle(&self) -> Result<Flushed, Error> {
        self.space.settle()
    }

    /// Ranges that devices attached to the domain need for firmware's sake, which are mapped one to one.
    pub fn firmware_ranges(&self, each: &mut dyn FnMut(Range)) {
        for (r, _) in &self.space.lock().firmware {
            each(*r);
        }
    }
}

impl<P: Platform> Domain<P, Strict> {
    /// Unmaps every page of the range that is mapped; splits large pages that it cuts, seamlessly for the rest.
    /// `NotMapped` where there is nothing at all; `InterruptRange` where it meets a region that firmware needs for an
    /// attached device.
    ///
    /// Devices may go on reaching the memory until the result is flushed.
    pub fn unmap(&self, r: Range) -> Result<Unmapped<'_, P>, MapError> {
        self.space.unmap(r)
    }

    /// Changes the rights of every mapped page of the range. The flush makes it true for devices.
    pub fn protect(&self, r: Range, how: Access) -> Result<Unmapped<'_, P>, MapError> {
        let space = &*self.space;
        let mut s = space.lock();
        s.leave_alone(r)?;
        let ticket = s.ticket();
        match s.protect(&space.machine.host.platform, r, how, ticket) {
            Ok(()) => Ok(space.end(s, ticket, None)),
            Err(e) => {
                space.take_back(s, ticket);
                Err(e)
            }
        }
    }

    /// Many operations under one lock, with the walk position and the ranges kept. Other users of the domain wait, and
    /// interrupts are masked on this CPU, until `finish`: meanwhile nothing else of the driver is to be called here, not
    /// even for another domain (debug builds check it).
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn core::error::Error>> {
    /// # use vtd::{Access, Hpa, Iova, PAGE, Range, Strict, Target};
    /// # let (host, vtd, group) = emulated::ready();
    /// # let domain = vtd.domain::<Strict>(&group.best_spec())?;
    /// # group.attach(Target::Domain(&domain))?;
    /// let memory = host.memory(8);
    /// let mut edit = domain.edit();
    /// for n in 0..8 {
    ///     let page = Hpa::new(memory.get() + (7 - n) * PAGE).unwrap();
    ///     edit.map(Iova::at(0x4000_0000 + n * PAGE), page, PAGE, Access::READ)?;
    /// }
    /// edit.unmap(Range::sized(Iova::at(0x4000_2000), 2 * PAGE).unwrap())?;
    /// // One flush for all of it.
    /// edit.finish().flush().map_err(|not| not.error)?;
    /// assert!(host.read(None, 0x4000_1000).is_ok() && host.read(None, 0x4000_2000).is_err());
    /// # Ok(())
    /// # }
    /// ```
    pub fn edit(&self) -> Edit<'_, P> {
        let space = &*self.space;
        let mut guard = space.lock();
        let ticket = guard.ticket();
        Edit { space, guard: Some(guard), ticket, mapped: None }
    }
}

impl<P: Platform> Domain<P, Deferred> {
    /// Unmaps as `Domain::unmap` does, and gathers the flush. It comes with the next `sync`; with the call that gathers
    /// the last of [`Config::deferred_ranges`](crate::Config::deferred_ranges), which waits for it; or with the `Vtd::service` that
    /// finds the oldest range older than [`Config::deferred_deadline`](crate::Config::deferred_deadline). Until then devices may
    /// reach the memory, and the range cannot be mapped anew.
    ///
    /// Errors: those of `Domain::unmap`; `NotFlushed` where the range was unmapped, but the flush that it caused failed, which
    /// stays owed and is tried again; and where an earlier one fails once more: then nothing was unmapped, so that what is
    /// gathered stays within its bound.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn core::error::Error>> {
    /// # use vtd::{Access, Deferred, Iova, MapWhy, PAGE, Range, Target};
    /// # let (host, vtd, group) = emulated::ready();
    /// let domain = vtd.domain::<Deferred>(&group.best_spec())?;
    /// group.attach(Target::Deferred(&domain))?;
    /// let (at, memory) = (Iova::at(0x4000_0000), host.memory(1));
    /// domain.map(at, memory, PAGE, Access::READ)?;
    ///
    /// domain.unmap_later(Range::sized(at, PAGE).unwrap())?;
    /// // The device may still reach the old page there.
    /// assert_eq!(domain.map(at, memory, PAGE, Access::READ).unwrap_err().why, MapWhy::Unflushed);
    /// domain.sync()?;
    /// assert!(host.read(None, 0x4000_0000).is_err());
    /// domain.map(at, memory, PAGE, Access::READ)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn unmap_later(&self, r: Range) -> Result<(), MapError> {
        self.space.unmap_later(r)
    }

    /// Flushes all that was unmapped.
    pub fn sync(&self) -> Result<Flushed, Error> {
        self.settle()
    }
}

/// Many operations on a domain: see [`Domain::edit`].
pub struct Edit<'d, P: Platform> {
    space: &'d Space<P>,
    /// Gone once finished.
    guard: Option<Guard<'d, State, P>>,
    ticket: u64,
    mapped: Option<Range>,
}

impl<'d, P: Platform> Edit<'d, P> {
    /// As [`Domain::map`]; never waits. What an error left in caches is part of what `finish` yields.
    pub fn map(&mut self, at: Iova, to: Hpa, len: u64, how: Access) -> Result<(), MapError> {
        let Some(s) = &mut self.guard else { return Err(MapError { why: MapWhy::Unflushed, at }) };
        if s.map(&self.space.machine.host.platform, at, to, len, how, self.ticket)?
            && let Some(r) = Range::sized(at, len)
        {
            self.mapped = Some(match self.mapped {
                Some(m) => Range { first: m.first.min(r.first), last: m.last.max(r.last) },
                None => r,
            });
        }
        Ok(())
    }

    /// As [`Domain::unmap`].
    pub fn unmap(&mut self, r: Range) -> Result<(), MapError> {
        let Some(s) = &mut self.guard else { return Err(MapError { why: MapWhy::Unflushed, at: r.first }) };
        s.leave_alone(r)?;
        s.unmap(&self.space.machine.host.platform, r, self.ticket)
    }

    /// Ends the edit. Where a unit caches absent entries, what was mapped is flushed before this returns.
    pub fn finish(mut self) -> Unmapped<'d, P> {
        let mapped = self.mapped.take();
        match self.guard.take() {
            Some(s) => self.space.end(s, self.ticket, mapped),
            None => Unmapped::nothing(self.space),
        }
    }
}

impl<P: Platform> Drop for Edit<'_, P> {
    fn drop(&mut self) {
        if let Some(s) = self.guard.take() {
            drop(self.space.end(s, self.ticket, self.mapped.take()));
        }
    }
}
