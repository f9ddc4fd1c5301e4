//! What happened, in order: the history that a breach is reported with.

use crate::invalidation::Invalidation;
use crate::reason::Reason;
use crate::request::{Pasid, SourceId};
use crate::unit::Unit;
use alloc::collections::VecDeque;
use alloc::string::String;
use core::fmt::Write;

/// Something that happened in or to a unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Happening {
    /// Software wrote a register: offset, value.
    Wrote(u32, u64),
    /// A command of GCMD took effect: its bit, and whether it was set.
    Commanded(u32, bool),
    /// A descriptor was fetched: byte offset in the queue, first two words.
    Fetched(u64, [u64; 2]),
    /// It has completed.
    Completed(u64),
    /// A descriptor was found invalid: byte offset in the queue, IQERCD.IQEI of a unit that has it.
    Refused(u64, u8),
    /// A device has not completed an invalidation in time.
    TimedOut(SourceId),
    /// The caches forgot what this covers.
    Forgot(Invalidation),
    /// A request: source, PASID, address, and why it was blocked if it was.
    Asked(SourceId, Option<Pasid>, u64, Option<Reason>),
    /// A CPU stored to memory that the unit may read: where, what stood there, what stands there.
    Stored(u64, u64, u64),
    /// Memory was handed out: first and last byte.
    Allocated(u64, u64),
    /// Memory was given back: first and last byte.
    Freed(u64, u64),
}

/// The last happenings with their times.
#[derive(Clone, Debug, Default)]
pub struct Story {
    last: VecDeque<(u64, Happening)>,
}

/// How many happenings a story remembers.
const LENGTH: usize = 256;

impl Story {
    pub(crate) fn tell(&mut self, now: u64, what: Happening) {
        if self.last.len() == LENGTH {
            self.last.pop_front();
        }
        self.last.push_back((now, what));
    }
    /// What happened, oldest first, with the time in nanoseconds.
    pub fn iter(&self) -> impl Iterator<Item = &(u64, Happening)> {
        self.last.iter()
    }
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for (now, what) in &self.last {
            let _ = writeln!(text, "{now:>12} {what:x?}");
        }
        text
    }
}

impl Unit {
    /// Adds to the unit's story.
    pub(crate) fn tell(&mut self, what: Happening) {
        self.story.tell(self.now, what);
    }
}
