//! What must be flushed where: cache tags, ranges, and the proof that it was done (VT-d 6.5.2.3, 6.2.1).
//!
//! A domain knows each unit that may cache its translations, and under which domain id (a tag). A range becomes aligned
//! page-selective requests where few suffice, and one domain-selective request where they do not.

use crate::host::address::{PAGE, Range};
use crate::hw::capabilities::Cap;
use crate::unit::invalidate::{Batch, Request};

/// Proof that no cache holds what was unmapped; the only thing for which `iova` takes a range back.
#[derive(Debug)]
pub struct Flushed(pub(crate) ());

/// More aligned pieces than this for one range, and the whole domain is flushed instead.
const PIECES: usize = 8;

/// The aligned blocks of pages that make up a range exactly, largest first where alignment allows.
#[derive(Clone)]
pub(crate) struct Pieces {
    next: u64,
    /// Pages left.
    left: u64,
    max_order: u8,
}

impl Pieces {
    pub(crate) fn of(r: Range, max_order: u8) -> Self {
        let (first, last) = (r.first.get() / PAGE, r.last.get() / PAGE);
        Pieces { next: first, left: last.wrapping_sub(first) + 1, max_order: max_order.min(52) }
    }
}

impl Iterator for Pieces {
    /// Address and order of a block of `2^order` pages.
    type Item = (u64, u8);

    fn next(&mut self) -> Option<(u64, u8)> {
        if self.left == 0 {
            return None;
        }
        let aligned = if self.next == 0 { 63 } else { self.next.trailing_zeros() as u8 };
        let order = aligned.min(self.left.ilog2() as u8).min(self.max_order);
        let at = self.next * PAGE;
        self.next += 1 << order;
        self.left -= 1 << order;
        Some((at, order))
    }
}

/// Adds the requests for one range of domain `did` to a batch. What does not fit becomes one flush of the domain.
pub(crate) fn add_range(batch: &mut Batch, cap: Cap, did: u16, r: Range, leaf_only: bool) {
    let whole = Request::IotlbDomain { did };
    if batch.contains(whole) {
        return;
    }
    let pieces = Pieces::of(r, cap.mamv());
    let few = cap.psi() && pieces.clone().nth(PIECES).is_none();
    let fits = few
        && pieces.into_iter().all(|(first, order)| batch.push(Request::IotlbPages { did, first, order, leaf_only }));
    if !fits && !batch.push(whole) {
        batch.widen();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn pieces(first: u64, last: u64, max: u8) -> Vec<(u64, u8)> {
        Pieces::of(Range::new(first, last).unwrap(), max).collect()
    }

    #[test]
    fn ranges_are_covered_exactly_by_aligned_blocks() {
        assert_eq!(pieces(0x1000, 0x1fff, 18), [(0x1000, 0)]);
        assert_eq!(pieces(0x1f_f000, 0x20_0fff, 18), [(0x1f_f000, 0), (0x20_0000, 0)]);
        assert_eq!(pieces(0, 0x3fff_ffff, 18), [(0, 18)]);
        assert_eq!(pieces(0, 0x7fff_ffff, 18), [(0, 18), (0x4000_0000, 18)]);
        assert_eq!(pieces(0x3000, 0x8fff, 18), [(0x3000, 0), (0x4000, 2), (0x8000, 0)]);
    }

    #[test]
    fn blocks_are_aligned_disjoint_and_complete_for_many_ranges() {
        let mut seed = 1u64;
        for _ in 0..20_000 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let first = (seed >> 20) & 0xff_ffff;
            let pages = (seed >> 50) + 1;
            let max = (seed & 15) as u8;
            let mut at = first * PAGE;
            for (a, order) in Pieces::of(Range::new(at, (first + pages) * PAGE - 1).unwrap(), max) {
                assert_eq!(a, at);
                assert!(order <= max && a % (PAGE << order) == 0);
                at += PAGE << order;
            }
            assert_eq!(at, (first + pages) * PAGE);
        }
    }

    #[test]
    fn many_pieces_become_one_flush_of_the_domain() {
        let cap = Cap(0x80d2_008c_222f_0606);
        let mut b = Batch::new();
        add_range(&mut b, cap, 5, Range::new(0x1000, 0x1fff).unwrap(), true);
        let one = Request::IotlbPages { did: 5, first: 0x1000, order: 0, leaf_only: true };
        assert_eq!(b.requests().collect::<Vec<_>>(), [one]);
        // 1 + 2 + 4 + ... + 2^8 pages from an odd address: nine pieces.
        add_range(&mut b, cap, 5, Range::new(0x1000, 0x1f_ffff).unwrap(), true);
        assert!(b.contains(Request::IotlbDomain { did: 5 }));
    }

    #[test]
    fn a_full_batch_still_covers_everything() {
        let cap = Cap(0x80d2_008c_222f_0606);
        let mut b = Batch::new();
        for i in 0..200 {
            add_range(&mut b, cap, 5, Range::new(i * 0x2000, i * 0x2000 + 0xfff).unwrap(), true);
        }
        assert!(b.contains(Request::IotlbDomain { did: 5 }) || b.contains(Request::IotlbGlobal));
    }
}
