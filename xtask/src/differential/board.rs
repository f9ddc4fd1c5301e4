//! The machine that QEMU plays: its memory, its devices, and how they are set up without firmware.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

use super::qtest::{Qtest, Round, Ticket, Width};
use crate::machines::Machine;
use crate::setup::qemu::Qemu;

/// The remapping unit's registers.
const UNIT: u64 = 0xfed9_0000;

/// Memory: the first two of four GiB, the others from 4 GiB on.
pub const MEMORY: [(u64, u64); 2] = [(0, 0x8000_0000), (0x1_0000_0000, 0x1_8000_0000)];

/// Where something other than memory answers, first and last byte: nothing is to walk or write here.
const FORBIDDEN: &[(u64, u64)] = &[
    // Firmware and the old video memory.
    (0xa_0000, 0xf_ffff),
    // The configuration window, where firmware would put it, and what bridges and functions decode.
    (0xb000_0000, 0xbfff_ffff),
    (0xe000_0000, 0xe7ff_ffff),
    // I/O APIC, clock, unit, and the interrupt range as memory.
    (0xfec0_0000, 0xffff_ffff),
];

/// A function that reaches memory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Device {
    /// `iommu-testdev` on the root bus: writes.
    Writer,
    /// Another one whose function number is in the upper half.
    UpperWriter,
    /// One behind a root port.
    FarWriter,
    /// `edu`: reads and writes.
    Edu,
}

const BUS: u16 = 0x42;

impl Device {
    pub const ALL: [Device; 4] = [Device::Writer, Device::UpperWriter, Device::FarWriter, Device::Edu];

    /// Its requester id.
    pub const fn source(self) -> u16 {
        match self {
            Device::Writer => 0x05 << 3,
            Device::UpperWriter => 0x1e << 3,
            Device::FarWriter => BUS << 8,
            Device::Edu => 0x03 << 3,
        }
    }

    fn bar(self) -> u64 {
        match self {
            Device::Writer => 0xe000_0000,
            Device::UpperWriter => 0xe010_0000,
            Device::FarWriter => 0xe020_0000,
            Device::Edu => 0xe030_0000,
        }
    }

    fn identity(self) -> u32 {
        match self {
            Device::Edu => 0x11e8_1234,
            _ => 0x0005_1b36,
        }
    }
}

const PORT: u16 = 0x06 << 3;

/// Whether nothing but memory or a hole lies there.
pub fn harmless(at: u64) -> bool {
    FORBIDDEN.iter().all(|(first, last)| !(*first..=*last).contains(&at))
}

/// What a device of QEMU's said of a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Written {
    /// It arrived where it was looked for.
    There,
    /// It arrived elsewhere.
    Elsewhere,
    Failed,
}

impl Written {
    pub fn from_result(result: u64) -> Option<Self> {
        match result {
            0 => Some(Written::There),
            0xdead_0002 => Some(Written::Failed),
            // The memory where it was looked for cannot be read, or holds something else.
            0xdead_0003 | 0xdead_0004 => Some(Written::Elsewhere),
            _ => None,
        }
    }
}

/// The pattern that `iommu-testdev` writes.
pub const PATTERN: u32 = 0x1234_5678;

/// How long `edu` takes.
const EDU_TIME: u64 = 110_000_000;
/// Its buffer.
const EDU_BUFFER: u64 = 0x4_0000;

/// Turning translation on and off takes QEMU long, and the longer the more devices there are.
const BOARD: &str = "q35,sata=off,smbus=off,hpet=off,i8042=off,vmport=off,pit=off,graphics=off";

/// A running machine.
pub struct Board {
    pub line: Qtest,
    /// What stands in the writers' registers.
    known: BTreeMap<u64, u64>,
}

impl Board {
    pub fn start(qemu: &Qemu, machine: &Machine) -> Result<Self> {
        let devices = [
            machine.unit_device(qemu)?,
            "iommu-testdev,addr=0x5".into(),
            "iommu-testdev,addr=0x1e".into(),
            "pcie-root-port,id=port0,chassis=1,addr=0x6".into(),
            "iommu-testdev,bus=port0".into(),
            "edu,dma_mask=0xffffffffffffffff,addr=0x3".into(),
        ];
        let mut arguments: Vec<String> = ["-machine", BOARD, "-m", "4G"].map(String::from).into();
        for device in devices {
            arguments.extend(["-device".into(), device]);
        }
        let mut board = Self { line: Qtest::start(qemu, &arguments)?, known: BTreeMap::new() };
        board.set_up()?;
        Ok(board)
    }

    fn set_up(&mut self) -> Result<()> {
        let bar = Device::FarWriter.bar() as u32;
        self.line.set_config(PORT, 0x18, u32::from(BUS) << 16 | u32::from(BUS) << 8)?;
        self.line.set_config(PORT, 0x20, bar & 0xfff0_0000 | bar >> 16)?;
        self.line.set_config(PORT, 0x04, 6)?;
        for device in Device::ALL {
            let identity = self.line.config(device.source(), 0)?;
            ensure!(identity == device.identity(), "{device:?} is not where it was put, but {identity:#x} is");
            self.line.set_config(device.source(), 0x10, device.bar() as u32)?;
            self.line.set_config(device.source(), 0x04, 6)?;
        }
        Ok(())
    }

    /// A register of the unit.
    pub fn read(&mut self, register: u32, width: Width) -> Result<Ticket> {
        self.line.read(UNIT + u64::from(register), width)
    }

    pub fn write(&mut self, register: u32, width: Width, value: u64) -> Result<()> {
        self.line.write(UNIT + u64::from(register), width, value)
    }

    /// A write by one of the writers; `there` is where it is expected. The answer is its result register.
    pub fn dma_write(&mut self, device: Device, at: u64, length: u32, there: u64) -> Result<Ticket> {
        let bar = device.bar();
        for (register, value) in [
            (0x04, at & 0xffff_ffff),
            (0x08, at >> 32),
            (0x0c, length.into()),
            (0x1c, there & 0xffff_ffff),
            (0x20, there >> 32),
        ] {
            if self.known.insert(bar + register, value) != Some(value) {
                self.line.write(bar + register, Width::Double, value)?;
            }
        }
        self.line.write(bar + 0x14, Width::Double, 1)?;
        self.line.read(bar, Width::Double)?;
        self.line.read(bar + 0x10, Width::Double)
    }

    /// `edu` reads into its buffer, or writes from there. Whether it worked shows in memory only.
    pub fn edu(&mut self, write: bool, at: u64, length: u32, slot: u32) -> Result<()> {
        let bar = Device::Edu.bar();
        let buffer = EDU_BUFFER + u64::from(slot);
        let (from, to) = if write { (buffer, at) } else { (at, buffer) };
        for (register, value) in [(0x80, from), (0x88, to), (0x90, length.into()), (0x98, 1 | u64::from(write) << 1)] {
            self.line.write(bar + register, Width::Quad, value)?;
        }
        self.line.pass(EDU_TIME)
    }

    pub fn finish(&mut self) -> Result<Round> {
        self.line.finish()
    }
}
