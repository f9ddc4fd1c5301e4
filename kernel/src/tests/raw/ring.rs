//! An invalidation queue driven by hand.

use super::frame::Frame;
use super::unit::RawUnit;
use crate::testing::{Failure, Outcome};
use crate::time::wait_until;
use crate::{check, println};
use vtd::hw::descriptors::{Descriptor, WaitFlags};
use vtd::hw::invalidation::{DescriptorWidth, Ics, Iqa};
use vtd::hw::registers::{Fsts, Gcmd, at};
use vtd::{Nanos, Registers};

const PATIENCE: Nanos = Nanos::millis(2000);

/// The queue, on. Off again when it is dropped.
pub struct Ring<'a> {
    unit: &'a RawUnit,
    slots: Frame,
    /// Where waits write.
    status: Frame,
    pub width: DescriptorWidth,
    entries: u32,
    tail: u32,
    /// What the last wait writes.
    ticket: u32,
}

impl<'a> Ring<'a> {
    /// A queue of `2^order` pages.
    pub fn new(unit: &'a RawUnit, width: DescriptorWidth, order: u8) -> Result<Self, Failure> {
        check!(unit.capabilities.ecap.qi(), "the unit has no invalidation queue");
        let (slots, status) = (Frame::run(order)?, Frame::new()?);
        let address = Iqa::new(slots.address(), width, order);
        unit.registers.write64(at::IQT, 0);
        unit.registers.write64(at::IQA, address.0);
        unit.command(Gcmd::QIE, true)?;
        Ok(Ring { unit, slots, status, width, entries: address.entries(), tail: 0, ticket: 0 })
    }

    /// Slots in the queue.
    pub fn entries(&self) -> u32 {
        self.entries
    }

    /// The slot that the unit fetches next.
    pub fn head(&self) -> u32 {
        self.width.index(self.unit.registers.read64(at::IQH))
    }

    /// The slot that is written next.
    pub fn tail(&self) -> u32 {
        self.tail
    }

    /// Stores a descriptor in slot `i`.
    pub fn store(&self, i: u32, d: Descriptor) {
        let words = self.width.bytes() as usize / 8;
        for (n, word) in d.0.iter().take(words).enumerate() {
            self.slots.set(i as usize * words + n, *word);
        }
    }

    /// Appends a descriptor, which the unit does not see before `ring`.
    pub fn push(&mut self, d: Descriptor) {
        self.store(self.tail, d);
        self.tail = (self.tail + 1) % self.entries;
    }

    /// A wait that writes the next number.
    pub fn next_wait(&mut self, flags: WaitFlags) -> Descriptor {
        self.ticket += 1;
        Descriptor::wait(flags, Some((self.status.address(), self.ticket)))
    }

    /// Shows the unit what was appended.
    pub fn ring(&self) {
        self.unit.registers.write64(at::IQT, self.width.offset(self.tail));
    }

    /// What the last completed wait has written.
    pub fn status(&self) -> u32 {
        self.status.get(0) as u32
    }

    /// What the next wait will write.
    pub fn expected(&self) -> u32 {
        self.ticket
    }

    /// Waits until the last wait has written.
    pub fn finish(&self) -> Outcome {
        let done = wait_until(PATIENCE, || self.status() == self.ticket);
        check!(done, "{} of {}, {:?}", self.status(), self.ticket, self.unit.fsts());
        Ok(())
    }

    /// Has the unit carry out one descriptor.
    pub fn run(&mut self, d: Descriptor) -> Outcome {
        self.push(d);
        let wait = self.next_wait(WaitFlags::empty());
        self.push(wait);
        self.ring();
        self.finish()
    }

    /// Goes on behind a descriptor that the unit does not take: a wait of no consequence takes its place. Clearing the
    /// error does not make every unit fetch again, but the tail's write does.
    pub fn recover(&mut self) -> Outcome {
        self.store(self.head(), Descriptor::wait(WaitFlags::empty(), Some((self.status.address() + 4, 0))));
        let wait = self.next_wait(WaitFlags::empty());
        self.push(wait);
        self.unit.registers.write32(at::FSTS, Fsts::IQE.bits());
        self.ring();
        self.finish()
    }
}

impl Drop for Ring<'_> {
    fn drop(&mut self) {
        self.unit.mask_event(at::IECTL, true);
        self.unit.registers.write32(at::ICS, Ics::IWC.bits());
        let stopped = self.unit.fsts().contains(Fsts::IQE);
        let recovered = !stopped || self.recover().is_ok();
        // A queue goes off when it is empty and a wait was its last.
        let wait = self.next_wait(WaitFlags::empty());
        self.push(wait);
        self.ring();
        if !recovered || self.finish().is_err() || self.unit.command(Gcmd::QIE, false).is_err() {
            // The next test to open the unit fails and says so.
            println!("the invalidation queue does not go off");
            self.slots.lose();
            self.status.lose();
        }
    }
}
