//! One remapping unit: registers, queue, translation, caches, faults, page requests, interrupts over one [`Bus`].

use crate::bus::Bus;
use crate::caches::{Caches, Keep};
use crate::events::Event;
use crate::faults::FaultLog;
use crate::oracle::Oracle;
use crate::page_requests::PageRequests;
use crate::profile::Profile;
use crate::queue::Queue;
use crate::state::State;
use crate::story::Story;

/// The width of a register access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Size {
    /// 8 bits.
    Byte,
    /// 16 bits.
    Word,
    /// 32 bits.
    Double,
    /// 64 bits.
    Quad,
}

/// A remapping unit.
///
/// Time passes for it at every register access, at `step`, and at nothing else.
#[derive(Debug)]
pub struct Unit {
    pub(crate) profile: Profile,
    pub(crate) state: State,
    pub(crate) caches: Caches,
    pub(crate) queue: Queue,
    pub(crate) faults: FaultLog,
    pub(crate) fault_event: Event,
    pub(crate) page_requests: PageRequests,
    pub(crate) story: Story,
    pub(crate) oracle: Oracle,
    /// Nanoseconds since reset.
    pub(crate) now: u64,
}

impl Unit {
    /// A unit as it comes out of reset.
    pub fn new(profile: Profile, seed: u64) -> Self {
        Unit {
            profile,
            state: State::default(),
            caches: Caches::new(Keep::Everything, seed),
            queue: Queue::default(),
            faults: FaultLog::default(),
            fault_event: Event::new(),
            page_requests: PageRequests::default(),
            story: Story::default(),
            oracle: Oracle::default(),
            now: 0,
        }
    }
    /// What it is.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }
    /// What its commands have latched.
    pub fn state(&self) -> &State {
        &self.state
    }
    /// Its caches.
    pub fn caches(&self) -> &Caches {
        &self.caches
    }
    /// A register read.
    pub fn read(&mut self, _bus: &mut dyn Bus, _at: u32, _size: Size) -> u64 {
        0
    }
    /// A register write.
    pub fn write(&mut self, _bus: &mut dyn Bus, _at: u32, _size: Size, _v: u64) {}
    /// Lets `n` of the unit's own steps pass, and `nanoseconds` of time.
    pub fn step(&mut self, _bus: &mut dyn Bus, _n: u32, _nanoseconds: u64) {}
}
