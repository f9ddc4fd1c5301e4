//! One unit through a suspend of the machine, and back (VT-d 11.4.4, 6.6): registers may be lost meanwhile, or changed by
//! firmware, and nothing of the unit is believed before it reads back.

use super::command::Command;
use super::invalidate::Batch;
use super::{Host, Unit, phase};
use crate::host::error::{Error, ErrorKind, State, Step};
use crate::host::platform::{Platform, Registers};
use crate::host::sync::Ordering;
use crate::hw::capabilities::{Cap, Capabilities, Ecap, Version};
use crate::hw::descriptors::Descriptor;
use crate::hw::registers::{EventControl, EventMessage, Gsts, RootPointer, at};

/// What is in registers alone while a unit runs.
#[derive(Clone, Copy, Default)]
pub(crate) struct Kept {
    /// The messages of faults and of completions, where they are not masked.
    faults: Option<EventMessage>,
    completions: Option<EventMessage>,
    remapping: Option<Remapping>,
    /// Protected memory covers everything, until translation is on (`leave_shield`).
    pub(super) protecting: bool,
}

/// Interrupt remapping that is on: IRTA, and whether interrupts of compatibility format pass.
#[derive(Clone, Copy)]
struct Remapping {
    table: u64,
    compatible: bool,
}

impl<P: Platform> Unit<P> {
    /// Whether `suspend` was begun and `resume` has not come to its end.
    pub(crate) fn suspended(&self) -> bool {
        self.phase.load(Ordering::Acquire) == phase::SUSPENDED
    }

    /// What keeps it from blocking anything just now.
    pub(crate) fn idle(&self) -> State {
        if self.suspended() { State::Suspended } else { State::NotUp }
    }

    /// Turns translation and queue off and remembers what only registers hold. Its devices must be quiet. What was begun and
    /// failed goes on where it stopped. Interrupt remapping stays as it is. Waits, with deadlines.
    pub(crate) fn suspend(&self, h: &Host<P>) -> Result<(), Error> {
        match self.phase.load(Ordering::Acquire) {
            phase::OFF => return Err(ErrorKind::State(State::NotUp).on(self.id)),
            phase::TRANSLATING => {
                let status = self.status()?;
                self.faults.collect(h, self);
                *self.kept.lock(&h.platform) = self.keep(status);
                self.phase.store(phase::TAKEN, Ordering::Release);
            }
            _ => {}
        }
        if self.status()?.contains(Gsts::TES) {
            self.command(h, Command::Translation(false))?;
        }
        // From now on it fills no cache: what is in them goes, and there is nothing left to flush.
        if !self.suspended() {
            let mut all = Batch::new();
            self.add_everything(&mut all);
            self.invalidate(h, &all)?;
            self.phase.store(phase::SUSPENDED, Ordering::Release);
        }
        self.queue_off(h)
    }

    fn keep(&self, status: Gsts) -> Kept {
        let compatible = status.contains(Gsts::CFIS);
        let remapping = status.contains(Gsts::IRES);
        Kept {
            faults: self.event(at::FECTL),
            completions: self.queue.as_ref().and_then(|_| self.event(at::IECTL)),
            protecting: false,
            remapping: remapping.then(|| Remapping { table: self.regs.read64(at::IRTA), compatible }),
        }
    }

    /// The message of an event; `None` where it is masked.
    fn event(&self, control: u32) -> Option<EventMessage> {
        let masked = EventControl::from_bits_retain(self.regs.read32(control)).contains(EventControl::IM);
        (!masked).then(|| EventMessage {
            data: self.regs.read32(control + at::EVENT_DATA),
            address: self.regs.read32(control + at::EVENT_ADDRESS),
            upper: self.upper(control),
        })
    }

    /// The upper half of an event's address, which units without 32-bit APIC ids need not have.
    fn upper(&self, control: u32) -> u32 {
        if self.caps.ecap.eim() { self.regs.read32(control + at::EVENT_UPPER) } else { 0 }
    }

    fn resumed(&self) -> bool {
        self.phase.load(Ordering::Acquire) == phase::TRANSLATING
    }

    /// The first step of a resume: it is the unit that it was, and whatever firmware turned on is off again.
    pub(crate) fn wake_up(&self, h: &Host<P>) -> Result<(), Error> {
        if self.resumed() {
            return Ok(());
        }
        let on = self.status()?;
        let (version, cap) = (Version(self.regs.read32(at::VER)), Cap(self.regs.read64(at::CAP)));
        if (Capabilities { version, cap, ecap: Ecap(self.regs.read64(at::ECAP)) }) != self.caps {
            return Err(ErrorKind::UnitChanged.on(self.id));
        }
        if self.phase.swap(phase::SUSPENDED, Ordering::AcqRel) == phase::OFF {
            self.phase.store(phase::OFF, Ordering::Release);
            return Err(ErrorKind::State(State::NotUp).on(self.id));
        }
        if on.contains(Gsts::TES) {
            self.command(h, Command::Translation(false))?;
        }
        self.silence(h, on)
    }

    /// The second: the queue, empty; then interrupt remapping, where it was on.
    pub(crate) fn restart_queue(&self, h: &Host<P>) -> Result<(), Error> {
        if self.resumed() {
            return Ok(());
        }
        if let Some(q) = &self.queue {
            q.reset(h, self);
        }
        self.start_queue(h)?;
        // From now on what is asked for is carried out.
        self.phase.store(phase::TAKEN, Ordering::Release);
        let kept = *self.kept.lock(&h.platform);
        kept.remapping.map_or(Ok(()), |r| self.restore_remapping(h, r))
    }

    fn restore_remapping(&self, h: &Host<P>, was: Remapping) -> Result<(), Error> {
        let on = self.status()?;
        let same = self.regs.read64(at::IRTA) == was.table && on.contains(Gsts::CFIS) == was.compatible;
        if on.contains(Gsts::IRES) && same {
            return Ok(());
        }
        if on.contains(Gsts::IRES) {
            self.command(h, Command::InterruptRemapping(false))?;
        }
        self.regs.write64(at::IRTA, was.table);
        self.command(h, Command::InterruptTable)?;
        self.flush_interrupts(h)?;
        if on.contains(Gsts::CFIS) != was.compatible {
            self.command(h, Command::CompatibilityInterrupts(was.compatible))?;
        }
        self.command(h, Command::InterruptRemapping(true))
    }

    /// Has the unit drop what it cached of the interrupt remapping table. Units with such tables have a queue, and where the
    /// host wants it unused ESIRTPS or the next table has to do.
    pub(super) fn flush_interrupts(&self, h: &Host<P>) -> Result<(), Error> {
        match &self.queue {
            Some(q) if self.status()?.contains(Gsts::QIES) => {
                q.wait(h, self, q.submit(h, self, 1, |_| Descriptor::iec_global())?)
            }
            _ => Ok(()),
        }
    }

    /// The third: root table, nothing cached of what was before, and events.
    pub(crate) fn restore_tables(&self, h: &Host<P>) -> Result<(), Error> {
        if self.resumed() {
            return Ok(());
        }
        self.start_root(h)?;
        let kept = *self.kept.lock(&h.platform);
        for (control, message) in [(at::FECTL, kept.faults), (at::IECTL, kept.completions)] {
            if let Some(m) = message {
                self.set_event(control, m);
            }
        }
        self.faults.collect(h, self);
        Ok(())
    }

    /// The last: everything reads back as it was written, and translation is on.
    pub(crate) fn restore_translation(&self, h: &Host<P>) -> Result<(), Error> {
        if self.resumed() {
            return Ok(());
        }
        self.verify(h)?;
        self.start_translation(h).map(drop)
    }

    fn verify(&self, h: &Host<P>) -> Result<(), Error> {
        let on = self.status()?;
        let check = |same: bool, step| if same { Ok(()) } else { Err(ErrorKind::Unverified(step).on(self.id)) };
        let kept = *self.kept.lock(&h.platform);
        if let Some(q) = &self.queue {
            self.reads(at::IQA, q.address(&h.platform).0, Step::Queue)?;
            check(on.contains(Gsts::QIES), Step::Queue)?;
            check(self.event(at::IECTL) == kept.completions, Step::Message)?;
        }
        let root = RootPointer::new(self.root.lock(&h.platform).hpa(&h.platform).get(), self.mode);
        self.reads(at::RTADDR, root.0, Step::RootPointer)?;
        check(on.contains(Gsts::RTPS), Step::RootPointer)?;
        check(self.event(at::FECTL) == kept.faults, Step::Message)?;
        let Some(remapping) = kept.remapping else { return Ok(()) };
        self.reads(at::IRTA, remapping.table, Step::InterruptRemapping)?;
        check(on.contains(Gsts::IRES), Step::InterruptRemapping)
    }
}
