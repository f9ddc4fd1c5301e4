//! QEMU's teaching device `edu` (1234:11e8): a DMA engine with a buffer of 4 KiB, and an interrupt on demand.
//!
//! A transfer takes about 100 ms of the machine's time and says nothing about errors: whether it reached memory is to be
//! seen there, and in the unit's fault records.

use super::DeviceError;
use crate::pci::{self, Function};
use crate::time;
use vtd::{DeviceId, Message, Mmio, Nanos, Registers};

const IDENTIFICATION: u32 = 0x00;
const LIVENESS: u32 = 0x04;
const STATUS: u32 = 0x24;
const RAISE: u32 = 0x60;
const ACKNOWLEDGE: u32 = 0x64;
const SOURCE: u32 = 0x80;
const DESTINATION: u32 = 0x88;
const COUNT: u32 = 0x90;
const COMMAND: u32 = 0x98;

/// Low 16 bits of the identification.
const MAGIC: u32 = 0xed;
const COMMAND_RUN: u64 = 1;
const COMMAND_TO_MEMORY: u64 = 2;

/// The buffer's address on the device's side. QEMU ends when a transfer leaves it.
const BUFFER: u64 = 0x40000;
/// Bytes of the buffer.
pub const BUFFER_SIZE: u64 = 4096;

/// How long a transfer may take.
const PATIENCE: Nanos = Nanos::millis(5000);

/// One such device.
#[derive(Clone, Copy, Debug)]
pub struct Edu {
    function: Function,
    registers: Mmio,
}

impl Edu {
    /// The machine's devices of this kind, made ready for DMA.
    pub fn all() -> impl Iterator<Item = Edu> {
        pci::find(0x1234, 0x11e8).filter_map(Edu::open)
    }

    fn open(function: &Function) -> Option<Edu> {
        let registers = function.map(0)?;
        if registers.read32(IDENTIFICATION) & 0xffff != MAGIC {
            return None;
        }
        function.set_bus_master(true);
        Some(Edu { function: *function, registers })
    }

    /// Its place on the bus.
    pub fn id(&self) -> DeviceId {
        self.function.id
    }

    /// Whether the registers answer: what is written comes back inverted.
    pub fn is_alive(&self) -> bool {
        self.registers.write32(LIVENESS, 0x1234_5678);
        self.registers.read32(LIVENESS) == !0x1234_5678
    }

    /// Has the device read `len` bytes at `iova` into its buffer at `offset`.
    pub fn read_memory(&self, iova: u64, offset: u64, len: u64) -> Result<(), DeviceError> {
        self.start(iova, offset, len, false)?;
        self.finish()
    }

    /// Has the device write `len` bytes of its buffer from `offset` on to `iova`.
    pub fn write_memory(&self, iova: u64, offset: u64, len: u64) -> Result<(), DeviceError> {
        self.start(iova, offset, len, true)?;
        self.finish()
    }

    /// Begins a transfer, to memory or from it.
    pub fn start(&self, iova: u64, offset: u64, len: u64, to_memory: bool) -> Result<(), DeviceError> {
        if len == 0 || offset.checked_add(len).is_none_or(|end| end > BUFFER_SIZE) || self.is_busy() {
            return Err(DeviceError::Refused);
        }
        let buffer = BUFFER + offset;
        let (source, destination) = if to_memory { (buffer, iova) } else { (iova, buffer) };
        self.registers.write64(SOURCE, source);
        self.registers.write64(DESTINATION, destination);
        self.registers.write64(COUNT, len);
        self.registers.write64(COMMAND, COMMAND_RUN | if to_memory { COMMAND_TO_MEMORY } else { 0 });
        Ok(())
    }

    /// Whether a transfer is under way.
    pub fn is_busy(&self) -> bool {
        self.registers.read64(COMMAND) & COMMAND_RUN != 0
    }

    /// Waits for the transfer to end.
    pub fn finish(&self) -> Result<(), DeviceError> {
        if time::wait_until(PATIENCE, || !self.is_busy()) { Ok(()) } else { Err(DeviceError::TimedOut) }
    }

    /// Has the device interrupt by `message`; false where it cannot.
    pub fn set_message(&self, message: Message) -> bool {
        self.function.set_msi(message)
    }

    /// Takes the message away.
    pub fn clear_message(&self) {
        self.function.clear_msi();
    }

    /// Has the device interrupt for the reasons `bits`.
    pub fn raise(&self, bits: u32) {
        self.registers.write32(RAISE, bits);
    }

    /// The reasons for which it interrupts, made none.
    pub fn acknowledge(&self) -> u32 {
        let bits = self.registers.read32(STATUS);
        self.registers.write32(ACKNOWLEDGE, bits);
        bits
    }
}
