//! Legacy mode (3.4.2): root entry, context entry, second-stage tables.

use super::lookup::Tags;
use super::outcome::{ALL, Found, WRITE_BACK, denials, interrupt_range, is_interrupt};
use super::second::SecondStage;
use super::{Stop, Walk, Want};
use crate::caches::{Cached, Context, Stage};
use crate::explain::{Observer, Step, What, Words};
use crate::formats::{ContextEntry as Entry, RootEntry, SecondStageEntry};
use crate::reason::Reason;
use crate::request::{Answer, Kind, Request, SourceId};

impl<O: Observer> Walk<'_, O> {
    pub(super) fn legacy(&mut self, request: &Request, want: Want) -> Result<Answer, Stop> {
        let context = self.legacy_context(request.source)?;
        let tt = context.get(Entry::TT);
        if request.kind != Kind::Untranslated {
            self.check(tt != 1, Reason::LCT_5)?;
        }
        if request.kind == Kind::Translated {
            return self.host_address(request);
        }
        if want.translation && is_interrupt(request.address) {
            return Ok(interrupt_range(request, &want));
        }
        if let Some(answer) = self.cached(request, &want)? {
            return Ok(answer);
        }
        let stage = if tt == 2 { Stage::PassThrough } else { Stage::Second };
        let tags = Tags { domain: context.domain(), pasid: 0, stage };
        if tt == 2 {
            self.check(request.address & self.profile.beyond() != 0, Reason::LGN_1)?;
            let found = self.identity(request.address, false, WRITE_BACK);
            return self.conclude(request, &want, found, &tags);
        }
        let (no_write, no_read) = denials(self.state);
        let tables = SecondStage {
            table: context.table(),
            bits: 30 + 9 * context.get(Entry::AW) as u32,
            domain: context.domain(),
            snoop: self.coherent(),
            marks: false,
            separate: false,
            top: Reason::LCT_4,
            unreadable: Reason::LSS_1,
            reserved: Reason::LSS_2,
            absent: if want.write { no_write } else { no_read },
        };
        self.check(request.address >> self.width(tables.bits) != 0, Reason::LGN_1)?;
        let leaf = match self.second(&tables, request.address) {
            Ok(leaf) => leaf,
            Err(stop) => {
                self.keep_fault(request, stop, &tags);
                return Err(stop);
            }
        };
        let found = Found {
            first: request.address >> leaf.bits << leaf.bits,
            size: 1 << leaf.bits,
            physical: leaf.page,
            read: leaf.read,
            write: leaf.write,
            rights: ALL,
            dirty: true,
            snoop: leaf.entry.has(SecondStageEntry::SNP),
            memory: WRITE_BACK,
            stage,
        };
        self.conclude(request, &want, found, &tags)
    }
    /// Judges a translation that needs no marks, keeps it, and answers.
    pub(super) fn conclude(
        &mut self,
        request: &Request,
        want: &Want,
        found: Found,
        tags: &Tags,
    ) -> Result<Answer, Stop> {
        let grant = self.admit(&found, request, want);
        // Units without caching mode keep only what did not end in a fault (6.2.4.1).
        if grant.is_ok() || self.profile.cm() {
            self.keep(request, &found, tags);
        }
        grant.map(|grant| self.granted(&found, &grant, request, want))
    }
    /// The translation of an address to itself: as large a page as the unit has, but not the interrupt range with it.
    pub(super) fn identity(&self, address: u64, snoop: bool, memory: u8) -> Found {
        let profile = self.profile;
        let largest = match (profile.fs1gp() || profile.sslps() & 2 != 0, profile.fsts() || profile.sslps() & 1 != 0) {
            (true, _) => 30,
            (_, true) => 21,
            _ => 12,
        };
        let touches = |bits: u32| is_interrupt(address) || address >> bits == 0xfee0_0000 >> bits;
        let bits = [30, 21].into_iter().find(|bits| *bits <= largest && !touches(*bits)).unwrap_or(12);
        let first = address >> bits << bits;
        Found {
            first,
            size: 1 << bits,
            physical: first,
            read: true,
            write: true,
            rights: ALL,
            dirty: true,
            snoop,
            memory,
            stage: Stage::PassThrough,
        }
    }
    /// How many bits of an address second-stage tables of `bits` translate: no more than MGAW.
    pub(super) fn width(&self, bits: u32) -> u32 {
        bits.min(self.profile.mgaw() as u32 + 1)
    }

    fn legacy_context(&mut self, source: SourceId) -> Result<Entry, Stop> {
        if let Some(words) = self.held_context(source)? {
            let entry = Entry([words[0], words[1]]);
            // What was cached in scalable mode, and should have been invalidated since, may make no sense here.
            if self.is_usable(&entry) {
                self.silent |= entry.has(Entry::FPD);
                return Ok(entry);
            }
            self.trail.clear();
        }
        match self.read_legacy_context(source) {
            Ok(entry) => {
                self.keep_context(source, [entry.0[0], entry.0[1], 0, 0], entry.domain());
                Ok(entry)
            }
            Err(stop) => Err(self.keep_context_fault(source, stop)),
        }
    }
    fn read_legacy_context(&mut self, source: SourceId) -> Result<Entry, Stop> {
        let (bus, function) = (u64::from(source >> 8), u64::from(source & 0xff));
        let at = (self.state.root & !0xfff) + 16 * bus;
        self.trail.push(at);
        let root = RootEntry(self.read(What::Root, at, self.coherent(), Reason::LRT_1)?);
        self.check(!root.has(RootEntry::P), Reason::LRT_2)?;
        self.check(root.reserved(self.profile), Reason::LRT_3)?;
        let at = root.table() + 16 * function;
        self.trail.push(at);
        let entry = Entry(self.read(What::Context, at, self.coherent(), Reason::LCT_1)?);
        self.silent |= entry.has(Entry::FPD);
        self.check(!entry.has(Entry::P), Reason::LCT_2)?;
        self.check(entry.reserved(self.profile), Reason::LCT_3)?;
        self.check(!self.is_usable(&entry), Reason::LCT_4)?;
        Ok(entry)
    }
    /// Whether AW and TT are ones that the unit has.
    fn is_usable(&self, entry: &Entry) -> bool {
        let typed = match entry.get(Entry::TT) {
            0 => true,
            1 => self.profile.dt(),
            2 => self.profile.pt(),
            _ => false,
        };
        typed && self.has_width(entry.get(Entry::AW))
    }
    /// Whether AW is a width that the unit has.
    pub(super) fn has_width(&self, aw: u64) -> bool {
        matches!(aw, 1..=3) && self.profile.sagaw() >> aw & 1 != 0
    }

    /// The context entry of a source, if it is cached.
    pub(super) fn held_context(&mut self, source: SourceId) -> Result<Option<[u64; 4]>, Stop> {
        let Some(held) = self.caches.as_deref_mut().and_then(|caches| caches.context(source)) else { return Ok(None) };
        match held {
            Cached::Valid(context) => {
                self.trail.extend(&context.path);
                let words = context.words;
                self.observer.see(|| Step::Held { what: What::Context, words: Words::new(&words) });
                Ok(Some(words))
            }
            Cached::Faulting(reason) => {
                let reason = *reason;
                self.observer.see(|| Step::HeldFault(reason));
                Err(Stop::Fault(reason))
            }
        }
    }
    pub(super) fn keep_context(&mut self, source: SourceId, words: [u64; 4], domain: u16) {
        let path = match self.keeper() {
            Some(_) => self.trail.since(0),
            None => return,
        };
        if let Some(caches) = self.keeper() {
            caches.keep_context(source, Cached::Valid(Context { words, domain, path }));
        }
    }
    /// On caching-mode units keeps the fault of a root or context entry that was read (6.2.2), unless FPD would have to be
    /// remembered with it.
    pub(super) fn keep_context_fault(&mut self, source: SourceId, stop: Stop) -> Stop {
        const NOT_READ: [Reason; 4] = [Reason::LRT_1, Reason::LCT_1, Reason::SRT_1, Reason::SCT_1];
        if let Stop::Fault(reason) = stop
            && self.profile.cm()
            && !self.silent
            && !NOT_READ.contains(&reason)
            && let Some(caches) = self.caches.as_deref_mut()
        {
            caches.keep_context(source, Cached::Faulting(reason));
        }
        stop
    }
}
