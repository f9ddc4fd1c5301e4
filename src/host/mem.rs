//! The only way to memory (design rules 1, 3 and 9): frames as owned values, allocation that can fail, and the one
//! primitive through which everything is stored that hardware may read.
//!
//! All `unsafe` of the driver outside `platform` stands here. No safe function turns a caller's number into a pointer.

use super::address::Hpa;
use super::error::ErrorKind;
use super::observe::announce;
use super::platform::Platform;
use super::sync::{self, AtomicU64, AtomicUsize, DWORDS, Dword, Ordering, fence};
use alloc::alloc::{Layout, alloc as heap_alloc, dealloc};
use core::marker::PhantomData;
use core::ops::Deref;
use core::ptr::NonNull;

/// Words in a frame of 4 KiB.
pub(crate) const WORDS: usize = 512;

/// Stores a word that hardware may read: a single aligned 64-bit store, after everything stored before it.
///
/// Every such store of the driver goes through here, [`exchange`] or [`store_pair`], and is announced to who observes it.
#[inline(always)]
fn store(at: &AtomicU64, v: u64) {
    let announced = announce([at], [v]);
    at.store(v, Ordering::Release);
    announced.done();
}

/// The same where hardware may be writing accessed and dirty bits: stores only over `old`, else says what is there.
#[inline(always)]
fn exchange(at: &AtomicU64, old: u64, new: u64) -> Result<(), u64> {
    let announced = announce([at], [new]);
    at.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire)?;
    announced.done();
    Ok(())
}

/// Replaces `old` by `new(old)`; with `live`, without losing the bits that hardware sets meanwhile. These are accessed,
/// extended accessed and dirty at most, so the fourth turn succeeds; the store after it only bounds the loop.
#[inline(always)]
fn replace(at: &AtomicU64, mut old: u64, live: bool, mut new: impl FnMut(u64) -> u64) {
    if live {
        for _ in 0..4 {
            match exchange(at, old, new(old)) {
                Ok(()) => return,
                Err(now) => old = now,
            }
        }
    }
    store(at, new(old));
}

/// Stores `value`, `value + step`, ... : two instructions a word.
#[inline(always)]
fn store_run(run: &[AtomicU64], mut value: u64, step: u64) {
    let mut lines = run.chunks_exact(8);
    for line in &mut lines {
        for w in line {
            store(w, value);
            value = value.wrapping_add(step);
        }
    }
    for w in lines.remainder() {
        store(w, value);
        value = value.wrapping_add(step);
    }
}

/// `2^order` contiguous frames: a table, a ring, a log. Not given back unless `free` is called: what hardware may still
/// touch is better leaked than reused.
#[derive(Debug)]
pub(crate) struct Frames {
    at: NonNull<AtomicU64>,
    order: u8,
}

// SAFETY: the memory is exclusively owned and reached through atomics only.
unsafe impl Send for Frames {}
// SAFETY: as above.
unsafe impl Sync for Frames {}

impl Frames {
    pub(crate) fn alloc<P: Platform>(p: &P, order: u8, node: Option<u32>) -> Result<Self, ErrorKind> {
        let at = p.alloc(order, node).ok_or(ErrorKind::OutOfFrames)?;
        Ok(Frames { at: at.cast(), order })
    }

    pub(crate) fn free<P: Platform>(self, p: &P) {
        // SAFETY: owned, from `alloc` with this order, and `self` was the only way to it.
        unsafe { p.free(self.at.cast(), self.order) }
    }

    pub(crate) fn hpa<P: Platform>(&self, p: &P) -> Hpa {
        p.hpa(self.at.cast())
    }

    /// Frames of 4 KiB.
    pub(crate) const fn pages(&self) -> usize {
        1 << self.order
    }

    /// Number of 64-bit words.
    pub(crate) const fn len(&self) -> usize {
        sync::WORDS << self.order
    }

    #[inline(always)]
    fn words(&self) -> &[AtomicU64] {
        // SAFETY: `alloc` gave this many bytes, zeroed and aligned; they live until `free` takes `self`.
        unsafe { core::slice::from_raw_parts(self.at.as_ptr(), self.len()) }
    }

    /// Reads word `i`; 0 beyond the end.
    #[inline(always)]
    pub(crate) fn get(&self, i: usize) -> u64 {
        self.words().get(i).map_or(0, |w| w.load(Ordering::Acquire))
    }

    /// Reads the word at physical address `at`, where it is in these frames.
    pub(crate) fn word<P: Platform>(&self, p: &P, at: u64) -> Option<u64> {
        let i = at.checked_sub(self.hpa(p).get())? / 8;
        let i = usize::try_from(i).ok().filter(|i| *i < self.len())?;
        Some(self.get(i))
    }

    /// Stores word `i`; nothing beyond the end.
    #[inline(always)]
    pub(crate) fn set(&self, i: usize, v: u64) {
        if let Some(w) = self.words().get(i) {
            store(w, v);
        }
    }

    /// Stores word `i` of memory that no hardware reads.
    pub(crate) fn keep(&self, i: usize, v: u64) {
        if let Some(w) = self.words().get(i) {
            w.store(v, Ordering::Release);
        }
    }

    /// The aligned 32-bit word `i` (of `2 * len()`), as a place that hardware writes a status to.
    pub(crate) fn status(&self, i: usize) -> Option<&Dword> {
        if i >= self.len() * DWORDS {
            return None;
        }
        // SAFETY: within the frames and aligned; a status word is accessed as 32 bits only, by software and hardware.
        Some(unsafe { self.at.cast::<Dword>().add(i).as_ref() })
    }

    /// Replaces the pair of words `i`, `i + 1` (`i` even) in one 128-bit store, so that hardware sees both or neither.
    pub(crate) fn set_pair(&self, i: usize, lo: u64, hi: u64) {
        if i.is_multiple_of(2) && i + 1 < self.len() {
            let pair = self.words().get(i).zip(self.words().get(i + 1));
            let announced = pair.map(|(a, b)| announce([a, b], [lo, hi]));
            // SAFETY: in bounds, and aligned to 16 because `i` is even and frames are aligned to pages.
            unsafe { store_pair(self.at.as_ptr().add(i), lo, hi) }
            if let Some(a) = announced {
                a.done();
            }
        }
    }

    /// Has the cache lines of `n` words from word `i` on leave the CPU's caches at the next fence.
    pub(crate) fn flush<P: Platform>(&self, p: &P, i: usize, n: usize) {
        if n != 0 && i.checked_add(n).is_some_and(|end| end <= self.len()) {
            // SAFETY: in bounds, see above.
            p.flush(unsafe { self.at.add(i) }.cast(), n * 8);
        }
    }
}

/// Replaces 16 aligned bytes at once.
///
/// # Safety
///
/// `at` is valid for 16 bytes, aligned to 16, and reached through atomics only.
unsafe fn store_pair(at: *mut AtomicU64, lo: u64, hi: u64) {
    fence(Ordering::Release);
    // SAFETY: the caller's promise; every x86-64 CPU with VT-d has cmpxchg16b. rbx cannot be named as an operand, so it is
    // swapped in and out around the instruction; `reg` may stand for it, so what is in use meanwhile is named.
    unsafe {
        let (mut old_lo, mut old_hi) = ((*at).load(Ordering::Relaxed), (*at.add(1)).load(Ordering::Relaxed));
        loop {
            let ok: u8;
            core::arch::asm!(
                "xchg {new_lo}, rbx",
                "lock cmpxchg16b [rdi]",
                "sete r8b",
                "mov rbx, {new_lo}",
                in("rdi") at,
                new_lo = inout(reg) lo => _,
                in("rcx") hi,
                inout("rax") old_lo,
                inout("rdx") old_hi,
                out("r8b") ok,
                options(nostack),
            );
            if ok != 0 {
                return;
            }
        }
    }
}

/// What a page-table format says of its non-leaf entries, so that [`Tree`] knows the ones that it linked itself.
pub(crate) trait Links {
    /// Bit 10 (second stage; 11 is reserved there) or 11 (first stage, where 10 is extended accessed): ignored by hardware
    /// in a non-leaf entry and never written by it. Leaf entries never carry it.
    const MARK: u64;
}

/// Where a linked entry keeps the number of used entries of its table, less one: bits 60:52, which hardware ignores in
/// the non-leaf entries of both stages. Counting may undo an accessed bit that hardware sets meanwhile; those of tables are
/// of no use to anybody.
const COUNT: u32 = 52;
const COUNT_MASK: u64 = 0x1ff << COUNT;

type Table = [AtomicU64; WORDS];

/// The bits of an address below those that select an entry in a table of this level (1: the smallest pages).
pub(crate) const fn shift(level: u8) -> u32 {
    3 + 9 * level as u32
}

/// The slot that an address selects in a table of this level.
#[inline(always)]
pub(crate) const fn slot(at: u64, level: u8) -> usize {
    (at >> shift(level)) as usize % WORDS
}

/// The table of this level on the path is not visible yet: the entry that links it lacks `bits`.
const fn dark(level: u8) -> u32 {
    1 << (level & 7)
}

/// The table of this level on the path has no entry; the count in the entry that links it means nothing then.
const fn empty(level: u8) -> u32 {
    1 << (8 + (level & 7))
}

/// The table of this level on the path holds, among the slots `waits`, links of dark tables that the cursor has left. They
/// are lit after one fence, when their contents have reached memory.
const fn waiting(level: u8) -> u32 {
    1 << (16 + (level & 7))
}

/// A unit reads the tables without snooping the CPU's caches.
const INCOHERENT: u32 = 1 << 24;
/// Lines were flushed, and no fence followed yet.
const UNFENCED: u32 = 1 << 25;

/// A radix tree of page tables: owns the root table and every table linked below it, and holds a cursor, the path of
/// tables on the way to an address, so that the next walk begins where the last one ended.
///
/// - A new table is *dark* until the cursor leaves it (or until `commit`): built first, then made visible by one store.
/// - A table that the cursor leaves empty is unlinked. What is unlinked goes to a list with all that hangs below it, which
///   the caller takes and gives back to the platform after its flush.
/// - In an incoherent tree the lines of what changed leave the CPU's caches, a line once; those of a new table before
///   it becomes visible.
///
/// All calls want the platform that the tree was made with. Dropping a tree leaks its tables.
pub(crate) struct Tree<L> {
    /// The tables on the path, by level, from `level` up to `levels`; the places below are of no meaning.
    path: [NonNull<Table>; 8],
    /// An address below all tables on the path: their slots in each other.
    at: u64,
    /// What a visible non-leaf entry carries beside address, mark and count.
    bits: u64,
    level: u8,
    levels: u8,
    /// What is unusual: nothing, where an operation need not look further than its entries and their count.
    flags: u32,
    waits: [(u16, u16); 8],
    freed: FreedTables,
    unlinked: u64,
    node: Option<u32>,
    links: PhantomData<fn() -> L>,
}

// SAFETY: the tables are exclusively owned and reached through atomics only.
unsafe impl<L> Send for Tree<L> {}
// SAFETY: as above; `&Tree` only reads.
unsafe impl<L> Sync for Tree<L> {}

impl<L: Links> Tree<L> {
    /// An empty tree of 2 to 5 levels. `bits` is what a visible non-leaf entry carries beside the address.
    pub(crate) fn new<P: Platform>(
        p: &P,
        levels: u8,
        bits: u64,
        coherent: bool,
        node: Option<u32>,
    ) -> Result<Self, ErrorKind> {
        let at = p.alloc(0, node).ok_or(ErrorKind::OutOfFrames)?;
        if !coherent {
            p.flush(at, WORDS * 8);
            p.fence();
        }
        let levels = levels.clamp(2, 5);
        Ok(Tree {
            path: [at.cast(); 8],
            at: 0,
            bits: bits & !(Hpa::of_entry(u64::MAX).get() | L::MARK | COUNT_MASK),
            level: levels,
            levels,
            flags: if coherent { 0 } else { INCOHERENT },
            waits: [(0, 0); 8],
            freed: FreedTables::new(),
            unlinked: 0,
            node,
            links: PhantomData,
        })
    }

    /// The table of a level from `level` up.
    #[inline(always)]
    fn table(&self, level: u8) -> &Table {
        let [root, ..] = &self.path;
        let table = self.path.get(usize::from(level & 7)).unwrap_or(root);
        // SAFETY: a table is put in its place (`new`, `push`, `reach`) before the cursor moves to its level: a frame that
        // `new` or `make` allocated, or one named by an entry with the mark, which `make` and `split` alone write, with
        // the address of a frame that they allocated. A table on the path is unlinked only as the cursor leaves it
        // (`settle`); `clear` unlinks tables below the path. Frames are zeroed, aligned, reached through atomics, and
        // freed only after they were unlinked.
        unsafe { table.as_ref() }
    }

    #[inline(always)]
    fn here(&self) -> &Table {
        self.table(self.level)
    }

    /// The entry that links the table at the cursor; none for the root.
    #[inline(always)]
    fn link(&self, level: u8) -> Option<&AtomicU64> {
        if level >= self.levels { None } else { self.table(level + 1).get(slot(self.at, level + 1)) }
    }

    /// The physical address of the root table.
    pub(crate) fn root<P: Platform>(&self, p: &P) -> Hpa {
        p.hpa(NonNull::from(self.table(self.levels)).cast())
    }

    /// The level of the table at the cursor: 1 for a table of the smallest pages, `levels` for the root.
    #[inline(always)]
    pub(crate) fn level(&self) -> u8 {
        self.level
    }

    /// The address that the cursor was moved to last.
    #[inline(always)]
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// Whether the cursor stands in the table of smallest pages that both addresses lead to.
    #[inline(always)]
    pub(crate) fn holds(&self, first: u64, last: u64) -> bool {
        self.level == 1 && ((self.at ^ first) | (self.at ^ last)) >> shift(2) == 0
    }

    /// Whether the table at the cursor, not the root, has no entry.
    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        self.flags & empty(self.level) != 0
    }

    /// Tables unlinked so far (those that hung below one not counted).
    #[inline(always)]
    pub(crate) fn unlinked(&self) -> u64 {
        self.unlinked
    }

    /// The first slot of the table at the cursor whose entry is not zero.
    pub(crate) fn first_used(&self) -> Option<usize> {
        self.here().iter().position(|w| w.load(Ordering::Relaxed) != 0)
    }

    /// The entry at which the walk of the address `at` ends, and its level. Leaves the cursor alone.
    #[inline(always)]
    pub(crate) fn find<P: Platform>(&self, p: &P, at: u64) -> (u64, u8) {
        let mut table = self.table(self.levels);
        let mut bits = shift(self.levels);
        loop {
            let entry = table.get((at >> bits) as usize % WORDS).map_or(0, |w| w.load(Ordering::Acquire));
            if entry & L::MARK == 0 || bits <= shift(1) {
                return (entry, (bits / 9) as u8);
            }
            // SAFETY: an entry with the mark names a table of this tree, see `table`.
            table = unsafe { p.ptr(Hpa::of_entry(entry)).cast().as_ref() };
            bits -= 9;
        }
    }

    /// The word at physical address `word`, where it is an entry on the way of the address `at`. Leaves the cursor alone.
    pub(crate) fn entry<P: Platform>(&self, p: &P, at: u64, word: u64) -> Option<u64> {
        let (mut hpa, mut table, mut level) = (self.root(p), self.table(self.levels), self.levels);
        loop {
            let i = slot(at, level);
            let entry = table.get(i).map_or(0, |w| w.load(Ordering::Acquire));
            if hpa.get() + i as u64 * 8 == word {
                return Some(entry);
            }
            if entry & L::MARK == 0 || level <= 1 {
                return None;
            }
            hpa = Hpa::of_entry(entry);
            // SAFETY: an entry with the mark names a table of this tree, see `table`.
            table = unsafe { p.ptr(hpa).cast().as_ref() };
            level -= 1;
        }
    }

    /// Moves the cursor to the table of smallest pages that covers `at`, if there is one, with nothing to settle on the way.
    /// `false` where that cannot be; the cursor may have moved.
    #[inline(always)]
    pub(crate) fn reach<P: Platform>(&mut self, p: &P, at: u64) -> bool {
        if self.flags != 0 {
            return false;
        }
        let apart = self.at ^ at;
        if self.level == 1 && apart >> shift(2) == 0 {
            return true;
        }
        if self.level <= 2 && apart >> shift(3) == 0 {
            // The next table but for its neighbours in the one above: the usual step of scattered pages.
            let [_, first, second, ..] = &mut self.path;
            // SAFETY: the table of level 2 is on the path; an entry with the mark names a table. See `table`.
            let entry = unsafe { second.as_ref() }.get(slot(at, 2)).map_or(0, |w| w.load(Ordering::Acquire));
            if entry & L::MARK != 0 {
                *first = p.ptr(Hpa::of_entry(entry)).cast();
                (self.level, self.at) = (1, at);
                return true;
            }
        }
        self.reach_far(p, at)
    }

    #[inline(never)]
    fn reach_far<P: Platform>(&mut self, p: &P, at: u64) -> bool {
        let mut level = self.level;
        let mut bits = shift(level);
        while level < self.levels && (self.at ^ at) >> (bits + 9) != 0 {
            level += 1;
            bits += 9;
        }
        let mut table = *self.path.get(usize::from(level & 7)).unwrap_or(&self.path[0]);
        while level > 1 {
            // SAFETY: on the path, or named by an entry with the mark; see `table`.
            let w = unsafe { table.as_ref() }.get((at >> bits) as usize % WORDS);
            let entry = w.map_or(0, |w| w.load(Ordering::Acquire));
            if entry & L::MARK == 0 {
                break;
            }
            level -= 1;
            bits -= 9;
            table = p.ptr(Hpa::of_entry(entry)).cast();
            if let Some(place) = self.path.get_mut(usize::from(level & 7)) {
                *place = table;
            }
        }
        (self.level, self.at) = (level, at);
        level == 1
    }

    /// Stores `value` in the empty slot of `at` where the cursor, as after `reach`, has nothing to do beside; else `false`.
    #[inline(always)]
    pub(crate) fn put_one(&mut self, at: u64, value: u64) -> bool {
        if !(self.level == 1 && self.flags == 0) {
            return false;
        }
        let [_, first, second, ..] = self.path;
        // SAFETY: the tables of levels 1 and 2 are on the path, see `table`.
        let (here, above) = unsafe { (first.as_ref(), second.as_ref()) };
        let (Some(w), Some(link)) = (here.get(slot(at, 1)), above.get(slot(self.at, 2))) else { return false };
        if w.load(Ordering::Relaxed) != 0 {
            return false;
        }
        store(w, value & !L::MARK);
        store(link, link.load(Ordering::Relaxed).wrapping_add(1 << COUNT));
        true
    }

    /// Empties the used slot of `at`, likewise, where it is not the last one in use; else `false`.
    #[inline(always)]
    pub(crate) fn take_one(&mut self, at: u64) -> bool {
        if !(self.level == 1 && self.flags == 0) {
            return false;
        }
        let [_, first, second, ..] = self.path;
        // SAFETY: the tables of levels 1 and 2 are on the path, see `table`.
        let (here, above) = unsafe { (first.as_ref(), second.as_ref()) };
        let (Some(w), Some(link)) = (here.get(slot(at, 1)), above.get(slot(self.at, 2))) else { return false };
        let entry = link.load(Ordering::Relaxed);
        if w.load(Ordering::Relaxed) == 0 || entry & COUNT_MASK == 0 {
            return false;
        }
        store(w, 0);
        store(link, entry.wrapping_sub(1 << COUNT));
        true
    }

    /// Moves the cursor up to a table of at least `level` that covers `at`.
    #[inline(always)]
    pub(crate) fn rise<P: Platform>(&mut self, p: &P, at: u64, level: u8) {
        while (self.level < level || (self.at ^ at) >> shift(self.level + 1) != 0) && self.up(p).is_some() {}
        self.at = at;
    }

    /// Has the cursor, at a table that covers `at`, go on towards `at`.
    #[inline(always)]
    pub(crate) fn aim(&mut self, at: u64) {
        if (self.at ^ at) >> shift(self.level + 1) == 0 {
            self.at = at;
        }
    }

    /// Moves the cursor into the next table towards its address; `false`, and nothing happens, where none is linked.
    #[inline(always)]
    pub(crate) fn down<P: Platform>(&mut self, p: &P) -> bool {
        let entry = self.here().get(slot(self.at, self.level)).map_or(0, |w| w.load(Ordering::Acquire));
        // Entries of level 1 never have the mark.
        if entry & L::MARK == 0 || self.level == 1 {
            return false;
        }
        self.push(p.ptr(Hpa::of_entry(entry)).cast());
        true
    }

    #[inline(always)]
    fn push(&mut self, table: NonNull<Table>) {
        if let Some(place) = self.path.get_mut(usize::from((self.level - 1) & 7)) {
            *place = table;
            self.level -= 1;
        }
    }

    /// As `down`, and makes the table where the slot is empty. `false` where a leaf stands there.
    #[inline(always)]
    pub(crate) fn enter<P: Platform>(&mut self, p: &P) -> Result<bool, ErrorKind> {
        if self.down(p) { Ok(true) } else { self.make(p) }
    }

    #[inline(never)]
    fn make<P: Platform>(&mut self, p: &P) -> Result<bool, ErrorKind> {
        match self.here().get(slot(self.at, self.level)) {
            Some(w) if self.level > 1 && w.load(Ordering::Acquire) == 0 => {
                let at = p.alloc(0, self.node).ok_or(ErrorKind::OutOfFrames)?;
                store(w, p.hpa(at).get() | L::MARK);
                self.count(1);
                self.push(at.cast());
                self.flags |= dark(self.level) | empty(self.level);
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Counts `n` new entries in the table at the cursor.
    #[inline(always)]
    fn count(&mut self, n: usize) {
        let Some(w) = self.link(self.level) else { return };
        let entry = w.load(Ordering::Relaxed);
        if !self.is_empty() {
            store(w, entry.wrapping_add((n as u64) << COUNT));
        } else {
            store(w, entry & !COUNT_MASK | (n as u64 - 1) << COUNT);
            self.flags &= !empty(self.level);
        }
    }

    /// Counts `n` entries less.
    #[inline(always)]
    fn discount(&mut self, n: usize) {
        let Some(w) = self.link(self.level) else { return };
        let entry = w.load(Ordering::Relaxed);
        if (entry & COUNT_MASK) >> COUNT < n as u64 {
            self.flags |= empty(self.level);
        } else {
            store(w, entry.wrapping_sub((n as u64) << COUNT));
        }
    }

    /// Moves the cursor to the table above, and settles the one it leaves: unlinked if empty, made visible if dark.
    /// Says whether a table was unlinked that hardware may know; `None`, and nothing happens, at the root.
    #[inline(always)]
    pub(crate) fn up<P: Platform>(&mut self, p: &P) -> Option<bool> {
        if self.level >= self.levels {
            return None;
        }
        if self.flags & (dark(self.level) | empty(self.level) | waiting(self.level)) != 0 {
            return Some(self.settle(p));
        }
        self.level += 1;
        Some(false)
    }

    /// The rarer part of `up`.
    #[inline(never)]
    fn settle<P: Platform>(&mut self, p: &P) -> bool {
        let child = NonNull::from(self.here());
        let (was_dark, was_empty) = (self.flags & dark(self.level) != 0, self.is_empty());
        self.light(p);
        self.flags &= !(dark(self.level) | empty(self.level));
        self.level += 1;
        let i = slot(self.at, self.level);
        let Some(w) = self.here().get(i) else { return false };
        if was_empty {
            store(w, 0);
            if was_dark {
                // SAFETY: from `make`; it links nothing, was never visible, and neither path nor entry names it now.
                unsafe { p.free(child.cast(), 0) }
            } else {
                self.unlinked += 1;
                self.freed.push(p, child, self.level - 1, L::MARK);
                self.changed(p, i, 1);
            }
            self.discount(1);
            return !was_dark;
        }
        if was_dark {
            let coherent = self.flags & INCOHERENT == 0;
            if !coherent {
                p.flush(child.cast(), WORDS * 8);
            }
            if coherent || self.flags & dark(self.level) != 0 {
                store(w, w.load(Ordering::Relaxed) | self.bits);
            } else if let Some((first, end)) = self.waits.get_mut(usize::from(self.level & 7)) {
                let fresh = self.flags & waiting(self.level) == 0;
                *first = if fresh { i as u16 } else { (*first).min(i as u16) };
                *end = if fresh { i as u16 + 1 } else { (*end).max(i as u16 + 1) };
                self.flags |= waiting(self.level);
            }
        }
        false
    }

    /// Makes the tables visible that wait in the table at the cursor for their contents to have reached memory.
    fn light<P: Platform>(&mut self, p: &P) {
        if self.flags & waiting(self.level) == 0 {
            return;
        }
        self.flags &= !waiting(self.level);
        let (first, end) = self.waits.get(usize::from(self.level & 7)).copied().unwrap_or_default();
        let (first, end) = (usize::from(first), usize::from(end));
        p.fence();
        for w in self.here().get(first..end).unwrap_or_default() {
            let entry = w.load(Ordering::Relaxed);
            if entry & L::MARK != 0 && entry & self.bits == 0 {
                store(w, entry | self.bits);
            }
        }
        self.changed(p, first, end.saturating_sub(first));
    }

    /// Has what changed in the table at the cursor leave the caches, where that is needed and not done for all of it later.
    #[inline(always)]
    fn changed<P: Platform>(&mut self, p: &P, first: usize, n: usize) {
        if self.flags & (INCOHERENT | dark(self.level)) != INCOHERENT {
            return;
        }
        if let Some(w) = self.here().get(first..first.saturating_add(n)).and_then(|run| run.first()) {
            p.flush(NonNull::from(w).cast(), n * 8);
            self.flags |= UNFENCED;
        }
    }

    /// Ends an operation: every table is visible, and memory holds what was stored.
    #[inline(always)]
    pub(crate) fn commit<P: Platform>(&mut self, p: &P) {
        if self.flags & !INCOHERENT != 0 {
            self.show(p);
        }
    }

    #[inline(never)]
    fn show<P: Platform>(&mut self, p: &P) {
        while self.flags & !(INCOHERENT | UNFENCED) != 0 && self.up(p).is_some() {}
        self.light(p);
        if self.flags & UNFENCED != 0 {
            p.fence();
            self.flags &= !UNFENCED;
        }
    }

    /// Stores leaf entries `value`, `value + step`, ... into `n` empty slots; or nothing, and the slot that is not empty.
    #[inline(always)]
    pub(crate) fn fill<P: Platform>(
        &mut self,
        p: &P,
        first: usize,
        n: usize,
        value: u64,
        step: u64,
    ) -> Result<(), usize> {
        let value = value & !L::MARK;
        match self.here().get(first) {
            Some(w) if n == 1 => {
                if w.load(Ordering::Relaxed) != 0 {
                    return Err(first);
                }
                store(w, value);
            }
            _ => self.fill_run(first, n, value, step)?,
        }
        self.count(n);
        self.changed(p, first, n);
        Ok(())
    }

    #[inline(never)]
    fn fill_run(&self, first: usize, n: usize, value: u64, step: u64) -> Result<(), usize> {
        let run = self.here().get(first..first.saturating_add(n)).filter(|run| !run.is_empty()).ok_or(first)?;
        if !self.is_empty() {
            let taken = |w: &AtomicU64| w.load(Ordering::Relaxed) != 0;
            let any = |line: &[AtomicU64]| line.iter().fold(0, |or, w| or | w.load(Ordering::Relaxed)) != 0;
            let lines = run.chunks_exact(8);
            if lines.remainder().iter().any(taken) || lines.into_iter().any(any) {
                return Err(first + run.iter().position(taken).unwrap_or(0));
            }
        }
        store_run(run, value, step);
        Ok(())
    }

    /// Empties `n` slots, tables below them unlinked whole; says how many were in use.
    #[inline(always)]
    pub(crate) fn clear<P: Platform>(&mut self, p: &P, first: usize, n: usize) -> usize {
        let found = match self.here().get(first) {
            Some(w) if n == 1 && self.level == 1 => {
                if w.load(Ordering::Relaxed) == 0 {
                    return 0;
                }
                store(w, 0);
                1
            }
            _ => self.clear_run(p, first, n),
        };
        if found != 0 {
            self.discount(found);
            self.changed(p, first, n);
        }
        found
    }

    #[inline(never)]
    fn clear_run<P: Platform>(&mut self, p: &P, first: usize, n: usize) -> usize {
        let mut found = 0;
        if self.level == 1 {
            for w in self.here().get(first..first.saturating_add(n)).unwrap_or_default() {
                found += usize::from(w.load(Ordering::Relaxed) != 0);
                store(w, 0);
            }
            return found;
        }
        for i in first..first.saturating_add(n).min(WORDS) {
            let Some(w) = self.here().get(i) else { break };
            let entry = w.load(Ordering::Acquire);
            if entry == 0 {
                continue;
            }
            store(w, 0);
            found += 1;
            if entry & L::MARK != 0 {
                self.unlinked += 1;
                self.freed.push(p, p.ptr(Hpa::of_entry(entry)).cast(), self.level - 1, L::MARK);
            }
        }
        found
    }

    /// Replaces the leaf entries in at most `n` slots by `change` of slot and entry, up to the first slot that links a
    /// table. With `live`, hardware may be writing to the entries, and `change` is asked again where it did. Says how many
    /// slots were passed, how many of them are in use, and how many changed.
    pub(crate) fn update<P: Platform>(
        &mut self,
        p: &P,
        first: usize,
        n: usize,
        live: bool,
        mut change: impl FnMut(usize, u64) -> u64,
    ) -> (usize, usize, usize) {
        let (mut passed, mut used, mut changed) = (0, 0, 0);
        for w in self.here().get(first..first.saturating_add(n)).unwrap_or_default() {
            let old = w.load(Ordering::Acquire);
            if old & L::MARK != 0 {
                break;
            }
            let i = first + passed;
            passed += 1;
            if old == 0 {
                continue;
            }
            used += 1;
            // An entry stays an entry and an empty slot empty: the count stands.
            let new = change(i, old) & !L::MARK;
            if new != 0 && new != old {
                replace(w, old, live, |old| change(i, old) & !L::MARK);
                changed += 1;
            }
        }
        if changed != 0 {
            self.changed(p, first, passed);
        }
        (passed, used, changed)
    }

    /// Replaces the leaf at the cursor's address by a table of leaves, in one store; `parts` gives their first value and
    /// step from the leaf. `false`, and nothing happens, where no leaf stands there.
    pub(crate) fn split<P: Platform>(&mut self, p: &P, parts: impl Fn(u64) -> (u64, u64)) -> Result<bool, ErrorKind> {
        let i = slot(self.at, self.level);
        let Some(w) = self.here().get(i) else { return Ok(false) };
        let leaf = w.load(Ordering::Acquire);
        if self.level == 1 || leaf == 0 || leaf & L::MARK != 0 {
            return Ok(false);
        }
        let at = p.alloc(0, self.node).ok_or(ErrorKind::OutOfFrames)?;
        // SAFETY: a fresh frame, zeroed and aligned.
        let table: &Table = unsafe { at.cast().as_ref() };
        let link = p.hpa(at).get() | L::MARK | COUNT_MASK | self.bits;
        replace(w, leaf, true, |leaf| {
            let (value, step) = parts(leaf);
            store_run(table, value & !L::MARK, step);
            if self.flags & INCOHERENT != 0 {
                p.flush(at, WORDS * 8);
                p.fence();
            }
            link
        });
        self.changed(p, i, 1);
        Ok(true)
    }

    /// What was unlinked since the last call; to be released once no cache of the hardware holds a way to it.
    pub(crate) fn take_freed(&mut self) -> FreedTables {
        core::mem::replace(&mut self.freed, FreedTables::new())
    }

    /// All tables, the root too; to be released once no entry points at the root and no cache holds a way to it.
    pub(crate) fn into_freed<P: Platform>(mut self, p: &P) -> FreedTables {
        let root = NonNull::from(self.table(self.levels));
        self.freed.push(p, root, self.levels, L::MARK);
        self.freed
    }
}

/// Page tables that no entry links any more but hardware may still hold in its caches. Dropping the list leaks them.
///
/// It is threaded through the tables: word 0 of each names the next one. The word has a physical address and low bits
/// that both stages read as not present, so hardware that still walks a table here finds nothing there. A table's word
/// 0 tells of the next one: bits 51:12 the address, 11:10 the mark of its links, 4:2 its level.
pub(crate) struct FreedTables {
    head: u64,
    /// The last table; meaningful with a head only.
    tail: NonNull<Table>,
}

// SAFETY: the tables are exclusively owned and reached through atomics only.
unsafe impl Send for FreedTables {}
// SAFETY: as above; `&FreedTables` reads nothing.
unsafe impl Sync for FreedTables {}

impl FreedTables {
    const MARKS: u64 = 3 << 10;

    /// The mark in a word of the list: one bit, though hardware that still walks a first-stage table might set bit 10.
    const fn mark(word: u64) -> u64 {
        if word & 1 << 11 != 0 { 1 << 11 } else { word & Self::MARKS }
    }

    pub(crate) const fn new() -> Self {
        FreedTables { head: 0, tail: NonNull::dangling() }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.head == 0
    }

    /// Takes over the tables of `other`. A constant number of steps.
    pub(crate) fn append(&mut self, other: FreedTables) {
        if self.is_empty() {
            *self = other;
        } else if !other.is_empty() {
            // SAFETY: the list owns its last table.
            store(unsafe { Self::word(self.tail) }, other.head);
            self.tail = other.tail;
        }
    }

    /// # Safety
    ///
    /// `table` is a whole frame, live while the result is used.
    unsafe fn word<'a>(table: NonNull<Table>) -> &'a AtomicU64 {
        // SAFETY: the caller's promise; the first word of the frame.
        unsafe { table.cast().as_ref() }
    }

    /// Puts `table` in front, with all that hangs below it. Private to this file, which hands in what a tree gave up.
    ///
    /// What hangs below stays where it is until `release`, except the child in word 0, whose place the list needs.
    fn push<P: Platform>(&mut self, p: &P, mut table: NonNull<Table>, mut level: u8, mark: u64) {
        loop {
            // SAFETY: the tree owned the frame and gave it up.
            let word = unsafe { Self::word(table) };
            let first = word.load(Ordering::Acquire);
            store(word, self.head);
            if self.is_empty() {
                self.tail = table;
            }
            self.head = p.hpa(table.cast()).get() | (mark & Self::MARKS) | u64::from(level) << 2;
            if first & mark == 0 || level <= 1 {
                return;
            }
            table = p.ptr(Hpa::of_entry(first)).cast();
            level -= 1;
        }
    }

    /// Gives the frames back. To be called when an invalidation has covered what the tables once mapped, page walks
    /// included (IH = 0; VT-d 6.5.2), and nowhere else.
    pub(crate) fn release<P: Platform>(mut self, p: &P) {
        while self.head != 0 {
            let (level, mark) = ((self.head >> 2 & 7) as u8, Self::mark(self.head));
            let table: NonNull<Table> = p.ptr(Hpa::of_entry(self.head)).cast();
            // SAFETY: the list owns the table.
            let words = unsafe { table.as_ref() };
            self.head = words.first().map_or(0, |w| w.load(Ordering::Acquire));
            if level > 1 {
                for w in words.iter().skip(1) {
                    let entry = w.load(Ordering::Acquire);
                    if entry & mark != 0 {
                        self.push(p, p.ptr(Hpa::of_entry(entry)).cast(), level - 1, mark);
                    }
                }
            }
            // SAFETY: from `Platform::alloc` with order 0; out of the list, its children moved into it.
            unsafe { p.free(table.cast(), 0) }
        }
    }
}

/// A counted pointer whose making can fail, unlike `Arc`'s.
pub(crate) struct Shared<T> {
    at: NonNull<Counted<T>>,
    owns: PhantomData<Counted<T>>,
}

struct Counted<T> {
    count: AtomicUsize,
    value: T,
}

// SAFETY: as for `Arc`: the value is reached from several threads, and dropped on any.
unsafe impl<T: Send + Sync> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// Moves `value` to the heap; gives it back where the heap has ended.
    pub(crate) fn new(value: T) -> Result<Self, (T, ErrorKind)> {
        let layout = Layout::new::<Counted<T>>();
        // SAFETY: the layout has a size, for there is a count in it.
        let Some(at) = NonNull::new(unsafe { heap_alloc(layout) }) else {
            return Err((value, ErrorKind::OutOfMemory));
        };
        let at = at.cast::<Counted<T>>();
        // SAFETY: fresh memory of this layout.
        unsafe { at.write(Counted { count: AtomicUsize::new(1), value }) };
        Ok(Shared { at, owns: PhantomData })
    }

    fn counted(&self) -> &Counted<T> {
        // SAFETY: alive as long as one `Shared` is.
        unsafe { self.at.as_ref() }
    }

    /// The value, where this is the last handle, and the place where it stood; the handle back otherwise.
    pub(crate) fn take(self) -> Result<(T, Vacant<T>), Self> {
        if self.counted().count.compare_exchange(1, 0, Ordering::Acquire, Ordering::Relaxed).is_err() {
            return Err(self);
        }
        let at = self.at;
        core::mem::forget(self);
        // SAFETY: the count went from 1 to 0 in this handle, so nobody else has one; read once.
        Ok((unsafe { at.read() }.value, Vacant(at)))
    }

    /// Whether both are handles of the same value.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.at == other.at
    }

    /// How many handles there are, which may have changed when the caller looks at it.
    pub(crate) fn handles(&self) -> usize {
        self.counted().count.load(Ordering::Acquire)
    }
}

/// The memory of a [`Shared`] whose value was taken out, so that putting one back cannot fail.
pub(crate) struct Vacant<T>(NonNull<Counted<T>>);

impl<T> Vacant<T> {
    pub(crate) fn fill(self, value: T) -> Shared<T> {
        let at = self.0;
        core::mem::forget(self);
        // SAFETY: owned memory of this layout, without a value.
        unsafe { at.write(Counted { count: AtomicUsize::new(1), value }) };
        Shared { at, owns: PhantomData }
    }
}

impl<T> Drop for Vacant<T> {
    fn drop(&mut self) {
        // SAFETY: owned memory from the heap with this layout.
        unsafe { dealloc(self.0.as_ptr().cast(), Layout::new::<Counted<T>>()) }
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        self.counted().count.fetch_add(1, Ordering::Relaxed);
        Shared { at: self.at, owns: PhantomData }
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.counted().value
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        if self.counted().count.fetch_sub(1, Ordering::Release) == 1 {
            fence(Ordering::Acquire);
            // SAFETY: the last handle; dropped once, then freed.
            unsafe {
                self.at.drop_in_place();
                dealloc(self.at.as_ptr().cast(), Layout::new::<Counted<T>>());
            }
        }
    }
}

#[cfg(test)]
mod tests;
