//! What the units of a machine share, and how one of them reaches it: the [`Bus`] of each unit.

use super::coherence::Coherence;
use crate::bus::{Bus, DeviceInvalidation, GroupResponse, Snoop};
use crate::devices::Devices;
use crate::memory::Memory;
use crate::random::Random;
use crate::request::SourceId;
use alloc::vec::Vec;

/// An interrupt message that reached the CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    /// The unit that sent it or let it pass.
    pub unit: usize,
    /// Its address, with the upper destination bits of x2APIC mode in 63:40.
    pub address: u64,
    /// Its data.
    pub data: u32,
}

/// Everything but the units.
#[derive(Clone, Debug)]
pub(crate) struct World<M> {
    pub(crate) memory: M,
    pub(crate) coherence: Coherence,
    pub(crate) devices: Devices,
    pub(crate) messages: Vec<Message>,
    pub(crate) random: Random,
    /// Nanoseconds since the start.
    pub(crate) now: u64,
}

impl<M: Memory> World<M> {
    fn read64(&self, unit: usize, at: u64, snoop: Snoop) -> Option<u64> {
        let now = self.memory.read64(at)?;
        Some(match snoop {
            Snoop::Yes => now,
            Snoop::No => self.coherence.old(unit, at).unwrap_or(now),
        })
    }

    fn read128(&self, unit: usize, at: u64, snoop: Snoop) -> Option<[u64; 2]> {
        let now = self.memory.read128(at)?;
        Some(match snoop {
            Snoop::Yes => now,
            Snoop::No => {
                let old = |n: usize| self.coherence.old(unit, at + 8 * n as u64).unwrap_or(now[n]);
                [old(0), old(1)]
            }
        })
    }

    pub(crate) fn write64(&mut self, at: u64, v: u64) -> Option<()> {
        self.memory.write64(at, v)?;
        self.coherence.wrote(at, u64::MAX, v);
        Some(())
    }

    pub(crate) fn write32(&mut self, at: u64, v: u32) -> Option<()> {
        self.memory.write32(at, v)?;
        let shift = at % 8 * 8;
        self.coherence.wrote(at & !7, 0xffff_ffff << shift, u64::from(v) << shift);
        Some(())
    }

    pub(crate) fn compare_exchange64(&mut self, at: u64, old: u64, new: u64) -> Option<u64> {
        let was = self.memory.compare_exchange64(at, old, new)?;
        match was == old {
            true => self.coherence.wrote(at, u64::MAX, new),
            false => self.coherence.taken(at),
        }
        Some(was)
    }

    /// Reads bytes as a device does; says at which address there is no memory.
    pub(crate) fn read_bytes(&self, unit: usize, at: u64, snoop: Snoop, into: &mut [u8]) -> Result<(), u64> {
        let mut at = at;
        let mut rest = into;
        while !rest.is_empty() {
            let start = (at % 8) as usize;
            let n = rest.len().min(8 - start);
            let word = self.read64(unit, at & !7, snoop).ok_or(at)?.to_le_bytes();
            let (now, later) = rest.split_at_mut(n);
            now.copy_from_slice(&word[start..start + n]);
            rest = later;
            at = at.wrapping_add(n as u64);
        }
        Ok(())
    }

    /// Writes bytes as a device does, leaving their neighbours alone.
    pub(crate) fn write_bytes(&mut self, at: u64, from: &[u8]) -> Result<(), u64> {
        let mut at = at;
        let mut rest = from;
        while !rest.is_empty() {
            let start = (at % 8) as usize;
            let n = rest.len().min(8 - start);
            let (now, later) = rest.split_at(n);
            match <[u8; 8]>::try_from(now) {
                Ok(word) => self.write64(at, u64::from_le_bytes(word)),
                Err(_) => self.write_some(at & !7, start, now),
            }
            .ok_or(at)?;
            rest = later;
            at = at.wrapping_add(n as u64);
        }
        Ok(())
    }

    /// Replaces some bytes of a word; CPUs may be writing the others.
    fn write_some(&mut self, at: u64, start: usize, bytes: &[u8]) -> Option<()> {
        let mut old = self.memory.read64(at)?;
        loop {
            let mut word = old.to_le_bytes();
            word[start..start + bytes.len()].copy_from_slice(bytes);
            let new = u64::from_le_bytes(word);
            match self.memory.compare_exchange64(at, old, new)? {
                was if was == old => {
                    let mask = (u64::MAX >> (64 - 8 * bytes.len())) << (8 * start);
                    self.coherence.wrote(at, mask, new);
                    return Some(());
                }
                was => old = was,
            }
        }
    }
}

/// The world as one unit reaches it.
pub(crate) struct Wires<'a, M> {
    pub(crate) world: &'a mut World<M>,
    pub(crate) unit: usize,
}

impl<M: Memory> Bus for Wires<'_, M> {
    fn read64(&mut self, at: u64, snoop: Snoop) -> Option<u64> {
        self.world.read64(self.unit, at, snoop)
    }
    fn read128(&mut self, at: u64, snoop: Snoop) -> Option<[u64; 2]> {
        self.world.read128(self.unit, at, snoop)
    }
    fn write64(&mut self, at: u64, v: u64) -> Option<()> {
        self.world.write64(at, v)
    }
    fn write32(&mut self, at: u64, v: u32) -> Option<()> {
        self.world.write32(at, v)
    }
    fn compare_exchange64(&mut self, at: u64, old: u64, new: u64) -> Option<u64> {
        self.world.compare_exchange64(at, old, new)
    }
    fn flush_write_buffers(&mut self) {
        self.world.coherence.flush_write_buffers(self.unit);
    }
    fn message(&mut self, address: u64, data: u32) {
        self.world.messages.push(Message { unit: self.unit, address, data });
    }
    fn invalidate_device(&mut self, request: DeviceInvalidation) {
        let World { devices, now, random, .. } = &mut *self.world;
        devices.invalidate(self.unit, request, *now, random);
    }
    fn device_invalidated(&mut self, source: SourceId, tag: u8) -> bool {
        self.world.devices.invalidated(self.unit, source, tag, self.world.now)
    }
    fn respond(&mut self, response: GroupResponse) {
        self.world.devices.respond(self.unit, &response);
    }
}
