//! Tests of translation: a unit, and tables built for it.

mod ats;
mod cached;
mod explained;
mod first;
mod legacy;
mod nested;
mod pages;
mod permissions;
mod random;
mod scalable;
mod second;
mod speed;

use crate::formats::{
    ContextEntry, FirstStageEntry, PasidDirectoryEntry, PasidEntry, RootEntry, ScalableContextEntry, ScalableRootEntry,
    SecondStageEntry,
};
use crate::memory::Ram;
use crate::profile::Profile;
use crate::reason::Reason;
use crate::request::{Access, Answer, Kind, Pasid, Passed, Request, SourceId, Translated};
use crate::state::{Mode, State};
use crate::testing::TestBus;
use crate::unit::{Size, Unit};

/// Bus 1, device 2, function 3.
const SOURCE: SourceId = 0x0113;
/// Where there is no memory, though the host has such addresses.
const NOWHERE: u64 = 1 << 40;
const ROOT: u64 = 0x1000;
const ATS: Kind = Kind::Translation { no_write: false };
const ATS_READ: Kind = Kind::Translation { no_write: true };

/// A unit that translates, its memory, and tables in it.
struct Scene {
    unit: Unit,
    bus: TestBus,
    next: u64,
}

impl Scene {
    fn new(profile: Profile, mode: Mode) -> Self {
        let mut unit = Unit::new(profile, 1);
        unit.state = State { translation: true, mode, root: ROOT, ..State::default() };
        let mut bus = TestBus::new();
        bus.ram = Ram::new(NOWHERE);
        Scene { unit, bus, next: 0x10_0000 }
    }
    fn legacy() -> Self {
        Scene::new(Profile::maximal(), Mode::Legacy)
    }
    fn scalable() -> Self {
        Scene::new(Profile::maximal(), Mode::Scalable)
    }
    /// A page of zeros for a table.
    fn page(&mut self) -> u64 {
        self.next += 0x1000;
        self.next
    }
    fn put(&mut self, at: u64, words: &[u64]) {
        self.bus.put(at, words);
    }
    fn get(&self, at: u64) -> u64 {
        self.bus.get(at)
    }

    /// Where the context entry of a source in legacy mode is; makes its table.
    fn context_at(&mut self, source: SourceId) -> u64 {
        let root = ROOT + 16 * u64::from(source >> 8);
        if self.get(root) & 1 == 0 {
            let table = self.page();
            self.put(root, &RootEntry::new(table).0);
        }
        (self.get(root) & !0xfff) + 16 * u64::from(source & 0xff)
    }
    fn context(&mut self, source: SourceId, entry: ContextEntry) {
        let at = self.context_at(source);
        self.put(at, &entry.0);
    }
    /// The same in scalable mode.
    fn scalable_context_at(&mut self, source: SourceId) -> u64 {
        let half = ROOT + 16 * u64::from(source >> 8) + 8 * u64::from(source >> 7 & 1);
        if self.get(half) & 1 == 0 {
            let table = self.page();
            self.put(half, &[ScalableRootEntry::new(Some(table), None).0[0]]);
        }
        (self.get(half) & !0xfff) + 32 * u64::from(source & 0x7f)
    }
    /// Where the PASID entry of a source is; makes the tables that lead to it. All features of the device are on.
    fn pasid_at(&mut self, source: SourceId, pasid: Pasid) -> u64 {
        let at = self.scalable_context_at(source);
        if self.get(at) & 1 == 0 {
            let profile = self.unit.profile().clone();
            let directory = self.page();
            let entry = ScalableContextEntry::new(directory, 0)
                .with(ScalableContextEntry::DTE, u64::from(profile.dt()))
                .with(ScalableContextEntry::PASIDE, u64::from(profile.pasid()))
                .with(ScalableContextEntry::PRE, u64::from(profile.prs()))
                .with(ScalableContextEntry::EPTR, u64::from(profile.ptrs()));
            self.put(at, &entry.0);
        }
        let slot = (self.get(at) & !0xfff) + 8 * u64::from(pasid >> 6);
        if self.get(slot) & 1 == 0 {
            let table = self.page();
            self.put(slot, &PasidDirectoryEntry::new(table).0);
        }
        (self.get(slot) & !0xfff) + 64 * u64::from(pasid & 0x3f)
    }
    fn pasid(&mut self, source: SourceId, pasid: Pasid, entry: PasidEntry) {
        let at = self.pasid_at(source, pasid);
        self.put(at, &entry.0);
    }
    /// The context entry changed by `change`.
    fn change_context(&mut self, change: impl Fn(ScalableContextEntry) -> ScalableContextEntry) {
        let at = self.scalable_context_at(SOURCE);
        let words = [0, 8, 16, 24].map(|offset| self.get(at + offset));
        self.put(at, &change(ScalableContextEntry(words)).0);
    }
    /// The entry of second-stage tables that serves 2^`bits` addresses from `address` on; makes the tables above it.
    fn second_at(&mut self, top: u64, levels: u32, address: u64, bits: u32) -> u64 {
        let (mut table, mut now) = (top, 3 + 9 * levels);
        while now > bits {
            let at = table + (address >> now & 0x1ff) * 8;
            if self.get(at) & 3 == 0 {
                let next = self.page();
                self.put(at, &SecondStageEntry::new(next).0);
            }
            table = SecondStageEntry([self.get(at)]).address();
            now -= 9;
        }
        table + (address >> bits & 0x1ff) * 8
    }
    fn map_second(&mut self, top: u64, levels: u32, address: u64, bits: u32, entry: SecondStageEntry) -> u64 {
        let at = self.second_at(top, levels, address, bits);
        self.put(at, &entry.0);
        at
    }
    /// The same for first-stage tables.
    fn first_at(&mut self, top: u64, levels: u32, address: u64, bits: u32) -> u64 {
        let (mut table, mut now) = (top, 3 + 9 * levels);
        while now > bits {
            let at = table + (address >> now & 0x1ff) * 8;
            if self.get(at) & 1 == 0 {
                let next = self.page();
                self.put(at, &FirstStageEntry::new(next).0);
            }
            table = FirstStageEntry([self.get(at)]).address();
            now -= 9;
        }
        table + (address >> bits & 0x1ff) * 8
    }
    fn map_first(&mut self, top: u64, levels: u32, address: u64, bits: u32, entry: FirstStageEntry) -> u64 {
        let at = self.first_at(top, levels, address, bits);
        self.put(at, &entry.0);
        at
    }

    /// The MTRRs say write-back everywhere.
    fn write_back(&mut self) {
        self.unit.write(&mut self.bus, 0x108, Size::Quad, 1 << 11 | 6);
    }
    /// A request, with the promise that its explanation comes to the same if memory does its part.
    fn ask(&mut self, request: Request) -> Answer {
        let explained = self.unit.explain(&mut self.bus, &request).answer;
        let answer = self.unit.request(&mut self.bus, &request);
        assert!(self.bus.refuses || explained == answer, "{explained:?} {answer:?}");
        answer
    }
    fn passed(&mut self, request: Request) -> Passed {
        match self.ask(request) {
            Answer::Passed(passed) => passed,
            other => panic!("{other}\n{}", self.unit.explain(&mut self.bus, &request)),
        }
    }
    fn translated(&mut self, request: Request) -> Translated {
        match self.ask(request) {
            Answer::Translated(translated) => translated,
            other => panic!("{other}\n{}", self.unit.explain(&mut self.bus, &request)),
        }
    }
    /// Why a request is blocked. It is recorded if it is to be.
    fn blocked(&mut self, request: Request) -> Reason {
        match self.ask(request) {
            Answer::Blocked(fault) => {
                assert_eq!(fault.completion, fault.reason.completion(request.kind));
                assert_eq!(self.recorded(), fault.recordable.then_some(fault.reason));
                fault.reason
            }
            other => panic!("{other}\n{}", self.unit.explain(&mut self.bus, &request)),
        }
    }
    /// Why a translation request gets nothing, with success, unrecorded.
    fn nothing(&mut self, request: Request) -> Reason {
        let translated = self.translated(request);
        assert_eq!((translated.read, translated.write, self.recorded()), (false, false, None));
        translated.because.expect("a reason")
    }
    /// The fault that the unit has recorded since the last look.
    fn recorded(&mut self) -> Option<Reason> {
        let word = self.unit.faults.read(0, 3);
        self.unit.clear_fault(0);
        self.unit.faults.rewind();
        (word >> 31 == 1).then_some(Reason(word as u8))
    }
}

fn read(address: u64) -> Request {
    Request::new(SOURCE, Access::Read, address)
}
fn write(address: u64) -> Request {
    Request::new(SOURCE, Access::Write, address)
}
fn atomic(address: u64) -> Request {
    Request::new(SOURCE, Access::Atomic, address)
}
fn flush(address: u64) -> Request {
    Request::new(SOURCE, Access::Flush, address)
}
