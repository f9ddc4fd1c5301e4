//! Who has which input range: an allocator of input addresses with reserved holes.
//!
//! A balanced tree (AVL) of the ranges that are taken; each knows the gap before it, and the widest gap and the largest
//! naturally aligned block in any gap of its subtree. So the lowest fitting gap is found, and a range taken and given
//! back, in a number of steps that grows with the logarithm of the number of ranges. Giving back needs no memory.

use super::flush::Flushed;
use crate::host::address::{INTERRUPT_RANGE, Iova, PAGE, Range};
use crate::host::grow;
use alloc::vec::Vec;
use core::fmt;

/// Why a range was not handed out, reserved or taken back.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IovaError {
    /// No gap is large enough.
    Full,
    /// The heap ended.
    OutOfMemory,
    /// The range to reserve meets one that is taken.
    Taken,
    /// No range of exactly these ends was handed out.
    NotAllocated,
    /// An alignment that is no power of two or below 4 KiB, a range that is no whole pages, or a length of zero.
    Alignment,
}

impl fmt::Display for IovaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            IovaError::Full => "no free input range is large enough",
            IovaError::OutOfMemory => "the heap has ended",
            IovaError::Taken => "the input range meets one that is taken",
            IovaError::NotAllocated => "no such input range was handed out",
            IovaError::Alignment => "input ranges are whole pages, alignments powers of two of at least 4 KiB",
        })
    }
}

impl core::error::Error for IovaError {}

/// Index of no node.
const NIL: u32 = u32::MAX;

/// An AVL tree of fewer than 2^32 nodes has at most 46 levels.
const DEPTH: usize = 48;

/// A taken range, in pages.
#[derive(Clone, Copy)]
struct Node {
    first: u64,
    last: u64,
    /// Free pages before it.
    gap: u64,
    /// The largest gap in the subtree.
    widest: u64,
    below: u32,
    above: u32,
    /// The largest `order` of a gap in the subtree.
    order: u8,
    height: u8,
    reserved: bool,
}

/// What is read where there is no node.
const NOTHING: Node =
    Node { first: 0, last: 0, gap: 0, widest: 0, below: NIL, above: NIL, order: 0, height: 0, reserved: true };

impl Node {
    const fn child(&self, above: bool) -> u32 {
        if above { self.above } else { self.below }
    }

    const fn set_child(&mut self, above: bool, child: u32) {
        *(if above { &mut self.above } else { &mut self.below }) = child;
    }
}

/// One more than the binary logarithm of the largest naturally aligned block of `n` pages that end before `end`; 0 for
/// no pages.
const fn order(end: u64, n: u64) -> u8 {
    let Some(k) = n.checked_ilog2() else { return 0 };
    // 2^k pages fit somewhere; if they do not fit aligned, half as many do.
    let block = 1u64 << k;
    if (end & !(block - 1)) - (end - n) >= block { k as u8 + 1 } else { k as u8 }
}

/// The nodes from the root to one of interest, and the way taken at each.
struct Path {
    at: [(u32, bool); DEPTH],
    len: usize,
}

impl Path {
    const fn new() -> Self {
        Path { at: [(NIL, false); DEPTH], len: 0 }
    }

    fn push(&mut self, node: u32, above: bool) {
        if let Some(place) = self.at.get_mut(self.len) {
            *place = (node, above);
            self.len += 1;
        }
    }

    fn pop(&mut self) -> Option<(u32, bool)> {
        self.len = self.len.checked_sub(1)?;
        self.at.get(self.len).copied()
    }
}

/// What a gap must have.
#[derive(Clone, Copy)]
struct Want {
    /// This many pages,
    widest: u64,
    /// or an aligned block of this order.
    order: u8,
}

impl Want {
    fn met(&self, widest: u64, order: u8) -> bool {
        widest >= self.widest || order >= self.order
    }
}

/// The input ranges of one address space. Not tied to a domain: what it hands out is for the caller to map.
///
/// All calls are memory operations only; `alloc` and `reserve` may allocate.
///
/// ```
/// use vtd::{Iova, IovaError, IovaSpace, PAGE, Range};
///
/// let mut space = IovaSpace::new(Range::new(PAGE, (1 << 39) - 1).unwrap())?;
/// let below_4g = Range::new(0, u32::MAX.into()).unwrap();
/// let first = space.alloc(3 * PAGE, PAGE, below_4g)?;
/// assert_eq!(first, Range::sized(Iova::at(PAGE), 3 * PAGE).unwrap());
/// // The interrupt addresses are taken from the start.
/// assert!(!space.is_free(Iova::at(0xfee0_0000)));
/// assert_eq!(space.reserve(first), Err(IovaError::Taken));
/// # Ok::<(), IovaError>(())
/// ```
pub struct IovaSpace {
    nodes: Vec<Node>,
    root: u32,
    /// Unused nodes, linked through `below`.
    spare: u32,
    first: u64,
    last: u64,
    allocated: usize,
}

impl IovaSpace {
    /// A space of the whole pages of `within`, without the interrupt addresses. Leave page 0 out where an address of 0
    /// means nothing. Errors: `OutOfMemory`; `Alignment` where no whole page is in it.
    pub fn new(within: Range) -> Result<Self, IovaError> {
        let (first, end) = (within.first.get().div_ceil(PAGE), (within.last.get() / PAGE) + whole(within.last.get()));
        let last = end.checked_sub(1).filter(|last| *last >= first).ok_or(IovaError::Alignment)?;
        let mut space = IovaSpace { nodes: Vec::new(), root: NIL, spare: NIL, first, last, allocated: 0 };
        // The end of the space is a node, so that the gap before it is one as all others.
        space.insert(end, end, end - first, true)?;
        space.reserve(INTERRUPT_RANGE)?;
        Ok(space)
    }

    /// Ranges handed out and not given back.
    pub fn allocated(&self) -> usize {
        self.allocated
    }

    /// Never hands out `range`, of which the part outside the space is ignored. Errors: `Taken` where part of it is
    /// reserved or handed out already, and nothing is changed then; `OutOfMemory`, `Alignment`.
    pub fn reserve(&mut self, range: Range) -> Result<(), IovaError> {
        let (first, last) = pages(range)?;
        let (first, last) = (first.max(self.first), last.min(self.last));
        if first > last {
            return Ok(());
        }
        let above = self.node(self.next(first));
        let from = above.first - above.gap;
        // The node that begins at `first` or before it, if it reaches so far, ends where the gap of the next begins.
        if last >= above.first || first < from {
            return Err(IovaError::Taken);
        }
        self.insert(first, last, first - from, true)
    }

    /// Hands out `len` bytes, rounded up to whole pages, at a multiple of `align`, all within `within`: the lowest gap
    /// that is sure to fit, or else the lowest that fits. Naturally aligned ranges (`align` the length, a power of
    /// two) leave the least waste.
    ///
    /// Errors: `Full`, `OutOfMemory`, `Alignment`.
    pub fn alloc(&mut self, len: u64, align: u64, within: Range) -> Result<Range, IovaError> {
        if len == 0 || !align.is_power_of_two() || align < PAGE {
            return Err(IovaError::Alignment);
        }
        let (n, align) = (len.div_ceil(PAGE), align / PAGE);
        let low = within.first.get().div_ceil(PAGE).max(self.first);
        let end = ((within.last.get() / PAGE) + whole(within.last.get())).min(self.last + 1);
        let place = |node: Node, low: u64| {
            let at = (node.first - node.gap).max(low).checked_next_multiple_of(align)?;
            let stop = at.checked_add(n)?;
            (stop <= node.first && stop <= end).then_some(at)
        };
        // The gap that holds `low` is cut by it, so its node's figures do not count.
        let mut i = self.next(low);
        let mut found = place(self.node(i), low);
        if found.is_none() && i != NIL {
            let aligned = n.max(align).checked_next_power_of_two();
            let order = aligned.map_or(u8::MAX, |block| block.trailing_zeros() as u8 + 1);
            let sure = Want { widest: n.saturating_add(align - 1), order };
            let after = self.node(i).first;
            let next = self.next_fit(after, sure);
            found = place(self.node(next), low);
            (i, found) =
                if found.is_some() { (next, found) } else { self.scan(after, end, n, |node| place(node, low)) };
        }
        let at = found.ok_or(IovaError::Full)?;
        let above = self.node(i);
        self.insert(at, at + (n - 1), at - (above.first - above.gap), false)?;
        self.allocated += 1;
        Range::new(at * PAGE, (at + (n - 1)) * PAGE + (PAGE - 1)).ok_or(IovaError::Full)
    }

    /// Tries gap by gap, where none is sure to fit.
    fn scan(&self, mut after: u64, end: u64, n: u64, place: impl Fn(Node) -> Option<u64>) -> (u32, Option<u64>) {
        loop {
            let i = self.next_fit(after, Want { widest: n, order: u8::MAX });
            let node = self.node(i);
            let found = place(node);
            if i == NIL || found.is_some() || node.first - node.gap >= end {
                return (i, found);
            }
            after = node.first;
        }
    }

    /// Takes back exactly what `alloc` handed out, once no cache holds what it was mapped to. Errors: `NotAllocated` for
    /// anything else, reserved ranges and such given back already among it; `Alignment`.
    pub fn free(&mut self, range: Range, proof: &Flushed) -> Result<(), IovaError> {
        let Flushed(()) = proof;
        let (first, last) = pages(range)?;
        self.remove(first, last)?;
        self.allocated -= 1;
        Ok(())
    }

    /// Whether an address is neither reserved nor handed out, and in the space.
    pub fn is_free(&self, at: Iova) -> bool {
        let at = at.get() / PAGE;
        let above = self.node(self.next(at));
        (self.first..=self.last).contains(&at) && at >= above.first - above.gap
    }

    fn node(&self, i: u32) -> Node {
        self.nodes.get(i as usize).copied().unwrap_or(NOTHING)
    }

    fn with(&mut self, i: u32, change: impl FnOnce(&mut Node)) {
        if let Some(node) = self.nodes.get_mut(i as usize) {
            change(node);
        }
    }

    /// The lowest node beyond `after` whose gap is wide enough; there may be one only where `subtree` says so.
    fn next_fit(&self, after: u64, want: Want) -> u32 {
        let fits = |node: &Node| want.met(node.gap, order(node.first, node.gap));
        let within = |i: u32| {
            let node = self.node(i);
            i != NIL && want.met(node.widest, node.order)
        };
        // Nodes beyond `after` on the way to it, each of which has its higher subtree beyond it; the lowest is the last.
        let mut path = Path::new();
        let mut i = self.root;
        while i != NIL {
            let node = self.node(i);
            let beyond = node.first > after;
            if beyond {
                path.push(i, false);
            }
            i = node.child(!beyond);
        }
        while let Some((i, _)) = path.pop() {
            let node = self.node(i);
            if fits(&node) {
                return i;
            }
            if within(node.above) {
                let mut i = node.above;
                loop {
                    let node = self.node(i);
                    if within(node.below) {
                        i = node.below;
                    } else if fits(&node) || i == NIL {
                        return i;
                    } else {
                        i = node.above;
                    }
                }
            }
        }
        NIL
    }

    /// The lowest node beyond `after`.
    fn next(&self, after: u64) -> u32 {
        let (mut i, mut found) = (self.root, NIL);
        while i != NIL {
            let node = self.node(i);
            let beyond = node.first > after;
            if beyond {
                found = i;
            }
            i = node.child(!beyond);
        }
        found
    }

    /// Takes a free range, `gap` pages beyond the range before it.
    fn insert(&mut self, first: u64, last: u64, gap: u64, reserved: bool) -> Result<(), IovaError> {
        let new = Node { first, last, gap, reserved, ..NOTHING };
        let i = if self.spare != NIL {
            let i = self.spare;
            self.spare = self.node(i).below;
            self.with(i, |node| *node = new);
            i
        } else {
            let i = u32::try_from(self.nodes.len()).ok().filter(|i| *i != NIL).ok_or(IovaError::OutOfMemory)?;
            grow::push(&mut self.nodes, new).map_err(|_| IovaError::OutOfMemory)?;
            i
        };
        let mut path = Path::new();
        let mut at = self.root;
        while at != NIL {
            let node = self.node(at);
            let above = first > node.first;
            if !above && node.first - node.gap <= first {
                // The range that follows the new one: always on the way to it.
                self.with(at, |node| node.gap = node.first - last - 1);
            }
            path.push(at, above);
            at = node.child(above);
        }
        self.refresh(i);
        self.attach(&path, i);
        self.mend(path);
        Ok(())
    }

    /// Gives up the range of exactly these ends that is not reserved.
    fn remove(&mut self, first: u64, last: u64) -> Result<(), IovaError> {
        let mut path = Path::new();
        let mut i = self.root;
        while i != NIL && self.node(i).first != first {
            let above = first > self.node(i).first;
            path.push(i, above);
            i = self.node(i).child(above);
        }
        let gone = self.node(i);
        if i == NIL || gone.last != last || gone.reserved {
            return Err(IovaError::NotAllocated);
        }
        let freed = gone.gap + (last - first) + 1;
        let Node { below, above, .. } = gone;
        let (unused, instead) = if below != NIL && above != NIL {
            // The range that follows takes the place of this one.
            path.push(i, true);
            let mut next = above;
            while self.node(next).below != NIL {
                path.push(next, false);
                next = self.node(next).below;
            }
            let follows = self.node(next);
            self.with(i, |node| {
                (node.first, node.last, node.reserved) = (follows.first, follows.last, follows.reserved);
                node.gap = follows.gap + freed;
            });
            (next, follows.above)
        } else {
            // The range that follows is the child above, which then has none below, or the last node left downwards.
            let turned = path.at.iter().take(path.len).rev().find(|(_, above)| !above).map_or(NIL, |(node, _)| *node);
            let follows = if above != NIL { above } else { turned };
            self.with(follows, |node| node.gap += freed);
            self.refresh(above);
            (i, if above != NIL { above } else { below })
        };
        self.attach(&path, instead);
        let spare = self.spare;
        self.with(unused, |node| *node = Node { below: spare, ..NOTHING });
        self.spare = unused;
        self.mend(path);
        Ok(())
    }

    /// Makes `i` the child at the end of the path.
    fn attach(&mut self, path: &Path, i: u32) {
        match path.len.checked_sub(1).and_then(|end| path.at.get(end)) {
            Some(&(parent, above)) => self.with(parent, |node| node.set_child(above, i)),
            None => self.root = i,
        }
    }

    /// Puts heights and figures right from the end of the path up to the root.
    fn mend(&mut self, mut path: Path) {
        while let Some((i, _)) = path.pop() {
            let top = self.balance(i);
            self.attach(&path, top);
        }
    }

    /// Recomputes what a node knows of its subtree.
    fn refresh(&mut self, i: u32) {
        let node = self.node(i);
        let (below, above) = (self.node(node.below), self.node(node.above));
        self.with(i, |node| {
            node.height = below.height.max(above.height) + 1;
            node.widest = node.gap.max(below.widest).max(above.widest);
            node.order = order(node.first, node.gap).max(below.order).max(above.order);
        });
    }

    /// Refreshes and balances a node whose children are right; the root of the subtree then.
    fn balance(&mut self, i: u32) -> u32 {
        self.refresh(i);
        let node = self.node(i);
        let (low, high) = (self.node(node.below).height, self.node(node.above).height);
        if low.abs_diff(high) < 2 {
            return i;
        }
        let side = high > low;
        let heavy = self.node(node.child(side));
        if self.node(heavy.child(!side)).height > self.node(heavy.child(side)).height {
            let top = self.rotate(node.child(side), !side);
            self.with(i, |node| node.set_child(side, top));
        }
        self.rotate(i, side)
    }

    /// Lifts the child on one side (`true`: above) over `i`.
    fn rotate(&mut self, i: u32, side: bool) -> u32 {
        let top = self.node(i).child(side);
        let middle = self.node(top).child(!side);
        self.with(i, |node| node.set_child(side, middle));
        self.with(top, |node| node.set_child(!side, i));
        self.refresh(i);
        self.refresh(top);
        top
    }
}

/// 1 where `last` is the last byte of a page.
const fn whole(last: u64) -> u64 {
    (last % PAGE == PAGE - 1) as u64
}

/// The first and the last page of a range of whole pages.
fn pages(range: Range) -> Result<(u64, u64), IovaError> {
    if range.is_aligned(PAGE) && range.first <= range.last {
        Ok((range.first.get() / PAGE, range.last.get() / PAGE))
    } else {
        Err(IovaError::Alignment)
    }
}

#[cfg(test)]
mod tests;
