//! The invalidation queue (VT-d 6.5.2): slots claimed and published under a short lock, completion polled outside it.
//!
//! Every submission ends in a wait descriptor that writes the submission's generation to a status word of its own,
//! compared for equality: an unfenced later wait may complete first (6.5.2.12), so no other word says anything. Slots
//! are used again when their wait has completed, whether or not whoever submitted has looked: who keeps or forgets a
//! submission holds nobody up. Only a failed one keeps its slots until the verdict was taken or given up.

use super::errata::Errata;
use super::{Host, Unit};
use crate::host::error::{Error, ErrorKind, Step};
use crate::host::grow;
use crate::host::mem::Frames;
use crate::host::platform::{Platform, Registers};
use crate::host::sync::{AtomicU32, Lock, Ordering, Rank};
use crate::host::wait::Wait;
use crate::hw::descriptors::{Descriptor, WaitFlags};
use crate::hw::invalidation::{DescriptorWidth, Iqa};
use crate::hw::registers::{Fsts, at};
use alloc::vec::Vec;

/// Status words are followed by these many-slot arrays of software words in the same frames. The generation of the
/// submission that a slot belongs to, as long as somebody may ask for its outcome:
const OWNER: usize = 1;
const VERDICT: usize = 2;
/// One more word that nobody reads: what a neutralised descriptor writes to.
const SCRATCH: usize = 3;

/// One unit's queue.
pub(crate) struct Queue {
    ring: Frames,
    words: Frames,
    slots: usize,
    order: u8,
    width: DescriptorWidth,
    state: Lock<State>,
}

struct State {
    /// The next slot to fill.
    tail: usize,
    /// The first slot not yet free again.
    oldest: usize,
    generation: u32,
    /// For the first slot of each submission: its length and generation.
    spans: Vec<(u16, u32)>,
    /// The slot and generation of a wait that stopped the queue and was neutralised.
    passing: Option<(usize, u32)>,
}

/// What was submitted and is not known to be complete. Dropping it without `poll`ing to the end needs `Queue::abandon`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Submission {
    wait: u16,
    generation: u32,
}

impl Queue {
    pub(crate) fn new<P: Platform>(
        p: &P,
        order: u8,
        width: DescriptorWidth,
        node: Option<u32>,
    ) -> Result<Self, ErrorKind> {
        let order = order.min(7);
        let ring = Frames::alloc(p, order, node)?;
        let slots = ring.len() * 8 / width.bytes() as usize;
        let spans = match grow::filled(slots, || (0, 0)) {
            Ok(s) => s,
            Err(e) => {
                ring.free(p);
                return Err(e);
            }
        };
        let words = match Frames::alloc(p, order, node) {
            Ok(w) => w,
            Err(e) => {
                ring.free(p);
                return Err(e);
            }
        };
        let state = State { tail: 0, oldest: 0, generation: 0, spans, passing: None };
        Ok(Queue { ring, words, slots, order, width, state: Lock::new(Rank::Queue, state) })
    }

    /// The value of IQA.
    pub(crate) fn address<P: Platform>(&self, p: &P) -> Iqa {
        Iqa::new(self.ring.hpa(p).get(), self.width, self.order)
    }

    /// The most descriptors that one submission takes.
    pub(crate) fn capacity(&self) -> usize {
        self.slots - 2
    }

    pub(crate) fn release<P: Platform>(self, p: &P) {
        self.ring.free(p);
        self.words.free(p);
    }

    fn word(&self, kind: usize, slot: usize) -> Option<&AtomicU32> {
        self.words.status(kind * self.slots + slot)
    }

    fn read(&self, kind: usize, slot: usize) -> u32 {
        self.word(kind, slot).map_or(0, |w| w.load(Ordering::Acquire))
    }

    fn write(&self, kind: usize, slot: usize, v: u32) {
        if let Some(w) = self.word(kind, slot) {
            w.store(v, Ordering::Release);
        }
    }

    fn put(&self, slot: usize, d: &Descriptor) {
        let words = self.width.bytes() as usize / 8;
        for (i, w) in d.0.iter().enumerate().take(words) {
            self.ring.set(slot * words + i, *w);
        }
    }

    /// Frees the slots of completed submissions, oldest first, and says how many slots are free.
    fn reclaim(&self, s: &mut State) -> usize {
        while s.oldest != s.tail {
            let Some(&(len, generation)) = s.spans.get(s.oldest) else { break };
            let wait = (s.oldest + usize::from(len) - 1) % self.slots;
            let wanted = self.read(OWNER, wait) == generation && self.read(VERDICT, wait) != 0;
            if self.read(0, wait) != generation || wanted {
                break;
            }
            s.oldest = (wait + 1) % self.slots;
        }
        // One slot stays empty, for head equal to tail means that nothing is queued.
        (s.oldest + self.slots - s.tail - 1) % self.slots
    }

    /// Queues `count` descriptors and a wait, all or none, and publishes them with one write of the tail. Waits for room
    /// until the deadline of invalidations.
    pub(crate) fn submit<P: Platform>(
        &self,
        h: &Host<P>,
        unit: &Unit<P>,
        count: usize,
        descriptor: impl Fn(usize) -> Descriptor,
    ) -> Result<Submission, Error> {
        if count > self.capacity() {
            return Err(ErrorKind::Timeout(Step::Queue).on(unit.id));
        }
        let mut wait = Wait::new(&h.platform, unit.id, h.config.invalidation_deadline);
        loop {
            {
                let mut s = self.state.lock(&h.platform);
                if self.reclaim(&mut s) > count {
                    return Ok(self.publish(h, unit, &mut s, count, descriptor));
                }
            }
            self.recover(h, unit)?;
            if !wait.turn() {
                return Err(ErrorKind::Timeout(Step::Queue).on(unit.id));
            }
        }
    }

    fn publish<P: Platform>(
        &self,
        h: &Host<P>,
        unit: &Unit<P>,
        s: &mut State,
        count: usize,
        descriptor: impl Fn(usize) -> Descriptor,
    ) -> Submission {
        let first = s.tail;
        for i in 0..count {
            self.put((first + i) % self.slots, &descriptor(i));
        }
        let wait = (first + count) % self.slots;
        // 0 is nobody's.
        s.generation = s.generation.wrapping_add(1).max(1);
        let generation = s.generation;
        self.write(VERDICT, wait, 0);
        self.write(OWNER, wait, generation);
        // The word must differ from what the hardware will write.
        self.write(0, wait, generation.wrapping_sub(1));
        let status = self.words.hpa(&h.platform).get() + 4 * wait as u64;
        let flags = if h.config.completion_interrupt { WaitFlags::IF } else { WaitFlags::empty() };
        self.put(wait, &Descriptor::wait(flags, Some((status, generation))));
        if let Some(span) = s.spans.get_mut(first) {
            *span = (count as u16 + 1, generation);
        }
        s.tail = (wait + 1) % self.slots;
        unit.regs.write64(at::IQT, self.width.offset(s.tail as u32));
        Submission { wait: wait as u16, generation }
    }

    /// Whether the submission has completed, and how. Ends it: not to be called again after `Some`.
    pub(crate) fn poll(&self, sub: Submission) -> Option<Result<(), ErrorKind>> {
        let wait = usize::from(sub.wait);
        let completed = self.read(0, wait) == sub.generation;
        let verdict = self.read(VERDICT, wait);
        // The slot went to another after this submission completed, and it did not fail, or it would have stayed.
        if self.read(OWNER, wait) != sub.generation {
            return Some(Ok(()));
        }
        if !completed {
            return None;
        }
        self.abandon(sub);
        Some(if verdict == 0 { Ok(()) } else { Err(ErrorKind::QueueError((verdict & 0xff) as u8)) })
    }

    /// Nobody will ask for this submission's outcome; its slots come back once the hardware has completed it.
    pub(crate) fn abandon(&self, sub: Submission) {
        if let Some(w) = self.word(OWNER, usize::from(sub.wait)) {
            let _ = w.compare_exchange(sub.generation, 0, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    /// Awaits a submission until the deadline; past it the submission is given up, and the unit still owns its slots.
    pub(crate) fn wait<P: Platform>(&self, h: &Host<P>, unit: &Unit<P>, sub: Submission) -> Result<(), Error> {
        let mut wait = Wait::new(&h.platform, unit.id, h.config.invalidation_deadline);
        loop {
            if let Some(outcome) = self.poll(sub) {
                return outcome.map_err(|e| e.on(unit.id));
            }
            if wait.rare()
                && let Err(e) = self.recover(h, unit)
            {
                self.abandon(sub);
                return Err(e);
            }
            if !wait.turn() {
                self.abandon(sub);
                return Err(ErrorKind::Timeout(Step::Invalidation).on(unit.id));
            }
        }
    }

    /// Brings a stopped queue back to work (VT-d 6.5.2.11): the submission that holds the offending descriptor gets the
    /// error, the descriptor becomes a wait that writes to a word nobody reads, everyone else's go on.
    pub(crate) fn recover<P: Platform>(&self, h: &Host<P>, unit: &Unit<P>) -> Result<(), Error> {
        let raw = unit.regs.read32(at::FSTS);
        if raw == u32::MAX {
            return Err(ErrorKind::UnitGone.on(unit.id));
        }
        let mut s = self.state.lock(&h.platform);
        if !Fsts::from_bits_retain(raw).intersects(Fsts::QUEUE) {
            self.passed(unit, &mut s);
            return Ok(());
        }
        let now = Fsts::from_bits_retain(unit.regs.read32(at::FSTS));
        // No device has a translation cache in this driver yet: ICE and ITE say nothing about our descriptors.
        let others = now & (Fsts::ICE | Fsts::ITE);
        if !others.is_empty() {
            unit.regs.write32(at::FSTS, others.bits());
        }
        if !now.contains(Fsts::IQE) {
            return Ok(());
        }
        let code = u32::from(unit.queue_error_code());
        let head = self.width.index(unit.regs.read64(at::IQH)) as usize;
        self.passed(unit, &mut s);
        self.neutralise(h, &mut s, head, code);
        unit.regs.write32(at::FSTS, Fsts::IQE.bits());
        // What was published meanwhile the unit did not take: with IQE set it ignores the tail.
        let tail = self.width.offset(s.tail as u32);
        if unit.errata.contains(Errata::REWRITE_TAIL) || unit.regs.read64(at::IQT) != tail {
            unit.regs.write64(at::IQT, tail);
        }
        self.passed(unit, &mut s);
        Ok(())
    }

    /// Empties it, for a unit whose queue is off: everything outstanding counts as complete. Whoever calls this invalidates
    /// everything before the unit translates again.
    pub(crate) fn reset<P: Platform>(&self, h: &Host<P>, _: &Unit<P>) {
        let mut s = self.state.lock(&h.platform);
        while s.oldest != s.tail {
            let Some(&(len, generation)) = s.spans.get(s.oldest) else { break };
            let wait = (s.oldest + usize::from(len).max(1) - 1) % self.slots;
            self.write(0, wait, generation);
            s.oldest = (wait + 1) % self.slots;
        }
        (s.oldest, s.tail, s.passing) = (0, 0, None);
    }

    /// Completes a submission whose own wait was neutralised, once the hardware has passed it: not before, for its slots
    /// are free then.
    fn passed<P: Platform>(&self, unit: &Unit<P>, s: &mut State) {
        if let Some((wait, generation)) = s.passing
            && self.width.index(unit.regs.read64(at::IQH)) as usize != wait
        {
            s.passing = None;
            self.write(0, wait, generation);
        }
    }

    fn neutralise<P: Platform>(&self, h: &Host<P>, s: &mut State, head: usize, code: u32) {
        let mut first = s.oldest;
        while first != s.tail {
            let Some(&(len, generation)) = s.spans.get(first) else { return };
            let len = usize::from(len).max(1);
            let offset = (head + self.slots - first) % self.slots;
            let wait = (first + len - 1) % self.slots;
            if offset < len {
                // Bit 8 tells "failed without a reason" (code 0) from "not failed".
                self.write(VERDICT, wait, code | 0x100);
                let scratch = self.words.hpa(&h.platform).get() + 4 * (SCRATCH * self.slots) as u64;
                self.put(head, &Descriptor::wait(WaitFlags::empty(), Some((scratch, generation))));
                if head == wait {
                    s.passing = Some((wait, generation));
                }
                return;
            }
            first = (wait + 1) % self.slots;
        }
    }
}
