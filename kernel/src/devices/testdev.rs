//! QEMU's `iommu-testdev` (1b36:0005): writes a pattern through the IOMMU at once and compares it with memory. Reads it
//! cannot; `edu` can.

use crate::pci::{self, Function};
use vtd::{DeviceId, Mmio, Registers};

const TRIGGER: u32 = 0x00;
const IOVA_LOW: u32 = 0x04;
const IOVA_HIGH: u32 = 0x08;
const LENGTH: u32 = 0x0c;
const RESULT: u32 = 0x10;
const DOORBELL: u32 = 0x14;
const ATTRIBUTES: u32 = 0x18;
const CHECK_LOW: u32 = 0x1c;
const CHECK_HIGH: u32 = 0x20;

/// What the device writes, again and again.
pub const PATTERN: u32 = 0x1234_5678;

/// How a write went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It arrived where it was to.
    Arrived,
    /// The length was 0.
    NoLength,
    /// It was stopped.
    Stopped,
    /// The place to compare with cannot be read.
    NotReadable,
    /// It went somewhere else.
    Elsewhere,
    /// The device was not told to.
    NotArmed,
    /// Something that the device's documentation does not name.
    Other(u32),
}

/// One such device.
#[derive(Clone, Copy, Debug)]
pub struct TestDevice {
    function: Function,
    registers: Mmio,
}

impl TestDevice {
    /// The machine's devices of this kind, in the order of their ids.
    pub fn all() -> impl Iterator<Item = TestDevice> {
        pci::find(0x1b36, 0x0005).filter_map(|f| {
            f.set_bus_master(true);
            Some(TestDevice { function: *f, registers: f.map(0)? })
        })
    }

    /// Its place on the bus.
    pub fn id(&self) -> DeviceId {
        self.function.id
    }

    /// Has the device write `len` bytes of the pattern to `iova` and compare them with memory at `physical`.
    pub fn write(&self, iova: u64, physical: u64, len: u32) -> Verdict {
        let r = &self.registers;
        r.write32(IOVA_LOW, iova as u32);
        r.write32(IOVA_HIGH, (iova >> 32) as u32);
        r.write32(LENGTH, len);
        r.write32(ATTRIBUTES, 0);
        r.write32(CHECK_LOW, physical as u32);
        r.write32(CHECK_HIGH, (physical >> 32) as u32);
        r.write32(DOORBELL, 1);
        // The read runs the transfer.
        r.read32(TRIGGER);
        let verdict = match r.read32(RESULT) {
            0 => Verdict::Arrived,
            0xdead_0001 => Verdict::NoLength,
            0xdead_0002 => Verdict::Stopped,
            0xdead_0003 => Verdict::NotReadable,
            0xdead_0004 => Verdict::Elsewhere,
            0xdead_0005 => Verdict::NotArmed,
            other => Verdict::Other(other),
        };
        r.write32(DOORBELL, 0);
        verdict
    }
}
