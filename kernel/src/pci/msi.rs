//! Message-signalled interrupts: one message in configuration space (MSI), or a table of them in a window (MSI-X).

use super::capabilities::{self, MSI, MSI_X};
use super::ecam;
use super::functions::Function;
use vtd::{Message, Registers};

/// In the first word of both capabilities.
const MSI_ENABLE: u32 = 1 << 16;
const MSI_64_BIT: u32 = 1 << 23;
const MSI_MESSAGES: u32 = 7 << 20;
const MSI_X_ENABLE: u32 = 1 << 31;
const MSI_X_MASK: u32 = 1 << 30;

impl Function {
    /// Has the function send `message` as its one MSI; false where it has none.
    pub fn set_msi(&self, message: Message) -> bool {
        self.try_set_msi(message).is_some()
    }

    fn try_set_msi(&self, message: Message) -> Option<()> {
        let at = capabilities::find(self.id, MSI)?;
        let control = ecam::read(self.id, at)?;
        ecam::write(self.id, at, control & !MSI_ENABLE)?;
        ecam::write(self.id, at + 4, message.address as u32)?;
        let data_at = if control & MSI_64_BIT != 0 {
            // The message's upper half is for CPUs above 255 and goes through interrupt remapping.
            ecam::write(self.id, at + 8, (message.address >> 32) as u32)?;
            at + 12
        } else {
            at + 8
        };
        ecam::write(self.id, data_at, message.data)?;
        ecam::write(self.id, at, control & !MSI_MESSAGES | MSI_ENABLE)
    }

    /// Has the function send no MSI any more.
    pub fn clear_msi(&self) {
        if let Some(at) = capabilities::find(self.id, MSI) {
            let control = ecam::read(self.id, at).unwrap_or(0);
            ecam::write(self.id, at, control & !MSI_ENABLE);
        }
    }

    /// Puts `message` into entry `entry` of the function's MSI-X table and enables it; false where there is none.
    pub fn set_msi_x(&self, entry: u16, message: Message) -> bool {
        self.try_set_msi_x(entry, message).is_some()
    }

    fn try_set_msi_x(&self, entry: u16, message: Message) -> Option<()> {
        let at = capabilities::find(self.id, MSI_X)?;
        let control = ecam::read(self.id, at)?;
        if u32::from(entry) > control >> 16 & 0x7ff {
            return None;
        }
        let table = ecam::read(self.id, at + 4)?;
        let registers = self.map((table & 7) as usize)?;
        // Enabled but masked as a whole while the table is written.
        ecam::write(self.id, at, control | MSI_X_ENABLE | MSI_X_MASK)?;
        let slot = (table & !7) + u32::from(entry) * 16;
        registers.write32(slot, message.address as u32);
        registers.write32(slot + 4, (message.address >> 32) as u32);
        registers.write32(slot + 8, message.data);
        registers.write32(slot + 12, 0);
        ecam::write(self.id, at, control & !MSI_X_MASK | MSI_X_ENABLE)
    }
}
