//! Fault recording (7.2, 7.3; 11.4.7): the fault-recording registers, overflow, the status bits, the fault event.

use crate::bus::Bus;
use crate::profile::{Profile, below};
use crate::reason::Reason;
use crate::request::{Access, Kind, Pasid, SourceId};
use crate::unit::Unit;
use alloc::vec;
use alloc::vec::Vec;

/// What is recorded of a fault (11.4.7.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Record {
    pub(crate) reason: Reason,
    pub(crate) source: SourceId,
    pub(crate) pasid: Option<Pasid>,
    pub(crate) privileged: bool,
    pub(crate) execute: bool,
    pub(crate) kind: RecordKind,
    /// The faulting address; for interrupt faults the index in 63:48.
    pub(crate) address: u64,
}

/// Which transaction faulted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum RecordKind {
    Memory(Kind, Access),
    PageRequest,
    Interrupt,
}

// Bits of FSTS.
const PFO: u32 = 1;
const PPF: u32 = 1 << 1;
/// An invalidation queue error.
pub(crate) const IQE: u32 = 1 << 4;
/// An unexpected completion of a device-TLB invalidation.
pub(crate) const ICE: u32 = 1 << 5;
/// A device-TLB invalidation has timed out.
pub(crate) const ITE: u32 = 1 << 6;

const F: u64 = 1 << 63;

/// The fault-recording registers and FSTS.
#[derive(Clone, Debug)]
pub(crate) struct FaultLog {
    records: Vec<[u64; 2]>,
    /// Where the next fault goes.
    index: usize,
    /// FRI.
    first: usize,
    /// PFO, IQE, ICE, ITE.
    status: u32,
    /// Records with F set.
    pending: usize,
}

impl FaultLog {
    pub(crate) fn new(profile: &Profile) -> Self {
        FaultLog { records: vec![[0; 2]; profile.nfr() as usize + 1], index: 0, first: 0, status: 0, pending: 0 }
    }
    /// FSTS.
    pub(crate) fn status(&self) -> u32 {
        self.status | if self.pending != 0 { PPF } else { 0 } | (self.first as u32 & 0xff) << 8
    }
    /// Whether any of these status bits is set.
    pub(crate) fn has(&self, bits: u32) -> bool {
        self.status & bits != 0
    }
    /// A double word of a record.
    pub(crate) fn read(&self, n: usize, word: u32) -> u32 {
        let record = self.records.get(n).copied().unwrap_or_default();
        let half = if word & 2 != 0 { record[1] } else { record[0] };
        (half >> (32 * (word & 1))) as u32
    }
    /// Both kinds of remapping are off: recording begins anew at the first register (7.2.1).
    pub(crate) fn rewind(&mut self) {
        self.index = 0;
    }
    /// Software has not seen to everything yet (7.3).
    fn unserviced(&self) -> bool {
        self.status != 0 || self.pending != 0
    }
}

/// The record as FRCD shows it.
fn encode(profile: &Profile, record: &Record) -> [u64; 2] {
    let (kind, atype) = match record.kind {
        RecordKind::Interrupt => (0, 0),
        RecordKind::PageRequest => (1 << 28, 0),
        RecordKind::Memory(kind, access) => {
            let kind_bits = match access {
                Access::Write => 0,
                Access::Read | Access::Flush => 1 << 62,
                Access::Atomic => 1 << 62 | 1 << 28,
            };
            let atype = match kind {
                Kind::Untranslated => 0,
                Kind::Translation { .. } => 1,
                Kind::Translated => 2,
            };
            (kind_bits, atype)
        }
    };
    let interrupt = record.kind == RecordKind::Interrupt;
    let info = match interrupt {
        true => record.address & 0xffff << 48,
        false => record.address & !0xfff & below(profile.agaw()),
    };
    let mut high = F | kind | u64::from(record.reason.0) << 32 | u64::from(record.source);
    if profile.dt() {
        high |= atype << 60;
    }
    if let (Some(pasid), true, false) = (record.pasid, profile.pasid(), interrupt) {
        let read = matches!(record.kind, RecordKind::Memory(_, Access::Read | Access::Flush));
        high |= 1 << 31 | u64::from(record.execute && read) << 30 | u64::from(record.privileged) << 29;
        high |= u64::from(pasid & 0xf_ffff) << 40;
    }
    [info, high]
}

impl Unit {
    /// Records a fault, or overflows (7.2.1).
    pub(crate) fn record(&mut self, bus: &mut dyn Bus, record: Record) {
        let log = &self.faults;
        let same = |r: &[u64; 2]| r[1] & F != 0 && r[1] as SourceId == record.source;
        if self.is_gone() || log.has(PFO) || self.profile.compression && log.records.iter().any(same) {
            return;
        }
        let quiet = !log.unserviced();
        let log = &mut self.faults;
        let count = log.records.len();
        let Some(slot) = log.records.get_mut(log.index) else { return };
        if slot[1] & F != 0 {
            log.status |= PFO;
            return;
        }
        *slot = encode(&self.profile, &record);
        if log.pending == 0 {
            log.first = log.index;
        }
        log.pending += 1;
        log.index = (log.index + 1) % count;
        if quiet {
            self.fault_event.raise(bus);
        }
    }

    /// Sets IQE, ICE or ITE, which raises the event if software has seen to everything before (7.3).
    pub(crate) fn report(&mut self, bus: &mut dyn Bus, bit: u32) {
        let quiet = !self.faults.unserviced();
        self.faults.status |= bit;
        if quiet {
            self.fault_event.raise(bus);
        }
    }

    /// Software writes FSTS: what it writes as 1 is cleared.
    pub(crate) fn write_fsts(&mut self, v: u32) {
        self.faults.status &= !v;
        self.settle_faults();
    }

    /// Software clears the F of a record.
    pub(crate) fn clear_fault(&mut self, n: usize) {
        if let Some(record) = self.faults.records.get_mut(n).filter(|r| r[1] & F != 0) {
            record[1] &= !F;
            self.faults.pending -= 1;
            self.settle_faults();
        }
    }

    fn settle_faults(&mut self) {
        if !self.faults.unserviced() {
            self.fault_event.settle();
        }
    }
}

#[cfg(test)]
mod tests;
