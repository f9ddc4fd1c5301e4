//! Descriptors of the invalidation queue. VT-d 6.5.2.1 to 6.5.2.9, 7.6.1 (page group response).

use super::field::{Field, encoding};
use super::invalidation::{ContextScope, Drain, FunctionMask, IotlbScope, Iva};
use bitflags::bitflags;
use core::fmt;

/// A descriptor; in a queue of 128-bit slots only the first two words stand, and the others are 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Descriptor(pub [u64; 4]);

encoding! {
    /// Type of a descriptor.
    pub enum Kind {
        /// Context cache.
        ContextCache = 1,
        /// IOTLB.
        Iotlb = 2,
        /// Device-TLB.
        DeviceTlb = 3,
        /// Interrupt entry cache.
        InterruptCache = 4,
        /// Wait.
        Wait = 5,
        /// PASID-based IOTLB.
        PasidIotlb = 6,
        /// PASID cache.
        PasidCache = 7,
        /// PASID-based device-TLB.
        PasidDeviceTlb = 8,
        /// Page group response.
        PageGroupResponse = 9,
        /// Host permission table cache.
        HostPermission = 10,
    }
}

impl Kind {
    /// Whether the descriptor fills a 256-bit slot, and so is not to be had in legacy mode.
    pub const fn is_wide(self) -> bool {
        self as u8 > Kind::Wait as u8
    }
}

bitflags! {
    /// Flags of the wait descriptor. VT-d 6.5.2.9. That a status is written follows from its being given.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct WaitFlags: u64 {
        /// Completion sets ICS.IWC and raises the invalidation event.
        const IF = 1 << 4;
        /// Later descriptors start only when this one has completed.
        const FN = 1 << 6;
        /// Page requests that came before are written to their queue first (ECAP.PDS).
        const PD = 1 << 7;
    }
}

encoding! {
    /// How a page request group is answered. VT-d 7.6.1.
    pub enum ResponseCode {
        /// The pages are there; ask again.
        Success = 0,
        /// A page does not exist or the access is not allowed.
        Invalid = 1,
        /// Something is broken; the device stops asking.
        Failure = 15,
    }
}

/// How many device-TLB invalidations a function takes at once (ECAP.DIT; all 0 without).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Throttle {
    /// Source id of the physical function whose queue it is.
    pub pfsid: u16,
    /// Depth of its queue, 0 for 32.
    pub mip: u8,
}

impl Throttle {
    /// Without ECAP.DIT.
    pub const NONE: Throttle = Throttle { pfsid: 0, mip: 0 };
}

/// Pages of a device-TLB invalidation: address and size in one. VT-d 6.5.2.5, 6.5.3.3, and ATS in PCI Express.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DeviceTlbRange {
    /// Bits 63:12, the size encoded in their low end if `large`.
    address: u64,
    /// S.
    large: bool,
}

/// Bits of a page number.
const PAGE_NUMBER_BITS: u32 = 52;

impl DeviceTlbRange {
    /// Everything.
    pub const ALL: DeviceTlbRange = DeviceTlbRange::pages(0, PAGE_NUMBER_BITS as u8);

    /// The aligned 2^`order` pages around `address`.
    pub const fn pages(address: u64, order: u8) -> Self {
        let order = if (order as u32) < PAGE_NUMBER_BITS { order as u32 } else { PAGE_NUMBER_BITS };
        // The number of low ones is the order less one, and a zero follows them.
        let within = (1u64 << order) - 1;
        let page = (address >> 12) & !within | (within >> 1);
        DeviceTlbRange { address: page << 12, large: order > 0 }
    }

    /// First address and order of the pages.
    pub const fn decode(self) -> (u64, u8) {
        if !self.large {
            return (self.address, 0);
        }
        let page = self.address >> 12;
        let order = page.trailing_ones() + 1;
        if order >= PAGE_NUMBER_BITS {
            return (0, PAGE_NUMBER_BITS as u8);
        }
        ((page >> order << order) << 12, order as u8)
    }
}

const TYPE: Field = Field::bits(3, 0);
const TYPE_HIGH: Field = Field::bits(11, 9);
/// G where it has two bits, and where it has one (interrupt entry cache).
const G: Field = Field::bits(5, 4);
const G_ONE: Field = Field::bit(4);
const DID: Field = Field::bits(31, 16);
/// The source id of cc and dev_tlb.
const SID: Field = Field::bits(47, 32);
const CC_FM: Field = Field::bits(49, 48);
const DW: Field = Field::bit(6);
const DR: Field = Field::bit(7);
const PFSID_LOW: Field = Field::bits(15, 12);
const PFSID_HIGH: Field = Field::bits(63, 52);
const DEV_MIP: Field = Field::bits(20, 16);
const IM: Field = Field::bits(31, 27);
const IIDX: Field = Field::bits(47, 32);
const STATUS_WRITE: Field = Field::bit(5);
const STATUS_DATA: Field = Field::bits(63, 32);
const STATUS_ADDRESS: Field = Field::bits(63, 2);
/// The PASID of every descriptor that has one.
const PASID: Field = Field::bits(51, 32);
/// The source id of p_dev_tlb and pgrp_resp.
const LOW_SID: Field = Field::bits(31, 16);
const PDEV_MIP: Field = Field::bits(8, 4);
const PP: Field = Field::bit(4);
const RC: Field = Field::bits(15, 12);
/// In the second word.
const PRGI: Field = Field::bits(11, 3);
const DEV_S: Field = Field::bit(0);
const PDEV_S: Field = Field::bit(11);
/// In the second word.
const PDEV_GI: Field = Field::bit(0);
const ADDRESS: Field = Field::bits(63, 12);

/// G of the PASID-based descriptors.
mod granularity {
    pub const PIOTLB_PASID: u64 = 2;
    pub const PIOTLB_PAGES: u64 = 3;
    pub const PC_DOMAIN: u64 = 0;
    pub const PC_PASID: u64 = 1;
    pub const PC_GLOBAL: u64 = 3;
}

impl Descriptor {
    const fn new(kind: Kind, q0: u64, q1: u64) -> Self {
        Descriptor([TYPE.with(kind as u64) | q0, q1, 0, 0])
    }

    /// Context cache: everything.
    pub const fn cc_global() -> Self {
        Self::new(Kind::ContextCache, G.with(ContextScope::Global as u64), 0)
    }

    /// Context cache: a domain. Everything, in scalable mode.
    pub const fn cc_domain(did: u16) -> Self {
        Self::new(Kind::ContextCache, G.with(ContextScope::Domain as u64) | DID.with(did as u64), 0)
    }

    /// Context cache: a device, in legacy mode together with the domain id that its entry had.
    pub const fn cc_device(did: u16, sid: u16, mask: FunctionMask) -> Self {
        let fields = DID.with(did as u64) | SID.with(sid as u64) | CC_FM.with(mask as u64);
        Self::new(Kind::ContextCache, G.with(ContextScope::Device as u64) | fields, 0)
    }

    const fn iotlb(scope: IotlbScope, did: u16, drain: Drain, q1: u64) -> Self {
        let flags = DR.flag(drain.reads) | DW.flag(drain.writes);
        Self::new(Kind::Iotlb, G.with(scope as u64) | DID.with(did as u64) | flags, q1)
    }

    /// IOTLB: everything.
    pub const fn iotlb_global(drain: Drain) -> Self {
        Self::iotlb(IotlbScope::Global, 0, drain, 0)
    }

    /// IOTLB: a domain.
    pub const fn iotlb_domain(did: u16, drain: Drain) -> Self {
        Self::iotlb(IotlbScope::Domain, did, drain, 0)
    }

    /// IOTLB: pages of a domain (CAP.PSI, order up to CAP.MAMV).
    pub const fn iotlb_pages(did: u16, drain: Drain, pages: Iva) -> Self {
        Self::iotlb(IotlbScope::Page, did, drain, pages.0)
    }

    const fn pfsid(throttle: Throttle) -> u64 {
        PFSID_LOW.with(throttle.pfsid as u64) | PFSID_HIGH.with(throttle.pfsid as u64 >> 4)
    }

    /// Device-TLB of `sid`: mappings of requests without PASID.
    pub const fn dev_tlb(sid: u16, throttle: Throttle, range: DeviceTlbRange) -> Self {
        let fields = SID.with(sid as u64) | DEV_MIP.with(throttle.mip as u64) | Self::pfsid(throttle);
        Self::new(Kind::DeviceTlb, fields, range.address | DEV_S.flag(range.large))
    }

    /// Interrupt entry cache: everything.
    pub const fn iec_global() -> Self {
        Self::new(Kind::InterruptCache, 0, 0)
    }

    /// Interrupt entry cache: the aligned 2^`order` entries around `index` (order up to ECAP.MHMV).
    pub const fn iec_index(index: u16, order: u8) -> Self {
        let fields = IIDX.with(index as u64) | IM.with(order as u64);
        Self::new(Kind::InterruptCache, G_ONE.flag(true) | fields, 0)
    }

    /// Wait for what came before. `status` is the address (4-byte aligned, in memory) and the data of a write that
    /// tells of the completion.
    pub const fn wait(flags: WaitFlags, status: Option<(u64, u32)>) -> Self {
        let (q0, q1) = match status {
            Some((address, data)) => {
                (STATUS_WRITE.flag(true) | STATUS_DATA.with(data as u64), STATUS_ADDRESS.in_place(address))
            }
            None => (0, 0),
        };
        Self::new(Kind::Wait, flags.bits() | q0, q1)
    }

    const fn tagged(did: u16, pasid: u32) -> u64 {
        DID.with(did as u64) | PASID.with(pasid as u64)
    }

    /// PASID-based IOTLB: everything of a PASID.
    pub const fn p_iotlb_pasid(did: u16, pasid: u32) -> Self {
        Self::new(Kind::PasidIotlb, G.with(granularity::PIOTLB_PASID) | Self::tagged(did, pasid), 0)
    }

    /// PASID-based IOTLB: pages of a PASID. Does not touch second-stage PASIDs.
    pub const fn p_iotlb_pages(did: u16, pasid: u32, pages: Iva) -> Self {
        Self::new(Kind::PasidIotlb, G.with(granularity::PIOTLB_PAGES) | Self::tagged(did, pasid), pages.0)
    }

    /// PASID cache: everything.
    pub const fn pc_global() -> Self {
        Self::new(Kind::PasidCache, G.with(granularity::PC_GLOBAL), 0)
    }

    /// PASID cache: a domain.
    pub const fn pc_domain(did: u16) -> Self {
        Self::new(Kind::PasidCache, G.with(granularity::PC_DOMAIN) | DID.with(did as u64), 0)
    }

    /// PASID cache: a PASID of a domain.
    pub const fn pc_pasid(did: u16, pasid: u32) -> Self {
        Self::new(Kind::PasidCache, G.with(granularity::PC_PASID) | Self::tagged(did, pasid), 0)
    }

    /// Device-TLB of `sid`: mappings of requests with this PASID.
    pub const fn p_dev_tlb(sid: u16, pasid: u32, throttle: Throttle, range: DeviceTlbRange) -> Self {
        let fields = LOW_SID.with(sid as u64) | PASID.with(pasid as u64) | PDEV_MIP.with(throttle.mip as u64);
        let q1 = range.address | PDEV_S.flag(range.large);
        Self::new(Kind::PasidDeviceTlb, fields | Self::pfsid(throttle), q1)
    }

    /// Device-TLB of `sid`: all mappings of requests with PASID, whichever (GI); for functions whose ATS capability has global
    /// invalidations.
    pub const fn p_dev_tlb_global(sid: u16, throttle: Throttle) -> Self {
        let Descriptor([q0, q1, q2, q3]) = Self::p_dev_tlb(sid, 0, throttle, DeviceTlbRange::ALL);
        Descriptor([q0, q1 | PDEV_GI.flag(true), q2, q3])
    }

    /// Answer to page request group `group` (9 bits) of `sid`, with the PASID that the requests had.
    pub const fn pgrp_resp(sid: u16, pasid: Option<u32>, group: u16, code: ResponseCode) -> Self {
        let pasid = match pasid {
            Some(p) => PP.flag(true) | PASID.with(p as u64),
            None => 0,
        };
        let fields = LOW_SID.with(sid as u64) | RC.with(code as u64);
        Self::new(Kind::PageGroupResponse, fields | pasid, PRGI.with(group as u64))
    }

    /// The type; `None` where there is none such.
    pub const fn kind(self) -> Option<Kind> {
        let [q0, ..] = self.0;
        if TYPE_HIGH.is_set(q0) {
            return None;
        }
        Kind::of(TYPE.of(q0))
    }

    /// The source id of the device whose TLB it invalidates.
    pub const fn device(self) -> Option<u16> {
        let [q0, ..] = self.0;
        match self.kind() {
            Some(Kind::DeviceTlb) => Some(SID.of(q0) as u16),
            Some(Kind::PasidDeviceTlb) => Some(LOW_SID.of(q0) as u16),
            _ => None,
        }
    }

    /// The first two words, all that a 128-bit slot holds.
    pub const fn narrow(self) -> [u64; 2] {
        let [q0, q1, ..] = self.0;
        [q0, q1]
    }
}

/// What the descriptor asks for, in words.
impl fmt::Display for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [q0, q1, ..] = self.0;
        let (g, did, pasid) = (G.of(q0), DID.of(q0), PASID.of(q0));
        let Some(kind) = self.kind() else {
            return write!(f, "unknown descriptor {q0:#018x} {q1:#018x}");
        };
        match kind {
            Kind::ContextCache => match g {
                1 => write!(f, "context cache, all"),
                2 => write!(f, "context cache, domain {did}"),
                3 => write!(f, "context cache, device {} in domain {did}", Sid(SID.of(q0))),
                _ => write!(f, "context cache, reserved granularity"),
            },
            Kind::Iotlb => match g {
                1 => write!(f, "IOTLB, all"),
                2 => write!(f, "IOTLB, domain {did}"),
                3 => write!(f, "IOTLB, {} in domain {did}", Pages(Iva(q1))),
                _ => write!(f, "IOTLB, reserved granularity"),
            },
            Kind::DeviceTlb => write!(f, "device-TLB of {}, {}", Sid(SID.of(q0)), device_range(q1, DEV_S)),
            Kind::InterruptCache if G_ONE.is_set(q0) => {
                write!(f, "interrupt entry cache, 2^{} entries at {}", IM.of(q0), IIDX.of(q0))
            }
            Kind::InterruptCache => write!(f, "interrupt entry cache, all"),
            Kind::Wait => wait_in_words(f, q0, q1),
            Kind::PasidIotlb => match g {
                2 => write!(f, "IOTLB, PASID {pasid} in domain {did}"),
                3 => write!(f, "IOTLB, {} of PASID {pasid} in domain {did}", Pages(Iva(q1))),
                _ => write!(f, "PASID-based IOTLB, reserved granularity"),
            },
            Kind::PasidCache => match g {
                granularity::PC_DOMAIN => write!(f, "PASID cache, domain {did}"),
                granularity::PC_PASID => write!(f, "PASID cache, PASID {pasid} in domain {did}"),
                granularity::PC_GLOBAL => write!(f, "PASID cache, all"),
                _ => write!(f, "PASID cache, reserved granularity"),
            },
            Kind::PasidDeviceTlb => {
                let sid = Sid(LOW_SID.of(q0));
                let range = device_range(q1, PDEV_S);
                match PDEV_GI.is_set(q1) {
                    true => write!(f, "device-TLB of {sid}, every PASID, {range}"),
                    false => write!(f, "device-TLB of {sid}, PASID {pasid}, {range}"),
                }
            }
            Kind::PageGroupResponse => {
                write!(f, "answer {} to page request group {} of {}", RC.of(q0), PRGI.of(q1), Sid(LOW_SID.of(q0)))?;
                if PP.is_set(q0) { write!(f, ", PASID {pasid}") } else { Ok(()) }
            }
            Kind::HostPermission => write!(f, "host permission table cache"),
        }
    }
}

fn device_range(q1: u64, s: Field) -> Pages {
    let (address, order) = DeviceTlbRange { address: ADDRESS.in_place(q1), large: s.is_set(q1) }.decode();
    Pages(Iva::new(address, order, false))
}

fn wait_in_words(f: &mut fmt::Formatter<'_>, q0: u64, q1: u64) -> fmt::Result {
    write!(f, "wait")?;
    if STATUS_WRITE.is_set(q0) {
        write!(f, ", status {} to {:#x}", STATUS_DATA.of(q0), STATUS_ADDRESS.in_place(q1))?;
    }
    let flags = WaitFlags::from_bits_truncate(q0);
    for (flag, words) in
        [(WaitFlags::IF, ", interrupt"), (WaitFlags::FN, ", fence"), (WaitFlags::PD, ", page requests drained")]
    {
        if flags.contains(flag) {
            write!(f, "{words}")?;
        }
    }
    Ok(())
}

/// A source id in words: bus, device, function.
struct Sid(u64);

impl fmt::Display for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}:{:02x}.{}", self.0 >> 8, self.0 >> 3 & 31, self.0 & 7)
    }
}

/// A range of pages in words.
struct Pages(Iva);

impl fmt::Display for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.order() {
            0 => write!(f, "page {:#x}", self.0.address()),
            n if u32::from(n) >= PAGE_NUMBER_BITS => write!(f, "all pages"),
            n => write!(f, "2^{n} pages at {:#x}", self.0.address()),
        }
    }
}

#[cfg(test)]
mod tests;
