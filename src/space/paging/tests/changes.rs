//! Maps, unmaps and changes of rights: against the model, and against what hardware may see between any two stores and
//! keep in its caches.

use super::*;
use crate::host::testing::watch;
use crate::space::paging::engine::Failed;
use core::marker::PhantomData;
use std::boxed::Box;
use std::cell::RefCell;
use std::rc::Rc;

both! {
    random_operations_agree_with_a_plain_model
    hardware_that_looks_between_two_stores_sees_old_or_new
    hardware_that_does_not_snoop_sees_old_or_new
    a_split_changes_nothing_for_the_rest_of_the_page
    every_allocation_may_fail_and_leaves_nothing_behind
    bulk_operations_store_flush_and_fence_as_little_as_can_be
    the_best_sizes_are_taken
}

fn random_operations_agree_with_a_plain_model<F: Kind>() {
    for (i, (levels, sizes)) in kinds::<F>().enumerate() {
        let mut b = Bench::<F>::new(levels, sizes, true, 0x1234_5678 + i as u64);
        // What the unit keeps in its caches: level, first address, entry, leaf. An invalidation drops what it covers whole.
        let mut cached: Vec<(u64, Step)> = Vec::new();
        for n in 0..scaled(150_000) {
            let stale = b.step();
            if let Some(stale) = stale {
                cached.retain(|&(first, e)| {
                    let covered = stale.range.contains(&Range::new(first, first | (size(e.level) - 1)).unwrap());
                    !(covered && (e.leaf || !stale.leaf_only))
                });
            }
            if n % 16 == 0 {
                for (first, kept) in &cached {
                    let same = |e: &Step| e.level == kept.level && (e.entry ^ kept.entry) & F::MEANING == 0;
                    let (level, entry) = (kept.level, kept.entry);
                    let now = b.path(*first);
                    assert!(now.iter().any(same), "stale in the caches: level {level} at {first:#x}: {entry:#x}");
                }
                if cached.len() > 40 {
                    cached.clear();
                }
                let at = match b.model.0.iter().nth(b.random.below(30) as usize) {
                    Some((first, _)) if n % 32 == 0 => *first,
                    _ => b.address(),
                };
                b.used(at);
                cached.extend(b.path(at).into_iter().map(|e| (at & !(size(e.level) - 1), e)));
            }
            if n % 8 == 0 {
                b.flush();
            }
            if n % 8192 == 0 {
                b.survey();
            }
        }
        b.survey();
        b.end();
    }
}

/// What hardware may see while an operation runs.
struct Watch<F> {
    host: Host,
    root: u64,
    levels: u8,
    random: Random,
    coherent: bool,
    probes: Vec<u64>,
    /// Per probe, every translation seen.
    seen: Vec<Vec<Seen>>,
    stores: u64,
    format: PhantomData<F>,
}

impl<F: Kind> Watch<F> {
    fn look(&mut self) {
        self.stores += 1;
        for (i, &at) in self.probes.iter().enumerate() {
            // Lines of a device that does not snoop may have left the caches early, one and not another.
            let mix = RefCell::new(self.random.clone());
            let read = |at| match !self.coherent && mix.borrow_mut().one_in(2) {
                true => self.host.read_memory(at),
                false => self.host.read(at),
            };
            let got = walk::<F>(&read, self.root, self.levels, at);
            self.random = mix.into_inner();
            if !self.seen[i].contains(&got) {
                self.seen[i].push(got);
            }
        }
    }
}

/// Looks at `probes` after every store of `body`.
fn watched<F: Kind>(b: &mut Bench<F>, probes: Vec<u64>, coherent: bool, body: impl FnOnce(&mut Bench<F>)) -> Watch<F> {
    let seen = std::vec![Vec::new(); probes.len()];
    let (host, root, levels, random) = (b.host.clone(), b.root(), b.levels, b.random.clone());
    let w = Rc::new(RefCell::new(Watch {
        host,
        root,
        levels,
        random,
        coherent,
        probes,
        seen,
        stores: 0,
        format: PhantomData,
    }));
    let inner = w.clone();
    watch(move || inner.borrow_mut().look(), || body(b));
    Rc::into_inner(w).unwrap().into_inner()
}

fn old_or_new<F: Kind>(coherent: bool, ops: u64) {
    for (i, (levels, sizes)) in kinds::<F>().enumerate() {
        let mut b = Bench::<F>::new(levels, sizes, coherent, 0x77 + i as u64);
        for n in 0..scaled(ops) {
            let mut probes = Vec::new();
            // The operation to come, known by a clone of its numbers.
            let ahead = b.random.clone();
            let (at, len, _) = b.range();
            b.random = ahead;
            for _ in 0..2 {
                let inside = at + b.random.clone().below(len);
                probes.extend([at, at + (len - 1), at.wrapping_sub(1), at.wrapping_add(len), inside, b.address()]);
            }
            probes.retain(|at| b.valid(*at));
            if len > 8 * M2 && n % 64 != 0 {
                probes.truncate(1);
            }
            let before: Vec<_> = probes.iter().map(|at| b.model.at(*at)).collect();
            let random = b.random.clone();
            let mut attempted = None;
            let w = watched(&mut b, probes, coherent, |b| attempted = b.step());
            b.random = random;
            b.random.next();
            let _ = attempted;
            for ((at, seen), old) in w.probes.iter().zip(&w.seen).zip(before) {
                let new = b.model.at(*at);
                for got in seen {
                    let Ok(got) = got else { panic!("hardware at {at:#x} walked into what is no table") };
                    // A map that fails at a later address has shown what it mapped up to there.
                    let known = *got == old || *got == new || (old.is_none() && new.is_none() && attempted.is_some());
                    assert!(known, "at {at:#x}: {old:x?}, then {got:x?}, then {new:x?}");
                }
                let memory = walk::<F>(&|at| b.host.read_memory(at), b.root(), levels, *at);
                assert_eq!(memory, Ok(new), "memory at {at:#x} after the last fence");
            }
            if n % 4 == 0 {
                b.flush();
            }
        }
        b.survey();
        b.end();
    }
}

fn hardware_that_looks_between_two_stores_sees_old_or_new<F: Kind>() {
    old_or_new::<F>(true, 1500);
}

fn hardware_that_does_not_snoop_sees_old_or_new<F: Kind>() {
    old_or_new::<F>(false, 1500);
}

fn a_split_changes_nothing_for_the_rest_of_the_page<F: Kind>() {
    for coherent in [true, false] {
        let mut b = Bench::<F>::new(4, PageSizes::all(), coherent, 1);
        b.paging.map(&b.host, Iova::at(G1), Hpa::new(4 * G1).unwrap(), G1, RW).unwrap();
        assert_eq!(b.paging.translate(&b.host, Iova::at(G1 + 5)), Some((Hpa::new(4 * G1 + 5).unwrap(), G1, RW)));
        let cut = G1 + 7 * M2 + 3 * PAGE;
        let mut probes: Vec<u64> = (0..512).map(|i| G1 + i * M2 + i * PAGE).collect();
        probes.extend((0..512).map(|i| G1 + 7 * M2 + i * PAGE).filter(|at| *at != cut));
        let w = watched(&mut b, probes, coherent, |b| {
            let stale = b.paging.unmap(&b.host, Range::new(cut, cut + PAGE - 1).unwrap()).unwrap();
            assert_eq!(stale, Stale { range: Range::new(G1, 2 * G1 - 1).unwrap(), leaf_only: false });
        });
        // Two tables of 512, two links, the leaf, its table's count; and each probe always one and the same.
        assert_eq!(w.stores, 512 * 2 + 2 + 2);
        for (at, seen) in w.probes.iter().zip(w.seen) {
            assert_eq!(seen, [Ok(Some((at + 3 * G1, RW)))]);
        }
        assert_eq!(b.host.counts().frames, 4);
        assert_eq!(b.paging.translate(&b.host, Iova::at(cut)), None);
        // The rest of the page has no more use for the tables than its last part.
        b.paging.unmap(&b.host, Range::new(G1, cut - 1).unwrap()).unwrap();
        b.paging.unmap(&b.host, Range::new(cut + PAGE, 2 * G1 - 1).unwrap()).unwrap();
        b.flush();
        assert_eq!(b.host.counts().frames, 1);
    }
}

type Op<F> = Box<dyn Fn(&mut Bench<F>) -> Result<(), Failed>>;

fn every_allocation_may_fail_and_leaves_nothing_behind<F: Kind>() {
    for coherent in [true, false] {
        let page = |at, n| Range::new(at, at + n * PAGE - 1).unwrap();
        let to = |at: u64| Hpa::new(at).unwrap();
        let ops: Vec<Op<F>> = std::vec![
            Box::new(move |b| b.paging.map(&b.host, Iova::at(G1 - 3 * PAGE), to(PAGE), 5 * M2, RW)),
            Box::new(move |b| b.paging.map(&b.host, Iova::at(512 * G1 - M2), to(G1), 2 * M2 + PAGE, RW)),
            Box::new(move |b| b.paging.map(&b.host, Iova::at(3 * G1 + M2), to(PAGE), 3 * M2, RW)),
            Box::new(move |b| b.paging.unmap(&b.host, page(2 * G1 + PAGE, 1)).map(|_| ())),
            Box::new(move |b| b.paging.unmap(&b.host, page(2 * G1 + M2 + PAGE, (G1 + M2) / PAGE)).map(|_| ())),
            Box::new(move |b| b.paging.protect(&b.host, page(2 * G1 + M2 + PAGE, 513), Access::READ).map(|_| ())),
        ];
        for op in ops {
            let mut failures = 0;
            loop {
                let mut b = Bench::<F>::new(4, PageSizes::all(), coherent, 1);
                for (at, first, len) in [(2 * G1, 8 * G1, G1), (3 * G1, 20 * G1, M2), (3 * G1 + 4 * M2, 24 * G1, M2)] {
                    b.paging.map(&b.host, Iova::at(at), to(first), len, RW).unwrap();
                    b.model.map(at, at + len - 1, first, RW);
                }
                let frames = b.host.counts().frames;
                b.host.fail_after(Some(failures));
                let done = op(&mut b);
                b.host.fail_after(None);
                let Err(e) = done else { break };
                assert_eq!(e.error.why, MapWhy::OutOfFrames);
                b.survey();
                // A page that was split already stays so: the same mapping in more tables.
                assert!(b.host.counts().frames == frames || e.stale.is_some_and(|s| !s.leaf_only));
                b.end();
                failures += 1;
            }
            assert!(failures >= 1);
        }
        let host = Host::new();
        host.fail_after(Some(0));
        let limits = Limits { input: 48, output: 46, coherent, node: None };
        assert!(Paging::new(&host, F::make(4, PageSizes::all(), coherent, 1), limits).is_err());
    }
}

fn bulk_operations_store_flush_and_fence_as_little_as_can_be<F: Kind>() {
    let gib = Range::new(5 * G1, 6 * G1 - 1).unwrap();
    for coherent in [true, false] {
        let mut b = Bench::<F>::new(4, PageSizes::all(), coherent, 1);
        let start = b.host.counts();
        // Misaligned, so in pages of 4 KiB: 512 tables of them, two above.
        let w = watched(&mut b, Vec::new(), coherent, |b| {
            b.paging.map(&b.host, gib.first, Hpa::new(9 * G1 + PAGE).unwrap(), G1, RW).unwrap();
        });
        let c = b.host.counts();
        assert_eq!(c.frames - start.frames, 514);
        // A store a page. A table is linked, counted in above, counts its own, is lit: the topmost once memory has it.
        assert!(w.stores <= 512 * 512 + 4 * 514 + 1, "{}", w.stores);
        let lines = if coherent { 0 } else { 514 * 64 + 1 };
        assert_eq!(c.lines - start.lines, lines, "a line once: new tables, and the root's entry");
        assert_eq!(c.fences - start.fences, if coherent { 0 } else { 2 }, "before the tables show, and at the end");
        // One store takes it all away.
        let w = watched(&mut b, Vec::new(), coherent, |b| {
            let stale = b.paging.unmap(&b.host, gib).unwrap();
            assert_eq!(stale, Stale { range: Range::new(0, 512 * G1 - 1).unwrap(), leaf_only: false });
        });
        assert!(w.stores <= 8, "{}", w.stores);
        let after = b.host.counts();
        assert_eq!(after.fences - c.fences, if coherent { 0 } else { 1 });
        assert!(after.lines - c.lines <= if coherent { 0 } else { 2 });
        b.flush();
        assert_eq!(b.host.counts().frames, 1);

        // Into tables that are there: a flush a line, one fence.
        b.paging.map(&b.host, Iova::at(0), Hpa::new(PAGE).unwrap(), PAGE, RW).unwrap();
        let c = b.host.counts();
        b.paging.map(&b.host, Iova::at(8 * PAGE), Hpa::new(0).unwrap(), 64 * PAGE, RW).unwrap();
        let stale = b.paging.unmap(&b.host, Range::new(8 * PAGE, 72 * PAGE - 1).unwrap()).unwrap();
        assert_eq!(stale, Stale { range: Range::new(8 * PAGE, 72 * PAGE - 1).unwrap(), leaf_only: true });
        let after = b.host.counts();
        assert_eq!((after.fences - c.fences, after.lines - c.lines), if coherent { (0, 0) } else { (2, 16) });
        b.paging.unmap(&b.host, Range::new(0, PAGE - 1).unwrap()).unwrap();
        b.end();
    }
}

fn the_best_sizes_are_taken<F: Kind>() {
    let mut b = Bench::<F>::new(4, PageSizes::all(), true, 1);
    let at = G1 - M2 - PAGE;
    b.paging.map(&b.host, Iova::at(at), Hpa::new(8 * G1 + at).unwrap(), PAGE + M2 + G1 + M2 + PAGE, RW).unwrap();
    let size = |at| b.paging.translate(&b.host, Iova::at(at)).map(|t| t.1);
    assert_eq!([at, at + PAGE, G1, 2 * G1, 2 * G1 + M2].map(size), [PAGE, M2, G1, M2, PAGE].map(Some));
    assert_eq!((size(at - 1), size(2 * G1 + M2 + PAGE)), (None, None));
}

#[test]
fn what_cannot_be_mapped_is_refused_by_name() {
    let host = Host::new();
    let format = SecondStage::new(3, PageSizes::all(), false, false, true).unwrap();
    let limits = Limits { input: 38, output: 40, coherent: true, node: None };
    let mut paging = Paging::new(&host, format, limits).unwrap();
    let mut map = |at: u64, to: u64, len: u64, how| {
        paging
            .map(&host, Iova::at(at), Hpa::new(to).unwrap(), len, how)
            .map_err(|e| (e.error.why, e.error.at.get(), e.stale))
    };
    let top = 1u64 << 38;
    assert_eq!(map(1, 0, PAGE, RW), Err((MapWhy::Alignment, 1, None)));
    assert_eq!(map(0, 1, PAGE, RW), Err((MapWhy::Alignment, 0, None)));
    assert_eq!(map(0, 0, 0, RW), Err((MapWhy::Alignment, 0, None)));
    assert_eq!(map(0, 0, 100, RW), Err((MapWhy::Alignment, 0, None)));
    assert_eq!(map(0, 0, PAGE, Access::empty()), Err((MapWhy::Access, 0, None)));
    assert_eq!(map(top, 0, PAGE, RW), Err((MapWhy::Width, top, None)));
    assert_eq!(map(top - PAGE, 0, 2 * PAGE, RW), Err((MapWhy::Width, top - PAGE, None)));
    assert_eq!(map(0, (1 << 40) - PAGE, 2 * PAGE, RW), Err((MapWhy::Width, 0, None)));
    assert_eq!(map(PAGE, 0, !(PAGE - 1), RW), Err((MapWhy::Width, PAGE, None)));
    assert_eq!(map(!(PAGE - 1), 0, PAGE, RW), Err((MapWhy::Width, !(PAGE - 1), None)));
    for at in [0xfee0_0000, 0xfeef_f000, 0xfedf_f000] {
        assert_eq!(map(at, 0, 2 * PAGE, RW), Err((MapWhy::InterruptRange, at, None)));
        assert_eq!(map(0, at, 2 * PAGE, RW), Err((MapWhy::InterruptRange, 0, None)));
    }
    assert_eq!(map(0xfedf_f000, 0xfef0_0000, PAGE, RW), Ok(()));
    assert_eq!(map(0xfef0_0000, 0xfedf_f000, PAGE, RW), Ok(()));
    assert_eq!(map(top - PAGE, (1 << 40) - PAGE, PAGE, RW), Ok(()));
    assert_eq!(map(top - M2, 0, M2, RW), Err((MapWhy::Mapped, top - PAGE, None)));
    // Nothing that failed before it stored left a table.
    assert_eq!(host.counts().frames, 6);
    let range = |a, b| Range::new(a, b).unwrap();
    let why = |r: Result<Stale, Failed>| r.map_err(|e| e.error.why);
    assert_eq!(why(paging.unmap(&host, range(0, 100))), Err(MapWhy::Alignment));
    assert_eq!(why(paging.unmap(&host, range(0, top * 2 - 1))), Err(MapWhy::Width));
    assert_eq!(why(paging.unmap(&host, range(0, PAGE - 1))), Err(MapWhy::NotMapped));
    assert_eq!(paging.translate(&host, Iova::at(top)), None);
    assert_eq!(paging.translate(&host, Iova::at(u64::MAX)), None);
    paging.into_freed(&host).release(&host);
    assert_eq!(host.counts().frames, 0);
}

/// The other half begins where the sign bit is set; what is between is no address.
#[test]
fn canonical_addresses_come_in_two_halves() {
    for (levels, sign) in [(4, 47), (5, 56)] {
        let host = Host::new();
        let format = FirstStage::new(levels, PageSizes::all(), true, false).unwrap();
        let limits = Limits { input: 64, output: 46, coherent: true, node: None };
        let mut paging = Paging::new(&host, format, limits).unwrap();
        let (low, high) = ((1u64 << sign) - PAGE, u64::MAX << sign);
        assert_eq!(paging.last().get(), (1 << sign) - 1);
        let to = |n: u64| Hpa::new(n << 12).unwrap();
        for (n, at) in [(1, 0), (2, low), (3, high), (4, u64::MAX - (PAGE - 1)), (5, high + 0xfee0_0000)] {
            paging.map(&host, Iova::at(at), to(n), PAGE, RW).unwrap();
            let read = |at| host.read(at);
            let (root, last) = (paging.root(&host).get(), at + (PAGE - 1));
            assert_eq!(walk::<FirstStage>(&read, root, levels, last), Ok(Some(((n << 12) + 0xfff, RW))));
            assert_eq!(paging.translate(&host, Iova::at(at)), Some((to(n), PAGE, RW)));
        }
        // Each in both halves and across the hole; the error tells the address as it was given.
        let gone = [(low + PAGE, PAGE), (high - PAGE, PAGE), (low, 2 * PAGE), (high - PAGE, 2 * PAGE), (1 << 63, PAGE)];
        for (at, len) in gone {
            let e = paging.map(&host, Iova::at(at), to(9), len, RW).unwrap_err();
            assert_eq!((e.error.why, e.error.at.get()), (MapWhy::Width, at));
            let e = paging.unmap(&host, Range::new(at, at + (len - 1)).unwrap()).unwrap_err();
            assert_eq!((e.error.why, e.error.at.get()), (MapWhy::Width, at));
        }
        assert_eq!(paging.translate(&host, Iova::at(high - 1)), None);
        assert!(paging.unmap(&host, Range::new(0, u64::MAX).unwrap()).is_err());
        let e = paging.map(&host, Iova::at(high), to(9), M2, RW).unwrap_err();
        assert_eq!((e.error.why, e.error.at.get()), (MapWhy::Mapped, high));
        let top = Range::new(u64::MAX - (PAGE - 1), u64::MAX).unwrap();
        let e = paging.map(&host, Iova::at(top.first.get() - PAGE), to(9), 2 * PAGE, Access::READ).unwrap_err();
        assert_eq!((e.error.why, e.error.at.get()), (MapWhy::Mapped, top.first.get()));
        // Its table goes with it, and so does all that led there alone.
        let stale = paging.unmap(&host, top).unwrap();
        assert_eq!((stale.range.last.get(), stale.leaf_only), (u64::MAX, false));
        assert_eq!(stale.range.first.get(), u64::MAX - (size(levels) - 1));
        // CAP.MGAW ends the addresses to hand out early.
        let limits = Limits { input: 39, output: 46, coherent: true, node: None };
        let narrow = Paging::new(&host, format, limits).unwrap();
        assert_eq!(narrow.last().get(), (1 << 39) - 1);
    }
}

#[test]
fn the_first_stage_has_no_writes_without_reads() {
    let host = Host::new();
    let limits = Limits { input: 64, output: 46, coherent: true, node: None };
    let mut paging = Paging::new(&host, FirstStage::new(4, PageSizes::all(), true, false).unwrap(), limits).unwrap();
    let page = Range::new(PAGE, 2 * PAGE - 1).unwrap();
    for how in [Access::WRITE, Access::empty(), Access::PRIVILEGED | Access::WRITE] {
        let e = paging.map(&host, page.first, Hpa::new(0).unwrap(), PAGE, how).unwrap_err();
        assert_eq!((e.error.why, e.error.at), (MapWhy::Access, page.first));
    }
    paging.map(&host, page.first, Hpa::new(0).unwrap(), PAGE, Access::READ).unwrap();
    assert_eq!(paging.protect(&host, page, Access::WRITE).unwrap_err().error.why, MapWhy::Access);
    let how = Access::READ | Access::PRIVILEGED | Access::GLOBAL;
    assert_eq!(paging.protect(&host, page, how), Ok(Some(Stale { range: page, leaf_only: true })));
    assert_eq!(paging.translate(&host, page.first).map(|t| t.2), Some(how));
}
