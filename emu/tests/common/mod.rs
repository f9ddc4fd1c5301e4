//! A driver of the simplest kind for the tests: it writes registers and tables by hand.
#![allow(dead_code, reason = "each test program uses a part of it")]

use vtd_emu::{Dma, Function, FunctionId, Machine, Memory, Pace, Profile, Ram, Size, SourceId};

pub const GCMD: u32 = 0x18;
pub const GSTS: u32 = 0x1c;
pub const RTADDR: u32 = 0x20;
pub const CCMD: u32 = 0x28;
pub const FSTS: u32 = 0x34;
pub const FECTL: u32 = 0x38;
pub const FEDATA: u32 = 0x3c;
pub const FEADDR: u32 = 0x40;
pub const IQH: u32 = 0x80;
pub const IQT: u32 = 0x88;
pub const IQA: u32 = 0x90;
pub const IRTA: u32 = 0xb8;

pub const TE: u32 = 1 << 31;
pub const SRTP: u32 = 1 << 30;
pub const WBF: u32 = 1 << 27;
pub const QIE: u32 = 1 << 26;
pub const IRE: u32 = 1 << 25;
pub const SIRTP: u32 = 1 << 24;

/// Read and write.
pub const RW: u64 = 3;

pub const ROOT: u64 = 0x1000;
const QUEUE: u64 = 0x8000;
const STATUS: u64 = 0x9000;
const FIRST_FREE: u64 = 0x10_0000;

/// A machine with one unit, and what its driver remembers.
#[derive(Debug)]
pub struct Rig {
    pub m: Machine<Ram>,
    free: u64,
    tail: u32,
    turn: u64,
    /// Descriptors have 256 bits.
    wide: bool,
    /// Whether stores are flushed.
    pub careful: bool,
}

impl Rig {
    pub fn new(profile: Profile) -> Self {
        let mut m = Machine::new(Ram::new(1 << 32), 1);
        m.add_unit(profile);
        Rig { m, free: FIRST_FREE, tail: 0, turn: 0, wide: false, careful: true }
    }
    pub fn at_pace(self, pace: Pace) -> Self {
        let mut rig = self;
        rig.m.unit_mut(0).unwrap().set_pace(pace);
        rig
    }
    pub fn profile(&self) -> Profile {
        self.m.unit(0).unwrap().profile().clone()
    }

    pub fn r32(&mut self, at: u32) -> u32 {
        self.m.read(0, at, Size::Double) as u32
    }
    pub fn r64(&mut self, at: u32) -> u64 {
        self.m.read(0, at, Size::Quad)
    }
    pub fn w32(&mut self, at: u32, v: u32) {
        self.m.write(0, at, Size::Double, v.into());
    }
    pub fn w64(&mut self, at: u32, v: u64) {
        self.m.write(0, at, Size::Quad, v);
    }
    pub fn wait(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        for _ in 0..10_000 {
            if done(self) {
                return;
            }
            self.m.relax(1000);
        }
        panic!("{what} hangs");
    }
    /// A command of GCMD.
    pub fn command(&mut self, bit: u32, set: bool) {
        let levels = self.r32(GSTS) & 0x96ff_ffff;
        self.w32(GCMD, if set { levels | bit } else { levels & !bit });
        self.wait("a command", |r| (r.r32(GSTS) & bit != 0) == (set && bit != WBF));
    }

    /// Stores without flushing.
    pub fn store(&mut self, at: u64, v: u64) {
        self.m.store(at, v).unwrap();
    }
    /// Stores as a careful driver does.
    pub fn put(&mut self, at: u64, v: u64) {
        self.store(at, v);
        if self.careful {
            self.m.flush(at, 8);
            self.m.fence();
        }
    }
    pub fn get(&self, at: u64) -> u64 {
        self.m.memory().read64(at).unwrap()
    }
    /// A zeroed page that behind the caches holds anything until it is flushed.
    pub fn page(&mut self) -> u64 {
        let page = self.free;
        self.free += 4096;
        self.m.allocated(page, 4096);
        for at in (page..page + 4096).step_by(8) {
            self.store(at, 0);
        }
        if self.careful {
            self.m.flush(page, 4096);
            self.m.fence();
        }
        page
    }
    /// A frame for data.
    pub fn frame(&mut self) -> u64 {
        self.free += 4096;
        self.free - 4096
    }

    /// Legacy mode, remapping on, queued invalidation where there is a queue.
    pub fn bring_up(&mut self) {
        self.start(0);
    }
    /// Scalable mode.
    pub fn bring_up_scalable(&mut self) {
        self.wide = true;
        self.start(1);
    }
    fn start(&mut self, mode: u64) {
        if self.profile().qi() {
            self.w64(IQT, 0);
            self.w64(IQA, QUEUE | u64::from(self.wide) << 11);
            self.command(QIE, true);
        }
        self.w64(RTADDR, ROOT | mode << 10);
        self.command(SRTP, true);
        self.invalidate_all();
        self.command(TE, true);
    }
    pub fn invalidate_all(&mut self) {
        self.invalidate_contexts();
        if self.wide {
            self.submit([0x37, 0]);
        }
        self.invalidate_iotlb();
    }
    pub fn invalidate_contexts(&mut self) {
        match self.profile().qi() {
            true => self.submit([0x11, 0]),
            false => {
                self.w64(CCMD, 1 << 63 | 1 << 61);
                self.wait("CCMD", |r| r.r64(CCMD) >> 63 == 0);
            }
        }
    }
    pub fn invalidate_iotlb(&mut self) {
        match self.profile().qi() {
            true => self.submit([0x12, 0]),
            false => {
                let at = self.profile().iro() as u32 * 16 + 8;
                self.w64(at, 1 << 63 | 1 << 60);
                self.wait("IOTLB", |r| r.r64(at) >> 63 == 0);
            }
        }
    }
    /// A descriptor of 128 bits and a wait for it.
    pub fn submit(&mut self, descriptor: [u64; 2]) {
        self.queue(&[descriptor]);
        self.wait("the queue", |r| r.drained());
    }
    /// Descriptors of 128 bits and a wait for them, whose status [`Rig::drained`] reads.
    pub fn queue(&mut self, descriptors: &[[u64; 2]]) {
        self.turn += 1;
        let wait = [5 | 1 << 5 | self.turn << 32, STATUS];
        let (stride, slots) = if self.wide { (32, 128) } else { (16, 256) };
        for d in descriptors.iter().copied().chain([wait]) {
            let at = QUEUE + u64::from(self.tail) * stride;
            for (n, word) in [d[0], d[1], 0, 0].into_iter().take(stride as usize / 8).enumerate() {
                self.store(at + 8 * n as u64, word);
            }
            self.tail = (self.tail + 1) % slots;
        }
        self.w64(IQT, u64::from(self.tail) * stride);
    }
    /// The last wait has completed.
    pub fn drained(&self) -> bool {
        self.get(STATUS) & 0xffff_ffff == self.turn
    }
    /// `dev_tlb` for everything of a function; with ECAP.DIT it names the physical function as well.
    pub fn invalidate_device(&self, source: SourceId) -> [u64; 2] {
        let physical =
            if self.profile().dit() { u64::from(source & 15) << 12 | u64::from(source >> 4) << 52 } else { 0 };
        [3 | u64::from(source) << 32 | physical, 0x7fff_ffff_ffff_f001]
    }

    /// How many levels second-stage tables have here.
    fn levels(&self) -> u32 {
        if self.profile().sagaw() & 4 != 0 { 4 } else { 3 }
    }
    /// Lets a source use a second-stage table under a domain id; `tt` as in the context entry.
    pub fn attach(&mut self, source: SourceId, domain: u16, table: u64, tt: u64) {
        let root = ROOT + u64::from(source >> 8) * 16;
        if self.get(root) & 1 == 0 {
            let contexts = self.page();
            self.put(root, contexts | 1);
        }
        let entry = (self.get(root) & !0xfff) + u64::from(source & 0xff) * 16;
        self.put(entry + 8, u64::from(self.levels() - 2) | u64::from(domain) << 8);
        self.put(entry, table | tt << 2 | 1);
    }
    /// Where the entry of 4 KiB for an address stands; makes the tables on the way.
    pub fn entry(&mut self, table: u64, address: u64) -> u64 {
        let mut at = table;
        for level in (1..self.levels()).rev() {
            let entry = at + (address >> (12 + 9 * level) & 0x1ff) * 8;
            if self.get(entry) & RW == 0 {
                let next = self.page();
                self.put(entry, next | RW);
            }
            at = self.get(entry) & !0xfff;
        }
        at + (address >> 12 & 0x1ff) * 8
    }
    pub fn map(&mut self, table: u64, address: u64, to: u64, rights: u64) {
        let entry = self.entry(table, address);
        self.put(entry, to | rights);
    }
    pub fn unmap(&mut self, table: u64, address: u64) {
        let entry = self.entry(table, address);
        self.put(entry, 0);
    }

    /// Lets a source use a PASID directory, with ATS, PASIDs and page requests allowed and RID_PASID 0.
    pub fn attach_scalable(&mut self, source: SourceId, directory: u64) {
        let root = ROOT + u64::from(source >> 8) * 16 + u64::from(source >> 7 & 1) * 8;
        if self.get(root) & 1 == 0 {
            let contexts = self.page();
            self.put(root, contexts | 1);
        }
        let entry = (self.get(root) & !0xfff) + u64::from(source & 0x7f) * 32;
        self.put(entry, directory | 0x1d);
    }
    /// Where the PASID-table entry stands; makes the table.
    pub fn pasid_entry(&mut self, directory: u64, pasid: u32) -> u64 {
        let entry = directory + u64::from(pasid >> 6) * 8;
        if self.get(entry) & 1 == 0 {
            let table = self.page();
            self.put(entry, table | 1);
        }
        (self.get(entry) & !0xfff) + u64::from(pasid & 63) * 64
    }
    /// A PASID that uses a first-stage table of four levels, whose walks snoop.
    pub fn bind(&mut self, directory: u64, pasid: u32, domain: u16, table: u64) {
        let entry = self.pasid_entry(directory, pasid);
        self.put(entry + 16, table);
        self.put(entry + 8, u64::from(domain) | 1 << 23);
        self.put(entry, 1 << 6 | 1);
    }
    /// Where the first-stage entry of 4 KiB for an address stands; makes the tables on the way.
    pub fn first_entry(&mut self, table: u64, address: u64) -> u64 {
        let mut at = table;
        for level in (1..4).rev() {
            let entry = at + (address >> (12 + 9 * level) & 0x1ff) * 8;
            if self.get(entry) & 1 == 0 {
                let next = self.page();
                self.put(entry, next | 7);
            }
            at = self.get(entry) & 0x000f_ffff_ffff_f000;
        }
        at + (address >> 12 & 0x1ff) * 8
    }
    /// Maps for user requests, writable.
    pub fn map_first(&mut self, table: u64, address: u64, to: u64) {
        let entry = self.first_entry(table, address);
        self.put(entry, to | 7);
    }

    /// Where an extended capability of a function stands.
    pub fn capability(&self, source: SourceId, id: u32) -> u16 {
        let mut at = 0x100;
        while self.m.config_read(source, at) & 0xffff != id {
            at = (self.m.config_read(source, at) >> 20) as u16;
            assert_ne!(at, 0, "no such capability");
        }
        at
    }
    pub fn enable_ats(&mut self, source: SourceId) {
        let at = self.capability(source, 0xf);
        self.m.config_write(source, at + 6, Size::Word, 0x8000);
    }
    pub fn enable_pasid(&mut self, source: SourceId) {
        let at = self.capability(source, 0x1b);
        self.m.config_write(source, at + 6, Size::Word, 1);
    }
    pub fn enable_pri(&mut self, source: SourceId, allocation: u32) {
        let at = self.capability(source, 0x13);
        self.m.config_write(source, at + 12, Size::Double, allocation);
        self.m.config_write(source, at + 4, Size::Word, 1);
    }

    pub fn add(&mut self, function: Function) -> FunctionId {
        self.m.add_function(function)
    }
    /// Writes 8 bytes by DMA.
    pub fn dma_put(&mut self, f: FunctionId, dma: Dma, v: u64) -> Result<(), vtd_emu::Blocked> {
        self.m.dma_write(f, &dma, &v.to_le_bytes())
    }
    /// Reads 8 bytes by DMA.
    pub fn dma_get(&mut self, f: FunctionId, dma: Dma) -> Result<u64, vtd_emu::Blocked> {
        let mut bytes = [0; 8];
        self.m.dma_read(f, &dma, &mut bytes).map(|()| u64::from_le_bytes(bytes))
    }
    /// The oldest fault record: address, source, reason; and clears it.
    pub fn fault(&mut self) -> Option<(u64, SourceId, u8)> {
        let at = self.profile().fro() as u32 * 16;
        for n in 0..=self.profile().nfr() as u32 {
            let (low, high) = (self.r64(at + 16 * n), self.r64(at + 16 * n + 8));
            if high >> 63 != 0 {
                self.w32(at + 16 * n + 12, 1 << 31);
                return Some((low & !0xfff, high as SourceId, (high >> 32) as u8));
            }
        }
        None
    }
    /// What was broken, in words.
    pub fn breaches(&self) -> Vec<String> {
        self.m.breaches().iter().map(|(_, b)| format!("{:?}: {}", b.rule, b.what)).collect()
    }
}
