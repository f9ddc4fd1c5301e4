//! For each rule a story that breaks it, and one that keeps it narrowly.

mod devices;
mod entries;
mod memory;
mod others;
mod rest;

use super::Rule;
use crate::command::{IRE, QIE, SIRTP, SRTP, TE};
use crate::formats::{
    ContextEntry, FirstStageEntry, PasidDirectoryEntry, PasidEntry, RootEntry, ScalableContextEntry, ScalableRootEntry,
    SecondStageEntry,
};
use crate::memory::Memory;
use crate::pace::Pace;
use crate::profile::Profile;
use crate::request::{Access, Answer, Kind, Pasid, Request, SourceId};
use crate::testing::{IQA, IQT, IRTA, RTADDR, Rig};
use std::vec::Vec;

const ROOT: u64 = 0x1_0000;
const CONTEXTS: u64 = 0x1_1000;
const DIRECTORY: u64 = 0x1_2000;
const PASIDS: u64 = 0x1_3000;
const INTERRUPTS: u64 = 0x1_4000;
const QUEUE: u64 = 0x2_0000;
const STATUS: u64 = 0x2_8000;
/// Four levels of tables from here on, top first.
const TABLES: u64 = 0x3_0000;
/// The same once more.
const OTHERS: u64 = 0x4_0000;
const DATA: u64 = 0x8_0000;
/// Where DATA is mapped.
const IOVA: u64 = 0x5000;
const DEVICE: SourceId = 0x10;
const PASID: Pasid = 5;

/// Software that drives a unit by hand.
struct Software {
    rig: Rig,
    tail: u32,
}

impl Software {
    /// A unit with everything.
    fn new(profile: Profile) -> Self {
        Software { rig: Rig::new(profile, Pace::at_once()), tail: 0 }
    }
    /// Its memory, as software sees it.
    fn word(&self, at: u64) -> u64 {
        self.rig.bus.get(at)
    }
    fn store(&mut self, at: u64, v: u64) {
        let old = self.word(at);
        self.rig.bus.put(at, &[v]);
        self.rig.unit.stored(&mut self.rig.bus, at, old, v);
    }
    fn store_pair(&mut self, at: u64, v: [u64; 2]) {
        let old = [self.word(at), self.word(at + 8)];
        self.rig.bus.put(at, &v);
        self.rig.unit.stored_pair(&mut self.rig.bus, at, old, v);
    }
    /// An entry, its first word last.
    fn entry(&mut self, at: u64, words: &[u64]) {
        for (n, word) in words.iter().enumerate().rev() {
            self.store(at + 8 * n as u64, *word);
        }
    }
    /// Queue, root and TE, with the global invalidations in between.
    fn enable(&mut self, mode: u64) {
        self.rig.w64(IQT, 0);
        self.rig.w64(IQA, QUEUE | 1 << 11);
        self.rig.command(QIE, true);
        self.rig.w64(RTADDR, ROOT | mode << 10);
        self.rig.command(SRTP, true);
        let pasids: &[[u64; 2]] = if mode == 1 { &[[0x37, 0]] } else { &[] };
        self.queue(&[&[[0x11, 0]], pasids, &[[0x12, 0]]].concat());
        self.rig.command(TE, true);
        self.clean();
    }
    /// Descriptors with a wait after them.
    fn queue(&mut self, descriptors: &[[u64; 2]]) {
        self.queue_unawaited(descriptors);
        self.queue_unawaited(&[[0x25 | 1 << 32, STATUS]]);
    }
    fn queue_unawaited(&mut self, descriptors: &[[u64; 2]]) {
        for [q0, q1] in descriptors {
            self.rig.bus.put(QUEUE + u64::from(self.tail), &[*q0, *q1, 0, 0]);
            self.tail = (self.tail + 32) % 4096;
        }
        self.rig.w64(IQT, self.tail.into());
    }
    /// Four levels of second-stage tables for IOVA, from the page `tables` on, which lead to DATA.
    fn second_stage(&mut self, tables: u64) {
        for n in 0..3 {
            let index = IOVA >> (39 - 9 * n) & 511;
            self.store(tables + n * 0x1000 + index * 8, SecondStageEntry::new(tables + (n + 1) * 0x1000).0[0]);
        }
        self.store(leaf(tables), SecondStageEntry::new(DATA).0[0]);
    }
    fn first_stage(&mut self, tables: u64) {
        for n in 0..3 {
            let index = IOVA >> (39 - 9 * n) & 511;
            self.store(tables + n * 0x1000 + index * 8, FirstStageEntry::new(tables + (n + 1) * 0x1000).0[0]);
        }
        self.store(leaf(tables), FirstStageEntry::new(DATA).0[0]);
    }
    /// Legacy mode, DEVICE in domain 1 with second-stage tables at TABLES.
    fn legacy(profile: Profile) -> Self {
        let mut software = Software::new(profile);
        software.second_stage(TABLES);
        software.entry(ROOT, &RootEntry::new(CONTEXTS).0);
        software.entry(context(DEVICE), &ContextEntry::new(TABLES, 2, 1).0);
        software.enable(0);
        software
    }
    /// Scalable mode: DEVICE has a directory and a PASID table, RID_PASID is 0 and absent, PASIDs and ATS are allowed.
    fn scalable(profile: Profile) -> Self {
        let mut software = Software::new(profile);
        software.entry(DIRECTORY, &PasidDirectoryEntry::new(PASIDS).0);
        software.entry(ROOT, &ScalableRootEntry::new(Some(CONTEXTS), None).0);
        let entry = ScalableContextEntry::new(DIRECTORY, 0);
        let entry = entry.with(ScalableContextEntry::PASIDE, 1).with(ScalableContextEntry::DTE, 1);
        software.entry(scalable_context(DEVICE), &entry.0);
        software.enable(1);
        software
    }
    fn request(&mut self, request: Request) -> Answer {
        self.rig.unit.request(&mut self.rig.bus, &request)
    }
    /// A DMA read of IOVA.
    fn read(&mut self) -> Answer {
        self.request(Request::new(DEVICE, Access::Read, IOVA))
    }
    fn read_pasid(&mut self, source: SourceId, pasid: Pasid) -> Answer {
        self.request(Request::new(source, Access::Read, IOVA).with_pasid(pasid))
    }
    /// The device asks for a translation of IOVA.
    fn ask(&mut self) -> Answer {
        self.request(Request::new(DEVICE, Access::Read, IOVA).of(Kind::Translation { no_write: false }))
    }
    fn freed(&mut self, first: u64, last: u64) {
        self.rig.unit.freed(&mut self.rig.bus, first, last);
    }
    fn free_page(&mut self, page: u64) {
        self.freed(page, page + 0xfff);
    }
    fn at_rest(&mut self) {
        self.rig.unit.at_rest(&mut self.rig.bus);
    }
    /// From here on CPU stores stay in the CPU's caches until `flush`.
    fn hold_lines(&mut self) {
        self.rig.bus.unsnooped = Some(self.rig.bus.ram.clone());
    }
    fn flush(&mut self, at: u64) {
        let now = self.word(at);
        if let Some(ram) = &mut self.rig.bus.unsnooped {
            ram.write64(at, now).expect("memory of the test");
        }
    }
    /// These rules were broken, one after the other, and no other.
    fn broke(&mut self, rules: &[Rule]) {
        let found: Vec<Rule> = self.rig.unit.oracle().breaches().iter().map(|breach| breach.rule).collect();
        assert_eq!(found, rules, "{:?}", self.rig.unit.oracle().breaches().iter().map(|b| &b.what).collect::<Vec<_>>());
        self.rig.unit.oracle_mut().take();
    }
    fn clean(&mut self) {
        self.broke(&[]);
    }
}

fn context(source: SourceId) -> u64 {
    CONTEXTS + 16 * u64::from(source)
}
fn scalable_context(source: SourceId) -> u64 {
    CONTEXTS + 32 * u64::from(source)
}
fn pasid(pasid: Pasid) -> u64 {
    PASIDS + 64 * u64::from(pasid)
}
/// First-stage tables, which are walked coherently.
fn first_stage(tables: u64, domain: u16) -> PasidEntry {
    PasidEntry::first_stage(tables, false, domain).with(PasidEntry::PWSNP, 1)
}
/// The leaf entry of IOVA.
fn leaf(tables: u64) -> u64 {
    tables + 0x3000 + (IOVA >> 12) * 8
}

/// Not a caching-mode unit, and coherent.
fn profile() -> Profile {
    Profile::maximal()
}
fn caching() -> Profile {
    let mut profile = Profile::maximal();
    profile.cap |= 1 << 7;
    profile
}
fn incoherent() -> Profile {
    let mut profile = Profile::maximal();
    profile.ecap &= !(1 | 1 << 48 | 1 << 45 | 1 << 34);
    profile
}

fn cc_device(domain: u64, source: SourceId) -> [u64; 2] {
    [0x31 | domain << 16 | u64::from(source) << 32, 0]
}
fn iotlb_domain(domain: u64) -> [u64; 2] {
    [0xe2 | domain << 16, 0]
}
fn iotlb_page(domain: u64, address: u64) -> [u64; 2] {
    [0xf2 | domain << 16, address]
}
fn pc_pasid(domain: u64, pasid: Pasid) -> [u64; 2] {
    [0x17 | domain << 16 | u64::from(pasid) << 32, 0]
}
fn pasid_iotlb(domain: u64, pasid: Pasid) -> [u64; 2] {
    [0x26 | domain << 16 | u64::from(pasid) << 32, 0]
}
/// A full one.
fn dev_tlb(source: SourceId) -> [u64; 2] {
    let source = u64::from(source);
    [3 | (source & 15) << 12 | source << 32 | source >> 4 << 52, 0x7fff_ffff_ffff_f001]
}
fn dev_tlb_page(source: SourceId, address: u64) -> [u64; 2] {
    [dev_tlb(source)[0], address]
}
