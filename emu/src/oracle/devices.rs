//! Device TLBs: what devices were given, and when software is sure that they do not have it any more (4.5.2, 6.5.2.5,
//! 6.5.2.6, 6.5.3.3).
//!
//! A device may keep all that it is given until an invalidation that covers it has completed; so this one does.

use super::map::Kind;
use super::{Oracle, Rule, Sight};
use crate::bus::{Bus, DeviceInvalidation};
use crate::caches::{Cached, Caches, Translation};
use crate::formats::{ContextEntry, ScalableContextEntry};
use crate::invalidation::Invalidation;
use crate::request::{Answer, Kind as Asked, Pasid, Request, SourceId};
use crate::unit::Unit;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

/// A translation that a device was given.
#[derive(Clone, Copy, Debug)]
struct Given {
    last: u64,
    physical: u64,
    read: bool,
    write: bool,
}

/// A translation in the IOTLB that software has changed: who asked for it, and where it begins.
type Stale = (SourceId, Option<Pasid>, u64, u64);

/// What the oracle knows of devices.
#[derive(Clone, Debug, Default)]
pub(super) struct Devices {
    given: BTreeMap<SourceId, BTreeMap<(Option<Pasid>, u64), Given>>,
    /// Sources whose context entries lost their presence while they may have held translations.
    absent: BTreeSet<SourceId>,
    /// Sources that have timed out: no completion is to be had of them, and all that software can do is to block them.
    late: BTreeSet<SourceId>,
    /// Since the last wait in the queue: what the IOTLB held still when the device's invalidation was queued; and what of that
    /// an invalidation of the IOTLB was queued for afterwards.
    early: Vec<Stale>,
    behind: Vec<Stale>,
}

fn covers(request: &DeviceInvalidation, pasid: Option<Pasid>, first: u64, last: u64) -> bool {
    let tags = request.pasid == pasid || request.global && pasid.is_some();
    tags && request.address <= last && first <= request.last
}

/// The same, as devices take it: a full invalidation without PASID is all that changed context and PASID-directory entries ask
/// for (Table 28), whatever PASIDs there are.
fn empties(request: &DeviceInvalidation, pasid: Option<Pasid>, first: u64, last: u64) -> bool {
    let full = request.pasid.is_none() && (request.address, request.last) == (0, u64::MAX);
    full || covers(request, pasid, first, last)
}

impl Devices {
    fn holds(&self, source: SourceId) -> bool {
        self.given.get(&source).is_some_and(|given| !given.is_empty())
    }
    fn flushed(&mut self, request: &DeviceInvalidation) {
        if let Some(given) = self.given.get_mut(&request.source) {
            given.retain(|(pasid, first), given| !empties(request, *pasid, *first, given.last));
            if given.is_empty() {
                self.forget(request.source);
            }
        }
    }
    fn forget(&mut self, source: SourceId) {
        self.late.remove(&source);
        self.given.remove(&source);
        self.absent.remove(&source);
    }
}

impl Oracle {
    /// A context entry has changed.
    pub(super) fn changed_context(
        &mut self,
        sight: &mut Sight<'_>,
        kind: Kind,
        source: SourceId,
        was: &[u64],
        is: &[u64],
    ) {
        if !self.devices.holds(source) {
            return;
        }
        let allows = |words: &[u64]| match kind {
            Kind::Context => ContextEntry::TT.get(words) == 1,
            _ => ScalableContextEntry::DTE.is_set(words),
        };
        let present = (was.first().is_some_and(|word| word & 1 != 0), is.first().is_some_and(|word| word & 1 != 0));
        if self.devices.late.contains(&source) && !(present.1 && allows(is)) {
            // What it may hold is of no use to it once this is in effect, which the rules of entries see to.
            self.devices.forget(source);
            return;
        }
        match present {
            (true, true) if allows(was) && !allows(is) => {
                sight.report(Rule::DeviceBlocked, format_args!("ATS requests of {source:#x}"));
            }
            (true, false) => drop(self.devices.absent.insert(source)),
            (false, true) if self.devices.absent.remove(&source) => {
                let what = "present again, and what its device was given before has not been invalidated";
                sight.report(Rule::DeviceBlocked, format_args!("context entry of {source:#x}: {what}"));
            }
            _ => {}
        }
    }

    /// Software is at rest: what lost its presence has been invalidated.
    pub(super) fn check_absent(&mut self, sight: &mut Sight<'_>) {
        for source in core::mem::take(&mut self.devices.absent) {
            if self.devices.holds(source) {
                let what = "absent, and what its device was given has not been invalidated";
                sight.report(Rule::DeviceBlocked, format_args!("context entry of {source:#x}: {what}"));
            }
        }
    }

    /// Memory is given back: no device may have been left a way to it.
    pub(super) fn check_given(&mut self, sight: &mut Sight<'_>, first: u64, last: u64) {
        for (source, given) in &self.devices.given {
            for ((pasid, from), page) in given {
                let end = page.physical.saturating_add(page.last - from);
                if page.physical > last || first > end {
                    continue;
                }
                let to = page.physical.max(first);
                let from = from + (to - page.physical);
                if !sight.leads(*source, *pasid, from, to, (page.read, page.write)) {
                    let what =
                        format_args!("{to:#x}: the device {source:#x} was given it for {from:#x}, PASID {pasid:x?}");
                    sight.report(Rule::DataFreed, what);
                    return;
                }
            }
        }
    }

    /// An invalidation of a device TLB was fetched from the queue. What the IOTLB holds for the device against the tables, and
    /// no invalidation ahead covers, the device may get again.
    fn queued_device(&mut self, sight: &mut Sight<'_>, request: &DeviceInvalidation) {
        self.devices.behind.retain(|(source, pasid, first, last)| {
            *source != request.source || !empties(request, *pasid, *first, *last)
        });
        let ahead: Vec<Invalidation> = sight.unit.queue.invalidations().collect();
        let unit = sight.unit;
        for t in unit.caches.translations() {
            let last = t.first.saturating_add(t.size - 1);
            let stale = (t.source, t.asked, t.first, last);
            if t.source == request.source
                && covers(request, t.asked, t.first, last)
                && !ahead.iter().any(|what| reaches(unit, t, what))
                && !sight.stands(t, t.first)
                && !self.devices.early.contains(&stale)
            {
                self.devices.early.push(stale);
            }
        }
    }

    fn queued_invalidation(&mut self, sight: &mut Sight<'_>, what: &Invalidation) {
        let caches = &sight.unit.caches;
        let Devices { early, behind, .. } = &mut self.devices;
        early.retain(|&(source, asked, first, last)| {
            let of = |t: &&Translation| t.source == source && t.asked == asked && t.first == first;
            let reached = caches.translations().find(of).is_none_or(|t| reaches(sight.unit, t, what));
            if reached {
                behind.push((source, asked, first, last));
            }
            !reached
        });
    }

    fn queued_wait(&mut self, sight: &mut Sight<'_>) {
        self.devices.early.clear();
        if let Some((source, pasid, first, _)) = self.devices.behind.first() {
            let what = "the IOTLB's invalidation stood behind the device's";
            sight.report(Rule::DeviceOrder, format_args!("{first:#x} of {source:#x}, PASID {pasid:x?}: {what}"));
        }
        self.devices.behind.clear();
    }
}

/// Whether an invalidation would take any of a cached translation.
fn reaches(unit: &Unit, translation: &Translation, what: &Invalidation) -> bool {
    let mut caches = Caches::new(unit.caches.keep(), 0);
    if let Cached::Valid(leaf) = &translation.found {
        caches.keep_leaf(translation.source, translation.asked, leaf.clone());
    }
    caches.invalidate(what, unit.state.mode);
    caches.translations().next() != Some(translation)
}

impl Unit {
    /// A device has lost what it was given: it was reset, unplugged, or its ATS was switched off and on again.
    pub fn device_lost(&mut self, source: SourceId) {
        self.oracle.devices.forget(source);
    }
    /// A device did not complete an invalidation in time.
    pub(crate) fn watch_late(&mut self, source: SourceId) {
        let devices = &mut self.oracle.devices;
        if devices.absent.contains(&source) {
            devices.forget(source);
        } else if devices.holds(source) {
            devices.late.insert(source);
        }
    }
    /// A device was answered.
    pub(crate) fn watch_answer(&mut self, request: &Request, answer: &Answer) {
        let (Asked::Translation { .. }, Answer::Translated(given)) = (request.kind, answer) else { return };
        if !self.oracle.on || request.privileged || given.untranslated_only || !(given.read || given.write) {
            return;
        }
        let within = given.page.max(1) - 1;
        let first = request.address & !within;
        let page =
            Given { last: first | within, physical: given.address & !within, read: given.read, write: given.write };
        self.oracle.devices.given.entry(request.source).or_default().insert((request.pasid, first), page);
    }
    /// A device has completed an invalidation.
    pub(crate) fn watch_device(&mut self, request: &DeviceInvalidation) {
        self.oracle.devices.flushed(request);
    }
    /// An invalidation of a device TLB was fetched.
    pub(crate) fn watch_queued_device(&mut self, bus: &mut dyn Bus, request: &DeviceInvalidation) {
        self.watch(bus, |oracle, sight| oracle.queued_device(sight, request));
    }
    /// An invalidation of the unit's caches was fetched.
    pub(crate) fn watch_queued(&mut self, bus: &mut dyn Bus, what: &Invalidation) {
        if !self.oracle.devices.early.is_empty() {
            self.watch(bus, |oracle, sight| oracle.queued_invalidation(sight, what));
        }
    }
    /// A wait was fetched.
    pub(crate) fn watch_queued_wait(&mut self, bus: &mut dyn Bus) {
        self.watch(bus, |oracle, sight| oracle.queued_wait(sight));
    }
}
