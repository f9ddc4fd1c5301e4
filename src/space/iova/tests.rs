//! The allocator against a plain model.

use super::*;
use std::collections::BTreeMap;

const PROOF: Flushed = Flushed(());
const ALL: Range = Range { first: Iova::at(0), last: Iova::at(u64::MAX) };

impl IovaSpace {
    /// Checks a subtree against what it should know; its height, the end of what is before it, and its figures.
    fn check(&self, i: u32, from: &mut u64) -> (u8, u64, u8) {
        if i == NIL {
            return (0, 0, 0);
        }
        let node = self.node(i);
        let below = self.check(node.below, from);
        assert_eq!(node.first - node.gap, *from);
        *from = node.last + 1;
        let above = self.check(node.above, from);
        assert!(below.0.abs_diff(above.0) < 2, "out of balance");
        let mine = (
            below.0.max(above.0) + 1,
            node.gap.max(below.1).max(above.1),
            order(node.first, node.gap).max(below.2).max(above.2),
        );
        assert_eq!(mine, (node.height, node.widest, node.order));
        mine
    }
}

/// First page -> last, and whether reserved.
struct Model {
    taken: BTreeMap<u64, (u64, bool)>,
    first: u64,
    last: u64,
}

impl Model {
    fn free(&self, first: u64, last: u64) -> bool {
        self.taken.range(..=last).next_back().is_none_or(|(_, (l, _))| *l < first)
    }

    /// Whether `n` pages fit anywhere, by trying.
    fn fits(&self, n: u64, align: u64, low: u64, end: u64) -> bool {
        let mut from = self.first.max(low);
        let ends = self.taken.iter().map(|(f, (l, _))| (*f, *l + 1)).chain([(self.last + 1, 0)]);
        for (first, next) in ends {
            let at = from.next_multiple_of(align);
            if at + n <= first.min(end) {
                return true;
            }
            from = from.max(next);
        }
        false
    }
}

#[test]
fn the_order_of_a_gap_is_that_of_its_largest_aligned_block() {
    for first in 0..40u64 {
        for n in 0..40 {
            let largest = (0..8).rev().find(|k| first.next_multiple_of(1 << k) + (1 << k) <= first + n);
            assert_eq!(order(first + n, n), largest.map_or(0, |k| k as u8 + 1), "{n} pages from {first}");
        }
    }
}

#[test]
fn random_operations_agree_with_a_set_of_ranges() {
    let percent: u64 = std::env::var("VTD_SCALE").ok().and_then(|v| v.parse().ok()).unwrap_or(100);
    let mut seed = 0x9e37_79b9u64;
    let mut random = move |n: u64| {
        seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (seed >> 33) % n
    };
    // A space that is often full, one around the interrupt addresses, one that never fills.
    let spaces = [(1u64, 400u64), (0xfe000, 0x10_0000), (1, 1 << 30)];
    for (first, pages) in spaces {
        let last = first + pages - 1;
        let mut space = IovaSpace::new(Range::new(first * PAGE, last * PAGE + PAGE - 1).unwrap()).unwrap();
        let mut m = Model { taken: BTreeMap::new(), first, last };
        let (low, high) = (0xfee00.max(first), 0xfeeff.min(last));
        if low <= high {
            m.taken.insert(low, (high, true));
        }
        let mut live = std::vec::Vec::new();
        for step in 0..(700_000 * percent / 100).max(1) {
            let full = if pages > 1 << 20 { 2000 } else { 400 };
            // Fills and empties by turns.
            match random(16) {
                0..9 if live.len() < full && (step / 3000) % 3 != 2 => {
                    let n = if random(3) == 0 { 1 + random(20) } else { 1 << random(5) };
                    let align = match random(3) {
                        0 => 1,
                        1 => 1 << random(6),
                        _ => n.next_power_of_two(),
                    };
                    let within = match random(3) {
                        0 => Range::new((first + random(pages)) * PAGE, u64::MAX).unwrap(),
                        1 => Range::new(0, (first + random(pages)) * PAGE + PAGE - 1).unwrap(),
                        _ => ALL,
                    };
                    let (low, end) = (within.first.get() / PAGE, (within.last.get() / PAGE) + 1);
                    match space.alloc(n * PAGE - random(PAGE), align * PAGE, within) {
                        Ok(r) => {
                            let (f, l) = super::pages(r).unwrap();
                            assert!(l - f + 1 == n && f % align == 0 && within.contains(&r));
                            assert!(f >= first && l <= last && m.free(f, l) && !space.is_free(r.last));
                            m.taken.insert(f, (l, false));
                            live.push(r);
                        }
                        Err(e) => {
                            assert_eq!(e, IovaError::Full);
                            assert!(!m.fits(n, align, low, end), "{n} pages would have fit");
                        }
                    }
                }
                0..14 if !live.is_empty() => {
                    let r = live.swap_remove(random(live.len() as u64) as usize);
                    let (f, l) = super::pages(r).unwrap();
                    if let Some(short) = Range::new(f * PAGE, l * PAGE - 1) {
                        assert_eq!(space.free(short, &PROOF), Err(IovaError::NotAllocated));
                    }
                    assert_eq!(space.free(r, &PROOF), Ok(()));
                    assert_eq!(space.free(r, &PROOF), Err(IovaError::NotAllocated));
                    assert!(space.is_free(r.first) && space.is_free(r.last));
                    m.taken.remove(&f);
                }
                _ => {
                    let f = first + random(pages);
                    let l = (f + random(3)).min(last);
                    let r = Range::new(f * PAGE, l * PAGE + PAGE - 1).unwrap();
                    assert_eq!(space.is_free(r.first), m.free(f, f));
                    let known = m.taken.get(&f).is_some_and(|t| *t == (l, false));
                    if !known {
                        assert_eq!(space.free(r, &PROOF), Err(IovaError::NotAllocated));
                    }
                    let reserved = m.taken.values().filter(|t| t.1).count();
                    if step % 1000 == 0 && reserved < 8 {
                        let free = m.free(f, l);
                        assert_eq!(space.reserve(r).is_ok(), free);
                        if free {
                            m.taken.insert(f, (l, true));
                        }
                    } else if !m.free(f, l) {
                        assert_eq!(space.reserve(r), Err(IovaError::Taken));
                    }
                }
            }
            assert_eq!(space.allocated(), live.len());
            if step % 512 == 0 {
                let mut from = first;
                space.check(space.root, &mut from);
                assert_eq!(from, last + 2);
            }
        }
        for r in live {
            space.free(r, &PROOF).unwrap();
        }
        assert_eq!(space.nodes.iter().filter(|n| n.height != 0).count(), m.taken.values().filter(|t| t.1).count() + 1);
    }
}

#[test]
fn reserved_addresses_are_never_handed_out() {
    let mut space = IovaSpace::new(Range::new(PAGE, u64::from(u32::MAX)).unwrap()).unwrap();
    assert_eq!(space.reserve(Range::new(0xfee0_0000, 0xfee0_0fff).unwrap()), Err(IovaError::Taken));
    assert_eq!(space.free(INTERRUPT_RANGE, &PROOF), Err(IovaError::NotAllocated));
    // What lies outside is never handed out anyway; a part inside counts.
    assert_eq!(space.reserve(Range::new(1 << 40, (1 << 40) + PAGE - 1).unwrap()), Ok(()));
    assert_eq!(space.reserve(Range::new(0xffff_f000, 0x1_0000_0fff).unwrap()), Ok(()));
    assert_eq!(space.reserve(Range::new(0x10, 0x1fff).unwrap()), Err(IovaError::Alignment));
    // The largest aligned block is the one between 0 and the interrupt addresses' lower neighbour.
    let half = space.alloc(1 << 31, 1 << 31, ALL).map(|r| r.first.get());
    assert_eq!(half, Err(IovaError::Full));
    assert_eq!(space.alloc(1 << 30, 1 << 30, ALL).map(|r| r.first.get()), Ok(1 << 30));
    assert_eq!(space.alloc(1 << 30, 1 << 30, ALL).map(|r| r.first.get()), Ok(2 << 30));
    assert_eq!(space.alloc(1 << 30, 1 << 30, ALL).map(|r| r.first.get()), Err(IovaError::Full));
    assert_eq!(space.alloc(0, PAGE, ALL), Err(IovaError::Alignment));
    assert_eq!(space.alloc(PAGE, 12288, ALL), Err(IovaError::Alignment));
    assert_eq!(space.alloc(PAGE, 1, ALL), Err(IovaError::Alignment));
    assert_eq!(space.alloc(u64::MAX, 1 << 63, ALL), Err(IovaError::Full));
    let low = Range::new(0, 0xff_ffff).unwrap();
    assert_eq!(space.alloc(PAGE, PAGE, low).map(|r| r.first.get()), Ok(PAGE));
    assert_eq!(space.alloc(0x100_0000, PAGE, low), Err(IovaError::Full));
    assert!(IovaSpace::new(Range::new(0, 100).unwrap()).is_err());
    assert!(IovaSpace::new(ALL).is_ok());
}
