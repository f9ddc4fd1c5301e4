//! A case on `vtd-emu`.

use std::collections::BTreeMap;

use vtd_emu::{
    Access, Answer, Bus, DeviceInvalidation, GroupResponse, Keep, Pace, Profile, Request, Size, Snoop, SourceId, Unit,
};

use super::board::{Device, MEMORY, PATTERN, harmless};
use super::case::{Case, Dma, Seen, Step, What, outcome};
use super::layout;
use super::qtest::Width;
use super::registers;

/// What a byte of `edu`'s buffer is before the first access.
pub const BUFFER: u8 = 0xa5;

/// Memory as both sides have it: what was not written has its first value.
#[derive(Clone, Default)]
pub struct Memory {
    pub written: BTreeMap<u64, u64>,
    /// Something was reached that is neither memory nor a hole: QEMU must not be asked.
    pub strayed: bool,
}

impl Memory {
    fn exists(&mut self, at: u64) -> bool {
        self.strayed |= !harmless(at);
        MEMORY.iter().any(|(first, end)| (*first..*end).contains(&at)) && harmless(at)
    }

    pub fn read(&mut self, at: u64) -> Option<u64> {
        self.exists(at).then(|| self.written.get(&at).copied().unwrap_or(layout::initial(at)))
    }

    pub fn write(&mut self, at: u64, value: u64) -> Option<()> {
        if !self.exists(at) {
            return None;
        }
        self.written.insert(at, value);
        Some(())
    }
}

impl Bus for Memory {
    fn read64(&mut self, at: u64, _snoop: Snoop) -> Option<u64> {
        self.read(at)
    }
    fn read128(&mut self, at: u64, _snoop: Snoop) -> Option<[u64; 2]> {
        Some([self.read(at)?, self.read(at.checked_add(8)?)?])
    }
    fn write64(&mut self, at: u64, v: u64) -> Option<()> {
        self.write(at, v)
    }
    fn write32(&mut self, at: u64, v: u32) -> Option<()> {
        let word = self.read(at & !7)?;
        let shift = at % 8 * 8;
        self.write(at & !7, word & !(0xffff_ffff << shift) | u64::from(v) << shift)
    }
    fn compare_exchange64(&mut self, at: u64, old: u64, new: u64) -> Option<u64> {
        let was = self.read(at)?;
        if was == old {
            self.write(at, new)?;
        }
        Some(was)
    }
    fn message(&mut self, _address: u64, _data: u32) {}
    fn invalidate_device(&mut self, _request: DeviceInvalidation) {}
    fn device_invalidated(&mut self, _source: SourceId, _tag: u8) -> bool {
        true
    }
    fn respond(&mut self, _response: GroupResponse) {}
}

/// How a case went.
pub struct Run {
    /// What was seen in each step; shorter than the case where a step strayed.
    pub seen: Vec<Seen>,
    /// Where each step's access went.
    pub target: Vec<Option<u64>>,
    pub memory: Memory,
}

struct Side {
    unit: Unit,
    memory: Memory,
    buffer: [u64; 512],
}

impl Side {
    fn register(&mut self, at: u32, width: Width) -> u64 {
        let size = match width {
            Width::Double => Size::Double,
            Width::Quad => Size::Quad,
        };
        self.unit.read(&mut self.memory, at, size)
    }

    fn write(&mut self, at: u32, width: Width, value: u64) {
        let size = match width {
            Width::Double => Size::Double,
            Width::Quad => Size::Quad,
        };
        self.unit.write(&mut self.memory, at, size, value);
    }

    fn dma(&mut self, dma: &Dma, seen: &mut Seen) -> Option<u64> {
        let access = if dma.write { Access::Write } else { Access::Read };
        let request = Request { length: dma.length, ..Request::new(dma.device.source(), access, dma.at) };
        let answer = self.unit.request(&mut self.memory, &request);
        let mut target = None;
        let (what, data) = match answer {
            Answer::Passed(passed) => match self.transfer(dma, passed.address) {
                Some(data) => {
                    target = Some(passed.address);
                    (outcome::ARRIVED, data)
                }
                None => (outcome::FAILED, self.blank(dma)),
            },
            Answer::Interrupt => (outcome::ELSEWHERE, 0),
            Answer::Blocked(_) | Answer::Nothing | Answer::Translated(_) => (outcome::FAILED, self.blank(dma)),
        };
        if dma.device == Device::Edu {
            if !dma.write {
                seen.push((What::Data, data));
            }
        } else {
            seen.push((What::Outcome, what));
        }
        target
    }

    /// What a read that failed leaves in the buffer.
    fn blank(&mut self, dma: &Dma) -> u64 {
        let slot = &mut self.buffer[(dma.slot / 8) as usize % 512];
        if !dma.write {
            *slot = if dma.length == 4 { *slot & !0xffff_ffff } else { 0 };
        }
        *slot
    }

    /// What is read; 0 for writes.
    fn transfer(&mut self, dma: &Dma, to: u64) -> Option<u64> {
        let slot = (dma.slot / 8) as usize % self.buffer.len();
        let words = u64::from(dma.length).div_ceil(8).max(1);
        for index in 0..words {
            let at = (to & !7) + 8 * index;
            let word = self.memory.read(at)?;
            let (shift, bits) = if dma.length == 4 { (to % 8 * 8, 32) } else { (0, 64) };
            let mask = if bits == 32 { 0xffff_ffff << shift } else { u64::MAX };
            if !dma.write {
                let read = (word & mask) >> shift;
                let rest = if bits == 32 { self.buffer[slot] & !0xffff_ffff } else { 0 };
                self.buffer[slot] = rest | read;
                continue;
            }
            let new = match dma.device {
                Device::Edu => self.buffer[slot] << shift,
                _ => u64::from(PATTERN) << 32 | u64::from(PATTERN),
            };
            self.memory.write(at, word & !mask | new & mask)?;
        }
        Some(if dma.write { 0 } else { self.buffer[slot] })
    }
}

/// Runs a case on a new unit.
pub fn run(case: &Case, profile: &Profile) -> Run {
    let mut unit = Unit::new(profile.clone(), case.seed ^ case.number).with_pace(Pace::at_once());
    if case.forgetful {
        unit.set_caching(Keep::Nothing, None);
    }
    let memory = Memory { written: case.memory.iter().copied().collect(), strayed: false };
    let buffer = [u64::from_ne_bytes([BUFFER; 8]); 512];
    let mut side = Side { unit, memory, buffer };
    let mut run = Run { seen: Vec::new(), target: Vec::new(), memory: Memory::default() };
    for step in &case.steps {
        let mut seen = Seen::new();
        let mut target = None;
        match step {
            Step::Store(words) => {
                for (at, word) in words {
                    // A case stores to memory only.
                    let _ = side.memory.write(*at, *word);
                }
            }
            Step::Write(at, width, value) => side.write(*at, *width, *value),
            Step::Read(at, width) => seen.push((What::Register(*at), side.register(*at, *width))),
            Step::Look(at) => seen.push((What::Memory(*at), side.memory.read(*at).unwrap_or_default())),
            Step::Dma(dma) => {
                target = side.dma(dma, &mut seen);
                for (at, width) in registers::AFTER_DMA {
                    seen.push((What::Register(*at), side.register(*at, *width)));
                }
            }
            Step::Acknowledge => {
                for (at, width, value) in registers::ACKNOWLEDGE {
                    side.write(*at, *width, *value);
                }
            }
            Step::Memory => seen.extend(side.memory.written.iter().map(|(at, word)| (What::Memory(*at), *word))),
        }
        if side.memory.strayed {
            break;
        }
        run.seen.push(seen);
        run.target.push(target);
    }
    run.memory = side.memory;
    run
}
