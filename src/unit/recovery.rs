//! Errors of the invalidation queue (VT-d 6.5.2.11): it stopped at a descriptor (IQE), a device sent a completion that
//! nobody had asked for (ICE), a device did not answer (ITE), or the unit is gone.
//!
//! After a time-out no wait that was pending will ever complete, and nothing behind the oldest invalidation of a device
//! TLB need have been executed, though the head may have passed it. So everything that has not completed is put into
//! the ring again, in its order, from the head on, where the hardware goes on fetching: once for each time-out, also what
//! the hardware had fetched in part, whose wait would otherwise complete although what it stands for was lost.
//!
//! The device that did not answer is *silent* from then on: what is for it becomes harmless, and who submits that hears
//! so. Where the unit does not name it (IQERCD.ITESID is 0, as on older units), it is found: the only device that had
//! anything pending is the one; among several, fences let one submission's devices at a time be asked, a submission with
//! several is cut between them, and who is asked alone twice in vain is the one. Twice, for what was sent before the
//! first time-out may still time out and say nothing of who is being asked now.

use super::errata::Errata;
use super::queue::{Aside, Queue, Span, State, verdict};
use super::stats::UnitStats;
use super::{Host, Unit};
use crate::host::address::{Nanos, SourceId};
use crate::host::error::{Error, ErrorKind};
use crate::host::mem::Frames;
use crate::host::platform::{Platform, Registers};
use crate::hw::descriptors::{Descriptor, WaitFlags};
use crate::hw::invalidation::Iqercd;
use crate::hw::registers::{Fsts, at};

/// How often the queue may stop without anything having completed since, until who waits is told.
const STOPS: u32 = 3;
/// How many time-outs may tell nothing new in a row: more than a unit can have sent (32 tags).
const TIMEOUTS: u32 = 64;

/// What recovery remembers.
#[derive(Default)]
pub(super) struct Trouble {
    stops: u32,
    timeouts: u32,
    /// One submission's devices are asked at a time.
    fenced: bool,
    /// Ticket and generation of what was asked alone in vain.
    strike: Option<(u16, u32)>,
    /// Until then what was sent before a time-out may time out itself.
    unclear: Option<Nanos>,
    /// Waits that were made harmless and are not known to be passed.
    passing: bool,
    /// Silent devices that nobody was told of.
    untold: usize,
}

impl Trouble {
    /// Something has completed.
    pub(super) fn progress(&mut self) {
        (self.stops, self.timeouts) = (0, 0);
    }

    /// Nothing is queued any more.
    pub(super) fn over(&mut self) {
        self.fenced = false;
        self.strike = None;
    }

    /// Flags of a submission's wait.
    pub(super) fn flags<P: Platform>(&self, h: &Host<P>, devices: bool) -> WaitFlags {
        let mut flags = WaitFlags::empty();
        flags.set(WaitFlags::IF, h.config.completion_interrupt);
        flags.set(WaitFlags::FN, self.fenced && devices);
        flags
    }
}

/// Who may be the one that did not answer.
#[derive(Clone, Copy, Default)]
struct Suspects {
    one: Option<u16>,
    several: bool,
}

impl Suspects {
    fn add(&mut self, source: u16) {
        self.several |= self.one.is_some_and(|known| known != source);
        self.one = Some(source);
    }

    fn only(self) -> Option<u16> {
        self.one.filter(|_| !self.several)
    }
}

impl Queue {
    /// Brings the queue back to work where it stands. An error where the unit is gone, or stops again and again: who waits
    /// need not wait longer then, and what is queued stays owned and completes if the unit comes to.
    pub(crate) fn recover<P: Platform>(&self, h: &Host<P>, unit: &Unit<P>) -> Result<(), Error> {
        let raw = unit.regs.read32(at::FSTS);
        let (outcome, untold) = {
            let mut s = self.state.lock(&h.platform);
            let before = s.trouble.untold;
            let outcome = self.mend(h, unit, &mut s, raw);
            (outcome, s.trouble.untold > before)
        };
        if untold {
            h.platform.wake();
        }
        outcome.map_err(|e| e.on(self.id))
    }

    fn mend<P: Platform>(&self, h: &Host<P>, unit: &Unit<P>, s: &mut State, raw: u32) -> Result<(), ErrorKind> {
        if raw == u32::MAX {
            return Err(self.gone(s));
        }
        if !Fsts::from_bits_retain(raw).intersects(Fsts::QUEUE) {
            self.passed(unit, s);
            return Ok(());
        }
        // Another CPU may have dealt with it meanwhile.
        let raw = unit.regs.read32(at::FSTS);
        if raw == u32::MAX {
            return Err(self.gone(s));
        }
        let now = Fsts::from_bits_retain(raw) & Fsts::QUEUE;
        s.stats.invalid_completions += u64::from(now.contains(Fsts::ICE));
        if !now.intersects(Fsts::IQE | Fsts::ITE) {
            unit.regs.write32(at::FSTS, now.bits());
            return Ok(());
        }
        // Each part means something while its bit stands.
        let record = Iqercd(unit.regs.read64(at::IQERCD));
        // Pushes the statuses that are on their way (6.5.2.10).
        let _ = unit.regs.read32(at::ICS);
        let head = self.head(unit);
        self.passed(unit, s);
        self.reclaim(s);
        let code = record.iqei().0;
        if now.contains(Fsts::IQE) {
            self.stopped(h, s, head, code);
        }
        let mut outcome = Ok(());
        if now.contains(Fsts::ITE) {
            outcome = self.timed_out(h, s, head, record.itesid());
        }
        self.go_on(unit, s, now);
        self.passed(unit, s);
        // Stopped again at once, and not for the first time.
        if s.trouble.stops > STOPS && unit.regs.read32(at::FSTS) & Fsts::IQE.bits() != 0 {
            outcome = Err(ErrorKind::QueueError(code));
        }
        outcome
    }

    /// Has the queue go on, with the tail as it should be. What was published meanwhile the unit may not have taken.
    fn go_on<P: Platform>(&self, unit: &Unit<P>, s: &State, clear: Fsts) {
        // What was put into the ring is to be seen by whoever fetches when the bits are clear.
        self.write_tail(unit, s);
        unit.regs.write32(at::FSTS, clear.bits());
        if unit.errata.contains(Errata::REWRITE_TAIL) || unit.regs.read64(at::IQT) != self.tail(s) {
            self.write_tail(unit, s);
        }
    }

    fn gone(&self, s: &mut State) -> ErrorKind {
        s.stats.leaked_slots = self.offset(s, s.tail) as u64;
        s.stats.leaked_frames = self.frames();
        ErrorKind::UnitGone
    }

    /// Completes what ends in a wait that was made harmless, once the hardware has passed it: not before, for its slots are
    /// free then.
    fn passed<P: Platform>(&self, unit: &Unit<P>, s: &mut State) {
        if !s.trouble.passing {
            return;
        }
        let reached = self.offset(s, self.head(unit));
        let (mut at, mut left) = (s.oldest, false);
        while at != s.tail {
            let Some(&span) = s.spans.get(at) else { break };
            let end = self.next(at, span.len.into());
            // The head is never behind the oldest slot in use.
            let done = reached >= self.offset(s, end);
            match (span.passing, s.tickets.get(usize::from(span.ticket))) {
                (true, Some(t)) if done => self.set_status(span.ticket, t.generation),
                (true, _) => left = true,
                _ => {}
            }
            at = end;
        }
        s.trouble.passing = left;
    }

    /// IQE: the submission that holds the offending descriptor gets the error, the descriptor does nothing any more, and
    /// everyone else's go on. A code that speaks of a register condemns nobody.
    fn stopped<P: Platform>(&self, h: &Host<P>, s: &mut State, head: usize, code: u8) {
        const TAIL: u8 = 1;
        const WIDTH: u8 = 5;
        const TAIL_ALIGNMENT: u8 = 6;
        const MODE: u8 = 7;
        s.stats.queue_errors += 1;
        s.trouble.stops += 1;
        let harmless = self.harmless(&h.platform);
        let named = !matches!(code, TAIL | WIDTH | TAIL_ALIGNMENT | MODE);
        if named && self.look(head) != harmless && self.neutralise(s, head, &harmless, code) {
            s.trouble.stops = 0;
        }
    }

    fn neutralise(&self, s: &mut State, head: usize, harmless: &Descriptor, code: u8) -> bool {
        let mut first = s.oldest;
        while first != s.tail {
            let Some(&span) = s.spans.get(first) else { return false };
            let len = usize::from(span.len);
            let offset = (head + self.slots - first) % self.slots;
            if offset < len {
                self.judge(s, span.owner, verdict::queue(code));
                self.put(head, harmless);
                if offset + 1 == len
                    && let Some(span) = s.spans.get_mut(first)
                {
                    span.passing = true;
                    s.trouble.passing = true;
                }
                return true;
            }
            first = self.next(first, len);
        }
        false
    }

    /// ITE: finds who did not answer, and queues again what the time-out took along.
    fn timed_out<P: Platform>(
        &self,
        h: &Host<P>,
        s: &mut State,
        head: usize,
        named: Option<u16>,
    ) -> Result<(), ErrorKind> {
        let Some(aside) = &self.aside else { return Ok(()) };
        s.stats.device_timeouts += 1;
        s.trouble.timeouts += 1;
        let now = h.platform.now();
        let mut cut = None;
        let guilty = named.or_else(|| self.find(s, head, now, &mut cut));
        s.trouble.unclear = Some(now.after(h.config.device_deadline));
        if let Some(source) = guilty
            && !marked(&aside.marks, SILENT, source)
        {
            mark(&aside.marks, SILENT, source, true);
            mark(&aside.marks, UNTOLD, source, true);
            s.trouble.untold += 1;
            s.trouble.timeouts = 0;
            (s.trouble.fenced, s.trouble.strike) = (false, None);
        }
        // A head outside of what is queued is not ours: nothing can be put where the unit goes on.
        if self.offset(s, head) <= self.offset(s, s.tail) {
            self.requeue(h, s, aside, head, cut);
        }
        if s.trouble.timeouts > TIMEOUTS { Err(ErrorKind::DeviceTimeout) } else { Ok(()) }
    }

    /// Who did not answer, where that is clear; else the way to it is prepared. `cut`: the ticket of whom to cut.
    fn find(&self, s: &mut State, head: usize, now: Nanos, cut: &mut Option<u16>) -> Option<u16> {
        let reached = self.offset(s, head);
        let (mut all, mut front) = (Suspects::default(), None);
        let (mut at, mut offset) = (s.oldest, 0);
        while at != s.tail && offset < reached {
            let span = *s.spans.get(at)?;
            let len = usize::from(span.len);
            if span.devices && !self.is_complete(s, &span) {
                let mut own = Suspects::default();
                for source in (0..len.min(reached - offset)).filter_map(|i| self.look(self.next(at, i)).device()) {
                    own.add(source);
                    all.add(source);
                }
                if own.one.is_some() && front.is_none() {
                    front = Some((span.ticket, own));
                }
            }
            (at, offset) = (self.next(at, len), offset + len);
        }
        let (ticket, own) = front?;
        let fenced = core::mem::replace(&mut s.trouble.fenced, true);
        let clear = !fenced && s.trouble.unclear.is_none_or(|until| now > until);
        if let Some(source) = if fenced { own.only() } else { all.only() } {
            let asked = s.tickets.get(usize::from(ticket)).map(|t| (ticket, t.generation));
            if clear || asked == s.trouble.strike {
                return Some(source);
            }
            s.trouble.strike = asked;
        }
        *cut = Some(ticket).filter(|_| own.several);
        None
    }

    /// Puts everything that has not completed into the ring from `head` on, by way of the copy.
    fn requeue<P: Platform>(&self, h: &Host<P>, s: &mut State, aside: &Aside, head: usize, cut: Option<u16>) {
        let reached = self.offset(s, head);
        let mut to = Moved { copy: &aside.copy, slots: 0, spans: 0 };
        let mut room = self.slots - 1 - self.incomplete(s);
        let (mut at, mut offset) = (s.oldest, 0);
        while at != s.tail {
            let Some(&span) = s.spans.get(at) else { break };
            let len = usize::from(span.len);
            if self.is_complete(s, &span) {
                self.settle(s, span.ticket);
            } else {
                s.stats.requeued += u64::from(offset < reached);
                let pieces = if cut == Some(span.ticket) { room } else { 0 };
                room -= self.set_aside(h, s, aside, &mut to, at, span, pieces);
            }
            (at, offset) = (self.next(at, len), offset + len);
        }
        (s.oldest, s.device_spans) = (head, 0);
        let mut from = 0;
        for i in 0..to.spans {
            let Some(&span) = s.moved.get(i) else { break };
            let first = self.next(head, from);
            for n in 0..usize::from(span.len) {
                self.put(self.next(first, n), &to.get(self, from + n));
            }
            if let Some(place) = s.spans.get_mut(first) {
                *place = span;
            }
            s.device_spans += usize::from(span.devices);
            from += usize::from(span.len);
        }
        s.tail = self.next(head, from);
    }

    /// Slots of what has not completed.
    fn incomplete(&self, s: &State) -> usize {
        let (mut at, mut sum) = (s.oldest, 0);
        while at != s.tail {
            let Some(span) = s.spans.get(at) else { break };
            sum += if self.is_complete(s, span) { 0 } else { usize::from(span.len) };
            at = self.next(at, span.len.into());
        }
        sum
    }

    /// Whether an invalidation of `source` follows one of another device in a span: where it can be cut. Counts from
    /// `last`, which it updates.
    fn turns(last: &mut Option<u16>, source: u16) -> bool {
        last.replace(source).is_some_and(|known| known != source)
    }

    /// Copies a span, without what is for silent devices, and cuts it between devices into as many pieces more as `room`
    /// lets, or else in the middle. Says how many pieces came about.
    #[allow(clippy::too_many_arguments, reason = "one step of `requeue`, with what that has in its hands")]
    fn set_aside<P: Platform>(
        &self,
        h: &Host<P>,
        s: &mut State,
        aside: &Aside,
        to: &mut Moved<'_>,
        first: usize,
        span: Span,
        room: usize,
    ) -> usize {
        let len = usize::from(span.len).saturating_sub(1);
        let silent = |source| marked(&aside.marks, SILENT, source);
        let sources = (0..len).filter_map(|i| self.look(self.next(first, i)).device()).filter(|d| !silent(*d));
        let mut last = None;
        let turns = if room == 0 { 0 } else { sources.filter(|d| Self::turns(&mut last, *d)).count() };
        let here = |turn: usize| if turns <= room { true } else { turn == turns.div_ceil(2) };
        let (mut pieces, mut turn, mut last) = (0, 0, None);
        let mut piece = Span { len: 1, devices: false, ..span };
        for i in 0..len {
            let mut d = self.look(self.next(first, i));
            if let Some(source) = d.device() {
                if silent(source) {
                    self.judge(s, span.owner, verdict::device(source));
                    d = self.harmless(&h.platform);
                } else {
                    if Self::turns(&mut last, source) && turns != 0 {
                        turn += 1;
                        if here(turn)
                            && let Some(ticket) = self.take_ticket(s)
                        {
                            to.put(self, &self.completion(&h.platform, s, ticket, WaitFlags::FN));
                            to.end(s, Span { ticket, passing: false, ..piece });
                            piece = Span { len: 1, devices: false, ..span };
                            pieces += 1;
                        }
                    }
                    piece.devices = true;
                }
            }
            to.put(self, &d);
            piece.len += 1;
        }
        let wait = if span.passing {
            self.harmless(&h.platform)
        } else {
            let interrupt = span.ticket == span.owner && h.config.completion_interrupt;
            let mut flags = s.trouble.flags(h, piece.devices);
            flags.set(WaitFlags::IF, interrupt);
            self.completion(&h.platform, s, span.ticket, flags)
        };
        to.put(self, &wait);
        to.end(s, piece);
        pieces
    }

    /// Whether a device is silent.
    pub(super) fn is_marked(&self, source: u16) -> bool {
        self.aside.as_ref().is_some_and(|a| marked(&a.marks, SILENT, source))
    }

    /// A silent device that nobody was told of yet.
    fn take_untold(&self, s: &mut State) -> Option<u16> {
        let marks = &self.aside.as_ref().filter(|_| s.trouble.untold != 0)?.marks;
        let found = (0..WORDS).map(|i| (i, marks.get(UNTOLD + i))).find(|(_, bits)| *bits != 0);
        let Some((i, bits)) = found else {
            s.trouble.untold = 0;
            return None;
        };
        let source = (i * 64) as u16 + bits.trailing_zeros() as u16;
        mark(marks, UNTOLD, source, false);
        s.trouble.untold -= 1;
        Some(source)
    }
}

/// Spans and their descriptors on their way to other slots.
struct Moved<'c> {
    copy: &'c Frames,
    slots: usize,
    spans: usize,
}

impl Moved<'_> {
    fn put(&mut self, queue: &Queue, d: &Descriptor) {
        let words = queue.words_per_slot();
        for (i, w) in d.0.iter().enumerate().take(words) {
            self.copy.keep(self.slots * words + i, *w);
        }
        self.slots += 1;
    }

    fn get(&self, queue: &Queue, slot: usize) -> Descriptor {
        let words = queue.words_per_slot();
        Descriptor(core::array::from_fn(|i| if i < words { self.copy.get(slot * words + i) } else { 0 }))
    }

    fn end(&mut self, s: &mut State, span: Span) {
        if let Some(place) = s.moved.get_mut(self.spans) {
            *place = span;
            self.spans += 1;
        }
    }
}

/// Words of a bit for each source id.
const WORDS: usize = 1024;
const SILENT: usize = 0;
const UNTOLD: usize = WORDS;

fn marked(marks: &Frames, kind: usize, source: u16) -> bool {
    marks.get(kind + usize::from(source / 64)) >> (source % 64) & 1 != 0
}

fn mark(marks: &Frames, kind: usize, source: u16, on: bool) {
    let (i, bit) = (kind + usize::from(source / 64), 1 << (source % 64));
    let was = marks.get(i);
    marks.keep(i, if on { was | bit } else { was & !bit });
}

impl<P: Platform> Unit<P> {
    /// The next device that did not answer an invalidation, each once: to be blocked, and its ATS turned off.
    pub(crate) fn take_suspect(&self, h: &Host<P>) -> Option<SourceId> {
        let queue = self.queue.as_ref()?;
        let mut s = queue.state.lock(&h.platform);
        queue.take_untold(&mut s).map(SourceId)
    }

    /// Whether a device did not answer, and is asked nothing any more: who submits an invalidation for it gets
    /// `DeviceTimeout`.
    pub(crate) fn is_silent(&self, source: SourceId) -> bool {
        self.queue.as_ref().is_some_and(|q| q.is_marked(source.0))
    }

    /// Nobody is there to answer: the device is asked nothing any more, as one that did not answer, and nobody need be told.
    pub(crate) fn hear_no_more(&self, h: &Host<P>, source: SourceId) {
        let Some(queue) = &self.queue else { return };
        let Some(aside) = &queue.aside else { return };
        let _turn = queue.state.lock(&h.platform);
        mark(&aside.marks, SILENT, source.0, true);
    }

    /// The device was reset, or holds nothing any more: it is asked again from now on.
    pub(crate) fn hear_again(&self, h: &Host<P>, source: SourceId) {
        let Some(queue) = &self.queue else { return };
        let Some(aside) = &queue.aside else { return };
        let mut s = queue.state.lock(&h.platform);
        if marked(&aside.marks, UNTOLD, source.0) {
            s.trouble.untold = s.trouble.untold.saturating_sub(1);
        }
        mark(&aside.marks, UNTOLD, source.0, false);
        mark(&aside.marks, SILENT, source.0, false);
    }

    /// What the queue has seen.
    pub(crate) fn stats(&self, h: &Host<P>) -> UnitStats {
        let queue = self.queue.as_ref().map_or_else(UnitStats::default, |q| q.state.lock(&h.platform).stats);
        UnitStats { wide_flushes: self.wide_flushes(), ..queue }
    }
}

#[cfg(test)]
mod tests;
