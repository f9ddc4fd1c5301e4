//! What devices ask of a unit (3.1, 3.14, 4.2), and what they are told.

use crate::reason::{Completion, Reason};

/// A requester id: bus 15:8, device 7:3, function 2:0.
pub type SourceId = u16;
/// A process address space id, 20 bits.
pub type Pasid = u32;

/// What is to be done at the address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Access {
    /// A read of at least a byte.
    Read,
    /// A zero-length read (CAP.ZLR).
    Flush,
    /// A write.
    Write,
    /// An atomic read and write.
    Atomic,
}

impl Access {
    /// Whether it wants to read.
    pub fn reads(self) -> bool {
        self != Access::Write
    }
    /// Whether it wants to write.
    pub fn writes(self) -> bool {
        matches!(self, Access::Write | Access::Atomic)
    }
}

/// The address type of a request (PCI Express, AT).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// AT=00: an address to be remapped.
    Untranslated,
    /// AT=01: a device asks for a translation to keep (ATS).
    Translation {
        /// NW: it does not want to write.
        no_write: bool,
    },
    /// AT=10: the address came from a translation.
    Translated,
}

/// A memory request, or a question for a translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// Who asks.
    pub source: SourceId,
    /// The PASID prefix, where there is one.
    pub pasid: Option<Pasid>,
    /// PR: privileged; only with a PASID.
    pub privileged: bool,
    /// ER: to execute; only with a PASID.
    pub execute: bool,
    /// AT.
    pub kind: Kind,
    /// Read, write, or both. A translation request is a `Read`, its wish to write is in `kind`.
    pub access: Access,
    /// Where.
    pub address: u64,
    /// Bytes; the access must not cross a 4 KiB boundary.
    pub length: u32,
    /// The transaction's no-snoop attribute.
    pub no_snoop: bool,
}

impl Request {
    /// An untranslated access of 4 bytes without PASID.
    pub fn new(source: SourceId, access: Access, address: u64) -> Self {
        Request {
            source,
            pasid: None,
            privileged: false,
            execute: false,
            kind: Kind::Untranslated,
            access,
            address,
            length: 4,
            no_snoop: false,
        }
    }
    /// The same with a PASID.
    pub fn with_pasid(self, pasid: Pasid) -> Self {
        Request { pasid: Some(pasid), ..self }
    }
    /// The same as another kind.
    pub fn of(self, kind: Kind) -> Self {
        Request { kind, ..self }
    }
}

/// A memory request goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Passed {
    /// The physical address.
    pub address: u64,
    /// The size of the page that held it, in bytes; `u64::MAX` where nothing was translated.
    pub page: u64,
    /// Whether the access snoops the CPUs' caches (3.10).
    pub snoop: bool,
    /// The memory type for devices in the CPUs' coherency domain (3.11), as in the PAT: 0 UC, 1 WC, 4 WT, 5 WP, 6 WB.
    pub memory_type: u8,
}

/// The answer to a translation request (4.2.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translated {
    /// The physical page; meaningless without permissions.
    pub address: u64,
    /// Its size in bytes.
    pub page: u64,
    /// R.
    pub read: bool,
    /// W.
    pub write: bool,
    /// U: the device may use untranslated requests only.
    pub untranslated_only: bool,
    /// N: translated requests must not ask for no-snoop.
    pub snoop: bool,
    /// Exe.
    pub execute: bool,
    /// Priv: the permissions are those of privileged requests.
    pub privileged: bool,
    /// Global: the same for every PASID.
    pub global: bool,
    /// What denied a permission that was asked for, though no fault was recorded.
    pub because: Option<Reason>,
}

/// A request that was blocked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Why (7.1.3).
    pub reason: Reason,
    /// How the device learns of it.
    pub completion: Completion,
    /// Whether it was one to record: a qualified fault with FPD set is not (7.2.1).
    pub recordable: bool,
}

/// What became of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It goes on to memory.
    Passed(Passed),
    /// The answer to a translation request.
    Translated(Translated),
    /// A write to the interrupt range: the interrupt logic has it (5.1).
    Interrupt,
    /// A zero-length read of the interrupt range: completed, the data means nothing.
    Nothing,
    /// It was blocked.
    Blocked(Fault),
}

/// A page request (7.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageRequest {
    /// Who asks.
    pub source: SourceId,
    /// The PASID prefix, where there is one.
    pub pasid: Option<Pasid>,
    /// PR of the prefix.
    pub privileged: bool,
    /// ER of the prefix.
    pub execute: bool,
    /// R.
    pub read: bool,
    /// W; a request that wants neither is a stop marker.
    pub write: bool,
    /// L: the last of its group.
    pub last: bool,
    /// PRGI, 9 bits.
    pub group: u16,
    /// The page.
    pub address: u64,
}

/// What became of a page request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageAnswer {
    /// It stands in the queue.
    Queued,
    /// The unit answered it itself, with this code (7.5.1).
    Answered(u8),
    /// It was dropped without an answer.
    Dropped,
    /// The unit has it, and sees to it later.
    Received,
}
