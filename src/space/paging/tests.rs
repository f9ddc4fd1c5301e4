//! The engine against a plain model, and against what hardware may see between any two stores and keep in its caches.

use super::engine::{Failed, Limits, Paging, Stale};
use super::format::Format;
use super::second::SecondStage;
use super::{Access, PageSizes};
use crate::host::address::{Hpa, INTERRUPT_RANGE, Iova, PAGE, Range};
use crate::host::error::MapWhy;
use crate::host::mem::{FreedTables, Links};
use crate::host::testing::{Host, watch};
use std::boxed::Box;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::vec::Vec;

const M2: u64 = 2 << 20;
const G1: u64 = 1 << 30;
const RW: Access = Access::all();

/// How many random operations a test does: `VTD_SCALE` per cent of `n`.
fn scaled(n: u64) -> u64 {
    let percent = std::env::var("VTD_SCALE").ok().and_then(|v| v.parse().ok()).unwrap_or(100);
    (n * percent / 100).max(1)
}

/// xorshift64*: the same numbers in every run.
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// What is mapped: first address -> (last, to, rights), apart from page sizes.
#[derive(Clone, Default)]
struct Model(BTreeMap<u64, (u64, u64, Access)>);

impl Model {
    fn at(&self, at: u64) -> Option<(u64, Access)> {
        let (first, &(last, to, how)) = self.0.range(..=at).next_back()?;
        (at <= last).then(|| (to + (at - first), how))
    }

    /// The first mapped address of a range.
    fn first_in(&self, first: u64, last: u64) -> Option<u64> {
        if self.at(first).is_some() {
            return Some(first);
        }
        self.0.range(first..=last).next().map(|(a, _)| *a)
    }

    fn map(&mut self, first: u64, last: u64, to: u64, how: Access) {
        self.0.insert(first, (last, to, how));
    }

    /// Takes the range out, and gives what was there.
    fn take(&mut self, first: u64, last: u64) -> Vec<(u64, u64, u64, Access)> {
        let mut taken = Vec::new();
        while let Some((&f, &(l, to, how))) = self.0.range(..=last).next_back().filter(|(_, e)| e.0 >= first) {
            self.0.remove(&f);
            if f < first {
                self.0.insert(f, (first - 1, to, how));
            }
            if l > last {
                self.0.insert(last + 1, (l, to + (last + 1 - f), how));
            }
            let (a, b) = (f.max(first), l.min(last));
            taken.push((a, b, to + (a - f), how));
        }
        taken
    }
}

/// Walks as hardware does, with nothing but the root and the bits of the specification. `Err`: a table that is none.
fn walk(read: &dyn Fn(u64) -> Option<u64>, root: u64, levels: u8, at: u64) -> Seen {
    Ok(path(read, root, levels, at)?.last().filter(|e| e.2).map(|&(level, entry, _)| {
        let mask = (1u64 << (3 + 9 * u32::from(level))) - 1;
        ((entry & 0x000f_ffff_ffff_f000) + (at & mask), Access::from_bits_truncate(entry as u8 & 3))
    }))
}

/// The present entries on the way to `at`: level, entry, whether it is a leaf.
fn path(read: &dyn Fn(u64) -> Option<u64>, root: u64, levels: u8, at: u64) -> Result<Vec<(u8, u64, bool)>, u64> {
    let (mut table, mut seen) = (root, Vec::new());
    for level in (1..=levels).rev() {
        let i = at >> (3 + 9 * u32::from(level)) & 511;
        let entry = read(table + i * 8).ok_or(table)?;
        if entry & 3 == 0 {
            break;
        }
        assert!(entry & 1 << 62 == 0 && (level <= 3 || entry & 0x80 == 0), "reserved bits in {entry:#x}");
        let leaf = level == 1 || entry & 0x80 != 0;
        assert!(leaf || entry & 0x800 == 0, "reserved bit 11 in {entry:#x}");
        seen.push((level, entry, leaf));
        if leaf {
            break;
        }
        table = entry & 0x000f_ffff_ffff_f000;
    }
    Ok(seen)
}

/// Every table: how many there are, and what their leaves map. Checks that no table but the root is empty.
fn survey(host: &Host, root: u64, levels: u8, base: u64, out: &mut Vec<(u64, u64, u64, Access)>) -> u64 {
    let mut tables = 1;
    for i in 0..512 {
        let entry = host.read(root + i * 8).expect("a live table");
        let size = 1u64 << (3 + 9 * u32::from(levels));
        let at = base + i * size;
        let to = entry & 0x000f_ffff_ffff_f000;
        if entry & 3 == 0 {
            assert_eq!(entry, 0, "an entry that is neither empty nor visible");
        } else if levels == 1 || entry & 0x80 != 0 {
            assert_eq!(entry & SecondStage::MARK, 0);
            out.push((at, at + (size - 1), to, Access::from_bits_truncate(entry as u8 & 3)));
        } else {
            let before = out.len();
            tables += survey(host, to, levels - 1, at, out);
            assert!(out.len() > before, "an empty table at {at:#x}");
        }
    }
    tables
}

/// An address space, its model, and the freed tables that wait for a flush.
struct Bench {
    host: Host,
    paging: Paging<SecondStage>,
    model: Model,
    freed: FreedTables,
    levels: u8,
    random: Random,
}

const OUTPUT: u8 = 46;

impl Bench {
    fn new(levels: u8, sizes: PageSizes, coherent: bool, seed: u64) -> Self {
        let host = if coherent { Host::new() } else { Host::incoherent() };
        let format = SecondStage::new(levels, sizes, seed & 1 == 0, seed & 6 == 0, coherent).unwrap();
        let limits = Limits { input: 64, output: OUTPUT, coherent, node: None };
        let paging = Paging::new(&host, format, limits).unwrap();
        Bench { host, paging, model: Model::default(), freed: FreedTables::new(), levels, random: Random(seed | 1) }
    }

    fn root(&self) -> u64 {
        self.paging.root(&self.host).get()
    }

    /// An address where the interesting things are close together: ends of tables of every level.
    fn address(&mut self) -> u64 {
        let r = &mut self.random;
        let top = self.paging.last().get() + 1;
        let regions = [0, 3 * G1, top / 2 - 2 * G1, top / 4 - G1, top - 4 * G1];
        let base = regions[r.below(5) as usize] + r.below(4) * G1;
        let near = |r: &mut Random, n: u64| [0, 1, 2, n / 2, n - 2, n - 1][r.below(6) as usize];
        base + near(r, 512) * M2 + if r.one_in(3) { 0 } else { near(r, 512) * PAGE }
    }

    /// A range and what it could lead to.
    fn range(&mut self) -> (u64, u64, u64) {
        let at = self.address();
        let r = &mut self.random;
        let alignment = r.below(4);
        // Much memory in small pages only now and then.
        let large = self.paging.format().sizes().contains(PageSizes::SIZE_2M) && alignment < 2 || r.one_in(64);
        let len = match r.below(8) {
            0 => M2,
            1 => (1 + r.below(3)) * M2 + r.below(3) * PAGE,
            2 if large => G1,
            3 if large => (1 + r.below(2)) * G1 + r.below(3) * M2,
            4 => (500 + r.below(30)) * PAGE,
            _ => (1 + r.below(20)) * PAGE,
        };
        let len = len.min(self.paging.last().get() - at + 1);
        let to = match alignment {
            0 => at % G1,
            1 => at % M2 + r.below(1 << 10) * M2,
            _ => r.below(1 << 20) * PAGE,
        };
        (at, len, to + 8 * G1 + r.below(64) * G1)
    }

    /// One random operation on both, results compared; what is stale.
    fn step(&mut self) -> Option<Stale> {
        let (at, len, to) = self.range();
        let last = at + len - 1;
        let how = [RW, RW, Access::READ, Access::WRITE][self.random.below(4) as usize];
        let kind = self.random.below(16);
        let stale = match kind {
            0..7 => {
                let done = self.paging.map(&self.host, Iova::at(at), Hpa::new(to).unwrap(), len, how);
                let taken = self.model.first_in(at, last);
                let range = Range::new(at, last).unwrap();
                match done {
                    Ok(()) => {
                        assert!(taken.is_none(), "{range}: mapped over {taken:x?}");
                        self.model.map(at, last, to, how);
                        None
                    }
                    Err(e) if e.error.why == MapWhy::InterruptRange => {
                        assert!(range.overlaps(&INTERRUPT_RANGE));
                        assert_eq!(e.stale, None);
                        None
                    }
                    Err(e) => {
                        assert_eq!((e.error.why, Some(e.error.at.get())), (MapWhy::Mapped, taken), "{range}");
                        e.stale
                    }
                }
            }
            7..14 => {
                let done = self.paging.unmap(&self.host, Range::new(at, last).unwrap());
                let taken = self.model.take(at, last);
                assert_eq!(
                    done.map_err(|e| (e.error.why, e.stale)).err(),
                    taken.is_empty().then_some((MapWhy::NotMapped, None))
                );
                for (first, last, ..) in taken {
                    assert!(done.unwrap().range.contains(&Range::new(first, last).unwrap()));
                }
                done.ok()
            }
            _ => {
                let done = self.paging.protect(&self.host, Range::new(at, last).unwrap(), how);
                let taken = self.model.take(at, last);
                assert_eq!(
                    done.map_err(|e| (e.error.why, e.stale)).err(),
                    taken.is_empty().then_some((MapWhy::NotMapped, None))
                );
                for (first, last, to, was) in taken {
                    self.model.map(first, last, to, how);
                    let changed = done.unwrap().is_some_and(|s| s.range.contains(&Range::new(first, last).unwrap()));
                    assert!(changed || was == how);
                }
                done.ok().flatten()
            }
        };
        for probe in [at, last & !(PAGE - 1), at.wrapping_sub(PAGE), last + 1, at + self.random.below(len)] {
            self.probe(probe);
        }
        let probe = self.address();
        self.probe(probe);
        stale
    }

    fn probe(&self, at: u64) {
        let got = self.paging.translate(&self.host, Iova::at(at)).map(|(to, _, how)| (to.get(), how));
        assert_eq!(got, self.model.at(at), "at {at:#x}");
    }

    fn flush(&mut self) {
        self.freed.append(self.paging.take_freed());
        core::mem::replace(&mut self.freed, FreedTables::new()).release(&self.host);
    }

    /// Everything, table by table.
    fn survey(&mut self) {
        self.flush();
        let mut leaves = Vec::new();
        let tables = survey(&self.host, self.root(), self.levels, 0, &mut leaves);
        assert_eq!(tables, self.host.counts().frames, "a table leaked");
        let mut rest = self.model.clone();
        for (first, last, to, how) in leaves {
            let mut runs = rest.take(first, last);
            runs.sort_unstable_by_key(|r| r.0);
            let mut next = first;
            for (f, l, t, h) in runs {
                assert_eq!((f, t, h), (next, to + (f - first), how));
                next = l + 1;
            }
            assert_eq!(next, last + 1);
        }
        assert!(rest.0.is_empty(), "mapped in the model alone: {:x?}", rest.0);
    }

    /// The end: everything unmapped, one table left, then none.
    fn end(mut self) {
        let all = Range::new(0, self.paging.last().get()).unwrap();
        let done = self.paging.unmap(&self.host, all);
        assert_eq!(done.is_ok(), !self.model.0.is_empty());
        self.flush();
        assert_eq!(self.host.counts().frames, 1);
        self.paging.into_freed(&self.host).release(&self.host);
        assert_eq!(self.host.counts().frames, 0);
    }
}

/// Every depth with every set of page sizes.
fn kinds() -> impl Iterator<Item = (u8, PageSizes)> {
    [3, 4, 5].into_iter().flat_map(|levels| (0..4).map(move |s| (levels, PageSizes::from_bits_truncate(s))))
}

#[test]
fn random_operations_agree_with_a_plain_model() {
    for (i, (levels, sizes)) in kinds().enumerate() {
        let mut b = Bench::new(levels, sizes, true, 0x1234_5678 + i as u64);
        // What the unit keeps in its caches: level, first address, entry, leaf. An invalidation drops what it covers whole.
        let mut cached: Vec<(u8, u64, u64, bool)> = Vec::new();
        for n in 0..scaled(150_000) {
            let stale = b.step();
            if let Some(stale) = stale {
                cached.retain(|&(level, first, _, leaf)| {
                    let span = (1u64 << (3 + 9 * u32::from(level))) - 1;
                    let covered = stale.range.contains(&Range::new(first, first + span).unwrap());
                    !(covered && (leaf || !stale.leaf_only))
                });
            }
            if n % 16 == 0 {
                let read = |at| b.host.read(at);
                for &(level, first, entry, _) in &cached {
                    let now = path(&read, b.paging.root(&b.host).get(), levels, first).unwrap();
                    let same = now.iter().any(|e| e.0 == level && (e.1 ^ entry) & 0x000f_ffff_ffff_f803 == 0);
                    assert!(same, "stale in the caches: level {level} at {first:#x}: {entry:#x}");
                }
                if cached.len() > 40 {
                    cached.clear();
                }
                let at = match b.model.0.iter().nth(b.random.below(30) as usize) {
                    Some((first, _)) if n % 32 == 0 => *first,
                    _ => b.address(),
                };
                for (level, entry, leaf) in path(&|at| b.host.read(at), b.root(), levels, at).unwrap() {
                    cached.push((level, at >> (3 + 9 * u32::from(level)) << (3 + 9 * u32::from(level)), entry, leaf));
                }
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

/// Where a walk led, or the address that it took for a table.
type Seen = Result<Option<(u64, Access)>, u64>;

/// What hardware may see while an operation runs.
struct Watch {
    host: Host,
    root: u64,
    levels: u8,
    random: Random,
    coherent: bool,
    probes: Vec<u64>,
    /// Per probe, every translation seen.
    seen: Vec<Vec<Seen>>,
    stores: u64,
}

impl Watch {
    fn look(&mut self) {
        self.stores += 1;
        for (i, &at) in self.probes.iter().enumerate() {
            // Lines of a device that does not snoop may have left the caches early, one and not another.
            let mix = RefCell::new(self.random.clone());
            let read = |at| match !self.coherent && mix.borrow_mut().one_in(2) {
                true => self.host.read_memory(at),
                false => self.host.read(at),
            };
            let got = walk(&read, self.root, self.levels, at);
            self.random = mix.into_inner();
            if !self.seen[i].contains(&got) {
                self.seen[i].push(got);
            }
        }
    }
}

/// Looks at `probes` after every store of `body`.
fn watched(b: &mut Bench, probes: Vec<u64>, coherent: bool, body: impl FnOnce(&mut Bench)) -> Watch {
    let seen = std::vec![Vec::new(); probes.len()];
    let (host, root, levels, random) = (b.host.clone(), b.root(), b.levels, b.random.clone());
    let w = Rc::new(RefCell::new(Watch { host, root, levels, random, coherent, probes, seen, stores: 0 }));
    let inner = w.clone();
    watch(move || inner.borrow_mut().look(), || body(b));
    Rc::into_inner(w).unwrap().into_inner()
}

fn old_or_new(coherent: bool, ops: u64) {
    for (i, (levels, sizes)) in kinds().enumerate() {
        let mut b = Bench::new(levels, sizes, coherent, 0x77 + i as u64);
        for n in 0..scaled(ops) {
            let mut probes = Vec::new();
            // The operation to come, known by a clone of its numbers.
            let ahead = b.random.clone();
            let (at, len, _) = b.range();
            b.random = ahead;
            for _ in 0..2 {
                let inside = at + b.random.clone().below(len);
                probes.extend([at, at + len - 1, at.wrapping_sub(1), at + len, inside, b.address()]);
            }
            probes.retain(|at| *at <= b.paging.last().get());
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
                let memory = walk(&|at| b.host.read_memory(at), b.root(), levels, *at);
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

#[test]
fn hardware_that_looks_between_two_stores_sees_old_or_new() {
    old_or_new(true, 1500);
}

#[test]
fn hardware_that_does_not_snoop_sees_old_or_new() {
    old_or_new(false, 1500);
}

#[test]
fn a_split_changes_nothing_for_the_rest_of_the_page() {
    for coherent in [true, false] {
        let mut b = Bench::new(4, PageSizes::all(), coherent, 1);
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

#[test]
fn accessed_and_dirty_survive_a_split_and_a_change_of_rights() {
    let mut b = Bench::new(3, PageSizes::all(), true, 3);
    b.paging.map(&b.host, Iova::at(0), Hpa::new(G1).unwrap(), M2, RW).unwrap();
    // As hardware would, in the leaf at the root's first table.
    let leaf = path(&|at| b.host.read(at), b.root(), 3, 0).unwrap()[0].1 & 0x000f_ffff_ffff_f000;
    b.host.hardware_or(leaf, 0x300);
    b.paging.protect(&b.host, Range::new(PAGE, 2 * PAGE - 1).unwrap(), Access::READ).unwrap();
    for (at, rights) in [(0, 3), (PAGE, 1), (2 * PAGE, 3)] {
        let entry = path(&|at| b.host.read(at), b.root(), 3, at).unwrap()[2].1;
        assert_eq!(entry & 0x383, 0x300 | rights);
    }
}

#[test]
fn every_allocation_may_fail_and_leaves_nothing_behind() {
    for coherent in [true, false] {
        let page = |at, n| Range::new(at, at + n * PAGE - 1).unwrap();
        type Op = Box<dyn Fn(&mut Bench) -> Result<(), Failed>>;
        let to = |at: u64| Hpa::new(at).unwrap();
        let ops: Vec<Op> = std::vec![
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
                let mut b = Bench::new(4, PageSizes::all(), coherent, 1);
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
        assert!(
            Paging::new(&host, SecondStage::new(4, PageSizes::all(), false, false, true).unwrap(), limits).is_err()
        );
    }
}

#[test]
fn bulk_operations_store_flush_and_fence_as_little_as_can_be() {
    let gib = Range::new(5 * G1, 6 * G1 - 1).unwrap();
    for coherent in [true, false] {
        let mut b = Bench::new(4, PageSizes::all(), coherent, 1);
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

#[test]
fn the_best_sizes_are_taken() {
    let mut b = Bench::new(4, PageSizes::all(), true, 1);
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
