//! The oracle: what software owes the hardware, and each time that it did not pay.

use crate::unit::Unit;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// A duty of software; each names the section that demands it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[non_exhaustive]
pub enum Rule {
    /// A command or register write came before what it needs, or while it was not allowed (11.4.4).
    CommandOrder,
    /// A reserved bit was set in a register, or a reserved value (11.2).
    ReservedBit,
    /// A register was accessed in a size that it does not have (11.2).
    AccessSize,
    /// Remapping was enabled after SRTP or SIRTP without the global invalidations that units without ESRTPS or ESIRTPS need
    /// (6.6, 6.7).
    GlobalInvalidation,
    /// The tail of the invalidation queue went past its head, or backwards (6.5.2).
    QueueOverrun,
    /// A wait descriptor's status goes where there is no memory, or to the interrupt range (6.5.2.9).
    StatusAddress,
    /// The head of the page-request queue went past its tail, or out of the queue (7.4.1).
    PageRequestQueue,
    /// A page-group response that no last request of a group in the queue asks for: never asked for, answered before, or of a
    /// code that is reserved (7.6).
    GroupResponse,
    /// A second-stage mapping under nesting is read-only, on a unit with erratum 772415.
    ReadOnlyUnderNesting,
}

/// A rule was broken.
#[derive(Clone, Debug)]
pub struct Breach {
    /// Which.
    pub rule: Rule,
    /// When, in nanoseconds.
    pub at: u64,
    /// What exactly.
    pub what: String,
    /// What led to it, one happening a line.
    pub history: String,
}

/// The oracle of one unit.
#[derive(Clone, Debug, Default)]
pub struct Oracle {
    breaches: Vec<Breach>,
}

impl Oracle {
    /// What was broken so far.
    pub fn breaches(&self) -> &[Breach] {
        &self.breaches
    }
}

impl Unit {
    /// Reports a breach.
    pub(crate) fn breach(&mut self, rule: Rule, what: core::fmt::Arguments<'_>) {
        let breach = Breach { rule, at: self.now, what: what.to_string(), history: self.story.text() };
        self.oracle.breaches.push(breach);
    }
    /// The oracle's findings.
    pub fn oracle(&self) -> &Oracle {
        &self.oracle
    }
}
