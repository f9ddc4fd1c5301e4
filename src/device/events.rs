//! What a device reports, decoded and delivered to whoever owns it.

use crate::host::address::{DeviceId, Iova, Pasid, SourceId, UnitId};
use crate::hw::faults::{Access, FaultRecord, Reason};
use core::fmt;

/// How a host hears of a device's events. Called from `Vtd::service` only, with no lock of the driver held: may call
/// the driver.
pub trait Events: Send + Sync {
    /// A request of the device was blocked.
    fn fault(&self, f: &Fault);
    /// At least `count` more faults happened than were delivered: the unit's registers or the driver's log overflowed,
    /// or the device faults faster than `Config::faults_per_service` lets through.
    fn lost(&self, count: u64) {
        let _ = count;
    }
    /// The device did not answer an invalidation of its translation cache in time, or was taken out ([`Vtd::removed`]). It is
    /// blocked, and its cache of no use to it; the other devices of its group, and of its domains, go on. After an answer that
    /// did not come `Group::reset` brings it back.
    ///
    /// [`Vtd::removed`]: crate::Vtd::removed
    fn isolated(&self, d: DeviceId) {
        let _ = d;
    }
}

/// A blocked request, decoded. It prints as a sentence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The unit that blocked it.
    pub unit: UnitId,
    /// The device, where the requester id is one of a device's that the driver knows.
    pub device: Option<DeviceId>,
    /// The requester id that the unit recorded: the device's own, or that of a bridge above it.
    pub source: SourceId,
    /// The PASID of the request.
    pub pasid: Option<Pasid>,
    /// The page that it asked for. For interrupt requests: the index into the remapping table.
    pub address: Iova,
    /// What the device tried.
    pub attempt: Access,
    /// Why it was blocked.
    pub reason: Reason,
    /// The request asked for supervisor privilege.
    pub privileged: bool,
    /// The request wanted to execute.
    pub execute: bool,
}

impl Fault {
    /// Decodes a record of `unit`.
    pub(crate) fn decode(unit: UnitId, device: Option<DeviceId>, r: FaultRecord) -> Self {
        Fault {
            unit,
            device,
            source: SourceId(r.source()),
            pasid: r.pasid().and_then(Pasid::new),
            address: Iova::at(r.address()),
            attempt: r.access(),
            reason: r.reason(),
            privileged: r.privileged(),
            execute: r.execute(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.unit)?;
        match self.device {
            Some(d) if d.source == self.source => write!(f, "device {d}")?,
            Some(d) => write!(f, "device {d} (as {})", self.source)?,
            None => write!(f, "unknown requester {}", self.source)?,
        }
        if let Some(p) = self.pasid {
            write!(f, ", PASID {:#x}", p.get())?;
        }
        let extra = match (self.privileged, self.execute) {
            (false, false) => "",
            (true, false) => "privileged ",
            (false, true) => "executing ",
            (true, true) => "privileged executing ",
        };
        let attempt = match self.attempt {
            Access::Read => "read",
            Access::Write => "write",
            Access::Atomic => "atomic operation",
            Access::PageRequest => "page request",
        };
        write!(f, ": {extra}{attempt} at {:#x} blocked: ", self.address)?;
        write!(f, "{} ({}, {:#04x})", self.reason.text(), self.reason.name(), self.reason.0)
    }
}
