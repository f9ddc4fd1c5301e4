//! Page requests (7.4 to 7.7, 11.4.11): the queue that software reads, its registers and event, overflow, and what the unit
//! answers itself.

#[cfg(test)]
mod tests;

use crate::bus::{Bus, GroupResponse};
use crate::caches::Stage;
use crate::events::Event;
use crate::faults::{Record, RecordKind};
use crate::invalidation::Invalidation;
use crate::oracle::Rule;
use crate::request::{Fault, PageAnswer, PageRequest, Pasid, SourceId};
use crate::story::Happening;
use crate::unit::Unit;
use alloc::collections::{BTreeSet, VecDeque};

/// Response codes (Table 32).
const SUCCESS: u8 = 0;
const INVALID: u8 = 1;
const FAILURE: u8 = 15;

/// Bytes of a page-request descriptor.
const DESCRIPTOR: u32 = 32;
/// The bits that PQH and PQT have.
const OFFSET: u32 = 0x7_ffe0;
/// Most page requests that wait at the unit; one more pushes the first to the queue.
const INGRESS: usize = 64;
/// PRS.PPR.
const PENDING: u32 = 1;
/// PRS.PRO.
const OVERFLOW: u32 = 2;

/// What the tables say about a page request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PageRequestTarget {
    /// DID of the PASID entry.
    pub(crate) domain: u16,
    /// The PASID, RID_PASID for requests without one.
    pub(crate) pasid: Pasid,
    /// PGTT of the PASID entry.
    pub(crate) stage: Stage,
}

/// The page-request queue's registers.
#[derive(Clone, Debug)]
pub(crate) struct PageRequests {
    /// PQH and PQT: byte offsets.
    head: u32,
    tail: u32,
    /// PQA, base and PQS.
    address: u64,
    /// PRS.
    pending: bool,
    overflow: bool,
    event: Event,
    /// Requests that have come and wait for their turn, with the steps that they still take.
    received: VecDeque<(u32, PageRequest)>,
    /// Groups whose last request stands in the queue and that software has not answered.
    unanswered: BTreeSet<(SourceId, Option<Pasid>, u16)>,
}

impl Default for PageRequests {
    fn default() -> Self {
        PageRequests {
            head: 0,
            tail: 0,
            address: 0,
            pending: false,
            overflow: false,
            event: Event::new(),
            received: VecDeque::new(),
            unanswered: BTreeSet::new(),
        }
    }
}

impl PageRequests {
    /// Reads 32 bits of PQH to PEUADDR (0xc0 to 0xef). A 64-bit read is the two reads, low half first.
    pub(crate) fn read(&self, at: u32) -> u32 {
        match at {
            0xc0 => self.head,
            0xc8 => self.tail,
            0xd0 => self.address as u32,
            0xd4 => (self.address >> 32) as u32,
            0xdc => u32::from(self.pending) | (u32::from(self.overflow) << 1),
            0xe0..=0xef => self.event.read((at - 0xe0) / 4),
            _ => 0,
        }
    }

    /// Writes them. Every half of a 64-bit register takes effect when it is written; no command latches PQA.
    pub(crate) fn write(&mut self, bus: &mut dyn Bus, at: u32, v: u32) {
        match at {
            0xc0 => self.head = v & OFFSET,
            0xc8 => self.tail = v & OFFSET,
            0xd0 => self.address = self.address & !0xffff_ffff | u64::from(v & 0xffff_f007),
            0xd4 => self.address = self.address & 0xffff_ffff | u64::from(v) << 32,
            0xdc => {
                self.pending &= v & PENDING == 0;
                self.overflow &= v & OVERFLOW == 0;
                if !self.waits() {
                    self.event.settle();
                }
            }
            0xe0..=0xef => self.event.write(bus, (at - 0xe0) / 4, v),
            _ => (),
        }
    }

    /// The bits that a double word of PQH to PRS has not.
    pub(crate) fn reserved(at: u32) -> u32 {
        match at {
            0xc0 | 0xc8 => !OFFSET,
            0xd0 => 0xff8,
            0xd4 => 0,
            0xdc => !(PENDING | OVERFLOW),
            _ => u32::MAX,
        }
    }

    /// Whether software may move the head there: to 0 to begin anew, or within what the queue holds.
    pub(crate) fn may_head(&self, v: u32) -> bool {
        let moved = self.wrap(v.wrapping_sub(self.head));
        v == 0 || self.wrap(v) == v && moved <= self.wrap(self.tail.wrapping_sub(self.head))
    }

    /// Whether software has something to see to: then nothing more interrupts it.
    fn waits(&self) -> bool {
        self.pending || self.overflow
    }

    /// What `offset` wraps at: the queue's size in bytes.
    fn wrap(&self, offset: u32) -> u32 {
        offset & ((4096 << (self.address & 7)) - 1)
    }

    /// One place is always left empty.
    fn full(&self) -> bool {
        self.wrap(self.tail.wrapping_add(DESCRIPTOR)) == self.head
    }

    /// Writes a descriptor where the tail stands; `None`: there is no memory.
    fn push(&mut self, bus: &mut dyn Bus, request: &PageRequest) -> Option<()> {
        let base = self.address & !0xfff;
        let at = base.checked_add(u64::from(self.wrap(self.tail)))?;
        for (word, at) in descriptor(request).into_iter().zip((at..).step_by(8)) {
            bus.write64(at, word)?;
        }
        self.tail = self.wrap(self.tail.wrapping_add(DESCRIPTOR));
        Some(())
    }
}

/// The page-request descriptor (7.4.1.1). What it leaves undefined, the PASID of requests without one and the group of
/// requests that want nothing, is all ones: who relies on it is to notice.
fn descriptor(request: &PageRequest) -> [u64; 4] {
    let pasid = request.pasid.unwrap_or(0xf_ffff) & 0xf_ffff;
    let prefix = request.pasid.is_some();
    let group = if request.read || request.write { request.group & 0x1ff } else { 0x1ff };
    let low = 1
        | u64::from(prefix) << 8
        | u64::from(request.source) << 16
        | u64::from(pasid) << 32
        | u64::from(prefix && request.execute) << 52
        | u64::from(prefix && request.privileged) << 53;
    let high = u64::from(request.read)
        | u64::from(request.write) << 1
        | u64::from(request.last) << 2
        | u64::from(group) << 3
        | request.address & !0xfff;
    [low, high, 0, 0]
}

/// A stop marker: the function has sent all its requests for a PASID (11.4.3, SMS).
fn stop_marker(request: &PageRequest) -> bool {
    request.pasid.is_some() && request.last && !request.read && !request.write
}

impl Unit {
    /// A page request of a device. An answer of the unit's own also goes out through [`Bus::respond`].
    ///
    /// Units that know no page requests, or do not translate, drop it like any message that they do not support.
    pub fn page_request(&mut self, bus: &mut dyn Bus, request: &PageRequest) -> PageAnswer {
        if !self.profile.prs() || !self.state.translation || self.is_gone() {
            return PageAnswer::Dropped;
        }
        let steps = self.draw(self.pace.page_request);
        if steps == 0 && self.page_requests.received.is_empty() {
            return self.process_page_request(bus, request);
        }
        if self.page_requests.received.len() >= INGRESS {
            self.next_page_request(bus);
        }
        self.page_requests.received.push_back((steps, *request));
        PageAnswer::Received
    }

    /// One step for the page requests that wait; whether there are any.
    pub(crate) fn step_page_requests(&mut self, bus: &mut dyn Bus) -> bool {
        match self.page_requests.received.front_mut() {
            None => return false,
            Some((0, _)) => self.next_page_request(bus),
            Some((left, _)) => *left -= 1,
        }
        true
    }

    /// All that have come reach the queue, or are answered (7.7).
    pub(crate) fn drain_page_requests(&mut self, bus: &mut dyn Bus) {
        while !self.page_requests.received.is_empty() {
            self.next_page_request(bus);
        }
    }

    fn next_page_request(&mut self, bus: &mut dyn Bus) {
        if let Some((_, request)) = self.page_requests.received.pop_front() {
            self.process_page_request(bus, &request);
        }
    }

    fn process_page_request(&mut self, bus: &mut dyn Bus, request: &PageRequest) -> PageAnswer {
        if !self.state.translation {
            return PageAnswer::Dropped;
        }
        let target = self.check_page_request(bus, request);
        self.admit_page_request(bus, request, target)
    }

    /// Software answers a group (7.6).
    pub(crate) fn respond(&mut self, bus: &mut dyn Bus, response: GroupResponse) {
        let GroupResponse { source, pasid, group, code } = response;
        let asked = self.page_requests.unanswered.remove(&(source, pasid, group));
        if !asked || !matches!(code, SUCCESS | INVALID | FAILURE) {
            let known = if asked { "a reserved code" } else { "nobody asked" };
            self.breach(Rule::GroupResponse, format_args!("{response:x?}: {known}"));
        }
        bus.respond(response);
    }

    /// Goes on with a page request once the tables have been asked (7.4.1). Their faults come first: hardware finds out about
    /// the queue when it is about to write to it.
    fn admit_page_request(
        &mut self,
        bus: &mut dyn Bus,
        request: &PageRequest,
        target: Result<PageRequestTarget, Fault>,
    ) -> PageAnswer {
        let reason = target.as_ref().err().map(|fault| fault.reason);
        self.tell(Happening::Asked(request.source, request.pasid, request.address, reason));
        // A unit that knows stop markers says nothing about one that it cannot queue. For others that is undefined: here they
        // take it for a request.
        let silent = self.profile.sms() && stop_marker(request);
        let code = match target {
            Ok(target) => match self.queue_page_request(bus, request, target, silent) {
                Ok(()) => return PageAnswer::Queued,
                Err(code) => code,
            },
            Err(fault) => {
                if fault.recordable && !silent {
                    self.record_page_request(bus, request, &fault);
                }
                INVALID
            }
        };
        if !request.last || silent {
            return PageAnswer::Dropped;
        }
        bus.respond(GroupResponse { source: request.source, pasid: request.pasid, group: request.group, code });
        PageAnswer::Answered(code)
    }

    /// Writes a request to the queue, or says what to answer the last one of a group with.
    fn queue_page_request(
        &mut self,
        bus: &mut dyn Bus,
        request: &PageRequest,
        target: PageRequestTarget,
        silent: bool,
    ) -> Result<(), u8> {
        if self.page_requests.overflow {
            return Err(SUCCESS);
        }
        let quiet = !self.page_requests.waits();
        if self.page_requests.full() {
            if !silent {
                self.page_requests.overflow = true;
                if quiet {
                    self.page_requests.event.raise(bus);
                }
            }
            return Err(SUCCESS);
        }
        let PageRequestTarget { domain, pasid, stage } = target;
        self.forget(Invalidation::of_page_request(stage, domain, pasid, request.address & !0xfff));
        // Where there is no memory, the request has failed before it stood in the queue (note to Table 30); no reason is
        // defined for that, so none is recorded.
        self.page_requests.push(bus, request).ok_or(INVALID)?;
        self.page_requests.pending = true;
        if request.last && !stop_marker(request) {
            self.page_requests.unanswered.insert((request.source, request.pasid, request.group & 0x1ff));
        }
        if quiet {
            self.page_requests.event.raise(bus);
        }
        Ok(())
    }

    fn record_page_request(&mut self, bus: &mut dyn Bus, request: &PageRequest, fault: &Fault) {
        self.record(
            bus,
            Record {
                reason: fault.reason,
                source: request.source,
                pasid: request.pasid,
                privileged: request.privileged,
                execute: request.execute,
                kind: RecordKind::PageRequest,
                address: request.address,
            },
        );
    }
}
