//! Fault records, from the unit's registers to a log in memory (VT-d 7.3, 11.4.7, 11.4.14). The top half copies and
//! clears, briefly; decoding and delivery are the bottom half's (`device::events`).

use super::{Host, Unit};
use crate::host::error::ErrorKind;
use crate::host::mem::Frames;
use crate::host::platform::{Platform, Registers};
use crate::host::sync::{Lock, Rank};
use crate::hw::faults::FaultRecord;
use crate::hw::registers::{Fsts, at};

/// One unit's log.
pub(crate) struct FaultLog {
    frames: Frames,
    state: Lock<State>,
}

#[derive(Default)]
struct State {
    /// Records ever written and read; their difference is at most `FaultLog::ROOM`.
    written: usize,
    read: usize,
    /// Records that found the log full, and overflows of the unit's own registers (each hides at least one fault).
    lost: u64,
}

impl FaultLog {
    /// Records that the log holds: two words each in one frame.
    pub(crate) const ROOM: usize = 256;

    pub(crate) fn new<P: Platform>(p: &P, node: Option<u32>) -> Result<Self, ErrorKind> {
        Ok(FaultLog { frames: Frames::alloc(p, 0, node)?, state: Lock::new(Rank::Faults, State::default()) })
    }

    pub(crate) fn release<P: Platform>(self, p: &P) {
        self.frames.free(p);
    }

    /// Copies what the unit recorded into the log and clears it there; says whether the log holds anything.
    ///
    /// Callable from interrupt context. Reads each record's top word first, and clears it by writing bit 31 of that word
    /// alone; goes on behind the last register at the first. Every status bit must be cleared, or no further interrupt
    /// comes; IQE, ICE and ITE are the queue's (`Queue::recover`).
    pub(crate) fn collect<P: Platform>(&self, h: &Host<P>, unit: &Unit<P>) -> bool {
        let mut s = self.state.lock(&h.platform);
        let (first, count) = (unit.caps.cap.fro(), unit.caps.cap.nfr());
        // Twice round the registers at most: a device that faults without end does not hold the CPU here.
        for _ in 0..2 {
            let raw = unit.regs.read32(at::FSTS);
            if raw == u32::MAX {
                break;
            }
            let status = Fsts::from_bits_retain(raw);
            if !status.intersects(Fsts::PPF | Fsts::PFO) {
                break;
            }
            let mut i = u32::from(status.fri()) % count;
            for _ in 0..count {
                let place = first + i * at::FRCD_STRIDE;
                let top = unit.regs.read32(place + FaultRecord::LAST_DWORD);
                // All ones are no record: the unit went away just now.
                if !FaultRecord::is_valid(top) || top == u32::MAX {
                    break;
                }
                let lo = unit.regs.read64(place);
                let hi = u64::from(unit.regs.read32(place + 8)) | u64::from(top) << 32;
                unit.regs.write32(place + FaultRecord::LAST_DWORD, FaultRecord::CLEAR);
                s.put(&self.frames, lo, hi);
                i = (i + 1) % count;
            }
            if status.contains(Fsts::PFO) {
                s.lost += 1;
                unit.regs.write32(at::FSTS, Fsts::PFO.bits());
            }
        }
        s.written != s.read || s.lost != 0
    }

    /// Whether records or an overflow wait in the registers: a unit raises no interrupt while it has told of some already.
    pub(crate) fn pending<P: Platform>(&self, unit: &Unit<P>) -> bool {
        let raw = unit.regs.read32(at::FSTS);
        raw != u32::MAX && Fsts::from_bits_retain(raw).intersects(Fsts::PPF | Fsts::PFO)
    }

    /// Where the next record will stand: what `take` gives with a place before that was there already.
    pub(crate) fn place<P: Platform>(&self, h: &Host<P>) -> usize {
        self.state.lock(&h.platform).written
    }

    /// The oldest record and its place, taken out.
    pub(crate) fn take<P: Platform>(&self, h: &Host<P>) -> Option<(usize, FaultRecord)> {
        let mut s = self.state.lock(&h.platform);
        if s.written == s.read {
            return None;
        }
        let (place, i) = (s.read, s.read % FaultLog::ROOM * 2);
        s.read = s.read.wrapping_add(1);
        Some((place, FaultRecord { lo: self.frames.get(i), hi: self.frames.get(i + 1) }))
    }

    /// How many faults were lost since the last call, at least.
    pub(crate) fn take_lost<P: Platform>(&self, h: &Host<P>) -> u64 {
        core::mem::take(&mut self.state.lock(&h.platform).lost)
    }
}

impl State {
    fn put(&mut self, frames: &Frames, lo: u64, hi: u64) {
        if self.written.wrapping_sub(self.read) >= FaultLog::ROOM {
            self.lost += 1;
            return;
        }
        let i = self.written % FaultLog::ROOM * 2;
        frames.keep(i, lo);
        frames.keep(i + 1, hi);
        self.written = self.written.wrapping_add(1);
    }
}
