//! Random profiles, tables that lead somewhere on them, and what spoils these.

use vtd::explain::{Attempt, Request};
use vtd::hw::capabilities::{AddressWidth, Cap, Ecap};
use vtd::hw::pages;
use vtd::hw::pasid_tables::{Allowed, DirectoryEntry, FirstStage, PasidEntry, ScalableContextEntry, SecondStage};
use vtd::hw::tables::{
    ContextEntry, RootEntry, Translation, context_index, directory_index, is_upper, pasid_index, root_index,
    scalable_context_index,
};
use vtd::{Pasid, SourceId};
use vtd_emu::{Machine, Memory, Profile, Ram, Random};

/// Memory ends here.
const END: u64 = 64 << 20;
const GIB: u64 = 1 << 30;

/// Tables as they are made: memory, its next free page, and the entries on the way of the request.
pub struct Tables {
    pub machine: Machine<Ram>,
    free: u64,
    /// Where, and how many words.
    way: Vec<(u64, usize)>,
    random: Random,
    pub profile: Profile,
}

/// A stage of tables.
#[derive(Clone, Copy)]
struct Stage {
    first: bool,
    top: u64,
    levels: u8,
    /// Rights from bits 61 and 62.
    io: bool,
}

impl Tables {
    pub fn new(profile: Profile, seed: u64) -> Self {
        let mut machine = Machine::new(Ram::new(END), seed);
        machine.add_unit(profile.clone());
        machine.set_oracles(false);
        Tables { machine, free: 0x10_0000, way: Vec::new(), random: Random::new(seed), profile }
    }

    fn below(&mut self, n: u64) -> u64 {
        self.random.below(n)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.random.below(n) == 0
    }

    fn page(&mut self) -> u64 {
        self.free += 0x1000;
        self.free
    }

    fn read(&self, at: u64) -> u64 {
        self.machine.memory().read64(at).unwrap_or(0)
    }

    fn put(&mut self, at: u64, words: &[u64]) {
        for (i, w) in words.iter().enumerate() {
            let _ = self.machine.memory_mut().write64(at + 8 * i as u64, *w);
        }
        self.way.push((at, words.len()));
    }

    /// What entries carry beside the address: mostly all that a request can want.
    fn flags(&mut self, stage: Stage, leaf: bool) -> u64 {
        let mut flags = if stage.first {
            let dirty = if leaf { pages::first::D } else { 0 };
            pages::first::P | pages::first::RW | pages::first::US | pages::first::A | pages::first::EA | dirty
        } else {
            let rights = if stage.io { pages::IO_READ | pages::IO_WRITE } else { pages::READ | pages::WRITE };
            rights | pages::ACCESSED | if leaf { pages::DIRTY } else { 0 }
        };
        if self.one_in(8) {
            flags &= !(self.random.bits() & self.random.bits());
        }
        if self.one_in(30) {
            flags |= 1 << self.below(12);
        }
        flags
    }

    /// Maps the page of `level` that `input` is in, making tables as they are needed. `guest` says which address of a table
    /// the entries above it get.
    fn map(&mut self, s: Stage, input: u64, to: u64, level: u8, guest: &mut dyn FnMut(&mut Self, u64) -> u64) {
        let mut table = s.top;
        for l in (level..=s.levels).rev() {
            let at = table + 8 * pages::index(input, l) as u64;
            if l == level {
                let ps = if l > 1 { pages::PAGE_SIZE } else { 0 };
                let entry = to & pages::leaf_address(l) | ps | self.flags(s, true);
                self.put(at, &[entry]);
                return;
            }
            let there = self.read(at) & pages::ADDRESS;
            table = match there {
                0 => {
                    let host = self.page();
                    let named = guest(self, host);
                    let entry = named | self.flags(s, false);
                    self.put(at, &[entry]);
                    host
                }
                // Tables of a guest are where they are named in these tests, but for one bit.
                named => host_of(named),
            };
        }
    }

    fn level(&mut self) -> u8 {
        [1, 1, 1, 2, 2, 3][self.below(6) as usize]
    }

    /// Somewhere in memory, mostly.
    fn place(&mut self) -> u64 {
        match self.below(30) {
            0 => 0xfee0_0000 + self.below(0x10_0000),
            1 => self.random.bits() & 0x000f_ffff_ffff_ffff,
            2 => 0xfec0_0000 + self.below(0x40_0000),
            _ => self.random.bits() & (4 * GIB - 1),
        }
    }

    /// An address of the width, mostly.
    fn address(&mut self, bits: u8, signed: bool) -> u64 {
        let low = self.random.bits() & ((1 << bits.min(63)) - 1);
        match self.below(40) {
            0 => self.random.bits(),
            1 => low | 1 << (bits + (self.below(3) as u8)).min(63),
            2 => 0xfee0_0000 | low & 0xf_ffff,
            _ if signed && low >> (bits - 1) & 1 != 0 => low | u64::MAX << bits,
            _ => low,
        }
    }

    /// The width and levels of a second stage that the unit has, mostly.
    fn width(&mut self) -> AddressWidth {
        let cap = Cap(self.profile.cap);
        let has: Vec<_> = AddressWidth::ALL.into_iter().filter(|w| cap.supports(*w)).collect();
        let any = AddressWidth::ALL[self.below(3) as usize];
        if has.is_empty() || self.one_in(30) { any } else { has[self.below(has.len() as u64) as usize] }
    }

    /// Second-stage tables that lead `input` to `to`.
    fn second(&mut self, width: AddressWidth, io: bool, input: u64, to: u64) -> Stage {
        let stage = Stage { first: false, top: self.page(), levels: width.levels(), io };
        let level = self.level();
        self.map(stage, input, to, level, &mut |_, host| host);
        stage
    }
}

/// Where the guest's page of that name is: guests see their tables at 16 TiB, where the width has that, and so many
/// pages further on.
const GUEST: u64 = 1 << 37;

fn host_of(named: u64) -> u64 {
    named & !GUEST
}

/// A profile that ships, or one with less.
pub fn profile(random: &mut Random) -> Profile {
    let mut all = Profile::all();
    all.push(Profile::maximal().with_ecap(1 << 55, 0));
    all.push(Profile { width: 46, ..Profile::maximal() });
    let mut profile = if random.percent(40) {
        all.swap_remove(all.len() - 1 - random.below(3) as usize)
    } else {
        all.swap_remove(random.below(all.len() as u64) as usize)
    };
    if random.percent(30) {
        // NEST, DT, SSADS, RPS, PASID, EAFS, SRS, SMPWCS, SC, PT, FSTS, SSTS: one or two go.
        for _ in 0..2 {
            let bit = [26, 2, 45, 49, 40, 34, 31, 48, 7, 6, 47, 46, 29, 53, 57, 52, 25, 43][random.below(18) as usize];
            profile.ecap &= !(1 << bit);
        }
        profile.cap &= !(1 << [22, 34, 35, 56, 60, 9, 10, 11][random.below(8) as usize]);
    }
    if random.percent(10) {
        profile.version = 0x70;
    }
    if random.percent(10) && profile.ecap >> 43 & 1 != 0 {
        // PSS: 13 bits.
        profile.ecap = profile.ecap & !(31 << 35) | 12 << 35;
    }
    profile.strict_aw = random.percent(30);
    // The walk says what units should do.
    profile.erratum_772415 = false;
    consistent(profile)
}

/// Takes away what the specification says is not there without something else.
fn consistent(mut p: Profile) -> Profile {
    let has = |p: &Profile, bit: u32| p.ecap >> bit & 1 != 0;
    let needs = |p: &mut Profile, needed: u32, bits: &[u32]| {
        if !has(p, needed) {
            bits.iter().for_each(|b| p.ecap &= !(1 << b));
        }
    };
    needs(&mut p, 43, &[25, 31, 40, 46, 47, 48, 49, 55]);
    needs(&mut p, 2, &[29, 55, 56]);
    needs(&mut p, 40, &[56]);
    needs(&mut p, 47, &[26, 34]);
    needs(&mut p, 46, &[26, 57]);
    needs(&mut p, 48, &[34, 45]);
    needs(&mut p, 31, &[53]);
    if p.ecap >> 47 & 1 == 0 {
        p.cap &= !(1 << 56 | 1 << 60);
    }
    if p.cap >> 34 & 1 == 0 {
        p.cap &= !(1 << 35);
    }
    p
}

/// The way to a request, made of what the unit offers: where it begins, and the request.
pub fn build(t: &mut Tables) -> (u64, Request) {
    let ecap = Ecap(t.profile.ecap);
    let source = (t.below(4) << 8 | t.below(256)) as u16;
    let attempt = [Attempt::Read, Attempt::Write, Attempt::Atomic, Attempt::Flush][t.below(4) as usize];
    let scalable = if ecap.smts() { !t.one_in(4) } else { t.one_in(30) };
    let io = scalable && ecap.ssirws() && t.one_in(4) || t.one_in(60);
    let mode = match t.below(60) {
        0 => 2,
        1 => 3,
        _ => u64::from(scalable),
    };
    let root = if t.one_in(50) { END } else { t.page() };
    let pointer = root | mode << 10 | u64::from(io) << 7;
    let context = t.page();
    let mut request = if scalable {
        scalable_way(t, root, context, source, attempt, io && ecap.ssirws())
    } else {
        legacy_way(t, root, context, source, attempt)
    };
    if t.one_in(30) {
        request.pasid = Pasid::new(t.below(1 << 20) as u32);
    }
    request.bytes = if t.one_in(5) { 8 } else { 4 };
    if request.address & 0xfff > 0xff8 {
        // Within a page.
        request.address &= !7;
    }
    request.execute = request.pasid.is_some() && t.one_in(30);
    request.privileged = request.pasid.is_some() && t.one_in(4);
    mutate(t);
    (pointer, request)
}

fn legacy_way(t: &mut Tables, root: u64, context: u64, source: u16, attempt: Attempt) -> Request {
    let entry = RootEntry::legacy(context);
    t.put(root + 16 * root_index(source) as u64, &[entry.lo, entry.hi]);
    let (width, to) = (t.width(), t.place());
    let address = t.address(width.bits().min(Cap(t.profile.cap).mgaw()), false);
    let translation = match t.below(12) {
        0 => Translation::WithDeviceTlb,
        1 | 2 => Translation::PassThrough,
        _ => Translation::Untranslated,
    };
    let domain = 1 + t.below(15) as u16;
    let at = context + 16 * context_index(source) as u64;
    let entry = match translation {
        Translation::PassThrough => ContextEntry::pass_through(width, domain),
        _ => {
            let stage = t.second(width, false, address, to);
            ContextEntry::new(translation, stage.top, width, domain)
        }
    };
    let entry = entry.with_fpd(t.one_in(6));
    t.put(at, &[entry.lo, entry.hi]);
    Request::new(SourceId(source), attempt, address)
}

fn scalable_way(t: &mut Tables, root: u64, context: u64, source: u16, attempt: Attempt, io: bool) -> Request {
    let ecap = Ecap(t.profile.ecap);
    let other = if t.one_in(4) { Some(t.page()) } else { None };
    let upper = is_upper(source);
    let entry =
        if upper { RootEntry::scalable(other, Some(context)) } else { RootEntry::scalable(Some(context), other) };
    t.put(root + 16 * root_index(source) as u64, &[entry.lo, entry.hi]);
    // PASIDs.
    let pdts = t.below(3) as u8;
    let most = if t.one_in(12) { 1 << 20 } else { 1u64 << (pdts + 13) };
    let most = if ecap.pasid() && !t.one_in(4) { most.min(1 << ecap.pss()) } else { most };
    let pasid = if ecap.pasid() && t.one_in(2) || t.one_in(40) { Some(t.below(most) as u32) } else { None };
    let rid_pasid = match t.below(8) {
        _ if !ecap.rps() => 0,
        0 => t.below(1 << 20) as u32,
        1..4 => t.below(1 << (pdts + 13)) as u32,
        4 => pasid.unwrap_or(0),
        _ => 0,
    };
    let used = pasid.unwrap_or(rid_pasid);
    let directory = t.page();
    for _ in 0..1 << pdts {
        t.page();
    }
    let page_requests = ecap.prs() && t.one_in(4);
    let device_tlb = ecap.dt() && t.one_in(3) || page_requests && !t.one_in(6);
    let allowed = Allowed { device_tlb, pasid: ecap.pasid() && !t.one_in(12), page_requests };
    let mut entry = ScalableContextEntry::new(directory, pdts, rid_pasid, allowed).with_fpd(t.one_in(8));
    if ecap.rprivs() && t.one_in(4) {
        entry = entry.with_rid_priv();
    }
    t.put(context + 32 * scalable_context_index(source) as u64, &entry.0);
    let table = t.page();
    let mut there = DirectoryEntry::new(table).0;
    if t.one_in(12) {
        there |= 2;
    }
    t.put(directory + 8 * directory_index(used) as u64, &[there]);
    let (entry, address) = pasid_way(t, io);
    t.put(table + 64 * pasid_index(used) as u64, &entry.0);
    let request = Request::new(SourceId(source), attempt, address);
    Request { pasid: pasid.and_then(Pasid::new), ..request }
}

fn pasid_way(t: &mut Tables, io: bool) -> (PasidEntry, u64) {
    let ecap = Ecap(t.profile.ecap);
    let mut kinds = vec![0u8; usize::from(ecap.pt())];
    kinds.extend([1u8, 1].repeat(usize::from(ecap.fsts())));
    kinds.extend([2u8, 2].repeat(usize::from(ecap.ssts())));
    kinds.extend([3u8, 3, 3, 3].repeat(usize::from(ecap.nest())));
    let kind =
        if kinds.is_empty() || t.one_in(40) { t.below(4) as u8 } else { kinds[t.below(kinds.len() as u64) as usize] };
    let (width, domain, to) = (t.width(), 1 + t.below(15) as u16, t.place());
    let five_levels = Cap(t.profile.cap).fs5lp() && t.one_in(2) || t.one_in(60);
    let bits = if five_levels { 57 } else { 48 };
    let half = |t: &mut Tables| t.one_in(2);
    let rest = |t: &mut Tables, table: u64| FirstStage {
        table,
        five_levels,
        supervisor: ecap.srs() && half(t),
        write_protect: ecap.fsts() && half(t),
        extended_accessed: ecap.eafs() && half(t),
    };
    let marks = ecap.ssts() && ecap.ssads() && half(t);
    let both = |top: u64| SecondStage { table: top, width, accessed_dirty: marks };
    let (mut entry, address) = match kind {
        0 => {
            let width = t.profile.width;
            let supervisor = u64::from(ecap.srs() && half(t));
            let mut entry = PasidEntry::pass_through(domain);
            entry.0[2] |= supervisor;
            (entry, t.address(width, false))
        }
        1 => {
            let address = t.address(bits, true);
            let stage = Stage { first: true, top: t.page(), levels: (bits - 12) / 9, io: false };
            let level = t.level();
            t.map(stage, address, to, level, &mut |_, host| host);
            (PasidEntry::first_stage(rest(t, stage.top), domain), address)
        }
        2 => {
            let address = t.address(width.bits().min(Cap(t.profile.cap).mgaw()), false);
            let stage = t.second(width, io, address, to);
            let mut entry = PasidEntry::second_stage(both(stage.top), domain);
            entry.0[2] |= u64::from(ecap.srs() && half(t));
            (entry, address)
        }
        _ => {
            let address = t.address(bits, true);
            let second = Stage { first: false, top: t.page(), levels: width.levels(), io };
            let mut guest = move |t: &mut Tables, host: u64| {
                let named = host | GUEST;
                t.map(second, named, host, 1, &mut |_, host| host);
                named
            };
            let top = t.page();
            let named = guest(t, top);
            let first = Stage { first: true, top, levels: (bits - 12) / 9, io: false };
            let level = t.level();
            // Where the guest's page is, clear of its tables.
            let page = if t.one_in(10) { t.place() } else { 1 << 38 | t.random.bits() & (GIB - 1) };
            t.map(first, address, page, level, &mut guest);
            let inner = t.level();
            let place = page & pages::leaf_address(level) | address & (pages::size(level) - 1);
            t.map(second, place, to, inner, &mut |_, host| host);
            (PasidEntry::nested(rest(t, named), both(second.top), domain), address)
        }
    };
    if ecap.smpwcs() && !t.one_in(4) {
        entry = entry.with_walk_snoop();
    }
    if ecap.sc() && half(t) {
        entry = entry.with_page_snoop();
    }
    if (kind < 2) && (ecap.ssts() || !t.one_in(3)) {
        entry = entry.with_width(width);
    }
    if ecap.mts() && t.one_in(3) {
        entry = entry.with_memory_types(half(t), half(t), 0x0006_0406);
    }
    (entry.with_fpd(t.one_in(8)), address)
}

/// Spoils what is on the way, sometimes.
fn mutate(t: &mut Tables) {
    let spoils = [0, 0, 1, 1, 1, 2][t.below(6) as usize];
    for _ in 0..spoils {
        let which = t.below(t.way.len() as u64) as usize;
        let (at, words) = t.way[which];
        let at = at + 8 * t.below(words as u64);
        let was = t.read(at);
        let now = match t.below(12) {
            0 => 0,
            1 => was & !0xfff | t.below(4096),
            2 => was & 0xfff | (END + 0x5000),
            3 => was & 0xfff | t.random.bits() & 0x000f_ffff_ffff_f000,
            4 => was & 0xfff | 0xfee0_0000,
            5 => was ^ 1 << (52 + t.below(12)),
            6 => was ^ 1 << (36 + t.below(20)),
            7 => was & !(1 << t.below(12)),
            _ => was ^ 1 << t.below(64),
        };
        let _ = t.machine.memory_mut().write64(at, now);
    }
}
