//! Tables of every kind, requests through them, and changes to them with the invalidations that these need.

use std::collections::BTreeMap;

use super::queue::{Cover, Descriptor, contexts, iotlb, pasid_iotlb, pasids};
use super::*;
use crate::differential::form::Tables;
use crate::differential::layout::{DATA, DATA_PAGES, HOLES, HUGE, LARGE};
use crate::differential::registers::{CCMD, IOTLB, IVA};

/// The bits of an entry that are an address.
pub const ADDRESS: u64 = 0xf_ffff_ffff_f000;
const LARGE_PAGE: u64 = 1 << 7;

/// How a domain translates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    First,
    Second,
    PassThrough,
}

/// Tables under a domain id.
struct Domain {
    id: u16,
    stage: Stage,
    top: u64,
    levels: u8,
    mappings: Vec<Mapping>,
}

/// A leaf.
#[derive(Clone, Copy, Debug)]
struct Mapping {
    at: u64,
    /// 1 for 4 KiB.
    level: u8,
    /// Where its entry lies, and the entry above.
    entry: u64,
    above: u64,
}

/// What a case's tables are.
struct World {
    scalable: bool,
    root: u64,
    domains: Vec<Domain>,
    /// The domain of each device, and where its entry lies: the context entry, or that of the PASID.
    devices: BTreeMap<Device, (usize, u64)>,
    /// Gigabytes that `edu` uses in one direction only, as QEMU keeps rights that a later access may find wanting.
    direction: BTreeMap<u64, bool>,
}

impl Stage {
    fn pgtt(self) -> u64 {
        match self {
            Stage::First => 1,
            Stage::Second => 2,
            Stage::PassThrough => 4,
        }
    }

    /// What an entry has that points to a table, and what a leaf has.
    fn bits(self) -> (u64, u64) {
        match self {
            // Accessed and dirty, which in a pointer means nothing.
            Stage::First => (0x67, 0x67),
            _ => (3, 3),
        }
    }

    /// Bits that no unit looks at: of every entry, and besides of leaves.
    fn ignored(self) -> (u64, u64) {
        const HIGH: u64 = 0x1ff << 52 | 1 << 63;
        match self {
            Stage::First => (HIGH | 3 << 61 | 0xf18, 0),
            _ => (HIGH | 1 << 61 | 7 << 8 | 1 << 2, 0xf << 3),
        }
    }

    fn number(self) -> u8 {
        if self == Stage::First { 1 } else { 2 }
    }
}

fn index(at: u64, level: u8) -> u64 {
    at >> (3 + 9 * u32::from(level)) & 0x1ff
}

fn size(level: u8) -> u64 {
    1 << (3 + 9 * u32::from(level))
}

impl Maker {
    /// A case about tables.
    pub fn tables(&mut self) {
        let scalable = self.form.tables != Tables::Legacy && !self.random.percent(10);
        self.upper = scalable && self.form.tables == Tables::FirstStage && self.random.percent(10);
        let root = self.frame();
        let mut world =
            World { scalable, root, domains: Vec::new(), devices: BTreeMap::new(), direction: BTreeMap::new() };
        for number in 0..1 + self.random.below(3) {
            let domain = self.domain(number as u16, scalable);
            world.domains.push(domain);
        }
        for device in Device::ALL {
            if !self.random.percent(if scalable && !self.deviant { 0 } else { 8 }) {
                self.attach(&mut world, device);
            }
        }
        if !self.upper && !self.form.marks() {
            self.mutate(scalable);
        }
        self.start(&world);
        for _ in 0..3 + self.random.below(6) {
            self.act(&mut world);
        }
    }

    /// Whether blocked requests have to be avoided, as QEMU gives other reasons for most.
    fn quiet(&self, world: &World) -> bool {
        self.upper || self.form.marks() || world.scalable && self.form.tables == Tables::SecondStage && !self.deviant
    }

    fn domain(&mut self, number: u16, scalable: bool) -> Domain {
        let id = match self.random.below(4) {
            0 => 0xffff - number,
            1 => 0x100 + number,
            _ => 1 + number,
        };
        let stage = match (self.random.percent(10), self.form.tables, scalable) {
            (true, ..) => Stage::PassThrough,
            (_, Tables::FirstStage, true) => Stage::First,
            _ => Stage::Second,
        };
        let levels = match stage {
            Stage::First => 4,
            _ if self.form.width == 39 || self.random.percent(30) => 3,
            _ => 4,
        };
        let top = self.frame();
        let mut domain = Domain { id, stage, top, levels, mappings: Vec::new() };
        if stage != Stage::PassThrough {
            for _ in 0..1 + self.random.below(5) {
                let (at, level) = self.place(&domain);
                self.map(&mut domain, at, level);
            }
        }
        domain
    }

    /// An input address, most of the time near to one that is in use.
    fn place(&mut self, domain: &Domain) -> (u64, u8) {
        let level = match self.random.below(10) {
            0..6 => 1,
            6..9 => 2,
            _ => 3,
        };
        let mut at = match domain.mappings.as_slice() {
            [] => 0,
            mappings if self.random.percent(60) => self.pick(mappings).at,
            _ => 0,
        };
        for step in 1..=domain.levels {
            if at == 0 || self.random.percent(if step == level { 90 } else { 20 }) {
                let random = self.random.below(512);
                let index = self.pick(&[0, 1, 2, 511, random]);
                let shift = 3 + 9 * u32::from(step);
                at = at & !(0x1ff << shift) | index << shift;
            }
        }
        (self.legal(domain, at) & !(size(level) - 1), level)
    }

    /// The address within what the domain's tables can translate.
    fn legal(&self, domain: &Domain, at: u64) -> u64 {
        let bits = 12 + 9 * u32::from(domain.levels);
        let low = at & ((1 << bits) - 1);
        match domain.stage {
            Stage::First if low >> 47 != 0 && self.upper => low | !((1 << 48) - 1),
            Stage::First => low & ((1 << 47) - 1),
            _ => low,
        }
    }

    /// A page for devices.
    fn target(&mut self, level: u8) -> u64 {
        match level {
            1 => self.pick(&DATA) + 0x1000 * self.random.below(DATA_PAGES),
            2 => self.pick(&LARGE),
            _ => self.pick(&HUGE),
        }
    }

    fn map(&mut self, domain: &mut Domain, at: u64, level: u8) {
        let (pointer, leaf) = domain.stage.bits();
        let stage = domain.stage.number();
        let (mut table, mut above) = (domain.top, 0);
        for step in (level + 1..=domain.levels).rev() {
            above = table + 8 * index(at, step);
            let mut entry = self.word(above);
            if domain.mappings.iter().any(|mapping| mapping.entry == above) {
                return;
            }
            if entry == 0 {
                entry = self.frame() | self.unmark(pointer) | self.noise(domain.stage.ignored().0);
                self.set(above, entry);
                self.note(above, Part::Entry(stage, step));
            }
            table = entry & ADDRESS;
        }
        let entry = table + 8 * index(at, level);
        if self.word(entry) != 0 {
            return;
        }
        let (ignored, of_leaves) = domain.stage.ignored();
        let mut word = self.target(level) | self.unmark(leaf) | self.noise(ignored | of_leaves);
        if level > 1 {
            word |= LARGE_PAGE;
        } else if self.random.percent(5) && domain.stage == Stage::Second {
            // It means nothing here.
            word |= LARGE_PAGE;
        }
        self.set(entry, word);
        self.note(entry, Part::Entry(stage, level));
        domain.mappings.push(Mapping { at, level, entry, above });
    }

    /// The entry with its accessed and dirty bits, or without.
    fn unmark(&mut self, bits: u64) -> u64 {
        const BOTH: u64 = 3 << 5;
        match self.random.below(2000) {
            _ if !self.form.marks() => bits,
            // One of the two: QEMU leaves it so.
            0 => bits & !(1 << 6),
            1 => bits & !(1 << 5),
            // Neither: a read leaves one of them, and a write after it is what QEMU does otherwise.
            2..700 => bits & !BOTH,
            _ => bits,
        }
    }

    /// Some of these bits, seldom.
    fn noise(&mut self, bits: u64) -> u64 {
        if self.random.percent(15) { self.random.bits() & bits } else { 0 }
    }

    /// Gives a device its way into the tables.
    fn attach(&mut self, world: &mut World, device: Device) {
        let which = self.random.below(world.domains.len() as u64) as usize;
        let source = u64::from(device.source());
        let (bus, function) = (source >> 8, source & 0xff);
        let root = world.root + 16 * bus;
        if !world.scalable {
            let table = self.table_at(root, Part::Root);
            let at = table + 16 * function;
            let [low, high] = self.context(&world.domains[which]);
            self.set(at, low);
            self.set(at + 8, high);
            self.note(at, Part::Context);
            world.devices.insert(device, (which, at));
            return;
        }
        let table = self.table_at(root + 8 * (function >> 7), Part::Root);
        let at = table + 32 * (function & 0x7f);
        let (directory, pasids) = (self.frame(), self.frame());
        let reach = self.random.below(8);
        self.set(at, directory | 1 | reach << 9);
        self.note(at, Part::Context);
        self.set(directory, pasids | 1);
        self.note(directory, Part::Directory);
        for (word, value) in (0..).zip(self.pasid_entry(&world.domains[which])) {
            self.set(pasids + 8 * word, value);
        }
        self.note(pasids, Part::PasidEntry);
        world.devices.insert(device, (which, pasids));
    }

    /// The table that a root entry points to.
    fn table_at(&mut self, entry: u64, part: Part) -> u64 {
        if self.word(entry) == 0 {
            let table = self.frame();
            self.set(entry, table | 1);
            self.note(entry, part);
        }
        self.word(entry) & ADDRESS
    }

    fn context(&mut self, domain: &Domain) -> [u64; 2] {
        let (translation, width) = match domain.stage {
            Stage::PassThrough => (2, if self.form.width == 39 { 1 } else { 2 }),
            _ => (0, u64::from(domain.levels) - 2),
        };
        let available = self.noise(0xf << 3);
        [domain.top | translation << 2 | 1, u64::from(domain.id) << 8 | available | width]
    }

    fn pasid_entry(&mut self, domain: &Domain) -> [u64; 3] {
        let (second, first, width) = match domain.stage {
            Stage::First => (0, domain.top, 2),
            Stage::Second => (domain.top, 0, u64::from(domain.levels) - 2),
            // QEMU would take it for the first stage's, were the type another.
            Stage::PassThrough => (0, 0, 2),
        };
        // PWSNP: without snooping no entry can be marked.
        let snoop = u64::from(self.form.marks()) << 23;
        [second | domain.stage.pgtt() << 6 | width << 2 | 1, u64::from(domain.id) | snoop, first]
    }

    /// Software has made the tables; now the unit is to use them.
    fn start(&mut self, world: &World) {
        self.started = Some(self.memory.clone());
        if world.scalable || self.random.percent(75) {
            let wide = world.scalable || self.form.tables != Tables::Legacy && self.random.percent(50);
            self.enable_queue(wide);
        }
        self.root(world.root | u64::from(world.scalable) << 10);
    }

    fn act(&mut self, world: &mut World) {
        if self.deviant && self.random.percent(4) {
            return self.read_and_write(world);
        }
        match self.random.below(100) {
            0..62 => self.request(world),
            62..82 => self.change(world),
            82..90 => self.invalidate_something(world),
            90 => self.off_and_on(world),
            91..95 => self.root(world.root | u64::from(world.scalable) << 10),
            _ => self.read(FSTS, Double),
        }
    }

    fn request(&mut self, world: &mut World) {
        let device = self.pick(&Device::ALL);
        let write = self.random.percent(50);
        let length = if self.random.percent(75) { 4 } else { 8 };
        let at = self.address(world, device);
        let quiet = self.quiet(world);
        let write = match device {
            Device::Edu if !self.deviant => *world.direction.entry(at >> 30).or_insert(write),
            Device::Edu => write,
            _ => true,
        };
        let interrupts = 0xfee0_0000..=0xfeef_ffff;
        // An interrupt is 4 bytes that are written.
        if interrupts.contains(&at) && (length != 4 || !write || quiet) {
            return;
        }
        self.dma(device, write, at, length);
        if self.random.percent(85) {
            self.step(Step::Acknowledge);
        }
    }

    /// An address for a request.
    fn address(&mut self, world: &World, device: Device) -> u64 {
        let offset = self.random.below(512) * 8;
        let Some((which, _)) = world.devices.get(&device) else { return self.random.below(1 << 38) & !7 };
        let domain = &world.domains[*which];
        if domain.stage == Stage::PassThrough {
            return match self.random.below(10) {
                0 => self.pick(&HOLES) + offset,
                _ => self.target(1) + offset,
            };
        }
        let some = self.random.below(512) * 0x1000 + offset;
        let mapping = match domain.mappings.as_slice() {
            [] => Mapping { at: 0, level: 1, entry: 0, above: 0 },
            mappings => self.pick(mappings),
        };
        let inside = mapping.at + if mapping.level == 1 { offset } else { some };
        if self.quiet(world) {
            return inside;
        }
        match self.random.below(100) {
            0..80 => inside,
            80..88 => self.legal(domain, mapping.at.wrapping_add(size(mapping.level)) + offset),
            88..93 => {
                let at = self.random.bits();
                self.legal(domain, at & !7)
            }
            // A bit that is too high.
            93..98 => {
                let bits = match domain.stage {
                    Stage::First => 47,
                    _ => 12 + 9 * u64::from(domain.levels),
                };
                // FRCD has the bits that tables translate; QEMU's has more.
                let end = if self.deviant { 64 } else { self.form.width.into() };
                if bits < end { inside ^ 1 << (bits + self.random.below(end - bits)) } else { inside }
            }
            _ => 0xfee0_0000 + (self.random.below(0x10_0000) & !7),
        }
    }

    /// Has `edu` read a page and then write to it, though it may not.
    fn read_and_write(&mut self, world: &mut World) {
        let Some((which, _)) = world.devices.get(&Device::Edu).copied() else { return };
        let domain = &world.domains[which];
        let (stage, id) = (domain.stage, domain.id);
        let Some(Mapping { at, level, entry, .. }) = domain.mappings.first().copied() else { return };
        let word = self.target(level) | stage.bits().1 & !2 | if level > 1 { LARGE_PAGE } else { 0 };
        self.store(&[(entry, word)]);
        self.invalidate(stage, Cover::Pages(id, at, 9 * (level - 1), true));
        for write in [false, true] {
            self.dma(Device::Edu, write, at, 4);
            self.step(Step::Acknowledge);
        }
    }

    /// Turns translation off for a while.
    fn off_and_on(&mut self, world: &World) {
        self.turn(TE, false);
        let device = self.pick(&Device::ALL);
        let at = self.target(1) + 8 * self.random.below(512);
        self.dma(device, true, at, 4);
        self.root(world.root | u64::from(world.scalable) << 10);
        self.turn(TE, true);
    }

    /// Changes one thing, and tells the unit so.
    fn change(&mut self, world: &mut World) {
        match self.random.below(10) {
            0..6 => self.change_leaf(world),
            6..8 => self.change_table(world),
            _ => self.change_device(world),
        }
    }

    fn some_mapping(&mut self, world: &World) -> Option<(usize, Mapping)> {
        let which = self.random.below(world.domains.len() as u64) as usize;
        match world.domains[which].mappings.as_slice() {
            [] => None,
            mappings => Some((which, self.pick(mappings))),
        }
    }

    fn change_leaf(&mut self, world: &mut World) {
        let Some((which, mapping)) = self.some_mapping(world) else { return };
        let stage = world.domains[which].stage;
        let entry = self.word(mapping.entry);
        let (_, leaf) = stage.bits();
        let word = match self.random.below(10) {
            0..5 => {
                self.target(mapping.level) | self.unmark(leaf) | entry & LARGE_PAGE & !u64::from(mapping.level == 1)
            }
            _ if self.quiet(world) => entry,
            5 | 6 => 0,
            7 => entry & !2,
            8 if stage == Stage::Second => entry & !1,
            _ => entry | 2,
        };
        self.store(&[(mapping.entry, word)]);
        // What QEMU may still have of the page's rights is gone with the invalidation.
        let domain = world.domains[which].id;
        let order = 9 * (mapping.level - 1);
        let only_leaf = self.random.percent(60);
        // With caching mode what was not there is kept as well.
        if self.form.name != "caching" && !self.forgetful && self.random.percent(12) {
            self.stale = true;
            let device = self.pick(&Device::ALL);
            if world.devices.get(&device).is_some_and(|(of, _)| *of == which) && (device != Device::Edu || self.deviant)
            {
                let at = mapping.at + 8 * self.random.below(512);
                self.dma(device, true, at, 4);
                self.step(Step::Acknowledge);
            }
        }
        self.invalidate(stage, Cover::Pages(domain, mapping.at, order, only_leaf));
    }

    /// Puts a new table in the place of one that holds leaves.
    fn change_table(&mut self, world: &mut World) {
        let Some((which, mapping)) = self.some_mapping(world) else { return };
        if mapping.above == 0 {
            return;
        }
        let stage = world.domains[which].stage;
        let (pointer, leaf) = stage.bits();
        let table = self.frame();
        let new = table + (mapping.entry & 0xfff);
        let large = if mapping.level > 1 { LARGE_PAGE } else { 0 };
        let word = self.target(mapping.level) | leaf | large;
        let old = self.word(mapping.above) & ADDRESS;
        self.store(&[(new, word), (mapping.above, table | pointer)]);
        let domain = &mut world.domains[which];
        // Its neighbours are gone.
        domain.mappings.retain(|one| one.entry & ADDRESS != old || one.entry == mapping.entry);
        domain.mappings.iter_mut().filter(|one| one.entry == mapping.entry).for_each(|one| one.entry = new);
        let reachable = self.reachable(domain.top, domain.levels);
        domain.mappings.retain(|one| reachable.contains(&(one.entry & ADDRESS)));
        self.invalidate(stage, Cover::Pages(domain.id, mapping.at, 9 * mapping.level, false));
    }

    /// The tables below one.
    fn reachable(&self, top: u64, levels: u8) -> Vec<u64> {
        let mut tables = vec![top];
        let mut last = vec![top];
        for _ in 1..levels {
            let mut next = Vec::new();
            for table in &last {
                let entries = self.memory.range(*table..*table + 0x1000);
                next.extend(entries.map(|(_, entry)| entry & ADDRESS).filter(|at| self.is_table(*at)));
            }
            tables.extend(&next);
            last = next;
        }
        tables
    }

    fn is_table(&self, at: u64) -> bool {
        TABLES.iter().any(|first| (*first..*first + TABLE_PAGES * 0x1000).contains(&at))
    }

    /// Gives a device another domain.
    fn change_device(&mut self, world: &mut World) {
        let device = self.pick(&Device::ALL);
        let Some((old, at)) = world.devices.get(&device).copied() else { return };
        let which = self.random.below(world.domains.len() as u64) as usize;
        let (domain, source) = (world.domains[old].id, device.source());
        if world.scalable {
            let [first, second, third] = self.pasid_entry(&world.domains[which]);
            // P last.
            self.store(&[(at, 0)]);
            self.store(&[(at + 8, second), (at + 16, third)]);
            self.store(&[(at, first)]);
        } else {
            let [low, high] = self.context(&world.domains[which]);
            self.store(&[(at, 0)]);
            self.store(&[(at + 8, high)]);
            self.store(&[(at, low)]);
        }
        world.devices.insert(device, (which, at));
        let all = self.forgetful || self.random.percent(40);
        let mut descriptors: Vec<Descriptor> = vec![contexts((!all).then_some((source, domain)))];
        if world.scalable {
            descriptors.push(pasids((!all).then_some(domain)));
        }
        descriptors.push(iotlb(if all { Cover::Global } else { Cover::Domain(domain) }));
        if self.form.name == "caching" {
            // What could not be used is kept under no domain.
            descriptors = vec![contexts(None), iotlb(Cover::Global)];
        }
        self.submit_or_write(&descriptors, all, source, domain);
        world.direction.clear();
    }

    /// An invalidation that covers this, or more.
    fn invalidate(&mut self, stage: Stage, cover: Cover) {
        let domain = match cover {
            Cover::Global => 0,
            Cover::Domain(domain) | Cover::Pages(domain, ..) => domain,
        };
        let cover = match (self.random.below(4), cover) {
            _ if self.forgetful => Cover::Global,
            (0, _) => Cover::Global,
            (1, _) => Cover::Domain(domain),
            (_, Cover::Pages(_, _, order, _)) if order > 18 => Cover::Domain(domain),
            _ => cover,
        };
        if self.queue.is_none() {
            return self.write_iotlb(cover);
        }
        let descriptor = match stage {
            Stage::First if self.random.percent(75) => pasid_iotlb(cover),
            _ => iotlb(cover),
        };
        self.submit(&[descriptor]);
    }

    fn submit_or_write(&mut self, descriptors: &[Descriptor], all: bool, source: u16, domain: u16) {
        if self.queue.is_some() {
            return self.submit(descriptors);
        }
        let command = match all || self.form.name == "caching" {
            true => 1 << 61,
            false => 3 << 61 | u64::from(source) << 16 | u64::from(domain),
        };
        self.write_quad(CCMD, 1 << 63 | command);
        self.read(CCMD, Quad);
        self.write_iotlb(if all || self.form.name == "caching" { Cover::Global } else { Cover::Domain(domain) });
    }

    fn write_iotlb(&mut self, cover: Cover) {
        let command = match cover {
            Cover::Global => 1 << 60,
            Cover::Domain(domain) => 2 << 60 | u64::from(domain) << 32,
            Cover::Pages(domain, at, order, leaf) => {
                let at = at & !((0x1000 << order) - 1);
                self.write(IVA, Quad, at | u64::from(leaf) << 6 | u64::from(order));
                3 << 60 | u64::from(domain) << 32
            }
        };
        self.write_quad(IOTLB, 1 << 63 | command | 3 << 48);
        self.read(IOTLB, Quad);
    }

    /// More than is needed never hurts.
    fn invalidate_something(&mut self, world: &World) {
        let which = self.random.below(world.domains.len() as u64) as usize;
        let (stage, id) = (world.domains[which].stage, world.domains[which].id);
        self.invalidate(stage, Cover::Domain(id));
    }

    /// Stores words, in this order.
    fn store(&mut self, words: &[(u64, u64)]) {
        self.memory.extend(words.iter().copied());
        self.step(Step::Store(words.to_vec()));
    }
}
