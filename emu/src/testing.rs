//! A bus for unit tests: memory, and an inbox for everything that a unit sends.

use crate::bus::{Bus, DeviceInvalidation, GroupResponse, Snoop};
use crate::memory::{Memory, Ram};
use crate::oracle::Rule;
use crate::pace::Pace;
use crate::profile::Profile;
use crate::request::SourceId;
use crate::unit::{Size, Unit};
use alloc::collections::BTreeSet;
use alloc::vec::Vec;

/// Memory that is coherent with everyone, devices that answer at once unless they are `silent`, and what was sent, in order.
#[derive(Debug)]
pub(crate) struct TestBus {
    pub(crate) ram: Ram,
    /// Message address and data.
    pub(crate) messages: Vec<(u64, u32)>,
    pub(crate) invalidations: Vec<DeviceInvalidation>,
    pub(crate) responses: Vec<GroupResponse>,
    /// How often the write buffers were flushed.
    pub(crate) flushes: u32,
    /// What accesses that do not snoop see, where that is not `ram`.
    pub(crate) unsnooped: Option<Ram>,
    /// A word whose bit 0 a CPU turns over just before it is exchanged, so many times.
    pub(crate) race: (u64, u32),
    /// Devices that do not complete invalidations.
    pub(crate) silent: BTreeSet<SourceId>,
    /// Whether memory refuses to be compared and exchanged.
    pub(crate) refuses: bool,
}

impl TestBus {
    /// The end of memory.
    pub(crate) const END: u64 = 16 << 20;
    /// 16 MiB of zeros.
    pub(crate) fn new() -> Self {
        TestBus {
            ram: Ram::new(Self::END),
            messages: Vec::new(),
            invalidations: Vec::new(),
            responses: Vec::new(),
            flushes: 0,
            unsnooped: None,
            race: (0, 0),
            silent: BTreeSet::new(),
            refuses: false,
        }
    }
    /// Stores words one after the other.
    pub(crate) fn put(&mut self, at: u64, words: &[u64]) {
        for (n, word) in words.iter().enumerate() {
            self.ram.write64(at + 8 * n as u64, *word).expect("memory of the test");
        }
    }
    fn seen(&self, snoop: Snoop) -> &Ram {
        match (&self.unsnooped, snoop) {
            (Some(ram), Snoop::No) => ram,
            _ => &self.ram,
        }
    }
    /// Reads one word.
    pub(crate) fn get(&self, at: u64) -> u64 {
        self.ram.read64(at).expect("memory of the test")
    }
}

impl Bus for TestBus {
    fn read64(&mut self, at: u64, snoop: Snoop) -> Option<u64> {
        self.seen(snoop).read64(at)
    }
    fn read128(&mut self, at: u64, snoop: Snoop) -> Option<[u64; 2]> {
        self.seen(snoop).read128(at)
    }
    fn write64(&mut self, at: u64, v: u64) -> Option<()> {
        self.ram.write64(at, v)
    }
    fn write32(&mut self, at: u64, v: u32) -> Option<()> {
        self.ram.write32(at, v)
    }
    fn compare_exchange64(&mut self, at: u64, old: u64, new: u64) -> Option<u64> {
        if self.race.0 == at && self.race.1 != 0 {
            self.race.1 -= 1;
            let word = self.ram.read64(at)?;
            self.ram.write64(at, word ^ 1)?;
        }
        if self.refuses { None } else { self.ram.compare_exchange64(at, old, new) }
    }
    fn flush_write_buffers(&mut self) {
        self.flushes += 1;
    }
    fn message(&mut self, address: u64, data: u32) {
        self.messages.push((address, data));
    }
    fn invalidate_device(&mut self, request: DeviceInvalidation) {
        self.invalidations.push(request);
    }
    fn device_invalidated(&mut self, source: SourceId, _tag: u8) -> bool {
        !self.silent.contains(&source)
    }
    fn respond(&mut self, response: GroupResponse) {
        self.responses.push(response);
    }
}

/// A unit on a test bus.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) unit: Unit,
    pub(crate) bus: TestBus,
    /// Breaches that the test has dealt with.
    seen: usize,
}

pub(crate) const GCMD: u32 = 0x18;
pub(crate) const GSTS: u32 = 0x1c;
pub(crate) const RTADDR: u32 = 0x20;
pub(crate) const FSTS: u32 = 0x34;
pub(crate) const FECTL: u32 = 0x38;
pub(crate) const IQH: u32 = 0x80;
pub(crate) const IQT: u32 = 0x88;
pub(crate) const IQA: u32 = 0x90;
pub(crate) const IRTA: u32 = 0xb8;

impl Rig {
    pub(crate) fn new(profile: Profile, pace: Pace) -> Self {
        Rig { unit: Unit::new(profile, 1).with_pace(pace), bus: TestBus::new(), seen: 0 }
    }
    pub(crate) fn r32(&mut self, at: u32) -> u32 {
        self.unit.read(&mut self.bus, at, Size::Double) as u32
    }
    pub(crate) fn r64(&mut self, at: u32) -> u64 {
        self.unit.read(&mut self.bus, at, Size::Quad)
    }
    pub(crate) fn w32(&mut self, at: u32, v: u32) {
        self.unit.write(&mut self.bus, at, Size::Double, v.into());
    }
    pub(crate) fn w64(&mut self, at: u32, v: u64) {
        self.unit.write(&mut self.bus, at, Size::Quad, v);
    }
    pub(crate) fn step(&mut self, n: u32, nanoseconds: u64) {
        self.unit.step(&mut self.bus, n, nanoseconds);
    }
    /// Gives one command as the specification says (11.4.4.1), without waiting.
    pub(crate) fn submit(&mut self, bit: u32, set: bool) {
        let levels = self.r32(GSTS) & 0x96ff_ffff;
        self.w32(GCMD, if set { levels | bit } else { levels & !bit });
    }
    /// The same, and waits for GSTS to say that it is done.
    pub(crate) fn command(&mut self, bit: u32, set: bool) {
        self.submit(bit, set);
        assert!((0..100).any(|_| (self.r32(GSTS) & bit != 0) == (set && bit != crate::command::WBF)), "{bit:#x} hangs");
    }
    /// Nothing more was broken.
    pub(crate) fn clean(&self) {
        let new = &self.unit.oracle().breaches()[self.seen..];
        assert!(new.is_empty(), "{new:?}");
    }
    /// This rule was broken, in so many words, and nothing else since the last look.
    pub(crate) fn broke(&mut self, rule: Rule, what: &str) {
        let new = &self.unit.oracle().breaches()[self.seen..];
        let told: Vec<_> = new.iter().map(|b| (b.rule, b.what.as_str())).collect();
        assert!(told.len() == 1 && told[0].0 == rule && told[0].1.contains(what), "{told:?}");
        self.seen += 1;
    }
    /// What was broken so far is of no interest.
    pub(crate) fn forgive(&mut self) {
        self.seen = self.unit.oracle().breaches().len();
    }
}
