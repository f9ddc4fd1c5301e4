//! What goes wrong in tables.

use super::*;
use crate::differential::case::Mutated;
use crate::differential::form::Tables;
use crate::differential::layout::HOLES;

/// One way in which an entry goes wrong, or only looks odd.
struct Mutation {
    name: &'static str,
    /// Which word of the entry.
    word: u64,
    change: Change,
    /// Which units answer alike to it.
    alike: Alike,
}

#[derive(Clone, Copy)]
enum Change {
    Clear(u64),
    /// One bit of these, by chance.
    SetOne(u64),
    /// These bits by chance.
    Random(u64),
    /// Points to where no memory is.
    Hole,
    /// Points to the interrupt range.
    Interrupts,
}

use Change::{Clear, Hole, Interrupts, Random, SetOne};

/// In which tables both units answer alike.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Alike {
    Always,
    Legacy,
    /// On units that have nothing else.
    LegacyUnit,
    /// On the unit with first-stage tables.
    First,
    Never,
}

use Alike::{Always, First, Legacy, LegacyUnit, Never};

const fn new(name: &'static str, word: u64, change: Change, alike: Alike) -> Mutation {
    Mutation { name, word, change, alike }
}

const ROOT: &[Mutation] = &[
    new("not present", 0, Clear(1), Legacy),
    new("reserved bit below the pointer", 0, SetOne(0xffe), Legacy),
    new("reserved bit in the upper half", 1, SetOne(u64::MAX), Legacy),
    new("pointer to a hole", 0, Hole, Legacy),
];

const LEGACY_CONTEXT: &[Mutation] = &[
    new("not present", 0, Clear(1), Always),
    new("faults not to be recorded", 0, SetOne(2), Always),
    new("reserved bit below the pointer", 0, SetOne(0xff0), Always),
    new("reserved bit 71", 1, SetOne(1 << 7), Always),
    new("reserved bit behind the domain", 1, SetOne(!0xff_ffff), Always),
    new("another translation type", 0, Random(3 << 2), Always),
    new("another width", 1, Random(7), Always),
    new("another domain", 1, Random(0xffff << 8), Always),
    new("pointer to a hole", 0, Hole, Always),
];

const SCALABLE_CONTEXT: &[Mutation] = &[
    new("not present", 0, Clear(1), Never),
    new("faults not to be recorded", 0, SetOne(2), Always),
    new("reserved bit below the pointer", 0, SetOne(3 << 7), Never),
    new("reserved bit behind RID_PRIV", 1, SetOne(!0x1f_ffff), Never),
    new("a feature that is not there", 0, SetOne(0x7c), Never),
    new("RID_PASID", 1, SetOne(0xf_ffff), Never),
    new("another directory size", 0, Random(7 << 9), Always),
    new("pointer to a hole", 0, Hole, Always),
];

const DIRECTORY: &[Mutation] = &[
    new("not present", 0, Clear(1), Always),
    new("faults not to be recorded", 0, SetOne(2), Always),
    new("reserved bit of the directory", 0, SetOne(0xffc), Never),
    new("pointer to a hole", 0, Hole, Always),
];

const PASID_ENTRY: &[Mutation] = &[
    new("not present", 0, Clear(1), Always),
    new("all zero", 0, Clear(u64::MAX), Never),
    new("faults not to be recorded", 0, SetOne(2), Always),
    new("another type", 0, Random(7 << 6), Always),
    new("another width", 0, Random(7 << 2), Never),
    new("another mode of the first stage", 2, Random(3 << 2), Never),
    new("reserved bit of the first word", 0, SetOne(0xe20), Never),
    new("reserved bit of the second word", 1, SetOne(!0xffff), Never),
    new("reserved bit of the third word", 2, SetOne(0xff3), Never),
    new("reserved bit of the last words", 3, SetOne(u64::MAX), Never),
    new("pointer to a hole", 0, Hole, Never),
    new("first-stage pointer to a hole", 2, Hole, First),
];

const SECOND: &[Mutation] = &[
    new("no reading", 0, Clear(1), Legacy),
    new("no writing", 0, Clear(2), Legacy),
    new("nothing", 0, Clear(3), Legacy),
    new("bit 11", 0, SetOne(1 << 11), LegacyUnit),
    new("bit 62", 0, SetOne(1 << 62), Legacy),
    new("large page bit", 0, SetOne(1 << 7), Legacy),
    new("low address bit", 0, SetOne(0x1ff << 12), Legacy),
    new("pointer to a hole", 0, Hole, Legacy),
    new("pointer to the interrupt range", 0, Interrupts, LegacyUnit),
    new("too high an address", 0, SetOne(0xf << 48), Legacy),
];

const FIRST: &[Mutation] = &[
    new("not present", 0, Clear(1), Always),
    new("no writing", 0, Clear(2), Always),
    new("supervisor's", 0, Clear(4), Always),
    new("not accessed", 0, Clear(0x20), Never),
    new("not dirty", 0, Clear(0x40), Never),
    new("large page bit", 0, SetOne(1 << 7), Always),
    new("low address bit", 0, SetOne(0x1ff << 12), Always),
    new("pointer to a hole", 0, Hole, Always),
    new("pointer to the interrupt range", 0, Interrupts, Always),
    new("too high an address", 0, SetOne(0xf << 48), Always),
];

impl Maker {
    /// Does something to a few entries.
    pub fn mutate(&mut self, scalable: bool) {
        let count = match (self.random.below(10), self.deviant) {
            (0..3, false) => 0,
            (0..8, _) => 1,
            (8, _) => 2,
            _ => 3,
        };
        for _ in 0..count {
            let which = self.random.below(self.notes.len() as u64) as usize;
            let Some(Note { at, part, .. }) = self.notes.get(which).cloned() else { return };
            let list = match part {
                Part::Root => ROOT,
                Part::Context if scalable => SCALABLE_CONTEXT,
                Part::Context => LEGACY_CONTEXT,
                Part::Directory => DIRECTORY,
                Part::PasidEntry => PASID_ENTRY,
                Part::Entry(1, _) => FIRST,
                Part::Entry(..) => SECOND,
            };
            let allowed: Vec<&Mutation> = list.iter().filter(|mutation| self.allows(mutation, scalable)).collect();
            let Some(mutation) = allowed.get(self.random.below(allowed.len() as u64) as usize) else { continue };
            if matches!(part, Part::Context | Part::PasidEntry) {
                // Two tables under one domain id, maybe.
                self.forgetful = true;
            }
            let at = at + 8 * mutation.word;
            let word = self.word(at);
            let new = self.changed(word, mutation.change);
            self.set(at, new);
            self.notes[which].mutations.push(Mutated { name: mutation.name, at, was: word, now: new });
        }
    }

    fn allows(&self, mutation: &Mutation, scalable: bool) -> bool {
        self.deviant
            || match mutation.alike {
                Always => true,
                Legacy => !scalable || self.form.tables == Tables::Legacy,
                LegacyUnit => self.form.tables == Tables::Legacy,
                First => self.form.tables == Tables::FirstStage,
                Never => false,
            }
    }

    fn changed(&mut self, word: u64, change: Change) -> u64 {
        let address = super::tables::ADDRESS;
        match change {
            Clear(bits) => word & !bits,
            SetOne(bits) => {
                let mut left = bits;
                for _ in 0..self.random.below(bits.count_ones().into()) {
                    left &= left - 1;
                }
                word | left & left.wrapping_neg()
            }
            Random(bits) => word & !bits | self.random.bits() & bits,
            Hole => word & !address | self.pick(&HOLES),
            Interrupts => word & !address | 0xfee0_0000 | self.random.below(256) << 12,
        }
    }
}
