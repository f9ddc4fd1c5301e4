//! Event registers: control, data, address, upper address of one of the unit's own interrupts (6.5.2.10, 7.3, 7.5.3; 11.4.7,
//! 11.4.9, 11.4.11). They are never remapped.

use crate::bus::Bus;

/// One event's four registers.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    masked: bool,
    pending: bool,
    data: u32,
    address: u32,
    upper: u32,
}

const MASK: u32 = 1 << 31;
const PENDING: u32 = 1 << 30;

impl Event {
    pub(crate) fn new() -> Self {
        Event { masked: true, pending: false, data: 0, address: 0, upper: 0 }
    }

    /// The register `n` of control, data, address, upper address.
    pub(crate) fn read(&self, n: u32) -> u32 {
        match n {
            0 => (u32::from(self.masked) * MASK) | (u32::from(self.pending) * PENDING),
            1 => self.data,
            2 => self.address,
            _ => self.upper,
        }
    }

    pub(crate) fn write(&mut self, bus: &mut dyn Bus, n: u32, v: u32) {
        match n {
            0 => {
                self.masked = v & MASK != 0;
                if self.pending && !self.masked {
                    self.pending = false;
                    self.send(bus);
                }
            }
            1 => self.data = v & 0xffff,
            2 => self.address = v & !3,
            _ => self.upper = v,
        }
    }

    /// The interrupt condition has come about.
    pub(crate) fn raise(&mut self, bus: &mut dyn Bus) {
        match self.masked {
            true => self.pending = true,
            false => self.send(bus),
        }
    }

    /// Software has seen to the condition while the interrupt was held back.
    pub(crate) fn settle(&mut self) {
        self.pending = false;
    }

    /// An interrupt for nothing.
    pub(crate) fn send_unmasked(&self, bus: &mut dyn Bus) {
        if !self.masked {
            self.send(bus);
        }
    }

    fn send(&self, bus: &mut dyn Bus) {
        bus.message(u64::from(self.upper) << 32 | u64::from(self.address), self.data);
    }
}
