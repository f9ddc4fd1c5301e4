//! Random cases, repeatable from a seed and a number.

mod mutations;
mod queue;
mod registers;
mod tables;

use std::collections::BTreeMap;

use vtd_emu::Random;

use super::board::Device;
use super::case::{Case, Dma, Note, Part, Step};
use super::form::Form;
use super::layout::{self, TABLE_PAGES, TABLES};
use super::qtest::Width::{self, Double, Quad};
use super::registers::{FSTS, GCMD, GSTS, IQA, IQH, IQT, QIE, RTADDR, SRTP, TE};

/// Of a hundred cases, how many may do what the two units are known to answer differently, in tenths.
const DEVIANT: u64 = 25;

/// Makes a case.
pub fn case(form: &'static Form, seed: u64, number: u64) -> Case {
    let mut random = Random::new(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ number.wrapping_mul(0x9e37_79b9));
    random.bits();
    let deviant = random.below(1000) < DEVIANT && !form.marks();
    let mut maker = Maker {
        form,
        random,
        deviant,
        memory: BTreeMap::new(),
        started: None,
        steps: Vec::new(),
        notes: Vec::new(),
        frames: [0; 2],
        queue: None,
        level: 0,
        slot: 0,
        stale: false,
        forgetful: false,
        scalable: false,
        upper: false,
    };
    // As the unit is left between cases.
    maker.level = TE;
    maker.write(GCMD, Double, TE);
    maker.root(layout::SERVICE);
    match maker.random.below(100) {
        0..78 => maker.tables(),
        0..92 => maker.queue(),
        _ => maker.registers(),
    }
    maker.steps.push(Step::Memory);
    let forgetful = maker.forgetful || !maker.stale && maker.random.percent(30);
    let memory = maker.started.unwrap_or(maker.memory).into_iter().collect();
    Case { form, seed, number, memory, steps: maker.steps, notes: maker.notes, forgetful }
}

/// A case that is being made.
struct Maker {
    form: &'static Form,
    random: Random,
    /// The case may go where the units are known to differ.
    deviant: bool,
    /// What stands in memory.
    memory: BTreeMap<u64, u64>,
    /// What stood there before the first step.
    started: Option<BTreeMap<u64, u64>>,
    steps: Vec<Step>,
    notes: Vec<Note>,
    /// Pages handed out, of low and of high memory.
    frames: [u64; 2],
    queue: Option<queue::Queue>,
    /// The level bits of GCMD.
    level: u64,
    /// The next slot of `edu`'s buffer.
    slot: u32,
    /// Something was changed and not invalidated.
    stale: bool,
    /// Caches would hold what breaks the rules for domain ids, and invalidations of a domain would miss it.
    forgetful: bool,
    /// The unit goes by scalable tables.
    scalable: bool,
    /// First-stage addresses of the upper half: requests there must not be blocked, as QEMU records them otherwise.
    upper: bool,
}

impl Maker {
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.random.below(from.len() as u64) as usize]
    }

    /// A page for a table. The few that a case needs are always there.
    fn frame(&mut self) -> u64 {
        let high = usize::from(self.random.percent(50));
        let number = self.frames[high];
        self.frames[high] = (number + 1) % TABLE_PAGES;
        TABLES[high] + number * 0x1000
    }

    fn word(&self, at: u64) -> u64 {
        self.memory.get(&at).copied().unwrap_or(layout::initial(at))
    }

    /// Sets a word before the first step.
    fn set(&mut self, at: u64, word: u64) {
        self.memory.insert(at, word);
    }

    fn note(&mut self, at: u64, part: Part) {
        self.notes.push(Note { at, part, mutations: Vec::new() });
    }

    fn step(&mut self, step: Step) {
        self.steps.push(step);
    }

    fn write(&mut self, register: u32, width: Width, value: u64) {
        self.steps.push(Step::Write(register, width, value));
    }

    fn read(&mut self, register: u32, width: Width) {
        self.steps.push(Step::Read(register, width));
    }

    /// One command of GCMD that is done once.
    fn command(&mut self, bit: u64) {
        self.write(GCMD, Double, self.level | bit);
        self.read(GSTS, Double);
    }

    /// One of those that stay.
    fn turn(&mut self, bit: u64, on: bool) {
        self.level = if on { self.level | bit } else { self.level & !bit };
        self.command(0);
    }

    /// A register of 64 bits, whole or by halves.
    fn write_quad(&mut self, register: u32, value: u64) {
        if self.random.percent(70) {
            self.write(register, Quad, value);
        } else {
            self.write(register, Double, value & 0xffff_ffff);
            self.write(register + 4, Double, value >> 32);
        }
    }

    /// Makes the unit go by the tables at `root`.
    fn root(&mut self, root: u64) {
        self.write_quad(RTADDR, root);
        self.scalable = root & 1 << 10 != 0;
        self.command(SRTP);
    }

    fn dma(&mut self, device: Device, write: bool, at: u64, length: u32) {
        let slot = self.slot;
        if device == Device::Edu {
            self.slot += 8;
        }
        self.step(Step::Dma(Dma { device, write: write || device != Device::Edu, at, length, slot }));
    }
}

#[cfg(test)]
mod tests {
    use super::super::form::FORMS;
    use super::*;

    #[test]
    fn a_seed_and_a_number_make_one_case() {
        for form in FORMS {
            for number in 0..200 {
                let (one, two) = (case(form, 7, number), case(form, 7, number));
                assert_eq!((one.memory, one.steps), (two.memory, two.steps), "{} {number}", form.name);
            }
        }
    }

    #[test]
    fn seeds_and_numbers_differ() {
        let form = &FORMS[0];
        assert_ne!(case(form, 7, 1).steps, case(form, 7, 2).steps);
        assert_ne!(case(form, 7, 1).steps, case(form, 8, 1).steps);
    }
}
