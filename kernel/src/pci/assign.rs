//! Addresses for windows, where the firmware gave none at all (qboot): below 4 GiB, above memory and configuration
//! space, a bridge's share in one piece.

use super::bars::Window;
use super::ecam;
use super::functions::Function;
use crate::boot::info::{self, Kind};
use alloc::vec::Vec;
use vtd::DeviceId;

/// Granularity of what a bridge forwards (PCI-to-PCI Bridge 3.2.5.6).
const BRIDGE_UNIT: u64 = 1 << 20;

/// Above are the interrupt controllers, the firmware and, on most machines, the remapping units.
const END: u64 = 0xfe00_0000;

/// Memory window of a bridge, and its prefetchable one.
const BRIDGE_MEMORY: u16 = 0x20;
const BRIDGE_PREFETCHABLE: u16 = 0x24;
/// Base above limit: forwards nothing.
const BRIDGE_CLOSED: u32 = 0x0000_fff0;

/// Gives every window in memory an address, if none has one.
pub fn all(functions: &mut [Function]) {
    let addresses = || functions.iter().flat_map(|f| f.windows.iter().flatten());
    let assigned = addresses().any(|w| matches!(w, Window::Memory { address, .. } if *address != 0));
    if assigned {
        return;
    }
    let low = |end: u64| Some(end).filter(|&e| e < END);
    let memory = info::get().regions().iter().filter(|r| r.kind != Kind::Reserved).filter_map(|r| low(r.end));
    let configuration =
        ecam::regions().iter().filter_map(|r| low(r.base + ((u64::from(r.last_bus - r.first_bus) + 1) << 20)));
    let mut next = memory.chain(configuration).max().unwrap_or(END).next_multiple_of(BRIDGE_UNIT);
    let buses: Vec<(u16, u8)> = ecam::regions().iter().map(|r| (r.segment, r.first_bus)).collect();
    for (segment, bus) in buses {
        next = assign(functions, segment, bus, next);
    }
}

/// Addresses for the functions of a bus and all behind it, from `next` on; where the next bus may begin.
fn assign(functions: &mut [Function], segment: u16, bus: u8, mut next: u64) -> u64 {
    let on_bus = |f: &Function| f.id.segment == segment && f.id.source.bus() == bus;
    // The largest first: no gaps between windows that are aligned to their size.
    let mut windows: Vec<(u64, DeviceId, usize)> = Vec::new();
    for f in functions.iter().filter(|f| on_bus(f)) {
        for (i, w) in f.windows.iter().enumerate() {
            if let Some(Window::Memory { size, .. }) = *w {
                windows.push((size, f.id, i));
            }
        }
    }
    windows.sort_unstable_by(|a, b| b.cmp(a));
    for (wanted, id, i) in windows {
        let at = next.next_multiple_of(wanted);
        if at + wanted > END {
            continue;
        }
        let register = 0x10 + i as u16 * 4;
        let wide = ecam::read(id, register).is_some_and(|v| v & 6 == 4);
        ecam::write(id, register, at as u32);
        if wide {
            ecam::write(id, register + 4, 0);
        }
        next = at + wanted;
        if let Some(f) = functions.iter_mut().find(|f| f.id == id)
            && let Some(Window::Memory { address, .. }) = &mut f.windows[i]
        {
            *address = at;
        }
    }
    let bridges: Vec<_> = functions.iter().filter(|f| on_bus(f)).filter_map(|f| Some((f.id, f.bridge?))).collect();
    for (id, bridge) in bridges.into_iter().filter(|(_, b)| b.secondary > bus) {
        let base = next.next_multiple_of(BRIDGE_UNIT);
        let end = assign(functions, segment, bridge.secondary, base).next_multiple_of(BRIDGE_UNIT);
        ecam::write(id, BRIDGE_PREFETCHABLE, BRIDGE_CLOSED);
        if end > base {
            let window = (base >> 16) as u32 & 0xfff0 | (end - BRIDGE_UNIT) as u32 & 0xfff0_0000;
            ecam::write(id, BRIDGE_MEMORY, window);
            next = end;
        } else {
            ecam::write(id, BRIDGE_MEMORY, BRIDGE_CLOSED);
        }
    }
    next
}
