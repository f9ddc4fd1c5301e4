//! Which pages are tables that hardware reads, of which kind, and what their entries serve: the live tables from the root on.

use super::entries::{Known, Meaning};
use super::{Oracle, Rule, Sight};
use crate::bus::Snoop;
use crate::formats::{
    ContextEntry, FirstStageEntry, PasidDirectoryEntry, PasidEntry, RootEntry, ScalableContextEntry, SecondStageEntry,
};
use crate::profile::Profile;
use crate::state::Mode;
use crate::unit::Unit;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

/// A kind of table. Paging tables are told apart by how many address bits each of their entries serves.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Kind {
    Root,
    ScalableRoot,
    Context,
    ScalableContext,
    Directory,
    PasidTable,
    First(u8),
    Second(u8),
}

const PAGE: u64 = 0x1000;

/// A table that an entry leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Child {
    pub(super) page: u64,
    pub(super) kind: Kind,
    /// What its first entry serves: a source, a PASID, an input address.
    base: u64,
    /// How many entries it has.
    entries: u16,
}

impl Kind {
    /// Words of an entry. Of legacy root entries only the first means anything; halves of scalable ones are entries each.
    pub(super) fn words(self) -> usize {
        match self {
            Kind::Root | Kind::Context => 2,
            Kind::ScalableContext => 4,
            Kind::PasidTable => 8,
            Kind::ScalableRoot | Kind::Directory | Kind::First(_) | Kind::Second(_) => 1,
        }
    }
    /// How many sources, PASIDs or addresses an entry serves.
    pub(super) fn span(self) -> u64 {
        match self {
            Kind::Root => 256,
            Kind::ScalableRoot => 128,
            Kind::Context | Kind::ScalableContext | Kind::PasidTable => 1,
            Kind::Directory => 64,
            Kind::First(bits) | Kind::Second(bits) => 1 << bits,
        }
    }
    fn entries(self) -> u16 {
        (512 / self.words()) as u16
    }
    /// Whether the entry means anything to hardware.
    pub(super) fn present(self, words: &[u64], separate: bool) -> bool {
        let rights = match self {
            Kind::Second(_) if separate => SecondStageEntry::IR.mask() | SecondStageEntry::IW.mask(),
            Kind::Second(_) => SecondStageEntry::R.mask() | SecondStageEntry::W.mask(),
            _ => 1,
        };
        words.first().is_some_and(|word| word & rights != 0)
    }
    /// Whether hardware makes use of the entry: it is present, and has no reserved bits set.
    pub(super) fn valid(self, words: &[u64], profile: &Profile, separate: bool) -> bool {
        let reserved = match (self, words) {
            (Kind::Root, &[low, high]) => RootEntry([low, high]).reserved(profile),
            (Kind::ScalableRoot, &[half]) => RootEntry([half, 0]).reserved(profile),
            (Kind::Context, &[low, high]) => {
                let entry = ContextEntry([low, high]);
                let aw = entry.get(ContextEntry::AW);
                entry.reserved(profile) || profile.sagaw() >> aw & 1 == 0
            }
            (Kind::ScalableContext, &[a, b, c, d]) => ScalableContextEntry([a, b, c, d]).reserved(profile),
            (Kind::Directory, &[word]) => PasidDirectoryEntry([word]).reserved(profile),
            (Kind::PasidTable, words) => match <[u64; 8]>::try_from(words) {
                Ok(words) => PasidEntry(words).reserved(profile),
                Err(_) => true,
            },
            (Kind::First(bits), &[word]) => FirstStageEntry([word]).reserved(profile, bits.into()),
            (Kind::Second(bits), &[word]) => SecondStageEntry([word]).reserved(profile, bits.into(), separate),
            _ => true,
        };
        !reserved && self.present(words, separate)
    }
    /// Whether an entry of this kind of table may lead to a table of that one.
    fn leads_to(self, child: Kind) -> bool {
        match (self, child) {
            (Kind::First(bits), Kind::First(below)) | (Kind::Second(bits), Kind::Second(below)) => below + 9 == bits,
            (Kind::First(_) | Kind::Second(_), _) => false,
            (Kind::Root, Kind::Context) | (Kind::ScalableRoot, Kind::ScalableContext) => true,
            (Kind::ScalableContext, Kind::Directory) | (Kind::Directory, Kind::PasidTable) => true,
            (Kind::Context, Kind::Second(_)) => true,
            (Kind::PasidTable, Kind::First(_) | Kind::Second(_)) => true,
            _ => false,
        }
    }
    /// The bits of a word that hardware may look at. Software has the others for itself, and need not flush them.
    pub(super) fn meaning(self) -> u64 {
        match self {
            Kind::First(_) => SecondStageEntry::ADDRESS | 0x5ff,
            Kind::Second(_) => {
                SecondStageEntry::ADDRESS | 0xbff | SecondStageEntry::IR.mask() | SecondStageEntry::IW.mask()
            }
            _ => !0,
        }
    }
    pub(super) fn is_paging(self) -> bool {
        matches!(self, Kind::First(_) | Kind::Second(_))
    }
    /// Whether a paging entry maps a page.
    pub(super) fn is_leaf(self, word: u64) -> bool {
        match self {
            Kind::First(bits) => FirstStageEntry([word]).is_leaf(bits.into()),
            Kind::Second(bits) => SecondStageEntry([word]).is_leaf(bits.into()),
            _ => false,
        }
    }
    /// The kind of table that a paging entry may lead to.
    fn below(self) -> Option<Kind> {
        match self {
            Kind::First(bits) if bits > 12 => Some(Kind::First(bits - 9)),
            Kind::Second(bits) if bits > 12 => Some(Kind::Second(bits - 9)),
            _ => None,
        }
    }
    /// The tables that an entry leads to; `base` is what the entry serves.
    fn children(self, words: &[u64], base: u64, profile: &Profile, separate: bool) -> Vec<Child> {
        let mut all = Vec::new();
        if !self.valid(words, profile, separate) {
            return all;
        }
        let &[word, ..] = words else { return all };
        let mut add = |page: u64, kind: Kind, base| {
            all.push(Child { page: page & !0xfff, kind, base, entries: kind.entries() });
        };
        match self {
            Kind::Root => add(word, Kind::Context, base),
            Kind::ScalableRoot => add(word, Kind::ScalableContext, base),
            Kind::Context => {
                if let &[low, high] = words
                    && ContextEntry([low, high]).get(ContextEntry::TT) < 2
                    && let Some(bits) = top(ContextEntry([low, high]).get(ContextEntry::AW))
                {
                    add(low, Kind::Second(bits), 0);
                }
            }
            Kind::ScalableContext => {
                let pdts = word >> 9 & 7;
                let directory = ScalableContextEntry([word, 0, 0, 0]).directory();
                let entries = 1_u64 << (pdts + 7);
                for n in 0..entries.div_ceil(512) {
                    let page = directory.wrapping_add(n * PAGE);
                    let entries = entries.min(512) as u16;
                    all.push(Child { page, kind: Kind::Directory, base: n << 15, entries });
                }
            }
            Kind::Directory => add(word, Kind::PasidTable, base),
            Kind::PasidTable => {
                if let Ok(words) = <[u64; 8]>::try_from(words) {
                    let entry = PasidEntry(words);
                    let pgtt = entry.get(PasidEntry::PGTT);
                    // What the guest's tables say of nested ones is not the host's word.
                    if pgtt == 1 {
                        add(entry.first(), Kind::First(39 + 9 * (entry.get(PasidEntry::FSPM) == 1) as u8), 0);
                    } else if matches!(pgtt, 2 | 3)
                        && let Some(bits) = top(entry.get(PasidEntry::AW))
                    {
                        add(entry.second(), Kind::Second(bits), 0);
                    }
                }
            }
            Kind::First(_) | Kind::Second(_) => {
                if let Some(below) = self.below()
                    && !self.is_leaf(word)
                {
                    add(word & SecondStageEntry::ADDRESS, below, base);
                }
            }
        }
        all
    }
}

/// How many address bits an entry of the top second-stage table serves, by AW.
fn top(aw: u64) -> Option<u8> {
    match aw {
        1 => Some(30),
        2 => Some(39),
        3 => Some(48),
        _ => None,
    }
}

/// A live table.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// What its first entry serves; unknown where it serves in several places.
    base: Option<u64>,
    /// The entries that lead to it.
    parents: BTreeSet<u64>,
    pub(super) entries: u16,
}

/// Where a paging table serves: from which input address on, below which top table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub(super) kind: Kind,
    pub(super) base: u64,
    pub(super) top: u64,
}

/// The live tables.
#[derive(Clone, Debug, Default)]
pub(super) struct Map {
    pub(super) nodes: BTreeMap<(u64, Kind), Node>,
    /// Entry, and the table that it leads to.
    links: BTreeSet<(u64, u64, Kind)>,
    /// What present context entries of legacy mode and PASID entries say, by their addresses.
    pub(super) known: Known,
    /// Where paging tables served that are unlinked and not given back yet.
    retired: BTreeMap<u64, Place>,
    /// Whether anything is live.
    pub(super) live: bool,
}

/// The parent of the root table.
const COMMAND: u64 = u64::MAX;

impl Map {
    /// The kinds of table that a page is.
    pub(super) fn kinds(&self, page: u64) -> impl Iterator<Item = (Kind, &Node)> {
        self.nodes.range((page, Kind::Root)..=(page, Kind::Second(u8::MAX))).map(|((_, kind), node)| (*kind, node))
    }
    /// A live table in the pages from `first` to `last`.
    pub(super) fn within(&self, first: u64, last: u64) -> Option<(u64, Kind)> {
        self.nodes.range((first & !0xfff, Kind::Root)..=(last, Kind::Second(u8::MAX))).next().map(|(key, _)| *key)
    }
    /// What the first entry of a table serves, if that is one thing only.
    pub(super) fn base(&self, page: u64, kind: Kind) -> Option<u64> {
        self.place(page, kind).map(|place| place.base)
    }
    /// Where a table serves, if it serves in one place only. `top` is the outermost table of the same sort.
    pub(super) fn place(&self, page: u64, kind: Kind) -> Option<Place> {
        let base = self.nodes.get(&(page, kind))?.base?;
        let (mut page, mut at) = (page, kind);
        // Five levels of tables at most.
        for _ in 0..6 {
            let node = self.nodes.get(&(page, at))?;
            node.base?;
            let above = match at {
                Kind::First(bits) => Kind::First(bits + 9),
                Kind::Second(bits) => Kind::Second(bits + 9),
                Kind::Context => Kind::Root,
                Kind::ScalableContext => Kind::ScalableRoot,
                Kind::PasidTable => Kind::Directory,
                _ => return Some(Place { kind, base, top: page }),
            };
            let parents =
                node.parents.iter().map(|at| at & !0xfff).find(|page| self.nodes.contains_key(&(*page, above)));
            match parents {
                Some(parent) => (page, at) = (parent, above),
                None => return Some(Place { kind, base, top: page }),
            }
        }
        None
    }
}

impl Oracle {
    /// The tables that an entry leads to have changed from those of `links` to `now`.
    pub(super) fn relink(&mut self, sight: &mut Sight<'_>, kind: Kind, at: u64, words: &[u64], base: u64) {
        let separate = sight.separate();
        let now = kind.children(words, base, &sight.unit.profile, separate);
        let was: Vec<(u64, Kind)> = (self.map.links.range((at, 0, Kind::Root)..=(at, u64::MAX, Kind::Second(u8::MAX))))
            .filter(|(_, _, child)| kind.leads_to(*child))
            .map(|(_, page, child)| (*page, *child))
            .collect();
        for child in &now {
            if !was.contains(&(child.page, child.kind)) {
                self.link(sight, at, *child);
            }
        }
        for (page, child) in was {
            if !now.iter().any(|new| (new.page, new.kind) == (page, child)) {
                self.unlink(at, page, child);
            }
        }
    }
    /// An entry leads to a table: it and all below it are live.
    fn link(&mut self, sight: &mut Sight<'_>, from: u64, child: Child) {
        let separate = sight.separate();
        let mut todo = Vec::from([(from, child)]);
        while let Some((from, child)) = todo.pop() {
            let Child { page, kind, base, entries } = child;
            if sight.bus.read64(page, Snoop::Yes).is_none() {
                continue;
            }
            self.map.links.insert((from, page, kind));
            if let Some(node) = self.map.nodes.get_mut(&(page, kind)) {
                node.parents.insert(from);
                if node.base != Some(base) {
                    node.base = None;
                }
                continue;
            }
            let node = Node { base: Some(base), parents: BTreeSet::from([from]), entries };
            self.map.nodes.insert((page, kind), node);
            self.check_reuse(sight, page, kind);
            self.check_fresh(sight, page, kind);
            let size = kind.words();
            if kind.below().is_none() && kind.is_paging() {
                continue;
            }
            for n in 0..entries {
                let at = page.wrapping_add(8 * size as u64 * u64::from(n));
                let mut words = [0; 8];
                let Some(words) = words.get_mut(..size) else { continue };
                if let Some(first) = words.first_mut() {
                    *first = sight.word(at);
                }
                if !kind.present(words, separate) {
                    continue;
                }
                for (n, word) in words.iter_mut().enumerate().skip(1) {
                    *word = sight.word(at.wrapping_add(8 * n as u64));
                }
                let base = base.wrapping_add(u64::from(n).wrapping_mul(kind.span()));
                for child in kind.children(words, base, &sight.unit.profile, separate) {
                    todo.push((at, child));
                }
                if kind.valid(words, &sight.unit.profile, separate)
                    && let Some(meaning) = Meaning::of(kind, words, base)
                {
                    self.learn(sight, at, meaning, self.map.live);
                }
            }
        }
    }
    /// An entry leads to a table no more. If none does, neither is what lies below.
    fn unlink(&mut self, from: u64, page: u64, kind: Kind) {
        let mut todo = Vec::from([(from, page, kind, self.map.place(page, kind).map(|place| place.top))]);
        while let Some((from, page, kind, top)) = todo.pop() {
            self.map.links.remove(&(from, page, kind));
            let Some(node) = self.map.nodes.get_mut(&(page, kind)) else { continue };
            node.parents.remove(&from);
            if !node.parents.is_empty() {
                continue;
            }
            if kind.is_paging()
                && let (Some(base), Some(top)) = (node.base, top)
            {
                self.map.retired.insert(page, Place { kind, base, top });
            }
            self.map.nodes.remove(&(page, kind));
            let last = page.saturating_add(PAGE - 1);
            for (at, child, below) in
                self.map.links.range((page, 0, Kind::Root)..=(last, u64::MAX, Kind::Second(u8::MAX)))
            {
                if kind.leads_to(*below) {
                    let top = if kind.is_paging() { top } else { below.is_paging().then_some(*child) };
                    todo.push((*at, *child, *below, top));
                }
            }
            if matches!(kind, Kind::Context | Kind::PasidTable) {
                self.map.known.forget(page, last);
            }
        }
    }
    /// A table has been linked: if it served elsewhere before, no cache may lead to it still.
    fn check_reuse(&mut self, sight: &mut Sight<'_>, page: u64, kind: Kind) {
        let Some(was) = self.map.retired.remove(&page) else { return };
        let Some(now) = self.map.place(page, kind) else { return };
        if now != was
            && let Some(held) = sight.unit.caches.holds_page(page)
        {
            sight.report(Rule::TableReused, format_args!("{page:#x} was {was:x?} and is {now:x?}, cached: {held:x?}"));
        }
    }
    /// A table has been linked: hardware that does not snoop must find it as it was written.
    fn check_fresh(&mut self, sight: &mut Sight<'_>, page: u64, kind: Kind) {
        // Write buffers may be flushed later, for all of it (6.8).
        if sight.snooped(kind) || sight.unit.profile.rwbf() {
            return;
        }
        let separate = sight.separate();
        let size = 8 * kind.words() as u64;
        for at in (page..).step_by(8).take(kind.words() * usize::from(kind.entries())) {
            // Of absent entries hardware reads no more.
            let entry = page + (at - page) / size * size;
            if !sight.views(entry).into_iter().any(|word| kind.present(&[word], separate)) {
                continue;
            }
            let [now, seen] = sight.views(at);
            if (now ^ seen) & kind.meaning() != 0 {
                if self.company {
                    self.dark.insert(at, kind);
                    continue;
                }
                let what =
                    format_args!("{kind:?} at {page:#x} was linked; {at:#x} holds {now:#x}, the unit sees {seen:#x}");
                sight.report(Rule::NotVisible, what);
                return;
            }
        }
    }
    /// Forgets where tables served that are given back.
    pub(super) fn forget_retired(&mut self, first: u64, last: u64) {
        let gone: Vec<u64> = self.map.retired.range(first & !0xfff..=last).map(|(page, _)| *page).collect();
        for page in gone {
            self.map.retired.remove(&page);
        }
    }
}

impl Sight<'_> {
    /// A word as software wrote it, and as reads see it that do not snoop.
    pub(super) fn views(&mut self, at: u64) -> [u64; 2] {
        [Snoop::Yes, Snoop::No].map(|snoop| self.bus.read64(at, snoop).unwrap_or(0))
    }
    /// SSIRWE.
    pub(super) fn separate(&self) -> bool {
        self.unit.state.separate_rights && self.unit.profile.ssirws()
    }
    /// Whether the unit reads tables of this kind as CPUs see them, whatever PWSNP says (3.10).
    pub(super) fn snooped(&self, kind: Kind) -> bool {
        let profile = &self.unit.profile;
        match kind {
            Kind::First(_) => profile.smpwcs(),
            Kind::Second(_) if self.unit.state.mode == Mode::Scalable => profile.smpwcs(),
            _ => profile.coherent(),
        }
    }
}

impl Unit {
    /// A command may have changed which tables are live.
    pub(crate) fn watch_tables(&mut self, bus: &mut dyn crate::bus::Bus) {
        self.watch(bus, |oracle, sight| {
            let state = sight.unit.state;
            oracle.map = Map { retired: core::mem::take(&mut oracle.map.retired), ..Map::default() };
            oracle.touched.clear();
            oracle.dark.clear();
            let kind = match state.mode {
                Mode::Legacy => Kind::Root,
                Mode::Scalable => Kind::ScalableRoot,
                _ => return,
            };
            if state.translation {
                oracle.link(sight, COMMAND, Child { page: state.root, kind, base: 0, entries: kind.entries() });
                oracle.map.live = true;
            }
        });
    }
}
