//! Interrupt remapping and posting (chapter 5).

use crate::bus::Bus;
use crate::reason::Reason;
use crate::request::SourceId;
use crate::unit::Unit;

/// A DWORD write to the interrupt address range, from a device or an I/O APIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InterruptRequest {
    /// Who asks.
    pub source: SourceId,
    /// Message address.
    pub address: u64,
    /// Message data.
    pub data: u32,
}

/// What became of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InterruptAnswer {
    /// It went on to the CPUs as it was: remapping is off, or compatibility format passes.
    Passed,
    /// It went on remapped: message address and data.
    Remapped(u64, u32),
    /// It was posted; whether a notification went out.
    Posted(bool),
    /// It was blocked.
    Blocked(Reason),
}

impl Unit {
    /// An interrupt request.
    pub fn interrupt(&mut self, _bus: &mut dyn Bus, _request: &InterruptRequest) -> InterruptAnswer {
        InterruptAnswer::Passed
    }
}
