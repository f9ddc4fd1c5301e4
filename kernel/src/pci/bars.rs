//! Base address registers: how large a function's windows are and where the firmware put them.

use super::ecam::{self, Ecam, address};
use crate::memory::paging;
use core::ptr::NonNull;
use pci_types::{Bar, CommandRegister, EndpointHeader, PciHeader};
use vtd::{DeviceId, Mmio};

/// A window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Window {
    /// Registers in memory.
    Memory { address: u64, size: u64, prefetchable: bool },
    /// I/O ports.
    Ports { port: u32 },
}

/// The six windows. The function does not answer to memory accesses meanwhile: sizing moves its windows about.
pub fn read(d: DeviceId) -> [Option<Window>; 6] {
    let mut windows = [None; 6];
    let mut header = PciHeader::new(address(d));
    let before = header.command(Ecam);
    let answers = CommandRegister::MEMORY_ENABLE | CommandRegister::IO_ENABLE;
    header.update_command(Ecam, |c| c.difference(answers));
    if let Some(endpoint) = EndpointHeader::from_header(PciHeader::new(address(d)), Ecam) {
        let mut slot = 0u8;
        while slot < 6 {
            // The type that means nothing, which the crate does not take.
            let raw = ecam::read(d, 0x10 + u16::from(slot) * 4).unwrap_or(0);
            let known = raw & 1 != 0 || matches!(raw >> 1 & 3, 0 | 2);
            let bar = if known { endpoint.bar(slot, Ecam) } else { None };
            let wide = matches!(bar, Some(Bar::Memory64 { .. }));
            windows[usize::from(slot)] = bar.map(|b| match b {
                Bar::Memory32 { address, size, prefetchable } => {
                    Window::Memory { address: address.into(), size: size.into(), prefetchable }
                }
                Bar::Memory64 { address, size, prefetchable } => {
                    Window::Memory { address: address & !0xf, size, prefetchable }
                }
                Bar::Io { port } => Window::Ports { port },
            });
            slot += 1 + u8::from(wide);
        }
    }
    header.update_command(Ecam, |_| before);
    windows
}

/// Registers behind a window in memory, mapped; nothing where the firmware gave it no address.
pub fn map(window: Window) -> Option<Mmio> {
    match window {
        Window::Memory { address, size, .. } if address != 0 => {
            paging::map_device(address, size).ok()?;
            let base = NonNull::new(address as *mut u8)?;
            // SAFETY: mapped uncached, for good; windows are aligned to their size.
            Some(unsafe { Mmio::new(base, u32::try_from(size).unwrap_or(u32::MAX)) })
        }
        _ => None,
    }
}
