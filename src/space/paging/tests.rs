//! The engine over both formats against a plain model: the bench, on which the tests below work.

mod changes;
mod dirty;
mod way;

use super::engine::{Limits, Paging, Stale};
use super::first::FirstStage;
use super::format::Format;
use super::second::SecondStage;
use super::{Access, PageSizes};
use crate::host::address::{Hpa, INTERRUPT_RANGE, Iova, PAGE, Range};
use crate::host::error::MapWhy;
use crate::host::mem::FreedTables;
use crate::host::testing::Host;
use std::collections::BTreeMap;
use std::vec::Vec;

const M2: u64 = 2 << 20;
const G1: u64 = 1 << 30;
const RW: Access = Access::all();

/// What the tests know of a format, from the specification alone.
trait Kind: Format + 'static {
    const DEPTHS: &'static [u8];
    /// Rights that can be asked for, the usual ones first.
    const RIGHTS: [Access; 4];
    /// What makes an entry present.
    const PRESENT: u64;
    /// What an entry says, marks and page size apart.
    const MEANING: u64;
    const ACCESSED: u64;
    const DIRTY: u64;
    fn make(levels: u8, sizes: PageSizes, coherent: bool, seed: u64) -> Self;
    fn rights(leaf: u64) -> Access;
    /// Bits that have to be zero in a present entry.
    fn reserved(level: u8, leaf: bool) -> u64;

    /// An address as hardware wants to have it, of the bits that the tables translate.
    fn whole(levels: u8, at: u64) -> u64 {
        let unused = 64 - (12 + 9 * u32::from(levels));
        if Self::CANONICAL { ((at << unused) as i64 >> unused) as u64 } else { at }
    }
}

impl Kind for SecondStage {
    const DEPTHS: &'static [u8] = &[3, 4, 5];
    const RIGHTS: [Access; 4] = [RW, RW, Access::READ, Access::WRITE];
    const PRESENT: u64 = 3;
    const MEANING: u64 = ADDRESS | 0x803;
    const ACCESSED: u64 = 1 << 8;
    const DIRTY: u64 = 1 << 9;
    fn make(levels: u8, sizes: PageSizes, coherent: bool, seed: u64) -> Self {
        SecondStage::new(levels, sizes, seed & 1 == 0, seed & 6 == 0, coherent).unwrap()
    }
    fn rights(leaf: u64) -> Access {
        Access::from_bits_truncate(leaf as u8 & 3)
    }
    fn reserved(level: u8, leaf: bool) -> u64 {
        1 << 62 | if level > 3 { 0x80 } else { 0 } | if leaf { 0 } else { 0x800 }
    }
}

impl Kind for FirstStage {
    const DEPTHS: &'static [u8] = &[4, 5];
    const RIGHTS: [Access; 4] =
        [RW, RW.union(Access::GLOBAL).union(Access::NO_EXECUTE), Access::READ, Access::READ.union(Access::PRIVILEGED)];
    const PRESENT: u64 = 1;
    const MEANING: u64 = ADDRESS | 7;
    const ACCESSED: u64 = 1 << 5;
    const DIRTY: u64 = 1 << 6;
    fn make(levels: u8, sizes: PageSizes, coherent: bool, seed: u64) -> Self {
        FirstStage::new(levels, sizes, coherent, seed & 1 == 0).unwrap()
    }
    fn rights(leaf: u64) -> Access {
        let mut how = Access::READ;
        for (bit, value, name) in
            [(1, 1, Access::WRITE), (2, 0, Access::PRIVILEGED), (8, 1, Access::GLOBAL), (63, 1, Access::NO_EXECUTE)]
        {
            if leaf >> bit & 1 == value {
                how |= name;
            }
        }
        how
    }
    fn reserved(level: u8, leaf: bool) -> u64 {
        match level {
            4.. => 0x80,
            2 | 3 if leaf => (1 << (3 + 9 * u32::from(level))) - (1 << 12),
            _ => 0,
        }
    }
}

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

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

/// Where a walk led, or the address that it took for a table.
type Seen = Result<Option<(u64, Access)>, u64>;

/// Bytes that an entry of this level maps.
fn size(level: u8) -> u64 {
    1 << (3 + 9 * u32::from(level))
}

/// Walks as hardware does, with nothing but the root and the bits of the specification. `Err`: a table that is none.
fn walk<F: Kind>(read: &dyn Fn(u64) -> Option<u64>, root: u64, levels: u8, at: u64) -> Seen {
    let path = path::<F>(read, root, levels, at)?;
    for table in path.iter().filter(|e| !e.leaf) {
        assert_eq!(F::rights(table.entry), RW, "a table that grants less than its leaves may");
    }
    let leaf = path.last().filter(|e| e.leaf);
    Ok(leaf.map(|e| ((e.entry & ADDRESS) + (at & (size(e.level) - 1)), F::rights(e.entry))))
}

/// A present entry on the way to an address.
#[derive(Clone, Copy)]
struct Step {
    level: u8,
    entry: u64,
    leaf: bool,
    /// Where it is.
    at: u64,
}

/// The present entries on the way to `at`.
fn path<F: Kind>(read: &dyn Fn(u64) -> Option<u64>, root: u64, levels: u8, at: u64) -> Result<Vec<Step>, u64> {
    let (mut table, mut seen) = (root, Vec::new());
    for level in (1..=levels).rev() {
        let i = at >> (3 + 9 * u32::from(level)) & 511;
        let entry = read(table + i * 8).ok_or(table)?;
        if entry & F::PRESENT == 0 {
            break;
        }
        let leaf = level == 1 || entry & 0x80 != 0;
        assert!(entry & F::reserved(level, leaf) == 0, "reserved bits in {entry:#x}");
        seen.push(Step { level, entry, leaf, at: table + i * 8 });
        if leaf {
            break;
        }
        table = entry & ADDRESS;
    }
    Ok(seen)
}

/// Every table: how many there are, and what their leaves map. Checks that no table but the root is empty.
fn survey<F: Kind>(host: &Host, root: u64, levels: u8, base: u64, out: &mut Vec<(u64, u64, u64, Access)>) -> u64 {
    let mut tables = 1;
    for i in 0..512 {
        let entry = host.read(root + i * 8).expect("a live table");
        let at = base + i * size(levels);
        let to = entry & ADDRESS;
        if entry & F::PRESENT == 0 {
            assert_eq!(entry, 0, "an entry that is neither empty nor visible");
        } else if levels == 1 || entry & 0x80 != 0 {
            assert_eq!(entry & F::MARK, 0);
            out.push((at, at + (size(levels) - 1), to, F::rights(entry)));
        } else {
            let before = out.len();
            tables += survey::<F>(host, to, levels - 1, at, out);
            assert!(out.len() > before, "an empty table at {at:#x}");
        }
    }
    tables
}

/// An address space, its model, and the freed tables that wait for a flush.
struct Bench<F: Kind> {
    host: Host,
    paging: Paging<F>,
    model: Model,
    freed: FreedTables,
    levels: u8,
    random: Random,
}

const OUTPUT: u8 = 46;

impl<F: Kind> Bench<F> {
    fn new(levels: u8, sizes: PageSizes, coherent: bool, seed: u64) -> Self {
        let host = if coherent { Host::new() } else { Host::incoherent() };
        let format = F::make(levels, sizes, coherent, seed);
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
        let at = base + near(r, 512) * M2 + if r.one_in(3) { 0 } else { near(r, 512) * PAGE };
        if F::CANONICAL && r.one_in(2) { at | self.upper() } else { at }
    }

    /// Where the upper half begins.
    fn upper(&self) -> u64 {
        u64::MAX << (11 + 9 * self.levels)
    }

    /// The last address of the half that `at` is in.
    fn end_of(&self, at: u64) -> u64 {
        if at > self.paging.last().get() { u64::MAX } else { self.paging.last().get() }
    }

    /// Whether hardware takes the address.
    fn valid(&self, at: u64) -> bool {
        at <= self.paging.last().get() || F::CANONICAL && at >= self.upper()
    }

    /// A range and what it could lead to.
    fn range(&mut self) -> (u64, u64, u64) {
        let at = self.address();
        let end = self.end_of(at);
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
        let len = len.min((end - at).saturating_add(1));
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
        let last = at + (len - 1);
        let how = F::RIGHTS[self.random.below(4) as usize];
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
        for probe in [at, last & !(PAGE - 1), at.wrapping_sub(PAGE), last.wrapping_add(1), at + self.random.below(len)]
        {
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
        let tables = survey::<F>(&self.host, self.root(), self.levels, 0, &mut leaves);
        assert_eq!(tables, self.host.counts().frames, "a table leaked");
        let mut rest = self.model.clone();
        for (first, last, to, how) in leaves {
            let (first, last) = (F::whole(self.levels, first), F::whole(self.levels, last));
            let mut runs = rest.take(first, last);
            runs.sort_unstable_by_key(|r| r.0);
            let mut next = first;
            for (f, l, t, h) in runs {
                assert_eq!((f, t, h), (next, to + (f - first), how));
                next = l.wrapping_add(1);
            }
            assert_eq!(next, last.wrapping_add(1));
        }
        assert!(rest.0.is_empty(), "mapped in the model alone: {:x?}", rest.0);
    }

    /// What hardware reads on the way to `at`.
    fn path(&self, at: u64) -> Vec<Step> {
        path::<F>(&|at| self.host.read(at), self.root(), self.levels, at).unwrap()
    }

    /// Hardware uses the way to `at`, and writes to the page if it finds one: it sets the bits that it sets. Says which
    /// addresses the page has.
    fn used(&self, at: u64) -> Option<(u64, u64)> {
        let mut page = None;
        for e in self.path(at) {
            if self.paging.format().live() {
                self.host.hardware_or(e.at, F::ACCESSED | if e.leaf { F::DIRTY } else { 0 });
            }
            page = e.leaf.then(|| (at & !(size(e.level) - 1), at | (size(e.level) - 1)));
        }
        page
    }

    /// The end: everything unmapped, one table left, then none.
    fn end(mut self) {
        let mut any = false;
        for first in [0, self.upper()] {
            if self.valid(first) {
                let half = Range::new(first, self.end_of(first)).unwrap();
                any |= self.paging.unmap(&self.host, half).is_ok();
            }
        }
        assert_eq!(any, !self.model.0.is_empty());
        self.flush();
        assert_eq!(self.host.counts().frames, 1);
        self.paging.into_freed(&self.host).release(&self.host);
        assert_eq!(self.host.counts().frames, 0);
    }
}

/// Every depth with every set of page sizes.
fn kinds<F: Kind>() -> impl Iterator<Item = (u8, PageSizes)> {
    F::DEPTHS.iter().flat_map(|levels| (0..4).map(move |s| (*levels, PageSizes::from_bits_truncate(s))))
}

/// A test for each format.
macro_rules! both {
    ($($test:ident)*) => {$(
        mod $test {
            use super::{FirstStage, SecondStage};

            #[test]
            fn second_stage() {
                super::$test::<SecondStage>();
            }

            #[test]
            fn first_stage() {
                super::$test::<FirstStage>();
            }
        }
    )*};
}
use both;
