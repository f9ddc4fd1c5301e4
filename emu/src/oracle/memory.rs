//! Memory that software was given and gives back (6.2, 6.5.2.9, 6.5.3.6).

use super::{Oracle, Rule, Sight};
use crate::bus::Bus;
use crate::caches::{Cached, Stage};
use crate::command::QIE;
use crate::story::Happening;
use crate::unit::Unit;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// Ranges of memory that were given back and not handed out again: first and last byte. They do not overlap.
#[derive(Clone, Debug, Default)]
pub(super) struct Freed {
    ranges: BTreeMap<u64, u64>,
}

impl Freed {
    fn has(&self, at: u64) -> bool {
        self.ranges.range(..=at).next_back().is_some_and(|(_, last)| at <= *last)
    }
    fn add(&mut self, first: u64, last: u64) {
        self.remove(first, last);
        self.ranges.insert(first, last);
    }
    fn remove(&mut self, first: u64, last: u64) {
        let touched: Vec<(u64, u64)> =
            self.ranges.range(..=last).rev().map(|(f, l)| (*f, *l)).take_while(|(_, l)| *l >= first).collect();
        for (f, l) in touched {
            self.ranges.remove(&f);
            if f < first {
                self.ranges.insert(f, first - 1);
            }
            if l > last {
                self.ranges.insert(last + 1, l);
            }
        }
    }
}

impl Oracle {
    /// The status of a wait is to be written, or is about to be.
    pub(super) fn check_status(&mut self, sight: &mut Sight<'_>, at: u64) {
        if self.freed.has(at) {
            sight.report(Rule::StatusFreed, format_args!("status of a wait at {at:#x}"));
        }
    }

    fn freed(&mut self, sight: &mut Sight<'_>, first: u64, last: u64) {
        self.check_table(sight, first, last);
        if sight.unit.state.translation {
            self.check_data(sight, first, last);
            self.check_given(sight, first, last);
        }
        let queue = &sight.unit.queue;
        if sight.unit.commands.status & QIE != 0 {
            let (base, size) = queue.memory();
            if first <= base.saturating_add(size - 1) && base <= last {
                sight.report(Rule::QueueFreed, format_args!("queue of {size:#x} bytes at {base:#x}"));
            }
        }
        let status = sight.unit.queue.statuses().find(|at| (first..=last).contains(at));
        if let Some(at) = status {
            sight.report(Rule::StatusFreed, format_args!("status of a pending wait at {at:#x}"));
        }
        self.forget_retired(first, last);
        self.freed.add(first, last);
    }

    fn check_table(&mut self, sight: &mut Sight<'_>, first: u64, last: u64) {
        let state = &sight.unit.state;
        let (base, entries) = (state.interrupts, u64::from(state.interrupt_entries));
        if state.remapping && first < base.saturating_add(16 * entries) && base <= last {
            sight.report(Rule::LiveTableFreed, format_args!("interrupt-remapping table at {base:#x}"));
        }
        if !state.translation {
            return;
        }
        if let Some((page, kind)) = self.map.within(first, last) {
            sight.report(Rule::LiveTableFreed, format_args!("{kind:x?} table at {page:#x}"));
        } else if let Some(held) = sight.unit.caches.holds_pages(first, last) {
            sight.report(Rule::CachedTableFreed, format_args!("{first:#x} to {last:#x}: {held:x?}"));
        }
    }

    /// Data may be given back while it is mapped: identity maps map everything. Not so where software has taken the mapping
    /// away and the caches do not know it yet.
    fn check_data(&mut self, sight: &mut Sight<'_>, first: u64, last: u64) {
        let unit = sight.unit;
        for t in unit.caches.translations().filter(|t| t.stage != Stage::PassThrough) {
            let Cached::Valid(leaf) = &t.found else { continue };
            let end = leaf.physical.saturating_add(leaf.size - 1);
            if leaf.physical > last || first > end {
                continue;
            }
            let to = leaf.physical.max(first);
            let from = leaf.first + (to - leaf.physical);
            if !sight.stands(t, from) {
                let (source, pasid) = (t.source, t.asked);
                let what =
                    format_args!("{to:#x}: the IOTLB translates {from:#x} of {source:#x}, PASID {pasid:x?}, to it");
                sight.report(Rule::DataFreed, what);
                return;
            }
        }
    }
}

impl Unit {
    /// Software was given memory: first and last byte.
    pub fn allocated(&mut self, first: u64, last: u64) {
        self.tell(Happening::Allocated(first, last));
        if self.oracle.on && first <= last {
            self.oracle.freed.remove(first, last);
        }
    }
    /// Software gives memory back: first and last byte.
    pub fn freed(&mut self, bus: &mut dyn Bus, first: u64, last: u64) {
        self.tell(Happening::Freed(first, last));
        if first <= last {
            self.watch(bus, |oracle, sight| oracle.freed(sight, first, last));
        }
    }
    /// A wait with a status was fetched, or completes.
    pub(crate) fn watch_status(&mut self, bus: &mut dyn Bus, at: u64) {
        self.watch(bus, |oracle, sight| oracle.check_status(sight, at));
    }
}
