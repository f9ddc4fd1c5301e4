//! Dirty bits: what hardware has written to is reported, once, and nothing of it is lost, whoever writes meanwhile.

use super::*;
use crate::host::testing::watch_stores;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;

both! {
    dirty_pages_agree_with_a_plain_model
    marks_survive_a_split_and_a_change_of_rights
    what_hardware_marks_meanwhile_is_kept
    a_large_page_counts_for_all_its_pages_and_is_cleared_whole
    tables_without_live_marks_count_as_dirty
    what_cannot_be_read_is_refused
}

/// A bench with dirty bits that hardware writes.
fn bench<F: Kind>(sizes: PageSizes, seed: u64) -> Bench<F> {
    let b = Bench::<F>::new(4, sizes, true, seed << 3);
    assert!(b.paging.format().live());
    b
}

fn bits_of(range: Range, bits: &[u64]) -> BTreeSet<u64> {
    let pages = range.len_minus_one() / PAGE;
    let set = |i: &u64| bits[(i / 64) as usize] >> (i % 64) & 1 != 0;
    assert!((pages + 1..bits.len() as u64 * 64).all(|i| !set(&i)), "bits beyond the range");
    (0..=pages).filter(set).map(|i| range.first.get() + i * PAGE).collect()
}

fn words(range: Range) -> Vec<u64> {
    std::vec![0; (range.len_minus_one() / PAGE / 64) as usize + 1]
}

fn dirty_pages_agree_with_a_plain_model<F: Kind>() {
    for (i, (levels, sizes)) in kinds::<F>().filter(|k| k.0 == 4).enumerate() {
        let mut b = bench::<F>(sizes, 0x5a5a + i as u64);
        let all = Access::all();
        let base = if i % 2 == 1 && F::CANONICAL { b.upper() + 6 * G1 } else { G1 - 4 * M2 };
        let window = 8 * M2;
        let (mut dirty, mut reported) = (BTreeSet::<u64>::new(), 0);
        for _ in 0..scaled(6_000) {
            let (at, len) = match b.random.below(4) {
                0 => (base + b.random.below(7) * M2, M2),
                1 => (base, window),
                _ => (base + b.random.below(window / PAGE - 20) * PAGE, (1 + b.random.below(20)) * PAGE),
            };
            let r = Range::new(at, at + (len - 1)).unwrap();
            match b.random.below(12) {
                0..3 => {
                    let to = if b.random.one_in(2) { at % G1 + 8 * G1 } else { 9 * G1 + PAGE };
                    if b.paging.map(&b.host, Iova::at(at), Hpa::new(to).unwrap(), len, all).is_ok() {
                        b.model.map(at, at + (len - 1), to, all);
                    }
                }
                3 => {
                    let _ = b.paging.unmap(&b.host, r);
                    b.model.take(at, at + (len - 1));
                    dirty.retain(|page| !r.contains(&Range::new(*page, *page).unwrap()));
                }
                4 => {
                    let _ = b.paging.protect(&b.host, r, [Access::READ, all][b.random.below(2) as usize]);
                }
                5..9 => {
                    // Hardware writes through pages: all of a page is dirty then.
                    for _ in 0..8 {
                        let at = base + b.random.below(window / PAGE) * PAGE;
                        if let Some((first, last)) = b.used(at) {
                            dirty.extend((first..=last).step_by(PAGE as usize));
                        }
                    }
                }
                kind => {
                    let clear = kind > 9;
                    let mut bits = words(r);
                    let whole: Vec<(u64, u64)> = dirty.iter().filter_map(|at| page_of(&b, *at)).collect();
                    let stale = b.paging.read_dirty(&b.host, r, &mut bits, 0, clear).unwrap();
                    let expected: BTreeSet<u64> = dirty.range(at..=at + (len - 1)).copied().collect();
                    reported += expected.len();
                    assert_eq!(bits_of(r, &bits), expected, "{r}");
                    let mut cleared = false;
                    for (first, last) in whole {
                        if clear && r.contains(&Range::new(first, last).unwrap()) {
                            dirty.retain(|page| !(first..=last).contains(page));
                            let flushed = stale.is_some_and(|s| s.range.contains(&Range::new(first, last).unwrap()));
                            assert!(flushed && stale.unwrap().leaf_only);
                            cleared = true;
                        }
                    }
                    assert_eq!(stale.is_some(), cleared);
                }
            }
            assert_eq!(levels, b.levels);
        }
        assert!(reported as u64 > scaled(1000), "{reported} pages");
        b.flush();
        let all = Range::new(base, base + window - 1).unwrap();
        let mut bits = words(all);
        b.paging.read_dirty(&b.host, all, &mut bits, 0, false).unwrap();
        assert_eq!(bits_of(all, &bits), dirty);
        b.end();
    }
}

/// The page that `at` is in, as the tables are now.
fn page_of<F: Kind>(b: &Bench<F>, at: u64) -> Option<(u64, u64)> {
    let leaf = b.path(at).into_iter().find(|e| e.leaf)?;
    Some((at & !(size(leaf.level) - 1), at | (size(leaf.level) - 1)))
}

fn marks_survive_a_split_and_a_change_of_rights<F: Kind>() {
    let mut b = bench::<F>(PageSizes::all(), 1);
    b.paging.map(&b.host, Iova::at(0), Hpa::new(G1).unwrap(), M2, RW).unwrap();
    assert_eq!(b.used(0), Some((0, M2 - 1)));
    b.paging.protect(&b.host, Range::new(PAGE, 2 * PAGE - 1).unwrap(), Access::READ).unwrap();
    for (at, how) in [(0, RW), (PAGE, Access::READ), (2 * PAGE, RW), (M2 - PAGE, RW)] {
        let leaf = b.path(at)[3];
        assert_eq!((leaf.level, leaf.entry & (F::ACCESSED | F::DIRTY)), (1, F::ACCESSED | F::DIRTY));
        assert_eq!(F::rights(leaf.entry), how);
    }
}

/// Hardware marks an entry between the read of it and the store over it.
fn what_hardware_marks_meanwhile_is_kept<F: Kind>() {
    let page = |n: u64| Range::new(n * PAGE, n * PAGE + (PAGE - 1)).unwrap();
    let meanwhile = |b: &mut Bench<F>, marks: u64, body: &mut dyn FnMut(&mut Bench<F>)| {
        let (host, first) = (b.host.clone(), Rc::new(Cell::new(true)));
        let seen = first.clone();
        let look = move |s: &crate::host::observe::Store<'_>| {
            if !s.done && s.old[0] != 0 && first.replace(false) {
                host.hardware_or(s.at as u64, marks);
            }
        };
        watch_stores(look, || body(b));
        assert!(!seen.get(), "nothing was stored");
    };
    for (kind, marks) in [F::ACCESSED, F::DIRTY, F::ACCESSED | F::DIRTY].into_iter().enumerate() {
        let mut b = bench::<F>(PageSizes::all(), 1);
        b.paging.map(&b.host, Iova::at(0), Hpa::new(G1).unwrap(), 4 * PAGE, RW).unwrap();
        let marked = |b: &Bench<F>, at: u64| b.path(at).last().unwrap().entry & (F::ACCESSED | F::DIRTY);
        // A change of rights loses nothing.
        meanwhile(&mut b, marks, &mut |b| {
            b.paging.protect(&b.host, page(1), Access::READ).unwrap();
        });
        assert_eq!((marked(&b, PAGE), F::rights(b.path(PAGE)[3].entry)), (marks, Access::READ), "{kind}");
        // Nor does clearing: the page is reported, and used again or not as hardware says.
        let dirty = b.path(2 * PAGE)[3].at;
        b.host.hardware_or(dirty, F::DIRTY);
        let mut bits = [0];
        meanwhile(&mut b, marks, &mut |b| {
            b.paging.read_dirty(&b.host, page(2), &mut bits, 0, true).unwrap();
        });
        assert_eq!((bits, marked(&b, 2 * PAGE)), ([1], marks & F::ACCESSED));
        // A split takes what was marked until its one store.
        b.paging.map(&b.host, Iova::at(M2), Hpa::new(G1).unwrap(), M2, RW).unwrap();
        meanwhile(&mut b, marks, &mut |b| {
            b.paging.unmap(&b.host, page(M2 / PAGE)).unwrap();
        });
        assert_eq!(marked(&b, M2 + PAGE), marks);
    }
}

fn a_large_page_counts_for_all_its_pages_and_is_cleared_whole<F: Kind>() {
    let mut b = bench::<F>(PageSizes::all(), 1);
    b.paging.map(&b.host, Iova::at(G1), Hpa::new(4 * G1).unwrap(), G1 + 2 * M2, RW).unwrap();
    assert_eq!(b.used(G1 + 5 * PAGE), Some((G1, 2 * G1 - 1)));
    assert_eq!(b.used(2 * G1 + M2), Some((2 * G1 + M2, 2 * G1 + 2 * M2 - 1)));
    // In part: reported, not cleared. Bits that were set stay.
    let part = Range::new(2 * G1 - 3 * PAGE, 2 * G1 + M2 + 2 * PAGE - 1).unwrap();
    for clear in [false, true, true] {
        let mut bits = words(part);
        bits[1] = 1 << 60;
        assert_eq!(b.paging.read_dirty(&b.host, part, &mut bits, 0, clear), Ok(None));
        bits[1] ^= 1 << 60;
        let expected = [2 * G1 - 3 * PAGE, 2 * G1 - 2 * PAGE, 2 * G1 - PAGE, 2 * G1 + M2, 2 * G1 + M2 + PAGE];
        assert_eq!(bits_of(part, &bits), BTreeSet::from(expected));
    }
    let all = Range::new(G1, 2 * G1 + 2 * M2 - 1).unwrap();
    let mut bits = words(all);
    let stale = b.paging.read_dirty(&b.host, all, &mut bits, 0, true).unwrap();
    assert_eq!(stale, Some(Stale { range: all, leaf_only: true }));
    assert_eq!(bits.iter().map(|w| w.count_ones()).sum::<u32>(), 512 * 512 + 512);
    assert!(bits[..4096].iter().all(|w| *w == u64::MAX) && bits[4096..4104] == [0; 8]);
    let mut bits = words(all);
    assert_eq!(b.paging.read_dirty(&b.host, all, &mut bits, 0, true), Ok(None));
    assert!(bits.iter().all(|w| *w == 0));
}

/// Where hardware does not write the bits nobody can know: everything that is mapped is dirty, and stays so.
fn tables_without_live_marks_count_as_dirty<F: Kind>() {
    let mut b = Bench::<F>::new(4, PageSizes::empty(), false, 1);
    b.paging.map(&b.host, Iova::at(2 * PAGE), Hpa::new(G1).unwrap(), 3 * PAGE, RW).unwrap();
    let r = Range::new(0, 8 * PAGE - 1).unwrap();
    let (entry, lines) = (b.path(2 * PAGE)[3].entry, b.host.counts().lines);
    for _ in 0..2 {
        let mut bits = [0];
        assert_eq!(b.paging.read_dirty(&b.host, r, &mut bits, 0, true), Ok(None));
        assert_eq!(bits, [0b11100]);
    }
    // Cleared bits that hardware cannot set would be faults.
    assert_eq!((b.path(2 * PAGE)[3].entry, b.host.counts().lines), (entry, lines));
    assert_eq!(entry & (F::ACCESSED | F::DIRTY), F::ACCESSED | F::DIRTY);
}

fn what_cannot_be_read_is_refused<F: Kind>() {
    let mut b = bench::<F>(PageSizes::all(), 1);
    let mut read = |first, last, n| {
        let mut bits = std::vec![0; n];
        let done = b.paging.read_dirty(&b.host, Range::new(first, last).unwrap(), &mut bits, 0, true);
        done.map_err(|e| (e.error.why, e.error.at.get()))
    };
    assert_eq!(read(1, PAGE - 1, 1), Err((MapWhy::Alignment, 1)));
    assert_eq!(read(0, 64 * PAGE - 1, 1), Ok(None));
    assert_eq!(read(0, 65 * PAGE - 1, 1), Err((MapWhy::Width, 0)));
    assert_eq!(read(PAGE, 2 * PAGE - 1, 0), Err((MapWhy::Width, PAGE)));
    assert_eq!(read(1 << 60, (1 << 60) + PAGE - 1, 1), Err((MapWhy::Width, 1 << 60)));
}
