//! What a test can make a unit do to its driver. Nothing of it happens unless asked for.

use crate::bus::Bus;
use crate::faults::{Record, RecordKind};
use crate::reason::Reason;
use crate::request::{Access, Kind, SourceId};
use crate::unit::Unit;
use alloc::collections::BTreeSet;

/// The misfortunes of a unit; [`Unit::adversary`] is the way to them.
#[derive(Clone, Debug, Default)]
pub struct Adversary {
    /// Bits of GCMD whose command is never completed.
    pub stuck_commands: u32,
    /// Invalidations through CCMD and IOTLB, and changes of PMEN, are never completed.
    pub stuck_registers: bool,
    /// Descriptors are fetched and never completed.
    pub stuck_queue: bool,
    /// The descriptor that is fetched after so many others is found invalid, whatever it is (IQE, code 4).
    pub queue_error: Option<u64>,
    /// Devices whose completions of device-TLB invalidations are lost: each of them times out (ITE).
    pub lost_completions: BTreeSet<SourceId>,
    /// After so many more register accesses the unit is gone: it reads as all ones and does nothing any more.
    pub gone_after: Option<u64>,
    /// In so many percent of its steps the unit sends a fault or an invalidation event interrupt for nothing.
    pub spurious: u8,
}

impl Adversary {
    /// Counts a register access; whether the unit is gone.
    pub(crate) fn gone(&mut self) -> bool {
        match &mut self.gone_after {
            None => false,
            Some(0) => true,
            Some(n) => {
                *n -= 1;
                false
            }
        }
    }
    /// Counts a descriptor; whether it is to be found invalid.
    pub(crate) fn spoils(&mut self) -> bool {
        match &mut self.queue_error {
            None => false,
            Some(0) => {
                self.queue_error = None;
                true
            }
            Some(n) => {
                *n -= 1;
                false
            }
        }
    }
}

impl Unit {
    /// What is to go wrong.
    pub fn adversary(&mut self) -> &mut Adversary {
        &mut self.adversary
    }
    /// As many faults as it takes to overflow the fault-recording registers: requests of sources from `first` on that find no
    /// context entry.
    pub fn flood_faults(&mut self, bus: &mut dyn Bus, first: SourceId) {
        for n in 0..=self.profile.nfr() as u16 + 1 {
            let record = Record {
                reason: Reason(0x02),
                source: first.wrapping_add(n),
                pasid: None,
                privileged: false,
                execute: false,
                kind: RecordKind::Memory(Kind::Untranslated, Access::Write),
                address: u64::from(n) << 12,
            };
            self.record(bus, record);
        }
    }
    /// A completion of device-TLB invalidations arrives that the unit did not ask `bus` for: bit n of `tags` is ITag n (4.3).
    pub fn device_completion(&mut self, bus: &mut dyn Bus, source: SourceId, tags: u32) {
        if !matches!(self.adversary.gone_after, Some(0)) {
            self.complete_tags(bus, source, tags);
        }
    }
}
