//! The IOTLB (6.2.4): translations of pages.

use super::range::{Range, tag};
use super::store::{Reached, Slot, Store};
use super::{Cached, Held, Leaf, Stage};
use crate::reason::Reason;
use crate::request::{Pasid, SourceId};
use alloc::collections::BTreeSet;
use alloc::vec::Vec;

/// What a look-up compares: source, PASID of the request and 2^n bytes in one word, as that is what look-ups take their time
/// with; then the first address.
pub(super) type Key = (u64, u64);
/// What an invalidation compares: domain, whether a first stage had a part in it, 2^n bytes, first address.
type Tags = (u16, bool, u8, u64, Key);

fn requester(source: SourceId, asked: Option<Pasid>) -> u64 {
    let asked = asked.map_or(0, |pasid| 1 << 32 | u64::from(pasid));
    u64::from(source) << 40 | asked << 6
}

fn key(requester: u64, shift: u8, first: u64) -> Key {
    (requester | u64::from(shift), first)
}

/// A translation of a page, or on caching-mode units why there is none, with what invalidations compare.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Translation {
    /// Who asked.
    pub source: SourceId,
    /// The PASID of the request.
    pub asked: Option<Pasid>,
    /// First input address of the page.
    pub first: u64,
    /// Its size in bytes.
    pub size: u64,
    /// The domain that tags it.
    pub domain: u16,
    /// The PASID that tags it.
    pub pasid: Pasid,
    /// What it is the result of.
    pub stage: Stage,
    /// What was found.
    pub found: Cached<Leaf>,
}

impl Reached for Translation {
    fn path(&self) -> &[u64] {
        match &self.found {
            Cached::Valid(leaf) => &leaf.path,
            Cached::Faulting(_) => &[],
        }
    }
}

impl Translation {
    /// Whether a first stage had a part in it.
    fn staged(&self) -> bool {
        matches!(self.stage, Stage::First | Stage::Nested)
    }
    fn shift(&self) -> u8 {
        self.size.ilog2() as u8
    }
    fn key(&self) -> Key {
        key(requester(self.source, self.asked), self.shift(), self.first)
    }
    fn tags(&self, key: &Key) -> Tags {
        (self.domain, self.staged(), self.shift(), tag(self.first), *key)
    }
}

const LEAST: Key = (0, 0);
const GREATEST: Key = (u64::MAX, u64::MAX);

/// The translations of one unit.
#[derive(Clone, Debug)]
pub(super) struct Iotlb {
    store: Store<Key, Translation>,
    tags: BTreeSet<Tags>,
    /// Which sizes were ever used: bit n for 2^n bytes.
    sizes: u64,
}

impl Iotlb {
    pub(super) fn new() -> Self {
        Iotlb { store: Store::new(), tags: BTreeSet::new(), sizes: 0 }
    }
    /// The tags of the entry that serves an address.
    ///
    /// After software has changed the size of a page there may be several; hardware may use any of them (6.2.4.1). This one
    /// uses the oldest, which is the one that a missing invalidation leaves wrong.
    pub(super) fn find(&self, source: SourceId, pasid: Option<Pasid>, address: u64) -> Option<Key> {
        let mut found: Option<(u64, Key)> = None;
        let requester = requester(source, pasid);
        let mut left = self.sizes;
        while left != 0 {
            let shift = left.trailing_zeros() as u8;
            left &= left - 1;
            let key = key(requester, shift, address >> shift << shift);
            if let Some(slot) = self.store.slot(&key)
                && found.is_none_or(|(age, _)| slot.age < age)
            {
                found = Some((slot.age, key));
            }
        }
        found.map(|(_, key)| key)
    }
    pub(super) fn get(&self, key: &Key) -> Option<&Translation> {
        self.store.get(key)
    }
    pub(super) fn remove(&mut self, key: &Key) -> Option<Slot<Translation>> {
        let slot = self.store.remove(key)?;
        self.tags.remove(&slot.value.tags(key));
        Some(slot)
    }
    /// Keeps a translation of a request; the leaf's address is rounded to its size.
    pub(super) fn insert(&mut self, source: SourceId, asked: Option<Pasid>, leaf: Leaf, capacity: usize) {
        let shift = leaf.size.max(1).ilog2().clamp(12, 63) as u8;
        let (first, size) = (leaf.first >> shift << shift, 1 << shift);
        let (domain, pasid, stage) = (leaf.domain, leaf.pasid, leaf.stage);
        let found = Cached::Valid(Leaf { first, size, ..leaf });
        self.add(Translation { source, asked, first, size, domain, pasid, stage, found }, None);
        self.fit(capacity);
    }
    /// Keeps a fault: 4 KiB, tagged as the translation would have been (6.2.4.1).
    pub(super) fn insert_fault(
        &mut self,
        (source, asked, address): (SourceId, Option<Pasid>, u64),
        (domain, pasid, stage): (u16, Pasid, Stage),
        reason: Reason,
        capacity: usize,
    ) {
        let (first, found) = (address & !0xfff, Cached::Faulting(reason));
        self.add(Translation { source, asked, first, size: 0x1000, domain, pasid, stage, found }, None);
        self.fit(capacity);
    }
    fn add(&mut self, translation: Translation, age: Option<u64>) {
        let key = translation.key();
        self.remove(&key);
        self.sizes |= 1 << translation.shift();
        self.tags.insert(translation.tags(&key));
        match age {
            Some(age) => self.store.insert_aged(key, Slot { age, value: translation }),
            None => self.store.insert(key, translation),
        }
    }
    fn fit(&mut self, capacity: usize) {
        if self.store.len() > capacity
            && let Some(key) = self.store.oldest()
        {
            self.remove(&key);
        }
    }
    pub(super) fn clear(&mut self) {
        self.store.clear();
        self.tags.clear();
    }
    /// Forgets all of a domain.
    pub(super) fn forget_domain(&mut self, domain: u16) {
        for staged in [false, true] {
            self.forget_part(domain, staged, None);
        }
    }
    /// Forgets all of a PASID in a domain.
    pub(super) fn forget_pasid(&mut self, domain: u16, pasid: Pasid) {
        for staged in [false, true] {
            self.forget_part(domain, staged, Some(pasid));
        }
    }
    /// Forgets what a first stage had a part in, or what none had.
    pub(super) fn forget_part(&mut self, domain: u16, staged: bool, pasid: Option<Pasid>) {
        let (first, last) = ((domain, staged, 0, 0, LEAST), (domain, staged, u8::MAX, u64::MAX, GREATEST));
        let keys: Vec<Key> = self.tags.range(first..=last).map(|tags| tags.4).collect();
        for key in keys {
            if self.is_of(&key, pasid) {
                self.remove(&key);
            }
        }
    }
    /// Forgets a range of the same. Of a page that is larger than the range only the range goes: hardware may have kept the
    /// page in pieces (6.5.3.2), and software was to name all of it.
    pub(super) fn forget_range(&mut self, domain: u16, staged: bool, pasid: Option<Pasid>, range: Range) {
        let mut left = self.sizes;
        while left != 0 {
            let shift = left.trailing_zeros() as u8;
            left &= left - 1;
            let first = (domain, staged, shift, range.first >> shift << shift, LEAST);
            let last = (domain, staged, shift, range.last, GREATEST);
            let keys: Vec<Key> = self.tags.range(first..=last).map(|tags| tags.4).collect();
            for key in keys {
                if self.is_of(&key, pasid)
                    && let Some(slot) = self.remove(&key)
                {
                    self.add_rest(slot, range);
                }
            }
        }
    }
    fn is_of(&self, key: &Key, pasid: Option<Pasid>) -> bool {
        pasid.is_none_or(|pasid| self.store.get(key).is_some_and(|translation| translation.pasid == pasid))
    }
    /// Keeps the pieces of a page that are not in the range.
    fn add_rest(&mut self, Slot { age, value }: Slot<Translation>, range: Range) {
        let Cached::Valid(leaf) = &value.found else { return };
        let mut block = value.first;
        let mut shift = value.shift();
        while shift > 12 && !range.covers(tag(block), shift) {
            shift -= 1;
            let halves = [block, block | 1 << shift];
            let inside = usize::from(!range.touches(tag(halves[0]), shift));
            let (first, size) = (halves[1 - inside], 1 << shift);
            if !self.store.has(&key(requester(value.source, value.asked), shift, first)) {
                let physical = leaf.physical.wrapping_add(first - value.first);
                let found = Cached::Valid(Leaf { first, size, physical, ..leaf.clone() });
                self.add(Translation { first, size, found, ..value.clone() }, Some(age));
            }
            block = halves[inside];
        }
    }
    pub(super) fn iter(&self) -> impl Iterator<Item = &Translation> {
        self.store.iter().map(|(_, translation)| translation)
    }
    pub(super) fn reached(&self, first: u64, last: u64) -> Option<Held> {
        self.store.reached(first, last, |_, translation| Held::Translation {
            source: translation.source,
            domain: translation.domain,
            pasid: translation.pasid,
            first: translation.first,
        })
    }
}
