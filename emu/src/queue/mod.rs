//! The invalidation queue (6.5.2, 11.4.9): its registers, fetching, and how it stands still.

mod descriptor;
mod execute;
#[cfg(test)]
mod tests;

use crate::bus::{Bus, Snoop};
use crate::command::QIE;
use crate::events::Event;
use crate::faults::{IQE, ITE};
use crate::invalidation::Invalidation;
use crate::oracle::Rule;
use crate::state::Mode;
use crate::story::Happening;
use crate::unit::Unit;
use alloc::vec::Vec;
use descriptor::{Act, Cause, decode};
use execute::Flight;

/// The queue's registers and what is in flight.
#[derive(Clone, Debug)]
pub(crate) struct Queue {
    /// IQH and IQT.
    pub(crate) head: u32,
    pub(crate) tail: u32,
    /// IQA.
    pub(crate) iqa: u64,
    pub(crate) iqa_written: bool,
    /// ICS.IWC.
    pub(crate) complete: bool,
    pub(crate) event: Event,
    /// IQERCD.
    pub(crate) error: u64,
    /// Fetched and not completed, oldest first.
    flights: Vec<Flight>,
    /// How many waits were fetched.
    segment: u64,
    /// Something other than a wait has completed, or was given up, since the last wait did.
    unawaited: bool,
    /// The ITag to try first.
    next_tag: u8,
}

impl Default for Queue {
    fn default() -> Self {
        Queue {
            head: 0,
            tail: 0,
            iqa: 0,
            iqa_written: false,
            complete: false,
            event: Event::new(),
            error: 0,
            flights: Vec::new(),
            segment: 0,
            unawaited: false,
            next_tag: 0,
        }
    }
}

impl Queue {
    /// Whether head and tail are the same: nothing is left to fetch.
    pub(crate) fn is_empty(&self) -> bool {
        self.head == self.tail
    }
    /// Whether nothing is in flight, and a wait was the last to complete (6.5.2).
    pub(crate) fn is_quiet(&self) -> bool {
        self.flights.is_empty() && !self.unawaited
    }
    /// DW.
    fn wide(&self) -> bool {
        self.iqa & 1 << 11 != 0
    }
    /// Bytes.
    fn size(&self) -> u32 {
        4096 << (self.iqa & 7)
    }
    /// Where it is, and its size in bytes.
    pub(crate) fn memory(&self) -> (u64, u64) {
        (self.iqa & !0xfff, self.size().into())
    }
    /// Where waits in flight will write their statuses.
    pub(crate) fn statuses(&self) -> impl Iterator<Item = u64> {
        self.flights.iter().filter_map(|flight| flight.wait()?.status).map(|(at, _)| at)
    }
    /// The invalidations of the unit's caches that are in flight.
    pub(crate) fn invalidations(&self) -> impl Iterator<Item = Invalidation> {
        self.flights.iter().filter_map(|flight| flight.invalidation())
    }
    /// QIES goes to 0. What is in flight goes on.
    pub(crate) fn stop(&mut self) {
        self.head = 0;
        self.unawaited = false;
    }
}

impl Unit {
    /// A write of IQT.
    pub(crate) fn write_tail(&mut self, v: u32) {
        let queue = &mut self.queue;
        let (size, was) = (queue.size(), queue.tail);
        queue.tail = v;
        let room = queue.head.wrapping_sub(was).wrapping_sub(1) & (size - 1);
        if self.commands.status & QIE != 0 && v.wrapping_sub(was) & (size - 1) > room {
            let head = self.queue.head;
            self.breach(Rule::QueueOverrun, format_args!("IQT from {was:#x} to {v:#x} with IQH at {head:#x}"));
        }
    }

    /// One step of the queue; whether more of them bring more.
    pub(crate) fn step_queue(&mut self, bus: &mut dyn Bus) -> bool {
        if self.adversary.stuck_queue {
            return self.fetch(bus);
        }
        let polled = self.poll_devices(bus);
        let before = self.execute(bus);
        let fetched = self.fetch(bus);
        let after = fetched && self.execute(bus);
        polled || before || fetched || after
    }

    /// Fetches what a step fetches; whether there was anything.
    fn fetch(&mut self, bus: &mut dyn Bus) -> bool {
        let mut any = false;
        for _ in 0..self.pace.fetch {
            let enabled = self.commands.status & QIE != 0 && !self.faults.has(IQE | ITE);
            if !enabled || self.queue.is_empty() || self.queue.flights.len() >= self.pace.in_flight as usize {
                break;
            }
            any = true;
            if let Err(cause) = self.fetch_one(bus) {
                if self.profile.error_record {
                    self.queue.error = self.queue.error & !0xf | cause as u64;
                }
                self.tell(Happening::Refused(self.queue.head.into(), cause as u8));
                self.report(bus, IQE);
            }
        }
        any
    }

    fn fetch_one(&mut self, bus: &mut dyn Bus) -> Result<(), Cause> {
        let (wide, size, mode) = (self.queue.wide(), self.queue.size(), self.state.mode);
        let width = if wide { 32 } else { 16 };
        let exists = match mode {
            Mode::Legacy => true,
            Mode::Scalable => self.profile.smts(),
            Mode::Abort => self.profile.adms(),
            Mode::Reserved => false,
        };
        let fitting = match wide {
            true => self.profile.smts() || self.profile.adms(),
            false => mode == Mode::Legacy,
        };
        for (good, cause) in [
            (exists, Cause::Mode),
            (fitting, Cause::Width),
            (self.queue.tail.is_multiple_of(width), Cause::Alignment),
            (self.queue.tail < size, Cause::Tail),
        ] {
            if !good {
                return Err(cause);
            }
        }
        let head = self.queue.head & (size - 1) & !(width - 1);
        self.queue.head = head;
        let at = (self.queue.iqa & !0xfff).wrapping_add(head.into());
        let [q0, q1] = bus.read128(at, Snoop::Yes).ok_or(Cause::Fetch)?;
        let [q2, q3] = match wide {
            true => bus.read128(at.wrapping_add(16), Snoop::Yes).ok_or(Cause::Fetch)?,
            false => [0; 2],
        };
        if self.adversary.spoils() {
            return Err(Cause::Reserved);
        }
        let descriptor = decode([q0, q1, q2, q3], wide, &self.profile, mode)?;
        self.queue.head = (head + width) & (size - 1);
        self.tell(Happening::Fetched(head.into(), [q0, q1]));
        match &descriptor.act {
            Act::Forget(what) => self.watch_queued(bus, what),
            Act::Device { request, .. } => self.watch_queued_device(bus, request),
            Act::Wait(wait) => {
                self.watch_queued_wait(bus);
                if let Some((address, _)) = wait.status {
                    self.watch_status(bus, address);
                }
            }
            Act::Respond(_) => {}
        }
        let left = self.draw(self.pace.descriptor);
        self.queue.admit(Flight::new(head, descriptor, left));
        Ok(())
    }
}
