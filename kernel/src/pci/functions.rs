//! The functions of the machine: found bus by bus through the bridges, then on root buses that no bridge leads to.

use super::bars::{self, Window};
use super::{assign, capabilities, ecam};
use alloc::vec::Vec;
use pci_types::{CommandRegister, HeaderType, PciHeader};
use spin::Once;
use vtd::{DeviceId, Mmio};

/// What is on the other side of a bridge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bridge {
    pub secondary: u8,
    pub subordinate: u8,
}

/// A function.
#[derive(Clone, Copy, Debug)]
pub struct Function {
    pub id: DeviceId,
    pub vendor: u16,
    pub device: u16,
    /// For bridges.
    pub bridge: Option<Bridge>,
    /// Windows by register; none for bridges.
    pub windows: [Option<Window>; 6],
}

impl Function {
    /// Registers behind window `i`, mapped and answering.
    pub fn map(&self, i: usize) -> Option<Mmio> {
        let registers = bars::map(self.windows.get(i).copied()??)?;
        self.set_memory(true);
        Some(registers)
    }

    /// Has the function answer to accesses to its windows, or not.
    pub fn set_memory(&self, on: bool) {
        self.set_command(CommandRegister::MEMORY_ENABLE, on);
    }

    /// Lets the function do DMA and send MSIs, or stops it.
    pub fn set_bus_master(&self, on: bool) {
        self.set_command(CommandRegister::BUS_MASTER_ENABLE, on);
    }

    fn set_command(&self, bits: CommandRegister, on: bool) {
        let mut header = PciHeader::new(ecam::address(self.id));
        header.update_command(ecam::Ecam, |mut c| {
            c.set(bits, on);
            c
        });
    }

    /// The kind of PCI Express function (7.5.3.2: 0 endpoint, 4 root port, 7 bridge to PCI, 9 integrated endpoint);
    /// `None` for conventional PCI.
    pub fn express_type(&self) -> Option<u8> {
        let at = capabilities::find(self.id, capabilities::PCI_EXPRESS)?;
        ecam::read(self.id, at).map(|v| (v >> 20) as u8 & 0xf)
    }
}

static ALL: Once<Vec<Function>> = Once::new();

/// Looks at the whole machine.
pub fn init() {
    ecam::init();
    ALL.call_once(|| {
        let mut found = Vec::new();
        for r in ecam::regions() {
            let mut seen = [false; 256];
            scan(r.segment, r.first_bus, &mut seen, &mut found);
            // Root buses beside the first: firmware names them in a language that this kernel does not speak.
            for bus in r.first_bus..=r.last_bus {
                scan(r.segment, bus, &mut seen, &mut found);
            }
        }
        found.sort_by_key(|f| f.id);
        assign::all(&mut found);
        // What is behind a bridge is reached, and reaches memory, through it.
        for f in found.iter().filter(|f| f.bridge.is_some()) {
            f.set_memory(true);
            f.set_bus_master(true);
        }
        found
    });
}

/// Every function, in the order of their ids.
pub fn all() -> &'static [Function] {
    ALL.get().map_or(&[], |v| v)
}

/// The functions with this vendor and device id.
pub fn find(vendor: u16, device: u16) -> impl Iterator<Item = &'static Function> {
    all().iter().filter(move |f| f.vendor == vendor && f.device == device)
}

fn scan(segment: u16, bus: u8, seen: &mut [bool; 256], found: &mut Vec<Function>) {
    if core::mem::replace(&mut seen[usize::from(bus)], true) {
        return;
    }
    for device in 0..32 {
        for function in 0..8 {
            let id = DeviceId::new(segment, bus, device, function);
            let Some(ids) = ecam::read(id, 0).filter(|&v| v as u16 != 0xffff) else {
                if function == 0 { break } else { continue }
            };
            let header = PciHeader::new(ecam::address(id));
            let bridge = (header.header_type(ecam::Ecam) == HeaderType::PciPciBridge).then(|| {
                let buses = ecam::read(id, 0x18).unwrap_or(0);
                Bridge { secondary: (buses >> 8) as u8, subordinate: (buses >> 16) as u8 }
            });
            found.push(Function {
                id,
                vendor: ids as u16,
                device: (ids >> 16) as u16,
                bridge,
                windows: if bridge.is_none() { bars::read(id) } else { [None; 6] },
            });
            // A bridge that the firmware left without buses leads nowhere.
            if let Some(b) = bridge.filter(|b| b.secondary > bus) {
                scan(segment, b.secondary, seen, found);
            }
            if function == 0 && !header.has_multiple_functions(ecam::Ecam) {
                break;
            }
        }
    }
}
