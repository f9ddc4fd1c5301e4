//! The oracle: what software owes the hardware, and each time that it did not pay.
//!
//! It follows the tables that are live, as CPUs see them, from the root on through every store that it is told of; it knows what
//! the caches hold, what memory was given back, what the queue was asked for and what devices were given. A breach is one
//! that the specification names; where software may still make good what it has not done yet, nothing is said until it says
//! itself that it is done ([`Unit::at_rest`]).

mod devices;
mod entries;
mod map;
mod memory;
mod rest;
mod stores;
#[cfg(test)]
mod tests;

use crate::bus::{Bus, Snoop};
use crate::caches::{Cached, Translation};
use crate::reason::Reason;
use crate::request::{Access, Answer, Kind, Pasid, Request, SourceId};
use crate::unit::Unit;
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use devices::Devices;
use map::Map;
use memory::Freed;

/// A duty of software; each names the section that demands it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[non_exhaustive]
pub enum Rule {
    /// A command or register write came before what it needs, or while it was not allowed (11.4.4).
    CommandOrder,
    /// A reserved bit was set in a register, or a reserved value (11.2).
    ReservedBit,
    /// A register was accessed in a size that it does not have (11.2).
    AccessSize,
    /// Remapping was enabled after SRTP or SIRTP without the global invalidations that units without ESRTPS or ESIRTPS need
    /// (6.6, 6.7).
    GlobalInvalidation,
    /// The tail of the invalidation queue went past its head, or backwards (6.5.2).
    QueueOverrun,
    /// A wait descriptor's status goes where there is no memory, or to the interrupt range (6.5.2.9).
    StatusAddress,
    /// The head of the page-request queue went past its tail, or out of the queue (7.4.1).
    PageRequestQueue,
    /// A page-group response that no last request of a group in the queue asks for: never asked for, answered before, or of a
    /// code that is reserved (7.6).
    GroupResponse,
    /// A second-stage mapping under nesting is read-only, on a unit with erratum 772415.
    ReadOnlyUnderNesting,
    /// A context, PASID or interrupt-remapping entry was changed, while it was present, by several stores that belong together:
    /// hardware may have read what stood there in between (6.2.2.1, 6.2.3.1, 9.9). Either one 16-byte store, or P last.
    TornEntry,
    /// One store to a present paging entry changed the size of pages together with their frames, rights or attributes: for a
    /// time both translations may be used (6.5.3.3). The entry is to be cleared and invalidated first.
    PageSize,
    /// Two present entries have the same DID, and different second-stage tables or widths; or only one of them a second stage
    /// (6.2.2.1, 6.2.3.1).
    DomainConflict,
    /// Two present PASID entries of the same DID and PASID lead to different tables (6.2.3.1): a walk for one device goes on
    /// in the other's.
    PasidConflict,
    /// Present PASID entries have the same tables and different SSADE, FSPM or EAFE (6.2.3.1).
    TableConflict,
    /// DID 0 in a present entry of a caching-mode unit, which tags faults with it (6.2.2.1, 6.2.3.1).
    ReservedDomain,
    /// An entry became present with a DID, or a DID and PASID, under which a cache still holds what other tables said
    /// (Table 28, "Re-use Domain-ID").
    TagReused,
    /// Memory of a table was given back while hardware may read it: it is linked from a present entry, is the root, or the
    /// interrupt-remapping table (6.2, 6.5.3).
    LiveTableFreed,
    /// Memory of a table was given back while a cache still held what was reached through it (6.5.3.3): the table may be read
    /// from the middle of a walk.
    CachedTableFreed,
    /// A table that had been unlinked serves elsewhere while a cache still held what was reached through it (6.5.3.3).
    TableReused,
    /// Memory was given back that is mapped no more, but that a cached translation, or one that a device was given, still
    /// leads to (6.5.3.6).
    DataFreed,
    /// A request met a reserved bit in a present entry (chapter 9).
    ReservedEntryBit,
    /// The status of a wait goes to memory that was given back (6.5.2.9).
    StatusFreed,
    /// The invalidation queue was given back while it was enabled (6.5.2).
    QueueFreed,
    /// A device-TLB invalidation was queued before the IOTLB invalidation that it depends on: until that has completed, the
    /// device may fetch the old translation again (6.5.2.5, 6.5.2.6).
    DeviceOrder,
    /// ATS requests of a device were blocked, or its context entry lost its presence, while its device TLB may have held
    /// translations: a full invalidation was to complete before, with DMA quiesced (4.5.2); where P was cleared, after the
    /// IOTLB's at the latest (Table 28).
    DeviceBlocked,
    /// Software is at rest, and a caching-mode unit holds a fault for what is present by now (6.1, 6.5.3.3).
    MapNotInvalidated,
    /// Software is at rest, or has invalidated it, and the unit does not see an entry as software wrote it: the line was not
    /// flushed (ECAP.C, SMPWCS), or the write buffers were not (6.8). A new table is to be visible before it is linked.
    NotVisible,
    /// Software is at rest, and a cache holds a context, PASID or interrupt-remapping entry that has changed since, or a
    /// translation of a domain that the device has left (6.2.2.1, 6.2.3.1, Table 28).
    EntryNotInvalidated,
}

/// A rule was broken.
#[derive(Clone, Debug)]
pub struct Breach {
    /// Which.
    pub rule: Rule,
    /// When, in nanoseconds.
    pub at: u64,
    /// What exactly.
    pub what: String,
    /// What led to it, one happening a line.
    pub history: String,
}

/// The oracle of one unit.
#[derive(Clone, Debug)]
pub struct Oracle {
    on: bool,
    /// Other units may read the same tables.
    company: bool,
    breaches: Vec<Breach>,
    map: Map,
    freed: Freed,
    devices: Devices,
    /// Which words of present entries software has changed since it last invalidated: by address of the entry, bit by bit.
    touched: BTreeMap<u64, u8>,
    /// Words of live tables that the unit did not see as software wrote them.
    dark: BTreeMap<u64, map::Kind>,
}

/// How many breaches are kept: the first are what matters.
const MOST: usize = 256;

impl Default for Oracle {
    fn default() -> Self {
        Oracle {
            on: true,
            company: false,
            breaches: Vec::new(),
            map: Map::default(),
            freed: Freed::default(),
            devices: Devices::default(),
            touched: BTreeMap::new(),
            dark: BTreeMap::new(),
        }
    }
}

impl Oracle {
    /// What was broken so far: the first 256 breaches.
    pub fn breaches(&self) -> &[Breach] {
        &self.breaches
    }
    /// What was broken since the last call: whoever takes it has seen it.
    pub fn take(&mut self) -> Vec<Breach> {
        core::mem::take(&mut self.breaches)
    }
}

/// What the oracle looks at while it judges.
struct Sight<'a> {
    unit: &'a Unit,
    bus: &'a mut dyn Bus,
    found: Vec<(Rule, String)>,
}

impl Sight<'_> {
    /// What software has written to a word.
    fn word(&mut self, at: u64) -> u64 {
        self.bus.read64(at, Snoop::Yes).unwrap_or(0)
    }
    fn report(&mut self, rule: Rule, what: core::fmt::Arguments<'_>) {
        self.found.push((rule, what.to_string()));
    }
    /// Whether a cached translation still stands in the tables, at an address of its page and for what it lets users do;
    /// supervisors' pages are not judged.
    fn stands(&mut self, t: &Translation, from: u64) -> bool {
        let Cached::Valid(leaf) = &t.found else { return true };
        let rights = (leaf.read, leaf.write && leaf.first_rights.write);
        let to = leaf.physical.wrapping_add(from.wrapping_sub(leaf.first));
        !leaf.first_rights.user || self.leads(t.source, t.asked, from, to, rights)
    }
    /// Whether the tables, as software wrote them, still lead from an input address to a physical one, with these rights.
    fn leads(&mut self, source: SourceId, pasid: Option<Pasid>, from: u64, to: u64, rights: (bool, bool)) -> bool {
        let request = Request { pasid, length: 1, ..Request::new(source, Access::Read, from) };
        let mut cpu = Cpu { bus: self.bus };
        [(rights.0, Access::Read), (rights.1, Access::Write)].into_iter().filter(|(wanted, _)| *wanted).all(
            |(_, access)| match self.unit.look(&mut cpu, &Request { access, ..request.of(Kind::Untranslated) }) {
                Answer::Passed(passed) => passed.address == to,
                // Protected memory: that is not the tables' word.
                Answer::Blocked(fault) => fault.reason == Reason::NONE,
                _ => false,
            },
        )
    }
}

/// Memory as CPUs see it, to be looked at only.
struct Cpu<'a> {
    bus: &'a mut dyn Bus,
}

impl Bus for Cpu<'_> {
    fn read64(&mut self, at: u64, _snoop: Snoop) -> Option<u64> {
        self.bus.read64(at, Snoop::Yes)
    }
    fn read128(&mut self, at: u64, _snoop: Snoop) -> Option<[u64; 2]> {
        self.bus.read128(at, Snoop::Yes)
    }
    fn write64(&mut self, _at: u64, _v: u64) -> Option<()> {
        None
    }
    fn write32(&mut self, _at: u64, _v: u32) -> Option<()> {
        None
    }
    fn compare_exchange64(&mut self, _at: u64, _old: u64, _new: u64) -> Option<u64> {
        None
    }
    fn message(&mut self, _address: u64, _data: u32) {}
    fn invalidate_device(&mut self, _request: crate::bus::DeviceInvalidation) {}
    fn device_invalidated(&mut self, _source: SourceId, _tag: u8) -> bool {
        false
    }
    fn respond(&mut self, _response: crate::bus::GroupResponse) {}
}

impl Unit {
    /// Other units may read the same tables. What is linked here may then be live there, and a CPU on the way between a store
    /// to it and the flush: whether this unit sees it is judged at rest.
    pub(crate) fn has_company(&mut self) {
        self.oracle.company = true;
    }
    /// Reports a breach.
    pub(crate) fn breach(&mut self, rule: Rule, what: core::fmt::Arguments<'_>) {
        if self.oracle.on && self.oracle.breaches.len() < MOST {
            let breach = Breach { rule, at: self.now, what: what.to_string(), history: self.story.text() };
            self.oracle.breaches.push(breach);
        }
    }
    /// The oracle's findings.
    pub fn oracle(&self) -> &Oracle {
        &self.oracle
    }
    /// The oracle's findings, to be taken.
    pub fn oracle_mut(&mut self) -> &mut Oracle {
        &mut self.oracle
    }
    /// Switches the oracle off, for speed, or on again: then it reads the live tables anew.
    pub fn set_oracle(&mut self, bus: &mut dyn Bus, on: bool) {
        let breaches = self.oracle.take();
        self.oracle = Oracle { on, breaches, ..Oracle::default() };
        self.watch_tables(bus);
    }
    /// Has the oracle look at something, and reports what it found.
    fn watch(&mut self, bus: &mut dyn Bus, look: impl FnOnce(&mut Oracle, &mut Sight<'_>)) {
        if !self.oracle.on {
            return;
        }
        let mut oracle = core::mem::take(&mut self.oracle);
        let mut sight = Sight { unit: self, bus, found: Vec::new() };
        look(&mut oracle, &mut sight);
        let found = sight.found;
        self.oracle = oracle;
        for (rule, what) in found {
            self.breach(rule, format_args!("{what}"));
        }
    }
}
