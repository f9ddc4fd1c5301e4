//! Scalable mode (3.4.3): root entry, context entry, PASID directory and table.

use super::attributes::Attributes;
use super::lookup::Tags;
use super::outcome::{denials, interrupt_range, is_interrupt};
use super::second::SecondStage;
use super::{Stop, Walk, Want};
use crate::bus::Snoop;
use crate::caches::{self, Cached, Stage};
use crate::explain::{Observer, Step, What, Words};
use crate::formats::{PasidDirectoryEntry, PasidEntry as Entry, ScalableContextEntry as Context, ScalableRootEntry};
use crate::page_requests::PageRequestTarget;
use crate::reason::Reason;
use crate::request::{Answer, Kind, PageRequest, Pasid, Request, SourceId};
use crate::state::Mode;

/// What asks for tables.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asker {
    Memory(Kind),
    Pages,
}

impl<O: Observer> Walk<'_, O> {
    pub(super) fn scalable(&mut self, request: &Request, mut want: Want) -> Result<Answer, Stop> {
        let context = self.scalable_context(request.source)?;
        let pasid = self.effective_pasid(&context, request.pasid, Asker::Memory(request.kind))?;
        want.privileged = match request.pasid {
            Some(_) => request.privileged,
            None => self.profile.rprivs() && context.has(Context::RID_PRIV),
        };
        if request.kind == Kind::Translated {
            if context.has(Context::HPTE) {
                self.check(request.address & self.profile.beyond() != 0, Reason::SGN_4)?;
                self.check(is_interrupt(request.address), Reason::SGN_8)?;
                let entry = self.pasid_entry(request.source, pasid, &context)?;
                self.permissions(request, &entry)?;
            }
            return self.host_address(request);
        }
        let entry = self.pasid_entry(request.source, pasid, &context)?;
        let execute = request.pasid.is_some() && request.execute && self.profile.major() <= 7 && !self.profile.ers();
        self.check(execute, Reason::SPT_5)?;
        self.check(want.privileged && !entry.has(Entry::SRE), Reason::SPT_6)?;
        want.protect = entry.has(Entry::WPE);
        if want.translation && request.pasid.is_none() && is_interrupt(request.address) {
            return Ok(interrupt_range(request, &want));
        }
        if let Some(answer) = self.cached(request, &want)? {
            return Ok(answer);
        }
        let stage = stage(&entry);
        let tags = Tags { domain: entry.domain(), pasid, stage };
        let attributes = Attributes::of(self.profile, &entry);
        match stage {
            Stage::PassThrough => {
                self.check(request.address & self.profile.beyond() != 0, Reason::SGN_4)?;
                let found = self.identity(request.address, attributes.snoops(None), attributes.pass_through());
                self.conclude(request, &want, found, &tags)
            }
            Stage::Second => {
                let tables = self.second_stage(&entry);
                self.check(request.address >> self.width(tables.bits) != 0, Reason::SGN_5)?;
                let result = self.second_only(request, &want, &tables, &attributes, &tags);
                result.inspect_err(|stop| self.keep_fault(request, *stop, &tags))
            }
            Stage::First => self.first_only(request, &want, &entry, &attributes, &tags),
            Stage::Nested => {
                let result = self.nested(request, &want, &entry, &attributes, &tags);
                result.inspect_err(|stop| self.keep_fault(request, *stop, &tags))
            }
        }
    }
    /// The tables of a page request (7.4.1).
    pub(super) fn page_request(&mut self, request: &PageRequest) -> Result<PageRequestTarget, Stop> {
        // Nothing is set up that could serve it.
        if !self.state.translation {
            self.check(true, Reason::NONE)?;
        }
        let mode = self.state.mode;
        self.check(mode == Mode::Legacy, Reason::RTA_3)?;
        self.check_mode(false, false)?;
        let context = self.scalable_context(request.source)?;
        let pasid = self.effective_pasid(&context, request.pasid, Asker::Pages)?;
        let entry = self.pasid_entry(request.source, pasid, &context)?;
        Ok(PageRequestTarget { domain: entry.domain(), pasid, stage: stage(&entry) })
    }
    /// The PASID that a request goes by, if the context entry lets it pass.
    fn effective_pasid(&mut self, context: &Context, pasid: Option<Pasid>, asker: Asker) -> Result<Pasid, Stop> {
        let translated = asker == Asker::Memory(Kind::Translated);
        if pasid.is_none() || translated || asker == Asker::Pages {
            self.check(context.has(Context::EPTR) && !context.has(Context::PASIDE), Reason::SCT_4)?;
        }
        match asker {
            Asker::Memory(Kind::Untranslated) => {}
            Asker::Memory(_) => self.check(!context.has(Context::DTE), Reason::SCT_5)?,
            Asker::Pages => {}
        }
        let rid_pasid = if self.profile.rps() { context.rid_pasid() } else { 0 };
        if let Some(pasid) = pasid {
            if !translated {
                self.check(!context.has(Context::PASIDE), Reason::SCT_6)?;
            }
            self.check(pasid > context.last_pasid(), Reason::SCT_7)?;
        }
        if asker == Asker::Pages {
            self.check(!context.has(Context::PRE), Reason::SCT_8)?;
        }
        let Some(pasid) = pasid else { return Ok(rid_pasid) };
        self.check(pasid == rid_pasid, Reason::SCT_9)?;
        if translated {
            self.check(!context.has(Context::EPTR), Reason::SCT_10)?;
        }
        if asker != Asker::Pages {
            self.check(u64::from(pasid) >> (self.profile.pss() + 1) != 0, Reason::SGN_10)?;
        }
        Ok(pasid)
    }
    /// Second-stage tables of a PASID entry.
    pub(super) fn second_stage(&self, entry: &Entry) -> SecondStage {
        SecondStage {
            table: entry.second(),
            bits: 30 + 9 * entry.get(Entry::AW) as u32,
            domain: entry.domain(),
            snoop: self.walk_snoop(entry),
            marks: self.profile.ssads() && entry.has(Entry::SSADE),
            separate: self.separate(),
            top: Reason::SSS_4,
            unreadable: Reason::SSS_1,
            reserved: Reason::SSS_3,
            absent: Reason::SSS_2,
        }
    }
    /// How the page tables of a PASID entry are read (3.10).
    pub(super) fn walk_snoop(&self, entry: &Entry) -> Snoop {
        if self.profile.smpwcs() && entry.has(Entry::PWSNP) { Snoop::Yes } else { Snoop::No }
    }
    fn second_only(
        &mut self,
        request: &Request,
        want: &Want,
        tables: &SecondStage,
        attributes: &Attributes,
        tags: &Tags,
    ) -> Result<Answer, Stop> {
        let leaf = self.second(tables, request.address)?;
        let mut found = attributes.second_only(request.address, &leaf);
        let grant = self.admit(&found, request, want);
        let Ok(grant) = grant else {
            if self.profile.cm() && !tables.marks {
                self.keep(request, &found, tags);
            }
            return grant.map(|_| super::outcome::unchanged(request));
        };
        found.dirty = !self.mark_second_leaf(tables, &leaf, want.write && grant.write)?;
        self.keep(request, &found, tags);
        Ok(self.granted(&found, &grant, request, want))
    }

    fn scalable_context(&mut self, source: SourceId) -> Result<Context, Stop> {
        if let Some(words) = self.held_context(source)? {
            let entry = Context(words);
            self.silent |= entry.has(Context::FPD);
            return Ok(entry);
        }
        match self.read_scalable_context(source) {
            Ok(entry) => {
                self.keep_context(source, entry.0, 0);
                Ok(entry)
            }
            Err(stop) => Err(self.keep_context_fault(source, stop)),
        }
    }
    fn read_scalable_context(&mut self, source: SourceId) -> Result<Context, Stop> {
        let (bus, function) = (u64::from(source >> 8), (source & 0xff) as u8);
        let at = (self.state.root & !0xfff) + 16 * bus;
        self.trail.push(at);
        let root = ScalableRootEntry(self.read(What::Root, at, self.coherent(), Reason::SRT_1)?);
        let half = root.half(function);
        self.check(half & 1 == 0, Reason::SRT_2)?;
        self.check(root.reserved(self.profile), Reason::SRT_3)?;
        let at = (half & !0xfff) + 32 * u64::from(function & 0x7f);
        self.trail.push(at);
        let entry = Context(self.read(What::Context, at, self.coherent(), Reason::SCT_1)?);
        self.silent |= entry.has(Context::FPD);
        self.check(!entry.has(Context::P), Reason::SCT_2)?;
        self.check(entry.reserved(self.profile), Reason::SCT_3)?;
        let inconsistent = entry.has(Context::PRE) && !entry.has(Context::DTE);
        self.check(inconsistent || entry.rid_pasid() > entry.last_pasid(), Reason::SCT_4)?;
        Ok(entry)
    }

    fn pasid_entry(&mut self, source: SourceId, pasid: Pasid, context: &Context) -> Result<Entry, Stop> {
        if let Some(held) = self.caches.as_deref_mut().and_then(|caches| caches.pasid(source, pasid)) {
            return match held {
                Cached::Valid(held) => {
                    // The path begins with that of the context entry.
                    self.trail.clear();
                    self.trail.extend(&held.path);
                    let entry = Entry(held.words);
                    self.silent |= held.silent || entry.has(Entry::FPD);
                    self.observer.see(|| Step::Held { what: What::Pasid, words: Words::new(&entry.0) });
                    Ok(entry)
                }
                Cached::Faulting(reason) => {
                    let reason = *reason;
                    self.observer.see(|| Step::HeldFault(reason));
                    Err(Stop::Fault(reason))
                }
            };
        }
        let result = self.read_pasid_entry(pasid, context);
        if self.keeper().is_none() {
            return result.map(|(entry, _)| entry);
        }
        let path = self.trail.since(0);
        let keep = match result {
            Ok((entry, silent)) => {
                Some(Cached::Valid(caches::PasidEntry { words: entry.0, silent, domain: entry.domain(), path }))
            }
            // On caching-mode units, unless FPD would have to be remembered with it (6.2.3).
            Err(Stop::Fault(reason))
                if self.profile.cm() && !self.silent && ![Reason::SPD_1, Reason::SPT_1].contains(&reason) =>
            {
                Some(Cached::Faulting(reason))
            }
            Err(_) => None,
        };
        if let (Some(keep), Some(caches)) = (keep, self.keeper()) {
            caches.keep_pasid(source, pasid, keep);
        }
        result.map(|(entry, _)| entry)
    }
    /// The entry, and FPD of the directory's entry.
    fn read_pasid_entry(&mut self, pasid: Pasid, context: &Context) -> Result<(Entry, bool), Stop> {
        let profile = self.profile;
        let at = context.directory() + 8 * u64::from(pasid >> 6);
        self.trail.push(at);
        let directory = self.read(What::PasidDirectory, at, self.coherent(), Reason::SPD_1)?;
        let directory = PasidDirectoryEntry(directory);
        let silent = directory.has(PasidDirectoryEntry::FPD);
        self.silent |= silent;
        self.check(!directory.has(PasidDirectoryEntry::P), Reason::SPD_2)?;
        self.check(directory.reserved(profile), Reason::SPD_3)?;
        let at = directory.table() + 64 * u64::from(pasid & 0x3f);
        self.trail.push(at);
        let entry = Entry(self.read(What::Pasid, at, self.coherent(), Reason::SPT_1)?);
        self.silent |= entry.has(Entry::FPD);
        self.check(!entry.has(Entry::P), Reason::SPT_2)?;
        self.check(entry.reserved(profile), Reason::SPT_3)?;
        let (first, second, supported) = match entry.get(Entry::PGTT) {
            1 => (true, false, profile.fsts()),
            2 => (false, true, profile.ssts()),
            3 => (true, true, profile.nest()),
            4 => (false, false, profile.pt()),
            _ => (false, false, false),
        };
        let width = self.has_width(entry.get(Entry::AW));
        let levels = match entry.get(Entry::FSPM) {
            0 => true,
            1 => profile.fs5lp(),
            _ => false,
        };
        let limit = self.width(30 + 9 * entry.get(Entry::AW) as u32);
        let wrong =
            !supported || second && !width || first && !levels || first && second && entry.first() >> limit != 0;
        self.check(wrong, Reason::SPT_4)?;
        Ok((entry, silent))
    }
    /// The reason why a write is not allowed.
    pub(super) fn no_write(&self) -> Reason {
        denials(self.state).0
    }
}

/// PGTT, which has been checked; whatever a cached entry of another mode holds means pass-through.
fn stage(entry: &Entry) -> Stage {
    match entry.get(Entry::PGTT) {
        1 => Stage::First,
        2 => Stage::Second,
        3 => Stage::Nested,
        _ => Stage::PassThrough,
    }
}
