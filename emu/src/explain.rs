//! A request's way through the tables, step by step, as data and in words.

use crate::bus::Snoop;
use crate::caches::Stage;
use crate::reason::{Completion, Reason};
use crate::request::{Access, Answer, Kind, Request};
use alloc::vec::Vec;
use core::fmt;

/// An entry of a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// A root entry.
    Root,
    /// A context entry.
    Context,
    /// An entry of a PASID directory.
    PasidDirectory,
    /// An entry of a PASID table.
    Pasid,
    /// A first-stage entry that serves 2^n addresses; as a table, one that serves them with all its entries.
    FirstStage(u8),
    /// A second-stage entry, likewise.
    SecondStage(u8),
    /// A host-permission entry of a level.
    HostPermission(u8),
}

/// The words of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Words {
    words: [u64; 8],
    count: usize,
}

impl Words {
    pub(crate) fn new(from: &[u64]) -> Self {
        let mut words = [0; 8];
        for (to, from) in words.iter_mut().zip(from) {
            *to = *from;
        }
        Words { words, count: from.len().min(8) }
    }
    /// The words, lowest first.
    pub fn get(&self) -> &[u64] {
        self.words.get(..self.count).unwrap_or_default()
    }
}

/// One step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// An entry was read from memory.
    Read {
        /// Which.
        what: What,
        /// Where.
        at: u64,
        /// Whether the read saw the CPUs' caches.
        snoop: Snoop,
        /// What it says; nothing if it could not be read.
        words: Option<Words>,
    },
    /// An entry was in a cache.
    Held {
        /// Which.
        what: What,
        /// What it says.
        words: Words,
    },
    /// A table was in a paging-structure cache, so that the walk begins there.
    HeldTable {
        /// Which.
        what: What,
        /// Where it is.
        table: u64,
    },
    /// The translation was in the IOTLB.
    HeldPage {
        /// First input address.
        first: u64,
        /// Size in bytes.
        size: u64,
        /// Physical address.
        physical: u64,
        /// What it is the result of.
        stage: Stage,
    },
    /// A cache holds that there is nothing but this fault.
    HeldFault(Reason),
    /// Something was checked.
    Check {
        /// What would be wrong.
        reason: Reason,
        /// Whether it is.
        failed: bool,
    },
    /// Accessed or dirty bits are to be set.
    Mark {
        /// In which entry.
        what: What,
        /// Where it is.
        at: u64,
        /// What stood there.
        old: u64,
        /// What is to stand there.
        new: u64,
    },
    /// How it ended.
    Outcome(Answer),
}

/// Hears of steps.
pub(crate) trait Observer {
    fn see(&mut self, step: impl FnOnce() -> Step);
}

/// Nobody looks: steps are not even made.
pub(crate) struct Nobody;

impl Observer for Nobody {
    #[inline(always)]
    fn see(&mut self, _: impl FnOnce() -> Step) {}
}

impl Observer for Vec<Step> {
    fn see(&mut self, step: impl FnOnce() -> Step) {
        self.push(step());
    }
}

/// The steps of a request, and its answer. Displayed, a line a step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Explanation {
    /// What was asked.
    pub request: Request,
    /// What was done, in order.
    pub steps: Vec<Step>,
    /// What it came to.
    pub answer: Answer,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = |bits: u8| bits.saturating_sub(12) / 9 + 1;
        match *self {
            What::Root => f.write_str("root entry"),
            What::Context => f.write_str("context entry"),
            What::PasidDirectory => f.write_str("PASID-directory entry"),
            What::Pasid => f.write_str("PASID entry"),
            What::FirstStage(bits) => write!(f, "first-stage entry of level {}", level(bits)),
            What::SecondStage(bits) => write!(f, "second-stage entry of level {}", level(bits)),
            What::HostPermission(level) => write!(f, "host-permission entry of level {level}"),
        }
    }
}

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, word) in self.get().iter().enumerate() {
            write!(f, "{}{word:#018x}", if n == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Read { what, at, snoop, words } => {
                let how = if *snoop == Snoop::Yes { "" } else { ", not snooped" };
                match words {
                    Some(words) => write!(f, "{what} at {at:#x}{how}: {words}"),
                    None => write!(f, "{what} at {at:#x}{how}: no memory"),
                }
            }
            Step::Held { what, words } => write!(f, "{what}, cached: {words}"),
            Step::HeldTable { what, table } => {
                let (stage, level) = match *what {
                    What::FirstStage(bits) => ("first", bits.saturating_sub(12) / 9),
                    What::SecondStage(bits) => ("second", bits.saturating_sub(12) / 9),
                    _ => ("other", 0),
                };
                write!(f, "{stage}-stage table of level {level}, cached: {table:#x}")
            }
            Step::HeldPage { first, size, physical, stage } => {
                write!(f, "translation ({stage:?}), cached: {size:#x} bytes from {first:#x} at {physical:#x}")
            }
            Step::HeldFault(reason) => write!(f, "fault, cached: {reason}"),
            Step::Check { reason, failed: true } => write!(f, "fault {reason}"),
            Step::Check { reason, failed: false } => write!(f, "not so: {reason}"),
            Step::Mark { what, at, old, new } => write!(f, "{what} at {at:#x} marked: {old:#018x} becomes {new:#018x}"),
            Step::Outcome(answer) => write!(f, "{answer}"),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = |set: bool, name: &'static str| if set { name } else { "" };
        match self {
            Answer::Passed(passed) => {
                write!(f, "passed to {:#x}", passed.address)?;
                if passed.page != u64::MAX {
                    write!(f, " in a page of {:#x} bytes", passed.page)?;
                }
                f.write_str(if passed.snoop { ", snooped" } else { ", not snooped" })
            }
            Answer::Translated(t) => {
                write!(f, "translation: {:#x}, {:#x} bytes, ", t.address, t.page)?;
                let flags = [
                    mark(t.read, "R"),
                    mark(t.write, "W"),
                    mark(t.untranslated_only, "U"),
                    mark(t.snoop, "N"),
                    mark(t.privileged, "P"),
                ];
                f.write_str(if flags.iter().all(|flag| flag.is_empty()) { "nothing" } else { "" })?;
                flags.iter().try_for_each(|flag| f.write_str(flag))?;
                t.because.map_or(Ok(()), |reason| write!(f, "; {reason}"))
            }
            Answer::Interrupt => f.write_str("an interrupt request"),
            Answer::Nothing => f.write_str("completed without data"),
            Answer::Blocked(fault) => {
                let how = match fault.completion {
                    Completion::UnsupportedRequest => "unsupported request",
                    Completion::CompleterAbort => "completer abort",
                    Completion::NoPermission => "no permission",
                    Completion::Effective => "effective permission",
                    Completion::InvalidRequest => "invalid request",
                };
                let recorded = if fault.recordable { "" } else { ", not recorded" };
                write!(f, "blocked ({how}{recorded}): {}", fault.reason)
            }
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Request { source, pasid, privileged, execute, kind, access, address, length, no_snoop } = self.request;
        let what = match (kind, access) {
            (Kind::Translation { no_write: false }, _) => "translation request",
            (Kind::Translation { no_write: true }, _) => "translation request for reads",
            (_, Access::Read) => "read",
            (_, Access::Flush) => "zero-length read",
            (_, Access::Write) => "write",
            (_, Access::Atomic) => "atomic",
        };
        let (bus, device, function) = (source >> 8, source >> 3 & 31, source & 7);
        write!(f, "{bus:02x}:{device:02x}.{function} ")?;
        if kind == Kind::Translated {
            f.write_str("translated ")?;
        }
        write!(f, "{what} of {length} bytes at {address:#x}")?;
        if let Some(pasid) = pasid {
            write!(f, ", PASID {pasid:#x}")?;
        }
        for (set, name) in [(privileged, "privileged"), (execute, "to execute"), (no_snoop, "no-snoop")] {
            if set {
                write!(f, ", {name}")?;
            }
        }
        writeln!(f)?;
        self.steps.iter().try_for_each(|step| writeln!(f, "  {step}"))
    }
}
