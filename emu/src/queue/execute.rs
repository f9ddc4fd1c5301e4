//! Executing descriptors: in which order (6.5.2.12, 7.8), device TLBs and their tags, completion, time-outs (6.5.2.9 to
//! 6.5.2.11). An effect comes as late as it may: when the descriptor completes.

use super::Queue;
use super::descriptor::{Act, Class, Descriptor, Wait};
use crate::bus::Bus;
use crate::faults::{ICE, ITE};
use crate::invalidation::Invalidation;
use crate::oracle::Rule;
use crate::request::SourceId;
use crate::story::Happening;
use crate::unit::Unit;

/// A descriptor that was fetched and has not completed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flight {
    /// Where in the queue.
    offset: u32,
    what: Descriptor,
    /// How many waits came before; a wait itself ends its segment.
    segment: u64,
    /// Steps to go once its turn has come.
    left: u32,
    /// An invalidation on its way to a device: its tag, and when it has timed out.
    sent: Option<(u8, u64)>,
}

impl Flight {
    pub(super) fn new(offset: u32, what: Descriptor, left: u32) -> Self {
        Flight { offset, what, segment: 0, left, sent: None }
    }
    pub(super) fn wait(&self) -> Option<&Wait> {
        match &self.what.act {
            Act::Wait(wait) => Some(wait),
            _ => None,
        }
    }
    pub(super) fn invalidation(&self) -> Option<Invalidation> {
        match self.what.act {
            Act::Forget(what) => Some(what),
            _ => None,
        }
    }
    /// Whether a later descriptor must not begin before this one has completed; in order, only what is on its way to a device
    /// is overtaken.
    fn holds_back(&self, later: &Flight, disorder: bool) -> bool {
        if self.wait().is_some_and(|wait| wait.fence) {
            return true;
        }
        if !disorder && self.sent.is_none() {
            return true;
        }
        let messages = [Class::DeviceTlb, Class::PasidDeviceTlb, Class::GroupResponse];
        match (later.what.class, self.what.class) {
            (Class::Wait, _) => self.segment == later.segment,
            (Class::Iotlb | Class::PasidIotlb, Class::ContextCache | Class::PasidCache) => true,
            (Class::PasidCache, Class::ContextCache) => true,
            (Class::DeviceTlb, Class::Iotlb | Class::InterruptEntries) => true,
            (Class::PasidDeviceTlb, Class::Iotlb | Class::PasidIotlb | Class::InterruptEntries) => true,
            // What is sent to devices leaves in order.
            (later, earlier) => messages.contains(&later) && messages.contains(&earlier) && self.sent.is_none(),
        }
    }
}

impl Queue {
    pub(super) fn admit(&mut self, mut flight: Flight) {
        flight.segment = self.segment;
        self.segment += u64::from(flight.wait().is_some());
        self.flights.push(flight);
    }

    /// Whether it is for devices to go on.
    pub(crate) fn awaits_devices(&self) -> bool {
        self.flights.iter().any(|f| f.sent.is_some())
    }

    /// Whether the turn of a descriptor has come.
    fn may_begin(&self, at: usize, disorder: bool) -> bool {
        let (earlier, rest) = self.flights.split_at(at.min(self.flights.len()));
        rest.first().is_some_and(|f| !earlier.iter().any(|e| e.holds_back(f, disorder)))
    }

    /// A tag that is free, if the limits allow one more invalidation: that of the unit, and that of the physical function where
    /// the descriptors tell it (ECAP.DIT).
    fn tag(&mut self, tags: u8, function: Option<(SourceId, u8)>) -> Option<u8> {
        let tags = tags.clamp(1, 32);
        let sent = || self.flights.iter().filter(|f| f.sent.is_some());
        if let Some((source, limit)) = function.filter(|(_, limit)| *limit != 0) {
            let same = |f: &&Flight| matches!(f.what.act, Act::Device { function, .. } if function.0 == source);
            if sent().filter(same).count() >= limit.into() {
                return None;
            }
        }
        let free = |tag: &u8| !sent().any(|f| f.sent.is_some_and(|(t, _)| t == *tag));
        let tag = (0..tags).map(|n| (self.next_tag % tags + n) % tags).find(free)?;
        self.next_tag = (tag + 1) % tags;
        Some(tag)
    }
}

impl Unit {
    /// One step for everything whose turn has come; whether anything moved.
    pub(super) fn execute(&mut self, bus: &mut dyn Bus) -> bool {
        let mut moved = false;
        let mut at = 0;
        while let Some(&flight) = self.queue.flights.get(at) {
            let waiting = flight.sent.is_some() || !self.queue.may_begin(at, self.pace.disorder);
            if waiting {
                at += 1;
            } else if flight.left != 0 {
                moved = true;
                self.alter(at, |f| f.left -= 1);
                at += 1;
            } else if let Act::Device { mut request, function } = flight.what.act {
                let function = self.profile.dit().then_some(function);
                if let Some(tag) = self.queue.tag(self.pace.tags, function) {
                    moved = true;
                    request.tag = tag;
                    let deadline = self.now.saturating_add(self.pace.timeout);
                    self.alter(at, |f| f.sent = Some((tag, deadline)));
                    bus.invalidate_device(request);
                    if self.answered(bus, request.source, tag) {
                        self.finish(bus, at);
                        continue;
                    }
                }
                at += 1;
            } else {
                moved = true;
                self.finish(bus, at);
            }
        }
        moved
    }

    fn alter(&mut self, at: usize, change: impl FnOnce(&mut Flight)) {
        if let Some(flight) = self.queue.flights.get_mut(at) {
            change(flight);
        }
    }

    fn answered(&mut self, bus: &mut dyn Bus, source: SourceId, tag: u8) -> bool {
        bus.device_invalidated(source, tag) && !self.adversary.lost_completions.contains(&source)
    }

    /// A descriptor takes effect and is complete.
    fn finish(&mut self, bus: &mut dyn Bus, at: usize) {
        if at >= self.queue.flights.len() {
            return;
        }
        let flight = self.queue.flights.remove(at);
        self.queue.unawaited = flight.wait().is_none();
        match flight.what.act {
            Act::Forget(what) => self.invalidate(bus, what),
            Act::Respond(response) => self.respond(bus, response),
            Act::Device { request, .. } => self.watch_device(&request),
            Act::Wait(wait) => self.finish_wait(bus, &wait),
        }
        self.tell(Happening::Completed(flight.offset.into()));
    }

    fn finish_wait(&mut self, bus: &mut dyn Bus, wait: &Wait) {
        if wait.drain {
            self.drain_page_requests(bus);
        }
        if let Some((address, data)) = wait.status {
            self.watch_status(bus, address);
            let interrupts = address >> 20 == 0xfee;
            if interrupts || bus.write32(address, data).is_none() {
                self.breach(Rule::StatusAddress, format_args!("{address:#x}"));
            }
        }
        if wait.interrupt && !self.queue.complete {
            self.queue.complete = true;
            self.queue.event.raise(bus);
        }
    }

    /// Asks for the completions of devices, and gives up those that are late; whether anything moved.
    pub(super) fn poll_devices(&mut self, bus: &mut dyn Bus) -> bool {
        let mut moved = false;
        let mut at = 0;
        let mut late = None;
        while let Some(&flight) = self.queue.flights.get(at) {
            match (flight.sent, flight.what.act) {
                (Some((tag, _)), Act::Device { request, .. }) if self.answered(bus, request.source, tag) => {
                    moved = true;
                    self.finish(bus, at);
                }
                (Some((_, deadline)), Act::Device { request, .. }) if self.now >= deadline => {
                    late.get_or_insert((at, request.source));
                    at += 1;
                }
                _ => at += 1,
            }
        }
        if let Some((oldest, source)) = late {
            self.time_out(bus, oldest, source);
        }
        moved
    }

    /// Invalidations have timed out (6.5.2.11): their tags are free, pending waits are given up, and nothing that stood behind
    /// the oldest pending device-TLB invalidation need have been executed.
    fn time_out(&mut self, bus: &mut dyn Bus, at: usize, source: SourceId) {
        let oldest = self.queue.flights.iter().position(|f| matches!(f.what.act, Act::Device { .. })).unwrap_or(at);
        let (now, disorder) = (self.now, self.pace.disorder);
        let mut place = 0;
        let random = &mut self.random;
        self.queue.flights.retain(|f| {
            let behind = place > oldest;
            place += 1;
            match f.sent {
                Some((_, deadline)) => deadline > now,
                None => f.wait().is_none() && !(disorder && behind && random.percent(50)),
            }
        });
        self.queue.unawaited = true;
        if self.profile.error_record && !self.faults.has(ITE) {
            self.queue.error = self.queue.error & !(0xffff << 32) | u64::from(source) << 32;
        }
        self.watch_late(source);
        self.tell(Happening::TimedOut(source));
        self.report(bus, ITE);
    }

    /// Completions arrive unasked (4.3): those that nobody waits for are an error. Up to major version 5 a unit may find that
    /// out first, and lose the others.
    pub(crate) fn complete_tags(&mut self, bus: &mut dyn Bus, source: SourceId, tags: u32) {
        let held = self.queue.flights.iter().fold(0, |held, f| match (f.what.act, f.sent) {
            (Act::Device { request, .. }, Some((tag, _))) if request.source == source => held | 1u32 << (tag & 31),
            _ => held,
        });
        let (valid, invalid) = (tags & held, tags & !held);
        if invalid == 0 || self.profile.major() > 5 || !self.pace.disorder {
            for tag in (0..32).filter(|tag| valid >> tag & 1 != 0) {
                let of = |f: &Flight| {
                    matches!(f.what.act, Act::Device { request, .. } if request.source == source)
                        && f.sent.is_some_and(|(t, _)| t == tag)
                };
                if let Some(at) = self.queue.flights.iter().position(of) {
                    self.finish(bus, at);
                }
            }
        }
        if invalid != 0 {
            if self.profile.error_record && !self.faults.has(ICE) {
                self.queue.error = self.queue.error & !(0xffff << 48) | u64::from(source) << 48;
            }
            self.report(bus, ICE);
        }
    }
}
