//! A remapping unit driven by hand: registers, root and context tables, no driver.

use super::frame::Frame;
use super::reasons::Why;
use crate::boot::cmdline;
use crate::platform::KernelPlatform;
use crate::testing::{Failure, Outcome};
use crate::time::wait_until;
use crate::{acpi, check, check_eq, skip};
use alloc::vec::Vec;
use vtd::dmar::Topology;
use vtd::hw::capabilities::{Cap, Capabilities, Ecap, Version};
use vtd::hw::faults::{Access, AddressType, FaultRecord};
use vtd::hw::invalidation::{Ccmd, ContextScope, Drain, Iotlb, IotlbScope, Iva};
use vtd::hw::registers::{EventControl, EventMessage, Fsts, Gcmd, Gsts, RootPointer, TableMode, at};
use vtd::hw::tables::{ContextEntry, RootEntry, context_index, root_index};
use vtd::{Message, Mmio, Nanos, PAGE, Platform, Registers};

/// How long a command may take; hardware needs microseconds.
const PATIENCE: Nanos = Nanos::millis(2000);

/// The machine's first unit, with tables of its own that say nothing yet. Off again when it is dropped.
pub struct RawUnit {
    pub registers: Mmio,
    pub capabilities: Capabilities,
    /// Bits of physical addresses.
    pub host_bits: u8,
    root: Frame,
    /// The context table of each bus that has one.
    contexts: Vec<(usize, Frame)>,
}

impl RawUnit {
    /// Finds the unit. Skips the test on a machine without one, unless the machine promised one.
    pub fn open() -> Result<Self, Failure> {
        let promised = cmdline::get().iommu == Some(true);
        let Some(table) = acpi::tables().dmar.first() else {
            if promised {
                return Err("the machine promises a remapping unit and has no DMAR table".into());
            }
            skip!("the machine has no remapping unit");
        };
        let topology = Topology::from_table(table)?;
        let unit = topology.units().iter().find(|u| u.base.is_some()).ok_or("no unit with registers")?;
        let base = unit.base.ok_or("no base")?;
        let map = |len| KernelPlatform.registers(base, len).map_err(|_| Failure::from("registers cannot be mapped"));
        let first = map(PAGE)?;
        let capabilities = Capabilities {
            version: Version(first.read32(at::VER)),
            cap: Cap(first.read64(at::CAP)),
            ecap: Ecap(first.read64(at::ECAP)),
        };
        check!(capabilities.plausible(), "{capabilities:x?}");
        let end = capabilities.cap.fro() + capabilities.cap.nfr() * at::FRCD_STRIDE;
        let registers = map(u64::from(end.max(capabilities.ecap.iro() + 16)).next_multiple_of(PAGE))?;
        let host_bits = topology.host_address_width().min(52) as u8;
        let unit = RawUnit { registers, capabilities, host_bits, root: Frame::new()?, contexts: Vec::new() };
        check!(!unit.gsts().intersects(Gsts::TES | Gsts::QIES), "the unit is in use: {:x?}", unit.gsts());
        unit.forget_faults();
        check_eq!(unit.fsts(), Fsts::empty(), "before anything was done");
        Ok(unit)
    }

    /// What the unit says of its state.
    pub fn gsts(&self) -> Gsts {
        Gsts::from_bits_retain(self.registers.read32(at::GSTS))
    }

    /// What the unit says of faults.
    pub fn fsts(&self) -> Fsts {
        Fsts::from_bits_retain(self.registers.read32(at::FSTS))
    }

    /// Gives one command, on or off, and waits for the answer.
    pub fn command(&self, command: Gcmd, on: bool) -> Outcome {
        let mut value = self.gsts().level();
        value.set(command, on);
        self.registers.write32(at::GCMD, value.bits());
        let done = wait_until(PATIENCE, || self.gsts().contains(command.status()) == on);
        check!(done, "{command:?} to {on}: {:?}", self.gsts());
        Ok(())
    }

    /// Has the unit take over the root table at `table`.
    pub fn set_root_table(&self, table: u64) -> Outcome {
        self.registers.write64(at::RTADDR, RootPointer::new(table, TableMode::Legacy).0);
        self.command(Gcmd::SRTP, true)
    }

    /// The unit's own root table.
    pub fn root(&self) -> &Frame {
        &self.root
    }

    /// Own root table, nothing cached, translation on.
    pub fn turn_on(&self) -> Outcome {
        self.set_root_table(self.root.address())?;
        self.invalidate_all()?;
        self.command(Gcmd::TE, true)
    }

    /// Invalidates the context cache by its register: what was done, `None` where the unit refused.
    pub fn invalidate_contexts(&self, what: Ccmd) -> Result<Option<ContextScope>, Failure> {
        self.registers.write64(at::CCMD, what.0);
        let result = || Ccmd(self.registers.read64(at::CCMD));
        check!(wait_until(PATIENCE, || !result().busy()), "{:x?}", result());
        Ok(result().performed())
    }

    /// Invalidates the IOTLB by its register, `pages` where page by page: what was done, `None` where the unit refused.
    pub fn invalidate_iotlb(&self, what: Iotlb, pages: Option<Iva>) -> Result<Option<IotlbScope>, Failure> {
        let iotlb = self.capabilities.ecap.iro() + at::IOTLB_FROM_IRO;
        if let Some(pages) = pages {
            self.registers.write64(self.capabilities.iva(), pages.0);
        }
        self.registers.write64(iotlb, what.0);
        let result = || Iotlb(self.registers.read64(iotlb));
        check!(wait_until(PATIENCE, || !result().busy()), "{:x?}", result());
        Ok(result().performed())
    }

    /// Invalidates everything, contexts first.
    pub fn invalidate_all(&self) -> Outcome {
        check_eq!(self.invalidate_contexts(Ccmd::global())?, Some(ContextScope::Global));
        check_eq!(self.invalidate_iotlb(Iotlb::global(Drain::BOTH), None)?, Some(IotlbScope::Global));
        Ok(())
    }

    /// The root entry for `source`'s bus.
    pub fn root_entry(&self, source: u16) -> RootEntry {
        let i = root_index(source) * 2;
        RootEntry { lo: self.root.get(i), hi: self.root.get(i + 1) }
    }

    /// Stores it, the half with P last.
    pub fn set_root_entry(&self, source: u16, entry: RootEntry) {
        let i = root_index(source) * 2;
        self.root.set(i + 1, entry.hi);
        self.root.set(i, entry.lo);
    }

    /// Stores the context entry of `source`, the half with P last, in a context table that is made where it is missing.
    pub fn set_context(&mut self, source: u16, entry: ContextEntry) -> Outcome {
        let bus = root_index(source);
        if !self.contexts.iter().any(|c| c.0 == bus) {
            let table = Frame::new()?;
            self.set_root_entry(source, RootEntry::legacy(table.address()));
            self.contexts.push((bus, table));
        }
        let (_, table) = self.contexts.iter().find(|c| c.0 == bus).ok_or("no context table")?;
        let i = context_index(source) * 2;
        table.set(i + 1, entry.hi);
        table.set(i, entry.lo);
        Ok(())
    }

    /// Byte offsets of the fault records.
    fn records(&self) -> impl Iterator<Item = u32> {
        (0..self.capabilities.cap.nfr()).filter_map(|n| self.capabilities.fault_record(n))
    }

    /// Takes the record that is to be the only one, clears it and compares it.
    pub fn expect_fault(&self, what: &str, source: u16, iova: u64, access: Access, why: Why) -> Outcome {
        let last = |at: u32| self.registers.read32(at + FaultRecord::LAST_DWORD);
        let mut pending = self.records().filter(|&at| FaultRecord::is_valid(last(at)));
        let at = pending.next().ok_or_else(|| alloc::format!("{what}: no fault recorded"))?;
        check!(pending.next().is_none(), "{what}: more than one record");
        let fsts = self.fsts();
        check_eq!(fsts & (Fsts::PPF | Fsts::PFO), Fsts::PPF, "{what}");
        check_eq!(self.capabilities.fault_record(fsts.fri().into()), Some(at), "{what}: the record that FRI names");
        let record = FaultRecord { lo: self.registers.read64(at), hi: self.registers.read64(at + 8) };
        self.registers.write32(at + FaultRecord::LAST_DWORD, FaultRecord::CLEAR);
        check!(record.valid());
        check_eq!((record.reason().0, record.reason().name()), (why.code, why.name), "{what}: {}", record.reason());
        check_eq!(record.source(), source, "{what}: who");
        // Bits that the unit has no use for may be missing.
        let known = u64::MAX >> (64 - u32::from(self.capabilities.cap.mgaw())) & !(PAGE - 1);
        check_eq!(record.address() & known, iova & known, "{what}: where");
        check_eq!(record.access(), access, "{what}: how");
        check_eq!(record.address_type(), AddressType::Untranslated, "{what}");
        check_eq!(record.pasid(), None, "{what}");
        check_eq!(self.fsts(), Fsts::empty(), "{what}: with the record cleared");
        Ok(())
    }

    /// Clears every record and every error.
    pub fn forget_faults(&self) {
        for at in self.records() {
            self.registers.write32(at + FaultRecord::LAST_DWORD, FaultRecord::CLEAR);
        }
        self.registers.write32(at::FSTS, (Fsts::PFO | Fsts::QUEUE).bits());
    }

    /// Has the event whose control register is `control` interrupt by `message`, masked or not.
    pub fn set_event(&self, control: u32, message: Message, masked: bool) {
        let m = EventMessage::new(message.address, message.data);
        self.registers.write32(control + at::EVENT_DATA, m.data);
        self.registers.write32(control + at::EVENT_ADDRESS, m.address);
        self.registers.write32(control + at::EVENT_UPPER, m.upper);
        self.mask_event(control, masked);
    }

    /// Masks an event or lets it come.
    pub fn mask_event(&self, control: u32, masked: bool) {
        let mut value = self.event_control(control);
        value.set(EventControl::IM, masked);
        self.registers.write32(control, value.bits());
    }

    /// An event's control register.
    pub fn event_control(&self, control: u32) -> EventControl {
        EventControl::from_bits_retain(self.registers.read32(control))
    }
}

impl Drop for RawUnit {
    fn drop(&mut self) {
        self.mask_event(at::FECTL, true);
        // The tables and what they lead to are about to be given away, here and by those that use the unit.
        if self.command(Gcmd::TE, false).is_err() {
            panic!("translation does not go off");
        }
        self.forget_faults();
    }
}
