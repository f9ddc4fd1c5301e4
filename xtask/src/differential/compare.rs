//! One case in both units, and where they differ.

use anyhow::Result;
use vtd_emu::Profile;

use super::case::{Case, Dma, Note, Part, Seen, Step, What, outcome};
use super::form::Form;
use super::layout::{self, QUEUE};
use super::ours::{self, Run};
use super::registers::{CCMD, GSTS, IQH, IQT, RECORD};
use super::theirs::{GSTS_MASK, Theirs};

/// Both answers to a step.
pub struct Pair<'a> {
    pub case: &'a Case,
    /// The step's place in the case.
    pub index: usize,
    pub ours: &'a Seen,
    pub theirs: &'a Seen,
    /// What QEMU answered to all steps.
    pub all: &'a [Seen],
    pub profile: &'a Profile,
}

/// A fault record, as far as it is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    pub reason: u8,
    pub source: u16,
    pub page: u64,
    pub read: bool,
}

impl<'a> Pair<'a> {
    pub fn step(&self) -> &'a Step {
        &self.case.steps[self.index]
    }

    pub fn dma(&self) -> Option<&'a Dma> {
        match self.step() {
            Step::Dma(dma) => Some(dma),
            _ => None,
        }
    }

    pub fn agrees(&self) -> bool {
        self.differences().is_empty()
    }

    /// What was seen differently: what, by us, by them.
    pub fn differences(&self) -> Vec<(What, u64, u64)> {
        let pairs = self.ours.iter().zip(self.theirs);
        let mut list: Vec<_> = pairs
            .map(|((what, ours), (_, theirs))| (*what, *ours, *theirs))
            .filter(|one| differs(self.case.form, *one))
            .collect();
        if self.ours.len() != self.theirs.len() {
            list.push((What::Outcome, self.ours.len() as u64, self.theirs.len() as u64));
        }
        // Without a fault the record is what some earlier one left.
        if record(self.ours).is_none() && record(self.theirs).is_none() && self.dma().is_some() {
            list.retain(|(what, ..)| !matches!(what, What::Register(at) if *at >= RECORD));
        }
        list
    }

    /// What each unit recorded since the last acknowledgement.
    pub fn records(&self) -> (Option<Record>, Option<Record>) {
        (record(self.ours), record(self.theirs))
    }

    /// The value of something in each.
    pub fn values(&self, what: What) -> Option<(u64, u64)> {
        Some((value(self.ours, what)?, value(self.theirs, what)?))
    }

    /// Whether both let the access pass.
    pub fn passed(&self) -> (bool, bool) {
        let passed = |seen: &Seen| match value(seen, What::Outcome) {
            Some(result) => result != outcome::FAILED,
            None => record(seen).is_none(),
        };
        (passed(self.ours), passed(self.theirs))
    }

    /// Whether devices read the same.
    pub fn data_agrees(&self) -> bool {
        value(self.ours, What::Data) == value(self.theirs, What::Data)
    }

    /// Whether the case has done that to a part of its tables.
    pub fn mutated(&self, part: impl Fn(Part) -> bool, names: &[&str]) -> bool {
        let named = |note: &&Note| note.mutations.iter().any(|one| names.contains(&one.name));
        self.case.notes.iter().filter(|note| part(note.part)).any(|note| named(&note))
    }

    /// What `vtd-emu` would answer had the case not done this to its tables.
    pub fn as_if_without(&self, names: &[&str]) -> Option<Seen> {
        let mut case = self.case.clone();
        let undone: Vec<_> = case.notes.iter().flat_map(|note| &note.mutations).copied().collect();
        let undone: Vec<_> = undone.into_iter().filter(|one| names.contains(&one.name)).collect();
        for one in &undone {
            let bits = one.was ^ one.now;
            for (_, word) in case.memory.iter_mut().filter(|(at, _)| *at == one.at) {
                *word = *word & !bits | one.was & bits;
            }
        }
        if undone.is_empty() { None } else { ours::run(&case, self.profile).seen.get(self.index).cloned() }
    }

    /// The steps before this one, latest first.
    fn before(&self) -> impl Iterator<Item = &'a Step> {
        self.case.steps[..self.index].iter().rev()
    }

    /// What software last left in a word of memory.
    pub fn word(&self, at: u64) -> u64 {
        let stored = self.before().find_map(|step| match step {
            Step::Store(words) => words.iter().rev().find(|(one, _)| *one == at).map(|(_, word)| *word),
            _ => None,
        });
        let first = || self.case.memory.iter().find(|(one, _)| *one == at).map(|(_, word)| *word);
        stored.or_else(first).unwrap_or(layout::initial(at))
    }

    /// What software last wrote to a register.
    pub fn written(&self, register: u32) -> Option<u64> {
        self.before().find_map(|step| match step {
            Step::Write(at, _, value) if *at == register => Some(*value),
            _ => None,
        })
    }

    /// The descriptors at which the units stand, where they stand at different ones, and not because they are done.
    pub fn heads(&self) -> (Option<[u64; 4]>, Option<[u64; 4]>) {
        let Some((ours, theirs)) = self.values(What::Register(IQH)).filter(|(ours, theirs)| ours != theirs) else {
            return (None, None);
        };
        let tail = self.written(IQT);
        let descriptor = |head: u64| {
            let words = std::array::from_fn(|word| self.word(QUEUE + head + 8 * word as u64));
            (Some(head) != tail).then_some(words)
        };
        (descriptor(ours), descriptor(theirs))
    }

    /// Whether QEMU let an access of the same device to the same gigabyte pass earlier.
    pub fn passed_before(&self, dma: &Dma) -> bool {
        let earlier = self.case.steps[..self.index].iter().zip(self.all);
        earlier.enumerate().any(|(index, (step, seen))| match step {
            Step::Dma(one) => {
                let pair = Pair { index, ours: seen, theirs: seen, ..*self };
                one.device == dma.device && one.at >> 30 == dma.at >> 30 && pair.passed().1
            }
            _ => false,
        })
    }
}

fn value(seen: &Seen, what: What) -> Option<u64> {
    seen.iter().find(|(one, _)| *one == what).map(|(_, value)| *value)
}

fn record(seen: &Seen) -> Option<Record> {
    let (low, high) = (value(seen, What::Register(RECORD))?, value(seen, What::Register(RECORD + 8))?);
    (high >> 63 != 0).then_some(Record {
        reason: (high >> 32) as u8,
        source: high as u16,
        page: low >> 12,
        read: high >> 62 & 1 != 0,
    })
}

fn differs(form: &Form, (what, ours, theirs): (What, u64, u64)) -> bool {
    match what {
        What::Register(0x10) => ours != theirs | form.granted,
        What::Register(0x14) => ours != theirs | form.granted >> 32,
        What::Register(GSTS) => (ours ^ theirs) & GSTS_MASK != 0,
        // The source and its mask cannot be read (11.4.6.1).
        What::Register(CCMD) => (ours ^ theirs) & !0x3_ffff_0000 != 0,
        _ => ours != theirs,
    }
}

/// What came of a case.
pub struct Outcome {
    pub ours: Run,
    pub theirs: Vec<Seen>,
}

/// Runs a case in both units.
pub fn run(case: &Case, profile: &Profile, theirs: &mut Theirs<'_>) -> Result<Outcome> {
    let ours = ours::run(case, profile);
    let theirs = theirs.run(case, &ours)?;
    Ok(Outcome { ours, theirs })
}

impl Outcome {
    /// Both answers to each step that was made.
    pub fn pairs<'a>(&'a self, case: &'a Case, profile: &'a Profile) -> impl Iterator<Item = Pair<'a>> {
        let both = self.ours.seen.iter().zip(&self.theirs).enumerate();
        both.map(|(index, (ours, theirs))| Pair { case, index, ours, theirs, all: &self.theirs, profile })
    }
}
