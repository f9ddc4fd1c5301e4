//! What firmware gets wrong in tables that can be read: what it is, why it matters, what the driver does about it.

use core::fmt;

/// Something odd about a table, and where. Prints as one line: what, why it matters, what the driver does about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Oddity {
    /// The offset in the table of what it is about.
    pub at: usize,
    /// What it is.
    pub kind: OddityKind,
}

impl fmt::Display for Oddity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.kind, self.kind.why(), self.kind.answer())
    }
}

/// What can be odd about a table. Prints as what it is.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OddityKind {
    /// The table's revision is not 1.
    Revision(u8),
    /// The OEM's ids have no printable text.
    BlankOem,
    /// The host address width cannot be one.
    Width(u16),
    /// X2APIC_OPT_OUT is set without INTR_REMAP.
    OptOutAlone,
    /// Reserved bits or bytes of the header are set.
    HeaderReserved,
    /// There is no unit at all.
    NoUnits,
    /// Interrupt remapping is announced, and no scope names an IOAPIC.
    NoIoApic,
    /// A unit's register base cannot be one.
    RegisterBase(u64),
    /// A unit's register base is not aligned to the size of its register set.
    RegisterAlignment {
        /// The base.
        base: u64,
        /// The size.
        window: u64,
    },
    /// A unit is listed twice.
    DuplicateUnit(u64),
    /// Two units of different segments have the same registers.
    SharedRegisters(u64),
    /// A segment has no INCLUDE_PCI_ALL unit.
    NoIncludeAll(u16),
    /// A segment has more than one.
    SecondIncludeAll(u16),
    /// A unit stands after its segment's INCLUDE_PCI_ALL unit.
    AfterIncludeAll(u16),
    /// An INCLUDE_PCI_ALL unit lists PCI devices.
    PciUnderIncludeAll,
    /// A unit without INCLUDE_PCI_ALL names no device.
    IdleUnit,
    /// A reserved region from 0 to 0.
    RegionZero,
    /// A reserved region that ends before it starts.
    RegionBackward {
        /// Its base.
        base: u64,
        /// Its limit.
        limit: u64,
    },
    /// A reserved region not on page boundaries.
    RegionAlignment {
        /// Its base.
        base: u64,
        /// Its limit.
        limit: u64,
    },
    /// A reserved region beyond the physical addresses of the platform.
    RegionBeyond(u64),
    /// A reserved region over the interrupt addresses.
    RegionInterrupts,
    /// Two reserved regions overlap; the offset of the other.
    RegionOverlap(usize),
    /// A reserved region is not reserved in the memory map.
    RegionNotReserved,
    /// A reserved region for no device.
    RegionIdle,
    /// An ATSR with ALL_PORTS lists ports.
    PortsUnderAllPorts,
    /// An ATSR lists something that is not a port.
    NotAPort(u8),
    /// An RHSA names a unit that there is not.
    AffinityUnknown(u64),
    /// There are RHSAs, and a unit has none.
    AffinityMissing(u64),
    /// An ANDD's name has no NUL.
    NameUnterminated,
    /// Two ANDDs have the same number.
    NameTwice(u8),
    /// A scope names an ACPI device without ANDD.
    NameMissing(u8),
    /// A SATC or SIDP lists something that is not integrated in the root complex.
    NotIntegrated(u8),
    /// There is a SIDP beside a SATC.
    SatcBesideSidp,
    /// A structure does not begin at a multiple of 4.
    Alignment,
    /// A structure stands after one of a higher type.
    Order(u16),
    /// A structure's type is not known.
    UnknownType(u16),
    /// A structure's reserved bits are set.
    Reserved(u16),
    /// A scope's type is not known.
    UnknownScope(u8),
    /// A scope's reserved bits are set.
    ScopeReserved,
    /// A scope's path has a device beyond 31 or a function beyond 7.
    ScopePath {
        /// The device.
        device: u8,
        /// The function.
        function: u8,
    },
}

use OddityKind as K;

impl OddityKind {
    /// Why it matters.
    pub fn why(&self) -> &'static str {
        match self {
            K::Revision(_) => "the specification defines revision 1 only",
            K::BlankOem => "quirks that go by OEM cannot be told",
            K::Width(_) => "it says how far DMA reaches",
            K::OptOutAlone => "the flag means something with interrupt remapping only",
            K::HeaderReserved | K::Reserved(_) | K::ScopeReserved => {
                "they are to be 0, and may mean something to newer firmware"
            }
            K::NoUnits => "nothing translates or blocks DMA",
            K::NoIoApic => "remapped interrupts of an IOAPIC could not be told by their source",
            K::RegisterBase(_) => {
                "its registers cannot be reached, which is what firmware leaves with VT-d switched off"
            }
            K::RegisterAlignment { .. } => "the register set must be aligned to its size",
            K::DuplicateUnit(_) => "two drivers of one set of registers would undo each other's work",
            K::SharedRegisters(_) => "a unit serves one segment",
            K::NoIncludeAll(_) => "devices that no unit names are served by nobody",
            K::SecondIncludeAll(_) => "only one unit can serve the rest of a segment",
            K::AfterIncludeAll(_) => "an INCLUDE_PCI_ALL unit must be its segment's last",
            K::PciUnderIncludeAll => "such a unit may list IOAPICs, HPETs and ACPI devices only",
            K::IdleUnit => "it serves nothing",
            K::RegionZero => "it reserves nothing, or the first page of memory",
            K::RegionBackward { .. } => "no byte lies in it",
            K::RegionAlignment { .. } => "only whole pages can be mapped",
            K::RegionBeyond(_) => "no memory can be there",
            K::RegionInterrupts => "writes there are interrupts and never translated",
            K::RegionOverlap(_) => "the same memory is reserved more than once",
            K::RegionNotReserved => "the memory may be given to somebody else, and the device writes to it",
            K::RegionIdle => "nothing uses it",
            K::PortsUnderAllPorts => "ALL_PORTS leaves nothing to list",
            K::NotAPort(_) => "root ports are listed as sub-hierarchies",
            K::AffinityUnknown(_) => "no unit has this register base",
            K::AffinityMissing(_) => "each unit should have one where any has",
            K::NameUnterminated => "the name may be cut off",
            K::NameTwice(_) => "a scope that names it may mean either",
            K::NameMissing(_) => "the device's name is not known",
            K::NotIntegrated(_) => "only integrated devices can be listed, with a path of one step",
            K::SatcBesideSidp => "the SIDP says the same more exactly, and the specification has the SATC ignored",
            K::Alignment => "aligned reads of its fields would fail",
            K::Order(_) => "types are to ascend",
            K::UnknownType(_) => "newer firmware may say here what this driver does not know",
            K::UnknownScope(_) => "what it names cannot be known",
            K::ScopePath { .. } => "no such function exists",
        }
    }

    /// What the driver does about it.
    pub fn answer(&self) -> &'static str {
        match self {
            K::Revision(_) => "it is read as revision 1",
            K::BlankOem => "no such quirk is applied",
            K::Width(_) => "the driver goes by what the units' registers say",
            K::OptOutAlone => "it is ignored",
            K::HeaderReserved | K::Reserved(_) | K::ScopeReserved => "they are ignored",
            K::NoUnits => "the driver has nothing to drive",
            K::NoIoApic => "interrupt remapping cannot cover IOAPICs",
            K::RegisterBase(_) => "the unit is not used, and its devices are served by nobody",
            K::RegisterAlignment { .. } => "the base is used as it stands",
            K::DuplicateUnit(_) => "both are one unit that serves the devices of both",
            K::SharedRegisters(_) => "the later one is not used",
            K::NoIncludeAll(_) => "they cannot be attached",
            K::SecondIncludeAll(_) => "the first one that can be used serves it",
            K::AfterIncludeAll(_) => "what it names is found first all the same",
            K::PciUnderIncludeAll => "they are served by it",
            K::IdleUnit => "it blocks whatever reaches it",
            K::RegionZero | K::RegionBackward { .. } | K::RegionBeyond(_) => "it is ignored",
            K::RegionAlignment { .. } => "it is widened to whole pages",
            K::RegionInterrupts => "that part is never mapped",
            K::RegionOverlap(_) => "each is mapped for its own devices",
            K::RegionNotReserved => "it is mapped for its devices, and the host should keep it out of use",
            K::RegionIdle => "it is mapped for nobody",
            K::PortsUnderAllPorts => "every port of the segment counts",
            K::NotAPort(_) => "it counts for exactly the function that it names",
            K::AffinityUnknown(_) => "it is ignored",
            K::AffinityMissing(_) => "its tables come from any node",
            K::NameUnterminated => "the name ends with the structure",
            K::NameTwice(_) => "the first name is taken",
            K::NameMissing(_) => "the device goes by its source id",
            K::NotIntegrated(_) => "it counts for exactly the function that it names",
            K::SatcBesideSidp => "the SATC is ignored",
            K::Alignment => "fields are read byte by byte",
            K::Order(_) => "the order is not relied on",
            K::UnknownType(_) => "it is passed over",
            K::UnknownScope(_) => "it matches no device",
            K::ScopePath { .. } => "it matches no device",
        }
    }
}

impl fmt::Display for OddityKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            K::Revision(n) => write!(f, "table revision {n}"),
            K::BlankOem => f.write_str("blank OEM ids"),
            K::Width(n) => write!(f, "host address width of {n} bits"),
            K::OptOutAlone => f.write_str("X2APIC_OPT_OUT without INTR_REMAP"),
            K::HeaderReserved => f.write_str("reserved bits of the header are set"),
            K::NoUnits => f.write_str("no remapping unit"),
            K::NoIoApic => f.write_str("INTR_REMAP, and no scope names an IOAPIC"),
            K::RegisterBase(b) => write!(f, "register base {b:#x}"),
            K::RegisterAlignment { base, window } => {
                write!(f, "register base {base:#x} is not aligned to its {} KiB", window / 1024)
            }
            K::DuplicateUnit(b) => write!(f, "the unit at {b:#x} is listed twice"),
            K::SharedRegisters(b) => write!(f, "units of different segments at {b:#x}"),
            K::NoIncludeAll(s) => write!(f, "segment {s} has no INCLUDE_PCI_ALL unit"),
            K::SecondIncludeAll(s) => write!(f, "another INCLUDE_PCI_ALL unit in segment {s}"),
            K::AfterIncludeAll(s) => write!(f, "a unit after the INCLUDE_PCI_ALL unit of segment {s}"),
            K::PciUnderIncludeAll => f.write_str("PCI devices listed under INCLUDE_PCI_ALL"),
            K::IdleUnit => f.write_str("a unit without INCLUDE_PCI_ALL and without devices"),
            K::RegionZero => f.write_str("reserved region from 0 to 0"),
            K::RegionBackward { base, limit } => write!(f, "reserved region from {base:#x} ends at {limit:#x}"),
            K::RegionAlignment { base, limit } => {
                write!(f, "reserved region {base:#x}-{limit:#x} is not made of whole pages")
            }
            K::RegionBeyond(limit) => write!(f, "reserved region up to {limit:#x}, beyond physical memory"),
            K::RegionInterrupts => f.write_str("reserved region over the interrupt addresses"),
            K::RegionOverlap(other) => write!(f, "reserved region overlaps the one at offset {other:#x}"),
            K::RegionNotReserved => f.write_str("reserved region that the memory map does not reserve"),
            K::RegionIdle => f.write_str("reserved region without devices"),
            K::PortsUnderAllPorts => f.write_str("ports listed beside ALL_PORTS"),
            K::NotAPort(n) => write!(f, "ATS root port listed as a scope of type {n}"),
            K::AffinityUnknown(b) => write!(f, "node of an unknown unit at {b:#x}"),
            K::AffinityMissing(b) => write!(f, "the unit at {b:#x} has no node"),
            K::NameUnterminated => f.write_str("ACPI name without NUL"),
            K::NameTwice(n) => write!(f, "two names for ACPI device {n}"),
            K::NameMissing(n) => write!(f, "no name for ACPI device {n}"),
            K::NotIntegrated(n) => write!(f, "integrated device listed as a scope of type {n} or with a longer path"),
            K::SatcBesideSidp => f.write_str("SATC beside SIDP"),
            K::Alignment => f.write_str("structure not at a multiple of 4 bytes"),
            K::Order(n) => write!(f, "structure of type {n} after one of a higher type"),
            K::UnknownType(n) => write!(f, "structure of unknown type {n}"),
            K::Reserved(n) => write!(f, "reserved bits of a structure of type {n} are set"),
            K::UnknownScope(n) => write!(f, "device scope of unknown type {n}"),
            K::ScopeReserved => f.write_str("reserved bits of a device scope are set"),
            K::ScopePath { device, function } => write!(f, "device scope names device {device}, function {function}"),
        }
    }
}
