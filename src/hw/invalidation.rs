//! Registers of the two invalidation interfaces and of the page request queue: values. VT-d 11.4.6 (register-based),
//! 11.4.9 (invalidation queue), 11.4.11 (page request queue). Offsets are in `registers`.

use super::field::{Field, encoding};
use bitflags::bitflags;

/// A 4 KiB aligned address, bits 63:12.
const PAGE_ADDRESS: Field = Field::bits(63, 12);
/// A number of pages as a power of two, bits 2:0 of IQA and PQA.
const QUEUE_SIZE: Field = Field::bits(2, 0);

encoding! {
    /// Bits of the function number that a device-selective context invalidation ignores: for phantom functions. CCMD.FM
    /// and FM of the descriptor.
    pub enum FunctionMask {
        /// None: this source id alone.
        Exact = 0,
        /// Bit 2.
        Bit2 = 1,
        /// Bits 2:1.
        Bits2To1 = 2,
        /// Bits 2:0: all functions of the device.
        Bits2To0 = 3,
    }
}

encoding! {
    /// What a context-cache invalidation covers. CCMD.CIRG and CAIG; the descriptor's G has the same encoding.
    pub enum ContextScope {
        /// Everything.
        Global = 1,
        /// A domain id.
        Domain = 2,
        /// A source id in a domain.
        Device = 3,
    }
}

encoding! {
    /// What an IOTLB invalidation covers. IOTLB.IIRG and IAIG; the descriptor's G has the same encoding.
    pub enum IotlbScope {
        /// Everything.
        Global = 1,
        /// A domain id.
        Domain = 2,
        /// Pages of a domain.
        Page = 3,
    }
}

/// Which requests in flight an IOTLB invalidation drains; hardware of major version 2 and above drains both always.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Drain {
    /// Reads (CAP.DRD).
    pub reads: bool,
    /// Writes (CAP.DWD).
    pub writes: bool,
}

impl Drain {
    /// Both.
    pub const BOTH: Drain = Drain { reads: true, writes: true };
    /// None.
    pub const NONE: Drain = Drain { reads: false, writes: false };
}

const ICC: Field = Field::bit(63);
const CIRG: Field = Field::bits(62, 61);
const CAIG: Field = Field::bits(60, 59);
const CCMD_FM: Field = Field::bits(33, 32);
const CCMD_SID: Field = Field::bits(31, 16);
const CCMD_DID: Field = Field::bits(15, 0);

/// CCMD: register-based invalidation of the context cache. VT-d 11.4.6.1. Starts when its top byte is written.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ccmd(pub u64);

impl Ccmd {
    const fn start(scope: ContextScope) -> u64 {
        ICC.flag(true) | CIRG.with(scope as u64)
    }

    /// Invalidate everything.
    pub const fn global() -> Self {
        Ccmd(Self::start(ContextScope::Global))
    }

    /// Invalidate the entries with domain id `did`.
    pub const fn domain(did: u16) -> Self {
        Ccmd(Self::start(ContextScope::Domain) | CCMD_DID.with(did as u64))
    }

    /// Invalidate the entries of `sid` with domain id `did`.
    pub const fn device(did: u16, sid: u16, mask: FunctionMask) -> Self {
        let fields = CCMD_DID.with(did as u64) | CCMD_SID.with(sid as u64) | CCMD_FM.with(mask as u64);
        Ccmd(Self::start(ContextScope::Device) | fields)
    }

    /// Whether the invalidation is in progress.
    pub const fn busy(self) -> bool {
        ICC.is_set(self.0)
    }

    /// What was done, at least as wide as asked; `None` where the request was refused. Read when no longer busy.
    pub const fn performed(self) -> Option<ContextScope> {
        ContextScope::of(CAIG.of(self.0))
    }
}

/// The leaf-only hint IH of IVA and of the IOTLB descriptors.
pub(super) const HINT: Field = Field::bit(6);
/// The address mask AM of IVA and of the IOTLB descriptors.
pub(super) const MASK: Field = Field::bits(5, 0);

/// IVA: which pages. VT-d 11.4.6.4. Also the second word of the IOTLB descriptors (VT-d 6.5.2.3, 6.5.2.4).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Iva(pub u64);

impl Iva {
    /// The 2^`order` pages around `address`; `leaf_only` where no entry but leaves changed.
    pub const fn new(address: u64, order: u8, leaf_only: bool) -> Self {
        Iva(PAGE_ADDRESS.in_place(address) | HINT.flag(leaf_only) | MASK.with(order as u64))
    }

    /// The address as written.
    pub const fn address(self) -> u64 {
        PAGE_ADDRESS.in_place(self.0)
    }

    /// Number of pages as a power of two.
    pub const fn order(self) -> u8 {
        MASK.of(self.0) as u8
    }

    /// Whether paging-structure caches may be kept.
    pub const fn leaf_only(self) -> bool {
        HINT.is_set(self.0)
    }
}

/// The smallest order whose aligned block of 2^order pages holds both addresses: AM of an invalidation that covers them.
pub const fn order_covering(first: u64, last: u64) -> u8 {
    (u64::BITS - ((first ^ last) >> 12).leading_zeros()) as u8
}

const IVT: Field = Field::bit(63);
const IIRG: Field = Field::bits(61, 60);
const IAIG: Field = Field::bits(58, 57);
const IOTLB_DR: Field = Field::bit(49);
const IOTLB_DW: Field = Field::bit(48);
const IOTLB_DID: Field = Field::bits(47, 32);

/// IOTLB: register-based invalidation of the IOTLB. VT-d 11.4.6.3. Starts when its top byte is written; for pages
/// [`Iva`] is written before it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Iotlb(pub u64);

impl Iotlb {
    const fn start(scope: IotlbScope, drain: Drain) -> u64 {
        IVT.flag(true) | IIRG.with(scope as u64) | IOTLB_DR.flag(drain.reads) | IOTLB_DW.flag(drain.writes)
    }

    /// Invalidate everything.
    pub const fn global(drain: Drain) -> Self {
        Iotlb(Self::start(IotlbScope::Global, drain))
    }

    /// Invalidate the entries with domain id `did`.
    pub const fn domain(did: u16, drain: Drain) -> Self {
        Iotlb(Self::start(IotlbScope::Domain, drain) | IOTLB_DID.with(did as u64))
    }

    /// Invalidate the pages that IVA names, in domain `did`.
    pub const fn page(did: u16, drain: Drain) -> Self {
        Iotlb(Self::start(IotlbScope::Page, drain) | IOTLB_DID.with(did as u64))
    }

    /// Whether the invalidation is in progress.
    pub const fn busy(self) -> bool {
        IVT.is_set(self.0)
    }

    /// What was done, at least as wide as asked; `None` where the request was refused. Read when no longer busy.
    pub const fn performed(self) -> Option<IotlbScope> {
        IotlbScope::of(IAIG.of(self.0))
    }
}

const IQA_DW: Field = Field::bit(11);
/// The byte offset in IQH and IQT.
const IQ_OFFSET: Field = Field::bits(18, 4);

encoding! {
    /// Size of the descriptors in the invalidation queue. IQA.DW.
    pub enum DescriptorWidth {
        /// 128 bits: legacy mode only.
        Bits128 = 0,
        /// 256 bits (ECAP.SMTS or ECAP.ADMS): every mode.
        Bits256 = 1,
    }
}

impl DescriptorWidth {
    /// Bytes of a slot as a power of two.
    const fn shift(self) -> u32 {
        4 + self as u32
    }

    /// Bytes of a slot.
    pub const fn bytes(self) -> u32 {
        1 << self.shift()
    }

    /// What IQT takes for the slot `index`.
    pub const fn offset(self, index: u32) -> u64 {
        IQ_OFFSET.in_place((index as u64) << self.shift())
    }

    /// The slot that IQH or IQT names.
    pub const fn index(self, register: u64) -> u32 {
        (IQ_OFFSET.in_place(register) >> self.shift()) as u32
    }
}

/// IQA. VT-d 11.4.9.3.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Iqa(pub u64);

impl Iqa {
    /// A queue of 2^`order` pages, at most 2^7, at `base`.
    pub const fn new(base: u64, width: DescriptorWidth, order: u8) -> Self {
        Iqa(PAGE_ADDRESS.in_place(base) | IQA_DW.with(width as u64) | QUEUE_SIZE.with(order as u64))
    }

    /// Address of the queue.
    pub const fn base(self) -> u64 {
        PAGE_ADDRESS.in_place(self.0)
    }

    /// Size of a slot.
    pub const fn width(self) -> DescriptorWidth {
        if IQA_DW.is_set(self.0) { DescriptorWidth::Bits256 } else { DescriptorWidth::Bits128 }
    }

    /// Bytes of the queue.
    pub const fn bytes(self) -> u32 {
        4096 << QUEUE_SIZE.of(self.0)
    }

    /// Slots of the queue; one less can be in use.
    pub const fn entries(self) -> u32 {
        self.bytes() >> self.width().shift()
    }
}

bitflags! {
    /// Invalidation completion status. VT-d 11.4.9.4.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct Ics: u32 {
        /// A wait descriptor with the interrupt flag completed (write 1 to clear).
        const IWC = 1 << 0;
        const _ = !0;
    }
}

const IQEI: Field = Field::bits(3, 0);
const ITESID: Field = Field::bits(47, 32);
const ICESID: Field = Field::bits(63, 48);

/// IQERCD: why the queue stopped. VT-d 11.4.9.9. Each part means something while its bit in FSTS is set; old hardware
/// reads 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Iqercd(pub u64);

impl Iqercd {
    /// Why (FSTS.IQE).
    pub const fn iqei(self) -> Iqei {
        Iqei(IQEI.of(self.0) as u8)
    }

    /// The device whose invalidation timed out (FSTS.ITE); `None` where hardware names none.
    pub const fn itesid(self) -> Option<u16> {
        nonzero(ITESID.of(self.0))
    }

    /// The device that sent the unawaited completion (FSTS.ICE); `None` where hardware names none.
    pub const fn icesid(self) -> Option<u16> {
        nonzero(ICESID.of(self.0))
    }
}

const fn nonzero(v: u64) -> Option<u16> {
    if v == 0 { None } else { Some(v as u16) }
}

/// IQERCD.IQEI.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Iqei(pub u8);

impl Iqei {
    /// The code in words.
    pub const fn text(self) -> &'static str {
        match self.0 {
            0 => "no reason given",
            1 => "the tail register names a slot outside the queue",
            2 => "a descriptor could not be fetched from memory",
            3 => "a descriptor's type is unknown or not allowed in this mode",
            4 => "a reserved field of a descriptor is not zero",
            5 => "the descriptors' width does not go with the table mode",
            6 => "the tail register is not aligned to the descriptors' width",
            7 => "the root table register holds a reserved table mode",
            _ => "a reason unknown to this driver",
        }
    }
}

/// The byte offset in PQH and PQT.
const PQ_OFFSET: Field = Field::bits(18, 5);

/// PQA: the page request queue. VT-d 11.4.11.3.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Pqa(pub u64);

impl Pqa {
    /// A queue of 2^`order` pages, at most 2^7, at `base`.
    pub const fn new(base: u64, order: u8) -> Self {
        Pqa(PAGE_ADDRESS.in_place(base) | QUEUE_SIZE.with(order as u64))
    }

    /// Address of the queue.
    pub const fn base(self) -> u64 {
        PAGE_ADDRESS.in_place(self.0)
    }

    /// Bytes of the queue.
    pub const fn bytes(self) -> u32 {
        4096 << QUEUE_SIZE.of(self.0)
    }

    /// Slots of the queue, 32 bytes each.
    pub const fn entries(self) -> u32 {
        self.bytes() >> 5
    }

    /// What PQH takes for the slot `index`.
    pub const fn offset(index: u32) -> u64 {
        PQ_OFFSET.with(index as u64)
    }

    /// The slot that PQH or PQT names.
    pub const fn index(register: u64) -> u32 {
        PQ_OFFSET.of(register) as u32
    }
}

bitflags! {
    /// Page request status. VT-d 11.4.11.4.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct Prs: u32 {
        /// Requests are pending (write 1 to clear).
        const PPR = 1 << 0;
        /// The queue overflowed (write 1 to clear).
        const PRO = 1 << 1;
        const _ = !0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn context_command() {
        assert_eq!(Ccmd::global().0, 0xa000_0000_0000_0000);
        assert_eq!(Ccmd::domain(0x1234).0, 0xc000_0000_0000_1234);
        assert_eq!(Ccmd::device(5, 0x0100, FunctionMask::Bits2To0).0, 0xe000_0003_0100_0005);
        assert!(Ccmd::global().busy() && !Ccmd(0x0800_0000_0000_0000).busy());
        let performed = |caig: u64| Ccmd(caig << 59).performed();
        assert_eq!(performed(0), None);
        assert_eq!(performed(1), Some(ContextScope::Global));
        assert_eq!(performed(2), Some(ContextScope::Domain));
        assert_eq!(performed(3), Some(ContextScope::Device));
    }

    #[test]
    fn iotlb_command() {
        assert_eq!(Iotlb::global(Drain::NONE).0, 0x9000_0000_0000_0000);
        assert_eq!(Iotlb::domain(5, Drain::BOTH).0, 0xa003_0005_0000_0000);
        assert_eq!(Iotlb::page(5, Drain { reads: true, writes: false }).0, 0xb002_0005_0000_0000);
        assert!(Iotlb::global(Drain::BOTH).busy() && !Iotlb(0x0200_0000_0000_0000).busy());
        let performed = |iaig: u64| Iotlb(iaig << 57).performed();
        assert_eq!(performed(0), None);
        assert_eq!(performed(1), Some(IotlbScope::Global));
        assert_eq!(performed(2), Some(IotlbScope::Domain));
        assert_eq!(performed(3), Some(IotlbScope::Page));
    }

    #[test]
    fn invalidation_address() {
        assert_eq!(Iva::new(0x20_0fff, 9, false).0, 0x20_0009);
        let iva = Iva::new(0xffff_ffff_ffff_f000, 18, true);
        assert_eq!(iva.0, 0xffff_ffff_ffff_f052);
        assert_eq!((iva.address(), iva.order(), iva.leaf_only()), (0xffff_ffff_ffff_f000, 18, true));
    }

    #[test]
    fn covering_order() {
        assert_eq!(order_covering(0x1000, 0x1fff), 0);
        assert_eq!(order_covering(0, 0x1fff), 1);
        // Neighbours over a boundary need the block that both lie in.
        assert_eq!(order_covering(0x1f_f000, 0x20_0fff), 10);
        assert_eq!(order_covering(0x20_0000, 0x3f_ffff), 9);
        assert_eq!(order_covering(0, u64::MAX), 52);
    }

    #[test]
    fn queue_address() {
        let narrow = Iqa::new(0x2000, DescriptorWidth::Bits128, 0);
        let wide = Iqa::new(0x2000, DescriptorWidth::Bits256, 0);
        assert_eq!((narrow.0, narrow.entries()), (0x2000, 256));
        assert_eq!((wide.0, wide.entries()), (0x2800, 128));
        let large = Iqa::new(0x1_0000_0000, DescriptorWidth::Bits256, 7);
        assert_eq!((large.0, large.bytes(), large.entries()), (0x1_0000_0807, 1 << 19, 1 << 14));
        assert_eq!((large.base(), large.width()), (0x1_0000_0000, DescriptorWidth::Bits256));
        assert_eq!(narrow.width(), DescriptorWidth::Bits128);
    }

    #[test]
    fn slots_and_offsets() {
        for (width, bytes) in [(DescriptorWidth::Bits128, 16), (DescriptorWidth::Bits256, 32)] {
            assert_eq!(width.bytes(), bytes);
            let last = Iqa::new(0, width, 7).entries() - 1;
            for slot in [0, 1, 200, last] {
                assert_eq!(width.offset(slot), u64::from(slot * bytes));
                assert_eq!(width.index(width.offset(slot)), slot);
            }
        }
        // Bit 19 and above and the lowest four are no part of the offset.
        assert_eq!(DescriptorWidth::Bits128.index(0xffff_ffff_fff8_001f), 1);
        assert_eq!(DescriptorWidth::Bits256.index(0x50), 2);
    }

    #[test]
    fn queue_errors() {
        let record = Iqercd(0x0200_0100_0000_0004);
        assert_eq!((record.iqei(), record.itesid(), record.icesid()), (Iqei(4), Some(0x100), Some(0x200)));
        assert_eq!((Iqercd(0).itesid(), Iqercd(0).icesid()), (None, None));
        let texts: BTreeSet<_> = (0..=8).map(|code| Iqei(code).text()).collect();
        assert_eq!(texts.len(), 9);
        assert_eq!(Iqei(8).text(), Iqei(15).text());
        assert_eq!(Ics::IWC.bits(), 1);
    }

    #[test]
    fn page_request_queue() {
        let queue = Pqa::new(0x8000, 3);
        assert_eq!((queue.0, queue.base(), queue.bytes(), queue.entries()), (0x8003, 0x8000, 0x8000, 1024));
        assert_eq!(Pqa::new(0, 0).entries(), 128);
        assert_eq!((Pqa::offset(3), Pqa::index(0x60), Pqa::index(0xf_ffff)), (0x60, 3, 0x3fff));
        assert_eq!((Prs::PPR.bits(), Prs::PRO.bits()), (1, 2));
    }
}
