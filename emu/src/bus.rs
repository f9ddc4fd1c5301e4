//! What a unit reaches: memory, the devices below it, and the interrupt controllers above it.

use crate::request::{Pasid, SourceId};

/// Whether a read sees what CPUs have in their caches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Snoop {
    /// It does.
    Yes,
    /// It sees what has left them (and, with CAP.RWBF, the chipset's write buffers).
    No,
}

/// An ATS invalidation request on its way to a device (4.1, 6.5.2.5, 6.5.2.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceInvalidation {
    /// The unit's tag for the completion.
    pub tag: u8,
    /// The function.
    pub source: SourceId,
    /// With `p_dev_tlb`: the PASID.
    pub pasid: Option<Pasid>,
    /// The message's global bit: every PASID.
    pub global: bool,
    /// First address.
    pub address: u64,
    /// Last address; `u64::MAX` where everything is meant.
    pub last: u64,
}

/// A page-group response on its way to a device (7.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GroupResponse {
    /// The function.
    pub source: SourceId,
    /// With PP: the PASID.
    pub pasid: Option<Pasid>,
    /// Page-request group index.
    pub group: u16,
    /// 0 success, 1 invalid request, 15 failure; others are reserved.
    pub code: u8,
}

/// What a unit reaches. Everything it does outside itself goes through here, during a call of one of its methods.
pub trait Bus {
    /// Reads 64 aligned bits; `None`: there is no memory.
    fn read64(&mut self, at: u64, snoop: Snoop) -> Option<u64>;
    /// Reads 128 aligned bits in one step.
    fn read128(&mut self, at: u64, snoop: Snoop) -> Option<[u64; 2]>;
    /// Writes 64 aligned bits, coherently.
    fn write64(&mut self, at: u64, v: u64) -> Option<()>;
    /// Writes 32 aligned bits, coherently.
    fn write32(&mut self, at: u64, v: u32) -> Option<()>;
    /// Stores `new` where `old` stands, in one coherent step; says what stood there.
    fn compare_exchange64(&mut self, at: u64, old: u64, new: u64) -> Option<u64>;
    /// The chipset's write buffers reach memory (6.8).
    fn flush_write_buffers(&mut self) {}
    /// An interrupt of the unit itself, or a remapped one on its way to a CPU: message address (with the x2APIC bits in
    /// 63:40) and data.
    fn message(&mut self, address: u64, data: u32);
    /// An invalidation request leaves for a device.
    fn invalidate_device(&mut self, request: DeviceInvalidation);
    /// Whether the completion of `tag` by `source` has come back since; asked until it has or the unit gives up.
    fn device_invalidated(&mut self, source: SourceId, tag: u8) -> bool;
    /// A page-group response leaves for a device.
    fn respond(&mut self, response: GroupResponse);
}
