//! A cache of any kind: entries by tag, and by the pages of tables that they were reached through (6.2).

use super::{Cached, Context, Held, PasidEntry, Table};
use alloc::collections::BTreeMap;

/// Something that was reached through tables.
pub(super) trait Reached {
    /// The pages of those tables, outermost first.
    fn path(&self) -> &[u64];
}

impl Reached for Cached<Context> {
    fn path(&self) -> &[u64] {
        match self {
            Cached::Valid(context) => &context.path,
            Cached::Faulting(_) => &[],
        }
    }
}

impl Reached for Cached<PasidEntry> {
    fn path(&self) -> &[u64] {
        match self {
            Cached::Valid(entry) => &entry.path,
            Cached::Faulting(_) => &[],
        }
    }
}

impl Reached for Table {
    fn path(&self) -> &[u64] {
        &self.path
    }
}

impl Reached for Cached<[u64; 2]> {
    fn path(&self) -> &[u64] {
        &[]
    }
}

/// An entry and when it was made.
#[derive(Clone, Debug)]
pub(super) struct Slot<V> {
    pub(super) age: u64,
    pub(super) value: V,
}

/// Entries by tag.
#[derive(Clone, Debug)]
pub(super) struct Store<K, V> {
    slots: BTreeMap<K, Slot<V>>,
    /// How many entries were reached through a page.
    pages: BTreeMap<u64, u32>,
    made: u64,
}

impl<K: Ord + Copy, V: Reached> Store<K, V> {
    pub(super) fn new() -> Self {
        Store { slots: BTreeMap::new(), pages: BTreeMap::new(), made: 0 }
    }
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.slots.get(key).map(|slot| &slot.value)
    }
    pub(super) fn slot(&self, key: &K) -> Option<&Slot<V>> {
        self.slots.get(key)
    }
    pub(super) fn has(&self, key: &K) -> bool {
        self.slots.contains_key(key)
    }
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }
    /// Adds an entry as the youngest; one of the same tags is no more.
    pub(super) fn insert(&mut self, key: K, value: V) {
        self.made += 1;
        self.insert_aged(key, Slot { age: self.made, value });
    }
    /// Adds an entry that is as old as it says.
    pub(super) fn insert_aged(&mut self, key: K, slot: Slot<V>) {
        for page in slot.value.path() {
            *self.pages.entry(*page).or_default() += 1;
        }
        if let Some(old) = self.slots.insert(key, slot) {
            self.leave(&old.value);
        }
    }
    pub(super) fn remove(&mut self, key: &K) -> Option<Slot<V>> {
        let slot = self.slots.remove(key)?;
        self.leave(&slot.value);
        Some(slot)
    }
    /// Removes the entries that `covered` tells.
    pub(super) fn remove_if(&mut self, covered: impl Fn(&K, &V) -> bool) {
        let pages = &mut self.pages;
        self.slots.retain(|key, slot| {
            let gone = covered(key, &slot.value);
            if gone {
                unlist(pages, &slot.value);
            }
            !gone
        });
    }
    pub(super) fn clear(&mut self) {
        self.slots.clear();
        self.pages.clear();
    }
    /// The tags of the entry that was made first.
    pub(super) fn oldest(&self) -> Option<K> {
        self.slots.iter().min_by_key(|(_, slot)| slot.age).map(|(key, _)| *key)
    }
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.slots.iter().map(|(key, slot)| (key, &slot.value))
    }
    /// The entries whose tags are in a range.
    pub(super) fn range(&self, first: K, last: K) -> impl Iterator<Item = (&K, &V)> {
        self.slots.range(first..=last).map(|(key, slot)| (key, &slot.value))
    }
    /// An entry that was reached through a page from `first` to `last`.
    pub(super) fn reached(&self, first: u64, last: u64, name: impl Fn(&K, &V) -> Held) -> Option<Held> {
        if first > last {
            return None;
        }
        let (page, _) = self.pages.range(first..=last).next()?;
        self.iter().find(|(_, value)| value.path().contains(page)).map(|(key, value)| name(key, value))
    }
    fn leave(&mut self, value: &V) {
        unlist(&mut self.pages, value);
    }
}

fn unlist<V: Reached>(pages: &mut BTreeMap<u64, u32>, value: &V) {
    for page in value.path() {
        if let Some(n) = pages.get_mut(page) {
            *n -= 1;
            if *n == 0 {
                pages.remove(page);
            }
        }
    }
}
