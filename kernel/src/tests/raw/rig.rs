//! A device, memory for it to write to, and tables that lead there: a working state, which a test then spoils.

use super::frame::Frame;
use super::reasons::Why;
use super::space::{Space, leaf};
use super::unit::RawUnit;
use crate::devices::testdev::{PATTERN, TestDevice, Verdict};
use crate::pci;
use crate::testing::{Failure, Outcome};
use crate::{check_eq, skip};
use vtd::hw::capabilities::AddressWidth;
use vtd::hw::faults::Access;
use vtd::hw::pages::{PRESENT, size};
use vtd::hw::registers::Fsts;
use vtd::hw::tables::{ContextEntry, RootEntry};
use vtd::{DeviceId, SourceId};

/// Bytes that the device writes.
const LENGTH: u32 = 64;
/// The words that it writes.
const WRITTEN: u64 = (PATTERN as u64) << 32 | PATTERN as u64;
/// The words that stand there before.
pub const BEFORE: u64 = 0xa5a5_5a5a_c3c3_3c3c;
/// The rig's domain id.
pub const DOMAIN: u16 = 7;

/// An address whose index differs from level to level, within `width`.
fn iova_within(width: AddressWidth) -> u64 {
    let top = if width == AddressWidth::Bits39 { 0 } else { 0x55 << 39 };
    top | 0x12_3456_7000
}

/// An address where there is neither memory nor a device.
pub const NOWHERE: u64 = 0x20_0000_0000;

/// The source id of the requests of `d`: on a conventional bus that of the bridge, which takes them over.
pub fn source_of(d: DeviceId) -> u16 {
    let led = pci::all().iter().find(|f| f.bridge.is_some_and(|b| b.secondary == d.source.bus()));
    match led.map(|f| (f, f.express_type())) {
        // PCI Express to PCI: in its own name on the secondary bus. A conventional bridge: as itself.
        Some((_, Some(7))) => SourceId::new(d.source.bus(), 0, 0).0,
        Some((bridge, None)) => source_of(bridge.id),
        _ => d.source.0,
    }
}

/// The device that writes: its driver and its source id.
#[derive(Clone, Copy)]
pub struct Writer {
    pub device: TestDevice,
    pub source: u16,
}

impl Writer {
    /// All of the machine.
    pub fn all() -> impl Iterator<Item = Writer> {
        TestDevice::all().map(|device| Writer { device, source: source_of(device.id()) })
    }

    /// Has the device write to `iova`, and compares with `target`.
    pub fn write(&self, iova: u64, target: &Frame) -> Verdict {
        target.fill(BEFORE);
        self.device.write(iova, target.address(), LENGTH)
    }
}

/// The working state: translation on, the device's `iova` leads to `target`.
pub struct Rig {
    /// First, so that it is off before the memory is given back.
    pub unit: RawUnit,
    pub space: Space,
    pub writer: Writer,
    pub target: Frame,
    pub iova: u64,
}

impl Rig {
    /// The widest tables, a page of 4 KiB.
    pub fn new() -> Result<Self, Failure> {
        Self::with(|unit| unit.capabilities.cap.widest(), 1)
    }

    /// Tables as wide as `width` says, a page of `level`.
    pub fn with(width: impl FnOnce(&RawUnit) -> Option<AddressWidth>, level: u8) -> Result<Self, Failure> {
        let unit = RawUnit::open()?;
        let Some(writer) = Writer::all().next() else { skip!("no iommu-testdev") };
        let width = width(&unit).ok_or("the unit has no second-stage tables")?;
        let (mut space, target) = (Space::new(width)?, Frame::new()?);
        let offset = size(level) - 1;
        let iova = iova_within(width) & !offset | target.address() & offset;
        space.map(iova, level, target.address())?;
        let mut rig = Rig { unit, space, writer, target, iova };
        rig.unit.set_context(writer.source, rig.context())?;
        rig.unit.turn_on()?;
        rig.arrives("before anything is spoilt")?;
        Ok(rig)
    }

    /// The context entry that leads to the rig's tables.
    pub fn context(&self) -> ContextEntry {
        ContextEntry::second_stage(self.space.top(), self.space.width, DOMAIN)
    }

    /// Nothing cached: the device's write gets to memory, no fault is recorded.
    pub fn arrives(&self, what: &str) -> Outcome {
        self.unit.invalidate_all()?;
        check_eq!(self.writer.write(self.iova, &self.target), Verdict::Arrived, "{what}");
        check_eq!(self.target.prefix(WRITTEN, BEFORE), (LENGTH as usize / 8, true), "{what}: memory");
        check_eq!(self.unit.fsts(), Fsts::empty(), "{what}");
        Ok(())
    }

    /// Nothing cached: the device's write is stopped, memory stays as it was.
    pub fn stopped(&self, what: &str) -> Outcome {
        self.unit.invalidate_all()?;
        self.stopped_cached(what)
    }

    /// The same with caches as they are.
    pub fn stopped_cached(&self, what: &str) -> Outcome {
        check_eq!(self.writer.write(self.iova, &self.target), Verdict::Stopped, "{what}");
        check_eq!(self.target.prefix(BEFORE, BEFORE), (512, true), "{what}: memory");
        Ok(())
    }

    /// Stopped, and recorded with this reason and nothing but the truth about the rest.
    pub fn refused(&self, what: &str, why: Why) -> Outcome {
        self.stopped(what)?;
        self.unit.expect_fault(what, self.writer.source, self.iova, Access::Write, why)
    }

    /// Refused while the root entry is `bad`, and not before and after.
    pub fn root_refused(&self, what: &str, bad: RootEntry, why: Why) -> Outcome {
        let good = self.unit.root_entry(self.writer.source);
        self.unit.set_root_entry(self.writer.source, bad);
        self.refused(what, why)?;
        self.unit.set_root_entry(self.writer.source, good);
        self.arrives("the root entry is good again")
    }

    /// Refused while the context entry is `bad`, and not before and after.
    pub fn context_refused(&mut self, what: &str, bad: ContextEntry, why: Why) -> Outcome {
        self.unit.set_context(self.writer.source, bad)?;
        self.refused(what, why)?;
        self.unit.set_context(self.writer.source, self.context())?;
        self.arrives("the context entry is good again")
    }

    /// Arrives while the context entry is `odd`.
    pub fn context_passes(&mut self, what: &str, odd: ContextEntry) -> Outcome {
        self.unit.set_context(self.writer.source, odd)?;
        self.arrives(what)?;
        self.unit.set_context(self.writer.source, self.context())
    }

    /// Refused while the entry of `level` is what `spoil` makes of it, and not before and after.
    pub fn entry_refused(&mut self, what: &str, level: u8, spoil: impl FnOnce(u64) -> u64, why: Why) -> Outcome {
        let good = self.space.get(self.iova, level);
        self.space.set(self.iova, level, spoil(good))?;
        self.refused(what, why)?;
        self.space.set(self.iova, level, good)?;
        self.arrives("the entry is good again")
    }

    /// Arrives while the entry of `level` is what `change` makes of it, and leaves the entry as it is.
    pub fn entry_passes(&mut self, what: &str, level: u8, change: impl FnOnce(u64) -> u64) -> Outcome {
        let good = self.space.get(self.iova, level);
        let changed = change(good);
        self.space.set(self.iova, level, changed)?;
        self.arrives(what)?;
        check_eq!(self.space.get(self.iova, level), changed, "{what}: the entry itself");
        self.space.set(self.iova, level, good)
    }

    /// Has the page lead somewhere else, with caches as they are.
    pub fn redirect(&mut self, level: u8, target: &Frame) -> Outcome {
        self.space.set(self.iova, level, leaf(target.address(), level, PRESENT))
    }

    /// Whether the device's write, with caches as they are, lands in `a`; in `b` if not. Elsewhere is a failure.
    pub fn lands_in(&self, a: &Frame, b: &Frame) -> Result<bool, Failure> {
        b.fill(BEFORE);
        self.writer.write(self.iova, a);
        let all = LENGTH as usize / 8;
        match (a.prefix(WRITTEN, BEFORE), b.prefix(WRITTEN, BEFORE)) {
            ((n, true), (0, true)) if n == all => Ok(true),
            ((0, true), (n, true)) if n == all => Ok(false),
            found => Err(alloc::format!("the write is in neither or both: {found:?}").into()),
        }
    }
}
