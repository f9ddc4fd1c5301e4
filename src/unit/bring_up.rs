//! Bringing units up and shutting them down, in the order of VT-d 11.4.4 and 6.5.2.1: every step on all units before
//! the next on any, for some chipsets want the queue on everywhere before a root pointer is latched anywhere.

use super::command::Command;
use super::config::Tables;
use super::errata::Errata;
use super::fault_log::FaultLog;
use super::invalidate::Batch;
use super::power::Kept;
use super::queue::Queue;
use super::take_over::{self, Foreign, Look};
use super::{Host, Unit, phase};
use crate::host::address::{Hpa, UnitId};
use crate::host::error::{Error, ErrorKind, Need, State, Step};
use crate::host::platform::{Event, Platform, Registers};
use crate::host::sync::{AtomicU32, AtomicU64, Lock, Ordering, Rank};
use crate::host::wait::Turn;
use crate::hw::capabilities::{Cap, Capabilities, Ecap, Version};
use crate::hw::faults::FaultRecord;
use crate::hw::invalidation::DescriptorWidth;
use crate::hw::registers::{EventControl, EventMessage, Fsts, Gsts, RootPointer, TableMode, at};
use core::fmt;

/// What to do with a unit that firmware or a predecessor left on.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TakeOver {
    /// Refuse it, with `State::FoundOn`.
    Refuse,
    /// Turn it off first, safely: interrupt remapping, translation, then the queue when it has drained.
    Disable,
    /// Go on with it. Translation stays on, and its root, context, directory and PASID tables are read
    /// ([`Platform::peek`]), checked and copied as far as they are to be the driver's: devices with an entry there reach what
    /// they reached, until their group is claimed, whatever firmware reserved for them; requester ids that are in no group, whom
    /// nobody could ever claim, are blocked. The table mode is the one that is found,
    /// interrupt remapping stays as it is, queue and fault interrupts become the driver's. A unit that blocks everything by
    /// itself (abort-DMA mode) goes on blocking until it is led out of that; one with translation off has nothing to adopt, and
    /// only its queue is replaced. Tables that are malformed, or that the platform cannot read, are not used: that unit is
    /// turned off as by `Disable`, and the report says why.
    ///
    /// The predecessor must not run any more, and the memory of its page tables and PASID tables must stay as it is until all
    /// groups are claimed that use it.
    Adopt,
}

/// Why a unit of the DMAR table is left alone. Its devices are not protected and cannot be claimed.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Skipped {
    /// The table gives a register base of zero, or one that is not page aligned.
    NoBase,
    /// The platform did not map the registers.
    NotMapped,
    /// Version or capabilities read all zeros or all ones: there is nothing there.
    NoAnswer,
    /// No second-stage width that the driver has tables for, and no first-stage tables (ECAP.FSTS), or none wanted.
    NoWidth,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Skipped::NoBase => "the DMAR table gives no usable register base",
            Skipped::NotMapped => "the platform did not map its registers",
            Skipped::NoAnswer => "its registers read all zeros or all ones",
            Skipped::NoWidth => {
                "it offers no second-stage page-table width, and no first-stage tables that may be used"
            }
        })
    }
}

/// Where the DMAR table says that a unit is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) id: UnitId,
    pub(crate) segment: u16,
    pub(crate) base: Option<Hpa>,
    /// Bytes of registers that the table promises, at least a page.
    pub(crate) window: u64,
    pub(crate) node: Option<u32>,
    /// Bits of a physical address.
    pub(crate) width: u8,
    /// What becomes of it where it is on.
    pub(crate) found: TakeOver,
}

impl Place {
    pub(crate) fn of(u: &crate::dmar::Unit, width: u8, found: TakeOver) -> Self {
        Place { id: u.id, segment: u.segment, base: u.base, window: u.window, node: u.node, width, found }
    }
}

/// The tables that a unit runs on.
fn mode(wanted: Tables, ecap: Ecap) -> Result<TableMode, ErrorKind> {
    let scalable = ecap.smts() && ecap.qi();
    let tables = ecap.ssts() || ecap.fsts();
    match wanted {
        Tables::Scalable if scalable && (tables || ecap.pt()) => Ok(TableMode::Scalable),
        Tables::Scalable => Err(ErrorKind::Unsupported(Need::ScalableMode)),
        Tables::Best if scalable && tables => Ok(TableMode::Scalable),
        Tables::Best | Tables::Legacy => Ok(TableMode::Legacy),
    }
}

impl<P: Platform> Unit<P> {
    /// Finds the unit and reads what it can do; nothing is written to it.
    pub(crate) fn probe(h: &Host<P>, place: Place, errata: Errata) -> Result<Result<Self, Skipped>, Error> {
        let Some(base) = place.base else { return Ok(Err(Skipped::NoBase)) };
        let Ok(mut regs) = h.platform.registers(base, place.window.max(4096)) else {
            return Ok(Err(Skipped::NotMapped));
        };
        let version = Version(regs.read32(at::VER));
        let (cap, ecap) = (Cap(regs.read64(at::CAP)), Ecap(regs.read64(at::ECAP)));
        let caps = Capabilities { version, cap, ecap };
        if !caps.plausible() {
            return Ok(Err(Skipped::NoAnswer));
        }
        // A unit of first-stage tables alone has no width for others.
        let first = ecap.smts() && ecap.qi() && ecap.fsts() && h.config.tables != Tables::Legacy;
        if cap.widest().is_none() && !first {
            return Ok(Err(Skipped::NoWidth));
        }
        let window = u64::from(caps.window());
        if window > place.window.max(4096) {
            match h.platform.registers(base, window.next_multiple_of(4096)) {
                Ok(larger) => regs = larger,
                Err(_) => return Ok(Err(Skipped::NotMapped)),
            }
        }
        Self::build(h, place, base, caps, errata, regs).map(Ok).map_err(|e| e.on(place.id))
    }

    /// Allocates all that the unit needs before anything of it is turned on.
    fn build(
        h: &Host<P>,
        place: Place,
        base: Hpa,
        caps: Capabilities,
        errata: Errata,
        regs: P::Registers,
    ) -> Result<Self, ErrorKind> {
        let (p, node) = (&h.platform, place.node);
        let own = || Foreign::none(p, mode(h.config.tables, caps.ecap)?, caps, node);
        let (tables, adopted, fell_back) = match take_over::look(p, &regs, caps, &place)? {
            Look::Tables(found) => {
                let adopted = found.adopted;
                (found, Some(adopted), None)
            }
            Look::Nothing => (own()?, None, None),
            Look::Broken(why) => (own()?, None, Some(why)),
        };
        let mode = tables.mode;
        let faults = match FaultLog::new(p, node) {
            Ok(faults) => faults,
            Err(e) => {
                tables.release(p);
                return Err(e);
            }
        };
        let scalable = mode == TableMode::Scalable;
        let demanded = scalable || caps.version.major() >= 6;
        // Abort-DMA mode wants wide descriptors as scalable mode does, and legacy mode takes them from units that have it.
        let width = if scalable || caps.ecap.adms() { DescriptorWidth::Bits256 } else { DescriptorWidth::Bits128 };
        let wanted = caps.ecap.qi() && (h.config.queue || demanded);
        let queue = match wanted
            .then(|| Queue::new(p, (place.id, place.segment), (h.config.queue_order, width), caps.ecap.dt(), node))
            .transpose()
        {
            Ok(queue) => queue,
            Err(e) => {
                faults.release(p);
                tables.release(p);
                return Err(e);
            }
        };
        Ok(Unit {
            id: place.id,
            segment: place.segment,
            base,
            caps,
            errata,
            mode,
            write_buffer: caps.cap.rwbf() || errata.contains(Errata::WRITE_BUFFER),
            regs,
            commands: Turn::new(),
            phase: AtomicU32::new(phase::OFF),
            doubted: AtomicU32::new(0),
            wide_flushes: AtomicU64::new(0),
            queue,
            faults,
            ids: Lock::new(Rank::Entries, tables.ids),
            root: Lock::new(Rank::Entries, tables.root),
            pass_through: tables.pass_through,
            adopted,
            fell_back,
            kept: Lock::new(Rank::Leaf, Kept::default()),
        })
    }

    /// What is on.
    pub(crate) fn on(&self) -> Result<Gsts, Error> {
        Ok(self.status()? & (Gsts::TES | Gsts::QIES | Gsts::IRES))
    }

    /// Deals with a unit that is on already, and clears what it recorded before. Says what was found on.
    pub(crate) fn quiet(&self, h: &Host<P>, found: TakeOver) -> Result<Gsts, Error> {
        if self.shielded() {
            return Ok(Gsts::empty());
        }
        let on = self.on()?;
        if !on.is_empty() && found == TakeOver::Refuse {
            return Err(ErrorKind::State(State::FoundOn).on(self.id));
        }
        let goes_on = found == TakeOver::Adopt && self.fell_back.is_none();
        let aborts = goes_on && self.has_shield() && self.aborts();
        self.phase.store(phase::TAKEN, Ordering::Release);
        if on.contains(Gsts::IRES) && !goes_on {
            self.command(h, Command::InterruptRemapping(false))?;
        }
        if on.contains(Gsts::TES) && !(goes_on && self.adopted.is_some()) && !aborts {
            self.command(h, Command::Translation(false))?;
        }
        self.silence(h, on)?;
        if on.contains(Gsts::TES) && aborts {
            self.phase.store(phase::SHIELDED, Ordering::Release);
        }
        Ok(on)
    }

    /// Turns off a queue that is not ours, and has the unit's events masked and cleared.
    pub(super) fn silence(&self, h: &Host<P>, on: Gsts) -> Result<(), Error> {
        if on.contains(Gsts::QIES) {
            // The predecessor's descriptors are in memory that it may still own: let them run out first. A queue that stopped
            // at an error never drains and takes no tail; what it left undone is part of our global invalidations.
            let timeout = ErrorKind::Timeout(Step::Drain).on(self.id);
            let limit = h.config.command_deadline;
            self.until(h, limit, timeout, |u| {
                let stopped = Fsts::from_bits_retain(u.regs.read32(at::FSTS)).contains(Fsts::IQE);
                Ok(stopped || u.regs.read64(at::IQH) == u.regs.read64(at::IQT))
            })?;
            self.command(h, Command::Queue(false))?;
        }
        self.mask(at::FECTL);
        if self.caps.ecap.qi() {
            self.mask(at::IECTL);
        }
        for at in (0..self.caps.cap.nfr()).filter_map(|i| self.caps.fault_record(i)) {
            self.regs.write32(at + FaultRecord::LAST_DWORD, FaultRecord::CLEAR);
        }
        // What a unit lacks is reserved, and written as zero (VT-d 11.4.7.1).
        let mut clear = Fsts::PFO;
        clear.set(Fsts::IQE, self.caps.ecap.qi());
        clear.set(Fsts::ICE | Fsts::ITE, self.caps.ecap.dt());
        self.regs.write32(at::FSTS, clear.bits());
        Ok(())
    }

    /// Turns the queue on, where the unit has one and it is wanted.
    pub(crate) fn start_queue(&self, h: &Host<P>) -> Result<(), Error> {
        let Some(q) = &self.queue else { return Ok(()) };
        // Ours already, where the unit was shielded.
        if self.status()?.contains(Gsts::QIES) {
            return Ok(());
        }
        // A tail left over from before would be taken as descriptors to fetch.
        self.regs.write64(at::IQT, 0);
        let address = q.address(&h.platform).0;
        self.regs.write64(at::IQA, address);
        self.command(h, Command::Queue(true))?;
        // Only now: QEMU's unit shows no base before. Nothing is queued yet, so nothing is read from a wrong place.
        let taken = self.reads(at::IQA, address, Step::Queue);
        if taken.is_err() {
            let _ = self.command(h, Command::Queue(false));
        }
        taken
    }

    /// Writes a register that says where the unit reads memory: one that does not take it is not to go by it.
    fn put(&self, at: u32, v: u64, step: Step) -> Result<(), Error> {
        self.regs.write64(at, v);
        self.reads(at, v, step)
    }

    /// An error where a register does not read as it was written.
    pub(super) fn reads(&self, at: u32, v: u64, step: Step) -> Result<(), Error> {
        match self.regs.read64(at) {
            now if now == v => Ok(()),
            u64::MAX => Err(ErrorKind::UnitGone.on(self.id)),
            _ => Err(ErrorKind::Unverified(step).on(self.id)),
        }
    }

    /// Has the unit take its root table, all entries absent but those written before, and drop what it cached. Not yet where
    /// it blocks everything until firmware's regions are mapped (`leave_shield`).
    pub(crate) fn start_root(&self, h: &Host<P>) -> Result<(), Error> {
        if self.shielded() {
            return Ok(());
        }
        self.latch_tables(h)
    }

    pub(super) fn latch_tables(&self, h: &Host<P>) -> Result<(), Error> {
        // Tables that take over under translation are in memory before the unit reads them.
        if self.status()?.contains(Gsts::TES) {
            self.flush_write_buffer(h)?;
        }
        let table = self.root.lock(&h.platform).hpa(&h.platform);
        self.latch(h, RootPointer::new(table.get(), self.mode))
    }

    /// Has the unit go by this root pointer, and drop what it cached.
    pub(super) fn latch(&self, h: &Host<P>, root: RootPointer) -> Result<(), Error> {
        self.put(at::RTADDR, root.0, Step::RootPointer)?;
        self.command(h, Command::RootPointer)?;
        // Also where SRTP does it itself (CAP.ESRTPS): it shows that the queue works before anything depends on it, and a
        // queue that has completed no wait cannot be turned off (VT-d 6.5.2.1).
        let mut all = Batch::new();
        self.add_everything(&mut all);
        self.invalidate(h, &all)
    }

    /// Leads the unit's interrupts to the platform. `false` where the platform has no message to give: faults are then
    /// found by `service` alone.
    pub(crate) fn start_events(&self, h: &Host<P>) -> bool {
        let faults = self.lead(h, at::FECTL, Event::Fault);
        self.faults.collect(h, self);
        if self.queue.is_some() && h.config.completion_interrupt {
            self.lead(h, at::IECTL, Event::Invalidation);
        }
        faults
    }

    fn lead(&self, h: &Host<P>, control: u32, e: Event) -> bool {
        let Ok(m) = h.platform.event(self.id, e) else { return false };
        self.set_event(control, EventMessage::new(m.address, m.data));
        true
    }

    /// Has an event raise this message.
    pub(super) fn set_event(&self, control: u32, m: EventMessage) {
        self.regs.write32(control + at::EVENT_DATA, m.data);
        self.regs.write32(control + at::EVENT_ADDRESS, m.address);
        self.regs.write32(control + at::EVENT_UPPER, m.upper);
        let was = EventControl::from_bits_retain(self.regs.read32(control));
        self.regs.write32(control, (was & !EventControl::IM).bits());
    }

    pub(super) fn mask(&self, control: u32) {
        let was = EventControl::from_bits_retain(self.regs.read32(control));
        self.regs.write32(control, (was | EventControl::IM).bits());
    }

    /// Translation on; then protected memory off, which would go on blocking. Says whether it was on.
    pub(crate) fn start_translation(&self, h: &Host<P>) -> Result<bool, Error> {
        self.flush_write_buffer(h)?;
        if !self.status()?.contains(Gsts::TES) {
            self.command(h, Command::Translation(true))?;
        }
        let was = self.protected_memory_off(h)?;
        self.kept.lock(&h.platform).protecting = false;
        self.phase.store(phase::TRANSLATING, Ordering::Release);
        Ok(was)
    }

    /// Turns everything off again, in the opposite order, where the unit was taken over. Devices must be quiet. A unit that
    /// is gone counts as off; its memory stays owned.
    pub(crate) fn stop(&self, h: &Host<P>) -> Result<(), Error> {
        if matches!(self.phase.load(Ordering::Acquire), phase::OFF | phase::REMOVED) {
            return Ok(());
        }
        self.phase.store(phase::TAKEN, Ordering::Release);
        match self.turn_off(h) {
            Err(e) if e.kind == ErrorKind::UnitGone => self.doubted.store(u32::MAX, Ordering::Release),
            other => other?,
        }
        self.phase.store(phase::OFF, Ordering::Release);
        Ok(())
    }

    /// Turns it off for good; where it is gone already, as it is.
    pub(crate) fn remove(&self, h: &Host<P>) -> Result<(), Error> {
        self.stop(h)?;
        self.phase.store(phase::REMOVED, Ordering::Release);
        Ok(())
    }

    /// Whether it was taken out of the machine.
    pub(crate) fn removed(&self) -> bool {
        self.phase.load(Ordering::Acquire) == phase::REMOVED
    }

    fn turn_off(&self, h: &Host<P>) -> Result<(), Error> {
        if self.status()?.contains(Gsts::TES) {
            self.command(h, Command::Translation(false))?;
        }
        if core::mem::take(&mut self.kept.lock(&h.platform).protecting) {
            self.protected_memory_off(h)?;
        }
        // Of a predecessor; whoever comes next finds nothing on.
        if self.status()?.contains(Gsts::IRES) {
            self.flush_interrupts(h)?;
            self.command(h, Command::InterruptRemapping(false))?;
        }
        self.queue_off(h)
    }

    /// No more events, and the queue off when it has drained.
    pub(super) fn queue_off(&self, h: &Host<P>) -> Result<(), Error> {
        self.mask(at::FECTL);
        if self.queue.is_some() {
            self.mask(at::IECTL);
            if self.status()?.contains(Gsts::QIES) {
                let timeout = ErrorKind::Timeout(Step::Drain).on(self.id);
                self.until(h, h.config.command_deadline, timeout, |u| {
                    // An error that nobody waits for would keep it from draining.
                    u.tend_queue(h)?;
                    Ok(u.regs.read64(at::IQH) == u.regs.read64(at::IQT))
                })?;
                self.command(h, Command::Queue(false))?;
            }
        }
        Ok(())
    }
}
