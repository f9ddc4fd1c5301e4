//! What software owes once it is at rest: nothing that it has made present is held back, nothing that it has changed is held
//! (6.1, 6.2.2.1, 6.2.3.1, 6.5.3.3, 6.8).

use super::map::Kind;
use super::{Oracle, Rule, Sight};
use crate::bus::Bus;
use crate::caches::Cached;
use crate::formats::{
    ContextEntry, PasidDirectoryEntry, PasidEntry, RootEntry, ScalableContextEntry, ScalableRootEntry,
};
use crate::invalidation::{Invalidation, Pages};
use crate::reason::Reason;
use crate::request::{Access, Answer, Pasid, Request, SourceId};
use crate::state::Mode;
use crate::unit::Unit;
use alloc::vec::Vec;

/// The context entry of a source, as software wrote it: its words, or that it is absent.
fn context(sight: &mut Sight<'_>, source: SourceId) -> Option<[u64; 4]> {
    let (root, bus, function) = (sight.unit.state.root, u64::from(source >> 8), u64::from(source & 0xff));
    let at = root + 16 * bus;
    match sight.unit.state.mode {
        Mode::Legacy => {
            let entry = RootEntry([sight.word(at), sight.word(at + 8)]);
            let at = entry.table() + 16 * function;
            let words = [sight.word(at), sight.word(at + 8), 0, 0];
            (entry.has(RootEntry::P) && words[0] & 1 != 0).then_some(words)
        }
        Mode::Scalable => {
            let half = ScalableRootEntry([sight.word(at), sight.word(at + 8)]).half(function as u8);
            let at = (half & !0xfff) + 32 * (function & 0x7f);
            let words = [0, 8, 16, 24].map(|n| sight.word(at + n));
            (half & 1 != 0 && words[0] & 1 != 0).then_some(words)
        }
        _ => None,
    }
}

/// The PASID entry of a source, as software wrote it.
fn pasid_entry(sight: &mut Sight<'_>, source: SourceId, pasid: Pasid) -> Option<[u64; 8]> {
    let context = ScalableContextEntry(context(sight, source)?);
    if sight.unit.state.mode != Mode::Scalable || pasid > context.last_pasid() {
        return None;
    }
    let at = context.directory().wrapping_add(8 * u64::from(pasid >> 6));
    let directory = PasidDirectoryEntry([sight.word(at)]);
    if !directory.has(PasidDirectoryEntry::P) {
        return None;
    }
    let at = directory.table() + 64 * u64::from(pasid & 63);
    let words = [0, 8, 16, 24, 32, 40, 48, 56].map(|n| sight.word(at + n));
    (words[0] & 1 != 0).then_some(words)
}

impl Oracle {
    fn at_rest(&mut self, sight: &mut Sight<'_>) {
        // Whatever words belong together have been stored.
        self.touched.clear();
        if let Some(cache) = sight.unit.commands.owed(sight.unit.state.translation, sight.unit.state.remapping) {
            sight.report(
                Rule::GlobalInvalidation,
                format_args!("at rest, the {cache} has not been invalidated globally"),
            );
        }
        self.check_absent(sight);
        self.check_dark(sight);
        if sight.unit.state.translation {
            self.check_contexts(sight);
            self.check_pasids(sight);
            self.check_translations(sight);
        }
        if sight.unit.state.remapping {
            self.check_interrupts(sight);
        }
    }

    /// Present entries are as the unit sees them.
    fn check_dark(&mut self, sight: &mut Sight<'_>) {
        let separate = sight.separate();
        let mut known = None;
        self.dark.retain(|at, kind| {
            let size = 8 * kind.words() as u64;
            let entry = (at & !0xfff) + (at & 0xfff) / size * size;
            let [now, seen] = sight.views(*at);
            let dark = (now ^ seen) & kind.meaning() != 0;
            let [first, before] = sight.views(entry);
            // What is absent, or was present already, may be flushed with an invalidation that is to come.
            let news = kind.present(&[first], separate) && !kind.present(&[before], separate);
            if dark && news && known.is_none() {
                known = Some((*at, *kind, now, seen));
            }
            dark
        });
        if let Some((at, kind, now, seen)) = known {
            let what = format_args!("{kind:x?} entry: {at:#x} holds {now:#x}, the unit sees {seen:#x}");
            sight.report(Rule::NotVisible, what);
        }
    }

    /// An invalidation takes effect that names an entry: what was taken away there must be visible.
    pub(super) fn check_lines(&mut self, sight: &mut Sight<'_>, what: &Invalidation) {
        if self.dark.is_empty() {
            return;
        }
        let separate = sight.separate();
        let dark: Vec<(u64, Kind)> = self.dark.iter().map(|(at, kind)| (*at, *kind)).collect();
        for (at, kind) in dark {
            let size = 8 * kind.words() as u64;
            let (page, index) = (at & !0xfff, (at & 0xfff) / size);
            let entry = page + index * size;
            let [now, seen] = sight.views(entry);
            if kind.present(&[now], separate) || !kind.present(&[seen], separate) {
                continue;
            }
            let Some(place) = self.map.place(page, kind) else { continue };
            let serves = place.base.wrapping_add(index.wrapping_mul(kind.span()));
            let covers = |pages: &Pages| {
                let order = u32::from(pages.order) + 12;
                let last = serves.saturating_add(kind.span() - 1);
                order >= 64 || pages.address >> order == serves >> order && pages.address >> order == last >> order
            };
            let domain = |did: u16| {
                let mut entries = self.map.known.values();
                entries.any(|meaning| meaning.domain == did && meaning.second.is_some_and(|(top, _)| top == place.top))
            };
            let named = match (kind, what) {
                (Kind::Second(_), Invalidation::IotlbPages(did, pages)) => domain(*did) && covers(pages),
                (Kind::Context | Kind::ScalableContext, Invalidation::ContextOfDevice { source, mask: 0, .. }) => {
                    u64::from(*source) == serves
                }
                _ => false,
            };
            if named {
                let what =
                    format_args!("{kind:x?} entry at {at:#x} is invalidated; the unit still sees {seen:#x} there");
                sight.report(Rule::NotVisible, what);
                self.dark.remove(&at);
            }
        }
    }

    fn check_contexts(&mut self, sight: &mut Sight<'_>) {
        let unit = sight.unit;
        for (source, entry) in unit.caches.contexts() {
            let now = context(sight, source);
            match (entry, now) {
                (Cached::Valid(held), now) if now != Some(held.words) => {
                    let what = format_args!("context entry of {source:#x}: {:x?} is held, {now:x?} stands", held.words);
                    sight.report(Rule::EntryNotInvalidated, what);
                }
                (Cached::Faulting(reason), Some(_)) if absent(reason.0) => {
                    sight.report(Rule::MapNotInvalidated, format_args!("context entry of {source:#x}"));
                }
                _ => {}
            }
        }
    }

    fn check_pasids(&mut self, sight: &mut Sight<'_>) {
        let unit = sight.unit;
        for (source, pasid, entry) in unit.caches.pasids() {
            let now = pasid_entry(sight, source, pasid);
            match (entry, now) {
                (Cached::Valid(held), now) if now != Some(held.words) => {
                    let what = format_args!("PASID entry of {source:#x}, PASID {pasid:#x}: {:x?} is held", held.words);
                    sight.report(Rule::EntryNotInvalidated, what);
                }
                (Cached::Faulting(reason), Some(_)) if absent(reason.0) => {
                    sight.report(Rule::MapNotInvalidated, format_args!("PASID entry of {source:#x}, PASID {pasid:#x}"));
                }
                _ => {}
            }
        }
    }

    fn check_translations(&mut self, sight: &mut Sight<'_>) {
        let unit = sight.unit;
        for t in unit.caches.translations() {
            let (source, first) = (t.source, t.first);
            match &t.found {
                Cached::Faulting(reason) => {
                    let read = sight.mapped(source, t.asked, first);
                    if absent(reason.0) && read {
                        sight.report(Rule::MapNotInvalidated, format_args!("{first:#x} of {source:#x}"));
                    }
                }
                Cached::Valid(_) => {
                    let now = match unit.state.mode {
                        Mode::Legacy => context(sight, source).map(|words| ContextEntry([words[0], words[1]]).domain()),
                        _ => pasid_entry(sight, source, t.pasid).map(|words| words[1] as u16),
                    };
                    if now != Some(t.domain) {
                        let what =
                            format_args!("{first:#x} of {source:#x}: domain {:#x} is held, {now:x?} stands", t.domain);
                        sight.report(Rule::EntryNotInvalidated, what);
                    }
                }
            }
        }
    }

    fn check_interrupts(&mut self, sight: &mut Sight<'_>) {
        let unit = sight.unit;
        for (index, entry) in unit.caches.interrupts() {
            let at = unit.state.interrupts.wrapping_add(16 * u64::from(index));
            let now = [sight.word(at), sight.word(at + 8)];
            match entry {
                Cached::Valid(held) if *held != now => {
                    let what = format_args!("interrupt-remapping entry {index:#x}: {held:x?} is held, {now:x?} stands");
                    sight.report(Rule::EntryNotInvalidated, what);
                }
                Cached::Faulting(reason) if reason.0 == 0x22 && now[0] & 1 != 0 => {
                    sight.report(Rule::MapNotInvalidated, format_args!("interrupt-remapping entry {index:#x}"));
                }
                _ => {}
            }
        }
    }
}

/// Whether a fault says that something is not present: entries, or paging entries without rights.
fn absent(reason: u8) -> bool {
    matches!(reason, 0x01 | 0x02 | 0x05 | 0x06 | 0x39 | 0x41 | 0x51 | 0x59 | 0x79)
}

impl Oracle {
    /// A request met reserved bits in a present entry: software's, if they stand in what software wrote, and are not a guest's.
    fn check_reserved(&mut self, sight: &mut Sight<'_>, request: &Request, reason: Reason) {
        let mut cpu = super::Cpu { bus: sight.bus };
        let again = match sight.unit.look(&mut cpu, request) {
            Answer::Blocked(fault) => Some(fault.reason),
            Answer::Translated(translated) => translated.because,
            _ => None,
        };
        if again != Some(reason) {
            return;
        }
        if reason == Reason::SFS_3 {
            let rid = context(sight, request.source).map(|words| ScalableContextEntry(words).rid_pasid());
            let Some(pasid) = request.pasid.or(rid) else { return };
            let entry = pasid_entry(sight, request.source, pasid).map(PasidEntry);
            if entry.is_none_or(|entry| entry.get(PasidEntry::PGTT) != 1) {
                return;
            }
        }
        let (address, source) = (request.address, request.source);
        sight.report(Rule::ReservedEntryBit, format_args!("{reason:?} for {address:#x} of {source:#x}"));
    }
}

/// The reasons that tell of reserved bits in entries.
const RESERVED: [Reason; 9] = [
    Reason::LRT_3,
    Reason::LCT_3,
    Reason::LSS_2,
    Reason::SRT_3,
    Reason::SCT_3,
    Reason::SPD_3,
    Reason::SPT_3,
    Reason::SFS_3,
    Reason::SSS_3,
];

impl Sight<'_> {
    /// Whether the tables, as software wrote them, lead from an input address anywhere.
    fn mapped(&mut self, source: SourceId, pasid: Option<Pasid>, from: u64) -> bool {
        let mut cpu = super::Cpu { bus: self.bus };
        [Access::Read, Access::Write].into_iter().any(|access| {
            let request = Request { pasid, length: 1, ..Request::new(source, access, from) };
            matches!(self.unit.look(&mut cpu, &request), Answer::Passed(_))
        })
    }
}

impl Unit {
    /// A request was denied something.
    pub(crate) fn watch_denial(&mut self, bus: &mut dyn Bus, request: &Request, reason: Option<Reason>) {
        if let Some(reason) = reason.filter(|reason| RESERVED.contains(reason)) {
            self.watch(bus, |oracle, sight| oracle.check_reserved(sight, request, reason));
        }
    }
    /// Software says that it has done all that it owes: no call of it is under way. Taking mappings away may be owed still, as
    /// long as their memory is kept.
    pub fn at_rest(&mut self, bus: &mut dyn Bus) {
        self.watch(bus, |oracle, sight| oracle.at_rest(sight));
    }
}
