//! Registers: offsets (VT-d 11.4) and the values of commands (11.4.4), root table (11.4.5), fault status and events
//! (11.4.7), protected memory (11.4.8) and interrupt table (11.4.10). The others: `capabilities`, `invalidation`, `faults`.

use super::field::{Field, encoding};
use bitflags::bitflags;

/// Offsets of the registers from the unit's base, in bytes. VT-d 11.4, table of the register map.
///
/// The invalidation and fault registers proper lie where the capabilities say ([`Ecap::iro`], [`Cap::fro`]).
///
/// [`Ecap::iro`]: super::capabilities::Ecap::iro
/// [`Cap::fro`]: super::capabilities::Cap::fro
pub mod at {
    /// Version, 32 bits.
    pub const VER: u32 = 0x000;
    /// Capabilities, 64 bits.
    pub const CAP: u32 = 0x008;
    /// Extended capabilities, 64 bits.
    pub const ECAP: u32 = 0x010;
    /// Global command, 32 bits, write only.
    pub const GCMD: u32 = 0x018;
    /// Global status, 32 bits, read only.
    pub const GSTS: u32 = 0x01c;
    /// Root table address, 64 bits.
    pub const RTADDR: u32 = 0x020;
    /// Context command, 64 bits.
    pub const CCMD: u32 = 0x028;
    /// Fault status, 32 bits.
    pub const FSTS: u32 = 0x034;
    /// Fault event control; data, address and upper address follow it. Each 32 bits.
    pub const FECTL: u32 = 0x038;
    /// Fault event data.
    pub const FEDATA: u32 = 0x03c;
    /// Fault event address.
    pub const FEADDR: u32 = 0x040;
    /// Fault event upper address.
    pub const FEUADDR: u32 = 0x044;
    /// Protected memory enable, 32 bits.
    pub const PMEN: u32 = 0x064;
    /// Protected low memory base, 32 bits.
    pub const PLMBASE: u32 = 0x068;
    /// Protected low memory limit, 32 bits.
    pub const PLMLIMIT: u32 = 0x06c;
    /// Protected high memory base, 64 bits.
    pub const PHMBASE: u32 = 0x070;
    /// Protected high memory limit, 64 bits.
    pub const PHMLIMIT: u32 = 0x078;
    /// Invalidation queue head, 64 bits, read only.
    pub const IQH: u32 = 0x080;
    /// Invalidation queue tail, 64 bits.
    pub const IQT: u32 = 0x088;
    /// Invalidation queue address, 64 bits.
    pub const IQA: u32 = 0x090;
    /// Invalidation completion status, 32 bits.
    pub const ICS: u32 = 0x09c;
    /// Invalidation event control, 32 bits.
    pub const IECTL: u32 = 0x0a0;
    /// Invalidation event data.
    pub const IEDATA: u32 = 0x0a4;
    /// Invalidation event address.
    pub const IEADDR: u32 = 0x0a8;
    /// Invalidation event upper address.
    pub const IEUADDR: u32 = 0x0ac;
    /// Invalidation queue error record, 64 bits, read only.
    pub const IQERCD: u32 = 0x0b0;
    /// Interrupt remapping table address, 64 bits.
    pub const IRTA: u32 = 0x0b8;
    /// Page request queue head, 64 bits.
    pub const PQH: u32 = 0x0c0;
    /// Page request queue tail, 64 bits.
    pub const PQT: u32 = 0x0c8;
    /// Page request queue address, 64 bits.
    pub const PQA: u32 = 0x0d0;
    /// Page request status, 32 bits.
    pub const PRS: u32 = 0x0dc;
    /// Page request event control, 32 bits.
    pub const PECTL: u32 = 0x0e0;
    /// Page request event data.
    pub const PEDATA: u32 = 0x0e4;
    /// Page request event address.
    pub const PEADDR: u32 = 0x0e8;
    /// Page request event upper address.
    pub const PEUADDR: u32 = 0x0ec;
    /// MTRR capabilities, 64 bits.
    pub const MTRRCAP: u32 = 0x100;
    /// MTRR default type, 64 bits.
    pub const MTRRDEF: u32 = 0x108;
    /// Performance monitoring capabilities, 64 bits.
    pub const PERFCAP: u32 = 0x300;
    /// Offset of the performance configuration registers, 32 bits.
    pub const PERFCFGOFF: u32 = 0x310;
    /// Offset of the performance freeze registers, 32 bits.
    pub const PERFFRZOFF: u32 = 0x314;
    /// Offset of the performance overflow registers, 32 bits.
    pub const PERFOVFOFF: u32 = 0x318;
    /// Offset of the performance counters, 32 bits.
    pub const PERFCNTROFF: u32 = 0x31c;
    /// Enhanced command, 64 bits.
    pub const ECMD: u32 = 0x400;
    /// Operand B of the enhanced command, 64 bits.
    pub const ECEO: u32 = 0x408;
    /// Response to the enhanced command, 64 bits.
    pub const ECRSP: u32 = 0x410;
    /// Status of the enhanced commands, 64 bits; a second one follows.
    pub const ECSTS: u32 = 0x420;
    /// Capabilities of the enhanced commands, 64 bits; three more follow.
    pub const ECCAP: u32 = 0x430;
    /// Virtual command, 64 bits.
    pub const VCMD: u32 = 0xe00;
    /// Response to the virtual command, 64 bits.
    pub const VCRSP: u32 = 0xe10;
    /// Virtual command capabilities, 64 bits.
    pub const VCCAP: u32 = 0xe30;

    /// IVA, from [`Ecap::iro`](crate::hw::capabilities::Ecap::iro) on.
    pub const IVA_FROM_IRO: u32 = 0;
    /// IOTLB, from [`Ecap::iro`](crate::hw::capabilities::Ecap::iro) on.
    pub const IOTLB_FROM_IRO: u32 = 8;
    /// Bytes of a fault recording register; the first lies at [`Cap::fro`](crate::hw::capabilities::Cap::fro).
    pub const FRCD_STRIDE: u32 = 16;
    /// Data, address and upper address lie this far behind the control register of the same event.
    pub const EVENT_DATA: u32 = FEDATA - FECTL;
    /// See [`EVENT_DATA`].
    pub const EVENT_ADDRESS: u32 = FEADDR - FECTL;
    /// See [`EVENT_DATA`].
    pub const EVENT_UPPER: u32 = FEUADDR - FECTL;
}

bitflags! {
    /// Global command. VT-d 11.4.4.1. One bit changes a write.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct Gcmd: u32 {
        /// Translation on.
        const TE = 1 << 31;
        /// Take the root table pointer over (one-shot).
        const SRTP = 1 << 30;
        /// Take the fault log pointer over (one-shot; revisions up to 3.x).
        const SFL = 1 << 29;
        /// Advanced fault logging on (revisions up to 3.x).
        const EAFL = 1 << 28;
        /// Flush the write buffers (one-shot).
        const WBF = 1 << 27;
        /// Queued invalidation on.
        const QIE = 1 << 26;
        /// Interrupt remapping on.
        const IRE = 1 << 25;
        /// Take the interrupt remapping table pointer over (one-shot).
        const SIRTP = 1 << 24;
        /// Compatibility format interrupts pass.
        const CFI = 1 << 23;
        const _ = !0;
    }
}

impl Gcmd {
    /// The commands that act by being written; as status they must not be written back.
    pub const ONE_SHOT: Gcmd = Gcmd::SRTP.union(Gcmd::SFL).union(Gcmd::WBF).union(Gcmd::SIRTP);

    /// The status bits that answer these commands: the same positions.
    pub const fn status(self) -> Gsts {
        Gsts::from_bits_retain(self.bits())
    }
}

bitflags! {
    /// Global status. VT-d 11.4.4.2. The position of a status bit is that of its command.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct Gsts: u32 {
        /// Translation is on.
        const TES = Gcmd::TE.bits();
        /// The root table pointer is taken over.
        const RTPS = Gcmd::SRTP.bits();
        /// The fault log pointer is taken over.
        const FLS = Gcmd::SFL.bits();
        /// Advanced fault logging is on.
        const AFLS = Gcmd::EAFL.bits();
        /// A write buffer flush is in progress: done when it reads 0, unlike all others.
        const WBFS = Gcmd::WBF.bits();
        /// Queued invalidation is on.
        const QIES = Gcmd::QIE.bits();
        /// Interrupt remapping is on.
        const IRES = Gcmd::IRE.bits();
        /// The interrupt remapping table pointer is taken over.
        const IRTPS = Gcmd::SIRTP.bits();
        /// Compatibility format interrupts pass.
        const CFIS = Gcmd::CFI.bits();
        const _ = !0;
    }
}

impl Gsts {
    /// The command that keeps everything as it is: the one-shot positions dropped, or they would act again.
    pub const fn level(self) -> Gcmd {
        Gcmd::from_bits_retain(self.bits() & !Gcmd::ONE_SHOT.bits())
    }
}

/// FSTS.FRI.
const FRI: Field = Field::bits(15, 8);

bitflags! {
    /// Fault status. VT-d 11.4.7.1.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct Fsts: u32 {
        /// A fault was lost; nothing is recorded until this is cleared (write 1).
        const PFO = 1 << 0;
        /// A fault record is pending; clears itself with the last record.
        const PPF = 1 << 1;
        /// The advanced fault log overflowed (revisions up to 3.x; write 1 to clear).
        const AFO = 1 << 2;
        /// The advanced fault log has records (revisions up to 3.x; write 1 to clear).
        const APF = 1 << 3;
        /// Invalidation queue error (write 1 to clear).
        const IQE = 1 << 4;
        /// A device-TLB completion that was not awaited (write 1 to clear).
        const ICE = 1 << 5;
        /// A device-TLB invalidation timed out (write 1 to clear).
        const ITE = 1 << 6;
        /// Page request overflow of revisions up to 2.x; reserved since.
        const PRO = 1 << 7;
        const _ = !0;
    }
}

impl Fsts {
    /// The errors of the invalidation queue.
    pub const QUEUE: Fsts = Fsts::IQE.union(Fsts::ICE).union(Fsts::ITE);

    /// Index of the first pending fault record; means something while PPF is set.
    pub const fn fri(self) -> u8 {
        FRI.of(self.bits() as u64) as u8
    }
}

bitflags! {
    /// Control register of an event: FECTL, IECTL, PECTL. VT-d 11.4.7.2. The other bits are to be preserved.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct EventControl: u32 {
        /// Masked, as after reset.
        const IM = 1 << 31;
        /// An interrupt is held back by the mask (read only).
        const IP = 1 << 30;
        const _ = !0;
    }
}

/// What the data, address and upper address register of an event take. VT-d 11.4.7.3 to 11.4.7.5.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct EventMessage {
    /// Data register.
    pub data: u32,
    /// Address register.
    pub address: u32,
    /// Upper address register.
    pub upper: u32,
}

/// Bits 15:0 of the data register.
const EVENT_DATA: Field = Field::bits(15, 0);
/// Bits 31:2 of the address register.
const EVENT_ADDRESS: Field = Field::bits(31, 2);

impl EventMessage {
    /// A message-signalled interrupt that writes `data` to `address`.
    pub const fn new(address: u64, data: u32) -> Self {
        EventMessage {
            data: EVENT_DATA.in_place(data as u64) as u32,
            address: EVENT_ADDRESS.in_place(address) as u32,
            upper: (address >> 32) as u32,
        }
    }

    /// Address and upper address in one.
    pub const fn address(self) -> u64 {
        (self.upper as u64) << 32 | self.address as u64
    }
}

/// A 4 KiB aligned address in a register, bits 63:12.
const PAGE_ADDRESS: Field = Field::bits(63, 12);
/// RTADDR.TTM.
const TTM: Field = Field::bits(11, 10);
/// RTADDR.SSIRWE.
const SSIRWE: Field = Field::bit(7);

encoding! {
    /// RTADDR.TTM: what the root table is.
    pub enum TableMode {
        /// Root table, context tables, second-stage tables.
        Legacy = 0,
        /// Root table, context tables, PASID tables.
        Scalable = 1,
        /// No tables: every request is blocked (ECAP.ADMS).
        Abort = 3,
    }
}

/// RTADDR. VT-d 11.4.5. Nothing takes effect before GCMD.SRTP.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RootPointer(pub u64);

impl RootPointer {
    /// The root table at `table` in `mode`.
    pub const fn new(table: u64, mode: TableMode) -> Self {
        RootPointer(PAGE_ADDRESS.in_place(table) | TTM.with(mode as u64))
    }

    /// The same with second-stage rights taken from bits 61 and 62 of the entries (ECAP.SSIRWS; not in legacy mode).
    pub const fn with_io_rights(self) -> Self {
        RootPointer(self.0 | SSIRWE.flag(true))
    }

    /// Address of the root table.
    pub const fn table(self) -> u64 {
        PAGE_ADDRESS.in_place(self.0)
    }

    /// The mode; `None` for the reserved encoding.
    pub const fn mode(self) -> Option<TableMode> {
        TableMode::of(TTM.of(self.0))
    }

    /// Whether second-stage rights come from bits 61 and 62.
    pub const fn io_rights(self) -> bool {
        SSIRWE.is_set(self.0)
    }
}

bitflags! {
    /// Protected memory enable. VT-d 11.4.8.1.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct Pmen: u32 {
        /// Protection on.
        const EPM = 1 << 31;
        /// Protection is in effect (read only).
        const PRS = 1 << 0;
        const _ = !0;
    }
}

/// IRTA.EIME.
const EIME: Field = Field::bit(11);
/// IRTA.S.
const IRTA_SIZE: Field = Field::bits(3, 0);

/// IRTA. VT-d 11.4.10. Nothing takes effect before GCMD.SIRTP.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Irta(pub u64);

impl Irta {
    /// A table of 2^(`size` + 1) entries at `table`; `extended` for 32-bit APIC ids.
    pub const fn new(table: u64, size: u8, extended: bool) -> Self {
        Irta(PAGE_ADDRESS.in_place(table) | EIME.flag(extended) | IRTA_SIZE.with(size as u64))
    }

    /// Address of the table.
    pub const fn table(self) -> u64 {
        PAGE_ADDRESS.in_place(self.0)
    }

    /// Entries in the table, 2 to 65536.
    pub const fn entries(self) -> u32 {
        2 << IRTA_SIZE.of(self.0)
    }

    /// Whether APIC ids have 32 bits.
    pub const fn extended(self) -> bool {
        EIME.is_set(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_stand_where_the_specification_says() {
        let values = [Gcmd::TE, Gcmd::SRTP, Gcmd::WBF, Gcmd::QIE, Gcmd::IRE, Gcmd::SIRTP, Gcmd::CFI].map(|c| c.bits());
        let expected = [0x8000_0000, 0x4000_0000, 0x0800_0000, 0x0400_0000, 0x0200_0000, 0x0100_0000, 0x0080_0000];
        assert_eq!(values, expected);
        assert_eq!((Gcmd::SFL.bits(), Gcmd::EAFL.bits()), (1 << 29, 1 << 28));
        assert_eq!(Gcmd::SIRTP.status(), Gsts::IRTPS);
    }

    #[test]
    fn one_shot_commands_are_not_repeated() {
        assert_eq!(Gsts::all().level().bits(), 0x96ff_ffff);
        let running = Gsts::TES | Gsts::RTPS | Gsts::QIES | Gsts::IRTPS | Gsts::IRES | Gsts::CFIS;
        assert_eq!(running.level(), Gcmd::TE | Gcmd::QIE | Gcmd::IRE | Gcmd::CFI);
    }

    #[test]
    fn reserved_bits_survive() {
        assert_eq!(Gsts::from_bits_truncate(0x0040_0001).level().bits(), 0x0040_0001);
        let control = EventControl::from_bits_truncate(0xc000_1234);
        assert_eq!((control - EventControl::IM).bits(), 0x4000_1234);
        assert_eq!(Pmen::from_bits_truncate(0x1234_0001).bits(), 0x1234_0001);
    }

    #[test]
    fn fault_status() {
        let s = Fsts::from_bits_retain(0x0000_a552);
        assert_eq!(s.fri(), 0xa5);
        assert!(s.contains(Fsts::PPF | Fsts::IQE | Fsts::ITE) && !s.intersects(Fsts::PFO | Fsts::ICE | Fsts::PRO));
        assert_eq!(Fsts::QUEUE.bits(), 0x70);
        assert_eq!((Fsts::AFO.bits(), Fsts::APF.bits(), Fsts::PRO.bits()), (4, 8, 0x80));
    }

    #[test]
    fn root_pointer() {
        let value = |mode| RootPointer::new(0x1000, mode).0;
        assert_eq!(value(TableMode::Legacy), 0x1000);
        assert_eq!(value(TableMode::Scalable), 0x1400);
        assert_eq!(value(TableMode::Abort), 0x1c00);
        assert_eq!(RootPointer(0x1234_5000_1c00).table(), 0x1234_5000_1000);
        assert_eq!(RootPointer(0x1400).mode(), Some(TableMode::Scalable));
        assert_eq!(RootPointer(0x1800).mode(), None);
        let io = RootPointer::new(0x1fff, TableMode::Scalable).with_io_rights();
        assert_eq!(io.0, 0x1480);
        assert!(io.io_rights() && !RootPointer(0x1400).io_rights());
    }

    #[test]
    fn interrupt_table_pointer() {
        let irta = Irta::new(0x7000, 15, true);
        assert_eq!(irta.0, 0x780f);
        assert_eq!((irta.table(), irta.entries(), irta.extended()), (0x7000, 65536, true));
        assert_eq!((Irta(0x7007).entries(), Irta(0x7007).extended()), (256, false));
        assert_eq!(Irta(0).entries(), 2);
    }

    #[test]
    fn event_message() {
        let m = EventMessage::new(0x0000_0102_fee0_300c, 0xabcd_0041);
        assert_eq!((m.data, m.address, m.upper), (0x41, 0xfee0_300c, 0x102));
        assert_eq!(m.address(), 0x0000_0102_fee0_300c);
        assert_eq!(EventMessage::new(0xfee0_0003, 0).address, 0xfee0_0000);
        assert_eq!((at::EVENT_DATA, at::EVENT_ADDRESS, at::EVENT_UPPER), (4, 8, 12));
        let events = [(at::FECTL, at::FEUADDR), (at::IECTL, at::IEUADDR), (at::PECTL, at::PEUADDR)];
        assert!(events.iter().all(|(control, upper)| upper - control == at::EVENT_UPPER));
    }

    #[test]
    fn protected_memory() {
        assert_eq!((Pmen::EPM.bits(), Pmen::PRS.bits()), (0x8000_0000, 1));
    }

    /// Offsets again, as the register map lists them: a slip in one of the two statements shows.
    #[test]
    fn offsets() {
        let map = [
            (at::VER, 0x0),
            (at::CAP, 0x8),
            (at::ECAP, 0x10),
            (at::GCMD, 0x18),
            (at::GSTS, 0x1c),
            (at::RTADDR, 0x20),
            (at::CCMD, 0x28),
            (at::FSTS, 0x34),
            (at::FECTL, 0x38),
            (at::PMEN, 0x64),
            (at::PLMBASE, 0x68),
            (at::PLMLIMIT, 0x6c),
            (at::PHMBASE, 0x70),
            (at::PHMLIMIT, 0x78),
            (at::IQH, 0x80),
            (at::IQT, 0x88),
            (at::IQA, 0x90),
            (at::ICS, 0x9c),
            (at::IECTL, 0xa0),
            (at::IQERCD, 0xb0),
            (at::IRTA, 0xb8),
            (at::PQH, 0xc0),
            (at::PQT, 0xc8),
            (at::PQA, 0xd0),
            (at::PRS, 0xdc),
            (at::PECTL, 0xe0),
            (at::MTRRCAP, 0x100),
            (at::PERFCAP, 0x300),
            (at::PERFCFGOFF, 0x310),
            (at::ECMD, 0x400),
            (at::ECSTS, 0x420),
            (at::ECCAP, 0x430),
            (at::VCMD, 0xe00),
            (at::VCRSP, 0xe10),
            (at::VCCAP, 0xe30),
        ];
        for (offset, expected) in map {
            assert_eq!(offset, expected);
        }
    }
}
