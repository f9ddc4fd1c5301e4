//! Addresses, identities and instants as types of our own, so that none is taken for another and no foreign crate's
//! version becomes our users'. Formats: VT-d 3.4 (source ids), PCI Express (segments, PASIDs of 20 bits).

use core::fmt;

/// Bytes in the smallest page.
pub const PAGE: u64 = 4096;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            /// The number.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The address `by` bytes further on, or `None` where it would leave the type's range.
            pub const fn checked_add(self, by: u64) -> Option<Self> {
                match self.0.checked_add(by) {
                    Some(v) => Self::new(v),
                    None => None,
                }
            }

            /// Whether the address is a multiple of `size`, a power of two.
            pub const fn is_aligned(self, size: u64) -> bool {
                self.0 & size.wrapping_sub(1) == 0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }
    };
}

address! {
    /// A host physical address: at most 52 bits by construction.
    Hpa
}
address! {
    /// A guest physical address: at most 57 bits by construction, the widest input that a second stage takes.
    Gpa
}
address! {
    /// An input address of a device's DMA: what the device puts on the bus.
    Iova
}

impl Hpa {
    /// `None` where `v` has more than 52 bits.
    pub const fn new(v: u64) -> Option<Self> {
        if v >> 52 == 0 { Some(Hpa(v)) } else { None }
    }

    /// The address in the form in which table entries hold it: bits 51:12 of `entry`, the rest dropped.
    pub const fn of_entry(entry: u64) -> Self {
        Hpa(entry & 0x000f_ffff_ffff_f000)
    }
}

impl Gpa {
    /// `None` where `v` has more than 57 bits.
    pub const fn new(v: u64) -> Option<Self> {
        if v >> 57 == 0 { Some(Gpa(v)) } else { None }
    }
}

impl Iova {
    /// Any 64-bit number is an input address; a domain refuses those outside its width.
    pub const fn new(v: u64) -> Option<Self> {
        Some(Iova(v))
    }

    /// The same without the `Option`.
    pub const fn at(v: u64) -> Self {
        Iova(v)
    }
}

#[cfg(feature = "x86_64")]
impl From<x86_64::PhysAddr> for Hpa {
    fn from(a: x86_64::PhysAddr) -> Self {
        Hpa(a.as_u64())
    }
}

#[cfg(feature = "x86_64")]
impl From<Hpa> for x86_64::PhysAddr {
    fn from(a: Hpa) -> Self {
        x86_64::PhysAddr::new_truncate(a.0)
    }
}

/// A range of input addresses, inclusive at both ends: the last page of an address space has a name and nothing wraps.
///
/// ```
/// use vtd::{Iova, PAGE, Range};
///
/// let top = Range::sized(Iova::at(u64::MAX - 0xfff), PAGE).unwrap();
/// assert_eq!(top.last.get(), u64::MAX);
/// assert!(Range::sized(top.first, 2 * PAGE).is_none());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Range {
    /// The first address.
    pub first: Iova,
    /// The last address, not before the first in a range that means anything.
    pub last: Iova,
}

impl Range {
    /// `len` bytes from `first` on; `None` for no bytes, and where the end would wrap.
    pub const fn sized(first: Iova, len: u64) -> Option<Self> {
        match len.checked_sub(1) {
            None => None,
            Some(rest) => match first.0.checked_add(rest) {
                None => None,
                Some(last) => Some(Range { first, last: Iova(last) }),
            },
        }
    }

    /// Both ends given; `None` where the last lies before the first.
    pub const fn new(first: u64, last: u64) -> Option<Self> {
        if first <= last { Some(Range { first: Iova(first), last: Iova(last) }) } else { None }
    }

    /// Whether the two share an address.
    pub const fn overlaps(&self, other: &Range) -> bool {
        self.first.0 <= other.last.0 && other.first.0 <= self.last.0
    }

    /// Whether `other` lies within.
    pub const fn contains(&self, other: &Range) -> bool {
        self.first.0 <= other.first.0 && other.last.0 <= self.last.0
    }

    /// Bytes in the range minus one, which is what fits in 64 bits for every range.
    pub const fn len_minus_one(&self) -> u64 {
        self.last.0.wrapping_sub(self.first.0)
    }

    /// Whether both ends stand on page boundaries of `size` bytes, a power of two.
    pub const fn is_aligned(&self, size: u64) -> bool {
        self.first.is_aligned(size) && self.last.0 & size.wrapping_sub(1) == size.wrapping_sub(1)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}-{:#x}", self.first, self.last)
    }
}

/// The addresses that the root complex takes as interrupts (VT-d 3.14): never mapped, never handed out.
pub const INTERRUPT_RANGE: Range = Range { first: Iova(0xfee0_0000), last: Iova(0xfeef_ffff) };

/// A requester id: bus in bits 15:8, device in 7:3, function in 2:0 (VT-d 3.4.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(pub u16);

impl SourceId {
    /// From its parts; bits beyond 5 of the device and beyond 3 of the function are dropped.
    pub const fn new(bus: u8, device: u8, function: u8) -> Self {
        SourceId(((bus as u16) << 8) | ((device as u16 & 31) << 3) | (function as u16 & 7))
    }

    /// The bus.
    pub const fn bus(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// Device and function as one byte, the index of a context entry.
    pub const fn devfn(self) -> u8 {
        self.0 as u8
    }

    /// The device on its bus.
    pub const fn device(self) -> u8 {
        self.devfn() >> 3
    }

    /// The function of its device.
    pub const fn function(self) -> u8 {
        self.devfn() & 7
    }
}

impl fmt::Display for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}:{:02x}.{}", self.bus(), self.device(), self.function())
    }
}

impl fmt::Debug for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Whatever a DMAR scope can name: a PCI function, or an ACPI device that the firmware gave a source id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId {
    /// The PCI segment group.
    pub segment: u16,
    /// The requester id in that segment.
    pub source: SourceId,
}

impl DeviceId {
    /// From its parts, as `SourceId::new`.
    pub const fn new(segment: u16, bus: u8, device: u8, function: u8) -> Self {
        DeviceId { segment, source: SourceId::new(bus, device, function) }
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{}", self.segment, self.source)
    }
}

impl fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A process address space id, 1 to 0xf_ffff by construction (0 is what requests without PASID use).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Pasid(u32);

impl Pasid {
    /// `None` for 0 and for more than 20 bits.
    pub const fn new(v: u32) -> Option<Self> {
        if v != 0 && v >> 20 == 0 { Some(Pasid(v)) } else { None }
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// A remapping unit, by its place in the DMAR table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct UnitId(pub u16);

impl fmt::Display for UnitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unit {}", self.0)
    }
}

/// Nanoseconds: an instant of the platform's clock, or a length of time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Nanos(pub u64);

impl Nanos {
    /// From milliseconds.
    pub const fn millis(ms: u64) -> Self {
        Nanos(ms.saturating_mul(1_000_000))
    }

    /// The instant `by` later, at most the end of time.
    pub const fn after(self, by: Nanos) -> Self {
        Nanos(self.0.saturating_add(by.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_reach_the_last_byte_and_never_wrap() {
        let top = Range::sized(Iova::at(u64::MAX - 4095), 4096).unwrap();
        assert_eq!(top.last.get(), u64::MAX);
        assert!(Range::sized(Iova::at(u64::MAX), 2).is_none());
        assert!(Range::sized(Iova::at(0), 0).is_none());
        assert!(top.is_aligned(4096));
        assert!(!top.is_aligned(8192));
        assert!(Range::new(1, 0).is_none());
    }

    #[test]
    fn identities_print_as_people_write_them() {
        assert_eq!(std::format!("{}", DeviceId::new(0, 2, 0x1f, 7)), "0000:02:1f.7");
        assert_eq!(SourceId::new(1, 3, 0).0, 0x0118);
        assert!(Pasid::new(0).is_none() && Pasid::new(1 << 20).is_none() && Pasid::new(0xf_ffff).is_some());
        assert!(Hpa::new(1 << 52).is_none());
    }
}
