//! What an invalidation asks the caches to forget, whether it came as a descriptor or through a register (6.5).

use crate::bus::Bus;
use crate::request::{Pasid, SourceId};
use crate::unit::Unit;

/// A range of pages of a page-selective invalidation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pages {
    /// The first page's address, aligned to the whole.
    pub address: u64,
    /// AM: 2^AM pages of 4 KiB.
    pub order: u8,
    /// IH: only leaf entries changed.
    pub leaf_only: bool,
}

/// An invalidation of the unit's own caches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Invalidation {
    /// `cc` global.
    Contexts,
    /// `cc` domain.
    ContextsOfDomain(u16),
    /// `cc` device: domain (legacy mode only), source, function mask 0 to 3.
    ContextOfDevice {
        /// DID; not looked at in scalable mode.
        domain: u16,
        /// SID.
        source: SourceId,
        /// FM.
        mask: u8,
    },
    /// `pc` global.
    Pasids,
    /// `pc` domain.
    PasidsOfDomain(u16),
    /// `pc` PASID in domain.
    PasidOfDomain(u16, Pasid),
    /// `iotlb` global.
    Iotlb,
    /// `iotlb` domain.
    IotlbOfDomain(u16),
    /// `iotlb` page in domain.
    IotlbPages(u16, Pages),
    /// `p_iotlb` PASID.
    PasidIotlb(u16, Pasid),
    /// `p_iotlb` page.
    PasidIotlbPages(u16, Pasid, Pages),
    /// `iec` global.
    Interrupts,
    /// `iec` index: first index, and the mask's width.
    InterruptsAt(u16, u8),
    /// `hpt`, any granularity: the whole host permission table cache.
    HostPermissions,
    /// Everything that SRTP with CAP.ESRTPS, or TE 1 to 0 on units with scalable mode, drops (6.6, 11.4.4).
    Everything,
}

impl Unit {
    /// An invalidation that software asked for, or that a command brings, takes effect. Units that need write buffers flushed
    /// do that first (6.8).
    pub(crate) fn invalidate(&mut self, bus: &mut dyn Bus, what: Invalidation) {
        if self.profile.rwbf() {
            bus.flush_write_buffers();
        }
        self.watch_invalidation(bus, &what);
        self.commands.forgot(&what, self.state.mode);
        self.forget(what);
    }
}
