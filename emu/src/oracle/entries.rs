//! What entries mean that tags depend on: domains and PASIDs (6.2.1, 6.2.2.1, 6.2.3.1).

use super::map::Kind;
use super::{Oracle, Rule, Sight};
use crate::caches::{Cached, Stage, Translation};
use crate::formats::{ContextEntry, PasidEntry};
use crate::request::Pasid;
use alloc::collections::{BTreeMap, BTreeSet};

/// What a present context entry of legacy mode, or a PASID entry, says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Meaning {
    pub(super) domain: u16,
    /// None in legacy mode.
    pasid: Option<Pasid>,
    pub(super) stage: Stage,
    /// SSPTPTR and AW, where there is a second stage.
    pub(super) second: Option<(u64, u64)>,
    /// FSPTPTR and FSPM, where there is a first stage.
    first: Option<(u64, u64)>,
    ssade: bool,
    eafe: bool,
}

impl Meaning {
    /// Reads a present entry; `base` is the PASID of a PASID entry.
    pub(super) fn of(kind: Kind, words: &[u64], base: u64) -> Option<Self> {
        match kind {
            Kind::Context => {
                let entry = ContextEntry(words.try_into().ok()?);
                let (stage, second) = match entry.get(ContextEntry::TT) {
                    0 | 1 => (Stage::Second, Some((entry.table(), entry.get(ContextEntry::AW)))),
                    2 => (Stage::PassThrough, None),
                    _ => return None,
                };
                Some(Meaning {
                    domain: entry.domain(),
                    pasid: None,
                    stage,
                    second,
                    first: None,
                    ssade: false,
                    eafe: false,
                })
            }
            Kind::PasidTable => {
                let entry = PasidEntry(words.try_into().ok()?);
                let stage = match entry.get(PasidEntry::PGTT) {
                    1 => Stage::First,
                    2 => Stage::Second,
                    3 => Stage::Nested,
                    4 => Stage::PassThrough,
                    _ => return None,
                };
                let second = matches!(stage, Stage::Second | Stage::Nested);
                let first = matches!(stage, Stage::First | Stage::Nested);
                Some(Meaning {
                    domain: entry.domain(),
                    pasid: Some(base as Pasid),
                    stage,
                    second: second.then(|| (entry.second(), entry.get(PasidEntry::AW))),
                    first: first.then(|| (entry.first(), entry.get(PasidEntry::FSPM))),
                    ssade: second && entry.has(PasidEntry::SSADE),
                    eafe: first && entry.has(PasidEntry::EAFE),
                })
            }
            _ => None,
        }
    }
    /// FSPTPTR and SSPTPTR; 0 where there is none.
    fn tables(&self) -> (u64, u64) {
        (self.first.map_or(0, |(table, _)| table), self.second.map_or(0, |(table, _)| table))
    }
    /// Which rule two present entries break together.
    fn conflict(&self, other: &Self) -> Option<Rule> {
        if self.domain == other.domain && self.second != other.second {
            return Some(Rule::DomainConflict);
        }
        let same_tag = self.domain == other.domain && self.pasid == other.pasid && self.pasid.is_some();
        if same_tag && (self.stage, self.first) != (other.stage, other.first) {
            return Some(Rule::PasidConflict);
        }
        let table = |meaning: &Self| meaning.second.map(|(table, _)| table);
        let first = |meaning: &Self| meaning.first.map(|(table, _)| table);
        let mode = |meaning: &Self| (meaning.first.map(|(_, mode)| mode), meaning.eafe);
        let same_second = table(self).is_some() && table(self) == table(other);
        let same_first = first(self).is_some() && first(self) == first(other) && table(self) == table(other);
        if same_second && self.ssade != other.ssade || same_first && mode(self) != mode(other) {
            return Some(Rule::TableConflict);
        }
        None
    }
    /// Whether a cached translation with this DID, and PASID where there is a first stage, may have come from these tables.
    fn agrees(&self, translation: &Translation) -> bool {
        let Cached::Valid(leaf) = &translation.found else { return true };
        let through = |table: Option<(u64, u64)>| table.is_none_or(|(table, _)| leaf.path.contains(&table));
        match (self.stage, translation.stage) {
            (Stage::PassThrough, Stage::PassThrough) => true,
            // First stages share a domain; with another PASID they are not in the way. Nor is pass-through.
            (Stage::First, Stage::First) => self.pasid != Some(translation.pasid) || through(self.first),
            (Stage::First, Stage::PassThrough) | (Stage::PassThrough, Stage::First) => {
                self.pasid != Some(translation.pasid)
            }
            (Stage::Second | Stage::Nested, Stage::Second | Stage::Nested) => through(self.second),
            _ => false,
        }
    }
}

/// What all present entries say, by their addresses, and by what they must agree in with others.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    all: BTreeMap<u64, Meaning>,
    domains: BTreeSet<(u16, u64)>,
    pasids: BTreeSet<(u16, Pasid, u64)>,
    /// By FSPTPTR and SSPTPTR; 0 where there is none.
    tables: BTreeSet<(u64, u64, u64)>,
    seconds: BTreeSet<(u64, u64)>,
}

impl Known {
    fn get(&self, at: u64) -> Option<&Meaning> {
        self.all.get(&at)
    }
    /// What all entries say.
    pub(super) fn values(&self) -> impl Iterator<Item = &Meaning> {
        self.all.values()
    }
    fn insert(&mut self, at: u64, meaning: Meaning) {
        self.forget(at, at);
        self.all.insert(at, meaning);
        let (first, second) = meaning.tables();
        self.domains.insert((meaning.domain, at));
        self.pasids.extend(meaning.pasid.map(|pasid| (meaning.domain, pasid, at)));
        self.tables.insert((first, second, at));
        self.seconds.insert((second, at));
    }
    /// Entries from `first` to `last` are present no more.
    pub(super) fn forget(&mut self, first: u64, last: u64) {
        while let Some((&at, &meaning)) = self.all.range(first..=last).next() {
            self.all.remove(&at);
            let (first, second) = meaning.tables();
            self.domains.remove(&(meaning.domain, at));
            if let Some(pasid) = meaning.pasid {
                self.pasids.remove(&(meaning.domain, pasid, at));
            }
            self.tables.remove(&(first, second, at));
            self.seconds.remove(&(second, at));
        }
    }
    /// Entries that this one may be at odds with: where many agree among each other, one of them is enough.
    fn rivals(&self, at: u64, meaning: &Meaning) -> impl Iterator<Item = (u64, Meaning)> {
        let (first, second) = meaning.tables();
        let mut domain = self.domains.range((meaning.domain, 0)..=(meaning.domain, u64::MAX)).map(|(_, at)| *at);
        let pasid = meaning.pasid.unwrap_or(0);
        let mut pasids =
            self.pasids.range((meaning.domain, pasid, 0)..=(meaning.domain, pasid, u64::MAX)).map(|(.., at)| *at);
        let mut tables = self.tables.range((first, second, 0)..=(first, second, u64::MAX)).map(|(.., at)| *at);
        let mut seconds = self.seconds.range((second, 0)..=(second, u64::MAX)).map(|(_, at)| *at);
        let other = move |other: &u64| *other != at;
        [domain.find(other), pasids.find(other), tables.find(other), seconds.find(other)]
            .into_iter()
            .flatten()
            .filter_map(|at| Some((at, *self.all.get(&at)?)))
    }
}

impl Oracle {
    /// A present entry says something new. `fresh`: it was not present before.
    pub(super) fn learn(&mut self, sight: &mut Sight<'_>, at: u64, meaning: Meaning, fresh: bool) {
        if self.map.known.get(at) == Some(&meaning) {
            return;
        }
        self.map.known.insert(at, meaning);
        if sight.unit.profile.cm() && meaning.domain == 0 {
            sight.report(Rule::ReservedDomain, format_args!("entry at {at:#x} has DID 0"));
        }
        let mut rivals = self.map.known.rivals(at, &meaning);
        let conflict = rivals.find_map(|(other, known)| Some((other, known, meaning.conflict(&known)?)));
        if let Some((other, known, rule)) = conflict {
            sight.report(rule, format_args!("{at:#x}: {meaning:x?}, and {other:#x}: {known:x?}"));
        } else if fresh {
            self.check_tags(sight, at, &meaning);
        }
    }
    /// An entry has become present: its tags must not lead to what others left in the caches.
    fn check_tags(&self, sight: &mut Sight<'_>, at: u64, meaning: &Meaning) {
        let caches = &sight.unit.caches;
        let domain = meaning.domain;
        let through = |table: Option<(u64, u64)>, path: &[u64]| table.is_some_and(|(table, _)| path.contains(&table));
        let translation = caches.translations().find(|t| t.domain == domain && !meaning.agrees(t));
        let stale = if let Some(t) = translation {
            Some(alloc::format!("translation of {:#x} for {:#x}, PASID {:#x}", t.first, t.source, t.pasid))
        } else if let Some((_, table)) =
            caches.second_stages().find(|(did, table)| *did == domain && !through(meaning.second, &table.path))
        {
            Some(alloc::format!("second-stage table at {:#x} for {:#x}", table.table, table.first))
        } else if let Some((_, _, table)) = caches.first_stages().find(|(did, pasid, table)| {
            let mine = match meaning.stage {
                Stage::Nested => true,
                // Guests above the same second stage may share its domain.
                Stage::Second => meaning.pasid != Some(*pasid) && through(meaning.second, &table.path),
                _ => through(meaning.first, &table.path),
            };
            *did == domain && (meaning.second.is_some() || meaning.pasid == Some(*pasid)) && !mine
        }) {
            Some(alloc::format!("first-stage table at {:#x} for {:#x}", table.table, table.first))
        } else if let Some((source, _)) = caches.contexts().find(|(_, entry)| {
            let Cached::Valid(context) = entry else { return false };
            let words = context.words.get(..2).unwrap_or_default();
            let other = Meaning::of(Kind::Context, words, 0);
            meaning.pasid.is_none() && other.is_some_and(|other| meaning.conflict(&other).is_some())
        }) {
            Some(alloc::format!("context entry of {source:#x}"))
        } else {
            let entry = caches.pasids().find(|(_, pasid, entry)| {
                let Cached::Valid(entry) = entry else { return false };
                let other = Meaning::of(Kind::PasidTable, &entry.words, u64::from(*pasid));
                meaning.pasid.is_some()
                    && other.is_some_and(|other| {
                        matches!(meaning.conflict(&other), Some(Rule::DomainConflict | Rule::PasidConflict))
                    })
            });
            entry.map(|(source, pasid, _)| alloc::format!("PASID entry of {source:#x}, PASID {pasid:#x}"))
        };
        if let Some(stale) = stale {
            let what = format_args!("entry at {at:#x} became present with DID {domain:#x}, cached under it: {stale}");
            sight.report(Rule::TagReused, what);
        }
    }
}
