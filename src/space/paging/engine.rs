//! The one engine: map, unmap, protect, split and translate over any [`Format`] (VT-d 3.6, 3.7; what is stale then: 6.5).
//!
//! Where addresses are canonical the tree has the upper half behind the lower one, as hardware indexes its tables; addresses
//! are turned on the way in and out, and a range lies in one half.
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
    /// Bits of an input address: the least of the domain's width and of its units' MGAW. The format's width bounds it too,
    /// less one bit where addresses are canonical; then it bounds the lower half alone (VT-d 3.6).
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

/// Sets bits `first` to `last`.
fn set_bits(bits: &mut [u64], first: u64, last: u64) {
    let (from, to) = (first / 64, last / 64);
    for (i, word) in (from..=to).zip(bits.iter_mut().skip(from as usize)) {
        let low = if i == from { u64::MAX << (first % 64) } else { u64::MAX };
        let high = if i == to { u64::MAX >> (63 - last % 64) } else { u64::MAX };
        *word |= low & high;
    }
}

/// The page tables of one address space.
///
/// Each call wants the platform that `new` was given. Dropping it leaks the tables; see `into_freed`.
pub(crate) struct Paging<F: Format> {
    tree: Tree<F>,
    /// The last input address, of the lower half where there are two.
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
            last: mask(u32::from(limits.input).min(shift(levels + 1) - u32::from(F::CANONICAL))),
            last_out: mask(u32::from(limits.output).min(52)),
            format,
        })
    }

    /// Where the root table is.
    pub(crate) fn root<P: Platform>(&self, p: &P) -> Hpa {
        self.tree.root(p)
    }

    /// The last input address to hand out. Beyond it, where addresses are canonical, all of the upper half can be mapped:
    /// hardware asks for no more (VT-d 3.6), whatever CAP.MGAW; a device must carry these addresses.
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
        let Some(at) = self.place(at, rest) else { return Err(Failed::at(MapWhy::Width, at)) };
        if to > self.last_out || rest > self.last_out - to {
            return Err(self.fail(MapWhy::Width, at));
        }
        if meets_interrupts(at, rest) || meets_interrupts(to, rest) {
            return Err(Failed::at(MapWhy::InterruptRange, at));
        }
        let Some(value) = self.format.leaf(Hpa::of_entry(to), 1, how) else {
            return Err(self.fail(MapWhy::Access, at));
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
        self.failed(p, MapError { why, at: self.address(found) }, touched)
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
            return Err(self.fail(MapWhy::NotMapped, first));
        }
        let mut touched = Touched { first, last, tables: self.tree.unlinked() != unlinked };
        self.finish(p, &mut touched);
        self.stale(&touched).ok_or(self.fail(MapWhy::NotMapped, first))
    }

    #[inline(never)]
    fn unmap_far<P: Platform>(&mut self, p: &P, first: u64, last: u64) -> Result<Stale, Failed> {
        let mut touched = Touched::NOTHING;
        if let Err(e) = self.cut_ends(p, first, last, &mut touched) {
            return Err(self.failed(p, e, touched));
        }
        self.clear(p, first, last, &mut touched);
        self.finish(p, &mut touched);
        self.stale(&touched).ok_or(self.fail(MapWhy::NotMapped, first))
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
            return Err(self.fail(MapWhy::Access, first));
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
                self.tree.update(p, from, n, format.live(), |_, leaf| format.protect(leaf, how).unwrap_or(leaf));
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
        if mapped { Ok(self.stale(&touched)) } else { Err(self.fail(MapWhy::NotMapped, first)) }
    }

    /// Which pages of `range` have been written through since their dirty bits were last cleared: for each of these, page
    /// `i` of 4 KiB of the range, bit `skip + i` of `bits` is set (bit 0 of word 0 first); none is cleared. With `clear` the
    /// dirty bits are cleared that are read, and what this leaves in caches is returned.
    ///
    /// A dirty large page counts for all of its pages. One that lies in the range in part alone is read and not cleared, so
    /// that nothing of the rest is lost; nor is anything where hardware writes no dirty bits, and then every mapped page
    /// counts as dirty.
    ///
    /// After a `clear`, hardware may go on writing through what it has cached as dirty without setting the bit. What was
    /// written so is known to be complete when what is stale is flushed: a copy of the pages taken then holds it.
    ///
    /// Errors: `Alignment`, `Width`, the latter also where `bits` is too short.
    pub(crate) fn read_dirty<P: Platform>(
        &mut self,
        p: &P,
        range: Range,
        bits: &mut [u64],
        skip: u64,
        clear: bool,
    ) -> Result<Option<Stale>, Failed> {
        let (first, last) = self.checked(range)?;
        if ((last - first) / PAGE).saturating_add(skip) / 64 >= bits.len() as u64 {
            return Err(self.fail(MapWhy::Width, first));
        }
        let (format, mut touched, mut at) = (self.format, Touched::NOTHING, first);
        let live = format.live();
        loop {
            self.deepest(p, at);
            let level = self.tree.level();
            let (from, base) = (slot(at, level), at & !span(level));
            let n = ((last - at) >> shift(level)).min(511 - from as u64) as usize + 1;
            let (passed, ..) = self.tree.update(p, from, n, live, |i, leaf| {
                let written = !live || matches!(format.read(leaf, level), Entry::Leaf { dirty: true, .. });
                if !written {
                    return leaf;
                }
                let page = base + (((i - from) as u64) << shift(level));
                let end = page | span(level);
                set_bits(bits, skip + (page.max(first) - first) / PAGE, skip + (end.min(last) - first) / PAGE);
                if !(clear && live && page >= first && end <= last) {
                    return leaf;
                }
                touched.add(page, end);
                format.clean(leaf)
            });
            let next = base + ((passed as u64) << shift(level));
            if next > last {
                break;
            }
            at = next;
        }
        self.finish(p, &mut touched);
        Ok(self.stale(&touched))
    }

    /// Whether hardware writes dirty bits to these tables.
    pub(crate) fn tracks_dirty(&self) -> bool {
        self.format.live()
    }

    /// Where `at` leads to, the size of the page that says so, and its rights.
    #[inline]
    pub(crate) fn translate<P: Platform>(&self, p: &P, at: Iova) -> Option<(Hpa, u64, Access)> {
        let at = self.place(at.get(), 0)?;
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

    /// The ends of a range that is whole pages within the width, as the tree has them.
    #[inline(always)]
    fn checked(&self, range: Range) -> Result<(u64, u64), Failed> {
        let (first, last) = (range.first.get(), range.last.get());
        if !range.is_aligned(PAGE) || first > last {
            return Err(Failed::at(MapWhy::Alignment, first));
        }
        if last <= self.last {
            return Ok((first, last));
        }
        if F::CANONICAL
            && let Some(at) = self.place_above(first, last - first)
        {
            return Ok((at, at + (last - first)));
        }
        Err(Failed::at(MapWhy::Width, first))
    }

    /// Where the tree has the `rest` + 1 bytes from `at` on; `None` beyond the width and where one is not canonical.
    #[inline(always)]
    fn place(&self, at: u64, rest: u64) -> Option<u64> {
        if at <= self.last && rest <= self.last - at {
            Some(at)
        } else if F::CANONICAL {
            self.place_above(at, rest)
        } else {
            None
        }
    }

    #[inline(never)]
    fn place_above(&self, at: u64, rest: u64) -> Option<u64> {
        let sign = shift(self.format.levels() + 1) - 1;
        (at >= u64::MAX << sign && rest <= u64::MAX - at).then_some(at & ((2 << sign) - 1))
    }

    /// The address that the tree has at `at`.
    #[inline(always)]
    fn address(&self, at: u64) -> Iova {
        let sign = shift(self.format.levels() + 1) - 1;
        Iova::at(if F::CANONICAL && at >> sign != 0 { at | u64::MAX << sign } else { at })
    }

    /// An error at `at` as the tree has it, before anything has changed.
    #[inline(always)]
    fn fail(&self, why: MapWhy, at: u64) -> Failed {
        Failed { error: MapError { why, at: self.address(at) }, stale: None }
    }

    /// What an operation leaves in caches.
    #[inline(always)]
    fn stale(&self, touched: &Touched) -> Option<Stale> {
        let range = Range::new(touched.first, touched.last)?;
        let range = Range { first: self.address(range.first.get()), last: self.address(range.last.get()) };
        Some(Stale { range, leaf_only: !touched.tables })
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
                Err(_) => return Err(MapError { why: MapWhy::OutOfFrames, at: self.address(at) }),
            }
            touched.add(at & !span(level), at | span(level));
            touched.tables = true;
            self.tree.down(p);
        }
    }

    /// Ends an operation that failed, with no mapping changed; pages may have been split.
    #[cold]
    fn failed<P: Platform>(&mut self, p: &P, error: MapError, mut touched: Touched) -> Failed {
        self.finish(p, &mut touched);
        Failed { error, stale: self.stale(&touched) }
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
