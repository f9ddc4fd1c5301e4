//! Fault records. VT-d 11.4.7.6. The reasons in them: 7.1.3 and 5.1.4.1.

use super::field::Field;
pub use super::reasons::{Reason, ReasonClass};

const ADDRESS: Field = Field::bits(63, 12);
const INDEX: Field = Field::bits(63, 48);
/// In the upper word.
const SID: Field = Field::bits(15, 0);
const T2: Field = Field::bit(28);
const PRIV: Field = Field::bit(29);
const EXE: Field = Field::bit(30);
const PP: Field = Field::bit(31);
const FR: Field = Field::bits(39, 32);
const PV: Field = Field::bits(59, 40);
const AT: Field = Field::bits(61, 60);
const T1: Field = Field::bit(62);
const F: Field = Field::bit(63);

/// What the device tried.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Access {
    /// A write.
    Write,
    /// A read.
    Read,
    /// A page request.
    PageRequest,
    /// An atomic operation.
    Atomic,
}

impl Access {
    /// In words.
    pub const fn text(self) -> &'static str {
        match self {
            Access::Write => "write",
            Access::Read => "read",
            Access::PageRequest => "page request",
            Access::Atomic => "atomic operation",
        }
    }
}

/// What the device says of the address (AT).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AddressType {
    /// Untranslated: plain DMA.
    Untranslated,
    /// A translation request.
    Translation,
    /// Translated: an address from the device's own TLB.
    Translated,
    /// The reserved encoding.
    Reserved,
}

/// A fault recording register.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FaultRecord {
    /// Bits 63:0.
    pub lo: u64,
    /// Bits 127:64.
    pub hi: u64,
}

impl FaultRecord {
    /// Byte offset in the register of the dword that says whether it is valid. Read it first; write [`CLEAR`] to it
    /// when the rest is copied.
    ///
    /// [`CLEAR`]: FaultRecord::CLEAR
    pub const LAST_DWORD: u32 = 12;

    /// What clears the record, written to its last dword.
    pub const CLEAR: u32 = 1 << 31;

    /// Whether a record is valid, of its last dword alone.
    pub const fn is_valid(last_dword: u32) -> bool {
        last_dword & Self::CLEAR != 0
    }

    /// F: the record holds a fault.
    pub const fn valid(self) -> bool {
        F.is_set(self.hi)
    }

    /// The source id of the request.
    pub const fn source(self) -> u16 {
        SID.of(self.hi) as u16
    }

    /// The page of the address, bits 63:12; those above the unit's width read 0. Not an address where
    /// [`interrupt_index`](FaultRecord::interrupt_index) is one.
    pub const fn address(self) -> u64 {
        ADDRESS.in_place(self.lo)
    }

    /// The index in the interrupt remapping table, where the fault is of an interrupt and has one.
    pub const fn interrupt_index(self) -> Option<u16> {
        if self.reason().has_interrupt_index() { Some(INDEX.of(self.lo) as u16) } else { None }
    }

    /// The PASID, where the request had one.
    pub const fn pasid(self) -> Option<u32> {
        if PP.is_set(self.hi) && !self.reason().is_interrupt() { Some(PV.of(self.hi) as u32) } else { None }
    }

    /// Why.
    pub const fn reason(self) -> Reason {
        Reason(FR.of(self.hi) as u8)
    }

    /// What was tried. Means nothing for an interrupt.
    pub const fn access(self) -> Access {
        match (T1.is_set(self.hi), T2.is_set(self.hi)) {
            (false, false) => Access::Write,
            (false, true) => Access::PageRequest,
            (true, false) => Access::Read,
            (true, true) => Access::Atomic,
        }
    }

    /// AT. Means nothing for an interrupt.
    pub const fn address_type(self) -> AddressType {
        match AT.of(self.hi) {
            0 => AddressType::Untranslated,
            1 => AddressType::Translation,
            2 => AddressType::Translated,
            _ => AddressType::Reserved,
        }
    }

    /// EXE: a read with PASID asked to execute.
    pub const fn execute(self) -> bool {
        EXE.is_set(self.hi) && self.pasid().is_some() && matches!(self.access(), Access::Read)
    }

    /// PRIV: a request with PASID asked for the supervisor's privilege.
    pub const fn privileged(self) -> bool {
        PRIV.is_set(self.hi) && self.pasid().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn record(lo: u64, hi: u64) -> FaultRecord {
        FaultRecord { lo, hi }
    }

    #[test]
    fn plain_read() {
        let r = record(0x0000_7fff_1234_5abc, 0xc000_0006_0000_0108);
        assert_eq!((r.valid(), r.source(), r.address()), (true, 0x0108, 0x7fff_1234_5000));
        assert_eq!((r.reason(), r.access(), r.pasid()), (Reason(6), Access::Read, None));
        assert_eq!((r.address_type(), r.interrupt_index()), (AddressType::Untranslated, None));
        assert!(!r.execute() && !r.privileged());
        assert!(!record(0, 0x4000_0006_0000_0108).valid());
    }

    #[test]
    fn kinds_of_access() {
        let access = |t1: u64, t2: u64| record(0, t1 << 62 | t2 << 28).access();
        assert_eq!(access(0, 0), Access::Write);
        assert_eq!(access(0, 1), Access::PageRequest);
        assert_eq!(access(1, 0), Access::Read);
        assert_eq!(access(1, 1), Access::Atomic);
        let kind = |at: u64| record(0, at << 60).address_type();
        assert_eq!([kind(0), kind(1)], [AddressType::Untranslated, AddressType::Translation]);
        assert_eq!([kind(2), kind(3)], [AddressType::Translated, AddressType::Reserved]);
    }

    #[test]
    fn with_pasid() {
        // A privileged read with execute, PASID 5, reason 71h.
        let r = record(0x1000, 0xc000_0571_e000_0200);
        assert_eq!((r.pasid(), r.reason(), r.execute(), r.privileged()), (Some(5), Reason(0x71), true, true));
        assert_eq!(record(0, 0xcfff_ff71_8000_0200).pasid(), Some(0xf_ffff));
        // The same bits without PP, and execute of a write, mean nothing.
        let r = record(0x1000, 0xc000_0571_6000_0200);
        assert_eq!((r.pasid(), r.execute(), r.privileged()), (None, false, false));
        assert!(!record(0x1000, 0x8000_0571_e000_0200).execute());
    }

    #[test]
    fn interrupts() {
        let r = record(0x1234_0000_0000_0000, 0x8000_0022_0000_f0f8);
        assert_eq!((r.source(), r.interrupt_index(), r.reason()), (0xf0f8, Some(0x1234), Reason(0x22)));
        let without = [0x20, 0x25, 0x29, 0x2a, 0x2b].map(|code| record(u64::MAX, code << 32).interrupt_index());
        assert_eq!(without, [None; 5]);
        assert_eq!(record(0, 0x8000_0022_8000_0000).pasid(), None);
    }

    #[test]
    fn clearing() {
        assert_eq!((FaultRecord::CLEAR, FaultRecord::LAST_DWORD), (0x8000_0000, 12));
        assert!(FaultRecord::is_valid(0xc000_0006) && !FaultRecord::is_valid(0x4000_0006));
    }
}
