//! PCI: functions, windows, capability lists.

use crate::devices::edu::Edu;
use crate::devices::testdev::TestDevice;
use crate::pci::bars::Window;
use crate::pci::{self, capabilities, ecam};
use crate::{check, check_eq, skip, test};
use vtd::{DeviceId, Message, Registers};

test! {
    fn host_bridge_is_there() {
        check!(pci::all().iter().any(|f| f.id == DeviceId::new(0, 0, 0, 0)), "{} functions", pci::all().len());
        // A function that is not there, a register that is none.
        check_eq!(ecam::read(DeviceId::new(0, 0, 0, 7), 0), Some(u32::MAX));
        check_eq!(ecam::read(DeviceId::new(0, 0, 0, 0), 4096), None);
        check_eq!(ecam::read(DeviceId::new(0, 0, 0, 0), 2), None);
        check_eq!(ecam::read(DeviceId::new(77, 0, 0, 0), 0), None);
    }

    fn functions_behind_bridges_are_found() {
        let bridges = || pci::all().iter().filter_map(|f| f.bridge.map(|b| (f, b)));
        if bridges().count() == 0 {
            skip!("no bridges");
        }
        for (f, b) in bridges() {
            check!(b.secondary > f.id.source.bus() && b.subordinate >= b.secondary, "{}: {b:?}", f.id);
        }
        // Root buses beside the first are not behind a bridge, so not every function on another bus is.
        let led = |f: &pci::Function| bridges().any(|(_, b)| (b.secondary..=b.subordinate).contains(&f.id.source.bus()));
        if !pci::all().iter().any(led) {
            skip!("nothing is behind the bridges");
        }
    }

    fn capabilities_of_bridges() {
        let mut ports = 0;
        for f in pci::all().iter().filter(|f| f.bridge.is_some()) {
            // Root ports are of type 4, bridges to conventional PCI of type 7.
            if let Some(kind) = f.express_type() {
                check!(matches!(kind, 4..=8), "{} is of type {kind}", f.id);
                ports += 1;
            }
            let list = capabilities::list(f.id);
            check!(list.iter().all(|c| c.at % 4 == 0 && c.at >= 0x40), "{}: {list:x?}", f.id);
            for c in capabilities::extended(f.id) {
                check!(c.at >= 0x100 && c.id != 0, "{}: {c:x?}", f.id);
            }
        }
        if ports == 0 {
            skip!("no PCI Express bridges");
        }
    }

    fn windows_have_their_sizes() {
        for f in pci::all() {
            for window in f.windows.iter().flatten() {
                if let Window::Memory { address, size, .. } = *window {
                    check!(size.is_power_of_two() && address.is_multiple_of(size), "{}: {window:x?}", f.id);
                }
            }
        }
        for edu in Edu::all() {
            let f = pci::all().iter().find(|f| f.id == edu.id()).ok_or("edu is no function")?;
            let Some(Window::Memory { address, size, .. }) = f.windows[0] else { skip!("{:x?}", f.windows) };
            check_eq!(size, 1 << 20, "edu");
            check!(address != 0, "the firmware gave edu no address");
        }
        for device in TestDevice::all() {
            let f = pci::all().iter().find(|f| f.id == device.id()).ok_or("no function")?;
            check!(matches!(f.windows[0], Some(Window::Memory { size: 4096, .. })), "{:x?}", f.windows[0]);
        }
    }
    fn msi_x_table_takes_messages() {
        let has = |f: &&pci::Function| f.bridge.is_none() && capabilities::find(f.id, capabilities::MSI_X).is_some();
        let Some(f) = pci::all().iter().find(has) else { skip!("no function with MSI-X") };
        let at = capabilities::find(f.id, capabilities::MSI_X).ok_or("no MSI-X")?;
        let message = Message { address: 0xfee0_1000, data: 0x77 };
        check!(f.set_msi_x(0, message));
        let control = ecam::read(f.id, at).ok_or("no control")?;
        check_eq!(control >> 30, 2, "enabled and not masked");
        let table = ecam::read(f.id, at + 4).ok_or("no table")?;
        let registers = f.map((table & 7) as usize).ok_or("no window")?;
        let slot = table & !7;
        let entry = [0, 4, 8, 12].map(|i| registers.read32(slot + i));
        check_eq!(entry, [0xfee0_1000, 0, 0x77, 0]);
        check!(!f.set_msi_x(0x7ff, message), "more entries than there are");
        registers.write32(slot + 12, 1);
        ecam::write(f.id, at, control & !(1 << 31));
    }
}
