//! Capability lists: the old one in the first 256 bytes, the extended one from byte 256 on (PCI Express 7.6). Both walks
//! end on a list that leads back into itself.

use super::ecam;
use alloc::vec::Vec;
use vtd::DeviceId;

/// Ids in the first list.
pub const MSI: u16 = 0x05;
pub const PCI_EXPRESS: u16 = 0x10;
pub const MSI_X: u16 = 0x11;

/// A capability: its id and where it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capability {
    pub id: u16,
    pub at: u16,
}

/// More than fit in configuration space, 8 bytes the shortest.
const MOST: usize = 480;

/// The first list.
pub fn list(d: DeviceId) -> Vec<Capability> {
    let mut found = Vec::new();
    let has_list = ecam::read(d, 4).is_some_and(|v| v != u32::MAX && v & 1 << 20 != 0);
    let mut at = if has_list { ecam::read(d, 0x34).unwrap_or(0) as u16 & 0xfc } else { 0 };
    while at >= 0x40 && found.len() < MOST {
        let Some(v) = ecam::read(d, at).filter(|&v| v != u32::MAX) else { break };
        found.push(Capability { id: v as u16 & 0xff, at });
        at = (v >> 8) as u16 & 0xfc;
    }
    found
}

/// The extended list.
pub fn extended(d: DeviceId) -> Vec<Capability> {
    let mut found = Vec::new();
    let mut at = 0x100;
    while at >= 0x100 && found.len() < MOST {
        let Some(v) = ecam::read(d, at).filter(|&v| v != 0 && v != u32::MAX) else { break };
        found.push(Capability { id: v as u16, at });
        at = (v >> 20) as u16 & 0xffc;
    }
    found
}

/// Where the function has the capability `id` of the first list.
pub fn find(d: DeviceId, id: u16) -> Option<u16> {
    list(d).iter().find(|c| c.id == id).map(|c| c.at)
}
