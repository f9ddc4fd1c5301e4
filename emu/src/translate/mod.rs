//! From a device's request to a physical address, or to the reason why not (chapters 3, 4 and 7.1).
//!
//! A [`Walk`] is one request on its way through the tables. It reads them over the bus, asks the caches and fills them, and
//! sets accessed and dirty bits; without caches and marks it says what memory holds now, and with an observer it tells each
//! of its steps.
//!
//! Where the specification leaves a choice, this unit takes the one that is hardest on software:
//! - A translation in the IOTLB answers a request although context and PASID entries may say otherwise by now, and a request
//!   that it does not allow faults instead of walking again (3.6.1, 3.7.1, 6.2.4.1).
//! - A write through a cached translation whose dirty bit has not been set walks again, from the lowest table cached.
//! - Rights are judged at the end of a walk; an entry that is absent or malformed below is found first.
//! - Nested tables are cached by physical address (combined entries of 6.2.5), so that they stand although the second stage has
//!   changed.

mod attributes;
mod first;
mod legacy;
mod lookup;
mod mtrr;
mod nested;
mod outcome;
mod permissions;
mod scalable;
mod second;
#[cfg(test)]
mod tests;
mod trail;

use crate::bus::{Bus, Snoop};
use crate::caches::Caches;
use crate::explain::{Nobody, Observer, Step, What, Words};
use crate::faults::{Record, RecordKind};
use crate::oracle::Rule;
use crate::page_requests::PageRequestTarget;
use crate::profile::Profile;
use crate::reason::{Completion, Reason};
use crate::registers::Registers;
use crate::request::{Access, Answer, Fault, Kind, PageRequest, Request};
use crate::state::{Mode, State};
use crate::story::Happening;
use crate::unit::Unit;
use alloc::vec::Vec;
use outcome::is_interrupt;
use trail::Trail;

/// Why a walk stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stop {
    /// A fault.
    Fault(Reason),
    /// An entry changed while it was to be marked: the walk begins again. The reason stands if that goes on and on.
    Again(Reason),
    /// An entry of a cached nested table is to be marked, and whether the second stage lets the table be written is not known:
    /// the walk begins again without the first-stage cache.
    Afresh,
}

/// What a request wants of the page, once the entries that lead to its tables are known.
#[derive(Clone, Copy, Debug)]
struct Want {
    read: bool,
    write: bool,
    /// A zero-length read.
    flush: bool,
    /// A question for a translation: what is not granted is no fault.
    translation: bool,
    /// PR, or RID_PRIV.
    privileged: bool,
    /// WPE: R/W binds privileged requests, too.
    protect: bool,
}

/// What an attempt to answer came to.
struct Verdict {
    answer: Answer,
    /// The fault to be recorded.
    record: Option<Reason>,
    /// Why something was denied.
    denied: Option<Reason>,
    /// A read-only second-stage mapping that erratum 772415 let be written.
    erratum: Option<u64>,
}

/// How often a walk begins again.
const TRIES: u32 = 8;

/// One request on its way.
struct Walk<'a, O> {
    profile: &'a Profile,
    state: &'a State,
    registers: &'a Registers,
    bus: &'a mut dyn Bus,
    /// None: the walk goes by memory alone.
    caches: Option<&'a mut Caches>,
    /// Accessed and dirty bits that were set, if they are not stored: where, and the entry with them.
    unstored: Option<Vec<(u64, u64)>>,
    observer: O,
    /// The table pages read so far.
    trail: Trail,
    /// FPD was set in an entry on the way.
    silent: bool,
    /// The fault is one that caching-mode units keep in the IOTLB.
    keeps_fault: bool,
    /// The first-stage cache is not asked.
    afresh: bool,
    erratum: Option<u64>,
}

impl<O: Observer> Walk<'_, O> {
    /// Tells of a check, and stops if it failed.
    fn check(&mut self, failed: bool, reason: Reason) -> Result<(), Stop> {
        self.observer.see(|| Step::Check { reason, failed });
        if failed { Err(Stop::Fault(reason)) } else { Ok(()) }
    }
    /// Reads an entry, 16 bytes at a time as hardware does (chapter 9).
    fn read<const N: usize>(&mut self, what: What, at: u64, snoop: Snoop, error: Reason) -> Result<[u64; N], Stop> {
        let mut words = [0; N];
        let mut readable = at & self.profile.beyond() == 0;
        for (n, pair) in words.chunks_mut(2).enumerate() {
            let from = at.wrapping_add(16 * n as u64);
            match pair {
                _ if !readable => {}
                [low, high] => match self.bus.read128(from, snoop) {
                    Some(read) => [*low, *high] = read,
                    None => readable = false,
                },
                [word] => match self.bus.read64(from, snoop) {
                    Some(read) => *word = read,
                    None => readable = false,
                },
                _ => {}
            }
        }
        // A walk that meets an entry again must find it as it left it.
        for (place, entry) in self.unstored.iter().flatten() {
            let word = place.wrapping_sub(at) / 8;
            if let Some(word) = words.get_mut(word as usize) {
                *word = *entry;
            }
        }
        self.observer.see(|| Step::Read { what, at, snoop, words: readable.then(|| Words::new(&words)) });
        if readable { Ok(words) } else { self.check(true, error).map(|()| words) }
    }
    /// Sets bits of an entry with a compare-exchange (3.6.2, 3.7.2).
    fn mark(&mut self, what: What, at: u64, old: u64, new: u64, failure: Reason) -> Result<(), Stop> {
        self.observer.see(|| Step::Mark { what, at, old, new });
        if let Some(unstored) = &mut self.unstored {
            unstored.push((at, new));
            return Ok(());
        }
        match self.bus.compare_exchange64(at, old, new) {
            Some(was) if was == old => Ok(()),
            Some(_) => Err(Stop::Again(failure)),
            None => self.check(true, failure),
        }
    }
    /// How root, context and PASID tables, and the second-stage tables of legacy mode, are read (3.10).
    fn coherent(&self) -> Snoop {
        self.profile.snoop()
    }
    /// SSIRWE: second-stage entries have their rights in bits 62:61.
    fn separate(&self) -> bool {
        self.state.separate_rights && self.profile.ssirws()
    }
    /// Whether to keep what was read.
    fn keeper(&mut self) -> Option<&mut Caches> {
        self.caches.as_deref_mut().filter(|caches| caches.keep() != crate::caches::Keep::Nothing)
    }

    /// Tries until no entry changes under the walk.
    fn attempt<T>(&mut self, mut walk: impl FnMut(&mut Self) -> Result<T, Stop>) -> Result<T, Reason> {
        let mut last = Reason::NONE;
        for _ in 0..TRIES {
            self.trail.clear();
            self.silent = false;
            self.keeps_fault = false;
            match walk(self) {
                Ok(found) => return Ok(found),
                Err(Stop::Fault(reason)) => return Err(reason),
                Err(Stop::Again(reason)) => last = reason,
                Err(Stop::Afresh) => self.afresh = true,
            }
        }
        Err(last)
    }
    /// Whether a fault is to be recorded (7.1.1).
    fn recordable(&self, reason: Reason) -> bool {
        reason != Reason::NONE && !(reason.qualified() && self.silent)
    }

    /// The way of a memory or translation request.
    fn verdict(&mut self, request: &Request) -> Verdict {
        let result = self.attempt(|walk| walk.request(request));
        let (answer, record, denied) = match result {
            Ok(Answer::Translated(translated)) => (Answer::Translated(translated), None, translated.because),
            Ok(answer) => (answer, None, None),
            Err(reason) => {
                let completion = reason.completion(request.kind);
                // A 29h needs no translation, but something that is on.
                let recordable = self.recordable(reason) && (self.state.translation || self.state.remapping);
                let fault = Fault { reason, completion, recordable };
                match completion {
                    Completion::NoPermission | Completion::Effective => {
                        // Of those only this one is recorded, too (Table 30).
                        let record = (reason == Reason::SFS_10 && recordable).then_some(reason);
                        (Answer::Translated(outcome::nothing(request, Some(reason))), record, Some(reason))
                    }
                    _ => (Answer::Blocked(fault), recordable.then_some(reason), Some(reason)),
                }
            }
        };
        self.observer.see(|| Step::Outcome(answer));
        Verdict { answer, record, denied, erratum: self.erratum }
    }
    fn request(&mut self, request: &Request) -> Result<Answer, Stop> {
        if request.kind == Kind::Untranslated && is_interrupt(request.address) {
            // Without remapping the prefix is ignored (3.1); with it, a PASID makes the address one like all others (3.15).
            if request.pasid.is_none() || !self.state.translation {
                return self.interrupt(request);
            }
        }
        self.protocol(request)?;
        if !self.state.translation {
            self.protected(request, request.address, true)?;
            return Ok(outcome::unchanged(request));
        }
        self.check_mode(request.pasid.is_some(), request.execute)?;
        let want = self.want(request);
        if let Some(answer) = self.warm(request, &want) {
            return Ok(answer);
        }
        match self.state.mode {
            Mode::Scalable => self.scalable(request, want),
            _ => self.legacy(request, want),
        }
    }
    /// A request to the interrupt range (3.15).
    fn interrupt(&mut self, request: &Request) -> Result<Answer, Stop> {
        let valid = request.access == Access::Write && request.length == 4 && request.address.is_multiple_of(4);
        match request.access {
            Access::Flush => Ok(Answer::Nothing),
            _ => self.check(!valid, Reason::IR_29).map(|()| Answer::Interrupt),
        }
    }
    /// Requests that no tables can allow (3.13, 4.2.1).
    fn protocol(&mut self, request: &Request) -> Result<(), Stop> {
        let crosses = (request.address & 0xfff) + u64::from(request.length) > 0x1000;
        let wrong = match request.kind {
            Kind::Untranslated => crosses,
            Kind::Translation { .. } => !self.state.translation || request.access != Access::Read,
            Kind::Translated => crosses || !self.state.translation || request.pasid.is_some() && !self.profile.ptrs(),
        };
        if wrong { self.check(true, Reason::NONE) } else { Ok(()) }
    }
    /// What the root-table address register itself makes of a request (Table 30, RTA).
    fn check_mode(&mut self, with_pasid: bool, execute: bool) -> Result<(), Stop> {
        let (mode, profile) = (self.state.mode, self.profile);
        let wrong = match mode {
            Mode::Legacy => self.separate() && !with_pasid,
            Mode::Scalable => !profile.smts(),
            Mode::Reserved => true,
            Mode::Abort => !profile.adms(),
        };
        self.check(wrong, Reason::RTA_1)?;
        self.check(mode == Mode::Legacy && with_pasid, Reason::RTA_2)?;
        self.check(mode == Mode::Abort, Reason::RTA_4)?;
        self.check(profile.major() >= 8 && with_pasid && execute, Reason::RTA_5)
    }
    fn want(&self, request: &Request) -> Want {
        let (translation, no_write) = match request.kind {
            Kind::Translation { no_write } => (true, no_write && self.profile.nwfs()),
            _ => (false, true),
        };
        Want {
            read: request.access.reads(),
            write: request.access.writes() || !no_write,
            flush: request.access == Access::Flush,
            translation,
            privileged: request.privileged && request.pasid.is_some(),
            protect: false,
        }
    }
}

impl Unit {
    fn walk<'a, O>(&'a mut self, bus: &'a mut dyn Bus, observer: O) -> Walk<'a, O> {
        Walk {
            profile: &self.profile,
            state: &self.state,
            registers: &self.registers,
            bus,
            caches: Some(&mut self.caches),
            unstored: None,
            observer,
            trail: Trail::new(),
            silent: false,
            keeps_fault: false,
            afresh: false,
            erratum: None,
        }
    }
    /// A walk that leaves no trace.
    fn glance<'a, O>(&'a self, bus: &'a mut dyn Bus, caches: Option<&'a mut Caches>, observer: O) -> Walk<'a, O> {
        Walk {
            profile: &self.profile,
            state: &self.state,
            registers: &self.registers,
            bus,
            caches,
            unstored: Some(Vec::new()),
            observer,
            trail: Trail::new(),
            silent: false,
            keeps_fault: false,
            afresh: false,
            erratum: None,
        }
    }

    /// A request of a device: translated, checked, and recorded where it is blocked.
    pub fn request(&mut self, bus: &mut dyn Bus, request: &Request) -> Answer {
        if self.is_gone() {
            let completion = Completion::UnsupportedRequest;
            return Answer::Blocked(Fault { reason: Reason::NONE, completion, recordable: false });
        }
        let verdict = self.walk(bus, Nobody).verdict(request);
        self.tell(Happening::Asked(request.source, request.pasid, request.address, verdict.denied));
        if let Some(reason) = verdict.record {
            let record = Record {
                reason,
                source: request.source,
                pasid: request.pasid,
                privileged: request.privileged,
                execute: request.execute,
                kind: RecordKind::Memory(request.kind, request.access),
                address: request.address,
            };
            self.record(bus, record);
        }
        if let Some(address) = verdict.erratum {
            self.breach(
                Rule::ReadOnlyUnderNesting,
                format_args!("second-stage mapping of {address:#x} is read-only; erratum 772415 lets it be written"),
            );
        }
        self.watch_answer(request, &verdict.answer);
        self.watch_denial(bus, request, verdict.denied);
        verdict.answer
    }
    /// What memory says now: the answer that a request would get if nothing were cached. Nothing is cached, marked or recorded
    /// by it.
    pub fn look(&self, bus: &mut dyn Bus, request: &Request) -> Answer {
        self.glance(bus, None, Nobody).verdict(request).answer
    }
    /// The steps of a request and its answer, as they would be now. Nothing changes by it.
    pub fn explain(&self, bus: &mut dyn Bus, request: &Request) -> crate::explain::Explanation {
        let mut caches = self.caches.clone();
        let mut walk = self.glance(bus, Some(&mut caches), Vec::new());
        let answer = walk.verdict(request).answer;
        crate::explain::Explanation { request: *request, steps: walk.observer, answer }
    }
    /// Looks up the tables of a page request (7.4.1). A fault is for the caller to record and to answer.
    pub(crate) fn check_page_request(
        &mut self,
        bus: &mut dyn Bus,
        request: &PageRequest,
    ) -> Result<PageRequestTarget, Fault> {
        let mut walk = self.walk(bus, Nobody);
        let result = walk.attempt(|walk| walk.page_request(request));
        result.map_err(|reason| Fault {
            reason,
            completion: Completion::InvalidRequest,
            recordable: walk.recordable(reason),
        })
    }
}
