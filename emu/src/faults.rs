//! Fault recording (7.2): the fault-recording registers, overflow, the fault event.

use crate::bus::Bus;
use crate::reason::Reason;
use crate::request::{Access, Kind, Pasid, SourceId};
use crate::unit::Unit;

/// What is recorded of a fault (11.4.7.6 of the register chapter).
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

/// The fault-recording registers.
#[derive(Clone, Debug, Default)]
pub(crate) struct FaultLog {}

impl Unit {
    /// Records a fault, or overflows.
    pub(crate) fn record(&mut self, _bus: &mut dyn Bus, _record: Record) {}
}
