//! Waiting: always with a deadline, never while a lock is held (design rules 2 and 6).

use super::address::{Nanos, UnitId};
use super::platform::Platform;
use super::sync::{AtomicU32, Ordering, Site, order};

/// One wait with its deadline. The last look at the condition comes after the deadline was seen to pass, so that a
/// platform that sleeps in `relax` does not turn an answer in time into a timeout.
pub(crate) struct Wait<'p, P: Platform> {
    platform: &'p P,
    unit: UnitId,
    limit: Nanos,
    /// From the first turn on: what is there at the first look costs no clock.
    since: Option<Nanos>,
    turns: u32,
    over: bool,
}

impl<'p, P: Platform> Wait<'p, P> {
    pub(crate) fn new(platform: &'p P, unit: UnitId, limit: Nanos) -> Self {
        Wait { platform, unit, limit, since: None, turns: 0, over: false }
    }

    /// Lets time pass; `false` when the deadline had passed before the caller's last look.
    pub(crate) fn turn(&mut self) -> bool {
        if self.over {
            return false;
        }
        let since = *self.since.get_or_insert_with(|| self.platform.now());
        self.platform.relax(self.unit, since);
        self.turns = self.turns.wrapping_add(1);
        self.over = self.platform.now() >= since.after(self.limit);
        true
    }

    /// Whether this turn is one of the few on which to look at registers too: every 32nd, and the last. Not the first: what
    /// completes at once costs no read of a register.
    pub(crate) fn rare(&self) -> bool {
        self.over || self.turns % 32 == 31
    }
}

/// Something that one CPU at a time may do and that takes waiting: taken with a deadline, never spun for with
/// interrupts masked.
pub(crate) struct Turn(AtomicU32);

impl Turn {
    pub(crate) fn new() -> Self {
        Turn(AtomicU32::new(0))
    }

    /// `None` when the deadline passed.
    pub(crate) fn take<P: Platform>(&self, mut wait: Wait<'_, P>) -> Option<Taken<'_>> {
        loop {
            if self.0.compare_exchange(0, 1, order(Site::TurnTaken), Ordering::Relaxed).is_ok() {
                return Some(Taken(self));
            }
            if !wait.turn() {
                return None;
            }
        }
    }
}

/// The turn, given up when dropped.
pub(crate) struct Taken<'t>(&'t Turn);

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.0.0.store(0, order(Site::TurnGiven));
    }
}
