//! What the descriptors of the invalidation queue say (6.5.2.1 to 6.5.2.9, 7.6.1), and which are invalid.

use crate::bus::{DeviceInvalidation, GroupResponse};
use crate::invalidation::{Invalidation, Pages};
use crate::profile::{Profile, below};
use crate::request::SourceId;
use crate::state::Mode;

/// IQERCD.IQEI: why the queue stands (11.4.9.9).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Cause {
    /// The tail lies beyond the queue.
    Tail = 1,
    /// A descriptor could not be read.
    Fetch = 2,
    /// A type that does not exist, or not here.
    Type = 3,
    /// Reserved bits, or reserved or unsupported values.
    Reserved = 4,
    /// 128-bit descriptors in scalable or abort-DMA mode, or 256-bit ones on a unit without either.
    Width = 5,
    /// The tail is no multiple of the descriptor's width.
    Alignment = 6,
    /// TTM has a value that the unit does not know.
    Mode = 7,
}

/// The kinds of descriptors, by their types.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Class {
    ContextCache,
    Iotlb,
    DeviceTlb,
    InterruptEntries,
    Wait,
    PasidIotlb,
    PasidCache,
    PasidDeviceTlb,
    GroupResponse,
    HostPermissions,
}

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Act {
    Forget(Invalidation),
    Device {
        /// Without its tag.
        request: DeviceInvalidation,
        /// The physical function, and how many invalidations it takes at a time; 0 where that is not known.
        function: (SourceId, u8),
    },
    Respond(GroupResponse),
    Wait(Wait),
}

/// A wait descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Wait {
    /// SW: where to write what.
    pub(crate) status: Option<(u64, u32)>,
    /// IF.
    pub(crate) interrupt: bool,
    /// FN.
    pub(crate) fence: bool,
    /// PD.
    pub(crate) drain: bool,
}

/// A valid descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Descriptor {
    pub(crate) class: Class,
    pub(crate) act: Act,
}

/// Bits `low` to `high` of a word.
const fn bits(high: u32, low: u32) -> u64 {
    (u64::MAX >> (63 - high)) & (u64::MAX << low)
}

const TYPE: u64 = bits(3, 0) | bits(11, 9);
const ADDRESS: u64 = bits(63, 12);

/// The fields of a descriptor type: first word, second word. All else is reserved.
fn fields(class: Class, profile: &Profile) -> [u64; 2] {
    let function = if profile.dit() { bits(15, 12) | bits(63, 52) } else { 0 };
    let drain = if profile.pds() { 1 << 7 } else { 0 };
    match class {
        Class::ContextCache => [bits(5, 4) | bits(49, 16), 0],
        Class::Iotlb => [bits(7, 4) | bits(31, 16), ADDRESS | bits(6, 0)],
        Class::DeviceTlb => [bits(20, 16) | bits(47, 32) | function, ADDRESS | 1],
        Class::InterruptEntries => [1 << 4 | bits(47, 27), 0],
        Class::Wait => [bits(6, 4) | drain | bits(63, 32), bits(63, 2)],
        Class::PasidIotlb => [bits(5, 4) | bits(51, 16), ADDRESS | bits(6, 0)],
        Class::PasidCache => [bits(5, 4) | bits(51, 16), 0],
        Class::PasidDeviceTlb => [bits(8, 4) | bits(51, 16) | function, ADDRESS | 1 << 11 | 1],
        Class::GroupResponse => [1 << 4 | bits(51, 12), bits(11, 2)],
        Class::HostPermissions => [bits(5, 4) | bits(31, 16), ADDRESS | bits(7, 0)],
    }
}

/// The type of a descriptor (Table 26), where the mode, the width and the unit have it.
fn class(q0: u64, wide: bool, profile: &Profile, mode: Mode) -> Result<Class, Cause> {
    let class = match q0 & bits(3, 0) | (q0 & bits(11, 9)) >> 5 {
        1 => Class::ContextCache,
        2 => Class::Iotlb,
        3 => Class::DeviceTlb,
        4 => Class::InterruptEntries,
        5 => Class::Wait,
        6 => Class::PasidIotlb,
        7 => Class::PasidCache,
        8 => Class::PasidDeviceTlb,
        9 => Class::GroupResponse,
        10 => Class::HostPermissions,
        _ => return Err(Cause::Type),
    };
    let all = wide && matches!(mode, Mode::Scalable | Mode::Abort);
    let exists = match class {
        Class::DeviceTlb => profile.dt(),
        Class::InterruptEntries => profile.ir(),
        Class::PasidIotlb | Class::PasidCache => all,
        Class::PasidDeviceTlb => all && profile.dt(),
        Class::GroupResponse => all && profile.prs(),
        Class::HostPermissions => all && profile.hpts(),
        Class::ContextCache | Class::Iotlb | Class::Wait => true,
    };
    if exists { Ok(class) } else { Err(Cause::Type) }
}

/// The range of a device-TLB invalidation, first and last address: with S, the lowest clear bit from 12 up says how much (ATS).
fn range(address: u64, large: bool) -> (u64, u64) {
    let address = address & ADDRESS;
    let order = if large { (address >> 12).trailing_ones() + 13 } else { 12 };
    let within = below(order);
    (address & !within, address | within)
}

/// Reads a descriptor; the upper two words are 0 where the queue is of 128-bit descriptors.
pub(crate) fn decode(words: [u64; 4], wide: bool, profile: &Profile, mode: Mode) -> Result<Descriptor, Cause> {
    let [q0, q1, ..] = words;
    let class = class(q0, wide, profile, mode)?;
    let [first, second] = fields(class, profile);
    if q0 & !(first | TYPE) != 0 || q1 & !second != 0 || words[2] != 0 || words[3] != 0 {
        return Err(Cause::Reserved);
    }
    let domain = (q0 >> 16 & below(profile.domain_bits()) & 0xffff) as u16;
    let pasid = (q0 >> 32 & 0xf_ffff) as u32;
    let granularity = q0 >> 4 & 3;
    let order = q1 & 0x3f;
    let pages = |width: u32| {
        let address = q1 & ADDRESS & !below(12 + order as u32) & below(width);
        Pages { address, order: order as u8, leaf_only: q1 & 1 << 6 != 0 }
    };
    let (low_function, high_function) = (q0 >> 12 & 0xf, q0 >> 52 << 4);
    let function = (low_function | high_function) as SourceId;
    let act = match class {
        Class::ContextCache => Act::Forget(match (granularity, mode) {
            // The cache has no domains in scalable mode (6.2.1).
            (1, _) | (2, Mode::Scalable) => Invalidation::Contexts,
            (2, _) => Invalidation::ContextsOfDomain(domain),
            (3, _) => {
                Invalidation::ContextOfDevice { domain, source: (q0 >> 32) as SourceId, mask: (q0 >> 48 & 3) as u8 }
            }
            _ => return Err(Cause::Reserved),
        }),
        Class::Iotlb => Act::Forget(match granularity {
            1 => Invalidation::Iotlb,
            2 => Invalidation::IotlbOfDomain(domain),
            3 if profile.psi() && order <= profile.mamv() => {
                Invalidation::IotlbPages(domain, pages(profile.mgaw() as u32 + 1))
            }
            _ => return Err(Cause::Reserved),
        }),
        Class::PasidIotlb => Act::Forget(match granularity {
            2 => Invalidation::PasidIotlb(domain, pasid),
            3 => Invalidation::PasidIotlbPages(domain, pasid, pages(64)),
            _ => return Err(Cause::Reserved),
        }),
        Class::PasidCache => Act::Forget(match granularity {
            0 => Invalidation::PasidsOfDomain(domain),
            1 => Invalidation::PasidOfDomain(domain, pasid),
            3 => Invalidation::Pasids,
            _ => return Err(Cause::Reserved),
        }),
        Class::InterruptEntries => Act::Forget(match (q0 & 1 << 4, q0 >> 27 & 0x1f) {
            (0, _) => Invalidation::Interrupts,
            (_, mask) if mask <= profile.mhmv() => Invalidation::InterruptsAt((q0 >> 32) as u16, mask as u8),
            _ => return Err(Cause::Reserved),
        }),
        Class::HostPermissions => match granularity {
            0 => return Err(Cause::Reserved),
            _ => Act::Forget(Invalidation::HostPermissions),
        },
        Class::DeviceTlb => {
            let (address, last) = range(q1, q1 & 1 != 0);
            let source = (q0 >> 32) as SourceId;
            let request = DeviceInvalidation { tag: 0, source, pasid: None, global: false, address, last };
            Act::Device { request, function: (function, (q0 >> 16 & 0x1f) as u8) }
        }
        Class::PasidDeviceTlb => {
            let (address, last) = range(q1, q1 & 1 << 11 != 0);
            let (source, global) = ((q0 >> 16) as SourceId, q1 & 1 != 0);
            let request = DeviceInvalidation { tag: 0, source, pasid: Some(pasid), global, address, last };
            Act::Device { request, function: (function, (q0 >> 4 & 0x1f) as u8) }
        }
        Class::GroupResponse => Act::Respond(GroupResponse {
            source: (q0 >> 16) as SourceId,
            pasid: (q0 & 1 << 4 != 0).then_some(pasid),
            group: (q1 >> 3 & 0x1ff) as u16,
            code: (q0 >> 12 & 0xf) as u8,
        }),
        Class::Wait => Act::Wait(Wait {
            status: (q0 & 1 << 5 != 0).then_some((q1 & profile.addresses() & !3, (q0 >> 32) as u32)),
            interrupt: q0 & 1 << 4 != 0,
            fence: q0 & 1 << 6 != 0,
            drain: q0 & 1 << 7 != 0,
        }),
    };
    Ok(Descriptor { class, act })
}
