//! Stores of CPUs to live tables: what may be changed while an entry is present, and how (6.2.2.1, 6.2.3.1, 6.5.3.3).

use super::entries::Meaning;
use super::map::Kind;
use super::{Oracle, Rule, Sight};
use crate::bus::Bus;
use crate::formats::{FirstStageEntry, PasidEntry, SecondStageEntry};
use crate::invalidation::Invalidation;
use crate::story::Happening;
use crate::unit::Unit;

/// The bits of each word of an entry that must fit those of the others.
fn bound(kind: Kind) -> [u64; 8] {
    let pasid = |field: crate::formats::Field| field.mask();
    match kind {
        // All but FPD; AW and DID.
        Kind::Context => [!2, 0x00ff_ff07, 0, 0, 0, 0, 0, 0],
        // P, PDTS and PASIDDIRPTR; RID_PASID and RID_PRIV.
        Kind::ScalableContext => [!0xfff | 0xe01, 0x001f_ffff, 0, 0, 0, 0, 0, 0],
        Kind::PasidTable => [
            1 | pasid(PasidEntry::AW) | pasid(PasidEntry::PGTT) | pasid(PasidEntry::SSPTPTR),
            pasid(PasidEntry::DID),
            pasid(PasidEntry::FSPM) | pasid(PasidEntry::FSPTPTR),
            0,
            pasid(PasidEntry::HPTSZ) | pasid(PasidEntry::HPTPTR),
            pasid(PasidEntry::HPTDID),
            0,
            0,
        ],
        _ => [0; 8],
    }
}

/// The same for interrupt-remapping entries: all but FPD and what software has for itself (9.9, 9.10).
const INTERRUPT: [u64; 8] = [!0xf02, !0, 0, 0, 0, 0, 0, 0];

/// A store to an entry: which of its words from `first` on, what stood there, what stands there.
#[derive(Clone, Copy)]
struct Store<'a> {
    first: usize,
    old: &'a [u64],
    new: &'a [u64],
}

impl Oracle {
    /// CPUs have stored `new` where `old` stood: one word, or two at once.
    pub(super) fn stored(&mut self, sight: &mut Sight<'_>, at: u64, old: &[u64], new: &[u64]) {
        let state = &sight.unit.state;
        let table = state.interrupts..state.interrupts.saturating_add(16 * u64::from(state.interrupt_entries));
        if state.remapping && table.contains(&at) {
            let entry = at & !15;
            let store = Store { first: (at % 16 / 8) as usize, old, new };
            self.changed_interrupt(sight, entry, store);
        }
        if !self.map.live {
            return;
        }
        let page = at & !0xfff;
        let mut kinds = [None; 12];
        for (slot, (kind, _)) in kinds.iter_mut().zip(self.map.kinds(page)) {
            *slot = Some(kind);
        }
        for kind in kinds.into_iter().flatten() {
            let size = kind.words();
            let mut done = 0;
            while let (Some(old), Some(new)) = (old.get(done..), new.get(done..))
                && !old.is_empty()
            {
                let word = (at & 0xfff) as usize / 8 + done;
                let (entry, first) = (word / size, word % size);
                let n = old.len().min(size - first);
                let store = Store { first, old: old.get(..n).unwrap_or(old), new: new.get(..n).unwrap_or(new) };
                self.changed(sight, kind, page, entry, store);
                done += n;
            }
        }
    }

    /// One entry of a live table has changed.
    fn changed(&mut self, sight: &mut Sight<'_>, kind: Kind, page: u64, index: usize, store: Store<'_>) {
        let entries = self.map.nodes.get(&(page, kind)).map_or(0, |node| usize::from(node.entries));
        if index >= entries || store.old == store.new {
            return;
        }
        let size = kind.words();
        let at = page + (8 * size * index) as u64;
        self.watch_line(sight, kind, at, store);
        let leaves = kind == Kind::First(12) || kind == Kind::Second(12);
        if leaves {
            return;
        }
        let (was, is) = around(sight, at, size, store);
        let (Some(was), Some(is)) = (was.get(..size), is.get(..size)) else { return };
        let separate = sight.separate();
        let present = (kind.present(was, separate), kind.present(is, separate));
        self.check_torn(sight, at, &bound(kind), present, store);
        if present == (true, true) && kind.is_paging() {
            self.check_size(sight, kind, at, store);
        }
        // What an entry serves matters below only if it is known.
        let base = self.map.base(page, kind);
        let serves = base.unwrap_or(0).wrapping_add((index as u64).wrapping_mul(kind.span()));
        let valid = kind.valid(is, &sight.unit.profile, separate);
        match Meaning::of(kind, is, serves).filter(|_| valid) {
            Some(meaning) => self.learn(sight, at, meaning, !present.0),
            None => self.map.known.forget(at, at),
        }
        self.relink(sight, kind, at, is, serves);
        if let Some(source) = base.and_then(|base| base.checked_add(index as u64))
            && matches!(kind, Kind::Context | Kind::ScalableContext)
        {
            self.changed_context(sight, kind, source as u16, was, is);
        }
    }

    fn changed_interrupt(&mut self, sight: &mut Sight<'_>, entry: u64, store: Store<'_>) {
        if store.old == store.new {
            return;
        }
        let (was, is) = around(sight, entry, 2, store);
        let present = (was.first().is_some_and(|word| word & 1 != 0), is.first().is_some_and(|word| word & 1 != 0));
        self.check_torn(sight, entry, &INTERRUPT, present, store);
    }

    /// Words that belong together may be changed apart while the entry is not present, and, if each state makes sense,
    /// with an invalidation in between.
    fn check_torn(
        &mut self,
        sight: &mut Sight<'_>,
        at: u64,
        bound: &[u64; 8],
        (was, is): (bool, bool),
        store: Store<'_>,
    ) {
        if !is {
            self.touched.remove(&at);
            return;
        }
        let mut changed = 0_u8;
        for (n, (old, new)) in store.old.iter().zip(store.new).enumerate() {
            let n = store.first + n;
            if bound.get(n).is_some_and(|bits| (old ^ new) & bits != 0) {
                changed |= 1 << n;
            }
        }
        if changed == 0 {
            return;
        }
        let before = self.touched.entry(at).or_default();
        let torn = was && *before & !changed != 0 && changed & !*before != 0;
        *before |= changed;
        if torn {
            sight.report(
                Rule::TornEntry,
                format_args!(
                    "entry at {at:#x}: words {changed:#b} were changed apart from what changed before while it is present"
                ),
            );
        }
    }

    /// A present paging entry has become a table where it was a page, or the other way round.
    fn check_size(&mut self, sight: &mut Sight<'_>, kind: Kind, at: u64, store: Store<'_>) {
        let (&[old], &[new]) = (store.old, store.new) else { return };
        let (page, table) = match (kind.is_leaf(old), kind.is_leaf(new)) {
            (true, false) => (old, new),
            (false, true) => (new, old),
            _ => return,
        };
        let (bits, below) = match kind {
            Kind::First(bits) => (bits, Kind::First(bits.saturating_sub(9))),
            Kind::Second(bits) => (bits, Kind::Second(bits.saturating_sub(9))),
            _ => return,
        };
        let separate = sight.separate();
        let small = bits.saturating_sub(9);
        let frame = (page & SecondStageEntry::ADDRESS) >> bits << bits;
        for n in 0..512 {
            let entry = sight.word((table & SecondStageEntry::ADDRESS) + 8 * n);
            if !below.present(&[entry], separate) || !below.is_leaf(entry) {
                continue;
            }
            let here = (entry & SecondStageEntry::ADDRESS) >> small << small;
            let same = here == frame + (n << small) && attributes(below, entry, table) == attributes(kind, page, !0);
            if !same {
                let what = "its pages have other sizes and other frames, rights or attributes";
                sight.report(Rule::PageSize, format_args!("entry at {at:#x} went from {old:#x} to {new:#x}: {what}"));
                return;
            }
        }
    }

    /// A store that the unit does not see at once.
    fn watch_line(&mut self, sight: &mut Sight<'_>, kind: Kind, at: u64, store: Store<'_>) {
        if sight.snooped(kind) {
            return;
        }
        for n in 0..store.new.len() {
            let word = at + 8 * (store.first + n) as u64;
            let [now, seen] = sight.views(word);
            if (now ^ seen) & kind.meaning() != 0 {
                self.dark.insert(word, kind);
            }
        }
    }

    /// An invalidation takes effect: what was changed before it is done with.
    pub(super) fn invalidated(&mut self, sight: &mut Sight<'_>, what: &Invalidation) {
        self.check_lines(sight, what);
        let state = &sight.unit.state;
        let interrupts = state.interrupts..state.interrupts.saturating_add(16 * u64::from(state.interrupt_entries));
        match what {
            // Which sources and PASIDs does not matter here: nothing is said rather than too much.
            Invalidation::Contexts
            | Invalidation::ContextsOfDomain(_)
            | Invalidation::ContextOfDevice { .. }
            | Invalidation::Pasids
            | Invalidation::PasidsOfDomain(_)
            | Invalidation::PasidOfDomain(..)
            | Invalidation::Everything => self.touched.retain(|at, _| interrupts.contains(at)),
            Invalidation::Interrupts | Invalidation::InterruptsAt(..) => {
                self.touched.retain(|at, _| !interrupts.contains(at));
            }
            _ => {}
        }
    }
}

/// An entry before and after a store.
fn around(sight: &mut Sight<'_>, at: u64, size: usize, store: Store<'_>) -> ([u64; 8], [u64; 8]) {
    let mut is = [0; 8];
    for (n, word) in is.iter_mut().enumerate().take(size) {
        *word = sight.word(at.wrapping_add(8 * n as u64));
    }
    let mut was = is;
    for (n, (old, new)) in store.old.iter().zip(store.new).enumerate() {
        if let (Some(was), Some(is)) = (was.get_mut(store.first + n), is.get_mut(store.first + n)) {
            (*was, *is) = (*old, *new);
        }
    }
    (was, is)
}

/// Rights and attributes of a leaf below a table whose rights are in `above`, in one form for all sizes.
fn attributes(kind: Kind, leaf: u64, above: u64) -> u64 {
    match kind {
        Kind::First(bits) => {
            let rights = FirstStageEntry::RW.mask() | FirstStageEntry::US.mask();
            let pat = if bits == 12 { FirstStageEntry::PS } else { FirstStageEntry::LARGE_PAT };
            let cached = FirstStageEntry::PWT.mask() | FirstStageEntry::PCD.mask();
            leaf & above & rights | leaf & cached | u64::from(leaf & pat.mask() != 0) << 63
        }
        Kind::Second(_) => {
            let rights = SecondStageEntry::R.mask()
                | SecondStageEntry::W.mask()
                | SecondStageEntry::IR.mask()
                | SecondStageEntry::IW.mask();
            let kept = SecondStageEntry::EMT.mask() | SecondStageEntry::IPAT.mask() | SecondStageEntry::SNP.mask();
            leaf & above & rights | leaf & kept
        }
        _ => 0,
    }
}

impl Unit {
    /// A CPU has stored one word: `new` where `old` stood.
    pub fn stored(&mut self, bus: &mut dyn Bus, at: u64, old: u64, new: u64) {
        self.tell(Happening::Stored(at, old, new));
        self.watch(bus, |oracle, sight| oracle.stored(sight, at, &[old], &[new]));
    }
    /// A CPU has stored two words at once, at a multiple of 16.
    pub fn stored_pair(&mut self, bus: &mut dyn Bus, at: u64, old: [u64; 2], new: [u64; 2]) {
        for n in 0..2 {
            self.tell(Happening::Stored(at.wrapping_add(8 * n as u64), old[n], new[n]));
        }
        self.watch(bus, |oracle, sight| oracle.stored(sight, at, &old, &new));
    }
    /// An invalidation is about to take effect.
    pub(crate) fn watch_invalidation(&mut self, bus: &mut dyn Bus, what: &Invalidation) {
        self.watch(bus, |oracle, sight| oracle.invalidated(sight, what));
    }
}
