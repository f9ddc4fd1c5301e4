//! One case in both units, and where they differ.

use std::collections::BTreeMap;

use anyhow::Result;
use vtd_emu::Profile;

use super::case::{Case, Dma, Part, Seen, Step, What, outcome};
use super::ours::{self, Run};
use super::registers::{FSTS, GSTS, RECORD};
use super::theirs::{GSTS_MASK, Theirs};

/// Both answers to a step.
pub struct Pair<'a> {
    pub case: &'a Case,
    /// The step's place in the case.
    pub index: usize,
    pub ours: &'a Seen,
    pub theirs: &'a Seen,
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
        let mut list: Vec<_> =
            pairs.map(|((what, ours), (_, theirs))| (*what, *ours, *theirs)).filter(|one| differs(*one)).collect();
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
            None => value(seen, What::Data).is_none_or(|data| data != 0) && record(seen).is_none(),
        };
        (passed(self.ours), passed(self.theirs))
    }

    /// Whether the case has done that to a part of its tables.
    pub fn mutated(&self, part: impl Fn(Part) -> bool, name: &str) -> bool {
        self.case.notes.iter().any(|note| part(note.part) && note.mutation == Some(name))
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

fn differs((what, ours, theirs): (What, u64, u64)) -> bool {
    match what {
        What::Register(GSTS) => (ours ^ theirs) & GSTS_MASK != 0,
        // Without a fault the index means nothing.
        What::Register(FSTS) => ours != theirs,
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
    pub fn pairs<'a>(&'a self, case: &'a Case) -> impl Iterator<Item = Pair<'a>> {
        let both = self.ours.seen.iter().zip(&self.theirs).enumerate();
        both.map(|(index, (ours, theirs))| Pair { case, index, ours, theirs })
    }
}

/// How often each thing happened.
pub type Counts = BTreeMap<&'static str, u64>;
