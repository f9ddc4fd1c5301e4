//! Errors: what happened, where, and the class of answer that a hypervisor gives its own caller. They print as sentences.

use super::address::{DeviceId, Iova, Pasid, UnitId};
use core::fmt;

/// An error of the driver: what happened, and to which unit, device and PASID where that is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Error {
    /// What happened.
    pub kind: ErrorKind,
    /// The unit it happened on.
    pub unit: Option<UnitId>,
    /// The device it happened to.
    pub device: Option<DeviceId>,
    /// The PASID it happened to.
    pub pasid: Option<Pasid>,
}

/// What happened.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorKind {
    /// The platform had no frame to give.
    OutOfFrames,
    /// The heap ended.
    OutOfMemory,
    /// The unit has no domain id left.
    OutOfDomainIds,
    /// Somebody else holds or uses it.
    Busy,
    /// The unit, or the machine, lacks what is needed.
    Unsupported(Need),
    /// A value that was handed in, or found in a table, is not acceptable.
    Invalid(Field),
    /// The deadline passed; what was asked may still happen, and what it touches stays owned.
    Timeout(Step),
    /// The unit reads all ones, or was taken away.
    UnitGone,
    /// The invalidation queue stopped with this code (IQERCD.IQEI, VT-d 11.4.9.9; 0 where the unit names none).
    QueueError(u8),
    /// A device did not answer an invalidation of its translation cache in time.
    DeviceTimeout,
    /// The platform failed at this step.
    Platform(Step),
    /// No such unit, device or group.
    Unknown,
    /// The unit, or the driver, is not in the state that the call wants.
    State(State),
    /// The unit says that it is another one than before: its version or capabilities differ.
    UnitChanged,
    /// The unit does not read back what was written at this step.
    Unverified(Step),
}

/// The class of an error, for callers that answer with errno and the like.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// The caller handed in something wrong.
    Invalid,
    /// In use; try again or release first.
    Busy,
    /// Frames, heap or ids ended.
    NoResource,
    /// This machine cannot.
    Unsupported,
    /// A deadline passed.
    Timeout,
    /// The unit or device is gone.
    Gone,
    /// The hardware or the platform reported an error.
    Hardware,
}

/// What a unit would have to have.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Need {
    /// Nested translation.
    Nesting,
    /// First-stage translation.
    FirstStage,
    /// Second-stage translation.
    SecondStage,
    /// Scalable mode.
    ScalableMode,
    /// Requests with PASID.
    Pasid,
    /// Page requests.
    PageRequests,
    /// Interrupt remapping.
    InterruptRemapping,
    /// An address width at least as large as the domain's.
    Width,
    /// A page size that the domain uses.
    PageSizes,
    /// Snooped page-table walks.
    Coherence,
    /// Snoop control.
    SnoopControl,
    /// Dirty bits in the second stage.
    DirtyTracking,
    /// The extended accessed flag in the first stage.
    ExtendedAccessed,
    /// Requests of supervisors.
    Supervisor,
    /// Requests with PASID of this device that nobody turns round on their way: the PASID capability, PCI Express all the
    /// way, and no other member of its group that can send them.
    DevicePasid,
    /// A translation cache in the device (ATS), and what it is that is missing for that.
    Ats(NoAts),
    /// The page-request capability of the device.
    DevicePageRequests,
    /// A remapping unit that serves the device.
    Unit,
    /// A remapping unit at all.
    AnyUnit,
}

/// Why a device's translation cache cannot be turned on.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoAts {
    /// The unit has no part in it (ECAP.DT), or does without its queue.
    Unit,
    /// The device has no ATS capability.
    Capability,
    /// The device asks for translations of addresses that are not page-aligned.
    Unaligned,
    /// A bridge to or from conventional PCI, or two ways, between the device and its unit.
    Bridge,
    /// A port above blocks translated requests (ACS translation blocking).
    Blocked,
    /// The root port above is not among those that support it (ATSR).
    Port,
    /// The device sends requests under more than one id.
    Aliases,
    /// The hardware turns it on by itself while the unit is in legacy mode (SATC, ATC_REQUIRED), and software must not.
    ByHardware,
    /// The physical function of this virtual function has no ATS capability, or its smallest translation unit is not a page
    /// and it is on.
    Physical,
    /// Devices of this kind complete invalidations before writes that they are about.
    Erratum,
    /// It is not on: `Ats::Off`, or pass-through in legacy mode.
    Off,
}

/// What about a value is wrong.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Field {
    /// The version of a structure.
    Version,
    /// Its size.
    Size,
    /// Bytes after its known end that are not zero.
    Tail,
    /// Reserved bits.
    Reserved,
    /// An address.
    Address,
    /// A format.
    Format,
    /// The owner: a guest may not have a device with a firmware-reserved region.
    ReservedRegion,
    /// The device is no member of the group.
    Device,
    /// The domain: another driver made it.
    Domain,
    /// The PASID: wider than the device or its unit takes, or the one that stands for requests without PASID.
    Pasid,
    /// The domain: it has, or has had, memory that devices may read and not write, which erratum 772415 forbids under nested
    /// translation.
    ReadOnly,
}

/// The step whose deadline passed, or that the platform failed at.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Latching the root table pointer.
    RootPointer,
    /// Turning translation on or off.
    Translation,
    /// Turning the invalidation queue on or off.
    Queue,
    /// An invalidation.
    Invalidation,
    /// Draining.
    Drain,
    /// Flushing the write buffer.
    WriteBuffer,
    /// Turning protected memory off.
    ProtectedMemory,
    /// Turning interrupt remapping on or off.
    InterruptRemapping,
    /// Mapping the registers.
    Registers,
    /// Setting up an interrupt message.
    Message,
    /// Reading or writing PCI configuration space.
    Configuration,
}

/// A state that forbids the call.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// `bring_up` has not succeeded yet.
    NotUp,
    /// `bring_up` was called already.
    AlreadyUp,
    /// The unit was found on, and the caller wanted that refused.
    FoundOn,
    /// The unit is suspended; `resume` comes first.
    Suspended,
    /// An earlier flush of this is still owed.
    FlushOwed,
    /// The device did not answer an invalidation and is blocked until it was reset, or its group released.
    Quarantined,
    /// The device was taken out.
    Removed,
    /// The device is blocked for a reset; `Reset::After` comes first.
    InReset,
    /// The device is not blocked for a reset; `Reset::Before` comes first.
    NotInReset,
}

impl From<ErrorKind> for Error {
    fn from(kind: ErrorKind) -> Self {
        Error { kind, unit: None, device: None, pasid: None }
    }
}

impl ErrorKind {
    /// The error with the unit it happened on.
    pub const fn on(self, unit: UnitId) -> Error {
        Error { kind: self, unit: Some(unit), device: None, pasid: None }
    }

    /// The error with the device it happened to.
    pub const fn of(self, device: DeviceId) -> Error {
        Error { kind: self, unit: None, device: Some(device), pasid: None }
    }
}

impl Error {
    /// The class of answer that a caller gives its own caller.
    pub const fn class(&self) -> Class {
        match self.kind {
            ErrorKind::OutOfFrames | ErrorKind::OutOfMemory | ErrorKind::OutOfDomainIds => Class::NoResource,
            ErrorKind::Busy | ErrorKind::State(State::FlushOwed) => Class::Busy,
            ErrorKind::Unsupported(_) => Class::Unsupported,
            ErrorKind::UnitGone | ErrorKind::State(State::Removed) => Class::Gone,
            ErrorKind::Invalid(_) | ErrorKind::Unknown | ErrorKind::State(_) => Class::Invalid,
            ErrorKind::Timeout(_) | ErrorKind::DeviceTimeout => Class::Timeout,
            ErrorKind::QueueError(_) | ErrorKind::Platform(_) => Class::Hardware,
            ErrorKind::UnitChanged | ErrorKind::Unverified(_) => Class::Hardware,
        }
    }

    /// The same error, with the device named.
    pub const fn of(mut self, device: DeviceId) -> Self {
        self.device = Some(device);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(u) = self.unit {
            write!(f, "{u}: ")?;
        }
        if let Some(d) = self.device {
            write!(f, "device {d}: ")?;
        }
        if let Some(p) = self.pasid {
            write!(f, "PASID {:#x}: ", p.get())?;
        }
        fmt::Display::fmt(&self.kind, f)
    }
}

impl core::error::Error for Error {}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ErrorKind::OutOfFrames => f.write_str("the platform has no frame left"),
            ErrorKind::OutOfMemory => f.write_str("the heap has ended"),
            ErrorKind::OutOfDomainIds => f.write_str("all domain ids of the unit are in use"),
            ErrorKind::Busy => f.write_str("it is in use; release it first"),
            ErrorKind::Unsupported(n) => write!(f, "needed but not there: {n}"),
            ErrorKind::Invalid(x) => write!(f, "not acceptable: {x}"),
            ErrorKind::Timeout(s) => write!(f, "no answer in time while {s}"),
            ErrorKind::UnitGone => f.write_str("the unit is gone (its registers read all ones)"),
            ErrorKind::QueueError(0) => f.write_str("the invalidation queue stopped and gives no reason"),
            ErrorKind::QueueError(c) => write!(f, "the invalidation queue stopped with error code {c}"),
            ErrorKind::DeviceTimeout => f.write_str("the device did not answer an invalidation in time"),
            ErrorKind::Platform(s) => write!(f, "the platform failed while {s}"),
            ErrorKind::Unknown => f.write_str("there is no such unit, device or group"),
            ErrorKind::UnitChanged => f.write_str("the unit's version or capabilities are not those that it had"),
            ErrorKind::Unverified(s) => write!(f, "the unit does not read back what was written while {s}"),
            ErrorKind::State(s) => f.write_str(match s {
                State::NotUp => "not yet: `bring_up` must have succeeded first",
                State::AlreadyUp => "`bring_up` was called already",
                State::Suspended => "suspended: `resume` must have succeeded first",
                State::FoundOn => "found with translation or interrupt remapping on, which the caller refuses",
                State::FlushOwed => "an earlier flush is still owed",
                State::Quarantined => "the device did not answer an invalidation and is blocked until it was reset",
                State::Removed => "the device was taken out",
                State::InReset => "the device is blocked for a reset, which is not over",
                State::NotInReset => "the device is not blocked for a reset",
            }),
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Need::Nesting => "nested translation (ECAP.NEST)",
            Need::FirstStage => "first-stage translation (ECAP.FSTS)",
            Need::SecondStage => "second-stage translation",
            Need::ScalableMode => "scalable mode (ECAP.SMTS, ECAP.QI, ECAP.SSTS or ECAP.PT)",
            Need::Pasid => "requests with PASID (ECAP.PASID)",
            Need::PageRequests => "page requests (ECAP.PRS)",
            Need::InterruptRemapping => "interrupt remapping (ECAP.IR)",
            Need::Width => "an address width as large as the domain's (CAP.SAGAW, CAP.MGAW)",
            Need::PageSizes => "the page sizes that the domain uses (CAP.SSLPS)",
            Need::Coherence => "snooped page-table walks (ECAP.C, in scalable mode ECAP.SMPWCS)",
            Need::SnoopControl => "snoop control (ECAP.SC)",
            Need::DirtyTracking => "dirty bits in the second stage (ECAP.SSADS)",
            Need::ExtendedAccessed => "the extended accessed flag (ECAP.EAFS)",
            Need::Supervisor => "requests of supervisors (ECAP.SRS)",
            Need::DevicePasid => {
                "a device with the PASID capability whose requests no bridge or other such device of its group can turn round"
            }
            Need::Ats(why) => return write!(f, "for the device's own translation cache (ATS), {why}"),
            Need::DevicePageRequests => "a device with the page-request capability",
            Need::Unit => "a working remapping unit that serves the device",
            Need::AnyUnit => "a working remapping unit",
        })
    }
}

impl fmt::Display for NoAts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NoAts::Unit => "a unit with device TLBs (ECAP.DT) and its queue in use",
            NoAts::Capability => "the ATS capability",
            NoAts::Unaligned => "page-aligned translation requests",
            NoAts::Bridge => "one way to the unit, without bridges to conventional PCI",
            NoAts::Blocked => "ports above that let translated requests pass (ACS translation blocking is on)",
            NoAts::Port => "a root port that firmware lists as one that supports it (ATSR)",
            NoAts::Aliases => "one requester id",
            NoAts::ByHardware => {
                "scalable mode: in legacy mode the hardware turns it on by itself (SATC, ATC_REQUIRED)"
            }
            NoAts::Physical => "a physical function with ATS whose smallest translation unit is a page",
            NoAts::Erratum => {
                "a device that completes invalidations behind its writes, which this kind is known not to do"
            }
            NoAts::Off => "`Ats::Trusted`, and no pass-through in legacy mode",
        })
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Field::Version => "the structure's version",
            Field::Size => "the size",
            Field::Tail => "bytes beyond the structure's known end are not zero",
            Field::Reserved => "reserved bits are set",
            Field::Address => "the address",
            Field::Format => "the format",
            Field::ReservedRegion => {
                "the device has a memory region reserved by firmware, which a guest may not be given"
            }
            Field::Device => "the device is no member of the group",
            Field::Domain => "the domain is not one of this driver's",
            Field::ReadOnly => {
                "the domain, whose read-only memory cannot lie under nested translation (erratum 772415)"
            }
            Field::Pasid => "the PASID, which must be one that the device and its unit take",
        })
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Step::RootPointer => "latching the root table pointer",
            Step::Translation => "switching translation",
            Step::Queue => "switching the invalidation queue",
            Step::Invalidation => "invalidating",
            Step::Drain => "draining",
            Step::WriteBuffer => "flushing the write buffer",
            Step::ProtectedMemory => "turning protected memory off",
            Step::InterruptRemapping => "switching interrupt remapping",
            Step::Registers => "mapping the registers",
            Step::Message => "setting up an interrupt message",
            Step::Configuration => "accessing PCI configuration space",
        })
    }
}

/// Why a range was not mapped or unmapped, and where: 16 bytes, so that the hot path returns it in registers.
///
/// Everything before `at` was done and stays done for `map` only where the documentation of the call says so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapError {
    /// Why.
    pub why: MapWhy,
    /// The input address at which it was found.
    pub at: Iova,
}

/// Why a range was not mapped or unmapped.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapWhy {
    /// Something is mapped there already; mappings are never silently replaced.
    Mapped,
    /// Nothing is mapped there.
    NotMapped,
    /// The range was unmapped and its flush is still owed; mapping it now would leave the device on the old frames.
    Unflushed,
    /// An address or a length is no multiple of 4 KiB, or the length is zero.
    Alignment,
    /// The input range, or the memory behind it, lies beyond the domain's width, or wraps.
    Width,
    /// The range meets the interrupt addresses, or one reserved in the domain.
    InterruptRange,
    /// Read-only memory under nested translation, which erratum 772415 forbids.
    ReadOnlyUnderNesting,
    /// No rights were asked for, or rights that the format cannot say.
    Access,
    /// The platform had no frame for a table.
    OutOfFrames,
    /// The heap ended.
    OutOfMemory,
    /// Changed in the tables, but a unit did not confirm the flush: what was mapped (caching mode) is to be unmapped to be safe,
    /// what was unmapped later stays owed.
    NotFlushed,
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {:#x}: ", self.at)?;
        f.write_str(match self.why {
            MapWhy::Mapped => "already mapped",
            MapWhy::NotMapped => "not mapped",
            MapWhy::Unflushed => "unmapped, but its flush is still owed",
            MapWhy::Alignment => "addresses and lengths are multiples of 4 KiB, and no length is zero",
            MapWhy::Width => "beyond the domain's address width",
            MapWhy::InterruptRange => {
                "interrupt addresses, and regions that firmware reserved for an attached device, are not for mapping"
            }
            MapWhy::ReadOnlyUnderNesting => "read-only memory cannot lie under nested translation (erratum 772415)",
            MapWhy::Access => "no access rights, or rights that the page-table format cannot express",
            MapWhy::OutOfFrames => "the platform has no frame left for a table",
            MapWhy::OutOfMemory => "the heap has ended",
            MapWhy::NotFlushed => "changed in the tables, but a unit did not confirm the flush",
        })
    }
}

impl core::error::Error for MapError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_print_as_sentences_and_stay_small() {
        let e = ErrorKind::Timeout(Step::Translation).on(UnitId(1)).of(DeviceId::new(0, 0, 3, 0));
        assert_eq!(std::format!("{e}"), "unit 1: device 0000:00:03.0: no answer in time while switching translation");
        assert_eq!(size_of::<MapError>(), 16);
        assert_eq!(e.class(), Class::Timeout);
    }
}
