//! Devices that do DMA on demand: `edu` reads and writes, `iommu-testdev` only writes.

use crate::devices::DeviceError;
use crate::devices::edu::Edu;
use crate::devices::testdev::{PATTERN, TestDevice};
use crate::platform::KernelPlatform;
use alloc::vec::Vec;
use core::fmt;
use vtd::{DeviceId, Hpa, Vtd};

/// One of them.
#[derive(Clone, Copy, Debug)]
pub enum Engine {
    Edu(Edu),
    Test(TestDevice),
}

/// Bytes between the word that a device reads and the one that it writes.
pub const FURTHER: u64 = 16;

impl Engine {
    /// All of the machine, those that can read first, and of these those on a root bus.
    pub fn all() -> Vec<Engine> {
        let mut all: Vec<Engine> = Edu::all().map(Engine::Edu).chain(TestDevice::all().map(Engine::Test)).collect();
        all.sort_by_key(|e| (matches!(e, Engine::Test(_)), e.id().source.bus() != 0, e.id()));
        all
    }

    /// Of each group the first.
    pub fn apart(vtd: &Vtd<KernelPlatform>) -> Vec<Engine> {
        let mut groups = Vec::new();
        let mut all = Engine::all();
        all.retain(|e| match vtd.group_of(e.id()) {
            Ok(g) if !groups.contains(&g) => {
                groups.push(g);
                true
            }
            _ => false,
        });
        all
    }

    /// Its place on the bus.
    pub fn id(&self) -> DeviceId {
        match self {
            Engine::Edu(e) => e.id(),
            Engine::Test(t) => t.id(),
        }
    }

    /// Whether it can read.
    pub fn reads(&self) -> bool {
        matches!(self, Engine::Edu(_))
    }

    /// What it writes, after it has read `value`.
    pub fn writes(&self, value: u32) -> u32 {
        if self.reads() { value } else { PATTERN }
    }

    /// Begins to read a word at `iova`; a device that cannot does nothing.
    pub fn begin_read(&self, iova: u64) -> Result<(), DeviceError> {
        match self {
            Engine::Edu(e) => e.start(iova, 0, 4, false),
            Engine::Test(_) => Ok(()),
        }
    }

    /// Begins to write a word to `iova`. Whether it arrived is to be seen in memory; `memory` is where that is.
    pub fn begin_write(&self, iova: u64, memory: Hpa) -> Result<(), DeviceError> {
        match self {
            Engine::Edu(e) => e.start(iova, 0, 4, true),
            Engine::Test(t) => {
                t.write(iova, memory.get(), 4);
                Ok(())
            }
        }
    }

    /// Waits for the end of what was begun.
    pub fn finish(&self) -> Result<(), DeviceError> {
        match self {
            Engine::Edu(e) => e.finish(),
            Engine::Test(_) => Ok(()),
        }
    }

    /// Reads a word.
    pub fn read(&self, iova: u64) -> Result<(), DeviceError> {
        self.begin_read(iova)?;
        self.finish()
    }

    /// Writes a word.
    pub fn write(&self, iova: u64, memory: Hpa) -> Result<(), DeviceError> {
        self.begin_write(iova, memory)?;
        self.finish()
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Engine::Edu(e) => write!(f, "edu {}", e.id()),
            Engine::Test(t) => write!(f, "testdev {}", t.id()),
        }
    }
}
