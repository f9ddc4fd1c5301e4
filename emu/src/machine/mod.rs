//! A machine to test drivers on: memory, units, the devices below them, and a clock that only calls move.
//!
//! A test or a kernel stands for the CPUs: it reads and writes the units' registers, says what it stores to memory and what it
//! flushes, and steers the devices. Nothing happens between calls.

mod coherence;
mod dma;
mod probes;
#[cfg(test)]
mod tests;
mod wires;

pub use dma::{Blocked, Dma, Via};
pub use probes::{Probe, Probes, Seen, Sight, When};
pub use wires::Message;

use crate::bus::Bus;
use crate::devices::{Devices, Function, FunctionId};
use crate::memory::Memory;
use crate::oracle::Breach;
use crate::profile::Profile;
use crate::random::Random;
use crate::request::{Answer, Request, SourceId};
use crate::unit::{Size, Unit};
use alloc::vec::Vec;
use coherence::Coherence;
use wires::{Wires, World};

/// What one step of [`Machine::step`] takes, in nanoseconds.
const STEP: u64 = 100;

/// Units, devices and memory.
#[derive(Debug)]
pub struct Machine<M> {
    units: Vec<Unit>,
    world: World<M>,
    /// What software did to configuration space and must not: when, and in words.
    misdeeds: Vec<(u64, SourceId, &'static str)>,
    probes: Probes,
}

impl<M: Memory> Machine<M> {
    /// A machine without units and devices. Whatever happens at random in it, the seed repeats.
    pub fn new(memory: M, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let coherence = Coherence::new(random.bits());
        let world = World { memory, coherence, devices: Devices::default(), messages: Vec::new(), random, now: 0 };
        Machine { units: Vec::new(), world, misdeeds: Vec::new(), probes: Probes::default() }
    }

    /// Adds a unit as it comes out of reset; returns its index.
    pub fn add_unit(&mut self, profile: Profile) -> usize {
        let n = self.units.len();
        if profile.rwbf() {
            self.world.coherence.add_buffer(n, profile.coherent());
        }
        self.units.push(Unit::new(profile, self.world.random.bits()));
        if n != 0 {
            self.units.iter_mut().for_each(Unit::has_company);
        }
        n
    }
    /// How many units there are.
    pub fn units(&self) -> usize {
        self.units.len()
    }
    /// A unit.
    pub fn unit(&self, n: usize) -> Option<&Unit> {
        self.units.get(n)
    }
    /// A unit.
    pub fn unit_mut(&mut self, n: usize) -> Option<&mut Unit> {
        self.units.get_mut(n)
    }
    /// The memory.
    pub fn memory(&self) -> &M {
        &self.world.memory
    }
    /// The memory; stores that go straight there are stores of nobody, and every unit sees them at once unless a line is
    /// held back already.
    pub fn memory_mut(&mut self) -> &mut M {
        &mut self.world.memory
    }
    /// Nanoseconds since the machine was made.
    pub fn now(&self) -> u64 {
        self.world.now
    }

    /// Lets a unit do something with the world as it reaches it, at the machine's time. `None` where there is no such unit.
    pub fn with_unit<R>(&mut self, n: usize, act: impl FnOnce(&mut Unit, &mut dyn Bus) -> R) -> Option<R> {
        self.with(n, |unit, wires| act(unit, wires))
    }

    fn with<R>(&mut self, n: usize, act: impl FnOnce(&mut Unit, &mut Wires<'_, M>) -> R) -> Option<R> {
        let unit = self.units.get_mut(n)?;
        let mut wires = Wires { world: &mut self.world, unit: n };
        let behind = wires.world.now.saturating_sub(unit.now);
        if behind != 0 {
            unit.step(&mut wires, 0, behind);
        }
        Some(act(unit, &mut wires))
    }

    /// A CPU reads a register of a unit, at a byte offset. Where there is no unit all bits are ones.
    pub fn read(&mut self, unit: usize, at: u32, size: Size) -> u64 {
        self.with(unit, |u, wires| u.read(wires, at, size)).unwrap_or(match size {
            Size::Byte => 0xff,
            Size::Word => 0xffff,
            Size::Double => 0xffff_ffff,
            Size::Quad => u64::MAX,
        })
    }

    /// A CPU writes a register of a unit.
    pub fn write(&mut self, unit: usize, at: u32, size: Size, v: u64) {
        self.with(unit, |u, wires| u.write(wires, at, size, v));
    }

    /// A request reaches a unit from nowhere: no device, no bridge, no data. `None` where there is no unit.
    pub fn request(&mut self, unit: usize, request: &Request) -> Option<Answer> {
        self.with(unit, |u, wires| u.request(wires, request))
    }

    /// A CPU waits for so long: units and devices step once, and time passes.
    pub fn relax(&mut self, nanoseconds: u64) {
        self.pass(nanoseconds);
    }

    /// Units and devices take so many steps.
    pub fn step(&mut self, n: u32) {
        for _ in 0..n {
            self.pass(STEP);
        }
    }

    fn pass(&mut self, nanoseconds: u64) {
        self.world.now = self.world.now.saturating_add(nanoseconds);
        for (n, unit) in self.units.iter_mut().enumerate() {
            let left = self.world.now.saturating_sub(unit.now);
            unit.step(&mut Wires { world: &mut self.world, unit: n }, 1, left);
        }
        self.world.coherence.step();
        self.stir();
    }

    /// A CPU is about to store 64 bits, or 128 aligned ones, that a unit may read.
    pub fn storing(&mut self, at: u64) {
        self.try_probes(at, When::Before);
        self.world.coherence.storing(&self.world.memory, at);
    }

    /// It has: `new` where `old` stood.
    pub fn stored(&mut self, at: u64, old: u64, new: u64) {
        self.each(|unit, wires| unit.stored(wires, at, old, new));
        self.try_probes(at, When::After);
    }

    /// It has stored two words in one step, at a multiple of 16.
    pub fn stored_pair(&mut self, at: u64, old: [u64; 2], new: [u64; 2]) {
        self.each(|unit, wires| unit.stored_pair(wires, at, old, new));
        self.try_probes(at, When::After);
    }

    /// A CPU flushes the lines of these bytes; it has an effect from the next fence on.
    pub fn flush(&mut self, at: u64, len: u64) {
        self.world.coherence.flush(at, len);
    }

    /// A CPU fences its stores and flushes.
    pub fn fence(&mut self) {
        self.world.coherence.fence();
    }

    /// Software was given memory for what units read: it holds anything.
    pub fn allocated(&mut self, at: u64, len: u64) {
        self.world.coherence.allocated(at, len);
        if let Some(last) = last(at, len) {
            self.each(|unit, _| unit.allocated(at, last));
        }
    }

    /// Software gave such memory back.
    pub fn freed(&mut self, at: u64, len: u64) {
        if let Some(last) = last(at, len) {
            self.each(|unit, wires| unit.freed(wires, at, last));
        }
        self.world.coherence.freed(at, len);
    }

    /// Switches the oracles off, for speed, or on again.
    pub fn set_oracles(&mut self, on: bool) {
        self.each(|unit, wires| unit.set_oracle(wires, on));
    }

    /// Software says that it owes the units nothing now: no call of its driver is under way.
    pub fn at_rest(&mut self) {
        self.each(|unit, wires| unit.at_rest(wires));
    }

    /// All that a CPU does to store 64 bits of its own: the store, what the units are told of it, and no flush. `None` where
    /// there is no memory.
    pub fn store(&mut self, at: u64, v: u64) -> Option<()> {
        let old = self.world.memory.read64(at)?;
        self.storing(at);
        self.world.memory.write64(at, v)?;
        self.stored(at, old, v);
        Some(())
    }

    /// In how many of a hundred steps a line that no one has flushed leaves the caches, or the write buffers, on its own.
    pub fn set_leaking(&mut self, percent: u8) {
        self.world.coherence.leaking = percent;
    }

    fn each(&mut self, mut act: impl FnMut(&mut Unit, &mut Wires<'_, M>)) {
        for n in 0..self.units.len() {
            self.with(n, &mut act);
        }
    }

    /// Interrupts that reached the CPUs since the last call, in order.
    pub fn messages(&mut self) -> Vec<Message> {
        core::mem::take(&mut self.world.messages)
    }

    /// What software owed the units and did not pay: unit, breach.
    pub fn breaches(&self) -> Vec<(usize, &Breach)> {
        let mut all = Vec::new();
        for (n, unit) in self.units.iter().enumerate() {
            all.extend(unit.oracle().breaches().iter().map(|b| (n, b)));
        }
        all
    }

    /// What software did to configuration space and must not: when, to whom, in words.
    pub fn misdeeds(&self) -> &[(u64, SourceId, &'static str)] {
        &self.misdeeds
    }

    /// Adds a function.
    pub fn add_function(&mut self, function: Function) -> FunctionId {
        self.world.devices.add(function)
    }

    /// A function as it was described.
    pub fn function(&self, f: FunctionId) -> Option<&Function> {
        self.world.devices.get(f).map(|d| &d.function)
    }

    /// Takes a function out of its slot, without warning: its configuration space reads as ones, and what it was asked stays
    /// unanswered.
    pub fn remove(&mut self, f: FunctionId) {
        let lost = self.world.devices.remove(f);
        self.lose(lost);
    }

    /// What a device TLB held is gone with it.
    fn lose(&mut self, lost: Option<(usize, SourceId)>) {
        if let Some((unit, source)) = lost {
            self.with(unit, |unit, _| unit.device_lost(source));
        }
    }

    /// Reads the aligned 32 bits of a function's configuration space that hold the byte at `at`; ones where there is none.
    pub fn config_read(&self, source: SourceId, at: u16) -> u32 {
        self.world.devices.config_read(source, at)
    }

    /// Writes configuration space.
    pub fn config_write(&mut self, source: SourceId, at: u16, size: Size, v: u32) {
        let Some(written) = self.world.devices.config_write(source, at, size, v) else { return };
        self.lose(written.lost);
        if let Some(wrong) = written.wrong {
            self.misdeeds.push((self.world.now, source, wrong));
        }
    }
}

/// The last of `len` bytes.
fn last(at: u64, len: u64) -> Option<u64> {
    Some(at.saturating_add(len.checked_sub(1)?))
}
