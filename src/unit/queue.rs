//! The invalidation queue (VT-d 6.5.2): slots claimed and published under a short lock, completion polled outside it.
//!
//! Every submission has a *ticket*: a status dword that its wait descriptor writes the submission's generation to,
//! compared for equality, for an unfenced later wait may complete first (6.5.2.12) and no other word says anything. The
//! ticket does not depend on slots, so that `recovery` can queue a submission again elsewhere. Slots are used again when
//! their submission has completed, tickets too unless the submission failed and whoever owns it has not asked yet: who
//! keeps or forgets a submission holds nobody up.
//!
//! The driver promises no order between submissions, only within one.

use super::stats::UnitStats;
use super::{Host, Unit};
use crate::host::address::{DeviceId, Nanos, UnitId};
use crate::host::error::{Error, ErrorKind, Step};
use crate::host::grow;
use crate::host::mem::Frames;
use crate::host::platform::{Platform, Registers};
use crate::host::sync::{AtomicU64, Lock, Ordering, Rank, Site, fence_at, order};
use crate::host::wait::Wait;
use crate::hw::descriptors::{Descriptor, WaitFlags};
use crate::hw::invalidation::{DescriptorWidth, Iqa};
use crate::hw::registers::at;
use alloc::vec::Vec;

/// No ticket.
const NONE: u16 = u16::MAX;

/// One slot in so many is `recovery`'s, where there are device TLBs: at least as many as times that the largest
/// submission can be halved.
const RESERVED: usize = 16;

/// One unit's queue.
pub(crate) struct Queue {
    pub(super) id: UnitId,
    segment: u16,
    ring: Frames,
    /// The status dwords of the tickets, and one that nobody reads: what a descriptor made harmless writes to.
    words: Frames,
    /// By ticket: the generation that somebody may still ask for (63:32), and why it failed (31:0, see `verdict`).
    fates: Vec<AtomicU64>,
    pub(super) slots: usize,
    order: u8,
    width: DescriptorWidth,
    /// What only the time-outs of device TLBs need (ECAP.DT).
    pub(super) aside: Option<Aside>,
    pub(super) state: Lock<State>,
}

/// Memory for `recovery`, which must not depend on there being some left.
pub(super) struct Aside {
    /// As large as the ring: where descriptors are while the ring is filled again.
    pub(super) copy: Frames,
    /// A bit for each source id: whether it is silent; then again: whether nobody was told yet.
    pub(super) marks: Frames,
}

impl Aside {
    /// 2 x 65536 bits.
    const MARKS: u8 = 2;

    fn new<P: Platform>(p: &P, order: u8, node: Option<u32>) -> Result<Self, ErrorKind> {
        let copy = Frames::alloc(p, order, node)?;
        match Frames::alloc(p, Self::MARKS, node) {
            Ok(marks) => Ok(Aside { copy, marks }),
            Err(e) => {
                copy.free(p);
                Err(e)
            }
        }
    }
}

pub(super) struct State {
    /// The next slot to fill.
    pub(super) tail: usize,
    /// The first slot not yet free again.
    pub(super) oldest: usize,
    generation: u32,
    /// By first slot. What lies between `oldest` and `tail` is spans end to end.
    pub(super) spans: Vec<Span>,
    /// Spans on their way to other slots.
    pub(super) moved: Vec<Span>,
    pub(super) tickets: Vec<Ticket>,
    free: u16,
    free_tickets: usize,
    /// Tickets of failed submissions that were not asked for.
    kept: u16,
    /// Spans with invalidations of device TLBs.
    pub(super) device_spans: usize,
    pub(super) trouble: super::recovery::Trouble,
    pub(super) stats: UnitStats,
}

/// Descriptors that end in one wait: a submission, or a piece of one that `recovery` cut.
#[derive(Clone, Copy)]
pub(super) struct Span {
    pub(super) len: u16,
    /// Whose status dword the wait writes.
    pub(super) ticket: u16,
    /// The ticket of the submission.
    pub(super) owner: u16,
    /// There are invalidations of device TLBs among them.
    pub(super) devices: bool,
    /// The wait itself stopped the queue and was made harmless: passed is completed.
    pub(super) passing: bool,
}

impl Span {
    const EMPTY: Span = Span { len: 1, ticket: NONE, owner: NONE, devices: false, passing: false };
}

#[derive(Clone, Copy)]
pub(super) struct Ticket {
    pub(super) generation: u32,
    /// The next in the list of those free, or kept.
    next: u16,
}

/// What was submitted and is not known to be complete. Dropping it without `poll`ing to the end needs `Queue::abandon`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Submission {
    ticket: u16,
    generation: u32,
    /// Devices have to answer before it completes.
    devices: bool,
}

/// Why a submission failed, in the low half of its fate; 0 while it has not.
pub(super) mod verdict {
    use crate::host::address::SourceId;

    const DEVICE: u32 = 1 << 9;
    /// Tells "failed without a reason" (code 0) from "not failed".
    const QUEUE: u32 = 1 << 8;

    pub(in crate::unit) const fn queue(code: u8) -> u32 {
        QUEUE | code as u32
    }

    pub(in crate::unit) const fn device(source: u16) -> u32 {
        DEVICE | (source as u32) << 16
    }

    /// The device that did not answer.
    pub(super) const fn silent(v: u32) -> Option<SourceId> {
        if v & DEVICE != 0 { Some(SourceId((v >> 16) as u16)) } else { None }
    }
}

impl Queue {
    /// The queue of a unit; `devices` where it serves device TLBs (ECAP.DT).
    pub(crate) fn new<P: Platform>(
        p: &P,
        (id, segment): (UnitId, u16),
        (order, width): (u8, DescriptorWidth),
        devices: bool,
        node: Option<u32>,
    ) -> Result<Self, ErrorKind> {
        let order = order.min(7);
        let ring = Frames::alloc(p, order, node)?;
        let slots = ring.len() * 8 / width.bytes() as usize;
        let built = Self::parts(p, slots, order, devices, node);
        let (words, aside, fates, state) = match built {
            Ok(parts) => parts,
            Err(e) => {
                ring.free(p);
                return Err(e);
            }
        };
        Ok(Queue { id, segment, ring, words, fates, slots, order, width, aside, state: Lock::new(Rank::Queue, state) })
    }

    #[allow(clippy::type_complexity, reason = "taken apart at once by the only caller")]
    fn parts<P: Platform>(
        p: &P,
        slots: usize,
        order: u8,
        devices: bool,
        node: Option<u32>,
    ) -> Result<(Frames, Option<Aside>, Vec<AtomicU64>, State), ErrorKind> {
        let tickets = slots + if devices { slots / RESERVED } else { 0 };
        let fates = grow::filled(tickets, || AtomicU64::new(0))?;
        let mut next = 0;
        let state = State {
            tail: 0,
            oldest: 0,
            generation: 0,
            spans: grow::filled(slots, || Span::EMPTY)?,
            moved: grow::filled(if devices { slots } else { 0 }, || Span::EMPTY)?,
            tickets: grow::filled(tickets, || {
                next += 1;
                Ticket { generation: 0, next: if usize::from(next) < tickets { next } else { NONE } }
            })?,
            free: 0,
            free_tickets: tickets,
            kept: NONE,
            device_spans: 0,
            trouble: super::recovery::Trouble::default(),
            stats: UnitStats::default(),
        };
        // A dword a ticket, where a slot takes four or eight.
        let words = Frames::alloc(p, order.saturating_sub(1), node)?;
        match devices.then(|| Aside::new(p, order, node)).transpose() {
            Ok(aside) => Ok((words, aside, fates, state)),
            Err(e) => {
                words.free(p);
                Err(e)
            }
        }
    }

    /// The value of IQA.
    pub(crate) fn address<P: Platform>(&self, p: &P) -> Iqa {
        Iqa::new(self.ring.hpa(p).get(), self.width, self.order)
    }

    /// The most descriptors that one submission takes. One slot stays empty, for head equal to tail means that nothing is
    /// queued, one is the wait's, and some are `recovery`'s.
    pub(crate) fn capacity(&self) -> usize {
        self.slots - self.reserve() - 2
    }

    /// Slots and tickets that `recovery` may need to cut a submission into pieces.
    fn reserve(&self) -> usize {
        if self.aside.is_some() { self.slots / RESERVED } else { 0 }
    }

    /// Frames of 4 KiB that the queue holds.
    pub(super) fn frames(&self) -> u64 {
        let aside = self.aside.as_ref().map_or(0, |a| a.copy.pages() + a.marks.pages());
        (self.ring.pages() + self.words.pages() + aside) as u64
    }

    pub(crate) fn release<P: Platform>(self, p: &P) {
        self.ring.free(p);
        self.words.free(p);
        if let Some(a) = self.aside {
            a.copy.free(p);
            a.marks.free(p);
        }
    }

    /// What a ticket's status dword says.
    pub(super) fn status(&self, ticket: u16) -> u32 {
        self.words.status(ticket.into()).map_or(0, |w| w.load(order(Site::Completion)))
    }

    /// Sets it in software's place. The store of the tail publishes it.
    pub(super) fn set_status(&self, ticket: u16, v: u32) {
        if let Some(w) = self.words.status(ticket.into()) {
            w.store(v, Ordering::Relaxed);
        }
    }

    fn fate(&self, ticket: u16) -> u64 {
        self.fates.get(usize::from(ticket)).map_or(0, |f| f.load(order(Site::FateLoad)))
    }

    /// What is seen here may stand for a completion that only the storing CPU saw.
    fn set_fate(&self, ticket: u16, generation: u32, verdict: u32) {
        if let Some(f) = self.fates.get(usize::from(ticket)) {
            f.store(u64::from(generation) << 32 | u64::from(verdict), order(Site::FateStore));
        }
    }

    /// Says why a submission failed, if somebody may ask and nothing is said yet.
    pub(super) fn judge(&self, s: &State, ticket: u16, verdict: u32) {
        let Some(t) = s.tickets.get(usize::from(ticket)) else { return };
        let wanted = u64::from(t.generation) << 32;
        if let Some(f) = self.fates.get(usize::from(ticket)) {
            let _ = f.compare_exchange(wanted, wanted | u64::from(verdict), Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    pub(super) fn next(&self, slot: usize, n: usize) -> usize {
        (slot + n) % self.slots
    }

    /// How far a slot lies behind the oldest one.
    pub(super) fn offset(&self, s: &State, slot: usize) -> usize {
        (slot % self.slots + self.slots - s.oldest) % self.slots
    }

    pub(super) fn words_per_slot(&self) -> usize {
        self.width.bytes() as usize / 8
    }

    pub(super) fn put(&self, slot: usize, d: &Descriptor) {
        let words = self.words_per_slot();
        for (i, w) in d.0.iter().enumerate().take(words) {
            self.ring.set(slot * words + i, *w);
        }
    }

    /// The descriptor in a slot, as it was put there.
    pub(super) fn look(&self, slot: usize) -> Descriptor {
        let words = self.words_per_slot();
        Descriptor(core::array::from_fn(|i| if i < words { self.ring.get(slot * words + i) } else { 0 }))
    }

    fn status_address<P: Platform>(&self, p: &P, ticket: usize) -> u64 {
        self.words.hpa(p).get() + 4 * ticket as u64
    }

    /// A descriptor that does nothing: a wait that writes to a dword nobody reads (QEMU refuses one that writes nothing).
    /// Fenced, for a wait stands for what lies between it and the wait before it, which is now this one (6.5.2.12).
    pub(super) fn harmless<P: Platform>(&self, p: &P) -> Descriptor {
        Descriptor::wait(WaitFlags::FN, Some((self.status_address(p, self.fates.len()), 0)))
    }

    /// The wait that completes a ticket.
    pub(super) fn completion<P: Platform>(&self, p: &P, s: &State, ticket: u16, flags: WaitFlags) -> Descriptor {
        let generation = s.tickets.get(usize::from(ticket)).map_or(0, |t| t.generation);
        Descriptor::wait(flags, Some((self.status_address(p, ticket.into()), generation)))
    }

    /// Takes a free ticket for a new generation, of which nobody knows yet.
    pub(super) fn take_ticket(&self, s: &mut State) -> Option<u16> {
        let ticket = s.free;
        let t = s.tickets.get_mut(usize::from(ticket))?;
        // 0 is nobody's.
        s.generation = s.generation.wrapping_add(1).max(1);
        t.generation = s.generation;
        s.free = t.next;
        s.free_tickets -= 1;
        // What no wait writes, this one or one before: who still asks for that must not take this store for the hardware's.
        self.set_status(ticket, 0);
        Some(ticket)
    }

    fn free_ticket(&self, s: &mut State, ticket: u16) {
        self.set_fate(ticket, 0, 0);
        if let Some(t) = s.tickets.get_mut(usize::from(ticket)) {
            t.next = s.free;
            s.free = ticket;
            s.free_tickets += 1;
        }
    }

    pub(super) fn is_complete(&self, s: &State, span: &Span) -> bool {
        s.tickets.get(usize::from(span.ticket)).is_none_or(|t| self.status(span.ticket) == t.generation)
    }

    /// A completed ticket is free, unless it failed and somebody may ask.
    pub(super) fn settle(&self, s: &mut State, ticket: u16) {
        let fate = self.fate(ticket);
        if fate >> 32 == 0 || fate as u32 == 0 {
            self.free_ticket(s, ticket);
        } else if let Some(t) = s.tickets.get_mut(usize::from(ticket)) {
            t.next = s.kept;
            s.kept = ticket;
        }
    }

    /// Frees the kept tickets that were asked for or given up.
    fn sweep(&self, s: &mut State) {
        let mut at = core::mem::replace(&mut s.kept, NONE);
        while let Some(t) = s.tickets.get(usize::from(at)) {
            let next = t.next;
            self.settle(s, at);
            at = next;
        }
    }

    /// Frees the slots of completed submissions, oldest first, and says how many slots are free for submissions.
    pub(super) fn reclaim(&self, s: &mut State) -> usize {
        while s.oldest != s.tail {
            let Some(&span) = s.spans.get(s.oldest) else { break };
            if !self.is_complete(s, &span) {
                break;
            }
            self.settle(s, span.ticket);
            s.device_spans = s.device_spans.saturating_sub(usize::from(span.devices));
            s.oldest = self.next(s.oldest, span.len.into());
            s.trouble.progress();
        }
        if s.oldest == s.tail {
            s.trouble.over();
        }
        if s.kept != NONE {
            self.sweep(s);
        }
        let free = (s.oldest + self.slots - s.tail - 1) % self.slots;
        if s.free_tickets > self.reserve() { free.saturating_sub(self.reserve()) } else { 0 }
    }

    /// Queues `count` descriptors and a wait, all or none, and publishes them with one write of the tail. Waits for room,
    /// until the deadline of invalidations, or that of devices while one of them has to answer.
    pub(crate) fn submit<P: Platform>(
        &self,
        h: &Host<P>,
        unit: &Unit<P>,
        count: usize,
        descriptor: impl Fn(usize) -> Descriptor,
    ) -> Result<Submission, Error> {
        let full = ErrorKind::Timeout(Step::Queue).on(unit.id);
        if count > self.capacity() {
            return Err(full);
        }
        let mut waiting: Option<Wait<'_, P>> = None;
        loop {
            let devices = {
                let mut s = self.state.lock(&h.platform);
                if self.reclaim(&mut s) > count
                    && let Some(ticket) = self.take_ticket(&mut s)
                {
                    return Ok(self.publish(h, unit, &mut s, ticket, count, descriptor));
                }
                s.device_spans != 0
            };
            self.recover(h, unit)?;
            let wait = waiting.get_or_insert_with(|| Wait::new(&h.platform, unit.id, limit(h, devices)));
            if !wait.turn() {
                self.state.lock(&h.platform).stats.timeouts += 1;
                return Err(full);
            }
        }
    }

    fn publish<P: Platform>(
        &self,
        h: &Host<P>,
        unit: &Unit<P>,
        s: &mut State,
        ticket: u16,
        count: usize,
        descriptor: impl Fn(usize) -> Descriptor,
    ) -> Submission {
        let first = s.tail;
        let (mut devices, mut failed) = (false, 0);
        for i in 0..count {
            let mut d = descriptor(i);
            if let Some(source) = d.device() {
                if self.is_marked(source) {
                    // It would not answer this one either.
                    failed = verdict::device(source);
                    d = self.harmless(&h.platform);
                } else {
                    devices = true;
                }
            }
            self.put(self.next(first, i), &d);
        }
        let generation = s.generation;
        self.set_fate(ticket, generation, failed);
        let flags = s.trouble.flags(h, devices);
        let wait = self.next(first, count);
        self.put(wait, &self.completion(&h.platform, s, ticket, flags));
        if let Some(span) = s.spans.get_mut(first) {
            *span = Span { len: count as u16 + 1, ticket, owner: ticket, devices, passing: false };
        }
        s.device_spans += usize::from(devices);
        s.tail = self.next(wait, 1);
        s.stats.submissions += 1;
        s.stats.descriptors += count as u64;
        self.write_tail(unit, s);
        Submission { ticket, generation, devices: s.device_spans != 0 }
    }

    /// Shows the hardware what was put into the ring.
    pub(super) fn write_tail<P: Platform>(&self, unit: &Unit<P>, s: &State) {
        fence_at(Site::Publish);
        unit.regs.write64(at::IQT, self.tail(s));
    }

    /// The value of IQT.
    pub(super) fn tail(&self, s: &State) -> u64 {
        self.width.offset(s.tail as u32)
    }

    /// The slot that IQH names.
    pub(super) fn head<P: Platform>(&self, unit: &Unit<P>) -> usize {
        self.width.index(unit.regs.read64(at::IQH)) as usize % self.slots
    }

    /// Whether the submission has completed, and how. Ends it: not to be called again after `Some`.
    pub(crate) fn poll(&self, sub: Submission) -> Option<Result<(), Error>> {
        let completed = self.status(sub.ticket) == sub.generation;
        let fate = self.fate(sub.ticket);
        // The ticket went to another after this submission completed, and it did not fail, or it would have been kept.
        if (fate >> 32) as u32 != sub.generation {
            return Some(Ok(()));
        }
        match (completed, fate as u32) {
            (false, _) => None,
            (true, 0) => Some(Ok(())),
            (true, why) => {
                self.abandon(sub);
                Some(Err(self.failure(why)))
            }
        }
    }

    fn failure(&self, why: u32) -> Error {
        match verdict::silent(why) {
            Some(source) => ErrorKind::DeviceTimeout.on(self.id).of(DeviceId { segment: self.segment, source }),
            None => ErrorKind::QueueError(why as u8).on(self.id),
        }
    }

    /// Nobody will ask for this submission's outcome; its slots come back once the hardware has completed it.
    pub(crate) fn abandon(&self, sub: Submission) {
        let Some(f) = self.fates.get(usize::from(sub.ticket)) else { return };
        // What it says changes twice at most: a verdict is passed, and the ticket goes to another.
        for _ in 0..3 {
            let fate = f.load(Ordering::Relaxed);
            if (fate >> 32) as u32 != sub.generation
                || f.compare_exchange(fate, fate & 0xffff_ffff, Ordering::Relaxed, Ordering::Relaxed).is_ok()
            {
                return;
            }
        }
    }

    /// Awaits a submission until the deadline; past it the submission is given up, and the unit still owns its slots.
    pub(crate) fn wait<P: Platform>(&self, h: &Host<P>, unit: &Unit<P>, sub: Submission) -> Result<(), Error> {
        let mut wait = Wait::new(&h.platform, unit.id, limit(h, sub.devices));
        loop {
            if let Some(outcome) = self.poll(sub) {
                return outcome;
            }
            if wait.rare()
                && let Err(e) = self.recover(h, unit)
            {
                self.abandon(sub);
                return Err(e);
            }
            if !wait.turn() {
                self.abandon(sub);
                self.state.lock(&h.platform).stats.timeouts += 1;
                return Err(ErrorKind::Timeout(Step::Invalidation).on(unit.id));
            }
        }
    }

    /// Forgets what is queued, after the unit's queue was turned off: the ring is empty again and begins at slot 0, and
    /// every outstanding submission counts as completed. The caller has everything invalidated once the queue is on
    /// again, before anybody builds on that; nobody submits meanwhile.
    pub(crate) fn reset<P: Platform>(&self, h: &Host<P>, unit: &Unit<P>) {
        let mut s = self.state.lock(&h.platform);
        let mut at = s.oldest;
        while at != s.tail {
            let Some(&span) = s.spans.get(at) else { break };
            if let Some(t) = s.tickets.get(usize::from(span.ticket)) {
                self.set_status(span.ticket, t.generation);
            }
            at = self.next(at, span.len.into());
        }
        self.reclaim(&mut s);
        (s.oldest, s.tail) = (0, 0);
        self.write_tail(unit, &s);
    }
}

fn limit<P: Platform>(h: &Host<P>, devices: bool) -> Nanos {
    if devices { h.config.device_deadline.max(h.config.invalidation_deadline) } else { h.config.invalidation_deadline }
}
