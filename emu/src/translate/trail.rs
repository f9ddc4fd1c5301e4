//! The table pages that a walk has read, in order (the paths of cached values).

use alloc::vec::Vec;

/// Root, context, PASID directory and table; five first-stage tables with the five second-stage tables that lead to each;
/// five second-stage tables for the page.
const MOST: usize = 4 + 5 * 6 + 5;

/// Pages of tables.
pub(super) struct Trail {
    pages: [u64; MOST],
    length: usize,
}

impl Trail {
    pub(super) fn new() -> Self {
        Trail { pages: [0; MOST], length: 0 }
    }
    pub(super) fn clear(&mut self) {
        self.length = 0;
    }
    pub(super) fn len(&self) -> usize {
        self.length
    }
    /// Adds the page that holds an entry.
    pub(super) fn push(&mut self, at: u64) {
        if let Some(slot) = self.pages.get_mut(self.length) {
            *slot = at & !0xfff;
            self.length += 1;
        }
    }
    pub(super) fn extend(&mut self, pages: &[u64]) {
        for page in pages {
            self.push(*page);
        }
    }
    /// The pages from the `start`th on.
    pub(super) fn since(&self, start: usize) -> Vec<u64> {
        self.pages.get(start..self.length).unwrap_or_default().to_vec()
    }
}
