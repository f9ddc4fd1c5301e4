//! A request, what of a unit decides, and the walk: as data.

use crate::host::address::{Hpa, Pasid, SourceId};
use crate::hw::capabilities::Capabilities;
use crate::hw::faults::{Access as Recorded, Reason};
use crate::hw::pages::MAX_LEVEL;
use crate::hw::registers::RootPointer;
use crate::space::paging::Access;
use core::fmt;

/// What a device wants to do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Attempt {
    /// A read of at least a byte.
    Read,
    /// A write.
    Write,
    /// An atomic operation: both.
    Atomic,
    /// A read of no bytes, by which a device flushes its writes (CAP.ZLR).
    Flush,
}

impl Attempt {
    pub(super) const fn writes(self) -> bool {
        matches!(self, Attempt::Write | Attempt::Atomic)
    }

    pub(super) const fn reads(self) -> bool {
        !matches!(self, Attempt::Write)
    }
}

impl From<Recorded> for Attempt {
    /// A page request asks for what a read would.
    fn from(recorded: Recorded) -> Self {
        match recorded {
            Recorded::Write => Attempt::Write,
            Recorded::Atomic => Attempt::Atomic,
            Recorded::Read | Recorded::PageRequest => Attempt::Read,
        }
    }
}

/// An untranslated request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// The requester id.
    pub source: SourceId,
    /// The PASID, where the request has one.
    pub pasid: Option<Pasid>,
    /// The address.
    pub address: u64,
    /// What is wanted there.
    pub attempt: Attempt,
    /// It asks for supervisor privilege; only with a PASID.
    pub privileged: bool,
    /// It asks to execute; only with a PASID.
    pub execute: bool,
    /// Its bytes. They decide one thing: a write of one double word to the interrupt range is an interrupt. Requests that
    /// cross a page are several (VT-d 3.13).
    pub bytes: u32,
}

impl Request {
    /// A user's request for 4 bytes, without PASID.
    pub const fn new(source: SourceId, attempt: Attempt, address: u64) -> Self {
        Request { source, pasid: None, address, attempt, privileged: false, execute: false, bytes: 4 }
    }

    /// The same with a PASID.
    pub const fn with_pasid(self, pasid: Pasid) -> Self {
        Request { pasid: Some(pasid), ..self }
    }
}

/// What of a unit decides.
#[derive(Clone, Copy, Debug)]
pub struct Unit {
    /// What it can do.
    pub caps: Capabilities,
    /// Bits of host addresses.
    pub hpa_width: u8,
    /// RTADDR as the last GCMD.SRTP took it.
    pub root: RootPointer,
    /// AW of PASID table entries is reserved without ECAP.SSTS, as Intel has it; known units ignore it.
    pub strict_width: bool,
}

/// What is read at an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Word {
    /// The word.
    Is(u64),
    /// Reads fail there: no memory.
    NoMemory,
    /// Whoever reads for the walk does not know.
    Unknown,
}

/// A table of the walk.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum What {
    /// Legacy root table.
    Root,
    /// Scalable root table.
    ScalableRoot,
    /// Legacy context table.
    Context,
    /// Scalable context table.
    ScalableContext,
    /// PASID directory.
    Directory,
    /// PASID table.
    Pasid,
    /// First-stage table of this level.
    First(u8),
    /// Second-stage table of this level.
    Second(u8),
}

/// What came of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Said {
    /// It could not be read.
    Nothing,
    /// Its contents are not known.
    Unknown,
    /// It is not present.
    Absent,
    /// Reserved bits are set in it: in this word of the entry, these.
    Reserved(u8, u64),
    /// It says what the unit does not take, or what stands against the request.
    Refused(&'static str),
    /// The walk goes on at this address.
    Table(u64),
    /// It maps a page, of this size.
    Page(u64, u64),
    /// Addresses pass as they are.
    Through,
}

/// An entry that was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// Of which table.
    pub what: What,
    /// Which entry of the table.
    pub index: u16,
    /// Where it is: a host address.
    pub at: u64,
    /// Its words, as many as mean something; see [`Step::words`].
    words: [u64; 4],
    /// The address that the table translates, where it is a table of pages.
    pub input: u64,
    /// What came of it.
    pub said: Said,
    /// Second-stage rights are bits 61 and 62.
    pub(super) io_rights: bool,
}

impl Step {
    const NONE: Step =
        Step { what: What::Root, index: 0, at: 0, words: [0; 4], input: 0, said: Said::Nothing, io_rights: false };

    pub(super) fn new(what: What, index: usize, at: u64, words: &[u64], input: u64, io_rights: bool) -> Self {
        let mut kept = [0; 4];
        kept.iter_mut().zip(words).for_each(|(k, w)| *k = *w);
        Step { what, index: index as u16, at, words: kept, input, said: Said::Nothing, io_rights }
    }

    /// The entry's words. Of a PASID table entry the first four of eight; the rest is 0 in entries that translate.
    pub fn words(&self) -> &[u64] {
        let n = match self.what {
            What::Root | What::ScalableRoot | What::Context => 2,
            What::ScalableContext | What::Pasid => 4,
            What::Directory | What::First(_) | What::Second(_) => 1,
        };
        self.words.get(..n).unwrap_or(&[])
    }
}

/// What becomes of the request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It reaches memory.
    Reaches {
        /// Where.
        to: Hpa,
        /// The size of the page that it is in, in bytes; `u64::MAX` where nothing is translated.
        size: u64,
        /// What requests like this one may do there.
        rights: Access,
    },
    /// It is blocked.
    Blocked {
        /// Why.
        reason: Reason,
        /// Whether the unit records it: a qualified reason is not recorded where FPD is set on the way.
        recorded: bool,
    },
    /// It is an interrupt, and goes to interrupt remapping.
    Interrupt,
    /// It completes without reaching anything: a read of no bytes in the interrupt range.
    Completes,
    /// The walk came to memory that the reader does not know.
    Unknown,
}

/// The entries of a walk at most: four tables, then five levels whose every table and result goes through five more.
const STEPS: usize = 4 + MAX_LEVEL as usize * (MAX_LEVEL as usize + 1) + MAX_LEVEL as usize;

/// A walk: what was read, in order, and what becomes of the request. It prints a line for the request, one for each step
/// and one for the verdict.
#[derive(Clone, Copy)]
pub struct Walk {
    /// The request.
    pub request: Request,
    /// What becomes of it.
    pub verdict: Verdict,
    steps: [Step; STEPS],
    len: usize,
}

impl fmt::Debug for Walk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Walk { request, verdict, .. } = self;
        f.debug_struct("Walk")
            .field("request", request)
            .field("verdict", verdict)
            .field("steps", &self.steps())
            .finish()
    }
}

impl Walk {
    pub(super) const fn begin(request: Request) -> Self {
        Walk { request, verdict: Verdict::Unknown, steps: [Step::NONE; STEPS], len: 0 }
    }

    pub(super) fn push(&mut self, step: Step) {
        if let Some(place) = self.steps.get_mut(self.len) {
            *place = step;
            self.len += 1;
        }
    }

    pub(super) fn step_mut(&mut self, n: usize) -> Option<&mut Step> {
        self.steps.get_mut(..self.len).and_then(|s| s.get_mut(n))
    }

    /// The entries that were read.
    pub fn steps(&self) -> &[Step] {
        self.steps.get(..self.len).unwrap_or(&[])
    }

    /// The entry that the request is blocked by, where it is one.
    pub fn blocked_by(&self) -> Option<&Step> {
        let Verdict::Blocked { .. } = self.verdict else { return None };
        let goes_on = |s: &Step| matches!(s.said, Said::Table(_) | Said::Page(..) | Said::Through);
        self.steps().iter().rev().find(|s| !goes_on(s))
    }
}
