//! What units see of memory without snooping: the CPUs' caches, and the chipset's write buffers (6.8, ECAP.C, CAP.RWBF).
//!
//! Memory itself always shows what CPUs have stored. Here stands, line by line, what has not left them yet: the content that
//! a read without snooping still gets. A line leaves the caches when it is flushed and a fence follows, or, where a test asks
//! for it, at random on its own. On units with RWBF it then waits in the write buffers until they are flushed.

use crate::memory::Memory;
use crate::random::Random;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

const LINE: u64 = 64;
const PAGE: u64 = 4096;

/// What fresh memory may look like behind the caches: present, permitting, and leading nowhere.
pub(crate) const GARBAGE: u64 = 0x000f_dead_beef_d003;

type Line = [u64; 8];

/// The old content of some lines.
#[derive(Clone, Debug, Default)]
struct Old {
    pages: BTreeMap<u64, OldPage>,
}

#[derive(Clone, Debug)]
struct OldPage {
    /// Which of the page's 64 lines.
    lines: u64,
    words: Box<[u64; 512]>,
}

fn page_of(at: u64) -> u64 {
    at & !(PAGE - 1)
}

fn line_of(at: u64) -> u64 {
    at & !(LINE - 1)
}

/// The bit of a line in its page.
fn bit(at: u64) -> u64 {
    1 << (at % PAGE / LINE)
}

fn word(at: u64) -> usize {
    (at % PAGE / 8) as usize
}

impl Old {
    fn get(&self, at: u64) -> Option<u64> {
        let page = self.pages.get(&page_of(at))?;
        (page.lines & bit(at) != 0).then(|| page.words[word(at)])
    }
    fn line(&self, at: u64) -> Option<Line> {
        let page = self.pages.get(&page_of(at))?;
        let first = word(line_of(at));
        (page.lines & bit(at) != 0).then(|| core::array::from_fn(|n| page.words[first + n]))
    }
    fn has(&self, at: u64) -> bool {
        self.pages.get(&page_of(at)).is_some_and(|p| p.lines & bit(at) != 0)
    }
    fn set(&mut self, at: u64, line: &Line) {
        let page = self.pages.entry(page_of(at)).or_insert_with(|| OldPage { lines: 0, words: Box::new([0; 512]) });
        page.lines |= bit(at);
        let first = word(line_of(at));
        page.words[first..first + 8].copy_from_slice(line);
    }
    fn keep(&mut self, at: u64, line: &Line) {
        if !self.has(at) {
            self.set(at, line);
        }
    }
    fn take(&mut self, at: u64) -> Option<Line> {
        let line = self.line(at)?;
        if let Some(page) = self.pages.get_mut(&page_of(at)) {
            page.lines &= !bit(at);
            if page.lines == 0 {
                self.pages.remove(&page_of(at));
            }
        }
        Some(line)
    }
    /// Hardware wrote these bits coherently.
    fn patch(&mut self, at: u64, mask: u64, v: u64) {
        if let Some(page) = self.pages.get_mut(&page_of(at)) {
            let word = &mut page.words[word(at)];
            *word = *word & !mask | v & mask;
        }
    }
    fn any(&self, random: &mut Random) -> Option<u64> {
        let last = *self.pages.last_key_value()?.0;
        let from = random.below(last.saturating_add(1));
        let (at, page) = self.pages.range(page_of(from)..).next()?;
        let nth = random.below(u64::from(page.lines.count_ones()));
        (0..64).filter(|n| page.lines >> n & 1 != 0).nth(nth as usize).map(|n| at + n * LINE)
    }
}

/// The write buffers before the memory that one unit reads.
#[derive(Clone, Debug, Default)]
struct Buffer {
    /// Lines get here only once they have left the CPUs' caches: the unit does not snoop those.
    behind_caches: bool,
    old: Old,
}

/// What reads without snooping still get.
#[derive(Clone, Debug)]
pub(crate) struct Coherence {
    cached: Old,
    /// Lines flushed since the last fence; with the content that was flushed if the line has been stored to again.
    flushed: BTreeMap<u64, Option<Line>>,
    /// Of each unit with RWBF.
    buffers: BTreeMap<usize, Buffer>,
    /// In how many of a hundred steps some line leaves on its own.
    pub(crate) leaking: u8,
    random: Random,
}

impl Coherence {
    pub(crate) fn new(seed: u64) -> Self {
        Coherence {
            cached: Old::default(),
            flushed: BTreeMap::new(),
            buffers: BTreeMap::new(),
            leaking: 0,
            random: Random::new(seed),
        }
    }

    /// The unit reads through write buffers that it does not see into.
    pub(crate) fn add_buffer(&mut self, unit: usize, coherent: bool) {
        self.buffers.insert(unit, Buffer { behind_caches: !coherent, old: Old::default() });
    }

    /// What the unit sees at an aligned address without snooping, where that is not what memory shows.
    pub(crate) fn old(&self, unit: usize, at: u64) -> Option<u64> {
        let buffer = self.buffers.get(&unit);
        let caches = buffer.is_none_or(|b| b.behind_caches);
        buffer.and_then(|b| b.old.get(at)).or_else(|| self.cached.get(at).filter(|_| caches))
    }

    /// A CPU is about to store in this line.
    pub(crate) fn storing(&mut self, memory: &impl Memory, at: u64) {
        let start = line_of(at);
        let kept = |b: &Buffer| b.behind_caches || b.old.has(start);
        let flushed = matches!(self.flushed.get(&start), Some(None));
        if !flushed && self.cached.has(start) && self.buffers.values().all(kept) {
            return;
        }
        let now = core::array::from_fn(|n| memory.read64(start + 8 * n as u64).unwrap_or(0));
        if flushed {
            self.flushed.insert(start, Some(now));
        }
        self.cached.keep(start, &now);
        for buffer in self.buffers.values_mut().filter(|b| !b.behind_caches) {
            buffer.old.keep(start, &now);
        }
    }

    /// A CPU flushes the lines that hold these bytes; it counts from the next fence on.
    pub(crate) fn flush(&mut self, at: u64, len: u64) {
        for line in lines(at, len) {
            self.flushed.insert(line, None);
        }
    }

    pub(crate) fn fence(&mut self) {
        for (line, content) in core::mem::take(&mut self.flushed) {
            self.leave(line);
            if let Some(content) = content {
                self.cached.set(line, &content);
            }
        }
    }

    /// The line leaves the caches for the write buffers, or for memory, as it is now.
    fn leave(&mut self, line: u64) {
        if let Some(content) = self.flushed.get_mut(&line) {
            *content = None;
        }
        if let Some(old) = self.cached.take(line) {
            for buffer in self.buffers.values_mut().filter(|b| b.behind_caches) {
                buffer.old.keep(line, &old);
            }
        }
    }

    pub(crate) fn flush_write_buffers(&mut self, unit: usize) {
        if let Some(buffer) = self.buffers.get_mut(&unit) {
            buffer.old.pages.clear();
        }
    }

    /// Memory is handed out: nobody knows what stands behind the caches.
    pub(crate) fn allocated(&mut self, at: u64, len: u64) {
        for line in lines(at, len) {
            self.flushed.remove(&line);
            self.cached.set(line, &[GARBAGE; 8]);
            for buffer in self.buffers.values_mut() {
                buffer.old.take(line);
                if !buffer.behind_caches {
                    buffer.old.set(line, &[GARBAGE; 8]);
                }
            }
        }
    }

    /// Memory is given back: it is no more our business.
    pub(crate) fn freed(&mut self, at: u64, len: u64) {
        for line in lines(at, len) {
            self.flushed.remove(&line);
            self.cached.take(line);
            for buffer in self.buffers.values_mut() {
                buffer.old.take(line);
            }
        }
    }

    /// Hardware wrote `mask` of a word, which everybody sees.
    pub(crate) fn wrote(&mut self, at: u64, mask: u64, v: u64) {
        self.cached.patch(at, mask, v);
        for buffer in self.buffers.values_mut() {
            buffer.old.patch(at, mask, v);
        }
        if let Some(Some(content)) = self.flushed.get_mut(&line_of(at)) {
            let word = &mut content[(at % LINE / 8) as usize];
            *word = *word & !mask | v & mask;
        }
    }

    /// Hardware took the line for an atomic access and found it changed: it has been written back on the way.
    pub(crate) fn taken(&mut self, at: u64) {
        self.leave(line_of(at));
        for buffer in self.buffers.values_mut() {
            buffer.old.take(at);
        }
    }

    /// Time passes: caches and buffers may write lines back on their own.
    pub(crate) fn step(&mut self) {
        if self.leaking == 0 || !self.random.percent(u64::from(self.leaking)) {
            return;
        }
        if let Some(line) = self.cached.any(&mut self.random) {
            self.leave(line);
        }
        let units: Vec<usize> = self.buffers.keys().copied().collect();
        for unit in units {
            if let Some(buffer) = self.buffers.get_mut(&unit)
                && let Some(line) = buffer.old.any(&mut self.random)
            {
                buffer.old.take(line);
            }
        }
    }
}

/// The lines that hold `len` bytes at `at`.
fn lines(at: u64, len: u64) -> impl Iterator<Item = u64> {
    let last = at.saturating_add(len.saturating_sub(1));
    let count = if len == 0 { 0 } else { (line_of(last) - line_of(at)) / LINE + 1 };
    (0..count).map(move |n| line_of(at) + n * LINE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Ram;
    use proptest::prelude::*;
    use std::vec;

    struct Rig {
        ram: Ram,
        coherence: Coherence,
    }

    impl Rig {
        fn new() -> Self {
            Rig { ram: Ram::new(1 << 20), coherence: Coherence::new(1) }
        }
        fn store(&mut self, at: u64, v: u64) {
            self.coherence.storing(&self.ram, at);
            self.ram.write64(at, v).unwrap();
        }
        fn seen(&self, unit: usize, at: u64) -> u64 {
            self.coherence.old(unit, at).unwrap_or_else(|| self.ram.read64(at).unwrap())
        }
    }

    #[test]
    fn a_store_stays_in_the_caches_until_a_flush_and_a_fence() {
        let mut rig = Rig::new();
        rig.store(0x1000, 5);
        assert_eq!(rig.seen(0, 0x1000), 0);
        rig.coherence.flush(0x1000, 8);
        assert_eq!(rig.seen(0, 0x1000), 0);
        rig.coherence.fence();
        assert_eq!(rig.seen(0, 0x1000), 5);
    }

    #[test]
    fn a_fence_without_a_flush_shows_nothing() {
        let mut rig = Rig::new();
        rig.store(0x1000, 5);
        rig.coherence.fence();
        assert_eq!(rig.seen(0, 0x1000), 0);
    }

    #[test]
    fn a_flush_takes_whole_lines_and_only_those_that_hold_the_bytes() {
        let mut rig = Rig::new();
        for at in [0x1000, 0x1038, 0x1040, 0x1080] {
            rig.store(at, 7);
        }
        rig.coherence.flush(0x1030, 0x18);
        rig.coherence.fence();
        assert_eq!([0x1000, 0x1038, 0x1040, 0x1080].map(|at| rig.seen(0, at)), [7, 7, 7, 0]);
    }

    #[test]
    fn a_flush_of_nothing_flushes_nothing() {
        let mut rig = Rig::new();
        rig.store(0x1000, 7);
        rig.coherence.flush(0x1000, 0);
        rig.coherence.fence();
        assert_eq!(rig.seen(0, 0x1000), 0);
        assert_eq!(lines(u64::MAX - 3, u64::MAX).count(), 1);
    }

    #[test]
    fn a_store_between_flush_and_fence_is_not_covered() {
        let mut rig = Rig::new();
        rig.store(0x1000, 5);
        rig.coherence.flush(0x1000, 8);
        rig.store(0x1008, 6);
        rig.coherence.fence();
        assert_eq!([rig.seen(0, 0x1000), rig.seen(0, 0x1008)], [5, 0]);
    }

    #[test]
    fn fresh_memory_holds_garbage_until_it_is_flushed() {
        let mut rig = Rig::new();
        rig.coherence.allocated(0x2000, 4096);
        for at in (0x2000..0x3000).step_by(8) {
            rig.store(at, 0);
            assert_eq!(rig.seen(0, at), GARBAGE);
        }
        rig.coherence.flush(0x2000, 4096);
        rig.coherence.fence();
        assert!((0x2000..0x3000).step_by(8).all(|at| rig.seen(0, at) == 0));
    }

    #[test]
    fn what_was_freed_is_forgotten() {
        let mut rig = Rig::new();
        rig.coherence.allocated(0x2000, 4096);
        rig.coherence.freed(0x2000, 4096);
        assert_eq!(rig.seen(0, 0x2000), 0);
        assert!(rig.coherence.cached.pages.is_empty());
    }

    #[test]
    fn what_hardware_writes_is_seen_at_once_and_only_that() {
        let mut rig = Rig::new();
        rig.store(0x1000, 5);
        rig.store(0x1008, 5);
        rig.ram.write64(0x1000, 0x25).unwrap();
        rig.coherence.wrote(0x1000, u64::MAX, 0x25);
        assert_eq!([rig.seen(0, 0x1000), rig.seen(0, 0x1008)], [0x25, 0]);
    }

    #[test]
    fn an_atomic_access_that_finds_the_line_changed_has_it_written_back() {
        let mut rig = Rig::new();
        rig.store(0x1000, 5);
        rig.coherence.taken(0x1008);
        assert_eq!(rig.seen(0, 0x1000), 5);
    }

    #[test]
    fn write_buffers_of_a_coherent_unit_hold_stores_back_and_caches_do_not_matter() {
        let mut rig = Rig::new();
        rig.coherence.add_buffer(1, true);
        rig.store(0x1000, 5);
        rig.coherence.flush(0x1000, 8);
        rig.coherence.fence();
        assert_eq!([rig.seen(0, 0x1000), rig.seen(1, 0x1000)], [5, 0]);
        rig.store(0x2000, 6);
        rig.coherence.flush_write_buffers(1);
        assert_eq!([rig.seen(1, 0x1000), rig.seen(1, 0x2000)], [5, 6]);
    }

    #[test]
    fn write_buffers_of_a_unit_without_coherence_come_after_the_caches() {
        let mut rig = Rig::new();
        rig.coherence.add_buffer(1, false);
        rig.store(0x1000, 5);
        rig.coherence.flush_write_buffers(1);
        assert_eq!(rig.seen(1, 0x1000), 0);
        rig.coherence.flush(0x1000, 8);
        rig.coherence.fence();
        assert_eq!(rig.seen(1, 0x1000), 0);
        rig.coherence.flush_write_buffers(1);
        assert_eq!(rig.seen(1, 0x1000), 5);
    }

    #[test]
    fn lines_leave_on_their_own_where_that_is_asked_for() {
        let mut rig = Rig::new();
        for n in 0..8 {
            rig.store(0x1000 + n * 0x1040, 1);
        }
        for _ in 0..100 {
            rig.coherence.step();
        }
        assert!((0..8).all(|n| rig.seen(0, 0x1000 + n * 0x1040) == 0));
        rig.coherence.leaking = 50;
        for _ in 0..1000 {
            rig.coherence.step();
        }
        assert!((0..8).all(|n| rig.seen(0, 0x1000 + n * 0x1040) == 1));
    }

    #[test]
    fn a_line_that_left_on_its_own_does_not_go_back_to_what_was_flushed_before() {
        let mut rig = Rig::new();
        rig.coherence.flush(0x1000, 8);
        rig.store(0x1000, 1);
        rig.coherence.taken(0x1000);
        rig.coherence.fence();
        assert_eq!(rig.seen(0, 0x1000), 1);
    }

    #[derive(Clone, Debug)]
    enum Act {
        Store(u64, u64),
        Flush(u64, u64),
        Fence,
        Write(u64, u64),
        Exchange(u64),
        FlushBuffers(usize),
        Step,
    }

    fn act() -> impl Strategy<Value = Act> {
        let at = || (0..24u64).prop_map(|n| 0x1000 + 8 * n);
        prop_oneof![
            6 => (at(), any::<u64>()).prop_map(|(at, v)| Act::Store(at, v)),
            3 => (at(), 1..80u64).prop_map(|(at, len)| Act::Flush(at, len)),
            3 => Just(Act::Fence),
            1 => (at(), any::<u64>()).prop_map(|(at, v)| Act::Write(at, v)),
            1 => at().prop_map(Act::Exchange),
            2 => (1..3usize).prop_map(Act::FlushBuffers),
            1 => Just(Act::Step),
        ]
    }

    proptest! {
        /// Unit 0 has no write buffers, 1 snoops and has them, 2 has them and does not snoop.
        #[test]
        fn what_is_seen_once_stood_there_and_in_the_end_everything_is_seen(acts in prop::collection::vec(act(), 0..80)) {
            let mut rig = Rig::new();
            rig.coherence.add_buffer(1, true);
            rig.coherence.add_buffer(2, false);
            rig.coherence.leaking = 50;
            let words = || (0..24u64).map(|n| 0x1000 + 8 * n);
            // What each word held, and how much of that each unit has been seen to know.
            let mut held: Vec<Vec<u64>> = vec![vec![0]; 24];
            let mut known = [[0; 24]; 3];
            for act in acts {
                match act {
                    Act::Store(at, v) => rig.store(at, v),
                    Act::Flush(at, len) => rig.coherence.flush(at, len),
                    Act::Fence => rig.coherence.fence(),
                    Act::Write(at, v) => {
                        rig.ram.write64(at, v).unwrap();
                        rig.coherence.wrote(at, u64::MAX, v);
                    }
                    Act::Exchange(at) => rig.coherence.taken(at),
                    Act::FlushBuffers(unit) => rig.coherence.flush_write_buffers(unit),
                    Act::Step => rig.coherence.step(),
                }
                for (n, at) in words().enumerate() {
                    held[n].push(rig.ram.read64(at).unwrap());
                    for (unit, known) in known.iter_mut().enumerate() {
                        let seen = rig.seen(unit, at);
                        // Never back to something older.
                        let when = held[n].iter().rposition(|v| *v == seen);
                        prop_assert!(when.is_some_and(|when| when >= known[n]), "unit {unit}, {at:#x}, {seen:#x}");
                        known[n] = held[n].iter().position(|v| *v == seen).unwrap_or(0).max(known[n]);
                    }
                }
            }
            rig.coherence.flush(0x1000, 24 * 8);
            rig.coherence.fence();
            for unit in 0..3 {
                rig.coherence.flush_write_buffers(unit);
                for at in words() {
                    prop_assert_eq!(rig.seen(unit, at), rig.ram.read64(at).unwrap());
                }
            }
        }
    }
}
