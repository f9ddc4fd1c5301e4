//! The one engine: map, unmap, protect, split and translate over any [`Format`] (VT-d 3.7; what is stale then: 6.5).
//!
//! The walk position is kept between calls, runs of entries within a table are stored in one loop, tables that a range
//! covers are detached whole, and a call fences once, twice where it made tables that an incoherent unit reads.

use super::format::{Access, Entry, Format, PageSizes};
use crate::host::address::{Hpa, INTERRUPT_RANGE, Iova, PAGE, Range};
use crate::host::error::{ErrorKind, MapError, MapWhy};
use crate::host::mem::{FreedTables, Tree, shift, slot};
use crate::host::platform::Platform;

/// What the addresses of a domain are bounded by, and how its tables are kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bits of an input address: the least of the domain's width and of its units' MGAW. The format's width bounds it too.
    pub(crate) input: u8,
    /// Bits of a host physical address.
    pub(crate) output: u8,
    /// Every unit snoops its walks of these tables.
    pub(crate) coherent: bool,
    /// The NUMA node for the tables.
    pub(crate) node: Option<u32>,
}

/// What a change leaves in the hardware's caches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stale {
    /// The addresses to invalidate. Large pages that were changed and tables that went are in it whole, as the address
    /// mask of an invalidation must cover them.
    pub(crate) range: Range,
    /// Only leaf entries changed: the invalidation may spare the paging-structure caches (IH = 1).
    pub(crate) leaf_only: bool,
}

/// An operation that did not happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Failed {
    /// Why, and where.
    pub(crate) error: MapError,
    /// What hardware may have cached of the attempt: flushed as after an unmap.
    pub(crate) stale: Option<Stale>,
}

impl Failed {
    fn at(why: MapWhy, at: u64) -> Self {
        Failed { error: MapError { why, at: Iova::at(at) }, stale: None }
    }
}

/// The addresses that an operation has touched so far.
struct Touched {
    first: u64,
    last: u64,
    tables: bool,
}

impl Touched {
    const NOTHING: Self = Touched { first: u64::MAX, last: 0, tables: false };

    fn add(&mut self, first: u64, last: u64) {
        self.first = self.first.min(first);
        self.last = self.last.max(last);
    }

    fn stale(&self) -> Option<Stale> {
        let range = Range::new(self.first, self.last)?;
        Some(Stale { range, leaf_only: !self.tables })
    }
}

/// Bytes that an entry of a table of this level maps, less one.
const fn span(level: u8) -> u64 {
    (1 << shift(level)) - 1
}

/// Whether the `rest` + 1 bytes from `at` on, which do not wrap, meet the interrupt addresses.
#[inline(always)]
const fn meets_interrupts(at: u64, rest: u64) -> bool {
    let last = INTERRUPT_RANGE.last.get();
    // at <= last, and at + rest >= first, in one comparison.
    last.wrapping_sub(at) <= INTERRUPT_RANGE.len_minus_one().wrapping_add(rest)
}

/// The page tables of one address space.
///
/// Each call wants the platform that `new` was given. Dropping it leaks the tables; see `into_freed`.
pub(crate) struct Paging<F: Format> {
    tree: Tree<F>,
    /// The last input address.
    last: u64,
    /// The last output address.
    last_out: u64,
    format: F,
}

impl<F: Format> Paging<F> {
    /// An empty address space: one table. Errors: `OutOfFrames`.
    pub(crate) fn new<P: Platform>(p: &P, format: F, limits: Limits) -> Result<Self, ErrorKind> {
        let levels = format.levels();
        let mask = |bits: u32| u64::MAX >> 64u32.saturating_sub(bits).min(63);
        Ok(Paging {
            tree: Tree::new(p, levels, format.table(), limits.coherent, limits.node)?,
            last: mask(u32::from(limits.input).min(shift(levels + 1))),
            last_out: mask(u32::from(limits.output).min(52)),
            format,
        })
    }

    /// Where the root table is.
    pub(crate) fn root<P: Platform>(&self, p: &P) -> Hpa {
        self.tree.root(p)
    }

    /// The last input address that can be mapped.
    pub(crate) fn last(&self) -> Iova {
        Iova::at(self.last)
    }

    /// The format.
    #[cfg(test)]
    pub(crate) fn format(&self) -> &F {
        &self.format
    }

    /// Tables that operations have unlinked since the last call; released when what was stale then is flushed.
    pub(crate) fn take_freed(&mut self) -> FreedTables {
        self.tree.take_freed()
    }

    /// All tables, for release once no unit points at the root and everything is flushed.
    pub(crate) fn into_freed<P: Platform>(self, p: &P) -> FreedTables {
        self.tree.into_freed(p)
    }

    /// Maps `len` bytes from `iova` on to the memory from `to` on, with the largest pages that alignment, length and
    /// format allow. All of the range or nothing: what was mapped before an error is unmapped again, and reported as
    /// stale. Nothing is stale after success on a unit that does not cache absent entries.
    ///
    /// Errors: `Alignment`, `Width`, `InterruptRange`, `Access`; `Mapped` with the first address that is mapped already;
    /// `OutOfFrames`.
    #[inline]
    pub(crate) fn map<P: Platform>(&mut self, p: &P, iova: Iova, to: Hpa, len: u64, how: Access) -> Result<(), Failed> {
        let (at, to, rest) = (iova.get(), to.get(), len.wrapping_sub(1));
        if (at | to | len) & (PAGE - 1) != 0 || len == 0 {
            return Err(Failed::at(MapWhy::Alignment, at));
        }
        if at > self.last || rest > self.last - at || to > self.last_out || rest > self.last_out - to {
            return Err(Failed::at(MapWhy::Width, at));
        }
        if meets_interrupts(at, rest) || meets_interrupts(to, rest) {
            return Err(Failed::at(MapWhy::InterruptRange, at));
        }
        let Some(value) = self.format.leaf(Hpa::of_entry(to), 1, how) else {
            return Err(Failed::at(MapWhy::Access, at));
        };
        if rest < span(2) && self.tree.reach(p, at) {
            if len != PAGE && self.tree.holds(at, at + rest) {
                return self.map_run(p, at, len, value);
            }
            if len == PAGE && self.tree.put_one(at, value) {
                return Ok(());
            }
        }
        self.map_on(p, at, to, len, how)
    }

    /// `map` of smallest pages into the table at the cursor, as after `reach`.
    #[inline(never)]
    fn map_run<P: Platform>(&mut self, p: &P, at: u64, len: u64, value: u64) -> Result<(), Failed> {
        match self.tree.fill(p, slot(at, 1), (len / PAGE) as usize, value, PAGE) {
            Ok(()) => Ok(()),
            Err(i) => Err(self.conflict(p, at, at, 1, i)),
        }
    }

    /// Moves the cursor to the table of `level` that covers `at`, and makes what is missing on the way.
    #[inline(always)]
    fn table_for<P: Platform>(&mut self, p: &P, at: u64, level: u8) -> Result<(), MapWhy> {
        self.tree.rise(p, at, level);
        while self.tree.level() > level {
            match self.tree.enter(p) {
                Ok(true) => {}
                Ok(false) => return Err(MapWhy::Mapped),
                Err(_) => return Err(MapWhy::OutOfFrames),
            }
        }
        Ok(())
    }

    /// `map` of what is checked, in general.
    #[inline(never)]
    fn map_on<P: Platform>(
        &mut self,
        p: &P,
        first: u64,
        mut to: u64,
        mut left: u64,
        how: Access,
    ) -> Result<(), Failed> {
        let mut at = first;
        while left != 0 {
            let level = self.leaf_level(at | to, left);
            let Some(value) = self.format.leaf(Hpa::of_entry(to), level, how) else {
                return Err(self.undo(p, first, at, MapWhy::Access, at));
            };
            if let Err(why) = self.table_for(p, at, level) {
                return Err(self.undo(p, first, at, why, at));
            }
            let from = slot(at, level);
            let n = (left >> shift(level)).min(512 - from as u64);
            if let Err(i) = self.tree.fill(p, from, n as usize, value, span(level) + 1) {
                return Err(self.conflict(p, first, at, level, i));
            }
            let bytes = n << shift(level);
            (at, to, left) = (at + bytes, to + bytes, left - bytes);
        }
        self.tree.commit(p);
        Ok(())
    }

    /// The level of the largest leaf for `left` bytes where input and output address together have the bits `both`.
    #[inline(always)]
    fn leaf_level(&self, both: u64, left: u64) -> u8 {
        let fits = |level: u8| both & span(level) == 0 && left > span(level);
        if !fits(2) {
            1
        } else if self.format.sizes().contains(PageSizes::SIZE_1G) && fits(3) {
            3
        } else if self.format.sizes().contains(PageSizes::SIZE_2M) {
            2
        } else {
            1
        }
    }

    /// Undoes a `map` from `first` on that, on its way at `at`, found slot `i` of the table at the cursor taken.
    #[cold]
    fn conflict<P: Platform>(&mut self, p: &P, first: u64, at: u64, level: u8, i: usize) -> Failed {
        let mut found = (at & !span(level + 1)) + ((i as u64) << shift(level));
        self.tree.aim(found);
        // A table has at least one entry, so the walk ends at a leaf.
        while self.tree.down(p) {
            found += (self.tree.first_used().unwrap_or(0) as u64) << shift(self.tree.level());
            self.tree.aim(found);
        }
        self.undo(p, first, at, MapWhy::Mapped, found)
    }

    /// Takes back what a `map` did from `first` up to `at`.
    #[cold]
    fn undo<P: Platform>(&mut self, p: &P, first: u64, at: u64, why: MapWhy, found: u64) -> Failed {
        let mut touched = Touched::NOTHING;
        if at > first {
            self.clear(p, first, at - 1, &mut touched);
        }
        self.finish(p, &mut touched);
        Failed { error: MapError { why, at: Iova::at(found) }, stale: touched.stale() }
    }

    /// Unmaps what is mapped in `range`, large pages cut at its ends; holes are passed over. Nothing is unmapped on error.
    ///
    /// Errors: `Alignment`, `Width`; `NotMapped` where nothing at all is mapped in the range; `OutOfFrames` where a large
    /// page must be cut.
    #[inline]
    pub(crate) fn unmap<P: Platform>(&mut self, p: &P, range: Range) -> Result<Stale, Failed> {
        let (first, last) = self.checked(range)?;
        if last - first == PAGE - 1 && self.tree.reach(p, first) && self.tree.take_one(first) {
            return Ok(Stale { range, leaf_only: true });
        }
        self.unmap_on(p, first, last)
    }

    /// `unmap` of what is checked, in general.
    #[inline(never)]
    fn unmap_on<P: Platform>(&mut self, p: &P, first: u64, last: u64) -> Result<Stale, Failed> {
        self.deepest(p, first);
        let (level, unlinked) = (self.tree.level(), self.tree.unlinked());
        if (first | !last) & span(level) != 0 || (first ^ last) >> shift(level + 1) != 0 {
            return self.unmap_far(p, first, last);
        }
        // Whole entries of one table.
        let n = slot(last, level) - slot(first, level) + 1;
        if self.tree.clear(p, slot(first, level), n) == 0 {
            self.tree.commit(p);
            return Err(Failed::at(MapWhy::NotMapped, first));
        }
        let mut touched = Touched { first, last, tables: self.tree.unlinked() != unlinked };
        self.finish(p, &mut touched);
        touched.stale().ok_or(Failed::at(MapWhy::NotMapped, first))
    }

    #[inline(never)]
    fn unmap_far<P: Platform>(&mut self, p: &P, first: u64, last: u64) -> Result<Stale, Failed> {
        let mut touched = Touched::NOTHING;
        if let Err(e) = self.cut_ends(p, first, last, &mut touched) {
            return Err(self.failed(p, e, touched));
        }
        self.clear(p, first, last, &mut touched);
        self.finish(p, &mut touched);
        touched.stale().ok_or(Failed::at(MapWhy::NotMapped, first))
    }

    /// Gives what is mapped in `range` the rights `how`, large pages cut at its ends; holes are passed over. `None` where
    /// it had them already. Nothing changes on error.
    ///
    /// Errors: `Alignment`, `Width`, `Access`; `NotMapped` where nothing at all is mapped in the range; `OutOfFrames`
    /// where a large page must be cut.
    pub(crate) fn protect<P: Platform>(&mut self, p: &P, range: Range, how: Access) -> Result<Option<Stale>, Failed> {
        let (first, last) = self.checked(range)?;
        let format = self.format;
        if format.leaf(Hpa::of_entry(0), 1, how).is_none() {
            return Err(Failed::at(MapWhy::Access, first));
        }
        let mut touched = Touched::NOTHING;
        if let Err(e) = self.cut_ends(p, first, last, &mut touched) {
            return Err(self.failed(p, e, touched));
        }
        let (mut at, mut mapped) = (first, false);
        loop {
            self.deepest(p, at);
            let level = self.tree.level();
            let from = slot(at, level);
            // The slots up to the end of the table or of the range; one where the range ends within an empty slot.
            let n = ((last - at) >> shift(level)).min(511 - from as u64) as usize + 1;
            let (passed, used, changed) =
                self.tree.update(p, from, n, format.live(), |leaf| format.protect(leaf, how).unwrap_or(leaf));
            let next = (at & !span(level)) + ((passed as u64) << shift(level));
            mapped |= used != 0;
            if changed != 0 {
                touched.add(at & !span(level), next - 1);
            }
            if next > last {
                break;
            }
            at = next;
        }
        self.finish(p, &mut touched);
        if mapped { Ok(touched.stale()) } else { Err(Failed::at(MapWhy::NotMapped, first)) }
    }

    /// Where `at` leads to, the size of the page that says so, and its rights.
    #[inline]
    pub(crate) fn translate<P: Platform>(&self, p: &P, at: Iova) -> Option<(Hpa, u64, Access)> {
        let at = at.get();
        if at > self.last {
            return None;
        }
        let (entry, level) = self.tree.find(p, at);
        match self.format.read(entry, level) {
            Entry::Leaf { to, how, .. } => {
                Some((Hpa::of_entry(to.get()).checked_add(at & span(level))?, span(level) + 1, how))
            }
            Entry::Empty | Entry::Table(_) => None,
        }
    }

    /// The word at physical address `word`, where it is an entry on the way of the address `at`.
    pub(crate) fn entry<P: Platform>(&self, p: &P, at: u64, word: u64) -> Option<u64> {
        self.tree.entry(p, at, word)
    }

    /// The ends of a range that is whole pages within the width.
    #[inline(always)]
    fn checked(&self, range: Range) -> Result<(u64, u64), Failed> {
        let (first, last) = (range.first.get(), range.last.get());
        if !range.is_aligned(PAGE) || first > last {
            return Err(Failed::at(MapWhy::Alignment, first));
        }
        if last > self.last {
            return Err(Failed::at(MapWhy::Width, first));
        }
        Ok((first, last))
    }

    /// Moves the cursor to the last table on the way to `at`.
    #[inline(always)]
    fn deepest<P: Platform>(&mut self, p: &P, at: u64) {
        self.tree.rise(p, at, 1);
        while self.tree.down(p) {}
    }

    /// Splits the pages that reach out of the range, until none does.
    #[inline(always)]
    fn cut_ends<P: Platform>(&mut self, p: &P, first: u64, last: u64, touched: &mut Touched) -> Result<(), MapError> {
        self.deepest(p, first);
        self.cut(p, first, first, touched)?;
        self.deepest(p, last);
        self.cut(p, last, last + 1, touched)
    }

    /// Splits the page that holds `at`, in the table at the cursor, until `edge` is between pages.
    #[inline(always)]
    fn cut<P: Platform>(&mut self, p: &P, at: u64, edge: u64, touched: &mut Touched) -> Result<(), MapError> {
        let format = self.format;
        loop {
            let level = self.tree.level();
            if level == 1 || edge & span(level) == 0 {
                return Ok(());
            }
            match self.tree.split(p, |leaf| (format.split(leaf, level), span(level - 1) + 1)) {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(_) => return Err(MapError { why: MapWhy::OutOfFrames, at: Iova::at(at) }),
            }
            touched.add(at & !span(level), at | span(level));
            touched.tables = true;
            self.tree.down(p);
        }
    }

    /// Ends an operation that failed before it changed any mapping; pages may have been split.
    #[cold]
    fn failed<P: Platform>(&mut self, p: &P, error: MapError, mut touched: Touched) -> Failed {
        self.finish(p, &mut touched);
        Failed { error, stale: touched.stale() }
    }

    /// Empties the range, at whose ends pages end too.
    fn clear<P: Platform>(&mut self, p: &P, first: u64, last: u64, touched: &mut Touched) {
        let unlinked = self.tree.unlinked();
        let mut at = first;
        loop {
            self.cover(p, at, last, touched);
            let level = self.tree.level();
            let from = slot(at, level);
            let whole = (((last - at) + 1) >> shift(level)).min(512 - from as u64);
            let next = if at & span(level) == 0 && whole != 0 {
                let next = at + (whole << shift(level));
                if self.tree.clear(p, from, whole as usize) != 0 {
                    touched.add(at, next - 1);
                }
                next
            } else {
                // The range cuts this slot, and no table is below: it is empty.
                (at | span(level)) + 1
            };
            if next > last {
                break;
            }
            at = next;
        }
        touched.tables |= self.tree.unlinked() != unlinked;
    }

    /// Moves the cursor to the highest table of which the range from `at` on covers a slot, or where the way to `at` ends.
    fn cover<P: Platform>(&mut self, p: &P, at: u64, last: u64, touched: &mut Touched) {
        let covers = |level: u8| at & span(level) == 0 && last - at >= span(level);
        loop {
            let above = self.tree.level() + 1;
            let here = (self.tree.at() ^ at) >> shift(above) == 0;
            if here && !(above <= self.format.levels() && covers(above)) || !self.leave(p, touched) {
                break;
            }
        }
        self.tree.aim(at);
        while !covers(self.tree.level()) && self.tree.down(p) {}
    }

    /// Moves the cursor up, and notes the addresses of a table that went because it was empty. `false` at the root.
    #[inline(always)]
    fn leave<P: Platform>(&mut self, p: &P, touched: &mut Touched) -> bool {
        let (at, span) = (self.tree.at(), span(self.tree.level() + 1));
        match self.tree.up(p) {
            None => return false,
            Some(false) => {}
            Some(true) => {
                touched.add(at & !span, at | span);
                touched.tables = true;
            }
        }
        true
    }

    /// Ends an operation: empty tables go, the rest is visible.
    #[inline(always)]
    fn finish<P: Platform>(&mut self, p: &P, touched: &mut Touched) {
        while self.tree.is_empty() && self.leave(p, touched) {}
        self.tree.commit(p);
    }
}
