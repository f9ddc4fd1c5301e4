//! Paging-structure caches (6.2.5): how far a walk had come, so that the next one need not begin at the top.

use super::range::{Range, tag};
use super::store::Store;
use super::{Held, Table};
use alloc::vec::Vec;

/// Positions in walks, tagged by `T` and by the address bits that led there (Table 19).
#[derive(Clone, Debug)]
pub(super) struct Tables<T> {
    /// By `T`, by how many address bits the table serves, and by the first address that it serves.
    store: Store<(T, u8, u64), Table>,
    /// Which numbers of address bits were ever used: bit by bit.
    sizes: u64,
}

impl<T: Ord + Copy> Tables<T> {
    pub(super) fn new() -> Self {
        Tables { store: Store::new(), sizes: 0 }
    }
    /// The tags of the lowest table that serves an address.
    pub(super) fn find(&self, by: T, address: u64) -> Option<(T, u8, u64)> {
        let mut left = self.sizes;
        while left != 0 {
            let bits = left.trailing_zeros() as u8;
            left &= left - 1;
            let first = address >> bits << bits;
            let key = (by, bits, tag(first));
            if self.store.get(&key).is_some_and(|table| table.first == first) {
                return Some(key);
            }
        }
        None
    }
    pub(super) fn get(&self, key: &(T, u8, u64)) -> Option<&Table> {
        self.store.get(key)
    }
    pub(super) fn remove(&mut self, key: &(T, u8, u64)) {
        self.store.remove(key);
    }
    pub(super) fn insert(&mut self, by: T, table: Table, capacity: usize) {
        let bits = table.bits.clamp(12, 57);
        let first = table.first >> bits << bits;
        self.sizes |= 1 << bits;
        self.store.insert((by, bits, tag(first)), Table { first, bits, ..table });
        if self.store.len() > capacity
            && let Some(key) = self.store.oldest()
        {
            self.store.remove(&key);
        }
    }
    /// Forgets every table from `first` to `last` of the tags.
    pub(super) fn forget(&mut self, first: T, last: T) {
        self.remove_all(self.store.range((first, 0, 0), (last, u8::MAX, u64::MAX)).map(|(key, _)| *key).collect());
    }
    /// Forgets the tables that serve an address of the range: each of them may hold what software changed.
    pub(super) fn forget_range(&mut self, by: T, range: Range) {
        let mut left = self.sizes;
        while left != 0 {
            let bits = left.trailing_zeros() as u8;
            left &= left - 1;
            let first = (by, bits, range.first >> bits << bits);
            self.remove_all(self.store.range(first, (by, bits, range.last)).map(|(key, _)| *key).collect());
        }
    }
    pub(super) fn clear(&mut self) {
        self.store.clear();
    }
    pub(super) fn iter(&self) -> impl Iterator<Item = (T, &Table)> {
        self.store.iter().map(|((by, ..), table)| (*by, table))
    }
    pub(super) fn reached(&self, first: u64, last: u64, name: impl Fn(T, u64) -> Held) -> Option<Held> {
        self.store.reached(first, last, |(by, ..), table| name(*by, table.first))
    }
    fn remove_all(&mut self, keys: Vec<(T, u8, u64)>) {
        for key in keys {
            self.store.remove(&key);
        }
    }
}
