//! One remapping unit: registers, queue, translation, caches, faults, page requests, interrupts over one [`Bus`].

use crate::adversary::Adversary;
use crate::bus::Bus;
use crate::caches::{Caches, Keep};
use crate::command::Commands;
use crate::events::Event;
use crate::faults::FaultLog;
use crate::invalidation::Invalidation;
use crate::oracle::Oracle;
use crate::pace::Pace;
use crate::page_requests::PageRequests;
use crate::profile::Profile;
use crate::queue::Queue;
use crate::random::Random;
use crate::registers::Registers;
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
    pub(crate) registers: Registers,
    pub(crate) commands: Commands,
    pub(crate) caches: Caches,
    pub(crate) queue: Queue,
    pub(crate) faults: FaultLog,
    pub(crate) fault_event: Event,
    pub(crate) page_requests: PageRequests,
    pub(crate) story: Story,
    pub(crate) oracle: Oracle,
    pub(crate) pace: Pace,
    pub(crate) random: Random,
    pub(crate) adversary: Adversary,
    /// Nanoseconds since reset.
    pub(crate) now: u64,
}

/// More steps than anything takes that a unit does on its own.
const LONG: u32 = 1 << 20;

impl Unit {
    /// A unit as it comes out of reset, of the default pace.
    pub fn new(profile: Profile, seed: u64) -> Self {
        Unit {
            faults: FaultLog::new(&profile),
            profile,
            state: State::default(),
            registers: Registers::default(),
            commands: Commands::default(),
            caches: Caches::new(Keep::Everything, seed),
            queue: Queue::default(),
            fault_event: Event::new(),
            page_requests: PageRequests::default(),
            story: Story::default(),
            oracle: Oracle::default(),
            pace: Pace::default(),
            random: Random::new(seed),
            adversary: Adversary::default(),
            now: 0,
        }
    }
    /// The same at another pace.
    pub fn with_pace(mut self, pace: Pace) -> Self {
        self.set_pace(pace);
        self
    }
    /// From now on at this pace.
    pub fn set_pace(&mut self, pace: Pace) {
        self.random = Random::new(pace.seed);
        self.pace = pace;
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
    /// Nanoseconds since reset.
    pub fn now(&self) -> u64 {
        self.now
    }
    /// Whether it has left the machine ([`Adversary::gone_after`]).
    pub fn is_gone(&self) -> bool {
        self.adversary.gone_after == Some(0)
    }
    /// A register read. `at` is the offset in the unit's register space.
    pub fn read(&mut self, bus: &mut dyn Bus, at: u32, size: Size) -> u64 {
        if self.adversary.gone() {
            return match size {
                Size::Byte => 0xff,
                Size::Word => 0xffff,
                Size::Double => 0xffff_ffff,
                Size::Quad => u64::MAX,
            };
        }
        self.tick(bus);
        self.read_register(at, size)
    }
    /// A register write.
    pub fn write(&mut self, bus: &mut dyn Bus, at: u32, size: Size, v: u64) {
        if self.adversary.gone() {
            return;
        }
        self.tick(bus);
        self.write_register(bus, at, size, v);
        if self.pace.immediate {
            for _ in 0..LONG {
                if !self.tick(bus) {
                    break;
                }
            }
        }
    }
    /// It loses its power and has it again: registers, what was latched and what was cached are as they come out of reset.
    /// Pace, adversary and what the oracle found stay.
    pub fn reset(&mut self, bus: &mut dyn Bus) {
        self.state = State::default();
        self.registers = Registers::default();
        self.commands = Commands::default();
        self.queue = Queue::default();
        self.faults = FaultLog::new(&self.profile);
        self.fault_event = Event::new();
        self.page_requests = PageRequests::default();
        self.invalidate(bus, Invalidation::Everything);
        self.invalidate(bus, Invalidation::Interrupts);
        self.watch_tables(bus);
    }
    /// Lets `n` of the unit's own steps pass, and `nanoseconds` of time.
    pub fn step(&mut self, bus: &mut dyn Bus, n: u32, nanoseconds: u64) {
        self.now = self.now.saturating_add(nanoseconds);
        for _ in 0..n {
            // Steps in which nothing can happen need not be made.
            if !self.tick(bus) && !self.queue.awaits_devices() && self.adversary.spurious == 0 {
                break;
            }
        }
    }
    /// One step; whether more of them bring more.
    fn tick(&mut self, bus: &mut dyn Bus) -> bool {
        if self.is_gone() {
            return false;
        }
        if self.adversary.spurious != 0 && self.random.percent(self.adversary.spurious.into()) {
            match self.profile.qi() && self.random.percent(50) {
                true => self.queue.event.send_unmasked(bus),
                false => self.fault_event.send_unmasked(bus),
            }
        }
        let commands = self.step_commands(bus);
        let queue = self.step_queue(bus);
        let page_requests = self.step_page_requests(bus);
        commands || queue || page_requests
    }
    /// A number of a range, ends included.
    pub(crate) fn draw(&mut self, (least, most): (u32, u32)) -> u32 {
        let more = self.random.below(u64::from(most.saturating_sub(least)) + 1);
        least.saturating_add(more as u32)
    }
}

#[cfg(test)]
mod tests;
