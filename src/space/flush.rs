//! What must be flushed where: cache tags, ranges, and the proof that it was done (VT-d 6.5.2.3 to 6.5.2.6, 6.2.1).
//!
//! A domain knows each cache that may hold its translations, and under which name (a tag); what is flushed of a range is
//! made from the tags and the rows of `unit::rules`, and from nothing else.
//!
//! A range is covered exactly where [`PIECES`] aligned blocks are enough, else by as many blocks that end on coarser bounds
//! and reach less than as far again; where not even these do, which begins beyond 7 * 2^MAMV pages, by everything of the
//! domain id or PASID. That is counted (`UnitStats::wide_flushes`).

use crate::host::address::{PAGE, Range};
use crate::host::platform::Platform;
use crate::hw::descriptors::DeviceTlbRange;
use crate::unit::Unit;
use crate::unit::invalidate::{Batch, Request};
use crate::unit::rules::{Facts, Step};

/// Proof that no cache holds what was unmapped; the only thing for which `iova` takes a range back.
#[derive(Debug)]
pub struct Flushed(pub(crate) ());

/// The most blocks for one range.
const PIECES: usize = 8;

/// The order that is assumed of `p_iotlb` where CAP.PSI, and CAP.MAMV with it, is missing: it takes any (6.5.2.4), QEMU this.
const PASID_ORDER: u8 = 18;

/// A cache that may hold translations of a domain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cached {
    /// A unit's, made from second-stage tables: known by domain id.
    Second { did: u16 },
    /// A unit's, made from first-stage tables: known by domain id and PASID.
    First { did: u16, pasid: u32 },
    /// A device's own.
    Device(Facts),
    /// A unit's, made from a guest's tables that lie over the domain: nothing of it is known by the domain's own addresses alone.
    NestedId { did: u16 },
    /// The own one of a device behind such tables: known by the guest's input addresses, of which the domain knows nothing.
    Nested(Facts),
}

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

/// The blocks that cover a range: exactly, or rounded out as little as makes them few. `None` where that would flush twice as
/// much or more.
pub(crate) fn pieces(r: Range, max_order: u8) -> Option<Pieces> {
    let exact = Pieces::of(r, max_order);
    let size = exact.left;
    let few = |p: &Pieces| p.clone().nth(PIECES).is_none();
    if few(&exact) {
        return Some(exact);
    }
    let (first, last) = (exact.next, exact.next.saturating_add(size - 1));
    (1..=max_order.min(51)).find_map(|order| {
        let within = (1u64 << order) - 1;
        let next = first & !within;
        let rounded = Pieces { next, left: (last | within) - next + 1, max_order };
        (few(&rounded) && rounded.left / 2 < size).then_some(rounded)
    })
}

/// Adds what the steps of a row ask for of one cache and one range. What finds no room becomes wider. `false`: not even that has
/// room, which happens to devices only; send the batch and add to another.
pub(crate) fn add_range<P: Platform>(
    unit: &Unit<P>,
    batch: &mut Batch,
    row: &[Step],
    what: Cached,
    r: Range,
    leaf_only: bool,
) -> bool {
    let cap = unit.caps.cap;
    let everything = r.len_minus_one() == u64::MAX;
    row.iter().all(|step| match (step, what) {
        (Step::IotlbPages, Cached::Second { did } | Cached::NestedId { did }) => {
            let whole = Request::IotlbDomain { did };
            let found = if cap.psi() { pieces(r, cap.mamv()) } else { None };
            let page = |(first, order)| Request::IotlbPages { did, first, order, leaf_only };
            add_pieces(unit, batch, whole, found, page);
            true
        }
        (Step::PasidIotlbPages, Cached::First { did, pasid }) => {
            let whole = Request::IotlbPasid { did, pasid };
            if everything {
                // Asked for, and not for want of room.
                return batch.push(whole) || {
                    batch.widen();
                    true
                };
            }
            let found = pieces(r, if cap.psi() { cap.mamv() } else { PASID_ORDER });
            let page = |(first, order)| Request::IotlbPasidPages { did, pasid, first, order, leaf_only };
            add_pieces(unit, batch, whole, found, page);
            true
        }
        (Step::DeviceTlbPages, Cached::Device(of)) => {
            let Some(whole) = of.device_tlb() else { return true };
            let mut found = pieces(r, u8::MAX).into_iter().flatten();
            batch.contains(whole)
                || !everything
                    && found.all(|(first, order)| {
                        of.device_pages(DeviceTlbRange::pages(first, order)).is_none_or(|page| batch.push(page))
                    })
                || batch.push(whole)
        }
        (Step::DeviceTlb, Cached::Nested(of)) => of.device_tlb().is_none_or(|whole| batch.push(whole)),
        _ => true,
    })
}

fn add_pieces<P: Platform>(
    unit: &Unit<P>,
    batch: &mut Batch,
    whole: Request,
    found: Option<Pieces>,
    page: impl Fn((u64, u8)) -> Request,
) {
    if batch.contains(whole) {
        return;
    }
    if !found.is_some_and(|mut pieces| pieces.all(|p| batch.push(page(p)))) {
        unit.count_wide_flush();
        if !batch.push(whole) {
            batch.widen();
        }
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

    /// The pieces for `pages` from `first` on, and what they cover.
    fn cover(first: u64, pages: u64, max: u8) -> Option<(usize, u64)> {
        let r = Range::new(first * PAGE, (first + pages) * PAGE - 1).unwrap();
        let all: Vec<_> = super::pieces(r, max)?.collect();
        let (start, end) = (all[0].0 / PAGE, all.iter().map(|(at, order)| at / PAGE + (1 << order)).max().unwrap());
        assert!(start <= first && end >= first + pages, "{first:#x} + {pages:#x}: {all:x?}");
        Some((all.len(), all.iter().map(|(_, order)| 1 << order).sum()))
    }

    #[test]
    fn ranges_are_covered_exactly_where_eight_pieces_do_and_below_twice_their_size_up_to_seven_of_the_largest() {
        // Every range of a unit whose largest block is 8 pages, and of one of 16.
        for (max, span) in [(3u8, 200u64), (4, 300), (0, 40)] {
            for first in 0..(4u64 << max) {
                for pages in 1..span {
                    let exact = Pieces::of(Range::new(first * PAGE, (first + pages) * PAGE - 1).unwrap(), max).count();
                    match cover(first, pages, max) {
                        Some((n, covered)) => {
                            assert!(n <= PIECES && covered < 2 * pages, "{first} + {pages}: {n} pieces, {covered}");
                            assert!(exact > PIECES || covered == pages);
                        }
                        None => assert!(exact > PIECES && pages > 7 << max, "{first} + {pages}"),
                    }
                }
            }
        }
        let mut seed = 7u64;
        for _ in 0..200_000 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let (first, pages) = (seed >> 12 & 0xfff_ffff, 1 + (seed >> 40) % (7 << 18));
            let (n, covered) = cover(first, pages, 18).unwrap();
            assert!(n <= PIECES && covered < 2 * pages);
        }
        // What elsewhere flushes 1,024 pages, and a whole domain.
        assert_eq!(cover(0x1ff, 2, 18), Some((2, 2)));
        assert_eq!(cover(0x3_ffff, 2, 18), Some((2, 2)));
    }
}
