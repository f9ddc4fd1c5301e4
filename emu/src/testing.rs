//! A bus for unit tests: memory, and an inbox for everything that a unit sends.

use crate::bus::{Bus, DeviceInvalidation, GroupResponse, Snoop};
use crate::memory::{Memory, Ram};
use crate::request::SourceId;
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
    /// Devices that do not complete invalidations.
    pub(crate) silent: BTreeSet<SourceId>,
}

impl TestBus {
    /// 16 MiB of zeros.
    pub(crate) fn new() -> Self {
        TestBus {
            ram: Ram::new(16 << 20),
            messages: Vec::new(),
            invalidations: Vec::new(),
            responses: Vec::new(),
            flushes: 0,
            silent: BTreeSet::new(),
        }
    }
    /// Stores words one after the other.
    pub(crate) fn put(&mut self, at: u64, words: &[u64]) {
        for (n, word) in words.iter().enumerate() {
            self.ram.write64(at + 8 * n as u64, *word).expect("memory of the test");
        }
    }
    /// Reads one word.
    pub(crate) fn get(&self, at: u64) -> u64 {
        self.ram.read64(at).expect("memory of the test")
    }
}

impl Bus for TestBus {
    fn read64(&mut self, at: u64, _snoop: Snoop) -> Option<u64> {
        self.ram.read64(at)
    }
    fn read128(&mut self, at: u64, _snoop: Snoop) -> Option<[u64; 2]> {
        self.ram.read128(at)
    }
    fn write64(&mut self, at: u64, v: u64) -> Option<()> {
        self.ram.write64(at, v)
    }
    fn write32(&mut self, at: u64, v: u32) -> Option<()> {
        self.ram.write32(at, v)
    }
    fn compare_exchange64(&mut self, at: u64, old: u64, new: u64) -> Option<u64> {
        self.ram.compare_exchange64(at, old, new)
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
